//! The dispute game over AIP-14c (`BondEscalation`): bonds, times and who may do what when.
//!
//! A transaction that is DISPUTED on the kernel can be decided by proposals that are backed by bonds.
//! Anyone proposes a ruling, anyone challenges it with twice the bond, and what stands unchallenged for
//! as long as the liveness is carried out on the kernel by a mediator.
//!
//! Source: `BondEscalation`, `CompositeMediator` of 2026-07-13, read; the deployed contracts were not
//! called.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, hex, keccak256};
use alloy_sol_types::SolValue;

use super::{
    Refusal, TransactionId, Usdc,
    error::{Details, ParseError},
    money,
};

/// The first bond as a share of what is in escrow: 2 % (`ESCALATION_INITIAL_BPS`).
pub const FIRST_BOND_BPS: u16 = 200;
/// The least bond: 1 USDC (`MIN_ESCALATION_BOND`).
pub const MIN_BOND: Usdc = Usdc(1_000_000);
/// The greatest bond: 500 USDC (`MAX_ESCALATION_BOND`).
pub const MAX_BOND: Usdc = Usdc(500_000_000);
/// What whoever finalizes gets of the pool: 10 % (`FINALIZATION_BOUNTY_BPS`).
pub const BOUNTY_BPS: u16 = 1_000;
/// The least bounty: 0.10 USDC (`MIN_FINALIZATION_BOUNTY`).
pub const MIN_BOUNTY: Usdc = Usdc(100_000);
/// A dispute that is older is stale: 30 days (`MAX_DISPUTE_DURATION`).
pub const STALE_SECONDS: u64 = 30 * 86_400;
/// How much longer the oracle may take: 30 days more (`TIER2_STALE_GRACE`).
pub const ORACLE_STALE_SECONDS: u64 = 30 * 86_400;
/// What an external or stale resolution counts as: half for each.
pub const EVEN_SPLIT: Ruling = Ruling::Split { provider_bps: 5_000 };

/// `ACTP_DISPUTE_V1`: what the number of a dispute is made of, beside its transaction.
const NAME: [u8; 15] = hex!("414354505f444953505554455f5631");

/// All of it, in hundredths of a percent.
const ALL_BPS: u16 = money::MAX_BPS as u16;

/// How a dispute ends.
///
/// ```
/// use agirails_protocol::disputes::Ruling;
///
/// let ruling = Ruling::split(7_500)?;
/// assert_eq!(ruling.to_string(), "split, 75 % to the provider");
/// assert!(Ruling::split(10_001).is_err());
/// # Ok::<(), agirails_protocol::error::ParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ruling {
    /// The provider gets what is in escrow, less the fee, and the kernel's bond.
    ProviderWins,
    /// The requester gets what is in escrow and the kernel's bond; the provider is at fault.
    RequesterWins,
    /// Both get a share, and the kernel's bond returns to whoever disputed.
    Split {
        /// The provider's share, 0 … 10_000; the rest is the requester's.
        provider_bps: u16,
    },
}

impl Ruling {
    /// A split.
    ///
    /// # Errors
    /// [`ParseError::Ruling`] for a share above 10_000.
    pub fn split(provider_bps: u64) -> Result<Self, ParseError> {
        match u16::try_from(provider_bps) {
            Ok(provider_bps) if provider_bps <= ALL_BPS => Ok(Self::Split { provider_bps }),
            _ => Err(ParseError::Ruling(
                Details::invalid(
                    "provider_bps",
                    &provider_bps.to_string(),
                    "must be a share of 0 to 10_000",
                )
                .hint("pass the provider's share in hundredths of a percent: 5_000 is half"),
            )),
        }
    }

    /// The same ruling, if it is one: [`Self::Split`] can be written with any share.
    ///
    /// # Errors
    /// As [`Self::split`].
    pub fn checked(self) -> Result<Self, ParseError> {
        match self {
            Self::Split { provider_bps } => Self::split(provider_bps.into()),
            _ => Ok(self),
        }
    }

