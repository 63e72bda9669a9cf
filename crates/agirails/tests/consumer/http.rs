//! The whole way over HTTP: reqwest on one side, the paywall's tower layer on the other.
#![cfg(feature = "tower")]

use std::{net::SocketAddr, time::Duration};

use agirails::{
    Code, State,
    consumer::{Budget, Choice, Consumer, PaidCall, PaymentKind, Proof},
    paywall::{Charge, PaywallLayer},
};
use axum::{Router, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::fixture::{CENTS_10, DOLLAR, Fixture};

#[path = "../../../../examples/axum_provider.rs"]
#[expect(dead_code, reason = "its main: the test has a server of its own")]
mod axum_provider;
#[path = "../../../../examples/rust_consumer.rs"]
#[expect(dead_code, reason = "its main: the test has a client of its own")]
mod rust_consumer;

async fn serve(fixture: &Fixture) -> SocketAddr {
    let paywall = &fixture.service.paywall;
    let charge = paywall.charge(Charge::new("POST /api/generate", CENTS_10)).unwrap();
    let handler = async |body: String| format!("answer to {body}");
    let app = Router::new()
        .route("/api/generate", post(handler).layer(PaywallLayer::new(paywall, &charge)))
        .fallback_service(paywall.pages());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_service_behind_the_paywall_is_paid_over_http() {
    let fixture = Fixture::new(CENTS_10).await;
    let address = serve(&fixture).await;
    let consumer = fixture.trusting().await;
    let url = format!("http://{address}/api/generate?q=%C3%BC|x&r=[1]");
    let call = PaidCall::new("POST", url, CENTS_10).json(&serde_json::json!({"a": 1})).settle(true);
    let paid = consumer.call(call).await.unwrap();
    assert_eq!(paid.body.as_ref(), b"answer to {\"a\":1}");
    let payment = paid.payment.unwrap();
    assert_eq!((payment.proof, payment.is_settled), (Proof::Signed, true));
}

#[tokio::test]
async fn the_example_consumer_pays_the_example_provider() {
    let fixture = Fixture::new(CENTS_10).await;
    let app = axum_provider::app(&fixture.service.paywall).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let payer = fixture.payer.clone();
    let answer = rust_consumer::generate(payer, &origin, "a haiku").await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["result"], "Generated response for: a haiku");
    let payment = answer.payment.unwrap();
    assert_eq!((payment.price, payment.is_settled), (CENTS_10, true));
}

#[tokio::test]
async fn a_call_that_is_given_up_finishes_its_payment_and_is_taken_up_again() {
    let fixture = Fixture::new(CENTS_10).await;
    let address = serve(&fixture).await;
    let consumer = fixture.trusting().await;
    let url = format!("http://{address}/api/generate");
    for patience in 0..40 {
        let call = PaidCall::new("POST", &url, CENTS_10).purchase_key("given-up");
        // Given up at every moment of its way.
        let patience = Duration::from_micros(patience * 300);
        let _ = tokio::time::timeout(patience, consumer.call(call)).await;
    }
    let call = PaidCall::new("POST", &url, CENTS_10).purchase_key("given-up");
    assert_eq!(consumer.call(call).await.unwrap().body.as_ref(), b"answer to ");
    assert_eq!(fixture.paid().await, (1, CENTS_10));
}

/// What `inspect` names is what `call` then takes, and until then nothing is paid.
#[tokio::test]
async fn an_inspection_says_what_a_call_pays_with() {
    let fixture = Fixture::new(CENTS_10).await;
    let address = serve(&fixture).await;
    let consumer = fixture.wary().await;
    let url = format!("http://{address}/api/generate");
    let call = || PaidCall::new("POST", &url, CENTS_10).body("x");

    let found = consumer.inspect(call()).await.unwrap();
    assert_eq!((found.answer.status, found.problems.len()), (402, 0));
    let kinds: Vec<_> = found.offers.iter().map(|offer| (offer.kind, offer.amount)).collect();
    assert!(kinds.contains(&(PaymentKind::Single, CENTS_10)), "{kinds:?}");
    let Some(Ok(Choice::Offer(offer))) = found.choice else { panic!("{found:?}") };
    assert_eq!((offer.kind, offer.price, offer.amount), (PaymentKind::Prepaid, CENTS_10, DOLLAR));
    assert_eq!((fixture.paid().await.0, consumer.payments().await.unwrap().len()), (0, 0));

    let paid = consumer.call(call()).await.unwrap().payment.unwrap();
    assert_eq!((paid.kind, paid.amount), (offer.kind, offer.amount));
    let found = consumer.inspect(call()).await.unwrap();
    let Some(Ok(Choice::Balance { transaction_id, left, .. })) = found.choice else {
        panic!("{found:?}")
    };
    assert_eq!(transaction_id, Some(paid.transaction_id));
    let [payment] = &consumer.payments().await.unwrap()[..] else { panic!() };
    assert_eq!((payment.transaction_id, payment.stage), (transaction_id, "funded"));
    assert_eq!(payment.amount.0 - payment.used.0, left.0);

    for (call, budget, code) in [
        (call().max_amount(DOLLAR).max_funding(CENTS_10), None, Code::UntrustedProvider),
        (call().max_amount("0.05".parse().unwrap()), None, Code::PriceAboveLimit),
        (call(), Some(CENTS_10), Code::BudgetExceeded),
    ] {
        // Of another payer, who has no balance.
        let payer = crate::fixture::client(fixture.directory.path(), 9).await;
        let budget = Budget { per_day: budget, ..Budget::default() };
        let consumer = Consumer::builder(payer).budget(budget).open().await.unwrap();
        let found = consumer.inspect(call).await.unwrap();
        assert_eq!(found.choice.unwrap().unwrap_err().code(), code);
        assert!(consumer.payments().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_costs_nothing_has_no_offers_and_its_answer() {
    let fixture = Fixture::new(CENTS_10).await;
    let address = serve(&fixture).await;
    let consumer = fixture.wary().await;
    let call = PaidCall::new("GET", format!("http://{address}/health"), CENTS_10);
    let found = consumer.inspect(call).await.unwrap();
    assert_eq!((found.answer.status, found.offers.len()), (200, 0));
    assert!(found.choice.is_none() && !found.answer.body.is_empty());
    let call = PaidCall::new("GET", "http://127.0.0.1:1/", CENTS_10);
    let call = call.timeout(Duration::from_secs(1));
    assert_eq!(consumer.inspect(call).await.unwrap_err().code(), Code::ServiceUnreachable);
}

#[tokio::test]
async fn a_balance_is_closed_over_http_and_settled_with_its_proof() {
    let fixture = Fixture::new(CENTS_10).await;
    let address = serve(&fixture).await;
    let consumer = Consumer::builder(fixture.payer.clone()).open().await.unwrap();
    let url = format!("http://{address}/api/generate");
    let mut id = None;
    for number in 0..3 {
        let call = PaidCall::new("POST", &url, CENTS_10).body(format!("{number}").into_bytes());
        id = Some(consumer.call(call).await.unwrap().payment.unwrap().transaction_id);
    }
    let id = id.unwrap();
    assert_eq!(fixture.paid().await, (1, DOLLAR));
    assert!(["delivering", "delivered"].contains(&&*consumer.close(id).await.unwrap()));
    fixture.becomes(id, State::Delivered).await;
    assert_eq!(consumer.settle().await.unwrap().settled, [id]);
    assert_eq!(consumer.balances().await.unwrap(), []);
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_tells_the_key_of_what_it_was_to_be_paid_with() {
    let fixture = Fixture::new(CENTS_10).await;
    let address = serve(&fixture).await;
    let consumer = fixture.wary().await;
    let url = format!("http://{address}/api/generate");
    let call = |query: &str| PaidCall::new("POST", format!("{url}?{query}"), CENTS_10);
    consumer.call(call("")).await.unwrap();
    let error = consumer.call(call(&"x".repeat(70_000))).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidSettings, "{error}");
    assert!(error.facts().purchase_key.is_some());
}

#[tokio::test]
async fn a_timeout_beyond_all_clocks_is_a_long_one() {
    let fixture = Fixture::new(CENTS_10).await;
    let address = serve(&fixture).await;
    let call = PaidCall::new("POST", format!("http://{address}/api/generate"), CENTS_10)
        .timeout(Duration::MAX)
        .request_timeout(Duration::MAX);
    assert_eq!(fixture.wary().await.call(call).await.unwrap().status, 200);
}

/// A server that answers every connection with these bytes, and maybe never ends.
async fn raw(answer: &'static str, endless: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer.as_bytes()).await;
                while endless && socket.write_all(&[b'x'; 65_536]).await.is_ok() {}
            });
        }
    });
    address
}

#[tokio::test]
async fn redirects_are_handed_back_and_endless_answers_given_up() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let away = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let url = format!("http://{}/", raw(away, false).await);
    assert_eq!(consumer.call(PaidCall::new("GET", url, CENTS_10)).await.unwrap().status, 302);

    let url = format!("http://{}/", raw("HTTP/1.1 200 OK\r\n\r\n", true).await);
    let call = PaidCall::new("GET", url, CENTS_10).body_limit(1_000_000);
    let error = consumer.call(call).await.unwrap_err();
    assert_eq!(error.code(), Code::AnswerTooLarge);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_in_time() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let call = PaidCall::new("POST", "http://127.0.0.1:1/?token=secret", CENTS_10);
    let error = consumer.call(call.timeout(Duration::from_secs(2))).await.unwrap_err();
    assert_eq!(error.code(), Code::ServiceUnreachable);
    assert!(!error.to_string().contains("secret"));
}
