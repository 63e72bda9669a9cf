//! The contracts' interfaces, and what their answers and events mean here.
//!
//! A number that does not fit, or a state that no kernel knows, is an answer that cannot be
//! understood ([`Code::InvalidAnswer`]), never a panic: whoever answers may be anybody.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types_eth::Log;
use alloy_sol_types::{SolCall, SolEvent};

#[cfg(feature = "disputes")]
use crate::protocol::disputes::{Dispute, Ruling, Tier};
use crate::{
    error::{Code, Error, Result},
    kernel::Escrow,
    protocol::{
        CreateTransaction, DisputeWindow, Event, State, Terms, Transaction, Usdc,
        registry::{AgentProfile, ServiceDescriptor},
    },
};

/// The kernel as deployed since 2026-05-19, and what later generations have beside it.
///
/// Source: `IACTPKernel`.
pub(crate) mod kernel {
    alloy_sol_types::sol! {
        struct TransactionView {
            bytes32 transactionId;
            address requester;
            address provider;
            uint8 state;
            uint256 amount;
            uint256 createdAt;
            uint256 updatedAt;
            uint256 deadline;
            bytes32 serviceHash;
            address escrowContract;
            bytes32 escrowId;
            bytes32 attestationUID;
            uint256 disputeWindow;
            bytes32 metadata;
            uint16 platformFeeBpsLocked;
            uint16 requesterPenaltyBpsLocked;
            uint16 disputeBondBpsLocked;
            uint256 agentId;
            uint256 requesterAgentId;
            address disputeInitiator;
            uint256 disputeBond;
            /// From AIP-14c on, as the next one.
            bytes32 resultHash;
            bytes32 agreementHash;
        }

        function createTransaction(
            address provider,
            address requester,
            uint256 amount,
            uint256 deadline,
            uint256 disputeWindow,
            bytes32 serviceHash,
            uint256 agentId,
            uint256 requesterAgentId
        ) returns (bytes32 transactionId);
        function linkEscrow(bytes32 transactionId, address escrowContract, bytes32 escrowId);
        function acceptQuote(bytes32 transactionId, uint256 newAmount);
        function transitionState(bytes32 transactionId, uint8 newState, bytes proof);
        function releaseMilestone(bytes32 transactionId, uint256 amount);
        function releaseEscrow(bytes32 transactionId);
        function anchorAttestation(bytes32 transactionId, bytes32 attestationUID);
        /// From F-6 on.
        function recoverStalledInProgress(bytes32 transactionId);

        function getTransaction(bytes32 transactionId) returns (TransactionView);
        function platformFeeBps() returns (uint16);
        function requesterPenaltyBps() returns (uint16);
        function paused() returns (bool);
        function admin() returns (address);
        function feeRecipient() returns (address);
        function archiveTreasury() returns (address);
        function approvedEscrowVaults(address vault) returns (bool);
        /// From AIP-14c on.
        function pendingVaultRevocationAt(address vault) returns (uint256);
        function USDC() returns (address);
        function disputeBondBps() returns (uint16);
        function recoveryGrace() returns (uint256);
        function kernelVersion() returns (bytes32);

        event TransactionCreated(
            bytes32 indexed transactionId,
            address indexed requester,
            address indexed provider,
            uint256 amount,
            bytes32 serviceHash,
            uint256 deadline,
            uint256 timestamp,
            uint256 agentId
        );
        event StateTransitioned(
            bytes32 indexed transactionId,
            uint8 indexed oldState,
            uint8 indexed newState,
            address triggeredBy,
            uint256 timestamp
        );
        event EscrowLinked(
            bytes32 indexed transactionId,
            address escrowContract,
            bytes32 escrowId,
            uint256 amount,
            uint256 timestamp
        );
        event EscrowReleased(
            bytes32 indexed transactionId, address recipient, uint256 amount, uint256 timestamp
        );
        event EscrowRefunded(
            bytes32 indexed transactionId, address recipient, uint256 amount, uint256 timestamp
        );
        event EscrowMilestoneReleased(
            bytes32 indexed transactionId, uint256 amount, uint256 timestamp
        );
        event QuoteAccepted(
            bytes32 indexed transactionId, uint256 oldAmount, uint256 newAmount, uint256 timestamp
        );
        event PlatformFeeAccrued(
            bytes32 indexed transactionId,
            address indexed recipient,
            uint256 amount,
            uint256 timestamp
        );
        event EscrowMediatorPaid(
            bytes32 indexed transactionId,
            address indexed mediator,
            uint256 amount,
            uint256 timestamp
        );
        event AttestationAnchored(
            bytes32 indexed transactionId,
            bytes32 indexed attestationUID,
            address attester,
            uint256 timestamp
        );
        event DisputeOpened(
            bytes32 indexed transactionId,
            address indexed initiator,
            uint256 bond,
            uint256 timestamp
        );
        event DisputeResolved(
            bytes32 indexed transactionId,
            bytes32 indexed disputeId,
            address indexed initiator,
            bool providerAtFault,
            uint256 bond,
            uint256 timestamp
        );
        event KernelPaused(address indexed by, uint256 timestamp);
        event KernelUnpaused(address indexed by, uint256 timestamp);
        event StalledInProgressRecovered(
            bytes32 indexed transactionId, address indexed requester, uint256 amount
        );
        event EscrowVaultRevocationScheduled(address indexed vault, uint256 executeAfter);
        event EscrowVaultRevocationCancelled(address indexed vault);
    }
}

