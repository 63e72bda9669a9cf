//! What every store does, one function for each sentence of [`Store`]'s contract. Each takes two
//! handles of one empty store, as two processes have them.
//!
//! [`suite`] makes a test of each: `suite!(open)`, where `open` is an async function that brings
//! the two handles and what has to live as long as they do.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, keccak256};

use super::{
    AnswerRequest, Answered, Backlog, CallId, CallRow, Claim, ClaimRequest, Claimed, Counters, DAY,
    Duty, Ended, Entry, Facts, GAS, KeptAnswer, KeptBody, KeptRequest, Known, MOVES, Outcome,
    Owner, PIECE_BYTES, PaymentFilter, Ran, ReportBy, Runs, Stage, Store, Totals, WebhookRow,
    calls_counter, net, revenue_counter,
};
use crate::{
    paywall::answer::Answer,
    protocol::{
        TransactionId, Usdc,
        money::Payout,
        receipt::{merkle_levels, merkle_places},
    },
};

macro_rules! suite {
    ($open:path) => {
        $crate::paywall::store::conformance::suite! { $open:
            an_unknown_payment_is_none,
            a_first_claim_runs_and_takes_the_payment_in,
            an_answer_is_kept_and_told_again,
            an_answer_may_be_longer_than_what_is_kept,
            bytes_come_back_as_they_were,
            a_long_body_comes_in_pieces,
            a_request_is_kept_with_its_answer_as_it_was,
            a_request_that_is_not_given_is_not_kept,
            a_request_is_kept_only_where_its_answer_is,
            requests_go_with_their_payment,
            one_call_is_found_by_itself,
            a_closed_tree_is_kept_as_long_as_its_payment,
            another_request_with_the_same_key_is_refused,
            a_running_claim_is_told_to_the_same_request_only,
            the_outcomes_of_a_claim_come_in_their_order,
            the_first_claim_decides_whether_calls_have_keys,
            the_price_must_be_covered_and_nothing_is_kept_where_it_is_not,
            the_least_counts_for_unknown_payments_only,
            facts_stay_as_they_were_first,
            balances_are_reserved_taken_and_given_back,
            a_claim_is_taken_over_once_its_lease_is_over,
            a_claim_that_is_taken_over_gives_back_what_it_held,
            only_the_latest_attempt_can_answer_or_release,
            a_lease_that_is_over_does_not_hinder_the_latest_attempt,
            the_same_answer_twice_counts_once,
            renewing_keeps_what_is_ones_own,
            the_call_that_leaves_too_little_closes,
            a_running_call_keeps_a_payment_open,
            claims_that_fail_too_often_return_the_payment,
            failed_runs_count_for_the_payment_whatever_their_keys,
            failing_payments_rest,
            an_answer_ends_the_rest,
            failed_runs_of_what_ended_are_forgotten,
            what_was_served_is_never_returned,
            what_is_not_bound_is_never_given_back,
            idle_balances_are_delivered,
            open_payments_come_in_order,
            what_others_moved_is_open_no_more,
            a_refund_gives_back_whatever_was_served,
            a_store_keeps_its_service,
            closing_before_the_time,
            closing_waits_for_running_calls,
            closing_does_not_wait_for_the_lost,
            expiring_payments_are_closed_running_calls_or_not,
            an_unused_transaction_is_given_back,
            duties_come_by_their_deadlines,
            a_duty_that_failed_comes_again_later,
            a_settled_duty_is_none_any_more,
            a_refused_delivery_is_returned,
            settling_needs_the_right_stage,
            the_first_content_hash_stays,
            leases_are_one_owners_at_a_time,
            counters_add_up,
            what_ended_long_ago_is_forgotten,
            what_could_be_spent_again_is_not_forgotten,
            settlements_come_by_their_windows_where_they_are_worth_it,
            a_settlement_that_failed_comes_again_later,
            the_books_add_up,
            what_a_dispute_left_is_booked,
            gas_that_bought_nothing_is_booked,
            the_books_share_out_what_routes_earned_together,
            the_books_outlive_the_payments,
            moves_without_a_route_are_in_a_report_by_route,
            the_richest_rows_of_a_report_come_first,
            runs_add_up_by_day_and_route,
            a_payment_is_found_with_its_story,
            payments_come_newest_first_in_pages,
            a_call_is_known_without_being_claimed,
            who_comes_too_late_is_told_why,
            events_about_money_wait_until_they_are_told_each_payments_in_order,
            events_are_kept_only_where_somebody_is_told,
            the_backlog_says_what_is_owed,
            an_original_is_no_copy,
            a_store_says_where_its_tables_went,
            one_of_many_claims_runs,
            a_balance_that_many_draw_from_is_spent_to_its_last_unit,
            random_calls_are_served_once,
            random_losses_are_fenced_off,
        }
    };
    ($open:path: $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (one, two, _kept) = $open().await;
                $crate::paywall::store::conformance::$name(&one, &two).await;
            }
        )*
    };
}
pub(super) use suite;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3_600);
/// Enough for the coarsest clock of a store to move on.
const TICK: Duration = Duration::from_millis(5);
const NOW: u64 = 1_800_000_000;
/// When the deadlines of [`facts`] are over.
const OVER: u64 = NOW + 1_001;
const US: Owner = [1; 16];
const THEM: Owner = [2; 16];

fn id(name: &str) -> TransactionId {
    keccak256(name)
}

fn facts(name: &str, amount: u64) -> Facts {
    Facts {
        id: id(name),
        requester: Address::repeat_byte(0x77),
        amount: Usdc(amount),
        deadline: NOW + 1_000,
        window_seconds: 3_600,
        net: net(Usdc(amount), 100),
        bound: true,
    }
}

/// The same request on a payment that is not bound to the store's service.
fn unbound(mut request: ClaimRequest) -> ClaimRequest {
    request.facts.bound = false;
    request
}

/// The same request where so many failed runs are allowed.
fn patiently(give_up_after: u32, mut request: ClaimRequest) -> ClaimRequest {
    request.give_up_after = give_up_after;
    request
}

/// A request on a payment of 100.
fn ask(name: &str, key: &str, price: u64) -> ClaimRequest {
    ClaimRequest {
        facts: facts(name, 100),
        key: key.to_owned(),
        digest: keccak256(format!("request {key}")),
        price: Usdc(price),
        least: Usdc(1),
        owner: US,
        lease: LONG,
        give_up_after: u32::MAX,
    }
}

fn other(mut request: ClaimRequest) -> ClaimRequest {
    request.digest = keccak256("another request");
    request
}

fn briefly(mut request: ClaimRequest) -> ClaimRequest {
    request.lease = Duration::ZERO;
    request
}

fn of(owner: Owner, mut request: ClaimRequest) -> ClaimRequest {
    request.owner = owner;
    request
}

fn claim_of(request: &ClaimRequest, attempt: u32) -> Claim {
    let call = CallId { transaction: request.facts.id, key: request.key.clone() };
    Claim { call, owner: request.owner, attempt, price: request.price }
}

/// Claims what has to run.
async fn run(store: &dyn Store, request: &ClaimRequest) -> Claim {
    match store.claim(request).await.unwrap() {
        Claimed::Run { attempt } => claim_of(request, attempt),
        other => panic!("{other:?} instead of a run of {request:?}"),
    }
}

fn body(text: &str) -> Answer {
    Answer::new(200, text)
}

/// An answer whose body is short, as it is kept.
fn kept_as(answer: &Answer) -> KeptAnswer {
    let Answer { status, headers, body } = answer.clone();
    KeptAnswer { status, headers, body: KeptBody::Whole(body) }
}

fn answer_to(claim: &Claim) -> AnswerRequest {
    AnswerRequest {
        claim: claim.clone(),
        content_hash: keccak256(&claim.call.key),
        answered_at: NOW,
        answer: Some(body(&claim.call.key)),
        request: None,
        route: "/summarize".to_owned(),
        close_below: Usdc(1),
    }
}

async fn serve(store: &dyn Store, request: &ClaimRequest) -> Stage {
    let claim = run(store, request).await;
    done(store.answer(&answer_to(&claim)).await.unwrap())
}

fn done(ended: Ended) -> Stage {
    match ended {
        Ended::Done { stage, .. } => stage,
        other => panic!("{other:?}"),
    }
}

/// Spent, reserved, calls.
async fn books(store: &dyn Store, name: &str) -> (u64, u64, u64) {
    let payment = store.payment(id(name)).await.unwrap().unwrap();
    (payment.spent.0, payment.reserved.0, payment.calls)
}

async fn stage(store: &dyn Store, name: &str) -> Stage {
    store.payment(id(name)).await.unwrap().unwrap().stage
}

/// All duties whose time has come.
async fn duties(store: &dyn Store) -> Vec<Duty> {
    let mut duties = store.duties(Stage::Delivering, 1_000).await.unwrap();
    duties.extend(store.duties(Stage::Returning, 1_000).await.unwrap());
    duties
}

/// A payment's duty, if its time has come.
async fn duty_of(store: &dyn Store, name: &str) -> Option<Duty> {
    duties(store).await.into_iter().find(|duty| duty.facts.id == id(name))
}

async fn due(store: &dyn Store) -> Vec<TransactionId> {
    duties(store).await.iter().map(|duty| duty.facts.id).collect()
}

fn moved(to: Stage) -> Outcome {
    Outcome::Moved { to, trouble: None, entry: Entry::default() }
}

fn later(after: Duration, trouble: &str) -> Outcome {
    Outcome::Later { after, trouble: trouble.to_owned() }
}

pub(super) async fn an_unknown_payment_is_none(store: &dyn Store, _: &dyn Store) {
    assert_eq!(store.payment(id("a")).await.unwrap(), None);
    assert_eq!(store.close(id("a")).await.unwrap(), None);
    assert_eq!(duty_of(store, "a").await, None);
    assert_eq!(store.calls(id("a")).await.unwrap(), []);
    assert_eq!(duties(store).await, []);
    assert_eq!(store.backlog(NOW, Usdc::ZERO).await.unwrap(), Backlog::default());
    assert_eq!(store.counters().await.unwrap(), Counters::new());
    let never = claim_of(&ask("a", "k", 10), 1);
    assert_eq!(store.answer(&answer_to(&never)).await.unwrap(), Ended::TakenOver);
    assert_eq!(store.release(&never, 1).await.unwrap(), Ended::TakenOver);
    store.renew(&[never], LONG).await.unwrap();
    store.renew(&[], LONG).await.unwrap();
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    assert_eq!(store.payment(id("a")).await.unwrap(), None);
}

pub(super) async fn a_first_claim_runs_and_takes_the_payment_in(
    store: &dyn Store,
    two: &dyn Store,
) {
    let claim = run(store, &ask("a", "k", 10)).await;
    assert_eq!(claim.attempt, 1);
    let payment = two.payment(id("a")).await.unwrap().unwrap();
    assert_eq!(payment.facts, facts("a", 100));
    assert_eq!((payment.stage, payment.calls), (Stage::Open, 0));
    assert_eq!((payment.spent, payment.reserved), (Usdc(0), Usdc(10)));
    assert_eq!((payment.content_hash, payment.trouble), (None, None));
}

pub(super) async fn an_answer_is_kept_and_told_again(store: &dyn Store, two: &dyn Store) {
    let request = ask("a", "k", 10);
    assert_eq!(serve(store, &request).await, Stage::Open);
    for store in [store, two] {
        let Claimed::Answered(kept) = store.claim(&of(THEM, request.clone())).await.unwrap() else {
            panic!("not answered");
        };
        assert_eq!((kept.index, kept.answered_at), (0, NOW));
        assert_eq!(kept.content_hash, keccak256("k"));
        assert_eq!(kept.answer, Some(kept_as(&body("k"))));
    }
    serve(two, &ask("a", "l", 10)).await;
    let calls = store.calls(id("a")).await.unwrap();
    let rows: Vec<_> = calls.iter().map(|call| (call.index, call.key.as_str())).collect();
    assert_eq!(rows, [(0, "k"), (1, "l")]);
    assert_eq!((calls[1].content_hash, calls[1].answered_at), (keccak256("l"), NOW));
    // One that runs is none of them.
    run(store, &ask("a", "m", 10)).await;
    assert_eq!(store.calls(id("a")).await.unwrap().len(), 2);
}

