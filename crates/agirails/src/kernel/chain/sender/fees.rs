//! What a transaction offers for its gas (EIP-1559), and what a node says about it.

use alloy_primitives::U256;
use serde::Deserialize;

use crate::error::{Code, Error, Result};

/// The tip where nobody else gives one: a thousandth of a gwei.
const LEAST_TIP: u128 = 1_000_000;
/// A replacement is accepted when it offers a tenth more; an eighth is on the safe side.
const REPLACEMENT_EIGHTHS: u128 = 9;

/// An offer, wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fees {
    /// At most this much in all.
    pub(super) max_fee: u128,
    /// Of it to whoever includes the transaction.
    pub(super) tip: u128,
}

impl Fees {
    /// An offer that competes with an earlier one for the same nonce.
    pub(super) fn above(self, earlier: Self) -> Self {
        let more = |fee: u128| fee.saturating_mul(REPLACEMENT_EIGHTHS) / 8 + 1;
        Self {
            max_fee: self.max_fee.max(more(earlier.max_fee)),
            tip: self.tip.max(more(earlier.tip)),
        }
    }
}

/// The answer of `eth_feeHistory`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FeeHistory {
    base_fee_per_gas: Vec<U256>,
    #[serde(default)]
    reward: Option<Vec<Vec<U256>>>,
}

impl FeeHistory {
    /// Twice the next block's base fee, so that an offer stays good while the base fee rises for
    /// six full blocks, and the tip that half of the others give, as far as the node tells it; at
    /// most `most_tip` of tip, and `limit` in all. The base fee is what the chain takes; the tip is
    /// paid as it is offered, so a node that names a high one costs money.
    ///
    /// # Errors
    /// [`Code::FeeAboveLimit`] where the next block alone costs more than the limit.
    pub(super) fn offer(&self, limit: u128, most_tip: u128) -> Result<Fees> {
        let base = self.base_fee_per_gas.last().map_or(0, |fee| fee.saturating_to::<u128>());
        let mut tips: Vec<u128> = self
            .reward
            .iter()
            .flatten()
            .filter_map(|block| block.first())
            .map(|tip| tip.saturating_to::<u128>())
            .collect();
        tips.sort_unstable();
        let tip = tips.get(tips.len() / 2).copied().unwrap_or_default();
        let tip = tip.max(LEAST_TIP).min(most_tip);
        if base.saturating_add(tip) > limit {
            return Err(Error::new(
                Code::FeeAboveLimit,
                format!(
                    "the next block costs {} wei per gas, the limit is {limit}",
                    base.saturating_add(tip)
                ),
            )
            .with_hint("wait until the fee falls, or raise max_fee_per_gas; nothing was sent"));
        }
        let max_fee = base.saturating_mul(2).saturating_add(tip).min(limit);
        Ok(Fees { max_fee, tip })
    }
}

/// What a node says to `eth_sendRawTransaction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has the transaction.
    Accepted,
    /// It wants a higher fee.
    FeeTooLow,
    /// The sender cannot pay for the gas.
    NoGasMoney,
    /// It will never take it.
    Refused,
    /// The nonce is taken, or nothing can be concluded: the chain will tell.
    Unclear,
}

impl Verdict {
    /// Nodes have no codes for these, only words.
    pub(super) fn of(message: &str) -> Self {
        let message = message.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if says(&["already known", "alreadyknown", "known transaction", "already imported"]) {
            Self::Accepted
        } else if says(&["nonce too low", "oldnonce", "replacement", "could not replace"]) {
            Self::Unclear
        } else if says(&["insufficient funds", "insufficientfunds"]) {
            Self::NoGasMoney
        } else if says(&[
            "less than block base fee",
            "underpriced",
            "feetoolow",
            "fee too low",
            "below base fee",
        ]) {
            Self::FeeTooLow
        } else if says(&[
            "intrinsic gas",
            "exceeds block gas limit",
            "gas limit is too high",
            "invalid sender",
            "invalid chain id",
            "chain id",
            "not supported",
            "oversized data",
            "exceeds the configured cap",
        ]) {
            Self::Refused
        } else {
            Self::Unclear
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = 1_000_000_000;

    #[test]
    fn nodes_are_understood_in_their_own_words() {
        for (message, verdict) in [
            ("already known", Verdict::Accepted),
            ("AlreadyKnown", Verdict::Accepted),
            ("transaction already imported", Verdict::Accepted),
            ("nonce too low: next nonce 7, tx nonce 3", Verdict::Unclear),
            ("replacement transaction underpriced", Verdict::Unclear),
            ("Insufficient funds for gas * price + value", Verdict::NoGasMoney),
            ("max fee per gas less than block base fee: address 0x…", Verdict::FeeTooLow),
            ("transaction underpriced: tip needed 1, tip permitted 0", Verdict::FeeTooLow),
            ("intrinsic gas too low", Verdict::Refused),
            ("internal error", Verdict::Unclear),
        ] {
            assert_eq!(Verdict::of(message), verdict, "{message}");
        }
    }

    #[test]
    fn an_offer_follows_the_base_fee_up_to_the_limit() {
        let history = |base: u64, tips: &[u64]| FeeHistory {
            base_fee_per_gas: vec![U256::from(1), U256::from(base)],
            reward: Some(tips.iter().map(|tip| vec![U256::from(*tip)]).collect()),
        };
        let offer = history(50, &[]).offer(1_000_000_000, GWEI).unwrap();
        assert_eq!(offer, Fees { max_fee: 1_000_100, tip: 1_000_000 });
        let offer =
            history(1_000_000_000, &[5_000_000, 1, 9_000_000]).offer(1_500_000_000, GWEI).unwrap();
        assert_eq!(offer, Fees { max_fee: 1_500_000_000, tip: 5_000_000 });
        let error = history(2_000_000_000, &[]).offer(1_500_000_000, GWEI).unwrap_err();
        assert_eq!(error.code(), Code::FeeAboveLimit);
        // A node that names a tip of 40 gwei.
        let offer = history(50, &[40_000_000_000]).offer(50 * GWEI, GWEI / 10).unwrap();
        assert_eq!(offer, Fees { max_fee: 100_000_100, tip: 100_000_000 });
    }

    #[test]
    fn a_replacement_offers_a_tenth_more_of_both() {
        let earlier = Fees { max_fee: 100, tip: 10 };
        let bumped = Fees { max_fee: 50, tip: 1 }.above(earlier);
        assert!(bumped.max_fee >= 110 && bumped.tip >= 11);
        assert_eq!(Fees { max_fee: 500, tip: 50 }.above(earlier), Fees { max_fee: 500, tip: 50 });
    }
}