/// What AIP-14c has in another shape than the kernels before it.
///
/// Source: `IACTPKernel` of 2026-07-13.
pub(crate) mod aip14c {
    alloy_sol_types::sol! {
        function createTransaction(
            address provider,
            address requester,
            uint256 amount,
            uint256 deadline,
            uint256 disputeWindow,
            bytes32 serviceHash,
            bytes32 agreementHash,
            uint256 agentId,
            uint256 requesterAgentId
        ) returns (bytes32 transactionId);

        event TransactionCreated(
            bytes32 indexed transactionId,
            address indexed requester,
            address indexed provider,
            uint256 amount,
            bytes32 serviceHash,
            uint256 deadline,
            uint256 timestamp,
            uint256 agentId,
            bytes32 agreementHash
        );
    }
}

/// The vault. Source: `EscrowVault`.
pub(crate) mod vault {
    alloy_sol_types::sol! {
        function escrows(bytes32 escrowId) returns (
            address requester,
            address provider,
            uint256 amount,
            uint256 releasedAmount,
            bool active
        );
        function kernel() returns (address);
        function token() returns (address);
    }
}

/// USDC, as far as escrows need it. Source: ERC-20.
pub(crate) mod token {
    alloy_sol_types::sol! {
        function balanceOf(address owner) returns (uint256);
        function allowance(address owner, address spender) returns (uint256);
        function approve(address spender, uint256 amount) returns (bool);
        /// Test tokens alone have it.
        function mint(address to, uint256 amount);

        event Transfer(address indexed from, address indexed to, uint256 value);
    }
}

/// What decides disputes by bonds. Source: `BondEscalation` of 2026-07-13.
#[cfg(feature = "disputes")]
pub(crate) mod bond_escalation {
    alloy_sol_types::sol! {
        function openDispute(bytes32 txId) returns (bytes32 disputeId);
        function proposeDirectly(bytes32 disputeId, uint8 ruling, uint16 splitBps);
        function challenge(bytes32 disputeId, uint8 counterRuling, uint16 counterSplitBps);
        function finalize(bytes32 disputeId);
        function claimEscalationRefund(bytes32 disputeId);
        function forceResolveStale(bytes32 disputeId);
        function syncExternalResolution(bytes32 disputeId);
        function kernel() returns (address);
        function USDC() returns (address);
        function disputes(bytes32 disputeId) returns (
            bytes32 transactionId,
            uint8 currentRuling,
            uint16 splitBps,
            uint256 currentBond,
            uint256 accumulatedBonds,
            uint64 livenessEnd,
            uint64 disputedAt,
            address lastProposer,
            uint8 tier,
            bool resolved,
            bool winnerPaid,
            uint256 originalPool,
            uint256 escrowAmount
        );
    }
}

