//! Whether a request may run: the checks in the recipe's order, first those that need no body, then
//! the claim. What comes out is a run, or an answer.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use alloy_primitives::B256;
use lru::LruCache;
use tokio::{sync::futures::Notified, time::Instant};

use super::{
    Inner,
    answer::Answer,
    call::{Asked, CallPayment},
    clock::TOLERANCE,
    event::{Event, Level},
    headers,
    price::{Charge, Price, SELF_CANCELLABLE, check_price},
    rejection::{Refused, Rejection, Terms},
    repeat::{Repeat, Repeated},
    request::{Incoming, parse_id},
    run::Run,
    settings::Unsigned,
    signer::read_session,
    store::{CallId, Claim, ClaimRequest, Claimed, Facts, Kept, Known, Stage},
};
use crate::{
    error::Error,
    protocol::{
        DisputeWindow, State, Transaction, TransactionId, Usdc,
        error::SignatureError,
        paid_request::{CLOCK_SKEW_SECONDS, PaidRequest, RequestSignature, SignedSession},
        service::is_bound,
    },
    wall_clock::wall_seconds,
};

/// How many transactions are remembered as verified.
pub(super) const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// How often somebody else's running claim is looked at, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// The length of an idempotency key, at most.
const KEY_CHARACTERS: usize = 255;

/// What to do with a request.
#[derive(Debug)]
pub enum Entry {
    /// Run the handler, and give its response to the run.
    Run(Box<Run>),
    /// Answer this: a rejection, or what the same request was answered before.
    Answer(Answer),
}

/// What becomes of a request, where a long answer is given again piece by piece.
#[derive(Debug)]
pub(super) enum Admitted {
    Run(Box<Run>),
    Answer(Answer),
    Repeat(Repeated),
}

/// Transactions that were verified. They do not change before their deadline.
pub(super) type Verified = LruCache<TransactionId, Seen>;

/// A transaction as it was verified.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Of one that is new to the store, they do not say yet whether it is bound.
    pub(super) facts: Facts,
    /// The service hash of one that is new to the store. The store knows of all others.
    service_hash: Option<B256>,
    /// The agreement that it names, where transactions have to name one.
    agreement: Option<B256>,
}

/// A payment as far as it can be judged before its request's body is there.
#[derive(Debug, Clone)]
pub(super) struct Plausible {
    facts: Facts,
    agreement: Option<B256>,
    key: String,
    signature: Option<RequestSignature>,
    session: Option<SignedSession>,
    most: Option<Usdc>,
    is_x402: bool,
}

/// A call that passed all checks but the claim.
struct Checked {
    facts: Facts,
    agreement: Option<B256>,
    request: PaidRequest,
    digest: B256,
    /// What the call takes from the balance.
    price: Usdc,
    /// What a transaction must be worth at its first use.
    least: Usdc,
    /// What its request allows the call to take.
    most: Option<Usdc>,
    is_x402: bool,
    /// What is to be kept of the request with its answer.
    asked: Option<Asked>,
}

impl Inner {
    /// Lets a request in, or answers it. `plausible` is what [`Self::plausible`] made of the
    /// request's head, where it was asked before.
    pub(super) async fn enter(
        self: &Arc<Self>,
        charge: &Arc<Charge>,
        incoming: &Incoming,
        price: Option<Usdc>,
        plausible: Option<Plausible>,
    ) -> Admitted {
        let outcome = match price_of(charge, price) {
            Some(price) => match self.former_of(incoming).await {
                Some(former) => former.admit(charge, incoming, price, plausible).await,
                None => self.admit(charge, incoming, price, plausible).await,
            },
            None => Err(Rejection::no_price().into()),
        };
        match outcome {
            Ok(admitted) => admitted,
            Err(refused) => {
                Admitted::Answer(self.turn_away(charge, incoming, price, refused).await)
            }
        }
    }

