//! Disputes that bonds decide, as this client's address.

use alloy_primitives::B256;

use super::{ACTPClient, MAINNET_LIMIT};
use crate::{
    error::Result,
    protocol::{
        TransactionId, Usdc,
        disputes::{Dispute, MAX_BOND, Ruling},
    },
};

// The greatest bond is within what one transaction may be worth on mainnet, so `max_bond` alone limits
// what a ruling costs.
const _: () = assert!(MAX_BOND.0 <= MAINNET_LIMIT.0);

/// Disputes that bonds decide (AIP-14c), each called by the id of the transaction that it is about.
///
/// Every method that needs the contract fails with [`crate::Code::UnsupportedKernel`] on a kernel before
/// AIP-14c, and with [`crate::Code::NetworkUnavailable`] where the network's profile names none. The guide
/// says what a dispute costs, and what silence does.
///
/// ```no_run
/// use agirails::{ACTPClient, Mode, NetworkProfile, Ruling, TransactionId, Usdc};
///
/// # async fn example(id: TransactionId) -> agirails::Result<()> {
/// let client = ACTPClient::builder()
///     .mode(Mode::Testnet)
///     .network_profile(NetworkProfile::testnet_aip14c())
///     .connect()
///     .await?;
/// // On the kernel first, by a party; its bond goes to the vault.
/// client.dispute(id, Usdc(5_000_000)).await?;
/// let disputes = client.disputes();
/// disputes.open(id).await?;
/// disputes.propose(id, Ruling::RequesterWins, Usdc(1_000_000)).await?;
/// if let Some(dispute) = disputes.get(id).await? {
///     println!("it can be challenged until {}", dispute.liveness_end);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Disputes {
    client: ACTPClient,
}

impl ACTPClient {
    /// Disputes that bonds decide, where the network has the contract for it.
    pub fn disputes(&self) -> Disputes {
        Disputes { client: self.clone() }
    }
}

impl Disputes {
    /// Where the dispute about a transaction stands; `None` where none was opened. With the setting
    /// `agree` above 1 so many endpoints must say the same.
    ///
    /// # Errors
    /// [`crate::Code::ContradictoryAnswer`] where they do not.
    ///
    /// Source: `BondEscalation.disputes`.
    pub async fn get(&self, id: TransactionId) -> Result<Option<Dispute>> {
        self.client.kernel.bond_escalation()?.get_dispute(id).await
    }

    /// Opens the dispute about a transaction that is DISPUTED on the kernel; returns its number. Anyone
    /// may; it costs gas only.
    ///
    /// # Errors
    /// [`crate::Refusal::NotInDisputedState`], [`crate::Refusal::DisputeAlreadyOpened`].
    ///
    /// Source: `BondEscalation.openDispute`.
    pub async fn open(&self, id: TransactionId) -> Result<B256> {
        let escalation = self.client.kernel.bond_escalation()?;
        escalation.open_dispute(self.client.sender()?, id).await
    }

    /// Proposes the first ruling, with a bond of `max_bond` at most, base units of USDC; returns the bond.
    /// It is read first ([`Dispute::next_bond`]), and exactly as much is approved. Where nobody challenges
    /// the ruling in time, it is carried out and the bond comes back, less the bounty of whoever finalizes.
    ///
    /// # Errors
    /// [`crate::Code::PriceAboveLimit`], naming the bond, where it is more than `max_bond`: nothing was
    /// paid. [`crate::Code::InvalidRuling`] for a share above 10_000,
    /// [`crate::Refusal::RulingProposed`] where a ruling stands already,
    /// [`crate::Refusal::DisputeNotOpened`].
    ///
    /// Source: `BondEscalation.proposeDirectly`.
    pub async fn propose(&self, id: TransactionId, ruling: Ruling, max_bond: Usdc) -> Result<Usdc> {
        let (escalation, ruling) = (self.client.kernel.bond_escalation()?, ruling.checked()?);
        escalation.propose_ruling(self.client.sender()?, id, ruling, max_bond).await
    }

    /// Puts another ruling in the place of the one that stands, with a bond of `max_bond` at most, base
    /// units of USDC; returns the bond, which is twice the one before and at most 500 USDC. The time for
    /// challenges begins anew.
    ///
    /// Where somebody else's challenge comes first, the bond is read again: it is never more than
    /// `max_bond`.
    ///
    /// # Errors
    /// As [`Self::propose`]; [`crate::Refusal::SameRuling`] where this ruling stands,
    /// [`crate::Refusal::NoRulingStands`] where none does, [`crate::Refusal::LivenessExpired`].
    ///
    /// Source: `BondEscalation.challenge`.
    pub async fn challenge(
        &self,
        id: TransactionId,
        ruling: Ruling,
        max_bond: Usdc,
    ) -> Result<Usdc> {
        let (escalation, ruling) = (self.client.kernel.bond_escalation()?, ruling.checked()?);
        escalation.challenge_ruling(self.client.sender()?, id, ruling, max_bond).await
    }

    /// Carries out the ruling that nobody challenged in time: the kernel settles or cancels the
    /// transaction. Returns what this client was paid of the bonds: the bounty, and where it proposed the
    /// ruling, the rest of the pool. Anyone may.
    ///
    /// Where the kernel's admin has resolved the dispute meanwhile, this does what
    /// [`Self::sync_external_resolution`] does, and pays nothing.
    ///
    /// # Errors
    /// [`crate::Refusal::LivenessActive`], naming the time, while the ruling can be challenged.
    ///
    /// Source: `BondEscalation.finalize`.
    pub async fn finalize(&self, id: TransactionId) -> Result<Usdc> {
        let escalation = self.client.kernel.bond_escalation()?;
        escalation.finalize_dispute(self.client.sender()?, id).await
    }

    /// Takes back this client's part of the bonds after a split; returns what it was paid.
    ///
    /// # Errors
    /// [`crate::Refusal::DisputeNotResolved`], [`crate::Refusal::NotASplit`],
    /// [`crate::Refusal::NothingToClaim`].
    ///
    /// Source: `BondEscalation.claimEscalationRefund`.
    pub async fn claim_refund(&self, id: TransactionId) -> Result<Usdc> {
        let escalation = self.client.kernel.bond_escalation()?;
        escalation.claim_bonds(self.client.sender()?, id).await
    }

    /// Ends a dispute that nobody ended for 30 days, or 60 where UMA's oracle was asked, with half for
    /// each party. Anyone may. Bonds are claimed by [`Self::claim_refund`].
    ///
    /// # Errors
    /// [`crate::Refusal::NotStale`], naming the time.
    ///
    /// Source: `BondEscalation.forceResolveStale`.
    pub async fn force_resolve_stale(&self, id: TransactionId) -> Result<()> {
        let escalation = self.client.kernel.bond_escalation()?;
        escalation.resolve_stale_dispute(self.client.sender()?, id).await
    }

    /// Ends a dispute that the kernel's admin has resolved, so that all bonds can be claimed by
    /// [`Self::claim_refund`]. Anyone may.
    ///
    /// # Errors
    /// [`crate::Refusal::StillDisputed`].
    ///
    /// Source: `BondEscalation.syncExternalResolution`.
    pub async fn sync_external_resolution(&self, id: TransactionId) -> Result<()> {
        let escalation = self.client.kernel.bond_escalation()?;
        escalation.sync_resolved_dispute(self.client.sender()?, id).await
    }
}
