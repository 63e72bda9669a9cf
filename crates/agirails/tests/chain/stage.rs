//! A devnet and a kernel on it that acts for many parties.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use agirails::{
    Address, NetworkProfile, PrivateKey, Result, Storage, U256, Usdc, Wallet,
    kernel::{
        Kernel,
        chain::{ChainKernel, ChainSettings},
    },
    testkit::{Stage, Watch},
};
use agirails_devnet::Devnet;
use alloy_primitives::keccak256;
use async_trait::async_trait;

const PARTIES: usize = 1_000;

/// Keys of the tests' own, from their numbers.
pub fn key(number: usize) -> PrivateKey {
    let secret = keccak256(format!("agirails test party {number}"));
    format!("{secret:x}").parse().unwrap()
}

pub fn settings(profile: &NetworkProfile, keys: &[PrivateKey]) -> ChainSettings {
    ChainSettings {
        wallets: keys.iter().map(|key| Arc::new(key.clone()) as Arc<dyn Wallet>).collect(),
        storage: Storage::Memory,
        ..ChainSettings::new(profile.clone())
    }
}

pub struct OnChain {
    pub devnet: Devnet,
    pub chain: Arc<ChainKernel>,
    watch: Arc<dyn Kernel>,
    parties: AtomicUsize,
}

impl OnChain {
    pub async fn open(watched: bool) -> Result<Self> {
        let devnet = Devnet::start().await?;
        let mut keys: Vec<_> = (0..PARTIES).map(key).collect();
        keys.push(devnet.admin().private_key.clone());
        let chain = Arc::new(ChainKernel::connect(settings(devnet.profile(), &keys)).await?);
        let watch: Arc<dyn Kernel> =
            if watched { Arc::new(Watch::over(chain.clone())) } else { chain.clone() };
        Ok(Self { devnet, chain, watch, parties: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Stage for OnChain {
    fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.watch
    }

    async fn party(&self) -> Result<Address> {
        let number = self.parties.fetch_add(1, Ordering::Relaxed);
        assert!(number < PARTIES);
        let party = key(number).address();
        self.devnet.set_eth(party, U256::from(10).pow(U256::from(18))).await?;
        self.devnet.mint(party, Usdc(1_000_000_000)).await?;
        Ok(party)
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
}
