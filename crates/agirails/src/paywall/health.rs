//! Whether the store answers, as far as this process knows: no money is asked for while nothing
//! can be served.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How long the store may take to answer a question before it counts as down.
pub(super) const PROBE: Duration = Duration::from_secs(2);
/// How long a failure counts: after it, the store is asked again.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// How long an answer counts.
const PROBED_FOR: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct StoreHealth {
    begun: Instant,
    /// Milliseconds from `begun` until which it counts as down, or as up.
    down_until: AtomicU64,
    up_until: AtomicU64,
}

impl Default for StoreHealth {
    fn default() -> Self {
        Self { begun: Instant::now(), down_until: AtomicU64::new(0), up_until: AtomicU64::new(0) }
    }
}

impl StoreHealth {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn after(&self, time: Duration) -> u64 {
        self.now() + time.as_millis() as u64
    }

    /// An operation failed.
    pub(super) fn failed(&self) {
        self.down_until.store(self.after(FAILED_FOR), Ordering::Relaxed);
        self.up_until.store(0, Ordering::Relaxed);
    }

    /// A claim was made.
    pub(super) fn succeeded(&self) {
        if self.down_until.load(Ordering::Relaxed) != 0 {
            self.down_until.store(0, Ordering::Relaxed);
        }
    }

    /// It was asked.
    pub(super) fn probed(&self, is_up: bool) {
        match is_up {
            true => self.up_until.store(self.after(PROBED_FOR), Ordering::Relaxed),
            false => self.failed(),
        }
    }

    /// Whether it is up; `None` where it has to be asked.
    pub(super) fn known(&self) -> Option<bool> {
        let now = self.now();
        if now < self.down_until.load(Ordering::Relaxed) {
            return Some(false);
        }
        (now < self.up_until.load(Ordering::Relaxed)).then_some(true)
    }
}
