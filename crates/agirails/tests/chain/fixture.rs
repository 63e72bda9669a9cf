//! A devnet and a kernel on it that acts for many parties.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use agirails::{
    Address, Generation, NetworkProfile, PrivateKey, Result, Storage, U256, Usdc, Wallet,
    kernel::{
        Kernel,
        chain::{ChainKernel, ChainSettings},
    },
    protocol::registry::ServiceDescriptor,
    testkit::{Stage, Watch},
};
use agirails_devnet::Devnet;
use alloy_primitives::keccak256;
use async_trait::async_trait;
use serde_json::json;

/// How many parties a stage can bring.
const PARTIES: usize = 600;
/// Gas for a registration, at most.
const GAS: &str = "0x7a120";
/// Registrations that take less than half of a block, so that free gas stays free.
const TO_A_BLOCK: usize = 25;

pub fn key(number: usize) -> PrivateKey {
    keccak256(format!("party {number} of a test")).to_string().parse().unwrap()
}

pub fn wallet(key: PrivateKey) -> Arc<dyn Wallet> {
    Arc::new(key)
}

/// A kernel in memory for these keys.
pub async fn connect(
    profile: &NetworkProfile,
    wallets: Vec<Arc<dyn Wallet>>,
) -> Result<ChainKernel> {
    let mut settings = ChainSettings::new(profile.clone());
    settings.wallets = wallets;
    settings.storage = Storage::Memory;
    ChainKernel::connect(settings).await
}

pub struct Local {
    pub devnet: Devnet,
    /// The same without anybody watching.
    pub chain: Arc<ChainKernel>,
    kernel: Arc<dyn Kernel>,
    parties: AtomicUsize,
}

impl Local {
    pub async fn start(generation: Generation) -> Result<Self> {
        let devnet = Devnet::builder().generation(generation).start().await?;
        let mut wallets: Vec<_> = (0..PARTIES).map(|number| wallet(key(number))).collect();
        wallets.push(wallet(devnet.admin().private_key.clone()));
        let chain = Arc::new(connect(devnet.profile(), wallets).await?);
        let kernel = Arc::new(Watch::over(chain.clone()));
        Ok(Self { devnet, kernel, chain, parties: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Stage for Local {
    fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    async fn party(&self) -> Result<Address> {
        let number = self.parties.fetch_add(1, Ordering::Relaxed);
        assert!(number < PARTIES, "the scenarios need more parties");
        let address = key(number).address();
        self.devnet.set_eth(address, U256::from(10).pow(U256::from(20))).await?;
        self.devnet.mint(address, Usdc(1_000_000_000)).await?;
        Ok(address)
    }

    async fn mint(&self, to: Address, amount: Usdc) -> Result<()> {
        self.devnet.mint(to, amount).await
    }

    async fn advance(&self, seconds: u64) -> Result<()> {
        self.devnet.advance_time(seconds).await.map(drop)
    }

    async fn at(&self, time: u64) -> Result<()> {
        self.devnet.set_next_time(time).await
    }

    async fn set_paused(&self, paused: bool) -> Result<()> {
        if paused { self.devnet.pause().await } else { self.devnet.unpause().await }
    }

    async fn approve_mediator(&self, mediator: Address) -> Result<()> {
        self.devnet.approve_mediator(mediator).await
    }

    /// The kernel registers one; the node repeats that from addresses it has no keys of, many to
    /// a block.
    async fn crowd(
        &self,
        count: usize,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()> {
        let first = self.party().await?;
        let registry = self.kernel.registry().unwrap();
        registry.register_agent(first, endpoint, services).await?;
        let block = self.devnet.rpc("eth_getBlockByNumber", json!(["latest", true])).await?;
        let sent = &block["transactions"][0];
        let (to, input) = (&sent["to"], &sent["input"]);

        self.devnet.rpc("anvil_autoImpersonateAccount", json!([true])).await?;
        self.devnet.set_automine(false).await?;
        // None of them has money for gas.
        self.devnet.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x0"])).await?;
        for number in 1..count {
            let agent = Address::from_word(keccak256(format!("agent {number} after {first}")));
            let call =
                json!({"from": agent, "to": to, "input": input, "gas": GAS, "gasPrice": "0x0"});
            self.devnet.rpc("eth_sendTransaction", json!([call])).await?;
            if number % TO_A_BLOCK == 0 {
                self.devnet.mine(1).await?;
            }
        }
        self.devnet.mine(1).await?;
        self.devnet.set_automine(true).await?;
        self.devnet.rpc("anvil_autoImpersonateAccount", json!([false])).await.map(drop)
    }
}
