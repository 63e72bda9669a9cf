//! What is counted: in this process's memory first, and every second added to the store, so that
//! any worker can tell the numbers of all.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::store::Counters;

/// The upper bounds of the latency histogram, in milliseconds.
const BOUNDS_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000];

/// Counters that the store has not yet.
#[derive(Debug, Default)]
pub(super) struct Meters(Mutex<Counters>);

impl Meters {
    pub(super) fn refused(&self, route: &str, reason: &str) {
        let name = format!("agirails_paywall_refusals_total{{route={route:?},reason={reason:?}}}");
        self.add([(name, 1)]);
    }

    pub(super) fn failed(&self, route: &str) {
        self.add([(format!("agirails_paywall_failed_runs_total{{route={route:?}}}"), 1)]);
    }

    pub(super) fn repeated(&self, route: &str) {
        self.add([(format!("agirails_paywall_repeats_total{{route={route:?}}}"), 1)]);
    }

    /// A handler that succeeded, from its claim to its kept answer.
    pub(super) fn served(&self, route: &str, took: Duration) {
        let name = "agirails_paywall_run_seconds";
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.iter().filter(|bound| ms <= **bound).map(|bound| {
            let bound = *bound as f64 / 1_000.0;
            (format!("{name}_bucket{{route={route:?},le=\"{bound}\"}}"), 1)
        });
        let rest = [
            (format!("{name}_bucket{{route={route:?},le=\"+Inf\"}}"), 1),
            (format!("{name}_count{{route={route:?}}}"), 1),
            (format!("{name}_sum_microseconds{{route={route:?}}}"), took.as_micros() as u64),
        ];
        self.add(bucket.chain(rest));
    }

    fn add(&self, more: impl IntoIterator<Item = (String, u64)>) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in more {
            *counters.entry(name).or_default() += value;
        }
    }

    /// What was counted since it was last taken.
    pub(super) fn take(&self) -> Counters {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What could not be added to the store.
    pub(super) fn put_back(&self, counters: Counters) {
        self.add(counters);
    }
}
