//! One run, one answer, one delivery.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use agirails::{
    State, Usdc,
    paywall::{Action, Answer, Charge, Chunk, End, Entry, Incoming, Reason, Settings},
    protocol::{
        paid_request::PaidRequest,
        receipt::{CallRecord, Expected, RECEIPT_HEADER, Receipt, merkle_root},
    },
};
use alloy_primitives::keccak256;
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::fixture::{CENTS_10, Stage, answer, charge, json, ok, run};

fn receipt(answer: &Answer) -> Receipt {
    let header = answer.header(RECEIPT_HEADER).unwrap();
    serde_json::from_slice(&STANDARD.decode(header).unwrap()).unwrap()
}

#[tokio::test]
async fn a_call_is_run_once_answered_again_and_delivered() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;

    let request = stage.signed(id, None, b"{}").await;
    let served = run(paywall.enter(&charge, &request, None).await);
    assert_eq!(served.payment().transaction_id, id);
    assert_eq!(served.payment().attempt, 1);
    let first = served.finish(ok("hello")).await;
    assert_eq!((first.status, first.body.as_slice()), (200, b"hello".as_slice()));

    let record = PaidRequest::new(id, "POST", "/api/generate", b"{}", 0);
    let record = CallRecord {
        request: &record,
        status: 200,
        content_type: "text/plain",
        body_hash: keccak256("hello"),
    };
    let receipt = receipt(&first);
    assert!(receipt.signature.is_some());
    let network = stage.requester.network();
    let now = stage.requester.now().await.unwrap();
    let expected = Expected {
        provider: stage.provider.address(),
        requester: stage.requester.address(),
        chain_id: network.chain_id,
        kernel: network.kernel,
        may_be_unsigned: false,
        calls: 1,
        answered: now..=now,
    };
    receipt.check(&record, &expected).unwrap();

    let again = answer(paywall.enter(&charge, &request, None).await);
    assert_eq!(again.header("X-AGIRAILS-REPLAY"), Some(b"1".as_slice()));
    assert_eq!(Answer { headers: again.headers[..first.headers.len()].to_vec(), ..again }, first);

    stage.becomes(id, State::Delivered).await;
    let proof = stage.provider.get_delivery_proof(id).await.unwrap().unwrap();
    assert_eq!(proof.content_hash, receipt.content_hash);
    let other = stage.signed(id, None, b"other").await;
    let refused = answer(paywall.enter(&charge, &other, None).await);
    assert_eq!(
        (refused.status, json(&refused)["error"].clone()),
        (409, "Transaction Already Used".into())
    );
}

#[tokio::test]
async fn fifty_at_once_run_once_and_get_equal_answers() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    let request = stage.signed(id, None, b"{}").await;
    let runs = Arc::new(AtomicU32::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (paywall, charge) = (paywall.clone(), charge.clone());
        let (request, runs) = (request.clone(), runs.clone());
        tasks.spawn(async move {
            match paywall.enter(&charge, &request, None).await {
                Entry::Answer(answer) => answer,
                Entry::Run(served) => {
                    let number = runs.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    served.finish(ok(&format!("run {number}"))).await
                }
            }
        });
    }
    let answers = tasks.join_all().await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(answers.iter().all(|answer| (answer.status, &*answer.body) == (200, b"run 0")));
}

#[tokio::test]
async fn a_failed_run_takes_nothing_and_may_be_repeated_until_it_is_given_up() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    let request = stage.signed(id, None, b"{}").await;
    let mut keys = vec![];
    for attempt in 1..=5 {
        let served = run(paywall.enter(&charge, &request, None).await);
        assert_eq!(served.payment().attempt, attempt);
        keys.push(served.payment().idempotency_key.clone());
        let answer = served.finish(Answer::new(500, "broken")).await;
        assert_eq!((answer.status, &*answer.body), (500, b"broken".as_slice()));
    }
    assert!(keys.iter().all(|key| *key == keys[0]));
    stage.becomes(id, State::Cancelled).await;
    let refused = answer(paywall.enter(&charge, &request, None).await);
    assert_eq!(json(&refused)["currentState"], "CANCELLED");
    let balance = stage.requester.balance().await.unwrap();
    assert_eq!(balance, stage.provider.balance().await.unwrap(), "all of it came back");
}

#[tokio::test]
async fn a_balance_is_drawn_down_and_delivered_once() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = paywall.charge(Charge::new("POST /api/generate", Usdc(20_000)).calls(5)).unwrap();
    let id = stage.funded(CENTS_10).await;
    let mut leaves = vec![];
    for number in 0..5 {
        let key = format!("call-{number}");
        let request = stage.signed(id, Some(&key), b"{}").await;
        let served = run(paywall.enter(&charge, &request, None).await);
        leaves.push(receipt(&served.finish(ok("x")).await).content_hash);
        let again = answer(paywall.enter(&charge, &request, None).await);
        assert_eq!(again.status, 200);
        assert_eq!(receipt(&again).index, number);
    }
    stage.becomes(id, State::Delivered).await;
    let proof = stage.provider.get_delivery_proof(id).await.unwrap().unwrap();
    assert_eq!(proof.content_hash, merkle_root(&leaves).unwrap());
    let request = stage.signed(id, Some("one-more"), b"{}").await;
    let refused = answer(paywall.enter(&charge, &request, None).await);
    assert_eq!((refused.status, json(&refused)["currentState"].clone()), (402, "DELIVERED".into()));
}

