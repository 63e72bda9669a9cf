//! Every call passes here: the checks in the recipe's order, the claim, and then either a ticket
//! to run the handler or an answer.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use alloy_primitives::{B256, keccak256};
use lru::LruCache;
use tokio::{sync::futures::Notified, time::Instant};

use super::{
    Inner,
    answer::Answer,
    notice::Level,
    price::{Charge, Price, check_price},
    rejection::{Rejection, Terms},
    settings::Unsigned,
    store::{CallId, Claim, ClaimRequest, Claimed, Facts, Kept, Known, Stage},
    ticket::{CallPayment, Ticket},
};
use crate::{
    error::Error,
    protocol::{
        DisputeWindow, Refusal, State, TransactionId, Usdc,
        error::SignatureError,
        paid_request::{CLOCK_SKEW_SECONDS, PaidRequest, RequestSignature},
    },
};

/// How many transactions are remembered as verified.
pub(super) const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// How often somebody else's running claim is looked at, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// The length of an idempotency key, at most.
const KEY_CHARACTERS: usize = 255;

/// A request as the paywall looks at it: what an adapter carries over from its framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The HTTP method.
    pub method: String,
    /// Path and query, as they stand in the request line.
    pub target: String,
    /// keccak256 of the body.
    pub body_hash: B256,
    /// The header [`crate::protocol::paid_request::TRANSACTION_HEADER`].
    pub transaction_id: Option<String>,
    /// The header [`crate::protocol::paid_request::SIGNATURE_HEADER`].
    pub signature: Option<String>,
    /// The header [`crate::protocol::paid_request::IDEMPOTENCY_HEADER`].
    pub idempotency_key: Option<String>,
    /// The header [`crate::protocol::paid_request::MAX_PRICE_HEADER`].
    pub max_price: Option<String>,
}

impl Incoming {
    /// A request without headers.
    pub fn new(method: &str, target: &str, body: &[u8]) -> Self {
        Self {
            method: method.to_ascii_uppercase(),
            target: target.to_owned(),
            body_hash: keccak256(body),
            transaction_id: None,
            signature: None,
            idempotency_key: None,
            max_price: None,
        }
    }

    /// What the call may take, where its request says so.
    fn most(&self) -> Result<Option<Usdc>, Rejection> {
        let Some(text) = self.max_price.as_deref().map(str::trim) else { return Ok(None) };
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse().ok()).flatten();
        number.map(|units| Some(Usdc(units))).ok_or_else(Rejection::malformed_max_price)
    }

    /// What the requester signs, but for the time.
    pub(super) fn paid(&self, transaction_id: TransactionId) -> PaidRequest {
        PaidRequest {
            transaction_id,
            method: self.method.clone(),
            target: self.target.clone(),
            body_hash: self.body_hash,
            idempotency_key: self.idempotency_key.clone().unwrap_or_default(),
            timestamp: 0,
        }
    }
}

/// What to do with a request.
#[derive(Debug)]
pub enum Entry {
    /// Run the handler, and hand its answer to the ticket.
    Run(Box<Ticket>),
    /// Answer this: a refusal, or what the same request was answered before.
    Answer(Answer),
}

/// Transactions that were verified. They do not change before their deadline.
pub(super) type Verified = LruCache<TransactionId, Facts>;

/// A call that passed all checks but the claim.
struct Checked {
    facts: Facts,
    request: PaidRequest,
    digest: B256,
    /// What the call takes from the balance.
    price: Usdc,
    /// What a transaction must be worth at its first use.
    least: Usdc,
    /// What its request allows the call to take.
    most: Option<Usdc>,
}

impl Inner {
    pub(super) async fn enter(
        self: &Arc<Self>,
        charge: &Arc<Charge>,
        incoming: &Incoming,
        price: Option<Usdc>,
    ) -> Entry {
        let priced = price_of(charge, price);
        let outcome = match priced {
            Some(price) => self.pass(charge, incoming, price).await,
            None => Err(Rejection::no_price().into()),
        };
        outcome.unwrap_or_else(|refused| {
            Entry::Answer(self.turn_away(charge, incoming, priced, refused))
        })
    }

