//! What is owed on chain, until it stands there: deliveries, refunds and settlements. And the
//! housekeeping that must go on while nobody calls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::{
    Inner,
    event::{Event, Level},
    following::Behind,
    lock,
    process::Process,
    store::{Duty, Entry, Facts, Outcome, Stage, money_event},
};
use crate::{
    client::ACTPClient,
    error::{Code, Error, Result, Retry},
    kernel::{GasCost, Role, TransactionQuery, Transition},
    protocol::{
        Refusal, State, Transaction, TransactionId, proof::DeliveryProof, receipt::merkle_levels,
    },
};

/// How often duties are looked for, if nobody calls for it.
const TICK: Duration = Duration::from_millis(250);
/// How long the lease of the one who sends lasts, unless it is renewed.
const LEADERSHIP: Duration = Duration::from_secs(9);
/// Duties under way at once, of each kind: a chain takes them in a block together, and refunds and
/// settlements that nobody waits for never wait behind deliveries without end.
const AT_ONCE: [(Stage, usize); 3] =
    [(Stage::Delivering, 32), (Stage::Returning, 8), (Stage::Delivered, 128)];
/// How long until a duty is tried again: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Where the operator has to do something first.
const LONG_BACKOFF: Duration = Duration::from_secs(300);
/// Seconds after its deadline from which on a transaction that the kernel does not know is in no
/// block that comes late.
const MISSING_FOR: u64 = 3_600;
/// How often the same trouble is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// A page of the kernel's transactions.
const PAGE: u32 = 1_000;
/// How often payments of keys that nobody has are looked for; longer than a lease lasts.
const STRANGERS: Duration = Duration::from_secs(15);
/// How many payments are forgotten in one step, in which others wait.
const PRUNED_AT_ONCE: u32 = 500;

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

/// Work that may take its time: begun now and then, beside all else, and never twice at once.
struct Chore {
    every: Every,
    running: JoinSet<()>,
}

impl Chore {
    fn new(period: Duration) -> Self {
        Self { every: Every::new(period), running: JoinSet::new() }
    }

    fn begin(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        while self.running.try_join_next().is_some() {}
        if self.running.is_empty() && self.every.is_due() {
            self.running.spawn(work);
        }
    }
}

/// Tells the same trouble now and then only.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn tell(&mut self, inner: &Inner, level: Level, words: String) {
        if self.0.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.0 = Some(Instant::now());
            inner.listener.tell(level, words);
        }
    }
}

/// One sender for each key, whoever holds its database.
pub(super) fn lease_name(client: &ACTPClient) -> String {
    format!("outbox {}", client.address())
}

/// Tends the store until the paywall is dropped. What must not wait for a node that does not
/// answer is a task of its own.
pub(super) fn tend(paywall: &Weak<Inner>, process: Arc<Process>) {
    tokio::spawn(renew_claims(paywall.clone(), process.clone()));
    tokio::spawn(follow_clock(paywall.clone()));
    tokio::spawn(keep_house(paywall.clone(), process));
}

/// A claim whose renewal comes late is taken over while its handler runs.
async fn renew_claims(paywall: Weak<Inner>, process: Arc<Process>) {
    let mut complaint = Complaint::default();
    while let Some(inner) = paywall.upgrade() {
        let (running, lease) = (process.running(), inner.settings.lease);
        let mut pause = lease / 3;
        if !running.is_empty()
            && let Err(error) = inner.store.renew(&running, lease).await
        {
            complaint.tell(&inner, Level::Error, format!("claims were not renewed: {error}"));
            pause = pause.min(TICK);
        }
        drop(inner);
        tokio::time::sleep(pause).await;
    }
}

