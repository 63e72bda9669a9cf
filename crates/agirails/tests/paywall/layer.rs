//! The tower layer in front of axum, over HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use agirails::{
    State, TransactionId, Usdc,
    paywall::{CallPayment, Charge, Paywall, PaywallLayer, Settings},
};
use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    response::IntoResponse,
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};

use crate::fixture::{CENTS_10, Stage, charge};

#[path = "../../../../examples/axum_provider.rs"]
#[expect(dead_code, reason = "its main: the test has a server of its own")]
mod axum_provider;

struct Server {
    stage: Stage,
    paywall: Paywall,
    http: Client,
    address: SocketAddr,
}

impl Server {
    async fn of(app: impl FnOnce(&Paywall) -> Router) -> Self {
        Self::with(Settings { max_kept_stream_bytes: 100, ..Settings::default() }, app).await
    }

    async fn with(settings: Settings, app: impl FnOnce(&Paywall) -> Router) -> Self {
        let stage = Stage::new().await;
        let paywall = stage.builder().settings(settings).open().await.unwrap();
        let app = app(&paywall).fallback_service(paywall.pages());
        Self::serving(stage, paywall, app).await
    }

    async fn serving(stage: Stage, paywall: Paywall, app: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        // Its default client asks for a TLS provider, also over plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { stage, paywall, http: Client::new(), address }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    async fn call(&self, id: TransactionId, target: &str, body: &str) -> Response {
        self.signed(id, target, body).await.send().await.unwrap()
    }

    async fn signed(&self, id: TransactionId, target: &str, body: &str) -> RequestBuilder {
        let signed = self.stage.signed_by(2, id, None, target, body.as_bytes()).await;
        self.http
            .post(self.url(target))
            .header("X-AGIRAILS-TX-ID", id.to_string())
            .header("X-AGIRAILS-SIGNATURE", signed.signature.unwrap())
            .body(body.to_owned())
    }
}

#[tokio::test]
async fn a_route_is_paid_and_its_answer_repeated() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let server = Server::of(|paywall| {
        let handler = async move |Extension(payment): Extension<CallPayment>, body: String| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            format!("{body} {run} {}", payment.price)
        };
        let charge = charge(paywall, CENTS_10);
        let layer = PaywallLayer::new(paywall, &charge);
        Router::new().route("/api/generate", post(handler).route_layer(layer))
    })
    .await;
    let refused = server.http.post(server.url("/api/generate?q=1")).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYMENT_REQUIRED);
    let challenge = BASE64.decode(&refused.headers()["PAYMENT-REQUIRED"]).unwrap();
    let body: Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    let challenge: Value = serde_json::from_slice(&challenge).unwrap();
    for object in [&body, &challenge] {
        assert_eq!(object["x402Version"], 2);
        assert_eq!(object["resource"]["url"], server.url("/api/generate?q=1"));
        assert_eq!(object["accepts"][0]["amount"], "100000");
    }
    let id = server.stage.funded(CENTS_10).await;
    for _ in 0..3 {
        let answer = server.call(id, "/api/generate", "hello").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().await.unwrap(), "hello 0 0.10");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    server.stage.becomes(id, State::Delivered).await;

    let page = async |path: &str| {
        server.http.get(server.url(path)).send().await.unwrap().text().await.unwrap()
    };
    assert!(page("/api/pricing").await.contains("\"perCall\":\"0.10 USDC\""));
    assert!(page("/health").await.contains("\"status\":\"ok\""));
    let metrics = page("/metrics").await;
    let calls = "agirails_paywall_calls_total{route=\"POST /api/generate\"} 1\n";
    assert!(metrics.contains(calls), "{metrics}");
    assert!(page(&format!("/api/payments/{id}")).await.contains("\"stage\":\"delivered\""));
    let missing = server.http.get(server.url("/nothing")).send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_no_call_costs_nothing() {
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        let inside = || PaywallLayer::new(paywall, &charge);
        let any = axum::routing::any(async || "ran");
        Router::new()
            .route("/api/generate", post(async || "ran").route_layer(inside()))
            .route("/any", any.layer(inside()))
    })
    .await;
    let ask = async |method: Method, path: &str| {
        server.http.request(method, server.url(path)).send().await.unwrap().status()
    };
    assert_eq!(ask(Method::POST, "/api/generate").await, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(ask(Method::GET, "/api/generate").await, StatusCode::METHOD_NOT_ALLOWED);
    let options = server.http.request(Method::OPTIONS, server.url("/any")).send().await.unwrap();
    assert_eq!(options.status(), StatusCode::NO_CONTENT);
    assert_eq!(options.headers()["Allow"], "POST, OPTIONS");
    assert_eq!(ask(Method::HEAD, "/any").await, StatusCode::PAYMENT_REQUIRED);
    // Methods are compared without their case, so that no spelling of one runs the handler.
    let spelled = Method::from_bytes(b"options").unwrap();
    assert_eq!(ask(spelled, "/any").await, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_pages_of_a_nested_router_are_signed_by_their_whole_path() {
    let server = Server::of(|paywall| {
        let pages = paywall.pages().nested_under("/v1");
        Router::new().nest("/v1", Router::new().fallback_service(pages))
    })
    .await;
    let health = server.http.get(server.url("/v1/health")).send().await.unwrap();
    assert_eq!(health.status(), StatusCode::OK);
    let id = server.stage.funded(CENTS_10).await;
    let target = format!("/v1/api/payments/{id}/close");
    assert_eq!(server.call(id, &target, "").await.status(), StatusCode::ACCEPTED);
    server.stage.becomes(id, State::Cancelled).await;
}

#[tokio::test]
async fn the_example_is_paid_and_serves() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let app = axum_provider::app(&paywall).unwrap();
    let server = Server::serving(stage, paywall, app).await;
    let page = server.http.get(server.url("/api/pricing")).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("POST /api/generate"));
    let id = server.stage.funded(CENTS_10).await;
    let body = r#"{"prompt":"a haiku"}"#;
    let request = server.signed(id, "/api/generate", body).await;
    let answer = request.header("Content-Type", "application/json").send().await.unwrap();
    let answer = answer.text().await.unwrap();
    assert!(answer.contains("Generated response for: a haiku"), "{answer}");
    server.stage.becomes(id, State::Delivered).await;
}

