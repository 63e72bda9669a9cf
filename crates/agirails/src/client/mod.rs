//! The client: one address, one kernel, one method per protocol verb.

mod builder;
#[cfg(feature = "disputes")]
mod disputes;
mod settling;

use std::{fmt, sync::Arc};

use alloy_primitives::{Address, B256, U256};

#[cfg(feature = "disputes")]
pub use self::disputes::Disputes;
pub use self::{
    builder::{ClientBuilder, STATE_DIR_VARIABLE},
    settling::{LeastNet, SettlementLimits},
};
use crate::{
    error::{Code, Error, Result},
    kernel::{
        AgentQuery, AgentRegistry, Attestations, Escrow, Kernel, TransactionQuery, Transition,
        embedded::EmbeddedKernel,
    },
    network::Network,
    protocol::{
        CreateTransaction, DisputeWindow, EventRecord, LinkEscrow, Refusal, State, Transaction,
        TransactionId, Usdc,
        did::Did,
        paid_request::{PaidRequest, Session},
        proof::{
            self, DeliveryAttestation, DeliveryMessage, DeliveryProof, ProofGenerator,
            SignedDelivery, Verification,
        },
        registry::{AgentProfile, ServiceDescriptor, service_type_hash},
        wallet_signature::WalletSignature,
    },
    storage::Storage,
    wall_clock::wall_seconds,
    wallet::{NO_KEY_HINT, Wallet},
};

/// What one transaction on mainnet may be worth: 1_000 USDC. The contracts are unaudited.
pub const MAINNET_LIMIT: Usdc = Usdc(1_000_000_000);

/// What accompanies a transition, as a caller has it.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
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

/// What a provider signs about a delivery (AIP-4). Unset fields are zero or empty; the nonce is 1.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The provider's message number, from 1 on.
    pub nonce: u64,
}

impl Default for DeliveryStatement {
    fn default() -> Self {
        Self {
            transaction_id: TransactionId::ZERO,
            result_cid: String::new(),
            result_hash: B256::ZERO,
            eas_attestation_uid: B256::ZERO,
            delivered_at: None,
            nonce: 1,
        }
    }
}

/// A participant's client. Cheap to clone; clones share the kernel.
#[derive(Clone)]
pub struct ACTPClient {
    kernel: Arc<dyn Kernel>,
    embedded: Option<Arc<EmbeddedKernel>>,
    address: Address,
    wallet: Option<Arc<dyn Wallet>>,
    read_only: bool,
    warnings: Arc<[String]>,
    storage: Storage,
}

impl ACTPClient {
    /// Starts with the defaults: mode mock, state in `.actp/` of the working directory.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client of any kernel. It signs no deliveries; whether it can write, the kernel knows.
    pub fn with_kernel(kernel: Arc<dyn Kernel>, address: Address) -> Self {
        let (warnings, storage) = (Arc::default(), Storage::Directory(".".into()));
        Self { kernel, embedded: None, address, wallet: None, read_only: false, warnings, storage }
    }

    /// The address this client acts for.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The network's name, chain id and contracts.
    pub fn network(&self) -> &Network {
        self.kernel.network()
    }

    /// What its owner should know: on testnet, that the private key lies in the clear.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What whoever connects to this network should know: that its kernel is paused, that it does
    /// not approve the vault. Read once, when this client connected.
    pub fn network_warnings(&self) -> &[String] {
        self.kernel.warnings()
    }

    /// The kernel underneath, for calls on behalf of others.
    pub fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    /// What only the embedded kernel can do: advance time, mint, pause. `None` on a chain.
    pub fn mock(&self) -> Option<&Arc<EmbeddedKernel>> {
        self.embedded.as_ref()
    }

    /// The wallet that signs deliveries and paid requests, if this client has one.
    pub fn wallet(&self) -> Option<&dyn Wallet> {
        self.wallet.as_deref()
    }

