//! What this process knows to exist on chain, so that a node that lags is not believed.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A load balancer's nodes are this far apart at most; after it, a node's answer is believed.
const LAG: Duration = Duration::from_secs(30);

/// The newest block that a receipt of ours stood in.
///
/// The public endpoints sit behind load balancers: a read just after a receipt can reach a node
/// that has not seen the block yet, and answers `Tx missing` or a state of the past.
#[derive(Debug, Default)]
pub(crate) struct MinBlock(Mutex<Option<(u64, Instant)>>);

impl MinBlock {
    /// A receipt stood in this block.
    pub(crate) fn note(&self, block: u64) {
        let mut newest_seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = newest_seen.map_or(block, |(known, _)| known.max(block));
        *newest_seen = Some((newest, Instant::now()));
    }

    /// The block that a node must have seen before its answers count; `None` once all nodes have.
    pub(crate) fn required(&self) -> Option<u64> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.filter(|(_, at)| at.elapsed() < LAG).map(|(block, _)| block)
    }
}
