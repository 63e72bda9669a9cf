//! What is owed on chain, until it stands there: deliveries and refunds. And the housekeeping that
//! must go on while nobody calls.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::{
    Inner, lock,
    notice::Level,
    process::Process,
    store::{Duty, Facts, Outcome, Stage},
};
use crate::{
    error::{Code, Error, Result, Retry},
    kernel::{Role, TransactionQuery, Transition},
    network::LOCAL_CHAIN_ID,
    protocol::{
        DisputeWindow, Refusal, State, Transaction, TransactionId,
        proof::{DeliveryProof, encode_window},
        receipt::merkle_root,
    },
};

/// How often duties are looked for, if nobody calls for it.
const TICK: Duration = Duration::from_millis(250);
/// How long the lease of the one who sends lasts, unless it is renewed.
const LEADERSHIP: Duration = Duration::from_secs(9);
/// Duties under way at once: a chain takes them in a block together.
const AT_ONCE: usize = 32;
/// How long until a duty is tried again: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Where the operator has to do something first.
const LONG_BACKOFF: Duration = Duration::from_secs(300);
/// A transaction that the kernel does not know may be in a block that it has not seen yet.
const MISSING_FOR: Duration = Duration::from_secs(3_600);
/// How often the same trouble is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// A page of the kernel's transactions.
const PAGE: u32 = 1_000;

/// Does a thing now and then.
struct Every {
    period: Duration,
    last: Option<Instant>,
}

impl Every {
    const fn new(period: Duration) -> Self {
        Self { period, last: None }
    }

    fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= self.period);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

/// The one task of a process that tends the store.
struct Tender {
    process: Arc<Process>,
    renew: Every,
    flush: Every,
    lead: Every,
    close: Every,
    sweep: Every,
    prune: Every,
    is_leader: bool,
    duties: JoinSet<()>,
    sweeps: JoinSet<()>,
    under_way: Arc<Mutex<HashSet<TransactionId>>>,
    told: Option<Instant>,
}

/// Tends the store until the paywall is dropped.
pub(super) async fn tend(paywall: Weak<Inner>, process: Arc<Process>) {
    let Some(inner) = paywall.upgrade() else { return };
    let mut tender = Tender::new(&inner, process.clone());
    drop(inner);
    while let Some(inner) = paywall.upgrade() {
        tender.turn(&inner).await;
        drop(inner);
        let _ = tokio::time::timeout(TICK, process.owed.notified()).await;
    }
}

impl Tender {
    fn new(inner: &Inner, process: Arc<Process>) -> Self {
        // What runs on this machine is cheap to ask, mode mock too.
        let is_local = inner.client.network().chain_id == LOCAL_CHAIN_ID;
        let sweep = Duration::from_secs(if is_local { 2 } else { 30 });
        Self {
            process,
            renew: Every::new(inner.settings.lease / 3),
            flush: Every::new(Duration::from_secs(1)),
            lead: Every::new(LEADERSHIP / 3),
            close: Every::new(Duration::from_secs(1)),
            sweep: Every::new(sweep),
            prune: Every::new(Duration::from_secs(600)),
            is_leader: false,
            duties: JoinSet::new(),
            sweeps: JoinSet::new(),
            under_way: Arc::default(),
            told: None,
        }
    }

    async fn turn(&mut self, inner: &Arc<Inner>) {
        if let Err(error) = self.keep_house(inner).await
            && self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN)
        {
            self.told = Some(Instant::now());
            inner.listener.tell(Level::Error, format!("the paywall's store: {error}"));
        }
        while self.duties.try_join_next().is_some() {}
        while self.sweeps.try_join_next().is_some() {}
    }

    async fn keep_house(&mut self, inner: &Arc<Inner>) -> Result<()> {
        if self.renew.is_due() {
            let running = self.process.running();
            if !running.is_empty() {
                inner.store.renew(&running, inner.settings.lease).await?;
            }
        }
        inner.release_abandoned(&self.process).await?;
        if self.flush.is_due() {
            inner.flush_meters().await?;
        }
        if self.lead.is_due() {
            let is_leader =
                inner.store.lease(&inner.lease_name(), self.process.owner, LEADERSHIP).await;
            // Whoever cannot renew must not go on.
            self.is_leader = *is_leader.as_ref().unwrap_or(&false);
            is_leader?;
        }
        if !self.is_leader {
            return Ok(());
        }
        if self.close.is_due() {
            match inner.clock.refresh().await {
                Ok(now) => {
                    inner.store.close_expiring(now + inner.settings.closing_seconds).await?;
                }
                Err(error) => inner.listener.tell(Level::Warning, format!("the kernel: {error}")),
            }
        }
        if self.sweeps.is_empty() && self.sweep.is_due() {
            let inner = inner.clone();
            self.sweeps.spawn(async move {
                if let Err(error) = inner.sweep().await {
                    let words = format!("transactions of the kernel were not looked over: {error}");
                    inner.listener.tell(Level::Warning, words);
                }
            });
        }
        if self.prune.is_due() {
            while inner.store.prune(inner.settings.keep, 500).await? == 500 {}
        }
        self.begin_duties(inner).await
    }

    async fn begin_duties(&mut self, inner: &Arc<Inner>) -> Result<()> {
        while self.duties.try_join_next().is_some() {}
        let free = AT_ONCE.saturating_sub(self.duties.len());
        if free == 0 {
            return Ok(());
        }
        for duty in inner.store.duties(2 * AT_ONCE as u32).await? {
            if self.duties.len() >= AT_ONCE {
                break;
            }
            if !lock(&self.under_way).insert(duty.facts.id) {
                continue;
            }
            let (inner, process) = (inner.clone(), self.process.clone());
            let under_way = UnderWay { all: self.under_way.clone(), id: duty.facts.id };
            self.duties.spawn(async move {
                inner.perform(&duty).await;
                drop(under_way);
                process.settled.notify_waiters();
                // A place is free for the next.
                process.wake();
            });
        }
        Ok(())
    }
}

