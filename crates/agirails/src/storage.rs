//! State files: connections, transactions, and what other processes do to them meanwhile.

mod backup;
#[cfg(any(feature = "keeper", feature = "paywall"))]
mod lease;
pub(crate) mod permissions;
mod schema;

use std::{
    cell::Cell,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

pub use self::backup::back_up;
#[cfg(any(feature = "keeper", feature = "paywall"))]
pub(crate) use self::lease::{ms, now_ms, take_lease};

use crate::{
    error::{Code, Error, Result, shown_path},
    fork,
    protocol::Refusal,
};

/// How long calls wait for other processes, where nothing speaks for less. One write takes
/// microseconds, so this is reached only where a process holds the file without working.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// So many tries come close behind one another: most writers are done within some ten
/// microseconds, and the runtime's timer counts in milliseconds.
const QUICK_TRIES: u32 = 8;
const QUICK_NAP: Duration = Duration::from_micros(40);
/// The longest nap between two tries at the write lock. SQLite has no queue: whoever tries
/// while the lock is free gets it, so sixteen writers must all try often.
const LONGEST_NAP_MS: u64 = 8;
/// A call touches a few rows here and there, and the log takes whole pages of them.
const PAGE_BYTES: i64 = 2_048;
/// Pages between checkpoints: 4 MB of log. Much more would make whoever opens the file after a crash
/// wait, and a copy of the file alone would lack all of it.
const CHECKPOINT_PAGES: i64 = 2_000;
/// What a log that a large answer made long is cut to.
const LOG_BYTES: i64 = 16 << 20;

/// Where the state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// In `.actp/` below this directory, which is made where it is missing. Several processes
    /// may share it.
    Directory(PathBuf),
    /// In this process's memory.
    Memory,
}

impl Storage {
    /// Whether it has this state file.
    pub(crate) fn has(&self, file: &str) -> bool {
        match self {
            Self::Directory(directory) => directory.join(".actp").join(file).exists(),
            Self::Memory => false,
        }
    }
}

/// What kind of state file, as its header and its tables tell.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    /// The file's name below `.actp/`.
    pub(crate) file: String,
    /// Whose file it is, written into it when it is opened for the first time: a file that
    /// belongs to somebody else is not used, whatever its name.
    pub(crate) identity: Option<String>,
    /// The name that an earlier version gave to it, where that is another one. Such a file is
    /// used where it lies, since processes of that version may have it open, unless it belongs
    /// to somebody else.
    pub(crate) former: Option<String>,
    /// In the file's header: the file is one of ours, of this kind.
    pub(crate) application_id: i64,
    /// The n-th step makes a file of schema n out of one of schema n - 1; a new file takes them
    /// all. Steps are only ever added. The file's header tells how many it has taken.
    pub(crate) schema: &'static [&'static str],
    /// SQLite's `synchronous`: with a write-ahead log, `NORMAL` loses nothing to a killed
    /// process and at most the last commits to a power cut, `FULL` not even those.
    pub(crate) synchronous: &'static str,
    /// How long a call waits while other processes hold the file.
    pub(crate) patience: Duration,
}

impl Format {
    /// The schema that this version reads and writes.
    fn version(&self) -> i64 {
        self.schema.len() as i64
    }
}

/// Why an attempt at the file ended early.
pub(crate) enum Stop {
    /// Another process is at it; nothing was done.
    Busy,
    /// The call failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.into())
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Failed(storage_error(error)),
        }
    }
}

pub(crate) type Attempt<T> = std::result::Result<T, Stop>;

/// One state file, shared by every clone of its kernel in this process.
#[derive(Debug)]
pub(crate) struct Store {
    format: Format,
    /// `None` in memory, where the writer's connection is the state.
    path: Option<PathBuf>,
    file: OnceLock<FileId>,
    /// SQLite lets one write at a time, so one connection writes, with its statements prepared
    /// and its pages warm.
    writer: Mutex<Option<Connection>>,
    readers: Mutex<Vec<Connection>>,
    /// Whether this process wrote since it last brought the log into the file.
    is_log_ahead: AtomicBool,
}

/// Which file a path leads to, also when the one that was there has been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(path).ok()?;
        Some(Self { device: found.dev(), inode: found.ino() })
    }

    /// Not told apart here: every client opens the file for itself.
    #[cfg(not(unix))]
    fn of(_path: &Path) -> Option<Self> {
        None
    }
}

