//! One escrow, many calls: how a balance ends, and what its receipts prove.

use std::time::Duration;

use agirails::{
    B256, State, TransactionId, Usdc,
    kernel::Transition,
    paywall::{Answer, Charge, Incoming, Paywall, Reason, Settings},
    protocol::{
        paid_request::PaidRequest,
        receipt::{Neighbour, Receipt, climb},
    },
};
use serde_json::Value;

use crate::fixture::{CENTS_10, Stage, answer, json, key, ok, run};

const DOLLAR: Usdc = Usdc(1_000_000);

struct Sold {
    stage: Stage,
    paywall: Paywall,
    charge: std::sync::Arc<Charge>,
}

impl Sold {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let paywall = stage.paywall().await;
        let charge = Charge::new("POST /api/generate", CENTS_10).calls(10);
        let charge = paywall.charge(charge).unwrap();
        Self { stage, paywall, charge }
    }

    async fn call(&self, id: TransactionId, key: &str) -> Answer {
        let request = self.stage.signed(id, Some(key), b"{}").await;
        run(self.paywall.enter(&self.charge, &request, None).await).finish(ok(key)).await
    }

    async fn page(&self, target: &str) -> Value {
        json(&self.paywall.page(&Incoming::new("GET", target, b"")).await.unwrap())
    }

    /// Asks to close a payment, signed by this key.
    async fn close(&self, id: TransactionId, by: u64) -> Answer {
        self.close_at("", &format!("/api/payments/{id}/close"), id, by).await
    }

    async fn close_at(&self, mount: &str, target: &str, id: TransactionId, by: u64) -> Answer {
        let now = self.stage.requester.now().await.unwrap();
        let request = PaidRequest::new(id, "POST", target, b"", now);
        let network = self.stage.requester.network();
        let mut incoming = Incoming::new("POST", target, b"");
        incoming.signature =
            Some(key(by).sign_request(&request, network.chain_id, network.kernel).unwrap());
        self.paywall.page_under(mount, &incoming).await.unwrap()
    }
}

#[tokio::test]
async fn a_close_below_a_mount_is_signed_over_the_whole_path() {
    let sold = Sold::new().await;
    let id = sold.stage.funded(DOLLAR).await;
    let whole = format!("/v1/api/payments/{id}/close");
    for (by, status) in [(3, 401), (2, 202)] {
        assert_eq!(sold.close_at("/v1", &whole, id, by).await.status, status);
    }
    let foreign = Incoming::new("GET", "/v10/health", b"");
    assert!(sold.paywall.page_under("/v1", &foreign).await.is_none());
}

#[tokio::test]
async fn the_price_page_is_the_same_whichever_route_was_asked_first() {
    let stage = Stage::new().await;
    let mut charges = [
        Charge::new("GET /a", CENTS_10),
        Charge::new("GET /b", Usdc(200_000)),
        Charge::new("GET /c", DOLLAR).calls(2),
        Charge::per_request("GET /d"),
    ];
    let mut pages = vec![];
    for _ in 0..2 {
        let paywall = stage.paywall().await;
        for charge in &charges {
            paywall.charge(charge.clone()).unwrap();
        }
        pages.push(json(&paywall.page(&Incoming::new("GET", "/api/pricing", b"")).await.unwrap()));
        charges.reverse();
    }
    assert_eq!(pages[0], pages[1]);
    // Who pays it, without asking further, gets any call that is sold alone.
    assert_eq!(pages[0]["pricing"]["perCall"], "0.20 USDC");
}

#[tokio::test]
async fn a_close_delivers_what_was_served_and_every_receipt_leads_to_its_root() {
    let sold = Sold::new().await;
    let id = sold.stage.funded(DOLLAR).await;
    for number in 0..7 {
        sold.call(id, &format!("call-{number}")).await;
    }
    assert_eq!(sold.stage.state(id).await, State::Committed);
    let stranger = sold.close(id, 3).await;
    assert_eq!(
        (stranger.status, json(&stranger)["error"].clone()),
        (401, "Invalid Signature".into())
    );
    assert_eq!(sold.close(id, 2).await.status, 202);
    sold.stage.becomes(id, State::Delivered).await;
    let root = sold.stage.provider.get_delivery_proof(id).await.unwrap().unwrap().content_hash;
    for number in 0..7 {
        let page = sold.page(&format!("/api/payments/{id}/receipts/call-{number}")).await;
        let receipt: Receipt = serde_json::from_value(page["receipt"].clone()).unwrap();
        let branch: Vec<Neighbour> = serde_json::from_value(page["branch"].clone()).unwrap();
        assert_eq!(climb(receipt.content_hash, &branch), root);
        assert_eq!(serde_json::from_value::<B256>(page["root"].clone()).unwrap(), root);
    }
    let status = sold.page(&format!("/api/payments/{id}")).await;
    assert_eq!((&status["stage"], &status["spent"]), (&"delivered".into(), &"0.70 USDC".into()));
    // No call of it runs any more; what was answered stays answered.
    let request = sold.stage.signed(id, Some("call-3"), b"{}").await;
    assert_eq!(answer(sold.paywall.enter(&sold.charge, &request, None).await).body, b"call-3");
    let request = sold.stage.signed(id, Some("call-8"), b"{}").await;
    assert_eq!(answer(sold.paywall.enter(&sold.charge, &request, None).await).status, 402);
}

