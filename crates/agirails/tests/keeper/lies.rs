//! What a node says is looked at again: one that lags or lies loses nothing.

use std::sync::atomic::Ordering;

use agirails::{Refusal, State, TransactionId, keeper::Report};

use crate::{
    fixture::{DOLLAR, Fixture, Told, WINDOW},
    front::{Front, Mood},
};

/// A round behind a node in this mood, and one behind an honest node once the file has waited long enough.
async fn rounds(
    lie: impl Fn(&mut Mood, TransactionId),
) -> (Fixture, TransactionId, Report, Vec<String>) {
    let fixture = Fixture::new().await;
    let id = fixture.delivered(fixture.providers[0], DOLLAR).await;
    fixture.pass(WINDOW + 1).await;
    let (front, told) = (Front::of(&fixture.kernel), Told::default());
    front.is(|mood| lie(mood, id));
    let keeper = fixture.behind(&front).on_event(told.listener()).open().await.unwrap();
    let report = keeper.turn().await.unwrap();
    drop(keeper);
    fixture.wait_is_over();
    let honest = fixture.builder().on_event(told.listener()).open().await.unwrap();
    let after = honest.turn().await.unwrap();
    assert_eq!(after.settled.len(), 1, "{report:?} {after:?}");
    assert_eq!(fixture.state(id).await, State::Settled);
    (fixture, id, report, told.lines())
}

#[tokio::test]
async fn a_delivery_that_a_node_hides_is_found() {
    let (_, _, report, _) = rounds(|mood, id| mood.hides.extend([id])).await;
    assert_eq!((report.settled.len(), report.waiting), (0, 0));
}

#[tokio::test]
async fn an_end_that_was_none_is_taken_back() {
    for state in [State::Settled, State::Cancelled] {
        let (_, id, report, lines) = rounds(move |mood, id| mood.says.extend([(id, state)])).await;
        assert_eq!((report.settled.len(), report.waiting), (0, 0));
        assert_eq!(lines[0], format!("{id} waits again: the chain took its end back"));
    }
}

#[tokio::test]
async fn a_state_before_delivery_is_a_lagging_nodes() {
    for state in [State::Committed, State::InProgress, State::Disputed] {
        rounds(move |mood, id| mood.says.extend([(id, state)])).await;
    }
}

#[tokio::test]
async fn a_refusal_is_not_believed_while_the_transaction_stands() {
    for refusal in [
        Refusal::TxMissing,
        Refusal::NoOp,
        Refusal::InvalidTransition,
        Refusal::NotAuthorizedToSettle,
        Refusal::FeeExceedsAmount,
        Refusal::KernelPaused,
    ] {
        let (_, id, report, lines) = rounds(move |mood, _| mood.refuses = Some(refusal)).await;
        assert_eq!((report.failed, report.waiting), (1, 1), "{refusal}");
        assert!(lines[0].starts_with(&format!("the try to end {id} failed, the next is in ")));
        assert!(lines[0].ends_with(refusal.words()), "{lines:?}");
    }
}

#[tokio::test]
async fn an_escrow_that_a_node_says_is_empty_is_asked_for_again() {
    let (_, _, report, _) = rounds(|mood, id| {
        mood.gas_price = Some(1);
        mood.robs.insert(id);
    })
    .await;
    assert_eq!((report.settled.len(), report.unprofitable), (0, 1));
}

#[tokio::test]
async fn a_clock_that_is_ahead_settles_nothing_early() {
    let fixture = Fixture::new().await;
    let id = fixture.delivered(fixture.providers[0], DOLLAR).await;
    let front = Front::of(&fixture.kernel);
    front.is(|mood| mood.is_ahead = WINDOW + 1);
    let keeper = fixture.behind(&front).open().await.unwrap();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.failed, report.waiting), (0, 1, 1));
    front.is(|mood| mood.is_ahead = 0);
    fixture.wait_is_over();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.failed, report.waiting), (0, 0, 1));
    fixture.pass(WINDOW + 1).await;
    assert_eq!(keeper.turn().await.unwrap().settled.len(), 1);
    assert_eq!(fixture.settlements(id).await, 1);
}

#[tokio::test]
async fn a_node_that_is_down_is_not_asked_for_each_transaction() {
    let fixture = Fixture::new().await;
    for _ in 0..200 {
        fixture.delivered(fixture.providers[0], DOLLAR).await;
    }
    fixture.pass(WINDOW + 1).await;
    let front = Front::of(&fixture.kernel);
    front.is(|mood| mood.is_down = true);
    let keeper = fixture.behind(&front).open().await.unwrap();
    let report = keeper.turn().await.unwrap();
    let asked = front.asked.load(Ordering::SeqCst);
    assert!(report.failed < 200 && asked < 200, "{asked}");
    assert_eq!(report.waiting, 200);
    front.is(|mood| mood.is_down = false);
    fixture.wait_is_over();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.waiting), (200, 0));
}
