//! A paywall's store in another place: from a file into a database, or back, with everything in it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use tokio::sync::mpsc;

use super::store::{
    Scope,
    copy::{Depot, Figures, Sent, TABLES, Table},
};
use crate::{
    client::ACTPClient,
    error::{Code, Error, Result},
    storage::Storage,
};

/// For how long the lead is taken at a time; it is renewed every third of that.
const LEAD: Duration = Duration::from_secs(9);
/// How long a database that is not there yet is waited for.
#[cfg(feature = "postgres")]
const DATABASE_WAIT: Duration = Duration::ZERO;

/// Where a paywall's store is: `sqlite:DIRECTORY`, the state directory in whose `.actp` its file lies,
/// or `postgresql://user:password@host/database`.
///
/// ```
/// use agirails::paywall::StorePlace;
///
/// let database: StorePlace = "postgresql://app:secret@db.example.com/paywall".parse()?;
/// assert!(!format!("{database:?}").contains("secret"));
/// assert!("mysql://db.example.com/paywall".parse::<StorePlace>().is_err());
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorePlace {
    /// A file in this state directory.
    Sqlite(PathBuf),
    /// A PostgreSQL database by its URL. Needs the feature `postgres`.
    Postgres(String),
}

/// A URL may hold a password.
impl fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(directory) => f.debug_tuple("Sqlite").field(directory).finish(),
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

impl FromStr for StorePlace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:") {
            Some(directory) if !directory.is_empty() => Ok(Self::Sqlite(directory.into())),
            // The text may hold a password.
            _ => Err(Error::new(
                Code::InvalidSettings,
                "a store is named sqlite:DIRECTORY or postgresql://user:password@host/database",
            )
            .with_hint(
                "write one of the two; DIRECTORY is the state directory, in which .actp lies",
            )),
        }
    }
}

/// What was copied of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopiedTable {
    /// What the rows are: `payments`, `calls`, `requests`, `trees`, `books`, `webhooks`, `counters`,
    /// `service`, `restored`.
    pub name: &'static str,
    /// How many there are, the same on both sides.
    pub rows: u64,
    /// Sums over them, the same on both sides: amounts in base units of USDC.
    pub sums: Vec<(&'static str, i64)>,
}

/// Copies the store of this client's paywall to another place: open balances, kept answers and requests,
/// the books, the counters and the service's id. `watch` is told how many rows of how many are there.
///
/// It is one transaction on the new place: where it fails, or its process dies, nothing is there. At the
/// end rows and sums of both are compared. From then on a paywall refuses to open the old store, so that
/// no balance is spent twice; it stays as it was, and can be deleted.
///
/// # Errors
/// [`Code::StorageBusy`] beside a paywall that runs on either of them: stop it first, and wait nine
/// seconds. [`Code::InvalidSettings`] where the new place is the old one, or not empty.
/// [`Code::StorageUnavailable`] where there is no old store. [`Code::StorageDamaged`] where the sums
/// differ. The storage's codes.
///
/// ```no_run
/// use agirails::{ACTPClient, paywall::copy_store};
///
/// # async fn example() -> agirails::Result<()> {
/// let client = ACTPClient::builder().mode(agirails::Mode::Testnet).connect().await?;
/// let (from, to) = ("sqlite:/srv/app".parse()?, "postgresql://app@db.example.com/paywall".parse()?);
/// for table in copy_store(&client, &from, &to, |done, all| eprintln!("{done} of {all}")).await? {
///     println!("{} {}", table.name, table.rows);
/// }
/// # Ok(())
/// # }
/// ```
pub async fn copy_store(
    client: &ACTPClient,
    from: &StorePlace,
    to: &StorePlace,
    mut watch: impl FnMut(u64, u64) + Send,
) -> Result<Vec<CopiedTable>> {
    let scope = Scope::of_client(client);
    if from == to {
        return Err(invalid("a store cannot be copied to where it is"));
    }
    let (source, target) = (open(from, &scope, true).await?, open(to, &scope, false).await?);
    copy_between(&*source, &*target, &super::outbox::lease_name(client), &mut watch).await
}

/// Copies one store into another, as the one who holds the lease of this name on both.
pub(super) async fn copy_between(
    source: &dyn Depot,
    target: &dyn Depot,
    lease: &str,
    watch: &mut (impl FnMut(u64, u64) + Send),
) -> Result<Vec<CopiedTable>> {
    let (ends, owner) = (Ends { source, target, lease }, super::random());
    let mut copied = Ok(vec![]);
    for depot in [source, target] {
        if let Err(error) = ends.lead(depot, owner).await {
            copied = Err(error);
        }
    }
    if copied.is_ok() {
        copied = tokio::select! {
            copied = ends.copy_all(watch) => copied,
            Err(error) = ends.keep_the_lead(owner) => Err(error),
        };
    }
    // A paywall may begin at once.
    for depot in [source, target] {
        let _ = depot.lease(lease, owner, Duration::ZERO).await;
    }
    copied
}

struct Ends<'a> {
    source: &'a dyn Depot,
    target: &'a dyn Depot,
    lease: &'a str,
}

