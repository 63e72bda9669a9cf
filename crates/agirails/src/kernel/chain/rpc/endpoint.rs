//! One endpoint: what it is asked, what its answers mean, and how it has behaved.

use std::{
    error::Error as StdError,
    fmt::Write as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use alloy_json_rpc::ErrorPayload;
use alloy_primitives::bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;
use url::{Url, form_urlencoded};

use super::{Answered, BATCH_LIMIT, Call, Failure, Line, PARTS_AT_ONCE, unreadable};

/// More than any answer we ask for; a node that lies does not fill the memory.
const BODY_LIMIT: usize = 64 << 20;
/// How many calls a batch has where the endpoint refuses the size before. The public endpoints of
/// Base take 10; some endpoints know no batches.
const SMALLER_BATCHES: [usize; 2] = [10, 1];
/// The first rest of an endpoint that failed; each one after it lasts twice as long.
const FIRST_REST: Duration = Duration::from_millis(50);
/// The longest rest, and the longest that an endpoint may ask for.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Where an endpoint limits us and does not say for how long.
const FIRST_LIMIT: Duration = Duration::from_millis(250);
const LONGEST_GUESS: Duration = Duration::from_secs(5);

/// What stands in place of a key.
const HIDDEN: &str = "<hidden>";
/// Parts of a URL that are shorter are no keys.
const SHORTEST_SECRET: usize = 4;

/// Why an attempt brought no usable answer.
#[derive(Debug, Clone)]
pub(super) struct Miss {
    pub(super) why: Why,
    /// Behind the endpoint's name, as in "answered HTTP 503".
    pub(super) problem: String,
    /// How long the endpoint asks to be left alone.
    retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// No connection.
    Down,
    /// It does not serve us: HTTP 4xx, or a redirection.
    Rejected,
    /// It serves us later.
    Limited,
    /// It failed on the way: cut, too slow, HTTP 5xx.
    Lost,
    /// It answered something else.
    Garbled,
}

impl Miss {
    fn new(why: Why, problem: impl Into<String>) -> Self {
        Self { why, problem: problem.into(), retry_after: None }
    }

    fn garbled(problem: &str) -> Self {
        Self::new(Why::Garbled, problem)
    }

    /// Of an attempt that failed below HTTP. The text names no URL.
    fn on_the_way(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::new(Why::Lost, "did not answer in time")
        } else if error.is_connect() {
            Self::new(Why::Down, format!("cannot be connected to ({})", cause(error)))
        } else {
            Self::new(Why::Lost, format!("broke off the answer ({})", cause(error)))
        }
    }

    /// Of an error that means "later", not "no".
    pub(super) fn limited_by(error: &ErrorPayload) -> Option<Self> {
        is_limit(error).then(|| Self::new(Why::Limited, "limits requests"))
    }

    /// Whether the next try is likely to end the same way.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self.why, Why::Down | Why::Rejected)
    }
}

/// The innermost cause. The outer ones say less, and may name the URL.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut innermost: Option<&dyn StdError> = error.source();
    while let Some(deeper) = innermost.and_then(StdError::source) {
        innermost = Some(deeper);
    }
    innermost.map_or_else(|| "no cause is known".to_owned(), ToString::to_string)
}

/// The words and codes by which Infura, Alchemy, QuickNode, Base and others say "too fast".
fn is_limit(error: &ErrorPayload) -> bool {
    let words = error.message.to_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    // A contract may speak of limits too, and a node of its limits on the size of an answer.
    if error.code == 3 || says(&["revert", "block range", "results", "logs", "batch"]) {
        return false;
    }
    matches!(error.code, 429 | -32_005)
        || says(&[
            "rate limit",
            "rate exceeded",
            "too many requests",
            "request limit",
            "credits limited",
            "concurrent requests",
            "compute units per second",
        ])
}

/// An answer, read in one pass.
#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
struct Answer<T> {
    #[serde(default)]
    id: Option<u64>,
    /// `null` is a result.
    #[serde(default, deserialize_with = "present")]
    result: Option<T>,
    #[serde(default)]
    error: Option<ErrorPayload>,
}

fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl<T> Answer<T> {
    fn to(self, id: u64) -> Result<Result<T, ErrorPayload>, Miss> {
        match (self.error, self.result) {
            (Some(error), _) => match Miss::limited_by(&error) {
                Some(miss) => Err(miss),
                // A node that cannot read a request cannot read its id either.
                None if self.id.is_none_or(|theirs| theirs == id) => Ok(Err(error)),
                None => Err(Miss::garbled("answered another request")),
            },
            (None, Some(result)) if self.id == Some(id) => Ok(Ok(result)),
            (None, Some(_)) => Err(Miss::garbled("answered another request")),
            (None, None) => Err(Miss::garbled("answered with neither result nor error")),
        }
    }
}