    /// Whether this client only reads: it is on a chain and has no key, so every method that
    /// writes fails with [`Code::KeyMissing`].
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Where this client keeps its state. A paywall and a consumer keep theirs beside it.
    pub fn storage(&self) -> &Storage {
        &self.storage
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

    /// The kernel's clock, for a deadline that is signed: a node that names a wrong time would lock
    /// money for as long as it likes.
    ///
    /// # Errors
    /// [`Code::ContradictoryAnswer`] where it and this machine's clock are more than an hour apart,
    /// but on a local chain.
    pub(crate) async fn now_for_deadlines(&self) -> Result<u64> {
        const APART: u64 = 3_600;
        let told = self.now().await?;
        let own = wall_seconds();
        if self.network().is_local() || told.abs_diff(own) <= APART {
            return Ok(told);
        }
        let message = format!(
            "the RPC endpoint says that the chain's time is {told}, and this machine's clock reads \
             {own}: a deadline by the wrong one could lock money for long"
        );
        Err(Error::new(Code::ContradictoryAnswer, message)
            .with_hint("set this machine's clock, or ask another RPC endpoint; nothing was sent"))
    }

    /// Creates a transaction with this client as its requester. No money moves yet.
    ///
    /// # Errors
    /// [`crate::Refusal::AmountBelowMinimum`] and the other refusals of
    /// [`crate::protocol::rules::create`], each naming the value and its bound;
    /// [`Code::AmountAboveLimit`] above [`MAINNET_LIMIT`] on mainnet; on a chain
    /// [`Code::KeyMissing`], here as in every other method that writes, where this client has no
    /// key.
    pub async fn create_transaction(&self, request: &CreateTransaction) -> Result<TransactionId> {
        let sender = self.sender()?;
        self.check_limit(request.amount, None)?;
        self.kernel.create_transaction(sender, request).await
    }

    /// Pays the transaction's amount into escrow: approves exactly what is missing, then links.
    /// Returns the escrow id.
    ///
    /// # Errors
    /// [`Code::AmountAboveLimit`] above [`MAINNET_LIMIT`] on mainnet, and the refusals of
    /// [`crate::protocol::rules::link_escrow`].
    pub async fn link_escrow(&self, id: TransactionId) -> Result<B256> {
        self.link_escrow_as(id, LinkEscrow::default()).await
    }

    /// [`Self::link_escrow`] with another escrow id than the convention's, and a limit to the
    /// amount. Another vault than the network's is never approved: where the kernel takes it, it
    /// needs an allowance of its own.
    ///
    /// # Errors
    /// As [`Self::link_escrow`]; [`Code::ContradictoryAnswer`] where a node says that the
    /// transaction's amount is more than [`LinkEscrow::most`], [`Code::InvalidSettings`] for a vault
    /// that would have to be approved and is not the network's.
    pub async fn link_escrow_as(&self, id: TransactionId, mut link: LinkEscrow) -> Result<B256> {
        let sender = self.sender()?;
        if self.limit().is_some() {
            // It may have been created by another SDK, or quoted up.
            let amount = self.kernel.confirm_transaction(id).await?.amount;
            self.check_limit(amount, Some(id))?;
            link.most = Some(link.most.map_or(amount, |most| most.min(amount)));
        }
        self.kernel.link_escrow(sender, id, link).await
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

    /// What this client's address holds of the chain's own coin, which pays for gas, in wei; `None`
    /// in mode mock, where nothing costs gas.
    pub async fn gas_balance(&self) -> Result<Option<U256>> {
        self.kernel.gas_balance(self.address).await
    }

    /// Makes test USDC out of nothing for this client's address: in mode mock, on Base Sepolia and
    /// on local chains.
    ///
    /// # Errors
    /// [`Code::NetworkUnavailable`] where the money is real, and those of every call that sends.
    ///
    /// ```
    /// use agirails::{ACTPClient, Address, Usdc};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    /// # runtime.block_on(async {
    /// let address = Address::repeat_byte(0xc0);
    /// let client = ACTPClient::builder().address(address).in_memory().connect().await?;
    /// client.mint_test_usdc(Usdc(5_000_000)).await?;
    /// assert_eq!(client.balance().await?, Usdc(1_005_000_000));
    /// # Ok::<(), agirails::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn mint_test_usdc(&self, amount: Usdc) -> Result<()> {
        self.kernel.mint_test_usdc(self.sender()?, self.address, amount).await
    }

    /// How much of this client's USDC the vault may take.
    pub async fn allowance(&self) -> Result<Usdc> {
        self.kernel.allowance(self.address).await
    }

    /// Lets the vault take this much of this client's USDC, in place of what it might before.
    /// [`Self::link_escrow`] and disputes approve by themselves exactly what they need.
    pub async fn approve(&self, amount: Usdc) -> Result<()> {
        self.kernel.approve(self.sender()?, amount).await
    }

    /// Moves a transaction on.
    ///
    /// A delivery takes a delivery proof, whole or in its 96 encoded bytes. The contract
    /// accepts no such bytes there, so the proof is checked, kept ([`Self::get_delivery_proof`])
    /// and replaced by the dispute window that the transaction was created with, from AIP-14c on
    /// with the proof's content hash behind it. There a delivery without a result is refused.
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
                return self.transition(Transition::bare(id, to)).await;
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
        let data = match self.kernel.confirm_transaction(id).await?.dispute_window {
            DisputeWindow::Seconds(seconds) => {
                self.network().terms.encode_delivery(seconds, proof.content_hash)
            }
            // Delivered before: the kernel will say so.
            DisputeWindow::EndsAt(_) => vec![],
        };
        self.transition(Transition { id, to, data, proof: Some(proof) }).await
    }

