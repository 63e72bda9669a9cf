//! The paywall in front of any HTTP service: a tower layer, for axum, hyper and whatever speaks
//! `http`.

use std::{
    convert::Infallible,
    error::Error as StdError,
    fmt, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request::Parts,
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use tokio::{sync::mpsc, time::timeout};
use tower_layer::Layer;
use tower_service::Service;

use super::{Answer, Charge, Entry, Incoming, Paywall, Ticket, ticket::Streaming};
use crate::protocol::{
    Usdc,
    paid_request::{IDEMPOTENCY_HEADER, MAX_PRICE_HEADER, SIGNATURE_HEADER, TRANSACTION_HEADER},
};

type BoxError = Box<dyn StdError + Send + Sync>;
/// The body of a response that passed the paywall.
pub type PaidBody = UnsyncBoxBody<Bytes, BoxError>;
type Pricing = dyn Fn(&Parts, &[u8]) -> Option<Usdc> + Send + Sync;

/// Pieces of a stream between handler and caller: enough that neither waits for the other.
const PIECES: usize = 16;
/// How long a piece waits for the next one: events that come one by one pass at once, and the end
/// of a body comes right behind its last piece.
const HELD_BACK: Duration = Duration::from_millis(20);

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

    /// Works out the price of each request, for a [`Charge::per_request`]. `None` refuses it.
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
    B: Body + From<Bytes> + Send + 'static,
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
        if request.method() == Method::OPTIONS {
            // A browser asks so before it calls, and cannot pay for that.
            return Box::pin(pass(inner, request));
        }
        let layer = self.layer.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let body = match read(body, layer.paywall.max_body_bytes()).await {
                Ok(body) => body,
                Err(Unread::TooLarge) => {
                    return Ok(respond(layer.paywall.oversized_body(&layer.charge)));
                }
                Err(Unread::Broken) => {
                    return Ok(respond(layer.paywall.unreadable_body(&layer.charge)));
                }
            };
            let price = layer.pricing.as_ref().and_then(|pricing| pricing(&parts, &body));
            let incoming = incoming(&parts, &layer.prefix, &body);
            let ticket = match layer.paywall.enter(&layer.charge, &incoming, price).await {
                Entry::Run(ticket) => *ticket,
                Entry::Answer(answer) => return Ok(respond(answer)),
            };
            parts.extensions.insert(ticket.payment().clone());
            let request = Request::from_parts(parts, B::from(body));
            // A task of its own: a caller that goes away takes nothing with it.
            match tokio::spawn(run(inner, request, ticket)).await {
                Ok(answer) => answer,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is ending, and with it this task.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }
}

/// A request that costs nothing.
async fn pass<S, R, A>(mut inner: S, request: Request<R>) -> Result<Response<PaidBody>, S::Error>
where
    S: Service<Request<R>, Response = Response<A>>,
    A: Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    Ok(inner.call(request).await?.map(|body| body.map_err(Into::into).boxed_unsync()))
}

async fn run<S, R, A>(
    mut inner: S,
    request: Request<R>,
    ticket: Ticket,
) -> Result<Response<PaidBody>, S::Error>
where
    S: Service<Request<R>, Response = Response<A>>,
    A: Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    let response = match inner.call(request).await {
        Ok(response) => response,
        Err(error) => {
            ticket.fail("the service behind the paywall failed").await;
            return Err(error);
        }
    };
    let (parts, body) = response.into_parts();
    let body = body.map_err(Into::<BoxError>::into);
    let (status, headers) = (parts.status.as_u16(), pairs(&parts.headers));
    if body.size_hint().exact().is_some() {
        let whole = body.collect().await.map(|body| body.to_bytes().into());
        return Ok(match whole {
            Ok(body) => respond(ticket.finish(Answer { status, headers, body }).await),
            Err(error) => {
                ticket.fail(&format!("its body broke off: {error}")).await;
                respond(Answer::new(500, "the response broke off"))
            }
        });
    }
    Ok(match ticket.stream(status, headers) {
        Ok(streaming) => {
            let (status, headers) = streaming.head();
            let (caller, passed) = caller();
            tokio::spawn(pass_on(body, caller, streaming));
            let head = Answer { status, headers, body: vec![] };
            respond(head).map(|_| passed.boxed_unsync())
        }
        Err(ticket) => {
            ticket.fail(&format!("the handler answered {status}")).await;
            Response::from_parts(parts, body.boxed_unsync())
        }
    })
}

/// Hashes a stream as it passes. Where the caller goes away, or does not read, the rest is read to
/// its end all the same: what was begun is delivered, and a repeat gets what was kept.
async fn pass_on(
    body: impl Body<Data = Bytes, Error = BoxError> + Send,
    mut caller: Caller,
    mut streaming: Streaming,
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
            Ok(Some(Ok(frame))) => {
                if frame.data_ref().is_some_and(|piece| !streaming.push(piece)) {
                    return streaming
                        .fail("its transaction was closed before its stream ended")
                        .await;
                }
                held.replace(frame)
            }
            Ok(Some(Err(error))) => {
                caller.send(Err(error), streaming.patience()).await;
                return streaming.fail("its stream broke off").await;
            }
            Ok(None) => break,
            Err(_) => held.take(),
        };
        if let Some(frame) = before {
            caller.send(Ok(frame), streaming.patience()).await;
        }
    }
    if streaming.finish().await {
        caller.end(held).await;
    }
}

type Piece = Result<Frame<Bytes>, BoxError>;

fn caller() -> (Caller, Passed) {
    let (pieces, passed) = mpsc::channel(PIECES);
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

    /// It is paid for now, so that it may take its time.
    async fn end(self, last: Option<Frame<Bytes>>) {
        let Some(pieces) = self.pieces else { return };
        if let Some(last) = last {
            let _ = pieces.send(Ok(last)).await;
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

enum Unread {
    TooLarge,
    Broken,
}

async fn read<B>(body: B, limit: usize) -> Result<Bytes, Unread>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
        Err(_) => Err(Unread::Broken),
    }
}

fn incoming(parts: &Parts, prefix: &str, body: &[u8]) -> Incoming {
    // Two headers of one name are no header: nobody can tell which was meant.
    let header = |name| {
        let mut values = parts.headers.get_all(name).iter();
        let value =
            values.next().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if values.next().is_some() { Some(String::from("given twice")) } else { value }
    };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut incoming = Incoming::new(parts.method.as_str(), &format!("{prefix}{target}"), body);
    incoming.transaction_id = header(TRANSACTION_HEADER);
    incoming.signature = header(SIGNATURE_HEADER);
    incoming.idempotency_key = header(IDEMPOTENCY_HEADER);
    incoming.max_price = header(MAX_PRICE_HEADER);
    incoming
}

fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn respond(answer: Answer) -> Response<PaidBody> {
    let body = Full::new(Bytes::from(answer.body)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        // They came out of a response, or are ours.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
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
            // No free route has a body to speak of.
            let body = read(body, 1 << 16).await.unwrap_or_default();
            let answer = paywall.page_under(&prefix, &incoming(&parts, &prefix, &body)).await;
            Ok(respond(answer.unwrap_or_else(|| Answer::new(404, "Not Found"))))
        })
    }
}