pub(super) async fn an_answer_may_be_longer_than_what_is_kept(store: &dyn Store, _: &dyn Store) {
    let request = ask("a", "", 100);
    let claim = run(store, &request).await;
    done(store.answer(&AnswerRequest { answer: None, ..answer_to(&claim) }).await.unwrap());
    match store.claim(&request).await.unwrap() {
        Claimed::Answered(kept) => assert_eq!(kept.answer, None),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn bytes_come_back_as_they_were(store: &dyn Store, _: &dyn Store) {
    let key = "k\u{e9}y\0 'quoted' \u{1f980}";
    let request = ask("a", key, 10);
    let claim = run(store, &request).await;
    let answer = Answer::new(599, (0..=255).collect::<Vec<u8>>())
        .with("Set-Cookie", "a=1")
        .with("X-Empty", "")
        .with("Set-Cookie", vec![0, 0xff, 0xfe]);
    let request_to_keep = AnswerRequest { answer: Some(answer.clone()), ..answer_to(&claim) };
    done(store.answer(&request_to_keep).await.unwrap());
    match store.claim(&request).await.unwrap() {
        Claimed::Answered(kept) => assert_eq!(kept.answer, Some(kept_as(&answer))),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.calls(id("a")).await.unwrap()[0].key, key);

    // Nothing at all is something else than no answer.
    for (key, body) in [("empty", vec![]), ("longest", vec![b'x'; PIECE_BYTES])] {
        let request = ask("a", key, 10);
        let claim = run(store, &request).await;
        let answer = Answer::new(204, body);
        let to_keep = AnswerRequest { answer: Some(answer.clone()), ..answer_to(&claim) };
        done(store.answer(&to_keep).await.unwrap());
        match store.claim(&request).await.unwrap() {
            Claimed::Answered(kept) => assert_eq!(kept.answer, Some(kept_as(&answer))),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) async fn a_long_body_comes_in_pieces(store: &dyn Store, two: &dyn Store) {
    for (key, length) in [("odd", 3 * PIECE_BYTES + 7), ("even", 2 * PIECE_BYTES)] {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let request = ask("a", key, 10);
        let claim = run(store, &request).await;
        let answer = Answer::new(201, body.clone()).with("X-Kind", "long");
        done(
            store
                .answer(&AnswerRequest { answer: Some(answer), ..answer_to(&claim) })
                .await
                .unwrap(),
        );
        let kept = KeptAnswer {
            status: 201,
            headers: vec![("X-Kind".to_owned(), b"long".to_vec())],
            body: KeptBody::Pieces { length: length as u64 },
        };
        match two.claim(&request).await.unwrap() {
            Claimed::Answered(found) => assert_eq!(found.answer, Some(kept.clone())),
            other => panic!("{other:?}"),
        }
        match two.known(&claim.call, request.digest).await.unwrap() {
            Known::Answered(found) => assert_eq!(found.answer, Some(kept)),
            other => panic!("{other:?}"),
        }
        let (mut read, mut number) = (vec![], 0);
        loop {
            let piece = two.piece(&claim.call, number).await.unwrap();
            assert!(piece.len() <= PIECE_BYTES);
            if piece.is_empty() {
                break;
            }
            read.extend(piece);
            number += 1;
        }
        assert!(read == body, "{key} came back as other bytes");
    }
    // None of another call, and none of one that runs.
    let running = run(store, &ask("a", "running", 10)).await;
    assert!(store.piece(&running.call, 0).await.unwrap().is_empty());
    // They go with their payment.
    let call = CallId { transaction: id("a"), key: "odd".to_owned() };
    done(store.release(&running, 9).await.unwrap());
    store.close(id("a")).await.unwrap();
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    store.settle(id("a"), Stage::Delivered, &moved(Stage::Settled)).await.unwrap();
    tokio::time::sleep(TICK).await;
    assert_eq!(store.prune(Duration::ZERO, OVER, 10).await.unwrap(), 1);
    assert!(store.piece(&call, 0).await.unwrap().is_empty());
}

/// A request with this body as it is kept.
fn kept_request(body: Option<&[u8]>) -> KeptRequest {
    KeptRequest {
        digest: keccak256("digest"),
        method: "POST".to_owned(),
        target: "/api/generate?q=\0'%41\u{1f980}".to_owned(),
        headers: vec![("accept".to_owned(), "text/*".to_owned()), (String::new(), "\0".to_owned())],
        body_hash: keccak256("body"),
        body: body.map(Bytes::copy_from_slice),
        signature: Some("t=1800000000,s=0x00".to_owned()),
        session: Some("k=0x00,u=1,s=0x".to_owned()),
        by_contract: true,
        answered: Answered {
            status: 299,
            content_type: "text/plain; charset=\u{e9}".to_owned(),
            body_hash: keccak256("answer"),
        },
    }
}

/// Answers it, with this request to keep.
async fn answer_with(store: &dyn Store, claim: &Claim, request: KeptRequest) -> Ended {
    let request = Some(Arc::new(request));
    store.answer(&AnswerRequest { request, ..answer_to(claim) }).await.unwrap()
}

pub(super) async fn a_request_is_kept_with_its_answer_as_it_was(
    store: &dyn Store,
    two: &dyn Store,
) {
    let bytes: Vec<u8> = (0..=255).collect();
    let long = vec![b'x'; 2 * PIECE_BYTES + 1];
    // Nothing at all is something else than a body that is not kept.
    for (key, body) in [
        ("k\u{e9}y\0 'quoted' \u{1f980}", Some(&bytes[..])),
        ("empty", Some(&b""[..])),
        ("long", Some(&long[..])),
        ("hash alone", None),
    ] {
        let claim = run(store, &ask("a", key, 10)).await;
        assert_eq!(store.request(&claim.call).await.unwrap(), None);
        done(answer_with(store, &claim, kept_request(body)).await);
        assert_eq!(two.request(&claim.call).await.unwrap(), Some(kept_request(body)), "{key}");
    }
    // Whatever else it holds.
    let plain = KeptRequest {
        headers: vec![],
        signature: None,
        session: None,
        by_contract: false,
        ..kept_request(None)
    };
    let claim = run(store, &ask("b", "", 100)).await;
    done(answer_with(store, &claim, plain.clone()).await);
    assert_eq!(two.request(&claim.call).await.unwrap(), Some(plain));
}

pub(super) async fn a_request_that_is_not_given_is_not_kept(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "k", 10)).await;
    for (name, key) in [("a", "k"), ("a", "other"), ("unknown", "k")] {
        let call = CallId { transaction: id(name), key: key.to_owned() };
        assert_eq!(two.request(&call).await.unwrap(), None);
    }
}

pub(super) async fn a_request_is_kept_only_where_its_answer_is(store: &dyn Store, two: &dyn Store) {
    let request = ask("a", "k", 10);
    let lost = run(store, &briefly(request.clone())).await;
    let claim = run(two, &of(THEM, request)).await;
    assert_eq!(answer_with(store, &lost, kept_request(Some(b"lost"))).await, Ended::TakenOver);
    assert_eq!(store.request(&claim.call).await.unwrap(), None);
    done(answer_with(two, &claim, kept_request(Some(b"first"))).await);
    // The same once more, and an earlier attempt's, change nothing.
    answer_with(two, &claim, kept_request(Some(b"again"))).await;
    assert_eq!(answer_with(store, &lost, kept_request(Some(b"lost"))).await, Ended::TakenOver);
    let kept = store.request(&claim.call).await.unwrap();
    assert_eq!(kept, Some(kept_request(Some(b"first"))));
    let late = run(store, &ask("b", "k", 10)).await;
    store.close_expiring(OVER).await.unwrap();
    assert_eq!(answer_with(store, &late, kept_request(None)).await, Ended::Closed);
    assert_eq!(store.request(&late.call).await.unwrap(), None);
}

pub(super) async fn requests_go_with_their_payment(store: &dyn Store, two: &dyn Store) {
    let call = |name: &str| CallId { transaction: id(name), key: String::new() };
    for name in ["a", "b"] {
        let claim = run(store, &ask(name, "", 100)).await;
        done(answer_with(store, &claim, kept_request(Some(name.as_bytes()))).await);
    }
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    store.settle(id("a"), Stage::Delivered, &moved(Stage::Disputed)).await.unwrap();
    tokio::time::sleep(TICK).await;
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 0);
    assert!(two.request(&call("a")).await.unwrap().is_some());
    store.settle(id("a"), Stage::Disputed, &moved(Stage::Settled)).await.unwrap();
    tokio::time::sleep(TICK).await;
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 1);
    assert_eq!(two.request(&call("a")).await.unwrap(), None);
    assert_eq!(two.request(&call("b")).await.unwrap(), Some(kept_request(Some(b"b"))));
}

pub(super) async fn one_call_is_found_by_itself(store: &dyn Store, two: &dyn Store) {
    for key in ["k", "l"] {
        serve(store, &ask("a", key, 10)).await;
    }
    let running = run(store, &ask("a", "running", 10)).await;
    let find = async |name: &str, key: &str| {
        let call = CallId { transaction: id(name), key: key.to_owned() };
        two.answered(&call).await.unwrap()
    };
    let found = find("a", "l").await.unwrap();
    assert_eq!(store.calls(id("a")).await.unwrap()[1], found);
    assert_eq!((found.index, found.content_hash), (1, keccak256("l")));
    assert_eq!(find("a", &running.call.key).await, None);
    assert_eq!(find("a", "").await, None);
    assert_eq!(find("b", "k").await, None);
}

pub(super) async fn a_closed_tree_is_kept_as_long_as_its_payment(
    store: &dyn Store,
    two: &dyn Store,
) {
    serve(store, &ask("a", "", 100)).await;
    serve(store, &ask("b", "", 100)).await;
    // Rows that are full, and such as are not.
    let leaves: Vec<_> = (0_u32..300).map(|leaf| keccak256(leaf.to_be_bytes())).collect();
    let levels = merkle_levels(leaves);
    store.keep_tree(id("a"), &levels).await.unwrap();
    // The first one stays.
    two.keep_tree(id("a"), &merkle_levels(vec![B256::ZERO; 300])).await.unwrap();
    for index in [0, 1, 63, 64, 65, 255, 256, 298, 299] {
        let places = merkle_places(300, index);
        let places: Vec<_> = places.iter().map(|(level, place, _)| (*level, *place)).collect();
        let expected: Vec<_> =
            places.iter().map(|(level, place)| levels[*level as usize][*place as usize]).collect();
        assert_eq!(two.nodes(id("a"), &places).await.unwrap(), expected, "{index}");
    }
    assert!(store.nodes(id("a"), &[]).await.unwrap().is_empty());
    assert!(store.nodes(id("b"), &[(0, 0)]).await.unwrap().is_empty());
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    store.settle(id("a"), Stage::Delivered, &moved(Stage::Settled)).await.unwrap();
    tokio::time::sleep(TICK).await;
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 1);
    assert!(store.nodes(id("a"), &[(0, 0)]).await.unwrap().is_empty());
}

pub(super) async fn another_request_with_the_same_key_is_refused(
    store: &dyn Store,
    two: &dyn Store,
) {
    let request = ask("a", "k", 10);
    let claim = run(store, &request).await;
    assert_eq!(two.claim(&other(request.clone())).await.unwrap(), Claimed::OtherRequest);
    done(store.release(&claim, 9).await.unwrap());
    // The key stays its first request's, also when that was given back.
    assert_eq!(two.claim(&other(request.clone())).await.unwrap(), Claimed::OtherRequest);
    serve(store, &request).await;
    assert_eq!(two.claim(&other(request)).await.unwrap(), Claimed::OtherRequest);
    // The same for a transaction as a whole.
    serve(store, &ask("b", "", 100)).await;
    assert_eq!(two.claim(&other(ask("b", "", 100))).await.unwrap(), Claimed::OtherRequest);
    // The same request with another key is another call.
    run(two, &ClaimRequest { digest: ask("a", "k", 10).digest, ..ask("a", "l", 10) }).await;
}

