//! The kernel on Base, or on any EVM chain that has its contracts. Modes `testnet` and `mainnet`.

pub(crate) mod attestations;
mod connect;
pub(crate) mod contracts;
#[cfg(feature = "disputes")]
mod disputes;
pub(crate) mod events;
mod final_states;
mod funding;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod generation;
pub(crate) mod lens;
pub(crate) mod min_block;
mod proof_store;
pub(crate) mod reader;
mod registry;
pub(crate) mod reverts;
pub(crate) mod rpc;
pub(crate) mod sender;
mod settling;
mod signatures;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use alloy_network::TxSigner;
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

pub use self::events::{EventStream, Position, Update, WatchOptions};
use self::{
    contracts::{Contract, at_most, kernel as abi, token, vault, view_words},
    events::Logs,
    final_states::FinalStates,
    lens::{Answer, Read},
    min_block::MinBlock,
    proof_store::{ProofStore, open_file},
    reader::{Doubt, Reader},
    rpc::{Call, Rpc, RpcSettings, parse},
    sender::{GasLimit, Mined, Operation, Sender, SenderSettings},
    settling::Settling,
};
#[cfg(feature = "disputes")]
use super::BondEscalation;
use super::{
    AgentRegistry, Attestations, ContractFinding, Escrow, GasCost, Kernel, TransactionQuery,
    Transition,
    errors::{
        agreed_bond, check_agreement, check_limit, contradiction, missing, no_test_money,
        refused_creation, require_recovery,
    },
};
use crate::{
    error::{Code, Error, Result, Retry},
    network::{MAINNET_CHAIN_ID, Network, NetworkProfile, TESTNET_CHAIN_ID},
    protocol::{
        CreateTransaction, Event, EventRecord, LinkEscrow, Refusal, State, Terms, Transaction,
        TransactionId, Usdc,
        proof::{DeliveryProof, Resolution},
        rules::Rates,
        wallet_signature::ContractQuestion,
    },
    storage::Storage,
    wallet::Wallet,
};

/// How long all tries of one request may take together.
const PATIENCE: Duration = Duration::from_secs(20);
/// Gas for DELIVERED right behind IN_PROGRESS, before which it cannot be estimated: measured
/// 71,029 at most, and what is not used is not paid.
const DELIVER_GAS: u64 = 150_000;
/// Searching for a state asks for at least so many transactions at once.
const SEARCH_PAGE: u32 = 100;

/// How to connect a [`ChainKernel`]. [`ChainSettings::new`] fills in the rest.
#[derive(Clone)]
pub struct ChainSettings {
    /// Which chain, and where its contracts lie.
    pub profile: NetworkProfile,
    /// Who signs. The kernel acts for their addresses; without any it reads.
    pub wallets: Vec<Arc<dyn Wallet>>,
    /// Where the journal of what was sent and the delivery proofs are kept. Processes that sign
    /// for the same address must share it.
    pub storage: Storage,
    /// In how many blocks a transaction must stand before a call returns, 1 being its own.
    /// Default: 1.
    pub confirmations: u64,
    /// How long a call waits for its transaction before it ends in [`Code::OutcomeUnknown`].
    /// Default: 120 seconds.
    pub wait_timeout: Duration,
    /// The most that is offered for gas, wei per unit. Default: 50 gwei.
    pub max_fee_per_gas: u128,
    /// The most of it that goes to whoever includes a transaction, wei per unit. Default: 0.1 gwei
    /// on Base and Base Sepolia, 2 gwei elsewhere.
    pub max_priority_fee_per_gas: u128,
    /// How many endpoints must say the same about a transaction before it is served, and before
    /// what was served is given back or given up. Default: the profile's, else 2 on Base where two
    /// or more are named, else 1.
    pub agree: Option<u32>,
    /// How long an endpoint may take for one request. Default: 10 seconds.
    pub request_timeout: Duration,
}

