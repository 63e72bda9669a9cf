//! A service behind a paywall, and a consumer who carries its requests there by hand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use agirails::{
    ACTPClient, Code, Generation, PrivateKey, State, TransactionId, Usdc,
    consumer::{
        Budget, Consumer, HttpFailure, HttpOutcome, HttpRequest, HttpResponse, PaidCall,
        PaidResponse, Purchase, Step,
    },
    kernel::TransactionQuery,
    paywall::{Answer, Charge, Entry, Incoming, Paywall, PaywallBuilder, Settings},
};

use crate::generation::generation;

pub const CENTS_10: Usdc = Usdc(100_000);
pub const DOLLAR: Usdc = Usdc(1_000_000);
pub const ORIGIN: &str = "https://api.example.com";

pub fn key(number: u64) -> PrivateKey {
    format!("{number:064x}").parse().unwrap()
}

pub async fn client(directory: &std::path::Path, number: u64) -> ACTPClient {
    client_on(generation(), directory, number).await
}

pub async fn client_on(
    generation: Generation,
    directory: &std::path::Path,
    number: u64,
) -> ACTPClient {
    let builder = ACTPClient::builder().private_key(key(number)).state_directory(directory);
    builder.generation(generation).connect().await.unwrap()
}

pub struct Fixture {
    pub directory: tempfile::TempDir,
    pub provider: ACTPClient,
    pub payer: ACTPClient,
    pub service: Service,
}

/// A paywall and what stands behind it, without HTTP between.
#[derive(Clone)]
pub struct Service {
    pub paywall: Paywall,
    charge: Arc<Mutex<Arc<Charge>>>,
    pub runs: Arc<AtomicU32>,
    /// What every request came with.
    pub seen: Arc<Mutex<Vec<HttpRequest>>>,
}

impl Service {
    pub async fn of(provider: ACTPClient, price: Usdc) -> Self {
        Self::with(Paywall::builder(provider), price).await
    }

    pub async fn with(builder: PaywallBuilder, price: Usdc) -> Self {
        let paywall = builder.open().await.unwrap();
        let charge = paywall.charge(Charge::new("POST /api/generate", price)).unwrap();
        let charge = Arc::new(Mutex::new(charge));
        Self { paywall, charge, runs: Arc::default(), seen: Arc::default() }
    }

    /// From now on it is sold so.
    pub fn sell(&self, charge: Charge) {
        *self.charge.lock().unwrap() = self.paywall.charge(charge).unwrap();
    }

    /// Answers as the service would over HTTP.
    pub async fn answer(&self, request: &HttpRequest) -> HttpResponse {
        self.seen.lock().unwrap().push(request.clone());
        let target = request.url.strip_prefix(ORIGIN).unwrap();
        let mut incoming = Incoming::new(&request.method, target, &request.body);
        for (name, value) in &request.headers {
            match name.as_str() {
                "X-AGIRAILS-TX-ID" => incoming.transaction_id = Some(value.clone()),
                "X-AGIRAILS-SIGNATURE" => incoming.signature = Some(value.clone()),
                "Idempotency-Key" => incoming.idempotency_key = Some(value.clone()),
                "X-AGIRAILS-SERVICE-KEY" => incoming.service_key = Some(value.clone()),
                "X-AGIRAILS-MAX-PRICE" => incoming.max_price = Some(value.clone()),
                _ => {}
            }
        }
        if let Some(page) = self.paywall.page(&incoming).await {
            return response(page);
        }
        if target.starts_with("/free") {
            return response(Answer::new(200, "free"));
        }
        let charge = self.charge.lock().unwrap().clone();
        // Where the price is worked out from the request, it stands in the query.
        let price = target.split_once("costs=").map(|(_, units)| Usdc(units.parse().unwrap()));
        response(match self.paywall.enter(&charge, &incoming, price).await {
            Entry::Answer(answer) => answer,
            Entry::Run(served) => {
                let run = self.runs.fetch_add(1, Ordering::SeqCst);
                let status = match target {
                    target if target.contains("unwell") => 422,
                    target if target.contains("broken") => 500,
                    _ => 200,
                };
                let answer = Answer::new(status, format!("answer {run}"));
                served.finish(answer.with("Content-Type", "text/plain")).await
            }
        })
    }

