//! The paywall: every paid call is served exactly once and delivered on chain, whichever process or
//! connection fails.
//!
//! Admission verifies the transaction once and claims the call, durably and for one worker only; then
//! the handler runs. Its success is kept together with its proof and the duty to deliver before the
//! first byte leaves, and a repeat of the request gets the same bytes. The outbox moves what is owed on
//! chain until it stands there, and gives back what will not be delivered. Exactly-once does not cover
//! a handler whose process is killed in the middle: it runs again, so it gets an idempotency key that
//! is the same for every run.
//!
//! ```
//! use agirails::{ACTPClient, Address, paywall::{Answer, Charge, Entry, Incoming, Paywall}};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! let provider = Address::repeat_byte(0xaa);
//! let client = ACTPClient::builder().address(provider).in_memory().connect().await?;
//! let paywall = Paywall::builder(client).open().await?;
//! let charge = paywall.charge(Charge::new("POST /api/generate", "0.10".parse()?))?;
//!
//! let incoming = Incoming::new("POST", "/api/generate", b"{}");
//! match paywall.enter(&charge, &incoming, None).await {
//!     Entry::Run(run) => drop(run.finish(Answer::new(200, "done")).await),
//!     Entry::Answer(rejected) => assert_eq!(rejected.status, 402),
//! }
//! # Ok::<(), agirails::Error>(())
//! # }).unwrap();
//! ```

mod admission;
mod answer;
mod books;
mod builtin_routes;
mod call;
mod clock;
mod copying;
#[cfg(all(test, feature = "postgres"))]
mod copying_tests;
mod dashboard;
mod event;
mod evidence;
mod exchange;
mod following;
mod former_keys;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod health;
#[cfg(feature = "tower")]
mod layer;
mod meters;
mod outbox;
mod price;
mod process;
mod reason;
mod rejection;
mod repeat;
mod request;
mod response;
#[cfg(feature = "disputes")]
mod rulings;
mod run;
mod settings;
mod settlement;
mod signer;
mod store;
mod webhook;

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use alloy_primitives::{B256, hex, keccak256};
use lru::LruCache;

#[cfg(feature = "tower")]
pub use self::layer::{Pages, PaidBody, PaywallLayer, PaywallService};
use self::{
    admission::Admitted,
    clock::Clock,
    event::Listener,
    health::StoreHealth,
    meters::Meters,
    process::Process,
    request::PublicUrl,
    store::{Scope, Store},
};
pub use self::{
    admission::Entry,
    answer::{Answer, Headers},
    books::{PaymentQuery, PaymentRecord, ReportQuery, ReportRow},
    call::CallPayment,
    copying::{CopiedTable, StorePlace, copy_store},
    dashboard::{Dashboard, DashboardRequest},
    event::{Event, Level},
    exchange::{DRAIN_BYTES, DRAIN_TIME, Exchange},
    headers::HIDDEN_HEADERS,
    price::{Charge, Price, SELF_CANCELLABLE},
    reason::Reason,
    request::{Incoming, RequestHead},
    response::{Action, Chunk, Head},
    run::{End, Run},
    settings::{Deliver, Settings, Settle, Unsigned},
    store::ReportBy,
    webhook::Webhook,
};
use crate::{
    client::{ACTPClient, LeastNet},
    error::{Code, Error, Result},
    fork::Renewed,
    kernel::require_agreements,
    protocol::{TransactionId, Usdc},
    storage::Storage,
};

/// How long a database that is not there yet is waited for: services start together.
#[cfg(feature = "postgres")]
const DATABASE_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// A provider's paywall. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Paywall {
    inner: Arc<Inner>,
}

