//! The keeper: it settles what was delivered, once its dispute window is over.
//!
//! A provider is paid when its transaction is settled, and no transaction settles by itself. After the
//! window anyone may do it. A [`Keeper`] follows a kernel's events and settles whatever is due, for all
//! providers or for those that it is given. It keeps what it knows in a state file, so it may be killed at
//! any time: the next one goes on where it was, and nothing is settled twice.
//!
//! ```
//! use agirails::{ACTPClient, Address, keeper::Keeper};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! # let client = ACTPClient::builder().address(Address::repeat_byte(0xaa)).in_memory().connect().await?;
//! // let client = ACTPClient::builder().mode(Mode::Testnet).private_key(key).connect().await?;
//! let keeper = Keeper::builder(client).on_event(|event| println!("{event}")).open().await?;
//! let report = keeper.turn().await?;
//! assert_eq!((report.settled.len(), report.waiting), (0, 0));
//! # Ok::<(), agirails::Error>(())
//! # }).unwrap();
//! ```
//!
//! With [`KeeperBuilder::recover`] it also returns the money of work that a provider began and abandoned, on
//! kernels that allow it.
//!
//! Source: `ACTPKernel.transitionState`, DELIVERED to SETTLED; `ACTPKernel.recoverStalledInProgress`.

mod duties;
mod event;
mod report;
mod round;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use alloy_primitives::Address;

use self::{
    duties::{Duties, Owner},
    event::Listener,
    round::Chores,
};
pub use self::{
    event::{Event, Recovery, Settlement},
    report::{Metrics, Report},
};
#[cfg(feature = "chain")]
use crate::kernel::chain::Position;
use crate::{
    client::{ACTPClient, SettlementLimits},
    error::{Code, Error, Kind, Result, Retry},
    kernel::require_recovery,
    storage::Storage,
};

/// How long a round that failed is waited after: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How a [`Keeper`] is opened.
#[derive(Debug, Clone)]
#[must_use]
pub struct KeeperBuilder {
    client: ACTPClient,
    storage: Option<Storage>,
    providers: Vec<Address>,
    limits: SettlementLimits,
    recovers: bool,
    is_dry_run: bool,
    from_block: Option<u64>,
    listener: Listener,
}

impl KeeperBuilder {
    /// Settles, and recovers, the transactions of these providers only. The default, an empty list, is all providers.
    pub fn providers(mut self, providers: impl IntoIterator<Item = Address>) -> Self {
        self.providers = providers.into_iter().collect();
        self
    }

    /// With `true` the keeper also returns the money of work that its provider began and did not deliver until
    /// the deadline and the kernel's grace had passed: all that is left in escrow, to the requester. By default
    /// it only counts such work, as `stalled`.
    ///
    /// Source: `ACTPKernel.recoverStalledInProgress`.
    pub fn recover(mut self, recovers: bool) -> Self {
        self.recovers = recovers;
        self
    }

    /// Sets what a settlement must bring to be sent, and what a recovery must return.
    pub fn limits(mut self, limits: SettlementLimits) -> Self {
        self.limits = limits;
        self
    }

    /// With `true` the keeper only says what it would settle. It sends nothing and writes nothing, its place
    /// among the events included, and needs no key.
    pub fn dry_run(mut self, is_dry_run: bool) -> Self {
        self.is_dry_run = is_dry_run;
        self
    }

    /// Begins with this block of the chain, where no state file says how far the events were read. The
    /// default is the block of the kernel's deployment. What was delivered before it is not found.
    #[cfg(feature = "chain")]
    pub fn from_block(mut self, block: u64) -> Self {
        self.from_block = Some(block);
        self
    }

    /// Keeps the state file in another place than the client's state directory.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Has events told to the application, in place of `tracing`. An event's `Display` is a line for a log,
    /// and serde makes it JSON.
    pub fn on_event(mut self, listen: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(listen);
        self
    }

