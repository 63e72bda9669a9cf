//! The paywall in front of any HTTP service: a tower layer, for axum, hyper and whatever speaks
//! `http`.

use std::{
    any::Any,
    convert::Infallible,
    error::Error as StdError,
    fmt,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, request::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use tokio::{sync::mpsc, time::timeout};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Action, Answer, Charge, Chunk, DRAIN_TIME, Dashboard, DashboardRequest, End, Exchange,
    HIDDEN_HEADERS, Headers, Paywall, Reason, RequestHead,
};
use crate::protocol::Usdc;

type BoxError = Box<dyn StdError + Send + Sync>;
/// The body of a response that passed the paywall.
pub type PaidBody = UnsyncBoxBody<Bytes, BoxError>;
type Panic = Box<dyn Any + Send>;
type Pricing = dyn Fn(&Parts, &[u8]) -> Option<Usdc> + Send + Sync;

/// Pieces of a stream between handler and caller: enough that neither waits for the other.
const PIECES: usize = 16;
/// How long a piece waits for the next one: events that come one by one pass at once, and the end
/// of a body comes right behind its last piece.
const HELD_BACK: Duration = Duration::from_millis(20);

/// How long a body that is not wanted may pause: a writer that waits for its answer sends nothing.
const DRAIN_PAUSE: Duration = Duration::from_secs(1);

/// Puts a charge on a service: one line on an axum route.
///
/// The handler finds the [`super::CallPayment`] among the request's extensions. It runs to its
/// end also when the caller goes away, so that its answer is kept and delivered. A response whose
/// length is known is kept before its first byte leaves; one without is a stream, which is hashed
/// as it passes and delivered at its end.
///
/// The service takes the same body type as the paywall gets, which must be one that bytes can be
/// made into, as axum's.
///
/// ```
/// use agirails::{ACTPClient, Address, paywall::{CallPayment, Charge, Paywall, PaywallLayer}};
/// use axum::{Extension, Router, routing::post};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(async {
/// let provider = Address::repeat_byte(0xaa);
/// let client = ACTPClient::builder().address(provider).in_memory().connect().await?;
/// let paywall = Paywall::builder(client).open().await?;
/// let charge = paywall.charge(Charge::new("POST /api/generate", "0.10".parse()?))?;
///
/// let generate = async |Extension(payment): Extension<CallPayment>| {
///     format!("paid by {}", payment.requester)
/// };
/// let app: Router = Router::new()
///     .route("/api/generate", post(generate).route_layer(PaywallLayer::new(&paywall, &charge)))
///     .fallback_service(paywall.pages());
/// # drop(app);
/// # Ok::<(), agirails::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct PaywallLayer {
    paywall: Paywall,
    charge: Arc<Charge>,
    prefix: Arc<str>,
    pricing: Option<Arc<Pricing>>,
}

impl PaywallLayer {
    /// Charges as registered with [`Paywall::charge`].
    pub fn new(paywall: &Paywall, charge: &Arc<Charge>) -> Self {
        let (paywall, charge) = (paywall.clone(), charge.clone());
        Self { paywall, charge, prefix: "".into(), pricing: None }
    }

    /// The path under which a router is nested: nesting takes it off the request's path, and
    /// callers sign the whole.
    pub fn nested_under(mut self, prefix: &str) -> Self {
        self.prefix = prefix.trim_end_matches('/').into();
        self
    }

    /// Works out the price of each request, for a [`Charge::per_request`]. [`Usdc::ZERO`] makes the
    /// call free; `None` says that the price could not be worked out (500).
    pub fn priced(
        mut self,
        price: impl Fn(&Parts, &[u8]) -> Option<Usdc> + Send + Sync + 'static,
    ) -> Self {
        self.pricing = Some(Arc::new(price));
        self
    }
}

impl<S> Layer<S> for PaywallLayer {
    type Service = PaywallService<S>;

    fn layer(&self, inner: S) -> PaywallService<S> {
        PaywallService { inner, layer: self.clone() }
    }
}

impl fmt::Debug for PaywallLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaywallLayer").field("charge", &self.charge).finish_non_exhaustive()
    }
}

