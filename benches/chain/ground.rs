//! A local chain with two parties on it, and a network in front of it that counts and delays.

use std::{collections::HashMap, sync::Arc, time::Duration};

use agirails::{
    Address, CreateTransaction, LinkEscrow, NetworkProfile, State, Storage, TransactionId, U256,
    Usdc, Wallet,
    kernel::{
        Kernel, Transition,
        chain::{ChainKernel, ChainSettings},
    },
};
use agirails_devnet::{Account, Devnet, FaultProxy, Faults};
use alloy_primitives::keccak256;
use alloy_rpc_types_eth::Log;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::json;

use crate::{BLOCK, LATENCY, figures::Outcome};

/// What each transaction costs.
pub const PRICE: Usdc = Usdc(1_000_000);
const WEEK_SECONDS: u64 = 7 * 86_400;

pub struct Ground {
    pub devnet: Devnet,
    /// In front of the devnet.
    pub network: FaultProxy,
}

impl Ground {
    /// A block for each transaction, and no delay.
    pub async fn start() -> Outcome<Self> {
        let devnet = Devnet::start().await?;
        let network = FaultProxy::start(devnet.rpc_url())?;
        Ok(Self { devnet, network })
    }

    /// From now on blocks come as on Base, and the node is as far away.
    pub async fn slow_down(&self) -> Outcome<()> {
        self.devnet.set_block_time(BLOCK.as_secs()).await?;
        self.network.set(Faults { latency: LATENCY, ..Faults::default() });
        Ok(())
    }

    /// Who pays.
    pub fn requester(&self) -> Address {
        self.devnet.accounts()[0].address
    }

    /// Who works, and sends all transitions that are measured.
    pub fn provider(&self) -> &Account {
        &self.devnet.accounts()[1]
    }

    /// The devnet's profile, with this URL.
    pub fn profile(&self, url: &str) -> NetworkProfile {
        NetworkProfile { rpc_urls: vec![url.to_owned()], ..self.devnet.profile().clone() }
    }

    /// A kernel that acts for both parties and the admin, through this URL.
    pub async fn kernel(&self, url: &str) -> Outcome<ChainKernel> {
        let mut settings = ChainSettings::new(self.profile(url));
        let accounts = self.devnet.accounts().iter().take(2).chain([self.devnet.admin()]);
        settings.wallets = accounts.map(wallet).collect();
        settings.storage = Storage::Memory;
        Ok(ChainKernel::connect(settings).await?)
    }

    /// A kernel that sent nothing, so that a read asks for nothing but what is read.
    pub async fn reader(&self, profile: NetworkProfile) -> Outcome<ChainKernel> {
        let mut settings = ChainSettings::new(profile);
        settings.storage = Storage::Memory;
        Ok(ChainKernel::connect(settings).await?)
    }

    pub async fn request(&self, label: &str) -> Outcome<CreateTransaction> {
        let deadline = self.devnet.now().await? + WEEK_SECONDS;
        let (requester, provider) = (self.requester(), self.provider().address);
        let mut request = CreateTransaction::new(requester, provider, PRICE, deadline);
        request.service_hash = keccak256(label);
        Ok(request)
    }

    /// New transactions, paid in, while each gets a block at once.
    pub async fn committed(&self, count: usize) -> Outcome<Vec<TransactionId>> {
        let kernel = self.kernel(self.devnet.rpc_url()).await?;
        let requester = self.requester();
        let mut requests = vec![];
        for number in 0..count {
            requests.push(self.request(&number.to_string()).await?);
        }
        let create = requests.iter().map(|request| kernel.create_transaction(requester, request));
        let ids = try_join_all(create).await?;
        kernel.approve(requester, Usdc(PRICE.0 * count as u64)).await?;
        let link = ids.iter().map(|id| kernel.link_escrow(requester, *id, LinkEscrow::default()));
        try_join_all(link).await?;
        Ok(ids)
    }

    /// The block in which the provider began to work on each of these, where it did.
    pub async fn starts(&self, ids: &[TransactionId]) -> Outcome<HashMap<TransactionId, u64>> {
        let event = keccak256("StateTransitioned(bytes32,uint8,uint8,address,uint256)");
        let in_progress = U256::from(State::InProgress as u8);
        let filter = json!([{
            "fromBlock": "earliest",
            "address": self.devnet.profile().contracts.actp_kernel,
            "topics": [event, ids, null, format!("{in_progress:#066x}")],
        }]);
        let logs = Vec::<Log>::deserialize(self.devnet.rpc("eth_getLogs", filter).await?)?;
        let place = |log: Log| Some((*log.topics().get(1)?, log.block_number?));
        Ok(logs.into_iter().filter_map(place).collect())
    }
}

fn wallet(account: &Account) -> Arc<dyn Wallet> {
    Arc::new(account.private_key.clone())
}

/// COMMITTED to IN_PROGRESS.
pub fn start(id: TransactionId) -> Transition {
    Transition { id, to: State::InProgress, data: vec![], proof: None }
}

/// How long after a block the call of this number is made: steps of the golden ratio spread evenly,
/// however many there are.
pub fn phase(number: usize) -> Duration {
    BLOCK.mul_f64((number as f64 * 0.618_034).fract())
}