impl ChainSettings {
    /// Reading only, with the defaults; state in `.actp/` of the working directory.
    pub fn new(profile: NetworkProfile) -> Self {
        let max_priority_fee_per_gas = match profile.chain_id {
            MAINNET_CHAIN_ID | TESTNET_CHAIN_ID => 100_000_000,
            _ => 2_000_000_000,
        };
        Self {
            profile,
            wallets: vec![],
            storage: Storage::Directory(".".into()),
            confirmations: 1,
            wait_timeout: Duration::from_secs(120),
            max_fee_per_gas: 50_000_000_000,
            max_priority_fee_per_gas,
            agree: None,
            request_timeout: Duration::from_secs(10),
        }
    }

    fn senders(&self) -> Vec<Address> {
        self.wallets.iter().map(|wallet| TxSigner::address(wallet.as_ref())).collect()
    }
}

/// Shows whose wallets there are, and nothing else of them. URLs of nodes hold keys: not shown.
impl fmt::Debug for ChainSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainSettings")
            .field("network", &self.profile.name)
            .field("wallets", &self.senders())
            .field("storage", &self.storage)
            .finish_non_exhaustive()
    }
}

/// The protocol on a chain. It acts for the addresses whose wallets it holds.
///
/// A call that changes something returns once its transaction stands in a block. Where that cannot
/// be found out in time it fails with [`Code::OutcomeUnknown`]: the same call, made again by this or
/// another process of the same state directory, finds out instead of sending twice.
pub struct ChainKernel {
    network: Network,
    rates: Rates,
    eas_schema: Option<B256>,
    /// How many endpoints must say the same of what is served, given back or given up.
    agree: usize,
    warnings: Vec<String>,
    senders: HashSet<Address>,
    reader: Reader,
    sender: Arc<Sender>,
    /// Where the network has a contract that carries many calls.
    settling: Option<Settling>,
    logs: Logs,
    final_states: FinalStates,
    proofs: ProofStore,
}

impl ChainKernel {
    /// Connects, in one round trip: looks whether the chain is the profile's and whether its
    /// contracts are what they should be.
    ///
    /// # Errors
    /// [`Code::WrongChain`], [`Code::ContractMissing`] and [`Code::UnsupportedKernel`], each naming
    /// what was found; [`Code::InvalidSettings`] for a profile that contradicts the contracts; those
    /// of the network; and the storage codes where the state directory cannot be used.
    pub async fn connect(settings: ChainSettings) -> Result<Self> {
        let profile = &settings.profile;
        let rpc = Rpc::new(RpcSettings {
            urls: profile.rpc_urls.clone(),
            request_timeout: settings.request_timeout,
            patience: PATIENCE,
        })?;
        let agree = agreeing(settings.agree, profile, rpc.distinct_endpoints())?;
        let connect::Found { network, rates, warnings } = connect::look(&rpc, profile).await?;
        let file =
            open_file(settings.storage.clone(), profile.chain_id, profile.contracts.actp_kernel)
                .await?;
        let senders = settings.senders().into_iter().collect();
        let min_block = Arc::new(MinBlock::default());
        let sending = SenderSettings {
            confirmations: settings.confirmations,
            wait_timeout: settings.wait_timeout,
            max_fee_per_gas: settings.max_fee_per_gas,
            max_tip: settings.max_priority_fee_per_gas,
        };
        let sender = Sender::new(
            rpc.clone(),
            file.clone(),
            profile.chain_id,
            settings.wallets.iter().cloned(),
            sending,
            min_block.clone(),
        );
        let sender = Arc::new(sender);
        let reader = Reader::new(rpc.clone(), min_block);
        let settling = profile.contracts.multicall.map(|multicall| {
            Settling::new(network.kernel, multicall, reader.clone(), sender.clone())
        });
        let first_block = profile.deployment_block.unwrap_or_default();
        Ok(Self {
            network,
            rates,
            eas_schema: profile.eas_schema,
            agree,
            warnings,
            senders,
            reader,
            logs: Logs::new(rpc, profile.contracts.actp_kernel, first_block, file.clone()),
            sender,
            settling,
            final_states: FinalStates::default(),
            proofs: ProofStore::new(file),
        })
    }

