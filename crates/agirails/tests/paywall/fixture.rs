//! A provider with a paywall and a requester who pays, on the embedded kernel.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agirails::{
    ACTPClient, B256, CreateTransaction, Mode, NetworkProfile, PrivateKey, State, TransactionId,
    Usdc,
    paywall::{Answer, Charge, Entry, Incoming, Paywall, PaywallBuilder, Run},
    protocol::paid_request::PaidRequest,
};
use rusqlite::Connection;
use serde_json::Value;

use crate::generation::generation;

pub const CENTS_10: Usdc = Usdc(100_000);
/// How long a transaction lives at least where a kernel wants an hour, in seconds.
pub const HOUR: u64 = 3_660;

pub fn key(number: u64) -> PrivateKey {
    format!("{number:064x}").parse().unwrap()
}

/// On the chain of this profile, or on the embedded kernel.
pub async fn client(
    key: PrivateKey,
    directory: &Path,
    profile: Option<&NetworkProfile>,
) -> ACTPClient {
    let mut builder = ACTPClient::builder().private_key(key).state_directory(directory);
    builder = match profile {
        Some(profile) => builder.mode(Mode::Testnet).network_profile(profile.clone()),
        None => builder.generation(generation()),
    };
    builder.connect().await.unwrap()
}

/// The paywalls' file below this directory, where one was opened.
pub fn store_in(directory: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(directory.join(".actp")).ok()?;
    let mut files = files.map(|file| file.unwrap().path());
    let is_store = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("paywall-") && name.ends_with(".sqlite3")
    };
    files.find(is_store)
}

/// What transactions for the paywalls below this directory are bound to; zero where none was opened
/// yet.
pub fn service_in(directory: &Path) -> B256 {
    let Some(path) = store_in(directory) else { return B256::ZERO };
    let file = Connection::open(path).unwrap();
    file.busy_timeout(Duration::from_secs(10)).unwrap();
    let sql = "SELECT value FROM meta WHERE name = 'service'";
    let service: [u8; 32] = file.query_row(sql, [], |row| row.get(0)).unwrap();
    service.into()
}

pub struct Stage {
    pub provider: ACTPClient,
    pub requester: ACTPClient,
    pub directory: tempfile::TempDir,
}

impl Stage {
    pub async fn new() -> Self {
        Self::on(None).await
    }

    /// The same two, on the chain of this profile.
    pub async fn on(profile: Option<&NetworkProfile>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client = async |number| client(key(number), directory.path(), profile).await;
        let (provider, requester) = (client(1).await, client(2).await);
        Self { provider, requester, directory }
    }

    pub fn builder(&self) -> PaywallBuilder {
        Paywall::builder(self.provider.clone())
    }

    pub async fn paywall(&self) -> Paywall {
        self.builder().open().await.unwrap()
    }

    pub async fn funded(&self, amount: Usdc) -> TransactionId {
        self.funded_for(amount, HOUR).await
    }

    pub async fn funded_for(&self, amount: Usdc, seconds: u64) -> TransactionId {
        self.fund(amount, seconds, service_in(self.directory.path())).await
    }

    /// One that is bound to something else than the paywall of this stage.
    pub async fn funded_with(&self, amount: Usdc, service_hash: B256) -> TransactionId {
        self.fund(amount, HOUR, service_hash).await
    }

    async fn fund(&self, amount: Usdc, seconds: u64, service_hash: B256) -> TransactionId {
        // Where the kernel wants it to live longer, its clock goes on until so many seconds are left.
        let spare = match self.requester.network().terms.least_lifetime_seconds() {
            least if seconds <= least => HOUR.saturating_sub(seconds),
            _ => 0,
        };
        let deadline = self.requester.now().await.unwrap() + seconds + spare;
        let mut request = CreateTransaction::new(
            self.requester.address(),
            self.provider.address(),
            amount,
            deadline,
        );
        request.service_hash = service_hash;
        let id = self.requester.create_transaction(&request).await.unwrap();
        self.requester.link_escrow(id).await.unwrap();
        if spare > 0 {
            self.requester.mock().unwrap().advance_time(spare).await.unwrap();
        }
        id
    }

    pub async fn state(&self, id: TransactionId) -> State {
        self.requester.get_transaction(id).await.unwrap().state
    }

    /// Waits until the outbox has moved a transaction there.
    pub async fn becomes(&self, id: TransactionId, state: State) {
        for _ in 0..200 {
            if self.state(id).await == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} is {} and not {state}", self.state(id).await);
    }

    /// The file that its paywalls share.
    pub fn store_file(&self) -> PathBuf {
        store_in(self.directory.path()).unwrap()
    }

    /// Changes that file by other hands.
    pub fn rewrite(&self, sql: &str) {
        let file = Connection::open(self.store_file()).unwrap();
        file.busy_timeout(Duration::from_secs(10)).unwrap();
        file.execute_batch(sql).unwrap();
    }

    /// A request that its requester signed.
    pub async fn signed(&self, id: TransactionId, key: Option<&str>, body: &[u8]) -> Incoming {
        self.signed_by(2, id, key, "/api/generate", body).await
    }

    pub async fn signed_by(
        &self,
        number: u64,
        id: TransactionId,
        idempotency_key: Option<&str>,
        target: &str,
        body: &[u8],
    ) -> Incoming {
        let now = self.requester.now().await.unwrap();
        let mut request = PaidRequest::new(id, "POST", target, body, now);
        request.idempotency_key = idempotency_key.unwrap_or_default().to_owned();
        let network = self.requester.network();
        let header = key(number).sign_request(&request, network.chain_id, network.kernel).unwrap();
        let mut incoming = unsigned(id, target, body);
        incoming.idempotency_key = idempotency_key.map(str::to_owned);
        incoming.signature = Some(header);
        incoming
    }
}

pub fn unsigned(id: TransactionId, target: &str, body: &[u8]) -> Incoming {
    let mut incoming = Incoming::new("POST", target, body);
    incoming.transaction_id = Some(id.to_string());
    incoming
}

pub fn charge(paywall: &Paywall, price: Usdc) -> Arc<Charge> {
    paywall.charge(Charge::new("POST /api/generate", price)).unwrap()
}

pub fn ok(text: &str) -> Answer {
    Answer::new(200, text).with("Content-Type", "text/plain")
}

pub fn run(entry: Entry) -> Run {
    match entry {
        Entry::Run(run) => *run,
        Entry::Answer(answer) => panic!("{} {}", answer.status, body(&answer)),
    }
}

pub fn answer(entry: Entry) -> Answer {
    match entry {
        Entry::Answer(answer) => answer,
        Entry::Run(run) => panic!("let in: {run:?}"),
    }
}

pub fn body(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

pub fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}
