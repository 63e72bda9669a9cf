//! A bad network between two processes of one key and the chain: nothing is lost, nothing is done
//! twice, no gap of nonces stays, and every call ends in a result.

use std::{
    collections::HashSet,
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use agirails::{
    Address, Code, CreateTransaction, Error, Event, LinkEscrow, NetworkProfile, Result, Retry,
    State, Storage, TransactionId, U256, Usdc,
    kernel::{
        Kernel,
        chain::{ChainKernel, ChainSettings},
    },
};
use agirails_devnet::{Devnet, Fault, FaultProxy, Faults, Head, Rule};
use alloy_primitives::{B256, keccak256};
use serde_json::json;

use crate::fixture::{connect, key, wallet};

const DIRECTORY: &str = "CHAIN_TEST_DIRECTORY";
const NUMBER: &str = "CHAIN_TEST_NUMBER";
const CONFIRMATIONS: &str = "CHAIN_TEST_CONFIRMATIONS";
/// Transactions that each process creates and funds, all at once.
const CALLS: u64 = 60;
const PRICE: u64 = 1_000_000;
const DAY: u64 = 86_400;
/// How often a call is made again before it counts as lost.
const TRIES: u32 = 40;

/// Plays a payer where this process was started as one; does nothing in the suite itself.
#[test]
fn child_process() {
    let Some(directory) = env::var_os(DIRECTORY) else { return };
    let number: u64 = env::var(NUMBER).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(pay(Path::new(&directory), number));
    std::process::exit(0);
}

/// Creates and funds; writes down what it believes to have done.
async fn pay(directory: &Path, number: u64) {
    let kernel = Arc::new(patiently(|| open(directory)).await);
    let provider = Address::repeat_byte(0x77);
    let deadline = patiently(|| kernel.now()).await + DAY;
    let mut tasks = tokio::task::JoinSet::new();
    for call in 0..CALLS {
        let kernel = kernel.clone();
        tasks.spawn(async move {
            let requester = key(0).address();
            let mut request = CreateTransaction::new(requester, provider, Usdc(PRICE), deadline);
            request.service_hash = keccak256(format!("{number} {call}"));
            let id = patiently(|| kernel.create_transaction(requester, &request)).await;
            let link = patiently(|| kernel.link_escrow(requester, id, LinkEscrow::default()));
            link.await;
            id
        });
    }
    let ids: Vec<TransactionId> = tasks.join_all().await;
    let lines: Vec<_> = ids.iter().map(ToString::to_string).collect();
    std::fs::write(directory.join(format!("done-{number}")), lines.join("\n")).unwrap();
}

async fn open(directory: &Path) -> Result<ChainKernel> {
    let mut settings = ChainSettings::new(NetworkProfile::from_file(directory.join("network"))?);
    settings.wallets = vec![wallet(key(0))];
    settings.storage = Storage::Directory(directory.to_owned());
    settings.confirmations = env::var(CONFIRMATIONS).map_or(1, |number| number.parse().unwrap());
    // Long enough for a machine with other work: what ends in it is tested by itself below.
    settings.wait_timeout = Duration::from_secs(45);
    settings.request_timeout = Duration::from_secs(2);
    ChainKernel::connect(settings).await
}

/// Does what the error says: again where that is safe, and again where the outcome is unknown,
/// since the same call finds out.
async fn patiently<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> T {
    let mut earlier: Vec<Error> = vec![];
    for _ in 0..TRIES {
        match call().await {
            Ok(value) => return value,
            Err(error) if error.retry() == Retry::Never => {
                panic!("{error:?}, after {earlier:#?}")
            }
            Err(error) => {
                if error.retry() == Retry::CheckFirst {
                    assert_eq!(error.code(), Code::OutcomeUnknown, "{error:?}");
                }
                earlier.push(error);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    panic!("lost after {TRIES} tries: {:?}", earlier.last());
}

struct Bad {
    devnet: Devnet,
    proxy: FaultProxy,
    directory: tempfile::TempDir,
}

impl Bad {
    async fn network(devnet: Devnet) -> Self {
        // A node that lags has seen the contracts.
        devnet.mine(5).await.unwrap();
        let payer = key(0).address();
        // In blocks, so that a reorganisation does not take it away.
        let value = U256::from(10).pow(U256::from(20));
        let gift = json!({"from": devnet.accounts()[0].address, "to": payer, "value": value});
        devnet.rpc("eth_sendTransaction", json!([gift])).await.unwrap();
        devnet.mint(payer, Usdc(PRICE * 1_000)).await.unwrap();
        devnet.mine(5).await.unwrap();
        let proxy = FaultProxy::start(devnet.rpc_url()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut profile = devnet.profile().clone();
        profile.rpc_urls = vec![proxy.url().to_owned()];
        let text = serde_json::to_string(&profile).unwrap();
        std::fs::write(directory.path().join("network"), text).unwrap();
        Self { devnet, proxy, directory }
    }

    fn payer(&self, number: u64) -> Child {
        self.careful_payer(number, 1)
    }

    fn careful_payer(&self, number: u64, confirmations: u64) -> Child {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "faults::child_process", "--nocapture"])
            .env(DIRECTORY, self.directory.path())
            .env(NUMBER, number.to_string())
            .env(CONFIRMATIONS, confirmations.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn report(&self, number: u64) -> PathBuf {
        self.directory.path().join(format!("done-{number}"))
    }

    /// What the chain says, against what the processes say.
    async fn settle_accounts(&self, processes: u64) {
        let mut believed = HashSet::new();
        for number in 0..processes {
            let text = std::fs::read_to_string(self.report(number)).unwrap();
            believed.extend(text.lines().map(str::to_owned));
        }
        assert_eq!(believed.len() as u64, processes * CALLS, "two calls were given one id");
        let payer = key(0).address();
        let kernel = connect(self.devnet.profile(), vec![]).await.unwrap();
        let mut created = vec![];
        let mut cursor = 0;
        loop {
            let events = kernel.events(cursor, 10_000).await.unwrap();
            let Some(last) = events.last() else { break };
            cursor = last.cursor;
            created.extend(events.into_iter().filter_map(|record| match record.event {
                Event::TransactionCreated { transaction_id, .. } => Some(transaction_id),
                _ => None,
            }));
        }
        let on_chain: HashSet<_> = created.iter().map(ToString::to_string).collect();
        assert_eq!(created.len(), on_chain.len());
        assert_eq!(on_chain, believed, "something was done twice, or lost");
        for transaction in kernel.get_transactions(&created).await.unwrap() {
            assert_eq!(transaction.unwrap().state, State::Committed);
        }
        let paid = processes * CALLS * PRICE;
        let vault = kernel.network().vault;
        assert_eq!(kernel.balance(payer).await.unwrap(), Usdc(PRICE * 1_000 - paid));
        assert_eq!(kernel.balance(vault).await.unwrap(), Usdc(paid));
        assert_eq!(kernel.allowance(payer).await.unwrap(), Usdc(0));
        assert_eq!(self.sent("pending").await, self.sent("latest").await, "something is stuck");
    }

    /// How many transactions of the payer there are in blocks ("latest"), or with those that wait
    /// ("pending").
    async fn sent(&self, tag: &str) -> U256 {
        let payer = key(0).address();
        let count = self.devnet.rpc("eth_getTransactionCount", json!([payer, tag])).await.unwrap();
        count.as_str().unwrap().parse().unwrap()
    }
}

/// Two processes of one key pay through this network.
fn pays_under(name: &str, block_seconds: Option<u64>, rules: Vec<Rule>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut devnet = Devnet::builder();
        if let Some(seconds) = block_seconds {
            devnet = devnet.block_time(Duration::from_secs(seconds));
        }
        let bad = Bad::network(devnet.start().await.unwrap()).await;
        bad.proxy.set(Faults { rules, latency: Duration::ZERO, seed: 7 });
        let mut payers: Vec<_> = (0..2).map(|number| bad.payer(number)).collect();
        let until = Instant::now() + Duration::from_secs(150);
        for payer in &mut payers {
            while payer.try_wait().unwrap().is_none() {
                if Instant::now() > until {
                    payer.kill().unwrap();
                    panic!("{name}: a payer never ended; {:?}", bad.proxy.stats());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(payer.wait().unwrap().success(), "{name}");
        }
        println!("{name}: {:?}", bad.proxy.stats());
        bad.proxy.clear();
        bad.settle_accounts(2).await;
    });
}

macro_rules! faults {
    ($($name:ident: $block:expr, [$($rule:expr),* $(,)?];)*) => {
        $(#[test] fn $name() { pays_under(stringify!($name), $block, vec![$($rule),*]); })*
    };
}

fn send(fault: Fault) -> Rule {
    Rule::new(fault).on("eth_sendRawTransaction")
}

faults! {
    nothing_happens_to_it: None, [];
    answers_are_lost_after_the_node_accepted: None, [send(Fault::DropAnswer).with_probability(0.4)];
    too_many_requests: None, [Rule::new(Fault::Status(429)).with_probability(0.05)];
    the_server_fails: None, [
        Rule::new(Fault::Status(500)).with_probability(0.1),
        Rule::new(Fault::Status(502)).with_probability(0.1),
    ];
    answers_are_garbage: None, [
        Rule::new(Fault::Garbage).with_probability(0.15),
        Rule::new(Fault::Truncate).with_probability(0.1),
    ];
    connections_are_cut: None, [Rule::new(Fault::Cut).with_probability(0.25)];
    requests_are_late: None, [
        Rule::new(Fault::Delay(Duration::from_millis(300))).with_probability(0.3),
        Rule::new(Fault::Delay(Duration::from_millis(2_500))).with_probability(0.03),
    ];
    requests_arrive_twice: None, [Rule::new(Fault::Duplicate).with_probability(0.5)];
    the_node_lags: Some(1), [Rule::new(Fault::Stale(Head::Behind(2))).with_probability(0.3)];
    the_node_forgets: Some(1), [send(Fault::Forget).with_probability(0.4)];
    everything_at_once: Some(1), [
        send(Fault::DropAnswer).with_probability(0.1),
        send(Fault::Forget).with_probability(0.1),
        Rule::new(Fault::Status(429)).with_probability(0.02),
        Rule::new(Fault::Status(502)).with_probability(0.05),
        Rule::new(Fault::Garbage).with_probability(0.05),
        Rule::new(Fault::Cut).with_probability(0.05),
        Rule::new(Fault::Duplicate).with_probability(0.1),
        Rule::new(Fault::Stale(Head::Behind(1))).with_probability(0.1),
    ];
}

/// A process dies in the middle; another of the same key goes on behind it.
#[test]
fn a_killed_process_leaves_no_gap_and_its_calls_are_taken_over() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let devnet = Devnet::builder().block_time(Duration::from_secs(1)).start().await.unwrap();
        let bad = Bad::network(devnet).await;
        bad.proxy.set(Faults {
            rules: vec![send(Fault::Forget).with_probability(0.3)],
            latency: Duration::from_millis(20),
            seed: 3,
        });
        for moment in [600, 1_500, 2_600] {
            let mut payer = bad.payer(9);
            tokio::time::sleep(Duration::from_millis(moment)).await;
            payer.kill().unwrap();
            payer.wait().unwrap();
        }
        let mut payers: Vec<_> = (0..2).map(|number| bad.payer(number)).collect();
        for payer in &mut payers {
            let until = Instant::now() + Duration::from_secs(150);
            while payer.try_wait().unwrap().is_none() {
                assert!(Instant::now() < until, "a payer never ended");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(payer.wait().unwrap().success());
        }
        bad.proxy.clear();
        assert_eq!(bad.sent("pending").await, bad.sent("latest").await, "a gap stayed");
        let kernel = connect(bad.devnet.profile(), vec![]).await.unwrap();
        // What the dead ones got done is theirs; the vault holds a price for each that is funded.
        let mut funded = 0;
        let (mut cursor, mut ids) = (0, vec![]);
        loop {
            let events = kernel.events(cursor, 10_000).await.unwrap();
            let Some(last) = events.last() else { break };
            cursor = last.cursor;
            for record in &events {
                match record.event {
                    Event::EscrowLinked { .. } => funded += 1,
                    Event::TransactionCreated { transaction_id, .. } => ids.push(transaction_id),
                    _ => {}
                }
            }
        }
        let vault = kernel.network().vault;
        assert_eq!(kernel.balance(vault).await.unwrap(), Usdc(funded * PRICE));
        let distinct: HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(funded >= 2 * CALLS);
    });
}

/// The chain takes two blocks back, again and again, while two processes pay that wait for four.
#[test]
fn reorganisations_lose_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let devnet = Devnet::builder().block_time(Duration::from_secs(1)).start().await.unwrap();
        let bad = Bad::network(devnet).await;
        // Blocks to take back, of before the payments.
        bad.devnet.mine(10).await.unwrap();
        let mut payers: Vec<_> = (0..2).map(|number| bad.careful_payer(number, 4)).collect();
        let until = Instant::now() + Duration::from_secs(150);
        let mut taken_back = 0;
        while payers.iter_mut().any(|payer| payer.try_wait().unwrap().is_none()) {
            assert!(Instant::now() < until, "a payer never ended");
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            if taken_back < 6 {
                bad.devnet.reorganise(2).await.unwrap();
                taken_back += 1;
            }
        }
        for payer in &mut payers {
            assert!(payer.wait().unwrap().success());
        }
        assert!(taken_back > 0);
        bad.settle_accounts(2).await;
    });
}

/// A caller is told that the outcome is unknown, with the hash; the same call finds out.
#[test]
fn an_unknown_outcome_is_found_out_by_the_same_call() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (bad, kernel) = impatient().await;
        bad.devnet.set_automine(false).await.unwrap();
        let requester = key(0).address();
        let request = purchase(&kernel).await;
        let error: Error = kernel.create_transaction(requester, &request).await.unwrap_err();
        assert_eq!((error.code(), error.retry()), (Code::OutcomeUnknown, Retry::CheckFirst));
        let hash: B256 = error.facts().transaction_hash.unwrap();
        bad.devnet.set_automine(true).await.unwrap();
        bad.devnet.mine(1).await.unwrap();
        let id = kernel.create_transaction(requester, &request).await.unwrap();
        let receipt = bad.devnet.rpc("eth_getTransactionReceipt", json!([hash])).await.unwrap();
        assert_eq!(receipt["logs"][0]["topics"][1], json!(id));
        // It was answered; once more is a new one.
        let other = kernel.create_transaction(requester, &request).await.unwrap();
        assert_ne!(id, other);
    });
}

