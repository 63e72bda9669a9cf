//! Figures of the paywall from Rust: `cargo bench -p agirails --features tower --bench paywall`, and
//! with `-- --quick` for a look.
//!
//! One core: everything runs in a runtime of one thread. Prepaid calls go through the tower layer,
//! 64 at a time, each with its own key; every claim and every answer is durable before it counts.

mod figures;

use std::{
    env,
    hint::black_box,
    time::{Duration, Instant},
};

use agirails::{
    ACTPClient, CreateTransaction, PrivateKey, TransactionId, Usdc,
    paywall::{Charge, Incoming, Paywall, PaywallLayer, Settings},
    protocol::paid_request::{
        IDEMPOTENCY_HEADER, PaidRequest, SIGNATURE_HEADER, TRANSACTION_HEADER,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::json;
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
        for (name, survive_power_cut) in [("layer", false), ("layer_synced", true)] {
            for is_signed in [false, true] {
                let name = if is_signed { format!("{name}_signed") } else { name.to_owned() };
                prepaid(&mut figures, &name, calls, survive_power_cut, is_signed).await?;
            }
        }
        Outcome::Ok(figures)
    })?;
    let report = json!({"profile": profile(), "quick": quick, "figures": figures.0});
    std::fs::write(state.join("paywall_rust.json"), serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

struct Ground {
    paywall: Paywall,
    provider: ACTPClient,
    requester: ACTPClient,
    key: PrivateKey,
    _directory: tempfile::TempDir,
}

impl Ground {
    async fn new(survive_power_cut: bool) -> Outcome<Self> {
        let directory = tempfile::tempdir_in(state()?)?;
        let key: PrivateKey = format!("{:064x}", 2).parse()?;
        let builder = || ACTPClient::builder().state_directory(directory.path());
        // Without a key: receipts are signed where there is one, which is measured elsewhere.
        let provider = builder().address([0xaa; 20].into()).connect().await?;
        let requester = builder().private_key(key.clone()).connect().await?;
        let settings = Settings { survive_power_cut, ..Settings::default() };
        let paywall = Paywall::builder(provider.clone()).settings(settings).open().await?;
        Ok(Self { paywall, provider, requester, key, _directory: directory })
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
    let ground = Ground::new(false).await?;
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

async fn prepaid(
    figures: &mut Figures,
    name: &str,
    calls: usize,
    survive_power_cut: bool,
    is_signed: bool,
) -> Outcome<()> {
    let ground = Ground::new(survive_power_cut).await?;
    let least = 1_000_000 / PRICE.0;
    let charge = Charge::new("POST /api/generate", PRICE).calls(least as u32);
    let charge = ground.paywall.charge(charge)?;
    let id = ground.balance(least.max(calls as u64)).await?;
    let now = ground.requester.now().await?;
    let mut requests = Vec::with_capacity(calls);
    for number in 0..calls {
        let paid = paid(id, &format!("call-{number}"), now);
        let mut request = Request::post(TARGET)
            .header(TRANSACTION_HEADER, id.to_string())
            .header(IDEMPOTENCY_HEADER, &paid.idempotency_key);
        if is_signed {
            request = request.header(SIGNATURE_HEADER, sign(&ground, &paid).await?);
        }
        requests.push(request.body(Full::new(Bytes::from_static(b"{}")))?);
    }
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
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let per_second = calls as f64 / begun.elapsed().as_secs_f64();
    println!("{name:<30} {per_second:>9.0} calls/s, {AT_ONCE} at a time");
    figures.note(name, times);
    if let Some(figure) = figures.0.get_mut(name) {
        figure["per_second"] = json!(per_second);
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
