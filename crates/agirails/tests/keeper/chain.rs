//! A keeper on a chain: one key, many settlements in a block.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use agirails::{
    ACTPClient, Address, CreateTransaction, NetworkProfile, PrivateKey, Refusal, State, Storage,
    TransactionId, Usdc, Wallet,
    keeper::{Event, Keeper, KeeperBuilder},
    kernel::{
        GasCost, Kernel, Transition,
        chain::{ChainKernel, ChainSettings},
    },
};
use agirails_devnet::{Devnet, Fault, FaultProxy, Rule};
use alloy_primitives::{U256, hex};
use serde_json::json;
use tokio::task::JoinSet;

use crate::fixture::{CENTS_10, DOLLAR, RESULT, Told, WINDOW, settlements};
use crate::generation::generation;

const MANY: usize = 200;

pub struct Local {
    pub devnet: Devnet,
    /// Acts for everybody but the keeper.
    pub kernel: Arc<dyn Kernel>,
    pub requester: Address,
    pub providers: [Address; 2],
    directory: tempfile::TempDir,
}

async fn connect(
    profile: NetworkProfile,
    keys: impl IntoIterator<Item = PrivateKey>,
    storage: Storage,
) -> Arc<dyn Kernel> {
    let mut settings = ChainSettings::new(profile);
    settings.wallets = keys.into_iter().map(|key| Arc::new(key) as Arc<dyn Wallet>).collect();
    settings.storage = storage;
    Arc::new(ChainKernel::connect(settings).await.unwrap())
}

impl Local {
    pub async fn start() -> Self {
        let devnet = Devnet::builder().generation(generation()).start().await.unwrap();
        let key = |number: usize| devnet.accounts()[number].private_key.clone();
        let keys = [1, 2, 3].map(key);
        let [requester, one, other] = keys.clone().map(|key| key.address());
        let kernel = connect(devnet.profile().clone(), keys, Storage::Memory).await;
        kernel.approve(requester, Usdc(1_000_000_000_000)).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { devnet, kernel, requester, providers: [one, other], directory }
    }

    /// A keeper of the account that has no part in any transaction, which reaches the chain here.
    pub async fn keeper_at(&self, url: &str) -> KeeperBuilder {
        let profile =
            NetworkProfile { rpc_urls: vec![url.to_owned()], ..self.devnet.profile().clone() };
        let key = self.devnet.accounts()[4].private_key.clone();
        let address = key.address();
        let storage = Storage::Directory(self.directory.path().to_owned());
        let kernel = connect(profile, [key], storage.clone()).await;
        Keeper::builder(ACTPClient::with_kernel(kernel, address)).storage(storage)
    }

    pub async fn keeper(&self) -> KeeperBuilder {
        self.keeper_at(self.devnet.rpc_url()).await
    }

    /// So many of this amount, delivered, by each provider in turn.
    pub async fn delivered(&self, count: usize, amount: Usdc) -> Vec<TransactionId> {
        let deadline = self.kernel.now().await.unwrap() + 86_400;
        let requester = self.requester;
        let created = all((0..count).map(|number| {
            let (kernel, provider) = (self.kernel.clone(), self.providers[number % 2]);
            async move {
                let mut request = CreateTransaction::new(requester, provider, amount, deadline);
                request.dispute_window_seconds = WINDOW;
                (kernel.create_transaction(requester, &request).await.unwrap(), provider)
            }
        }));
        let created = created.await;
        let linked = all(created.into_iter().map(|(id, provider)| {
            let kernel = self.kernel.clone();
            async move {
                kernel.link_escrow(requester, id, Default::default()).await.unwrap();
                (id, provider)
            }
        }));
        let linked = linked.await;
        let delivered = all(linked.into_iter().map(|(id, provider)| {
            let kernel = self.kernel.clone();
            async move {
                let data = kernel.network().terms.encode_delivery(WINDOW, RESULT);
                let delivery = Transition { id, to: State::Delivered, data, proof: None };
                kernel.deliver(provider, &delivery).await.unwrap();
                id
            }
        }));
        delivered.await
    }

    pub async fn due(&self, count: usize, amount: Usdc) -> Vec<TransactionId> {
        let ids = self.delivered(count, amount).await;
        self.devnet.advance_time(WINDOW + 1).await.unwrap();
        ids
    }

    /// How many settlements each block has.
    async fn blocks(&self) -> BTreeMap<u64, usize> {
        let mut blocks = BTreeMap::new();
        for record in self.kernel.events(0, 10_000).await.unwrap() {
            if let agirails::Event::StateTransitioned { new_state: State::Settled, .. } =
                record.event
            {
                *blocks.entry(record.cursor >> 20).or_default() += 1;
            }
        }
        blocks
    }

    /// The keeper's key, which reaches the chain by this profile.
    async fn keeper_kernel(&self, profile: NetworkProfile) -> Arc<dyn Kernel> {
        connect(profile, [self.devnet.accounts()[4].private_key.clone()], Storage::Memory).await
    }

