//! The generations of the kernel, and in what their rules differ.

use std::{fmt, str::FromStr};

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use super::{
    Refusal, Usdc,
    error::{Details, ParseError},
    money::{self, Payout},
    proof,
    rules::DEFAULT_DISPUTE_WINDOW_SECONDS,
};

/// From F-6 on a deadline is at least this far ahead: 1 hour (`MIN_DEADLINE`).
pub const MIN_DEADLINE_SECONDS: u64 = 3_600;
/// The shortest grace that a deployment can fix: 1 hour (`MIN_RECOVERY_GRACE`).
pub const MIN_RECOVERY_GRACE_SECONDS: u64 = 3_600;

/// A generation of the kernel. Each is a contract of its own with rules of its own: a transaction
/// lives and ends on the kernel that it was created on.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Generation {
    /// `2026-05`: deployed on 2026-05-19, on Base and Base Sepolia.
    #[default]
    #[serde(rename = "2026-05")]
    May2026,
    /// `f6`: deployed on 2026-06-24, on Base Sepolia. Abandoned work can be recovered.
    #[serde(rename = "f6")]
    F6,
    /// `aip14c`: deployed on 2026-07-13, on Base Sepolia. Agreements and results are committed to.
    #[serde(rename = "aip14c")]
    Aip14c,
}

impl Generation {
    /// Every generation, the oldest first.
    pub const ALL: [Self; 3] = [Self::May2026, Self::F6, Self::Aip14c];

    /// The name that settings use: `2026-05`, `f6` or `aip14c`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::May2026 => "2026-05",
            Self::F6 => "f6",
            Self::Aip14c => "aip14c",
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Generation {
    type Err = ParseError;

    fn from_str(name: &str) -> Result<Self, ParseError> {
        Self::ALL.into_iter().find(|generation| generation.as_str() == name).ok_or_else(|| {
            ParseError::Generation(
                Details::invalid("generation", name, "must be a generation of the kernel")
                    .hint("use \"2026-05\", \"f6\" or \"aip14c\""),
            )
        })
    }
}

/// The terms of one deployed kernel: those of its generation, and the grace that its deployment
/// fixed. Whatever differs from generation to generation is asked here.
///
/// ```
/// use agirails_protocol::{Generation, Terms};
///
/// let deadline = 1_800_000_000;
/// assert_eq!(Terms::MAY_2026.delivered_until(deadline), deadline);
/// assert_eq!(Terms::MAY_2026.recovered_from(deadline), None);
///
/// let terms = Terms::new(Generation::F6, 3_600);
/// assert_eq!(terms.delivered_until(deadline), deadline + 3_599);
/// assert_eq!(terms.recovered_from(deadline), Some(deadline + 3_600));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    generation: Generation,
    #[serde(skip_serializing_if = "is_none")]
    recovery_grace_seconds: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_none(grace: &u64) -> bool {
    *grace == 0
}

/// Those of mainnet.
impl Default for Terms {
    fn default() -> Self {
        Self::MAY_2026
    }
}

impl Terms {
    /// The terms of the kernel on mainnet, whose generation has no grace.
    pub const MAY_2026: Self = Self { generation: Generation::May2026, recovery_grace_seconds: 0 };

    /// The terms of a kernel with this `recoveryGrace`, in seconds; the generation of May 2026 has
    /// none.
    pub const fn new(generation: Generation, recovery_grace_seconds: u64) -> Self {
        match generation {
            Generation::May2026 => Self::MAY_2026,
            _ => Self { generation, recovery_grace_seconds },
        }
    }

    /// Which generation.
    pub const fn generation(self) -> Generation {
        self.generation
    }

    /// How long after its deadline work that has begun can still be delivered, and from when on
    /// anybody can return the money of work that was not; `None` where no work is ever recovered.
    pub const fn recovery_grace_seconds(self) -> Option<u64> {
        match self.generation {
            Generation::May2026 => None,
            _ => Some(self.recovery_grace_seconds),
        }
    }

    /// The earliest deadline that a creation at this time can have, Unix seconds.
    pub const fn earliest_deadline(self, now: u64) -> u64 {
        now.saturating_add(match self.generation {
            Generation::May2026 => 1,
            _ => MIN_DEADLINE_SECONDS,
        })
    }

