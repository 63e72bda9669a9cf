//! One request at a charged route, from its head to the end of its response. Adapters carry bytes to
//! it and from it, and decide nothing.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::{Bytes, keccak256};

use super::{
    Answer, CallPayment, Charge, Chunk, End, Head, Incoming, Paywall, Reason, Run,
    admission::{Admitted, Plausible},
    answer::Headers,
    headers,
    price::Price,
    rejection::{Refused, Rejection},
    repeat::Repeat,
    request::{BodyLength, RequestHead},
    response::Action,
};
use crate::{error::Result, protocol::Usdc};

/// How many bytes of a body that is not wanted are read, so that its writer sees the answer: a
/// connection that is closed while somebody writes to it loses what was sent to him.
pub const DRAIN_BYTES: usize = 64 << 20;
/// How long that may take.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long a caller may take to read a piece of an answer that is given again.
const REPEAT_PATIENCE: Duration = Duration::from_secs(30);
/// Bodies are charged to the budget in steps of this size.
const STEP: usize = 64 << 10;
/// What share of the budget bodies may take whose request names no payment that was verified.
const UNVERIFIED_SHARE: usize = 4;

/// One request at a charged route.
///
/// In this order: [`Self::admit_head`], [`Self::body`] for each piece of the body,
/// [`Self::admit`], then the handler; [`Self::head`], [`Self::chunk`] for each piece of its response,
/// [`Self::end`] or [`Self::abort`]. An [`Answer`] on the way ends the request: send it, and read
/// up to [`DRAIN_BYTES`] of what is left of the body first. Where the answer of [`Self::admit`] is a
/// kept one that is long, its body is empty and comes from [`Self::next_piece`].
pub struct Exchange {
    paywall: Paywall,
    charge: Option<Arc<Charge>>,
    allow: Vec<String>,
    incoming: Incoming,
    length: BodyLength,
    body: RequestBody,
    plausible: Option<Plausible>,
    stage: Stage,
    payment: Option<CallPayment>,
    rest: Option<Repeat>,
}

#[derive(Debug)]
enum Stage {
    Reading,
    Running(Box<Run>),
    Free,
    Over,
}

impl Paywall {
    /// Begins an exchange. No store is asked and nothing is read. `charge` may be set later with
    /// [`Exchange::set_charge`].
    pub fn exchange<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        charge: Option<&Arc<Charge>>,
        head: RequestHead<'_, impl IntoIterator<Item = (N, V)>>,
    ) -> Exchange {
        let inner = &self.inner;
        let (incoming, length) = Incoming::read(head, &inner.public, &inner.settings.vary_on);
        Exchange {
            paywall: self.clone(),
            charge: charge.cloned(),
            allow: vec![],
            incoming,
            length,
            body: RequestBody::new(inner.process.get().body_bytes.clone()),
            plausible: None,
            stage: Stage::Reading,
            payment: None,
            rest: None,
        }
    }
}

impl Exchange {
    /// Sets the charge of the route, before [`Self::admit_head`].
    pub fn set_charge(&mut self, charge: &Arc<Charge>) {
        self.charge = Some(charge.clone());
    }

    /// The methods that the route answers, for OPTIONS. By default the one in the charge's name.
    pub fn set_allow(&mut self, methods: impl IntoIterator<Item = impl Into<String>>) {
        self.allow = methods.into_iter().map(Into::into).collect();
    }

    /// The request as it is signed.
    pub fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// The charge, `None` before it is set.
    pub fn charge(&self) -> Option<&Arc<Charge>> {
        self.charge.as_ref()
    }