/// The agent registry. Source: AIP-7, `IAgentRegistry`.
pub(crate) mod registry {
    alloy_sol_types::sol! {
        struct Service {
            bytes32 serviceTypeHash;
            string serviceType;
            string schemaURI;
            uint256 minPrice;
            uint256 maxPrice;
            uint256 avgCompletionTime;
            string metadataCID;
        }

        struct Profile {
            address agentAddress;
            string did;
            string endpoint;
            bytes32[] serviceTypes;
            uint256 stakedAmount;
            uint256 reputationScore;
            uint256 totalTransactions;
            uint256 disputedTransactions;
            uint256 totalVolumeUSDC;
            uint256 registeredAt;
            uint256 updatedAt;
            bool isActive;
            bytes32 configHash;
            string configCID;
            bool listed;
        }

        function registerAgent(string endpoint, Service[] services);
        function updateEndpoint(string newEndpoint);
        function addServiceType(string serviceType);
        function removeServiceType(bytes32 serviceTypeHash);
        function setActiveStatus(bool isActive);
        function getAgent(address agentAddress) returns (Profile);
        function getServiceDescriptors(address agentAddress) returns (Service[]);
        function supportsService(address agentAddress, bytes32 serviceTypeHash) returns (bool);
        function queryAgentsByService(
            bytes32 serviceTypeHash, uint256 minReputation, uint256 offset, uint256 limit
        ) returns (address[]);
    }
}

/// Many calls in one chain transaction, each of which may be refused without the others.
///
/// Source: `Multicall3`.
pub(crate) mod multicall {
    alloy_sol_types::sol! {
        struct Call3 {
            address target;
            bool allowFailure;
            bytes callData;
        }
        struct Outcome {
            bool success;
            bytes returnData;
        }

        function aggregate3(Call3[] calls) returns (Outcome[] outcomes);
    }
}

/// The Ethereum Attestation Service. Source: `IEAS`.
pub(crate) mod eas {
    alloy_sol_types::sol! {
        struct AttestationRequestData {
            address recipient;
            uint64 expirationTime;
            bool revocable;
            bytes32 refUID;
            bytes data;
            uint256 value;
        }

        struct AttestationRequest {
            bytes32 schema;
            AttestationRequestData data;
        }

        struct Attestation {
            bytes32 uid;
            bytes32 schema;
            uint64 time;
            uint64 expirationTime;
            uint64 revocationTime;
            bytes32 refUID;
            address recipient;
            address attester;
            bool revocable;
            bytes data;
        }

        function attest(AttestationRequest request) returns (bytes32);
        function getAttestation(bytes32 uid) returns (Attestation);
        function getSchemaRegistry() returns (address);

        event Attested(
            address indexed recipient, address indexed attester, bytes32 uid, bytes32 indexed schemaUID
        );
    }
}

/// One of the network's contracts, and what it is for: errors name both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contract {
    /// Such as `kernel`.
    pub(crate) role: &'static str,
    pub(crate) address: Address,
}

impl Contract {
    /// Reads what this contract returned for a call.
    ///
    /// # Errors
    /// [`Code::ContractMissing`] for nothing at all, which is what an account answers, and
    /// [`Code::InvalidAnswer`] for another shape than the function's.
    pub(crate) fn decode<C: SolCall>(self, data: &[u8]) -> Result<C::Return> {
        if data.is_empty() {
            return Err(self.missing());
        }
        C::abi_decode_returns(data)
            .map_err(|error| self.other_shape(C::SIGNATURE).with_source(error))
    }

    fn other_shape(self, signature: &str) -> Error {
        let Self { role, address } = self;
        let message = format!("the {role} {address} answers {signature} in another shape");
        Error::new(Code::InvalidAnswer, message)
            .with_hint("check the contracts' addresses in the network profile")
    }

    /// Nothing lies there.
    pub(crate) fn missing(self) -> Error {
        let Self { role, address } = self;
        Error::new(
            Code::ContractMissing,
            format!("the {role} {address} is an account, not a contract"),
        )
        .with_hint(
            "check this address in the network profile, and that its rpcUrl belongs to its chain",
        )
        .with_facts(|facts| facts.value = Some(address.to_string()))
    }
}

