//! What the edge promises: the 402's size and links, payments as x402 clients send them, a public URL,
//! and the budget of bodies.

use std::sync::Arc;

use agirails::paywall::{Answer, Charge, End, Exchange, Paywall, Reason, RequestHead, Settings};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::fixture::{CENTS_10, Stage, charge, json as body_of};

struct Edge {
    stage: Stage,
    paywall: Paywall,
    charge: Arc<Charge>,
}

impl Edge {
    async fn with(settings: Settings) -> Self {
        let stage = Stage::new().await;
        let paywall = stage.builder().settings(settings).open().await.unwrap();
        let charge = charge(&paywall, CENTS_10);
        Self { stage, paywall, charge }
    }

    fn exchange(&self, target: &str, headers: &[(&str, &str)]) -> Exchange {
        let headers = [("Host", "shop.example")].into_iter().chain(headers.iter().copied());
        let head = RequestHead {
            method: "POST",
            target,
            mount: "",
            scheme: "https",
            headers: headers.map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        };
        self.paywall.exchange(Some(&self.charge), head)
    }

    async fn rejected(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.exchange(target, headers).admit_head().await.unwrap()
    }
}

fn challenge(answer: &Answer) -> Value {
    let header = answer.header("PAYMENT-REQUIRED").unwrap();
    assert!(header.len() <= 2_048, "{} characters", header.len());
    serde_json::from_slice(&BASE64.decode(header).unwrap()).unwrap()
}

#[tokio::test]
async fn a_402_has_two_offers_in_two_kibibytes_whatever_is_asked_for() {
    let edge = Edge::with(Settings::default()).await;
    for length in [0, 300, 2_000, 20_000] {
        let long = "x".repeat(length);
        for target in [format!("/api/generate?q={long}"), format!("/{long}/generate")] {
            let told = challenge(&edge.rejected(&target, &[]).await);
            assert_eq!(told["x402Version"], 2);
            assert_eq!(told["accepts"].as_array().unwrap().len(), 2);
            assert_eq!(told["accepts"][0]["extra"]["flow"], "escrow");
            let url = told["resource"]["url"].as_str().unwrap();
            assert!(url.starts_with("https://shop.example"), "{url}");
        }
    }
}