    /// The contract's `ruling` and `splitBps`.
    pub const fn to_contract(self) -> (u8, u16) {
        match self {
            Self::ProviderWins => (0, 0),
            Self::RequesterWins => (1, 0),
            Self::Split { provider_bps } => (2, provider_bps),
        }
    }

    /// What the contract's `ruling` and `splitBps` mean; `None` where it cannot have them.
    pub const fn from_contract(ruling: u8, split_bps: u16) -> Option<Self> {
        match (ruling, split_bps) {
            (0, 0) => Some(Self::ProviderWins),
            (1, 0) => Some(Self::RequesterWins),
            (2, provider_bps) if provider_bps <= ALL_BPS => Some(Self::Split { provider_bps }),
            _ => None,
        }
    }

    /// What the provider gets of what is in escrow, before the fee; the requester gets the rest.
    ///
    /// Source: `CompositeMediator.resolve`.
    pub const fn provider_gross(self, escrow: Usdc) -> Usdc {
        match self {
            Self::ProviderWins => escrow,
            Self::RequesterWins => Usdc::ZERO,
            Self::Split { provider_bps } => escrow.share(provider_bps),
        }
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProviderWins => f.write_str("provider wins"),
            Self::RequesterWins => f.write_str("requester wins"),
            Self::Split { provider_bps } => {
                let (percent, rest) = (provider_bps / 100, provider_bps % 100);
                match rest {
                    0 => write!(f, "split, {percent} % to the provider"),
                    _ => write!(f, "split, {percent}.{rest:02} % to the provider"),
                }
            }
        }
    }
}

/// How far a dispute has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Nothing is proposed yet.
    Opened,
    /// A ruling is proposed and can be challenged.
    Proposed,
    /// UMA's oracle decides; bonds no longer do.
    Oracle,
}

impl Tier {
    /// The contract's number.
    pub const fn to_contract(self) -> u8 {
        self as u8
    }

    /// What the contract's number means; `None` where it cannot have it.
    pub const fn from_contract(tier: u8) -> Option<Self> {
        match tier {
            0 => Some(Self::Opened),
            1 => Some(Self::Proposed),
            2 => Some(Self::Oracle),
            _ => None,
        }
    }
}

/// Where a dispute stands. Times are Unix seconds of the chain's clock.
///
/// Source: `BondEscalation.disputes(bytes32)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispute {
    /// The transaction that it is about.
    pub transaction_id: TransactionId,
    /// How far it has come.
    pub tier: Tier,
    /// The ruling that stands, and once it is resolved the one that counts; `None` before the first
    /// proposal.
    pub ruling: Option<Ruling>,
    /// The bond behind it.
    pub bond: Usdc,
    /// What the bonds in the pool add up to; once it is resolved, what of them is shared after a split.
    pub pool: Usdc,
    /// Until when the ruling can be challenged, this second included; 0 before the first proposal.
    pub liveness_end: u64,
    /// When it was opened.
    pub disputed_at: u64,
    /// Who proposed the ruling that stands; `None` before the first proposal.
    pub last_proposer: Option<Address>,
    /// Whether it is over.
    pub resolved: bool,
    /// Whether the pool was paid to the last proposer.
    pub winner_paid: bool,
    /// What the bonds added up to when it was resolved.
    pub original_pool: Usdc,
    /// What was in escrow when it was opened.
    pub escrow: Usdc,
}

impl Dispute {
    /// What proposing the first ruling, or another one than stands, takes as a bond; `None` where none
    /// can be proposed any more.
    pub fn next_bond(&self) -> Option<Usdc> {
        match self.tier {
            _ if self.resolved => None,
            Tier::Opened => Some(first_bond(self.escrow)),
            Tier::Proposed => Some(raised_bond(self.bond)),
            Tier::Oracle => None,
        }
    }