struct Inner {
    client: ACTPClient,
    /// Of the keys that the provider used before; they have none behind them.
    former: Vec<Arc<Inner>>,
    is_former: bool,
    /// Payments beside the store whose keys nobody has, as they were found last.
    strangers: Mutex<Vec<store::Stranger>>,
    settings: Settings,
    unsigned: Unsigned,
    one_store: bool,
    /// What transactions are bound to.
    service: B256,
    public: PublicUrl,
    store: Box<dyn Store>,
    store_health: StoreHealth,
    clock: Clock,
    /// What a settlement must bring, once it was asked.
    least_net: Mutex<Option<LeastNet>>,
    meters: Meters,
    listener: Listener,
    webhooks: Renewed<webhook::Connections>,
    verified: Mutex<admission::Verified>,
    charges: Mutex<Vec<Arc<Charge>>>,
    /// The least that any call may cost, in base units.
    cheapest: AtomicU64,
    warned: AtomicBool,
    /// Since when the store works as a copy of another one, once it was asked.
    restored: OnceLock<Option<u64>>,
    /// What is not given back for that, and was told.
    spared: Mutex<HashSet<TransactionId>>,
    #[cfg(feature = "disputes")]
    rulings: Mutex<rulings::Told>,
    process: Renewed<Process>,
}

/// Where a paywall keeps its claims.
#[derive(Clone)]
enum Place {
    Sqlite(Storage),
    Postgres(String),
}

/// Shows no URL: a password stands in it.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(storage) => f.debug_tuple("Sqlite").field(storage).finish(),
            Self::Postgres(_) => f.write_str("Postgres"),
        }
    }
}

/// Sets a paywall up: [`Paywall::builder`].
#[derive(Debug, Clone)]
pub struct PaywallBuilder {
    client: ACTPClient,
    former_clients: Vec<ACTPClient>,
    place: Option<Place>,
    settings: Settings,
    listener: Listener,
}

impl PaywallBuilder {
    /// Keeps claims in a SQLite file in this place, which all workers of a machine share. The
    /// default is the client's state directory.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.place = Some(Place::Sqlite(storage));
        self
    }

    /// Keeps claims in PostgreSQL, for several machines: `postgresql://user:password@host/database`.
    /// Needs the feature `postgres`.
    pub fn database(mut self, url: impl Into<String>) -> Self {
        self.place = Some(Place::Postgres(url.into()));
        self
    }

    /// Goes on with the payments of a key that the provider used before, each under that key: what is
    /// open of them is served, delivered, settled and given back. Offers name the builder's own client
    /// alone. Leave it out once nothing is open of it (`formerKeys` of `/health`). Repeat it for more.
    ///
    /// The books have a store for each key: [`Paywall::payments`] and [`Paywall::report`] are the new
    /// key's; the metrics count all.
    pub fn former_client(mut self, client: ACTPClient) -> Self {
        self.former_clients.push(client);
        self
    }

    /// Replaces the settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Has events told to the application, in place of `tracing`.
    pub fn on_event(mut self, listen: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(listen);
        self
    }

    /// Opens the store, and begins to deliver what it owes. Must be called in a tokio runtime
    /// that stays.
    ///
    /// # Errors
    /// [`Code::InvalidNumber`] for settings that contradict one another,
    /// [`Code::KeyMissing`] on a chain without a key, since nothing could be delivered,
    /// [`Code::InvalidSettings`] for a former client of another network or of the same address, and the
    /// storage's codes.
    pub async fn open(self) -> Result<Paywall> {
        let Self { client, former_clients, place, settings, listener } = self;
        settings.check()?;
        check_former(&client, &former_clients)?;
        let place = place.unwrap_or_else(|| Place::Sqlite(client.storage().clone()));
        let mut former = vec![];
        for client in former_clients {
            let inner = Inner::open(client, None, &place, &settings, &listener);
            former.push(Arc::new(inner.await?));
        }
        let inner = Inner::open(client, Some(former), &place, &settings, &listener).await?;
        let paywall = Paywall { inner: Arc::new(inner) };
        paywall.tend();
        Ok(paywall)
    }
}

