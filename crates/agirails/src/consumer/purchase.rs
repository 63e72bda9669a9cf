//! One purchase as a machine without I/O: it decides, and any HTTP library sends.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Consumer, Inner, PaidCall, PaidResponse, Payment, Proof, encoding,
    exchange::Exchange,
    funding::Funded,
    http::{AS_IT_IS, Endpoint, HttpFailure, HttpOutcome, HttpRequest, HttpResponse, Step},
    offer::{self, Limits, Offer, Payer, PaymentKind},
    records::{self, Plan, Stage, Wanted},
};
use crate::{
    error::{AnswerBody, Code, Error, Facts, Result, shown_words},
    process_locks::{ProcessLock, WorkerId},
    protocol::{
        State, Transaction, TransactionId, Usdc,
        paid_request::{
            CLOCK_SKEW_SECONDS, IDEMPOTENCY_HEADER, MAX_PRICE_HEADER, PRICE_ABOVE_MAXIMUM,
            PaidRequest, SIGNATURE_HEADER, TRANSACTION_HEADER,
        },
        receipt::{CallRecord, Expected, RECEIPT_HEADER, Receipt},
        rules::{Rates, way_back},
        service::{SERVICE_KEY_HEADER, bound_service_hash},
    },
    wall_clock::wall_seconds,
};

/// How often a call that is not paid yet is sent where nothing tells when to try again.
const TRIES: u32 = 6;
/// How often a paid call is sent whose handler fails.
const FAILED_RUNS: u32 = 3;
/// The pause before the second try; each one after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest that a service may ask to be left alone.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody else has funded the payment.
const LOOK: Duration = Duration::from_millis(50);
/// How often a receipt is asked for that did not come with the answer.
const RECEIPT_TRIES: u32 = 3;
/// How many receipts of one answer are looked at: each look hashes its body.
const MOST_RECEIPTS: usize = 8;
/// How long a delivery is waited for that is to be settled.
const DELIVERY: Duration = Duration::from_secs(30);
/// How often the state of such a delivery is read.
const DELIVERY_LOOK: Duration = Duration::from_millis(500);
/// For how long the same call made again goes on with a purchase that was paid and not answered: the
/// deadline of most transactions, and an answer that is older is another call's.
const TAKEN_UP_SECONDS: u64 = 3_600;
/// By how many seconds a service's word may move the time of a signature: clocks go wrong by minutes,
/// and a signature of tomorrow could be used tomorrow.
const MOST_CLOCK_AHEAD: u64 = 3_600;
/// The longest price page that is read.
pub(super) const PRICE_PAGE_BYTES: usize = 1 << 20;
/// How much of an answer an error carries.
const ERROR_BODY_BYTES: usize = 64 << 10;
/// By how many seconds a receipt may be older than its payment's plan: blocks come late.
const RECEIPT_LAG_SECONDS: u64 = 600;
/// Headers that libraries change when they make the same call again: they are no part of it.
const VOLATILE: [&str; 12] = [
    "b3",
    "baggage",
    "date",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-request-id",
    "x-retry-count",
];
const VOLATILE_PREFIXES: [&str; 4] = ["amz-sdk-", "x-b3-", "x-datadog-", "x-stainless-"];

/// How long the refund of a call that failed is waited for.
const REFUND: Duration = Duration::from_secs(5);
/// How often a purchase looks for another payment before it gives up.
const SWITCHES: u32 = 2;

/// A paywall's refusals of a transaction that calls can be made with no more.
const UNUSABLE: [&str; 6] = [
    "Insufficient Payment",
    "Invalid Transaction",
    "Invalid Transaction State",
    "Transaction Expired",
    "Transaction Expires Too Soon",
    "Transaction Not Found",
];

/// One purchase under way: made by [`Consumer::purchase`], driven by whoever can send HTTP.
///
/// Call [`Self::next`] with nothing, do what it says, and call it again with what became of that,
/// until it is [`Step::Done`] or an error. [`Consumer::call`] does so with reqwest.
///
/// A purchase that is dropped on the way, or whose process is killed, is taken up again by a new
/// one with the same request and [`PaidCall::purchase_key`], wherever it ended.
///
/// ```
/// use agirails::{ACTPClient, Address, consumer::*};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(async {
/// let client = ACTPClient::builder().address(Address::repeat_byte(1)).in_memory().connect().await?;
/// let consumer = Consumer::builder(client).open().await?;
/// let call = PaidCall::new("GET", "https://api.example.com/free", "0.25".parse()?);
/// let mut purchase = consumer.purchase(call)?;
///
/// let Step::Send(request) = purchase.next(None).await? else { panic!() };
/// assert_eq!(request.url, "https://api.example.com/free");
/// let answer = HttpResponse { status: 200, headers: vec![], body: "free".into() };
/// let Step::Done(paid) = purchase.next(Some(HttpOutcome::Answered(answer))).await? else { panic!() };
/// assert!(paid.payment.is_none());
/// # Ok::<(), agirails::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Purchase {
    consumer: Consumer,
    call: PaidCall,
    endpoint: Endpoint,
    /// The URL below which the paywall's free routes are.
    base: String,
    digest: B256,
    key: String,
    key_is_callers: bool,
    /// What the same call is known by that is made again without a key.
    fingerprint: Option<B256>,
    held: Held,
    owner: WorkerId,
    /// The call's own key where it is drawn from a balance.
    call_key: String,
    until: Instant,
    tries: u32,
    /// How often the service asked to be left alone.
    rests: u32,
    switches: u32,
    /// How often a paid call was answered by a server's error that says nothing of another try.
    failures: u32,
    /// By how many seconds the service's clock is ahead of this one.
    clock_ahead: i64,
    last_problem: String,
    /// The last answer to the paid call that was no success.
    last_answer: Option<(u16, Bytes)>,
    on_record: bool,
    phase: Phase,
}

/// The sign that somebody waits for a purchase: as long as it is held, the same call made again is
/// another one.
#[derive(Debug, Clone, Default)]
struct Held(Arc<Mutex<Option<ProcessLock>>>);

impl Held {
    fn set(&self, lock: Option<ProcessLock>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lock;
    }