    /// The rejection before any claim, if there is one.
    pub(super) async fn look(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Option<Usdc>,
    ) -> Option<Answer> {
        let outcome = match price_of(charge, price) {
            Some(price) => {
                let former = self.former_of(incoming).await.map(|former| &**former);
                former.unwrap_or(self).look_at(charge, incoming, price).await
            }
            None => Err(Rejection::no_price().into()),
        };
        match outcome {
            Ok(()) => None,
            Err(refused) => Some(self.turn_away(charge, incoming, price, refused).await),
        }
    }

    /// The answer to a call that is not run.
    pub(super) async fn turn_away(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Option<Usdc>,
        Refused(mut rejection, cause): Refused,
    ) -> Answer {
        // No money is asked for while nothing can be served.
        if rejection.status == 402 && !self.store_is_up().await {
            rejection = Rejection::store_unavailable();
        }
        let price = price_of(charge, price).unwrap_or_default();
        self.reject(charge, price, &rejection, cause.as_ref(), Some(incoming))
    }

    async fn look_at(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Usdc,
    ) -> Result<(), Refused> {
        let plausible = self.plausible(charge, incoming, Some(price)).await?;
        let checked = self.check(charge, incoming, price, plausible).await?;
        self.check_now(charge, &checked).await
    }

    /// Words, numbers and logs of a rejection.
    pub(super) fn reject(
        &self,
        charge: &Charge,
        price: Usdc,
        rejection: &Rejection,
        cause: Option<&Error>,
        incoming: Option<&Incoming>,
    ) -> Answer {
        let request_id = super::request_id();
        self.meters.refused(&charge.name, rejection.reason);
        let level = if rejection.status >= 500 { Level::Error } else { Level::Info };
        if level > Level::Info || self.listener.hears_info() {
            let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
            let message = format!("{}: {}{cause}", charge.name, rejection.reason);
            self.listener.tell_of(&Event {
                request_id: Some(request_id.clone()),
                route: Some(charge.name.clone()),
                reason: Some(rejection.reason),
                status: Some(rejection.status),
                ..Event::new(level, "rejected", message)
            });
        }
        let terms = incoming
            .filter(|_| price > Usdc::ZERO && rejection.status == 402)
            .map(|incoming| incoming.place(self.terms(charge, price), &self.public));
        match incoming {
            Some(incoming) if rejection.status == 401 => {
                let rejection = rejection.clone().with("signing", self.signing(incoming));
                rejection.answer(&request_id, None)
            }
            _ => rejection.answer(&request_id, terms.as_ref()),
        }
    }

    pub(super) fn terms<'a>(&'a self, charge: &'a Charge, price: Usdc) -> Terms<'a> {
        Terms {
            network: self.client.network(),
            provider: self.client.address().to_string(),
            ledger: self.client.mock().map(|kernel| kernel.ledger_id()),
            charge,
            price,
            min_seconds_left: self.min_seconds_left(charge),
            settings: &self.settings,
            service: self.service,
            signature_required: self.unsigned == Unsigned::Refuse,
            resource: String::new(),
            base: String::new(),
        }
    }

    pub(super) fn min_seconds_left(&self, charge: &Charge) -> u64 {
        charge.min_seconds_left.unwrap_or(self.settings.min_seconds_left)
    }

    /// A run, or the answer of an earlier one.
    async fn admit(
        self: &Arc<Self>,
        charge: &Arc<Charge>,
        incoming: &Incoming,
        price: Usdc,
        plausible: Option<Plausible>,
    ) -> Result<Admitted, Refused> {
        let plausible = match plausible {
            Some(plausible) => plausible,
            None => self.plausible(charge, incoming, Some(price)).await?,
        };
        let checked = self.check(charge, incoming, price, plausible).await?;
        if let Err(refused) = self.check_now(charge, &checked).await {
            return self.earlier(charge, &checked).await?.map(Admitted::Repeat).ok_or(refused);
        }
        self.claim(charge, checked).await
    }

