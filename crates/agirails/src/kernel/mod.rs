//! Whoever keeps the transactions: one trait, so that everything above it is written once.

#[cfg(feature = "chain")]
pub mod chain;
pub mod embedded;
mod errors;

use std::fmt;

use alloy_primitives::{Address, B256, U256};
use async_trait::async_trait;
use serde::Serialize;

#[cfg(feature = "paywall")]
pub(crate) use self::errors::require_agreements;
#[cfg(feature = "keeper")]
pub(crate) use self::errors::require_recovery;
#[cfg(feature = "disputes")]
use crate::protocol::disputes::{Dispute, Ruling};
pub use crate::protocol::proof::DeliveryAttestation;
use crate::{
    error::Result,
    network::Network,
    protocol::{
        CreateTransaction, EventRecord, LinkEscrow, Refusal, State, Transaction, TransactionId,
        Usdc,
        proof::DeliveryProof,
        registry::{AgentProfile, ServiceDescriptor},
        wallet_signature::ContractQuestion,
    },
};

/// A move by `transitionState`, with what it carries and what is kept beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Which transaction.
    pub id: TransactionId,
    /// Where to.
    pub to: State,
    /// What the contract receives.
    pub data: Vec<u8>,
    /// A delivery's proof. The contract never sees it; the kernel keeps it, found again by
    /// [`Kernel::delivery_proof`], from before the transition takes effect.
    pub proof: Option<DeliveryProof>,
}

impl Transition {
    /// A move that carries nothing.
    pub const fn bare(id: TransactionId, to: State) -> Self {
        Self { id, to, data: vec![], proof: None }
    }
}

/// Which transactions, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionQuery {
    /// Whose.
    pub party: Address,
    /// In which role; both where `None`.
    pub role: Option<Role>,
    /// In which state; all where `None`.
    pub state: Option<State>,
    /// How many, 1 … 1_000.
    pub limit: u32,
    /// Read on behind this transaction, the last one of the page before.
    pub after: Option<TransactionId>,
}

impl TransactionQuery {
    /// The newest 100 transactions of a party.
    pub const fn of(party: Address) -> Self {
        Self { party, role: None, state: None, limit: 100, after: None }
    }
}

/// A party's role in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It pays.
    Requester,
    /// It works.
    Provider,
}

/// A vault's record of one escrow. All zero once everything is paid out.
///
/// Source: `EscrowVault.escrows(bytes32)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Escrow {
    /// Who paid in.
    pub requester: Address,
    /// Whom it is for.
    pub provider: Address,
    /// What was paid in.
    pub amount: Usdc,
    /// What has left it.
    pub released: Usdc,
    /// Whether something is left.
    pub active: bool,
}

impl Escrow {
    /// What is left.
    pub const fn remaining(&self) -> Usdc {
        Usdc(self.amount.0.saturating_sub(self.released.0))
    }
}

/// What a sender paid for the gas of a move, in wei of the chain's own coin. 0 where moves cost no gas,
/// and where an earlier call had sent the move already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GasCost(pub u128);

/// What a wallet's contract says of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContractFinding {
    /// There is no contract at that address: only its key signs for it.
    NoContract,
    /// It is not the wallet's signature, or the contract did not say so within its gas.
    Refused,
    /// It is.
    Accepted,
}

/// The most events of one page.
const MOST_EVENTS: u32 = 10_000;

/// Keeps transactions and applies the protocol's rules to every call.
///
/// `sender` is who calls: an address the kernel can act for (the embedded kernel for any, a
/// chain for those whose key it holds). A refused call changes nothing. All errors carry the
/// contract's words where it was the protocol that refused.
#[async_trait]
pub trait Kernel: fmt::Debug + Send + Sync {
    /// Where this kernel runs, at which addresses and on which terms.
    fn network(&self) -> &Network;

    /// The kernel's clock, Unix seconds.
    async fn now(&self) -> Result<u64>;

    /// `getTransaction(bytes32)`.
    async fn get_transaction(&self, id: TransactionId) -> Result<Transaction>;

