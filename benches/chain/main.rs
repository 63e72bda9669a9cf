//! Figures of the chain kernel on a local chain: `cargo bench -p agirails --bench chain`, and with
//! `-- --quick` fewer rounds. It needs anvil, which `make` installs and AGIRAILS_ANVIL names.
//!
//! Where BENCH_PYTHON names an interpreter that has our wheel, and PEER_PYTHON one that has the
//! peer's, their figures are measured on the same chain.

mod catch_up;
#[path = "../figures.rs"]
mod figures;
mod ground;
mod heap;
mod node;
mod python;
mod reads;
mod sends;
mod trips;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use serde_json::json;

use figures::{Figures, Outcome};
use ground::Ground;

/// As on Base.
const BLOCK: Duration = Duration::from_secs(2);
/// How much longer each request takes where sending is measured: a node on the same continent.
const LATENCY: Duration = Duration::from_millis(30);

/// How much is measured.
struct Plan {
    quick: bool,
    /// Events to catch up with.
    events: u64,
    reads: usize,
    /// Times that the round trips of each call are counted.
    counts: usize,
    /// Transitions one after another, and all at once.
    singles: usize,
    crowd: usize,
}

impl Plan {
    /// How many transitions are measured from each side.
    const fn each(&self) -> usize {
        self.singles + self.crowd
    }
}

const FULL: Plan =
    Plan { quick: false, events: 1_000_000, reads: 5_000, counts: 3, singles: 15, crowd: 200 };
const QUICK: Plan =
    Plan { quick: true, events: 100_000, reads: 500, counts: 1, singles: 3, crowd: 50 };

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [role, upstream, events] = arguments.as_slice()
        && role == node::ROLE
    {
        return node::serve(upstream, events.parse()?);
    }
    let asked = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo test --all-targets` starts this program too, but without the flag.
    if !asked("--bench") {
        return Ok(());
    }
    // The bare HTTP client has to have one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    measure(if asked("--quick") { QUICK } else { FULL }).await
}

async fn measure(plan: Plan) -> Outcome<()> {
    let started = Instant::now();
    let state = figures::state()?;
    figures::forget(&state, &["chain", "chain_python", "chain_peer", "ground"])?;
    let mut figures = Figures::default();

    let ground = Ground::start().await?;
    // First, while this process is small.
    catch_up::measure(&mut figures, &plan, &ground).await?;
    let ids = ground.committed(plan.each() * (1 + python::SIDES)).await?;
    let (ours, others) = ids.split_at(plan.each());
    reads::measure(&mut figures, &plan, &ground, &ids).await?;
    let trips = trips::count(&plan, &ground, &ids).await?;
    ground.slow_down().await?;
    sends::measure(&mut figures, &plan, &ground, ours).await?;
    python::measure(&mut figures, &plan, &ground, others, &state).await?;

    let report = json!({
        "profile": figures::profile(),
        "quick": plan.quick,
        "block_ns": BLOCK.as_nanos() as u64,
        "latency_ns": LATENCY.as_nanos() as u64,
        "singles": plan.singles,
        "crowd": plan.crowd,
        "events": plan.events,
        "figures": figures.0,
        "trips": trips,
    });
    fs::write(state.join("chain.json"), serde_json::to_string_pretty(&report)?)?;
    println!("all of it took {:.0?}", started.elapsed());
    Ok(())
}

/// A figure that is no time.
fn put(figures: &mut Figures, name: &str, value: f64) {
    println!("{name:<30} {value:>18.1}");
    figures.0.insert(name.to_owned(), json!({ "value": value }));
}