    /// How long a ruling can be challenged, in seconds.
    pub const fn liveness_seconds(&self) -> u64 {
        liveness_seconds(self.escrow)
    }

    /// The first second in which it can be finalized; `None` while nothing is proposed, once it is
    /// resolved, and where the oracle decides.
    pub const fn finalized_from(&self) -> Option<u64> {
        match self.tier {
            Tier::Proposed if !self.resolved => Some(self.liveness_end.saturating_add(1)),
            _ => None,
        }
    }

    /// The first second in which anyone can end it with half for each; `None` once it is resolved.
    pub const fn stale_from(&self) -> Option<u64> {
        let patience = match self.tier {
            Tier::Oracle => STALE_SECONDS + ORACLE_STALE_SECONDS,
            _ => STALE_SECONDS,
        };
        if self.resolved {
            return None;
        }
        Some(self.disputed_at.saturating_add(patience).saturating_add(1))
    }

    /// What whoever paid this much in bonds gets back; nothing unless it was resolved with a split.
    pub fn refund(&self, deposited: Usdc) -> Usdc {
        let is_split = matches!(self.ruling, Some(Ruling::Split { .. }));
        if !self.resolved || !is_split || self.original_pool == Usdc::ZERO {
            return Usdc::ZERO;
        }
        let share =
            u128::from(deposited.0) * u128::from(self.pool.0) / u128::from(self.original_pool.0);
        Usdc(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// Whether a first ruling can be proposed.
    ///
    /// # Errors
    /// The contract's, in its order.
    ///
    /// Source: `BondEscalation.proposeDirectly`.
    pub const fn check_proposal(&self) -> Result<(), Refusal> {
        match (self.resolved, self.tier) {
            (true, _) => Err(Refusal::DisputeResolved),
            (false, Tier::Opened) => Ok(()),
            (false, _) => Err(Refusal::RulingProposed),
        }
    }

    /// Whether this ruling can be put in place of the one that stands.
    ///
    /// # Errors
    /// The contract's, in its order.
    ///
    /// Source: `BondEscalation.challenge`.
    pub fn check_challenge(&self, ruling: Ruling, now: u64) -> Result<(), Refusal> {
        match (self.resolved, self.tier) {
            (true, _) => Err(Refusal::DisputeResolved),
            (false, Tier::Opened | Tier::Oracle) => Err(Refusal::NoRulingStands),
            _ if now > self.liveness_end => Err(Refusal::LivenessExpired),
            _ if self.ruling == Some(ruling) => Err(Refusal::SameRuling),
            _ => Ok(()),
        }
    }

    /// Whether the ruling that stands can be carried out.
    ///
    /// # Errors
    /// The contract's, in its order.
    ///
    /// Source: `BondEscalation.finalize`.
    pub const fn check_finalization(&self, now: u64) -> Result<(), Refusal> {
        match (self.resolved, self.tier) {
            (true, _) => Err(Refusal::DisputeResolved),
            (false, Tier::Opened | Tier::Oracle) => Err(Refusal::NoRulingStands),
            _ if now <= self.liveness_end => Err(Refusal::LivenessActive),
            _ => Ok(()),
        }
    }
}

/// The contract's number of the dispute about a transaction.
///
/// ```
/// use agirails_protocol::{TransactionId, disputes::dispute_id};
///
/// let id = dispute_id(TransactionId::ZERO);
/// assert_ne!(id, dispute_id(TransactionId::repeat_byte(1)));
/// ```
///
/// Source: `openDispute`, which hashes `abi.encode(ACTP_DISPUTE_V1, txId)`.
pub fn dispute_id(transaction: TransactionId) -> B256 {
    keccak256((Bytes::from_static(&NAME), transaction).abi_encode_params())
}

/// The bond of the first proposal, by what was in escrow when the dispute was opened.
pub fn first_bond(escrow: Usdc) -> Usdc {
    escrow.share(FIRST_BOND_BPS).clamp(MIN_BOND, MAX_BOND)
}

/// The bond that challenges one of this much.
pub fn raised_bond(bond: Usdc) -> Usdc {
    Usdc(bond.0.saturating_mul(2)).min(MAX_BOND)
}

/// What whoever finalizes gets of a pool.
pub fn bounty(pool: Usdc) -> Usdc {
    pool.share(BOUNTY_BPS).max(MIN_BOUNTY).min(pool)
}

/// How long a ruling can be challenged, in seconds, by what was in escrow when the dispute was opened:
/// 1 hour below 50 USDC, 2 below 500, 4 below 5_000, else 8.
pub const fn liveness_seconds(escrow: Usdc) -> u64 {
    const HOUR: u64 = 3_600;
    match escrow.0 {
        ..50_000_000 => HOUR,
        50_000_000..500_000_000 => 2 * HOUR,
        500_000_000..5_000_000_000 => 4 * HOUR,
        _ => 8 * HOUR,
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::b256;
    use proptest::prelude::*;

    use super::*;

    fn opened(escrow: Usdc) -> Dispute {
        Dispute {
            transaction_id: TransactionId::repeat_byte(1),
            tier: Tier::Opened,
            ruling: None,
            bond: Usdc::ZERO,
            pool: Usdc::ZERO,
            liveness_end: 0,
            disputed_at: 1_000,
            last_proposer: None,
            resolved: false,
            winner_paid: false,
            original_pool: Usdc::ZERO,
            escrow,
        }
    }

    #[test]
    fn the_first_bond_is_two_percent_between_one_and_five_hundred() {
        for (escrow, bond) in [
            (0, 1_000_000),
            (50_000_000, 1_000_000),
            (50_000_050, 1_000_001),
            (1_000_000_000, 20_000_000),
            (25_000_000_000, 500_000_000),
            (25_000_000_049, 500_000_000),
            (u64::MAX, 500_000_000),
        ] {
            assert_eq!(first_bond(Usdc(escrow)), Usdc(bond), "{escrow}");
            assert_eq!(opened(Usdc(escrow)).next_bond(), Some(Usdc(bond)));
        }
    }

    #[test]
    fn a_ruling_can_be_challenged_for_longer_where_more_is_at_stake() {
        for (escrow, hours) in [
            (0, 1),
            (49_999_999, 1),
            (50_000_000, 2),
            (499_999_999, 2),
            (500_000_000, 4),
            (4_999_999_999, 4),
            (5_000_000_000, 8),
            (u64::MAX, 8),
        ] {
            assert_eq!(liveness_seconds(Usdc(escrow)), hours * 3_600, "{escrow}");
        }
    }

    #[test]
    fn the_bounty_is_a_tenth_at_least_ten_cents_at_most_the_pool() {
        for (pool, part) in
            [(0, 0), (99_999, 99_999), (1_000_000, 100_000), (3_000_000, 300_000), (7, 7)]
        {
            assert_eq!(bounty(Usdc(pool)), Usdc(part), "{pool}");
        }
    }

    #[test]
    fn the_number_of_a_dispute_is_the_contracts() {
        // The hash of abi.encode(ACTP_DISPUTE_V1, 0x0101…01), as solc and ethers encode it.
        let number = b256!("b172264fb3ea853da8feb2315cad116b7db2d1fc6286b05ddc6d4a24e825411a");
        assert_eq!(dispute_id(TransactionId::repeat_byte(1)), number);
    }

    #[test]
    fn every_step_has_its_time() {
        let one = Dispute {
            tier: Tier::Proposed,
            ruling: Some(Ruling::ProviderWins),
            bond: MIN_BOND,
            liveness_end: 4_600,
            ..opened(Usdc(10_000_000))
        };
        let other = Ruling::RequesterWins;
        assert_eq!(opened(Usdc(1)).check_proposal(), Ok(()));
        assert_eq!(one.check_proposal(), Err(Refusal::RulingProposed));
        assert_eq!(one.check_challenge(other, 4_600), Ok(()));
        assert_eq!(one.check_challenge(other, 4_601), Err(Refusal::LivenessExpired));
        assert_eq!(one.check_challenge(Ruling::ProviderWins, 1), Err(Refusal::SameRuling));
        assert_eq!(one.check_finalization(4_600), Err(Refusal::LivenessActive));
        assert_eq!(one.check_finalization(4_601), Ok(()));
        assert_eq!(one.finalized_from(), Some(4_601));
        let opened = opened(Usdc(1));
        assert_eq!(opened.check_challenge(other, 0), Err(Refusal::NoRulingStands));
        assert_eq!(opened.check_finalization(0), Err(Refusal::NoRulingStands));
        assert_eq!((opened.finalized_from(), opened.stale_from()), (None, Some(2_593_001)));
        let oracle = Dispute { tier: Tier::Oracle, ..one };
        assert_eq!(oracle.check_challenge(other, 1), Err(Refusal::NoRulingStands));
        assert_eq!((oracle.next_bond(), oracle.stale_from()), (None, Some(5_185_001)));
        let over = Dispute { resolved: true, ..one };
        assert_eq!(over.check_proposal(), Err(Refusal::DisputeResolved));
        assert_eq!(over.check_challenge(other, 1), Err(Refusal::DisputeResolved));
        assert_eq!(over.check_finalization(9_999), Err(Refusal::DisputeResolved));
        assert_eq!(
            (over.next_bond(), over.finalized_from(), over.stale_from()),
            (None, None, None)
        );
    }

    #[test]
    fn two_splits_are_the_same_ruling_where_their_shares_are() {
        let standing = Dispute {
            tier: Tier::Proposed,
            ruling: Some(Ruling::Split { provider_bps: 5_000 }),
            liveness_end: 1,
            ..opened(Usdc(1))
        };
        let same = standing.check_challenge(Ruling::Split { provider_bps: 5_000 }, 0);
        assert_eq!(same, Err(Refusal::SameRuling));
        assert_eq!(standing.check_challenge(Ruling::Split { provider_bps: 5_001 }, 0), Ok(()));
    }

    proptest! {
        #[test]
        fn a_ruling_survives_the_contract(ruling in 0_u8..5, bps in 0_u16..12_000) {
            match Ruling::from_contract(ruling, bps) {
                Some(read) => prop_assert_eq!(read.to_contract(), (ruling, bps)),
                None => prop_assert!(ruling > 2 || bps > ALL_BPS || (ruling < 2 && bps > 0)),
            }
        }

        #[test]
        fn bonds_never_leave_their_bounds(escrow in any::<u64>(), rounds in 0_usize..20) {
            let mut bond = first_bond(Usdc(escrow));
            for _ in 0..rounds {
                let next = raised_bond(bond);
                prop_assert!(next == Usdc(bond.0 * 2) || next == MAX_BOND);
                prop_assert!((MIN_BOND..=MAX_BOND).contains(&bond) && next >= bond);
                bond = next;
            }
        }

        #[test]
        fn refunds_never_pay_more_than_there_is(
            deposits in proptest::collection::vec(1_u64..=500_000_000, 1..12),
        ) {
            let sum: u64 = deposits.iter().sum();
            let pool = Usdc(sum - bounty(Usdc(sum)).0);
            let split = Dispute {
                resolved: true,
                ruling: Some(EVEN_SPLIT),
                pool,
                original_pool: Usdc(sum),
                ..opened(Usdc(1))
            };
            let paid: u64 = deposits.iter().map(|deposit| split.refund(Usdc(*deposit)).0).sum();
            prop_assert!(paid <= pool.0 && pool.0 - paid < deposits.len() as u64);
            let won = Dispute { ruling: Some(Ruling::ProviderWins), ..split };
            prop_assert_eq!(won.refund(Usdc(deposits[0])), Usdc::ZERO);
        }
    }
}
