//! What a consumer keeps for a dispute, and the file that it makes of it.

use agirails::{
    Code, Refusal, State, TransactionId,
    consumer::{Consumer, HttpOutcome, PaidCall},
    paywall::{Settings, Settle},
    protocol::evidence::{Conclusion, Evidence, Outcome, Verification, compare_with_chain, verify},
};

use crate::fixture::{CENTS_10, DOLLAR, Fixture, call, drive};

/// A service that leaves settling to others, so that there is time for a dispute.
async fn fixture() -> Fixture {
    Fixture::with(Settings { settle: Settle::Never, ..Settings::default() }, CENTS_10).await
}

/// The file as its reader has it.
async fn written(consumer: &Consumer, id: TransactionId) -> Evidence {
    let evidence = consumer.evidence(id).await.unwrap();
    assert_eq!(Evidence::from_json(&evidence.to_json().unwrap()).unwrap(), evidence);
    evidence
}

async fn assert_holds(fixture: &Fixture, evidence: &Evidence) {
    let found = verify(evidence);
    assert_eq!(found.conclusion(), Conclusion::Holds, "{found:?}");
    let network = fixture.payer.network();
    let read = fixture.payer.get_transaction(evidence.transaction.id).await.unwrap();
    let compared = compare_with_chain(evidence, &read, network.chain_id, network.kernel);
    assert_eq!(compared.conclusion(), Conclusion::Holds, "{compared:?}");
}

