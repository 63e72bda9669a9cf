//! What can go wrong, and when.

use std::{collections::BTreeMap, time::Duration};

/// What a bad network does to one HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The node does as it is asked, and nobody hears of it: the connection closes without an answer.
    DropAnswer,
    /// The connection closes before the node hears of the request.
    Cut,
    /// An HTTP status instead of an answer, without asking the node; 429 with `Retry-After: 1`.
    Status(u16),
    /// The node is asked; the answer is text that is no JSON, with status 200.
    Garbage,
    /// The node is asked; the connection closes in the middle of the answer.
    Truncate,
    /// The request reaches the node so much later.
    Delay(Duration),
    /// The node is asked twice, one after the other; the second answer is passed on.
    Duplicate,
    /// Raw transactions get their hash and never reach the node; everything else passes.
    Forget,
    /// The node seems to know blocks up to this one only. What is sent to it is sent.
    Stale(Head),
}

/// The newest block that a lagging node has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// So many blocks behind the newest.
    Behind(u64),
    /// Always this one.
    At(u64),
}

/// A fault, and which requests it befalls: all, until narrowed down.
///
/// Each rule is asked in the order of its addition. Faults that answer (or do not) end the search;
/// delays, repetitions and lagging come on top.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub(super) fault: Fault,
    methods: Vec<String>,
    probability: f64,
    skipped: u64,
    times: u64,
}

impl Rule {
    /// This fault, in each request.
    pub const fn new(fault: Fault) -> Self {
        Self { fault, methods: vec![], probability: 1.0, skipped: 0, times: u64::MAX }
    }

    /// Only in requests that call this method, alone or in a batch. Several methods add up.
    #[must_use]
    pub fn on(mut self, method: &str) -> Self {
        self.methods.push(method.to_owned());
        self
    }

    /// Only with this probability, 0 to 1.
    #[must_use]
    pub const fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Only in the first so many requests that it would befall.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Not in the first so many requests that it would befall.
    #[must_use]
    pub const fn after(mut self, requests: u64) -> Self {
        self.skipped = requests;
        self
    }

    fn befalls(&mut self, methods: &[&str], dice: &mut Dice) -> bool {
        let concerned = self.methods.is_empty()
            || self.methods.iter().any(|method| methods.contains(&method.as_str()));
        if !concerned || self.times == 0 || dice.roll() >= self.probability {
            return false;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// All that goes wrong at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// The rules, in the order in which they are asked.
    pub rules: Vec<Rule>,
    /// How much longer every request takes.
    pub latency: Duration,
    /// With the same seed the same requests meet the same faults.
    pub seed: u64,
}

/// What passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// HTTP requests, which are round trips.
    pub requests: u64,
    /// JSON-RPC calls by method; a batch counts each of its own.
    pub calls: BTreeMap<String, u64>,
    /// How often a rule struck.
    pub faults: u64,
}

impl Stats {
    /// JSON-RPC calls of this method.
    pub fn calls_of(&self, method: &str) -> u64 {
        self.calls.get(method).copied().unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: Faults,
    pub(super) stats: Stats,
    dice: Dice,
}

/// What happens to one request.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) delay: Duration,
    pub(super) duplicate: bool,
    pub(super) forget: bool,
    pub(super) head: Option<Head>,
    /// The one fault that decides what the caller hears.
    pub(super) end: Option<Fault>,
}

impl State {
    pub(super) fn new(faults: Faults) -> Self {
        let dice = Dice(faults.seed);
        Self { faults, stats: Stats::default(), dice }
    }

    pub(super) fn replace(&mut self, faults: Faults) {
        (self.dice, self.faults) = (Dice(faults.seed), faults);
    }

    /// Counts a request that calls these methods, and decides what happens to it.
    pub(super) fn judge(&mut self, methods: &[&str]) -> Fate {
        self.stats.requests += 1;
        for method in methods {
            *self.stats.calls.entry((*method).to_owned()).or_default() += 1;
        }
        let mut fate = Fate { delay: self.faults.latency, ..Fate::default() };
        for rule in &mut self.faults.rules {
            if !rule.befalls(methods, &mut self.dice) {
                continue;
            }
            self.stats.faults += 1;
            match rule.fault {
                Fault::Delay(delay) => fate.delay += delay,
                Fault::Duplicate => fate.duplicate = true,
                Fault::Forget => fate.forget = true,
                Fault::Stale(head) => fate.head = Some(head),
                fault => {
                    fate.end = Some(fault);
                    break;
                }
            }
        }
        fate
    }
}

/// SplitMix64: a few lines that give the same numbers everywhere.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// 0 to 1, without 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 53 bits, which a double holds exactly.
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(state: &mut State, methods: &[&str], requests: usize) -> Vec<bool> {
        (0..requests).map(|_| state.judge(methods).end.is_some()).collect()
    }

    #[test]
    fn a_rule_strikes_the_methods_it_names_as_often_as_it_says() {
        let rule = Rule::new(Fault::Cut).on("b").on("c").after(1).times(2);
        let mut state = State::new(Faults { rules: vec![rule], ..Faults::default() });
        assert_eq!(struck(&mut state, &["a"], 3), [false; 3]);
        assert_eq!(struck(&mut state, &["a", "c"], 5), [false, true, true, false, false]);
        assert_eq!(state.stats.requests, 8);
        assert_eq!((state.stats.calls_of("a"), state.stats.calls_of("c")), (8, 5));
        assert_eq!(state.stats.faults, 2);
    }

    #[test]
    fn equal_seeds_give_equal_faults() {
        let faults = |seed| Faults {
            rules: vec![Rule::new(Fault::Cut).with_probability(0.25)],
            seed,
            ..Faults::default()
        };
        let story = |seed| struck(&mut State::new(faults(seed)), &["a"], 1_000);
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
        let hits = story(7).into_iter().filter(|hit| *hit).count();
        assert!((200..300).contains(&hits), "{hits}");
    }

    #[test]
    fn delays_add_up_and_the_first_end_counts() {
        let second = Duration::from_secs(1);
        let rules = vec![
            Rule::new(Fault::Delay(second)),
            Rule::new(Fault::Delay(second)),
            Rule::new(Fault::Status(500)),
            Rule::new(Fault::Cut),
        ];
        let fate = State::new(Faults { rules, latency: second, seed: 0 }).judge(&["a"]);
        assert_eq!(fate.delay, 3 * second);
        assert_eq!(fate.end, Some(Fault::Status(500)));
    }
}
