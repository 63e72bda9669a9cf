//! What `contracts/build.mjs` compiled: the interface and the bytecode of every contract.
//!
//! ```
//! use agirails_devnet::artifacts;
//!
//! let create = artifacts::ACTP_KERNEL.bytecode();
//! assert!(create.len() > 10_000);
//! assert!(artifacts::ACTP_KERNEL.abi().is_array());
//! ```

use std::fmt;

use agirails::Generation;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolValue;
use serde::Deserialize;
use serde_json::Value;

/// A compiled contract.
#[derive(Clone, Copy)]
pub struct Artifact {
    name: &'static str,
    json: &'static str,
}

#[derive(Deserialize)]
struct Compiled {
    abi: Value,
    bytecode: Bytes,
}

impl Artifact {
    /// The contract's name in Solidity.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The interface, as the compiler describes it.
    pub fn abi(&self) -> Value {
        self.compiled().abi
    }

    /// The code that creates the contract. The encoded arguments of its constructor follow it.
    pub fn bytecode(&self) -> Bytes {
        self.compiled().bytecode
    }

    /// [`Self::bytecode`] with the encoded arguments of the constructor: the `data` of a creation.
    pub fn creation(&self, arguments: &[u8]) -> Bytes {
        [&self.bytecode(), arguments].concat().into()
    }

    #[expect(clippy::expect_used, reason = "part of this crate; a test reads each of them")]
    fn compiled(&self) -> Compiled {
        serde_json::from_str(self.json).expect("an artifact that build.mjs wrote")
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Artifact({})", self.name)
    }
}

macro_rules! artifacts {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: Artifact = Artifact {
            name: $name,
            json: include_str!(concat!("../artifacts/", $name, ".json")),
        };)*

        /// Every contract.
        pub const ALL: &[Artifact] = &[$($constant,)*];
    };
}

artifacts! {
    /// The kernel, with the interface and the rules of the generation on mainnet. Constructor:
    /// `(admin, pauser, feeRecipient, agentRegistry, usdc)`.
    ACTP_KERNEL = "ACTPKernel";
    /// The kernel of F-6. Constructor: the kernel's, then `recoveryGrace` in seconds.
    F6_KERNEL = "F6Kernel";
    /// The kernel of AIP-14c. Constructor: as that of F-6.
    AIP14C_KERNEL = "Aip14cKernel";
    /// The vault. Constructor: `(token, kernel)`.
    ESCROW_VAULT = "EscrowVault";
    /// The agent registry (AIP-7). Constructor: `(kernel)`.
    AGENT_REGISTRY = "AgentRegistry";
    /// Receiver of the archive's share of fees. Constructor: `(usdc, uploader)`.
    ARCHIVE_TREASURY = "ArchiveTreasury";
    /// USDC that anybody mints.
    MOCK_USDC = "MockUSDC";
    /// Decides disputes by bonds (AIP-14c). Constructor: `(kernel, usdc, compositeMediator, admin)`.
    BOND_ESCALATION = "BondEscalation";
    /// Carries out on the kernel what they end with. Constructor: `(kernel, bondEscalation)`.
    COMPOSITE_MEDIATOR = "CompositeMediator";
    /// The schemas of attestations.
    SCHEMA_REGISTRY = "SchemaRegistry";
    /// Attestations, as far as an SDK needs them. Constructor: `(schemaRegistry)`.
    EAS = "EAS";
    /// Never deployed: many reads of one block in one `eth_call`. Constructor:
    /// `(address[] targets, bytes[] calls)`.
    LENS = "Lens";
    /// Never deployed: whether a contract wallet takes a signature for its own, in one `eth_call`.
    /// Constructor: `(address wallet, bytes32 hash, bytes signature)`.
    SIGNATURE_CHECK = "SignatureCheck";
    /// Many calls in one transaction, with the interface of Multicall3.
    MULTICALL = "Multicall";
    /// A wallet whose owner signs for it (EIP-1271). Constructor: `(owner)`.
    CONTRACT_WALLET = "ContractWallet";
    /// Deploys such wallets to addresses that are known before (ERC-6492).
    CONTRACT_WALLET_FACTORY = "ContractWalletFactory";
    /// A wallet that burns all gas, or answers without end. Constructor: `(bool isEndless)`.
    HOSTILE_WALLET = "HostileWallet";
    /// A kernel of the generation before the deployed one, to be recognised by.
    OLD_KERNEL = "OldKernel";
}

/// The kernel of a generation.
pub const fn kernel(generation: Generation) -> Artifact {
    match generation {
        Generation::May2026 => ACTP_KERNEL,
        Generation::F6 => F6_KERNEL,
        Generation::Aip14c => AIP14C_KERNEL,
    }
}

/// The encoded arguments of a kernel's constructor; `recovery_grace` in seconds, for the generations
/// that have one.
pub fn kernel_arguments(
    admin: Address,
    pauser: Address,
    fee_recipient: Address,
    agent_registry: Address,
    usdc: Address,
    recovery_grace: Option<U256>,
) -> Vec<u8> {
    let rules = (admin, pauser, fee_recipient, agent_registry, usdc);
    let grace = recovery_grace.map(|grace| grace.abi_encode()).unwrap_or_default();
    [rules.abi_encode_params(), grace].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_artifact_has_an_interface_and_code() {
        for artifact in ALL {
            assert!(artifact.abi().as_array().is_some_and(|abi| !abi.is_empty()), "{artifact:?}");
            assert!(artifact.bytecode().len() > 100, "{artifact:?}");
        }
    }
}