    /// What may have changed since the same request was answered: the price and the time left.
    async fn check_now(&self, charge: &Charge, checked: &Checked) -> Result<(), Refused> {
        // A call that takes the whole transaction is worth all of it, every time: a run that failed
        // leaves nothing behind that another route could be opened with. A balance was worth its
        // bundle when it was first used, by the prices of that time; too small to be sold for any
        // bundle, it pays for none.
        let takes_all = checked.request.idempotency_key.is_empty();
        let least = if takes_all { checked.least } else { checked.least.min(SELF_CANCELLABLE) };
        if checked.facts.amount < least {
            return Err(Rejection::too_little(checked.facts.amount, checked.least).into());
        }
        if let Some(most) = checked.most.filter(|most| checked.price > *most) {
            return Err(Rejection::too_dear(checked.price, most).into());
        }
        let needed = self.min_seconds_left(charge);
        match checked.facts.deadline.saturating_sub(self.clock.now().await?) {
            0 => Err(Rejection::expired().into()),
            left if left < needed => Err(Rejection::expires_soon(left, needed).into()),
            _ => Ok(()),
        }
    }

    /// What a claim checks too, but behind the deadline.
    async fn check_amount(&self, facts: &Facts, least: Usdc) -> Result<(), Refused> {
        let is_enough = facts.amount >= least;
        if is_enough || self.payment_of(facts.id).await?.is_some() {
            return Ok(());
        }
        Err(Rejection::too_little(facts.amount, least).into())
    }

    /// All that can be said without the request's body. `price` is `None` where only the body
    /// tells it.
    pub(super) async fn plausible(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Option<Usdc>,
    ) -> Result<Plausible, Refused> {
        if !incoming.is_paid() {
            return Err(Rejection::payment_required().into());
        }
        let payment = incoming.payment(self.client.network(), self.client.address())?;
        let id = parse_id(&payment.transaction_id).ok_or_else(Rejection::malformed_id)?;
        let key = payment.key.as_deref().unwrap_or_default();
        if payment.key.is_some() && !is_key(key) {
            return Err(Rejection::malformed_key().into());
        }
        if let Some(price) = price {
            check_key(charge, price, key)?;
        }
        let most = payment.most()?;
        let service_key = payment.service_key()?;
        let signature = self.read_signature(payment.signature.as_deref(), self.unsigned).await?;
        let session = read_session(payment.session.as_deref())?;
        let seen = self.verify(id).await?;
        let agreement = seen.agreement;
        let facts = self.accept(seen, service_key).await?;
        if let Some(price) = price {
            self.check_amount(&facts, least(charge, price, key)).await?;
        }
        let (key, is_x402) = (key.to_owned(), payment.is_x402);
        Ok(Plausible { facts, agreement, key, signature, session, most, is_x402 })
    }

    /// All that needs the request's body, and no claim.
    async fn check(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Usdc,
        plausible: Plausible,
    ) -> Result<Checked, Refused> {
        let Plausible { facts, agreement, key, signature, session, most, is_x402 } = plausible;
        check_key(charge, price, &key)?;
        let request = incoming.paid(facts.id, &key);
        check_agreement(agreement, &request)?;
        let by_contract =
            self.check_signer(signature.as_ref(), session.as_ref(), &request, &facts).await?;
        let digest = incoming.digest(&charge.name);
        let least = least(charge, price, &key);
        self.check_amount(&facts, least).await?;
        // A call without a key takes the whole transaction.
        let price = if key.is_empty() { facts.amount } else { price };
        let asked = self.settings.keep_requests.then(|| Asked {
            digest,
            variant: incoming.variant.clone(),
            body: incoming.body.clone().filter(|body| self.keeps_body(body.len())),
            signature,
            session,
            by_contract,
        });
        Ok(Checked { facts, agreement, request, digest, price, least, most, is_x402, asked })
    }

