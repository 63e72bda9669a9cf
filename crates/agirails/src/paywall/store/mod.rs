//! Where payments and claims are kept, durably and shared by all workers: SQLite on one machine,
//! PostgreSQL for several. Every method is one atomic step; what it promises is durable when it
//! returns, and where it fails nothing was done.

#[cfg(test)]
pub(super) mod conformance;
pub(super) mod copy;
mod group_commit;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, hex};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

#[cfg(feature = "postgres")]
pub(super) use self::postgres::PostgresStore;
pub(super) use self::sqlite::SqliteStore;
use super::answer::{Answer, Headers};
use crate::{
    client::ACTPClient,
    error::Result,
    protocol::{
        DisputeWindow, Transaction, TransactionId, Usdc,
        money::{Payout, payout},
    },
};

/// How many bytes of a body are read at once. A longer one is kept in pieces of this length.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// How many hashes of a tree's level are kept in one row.
pub(super) const HASHES: usize = 64;

/// Whose payments a store keeps: one provider's on one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) chain_id: u64,
    pub(super) kernel: Address,
    pub(super) provider: Address,
}

impl Scope {
    /// Whose payments a client's paywall keeps.
    pub(super) fn of_client(client: &ACTPClient) -> Self {
        let network = client.network();
        Self { chain_id: network.chain_id, kernel: network.kernel, provider: client.address() }
    }

    /// What sets it apart from all others.
    fn name(&self) -> String {
        let Self { chain_id, kernel, provider } = self;
        format!("{chain_id}-{}-{}", hex::encode(kernel), hex::encode(provider))
    }

    /// The providers of the same network whose scopes have these names.
    fn provider_of(&self, name: &str) -> Option<Address> {
        let Self { chain_id, kernel, .. } = self;
        let rest = name.strip_prefix(&format!("{chain_id}-{}-", hex::encode(kernel)))?;
        let provider: Address = rest.parse().ok()?;
        (provider != self.provider).then_some(provider)
    }

    /// What earlier versions called it, which other providers may share.
    fn former_name(&self) -> String {
        let Self { chain_id, kernel, provider } = self;
        format!("{chain_id}-{}-{}", hex::encode(&kernel[..4]), hex::encode(&provider[..4]))
    }

    #[cfg(test)]
    pub(super) fn of(name: &str) -> Self {
        let hash = alloy_primitives::keccak256(name);
        let address = Address::from_slice(&hash[..20]);
        Self { chain_id: 31_337, kernel: address, provider: address }
    }
}

/// A transaction as it was verified once. Nothing of it changes before its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) id: TransactionId,
    pub(super) requester: Address,
    pub(super) amount: Usdc,
    /// Unix seconds of the kernel's clock.
    pub(super) deadline: u64,
    /// The dispute window's length.
    pub(super) window_seconds: u64,
    /// What its provider gets of it when it is settled without a dispute.
    pub(super) net: Usdc,
    /// Whether its service hash names the store's service. What is not bound may have been served by
    /// another store of the same key, so this one never gives it back by itself.
    pub(super) bound: bool,
}

impl Facts {
    /// What is kept of a transaction, before it is known to be bound to the store's service.
    pub(super) fn of(transaction: &Transaction) -> Self {
        let window_seconds = match transaction.dispute_window {
            DisputeWindow::Seconds(seconds) => seconds,
            DisputeWindow::EndsAt(_) => 0,
        };
        Self {
            id: transaction.id,
            requester: transaction.requester,
            amount: transaction.amount,
            deadline: transaction.deadline,
            window_seconds,
            net: net(transaction.amount, transaction.platform_fee_bps_locked),
            bound: false,
        }
    }

    /// What is paid out where it is settled without a dispute.
    pub(super) const fn payout(&self) -> Payout {
        Payout { net: self.net, fee: Usdc(self.amount.0.saturating_sub(self.net.0)) }
    }
}

/// What arrives of an amount.
pub(super) fn net(amount: Usdc, fee_bps: u16) -> Usdc {
    payout(amount, fee_bps).map_or(Usdc::ZERO, |payout| payout.net)
}

