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
        DisputeWindow, Event as KernelEvent, EventRecord, State, Terms, Transaction, TransactionId,
        Usdc, money::Payout, rules::MAX_DISPUTE_WINDOW_SECONDS,
    },
};

/// For how long it is tried to read what a resolver decided, in seconds from then.
const GIVE_UP: u64 = 3_600;

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
            Some(outcome) => match self.with_payout(&transaction, outcome).await {
                Ok(outcome) => outcome,
                Err(error) => self.later(duty, &error),
            },
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
                let entry = Entry { is_resolved: true, ..entry };
                moved(Stage::Settled, Some("it was settled by the resolver of its dispute"), entry)
            }
            State::Settled => {
                let payout = Some(Facts::of(transaction).payout());
                moved(Stage::Settled, None, Entry { payout, ..entry })
            }
            State::Disputed if stage == Stage::Disputed => None,
            State::Disputed => moved(Stage::Disputed, None, entry),
            State::Cancelled => {
                let entry = Entry { is_resolved: true, ..entry };
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

    /// What became of a payment, with what the resolver of its dispute left of it.
    async fn with_payout(&self, settled: &Transaction, mut outcome: Outcome) -> Result<Outcome> {
        if let Outcome::Moved { to, trouble, entry } = &mut outcome
            && entry.is_resolved
        {
            let events = match self.client.kernel().events_at(settled.updated_at).await {
                Ok(events) => events,
                // Some nodes do not have what is older.
                Err(error) if self.clock.about() > settled.updated_at.saturating_add(GIVE_UP) => {
                    let words = format!("what arrived of {} is not known: {error}", settled.id);
                    self.listener.tell(Level::Warning, words);
                    vec![]
                }
                Err(error) => return Err(error),
            };
            entry.payout = payout(settled, self.client.network().terms, &events);
            if *to == Stage::Returned && entry.payout.is_some_and(|payout| payout.net > Usdc::ZERO)
            {
                *trouble = Some("the resolver of its dispute split it up".to_owned());
            }
        }
        Ok(outcome)
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
        let outcome = self.with_payout(&confirmed, outcome).await?;
        if self.store.settle(id, stage, &outcome).await? {
            self.tell_of_settlement(&Facts::of(&confirmed), &outcome);
        }
        Ok(())
    }

    /// Tells the operator what became of a payment that was delivered.
    pub(super) fn tell_of_settlement(&self, facts: &Facts, outcome: &Outcome) {
        let Outcome::Moved { to, trouble, entry } = outcome else { return };
        let (id, amount) = (facts.id, facts.amount);
        let arrived = || match entry.payout {
            Some(Payout { net, .. }) => format!(": {net} USDC of {amount} arrived"),
            None => String::new(),
        };
        let (level, name, words) = match (to, entry.payout) {
            (Stage::Settled, Some(Payout { net, fee })) if !entry.is_resolved => {
                let gas = match entry.gas {
                    0 => String::new(),
                    wei => format!(", its gas cost {wei} wei"),
                };
                let words = format!(
                    "{id} is settled: {net} USDC of {amount} arrived, {fee} are the protocol's fee{gas}"
                );
                (Level::Info, "settled", words)
            }
            (Stage::Settled, _) => {
                let words = format!("{id} is settled after a dispute{}", arrived());
                (Level::Warning, "resolved", words)
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
                let words = format!("{id} over {amount} USDC: {trouble}{}", arrived());
                (Level::Error, "resolved", words)
            }
            _ => return,
        };
        let mut event = Event::new(level, name, words);
        event.transaction = Some(id);
        event.requester = Some(facts.requester);
        event.net = entry.payout.map(|payout| payout.net);
        event.gas_wei = (entry.gas > 0).then_some(entry.gas);
        self.listener.tell_of(&event);
    }

    /// How often delivered payments are looked up, and the price of gas is asked for.
    pub(super) fn settlement_period(&self) -> Duration {
        Duration::from_secs(if self.client.network().is_local() { 1 } else { 30 })
    }
}

/// What a resolved dispute paid its provider, and the fee of it, by the events of that second; `None`
/// where they do not tell. The rest of the amount is the requester's, or a mediator's.
fn payout(settled: &Transaction, terms: Terms, events: &[EventRecord]) -> Option<Payout> {
    let (mut is_told, mut net, mut others) = (false, Usdc::ZERO, Usdc::ZERO);
    for EventRecord { event, .. } in events {
        match *event {
            KernelEvent::StateTransitioned { transaction_id, new_state, .. }
                if transaction_id == settled.id && new_state == settled.state =>
            {
                is_told = true;
            }
            KernelEvent::EscrowReleased { transaction_id, recipient, amount, .. }
                if transaction_id == settled.id && recipient == settled.provider =>
            {
                net = net.checked_add(amount)?;
            }
            KernelEvent::EscrowRefunded { transaction_id, amount, .. }
            | KernelEvent::EscrowMediatorPaid { transaction_id, amount, .. }
                if transaction_id == settled.id =>
            {
                others = others.checked_add(amount)?;
            }
            _ => {}
        }
    }
    let gross = settled.amount.checked_sub(others).filter(|_| is_told)?;
    if gross == Usdc::ZERO {
        return Some(Payout { net, fee: Usdc::ZERO }).filter(|_| net == Usdc::ZERO);
    }
    // Where milestones were paid before, less than that was left, and how much the events of one
    // second do not say.
    let paid = terms.payout(gross, settled.platform_fee_bps_locked).ok()?;
    (paid.net == net).then_some(paid)
}