    fn is_held(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn is_alive(&self, owner: WorkerId) -> bool {
        let lock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lock.as_ref().is_some_and(|lock| lock.is_alive(owner))
    }
}

/// Whoever waits for a purchase ([`Purchase::waiter`]). Dropped, it says that nobody does any more:
/// the same call made again goes on with the purchase, also while a step of it still runs.
#[derive(Debug)]
pub struct Waiter(Held);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[derive(Debug)]
enum Phase {
    Start,
    Probe,
    Probed,
    /// With the answer that stands where the page makes no offer.
    PricePage(Option<Box<HttpResponse>>),
    Priced(Option<Box<HttpResponse>>),
    Fund {
        purchase: Box<records::Purchase>,
        is_resumed: bool,
    },
    Call(Box<Paid>),
    Called(Box<Paid>),
    Fetch(Box<Served>),
    Fetched(Box<Served>),
    GiveBack(Box<Paid>),
    GivenBack(Box<Paid>),
    Refund {
        paid: Box<Paid>,
        words: String,
        until: Instant,
    },
    Settle(Box<PaidResponse>, Instant),
    Over,
}

/// A call with its money in escrow.
#[derive(Debug)]
struct Paid {
    purchase: records::Purchase,
    payment: records::Payment,
    id: TransactionId,
    /// Whether the service may have served it without our seeing its answer.
    is_doubtful: bool,
    is_retimed: bool,
    /// The hash of its answer's body as it came, where it came compressed.
    packed: Option<B256>,
    /// The signature it was sent with last, and when that was.
    signature: Option<String>,
    sent_at: u64,
}

/// A call that was answered without a receipt.
#[derive(Debug)]
struct Served {
    paid: Paid,
    response: HttpResponse,
    tries: u32,
}

/// What an answer was found to be.
struct Compared {
    content_hash: B256,
    /// Of the body that the content hash is of.
    body_hash: B256,
    proof: Proof,
}

enum Turn {
    Go(Phase),
    Yield(Step, Phase),
}

impl Purchase {
    /// # Errors
    /// [`Code::InvalidSettings`] for a request that cannot be sent.
    pub(super) fn new(consumer: Consumer, mut call: PaidCall) -> Result<Self> {
        let endpoint = Endpoint::parse(&call.url)?;
        call.tidy()?;
        let key_is_callers = call.purchase_key.is_some();
        let key = match &call.purchase_key {
            Some(key) => key.clone(),
            None => super::random_key()?,
        };
        let digest = digest(&call, &endpoint);
        let fingerprint = (call.pays && !key_is_callers).then(|| fingerprint(&call, digest));
        Ok(Self {
            until: Instant::now() + call.timeout.min(super::LONGEST_TIMEOUT),
            consumer,
            call,
            base: endpoint.origin.clone(),
            endpoint,
            digest,
            key,
            key_is_callers,
            fingerprint,
            held: Held::default(),
            owner: 0,
            call_key: super::random_key()?,
            tries: 0,
            rests: 0,
            switches: 0,
            failures: 0,
            clock_ahead: 0,
            last_problem: String::new(),
            last_answer: None,
            on_record: false,
            phase: Phase::Start,
        })
    }

    /// The key by which it is taken up again.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Hold it as long as somebody waits for the purchase: see [`Waiter`].
    pub fn waiter(&self) -> Waiter {
        Waiter(self.held.clone())
    }

    /// The next step. `outcome` is what became of the last [`Step::Send`], else `None`.
    ///
    /// # Errors
    /// Nothing was created and nothing paid: [`Code::PriceAboveLimit`], [`Code::BudgetExceeded`],
    /// [`Code::UntrustedProvider`], [`Code::BalanceForfeited`], [`Code::NoOffer`],
    /// [`Code::InsufficientBalance`], [`Code::PurchaseMismatch`], [`Code::ServiceUnreachable`].
    ///
    /// The money is, or may be, in escrow, and `facts().purchase_key` takes the purchase up again:
    /// [`Code::CallRefused`], [`Code::CallFailed`], [`Code::ServiceFailed`], [`Code::AnswerTooLarge`];
    /// the kernel's codes
    /// where creating or funding failed; [`Code::ProofMismatch`] and [`Code::InvalidSignature`]
    /// where the answer is not what the provider's receipt says, so that it must not be settled.
    pub async fn next(&mut self, mut outcome: Option<HttpOutcome>) -> Result<Step> {
        loop {
            // An error, or a caller that gives up in between, leaves it over.
            let phase = mem::replace(&mut self.phase, Phase::Over);
            match self.advance(phase, &mut outcome).await {
                Ok(Turn::Go(phase)) => self.phase = phase,
                Ok(Turn::Yield(step, phase)) => {
                    if matches!(phase, Phase::Over) {
                        self.held.set(None);
                    }
                    self.phase = phase;
                    return Ok(step);
                }
                Err(error) => {
                    self.held.set(None);
                    return Err(self.name(error));
                }
            }
        }
    }

    fn inner(&self) -> &Inner {
        &self.consumer.inner
    }

    /// Where there is something to take up, the error says by which key.
    pub(super) fn name(&self, error: Error) -> Error {
        if !self.on_record {
            return error;
        }
        let key = self.key.clone();
        error.with_facts(|facts| facts.purchase_key = Some(key))
    }

    async fn advance(&mut self, phase: Phase, outcome: &mut Option<HttpOutcome>) -> Result<Turn> {
        let mut outcome = || {
            let lost = || HttpFailure::Lost("nothing was handed in".to_owned());
            let outcome = outcome.take().unwrap_or_else(|| HttpOutcome::Failed(lost()));
            encoding::decoded(outcome, self.call.body_limit)
        };
        match phase {
            Phase::Start => self.start().await,
            Phase::Probe => Ok(Turn::Yield(Step::Send(self.request(vec![])), Phase::Probed)),
            Phase::Probed => self.probed(outcome().0).await,
            Phase::PricePage(answer) => {
                let mut request = self.free_page(&self.base, "/api/pricing");
                request.body_limit = request.body_limit.min(PRICE_PAGE_BYTES);
                Ok(Turn::Yield(Step::Send(request), Phase::Priced(answer)))
            }
            Phase::Priced(answer) => self.priced(outcome().0, answer).await,
            Phase::Fund { purchase, is_resumed } => self.fund(*purchase, is_resumed).await,
            Phase::Call(mut paid) => {
                let request = self.signed(&paid).await?;
                let mut headers = request.headers.iter();
                let signature = headers.find(|(name, _)| name == SIGNATURE_HEADER);
                paid.signature = signature.map(|(_, value)| value.clone());
                paid.sent_at = wall_seconds();
                Ok(Turn::Yield(Step::Send(request), Phase::Called(paid)))
            }
            Phase::Called(mut paid) => {
                let (outcome, packed) = outcome();
                paid.packed = packed;
                self.called(*paid, outcome).await
            }
            Phase::Fetch(served) => {
                let key = match &*served.paid.purchase.call_key {
                    "" => "-",
                    key => key,
                };
                let page = format!("/api/payments/{}/receipts/{key}", served.paid.id);
                let request = self.free_page(&served.paid.payment.base, &page);
                Ok(Turn::Yield(Step::Send(request), Phase::Fetched(served)))
            }
            Phase::Fetched(served) => self.fetched(*served, outcome().0).await,
            Phase::GiveBack(paid) => {
                let request = self.close_request(&paid).await?;
                Ok(Turn::Yield(Step::Send(request), Phase::GivenBack(paid)))
            }
            Phase::GivenBack(paid) => Ok(self.given_back(paid, outcome().0)),
            Phase::Refund { paid, words, until } => self.refund(paid, words, until).await,
            Phase::Settle(response, until) => self.settle(response, until).await,
            Phase::Over => Err(Error::new(Code::InvalidSettings, "the purchase has ended")
                .with_hint("begin a new one; with the same purchase key it goes on with this one")),
        }
    }