    /// How far ahead a new deadline should lie at least, in seconds: far enough that a creation is
    /// still accepted some minutes after its deadline was chosen.
    pub const fn least_lifetime_seconds(self) -> u64 {
        match self.generation {
            Generation::May2026 => 0,
            _ => MIN_DEADLINE_SECONDS + 300,
        }
    }

    /// The last second in which begun work with this deadline can be delivered, Unix seconds.
    pub const fn delivered_until(self, deadline: u64) -> u64 {
        match self.recovered_from(deadline) {
            Some(time) => time.saturating_sub(1),
            None => deadline,
        }
    }

    /// The first second in which anybody can have the money of begun work returned to its
    /// requester, Unix seconds; `None` where the provider alone returns it.
    pub const fn recovered_from(self, deadline: u64) -> Option<u64> {
        match self.recovery_grace_seconds() {
            Some(grace) => Some(deadline.saturating_add(grace)),
            None => None,
        }
    }

    /// Whether a creation can carry an agreement's hash.
    pub const fn takes_agreements(self) -> bool {
        matches!(self.generation, Generation::Aip14c)
    }

    /// Whether a delivery commits to the hash of its result, and a dispute ends with explicit
    /// amounts only.
    pub const fn takes_results(self) -> bool {
        matches!(self.generation, Generation::Aip14c)
    }

    /// Whether an approved mediator resolves disputes, as the admin does.
    pub const fn mediators_resolve(self) -> bool {
        !matches!(self.generation, Generation::May2026)
    }

    /// Whether a dispute can be decided by bonds ([`crate::disputes`]): where the network has that
    /// contract.
    pub const fn escalates_disputes(self) -> bool {
        matches!(self.generation, Generation::Aip14c)
    }

    /// What `transitionState` carries to DELIVERED: `abi.encode(window)`, or
    /// `abi.encode(window, resultHash)` where deliveries commit to their result. A window of 0 is
    /// the default of 2 days.
    pub fn encode_delivery(self, window_seconds: u64, result_hash: B256) -> Vec<u8> {
        if !self.takes_results() {
            return proof::encode_window(window_seconds).to_vec();
        }
        let window =
            if window_seconds == 0 { DEFAULT_DISPUTE_WINDOW_SECONDS } else { window_seconds };
        [proof::encode_window(window), result_hash.0].concat()
    }

    /// Splits a gross payout to a provider: the fee is `gross × bps / 10_000`, at least
    /// [`money::MIN_FEE`]. From F-6 on it is at most the payout.
    ///
    /// # Errors
    /// [`Refusal::FeeExceedsAmount`] before F-6, where the payout is below the least fee.
    ///
    /// Source: `ACTPKernel._calculateFee`, `_payoutProviderAmount`.
    pub fn payout(self, gross: Usdc, fee_bps: u16) -> Result<Payout, Refusal> {
        match self.generation {
            Generation::May2026 => money::payout(gross, fee_bps),
            _ => {
                Ok(money::payout(gross, fee_bps).unwrap_or(Payout { net: Usdc::ZERO, fee: gross }))
            }
        }
    }

    /// Whether the requester of a committed transaction of this amount can cancel it by itself once
    /// its deadline has passed. Before F-6 the penalty must pay the protocol's least fee, or be
    /// nothing.
    ///
    /// ```
    /// use agirails_protocol::{Generation, Terms, Usdc, rules::Rates};
    ///
    /// let penalty = Rates::default().requester_penalty_bps;
    /// assert!(Terms::MAY_2026.requester_can_cancel(Usdc(1_000_000), penalty));
    /// assert!(!Terms::MAY_2026.requester_can_cancel(Usdc(999_999), penalty));
    /// assert!(Terms::new(Generation::F6, 3_600).requester_can_cancel(Usdc(50_000), penalty));
    /// ```
    ///
    /// Source: `ACTPKernel.transitionState`, measured on the deployed code.
    pub fn requester_can_cancel(self, amount: Usdc, penalty_bps: u16) -> bool {
        let penalty = money::cancellation_penalty(amount, penalty_bps);
        penalty == Usdc::ZERO || self.payout(penalty, 0).is_ok()
    }
}
