//! Workers are killed at random moments while they serve, deliver and settle, on a chain with a bad network in between too, and afterwards every call,
//! answer and base unit is counted.

use std::{
    collections::HashMap,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agirails::{
    ACTPClient, NetworkProfile, State, TransactionId, Usdc,
    kernel::{Role, TransactionQuery},
    paywall::{Charge, Paywall, PaywallLayer, ReportQuery, Settings},
    protocol::{
        money::payout,
        receipt::{RECEIPT_HEADER, Receipt, merkle_root},
    },
};
use agirails_devnet::{Devnet, Fault, FaultProxy, Rule};
use alloy_primitives::U256;
use axum::{Router, extract::State as Shared, http::StatusCode, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, stream};
use reqwest::Client;
use tokio::{net::TcpListener, task::JoinSet};

use crate::fixture::{CENTS_10, HOUR, Stage, client, key};
use crate::generation::generation;

const DIRECTORY: &str = "DEATH_TEST_DIRECTORY";
const WORKER: &str = "DEATH_TEST_WORKER";
/// The profile of the chain, where it is on one.
const NETWORK: &str = "DEATH_TEST_NETWORK";
const WORKERS: usize = 3;
/// Transactions: half of them pay for one call, half for ten.
const SINGLES: usize = 500;
const BUNDLES: usize = 50;
const CALLS_OF_A_BUNDLE: usize = 10;
/// Those whose handler always fails, and those that nobody ever calls with.
const DOOMED: usize = 10;
const FORGOTTEN: usize = 10;
const CONSUMERS: usize = 8;

fn settings() -> Settings {
    Settings { lease: Duration::from_secs(1), wait: Duration::from_secs(3), ..Settings::default() }
}

/// Random enough, and the same for the same seed.
fn random(state: &AtomicU64, below: u64) -> u64 {
    let mut value = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (value ^ (value >> 31)) % below
}

/// Serves where this process was started as a worker; does nothing in the suite itself.
#[test]
fn worker() {
    let Some(directory) = env::var_os(DIRECTORY) else { return };
    let directory = PathBuf::from(directory);
    let port_file = directory.join(format!("port-{}", env::var(WORKER).unwrap()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let profile = env::var_os(NETWORK);
        let profile = profile.map(|file| NetworkProfile::from_file(file).unwrap());
        let provider = client(key(1), &directory, profile.as_ref()).await;
        let builder = Paywall::builder(provider).settings(settings());
        let paywall = builder.open().await.unwrap();
        let charge = Charge::new("POST /api/generate", CENTS_10);
        let layer = PaywallLayer::new(&paywall, &paywall.charge(charge).unwrap());
        let seed = Arc::new(AtomicU64::new(u64::from(std::process::id())));
        let runs = fs::OpenOptions::new().append(true).create(true).open(directory.join("runs"));
        let shared = (Arc::new(runs.unwrap()), seed);
        let app = Router::new()
            .route("/api/generate", post(handle).layer(layer))
            .with_state(shared)
            .fallback_service(paywall.pages());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        // Whole or not at all: the parent reads it at any time.
        fs::write(port_file.with_extension("new"), port).unwrap();
        fs::rename(port_file.with_extension("new"), port_file).unwrap();
        axum::serve(listener, app).await.unwrap();
    });
}

type Handling = (Arc<fs::File>, Arc<AtomicU64>);

/// Writes down that it runs; takes its time; fails now and then. No two runs answer the same.
async fn handle(Shared((runs, seed)): Shared<Handling>, body: String) -> (StatusCode, String) {
    // One write to a file that is appended to is never torn.
    (&*runs).write_all(format!("{body}\n").as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(random(&seed, 20))).await;
    if body.starts_with("doomed") || random(&seed, 10) == 0 {
        return (StatusCode::INTERNAL_SERVER_ERROR, "it failed".to_owned());
    }
    (StatusCode::OK, format!("{body} by {} {}", std::process::id(), random(&seed, u64::MAX)))
}

/// A chain, and the bad network between it and the workers.
struct Chain {
    devnet: Devnet,
    proxy: FaultProxy,
}

impl Chain {
    async fn start() -> Self {
        let devnet = Devnet::builder().generation(generation()).start().await.unwrap();
        for party in [key(1), key(2)].map(|key| key.address()) {
            devnet.mint(party, Usdc(1_000_000_000)).await.unwrap();
            devnet.set_eth(party, U256::from(10).pow(U256::from(20))).await.unwrap();
        }
        let proxy = FaultProxy::start(devnet.rpc_url()).unwrap();
        Self { devnet, proxy }
    }

    /// From now on: answers are lost after the node took a transaction, and what else goes wrong.
    fn misbehave(&self) {
        self.proxy
            .add(Rule::new(Fault::DropAnswer).on("eth_sendRawTransaction").with_probability(0.1));
        for fault in [Fault::Cut, Fault::Status(502), Fault::Garbage] {
            self.proxy.add(Rule::new(fault).with_probability(0.02));
        }
        let late = Fault::Delay(Duration::from_millis(300));
        self.proxy.add(Rule::new(late).with_probability(0.05));
    }

    /// Writes down how the workers reach it.
    fn write_profile(&self, file: &Path) {
        self.devnet.write_profile(file).unwrap();
        let direct = fs::read_to_string(file).unwrap();
        fs::write(file, direct.replace(self.devnet.rpc_url(), self.proxy.url())).unwrap();
    }
}

struct Worker {
    number: usize,
    child: Child,
}

impl Worker {
    fn start(directory: &Path, number: usize) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let profile = directory.join("network.json");
        if profile.exists() {
            command.env(NETWORK, profile);
        }
        let child = command
            .args(["--exact", "death::worker", "--nocapture"])
            .env(DIRECTORY, directory)
            .env(WORKER, number.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { number, child }
    }

    fn kill(&mut self, directory: &Path) {
        let _ = fs::remove_file(directory.join(format!("port-{}", self.number)));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a consumer holds in its hands.
struct Held {
    transaction: TransactionId,
    body: Vec<u8>,
    receipt: Receipt,
    /// How often the handler had begun it when its answer came.
    runs: usize,
}

struct Crowd {
    stage: Stage,
    chain: Option<Chain>,
    http: Client,
    seed: AtomicU64,
    held: Mutex<HashMap<String, Held>>,
    repeats: AtomicU64,
    given_up: AtomicU64,
}

impl Crowd {
    /// One request to any worker that lives; `None` where none answered.
    async fn ask(&self, id: TransactionId, call: Option<&str>, body: &str) -> Option<Answered> {
        let number = random(&self.seed, WORKERS as u64);
        let directory = self.stage.directory.path();
        let port = fs::read_to_string(directory.join(format!("port-{number}"))).ok()?;
        let signed = self.stage.signed_by(2, id, call, "/api/generate", body.as_bytes()).await;
        let mut request = self
            .http
            .post(format!("http://127.0.0.1:{port}/api/generate"))
            .timeout(Duration::from_secs(5))
            .header("X-AGIRAILS-TX-ID", id.to_string())
            .header("X-AGIRAILS-SIGNATURE", signed.signature?)
            .body(body.to_owned());
        if let Some(call) = call {
            request = request.header("Idempotency-Key", call);
        }
        let response = request.send().await.ok()?;
        let status = response.status();
        let receipt = response.headers().get(RECEIPT_HEADER).cloned();
        let body = response.bytes().await.ok()?.to_vec();
        let receipt =
            receipt.map(|text| serde_json::from_slice(&STANDARD.decode(text).unwrap()).unwrap());
        Some(Answered { status, receipt, body })
    }

    /// Calls until it is answered, and once more: the same bytes must come.
    async fn call(&self, id: TransactionId, call: Option<&str>, body: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < until, "{body} was never answered");
            let answered = self.ask(id, call, body).await;
            let Some(Answered { status: StatusCode::OK, receipt: Some(receipt), body: answer }) =
                answered
            else {
                if let Some(Answered { status, body: problem, .. }) = answered {
                    let problem = String::from_utf8_lossy(&problem).into_owned();
                    // Five runs failed: its money is on its way back.
                    if problem.contains("CANCELLED") {
                        self.given_up.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    assert!(status.is_server_error(), "{body}: {status} {problem}");
                }
                self.repeats.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(30)).await;
                continue;
            };
            let held = Held {
                transaction: id,
                body: answer,
                receipt,
                runs: runs_of(self.stage.directory.path(), body),
            };
            let mut all = self.held.lock().unwrap();
            if let Some(before) = all.get(body) {
                assert_eq!(before.body, held.body, "two answers to one call");
                assert_eq!(before.receipt, held.receipt);
                return;
            }
            all.insert(body.to_owned(), held);
        }
    }
}

/// How often the handler has begun with this body.
fn runs_of(directory: &Path, body: &str) -> usize {
    let text = fs::read_to_string(directory.join("runs")).unwrap_or_default();
    text.lines().filter(|line| *line == body).count()
}

struct Answered {
    status: StatusCode,
    receipt: Option<Receipt>,
    body: Vec<u8>,
}

#[test]
fn whatever_dies_every_answer_is_delivered_and_every_coin_accounted_for() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(None));
}

