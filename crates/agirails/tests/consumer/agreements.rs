//! Where the kernel keeps agreements, a paywall can ask that a transaction names the request that it pays
//! for.

use agirails::{
    B256, Code, CreateTransaction, Generation, TransactionId,
    consumer::PaidCall,
    kernel::TransactionQuery,
    paywall::{Charge, Entry, Incoming, Paywall, Settings},
    protocol::paid_request::PaidRequest,
};

use crate::fixture::{CENTS_10, DOLLAR, Fixture, ORIGIN, call, client_on, key};

const TARGET: &str = "/api/generate";

fn settings() -> Settings {
    Settings { require_agreement: true, ..Settings::default() }
}

async fn fixture() -> Fixture {
    Fixture::on(Generation::Aip14c, settings(), CENTS_10).await
}

/// The reason why this request is not served with this transaction.
async fn refusal(
    fixture: &Fixture,
    paywall: &Paywall,
    id: TransactionId,
    target: &str,
    body: &[u8],
) -> String {
    let charge = paywall.charge(Charge::new("POST /api/generate", CENTS_10)).unwrap();
    let network = fixture.payer.network();
    let now = fixture.payer.now().await.unwrap();
    let request = PaidRequest::new(id, "POST", target, body, now);
    let mut incoming = Incoming::new("POST", target, body);
    incoming.transaction_id = Some(id.to_string());
    incoming.signature =
        Some(key(2).sign_request(&request, network.chain_id, network.kernel).unwrap());
    match paywall.enter(&charge, &incoming, None).await {
        Entry::Run(_) => panic!("it was served"),
        Entry::Answer(answer) => {
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            body["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
        }
    }
}

#[tokio::test]
async fn a_transaction_that_names_its_request_pays_for_nothing_else() {
    let fixture = fixture().await;
    let consumer = fixture.trusting().await;
    let paid = fixture.buy(&consumer, call()).await.unwrap();
    let id = paid.payment.as_ref().unwrap().transaction_id;
    let named = fixture.payer.get_transaction(id).await.unwrap().agreement_hash;
    let request = |body: &[u8]| PaidRequest::new(B256::ZERO, "POST", TARGET, body, 0);
    assert_eq!(named, request(b"{}").agreement_hash());
    assert_eq!(fixture.service.runs(), 1);

    // A run that failed leaves it usable, for the same request alone.
    let broken = PaidCall::new("POST", format!("{ORIGIN}{TARGET}?broken=1"), CENTS_10);
    fixture.buy(&consumer, broken.body(&b"{}"[..])).await.unwrap_err();
    let query = TransactionQuery::of(fixture.payer.address());
    let all = fixture.payer.find_transactions(&query).await.unwrap();
    let id = all.iter().map(|tx| tx.id).find(|other| *other != id).unwrap();
    let other = "other_agreement";
    let paywall = &fixture.service.paywall;
    assert_eq!(refusal(&fixture, paywall, id, TARGET, b"{}").await, other);
    assert_eq!(refusal(&fixture, paywall, id, "/api/generate?broken=1", b"[]").await, other);
    // Also by another process, which has never seen it.
    let provider = client_on(Generation::Aip14c, fixture.directory.path(), 1).await;
    let second = Paywall::builder(provider).settings(settings()).open().await.unwrap();
    assert_eq!(refusal(&fixture, &second, id, TARGET, b"{}").await, other);
}

#[tokio::test]
async fn a_transaction_that_names_nothing_is_refused_before_anything_runs() {
    let fixture = fixture().await;
    let deadline = fixture.payer.now().await.unwrap() + 7_200;
    let (requester, provider) = (fixture.payer.address(), fixture.provider.address());
    let mut request = CreateTransaction::new(requester, provider, CENTS_10, deadline);
    request.service_hash = fixture.service.paywall.service_hash();
    let id = fixture.payer.create_transaction(&request).await.unwrap();
    fixture.payer.link_escrow(id).await.unwrap();
    let refused = refusal(&fixture, &fixture.service.paywall, id, TARGET, b"{}").await;
    assert_eq!(refused, "other_agreement");
}

#[tokio::test]
async fn a_balance_is_for_requests_that_nobody_knows_yet() {
    let fixture = fixture().await;
    let bundle = Charge::new("POST /api/generate", CENTS_10).calls(10);
    fixture.service.sell(bundle);
    let consumer = fixture.trusting().await;
    for body in ["{}", "[]"] {
        let call = call().body(body.as_bytes()).max_funding(DOLLAR);
        let paid = fixture.buy(&consumer, call).await.unwrap();
        let id = paid.payment.unwrap().transaction_id;
        let named = fixture.payer.get_transaction(id).await.unwrap().agreement_hash;
        assert_eq!(named, B256::ZERO);
    }
    assert_eq!(fixture.service.runs(), 2);
}

#[tokio::test]
async fn a_kernel_that_keeps_no_agreement_cannot_be_asked_for_one() {
    for generation in [Generation::May2026, Generation::F6] {
        let directory = tempfile::tempdir().unwrap();
        let provider = client_on(generation, directory.path(), 1).await;
        let opened = Paywall::builder(provider).settings(settings()).open().await;
        let error = opened.unwrap_err();
        assert_eq!(error.code(), Code::UnsupportedKernel);
        assert_eq!(error.facts().field, Some("require_agreement"));
    }
}