/// How far a payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Calls may be claimed.
    Open,
    /// Something was served: it has to be DELIVERED on chain.
    Delivering,
    /// DELIVERED stands on chain: it can be settled once its dispute window is over.
    Delivered,
    /// Nothing will be served: it has to be CANCELLED on chain.
    Returning,
    /// CANCELLED stands on chain.
    Returned,
    /// Neither is possible any more; the operator was told.
    Lost,
    /// Nothing was served here and nothing will be; as it is not bound to this store's service,
    /// nothing is owed on chain either.
    Left,
    /// SETTLED stands on chain: the provider is paid.
    Settled,
    /// DISPUTED stands on chain: it waits for the resolver.
    Disputed,
}

impl Stage {
    pub(super) const ALL: [Self; 9] = [
        Self::Open,
        Self::Delivering,
        Self::Delivered,
        Self::Returning,
        Self::Returned,
        Self::Lost,
        Self::Left,
        Self::Settled,
        Self::Disputed,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Delivering => "delivering",
            Self::Delivered => "delivered",
            Self::Returning => "returning",
            Self::Returned => "returned",
            Self::Lost => "lost",
            Self::Left => "left",
            Self::Settled => "settled",
            Self::Disputed => "disputed",
        }
    }

    /// The stage of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }

    /// Whether it is served no more, and nothing is owed on chain but its settlement.
    pub(super) const fn is_closed(self) -> bool {
        !matches!(self, Self::Open | Self::Delivering | Self::Returning)
    }

    /// As the stores keep it.
    pub(super) const fn number(self) -> i16 {
        self as i16
    }

    pub(super) fn from_number(number: i16) -> Option<Self> {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number)).copied()
    }
}

/// A payment as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payment {
    pub(super) facts: Facts,
    pub(super) stage: Stage,
    /// What answered calls took.
    pub(super) spent: Usdc,
    /// What running calls hold.
    pub(super) reserved: Usdc,
    /// How many calls were answered.
    pub(super) calls: u64,
    /// The delivery proof's content hash, once it is known.
    pub(super) content_hash: Option<B256>,
    /// Why the last move on chain failed.
    pub(super) trouble: Option<String>,
}

/// Which call of which transaction. The key is empty for a call that takes the whole transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CallId {
    pub(super) transaction: TransactionId,
    pub(super) key: String,
}

/// One process's name for itself; whoever runs a claim.
pub(super) type Owner = [u8; 16];

/// Asks to run the handler.
#[derive(Debug, Clone)]
pub(super) struct ClaimRequest {
    /// Inserted where the transaction is not known yet.
    pub(super) facts: Facts,
    /// The call's key, empty for the whole transaction.
    pub(super) key: String,
    /// What tells this request from others: method, target, body.
    pub(super) digest: B256,
    /// What the call takes from the balance; for a call without a key the whole amount.
    pub(super) price: Usdc,
    /// What the transaction must be worth when it is used for the first time.
    pub(super) least: Usdc,
    pub(super) owner: Owner,
    /// How long the claim stands without being renewed.
    pub(super) lease: Duration,
    /// After how many failed runs since the payment's last answer its next runs have to wait.
    pub(super) give_up_after: u32,
}

/// How long a payment rests after so many failed runs more than are allowed, in seconds: doubled
/// with each, up to about an hour. Whoever makes calls fail on purpose runs few of them for nothing.
const REST_DOUBLINGS: u32 = 12;

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claimed {
    /// Run it. `attempt` counts from 1, failed and lost runs included, and fences: only the
    /// latest attempt can answer.
    Run { attempt: u32 },
    /// The same request is being run by somebody, whose claim may be taken over after this time.
    Running { lease_left: Duration },
    /// The same request was answered.
    Answered(Kept),
    /// The id, or the key, was used by another request.
    OtherRequest,
    /// A call without a key takes all, and there are calls with keys; or the other way round.
    OtherKind,
    /// Too many of the payment's runs failed: it may be tried again after this time.
    Resting { left: Duration },
    /// The balance does not cover the price.
    NoBalance { left: Usdc },
    /// The payment is not open any more, and holds no answer to this request.
    Closed(Stage),
}

