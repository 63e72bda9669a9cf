//! How a node looks that has not seen the newest blocks yet.

use alloy_primitives::U64;
use serde_json::{Value, json};

/// Where a call names the block that it reads, if it reads one.
fn block_position(method: &str) -> Option<usize> {
    Some(match method {
        "eth_getBlockByNumber"
        | "eth_getBlockReceipts"
        | "eth_getBlockTransactionCountByNumber"
        | "eth_getTransactionByBlockNumberAndIndex" => 0,
        "eth_call"
        | "eth_estimateGas"
        | "eth_createAccessList"
        | "eth_feeHistory"
        | "eth_getBalance"
        | "eth_getCode"
        | "eth_getTransactionCount" => 1,
        "eth_getStorageAt" | "eth_getProof" => 2,
        _ => return None,
    })
}

/// Makes a call read what it would have read when `head` was the newest block; or answers it, where
/// it names a block that is not there yet.
pub(super) fn rewrite(call: &mut Value, head: u64) -> Option<Value> {
    let method = call["method"].as_str().unwrap_or_default().to_owned();
    if method == "eth_blockNumber" {
        return Some(result(call, json!(hex(head))));
    }
    if method == "eth_getLogs" {
        return rewrite_range(call, head);
    }
    let position = block_position(&method)?;
    if !call["params"].is_array() {
        call["params"] = json!([]);
    }
    let params = call["params"].as_array_mut()?;
    if params.len() == position {
        params.push(Value::Null);
    }
    match params.get_mut(position) {
        None => {}
        Some(block) if *block == "earliest" || block.is_object() => {}
        Some(block) => match number(block) {
            Some(asked) if asked > head => {
                let by_number =
                    method == "eth_getBlockByNumber" || method == "eth_getBlockReceipts";
                return Some(if by_number { result(call, Value::Null) } else { unknown(call) });
            }
            Some(_) => {}
            None => *block = json!(hex(head)),
        },
    }
    None
}

fn rewrite_range(call: &mut Value, head: u64) -> Option<Value> {
    let filter = &mut call["params"][0];
    if !filter["blockHash"].is_null() {
        return None;
    }
    let earliest = |block: &Value| *block == "earliest";
    if !earliest(&filter["fromBlock"]) {
        let from = number(&filter["fromBlock"]).unwrap_or(head);
        if from > head {
            return Some(result(call, json!([])));
        }
        filter["fromBlock"] = json!(hex(from));
    }
    if !earliest(&filter["toBlock"]) {
        let to = number(&filter["toBlock"]).unwrap_or(head).min(head);
        filter["toBlock"] = json!(hex(to));
    }
    None
}

/// Takes out of an answer what happened after `head`.
pub(super) fn forget_later(method: &str, answer: &mut Value, head: u64) {
    let found = &mut answer["result"];
    let later = |item: &Value, field: &str| number(&item[field]).is_some_and(|block| block > head);
    match method {
        "eth_getTransactionReceipt" | "eth_getTransactionByHash" if later(found, "blockNumber") => {
            *found = Value::Null;
        }
        "eth_getBlockByHash" if later(found, "number") => *found = Value::Null,
        "eth_getLogs" => {
            if let Some(logs) = found.as_array_mut() {
                logs.retain(|log| !later(log, "blockNumber"));
            }
        }
        _ => {}
    }
}

pub(super) fn result(call: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": call["id"], "result": result})
}

fn unknown(call: &Value) -> Value {
    let error = json!({"code": -32000, "message": "header not found"});
    json!({"jsonrpc": "2.0", "id": call["id"], "error": error})
}

pub(super) fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn hex(number: u64) -> U64 {
    U64::from(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(method: &str, params: Value) -> Result<Value, Value> {
        let mut call = json!({"id": 1, "method": method, "params": params});
        match rewrite(&mut call, 16) {
            Some(answer) => Err(answer),
            None => Ok(call["params"].clone()),
        }
    }

    #[test]
    fn reads_of_the_newest_block_become_reads_of_the_head() {
        for tag in [json!("latest"), json!("pending"), json!("safe"), Value::Null] {
            assert_eq!(rewritten("eth_call", json!([{}, tag])), Ok(json!([{}, "0x10"])));
        }
        assert_eq!(rewritten("eth_call", json!([{}])), Ok(json!([{}, "0x10"])));
        assert_eq!(
            rewritten("eth_getTransactionCount", json!(["0xaa", "0x5"])),
            Ok(json!(["0xaa", "0x5"]))
        );
        assert_eq!(
            rewritten("eth_getStorageAt", json!(["0xaa", "0x0", "latest"])),
            Ok(json!(["0xaa", "0x0", "0x10"]))
        );
        assert_eq!(rewritten("eth_sendRawTransaction", json!(["0xaa"])), Ok(json!(["0xaa"])));
    }

    #[test]
    fn blocks_behind_the_head_are_not_there() {
        let answer = rewritten("eth_getBlockByNumber", json!(["0x11", false])).unwrap_err();
        assert_eq!(answer["result"], Value::Null);
        let answer = rewritten("eth_call", json!([{}, "0x11"])).unwrap_err();
        assert_eq!(answer["error"]["message"], "header not found");
        let answer = rewritten("eth_blockNumber", Value::Null).unwrap_err();
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": 1, "result": "0x10"}));
    }

    #[test]
    fn logs_end_with_the_head() {
        let range =
            |from, to| rewritten("eth_getLogs", json!([{"fromBlock": from, "toBlock": to}]));
        let expected = Ok(json!([{"fromBlock": "0x3", "toBlock": "0x10"}]));
        assert_eq!(range("0x3", "latest"), expected);
        assert_eq!(range("0x3", "0x20"), expected);
        assert_eq!(range("0x11", "0x20").unwrap_err()["result"], json!([]));
        let mut answer = json!({"result": [{"blockNumber": "0x10"}, {"blockNumber": "0x11"}]});
        forget_later("eth_getLogs", &mut answer, 16);
        assert_eq!(answer["result"], json!([{"blockNumber": "0x10"}]));
        let mut answer = json!({"result": {"blockNumber": "0x11"}});
        forget_later("eth_getTransactionReceipt", &mut answer, 16);
        assert_eq!(answer["result"], Value::Null);
    }
}
