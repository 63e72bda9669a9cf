//! Throwaway: stands where the chain kernel will, so that the client compiles.

use std::{sync::Arc, time::Duration};

use crate::{
    error::{Code, Error, Result},
    kernel::embedded::EmbeddedKernel,
    network::NetworkProfile,
    storage::Storage,
    wallet::Wallet,
};

pub(crate) struct ChainSettings {
    pub(crate) profile: NetworkProfile,
    pub(crate) wallets: Vec<Arc<dyn Wallet>>,
    pub(crate) storage: Storage,
    pub(crate) confirmations: u64,
    pub(crate) wait_timeout: Duration,
    pub(crate) max_fee_per_gas: Option<u128>,
}

impl ChainSettings {
    pub(crate) fn new(profile: NetworkProfile) -> Self {
        Self {
            profile,
            wallets: vec![],
            storage: Storage::Memory,
            confirmations: 1,
            wait_timeout: Duration::from_secs(60),
            max_fee_per_gas: None,
        }
    }
}

pub(crate) struct ChainKernel;

impl ChainKernel {
    pub(crate) async fn connect(settings: ChainSettings) -> Result<EmbeddedKernel> {
        let name = settings.profile.name;
        Err(Error::new(Code::NetworkUnavailable, format!("{name} is not reachable in this build"))
            .with_hint("the chain kernel comes with the next merge"))
    }
}