    /// [`Self::get_transaction`] of several, in their order; `None` for those that the kernel does
    /// not know.
    async fn get_transactions(&self, ids: &[TransactionId]) -> Result<Vec<Option<Transaction>>> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.push(match self.get_transaction(*id).await {
                Ok(transaction) => Some(transaction),
                Err(error) if error.refusal() == Some(Refusal::TxMissing) => None,
                Err(error) => return Err(error),
            });
        }
        Ok(found)
    }

    /// [`Self::get_transaction`], confirmed by as many nodes as the client's setting `agree` says:
    /// for what is served, given back or given up because of it.
    async fn confirm_transaction(&self, id: TransactionId) -> Result<Transaction> {
        self.get_transaction(id).await
    }

    /// A transaction that was read already, with what other nodes say of it where the setting `agree`
    /// asks for more than one.
    async fn confirmed(&self, read: Transaction) -> Result<Transaction> {
        Ok(read)
    }

    /// A party's transactions, newest first, in pages.
    async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>>;

    /// Up to `limit` (1 … 10_000) events behind the cursor, oldest first. 0 is the beginning.
    async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>>;

    /// The events of this second of the kernel's clock, oldest first.
    ///
    /// # Errors
    /// Those of the network; where the kernel has not come to that second, one to try again after.
    async fn events_at(&self, time: u64) -> Result<Vec<EventRecord>> {
        let (mut after, mut found) = (0, vec![]);
        loop {
            let page = self.events(after, MOST_EVENTS).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = last.cursor;
            found.extend(page.into_iter().filter(|one| one.event.timestamp() == Some(time)));
        }
    }

    /// The vault's record of a transaction's escrow.
    async fn escrow(&self, id: TransactionId) -> Result<Escrow>;

    /// The proof that was kept when the transaction was delivered.
    async fn delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>>;

    /// How much USDC an account holds.
    async fn balance(&self, owner: Address) -> Result<Usdc>;

    /// How much USDC the vault may take from an account.
    async fn allowance(&self, owner: Address) -> Result<Usdc>;

    /// Lets the vault take this much USDC from the sender, in place of what it might before.
    async fn approve(&self, sender: Address, amount: Usdc) -> Result<()>;

    /// What an account holds of the chain's own coin, which pays for gas, in wei; `None` where
    /// nothing costs gas.
    async fn gas_balance(&self, owner: Address) -> Result<Option<U256>> {
        let _ = owner;
        Ok(None)
    }

    /// Makes test USDC out of nothing, for `to`.
    ///
    /// # Errors
    /// [`crate::Code::NetworkUnavailable`] where the money is real, or its token cannot be minted.
    async fn mint_test_usdc(&self, sender: Address, to: Address, amount: Usdc) -> Result<()> {
        let _ = (sender, to, amount);
        Err(errors::no_test_money(self.network()))
    }

    /// `createTransaction`.
    async fn create_transaction(
        &self,
        sender: Address,
        request: &CreateTransaction,
    ) -> Result<TransactionId>;

    /// Approves exactly what the vault lacks, then `linkEscrow`. Returns the escrow id.
    async fn link_escrow(
        &self,
        sender: Address,
        id: TransactionId,
        link: LinkEscrow,
    ) -> Result<B256>;

    /// `acceptQuote`.
    async fn accept_quote(&self, sender: Address, id: TransactionId, amount: Usdc) -> Result<()>;

    /// `transitionState`; for a dispute, approves exactly what the bond lacks before, at most the
    /// greatest share of the amount that a kernel can ask for ([`Self::dispute`] takes a limit).
    async fn transition_state(&self, sender: Address, transition: &Transition) -> Result<GasCost>;

    /// Settles a delivery whose dispute window is over, which anybody may do. A kernel on a chain carries
    /// those that are asked for at one moment in one chain transaction, and divides its gas among them.
    async fn settle_due(&self, sender: Address, id: TransactionId) -> Result<GasCost> {
        let settle = Transition::bare(id, State::Settled);
        self.transition_state(sender, &settle).await
    }

    /// What a unit of gas costs now, in wei; `None` where moves cost no gas.
    ///
    /// # Errors
    /// Those of the network.
    async fn gas_price(&self) -> Result<Option<u128>> {
        Ok(None)
    }

    /// Disputes a delivery, with a bond of this much at most; returns the bond.
    async fn dispute(&self, sender: Address, id: TransactionId, max_bond: Usdc) -> Result<Usdc> {
        let bond = errors::agreed_bond(&self.confirm_transaction(id).await?, max_bond)?;
        let dispute = Transition::bare(id, State::Disputed);
        self.transition_state(sender, &dispute).await?;
        Ok(bond)
    }

    /// IN_PROGRESS and DELIVERED, one right behind the other, since in between nobody but the
    /// provider can move the money. `delivery` is the transition to DELIVERED; the transaction is
    /// COMMITTED, or IN_PROGRESS already.
    async fn deliver(&self, sender: Address, delivery: &Transition) -> Result<GasCost> {
        let begin = Transition::bare(delivery.id, State::InProgress);
        let begun = match self.transition_state(sender, &begin).await {
            Ok(cost) => cost,
            Err(error) if error.refusal() == Some(Refusal::NoOp) => GasCost::default(),
            Err(error) => return Err(error),
        };
        let delivered = self.transition_state(sender, delivery).await?;
        Ok(GasCost(begun.0.saturating_add(delivered.0)))
    }

    /// `releaseMilestone`.
    async fn release_milestone(
        &self,
        sender: Address,
        id: TransactionId,
        amount: Usdc,
    ) -> Result<()>;

    /// `releaseEscrow`.
    async fn release_escrow(&self, sender: Address, id: TransactionId) -> Result<()>;

    /// `recoverStalledInProgress`: returns the money of begun work to its requester, once its deadline
    /// and the kernel's grace have passed ([`crate::protocol::Terms::recovered_from`]). Any sender may
    /// ask for it.
    ///
    /// # Errors
    /// [`crate::Code::UnsupportedKernel`] before F-6; else the refusals of
    /// [`crate::protocol::rules::recover_stalled`].
    async fn recover_stalled(&self, sender: Address, id: TransactionId) -> Result<GasCost>;

    /// `anchorAttestation`.
    async fn anchor_attestation(&self, sender: Address, id: TransactionId, uid: B256)
    -> Result<()>;

    /// Asks the contract of a wallet whether a signature is its own (EIP-1271, ERC-6492). What may
    /// be called for it is anybody's code: its gas is bounded.
    ///
    /// # Errors
    /// Those of the network.
    async fn ask_wallet(&self, question: &ContractQuestion) -> Result<ContractFinding> {
        // Without a chain there are no contracts.
        let _ = question;
        Ok(ContractFinding::NoContract)
    }

    /// The agent registry, where the network has one.
    fn registry(&self) -> Option<&dyn AgentRegistry>;

    /// What whoever connects should know: that the kernel is paused, that it does not approve the
    /// vault.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// The attestation service, where the network has one.
    fn attestations(&self) -> Option<&dyn Attestations> {
        None
    }

    /// The contract that decides disputes by bonds.
    ///
    /// # Errors
    /// [`crate::Code::UnsupportedKernel`] where the kernel is older than AIP-14c, and
    /// [`crate::Code::NetworkUnavailable`] where the network has no such contract.
    #[cfg(feature = "disputes")]
    fn bond_escalation(&self) -> Result<&dyn BondEscalation> {
        Err(errors::no_bond_escalation(self.network()))
    }
}