#[tokio::test]
async fn behind_a_prefix_calls_are_signed_by_the_public_url_and_links_are_absolute() {
    let public_url = Some("https://example.com/shop/".to_owned());
    let edge = Edge::with(Settings { public_url, ..Settings::default() }).await;
    let told = edge.rejected("/api/generate?q=1", &[]).await;
    let told = body_of(&told);
    assert_eq!(told["resource"]["url"], "https://example.com/shop/api/generate?q=1");
    assert_eq!(told["links"]["pricing"], "https://example.com/shop/api/pricing");
    let close = "https://example.com/shop/api/payments/{txId}/close";
    assert_eq!(told["links"]["close"], close);
    for seen in ["/api/generate", "/shop/api/generate", "//api/./generate"] {
        let id = edge.stage.funded(CENTS_10).await;
        let signed = edge.stage.signed_by(2, id, None, "/shop/api/generate", b"").await;
        let (id, signature) = (id.to_string(), signed.signature.unwrap());
        let headers = [("X-AGIRAILS-TX-ID", &*id), ("X-AGIRAILS-SIGNATURE", &*signature)];
        let mut exchange = edge.exchange(seen, &headers);
        assert_eq!(exchange.admit_head().await, None, "{seen}");
        assert_eq!(exchange.admit(None).await, None, "{seen}");
        exchange.abort(Reason::Raised, "").await;
    }
    for wrong in ["example.com/shop", "ftp://example.com", "https://u:p@example.com/", "https:///"]
    {
        let settings = Settings { public_url: Some(wrong.to_owned()), ..Settings::default() };
        assert!(edge.stage.builder().settings(settings).open().await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn an_x402_client_pays_in_its_own_header_and_reads_the_outcome_in_another() {
    let edge = Edge::with(Settings::default()).await;
    let offer = challenge(&edge.rejected("/api/generate", &[]).await)["accepts"][0].clone();
    let id = edge.stage.funded(CENTS_10).await;
    let key = "0123456789abcdef";
    let signed = edge.stage.signed_by(2, id, Some(key), "/api/generate", b"").await;
    let payload = json!({
        "x402Version": 2,
        "accepted": offer,
        "payload": {"transactionId": id.to_string(), "signature": signed.signature.unwrap()},
        "extensions": {"payment-identifier": {"info": {"required": false, "id": key}}},
    });
    let header = |payload: &Value| BASE64.encode(payload.to_string());
    let paid = header(&payload);
    for repeat in [false, true] {
        let mut exchange = edge.exchange("/api/generate", &[("Payment-Signature", &*paid)]);
        assert_eq!(exchange.admit_head().await, None);
        let answer = match exchange.admit(None).await {
            Some(answer) => answer,
            None => {
                exchange.head(200, vec![], Some(4));
                let _ = exchange.chunk(b"work");
                let End::Answer { answer, is_handlers: true } = exchange.end().await else {
                    panic!();
                };
                answer
            }
        };
        assert_eq!(answer.header("X-AGIRAILS-REPLAY").is_some(), repeat);
        let settled = BASE64.decode(answer.header("PAYMENT-RESPONSE").unwrap()).unwrap();
        let settled: Value = serde_json::from_slice(&settled).unwrap();
        assert_eq!((&settled["success"], &settled["transaction"]), (&json!(true), &json!(id)));
    }
    let changed = |pointer: &str, value: Value| {
        let mut payload = payload.clone();
        *payload.pointer_mut(pointer).unwrap() = value;
        header(&payload)
    };
    for wrong in [
        "nonsense".to_owned(),
        BASE64.encode("[]"),
        changed("/x402Version", json!(1)),
        changed("/accepted/scheme", json!("exact")),
        changed("/accepted/network", json!("eip155:1")),
        changed("/accepted/payTo", json!(format!("0x{}", "11".repeat(20)))),
        changed("/payload/transactionId", json!(7)),
        changed("/extensions/payment-identifier/info/id", json!("short")),
    ] {
        let answer = edge.rejected("/api/generate", &[("PAYMENT-SIGNATURE", &*wrong)]).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
    let other = format!("0x{}", "22".repeat(32));
    let both = [("PAYMENT-SIGNATURE", &*paid), ("X-AGIRAILS-TX-ID", &*other)];
    assert_eq!(edge.rejected("/api/generate", &both).await.status, 400);
}

#[tokio::test]
async fn bodies_have_a_budget_in_a_process_and_give_it_back() {
    const MIB: usize = 1 << 20;
    let settings =
        Settings { max_body_bytes: MIB, body_budget_bytes: 2 * MIB, ..Settings::default() };
    let edge = Edge::with(settings).await;
    let id = edge.stage.funded(CENTS_10).await.to_string();
    let piece = vec![0; MIB];
    let plausible = async || {
        let mut exchange = edge.exchange("/api/generate", &[("X-AGIRAILS-TX-ID", &*id)]);
        assert_eq!(exchange.admit_head().await, None);
        exchange
    };
    let (mut one, mut two, mut three) = (plausible().await, plausible().await, plausible().await);
    assert_eq!((one.body(&piece), two.body(&piece)), (None, None));
    assert_eq!(three.body(&piece).unwrap().status, 503);
    drop(one);
    assert_eq!(plausible().await.body(&piece), None);
    drop(two);
    // Those whose payment was not verified have a smaller share.
    let mut unpaid = edge.exchange("/api/generate", &[]);
    assert_eq!(unpaid.body(&piece), None);
    let mut second = edge.exchange("/api/generate", &[]);
    assert_eq!(second.body(&piece).unwrap().status, 503);
}
