//! Pays for calls: reads what a service wants, checks what may be spent, puts the money into
//! escrow, calls, and compares the answer with the provider's receipt.
//!
//! ```no_run
//! use agirails::{ACTPClient, Address, consumer::{Budget, Consumer, PaidCall}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> agirails::Result<()> {
//! // On mock an address is enough; on a chain: `.mode(Mode::Testnet).private_key(key)`.
//! let client = ACTPClient::builder().address(Address::repeat_byte(0xc0)).connect().await?;
//! let budget = Budget { per_day: Some("10".parse()?), ..Budget::default() };
//! let origin = "http://127.0.0.1:3000";
//! let consumer = Consumer::builder(client).budget(budget).trust(origin).open().await?;
//!
//! let call = PaidCall::new("POST", format!("{origin}/api/generate"), "0.25".parse()?)
//!     .json(&serde_json::json!({"prompt": "a haiku"}));
//! let answer = consumer.call(call).await?;
//! println!("{} {:?}", answer.status, answer.payment);
//! # Ok(())
//! # }
//! ```
//!
//! That is the service of `examples/axum_provider.rs`; `examples/rust_consumer.rs` is the whole
//! program.
//!
//! Nothing is created before every check has passed, and every step is on record before it is
//! taken: a purchase that ends unfinished, by an error or by `kill -9`, goes on where it ended
//! when it is made again with its key ([`PaidCall::purchase_key`]), and one purchase never pays
//! twice.
//!
//! Before it funds, a consumer knows whether the money could come back without the provider. Below
//! 1 USDC it could not: the penalty of a requester's cancellation would not pay the protocol's
//! least fee, so the contract refuses it. Such calls are bought singly only from providers that
//! are trusted ([`ConsumerBuilder::trust`]); from others the bundle is taken that the service
//! offers, and later calls are drawn from it. From the moment a provider has begun to work nobody
//! but the provider can give the money back, whatever the amount.

mod budget;
mod driver;
mod encoding;
mod evidence;
mod exchange;
mod funding;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod inspection;
mod offer;
mod purchase;
mod records;
mod settlement;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy_primitives::{Address, Bytes, hex};
use serde_json::Value;

pub use self::{
    budget::{Budget, Spent},
    http::{HttpFailure, HttpOutcome, HttpRequest, HttpResponse, Step},
    inspection::{Choice, Inspection, OfferedPayment},
    offer::PaymentKind,
    purchase::{Purchase, Waiter},
    settlement::{Balance, PaymentRecord, Report},
};
use self::{exchange::Keeping, http::Endpoint, records::Records};
use crate::{
    client::ACTPClient,
    error::{Code, Error, Result},
    fork::Renewed,
    protocol::{
        TransactionId, Usdc,
        id::parse_address,
        money::MAX_AMOUNT,
        paid_request::{
            IDEMPOTENCY_HEADER, MAX_PRICE_HEADER, SESSION_HEADER, SIGNATURE_HEADER,
            TRANSACTION_HEADER,
        },
        receipt::Receipt,
        service::SERVICE_KEY_HEADER,
    },
    storage::Storage,
    wall_clock::wall_seconds,
};

/// What is locked up for an untrusted provider at least: below, it could not be taken back.
const LEAST_BUNDLE: Usdc = Usdc(1_000_000);
/// The longest answer, where the caller does not say: 64 MB.
const BODY_LIMIT: usize = 64 << 20;
/// How long a purchase may take, where the caller does not say.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long a purchase may take at most: beyond a year, clocks overflow before callers lose patience.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(31_536_000);
/// How long one request may take, where the caller does not say.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// For how long a bundle may be usable at most: so long a provider could keep the money waiting.
const LONGEST_BUNDLE_SECONDS: u64 = 30 * budget::DAY;
/// The length of a purchase key, at most.
const KEY_CHARACTERS: usize = 255;