/// The contract that decides disputes by bonds ([`crate::protocol::disputes`]).
///
/// Source: AIP-14c, `BondEscalation`.
#[cfg(feature = "disputes")]
#[async_trait]
pub trait BondEscalation: fmt::Debug + Send + Sync {
    /// `disputes`; `None` where none was opened about this transaction.
    async fn get_dispute(&self, id: TransactionId) -> Result<Option<Dispute>>;

    /// `openDispute`; returns the dispute's number.
    async fn open_dispute(&self, sender: Address, id: TransactionId) -> Result<B256>;

    /// `proposeDirectly`, behind an approval of exactly the bond; returns the bond.
    ///
    /// # Errors
    /// [`crate::Code::PriceAboveLimit`] where it is more than `max_bond`; the refusals of
    /// [`Dispute::check_proposal`].
    async fn propose_ruling(
        &self,
        sender: Address,
        id: TransactionId,
        ruling: Ruling,
        max_bond: Usdc,
    ) -> Result<Usdc>;

    /// `challenge`, behind an approval of exactly the bond; returns the bond.
    ///
    /// # Errors
    /// [`crate::Code::PriceAboveLimit`] where it is more than `max_bond`; the refusals of
    /// [`Dispute::check_challenge`].
    async fn challenge_ruling(
        &self,
        sender: Address,
        id: TransactionId,
        ruling: Ruling,
        max_bond: Usdc,
    ) -> Result<Usdc>;