fn unreadable(field: &str, value: impl std::fmt::Display) -> Error {
    Error::new(Code::InvalidAnswer, format!("the contract's {field} is {value}, which none can be"))
        .with_hint("check the contracts' addresses in the network profile")
}

fn number(field: &'static str, value: U256) -> Result<u64> {
    u64::try_from(value).map_err(|_| unreadable(field, value))
}

fn usdc(field: &'static str, value: U256) -> Result<Usdc> {
    number(field, value).map(Usdc)
}

fn state(field: &'static str, value: u8) -> Result<State> {
    State::try_from(u64::from(value)).map_err(|_| unreadable(field, value))
}

/// What an account owns or allows. Test tokens can be minted without end, and many allow
/// "everything": beyond 64 bits the most that fits stands for more than enough.
pub(crate) fn at_most(value: U256) -> Usdc {
    Usdc(value.saturating_to())
}

impl TryFrom<kernel::TransactionView> for Transaction {
    type Error = Error;

    fn try_from(view: kernel::TransactionView) -> Result<Self> {
        Ok(Self {
            id: view.transactionId,
            requester: view.requester,
            provider: view.provider,
            state: state("state", view.state)?,
            amount: usdc("amount", view.amount)?,
            created_at: number("createdAt", view.createdAt)?,
            updated_at: number("updatedAt", view.updatedAt)?,
            deadline: number("deadline", view.deadline)?,
            service_hash: view.serviceHash,
            escrow_contract: view.escrowContract,
            escrow_id: view.escrowId,
            attestation_uid: view.attestationUID,
            dispute_window: DisputeWindow::from_contract(number(
                "disputeWindow",
                view.disputeWindow,
            )?),
            metadata: view.metadata,
            platform_fee_bps_locked: view.platformFeeBpsLocked,
            requester_penalty_bps_locked: view.requesterPenaltyBpsLocked,
            dispute_bond_bps_locked: view.disputeBondBpsLocked,
            agent_id: view.agentId,
            requester_agent_id: view.requesterAgentId,
            dispute_initiator: view.disputeInitiator,
            dispute_bond: usdc("disputeBond", view.disputeBond)?,
            result_hash: view.resultHash,
            agreement_hash: view.agreementHash,
        })
    }
}

/// Reads a dispute; `None` for the zeros of one that was never opened.
///
/// # Errors
/// [`Code::InvalidAnswer`] for a value that none can have.
#[cfg(feature = "disputes")]
pub(crate) fn dispute(view: bond_escalation::disputesReturn) -> Result<Option<Dispute>> {
    if view.disputedAt == 0 {
        return Ok(None);
    }
    let tier = Tier::from_contract(view.tier).ok_or_else(|| unreadable("tier", view.tier))?;
    // Before the first proposal the fields hold zeros, which are a ruling too.
    let is_ruled = tier != Tier::Opened || view.resolved;
    let ruling = match Ruling::from_contract(view.currentRuling, view.splitBps) {
        Some(ruling) => is_ruled.then_some(ruling),
        None => {
            let ruling = format!("{} with {} bps", view.currentRuling, view.splitBps);
            return Err(unreadable("currentRuling", ruling));
        }
    };
    Ok(Some(Dispute {
        transaction_id: view.transactionId,
        tier,
        ruling,
        bond: usdc("currentBond", view.currentBond)?,
        pool: usdc("accumulatedBonds", view.accumulatedBonds)?,
        liveness_end: view.livenessEnd,
        disputed_at: view.disputedAt,
        last_proposer: Some(view.lastProposer).filter(|proposer| *proposer != Address::ZERO),
        resolved: view.resolved,
        winner_paid: view.winnerPaid,
        original_pool: usdc("originalPool", view.originalPool)?,
        escrow: usdc("escrowAmount", view.escrowAmount)?,
    }))
}

/// The bytes of a view that has every field.
const LONGEST_VIEW: usize = 23 * 32;

/// How many words a kernel's view of a transaction has: the last two fields came with AIP-14c.
pub(crate) const fn view_words(terms: Terms) -> usize {
    if terms.takes_agreements() { 23 } else { 21 }
}