/// In between, and where the kernel does not answer, this machine's clock goes on from there.
async fn follow_clock(paywall: Weak<Inner>) {
    let mut complaint = Complaint::default();
    while let Some(inner) = paywall.upgrade() {
        let period = Duration::from_secs(if inner.is_local() { 1 } else { 30 });
        match inner.clock.refresh().await {
            Ok(reading) if reading.is_disputed() => {
                let words = format!(
                    "the kernel's clock reads {}, and this machine's {}: set this machine's clock, \
                     or ask another RPC endpoint; until they agree, nothing is closed before both \
                     say that it is time, and no call is run for which one says that it is late",
                    reading.told, reading.wall
                );
                complaint.tell(&inner, Level::Error, words);
            }
            Ok(_) => {}
            Err(error) => {
                complaint.tell(&inner, Level::Warning, format!("the kernel's clock: {error}"));
            }
        }
        drop(inner);
        tokio::time::sleep(period).await;
    }
}

async fn keep_house(paywall: Weak<Inner>, process: Arc<Process>) {
    let Some(inner) = paywall.upgrade() else { return };
    let mut tender = Tender::new(&inner, process.clone());
    drop(inner);
    while let Some(inner) = paywall.upgrade() {
        if let Err(error) = tender.turn(&inner).await {
            let words = format!("the paywall's store: {error}");
            tender.complaint.tell(&inner, Level::Error, words);
        }
        drop(inner);
        let _ = tokio::time::timeout(TICK, process.owed.notified()).await;
    }
}

/// Looks up now and then what others did with payments at a stage.
struct Following {
    stage: Stage,
    behind: Behind,
    chore: Chore,
}

/// Looks over now and then the kernel's transactions in these states.
struct Sweep {
    states: &'static [State],
    chore: Chore,
}

/// The one task of a process that keeps house.
struct Tender {
    process: Arc<Process>,
    flush: Every,
    lead: Every,
    close: Every,
    idle: Every,
    follow: [Following; 3],
    price: Chore,
    sweeps: [Sweep; 2],
    prune: Chore,
    strangers: Chore,
    webhooks: Chore,
    /// Until when nobody else sends.
    leads_until: Option<Instant>,
    duties: JoinSet<()>,
    under_way: Arc<Mutex<HashMap<TransactionId, Stage>>>,
    complaint: Complaint,
}

impl Tender {
    fn new(inner: &Inner, process: Arc<Process>) -> Self {
        // What runs on this machine is cheap to ask, mode mock too.
        let is_local = inner.is_local();
        let sweep = Duration::from_secs(if is_local { 2 } else { 30 });
        let follow = Duration::from_secs(if is_local { 1 } else { 5 });
        let settle = inner.settlement_period();
        let recheck = Duration::from_secs(if is_local { 5 } else { 600 });
        Self {
            process,
            flush: Every::new(Duration::from_secs(1)),
            lead: Every::new(LEADERSHIP / 3),
            close: Every::new(Duration::from_secs(1)),
            idle: Every::new(sweep),
            follow: [(Stage::Open, follow), (Stage::Disputed, settle), (Stage::Delivered, settle)]
                .map(|(stage, period)| Following {
                    stage,
                    behind: Arc::default(),
                    chore: Chore::new(period),
                }),
            price: Chore::new(settle),
            sweeps: [
                Sweep { states: &[State::Committed, State::InProgress], chore: Chore::new(sweep) },
                Sweep { states: &[State::Delivered], chore: Chore::new(recheck) },
            ],
            prune: Chore::new(Duration::from_secs(600)),
            strangers: Chore::new(STRANGERS),
            webhooks: Chore::new(TICK),
            leads_until: None,
            duties: JoinSet::new(),
            under_way: Arc::default(),
            complaint: Complaint::default(),
        }
    }

