//! What is delivered, until it is paid out: it is settled once its dispute window is over, and what
//! others did with it meanwhile is noticed.

use std::{sync::Arc, time::Duration};

use super::{
    Inner,
    event::{Event, Level},
    lock,
    settings::Settle,
    store::{Duty, Entry, Facts, Outcome, Stage},
};
use crate::{
    client::LeastNet,
    error::{Error, Result},
    kernel::GasCost,
    protocol::{
        DisputeWindow, State, Transaction, TransactionId, Usdc, rules::MAX_DISPUTE_WINDOW_SECONDS,
    },
};

impl Inner {
    /// Asks what gas costs, which decides what is worth its settlement.
    pub(super) async fn price_settlements(self: Arc<Self>) {
        match self.settings.settlement_limits.least_net(self.client.kernel().as_ref()).await {
            Ok(least) => *lock(&self.least_net) = Some(least),
            Err(error) => {
                let words = format!("the price of gas, which settlements wait for: {error}");
                self.listener.tell(Level::Warning, words);
            }
        }
    }

    /// What a settlement must bring; `None` where that was never found out.
    pub(super) fn least_net(&self) -> Option<LeastNet> {
        *lock(&self.least_net)
    }

    /// Payments that are to be settled now.
    pub(super) async fn due_settlements(&self, limit: u32) -> Result<Vec<Duty>> {
        let (Settle::Auto, Some(least), Some(now)) =
            (self.settings.settle, self.least_net(), self.clock.passed())
        else {
            return Ok(vec![]);
        };
        let due = self.store.settlements(now, least.net, limit).await?;
        // They are sorted: the first has waited longest.
        let collected = now.saturating_sub(self.settings.settle_collect_seconds);
        let is_time = due.first().is_some_and(|duty| duty.settle_at <= collected);
        Ok(if is_time { due } else { vec![] })
    }

    pub(super) async fn settle(&self, id: TransactionId) -> Result<GasCost> {
        self.client.kernel().settle_due(self.client.address(), id).await
    }

    /// What a settlement that was refused means: others may have settled or disputed it, or its window
    /// is not over. What stands on chain is read, never guessed.
    pub(super) async fn judge_settlement(&self, duty: &Duty, error: Error) -> Outcome {
        if error.refusal().is_none() {
            return self.later(duty, &error);
        }
        let transaction = match self.client.kernel().confirm_transaction(duty.facts.id).await {
            Ok(transaction) => transaction,
            Err(trouble) => return self.later(duty, &trouble),
        };
        match self.moved_by_others(&transaction, duty.stage) {
            Some(outcome) => outcome,
            None => self.later(duty, &error),
        }
    }

    /// What a transaction on chain makes of a payment that was delivered or disputed; `None` where it is
    /// at that stage still.
    fn moved_by_others(&self, transaction: &Transaction, stage: Stage) -> Option<Outcome> {
        let entry = Entry { at: transaction.updated_at, ..Entry::default() };
        let was_disputed = !transaction.dispute_initiator.is_zero();
        let moved = |to, trouble: Option<&str>, entry| {
            Some(Outcome::Moved { to, trouble: trouble.map(str::to_owned), entry })
        };
        match transaction.state {
            State::Settled if was_disputed => {
                moved(Stage::Settled, Some("it was settled by the resolver of its dispute"), entry)
            }
            State::Settled => {
                let net = Some(Facts::of(transaction).net);
                moved(Stage::Settled, None, Entry { net, ..entry })
            }
            State::Disputed if stage == Stage::Disputed => None,
            State::Disputed => moved(Stage::Disputed, None, entry),
            State::Cancelled => {
                moved(Stage::Returned, Some("the resolver of its dispute gave it back"), entry)
            }
            State::Delivered => match transaction.dispute_window {
                DisputeWindow::EndsAt(end) if self.clock.passed().is_none_or(|now| now <= end) => {
                    // No window is longer, whatever a node says.
                    let latest = self.clock.about().saturating_add(MAX_DISPUTE_WINDOW_SECONDS);
                    Some(Outcome::NotBefore { settle_at: end.min(latest) })
                }
                _ => None,
            },
            // A node that lags behind shows an earlier state; what a chain took back is swept.
            State::Initiated | State::Quoted | State::Committed | State::InProgress => None,
        }
    }

    /// Writes down what others did with a payment that was delivered or disputed.
    pub(super) async fn notice_settlement(
        &self,
        transaction: Transaction,
        stage: Stage,
    ) -> Result<()> {
        let (id, state) = (transaction.id, transaction.state);
        // Its window is read where it is to be settled, not with every look.
        if state == State::Delivered || self.moved_by_others(&transaction, stage).is_none() {
            return Ok(());
        }
        let confirmed = self.client.kernel().confirmed(transaction).await?;
        if confirmed.state != state {
            return Ok(());
        }
        let Some(outcome) = self.moved_by_others(&confirmed, stage) else { return Ok(()) };
        if self.store.settle(id, stage, &outcome).await? {
            self.tell_of_settlement(&Facts::of(&confirmed), &outcome);
        }
        Ok(())
    }

    /// Tells the operator what became of a payment that was delivered.
    pub(super) fn tell_of_settlement(&self, facts: &Facts, outcome: &Outcome) {
        let Outcome::Moved { to, trouble, entry } = outcome else { return };
        let (id, amount) = (facts.id, facts.amount);
        let (level, name, words) = match (to, entry.net) {
            (Stage::Settled, Some(net)) => {
                let gas = match entry.gas {
                    0 => String::new(),
                    wei => format!(", its gas cost {wei} wei"),
                };
                let fee = Usdc(amount.0.saturating_sub(net.0));
                let words = format!(
                    "{id} is settled: {net} USDC of {amount} arrived, {fee} are the protocol's fee{gas}"
                );
                (Level::Info, "settled", words)
            }
            (Stage::Settled, None) => {
                (Level::Warning, "resolved", format!("{id} is settled after a dispute"))
            }
            (Stage::Disputed, _) => {
                let words = format!(
                    "{id} over {amount} USDC is disputed: it waits for the resolver, and evidence of what \
                     was served is asked for now"
                );
                (Level::Error, "disputed", words)
            }
            (Stage::Returned, _) => {
                let trouble = trouble.as_deref().unwrap_or("it was given back");
                (Level::Error, "resolved", format!("{id} over {amount} USDC: {trouble}"))
            }
            _ => return,
        };
        let mut event = Event::new(level, name, words);
        event.transaction = Some(id);
        event.requester = Some(facts.requester);
        event.net = entry.net;
        event.gas_wei = (entry.gas > 0).then_some(entry.gas);
        self.listener.tell_of(&event);
    }

    /// How often delivered payments are looked up, and the price of gas is asked for.
    pub(super) fn settlement_period(&self) -> Duration {
        Duration::from_secs(if self.client.network().is_local() { 1 } else { 30 })
    }
}