/// An answer as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) index: u64,
    pub(super) content_hash: B256,
    /// Unix seconds.
    pub(super) answered_at: u64,
    /// `None` where it was streamed and longer than the limit.
    pub(super) answer: Option<KeptAnswer>,
}

/// A response as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptAnswer {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: KeptBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeptBody {
    Whole(Vec<u8>),
    /// It is longer than [`PIECE_BYTES`]: [`Store::piece`] brings it.
    Pieces {
        length: u64,
    },
}

/// A running claim, named so that only its own attempt is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    pub(super) call: CallId,
    pub(super) owner: Owner,
    pub(super) attempt: u32,
    pub(super) price: Usdc,
}

/// What is made durable when a handler succeeded.
#[derive(Debug, Clone)]
pub(super) struct AnswerRequest {
    pub(super) claim: Claim,
    pub(super) content_hash: B256,
    /// Unix seconds.
    pub(super) answered_at: u64,
    pub(super) answer: Option<Answer>,
    /// What was asked, where that is kept.
    pub(super) request: Option<Arc<KeptRequest>>,
    /// For the totals.
    pub(super) route: String,
    /// Delivers once less than this is left and no other call is running.
    pub(super) close_below: Usdc,
}

/// What was asked, kept beside its answer for whoever decides a dispute. The stores keep it as JSON, and
/// its body by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptRequest {
    /// What tells this request from others: [`Store::known`] finds its answer by it.
    pub(super) digest: B256,
    pub(super) method: String,
    pub(super) target: String,
    /// Those that can change an answer, without credentials.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body_hash: B256,
    /// `None` where it is longer than what is kept.
    #[serde(skip)]
    pub(super) body: Option<Bytes>,
    /// The headers that hold the signature, and the appointment of the key that made it.
    pub(super) signature: Option<String>,
    pub(super) session: Option<String>,
    /// Whether the requester's contract said that the signature is its own.
    pub(super) by_contract: bool,
    /// What the content hash says of the answer, whether or not that is kept.
    pub(super) answered: Answered,
}

/// An answer without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body_hash: B256,
}

impl KeptRequest {
    /// As the stores keep it, without the body.
    fn to_json(&self) -> Vec<u8> {
        // Text, numbers and hashes always have JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn from_json(json: &[u8], body: Option<Vec<u8>>) -> serde_json::Result<Self> {
        let kept: Self = serde_json::from_slice(json)?;
        Ok(Self { body: body.map(Bytes::from), ..kept })
    }
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It took effect. The payment is at this stage now; `index` counts its answered calls before
    /// this one.
    Done { stage: Stage, index: u64 },
    /// It is not the latest attempt any more, or was ended before: nothing was done.
    TakenOver,
    /// The payment was closed before: nothing was done.
    Closed,
}

/// What is known of a call without claiming it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// This very request was answered.
    Answered(Kept),
    /// It is being run by somebody whose lease stands for so long.
    Running { lease_left: Duration },
    /// Neither, or only another request's.
    Nothing,
}

/// A move that is owed on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Duty {
    pub(super) facts: Facts,
    /// [`Stage::Delivering`], [`Stage::Returning`] or, where it is to be settled, [`Stage::Delivered`].
    pub(super) stage: Stage,
    /// Of a delivery, once it was found out.
    pub(super) content_hash: Option<B256>,
    /// When the last call was answered, Unix seconds.
    pub(super) answered_at: u64,
    /// How often it was tried.
    pub(super) tries: u32,
    /// For how long it has been owed.
    pub(super) age: Duration,
    /// When its dispute window is over, by the kernel's clock; 0 where that is not known.
    pub(super) settle_at: u64,
}

/// What became of a duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It stands on chain, or never can; or, where a delivery is refused for good, it is to be given
    /// back.
    Moved { to: Stage, trouble: Option<String>, entry: Entry },
    /// To be tried again.
    Later { after: Duration, trouble: String },
    /// It cannot be settled before this time, by the kernel's clock.
    NotBefore { settle_at: u64 },
}