pub(super) async fn a_running_claim_is_told_to_the_same_request_only(
    store: &dyn Store,
    two: &dyn Store,
) {
    let request = ask("a", "k", 10);
    run(store, &request).await;
    for owner in [US, THEM] {
        match two.claim(&of(owner, request.clone())).await.unwrap() {
            Claimed::Running { lease_left } => {
                assert!(lease_left <= LONG && lease_left > LONG / 2, "{lease_left:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(books(store, "a").await, (0, 10, 0));
}

pub(super) async fn the_outcomes_of_a_claim_come_in_their_order(store: &dyn Store, _: &dyn Store) {
    // A payment with an answered, a running and a lost call, without balance for more, closed.
    serve(store, &ask("a", "answered", 10)).await;
    run(store, &ask("a", "running", 45)).await;
    run(store, &briefly(ask("a", "lost", 45))).await;
    let no_balance = Claimed::NoBalance { left: Usdc(0) };
    assert_eq!(store.claim(&ask("a", "new", 10)).await.unwrap(), no_balance);
    // The other kind is said before the balance.
    assert_eq!(store.claim(&ask("a", "", 100)).await.unwrap(), Claimed::OtherKind);
    assert_eq!(store.close_expiring(u64::MAX / 4).await.unwrap(), 1);
    // Closed is said before both.
    let closed = Claimed::Closed(Stage::Delivering);
    assert_eq!(store.claim(&ask("a", "new", 10)).await.unwrap(), closed);
    assert_eq!(store.claim(&ask("a", "", 100)).await.unwrap(), closed);
    assert_eq!(store.claim(&ask("a", "lost", 45)).await.unwrap(), closed);
    // What is known of the call itself is said before that.
    let running = store.claim(&ask("a", "running", 45)).await.unwrap();
    assert!(matches!(running, Claimed::Running { .. }), "{running:?}");
    let answered = store.claim(&ask("a", "answered", 10)).await.unwrap();
    assert!(matches!(answered, Claimed::Answered(_)), "{answered:?}");
    for key in ["answered", "running", "lost"] {
        assert_eq!(store.claim(&other(ask("a", key, 10))).await.unwrap(), Claimed::OtherRequest);
    }
}

pub(super) async fn the_first_claim_decides_whether_calls_have_keys(
    store: &dyn Store,
    _: &dyn Store,
) {
    let claim = run(store, &ask("keyed", "k", 10)).await;
    assert_eq!(store.claim(&ask("keyed", "", 100)).await.unwrap(), Claimed::OtherKind);
    done(store.release(&claim, 9).await.unwrap());
    assert_eq!(store.claim(&ask("keyed", "", 100)).await.unwrap(), Claimed::OtherKind);
    let claim = run(store, &ask("whole", "", 100)).await;
    assert_eq!(store.claim(&ask("whole", "k", 10)).await.unwrap(), Claimed::OtherKind);
    done(store.release(&claim, 9).await.unwrap());
    assert_eq!(store.claim(&ask("whole", "k", 10)).await.unwrap(), Claimed::OtherKind);
}

pub(super) async fn the_price_must_be_covered_and_nothing_is_kept_where_it_is_not(
    store: &dyn Store,
    _: &dyn Store,
) {
    let short = |left| Claimed::NoBalance { left: Usdc(left) };
    assert_eq!(store.claim(&ask("a", "k", 101)).await.unwrap(), short(100));
    assert_eq!(store.claim(&ask("a", "k", u64::MAX)).await.unwrap(), short(100));
    assert_eq!(store.payment(id("a")).await.unwrap(), None);
    serve(store, &ask("a", "k", 60)).await;
    let claim = run(store, &ask("a", "l", 30)).await;
    assert_eq!(store.claim(&ask("a", "m", 11)).await.unwrap(), short(10));
    assert_eq!(books(store, "a").await, (60, 30, 1));
    // Nothing was kept of the request that was not covered: its key is free.
    done(store.release(&claim, 9).await.unwrap());
    run(store, &other(ask("a", "m", 40))).await;
    assert_eq!(books(store, "a").await, (60, 40, 1));
}

pub(super) async fn the_least_counts_for_unknown_payments_only(store: &dyn Store, _: &dyn Store) {
    let request = ClaimRequest { least: Usdc(101), ..ask("a", "k", 10) };
    assert_eq!(store.claim(&request).await.unwrap(), Claimed::NoBalance { left: Usdc(100) });
    assert_eq!(store.payment(id("a")).await.unwrap(), None);
    run(store, &ClaimRequest { least: Usdc(100), ..ask("a", "k", 10) }).await;
    run(store, &ClaimRequest { least: Usdc(1_000), ..ask("a", "l", 10) }).await;
}

pub(super) async fn facts_stay_as_they_were_first(store: &dyn Store, two: &dyn Store) {
    run(store, &ask("a", "k", 10)).await;
    let richer = ClaimRequest { facts: facts("a", 1_000), ..ask("a", "l", 91) };
    assert_eq!(two.claim(&richer).await.unwrap(), Claimed::NoBalance { left: Usdc(90) });
    assert_eq!(two.payment(id("a")).await.unwrap().unwrap().facts, facts("a", 100));
}

pub(super) async fn balances_are_reserved_taken_and_given_back(store: &dyn Store, two: &dyn Store) {
    let claim = run(store, &ask("a", "k", 40)).await;
    assert_eq!(books(two, "a").await, (0, 40, 0));
    assert_eq!(done(store.release(&claim, 9).await.unwrap()), Stage::Open);
    assert_eq!(books(two, "a").await, (0, 0, 0));
    let again = run(two, &ask("a", "k", 60)).await;
    assert_eq!(again.attempt, 2);
    assert_eq!(books(store, "a").await, (0, 60, 0));
    done(two.answer(&answer_to(&again)).await.unwrap());
    assert_eq!(books(store, "a").await, (60, 0, 1));
    // What is free costs nothing, and is a call.
    serve(store, &ask("a", "free", 0)).await;
    assert_eq!(books(store, "a").await, (60, 0, 2));
}

pub(super) async fn a_claim_is_taken_over_once_its_lease_is_over(
    store: &dyn Store,
    two: &dyn Store,
) {
    run(store, &briefly(ask("a", "k", 10))).await;
    let taken = run(two, &of(THEM, ask("a", "k", 10))).await;
    assert_eq!(taken.attempt, 2);
    let standing = store.claim(&ask("a", "k", 10)).await.unwrap();
    assert!(matches!(standing, Claimed::Running { .. }), "{standing:?}");
    // A lease is as long as it was asked for.
    let short = ClaimRequest { lease: Duration::from_millis(200), ..ask("a", "l", 10) };
    run(store, &short).await;
    let Claimed::Running { lease_left } = two.claim(&short).await.unwrap() else {
        // On a machine that stood still meanwhile.
        return;
    };
    assert!(lease_left <= short.lease);
    tokio::time::sleep(lease_left + TICK).await;
    assert_eq!(run(two, &short).await.attempt, 2);
}

pub(super) async fn a_claim_that_is_taken_over_gives_back_what_it_held(
    store: &dyn Store,
    _: &dyn Store,
) {
    run(store, &briefly(ask("a", "k", 80))).await;
    // Without what it held the balance would not do.
    run(store, &briefly(ask("a", "k", 90))).await;
    assert_eq!(books(store, "a").await, (0, 90, 0));
    let claim = run(store, &ask("a", "k", 30)).await;
    assert_eq!(books(store, "a").await, (0, 30, 0));
    done(store.answer(&answer_to(&claim)).await.unwrap());
    assert_eq!(books(store, "a").await, (30, 0, 1));
}

pub(super) async fn only_the_latest_attempt_can_answer_or_release(
    store: &dyn Store,
    two: &dyn Store,
) {
    let first = run(store, &briefly(ask("a", "k", 10))).await;
    let second = run(two, &briefly(of(THEM, ask("a", "k", 20)))).await;
    let forged = Claim { owner: US, ..second };
    for stale in [&first, &forged] {
        assert_eq!(store.answer(&answer_to(stale)).await.unwrap(), Ended::TakenOver);
        assert_eq!(store.release(stale, 1).await.unwrap(), Ended::TakenOver);
        store.renew(std::slice::from_ref(stale), LONG).await.unwrap();
    }
    assert_eq!(books(store, "a").await, (0, 20, 0));
    // The renewals were not heard.
    let third = run(two, &of(THEM, ask("a", "k", 20))).await;
    assert_eq!(third.attempt, 3);
    done(two.answer(&answer_to(&third)).await.unwrap());
    assert_eq!(store.answer(&answer_to(&first)).await.unwrap(), Ended::TakenOver);
    assert_eq!(store.release(&third, 1).await.unwrap(), Ended::TakenOver);
    assert_eq!(books(store, "a").await, (20, 0, 1));
    // A claim that was given back, and claimed anew, is the new one's.
    let first = run(store, &ask("b", "k", 10)).await;
    done(store.release(&first, 9).await.unwrap());
    assert_eq!(store.answer(&answer_to(&first)).await.unwrap(), Ended::TakenOver);
    run(store, &ask("b", "k", 10)).await;
    assert_eq!(store.answer(&answer_to(&first)).await.unwrap(), Ended::TakenOver);
}

pub(super) async fn a_lease_that_is_over_does_not_hinder_the_latest_attempt(
    store: &dyn Store,
    two: &dyn Store,
) {
    let late = run(store, &briefly(ask("a", "k", 10))).await;
    done(two.answer(&answer_to(&late)).await.unwrap());
    let late = run(store, &briefly(ask("a", "l", 10))).await;
    done(two.release(&late, 9).await.unwrap());
    assert_eq!(books(store, "a").await, (10, 0, 1));
}

pub(super) async fn the_same_answer_twice_counts_once(store: &dyn Store, two: &dyn Store) {
    let claim = run(store, &ask("a", "k", 10)).await;
    done(store.answer(&answer_to(&claim)).await.unwrap());
    // Too late, or done as before, for one that does not know whether it was heard.
    two.answer(&answer_to(&claim)).await.unwrap();
    // Another answer of the same attempt is not heard.
    let another = AnswerRequest { content_hash: B256::ZERO, ..answer_to(&claim) };
    assert_eq!(two.answer(&another).await.unwrap(), Ended::TakenOver);
    assert_eq!(books(store, "a").await, (10, 0, 1));
    assert_eq!(store.counters().await.unwrap().values().copied().collect::<Vec<_>>(), [1, 10]);
    assert_eq!(store.calls(id("a")).await.unwrap()[0].content_hash, keccak256("k"));
    let claim = run(store, &ask("a", "l", 10)).await;
    done(store.release(&claim, 9).await.unwrap());
    store.release(&claim, 1).await.unwrap();
    assert_eq!(books(store, "a").await, (10, 0, 1));
}

pub(super) async fn renewing_keeps_what_is_ones_own(store: &dyn Store, two: &dyn Store) {
    let mine = run(store, &briefly(ask("a", "k", 10))).await;
    let whole = run(store, &briefly(ask("b", "", 100))).await;
    let answered = run(store, &ask("a", "l", 10)).await;
    done(store.answer(&answer_to(&answered)).await.unwrap());
    store.renew(&[answered, mine, whole], LONG).await.unwrap();
    for request in [ask("a", "k", 10), ask("b", "", 100)] {
        match two.claim(&of(THEM, request)).await.unwrap() {
            Claimed::Running { lease_left } => assert!(lease_left > LONG / 2),
            other => panic!("{other:?}"),
        }
    }
    let answered = two.claim(&ask("a", "l", 10)).await.unwrap();
    assert!(matches!(answered, Claimed::Answered(_)), "{answered:?}");
}

pub(super) async fn the_call_that_leaves_too_little_closes(store: &dyn Store, _: &dyn Store) {
    assert_eq!(serve(store, &ask("a", "k", 90)).await, Stage::Open);
    let claim = run(store, &ask("a", "l", 1)).await;
    let nearly = AnswerRequest { close_below: Usdc(9), ..answer_to(&claim) };
    assert_eq!(done(store.answer(&nearly).await.unwrap()), Stage::Open);
    let claim = run(store, &ask("a", "m", 1)).await;
    let last = AnswerRequest { close_below: Usdc(9), answered_at: NOW + 7, ..answer_to(&claim) };
    assert_eq!(done(store.answer(&last).await.unwrap()), Stage::Delivering);
    assert_eq!(stage(store, "a").await, Stage::Delivering);
    let duty = duty_of(store, "a").await.unwrap();
    assert_eq!((duty.stage, duty.answered_at, duty.tries), (Stage::Delivering, NOW + 7, 0));
    assert_eq!((duty.facts, duty.content_hash), (facts("a", 100), None));
    assert!(duty.age < LONG);
    assert_eq!(serve(store, &ask("b", "", 100)).await, Stage::Delivering);
}

pub(super) async fn a_running_call_keeps_a_payment_open(store: &dyn Store, two: &dyn Store) {
    let slow = run(two, &ask("a", "slow", 50)).await;
    assert_eq!(serve(store, &ask("a", "k", 50)).await, Stage::Open);
    assert_eq!(done(two.answer(&answer_to(&slow)).await.unwrap()), Stage::Delivering);
}

pub(super) async fn claims_that_fail_too_often_return_the_payment(
    store: &dyn Store,
    _: &dyn Store,
) {
    let request = ask("a", "", 100);
    for attempt in 1..=3 {
        let claim = run(store, &request).await;
        assert_eq!(claim.attempt, attempt);
        let expected = if attempt < 3 { Stage::Open } else { Stage::Returning };
        assert_eq!(done(store.release(&claim, 3).await.unwrap()), expected);
    }
    assert_eq!(store.claim(&request).await.unwrap(), Claimed::Closed(Stage::Returning));
    assert_eq!(duty_of(store, "a").await.unwrap().stage, Stage::Returning);
    // Runs that got lost count.
    run(store, &briefly(ask("b", "k", 10))).await;
    let claim = run(store, &ask("b", "k", 10)).await;
    assert_eq!(done(store.release(&claim, 2).await.unwrap()), Stage::Returning);
    // While another call runs nothing is given up.
    let other = run(store, &ask("c", "other", 10)).await;
    let claim = run(store, &ask("c", "k", 10)).await;
    assert_eq!(done(store.release(&claim, 1).await.unwrap()), Stage::Open);
    assert_eq!(done(store.release(&other, 1).await.unwrap()), Stage::Returning);
}

pub(super) async fn failed_runs_count_for_the_payment_whatever_their_keys(
    store: &dyn Store,
    two: &dyn Store,
) {
    for (number, key) in ["k", "l", "m"].into_iter().enumerate() {
        let claim = run(two, &ask("a", key, 10)).await;
        assert_eq!(claim.attempt, 1);
        let expected = if number < 2 { Stage::Open } else { Stage::Returning };
        assert_eq!(done(store.release(&claim, 3).await.unwrap()), expected);
    }
    // What was served in between begins the count anew.
    for key in ["k", "l"] {
        let claim = run(store, &ask("b", key, 10)).await;
        assert_eq!(done(store.release(&claim, 3).await.unwrap()), Stage::Open);
    }
    serve(store, &ask("b", "good", 10)).await;
    let claim = run(store, &ask("b", "m", 10)).await;
    assert_eq!(done(store.release(&claim, 3).await.unwrap()), Stage::Open);
    run(store, &patiently(3, ask("b", "n", 10))).await;
}

pub(super) async fn failing_payments_rest(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "good", 10)).await;
    for key in ["k", "l", "m", "n", "o", "p", "q", "r"] {
        let claim = run(two, &ask("a", key, 10)).await;
        done(store.release(&claim, 2).await.unwrap());
    }
    // For twice as long with every failure from the second on.
    match two.claim(&patiently(2, ask("a", "next", 10))).await.unwrap() {
        Claimed::Resting { left } => {
            assert!(left <= Duration::from_secs(64) && left > Duration::from_secs(32), "{left:?}");
        }
        other => panic!("{other:?}"),
    }
    // Nothing was reserved for a call that has to wait, and kept answers are given all the same.
    assert_eq!(books(store, "a").await, (10, 0, 1));
    let answered = two.claim(&patiently(2, ask("a", "good", 10))).await.unwrap();
    assert!(matches!(answered, Claimed::Answered(_)), "{answered:?}");
    // A payment of which nothing was served rests while a run of it lasts.
    run(store, &ask("b", "slow", 10)).await;
    let claim = run(store, &ask("b", "k", 10)).await;
    assert_eq!(done(store.release(&claim, 1).await.unwrap()), Stage::Open);
    let resting = store.claim(&patiently(1, ask("b", "l", 10))).await.unwrap();
    assert!(matches!(resting, Claimed::Resting { .. }), "{resting:?}");
}

pub(super) async fn an_answer_ends_the_rest(store: &dyn Store, _: &dyn Store) {
    let slow = run(store, &ask("a", "slow", 10)).await;
    let claim = run(store, &ask("a", "k", 10)).await;
    done(store.release(&claim, 1).await.unwrap());
    done(store.answer(&answer_to(&slow)).await.unwrap());
    run(store, &patiently(1, ask("a", "k", 10))).await;
}

pub(super) async fn failed_runs_of_what_ended_are_forgotten(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "good", 10)).await;
    let claim = run(store, &ask("a", "bad", 10)).await;
    done(store.release(&claim, 9).await.unwrap());
    let bad = || async { two.claim(&other(ask("a", "bad", 10))).await.unwrap() };
    assert_eq!(bad().await, Claimed::OtherRequest);
    store.close(id("a")).await.unwrap();
    store.settle(id("a"), Stage::Delivering, &later(LONG, "no gas")).await.unwrap();
    assert_eq!(bad().await, Claimed::OtherRequest);
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    assert_eq!(bad().await, Claimed::Closed(Stage::Delivered));
    assert_eq!(two.calls(id("a")).await.unwrap().len(), 1);
}

