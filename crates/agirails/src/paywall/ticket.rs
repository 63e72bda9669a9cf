//! The right to run a handler once, and what becomes of its answer.

use std::{fmt, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, hex, keccak256};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::{
    Inner,
    answer::{Answer, end_to_end},
    gate::Refused,
    notice::Level,
    price::Charge,
    rejection::Rejection,
    settings::Deliver,
    store::{AnswerRequest, Claim, Ended, Facts, Stage},
};
use crate::{
    error::Result,
    protocol::{
        TransactionId, Usdc,
        paid_request::{PaidRequest, TRANSACTION_HEADER},
        receipt::{CallRecord, RECEIPT_HEADER, Receipt},
    },
};

/// What a handler may know of the payment it runs for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPayment {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Who pays.
    pub requester: Address,
    /// What this call takes.
    pub price: Usdc,
    /// What the whole transaction holds.
    pub amount: Usdc,
    /// Unix seconds.
    pub deadline: u64,
    /// The call's own key; `None` for a call that takes the whole transaction.
    pub call_key: Option<String>,
    /// The same for every run of this call, and for no other call: pass it on to whatever the
    /// handler calls, so that a run after a crash does nothing twice.
    pub idempotency_key: String,
    /// The how many-th run of this call it is, from 1.
    pub attempt: u32,
}

impl CallPayment {
    pub(super) fn of(facts: &Facts, key: &str, price: Usdc, attempt: u32, inner: &Inner) -> Self {
        let network = inner.client.network();
        let mut seed = network.chain_id.to_be_bytes().to_vec();
        seed.extend(network.kernel.as_slice());
        seed.extend(facts.id.as_slice());
        seed.extend(key.as_bytes());
        Self {
            transaction_id: facts.id,
            requester: facts.requester,
            price,
            amount: facts.amount,
            deadline: facts.deadline,
            call_key: (!key.is_empty()).then(|| key.to_owned()),
            idempotency_key: hex::encode(&keccak256(seed)[..16]),
            attempt,
        }
    }
}

/// The right to run a handler once. Hand its answer to [`Ticket::finish`], whatever it is; a
/// ticket that is dropped instead gives its claim back, as a failed run.
pub struct Ticket {
    inner: Arc<Inner>,
    charge: Arc<Charge>,
    claim: Claim,
    request: PaidRequest,
    payment: CallPayment,
    begun: std::time::Instant,
    is_open: bool,
}

impl Ticket {
    pub(super) fn new(
        inner: Arc<Inner>,
        charge: Arc<Charge>,
        claim: Claim,
        request: PaidRequest,
        payment: CallPayment,
    ) -> Self {
        inner.process.get().hold(&claim);
        let begun = std::time::Instant::now();
        Self { inner, charge, claim, request, payment, begun, is_open: true }
    }

    /// What the handler may know.
    pub fn payment(&self) -> &CallPayment {
        &self.payment
    }

    /// Ends the run. A success (2xx) is kept, proven and owed on chain before this returns, and
    /// comes back with its receipt. All else comes back as it is, and the claim is free again.
    ///
    /// Where the success could not be kept, what comes back is a refusal: the caller never sees an
    /// answer that is not delivered.
    pub async fn finish(mut self, answer: Answer) -> Answer {
        if !is_success(answer.status) {
            self.give_back(&format!("the handler answered {}", answer.status)).await;
            return answer;
        }
        let mut answer = Answer { headers: end_to_end(answer.headers), ..answer };
        if is_without_body(answer.status) {
            answer.body.clear();
        }
        let sent = if self.sends_body(answer.status) { &answer.body[..] } else { &[] };
        let body_hash = keccak256(sent);
        let (status, content_type) = (answer.status, answer.content_type().to_owned());
        match self.keep(status, &content_type, body_hash, Some(answer.clone())).await {
            Ok(receipt) => with_receipt(answer, &receipt),
            Err(Refused(rejection, cause)) => {
                self.inner.reject(&self.charge, Usdc::ZERO, &rejection, cause.as_ref())
            }
        }
    }

    /// Ends a run that raised: the claim is free again.
    pub async fn fail(mut self, problem: &str) {
        self.give_back(problem).await;
    }

