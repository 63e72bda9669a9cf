//! Reading a transaction, beside what asking the node takes by itself.

use std::hint::black_box;

use agirails::{TransactionId, kernel::Kernel};
use alloy_primitives::{Bytes, keccak256};
use serde_json::json;

use crate::{
    Plan,
    figures::{Figures, Outcome, Stopwatch},
    ground::Ground,
};

/// How many are read at once.
const MANY: usize = 100;

pub async fn measure(
    figures: &mut Figures,
    plan: &Plan,
    ground: &Ground,
    ids: &[TransactionId],
) -> Outcome<()> {
    let ids = &ids[..MANY];
    let kernel = ground.reader(ground.devnet.profile().clone()).await?;
    let bare = Bare::new(ground.devnet.rpc_url())?;
    let contract = ground.devnet.profile().contracts.actp_kernel;
    let mut watch = Stopwatch::default();
    // In turns, so that whatever else this machine does befalls both.
    for id in ids.iter().cycle().take(plan.reads) {
        let call = json!([{ "to": contract, "data": get_transaction(*id) }, "latest"]);
        let body = body("eth_call", &call);
        watch.time("bare eth_call", bare.post(body)).await?;
        black_box(watch.time("get_transaction", kernel.get_transaction(*id)).await?);
    }
    for _ in 0..plan.reads / MANY {
        black_box(watch.time("get_transactions of 100", kernel.get_transactions(ids)).await?);
    }
    for (name, times) in watch.0 {
        figures.note(name, times);
    }
    Ok(())
}

fn get_transaction(id: TransactionId) -> Bytes {
    let selector = keccak256("getTransaction(bytes32)");
    [&selector[..4], id.as_slice()].concat().into()
}

pub fn body(method: &str, params: &serde_json::Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string()
}

/// A connection that is kept, and nothing else: answers are received and not read.
pub struct Bare {
    client: reqwest::Client,
    url: String,
}

impl Bare {
    pub fn new(url: &str) -> Outcome<Self> {
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
        Ok(Self { client, url: url.to_owned() })
    }

    pub async fn post(&self, body: String) -> reqwest::Result<Vec<u8>> {
        let request = self.client.post(&self.url).header("content-type", "application/json");
        let answer = request.body(body).send().await?.error_for_status()?;
        Ok(answer.bytes().await?.into())
    }
}
