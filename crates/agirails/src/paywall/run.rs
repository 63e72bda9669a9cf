//! One run of a handler: what becomes of its answer, and of its claim.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::{
    Inner,
    answer::{Answer, Headers},
    call::{Asked, CallPayment, Live},
    event::{Event, Level},
    headers, lock,
    price::Charge,
    process::Process,
    reason::Reason,
    rejection::{Refused, Rejection},
    response::{Action, Chunk, Ending, Head, Limits, Response, Whole},
    settings::Deliver,
    store::{AnswerRequest, Claim, Ended, KeptRequest, Stage},
};
use crate::{
    error::{Error, Result},
    protocol::{
        TransactionId, Usdc,
        paid_request::{PaidRequest, TRANSACTION_HEADER},
        receipt::{RECEIPT_HEADER, Receipt},
    },
    wall_clock::wall_seconds,
};

/// How long before a transaction is closed a stream is cut: by then it must be kept what was sent.
const CUT_SECONDS: u64 = 2;

/// The right to run a handler once, and all that is decided about its response.
///
/// Give it the response: [`Self::head`], [`Self::chunk`] for each piece of the body, [`Self::end`].
/// [`Self::finish`] is all three for an answer that is there as a whole. A run that ends without an
/// answer is [`Self::abort`]ed, which gives the claim back; one that is dropped gives it back as
/// well.
pub struct Run {
    inner: Arc<Inner>,
    live: Arc<Live>,
    is_x402: bool,
    begun: std::time::Instant,
    is_open: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Send this. `is_handlers` says whether it is the handler's answer, with the paywall's
    /// headers, or one in its place.
    Answer {
        /// The response to send.
        answer: Answer,
        /// Whether it is the handler's own.
        is_handlers: bool,
    },
    /// The stream is kept: send these last bytes, then its end.
    Kept(Vec<u8>),
    /// The stream could not be kept: break the connection off, so that nobody takes what was sent
    /// for the whole answer.
    Broken,
    /// The response is no success: nothing was taken, and it is sent as it is.
    Passed,
}

impl Run {
    pub(super) fn new(
        inner: Arc<Inner>,
        charge: Arc<Charge>,
        claim: Claim,
        request: PaidRequest,
        asked: Option<Asked>,
        payment: CallPayment,
        is_x402: bool,
    ) -> Self {
        inner.process.get().hold(&claim);
        let settings = &inner.settings;
        let limits = Limits {
            answer: settings.max_kept_answer_bytes,
            stream: settings.max_kept_stream_bytes,
        };
        let response = Response::new(&request.method, limits);
        let begun = std::time::Instant::now();
        let live = Arc::new(Live::new(charge, claim, request, asked, payment, response));
        Self { inner, live, is_x402, begun, is_open: true }
    }

    /// What the handler may know.
    pub fn payment(&self) -> &CallPayment {
        &self.live.payment
    }

    /// The handler's status and headers; `length` is its body's, where it is known. Says what to
    /// do with the body, and which headers to send.
    pub fn head(&mut self, status: u16, given: Headers, length: Option<usize>) -> Head {
        let mut head = lock(&self.live.response).head(status, given, length);
        if head.action == Action::Stream {
            self.inner.process.get().tend_stream(&self.live);
            headers::make_private(&mut head.headers);
            let id = self.live.payment.transaction_id.to_string();
            head.headers.push((TRANSACTION_HEADER.to_owned(), id.into_bytes()));
        }
        head
    }

    /// One piece of the handler's body. After [`Chunk::Break`], [`Self::abort`] the run: it knows
    /// the reason.
    pub fn chunk(&mut self, piece: &[u8]) -> Chunk {
        self.inner.cut_if_due(&self.live);
        lock(&self.live.response).chunk(piece)
    }

