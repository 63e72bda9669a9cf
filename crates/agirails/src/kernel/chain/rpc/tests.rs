//! Against nodes that do as a script says.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use tokio_tungstenite::tungstenite::Message;

use super::*;

const A_MOMENT: Duration = Duration::from_millis(100);

/// What a node does with a request.
enum Reaction {
    /// Answers with this body.
    Json(Value),
    /// Answers with this status line, these headers and this body.
    Http(&'static str, String, String),
    /// Closes the connection.
    Cut,
    /// Announces a body and closes the connection in the middle of it.
    CutAnswer,
    /// Says nothing.
    Silence,
    /// Waits first.
    After(Duration, Box<Reaction>),
}

use Reaction::{Cut, CutAnswer, Http, Json, Silence};

type Script = dyn Fn(u64, &Value) -> Reaction + Send + Sync;

/// A node on this machine, and what it was asked.
struct Node {
    url: String,
    requests: Arc<Mutex<Vec<Value>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Node {
    /// `script` gets the number of the request, from 0, and its body.
    async fn start(script: impl Fn(u64, &Value) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Value>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let (seen, accepted) = (requests.clone(), connections.clone());
        let (script, number): (Arc<Script>, _) = (Arc::new(script), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let (script, number, seen) = (script.clone(), number.clone(), seen.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, &*script, &number, &seen).await;
                });
            }
        });
        Self { url, requests, connections, task }
    }

    /// Answers everything with the request's first parameter.
    async fn echo() -> Self {
        Self::start(|_, body| Json(echoed(body))).await
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    script: &Script,
    number: &AtomicU64,
    seen: &Mutex<Vec<Value>>,
) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let headers = String::from_utf8_lossy(&read[..head]).to_lowercase();
        let length = headers
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
            .unwrap();
        while read.len() < head + length {
            stream.read_buf(&mut read).await?;
        }
        let body: Value = serde_json::from_slice(&read[head..head + length]).unwrap();
        read.drain(..head + length);
        let mut reaction = script(number.fetch_add(1, Ordering::SeqCst), &body);
        seen.lock().unwrap().push(body);
        if let Reaction::After(pause, then) = reaction {
            sleep(pause).await;
            reaction = *then;
        }
        let (status, headers, body) = match reaction {
            Json(body) => ("200 OK", String::new(), body.to_string()),
            Http(status, headers, body) => (status, headers, body),
            Cut => return Ok(()),
            CutAnswer => {
                let start = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"jsonrpc\"";
                return stream.write_all(start.as_bytes()).await;
            }
            Silence | Reaction::After(..) => return future_that_never_ends().await,
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn future_that_never_ends() -> io::Result<()> {
    std::future::pending().await
}

fn result(body: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": body["id"], "result": result })
}

fn error(body: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": body["id"], "error": { "code": code, "message": message } })
}

fn echoed(body: &Value) -> Value {
    match body {
        // In any order but ours.
        Value::Array(calls) => calls.iter().rev().map(echoed).collect(),
        call => result(call, call["params"][0].clone()),
    }
}

fn rpc(urls: &[&str]) -> Rpc {
    rpc_with(urls, Duration::from_secs(5), Duration::from_secs(10))
}

fn rpc_with(urls: &[&str], request_timeout: Duration, patience: Duration) -> Rpc {
    let urls = urls.iter().map(|url| (*url).to_owned()).collect();
    Rpc::new(RpcSettings { urls, request_timeout, patience }).unwrap()
}

async fn ask(rpc: &Rpc, number: u64) -> Result<u64, Failure> {
    rpc.request("test_echo", json!([number])).await
}

fn unreachable(failure: Failure) -> Error {
    match failure {
        Failure::Unreachable(error) => error,
        Failure::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

/// A port where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_request_takes_one_round_trip_on_a_connection_that_is_kept() {
    let node = Node::echo().await;
    let rpc = rpc(&[&node.url]);
    for number in 0..5 {
        assert_eq!(ask(&rpc, number).await.unwrap(), number);
    }
    assert_eq!(rpc.round_trips(), 5);
    assert_eq!(node.connections.load(Ordering::SeqCst), 1);
    let first = node.requests.lock().unwrap()[0].clone();
    assert_eq!(first["jsonrpc"], "2.0");
    assert_eq!(first["method"], "test_echo");
}

#[tokio::test]
async fn null_is_a_result() {
    let node = Node::start(|_, body| Json(result(body, Value::Null))).await;
    let none: Option<u64> = rpc(&[&node.url]).request("eth_getBlock", json!([])).await.unwrap();
    assert_eq!(none, None);
}

#[tokio::test]
async fn a_refusal_is_an_answer_whatever_its_status() {
    let revert = "execution reverted: rate limit of the contract";
    let node = Node::start(move |number, body| match number {
        0 => Json(error(body, 3, revert)),
        _ => Http("400 Bad Request", String::new(), error(body, -32_000, "no").to_string()),
    })
    .await;
    let spare = Node::echo().await;
    let rpc = rpc(&[&node.url, &spare.url]);
    let Err(Failure::Refused(refused)) = ask(&rpc, 1).await else { panic!("not refused") };
    assert_eq!((refused.code, refused.message.as_ref()), (3, revert));
    let told = Error::from(ask(&rpc, 1).await.unwrap_err());
    assert_eq!(told.code(), Code::RequestRefused);
    assert!(told.to_string().contains("no (code -32000)"), "{told}");
    assert_eq!((node.asked(), spare.asked()), (2, 0));
}

#[tokio::test]
async fn a_large_range_of_logs_is_refused_and_not_taken_for_a_rate_limit() {
    let words = "query returned more than 10000 results";
    let node = Node::start(move |_, body| Json(error(body, -32_005, words))).await;
    assert!(matches!(ask(&rpc(&[&node.url]), 1).await, Err(Failure::Refused(_))));
}

#[tokio::test]
async fn whatever_is_no_answer_leads_to_the_next_endpoint() {
    let cases: [fn(&Value) -> Reaction; 14] = [
        |_| Cut,
        |_| CutAnswer,
        |_| Http("503 Service Unavailable", String::new(), String::new()),
        |_| Http("500 Internal Server Error", String::new(), "{}".to_owned()),
        |_| Http("404 Not Found", String::new(), "<html>".to_owned()),
        |_| Http("403 Forbidden", String::new(), "<html>".to_owned()),
        |_| Http("429 Too Many Requests", String::new(), String::new()),
        |_| Http("301 Moved", "location: http://127.0.0.1:1/\r\n".to_owned(), String::new()),
        |_| Http("200 OK", String::new(), "<html>hello</html>".to_owned()),
        |_| Http("200 OK", String::new(), "[]".to_owned()),
        |_| Json(json!({ "jsonrpc": "2.0", "id": 424_242, "result": 7 })),
        |_| Json(json!({ "jsonrpc": "2.0", "result": 7 })),
        |body| Json(error(body, -32_005, "limit exceeded")),
        |body| Json(error(body, -32_016, "over rate limit")),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let bad = Node::start(move |_, body| case(body)).await;
        let good = Node::echo().await;
        let rpc = rpc(&[&bad.url, &good.url]);
        assert_eq!(ask(&rpc, 1).await.unwrap(), 1, "case {number}");
        assert_eq!((bad.asked(), good.asked()), (1, 1), "case {number}");
    }
}

#[tokio::test]
async fn an_endpoint_that_failed_rests_and_comes_back() {
    let broken = Arc::new(AtomicUsize::new(1));
    let state = broken.clone();
    let preferred = Node::start(move |_, body| match state.load(Ordering::SeqCst) {
        0 => Json(echoed(body)),
        _ => Http("502 Bad Gateway", String::new(), String::new()),
    })
    .await;
    let spare = Node::echo().await;
    let rpc = rpc(&[&preferred.url, &spare.url]);
    // One finds out; the next ones do not ask it again at once.
    for number in 0..10 {
        ask(&rpc, number).await.unwrap();
    }
    assert!(preferred.asked() <= 2, "{}", preferred.asked());
    broken.store(0, Ordering::SeqCst);
    let (before, started) = (preferred.asked(), Instant::now());
    while preferred.asked() < before + 3 {
        ask(&rpc, 1).await.unwrap();
        sleep(Duration::from_millis(5)).await;
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn requests_that_fail_together_are_one_failure() {
    let node = Node::start(|number, body| match number {
        0..8 => Reaction::After(A_MOMENT, Box::new(Cut)),
        _ => Json(echoed(body)),
    })
    .await;
    let rpc = rpc(&[&node.url]);
    let started = Instant::now();
    for answer in join_all((0..8).map(|number| ask(&rpc, number))).await {
        answer.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_only_endpoint_is_asked_again() {
    let node = Node::start(|number, body| match number {
        0 => Cut,
        1 => Http("503 Service Unavailable", String::new(), String::new()),
        2 => Json(json!("garbage")),
        _ => Json(echoed(body)),
    })
    .await;
    let rpc = rpc(&[&node.url]);
    assert_eq!(ask(&rpc, 5).await.unwrap(), 5);
    assert_eq!(rpc.round_trips(), 4);
}

#[tokio::test]
async fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    let date = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_millis(2_500));
    for asked_for in [|| "1".to_owned(), date] {
        let asked_for: String = asked_for();
        let header = format!("retry-after: {asked_for}\r\n");
        let node = Node::start(move |number, body| match number {
            0 => Http("429 Too Many Requests", header.clone(), String::new()),
            _ => Json(echoed(body)),
        })
        .await;
        let rpc = rpc(&[&node.url]);
        let started = Instant::now();
        assert_eq!(ask(&rpc, 1).await.unwrap(), 1);
        let waited = started.elapsed();
        assert!(waited > Duration::from_millis(900), "{asked_for}: {waited:?}");
        assert!(waited < Duration::from_secs(4), "{asked_for}: {waited:?}");
        assert_eq!(node.asked(), 2);
    }
}

#[tokio::test]
async fn a_limit_beyond_patience_is_reported_at_once() {
    let node = Node::start(|_, _| {
        Http("429 Too Many Requests", "retry-after: 25\r\n".to_owned(), String::new())
    })
    .await;
    let rpc = rpc(&[&node.url]);
    let started = Instant::now();
    // The second one knows without asking.
    for _ in 0..2 {
        let error = unreachable(ask(&rpc, 1).await.unwrap_err());
        assert_eq!(error.code(), Code::RateLimited, "{error}");
        assert!(error.hint().is_some());
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(node.asked(), 1);
}

#[tokio::test]
async fn nobody_at_home_is_reported_after_two_seconds() {
    let rpc = rpc(&[&nobody().await]);
    let started = Instant::now();
    let error = unreachable(ask(&rpc, 1).await.unwrap_err());
    assert_eq!(error.code(), Code::EndpointUnreachable);
    assert!(error.hint().unwrap().contains("rpc_url"), "{error:#}");
    let waited = started.elapsed();
    assert!(waited > Duration::from_millis(700), "{waited:?}");
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test]
async fn endless_patience_is_patience() {
    let (broken, node) = (Node::start(|_, _| Cut).await, Node::echo().await);
    let rpc = rpc_with(&[&broken.url, &node.url], Duration::MAX, Duration::MAX);
    assert_eq!(ask(&rpc, 1).await.unwrap(), 1);
}

#[tokio::test]
async fn silence_ends_with_the_timeout_and_then_with_patience() {
    let silent = Node::start(|_, _| Silence).await;
    let spare = Node::echo().await;
    let timeout = Duration::from_millis(300);
    let rpc = rpc_with(&[&silent.url, &spare.url], timeout, Duration::from_secs(5));
    assert_eq!(ask(&rpc, 1).await.unwrap(), 1);

    let rpc = rpc_with(&[&silent.url], timeout, Duration::from_millis(800));
    let started = Instant::now();
    let error = unreachable(ask(&rpc, 1).await.unwrap_err());
    assert_eq!(error.code(), Code::EndpointUnreachable);
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    assert!(started.elapsed() < Duration::from_millis(1_500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn garbage_that_stays_garbage_is_an_invalid_answer() {
    let node = Node::start(|_, _| Json(json!({ "hello": "world" }))).await;
    let rpc = rpc_with(&[&node.url], Duration::from_secs(1), Duration::from_millis(300));
    let error = unreachable(ask(&rpc, 1).await.unwrap_err());
    assert_eq!(error.code(), Code::InvalidAnswer, "{error}");
}

#[tokio::test]
async fn a_result_of_another_kind_is_reported_and_not_asked_again() {
    let node = Node::start(|_, body| Json(result(body, json!("no number")))).await;
    let error = unreachable(ask(&rpc(&[&node.url]), 1).await.unwrap_err());
    assert_eq!(error.code(), Code::InvalidAnswer);
    assert!(error.to_string().contains("test_echo"), "{error}");
    assert_eq!(node.asked(), 1);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let node = Node::start(|_, _| {
        Http("200 OK", "content-length: 99999999999\r\n".to_owned(), String::new())
    })
    .await;
    let spare = Node::echo().await;
    assert_eq!(ask(&rpc(&[&node.url, &spare.url]), 1).await.unwrap(), 1);

    // One that does not say how long it will be.
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    assert_eq!(ask(&rpc(&[&url, &spare.url]), 1).await.unwrap(), 1);
}

#[tokio::test]
async fn errors_never_show_more_of_a_url_than_its_host() {
    let node = Node::start(|_, _| Http("401 Unauthorized", String::new(), String::new())).await;
    let secret = |url: &str| {
        format!("{}/v3/SECRET-PATH?key=SECRET-QUERY", url.replace("//", "//SECRET-USER:SECRET-PW@"))
    };
    let silent = Node::start(|_, _| Silence).await;
    for url in [secret(&node.url), secret(&silent.url), secret(&nobody().await)] {
        let rpc = rpc_with(&[&url], A_MOMENT, Duration::from_millis(300));
        let error = unreachable(ask(&rpc, 1).await.unwrap_err());
        let shown = format!("{error} {error:#} {error:?} {rpc:?}");
        assert!(shown.contains("127.0.0.1:"), "{shown}");
        assert!(!shown.contains("SECRET"), "{shown}");
    }
    for url in ["htps://u:SECRET@host/SECRET", "//SECRET", "https://SECRET:@/SECRET:x"] {
        let settings = RpcSettings { urls: vec![url.to_owned()], ..RpcSettings::default() };
        let error = Rpc::new(settings).unwrap_err();
        let shown = format!("{error} {error:#} {error:?}");
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}

#[tokio::test]
async fn a_node_that_repeats_its_url_does_not_show_its_key() {
    let words = "no project SECRET-PATH, see http://u:SECRET-PW@x/v3/SECRET-PATH?key=SECRET QUERY";
    let refusing = Node::start(move |_, body| {
        let refused = |call: &Value| {
            let mut answer = error(call, -32_602, words);
            answer["error"]["data"] = json!(words);
            answer
        };
        Json(match body {
            Value::Array(calls) => calls.iter().map(refused).collect(),
            call => refused(call),
        })
    })
    .await;
    let echoing = Node::start(move |_, body| {
        Json(match body {
            Value::Array(calls) => calls.iter().map(|call| result(call, json!(words))).collect(),
            call => result(call, json!(words)),
        })
    })
    .await;
    for node in [&refusing, &echoing] {
        let url = node.url.replace("//", "//SECRET-USER:SECRET-PW@");
        let rpc = rpc(&[&format!("{url}/v3/SECRET-PATH?key=SECRET%20QUERY")]);
        let error = match ask(&rpc, 1).await.unwrap_err() {
            Failure::Refused(refused) => {
                let shown = format!("{refused:?}");
                assert!(shown.contains("no project") && !shown.contains("SECRET"), "{shown}");
                Failure::Refused(refused).into()
            }
            Failure::Unreachable(error) => error,
        };
        let shown = format!("{error} {error:#} {error:?}");
        assert!(!shown.contains("SECRET"), "{shown}");
        if let Err(refused) = &rpc.batch(&calls(2)).await.unwrap()[1] {
            assert!(!format!("{refused:?}").contains("SECRET"), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn as_many_hosts_as_must_agree_are_asked_each_by_itself() {
    let (one, two) = (Node::echo().await, Node::echo().await);
    let call = Call::new("test_echo", json!([7]));
    let both = rpc(&[&one.url, &nobody().await, &one.url, &two.url]);
    // The same host twice is one witness.
    assert_eq!(both.distinct_endpoints(), 3);
    let answers = both.ask_each(&call, 2).await.unwrap();
    let mut names: Vec<_> = answers.iter().map(|(name, _)| format!("http://{name}")).collect();
    names.sort();
    let mut urls = [one.url.clone(), two.url.clone()];
    urls.sort();
    assert_eq!(names, urls);
    assert!(answers.iter().all(|(_, answer)| answer.as_ref().unwrap().get() == "7"));
    assert_eq!((one.asked(), two.asked()), (1, 1));
    // One that answers for two is not taken for two.
    let error = rpc(&[&one.url, &nobody().await]).ask_each(&call, 2).await.unwrap_err();
    assert_eq!(error.code(), Code::EndpointUnreachable);
    assert!(error.to_string().contains("1 of 2"), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    for (urls, problem) in [
        (vec![], "names no URL"),
        (vec!["localhost:8545"], "scheme \"localhost\""),
        (vec!["sepolia.base.org"], "must be a URL"),
        (vec!["wss://sepolia.base.org"], "WebSocket URLs only"),
        (vec!["https://sepolia.base.org", "ipc:///tmp/node"], "scheme \"ipc\""),
    ] {
        let urls = urls.into_iter().map(str::to_owned).collect();
        let error = Rpc::new(RpcSettings { urls, ..RpcSettings::default() }).unwrap_err();
        assert_eq!(error.code(), Code::InvalidSettings);
        assert_eq!(error.facts().field, Some("rpc_url"));
        assert!(error.to_string().contains(problem), "{error}");
        assert!(error.hint().is_some());
    }
}

fn calls(count: u64) -> Vec<Call> {
    (0..count).map(|number| Call::new("test_echo", json!([number]))).collect()
}

/// The numbers that came back.
fn numbers(answers: Vec<Answered>) -> Vec<u64> {
    answers.into_iter().map(|answer| parse("test_echo", &answer.unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn a_batch_is_one_round_trip_in_the_order_of_its_calls() {
    let node = Node::echo().await;
    let rpc = rpc(&[&node.url]);
    assert_eq!(numbers(rpc.batch(&calls(100)).await.unwrap()), Vec::from_iter(0..100));
    assert_eq!(rpc.round_trips(), 1);
    assert_eq!(numbers(rpc.batch(&calls(250)).await.unwrap()), Vec::from_iter(0..250));
    assert_eq!(rpc.round_trips(), 4);
    assert!(rpc.batch(&[]).await.unwrap().is_empty());
    assert_eq!(numbers(rpc.batch(&calls(1)).await.unwrap()), [0]);
    assert_eq!(rpc.round_trips(), 5);
}

#[tokio::test]
async fn a_call_refused_in_a_batch_is_refused_alone() {
    let node = Node::start(|_, body| {
        let calls = body.as_array().unwrap();
        Json(json!([echoed(&calls[0]), error(&calls[1], -32_000, "header not found")]))
    })
    .await;
    let answers = rpc(&[&node.url]).batch(&calls(2)).await.unwrap();
    assert!(answers[0].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().message, "header not found");
}

#[tokio::test]
async fn an_incomplete_batch_is_asked_elsewhere() {
    let cases: [fn(&Value) -> Value; 4] = [
        // One left out.
        |body| body.as_array().unwrap().iter().skip(1).map(echoed).collect(),
        // One twice.
        |body| json!([echoed(&body[0]), echoed(&body[0]), echoed(&body[2])]),
        // A stranger's.
        |body| json!([echoed(&body[0]), echoed(&body[1]), { "id": 999_999, "result": 1 }]),
        // One not now.
        |body| json!([echoed(&body[0]), echoed(&body[1]), error(&body[2], 429, "slow down")]),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let bad = Node::start(move |_, body| Json(case(body))).await;
        let good = Node::echo().await;
        let rpc = rpc(&[&bad.url, &good.url]);
        assert_eq!(numbers(rpc.batch(&calls(3)).await.unwrap()), [0, 1, 2], "case {number}");
        assert_eq!((bad.asked(), good.asked()), (1, 1), "case {number}");
    }
}

/// Answers batches up to this size.
async fn node_with_limit(limit: usize, refusal: fn(&Value) -> Reaction) -> Node {
    Node::start(move |_, body| match body {
        Value::Array(calls) if calls.len() > limit => refusal(body),
        _ => Json(echoed(body)),
    })
    .await
}

#[tokio::test]
async fn what_batches_an_endpoint_takes_is_learnt_once() {
    let refusals: [fn(&Value) -> Reaction; 3] = [
        |_| Json(error(&Value::Null, -32_014, "maximum 10 calls in 1 batch")),
        |_| Http("413 Payload Too Large", String::new(), "<html>".to_owned()),
        |body| Json(json!([error(&body[0], -32_600, "batch too large")])),
    ];
    for refusal in refusals {
        let node = node_with_limit(10, refusal).await;
        let rpc = rpc(&[&node.url]);
        assert_eq!(numbers(rpc.batch(&calls(40)).await.unwrap()), Vec::from_iter(0..40));
        assert_eq!(rpc.round_trips(), 1 + 4);
        assert_eq!(numbers(rpc.batch(&calls(40)).await.unwrap()), Vec::from_iter(0..40));
        assert_eq!(rpc.round_trips(), 1 + 4 + 4);

        let node = node_with_limit(0, refusal).await;
        let rpc = rpc_with(&[&node.url], Duration::from_secs(5), Duration::from_secs(5));
        assert_eq!(numbers(rpc.batch(&calls(5)).await.unwrap()), Vec::from_iter(0..5));
        assert_eq!(rpc.round_trips(), 1 + 5);
        assert_eq!(numbers(rpc.batch(&calls(5)).await.unwrap()), Vec::from_iter(0..5));
        assert_eq!(rpc.round_trips(), 1 + 5 + 5);
    }
}

/// A node that takes its time, so that requests meet.
async fn slow_node() -> Node {
    Node::start(|_, body| Reaction::After(A_MOMENT, Box::new(Json(echoed(body))))).await
}

#[tokio::test]
async fn many_requests_share_round_trips() {
    let node = slow_node().await;
    let rpc = rpc(&[&node.url]);
    let answers = join_all((0..200).map(|number| ask(&rpc, number))).await;
    let answers: Vec<u64> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, Vec::from_iter(0..200));
    // Eight go out at once, and the rest as the first two of them return.
    assert_eq!(rpc.round_trips(), 10);
    // Nothing is left counted: again eight go out at once.
    join_all((0..8).map(|number| ask(&rpc, number))).await;
    assert_eq!(rpc.round_trips(), 18);
}

#[tokio::test]
async fn many_requests_go_out_singly_where_batches_are_unknown() {
    let node = node_with_limit(0, |_| Json(error(&Value::Null, -32_600, "invalid"))).await;
    let rpc = rpc(&[&node.url]);
    let answers = join_all((0..50).map(|number| ask(&rpc, number))).await;
    let answers: Vec<u64> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, Vec::from_iter(0..50));
}

#[tokio::test]
async fn requests_that_share_a_round_trip_are_refused_and_put_off_by_themselves() {
    let limited = Arc::new(AtomicUsize::new(0));
    let once = limited.clone();
    let node = Node::start(move |_, body| {
        let one = |call: &Value| match call["params"][0].as_u64() {
            Some(20) => error(call, -32_000, "no"),
            Some(21) if once.fetch_add(1, Ordering::SeqCst) == 0 => error(call, 429, "slow down"),
            _ => echoed(call),
        };
        let answer = match body {
            Value::Array(calls) => calls.iter().map(one).collect(),
            call => one(call),
        };
        Reaction::After(A_MOMENT, Box::new(Json(answer)))
    })
    .await;
    let rpc = rpc(&[&node.url]);
    let answers = join_all((0..30).map(|number| ask(&rpc, number))).await;
    for (number, answer) in (0..).zip(answers) {
        match number {
            20 => assert!(matches!(answer, Err(Failure::Refused(_)))),
            _ => assert_eq!(answer.unwrap(), number),
        }
    }
    // Only the one that was put off went out again.
    assert_eq!(rpc.round_trips(), 8 + 1 + 1);
}

#[tokio::test]
async fn a_caller_that_leaves_takes_nobody_along() {
    let node = slow_node().await;
    let rpc = rpc(&[&node.url]);
    let ask = |number| {
        let rpc = rpc.clone();
        tokio::spawn(async move { ask(&rpc, number).await.unwrap() })
    };
    let mut asking: Vec<_> = (0..30).map(ask).collect();
    sleep(A_MOMENT / 4).await;
    // All that are under way leave, and some of those who wait.
    let (leaving, staying): (Vec<_>, Vec<_>) =
        asking.drain(..).enumerate().partition(|(number, _)| *number < 8 || number % 3 == 0);
    for (_, leaving) in leaving {
        leaving.abort();
    }
    for (number, staying) in staying {
        assert_eq!(staying.await.unwrap(), number as u64);
    }
    // Nothing is left counted, even where a shared round trip lost all its callers.
    let asking: Vec<_> = (0..30).map(ask).collect();
    sleep(A_MOMENT + A_MOMENT / 4).await;
    asking.iter().for_each(JoinHandle::abort);
    sleep(A_MOMENT * 2).await;
    let before = rpc.round_trips();
    for answer in (0..8).map(ask) {
        answer.await.unwrap();
    }
    assert_eq!(rpc.round_trips(), before + 8);
    assert_eq!(rpc.0.get().batcher_size(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_comes_and_goes_leaves_nothing_behind() {
    let node = Node::start(|number, body| match number % 7 {
        3 => Cut,
        _ => Reaction::After(Duration::from_millis(number % 5), Box::new(Json(echoed(body)))),
    })
    .await;
    let rpc = rpc(&[&node.url]);
    let asking = (0..1_000).map(|number| {
        let rpc = rpc.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(number % 40)).await;
            let patience = Duration::from_millis(match number % 3 {
                0 => number % 20,
                _ => 20_000,
            });
            if let Ok(answer) = tokio::time::timeout(patience, ask(&rpc, number)).await {
                assert_eq!(answer.unwrap(), number);
            }
        })
    });
    for asked in join_all(asking).await {
        asked.unwrap();
    }
    let started = Instant::now();
    while rpc.0.get().batcher_size() != (0, 0) {
        assert!(started.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn requests_outlive_the_runtime_that_carries_them() {
    let server = tokio::runtime::Runtime::new().unwrap();
    let node = server.block_on(slow_node());
    let rpc = rpc(&[&node.url]);
    let first = tokio::runtime::Runtime::new().unwrap();
    for number in 0..20 {
        let rpc = rpc.clone();
        first.spawn(async move { ask(&rpc, number).await });
    }
    std::thread::sleep(A_MOMENT / 4);
    let second = tokio::runtime::Runtime::new().unwrap();
    let waiting = second.spawn({
        let rpc = rpc.clone();
        async move { ask(&rpc, 77).await.unwrap() }
    });
    std::thread::sleep(A_MOMENT / 4);
    first.shutdown_background();
    assert_eq!(second.block_on(waiting).unwrap(), 77);
}

#[cfg(unix)]
#[test]
fn a_forked_child_makes_connections_of_its_own() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = runtime.block_on(Node::echo());
    let rpc = rpc(&[&node.url]);
    assert_eq!(runtime.block_on(ask(&rpc, 1)).unwrap(), 1);
    // SAFETY: the child touches nothing of the parent's threads and leaves without returning.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: plain calls; whatever hangs is ended.
            unsafe { libc::alarm(20) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let answer = runtime.unwrap().block_on(ask(&rpc, 2));
            let fine = matches!(answer, Ok(2)) && rpc.round_trips() == 1;
            // SAFETY: as above.
            unsafe { libc::_exit(if fine { 0 } else { 1 }) }
        }
        child => {
            let mut status = -1;
            // SAFETY: `status` outlives the call.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0);
        }
    }
    assert_eq!(runtime.block_on(ask(&rpc, 3)).unwrap(), 3);
    assert_eq!(node.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn without_a_socket_news_come_with_time() {
    let node = Node::echo().await;
    let started = Instant::now();
    rpc(&[&node.url]).heads().changed(A_MOMENT).await;
    assert!(started.elapsed() >= A_MOMENT);
}

#[tokio::test]
async fn a_socket_brings_news_of_blocks_and_is_opened_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = format!("ws://{}", listener.local_addr().unwrap());
    let (block, mut blocks) = tokio::sync::mpsc::unbounded_channel::<bool>();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_tungstenite::accept_async(stream).await.unwrap();
            let asked = stream.next().await.unwrap().unwrap();
            let asked: Value = serde_json::from_str(asked.to_text().unwrap()).unwrap();
            assert_eq!(asked["params"], json!(["newHeads"]));
            let answer = result(&asked, json!("0x1")).to_string();
            stream.send(Message::text(answer)).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            while let Some(true) = blocks.recv().await {
                let head = json!({ "jsonrpc": "2.0", "method": "eth_subscription",
                    "params": { "subscription": "0x1", "result": { "number": "0x5" } } });
                stream.send(Message::text(head.to_string())).await.unwrap();
            }
        }
    });
    let node = Node::echo().await;
    let rpc = rpc(&[&node.url, &socket]);
    let mut heads = rpc.heads();
    let long = Duration::from_secs(20);
    // The subscription itself is the first news.
    heads.changed(long).await;
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let mut second = rpc.heads();
    for _ in 0..3 {
        let started = Instant::now();
        block.send(true).unwrap();
        heads.changed(long).await;
        second.changed(long).await;
        assert!(started.elapsed() < Duration::from_secs(5));
        // Old news are no news.
        let started = Instant::now();
        heads.changed(A_MOMENT).await;
        second.changed(A_MOMENT).await;
        assert!(started.elapsed() >= A_MOMENT * 2);
    }
    // The line is cut, and taken up again.
    block.send(false).unwrap();
    let started = Instant::now();
    while connections.load(Ordering::SeqCst) < 2 {
        heads.changed(A_MOMENT).await;
        assert!(started.elapsed() < long);
    }
    heads.changed(A_MOMENT).await;
    block.send(true).unwrap();
    let started = Instant::now();
    heads.changed(long).await;
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn sockets_can_be_secure() {
    rpc(&[&nobody().await]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = format!("wss://{}", listener.local_addr().unwrap());
    // Nobody speaks TLS there; what matters is that we would.
    tokio::spawn(async move { drop(listener.accept().await) });
    let opened = tokio_tungstenite::connect_async(socket).await;
    let problem = opened.err().map(|problem| problem.to_string()).unwrap_or_default();
    assert!(!problem.contains("not compiled in"), "{problem}");
}

#[tokio::test]
async fn a_dead_socket_is_no_error() {
    let node = Node::echo().await;
    let socket = nobody().await.replace("http", "ws");
    let mut heads = rpc(&[&node.url, &socket]).heads();
    for _ in 0..3 {
        let started = Instant::now();
        heads.changed(A_MOMENT).await;
        assert!(started.elapsed() >= A_MOMENT);
    }
}