/// A duty that nobody else of this process begins.
struct UnderWay {
    all: Arc<Mutex<HashSet<TransactionId>>>,
    id: TransactionId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.id);
    }
}

impl Inner {
    /// One sender for each key, whoever holds its database.
    fn lease_name(&self) -> String {
        format!("outbox {}", self.client.address())
    }

    async fn release_abandoned(&self, process: &Process) -> Result<()> {
        let mut claims = process.take_abandoned();
        while let Some(claim) = claims.pop() {
            if let Err(error) = self.store.release(&claim, self.settings.give_up_after).await {
                claims.push(claim);
                process.put_back_abandoned(claims);
                return Err(error);
            }
            process.answered.notify_waiters();
        }
        Ok(())
    }

    pub(super) async fn flush_meters(&self) -> Result<()> {
        let counters = self.meters.take();
        if counters.is_empty() {
            return Ok(());
        }
        let outcome = self.store.count(&counters).await;
        if outcome.is_err() {
            self.meters.put_back(counters);
        }
        outcome
    }

    /// Tries a duty once, and writes down what became of it.
    async fn perform(&self, duty: &Duty) {
        let id = duty.facts.id;
        let outcome = match duty.stage {
            Stage::Delivering => match self.deliver(duty).await {
                Ok(()) => Outcome::Moved { to: Stage::Delivered, trouble: None },
                Err(error) => self.judge(duty, error).await,
            },
            _ => match self.cancel(id).await {
                Ok(()) => Outcome::Moved { to: Stage::Returned, trouble: None },
                Err(error) => self.judge(duty, error).await,
            },
        };
        self.tell_of(duty, &outcome);
        if let Err(error) = self.store.settle(id, duty.stage, &outcome).await {
            // The chain has it; the next try finds that out.
            self.listener.tell(Level::Error, format!("{id}: {error}"));
        }
    }

    async fn deliver(&self, duty: &Duty) -> Result<()> {
        let id = duty.facts.id;
        let content_hash = match duty.content_hash {
            Some(hash) => hash,
            None => self.fix_content_hash(id).await?,
        };
        let proof = DeliveryProof {
            transaction_id: id,
            content_hash,
            timestamp: duty.answered_at.saturating_mul(1_000),
            delivery_url: None,
            metadata: Map::from_iter([("mimeType".to_owned(), Value::from("application/json"))]),
        };
        let data = encode_window(duty.facts.window_seconds).to_vec();
        let delivery = Transition { id, to: State::Delivered, data, proof: Some(proof) };
        self.client.kernel.deliver(self.client.address(), &delivery).await
    }

    /// The Merkle root over the calls. Once it is fixed, it is what is delivered.
    async fn fix_content_hash(&self, id: TransactionId) -> Result<B256> {
        let calls = self.store.calls(id).await?;
        let leaves: Vec<_> = calls.iter().map(|call| call.content_hash).collect();
        let root = merkle_root(&leaves).ok_or_else(|| {
            Error::new(Code::Internal, format!("{id} is to be delivered, and nothing was served"))
        })?;
        self.store.set_content_hash(id, root).await
    }

    async fn cancel(&self, id: TransactionId) -> Result<()> {
        let cancel = Transition { id, to: State::Cancelled, data: vec![], proof: None };
        self.client.kernel.transition_state(self.client.address(), &cancel).await
    }