pub(super) async fn what_is_not_bound_is_never_given_back(store: &dyn Store, two: &dyn Store) {
    let claim = run(store, &unbound(ask("failed", "", 100))).await;
    assert!(!two.payment(id("failed")).await.unwrap().unwrap().facts.bound);
    assert_eq!(done(store.release(&claim, 1).await.unwrap()), Stage::Left);
    let closed = Claimed::Closed(Stage::Left);
    assert_eq!(two.claim(&unbound(ask("failed", "", 100))).await.unwrap(), closed);

    let claim = run(store, &unbound(ask("open", "k", 10))).await;
    done(store.release(&claim, 9).await.unwrap());
    assert_eq!(two.close(id("open")).await.unwrap(), Some(Stage::Open));
    assert_eq!(two.close_expiring(OVER).await.unwrap(), 1);
    assert_eq!(stage(store, "open").await, Stage::Left);
    assert!(due(store).await.is_empty());

    // What was served here is owed like any other.
    serve(store, &unbound(ask("served", "k", 10))).await;
    assert_eq!(two.close(id("served")).await.unwrap(), Some(Stage::Delivering));
    // What was left is forgotten some time.
    tokio::time::sleep(TICK).await;
    assert_eq!(store.prune(Duration::ZERO, OVER, 9).await.unwrap(), 2);
}

pub(super) async fn idle_balances_are_delivered(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("idle", "k", 10)).await;
    serve(store, &ask("busy", "k", 10)).await;
    run(store, &ask("busy", "l", 10)).await;
    run(store, &ask("unserved", "k", 10)).await;
    serve(store, &ask("lost", "k", 10)).await;
    run(store, &briefly(ask("lost", "l", 10))).await;
    assert_eq!(two.close_idle(NOW - 1).await.unwrap(), 0);
    assert_eq!(two.close_idle(NOW).await.unwrap(), 2);
    let stages = async |name| stage(store, name).await;
    assert_eq!(stages("idle").await, Stage::Delivering);
    assert_eq!(stages("lost").await, Stage::Delivering);
    assert_eq!((stages("busy").await, stages("unserved").await), (Stage::Open, Stage::Open));
    assert_eq!(due(two).await.len(), 2);
}

pub(super) async fn open_payments_come_in_order(store: &dyn Store, two: &dyn Store) {
    let mut ids = vec![];
    for name in ["a", "b", "c"] {
        run(store, &ask(name, "k", 10)).await;
        ids.push(id(name));
    }
    serve(store, &ask("closed", "", 100)).await;
    ids.sort_unstable();
    assert_eq!(two.payments_at(Stage::Open, B256::ZERO, 2).await.unwrap(), ids[..2]);
    assert_eq!(two.payments_at(Stage::Open, ids[1], 2).await.unwrap(), ids[2..]);
    assert!(two.payments_at(Stage::Open, ids[2], 2).await.unwrap().is_empty());
}

pub(super) async fn what_others_moved_is_open_no_more(store: &dyn Store, two: &dyn Store) {
    let overtake = async |name| {
        two.overtake(id(name), Stage::Returned, Stage::Lost, "by others").await.unwrap()
    };
    serve(store, &ask("served", "k", 10)).await;
    let running = run(store, &ask("unserved", "k", 10)).await;
    assert_eq!(overtake("served").await, Some(Stage::Lost));
    assert_eq!(overtake("unserved").await, Some(Stage::Returned));
    assert_eq!(overtake("unknown").await, None);
    for name in ["served", "unserved"] {
        let payment = store.payment(id(name)).await.unwrap().unwrap();
        assert_eq!(payment.trouble.as_deref(), Some("by others"));
    }
    assert_eq!(store.answer(&answer_to(&running)).await.unwrap(), Ended::Closed);
    assert!(due(store).await.is_empty());
    // What is owed already is left to its duty.
    serve(store, &ask("owed", "", 100)).await;
    assert_eq!(overtake("owed").await, Some(Stage::Delivering));
    tokio::time::sleep(TICK).await;
    assert_eq!(store.prune(Duration::ZERO, OVER, 9).await.unwrap(), 2);
}

