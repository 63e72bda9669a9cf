//! What is counted: in this process's memory first, and every second added to the store, so that
//! any worker can tell the numbers of all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::store::{Counters, DAY, Ran, Runs, quoted};

/// The upper bounds of the latency histogram, in milliseconds.
const BOUNDS_MS: [u32; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000];

/// What the store has not been told yet.
#[derive(Debug, Default)]
pub(super) struct Meters(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    counters: Counters,
    /// What the store did not take.
    refused: Runs,
    /// By day and route. Names of counters are long, and a run would touch fourteen of them.
    days: BTreeMap<u64, HashMap<String, Histogram>>,
}

/// Handlers that succeeded, from their claim to their kept answer, and how many failed.
#[derive(Debug, Default)]
struct Histogram {
    failed: u64,
    /// By the first bound that is long enough; the last place is for those beyond all.
    within: [u64; BOUNDS_MS.len() + 1],
    microseconds: u64,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let is_too_short = |bound: &u32| Duration::from_millis(u64::from(*bound)) < took;
        self.within[BOUNDS_MS.partition_point(is_too_short)] += 1;
        self.microseconds += took.as_micros() as u64;
    }

    /// As Prometheus has a histogram: each bucket counts those of the shorter ones too. All of
    /// them are there: a histogram whose buckets differ from route to route cannot be summed.
    fn counters(&self, route: &str) -> Vec<(String, u64)> {
        let (name, route) = ("agirails_paywall_run_seconds", quoted(route));
        let (mut count, mut counters) = (0, vec![]);
        if self.failed > 0 {
            counters.push((failures(&route), self.failed));
        }
        if self.within.iter().all(|more| *more == 0) {
            return counters;
        }
        let bounds = BOUNDS_MS.iter().map(|bound| (f64::from(*bound) / 1e3).to_string());
        for (bound, more) in bounds.chain(["+Inf".to_owned()]).zip(self.within) {
            count += more;
            counters.push((format!("{name}_bucket{{route={route},le=\"{bound}\"}}"), count));
        }
        counters.push((format!("{name}_count{{route={route}}}"), count));
        counters.push((format!("{name}_sum_microseconds{{route={route}}}"), self.microseconds));
        counters
    }

    /// As the books have it: each run counts once.
    fn runs(&self) -> impl Iterator<Item = (Ran, u64)> {
        let bounds = BOUNDS_MS.into_iter().map(Ran::Within).chain([Ran::Longer]);
        let ran = bounds.zip(self.within).chain([(Ran::Failed, self.failed)]);
        ran.filter(|(_, count)| *count > 0)
    }
}

fn failures(quoted_route: &str) -> String {
    format!("agirails_paywall_failed_runs_total{{route={quoted_route}}}")
}

impl Meters {
    pub(super) fn refused(&self, route: &str, reason: &str) {
        let route = quoted(route);
        let name =
            format!("agirails_paywall_rejections_total{{route={route},reason=\"{reason}\"}}");
        self.add([(name, 1)]);
    }

    /// A handler that failed, at this time.
    pub(super) fn failed(&self, route: &str, at: u64) {
        self.untold().histogram(route, at).failed += 1;
    }

    pub(super) fn repeated(&self, route: &str) {
        let route = quoted(route);
        self.add([(format!("agirails_paywall_repeats_total{{route={route}}}"), 1)]);
    }

    /// Events that the webhook never took.
    pub(super) fn gave_webhooks_up(&self, count: u64) {
        self.add([("agirails_paywall_webhooks_given_up_total".to_owned(), count)]);
    }

    /// A handler that succeeded, at this time.
    pub(super) fn served(&self, route: &str, at: u64, took: Duration) {
        self.untold().histogram(route, at).add(took);
    }

    fn add(&self, more: impl IntoIterator<Item = (String, u64)>) {
        add(&mut self.untold().counters, more);
    }

    /// What was counted since it was last taken.
    pub(super) fn take(&self) -> (Counters, Runs) {
        let Untold { mut counters, refused: mut all, days } = std::mem::take(&mut *self.untold());
        for (day, routes) in days {
            for (route, histogram) in routes {
                add(&mut counters, histogram.counters(&route));
                let runs = histogram.runs();
                add(&mut all, runs.map(|(ran, count)| ((day, route.clone(), ran), count)));
            }
        }
        (counters, all)
    }

    /// What could not be added to the store.
    pub(super) fn put_back(&self, counters: Counters, runs: Runs) {
        let mut untold = self.untold();
        add(&mut untold.counters, counters);
        add(&mut untold.refused, runs);
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Untold {
    fn histogram(&mut self, route: &str, at: u64) -> &mut Histogram {
        let routes = self.days.entry(at / DAY).or_default();
        routes.entry(route.to_owned()).or_default()
    }
}

fn add<K: Ord>(counters: &mut BTreeMap<K, u64>, more: impl IntoIterator<Item = (K, u64)>) {
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
        meters.served("GET /", 3 * DAY + 5, Duration::from_micros(5_900));
        let ((counted, runs), name) = (meters.take(), "agirails_paywall_run_seconds_bucket");
        assert_eq!(runs, Runs::from([((3, "GET /".to_owned(), Ran::Within(10)), 1)]));
        let bucket = |bound| counted[&format!(r#"{name}{{route="GET /",le="{bound}"}}"#)];
        assert_eq!(["0.005", "0.01", "0.025", "60", "+Inf"].map(bucket), [0, 1, 1, 1, 1]);
        assert_eq!(counted.len(), BOUNDS_MS.len() + 3);
    }

    #[test]
    fn what_the_store_did_not_take_is_not_lost_and_counts_once() {
        let meters = Meters::default();
        meters.served("GET /", DAY, Duration::from_secs(61));
        meters.failed("GET /", 2 * DAY);
        let taken = meters.take();
        meters.put_back(taken.0.clone(), taken.1.clone());
        meters.failed("GET /", 2 * DAY);
        let (counters, runs) = meters.take();
        assert_eq!(counters["agirails_paywall_failed_runs_total{route=\"GET /\"}"], 2);
        let key = |day, ran| (day, "GET /".to_owned(), ran);
        assert_eq!(runs, Runs::from([(key(1, Ran::Longer), 1), (key(2, Ran::Failed), 2)]));
        assert_eq!(meters.take(), (Counters::new(), Runs::new()));
    }
}
