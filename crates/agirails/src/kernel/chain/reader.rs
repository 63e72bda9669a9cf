//! Reading: few round trips, and no belief in nodes that lag.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_json_rpc::ErrorPayload;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall;
use futures_util::future::BoxFuture;
use serde_json::json;

use super::{
    contracts::Contract,
    lens::{self, Answer, Read},
    min_block::MinBlock,
    reverts::{self, Revert},
    rpc::{Answered, Call, Failure, Rpc, parse},
};
use crate::error::Result;

/// Groups of reads in one request, where one more call asks for the node's head: public endpoints
/// take about ten calls at once.
const GROUPS_PER_REQUEST: usize = 9;
/// How long a node that lags is asked again before it is believed: three blocks of Base.
const PATIENCE: Duration = Duration::from_secs(6);
/// The first nap in between; each is twice the one before.
const FIRST_NAP: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// What a node that lags may be wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// All it says: a state can be of the past.
    Everything,
    /// Its refusals only: whoever is allowed something now was not always.
    Refusals,
}

/// Reads the chain at its newest block, as far as this process knows it.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    rpc: Rpc,
    min_block: Arc<MinBlock>,
}

impl Reader {
    pub(crate) fn new(rpc: Rpc, min_block: Arc<MinBlock>) -> Self {
        Self { rpc, min_block }
    }

    /// Asks all of it in one request. While a receipt of ours is young, the same request asks for
    /// the node's head, and a node that has not seen the receipt's block is asked again for up to
    /// six seconds before it is believed.
    ///
    /// # Errors
    /// Those of the network; what a node refuses is an answer.
    pub(crate) async fn ask(&self, mut calls: Vec<Call>, doubt: Doubt) -> Result<Vec<Answered>> {
        if self.min_block.required().is_none() {
            return self.rpc.batch(&calls).await;
        }
        // First, so that what follows is of this head or of a later one.
        calls.insert(0, Call::new("eth_blockNumber", json!([])));
        let started = Instant::now();
        let mut nap = FIRST_NAP;
        loop {
            let mut answers = self.rpc.batch(&calls).await?;
            let head = if answers.is_empty() { None } else { answers.remove(0).ok() };
            let head = head.and_then(|raw| parse::<U256>("eth_blockNumber", &raw).ok());
            let is_beyond_doubt =
                doubt == Doubt::Refusals && answers.iter().all(std::result::Result::is_ok);
            let is_behind = match (self.min_block.required(), head) {
                (Some(required), Some(head)) => head < U256::from(required),
                _ => false,
            };
            if is_beyond_doubt || !is_behind || started.elapsed() > PATIENCE {
                return Ok(answers);
            }
            tracing::debug!(?head, "the node has not seen a block of ours yet");
            tokio::time::sleep(nap).await;
            nap = LONGEST_NAP.min(nap * 2);
        }
    }

    /// One function of one contract, in one round trip.
    ///
    /// # Errors
    /// The contract's refusal; [`crate::Code::ContractMissing`] where no code lies;
    /// [`crate::Code::InvalidAnswer`] for another shape than the function's.
    pub(crate) async fn call<C: SolCall>(&self, contract: Contract, call: &C) -> Result<C::Return> {
        self.read(&Read::new(contract, call, 0)).await?.decode::<C>()
    }

    /// One read, in one round trip.
    ///
    /// # Errors
    /// Those of the network; what the contract refuses is an answer.
    pub(crate) async fn read(&self, read: &Read) -> Result<Answer> {
        let contract = read.contract();
        let params = json!([{"to": contract.address, "data": read.data()}, "latest"]);
        let outcome = if self.min_block.required().is_some() {
            let call = Call::new("eth_call", params);
            match self.ask(vec![call], Doubt::Everything).await?.pop() {
                Some(Ok(raw)) => Ok(parse("eth_call", &raw)?),
                Some(Err(refused)) => Err(refused),
                None => Ok(Bytes::new()),
            }
        } else {
            match self.rpc.request::<Bytes>("eth_call", params).await {
                Ok(data) => Ok(data),
                Err(Failure::Refused(refused)) => Err(refused),
                Err(Failure::Unreachable(error)) => return Err(error),
            }
        };
        plain(contract, outcome)
    }

    /// The same request to so many endpoints, each by itself.
    ///
    /// # Errors
    /// Those of the network, also where fewer endpoints answer.
    pub(crate) async fn ask_each(&self, call: &Call, endpoints: usize) -> Result<Vec<Answered>> {
        let answers = self.rpc.ask_each(call, endpoints).await?;
        Ok(answers.into_iter().map(|(_, answered)| answered).collect())
    }