/// A service behind a paywall: [`PaywallLayer`].
#[derive(Debug, Clone)]
pub struct PaywallService<S> {
    inner: S,
    layer: PaywallLayer,
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<Response<PaidBody>, E>> + Send>>;

impl<S, B, A> Service<Request<B>> for PaywallService<S>
where
    S: Service<Request<B>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + From<Bytes> + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    A: Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    type Response = Response<PaidBody>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that was made ready is the one to call.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        Box::pin(async move {
            let (mut parts, mut body) = request.into_parts();
            let mut exchange = layer.exchange(&parts);
            if let Some(answer) = read(&mut exchange, &mut body, &layer, &parts).await {
                // Whoever asks before he sends a body is told before he sends it.
                if !parts.headers.contains_key("expect") {
                    drain(body, answer.drain_bytes()).await;
                }
                return Ok(respond_again(answer, exchange));
            }
            match exchange.payment() {
                Some(payment) => {
                    parts.extensions.insert(payment.clone());
                    for name in HIDDEN_HEADERS {
                        parts.headers.remove(name);
                    }
                }
                None => drop(parts.extensions.remove::<super::CallPayment>()),
            }
            let request = Request::from_parts(parts, B::from(Bytes::from(exchange.take_body())));
            // A task of its own: a caller that goes away takes nothing with it.
            match tokio::spawn(run(inner, request, exchange)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(panic)) => resume_unwind(panic),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The runtime is ending, and with it this task.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }
}

impl PaywallLayer {
    fn exchange(&self, parts: &Parts) -> Exchange {
        self.paywall.exchange(Some(&self.charge), request_head(parts, &self.prefix))
    }
}

fn request_head<'a>(
    parts: &'a Parts,
    prefix: &'a str,
) -> RequestHead<'a, impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>> {
    RequestHead {
        method: parts.method.as_str(),
        target: parts.uri.path_and_query().map_or("/", |target| target.as_str()),
        mount: prefix,
        scheme: parts.uri.scheme_str().unwrap_or("http"),
        headers: parts.headers.iter(),
    }
}

/// Reads a request as far as it has to be read; the answer where its handler is not run.
async fn read<B>(
    exchange: &mut Exchange,
    body: &mut B,
    layer: &PaywallLayer,
    parts: &Parts,
) -> Option<Answer>
where
    B: Body + Unpin,
{
    if let Some(answer) = exchange.admit_head().await {
        return Some(answer);
    }
    while !body.is_end_stream() {
        let answer = match timeout(exchange.body_time_left(), body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if data.remaining() == data.chunk().len() => exchange.body(data.chunk()),
                Ok(mut data) => exchange.body(&data.copy_to_bytes(data.remaining())),
                Err(_) => None,
            },
            Ok(Some(Err(_))) => Some(exchange.unreadable()),
            Ok(None) => break,
            Err(_) => Some(exchange.too_slow()),
        };
        if answer.is_some() {
            return answer;
        }
    }
    let price = layer.pricing.as_ref().and_then(|price| price(parts, exchange.body_bytes()));
    exchange.admit(price).await
}

/// Reads what is left of a body, up to a limit, and as long as it comes: a writer that is cut off
/// loses its answer.
async fn drain<B: Body + Unpin>(mut body: B, mut left: usize) {
    let drained = async {
        while left > 0 && !body.is_end_stream() {
            let Ok(Some(Ok(frame))) = timeout(DRAIN_PAUSE, body.frame()).await else { return };
            left = left.saturating_sub(frame.data_ref().map_or(0, Buf::remaining));
        }
    };
    let _ = timeout(DRAIN_TIME, drained).await;
}

/// A future whose panic is an outcome.
async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = std::pin::pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

