//! Payments as the world treats them: others move their transactions, their requesters stop calling,
//! and their provider may give one back.

use std::sync::{Arc, Mutex};

use super::{
    Inner,
    event::{Event, Level},
    lock,
    store::{Facts, Stage, money_event},
};
use crate::{
    error::{Code, Error, Result},
    protocol::{Refusal, State, Transaction, TransactionId},
};

/// How many payments are read from the kernel at once, and how many in one round: the next round goes
/// on behind them.
const PAGE: u32 = 250;
const ROUND: u32 = 2_000;
/// After so many that failed, it is not them.
const MOST_FAILED: u32 = 5;

/// The payment that was looked up last.
pub(super) type Behind = Arc<Mutex<TransactionId>>;

impl Inner {
    pub(super) async fn follow_and_tell(self: Arc<Self>, stage: Stage, behind: Behind) {
        if let Err(error) = self.follow(stage, &behind).await {
            let words = format!("{} payments were not looked up on chain: {error}", stage.as_str());
            self.listener.tell(Level::Warning, words);
        }
    }

    /// Looks up the transactions of payments at this stage, behind the last one that was looked up.
    async fn follow(&self, stage: Stage, behind: &Mutex<TransactionId>) -> Result<()> {
        for _ in 0..ROUND / PAGE {
            let after = *lock(behind);
            let ids = self.store.payments_at(stage, after, PAGE).await?;
            if ids.is_empty() {
                *lock(behind) = TransactionId::ZERO;
                break;
            }
            let transactions = self.client.kernel().get_transactions(&ids).await?;
            let mut failed = 0;
            for transaction in transactions.into_iter().flatten() {
                let id = transaction.id;
                // One that cannot be looked into holds up no other.
                if let Err(error) = self.look_into(transaction, stage).await {
                    failed += 1;
                    if failed == MOST_FAILED {
                        *lock(behind) = id;
                        return Err(error);
                    }
                    let words = format!("{id} was not looked into: {error}");
                    self.listener.tell(Level::Warning, words);
                }
            }
            let is_last = ids.len() < PAGE as usize;
            *lock(behind) = ids.last().filter(|_| !is_last).copied().unwrap_or_default();
            if is_last {
                break;
            }
        }
        Ok(())
    }

    async fn look_into(&self, transaction: Transaction, stage: Stage) -> Result<()> {
        #[cfg(feature = "disputes")]
        if stage == Stage::Disputed && transaction.state == State::Disputed {
            self.watch_ruling(&transaction).await?;
        }
        match stage {
            Stage::Open => self.notice(transaction).await,
            _ => self.notice_settlement(transaction, stage).await,
        }
    }

    /// Stops serving what was moved by other hands. What is lost by that is told as an error.
    async fn notice(&self, transaction: Transaction) -> Result<()> {
        let Transaction { id, state, requester, .. } = transaction;
        let (served, words) = match state {
            State::Cancelled => (Stage::Lost, "was cancelled by other hands"),
            State::Delivered | State::Settled | State::Disputed => {
                (Stage::Delivered, "was delivered by other hands")
            }
            // A node that lags behind shows an earlier state.
            State::Initiated | State::Quoted | State::Committed | State::InProgress => {
                return Ok(());
            }
        };
        let unserved = match served {
            Stage::Lost => Stage::Returned,
            stage => stage,
        };
        if self.client.kernel().confirmed(transaction).await?.state != state {
            return Ok(());
        }
        let trouble = format!("it {words}");
        let Some(stage) = self.store.overtake(id, unserved, served, &trouble).await? else {
            return Ok(());
        };
        let (level, words) = match stage {
            Stage::Lost => (Level::Error, format!("{id} {words} after calls were served with it")),
            _ => (Level::Warning, format!("{id} {words}: it is served no more")),
        };
        let name = money_event(Stage::Open, stage, false).unwrap_or("background");
        let mut event = Event::new(level, name, words);
        event.transaction = Some(id);
        event.requester = Some(requester);
        self.listener.tell_of(&event);
        Ok(())
    }

    /// Delivers balances that nobody has called with for so long.
    pub(super) async fn close_idle(&self) -> Result<()> {
        let Some(now) = self.clock.passed() else { return Ok(()) };
        let before = now.saturating_sub(self.settings.idle_close_seconds);
        if self.store.close_idle(before).await? > 0 {
            self.process.get().wake();
        }
        Ok(())
    }

    /// The provider gives a transaction back, whatever was served of it.
    pub(super) async fn refund(&self, id: TransactionId) -> Result<Stage> {
        let known = self.store.payment(id).await?;
        let calls = known.as_ref().map_or(0, |payment| payment.calls);
        let facts = match known {
            Some(payment) => payment.facts,
            None => {
                let transaction = self.client.get_transaction(id).await?;
                if transaction.provider != self.client.address() {
                    return Err(Error::refused(Refusal::OnlyProvider, Some(&transaction)));
                }
                match transaction.state {
                    State::Cancelled => return Ok(Stage::Returned),
                    State::Committed | State::InProgress => Facts::of(&transaction),
                    state => return Err(not_refundable(id, &state.to_string())),
                }
            }
        };
        let stage = self.store.refund(&facts).await?;
        match stage {
            Stage::Returning => {
                self.process.get().wake();
                let words = format!(
                    "{id} is given back, as its provider asked; {calls} calls were served with it"
                );
                self.listener.tell(Level::Info, words);
                Ok(stage)
            }
            Stage::Returned => Ok(stage),
            stage => Err(not_refundable(id, stage.as_str())),
        }
    }
}

fn not_refundable(id: TransactionId, stands: &str) -> Error {
    let message = format!(
        "transaction {id} is {stands}: only one that is COMMITTED or IN_PROGRESS, and whose \
         delivery is not under way, can be given back"
    );
    Error::new(Code::Refused(Refusal::InvalidTransition), message)
        .with_hint(
            "after its delivery, its requester can dispute it, and the resolver can split it",
        )
        .with_facts(|facts| facts.transaction_id = Some(id))
}