/// One call that may cost something.
#[derive(Clone)]
pub struct PaidCall {
    pub(self) method: String,
    pub(self) url: String,
    pub(self) headers: Vec<(String, String)>,
    pub(self) body: Bytes,
    pub(self) max_amount: Usdc,
    pub(self) max_funding: Option<Usdc>,
    pub(self) purchase_key: Option<String>,
    pub(self) timeout: Duration,
    pub(self) request_timeout: Duration,
    pub(self) body_limit: usize,
    pub(self) settle: bool,
    pub(self) lasts: Option<Duration>,
    pub(self) pays: bool,
}

impl PaidCall {
    /// A call of this URL that may cost `max_amount` at most.
    pub fn new(method: &str, url: impl Into<String>, max_amount: Usdc) -> Self {
        Self {
            method: method.to_ascii_uppercase(),
            url: url.into(),
            headers: vec![],
            body: Bytes::new(),
            max_amount,
            max_funding: None,
            purchase_key: None,
            timeout: TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            body_limit: BODY_LIMIT,
            settle: false,
            lasts: None,
            pays: true,
        }
    }

    /// The same call, with another limit to what it may cost.
    pub fn max_amount(mut self, amount: Usdc) -> Self {
        self.max_amount = amount;
        self
    }

    /// A header. `Idempotency-Key` is taken as [`Self::purchase_key`]; those of the payment itself
    /// are refused.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A JSON body, with its content type.
    pub fn json(self, value: &Value) -> Self {
        self.header("Content-Type", "application/json").body(value.to_string().into_bytes())
    }

    /// What may be put into escrow for it, where only a bundle is sold or safe. Default: 1 USDC,
    /// or `max_amount` where that is more.
    pub fn max_funding(mut self, amount: Usdc) -> Self {
        self.max_funding = Some(amount);
        self
    }

    /// Names the purchase, 1 to 255 visible ASCII characters: whoever makes the same call with the
    /// same key, in whatever process, goes on with this purchase and gets its answer, and pays
    /// nothing more. Default: a random one, which errors tell.
    pub fn purchase_key(mut self, key: impl Into<String>) -> Self {
        self.purchase_key = Some(key.into());
        self
    }

    /// How long all of it may take, repetitions included; funding alone takes as long as the
    /// network does, since it is never left half done. Default: 300 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long one request may take until its answer is there. Default: 60 seconds.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How many bytes an answer may have. Default: 64 MB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Whether to wait, for 30 seconds at most, until the provider has delivered, and to settle
    /// then. For calls that took a whole transaction; a balance is settled when it is used up
    /// ([`Consumer::settle`]).
    pub fn settle(mut self, settle: bool) -> Self {
        self.settle = settle;
        self
    }

    /// For how long calls can be made with a bundle that is bought for it: from its purchase on, at
    /// most 30 days. What is left of it then goes to the provider. A service whose bundles end
    /// earlier sells none. Default: as long as the service says, at most a day.
    ///
    /// Until then the money stays in escrow, also where the provider falls silent.
    pub fn lasts(mut self, time: Duration) -> Self {
        self.lasts = Some(time);
        self
    }

    /// Whether it may be paid for. Without, a 402 is handed back as any other answer. For HTTP
    /// libraries that follow redirects: where a service sends its caller to another origin, nobody
    /// has said that the other one may be paid. Default: true.
    pub fn pays(mut self, pays: bool) -> Self {
        self.pays = pays;
        self
    }

    fn most_funding(&self) -> Usdc {
        self.max_funding.unwrap_or(LEAST_BUNDLE.max(self.max_amount))
    }