fn check_former(client: &ACTPClient, former: &[ACTPClient]) -> Result<()> {
    let place = |client: &ACTPClient| (client.network().chain_id, client.network().kernel);
    for (at, other) in former.iter().enumerate() {
        let mut known = former[..at].iter().chain([client]).map(ACTPClient::address);
        let problem = match other.address() {
            address if known.any(|known| known == address) => "is named twice",
            _ if place(other) != place(client) => "is of another network",
            _ => continue,
        };
        let message = format!("the former client of {} {problem}", other.address());
        return Err(Error::new(Code::InvalidSettings, message)
            .with_hint("name each key that the provider used before once, on the same network")
            .with_facts(|facts| facts.field = Some("former_clients")));
    }
    Ok(())
}

impl Inner {
    async fn open(
        client: ACTPClient,
        former: Option<Vec<Arc<Self>>>,
        place: &Place,
        settings: &Settings,
        listener: &Listener,
    ) -> Result<Self> {
        let public = PublicUrl::parse(settings.public_url.as_deref())?;
        if client.is_read_only() {
            let message = format!(
                "this client of {} has no key, so it could deliver nothing",
                client.address()
            );
            return Err(Error::new(Code::KeyMissing, message)
                .with_hint("give the provider's client its private key or keystore"));
        }
        let network = client.network();
        if settings.require_agreement {
            require_agreements(network)?;
        }
        let scope = Scope::of_client(&client);
        let store: Box<dyn Store> = match place {
            Place::Sqlite(storage) => Box::new(
                store::SqliteStore::open(
                    storage.clone(),
                    &scope,
                    settings.survive_power_cut.unwrap_or(false),
                )
                .await?,
            ),
            Place::Postgres(url) => {
                open_database(url, &scope, settings.survive_power_cut.unwrap_or(true)).await?
            }
        };
        if settings.webhook.is_some() {
            store.keep_webhooks();
        }
        let unsigned = settings.unsigned.unwrap_or(match network.has_test_money() {
            true => Unsigned::Serve,
            false => Unsigned::Refuse,
        });
        let one_store = settings.one_store.unwrap_or(network.has_test_money());
        if let Some(place) = store.moved_to().await? {
            let message = format!("the paywall's store was copied to {place}, and is closed");
            return Err(Error::new(Code::StorageUnavailable, message)
                .with_hint("serve from there: what is open here could be spent a second time"));
        }
        let service = store.service().await?;
        Ok(Self {
            clock: Clock::new(client.clone()),
            client,
            is_former: former.is_none(),
            former: former.unwrap_or_default(),
            strangers: Mutex::default(),
            settings: settings.clone(),
            unsigned,
            one_store,
            service,
            public,
            store,
            store_health: StoreHealth::default(),
            least_net: Mutex::default(),
            meters: Meters::default(),
            listener: listener.clone(),
            webhooks: Renewed::new(webhook::Connections::new),
            verified: Mutex::new(LruCache::new(admission::REMEMBERED)),
            charges: Mutex::default(),
            cheapest: AtomicU64::new(u64::MAX),
            warned: AtomicBool::new(false),
            restored: OnceLock::new(),
            spared: Mutex::default(),
            #[cfg(feature = "disputes")]
            rulings: Mutex::default(),
            process: Renewed::new(Process::new),
        })
    }
}

#[cfg(feature = "postgres")]
async fn open_database(url: &str, scope: &Scope, is_synced: bool) -> Result<Box<dyn Store>> {
    let store = store::PostgresStore::connect(url, scope, DATABASE_WAIT).await?;
    Ok(Box::new(store.synced(is_synced)))
}

#[cfg(not(feature = "postgres"))]
async fn open_database(_url: &str, _scope: &Scope, _is_synced: bool) -> Result<Box<dyn Store>> {
    Err(no_postgres())
}

