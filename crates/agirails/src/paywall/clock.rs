//! The kernel's clock, which deadlines are measured by.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::{client::ACTPClient, error::Result};

/// A local kernel is asked every time. A chain's clock is asked now and then by every process; in
/// between, this machine's clock goes on from there.
#[derive(Debug)]
pub(super) struct Clock {
    client: ACTPClient,
    /// The kernel's time less this machine's; unknown at first.
    ahead: AtomicI64,
}

const UNKNOWN: i64 = i64::MIN;

impl Clock {
    pub(super) fn new(client: ACTPClient) -> Self {
        Self { client, ahead: AtomicI64::new(UNKNOWN) }
    }

    /// Unix seconds. Fails only where the kernel was never reached.
    pub(super) async fn now(&self) -> Result<u64> {
        match self.latest() {
            Some(now) if self.client.mock().is_none() => Ok(now),
            _ => self.refresh().await,
        }
    }

    /// Unix seconds without asking anybody; `None` where the kernel was never reached.
    pub(super) fn latest(&self) -> Option<u64> {
        match self.ahead.load(Ordering::Relaxed) {
            UNKNOWN => None,
            ahead => Some(super::wall_seconds().saturating_add_signed(ahead)),
        }
    }

    /// Asks the kernel.
    pub(super) async fn refresh(&self) -> Result<u64> {
        let now = self.client.now().await?;
        let ahead = i64::try_from(now).unwrap_or(i64::MAX) - super::wall_seconds() as i64;
        self.ahead.store(ahead, Ordering::Relaxed);
        Ok(now)
    }
}