/// An answer's status and body.
struct Reply {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Reply {
    fn rejected(&self) -> Miss {
        let problem = match self.status.is_redirection() {
            true => format!("answered HTTP {}; redirections are not followed", self.status),
            false => format!("answered HTTP {}", self.status),
        };
        Miss { retry_after: self.retry_after, ..Miss::new(Why::Rejected, problem) }
    }

    fn read<T: DeserializeOwned>(&self, id: u64, method: &str) -> Result<Result<T, Failure>, Miss> {
        let problem = match serde_json::from_slice::<Answer<T>>(&self.body) {
            Ok(answer) => return Ok(answer.to(id)?.map_err(Failure::Refused)),
            Err(problem) => problem,
        };
        match serde_json::from_slice::<Answer<&RawValue>>(&self.body) {
            // It is an answer, but none to what was asked; another try would bring the same.
            Ok(answer) => Ok(match answer.to(id)? {
                Ok(_) => Err(Failure::Unreachable(unreadable(method, &problem))),
                Err(refused) => Err(Failure::Refused(refused)),
            }),
            Err(_) => Err(Miss::garbled("answered something that is not JSON-RPC")),
        }
    }

    /// The answers to calls with the ids from `first` on.
    fn read_all(&self, first: u64, calls: usize) -> Result<Vec<Answered>, BatchMiss> {
        let one = self.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        if one {
            let answer: Answer<&RawValue> = serde_json::from_slice(&self.body)
                .map_err(|_| Miss::garbled("answered something that is not JSON-RPC"))?;
            return Err(match answer.error {
                Some(error) => refused_batch(&error),
                None => Miss::garbled("answered a batch with one result").into(),
            });
        }
        let answers: Vec<Answer<Box<RawValue>>> = serde_json::from_slice(&self.body)
            .map_err(|_| Miss::garbled("answered something that is not JSON-RPC"))?;
        // Some nodes refuse a batch for its size by one error in a list.
        if answers.len() < calls
            && answers.iter().all(|answer| answer.error.is_some())
            && let Some(error) = answers.first().and_then(|answer| answer.error.as_ref())
        {
            return Err(refused_batch(error));
        }
        let mut ordered: Vec<Option<Answered>> = Vec::new();
        ordered.resize_with(calls, || None);
        for answer in answers {
            let place = answer
                .id
                .and_then(|id| usize::try_from(id.checked_sub(first)?).ok())
                .and_then(|place| ordered.get_mut(place))
                .filter(|place| place.is_none())
                .ok_or_else(|| Miss::garbled("answered another request"))?;
            *place = match (answer.error, answer.result) {
                (Some(error), _) => Some(Err(error)),
                (None, result) => result.map(Ok),
            };
        }
        let answers: Option<Vec<Answered>> = ordered.into_iter().collect();
        answers.ok_or_else(|| Miss::garbled("left out answers of a batch").into())
    }
}

/// Why a batch brought no usable answers.
enum BatchMiss {
    Missed(Miss),
    /// It may take a smaller one.
    TooMany(Miss),
}

impl From<Miss> for BatchMiss {
    fn from(miss: Miss) -> Self {
        Self::Missed(miss)
    }
}

fn refused_batch(error: &ErrorPayload) -> BatchMiss {
    match Miss::limited_by(error) {
        Some(miss) => miss.into(),
        None => BatchMiss::TooMany(Miss::new(Why::Rejected, "refuses batches")),
    }
}

/// One URL that takes requests.
pub(super) struct Endpoint {
    url: Url,
    /// What errors call it: host and port. The rest of a URL is where keys stand.
    pub(super) name: String,
    /// That rest in parts, the longest first: what it repeats of them in its own words is not shown.
    secrets: Vec<String>,
    manners: Mutex<Manners>,
    /// How many calls it takes in one request.
    batch_size: AtomicUsize,
}

/// How an endpoint has behaved of late.
#[derive(Default)]
struct Manners {
    /// In a row.
    failures: u32,
    failed_at: Option<Instant>,
    /// Others are asked first until then.
    rests_until: Option<Instant>,
    /// Nobody asks it until then, whatever the others do.
    closed_until: Option<Instant>,
    last: Option<Miss>,
}

/// When an endpoint may be asked.
#[derive(Clone, Copy)]
pub(super) struct Readiness {
    pub(super) rested: Instant,
    pub(super) open: Instant,
    pub(super) failing: bool,
}

impl Endpoint {
    pub(super) fn new(url: Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let name = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let secrets = secrets(&url);
        let (manners, batch_size) = (Mutex::default(), AtomicUsize::new(BATCH_LIMIT));
        Self { url, name, secrets, manners, batch_size }
    }