/// What the books say of a move on chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// When it was made, Unix seconds of the kernel's clock.
    pub(super) at: u64,
    /// What its gas cost us, in wei.
    pub(super) gas: u64,
    /// Of a delivery: when its dispute window is over; 0 where that is not known.
    pub(super) settle_at: u64,
    /// Of an end: what arrived, and the protocol's fee, where that is known.
    pub(super) payout: Option<Payout>,
    /// Of an end: whether the resolver of a dispute decided it.
    pub(super) is_resolved: bool,
}

/// Which payments, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PaymentFilter {
    pub(super) stage: Option<Stage>,
    pub(super) requester: Option<Address>,
    /// Read on behind this one, the last of the page before.
    pub(super) after: Option<TransactionId>,
    pub(super) limit: u32,
}

/// A payment with its story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PaymentRow {
    pub(super) payment: Payment,
    /// When its first call was claimed, by the store's clock; the others by the kernel's. 0 is never.
    pub(super) opened_at: u64,
    pub(super) delivered_at: u64,
    pub(super) settle_at: u64,
    pub(super) settled_at: u64,
    /// What arrived, and the protocol's fee, where it has ended and that is known.
    pub(super) payout: Option<Payout>,
    /// What its moves cost us, in wei.
    pub(super) gas: u64,
}

/// What a report has a row for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReportBy {
    /// Each day of UTC: `2026-11-27`.
    #[default]
    Day,
    /// Each route, by its charge's name.
    Route,
    /// Each requester, by its address.
    Customer,
}

/// The totals of a day, a route or a customer. Amounts are base units of USDC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Answered calls, and what they took.
    pub(super) calls: u64,
    pub(super) gross: u64,
    /// Payments that were settled: what was paid out, the protocol's fee of it, and what arrived.
    pub(super) settled: u64,
    pub(super) paid_out: u64,
    pub(super) fee: u64,
    pub(super) net: u64,
    /// Wei that moves of these payments cost us.
    pub(super) gas: u64,
    pub(super) refunded: u64,
    pub(super) disputed: u64,
}

impl Totals {
    /// Both together.
    pub(super) fn and(self, other: &Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            gross: self.gross + other.gross,
            settled: self.settled + other.settled,
            paid_out: self.paid_out + other.paid_out,
            fee: self.fee + other.fee,
            net: self.net + other.net,
            gas: self.gas.saturating_add(other.gas),
            refunded: self.refunded + other.refunded,
            disputed: self.disputed + other.disputed,
        }
    }

    /// What a move on chain adds.
    pub(super) fn of_move(from: Stage, to: Stage, gas: u64, payout: Option<Payout>) -> Self {
        let mut totals = Self { gas, ..Self::default() };
        if let Some(Payout { net, fee }) = payout {
            totals.paid_out = net.0.saturating_add(fee.0);
            (totals.net, totals.fee) = (net.0, fee.0);
        }
        match to {
            Stage::Settled => totals.settled = 1,
            Stage::Disputed => totals.disputed = 1,
            Stage::Returned if from != Stage::Open => totals.refunded = 1,
            _ => {}
        }
        totals
    }

    /// The values of [`MOVES`].
    const fn of_moves(&self) -> [u64; 7] {
        let Self { settled, paid_out, fee, net, gas, refunded, disputed, .. } = *self;
        [settled, paid_out, fee, net, gas, refunded, disputed]
    }

    /// What a move adds for each of the routes whose calls took this much, the greatest first: money by
    /// their shares, and what cannot be shared with the first. The shares add up to the whole.
    pub(super) fn shared_out(self, routes: Vec<(String, u64)>) -> Vec<(String, Self)> {
        let all: u128 = routes.iter().map(|(_, took)| u128::from(*took)).sum();
        let mut routes = routes.into_iter();
        let (main, _) = routes.next().unwrap_or_default();
        let mut first = self;
        let mut shares = vec![];
        for (route, took) in routes {
            let part = |whole: u64| (u128::from(whole) * u128::from(took) / all.max(1)) as u64;
            let (paid_out, net) = (part(self.paid_out), part(self.net));
            let share = Self { paid_out, net, fee: paid_out - net, ..Self::default() };
            first.paid_out -= share.paid_out;
            first.net -= share.net;
            shares.push((route, share));
        }
        first.fee = first.paid_out.saturating_sub(first.net);
        shares.push((main, first));
        shares
    }
}

