//! The kernel's clock, which deadlines are measured by, held against this machine's.
//!
//! A node can name a wrong time, and a machine's clock can step. So neither is believed alone: what
//! two of three say counts, the third being the time that was known last, gone on by the monotonic
//! clock, which nobody sets.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::lock;
use crate::{client::ACTPClient, error::Result, wall_clock::wall_seconds};

/// How far two clocks that agree are apart at most, in seconds.
pub(super) const TOLERANCE: u64 = 300;
/// How long a kernel's clock that nothing contradicts but this machine's must go on evenly until it
/// is believed.
const SETTLES_AFTER: Duration = Duration::from_secs(TOLERANCE);

/// What the time is, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// The kernel's time is not before this: what is decided for good by time is decided by it.
    pub(super) early: u64,
    /// It is not after this: whether there is time left for a call is decided by it.
    pub(super) late: u64,
    /// What the kernel said.
    pub(super) told: u64,
    /// What this machine's clock said.
    pub(super) wall: u64,
    at: Instant,
    /// Since when no two clocks agree.
    alone_since: Option<Instant>,
}

impl Reading {
    /// What to make of the kernel's time beside this machine's, and of what was known before.
    fn of(known: Option<Self>, told: u64, wall: u64, at: Instant) -> Self {
        let agreed = |time| Self { early: time, late: time, told, wall, at, alone_since: None };
        if agree(told, wall) {
            return agreed(told);
        }
        let Some(known) = known else {
            let (early, late) = (told.min(wall), told.max(wall));
            return Self { early, late, told, wall, at, alone_since: Some(at) };
        };
        let gone = at.saturating_duration_since(known.at).as_secs();
        match known.alone_since {
            // This machine's clock was set.
            None if agree(told, known.early + gone) => agreed(known.early + gone),
            // The kernel's is alone.
            None => {
                let own = known.early + gone;
                Self { late: own.max(told), ..agreed(own) }
            }
            Some(since) if agree(told, known.told + gone) => {
                if at.saturating_duration_since(since) >= SETTLES_AFTER {
                    return agreed(told);
                }
                Self { alone_since: Some(since), ..Self::of(None, told, wall, at) }
            }
            Some(_) => Self::of(None, told, wall, at),
        }
    }

    /// Whether the kernel's clock and ours contradict each other.
    pub(super) fn is_disputed(&self) -> bool {
        self.early != self.late
    }

    fn gone(&self) -> u64 {
        self.at.elapsed().as_secs()
    }

    /// Whether this machine's clock did not go on evenly: it was set, or the machine slept.
    fn is_uneven(&self) -> bool {
        !agree(wall_seconds(), self.wall + self.gone())
    }
}

const fn agree(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= TOLERANCE
}

/// A local kernel is asked every time, and believed: tests set its clock. A chain's is asked now and
/// then by every process; in between, the monotonic clock goes on from there.
#[derive(Debug)]
pub(super) struct Clock {
    client: ACTPClient,
    reading: Mutex<Option<Reading>>,
}

impl Clock {
    pub(super) fn new(client: ACTPClient) -> Self {
        Self { client, reading: Mutex::default() }
    }

    /// Unix seconds, rather late than early: for whether there is time left. Fails only where the
    /// kernel was never reached.
    pub(super) async fn now(&self) -> Result<u64> {
        match self.reading() {
            Some(reading) if self.client.mock().is_none() && !reading.is_uneven() => {
                Ok(reading.late + reading.gone())
            }
            Some(reading) if self.client.mock().is_none() => match self.refresh().await {
                Ok(reading) => Ok(reading.late),
                // The machine may have slept: its own clock went on.
                Err(_) => {
                    let slept = wall_seconds().saturating_sub(reading.wall);
                    Ok(reading.late + reading.gone().max(slept))
                }
            },
            _ => Ok(self.refresh().await?.late),
        }
    }

    /// Unix seconds without asking anybody, rather early than late: for what is decided for good
    /// once a time has passed. `None` where the kernel was never reached.
    pub(super) fn passed(&self) -> Option<u64> {
        self.reading().map(|reading| reading.early + reading.gone())
    }