/// Reads a kernel's view of a transaction.
///
/// # Errors
/// As [`Contract::decode`]: [`Code::InvalidAnswer`] for a view of another length, or a value that none can have.
pub(crate) fn transaction(core: Contract, terms: Terms, view: &[u8]) -> Result<Transaction> {
    if view.is_empty() {
        return Err(core.missing());
    }
    if view.len() != 32 * view_words(terms) {
        return Err(core.other_shape(kernel::getTransactionCall::SIGNATURE));
    }
    // Fields that a generation lacks are zero.
    let mut words = view.to_vec();
    words.resize(LONGEST_VIEW, 0);
    core.decode::<kernel::getTransactionCall>(&words)?.try_into()
}

/// The call that creates a transaction on a kernel of these terms.
pub(crate) fn creation(request: &CreateTransaction, terms: Terms) -> Bytes {
    let &CreateTransaction { provider, requester, .. } = request;
    let amount = U256::from(request.amount.0);
    let deadline = U256::from(request.deadline);
    let window = U256::from(request.dispute_window_seconds);
    let (agent, requester_agent) = (request.agent_id, request.requester_agent_id);
    let call = if terms.takes_agreements() {
        aip14c::createTransactionCall {
            provider,
            requester,
            amount,
            deadline,
            disputeWindow: window,
            serviceHash: request.service_hash,
            agreementHash: request.agreement_hash,
            agentId: agent,
            requesterAgentId: requester_agent,
        }
        .abi_encode()
    } else {
        kernel::createTransactionCall {
            provider,
            requester,
            amount,
            deadline,
            disputeWindow: window,
            serviceHash: request.service_hash,
            agentId: agent,
            requesterAgentId: requester_agent,
        }
        .abi_encode()
    };
    call.into()
}

impl TryFrom<vault::escrowsReturn> for Escrow {
    type Error = Error;

    fn try_from(record: vault::escrowsReturn) -> Result<Self> {
        Ok(Self {
            requester: record.requester,
            provider: record.provider,
            amount: usdc("escrow amount", record.amount)?,
            released: usdc("releasedAmount", record.releasedAmount)?,
            active: record.active,
        })
    }
}

impl From<&ServiceDescriptor> for registry::Service {
    fn from(service: &ServiceDescriptor) -> Self {
        Self {
            serviceTypeHash: service.service_type_hash,
            serviceType: service.service_type.clone(),
            schemaURI: service.schema_uri.clone(),
            minPrice: U256::from(service.min_price.0),
            maxPrice: U256::from(service.max_price.0),
            avgCompletionTime: U256::from(service.avg_completion_time_seconds),
            metadataCID: service.metadata_cid.clone(),
        }
    }
}

impl TryFrom<registry::Service> for ServiceDescriptor {
    type Error = Error;

    fn try_from(service: registry::Service) -> Result<Self> {
        Ok(Self {
            service_type_hash: service.serviceTypeHash,
            service_type: service.serviceType,
            schema_uri: service.schemaURI,
            min_price: usdc("minPrice", service.minPrice)?,
            max_price: usdc("maxPrice", service.maxPrice)?,
            avg_completion_time_seconds: number("avgCompletionTime", service.avgCompletionTime)?,
            metadata_cid: service.metadataCID,
        })
    }
}

impl TryFrom<registry::Profile> for AgentProfile {
    type Error = Error;

    fn try_from(profile: registry::Profile) -> Result<Self> {
        Ok(Self {
            agent_address: profile.agentAddress,
            did: profile.did,
            endpoint: profile.endpoint,
            service_types: profile.serviceTypes,
            staked_amount: usdc("stakedAmount", profile.stakedAmount)?,
            reputation_score: number("reputationScore", profile.reputationScore)?,
            total_transactions: number("totalTransactions", profile.totalTransactions)?,
            disputed_transactions: number("disputedTransactions", profile.disputedTransactions)?,
            total_volume: usdc("totalVolumeUSDC", profile.totalVolumeUSDC)?,
            registered_at: number("registeredAt", profile.registeredAt)?,
            updated_at: number("updatedAt", profile.updatedAt)?,
            is_active: profile.isActive,
            config_hash: profile.configHash,
            config_cid: profile.configCID,
            listed: profile.listed,
        })
    }
}

