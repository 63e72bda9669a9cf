//! JSON-RPC with the chain's nodes: several endpoints as one that is there.
//!
//! Whatever a caller asks here may be asked twice. Reads may, and so may `eth_sendRawTransaction`,
//! whose bytes have one hash however often they arrive. So there is one policy: an endpoint that
//! gives no usable answer rests, and the others are asked, until [`RpcSettings::patience`] ends.
//! A node's "no" is an answer, and is never asked again.

mod batcher;
mod endpoint;
mod failover;
mod heads;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, Instant},
};

use alloy_json_rpc::ErrorPayload;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, FuturesUnordered},
};
use reqwest::redirect;
use serde::de::DeserializeOwned;
use serde_json::{Value, error::Category, value::RawValue};
use tokio::sync::watch;
use url::Url;

pub(crate) use self::heads::Heads;
use self::{
    batcher::{Admission, Batcher, Slot},
    endpoint::{Endpoint, Miss},
    failover::Failover,
};
use crate::{
    error::{Code, Error, Result, shown_words},
    fork::Renewed,
};

/// Calls in one HTTP request. Nodes' own limits begin here.
const BATCH_LIMIT: usize = 100;
/// How many parts of a batch too large for one request are under way at once.
const PARTS_AT_ONCE: usize = 8;
/// A connection that is not there by now will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Shorter than servers and load balancers keep idle connections, so that they are not cut
/// under a request.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// An HTTP/2 connection whose other end has vanished is found out by a ping this often.
const PING: Duration = Duration::from_secs(5);

/// Whoever sets more means for ever; beyond it, times of day overflow.
const LONGEST_PATIENCE: Duration = Duration::from_secs(86_400);

/// Where the nodes are, and how long to wait for them.
#[derive(Clone)]
pub(crate) struct RpcSettings {
    /// The preferred one first: `http` and `https` for requests, `ws` and `wss` for news of blocks.
    pub(crate) urls: Vec<String>,
    /// How long one HTTP request may take.
    pub(crate) request_timeout: Duration,
    /// How long all tries of one request may take together.
    pub(crate) patience: Duration,
}

impl Default for RpcSettings {
    fn default() -> Self {
        let (request_timeout, patience) = (Duration::from_secs(10), Duration::from_secs(20));
        Self { urls: Vec::new(), request_timeout, patience }
    }
}

/// One question to a node.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) params: Value,
}

impl Call {
    pub(crate) const fn new(method: &'static str, params: Value) -> Self {
        Self { method, params }
    }
}

/// What a node said to one call of a batch.
pub(crate) type Answered = Result<Box<RawValue>, ErrorPayload>;

/// Why a request has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A node understood the request and said no.
    Refused(ErrorPayload),
    /// Nobody gave a usable answer. Of a request that changes something, the outcome is unknown.
    Unreachable(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(ErrorPayload { code, message, .. }) => Self::new(
                Code::RequestRefused,
                format!("the RPC endpoint refused: {} (code {code})", shown_words(&message)),
            )
            .with_hint("these are the node's own words; another rpc_url may answer otherwise"),
            Failure::Unreachable(error) => error,
        }
    }
}

/// Reads a result that came back raw.
///
/// # Errors
/// [`Code::InvalidAnswer`], naming the method.
pub(crate) fn parse<T: DeserializeOwned>(method: &'static str, raw: &RawValue) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|problem| unreadable(method, &problem))
}

/// Where it cannot be read, not what stands there: a node may repeat its URL in place of a number.
fn unreadable(method: &str, problem: &serde_json::Error) -> Error {
    let (place, kind) = (problem.column(), problem.classify());
    let problem = match kind {
        Category::Data => "is of another kind than the method's",
        Category::Eof => "breaks off",
        Category::Syntax | Category::Io => "is not JSON",
    };
    let message = format!("the answer to {method} {problem}, at its byte {place}");
    Error::new(Code::InvalidAnswer, message)
        .with_hint("check that rpc_url is an Ethereum node's, or set another one")
}

/// The endpoints of a chain. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Rpc(Arc<Renewed<Line>>);

/// What one process holds: its connections, what it knows of the endpoints, who is under way.
pub(super) struct Line {
    /// Why there is none, where there is none.
    client: Result<reqwest::Client, String>,
    endpoints: Vec<Endpoint>,
    sockets: Vec<String>,
    request_timeout: Duration,
    patience: Duration,
    batcher: Mutex<Batcher>,
    news: Mutex<Option<watch::Receiver<()>>>,
    next_id: AtomicU64,
    round_trips: AtomicU64,
}

