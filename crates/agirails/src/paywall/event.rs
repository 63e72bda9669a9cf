//! What the operator is told: one event for everything that happened, after it happened.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use alloy_primitives::Address;

use crate::protocol::{TransactionId, Usdc};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It is as it should be.
    Info,
    /// Somebody should look at it some time.
    Warning,
    /// Somebody should look at it now.
    Error,
}

/// Something that happened. It may name internals; a caller of the service never sees it.
///
/// The fields say what the message says, for programs. Those that do not apply are `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// What kind of event it is: `served`, `repeated`, `run_failed`, `stream_cut`, `rejected`; of money
    /// `delivered`, `settled`, `disputed`, `resolved` (a dispute has ended), `refunded`, `cancelled` (by
    /// others, before anything was served), `lost`, `ruling` (of a dispute that bonds decide, something
    /// else stands than before); or `background` for what no call caused.
    pub name: &'static str,
    /// What happened, in words.
    pub message: Cow<'static, str>,
    /// Of a payment that was settled: what arrived of it.
    pub net: Option<Usdc>,
    /// What a move's gas cost the provider, in wei.
    pub gas_wei: Option<u64>,
    /// Of a ruling against the provider: the last second in which a challenge counts, Unix time of the
    /// chain.
    pub answer_until: Option<u64>,
    /// The request that was rejected, as its caller was told.
    pub request_id: Option<String>,
    /// The charge's name.
    pub route: Option<String>,
    /// The transaction that the call was made with.
    pub transaction: Option<TransactionId>,
    /// Who pays.
    pub requester: Option<Address>,
    /// What the call takes.
    pub price: Option<Usdc>,
    /// The number of the run, from 1.
    pub attempt: Option<u32>,
    /// The HTTP status that the caller got.
    pub status: Option<u16>,
    /// From the claim to the outcome.
    pub took: Option<Duration>,
    /// Why a run failed ([`super::Reason`]) or a request was rejected.
    pub reason: Option<&'static str>,
    /// What became of a failed run's payment: `usable`, `returning`, `left`, `closed`, `taken_over`,
    /// `unknown`.
    pub outcome: Option<&'static str>,
}

impl Event {
    pub(super) fn new(
        level: Level,
        name: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            level,
            name,
            message: message.into(),
            net: None,
            gas_wei: None,
            answer_until: None,
            request_id: None,
            route: None,
            transaction: None,
            requester: None,
            price: None,
            attempt: None,
            status: None,
            took: None,
            reason: None,
            outcome: None,
        }
    }
}

/// Who is told of events.
#[derive(Clone)]
pub(super) struct Listener {
    tell: Arc<dyn Fn(&Event) + Send + Sync>,
    is_tracing: bool,
}

impl Listener {
    pub(super) fn new(listen: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { tell: Arc::new(listen), is_tracing: false }
    }

    /// Tells of something that no call caused.
    pub(super) fn tell(&self, level: Level, message: impl Into<Cow<'static, str>>) {
        self.tell_of(&Event::new(level, "background", message));
    }

    pub(super) fn tell_of(&self, event: &Event) {
        (self.tell)(event);
    }

    /// Whether anybody listens to events of [`Level::Info`], one of which comes with every call.
    pub(super) fn hears_info(&self) -> bool {
        !self.is_tracing || tracing::enabled!(tracing::Level::INFO)
    }
}

/// Without a listener of the application's own, `tracing` gets events, with their fields.
impl Default for Listener {
    fn default() -> Self {
        Self { tell: Arc::new(trace), is_tracing: true }
    }
}

fn trace(event: &Event) {
    macro_rules! trace {
        ($level:ident) => {
            tracing::event!(
                tracing::Level::$level,
                event = event.name,
                request_id = event.request_id,
                route = event.route,
                transaction = event.transaction.map(tracing::field::display),
                requester = event.requester.map(tracing::field::display),
                price = event.price.map(|price| price.0),
                net = event.net.map(|net| net.0),
                gas_wei = event.gas_wei,
                answer_until = event.answer_until,
                attempt = event.attempt,
                status = event.status,
                seconds = event.took.map(|took| took.as_secs_f64()),
                reason = event.reason,
                outcome = event.outcome,
                "{}",
                event.message
            )
        };
    }
    match event.level {
        Level::Info => trace!(INFO),
        Level::Warning => trace!(WARN),
        Level::Error => trace!(ERROR),
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener(..)")
    }
}
