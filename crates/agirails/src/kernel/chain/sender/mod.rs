//! Sending: one sender per key, many transactions in flight, none lost and none sent twice.
//!
//! Each key has a task of its own ([`account_task::AccountTask`]) that takes what callers ask for, in batches: it
//! estimates, signs, writes the signed bytes into the journal, and only then sends them. The
//! journal gives out the nonces, also among processes. The same task watches for receipts, sends
//! again what a node forgot, offers more for what is stuck, and calls off what nobody waits for.

mod account_task;
mod fees;
mod journal;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rpc_types_eth::Log;
use tokio::sync::{mpsc, oneshot};

use super::{min_block::MinBlock, rpc::Rpc};
use crate::{
    error::{Code, Error, Result},
    fork::Renewed,
    kernel::GasCost,
    storage::Store,
    wallet::Wallet,
};

/// How much gas a transaction may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GasLimit {
    /// What the node estimates, and half of it more: what another call does first may make this
    /// one cost more.
    Estimate,
    /// The same, but not less than this.
    AtLeast(u64),
    /// This much, for what cannot be estimated yet. What is not used is not paid.
    AtMost(u64),
}

/// One call of a contract.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// The contract's function, for messages.
    pub(crate) what: &'static str,
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) data: Bytes,
    pub(crate) gas: GasLimit,
}

impl Operation {
    /// What makes two calls the same call.
    fn digest(&self) -> B256 {
        let parts = [self.from.as_slice(), self.to.as_slice(), &self.data];
        keccak256(parts.concat())
    }
}

/// An operation that took effect.
#[derive(Debug, Clone)]
pub(crate) struct Mined {
    pub(crate) hash: B256,
    pub(crate) logs: Vec<Log>,
    pub(crate) gas_cost: GasCost,
}

#[derive(Debug, Clone)]
pub(crate) struct SenderSettings {
    /// In how many blocks, its own included, a transaction must stand.
    pub(crate) confirmations: u64,
    /// How long a caller waits for that.
    pub(crate) wait_timeout: Duration,
    /// Wei per gas; beyond it nothing is sent.
    pub(crate) max_fee_per_gas: u128,
    /// Wei per gas for whoever includes a transaction; no more is offered, whatever others give.
    pub(crate) max_tip: u128,
}

/// Sends for the keys it holds.
#[derive(Debug)]
pub(crate) struct Sender {
    shared: Arc<Shared>,
    /// A forked child has none of the parent's tasks.
    keys: Renewed<Mutex<HashMap<Address, mpsc::UnboundedSender<Request>>>>,
}

/// What all keys need.
struct Shared {
    rpc: Rpc,
    file: Arc<Store>,
    chain_id: u64,
    wallets: HashMap<Address, Arc<dyn Wallet>>,
    settings: SenderSettings,
    min_block: Arc<MinBlock>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<_> = self.wallets.keys().collect();
        f.debug_struct("Shared").field("wallets", &addresses).finish_non_exhaustive()
    }
}

type Reply = oneshot::Sender<Result<Vec<Mined>>>;

/// What a caller asks of a key.
struct Request {
    operations: Vec<Operation>,
    /// Whether only the outcome of an earlier send of the same is asked for.
    resumes: bool,
    reply: Reply,
}

impl Sender {
    pub(crate) fn new(
        rpc: Rpc,
        file: Arc<Store>,
        chain_id: u64,
        wallets: impl IntoIterator<Item = Arc<dyn Wallet>>,
        settings: SenderSettings,
        min_block: Arc<MinBlock>,
    ) -> Self {
        let address = |wallet: &Arc<dyn Wallet>| alloy_signer::Signer::address(wallet.as_ref());
        let wallets = wallets.into_iter().map(|wallet| (address(&wallet), wallet)).collect();
        let shared = Arc::new(Shared { rpc, file, chain_id, wallets, settings, min_block });
        Self { shared, keys: Renewed::new(Mutex::default) }
    }

    /// Sends operations of one sender at consecutive nonces, and waits until all are confirmed.
    ///
    /// The operations are estimated first, and where one is refused, none is sent. The same
    /// call again, after [`Code::OutcomeUnknown`] or after the process died, waits for what was
    /// sent then instead of sending it again; its answer holds the last operation alone.
    ///
    /// # Errors
    /// The contract's refusals, with `transaction_hash` where it was mined; before anything is
    /// sent [`Code::KeyMissing`], [`Code::InsufficientGas`], [`Code::FeeAboveLimit`] and the
    /// network's codes; [`Code::OutcomeUnknown`] with the hash where no receipt came in time, and
    /// [`Code::Superseded`] where the nonce went to another transaction.
    pub(crate) async fn send(&self, operations: Vec<Operation>) -> Result<Vec<Mined>> {
        self.ask(operations, false).await
    }

    /// Waits for an earlier send of this operation whose caller gave up or died; `None` where
    /// there is none. For calls that look at the chain before they send: they would be refused
    /// as repetitions of themselves.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) async fn resume(&self, operation: Operation) -> Result<Option<Mined>> {
        Ok(self.ask(vec![operation], true).await?.pop())
    }

    /// Whether something of this sender is under way, of whichever process.
    pub(crate) async fn is_busy(&self, sender: Address) -> Result<bool> {
        journal::Journal::new(self.shared.file.clone(), sender).is_busy().await
    }

    async fn ask(&self, operations: Vec<Operation>, resumes: bool) -> Result<Vec<Mined>> {
        let Some(first) = operations.first() else { return Ok(vec![]) };
        let from = first.from;
        let Some(wallet) = self.shared.wallets.get(&from) else {
            return Err(Error::new(
                Code::KeyMissing,
                format!(
                    "{} is to be sent by {from}, whose key this client does not have",
                    first.what
                ),
            )
            .with_hint("pass private_key or a keystore when the client is made"));
        };
        let (reply, answer) = oneshot::channel();
        self.submit(from, wallet, Request { operations, resumes, reply })?;
        // The task ends only with its runtime; what it sent stands in the journal.
        answer.await.unwrap_or_else(|_| {
            Err(Error::new(Code::OutcomeUnknown, "the runtime ended while the call was under way")
                .with_hint("make the same call again: it finds out what became of this one"))
        })
    }

    fn submit(&self, from: Address, wallet: &Arc<dyn Wallet>, request: Request) -> Result<()> {
        let keys = self.keys.get();
        let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
        let request = match keys.get(&from) {
            Some(queue) => match queue.send(request) {
                Ok(()) => return Ok(()),
                // Its runtime ended.
                Err(returned) => returned.0,
            },
            None => request,
        };
        let (queue, requests) = mpsc::unbounded_channel();
        let key =
            account_task::AccountTask::new(self.shared.clone(), from, wallet.clone(), requests)?;
        tokio::spawn(key.run());
        // It takes requests from now on.
        let _ = queue.send(request);
        keys.insert(from, queue);
        Ok(())
    }
}