/// What was found at a path.
enum Opened {
    Ours(Arc<Store>),
    /// It belongs to somebody else, and nothing was written to it.
    Others {
        identity: String,
    },
}

/// Every open store, for clients to share and for a fork to close.
static OPEN: Mutex<Vec<Weak<Store>>> = Mutex::new(Vec::new());

impl Store {
    /// Opens or makes the file; clients of one process share what is open already.
    ///
    /// `fill` writes the first rows of a new file.
    pub(crate) async fn open(
        storage: Storage,
        format: Format,
        fill: impl Fn(&Connection) -> Attempt<()> + Send,
    ) -> Result<Arc<Self>> {
        // Before anything is locked or connected, since another thread may fork at any time.
        fork::before_each(close_idle_connections);
        let path = match storage {
            Storage::Memory => None,
            Storage::Directory(directory) => Some(state_file(&directory, &format.file)?),
        };
        if let (Some(path), Some(former)) = (&path, &format.former) {
            let former = path.with_file_name(former);
            if former.exists()
                && let Opened::Ours(store) =
                    Self::open_at(Some(former), format.clone(), &fill).await?
            {
                return Ok(store);
            }
        }
        match Self::open_at(path.clone(), format.clone(), &fill).await? {
            Opened::Ours(store) => Ok(store),
            Opened::Others { identity } => Err(Error::new(
                Code::StorageDamaged,
                format!(
                    "{} belongs to {identity}, not to {}",
                    path.as_deref().map_or_else(|| "memory".to_owned(), shown_path),
                    format.identity.unwrap_or_default()
                ),
            )
            .with_hint("it was copied or renamed: move it away; it was left as it is")),
        }
    }