    pub(super) fn batch_size(&self) -> usize {
        self.batch_size.load(Ordering::Relaxed)
    }

    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        line: &Line,
        client: &reqwest::Client,
        call: &Call,
        timeout: Duration,
    ) -> Result<Result<T, Failure>, Miss> {
        let id = line.next_id.fetch_add(1, Ordering::Relaxed);
        let mut body = String::with_capacity(256);
        write_call(&mut body, id, call);
        let reply = self.post(line, client, body, timeout).await?;
        let answer = reply.read(id, call.method).map(|answer| match answer {
            Err(Failure::Refused(refused)) => Err(Failure::Refused(self.hiding(refused))),
            answer => answer,
        });
        if reply.status.is_success() {
            return answer;
        }
        match answer {
            // Some nodes say their "no" with a status of its own. These mean the endpoint's
            // door, not the request.
            Ok(Err(refused)) if !matches!(reply.status.as_u16(), 401 | 403 | 404) => {
                Ok(Err(refused))
            }
            Err(miss) if miss.why == Why::Limited => Err(miss),
            _ => Err(reply.rejected()),
        }
    }

    /// The answers in the order of `calls`: in one HTTP request where the endpoint takes that many.
    pub(super) async fn ask_all(
        &self,
        line: &Line,
        client: &reqwest::Client,
        calls: &[&Call],
        timeout: Duration,
    ) -> Result<Vec<Answered>, Miss> {
        let mut size = self.batch_size();
        loop {
            let parts: Vec<_> =
                calls.chunks(size).map(|part| self.ask_part(line, client, part, timeout)).collect();
            let missed = match stream::iter(parts).buffered(PARTS_AT_ONCE).try_concat().await {
                Ok(answers) => {
                    // Only now is it known that the size was what the endpoint refused.
                    self.batch_size.fetch_min(size, Ordering::Relaxed);
                    return Ok(answers);
                }
                Err(missed) => missed,
            };
            size = match missed {
                BatchMiss::Missed(miss) => return Err(miss),
                BatchMiss::TooMany(miss) => {
                    let tried = size.min(calls.len());
                    SMALLER_BATCHES.into_iter().find(|smaller| *smaller < tried).ok_or(miss)?
                }
            };
        }
    }

    async fn ask_part(
        &self,
        line: &Line,
        client: &reqwest::Client,
        calls: &[&Call],
        timeout: Duration,
    ) -> Result<Vec<Answered>, BatchMiss> {
        if let [call] = calls {
            return match self.ask(line, client, call, timeout).await? {
                Ok(raw) => Ok(vec![Ok(raw)]),
                Err(Failure::Refused(refused)) => Ok(vec![Err(refused)]),
                Err(Failure::Unreachable(_)) => Err(Miss::garbled("answered no JSON").into()),
            };
        }
        let first = line.next_id.fetch_add(calls.len() as u64, Ordering::Relaxed);
        let mut body = String::with_capacity(256 * calls.len());
        for (id, call) in (first..).zip(calls) {
            body.push(if id == first { '[' } else { ',' });
            write_call(&mut body, id, call);
        }
        body.push(']');
        let reply = self.post(line, client, body, timeout).await?;
        let answers = reply.read_all(first, calls.len()).map(|answers| {
            answers
                .into_iter()
                .map(|answer| answer.map_err(|refused| self.hiding(refused)))
                .collect()
        });
        match answers {
            answers if reply.status.is_success() => answers,
            Err(BatchMiss::Missed(miss)) if miss.why == Why::Limited => Err(miss.into()),
            _ => Err(BatchMiss::TooMany(reply.rejected())),
        }
    }

    /// A refusal without what the node repeats of its URL.
    fn hiding(&self, mut refused: ErrorPayload) -> ErrorPayload {
        for secret in &self.secrets {
            if refused.message.contains(secret.as_str()) {
                refused.message = refused.message.replace(secret.as_str(), HIDDEN).into();
            }
            if let Some(data) = refused.data.as_ref().filter(|data| data.get().contains(secret)) {
                // What is not JSON any more is left out.
                refused.data = RawValue::from_string(data.get().replace(secret, HIDDEN)).ok();
            }
        }
        refused
    }

