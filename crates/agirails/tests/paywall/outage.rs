//! Nodes that stall, lag, refuse or tell no time: no call runs twice for it, and no money is lost.

use std::{sync::Arc, time::Duration};

use agirails::{
    State, TransactionId,
    paywall::{Charge, Entry, Incoming, Paywall, Settings},
    protocol::Refusal,
};

use crate::{
    odd::{Mood, Odd},
    stage::{CENTS_10, Stage, answer, charge, json, ok, run},
};

struct Outage {
    stage: Stage,
    odd: Arc<Odd>,
    paywall: Paywall,
    charge: Arc<Charge>,
}

impl Outage {
    async fn with(settings: Settings) -> Self {
        let stage = Stage::new().await;
        let odd = Odd::of(&stage);
        let paywall = stage.behind(&odd).settings(settings).open().await.unwrap();
        let charge = charge(&paywall, CENTS_10);
        Self { stage, odd, paywall, charge }
    }

    async fn enter(&self, request: &Incoming) -> Entry {
        self.paywall.enter(&self.charge, request, None).await
    }

    /// The same, while others go on.
    fn entering(&self, request: &Incoming) -> tokio::task::JoinHandle<Entry> {
        let (paywall, charge) = (self.paywall.clone(), self.charge.clone());
        let request = request.clone();
        tokio::spawn(async move { paywall.enter(&charge, &request, None).await })
    }

    /// A call that was let in before the node fell into this mood, and served after it.
    async fn served_under(&self, mood: Mood) -> TransactionId {
        let id = self.stage.funded(CENTS_10).await;
        let ticket = run(self.enter(&self.stage.signed(id, None, b"{}").await).await);
        self.odd.is(mood);
        assert_eq!(ticket.finish(ok("served")).await.status, 200);
        id
    }

    async fn stands_at(&self, id: TransactionId) -> String {
        let page = Incoming::new("GET", &format!("/api/payments/{id}"), b"");
        json(&self.paywall.page(&page).await.unwrap())["stage"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_run_that_outlasts_its_lease_runs_once_while_the_node_stalls() {
    let lease = Duration::from_secs(1);
    let outage = Outage::with(Settings { lease, ..Settings::default() }).await;
    let id = outage.stage.funded(CENTS_10).await;
    let request = outage.stage.signed(id, None, b"{}").await;
    let ticket = run(outage.enter(&request).await);
    outage.odd.is(Mood::Stalls);
    let repeat = outage.entering(&request);
    tokio::time::sleep(4 * lease).await;
    assert!(!repeat.is_finished(), "it was taken over");
    assert_eq!(ticket.finish(ok("once")).await.status, 200);
    assert_eq!(answer(repeat.await.unwrap()).body, b"once");
    outage.odd.is(Mood::Well);
    outage.stage.becomes(id, State::Delivered).await;
}

#[tokio::test]
async fn what_a_lagging_node_refuses_is_delivered_when_it_has_caught_up() {
    let outage = Outage::with(Settings::default()).await;
    for refusal in [Refusal::InvalidTransition, Refusal::NoOp] {
        let id = outage.served_under(Mood::Refuses(refusal)).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(outage.stands_at(id).await, "delivering");
        outage.odd.is(Mood::Well);
        outage.stage.becomes(id, State::Delivered).await;
    }
}

#[tokio::test]
async fn an_old_duty_outlives_a_node_that_sees_nothing_yet() {
    let outage = Outage::with(Settings::default()).await;
    let id = outage.served_under(Mood::Stalls).await;
    // Owed for two hours, all of them without a node.
    outage.stage.rewrite("UPDATE payments SET since = since - 7200000");
    outage.odd.is(Mood::SeesNothing);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(outage.stands_at(id).await, "delivering");
    outage.odd.is(Mood::Well);
    outage.stage.becomes(id, State::Delivered).await;
}

#[tokio::test]
async fn a_delivery_that_is_refused_for_good_is_given_back() {
    let outage = Outage::with(Settings::default()).await;
    let id = outage.served_under(Mood::Refuses(Refusal::DisputeWindowTooLong)).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    // Its refund is refused as well, and stays owed as long as the money is locked.
    assert_eq!(outage.stands_at(id).await, "returning");
    outage.odd.is(Mood::Well);
    outage.stage.becomes(id, State::Cancelled).await;
}

#[tokio::test]
async fn what_was_given_up_and_stands_is_taken_up_again() {
    let outage = Outage::with(Settings::default()).await;
    let unserved = outage.stage.funded(CENTS_10).await;
    let request = outage.stage.signed(unserved, None, b"{}").await;
    run(outage.enter(&request).await).fail("it broke").await;
    let served = outage.served_under(Mood::SeesNothing).await;
    outage.stage.rewrite("UPDATE payments SET stage = 5");
    outage.odd.is(Mood::Well);
    outage.stage.becomes(served, State::Delivered).await;
    outage.stage.becomes(unserved, State::Cancelled).await;
}

#[tokio::test]
async fn payments_are_closed_in_time_by_the_own_clock_where_the_kernels_is_silent() {
    let settings = Settings { min_seconds_left: 3, closing_seconds: 2, ..Settings::default() };
    let outage = Outage::with(settings).await;
    let id = outage.stage.funded_for(CENTS_10, 5).await;
    let request = outage.stage.signed(id, None, b"{}").await;
    run(outage.enter(&request).await).fail("it broke").await;
    outage.odd.is(Mood::TellsNoTime);
    outage.stage.becomes(id, State::Cancelled).await;
}