#[cfg(not(feature = "postgres"))]
fn no_postgres() -> Error {
    Error::new(Code::InvalidSettings, "this build has no PostgreSQL store")
        .with_hint("build agirails with the feature postgres")
}

impl Paywall {
    /// Starts with the defaults. The client is the provider's: its address is paid.
    pub fn builder(client: ACTPClient) -> PaywallBuilder {
        PaywallBuilder {
            client,
            former_clients: vec![],
            place: None,
            settings: Settings::default(),
            listener: Listener::default(),
        }
    }

    /// The provider's client.
    pub fn client(&self) -> &ACTPClient {
        &self.inner.client
    }

    /// Puts a price on a route, which the price page shows from then on.
    ///
    /// # Errors
    /// [`Code::InvalidAmount`] for a price that the protocol cannot carry,
    /// [`Code::InvalidNumber`] for a minimum of time that is too short.
    pub fn charge(&self, charge: Charge) -> Result<Arc<Charge>> {
        self.check_charge(&charge)?;
        let charge = Arc::new(charge);
        let mut charges = lock(&self.inner.charges);
        charges.retain(|known| known.name != charge.name);
        charges.push(charge.clone());
        Ok(charge)
    }

    /// Checks a charge as [`Self::charge`] does, and puts it on no route yet: for adapters that
    /// learn a route's name later than its price. Balances stay open for calls at that price.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn check_charge(&self, charge: &Charge) -> Result<()> {
        charge.check(&self.inner.settings)?;
        for inner in self.inner.all() {
            inner.cheapest.fetch_min(charge.floor().0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lets a request in, or answers it. `price` is the request's where the route's charge is
    /// [`Charge::per_request`], and of no effect elsewhere.
    pub async fn enter(
        &self,
        charge: &Arc<Charge>,
        incoming: &Incoming,
        price: Option<Usdc>,
    ) -> Entry {
        self.tend();
        match self.inner.enter(charge, incoming, price, None).await {
            Admitted::Run(run) => Entry::Run(run),
            Admitted::Answer(answer) => Entry::Answer(answer),
            Admitted::Repeat(repeated) => Entry::Answer(match repeated.whole().await {
                Ok(answer) => answer,
                Err(error) => {
                    let refused = self.inner.store_failed(error);
                    self.inner.turn_away(charge, incoming, price, refused).await
                }
            }),
        }
    }

    /// All checks but the claim: the rejection that a request would get, `None` where it would go on
    /// to its claim. Nothing is used up. For what cannot be a run: a WebSocket before it opens.
    pub async fn check(
        &self,
        charge: &Arc<Charge>,
        incoming: &Incoming,
        price: Option<Usdc>,
    ) -> Option<Answer> {
        self.tend();
        self.inner.look(charge, incoming, price).await
    }

    /// What transactions are bound to: the `serviceHash` of its offers. It is kept in the store, and
    /// so is the same for all workers that share it.
    pub fn service_hash(&self) -> B256 {
        self.inner.service
    }

    /// The longest request body that adapters read.
    pub fn max_body_bytes(&self) -> usize {
        self.inner.settings.max_body_bytes
    }

    /// Answers the free routes: `/api/pricing`, `/health`, `/metrics`, `/api/payments/…`. `None`
    /// for all other paths.
    pub async fn page(&self, incoming: &Incoming) -> Option<Answer> {
        self.page_under("", incoming).await
    }

    /// Answers the free routes as [`Self::page`] does, below a path that the application is mounted
    /// under. It is a part of the request's target, which callers sign.
    pub async fn page_under(&self, mount: &str, incoming: &Incoming) -> Option<Answer> {
        self.tend();
        self.inner.page(mount, incoming).await
    }

    /// Answers the free routes as [`Self::page`] does, for a request as an adapter has it.
    pub async fn page_for<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        head: RequestHead<'_, impl IntoIterator<Item = (N, V)>>,
        body: &[u8],
    ) -> Option<Answer> {
        let (mut incoming, _) = Incoming::read(head, &self.inner.public, &[]);
        incoming.body_hash = keccak256(body);
        let mount = incoming.mount.clone();
        self.page_under(&mount, &incoming).await
    }

    /// Ends an open payment now: delivers it where something was served, else gives it back.
    /// Returns where it stands, such as `"delivering"`, and `"open"` where a call is running, or
    /// where nothing was served and it is not bound to this service: [`Self::refund`] gives such a
    /// one back. `None` where no call was ever made with it.
    ///
    /// # Errors
    /// The storage's codes.
    pub async fn close(&self, id: TransactionId) -> Result<Option<&'static str>> {
        self.tend();
        let inner = self.inner.former_with(id).await.unwrap_or(&self.inner);
        let stage = inner.store.close(id).await?;
        inner.process.get().wake();
        Ok(stage.map(store::Stage::as_str))
    }

