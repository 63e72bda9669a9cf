//! What the Rust benchmarks share: times, their statistics, and the file that report.py reads.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Where figures and filled state directories lie.
pub fn state() -> Outcome<PathBuf> {
    let state = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench-state");
    fs::create_dir_all(&state)?;
    Ok(state)
}

/// Removes what earlier runs left: what is put side by side was measured in one run.
pub fn forget(state: &Path, names: &[&str]) -> Outcome<()> {
    for name in names {
        let stale = state.join(name).with_extension("json");
        if stale.exists() {
            fs::remove_file(stale)?;
        }
    }
    Ok(())
}

pub const fn profile() -> &'static str {
    if cfg!(debug_assertions) { "dev" } else { "release" }
}

/// All figures by name; the part behind the slash is a size.
#[derive(Default)]
pub struct Figures(pub BTreeMap<String, Value>);

impl Figures {
    pub fn note(&mut self, name: impl Into<String>, mut times: Vec<Duration>) {
        times.sort_unstable();
        let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let per_second = times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64();
        let name = name.into();
        println!("{name:<30} median {median:>10.2?}   p99 {p99:>10.2?}   {per_second:>9.0}/s");
        let figure = json!({
            "median_ns": median.as_nanos() as u64,
            "p99_ns": p99.as_nanos() as u64,
            "max_ns": times.last().map(|time| time.as_nanos() as u64),
            "per_second": per_second,
        });
        self.0.insert(name, figure);
    }
}

/// The times of several operations, in the order in which they were first seen.
#[allow(dead_code, reason = "not every benchmark has several")]
#[derive(Default)]
pub struct Stopwatch(pub Vec<(&'static str, Vec<Duration>)>);

#[allow(dead_code, reason = "not every benchmark has several")]
impl Stopwatch {
    pub async fn time<T>(&mut self, name: &'static str, call: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let output = call.await;
        self.note(name, started.elapsed());
        output
    }

    pub fn note(&mut self, name: &'static str, time: Duration) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(time),
            None => self.0.push((name, vec![time])),
        }
    }
}
