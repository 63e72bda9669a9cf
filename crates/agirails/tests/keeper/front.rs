//! A kernel that stands in front of another one, and does what nodes and chains do.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use agirails::{
    Address, B256, Code, CreateTransaction, Error, Event, EventRecord, LinkEscrow, Network,
    Refusal, Result, State, Transaction, TransactionId, Usdc,
    kernel::{AgentRegistry, Escrow, GasCost, Kernel, TransactionQuery, Transition},
    protocol::proof::DeliveryProof,
};
use async_trait::async_trait;

#[derive(Debug, Default)]
pub struct Mood {
    /// It leaves these out of all that it tells.
    pub hides: HashSet<TransactionId>,
    /// It says that these are in another state.
    pub says: HashMap<TransactionId, State>,
    /// It says that the escrow of these is empty.
    pub robs: HashSet<TransactionId>,
    /// It refuses all settlements in these words.
    pub refuses: Option<Refusal>,
    /// It does not answer settlements.
    pub is_down: bool,
    /// Its clock is ahead.
    pub is_ahead: u64,
    /// Settlements take so long.
    pub takes: Duration,
    /// Moves cost gas, at this price.
    pub gas_price: Option<u128>,
}

#[derive(Debug)]
pub struct Front {
    kernel: Arc<dyn Kernel>,
    pub mood: Mutex<Mood>,
    /// Its caller dies at the call after so many: before it takes effect, or right after.
    calls_left: AtomicI64,
    dies_after: bool,
    /// Settlements that were asked for.
    pub asked: AtomicU64,
}

impl Front {
    pub fn of(kernel: &Arc<dyn Kernel>) -> Arc<Self> {
        Self::deadly(kernel, i64::MAX, false)
    }

    pub fn deadly(kernel: &Arc<dyn Kernel>, calls_left: i64, dies_after: bool) -> Arc<Self> {
        Arc::new(Self {
            kernel: kernel.clone(),
            mood: Mutex::default(),
            calls_left: AtomicI64::new(calls_left),
            dies_after,
            asked: AtomicU64::new(0),
        })
    }

    pub fn is(&self, set: impl FnOnce(&mut Mood)) {
        set(&mut self.mood.lock().unwrap());
    }

    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        let dies = self.calls_left.fetch_sub(1, Ordering::SeqCst) == 0;
        if dies && !self.dies_after {
            std::future::pending::<()>().await;
        }
        let value = call.await;
        if dies {
            std::future::pending::<()>().await;
        }
        value
    }
}

fn subject(record: &EventRecord) -> Option<TransactionId> {
    match record.event {
        Event::StateTransitioned { transaction_id, .. } => Some(transaction_id),
        _ => None,
    }
}

#[async_trait]
impl Kernel for Front {
    fn network(&self) -> &Network {
        self.kernel.network()
    }
    async fn now(&self) -> Result<u64> {
        let ahead = self.mood.lock().unwrap().is_ahead;
        Ok(self.around(self.kernel.now()).await? + ahead)
    }
    async fn gas_price(&self) -> Result<Option<u128>> {
        let price = self.mood.lock().unwrap().gas_price;
        self.around(async { Ok(price) }).await
    }
    async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
        let mut found = self.around(self.kernel.get_transaction(id)).await?;
        let mood = self.mood.lock().unwrap();
        if mood.hides.contains(&id) {
            return Err(Refusal::TxMissing.into());
        }
        found.state = mood.says.get(&id).copied().unwrap_or(found.state);
        Ok(found)
    }
    async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
        self.kernel.find_transactions(query).await
    }
    async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        let mut events = self.around(self.kernel.events(after, limit)).await?;
        let mood = self.mood.lock().unwrap();
        events.retain(|record| !subject(record).is_some_and(|id| mood.hides.contains(&id)));
        Ok(events)
    }
    async fn escrow(&self, id: TransactionId) -> Result<Escrow> {
        let found = self.around(self.kernel.escrow(id)).await?;
        let robs = self.mood.lock().unwrap().robs.contains(&id);
        Ok(if robs { Escrow::default() } else { found })
    }
    async fn delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        self.kernel.delivery_proof(id).await
    }
    async fn balance(&self, owner: Address) -> Result<Usdc> {
        self.kernel.balance(owner).await
    }
    async fn allowance(&self, owner: Address) -> Result<Usdc> {
        self.kernel.allowance(owner).await
    }
    async fn approve(&self, sender: Address, amount: Usdc) -> Result<()> {
        self.kernel.approve(sender, amount).await
    }
    async fn create_transaction(
        &self,
        sender: Address,
        request: &CreateTransaction,
    ) -> Result<TransactionId> {
        self.kernel.create_transaction(sender, request).await
    }
    async fn link_escrow(
        &self,
        sender: Address,
        id: TransactionId,
        link: LinkEscrow,
    ) -> Result<B256> {
        self.kernel.link_escrow(sender, id, link).await
    }
    async fn accept_quote(&self, sender: Address, id: TransactionId, amount: Usdc) -> Result<()> {
        self.kernel.accept_quote(sender, id, amount).await
    }
    async fn transition_state(&self, sender: Address, transition: &Transition) -> Result<GasCost> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (refuses, is_down, takes) = {
            let mood = self.mood.lock().unwrap();
            (mood.refuses, mood.is_down, mood.takes)
        };
        tokio::time::sleep(takes).await;
        if is_down {
            return Err(Error::new(Code::EndpointUnreachable, "the node is down"));
        }
        if let Some(refusal) = refuses {
            return Err(refusal.into());
        }
        self.around(self.kernel.transition_state(sender, transition)).await
    }
    async fn release_milestone(
        &self,
        sender: Address,
        id: TransactionId,
        amount: Usdc,
    ) -> Result<()> {
        self.kernel.release_milestone(sender, id, amount).await
    }
    async fn release_escrow(&self, sender: Address, id: TransactionId) -> Result<()> {
        self.kernel.release_escrow(sender, id).await
    }
    async fn recover_stalled(&self, sender: Address, id: TransactionId) -> Result<GasCost> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let refuses = self.mood.lock().unwrap().refuses;
        if let Some(refusal) = refuses {
            return Err(refusal.into());
        }
        self.around(self.kernel.recover_stalled(sender, id)).await
    }
    async fn anchor_attestation(
        &self,
        sender: Address,
        id: TransactionId,
        uid: B256,
    ) -> Result<()> {
        self.kernel.anchor_attestation(sender, id, uid).await
    }
    fn registry(&self) -> Option<&dyn AgentRegistry> {
        self.kernel.registry()
    }
}