/// What a move on chain is called where the application is told of it; `None` where it is not.
pub(super) fn money_event(from: Stage, to: Stage, is_resolved: bool) -> Option<&'static str> {
    match (from, to) {
        // A chain took something back, and it is as it was.
        (Stage::Settled | Stage::Disputed, Stage::Delivered) => None,
        (_, Stage::Delivered) => Some("delivered"),
        (_, Stage::Settled) if !is_resolved => Some("settled"),
        (_, Stage::Settled) | (Stage::Delivered | Stage::Disputed, Stage::Returned) => {
            Some("resolved")
        }
        (_, Stage::Disputed) => Some("disputed"),
        (Stage::Returning, Stage::Returned) => Some("refunded"),
        (_, Stage::Returned) => Some("cancelled"),
        (_, Stage::Lost) => Some("lost"),
        _ => None,
    }
}

/// An event about money that the application was not told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebhookRow {
    pub(super) number: i64,
    /// The same for every try.
    pub(super) id: [u8; 16],
    pub(super) payment: TransactionId,
    pub(super) requester: Address,
    pub(super) amount: Usdc,
    /// As [`money_event`] names it.
    pub(super) name: String,
    /// Unix seconds of the kernel's clock.
    pub(super) at: u64,
    pub(super) net: Option<Usdc>,
    /// Wei.
    pub(super) gas: u64,
    pub(super) tries: u32,
}

/// The names of the counters of moves on chain, as they stand in [`Store::counters`].
pub(super) const MOVES: [&str; 7] = [
    "agirails_paywall_settled_total",
    "agirails_paywall_paid_out_base_units_total",
    "agirails_paywall_fee_base_units_total",
    "agirails_paywall_net_base_units_total",
    "agirails_paywall_gas_wei_total",
    "agirails_paywall_refunded_total",
    "agirails_paywall_disputed_total",
];

/// Of them, the gas.
pub(super) const GAS: &str = MOVES[4];

/// Seconds of a day of the books, which are of UTC.
pub(super) const DAY: u64 = 86_400;

/// What is owed in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) deliveries: u64,
    pub(super) returns: u64,
    /// Payments that calls may be claimed on.
    pub(super) open: u64,
    pub(super) lost: u64,
    /// Payments that are delivered and not settled, and those of them that could be settled by now.
    pub(super) delivered: u64,
    pub(super) due: u64,
    /// Those that could be settled and are not worth their gas.
    pub(super) small: u64,
    /// When the first of those that are worth it could be settled, by the kernel's clock.
    pub(super) due_since: Option<u64>,
    pub(super) disputed: u64,
    /// What is to arrive of all that is delivered, or is to be, if nobody disputes it.
    pub(super) expected: Usdc,
    /// When the next dispute window is over, by the kernel's clock, of those that are not.
    pub(super) next_at: Option<u64>,
    /// Events that the application was not told yet.
    pub(super) webhooks: u64,
    /// The age of the oldest duty.
    pub(super) oldest: Duration,
    /// Why the oldest duty that failed did.
    pub(super) trouble: Option<String>,
}

impl Backlog {
    /// What another store of the same service owes too.
    pub(super) fn add(&mut self, other: Self) {
        self.deliveries += other.deliveries;
        self.returns += other.returns;
        self.open += other.open;
        self.lost += other.lost;
        self.delivered += other.delivered;
        self.due += other.due;
        self.small += other.small;
        self.disputed += other.disputed;
        self.webhooks += other.webhooks;
        self.due_since = [self.due_since, other.due_since].into_iter().flatten().min();
        self.oldest = self.oldest.max(other.oldest);
        self.trouble = self.trouble.take().or(other.trouble);
    }
}

/// Payments in the same place that only another key can move, and that no process tends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) provider: Address,
    pub(super) payments: u64,
    pub(super) amount: Usdc,
}