    /// The same read by so many endpoints, each by itself, until all say the `same` or patience
    /// ends: then what each says.
    ///
    /// # Errors
    /// Those of the network, also where fewer endpoints answer.
    pub(crate) async fn read_agreed(
        &self,
        read: &Read,
        endpoints: usize,
        same: impl Fn(&Answer, &Answer) -> bool,
    ) -> Result<std::result::Result<Answer, Vec<(String, Answer)>>> {
        let contract = read.contract();
        let params = json!([{"to": contract.address, "data": read.data()}, "latest"]);
        let call = Call::new("eth_call", params);
        let (started, mut nap) = (Instant::now(), FIRST_NAP);
        loop {
            let mut answers = Vec::with_capacity(endpoints);
            for (endpoint, answered) in self.rpc.ask_each(&call, endpoints).await? {
                let outcome = match answered {
                    Ok(raw) => Ok(parse("eth_call", &raw)?),
                    Err(refused) => Err(refused),
                };
                answers.push((endpoint, plain(contract, outcome)?));
            }
            let agree = answers.windows(2).all(|pair| same(&pair[0].1, &pair[1].1));
            match answers.pop() {
                Some((_, answer)) if agree => return Ok(Ok(answer)),
                last if started.elapsed() > PATIENCE => {
                    answers.extend(last);
                    return Ok(Err(answers));
                }
                // One of them may not have seen the newest block yet.
                _ => tokio::time::sleep(nap).await,
            }
            nap = LONGEST_NAP.min(nap * 2);
        }
    }

    /// Many functions of many contracts, in one round trip up to some 250 transactions. What goes
    /// into one call (some 28 transactions) is of one block.
    ///
    /// # Errors
    /// Those of the network, and what a node refuses; what a contract refuses is an answer.
    pub(crate) async fn read_many(&self, reads: &[Read]) -> Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(reads.len());
        for groups in lens::fitting(reads).chunks(GROUPS_PER_REQUEST) {
            let calls = groups.iter().map(|group| lens::call(group)).collect();
            let found = self.ask(calls, Doubt::Everything).await?;
            for (group, found) in groups.iter().zip(found) {
                answers.extend(self.unpack(group, found).await?);
            }
        }
        Ok(answers)
    }

    /// [`Self::read_many`] of few things, and beside it what else the same node shall be asked.
    pub(crate) async fn read_beside(
        &self,
        reads: &[Read],
        other: Call,
    ) -> Result<(Vec<Answer>, Answered)> {
        let mut found = self.ask(vec![lens::call(reads), other], Doubt::Everything).await?;
        let (Some(other), Some(lens), true) = (found.pop(), found.pop(), found.is_empty()) else {
            return Err(lens::strange());
        };
        Ok((self.unpack(reads, lens).await?, other))
    }

    /// Reads in halves what a node finds too large: profiles have no largest size.
    fn unpack<'a>(
        &'a self,
        reads: &'a [Read],
        found: Answered,
    ) -> BoxFuture<'a, Result<Vec<Answer>>> {
        Box::pin(async move {
            match (found, reads) {
                (Ok(raw), _) => lens::answers(reads, &parse::<Bytes>("eth_call", &raw)?),
                (Err(refused), _) if !lens::is_too_large(&refused.message) => {
                    Err(reverts::explain(&refused))
                }
                (Err(_), [single]) => Ok(vec![self.read(single).await?]),
                (Err(_), _) => {
                    let (first, second) = reads.split_at(reads.len() / 2);
                    let calls = vec![lens::call(first), lens::call(second)];
                    let mut found = self.ask(calls, Doubt::Everything).await?.into_iter();
                    let mut answers = Vec::with_capacity(reads.len());
                    for half in [first, second] {
                        let found = found.next().ok_or_else(lens::strange)?;
                        answers.extend(self.unpack(half, found).await?);
                    }
                    Ok(answers)
                }
            }
        })
    }
}

/// What a plain `eth_call` says; what the node itself refuses is an error.
fn plain(contract: Contract, outcome: std::result::Result<Bytes, ErrorPayload>) -> Result<Answer> {
    let outcome = match outcome {
        Ok(data) => Ok(data),
        Err(refused) => Err(Revert::of(&refused).ok_or_else(|| reverts::explain(&refused))?),
    };
    Ok(Answer::plain(contract, outcome))
}

/// The question what a call would cost, or with which words it would be refused.
pub(crate) fn estimate(from: Address, to: Address, data: &Bytes) -> Call {
    Call::new("eth_estimateGas", json!([{"from": from, "to": to, "data": data}, "latest"]))
}