impl Ends<'_> {
    /// Whoever delivers for this provider holds the lease.
    async fn lead(&self, depot: &dyn Depot, owner: [u8; 16]) -> Result<()> {
        match depot.lease(self.lease, owner, LEAD).await? {
            true => Ok(()),
            false => Err(Error::new(
                Code::StorageBusy,
                format!("a paywall runs on {}, or ended a moment ago", depot.shown()),
            )
            .with_hint("stop every process of the service, and try again nine seconds later")),
        }
    }

    /// Returns only where it is lost. The new store lets nobody in while it takes in.
    async fn keep_the_lead(&self, owner: [u8; 16]) -> Result<()> {
        loop {
            tokio::time::sleep(LEAD / 3).await;
            self.lead(self.source, owner).await?;
        }
    }

    async fn copy_all(
        &self,
        watch: &mut (impl FnMut(u64, u64) + Send),
    ) -> Result<Vec<CopiedTable>> {
        let running = self.source.running().await?;
        if running > 0 {
            let message = format!("{running} calls are running on {}", self.source.shown());
            return Err(Error::new(Code::StorageBusy, message)
                .with_hint("stop every process of the service; calls of one that died run out within its lease"));
        }
        let before = self.source.figures().await?;
        let all = before.iter().filter_map(|table| table.first()).map(|rows| *rows as u64).sum();
        let mut intake = self.target.take_in().await?;
        self.check_empty(&intake.figures().await?)?;
        let (sender, mut rows) = mpsc::channel::<Sent>(2);
        let taking = async {
            let mut done = 0;
            while let Some((table, rows)) = rows.recv().await {
                done += rows.len() as u64;
                intake.put(table, rows).await?;
                watch(done, all);
            }
            Ok(intake)
        };
        let (sent, mut intake) = tokio::try_join!(self.source.hand_on(sender), taking)?;
        let taken = intake.figures().await?;
        self.check_same(&sent, &taken)?;
        // First the old store is closed, then the new one opened: whatever happens in between, the
        // same command makes it good, and no balance is in two stores.
        self.source.move_to(Some(&self.target.shown())).await?;
        let closed = async {
            // What a paywall wrote meanwhile that began behind our back would be lost.
            self.check_same(&self.source.figures().await?, &taken)?;
            intake.commit().await
        };
        if let Err(error) = closed.await {
            self.source.move_to(None).await?;
            return Err(error);
        }
        Ok(TABLES
            .iter()
            .zip(taken)
            .map(|(table, figures)| CopiedTable {
                name: table.name,
                rows: figures.first().map_or(0, |rows| *rows as u64),
                sums: table.sums.iter().copied().zip(figures.into_iter().skip(1)).collect(),
            })
            .collect())
    }

    fn check_empty(&self, found: &Figures) -> Result<()> {
        let rows = |(table, figures): (&Table, &Vec<i64>)| {
            let rows = figures.first().copied().unwrap_or_default();
            (rows > 0 && !table.is_shared()).then(|| format!("{rows} {}", table.name))
        };
        let found: Vec<_> = TABLES.iter().zip(found).filter_map(rows).collect();
        if found.is_empty() {
            return Ok(());
        }
        let message = format!("{} is not empty: it has {}", self.target.shown(), found.join(", "));
        Err(invalid(&message))
    }

    fn check_same(&self, sent: &Figures, taken: &Figures) -> Result<()> {
        for ((table, sent), taken) in TABLES.iter().zip(sent).zip(taken) {
            if sent != taken && !table.is_shared() {
                let message = format!(
                    "{} of {} are not the same in {}: rows and sums are {sent:?} and {taken:?}",
                    table.name,
                    self.source.shown(),
                    self.target.shown()
                );
                return Err(Error::new(Code::StorageDamaged, message).with_hint(
                    "nothing was copied; stop every process of the service, and try again",
                ));
            }
        }
        Ok(())
    }
}

fn invalid(problem: &str) -> Error {
    Error::new(Code::InvalidSettings, problem)
        .with_hint("name a new directory, or a database without the schema agirails_paywall")
}

async fn open(place: &StorePlace, scope: &Scope, must_be: bool) -> Result<Box<dyn Depot>> {
    match place {
        StorePlace::Sqlite(directory) => {
            let storage = Storage::Directory(directory.clone());
            if must_be && !super::store::SqliteStore::is_in(&storage, scope) {
                let message = format!(
                    "there is no paywall's store of {} in {}",
                    scope.provider,
                    directory.join(".actp").display()
                );
                return Err(Error::new(Code::StorageUnavailable, message).with_hint(
                    "name the service's state directory, and its provider and network",
                ));
            }
            Ok(Box::new(super::store::SqliteStore::open(storage, scope, true).await?))
        }
        #[cfg(feature = "postgres")]
        StorePlace::Postgres(url) => {
            Ok(Box::new(super::store::PostgresStore::connect(url, scope, DATABASE_WAIT).await?))
        }
        #[cfg(not(feature = "postgres"))]
        StorePlace::Postgres(_) => Err(super::no_postgres()),
    }
}