pub(super) async fn a_refund_gives_back_whatever_was_served(store: &dyn Store, two: &dyn Store) {
    assert_eq!(store.refund(&facts("unknown", 100)).await.unwrap(), Stage::Returning);
    serve(store, &ask("served", "k", 10)).await;
    let running = run(store, &ask("served", "l", 10)).await;
    assert_eq!(two.refund(&facts("served", 100)).await.unwrap(), Stage::Returning);
    assert_eq!(two.refund(&facts("served", 100)).await.unwrap(), Stage::Returning);
    assert_eq!(store.answer(&answer_to(&running)).await.unwrap(), Ended::Closed);
    assert_eq!(due(store).await.len(), 2);
    // Kept answers are given again.
    let kept = store.claim(&ask("served", "k", 10)).await.unwrap();
    assert!(matches!(kept, Claimed::Answered(_)), "{kept:?}");
    // What is delivered, or about to be, is not.
    serve(store, &ask("owed", "", 100)).await;
    assert_eq!(two.refund(&facts("owed", 100)).await.unwrap(), Stage::Delivering);
    store.settle(id("owed"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    assert_eq!(two.refund(&facts("owed", 100)).await.unwrap(), Stage::Delivered);
    // What was left is.
    let claim = run(store, &unbound(ask("left", "", 100))).await;
    assert_eq!(done(store.release(&claim, 1).await.unwrap()), Stage::Left);
    assert_eq!(two.refund(&facts("left", 100)).await.unwrap(), Stage::Returning);
    store.settle(id("left"), Stage::Returning, &moved(Stage::Returned)).await.unwrap();
    assert_eq!(two.refund(&facts("left", 100)).await.unwrap(), Stage::Returned);
}

pub(super) async fn a_store_keeps_its_service(store: &dyn Store, two: &dyn Store) {
    let service = store.service().await.unwrap();
    assert!(!service.is_zero());
    assert_eq!(two.service().await.unwrap(), service);
    assert_eq!(store.service().await.unwrap(), service);
}

pub(super) async fn what_was_served_is_never_returned(store: &dyn Store, _: &dyn Store) {
    serve(store, &ask("a", "k", 10)).await;
    let claim = run(store, &ask("a", "l", 10)).await;
    assert_eq!(done(store.release(&claim, 1).await.unwrap()), Stage::Open);
    assert_eq!(store.close(id("a")).await.unwrap(), Some(Stage::Delivering));
}

pub(super) async fn closing_before_the_time(store: &dyn Store, two: &dyn Store) {
    let claim = run(store, &ask("unserved", "k", 10)).await;
    done(store.release(&claim, 9).await.unwrap());
    serve(store, &ask("served", "k", 10)).await;
    assert_eq!(two.close(id("unserved")).await.unwrap(), Some(Stage::Returning));
    assert_eq!(two.close(id("served")).await.unwrap(), Some(Stage::Delivering));
    // Again it is as it is.
    assert_eq!(store.close(id("served")).await.unwrap(), Some(Stage::Delivering));
    store.settle(id("served"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    assert_eq!(store.close(id("served")).await.unwrap(), Some(Stage::Delivered));
}

pub(super) async fn closing_waits_for_running_calls(store: &dyn Store, two: &dyn Store) {
    let claim = run(store, &ask("a", "k", 10)).await;
    assert_eq!(two.close(id("a")).await.unwrap(), Some(Stage::Open));
    done(store.answer(&answer_to(&claim)).await.unwrap());
    assert_eq!(two.close(id("a")).await.unwrap(), Some(Stage::Delivering));
}

pub(super) async fn closing_does_not_wait_for_the_lost(store: &dyn Store, two: &dyn Store) {
    let claim = run(store, &briefly(ask("a", "k", 10))).await;
    assert_eq!(two.close(id("a")).await.unwrap(), Some(Stage::Returning));
    assert_eq!(store.answer(&answer_to(&claim)).await.unwrap(), Ended::Closed);
    assert_eq!(store.release(&claim, 1).await.unwrap(), Ended::Closed);
    assert_eq!(stage(store, "a").await, Stage::Returning);
}

pub(super) async fn expiring_payments_are_closed_running_calls_or_not(
    store: &dyn Store,
    two: &dyn Store,
) {
    let soon = |name, seconds| {
        let mut request = ask(name, "k", 10);
        request.facts.deadline = NOW + seconds;
        request
    };
    serve(store, &soon("served", 10)).await;
    let running = run(store, &soon("running", 20)).await;
    run(store, &soon("later", 21)).await;
    assert_eq!(two.close_expiring(NOW + 9).await.unwrap(), 0);
    assert_eq!(two.close_expiring(NOW + 20).await.unwrap(), 2);
    assert_eq!(two.close_expiring(NOW + 20).await.unwrap(), 0);
    assert_eq!(stage(store, "served").await, Stage::Delivering);
    assert_eq!(stage(store, "running").await, Stage::Returning);
    assert_eq!(stage(store, "later").await, Stage::Open);
    assert_eq!(store.answer(&answer_to(&running)).await.unwrap(), Ended::Closed);
    assert_eq!(store.release(&running, 1).await.unwrap(), Ended::Closed);
    assert_eq!(store.payment(id("running")).await.unwrap().unwrap().calls, 0);
}

pub(super) async fn an_unused_transaction_is_given_back(store: &dyn Store, two: &dyn Store) {
    store.give_back(&facts("a", 100)).await.unwrap();
    let duty = duty_of(two, "a").await.unwrap();
    assert_eq!((duty.facts, duty.stage), (facts("a", 100), Stage::Returning));
    assert_eq!(due(two).await, [id("a")]);
    let payment = two.payment(id("a")).await.unwrap().unwrap();
    assert_eq!((payment.spent, payment.reserved, payment.calls), (Usdc(0), Usdc(0), 0));
    for key in ["", "k"] {
        let closed = Claimed::Closed(Stage::Returning);
        assert_eq!(two.claim(&ask("a", key, 10)).await.unwrap(), closed);
    }
    // Known ones stay as they are.
    run(store, &ask("b", "k", 10)).await;
    two.give_back(&facts("b", 1_000)).await.unwrap();
    let payment = store.payment(id("b")).await.unwrap().unwrap();
    assert_eq!((payment.stage, payment.facts), (Stage::Open, facts("b", 100)));
    store.settle(id("a"), Stage::Returning, &moved(Stage::Returned)).await.unwrap();
    two.give_back(&facts("a", 100)).await.unwrap();
    assert_eq!(stage(store, "a").await, Stage::Returned);
}

pub(super) async fn duties_come_by_their_deadlines(store: &dyn Store, two: &dyn Store) {
    let until = |name: &str, seconds| {
        let mut facts = facts(name, 100);
        facts.deadline = NOW + seconds;
        facts
    };
    for (name, seconds) in [("c", 300), ("a", 100), ("b", 200)] {
        let request = ClaimRequest { facts: until(name, seconds), ..ask(name, "", 100) };
        serve(store, &request).await;
        store.give_back(&until(&format!("unused {name}"), seconds)).await.unwrap();
        tokio::time::sleep(TICK).await;
    }
    let ids = async |stage, limit| -> Vec<_> {
        let duties = two.duties(stage, limit).await.unwrap();
        duties.iter().map(|duty| duty.facts.id).collect()
    };
    assert_eq!(ids(Stage::Delivering, 9).await, ["a", "b", "c"].map(id));
    assert_eq!(ids(Stage::Delivering, 2).await, ["a", "b"].map(id));
    assert_eq!(ids(Stage::Returning, 2).await, ["unused a", "unused b"].map(id));
    assert!(ids(Stage::Open, 9).await.is_empty());
    // One that failed hinders no other until its time comes; it is as old as it was.
    store.settle(id("a"), Stage::Delivering, &later(LONG, "no gas")).await.unwrap();
    assert_eq!(ids(Stage::Delivering, 2).await, ["b", "c"].map(id));
    store.settle(id("c"), Stage::Delivering, &later(Duration::ZERO, "no gas")).await.unwrap();
    let owed = two.duties(Stage::Delivering, 9).await.unwrap();
    assert_eq!(owed.iter().map(|duty| duty.facts.id).collect::<Vec<_>>(), ["b", "c"].map(id));
    assert!(owed[1].age > owed[0].age && owed[1].age < LONG);
}

pub(super) async fn a_duty_that_failed_comes_again_later(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "", 100)).await;
    store.settle(id("a"), Stage::Delivering, &later(LONG, "no gas")).await.unwrap();
    assert!(due(two).await.is_empty());
    // It is still owed.
    assert_eq!(two.backlog(NOW, Usdc::ZERO).await.unwrap().deliveries, 1);
    assert_eq!(two.payment(id("a")).await.unwrap().unwrap().trouble.as_deref(), Some("no gas"));
    store.settle(id("a"), Stage::Delivering, &later(Duration::ZERO, "no node")).await.unwrap();
    assert_eq!(due(two).await, [id("a")]);
    assert_eq!(duty_of(two, "a").await.unwrap().tries, 2);
    assert_eq!(two.payment(id("a")).await.unwrap().unwrap().trouble.as_deref(), Some("no node"));
}

pub(super) async fn a_settled_duty_is_none_any_more(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("delivered", "", 100)).await;
    store.give_back(&facts("returned", 100)).await.unwrap();
    serve(store, &ask("lost", "", 100)).await;
    let trouble = Some("deadline".to_owned());
    let lost =
        Outcome::Moved { to: Stage::Lost, trouble: trouble.clone(), entry: Entry::default() };
    store.settle(id("delivered"), Stage::Delivering, &later(Duration::ZERO, "x")).await.unwrap();
    store.settle(id("delivered"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    store.settle(id("returned"), Stage::Returning, &moved(Stage::Returned)).await.unwrap();
    store.settle(id("lost"), Stage::Delivering, &lost).await.unwrap();
    for (name, stage) in
        [("delivered", Stage::Delivered), ("returned", Stage::Returned), ("lost", Stage::Lost)]
    {
        let payment = two.payment(id(name)).await.unwrap().unwrap();
        assert_eq!(payment.stage, stage);
        assert_eq!(payment.trouble, if name == "lost" { trouble.clone() } else { None });
        assert_eq!(duty_of(two, name).await, None);
        let answered = two.claim(&ask(name, "", 100)).await.unwrap();
        match name {
            "returned" => assert_eq!(answered, Claimed::Closed(Stage::Returned)),
            _ => assert!(matches!(answered, Claimed::Answered(_)), "{answered:?}"),
        }
    }
    assert!(due(two).await.is_empty());
}

pub(super) async fn a_refused_delivery_is_returned(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "", 100)).await;
    store.settle(id("a"), Stage::Delivering, &later(LONG, "refused")).await.unwrap();
    let refused = Outcome::Moved {
        to: Stage::Returning,
        trouble: Some("refused".to_owned()),
        entry: Entry::default(),
    };
    store.settle(id("a"), Stage::Delivering, &refused).await.unwrap();
    // A new duty, and due at once.
    let duty = duty_of(two, "a").await.unwrap();
    assert_eq!((duty.stage, duty.tries), (Stage::Returning, 0));
    assert_eq!(due(two).await, [id("a")]);
}

pub(super) async fn settling_needs_the_right_stage(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "", 100)).await;
    store.settle(id("a"), Stage::Returning, &moved(Stage::Returned)).await.unwrap();
    store.settle(id("a"), Stage::Returning, &later(LONG, "no gas")).await.unwrap();
    let payment = two.payment(id("a")).await.unwrap().unwrap();
    assert_eq!((payment.stage, payment.trouble), (Stage::Delivering, None));
    assert_eq!(duty_of(two, "a").await.unwrap().tries, 0);
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Lost)).await.unwrap();
    assert_eq!(stage(two, "a").await, Stage::Delivered);
}

pub(super) async fn the_first_content_hash_stays(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "", 100)).await;
    let (first, second) = (keccak256("first"), keccak256("second"));
    assert_eq!(store.set_content_hash(id("a"), first).await.unwrap(), first);
    assert_eq!(two.set_content_hash(id("a"), second).await.unwrap(), first);
    assert_eq!(duty_of(two, "a").await.unwrap().content_hash, Some(first));
    assert_eq!(two.payment(id("a")).await.unwrap().unwrap().content_hash, Some(first));
}

pub(super) async fn leases_are_one_owners_at_a_time(store: &dyn Store, two: &dyn Store) {
    assert!(store.lease("chain", US, LONG).await.unwrap());
    assert!(!two.lease("chain", THEM, LONG).await.unwrap());
    // Its owner renews it, also to nothing.
    assert!(store.lease("chain", US, LONG).await.unwrap());
    assert!(two.lease("sweep", THEM, LONG).await.unwrap());
    assert!(!two.lease("chain", THEM, LONG).await.unwrap());
    assert!(store.lease("chain", US, Duration::ZERO).await.unwrap());
    assert!(two.lease("chain", THEM, Duration::ZERO).await.unwrap());
    // Over.
    assert!(store.lease("chain", US, LONG).await.unwrap());
    assert!(!two.lease("chain", THEM, LONG).await.unwrap());
}

pub(super) async fn counters_add_up(store: &dyn Store, two: &dyn Store) {
    let more = Counters::from([("b_total{kind=\"x\"}".to_owned(), 2), ("a_total".to_owned(), 1)]);
    store.count(&more, &Runs::new()).await.unwrap();
    two.count(&more, &Runs::new()).await.unwrap();
    store.count(&Counters::new(), &Runs::new()).await.unwrap();
    serve(store, &ask("a", "k", 10)).await;
    serve(two, &ask("a", "l", 20)).await;
    let claim = run(store, &ask("a", "m", 5)).await;
    let elsewhere = AnswerRequest { route: "/other".to_owned(), ..answer_to(&claim) };
    done(store.answer(&elsewhere).await.unwrap());
    let expected: BTreeMap<_, _> = [
        ("a_total", 2),
        ("agirails_paywall_calls_total{route=\"/other\"}", 1),
        ("agirails_paywall_calls_total{route=\"/summarize\"}", 2),
        ("agirails_paywall_revenue_base_units_total{route=\"/other\"}", 5),
        ("agirails_paywall_revenue_base_units_total{route=\"/summarize\"}", 30),
        ("b_total{kind=\"x\"}", 4),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    assert_eq!(store.counters().await.unwrap(), expected);
    assert_eq!(two.counters().await.unwrap(), expected);
}

pub(super) async fn what_ended_long_ago_is_forgotten(store: &dyn Store, two: &dyn Store) {
    for name in ["a", "b", "c"] {
        serve(store, &ask(name, "", 100)).await;
        store.settle(id(name), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
        store.settle(id(name), Stage::Delivered, &moved(Stage::Settled)).await.unwrap();
        tokio::time::sleep(TICK).await;
    }
    serve(store, &ask("owed", "", 100)).await;
    run(store, &ask("open", "k", 10)).await;
    tokio::time::sleep(TICK).await;
    assert_eq!(two.prune(LONG, OVER, 10).await.unwrap(), 0);
    assert_eq!(two.prune(Duration::ZERO, OVER, 2).await.unwrap(), 2);
    // The rest comes next time.
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 1);
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 0);
    for name in ["a", "b", "c"] {
        assert_eq!(store.payment(id(name)).await.unwrap(), None);
        assert_eq!(store.calls(id(name)).await.unwrap(), []);
    }
    assert_eq!(stage(store, "owed").await, Stage::Delivering);
    assert_eq!(stage(store, "open").await, Stage::Open);
    // The totals stay.
    assert_eq!(store.counters().await.unwrap().values().next(), Some(&4));
}

pub(super) async fn what_could_be_spent_again_is_not_forgotten(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "", 100)).await;
    store.settle(id("a"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    tokio::time::sleep(TICK).await;
    // Nor is what waits for its settlement.
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 0);
    store.settle(id("a"), Stage::Delivered, &moved(Stage::Settled)).await.unwrap();
    tokio::time::sleep(TICK).await;
    for now in [0, NOW, facts("a", 100).deadline] {
        assert_eq!(two.prune(Duration::ZERO, now, 10).await.unwrap(), 0);
    }
    assert_eq!(stage(store, "a").await, Stage::Settled);
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 1);
}

/// Delivered, with its dispute window over at this time.
async fn deliver(store: &dyn Store, request: &ClaimRequest, settle_at: u64) {
    serve(store, request).await;
    let entry = Entry { at: NOW, gas: 3, settle_at, ..Entry::default() };
    let delivered = Outcome::Moved { to: Stage::Delivered, trouble: None, entry };
    let id = request.facts.id;
    assert!(store.settle(id, Stage::Delivering, &delivered).await.unwrap());
}

/// What arrived, and the fee.
fn settled((net, fee): (u64, u64), at: u64) -> Outcome {
    let payout = Some(Payout { net: Usdc(net), fee: Usdc(fee) });
    let entry = Entry { at, gas: 4, payout, ..Entry::default() };
    Outcome::Moved { to: Stage::Settled, trouble: None, entry }
}

/// A call that takes the whole of a dear transaction.
fn dear(name: &str) -> ClaimRequest {
    ClaimRequest { facts: facts(name, 1_000_000), price: Usdc(1_000_000), ..ask(name, "", 100) }
}

