//! Figures of the embedded kernel from Rust: `cargo bench -p agirails --bench embedded`, and
//! with `-- --quick` for smaller files and fewer rounds.
//!
//! Filled state directories stay under `target/bench-state` for the next run and for
//! `python_bench.py`; whatever writes is measured on copies of them.

mod figures;

use std::{
    env,
    fs::{self, File},
    hint::black_box,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agirails::{
    ACTPClient, Address, CreateTransaction, Evidence, PrivateKey, State, TransactionId, Usdc,
    protocol::{
        did::Did,
        proof::{DeliveryMessage, DeliveryProof, DeliveryProofRequest, ProofGenerator},
    },
};
use alloy_primitives::keccak256;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use tempfile::TempDir;

use figures::{Figures, Outcome, Stopwatch};

const REQUESTERS: u64 = 1_000;
const PROVIDERS: u64 = 50;
const SAMPLED_IDS: u32 = 20_000;
const AMOUNT: Usdc = Usdc(100_000);
const MONTH_SECONDS: u64 = 30 * 86_400;

/// How much is measured.
struct Plan {
    /// Transactions in the file before anything is measured.
    sizes: &'static [u64],
    reads: usize,
    lifecycles: usize,
    signatures: usize,
    /// Deliverables: bytes, and how many times they are hashed.
    deliverables: [(usize, usize); 3],
}

const FULL: Plan = Plan {
    sizes: &[0, 1_000, 10_000, 1_000_000],
    reads: 20_000,
    lifecycles: 2_000,
    signatures: 1_000,
    deliverables: [(1_000, 10_000), (1_000_000, 100), (100_000_000, 5)],
};

const QUICK: Plan = Plan {
    sizes: &[0, 1_000, 10_000],
    reads: 2_000,
    lifecycles: 200,
    signatures: 100,
    deliverables: [(1_000, 1_000), (1_000_000, 10), (100_000_000, 1)],
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let asked = |flag: &str| env::args().any(|argument| argument == flag);
    // `cargo test --all-targets` starts this program too, but without the flag.
    if !asked("--bench") {
        return Ok(());
    }
    let quick = asked("--quick");
    let plan = if quick { QUICK } else { FULL };
    let state = figures::state()?;
    figures::forget(&state, &["rust", "python", "python_async", "peer"])?;

    let mut figures = Figures::default();
    for &size in plan.sizes {
        let filled = state.join(size.to_string());
        fill(&filled, size).await?;
        let ids = sample_ids(&filled)?;
        let copy = TempDir::new_in(&state)?;
        copy_state(&filled, copy.path())?;
        measure_kernel(&mut figures, &plan, size, copy.path(), ids).await?;
    }
    measure_hashing(&mut figures, &plan)?;
    measure_signing(&mut figures, &plan)?;

    let report = json!({
        "profile": figures::profile(),
        "quick": quick,
        "sizes": plan.sizes,
        "figures": figures.0,
    });
    fs::write(state.join("rust.json"), serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

fn time<T, E>(rounds: usize, mut call: impl FnMut() -> Result<T, E>) -> Result<Vec<Duration>, E> {
    let mut once = || {
        let started = Instant::now();
        black_box(call()?);
        Ok(started.elapsed())
    };
    (0..rounds).map(|_| once()).collect()
}

fn address(role: &str, number: u64) -> Address {
    Address::from_word(keccak256(format!("{role} {number}")))
}

async fn connect(directory: &Path, address: Address) -> Outcome<ACTPClient> {
    Ok(ACTPClient::builder().address(address).state_directory(directory).connect().await?)
}

fn state_file(directory: &Path) -> PathBuf {
    directory.join(".actp/kernel.sqlite3")
}

fn open_read_only(directory: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(state_file(directory), OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Makes a state directory with so many transactions, unless it is there from an earlier run.
async fn fill(directory: &Path, size: u64) -> Outcome<()> {
    let total = open_read_only(directory).and_then(|connection| {
        connection.query_row("SELECT count(*) FROM transactions", [], |row| row.get::<_, i64>(0))
    });
    if total.is_ok_and(|total| total.cast_unsigned() == size) {
        return Ok(());
    }
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    let requesters: Vec<_> = (0..REQUESTERS).map(|n| address("requester", n)).collect();
    let providers: Vec<_> = (0..PROVIDERS).map(|n| address("provider", n)).collect();
    let client = connect(directory, requesters[0]).await?;
    let deadline = client.now().await? + MONTH_SECONDS;
    let started = Instant::now();
    let mut last_told = started;
    for done in 0..size {
        let requester = requesters[(done % REQUESTERS) as usize];
        let provider = providers[(done / REQUESTERS % PROVIDERS) as usize];
        let request = CreateTransaction::new(requester, provider, AMOUNT, deadline);
        client.kernel().create_transaction(requester, &request).await?;
        if last_told.elapsed() >= Duration::from_secs(1) {
            last_told = Instant::now();
            let left = started.elapsed().as_secs_f64() * (size - done) as f64 / done as f64;
            eprintln!("filling: {done} of {size} transactions, {left:.0} s left");
        }
    }
    Ok(())
}

/// Ids from all over the file, in random order; also into `ids.txt`, one a line.
fn sample_ids(directory: &Path) -> Outcome<Vec<TransactionId>> {
    let connection = open_read_only(directory)?;
    let mut statement =
        connection.prepare("SELECT id FROM transactions ORDER BY random() LIMIT ?1")?;
    let ids = statement
        .query_map([SAMPLED_IDS], |row| row.get::<_, [u8; 32]>(0).map(TransactionId::from))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut file = File::create(directory.join("ids.txt"))?;
    ids.iter().try_for_each(|id| writeln!(file, "{id}"))?;
    Ok(ids)
}

/// Synced, so that the disk rests while the copy is measured.
fn copy_state(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir(to.join(".actp"))?;
    for entry in fs::read_dir(from.join(".actp"))? {
        let original = entry?;
        let copy = to.join(".actp").join(original.file_name());
        fs::copy(original.path(), &copy)?;
        File::open(&copy)?.sync_all()?;
    }
    Ok(())
}

/// The verbs, the lifecycle and the reads, with a client for each side.
async fn measure_kernel(
    figures: &mut Figures,
    plan: &Plan,
    size: u64,
    directory: &Path,
    mut ids: Vec<TransactionId>,
) -> Outcome<()> {
    let consumer = connect(directory, address("consumer", 0)).await?;
    let provider = connect(directory, address("provider", 0)).await?;
    if let Some(mock) = consumer.mock() {
        mock.mint(consumer.address(), Usdc(AMOUNT.0 * plan.lifecycles as u64)).await?;
    }
    let deadline = consumer.now().await? + MONTH_SECONDS;
    let request = CreateTransaction::new(consumer.address(), provider.address(), AMOUNT, deadline);
    let none = Evidence::None;

    let mut watch = Stopwatch::default();
    for _ in 0..plan.lifecycles {
        let started = Instant::now();
        let id = watch.time("create_transaction", consumer.create_transaction(&request)).await?;
        watch.time("link_escrow", consumer.link_escrow(id)).await?;
        let start = provider.transition_state(id, State::InProgress, none.clone());
        watch.time("IN_PROGRESS", start).await?;
        let proof = prove(id, &[7; 1_000])?;
        let deliver = provider.transition_state(id, State::Delivered, proof.into());
        watch.time("DELIVERED", deliver).await?;
        let settle = consumer.transition_state(id, State::Settled, none.clone());
        watch.time("SETTLED", settle).await?;
        watch.note("lifecycle", started.elapsed());
        if size == 0 {
            ids.push(id);
        }
    }
    for id in ids.iter().cycle().take(plan.reads) {
        black_box(watch.time("get_transaction", consumer.get_transaction(*id)).await?);
    }
    for (name, times) in watch.0 {
        figures.note(format!("{name}/{size}"), times);
    }

    let yardstick = open_read_only(directory)?;
    yardstick.pragma_update(None, "cache_size", -16_384)?;
    let mut statement = yardstick.prepare(
        "SELECT * FROM transactions WHERE substr(id, 1, 8) = substr(?1, 1, 8) AND id = ?1",
    )?;
    let columns = statement.column_count();
    let mut ids = ids.iter().cycle();
    let times = time(plan.reads, || {
        statement.query_row([ids.next().map(|id| id.as_slice())], |row| {
            (0..columns)
                .try_for_each(|column| row.get_ref(column).map(|value| _ = black_box(value)))
        })
    })?;
    figures.note(format!("sqlite_point_read/{size}"), times);
    Ok(())
}

fn prove(transaction_id: TransactionId, deliverable: &[u8]) -> agirails::Result<DeliveryProof> {
    Ok(ProofGenerator.generate_delivery_proof(DeliveryProofRequest {
        transaction_id,
        deliverable,
        timestamp_ms: 1_780_000_000_000,
        ..Default::default()
    })?)
}

fn measure_hashing(figures: &mut Figures, plan: &Plan) -> Outcome<()> {
    for (bytes, rounds) in plan.deliverables {
        let deliverable = vec![7; bytes];
        prove(TransactionId::ZERO, &deliverable)?;
        let times = time(rounds, || prove(TransactionId::ZERO, black_box(&deliverable)))?;
        figures.note(format!("delivery_proof/{bytes}"), times);
    }
    Ok(())
}

fn measure_signing(figures: &mut Figures, plan: &Plan) -> Outcome<()> {
    // A published test key.
    let key: PrivateKey = format!("{:064x}", 1).parse()?;
    let kernel = address("kernel", 0);
    let did = |address| Did { chain_id: 31_337, address }.into();
    let message = DeliveryMessage {
        transaction_id: TransactionId::repeat_byte(7),
        provider: did(key.address()),
        consumer: did(address("consumer", 0)),
        result_cid: String::new(),
        result_hash: keccak256("42"),
        eas_attestation_uid: Default::default(),
        delivered_at: 1_780_000_000,
        chain_id: 31_337,
        nonce: 1,
    };
    let signed = key.sign_delivery(message.clone(), kernel)?;
    figures.note("sign", time(plan.signatures, || key.sign_delivery(message.clone(), kernel))?);
    figures.note("recover", time(plan.signatures, || signed.recover(kernel))?);
    // What it would take in Rust alone.
    let hash = message.hash_to_sign(key.address(), kernel)?;
    let recover = || signed.signature.recover_from_prehash(&hash);
    figures.note("recover_k256", time(plan.signatures, recover)?);
    Ok(())
}