    /// Headers that are ours to set, or the HTTP library's, or that would make two requests of one.
    fn tidy(&mut self) -> Result<()> {
        let refuse = |field: &'static str, problem: &str, hint: &str| {
            Err(Error::new(Code::InvalidSettings, format!("{field} {problem}"))
                .with_hint(hint)
                .with_facts(|facts| facts.field = Some(field)))
        };
        let is = |name: &str, known: &str| name.eq_ignore_ascii_case(known);
        const OURS: [&str; 5] = [
            TRANSACTION_HEADER,
            SIGNATURE_HEADER,
            SESSION_HEADER,
            MAX_PRICE_HEADER,
            SERVICE_KEY_HEADER,
        ];
        for (name, value) in &self.headers {
            if OURS.iter().any(|known| is(name, known)) {
                let hint = "leave it out: the consumer sets it";
                return refuse("headers", &format!("must not hold {name}"), hint);
            }
            let is_token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let is_name = !name.is_empty() && name.bytes().all(is_token);
            let is_value =
                value.bytes().all(|byte| byte == b'\t' || (32..127).contains(&byte) || byte > 127);
            if !is_name || !is_value {
                let problem = "must be names and values that HTTP can carry";
                return refuse("headers", problem, "remove line breaks and control characters");
            }
            if is(name, IDEMPOTENCY_HEADER) && self.purchase_key.is_none() {
                self.purchase_key = Some(value.trim().to_owned());
            }
        }
        const NOT_OURS: [&str; 6] = [
            IDEMPOTENCY_HEADER,
            "Accept-Encoding",
            "Connection",
            "Content-Length",
            "Host",
            "Transfer-Encoding",
        ];
        for (field, amount) in
            [("max_amount", Some(self.max_amount)), ("max_funding", self.max_funding)]
        {
            check_limit(field, amount)?;
        }
        if let Some(lasts) = self.lasts
            && !(1..=LONGEST_BUNDLE_SECONDS).contains(&lasts.as_secs())
        {
            let problem = format!("must be 1 to {LONGEST_BUNDLE_SECONDS} seconds");
            let value = lasts.as_secs_f64().to_string();
            return Err(Error::invalid(Code::InvalidNumber, "lasts", &value, &problem)
                .with_hint("leave it out to take a bundle as the service sells it"));
        }
        self.headers.retain(|(name, _)| !NOT_OURS.iter().any(|known| is(name, known)));
        let is_method =
            !self.method.is_empty() && self.method.bytes().all(|b| b.is_ascii_uppercase());
        if !is_method || matches!(&*self.method, "CONNECT" | "TRACE") {
            let hint = "pass GET, POST, PUT, PATCH or DELETE";
            return refuse("method", "must be an HTTP method that can be paid for", hint);
        }
        match &self.purchase_key {
            Some(key)
                if !(1..=KEY_CHARACTERS).contains(&key.len())
                    || !key.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                let hint = "leave it out for a random one";
                refuse("purchase_key", "must be 1 to 255 visible ASCII characters", hint)
            }
            _ => Ok(()),
        }
    }
}

/// Shows no header's value, and no query: callers pass their secrets in them.
impl fmt::Debug for PaidCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaidCall")
            .field("method", &self.method)
            .field("url", &http::without_query(&self.url))
            .field("max_amount", &self.max_amount)
            .finish_non_exhaustive()
    }
}

/// The answer to a [`PaidCall`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PaidResponse {
    /// The HTTP status: of a paid call 2xx, of one that cost nothing any.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// How it was paid; `None` where it cost nothing.
    pub payment: Option<Payment>,
}

/// How a call was paid.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Payment {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Who is paid.
    pub provider: Address,
    /// Whether the call took the whole transaction.
    pub kind: PaymentKind,
    /// What the call took.
    pub price: Usdc,
    /// What the transaction holds.
    pub amount: Usdc,
    /// Whether it was funded for this purchase.
    pub funded_now: bool,
    /// The call's own key, empty where it took the whole transaction.
    pub idempotency_key: String,
    /// The purchase's key.
    pub purchase_key: String,
    /// From when on, Unix seconds, the requester could cancel it as long as the provider has not
    /// begun; `None` where the rules let it never.
    pub cancellable_from: Option<u64>,
    /// What proves the answer.
    pub proof: Proof,
    /// The provider's receipt.
    pub receipt: Option<Receipt>,
    /// Whether it was settled ([`PaidCall::settle`]).
    pub is_settled: bool,
}