async fn run<S, R, A>(
    mut inner: S,
    request: Request<R>,
    mut exchange: Exchange,
) -> Result<Result<Response<PaidBody>, S::Error>, Panic>
where
    S: Service<Request<R>, Response = Response<A>>,
    A: Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    let response = match caught(async { inner.call(request).await }).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            exchange.abort(Reason::Raised, "an error of its service").await;
            return Ok(Err(error));
        }
        Err(panic) => {
            exchange.abort(Reason::Raised, "a panic").await;
            return Err(panic);
        }
    };
    let (mut parts, body) = response.into_parts();
    let body = body.map_err(Into::<BoxError>::into);
    let length = body.size_hint().exact().map(|length| length as usize);
    let head = exchange.head(parts.status.as_u16(), pairs(&parts.headers), length);
    Ok(Ok(match head.action {
        Action::Pass => {
            exchange.end().await;
            parts.headers = header_map(head.headers);
            Response::from_parts(parts, body.boxed_unsync())
        }
        Action::Buffer => respond(collect(body, exchange).await),
        Action::Stream => {
            parts.headers = header_map(head.headers);
            let (caller, passed) = caller(PIECES);
            tokio::spawn(pass_on(body, caller, exchange));
            Response::from_parts(parts, passed.boxed_unsync())
        }
    }))
}

/// Collects a body whose length is known, and answers when it is kept.
async fn collect(
    body: impl Body<Data = Bytes, Error = BoxError>,
    mut exchange: Exchange,
) -> Answer {
    let mut body = std::pin::pin!(body);
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(frame)) => {
                let _ = frame.data_ref().map(|piece| exchange.chunk(piece));
            }
            Some(Err(error)) => {
                exchange.abort(Reason::BrokeOff, &format!("({error})")).await;
                return Answer::new(500, "the response broke off");
            }
            None => break,
        }
    }
    match exchange.end().await {
        End::Answer { answer, .. } => answer,
        _ => Answer::new(500, "the response broke off"),
    }
}

/// Hashes a stream as it passes. Where the caller goes away, or does not read, the rest is read to
/// its end all the same: what was begun is delivered, and a repeat gets what was kept.
async fn pass_on(
    body: impl Body<Data = Bytes, Error = BoxError> + Send,
    mut caller: Caller,
    mut exchange: Exchange,
) {
    let mut body = std::pin::pin!(body);
    // What may be the last one waits until it is kept.
    let mut held = None;
    loop {
        let next = match held {
            Some(_) => timeout(HELD_BACK, body.frame()).await,
            None => Ok(body.frame().await),
        };
        let before = match next {
            Ok(Some(Ok(frame))) => match frame.data_ref().map(|piece| exchange.chunk(piece)) {
                Some(Chunk::Break) => return exchange.abort(Reason::BrokeOff, "").await,
                Some(Chunk::Hold) => held.take(),
                _ => held.replace(frame),
            },
            Ok(Some(Err(error))) => {
                let why = format!("({error})");
                caller.send(Err(error), exchange.patience().unwrap_or_default()).await;
                return exchange.abort(Reason::BrokeOff, &why).await;
            }
            Ok(None) => break,
            Err(_) => held.take(),
        };
        if let Some(frame) = before {
            caller.send(Ok(frame), exchange.patience().unwrap_or_default()).await;
        }
    }
    if let End::Kept(rest) = exchange.end().await {
        let rest = (!rest.is_empty()).then(|| Frame::data(Bytes::from(rest)));
        caller.end(held.into_iter().chain(rest)).await;
    }
}

type Piece = Result<Frame<Bytes>, BoxError>;

fn caller(pieces: usize) -> (Caller, Passed) {
    let (pieces, passed) = mpsc::channel(pieces);
    let is_whole = Arc::new(AtomicBool::new(false));
    (
        Caller { pieces: Some(pieces), is_whole: is_whole.clone() },
        Passed { pieces: passed, is_whole },
    )
}

/// Where a stream goes to, as long as somebody reads it.
struct Caller {
    pieces: Option<mpsc::Sender<Piece>>,
    is_whole: Arc<AtomicBool>,
}

impl Caller {
    async fn send(&mut self, piece: Piece, patience: Duration) {
        let Some(pieces) = &self.pieces else { return };
        if !matches!(timeout(patience, pieces.send(piece)).await, Ok(Ok(()))) {
            self.pieces = None;
        }
    }

