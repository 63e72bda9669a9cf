//! A PostgreSQL server for tests that never outlives its owner.

mod pooler;

use std::{
    env,
    ffi::CString,
    fs,
    io::{self, Read},
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agirails::{Code, Error, Result};

pub use self::pooler::Pooler;
use crate::supervisor::{self, last_words};

/// The environment variable that names the directory of the `initdb` and `postgres` to use.
pub const POSTGRES_VARIABLE: &str = "AGIRAILS_POSTGRES";

/// How long the server may take until it takes connections; half a second on an idle machine.
const START: Duration = Duration::from_secs(60);
/// How often another port is tried where one was taken meanwhile.
const PORTS: u32 = 5;
/// The role that owns everything.
const ROLE: &str = "agirails";

/// The server ends its own processes where it is told to (QUIT).
const SUPERVISOR: &str = supervisor::script!(
    r#"
    [ -z "$child" ] || { kill -QUIT $child; wait $child; }
    [ -z "$nap" ] || { kill -9 $nap; wait $nap; }
    [ "$1" = clean ] && rm -rf "$directory"
    exit 0
"#
);

/// A running PostgreSQL server with a directory of its own. Dropping it ends it.
///
/// PostgreSQL refuses to run as root: root starts it as the user `postgres`, or `nobody`.
///
/// ```no_run
/// use agirails_devnet::Postgres;
///
/// # fn example() -> agirails::Result<()> {
/// let mut server = Postgres::start()?;
/// println!("{}", server.url());
/// server.kill();
/// server.restart()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    directory: PathBuf,
    user: Option<User>,
    password: String,
    port: u16,
    supervisor: Option<Child>,
    owner: u32,
    /// Whether it survives a power cut of the machine.
    is_synced: bool,
}

/// Whom root starts it as.
#[derive(Debug, Clone, Copy)]
struct User {
    id: u32,
    group: u32,
}

