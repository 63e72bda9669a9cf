//! USDC amounts in base units, and the fee, penalty and bond rules. No floats anywhere.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::error::{Details, ParseError};

/// Basis points in one whole: a rate of 100 bps is 1 %.
pub const MAX_BPS: u64 = 10_000;
/// The least fee of a payout to a provider: 0.05 USDC (`MIN_FEE`).
pub const MIN_FEE: Usdc = Usdc(50_000);
/// The least amount of a transaction: 0.05 USDC (`MIN_TRANSACTION_AMOUNT`).
pub const MIN_AMOUNT: Usdc = Usdc(50_000);
/// The greatest amount of a transaction: a thousand million USDC (`MAX_TRANSACTION_AMOUNT`).
pub const MAX_AMOUNT: Usdc = Usdc(1_000_000_000_000_000);
/// The least dispute bond: 1 USDC (`MIN_DISPUTE_BOND`).
pub const MIN_DISPUTE_BOND: Usdc = Usdc(1_000_000);
/// The archive treasury's share of a fee, in basis points (`ARCHIVE_ALLOCATION_BPS`).
pub const ARCHIVE_SHARE_BPS: u16 = 10;
/// A mediator's share of a transaction's amount is at most this many basis points.
pub const MAX_MEDIATOR_FEE_BPS: u16 = 1_000;

/// An amount of USDC, kept in base units (1 USDC = 1_000_000).
///
/// ```
/// use agirails_protocol::Usdc;
///
/// let price: Usdc = "0.10".parse()?;
/// assert_eq!(price, Usdc(100_000));
/// assert_eq!(price.to_string(), "0.10");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Usdc(
    /// Base units.
    pub u64,
);

impl Usdc {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// `self + other`, or `None` where that exceeds 64 bits.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// `self - other`, or `None` where that would be negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// This share of the amount, rounded down as the contract does.
    pub const fn share(self, bps: u16) -> Self {
        // 128 bits: an amount times a rate can exceed 64. The quotient is at most 6.6 × the
        // amount, and every rate of the protocol is at most 10_000.
        Self((self.0 as u128 * bps as u128 / MAX_BPS as u128) as u64)
    }
}

/// Prints at least two decimals and never loses one: `0.10`, `1.00`, `0.000001`.
impl fmt::Display for Usdc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let digits = format!("{fraction:06}");
        let shown = digits.trim_end_matches('0').len().max(2);
        write!(f, "{whole}.{}", &digits[..shown])
    }
}

/// Reads a plain decimal number of USDC such as `"0.10"`, `"5"` or `".5"`: digits, at most one
/// point, at most six decimals.
impl FromStr for Usdc {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse =
            |what: &str| {
                ParseError::Amount(Details::invalid("amount", text, what).hint(
                    "write a decimal number of USDC such as \"0.10\", with at most 6 decimals",
                ))
            };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(refuse("is not a number"));
        }
        if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(refuse("is not a plain decimal number"));
        }
        if fraction.len() > 6 {
            return Err(refuse("has more than the 6 decimals of USDC"));
        }
        let parse = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u64>() };
        parse(whole)
            .ok()
            .and_then(|whole| whole.checked_mul(1_000_000))
            .zip(parse(&format!("{fraction:0<6}")).ok())
            .and_then(|(whole, fraction)| whole.checked_add(fraction))
            .map(Self)
            .ok_or_else(|| refuse("is more USDC than can exist"))
    }
}

/// A payout to a provider, split by the fee rule: `net + fee` is the gross amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payout {
    /// What the provider receives.
    pub net: Usdc,
    /// What the protocol receives.
    pub fee: Usdc,
}

/// Splits a gross payout: the fee is `gross × bps / 10_000`, at least [`MIN_FEE`].
///
/// This is the kernel of May 2026; [`crate::Terms::payout`] knows what each generation does.
///
/// # Errors
/// [`Refusal::FeeExceedsAmount`] where the gross amount is below [`MIN_FEE`].
///
/// ```
/// use agirails_protocol::{Usdc, money::payout};
///
/// let paid = payout(Usdc(100_000), 100)?;
/// assert_eq!((paid.net, paid.fee), (Usdc(50_000), Usdc(50_000)));
/// # Ok::<(), agirails_protocol::Refusal>(())
/// ```
///
/// Source: `ACTPKernel._calculateFee`, `_payoutProviderAmount`.
pub fn payout(gross: Usdc, fee_bps: u16) -> Result<Payout, Refusal> {
    let fee = gross.share(fee_bps).max(MIN_FEE);
    let net = gross.checked_sub(fee).ok_or(Refusal::FeeExceedsAmount)?;
    Ok(Payout { net, fee })
}

/// The archive treasury's part of a fee, rounded down; the fee recipient gets the rest.
pub const fn archive_share(fee: Usdc) -> Usdc {
    fee.share(ARCHIVE_SHARE_BPS)
}

/// What a requester pays for cancelling a committed transaction after its deadline.
pub const fn cancellation_penalty(remaining: Usdc, penalty_bps: u16) -> Usdc {
    remaining.share(penalty_bps)
}

/// What a party deposits to dispute a delivery.
pub fn dispute_bond(amount: Usdc, bond_bps: u16) -> Usdc {
    amount.share(bond_bps).max(MIN_DISPUTE_BOND)
}