/// The first topics of `TransactionCreated`, before AIP-14c and since; its requester is the third
/// topic, its provider the fourth.
pub(crate) const CREATED: [B256; 2] =
    [kernel::TransactionCreated::SIGNATURE_HASH, aip14c::TransactionCreated::SIGNATURE_HASH];

/// Reads a log of the kernel; `None` where it is none of the protocol's events.
///
/// # Errors
/// [`Code::InvalidAnswer`] where its topics or data are not that event's.
pub(crate) fn event(log: &Log) -> Option<Result<Event>> {
    let signature = *log.inner.data.topics().first()?;
    let read = READERS.iter().find(|(known, _)| *known == signature)?.1;
    Some(read(log))
}

pub(super) type ReadLog = fn(&Log) -> Result<Event>;

macro_rules! readers {
    ($($module:ident::$event:ident($log:ident) => $meaning:expr;)*) => {
        pub(super) const READERS: &[(B256, ReadLog)] = &[$((
            $module::$event::SIGNATURE_HASH,
            |log| {
                let $log = $module::$event::decode_log_data(&log.inner.data).map_err(|error| {
                    let message = format!("a log {} is malformed", $module::$event::SIGNATURE);
                    Error::new(Code::InvalidAnswer, message)
                        .with_hint("ask another RPC endpoint")
                        .with_source(error)
                })?;
                Ok($meaning)
            },
        ),)*];
    };
}