    /// Opens the state file. Nothing is settled before [`Keeper::turn`] or [`Keeper::run`].
    ///
    /// # Errors
    /// [`Code::KeyMissing`] on a chain without a key, since nothing could be settled: give the client one,
    /// or ask for a dry run. [`Code::UnsupportedKernel`] for recovering on a kernel before F-6, which allows
    /// nobody to. [`Code::InvalidSettings`] for a first block in mode mock, which has no blocks.
    /// The storage's codes.
    pub async fn open(self) -> Result<Keeper> {
        let Self { client, storage, providers, limits, recovers, is_dry_run, from_block, listener } =
            self;
        if client.is_read_only() && !is_dry_run {
            let message = format!(
                "this client of {} has no key, so it could settle nothing",
                client.address()
            );
            return Err(Error::new(Code::KeyMissing, message).with_hint(
                "give the keeper's client a private key or a keystore, or ask for a dry run",
            ));
        }
        if recovers {
            require_recovery(client.network())?;
        }
        if let (Some(block), Some(_)) = (from_block, client.mock()) {
            return Err(Error::invalid(
                Code::InvalidSettings,
                "from_block",
                &block.to_string(),
                "names a block, and mode mock has none",
            )
            .with_hint("leave it out: all events are read"));
        }
        #[cfg(feature = "chain")]
        let start = from_block.map_or(0, |block| Position::before(block).cursor());
        #[cfg(not(feature = "chain"))]
        let start = 0;
        let storage = storage.unwrap_or_else(|| client.storage().clone());
        let (network, address) = (client.network(), client.address());
        let duties = match is_dry_run {
            true => Duties::copy(&storage, network, address, recovers).await?,
            false => Duties::open(storage, network, address, recovers).await?,
        };
        // A development chain that was started anew has the same contracts and other events.
        if client.network().is_local() && client.mock().is_none() {
            duties.rewind(start).await?;
        }
        let inner = Arc::new(Inner {
            client,
            duties,
            providers,
            limits,
            is_dry_run,
            start,
            owner: owner()?,
            listener,
            chores: tokio::sync::Mutex::default(),
            under_way: UnderWay::default(),
            clock: Mutex::default(),
        });
        Ok(Keeper { inner })
    }
}

/// Settles what is due, of all providers or of those that it was given.
///
/// Several may run with one key on one machine: they share a state file, and one of them works at a time.
/// Clones are the same keeper.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: ACTPClient,
    duties: Duties,
    providers: Vec<Address>,
    limits: SettlementLimits,
    is_dry_run: bool,
    start: u64,
    owner: Owner,
    listener: Listener,
    /// Held for a round: one keeper does one at a time.
    chores: tokio::sync::Mutex<Chores>,
    under_way: UnderWay,
    /// What the kernel's clock read, and when.
    clock: Mutex<Option<(Instant, u64)>>,
}

impl Keeper {
    /// Starts with the defaults: all providers, and the usual [`SettlementLimits`].
    pub fn builder(client: ACTPClient) -> KeeperBuilder {
        KeeperBuilder {
            client,
            storage: None,
            providers: vec![],
            limits: SettlementLimits::default(),
            recovers: false,
            is_dry_run: false,
            from_block: None,
            listener: Listener::default(),
        }
    }

    /// Does one round: reads new events, ends what is due, and waits until that stands on chain.
    ///
    /// Where another keeper of the same key is at work, it does nothing and says so. Dropping the future
    /// loses nothing: the next round goes on, after nine seconds at most.
    ///
    /// # Errors
    /// The network's, which the next round may not meet again, and the storage's. What the kernel refuses of
    /// a single transaction is an event and a number of the report.
    pub async fn turn(&self) -> Result<Report> {
        self.inner.round(&AtomicBool::new(false)).await
    }

