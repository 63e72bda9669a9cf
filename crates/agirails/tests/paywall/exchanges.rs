//! The table of exchanges (tests/vectors/exchanges.json), on the machine alone and on tower over HTTP.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use agirails::{
    TransactionId, Usdc,
    paywall::{
        Action, Answer, Charge, Chunk, End, Event, Exchange, Headers, Incoming, Level, Paywall,
        PaywallLayer, Reason, RequestHead, Settings,
    },
    protocol::paid_request::PaidRequest,
};
use axum::{
    Router, body::Body, extract::RawQuery, http::HeaderName, response::Response, routing::any,
};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::fixture::{CENTS_10, Stage, json, key};

const TABLE: &str = include_str!("../../../../tests/vectors/exchanges.json");
/// How long a background outcome is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

type Runs = Arc<Mutex<HashMap<String, u64>>>;

/// What a caller got.
#[derive(Debug, Default)]
struct Got {
    status: Option<u64>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    is_whole: bool,
}

impl Got {
    fn of(answer: &Answer) -> Self {
        Self { body: answer.body.clone(), ..Self::head(answer.status, &answer.headers) }
    }

    fn head(status: u16, headers: &Headers) -> Self {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = headers.iter().map(|(name, value)| (name.to_lowercase(), text(value)));
        let headers = headers.collect();
        Self { status: Some(status.into()), headers, body: vec![], is_whole: true }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// One request of the table, ready to be sent.
struct Asked<'a> {
    spec: &'a Value,
    method: &'a str,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

struct Bench {
    stage: Stage,
    paywall: Paywall,
    charges: HashMap<&'static str, Arc<Charge>>,
    table: Value,
    runs: Runs,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    async fn new() -> Self {
        let (stage, table) = (Stage::new().await, serde_json::from_str::<Value>(TABLE).unwrap());
        let given = &table["settings"];
        let number = |name: &str| given[name].as_u64().unwrap() as usize;
        let settings = Settings {
            max_body_bytes: number("max_body_bytes"),
            max_kept_stream_bytes: number("max_kept_stream_bytes"),
            body_time: Duration::from_secs(number("body_seconds") as u64),
            ..Settings::default()
        };
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let told = events.clone();
        let builder = stage.builder().settings(settings);
        let builder = builder.on_event(move |event| told.lock().unwrap().push(event.clone()));
        let paywall = builder.open().await.unwrap();
        let charge = |charge| paywall.charge(charge).unwrap();
        let charges = HashMap::from([
            ("paid", charge(Charge::new("POST /paid", CENTS_10))),
            ("priced_raises", charge(Charge::per_request("POST /priced_raises"))),
            ("priced_free", charge(Charge::per_request("POST /priced_free"))),
        ]);
        Self { stage, paywall, charges, table, runs: Runs::default(), events }
    }

    /// A request, with the payment that it names.
    async fn ask<'a>(
        &self,
        name: &str,
        spec: &'a Value,
        last: &mut Option<TransactionId>,
    ) -> Asked<'a> {
        let (method, route) = (spec["method"].as_str().unwrap(), route(spec));
        let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        let target = format!("/{route}?script={name}");
        let body = match spec["size"].as_u64() {
            Some(size) => vec![b'x'; size as usize],
            None => spec["body"].as_str().unwrap().as_bytes().to_vec(),
        };
        let mut headers: Vec<(String, String)> = vec![];
        for pair in spec["headers"].as_array().into_iter().flatten() {
            let text = |at: usize| pair[at].as_str().unwrap().to_owned();
            headers.push((text(0), text(1)));
        }
        let payment = spec["payment"].as_str().unwrap();
        if payment == "none" {
            return Asked { spec, method, target, headers, body };
        }
        if payment == "malformed" {
            headers.push(("X-AGIRAILS-TX-ID".to_owned(), "nonsense".to_owned()));
            return Asked { spec, method, target, headers, body };
        }
        let id = match payment {
            "same" => last.unwrap(),
            "unknown" => TransactionId::repeat_byte(0x77),
            _ => self.stage.funded(CENTS_10).await,
        };
        *last = Some(id);
        let mut now = self.stage.requester.now().await.unwrap();
        if payment == "stale" {
            now -= 301;
        }
        let signer = key(if payment == "stranger" { 3 } else { 2 });
        let request = PaidRequest::new(id, method, &target, &body, now);
        let network = self.stage.requester.network();
        let signature = signer.sign_request(&request, network.chain_id, network.kernel).unwrap();
        headers.push(("X-AGIRAILS-TX-ID".to_owned(), id.to_string()));
        headers.push(("X-AGIRAILS-SIGNATURE".to_owned(), signature));
        Asked { spec, method, target, headers, body }
    }

