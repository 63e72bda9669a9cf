//! A kernel that does what nodes do on bad days, between a paywall and the embedded one.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agirails::{
    ACTPClient, Address, B256, Code, CreateTransaction, Error, EventRecord, LinkEscrow, Network,
    Result, Storage, Transaction, TransactionId, Usdc,
    kernel::{ContractFinding, GasCost, Kernel, TransactionQuery, Transition},
    paywall::{Paywall, PaywallBuilder},
    protocol::{Refusal, wallet_signature::ContractQuestion},
};

use crate::fixture::Stage;

/// What the node does to whoever asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// It answers when its mood gets better.
    Stalls,
    /// It has seen no transaction yet.
    SeesNothing,
    /// It reads as ever, and refuses whatever is sent.
    Refuses(Refusal),
    /// It does not tell its time.
    TellsNoTime,
    /// It has no events of before this time.
    HasForgotten(u64),
}

#[derive(Debug)]
pub struct FaultyKernel {
    kernel: Arc<dyn Kernel>,
    mood: Mutex<Mood>,
    reads: AtomicU64,
    wallet: Mutex<ContractFinding>,
    questions: AtomicU64,
}

impl FaultyKernel {
    pub fn of(stage: &Stage) -> Arc<Self> {
        let kernel = stage.provider.kernel().clone();
        Arc::new(Self {
            kernel,
            mood: Mutex::new(Mood::Well),
            reads: AtomicU64::new(0),
            wallet: Mutex::new(ContractFinding::NoContract),
            questions: AtomicU64::new(0),
        })
    }

    pub fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// How many transactions were read.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// What the contract of every wallet says of every signature.
    pub fn wallets_say(&self, finding: ContractFinding) {
        *self.wallet.lock().unwrap() = finding;
    }

    /// How many signatures contracts were asked about.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::SeqCst)
    }

    async fn mood(&self) -> Mood {
        loop {
            let mood = *self.mood.lock().unwrap();
            if mood != Mood::Stalls {
                return mood;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Stage {
    /// A paywall that has this kernel for its node.
    pub fn behind(&self, odd: &Arc<FaultyKernel>) -> PaywallBuilder {
        let provider = ACTPClient::with_kernel(odd.clone(), self.provider.address());
        Paywall::builder(provider).storage(Storage::Directory(self.directory.path().to_owned()))
    }
}

kernel_in_front! {
    impl Kernel for FaultyKernel {
        fn network(&self) -> &Network {
            self.kernel.network()
        }
        async fn now(&self) -> Result<u64> {
            match self.mood().await {
                Mood::TellsNoTime => Err(Error::new(Code::EndpointUnreachable, "no time")),
                _ => self.kernel.now().await,
            }
        }
        async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            match self.mood().await {
                Mood::SeesNothing => Err(Refusal::TxMissing.into()),
                _ => self.kernel.get_transaction(id).await,
            }
        }
        async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
            match self.mood().await {
                Mood::SeesNothing => Ok(vec![]),
                _ => self.kernel.find_transactions(query).await,
            }
        }
        async fn events_at(&self, time: u64) -> Result<Vec<EventRecord>> {
            match self.mood().await {
                Mood::HasForgotten(before) if time < before => {
                    Err(Error::new(Code::RequestRefused, "pruned history"))
                }
                _ => self.kernel.events_at(time).await,
            }
        }
        async fn balance(&self, owner: Address) -> Result<Usdc> {
            self.kernel.balance(owner).await
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
        async fn transition_state(
        &self,
        sender: Address,
        transition: &Transition,
    ) -> Result<GasCost> {
            match self.mood().await {
                Mood::SeesNothing => Err(Refusal::TxMissing.into()),
                Mood::Refuses(refusal) => Err(refusal.into()),
                _ => self.kernel.transition_state(sender, transition).await,
            }
        }
        async fn ask_wallet(&self, _question: &ContractQuestion) -> Result<ContractFinding> {
            self.questions.fetch_add(1, Ordering::SeqCst);
            match self.mood().await {
                Mood::SeesNothing => Err(Error::new(Code::EndpointUnreachable, "no node")),
                _ => Ok(*self.wallet.lock().unwrap()),
            }
        }
    }
}