impl Rpc {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] for a URL that cannot be used or where none takes requests;
    /// [`Code::EndpointUnreachable`] where this machine has no certificates to check servers by.
    pub(crate) fn new(settings: RpcSettings) -> Result<Self> {
        let RpcSettings { urls, request_timeout, patience } = settings;
        let request_timeout = request_timeout.min(LONGEST_PATIENCE);
        let patience = patience.min(LONGEST_PATIENCE);
        let urls = urls.iter().map(|url| usable(url)).collect::<Result<Vec<_>>>()?;
        let (requests, sockets): (Vec<_>, Vec<_>) =
            urls.into_iter().partition(|url| url.scheme().starts_with("http"));
        if requests.is_empty() {
            let problem = match sockets.len() {
                0 => "names no URL",
                _ => "names WebSocket URLs only, and they bring nothing but news of blocks",
            };
            return Err(bad_url(problem).with_hint("add the node's http:// or https:// URL"));
        }
        let sockets: Vec<String> = sockets.into_iter().map(String::from).collect();
        let line = Renewed::new(move || Line {
            client: connections(&requests, request_timeout),
            endpoints: requests.iter().cloned().map(Endpoint::new).collect(),
            sockets: sockets.clone(),
            request_timeout,
            patience,
            batcher: Mutex::default(),
            news: Mutex::default(),
            next_id: AtomicU64::new(1),
            round_trips: AtomicU64::new(0),
        });
        line.get().client()?;
        Ok(Self(Arc::new(line)))
    }

    /// Asks until a node has answered or patience ends.
    ///
    /// # Errors
    /// [`Failure::Refused`] where a node said no. [`Failure::Unreachable`] with
    /// [`Code::EndpointUnreachable`], [`Code::RateLimited`] or [`Code::InvalidAnswer`].
    pub(crate) async fn request<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        let line = self.0.get();
        match line.admit(Call::new(method, params)) {
            Admission::Now(_slot, call) => line.ask(&call).await,
            Admission::Later(answer, call) => match answer.await {
                Ok(Ok(Ok(raw))) => parse(method, &raw).map_err(Failure::Unreachable),
                Ok(Ok(Err(refused))) => Err(Failure::Refused(refused)),
                Ok(Err(error)) => Err(Failure::Unreachable(error)),
                // Whoever carried it is gone with its runtime; ours still stands.
                Err(_) => {
                    let _slot = Slot::one_more(&line);
                    line.ask(&call).await
                }
            },
        }
    }

    /// Asks all of it in one HTTP request, so that one node answers all, in the order of `calls`.
    /// What is too much for one request, by our limit of 100 or the endpoint's own, goes out in
    /// parts, to one endpoint each 100.
    ///
    /// # Errors
    /// Those of [`Failure::Unreachable`] in [`Self::request`].
    pub(crate) async fn batch(&self, calls: &[Call]) -> Result<Vec<Answered>> {
        let line = self.0.get();
        let parts: Vec<_> = calls.chunks(BATCH_LIMIT).map(|part| line.ask_all(part)).collect();
        stream::iter(parts).buffered(PARTS_AT_ONCE).try_concat().await
    }

    /// Asks so many endpoints of different hosts the same, each by itself; returns their names with
    /// what they answered. One that misses is replaced by the next.
    ///
    /// # Errors
    /// Those of [`Failure::Unreachable`] in [`Self::request`], where fewer answer.
    pub(crate) async fn ask_each(
        &self,
        call: &Call,
        endpoints: usize,
    ) -> Result<Vec<(String, Answered)>> {
        let line = self.0.get();
        let client = line.client()?;
        let _slot = Slot::one_more(&line);
        let ask = async |endpoint: &Endpoint| {
            let asked_at = Instant::now();
            let answers = endpoint.ask_all(&line, client, &[call], line.request_timeout).await;
            match answers.and_then(none_limited) {
                Ok(mut answers) => {
                    endpoint.answered(asked_at);
                    answers.pop().map(|answer| (endpoint.name.clone(), answer))
                }
                Err(miss) => {
                    endpoint.missed(asked_at, &miss);
                    None
                }
            }
        };
        let mut others = line.distinct().into_iter();
        let mut asked: FuturesUnordered<_> = others.by_ref().take(endpoints).map(ask).collect();
        let mut answers = Vec::with_capacity(endpoints);
        while let Some(answer) = asked.next().await {
            match answer {
                Some(answer) => answers.push(answer),
                None => asked.extend(others.next().map(ask)),
            }
        }
        if answers.len() == endpoints {
            return Ok(answers);
        }
        let misses: Vec<_> = line.endpoints.iter().filter_map(Endpoint::told).collect();
        let count = answers.len();
        let message = format!(
            "{count} of {endpoints} RPC endpoints that must agree answered {}: {}",
            call.method,
            misses.join("; ")
        );
        Err(Error::new(Code::EndpointUnreachable, message)
            .with_hint("name a further rpc_url, so that one may fail, or lower `agree`"))
    }

    /// How many endpoints there are on different hosts.
    pub(crate) fn distinct_endpoints(&self) -> usize {
        self.0.get().distinct().len()
    }

    /// News of blocks, from now on.
    pub(crate) fn heads(&self) -> Heads {
        self.0.get().heads()
    }

    /// HTTP requests so far.
    #[cfg(test)]
    pub(crate) fn round_trips(&self) -> u64 {
        self.0.get().round_trips.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Line {
    async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Failure> {
        let client = self.client().map_err(Failure::Unreachable)?;
        let mut failover = Failover::new(self, Instant::now() + self.patience);
        while let Some(turn) = failover.next().await {
            match turn.endpoint.ask(self, client, call, turn.timeout).await {
                Ok(answer) => {
                    failover.answered(&turn);
                    return answer;
                }
                Err(miss) => failover.missed(&turn, miss),
            }
        }
        Err(Failure::Unreachable(failover.error(call.method)))
    }

    async fn ask_all(self: &Arc<Self>, calls: &[Call]) -> Result<Vec<Answered>> {
        let client = self.client()?;
        let _slot = Slot::one_more(self);
        let calls: Vec<&Call> = calls.iter().collect();
        let mut failover = Failover::new(self, Instant::now() + self.patience);
        while let Some(turn) = failover.next().await {
            let answers = turn.endpoint.ask_all(self, client, &calls, turn.timeout).await;
            match answers.and_then(none_limited) {
                Ok(answers) => {
                    failover.answered(&turn);
                    return Ok(answers);
                }
                Err(miss) => failover.missed(&turn, miss),
            }
        }
        Err(failover.error(calls.first().map_or("a batch", |call| call.method)))
    }

    /// The first endpoint of each host: two URLs of one host are one witness.
    fn distinct(&self) -> Vec<&Endpoint> {
        let mut seen = HashSet::new();
        self.endpoints.iter().filter(|endpoint| seen.insert(&endpoint.name)).collect()
    }

    fn client(&self) -> Result<&reqwest::Client> {
        self.client.as_ref().map_err(|problem| {
            Error::new(
                Code::EndpointUnreachable,
                format!("no secure connection can be made: {problem}"),
            )
            .with_hint("install this system's CA certificates (package ca-certificates)")
        })
    }
}

/// A batch is one node's view of one moment, or nothing.
fn none_limited(answers: Vec<Answered>) -> Result<Vec<Answered>, Miss> {
    match answers.iter().find_map(|answer| Miss::limited_by(answer.as_ref().err()?)) {
        Some(miss) => Err(miss),
        None => Ok(answers),
    }
}

fn connections(urls: &[Url], request_timeout: Duration) -> Result<reqwest::Client, String> {
    // The first caller's choice stands where the program has installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder()
        .user_agent(concat!("agirails-rs/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT.min(request_timeout))
        .pool_idle_timeout(POOL_IDLE)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .tcp_nodelay(true)
        // Whoever may send us elsewhere may send our transactions elsewhere.
        .redirect(redirect::Policy::none());
    if urls.iter().all(|url| url.scheme() == "http") {
        // Reading the system's certificates takes milliseconds, and a bare container has none.
        client = client.tls_certs_only([]);
    }
    client.build().map_err(|error| endpoint::cause(&error))
}

/// A URL that can be used. Errors never quote it, since URLs of nodes contain keys.
fn usable(url: &str) -> Result<Url> {
    let hint = "write it as in https://sepolia.base.org or http://127.0.0.1:8545";
    let url = Url::parse(url)
        .map_err(|problem| bad_url(&format!("must be a URL: {problem}")).with_hint(hint))?;
    match url.scheme() {
        "http" | "https" | "ws" | "wss" => Ok(url),
        scheme => {
            let problem = format!(
                "has the scheme {:?}, but it must be http, https, ws or wss",
                shown_words(scheme)
            );
            Err(bad_url(&problem).with_hint(hint))
        }
    }
}

fn bad_url(problem: &str) -> Error {
    Error::new(Code::InvalidSettings, format!("rpc_url {problem}"))
        .with_facts(|facts| facts.field = Some("rpc_url"))
}