/// One call, for receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallRow {
    pub(super) key: String,
    pub(super) index: u64,
    pub(super) content_hash: B256,
    pub(super) answered_at: u64,
}

/// Counters by name and labels, in Prometheus' spelling: `name{label="value"}`.
pub(super) type Counters = BTreeMap<String, u64>;

/// How a run of a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ran {
    /// It failed; nothing was taken.
    Failed,
    /// It took at most so many milliseconds, which is a bound of the histogram.
    Within(u32),
    /// It took longer than the last bound.
    Longer,
}

impl Ran {
    /// As the stores keep it.
    fn number(self) -> i64 {
        match self {
            Self::Failed => 0,
            Self::Within(ms) => i64::from(ms),
            Self::Longer => -1,
        }
    }

    fn from_number(number: i64) -> Self {
        match number {
            0 => Self::Failed,
            _ => u32::try_from(number).map_or(Self::Longer, Self::Within),
        }
    }
}

/// Runs by day of UTC, counted from 1970, and route.
pub(super) type Runs = BTreeMap<(u64, String, Ran), u64>;

/// The counter of a route's answered calls.
pub(super) fn calls_counter(route: &str) -> String {
    format!("agirails_paywall_calls_total{{route={}}}", quoted(route))
}

/// The counter of what a route's answered calls took, in base units of USDC.
pub(super) fn revenue_counter(route: &str) -> String {
    format!("agirails_paywall_revenue_base_units_total{{route={}}}", quoted(route))
}

/// Keeps payments and claims of one provider on one network. Clocks are the store's own, but for
/// deadlines, which are the kernel's.
#[async_trait]
pub(super) trait Store: fmt::Debug + Send + Sync {
    /// The id of the service that this store keeps, made once: transactions are bound to it.
    async fn service(&self) -> Result<B256>;

    /// A payment as it stands; `None` where no call was ever claimed on it.
    async fn payment(&self, id: TransactionId) -> Result<Option<Payment>>;

    /// Claims a call: at most one [`Claimed::Run`] at a time for one call, and none after an answer.
    ///
    /// In this order: an answer of the same request → Answered; another request's key →
    /// `OtherRequest`; a running claim whose lease stands → Running; payment not open → Closed; other
    /// kind → `OtherKind` (the payment's first claim decides whether its calls have keys); too many failed
    /// runs a moment ago → Resting; the price
    /// not covered by `amount - spent - reserved`, or on an unknown payment `amount < least` →
    /// `NoBalance`, and nothing is inserted; else the price is reserved (a claim that is taken over
    /// gives back what it held before, and counts as failed) and Run returned.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed>;

    /// What became of this very request so far. Nothing is claimed.
    async fn known(&self, call: &CallId, digest: B256) -> Result<Known>;

    /// Keeps these claims for another lease. Those that are not their owner's any more are passed over.
    async fn renew(&self, claims: &[Claim], lease: Duration) -> Result<()>;

    /// Keeps the answer and, where it is given, the request; takes the price (reserved → spent), counts call and revenue for the route, and where
    /// nothing sensible is left of the balance (`amount - spent < close_below` and nothing reserved) moves the payment to
    /// Delivering: all in one step. `TakenOver` where the claim is not the latest attempt, else `Closed` where the
    /// payment is not Open.
    async fn answer(&self, request: &AnswerRequest) -> Result<Ended>;

    /// Gives a claim back: the price returns to the balance, and the same request may be claimed
    /// again. From `give_up_after` failed runs of the payment on, whichever its calls, one of which nothing was ever
    /// served and nothing runs is moved to Returning, or, unbound, to Left. Refused as an answer is.
    async fn release(&self, claim: &Claim, give_up_after: u32) -> Result<Ended>;

    /// Ends an open payment before its time: Delivering where something was served, else
    /// Returning. `None` where it is unknown; the stage as it is where it was closed before, and Open where a call
    /// is running, or where nothing was served and it is not bound.
    async fn close(&self, id: TransactionId) -> Result<Option<Stage>>;