    /// The request's signature, as far as it can be judged without its transaction.
    pub(super) async fn read_signature(
        &self,
        given: Option<&str>,
        unsigned: Unsigned,
    ) -> Result<Option<RequestSignature>, Refused> {
        let Some(text) = given else {
            return match unsigned {
                Unsigned::Refuse => Err(Rejection::signature_required().into()),
                Unsigned::Serve => Ok(None),
            };
        };
        let signature: RequestSignature =
            text.trim().parse().map_err(|error: SignatureError| {
                Refused::because(Rejection::malformed_signature(), error.into())
            })?;
        if signature.timestamp.abs_diff(wall_seconds()) > CLOCK_SKEW_SECONDS
            // A kernel whose time was moved has signers that follow it.
            && signature.timestamp.abs_diff(self.clock.now().await?) > CLOCK_SKEW_SECONDS
        {
            return Err(Rejection::stale_signature().into());
        }
        Ok(Some(signature))
    }

    /// The transaction, read once: what protocol rules say cannot change is never asked again.
    pub(super) async fn verify(&self, id: TransactionId) -> Result<Seen, Refused> {
        if let Some(seen) = self.remembered(id) {
            return Ok(seen);
        }
        let turn = self.process.get().lookups.turn(id);
        let _turn = turn.lock().await;
        if let Some(seen) = self.remembered(id) {
            return Ok(seen);
        }
        let seen = match self.payment_of(id).await? {
            Some(payment) => {
                // The store does not keep it: once for each process it is read again.
                let agreement = match self.settings.require_agreement {
                    true => {
                        Some(self.client.kernel().confirm_transaction(id).await?.agreement_hash)
                    }
                    false => None,
                };
                Seen { facts: payment.facts, service_hash: None, agreement }
            }
            None => {
                let transaction = self.look_up(id).await?;
                let service_hash = Some(transaction.service_hash);
                let agreement =
                    self.settings.require_agreement.then_some(transaction.agreement_hash);
                Seen { facts: Facts::of(&transaction), service_hash, agreement }
            }
        };
        self.remember(seen);
        Ok(seen)
    }

    /// Whether a transaction is taken here. One that the store knows was; for one that is new it is
    /// decided whether it is meant for this service, and how long it may lock the pay.
    async fn accept(&self, seen: Seen, service_key: Option<B256>) -> Result<Facts, Refused> {
        let facts = seen.facts;
        let Some(service_hash) = seen.service_hash else { return Ok(facts) };
        let bound = is_bound(service_hash, self.service, service_key);
        if !bound && !self.one_store {
            return Err(Rejection::other_service().into());
        }
        let longest_window = self.settings.max_window_seconds;
        if facts.window_seconds > longest_window {
            return Err(Rejection::window_too_long(facts.window_seconds, longest_window).into());
        }
        let left = facts.deadline.saturating_sub(self.clock.now().await?);
        let longest = self.settings.max_deadline_seconds;
        // Whoever chose the longest may have a clock that is ahead of ours.
        if left > longest.saturating_add(TOLERANCE) {
            return Err(Rejection::deadline_too_far(left, longest).into());
        }
        Ok(Facts { bound, ..facts })
    }

    /// A transaction as the kernel has it now, COMMITTED or IN_PROGRESS.
    pub(super) async fn look_up(&self, id: TransactionId) -> Result<Transaction, Refused> {
        let process = self.process.get();
        if process.lookups.is_unknown(id) {
            return Err(Rejection::not_found().into());
        }
        let kernel = self.client.kernel();
        let found = process
            .lookups
            .read(kernel, self.client.address(), id)
            .await
            .ok_or_else(Rejection::too_many)?;
        let Some(transaction) = found? else {
            process.lookups.note_unknown(id);
            return Err(Rejection::not_found().into());
        };
        // What would be served on one node's word is asked of others too.
        let transaction = kernel.confirmed(transaction).await?;
        if transaction.provider != self.client.address() {
            return Err(Rejection::other_provider().into());
        }
        match (transaction.state, transaction.dispute_window) {
            (State::Committed | State::InProgress, DisputeWindow::Seconds(_)) => Ok(transaction),
            (state, _) => Err(Rejection::wrong_state(state).into()),
        }
    }

