//! Settlements that are due, many in one chain transaction: each saves the 21,000 gas that a transaction
//! costs before it does anything, and finds already read what the others read.
//!
//! Anybody may settle what is due, so Multicall3 may, and whoever sends through it needs to trust it with
//! nothing: it holds no money of the sender's and no right. One that is refused spoils none of the others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_primitives::{Address, Bytes, U64};
use alloy_sol_types::SolCall;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{
    contracts::{self, kernel as abi, multicall},
    reader::{Doubt, Reader, estimate},
    reverts,
    rpc::{Call, parse},
    sender::{GasLimit, Operation, Sender},
};
use crate::{
    error::{Facts, Result, Retry},
    fork::Renewed,
    kernel::GasCost,
    protocol::{Event, State, TransactionId},
};

/// How long the first one waits for others.
const COLLECT: Duration = Duration::from_millis(100);
/// So many go together: 40 first settlements of registered providers, the most expensive there are, take
/// less gas than a transaction may.
const MOST_TOGETHER: usize = 40;
/// The most gas that one transaction may ask for (EIP-7825).
const MOST_GAS: u64 = 1 << 24;

/// Carries settlements together.
pub(super) struct Settling {
    carrier: Arc<Carrier>,
    /// A forked child has none of the parent's tasks.
    senders: Renewed<Mutex<HashMap<Address, mpsc::UnboundedSender<Waiting>>>>,
}

/// One that is to be settled. `None` where it must go alone: there is nothing to share, or it was refused.
struct Waiting {
    id: TransactionId,
    reply: oneshot::Sender<Result<Option<GasCost>>>,
}

impl Settling {
    pub(super) fn new(
        kernel: Address,
        multicall: Address,
        reader: Reader,
        sender: Arc<Sender>,
    ) -> Self {
        let carrier = Arc::new(Carrier { kernel, multicall, reader, sender });
        Self { carrier, senders: Renewed::new(Mutex::default) }
    }

    /// Settles together with what else is asked for now, and tells its share of the gas; `None` where it
    /// was not settled, and has to be tried alone: that says why.
    ///
    /// # Errors
    /// As [`Sender::send`], without refusals.
    pub(super) async fn settle(&self, by: Address, id: TransactionId) -> Result<Option<GasCost>> {
        let (reply, answer) = oneshot::channel();
        self.submit(by, Waiting { id, reply });
        // Its task ends only with its runtime, and then nothing of it is lost: alone, it finds out.
        answer.await.unwrap_or(Ok(None))
    }

    fn submit(&self, by: Address, waiting: Waiting) {
        let senders = self.senders.get();
        let mut senders = senders.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = match senders.get(&by) {
            Some(queue) => match queue.send(waiting) {
                Ok(()) => return,
                // Its runtime ended.
                Err(returned) => returned.0,
            },
            None => waiting,
        };
        let (queue, mut arriving) = mpsc::unbounded_channel();
        // It takes what is asked for from now on.
        let _ = queue.send(waiting);
        senders.insert(by, queue);
        let carrier = self.carrier.clone();
        tokio::spawn(async move {
            while let Some(first) = arriving.recv().await {
                tokio::time::sleep(COLLECT).await;
                let mut together = vec![first];
                while let Ok(waiting) = arriving.try_recv() {
                    together.push(waiting);
                }
                while !together.is_empty() {
                    let rest = together.split_off(together.len().min(MOST_TOGETHER));
                    let carrier = carrier.clone();
                    tokio::spawn(async move { carrier.carry(by, together).await });
                    together = rest;
                }
            }
        });
    }
}

struct Carrier {
    kernel: Address,
    multicall: Address,
    reader: Reader,
    sender: Arc<Sender>,
}

impl Carrier {
    async fn carry(&self, by: Address, together: Vec<Waiting>) {
        // In the order of their ids: the same ones are the same chain transaction, which the sender's
        // journal finds again.
        let ids: BTreeSet<_> = together.iter().map(|waiting| waiting.id).collect();
        let ids = ids.into_iter().collect();
        let settled = match self.settle_all(by, ids).await {
            Ok(settled) => settled,
            // The whole of it was refused.
            Err(error) if error.retry() == Retry::Never => {
                tracing::warn!(%error, "settlements could not share a transaction");
                HashMap::new()
            }
            Err(error) => {
                for Waiting { id, reply } in together {
                    let told = |facts: &mut Facts| facts.transaction_id = Some(id);
                    // An error here is a caller who has left.
                    drop(reply.send(Err(error.again().with_facts(told))));
                }
                return;
            }
        };
        for Waiting { id, reply } in together {
            drop(reply.send(Ok(settled.get(&id).copied())));
        }
    }

