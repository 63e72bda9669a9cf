//! The state file under all that can happen to it: other threads, processes and forks, kills,
//! damage, a full disk, and many transactions.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod children;
mod cost;
mod damage;
mod forking;
mod sharing;

use std::{future::Future, path::Path};

use agirails::{
    Address, CreateTransaction, LinkEscrow, State, Storage, TransactionId, Usdc,
    kernel::{
        Kernel, Transition,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
};
use rusqlite::Connection;

const USDC: u64 = 1_000_000;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn options(directory: &Path) -> EmbeddedOptions {
    EmbeddedOptions::new(Storage::Directory(directory.to_owned()))
}

async fn open(directory: &Path) -> agirails::Result<EmbeddedKernel> {
    EmbeddedKernel::open(options(directory)).await
}

fn state_file(directory: &Path) -> std::path::PathBuf {
    directory.join(".actp/kernel.sqlite3")
}

fn party(number: u64) -> Address {
    Address::left_padding_from(&(number + 1).to_be_bytes())
}

async fn create(kernel: &dyn Kernel, requester: Address) -> agirails::Result<TransactionId> {
    let deadline = kernel.now().await? + 86_400;
    let request = CreateTransaction::new(requester, party(1_000), Usdc(USDC), deadline);
    kernel.create_transaction(requester, &request).await
}

async fn step(
    kernel: &dyn Kernel,
    by: Address,
    id: TransactionId,
    to: State,
) -> agirails::Result<()> {
    let transition = Transition { id, to, data: vec![], proof: None };
    kernel.transition_state(by, &transition).await.map(drop)
}

/// A paid call of one USDC: five writes.
async fn paid_call(kernel: &dyn Kernel, requester: Address) -> agirails::Result<TransactionId> {
    let id = create(kernel, requester).await?;
    kernel.link_escrow(requester, id, LinkEscrow::default()).await?;
    step(kernel, party(1_000), id, State::InProgress).await?;
    step(kernel, party(1_000), id, State::Delivered).await?;
    step(kernel, requester, id, State::Settled).await?;
    Ok(id)
}

/// The file as SQLite sees it: sound, every base unit there, and the vault holding exactly what
/// the transactions say.
fn assert_sound(directory: &Path) {
    let file = Connection::open(state_file(directory)).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let number = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let verdict: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    assert_eq!(
        number("SELECT coalesce(sum(balance), 0) FROM accounts"),
        number("SELECT minted FROM kernel")
    );
    let kernel = run(open(directory)).unwrap();
    let vault = run(kernel.balance(kernel.network().vault)).unwrap();
    assert_eq!(
        vault.0 as i64,
        number("SELECT coalesce(sum(remaining + dispute_bond), 0) FROM transactions")
    );
}
