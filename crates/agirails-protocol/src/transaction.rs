use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

use super::{State, TransactionId, Usdc, rules};

/// A transaction as the kernel keeps it: the fields of `getTransaction(bytes32)`, in its order.
/// Kernels before AIP-14c have 21 of them, without the last two.
///
/// Times are Unix seconds. Zero addresses and hashes mean "not set".
///
/// Source: `IACTPKernel.TransactionView`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// The id.
    #[serde(rename = "transactionId")]
    pub id: TransactionId,
    /// Who pays.
    pub requester: Address,
    /// Who works.
    pub provider: Address,
    /// Where it stands.
    pub state: State,
    /// What the requester pays, base units of USDC.
    pub amount: Usdc,
    /// When it was created.
    pub created_at: u64,
    /// When it last changed.
    pub updated_at: u64,
    /// Until when the provider can deliver.
    pub deadline: u64,
    /// Hash of what was ordered.
    pub service_hash: B256,
    /// The vault that holds the money.
    pub escrow_contract: Address,
    /// The escrow's id in that vault; the transaction's own by convention.
    pub escrow_id: B256,
    /// The attestation that was anchored after settlement.
    #[serde(rename = "attestationUID")]
    pub attestation_uid: B256,
    /// How long, or until when, a delivery can be disputed.
    pub dispute_window: DisputeWindow,
    /// The quote hash, if the provider quoted one.
    pub metadata: B256,
    /// Platform fee rate locked at creation or at the quote's acceptance.
    pub platform_fee_bps_locked: u16,
    /// Cancellation penalty rate locked at creation.
    pub requester_penalty_bps_locked: u16,
    /// Dispute bond rate locked at creation.
    pub dispute_bond_bps_locked: u16,
    /// The provider's ERC-8004 identity, 0 for none.
    pub agent_id: U256,
    /// The requester's ERC-8004 identity, 0 for none.
    pub requester_agent_id: U256,
    /// Who opened the dispute.
    pub dispute_initiator: Address,
    /// The bond that lies in the vault.
    pub dispute_bond: Usdc,
    /// What the delivery committed to, zero before it and on kernels before AIP-14c.
    #[serde(default)]
    pub result_hash: B256,
    /// The agreement that the creation named, zero for none and on kernels before AIP-14c.
    #[serde(default)]
    pub agreement_hash: B256,
}

impl Transaction {
    /// Whether its provider delivered it, whatever became of the delivery since.
    pub fn was_delivered(&self) -> bool {
        match self.state {
            State::Delivered | State::Disputed | State::Settled => true,
            // A resolver gave it back.
            State::Cancelled => !self.dispute_initiator.is_zero(),
            State::Initiated | State::Quoted | State::Committed | State::InProgress => false,
        }
    }
}

/// The kernel's field `disputeWindow`, which changes its meaning at delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DisputeWindow {
    /// Before delivery: how long a delivery can be disputed, in seconds.
    Seconds(u64),
    /// From delivery on: until when it can be disputed, Unix seconds.
    EndsAt(u64),
}

impl DisputeWindow {
    /// Reads the contract's number. Durations end at 30 days and times began in 1970, so the
    /// number itself tells which of the two it is, also where the state does not (CANCELLED).
    pub const fn from_contract(value: u64) -> Self {
        if value <= rules::MAX_DISPUTE_WINDOW_SECONDS {
            Self::Seconds(value)
        } else {
            Self::EndsAt(value)
        }
    }

    /// The contract's number.
    pub const fn to_contract(self) -> u64 {
        match self {
            Self::Seconds(value) | Self::EndsAt(value) => value,
        }
    }

    /// The duration, before delivery.
    pub const fn seconds(self) -> Option<u64> {
        match self {
            Self::Seconds(seconds) => Some(seconds),
            Self::EndsAt(_) => None,
        }
    }

    /// The end, from delivery on.
    pub const fn ends_at(self) -> Option<u64> {
        match self {
            Self::Seconds(_) => None,
            Self::EndsAt(time) => Some(time),
        }
    }
}

/// What a requester asks for. [`CreateTransaction::new`] fills in the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTransaction {
    /// Who works.
    pub provider: Address,
    /// Who pays; must be the sender.
    pub requester: Address,
    /// Base units of USDC, 50_000 … 1e15.
    pub amount: Usdc,
    /// Unix seconds, later than now and at most 365 days away; from F-6 on at least an hour.
    pub deadline: u64,
    /// How long the delivery can be disputed: 3_600 … 2_592_000 seconds.
    pub dispute_window_seconds: u64,
    /// Hash of what is ordered, zero for none.
    pub service_hash: B256,
    /// The provider's ERC-8004 identity, 0 for none.
    pub agent_id: U256,
    /// The requester's ERC-8004 identity, 0 for none.
    pub requester_agent_id: U256,
    /// [`crate::canonical_json::agreement_hash`] of what was agreed, zero for none. Kernels before
    /// AIP-14c take none.
    pub agreement_hash: B256,
}

impl CreateTransaction {
    /// A request with the default dispute window of 2 days, no hashes and no agent ids.
    pub fn new(requester: Address, provider: Address, amount: Usdc, deadline: u64) -> Self {
        Self {
            provider,
            requester,
            amount,
            deadline,
            dispute_window_seconds: rules::DEFAULT_DISPUTE_WINDOW_SECONDS,
            service_hash: B256::ZERO,
            agent_id: U256::ZERO,
            requester_agent_id: U256::ZERO,
            agreement_hash: B256::ZERO,
        }
    }
}

/// Which vault and which id `linkEscrow` is given. The default is the convention: the network's
/// vault, and the transaction's own id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkEscrow {
    /// Another vault than the network's.
    pub escrow_contract: Option<Address>,
    /// Another id than the transaction's. An escrow id can be used once, ever.
    pub escrow_id: Option<B256>,
    /// The most that the vault may take, where the caller knows the transaction's amount: what a
    /// node says above it is refused.
    pub most: Option<Usdc>,
}