pub(super) async fn settlements_come_by_their_windows_where_they_are_worth_it(
    store: &dyn Store,
    two: &dyn Store,
) {
    deliver(store, &dear("late"), NOW + 50).await;
    deliver(store, &dear("early"), NOW + 10).await;
    deliver(store, &ask("cheap", "", 100), NOW + 5).await;
    serve(store, &dear("owed")).await;
    let due = async |now, least| {
        let due = two.settlements(now, Usdc(least), 10).await.unwrap();
        due.iter().map(|duty| (duty.facts.id, duty.settle_at)).collect::<Vec<_>>()
    };
    // In the second of its end a window is not over.
    assert_eq!(due(NOW + 5, 0).await, []);
    let (cheap, early, late) =
        ((id("cheap"), NOW + 5), (id("early"), NOW + 10), (id("late"), NOW + 50));
    assert_eq!(due(NOW + 11, 0).await, [cheap, early]);
    assert_eq!(due(NOW + 51, 0).await, [cheap, early, late]);
    // 1 USDC brings 0.95.
    assert_eq!(due(NOW + 51, 950_000).await, [early, late]);
    assert_eq!(due(NOW + 51, 950_001).await, []);
    assert_eq!(two.settlements(NOW + 51, Usdc::ZERO, 1).await.unwrap().len(), 1);
    let backlog = two.backlog(NOW + 51, Usdc(950_000)).await.unwrap();
    let Backlog { delivered, due: all, small, due_since, disputed, next_at, .. } = backlog;
    assert_eq!((delivered, all, small, due_since, disputed), (3, 3, 1, Some(NOW + 10), 0));
    assert_eq!(next_at, None);
    let backlog = two.backlog(NOW + 10, Usdc(950_000)).await.unwrap();
    assert_eq!((backlog.due_since, backlog.next_at), (None, Some(NOW + 10)));
    // What is still to be delivered is expected too.
    let cheap = facts("cheap", 100).net;
    assert_eq!(backlog.expected, Usdc(3 * 950_000 + cheap.0));
    // What others settled or disputed is no duty any more.
    assert!(store.settle(id("early"), Stage::Delivered, &moved(Stage::Disputed)).await.unwrap());
    assert!(!two.settle(id("early"), Stage::Delivered, &settled((1, 0), NOW)).await.unwrap());
    assert_eq!(due(NOW + 51, 950_000).await, [late]);
    assert_eq!(two.backlog(NOW, Usdc::ZERO).await.unwrap().disputed, 1);
    assert_eq!(two.payments_at(Stage::Disputed, B256::ZERO, 9).await.unwrap(), [id("early")]);
    assert_eq!(two.payments_at(Stage::Delivered, B256::ZERO, 9).await.unwrap().len(), 2);
}

pub(super) async fn a_settlement_that_failed_comes_again_later(store: &dyn Store, two: &dyn Store) {
    deliver(store, &dear("a"), NOW).await;
    let due = async || two.settlements(NOW + 1, Usdc::ZERO, 10).await.unwrap();
    assert_eq!(due().await[0].tries, 0);
    store.settle(id("a"), Stage::Delivered, &later(LONG, "no gas")).await.unwrap();
    assert_eq!(due().await, []);
    store.settle(id("a"), Stage::Delivered, &later(Duration::ZERO, "no gas")).await.unwrap();
    let again = due().await.remove(0);
    assert_eq!((again.stage, again.tries), (Stage::Delivered, 2));
    // Its window was another than was thought: that is no failure.
    let not_yet = Outcome::NotBefore { settle_at: NOW + 9 };
    assert!(store.settle(id("a"), Stage::Delivered, &not_yet).await.unwrap());
    assert_eq!(due().await, []);
    let then = two.settlements(NOW + 10, Usdc::ZERO, 10).await.unwrap();
    assert_eq!((then[0].settle_at, then[0].tries), (NOW + 9, 2));
}

pub(super) async fn the_books_add_up(store: &dyn Store, two: &dyn Store) {
    let tomorrow = NOW + DAY;
    deliver(store, &dear("a"), NOW).await;
    deliver(store, &dear("b"), NOW).await;
    serve(store, &ask("bundle", "k", 10)).await;
    assert!(
        two.settle(id("a"), Stage::Delivered, &settled((950_000, 50_000), tomorrow)).await.unwrap()
    );
    // It was taken back, and came again.
    assert!(two.settle(id("a"), Stage::Settled, &moved(Stage::Delivered)).await.unwrap());
    let payout = Some(Payout { net: Usdc(950_000), fee: Usdc(50_000) });
    let again = Entry { at: tomorrow, payout, ..Entry::default() };
    let again = Outcome::Moved { to: Stage::Settled, trouble: None, entry: again };
    assert!(two.settle(id("a"), Stage::Delivered, &again).await.unwrap());
    // Told once more, because the word that it was done got lost.
    assert!(
        !two.settle(id("a"), Stage::Delivered, &settled((950_000, 50_000), tomorrow))
            .await
            .unwrap()
    );
    let disputed = Entry { at: NOW, ..Entry::default() };
    let disputed = Outcome::Moved { to: Stage::Disputed, trouble: None, entry: disputed };
    assert!(store.settle(id("b"), Stage::Delivered, &disputed).await.unwrap());
    let returned = Entry { at: tomorrow, ..Entry::default() };
    let returned = Outcome::Moved { to: Stage::Returned, trouble: None, entry: returned };
    assert!(store.settle(id("b"), Stage::Disputed, &returned).await.unwrap());

    let first = Totals { calls: 3, gross: 2_000_010, gas: 6, disputed: 1, ..Totals::default() };
    let (settled, paid_out, fee, net, gas, refunded) = (1, 1_000_000, 50_000, 950_000, 4, 1);
    let second = Totals { settled, paid_out, fee, net, gas, refunded, ..Totals::default() };
    let all = (0, u64::MAX);
    let report = async |by, days, after: &str, limit| {
        let after = Some(after).filter(|after| !after.is_empty());
        two.report(by, days, after, limit).await.unwrap()
    };
    let days = [("2027-01-15".to_owned(), first), ("2027-01-16".to_owned(), second)];
    assert_eq!(report(ReportBy::Day, all, "", 10).await, days);
    assert_eq!(report(ReportBy::Day, all, "", 1).await, days[..1]);
    assert_eq!(report(ReportBy::Day, all, "2027-01-15", 10).await, days[1..]);
    assert_eq!(report(ReportBy::Day, all, "2027-01-16", 10).await, []);
    assert_eq!(report(ReportBy::Day, (NOW / DAY, NOW / DAY), "", 10).await, days[..1]);
    assert_eq!(report(ReportBy::Day, (0, NOW / DAY - 1), "", 10).await, []);
    let whole = Totals { calls: 3, gross: 2_000_010, disputed: 1, gas: 10, ..second };
    assert_eq!(report(ReportBy::Route, all, "", 9).await, [("/summarize".to_owned(), whole)]);
    let requester = format!("{:#x}", Address::repeat_byte(0x77));
    assert_eq!(report(ReportBy::Customer, all, "", 9).await, [(requester.clone(), whole)]);
    assert_eq!(report(ReportBy::Customer, all, &requester, 9).await, []);
    let counters = store.counters().await.unwrap();
    let told = MOVES.map(|name| counters[name]);
    assert_eq!(told, [1, 1_000_000, 50_000, 950_000, 10, 1, 1]);
}

pub(super) async fn the_richest_rows_of_a_report_come_first(store: &dyn Store, two: &dyn Store) {
    for (key, route, price) in [("k", "/a", 10), ("l", "/b", 30), ("m", "/c", 30), ("n", "/d", 20)]
    {
        let claim = run(store, &ask("bundle", key, price)).await;
        let request = AnswerRequest { route: route.to_owned(), ..answer_to(&claim) };
        done(store.answer(&request).await.unwrap());
    }
    let top = async |days, limit| {
        let rows = two.top(ReportBy::Route, days, limit).await.unwrap();
        rows.into_iter().map(|(route, totals)| (route, totals.gross)).collect::<Vec<_>>()
    };
    let row = |route: &str, gross| (route.to_owned(), gross);
    assert_eq!(top((0, u64::MAX), 3).await, [row("/b", 30), row("/c", 30), row("/d", 20)]);
    assert_eq!(top((0, NOW / DAY - 1), 3).await, []);
    let customers = two.top(ReportBy::Customer, (0, u64::MAX), 9).await.unwrap();
    assert_eq!(customers[0].0, format!("{:#x}", Address::repeat_byte(0x77)));
    assert_eq!(two.top(ReportBy::Day, (0, u64::MAX), 9).await.unwrap()[0].1.calls, 4);
}

pub(super) async fn runs_add_up_by_day_and_route(store: &dyn Store, two: &dyn Store) {
    let key = |day, route: &str, ran| (day, route.to_owned(), ran);
    let more = Runs::from([
        (key(1, "/a", Ran::Within(250)), 2),
        (key(1, "/a", Ran::Failed), 1),
        (key(2, "/a", Ran::Within(250)), 3),
        (key(2, "/b", Ran::Longer), 1),
    ]);
    store.count(&Counters::new(), &more).await.unwrap();
    two.count(&Counters::from([("n".to_owned(), 1)]), &more).await.unwrap();
    let runs = async |days| two.runs(days).await.unwrap().into_iter().collect::<Vec<_>>();
    let row = |route: &str, ran, count| ((route.to_owned(), ran), count);
    let all =
        [row("/a", Ran::Failed, 2), row("/a", Ran::Within(250), 10), row("/b", Ran::Longer, 2)];
    assert_eq!(runs((0, u64::MAX)).await, all);
    assert_eq!(runs((1, 1)).await, [row("/a", Ran::Failed, 2), row("/a", Ran::Within(250), 4)]);
    assert_eq!(runs((3, u64::MAX)).await, []);
}

pub(super) async fn a_payment_is_found_with_its_story(store: &dyn Store, two: &dyn Store) {
    assert_eq!(two.payment_row(id("a")).await.unwrap(), None);
    deliver(store, &dear("a"), NOW).await;
    serve(store, &dear("b")).await;
    let rows =
        store.payments(&PaymentFilter { limit: 9, ..PaymentFilter::default() }).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(two.payment_row(row.payment.facts.id).await.unwrap(), Some(row));
    }
}

pub(super) async fn what_a_dispute_left_is_booked(store: &dyn Store, two: &dyn Store) {
    store.keep_webhooks();
    two.keep_webhooks();
    deliver(store, &dear("a"), NOW).await;
    assert!(store.settle(id("a"), Stage::Delivered, &moved(Stage::Disputed)).await.unwrap());
    let payout = Payout { net: Usdc(350_000), fee: Usdc(50_000) };
    let entry = Entry { at: NOW, payout: Some(payout), is_resolved: true, ..Entry::default() };
    let trouble = Some("it was settled by the resolver of its dispute".to_owned());
    let resolved = Outcome::Moved { to: Stage::Settled, trouble, entry };
    assert!(two.settle(id("a"), Stage::Disputed, &resolved).await.unwrap());

    let rows = two.report(ReportBy::Customer, (0, u64::MAX), None, 9).await.unwrap();
    let Totals { gross, settled, paid_out, fee, net, .. } = rows[0].1;
    assert_eq!((gross, settled, paid_out, fee, net), (1_000_000, 1, 400_000, 50_000, 350_000));
    let counters = two.counters().await.unwrap();
    let counted = MOVES[..4].iter().map(|name| counters[*name]).collect::<Vec<_>>();
    assert_eq!(counted, [1, 400_000, 50_000, 350_000]);
    let all = PaymentFilter { limit: 9, ..PaymentFilter::default() };
    assert_eq!(two.payments(&all).await.unwrap()[0].payout, Some(payout));
    for name in ["delivered", "disputed", "resolved"] {
        let told = two.webhooks(9).await.unwrap();
        let net = (name == "resolved").then_some(payout.net);
        assert_eq!((&*told[0].name, told[0].net), (name, net));
        two.webhook_told(told[0].number).await.unwrap();
    }
}

pub(super) async fn gas_that_bought_nothing_is_booked(store: &dyn Store, two: &dyn Store) {
    deliver(store, &dear("a"), NOW).await;
    store.spend(id("a"), NOW + DAY, 5).await.unwrap();
    two.spend(id("a"), NOW + DAY, 6).await.unwrap();
    two.spend(id("unknown"), NOW, 7).await.unwrap();
    let row = two.payment_row(id("a")).await.unwrap().unwrap();
    // Its delivery cost 3.
    assert_eq!((row.payment.stage, row.gas), (Stage::Delivered, 14));
    assert_eq!(two.counters().await.unwrap()[GAS], 14);
    let of = async |by| two.report(by, (0, u64::MAX), None, 9).await.unwrap();
    let days: Vec<_> = of(ReportBy::Day).await.iter().map(|(_, totals)| totals.gas).collect();
    assert_eq!(days, [3, 11]);
    assert_eq!(of(ReportBy::Route).await.len(), 1, "they stand with the route of the calls");
}