    /// Ends all open payments whose deadline is at most this, running calls or not; returns how many. What was never
    /// served becomes Returning, or, unbound, Left.
    async fn close_expiring(&self, deadline: u64) -> Result<u64>;

    /// Delivers open payments whose last answer came at most at this time, by the kernel's clock, and of which nothing
    /// runs; returns how many. What was never served is not idle.
    async fn close_idle(&self, answered_at: u64) -> Result<u64>;

    /// Payments at this stage in the order of their ids, behind this one.
    async fn payments_at(
        &self,
        stage: Stage,
        after: TransactionId,
        limit: u32,
    ) -> Result<Vec<TransactionId>>;

    /// An open payment was moved on chain by other hands: it enters `served` where something was served, else
    /// `unserved`. The stage it is at now; `None` where it is unknown.
    async fn overtake(
        &self,
        id: TransactionId,
        unserved: Stage,
        served: Stage,
        trouble: &str,
    ) -> Result<Option<Stage>>;

    /// Has a transaction given back whatever was served of it, on its provider's own word: from Open, Lost, Left, or
    /// unknown to Returning. The stage it is at now, where that was another.
    async fn refund(&self, facts: &Facts) -> Result<Stage>;

    /// Takes in a transaction of which no call was ever claimed, to be given back. Without effect where it is known.
    async fn give_back(&self, facts: &Facts) -> Result<()>;

    /// Duties at this stage whose time has come, the nearest deadline first.
    async fn duties(&self, stage: Stage, limit: u32) -> Result<Vec<Duty>>;

    /// Delivered payments whose dispute window was over before `now`, by the kernel's clock, of which at
    /// least this much arrives, and whose next try has come; those that have waited longest first.
    async fn settlements(&self, now: u64, least: Usdc, limit: u32) -> Result<Vec<Duty>>;

    /// A payment with its story; `None` where it is unknown.
    async fn payment_row(&self, id: TransactionId) -> Result<Option<PaymentRow>>;

