//! Which transactions a search for a state need not read again: no transition goes backwards.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    protocol::{State, TransactionId},
    wall_clock::wall_seconds,
};

/// What is older than so many seconds no reorganisation takes back.
const STAYS_AFTER: u64 = 3_600;

/// The states of transactions that have left the provider's hands long ago. A party's history only
/// grows, and whoever searches it for open ones every half minute must not read all of it each time.
#[derive(Debug, Default)]
pub(super) struct FinalStates(Mutex<HashMap<TransactionId, State>>);

impl FinalStates {
    /// Takes note of a state that was just read, and since when it stands, Unix seconds.
    pub(super) fn note(&self, id: TransactionId, state: State, since: u64) {
        let now = wall_seconds();
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

    fn seen(states: &FinalStates, byte: u8, state: State, since: u64) -> TransactionId {
        let id = TransactionId::repeat_byte(byte);
        states.note(id, state, since);
        id
    }

    #[test]
    fn what_ended_long_ago_is_not_looked_for_among_the_open() {
        let states = FinalStates::default();
        let settled = seen(&states, 1, State::Settled, 1_000);
        let delivered = seen(&states, 2, State::Delivered, 1_000);
        for state in [State::Initiated, State::Committed, State::InProgress] {
            assert!(!states.may_be(settled, state) && !states.may_be(delivered, state));
        }
        assert!(states.may_be(settled, State::Settled) && !states.may_be(settled, State::Disputed));
        assert!(
            states.may_be(delivered, State::Delivered)
                && states.may_be(delivered, State::Cancelled)
        );
        assert!(states.may_be(TransactionId::repeat_byte(9), State::Committed));
    }

    #[test]
    fn what_a_reorganisation_may_take_back_is_read_again() {
        let states = FinalStates::default();
        let new = seen(&states, 1, State::Settled, u64::MAX);
        let open = seen(&states, 2, State::Committed, 1_000);
        assert!(states.may_be(new, State::Committed) && states.may_be(open, State::Committed));
    }
}