/// What is sent in two is taken over in two: the approval is not called off under the link that
/// needs it, however long that is waited for.
#[test]
fn who_takes_a_link_over_takes_its_approval_over() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (bad, kernel) = impatient().await;
        let requester = key(0).address();
        let request = purchase(&kernel).await;
        let id = kernel.create_transaction(requester, &request).await.unwrap();
        let before = bad.sent("latest").await;
        bad.devnet.set_automine(false).await.unwrap();
        // Each gives up after two seconds; what nobody waits for is called off after five.
        let link = || kernel.link_escrow(requester, id, LinkEscrow::default());
        for _ in 0..4 {
            assert_eq!(link().await.unwrap_err().code(), Code::OutcomeUnknown);
        }
        bad.devnet.set_automine(true).await.unwrap();
        bad.devnet.mine(1).await.unwrap();
        link().await.unwrap();
        assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Committed);
        // One approval and one link, and nothing else.
        assert_eq!(bad.sent("latest").await - before, U256::from(2));
    });
}

/// A kernel that waits two seconds for an outcome.
async fn impatient() -> (Bad, ChainKernel) {
    let bad = Bad::network(Devnet::start().await.unwrap()).await;
    let profile = NetworkProfile::from_file(bad.directory.path().join("network")).unwrap();
    let mut settings = ChainSettings::new(profile);
    settings.wallets = vec![wallet(key(0))];
    settings.storage = Storage::Memory;
    settings.wait_timeout = Duration::from_secs(2);
    let kernel = ChainKernel::connect(settings).await.unwrap();
    (bad, kernel)
}

async fn purchase(kernel: &ChainKernel) -> CreateTransaction {
    let deadline = kernel.now().await.unwrap() + DAY;
    CreateTransaction::new(key(0).address(), Address::repeat_byte(7), Usdc(PRICE), deadline)
}
