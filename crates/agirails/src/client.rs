//! The client: one address, one kernel, one method per protocol verb.

use std::{fmt, path::PathBuf, sync::Arc};

use alloy_primitives::{Address, B256};

use crate::{
    error::{Code, Error, Result},
    kernel::{
        AgentQuery, Escrow, Kernel, TransactionQuery, Transition,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    network::{Mode, Network},
    protocol::{
        CreateTransaction, DisputeWindow, EventRecord, LinkEscrow, State, Transaction,
        TransactionId, Usdc,
        did::Did,
        proof::{self, DeliveryMessage, DeliveryProof, ProofGenerator, SignedDelivery},
        registry::{AgentProfile, ServiceDescriptor, service_type_hash},
    },
    storage::Storage,
    wallet::PrivateKey,
};

/// The environment variable that names the state directory.
pub const STATE_DIR_VARIABLE: &str = "ACTP_STATE_DIR";

/// How to connect; made by [`ACTPClient::builder`].
#[derive(Debug, Default)]
pub struct ClientBuilder {
    mode: Mode,
    address: Option<Address>,
    key: Option<PrivateKey>,
    state_directory: Option<PathBuf>,
    in_memory: bool,
    starting_balance: Option<Usdc>,
}

impl ClientBuilder {
    /// Which network. Default: [`Mode::Mock`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The address this client acts for. Default: the private key's.
    pub fn address(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// The key that signs. In mode mock nothing needs one but signed proofs.
    pub fn private_key(mut self, key: PrivateKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Where `.actp/` with the state lies. Default: `ACTP_STATE_DIR`, else the working directory.
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_directory = Some(directory.into());
        self
    }

    /// Mode mock: keep everything in memory, for this client and its clones alone.
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    /// Mode mock: what an address owns the first time it is seen. Default: 1_000 USDC; zero
    /// switches it off. A state file keeps the amount it was created with.
    pub fn starting_balance(mut self, amount: Usdc) -> Self {
        self.starting_balance = Some(amount);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] where neither address nor key is given, [`Code::KeyMismatch`]
    /// where they disagree, [`Code::NetworkUnavailable`] for a network this version cannot
    /// reach, and the storage codes where the state directory cannot be used.
    pub async fn connect(self) -> Result<ACTPClient> {
        let address = self.resolve_address()?;
        if self.mode != Mode::Mock {
            return Err(Error::new(
                Code::NetworkUnavailable,
                format!("mode {:?} is not available in this version", self.mode.as_str()),
            )
            .with_hint(
                "use mode \"mock\", the protocol on this machine; chains come with a later version",
            ));
        }
        let storage = match (self.in_memory, self.state_directory) {
            (true, None) => Storage::Memory,
            (false, Some(directory)) => Storage::Directory(directory),
            (false, None) => Storage::Directory(default_state_directory()),
            (true, Some(_)) => {
                return Err(Error::new(
                    Code::InvalidSettings,
                    "in_memory and state_directory contradict each other",
                )
                .with_hint("pass one of them"));
            }
        };
        let options = EmbeddedOptions { storage, starting_balance: self.starting_balance };
        let embedded = EmbeddedKernel::open(options).await?;
        embedded.greet(address).await?;
        let embedded = Arc::new(embedded);
        Ok(ACTPClient {
            kernel: embedded.clone(),
            embedded: Some(embedded),
            address,
            key: self.key.map(Arc::new),
        })
    }

    fn resolve_address(&self) -> Result<Address> {
        match (self.address, &self.key) {
            (Some(address), Some(key)) if key.address() != address => Err(Error::new(
                Code::KeyMismatch,
                format!("the private key belongs to {}, not to {address}", key.address()),
            )
            .with_hint("pass the key's own address, or the key of this address")),
            (Some(address), _) => Ok(address),
            (None, Some(key)) => Ok(key.address()),
            (None, None) => Err(Error::new(
                Code::InvalidSettings,
                "neither an address nor a private key was given",
            )
            .with_hint("pass requester_address, or the private key it belongs to")),
        }
    }
}

fn default_state_directory() -> PathBuf {
    let named = std::env::var_os(STATE_DIR_VARIABLE).filter(|value| !value.is_empty());
    named.map_or_else(|| ".".into(), PathBuf::from)
}

/// What accompanies a transition, as a caller has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Evidence {
    /// Nothing.
    #[default]
    None,
    /// Bytes for the contract: a quote hash, an encoded window, a resolution. For a delivery,
    /// 96 bytes are an encoded delivery proof.
    Bytes(Vec<u8>),
    /// A delivery proof.
    Proof(DeliveryProof),
}

impl From<&[u8]> for Evidence {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<DeliveryProof> for Evidence {
    fn from(proof: DeliveryProof) -> Self {
        Self::Proof(proof)
    }
}

/// What a provider signs about a delivery (AIP-4). Unset fields are zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryStatement {
    /// Which transaction.
    pub transaction_id: TransactionId,
    /// Where the result lies (IPFS CID), empty for nowhere.
    pub result_cid: String,
    /// [`crate::protocol::canonical_json::result_hash`] of the result.
    pub result_hash: B256,
    /// The EAS attestation, zero for none.
    pub eas_attestation_uid: B256,
    /// When it was delivered, Unix seconds; the kernel's clock where `None`.
    pub delivered_at: Option<u64>,
    /// The provider's message number.
    pub nonce: u64,
}

/// A participant's client. Cheap to clone; clones share the kernel.
#[derive(Clone)]
pub struct ACTPClient {
    kernel: Arc<dyn Kernel>,
    embedded: Option<Arc<EmbeddedKernel>>,
    address: Address,
    key: Option<Arc<PrivateKey>>,
}

impl ACTPClient {
    /// Starts with the defaults: mode mock, state in `.actp/` of the working directory.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client of any kernel.
    pub fn with_kernel(kernel: Arc<dyn Kernel>, address: Address) -> Self {
        Self { kernel, embedded: None, address, key: None }
    }

    /// The address this client acts for.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The network's name, chain id and contracts.
    pub fn network(&self) -> &Network {
        self.kernel.network()
    }

    /// The kernel underneath, for calls on behalf of others.
    pub fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    /// What only the embedded kernel can do: advance time, mint, pause. `None` on a chain.
    pub fn mock(&self) -> Option<&Arc<EmbeddedKernel>> {
        self.embedded.as_ref()
    }

    /// Makes and checks delivery proofs.
    pub fn proof_generator(&self) -> ProofGenerator {
        ProofGenerator
    }

    /// The agent registry; `None` where the network has none.
    pub fn registry(&self) -> Option<RegistryClient> {
        self.kernel.registry().map(|_| RegistryClient { client: self.clone() })
    }

    /// The kernel's clock, Unix seconds.
    pub async fn now(&self) -> Result<u64> {
        self.kernel.now().await
    }

    /// Creates a transaction with this client as its requester. No money moves yet.
    ///
    /// # Errors
    /// [`crate::Refusal::AmountBelowMinimum`] and the other refusals of
    /// [`crate::protocol::rules::create`], each naming the value and its bound.
    pub async fn create_transaction(&self, request: &CreateTransaction) -> Result<TransactionId> {
        self.kernel.create_transaction(self.address, request).await
    }

    /// Pays the transaction's amount into escrow: approves exactly what is missing, then links.
    /// Returns the escrow id.
    pub async fn link_escrow(&self, id: TransactionId) -> Result<B256> {
        self.link_escrow_as(id, LinkEscrow::default()).await
    }

    /// [`Self::link_escrow`] with another vault or escrow id than the convention's.
    pub async fn link_escrow_as(&self, id: TransactionId, link: LinkEscrow) -> Result<B256> {
        self.kernel.link_escrow(self.address, id, link).await
    }

    /// Reads a transaction.
    pub async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
        self.kernel.get_transaction(id).await
    }

    /// A party's transactions, newest first, in pages.
    pub async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
        self.kernel.find_transactions(query).await
    }

    /// Up to `limit` events behind the cursor, oldest first. 0 is the beginning.
    pub async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        self.kernel.events(after, limit).await
    }

    /// The vault's record of a transaction's escrow.
    pub async fn escrow(&self, id: TransactionId) -> Result<Escrow> {
        self.kernel.escrow(id).await
    }

    /// The USDC of this client's address.
    pub async fn balance(&self) -> Result<Usdc> {
        self.kernel.balance(self.address).await
    }

    /// Moves a transaction on.
    ///
    /// A delivery takes a delivery proof, whole or in its 96 encoded bytes. The contract
    /// accepts no such bytes there, so the proof is checked, kept ([`Self::get_delivery_proof`])
    /// and replaced by the dispute window that the transaction was created with.
    ///
    /// # Errors
    /// [`Code::ProofMismatch`] where the proof is another transaction's, and the refusals of
    /// [`crate::protocol::rules::transition`].
    pub async fn transition_state(
        &self,
        id: TransactionId,
        to: State,
        evidence: Evidence,
    ) -> Result<()> {
        let proof = match evidence {
            Evidence::Proof(proof) if to == State::Delivered => proof,
            Evidence::Proof(proof) => {
                return Err(Error::new(
                    Code::InvalidProof,
                    format!("a delivery proof goes with DELIVERED, not with {to}"),
                )
                .with_facts(|facts| facts.transaction_id = Some(proof.transaction_id))
                .with_hint("pass nothing, or what this transition carries"));
            }
            Evidence::Bytes(bytes)
                if to == State::Delivered && bytes.len() == proof::ENCODED_PROOF_LENGTH =>
            {
                self.proof_generator().decode_proof(&bytes)?.into()
            }
            Evidence::Bytes(data) => {
                return self.transition(Transition { id, to, data, proof: None }).await;
            }
            Evidence::None => {
                return self.transition(Transition { id, to, data: vec![], proof: None }).await;
            }
        };
        if proof.transaction_id != id {
            return Err(Error::new(
                Code::ProofMismatch,
                format!(
                    "the delivery proof is of transaction {}, not of {id}",
                    proof.transaction_id
                ),
            )
            .with_facts(|facts| facts.transaction_id = Some(id))
            .with_hint("generate the proof with this transaction's id"));
        }
        let data = match self.get_transaction(id).await?.dispute_window {
            DisputeWindow::Seconds(seconds) => proof::encode_window(seconds).to_vec(),
            // Delivered before: the kernel will say so.
            DisputeWindow::EndsAt(_) => vec![],
        };
        self.transition(Transition { id, to, data, proof: Some(proof) }).await
    }

    /// The proof with which the transaction was delivered, if one was given here.
    pub async fn get_delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        self.kernel.delivery_proof(id).await
    }

    /// Accepts the provider's quote: the amount is replaced.
    pub async fn accept_quote(&self, id: TransactionId, amount: Usdc) -> Result<()> {
        self.kernel.accept_quote(self.address, id, amount).await
    }

    /// Pays part of an IN_PROGRESS transaction early; each payout is charged its own fee.
    pub async fn release_milestone(&self, id: TransactionId, amount: Usdc) -> Result<()> {
        self.kernel.release_milestone(self.address, id, amount).await
    }

    /// Pays out what a settled transaction still holds, which is nothing: settling pays.
    pub async fn release_escrow(&self, id: TransactionId) -> Result<()> {
        self.kernel.release_escrow(self.address, id).await
    }

    /// Records an attestation on a settled transaction.
    pub async fn anchor_attestation(&self, id: TransactionId, uid: B256) -> Result<()> {
        self.kernel.anchor_attestation(self.address, id, uid).await
    }

    /// Signs a statement about a delivery of this client, the transaction's provider (AIP-4).
    ///
    /// # Errors
    /// [`Code::KeyMissing`] without a private key, and [`crate::Refusal::OnlyProvider`] where
    /// this client is not the transaction's provider.
    pub async fn sign_delivery(&self, statement: DeliveryStatement) -> Result<SignedDelivery> {
        let key = self.key.as_ref().ok_or_else(|| {
            Error::new(Code::KeyMissing, "signing a delivery needs a private key")
                .with_hint("pass private_key when the client is made")
        })?;
        let tx = self.get_transaction(statement.transaction_id).await?;
        if tx.provider != self.address {
            return Err(Error::refused(crate::Refusal::OnlyProvider, Some(&tx)));
        }
        let delivered_at = match statement.delivered_at {
            Some(time) => time,
            None => self.now().await?,
        };
        let chain_id = self.network().chain_id;
        let message = DeliveryMessage {
            transaction_id: tx.id,
            provider: Did { chain_id, address: tx.provider },
            consumer: Did { chain_id, address: tx.requester },
            result_cid: statement.result_cid,
            result_hash: statement.result_hash,
            eas_attestation_uid: statement.eas_attestation_uid,
            delivered_at,
            chain_id,
            nonce: statement.nonce,
        };
        message.sign(key, self.network().kernel)
    }

    async fn transition(&self, transition: Transition) -> Result<()> {
        self.kernel.transition_state(self.address, &transition).await
    }
}