    /// How long a caller who does not read may hold a stream up: what has not ended when the
    /// transaction is closed is cut. A caller who is given up is served to the end like
    /// one who went away. `None` where no stream is under way.
    pub fn patience(&self) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(30);
        let is_streaming = lock(&self.live.response).is_streaming();
        is_streaming.then(|| {
            let left = self.inner.seconds_left(&self.live.payment).map(Duration::from_secs);
            left.map_or(LONGEST, |left| LONGEST.min(left / 4))
        })
    }

    /// The handler's body is at its end. A success (2xx) is kept, proven and owed on chain before
    /// this returns; for all else the claim is free again.
    ///
    /// Where a success could not be kept, what comes back is a rejection, or the word to break the
    /// stream off: the caller never has a whole answer that is not delivered.
    pub async fn end(mut self) -> End {
        let response = {
            let mut response = lock(&self.live.response);
            let is_cut = self.live.is_cut();
            (!is_cut).then(|| std::mem::replace(&mut *response, Response::broken_off()))
        };
        let Some(response) = response else {
            self.end_cut().await;
            return End::Broken;
        };
        let is_streaming = response.is_streaming();
        let (whole, action) = match response.end() {
            Ending::Whole(whole, action) => (*whole, action),
            Ending::Failed(reason @ Reason::Status(_)) => {
                self.give_back(reason, "").await;
                return End::Passed;
            }
            Ending::Failed(reason) => {
                let request_id = super::request_id();
                self.tell_given_back(reason, "", Some(request_id.clone())).await;
                if is_streaming {
                    return End::Broken;
                }
                let answer = Rejection::broken_answer().answer(&request_id, None);
                return End::Answer { answer, is_handlers: false };
            }
        };
        let (status, answer, held) = match self.keep(whole).await {
            Ok((receipt, mut answer, held)) => {
                headers::make_private(&mut answer.headers);
                let (payer, price) = (self.live.payment.requester, self.live.payment.price);
                let answer = self.inner.with_receipt(answer, &receipt, payer, price, self.is_x402);
                (answer.status, answer, held)
            }
            Err(Lost(reason, rejection, cause)) => {
                return self.lost(reason, &rejection, cause, action);
            }
        };
        self.tell_served(status);
        match action {
            Action::Stream => End::Kept(held),
            _ => End::Answer { answer, is_handlers: true },
        }
    }

    /// Ends a run whose handler made its answer as a whole.
    pub async fn finish(mut self, answer: Answer) -> Answer {
        let Answer { status, headers, body } = answer;
        let length = body.len();
        // It is in memory already: whatever its length, there is nothing to stream.
        lock(&self.live.response).collect_all();
        let head = self.head(status, headers, Some(length));
        let _ = self.chunk(&body);
        match self.end().await {
            End::Answer { answer, .. } => answer,
            End::Passed => Answer { status, headers: head.headers, body },
            End::Kept(_) | End::Broken => Answer::new(500, ""),
        }
    }

    /// Ends a run that has no answer: the claim is given back, and the operator is told what became
    /// of it. `detail` says more, such as the name of an exception; it must not be a message, which
    /// may carry secrets.
    pub async fn abort(mut self, reason: Reason, detail: &str) {
        if self.live.is_cut() {
            return self.end_cut().await;
        }
        let broken = lock(&self.live.response).broken();
        self.give_back(broken.unwrap_or(reason), detail).await;
    }

    /// A stream that was cut is paid as far as it was sent.
    async fn end_cut(&mut self) {
        match self.inner.finish_cut(&self.live).await {
            Ok(()) => self.leave(),
            Err(error) => {
                let message = format!("{}: {error}", self.live.charge.name);
                let event = self.event(Level::Error, "run_failed", message);
                self.inner.listener.tell_of(&event);
                self.abandon();
            }
        }
    }

    /// Makes the answer durable: proof, answer to repeat, duty to deliver.
    async fn keep(
        &mut self,
        whole: Whole,
    ) -> std::result::Result<(Receipt, Answer, Vec<u8>), Lost> {
        let not_kept = |cause| Lost(Reason::NotKept, Rejection::answer_lost(), Some(cause));
        let content_hash = self.live.content_hash(&whole).map_err(not_kept)?;
        let asked = self.live.kept_request(&whole);
        let Whole { answer, kept, held, .. } = whole;
        let answered_at = self.inner.clock.now().await.unwrap_or_else(|_| wall_seconds());
        if answered_at > self.live.payment.deadline {
            // It cannot be delivered any more.
            self.abandon();
            return Err(Lost(Reason::TooLate, Rejection::too_late(), None));
        }
        let request = self.inner.answer_request(&self.live, content_hash, answered_at, kept, asked);
        let ended = self.inner.store.answer(&request).await;
        let (stage, index) = match ended {
            Ok(Ended::Done { stage, index }) => (stage, index),
            Ok(Ended::TakenOver) => {
                self.leave();
                return Err(Lost(Reason::TakenOver, Rejection::taken_over(), None));
            }
            Ok(Ended::Closed) => {
                self.leave();
                return Err(Lost(Reason::TooLate, Rejection::too_late(), None));
            }
            Err(error) => {
                self.inner.store_health.failed();
                let _ = self.release().await;
                return Err(not_kept(error));
            }
        };
        self.leave();
        let at = self.inner.clock.about();
        self.inner.meters.served(&self.live.charge.name, at, self.begun.elapsed());
        if stage == Stage::Delivering {
            self.inner.process.get().wake();
        }
        let id = self.live.payment.transaction_id;
        match self.inner.confirmed(&self.live.charge, id).await {
            Ok(true) => {}
            Ok(false) => return Err(Lost(Reason::Unconfirmed, Rejection::unconfirmed(), None)),
            Err(Refused(rejection, cause)) => {
                return Err(Lost(Reason::Unconfirmed, rejection, cause));
            }
        }
        let (payer, key) = (self.live.payment.requester, &self.live.claim.call.key);
        let receipt = self.inner.receipt(id, payer, key, index, content_hash, answered_at).await;
        Ok((receipt, answer, held))
    }

    async fn give_back(&mut self, reason: Reason, detail: &str) {
        self.tell_given_back(reason, detail, None).await;
    }

    /// Gives the claim back, and tells what became of it.
    async fn tell_given_back(&mut self, reason: Reason, detail: &str, request_id: Option<String>) {
        self.inner.meters.failed(&self.live.charge.name, self.inner.clock.about());
        let attempts = (self.live.claim.attempt, self.inner.settings.give_up_after);
        let released = self.release().await;
        let (outcome, words) = outcome(&released, attempts);
        let level = if released.is_err() { Level::Error } else { Level::Warning };
        let why = match detail {
            "" => format!("{reason}"),
            detail => format!("{reason} {detail}"),
        };
        let message = format!("{}: {why}; {words}", self.live.charge.name);
        let mut event = self.event(level, "run_failed", message);
        event.reason = Some(reason.as_str());
        event.outcome = Some(outcome);
        event.request_id = request_id;
        if let Reason::Status(status) = reason {
            event.status = Some(status);
        }
        self.inner.listener.tell_of(&event);
    }

    async fn release(&mut self) -> Result<Ended> {
        let released =
            self.inner.store.release(&self.live.claim, self.inner.settings.give_up_after).await;
        match &released {
            Ok(ended) => {
                self.leave();
                if let Ended::Done { stage: Stage::Returning, .. } = ended {
                    self.inner.process.get().wake();
                }
            }
            // The background task tries again; at the latest the claim's lease runs out.
            Err(_) => {
                self.inner.store_health.failed();
                self.abandon();
            }
        }
        released
    }

    /// The handler ran, and its answer is not given.
    fn lost(
        &self,
        reason: Reason,
        rejection: &Rejection,
        cause: Option<Error>,
        action: Action,
    ) -> End {
        let request_id = super::request_id();
        self.inner.meters.refused(&self.live.charge.name, rejection.reason);
        let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        let message = format!("{}: {reason}{cause}", self.live.charge.name);
        let mut event = self.event(Level::Error, "run_failed", message);
        event.reason = Some(reason.as_str());
        event.status = Some(rejection.status);
        event.request_id = Some(request_id.clone());
        self.inner.listener.tell_of(&event);
        match action {
            Action::Stream => End::Broken,
            _ => End::Answer { answer: rejection.answer(&request_id, None), is_handlers: false },
        }
    }

    fn tell_served(&self, status: u16) {
        if self.inner.listener.hears_info() {
            let mut event = self.event(Level::Info, "served", "a paid call was served");
            event.status = Some(status);
            self.inner.listener.tell_of(&event);
        }
    }

    fn event(
        &self,
        level: Level,
        name: &'static str,
        message: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Event {
        Event {
            route: Some(self.live.charge.name.clone()),
            transaction: Some(self.live.payment.transaction_id),
            requester: Some(self.live.payment.requester),
            price: Some(self.live.payment.price),
            attempt: Some(self.live.payment.attempt),
            took: Some(self.begun.elapsed()),
            ..Event::new(level, name, message)
        }
    }

    fn leave(&mut self) {
        self.is_open = false;
        self.inner.process.get().leave_stream(&self.live.claim);
        self.inner.process.get().let_go(&self.live.claim);
    }

    fn abandon(&mut self) {
        self.is_open = false;
        // What is left to do for a stream that was cut is done by whoever tends it.
        if !self.live.has_work() {
            self.inner.process.get().leave_stream(&self.live.claim);
        }
        self.inner.process.get().abandon(&self.live.claim);
    }
}

