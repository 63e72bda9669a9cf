//! Leases in a state file: one process at a time does what they stand for.
//!
//! A file that has them has the table `leases (name TEXT PRIMARY KEY, owner BLOB, until INTEGER)`, whose
//! times are milliseconds of this machine's clock.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::Attempt;

/// Takes or renews a lease for this owner; `false` while another's stands.
pub(crate) fn take_lease(
    connection: &Connection,
    name: &str,
    owner: [u8; 16],
    lease: Duration,
) -> Attempt<bool> {
    let sql = "INSERT INTO leases (name, owner, until) VALUES (?1, ?2, ?3) \
               ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, \
               until = excluded.until WHERE owner = excluded.owner OR until <= ?4";
    let now = now_ms();
    let taken = params![name, owner.as_slice(), now + ms(lease), now];
    Ok(connection.prepare_cached(sql)?.execute(taken)? > 0)
}

/// A length of time as state files have it.
pub(crate) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

/// This machine's time as state files have it; 0 where the clock stands before 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, ms)
}