    /// Takes up what is on record; else pays from an open balance where the price is known.
    async fn start(&mut self) -> Result<Turn> {
        if !self.call.pays {
            return Ok(Turn::Go(Phase::Probe));
        }
        let lock = ProcessLock::take(self.inner().records.path())?;
        self.owner = lock.owner();
        self.held.set(Some(lock));
        if let Some(turn) = self.take_up().await? {
            return Ok(turn);
        }
        if self.key_is_callers
            && let Some(purchase) = self.inner().records.purchase(&self.key).await?
        {
            records::check_digest(&purchase, self.digest)?;
            if purchase.payment.is_some() {
                self.on_record = true;
                return Ok(Turn::Go(Phase::Fund {
                    purchase: Box::new(purchase),
                    is_resumed: true,
                }));
            }
        }
        let known = self.inner().records.price(&self.endpoint.origin, &self.route()).await?;
        let Some((provider, price)) = known else { return Ok(Turn::Go(Phase::Probe)) };
        if price > self.call.max_amount || self.inner().budget.check_call(price).is_err() {
            // What it costs now may be less, and if not, the refusal names today's price.
            return Ok(Turn::Go(Phase::Probe));
        }
        match self.attach(provider, price, None).await? {
            Some(turn) => Ok(turn),
            None => Ok(Turn::Go(Phase::Probe)),
        }
    }

    /// Goes on with a purchase of the same call that nobody waits for and that is not answered.
    async fn take_up(&mut self) -> Result<Option<Turn>> {
        let Some(fingerprint) = self.fingerprint else { return Ok(None) };
        let inner = self.consumer.inner.clone();
        let since = inner.now().await?.saturating_sub(TAKEN_UP_SECONDS);
        for purchase in inner.records.unanswered(fingerprint, since).await? {
            let Some(payment) = purchase.payment else { continue };
            let payment = inner.records.payment(payment).await?;
            if !self.held.is_alive(purchase.owner)
                && self.would_go_on_with(&purchase, &payment)
                && inner.records.take_up(&purchase, self.owner).await?
            {
                self.key.clone_from(&purchase.key);
                self.on_record = true;
                let (purchase, is_resumed) = (Box::new(purchase), true);
                return Ok(Some(Turn::Go(Phase::Fund { purchase, is_resumed })));
            }
        }
        Ok(None)
    }

    /// Whether a purchase is paid already, or within what this call allows.
    fn would_go_on_with(&self, purchase: &records::Purchase, payment: &records::Payment) -> bool {
        match payment.stage {
            Stage::Funded | Stage::Retired | Stage::Disputed => true,
            Stage::Planned | Stage::Created => {
                purchase.price <= self.call.max_amount
                    && payment.amount <= self.call.most_funding()
                    && self.inner().budget.check_call(purchase.price).is_ok()
                    && payment.trusted
                        == self.inner().is_trusted(&self.endpoint.origin, payment.provider)
            }
            Stage::Settled | Stage::Refunded | Stage::Abandoned => false,
        }
    }

    async fn probed(&mut self, outcome: HttpOutcome) -> Result<Turn> {
        let response = match outcome {
            HttpOutcome::Answered(response) => response,
            HttpOutcome::Failed(HttpFailure::TooLarge) => return Err(self.too_large()),
            HttpOutcome::Failed(HttpFailure::NotSent(problem)) => {
                self.last_problem = problem;
                return self.pause(None, Phase::Probe).ok_or_else(|| self.unreachable());
            }
            HttpOutcome::Failed(HttpFailure::Lost(problem)) => {
                self.last_problem = problem;
                // The service may be a free one that did something: only what may be repeated is.
                let may_repeat = matches!(&*self.call.method, "GET" | "HEAD" | "OPTIONS");
                let turn = if may_repeat { self.pause(None, Phase::Probe) } else { None };
                return turn.ok_or_else(|| self.unreachable());
            }
        };
        match response.status {
            402 if self.call.pays => {
                let offers = self.offers(&response);
                if offers.is_empty() {
                    self.last_problem = words(&response);
                    return Ok(Turn::Go(Phase::PricePage(None)));
                }
                self.choose(&offers).await
            }
            // The documented provider in Python fails where nothing is paid.
            500 if self.call.pays => Ok(Turn::Go(Phase::PricePage(Some(Box::new(response))))),
            429 | 503 if response.retry_after().is_some() => {
                match self.pause(response.retry_after(), Phase::Probe) {
                    Some(turn) => Ok(turn),
                    None => Ok(done(response)),
                }
            }
            _ => Ok(done(response)),
        }
    }

    /// The offers of a 402, which also says where the paywall's own pages are.
    fn offers(&mut self, response: &HttpResponse) -> Vec<Value> {
        if let Some(base) = offer::base_of_challenge(response, &self.endpoint) {
            self.base = base;
        }
        offer::of_challenge(response)
    }

    /// `answer` is what stands where the page is not that of a service that fails unpaid.
    async fn priced(
        &mut self,
        outcome: HttpOutcome,
        answer: Option<Box<HttpResponse>>,
    ) -> Result<Turn> {
        let page = match outcome {
            HttpOutcome::Answered(response) if response.is_success() => {
                serde_json::from_slice::<Value>(&response.body).unwrap_or_default()
            }
            _ => Value::Null,
        };
        let offers = match answer {
            Some(_) if !offer::is_bare_price_page(&page) => vec![],
            _ => offer::of_price_page(&page, &self.call.method, &self.endpoint, &self.base),
        };
        if let Some(answer) = answer
            && offers.is_empty()
        {
            return Ok(done(*answer));
        }
        if offers.is_empty() {
            return Err(no_offer(&self.base, &self.last_problem));
        }
        self.choose(&offers).await
    }

    /// Checks everything that can be checked, and only then writes a payment down.
    async fn choose(&mut self, offers: &[Value]) -> Result<Turn> {
        let inner = self.consumer.inner.clone();
        inner.client.sender()?;
        let usable = offer::usable(offers, inner.payer(&self.call))?;
        // Money that lies there already goes first.
        for (offer, _) in &usable.offers {
            if offer.price <= self.call.max_amount
                && inner.budget.check_call(offer.price).is_ok()
                && let Some(turn) = self.attach(offer.provider, offer.price, None).await?
            {
                return Ok(turn);
            }
        }
        let is_trusted = |provider| inner.is_trusted(&self.endpoint.origin, provider);
        let offer = offer::choose(&usable.offers, inner.limits(&self.call), is_trusted)
            .map_err(|error| usable.explain(error))?;
        inner.check_balance(offer.amount).await?;
        let trusted = is_trusted(offer.provider);
        match self.attach(offer.provider, offer.price, Some((&offer, trusted))).await? {
            Some(turn) => Ok(turn),
            None => Ok(Turn::Go(Phase::Probe)),
        }
    }

