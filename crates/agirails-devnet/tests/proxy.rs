//! A bad network in front of a devnet. Needs anvil.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::time::{Duration, Instant};

use agirails::{Result, Usdc};
use agirails_devnet::{Devnet, Fault, FaultProxy, Faults, Head, Rule};
use alloy_primitives::{Address, Bytes, U64, keccak256};
use serde_json::{Value, json};

/// What a caller hears: status and body, or nothing.
struct Caller {
    client: reqwest::Client,
    url: String,
}

impl Caller {
    fn of(proxy: &FaultProxy) -> Self {
        // As the devnet does for itself; the client panics without.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { client: reqwest::Client::new(), url: proxy.url().to_owned() }
    }

    async fn post(&self, body: Value) -> reqwest::Result<(u16, String)> {
        let answer = self.client.post(&self.url).body(body.to_string());
        let answer = answer.header("content-type", "application/json").send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    async fn json(&self, body: Value) -> Value {
        let (status, text) = self.post(body).await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn result(&self, method: &str, params: Value) -> Value {
        self.json(call(1, method, params)).await["result"].clone()
    }
}

fn call(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn block_number() -> Value {
    call(1, "eth_blockNumber", json!([]))
}

/// A transaction that one of the devnet's accounts signed.
async fn signed(devnet: &Devnet, nonce: u64) -> Result<Value> {
    let transaction = json!({
        "from": devnet.accounts()[0].address, "to": Address::repeat_byte(9), "value": "0x1",
        "gas": "0x5208", "maxFeePerGas": "0x77359400", "maxPriorityFeePerGas": "0x1",
        "nonce": U64::from(nonce), "chainId": "0x7a69", "type": "0x2",
    });
    devnet.rpc("eth_signTransaction", json!([transaction])).await
}

async fn value(devnet: &Devnet) -> Result<Value> {
    devnet.rpc("eth_getBalance", json!([Address::repeat_byte(9), "latest"])).await
}

#[tokio::test]
async fn without_rules_everything_passes_and_is_counted() {
    let devnet = Devnet::start().await.unwrap();
    let proxy = FaultProxy::start(devnet.rpc_url()).unwrap();
    let caller = Caller::of(&proxy);
    assert_eq!(caller.result("eth_chainId", json!([])).await, "0x7a69");
    let batch = json!([block_number(), call(2, "eth_chainId", json!([]))]);
    let answers = caller.json(batch).await;
    assert_eq!(answers[1]["result"], "0x7a69");
    let stats = proxy.stats();
    assert_eq!((stats.requests, stats.calls_of("eth_chainId"), stats.faults), (2, 2, 0));
    assert_eq!(stats.calls_of("eth_blockNumber"), 1);
}

#[tokio::test]
async fn answers_are_lost_refused_and_spoilt() {
    let devnet = Devnet::start().await.unwrap();
    let proxy = FaultProxy::start(devnet.rpc_url()).unwrap();
    let caller = Caller::of(&proxy);
    for fault in [Fault::DropAnswer, Fault::Cut, Fault::Truncate] {
        proxy.add(Rule::new(fault).times(1));
        assert!(caller.post(block_number()).await.is_err(), "{fault:?}");
        assert!(caller.post(block_number()).await.is_ok(), "{fault:?}");
    }
    for status in [429, 500, 502] {
        proxy.add(Rule::new(Fault::Status(status)).on("eth_blockNumber").times(1));
        let batch = json!([call(7, "eth_chainId", json!([])), block_number()]);
        assert_eq!(caller.post(batch).await.unwrap().0, status);
    }
    proxy.add(Rule::new(Fault::Garbage));
    let (status, text) = caller.post(block_number()).await.unwrap();
    assert_eq!(status, 200);
    assert!(serde_json::from_str::<Value>(&text).is_err());
    proxy.clear();
    caller.json(block_number()).await;
    assert_eq!(proxy.stats().faults, 7);
}

#[tokio::test]
async fn a_refusal_for_too_many_requests_says_when_to_come_back() {
    let devnet = Devnet::start().await.unwrap();
    let proxy = FaultProxy::start(devnet.rpc_url()).unwrap();
    proxy.add(Rule::new(Fault::Status(429)));
    let client = Caller::of(&proxy).client;
    let answer = client.post(proxy.url()).body(block_number().to_string()).send().await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "1");
}

#[tokio::test]
async fn transactions_arrive_unheard_arrive_twice_or_never() -> Result<()> {
    let devnet = Devnet::start().await?;
    let proxy = FaultProxy::start(devnet.rpc_url())?;
    let caller = Caller::of(&proxy);
    let send = |raw: &Value| call(1, "eth_sendRawTransaction", json!([raw]));
    let rule = |fault| Rule::new(fault).on("eth_sendRawTransaction").times(1);

    let raw = signed(&devnet, 0).await?;
    proxy.add(rule(Fault::DropAnswer));
    assert!(caller.post(send(&raw)).await.is_err());
    assert_eq!(value(&devnet).await?, "0x1");

    let raw = signed(&devnet, 1).await?;
    proxy.add(rule(Fault::Cut));
    assert!(caller.post(send(&raw)).await.is_err());
    proxy.add(rule(Fault::Forget));
    let answers = caller.json(json!([send(&raw), call(2, "eth_chainId", json!([]))])).await;
    let bytes: Bytes = raw.as_str().unwrap().parse().unwrap();
    assert_eq!(answers[0]["result"], json!(keccak256(bytes)));
    assert_eq!(answers[1]["result"], "0x7a69");
    assert_eq!(value(&devnet).await?, "0x1");

    proxy.add(rule(Fault::Duplicate));
    let answer = caller.json(send(&raw)).await;
    assert!(answer["error"].is_object(), "the second one is refused: {answer}");
    assert_eq!(value(&devnet).await?, "0x2");
    Ok(())
}

#[tokio::test]
async fn a_lagging_node_does_not_know_the_newest_blocks() -> Result<()> {
    let devnet = Devnet::start().await?;
    let proxy = FaultProxy::start(devnet.rpc_url())?;
    let caller = Caller::of(&proxy);
    let start = caller.result("eth_blockNumber", json!([])).await;
    let admin = devnet.admin().address;
    let count = json!([admin, "pending"]);
    let nonce = caller.result("eth_getTransactionCount", count.clone()).await;
    devnet.mint(Address::repeat_byte(9), Usdc(5)).await?;
    let block = devnet.rpc("eth_getBlockByNumber", json!(["latest", false])).await?;
    let receipt = json!([block["transactions"][0]]);
    let logs = json!([{"fromBlock": "earliest", "toBlock": "latest"}]);
    let all = caller.result("eth_getLogs", logs.clone()).await;

    let at: u64 = serde_json::from_value::<U64>(start.clone()).unwrap().to();
    for head in [Head::Behind(1), Head::At(at)] {
        proxy.clear();
        proxy.add(Rule::new(Fault::Stale(head)));
        assert_eq!(caller.result("eth_blockNumber", json!([])).await, start);
        assert_eq!(caller.result("eth_getTransactionCount", count.clone()).await, nonce);
        assert_eq!(caller.result("eth_getTransactionReceipt", receipt.clone()).await, Value::Null);
        assert_eq!(caller.result("eth_getTransactionByHash", receipt.clone()).await, Value::Null);
        let seen = caller.result("eth_getBlockByNumber", json!(["latest", false])).await;
        assert_eq!(seen["number"], start);
        let number = json!([block["number"], false]);
        assert_eq!(caller.result("eth_getBlockByNumber", number).await, Value::Null);
        let seen = caller.result("eth_getLogs", logs.clone()).await;
        assert_eq!(seen.as_array().unwrap().len() + 1, all.as_array().unwrap().len());
    }
    proxy.clear();
    assert!(caller.result("eth_getTransactionReceipt", receipt).await.is_object());
    Ok(())
}

#[tokio::test]
async fn latency_is_added_to_every_request_and_the_end_is_the_end() {
    let devnet = Devnet::start().await.unwrap();
    let proxy = FaultProxy::start(devnet.rpc_url()).unwrap();
    let caller = Caller::of(&proxy);
    let latency = Duration::from_millis(80);
    proxy.set(Faults { latency, ..Faults::default() });
    for _ in 0..2 {
        let started = Instant::now();
        caller.json(block_number()).await;
        assert!(started.elapsed() >= latency);
    }
    drop(proxy);
    assert!(caller.post(block_number()).await.is_err());
}
