//! Which transactions a search for a state need not read again: no transition goes backwards.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::protocol::{State, TransactionId};

/// What is older than so many seconds no reorganisation takes back.
const STAYS_AFTER: u64 = 3_600;

/// The states of transactions that have left the provider's hands long ago. A party's history only
/// grows, and whoever searches it for open ones every half minute must not read all of it each time.
#[derive(Debug, Default)]
pub(super) struct Past(Mutex<HashMap<TransactionId, State>>);

impl Past {
    /// Takes note of a state that was just read, and since when it stands, Unix seconds.
    pub(super) fn note(&self, id: TransactionId, state: State, since: u64) {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        let stays = since.saturating_add(STAYS_AFTER) < now;
        if stays && rank(state) >= rank(State::Delivered) {
            self.states().insert(id, state);
        }
    }

    /// Whether a transaction may be in this state, for all that is known of it.
    pub(super) fn may_be(&self, id: TransactionId, state: State) -> bool {
        let seen = self.states().get(&id).copied();
        seen.is_none_or(|seen| seen == state || rank(seen) < rank(state))
    }

    fn states(&self) -> MutexGuard<'_, HashMap<TransactionId, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transition always leads to a higher one.
const fn rank(state: State) -> u8 {
    match state {
        State::Initiated => 0,
        State::Quoted => 1,
        State::Committed => 2,
        State::InProgress => 3,
        State::Delivered => 4,
        State::Disputed => 5,
        State::Settled | State::Cancelled => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(past: &Past, byte: u8, state: State, since: u64) -> TransactionId {
        let id = TransactionId::repeat_byte(byte);
        past.note(id, state, since);
        id
    }

    #[test]
    fn what_ended_long_ago_is_not_looked_for_among_the_open() {
        let past = Past::default();
        let settled = seen(&past, 1, State::Settled, 1_000);
        let delivered = seen(&past, 2, State::Delivered, 1_000);
        for state in [State::Initiated, State::Committed, State::InProgress] {
            assert!(!past.may_be(settled, state) && !past.may_be(delivered, state));
        }
        assert!(past.may_be(settled, State::Settled) && !past.may_be(settled, State::Disputed));
        assert!(
            past.may_be(delivered, State::Delivered) && past.may_be(delivered, State::Cancelled)
        );
        assert!(past.may_be(TransactionId::repeat_byte(9), State::Committed));
    }

    #[test]
    fn what_a_reorganisation_may_take_back_is_read_again() {
        let past = Past::default();
        let new = seen(&past, 1, State::Settled, u64::MAX);
        let open = seen(&past, 2, State::Committed, 1_000);
        assert!(past.may_be(new, State::Committed) && past.may_be(open, State::Committed));
    }
}