    async fn attach(
        &mut self,
        provider: Address,
        price: Usdc,
        new: Option<(&Offer, bool)>,
    ) -> Result<Option<Turn>> {
        let inner = self.consumer.inner.clone();
        let plan = match new {
            None => None,
            // Whoever makes the call again has not seen this payment, and would pay beside it.
            Some(_) if !self.held.is_held() => {
                let message = "the purchase was given up before anything was paid";
                return Err(Error::new(Code::InvalidSettings, message));
            }
            Some((offer, trusted)) => {
                // Unlike any other, so that the transaction is found by it.
                let key = keccak256(format!(
                    "agirails purchase {} {}",
                    inner.client.address(),
                    super::random_key()?
                ));
                Some(Plan {
                    offer,
                    trusted,
                    kernel_now: inner.client.now_for_deadlines().await?,
                    service_hash: offer
                        .service
                        .map_or(key, |service| bound_service_hash(service, key)),
                    service_key: offer.service.map(|_| key),
                    agreement_hash: match offer.names_request {
                        true => self.request_with(TransactionId::ZERO).agreement_hash(),
                        false => B256::ZERO,
                    },
                    budget: inner.budget,
                })
            }
        };
        let route = self.route();
        let wanted = Wanted {
            key: &self.key,
            fingerprint: self.fingerprint,
            owner: self.owner,
            digest: self.digest,
            origin: &self.endpoint.origin,
            base: &self.base,
            route: &route,
            provider,
            price,
            call_key: &self.call_key,
            now: inner.now().await?,
        };
        let Some(purchase) = inner.records.attach(&wanted, plan.as_ref()).await? else {
            return Ok(None);
        };
        self.on_record = true;
        // Another process may have begun the same purchase meanwhile.
        let is_resumed = !purchase.call_key.is_empty() && purchase.call_key != self.call_key;
        Ok(Some(Turn::Go(Phase::Fund { purchase: Box::new(purchase), is_resumed })))
    }

    async fn fund(&mut self, purchase: records::Purchase, is_resumed: bool) -> Result<Turn> {
        let Some(payment) = purchase.payment else { return Ok(Turn::Go(Phase::Probe)) };
        match self.inner().fund(payment).await? {
            Funded::Ready(id) => {
                let payment = self.inner().records.payment(payment).await?;
                let paid = Paid {
                    purchase,
                    payment,
                    id,
                    is_doubtful: is_resumed,
                    is_retimed: false,
                    packed: None,
                    signature: None,
                    sent_at: 0,
                };
                Ok(Turn::Go(Phase::Call(Box::new(paid))))
            }
            Funded::Elsewhere if Instant::now() + LOOK < self.until => Ok(Turn::Yield(
                Step::Wait(LOOK),
                Phase::Fund { purchase: Box::new(purchase), is_resumed },
            )),
            Funded::Elsewhere => {
                self.last_problem = "another task or process was still funding it".to_owned();
                Err(self.failed(None))
            }
            Funded::Never => {
                self.inner().records.detach(purchase.id).await?;
                self.on_record = false;
                self.switch(None).await
            }
        }
    }

    /// Looks for another payment, where it is certain that nothing was paid with this one.
    async fn switch(&mut self, offers: Option<Vec<Value>>) -> Result<Turn> {
        self.switches += 1;
        if self.switches > SWITCHES {
            self.last_problem = "several payments in a row could not be used".to_owned();
            return Err(self.failed(None));
        }
        self.call_key = super::random_key()?;
        match offers {
            Some(offers) if !offers.is_empty() => self.choose(&offers).await,
            _ => Ok(Turn::Go(Phase::Probe)),
        }
    }

    async fn called(&mut self, mut paid: Paid, outcome: HttpOutcome) -> Result<Turn> {
        let response = match outcome {
            HttpOutcome::Answered(response) => response,
            HttpOutcome::Failed(HttpFailure::TooLarge) => return Err(self.too_large()),
            HttpOutcome::Failed(failure) => {
                let is_lost = matches!(failure, HttpFailure::Lost(_));
                if let HttpFailure::NotSent(problem) | HttpFailure::Lost(problem) = failure {
                    self.last_problem = problem;
                }
                paid.is_doubtful |= is_lost;
                return self.again(paid, None);
            }
        };
        if response.is_success() {
            return self.succeeded(paid, response).await;
        }
        self.last_problem = words(&response);
        self.last_answer = Some((response.status, start_of(&response.body)));
        let title = title(&response);
        if title == "Transaction Not Found" {
            // Its node may be behind ours.
            self.tries += 1;
            let wait = pause_before(self.tries);
            if self.tries < TRIES && Instant::now() + wait < self.until {
                return Ok(Turn::Yield(Step::Wait(wait), Phase::Call(Box::new(paid))));
            }
        }
        match response.status {
            408 | 425 | 429 | 500.. => {
                // What says when to come back was not served, unless it says so.
                paid.is_doubtful |= response.status >= 500;
                if response.status >= 500 && response.retry_after().is_none() {
                    self.failures += 1;
                    // A gateway's word is not the handler's: what is behind it may be on its way up.
                    if self.failures >= FAILED_RUNS && !matches!(response.status, 502..=504) {
                        return self.give_up(paid);
                    }
                }
                self.again(paid, response.retry_after())
            }
            401 if title == "Signature Expired" && !paid.is_retimed => {
                self.clock_ahead = self.clock_ahead(&response).await;
                paid.is_retimed = true;
                Ok(Turn::Go(Phase::Call(Box::new(paid))))
            }
            402 if title == PRICE_ABOVE_MAXIMUM && !paid.purchase.funds && !paid.is_doubtful => {
                // Nothing is wrong with the balance: at today's price it may be drawn from again.
                self.inner().records.give_back(paid.purchase.id).await?;
                self.on_record = false;
                let offers = self.offers(&response);
                self.switch(Some(offers)).await
            }
            // What the application itself forbids says nothing of the balance.
            402 | 403 if UNUSABLE.contains(&&*title) => self.not_taken(paid, &response).await,
            status => Err(self.turned_down(&paid, status).await?),
        }
    }

    /// The error of a refusal. What was not served gives its price back to its balance.
    async fn turned_down(&self, paid: &Paid, status: u16) -> Result<Error> {
        let was_not_served = !matches!(status, 409 | 410) && !paid.is_doubtful;
        if was_not_served {
            self.inner().records.give_back(paid.purchase.id).await?;
        }
        Ok(self.refused(paid, status))
    }