    /// The refusal before any claim, if there is one.
    pub(super) async fn look(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Option<Usdc>,
    ) -> Option<Answer> {
        let priced = price_of(charge, price);
        let outcome = match priced {
            Some(price) => self.look_at(charge, incoming, price).await,
            None => Err(Rejection::no_price().into()),
        };
        outcome.err().map(|refused| self.turn_away(charge, incoming, priced, refused))
    }

    fn turn_away(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        priced: Option<Usdc>,
        Refused(rejection, cause): Refused,
    ) -> Answer {
        let rejection = rejection.of(&incoming.target);
        self.reject(charge, priced.unwrap_or_default(), &rejection, cause.as_ref())
    }

    async fn look_at(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Usdc,
    ) -> Result<(), Refused> {
        let checked = self.check(charge, incoming, price).await?;
        self.check_amount(&checked).await?;
        self.check_now(charge, &checked).await
    }

    /// Words, numbers and logs of a refusal.
    pub(super) fn reject(
        &self,
        charge: &Charge,
        price: Usdc,
        rejection: &Rejection,
        cause: Option<&Error>,
    ) -> Answer {
        let request_id = super::request_id();
        self.meters.refused(&charge.name, rejection.reason);
        let level = if rejection.status >= 500 { Level::Error } else { Level::Info };
        let message = match cause {
            Some(cause) => format!("{}: {} ({cause})", charge.name, rejection.reason),
            None => format!("{}: {}", charge.name, rejection.reason),
        };
        self.listener.tell_of(level, &request_id, message);
        rejection
            .answer(&request_id, (price > Usdc::ZERO).then(|| self.terms(charge, price)).as_ref())
    }

    pub(super) fn terms<'a>(&'a self, charge: &'a Charge, price: Usdc) -> Terms<'a> {
        Terms {
            network: self.client.network(),
            provider: self.client.address().to_string(),
            charge,
            price,
            min_seconds_left: self.min_seconds_left(charge),
            signature_required: self.unsigned == Unsigned::Refuse,
        }
    }

    pub(super) fn min_seconds_left(&self, charge: &Charge) -> u64 {
        charge.min_seconds_left.unwrap_or(self.settings.min_seconds_left)
    }

    async fn pass(
        self: &Arc<Self>,
        charge: &Arc<Charge>,
        incoming: &Incoming,
        price: Usdc,
    ) -> Result<Entry, Refused> {
        let checked = self.check(charge, incoming, price).await?;
        self.check_amount(&checked).await?;
        if let Err(refused) = self.check_now(charge, &checked).await {
            return self.earlier(charge, &checked).await?.map(Entry::Answer).ok_or(refused);
        }
        self.claim(charge, checked).await
    }