    /// Payments with their story, newest first.
    async fn payments(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRow>>;

    /// The books of these days of UTC, counted from 1970, the last one included: a row for each day
    /// (`2026-11-27`), route or customer (its address in lower case), in the order of the keys, byte by
    /// byte, and behind this one, which may be empty as a route's is. What is settled counts on the day on which it was; where calls of several routes took from it, each has
    /// its share. The books outlive the payments.
    async fn report(
        &self,
        by: ReportBy,
        days: (u64, u64),
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Totals)>>;

    /// The rows of [`Store::report`] with the most money in them (`gross` and `net` together), the
    /// richest first.
    async fn top(
        &self,
        by: ReportBy,
        days: (u64, u64),
        limit: u32,
    ) -> Result<Vec<(String, Totals)>>;

    /// How the runs of each route ended on these days of UTC, the last one included.
    async fn runs(&self, days: (u64, u64)) -> Result<BTreeMap<(String, Ran), u64>>;

    /// A piece of the kept body of a call, counted from 0: empty behind its end.
    async fn piece(&self, call: &CallId, number: u64) -> Result<Vec<u8>>;

    /// An answered call; `None` where there is no such one.
    async fn answered(&self, call: &CallId) -> Result<Option<CallRow>>;

    /// What was asked by an answered call; `None` where there is no such one, or its request was not kept.
    async fn request(&self, call: &CallId) -> Result<Option<KeptRequest>>;

    /// The answered calls of a payment in the order of their index.
    async fn calls(&self, id: TransactionId) -> Result<Vec<CallRow>>;

    /// Keeps the tree over the calls of a payment that is closed, from its leaves to its root. Without
    /// effect where it is kept already.
    async fn keep_tree(&self, id: TransactionId, levels: &[Vec<B256>]) -> Result<()>;

    /// Nodes of a kept tree by level and place; fewer where it is not kept.
    async fn nodes(&self, id: TransactionId, places: &[(u32, u64)]) -> Result<Vec<B256>>;

    /// Fixes the content hash of a delivery, before it is sent: the first one stays. Returns the one that stands.
    async fn set_content_hash(&self, id: TransactionId, hash: B256) -> Result<B256>;

    /// Writes down what became of a duty that was at this stage, and enters it in the books; `false`, without effect,
    /// where it is at another. Failed runs of what is closed are forgotten.
    async fn settle(&self, id: TransactionId, stage: Stage, outcome: &Outcome) -> Result<bool>;

    /// Enters in the books what a payment's move cost that was mined and did nothing, in wei, at this time of
    /// the kernel's clock. Without effect where it is unknown.
    async fn spend(&self, id: TransactionId, at: u64, gas: u64) -> Result<()>;

    /// Takes or renews a lease for this owner; `false` while another's stands.
    async fn lease(&self, name: &str, owner: Owner, lease: Duration) -> Result<bool>;

    /// What is owed, and what waits for its settlement at this time by the kernel's clock, where so much must arrive
    /// of it.
    async fn backlog(&self, now: u64, least: Usdc) -> Result<Backlog>;

    /// Adds to the counters and to the runs, in one step.
    async fn count(&self, more: &Counters, runs: &Runs) -> Result<()>;

    /// All counters, those of [`Store::answer`] and [`Store::settle`] ([`MOVES`]) among them:
    /// `agirails_paywall_calls_total{route="…"}` and `agirails_paywall_revenue_base_units_total{route="…"}`.
    async fn counters(&self) -> Result<Counters>;

    /// Forgets up to `limit` payments that ended longer ago than this, with all that is kept of their calls; returns how many. None whose
    /// deadline is not over `now`, by the kernel's clock: its id could be spent again. None that is delivered and not
    /// settled: somebody owes for it.
    async fn prune(&self, age: Duration, now: u64, limit: u32) -> Result<u64>;

    /// From now on each move on chain that [`money_event`] has a name for is kept, in the same step, until the
    /// application was told.
    fn keep_webhooks(&self);

    /// Events that are to be told now, the oldest first: of each payment the oldest alone, so that they are told in
    /// their order.
    async fn webhooks(&self, limit: u32) -> Result<Vec<WebhookRow>>;

    /// The application was told.
    async fn webhook_told(&self, number: i64) -> Result<()>;

    /// It could not be told, and is to be after this time.
    async fn webhook_later(&self, number: i64, after: Duration) -> Result<()>;

    /// Forgets events that are older than this, and the oldest where there are more than `most`; returns how many.
    async fn expire_webhooks(&self, age: Duration, most: u32) -> Result<u64>;

    /// Since when this store works as a copy of another one; `now` where it begins to just now, and
    /// `None` where it is the original. What was claimed between the copy and that time, it does not
    /// know.
    async fn restored(&self, now: u64) -> Result<Option<u64>>;

    /// Open, owed deliveries and refunds of other providers on the same network in the same place, of whom
    /// none holds a lease.
    async fn strangers(&self) -> Result<Vec<Stranger>>;

    /// Where its tables were moved to, since when nothing is served from here.
    async fn moved_to(&self) -> Result<Option<String>>;

    /// Writes down where its tables are moved to, or that they were not.
    async fn move_to(&self, place: Option<&str>) -> Result<()>;

    /// Brings what is written to where it stays, without making anybody wait: called now and then.
    async fn tidy(&self) -> Result<()>;
}

/// A level of a tree, in rows.
fn rows_of_level(level: &[B256]) -> impl Iterator<Item = (u64, Vec<u8>)> {
    (0..).zip(level.chunks(HASHES).map(|hashes| hashes.concat()))
}

/// Which row of its level a node is in, and where there.
const fn row_of_node(place: u64) -> (u64, usize) {
    (place / HASHES as u64, place as usize % HASHES)
}

/// A node in its row.
fn node_in_row(row: &[u8], at: usize) -> Option<B256> {
    row.get(at * 32..(at + 1) * 32).and_then(|hash| B256::try_from(hash).ok())
}

/// A service's id, if its store has none yet.
fn fresh_service() -> B256 {
    let [one, other] = [super::random(), super::random()];
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&one);
    bytes[16..].copy_from_slice(&other);
    B256::from(bytes)
}

/// A label's value as Prometheus reads it, which knows these three escapes and no others.
pub(super) fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    format!("\"{escaped}\"")
}