    /// `finalize`; returns what the sender was paid of the bonds.
    ///
    /// # Errors
    /// The refusals of [`Dispute::check_finalization`].
    async fn finalize_dispute(&self, sender: Address, id: TransactionId) -> Result<Usdc>;

    /// `claimEscalationRefund`; returns what the sender was paid.
    async fn claim_bonds(&self, sender: Address, id: TransactionId) -> Result<Usdc>;

    /// `forceResolveStale`.
    async fn resolve_stale_dispute(&self, sender: Address, id: TransactionId) -> Result<()>;

    /// `syncExternalResolution`.
    async fn sync_resolved_dispute(&self, sender: Address, id: TransactionId) -> Result<()>;
}

/// The service that keeps the providers' attestations of their deliveries.
///
/// Source: AIP-4, Ethereum Attestation Service.
#[async_trait]
pub trait Attestations: fmt::Debug + Send + Sync {
    /// Attests a delivery on chain, for its requester; returns the attestation's UID.
    ///
    /// # Errors
    /// [`crate::Refusal::OnlyProvider`] unless the sender is the transaction's provider, since
    /// nobody would accept it; as every call that sends.
    async fn attest(&self, sender: Address, delivery: &DeliveryAttestation) -> Result<B256>;

    /// Reads an attestation and checks that it attests this transaction's delivery: by its
    /// provider, to its requester, in the delivery schema, neither revoked nor expired.
    ///
    /// What it says of the result (hash, CID, time) is returned for the caller to compare with
    /// what it received.
    ///
    /// # Errors
    /// [`crate::Code::InvalidAttestation`], naming the first thing that differs.
    async fn verify(&self, uid: B256, transaction: &Transaction) -> Result<DeliveryAttestation>;
}

/// Which agents offer a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentQuery {
    /// The service type's hash.
    pub service_type_hash: B256,
    /// The least reputation, 0 … 10_000.
    pub min_reputation: u64,
    /// How many matches to skip.
    pub offset: u64,
    /// How many to return, 1 … 100.
    pub limit: u64,
}

/// The registry in which providers advertise their services.
///
/// Source: AIP-7, `AgentRegistry`.
#[async_trait]
pub trait AgentRegistry: fmt::Debug + Send + Sync {
    /// `registerAgent`.
    async fn register_agent(
        &self,
        sender: Address,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()>;

    /// `updateEndpoint`.
    async fn update_endpoint(&self, sender: Address, endpoint: &str) -> Result<()>;

    /// `addServiceType`.
    async fn add_service_type(&self, sender: Address, service_type: &str) -> Result<()>;

    /// `removeServiceType`.
    async fn remove_service_type(&self, sender: Address, service_type_hash: B256) -> Result<()>;

    /// `setActiveStatus`.
    async fn set_active_status(&self, sender: Address, active: bool) -> Result<()>;

    /// `getAgent`; `None` for an address that never registered.
    async fn get_agent(&self, agent: Address) -> Result<Option<AgentProfile>>;

    /// `getServiceDescriptors`.
    async fn get_service_descriptors(&self, agent: Address) -> Result<Vec<ServiceDescriptor>>;

    /// `supportsService`.
    async fn supports_service(&self, agent: Address, service_type_hash: B256) -> Result<bool>;

    /// `queryAgentsByService`, with the profiles in place of bare addresses: active agents in
    /// the order of their registration.
    async fn query_agents_by_service(&self, query: AgentQuery) -> Result<Vec<AgentProfile>>;
}