    async fn claim(
        self: &Arc<Self>,
        charge: &Arc<Charge>,
        checked: Checked,
    ) -> Result<Admitted, Refused> {
        let process = self.process.get();
        let request = ClaimRequest {
            facts: checked.facts,
            key: checked.request.idempotency_key.clone(),
            digest: checked.digest,
            price: checked.price,
            least: checked.least,
            owner: process.owner,
            lease: self.settings.lease,
            give_up_after: self.settings.give_up_after,
        };
        let mut patience = Patience::of(self.settings.wait);
        loop {
            let answered = process.answered.notified();
            let claimed =
                self.store.claim(&request).await.map_err(|error| self.store_failed(error))?;
            let rejection = match claimed {
                Claimed::Run { attempt } => {
                    let payment =
                        CallPayment::of(&checked.facts, &request.key, checked.price, attempt, self);
                    let call = CallId { transaction: checked.facts.id, key: request.key };
                    let claim = Claim { call, owner: process.owner, attempt, price: checked.price };
                    self.store_health.succeeded();
                    // From now on the store knows it.
                    self.remember(Seen {
                        facts: checked.facts,
                        service_hash: None,
                        agreement: checked.agreement,
                    });
                    return Ok(Admitted::Run(Box::new(Run::new(
                        self.clone(),
                        charge.clone(),
                        claim,
                        checked.request,
                        checked.asked,
                        payment,
                        checked.is_x402,
                    ))));
                }
                Claimed::Answered(kept) => {
                    return self.repeat(charge, &checked, kept).await.map(Admitted::Repeat);
                }
                Claimed::Running { lease_left } => {
                    patience.nap(lease_left, answered).await?;
                    continue;
                }
                Claimed::OtherRequest => Rejection::used(),
                Claimed::OtherKind if request.key.is_empty() => Rejection::key_required(),
                Claimed::OtherKind => Rejection::used(),
                Claimed::Resting { left } => Rejection::resting(left),
                Claimed::NoBalance { left } if left == checked.facts.amount => {
                    Rejection::too_little(left, checked.least.max(checked.price))
                }
                Claimed::NoBalance { left } => Rejection::exhausted(left, checked.price),
                Claimed::Closed(Stage::Delivering | Stage::Delivered) if request.key.is_empty() => {
                    Rejection::used()
                }
                Claimed::Closed(Stage::Delivering | Stage::Delivered) => {
                    Rejection::wrong_state(State::Delivered)
                }
                Claimed::Closed(Stage::Left) => Rejection::left(),
                Claimed::Closed(_) => Rejection::wrong_state(State::Cancelled),
            };
            return Err(rejection.into());
        }
    }

    /// The answer to what was let in before: given again, or waited for. Nothing new is begun.
    async fn earlier(
        self: &Arc<Self>,
        charge: &Charge,
        checked: &Checked,
    ) -> Result<Option<Repeated>, Refused> {
        let process = self.process.get();
        let key = checked.request.idempotency_key.clone();
        let call = CallId { transaction: checked.facts.id, key };
        let mut patience = Patience::of(self.settings.wait);
        loop {
            let answered = process.answered.notified();
            match self
                .store
                .known(&call, checked.digest)
                .await
                .map_err(|error| self.store_failed(error))?
            {
                Known::Answered(kept) => {
                    return self.repeat(charge, checked, kept).await.map(Some);
                }
                Known::Running { lease_left } => patience.nap(lease_left, answered).await?,
                Known::Nothing => return Ok(None),
            }
        }
    }

    /// The answer again, byte for byte.
    async fn repeat(
        self: &Arc<Self>,
        charge: &Charge,
        checked: &Checked,
        kept: Kept,
    ) -> Result<Repeated, Refused> {
        let Kept { index, content_hash, answered_at, answer } = kept;
        let Some(answer) = answer else { return Err(Rejection::not_kept().into()) };
        let key = &checked.request.idempotency_key;
        let call = CallId { transaction: checked.facts.id, key: key.clone() };
        let (mut answer, rest) = Repeat::begin(self, call, answer)?;
        if !self.confirmed(charge, checked.facts.id).await? {
            return Err(Rejection::unconfirmed().into());
        }
        self.meters.repeated(&charge.name);
        let facts = &checked.facts;
        if self.listener.hears_info() {
            self.listener.tell_of(&Event {
                route: Some(charge.name.clone()),
                transaction: Some(facts.id),
                requester: Some(facts.requester),
                status: Some(answer.status),
                ..Event::new(Level::Info, "repeated", "a kept answer was given again")
            });
        }
        let receipt =
            self.receipt(facts.id, facts.requester, key, index, content_hash, answered_at).await;
        headers::make_private(&mut answer.headers);
        let (payer, price) = (facts.requester, checked.price);
        let answer = self.with_receipt(answer, &receipt, payer, price, checked.is_x402);
        Ok(Repeated { answer: answer.with(headers::REPLAY, "1"), rest })
    }

