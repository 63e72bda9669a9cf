//! The same from Python, ours and the peer's, on the same chain.

use std::{
    env, fs,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use agirails::TransactionId;
use serde_json::json;

use crate::{
    BLOCK, Plan,
    figures::{Figures, Outcome},
    ground::{Ground, phase},
    sends::{Blocks, note_blocks},
};

/// Which variable names the interpreter, and what it runs.
const SCRIPTS: [(&str, &str); SIDES] =
    [("BENCH_PYTHON", "chain_python"), ("PEER_PYTHON", "chain_peer")];
/// How many there are to share the transactions.
pub const SIDES: usize = 2;
/// How many transactions are read.
const READ: usize = 100;

pub async fn measure(
    figures: &mut Figures,
    plan: &Plan,
    ground: &Ground,
    ids: &[TransactionId],
    state: &Path,
) -> Outcome<()> {
    for ((variable, script), ids) in SCRIPTS.into_iter().zip(ids.chunks(plan.each())) {
        let python = env::var_os(variable).unwrap_or_default();
        if !Path::new(&python).exists() {
            println!("{variable} names no interpreter: no figures of {script}.py");
            continue;
        }
        let (singles, crowd) = ids.split_at(plan.singles);
        let handover = state.join("ground.json");
        fs::write(&handover, describe(plan, ground, singles, crowd).await?)?;
        let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches");
        let status = Command::new(&python)
            .arg(benches.join(script).with_extension("py"))
            .arg(&handover)
            .status()?;
        if !status.success() {
            return Err(format!("{script}.py failed").into());
        }
        note_blocks(figures, script, &ground.starts(crowd).await?);
    }
    Ok(())
}

/// All that a script has to know of the chain. The key is one that anvil publishes.
async fn describe(
    plan: &Plan,
    ground: &Ground,
    singles: &[TransactionId],
    crowd: &[TransactionId],
) -> Outcome<String> {
    let reads: Vec<_> = singles.iter().chain(crowd).take(READ).collect();
    let phases: Vec<_> = (0..singles.len()).map(|number| phase(number).as_secs_f64()).collect();
    let blocks = Blocks::watch(&ground.devnet.ws_url()).await?;
    let block = SystemTime::now() - blocks.newest().await?.elapsed();
    Ok(serde_json::to_string_pretty(&json!({
        "quick": plan.quick,
        "profile": ground.devnet.profile(),
        "slowUrl": ground.network.url(),
        "privateKey": ground.provider().secret(),
        "reads": reads,
        // Blocks come at this time and every so many seconds.
        "block": block.duration_since(UNIX_EPOCH)?.as_secs_f64(),
        "blockSeconds": BLOCK.as_secs_f64(),
        "singles": singles,
        "phases": phases,
        "crowd": crowd,
    }))?)
}