pub(super) async fn the_books_share_out_what_routes_earned_together(
    store: &dyn Store,
    two: &dyn Store,
) {
    let bundle = |key: &str, price| ClaimRequest {
        facts: facts("bundle", 1_000_000),
        price: Usdc(price),
        ..ask("bundle", key, 100)
    };
    for (key, route, price) in [("k", "/a", 100), ("l", "/b", 300), ("m", "/c", 200)] {
        let claim = run(store, &bundle(key, price)).await;
        let request = AnswerRequest { route: route.to_owned(), ..answer_to(&claim) };
        done(store.answer(&request).await.unwrap());
    }
    store.close(id("bundle")).await.unwrap();
    assert!(store.settle(id("bundle"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap());
    assert!(
        store
            .settle(id("bundle"), Stage::Delivered, &settled((950_000, 50_000), NOW))
            .await
            .unwrap()
    );
    let rows = two.report(ReportBy::Route, (0, u64::MAX), None, 9).await.unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|(route, totals)| {
            let Totals { gross, settled, paid_out, fee, net, gas, .. } = *totals;
            (route.as_str(), gross, settled, paid_out, fee, net, gas)
        })
        .collect();
    // A sixth, a half and a third; what is left over is the greatest one's.
    let expected = [
        ("/a", 100, 0, 166_666, 8_333, 158_333, 0),
        ("/b", 300, 1, 500_001, 25_000, 475_001, 4),
        ("/c", 200, 0, 333_333, 16_667, 316_666, 0),
    ];
    assert_eq!(told, expected);
}

pub(super) async fn moves_without_a_route_are_in_a_report_by_route(
    store: &dyn Store,
    two: &dyn Store,
) {
    serve(store, &dear("a")).await;
    store.refund(&facts("unserved", 100)).await.unwrap();
    let entry = Entry { at: NOW, ..Entry::default() };
    let returned = Outcome::Moved { to: Stage::Returned, trouble: None, entry };
    assert!(store.settle(id("unserved"), Stage::Returning, &returned).await.unwrap());
    let page = async |after| {
        let rows = two.report(ReportBy::Route, (0, u64::MAX), after, 1).await.unwrap();
        rows.into_iter().map(|(route, row)| (route, row.calls, row.refunded)).collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, [(String::new(), 0, 1)]);
    assert_eq!(page(Some("")).await, [("/summarize".to_owned(), 1, 0)]);
    assert_eq!(page(Some("/summarize")).await, []);
}

pub(super) async fn the_books_outlive_the_payments(store: &dyn Store, two: &dyn Store) {
    deliver(store, &dear("a"), NOW).await;
    store.settle(id("a"), Stage::Delivered, &settled((950_000, 50_000), NOW)).await.unwrap();
    let before = store.report(ReportBy::Day, (0, u64::MAX), None, 9).await.unwrap();
    tokio::time::sleep(TICK).await;
    assert_eq!(two.prune(Duration::ZERO, OVER, 10).await.unwrap(), 1);
    assert_eq!(two.payment(id("a")).await.unwrap(), None);
    assert_eq!(store.report(ReportBy::Day, (0, u64::MAX), None, 9).await.unwrap(), before);
    assert_eq!(before[0].1.net, 950_000);
}

pub(super) async fn payments_come_newest_first_in_pages(store: &dyn Store, two: &dyn Store) {
    let mut page = PaymentFilter { limit: 2, ..PaymentFilter::default() };
    assert_eq!(two.payments(&page).await.unwrap(), []);
    let mut ids = vec![];
    for name in ["a", "b", "c", "d", "e"] {
        deliver(store, &dear(name), NOW + 5).await;
        ids.push(id(name));
    }
    store.settle(id("a"), Stage::Delivered, &settled((950_000, 50_000), NOW + 9)).await.unwrap();
    run(store, &ask("open", "k", 10)).await;
    ids.push(id("open"));
    let mut found = vec![];
    loop {
        let rows = two.payments(&page).await.unwrap();
        let Some(last) = rows.last() else { break };
        page.after = Some(last.payment.facts.id);
        assert!(rows.len() <= 2);
        found.extend(rows);
    }
    let times: Vec<_> = found.iter().map(|row| row.opened_at).collect();
    assert!(times.is_sorted_by(|one, next| one >= next), "{times:?}");
    let mut told: Vec<_> = found.iter().map(|row| row.payment.facts.id).collect();
    told.sort_unstable();
    ids.sort_unstable();
    assert_eq!(told, ids);
    let settled =
        PaymentFilter { stage: Some(Stage::Settled), limit: 9, ..PaymentFilter::default() };
    let rows = two.payments(&settled).await.unwrap();
    let row = &rows[0];
    assert_eq!(rows.len(), 1);
    let payout = Some(Payout { net: Usdc(950_000), fee: Usdc(50_000) });
    let story = (row.delivered_at, row.settle_at, row.settled_at, row.payout, row.gas);
    assert_eq!(story, (NOW, NOW + 5, NOW + 9, payout, 7));
    assert_eq!(row.payment, two.payment(id("a")).await.unwrap().unwrap());
    for (requester, count) in [(0x77, 6), (0x78, 0)] {
        let requester = Some(Address::repeat_byte(requester));
        let theirs = PaymentFilter { requester, limit: 9, ..PaymentFilter::default() };
        assert_eq!(two.payments(&theirs).await.unwrap().len(), count);
    }
}

pub(super) async fn a_call_is_known_without_being_claimed(store: &dyn Store, two: &dyn Store) {
    let known = async |request: &ClaimRequest| {
        let call = CallId { transaction: request.facts.id, key: request.key.clone() };
        two.known(&call, request.digest).await.unwrap()
    };
    let request = ask("a", "k", 10);
    assert_eq!(known(&request).await, Known::Nothing);
    assert_eq!(store.payment(id("a")).await.unwrap(), None);
    let claim = run(store, &request).await;
    match known(&request).await {
        Known::Running { lease_left } => assert!(lease_left <= LONG && lease_left > LONG / 2),
        other => panic!("{other:?}"),
    }
    assert_eq!(known(&other(request.clone())).await, Known::Nothing);
    done(store.answer(&answer_to(&claim)).await.unwrap());
    match known(&request).await {
        Known::Answered(kept) => assert_eq!(kept.answer, Some(kept_as(&body("k")))),
        other => panic!("{other:?}"),
    }
    assert_eq!(known(&other(request)).await, Known::Nothing);
    // Neither one that was given back runs, nor one whose lease is over.
    let claim = run(store, &ask("a", "failed", 10)).await;
    done(store.release(&claim, 9).await.unwrap());
    run(store, &briefly(ask("a", "lost", 10))).await;
    tokio::time::sleep(TICK).await;
    for key in ["failed", "lost"] {
        assert_eq!(known(&ask("a", key, 10)).await, Known::Nothing);
    }
}

pub(super) async fn who_comes_too_late_is_told_why(store: &dyn Store, two: &dyn Store) {
    let first = run(store, &briefly(ask("a", "k", 10))).await;
    let second = run(two, &of(THEM, ask("a", "k", 10))).await;
    assert_eq!(store.answer(&answer_to(&first)).await.unwrap(), Ended::TakenOver);
    assert_eq!(store.close_expiring(OVER).await.unwrap(), 1);
    // The first was taken over, whatever became of the payment after that.
    assert_eq!(store.answer(&answer_to(&first)).await.unwrap(), Ended::TakenOver);
    assert_eq!(store.release(&first, 1).await.unwrap(), Ended::TakenOver);
    assert_eq!(two.answer(&answer_to(&second)).await.unwrap(), Ended::Closed);
    assert_eq!(two.release(&second, 1).await.unwrap(), Ended::Closed);
}

pub(super) async fn events_about_money_wait_until_they_are_told_each_payments_in_order(
    store: &dyn Store,
    two: &dyn Store,
) {
    store.keep_webhooks();
    deliver(store, &ask("a", "", 100), 10).await;
    assert!(store.settle(id("a"), Stage::Delivered, &settled((95, 5), 20)).await.unwrap());
    serve(store, &ask("b", "k", 10)).await;
    let lost = store.overtake(id("b"), Stage::Returned, Stage::Lost, "by others").await;
    assert_eq!(lost.unwrap(), Some(Stage::Lost));
    // What has happened before is nothing new.
    assert!(!store.settle(id("a"), Stage::Delivered, &settled((95, 5), 20)).await.unwrap());
    assert_eq!(store.backlog(0, Usdc::ZERO).await.unwrap().webhooks, 3);

    let due = two.webhooks(9).await.unwrap();
    let names: Vec<_> = due.iter().map(|row| (row.payment, &*row.name)).collect();
    assert_eq!(names, [(id("a"), "delivered"), (id("b"), "lost")]);
    let Facts { requester, amount, .. } = facts("a", 100);
    assert_eq!((due[0].requester, due[0].amount, due[0].net), (requester, amount, None));
    assert_eq!(two.webhooks(1).await.unwrap(), due[..1]);
    // Later ones of the same payment wait with it, and no others.
    two.webhook_later(due[0].number, Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.webhooks(9).await.unwrap(), due[1..]);
    two.webhook_told(due[0].number).await.unwrap();
    let due = store.webhooks(9).await.unwrap();
    let [lost, settled] = &due[..] else { panic!("{due:?}") };
    let lost = if lost.name == "lost" { lost } else { settled };
    let settled = due.iter().find(|row| row.name == "settled").unwrap();
    assert_eq!((settled.at, settled.net, settled.tries), (20, Some(Usdc(95)), 0));
    assert_ne!(settled.id, lost.id);
    two.webhook_later(lost.number, Duration::ZERO).await.unwrap();
    tokio::time::sleep(TICK).await;
    let again = store.webhooks(9).await.unwrap();
    let again = again.iter().find(|row| row.number == lost.number).unwrap();
    assert_eq!((again.tries, again.id), (1, lost.id));

    let day = Duration::from_secs(86_400);
    assert_eq!(store.expire_webhooks(day, 2).await.unwrap(), 0);
    assert_eq!(store.expire_webhooks(day, 1).await.unwrap(), 1);
    assert_eq!(store.expire_webhooks(Duration::ZERO, 9).await.unwrap(), 1);
    assert_eq!(store.backlog(0, Usdc::ZERO).await.unwrap().webhooks, 0);
}

pub(super) async fn events_are_kept_only_where_somebody_is_told(
    store: &dyn Store,
    two: &dyn Store,
) {
    deliver(store, &ask("a", "", 100), 10).await;
    assert_eq!(two.webhooks(9).await.unwrap(), []);
    two.keep_webhooks();
    assert!(two.settle(id("a"), Stage::Delivered, &settled((95, 5), 20)).await.unwrap());
    assert_eq!(store.webhooks(9).await.unwrap().len(), 1);
}

pub(super) async fn the_backlog_says_what_is_owed(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("first", "", 100)).await;
    tokio::time::sleep(TICK).await;
    serve(store, &ask("second", "", 100)).await;
    tokio::time::sleep(TICK).await;
    store.give_back(&facts("third", 100)).await.unwrap();
    run(store, &ask("open", "k", 10)).await;
    serve(store, &ask("lost", "", 100)).await;
    store.settle(id("lost"), Stage::Delivering, &moved(Stage::Lost)).await.unwrap();
    serve(store, &ask("delivered", "", 100)).await;
    store.settle(id("delivered"), Stage::Delivering, &moved(Stage::Delivered)).await.unwrap();
    store.settle(id("third"), Stage::Returning, &later(LONG, "third's")).await.unwrap();
    store.settle(id("second"), Stage::Delivering, &later(LONG, "second's")).await.unwrap();
    let backlog = two.backlog(NOW, Usdc::ZERO).await.unwrap();
    let Backlog { deliveries, returns, open, lost, oldest, trouble, .. } = backlog;
    assert_eq!((deliveries, returns, open, lost), (2, 1, 1, 1));
    assert!(oldest >= TICK && oldest < LONG, "{oldest:?}");
    assert_eq!(trouble.as_deref(), Some("second's"));
}

/// Runs each of these in a thread and a runtime of its own.
fn at_once<W: AsyncFnOnce() + Send>(workers: Vec<W>) {
    thread::scope(|scope| {
        for worker in workers {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(worker());
            });
        }
    });
}

pub(super) async fn a_store_says_where_its_tables_went(one: &dyn Store, two: &dyn Store) {
    assert_eq!(one.moved_to().await.unwrap(), None);
    one.move_to(Some("elsewhere")).await.unwrap();
    one.move_to(Some("the database é")).await.unwrap();
    assert_eq!(two.moved_to().await.unwrap().as_deref(), Some("the database é"));
    two.move_to(None).await.unwrap();
    assert_eq!(one.moved_to().await.unwrap(), None);
}

pub(super) async fn an_original_is_no_copy(store: &dyn Store, two: &dyn Store) {
    serve(store, &ask("a", "k", 10)).await;
    for (store, now) in [(store, NOW), (two, NOW + 1)] {
        store.tidy().await.unwrap();
        assert_eq!(store.restored(now).await.unwrap(), None);
    }
}

pub(super) async fn one_of_many_claims_runs(one: &dyn Store, two: &dyn Store) {
    for round in 0..10 {
        let outcomes = Mutex::new(Vec::new());
        let name = &format!("payment {round}");
        let outcomes_ref = &outcomes;
        let worker = |number: u8| {
            async move || {
                let store = if number.is_multiple_of(2) { one } else { two };
                let claimed = store.claim(&of([number; 16], ask(name, "k", 60))).await.unwrap();
                outcomes_ref.lock().unwrap().push(claimed);
            }
        };
        at_once((0..8).map(worker).collect());
        let outcomes = outcomes.into_inner().unwrap();
        let runs = outcomes.iter().filter(|outcome| matches!(outcome, Claimed::Run { attempt: 1 }));
        assert_eq!(runs.count(), 1, "{outcomes:?}");
        let running = outcomes.iter().filter(|outcome| matches!(outcome, Claimed::Running { .. }));
        assert_eq!(running.count(), 7, "{outcomes:?}");
        assert_eq!(books(one, name).await, (0, 60, 0));
    }
}