impl fmt::Debug for ACTPClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ACTPClient")
            .field("network", &self.network().name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// This client's view of the agent registry (AIP-7).
#[derive(Debug, Clone)]
pub struct RegistryClient {
    client: ACTPClient,
}

impl RegistryClient {
    fn registry(&self) -> Result<&dyn crate::kernel::AgentRegistry> {
        self.client.kernel.registry().ok_or_else(|| {
            Error::new(Code::NetworkUnavailable, "this network has no agent registry")
        })
    }

    /// Registers this client's address with the URL it is reached at and what it offers.
    pub async fn register_agent(
        &self,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()> {
        self.registry()?.register_agent(self.client.address, endpoint, services).await
    }

    /// Changes the URL.
    pub async fn update_endpoint(&self, endpoint: &str) -> Result<()> {
        self.registry()?.update_endpoint(self.client.address, endpoint).await
    }

    /// Offers one more service.
    pub async fn add_service_type(&self, service_type: &str) -> Result<()> {
        self.registry()?.add_service_type(self.client.address, service_type).await
    }

    /// Offers a service no longer.
    pub async fn remove_service_type(&self, service_type: &str) -> Result<()> {
        let hash = service_type_hash(service_type)?;
        self.registry()?.remove_service_type(self.client.address, hash).await
    }

    /// Hides or shows this agent in queries.
    pub async fn set_active_status(&self, active: bool) -> Result<()> {
        self.registry()?.set_active_status(self.client.address, active).await
    }

    /// An agent's profile; `None` where the address never registered.
    pub async fn get_agent(&self, agent: Address) -> Result<Option<AgentProfile>> {
        self.registry()?.get_agent(agent).await
    }

    /// [`Self::get_agent`] by DID; `None` also for an agent of another chain.
    pub async fn get_agent_by_did(&self, did: &str) -> Result<Option<AgentProfile>> {
        let did: Did = did.parse()?;
        if did.chain_id != self.client.network().chain_id {
            return Ok(None);
        }
        self.get_agent(did.address).await
    }

    /// What an agent offers, in its own words.
    pub async fn get_service_descriptors(&self, agent: Address) -> Result<Vec<ServiceDescriptor>> {
        self.registry()?.get_service_descriptors(agent).await
    }

    /// Whether an agent offers a service.
    pub async fn supports_service(&self, agent: Address, service_type: &str) -> Result<bool> {
        let hash = service_type_hash(service_type)?;
        self.registry()?.supports_service(agent, hash).await
    }

    /// The first 100 active agents that offer a service, in the order of their registration.
    pub async fn get_agents_by_service(&self, service_type: &str) -> Result<Vec<AgentProfile>> {
        let service_type_hash = service_type_hash(service_type)?;
        let query = AgentQuery { service_type_hash, min_reputation: 0, offset: 0, limit: 100 };
        self.query_agents_by_service(query).await
    }

    /// Active agents by service and reputation, in pages.
    pub async fn query_agents_by_service(&self, query: AgentQuery) -> Result<Vec<AgentProfile>> {
        self.registry()?.query_agents_by_service(query).await
    }
}