    async fn open_at(
        path: Option<PathBuf>,
        format: Format,
        fill: &(impl Fn(&Connection) -> Attempt<()> + Send),
    ) -> Result<Opened> {
        let store = Arc::new(Self {
            format,
            path,
            file: OnceLock::new(),
            writer: Mutex::default(),
            readers: Mutex::default(),
            // Tables that were made just now.
            is_log_ahead: AtomicBool::new(true),
        });
        patiently(store.format.patience, || {
            let mut open = lock(&OPEN);
            open.retain(|store| store.strong_count() > 0);
            let file = store.path.as_deref().and_then(FileId::of);
            if file.is_some()
                && let Some(twin) = open
                    .iter()
                    .filter_map(Weak::upgrade)
                    .find(|twin| twin.file.get() == file.as_ref())
            {
                return Ok(match &twin.format.identity {
                    identity if *identity == store.format.identity => Opened::Ours(twin),
                    identity => Opened::Others { identity: identity.clone().unwrap_or_default() },
                });
            }
            if let Some(path) = &store.path {
                permissions::prepare_file(path)?;
            }
            let connection = store.connect()?;
            schema::check(&connection, store.format.schema)?;
            if let Some(identity) = prepare_file(&connection, &store.format, fill)? {
                return Ok(Opened::Others { identity });
            }
            if let Some(file) = store.path.as_deref().and_then(FileId::of) {
                store.file.get_or_init(|| file);
            }
            *lock(&store.writer) = Some(connection);
            open.push(Arc::downgrade(&store));
            Ok(Opened::Ours(store.clone()))
        })
        .await
        .map_err(|error| store.explain(error))
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Runs one consistent read. `attempt` must be a single statement, or not mind a write in between.
    pub(crate) async fn read<T: Send>(
        &self,
        mut attempt: impl FnMut(&Connection) -> Attempt<T> + Send,
    ) -> Result<T> {
        patiently(self.format.patience, || {
            if self.path.is_none() {
                return attempt(self.writer(&mut self.take_writer()?)?);
            }
            let idle = lock(&self.readers).pop();
            let connection = idle.map_or_else(|| self.connect(), Ok)?;
            let outcome = attempt(&connection);
            if keeps(&outcome) {
                lock(&self.readers).push(connection);
            }
            outcome
        })
        .await
        .map_err(|error| self.explain(error))
    }

    /// Runs one transaction: all of `attempt` takes effect, or nothing.
    pub(crate) async fn write<T: Send>(
        &self,
        attempt: impl FnMut(&Connection) -> Attempt<T> + Send,
    ) -> Result<T> {
        self.write_after(Duration::ZERO, attempt).await
    }

    /// Like [`Self::write`], for callers that have waited this long already: it comes off the
    /// time for which they wait here. One attempt is always made.
    pub(crate) async fn write_after<T: Send>(
        &self,
        waited: Duration,
        mut attempt: impl FnMut(&Connection) -> Attempt<T> + Send,
    ) -> Result<T> {
        let patience = self.format.patience;
        patiently_after(patience, waited, || {
            let mut slot = self.take_writer()?;
            let connection = self.writer(&mut slot)?;
            let outcome = transact(connection, &mut attempt);
            if !keeps(&outcome) && self.path.is_some() {
                *slot = None;
            }
            self.is_log_ahead.fetch_or(outcome.is_ok(), Ordering::Relaxed);
            outcome
        })
        .await
        .map_err(|error| self.explain(error))
    }

    /// A connection for one caller alone, in a transaction that begins with these words.
    #[cfg(feature = "paywall")]
    pub(crate) async fn session(&self, begin: &str) -> Result<Connection> {
        patiently(self.format.patience, || {
            let connection = self.connect()?;
            connection.execute_batch(begin)?;
            Ok(connection)
        })
        .await
        .map_err(|error| self.explain(error))
    }

    /// What became of a step of [`Self::session`].
    #[cfg(feature = "paywall")]
    pub(crate) fn explained<T>(&self, outcome: Attempt<T>) -> Result<T> {
        outcome.map_err(|stop| match stop {
            Stop::Failed(error) => self.explain(error),
            Stop::Busy => self.explain(Error::new(Code::StorageBusy, "the state file was busy")),
        })
    }

    /// Brings what the log holds into the file, as far as no reader needs it there. Nobody waits for
    /// that. A copy of the file alone then lacks the last moments only.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        if self.path.is_none() || !self.is_log_ahead.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.read(|connection| {
            // One row: whether somebody else is at it, and how much was done.
            Ok(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
        })
        .await
    }

    fn take_writer(&self) -> Attempt<MutexGuard<'_, Option<Connection>>> {
        if may_wait() {
            return Ok(lock(&self.writer));
        }
        match self.writer.try_lock() {
            Ok(slot) => Ok(slot),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Stop::Busy),
        }
    }

    fn writer<'a>(
        &self,
        slot: &'a mut MutexGuard<'_, Option<Connection>>,
    ) -> Attempt<&'a Connection> {
        if slot.is_none() {
            **slot = Some(self.connect()?);
        }
        slot.as_ref().ok_or(Stop::Busy)
    }

    fn connect(&self) -> Attempt<Connection> {
        let connection = match &self.path {
            None => Connection::open_in_memory()?,
            Some(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                    | OpenFlags::SQLITE_OPEN_CREATE
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(path, flags)?
            }
        };
        // Waiting is done in `patiently`, where it blocks no thread.
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_prepared_statement_cache_capacity(64);
        harden(&connection)?;
        check_header(&connection, &self.format)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        // Takes effect in a new file only.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", self.format.synchronous)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
        connection.pragma_update(None, "cache_size", -16_384)?;
        Ok(connection)
    }

    /// Storage errors speak of the file.
    fn explain(&self, error: Error) -> Error {
        let hint = match error.code() {
            Code::StorageBusy => "another process holds the state file; end it, or try again",
            Code::StorageUnavailable => {
                "check that the directory exists, is writable and has free space; ACTP_STATE_DIR or state_directory names another"
            }
            Code::StorageFull => "free some space on the disk, then try again: nothing was done",
            Code::StorageDamaged => {
                "move the file away and start anew, or restore a copy; it was left as it is"
            }
            Code::StorageVersion => {
                "upgrade agirails, or use another state directory; the file was left as it is"
            }
            _ => return error,
        };
        let value = self.path.as_deref().map_or_else(|| "memory".to_owned(), shown_path);
        let message = format!("{error}: {value}");
        Error::new(error.code(), message)
            .with_hint(hint)
            .with_facts(|facts| {
                facts.field = Some("state_directory");
                facts.value = Some(value);
            })
            .with_source(error)
    }
}

