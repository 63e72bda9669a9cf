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
        let route = quoted(route);
        let name = format!("agirails_paywall_refusals_total{{route={route},reason=\"{reason}\"}}");
        self.add([(name, 1)]);
    }

    pub(super) fn failed(&self, route: &str) {
        let route = quoted(route);
        self.add([(format!("agirails_paywall_failed_runs_total{{route={route}}}"), 1)]);
    }

    pub(super) fn repeated(&self, route: &str) {
        let route = quoted(route);
        self.add([(format!("agirails_paywall_repeats_total{{route={route}}}"), 1)]);
    }

    /// A handler that succeeded, from its claim to its kept answer.
    pub(super) fn served(&self, route: &str, took: Duration) {
        let (name, route) = ("agirails_paywall_run_seconds", quoted(route));
        // All of them: a histogram whose buckets differ from route to route cannot be summed.
        let buckets = BOUNDS_MS.iter().map(|bound| {
            let (is_within, seconds) = (took <= Duration::from_millis(*bound), *bound as f64 / 1e3);
            (format!("{name}_bucket{{route={route},le=\"{seconds}\"}}"), is_within.into())
        });
        let rest = [
            (format!("{name}_bucket{{route={route},le=\"+Inf\"}}"), 1),
            (format!("{name}_count{{route={route}}}"), 1),
            (format!("{name}_sum_microseconds{{route={route}}}"), took.as_micros() as u64),
        ];
        self.add(buckets.chain(rest));
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

/// A label's value as Prometheus reads it, which knows these three escapes and no others.
pub(super) fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_the_three_escapes_of_prometheus_and_no_others() {
        assert_eq!(
            quoted("GET /\"a\\b\"\n\u{e9}\u{301}\t"),
            "\"GET /\\\"a\\\\b\\\"\\n\u{e9}\u{301}\t\""
        );
    }

    #[test]
    fn a_run_counts_in_every_bucket_that_is_long_enough_and_in_no_other() {
        let meters = Meters::default();
        meters.served("GET /", Duration::from_micros(5_900));
        let (counted, name) = (meters.take(), "agirails_paywall_run_seconds_bucket");
        let bucket = |bound| counted[&format!(r#"{name}{{route="GET /",le="{bound}"}}"#)];
        assert_eq!(["0.005", "0.01", "0.025", "60", "+Inf"].map(bucket), [0, 1, 1, 1, 1]);
        assert_eq!(counted.len(), BOUNDS_MS.len() + 3);
    }
}
