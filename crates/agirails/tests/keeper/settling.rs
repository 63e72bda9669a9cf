//! What is due is settled for whoever it pays.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agirails::{
    ACTPClient, Address, Code, CreateTransaction, State, Storage, Usdc,
    keeper::{Event, Keeper},
    kernel::Transition,
    protocol::proof::Resolution,
};

use crate::{
    fixture::{CENTS_10, DOLLAR, Fixture, RESULT, Told, WINDOW},
    front::Front,
};

#[tokio::test]
async fn a_keeper_settles_for_providers_who_are_not_it() {
    let fixture = Fixture::new().await;
    let [one, other] = fixture.providers;
    let told = Told::default();
    let keeper = fixture.builder().on_event(told.listener()).open().await.unwrap();
    let ids = [fixture.delivered(one, DOLLAR).await, fixture.delivered(other, CENTS_10).await];
    let before = [fixture.balance(one).await, fixture.balance(other).await];
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.waiting, report.is_busy), (0, 2, false));
    let ends = fixture.kernel.get_transaction(ids[0]).await.unwrap().dispute_window;
    assert_eq!(report.next_due_at, ends.ends_at().map(|end| end + 1));

    fixture.pass(WINDOW + 1).await;
    let report = keeper.turn().await.unwrap();
    let net: BTreeMap<_, _> = report.settled.iter().map(|one| (one.transaction, one.net)).collect();
    assert_eq!(net, [(ids[0], Usdc(950_000)), (ids[1], Usdc(50_000))].into());
    assert_eq!((report.waiting, report.failed, report.next_due_at), (0, 0, None));
    assert_eq!(fixture.balance(one).await, Usdc(before[0].0 + 950_000));
    assert_eq!(fixture.balance(other).await, Usdc(before[1].0 + 50_000));
    let line = format!("settled {} for provider {one}: net 0.95 USDC, gas 0 wei", ids[0]);
    assert!(told.lines().contains(&line));

    // Its own settlements come back as events, and are nobody else's.
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.ended), (0, 0));
    assert!(told.lines().is_empty());
    let metrics = keeper.metrics().await.unwrap();
    assert_eq!((metrics.settled_total, metrics.waiting, metrics.failures_total), (2, 0, 0));
    assert!(metrics.cursor > 0);
    assert!(serde_json::to_string(&report).unwrap().contains("\"settled\":[]"));
}

#[tokio::test]
async fn named_providers_are_settled_and_nobody_else() {
    let fixture = Fixture::new().await;
    let [one, other] = fixture.providers;
    let [its, others] = fixture.two_due().await;
    let named = fixture.builder().providers([one]).open().await.unwrap();
    let report = named.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.settled[0].provider), (1, one));
    assert_eq!((report.waiting, named.metrics().await.unwrap().waiting), (0, 0));
    assert_eq!(fixture.state(its).await, State::Settled);
    assert_eq!(fixture.state(others).await, State::Delivered);
    // What was passed over then is not lost to a keeper of all.
    let report = fixture.open().await.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.settled[0].provider), (1, other));
}

#[tokio::test]
async fn what_somebody_else_settled_is_done() {
    let fixture = Fixture::new().await;
    let [one, _] = fixture.two_due().await;
    let told = Told::default();
    let front = Front::of(&fixture.kernel);
    let keeper = fixture.behind(&front).on_event(told.listener()).open().await.unwrap();
    front.is(|mood| mood.is_down = true);
    assert_eq!(keeper.turn().await.unwrap().settled, []);
    let settle = Transition { id: one, to: State::Settled, data: vec![], proof: None };
    fixture.kernel.transition_state(fixture.requester, &settle).await.unwrap();
    told.events();
    front.is(|mood| mood.is_down = false);
    fixture.wait_is_over();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.ended, report.waiting), (1, 1, 0));
    assert!(told.lines().contains(&format!("{one} was SETTLED by other hands")));
}

#[tokio::test]
async fn two_keepers_of_one_key_do_not_do_the_same_work() {
    let fixture = Fixture::new().await;
    let ids = fixture.two_due().await;
    let front = Front::of(&fixture.kernel);
    front.is(|mood| mood.takes = Duration::from_millis(200));
    let told = Told::default();
    let first = fixture.behind(&front).open().await.unwrap();
    let second = fixture.behind(&front).on_event(told.listener()).open().await.unwrap();
    let working = tokio::spawn(async move { first.turn().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let report = second.turn().await.unwrap();
    assert!(report.is_busy && report.settled.is_empty());
    assert_eq!(told.events(), [Event::Busy]);
    assert_eq!(working.await.unwrap().settled.len(), 2);
    // The work is done, and the lease given back.
    let report = second.turn().await.unwrap();
    assert!(!report.is_busy && report.settled.is_empty());
    for id in ids {
        assert_eq!(fixture.settlements(id).await, 1);
    }
    assert_eq!(second.metrics().await.unwrap().settled_total, 2);
}

#[tokio::test]
async fn a_dispute_is_left_to_its_resolver() {
    let fixture = Fixture::new().await;
    let id = fixture.delivered(fixture.providers[0], DOLLAR).await;
    let told = Told::default();
    let keeper = fixture.builder().on_event(told.listener()).open().await.unwrap();
    assert_eq!(keeper.turn().await.unwrap().waiting, 1);
    fixture.kernel.dispute(fixture.requester, id, DOLLAR).await.unwrap();
    fixture.pass(WINDOW + 1).await;
    for round in 0..2 {
        let report = keeper.turn().await.unwrap();
        assert_eq!((report.settled.len(), report.waiting, report.disputed), (0, 0, 1), "{round}");
        fixture.wait_is_over();
    }
    assert_eq!(told.lines(), [format!("{id} waits: it is disputed")]);
    let resolution = Resolution {
        requester_amount: Usdc(400_000),
        provider_amount: Usdc(600_000),
        provider_at_fault: false,
        mediator: None,
    };
    let data = resolution.encode();
    let resolved = Transition { id, to: State::Settled, data, proof: None };
    fixture.kernel.transition_state(fixture.kernel.network().admin, &resolved).await.unwrap();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.ended, report.disputed), (0, 1, 0));
    assert_eq!(told.lines(), [format!("{id} was SETTLED by other hands")]);
    assert_eq!(fixture.settlements(id).await, 1);
}