#[tokio::test]
async fn a_receipt_is_found_by_a_key_that_a_path_must_escape() {
    let sold = Sold::new().await;
    let id = sold.stage.funded(DOLLAR).await;
    for (key, escaped) in [("a/b?c%d", "a%2Fb%3Fc%25d"), ("100%", "100%25"), ("plain", "pl%61in")] {
        sold.call(id, key).await;
        let page = sold.page(&format!("/api/payments/{id}/receipts/{escaped}")).await;
        assert_eq!(page["receipt"]["idempotencyKey"], key);
    }
    let nothing = sold.page(&format!("/api/payments/{id}/receipts/%FF")).await;
    assert_eq!(nothing["status"], 404);
}

#[tokio::test]
async fn a_close_of_what_was_never_served_gives_all_of_it_back() {
    let sold = Sold::new().await;
    let before = sold.stage.requester.balance().await.unwrap();
    let id = sold.stage.funded(DOLLAR).await;
    let request = sold.stage.signed(id, Some("a"), b"{}").await;
    let served = run(sold.paywall.enter(&sold.charge, &request, None).await);
    assert_eq!(sold.close(id, 2).await.status, 409, "a call is running");
    served.abort(Reason::Raised, "it broke").await;
    assert_eq!(sold.close(id, 2).await.status, 202);
    sold.stage.becomes(id, State::Cancelled).await;
    assert_eq!(sold.stage.requester.balance().await.unwrap(), before);
    assert_eq!(sold.close(TransactionId::repeat_byte(9), 2).await.status, 402);
}

#[tokio::test]
async fn a_requester_gets_back_at_once_what_it_never_used() {
    let sold = Sold::new().await;
    // It could not cancel by itself: 5 % of it are less than the protocol's fee.
    let id = sold.stage.funded(CENTS_10).await;
    assert_eq!(sold.close(id, 3).await.status, 401);
    assert_eq!(sold.stage.state(id).await, State::Committed);
    // The outbox may have been quicker than the answer.
    let stage = json(&sold.close(id, 2).await)["stage"].clone();
    assert!(stage == "returning" || stage == "returned", "{stage}");
    sold.stage.becomes(id, State::Cancelled).await;
}

#[tokio::test]
async fn a_close_leaves_alone_what_another_service_of_the_key_works_on() {
    let sold = Sold::new().await;
    let id = sold.stage.funded(DOLLAR).await;
    let begin = Transition { id, to: State::InProgress, data: vec![], proof: None };
    let provider = &sold.stage.provider;
    provider.kernel().transition_state(provider.address(), &begin).await.unwrap();
    let refused = sold.close(id, 2).await;
    assert_eq!(
        (refused.status, json(&refused)["error"].clone()),
        (409, "Not Ours To Close".into())
    );
    assert_eq!(sold.close(id, 3).await.status, 401);
    // Nor what it may begin on any moment.
    let settings = Settings { give_back_unclaimed: false, ..Settings::default() };
    let paywall = sold.stage.builder().settings(settings).open().await.unwrap();
    let beside = Sold { paywall, ..sold };
    let committed = beside.stage.funded(DOLLAR).await;
    assert_eq!(beside.close(committed, 2).await.status, 409);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(beside.stage.state(id).await, State::InProgress);
    assert_eq!(beside.stage.state(committed).await, State::Committed);
}

#[tokio::test]
async fn a_dear_call_leaves_the_rest_to_cheaper_ones() {
    let sold = Sold::new().await;
    let dear = sold.paywall.charge(Charge::new("POST /api/dear", DOLLAR)).unwrap();
    let rest = Usdc(CENTS_10.0 / 2);
    let id = sold.stage.funded(Usdc(DOLLAR.0 + CENTS_10.0 + rest.0)).await;
    let request = sold.stage.signed(id, Some("dear"), b"{}").await;
    run(sold.paywall.enter(&dear, &request, None).await).finish(ok("dear")).await;
    // The cheapest takes it below what any call costs.
    sold.call(id, "cheap").await;
    sold.stage.becomes(id, State::Delivered).await;

    // Where prices are worked out from requests, any rest may be enough.
    sold.paywall.charge(Charge::per_request("POST /api/any")).unwrap();
    let id = sold.stage.funded(Usdc(DOLLAR.0 + 1)).await;
    let request = sold.stage.signed(id, Some("dear"), b"{}").await;
    run(sold.paywall.enter(&dear, &request, None).await).finish(ok("dear")).await;
    assert_eq!(sold.page(&format!("/api/payments/{id}")).await["stage"], "open");
}