impl Postgres {
    /// Makes an empty database cluster and starts a server on it, on a free port of this machine's
    /// loopback interface and on a Unix socket. It blocks for about a second.
    ///
    /// # Errors
    /// [`Code::DevnetUnavailable`] where PostgreSQL is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::start_where(false)
    }

    /// The same with a server that waits for its disk, as a real one does: for figures.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_synced() -> Result<Self> {
        Self::start_where(true)
    }

    fn start_where(is_synced: bool) -> Result<Self> {
        let binaries = find()?;
        let directory = tempfile::Builder::new()
            .prefix("agirails-postgres-")
            .tempdir()
            .map_err(|error| failed("there is no directory for temporary files", error))?;
        let user = unprivileged()?;
        if let Some(User { id, group }) = user {
            chown(directory.path(), Some(id), Some(group))
                .map_err(|error| failed("its directory cannot be given away", error))?;
        }
        let password = random()?;
        // From here on dropping it cleans up.
        let (directory, owner) = (directory.keep(), process::id());
        let mut server = Self {
            binaries,
            directory,
            user,
            password,
            port: 0,
            supervisor: None,
            owner,
            is_synced,
        };
        server.initialise()?;
        for attempt in 1.. {
            server.port = free_port()?;
            match server.restart() {
                Err(_) if attempt < PORTS && server.log().contains("could not bind") => {}
                done => return done.map(|()| server),
            }
        }
        Ok(server)
    }

    /// How clients connect: role, password, address and database. The role may do everything.
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// As [`Self::url`], for another database of the server.
    pub fn database_url(&self, database: &str) -> String {
        let Self { password, port, .. } = self;
        format!("postgres://{ROLE}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// As [`Self::url`], through the Unix socket.
    pub fn socket_url(&self) -> String {
        let directory = self.directory.to_string_lossy().replace('%', "%25").replace('/', "%2F");
        let Self { password, port, .. } = self;
        format!("postgres://{ROLE}:{password}@{directory}:{port}/postgres")
    }

    /// The role's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// What the server wrote since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Ends the server at once, as a crash does; the files stay for [`Self::restart`].
    pub fn kill(&mut self) {
        // One that stands still does not hear that it is told to end.
        let _ = self.resume();
        if let Some(mut supervisor) = self.supervisor.take() {
            supervisor::end(&mut supervisor);
        }
    }

    /// Starts the server anew at the same address, with everything that was committed. Where it
    /// runs it is killed before.
    ///
    /// # Errors
    /// [`Code::DevnetUnavailable`] where it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let log = self.directory.join("log");
        // The last one's words are not this one's.
        let _ = fs::remove_file(&log);
        let data = self.directory.join("data");
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "agirails-devnet", &self.owner.to_string()])
            .arg(&self.directory)
            .arg(self.binaries.join("postgres"))
            .arg("-D")
            .arg(data)
            .arg("-k")
            .arg(&self.directory)
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            // What a crash of the machine would lose, a test does not miss.
            .args(if self.is_synced {
                &[][..]
            } else {
                &["-c", "fsync=off", "-c", "full_page_writes=off"]
            })
            .args(["-c", "max_connections=200", "-c", "shared_buffers=16MB"])
            // Away from the terminal's Ctrl-C, and one group to end.
            .process_group(0);
        self.supervisor = Some(
            self.as_user(&mut command)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| failed("its supervisor cannot be started", error))?,
        );
        let started = Instant::now();
        loop {
            // Looked at before the log, so that a log of the dead is complete.
            let ended = !matches!(self.supervisor.as_mut().map(Child::try_wait), Some(Ok(None)));
            let log = self.log();
            if log.contains("ready to accept connections") {
                return Ok(());
            }
            if ended || started.elapsed() > START {
                return Err(silent("postgres does not start", &log));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets the server stand still: it takes connections and answers nothing, as a machine that
    /// lost its network.
    ///
    /// # Errors
    ///
    /// `DevnetUnavailable`, where the server has ended or its processes cannot be listed.
    pub fn suspend(&self) -> Result<()> {
        self.signal_all(libc::SIGSTOP)
    }

    /// Ends [`Self::suspend`].
    ///
    /// # Errors
    ///
    /// As [`Self::suspend`].
    pub fn resume(&self) -> Result<()> {
        self.signal_all(libc::SIGCONT)
    }

    /// To the server's process and to each that serves a connection.
    fn signal_all(&self, signal: i32) -> Result<()> {
        let server = fs::read_to_string(self.directory.join("server.pid")).unwrap_or_default();
        // Nobody else has the number while the server is not buried, which our child does.
        let server = server.trim().parse::<i32>().ok().filter(|_| self.supervisor.is_some());
        let Some(server) = server else { return Err(silent("postgres has ended", &self.log())) };
        for process in std::iter::once(server).chain(children(server)?) {
            // SAFETY: passes two numbers.
            unsafe { libc::kill(process, signal) };
        }
        Ok(())
    }

    fn initialise(&self) -> Result<()> {
        let password = self.directory.join("password");
        fs::write(&password, &self.password)
            .map_err(|error| failed("its password cannot be written", error))?;
        if let Some(User { id, group }) = self.user {
            chown(&password, Some(id), Some(group))
                .map_err(|error| failed("its password cannot be given away", error))?;
        }
        let mut command = Command::new(self.binaries.join("initdb"));
        command.arg("-D").arg(self.directory.join("data")).arg("--pwfile").arg(&password).args([
            "-U",
            ROLE,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        let output = self
            .as_user(&mut command)
            .output()
            .map_err(|error| failed("initdb cannot be started", error))?;
        // Nobody needs it any more; where it stays, the directory goes in the end.
        let _ = fs::remove_file(&password);
        match output.status.success() {
            true => Ok(()),
            false => Err(silent("initdb failed", &String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn as_user<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some(User { id, group }) = self.user {
            command.uid(id).gid(group);
        }
        // The owner's directory may be closed to that user.
        command.current_dir(&self.directory).env("LC_ALL", "C").stdin(Stdio::null())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A forked child has a copy of this, and no right to end what its parent uses.
        if process::id() != self.owner {
            return;
        }
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The processes whose parent this is: by `/proc`, or, where there is none, by the program `ps`.
fn children(parent: i32) -> Result<Vec<i32>> {
    let unlisted = |error| failed("its processes cannot be listed (by /proc or ps)", error);
    let listed: Vec<(i32, i32)> = if Path::new("/proc/self/stat").exists() {
        let parent_of = |process: i32| {
            // The program's name is in parentheses and may hold any of these characters.
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
        };
        fs::read_dir("/proc")
            .map_err(unlisted)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|process| Some((process, parent_of(process)?)))
            .collect()
    } else {
        let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
        let rows = String::from_utf8_lossy(&output.map_err(unlisted)?.stdout).into_owned();
        let numbers = |row: &str| {
            let mut numbers = row.split_whitespace().map_while(|number| number.parse().ok());
            Some((numbers.next()?, numbers.next()?))
        };
        rows.lines().filter_map(numbers).collect()
    };
    Ok(listed.into_iter().filter(|(_, of)| *of == parent).map(|(process, _)| process).collect())
}

/// The directory that was named; else that of the first `initdb` on the `PATH`; else the newest
/// where packages put it.
fn find() -> Result<PathBuf> {
    let usable = |directory: &Path| {
        // Links on the PATH lead to one program of several.
        let directory = fs::canonicalize(directory.join("initdb")).ok()?.parent()?.to_owned();
        directory.join("postgres").is_file().then_some(directory)
    };
    if let Some(named) = env::var_os(POSTGRES_VARIABLE).filter(|named| !named.is_empty()) {
        let named = Path::new(&named);
        return usable(named).ok_or_else(|| {
            missing(format!(
                "there is no PostgreSQL in {}, which {POSTGRES_VARIABLE} names",
                named.display()
            ))
        });
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = env::split_paths(&on_path).collect();
    on_path
        .into_iter()
        .chain(packaged())
        .find_map(|directory| usable(&directory))
        .ok_or_else(|| missing("PostgreSQL is not installed".to_owned()))
}

/// Where Debian, Red Hat and Homebrew put the server's programs, the newest version first.
fn packaged() -> Vec<PathBuf> {
    let places = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ];
    let mut found = Vec::new();
    for (place, prefix) in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(prefix).and_then(|version| version.parse::<f64>().ok());
            if let Some(version) = version {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    found.into_iter().map(|(_, directory)| directory).collect()
}

fn missing(message: String) -> Error {
    Error::new(Code::DevnetUnavailable, message).with_hint(format!(
        "install it (Debian: apt-get install postgresql; macOS: brew install postgresql@17), \
         or name the directory of its initdb in {POSTGRES_VARIABLE}"
    ))
}

/// Whom to become; nobody else where this is not root.
fn unprivileged() -> Result<Option<User>> {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the name ends with a zero; what comes back is null or stands until the next
        // such call, and is copied at once.
        let found = unsafe {
            libc::getpwnam(name.as_ptr())
                .as_ref()
                .map(|user| User { id: user.pw_uid, group: user.pw_gid })
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Err(Error::new(Code::DevnetUnavailable, "PostgreSQL does not run as root")
        .with_hint("make a user postgres, or run this as another user"))
}

/// Taken again by somebody else, in theory; then the server says so.
fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| failed("there is no free port", error))
}

fn random() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| failed("the system gives no random numbers", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn failed(problem: &str, error: io::Error) -> Error {
    Error::new(Code::DevnetUnavailable, format!("PostgreSQL cannot be started: {problem}: {error}"))
        .with_hint("a directory for temporary files that every user can enter, and a shell (sh) are needed")
        .with_source(error)
}

fn silent(what: &str, log: &str) -> Error {
    let words = last_words(log);
    Error::new(Code::DevnetUnavailable, format!("{what}: {words}"))
        .with_hint("PostgreSQL 12 or later is needed, and a free port")
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_server_starts_dies_comes_back_and_leaves_nothing() {
        let mut server = Postgres::start().unwrap();
        let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        let (port, directory) = (server.port, server.directory.clone());
        assert!(listens(port));
        assert!(server.url().contains(server.password()));
        server.kill();
        assert!(!listens(port) && directory.exists());
        server.restart().unwrap();
        assert!(listens(port));
        drop(server);
        assert!(!listens(port) && !directory.exists());
    }

    #[test]
    fn a_copy_in_another_process_ends_nothing() {
        let mut server = Postgres::start().unwrap();
        let port = server.port;
        server.owner += 1;
        let copy = Postgres {
            binaries: server.binaries.clone(),
            directory: server.directory.clone(),
            user: server.user,
            password: server.password.clone(),
            port,
            supervisor: server.supervisor.take(),
            is_synced: false,
            owner: process::id(),
        };
        drop(server);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        drop(copy);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
