//! Figures of the paywall from Rust: `cargo bench -p agirails --features postgres,tower --bench paywall`,
//! and with `-- --quick` for a look.
//!
//! One core: everything runs in a runtime of one thread, but for the PostgreSQL server, which has
//! processes of its own and waits for its disk. Prepaid calls go through the tower layer, 64 at a time,
//! each with its own key, all from one balance unless it says otherwise; every claim and every answer is
//! in the store before it counts.

mod figures;

use std::{
    env,
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use agirails::{
    ACTPClient, CreateTransaction, PrivateKey, TransactionId, Usdc,
    paywall::{Charge, Incoming, Paywall, PaywallLayer, Settings},
    protocol::paid_request::{
        IDEMPOTENCY_HEADER, PaidRequest, SIGNATURE_HEADER, TRANSACTION_HEADER,
    },
};
use agirails_devnet::Postgres;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio_postgres::NoTls;
use tower_layer::Layer;
use tower_service::Service;

use figures::{Figures, Outcome, forget, profile, state};

const PRICE: Usdc = Usdc(10);
const AT_ONCE: usize = 64;
const TARGET: &str = "/api/generate";

fn main() -> Outcome<()> {
    let quick = env::args().any(|argument| argument == "--quick");
    let (calls, checks) = if quick { (2_000, 20_000) } else { (40_000, 200_000) };
    let state = state()?;
    forget(&state, &["paywall_rust"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        let mut figures = Figures::default();
        verification(&mut figures, checks).await?;
        let server = Postgres::start_synced()?;
        commits(&mut figures, &server.url(), calls / 20).await?;
        for (store, server) in [("layer", None), ("postgres", Some(&server))] {
            for (name, survive_power_cut) in
                [(store.to_owned(), false), (format!("{store}_synced"), true)]
            {
                let place = Place { server, survive_power_cut };
                let calls = if server.is_some() { calls / 4 } else { calls };
                let run = Run { calls, balances: 1, at_once: AT_ONCE, is_signed: false };
                prepaid(&mut figures, &name, &place, run).await?;
                let signed = Run { is_signed: true, ..run };
                prepaid(&mut figures, &format!("{name}_signed"), &place, signed).await?;
                let many = Run { balances: AT_ONCE, ..run };
                prepaid(&mut figures, &format!("{name}_many"), &place, many).await?;
                let alone = Run { calls: calls / 10, at_once: 1, ..run };
                prepaid(&mut figures, &format!("{name}_alone"), &place, alone).await?;
            }
        }
        Outcome::Ok(figures)
    })?;
    let report = json!({"profile": profile(), "quick": quick, "figures": figures.0});
    std::fs::write(state.join("paywall_rust.json"), serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// Where claims are kept.
#[derive(Default)]
struct Place<'a> {
    /// A new database of this server; a file of this machine where `None`.
    server: Option<&'a Postgres>,
    survive_power_cut: bool,
}

/// Which calls.
#[derive(Clone, Copy)]
struct Run {
    calls: usize,
    balances: usize,
    at_once: usize,
    is_signed: bool,
}

struct Ground {
    paywall: Paywall,
    database: Option<String>,
    provider: ACTPClient,
    requester: ACTPClient,
    key: PrivateKey,
    directory: tempfile::TempDir,
}

impl Ground {
    async fn new(place: &Place<'_>) -> Outcome<Self> {
        let directory = tempfile::tempdir_in(state()?)?;
        let key: PrivateKey = format!("{:064x}", 2).parse()?;
        let builder = || ACTPClient::builder().state_directory(directory.path());
        // Without a key: receipts are signed where there is one, which is measured elsewhere.
        let provider = builder().address([0xaa; 20].into()).connect().await?;
        let requester = builder().private_key(key.clone()).connect().await?;
        let settings =
            Settings { survive_power_cut: Some(place.survive_power_cut), ..Settings::default() };
        let mut paywall = Paywall::builder(provider.clone()).settings(settings);
        let mut database = None;
        if let Some(server) = place.server {
            let url = new_database(server).await?;
            paywall = paywall.database(url.as_str());
            database = Some(url);
        }
        let paywall = paywall.open().await?;
        Ok(Self { paywall, database, provider, requester, key, directory })
    }

    /// How much the store has on the disk, its log not counted.
    async fn bytes(&self) -> Outcome<u64> {
        if let Some(url) = &self.database {
            let client = connected(url).await?;
            let sql = "SELECT pg_database_size(current_database())";
            return Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0) as u64);
        }
        let mut bytes = 0;
        for entry in std::fs::read_dir(self.directory.path().join(".actp"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("paywall") && name.ends_with(".sqlite3") {
                bytes += entry.metadata()?.len();
            }
        }
        Ok(bytes)
    }

    async fn balance(&self, calls: u64) -> Outcome<TransactionId> {
        let request = CreateTransaction::new(
            self.requester.address(),
            self.provider.address(),
            Usdc(PRICE.0 * calls),
            self.requester.now().await? + 86_400,
        );
        let id = self.requester.create_transaction(&request).await?;
        self.requester.link_escrow(id).await?;
        Ok(id)
    }
}

/// All checks of a call whose transaction is known, up to its claim.
async fn verification(figures: &mut Figures, rounds: usize) -> Outcome<()> {
    let ground = Ground::new(&Place::default()).await?;
    let id = ground.balance(100_000).await?;
    let charge = ground.paywall.charge(Charge::new("POST /api/generate", PRICE).calls(100_000))?;
    let mut incoming = Incoming::new("POST", TARGET, b"{}");
    incoming.transaction_id = Some(id.to_string());
    incoming.idempotency_key = Some("call".to_owned());
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        let refusal = black_box(ground.paywall.check(&charge, &incoming, None).await);
        times.push(begun.elapsed());
        assert!(refusal.is_none());
    }
    figures.note("verification", times);
    let request = paid(id, "call", ground.requester.now().await?);
    incoming.signature = Some(sign(&ground, &request).await?);
    let mut times = Vec::with_capacity(rounds / 10);
    for _ in 0..rounds / 10 {
        let begun = Instant::now();
        let refusal = black_box(ground.paywall.check(&charge, &incoming, None).await);
        times.push(begun.elapsed());
        assert!(refusal.is_none());
    }
    figures.note("verification_signed", times);
    Ok(())
}

