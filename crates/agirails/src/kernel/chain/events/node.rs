//! The chain as its nodes show it.

use std::{ops::RangeInclusive, time::Duration};

use alloy_json_rpc::ErrorPayload;
use alloy_primitives::{Address, B256, U64};
use alloy_rpc_types_eth::Log;
use async_trait::async_trait;
use futures_util::future::try_join;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        contracts,
        rpc::{Answered, Call, Failure, Heads, Rpc, parse},
    },
    ranges::{Header, News, Source, Unread, is_too_much},
};
use crate::error::{Code, Error, Result};

const BLOCK: &str = "eth_getBlockByNumber";
const LOGS: &str = "eth_getLogs";

/// One kernel contract, behind the endpoints of its chain.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) rpc: Rpc,
    pub(super) kernel: Address,
}

/// Of a block as nodes tell it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
}

impl From<Block> for Header {
    fn from(block: Block) -> Self {
        Self {
            number: block.number.to(),
            hash: block.hash,
            parent: block.parent_hash,
            time: block.timestamp.to(),
        }
    }
}

impl Node {
    async fn filtered(&self, filter: Value) -> Result<Vec<Log>, Unread> {
        match self.rpc.request(LOGS, json!([filter])).await {
            Ok(logs) => Ok(logs),
            Err(Failure::Refused(refusal)) if is_too_much(&refusal) => {
                Err(Unread::TooMuch(Failure::Refused(refusal).into()))
            }
            Err(failure) => Err(Unread::Failed(failure.into())),
        }
    }

    fn in_range(&self, blocks: &RangeInclusive<u64>, topics: Value) -> Value {
        json!({
            "address": self.kernel,
            "fromBlock": quantity(*blocks.start()),
            "toBlock": quantity(*blocks.end()),
            "topics": topics,
        })
    }
}

#[async_trait]
impl Source for Node {
    async fn head(&self) -> Result<Header> {
        let block: Option<Block> = self.rpc.request(BLOCK, json!(["latest", false])).await?;
        let nothing = || Error::new(Code::InvalidAnswer, "the RPC endpoint has no newest block");
        block.map(Header::from).ok_or_else(nothing)
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>> {
        let calls: Vec<Call> = numbers
            .iter()
            .map(|number| Call::new(BLOCK, json!([quantity(*number), false])))
            .collect();
        let answers = self.rpc.batch(&calls).await?;
        answers
            .into_iter()
            .zip(numbers)
            .map(|(answer, number)| {
                let header = known(answer)?.map(|raw| parse::<Option<Block>>(BLOCK, &raw));
                let header = header.transpose()?.flatten().map(Header::from);
                match header {
                    Some(other) if other.number != *number => Err(Error::new(
                        Code::InvalidAnswer,
                        format!("asked for block {number}, the endpoint sent {}", other.number),
                    )),
                    header => Ok(header),
                }
            })
            .collect()
    }

    async fn logs(&self, blocks: RangeInclusive<u64>) -> Result<Vec<Log>, Unread> {
        self.filtered(self.in_range(&blocks, json!([]))).await
    }

    async fn logs_of(&self, blocks: &[B256]) -> Result<Vec<Option<Vec<Log>>>> {
        let calls: Vec<Call> = blocks
            .iter()
            .map(|hash| Call::new(LOGS, json!([{"address": self.kernel, "blockHash": hash}])))
            .collect();
        let answers = self.rpc.batch(&calls).await?;
        answers
            .into_iter()
            .map(|answer| known(answer)?.map(|raw| parse(LOGS, &raw)).transpose())
            .collect()
    }

    async fn created(
        &self,
        blocks: RangeInclusive<u64>,
        party: Address,
    ) -> Result<Vec<Log>, Unread> {
        // A filter has an "or" between values of one topic, none between topics.
        let party = party.into_word();
        let as_requester = self.in_range(&blocks, json!([contracts::CREATED, null, party]));
        let as_provider = self.in_range(&blocks, json!([contracts::CREATED, null, null, party]));
        let found = try_join(self.filtered(as_requester), self.filtered(as_provider)).await;
        let (mut logs, others) = found?;
        logs.extend(others);
        Ok(logs)
    }

    fn news(&self) -> Box<dyn News> {
        Box::new(self.rpc.heads())
    }
}

#[async_trait]
impl News for Heads {
    async fn changed(&mut self, at_most: Duration) {
        Self::changed(self, at_most).await;
    }
}

/// A block's answer; `None` where the node has not got the block.
fn known(answer: Answered) -> Result<Option<Box<serde_json::value::RawValue>>> {
    match answer {
        Ok(raw) => Ok(Some(raw)),
        Err(refusal) if is_unknown(&refusal) => Ok(None),
        Err(refusal) => Err(Failure::Refused(refusal).into()),
    }
}

/// The words of geth, op-geth, erigon, reth, anvil and Nethermind for a block that is not there.
fn is_unknown(refusal: &ErrorPayload) -> bool {
    let words = refusal.message.to_lowercase();
    ["unknown block", "not found", "not available", "beyond", "could not find", "does not exist"]
        .iter()
        .any(|word| words.contains(word))
        && !words.contains("method")
}

fn quantity(number: u64) -> String {
    format!("{number:#x}")
}
