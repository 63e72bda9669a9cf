//! On the kernels that allow it, abandoned work is returned to whoever paid for it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agirails::{
    ACTPClient, Address, Code, CreateTransaction, Generation, Refusal, State, TransactionId,
    keeper::{Event, Keeper, KeeperBuilder},
    kernel::Transition,
};

use crate::{
    fixture::{DOLLAR, Fixture, RESULT, Told, WINDOW},
    front::Front,
};

const NEWER: [Generation; 2] = [Generation::F6, Generation::Aip14c];
const LIFE: u64 = 86_400;

impl Fixture {
    fn recovering(&self, kernel: Arc<Front>) -> KeeperBuilder {
        let client = ACTPClient::with_kernel(kernel, self.keeper.address());
        Keeper::builder(client).storage(self.keeper.storage().clone()).recover(true)
    }

    /// Of a dollar; its provider has begun.
    async fn begun(&self, provider: Address) -> TransactionId {
        let deadline = self.kernel.now().await.unwrap() + LIFE;
        let mut request = CreateTransaction::new(self.requester, provider, DOLLAR, deadline);
        request.dispute_window_seconds = WINDOW;
        let id = self.kernel.create_transaction(self.requester, &request).await.unwrap();
        self.kernel.link_escrow(self.requester, id, Default::default()).await.unwrap();
        self.steps(provider, id, State::InProgress).await;
        id
    }

    async fn steps(&self, provider: Address, id: TransactionId, to: State) {
        let data = match to {
            State::Delivered => self.kernel.network().terms.encode_delivery(WINDOW, RESULT),
            _ => vec![],
        };
        let step = Transition { id, to, data, proof: None };
        self.kernel.transition_state(provider, &step).await.unwrap();
    }

    fn grace(&self) -> u64 {
        self.kernel.network().terms.recovery_grace_seconds().unwrap()
    }
}

#[tokio::test]
async fn abandoned_work_is_returned_once_and_what_was_delivered_is_settled() {
    for generation in NEWER {
        let fixture = Fixture::of(generation).await;
        let [one, other] = fixture.providers;
        let before = fixture.balance(fixture.requester).await;
        let abandoned = fixture.begun(one).await;
        let [delivered, given_back] = [fixture.begun(other).await, fixture.begun(other).await];
        let told = Told::default();
        let front = Front::of(&fixture.kernel);
        let builder = fixture.recovering(front.clone()).on_event(told.listener());
        let keeper = builder.open().await.unwrap();
        assert_eq!(keeper.turn().await.unwrap().stalled, 0, "{generation:?}");
        fixture.steps(other, delivered, State::Delivered).await;
        fixture.steps(other, given_back, State::Cancelled).await;

        // A quarter of a minute before its time nobody is asked.
        fixture.pass(LIFE + fixture.grace() - 15).await;
        let early = keeper.turn().await.unwrap();
        assert_eq!((early.settled.len(), early.recovered.len(), early.stalled), (1, 0, 0));
        assert_eq!(front.asked.load(Ordering::SeqCst), 1);
        fixture.pass(15).await;
        let late = keeper.turn().await.unwrap();
        let [recovery] = &late.recovered[..] else { panic!("{late:?}") };
        assert_eq!((recovery.transaction, recovery.amount), (abandoned, DOLLAR));
        assert_eq!(recovery.requester, fixture.requester);
        assert_eq!((late.stalled, late.waiting, late.failed), (0, 0, 0));
        assert_eq!(fixture.state(abandoned).await, State::Cancelled);
        let after = fixture.balance(fixture.requester).await;
        assert_eq!(before.0 - after.0, DOLLAR.0, "{generation:?}: what was delivered costs");

        let again = keeper.turn().await.unwrap();
        assert_eq!((again.recovered.len(), front.asked.load(Ordering::SeqCst)), (0, 2));
        let metrics = keeper.metrics().await.unwrap();
        assert_eq!((metrics.recovered_total, metrics.settled_total), (1, 1));
        let lines = told.lines();
        assert!(lines.iter().any(|line| line.starts_with(&format!("recovered {abandoned} for"))));
        assert_eq!(lines.len(), 2, "{lines:?}");
    }
}

#[tokio::test]
async fn who_does_not_ask_for_it_is_told_and_does_not_do_it() {
    let fixture = Fixture::of(Generation::F6).await;
    let id = fixture.begun(fixture.providers[0]).await;
    fixture.pass(LIFE + fixture.grace() + 1).await;
    let keeper = fixture.open().await;
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.recovered.len(), report.stalled, report.next_due_at), (0, 1, None));
    assert_eq!(keeper.metrics().await.unwrap().stalled, 1);
    drop(keeper);
    // The next one does, from the same file.
    let dry = fixture.recovering(Front::of(&fixture.kernel)).dry_run(true).open().await.unwrap();
    assert_eq!(dry.turn().await.unwrap().recovered.len(), 1);
    assert_eq!(fixture.state(id).await, State::InProgress);
    let keeper = fixture.recovering(Front::of(&fixture.kernel)).open().await.unwrap();
    assert_eq!(keeper.turn().await.unwrap().recovered.len(), 1);
    assert_eq!(fixture.state(id).await, State::Cancelled);
}

