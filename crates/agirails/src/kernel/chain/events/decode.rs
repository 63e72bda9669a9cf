//! From logs of the kernel contract to the protocol's events.

use alloy_primitives::{B256, U256};
use alloy_rpc_types_eth::Log;
use alloy_sol_types::{SolEvent, SolEventInterface};

use crate::{
    error::{Code, Error, Result},
    protocol::{Event, State, Usdc},
};

mod abi {
    alloy_sol_types::sol! {
        interface Kernel {
            event TransactionCreated(bytes32 indexed transactionId, address indexed requester, address indexed provider, uint256 amount, bytes32 serviceHash, uint256 deadline, uint256 timestamp, uint256 agentId);
            event StateTransitioned(bytes32 indexed transactionId, uint8 indexed oldState, uint8 indexed newState, address triggeredBy, uint256 timestamp);
            event EscrowLinked(bytes32 indexed transactionId, address escrowContract, bytes32 escrowId, uint256 amount, uint256 timestamp);
            event EscrowReleased(bytes32 indexed transactionId, address recipient, uint256 amount, uint256 timestamp);
            event EscrowRefunded(bytes32 indexed transactionId, address recipient, uint256 amount, uint256 timestamp);
            event EscrowMilestoneReleased(bytes32 indexed transactionId, uint256 amount, uint256 timestamp);
            event QuoteAccepted(bytes32 indexed transactionId, uint256 oldAmount, uint256 newAmount, uint256 timestamp);
            event PlatformFeeAccrued(bytes32 indexed transactionId, address indexed recipient, uint256 amount, uint256 timestamp);
            event EscrowMediatorPaid(bytes32 indexed transactionId, address indexed mediator, uint256 amount, uint256 timestamp);
            event AttestationAnchored(bytes32 indexed transactionId, bytes32 indexed attestationUID, address attester, uint256 timestamp);
            event DisputeOpened(bytes32 indexed transactionId, address indexed initiator, uint256 bond, uint256 timestamp);
            event DisputeResolved(bytes32 indexed transactionId, bytes32 indexed disputeId, address indexed initiator, bool providerAtFault, uint256 bond, uint256 timestamp);
            event KernelPaused(address indexed by, uint256 timestamp);
            event KernelUnpaused(address indexed by, uint256 timestamp);
        }
    }
}

use abi::Kernel::{self, KernelEvents};

/// The first topic of `TransactionCreated`; its requester is the third, its provider the fourth.
pub(super) const CREATED: B256 = Kernel::TransactionCreated::SIGNATURE_HASH;

/// The event that a log of the kernel stands for; `None` where it is none of the protocol's.
///
/// # Errors
/// [`Code::InvalidAnswer`] where the log claims to be one and is not.
pub(super) fn event(log: &Log) -> Option<Result<Event>> {
    let topics = log.inner.data.topics();
    let signature = topics.first()?;
    KernelEvents::SELECTORS.iter().find(|known| *known == signature)?;
    let decoded = KernelEvents::decode_raw_log(topics, &log.inner.data.data);
    Some(decoded.map_err(|problem| unreadable(log, &problem.to_string())).and_then(|event| {
        translate(event).ok_or_else(|| unreadable(log, "a value is out of its range"))
    }))
}

fn translate(event: KernelEvents) -> Option<Event> {
    let usdc = |amount: U256| u64::try_from(amount).ok().map(Usdc);
    let time = |time: U256| u64::try_from(time).ok();
    let state = |state: u8| State::try_from(u64::from(state)).ok();
    Some(match event {
        KernelEvents::TransactionCreated(e) => Event::TransactionCreated {
            transaction_id: e.transactionId,
            requester: e.requester,
            provider: e.provider,
            amount: usdc(e.amount)?,
            service_hash: e.serviceHash,
            deadline: time(e.deadline)?,
            timestamp: time(e.timestamp)?,
            agent_id: e.agentId,
        },
        KernelEvents::StateTransitioned(e) => Event::StateTransitioned {
            transaction_id: e.transactionId,
            old_state: state(e.oldState)?,
            new_state: state(e.newState)?,
            triggered_by: e.triggeredBy,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::EscrowLinked(e) => Event::EscrowLinked {
            transaction_id: e.transactionId,
            escrow_contract: e.escrowContract,
            escrow_id: e.escrowId,
            amount: usdc(e.amount)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::EscrowReleased(e) => Event::EscrowReleased {
            transaction_id: e.transactionId,
            recipient: e.recipient,
            amount: usdc(e.amount)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::EscrowRefunded(e) => Event::EscrowRefunded {
            transaction_id: e.transactionId,
            recipient: e.recipient,
            amount: usdc(e.amount)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::EscrowMilestoneReleased(e) => Event::EscrowMilestoneReleased {
            transaction_id: e.transactionId,
            amount: usdc(e.amount)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::QuoteAccepted(e) => Event::QuoteAccepted {
            transaction_id: e.transactionId,
            old_amount: usdc(e.oldAmount)?,
            new_amount: usdc(e.newAmount)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::PlatformFeeAccrued(e) => Event::PlatformFeeAccrued {
            transaction_id: e.transactionId,
            recipient: e.recipient,
            amount: usdc(e.amount)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::EscrowMediatorPaid(e) => Event::EscrowMediatorPaid {
            transaction_id: e.transactionId,
            recipient: e.mediator,
            amount: usdc(e.amount)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::AttestationAnchored(e) => Event::AttestationAnchored {
            transaction_id: e.transactionId,
            attestation_uid: e.attestationUID,
            attester: e.attester,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::DisputeOpened(e) => Event::DisputeOpened {
            transaction_id: e.transactionId,
            initiator: e.initiator,
            bond: usdc(e.bond)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::DisputeResolved(e) => Event::DisputeResolved {
            transaction_id: e.transactionId,
            dispute_id: e.disputeId,
            initiator: e.initiator,
            provider_at_fault: e.providerAtFault,
            bond: usdc(e.bond)?,
            timestamp: time(e.timestamp)?,
        },
        KernelEvents::KernelPaused(e) => {
            Event::KernelPaused { by: e.by, timestamp: time(e.timestamp)? }
        }
        KernelEvents::KernelUnpaused(e) => {
            Event::KernelUnpaused { by: e.by, timestamp: time(e.timestamp)? }
        }
    })
}

fn unreadable(log: &Log, problem: &str) -> Error {
    let place = log.block_number.map_or_else(String::new, |block| format!(" in block {block}"));
    Error::new(Code::InvalidAnswer, format!("a log{place} is no event of the kernel: {problem}"))
}
