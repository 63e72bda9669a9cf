//! What is counted: in this process's memory first, and every second added to the store, so that
//! any worker can tell the numbers of all.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::store::{Counters, quoted};

/// The upper bounds of the latency histogram, in milliseconds.
const BOUNDS_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000];

/// What the store has not been told yet.
#[derive(Debug, Default)]
pub(super) struct Meters(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    counters: Counters,
    /// By route. Names of counters are long, and a run would touch fourteen of them.
    runs: HashMap<String, Runs>,
}

/// Handlers that succeeded, from their claim to their kept answer.
#[derive(Debug, Default)]
struct Runs {
    /// By the first bound that is long enough; the last place is for those beyond all.
    within: [u64; BOUNDS_MS.len() + 1],
    microseconds: u64,
}

impl Runs {
    fn add(&mut self, took: Duration) {
        let is_too_short = |bound: &u64| Duration::from_millis(*bound) < took;
        self.within[BOUNDS_MS.partition_point(is_too_short)] += 1;
        self.microseconds += took.as_micros() as u64;
    }

    /// As Prometheus has a histogram: each bucket counts those of the shorter ones too. All of
    /// them are there: a histogram whose buckets differ from route to route cannot be summed.
    fn counters(&self, route: &str) -> Vec<(String, u64)> {
        let (name, route) = ("agirails_paywall_run_seconds", quoted(route));
        let bounds = BOUNDS_MS.iter().map(|bound| (*bound as f64 / 1e3).to_string());
        let (mut count, mut counters) = (0, vec![]);
        for (bound, more) in bounds.chain(["+Inf".to_owned()]).zip(self.within) {
            count += more;
            counters.push((format!("{name}_bucket{{route={route},le=\"{bound}\"}}"), count));
        }
        counters.push((format!("{name}_count{{route={route}}}"), count));
        counters.push((format!("{name}_sum_microseconds{{route={route}}}"), self.microseconds));
        counters
    }
}

impl Meters {
    pub(super) fn refused(&self, route: &str, reason: &str) {
        let route = quoted(route);
        let name =
            format!("agirails_paywall_rejections_total{{route={route},reason=\"{reason}\"}}");
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

    /// Events that the webhook never took.
    pub(super) fn gave_webhooks_up(&self, count: u64) {
        self.add([("agirails_paywall_webhooks_given_up_total".to_owned(), count)]);
    }

    /// A handler that succeeded.
    pub(super) fn served(&self, route: &str, took: Duration) {
        let runs = &mut self.untold().runs;
        match runs.get_mut(route) {
            Some(known) => known.add(took),
            None => runs.entry(route.to_owned()).or_default().add(took),
        }
    }

    fn add(&self, more: impl IntoIterator<Item = (String, u64)>) {
        add(&mut self.untold().counters, more);
    }

    /// What was counted since it was last taken.
    pub(super) fn take(&self) -> Counters {
        let Untold { mut counters, runs } = std::mem::take(&mut *self.untold());
        add(&mut counters, runs.iter().flat_map(|(route, runs)| runs.counters(route)));
        counters
    }

    /// What could not be added to the store.
    pub(super) fn put_back(&self, counters: Counters) {
        self.add(counters);
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counters: &mut Counters, more: impl IntoIterator<Item = (String, u64)>) {
    for (name, value) in more {
        *counters.entry(name).or_default() += value;
    }
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
