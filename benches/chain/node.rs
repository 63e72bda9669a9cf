//! A node that makes up its logs as it is asked for them. All else it asks the node behind it.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use agirails::B256;
use alloy_primitives::{Address, keccak256};
use serde_json::Value;

use crate::figures::Outcome;

/// The argument that makes this program the node.
pub const ROLE: &str = "synthetic-node";
/// A creation and a transition in each block.
const EVENTS_PER_BLOCK: u64 = 2;
/// All of them are of one day.
const TIME: u64 = 1_790_000_000;

/// Says where it listens, and serves until its input ends.
pub fn serve(upstream: &str, events: u64) -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("http://{}", listener.local_addr()?);
    let node = Arc::new(Node::new(upstream, events));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let node = node.clone();
            thread::spawn(move || node.converse(&stream));
        }
    });
    io::stdin().read_to_end(&mut vec![])?;
    Ok(())
}

struct Node {
    upstream: String,
    head: u64,
    created: B256,
    transitioned: B256,
}

impl Node {
    fn new(upstream: &str, events: u64) -> Self {
        let created =
            "TransactionCreated(bytes32,address,address,uint256,bytes32,uint256,uint256,uint256)";
        let transitioned = "StateTransitioned(bytes32,uint8,uint8,address,uint256)";
        Self {
            upstream: upstream.to_owned(),
            head: events / EVENTS_PER_BLOCK,
            created: keccak256(created),
            transitioned: keccak256(transitioned),
        }
    }

    /// Requests of one connection, as long as it is kept.
    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut requests = BufReader::new(stream);
        while let Some(request) = read_request(&mut requests)? {
            let answer = match serde_json::from_slice(&request)? {
                Value::Array(calls) => {
                    let answers: Vec<_> = calls.iter().map(|call| self.answer(call)).collect();
                    format!("[{}]", answers.join(","))
                }
                call => self.answer(&call),
            };
            write_answer(stream, &answer)?;
        }
        Ok(())
    }

    fn answer(&self, call: &Value) -> String {
        let params = &call["params"];
        let result = match call["method"].as_str() {
            Some("eth_blockNumber") => format!("\"{:#x}\"", self.head),
            Some("eth_getBlockByNumber") => self.block(number(&params[0])),
            Some("eth_getBlockByHash") => self.block(number_of(&params[0])),
            Some("eth_getLogs") => self.logs(&params[0]),
            _ => return ask(&self.upstream, call).unwrap_or_default(),
        };
        format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, call["id"])
    }

    /// `None` stands for the newest.
    fn block(&self, number: Option<u64>) -> String {
        let number = number.unwrap_or(self.head);
        if number > self.head {
            return "null".to_owned();
        }
        let parent = hash(number.wrapping_sub(1));
        let hash = hash(number);
        format!(
            r#"{{"number":"{number:#x}","hash":"{hash}","parentHash":"{parent}","timestamp":"{TIME:#x}"}}"#
        )
    }

    fn logs(&self, filter: &Value) -> String {
        let block = number_of(&filter["blockHash"]);
        let from = block.or_else(|| number(&filter["fromBlock"])).unwrap_or(self.head);
        let to = block.or_else(|| number(&filter["toBlock"])).unwrap_or(self.head);
        let contract = &filter["address"];
        let contract = contract.get(0).unwrap_or(contract).as_str().unwrap_or_default();
        let mut logs = String::from("[");
        // Nothing happened in the first block.
        for block in from.max(1)..=to.min(self.head) {
            let separator = if logs.len() > 1 { "," } else { "" };
            logs.push_str(separator);
            self.write_logs(&mut logs, contract, block);
        }
        logs.push(']');
        logs
    }

    fn write_logs(&self, logs: &mut String, contract: &str, block: u64) {
        let Self { created, transitioned, .. } = self;
        let (requester, provider) = (Address::repeat_byte(0xaa), Address::repeat_byte(0xbb));
        let (requester, provider) = (requester.into_word(), provider.into_word());
        let (id, amount, none) = (format!("{block:#066x}"), 1_000_000, 0);
        let words = [
            (
                format!(r#""{created}","{id}","{requester}","{provider}""#),
                format!("{amount:064x}{none:064x}{TIME:064x}{TIME:064x}{none:064x}"),
            ),
            (
                format!(r#""{transitioned}","{id}","{none:#066x}","{:#066x}""#, 2),
                format!("{requester:x}{TIME:064x}"),
            ),
        ];
        let hash = hash(block);
        for (index, (topics, data)) in words.iter().enumerate() {
            let separator = if index > 0 { "," } else { "" };
            // Writing to a string does not fail.
            let _ = write!(
                logs,
                r#"{separator}{{"address":"{contract}","topics":[{topics}],"data":"0x{data}","blockNumber":"{block:#x}","blockHash":"{hash}","blockTimestamp":"{TIME:#x}","transactionHash":"{id}","transactionIndex":"{index:#x}","logIndex":"{index:#x}","removed":false}}"#
            );
        }
    }
}

/// A block's hash begins with its number, by which it is found again.
fn hash(block: u64) -> String {
    format!("0x{block:016x}{:048x}", 0xb10c)
}

fn number_of(hash: &Value) -> Option<u64> {
    u64::from_str_radix(hash.as_str()?.get(2..18)?, 16).ok()
}

/// `None` for tags such as `latest`.
fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// `None` at the end of the connection.
fn read_request(requests: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if requests.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    requests.read_exact(&mut body)?;
    Ok(Some(body))
}

fn write_answer(mut stream: &TcpStream, answer: &str) -> io::Result<()> {
    let length = answer.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(answer.as_bytes())
}

/// Asks the node behind this one, over a connection for each question: there are few.
fn ask(upstream: &str, call: &Value) -> io::Result<String> {
    let place = upstream.trim_start_matches("http://");
    let body = call.to_string();
    let mut stream = TcpStream::connect(place)?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: {place}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let answer = read_request(&mut BufReader::new(stream))?.unwrap_or_default();
    String::from_utf8(answer).map_err(io::Error::other)
}
