//! From a planned payment to money in escrow: every step is looked up before it is taken again.

use super::{
    Inner,
    records::{Payment, Stage},
};
use crate::{
    error::{Code, Error, Kind, Result, Retry},
    kernel::{Role, TransactionQuery},
    process_locks::ProcessLock,
    protocol::{CreateTransaction, LinkEscrow, State, Transaction, TransactionId},
};

/// How many of the newest transactions are looked through for one whose id was not written down.
const LOOK_THROUGH: usize = 20;
/// By how much a chain's blocks may be older than its clock was when the payment was planned.
const BLOCK_LAG_SECONDS: u64 = 600;

/// What came of an attempt to fund.
#[derive(Debug)]
pub(super) enum Funded {
    /// Its money is in escrow.
    Ready(TransactionId),
    /// Somebody else is at it.
    Elsewhere,
    /// It never will be, and no money moved.
    Never,
}

impl Inner {
    /// Creates and funds the payment's transaction, or finds that it is.
    ///
    /// # Errors
    /// The kernel's. Where nothing can have been done the payment is abandoned; else it stays as
    /// it is, and the next attempt looks first.
    pub(super) async fn fund(&self, id: i64) -> Result<Funded> {
        if let Some(over) = is_over(&self.records.payment(id).await?) {
            return Ok(over);
        }
        let Some((_place, payment)) = self.take(id).await? else { return Ok(Funded::Elsewhere) };
        let outcome = match is_over(&payment) {
            Some(over) => Ok(over),
            None => self.create_and_link(&payment).await,
        };
        if !matches!(outcome, Ok(Funded::Ready(_))) {
            self.records.let_go(id).await?;
        }
        outcome
    }

    /// Finds out what became of payments whose funding was begun and whose end is not on record,
    /// since the process died or the outcome was unknown: their money is in escrow, or never will
    /// be. Nothing is paid here. Returns those that cannot be found out now.
    ///
    /// # Errors
    /// The storage's codes.
    pub(super) async fn catch_up(&self) -> Result<Vec<(TransactionId, Error)>> {
        let mut unknown = vec![];
        for payment in self.records.payments(&[Stage::Created]).await? {
            let Some(id) = payment.transaction_id else { continue };
            let Some((_place, payment)) = self.take(payment.id).await? else { continue };
            let looked = self.look(&payment, id).await;
            self.records.let_go(payment.id).await?;
            unknown.extend(looked.err().map(|error| (id, error)));
        }
        Ok(unknown)
    }

    async fn look(&self, payment: &Payment, id: TransactionId) -> Result<()> {
        if payment.stage != Stage::Created {
            return Ok(());
        }
        let transaction = self.client.get_transaction(id).await?;
        let is_open = self.outcome(payment, &transaction).await?.is_none();
        if is_open && self.client.now().await? > transaction.deadline {
            // No money can be put into it any more.
            self.records.abandon(payment.id).await?;
        }
        Ok(())
    }

    /// The payment as it is while nobody else changes it: as long as the place is held. `None`
    /// where somebody else is at it.
    async fn take(&self, id: i64) -> Result<Option<(ProcessLock, Payment)>> {
        let place = ProcessLock::take(self.records.path())?;
        if !self.records.claim(id, place.owner(), |owner| place.is_alive(owner)).await? {
            return Ok(None);
        }
        Ok(Some((place, self.records.payment(id).await?)))
    }

    async fn create_and_link(&self, payment: &Payment) -> Result<Funded> {
        let id = match payment.transaction_id {
            Some(id) => id,
            None => match self.create(payment).await? {
                Some(id) => id,
                None => return Ok(Funded::Never),
            },
        };
        let transaction = self.client.get_transaction(id).await?;
        if let Some(outcome) = self.outcome(payment, &transaction).await? {
            return Ok(outcome);
        }
        if self.client.now().await? >= payment.usable_until {
            self.records.abandon(payment.id).await?;
            return Ok(Funded::Never);
        }
        let penalty = transaction.requester_penalty_bps_locked;
        let terms = self.client.network().terms;
        if !payment.trusted && !terms.requester_can_cancel(payment.amount, penalty) {
            self.records.abandon(payment.id).await?;
            let message = format!(
                "at the rates that this network now locks into transactions, {} USDC could never \
                 be cancelled by who paid them, and the provider {} is not trusted",
                payment.amount, payment.provider
            );
            return Err(Error::new(Code::UntrustedProvider, message)
                .with_hint("trust the provider, or take a greater bundle; nothing was paid")
                .with_facts(|facts| facts.transaction_id = Some(id)));
        }
        let link = LinkEscrow { most: Some(payment.amount), ..LinkEscrow::default() };
        if let Err(error) = self.client.link_escrow_as(id, link).await {
            // Another look tells for certain, also where the refusal was that it is linked.
            let now = self.client.get_transaction(id).await;
            match now.map(|transaction| transaction.state) {
                Ok(State::Initiated | State::Quoted) if is_no(&error) => {
                    self.records.abandon(payment.id).await?;
                    return Err(error);
                }
                Ok(State::Initiated | State::Quoted) | Err(_) => return Err(error),
                Ok(_) => {}
            }
        }
        self.records.funded(payment.id).await?;
        Ok(Funded::Ready(id))
    }