    /// A payment as the store has it.
    pub(super) async fn payment_of(
        &self,
        id: TransactionId,
    ) -> Result<Option<super::store::Payment>, Refused> {
        self.store.payment(id).await.map_err(|error| self.store_failed(error))
    }

    pub(super) fn store_failed(&self, cause: Error) -> Refused {
        self.store_health.failed();
        Refused::store(cause)
    }

    /// Whether the store answers, as far as this process knows from its last second.
    async fn store_is_up(&self) -> bool {
        match self.store_health.known() {
            Some(is_up) => is_up,
            None => {
                let probe = self.store.payment(TransactionId::ZERO);
                let probed = tokio::time::timeout(super::health::PROBE, probe).await;
                let is_up = matches!(probed, Ok(Ok(_)));
                self.store_health.probed(is_up);
                is_up
            }
        }
    }

    /// Whether a request body of this length is kept with its answer.
    pub(super) fn keeps_body(&self, length: usize) -> bool {
        self.settings.keep_requests && length <= self.settings.max_kept_request_bytes
    }

    pub(super) fn remembers(&self, id: TransactionId) -> bool {
        self.remembered(id).is_some()
    }

    fn remembered(&self, id: TransactionId) -> Option<Seen> {
        super::lock(&self.verified).get(&id).copied()
    }

    fn remember(&self, seen: Seen) {
        super::lock(&self.verified).put(seen.facts.id, seen);
    }
}

/// Whether the transaction of a single call names this request. A balance is for requests that nobody
/// knows yet.
fn check_agreement(named: Option<B256>, request: &PaidRequest) -> Result<(), Refused> {
    let Some(named) = named.filter(|_| request.idempotency_key.is_empty()) else { return Ok(()) };
    let agreed = request.agreement_hash();
    if named != agreed {
        return Err(Rejection::other_agreement(named, agreed).into());
    }
    Ok(())
}

/// Waiting for a call that somebody else runs.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn of(wait: Duration) -> Self {
        Self { until: Instant::now() + wait, pause: LOOKS.0 }
    }

    /// Until one that this process runs has ended, or it is time to look what others did.
    async fn nap(&mut self, lease_left: Duration, answered: Notified<'_>) -> Result<(), Rejection> {
        if Instant::now() >= self.until {
            return Err(Rejection::still_running());
        }
        let nap = self.pause.min(lease_left.max(LOOKS.0));
        let _ = tokio::time::timeout(nap, answered).await;
        self.pause = (self.pause * 2).min(LOOKS.1);
        Ok(())
    }
}

fn is_key(key: &str) -> bool {
    (1..=KEY_CHARACTERS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

fn price_of(charge: &Charge, given: Option<Usdc>) -> Option<Usdc> {
    match charge.price {
        Price::Fixed(price) => Some(price),
        Price::PerRequest => given.filter(|price| check_price(*price).is_ok()),
    }
}

/// Where only bundles are sold, each call has a key of its own.
fn check_key(charge: &Charge, price: Usdc, key: &str) -> Result<(), Rejection> {
    match key.is_empty() && charge.is_bundled(price) {
        true => Err(Rejection::key_required()),
        false => Ok(()),
    }
}

/// What a transaction must be worth at its first use.
fn least(charge: &Charge, price: Usdc, key: &str) -> Usdc {
    if key.is_empty() { price } else { charge.bundle(price) }
}