#[tokio::test]
async fn what_its_milestones_paid_does_not_arrive_again() {
    let fixture = Fixture::new().await;
    let (requester, provider) = (fixture.requester, fixture.providers[0]);
    let client = ACTPClient::with_kernel(fixture.kernel.clone(), requester);
    let deadline = client.now().await.unwrap() + 86_400;
    let mut request = CreateTransaction::new(requester, provider, DOLLAR, deadline);
    request.dispute_window_seconds = WINDOW;
    let id = client.create_transaction(&request).await.unwrap();
    client.link_escrow(id).await.unwrap();
    let step = |to, data| Transition { id, to, data, proof: None };
    fixture.kernel.transition_state(provider, &step(State::InProgress, vec![])).await.unwrap();
    client.release_milestone(id, Usdc(600_000)).await.unwrap();
    let data = client.network().terms.encode_delivery(2 * 86_400, RESULT);
    fixture.kernel.transition_state(provider, &step(State::Delivered, data)).await.unwrap();
    fixture.pass(2 * 86_400 + 1).await;
    let report = fixture.open().await.turn().await.unwrap();
    assert_eq!(report.settled[0].net, Usdc(350_000));
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_writes_nothing() {
    let fixture = Fixture::new().await;
    let ids = fixture.two_due().await;
    let told = Told::default();
    let dry = || fixture.builder().dry_run(true).on_event(told.listener());
    let report = dry().open().await.unwrap().turn().await.unwrap();
    assert!(report.is_dry_run);
    assert_eq!(report.settled.len(), 2);
    let (lines, line) = (told.lines(), format!("would settle {} for provider", ids[0]));
    assert!(lines.iter().any(|told| told.starts_with(&line)), "{lines:?}");
    assert_eq!(fixture.file(), None);
    assert_eq!(fixture.state(ids[0]).await, State::Delivered);

    // It goes on from where the keeper is, and leaves the keeper there.
    let keeper = fixture.open().await;
    assert_eq!(keeper.turn().await.unwrap().settled.len(), 2);
    let place = keeper.metrics().await.unwrap().cursor;
    let id = fixture.delivered(fixture.providers[0], DOLLAR).await;
    fixture.pass(WINDOW + 1).await;
    let rehearsal = dry().open().await.unwrap();
    let report = rehearsal.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.settled[0].transaction), (1, id));
    // It says so once.
    assert_eq!(rehearsal.turn().await.unwrap().settled, []);
    assert_eq!(keeper.metrics().await.unwrap().cursor, place);
    assert_eq!(keeper.turn().await.unwrap().settled.len(), 1);
}

#[tokio::test]
async fn a_keeper_runs_until_it_is_told_to_stop() {
    let fixture = Fixture::new().await;
    let ids = fixture.two_due().await;
    let front = Front::of(&fixture.kernel);
    front.is(|mood| mood.takes = Duration::from_millis(100));
    let told = Told::default();
    let keeper = fixture.behind(&front).on_event(told.listener()).open().await.unwrap();
    let stop = Arc::new(tokio::sync::Notify::new());
    let (running, stopping) = (keeper.clone(), stop.clone());
    let run = tokio::spawn(async move { running.run(stopping.notified()).await });
    // In the middle of the settlements: they are waited for and written down.
    while front.asked.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.notify_one();
    run.await.unwrap().unwrap();
    for id in ids {
        assert_eq!(fixture.state(id).await, State::Settled);
    }
    assert_eq!(keeper.metrics().await.unwrap().settled_total, 2);
    assert_eq!(told.lines().len(), 2);
    // Nobody has to wait for its lease.
    assert!(!fixture.open().await.turn().await.unwrap().is_busy);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let fixture = Fixture::new().await;
    let (mine, its) = (fixture.keeper.address(), fixture.requester);
    #[cfg(feature = "chain")]
    {
        let error = fixture.builder().from_block(7).open().await.unwrap_err();
        assert_eq!(
            (error.code(), error.facts().field),
            (Code::InvalidSettings, Some("from_block"))
        );
    }
    // The file of another key is not used, whatever its name.
    drop(fixture.open().await);
    let file = fixture.file().unwrap();
    let name = |address: Address| format!("{address:x}");
    let renamed = file.to_str().unwrap().replace(&name(mine), &name(its));
    std::fs::rename(&file, renamed).unwrap();
    let stranger = ACTPClient::with_kernel(fixture.kernel.clone(), its);
    let storage = Storage::Directory(fixture.directory.path().to_owned());
    let error = Keeper::builder(stranger).storage(storage).open().await.unwrap_err();
    assert_eq!(error.code(), Code::StorageDamaged);
}