/// Calls of one balance that come at the same time through both handles, and of others beside it.
pub(super) async fn a_balance_that_many_draw_from_is_spent_to_its_last_unit(
    one: &dyn Store,
    two: &dyn Store,
) {
    const CALLS: u64 = 120;
    let hot = |key: u64| {
        let facts = facts("hot", 500);
        ClaimRequest { facts, ..ask("hot", &format!("call {key}"), 7) }
    };
    let calls = (0..CALLS).map(async |number| {
        let store = if number.is_multiple_of(2) { one } else { two };
        let request = hot(number);
        let index = match store.claim(&request).await.unwrap() {
            Claimed::Run { attempt } => {
                let ended = store.answer(&answer_to(&claim_of(&request, attempt))).await.unwrap();
                let Ended::Done { stage: Stage::Open, index } = ended else { panic!("{ended:?}") };
                Some(index)
            }
            Claimed::NoBalance { left } if left < Usdc(7) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(serve(store, &ask(&format!("beside {number}"), "k", 60)).await, Stage::Open);
        index
    });
    let indexes = futures_util::future::join_all(calls).await;
    let mut indexes: Vec<u64> = indexes.into_iter().flatten().collect();
    indexes.sort_unstable();
    assert_eq!(indexes, (0..71).collect::<Vec<_>>(), "500 are 71 calls of 7");
    assert_eq!(books(one, "hot").await, (497, 0, 71));
    let (gross, calls) = (497 + CALLS * 60, 71 + CALLS);
    let counters = two.counters().await.unwrap();
    assert_eq!(counters[&calls_counter("/summarize")], calls);
    assert_eq!(counters[&revenue_counter("/summarize")], gross);
    let report = two.report(ReportBy::Route, (0, u64::MAX), None, 10).await.unwrap();
    assert_eq!(report.len(), 1);
    assert_eq!((report[0].1.calls, report[0].1.gross), (calls, gross));
}

/// Numbers that look random and come again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What the workers of a random test saw, of all calls together.
#[derive(Default)]
struct Seen {
    /// How many run each call right now.
    running: HashMap<CallId, u32>,
    /// The answer of each call, by whoever gave it.
    answers: HashMap<CallId, (Answer, u64)>,
}

const PAYMENTS: u64 = 3;
const KEYS: u64 = 6;
const ROUNDS: u64 = 60;

/// Eight workers claim, answer, release and lose calls at random. With leases that stand, nobody
/// runs what another one runs.
async fn random_calls(one: &dyn Store, two: &dyn Store, lease: Duration) {
    let seen = Mutex::new(Seen::default());
    let seen = &seen;
    let look = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let look = &look;
    let exclusive = lease == LONG;
    let worker = |number: u64| {
        async move || {
            let mut dice = Dice(number);
            let store = if number.is_multiple_of(2) { one } else { two };
            for round in 0..ROUNDS {
                let name = format!("payment {}", dice.below(PAYMENTS));
                let key = format!("key {}", dice.below(KEYS));
                let price = 5 + dice.below(20);
                let owner = [u8::try_from(number).unwrap(); 16];
                let request = ClaimRequest { lease, owner, ..ask(&name, &key, price) };
                let attempt = match store.claim(&request).await.unwrap() {
                    Claimed::Run { attempt } => attempt,
                    Claimed::Answered(kept) => {
                        let call = claim_of(&request, 0).call;
                        // Whoever gave it may not have written it down yet.
                        if let Some((answer, _)) = look().answers.get(&call) {
                            assert_eq!(kept.answer, Some(kept_as(answer)));
                        }
                        continue;
                    }
                    Claimed::Running { .. } if exclusive => continue,
                    Claimed::NoBalance { .. } => continue,
                    other => panic!("{other:?}"),
                };
                let claim = claim_of(&request, attempt);
                let call = claim.call.clone();
                let runners = {
                    let mut seen = look();
                    let runners = seen.running.entry(call.clone()).or_default();
                    *runners += 1;
                    *runners
                };
                assert!(runners == 1 || !exclusive, "{call:?} runs {runners} times");
                let payment = store.payment(call.transaction).await.unwrap().unwrap();
                assert!(
                    payment.spent.0 + payment.reserved.0 <= payment.facts.amount.0,
                    "{payment:?}"
                );
                // Before it can be seen by others.
                *look().running.get_mut(&call).unwrap() -= 1;
                match dice.below(3) {
                    0 if !exclusive => {}
                    0 | 1 => {
                        let released = store.release(&claim, u32::MAX).await.unwrap();
                        assert!(released != Ended::TakenOver || !exclusive);
                    }
                    _ => {
                        let answer = body(&format!("by {number} in round {round}"));
                        // Payments stay open, so that there is something left to race for.
                        let given = AnswerRequest {
                            answer: Some(answer.clone()),
                            content_hash: keccak256(&answer.body),
                            close_below: Usdc(0),
                            ..answer_to(&claim)
                        };
                        match store.answer(&given).await.unwrap() {
                            Ended::Done { stage, .. } => {
                                assert_eq!(stage, Stage::Open);
                                let before = look().answers.insert(call, (answer, price));
                                assert_eq!(before, None, "answered twice");
                            }
                            Ended::TakenOver => assert!(!exclusive),
                            Ended::Closed => panic!("{call:?} was closed"),
                        }
                    }
                }
            }
        }
    };
    at_once((0..8).map(worker).collect());

    let answers = mem::take(&mut look().answers);
    assert!(!answers.is_empty());
    let mut revenue = 0;
    for number in 0..PAYMENTS {
        let name = format!("payment {number}");
        let payment = two.payment(id(&name)).await.unwrap().unwrap();
        let of_it: Vec<_> =
            answers.iter().filter(|(call, _)| call.transaction == id(&name)).collect();
        let spent = of_it.iter().map(|(_, (_, price))| price).sum::<u64>();
        assert_eq!((payment.spent.0, payment.calls), (spent, of_it.len() as u64));
        assert!(spent + payment.reserved.0 <= 100);
        if exclusive {
            assert_eq!(payment.reserved, Usdc(0));
        }
        revenue += spent;
        // Each has its own place.
        let calls = one.calls(id(&name)).await.unwrap();
        let places: Vec<_> = calls.iter().map(|call| call.index).collect();
        assert_eq!(places, (0..calls.len() as u64).collect::<Vec<_>>());
        for (call, (answer, _)) in of_it {
            let Claimed::Answered(kept) = one.claim(&ask(&name, &call.key, 1)).await.unwrap()
            else {
                panic!("{call:?} was answered");
            };
            assert_eq!(kept.answer, Some(kept_as(answer)));
            assert_eq!(kept.content_hash, keccak256(&answer.body));
        }
    }
    let counters: Vec<_> = one.counters().await.unwrap().into_values().collect();
    assert_eq!(counters, [answers.len() as u64, revenue]);
}

pub(super) async fn random_calls_are_served_once(one: &dyn Store, two: &dyn Store) {
    random_calls(one, two, LONG).await;
}

pub(super) async fn random_losses_are_fenced_off(one: &dyn Store, two: &dyn Store) {
    random_calls(one, two, Duration::ZERO).await;
}

/// Brings a store into every state that it can keep.
pub(in crate::paywall) async fn fill(store: &dyn Store) {
    store.keep_webhooks();
    let bytes: Vec<u8> = (0..=255).collect();
    let long = vec![b'x'; 2 * PIECE_BYTES + 1];
    for (key, body) in [("k\u{e9}y \u{1f980}", &bytes), ("empty", &vec![]), ("long", &long)] {
        let claim = run(store, &ask("balance", key, 10)).await;
        let headers = [("Set-Cookie", &b"a"[..]), ("Set-Cookie", &b"b\xff"[..]), ("X", &b""[..])];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_vec())).into();
        let answer = Answer { status: 201, headers, body: body.clone() };
        let request = Arc::new(kept_request(Some(body)));
        let more =
            AnswerRequest { answer: Some(answer), request: Some(request), ..answer_to(&claim) };
        done(store.answer(&more).await.unwrap());
    }
    // One failed, one was lost, and the answer to one was not kept.
    let failed = run(store, &ask("balance", "failed", 10)).await;
    store.release(&failed, u32::MAX).await.unwrap();
    run(store, &briefly(ask("balance", "lost", 7))).await;
    let bare = run(store, &ask("balance", "bare", 10)).await;
    done(store.answer(&AnswerRequest { answer: None, ..answer_to(&bare) }).await.unwrap());
    serve(store, &ask("whole", "", 100)).await;
    for name in ["settled", "disputed", "delivered"] {
        deliver(store, &dear(name), NOW).await;
    }
    store.keep_tree(id("settled"), &merkle_levels(vec![keccak256("leaf"); 70])).await.unwrap();
    store
        .settle(id("settled"), Stage::Delivered, &settled((950_000, 50_000), NOW + DAY))
        .await
        .unwrap();
    store.settle(id("disputed"), Stage::Delivered, &moved(Stage::Disputed)).await.unwrap();
    store.give_back(&facts("returning", 100)).await.unwrap();
    store.settle(id("returning"), Stage::Returning, &later(LONG, "no gas")).await.unwrap();
    store.set_content_hash(id("whole"), keccak256("root")).await.unwrap();
    let refused = run(store, &unbound(ask("left", "", 100))).await;
    store.release(&refused, 1).await.unwrap();
    let counters = Counters::from([("seen{a=\"\\\"b\"}".to_owned(), 7)]);
    let ran = [Ran::Failed, Ran::Within(5), Ran::Longer];
    let runs = ran.map(|ran| ((NOW / DAY, "GET /".to_owned(), ran), 3)).into();
    store.count(&counters, &runs).await.unwrap();
    store.service().await.unwrap();
}

/// All that a store tells of what [`fill`] put there.
pub(in crate::paywall) async fn told(store: &dyn Store) -> Vec<String> {
    let mut told = vec![];
    let ids = ["balance", "whole", "settled", "disputed", "delivered", "returning", "left"].map(id);
    for id in ids {
        told.push(format!("{:?}", store.payment(id).await.unwrap()));
        let calls = store.calls(id).await.unwrap();
        for CallRow { key, .. } in &calls {
            let call = CallId { transaction: id, key: key.clone() };
            let digest = keccak256(format!("request {key}"));
            let known = format!("{:?}", store.known(&call, digest).await.unwrap());
            let is_long = known.contains("Pieces");
            told.extend([known, format!("{:?}", store.request(&call).await.unwrap())]);
            for piece in (0..3).filter(|_| is_long) {
                told.push(format!("{:?}", keccak256(store.piece(&call, piece).await.unwrap())));
            }
        }
        told.push(format!("{calls:?} {:?}", store.nodes(id, &[(0, 69), (1, 0)]).await.unwrap()));
    }
    for row in store.webhooks(100).await.unwrap() {
        told.push(format!("{:?}", WebhookRow { number: 0, ..row }));
    }
    for by in [ReportBy::Day, ReportBy::Route, ReportBy::Customer] {
        told.push(format!("{:?}", store.report(by, (0, u64::MAX), None, 100).await.unwrap()));
    }
    told.push(format!("{:?}", store.runs((0, u64::MAX)).await.unwrap()));
    let all = PaymentFilter { limit: 100, ..PaymentFilter::default() };
    let rows = store.payments(&all).await.unwrap();
    let mut rows: Vec<_> = rows.iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    told.extend(rows);
    let mut owed = due(store).await;
    owed.sort();
    let settlements = store.settlements(NOW + DAY, Usdc(1), 100).await.unwrap();
    let settlements: Vec<_> = settlements.iter().map(|duty| duty.facts.id).collect();
    told.push(format!("{owed:?} {settlements:?} {:?}", store.counters().await.unwrap()));
    let backlog = Backlog { oldest: Duration::ZERO, ..store.backlog(NOW, Usdc(1)).await.unwrap() };
    told.push(format!("{backlog:?} {:?}", store.service().await.unwrap()));
    told
}

/// What [`fill`] left open is served further, on its rest alone.
pub(in crate::paywall) async fn goes_on(store: &dyn Store) {
    let claimed = store.claim(&ask("balance", "too much", 61)).await.unwrap();
    assert_eq!(claimed, Claimed::NoBalance { left: Usdc(53) });
    // The claim of a process that died is taken over, with what it held.
    assert_eq!(run(store, &ask("balance", "lost", 60)).await.attempt, 2);
    assert_eq!(store.release(&claim_of(&ask("balance", "lost", 60), 2), 9).await.unwrap(), {
        Ended::Done { stage: Stage::Open, index: 4 }
    });
    serve(store, &ask("balance", "more", 60)).await;
    assert_eq!(stage(store, "balance").await, Stage::Delivering);
    let counters = store.counters().await.unwrap();
    let route = super::calls_counter("/summarize");
    assert_eq!(counters[&route], 9, "{counters:?}");
}
