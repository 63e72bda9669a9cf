//! A provider changes its key: what was paid to the old one is served and paid out under it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use agirails::{
    ACTPClient, Code, State, TransactionId, Usdc,
    paywall::{Charge, Incoming, Level, Paywall, PaywallBuilder, Settings},
};
use serde_json::Value;

use crate::fixture::{CENTS_10, Stage, answer, client, json, key, ok, run, service_in};

const DOLLAR: Usdc = Usdc(1_000_000);

fn charge(paywall: &Paywall) -> Arc<Charge> {
    paywall.charge(Charge::new("POST /api/generate", CENTS_10).calls(10)).unwrap()
}

async fn call(stage: &Stage, paywall: &Paywall, id: TransactionId, call: &str) -> String {
    let request = stage.signed(id, Some(call), b"{}").await;
    let run = run(paywall.enter(&charge(paywall), &request, None).await);
    let receipt = run.payment().clone();
    let answer = run.finish(ok(call)).await;
    assert_eq!(answer.status, 200, "{receipt:?}");
    let (_, receipt) =
        answer.headers.iter().find(|(name, _)| name == "X-AGIRAILS-RECEIPT").unwrap();
    String::from_utf8_lossy(receipt).into_owned()
}

async fn page(paywall: &Paywall, target: &str) -> Value {
    json(&paywall.page(&Incoming::new("GET", target, b"")).await.unwrap())
}

/// A stage whose provider served one call of a bundle, and sold another bundle and a third, and stopped.
async fn served_by_the_old_key() -> (Stage, [TransactionId; 3], ACTPClient) {
    let stage = Stage::new().await;
    let old = stage.paywall().await;
    let ids = [stage.funded(DOLLAR).await, stage.funded(DOLLAR).await, stage.funded(DOLLAR).await];
    call(&stage, &old, ids[0], "one").await;
    drop(old);
    // Its lease would run out by itself.
    stage.rewrite("DELETE FROM leases");
    let new = client(key(5), stage.directory.path(), None).await;
    (stage, ids, new)
}

fn new_paywall(new: &ACTPClient) -> PaywallBuilder {
    // Transactions must be bound to the service they were sold by.
    Paywall::builder(new.clone())
        .settings(Settings { one_store: Some(false), ..Settings::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_to_a_former_key_is_served_and_delivered_under_it() {
    let (stage, [used, fresh, refunded], new) = served_by_the_old_key().await;
    let (old_service, old_address) =
        (service_in(stage.directory.path()), stage.provider.address().to_string());
    let paywall = new_paywall(&new).former_client(stage.provider.clone()).open().await.unwrap();
    assert_ne!(paywall.service_hash(), old_service);

    // The rest of a balance, and one that was sold and never used.
    for key in ["two", "three"] {
        let receipt = call(&stage, &paywall, used, key).await;
        assert!(!receipt.is_empty());
    }
    call(&stage, &paywall, fresh, "first").await;
    // A repeat gets its answer again, also that of the old process.
    let request = stage.signed(used, Some("one"), b"{}").await;
    let repeated = answer(paywall.enter(&charge(&paywall), &request, None).await);
    assert_eq!((repeated.status, &repeated.body[..]), (200, &b"one"[..]));

    let health = page(&paywall, "/health").await;
    let [former] = &health["formerKeys"].as_array().unwrap()[..] else { panic!("{health}") };
    assert_eq!((&former["provider"], &former["open"]), (&old_address.clone().into(), &2.into()));
    assert_eq!(health["otherKeys"], serde_json::json!([]), "{health}");
    let status = page(&paywall, &format!("/api/payments/{used}")).await;
    assert_eq!((&status["calls"], &status["spent"]), (&3.into(), &"0.30 USDC".into()));
    let metrics = paywall.page(&Incoming::new("GET", "/metrics", b"")).await.unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    let calls = "agirails_paywall_calls_total{route=\"POST /api/generate\"} 4\n";
    assert!(metrics.contains(calls), "{metrics}");
    assert!(metrics.contains("agirails_paywall_open_payments 2\n"), "{metrics}");

    // Offers name the new key, also to who has used up what was paid to the old one.
    let request = stage.signed(TransactionId::repeat_byte(9), Some("other"), b"{}").await;
    let unknown = answer(paywall.enter(&charge(&paywall), &request, None).await);
    let request = stage.signed(used, Some("dear"), b"{}").await;
    let dear = Charge::new("POST /api/generate", DOLLAR).calls(1);
    let dear = paywall.charge(dear).unwrap();
    let spent = answer(paywall.enter(&dear, &request, None).await);
    for rejected in [unknown, spent] {
        let told = json(&rejected);
        assert_eq!(rejected.status, 402, "{told}");
        assert!(told.to_string().contains(&new.address().to_string()), "{told}");
        assert!(!told["accepts"].to_string().contains(&old_address), "{told}");
    }
    let pricing = page(&paywall, "/api/pricing").await;
    assert_eq!(pricing["provider"], new.address().to_string());

    // The old key moves what was paid to it.
    assert_eq!(paywall.close(used).await.unwrap(), Some("delivering"));
    stage.becomes(used, State::Delivered).await;
    assert_eq!(paywall.refund(refunded).await.unwrap(), "returning");
    stage.becomes(refunded, State::Cancelled).await;
    let evidence = paywall.evidence(used).await.unwrap();
    assert_eq!(
        (evidence.calls.len(), evidence.transaction.provider),
        (3, stage.provider.address())
    );
    assert_eq!(stage.state(fresh).await, State::Committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_that_nobody_can_deliver_are_named() {
    let (stage, [used, ..], new) = served_by_the_old_key().await;
    let events = Arc::new(Mutex::new(vec![]));
    let told = events.clone();
    let builder = new_paywall(&new).on_event(move |event| told.lock().unwrap().push(event.clone()));
    let paywall = builder.open().await.unwrap();
    let told = async || {
        // The old paywall's last turn may have taken its lease anew: it is looked again after 15 s.
        for _ in 0..600 {
            let found = events.lock().unwrap().iter().find_map(|event| {
                let is_it = event.message.contains("whose key this paywall does not have");
                is_it.then(|| event.clone())
            });
            if found.is_some() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    };
    let event = told().await;
    let event = event.unwrap_or_else(|| panic!("nobody was told: {:?}", events.lock().unwrap()));
    let old = stage.provider.address().to_string();
    assert_eq!(event.level, Level::Error);
    let words = format!("1 payments over 1.00 USDC to {old}");
    assert!(event.message.contains(&words), "{}", event.message);
    let health = page(&paywall, "/health").await;
    let other = serde_json::json!([{"provider": old, "payments": 1, "amount": "1.00 USDC"}]);
    assert_eq!(health["otherKeys"], other);
    let request = stage.signed(used, Some("two"), b"{}").await;
    assert_eq!(answer(paywall.enter(&charge(&paywall), &request, None).await).status, 403);

    // Named, it is served, and nobody complains.
    drop(paywall);
    let paywall = new_paywall(&new).former_client(stage.provider.clone()).open().await.unwrap();
    call(&stage, &paywall, used, "two").await;
}

#[tokio::test]
async fn a_former_client_is_another_one() {
    let (stage, _, new) = served_by_the_old_key().await;
    let old = || stage.provider.clone();
    for builder in [
        new_paywall(&new).former_client(new.clone()),
        new_paywall(&new).former_client(old()).former_client(old()),
    ] {
        let error = builder.open().await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidSettings, "{error}");
        assert!(error.to_string().contains("is named twice"), "{error}");
        assert_eq!(error.facts().field, Some("former_clients"));
    }
}