#[tokio::test]
async fn what_is_never_called_is_given_back_before_its_deadline() {
    let stage = Stage::new().await;
    let _paywall = stage.paywall().await;
    let id = stage.funded_for(CENTS_10, 100).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stage.state(id).await, State::Committed);
    stage.provider.mock().unwrap().advance_time(50).await.unwrap();
    stage.becomes(id, State::Cancelled).await;
}

#[tokio::test]
async fn a_dropped_ticket_and_a_dead_owner_free_the_claim() {
    let stage = Stage::new().await;
    let settings = Settings { lease: Duration::from_secs(1), ..Settings::default() };
    let paywall = stage.builder().settings(settings.clone()).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    let request = stage.signed(id, None, b"{}").await;
    drop(run(paywall.enter(&charge, &request, None).await));
    let served = run(paywall.enter(&charge, &request, None).await);
    assert_eq!(served.payment().attempt, 2);
    // Held for longer than its lease by a process that lives.
    let other = paywall.clone();
    let (twin, again) = (charge.clone(), request.clone());
    let waiting = tokio::spawn(async move { other.enter(&twin, &again, None).await });
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(!waiting.is_finished());
    served.finish(ok("late")).await;
    assert_eq!(answer(waiting.await.unwrap()).body, b"late");
}

#[tokio::test]
async fn a_repeat_waits_for_its_own_run_however_near_the_deadline_is() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded_for(CENTS_10, 200).await;
    let request = stage.signed(id, None, b"{}").await;
    let served = run(paywall.enter(&charge, &request, None).await);
    stage.provider.mock().unwrap().advance_time(100).await.unwrap();
    let (other, twin, again) = (paywall.clone(), charge.clone(), request.clone());
    let repeat = tokio::spawn(async move { other.enter(&twin, &again, None).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!repeat.is_finished());
    served.abort(Reason::Raised, "it broke").await;
    // Nothing new is begun.
    assert_eq!(answer(repeat.await.unwrap()).status, 402);
}

#[tokio::test]
async fn an_answer_behind_the_deadline_is_none() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded_for(CENTS_10, 200).await;
    let request = stage.signed(id, None, b"{}").await;
    let served = run(paywall.enter(&charge, &request, None).await);
    stage.provider.mock().unwrap().advance_time(300).await.unwrap();
    let late = served.finish(ok("late")).await;
    assert_eq!((late.status, json(&late)["error"].clone()), (503, "Answered Too Late".into()));
    stage.becomes(id, State::Cancelled).await;
}

#[tokio::test]
async fn a_run_that_was_taken_over_is_told_so_and_not_that_its_money_comes_back() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    let request = stage.signed(id, None, b"{}").await;
    let asleep = run(paywall.enter(&charge, &request, None).await);
    stage.rewrite("UPDATE calls SET lease_until = 0");
    let second = run(paywall.enter(&charge, &request, None).await);
    assert_eq!(second.payment().attempt, 2);
    let told = asleep.finish(ok("first")).await;
    assert_eq!((told.status, json(&told)["error"].clone()), (503, "Taken Over".into()));
    assert_eq!(second.finish(ok("second")).await.body, b"second");
}

#[tokio::test]
async fn the_proof_is_of_the_bytes_that_the_caller_gets() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let cases =
        [("HEAD", 200, false), ("POST", 204, false), ("HEAD", 200, true), ("POST", 205, true)];
    for (method, status, in_a_stream) in cases {
        let id = stage.funded(CENTS_10).await;
        let mut request = Incoming::new(method, "/api/generate", b"");
        request.transaction_id = Some(id.to_string());
        let served = run(paywall.enter(&charge, &request, None).await);
        if in_a_stream {
            let mut served = served;
            assert_eq!(served.head(status, vec![], None).action, Action::Buffer);
            assert_eq!(served.chunk(b"bytes that no server sends"), Chunk::Hold);
            assert!(matches!(served.end().await, End::Answer { is_handlers: true, .. }));
        } else {
            let answered = served.finish(Answer::new(status, "bytes that no server sends")).await;
            assert!(answered.body.is_empty());
        }
        let kept = answer(paywall.enter(&charge, &request, None).await);
        let record = CallRecord {
            request: &PaidRequest::new(id, method, "/api/generate", b"", 0),
            status,
            content_type: "",
            body_hash: keccak256(""),
        };
        assert_eq!(receipt(&kept).content_hash, record.content_hash().unwrap());
    }
}

#[tokio::test]
async fn a_stream_whose_transaction_is_closed_takes_no_more_pieces_and_is_paid() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded_for(CENTS_10, 200).await;
    let request = stage.signed(id, None, b"{}").await;
    let mut served = run(paywall.enter(&charge, &request, None).await);
    assert_eq!(served.head(200, vec![], None).action, Action::Stream);
    assert_eq!(served.chunk(b"paid for"), Chunk::Send);
    stage.provider.mock().unwrap().advance_time(150).await.unwrap();
    stage.becomes(id, State::Delivered).await;
    assert_eq!(served.chunk(b"too late"), Chunk::Break);
    served.abort(Reason::BrokeOff, "").await;
}

#[tokio::test]
async fn claims_are_kept_beside_the_clients_state() {
    let stage = Stage::new().await;
    let _paywall = stage.paywall().await;
    let files = std::fs::read_dir(stage.directory.path().join(".actp")).unwrap();
    let names: Vec<_> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("paywall-31337-")), "{names:?}");
}
