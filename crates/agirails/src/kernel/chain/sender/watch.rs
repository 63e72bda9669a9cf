//! Looking at the chain: which nonces it has passed, which receipts there are, and when to look
//! again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, U64};
use alloy_rpc_types_eth::Log;
use serde::Deserialize;
use serde_json::json;

use super::journal::{Send, State};
use crate::{
    error::Result,
    kernel::chain::rpc::{Answered, Call, Failure, Rpc, parse},
};

/// Receipts asked for together with the head, so that one round trip confirms. Public endpoints
/// take batches of ten.
const EAGER: usize = 8;

/// What is read of a receipt.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    transaction_hash: B256,
    block_number: U64,
    status: U64,
    pub(super) logs: Vec<Log>,
}

impl Receipt {
    pub(super) fn block(&self) -> u64 {
        self.block_number.to()
    }

    pub(super) fn succeeded(&self) -> bool {
        self.status == U64::from(1)
    }
}

/// One look at the chain.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) head: u64,
    /// How many nonces of the sender the chain has passed.
    pub(super) passed: u64,
    pub(super) receipts: HashMap<B256, Receipt>,
    pub(super) sends: Vec<Send>,
}

/// Looks after these sends: those without an outcome, and those that are waited for, since
/// another process may have written their outcome down.
pub(super) async fn look(
    rpc: Rpc,
    sender: Address,
    sends: Vec<Send>,
    waiting: HashSet<i64>,
) -> Result<Look> {
    let open =
        || sends.iter().filter(|send| send.state == State::Open || waiting.contains(&send.id));
    let eager: Vec<_> = open().take(EAGER).flat_map(hashes).collect();
    let mut calls = vec![
        Call::new("eth_blockNumber", json!([])),
        Call::new("eth_getTransactionCount", json!([sender, "latest"])),
    ];
    calls.extend(eager.iter().map(receipt_call));
    let answers = rpc.batch(&calls).await?;
    let mut answers = answers.into_iter();
    let mut number = |method| -> Result<u64> {
        match answers.next() {
            Some(Ok(raw)) => Ok(parse::<U64>(method, &raw)?.to()),
            Some(Err(refused)) => Err(Failure::Refused(refused).into()),
            None => Ok(0),
        }
    };
    let head = number("eth_blockNumber")?;
    let passed = number("eth_getTransactionCount")?;
    let mut receipts = HashMap::new();
    collect(&mut receipts, answers)?;

    let late: Vec<_> = open()
        .skip(EAGER)
        .filter(|send| send.nonce < passed)
        .flat_map(hashes)
        .map(|hash| receipt_call(&hash))
        .collect();
    if !late.is_empty() {
        collect(&mut receipts, rpc.batch(&late).await?.into_iter())?;
    }
    Ok(Look { head, passed, receipts, sends })
}

fn hashes(send: &Send) -> impl Iterator<Item = B256> {
    send.attempts.iter().map(|attempt| attempt.hash)
}

fn receipt_call(hash: &B256) -> Call {
    Call::new("eth_getTransactionReceipt", json!([hash]))
}

fn collect(
    receipts: &mut HashMap<B256, Receipt>,
    answers: impl Iterator<Item = Answered>,
) -> Result<()> {
    for answer in answers {
        // An error is not the same as no receipt.
        let raw = answer.map_err(Failure::Refused)?;
        if let Some(receipt) = parse::<Option<Receipt>>("eth_getTransactionReceipt", &raw)? {
            receipts.insert(receipt.transaction_hash, receipt);
        }
    }
    Ok(())
}

/// How often to look: seldom while no block is due, often when one is.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    head: u64,
    /// When the head changed, and how long it had stood before.
    changed: Option<Instant>,
    period: Option<Duration>,
    /// Whether something was sent since the last look.
    sent: bool,
}

/// Chains that mine at once have done so by then.
const AT_ONCE: Duration = Duration::from_millis(10);
/// Between two looks while a block is due.
const DUE: Duration = Duration::from_millis(20);
/// While one is overdue, or none is known to be due.
const OVERDUE: Duration = Duration::from_millis(100);
/// While none is due yet.
const EARLY: Duration = Duration::from_millis(500);

impl Rhythm {
    /// A look found this head.
    pub(super) fn note(&mut self, head: u64) {
        if head == self.head {
            return;
        }
        let now = Instant::now();
        // Several blocks at once tell nothing, nor does the first.
        self.period = match self.changed {
            Some(changed) if head == self.head + 1 => Some(now - changed),
            _ => self.period,
        };
        (self.head, self.changed) = (head, Some(now));
    }

    /// Something was sent just now.
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    /// How long until the next look.
    pub(super) fn pause(&mut self) -> Duration {
        if std::mem::take(&mut self.sent) {
            return AT_ONCE;
        }
        let (Some(changed), Some(period)) = (self.changed, self.period) else { return OVERDUE };
        let standing = changed.elapsed();
        if standing + DUE < period {
            (period - standing - DUE).min(EARLY)
        } else if standing < period + Duration::from_millis(500) {
            DUE
        } else {
            OVERDUE
        }
    }
}