    /// What the request's headers alone already answer: OPTIONS, a body that is too long, a payment that
    /// is missing, malformed, unknown or not for this service. `None`: read the body.
    pub async fn admit_head(&mut self) -> Option<Answer> {
        if !matches!(self.stage, Stage::Reading) {
            return None;
        }
        let charge = self.charge.clone()?;
        self.paywall.tend();
        if self.incoming.method == "OPTIONS" {
            self.stage = Stage::Over;
            return Some(self.options(&charge));
        }
        let limit = self.paywall.inner.settings.max_body_bytes;
        let problem = match self.length {
            BodyLength::Malformed => Some(Rejection::malformed_length()),
            BodyLength::Known(length) if length > limit as u64 => {
                Some(Rejection::body_too_large(limit))
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Some(self.reject(&problem));
        }
        let price = match charge.price {
            Price::Fixed(price) => Some(price),
            // Whoever has no payment is told a price, which only the body may tell.
            Price::PerRequest if !self.incoming.is_paid() => return None,
            Price::PerRequest => None,
        };
        let inner = self.paywall.inner.clone();
        let former = inner.former_of(&self.incoming).await.unwrap_or(&inner);
        match former.plausible(&charge, &self.incoming, price).await {
            Ok(plausible) => {
                self.plausible = Some(plausible);
                None
            }
            // It must say what to pay, which is not known yet.
            Err(Refused(rejection, _)) if price.is_none() && rejection.status == 402 => None,
            Err(refused) => {
                self.stage = Stage::Over;
                self.body = RequestBody::default();
                Some(inner.turn_away(&charge, &self.incoming, price, refused).await)
            }
        }
    }

    /// One piece of the request's body. An answer ends the request: the body is too long, came too
    /// slowly, or this process holds too much of other bodies.
    pub fn body(&mut self, piece: &[u8]) -> Option<Answer> {
        if !matches!(self.stage, Stage::Reading) {
            return None;
        }
        let settings = &self.paywall.inner.settings;
        let (limit, budget) = (settings.max_body_bytes, settings.body_budget_bytes);
        let budget = match self.plausible {
            Some(_) => budget,
            None => budget / UNVERIFIED_SHARE,
        };
        let problem = if self.body.bytes.len() + piece.len() > limit {
            Rejection::body_too_large(limit)
        } else if self.body_time_left().is_zero() {
            Rejection::body_too_slow(settings.body_time)
        } else if !self.body.add(piece, budget.max(limit)) {
            Rejection::too_many_bodies()
        } else {
            return None;
        };
        Some(self.reject(&problem))
    }

    /// How much longer the body may take; then [`Self::too_slow`] is the answer.
    pub fn body_time_left(&self) -> Duration {
        self.paywall.inner.settings.body_time.saturating_sub(self.body.begun.elapsed())
    }

    /// The body, as far as it was read.
    pub fn body_bytes(&self) -> &[u8] {
        &self.body.bytes
    }

    /// Takes the body for the handler. What the paywall needs of it is hashed by then: call it
    /// after [`Self::admit`].
    pub fn take_body(&mut self) -> Vec<u8> {
        // Its share of the budget goes with it: it is the handler's from now on.
        std::mem::take(&mut std::mem::take(&mut self.body).bytes)
    }

    /// The answer to a body that broke off or could not be read.
    pub fn unreadable(&mut self) -> Answer {
        self.reject(&Rejection::body_unreadable())
    }

    /// The answer to a body that was not there in time. Timers may end a moment early, so whoever
    /// waited says so.
    pub fn too_slow(&mut self) -> Answer {
        let body_time = self.paywall.inner.settings.body_time;
        self.reject(&Rejection::body_too_slow(body_time))
    }

    /// The answer to a body whose length the server cannot tell.
    pub fn length_required(&mut self) -> Answer {
        self.reject(&Rejection::length_required())
    }

    /// Whether the handler may run: the checks that need the body, and the claim. `None`: run it.
    /// `price` is the request's where the charge is [`Charge::per_request`]: zero for a call that is
    /// free, `None` where it could not be worked out.
    pub async fn admit(&mut self, price: Option<Usdc>) -> Option<Answer> {
        if !matches!(self.stage, Stage::Reading) {
            return None;
        }
        let charge = self.charge.clone()?;
        self.paywall.tend();
        if charge.price == Price::PerRequest && price == Some(Usdc::ZERO) {
            self.stage = Stage::Free;
            return None;
        }
        if let BodyLength::Known(length) = self.length
            && length != self.body.bytes.len() as u64
        {
            return Some(self.unreadable());
        }
        self.incoming.body_hash = keccak256(&self.body.bytes);
        let inner = self.paywall.inner.clone();
        if inner.keeps_body(self.body.bytes.len()) {
            // The body itself is the handler's.
            self.incoming.body = Some(Bytes::copy_from_slice(&self.body.bytes));
        }
        let plausible = self.plausible.take();
        let admitted = inner.enter(&charge, &self.incoming, price, plausible).await;
        self.stage = Stage::Over;
        match admitted {
            Admitted::Run(run) => {
                self.payment = Some(run.payment().clone());
                self.stage = Stage::Running(run);
                None
            }
            Admitted::Answer(answer) => Some(answer),
            Admitted::Repeat(repeated) => {
                self.rest = repeated.rest;
                Some(repeated.answer)
            }
        }
    }

    /// How many bytes of the answer's body [`Self::next_piece`] brings; `None` where the answer has its
    /// whole body.
    pub fn rest_bytes(&self) -> Option<u64> {
        self.rest.as_ref().map(Repeat::left)
    }

    /// The next piece of a long kept answer; `None` at its end. Ask for it when the one before was
    /// sent, so that a caller who reads slowly holds no more than that.
    ///
    /// # Errors
    /// The storage's codes: break the connection off, so that nobody takes what was sent for the whole.
    pub async fn next_piece(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(rest) = &mut self.rest else { return Ok(None) };
        let piece = rest.next().await;
        // Its place is free again.
        if !matches!(piece, Ok(Some(_))) {
            self.rest = None;
        }
        piece
    }

    /// The payment that the handler runs for; `None` before [`Self::admit`], and for a free call.
    pub fn payment(&self) -> Option<&CallPayment> {
        self.payment.as_ref()
    }

    /// Whether a handler runs that is paid for.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    /// The handler's status and headers; `length` is its body's, where it is known. Says what to do
    /// with the body, and which headers to send.
    pub fn head(&mut self, status: u16, given: Headers, length: Option<usize>) -> Head {
        match &mut self.stage {
            Stage::Running(run) => run.head(status, given, length),
            _ => Head { action: Action::Pass, status, headers: headers::of_handler(given) },
        }
    }

    /// One piece of the handler's body.
    pub fn chunk(&mut self, piece: &[u8]) -> Chunk {
        match &mut self.stage {
            Stage::Running(run) => run.chunk(piece),
            _ => Chunk::Send,
        }
    }

    /// How long sending one piece of a stream, or of a long kept answer, may take; `None` without a limit.
    pub fn patience(&self) -> Option<Duration> {
        if self.rest.is_some() {
            return Some(REPEAT_PATIENCE);
        }
        match &self.stage {
            Stage::Running(run) => run.patience(),
            _ => None,
        }
    }

    /// The handler's response is at its end.
    pub async fn end(&mut self) -> End {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Running(run) => run.end().await,
            _ => End::Passed,
        }
    }