#[tokio::test]
async fn what_a_request_allows_is_read_from_its_header() {
    let server = Server::of(|paywall| {
        let layer = PaywallLayer::new(paywall, &charge(paywall, CENTS_10));
        Router::new().route("/api/generate", post(async || "served").layer(layer))
    })
    .await;
    let id = server.stage.funded(CENTS_10).await;
    let allow = async |most: &[&str]| {
        let mut request = server.signed(id, "/api/generate", "").await;
        for most in most {
            request = request.header("X-AGIRAILS-MAX-PRICE", *most);
        }
        request.send().await.unwrap().status()
    };
    assert_eq!(allow(&["99999"]).await, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(allow(&["100000", "100000"]).await, StatusCode::BAD_REQUEST);
    assert_eq!(allow(&["100000"]).await, StatusCode::OK);
}

#[tokio::test]
async fn a_stream_is_delivered_at_its_end_and_kept_up_to_the_limit() {
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        let handler = async |body: String| {
            let pieces: usize = body.parse().unwrap();
            let (send, receive) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
            tokio::spawn(async move {
                for _ in 0..pieces {
                    let _ = send.send(Ok(Bytes::from_static(b"0123456789"))).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            Body::from_stream(futures_util::stream::unfold(receive, async |mut receive| {
                receive.recv().await.map(|piece| (piece, receive))
            }))
        };
        Router::new()
            .route("/api/generate", post(handler).route_layer(PaywallLayer::new(paywall, &charge)))
    })
    .await;
    let short = server.stage.funded(CENTS_10).await;
    for _ in 0..2 {
        let answer = server.call(short, "/api/generate", "5").await;
        assert_eq!(answer.text().await.unwrap().len(), 50);
    }
    server.stage.becomes(short, State::Delivered).await;
    let long = server.stage.funded(CENTS_10).await;
    assert_eq!(server.call(long, "/api/generate", "20").await.text().await.unwrap().len(), 200);
    server.stage.becomes(long, State::Delivered).await;
    assert_eq!(server.call(long, "/api/generate", "20").await.status(), StatusCode::GONE);
    // A caller that goes away after the first piece.
    let left = server.stage.funded(CENTS_10).await;
    let mut answer = server.call(left, "/api/generate", "8").await;
    answer.chunk().await.unwrap();
    drop(answer);
    server.stage.becomes(left, State::Delivered).await;
    assert_eq!(server.call(left, "/api/generate", "8").await.text().await.unwrap().len(), 80);
}

#[tokio::test]
async fn a_caller_that_does_not_read_gets_no_stream_for_nothing() {
    let settings = Settings { min_seconds_left: 3, closing_seconds: 2, ..Settings::default() };
    let server = Server::with(settings, |paywall| {
        let charge = charge(paywall, CENTS_10);
        let handler = async || {
            let piece = Bytes::from(vec![b'x'; 1 << 20]);
            let pieces = std::iter::repeat_n(piece, 100).map(Ok::<_, std::io::Error>);
            Body::from_stream(futures_util::stream::iter(pieces))
        };
        Router::new()
            .route("/api/generate", post(handler).layer(PaywallLayer::new(paywall, &charge)))
    })
    .await;
    let id = server.stage.funded_for(CENTS_10, 10).await;
    let answer = server.call(id, "/api/generate", "").await;
    assert_eq!(answer.status(), StatusCode::OK);
    // Without it the transaction would be given back, and the stream read after that.
    server.stage.becomes(id, State::Delivered).await;
    assert!(answer.bytes().await.is_err(), "it was read in time");
}

#[tokio::test]
async fn the_last_piece_waits_until_the_answer_is_kept() {
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        let handler = async || {
            let pieces = ["first", "last"].map(Ok::<_, std::io::Error>);
            Body::from_stream(futures_util::stream::iter(pieces))
        };
        Router::new()
            .route("/api/generate", post(handler).layer(PaywallLayer::new(paywall, &charge)))
    })
    .await;
    let id = server.stage.funded(CENTS_10).await;
    // Nothing can be kept of what was claimed before.
    server.stage.rewrite("ALTER TABLE totals RENAME TO others");
    let mut answer = server.call(id, "/api/generate", "").await;
    let mut read = vec![];
    while let Ok(Some(piece)) = answer.chunk().await {
        read.extend(piece);
    }
    assert_eq!(read, b"first");
}

