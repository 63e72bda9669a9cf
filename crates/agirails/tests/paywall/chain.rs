//! The paywall on a chain: what was served is delivered there, in one block.

use std::time::Duration;

use agirails::{
    ACTPClient, B256, CreateTransaction, Event, Generation, NetworkProfile, PrivateKey, State,
    TransactionId, Usdc,
    kernel::Transition,
    paywall::{Deliver, Entry, Incoming, Paywall, Settings},
    protocol::paid_request::PaidRequest,
};
use agirails_devnet::Devnet;

use crate::fixture::{CENTS_10, HOUR, answer, charge, client, ok, run, service_in};
use crate::generation::generation;

pub struct Local {
    pub devnet: Devnet,
    pub provider: ACTPClient,
    pub consumer: ACTPClient,
    consumer_key: PrivateKey,
    directory: tempfile::TempDir,
}

impl Local {
    pub async fn start() -> Self {
        Self::on(generation()).await
    }

    pub async fn on(generation: Generation) -> Self {
        let devnet = Devnet::builder().generation(generation).start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [provider_key, consumer_key] =
            [1, 2].map(|number| devnet.accounts()[number].private_key.clone());
        let client = async |key| client(key, directory.path(), Some(devnet.profile())).await;
        let (provider, consumer) = (client(provider_key).await, client(consumer_key.clone()).await);
        Self { devnet, provider, consumer, consumer_key, directory }
    }

    /// The provider, who reaches the chain at another address.
    pub async fn provider_at(&self, url: &str) -> ACTPClient {
        let profile =
            NetworkProfile { rpc_urls: vec![url.to_owned()], ..self.devnet.profile().clone() };
        let key = self.devnet.accounts()[1].private_key.clone();
        client(key, self.directory.path(), Some(&profile)).await
    }

    pub async fn funded(&self, amount: Usdc, seconds: u64) -> TransactionId {
        let deadline = self.consumer.now().await.unwrap() + seconds;
        let (requester, provider) = (self.consumer.address(), self.provider.address());
        let mut request = CreateTransaction::new(requester, provider, amount, deadline);
        request.service_hash = service_in(self.directory.path());
        let id = self.consumer.create_transaction(&request).await.unwrap();
        self.consumer.link_escrow(id).await.unwrap();
        id
    }

    pub async fn signed(&self, id: TransactionId, key: Option<&str>) -> Incoming {
        let now = self.consumer.now().await.unwrap();
        let mut request = PaidRequest::new(id, "POST", "/api/generate", b"{}", now);
        request.idempotency_key = key.unwrap_or_default().to_owned();
        let network = self.consumer.network();
        let mut incoming = Incoming::new("POST", "/api/generate", b"{}");
        incoming.transaction_id = Some(id.to_string());
        incoming.idempotency_key = key.map(str::to_owned);
        let header = self.consumer_key.sign_request(&request, network.chain_id, network.kernel);
        incoming.signature = Some(header.unwrap());
        incoming
    }

    async fn becomes(&self, id: TransactionId, state: State) {
        for _ in 0..300 {
            if self.consumer.get_transaction(id).await.unwrap().state == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{id} never became {state}");
    }

    /// The times of the blocks in which a transaction moved to these states.
    async fn moved(&self, id: TransactionId, states: [State; 2]) -> [u64; 2] {
        let events = self.consumer.events(0, 10_000).await.unwrap();
        states.map(|state| {
            let moved = events.iter().find_map(|record| match record.event {
                Event::StateTransitioned { transaction_id, new_state, timestamp, .. }
                    if transaction_id == id && new_state == state =>
                {
                    Some(timestamp)
                }
                _ => None,
            });
            moved.unwrap()
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_call_is_delivered_and_an_unused_one_given_back() {
    let local = Local::start().await;
    let settings = Settings { deliver: Deliver::Confirmed, ..Settings::default() };
    let paywall = Paywall::builder(local.provider.clone()).settings(settings).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let (id, unused) = (local.funded(CENTS_10, HOUR).await, local.funded(CENTS_10, 7_200).await);
    let request = local.signed(id, None).await;
    let first = run(paywall.enter(&charge, &request, None).await).finish(ok("hello")).await;
    assert_eq!(first.status, 200);
    // It waited for the chain.
    assert_eq!(local.consumer.get_transaction(id).await.unwrap().state, State::Delivered);
    assert_eq!(answer(paywall.enter(&charge, &request, None).await).body, b"hello");
    assert!(local.provider.get_delivery_proof(id).await.unwrap().is_some());
    let before = local.consumer.balance().await.unwrap();
    local.devnet.advance_time(7_150).await.unwrap();
    local.becomes(unused, State::Cancelled).await;
    let back = Usdc(before.0 + CENTS_10.0);
    assert_eq!(local.consumer.balance().await.unwrap(), back);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_progress_and_delivered_go_out_together_and_once() {
    let local = Local::start().await;
    let id = local.funded(CENTS_10, HOUR).await;
    // Two blocks would be a second apart.
    local.devnet.set_automine(false).await.unwrap();
    let data = local.provider.network().terms.encode_delivery(3_600, B256::repeat_byte(7));
    let delivery = Transition { id, to: State::Delivered, data, proof: None };
    let provider = local.provider.clone();
    let sender = provider.address();
    let (kernel, twin) = (provider.kernel().clone(), delivery.clone());
    let delivering = tokio::spawn(async move { kernel.deliver(sender, &twin).await });
    for _ in 0..100 {
        let pending = local.devnet.rpc("txpool_status", serde_json::json!([])).await.unwrap();
        if pending["pending"] == "0x2" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    local.devnet.mine(1).await.unwrap();
    local.devnet.set_automine(true).await.unwrap();
    delivering.await.unwrap().unwrap();
    let [begun, delivered] = local.moved(id, [State::InProgress, State::Delivered]).await;
    assert_eq!(begun, delivered, "they came in one block");
    let again = provider.kernel().deliver(sender, &delivery).await.unwrap_err();
    assert!(again.refusal().is_some(), "{again}");
    // One that was begun already needs the rest only.
    let begun = local.funded(CENTS_10, HOUR).await;
    let begin = Transition { id: begun, to: State::InProgress, data: vec![], proof: None };
    provider.kernel().transition_state(sender, &begin).await.unwrap();
    let delivery = Transition { id: begun, ..delivery };
    provider.kernel().deliver(sender, &delivery).await.unwrap();
    local.becomes(begun, State::Delivered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_the_chain_takes_back_is_done_again() {
    let local = Local::start().await;
    let paywall = Paywall::builder(local.provider.clone()).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let id = local.funded(CENTS_10, HOUR).await;
    local.devnet.mine(3).await.unwrap();
    let request = local.signed(id, None).await;
    let Entry::Run(served) = paywall.enter(&charge, &request, None).await else { panic!() };
    served.finish(ok("hello")).await;
    local.becomes(id, State::Delivered).await;
    local.devnet.reorganise(2).await.unwrap();
    // Sent again by the sender that watches its transactions, or by the outbox that looks over them.
    local.becomes(id, State::Delivered).await;
}