    /// What a failed move means: it may have been done before, it may be refused for good, and it
    /// may just have to be tried again.
    async fn judge(&self, duty: &Duty, error: Error) -> Outcome {
        let id = duty.facts.id;
        if error.refusal().is_none() {
            return later(duty, &error);
        }
        let transaction = match self.client.get_transaction(id).await {
            Ok(transaction) => transaction,
            Err(missing)
                if missing.refusal() == Some(Refusal::TxMissing) && duty.age > MISSING_FOR =>
            {
                return moved(Stage::Lost, "the kernel does not know this transaction");
            }
            Err(trouble) => return later(duty, &trouble),
        };
        match (duty.stage, transaction.state) {
            (Stage::Delivering, State::Delivered | State::Settled | State::Disputed) => {
                Outcome::Moved { to: Stage::Delivered, trouble: None }
            }
            (Stage::Delivering, State::Cancelled) => {
                moved(Stage::Lost, "it was cancelled before what was served was delivered")
            }
            (Stage::Delivering, _) if error.refusal() == Some(Refusal::TransactionExpired) => {
                let words = "its deadline passed before what was served was delivered; the money \
                             is given back";
                moved(Stage::Returning, words)
            }
            (_, State::Cancelled) => Outcome::Moved { to: Stage::Returned, trouble: None },
            (_, State::Delivered | State::Settled | State::Disputed) => {
                moved(Stage::Delivered, "it was delivered by other hands")
            }
            _ if error.retry() == Retry::Never => moved(Stage::Lost, &error.to_string()),
            _ => later(duty, &error),
        }
    }

    fn tell_of(&self, duty: &Duty, outcome: &Outcome) {
        let id = duty.facts.id;
        match outcome {
            Outcome::Moved { trouble: None, .. } => {}
            Outcome::Moved { to, trouble: Some(trouble) } => {
                let words = format!("{id} is {} now: {trouble}", to.as_str());
                self.listener.tell(Level::Error, words);
            }
            Outcome::Later { after, trouble } => {
                // Every duty may fail once; what fails again and again should be seen.
                let level = if duty.tries < 3 { Level::Info } else { Level::Warning };
                let words = format!(
                    "{id} is {} since {} s, try {} failed, the next in {after:?}: {trouble}",
                    duty.stage.as_str(),
                    duty.age.as_secs(),
                    duty.tries + 1
                );
                self.listener.tell(level, words);
            }
        }
    }

    /// Waits until a payment that is due stands on chain as delivered; `false` where it does not
    /// in time, or never will.
    pub(super) async fn wait_for_delivery(&self, id: TransactionId) -> Result<bool> {
        let process = self.process.get();
        let until = Instant::now() + self.settings.confirm_wait;
        loop {
            let settled = process.settled.notified();
            match self.store.payment(id).await?.map(|payment| payment.stage) {
                // More calls may come: it is delivered behind the last one.
                Some(Stage::Delivered | Stage::Open) => return Ok(true),
                Some(Stage::Delivering) if Instant::now() < until => {}
                _ => return Ok(false),
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), settled).await;
        }
    }

    /// Looks over the kernel's transactions: those that nobody claimed are given back before they
    /// expire, and what a chain took back is done again.
    async fn sweep(&self) -> Result<()> {
        let now = self.clock.now().await?;
        for state in [State::Committed, State::InProgress] {
            let mut query = TransactionQuery {
                role: Some(Role::Provider),
                state: Some(state),
                limit: PAGE,
                ..TransactionQuery::of(self.client.address())
            };
            loop {
                let page = self.client.find_transactions(&query).await?;
                for transaction in &page {
                    self.look_over(transaction, now).await?;
                }
                query.after = page.last().map(|last| last.id);
                if page.len() < PAGE as usize {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn look_over(&self, transaction: &Transaction, now: u64) -> Result<()> {
        let &Transaction { id, state, deadline, .. } = transaction;
        let again = |to| Outcome::Moved { to, trouble: None };
        if let Some(payment) = self.store.payment(id).await? {
            return match payment.stage {
                Stage::Delivered => {
                    self.store.settle(id, Stage::Delivered, &again(Stage::Delivering)).await
                }
                Stage::Returned => {
                    self.store.settle(id, Stage::Returned, &again(Stage::Returning)).await
                }
                _ => Ok(()),
            };
        }
        let is_over = match state {
            State::Committed => deadline <= now + self.settings.closing_seconds,
            // Somebody is at work on it, until it cannot be delivered any more.
            _ => deadline < now,
        };
        if !is_over || !self.settings.give_back_unclaimed {
            return Ok(());
        }
        let window_seconds = match transaction.dispute_window {
            DisputeWindow::Seconds(seconds) => seconds,
            DisputeWindow::EndsAt(_) => 0,
        };
        let facts = Facts {
            id,
            requester: transaction.requester,
            amount: transaction.amount,
            deadline,
            window_seconds,
        };
        self.listener.tell(Level::Info, format!("{id} was never used and is given back"));
        self.store.give_back(&facts).await?;
        self.process.get().wake();
        Ok(())
    }
}

fn moved(to: Stage, trouble: &str) -> Outcome {
    Outcome::Moved { to, trouble: Some(trouble.to_owned()) }
}

fn later(duty: &Duty, error: &Error) -> Outcome {
    let after = match error.retry() {
        // No funds for gas, a wrong key: somebody has to see to it.
        Retry::Never if error.refusal().is_none() && duty.tries > 3 => LONG_BACKOFF,
        _ => BACKOFF.0.saturating_mul(1 << duty.tries.min(10)).min(BACKOFF.1),
    };
    Outcome::Later { after, trouble: error.to_string() }
}
