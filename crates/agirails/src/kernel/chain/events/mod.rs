//! Throwaway stub: the other helper's logs take its place.

use alloy_primitives::{Address, U64};
use alloy_rpc_types_eth::Log;
use serde_json::json;

use super::{
    contracts::event,
    reverts,
    rpc::{Call, Rpc, parse},
};
use crate::{
    error::Result,
    kernel::{Role, TransactionQuery},
    protocol::{Event, EventRecord, TransactionId},
};

pub(crate) struct Logs {
    rpc: Rpc,
    kernel: Address,
    from: u64,
}

impl Logs {
    pub(crate) fn new(rpc: Rpc, kernel: Address, from: Option<u64>) -> Self {
        Self { rpc, kernel, from: from.unwrap_or_default() }
    }

    pub(crate) async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        let filter = json!([{"address": self.kernel, "fromBlock": U64::from(self.from), "toBlock": "latest"}]);
        let raw = self.rpc.batch(&[Call::new("eth_getLogs", filter)]).await?.remove(0);
        let raw = raw.map_err(|refused| reverts::explain(&refused))?;
        let logs: Vec<Log> = parse("eth_getLogs", &raw)?;
        let mut found = vec![];
        for log in logs {
            let cursor = (log.block_number.unwrap_or_default() << 20)
                + log.log_index.unwrap_or_default()
                + 1;
            if let Some(event) = event(&log)
                && cursor > after
                && found.len() < limit as usize
            {
                found.push(EventRecord { cursor, event: event? });
            }
        }
        Ok(found)
    }

    pub(crate) async fn created(&self, query: &TransactionQuery) -> Result<Vec<TransactionId>> {
        let mut ids: Vec<_> = self
            .events(0, u32::MAX)
            .await?
            .into_iter()
            .filter_map(|record| match record.event {
                Event::TransactionCreated { transaction_id, requester, provider, .. } => {
                    Some((transaction_id, requester, provider))
                }
                _ => None,
            })
            .collect();
        ids.reverse();
        if let Some(after) = query.after {
            let at = ids.iter().position(|(id, ..)| *id == after).unwrap_or(ids.len());
            ids.drain(..(at + 1).min(ids.len()));
        }
        ids.retain(|(_, requester, provider)| match query.role {
            Some(Role::Requester) => *requester == query.party,
            Some(Role::Provider) => *provider == query.party,
            None => *requester == query.party || *provider == query.party,
        });
        Ok(ids.into_iter().take(query.limit as usize).map(|(id, ..)| id).collect())
    }
}
