//! Looking at the chain: which nonces it has passed, which receipts there are, and when to look
//! again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, U64, U256};
use alloy_rpc_types_eth::Log;
use serde::Deserialize;
use serde_json::json;

use super::journal::{Send, State};
use crate::{
    error::Result,
    kernel::{
        GasCost,
        chain::rpc::{Answered, Call, Failure, Rpc, parse},
    },
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
    /// What was paid is for the books alone: a node that does not tell it costs nothing.
    #[serde(default)]
    gas_used: U256,
    #[serde(default)]
    effective_gas_price: U256,
    /// What an OP stack chain takes for its data on layer 1.
    #[serde(default)]
    l1_fee: Option<U256>,
}

impl Receipt {
    pub(super) fn block(&self) -> u64 {
        self.block_number.to()
    }

    pub(super) fn gas_cost(&self) -> GasCost {
        let execution = self.gas_used.saturating_mul(self.effective_gas_price);
        let cost = execution.saturating_add(self.l1_fee.unwrap_or_default());
        GasCost(cost.saturating_to())
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
///
/// When a block came is known as exactly as it was looked for, so only one that came between two
/// looks close to each other tells when others are due: not one that was found after a rest.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    head: u64,
    looked: Option<Instant>,
    sighted: Option<Sighting>,
    period: Option<Duration>,
    /// Whether something was sent since the last look.
    sent: bool,
}

/// The last block that was seen coming: after one look, before the next.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    head: u64,
    before: Instant,
    after: Instant,
}

/// Chains that mine at once have done so by then.
const AT_ONCE: Duration = Duration::from_millis(10);
/// Between two looks while a block is due.
const DUE: Duration = Duration::from_millis(20);
/// While one is overdue, or none is known to be due.
const OVERDUE: Duration = Duration::from_millis(100);
/// While none is due yet.
const EARLY: Duration = Duration::from_millis(500);
/// A block that came between two looks so far apart was seen coming.
const CLOSE: Duration = Duration::from_millis(300);
/// So many blocks after the last one that was seen coming, nobody knows when the next is due.
const FORESEEN: u32 = 10;

impl Rhythm {
    /// A look found this head.
    pub(super) fn note(&mut self, head: u64, now: Instant) {
        let before = self.looked.replace(now);
        if head == self.head {
            return;
        }
        self.head = head;
        let Some(before) = before.filter(|before| now - *before <= CLOSE) else { return };
        let Some(earlier) = self.sighted.replace(Sighting { head, before, after: now }) else {
            return;
        };
        let blocks = head.checked_sub(earlier.head).and_then(|blocks| u32::try_from(blocks).ok());
        let Some(blocks) = blocks.filter(|blocks| (1..=FORESEEN).contains(blocks)) else { return };
        // The two tell no more than this. What fits is kept; of a new one the shorter is assumed,
        // since looking too early costs less than looking too late.
        let shortest = before.saturating_duration_since(earlier.after) / blocks;
        let longest = (now - earlier.before) / blocks;
        self.period = Some(self.period.unwrap_or(shortest).clamp(shortest, longest));
    }

    /// Something was sent just now.
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    /// How long until the next look.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        if std::mem::take(&mut self.sent) {
            return AT_ONCE;
        }
        let Some((due, doubt)) = self.next_block() else { return OVERDUE };
        if now + doubt < due {
            (due - now - doubt).min(EARLY)
        } else if now < due + EARLY {
            DUE
        } else {
            OVERDUE
        }
    }

    /// When the next block is due, and how much earlier it may come.
    fn next_block(&self) -> Option<(Instant, Duration)> {
        let Sighting { head, before, .. } = self.sighted?;
        let blocks = u32::try_from(self.head.checked_sub(head)?).ok()?.checked_add(1)?;
        (blocks <= FORESEEN).then_some(())?;
        Some((before + self.period? * blocks, DUE * blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const BLOCK: Duration = Duration::from_secs(2);
    const ROUND_TRIP: Duration = Duration::from_millis(30);

    /// A chain with a block every two seconds behind a network, at a time that is told.
    struct Chain {
        rhythm: Rhythm,
        begin: Instant,
        now: Instant,
    }

    impl Chain {
        fn begin() -> Self {
            let now = Instant::now();
            Self { rhythm: Rhythm::default(), begin: now, now: now + 300 * MILLISECOND }
        }

        fn head(&self, at: Instant) -> u64 {
            (at - self.begin).as_millis() as u64 / BLOCK.as_millis() as u64
        }

        fn look(&mut self) -> u64 {
            let head = self.head(self.now + ROUND_TRIP / 2);
            self.now += ROUND_TRIP;
            self.rhythm.note(head, self.now);
            head
        }

        /// Looks as one does while nobody waits: each second, and after ten of them no more.
        fn rest(&mut self, time: Duration) {
            let until = self.now + time;
            let linger = self.now + 10 * Duration::from_secs(1);
            while self.now + Duration::from_secs(1) < until.min(linger) {
                self.now += Duration::from_secs(1);
                self.look();
            }
            self.now = until;
        }

        /// Sends; tells how long after its block that is known, and after how many looks.
        fn send(&mut self) -> (Duration, u32) {
            self.now += ROUND_TRIP;
            let block = self.head(self.now) + 1;
            self.rhythm.sent();
            let mut looks = 1;
            while self.look() < block {
                self.now += self.rhythm.pause(self.now);
                looks += 1;
            }
            (self.now - (self.begin + BLOCK * block as u32), looks)
        }
    }

    #[test]
    fn a_block_is_known_two_round_trips_after_it_came() {
        let mut chain = Chain::begin();
        // What is learnt of the first blocks is not exact.
        for _ in 0..3 {
            chain.send();
        }
        for number in 0..200 {
            // At all moments between two blocks, one or a few apart.
            chain.rest(number % 5 * BLOCK + (number * 618 % 2_000) * MILLISECOND);
            let (late, looks) = chain.send();
            assert!(late <= 2 * ROUND_TRIP + DUE, "call {number} was {late:?} late");
            assert!(looks <= 16, "call {number} took {looks} looks");
        }
    }

    #[test]
    fn after_a_long_rest_nothing_is_assumed() {
        let mut chain = Chain::begin();
        for number in 0..50 {
            chain.rest(Duration::from_secs(60) + (number * 618 % 2_000) * MILLISECOND);
            let (late, looks) = chain.send();
            assert!(late <= 2 * ROUND_TRIP + OVERDUE, "call {number} was {late:?} late");
            assert!(looks <= 20, "call {number} took {looks} looks");
        }
    }
}