    /// Waits until so many transactions wait for a block.
    async fn pending(&self, count: usize) {
        loop {
            let pool = self.devnet.rpc("txpool_status", json!([])).await.unwrap();
            if pool["pending"] == format!("{count:#x}") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn sent_by_keeper(&self) -> u64 {
        let address = self.devnet.accounts()[4].address;
        let count = self.devnet.rpc("eth_getTransactionCount", json!([address, "latest"])).await;
        let count = count.unwrap();
        u64::from_str_radix(count.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }
}

async fn settle_at_once(
    kernel: &Arc<dyn Kernel>,
    by: Address,
    ids: &[TransactionId],
) -> Vec<agirails::Result<GasCost>> {
    let settle = |id: &TransactionId| {
        let (kernel, id) = (kernel.clone(), *id);
        async move { kernel.settle_due(by, id).await }
    };
    all(ids.iter().map(settle)).await
}

/// Runs all at once; their results in their order.
async fn all<T: Send + 'static>(
    work: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks: Vec<_> = work.map(tokio::spawn).collect();
    let mut results = vec![];
    for task in &mut tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_settles_on_a_chain_and_says_what_it_cost() {
    let local = Local::start().await;
    let told = Told::default();
    let keeper = local.keeper().await.on_event(told.listener()).open().await.unwrap();
    let waiting = local.delivered(2, DOLLAR).await;
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.waiting), (0, 2));
    local.devnet.advance_time(WINDOW + 1).await.unwrap();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.waiting, report.failed), (2, 0, 0));
    for settlement in &report.settled {
        assert_eq!(settlement.net, Usdc(950_000));
        assert!(settlement.gas_cost > GasCost(0));
    }
    let gas: u128 = report.settled.iter().map(|settlement| settlement.gas_cost.0).sum();
    assert_eq!(keeper.metrics().await.unwrap().gas_wei_total, gas);
    let line = told.lines().pop().unwrap();
    assert!(line.contains(": net 0.95 USDC, gas ") && !line.contains("gas 0 wei"), "{line}");
    let mut settled = settlements(&local.kernel).await;
    settled.sort();
    let mut waited = waiting.clone();
    waited.sort();
    assert_eq!(settled, waited);

    // 0.10 USDC bring 0.05, and gas costs something: whether that is worth it, the limits say.
    local.due(1, CENTS_10).await;
    let limits = agirails::SettlementLimits { min_net: Some(Usdc(50_001)), coin_price: None };
    let picky = local.keeper().await.limits(limits).open().await.unwrap();
    assert_eq!(picky.turn().await.unwrap().unprofitable, 1);
    assert_eq!(keeper.turn().await.unwrap().settled.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_of_one_key_are_settled_within_three_blocks() {
    let local = Local::start().await;
    local.due(MANY, DOLLAR).await;
    let keeper = local.keeper().await.open().await.unwrap();
    local.devnet.set_block_time(2).await.unwrap();
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.failed), (MANY, 0), "{report:?}");
    let blocks = local.blocks().await;
    println!("{MANY} settlements of one key, by block: {blocks:?}");
    let (first, last) = (blocks.keys().next().unwrap(), blocks.keys().last().unwrap());
    assert!(last - first < 3, "{blocks:?}");
    assert_eq!(blocks.values().sum::<usize>(), MANY);
    // At most 40 share a chain transaction, and 128 are under way at once.
    let sent = local.sent_by_keeper().await;
    assert!((MANY as u64 / 40..=8).contains(&sent), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_together_shares_its_gas_to_the_last_wei() {
    let local = Local::start().await;
    let ids = local.due(5, DOLLAR).await;
    let late = local.delivered(1, DOLLAR).await[0];
    let keeper = local.devnet.accounts()[4].clone();
    let kernel = local.keeper_kernel(local.devnet.profile().clone()).await;
    // What another has settled, what is not due, and what nobody created are refused by themselves.
    local.settle_alone(&ids[..1]).await;
    let unknown = TransactionId::repeat_byte(9);
    let before = kernel.gas_balance(keeper.address).await.unwrap().unwrap();
    let asked: Vec<_> = ids.iter().copied().chain([late, unknown]).collect();
    let nonce = local.sent_by_keeper().await;
    let outcomes = settle_at_once(&kernel, keeper.address, &asked).await;
    let paid = before - kernel.gas_balance(keeper.address).await.unwrap().unwrap();
    let shares = outcomes[1..5].iter().map(|outcome| outcome.as_ref().unwrap().0);
    assert_eq!(U256::from(shares.sum::<u128>()), paid);
    let refusal = |at: usize| outcomes[at].as_ref().unwrap_err().refusal();
    assert_eq!(refusal(0), Some(Refusal::NoOp));
    assert_eq!(refusal(5), Some(Refusal::NotAuthorizedToSettle));
    assert_eq!(refusal(6), Some(Refusal::TxMissing));
    assert_eq!(local.sent_by_keeper().await, nonce + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_settles_one_of_them_first_spoils_none_of_the_others() {
    let local = Local::start().await;
    let ids = local.due(4, DOLLAR).await;
    let keeper = local.devnet.accounts()[4].address;
    let kernel = local.keeper_kernel(local.devnet.profile().clone()).await;
    local.devnet.set_automine(false).await.unwrap();
    let rival = {
        let (kernel, requester, id) = (local.kernel.clone(), local.requester, ids[2]);
        tokio::spawn(async move { kernel.settle_due(requester, id).await })
    };
    local.pending(1).await;
    let ours = {
        let ids = ids.clone();
        tokio::spawn(async move { settle_at_once(&kernel, keeper, &ids).await })
    };
    local.pending(2).await;
    local.devnet.mine(1).await.unwrap();
    local.devnet.set_automine(true).await.unwrap();
    rival.await.unwrap().unwrap();
    let outcomes = ours.await.unwrap();
    for (place, outcome) in outcomes.iter().enumerate() {
        match place {
            2 => assert_eq!(outcome.as_ref().unwrap_err().refusal(), Some(Refusal::NoOp)),
            _ => assert!(outcome.as_ref().unwrap().0 > 0),
        }
    }
    assert_eq!(local.sent_by_keeper().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_that_only_pretends_to_carry_them_keeps_nothing_from_being_settled() {
    let local = Local::start().await;
    let ids = local.due(2, DOLLAR).await;
    let keeper = local.devnet.accounts()[4].address;
    // It answers an empty list, whatever it is asked.
    let code = hex!("6008600a5f3960085ff360205f5260405ff3").into();
    let receipt = local.devnet.send(keeper, None, code).await.unwrap();
    let mut profile = local.devnet.profile().clone();
    profile.contracts.multicall = receipt["contractAddress"].as_str().unwrap().parse().ok();
    let kernel = local.keeper_kernel(profile).await;
    for outcome in settle_at_once(&kernel, keeper, &ids).await {
        assert!(outcome.unwrap().0 > 0);
    }
    // Its creation, what it carried to nowhere, and each alone.
    assert_eq!(local.sent_by_keeper().await, 4);

    let mut profile = local.devnet.profile().clone();
    profile.contracts.multicall = Some(keeper);
    let missing = ChainKernel::connect(ChainSettings::new(profile)).await.unwrap_err();
    assert_eq!(missing.code(), agirails::Code::ContractMissing);
    assert!(missing.to_string().contains("multicall"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_by_a_keeper_that_died_is_not_sent_again() {
    let local = Local::start().await;
    let ids = local.due(2, DOLLAR).await;
    local.devnet.set_automine(false).await.unwrap();
    let mortal = local.keeper().await.open().await.unwrap();
    let life = tokio::spawn(async move { mortal.turn().await });
    local.pending(1).await;
    life.abort();
    assert!(life.await.unwrap_err().is_cancelled());
    local.devnet.mine(1).await.unwrap();
    local.devnet.set_automine(true).await.unwrap();
    let next = local.keeper().await.open().await.unwrap();
    let report = loop {
        let report = next.turn().await.unwrap();
        // The lease of the dead one.
        if !report.is_busy {
            break report;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert_eq!((report.failed, report.waiting), (0, 0), "{report:?}");
    assert_eq!(settlements(&local.kernel).await.len(), ids.len());
    assert_eq!(local.sent_by_keeper().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_the_chain_takes_back_is_made_again() {
    let local = Local::start().await;
    let id = local.due(1, DOLLAR).await[0];
    local.devnet.mine(3).await.unwrap();
    let keeper = local.keeper().await.open().await.unwrap();
    assert_eq!(keeper.turn().await.unwrap().settled.len(), 1);
    local.devnet.reorganise(1).await.unwrap();
    // Sent again by the sender that watches its transactions.
    for _ in 0..200 {
        if local.kernel.get_transaction(id).await.unwrap().state == State::Settled {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it was not settled again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_delays_and_loses_nothing() {
    let local = Local::start().await;
    local.due(3, DOLLAR).await;
    let proxy = FaultProxy::start(local.devnet.rpc_url()).unwrap();
    let told = Told::default();
    let keeper = local.keeper_at(proxy.url()).await.on_event(told.listener()).open().await.unwrap();
    proxy.add(Rule::new(Fault::DropAnswer).on("eth_sendRawTransaction").times(2));
    proxy.add(Rule::new(Fault::DropAnswer).on("eth_getLogs").times(1));
    let stop = Arc::new(tokio::sync::Notify::new());
    let (running, stopping) = (keeper.clone(), stop.clone());
    let run = tokio::spawn(async move { running.run(stopping.notified()).await });
    let mut settled = JoinSet::new();
    settled.spawn({
        let kernel = local.kernel.clone();
        async move {
            while settlements(&kernel).await.len() < 3 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    tokio::time::timeout(Duration::from_secs(60), settled.join_next()).await.unwrap();
    stop.notify_one();
    run.await.unwrap().unwrap();
    assert_eq!(local.sent_by_keeper().await, 1);
    let is_settled = |event: &Event| matches!(event, Event::Settled(_) | Event::Ended { .. });
    assert_eq!(told.events().iter().filter(|event| is_settled(event)).count(), 3);
}