    /// Ends a run that answers in a stream: the status and headers leave now, the body as it
    /// comes. Hand every piece to [`Streaming::push`], then call [`Streaming::finish`].
    ///
    /// # Errors
    /// The ticket itself where the status is no success: [`Self::fail`] it.
    pub fn stream(
        self,
        status: u16,
        headers: Vec<(String, Vec<u8>)>,
    ) -> Result<Streaming, Box<Self>> {
        if !is_success(status) {
            return Err(Box::new(self));
        }
        let head = Answer { status, headers: end_to_end(headers), body: vec![] };
        Ok(Streaming { ticket: self, head, hasher: alloy_primitives::Keccak256::new(), length: 0 })
    }

    /// Makes the answer durable: proof, answer to repeat, duty to deliver.
    async fn keep(
        &mut self,
        status: u16,
        content_type: &str,
        body_hash: B256,
        answer: Option<Answer>,
    ) -> Result<Receipt, Refused> {
        let record = CallRecord { request: &self.request, status, content_type, body_hash };
        let lost = |cause| Refused::because(Rejection::answer_lost(), cause);
        let content_hash = record.content_hash().map_err(|error| lost(error.into()))?;
        let answered_at = self.inner.clock.now().await.unwrap_or_else(|_| super::wall_seconds());
        if answered_at > self.payment.deadline {
            // It cannot be delivered any more.
            self.abandon();
            return Err(Rejection::too_late().into());
        }
        let request = AnswerRequest {
            claim: self.claim.clone(),
            content_hash,
            answered_at,
            answer,
            route: self.charge.name.clone(),
            close_below: self.inner.cheapest().min(self.charge.floor()),
        };
        let ended = self.inner.store.answer(&request).await;
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                self.give_back("its answer could not be kept").await;
                return Err(lost(error));
            }
        };
        self.leave();
        let (stage, index) = match ended {
            Ended::Done { stage, index } => (stage, index),
            Ended::TakenOver => return Err(Rejection::taken_over().into()),
            Ended::Closed => return Err(Rejection::too_late().into()),
        };
        self.inner.meters.served(&self.charge.name, self.begun.elapsed());
        if stage == Stage::Delivering {
            self.inner.process.get().wake();
        }
        if !self.inner.confirmed(&self.charge, self.payment.transaction_id).await? {
            return Err(Rejection::unconfirmed().into());
        }
        let facts = Facts {
            id: self.payment.transaction_id,
            requester: self.payment.requester,
            amount: self.payment.amount,
            deadline: self.payment.deadline,
            window_seconds: 0,
        };
        let key = &self.claim.call.key;
        Ok(self.inner.receipt(&facts, key, index, content_hash, answered_at).await)
    }

    /// Whether the caller gets the bytes of a body, which are what its proof is of.
    fn sends_body(&self, status: u16) -> bool {
        self.request.method != "HEAD" && !is_without_body(status)
    }

    /// The seconds until the transaction is closed, whatever is running; `None` where the kernel's
    /// time was never heard of.
    fn seconds_left(&self) -> Option<u64> {
        let closes = self.payment.deadline.saturating_sub(self.inner.settings.closing_seconds);
        self.inner.clock.latest().map(|now| closes.saturating_sub(now))
    }

    async fn give_back(&mut self, problem: &str) {
        self.inner.meters.failed(&self.charge.name);
        self.inner.listener.tell(
            Level::Warning,
            format!(
                "{}: {problem}; transaction {} may be used again",
                self.charge.name, self.payment.transaction_id
            ),
        );
        match self.inner.store.release(&self.claim, self.inner.settings.give_up_after).await {
            Ok(ended) => {
                self.leave();
                if let Ended::Done { stage: Stage::Returning, .. } = ended {
                    self.inner.process.get().wake();
                }
            }
            // The outbox tries again; at the latest the claim's lease runs out.
            Err(error) => {
                self.inner
                    .listener
                    .tell(Level::Error, format!("a claim was not given back: {error}"));
                self.abandon();
            }
        }
    }

    fn leave(&mut self) {
        self.is_open = false;
        self.inner.process.get().let_go(&self.claim);
    }

    fn abandon(&mut self) {
        self.is_open = false;
        self.inner.process.get().abandon(&self.claim);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A forked child that drops its copy must not give back what its parent runs.
        if self.is_open && self.claim.owner == self.inner.process.get().owner {
            self.abandon();
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("payment", &self.payment).finish_non_exhaustive()
    }
}

