use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::{Address, B256};
use async_trait::async_trait;

use crate::{
    error::{Error, Result},
    kernel::{AgentQuery, AgentRegistry, Escrow, GasCost, Kernel, TransactionQuery, Transition},
    network::Network,
    protocol::{
        CreateTransaction, EventRecord, LinkEscrow, Refusal, Transaction, TransactionId, Usdc,
        proof::DeliveryProof,
        registry::{AgentProfile, ServiceDescriptor},
    },
};

/// A kernel that watches another one: it panics where a failed call changed anything (the
/// transaction, its escrow and proof, balances, allowances, the agent, the events), and notes
/// which refusals it saw.
///
/// Nobody else may write to the kernel meanwhile.
pub struct Watch {
    kernel: Arc<dyn Kernel>,
    cursor: AtomicU64,
    seen: Mutex<Vec<Refusal>>,
}

/// All that a failed call leaves as it was.
#[derive(Debug, PartialEq)]
struct Picture {
    transaction: Option<(Transaction, Escrow, Option<DeliveryProof>)>,
    accounts: Vec<(Address, Usdc, Usdc)>,
    agent: Option<(AgentProfile, Vec<ServiceDescriptor>)>,
    last_event: u64,
}

impl Watch {
    /// Watches this kernel.
    pub fn over(kernel: Arc<dyn Kernel>) -> Self {
        Self { kernel, cursor: AtomicU64::new(0), seen: Mutex::default() }
    }

    /// Every refusal so far, once.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn picture(&self, sender: Address, id: Option<TransactionId>) -> Result<Picture> {
        let kernel = &self.kernel;
        let transaction = match id {
            Some(id) => match kernel.get_transaction(id).await {
                Ok(tx) => Some((tx, kernel.escrow(id).await?, kernel.delivery_proof(id).await?)),
                Err(_) => None,
            },
            None => None,
        };
        let network = kernel.network();
        let mut owners = vec![sender, network.vault, network.fee_recipient];
        owners.extend(network.archive_treasury);
        owners.extend(transaction.iter().flat_map(|(tx, ..)| [tx.requester, tx.provider]));
        let mut accounts = vec![];
        for owner in owners {
            accounts.push((owner, kernel.balance(owner).await?, kernel.allowance(owner).await?));
        }
        let agent = match kernel.registry() {
            Some(registry) => match registry.get_agent(sender).await? {
                Some(agent) => Some((agent, registry.get_service_descriptors(sender).await?)),
                None => None,
            },
            None => None,
        };
        let mut cursor = self.cursor.load(Ordering::Relaxed);
        while let Some(last) = kernel.events(cursor, 10_000).await?.last() {
            cursor = last.cursor;
        }
        self.cursor.store(cursor, Ordering::Relaxed);
        Ok(Picture { transaction, accounts, agent, last_event: cursor })
    }

    async fn watch<T: Send>(
        &self,
        sender: Address,
        id: Option<TransactionId>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let before = self.picture(sender, id).await?;
        let outcome = call.await;
        if let Err(error) = &outcome {
            self.note(error);
            let after = self.picture(sender, id).await?;
            assert_eq!(before, after, "a refused call changed something: {error:?}");
        }
        outcome
    }

    fn note(&self, error: &Error) {
        let Some(refusal) = error.refusal() else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(&refusal) {
            seen.push(refusal);
        }
    }

    fn noted<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|error| self.note(error))
    }

    fn agents(&self) -> Result<&dyn AgentRegistry> {
        self.kernel.registry().ok_or_else(|| Error::from(Refusal::NotRegistered))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.kernel).finish()
    }
}

#[async_trait]
impl Kernel for Watch {
    fn network(&self) -> &Network {
        self.kernel.network()
    }

    async fn now(&self) -> Result<u64> {
        self.kernel.now().await
    }