    async fn turn(&mut self, inner: &Arc<Inner>) -> Result<()> {
        while self.duties.try_join_next().is_some() {}
        inner.cut_streams(&self.process).await?;
        inner.release_abandoned(&self.process).await?;
        if self.flush.is_due() {
            inner.flush_meters().await?;
        }
        // What is owed does not wait for it.
        if let Err(error) = inner.store.tidy().await {
            let words = format!("the paywall's log was not brought into its file: {error}");
            self.complaint.tell(inner, Level::Warning, words);
        }
        // Each process tells its own health.
        if !inner.is_former {
            self.strangers.begin(inner.clone().look_for_strangers());
        }
        if self.lead.is_due() {
            self.take_the_lead(inner).await?;
        }
        if !self.leads() {
            return Ok(());
        }
        if self.close.is_due()
            && let Some(now) = inner.clock.passed()
        {
            inner.store.close_expiring(now + inner.settings.closing_seconds).await?;
        }
        if self.idle.is_due() {
            inner.close_idle().await?;
        }
        for Following { stage, behind, chore } in &mut self.follow {
            chore.begin(inner.clone().follow_and_tell(*stage, behind.clone()));
        }
        self.price.begin(inner.clone().price_settlements());
        for Sweep { states, chore } in &mut self.sweeps {
            chore.begin(inner.clone().sweep_and_tell(states));
        }
        self.prune.begin(inner.clone().prune_and_tell());
        if inner.settings.webhook.is_some() {
            self.webhooks.begin(inner.clone().send_webhooks_and_tell());
        }
        self.begin_duties(inner).await
    }

    /// Whoever cannot renew the lease must not go on.
    async fn take_the_lead(&mut self, inner: &Inner) -> Result<()> {
        self.leads_until = None;
        let asked = Instant::now();
        if inner.store.lease(&inner.lease_name(), self.process.owner, LEADERSHIP).await? {
            self.leads_until = Some(asked + LEADERSHIP);
        }
        Ok(())
    }

    fn leads(&self) -> bool {
        self.leads_until.is_some_and(|until| Instant::now() < until)
    }

    async fn begin_duties(&mut self, inner: &Arc<Inner>) -> Result<()> {
        for (stage, places) in AT_ONCE {
            let taken = lock(&self.under_way).values().filter(|begun| **begun == stage).count();
            let free = places.saturating_sub(taken);
            if free == 0 {
                continue;
            }
            // Those that are under way stand among them.
            let due = match stage {
                Stage::Delivered => inner.due_settlements(2 * places as u32).await?,
                _ => inner.store.duties(stage, 2 * places as u32).await?,
            };
            // The store may have taken its time.
            if !self.leads() {
                break;
            }
            let begun = lock(&self.under_way).clone();
            let waiting = due.into_iter().filter(|duty| !begun.contains_key(&duty.facts.id));
            waiting.take(free).for_each(|duty| self.begin(inner, duty));
        }
        Ok(())
    }

    fn begin(&mut self, inner: &Arc<Inner>, duty: Duty) {
        lock(&self.under_way).insert(duty.facts.id, duty.stage);
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
}

/// A duty that nobody else of this process begins.
struct UnderWay {
    all: Arc<Mutex<HashMap<TransactionId, Stage>>>,
    id: TransactionId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.id);
    }
}

impl Inner {
    fn is_local(&self) -> bool {
        self.client.network().is_local()
    }

    fn lease_name(&self) -> String {
        lease_name(&self.client)
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
        let (counters, runs) = self.meters.take();
        if counters.is_empty() && runs.is_empty() {
            return Ok(());
        }
        let outcome = self.store.count(&counters, &runs).await;
        if outcome.is_err() {
            self.meters.put_back(counters, runs);
        }
        outcome
    }