/// A run whose answer is leaving in pieces. Dropped before its end, it counts as a failed run.
pub struct Streaming {
    ticket: Ticket,
    head: Answer,
    hasher: alloy_primitives::Keccak256,
    length: usize,
}

impl Streaming {
    /// The status and headers to send first.
    pub fn head(&self) -> (u16, Vec<(String, Vec<u8>)>) {
        let id = self.ticket.payment.transaction_id.to_string();
        let head = Answer { body: vec![], ..self.head.clone() };
        let head = head.with(TRANSACTION_HEADER, id);
        (head.status, head.headers)
    }

    /// One more piece, on its way to the caller. `false` where its transaction is closed by now, so
    /// that nobody would pay for it: break the stream off, and [`Self::fail`] it.
    #[must_use]
    pub fn push(&mut self, piece: &[u8]) -> bool {
        if self.ticket.seconds_left() == Some(0) {
            return false;
        }
        if self.ticket.sends_body(self.head.status) {
            self.take(piece);
        }
        true
    }

    fn take(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.length += piece.len();
        if self.length <= self.ticket.inner.settings.max_kept_stream_bytes {
            self.head.body.extend_from_slice(piece);
        } else {
            self.head.body = vec![];
        }
    }

    /// How long a caller who does not read may hold the stream up: what has not ended when the
    /// transaction is closed is not paid for. Who is given up is served to the end like one who
    /// went away.
    pub fn patience(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(30);
        let left = self.ticket.seconds_left().map(Duration::from_secs);
        left.map_or(LONGEST, |left| LONGEST.min(left / 4))
    }

    /// The stream is at its end: it is kept (up to the limit), proven and owed on chain. Returns
    /// whether that took effect; where it did not, the operator was told.
    pub async fn finish(self) -> bool {
        let Self { mut ticket, head, hasher, length } = self;
        let body_hash = hasher.finalize();
        let (status, content_type) = (head.status, head.content_type().to_owned());
        let is_kept = length <= ticket.inner.settings.max_kept_stream_bytes;
        match ticket.keep(status, &content_type, body_hash, is_kept.then_some(head)).await {
            Ok(_) => true,
            Err(Refused(rejection, cause)) => {
                ticket.inner.reject(&ticket.charge, Usdc::ZERO, &rejection, cause.as_ref());
                false
            }
        }
    }

    /// The stream broke off.
    pub async fn fail(self, problem: &str) {
        self.ticket.fail(problem).await;
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl Inner {
    /// Waits for the delivery where the route wants that; whether it stands, or need not.
    pub(super) async fn confirmed(
        self: &Arc<Self>,
        charge: &Charge,
        id: TransactionId,
    ) -> Result<bool, Refused> {
        if charge.deliver.unwrap_or(self.settings.deliver) == Deliver::Outbox {
            return Ok(true);
        }
        self.wait_for_delivery(id).await.map_err(Refused::store)
    }

    /// The provider's statement of a call, signed where there is a key.
    pub(super) async fn receipt(
        &self,
        facts: &Facts,
        key: &str,
        index: u64,
        content_hash: B256,
        delivered_at: u64,
    ) -> Receipt {
        let mut receipt = Receipt {
            transaction_id: facts.id,
            idempotency_key: key.to_owned(),
            index,
            content_hash,
            delivered_at,
            provider: self.client.address(),
            signature: None,
        };
        let network = self.client.network();
        if let Some(wallet) = self.client.wallet() {
            let message = receipt.message(facts.requester, network.chain_id);
            match wallet.sign_delivery(message, network.kernel).await {
                Ok(signed) => {
                    receipt.signature = Some(Bytes::from(signed.signature.as_bytes().to_vec()));
                }
                Err(error) => self.listener.tell(
                    Level::Error,
                    format!("a receipt of {} goes out unsigned: {error}", facts.id),
                ),
            }
        }
        receipt
    }
}

pub(super) fn with_receipt(answer: Answer, receipt: &Receipt) -> Answer {
    // A receipt is text and numbers, which always have JSON.
    let text = serde_json::to_vec(receipt).unwrap_or_default();
    answer
        .with(TRANSACTION_HEADER, receipt.transaction_id.to_string())
        .with(RECEIPT_HEADER, BASE64.encode(text))
}

/// Statuses whose responses have none, whatever the handler returned.
const fn is_without_body(status: u16) -> bool {
    matches!(status, 204 | 205)
}

const fn is_success(status: u16) -> bool {
    matches!(status, 200..=299)
}