    fn is_gone(&self) -> bool {
        self.pieces.is_none()
    }

    /// It is paid for now, so that it may take its time.
    async fn end(self, last: impl Iterator<Item = Frame<Bytes>>) {
        let Some(pieces) = self.pieces else { return };
        for frame in last {
            let _ = pieces.send(Ok(frame)).await;
        }
        self.is_whole.store(true, Ordering::Release);
    }
}

/// The caller's end of a stream. One that was not ended breaks off, so that nobody takes it for
/// the whole.
struct Passed {
    pieces: mpsc::Receiver<Piece>,
    is_whole: Arc<AtomicBool>,
}

impl Body for Passed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let piece = ready!(self.pieces.poll_recv(context));
        if piece.is_none() && !self.is_whole.swap(true, Ordering::Acquire) {
            let problem = "the answer could not be kept: it is not paid for, or not read in time; \
                           repeat the request";
            return Poll::Ready(Some(Err(problem.into())));
        }
        Poll::Ready(piece)
    }
}

fn pairs(headers: &HeaderMap) -> Headers {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn header_map(headers: Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        // They came out of a response, or are ours.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            map.append(name, value);
        }
    }
    map
}

fn respond(answer: Answer) -> Response<PaidBody> {
    let body = Full::new(Bytes::from(answer.body)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = header_map(answer.headers);
    response
}

/// An answer whose body may be long and kept, which then comes piece by piece.
fn respond_again(answer: Answer, exchange: Exchange) -> Response<PaidBody> {
    let mut response = respond(answer);
    if exchange.rest_bytes().is_none() {
        return response;
    }
    // The store holds the rest: none is read before it is asked for.
    let (caller, passed) = caller(1);
    tokio::spawn(give_again(exchange, caller));
    *response.body_mut() = passed.boxed_unsync();
    response
}

/// Ends where the caller does not read.
async fn give_again(mut exchange: Exchange, mut caller: Caller) {
    while let Some(patience) = exchange.patience() {
        match exchange.next_piece().await {
            Ok(Some(piece)) => caller.send(Ok(Frame::data(Bytes::from(piece))), patience).await,
            Ok(None) => return caller.end(std::iter::empty()).await,
            Err(error) => return caller.send(Err(error.into()), patience).await,
        }
        if caller.is_gone() {
            return;
        }
    }
}

/// The free routes as a service: prices, health, metrics, payments. All else is 404, so it goes
/// last: axum's `fallback_service`.
#[derive(Debug, Clone)]
pub struct Pages {
    paywall: Paywall,
    prefix: Arc<str>,
}

impl Paywall {
    /// The free routes as a service.
    pub fn pages(&self) -> Pages {
        Pages { paywall: self.clone(), prefix: "".into() }
    }
}

impl Pages {
    /// The path under which a router with these pages is nested: as
    /// [`PaywallLayer::nested_under`].
    pub fn nested_under(mut self, prefix: &str) -> Self {
        self.prefix = prefix.trim_end_matches('/').into();
        self
    }
}

impl<B> Service<Request<B>> for Pages
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<PaidBody>;
    type Error = Infallible;
    type Future = Answering<Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { paywall, prefix } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            // No free route has a long body.
            let body = Limited::new(body, 1 << 16).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let answer = paywall.page_for(request_head(&parts, &prefix), &body).await;
            Ok(respond(answer.unwrap_or_else(|| Answer::new(404, "Not Found"))))
        })
    }
}

/// For `nest_service` under a path that ends with a slash: the page names its parts relative to its own
/// address. Who may see it is for a layer around it to say.
impl<B> Service<Request<B>> for Dashboard
where
    B: Send + 'static,
{
    type Response = Response<PaidBody>;
    type Error = Infallible;
    type Future = Answering<Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let dashboard = self.clone();
        Box::pin(async move {
            let (Parts { method, uri, .. }, _) = request.into_parts();
            let (path, query) = (uri.path(), uri.query().unwrap_or_default());
            let request = DashboardRequest { method: method.as_str(), mount: "", path, query };
            Ok(respond(dashboard.answer(request).await))
        })
    }
}
