//! Transitions on a chain with a block every two seconds, behind a network with latency.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agirails::{
    TransactionId,
    kernel::{Kernel, chain::ChainKernel},
};
use alloy_primitives::{B256, U64};
use alloy_rpc_client::RpcClient;
use alloy_transport_ws::WsConnect;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, sleep_until};

use crate::{
    BLOCK, Plan,
    figures::{Figures, Outcome},
    ground::{Ground, phase, start},
    put,
    reads::{Bare, body},
};

/// How often the network's own time is taken.
const ROUND_TRIPS: usize = 50;

pub async fn measure(
    figures: &mut Figures,
    plan: &Plan,
    ground: &Ground,
    ids: &[TransactionId],
) -> Outcome<()> {
    let (singles, crowd) = ids.split_at(plan.singles);
    let round_trip = round_trip(figures, ground).await?;
    let kernel = ground.kernel(ground.network.url()).await?;
    measure_singles(figures, ground, &kernel, singles, round_trip).await?;
    measure_crowd(figures, ground, &kernel, crowd).await?;
    Ok(())
}

/// What one request takes through the network; the median.
async fn round_trip(figures: &mut Figures, ground: &Ground) -> Outcome<Duration> {
    let bare = Bare::new(ground.network.url())?;
    let mut times = vec![];
    for _ in 0..ROUND_TRIPS {
        let started = Instant::now();
        bare.post(body("eth_blockNumber", &json!([]))).await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    figures.note("round trip", times);
    Ok(median)
}

/// One after another, at all moments between two blocks.
async fn measure_singles(
    figures: &mut Figures,
    ground: &Ground,
    kernel: &ChainKernel,
    ids: &[TransactionId],
    round_trip: Duration,
) -> Outcome<()> {
    let blocks = Blocks::watch(&ground.devnet.ws_url()).await?;
    let mut calls = vec![];
    for (number, id) in ids.iter().enumerate() {
        sleep_until(blocks.moment(number).await?.into()).await;
        let started = Instant::now();
        kernel.transition_state(ground.provider().address, &start(*id)).await?;
        calls.push((*id, started, Instant::now()));
    }
    let starts = ground.starts(ids).await?;
    let (mut totals, mut late, mut after) = (vec![], 0, vec![]);
    for (id, started, confirmed) in calls {
        let block = starts.get(&id).copied().ok_or("a transition is in no block")?;
        let arrivals = blocks.arrivals();
        let arrived = arrivals.get(&block).ok_or("nobody told of a block")?;
        totals.push(confirmed - started);
        after.push(confirmed.saturating_duration_since(*arrived));
        // One round trip asks what it costs, one brings it to the node, and one is to spare.
        let there = started + 3 * round_trip;
        late += arrivals.range(..block).filter(|(_, arrived)| **arrived > there).count();
    }
    figures.note("transition", totals);
    figures.note("transition, after its block", after);
    put(figures, "transition, blocks missed", late as f64);
    Ok(())
}

/// All at once, from one key.
async fn measure_crowd(
    figures: &mut Figures,
    ground: &Ground,
    kernel: &ChainKernel,
    ids: &[TransactionId],
) -> Outcome<()> {
    let before = ground.network.stats().requests;
    let started = Instant::now();
    let transitions: Vec<_> = ids.iter().map(|id| start(*id)).collect();
    let calls = transitions
        .iter()
        .map(|transition| kernel.transition_state(ground.provider().address, transition));
    let failures = join_all(calls).await.into_iter().filter_map(Result::err);
    let failures: Vec<_> = failures.collect();
    put(figures, "crowd, seconds", started.elapsed().as_secs_f64());
    put(figures, "crowd, requests", (ground.network.stats().requests - before) as f64);
    note_blocks(figures, "crowd", &ground.starts(ids).await?);
    match failures.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// How many arrived, and in how many blocks from the first to the last.
pub fn note_blocks(figures: &mut Figures, who: &str, starts: &HashMap<TransactionId, u64>) {
    put(figures, &format!("{who}, arrived"), starts.len() as f64);
    if let (Some(first), Some(last)) = (starts.values().min(), starts.values().max()) {
        put(figures, &format!("{who}, blocks"), (last - first + 1) as f64);
    }
}

type Arrivals = BTreeMap<u64, Instant>;

/// When each block came, told by the node itself, past the slow network.
pub struct Blocks {
    arrivals: Arc<Mutex<Arrivals>>,
    _line: RpcClient,
}

impl Blocks {
    pub async fn watch(url: &str) -> Outcome<Self> {
        #[derive(Deserialize)]
        struct Head {
            number: U64,
        }
        let line = RpcClient::connect_pubsub(WsConnect::new(url)).await?;
        let id: B256 = line.request("eth_subscribe", ("newHeads",)).await?;
        let frontend = line.pubsub_frontend().ok_or("a WebSocket that takes no subscriptions")?;
        let mut heads = frontend.get_subscription(id).await?;
        let arrivals = Arc::<Mutex<Arrivals>>::default();
        let seen = arrivals.clone();
        tokio::spawn(async move {
            while let Ok(head) = heads.rx.recv().await {
                let now = Instant::now();
                if let Ok(head) = serde_json::from_str::<Head>(head.get()) {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.insert(head.number.to(), now);
                }
            }
        });
        Ok(Self { arrivals, _line: line })
    }

    /// When the newest one came; it waits for the first, a few blocks long at most.
    pub async fn newest(&self) -> Outcome<Instant> {
        let until = Instant::now() + 5 * BLOCK;
        while Instant::now() < until {
            if let Some((_, arrived)) = self.arrivals().pop_last() {
                return Ok(arrived);
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err("the node told of no block".into())
    }

    /// When to begin the call of this number.
    async fn moment(&self, number: usize) -> Outcome<Instant> {
        let mut moment = self.newest().await? + phase(number);
        while moment < Instant::now() {
            moment += BLOCK;
        }
        Ok(moment)
    }

    fn arrivals(&self) -> Arrivals {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
