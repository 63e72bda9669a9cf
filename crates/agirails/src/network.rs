//! Where a kernel runs.

use std::{fmt, fs, path::Path, str::FromStr};

use alloy_primitives::{Address, B256, address, b256, keccak256};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    error::{Code, Error, Result, shown_path, shown_words},
    protocol::Terms,
};

/// The environment variable that names a network profile ([`NetworkProfile::find`]), which takes the
/// place of `testnet`.
pub const NETWORK_VARIABLE: &str = "AGIRAILS_NETWORK";
/// The environment variable that names the mode of a client that is made from the environment.
pub const MODE_VARIABLE: &str = "ACTP_MODE";

/// Multicall3, at the same address on Base, Base Sepolia and most other chains.
const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

/// Base. Whatever runs on it is mainnet, however it is configured.
pub(crate) const MAINNET_CHAIN_ID: u64 = 8_453;
/// Base Sepolia, whose USDC anybody can mint.
pub(crate) const TESTNET_CHAIN_ID: u64 = 84_532;
/// Local development chains: anvil's, hardhat's.
pub(crate) const LOCAL_CHAIN_ID: u64 = 31_337;

/// Which network a client works on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The embedded kernel on this machine: no chain, no network, test money.
    #[default]
    Mock,
    /// Base Sepolia, or the network that `AGIRAILS_NETWORK` names.
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

    /// The mode that `ACTP_MODE` names; `None` where it is not set, or empty.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] where it names no mode.
    pub fn from_environment() -> Result<Option<Self>> {
        let named = std::env::var_os(MODE_VARIABLE).filter(|name| !name.is_empty());
        let mode = named.map(|name| name.to_string_lossy().parse::<Self>());
        mode.transpose().map_err(|error| {
            let message = format!("{MODE_VARIABLE}: {error}");
            let hint = error.hint().unwrap_or_default().to_owned();
            Error::new(error.code(), message).with_hint(hint).with_source(error)
        })
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Mock, Self::Testnet, Self::Mainnet]
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| {
                Error::invalid(Code::InvalidSettings, "mode", name, "must be a network")
                    .with_hint("use \"mock\", \"testnet\" or \"mainnet\"")
            })
    }
}

/// Where a chain is reached and where its contracts lie, as a JSON file tells it.
///
/// ```
/// use agirails::NetworkProfile;
///
/// let profile = NetworkProfile::from_json(r#"{
///     "name": "staging", "chainId": 31337, "rpcUrl": "http://127.0.0.1:8545",
///     "contracts": {
///         "actpKernel": "0x00000000000000000000000000000000000000a1",
///         "escrowVault": "0x00000000000000000000000000000000000000a2",
///         "usdc": "0x00000000000000000000000000000000000000a3"
///     }
/// }"#)?;
/// assert_eq!(profile.rpc_urls, ["http://127.0.0.1:8545"]);
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkProfile {
    /// Its name.
    pub name: String,
    /// Its chain id (EIP-155).
    pub chain_id: u64,
    /// Where it is reached: `http`, `https`, and `ws` or `wss` for events. In JSON one URL or a
    /// list, the preferred one first.
    #[serde(rename = "rpcUrl", with = "one_or_many")]
    pub rpc_urls: Vec<String>,
    /// Its contracts.
    pub contracts: Contracts,
    /// The block in which the kernel was deployed; events begin there. 0 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_block: Option<u64>,
    /// The EAS schema of delivery attestations, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eas_schema: Option<B256>,
    /// How many of the URLs must say the same about a transaction before it is served, and before
    /// what was served is given back or given up. Where left out, 2 on Base where two or more hosts
    /// are named, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agree: Option<u32>,
}

/// Shows of each URL its scheme, host and port only: the rest is where keys stand.
impl fmt::Debug for NetworkProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, chain_id, contracts, deployment_block, eas_schema, agree, .. } = self;
        f.debug_struct("NetworkProfile")
            .field("name", name)
            .field("chain_id", chain_id)
            .field("rpc_urls", &self.shown_urls())
            .field("contracts", contracts)
            .field("deployment_block", deployment_block)
            .field("eas_schema", eas_schema)
            .field("agree", agree)
            .finish()
    }
}

