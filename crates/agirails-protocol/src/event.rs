use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

use super::{State, TransactionId, Usdc};

/// What the kernel announces. Names and fields are the contract's; times are Unix seconds. In F-6 and
/// later anybody can trigger a transition to CANCELLED: it is no word of a party's.
///
/// Source: `IACTPKernel`'s events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all_fields = "camelCase")]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the contract's; protocol rows explain them")]
pub enum Event {
    TransactionCreated {
        transaction_id: TransactionId,
        requester: Address,
        provider: Address,
        amount: Usdc,
        service_hash: B256,
        deadline: u64,
        timestamp: u64,
        agent_id: U256,
        /// From AIP-14c on; zero for none.
        #[serde(default, skip_serializing_if = "B256::is_zero")]
        agreement_hash: B256,
    },
    StateTransitioned {
        transaction_id: TransactionId,
        old_state: State,
        new_state: State,
        triggered_by: Address,
        timestamp: u64,
    },
    EscrowLinked {
        transaction_id: TransactionId,
        escrow_contract: Address,
        escrow_id: B256,
        amount: Usdc,
        timestamp: u64,
    },
    EscrowReleased {
        transaction_id: TransactionId,
        recipient: Address,
        amount: Usdc,
        timestamp: u64,
    },
    EscrowRefunded {
        transaction_id: TransactionId,
        recipient: Address,
        amount: Usdc,
        timestamp: u64,
    },
    EscrowMilestoneReleased {
        transaction_id: TransactionId,
        amount: Usdc,
        timestamp: u64,
    },
    QuoteAccepted {
        transaction_id: TransactionId,
        old_amount: Usdc,
        new_amount: Usdc,
        timestamp: u64,
    },
    PlatformFeeAccrued {
        transaction_id: TransactionId,
        recipient: Address,
        amount: Usdc,
        timestamp: u64,
    },
    EscrowMediatorPaid {
        transaction_id: TransactionId,
        recipient: Address,
        amount: Usdc,
        timestamp: u64,
    },
    AttestationAnchored {
        transaction_id: TransactionId,
        attestation_uid: B256,
        attester: Address,
        timestamp: u64,
    },
    DisputeOpened {
        transaction_id: TransactionId,
        initiator: Address,
        bond: Usdc,
        timestamp: u64,
    },
    DisputeResolved {
        transaction_id: TransactionId,
        dispute_id: B256,
        initiator: Address,
        provider_at_fault: bool,
        bond: Usdc,
        timestamp: u64,
    },
    StalledInProgressRecovered {
        transaction_id: TransactionId,
        requester: Address,
        amount: Usdc,
    },
    EscrowVaultRevocationScheduled {
        vault: Address,
        execute_after: u64,
    },
    EscrowVaultRevocationCancelled {
        vault: Address,
    },
    KernelPaused {
        by: Address,
        timestamp: u64,
    },
    KernelUnpaused {
        by: Address,
        timestamp: u64,
    },
}

impl Event {
    /// When it happened, Unix seconds of the kernel's clock; `None` for events that do not say.
    ///
    /// ```
    /// use agirails_protocol::{Address, Event};
    ///
    /// let paused = Event::KernelPaused { by: Address::ZERO, timestamp: 1_790_000_000 };
    /// assert_eq!(paused.timestamp(), Some(1_790_000_000));
    /// ```
    pub const fn timestamp(&self) -> Option<u64> {
        match self {
            Self::TransactionCreated { timestamp, .. }
            | Self::StateTransitioned { timestamp, .. }
            | Self::EscrowLinked { timestamp, .. }
            | Self::EscrowReleased { timestamp, .. }
            | Self::EscrowRefunded { timestamp, .. }
            | Self::EscrowMilestoneReleased { timestamp, .. }
            | Self::QuoteAccepted { timestamp, .. }
            | Self::PlatformFeeAccrued { timestamp, .. }
            | Self::EscrowMediatorPaid { timestamp, .. }
            | Self::AttestationAnchored { timestamp, .. }
            | Self::DisputeOpened { timestamp, .. }
            | Self::DisputeResolved { timestamp, .. }
            | Self::KernelPaused { timestamp, .. }
            | Self::KernelUnpaused { timestamp, .. } => Some(*timestamp),
            Self::StalledInProgressRecovered { .. }
            | Self::EscrowVaultRevocationScheduled { .. }
            | Self::EscrowVaultRevocationCancelled { .. } => None,
        }
    }
}

/// An event and where it stands in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its place; pass it to `events` to read on behind it.
    pub cursor: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