    /// Gives a transaction back in full, by the provider's own decision: no call is served with it
    /// any more, and it becomes CANCELLED on chain. What was served with it is not paid, since the
    /// protocol knows no partial refund; a call that is running is rejected when it ends.
    ///
    /// The decision is durable when this returns; the outbox carries it out, whatever happens to
    /// this process. Returns `"returning"`, and `"returned"` once CANCELLED stands on chain. Asked
    /// again, it changes nothing. A transaction that another store of the same key serves is given
    /// back as well.
    ///
    /// # Errors
    /// [`crate::Refusal::InvalidTransition`] for a transaction that is delivered, settled, disputed or
    /// not funded, or whose delivery is under way; [`crate::Refusal::OnlyProvider`] for another
    /// provider's; [`crate::Refusal::TxMissing`]; the kernel's and the storage's codes.
    ///
    /// ```
    /// use agirails::{ACTPClient, Address, Refusal, TransactionId, paywall::Paywall};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let provider = Address::repeat_byte(0xaa);
    /// let client = ACTPClient::builder().address(provider).in_memory().connect().await?;
    /// let paywall = Paywall::builder(client).open().await?;
    /// let unknown = paywall.refund(TransactionId::ZERO).await.unwrap_err();
    /// assert_eq!(unknown.refusal(), Some(Refusal::TxMissing));
    /// # Ok::<(), agirails::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn refund(&self, id: TransactionId) -> Result<&'static str> {
        self.tend();
        self.inner.whose(id).await?.refund(id).await.map(store::Stage::as_str)
    }

    /// How many deliveries and refunds are owed on chain, those of former keys included.
    ///
    /// # Errors
    /// The storage's codes.
    pub async fn owed(&self) -> Result<u64> {
        let mut owed = 0;
        for inner in self.inner.all() {
            let backlog = inner.backlog().await?;
            owed += backlog.deliveries + backlog.returns;
        }
        Ok(owed)
    }

    /// Has one task of this process tend each store; a forked child begins its own.
    fn tend(&self) {
        for inner in self.inner.all() {
            let process = inner.process.get();
            if process.begin_tending() {
                outbox::tend(&Arc::downgrade(inner), process);
            }
        }
    }
}

impl Inner {
    fn cheapest(&self) -> Usdc {
        Usdc(self.cheapest.load(Ordering::Relaxed))
    }

    fn warn_of_unsigned(&self) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            self.listener.tell(
                Level::Warning,
                "an unsigned request was served: a transaction id is public, so anybody could \
                 have made it. Where money is real, such requests are refused; unsigned=\"refuse\" \
                 does that here too",
            );
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paywall").field("provider", &self.client.address()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Paywall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A panic under one of these locks leaves a map or a list as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that no other process has.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // A system without randomness: the time and the process tell processes apart still.
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64);
        bytes[..8].copy_from_slice(&now.to_be_bytes());
        bytes[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    }
    bytes
}

/// What ties a rejection to the operator's log.
fn request_id() -> String {
    hex::encode(&random()[..8])
}