async fn connected(url: &str) -> Outcome<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Transactions have the same ids in every new ledger: in a database that has their calls, they would
/// be repeats.
async fn new_database(server: &Postgres) -> Outcome<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("of_run_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let client = connected(&server.url()).await?;
    client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    Ok(server.database_url(&name))
}

/// What one commit takes that the server syncs: the anchor of a call's two.
async fn commits(figures: &mut Figures, url: &str, rounds: usize) -> Outcome<()> {
    let client = connected(url).await?;
    client.batch_execute("CREATE TABLE one AS SELECT 0 AS n").await?;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        client.batch_execute("UPDATE one SET n = n + 1").await?;
        times.push(begun.elapsed());
    }
    figures.note("postgres_commit", times);
    Ok(())
}

async fn prepaid(figures: &mut Figures, name: &str, place: &Place<'_>, run: Run) -> Outcome<()> {
    let Run { calls, balances, at_once, is_signed } = run;
    let ground = Ground::new(place).await?;
    let least = 1_000_000 / PRICE.0;
    let charge = Charge::new("POST /api/generate", PRICE).calls(least as u32);
    let charge = ground.paywall.charge(charge)?;
    let mut ids = Vec::with_capacity(balances);
    for _ in 0..balances {
        ids.push(ground.balance(least.max(calls as u64)).await?);
    }
    let now = ground.requester.now().await?;
    let mut requests = Vec::with_capacity(calls);
    for number in 0..calls {
        let id = ids[number % balances];
        let paid = paid(id, &format!("call-{number}"), now);
        let mut request = Request::post(TARGET)
            .header(TRANSACTION_HEADER, id.to_string())
            .header(IDEMPOTENCY_HEADER, &paid.idempotency_key);
        if is_signed {
            request = request.header(SIGNATURE_HEADER, sign(&ground, &paid).await?);
        }
        requests.push(request.body(Full::new(Bytes::from_static(b"{}")))?);
    }
    let empty = ground.bytes().await?;
    let service = PaywallLayer::new(&ground.paywall, &charge).layer(Handler);
    let begun = Instant::now();
    let times: Vec<Duration> = stream::iter(requests)
        .map(|request| {
            let mut service = service.clone();
            async move {
                let begun = Instant::now();
                let response = service.call(request).await.unwrap_or_else(|never| match never {});
                assert_eq!(response.status(), 200);
                black_box(response.into_body().collect().await.is_ok());
                begun.elapsed()
            }
        })
        .buffer_unordered(at_once)
        .collect()
        .await;
    let per_second = calls as f64 / begun.elapsed().as_secs_f64();
    println!("{name:<30} {per_second:>9.0} calls/s, {at_once} at a time");
    figures.note(name, times);
    let bytes_per_call = ground.bytes().await?.saturating_sub(empty) / calls as u64;
    if let Some(figure) = figures.0.get_mut(name) {
        figure["per_second"] = json!(per_second);
        figure["bytes_per_call"] = json!(bytes_per_call);
    }
    Ok(())
}

fn paid(id: TransactionId, key: &str, now: u64) -> PaidRequest {
    let mut request = PaidRequest::new(id, "POST", TARGET, b"{}", now);
    request.idempotency_key = key.to_owned();
    request
}

async fn sign(ground: &Ground, request: &PaidRequest) -> Outcome<String> {
    let network = ground.requester.network();
    Ok(ground.key.sign_request(request, network.chain_id, network.kernel)?)
}

/// A handler that answers at once: what is measured is the paywall.
#[derive(Clone)]
struct Handler;

impl Service<Request<Full<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Full<Bytes>>) -> Self::Future {
        let body = Full::new(Bytes::from_static(b"{\"result\":\"done\"}"));
        std::future::ready(Ok(Response::new(body)))
    }
}
