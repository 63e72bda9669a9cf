//! One request's way through the endpoints.

use std::time::{Duration, Instant};

use super::{
    Line,
    endpoint::{Endpoint, Miss, Why},
};
use crate::error::{Code, Error};

/// The pause before everything is asked again, where all endpoints have missed; each one after
/// it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A node that restarts is back by then. One that is not running, or does not serve us, is
/// reported, not waited for.
const PATIENCE_WITH_LASTING: Duration = Duration::from_secs(2);

/// One endpoint's turn.
pub(super) struct Turn<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) timeout: Duration,
    place: usize,
    asked_at: Instant,
}

/// Whom to ask next, when, and what to report in the end.
pub(super) struct Failover<'a> {
    line: &'a Line,
    started: Instant,
    until: Instant,
    pause: Duration,
    /// No endpoint that rests is asked before.
    not_before: Instant,
    /// Something else than a lasting failure was among the misses.
    hopeful: bool,
    /// The last miss of each endpoint that was asked.
    misses: Vec<(usize, Miss)>,
}

impl<'a> Failover<'a> {
    /// Failover until then, and once in any case.
    pub(super) fn new(line: &'a Line, until: Instant) -> Self {
        let started = Instant::now();
        Self {
            line,
            started,
            until,
            pause: FIRST_PAUSE,
            not_before: started,
            hopeful: false,
            misses: Vec::new(),
        }
    }

    /// The next turn, as soon as an endpoint is ready; `None` where none will be in time.
    pub(super) async fn next(&mut self) -> Option<Turn<'a>> {
        loop {
            let now = Instant::now();
            let until = self.until();
            if !self.misses.is_empty() && now >= until {
                return None;
            }
            let (place, ready) = self.choose(now)?;
            if ready <= now {
                let left = match self.misses.is_empty() {
                    true => self.line.patience,
                    false => self.until.saturating_duration_since(now),
                };
                return Some(Turn {
                    endpoint: self.line.endpoints.get(place)?,
                    timeout: left.min(self.line.request_timeout),
                    place,
                    asked_at: now,
                });
            }
            if ready >= until {
                return None;
            }
            tokio::time::sleep_until(ready.into()).await;
        }
    }

    /// The preferred one of those that are ready, else the one that will be first.
    fn choose(&self, now: Instant) -> Option<(usize, Instant)> {
        let mut ready: Option<usize> = None;
        let mut first: Option<(usize, (Instant, Instant))> = None;
        for (place, endpoint) in self.line.endpoints.iter().enumerate() {
            let state = endpoint.readiness(now);
            if state.rested <= now && state.open <= now {
                match ready {
                    None if !state.failing => return Some((place, now)),
                    None => ready = Some(place),
                    // The preferred one has rested, and may fail again: one request finds out,
                    // while all others go to the one that is known to answer.
                    Some(preferred) if !state.failing => {
                        let preferred_one = self.line.endpoints.get(preferred)?;
                        preferred_one.keep_others_away(self.line.request_timeout);
                        return Some((preferred, now));
                    }
                    Some(_) => {}
                }
            }
            // Where all rest, a rest is no reason to give up; what an endpoint asked for is.
            let at = state.open.max(state.rested.min(self.not_before));
            if first.is_none_or(|(_, earliest)| (at, state.rested) < earliest) {
                first = Some((place, (at, state.rested)));
            }
        }
        match ready {
            Some(place) => Some((place, now)),
            None => first.map(|(place, (at, _))| (place, at)),
        }
    }

    /// This turn brought the answer.
    pub(super) fn answered(&self, turn: &Turn<'_>) {
        turn.endpoint.answered(turn.asked_at);
    }

    /// This turn brought nothing.
    pub(super) fn missed(&mut self, turn: &Turn<'_>, miss: Miss) {
        turn.endpoint.missed(turn.asked_at, &miss);
        self.hopeful |= !miss.is_lasting();
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.misses.retain(|(place, _)| *place != turn.place);
        self.misses.push((turn.place, miss));
    }

    /// What to report of a request by this name.
    pub(super) fn error(&self, method: &str) -> Error {
        let own = |place| self.misses.iter().find(|(of, _)| *of == place).map(|(_, miss)| miss);
        let misses: Vec<(&str, Miss)> = self
            .line
            .endpoints
            .iter()
            .enumerate()
            .filter_map(|(place, endpoint)| {
                let miss = own(place).cloned().or_else(|| endpoint.last_miss())?;
                Some((endpoint.name.as_str(), miss))
            })
            .collect();
        let all = |why| misses.iter().all(|(_, miss)| miss.why == why);
        let (code, hint) = if all(Why::Limited) {
            (
                Code::RateLimited,
                "wait, or set an rpc_url of your own (BASE_SEPOLIA_RPC, BASE_MAINNET_RPC): the \
                 public endpoints allow little",
            )
        } else if all(Why::Garbled) {
            (
                Code::InvalidAnswer,
                "check that rpc_url (BASE_SEPOLIA_RPC, BASE_MAINNET_RPC) is an Ethereum node's",
            )
        } else {
            (
                Code::EndpointUnreachable,
                "check that the node runs and that rpc_url (BASE_SEPOLIA_RPC, BASE_MAINNET_RPC) \
                 is its URL, or name a second one",
            )
        };
        let told: Vec<String> =
            misses.iter().map(|(name, miss)| format!("{name} {}", miss.problem)).collect();
        Error::new(code, format!("no usable answer to {method}: {}", told.join("; ")))
            .with_hint(hint)
    }

    fn until(&self) -> Instant {
        match self.hopeful || self.misses.is_empty() {
            true => self.until,
            false => self.until.min(self.started + PATIENCE_WITH_LASTING),
        }
    }
}
