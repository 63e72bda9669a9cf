//! What the operator is told: one event for everything that happened, after it happened.

use std::{fmt, sync::Arc};

use alloy_primitives::Address;
use serde::Serialize;

use crate::{
    kernel::GasCost,
    protocol::{State, TransactionId, Usdc},
};

/// A settlement that a keeper made, or would make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Settlement {
    /// Which transaction.
    pub transaction: TransactionId,
    /// Whom it paid.
    pub provider: Address,
    /// What arrived, after the protocol's fee.
    pub net: Usdc,
    /// What the keeper paid for it.
    pub gas_cost: GasCost,
}

/// A return of a requester's money that a keeper made, or would make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Recovery {
    /// Which transaction.
    pub transaction: TransactionId,
    /// Who has the money back.
    pub requester: Address,
    /// What was left in escrow, all of which was returned.
    pub amount: Usdc,
    /// What the keeper paid for it.
    pub gas_cost: GasCost,
}

/// Something that happened. Its [`Display`](fmt::Display) is a line for a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// A transaction was settled.
    Settled(Settlement),
    /// A transaction would be settled, were this not a dry run.
    WouldSettle(Settlement),
    /// The money of work that its provider had abandoned was returned.
    Recovered(Recovery),
    /// It would be returned, were this not a dry run.
    WouldRecover(Recovery),
    /// A transaction that was to be settled ended by other hands.
    Ended {
        /// Which transaction.
        transaction: TransactionId,
        /// SETTLED or CANCELLED.
        state: State,
    },
    /// A transaction waits until gas is cheaper.
    Unprofitable {
        /// Which transaction.
        transaction: TransactionId,
        /// What would arrive, at the provider or back at the requester.
        net: Usdc,
        /// What must arrive at the moment.
        least_net: Usdc,
    },
    /// A transaction waits for its resolver.
    Disputed {
        /// Which transaction.
        transaction: TransactionId,
    },
    /// A settlement or a return that stood on chain was taken back. The transaction waits again.
    TakenBack {
        /// Which transaction.
        transaction: TransactionId,
    },
    /// A transaction is not watched any more: no node has shown it as delivered for a day.
    Forgotten {
        /// Which transaction.
        transaction: TransactionId,
    },
    /// A try to settle a transaction or to return its money failed. It is tried again.
    Failed {
        /// Which transaction.
        transaction: TransactionId,
        /// Why.
        message: String,
        /// After how long it is tried again.
        next_try_seconds: u64,
    },
    /// A round ended early, and nothing was lost by it. The next one goes on.
    RoundFailed {
        /// Why.
        message: String,
        /// After how long the next round begins.
        next_try_seconds: u64,
    },
    /// Another keeper of the same key is at work.
    Busy,
}

impl Event {
    /// Whether somebody should look at it.
    pub const fn is_trouble(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::RoundFailed { .. } | Self::TakenBack { .. })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled(Settlement { transaction, provider, net, gas_cost }) => write!(
                f,
                "settled {transaction} for provider {provider}: net {net} USDC, gas {} wei",
                gas_cost.0
            ),
            Self::WouldSettle(Settlement { transaction, provider, net, .. }) => {
                write!(f, "would settle {transaction} for provider {provider}: net {net} USDC")
            }
            Self::Recovered(Recovery { transaction, requester, amount, gas_cost }) => write!(
                f,
                "recovered {transaction} for requester {requester}: {amount} USDC, gas {} wei",
                gas_cost.0
            ),
            Self::WouldRecover(Recovery { transaction, requester, amount, .. }) => {
                write!(f, "would recover {transaction} for requester {requester}: {amount} USDC")
            }
            Self::Ended { transaction, state } => {
                write!(f, "{transaction} was {state} by other hands")
            }
            Self::Unprofitable { transaction, net, least_net } => write!(
                f,
                "{transaction} waits: not worth its gas, net {net} USDC of at least {least_net} USDC"
            ),
            Self::Disputed { transaction } => {
                write!(f, "{transaction} waits: it is disputed")
            }
            Self::TakenBack { transaction } => {
                write!(f, "{transaction} waits again: the chain took its end back")
            }
            Self::Forgotten { transaction } => {
                write!(f, "{transaction} is forgotten: no node has shown its delivery for a day")
            }
            Self::Failed { transaction, message, next_try_seconds } => write!(
                f,
                "the try to end {transaction} failed, the next is in {next_try_seconds} s: {message}"
            ),
            Self::RoundFailed { message, next_try_seconds } => {
                write!(f, "the round failed, the next is in {next_try_seconds} s: {message}")
            }
            Self::Busy => f.write_str("another keeper of this key is at work: nothing was done"),
        }
    }
}

/// Who is told of events.
#[derive(Clone)]
pub(super) struct Listener(Arc<dyn Fn(&Event) + Send + Sync>);

impl Listener {
    pub(super) fn new(listen: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listen))
    }

    pub(super) fn tell(&self, event: &Event) {
        (self.0)(event);
    }
}

/// Without a listener of the application's own, `tracing` gets the lines.
impl Default for Listener {
    fn default() -> Self {
        Self::new(|event| match event.is_trouble() {
            true => tracing::warn!("{event}"),
            false => tracing::info!("{event}"),
        })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_done_for_whom_and_what_it_cost() {
        let settlement = Settlement {
            transaction: TransactionId::repeat_byte(0xaa),
            provider: Address::repeat_byte(0xbb),
            net: Usdc(950_000),
            gas_cost: GasCost(133_984),
        };
        let line = Event::Settled(settlement).to_string();
        assert!(line.starts_with("settled 0xaaaa"), "{line}");
        assert!(line.contains(" for provider 0xbBbB"), "{line}");
        assert!(line.ends_with(": net 0.95 USDC, gas 133984 wei"), "{line}");
    }

    #[test]
    fn a_program_reads_an_event_as_json() {
        let event = Event::Unprofitable {
            transaction: TransactionId::ZERO,
            net: Usdc(1),
            least_net: Usdc(2),
        };
        let json = serde_json::to_value(&event).unwrap_or_default();
        assert_eq!((&json["event"], &json["leastNet"]), (&"unprofitable".into(), &2.into()));
    }
}
