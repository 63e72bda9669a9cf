//! Where a kernel runs.

use std::str::FromStr;

use alloy_primitives::{Address, keccak256};
use serde::Serialize;

use crate::error::{Code, Error, Result};

/// Which network a client works on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The embedded kernel on this machine: no chain, no network, test money.
    #[default]
    Mock,
    /// Base Sepolia.
    Testnet,
    /// Base.
    Mainnet,
}

impl Mode {
    /// The name that settings use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mock => "mock",
            Self::Testnet => "testnet",
            Self::Mainnet => "mainnet",
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Mock, Self::Testnet, Self::Mainnet]
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| {
                Error::invalid(Code::InvalidSettings, "mode", name, "is no network")
                    .with_hint("use \"mock\", \"testnet\" or \"mainnet\"")
            })
    }
}

/// A network's name, chain id and contracts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its chain id (EIP-155).
    pub chain_id: u64,
    /// The kernel contract.
    pub kernel: Address,
    /// The vault contract.
    pub vault: Address,
    /// The USDC token.
    pub usdc: Address,
    /// The kernel's admin, who resolves disputes.
    pub admin: Address,
    /// Who receives the platform fee.
    pub fee_recipient: Address,
    /// The archive treasury, where one is set.
    pub archive_treasury: Option<Address>,
    /// The agent registry (AIP-7), where there is one.
    pub agent_registry: Option<Address>,
}

impl Network {
    /// The embedded kernel's network. Its addresses are derived from their role's name, so
    /// nobody holds their keys, and its chain id is that of local development chains.
    pub(crate) fn mock() -> Self {
        let at = |role: &str| Address::from_word(keccak256(format!("agirails mock {role}")));
        Self {
            name: "mock".to_owned(),
            chain_id: 31_337,
            kernel: at("kernel"),
            vault: at("vault"),
            usdc: at("usdc"),
            admin: at("admin"),
            fee_recipient: at("fee recipient"),
            archive_treasury: Some(at("archive treasury")),
            agent_registry: Some(at("agent registry")),
        }
    }
}
