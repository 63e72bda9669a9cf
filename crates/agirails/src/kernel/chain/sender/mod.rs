//! Throwaway stub: the lead's sender takes its place. It sends through a development node that
//! signs for every account.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U64};
use serde::Deserialize;
use serde_json::json;

use super::{
    reader,
    reader::{Doubt, Reader},
    reverts,
    rpc::{Call, Rpc, parse},
    seen::Seen,
};
use crate::{
    error::{Code, Error, Result},
    storage::Store,
    wallet::Wallet,
};

pub(crate) enum GasLimit {
    Estimate,
    AtMost(u64),
}

pub(crate) struct Operation {
    pub what: &'static str,
    pub from: Address,
    pub to: Address,
    pub data: Bytes,
    pub gas: GasLimit,
}

pub(crate) struct Mined {
    pub hash: B256,
    pub block: u64,
    pub logs: Vec<alloy_rpc_types_eth::Log>,
}

pub(crate) struct SenderSettings {
    pub(crate) confirmations: u64,
    pub(crate) wait_timeout: Duration,
    pub(crate) max_fee_per_gas: u128,
}

pub(crate) struct Sender {
    rpc: Rpc,
    seen: Arc<Seen>,
    _file: Arc<Store>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    status: U64,
    block_number: U64,
    logs: Vec<alloy_rpc_types_eth::Log>,
}

impl Sender {
    pub(crate) fn new(
        rpc: Rpc,
        file: Arc<Store>,
        _chain_id: u64,
        _wallets: impl IntoIterator<Item = Arc<dyn Wallet>>,
        _settings: SenderSettings,
        seen: Arc<Seen>,
    ) -> Self {
        Self { rpc, seen, _file: file }
    }

    pub(crate) async fn resume(&self, _operation: Operation) -> Result<Option<Mined>> {
        Ok(None)
    }

    async fn one<T: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        params: serde_json::Value,
    ) -> Result<T> {
        let mut found = self.rpc.batch(&[Call::new(method, params)]).await?;
        let raw = found.remove(0).map_err(|refused| reverts::explain(&refused))?;
        parse(method, &raw)
    }

    pub(crate) async fn send(&self, operations: Vec<Operation>) -> Result<Vec<Mined>> {
        let reader = Reader::new(self.rpc.clone(), self.seen.clone());
        for operation in &operations {
            if matches!(operation.gas, GasLimit::Estimate) {
                let call = reader::estimate(operation.from, operation.to, &operation.data);
                reader
                    .ask(vec![call], Doubt::Refusals)
                    .await?
                    .remove(0)
                    .map_err(|refused| reverts::explain(&refused))?;
            }
        }
        let mut mined = vec![];
        for Operation { from, to, data, gas, what } in operations {
            let gas = match gas {
                GasLimit::AtMost(gas) => gas,
                GasLimit::Estimate => 29_000_000,
            };
            tracing::debug!(what);
            let call = json!({"from": from, "to": to, "data": data, "gas": U64::from(gas)});
            let hash: B256 = self.one("eth_sendTransaction", json!([call])).await?;
            let receipt = loop {
                let found: Option<Receipt> =
                    self.one("eth_getTransactionReceipt", json!([hash])).await?;
                if let Some(found) = found {
                    break found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let block = receipt.block_number.to();
            self.seen.note(block);
            if receipt.status.is_zero() {
                let why =
                    self.one::<Bytes>("eth_call", json!([call, receipt.block_number])).await.err();
                let why =
                    why.unwrap_or_else(|| Error::new(Code::Reverted, "reverted").with_hint("stub"));
                return Err(why.with_facts(|facts| facts.transaction_hash = Some(hash)));
            }
            mined.push(Mined { hash, block, logs: receipt.logs });
        }
        Ok(mined)
    }
}