readers! {
    kernel::TransactionCreated(log) => Event::TransactionCreated {
        transaction_id: log.transactionId,
        requester: log.requester,
        provider: log.provider,
        amount: usdc("amount", log.amount)?,
        service_hash: log.serviceHash,
        deadline: number("deadline", log.deadline)?,
        timestamp: number("timestamp", log.timestamp)?,
        agent_id: log.agentId,
        agreement_hash: B256::ZERO,
    };
    aip14c::TransactionCreated(log) => Event::TransactionCreated {
        transaction_id: log.transactionId,
        requester: log.requester,
        provider: log.provider,
        amount: usdc("amount", log.amount)?,
        service_hash: log.serviceHash,
        deadline: number("deadline", log.deadline)?,
        timestamp: number("timestamp", log.timestamp)?,
        agent_id: log.agentId,
        agreement_hash: log.agreementHash,
    };
    kernel::StateTransitioned(log) => Event::StateTransitioned {
        transaction_id: log.transactionId,
        old_state: state("oldState", log.oldState)?,
        new_state: state("newState", log.newState)?,
        triggered_by: log.triggeredBy,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::EscrowLinked(log) => Event::EscrowLinked {
        transaction_id: log.transactionId,
        escrow_contract: log.escrowContract,
        escrow_id: log.escrowId,
        amount: usdc("amount", log.amount)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::EscrowReleased(log) => Event::EscrowReleased {
        transaction_id: log.transactionId,
        recipient: log.recipient,
        amount: usdc("amount", log.amount)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::EscrowRefunded(log) => Event::EscrowRefunded {
        transaction_id: log.transactionId,
        recipient: log.recipient,
        amount: usdc("amount", log.amount)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::EscrowMilestoneReleased(log) => Event::EscrowMilestoneReleased {
        transaction_id: log.transactionId,
        amount: usdc("amount", log.amount)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::QuoteAccepted(log) => Event::QuoteAccepted {
        transaction_id: log.transactionId,
        old_amount: usdc("oldAmount", log.oldAmount)?,
        new_amount: usdc("newAmount", log.newAmount)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::PlatformFeeAccrued(log) => Event::PlatformFeeAccrued {
        transaction_id: log.transactionId,
        recipient: log.recipient,
        amount: usdc("amount", log.amount)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::EscrowMediatorPaid(log) => Event::EscrowMediatorPaid {
        transaction_id: log.transactionId,
        recipient: log.mediator,
        amount: usdc("amount", log.amount)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::AttestationAnchored(log) => Event::AttestationAnchored {
        transaction_id: log.transactionId,
        attestation_uid: log.attestationUID,
        attester: log.attester,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::DisputeOpened(log) => Event::DisputeOpened {
        transaction_id: log.transactionId,
        initiator: log.initiator,
        bond: usdc("bond", log.bond)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::DisputeResolved(log) => Event::DisputeResolved {
        transaction_id: log.transactionId,
        dispute_id: log.disputeId,
        initiator: log.initiator,
        provider_at_fault: log.providerAtFault,
        bond: usdc("bond", log.bond)?,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::KernelPaused(log) => Event::KernelPaused {
        by: log.by,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::KernelUnpaused(log) => Event::KernelUnpaused {
        by: log.by,
        timestamp: number("timestamp", log.timestamp)?,
    };
    kernel::StalledInProgressRecovered(log) => Event::StalledInProgressRecovered {
        transaction_id: log.transactionId,
        requester: log.requester,
        amount: usdc("amount", log.amount)?,
    };
    kernel::EscrowVaultRevocationScheduled(log) => Event::EscrowVaultRevocationScheduled {
        vault: log.vault,
        execute_after: number("executeAfter", log.executeAfter)?,
    };
    kernel::EscrowVaultRevocationCancelled(log) => Event::EscrowVaultRevocationCancelled {
        vault: log.vault,
    };
}

#[cfg(test)]
mod tests {
    use alloy_primitives::LogData;
    use alloy_sol_types::SolValue;

    use super::*;
    use crate::protocol::Generation;

    const WIDE: U256 = U256::from_limbs([0, 1, 0, 0]);

    fn log(data: LogData) -> Log {
        let inner = alloy_primitives::Log { address: Address::ZERO, data };
        Log { inner, ..Default::default() }
    }

    fn view() -> kernel::TransactionView {
        kernel::TransactionView::abi_decode(&[0; LONGEST_VIEW]).unwrap()
    }

    #[test]
    fn a_view_has_the_length_that_its_generation_gives_it() {
        let contract = Contract { role: "kernel", address: Address::repeat_byte(0xa1) };
        let (window, hash) = (U256::from(3_600), B256::repeat_byte(7));
        let view = kernel::TransactionView { state: 4, disputeWindow: window, ..view() };
        let view = kernel::TransactionView { resultHash: hash, agreementHash: hash, ..view };
        let words = view.abi_encode();
        let read = |terms, words: &[u8]| transaction(contract, terms, words);
        let aip14c = Terms::new(Generation::Aip14c, 3_600);
        for (terms, length, hash) in [
            (Terms::MAY_2026, 21, B256::ZERO),
            (Terms::new(Generation::F6, 3_600), 21, B256::ZERO),
            (aip14c, 23, hash),
        ] {
            let tx = read(terms, &words[..32 * length]).unwrap();
            assert_eq!(tx.state, State::Delivered);
            assert_eq!(tx.dispute_window, DisputeWindow::Seconds(3_600));
            assert_eq!((tx.result_hash, tx.agreement_hash), (hash, hash));
            // Those before May 2026 have 15 and 19 fields.
            for other in [15, 19, 20, 22, 44 - length] {
                let words = [words.as_slice(), &words].concat();
                let error = read(terms, &words[..32 * other]).unwrap_err();
                assert_eq!(error.code(), Code::InvalidAnswer);
            }
            assert_eq!(read(terms, &[]).unwrap_err().code(), Code::ContractMissing);
        }
    }

    /// The words of `disputes(bytes32)`: of its transaction 7, with every field set.
    #[cfg(feature = "disputes")]
    fn dispute_view(ruling: u64, split: u64, tier: u64) -> Result<Option<Dispute>> {
        let [resolved, paid] = [0, 0];
        let words = [7, ruling, split, 2, 3, 4, 5, 6, tier, resolved, paid, 8, 9];
        let words: Vec<_> =
            words.into_iter().flat_map(|word| U256::from(word).to_be_bytes::<32>()).collect();
        let escalation = Contract { role: "bond escalation", address: Address::repeat_byte(1) };
        dispute(escalation.decode::<bond_escalation::disputesCall>(&words)?)
    }

    #[cfg(feature = "disputes")]
    #[test]
    fn a_dispute_is_read_in_each_tier_and_what_none_can_be_is_an_error() {
        let split = Ruling::Split { provider_bps: 2_500 };
        let oracle = dispute_view(2, 2_500, 2).unwrap().unwrap();
        let expected = Dispute {
            transaction_id: B256::from(U256::from(7)),
            tier: Tier::Oracle,
            ruling: Some(split),
            bond: Usdc(2),
            pool: Usdc(3),
            liveness_end: 4,
            disputed_at: 5,
            last_proposer: Some(Address::with_last_byte(6)),
            resolved: false,
            winner_paid: false,
            original_pool: Usdc(8),
            escrow: Usdc(9),
        };
        assert_eq!(oracle, expected);
        assert_eq!((oracle.next_bond(), oracle.finalized_from()), (None, None));
        let opened = dispute_view(0, 0, 0).unwrap().unwrap();
        assert_eq!((opened.tier, opened.ruling), (Tier::Opened, None));
        for (ruling, split, tier) in [(3, 0, 1), (1, 1, 1), (2, 10_001, 1), (0, 0, 3)] {
            let error = dispute_view(ruling, split, tier).unwrap_err();
            assert_eq!(error.code(), Code::InvalidAnswer, "{error:?}");
        }
        // Zeros are a dispute that nobody opened.
        let escalation = Contract { role: "bond escalation", address: Address::repeat_byte(1) };
        let zeros = escalation.decode::<bond_escalation::disputesCall>(&[0; 13 * 32]).unwrap();
        assert_eq!(dispute(zeros), Ok(None));
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_no_panic() {
        for view in [
            kernel::TransactionView { state: 8, ..view() },
            kernel::TransactionView { amount: WIDE, ..view() },
            kernel::TransactionView { deadline: WIDE, ..view() },
            kernel::TransactionView { disputeWindow: WIDE, ..view() },
        ] {
            let error = Transaction::try_from(view).unwrap_err();
            assert_eq!(error.code(), Code::InvalidAnswer);
            assert!(error.hint().is_some());
        }
        assert_eq!(at_most(U256::MAX), Usdc(u64::MAX));
    }

    #[test]
    fn answers_of_accounts_and_of_other_contracts_are_told_apart() {
        let contract = Contract { role: "kernel", address: Address::repeat_byte(0xa1) };
        let decode = |data: &[u8]| contract.decode::<kernel::getTransactionCall>(data);
        let error = decode(&[]).map(drop).unwrap_err();
        assert_eq!(error.code(), Code::ContractMissing);
        assert!(error.to_string().contains("kernel 0xA1"), "{error}");
        let error = decode(&[0; 32]).map(drop).unwrap_err();
        assert_eq!(error.code(), Code::InvalidAnswer);
        assert!(decode(&[0; LONGEST_VIEW]).is_ok());
    }

    #[test]
    fn logs_become_events() {
        let (id, by) = (B256::repeat_byte(1), Address::repeat_byte(2));
        let raw = kernel::StateTransitioned {
            transactionId: id,
            oldState: 2,
            newState: 3,
            triggeredBy: by,
            timestamp: U256::from(7),
        };
        let expected = Event::StateTransitioned {
            transaction_id: id,
            old_state: State::Committed,
            new_state: State::InProgress,
            triggered_by: by,
            timestamp: 7,
        };
        assert_eq!(event(&log(raw.encode_log_data())).unwrap().unwrap(), expected);
        let raw = kernel::EscrowMediatorPaid {
            transactionId: id,
            mediator: by,
            amount: U256::from(5),
            timestamp: U256::from(7),
        };
        let expected = Event::EscrowMediatorPaid {
            transaction_id: id,
            recipient: by,
            amount: Usdc(5),
            timestamp: 7,
        };
        assert_eq!(event(&log(raw.encode_log_data())).unwrap().unwrap(), expected);
    }

    #[test]
    fn foreign_logs_are_passed_over_and_broken_ones_are_errors() {
        assert_eq!(event(&log(LogData::default())), None);
        let foreign = LogData::new_unchecked(vec![B256::repeat_byte(9)], Default::default());
        assert_eq!(event(&log(foreign)), None);
        assert_eq!(READERS.len(), 18);
        for (signature, _) in READERS {
            let broken = LogData::new_unchecked(vec![*signature], vec![1].into());
            let error = event(&log(broken)).unwrap().unwrap_err();
            assert_eq!(error.code(), Code::InvalidAnswer);
        }
    }
}