    /// The rates that new transactions locked when this kernel connected. A transaction's own are
    /// among its fields.
    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// The protocol's events as they come, from a place on; those that a reorganisation takes
    /// back are taken back.
    ///
    /// ```no_run
    /// use agirails::{NetworkProfile, Position, Update, WatchOptions, kernel::chain::{ChainKernel, ChainSettings}};
    ///
    /// # async fn example() -> agirails::Result<()> {
    /// let kernel = ChainKernel::connect(ChainSettings::new(NetworkProfile::testnet())).await?;
    /// let from = "41725690:0".parse::<Position>()?;
    /// let mut events = kernel.watch(WatchOptions { from, ..WatchOptions::default() });
    /// loop {
    ///     match events.next().await? {
    ///         Update::Event(record) => println!("{:?}; go on from {}", record.event, events.position()),
    ///         Update::TakenBack { after, .. } => println!("void: all behind {after}"),
    ///         Update::Progress { block, head, .. } => println!("read up to {block} of {head}"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    pub fn watch(&self, options: WatchOptions) -> EventStream {
        self.logs.watch(options)
    }

    fn kernel(&self) -> Contract {
        Contract { role: "kernel", address: self.network.kernel }
    }

    fn usdc(&self) -> Contract {
        Contract { role: "USDC token", address: self.network.usdc }
    }

    fn read_transaction(&self, id: TransactionId) -> Read {
        let call = abi::getTransactionCall { transactionId: id };
        Read::new(self.kernel(), &call, view_words(self.network.terms))
    }

    fn read_balance(&self, owner: Address) -> Read {
        Read::new(self.usdc(), &token::balanceOfCall { owner }, 1)
    }

    fn read_allowance(&self, owner: Address, spender: Address) -> Read {
        Read::new(self.usdc(), &token::allowanceCall { owner, spender }, 1)
    }

    /// # Errors
    /// [`Code::KeyMissing`] where no wallet signs for this address.
    fn require_wallet(&self, sender: Address) -> Result<()> {
        if self.senders.contains(&sender) {
            return Ok(());
        }
        let held = match self.senders.len() {
            0 => "no key at all".to_owned(),
            1 => self.senders.iter().map(|held| format!("the key of {held} only")).collect(),
            count => format!("the keys of {count} others"),
        };
        Err(Error::new(
            Code::KeyMissing,
            format!("acting for {sender} needs its key, and this client has {held}"),
        )
        .with_hint(
            "pass private_key or a keystore when the client is made; without one it can only read",
        )
        .with_facts(|facts| {
            facts.field = Some("sender");
            facts.value = Some(sender.to_string());
        }))
    }

    /// One call of one contract, in one chain transaction.
    async fn send(
        &self,
        sender: Address,
        what: &'static str,
        to: Address,
        call: &impl SolCall,
    ) -> Result<Mined> {
        self.send_data(sender, what, to, call.abi_encode().into()).await
    }

    async fn send_data(
        &self,
        sender: Address,
        what: &'static str,
        to: Address,
        data: Bytes,
    ) -> Result<Mined> {
        self.require_wallet(sender)?;
        self.send_all(vec![Operation { what, from: sender, to, data, gas: GasLimit::Estimate }])
            .await
    }

    /// What became of the last operation, on which the others led up to.
    async fn send_all(&self, operations: Vec<Operation>) -> Result<Mined> {
        self.sender.send(operations).await?.pop().ok_or_else(|| {
            Error::new(Code::Internal, "a chain transaction was lost between sender and kernel")
                .with_hint("please report this")
        })
    }

    /// One call of the kernel about a transaction, whose refusal tells what the embedded kernel's
    /// does.
    async fn call(
        &self,
        sender: Address,
        what: &'static str,
        id: TransactionId,
        call: &impl SolCall,
    ) -> Result<Mined> {
        match self.send(sender, what, self.network.kernel, call).await {
            Ok(mined) => Ok(mined),
            Err(error) => Err(self.tell(error, id).await),
        }
    }

    /// The same error with what it speaks of: the transaction, read anew after a refusal.
    async fn tell(&self, error: Error, id: TransactionId) -> Error {
        let sent = error.sent();
        let told = match error.refusal() {
            None => {
                error.with_facts(|facts| facts.transaction_id = facts.transaction_id.or(Some(id)))
            }
            Some(Refusal::KernelPaused | Refusal::AttestationMissing) => error,
            Some(Refusal::TxMissing) => missing(id),
            Some(refusal) => match self.get_transaction(id).await {
                Ok(transaction) => Error::refused(refusal, Some(&transaction)),
                // The refusal tells more than that it could not be looked into.
                Err(_) => Error::refused(refusal, None),
            },
        };
        told.with_sent(sent)
    }

    /// A move whose proof is kept from before it is sent, and taken back where it was refused.
    async fn keeping(
        &self,
        sender: Address,
        transition: &Transition,
        step: impl Future<Output = Result<GasCost>> + Send,
    ) -> Result<GasCost> {
        let kept = match &transition.proof {
            Some(proof) => {
                self.require_wallet(sender)?;
                Some(self.proofs.keep(transition.id, proof).await?)
            }
            None => None,
        };
        let outcome = step.await;
        if let (Err(error), Some(kept)) = (&outcome, kept)
            && error.retry() != Retry::CheckFirst
            && let Err(trouble) = self.proofs.take_back(kept).await
        {
            // The refusal is what the caller has to know.
            tracing::warn!(%trouble, id = %transition.id, "a proof of a refused delivery stays");
        }
        outcome
    }

    async fn begin_and_deliver(&self, sender: Address, delivery: &Transition) -> Result<GasCost> {
        let id = delivery.id;
        let operation = |call: abi::transitionStateCall, gas| Operation {
            what: "transitionState",
            from: sender,
            to: self.network.kernel,
            data: call.abi_encode().into(),
            gas,
        };
        let begin = Transition::bare(id, State::InProgress);
        let begin = operation(transition_call(&begin), GasLimit::Estimate);
        let end = operation(transition_call(delivery), GasLimit::AtMost(DELIVER_GAS));
        // Asked before anything is looked at: once an earlier call is mined, this one would be
        // refused as a repetition.
        match self.sender.resume(end.clone()).await {
            Ok(Some(mined)) => return Ok(mined.gas_cost),
            Ok(None) => {}
            // It moved nothing; whether it can be done now, the chain says.
            Err(error) if error.retry() == Retry::Never => {
                tracing::debug!(%error, %id, "the earlier delivery failed; looking anew");
            }
            Err(error) => return Err(self.tell(error, id).await),
        }
        match self.sender.send(vec![begin, end]).await {
            Ok(mined) => Ok(GasCost(mined.iter().map(|mined| mined.gas_cost.0).sum())),
            // Begun before: the delivery alone is missing.
            Err(error) if error.refusal() == Some(Refusal::NoOp) => {
                self.step(sender, delivery).await
            }
            Err(error) => Err(self.tell(error, id).await),
        }
    }

    async fn step(&self, sender: Address, transition: &Transition) -> Result<GasCost> {
        let Transition { id, to, data, .. } = transition;
        let call = transition_call(transition);
        if *to == State::Disputed {
            return self.dispute_with(sender, *id, &call, None).await;
        }
        let error = match self.call(sender, "transitionState", *id, &call).await {
            Ok(mined) => return Ok(mined.gas_cost),
            Err(error) => error,
        };
        // Deployed kernels read a resolution with Solidity's decoder, which has no words.
        if error.code() == Code::Reverted
            && matches!(to, State::Settled | State::Cancelled)
            && let Err(refusal) = Resolution::decode(data)
            && let Ok(transaction) = self.get_transaction(*id).await
            && transaction.state == State::Disputed
        {
            let sent = error.sent();
            return Err(Error::refused(refusal, Some(&transaction))
                .with_sent(sent)
                .with_source(error));
        }
        Err(error)
    }
}