    /// The service does not take the transaction for this call. Another one is paid for only where
    /// the kernel bears it out: who pays on the service's word alone pays anew for every call.
    async fn not_taken(&mut self, paid: Paid, response: &HttpResponse) -> Result<Turn> {
        let refused = self.turned_down(&paid, response.status).await?;
        let (client, records) = (&self.inner().client, &self.inner().records);
        let transaction = client.get_transaction(paid.id).await?;
        if transaction.state == State::Cancelled && paid.purchase.content_hash.is_none() {
            // Whatever became of the call, nobody was paid for it.
            self.inner().note(&paid.payment, &transaction).await?;
            if self.failures > 0 {
                return Err(self.service_failed(&paid, "the money came back", true));
            }
            records.detach(paid.purchase.id).await?;
        } else if let Some(left) = self.ended_early(&paid, &transaction).await? {
            records.ended_early(paid.payment.id).await?;
            if paid.purchase.funds || paid.is_doubtful {
                return Err(refused);
            }
            let provider = paid.payment.provider;
            if !paid.payment.trusted && !self.inner().is_trusted(&self.endpoint.origin, provider) {
                self.on_record = false;
                return Err(records::forfeited(Some(paid.id), provider, left, true));
            }
        } else if paid.purchase.funds || paid.is_doubtful {
            return Err(refused);
        } else if transaction.state == State::Committed
            && self.inner().now().await? < paid.payment.usable_until
        {
            if let Some(left) = too_little(response) {
                records.lower(paid.payment.id, left.min(paid.payment.amount)).await?;
            }
            return Err(refused);
        } else {
            tracing::warn!(transaction = %paid.id, state = %transaction.state, "a balance is over");
            records.retire(paid.payment.id).await?;
        }
        self.on_record = false;
        let offers = self.offers(response);
        self.switch(Some(offers)).await
    }

    /// What is left of a balance that its provider ended while calls could be made with it.
    async fn ended_early(&self, paid: &Paid, transaction: &Transaction) -> Result<Option<Usdc>> {
        let payment = self.inner().records.payment(paid.payment.id).await?;
        let left = Usdc(payment.amount.0.saturating_sub(payment.used.0));
        let may_end_from = self.inner().records.may_end_from(payment.id).await?;
        let is_over = !matches!(transaction.state, State::Committed | State::Cancelled);
        let is_early = is_over
            && payment.kind == PaymentKind::Prepaid
            && !payment.is_closed
            && left >= paid.purchase.price
            && transaction.updated_at < may_end_from;
        Ok(is_early.then_some(left))
    }

    /// What is paid for is asked for until the time is up.
    fn again(&mut self, paid: Paid, asked: Option<Duration>) -> Result<Turn> {
        let id = paid.id;
        let wait = asked.unwrap_or(Duration::ZERO);
        self.pause(Some(wait), Phase::Call(Box::new(paid))).ok_or_else(|| self.failed(Some(id)))
    }

    /// The handler fails each time. A single payment is asked back; a balance is there for other calls.
    fn give_up(&mut self, paid: Paid) -> Result<Turn> {
        match paid.payment.kind {
            PaymentKind::Single => Ok(Turn::Go(Phase::GiveBack(Box::new(paid)))),
            PaymentKind::Prepaid => {
                let words = "its price stays set aside for this call";
                Err(self.service_failed(&paid, words, false))
            }
        }
    }

    async fn close_request(&self, paid: &Paid) -> Result<HttpRequest> {
        let Paid { payment, id, .. } = paid;
        let (page, headers) = self.inner().sign_close(payment, *id, self.signing_time()).await?;
        let mut request =
            HttpRequest { method: "POST".to_owned(), ..self.free_page(&payment.base, &page) };
        request.headers.extend(headers);
        Ok(request)
    }

    fn given_back(&self, paid: Box<Paid>, outcome: HttpOutcome) -> Turn {
        let words = match outcome {
            HttpOutcome::Answered(response) if response.is_success() => {
                let stage = problem(&response)
                    .and_then(|body| body.get("stage")?.as_str().map(shown_words))
                    .unwrap_or_default();
                format!("asked for the money, it says {stage:?}")
            }
            HttpOutcome::Answered(response) => {
                format!("it did not give the money back: {}", shown_words(&words(&response)))
            }
            HttpOutcome::Failed(failure) => {
                let failure = shown_words(&failure.to_string());
                format!("asked for the money, it did not answer: {failure}")
            }
        };
        let until = self.until.min(Instant::now() + REFUND);
        Turn::Go(Phase::Refund { paid, words, until })
    }

    /// Waits a moment for the refund, so that the error can say where the money is.
    async fn refund(&mut self, paid: Box<Paid>, words: String, until: Instant) -> Result<Turn> {
        let transaction = self.inner().client.get_transaction(paid.id).await?;
        if transaction.state == State::Cancelled {
            self.inner().note(&paid.payment, &transaction).await?;
            return Err(self.service_failed(&paid, "the money came back", true));
        }
        if Instant::now() + DELIVERY_LOOK < until {
            let phase = Phase::Refund { paid, words, until };
            return Ok(Turn::Yield(Step::Wait(DELIVERY_LOOK), phase));
        }
        Err(self.service_failed(&paid, &words, false))
    }

    /// By how many seconds to move the time of a signature that the service finds too old: as the
    /// service says, where that is plausible, else by the kernel's clock.
    async fn clock_ahead(&self, response: &HttpResponse) -> i64 {
        let ours = wall_seconds();
        let ahead = |theirs: u64| theirs as i64 - ours as i64;
        let is_plausible = |ahead: &i64| {
            (CLOCK_SKEW_SECONDS / 2..=MOST_CLOCK_AHEAD).contains(&ahead.unsigned_abs())
        };
        let told = problem(response).and_then(|problem| problem.get("time")?.as_u64());
        let date = || {
            let date = httpdate::parse_http_date(response.header("Date")?).ok()?;
            Some(date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
        };
        match told.or_else(date).map(ahead).filter(is_plausible) {
            Some(ahead) => ahead,
            None => self.inner().client.now().await.map_or(0, ahead),
        }
    }

    async fn succeeded(&mut self, paid: Paid, response: HttpResponse) -> Result<Turn> {
        let values = response.all(RECEIPT_HEADER).flat_map(|value| value.split(','));
        let texts: Vec<_> = values.map(str::trim).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            return Ok(Turn::Go(Phase::Fetch(Box::new(Served { paid, response, tries: 0 }))));
        }
        // A service that pays others for its answers may hand on their receipts beside its own.
        let readable = texts.into_iter().take(MOST_RECEIPTS).filter_map(read_receipt);
        let mut receipts: Vec<_> = readable.collect();
        let is_ours = |receipt: &Receipt| {
            receipt.transaction_id == paid.id && receipt.idempotency_key == paid.purchase.call_key
        };
        let proves = |receipt: &Receipt| self.compare(&paid, &response, Some(receipt)).is_ok();
        let best = match receipts.len() {
            0 => {
                let error = unreadable_receipt(paid.id);
                return Err(self.contradicted(&paid, &response, None, error).await);
            }
            1 => 0,
            _ => receipts
                .iter()
                .position(proves)
                .or_else(|| receipts.iter().position(is_ours))
                .unwrap_or_default(),
        };
        let receipt = receipts.swap_remove(best);
        self.prove(paid, response, Some(receipt)).await
    }