fn shown_url(text: &str) -> String {
    match Url::parse(text).map(|url| url.origin()) {
        Ok(origin) if origin.is_tuple() => origin.ascii_serialization(),
        _ => "(no URL of a node)".to_owned(),
    }
}

/// The addresses of a network's contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contracts {
    /// The kernel.
    pub actp_kernel: Address,
    /// The vault.
    pub escrow_vault: Address,
    /// The USDC token.
    pub usdc: Address,
    /// The agent registry (AIP-7), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_registry: Option<Address>,
    /// The archive treasury, where there is one. What the kernel itself says takes precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_treasury: Option<Address>,
    /// The Ethereum Attestation Service, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eas: Option<Address>,
    /// Multicall3, where there is one: settlements that are due at one time share chain transactions
    /// through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multicall: Option<Address>,
    /// The contract that decides disputes by bonds (`BondEscalation`, AIP-14c), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond_escalation: Option<Address>,
}

impl Contracts {
    /// Reads the addresses as a profile has them: `{actpKernel, escrowVault, usdc, ...}`.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`], naming what is missing or misspelt.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        Self::deserialize(value).map_err(|error| {
            Error::new(Code::InvalidSettings, format!("the contracts are invalid: {error}"))
                .with_hint(
                    "pass {actpKernel, escrowVault, usdc}, and agentRegistry, archiveTreasury, eas, \
                     multicall, bondEscalation where there are such",
                )
                .with_facts(|facts| facts.field = Some("contracts"))
                .with_source(error)
        })
    }
}

impl NetworkProfile {
    /// Base Sepolia, with the kernel that the published SDKs use. `BASE_SEPOLIA_RPC` names other URLs,
    /// separated by spaces.
    pub fn testnet() -> Self {
        Self {
            name: "base-sepolia".to_owned(),
            chain_id: TESTNET_CHAIN_ID,
            rpc_urls: rpc_urls("BASE_SEPOLIA_RPC", "https://sepolia.base.org"),
            contracts: Contracts {
                actp_kernel: address!("9d25A874f046185d9237Cd4954C88D2B74B0021b"),
                escrow_vault: address!("7dF07327090efcA73DCBa70414aA3131Fc6d2efB"),
                usdc: address!("444b4e1A65949AB2ac75979D5d0166Eb7A248Ccb"),
                agent_registry: Some(address!("D91F9aBfBf60b4a2Fd5317ab0cDF3F44faB5D656")),
                archive_treasury: Some(address!("2eE4f7bE289fc9EFC2F9f2D6E53e50abDF23A3eb")),
                eas: Some(address!("4200000000000000000000000000000000000021")),
                multicall: Some(MULTICALL3),
                bond_escalation: None,
            },
            deployment_block: Some(41_725_686),
            eas_schema: Some(b256!(
                "1b0ebdf0bd20c28ec9d5362571ce8715a55f46e81c3de2f9b0d8e1b95fb5ffce"
            )),
            agree: None,
        }
    }