/// What proves an answer. One that a receipt contradicts is an error instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// A receipt for these very bytes, signed by the provider.
    Signed,
    /// A receipt for these very bytes that nobody signed.
    Unsigned,
    /// No receipt came. [`Consumer::settle`] will not settle it.
    Missing,
}

impl Proof {
    /// The name that bindings use: `signed`, `unsigned` or `missing`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Unsigned => "unsigned",
            Self::Missing => "missing",
        }
    }
}

/// Whoever pays for calls. Cheap to clone; clones are the same one, and all consumers of one
/// address that share a state directory share its balances and its budget's sums.
#[derive(Clone)]
pub struct Consumer {
    inner: Arc<Inner>,
}

struct Inner {
    client: ACTPClient,
    budget: Budget,
    trusted_providers: HashSet<Address>,
    trusted_origins: HashSet<String>,
    records: Records,
    keeping: Keeping,
    http: Renewed<OnceLock<std::result::Result<reqwest::Client, String>>>,
}

/// Sets a consumer up: [`Consumer::builder`].
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: ACTPClient,
    storage: Option<Storage>,
    budget: Budget,
    trusted: Vec<String>,
    keeping: Keeping,
}

impl ConsumerBuilder {
    /// Sets limits. Default: none but each call's own.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Trusts a provider with money that could not be taken back: its address, or the origin of
    /// its service such as `https://api.example.com`, which trusts whomever that service names.
    /// Without TLS that is whomever anybody on the way names, so an `http` origin is trusted on
    /// this machine and in mode mock alone.
    pub fn trust(mut self, provider_or_origin: impl Into<String>) -> Self {
        self.trusted.push(provider_or_origin.into());
        self
    }

    /// Whether each answered call is kept with its request, its signature and its answer, so that
    /// [`Consumer::evidence`] can show what was asked and answered. The values of `Authorization`, `Cookie`
    /// and other headers that carry credentials are never kept; a secret in a URL or a body is. Default:
    /// on.
    pub fn keep_evidence(mut self, keep: bool) -> Self {
        self.keeping.is_on = keep;
        self
    }

    /// The longest request body, and the longest answer, that is kept with it, bytes: of a longer one its
    /// hash alone is. Default: 64 KiB. In all 256 MiB of bodies are kept; the oldest make room.
    pub fn max_kept_body_bytes(mut self, bytes: usize) -> Self {
        self.keeping.body_bytes = bytes;
        self
    }

    /// Where to keep what was bought. Default: the client's state directory.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Opens the records.
    ///
    /// # Errors
    /// [`Code::InvalidAddress`] and [`Code::InvalidSettings`] for whom nobody can trust,
    /// [`Code::InvalidAmount`] for a limit that no transaction reaches, and the storage's codes.
    pub async fn open(self) -> Result<Consumer> {
        let Self { client, storage, budget, trusted, keeping } = self;
        budget.check_limits()?;
        let (mut trusted_providers, mut trusted_origins) = (HashSet::new(), HashSet::new());
        for text in trusted {
            if text.starts_with("0x") {
                trusted_providers.insert(parse_address("trust", &text)?);
            } else {
                let endpoint = Endpoint::parse(&text)?;
                if !endpoint.is_private && client.mock().is_none() {
                    return Err(open_to_all(&endpoint.origin));
                }
                trusted_origins.insert(endpoint.origin);
            }
        }
        let storage = storage.unwrap_or_else(|| client.storage().clone());
        let records = Records::open(storage, client.network(), client.address()).await?;
        let http = Renewed::new(OnceLock::new);
        let inner =
            Inner { client, budget, trusted_providers, trusted_origins, records, keeping, http };
        Ok(Consumer { inner: Arc::new(inner) })
    }
}

impl Consumer {
    /// Starts with the defaults. The client pays.
    pub fn builder(client: ACTPClient) -> ConsumerBuilder {
        ConsumerBuilder {
            client,
            storage: None,
            budget: Budget::default(),
            trusted: vec![],
            keeping: Keeping::default(),
        }
    }

    /// The paying client.
    pub fn client(&self) -> &ACTPClient {
        &self.inner.client
    }

