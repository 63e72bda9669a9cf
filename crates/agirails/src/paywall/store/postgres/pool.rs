//! Connections to the database: how many, to whom they belong, and when they are given up.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join3;
use tokio::{
    runtime::{self, Handle},
    sync::Semaphore,
    time,
};
use tokio_postgres::{
    Client, NoTls, Row,
    types::{ToSql, Type},
};

use super::{
    address::Address,
    errors::{self, Failure},
};
use crate::{
    error::{Code, Error, Result},
    fork::Renewed,
};

/// More would wait for the same disk.
const CONNECTIONS: usize = 16;
/// How many of them carry steps that go together: while one is synced, the next one works.
const TURNS: usize = 2;
/// Firewalls forget connections that are silent for longer.
const IDLE: Duration = Duration::from_secs(240);
/// How often a transaction that met others is begun anew.
const CONFLICTS: u32 = 8;
/// How long a connection that was refused is not tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long each thing may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Getting a connection, with everything that belongs to it.
    pub(super) connect: Duration,
    /// Waiting for one of this process's connections to be free.
    pub(super) queue: Duration,
    /// The server's own limit for one statement.
    pub(super) statement: Duration,
    /// The server's own limit for waiting on others.
    pub(super) lock: Duration,
    /// After that long a server is dead that should have answered by its own limits.
    pub(super) answer: Duration,
}

impl Limits {
    pub(super) const USUAL: Self = Self {
        connect: Duration::from_secs(5),
        queue: Duration::from_secs(10),
        statement: Duration::from_secs(30),
        lock: Duration::from_secs(10),
        answer: Duration::from_secs(32),
    };
}

/// May a statement whose answer was lost be sent again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Yes: done twice is the same as done once.
    Harmless,
    No,
}

pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The connections of one store. A forked child makes its own.
pub(super) struct Pool {
    address: Address,
    limits: Limits,
    connections: Renewed<Connections>,
    /// Whether the server syncs what it answers for.
    pub(super) is_synced: bool,
}

pub(super) struct Connections {
    permits: Semaphore,
    /// Of steps that go together.
    pub(super) turns: Semaphore,
    idle: Mutex<Vec<Link>>,
}

/// A connection. Its other end, the task that moves its bytes, lives in one runtime.
pub(super) struct Link {
    pub(super) client: Client,
    runtime: runtime::Id,
    since: Instant,
}

impl Link {
    fn is_usable(&self) -> bool {
        !self.client.is_closed() && self.since.elapsed() < IDLE
    }
}

impl Connections {
    fn new() -> Self {
        Self {
            permits: Semaphore::new(CONNECTIONS),
            turns: Semaphore::new(TURNS),
            idle: Mutex::default(),
        }
    }

