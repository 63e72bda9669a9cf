//! How a paywall behaves.

use std::time::Duration;

use super::webhook::Webhook;
use crate::{
    client::SettlementLimits,
    error::{Code, Error, Result},
    protocol::rules::MIN_DISPUTE_WINDOW_SECONDS,
};

const DAY: u64 = 86_400;
/// Consumers count on it: in less, they could not use up what they paid for.
const LEAST_IDLE_SECONDS: u64 = 3_600;

/// When a paid response leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deliver {
    /// As soon as it is durable; the outbox delivers on chain behind it.
    #[default]
    Outbox,
    /// When the delivery stands on chain.
    Confirmed,
}

/// Whether the paywall has its pay paid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Settle {
    /// It settles what it delivered once the dispute window is over, at the provider's gas.
    #[default]
    Auto,
    /// It leaves that to others: to the requester, or to a keeper. The money stays in escrow until one of
    /// them settles.
    Never,
}

/// What is done with requests that carry no signature of the transaction's requester.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// They are served. Whoever watches the chain can spend a stranger's transaction.
    Serve,
    /// They are refused (401).
    Refuse,
}

/// The settings of a paywall. Durations are wall-clock; seconds before a deadline are of the
/// kernel's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Requests without a signature: by default served on mock, local chains and Base Sepolia,
    /// refused everywhere else. Closing a payment always needs its requester's signature.
    pub unsigned: Option<Unsigned>,
    /// Whether this store is the only one of the provider's key, so that transactions are served
    /// whose service hash does not name this store's service: by default on mock, local chains and
    /// Base Sepolia. With a second store of the key, each would serve them.
    pub one_store: Option<bool>,
    /// When a paid response leaves.
    pub deliver: Deliver,
    /// Whether what was delivered is settled once its dispute window is over.
    pub settle: Settle,
    /// What a settlement must bring to be worth its gas. What does not waits, is counted by `/metrics` and
    /// `/health`, and is settled once its gas is cheap enough.
    pub settlement_limits: SettlementLimits,
    /// For how long settlements that are due are collected, to be sent together, seconds of the kernel's
    /// clock: 0.
    pub settle_collect_seconds: u64,
    /// How much time a transaction must have left before its deadline for a call to be run: 120.
    pub min_seconds_left: u64,
    /// How long before its deadline a transaction is closed: delivered where something was
    /// served, else given back. 60; less than `min_seconds_left`.
    pub closing_seconds: u64,
    /// After how long the claim of a process that died is taken over: 15 s.
    pub lease: Duration,
    /// How long a repeat waits for the run that is under way: 30 s.
    pub wait: Duration,
    /// How long a response waits for its delivery, with [`Deliver::Confirmed`]: 60 s.
    pub confirm_wait: Duration,
    /// After how many failed runs since its last answer a payment is given up, whichever its calls:
    /// given back where nothing was served, else made to wait longer before every further run: 5.
    pub give_up_after: u32,
    /// The longest dispute window of transactions that are served, seconds: 7 days. The pay is
    /// locked for as long.
    pub max_window_seconds: u64,
    /// The most time that a transaction may have left before its deadline when it is used for the
    /// first time, seconds: 7 days. The pay of a balance is locked for as long, and no charge's bundles
    /// may last longer.
    pub max_deadline_seconds: u64,
    /// After how long without an answered call a balance is delivered of which calls were served,
    /// seconds: a day, at least an hour. What is left of it is forfeited.
    pub idle_close_seconds: u64,
    /// The longest request body: 16 MiB.
    pub max_body_bytes: usize,
    /// How long a request body may take from its first byte to its last: 60 s.
    pub body_time: Duration,
    /// How many bytes of request bodies a process holds while they are read: 128 MiB. Requests
    /// without a payment that was verified share a quarter of it.
    pub body_budget_bytes: usize,
    /// The longest response that is collected and kept before its first byte leaves, where its
    /// length is known: 16 MiB. A longer one is a stream.
    pub max_kept_answer_bytes: usize,
    /// The longest streamed response that is kept for repeats: 1 MiB.
    pub max_kept_stream_bytes: usize,
    /// Whether the request of each answered call is kept beside its answer, with its signature, so that
    /// [`super::Paywall::evidence`] can show what was asked: on. The values of `Authorization`,
    /// `Cookie` and other headers that carry credentials are never kept.
    pub keep_requests: bool,
    /// The longest request body that is kept with it, bytes: 64 KiB. Of a longer one its hash alone is
    /// kept.
    pub max_kept_request_bytes: usize,
    /// The URL that callers see, where a proxy stands in between: `https://example.com/shop`. Its
    /// path begins every signed target, and the 402 names absolute URLs under it.
    pub public_url: Option<String>,
    /// Names of further request headers that can change an answer: two requests are the same only
    /// where these are equal. Accept, Accept-Language, Content-Type, Content-Encoding,
    /// Authorization and Cookie always count.
    pub vary_on: Vec<String>,
    /// For how long ended payments are kept: 30 days.
    pub keep: Duration,
    /// Whether transactions on which no call was ever made are given back before their deadline,
    /// and those that somebody left IN_PROGRESS after it. Turn it off where another service of
    /// the same key takes jobs that last until the deadline.
    pub give_back_unclaimed: bool,
    /// Whether the transaction of a single call must name its request by `agreementHash`, so that it pays
    /// for nothing else and the chain shows what was agreed without telling it: off. Kernels before
    /// AIP-14c keep no agreement. Calls of a balance name none.
    pub require_agreement: bool,
    /// Where the application is told of money, at least once and in the order of each payment; the events
    /// are kept in the store until it says that it has them, for five days.
    pub webhook: Option<Webhook>,
    /// Whether what the store keeps is synced to the disk before it counts. Without it, it survives
    /// whatever happens to the processes that serve, and a power cut of the store's machine may take the
    /// last moments; so may the end of a PostgreSQL server that crashes. `None` is what users of each store
    /// expect: a SQLite file is not synced, a database is.
    pub survive_power_cut: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unsigned: None,
            one_store: None,
            deliver: Deliver::default(),
            settle: Settle::default(),
            settlement_limits: SettlementLimits::default(),
            settle_collect_seconds: 0,
            min_seconds_left: 120,
            closing_seconds: 60,
            lease: Duration::from_secs(15),
            wait: Duration::from_secs(30),
            confirm_wait: Duration::from_secs(60),
            give_up_after: 5,
            max_window_seconds: 7 * DAY,
            max_deadline_seconds: 7 * DAY,
            idle_close_seconds: DAY,
            max_body_bytes: 16 << 20,
            body_time: Duration::from_secs(60),
            body_budget_bytes: 128 << 20,
            max_kept_answer_bytes: 16 << 20,
            max_kept_stream_bytes: 1 << 20,
            keep_requests: true,
            max_kept_request_bytes: 64 << 10,
            public_url: None,
            vary_on: vec![],
            keep: Duration::from_secs(30 * 86_400),
            give_back_unclaimed: true,
            require_agreement: false,
            webhook: None,
            survive_power_cut: None,
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |field, value: String, problem: &str| {
            Err(Error::invalid(Code::InvalidNumber, field, &value, problem))
        };
        if self.closing_seconds == 0 {
            return refuse(
                "closing_seconds",
                "0".to_owned(),
                "must be at least 1, so that there is time to deliver",
            );
        }
        if self.min_seconds_left <= self.closing_seconds {
            let problem = format!("must be more than closing_seconds, {}", self.closing_seconds);
            return refuse("min_seconds_left", self.min_seconds_left.to_string(), &problem);
        }
        if self.lease < Duration::from_secs(1) {
            let value = format!("{:?}", self.lease);
            return refuse("lease_seconds", value, "must be at least a second");
        }
        if self.body_time.is_zero() {
            return refuse("body_seconds", "0".to_owned(), "must be above 0");
        }
        if self.max_window_seconds < MIN_DISPUTE_WINDOW_SECONDS {
            let problem =
                format!("must be at least {MIN_DISPUTE_WINDOW_SECONDS}, the protocol's least");
            return refuse("max_window_seconds", self.max_window_seconds.to_string(), &problem);
        }
        if self.max_deadline_seconds <= self.min_seconds_left {
            let problem = format!("must be more than min_seconds_left, {}", self.min_seconds_left);
            return refuse("max_deadline_seconds", self.max_deadline_seconds.to_string(), &problem);
        }
        if self.idle_close_seconds < LEAST_IDLE_SECONDS {
            let problem = format!("must be at least {LEAST_IDLE_SECONDS}, an hour");
            return refuse("idle_close_seconds", self.idle_close_seconds.to_string(), &problem);
        }
        if self.give_up_after == 0 {
            return refuse("give_up_after", "0".to_owned(), "must be at least 1");
        }
        Ok(())
    }
}