    /// Begins a purchase that somebody else's HTTP library carries.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] for a request that cannot be sent.
    pub fn purchase(&self, call: PaidCall) -> Result<Purchase> {
        Purchase::new(self.clone(), call)
    }

    /// Makes the call, and pays for it where it must be.
    ///
    /// No redirect is followed: a signature is for one server alone. Proxies are those of the
    /// environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), certificates those of the
    /// system or of `SSL_CERT_FILE`; both are read with the first call.
    ///
    /// It needs a tokio runtime. Dropped on the way, it sends nothing more, and what it just does
    /// with its money goes on to its end.
    ///
    /// # Errors
    /// As [`Purchase::next`].
    pub async fn call(&self, call: PaidCall) -> Result<PaidResponse> {
        let mut purchase = self.purchase(call)?;
        let _waiter = purchase.waiter();
        let mut outcome = None;
        loop {
            // A task of its own: a call that is given up leaves no payment half made.
            let next = tokio::spawn(async move {
                let step = purchase.next(outcome).await;
                (purchase, step)
            });
            let (same, step) = next.await.map_err(|error| {
                Error::new(Code::Internal, "a step of the purchase failed").with_source(error)
            })?;
            (purchase, outcome) = (same, None);
            match step? {
                Step::Send(request) => {
                    let sent = self.inner.send(request).await;
                    outcome = Some(sent.map_err(|error| purchase.name(error))?);
                }
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Done(response) => return Ok(*response),
            }
        }
    }

    /// What the budget has counted, with a provider's share of it.
    ///
    /// # Errors
    /// The storage's codes.
    pub async fn spent(&self, provider: Option<Address>) -> Result<Spent> {
        let now = self.inner.now().await?;
        self.inner.records.spent(provider.unwrap_or_default(), now).await
    }
}

impl Inner {
    fn is_trusted(&self, origin: &str, provider: Address) -> bool {
        self.trusted_providers.contains(&provider) || self.trusted_origins.contains(origin)
    }

    /// The clock of budgets: this machine's, since a node that lies about the time must not widen
    /// them; in mode mock the kernel's, which is moved by its owner alone.
    async fn now(&self) -> Result<u64> {
        match self.client.mock() {
            Some(_) => self.client.now().await,
            None => Ok(wall_seconds()),
        }
    }

    /// # Errors
    /// [`Code::InsufficientBalance`] before anything is created.
    async fn check_balance(&self, amount: Usdc) -> Result<()> {
        let balance = self.client.balance().await?;
        if balance >= amount {
            return Ok(());
        }
        let address = self.client.address();
        let message = format!("{address} owns {balance} USDC, and {amount} are to be paid");
        Err(Error::new(Code::InsufficientBalance, message)
            .with_hint("send USDC to this address; nothing was paid")
            .with_facts(|facts| {
                facts.required = Some(amount);
                facts.available = Some(balance);
            }))
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("address", &self.client.address()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// No transaction holds more, so a greater limit was meant in another unit.
///
/// # Errors
/// [`Code::InvalidAmount`].
fn check_limit(field: &'static str, amount: Option<Usdc>) -> Result<()> {
    match amount {
        Some(Usdc(units)) if Usdc(units) > MAX_AMOUNT => {
            let problem = format!("must be at most {} base units", MAX_AMOUNT.0);
            Err(Error::invalid(Code::InvalidAmount, field, &units.to_string(), &problem)
                .with_hint("USDC has 6 decimals: 1 USDC is 1_000_000 base units"))
        }
        _ => Ok(()),
    }
}

fn open_to_all(origin: &str) -> Error {
    let problem = "must be an https origin: without TLS anybody on the way can name who is paid";
    Error::invalid(Code::InvalidSettings, "trust", origin, problem)
        .with_hint("trust its https origin, or the provider's address")
}

/// 32 hex digits that nobody has used before.
fn random_key() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(Code::Internal, "the operating system gives no random bytes").with_source(error)
    })?;
    Ok(hex::encode(bytes))
}
