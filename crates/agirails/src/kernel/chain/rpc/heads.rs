//! News of blocks over a WebSocket: a reason to look, never a source of what is seen.
//!
//! Whoever waits for blocks polls, and the news only ends a nap early. So a socket that is dead,
//! silent or lying costs time, and nothing else.

use std::{
    future,
    pin::pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use alloy_primitives::B256;
use alloy_pubsub::RawSubscription;
use alloy_rpc_client::RpcClient;
use alloy_transport_ws::WsConnect;
use futures_util::future::select;
use tokio::{
    runtime::Handle,
    sync::{broadcast::error::RecvError, watch},
    time::{sleep, timeout},
};

use super::Line;

/// A socket that is not open and subscribed by now is tried anew.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries at a socket; each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// News of blocks.
#[derive(Debug)]
pub(crate) struct Heads(Option<watch::Receiver<()>>);

impl Heads {
    /// Returns when a new block is known to exist, at once where one came since the last call,
    /// and after `at_most` in any case.
    pub(crate) async fn changed(&mut self, at_most: Duration) {
        let news = async {
            if let Some(news) = &mut self.0
                && news.changed().await.is_ok()
            {
                return;
            }
            // Nobody listens: nothing but time passes.
            future::pending().await
        };
        let _ = timeout(at_most, news).await;
    }
}

impl Line {
    /// Starts listening where there is a socket and nobody listens yet.
    pub(super) fn heads(self: &Arc<Self>) -> Heads {
        if self.sockets.is_empty() {
            return Heads(None);
        }
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        // A listener ends with the runtime that it was started on.
        if let Some(news) = news.as_ref().filter(|news| news.has_changed().is_ok()) {
            let mut news = news.clone();
            news.mark_unchanged();
            return Heads(Some(news));
        }
        let Ok(runtime) = Handle::try_current() else { return Heads(None) };
        let (tell, heard) = watch::channel(());
        runtime.spawn(listen(self.sockets.clone(), tell));
        *news = Some(heard.clone());
        Heads(Some(heard))
    }
}

/// Tells of blocks until nobody can hear it.
async fn listen(sockets: Vec<String>, tell: watch::Sender<()>) {
    let telling = async {
        let mut pause = FIRST_PAUSE;
        for socket in sockets.iter().cycle() {
            if let Some((_line, mut heads)) = subscribe(socket).await {
                pause = FIRST_PAUSE;
                // Blocks may have come while nobody listened.
                tell.send_replace(());
                while let Ok(_) | Err(RecvError::Lagged(_)) = heads.rx.recv().await {
                    tell.send_replace(());
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    select(pin!(tell.closed()), pin!(telling)).await;
}

/// A subscription to new blocks, with the connection that it lives on.
async fn subscribe(socket: &str) -> Option<(RpcClient, RawSubscription)> {
    let connecting = async {
        // Which socket comes next is decided above, not below.
        let socket = WsConnect::new(socket).with_max_retries(0);
        let line = RpcClient::connect_pubsub(socket).await.ok()?;
        let id: B256 = line.request("eth_subscribe", ("newHeads",)).await.ok()?;
        let heads = line.pubsub_frontend()?.get_subscription(id).await.ok()?;
        Some((line, heads))
    };
    timeout(CONNECT_TIMEOUT, connecting).await.ok().flatten()
}