    /// Returns the money of begun work that its provider abandoned to its requester, in full: once the
    /// deadline and the kernel's grace have passed ([`crate::protocol::Terms::recovered_from`]).
    /// Anybody may ask for it.
    ///
    /// # Errors
    /// [`Code::UnsupportedKernel`] on kernels before F-6, which recover nothing;
    /// [`Refusal::RecoveryNotYetAvailable`] before its time, [`Refusal::NotInProgress`] for what the
    /// provider has not begun, has delivered or has given back.
    ///
    /// Source: `ACTPKernel.recoverStalledInProgress`.
    pub async fn recover_stalled(&self, id: TransactionId) -> Result<()> {
        self.kernel.recover_stalled(self.sender()?, id).await.map(drop)
    }

    /// Disputes a delivery, with a bond of `max_bond` at most, base units of USDC; returns the bond.
    /// It falls to the other party unless the resolver finds that party at fault.
    ///
    /// # Errors
    /// [`Code::PriceAboveLimit`], naming the bond, where it is more than `max_bond`;
    /// [`Code::ContradictoryAnswer`] where the node names another bond, or another vault than the
    /// network's, once it comes to paying: nothing was sent. Else the kernel's, such as
    /// [`crate::Refusal::DisputeWindowClosed`].
    pub async fn dispute(&self, id: TransactionId, max_bond: Usdc) -> Result<Usdc> {
        self.kernel.dispute(self.sender()?, id, max_bond).await
    }