    /// Does one round after the other until `stop` is ready: each second on a local chain and in mode mock,
    /// else every ten. Then it begins nothing more and returns once what was sent is settled.
    ///
    /// # Errors
    /// Those of the storage that do not pass by themselves. After an error of the network it goes on, more
    /// slowly.
    ///
    /// ```no_run
    /// # async fn example(client: agirails::ACTPClient) -> agirails::Result<()> {
    /// use std::sync::Arc;
    ///
    /// use agirails::keeper::Keeper;
    ///
    /// let keeper = Keeper::builder(client).open().await?;
    /// let stop = Arc::new(tokio::sync::Notify::new());
    /// let stopping = stop.clone();
    /// let keeping = tokio::spawn(async move { keeper.run(stopping.notified()).await });
    /// // Later:
    /// stop.notify_one();
    /// keeping.await.unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let mut stop = pin!(stop);
        let mut failures = 0;
        let outcome = loop {
            let Some(outcome) = self.round_unless(stop.as_mut()).await else { break Ok(()) };
            let pause = match outcome {
                Ok(_) => {
                    failures = 0;
                    Duration::from_secs(if self.inner.client.network().is_local() { 1 } else { 10 })
                }
                Err(error) if error.kind() == Kind::Storage && error.retry() == Retry::Never => {
                    break Err(error);
                }
                Err(error) => {
                    let pause = BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1);
                    failures += 1;
                    let (message, next_try_seconds) = (format!("{error:#}"), pause.as_secs());
                    self.inner.listener.tell(&Event::RoundFailed { message, next_try_seconds });
                    pause
                }
            };
            if tokio::time::timeout(pause, stop.as_mut()).await.is_ok() {
                break Ok(());
            }
        };
        self.inner.duties.release(self.inner.owner).await?;
        outcome
    }

    /// A round; `None` once `stop` is ready and nothing is under way any more.
    async fn round_unless(
        &self,
        mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Option<Result<Report>> {
        let stopped = AtomicBool::new(false);
        let mut round = pin!(self.inner.round(&stopped));
        poll_fn(|context| {
            let is_stopped = stopped.load(Ordering::Relaxed) || {
                let is_ready = stop.as_mut().poll(context).is_ready();
                stopped.fetch_or(is_ready, Ordering::Relaxed);
                is_ready
            };
            let ended = round.as_mut().poll(context);
            match is_stopped {
                // Reading is done again by the next one who comes.
                true if ended.is_ready() || self.inner.under_way.is_empty() => Poll::Ready(None),
                true => Poll::Pending,
                false => ended.map(Some),
            }
        })
        .await
    }

    /// What was done since the state file was made, and what is to be done. Asks the kernel nothing once
    /// a round has read its clock.
    ///
    /// # Errors
    /// The storage's, and before the first round the network's.
    pub async fn metrics(&self) -> Result<Metrics> {
        let inner = &self.inner;
        let (counters, places) =
            (inner.duties.counters().await?, inner.duties.places(inner.start).await?);
        let known = *inner.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match known {
            Some((read, then)) => then.saturating_add(read.elapsed().as_secs()),
            None => inner.now().await?,
        };
        let backlog = inner.duties.backlog(&inner.providers, now).await?;
        Ok(Metrics {
            settled_total: counters.settled,
            recovered_total: counters.recovered,
            waiting: backlog.waiting,
            unprofitable: backlog.unprofitable,
            disputed: backlog.disputed,
            stalled: backlog.stalled,
            oldest_due_seconds: backlog.first_due_at.map_or(0, |due| now.saturating_sub(due)),
            failures_total: counters.failures,
            gas_wei_total: counters.gas_wei,
            cursor: places.read,
        })
    }
}

impl Inner {
    /// The kernel's clock.
    async fn now(&self) -> Result<u64> {
        let now = self.client.now().await?;
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), now));
        Ok(now)
    }

    /// Whether this provider's transactions are this keeper's work.
    fn is_for(&self, provider: Address) -> bool {
        self.providers.is_empty() || self.providers.contains(&provider)
    }
}

fn owner() -> Result<Owner> {
    let mut owner = Owner::default();
    getrandom::fill(&mut owner).map_err(|error| {
        Error::new(Code::Internal, format!("the system gave no random bytes: {error}"))
            .with_hint("please report this")
    })?;
    Ok(owner)
}

/// Moves that were begun and have not ended.
#[derive(Debug, Clone, Default)]
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// Counts until it is dropped.
    fn begin(&self) -> Begun {
        self.0.fetch_add(1, Ordering::Relaxed);
        Begun(self.clone())
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

struct Begun(UnderWay);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