#[tokio::test]
async fn the_oldest_kernel_recovers_nothing_and_says_so() {
    let fixture = Fixture::of(Generation::May2026).await;
    let refused = fixture.recovering(Front::of(&fixture.kernel)).open().await.unwrap_err();
    assert_eq!(refused.code(), Code::UnsupportedKernel);
}

#[tokio::test]
async fn a_late_delivery_and_a_lying_node_take_nothing_from_anybody() {
    let fixture = Fixture::of(Generation::Aip14c).await;
    let provider = fixture.providers[0];
    let (late, robbed) = (fixture.begun(provider).await, fixture.begun(provider).await);
    let front = Front::of(&fixture.kernel);
    let told = Told::default();
    let builder = fixture.recovering(front.clone()).on_event(told.listener());
    let keeper = builder.open().await.unwrap();
    keeper.turn().await.unwrap();
    // Within the grace, and a node that has not seen it.
    fixture.pass(LIFE + 60).await;
    fixture.steps(provider, late, State::Delivered).await;
    front.is(|mood| {
        mood.says.insert(late, State::InProgress);
    });
    keeper.turn().await.unwrap();
    // Work is abandoned now, and the window of what was delivered is not over, however slow the test.
    fixture.pass(fixture.grace() - 30).await;
    front.is(|mood| mood.refuses = Some(Refusal::RecoveryNotYetAvailable));
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.recovered.len(), report.failed, report.settled.len()), (0, 1, 0));
    front.is(|mood| {
        mood.refuses = None;
        mood.says.clear();
    });
    fixture.wait_is_over();
    let report = keeper.turn().await.unwrap();
    let ended: Vec<_> = report.recovered.iter().map(|recovery| recovery.transaction).collect();
    assert_eq!(ended, [robbed]);
    assert_eq!(fixture.state(late).await, State::Delivered);
    fixture.pass(WINDOW + 1).await;
    fixture.wait_is_over();
    keeper.turn().await.unwrap();
    let report = keeper.turn().await.unwrap();
    assert_eq!(fixture.state(late).await, State::Settled, "{report:?} {:?}", told.lines());
}

#[tokio::test]
async fn a_keeper_that_dies_while_it_recovers_is_followed_by_one_that_goes_on() {
    for dies_after in [false, true] {
        for calls in 0..8 {
            let fixture = Fixture::of(Generation::F6).await;
            let ids = [
                fixture.begun(fixture.providers[0]).await,
                fixture.begun(fixture.providers[1]).await,
            ];
            fixture.pass(LIFE + fixture.grace() + 1).await;
            let before = fixture.balance(fixture.requester).await;
            let deadly = Front::deadly(&fixture.kernel, calls, dies_after);
            let keeper = fixture.recovering(deadly).open().await.unwrap();
            let patience = Duration::from_millis(200);
            let _ = tokio::time::timeout(patience, keeper.turn()).await;
            drop(keeper);
            if fixture.file().is_some() {
                fixture.wait_is_over();
            }
            let keeper = fixture.recovering(Front::of(&fixture.kernel)).open().await.unwrap();
            keeper.turn().await.unwrap();
            for id in ids {
                assert_eq!(fixture.state(id).await, State::Cancelled, "{calls} {dies_after}");
            }
            let back = fixture.balance(fixture.requester).await.0 - before.0;
            assert_eq!(back, 2 * DOLLAR.0);
        }
    }
}

#[tokio::test]
async fn it_keeps_to_the_providers_that_it_is_given() {
    let fixture = Fixture::of(Generation::F6).await;
    let id = fixture.begun(fixture.providers[0]).await;
    fixture.pass(LIFE + fixture.grace() + 1).await;
    let told = Told::default();
    let front = Front::of(&fixture.kernel);
    let stranger = Address::repeat_byte(0x77);
    let other = fixture.recovering(front.clone()).providers([stranger]).on_event(told.listener());
    assert_eq!(other.open().await.unwrap().turn().await.unwrap().recovered.len(), 0);
    fixture.wait_is_over();
    let ours =
        fixture.recovering(front).providers([fixture.providers[0]]).on_event(told.listener());
    ours.open().await.unwrap().turn().await.unwrap();
    let events = told.events();
    let [Event::Recovered(recovery)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(recovery.transaction, id);
}