    async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
        self.noted(self.kernel.get_transaction(id).await)
    }

    async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
        self.noted(self.kernel.find_transactions(query).await)
    }

    async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        self.noted(self.kernel.events(after, limit).await)
    }

    async fn escrow(&self, id: TransactionId) -> Result<Escrow> {
        self.noted(self.kernel.escrow(id).await)
    }

    async fn delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        self.noted(self.kernel.delivery_proof(id).await)
    }

    async fn balance(&self, owner: Address) -> Result<Usdc> {
        self.kernel.balance(owner).await
    }

    async fn allowance(&self, owner: Address) -> Result<Usdc> {
        self.kernel.allowance(owner).await
    }

    async fn approve(&self, sender: Address, amount: Usdc) -> Result<()> {
        self.watch(sender, None, self.kernel.approve(sender, amount)).await
    }

    async fn create_transaction(
        &self,
        sender: Address,
        request: &CreateTransaction,
    ) -> Result<TransactionId> {
        self.watch(sender, None, self.kernel.create_transaction(sender, request)).await
    }

    async fn link_escrow(
        &self,
        sender: Address,
        id: TransactionId,
        link: LinkEscrow,
    ) -> Result<B256> {
        self.watch(sender, Some(id), self.kernel.link_escrow(sender, id, link)).await
    }

    async fn accept_quote(&self, sender: Address, id: TransactionId, amount: Usdc) -> Result<()> {
        self.watch(sender, Some(id), self.kernel.accept_quote(sender, id, amount)).await
    }

    async fn transition_state(&self, sender: Address, transition: &Transition) -> Result<GasCost> {
        let call = self.kernel.transition_state(sender, transition);
        self.watch(sender, Some(transition.id), call).await
    }

    async fn release_milestone(
        &self,
        sender: Address,
        id: TransactionId,
        amount: Usdc,
    ) -> Result<()> {
        self.watch(sender, Some(id), self.kernel.release_milestone(sender, id, amount)).await
    }

    async fn release_escrow(&self, sender: Address, id: TransactionId) -> Result<()> {
        self.watch(sender, Some(id), self.kernel.release_escrow(sender, id)).await
    }

    async fn recover_stalled(&self, sender: Address, id: TransactionId) -> Result<GasCost> {
        self.watch(sender, Some(id), self.kernel.recover_stalled(sender, id)).await
    }

    async fn anchor_attestation(
        &self,
        sender: Address,
        id: TransactionId,
        uid: B256,
    ) -> Result<()> {
        self.watch(sender, Some(id), self.kernel.anchor_attestation(sender, id, uid)).await
    }

    fn registry(&self) -> Option<&dyn AgentRegistry> {
        self.kernel.registry().map(|_| self as _)
    }
}

#[async_trait]
impl AgentRegistry for Watch {
    async fn register_agent(
        &self,
        sender: Address,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()> {
        let call = self.agents()?.register_agent(sender, endpoint, services);
        self.watch(sender, None, call).await
    }

    async fn update_endpoint(&self, sender: Address, endpoint: &str) -> Result<()> {
        self.watch(sender, None, self.agents()?.update_endpoint(sender, endpoint)).await
    }

    async fn add_service_type(&self, sender: Address, service_type: &str) -> Result<()> {
        self.watch(sender, None, self.agents()?.add_service_type(sender, service_type)).await
    }

    async fn remove_service_type(&self, sender: Address, service_type_hash: B256) -> Result<()> {
        let call = self.agents()?.remove_service_type(sender, service_type_hash);
        self.watch(sender, None, call).await
    }

    async fn set_active_status(&self, sender: Address, active: bool) -> Result<()> {
        self.watch(sender, None, self.agents()?.set_active_status(sender, active)).await
    }

    async fn get_agent(&self, agent: Address) -> Result<Option<AgentProfile>> {
        self.agents()?.get_agent(agent).await
    }

    async fn get_service_descriptors(&self, agent: Address) -> Result<Vec<ServiceDescriptor>> {
        self.agents()?.get_service_descriptors(agent).await
    }

    async fn supports_service(&self, agent: Address, service_type_hash: B256) -> Result<bool> {
        self.agents()?.supports_service(agent, service_type_hash).await
    }

    async fn query_agents_by_service(&self, query: AgentQuery) -> Result<Vec<AgentProfile>> {
        self.noted(self.agents()?.query_agents_by_service(query).await)
    }
}