    /// A streamed answer's receipt is there once its last byte has left.
    async fn fetched(&mut self, mut served: Served, outcome: HttpOutcome) -> Result<Turn> {
        if let HttpOutcome::Answered(page) = &outcome
            && page.is_success()
            && let Ok(mut page) = serde_json::from_slice::<Value>(&page.body)
            && let Ok(receipt) = serde_json::from_value(page["receipt"].take())
        {
            return self.prove(served.paid, served.response, Some(receipt)).await;
        }
        served.tries += 1;
        if served.tries < RECEIPT_TRIES && Instant::now() + FIRST_PAUSE < self.until {
            return Ok(Turn::Yield(Step::Wait(FIRST_PAUSE), Phase::Fetch(Box::new(served))));
        }
        self.prove(served.paid, served.response, None).await
    }

    /// Compares the receipt with what was sent and what came, and writes the answer down.
    async fn prove(
        &mut self,
        paid: Paid,
        response: HttpResponse,
        receipt: Option<Receipt>,
    ) -> Result<Turn> {
        let compared = match self.compare(&paid, &response, receipt.as_ref()) {
            Ok(compared) => compared,
            Err(error) => {
                let undecoded = self.undecoded(&paid, &response);
                return Err(match undecoded {
                    Some(other) => other,
                    None => self.contradicted(&paid, &response, receipt.as_ref(), error).await,
                });
            }
        };
        let Compared { content_hash, body_hash, proof } = compared;
        let kept = self.exchange(&paid, &response, body_hash, receipt.as_ref());
        let (records, keeping) = (&self.inner().records, self.inner().keeping);
        let kept = kept.as_ref().map(|exchange| (exchange, keeping));
        records.answered(paid.purchase.id, content_hash, receipt.as_ref(), kept).await?;
        let Paid { purchase, payment, id, .. } = paid;
        let kind = payment.kind;
        let terms = self.inner().client.network().terms;
        let can_come_back =
            way_back(terms, payment.amount, Rates::default()).cancellation_penalty.is_some();
        let payment = Payment {
            transaction_id: id,
            provider: payment.provider,
            kind,
            price: purchase.price,
            amount: payment.amount,
            funded_now: purchase.funds,
            idempotency_key: purchase.call_key,
            purchase_key: self.key.clone(),
            cancellable_from: can_come_back.then_some(payment.deadline),
            proof,
            receipt,
            is_settled: false,
        };
        let HttpResponse { status, headers, body } = response;
        let response = PaidResponse { status, headers, body, payment: Some(payment) };
        if self.call.settle && kind == PaymentKind::Single && proof != Proof::Missing {
            let until = Instant::now() + DELIVERY;
            return Ok(Turn::Go(Phase::Settle(Box::new(response), until)));
        }
        Ok(Turn::Yield(Step::Done(Box::new(response)), Phase::Over))
    }

    /// The content hash of what was sent and what came, and what proves it.
    ///
    /// # Errors
    /// [`Code::ProofMismatch`] and [`Code::InvalidSignature`].
    fn compare(
        &self,
        paid: &Paid,
        response: &HttpResponse,
        receipt: Option<&Receipt>,
    ) -> Result<Compared> {
        let request = self.paid_request(paid);
        let content_type = response.header("Content-Type").unwrap_or_default();
        let record = |body_hash| CallRecord {
            request: &request,
            status: response.status,
            content_type,
            body_hash,
        };
        let mut record_of_answer = record(keccak256(&response.body));
        let mut content_hash = record_of_answer.content_hash()?;
        // Who compressed it, the service or somebody on the way, is seen by what was proven.
        if let Some(packed) = paid.packed.map(record)
            && let Some(proven) =
                receipt.map(|receipt| receipt.content_hash).or(paid.purchase.content_hash)
            && packed.content_hash()? == proven
        {
            (record_of_answer, content_hash) = (packed, proven);
        }
        if paid.purchase.content_hash.is_some_and(|before| before != content_hash) {
            let message = "the service answered the same call differently than before";
            return Err(Error::new(Code::ProofMismatch, message)
                .with_hint("do not settle: ask the provider, or dispute within the window")
                .with_facts(|facts| facts.transaction_id = Some(paid.id)));
        }
        let body_hash = record_of_answer.body_hash;
        let Some(receipt) = receipt else {
            return Ok(Compared { content_hash, body_hash, proof: Proof::Missing });
        };
        let client = &self.inner().client;
        let network = client.network();
        // On mock the kernel's clock is this machine's, which may be ahead of the service's.
        let ahead = client.mock().map_or(0, |_| self.clock_ahead.min(0).unsigned_abs());
        let planned_at = paid.payment.planned_at.saturating_sub(ahead);
        let expected = Expected {
            provider: paid.payment.provider,
            requester: client.address(),
            chain_id: network.chain_id,
            kernel: network.kernel,
            may_be_unsigned: client.mock().is_some(),
            calls: u64::MAX,
            answered: planned_at.saturating_sub(RECEIPT_LAG_SECONDS)..=paid.payment.deadline,
        };
        receipt.check(&record_of_answer, &expected)?;
        let proof = receipt.signature.as_ref().map_or(Proof::Unsigned, |_| Proof::Signed);
        Ok(Compared { content_hash, body_hash, proof })
    }

    /// What is kept of a call for a dispute.
    fn exchange(
        &self,
        paid: &Paid,
        response: &HttpResponse,
        answer_hash: B256,
        receipt: Option<&Receipt>,
    ) -> Option<Exchange> {
        let keeping = self.inner().keeping;
        let asked = (&*self.call.headers, &self.call.body);
        let exchange = || Exchange {
            signature: paid.signature.clone(),
            sent_at: paid.sent_at,
            answered_at: wall_seconds(),
            receipt: receipt.cloned(),
            ..Exchange::new(&self.paid_request(paid), asked, response, answer_hash, keeping)
        };
        keeping.is_on.then(exchange)
    }

    /// An answer in a coding that this client cannot undo contradicts nothing: it says nothing.
    fn undecoded(&self, paid: &Paid, response: &HttpResponse) -> Option<Error> {
        let codings = encoding::codings(response).join(", ");
        if codings.is_empty() {
            return None;
        }
        let message = format!(
            "the answer came with the Content-Encoding {}, which was not asked for and which this \
             client cannot undo",
            shown_words(&codings)
        );
        Some(Error::new(Code::CallFailed, message)
            .with_hint(
                "ask the service to answer \"Accept-Encoding: identity\" as it is; then make the \
                 same call with this error's purchase key, which pays nothing more",
            )
            .with_facts(|facts| facts.transaction_id = Some(paid.id)))
    }

