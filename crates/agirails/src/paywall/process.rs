//! What belongs to one process: its name, the claims it runs, and who waits for what.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lru::LruCache;
use tokio::sync::{Mutex as Turn, Notify, Semaphore, SemaphorePermit};

use super::{
    call::Live,
    lock,
    store::{Claim, Owner},
};
use crate::protocol::TransactionId;

/// How many unknown transactions are looked up at once.
const LOOKUPS: usize = 64;
/// How long one more waits for its turn: those who came first are read first.
const LOOKUP_WAIT: Duration = Duration::from_secs(1);
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
    pub(super) is_tending: AtomicBool,
    /// What request bodies hold that are being read.
    pub(super) body_bytes: Arc<AtomicUsize>,
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
            is_tending: AtomicBool::new(false),
            body_bytes: Arc::default(),
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

/// Reads of transactions that are not known yet: one at a time for each, and not too many.
#[derive(Debug)]
pub(super) struct Lookups {
    turns: Mutex<HashMap<TransactionId, Arc<Turn<()>>>>,
    permits: Semaphore,
    unknown: Mutex<LruCache<TransactionId, Instant>>,
}

impl Default for Lookups {
    fn default() -> Self {
        let unknown = Mutex::new(LruCache::new(UNKNOWN));
        Self { turns: Mutex::default(), permits: Semaphore::new(LOOKUPS), unknown }
    }
}

impl Lookups {
    pub(super) fn turn(&self, id: TransactionId) -> Arc<Turn<()>> {
        let mut turns = lock(&self.turns);
        // Those that nobody waits for any more.
        if turns.len() >= 2 * LOOKUPS {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(id).or_default().clone()
    }

    /// `None` where too many others wait.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(LOOKUP_WAIT, self.permits.acquire()).await.ok()?.ok()
    }

    /// Whether the kernel did not know it a moment ago.
    pub(super) fn is_unknown(&self, id: TransactionId) -> bool {
        lock(&self.unknown).get(&id).is_some_and(|asked| asked.elapsed() < UNKNOWN_FOR)
    }

    pub(super) fn note_unknown(&self, id: TransactionId) {
        lock(&self.unknown).put(id, Instant::now());
    }
}