/// Closing takes SQLite's own locks, which a forked child must not find taken.
impl Drop for Store {
    fn drop(&mut self) {
        let _passage = fork::enter();
        lock(&self.readers).clear();
        *lock(&self.writer) = None;
    }
}

/// A panic under a lock leaves nothing half done: see [`transact`].
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After a storage error a connection may be in any state; after all else it is fine.
fn keeps<T>(outcome: &Attempt<T>) -> bool {
    !matches!(outcome, Err(Stop::Failed(error)) if error.kind() == crate::error::Kind::Storage)
}

fn close_idle_connections() {
    lock(&OPEN).retain(|store| {
        let Some(store) = store.upgrade() else { return false };
        if store.path.is_some() {
            lock(&store.readers).clear();
            *lock(&store.writer) = None;
        }
        true
    });
}

fn transact<T>(
    connection: &Connection,
    attempt: &mut impl FnMut(&Connection) -> Attempt<T>,
) -> Attempt<T> {
    let run =
        |sql: &str| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    if !connection.is_autocommit() {
        // Left open by a panic of an earlier call.
        run("ROLLBACK")?;
    }
    run("BEGIN IMMEDIATE")?;
    let outcome = attempt(connection).and_then(|value| {
        run("COMMIT")?;
        Ok(value)
    });
    if outcome.is_err() && !connection.is_autocommit() {
        // It fails only where SQLite rolled back by itself.
        let _ = run("ROLLBACK");
    }
    outcome
}

/// Tries until the file is free. No thread is blocked for longer than a few writes take.
async fn patiently<T>(patience: Duration, attempt: impl FnMut() -> Attempt<T>) -> Result<T> {
    patiently_after(patience, Duration::ZERO, attempt).await
}

async fn patiently_after<T>(
    patience: Duration,
    waited: Duration,
    mut attempt: impl FnMut() -> Attempt<T>,
) -> Result<T> {
    let left = patience.saturating_sub(waited);
    let mut first_refusal = None;
    for try_number in 0_u32.. {
        let outcome = {
            let _passage = fork::enter();
            attempt()
        };
        match outcome {
            Ok(value) => return Ok(value),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Busy) => {
                let since = *first_refusal.get_or_insert_with(Instant::now);
                if since.elapsed() >= left {
                    break;
                }
                match try_number.checked_sub(QUICK_TRIES) {
                    _ if !may_wait() => tokio::task::yield_now().await,
                    None => std::thread::sleep(QUICK_NAP),
                    Some(tries) => tokio::time::sleep(nap(tries)).await,
                }
            }
        }
    }
    Err(Error::new(
        Code::StorageBusy,
        format!("the state file was busy for {} seconds", patience.as_secs()),
    ))
}

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(true) };
}

fn may_wait() -> bool {
    MAY_WAIT.get()
}

/// Polls a future in a thread that must not stand still, such as an event loop's: where a file is held
/// by others, the future is pending, and waits only once it is polled without this.
///
/// ```
/// use std::{pin::pin, task::{Context, Waker}};
/// use agirails::without_waiting;
///
/// let mut call = pin!(async { 1 + 1 });
/// let look = without_waiting(|| call.as_mut().poll(&mut Context::from_waker(Waker::noop())));
/// assert!(look.is_ready());
/// ```
pub fn without_waiting<T>(poll: impl FnOnce() -> T) -> T {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            MAY_WAIT.set(self.0);
        }
    }
    let _restored = Restored(MAY_WAIT.replace(false));
    poll()
}

/// Longer with every try, and not the same for two processes.
fn nap(try_number: u32) -> Duration {
    let longest = LONGEST_NAP_MS.min(1 << try_number.min(3));
    let noise = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| u64::from(time.subsec_nanos()));
    let noise = noise ^ u64::from(std::process::id());
    Duration::from_millis(1 + noise % longest)
}

/// The file below this directory, which is made where it is missing. The path is absolute: a
/// connection may be opened after the process has changed its working directory.
fn state_file(directory: &Path, name: &str) -> Result<PathBuf> {
    let directory = directory.join(".actp");
    let made = permissions::create_directory(&directory);
    permissions::check_directory(&directory)?;
    made.and_then(|()| fs::canonicalize(&directory)).map(|directory| directory.join(name)).map_err(
        |error| {
            let shown = shown_path(&directory);
            let problem = match error.kind() {
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    "a file is in its way".to_owned()
                }
                _ => error.to_string(),
            };
            let message = format!("the state directory {shown} cannot be made: {problem}");
            Error::new(Code::StorageUnavailable, message)
                .with_hint(
                    "name a directory that can be written, with ACTP_STATE_DIR or state_directory",
                )
                .with_facts(|facts| {
                    facts.field = Some("state_directory");
                    facts.value = Some(shown);
                })
                .with_source(error)
        },
    )
}