    /// What may have changed since the same request was answered: the price and the time left.
    async fn check_now(&self, charge: &Charge, checked: &Checked) -> Result<(), Refused> {
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
    async fn check_amount(&self, checked: &Checked) -> Result<(), Refused> {
        let Checked { facts, least, .. } = checked;
        let is_enough = facts.amount >= *least;
        if is_enough || self.store.payment(facts.id).await.map_err(Refused::store)?.is_some() {
            return Ok(());
        }
        Err(Rejection::too_little(facts.amount, *least).into())
    }

    /// All that needs no claim.
    async fn check(
        &self,
        charge: &Charge,
        incoming: &Incoming,
        price: Usdc,
    ) -> Result<Checked, Refused> {
        let given = incoming.transaction_id.as_deref().map(str::trim).unwrap_or_default();
        if given.is_empty() {
            return Err(Rejection::payment_required().into());
        }
        let id = parse_id(given).ok_or_else(Rejection::malformed_id)?;
        let key = incoming.idempotency_key.as_deref().unwrap_or_default();
        if incoming.idempotency_key.is_some() && !is_key(key) {
            return Err(Rejection::malformed_key().into());
        }
        if key.is_empty() && charge.is_bundled(price) {
            return Err(Rejection::key_required().into());
        }
        let most = incoming.most()?;
        let signature = self.read_signature(incoming).await?;
        let facts = self.verify(id).await?;
        let request = incoming.paid(id);
        self.check_signer(signature.as_ref(), &request, &facts)?;
        let digest = digest(&request);
        let least = if key.is_empty() { price } else { charge.bundle(price) };
        // A call without a key takes the whole transaction.
        let price = if key.is_empty() { facts.amount } else { price };
        Ok(Checked { facts, request, digest, price, least, most })
    }

    /// The request's signature, as far as it can be judged without its transaction.
    pub(super) async fn read_signature(
        &self,
        incoming: &Incoming,
    ) -> Result<Option<RequestSignature>, Refused> {
        let Some(text) = &incoming.signature else {
            return match self.unsigned {
                Unsigned::Refuse => Err(Rejection::signature_required().into()),
                Unsigned::Serve => Ok(None),
            };
        };
        let signature: RequestSignature =
            text.trim().parse().map_err(|error: SignatureError| {
                Refused::because(Rejection::malformed_signature(), error.into())
            })?;
        if signature.timestamp.abs_diff(super::wall_seconds()) > CLOCK_SKEW_SECONDS
            // A kernel whose time was moved has signers that follow it.
            && signature.timestamp.abs_diff(self.clock.now().await?) > CLOCK_SKEW_SECONDS
        {
            return Err(Rejection::stale_signature().into());
        }
        Ok(Some(signature))
    }

    pub(super) fn check_signer(
        &self,
        signature: Option<&RequestSignature>,
        request: &PaidRequest,
        facts: &Facts,
    ) -> Result<(), Refused> {
        let Some(signature) = signature else {
            self.warn_of_unsigned();
            return Ok(());
        };
        let network = self.client.network();
        match signature.recover(request, network.chain_id, network.kernel) {
            Ok(signer) if signer == facts.requester => Ok(()),
            _ => Err(Rejection::wrong_signer().into()),
        }
    }

    /// The transaction, read once: what protocol rules say cannot change is never asked again.
    async fn verify(&self, id: TransactionId) -> Result<Facts, Refused> {
        if let Some(facts) = self.remembered(id) {
            return Ok(facts);
        }
        let turn = self.process.get().lookups.turn(id);
        let _turn = turn.lock().await;
        if let Some(facts) = self.remembered(id) {
            return Ok(facts);
        }
        let facts = match self.store.payment(id).await.map_err(Refused::store)? {
            Some(payment) => payment.facts,
            None => self.look_up(id).await?.0,
        };
        self.remember(facts);
        Ok(facts)
    }

    /// A transaction as the kernel has it now, COMMITTED or IN_PROGRESS.
    pub(super) async fn look_up(&self, id: TransactionId) -> Result<(Facts, State), Refused> {
        let process = self.process.get();
        if process.lookups.is_unknown(id) {
            return Err(Rejection::not_found().into());
        }
        let _permit = process.lookups.permit().await.ok_or_else(Rejection::too_many)?;
        let transaction = match self.client.get_transaction(id).await {
            Ok(transaction) => transaction,
            Err(error) if error.refusal() == Some(Refusal::TxMissing) => {
                process.lookups.note_unknown(id);
                return Err(Rejection::not_found().into());
            }
            Err(error) => return Err(Refused::because(Rejection::unverifiable(), error)),
        };
        if transaction.provider != self.client.address() {
            return Err(Rejection::other_provider().into());
        }
        let window_seconds = match (transaction.state, transaction.dispute_window) {
            (State::Committed | State::InProgress, DisputeWindow::Seconds(seconds)) => seconds,
            (state, _) => return Err(Rejection::wrong_state(state).into()),
        };
        let facts = Facts {
            id,
            requester: transaction.requester,
            amount: transaction.amount,
            deadline: transaction.deadline,
            window_seconds,
        };
        Ok((facts, transaction.state))
    }

    async fn claim(
        self: &Arc<Self>,
        charge: &Arc<Charge>,
        checked: Checked,
    ) -> Result<Entry, Refused> {
        let process = self.process.get();
        let request = ClaimRequest {
            facts: checked.facts,
            key: checked.request.idempotency_key.clone(),
            digest: checked.digest,
            price: checked.price,
            least: checked.least,
            owner: process.owner,
            lease: self.settings.lease,
        };
        let mut patience = Patience::of(self.settings.wait);
        loop {
            let answered = process.answered.notified();
            let claimed = self.store.claim(&request).await.map_err(Refused::store)?;
            let rejection = match claimed {
                Claimed::Run { attempt } => {
                    let payment =
                        CallPayment::of(&checked.facts, &request.key, checked.price, attempt, self);
                    let call = CallId { transaction: checked.facts.id, key: request.key };
                    let claim = Claim { call, owner: process.owner, attempt, price: checked.price };
                    return Ok(Entry::Run(Box::new(Ticket::new(
                        self.clone(),
                        charge.clone(),
                        claim,
                        checked.request,
                        payment,
                    ))));
                }
                Claimed::Answered(kept) => {
                    return self.repeat(charge, &checked, kept).await.map(Entry::Answer);
                }
                Claimed::Running { lease_left } => {
                    patience.nap(lease_left, answered).await?;
                    continue;
                }
                Claimed::OtherRequest => Rejection::used(),
                Claimed::OtherKind if request.key.is_empty() => Rejection::key_required(),
                Claimed::OtherKind => Rejection::used(),
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
    ) -> Result<Option<Answer>, Refused> {
        let process = self.process.get();
        let key = checked.request.idempotency_key.clone();
        let call = CallId { transaction: checked.facts.id, key };
        let mut patience = Patience::of(self.settings.wait);
        loop {
            let answered = process.answered.notified();
            match self.store.known(&call, checked.digest).await.map_err(Refused::store)? {
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
    ) -> Result<Answer, Refused> {
        let Kept { index, content_hash, answered_at, answer } = kept;
        let Some(answer) = answer else { return Err(Rejection::not_kept().into()) };
        if !self.confirmed(charge, checked.facts.id).await? {
            return Err(Rejection::unconfirmed().into());
        }
        self.meters.repeated(&charge.name);
        let key = &checked.request.idempotency_key;
        let receipt = self.receipt(&checked.facts, key, index, content_hash, answered_at).await;
        Ok(super::ticket::with_receipt(answer, &receipt).with("X-AGIRAILS-REPLAY", "1"))
    }

    fn remembered(&self, id: TransactionId) -> Option<Facts> {
        super::lock(&self.verified).get(&id).copied()
    }

    fn remember(&self, facts: Facts) {
        super::lock(&self.verified).put(facts.id, facts);
    }
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

/// A refusal, and what the operator should know of it.
pub(super) struct Refused(pub(super) Rejection, pub(super) Option<Error>);

impl Refused {
    pub(super) fn because(rejection: Rejection, cause: Error) -> Self {
        Self(rejection, Some(cause))
    }

    pub(super) fn store(cause: Error) -> Self {
        Self::because(Rejection::store_unavailable(), cause)
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self(rejection, None)
    }
}

/// The clock could not be read: the kernel is out of reach.
impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::because(Rejection::unverifiable(), error)
    }
}

/// Exactly `0x` and 64 hex digits: what a chain prints.
pub(super) fn parse_id(text: &str) -> Option<TransactionId> {
    (text.len() == 66).then(|| text.parse().ok()).flatten()
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

/// What makes two requests the same. Lengths stand before the parts, so that no part can reach
/// into its neighbour.
fn digest(request: &PaidRequest) -> B256 {
    let mut bytes = Vec::with_capacity(64 + request.method.len() + request.target.len());
    for part in [request.method.as_bytes(), request.target.as_bytes()] {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part);
    }
    bytes.extend(request.body_hash.as_slice());
    keccak256(bytes)
}