#[test]
fn whatever_dies_it_is_so_on_a_chain_behind_a_bad_network_too() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { run(Some(Chain::start().await)).await });
}

async fn run(chain: Option<Chain>) {
    let seed = env::var("AGIRAILS_DEATH_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("AGIRAILS_DEATH_SEED={seed}");
    // Its default client asks for a TLS provider, also over plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stage = Stage::on(chain.as_ref().map(|chain| chain.devnet.profile())).await;
    let directory = stage.directory.path().to_owned();
    // Their store is made first: transactions are bound to its service.
    drop(stage.paywall().await);
    let mut before = Balances {
        requester: stage.requester.balance().await.unwrap(),
        provider: stage.provider.balance().await.unwrap(),
        locked: Usdc::ZERO,
        last_deadline: 0,
    };
    // Work, as each consumer takes it: a transaction, and how many calls it pays for.
    let bundle = Usdc(CENTS_10.0 * CALLS_OF_A_BUNDLE as u64);
    let planned = (0..SINGLES)
        .map(|number| (CENTS_10, 0, format!("single-{number}")))
        .chain((0..DOOMED).map(|number| (CENTS_10, 0, format!("doomed-{number}"))))
        .chain((0..BUNDLES).map(|number| (bundle, CALLS_OF_A_BUNDLE, format!("bundle-{number}"))))
        .chain((0..FORGOTTEN).map(|_| (CENTS_10, 0, String::new())));
    let funded =
        planned.map(async |(amount, calls, name)| (stage.funded(amount).await, calls, name));
    let mut work: Vec<_> = stream::iter(funded).buffered(8).collect().await;
    before.last_deadline = stage.requester.now().await.unwrap() + HOUR;
    work.retain(|(_, _, name)| !name.is_empty());
    if let Some(chain) = &chain {
        chain.write_profile(&directory.join("network.json"));
        chain.misbehave();
    }
    before.locked = Usdc(before.requester.0 - stage.requester.balance().await.unwrap().0);

    let mut workers: Vec<_> = (0..WORKERS).map(|n| Worker::start(&directory, n)).collect();
    let crowd = Arc::new(Crowd {
        stage,
        chain,
        http: Client::new(),
        seed: AtomicU64::new(seed),
        held: Mutex::default(),
        repeats: AtomicU64::new(0),
        given_up: AtomicU64::new(0),
    });
    let work = Arc::new(Mutex::new(work));
    let mut consumers = JoinSet::new();
    for _ in 0..CONSUMERS {
        let (crowd, work) = (crowd.clone(), work.clone());
        consumers.spawn(async move {
            loop {
                let Some((id, calls, name)) = work.lock().unwrap().pop() else { break };
                if name.starts_with("doomed") {
                    // It comes back until it is told that its money is on its way.
                    for _ in 0..60 {
                        let answered = crowd.ask(id, None, &name).await;
                        if answered.is_some_and(|answered| answered.status.as_u16() == 402) {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                } else if calls == 0 {
                    crowd.call(id, None, &name).await;
                } else {
                    for call in 0..calls {
                        crowd
                            .call(id, Some(&format!("key-{call}")), &format!("{name}-{call}"))
                            .await;
                    }
                }
            }
        });
    }
    let mut kills = 0;
    while !consumers.is_empty() {
        tokio::time::sleep(Duration::from_millis(150 + random(&crowd.seed, 250))).await;
        while let Some(done) = consumers.try_join_next() {
            done.unwrap();
        }
        let number = random(&crowd.seed, WORKERS as u64) as usize;
        workers[number].kill(&directory);
        workers[number] = Worker::start(&directory, number);
        kills += 1;
    }
    for worker in &mut workers {
        worker.kill(&directory);
    }
    let delivered = count(&crowd, &directory, kills, &before).await;
    settle(&crowd, &directory, &delivered, &before).await;
}

/// Before anybody was served.
struct Balances {
    /// Of all transactions.
    last_deadline: u64,
    requester: Usdc,
    provider: Usdc,
    /// Of the requester's, in escrow.
    locked: Usdc,
}

/// Kills workers while they settle what was delivered: all of it arrives, and nothing twice.
async fn settle(
    crowd: &Crowd,
    directory: &Path,
    delivered: &HashMap<TransactionId, Usdc>,
    before: &Balances,
) {
    let client = &crowd.stage.provider;
    let leap = 2 * 86_400 + HOUR;
    match &crowd.chain {
        Some(chain) => _ = chain.devnet.advance_time(leap).await.unwrap(),
        None => _ = client.mock().unwrap().advance_time(leap).await.unwrap(),
    }
    let nets = delivered.values().map(|amount| payout(*amount, 100).unwrap().net.0);
    let whole = Usdc(before.provider.0 + nets.sum::<u64>());
    let mut arrived = before.provider;
    let mut kills = 0;
    let until = Instant::now() + Duration::from_secs(180);
    while arrived < whole {
        assert!(Instant::now() < until, "{arrived} of {whole} USDC have arrived");
        let mut workers: Vec<_> = (0..WORKERS).map(|n| Worker::start(directory, n)).collect();
        // The one that leads has begun: all of them die in the middle of it.
        let mut now = arrived;
        while now == arrived && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
            now = client.balance().await.unwrap();
        }
        arrived = now;
        if kills >= 2 * WORKERS && arrived < whole {
            // The rest may come to its end.
            while arrived < whole && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(200)).await;
                arrived = client.balance().await.unwrap();
            }
        }
        for worker in &mut workers {
            worker.kill(directory);
            kills += 1;
        }
    }
    // What came in between the last look at the chain and the last death is noticed.
    let paywall = Paywall::builder(client.clone()).settings(settings()).open().await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let rows = loop {
        let rows = paywall.report(&ReportQuery::default()).await.unwrap();
        if rows.iter().map(|row| row.settled).sum::<u64>() == delivered.len() as u64 {
            break rows;
        }
        assert!(Instant::now() < until, "the books do not know all settlements: {rows:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(client.balance().await.unwrap(), whole, "every base unit arrives, and none twice");
    let booked: u64 = rows.iter().map(|row| row.net.0).sum();
    assert_eq!(Usdc(before.provider.0 + booked), whole, "the books say what arrived");
    let vault = client.kernel().balance(client.network().vault).await.unwrap();
    assert_eq!(vault, Usdc::ZERO);
    for (id, state) in all_of(client).await {
        let expected = if delivered.contains_key(&id) { State::Settled } else { State::Cancelled };
        assert_eq!(state, expected, "{id}");
    }
    println!(
        "{} payments settled, {kills} workers killed meanwhile: {} USDC arrived",
        delivered.len(),
        Usdc(booked),
    );
}

/// What is true at the end, from the chain's side and from the consumers'. What was delivered, and what it
/// is worth.
async fn count(
    crowd: &Crowd,
    directory: &Path,
    kills: u32,
    before: &Balances,
) -> HashMap<TransactionId, Usdc> {
    let client = &crowd.stage.provider;
    // One that is left, when all others are dead, brings everything to its end.
    let paywall = Paywall::builder(client.clone()).settings(settings()).open().await.unwrap();
    // What was served is delivered first: a leap of the clock would take its time away.
    let until = Instant::now() + Duration::from_secs(120);
    while paywall.owed().await.unwrap() > 0 {
        assert!(Instant::now() < until, "the outbox is not empty");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let leap = before.last_deadline - 50 - client.kernel().now().await.unwrap();
    match &crowd.chain {
        Some(chain) => _ = chain.devnet.advance_time(leap).await.unwrap(),
        None => _ = client.mock().unwrap().advance_time(leap).await.unwrap(),
    }
    let until = Instant::now() + Duration::from_secs(120);
    let all = loop {
        let all = all_of(client).await;
        let is_open = |state| matches!(state, State::Committed | State::InProgress);
        let open = all.values().filter(|state| is_open(**state)).count();
        if open == 0 && paywall.owed().await.unwrap() == 0 {
            break all;
        }
        assert!(Instant::now() < until, "{open} transactions are still open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let held = std::mem::take(&mut *crowd.held.lock().unwrap());
    let expected = SINGLES + BUNDLES * CALLS_OF_A_BUNDLE;
    let given_up = crowd.given_up.load(Ordering::Relaxed) as usize;
    assert_eq!(
        held.len() + given_up,
        expected,
        "every call of a consumer that came back was answered"
    );
    let mut leaves: HashMap<TransactionId, Vec<&Receipt>> = HashMap::new();
    for Held { transaction, receipt, .. } in held.values() {
        assert_eq!(all[transaction], State::Delivered, "an answer was given and not delivered");
        leaves.entry(*transaction).or_default().push(receipt);
    }
    for (id, receipts) in &mut leaves {
        receipts.sort_by_key(|receipt| receipt.index);
        let hashes: Vec<_> = receipts.iter().map(|receipt| receipt.content_hash).collect();
        let proof = client.get_delivery_proof(*id).await.unwrap().unwrap();
        assert_eq!(merkle_root(&hashes), Some(proof.content_hash), "{id}");
    }
    let mut states: HashMap<String, u64> = HashMap::new();
    for (id, state) in &all {
        *states.entry(state.to_string()).or_default() += 1;
        assert_eq!(*state == State::Delivered, leaves.contains_key(id), "{id} is {state}");
    }
    let network = client.network();
    let vault = client.kernel().balance(network.vault).await.unwrap();
    let paid = Usdc(held.len() as u64 * CENTS_10.0);
    assert_eq!(vault, paid, "what was delivered is in escrow, and nothing else");
    let back = crowd.stage.requester.balance().await.unwrap();
    assert_eq!(client.balance().await.unwrap(), before.provider, "nothing is settled yet");
    assert_eq!(Usdc(back.0 + vault.0), before.requester, "what is not in escrow came back");
    let text = fs::read_to_string(directory.join("runs")).unwrap();
    let runs = text.lines().count();
    let mut begun: HashMap<&str, usize> = HashMap::new();
    for line in text.lines() {
        *begun.entry(line).or_default() += 1;
    }
    for (name, held) in held.iter() {
        assert_eq!(begun[&**name], held.runs, "{name} was run again after its answer was kept");
    }
    let answers = held.len();
    if let Some(chain) = &crowd.chain {
        let stats = chain.proxy.stats();
        assert!(stats.faults > 0, "the network was good");
        println!("{} faults in {} requests to the node", stats.faults, stats.requests);
    }
    println!(
        "{answers} answers held by consumers, {runs} runs of the handler, {kills} workers killed, \
         {} requests repeated, {given_up} calls given up; transactions: {states:?}; {} USDC were locked, {paid} are \
         delivered, {} came back",
        crowd.repeats.load(Ordering::Relaxed),
        before.locked,
        Usdc(before.locked.0 - paid.0),
    );
    let mut delivered = HashMap::new();
    for id in leaves.into_keys() {
        delivered.insert(id, client.get_transaction(id).await.unwrap().amount);
    }
    delivered
}

async fn all_of(client: &ACTPClient) -> HashMap<TransactionId, State> {
    let mut query = TransactionQuery {
        role: Some(Role::Provider),
        limit: 1_000,
        ..TransactionQuery::of(client.address())
    };
    let mut all = HashMap::new();
    loop {
        let page = client.find_transactions(&query).await.unwrap();
        all.extend(page.iter().map(|transaction| (transaction.id, transaction.state)));
        query.after = page.last().map(|last| last.id);
        if page.len() < 1_000 {
            return all;
        }
    }
}