/// Nothing that somebody else wrote into the file runs as code.
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, is_on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        connection.set_db_config(setting, is_on)?;
    }
    Ok(())
}

/// Refuses what is not ours before anything is written to it. One statement sees one moment:
/// another process may be filling the file just now.
fn check_header(connection: &Connection, format: &Format) -> Attempt<()> {
    let sql = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) \
               FROM pragma_application_id, pragma_user_version";
    let (application, version, tables) = connection.query_row(sql, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    })?;
    if (application, version, tables) == (0, 0, 0) {
        return Ok(());
    }
    if application != format.application_id {
        let message = "the file is not a state file of agirails, or one of another kind";
        return Err(Error::new(Code::StorageDamaged, message).into());
    }
    if version > format.version() {
        let message = format!(
            "the state file has format {version}, this version reads up to {}",
            format.version()
        );
        return Err(Error::new(Code::StorageVersion, message).into());
    }
    Ok(())
}

/// Fills a new file, and brings an old one up to date. Two processes may come here at once; the
/// second finds it done. Where the file belongs to somebody else, nothing is done, and it says to whom.
fn prepare_file(
    connection: &Connection,
    format: &Format,
    fill: &impl Fn(&Connection) -> Attempt<()>,
) -> Attempt<Option<String>> {
    let version = |connection: &Connection| {
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
    };
    let others = |found: &Option<String>| found.clone().filter(|_| *found != format.identity);
    let found = schema::identity(connection)?;
    if let Some(identity) = others(&found) {
        return Ok(Some(identity));
    }
    if version(connection)? == format.version() && found == format.identity {
        return Ok(None);
    }
    transact(connection, &mut |connection: &Connection| {
        let found = schema::identity(connection)?;
        if let Some(identity) = others(&found) {
            return Ok(Some(identity));
        }
        if let (None, Some(identity)) = (&found, &format.identity) {
            schema::set_identity(connection, identity)?;
        }
        let taken = version(connection)?;
        for step in format.schema.iter().skip(usize::try_from(taken).unwrap_or_default()) {
            connection.execute_batch(step)?;
        }
        if taken == 0 {
            fill(connection)?;
        }
        connection.pragma_update(None, "application_id", format.application_id)?;
        connection.pragma_update(None, "user_version", format.version())?;
        Ok(None)
    })
}