    /// Waits for the one event of a request, where there has to be one.
    async fn event(&self, is_wanted: bool) -> Option<Event> {
        let begun = Instant::now();
        loop {
            let mut events = std::mem::take(&mut *self.events.lock().unwrap());
            // What no call caused, and what became of payments on chain, has lines of its own.
            let others = ["background", "delivered", "refunded"];
            events.retain(|event| !others.contains(&event.name));
            assert!(events.len() <= 1, "more than one line: {events:#?}");
            if !events.is_empty() || !is_wanted || begun.elapsed() > PATIENCE {
                return events.pop();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn calls(&self, id: Option<TransactionId>) -> Option<u64> {
        let page = Incoming::new("GET", &format!("/api/payments/{}", id?), b"");
        let calls = json(&self.paywall.page(&page).await.unwrap())["calls"].as_u64();
        self.events.lock().unwrap().clear();
        calls
    }

    /// The whole table on one adapter.
    async fn play(&self, adapter: &str, send: impl AsyncFn(&Asked<'_>) -> Got) {
        for exchange in self.table["exchanges"].as_array().unwrap() {
            let name = exchange["name"].as_str().unwrap();
            let except = &exchange["except"][adapter];
            if except.get("skip").is_some() {
                continue;
            }
            let mut last = None;
            for (number, spec) in exchange["requests"].as_array().unwrap().iter().enumerate() {
                let what = format!("{adapter}: {name}, request {number}");
                let asked = self.ask(name, spec, &mut last).await;
                let got = send(&asked).await;
                let mut expect = spec["expect"].clone();
                for (key, value) in except["expect"].as_object().into_iter().flatten() {
                    expect[key] = value.clone();
                }
                let event = self.event(!expect["log"].is_null()).await;
                check_response(&what, &expect, &got);
                check_log(&what, &expect["log"], event.as_ref());
                let runs = self.runs.lock().unwrap().get(name).copied().unwrap_or(0);
                assert_eq!(Some(runs), expect["runs"].as_u64(), "{what}: runs");
                let paid = spec["payment"] != "none" && spec["payment"] != "malformed";
                let calls = self.calls(last.filter(|_| paid)).await;
                assert_eq!(calls, expect["calls"].as_u64(), "{what}: stored calls");
            }
        }
    }
}

fn route(spec: &Value) -> &str {
    match spec["route"].as_str() {
        None | Some("nested") => "paid",
        Some(route) => route,
    }
}

fn check_response(what: &str, expect: &Value, got: &Got) {
    assert_eq!(got.status, expect["status"].as_u64(), "{what}: status of {got:?}");
    let body = String::from_utf8_lossy(&got.body);
    if let Some(wanted) = expect["body"].as_str() {
        assert_eq!(body, wanted, "{what}: body");
    }
    if let Some(problem) = expect["problem"].as_str() {
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(told["type"], format!("urn:agirails:problem:{problem}"), "{what}");
    }
    if let Some(is_whole) = expect["whole"].as_bool() {
        assert_eq!(got.is_whole, is_whole, "{what}: whole");
    }
    for (name, value) in expect["headers"].as_object().into_iter().flatten() {
        let given = got.header(name);
        assert!(given.is_some(), "{what}: no {name} in {got:?}");
        if value != "*" {
            assert_eq!(given, value.as_str(), "{what}: {name}");
        }
    }
    for name in expect["absent"].as_array().into_iter().flatten() {
        assert_eq!(got.header(name.as_str().unwrap()), None, "{what}: {name}");
    }
}

fn check_log(what: &str, expect: &Value, event: Option<&Event>) {
    let Some(event) = event else {
        assert!(expect.is_null(), "{what}: no line, expected {expect}");
        return;
    };
    assert!(!expect.is_null(), "{what}: {event:?}");
    let level = match event.level {
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    assert_eq!(
        (level, event.name),
        (expect["level"].as_str().unwrap(), expect["event"].as_str().unwrap()),
        "{what}: {event:?}"
    );
    for (name, given) in [("reason", event.reason), ("outcome", event.outcome)] {
        if let Some(wanted) = expect[name].as_str() {
            assert_eq!(given, Some(wanted), "{what}: {event:?}");
        }
    }
    if let Some(status) = expect["status"].as_u64() {
        assert_eq!(event.status.map(u64::from), Some(status), "{what}: {event:?}");
    }
    if event.name == "served" || event.name == "run_failed" {
        let is_full = event.route.is_some()
            && event.transaction.is_some()
            && event.requester.is_some()
            && event.price == Some(CENTS_10)
            && event.attempt.is_some()
            && event.took.is_some();
        assert!(is_full, "{what}: {event:?}");
    }
}

/// What a handler does, as the table says.
#[derive(Clone)]
struct Script {
    sends: String,
    status: u16,
    headers: Vec<(String, String)>,
    pieces: Vec<String>,
    breaks: bool,
}

impl Script {
    fn of(table: &Value, name: &str) -> Self {
        let exchanges = table["exchanges"].as_array().unwrap();
        let handler = &exchanges.iter().find(|known| known["name"] == name).unwrap()["handler"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let pairs = handler["headers"].as_array().into_iter().flatten();
        let mut headers: Vec<_> = pairs.map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
        if let Some(length) = handler["length"].as_u64() {
            headers.push(("Content-Length".to_owned(), length.to_string()));
        }
        let pieces: Vec<String> =
            handler["body"].as_array().into_iter().flatten().map(text).collect();
        let times = handler["repeat"].as_u64().unwrap_or(1) as usize;
        Self {
            sends: text(&handler["sends"]),
            status: handler["status"].as_u64().unwrap_or(200) as u16,
            headers,
            pieces: std::iter::repeat_n(pieces, times).flatten().collect(),
            breaks: handler["then"] == "raise",
        }
    }

    fn is_stream(&self) -> bool {
        self.sends.ends_with("stream")
    }
}

fn script_of(target: &str) -> String {
    let name = target.split_once("script=").unwrap().1;
    percent_encoding::percent_decode_str(name).decode_utf8().unwrap().into_owned()
}

#[tokio::test]
async fn every_exchange_of_the_table_on_the_machine_alone() {
    let bench = Bench::new().await;
    let send = async |asked: &Asked<'_>| on_the_machine(&bench, asked).await;
    bench.play("machine", send).await;
}

async fn on_the_machine(bench: &Bench, asked: &Asked<'_>) -> Got {
    let route = route(asked.spec);
    let framing = asked.spec["framing"].as_str().unwrap_or("length");
    let mut headers = asked.headers.clone();
    match framing {
        "chunked" => headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned())),
        "length" => headers.push(("Content-Length".to_owned(), asked.body.len().to_string())),
        _ => headers.push(("Content-Length".to_owned(), (asked.body.len() + 9).to_string())),
    }
    let head = RequestHead {
        method: asked.method,
        target: &asked.target,
        mount: "",
        scheme: "http",
        headers: headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    };
    let mut exchange = bench.paywall.exchange(Some(&bench.charges[route]), head);
    if let Some(answer) = exchange.admit_head().await {
        return Got::of(&answer);
    }
    for piece in asked.body.chunks(1 << 14) {
        if let Some(answer) = exchange.body(piece) {
            return Got::of(&answer);
        }
    }
    match framing {
        "short" => return Got::of(&exchange.unreadable()),
        "slow" => {
            tokio::time::sleep(exchange.body_time_left()).await;
            return Got::of(&exchange.body(b"").unwrap());
        }
        _ if asked.spec["gone"] == "before the body's end" => {
            // Nobody is there to be told.
            let _ = exchange.unreadable();
            return Got::default();
        }
        _ => {}
    }
    let price = (route == "priced_free").then_some(Usdc::ZERO);
    if let Some(answer) = exchange.admit(price).await {
        return Got::of(&answer);
    }
    let name = script_of(&asked.target);
    *bench.runs.lock().unwrap().entry(name.clone()).or_default() += 1;
    let got = respond(&mut exchange, &Script::of(&bench.table, &name)).await;
    if asked.spec["gone"].is_string() { Got::default() } else { got }
}

/// The handler's response, as an adapter gives it to the machine.
async fn respond(exchange: &mut Exchange, script: &Script) -> Got {
    if script.sends == "raise" {
        exchange.abort(Reason::Raised, "ValueError").await;
        return Got::default();
    }
    let length: usize = script.pieces.iter().map(String::len).sum();
    let pairs = script.headers.iter();
    let headers = pairs.map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect();
    let length = (!script.is_stream()).then_some(length);
    let head = exchange.head(script.status, headers, length);
    let mut got = Got::head(head.status, &head.headers);
    for piece in &script.pieces {
        match exchange.chunk(piece.as_bytes()) {
            Chunk::Send => got.body.extend(piece.as_bytes()),
            Chunk::Hold => {}
            Chunk::Break => {
                exchange.abort(Reason::BrokeOff, "").await;
                return Got { is_whole: false, ..got };
            }
        }
    }
    if script.breaks {
        exchange.abort(Reason::BrokeOff, "ValueError").await;
        return Got { is_whole: false, ..got };
    }
    match exchange.end().await {
        End::Answer { answer, .. } => Got::of(&answer),
        End::Kept(rest) => {
            assert_eq!(head.action, Action::Stream);
            got.body.extend(rest);
            got
        }
        End::Broken => Got { is_whole: false, ..got },
        End::Passed => got,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exchange_of_the_table_on_tower_over_http() {
    let bench = Bench::new().await;
    let layer = |route: &str| PaywallLayer::new(&bench.paywall, &bench.charges[route]);
    let handler = |runs: Runs, table: Value| {
        any(async move |RawQuery(query): RawQuery| {
            let name = script_of(&query.unwrap());
            *runs.lock().unwrap().entry(name.clone()).or_default() += 1;
            tower_response(Script::of(&table, &name)).await
        })
    };
    let handler = || handler(bench.runs.clone(), bench.table.clone());
    let app = Router::new()
        .route("/paid", handler().layer(layer("paid")))
        .route("/priced_raises", handler().layer(layer("priced_raises").priced(|_, _| None)))
        .route(
            "/priced_free",
            handler().layer(layer("priced_free").priced(|_, _| Some(Usdc::ZERO))),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    bench.play("tower", async |asked: &Asked<'_>| over_http(address, asked).await).await;
}

async fn tower_response(script: Script) -> Response {
    if script.sends == "raise" {
        panic!("as the table says");
    }
    if script.sends == "slow" {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let body = match script.is_stream() {
        false => Body::from(script.pieces.concat()),
        true => {
            let pause = match script.sends.as_str() {
                "slow stream" => Duration::from_millis(100),
                _ => Duration::ZERO,
            };
            let mut pieces: Vec<_> =
                script.pieces.iter().map(|piece| Ok(Bytes::from(piece.clone()))).collect();
            if script.breaks {
                pieces.push(Err(std::io::Error::other("as the table says")));
            }
            let pieces = futures_util::stream::unfold(
                (pieces.into_iter(), pause),
                async |(mut rest, pause)| {
                    tokio::time::sleep(pause).await;
                    rest.next().map(|piece| (piece, (rest, pause)))
                },
            );
            Body::from_stream(pieces)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = script.status.try_into().unwrap();
    for (name, value) in &script.headers {
        let name: HeaderName = name.parse().unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

/// One request over a connection of its own, byte by byte as the table says.
async fn over_http(address: SocketAddr, asked: &Asked<'_>) -> Got {
    let mut wire = TcpStream::connect(address).await.unwrap();
    let framing = asked.spec["framing"].as_str().unwrap_or("length");
    let gone = asked.spec["gone"].as_str();
    let is_cut = matches!(framing, "short" | "slow") || gone == Some("before the body's end");
    let length = asked.body.len() + if is_cut { 9 } else { 0 };
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n",
        asked.method, asked.target
    );
    for (name, value) in &asked.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = match framing {
        "chunked" => {
            head += "Transfer-Encoding: chunked\r\n";
            let chunk = |piece: &[u8]| {
                [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
            };
            let mut body: Vec<u8> = asked.body.chunks(1 << 14).flat_map(chunk).collect();
            body.extend(b"0\r\n\r\n");
            body
        }
        _ => {
            head += &format!("Content-Length: {length}\r\n");
            asked.body.clone()
        }
    };
    wire.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    wire.write_all(&body).await.unwrap();
    match (framing, gone) {
        ("short", _) => wire.shutdown().await.unwrap(),
        (_, None) => {}
        (_, Some("before the body's end" | "before the stream's first piece")) => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Got::default();
        }
        (_, Some("while the handler runs")) => {
            tokio::time::sleep(Duration::from_millis(250)).await;
            return Got::default();
        }
        (_, Some(when)) => {
            let last = if when == "before the stream's last piece" { "two " } else { "one " };
            let mut read = vec![];
            while !String::from_utf8_lossy(&read).contains(last) {
                assert_ne!(wire.read_buf(&mut read).await.unwrap(), 0);
            }
            return Got::default();
        }
    }
    let mut read = vec![];
    // Whoever is cut off has what came before.
    let _ = tokio::time::timeout(PATIENCE, wire.read_to_end(&mut read)).await.unwrap();
    parse(&read)
}

fn parse(read: &[u8]) -> Got {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Got::default();
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().ok();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let mut got = Got { status, headers, body: read[end + 4..].to_vec(), is_whole: true };
    if got.header("transfer-encoding") == Some("chunked") {
        (got.body, got.is_whole) = dechunk(&got.body);
    }
    got
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = vec![];
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return (body, false);
        };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        let Some(piece) = rest.get(end + 2..end + 2 + size) else { return (body, false) };
        if size == 0 {
            return (body, true);
        }
        body.extend(piece);
        rest = &rest[end + 4 + size..];
    }
}