#[tokio::test]
async fn the_approaching_deadline_delivers_what_was_served() {
    let sold = Sold::new().await;
    let id = sold.stage.funded_for(DOLLAR, 200).await;
    sold.call(id, "a").await;
    sold.stage.provider.mock().unwrap().advance_time(145).await.unwrap();
    sold.stage.becomes(id, State::Delivered).await;
}

#[tokio::test]
async fn a_call_that_fails_gives_its_price_back_to_the_balance() {
    let sold = Sold::new().await;
    let id = sold.stage.funded(DOLLAR).await;
    // Fewer than it is given up after.
    for round in 0..4 {
        let request = sold.stage.signed(id, Some(&format!("fails-{round}")), b"{}").await;
        let served = run(sold.paywall.enter(&sold.charge, &request, None).await);
        served.finish(Answer::new(503, "")).await;
    }
    for number in 0..10 {
        sold.call(id, &format!("call-{number}")).await;
    }
    sold.stage.becomes(id, State::Delivered).await;
}

#[tokio::test]
async fn a_key_is_one_request_and_a_balance_needs_keys() {
    let sold = Sold::new().await;
    let id = sold.stage.funded(DOLLAR).await;
    sold.call(id, "a").await;
    let other = sold.stage.signed(id, Some("a"), b"other").await;
    assert_eq!(answer(sold.paywall.enter(&sold.charge, &other, None).await).status, 409);
    let keyless = sold.stage.signed(id, None, b"{}").await;
    let refused = answer(sold.paywall.enter(&sold.charge, &keyless, None).await);
    assert_eq!(
        (refused.status, json(&refused)["error"].clone()),
        (400, "Idempotency Key Required".into())
    );
    // Less than the bundle that is sold.
    let small = sold.stage.funded(CENTS_10).await;
    let request = sold.stage.signed(small, Some("a"), b"{}").await;
    let refused = answer(sold.paywall.enter(&sold.charge, &request, None).await);
    assert_eq!((refused.status, json(&refused)["required"].clone()), (402, "1.00".into()));
}

#[tokio::test]
async fn a_call_that_costs_more_than_its_request_allows_takes_nothing() {
    let sold = Sold::new().await;
    let id = sold.stage.funded(DOLLAR).await;
    let request = async |key: &str, most: &str| {
        let signed = sold.stage.signed(id, Some(key), b"{}").await;
        Incoming { max_price: Some(most.to_owned()), ..signed }
    };
    let enter = async |request: &Incoming| sold.paywall.enter(&sold.charge, request, None).await;
    let refused = answer(enter(&request("a", "99999").await).await);
    let told = json(&refused);
    assert_eq!((refused.status, &told["error"]), (402, &"Price Above Maximum".into()));
    assert_eq!((&told["allowed"], &told["required"]), (&"0.099999".into(), &"0.10".into()));
    assert_eq!(told["accepts"][0]["extra"]["pricePerCall"], "100000");
    run(enter(&request("a", "100000").await).await).finish(ok("a")).await;
    // What was answered stays answered, whatever it costs today.
    assert_eq!(answer(enter(&request("a", "1").await).await).body, b"a");
    for malformed in ["", "-1", "+1", "1e5", "0.10", "given twice", &"9".repeat(30)] {
        assert_eq!(answer(enter(&request("b", malformed).await).await).status, 400);
    }
    let status = sold.page(&format!("/api/payments/{id}")).await;
    assert_eq!(status["spent"], "0.10 USDC");
}

#[tokio::test]
async fn a_single_price_also_takes_a_bundle() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = crate::fixture::charge(&paywall, CENTS_10);
    let refused = answer(paywall.enter(&charge, &Incoming::new("POST", "/", b""), None).await);
    let accepts = &json(&refused)["accepts"];
    assert_eq!(
        (&accepts[0]["amount"], &accepts[1]["amount"]),
        (&"100000".into(), &"1000000".into())
    );
    assert_eq!(accepts[1]["extra"]["kind"], "prepaid");
    let id = stage.funded(DOLLAR).await;
    for number in 0..10 {
        let request = stage.signed(id, Some(&number.to_string()), b"{}").await;
        run(paywall.enter(&charge, &request, None).await).finish(ok("x")).await;
    }
    stage.becomes(id, State::Delivered).await;
}