    /// The proof with which the transaction was delivered, if one was given here.
    pub async fn get_delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        self.kernel.delivery_proof(id).await
    }

    /// Accepts the provider's quote: the amount is replaced.
    ///
    /// # Errors
    /// [`Code::AmountAboveLimit`] above [`MAINNET_LIMIT`] on mainnet, and the refusals of
    /// [`crate::protocol::rules::accept_quote`].
    pub async fn accept_quote(&self, id: TransactionId, amount: Usdc) -> Result<()> {
        let sender = self.sender()?;
        self.check_limit(amount, Some(id))?;
        self.kernel.accept_quote(sender, id, amount).await
    }

    /// Pays part of an IN_PROGRESS transaction early; each payout is charged its own fee.
    pub async fn release_milestone(&self, id: TransactionId, amount: Usdc) -> Result<()> {
        self.kernel.release_milestone(self.sender()?, id, amount).await
    }

    /// Pays out what a settled transaction still holds, which is nothing: settling pays.
    pub async fn release_escrow(&self, id: TransactionId) -> Result<()> {
        self.kernel.release_escrow(self.sender()?, id).await
    }

    /// Records an attestation on a settled transaction.
    pub async fn anchor_attestation(&self, id: TransactionId, uid: B256) -> Result<()> {
        self.kernel.anchor_attestation(self.sender()?, id, uid).await
    }

    /// Signs a statement about a delivery of this client, the transaction's provider (AIP-4).
    ///
    /// # Errors
    /// [`Code::KeyMissing`] without a key, [`crate::Refusal::OnlyProvider`] where this client is
    /// not the transaction's provider, and [`Code::InvalidSignature`] where the wallet gives none.
    pub async fn sign_delivery(&self, statement: DeliveryStatement) -> Result<SignedDelivery> {
        let wallet = self.signer("signing a delivery")?;
        let tx = self.own_work(statement.transaction_id).await?;
        let chain_id = self.network().chain_id;
        let message = DeliveryMessage {
            transaction_id: tx.id,
            provider: Did { chain_id, address: tx.provider }.into(),
            consumer: Did { chain_id, address: tx.requester }.into(),
            result_cid: statement.result_cid,
            result_hash: statement.result_hash,
            eas_attestation_uid: statement.eas_attestation_uid,
            delivered_at: self.time_of(statement.delivered_at).await?,
            chain_id,
            nonce: statement.nonce,
        };
        wallet.sign_delivery(message, self.network().kernel).await
    }

    /// Signs a paid request with this client's key, for the header
    /// [`SIGNATURE_HEADER`](crate::protocol::paid_request::SIGNATURE_HEADER). It counts where this
    /// client is the transaction's requester.
    ///
    /// # Errors
    /// [`Code::KeyMissing`] without a key, [`Code::InvalidSignature`] where the wallet gives none.
    pub async fn sign_request(&self, request: &PaidRequest) -> Result<String> {
        let wallet = self.signer("signing a request")?;
        wallet.sign_request(request, self.network().chain_id, self.network().kernel).await
    }

    /// Appoints a session key with this client's key: the signature that
    /// [`SessionKey::appointed`](crate::SessionKey::appointed) takes. It counts where this client is
    /// the transaction's requester.
    ///
    /// # Errors
    /// As [`Self::sign_request`].
    pub async fn sign_session(&self, session: &Session) -> Result<WalletSignature> {
        let wallet = self.signer("appointing a session key")?;
        wallet.sign_session(session, self.network().chain_id, self.network().kernel).await
    }

    /// Attests a delivery of this client, the transaction's provider, on chain (EAS, AIP-4).
    /// Returns the attestation's UID, for [`DeliveryStatement::eas_attestation_uid`].
    ///
    /// The statement's own `eas_attestation_uid` and `nonce` are not attested.
    ///
    /// # Errors
    /// [`Code::NetworkUnavailable`] where the network has no attestation service, which mock has
    /// not; [`Code::KeyMissing`] without a key; [`crate::Refusal::OnlyProvider`] where this client
    /// is not the transaction's provider.
    pub async fn attest_delivery(&self, statement: DeliveryStatement) -> Result<B256> {
        let sender = self.sender()?;
        let attestations = self.attestations()?;
        let tx = self.own_work(statement.transaction_id).await?;
        let delivery = DeliveryAttestation {
            transaction_id: tx.id,
            result_cid: statement.result_cid,
            result_hash: statement.result_hash,
            delivered_at: self.time_of(statement.delivered_at).await?,
        };
        attestations.attest(sender, &delivery).await
    }

    /// Accepts a delivery and pays for it, if everything that is given proves it; else nothing
    /// happens. This is what a careful consumer calls in place of a bare transition to SETTLED.
    ///
    /// The transaction must be DELIVERED and this client its requester; the evidence is checked
    /// as [`Verification::check`] tells. A deliverable is compared with the proof that is given
    /// and with the one that was kept at delivery ([`Self::get_delivery_proof`]). An attestation,
    /// the one that is given or that the signed delivery names, must be the provider's for this
    /// transaction, and speak of the same result.
    ///
    /// # Errors
    /// [`crate::Refusal::OnlyRequester`] and [`crate::Refusal::InvalidTransition`] before anything
    /// is compared. [`Code::ProofMismatch`], [`Code::InvalidSignature`] and
    /// [`Code::InvalidAttestation`] name what differs: do not settle, ask the provider for what it
    /// owes, or dispute within the window. [`Code::InvalidSettings`] where nothing, or only half
    /// of a pair, is given. [`Code::NetworkUnavailable`] for an attestation that this network
    /// cannot check.
    ///
    /// ```
    /// use agirails::{ACTPClient, Address, CreateTransaction, Evidence, PrivateKey, State, Usdc};
    /// use agirails::{DeliveryStatement, protocol::{canonical_json::result_hash, proof::Verification}};
    /// use serde_json::json;
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    /// # runtime.block_on(async {
    /// # let directory = std::env::temp_dir().join(format!("agirails-release-{}", std::process::id()));
    /// # let connect = || ACTPClient::builder().state_directory(&directory);
    /// // A published test key: never fund it.
    /// let key: PrivateKey = format!("{:064x}", 1).parse()?;
    /// let provider = connect().private_key(key).connect().await?;
    /// let consumer = connect().address(Address::repeat_byte(0xc0)).connect().await?;
    /// # let (from, to) = (consumer.address(), provider.address());
    /// # let deadline = consumer.now().await? + 3_600;
    /// # let request = CreateTransaction::new(from, to, Usdc(1_000_000), deadline);
    /// # let id = consumer.create_transaction(&request).await?;
    /// # consumer.link_escrow(id).await?;
    /// # provider.transition_state(id, State::InProgress, Evidence::None).await?;
    /// # provider.transition_state(id, State::Delivered, Evidence::None).await?;
    ///
    /// let result = json!({"text": "a haiku"});
    /// let statement = DeliveryStatement {
    ///     transaction_id: id,
    ///     result_hash: result_hash(&result)?,
    ///     ..DeliveryStatement::default()
    /// };
    /// let signed = provider.sign_delivery(statement).await?;
    ///
    /// let received = |result| Verification {
    ///     signed: Some(signed.clone()),
    ///     result: Some(result),
    ///     ..Verification::default()
    /// };
    /// let error = consumer.release(id, &received(json!("something else"))).await.unwrap_err();
    /// assert_eq!(error.facts().field, Some("resultHash"));
    /// consumer.release(id, &received(result)).await?;
    /// assert_eq!(consumer.get_transaction(id).await?.state, State::Settled);
    /// # std::fs::remove_dir_all(&directory).ok();
    /// # Ok::<(), agirails::Error>(())
    /// # })?;
    /// # Ok::<(), agirails::Error>(())
    /// ```
    ///
    /// Source: AIP-4. V1 kernels settle without looking at any evidence.
    pub async fn release(&self, id: TransactionId, verification: &Verification) -> Result<()> {
        self.sender()?;
        let tx = self.get_transaction(id).await?;
        if tx.requester != self.address {
            return Err(Error::refused(Refusal::OnlyRequester, Some(&tx)));
        }
        if tx.state != State::Delivered {
            return Err(Error::refused(Refusal::InvalidTransition, Some(&tx))
                .with_hint("only what is DELIVERED is released: wait for the delivery"));
        }
        let kept = match verification.deliverable {
            Some(_) => self.get_delivery_proof(id).await?,
            None => None,
        };
        verification.check(&tx, self.network().chain_id, self.network().kernel, kept.as_ref())?;
        if let Some(uid) = verification.attestation_uid() {
            let attested = self.attestations()?.verify(uid, &tx).await?;
            verification.check_attested(&tx, uid, &attested)?;
        }
        self.transition(Transition::bare(id, State::Settled)).await
    }

    /// The address that this client writes for.
    ///
    /// # Errors
    /// [`Code::KeyMissing`] where it only reads ([`Self::is_read_only`]).
    pub fn sender(&self) -> Result<Address> {
        if self.read_only {
            let message = format!("this client of {} has no key, so it only reads", self.address);
            return Err(Error::new(Code::KeyMissing, message).with_hint(NO_KEY_HINT));
        }
        Ok(self.address)
    }

    /// The wallet, for what only a key does.
    fn signer(&self, what: &str) -> Result<&dyn Wallet> {
        self.wallet().ok_or_else(|| {
            Error::new(Code::KeyMissing, format!("{what} needs a private key"))
                .with_hint(format!("in mode mock pass private_key; on a chain {NO_KEY_HINT}"))
        })
    }

    /// The most that one transaction may be worth here.
    fn limit(&self) -> Option<Usdc> {
        self.network().is_mainnet().then_some(MAINNET_LIMIT)
    }

    fn check_limit(&self, amount: Usdc, id: Option<TransactionId>) -> Result<()> {
        match self.limit() {
            Some(limit) if amount > limit => Err(Error::new(
                Code::AmountAboveLimit,
                format!(
                    "{amount} USDC is more than one transaction on mainnet may be worth, {limit}"
                ),
            )
            .with_hint(format!(
                "the contracts are unaudited, so this SDK risks no more than {limit} USDC with one \
                 transaction: split the work into several"
            ))
            .with_facts(|facts| {
                facts.transaction_id = id;
                facts.field = Some("amount");
                facts.value = Some(amount.0.to_string());
                facts.required = Some(amount);
                facts.available = Some(limit);
            })),
            _ => Ok(()),
        }
    }

    fn attestations(&self) -> Result<&dyn Attestations> {
        self.kernel.attestations().ok_or_else(|| {
            let name = &self.network().name;
            let message = format!("the network {name} has no attestation service");
            Error::new(Code::NetworkUnavailable, message).with_hint(
                "attestations are on testnet and mainnet; elsewhere rely on the signed delivery, one \
                 that names no attestation",
            )
        })
    }

    /// A transaction of which this client is provider.
    async fn own_work(&self, id: TransactionId) -> Result<Transaction> {
        let tx = self.get_transaction(id).await?;
        if tx.provider == self.address {
            Ok(tx)
        } else {
            Err(Error::refused(Refusal::OnlyProvider, Some(&tx)))
        }
    }

    async fn time_of(&self, given: Option<u64>) -> Result<u64> {
        match given {
            Some(time) => Ok(time),
            None => self.now().await,
        }
    }

    async fn transition(&self, transition: Transition) -> Result<()> {
        self.kernel.transition_state(self.sender()?, &transition).await.map(drop)
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
    fn registry(&self) -> Result<&dyn AgentRegistry> {
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
        self.registry()?.register_agent(self.client.sender()?, endpoint, services).await
    }

    /// Changes the URL.
    pub async fn update_endpoint(&self, endpoint: &str) -> Result<()> {
        self.registry()?.update_endpoint(self.client.sender()?, endpoint).await
    }

    /// Offers one more service.
    pub async fn add_service_type(&self, service_type: &str) -> Result<()> {
        self.registry()?.add_service_type(self.client.sender()?, service_type).await
    }

    /// Offers a service no longer.
    pub async fn remove_service_type(&self, service_type: &str) -> Result<()> {
        let hash = service_type_hash(service_type)?;
        self.registry()?.remove_service_type(self.client.sender()?, hash).await
    }

    /// Hides or shows this agent in queries.
    pub async fn set_active_status(&self, active: bool) -> Result<()> {
        self.registry()?.set_active_status(self.client.sender()?, active).await
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