/// Callers who ask again and do not read.
#[tokio::test]
async fn a_long_answer_is_given_again_to_so_many_at_once() {
    const LENGTH: usize = 15 << 20;
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        let handler = async || vec![b'x'; LENGTH];
        Router::new()
            .route("/api/generate", post(handler).route_layer(PaywallLayer::new(paywall, &charge)))
    })
    .await;
    let id = server.stage.funded(CENTS_10).await;
    let first = server.call(id, "/api/generate", "").await;
    let receipt = first.headers()["x-agirails-receipt"].clone();
    let first = first.bytes().await.unwrap();
    assert_eq!(first.len(), LENGTH);
    let mut held = vec![];
    for _ in 0..8 {
        let again = server.call(id, "/api/generate", "").await;
        assert_eq!(again.status(), StatusCode::OK);
        assert_eq!(again.content_length(), Some(LENGTH as u64));
        assert_eq!(again.headers()["x-agirails-receipt"], receipt);
        held.push(again);
    }
    let refused = server.call(id, "/api/generate", "").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    // Who reads it gets all of it, and makes room, as does who goes away.
    assert!(held.pop().unwrap().bytes().await.unwrap() == first);
    drop(held);
    for _ in 0..200 {
        if server.call(id, "/api/generate", "").await.status() == StatusCode::OK {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no place was given back");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_run() {
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        let handler = async || {
            tokio::time::sleep(Duration::from_millis(400)).await;
            "done"
        };
        Router::new()
            .route("/api/generate", post(handler).route_layer(PaywallLayer::new(paywall, &charge)))
    })
    .await;
    let id = server.stage.funded(CENTS_10).await;
    let call = server.call(id, "/api/generate", "");
    assert!(tokio::time::timeout(Duration::from_millis(150), call).await.is_err());
    server.stage.becomes(id, State::Delivered).await;
    assert_eq!(server.call(id, "/api/generate", "").await.text().await.unwrap(), "done");
}

#[tokio::test]
async fn failures_and_panics_are_passed_on_and_nothing_is_taken() {
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        let handler = async |body: String| match body.as_str() {
            "panic" => panic!("a handler's mistake"),
            "redirect" => axum::response::Redirect::to("/elsewhere").into_response(),
            _ => (StatusCode::BAD_GATEWAY, "no").into_response(),
        };
        Router::new()
            .route("/api/generate", post(handler).route_layer(PaywallLayer::new(paywall, &charge)))
    })
    .await;
    let id = server.stage.funded(CENTS_10).await;
    let answer = server.call(id, "/api/generate", "x").await;
    assert_eq!(
        (answer.status(), answer.text().await.unwrap().as_str()),
        (StatusCode::BAD_GATEWAY, "no")
    );
    assert_eq!(server.stage.state(id).await, State::Committed);
    let id = server.stage.funded(CENTS_10).await;
    let signed = server.stage.signed_by(2, id, None, "/api/generate", b"panic").await;
    let panicked = server
        .http
        .post(server.url("/api/generate"))
        .header("X-AGIRAILS-TX-ID", id.to_string())
        .header("X-AGIRAILS-SIGNATURE", signed.signature.unwrap())
        .body("panic")
        .send()
        .await;
    assert!(panicked.is_err(), "axum cuts the connection of a handler that panics");
    assert_eq!(server.stage.state(id).await, State::Committed);
}

