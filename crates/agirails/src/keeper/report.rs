//! What a keeper did, and what it has to do.

use std::fmt::Write;

use serde::Serialize;

use super::event::{Recovery, Settlement};

/// What one round did, and what it left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Report {
    /// Whether nothing was sent or written: `settled` and `recovered` hold what would be moved.
    pub is_dry_run: bool,
    /// Whether another keeper of the same key was at work, so that this one did nothing, or no more.
    pub is_busy: bool,
    /// How many events were read.
    pub events: u64,
    /// What was settled.
    pub settled: Vec<Settlement>,
    /// What was returned to requesters.
    pub recovered: Vec<Recovery>,
    /// How many transactions ended by other hands.
    pub ended: u64,
    /// How many settlements and returns failed. They are tried again.
    pub failed: u64,
    /// How many delivered transactions wait: for the end of their window, for the next try, or for cheaper
    /// gas.
    pub waiting: u64,
    /// How many wait because they are not worth their gas.
    pub unprofitable: u64,
    /// How many transactions wait for their resolver.
    pub disputed: u64,
    /// How many were begun and never delivered, so that their money can be returned.
    pub stalled: u64,
    /// From when on the next one can be moved, by the kernel's clock, Unix seconds; not those that are
    /// unprofitable.
    pub next_due_at: Option<u64>,
}

/// What a keeper did since its state file was made, and what it has to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Metrics {
    /// How many transactions it settled. One whose outcome it did not see, because its process was
    /// killed, counts as settled by others.
    pub settled_total: u128,
    /// How many transactions' money it returned to their requesters; counted as `settled_total` is.
    pub recovered_total: u128,
    /// How many delivered transactions wait.
    pub waiting: u64,
    /// How many wait because they are not worth their gas.
    pub unprofitable: u64,
    /// How many transactions are disputed.
    pub disputed: u64,
    /// How many were begun and never delivered, so that their money can be returned.
    pub stalled: u64,
    /// For how long the oldest one could have been moved, by the kernel's clock as it was read last; not
    /// those that are unprofitable.
    pub oldest_due_seconds: u64,
    /// How many tries failed.
    pub failures_total: u128,
    /// What its transactions cost, in wei.
    pub gas_wei_total: u128,
    /// Up to where it has read the kernel's events.
    pub cursor: u64,
}

impl Metrics {
    /// The metrics as Prometheus reads them.
    ///
    /// ```
    /// let text = agirails::keeper::Metrics::default().to_prometheus();
    /// assert!(text.contains("\nagirails_keeper_settled_total 0\n"));
    /// ```
    pub fn to_prometheus(&self) -> String {
        let Self { settled_total, recovered_total, failures_total, gas_wei_total, .. } = self;
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: u128| {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# HELP agirails_keeper_{name} {help}\n# TYPE agirails_keeper_{name} {kind}\n\
                 agirails_keeper_{name} {value}\n"
            );
        };
        line("settled_total", "counter", "Transactions that were settled.", *settled_total);
        line("recovered_total", "counter", "Transactions that were recovered.", *recovered_total);
        line("failures_total", "counter", "Tries that failed.", *failures_total);
        line("gas_wei_total", "counter", "Gas that was paid, in wei.", *gas_wei_total);
        for (name, help, value) in [
            ("waiting", "Delivered transactions that wait.", self.waiting),
            ("unprofitable", "Transactions that are not worth their gas.", self.unprofitable),
            ("disputed", "Transactions that are disputed.", self.disputed),
            ("stalled", "Begun and never delivered, so recoverable.", self.stalled),
            ("oldest_due_seconds", "Age of the oldest one that is due.", self.oldest_due_seconds),
            ("cursor", "The place up to which events were read.", self.cursor),
        ] {
            line(name, "gauge", help, value.into());
        }
        text
    }
}