    /// Base. `BASE_MAINNET_RPC` names other URLs, separated by spaces.
    pub fn mainnet() -> Self {
        Self {
            name: "base".to_owned(),
            chain_id: MAINNET_CHAIN_ID,
            rpc_urls: rpc_urls("BASE_MAINNET_RPC", "https://mainnet.base.org"),
            contracts: Contracts {
                actp_kernel: address!("048c811352e8a3fECd5b0Ec4AA2c2b94083CC842"),
                escrow_vault: address!("262D5912A9612F0c66dA5d13B4E678D50ebC44b5"),
                usdc: address!("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
                agent_registry: Some(address!("64Cb18bfb3CC1aCb1370a3B01613391D3561a009")),
                archive_treasury: Some(address!("6159A80Ce8362aBB2307FbaB4Ed4D3F4A4231Acc")),
                eas: Some(address!("4200000000000000000000000000000000000021")),
                multicall: Some(MULTICALL3),
                bond_escalation: None,
            },
            deployment_block: Some(46_212_266),
            eas_schema: Some(b256!(
                "166501e7476e2fcf9214c4c5144533c2957d56fe59d639effc1719a0658d9c9a"
            )),
            agree: None,
        }
    }

    /// [`Self::rpc_urls`] for people: of each its scheme, host and port, since the rest is where
    /// keys stand.
    pub fn shown_urls(&self) -> Vec<String> {
        self.rpc_urls.iter().map(|url| shown_url(url)).collect()
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`], naming what is missing or misspelt and where.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            Error::new(
                Code::InvalidSettings,
                format!("the network profile is invalid: {}", shown_words(&error.to_string())),
            )
            .with_hint(
                "a profile has name, chainId, rpcUrl and contracts {actpKernel, escrowVault, usdc}",
            )
        })
    }

    /// Base Sepolia with the kernel of 2026-06-24 (F-6), which upstream has replaced since.
    /// `BASE_SEPOLIA_RPC` names other URLs.
    pub fn testnet_f6() -> Self {
        Self {
            name: "base-sepolia-f6".to_owned(),
            contracts: Contracts {
                actp_kernel: address!("D8f7829c4555Fc95fc92e54729DaE7d28ace349B"),
                escrow_vault: address!("Af35801fd0613c583a08ADbdA6131A431C7C69eb"),
                agent_registry: Some(address!("DCcFA810ea60Fb3ACfC22F93ACFDDF57Cc8217Bc")),
                archive_treasury: Some(address!("63B0c4b4aCD96aC40Ac9ab023B6507FeE54375AD")),
                ..Self::testnet().contracts
            },
            deployment_block: Some(43_262_304),
            ..Self::testnet()
        }
    }

    /// Base Sepolia with the kernel of 2026-07-13 (AIP-14c), which is to come to mainnet.
    /// `BASE_SEPOLIA_RPC` names other URLs.
    pub fn testnet_aip14c() -> Self {
        Self {
            name: "base-sepolia-aip14c".to_owned(),
            contracts: Contracts {
                actp_kernel: address!("E8ba4133CC43bAb48c9c71bF82243e0b15915389"),
                escrow_vault: address!("9d3CbD2c630E390F9179DAfE02Dd5dAd80B3A05B"),
                agent_registry: Some(address!("1bb1D4B0b84801FF8597d3e7988E00802252d962")),
                archive_treasury: Some(address!("415Ca522e1DfF9933ab5Eb7a8569B1879093324D")),
                bond_escalation: Some(address!("84CB23F1bCebC286270EE5E62A19a64686D3Ca0A")),
                ..Self::testnet().contracts
            },
            deployment_block: Some(44_093_538),
            ..Self::testnet()
        }
    }

    /// The profile with this name: `base-sepolia`, `base-sepolia-f6` or `base-sepolia-aip14c`. Mainnet
    /// is reached by its mode alone.
    ///
    /// ```
    /// use agirails::NetworkProfile;
    ///
    /// let profile = NetworkProfile::named("base-sepolia-aip14c").expect("it is one of them");
    /// assert_eq!(profile.chain_id, NetworkProfile::testnet().chain_id);
    /// assert_ne!(profile.contracts, NetworkProfile::testnet().contracts);
    /// assert_eq!(NetworkProfile::named("base"), None);
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        [Self::testnet(), Self::testnet_f6(), Self::testnet_aip14c()]
            .into_iter()
            .find(|profile| profile.name == name)
    }

    /// The profile with this name ([`Self::named`]), else that of the file at this path.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn find(name_or_path: impl AsRef<Path>) -> Result<Self> {
        let named = name_or_path.as_ref().to_str().and_then(Self::named);
        named.map_or_else(|| Self::from_file(name_or_path), Ok)
    }

