//! Nodes that stall, lag, refuse or tell no time: no call runs twice for it, and no money is lost.

use std::{sync::Arc, time::Duration};

use agirails::{
    State, TransactionId, U256, Usdc,
    paywall::{Charge, Entry, Incoming, Paywall, Reason, Settings},
    protocol::Refusal,
};

use crate::{
    faulty_kernel::{FaultyKernel, Mood},
    fixture::{CENTS_10, HOUR, Stage, answer, charge, json, ok, run, unsigned},
};

struct Outage {
    stage: Stage,
    odd: Arc<FaultyKernel>,
    paywall: Paywall,
    charge: Arc<Charge>,
}

impl Outage {
    async fn with(settings: Settings) -> Self {
        let stage = Stage::new().await;
        let odd = FaultyKernel::of(&stage);
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
        let served = run(self.enter(&self.stage.signed(id, None, b"{}").await).await);
        self.odd.is(mood);
        assert_eq!(served.finish(ok("served")).await.status, 200);
        id
    }

    /// Until the outbox has looked twice what a refusal means, so that the first is written down.
    async fn refused_again(&self) {
        let before = self.odd.reads();
        for _ in 0..200 {
            if self.odd.reads() >= before + 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the outbox did not look again");
    }

    async fn comes_to(&self, id: TransactionId, stage: &str) {
        for _ in 0..400 {
            if self.stands_at(id).await == stage {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} never came to {stage}, it is {}", self.stands_at(id).await);
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
    let served = run(outage.enter(&request).await);
    outage.odd.is(Mood::Stalls);
    let repeat = outage.entering(&request);
    tokio::time::sleep(4 * lease).await;
    assert!(!repeat.is_finished(), "it was taken over");
    assert_eq!(served.finish(ok("once")).await.status, 200);
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
async fn a_delivery_that_is_refused_for_good_is_given_back_when_its_deadline_is_over() {
    let outage = Outage::with(Settings::default()).await;
    let id = outage.served_under(Mood::Refuses(Refusal::DisputeWindowTooLong)).await;
    outage.refused_again().await;
    assert_eq!(outage.stands_at(id).await, "delivering");
    outage.stage.provider.mock().unwrap().advance_time(HOUR + 1).await.unwrap();
    // Its refund is refused as well, and stays owed as long as the money is locked.
    outage.comes_to(id, "returning").await;
    outage.odd.is(Mood::Well);
    outage.stage.becomes(id, State::Cancelled).await;
}

#[tokio::test]
async fn a_false_refusal_gives_back_nothing_that_was_served() {
    let outage = Outage::with(Settings::default()).await;
    for refusal in [
        Refusal::TransactionExpired,
        Refusal::OnlyProvider,
        Refusal::DisputeWindowTooShort,
        Refusal::InvalidDisputeWindowProof,
    ] {
        let id = outage.served_under(Mood::Refuses(refusal)).await;
        outage.refused_again().await;
        assert_eq!(outage.stands_at(id).await, "delivering", "{refusal}");
        outage.odd.is(Mood::Well);
        outage.stage.becomes(id, State::Delivered).await;
    }
}

#[tokio::test]
async fn what_was_given_up_and_stands_is_taken_up_again() {
    let outage = Outage::with(Settings::default()).await;
    let unserved = outage.stage.funded(CENTS_10).await;
    let request = outage.stage.signed(unserved, None, b"{}").await;
    run(outage.enter(&request).await).abort(Reason::Raised, "it broke").await;
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
    run(outage.enter(&request).await).abort(Reason::Raised, "it broke").await;
    outage.odd.is(Mood::TellsNoTime);
    outage.stage.becomes(id, State::Cancelled).await;
}

#[tokio::test]
async fn an_id_is_asked_for_once_while_the_node_does_not_know_it() {
    let outage = Outage::with(Settings::default()).await;
    let id = outage.stage.funded(CENTS_10).await;
    let request = outage.stage.signed(id, None, b"{}").await;
    outage.odd.is(Mood::SeesNothing);
    let asked: Vec<_> = (0..20).map(|_| outage.entering(&request)).collect();
    for asked in asked {
        assert_eq!(answer(asked.await.unwrap()).status, 402);
    }
    assert_eq!(outage.odd.reads(), 1);
    // Who has just made it is served as soon as the node has seen it.
    outage.odd.is(Mood::Well);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    run(outage.enter(&request).await).finish(ok("seen")).await;
}

#[tokio::test]
async fn what_is_refused_without_the_chain_or_was_read_before_asks_no_node() {
    let outage = Outage::with(Settings::default()).await;
    let small = outage.stage.funded(Usdc(50_000)).await;
    let request = outage.stage.signed(small, None, b"{}").await;
    let told = json(&answer(outage.enter(&request).await));
    assert_eq!((&told["provided"], &told["required"]), (&"0.05".into(), &"0.10".into()));
    let again = json(&answer(outage.enter(&request).await));
    assert_eq!(
        (&again["detail"], &again["provided"], &again["required"]),
        (&told["detail"], &told["provided"], &told["required"])
    );
    assert_eq!(outage.odd.reads(), 1);
    assert_eq!(outage.paywall.check(&outage.charge, &request, None).await.unwrap().status, 402);

    let mut stale = unsigned(TransactionId::repeat_byte(9), "/api/generate", b"{}");
    stale.signature = Some(format!("t=1000000000,s=0x{}1b", "11".repeat(64)));
    assert_eq!(answer(outage.enter(&stale).await).status, 401);
    assert_eq!(outage.odd.reads(), 1);
}

#[tokio::test]
async fn who_comes_behind_a_flood_of_made_up_ids_has_a_turn() {
    let outage = Outage::with(Settings::default()).await;
    let id = outage.stage.funded(CENTS_10).await;
    let request = outage.stage.signed(id, None, b"{}").await;
    outage.odd.is(Mood::Stalls);
    for number in 0..64 {
        let made_up = TransactionId::from(U256::from(number + 1));
        outage.entering(&unsigned(made_up, "/api/generate", b"{}"));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let payer = outage.entering(&request);
    tokio::time::sleep(Duration::from_millis(300)).await;
    outage.odd.is(Mood::Well);
    run(payer.await.unwrap()).finish(ok("served")).await;
}