    /// What is answered with such an error is never settled: it is on record before its caller
    /// knows.
    async fn contradicted(
        &self,
        paid: &Paid,
        response: &HttpResponse,
        receipt: Option<&Receipt>,
        error: Error,
    ) -> Error {
        let kept = self.exchange(paid, response, keccak256(&response.body), receipt);
        let kept = kept.as_ref().map(|exchange| (exchange, self.inner().keeping));
        match self.inner().records.contradict(paid.purchase.id, kept).await {
            Ok(()) => error,
            Err(unrecorded) => unrecorded.with_source(error),
        }
    }

    /// The answer is there and proven; what fails here is tried again by [`Consumer::settle`].
    async fn settle(&mut self, mut response: Box<PaidResponse>, until: Instant) -> Result<Turn> {
        let Some(payment) = &mut response.payment else { return Ok(done_with(response)) };
        let id = payment.transaction_id;
        match self.consumer.inner.settle_if_delivered(id).await {
            Ok(State::Settled) => payment.is_settled = true,
            Ok(State::Committed | State::InProgress) if Instant::now() + DELIVERY_LOOK < until => {
                return Ok(Turn::Yield(Step::Wait(DELIVERY_LOOK), Phase::Settle(response, until)));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(transaction = %id, %error, "a paid call is not settled yet");
            }
        }
        Ok(done_with(response))
    }

    /// The pause before the next try; `None` where there is to be none.
    fn pause(&mut self, asked: Option<Duration>, then: Phase) -> Option<Turn> {
        let wait = match asked {
            Some(asked) => {
                // "Retry-After: 0" does not mean as often as possible.
                self.rests += 1;
                asked.clamp(pause_before(self.rests), LONGEST_REST)
            }
            None => {
                self.tries += 1;
                if self.tries >= TRIES {
                    return None;
                }
                pause_before(self.tries)
            }
        };
        (Instant::now() + wait < self.until).then(|| Turn::Yield(Step::Wait(wait), then))
    }

    fn route(&self) -> String {
        format!("{} {}", self.call.method, self.endpoint.path)
    }

    /// The caller's request, with these headers beside its own.
    fn request(&self, more: Vec<(String, String)>) -> HttpRequest {
        let mut headers = self.call.headers.clone();
        headers.push(AS_IT_IS.map(str::to_owned).into());
        headers.extend(more);
        HttpRequest {
            method: self.call.method.clone(),
            url: self.endpoint.url(),
            headers,
            body: self.call.body.clone(),
            timeout: self.request_timeout(),
            body_limit: self.call.body_limit,
        }
    }

    /// A page of the paywall itself. The caller's headers are not for it.
    fn free_page(&self, base: &str, page: &str) -> HttpRequest {
        HttpRequest {
            method: "GET".to_owned(),
            url: format!("{base}{page}"),
            headers: vec![AS_IT_IS.map(str::to_owned).into()],
            body: Bytes::new(),
            timeout: self.request_timeout(),
            body_limit: self.call.body_limit,
        }
    }

    fn request_timeout(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        self.call.request_timeout.min(left).max(LOOK)
    }

    fn signing_time(&self) -> u64 {
        wall_seconds().saturating_add_signed(self.clock_ahead)
    }

    fn paid_request(&self, paid: &Paid) -> PaidRequest {
        let idempotency_key = paid.purchase.call_key.clone();
        PaidRequest { idempotency_key, ..self.request_with(paid.id) }
    }

    fn request_with(&self, id: TransactionId) -> PaidRequest {
        let (call, time) = (&self.call, self.signing_time());
        PaidRequest::new(id, &call.method, &self.endpoint.target, &call.body, time)
    }

    async fn signed(&self, paid: &Paid) -> Result<HttpRequest> {
        let request = self.paid_request(paid);
        let mut headers = self.inner().sign(&request, paid.payment.service_key).await?;
        // The price on record may be another request's, or yesterday's.
        let most = paid.purchase.price.0.to_string();
        headers.push((MAX_PRICE_HEADER.to_owned(), most));
        Ok(self.request(headers))
    }

    fn unreachable(&self) -> Error {
        let message = format!("the service did not answer: {}", shown_words(&self.last_problem));
        Error::new(Code::ServiceUnreachable, message).with_hint("nothing was paid; try again later")
    }

    fn too_large(&self) -> Error {
        let message = format!("the service's answer is longer than {} bytes", self.call.body_limit);
        Error::new(Code::AnswerTooLarge, message).with_hint(
            "raise body_limit; if the call was paid for, the same purchase key fetches its answer",
        )
    }

    fn failed(&self, id: Option<TransactionId>) -> Error {
        let message =
            format!("the paid call was not answered in time: {}", shown_words(&self.last_problem));
        Error::new(Code::CallFailed, message)
            .with_hint(
                "make the same call again: it goes on where it ended and pays nothing more; after an \
                 hour, or with other headers, by this error's purchase key",
            )
            .with_facts(|facts| {
                facts.transaction_id = id;
                self.tell_answer(facts);
            })
    }

    /// The service's own words.
    fn tell_answer(&self, facts: &mut Facts) {
        if let Some((status, body)) = &self.last_answer {
            facts.status = Some(*status);
            facts.body = Some(AnswerBody(body.clone()));
        }
    }

    fn service_failed(&self, paid: &Paid, money: &str, is_back: bool) -> Error {
        let times = self.failures;
        let words = shown_words(&self.last_problem);
        let message = format!(
            "the service failed {times} times to serve a call that is paid for: {words}; {money}"
        );
        let hint = match is_back {
            true => "nothing was paid in the end; the same call made again buys anew",
            false => {
                "the same call made again asks for this one's answer and pays nothing more; \
                 settle() notes what was given back"
            }
        };
        Error::new(Code::ServiceFailed, message).with_hint(hint).with_facts(|facts| {
            self.tell_answer(facts);
            facts.transaction_id = Some(paid.id);
            facts.deadline = Some(paid.payment.deadline);
        })
    }