    /// Ends a run that has no answer. Without effect where none is under way.
    pub async fn abort(&mut self, reason: Reason, detail: &str) {
        if let Stage::Running(run) = std::mem::replace(&mut self.stage, Stage::Over) {
            run.abort(reason, detail).await;
        }
    }

    fn reject(&mut self, rejection: &Rejection) -> Answer {
        self.stage = Stage::Over;
        self.body = RequestBody::default();
        let inner = &self.paywall.inner;
        match &self.charge {
            Some(charge) => inner.reject(charge, Usdc::ZERO, rejection, None, None),
            None => rejection.answer(&super::request_id(), None),
        }
    }

    fn options(&self, charge: &Charge) -> Answer {
        let own = charge.methods();
        let methods = if self.allow.is_empty() { &own } else { &self.allow };
        Answer::new(204, "").with("Allow", allow(methods)).with("Cache-Control", "no-store")
    }
}

impl Paywall {
    /// The answer to a method that a charged path does not have.
    pub fn method_not_allowed(&self, methods: &[String]) -> Answer {
        Rejection::method_not_allowed()
            .answer(&super::request_id(), None)
            .with("Allow", allow(methods))
    }

    /// An answer of the paywall's own, or a repeat, with what the application's own middleware put
    /// around it: its CORS headers, and `Vary`.
    pub fn decorate(answer: &mut Answer, outer: &Headers) {
        headers::decorate(&mut answer.headers, outer);
    }
}

/// The header `Allow`: HEAD comes with GET, and OPTIONS is always answered.
fn allow(methods: &[String]) -> String {
    let mut all: Vec<&str> = methods.iter().map(String::as_str).collect();
    for (with, also) in [("GET", "HEAD"), ("", "OPTIONS")] {
        if (with.is_empty() || all.contains(&with)) && !all.contains(&also) {
            all.push(also);
        }
    }
    all.join(", ")
}

impl Answer {
    /// How many bytes of its request's body to read before it is sent, at most [`DRAIN_BYTES`]: none
    /// where the body came too slowly.
    pub fn drain_bytes(&self) -> usize {
        if self.status == 408 { 0 } else { DRAIN_BYTES }
    }
}

/// A body as it is read, and its share of the process's budget.
#[derive(Debug)]
struct RequestBody {
    bytes: Vec<u8>,
    begun: Instant,
    held: usize,
    budget: Arc<AtomicUsize>,
}

impl Default for RequestBody {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl RequestBody {
    fn new(budget: Arc<AtomicUsize>) -> Self {
        Self { bytes: vec![], begun: Instant::now(), held: 0, budget }
    }

    /// Whether there is room for a piece, which is then added.
    fn add(&mut self, piece: &[u8], most: usize) -> bool {
        let needed = self.bytes.len() + piece.len();
        // What is small is not worth counting: a connection costs as much.
        if needed > STEP && needed > self.held {
            let more = (needed - self.held).next_multiple_of(STEP);
            let before = self.budget.fetch_add(more, Ordering::Relaxed);
            self.held += more;
            if before + more > most {
                return false;
            }
        }
        self.bytes.extend_from_slice(piece);
        true
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("charge", &self.charge)
            .field("target", &self.incoming.target)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