    /// Reads a profile's file.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] where the file cannot be read, and as [`Self::from_json`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let shown = shown_path(path.as_ref());
        let text = fs::read_to_string(&path).map_err(|error| {
            Error::new(
                Code::InvalidSettings,
                format!("the network profile {shown} cannot be read: {error}"),
            )
            .with_hint(
                "a network is base-sepolia, base-sepolia-f6, base-sepolia-aip14c, or a JSON file as \
                 `agirails devnet` writes it",
            )
            .with_source(error)
        })?;
        Self::from_json(&text).map_err(|error| {
            let message = format!("{error}: {shown}");
            let hint = error.hint().unwrap_or_default().to_owned();
            Error::new(error.code(), message).with_hint(hint).with_source(error)
        })
    }
}

fn rpc_urls(variable: &str, public: &str) -> Vec<String> {
    let named = std::env::var(variable).unwrap_or_default();
    let urls: Vec<_> = named.split_ascii_whitespace().map(str::to_owned).collect();
    if urls.is_empty() { vec![public.to_owned()] } else { urls }
}

/// One URL where there is one, else a list.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(urls: &[String], to: S) -> Result<S::Ok, S::Error> {
        match urls {
            [url] => url.serialize(to),
            _ => urls.serialize(to),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let urls = match OneOrMany::deserialize(from)? {
            OneOrMany::One(url) => vec![url],
            OneOrMany::Many(urls) => urls,
        };
        if urls.is_empty() { Err(D::Error::custom("rpcUrl names no URL")) } else { Ok(urls) }
    }
}

/// A network's name, chain id, contracts, and what its kernel's rules are.
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
    /// The Ethereum Attestation Service, where there is one.
    pub eas: Option<Address>,
    /// The contract that decides disputes by bonds (AIP-14c), where there is one.
    pub bond_escalation: Option<Address>,
    /// The kernel's generation, and the grace that its deployment fixed.
    #[serde(flatten)]
    pub terms: Terms,
}

impl Network {
    /// Whether real money moves here: Base, however the client is configured.
    pub const fn is_mainnet(&self) -> bool {
        self.chain_id == MAINNET_CHAIN_ID
    }

    /// Whether this is a local development chain, or the embedded kernel.
    pub const fn is_local(&self) -> bool {
        self.chain_id == LOCAL_CHAIN_ID
    }

    /// Whether the money here is for tests: the embedded kernel, a local development chain, or Base
    /// Sepolia. Every other chain is treated like mainnet.
    pub const fn has_test_money(&self) -> bool {
        self.is_local() || self.chain_id == TESTNET_CHAIN_ID
    }

    /// The embedded kernel's network. Its addresses are derived from their role's name, so
    /// nobody holds their keys, and its chain id is that of local development chains.
    pub(crate) fn mock() -> Self {
        let at = |role: &str| Address::from_word(keccak256(format!("agirails mock {role}")));
        Self {
            name: "mock".to_owned(),
            chain_id: LOCAL_CHAIN_ID,
            kernel: at("kernel"),
            vault: at("vault"),
            usdc: at("usdc"),
            admin: at("admin"),
            fee_recipient: at("fee recipient"),
            archive_treasury: Some(at("archive treasury")),
            agent_registry: Some(at("agent registry")),
            eas: None,
            bond_escalation: None,
            terms: Terms::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_shows_no_more_of_a_url_than_its_host() {
        let mut profile = NetworkProfile::testnet();
        profile.rpc_urls = [
            "https://SECRET:SECRET@node.example:8443/v3/SECRET?key=SECRET#SECRET",
            "wss://node.example/SECRET",
            "SECRET",
            "ipc://SECRET/SECRET",
        ]
        .map(str::to_owned)
        .to_vec();
        let shown = format!("{profile:?} {profile:#?}");
        assert!(!shown.contains("SECRET"), "{shown}");
        assert!(shown.contains(r#""https://node.example:8443", "wss://node.example""#), "{shown}");
        assert!(shown.contains("84532"), "{shown}");
    }
}
