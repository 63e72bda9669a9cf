//! This machine's clock.

use std::time::SystemTime;

/// Unix seconds; 0 where the clock stands before 1970.
pub(crate) fn wall_seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}