/// How many endpoints must agree.
///
/// # Errors
/// [`Code::InvalidSettings`] where fewer are named.
fn agreeing(set: Option<u32>, profile: &NetworkProfile, endpoints: usize) -> Result<usize> {
    let default = if profile.chain_id == MAINNET_CHAIN_ID && endpoints > 1 { 2 } else { 1 };
    let agree = set.or(profile.agree).unwrap_or(default);
    if (1..=endpoints).contains(&(agree as usize)) {
        return Ok(agree as usize);
    }
    let problem =
        format!("must be 1 … {endpoints}, the number of RPC endpoints on different hosts");
    Err(Error::invalid(Code::InvalidSettings, "agree", &agree.to_string(), &problem)
        .with_hint("name more URLs in rpc_url, of nodes that are run by different people"))
}

fn transition_call(transition: &Transition) -> abi::transitionStateCall {
    abi::transitionStateCall {
        transactionId: transition.id,
        newState: transition.to as u8,
        proof: transition.data.clone().into(),
    }
}

/// `None` for an unknown id.
fn read_or_missing(
    answer: &Answer,
    terms: Terms,
    id: TransactionId,
) -> Result<Option<Transaction>> {
    match answer.transaction(terms) {
        Ok(transaction) if transaction.id != id => Err(contradiction(format!(
            "asked about transaction {id}, the RPC endpoint answers about {}",
            transaction.id
        ))),
        Ok(transaction) => Ok(Some(transaction)),
        Err(error) if error.refusal() == Some(Refusal::TxMissing) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same refusal, naming the argument that it refuses.
fn with_value(
    error: Error,
    refusals: &[Refusal],
    field: &'static str,
    value: impl fmt::Display,
) -> Error {
    match error.refusal() {
        Some(refusal) if refusals.contains(&refusal) => {
            let sent = error.sent();
            Error::refused_value(refusal, field, value).with_sent(sent)
        }
        _ => error,
    }
}

impl fmt::Debug for ChainKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainKernel")
            .field("network", &self.network)
            .field("senders", &self.senders)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Kernel for ChainKernel {
    fn network(&self) -> &Network {
        &self.network
    }

    /// The newest block's time.
    async fn now(&self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Head {
            timestamp: U64,
        }
        let calls = vec![Call::new("eth_getBlockByNumber", json!(["latest", false]))];
        let head = self.reader.ask(calls, Doubt::Everything).await?.pop();
        let head = head.ok_or_else(lens::strange)?.map_err(|refused| reverts::explain(&refused))?;
        let head: Head = parse("eth_getBlockByNumber", &head)?;
        Ok(head.timestamp.to())
    }

    async fn gas_price(&self) -> Result<Option<u128>> {
        let calls = vec![Call::new("eth_gasPrice", json!([]))];
        let price = self.reader.ask(calls, Doubt::Refusals).await?.pop();
        let price =
            price.ok_or_else(lens::strange)?.map_err(|refused| reverts::explain(&refused))?;
        Ok(Some(parse::<U256>("eth_gasPrice", &price)?.saturating_to()))
    }

    async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
        let answer = self.reader.read(&self.read_transaction(id)).await?;
        read_or_missing(&answer, self.network.terms, id)?.ok_or_else(|| missing(id))
    }

    /// One round trip for some 250 transactions.
    async fn get_transactions(&self, ids: &[TransactionId]) -> Result<Vec<Option<Transaction>>> {
        let reads: Vec<_> = ids.iter().map(|id| self.read_transaction(*id)).collect();
        let answers = match reads.as_slice() {
            [single] => vec![self.reader.read(single).await?],
            _ => self.reader.read_many(&reads).await?,
        };
        answers
            .iter()
            .zip(ids)
            .map(|(answer, id)| read_or_missing(answer, self.network.terms, *id))
            .collect()
    }

    async fn confirm_transaction(&self, id: TransactionId) -> Result<Transaction> {
        if self.agree < 2 {
            return self.get_transaction(id).await;
        }
        let (read, terms) = (self.read_transaction(id), self.network.terms);
        let same = |one: &Answer, other: &Answer| {
            let views = (read_or_missing(one, terms, id), read_or_missing(other, terms, id));
            matches!(views, (Ok(one), Ok(other)) if one == other)
        };
        let told = |answer: &Answer| match read_or_missing(answer, terms, id) {
            Ok(Some(transaction)) => format!("is {}", transaction.state),
            Ok(None) => "is missing".to_owned(),
            Err(error) => format!("cannot be read ({error})"),
        };
        let answer = self.reader.read_agreed(&read, self.agree, same).await?;
        let answer = answer.map_err(|answers| {
            let told: Vec<_> = answers
                .iter()
                .map(|(endpoint, answer)| format!("{endpoint} says that it {}", told(answer)))
                .collect();
            contradiction(format!(
                "the RPC endpoints disagree about transaction {id}: {}",
                told.join("; ")
            ))
            .with_facts(|facts| facts.transaction_id = Some(id))
        })?;
        read_or_missing(&answer, self.network.terms, id)?.ok_or_else(|| missing(id))
    }

    async fn confirmed(&self, read: Transaction) -> Result<Transaction> {
        if self.agree < 2 {
            return Ok(read);
        }
        self.confirm_transaction(read.id).await
    }

    async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
        check_limit(query.limit, 1_000)?;
        let wanted = query.limit as usize;
        let (mut page, mut found) = (*query, Vec::new());
        while found.len() < wanted {
            page.limit = (wanted - found.len()) as u32;
            if query.state.is_some() {
                page.limit = page.limit.max(SEARCH_PAGE);
            }
            let ids = self.logs.created(&page).await?;
            let Some(last) = ids.last() else { break };
            page.after = Some(*last);
            let is_last = ids.len() < page.limit as usize;
            let is_wanted = |id: &TransactionId| {
                query.state.is_none_or(|state| self.final_states.may_be(*id, state))
            };
            let ids: Vec<_> = ids.into_iter().filter(is_wanted).collect();
            for transaction in self.get_transactions(&ids).await?.into_iter().flatten() {
                self.final_states.note(transaction.id, transaction.state, transaction.updated_at);
                if query.state.is_none_or(|state| transaction.state == state) {
                    found.push(transaction);
                }
            }
            if is_last {
                break;
            }
        }
        found.truncate(wanted);
        Ok(found)
    }

    async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        check_limit(limit, 10_000)?;
        self.logs.events(after, limit).await
    }

    async fn events_at(&self, time: u64) -> Result<Vec<EventRecord>> {
        self.logs.at(time).await
    }

    async fn escrow(&self, id: TransactionId) -> Result<Escrow> {
        let by = |address| Contract { role: "vault", address };
        let own = by(self.network.vault);
        // The convention, so that one round trip nearly always suffices.
        let reads =
            [self.read_transaction(id), Read::new(own, &vault::escrowsCall { escrowId: id }, 5)];
        let answers = self.reader.read_many(&reads).await?;
        let [transaction, record] = answers.as_slice() else { return Err(lens::strange()) };
        let transaction =
            read_or_missing(transaction, self.network.terms, id)?.ok_or_else(|| missing(id))?;
        let Transaction { escrow_contract, escrow_id, .. } = transaction;
        if escrow_contract == Address::ZERO {
            return Ok(Escrow::default());
        }
        if (escrow_contract, escrow_id) == (own.address, id) {
            return record.decode::<vault::escrowsCall>()?.try_into();
        }
        let call = vault::escrowsCall { escrowId: escrow_id };
        self.reader.call(by(escrow_contract), &call).await?.try_into()
    }

    /// Kept on this machine: the chain has none.
    async fn delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        let proof = self.proofs.proof(id).await?;
        if proof.is_none() {
            self.get_transaction(id).await?;
        }
        Ok(proof)
    }

    /// Beyond 64 bits the most that fits.
    async fn balance(&self, owner: Address) -> Result<Usdc> {
        let call = token::balanceOfCall { owner };
        Ok(at_most(self.reader.call(self.usdc(), &call).await?))
    }

    /// Beyond 64 bits the most that fits: many allow "everything".
    async fn allowance(&self, owner: Address) -> Result<Usdc> {
        let call = token::allowanceCall { owner, spender: self.network.vault };
        Ok(at_most(self.reader.call(self.usdc(), &call).await?))
    }

    async fn gas_balance(&self, owner: Address) -> Result<Option<U256>> {
        let calls = vec![Call::new("eth_getBalance", json!([owner, "latest"]))];
        let answer = self.reader.ask(calls, Doubt::Everything).await?.pop();
        let raw =
            answer.ok_or_else(lens::strange)?.map_err(|refused| reverts::explain(&refused))?;
        parse("eth_getBalance", &raw).map(Some)
    }

    async fn mint_test_usdc(&self, sender: Address, to: Address, amount: Usdc) -> Result<()> {
        if !self.network.has_test_money() {
            return Err(no_test_money(&self.network));
        }
        let call = token::mintCall { to, amount: U256::from(amount.0) };
        self.send(sender, "mint", self.network.usdc, &call).await.map(drop)
    }

    async fn approve(&self, sender: Address, amount: Usdc) -> Result<()> {
        let amount = U256::from(amount.0);
        let call = token::approveCall { spender: self.network.vault, amount };
        self.send(sender, "approve", self.network.usdc, &call).await.map(drop)
    }

    async fn create_transaction(
        &self,
        sender: Address,
        request: &CreateTransaction,
    ) -> Result<TransactionId> {
        check_agreement(&self.network, request)?;
        let call = contracts::creation(request, self.network.terms);
        let sent = self.send_data(sender, "createTransaction", self.network.kernel, call).await;
        let mined = match sent {
            Ok(mined) => mined,
            Err(error) => {
                let Some(refusal) = error.refusal() else { return Err(error) };
                let now = match refusal {
                    Refusal::DeadlineInPast
                    | Refusal::DeadlineTooSoon
                    | Refusal::DeadlineTooFar => self.now().await?,
                    _ => 0,
                };
                let sent = error.sent();
                return Err(refused_creation(request, refusal, now).with_sent(sent));
            }
        };
        let requested = |event: Event| match event {
            Event::TransactionCreated {
                transaction_id,
                requester,
                provider,
                amount,
                service_hash,
                agreement_hash,
                ..
            } if (requester, provider) == (sender, request.provider)
                && (amount, service_hash) == (request.amount, request.service_hash)
                && agreement_hash == request.agreement_hash =>
            {
                Some(transaction_id)
            }
            _ => None,
        };
        mined
            .logs
            .iter()
            .filter(|log| log.address() == self.network.kernel)
            .filter_map(|log| contracts::event(log)?.ok())
            .find_map(requested)
            .ok_or_else(|| {
                let hash = mined.hash;
                let message = format!(
                    "the receipt of {hash} has no TransactionCreated of what was asked for"
                );
                Error::new(Code::InvalidAnswer, message)
                    .with_hint(
                        "look for the transaction with find_transactions before creating it again",
                    )
                    .with_facts(|facts| facts.transaction_hash = Some(hash))
            })
    }

    async fn link_escrow(
        &self,
        sender: Address,
        id: TransactionId,
        link: LinkEscrow,
    ) -> Result<B256> {
        let vault = link.escrow_contract.unwrap_or(self.network.vault);
        let escrow_id = link.escrow_id.unwrap_or(id);
        self.link(sender, id, vault, escrow_id, link.most).await?;
        Ok(escrow_id)
    }

    async fn accept_quote(&self, sender: Address, id: TransactionId, amount: Usdc) -> Result<()> {
        let call = abi::acceptQuoteCall { transactionId: id, newAmount: U256::from(amount.0) };
        let bounds = [Refusal::BelowMinimum, Refusal::AboveMaximum];
        self.call(sender, "acceptQuote", id, &call)
            .await
            .map(drop)
            .map_err(|error| with_value(error, &bounds, "amount", amount.0))
    }

    async fn transition_state(&self, sender: Address, transition: &Transition) -> Result<GasCost> {
        self.keeping(sender, transition, self.step(sender, transition)).await
    }

    async fn settle_due(&self, sender: Address, id: TransactionId) -> Result<GasCost> {
        self.require_wallet(sender)?;
        if let Some(settling) = &self.settling
            && let Some(gas_cost) = settling.settle(sender, id).await?
        {
            return Ok(gas_cost);
        }
        let settle = Transition::bare(id, State::Settled);
        self.step(sender, &settle).await
    }

    /// The node is asked once for the bond, and once more for what is sent: both must be the same.
    async fn dispute(&self, sender: Address, id: TransactionId, max_bond: Usdc) -> Result<Usdc> {
        let bond = agreed_bond(&self.confirm_transaction(id).await?, max_bond)?;
        let dispute = Transition::bare(id, State::Disputed);
        self.dispute_with(sender, id, &transition_call(&dispute), Some(bond)).await?;
        Ok(bond)
    }

    /// Both in one go, at consecutive nonces: a block takes them together.
    async fn deliver(&self, sender: Address, delivery: &Transition) -> Result<GasCost> {
        self.keeping(sender, delivery, self.begin_and_deliver(sender, delivery)).await
    }

    async fn release_milestone(
        &self,
        sender: Address,
        id: TransactionId,
        amount: Usdc,
    ) -> Result<()> {
        let call = abi::releaseMilestoneCall { transactionId: id, amount: U256::from(amount.0) };
        self.call(sender, "releaseMilestone", id, &call)
            .await
            .map(drop)
            .map_err(|error| with_value(error, &[Refusal::AmountZero], "amount", amount.0))
    }

    async fn release_escrow(&self, sender: Address, id: TransactionId) -> Result<()> {
        let call = abi::releaseEscrowCall { transactionId: id };
        self.call(sender, "releaseEscrow", id, &call).await.map(drop)
    }

    async fn recover_stalled(&self, sender: Address, id: TransactionId) -> Result<GasCost> {
        require_recovery(&self.network)?;
        let call = abi::recoverStalledInProgressCall { transactionId: id };
        Ok(self.call(sender, "recoverStalledInProgress", id, &call).await?.gas_cost)
    }

    async fn anchor_attestation(
        &self,
        sender: Address,
        id: TransactionId,
        uid: B256,
    ) -> Result<()> {
        let call = abi::anchorAttestationCall { transactionId: id, attestationUID: uid };
        self.call(sender, "anchorAttestation", id, &call).await.map(drop)
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    async fn ask_wallet(&self, question: &ContractQuestion) -> Result<ContractFinding> {
        signatures::ask(&self.reader, question, self.agree).await
    }

    fn registry(&self) -> Option<&dyn AgentRegistry> {
        self.network.agent_registry.map(|_| self as &dyn AgentRegistry)
    }

    fn attestations(&self) -> Option<&dyn Attestations> {
        (self.network.eas.is_some() && self.eas_schema.is_some()).then_some(self)
    }

    #[cfg(feature = "disputes")]
    fn bond_escalation(&self) -> Result<&dyn BondEscalation> {
        self.escalation().map(|_| self as &dyn BondEscalation)
    }
}