    fn refused(&self, paid: &Paid, status: u16) -> Error {
        let words = shown_words(&self.last_problem);
        let message = format!("the service rejected a paid call with HTTP {status}: {words}");
        let hint = match paid.payment.kind {
            PaymentKind::Single => {
                "the money is in escrow for this purchase: the same call made again within an hour \
                 goes on with it, later its purchase key does; a purchase key of its own buys anew; \
                 an honest provider gives the money back by the deadline"
            }
            PaymentKind::Prepaid => {
                "the balance is still there for other calls: do what the service says, or close the \
                 balance, so that the next call buys another"
            }
        };
        Error::new(Code::CallRefused, message).with_hint(hint).with_facts(|facts| {
            self.tell_answer(facts);
            facts.status = Some(status);
            facts.transaction_id = Some(paid.id);
            facts.deadline = Some(paid.payment.deadline);
        })
    }
}

impl Inner {
    /// Who would pay for a call.
    pub(super) fn payer(&self, call: &PaidCall) -> Payer<'_> {
        Payer {
            network: self.client.network(),
            address: self.client.address(),
            can_sign: self.client.wallet().is_some(),
            ledger: self.client.mock().map(|kernel| kernel.ledger_id()),
            lasts: call.lasts.map(|time| time.as_secs()),
        }
    }

    /// What a call may cost.
    pub(super) fn limits(&self, call: &PaidCall) -> Limits {
        Limits {
            amount: call.max_amount,
            per_call: self.budget.per_call,
            funding: call.most_funding(),
        }
    }

    /// The headers with which a request is paid.
    pub(super) async fn sign(
        &self,
        request: &PaidRequest,
        service_key: Option<B256>,
    ) -> Result<Vec<(String, String)>> {
        let mut headers = vec![(TRANSACTION_HEADER.to_owned(), request.transaction_id.to_string())];
        headers.extend(service_key.map(|key| (SERVICE_KEY_HEADER.to_owned(), key.to_string())));
        if !request.idempotency_key.is_empty() {
            headers.push((IDEMPOTENCY_HEADER.to_owned(), request.idempotency_key.clone()));
        }
        if let Some(wallet) = self.client.wallet() {
            let network = self.client.network();
            let signature = wallet.sign_request(request, network.chain_id, network.kernel).await?;
            headers.push((SIGNATURE_HEADER.to_owned(), signature));
        }
        Ok(headers)
    }

    /// The page that ends a payment at its service, with the headers that ask for it.
    pub(super) async fn sign_close(
        &self,
        payment: &records::Payment,
        id: TransactionId,
        time: u64,
    ) -> Result<(String, Vec<(String, String)>)> {
        let page = format!("/api/payments/{id}/close");
        // Signed is what is called, with the prefix that a proxy takes away.
        let url = format!("{}{page}", payment.base);
        let headers =
            self.sign(&PaidRequest::new(id, "POST", &url, b"", time), payment.service_key).await?;
        Ok((page, headers))
    }
}

/// The pause before a try, which are counted from 1.
fn pause_before(tries: u32) -> Duration {
    (FIRST_PAUSE * (1 << tries.saturating_sub(1).min(8))).min(LONGEST_PAUSE)
}

fn done(response: HttpResponse) -> Turn {
    let HttpResponse { status, headers, body } = response;
    done_with(Box::new(PaidResponse { status, headers, body, payment: None }))
}

fn done_with(response: Box<PaidResponse>) -> Turn {
    Turn::Yield(Step::Done(response), Phase::Over)
}

/// What makes two requests the same. Lengths stand before the parts.
fn digest(call: &PaidCall, endpoint: &Endpoint) -> B256 {
    let mut bytes = vec![];
    for part in [call.method.as_bytes(), endpoint.url().as_bytes(), &call.body] {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part);
    }
    keccak256(bytes)
}

/// What the same call is known by: what is asked, and every header that is not about the sending.
fn fingerprint(call: &PaidCall, digest: B256) -> B256 {
    let mut headers: Vec<_> = call
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .filter(|(name, _)| {
            !VOLATILE.contains(&&**name)
                && !VOLATILE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect();
    headers.sort();
    let mut bytes = digest.to_vec();
    for part in headers.iter().flat_map(|(name, value)| [name.as_str(), value]) {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    keccak256(bytes)
}

/// As much of a body as an error carries.
fn start_of(body: &Bytes) -> Bytes {
    body.slice(..body.len().min(ERROR_BODY_BYTES))
}

fn problem(response: &HttpResponse) -> Option<Value> {
    serde_json::from_slice(&response.body).ok()
}

/// The name of a refusal.
fn title(response: &HttpResponse) -> String {
    let problem = problem(response).unwrap_or_default();
    let text = |key: &str| problem.get(key).and_then(Value::as_str).map(str::to_owned);
    text("error").or_else(|| text("title")).unwrap_or_default()
}

/// What a service says is left of a balance, where it says that it is too little.
fn too_little(response: &HttpResponse) -> Option<Usdc> {
    let problem = problem(response)?;
    let amount = |key: &str| problem.get(key)?.as_str()?.parse::<Usdc>().ok();
    let (provided, required) = (amount("provided")?, amount("required")?);
    (provided < required).then_some(provided)
}

/// The service wants to be paid, and says nowhere how.
pub(super) fn no_offer(base: &str, words: &str) -> Error {
    let message = format!(
        "the service wants to be paid, but neither its answer nor its page {base}/api/pricing makes \
         an offer: {}",
        shown_words(words)
    );
    Error::new(Code::NoOffer, message)
        .with_hint("ask the service how it is paid; nothing was paid")
        .with_facts(|facts| facts.status = Some(402))
}

/// A refusal in its own words.
pub(super) fn words(response: &HttpResponse) -> String {
    let status = response.status;
    let Some(problem) = problem(response) else {
        let start = &response.body[..response.body.len().min(200)];
        return format!("HTTP {status} {}", String::from_utf8_lossy(start));
    };
    let text = |key: &str| problem.get(key).and_then(Value::as_str);
    let title = text("title").or_else(|| text("error")).unwrap_or_default();
    let detail = match problem.get("detail").or_else(|| problem.get("message")) {
        Some(Value::String(detail)) => detail.clone(),
        Some(Value::Array(problems)) if problems.iter().all(|each| each.get("msg").is_some()) => {
            problems.iter().map(invalid_field).collect::<Vec<_>>().join("; ")
        }
        Some(detail) => detail.to_string(),
        None if title.is_empty() => problem.to_string(),
        None => String::new(),
    };
    match title {
        "" => format!("HTTP {status} {detail}"),
        title => format!("HTTP {status} {title}: {detail}"),
    }
}

/// One of the problems that FastAPI finds with a request: `body.prompt: Field required`.
fn invalid_field(problem: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let at: Vec<_> = problem["loc"].as_array().into_iter().flatten().map(text).collect();
    format!("{}: {}", at.join("."), text(&problem["msg"]))
}

fn read_receipt(header: &str) -> Option<Receipt> {
    serde_json::from_slice(&BASE64.decode(header).ok()?).ok()
}

fn unreadable_receipt(id: TransactionId) -> Error {
    Error::new(Code::ProofMismatch, "the provider's receipt cannot be read")
        .with_hint("do not settle: ask the provider, or dispute within the window")
        .with_facts(|facts| {
            facts.transaction_id = Some(id);
            facts.field = Some("receipt");
        })
}
