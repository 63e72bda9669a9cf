//! What others propose about a payment that is disputed: a ruling that nobody challenges in time counts,
//! so a provider is told of it while it can still answer.

use std::collections::HashMap;

use super::{
    Inner,
    event::{Event, Level},
    lock,
};
use crate::{
    error::Result,
    protocol::{
        Transaction, TransactionId,
        disputes::{Dispute, Ruling, Tier},
    },
};

/// What was told of each dispute last.
pub(super) type Told = HashMap<TransactionId, (Tier, Option<Ruling>, u64)>;

impl Inner {
    /// Tells where the dispute about a payment stands, where bonds decide it: once for each change.
    pub(super) async fn watch_ruling(&self, transaction: &Transaction) -> Result<()> {
        let Ok(escalation) = self.client.kernel().bond_escalation() else { return Ok(()) };
        let id = transaction.id;
        let Some(dispute) = escalation.get_dispute(id).await? else { return Ok(()) };
        if dispute.resolved {
            // Its end is told with that of the payment.
            lock(&self.rulings).remove(&id);
            return Ok(());
        }
        let stands = (dispute.tier, dispute.ruling, dispute.liveness_end);
        if lock(&self.rulings).insert(id, stands) == Some(stands) {
            return Ok(());
        }
        let (level, message) = words(id, &dispute);
        let mut event = Event::new(level, "ruling", message);
        event.transaction = Some(id);
        event.requester = Some(transaction.requester);
        event.answer_until = answer_until(&dispute);
        self.listener.tell_of(&event);
        Ok(())
    }
}

/// The last second in which a challenge counts; `None` where none is needed, or possible.
fn answer_until(dispute: &Dispute) -> Option<u64> {
    let is_against_us = dispute.ruling != Some(Ruling::ProviderWins);
    (dispute.tier == Tier::Proposed && is_against_us).then_some(dispute.liveness_end)
}

fn words(id: TransactionId, dispute: &Dispute) -> (Level, String) {
    let bond = dispute.next_bond().unwrap_or_default();
    match (dispute.tier, dispute.ruling) {
        (Tier::Proposed, Some(Ruling::ProviderWins)) => (
            Level::Info,
            format!(
                "{id} is disputed, and the ruling that stands is that the provider wins: it can be \
                 finalized after Unix time {}, unless somebody challenges it",
                dispute.liveness_end
            ),
        ),
        (Tier::Proposed, ruling) => {
            let ruling = ruling.map_or_else(|| "unknown".to_owned(), |ruling| ruling.to_string());
            (
                Level::Error,
                format!(
                    "{id} is disputed, and a ruling stands against its provider ({ruling}): it counts unless \
                     it is challenged by Unix time {}, which takes a bond of {bond} USDC \
                     (client.disputes.challenge)",
                    dispute.liveness_end
                ),
            )
        }
        (Tier::Oracle, _) => (
            Level::Warning,
            format!(
                "{id} is disputed, and its dispute was taken to the oracle: bonds decide it no longer"
            ),
        ),
        (Tier::Opened, _) => (
            Level::Warning,
            format!(
                "{id} is disputed, and its dispute is open to rulings: anybody can propose one, and what \
                 nobody challenges within {} seconds counts; a proposal takes a bond of {bond} USDC \
                 (client.disputes.propose)",
                dispute.liveness_seconds()
            ),
        ),
    }
}
