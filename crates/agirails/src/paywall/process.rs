//! What belongs to one process: its name, the claims it runs, and who waits for what.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::Address;
use lru::LruCache;
use tokio::sync::{Mutex as Turn, Notify, oneshot};

use super::{
    call::Live,
    lock,
    repeat::Repeats,
    signer::Wallets,
    store::{Claim, Owner},
};
use crate::{
    error::Result,
    kernel::Kernel,
    protocol::{State, Transaction, TransactionId},
};

/// How many unknown ids wait to be looked up at most; those who came first are read first.
const MOST_WAITING: usize = 2_048;
/// How many of them one request reads, which takes a node as few calls as it may.
const IDS_PER_REQUEST: usize = 250;
/// How many such requests go out in a second, after a burst: public endpoints take some 25 calls.
const LOOKUPS_PER_SECOND: f64 = 5.0;
/// How many go out at once where few went before.
const BURST: f64 = 20.0;
/// How many are under way at once, so that one that is slow holds up few.
const READERS: usize = 4;
/// For how long an id that the kernel does not know is not asked for again: who has just made the
/// transaction, and asks again, finds it soon.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// How many ids are remembered as unknown.
const UNKNOWN: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

#[derive(Debug)]
pub(super) struct Process {
    pub(super) owner: Owner,
    /// A call was answered, or given back: whoever waits for one looks again.
    pub(super) answered: Notify,
    /// Something is owed on chain.
    pub(super) owed: Notify,
    /// Something was delivered.
    pub(super) settled: Notify,
    pub(super) lookups: Lookups,
    pub(super) wallets: Wallets,
    pub(super) is_tending: AtomicBool,
    /// What request bodies hold that are being read.
    pub(super) body_bytes: Arc<AtomicUsize>,
    /// Long answers that are being given again.
    pub(super) repeats: Repeats,
    /// One tree is made at a time.
    pub(super) trees: Turn<()>,
    running: Mutex<HashSet<Claim>>,
    streams: Mutex<HashMap<Claim, Arc<Live>>>,
    abandoned: Mutex<Vec<Claim>>,
}

impl Process {
    pub(super) fn new() -> Self {
        Self {
            owner: super::random(),
            answered: Notify::new(),
            owed: Notify::new(),
            settled: Notify::new(),
            lookups: Lookups::default(),
            wallets: Wallets::default(),
            is_tending: AtomicBool::new(false),
            body_bytes: Arc::default(),
            repeats: Repeats::default(),
            trees: Turn::default(),
            running: Mutex::default(),
            streams: Mutex::default(),
            abandoned: Mutex::default(),
        }
    }

    /// Renews this claim from now on.
    pub(super) fn hold(&self, claim: &Claim) {
        lock(&self.running).insert(claim.clone());
    }

    pub(super) fn let_go(&self, claim: &Claim) {
        lock(&self.running).remove(claim);
        self.answered.notify_waiters();
    }

    /// Has this claim given back by whoever tends the store next.
    pub(super) fn abandon(&self, claim: &Claim) {
        self.let_go(claim);
        lock(&self.abandoned).push(claim.clone());
        self.wake();
    }

    /// Ends this stream when its transaction is closed, from now on.
    pub(super) fn tend_stream(&self, live: &Arc<Live>) {
        lock(&self.streams).insert(live.claim.clone(), live.clone());
    }

    pub(super) fn leave_stream(&self, claim: &Claim) {
        lock(&self.streams).remove(claim);
    }

    pub(super) fn streams(&self) -> Vec<Arc<Live>> {
        lock(&self.streams).values().cloned().collect()
    }

    pub(super) fn runs(&self, claim: &Claim) -> bool {
        lock(&self.running).contains(claim)
    }

    pub(super) fn running(&self) -> Vec<Claim> {
        lock(&self.running).iter().cloned().collect()
    }

    pub(super) fn take_abandoned(&self) -> Vec<Claim> {
        std::mem::take(&mut *lock(&self.abandoned))
    }

    pub(super) fn put_back_abandoned(&self, claims: Vec<Claim>) {
        lock(&self.abandoned).extend(claims);
    }

    pub(super) fn wake(&self) {
        self.owed.notify_one();
    }

    /// Whether nobody tended before; then the caller must.
    pub(super) fn begin_tending(&self) -> bool {
        !self.is_tending.swap(true, Ordering::AcqRel)
    }
}

/// Reads of transactions that are not known yet. Whoever makes ids up makes the node read for them:
/// so many ids share one request, and requests have a rate, which leaves the node's own limit to
/// deliveries and to whoever pays.
#[derive(Debug)]
pub(super) struct Lookups {
    turns: Mutex<HashMap<TransactionId, Arc<Turn<()>>>>,
    queue: Arc<Mutex<Queue>>,
    unknown: Mutex<LruCache<TransactionId, Instant>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Lookup>,
    /// Tasks that read what waits.
    readers: usize,
    rate: Rate,
}

/// An id, and who waits for its transaction.
#[derive(Debug)]
struct Lookup {
    id: TransactionId,
    answer: oneshot::Sender<Result<Option<Transaction>>>,
}

/// How many requests may go out now, and when the next one may.
#[derive(Debug)]
struct Rate {
    /// Up to [`BURST`].
    tokens: f64,
    since: Instant,
}

impl Default for Rate {
    fn default() -> Self {
        Self { tokens: BURST, since: Instant::now() }
    }
}