    /// Whether this time has passed for certain, whatever a node may have made of the clock.
    pub(super) fn has_surely_passed(&self, time: u64) -> bool {
        let doubt = if self.client.network().is_local() { 0 } else { TOLERANCE };
        self.passed().is_some_and(|now| now > time.saturating_add(doubt))
    }

    /// [`Self::passed`], and this machine's time where the kernel was never reached: for what is written
    /// down, and decides nothing.
    pub(super) fn about(&self) -> u64 {
        self.passed().unwrap_or_else(wall_seconds)
    }

    /// [`Self::passed`], asking the kernel where it was never reached.
    pub(super) async fn passed_by_now(&self) -> Result<u64> {
        match self.passed() {
            Some(now) => Ok(now),
            None => Ok(self.refresh().await?.early),
        }
    }

    /// Asks the kernel.
    pub(super) async fn refresh(&self) -> Result<Reading> {
        let told = self.client.now().await?;
        let (wall, at) = (wall_seconds(), Instant::now());
        let mut known = lock(&self.reading);
        let reading = match self.client.network().is_local() {
            true => Reading { early: told, late: told, told, wall, at, alone_since: None },
            false => Reading::of(*known, told, wall, at),
        };
        *known = Some(reading);
        Ok(reading)
    }

    fn reading(&self) -> Option<Reading> {
        *lock(&self.reading)
    }
}

#[cfg(test)]
mod attacks {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    /// Readings every half minute, of what the kernel and this machine say.
    fn last(said: impl IntoIterator<Item = (u64, u64)>) -> Reading {
        let start = Instant::now();
        let readings = said.into_iter().zip(0..);
        let last = readings.fold(None, |known, ((told, wall), turn)| {
            let gone = 30 * turn;
            Some(Reading::of(known, told + gone, wall + gone, start + Duration::from_secs(gone)))
        });
        last.unwrap()
    }

    #[test]
    fn a_wrong_block_time_does_not_pass_a_deadline() {
        let reading = last([(NOW, NOW), (NOW, NOW), (NOW + DAY, NOW)]);
        assert_eq!((reading.early, reading.late), (NOW + 60, NOW + 60 + DAY));
        // Nor does it hold one up: what is due is done.
        let reading = last([(NOW, NOW), (NOW, NOW), (NOW - DAY, NOW)]);
        assert_eq!((reading.early, reading.late), (NOW + 60, NOW + 60));
        // However often it is said, and however slowly it drifts.
        let drifting = (0..3_000).map(|turn| (NOW + 200 * turn, NOW));
        let reading = last(drifting);
        assert!(reading.early.abs_diff(NOW + 30 * 2_999) <= TOLERANCE, "{reading:?}");
        // From the first block on, by the machine's clock alone.
        let reading = last([(NOW + DAY, NOW)]);
        assert_eq!((reading.early, reading.late), (NOW, NOW + DAY));
    }

    #[test]
    fn a_clock_that_steps_does_not_pass_a_deadline() {
        for step in [NOW + 7_200, NOW - 7_200, NOW + 365 * DAY, 0] {
            let reading = last([(NOW, NOW), (NOW, step), (NOW, step)]);
            assert_eq!((reading.early, reading.late), (NOW + 60, NOW + 60), "{step}");
        }
    }

    #[test]
    fn a_machine_that_slept_or_was_set_right_follows_the_kernel() {
        let slept = last([(NOW, NOW), (NOW + 7_200, NOW + 7_200)]);
        assert_eq!((slept.early, slept.late), (NOW + 7_230, NOW + 7_230));
        let set_right = last([(NOW, 0), (NOW, NOW)]);
        assert_eq!((set_right.early, set_right.late), (NOW + 30, NOW + 30));
    }

    #[test]
    fn a_machine_with_a_wrong_clock_believes_the_kernel_after_some_minutes() {
        let before = last([(NOW, 0), (NOW, 0)]);
        assert!(before.is_disputed() && before.early == 30 && before.late == NOW + 30);
        let after = last((0..12).map(|_| (NOW, 0)));
        assert_eq!((after.early, after.late), (NOW + 330, NOW + 330));
    }
}
