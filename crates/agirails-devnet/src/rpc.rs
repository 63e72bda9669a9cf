//! A small JSON-RPC client.

use std::{sync::Once, time::Duration};

use agirails::{Code, Error, Result};
use reqwest::Client;
use serde_json::{Value, json};

/// An HTTP client for nodes. Whether it keeps connections is the caller's to say: kept ones belong
/// to the runtime they were opened on, and break when that ends.
pub(crate) fn http_client(kept_connections: usize) -> Result<Client> {
    static PROVIDER: Once = Once::new();
    // Without one the client panics, also where it never speaks TLS. One may be there already.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(kept_connections)
        .timeout(Duration::from_secs(60))
        .build()
        .map_err(|error| {
            Error::new(Code::DevnetUnavailable, format!("no HTTP client can be made: {error}"))
                .with_hint("look at this machine's TLS certificates")
                .with_source(error)
        })
}

#[derive(Debug)]
pub(crate) struct Rpc {
    client: Client,
    url: String,
}

impl Rpc {
    pub(crate) fn new(url: String) -> Result<Self> {
        Ok(Self { client: http_client(0)?, url })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let mut answers = self.batch(vec![(method.to_owned(), params)]).await?;
        answers.pop().unwrap_or_else(|| Err(strange(method)))
    }

    /// All in one round trip; the answers come in the order of the calls.
    pub(crate) async fn batch(&self, calls: Vec<(String, Value)>) -> Result<Vec<Result<Value>>> {
        let body: Vec<_> = calls
            .iter()
            .enumerate()
            .map(|(id, (method, params))| {
                json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
            })
            .collect();
        let answer = async {
            let request = self.client.post(&self.url).header("content-type", "application/json");
            request.body(Value::from(body).to_string()).send().await?.bytes().await
        };
        let answer = answer.await.map_err(|error| {
            Error::new(Code::EndpointUnreachable, format!("the devnet does not answer: {error}"))
                .with_hint("it ended, or its runtime is blocked")
                .with_source(error)
        })?;
        let answers: Vec<Value> = serde_json::from_slice(&answer).map_err(|error| {
            Error::new(Code::InvalidAnswer, format!("the devnet's answer must be a batch: {error}"))
                .with_hint("is the anvil in use another program?")
        })?;
        Ok(calls
            .iter()
            .enumerate()
            .map(|(id, (method, _))| {
                let own = answers
                    .iter()
                    .find(|answer| answer["id"] == id)
                    .ok_or(())
                    .map_err(|()| strange(method))?;
                match &own["error"] {
                    Value::Null => Ok(own["result"].clone()),
                    error => Err(refused(method, error)),
                }
            })
            .collect())
    }
}

fn strange(method: &str) -> Error {
    Error::new(Code::InvalidAnswer, format!("the devnet did not answer {method}"))
        .with_hint("is the anvil in use another program?")
}

fn refused(method: &str, error: &Value) -> Error {
    let words = error["message"].as_str().unwrap_or("no reason given");
    Error::new(Code::RequestRefused, format!("the devnet refused {method}: {words}"))
        .with_hint("look at the method's parameters and at what the contract says")
}