    pub fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

fn response(answer: Answer) -> HttpResponse {
    let text = |value: &Vec<u8>| String::from_utf8(value.clone()).unwrap();
    let headers = answer.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    HttpResponse { status: answer.status, headers, body: answer.body.into() }
}

impl Fixture {
    pub async fn new(price: Usdc) -> Self {
        Self::with(Settings::default(), price).await
    }

    pub async fn with(settings: Settings, price: Usdc) -> Self {
        Self::on(generation(), settings, price).await
    }

    pub async fn on(generation: Generation, settings: Settings, price: Usdc) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let provider = client_on(generation, directory.path(), 1).await;
        let payer = client_on(generation, directory.path(), 2).await;
        let paywall = Paywall::builder(provider.clone()).settings(settings);
        let service = Service::with(paywall, price).await;
        Self { directory, provider, payer, service }
    }

    pub async fn trusting(&self) -> Consumer {
        let builder = Consumer::builder(self.payer.clone());
        builder.trust(self.provider.address().to_string()).open().await.unwrap()
    }

    pub async fn wary(&self) -> Consumer {
        Consumer::builder(self.payer.clone()).open().await.unwrap()
    }

    pub async fn limited(&self, budget: Budget) -> Consumer {
        let builder = Consumer::builder(self.payer.clone()).trust(ORIGIN).budget(budget);
        builder.open().await.unwrap()
    }

    pub async fn buy(&self, consumer: &Consumer, call: PaidCall) -> agirails::Result<PaidResponse> {
        let service = self.service.clone();
        drive(consumer.purchase(call)?, async |request| {
            HttpOutcome::Answered(service.answer(&request).await)
        })
        .await
    }

    /// Pays for a call of a provider that falls silent once it has been paid.
    pub async fn buy_in_silence(&self, consumer: &Consumer) -> TransactionId {
        let impatient = call().timeout(Duration::from_secs(1));
        let error = drive(consumer.purchase(impatient).unwrap(), async |request| {
            let paid = request.headers.iter().any(|(name, _)| name == "X-AGIRAILS-TX-ID");
            match paid {
                false => HttpOutcome::Answered(self.service.answer(&request).await),
                true => HttpOutcome::Failed(HttpFailure::NotSent("gone".to_owned())),
            }
        })
        .await
        .unwrap_err();
        assert_eq!(error.code(), Code::CallFailed);
        error.facts().transaction_id.unwrap()
    }

    /// What the payer has put into escrow, whatever became of it.
    pub async fn paid(&self) -> (usize, Usdc) {
        paid(&self.payer).await
    }

    pub async fn becomes(&self, id: TransactionId, state: State) {
        for _ in 0..200 {
            if self.payer.get_transaction(id).await.unwrap().state == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{id} never becomes {state}");
    }
}

/// How many transactions a payer has funded, and with how much.
pub async fn paid(payer: &ACTPClient) -> (usize, Usdc) {
    let query = TransactionQuery { limit: 1_000, ..TransactionQuery::of(payer.address()) };
    let all = payer.find_transactions(&query).await.unwrap();
    let funded: Vec<_> = all.iter().filter(|tx| !tx.escrow_id.is_zero()).collect();
    (funded.len(), Usdc(funded.iter().map(|tx| tx.amount.0).sum()))
}

/// Drives a purchase with whatever carries its requests.
pub async fn drive(
    mut purchase: Purchase,
    mut carry: impl AsyncFnMut(HttpRequest) -> HttpOutcome,
) -> agirails::Result<PaidResponse> {
    let mut outcome = None;
    for _ in 0..500 {
        match purchase.next(outcome.take()).await? {
            Step::Send(request) => outcome = Some(carry(request).await),
            Step::Wait(time) => tokio::time::sleep(time.min(Duration::from_millis(20))).await,
            Step::Done(response) => return Ok(*response),
        }
    }
    panic!("the purchase never ends");
}

pub fn call() -> PaidCall {
    PaidCall::new("POST", format!("{ORIGIN}/api/generate"), CENTS_10).body(&b"{}"[..])
}