    /// A body for a body. Statuses that say nothing of the request itself are misses.
    async fn post(
        &self,
        line: &Line,
        client: &reqwest::Client,
        body: String,
        timeout: Duration,
    ) -> Result<Reply, Miss> {
        line.round_trips.fetch_add(1, Ordering::Relaxed);
        let sent = client
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .timeout(timeout)
            .body(Bytes::from(body))
            .send();
        let mut response = sent.await.map_err(|error| Miss::on_the_way(&error))?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let miss = |why| {
            let problem = format!("answered HTTP {status}");
            Err(Miss { retry_after, ..Miss::new(why, problem) })
        };
        match status {
            StatusCode::TOO_MANY_REQUESTS => return miss(Why::Limited),
            StatusCode::REQUEST_TIMEOUT => return miss(Why::Lost),
            _ if status.is_server_error() => return miss(Why::Lost),
            _ => {}
        }
        Ok(Reply { status, retry_after, body: read_body(&mut response).await? })
    }

    /// It answered a request that it was asked at this time. One from before its last failure
    /// tells nothing.
    pub(super) fn answered(&self, asked_at: Instant) {
        let mut manners = self.manners();
        if manners.failed_at.is_some_and(|failed_at| failed_at <= asked_at) {
            *manners = Manners::default();
        }
    }

    /// It missed a request that it was asked at this time.
    pub(super) fn missed(&self, asked_at: Instant, miss: &Miss) {
        let now = Instant::now();
        let mut manners = self.manners();
        // Requests that fail together are one failure.
        if manners.failed_at.is_none_or(|failed_at| failed_at <= asked_at) {
            manners.failures += 1;
            manners.failed_at = Some(now);
        }
        let doubled = 1 << (manners.failures - 1).min(16);
        let rest = (FIRST_REST * doubled).min(LONGEST_REST);
        let closed = match (miss.retry_after, miss.why) {
            (Some(asked_for), _) => Some(asked_for.min(LONGEST_REST)),
            (None, Why::Limited) => Some((FIRST_LIMIT * doubled).min(LONGEST_GUESS)),
            (None, _) => None,
        };
        manners.rests_until = Some(now + rest.max(closed.unwrap_or_default()));
        manners.closed_until = manners.closed_until.max(closed.map(|closed| now + closed));
        manners.last = Some(miss.clone());
        drop(manners);
        tracing::debug!(endpoint = self.name, problem = miss.problem, "no usable answer");
    }

    /// One request finds out how it is; the others are kept away until then.
    pub(super) fn keep_others_away(&self, most: Duration) {
        self.manners().rests_until = Some(Instant::now() + most.min(LONGEST_REST));
    }

    pub(super) fn readiness(&self, now: Instant) -> Readiness {
        let manners = self.manners();
        Readiness {
            rested: manners.rests_until.unwrap_or(now),
            open: manners.closed_until.unwrap_or(now),
            failing: manners.failures > 0,
        }
    }

    /// What it did last instead of answering.
    pub(super) fn last_miss(&self) -> Option<Miss> {
        self.manners().last.clone()
    }

    /// Its name and what it did last instead of answering, in words.
    pub(super) fn told(&self) -> Option<String> {
        Some(format!("{} {}", self.name, self.last_miss()?.problem))
    }

    fn manners(&self) -> MutexGuard<'_, Manners> {
        self.manners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of a URL that can be keys: all but its scheme, host and port. Short words such as `v2`
/// are none.
fn secrets(url: &Url) -> Vec<String> {
    let words = [Some(url.username()), url.password(), url.query(), url.fragment()];
    let mut secrets: Vec<String> = words.into_iter().flatten().map(str::to_owned).collect();
    secrets.extend(url.path_segments().into_iter().flatten().map(str::to_owned));
    // As they are written, and as they are meant.
    let meant: Vec<_> = secrets
        .iter()
        .flat_map(|secret| form_urlencoded::parse(secret.as_bytes()))
        .flat_map(|(name, value)| [name.into_owned(), value.into_owned()])
        .collect();
    secrets.extend(meant);
    secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.dedup();
    secrets
}

/// A request object. Methods are names in our code, with nothing in them to escape.
fn write_call(body: &mut String, id: u64, Call { method, params }: &Call) {
    // Writing to a string cannot fail.
    let _ = write!(body, r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
}

async fn read_body(response: &mut Response) -> Result<Vec<u8>, Miss> {
    let too_long = || Miss::garbled("sent an answer beyond all measure");
    let announced = response.content_length().unwrap_or(0);
    let announced = usize::try_from(announced).map_err(|_| too_long())?;
    if announced > BODY_LIMIT {
        return Err(too_long());
    }
    let mut body = Vec::with_capacity(announced);
    while let Some(chunk) = response.chunk().await.map_err(|error| Miss::on_the_way(&error))? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}