#[tokio::test]
async fn a_nested_route_is_signed_by_its_whole_path_and_priced_by_its_body() {
    let server = Server::of(|paywall| {
        let charge = paywall.charge(Charge::per_request("POST /v1/echo")).unwrap();
        let layer = PaywallLayer::new(paywall, &charge)
            .nested_under("/v1")
            .priced(|_, body| (!body.is_empty()).then(|| Usdc(50_000 * body.len() as u64)));
        let inner =
            Router::new().route("/echo", post(async |body: String| body).route_layer(layer));
        Router::new().nest("/v1", inner)
    })
    .await;
    let id = server.stage.funded(CENTS_10).await;
    assert_eq!(server.call(id, "/v1/echo?q=1", "abc").await.status(), StatusCode::PAYMENT_REQUIRED);
    let answer = server.call(id, "/v1/echo?q=1", "ab").await;
    assert_eq!(answer.text().await.unwrap(), "ab");
    assert_eq!(server.call(id, "/v1/echo", "").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(server.paywall.max_body_bytes(), 16 << 20);
    let big = server.http.post(server.url("/v1/echo")).body(vec![0; 17 << 20]).send().await;
    // The server may cut the connection before it is sent whole.
    assert!(big.is_err() || big.unwrap().status() == StatusCode::PAYLOAD_TOO_LARGE);
}

/// A login before every route of the application's own, as the guide has it: the paywall's are
/// added outside of it.
#[tokio::test]
async fn a_login_of_the_applications_own_leaves_a_way_to_what_the_paywall_guards() {
    async fn login(request: Request, next: Next) -> Result<axum::response::Response, StatusCode> {
        match request.headers().get("x-login") {
            Some(password) if password == "opened" => Ok(next.run(request).await),
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    }
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        Router::new()
            .route("/private", get(async || "private"))
            .layer(from_fn(login))
            .route("/paid", post(async || "42").route_layer(PaywallLayer::new(paywall, &charge)))
    })
    .await;
    let status =
        async |target: &str| server.http.get(server.url(target)).send().await.unwrap().status();
    assert_eq!(status("/private").await, 401);
    for page in ["/health", "/metrics", "/api/pricing"] {
        assert_eq!(status(page).await, 200, "{page}");
    }
    let id = server.stage.funded(CENTS_10).await;
    let paid = server.call(id, "/paid", "").await;
    assert_eq!((paid.status().as_u16(), paid.text().await.unwrap().as_str()), (200, "42"));
    assert_eq!(status(&format!("/api/payments/{id}/receipts/-")).await, 200);
    // Unsigned: it is the paywall that refuses.
    let close = server.http.post(server.url(&format!("/api/payments/{id}/close")));
    let refused = close.send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(refused.text().await.unwrap().contains("error"));
}

#[tokio::test]
async fn the_dashboard_is_served_below_a_path_that_ends_with_a_slash() {
    let server = Server::of(|paywall| {
        let charge = charge(paywall, CENTS_10);
        let paid = PaywallLayer::new(paywall, &charge);
        Router::new()
            .route("/api/generate", post(|| async { "done" }).route_layer(paid))
            .nest_service("/admin/paywall/", paywall.dashboard())
    })
    .await;
    let id = server.stage.funded(CENTS_10).await;
    assert_eq!(server.call(id, "/api/generate", "{}").await.status(), 200);
    let get = async |path: &str| {
        server.http.get(server.url(&format!("/admin/paywall{path}"))).send().await.unwrap()
    };
    let page = get("/").await;
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let text = page.text().await.unwrap();
    // All parts are named relative to the page, and are there.
    for part in ["dashboard.css", "dashboard.js"] {
        assert!(text.contains(&format!("=\"{part}\"")), "{part}");
        assert_eq!(get(&format!("/{part}")).await.status(), 200, "{part}");
    }
    // A page without its slash would name them wrongly.
    assert_eq!(get("").await.status(), 404);
    let read = async |path: &str| -> Value {
        serde_json::from_slice(&get(path).await.bytes().await.unwrap()).unwrap()
    };
    let overview = read("/data/overview?range=all").await;
    let totals = &overview["totals"];
    assert_eq!((&totals["calls"], &totals["gross"]), (&1.into(), &"0.10".into()));
    assert_eq!(overview["routes"][0]["p50"].as_str().map(|told| &told[..3]), Some("≤"));
    let story = read(&format!("/data/payments/{id}")).await;
    assert_eq!(story["payment"]["spent"], "0.10");
    let evidence = get(&format!("/data/payments/{id}/evidence")).await;
    assert_eq!(evidence.headers()["content-type"], "application/json");
    assert!(evidence.text().await.unwrap().contains(&id.to_string()));
    let posted = server.http.post(server.url("/admin/paywall/data/overview")).send().await.unwrap();
    assert_eq!(posted.status(), 405);
}