fn storage_error(error: rusqlite::Error) -> Error {
    let (code, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (Code::StorageFull, "the disk is full".to_owned()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            (Code::StorageDamaged, "the state file is damaged".to_owned())
        }
        Some(ErrorCode::ReadOnly) => {
            (Code::StorageUnavailable, "the state file cannot be written".to_owned())
        }
        Some(ErrorCode::CannotOpen) => {
            (Code::StorageUnavailable, "the state file cannot be opened".to_owned())
        }
        // A value that the schema or this crate cannot read: the file was changed by other hands.
        None => {
            (Code::StorageDamaged, format!("the state file holds an unreadable value ({error})"))
        }
        // A table or a column that is missing.
        Some(ErrorCode::Unknown) => {
            (Code::StorageDamaged, format!("the state file is damaged ({error})"))
        }
        Some(_) => (Code::StorageUnavailable, format!("the state file cannot be used ({error})")),
    };
    Error::new(code, message).with_source(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIRST: &str = "CREATE TABLE notes (text TEXT NOT NULL)";
    const SECOND: &str = "ALTER TABLE notes ADD COLUMN stars INTEGER NOT NULL DEFAULT 3";

    fn format(schema: &'static [&'static str]) -> Format {
        Format {
            file: "notes.sqlite3".to_owned(),
            identity: None,
            former: None,
            application_id: 0x0a51_7e58,
            schema,
            synchronous: "NORMAL",
            patience: PATIENCE,
        }
    }

    async fn open(directory: &Path, schema: &'static [&'static str]) -> Result<Arc<Store>> {
        let storage = Storage::Directory(directory.to_owned());
        Store::open(storage, format(schema), |connection| {
            connection.execute("INSERT INTO notes (text) VALUES ('first')", [])?;
            Ok(())
        })
        .await
    }

    async fn stars(store: &Store) -> Vec<i64> {
        let sql = "SELECT stars FROM notes";
        store
            .read(|connection| {
                let mut statement = connection.prepare(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn who_must_not_wait_is_pending_while_others_hold_the_file() {
        let store = Store::open(Storage::Memory, format(&[FIRST]), |_| Ok(())).await.unwrap();
        let mut call = Box::pin(store.write(|connection| {
            Ok(connection.execute("INSERT INTO notes (text) VALUES ('waited')", [])?)
        }));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let writing = lock(&store.writer);
        // Were the lock waited for, this thread would stand still for ever.
        assert!(without_waiting(|| call.as_mut().poll(&mut context)).is_pending());
        drop(writing);
        assert_eq!(call.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_old_file_takes_the_steps_it_lacks_and_keeps_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path(), &[FIRST]).await.unwrap());
        // Several at once: one of them takes the step, the others find it taken.
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let directory = directory.path().to_owned();
                std::thread::spawn(move || {
                    let mut runtime = tokio::runtime::Builder::new_current_thread();
                    runtime.enable_time().build().unwrap().block_on(async {
                        stars(&open(&directory, &[FIRST, SECOND]).await.unwrap()).await
                    })
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), [3]);
        }
        drop(open(directory.path(), &[FIRST, SECOND]).await.unwrap());
        let error = open(directory.path(), &[FIRST]).await.unwrap_err();
        assert_eq!(error.code(), Code::StorageVersion);
    }

    async fn open_as(directory: &Path, identity: &str, former: Option<&str>) -> Result<Arc<Store>> {
        let format = Format {
            file: format!("notes-{identity}.sqlite3"),
            identity: Some(identity.to_owned()),
            former: former.map(str::to_owned),
            ..format(&[FIRST, SECOND])
        };
        Store::open(Storage::Directory(directory.to_owned()), format, |_| Ok(())).await
    }

    fn name(store: &Store) -> String {
        store.path().unwrap().file_name().unwrap().to_string_lossy().into_owned()
    }

    #[tokio::test]
    async fn an_old_file_belongs_to_the_first_one_who_comes_for_it() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path(), &[FIRST]).await.unwrap());
        let former = Some("notes.sqlite3");
        let first = open_as(directory.path(), "first", former).await.unwrap();
        assert_eq!((name(&first).as_str(), stars(&first).await), ("notes.sqlite3", vec![3]));
        // While it is open, and after it.
        for _ in 0..2 {
            let second = open_as(directory.path(), "second", former).await.unwrap();
            assert_eq!(
                (name(&second).as_str(), stars(&second).await),
                ("notes-second.sqlite3", vec![])
            );
        }
        drop(first);
        let second = open_as(directory.path(), "second", former).await.unwrap();
        assert_eq!(name(&second), "notes-second.sqlite3");
        let first = open_as(directory.path(), "first", former).await.unwrap();
        assert_eq!(name(&first), "notes.sqlite3");
    }

    #[tokio::test]
    async fn a_file_of_somebody_else_is_refused_whatever_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path =
            open_as(directory.path(), "first", None).await.unwrap().path().unwrap().to_owned();
        fs::rename(&path, path.with_file_name("notes-second.sqlite3")).unwrap();
        let error = open_as(directory.path(), "second", None).await.unwrap_err();
        assert_eq!(error.code(), Code::StorageDamaged);
        assert!(error.to_string().contains("belongs to first, not to second"), "{error}");
    }

    #[tokio::test]
    async fn what_somebody_put_into_the_schema_is_refused_by_name() {
        let planted = [
            ("trigger t", "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes; END"),
            ("view v", "CREATE VIEW v AS SELECT 1"),
            ("table other", "CREATE TABLE other (a)"),
            ("index i", "CREATE INDEX i ON notes (stars)"),
            ("table notes", "ALTER TABLE notes ADD COLUMN more AS (stars + 1)"),
            (
                "table identity",
                "DROP TABLE identity; CREATE TABLE identity (value TEXT DEFAULT 'x')",
            ),
        ];
        for (what, sql) in planted {
            let directory = tempfile::tempdir().unwrap();
            let path =
                open_as(directory.path(), "us", None).await.unwrap().path().unwrap().to_owned();
            let stranger = Connection::open(&path).unwrap();
            stranger.execute_batch(sql).unwrap();
            let error = open_as(directory.path(), "us", None).await.unwrap_err();
            assert_eq!(error.code(), Code::StorageDamaged, "{what}");
            assert!(error.to_string().contains(what), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = open_as(directory.path(), "us", None).await.unwrap().path().unwrap().to_owned();
        let stranger = Connection::open(&path).unwrap();
        stranger.execute_batch("DROP TABLE notes").unwrap();
        let error = open_as(directory.path(), "us", None).await.unwrap_err();
        assert!(error.to_string().contains("lacks the table notes"), "{error}");
    }

    /// Behind the check, by somebody who has the file open too.
    #[tokio::test]
    async fn nothing_that_is_planted_later_runs() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), &[FIRST, SECOND]).await.unwrap();
        let stranger = Connection::open(store.path().unwrap()).unwrap();
        let sql = "CREATE TRIGGER t AFTER INSERT ON notes BEGIN UPDATE notes SET stars = 0; END";
        stranger.execute_batch(sql).unwrap();
        store
            .write(
                |connection| Ok(connection.execute("INSERT INTO notes (text) VALUES ('n')", [])?),
            )
            .await
            .unwrap();
        assert_eq!(stars(&store).await, [3, 3]);
        let refused = store.write(|connection| {
            connection.pragma_update(None, "writable_schema", true)?;
            Ok(connection.execute("DELETE FROM sqlite_schema", [])?)
        });
        assert!(refused.await.is_err());
    }

    #[tokio::test]
    async fn a_copy_of_the_file_alone_has_what_was_brought_into_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), &[FIRST, SECOND]).await.unwrap();
        let copied = || {
            let copy = directory.path().join("copy");
            fs::copy(store.path().unwrap(), &copy).unwrap();
            let copy = Connection::open(copy).unwrap();
            copy.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0)).ok()
        };
        assert_eq!(copied(), None, "it lies in the log");
        store.checkpoint().await.unwrap();
        assert_eq!(copied(), Some(1));
        let note = "INSERT INTO notes (text) VALUES ('more')";
        store.write(|connection| Ok(connection.execute(note, [])?)).await.unwrap();
        assert_eq!(copied(), Some(1));
        store.checkpoint().await.unwrap();
        assert_eq!(copied(), Some(2));
    }

    #[tokio::test]
    async fn a_backup_is_of_one_moment_and_of_our_files_only() {
        let directory = tempfile::tempdir().unwrap();
        let format = || Format { application_id: 0x6163_7401, ..format(&[FIRST, SECOND]) };
        let storage = Storage::Directory(directory.path().to_owned());
        let note = |connection: &Connection| {
            Ok(connection.execute("INSERT INTO notes (text) VALUES ('n')", [])?)
        };
        let store = Store::open(storage, format(), |_| Ok(())).await.unwrap();
        store.write(note).await.unwrap();
        let copy = directory.path().join("copy");
        // A writer in the middle of its transaction hinders nobody, and is not in it.
        let writer = Connection::open(store.path().unwrap()).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE; DELETE FROM notes").unwrap();
        let copies = back_up(directory.path(), &copy).unwrap();
        assert_eq!(copies, [copy.join(".actp/notes.sqlite3")]);
        writer.execute_batch("COMMIT").unwrap();
        let copied =
            Store::open(Storage::Directory(copy.clone()), format(), |_| Ok(())).await.unwrap();
        assert_eq!(stars(&copied).await, [3]);
        assert_eq!(stars(&store).await, [0; 0]);

        let again = back_up(directory.path(), &copy).unwrap_err();
        assert_eq!(again.code(), Code::StorageUnavailable);
        let foreign = Connection::open(directory.path().join(".actp/a.sqlite3")).unwrap();
        foreign.execute_batch("CREATE TABLE a (b)").unwrap();
        let error = back_up(directory.path(), directory.path().join("other")).unwrap_err();
        assert_eq!(error.code(), Code::StorageDamaged);
    }
}