/// Why the answer of a run is not given, what its caller is told, and the cause.
struct Lost(Reason, Rejection, Option<Error>);

/// What became of a claim that was given back: a name, and words.
fn outcome(
    released: &Result<Ended>,
    (attempt, most): (u32, u32),
) -> (&'static str, std::borrow::Cow<'static, str>) {
    match released {
        Ok(Ended::Done { stage: Stage::Open, .. }) => (
            "usable",
            format!("nothing was taken, and the transaction can be used again (run {attempt})")
                .into(),
        ),
        Ok(Ended::Done { stage: Stage::Returning, .. }) => (
            "returning",
            format!("{most} runs in a row failed: the transaction is given back").into(),
        ),
        Ok(Ended::Done { stage: Stage::Left, .. }) => (
            "left",
            format!(
                "{most} runs in a row failed: the transaction is served no more. It is not bound \
                 to this service, so it is given back once its deadline has passed, or by refund()"
            )
            .into(),
        ),
        Ok(Ended::Done { stage, .. }) => {
            ("closed", format!("nothing was taken; the transaction is {}", stage.as_str()).into())
        }
        Ok(Ended::TakenOver) => {
            ("taken_over", "another run of the same call has taken over".into())
        }
        Ok(Ended::Closed) => {
            ("closed", "the transaction was closed before, and this call is not paid".into())
        }
        Err(error) => (
            "unknown",
            format!("the claim could not be given back, which is tried again ({error})").into(),
        ),
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A forked child that drops its copy must not give back what its parent runs.
        if self.is_open && self.live.claim.owner == self.inner.process.get().owner {
            self.abandon();
            self.inner.meters.failed(&self.live.charge.name, self.inner.clock.about());
            let message = format!(
                "{}: {}; its claim is given back in the background",
                self.live.charge.name,
                Reason::Dropped
            );
            let mut event = self.event(Level::Warning, "run_failed", message);
            event.reason = Some(Reason::Dropped.as_str());
            event.outcome = Some("unknown");
            self.inner.listener.tell_of(&event);
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("payment", &self.live.payment).finish_non_exhaustive()
    }
}

impl Inner {
    /// The seconds until a transaction is closed, whatever is running; `None` where the kernel's time
    /// was never heard of.
    fn seconds_left(&self, payment: &CallPayment) -> Option<u64> {
        let closes = payment.deadline.saturating_sub(self.settings.closing_seconds);
        self.clock.passed().map(|now| closes.saturating_sub(now))
    }

    fn answer_request(
        &self,
        live: &Live,
        content_hash: B256,
        answered_at: u64,
        answer: Option<Answer>,
        request: Option<Arc<KeptRequest>>,
    ) -> AnswerRequest {
        AnswerRequest {
            claim: live.claim.clone(),
            content_hash,
            answered_at,
            answer,
            request,
            route: live.charge.name.clone(),
            close_below: self.cheapest().min(live.charge.floor()),
        }
    }

    /// Ends a stream whose transaction is about to be closed: what was sent of it counts as served.
    fn cut_if_due(&self, live: &Live) {
        if self.seconds_left(&live.payment).is_none_or(|left| left > CUT_SECONDS) {
            return;
        }
        let mut response = lock(&live.response);
        let Some(whole) = response.cut() else { return };
        // The parts of a record are text and numbers, which always have JSON.
        if let Ok(content_hash) = live.content_hash(&whole) {
            let answered_at = self.clock.passed().unwrap_or_else(wall_seconds);
            let asked = live.kept_request(&whole);
            let request = self.answer_request(live, content_hash, answered_at, None, asked);
            *lock(&live.cut) = Some(request);
            live.is_cut.store(true, Ordering::Release);
        }
    }

    /// Keeps what was served of a stream that was cut.
    async fn finish_cut(&self, live: &Live) -> Result<()> {
        let Some(request) = lock(&live.cut).take() else { return Ok(()) };
        let ended = match self.store.answer(&request).await {
            Ok(ended) => ended,
            Err(error) => {
                *lock(&live.cut) = Some(request);
                self.store_health.failed();
                return Err(error);
            }
        };
        let (words, outcome) = match ended {
            Ended::Done { stage, .. } => {
                if stage == Stage::Delivering {
                    self.process.get().wake();
                }
                self.meters.served(&live.charge.name, self.clock.about(), Duration::ZERO);
                ("what was sent of it is paid", None)
            }
            Ended::TakenOver => ("another run of the same call has taken over", Some("taken_over")),
            Ended::Closed => {
                ("it was closed before, and what was sent is not paid", Some("closed"))
            }
        };
        let message = format!("{}: a stream outlasted its transaction: {words}", live.charge.name);
        self.listener.tell_of(&Event {
            route: Some(live.charge.name.clone()),
            transaction: Some(live.payment.transaction_id),
            requester: Some(live.payment.requester),
            price: Some(live.payment.price),
            reason: Some(Reason::TransactionClosed.as_str()),
            outcome,
            ..Event::new(Level::Warning, "stream_cut", message)
        });
        Ok(())
    }

    /// Looks after the streams of this process: whether or not their handlers make another piece, and
    /// whether or not their callers read.
    pub(super) async fn cut_streams(&self, process: &Process) -> Result<()> {
        for live in process.streams() {
            self.cut_if_due(&live);
            self.finish_cut(&live).await?;
            if !process.runs(&live.claim) {
                process.leave_stream(&live.claim);
            }
        }
        Ok(())
    }

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
        transaction_id: TransactionId,
        requester: Address,
        key: &str,
        index: u64,
        content_hash: B256,
        delivered_at: u64,
    ) -> Receipt {
        let mut receipt = Receipt {
            transaction_id,
            idempotency_key: key.to_owned(),
            index,
            content_hash,
            delivered_at,
            provider: self.client.address(),
            signature: None,
        };
        let network = self.client.network();
        if let Some(wallet) = self.client.wallet() {
            let message = receipt.message(requester, network.chain_id);
            match wallet.sign_delivery(message, network.kernel).await {
                Ok(signed) => {
                    receipt.signature = Some(Bytes::from(signed.signature.as_bytes().to_vec()));
                }
                Err(error) => self.listener.tell(
                    Level::Error,
                    format!("a receipt of {transaction_id} goes out unsigned: {error}"),
                ),
            }
        }
        receipt
    }

    /// A paid answer with the headers that say so.
    pub(super) fn with_receipt(
        &self,
        answer: Answer,
        receipt: &Receipt,
        payer: Address,
        price: Usdc,
        is_x402: bool,
    ) -> Answer {
        // A receipt is text and numbers, which always have JSON.
        let text = serde_json::to_vec(receipt).unwrap_or_default();
        let answer = answer
            .with(TRANSACTION_HEADER, receipt.transaction_id.to_string())
            .with(RECEIPT_HEADER, BASE64.encode(text));
        if !is_x402 {
            return answer;
        }
        let settled = serde_json::json!({
            "success": true,
            "transaction": receipt.transaction_id.to_string(),
            "network": format!("eip155:{}", self.client.network().chain_id),
            "payer": payer.to_string(),
            "amount": price.0.to_string(),
        });
        answer.with(headers::PAYMENT_RESPONSE, BASE64.encode(settled.to_string()))
    }
}
