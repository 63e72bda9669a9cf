//! The proxy's own part: HTTP in, HTTP out.

use std::{
    convert::Infallible,
    io,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy_primitives::{Bytes, keccak256};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes as Buffer, Frame, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    fault::{Fate, Fault, Head, State},
    head,
};

type Answer = Response<BoxBody<Buffer, io::Error>>;

/// The node behind the proxy.
pub(super) struct Node {
    pub(super) client: reqwest::Client,
    pub(super) url: String,
    pub(super) state: Arc<Mutex<State>>,
}

/// Serves until the sender is gone.
pub(super) async fn run(
    listener: TcpListener,
    node: Arc<Node>,
    mut stopped: oneshot::Receiver<()>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Too many open files, or a caller who left: others may fare better.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        // Else an answer's last packet waits for the caller's acknowledgement.
        let _ = stream.set_nodelay(true);
        let node = node.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| node.clone().serve(request));
            // An error here is a connection that a rule closed, or its caller.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

pub(super) fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Whoever panicked with it held nothing half done.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// An error closes the connection without an answer.
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Answer> {
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let mut asked = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let batch = asked.is_array();
        let calls = match &mut asked {
            Value::Array(calls) => calls.as_mut_slice(),
            single => std::slice::from_mut(single),
        };
        let methods: Vec<_> =
            calls.iter().filter_map(|call| call["method"].as_str().map(str::to_owned)).collect();
        let names: Vec<_> = methods.iter().map(String::as_str).collect();
        let fate = locked(&self.state).judge(&names);

        tokio::time::sleep(fate.delay).await;
        match fate.end {
            Some(Fault::Cut) => return Err(closed()),
            Some(Fault::Status(code)) => return Ok(status(code)),
            _ => {}
        }
        let (code, answer) = if fate.forget || fate.head.is_some() {
            (StatusCode::OK, self.pretend(calls, batch, &fate).await?)
        } else {
            self.ask(&body, fate.duplicate).await?
        };
        match fate.end {
            Some(Fault::DropAnswer) => Err(closed()),
            Some(Fault::Garbage) => Ok(whole(StatusCode::OK, "<html>it works!</html>".into())),
            Some(Fault::Truncate) => Ok(half(answer)),
            _ => Ok(whole(code, answer)),
        }
    }

    async fn ask(&self, body: &Buffer, twice: bool) -> io::Result<(StatusCode, Buffer)> {
        if twice {
            self.post(body.clone()).await?;
        }
        self.post(body.clone()).await
    }

    /// A node that cannot be reached closes the connection, as without the proxy.
    async fn post(&self, body: Buffer) -> io::Result<(StatusCode, Buffer)> {
        let request = self.client.post(&self.url).header("content-type", "application/json");
        let answer = request.body(body).send().await.map_err(io::Error::other)?;
        let code = answer.status();
        Ok((code, answer.bytes().await.map_err(io::Error::other)?))
    }

    async fn post_json(&self, value: &Value) -> io::Result<Value> {
        let (_, answer) = self.post(value.to_string().into()).await?;
        serde_json::from_slice(&answer).map_err(io::Error::other)
    }

    /// Answers by itself what the rules say, and asks the node for the rest.
    async fn pretend(&self, calls: &mut [Value], batch: bool, fate: &Fate) -> io::Result<Buffer> {
        let newest = match fate.head {
            Some(head) => Some(self.newest(head).await?),
            None => None,
        };
        let mut answers = Vec::with_capacity(calls.len());
        let mut rest = vec![];
        for (position, call) in calls.iter_mut().enumerate() {
            let own = forgotten(call).filter(|_| fate.forget);
            let own = own.or_else(|| newest.and_then(|newest| head::rewrite(call, newest)));
            if own.is_none() {
                rest.push(position);
            }
            answers.push(own.unwrap_or_default());
        }
        if !rest.is_empty() {
            let asked: Vec<_> = rest.iter().map(|position| calls[*position].clone()).collect();
            let repetitions = if fate.duplicate { 2 } else { 1 };
            let mut found = Value::Null;
            for _ in 0..repetitions {
                found = self.post_json(&json!(asked)).await?;
            }
            for position in rest {
                let call = &calls[position];
                let mut answer = found
                    .as_array()
                    .and_then(|found| found.iter().find(|answer| answer["id"] == call["id"]))
                    .cloned()
                    .unwrap_or_default();
                if let (Some(newest), Some(method)) = (newest, call["method"].as_str()) {
                    head::forget_later(method, &mut answer, newest);
                }
                answers[position] = answer;
            }
        }
        let answer = if batch { Value::from(answers) } else { answers.pop().unwrap_or_default() };
        Ok(answer.to_string().into())
    }

    async fn newest(&self, head: Head) -> io::Result<u64> {
        let behind = match head {
            Head::At(block) => return Ok(block),
            Head::Behind(blocks) => blocks,
        };
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
        let answer = self.post_json(&call).await?;
        let newest = head::number(&answer["result"]).ok_or_else(closed)?;
        Ok(newest.saturating_sub(behind))
    }
}

/// The answer of a node that took a transaction, from one that did not.
fn forgotten(call: &Value) -> Option<Value> {
    if call["method"] != "eth_sendRawTransaction" {
        return None;
    }
    let raw: Bytes = call["params"][0].as_str()?.parse().ok()?;
    Some(head::result(call, json!(keccak256(raw))))
}

fn closed() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

fn status(code: u16) -> Answer {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = whole(code, code.to_string().into());
    if code == StatusCode::TOO_MANY_REQUESTS {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

fn whole(code: StatusCode, body: Buffer) -> Answer {
    let body = http_body_util::Full::new(body).map_err(|never: Infallible| match never {});
    answer(code, BoxBody::new(body))
}

/// Promises all, sends half and closes the connection.
fn half(body: Buffer) -> Answer {
    let length = HeaderValue::from(body.len());
    let first = body.slice(..body.len() / 2);
    let parts = stream::unfold(Some(first), async |first| match first {
        Some(first) => Some((Ok(Frame::data(first)), None)),
        // A moment in which the half leaves: what is unsent is lost with the connection.
        None => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Err(closed()), None))
        }
    });
    let mut answer = answer(StatusCode::OK, BoxBody::new(StreamBody::new(parts)));
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

fn answer(code: StatusCode, body: BoxBody<Buffer, io::Error>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