    /// Writes down what the transaction tells of its payment; `None` while nothing was put into it.
    async fn outcome(
        &self,
        payment: &Payment,
        transaction: &Transaction,
    ) -> Result<Option<Funded>> {
        self.check_created(payment, transaction)?;
        match transaction.state {
            State::Initiated | State::Quoted => Ok(None),
            State::Cancelled if transaction.escrow_id.is_zero() => {
                self.records.abandon(payment.id).await?;
                Ok(Some(Funded::Never))
            }
            _ => {
                self.records.funded(payment.id).await?;
                Ok(Some(Funded::Ready(transaction.id)))
            }
        }
    }

    /// The transaction's id, written down; `None` where it is too late to make one.
    async fn create(&self, payment: &Payment) -> Result<Option<TransactionId>> {
        // Whoever was at it before may have got as far as creating it.
        let found = if payment.tries > 1 { self.find_created(payment).await? } else { None };
        let id = match found {
            Some(id) => id,
            None => {
                if self.client.now().await? >= payment.usable_until {
                    self.records.abandon(payment.id).await?;
                    return Ok(None);
                }
                let mut request = CreateTransaction::new(
                    self.client.address(),
                    payment.provider,
                    payment.amount,
                    payment.deadline,
                );
                request.dispute_window_seconds = payment.dispute_window;
                request.service_hash = payment.service_hash;
                request.agreement_hash = payment.agreement_hash;
                match self.client.create_transaction(&request).await {
                    Ok(id) => id,
                    Err(error) => {
                        if is_no(&error) {
                            self.records.abandon(payment.id).await?;
                        }
                        return Err(error);
                    }
                }
            }
        };
        self.records.created(payment.id, id).await?;
        Ok(Some(id))
    }

    /// No other transaction has this payment's service hash.
    async fn find_created(&self, payment: &Payment) -> Result<Option<TransactionId>> {
        let mut query = TransactionQuery {
            role: Some(Role::Requester),
            ..TransactionQuery::of(self.client.address())
        };
        for _ in 0..LOOK_THROUGH {
            let page = self.client.find_transactions(&query).await?;
            if let Some(found) = page.iter().find(|tx| tx.service_hash == payment.service_hash) {
                return Ok(Some(found.id));
            }
            match page.last() {
                Some(last) if last.created_at + BLOCK_LAG_SECONDS >= payment.planned_at => {
                    query.after = Some(last.id);
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A node may lie about what was created; before money follows, it is compared.
    fn check_created(&self, payment: &Payment, transaction: &Transaction) -> Result<()> {
        let is_ours = transaction.requester == self.client.address()
            && transaction.provider == payment.provider
            && transaction.amount == payment.amount
            && transaction.service_hash == payment.service_hash
            && transaction.agreement_hash == payment.agreement_hash;
        if is_ours {
            return Ok(());
        }
        let message = format!("the transaction {} is not the one that was planned", transaction.id);
        Err(Error::new(Code::InvalidAnswer, message)
            .with_hint("ask another RPC endpoint; nothing was paid")
            .with_facts(|facts| facts.transaction_id = Some(transaction.id)))
    }
}

fn is_over(payment: &Payment) -> Option<Funded> {
    match (payment.stage, payment.transaction_id) {
        (Stage::Planned | Stage::Created, _) => None,
        (Stage::Abandoned, _) | (_, None) => Some(Funded::Never),
        (_, Some(id)) => Some(Funded::Ready(id)),
    }
}

/// Whether the error says for certain that nothing was done, and nothing will be.
fn is_no(error: &Error) -> bool {
    error.retry() == Retry::Never && !matches!(error.kind(), Kind::Storage | Kind::Internal)
}