    /// Tries a duty once, and writes down what became of it.
    async fn perform(&self, duty: &Duty) {
        let id = duty.facts.id;
        let outcome = match self.attempt(duty).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.book_failure(id, &error).await;
                match duty.stage {
                    Stage::Delivered => self.judge_settlement(duty, error).await,
                    _ => self.judge(duty, error).await,
                }
            }
        };
        match (duty.stage, &outcome) {
            (Stage::Delivered, Outcome::Moved { .. }) => {
                self.tell_of_settlement(&duty.facts, &outcome);
            }
            _ => self.tell_of(duty, &outcome),
        }
        if let Err(error) = self.store.settle(id, duty.stage, &outcome).await {
            // The chain has it; the next try finds that out.
            self.listener.tell(Level::Error, format!("{id}: {error}"));
        }
    }

    /// A duty's move on chain.
    async fn attempt(&self, duty: &Duty) -> Result<Outcome> {
        let id = duty.facts.id;
        Ok(match duty.stage {
            Stage::Delivering => {
                let gas = self.deliver(duty).await?;
                let over = |now: u64| now.saturating_add(duty.facts.window_seconds);
                let settle_at = self.clock.now().await.map_or(0, over);
                self.done(Stage::Delivered, gas, Entry { settle_at, ..Entry::default() })
            }
            Stage::Delivered => {
                let gas = self.settle(id).await?;
                let payout = Some(duty.facts.payout());
                self.done(Stage::Settled, gas, Entry { payout, ..Entry::default() })
            }
            _ => self.done(Stage::Returned, self.cancel(id).await?, Entry::default()),
        })
    }

    /// Books the gas of a move that was mined and did nothing.
    async fn book_failure(&self, id: TransactionId, error: &Error) {
        let Some(gas) = error.facts().gas_wei else { return };
        let gas = u64::try_from(gas).unwrap_or(u64::MAX);
        if let Err(error) = self.store.spend(id, self.clock.about(), gas).await {
            self.listener
                .tell(Level::Error, format!("{id}: {gas} wei of gas are not booked: {error}"));
        }
    }

    /// A move that stands on chain now.
    fn done(&self, to: Stage, gas: GasCost, entry: Entry) -> Outcome {
        let gas = u64::try_from(gas.0).unwrap_or(u64::MAX);
        Outcome::Moved { to, trouble: None, entry: Entry { at: self.clock.about(), gas, ..entry } }
    }

    async fn deliver(&self, duty: &Duty) -> Result<GasCost> {
        let id = duty.facts.id;
        let content_hash = match duty.content_hash {
            Some(hash) => hash,
            None => self.fix_content_hash(id).await?,
        };
        let proof = delivery_proof(id, content_hash, duty.answered_at);
        let terms = self.client.network().terms;
        let data = terms.encode_delivery(duty.facts.window_seconds, content_hash);
        let delivery = Transition { id, to: State::Delivered, data, proof: Some(proof) };
        self.client.kernel().deliver(self.client.address(), &delivery).await
    }

    /// The Merkle root over the calls. Once it is fixed, it is what is delivered.
    async fn fix_content_hash(&self, id: TransactionId) -> Result<B256> {
        let root = self.close_tree(id).await?.ok_or_else(|| {
            Error::new(Code::Internal, format!("{id} is to be delivered, and nothing was served"))
        })?;
        self.store.set_content_hash(id, root).await
    }

    /// Keeps the tree over the calls of a closed payment, so that nobody has to read all of them
    /// again. Its root; `None` where nothing was served.
    pub(super) async fn close_tree(&self, id: TransactionId) -> Result<Option<B256>> {
        let calls = self.store.calls(id).await?;
        let levels = merkle_levels(calls.iter().map(|call| call.content_hash).collect());
        // One call is its own root.
        if calls.len() > 1 {
            self.store.keep_tree(id, &levels).await?;
        }
        Ok(levels.last().and_then(|top| top.first()).copied())
    }

    async fn cancel(&self, id: TransactionId) -> Result<GasCost> {
        let cancel = Transition::bare(id, State::Cancelled);
        self.client.kernel().transition_state(self.client.address(), &cancel).await
    }

    /// What a failed move means: it may have been done before, it may be refused for good, and it
    /// may just have to be tried again. A node that lags behind refuses what the chain would take,
    /// and one that lies refuses what it likes. So nothing that was served is given back before its
    /// deadline, with the kernel's grace, has passed by our own clock, whatever a node says, and nothing is lost while the
    /// transaction stands.
    async fn judge(&self, duty: &Duty, error: Error) -> Outcome {
        if error.refusal().is_none() {
            return self.later(duty, &error);
        }
        let state = match self.client.kernel().confirm_transaction(duty.facts.id).await {
            Ok(transaction) => transaction.state,
            Err(missing)
                if missing.refusal() == Some(Refusal::TxMissing) && self.is_long_over(duty) =>
            {
                return self.moved(Stage::Lost, "the kernel does not know this transaction");
            }
            Err(trouble) => return self.later(duty, &trouble),
        };
        match (duty.stage, state) {
            (Stage::Delivering, State::Delivered | State::Settled | State::Disputed) => {
                self.done(Stage::Delivered, GasCost::default(), Entry::default())
            }
            (Stage::Delivering, State::Cancelled) => {
                self.moved(Stage::Lost, "it was cancelled before what was served was delivered")
            }
            (_, State::Cancelled) => {
                self.done(Stage::Returned, GasCost::default(), Entry::default())
            }
            (_, State::Delivered | State::Settled | State::Disputed) => {
                self.moved(Stage::Delivered, "it was delivered by other hands")
            }
            (_, State::Initiated | State::Quoted) if self.is_long_over(duty) => {
                self.moved(Stage::Lost, "the chain took its escrow back: nothing is locked in it")
            }
            (Stage::Delivering, State::Committed | State::InProgress)
                if is_final(&error)
                    && self.clock.has_surely_passed(self.delivered_until(duty, state)) =>
            {
                let words = format!("it cannot be delivered, so the money is given back: {error}");
                self.moved(Stage::Returning, &words)
            }
            _ => self.later(duty, &error),
        }
    }

    /// The last second in which it can be delivered: work that has begun may have a grace.
    fn delivered_until(&self, duty: &Duty, state: State) -> u64 {
        match state {
            State::InProgress => self.client.network().terms.delivered_until(duty.facts.deadline),
            _ => duty.facts.deadline,
        }
    }

    /// Whether its deadline is so long ago that no block brings anything new.
    fn is_long_over(&self, duty: &Duty) -> bool {
        let over = self.delivered_until(duty, State::InProgress);
        self.clock.has_surely_passed(over.saturating_add(MISSING_FOR))
    }

    fn moved(&self, to: Stage, trouble: &str) -> Outcome {
        let entry = Entry { at: self.clock.about(), ..Entry::default() };
        Outcome::Moved { to, trouble: Some(trouble.to_owned()), entry }
    }

    pub(super) fn later(&self, duty: &Duty, error: &Error) -> Outcome {
        let until = self.delivered_until(duty, State::InProgress);
        let left = self.clock.passed().map(|now| until.saturating_sub(now));
        Outcome::Later { after: pause(duty, error, left), trouble: error.to_string() }
    }

    fn tell_of(&self, duty: &Duty, outcome: &Outcome) {
        let id = duty.facts.id;
        match outcome {
            Outcome::NotBefore { .. } => {}
            Outcome::Moved { to, trouble, entry } => {
                let name = money_event(duty.stage, *to, entry.is_resolved);
                let (level, words) = match (trouble, name) {
                    (None, None) => return,
                    (None, Some(_)) => (Level::Info, format!("{id} is {}", to.as_str())),
                    (Some(trouble), _) => {
                        (Level::Error, format!("{id} is {} now: {trouble}", to.as_str()))
                    }
                };
                let mut event = Event::new(level, name.unwrap_or("background"), words);
                event.transaction = Some(id);
                event.requester = Some(duty.facts.requester);
                event.gas_wei = (entry.gas > 0).then_some(entry.gas);
                self.listener.tell_of(&event);
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
                Some(Stage::Delivered | Stage::Settled | Stage::Disputed | Stage::Open) => {
                    return Ok(true);
                }
                Some(Stage::Delivering) if Instant::now() < until => {}
                _ => return Ok(false),
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), settled).await;
        }
    }

    async fn prune_and_tell(self: Arc<Self>) {
        if let Err(error) = self.prune().await {
            let words = format!("ended payments were not forgotten: {error}");
            self.listener.tell(Level::Warning, words);
        }
    }

    async fn prune(&self) -> Result<()> {
        let (keep, now) = (self.settings.keep, self.clock.passed_by_now().await?);
        while self.store.prune(keep, now, PRUNED_AT_ONCE).await? == u64::from(PRUNED_AT_ONCE) {}
        self.expire_webhooks().await
    }

    async fn sweep_and_tell(self: Arc<Self>, states: &'static [State]) {
        if let Err(error) = self.sweep(states).await {
            let words = format!("transactions of the kernel were not looked over: {error}");
            self.listener.tell(Level::Warning, words);
        }
    }

    /// Looks over the kernel's transactions: those that nobody claimed are given back before they
    /// expire, and what a chain took back, or a node said falsely, is done again.
    async fn sweep(&self, states: &[State]) -> Result<()> {
        let now = self.clock.passed_by_now().await?;
        // Its time as a copy begins when it is opened, not when somebody first asks.
        self.restored().await?;
        for &state in states {
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
        if let Some(payment) = self.store.payment(id).await? {
            let is_served = payment.calls > 0 && now <= deadline;
            let is_long_over = deadline.saturating_add(MISSING_FOR) < now;
            let to = match payment.stage {
                Stage::Settled | Stage::Disputed | Stage::Returned | Stage::Lost
                    if state == State::Delivered =>
                {
                    Stage::Delivered
                }
                _ if state == State::Delivered => return Ok(()),
                Stage::Delivered | Stage::Settled | Stage::Disputed => Stage::Delivering,
                Stage::Returned => Stage::Returning,
                // It stands after all.
                Stage::Lost if is_served => Stage::Delivering,
                Stage::Lost => Stage::Returning,
                // Nobody can be paid for it any more.
                Stage::Left if is_long_over => Stage::Returning,
                Stage::Left | Stage::Open | Stage::Delivering | Stage::Returning => return Ok(()),
            };
            let entry = Entry { at: transaction.updated_at, ..Entry::default() };
            let again = Outcome::Moved { to, trouble: None, entry };
            return self.store.settle(id, payment.stage, &again).await.map(drop);
        }
        let is_over = match state {
            State::Delivered => return Ok(()),
            // Another store of the key may be serving it, for as long as it can be delivered.
            _ if transaction.service_hash != self.service => {
                deadline.saturating_add(MISSING_FOR) < now
            }
            State::Committed => deadline <= now + self.settings.closing_seconds,
            // Somebody is at work on it, until it cannot be delivered any more.
            _ => deadline < now,
        };
        if !is_over || !self.settings.give_back_unclaimed {
            return Ok(());
        }
        if self.may_have_been_served(transaction).await? {
            if lock(&self.spared).insert(id) {
                let words = format!(
                    "{id} was made before this store was restored from a copy, which does not know it: it \
                     may have been served, and is not given back; cancel it by hand if it was not"
                );
                self.listener.tell(Level::Warning, words);
            }
            return Ok(());
        }
        if self.client.kernel().confirmed(transaction.clone()).await? != *transaction {
            return Ok(());
        }
        self.listener.tell(Level::Info, format!("{id} was never used and is given back"));
        self.store.give_back(&Facts::of(transaction)).await?;
        self.process.get().wake();
        Ok(())
    }

    /// Since when the store works as a copy of another one.
    async fn restored(&self) -> Result<Option<u64>> {
        if let Some(known) = self.restored.get() {
            return Ok(*known);
        }
        let found = self.store.restored(self.clock.now().await?).await?;
        Ok(*self.restored.get_or_init(|| found))
    }

    /// Whether a transaction that the store does not know may be one that it has forgotten: the store is
    /// a copy, and was put to work after the transaction was made.
    pub(super) async fn may_have_been_served(&self, transaction: &Transaction) -> Result<bool> {
        Ok(self.restored().await?.is_some_and(|since| transaction.created_at <= since))
    }
}