    /// The one that was used last, of this runtime: another's may stand still.
    fn take(&self, runtime: runtime::Id) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(Link::is_usable);
        let place = idle.iter().rposition(|link| link.runtime == runtime)?;
        Some(idle.remove(place))
    }

    fn put(&self, link: Link) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(Link { since: Instant::now(), ..link });
        if idle.len() > CONNECTIONS {
            idle.remove(0);
        }
    }

    /// Where one broke, the others did too.
    fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Pool {
    pub(super) fn new(address: Address, limits: Limits) -> Self {
        let connections = Renewed::new(Connections::new);
        Self { address, limits, connections, is_synced: true }
    }

    pub(super) fn connections(&self) -> Arc<Connections> {
        self.connections.get()
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// What errors call the database.
    pub(super) fn shown(&self) -> &str {
        &self.address.shown
    }

    /// What a transaction begins with. None of it stays with the session, which may be anybody's
    /// behind a pooler: a name is looked for in pg_catalog alone; locks are what keeps transactions
    /// apart, and what was answered is kept as the paywall's owner chose, whatever the database's own
    /// defaults. Stricter ones stay.
    pub(super) fn settings(&self) -> String {
        self.settings_within(self.limits.lock)
    }

    fn settings_within(&self, lock: Duration) -> String {
        let sync = match self.is_synced {
            true => {
                "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) \
                 WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
            }
            false => "SET LOCAL synchronous_commit = off",
        };
        format!(
            "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = {}; \
             SET LOCAL lock_timeout = {}; {sync}",
            self.limits.statement.as_millis(),
            lock.as_millis(),
        )
    }

    /// Sends one statement in a transaction of its own, and brings its rows.
    pub(super) async fn ask(
        &self,
        again: Again,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        self.ask_within(self.limits.lock, again, sql, parameters).await
    }

    /// The same, for which a row that others hold is waited for so long.
    pub(super) async fn ask_within(
        &self,
        lock: Duration,
        again: Again,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let connections = self.connections.get();
        let permit = time::timeout(self.limits.queue, connections.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(self.busy());
        };
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {}", self.settings_within(lock));
        let (mut conflicts, mut broken) = (0, false);
        loop {
            let link = match connections.take(Handle::current().id()) {
                Some(link) => link,
                None => self.connect().await?,
            };
            // All three are sent at once, in this order: one round trip, and whoever gives up in the
            // middle leaves no transaction open.
            let asked = join3(
                link.client.batch_execute(&begin),
                link.client.query_typed(sql, parameters),
                link.client.batch_execute("COMMIT"),
            );
            let cause = match time::timeout(self.limits.answer, asked).await {
                Ok((Ok(()), Ok(rows), Ok(()))) => {
                    connections.put(link);
                    return Ok(rows);
                }
                Ok((Err(cause), ..) | (_, Err(cause), _) | (.., Err(cause))) => cause,
                Err(_) => {
                    connections.forget();
                    let problem =
                        format!("it took more than {} seconds", self.limits.answer.as_secs());
                    return Err(errors::unreachable(self.shown(), &problem));
                }
            };
            match Failure::of(&cause, link.client.is_closed()) {
                Failure::Conflict if conflicts < CONFLICTS => {
                    conflicts += 1;
                    connections.put(link);
                    time::sleep(Duration::from_millis(1 << conflicts)).await;
                }
                failure @ (Failure::Undone | Failure::Broken) => {
                    connections.forget();
                    if broken || (failure == Failure::Broken && again == Again::No) {
                        return Err(errors::in_words(cause, self.shown()));
                    }
                    broken = true;
                }
                Failure::Conflict | Failure::Refused => {
                    connections.put(link);
                    return Err(errors::in_words(cause, self.shown()));
                }
            }
        }
    }

    pub(super) fn busy(&self) -> Error {
        Error::new(
            Code::StorageBusy,
            format!("all {CONNECTIONS} connections to the database {} stayed busy", self.shown()),
        )
        .with_hint("the database is slower than the calls come: try again")
    }

    /// A new connection, ready for statements. One that is refused is tried once more.
    pub(super) async fn connect(&self) -> Result<Link> {
        let attempts = async {
            match self.attempt().await {
                Err(error) if error.code() == Code::StoreUnreachable => {
                    time::sleep(PAUSE).await;
                    self.attempt().await
                }
                done => done,
            }
        };
        time::timeout(self.limits.connect, attempts).await.unwrap_or_else(|_| {
            let problem = format!("no connection in {} seconds", self.limits.connect.as_secs());
            Err(errors::unreachable(self.shown(), &problem))
        })
    }

    async fn attempt(&self) -> Result<Link> {
        let in_words = |cause| errors::in_words(cause, self.shown());
        let Address { config, tls, .. } = &self.address;
        let client = match tls {
            Some(tls) => {
                let (client, connection) = config.connect(tls.clone()).await.map_err(in_words)?;
                drive(connection);
                client
            }
            None => {
                let (client, connection) = config.connect(NoTls).await.map_err(in_words)?;
                drive(connection);
                client
            }
        };
        Ok(Link { client, runtime: Handle::current().id(), since: Instant::now() })
    }
}

/// Moves the connection's bytes, until the client is dropped or the server gone.
fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    tokio_postgres::Connection<S, T>:
        Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async {
        // Whoever asks through it next is told why it ended.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
}
