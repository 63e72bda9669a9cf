//! What was delivered is paid out without anybody's help, once, and the books say so.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use agirails::{
    ACTPClient, Address, Code, CreateTransaction, DisputeWindow, Event as KernelEvent, Evidence,
    Generation, Refusal, Ruling, SettlementLimits, State, Storage, TransactionId, Usdc,
    keeper::Keeper,
    kernel::{
        Kernel,
        chain::{ChainKernel, ChainSettings},
    },
    paywall::{
        Charge, Event, Incoming, Level, PaymentQuery, PaymentRecord, Paywall, ReportBy,
        ReportQuery, Settings, Settle,
    },
    protocol::proof::Resolution,
};

use alloy_sol_types::{SolCall, sol};

use crate::{
    chain::Local,
    faulty_kernel::{FaultyKernel, Mood},
    fixture::{CENTS_10, HOUR, Stage, answer, charge, client, json, ok, run, service_in},
    generation::generation,
};

const DOLLAR: Usdc = Usdc(1_000_000);
const NET: Usdc = Usdc(950_000);
const DAY: u64 = 86_400;

/// Serves one call that takes the whole transaction.
async fn serve(stage: &Stage, paywall: &Paywall, amount: Usdc) -> TransactionId {
    let id = stage.funded(amount).await;
    let charge = charge(paywall, amount);
    let request = stage.signed(id, None, b"{}").await;
    let served = run(paywall.enter(&charge, &request, None).await).finish(ok("done")).await;
    assert_eq!(served.status, 200);
    stage.becomes(id, State::Delivered).await;
    id
}

async fn pass(stage: &Stage, seconds: u64) {
    stage.provider.mock().unwrap().advance_time(seconds).await.unwrap();
}

async fn record(paywall: &Paywall, id: TransactionId) -> PaymentRecord {
    let all = paywall.payments(&PaymentQuery::default()).await.unwrap();
    all.into_iter().find(|record| record.transaction_id == id).unwrap()
}