impl Rate {
    /// Takes a token, or tells how long until there is one.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let gone = now.saturating_duration_since(self.since).as_secs_f64();
        self.tokens = (self.tokens + gone * LOOKUPS_PER_SECOND).min(BURST);
        self.since = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((1.0 - self.tokens) / LOOKUPS_PER_SECOND))
    }

    fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(BURST);
    }
}

impl Default for Lookups {
    fn default() -> Self {
        let unknown = Mutex::new(LruCache::new(UNKNOWN));
        Self { turns: Mutex::default(), queue: Arc::default(), unknown }
    }
}

impl Lookups {
    pub(super) fn turn(&self, id: TransactionId) -> Arc<Turn<()>> {
        let mut turns = lock(&self.turns);
        // Those that nobody waits for any more.
        if turns.len() >= MOST_WAITING {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(id).or_default().clone()
    }

    /// The transaction, `Some(Ok(None))` where the kernel does not know it; `None` where too many
    /// others wait. Those that can be served for this provider do not count against the rate.
    pub(super) async fn read(
        &self,
        kernel: &Arc<dyn Kernel>,
        provider: Address,
        id: TransactionId,
    ) -> Option<Result<Option<Transaction>>> {
        let (answer, found) = oneshot::channel();
        let reader = {
            let mut queue = lock(&self.queue);
            if queue.waiting.len() >= MOST_WAITING {
                return None;
            }
            queue.waiting.push_back(Lookup { id, answer });
            let begins = queue.readers < READERS;
            queue.readers += usize::from(begins);
            begins.then(|| Reader { queue: self.queue.clone(), is_counted: true })
        };
        if let Some(reader) = reader {
            // By itself, so that a caller who leaves holds up nobody.
            tokio::spawn(read_waiting(reader, kernel.clone(), provider));
        }
        // Without an answer its runtime ended.
        found.await.ok()
    }

    /// Whether the kernel did not know it a moment ago.
    pub(super) fn is_unknown(&self, id: TransactionId) -> bool {
        lock(&self.unknown).get(&id).is_some_and(|asked| asked.elapsed() < UNKNOWN_FOR)
    }

    pub(super) fn note_unknown(&self, id: TransactionId) {
        lock(&self.unknown).put(id, Instant::now());
    }
}

/// One of the tasks that read, counted for as long as it does.
struct Reader {
    queue: Arc<Mutex<Queue>>,
    is_counted: bool,
}

/// What a reader does next.
enum Next {
    Read(Vec<Lookup>),
    Wait(Duration),
    End,
}

impl Reader {
    fn next(&mut self) -> Next {
        let mut queue = lock(&self.queue);
        queue.waiting.retain(|lookup| !lookup.answer.is_closed());
        if queue.waiting.is_empty() {
            // Under the same lock, so that whoever comes next begins another.
            queue.readers -= 1;
            self.is_counted = false;
            return Next::End;
        }
        if let Some(pause) = queue.rate.take(Instant::now()) {
            return Next::Wait(pause);
        }
        let count = queue.waiting.len().min(IDS_PER_REQUEST);
        Next::Read(queue.waiting.drain(..count).collect())
    }
}

/// Its runtime may end in between.
impl Drop for Reader {
    fn drop(&mut self) {
        if self.is_counted {
            lock(&self.queue).readers -= 1;
        }
    }
}

/// Reads what waits, until nothing does.
async fn read_waiting(mut reader: Reader, kernel: Arc<dyn Kernel>, provider: Address) {
    loop {
        let lookups = match reader.next() {
            Next::Read(lookups) => lookups,
            Next::Wait(pause) => {
                tokio::time::sleep(pause).await;
                continue;
            }
            Next::End => return,
        };
        let ids: Vec<_> = lookups.iter().map(|lookup| lookup.id).collect();
        match kernel.get_transactions(&ids).await {
            Ok(found) => {
                let can_be_served = |transaction: &Transaction| {
                    transaction.provider == provider
                        && matches!(transaction.state, State::Committed | State::InProgress)
                };
                // Somebody paid for this one.
                if found.iter().flatten().any(can_be_served) {
                    lock(&reader.queue).rate.give_back();
                }
                for (lookup, transaction) in lookups.into_iter().zip(found) {
                    let _ = lookup.answer.send(Ok(transaction));
                }
            }
            Err(error) => {
                for lookup in lookups {
                    let _ = lookup.answer.send(Err(error.again()));
                }
            }
        }
    }
}

#[cfg(test)]
mod attacks {
    use super::*;

    #[test]
    fn made_up_ids_have_a_rate() {
        let start = Instant::now();
        let mut rate = Rate { tokens: BURST, since: start };
        // Asked every millisecond for ten seconds.
        let asked = (0..10_000).map(|turn| start + Duration::from_millis(turn));
        let taken = asked.filter(|now| rate.take(*now).is_none()).count();
        let most = BURST + 10.0 * LOOKUPS_PER_SECOND;
        assert!((most - 1.0..=most).contains(&(taken as f64)), "{taken}");
        // Whoever waits as long as told gets one.
        let later = start + Duration::from_secs(10);
        let pause = std::iter::from_fn(|| Some(rate.take(later))).flatten().next().unwrap();
        assert_eq!(rate.take(later + pause + Duration::from_millis(1)), None);
    }
}