fn of(verification: &Verification, outcome: Outcome) -> Vec<&str> {
    let findings = verification.findings.iter();
    findings.filter(|found| found.outcome == outcome).map(|found| &*found.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disputed_call_is_shown_whole_without_asking_its_provider() {
    let fixture = fixture().await;
    let consumer = fixture.trusting().await;
    let secret = call().header("Authorization", "Bearer SECRET").header("X-Tenant", "seven");
    let paid = fixture.buy(&consumer, secret).await.unwrap();
    let id = paid.payment.unwrap().transaction_id;

    // Before the delivery nothing is known of it.
    let early = written(&consumer, id).await;
    if early.transaction.state == State::Committed {
        assert_eq!(of(&verify(&early), Outcome::Fails), Vec::<&str>::new());
    }
    fixture.becomes(id, State::Delivered).await;
    consumer.dispute(id, DOLLAR).await.unwrap();
    let evidence = written(&consumer, id).await;
    assert_holds(&fixture, &evidence).await;
    assert_eq!(evidence.transaction.state, State::Disputed);
    let [call] = &evidence.calls[..] else { panic!("{evidence:?}") };
    assert_eq!(call.request.body.as_ref().unwrap().as_bytes(), b"{}");
    assert_eq!(call.answer.body.as_ref().unwrap().as_bytes(), b"answer 0");
    assert!(call.received_at <= call.answered_at && call.answered_at.is_some());
    let sent = fixture.service.seen.lock().unwrap().last().unwrap().clone();
    let signature = sent.headers.iter().find(|(name, _)| name == "X-AGIRAILS-SIGNATURE").unwrap();
    assert_eq!(call.request.signature.as_ref().unwrap().to_string(), signature.1);
    assert_eq!(call.branch, Some(vec![]));
    let text = evidence.to_json().unwrap();
    assert!(text.contains("seven") && !text.contains("SECRET"), "{text}");
    for file in std::fs::read_dir(fixture.directory.path().join(".actp")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"SECRET"));
    }

    // Both sides made a file of the same call.
    let theirs = fixture.service.paywall.evidence(id).await.unwrap();
    assert_eq!(theirs.content_hash(&theirs.calls[0]), evidence.content_hash(call));
    assert_eq!(theirs.calls[0].receipt, call.receipt);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_bundle_has_its_way_to_what_was_delivered() {
    let fixture = fixture().await;
    let consumer = fixture.wary().await;
    let mut id = TransactionId::ZERO;
    for number in 0..10 {
        let call = call().body(format!("{number}").into_bytes());
        id = fixture.buy(&consumer, call).await.unwrap().payment.unwrap().transaction_id;
        if number == 4 {
            let open = written(&consumer, id).await;
            assert_eq!((open.calls.len(), open.delivery.is_none()), (5, true));
            assert_eq!(verify(&open).conclusion(), Conclusion::Incomplete);
        }
    }
    fixture.becomes(id, State::Delivered).await;
    let evidence = written(&consumer, id).await;
    assert_eq!((evidence.calls.len(), evidence.delivery.as_ref().unwrap().calls), (10, 10));
    assert_holds(&fixture, &evidence).await;
    // One call can be shown without the others.
    let mut one = evidence.clone();
    one.calls = vec![one.calls.swap_remove(7)];
    assert_holds(&fixture, &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_its_receipt_contradicts_is_shown_and_said_to_be() {
    let fixture = fixture().await;
    let consumer = fixture.trusting().await;
    let error = drive(consumer.purchase(call()).unwrap(), async |request| {
        let mut response = fixture.service.answer(&request).await;
        if response.status == 200 {
            response.body = b"something else".as_slice().into();
        }
        HttpOutcome::Answered(response)
    })
    .await
    .unwrap_err();
    assert_eq!(error.code(), Code::ProofMismatch, "{error}");
    let id = error.facts().transaction_id.unwrap();
    fixture.becomes(id, State::Delivered).await;
    let evidence = written(&consumer, id).await;
    let [call] = &evidence.calls[..] else { panic!("{evidence:?}") };
    assert_eq!(call.answer.body.as_ref().unwrap().as_bytes(), b"something else");
    let found = verify(&evidence);
    let fails = of(&found, Outcome::Fails);
    assert!(fails.contains(&"calls[0].receipt"), "{found:?}");
    assert!(of(&found, Outcome::Holds).contains(&"calls[0].receipt.signature"), "{found:?}");

    // The answer that is right, fetched by the same purchase, takes its place.
    let again = call_of(error.facts().purchase_key.as_ref().unwrap());
    fixture.buy(&consumer, again).await.unwrap();
    assert_holds(&fixture, &written(&consumer, id).await).await;
}

fn call_of(key: &str) -> PaidCall {
    call().purchase_key(key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_kept_as_its_hash() {
    let fixture = fixture().await;
    let trusted = fixture.provider.address().to_string();
    let builder = || Consumer::builder(fixture.payer.clone()).trust(trusted.clone());
    let consumer = builder().max_kept_body_bytes(8).open().await.unwrap();
    let long = call().body(&b"nine bytes"[..]);
    let paid = fixture.buy(&consumer, long).await.unwrap().payment.unwrap();
    fixture.becomes(paid.transaction_id, State::Delivered).await;
    let evidence = written(&consumer, paid.transaction_id).await;
    let call = &evidence.calls[0];
    assert_eq!((&call.request.body, call.answer.body.is_some()), (&None, true));
    assert_eq!(of(&verify(&evidence), Outcome::NotCheckable), ["calls[0].request.bodyHash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_and_what_is_somebody_elses_is_said() {
    let fixture = fixture().await;
    let trusted = fixture.provider.address().to_string();
    let builder = Consumer::builder(fixture.payer.clone()).trust(trusted).keep_evidence(false);
    let consumer = builder.open().await.unwrap();
    let paid = fixture.buy(&consumer, call()).await.unwrap().payment.unwrap();
    let error = consumer.evidence(paid.transaction_id).await.unwrap_err();
    assert_eq!(error.code(), Code::NothingServed);
    assert!(error.hint().unwrap().contains("keep_evidence"), "{error:?}");
    let unknown = consumer.evidence(TransactionId::ZERO).await.unwrap_err();
    assert_eq!(unknown.refusal(), Some(Refusal::TxMissing));
    let other = Consumer::builder(fixture.provider.clone()).open().await.unwrap();
    let error = other.evidence(paid.transaction_id).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::OnlyRequester));
}