/// Waits until the books have a payment there.
async fn booked(paywall: &Paywall, id: TransactionId, stage: &str) -> PaymentRecord {
    for _ in 0..200 {
        let record = record(paywall, id).await;
        if record.stage == stage {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?} is not {stage}", record(paywall, id).await);
}

/// Longer than any look that the paywall takes now and then.
async fn wait() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn page(paywall: &Paywall, path: &str) -> agirails::paywall::Answer {
    paywall.page(&Incoming::new("GET", path, b"")).await.unwrap()
}

/// What the operator was told.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    async fn paywall(&self, stage: &Stage, settings: Settings) -> Paywall {
        let log = self.0.clone();
        let listen = move |event: &Event| log.lock().unwrap().push(event.clone());
        stage.builder().settings(settings).on_event(listen).open().await.unwrap()
    }

    fn of(&self, id: TransactionId, name: &str) -> Vec<Event> {
        let log = self.0.lock().unwrap();
        log.iter()
            .filter(|event| event.transaction == Some(id) && event.name == name)
            .cloned()
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_paid_without_the_consumers_help() {
    let stage = Stage::new().await;
    let log = Log::default();
    let paywall = log.paywall(&stage, Settings::default()).await;
    let before = stage.provider.balance().await.unwrap();
    let id = serve(&stage, &paywall, DOLLAR).await;
    let delivered = booked(&paywall, id, "delivered").await;
    assert_eq!((delivered.net, delivered.expected_net), (None, NET));
    assert!(delivered.settle_at >= delivered.delivered_at + 2 * DAY);
    pass(&stage, DAY).await;
    wait().await;
    assert_eq!(stage.state(id).await, State::Delivered, "its window is not over");
    pass(&stage, DAY + 60).await;
    stage.becomes(id, State::Settled).await;
    let settled = booked(&paywall, id, "settled").await;
    assert_eq!(stage.provider.balance().await.unwrap(), Usdc(before.0 + NET.0));
    assert_eq!((settled.net, settled.fee), (Some(NET), Some(Usdc(50_000))));
    assert!(settled.settled_at > settled.settle_at);
    let told = log.of(id, "settled");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].level, told[0].net), (Level::Info, Some(NET)));
    // The day on which a call was served is another than the one on which it was paid out.
    let rows = paywall.report(&ReportQuery::default()).await.unwrap();
    let [served, paid] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((served.calls, served.gross, served.net), (1, DOLLAR, Usdc::ZERO));
    assert_eq!((paid.calls, paid.paid_out, paid.fee, paid.net), (0, DOLLAR, Usdc(50_000), NET));
    let by_customer = ReportQuery { by: ReportBy::Customer, ..ReportQuery::default() };
    let rows = paywall.report(&by_customer).await.unwrap();
    assert_eq!(rows[0].key, format!("{:#x}", stage.requester.address()));
    let metrics = String::from_utf8(page(&paywall, "/metrics").await.body).unwrap();
    for line in [
        "agirails_paywall_settled_total 1",
        "agirails_paywall_net_base_units_total 950000",
        "agirails_paywall_fee_base_units_total 50000",
        "agirails_paywall_delivered_payments 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    // It was served once, and an answer is there as long as its payment is kept.
    let request = stage.signed(id, None, b"{}").await;
    let again = answer(paywall.enter(&charge(&paywall, DOLLAR), &request, None).await);
    assert_eq!(again.body, b"done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_was_delivered_by_an_earlier_version_is_settled() {
    let stage = Stage::new().await;
    let settings = Settings { settle: Settle::Never, ..Settings::default() };
    let paywall = stage.builder().settings(settings).open().await.unwrap();
    let id = serve(&stage, &paywall, DOLLAR).await;
    booked(&paywall, id, "delivered").await;
    drop(paywall);
    // It knew nothing of settling.
    stage.rewrite("UPDATE payments SET settle_at = 0, delivered_at = 0");
    let paywall = stage.paywall().await;
    // It leads once the lease of the first is over, and looks the window up.
    for _ in 0..300 {
        if record(&paywall, id).await.settle_at > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let looked_up = stage.requester.get_transaction(id).await.unwrap().dispute_window;
    assert_eq!(DisputeWindow::EndsAt(record(&paywall, id).await.settle_at), looked_up);
    assert_eq!(stage.state(id).await, State::Delivered);
    pass(&stage, 3 * DAY).await;
    stage.becomes(id, State::Settled).await;
    booked(&paywall, id, "settled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_is_left_to_others_where_the_setting_says_so() {
    let stage = Stage::new().await;
    let settings = Settings { settle: Settle::Never, ..Settings::default() };
    let paywall = stage.builder().settings(settings).open().await.unwrap();
    let id = serve(&stage, &paywall, DOLLAR).await;
    pass(&stage, 3 * DAY).await;
    wait().await;
    assert_eq!(stage.state(id).await, State::Delivered);
    let health = json(&page(&paywall, "/health").await);
    assert_eq!((&health["settlement"]["due"], &health["status"]), (&1.into(), &"ok".into()));
    // What others settle is noticed.
    stage.requester.transition_state(id, State::Settled, Evidence::None).await.unwrap();
    let record = booked(&paywall, id, "settled").await;
    assert_eq!(record.net, Some(NET));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_requester_settles_at_once_is_noticed() {
    let stage = Stage::new().await;
    let log = Log::default();
    let paywall = log.paywall(&stage, Settings::default()).await;
    let id = serve(&stage, &paywall, DOLLAR).await;
    stage.requester.transition_state(id, State::Settled, Evidence::None).await.unwrap();
    let record = booked(&paywall, id, "settled").await;
    assert_eq!((record.net, record.gas_wei), (Some(NET), 0));
    assert_eq!(log.of(id, "settled").len(), 1);
    pass(&stage, 3 * DAY).await;
    wait().await;
    let rows = paywall.report(&ReportQuery::default()).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.settled).sum::<u64>(), 1);
    assert_eq!(rows.iter().map(|row| row.net.0).sum::<u64>(), NET.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_is_told_and_its_end_too() {
    let stage = Stage::new().await;
    let log = Log::default();
    let paywall = log.paywall(&stage, Settings::default()).await;
    let (kept, split) =
        (serve(&stage, &paywall, DOLLAR).await, serve(&stage, &paywall, DOLLAR).await);
    let partly = serve(&stage, &paywall, DOLLAR).await;
    let mock = stage.provider.mock().unwrap();
    for id in [kept, split, partly] {
        stage.requester.dispute(id, DOLLAR).await.unwrap();
        booked(&paywall, id, "disputed").await;
        let told = log.of(id, "disputed");
        assert_eq!((told.len(), told[0].level), (1, Level::Error), "{told:?}");
    }
    pass(&stage, 3 * DAY).await;
    wait().await;
    assert_eq!(stage.state(kept).await, State::Disputed, "nobody but the resolver ends it");
    let health = json(&page(&paywall, "/health").await);
    assert_eq!(health["settlement"]["disputed"], 3);
    let resolver = ACTPClient::with_kernel(mock.clone(), stage.provider.network().admin);
    let half = Resolution {
        requester_amount: Usdc(500_000),
        provider_amount: Usdc(500_000),
        provider_at_fault: true,
        mediator: None,
    };
    let split_up = Evidence::Bytes(half.encode());
    resolver.transition_state(split, State::Settled, split_up).await.unwrap();
    let all_back = Resolution { requester_amount: DOLLAR, provider_amount: Usdc::ZERO, ..half };
    let all_back = Evidence::Bytes(all_back.encode());
    resolver.transition_state(kept, State::Cancelled, all_back).await.unwrap();
    // As a ruling that splits the money does on AIP-14c.
    let some = Resolution {
        requester_amount: Usdc(700_000),
        provider_amount: Usdc(300_000),
        provider_at_fault: false,
        ..half
    };
    let some = Evidence::Bytes(some.encode());
    resolver.transition_state(partly, State::Cancelled, some).await.unwrap();
    let record = booked(&paywall, split, "settled").await;
    let told = (record.net, record.fee);
    assert_eq!(told, (Some(Usdc(450_000)), Some(Usdc(50_000))), "what the resolver decided");
    for (id, net, fee) in [(kept, 0, 0), (partly, 250_000, 50_000)] {
        let record = booked(&paywall, id, "returned").await;
        assert_eq!((record.net, record.fee), (Some(Usdc(net)), Some(Usdc(fee))));
    }
    for id in [kept, split, partly] {
        assert_eq!(log.of(id, "resolved").len(), 1);
    }
    let rows = paywall.report(&ReportQuery::default()).await.unwrap();
    let sum = |of: fn(&agirails::paywall::ReportRow) -> u64| rows.iter().map(of).sum::<u64>();
    let sums = (sum(|row| row.disputed), sum(|row| row.refunded), sum(|row| row.settled));
    assert_eq!(sums, (3, 2, 1));
    let sums = (sum(|row| row.paid_out.0), sum(|row| row.fee.0), sum(|row| row.net.0));
    assert_eq!(sums, (800_000, 100_000, 700_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_forgotten_holds_up_no_other() {
    let stage = Stage::new().await;
    let odd = FaultyKernel::of(&stage);
    let paywall = stage.behind(&odd).open().await.unwrap();
    let mock = stage.provider.mock().unwrap();
    let resolver = ACTPClient::with_kernel(mock.clone(), stage.provider.network().admin);
    let half = Resolution {
        requester_amount: Usdc(500_000),
        provider_amount: Usdc(500_000),
        provider_at_fault: false,
        mediator: None,
    };
    let resolve = async |id| {
        let half = Evidence::Bytes(half.encode());
        resolver.transition_state(id, State::Settled, half).await.unwrap();
    };
    let mut ids = vec![];
    for _ in 0..5 {
        let id = serve(&stage, &paywall, DOLLAR).await;
        stage.requester.dispute(id, DOLLAR).await.unwrap();
        booked(&paywall, id, "disputed").await;
        ids.push(id);
    }
    odd.is(Mood::HasForgotten(u64::MAX));
    let last = ids.pop().unwrap();
    for id in &ids {
        resolve(*id).await;
    }
    pass(&stage, 60).await;
    odd.is(Mood::HasForgotten(mock.now().await.unwrap()));
    resolve(last).await;
    assert_eq!(booked(&paywall, last, "settled").await.net, Some(Usdc(450_000)));
    for id in &ids {
        booked(&paywall, *id, "disputed").await;
    }
    // What nobody can tell any more is booked without.
    pass(&stage, 2 * 3_600).await;
    for id in ids {
        assert_eq!(booked(&paywall, id, "settled").await.net, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_worth_its_gas_waits_and_is_counted() {
    let stage = Stage::new().await;
    let limits = SettlementLimits { min_net: Some(Usdc(100_000)), coin_price: None };
    let settings = Settings { settlement_limits: limits, ..Settings::default() };
    let paywall = stage.builder().settings(settings).open().await.unwrap();
    let (small, great) =
        (serve(&stage, &paywall, CENTS_10).await, serve(&stage, &paywall, DOLLAR).await);
    pass(&stage, 3 * DAY).await;
    stage.becomes(great, State::Settled).await;
    booked(&paywall, great, "settled").await;
    wait().await;
    assert_eq!(stage.state(small).await, State::Delivered);
    let settlement = &json(&page(&paywall, "/health").await)["settlement"];
    assert_eq!(
        (&settlement["due"], &settlement["notWorthGas"], &settlement["oldestSeconds"]),
        (&1.into(), &1.into(), &0.into())
    );
    drop(paywall);
    // Another day, other limits.
    let paywall = stage.paywall().await;
    stage.becomes(small, State::Settled).await;
    booked(&paywall, small, "settled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_are_collected_as_long_as_the_setting_says() {
    let stage = Stage::new().await;
    let settings = Settings { settle_collect_seconds: DAY, ..Settings::default() };
    let paywall = stage.builder().settings(settings).open().await.unwrap();
    let first = serve(&stage, &paywall, DOLLAR).await;
    pass(&stage, DAY / 2).await;
    let second = serve(&stage, &paywall, DOLLAR).await;
    pass(&stage, 2 * DAY).await;
    wait().await;
    assert_eq!(stage.state(first).await, State::Delivered);
    pass(&stage, DAY / 2 + 60).await;
    // The second has not waited as long, and goes with the first.
    stage.becomes(first, State::Settled).await;
    stage.becomes(second, State::Settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_or_hides_what_is_due_only_delays_it() {
    let stage = Stage::new().await;
    let odd = FaultyKernel::of(&stage);
    let paywall = stage.behind(&odd).open().await.unwrap();
    let id = serve(&stage, &paywall, DOLLAR).await;
    booked(&paywall, id, "delivered").await;
    odd.is(Mood::SeesNothing);
    pass(&stage, 3 * DAY).await;
    wait().await;
    for refusal in [Refusal::NoOp, Refusal::NotAuthorizedToSettle, Refusal::InvalidTransition] {
        odd.is(Mood::Refuses(refusal));
        wait().await;
        assert_eq!(record(&paywall, id).await.stage, "delivered", "{refusal}");
    }
    assert_eq!(stage.state(id).await, State::Delivered);
    odd.is(Mood::Well);
    stage.becomes(id, State::Settled).await;
    let record = booked(&paywall, id, "settled").await;
    assert_eq!(record.net, Some(NET));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_said_was_settled_and_is_not_is_settled_after_all() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let id = serve(&stage, &paywall, DOLLAR).await;
    booked(&paywall, id, "delivered").await;
    stage.rewrite("UPDATE payments SET stage = 7");
    assert_eq!(record(&paywall, id).await.stage, "settled");
    booked(&paywall, id, "delivered").await;
    pass(&stage, 3 * DAY).await;
    stage.becomes(id, State::Settled).await;
    assert_eq!(booked(&paywall, id, "settled").await.net, Some(NET));
}

#[tokio::test]
async fn what_cannot_be_asked_of_the_books_is_named() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    for limit in [0, 1_001] {
        let query = PaymentQuery { limit, ..PaymentQuery::default() };
        assert_eq!(paywall.payments(&query).await.unwrap_err().code(), Code::InvalidNumber);
        let query = ReportQuery { limit: Some(limit), ..ReportQuery::default() };
        assert_eq!(paywall.report(&query).await.unwrap_err().code(), Code::InvalidNumber);
    }
    let query = PaymentQuery { stage: Some("paid".to_owned()), ..PaymentQuery::default() };
    let error = paywall.payments(&query).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidSettings);
    assert!(error.to_string().contains("settled"), "{error}");
    let query = PaymentQuery { requester: Some(Address::ZERO), ..PaymentQuery::default() };
    assert_eq!(paywall.payments(&query).await.unwrap(), []);
}

const MANY: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_that_are_due_are_settled_within_three_blocks() {
    let local = Local::start().await;
    let paywall = Paywall::builder(local.provider.clone()).open().await.unwrap();
    let charge = paywall.charge(Charge::new("POST /api/generate", CENTS_10)).unwrap();
    let before = local.provider.balance().await.unwrap();
    let mut ids = BTreeSet::new();
    for _ in 0..MANY {
        let id = local.funded(CENTS_10, HOUR).await;
        let request = local.signed(id, None).await;
        run(paywall.enter(&charge, &request, None).await).finish(ok("done")).await;
        ids.insert(id);
    }
    while paywall.owed().await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    local.devnet.set_block_time(2).await.unwrap();
    local.devnet.advance_time(3 * DAY).await.unwrap();
    let settled =
        PaymentQuery { stage: Some("settled".to_owned()), limit: 1_000, ..PaymentQuery::default() };
    let mut records = vec![];
    for _ in 0..600 {
        records = paywall.payments(&settled).await.unwrap();
        if records.len() == MANY {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told: BTreeSet<_> = records.iter().map(|record| record.transaction_id).collect();
    assert_eq!(told, ids);
    assert!(records.iter().all(|record| record.gas_wei > 0), "every one cost gas");
    let mut blocks = BTreeSet::new();
    let mut after = 0;
    loop {
        let events = local.consumer.events(after, 1_000).await.unwrap();
        let Some(last) = events.last() else { break };
        after = last.cursor;
        blocks.extend(events.iter().filter_map(|record| match record.event {
            KernelEvent::StateTransitioned { new_state: State::Settled, timestamp, .. } => {
                Some(timestamp)
            }
            _ => None,
        }));
    }
    println!("{MANY} settlements of one key in {} blocks", blocks.len());
    assert!(blocks.len() <= 3, "{blocks:?}");
    // 0.10 USDC brings 0.05.
    let arrived = Usdc(before.0 + MANY as u64 * 50_000);
    assert_eq!(local.provider.balance().await.unwrap(), arrived);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_beside_three_paywalls_of_different_keys_brings_each_its_own_once() {
    const CALLS: u64 = 8;
    let local = Local::start().await;
    let account = |number: usize| local.devnet.accounts()[number].private_key.clone();
    let profile = Some(local.devnet.profile());
    let mut places = vec![];
    for number in [3, 5, 6] {
        let directory = tempfile::tempdir().unwrap();
        let provider = client(account(number), directory.path(), profile).await;
        let before = provider.balance().await.unwrap();
        let paywall = Paywall::builder(provider.clone()).open().await.unwrap();
        let charge = paywall.charge(Charge::new("POST /api/generate", CENTS_10)).unwrap();
        for _ in 0..CALLS {
            let deadline = local.consumer.now().await.unwrap() + HOUR;
            let (requester, key) = (local.consumer.address(), provider.address());
            let mut request = CreateTransaction::new(requester, key, CENTS_10, deadline);
            request.service_hash = service_in(directory.path());
            let id = local.consumer.create_transaction(&request).await.unwrap();
            local.consumer.link_escrow(id).await.unwrap();
            let request = local.signed(id, None).await;
            run(paywall.enter(&charge, &request, None).await).finish(ok("done")).await;
        }
        while paywall.owed().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        places.push((directory, provider, paywall, before));
    }
    let directory = tempfile::tempdir().unwrap();
    let bot = client(account(4), directory.path(), profile).await;
    let storage = Storage::Directory(directory.path().to_owned());
    let keeper = Keeper::builder(bot).storage(storage).open().await.unwrap();
    let (stop, running) = (Arc::new(tokio::sync::Notify::new()), keeper.clone());
    let stopping = stop.clone();
    let run = tokio::spawn(async move { running.run(stopping.notified()).await });
    local.devnet.set_block_time(1).await.unwrap();
    local.devnet.advance_time(3 * DAY).await.unwrap();

    for (_, provider, paywall, before) in &places {
        let settled = PaymentQuery { stage: Some("settled".to_owned()), ..PaymentQuery::default() };
        let mut records = vec![];
        for _ in 0..600 {
            records = paywall.payments(&settled).await.unwrap();
            if records.len() as u64 == CALLS {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(records.len() as u64, CALLS);
        // 0.10 USDC brings 0.05, whoever settled it.
        assert!(records.iter().all(|record| record.net == Some(Usdc(50_000))), "{records:?}");
        let arrived = Usdc(before.0 + CALLS * 50_000);
        assert_eq!(provider.balance().await.unwrap(), arrived);
    }
    stop.notify_one();
    run.await.unwrap().unwrap();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.waiting, report.failed, report.settled.len()), (0, 0, 0), "{report:?}");
}

sol! {
    function approveEscrowVault(address vault, bool approved);
    function scheduleEscrowVaultRevocation(address vault);
    function executeEscrowVaultRevocation(address vault);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_revoked_delays_what_was_earned_and_loses_nothing() {
    let local = Local::start().await;
    let contracts = local.devnet.profile().contracts;
    let vault = contracts.escrow_vault;
    let admin = async |call: Vec<u8>| {
        let (sender, kernel) = (local.devnet.admin().address, Some(contracts.actp_kernel));
        local.devnet.send(sender, kernel, call.into()).await.unwrap();
    };
    let warning = async || {
        let settings = ChainSettings::new(local.devnet.profile().clone());
        ChainKernel::connect(settings).await.unwrap().warnings().join("; ")
    };
    let approve = |approved| approveEscrowVaultCall { vault, approved }.abi_encode();
    let announces = generation() == Generation::Aip14c;
    if announces {
        let schedule = scheduleEscrowVaultRevocationCall { vault }.abi_encode();
        admin(schedule.clone()).await;
        let words = warning().await;
        assert!(
            words.contains("is to revoke the vault") && words.contains("settle before"),
            "{words}"
        );
        admin(approve(true)).await;
        assert_eq!(warning().await, "");
        admin(schedule).await;
        local.devnet.advance_time(2 * DAY - HOUR).await.unwrap();
    }
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = told.clone();
    let listener = move |event: &Event| lines.lock().unwrap().push(event.message.to_string());
    let builder = Paywall::builder(local.provider.clone()).on_event(listener);
    let paywall = builder.open().await.unwrap();
    let charge = paywall.charge(Charge::new("POST /api/generate", CENTS_10)).unwrap();
    let id = local.funded(CENTS_10, 2 * HOUR).await;
    let request = local.signed(id, None).await;
    run(paywall.enter(&charge, &request, None).await).finish(ok("done")).await;
    while paywall.owed().await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if announces {
        local.devnet.advance_time(HOUR).await.unwrap();
        admin(executeEscrowVaultRevocationCall { vault }.abi_encode()).await;
    } else {
        admin(approve(false)).await;
    }
    assert!(warning().await.contains("does not approve the vault"));

    local.devnet.advance_time(3 * DAY).await.unwrap();
    let is_refused = |words: &String| words.contains("Vault not approved");
    for _ in 0..300 {
        if told.lock().unwrap().iter().any(is_refused) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(told.lock().unwrap().iter().any(is_refused), "{:?}", told.lock().unwrap());
    assert_eq!(record(&paywall, id).await.stage, "delivered");
    admin(approve(true)).await;
    let settled = booked(&paywall, id, "settled").await;
    assert_eq!(settled.net, Some(Usdc(50_000)));
    assert_eq!(warning().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruling_against_the_provider_is_told_while_it_can_be_challenged() {
    let local = Local::on(Generation::Aip14c).await;
    type Told = Vec<(Level, Option<u64>)>;
    let told: Arc<Mutex<Told>> = Arc::default();
    let rulings = told.clone();
    let listener = move |event: &Event| {
        if event.name == "ruling" {
            rulings.lock().unwrap().push((event.level, event.answer_until));
        }
    };
    let builder = Paywall::builder(local.provider.clone()).on_event(listener);
    let paywall = builder.open().await.unwrap();
    let charge = paywall.charge(Charge::new("POST /api/generate", DOLLAR)).unwrap();
    let id = local.funded(DOLLAR, 2 * HOUR).await;
    let request = local.signed(id, None).await;
    run(paywall.enter(&charge, &request, None).await).finish(ok("done")).await;
    booked(&paywall, id, "delivered").await;
    local.consumer.dispute(id, DOLLAR).await.unwrap();
    booked(&paywall, id, "disputed").await;
    let last = async |count: usize| {
        for _ in 0..200 {
            if told.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let told = told.lock().unwrap();
        assert_eq!(told.len(), count, "{told:?}");
        *told.last().unwrap()
    };

    let (payer, provider) = (local.consumer.disputes(), local.provider.disputes());
    payer.open(id).await.unwrap();
    assert_eq!(last(1).await, (Level::Warning, None));
    payer.propose(id, Ruling::RequesterWins, DOLLAR).await.unwrap();
    let ends = payer.get(id).await.unwrap().unwrap().liveness_end;
    assert_eq!(last(2).await, (Level::Error, Some(ends)));
    // Some rounds later it was not told again.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    provider.challenge(id, Ruling::ProviderWins, Usdc(2 * DOLLAR.0)).await.unwrap();
    assert_eq!(last(3).await, (Level::Info, None));
    local.devnet.advance_time(HOUR + 1).await.unwrap();
    provider.finalize(id).await.unwrap();
    booked(&paywall, id, "settled").await;
    assert_eq!(told.lock().unwrap().len(), 3);
}