    /// Those that were settled, each with its share of the gas.
    async fn settle_all(
        &self,
        by: Address,
        mut ids: Vec<TransactionId>,
    ) -> Result<HashMap<TransactionId, GasCost>> {
        let mut gas = self.gas(by, &ids).await?;
        if gas.is_none() && ids.len() > 1 {
            ids = self.allowed(by, &ids).await?;
            gas = self.gas(by, &ids).await?;
        }
        let Some(gas) = gas.filter(|gas| *gas <= MOST_GAS) else { return Ok(HashMap::new()) };
        let operation = Operation {
            what: "aggregate3",
            from: by,
            to: self.multicall,
            data: self.call(&ids, true),
            // What is not used is not paid; what others do first may make each cost more.
            gas: GasLimit::AtMost((gas / 2 * 3).min(MOST_GAS)),
        };
        let Some(mined) = self.sender.send(vec![operation]).await?.pop() else {
            return Ok(HashMap::new());
        };
        // Each settlement tells of itself; the contract that carried them is not asked.
        let settled =
            mined.logs.iter().filter(|log| log.address() == self.kernel).filter_map(|log| {
                match contracts::event(log)?.ok()? {
                    Event::StateTransitioned {
                        transaction_id, new_state: State::Settled, ..
                    } => Some(transaction_id),
                    _ => None,
                }
            });
        let settled: Vec<_> = settled.filter(|id| ids.contains(id)).collect();
        let (total, count) = (mined.gas_cost.0, settled.len() as u128);
        let mut shares = HashMap::new();
        for (place, id) in settled.into_iter().enumerate() {
            // To the last wei: the first ones bear what does not divide.
            let odd = u128::from((place as u128) < total % count);
            shares.insert(id, GasCost(total / count + odd));
        }
        Ok(shares)
    }

    /// What all of them take together; `None` where one would be refused, and for one alone, which has
    /// nothing to share. Asked of the call in which none
    /// may be: a node would otherwise find the least gas in which some of them fail.
    async fn gas(&self, by: Address, ids: &[TransactionId]) -> Result<Option<u64>> {
        if ids.len() < 2 {
            return Ok(None);
        }
        let call = estimate(by, self.multicall, &self.call(ids, false));
        match self.reader.ask(vec![call], Doubt::Refusals).await?.pop() {
            Some(Ok(raw)) => parse::<U64>("eth_estimateGas", &raw).map(|gas| Some(gas.to())),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// Those that would not be refused.
    async fn allowed(&self, by: Address, ids: &[TransactionId]) -> Result<Vec<TransactionId>> {
        let params = json!([
            {"from": by, "to": self.multicall, "data": self.call(ids, true)}, "latest"
        ]);
        let call = Call::new("eth_call", params);
        let raw = match self.reader.ask(vec![call], Doubt::Everything).await?.pop() {
            Some(Ok(raw)) => parse::<Bytes>("eth_call", &raw)?,
            Some(Err(refused)) => return Err(reverts::explain(&refused)),
            None => return Ok(vec![]),
        };
        let outcomes = multicall::aggregate3Call::abi_decode_returns(&raw)
            .map_err(|error| super::lens::strange().with_source(error))?;
        let allowed = ids.iter().zip(outcomes).filter(|(_, outcome)| outcome.success);
        Ok(allowed.map(|(id, _)| *id).collect())
    }

    fn call(&self, ids: &[TransactionId], may_be_refused: bool) -> Bytes {
        let settle = |id: &TransactionId| {
            let call = abi::transitionStateCall {
                transactionId: *id,
                newState: State::Settled as u8,
                proof: Bytes::new(),
            };
            multicall::Call3 {
                target: self.kernel,
                allowFailure: may_be_refused,
                callData: call.abi_encode().into(),
            }
        };
        multicall::aggregate3Call { calls: ids.iter().map(settle).collect() }.abi_encode().into()
    }
}