/// What is delivered for calls whose tree has this root, the last of which was answered at this time.
pub(super) fn delivery_proof(
    id: TransactionId,
    content_hash: B256,
    answered_at: u64,
) -> DeliveryProof {
    DeliveryProof {
        transaction_id: id,
        content_hash,
        timestamp: answered_at.saturating_mul(1_000),
        delivery_url: None,
        metadata: Map::from_iter([("mimeType".to_owned(), Value::from("application/json"))]),
    }
}

/// Whether the chain will never take this delivery. What a node refuses that has not seen the
/// newest blocks may be taken by the next one.
fn is_final(error: &Error) -> bool {
    let may_lag = [Refusal::TxMissing, Refusal::NoOp, Refusal::InvalidTransition];
    // Who is the provider never changes, so whoever says this speaks of another transaction.
    let is_no_reason = |told| may_lag.contains(&told) || told == Refusal::OnlyProvider;
    error.retry() == Retry::Never && !error.refusal().is_some_and(is_no_reason)
}

/// How long a duty that failed waits, with so many seconds left before its deadline: a delivery
/// never sleeps through more than a quarter of them.
fn pause(duty: &Duty, error: &Error, left: Option<u64>) -> Duration {
    let pause = match error.retry() {
        // No funds for gas, a wrong key: somebody has to see to it.
        Retry::Never if error.refusal().is_none() && duty.tries > 3 => LONG_BACKOFF,
        _ => BACKOFF.0.saturating_mul(1 << duty.tries.min(10)).min(BACKOFF.1),
    };
    match left {
        Some(left @ 1..) if duty.stage == Stage::Delivering => {
            pause.min(Duration::from_secs(left) / 4).max(BACKOFF.0)
        }
        _ => pause,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_primitives::Address;

    use super::*;
    use crate::protocol::Usdc;

    fn duty(stage: Stage, tries: u32) -> Duty {
        let facts = Facts {
            id: TransactionId::ZERO,
            requester: Address::ZERO,
            amount: Usdc(100_000),
            deadline: 1_800_000_000,
            window_seconds: 3_600,
            net: Usdc(50_000),
            bound: true,
        };
        let (content_hash, answered_at, age) = (None, 1_799_999_000, Duration::ZERO);
        Duty { facts, stage, content_hash, answered_at, tries, age, settle_at: 0 }
    }

    #[test]
    fn a_delivery_that_failed_does_not_sleep_through_its_deadline() {
        let no_gas = Error::new(Code::InsufficientGas, "no gas");
        let no_node = Error::new(Code::EndpointUnreachable, "no node");
        let after = |stage, error, left| pause(&duty(stage, 9), error, left);
        assert_eq!(after(Stage::Delivering, &no_gas, Some(86_400)), LONG_BACKOFF);
        assert_eq!(after(Stage::Delivering, &no_gas, Some(60)), Duration::from_secs(15));
        assert_eq!(after(Stage::Delivering, &no_node, Some(8)), Duration::from_secs(2));
        assert_eq!(after(Stage::Delivering, &no_node, Some(1)), BACKOFF.0);
        // A refund has no deadline, and what is over has none any more.
        assert_eq!(after(Stage::Returning, &no_node, Some(8)), BACKOFF.1);
        assert_eq!(after(Stage::Delivering, &no_node, Some(0)), BACKOFF.1);
    }
}
