//! One round: new events are read, what they name is looked at, and what is due is settled or recovered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    Begun, Inner,
    duties::{Change, Duty, Seen, Sighting, Stage},
    event::{Event, Recovery, Settlement},
    report::Report,
};
use crate::{
    client::LeastNet,
    error::{Error, Result, Retry},
    kernel::GasCost,
    protocol::{
        Event as KernelEvent, EventRecord, Refusal, State, Terms, Transaction, TransactionId, Usdc,
    },
    wall_clock::wall_seconds,
};

/// How long the lease lasts, unless it is renewed.
const LEASE: Duration = Duration::from_secs(9);
/// A page of events, and how far a first reading has to go again if it is interrupted.
const EVENTS: u32 = 1_000;
/// Events of this age are reached by no reorganisation. The younger ones are read again now and then: a node
/// may have left some out, and a replaced block may have others.
const CHECKED_AFTER: u64 = 3_600;
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Transactions that are read in one round trip.
const READ_AT_ONCE: u32 = 250;
/// Moves under way at once: a chain takes them in a block together.
const AT_ONCE: usize = 128;
/// What one round takes on.
const PER_ROUND: u32 = 10_000;
/// After this long it is looked at once more whether an end stands.
const CONFIRM_AFTER: Duration = Duration::from_secs(600);
/// How often a disputed transaction is looked at. An event tells of its end earlier.
const LOOK_AT_DISPUTED: Duration = Duration::from_secs(600);
/// How often that is looked for which an event told of and no node shows: a little more than a day.
const MISSING_TRIES: u32 = 36;
/// How often a dry run says the same.
const SAY_AGAIN: Duration = Duration::from_secs(86_400);
/// How often it is asked anew what an unprofitable transaction brings.
const REPRICE_EVERY: Duration = Duration::from_secs(86_400);
/// How long a try that failed waits: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What the kernel refuses for good, or somebody has to see to.
const LONG_BACKOFF: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));

/// What a keeper does now and then only.
#[derive(Debug, Default)]
pub(super) struct Chores {
    checked: Option<Instant>,
    repriced: Option<Instant>,
    /// It was told that another keeper is at work.
    is_busy_told: bool,
}

impl Chores {
    fn is_due(last: &mut Option<Instant>, period: Duration) -> bool {
        let due = last.is_none_or(|last| last.elapsed() >= period);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// What became of one try.
struct Tried {
    duty: Duty,
    change: Change,
    event: Option<Event>,
    /// The next ones would fail in the same way.
    is_general: bool,
}

impl Tried {
    fn of(duty: Duty, (change, event): (Change, Option<Event>)) -> Self {
        Self { duty, change, event, is_general: false }
    }
}

/// Those that are under way, and when the lease was renewed last.
struct Trying {
    all: JoinSet<(Tried, Begun)>,
    leased: Instant,
}

impl Inner {
    /// One round. Once `stopped` is set it begins nothing more.
    pub(super) async fn round(self: &Arc<Self>, stopped: &AtomicBool) -> Result<Report> {
        let mut chores = self.chores.lock().await;
        let mut report = Report { is_dry_run: self.is_dry_run, ..Report::default() };
        if !self.leads().await? {
            report.is_busy = true;
            if !std::mem::replace(&mut chores.is_busy_told, true) {
                self.listener.tell(&Event::Busy);
            }
            return Ok(report);
        }
        chores.is_busy_told = false;
        let now = self.now().await?;
        self.read_events(&mut chores, now, &mut report).await?;
        self.look(&mut report).await?;
        if Chores::is_due(&mut chores.repriced, REPRICE_EVERY) {
            self.duties.forget_unprofitable_nets().await?;
        }
        // Reading a long history takes its time.
        if !stopped.load(Ordering::Relaxed) {
            report.is_busy = !self.leads().await?;
            if !report.is_busy {
                self.move_due(stopped, &mut report).await?;
            }
        }
        let backlog = self.duties.backlog(&self.providers, now).await?;
        report.waiting = backlog.waiting;
        report.unprofitable = backlog.unprofitable;
        report.disputed = backlog.disputed;
        report.stalled = backlog.stalled;
        report.next_due_at = backlog.first_due_at;
        self.duties.release(self.owner).await?;
        Ok(report)
    }

    async fn leads(&self) -> Result<bool> {
        self.duties.lease(self.owner, LEASE).await
    }

    async fn read_events(&self, chores: &mut Chores, now: u64, report: &mut Report) -> Result<()> {
        let mut places = self.duties.places(self.start).await?;
        // A chain cannot be ahead of the world; a local one is where its user moved it.
        let clock = if self.client.network().is_local() { now } else { now.min(wall_seconds()) };
        let checked_at = clock.saturating_sub(CHECKED_AFTER);
        let mut cursor = match Chores::is_due(&mut chores.checked, CHECK_EVERY) {
            true => places.checked,
            false => places.read,
        };
        let mut is_checking = cursor == places.checked;
        loop {
            let page = self.client.events(cursor, EVENTS).await?;
            let Some(last) = page.last() else { break };
            cursor = last.cursor;
            let sightings = sightings(&page, places.read, self.terms());
            if is_checking {
                let old = page.iter().take_while(|record| {
                    moved(record).is_none_or(|(.., timestamp)| timestamp <= checked_at)
                });
                let old: Vec<_> = old.collect();
                is_checking = old.len() == page.len();
                // Of the others nobody knows the age.
                let last = old.iter().rfind(|record| moved(record).is_some());
                places.checked = last.map_or(places.checked, |record| record.cursor);
            }
            report.events +=
                page.iter().filter(|record| record.cursor > places.read).count() as u64;
            places.read = places.read.max(cursor);
            self.duties.note(&sightings, places).await?;
            if page.len() < EVENTS as usize {
                break;
            }
        }
        Ok(())
    }

    /// Reads what events named, what is disputed, and once more what has ended.
    async fn look(&self, report: &mut Report) -> Result<()> {
        loop {
            let duties = self.duties.to_look_at(READ_AT_ONCE).await?;
            let ids: Vec<_> = duties.iter().map(|duty| duty.id).collect();
            if ids.is_empty() {
                return Ok(());
            }
            let found = self.client.kernel().get_transactions(&ids).await?;
            let (mut changes, mut events) = (vec![], vec![]);
            for (duty, read) in duties.iter().zip(found) {
                let read = match read {
                    Some(read) if duty.stage == Stage::Ended && duty.provider.is_some() => {
                        // It is given up now: on more than one node's word, where several are asked.
                        self.client.kernel().confirmed(read).await.ok()
                    }
                    read => read,
                };
                let is_ours = read.as_ref().is_none_or(|read| self.is_for(read.provider));
                let (change, event) = standing(duty, read.as_ref(), self.terms());
                changes.push((duty.id, change));
                events.extend(event.filter(|_| is_ours));
            }
            self.duties.change(&changes).await?;
            for event in &events {
                report.ended += u64::from(matches!(event, Event::Ended { .. }));
                self.listener.tell(event);
            }
        }
    }

    async fn move_due(self: &Arc<Self>, stopped: &AtomicBool, report: &mut Report) -> Result<()> {
        let now = self.now().await?;
        if !self.duties.is_any_due(&self.providers, now).await? {
            return Ok(());
        }
        let LeastNet { net: least, .. } =
            self.limits.least_net(self.client.kernel().as_ref()).await?;
        for duty in self.duties.mark_unprofitable(&self.providers, now, least).await? {
            let (transaction, net) = (duty.id, duty.net.unwrap_or_default());
            self.listener.tell(&Event::Unprofitable { transaction, net, least_net: least });
        }
        let due = self.duties.due(&self.providers, now, least, PER_ROUND).await?;
        let mut trying = Trying { all: JoinSet::new(), leased: Instant::now() };
        let mut goes_on = true;
        'all: for some in due.chunks(AT_ONCE) {
            let ids: Vec<_> = some.iter().map(|duty| duty.id).collect();
            let read = match self.client.kernel().get_transactions(&ids).await {
                Ok(read) => read,
                Err(error) if trying.all.is_empty() => return Err(error),
                // What is under way comes first; the next round reports it, should it last.
                Err(_) => break,
            };
            for (duty, read) in some.iter().cloned().zip(read) {
                while goes_on && trying.all.len() >= AT_ONCE {
                    goes_on = self.take_in(&mut trying, report).await?;
                }
                if !goes_on || stopped.load(Ordering::Relaxed) {
                    break 'all;
                }
                let (inner, begun) = (self.clone(), self.under_way.begin());
                trying.all.spawn(async move { (inner.end(duty, read, now, least).await, begun) });
            }
        }
        while !trying.all.is_empty() {
            self.take_in(&mut trying, report).await?;
        }
        Ok(())
    }

    /// Waits for one of those that are under way; `false` where nothing more is to be begun.
    async fn take_in(&self, trying: &mut Trying, report: &mut Report) -> Result<bool> {
        if trying.leased.elapsed() >= LEASE / 3 {
            trying.leased = Instant::now();
            report.is_busy |= !self.leads().await?;
        }
        let Ok(tried) = tokio::time::timeout(LEASE / 3, trying.all.join_next()).await else {
            return Ok(!report.is_busy);
        };
        // Under way until it is written down.
        let Some(Ok((tried, _begun))) = tried else { return Ok(!report.is_busy) };
        let Tried { duty, change, event, is_general } = tried;
        self.duties.change(&[(duty.id, change)]).await?;
        match &event {
            Some(Event::Settled(settlement) | Event::WouldSettle(settlement)) => {
                report.settled.push(*settlement);
            }
            Some(Event::Recovered(recovery) | Event::WouldRecover(recovery)) => {
                report.recovered.push(*recovery);
            }
            Some(Event::Ended { .. }) => report.ended += 1,
            Some(Event::Failed { .. }) => report.failed += 1,
            _ => {}
        }
        if let Some(event) = &event {
            self.listener.tell(event);
        }
        Ok(!is_general && !report.is_busy)
    }

    fn terms(&self) -> Terms {
        self.client.network().terms
    }

    /// Tries once to settle or recover a transaction that is due, as it was read.
    async fn end(&self, duty: Duty, read: Option<Transaction>, now: u64, least: Usdc) -> Tried {
        let id = duty.id;
        let is_due = |read: &Transaction| {
            due_at(read, self.terms()).is_some_and(|(stage, due)| stage == duty.stage && due <= now)
        };
        let Some(transaction) = read.as_ref().filter(|read| is_due(read)) else {
            // The kernel says something else than it did.
            let standing = standing(&duty, read.as_ref(), self.terms());
            return Tried::of(duty, standing);
        };
        let net = match self.net(&duty, transaction).await {
            Ok(net) => net,
            Err(error) => return failed(duty, &error),
        };
        if net < least {
            let event = Event::Unprofitable { transaction: id, net, least_net: least };
            let event = Some(event).filter(|_| !duty.is_unprofitable);
            return Tried::of(duty, (Change::Unprofitable { net }, event));
        }
        let &Transaction { provider, requester, .. } = transaction;
        let is_begun = duty.stage == Stage::Begun;
        let settled = |gas_cost| Settlement { transaction: id, provider, net, gas_cost };
        let recovered = |gas_cost| Recovery { transaction: id, requester, amount: net, gas_cost };
        if self.is_dry_run {
            let event = match is_begun {
                true => Event::WouldRecover(recovered(GasCost::default())),
                false => Event::WouldSettle(settled(GasCost::default())),
            };
            return Tried::of(duty, (Change::Later { after: SAY_AGAIN }, Some(event)));
        }
        let (kernel, sender, after) = (self.client.kernel(), self.client.address(), CONFIRM_AFTER);
        let outcome = if is_begun {
            kernel.recover_stalled(sender, id).await.map(|gas_cost| {
                (Change::Recovered { gas_cost, after }, Event::Recovered(recovered(gas_cost)))
            })
        } else {
            kernel.settle_due(sender, id).await.map(|gas_cost| {
                (Change::Settled { gas_cost, after }, Event::Settled(settled(gas_cost)))
            })
        };
        match outcome {
            Ok((change, event)) => Tried::of(duty, (change, Some(event))),
            Err(error) => self.judge(duty, now, error).await,
        }
    }

    /// What arrives of what is left in escrow: all of it at a requester, and less the fee at a provider.
    async fn net(&self, duty: &Duty, transaction: &Transaction) -> Result<Usdc> {
        if let Some(net) = duty.net {
            return Ok(net);
        }
        let left = self.client.escrow(duty.id).await?.remaining();
        let net = match duty.stage {
            Stage::Begun => left,
            // Below the least fee the kernel refuses to pay, and of nothing it pays nothing.
            _ => self
                .terms()
                .payout(left, transaction.platform_fee_bps_locked)
                .map_or(Usdc::ZERO, |paid| paid.net),
        };
        self.duties.set_net(duty.id, net).await?;
        Ok(net)
    }

    /// What a failed try means. Others may have ended it, a dispute may have come first, it may be too
    /// early, and a node that lags behind may refuse what the chain would take.
    async fn judge(&self, duty: Duty, now: u64, error: Error) -> Tried {
        if error.refusal().is_none() {
            return failed(duty, &error);
        }
        let read = match self.client.kernel().confirm_transaction(duty.id).await {
            Ok(read) => read,
            Err(trouble) => return failed(duty, &trouble),
        };
        let is_due = due_at(&read, self.terms())
            .is_some_and(|(stage, due)| stage == duty.stage && due <= now);
        if is_due {
            return failed(duty, &error);
        }
        let standing = standing(&duty, Some(&read), self.terms());
        Tried::of(duty, standing)
    }
}

/// What can be done with a transaction, by the stage of that, and from when on by the kernel's time.
fn due_at(read: &Transaction, terms: Terms) -> Option<(Stage, u64)> {
    match read.state {
        State::Delivered => {
            read.dispute_window.ends_at().map(|end| (Stage::Delivered, end.saturating_add(1)))
        }
        State::InProgress => terms.recovered_from(read.deadline).map(|from| (Stage::Begun, from)),
        _ => None,
    }
}

/// What follows for a transaction from how it stands.
fn standing(duty: &Duty, read: Option<&Transaction>, terms: Terms) -> (Change, Option<Event>) {
    let transaction = duty.id;
    let Some(read) = read else { return unread(duty) };
    let &Transaction { provider, amount, state, .. } = read;
    let is_back = duty.stage == Stage::Ended;
    let taken_back = is_back.then_some(Event::TakenBack { transaction });
    match (state, due_at(read, terms)) {
        (State::Delivered, Some((_, due_at))) => {
            (Change::Delivered { provider, amount, due_at }, taken_back)
        }
        // Its delivery was told of, so a node that says this has not seen it yet.
        (State::InProgress, Some((_, due_at)))
            if matches!(duty.stage, Stage::Begun | Stage::Ended) =>
        {
            (Change::Begun { provider, amount, due_at }, taken_back)
        }
        (State::Disputed, _) => {
            let change = Change::Disputed { provider, amount, after: LOOK_AT_DISPUTED };
            let is_known = duty.stage == Stage::Disputed;
            (change, (!is_known).then_some(Event::Disputed { transaction }))
        }
        // Nothing was to be settled.
        (State::Settled | State::Cancelled, _) if duty.stage == Stage::Begun => {
            (Change::Forgotten, None)
        }
        (State::Settled | State::Cancelled, _) if is_back => (Change::Forgotten, None),
        (State::Settled | State::Cancelled, _) => {
            // What ended before it was ever read is history.
            let was_waiting = duty.provider.is_some();
            let event = was_waiting.then_some(Event::Ended { transaction, state });
            (Change::Ended { after: CONFIRM_AFTER }, event)
        }
        _ => unread(duty),
    }
}
/// What an event told of is not there: taken back by the chain, or not seen yet by the node.
fn unread(duty: &Duty) -> (Change, Option<Event>) {
    let tries = match duty.stage {
        Stage::Unread | Stage::Begun => duty.tries,
        _ => 0,
    };
    if tries >= MISSING_TRIES {
        // Of begun work nobody was told.
        let was_to_be_settled = duty.stage != Stage::Begun;
        let event = was_to_be_settled.then_some(Event::Forgotten { transaction: duty.id });
        return (Change::Forgotten, event);
    }
    (Change::Unread { after: pause(BACKOFF.0, LONG_BACKOFF.1, tries) }, None)
}

fn failed(duty: Duty, error: &Error) -> Tried {
    let is_final = error.retry() == Retry::Never && !error.refusal().is_some_and(may_lag);
    let (first, last) = if is_final { LONG_BACKOFF } else { BACKOFF };
    let after = pause(first, last, duty.tries);
    let event = Event::Failed {
        transaction: duty.id,
        message: error.to_string(),
        next_try_seconds: after.as_secs(),
    };
    let change = Change::Failed { after, trouble: error.to_string() };
    // A network that is down, a key without gas, a kernel that is paused.
    let is_general = match error.refusal() {
        None => error.retry() != Retry::CheckFirst,
        Some(refusal) => refusal == Refusal::KernelPaused,
    };
    Tried { duty, change, event: Some(event), is_general }
}

/// What a node says that has not seen the newest blocks.
fn may_lag(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::TxMissing | Refusal::NoOp | Refusal::InvalidTransition)
}

fn pause(first: Duration, last: Duration, tries: u32) -> Duration {
    first.saturating_mul(1 << tries.min(16)).min(last)
}

/// Of the events those that matter here, and whether each was read before.
fn sightings(page: &[EventRecord], read: u64, terms: Terms) -> Vec<Sighting> {
    let recovers = terms.recovery_grace_seconds().is_some();
    let sighting = |record: &EventRecord| {
        let (id, old, new, _) = moved(record)?;
        let seen = match (old, new) {
            (_, State::Delivered) => Seen::Delivered,
            (_, State::InProgress) if recovers => Seen::Begun,
            (State::Delivered | State::Disputed | State::InProgress, _) => Seen::MovedOn,
            _ => return None,
        };
        Some(Sighting { id, seen, is_new: record.cursor > read })
    };
    page.iter().filter_map(sighting).collect()
}

fn moved(record: &EventRecord) -> Option<(TransactionId, State, State, u64)> {
    match record.event {
        KernelEvent::StateTransitioned {
            transaction_id, old_state, new_state, timestamp, ..
        } => Some((transaction_id, old_state, new_state, timestamp)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_primitives::Address;

    use super::*;
    use crate::error::Code;

    fn duty(tries: u32) -> Duty {
        Duty {
            id: TransactionId::ZERO,
            stage: Stage::Delivered,
            provider: Some(Address::ZERO),
            net: None,
            is_unprofitable: false,
            tries,
        }
    }

    fn pause_after(error: impl Into<Error>, tries: u32) -> (Duration, bool) {
        let tried = failed(duty(tries), &error.into());
        let Change::Failed { after, .. } = tried.change else { panic!() };
        (after, tried.is_general)
    }

    #[test]
    fn what_is_refused_for_good_is_not_tried_at_full_speed() {
        let minute = Duration::from_secs(60);
        assert_eq!(pause_after(Refusal::FeeExceedsAmount, 0), (minute, false));
        assert_eq!(pause_after(Refusal::FeeExceedsAmount, 20), (60 * minute, false));
        assert_eq!(pause_after(Refusal::TxMissing, 0), (Duration::from_secs(1), false));
        assert_eq!(pause_after(Refusal::RequesterDecisionPending, 20), (minute, false));
    }

    #[test]
    fn what_would_fail_for_all_ends_the_round() {
        assert!(pause_after(Refusal::KernelPaused, 0).1);
        assert!(pause_after(Error::new(Code::EndpointUnreachable, "down"), 0).1);
        assert!(pause_after(Error::new(Code::InsufficientGas, "no gas"), 0).1);
        assert!(!pause_after(Error::new(Code::OutcomeUnknown, "sent"), 0).1);
    }

    #[test]
    fn a_delivery_that_no_node_shows_is_looked_for_all_day() {
        let missing = |tries| Duty { stage: Stage::Unread, ..duty(tries) };
        let mut waited = Duration::ZERO;
        for tries in 0..MISSING_TRIES {
            let (Change::Unread { after }, None) = standing(&missing(tries), None, Terms::MAY_2026)
            else {
                panic!()
            };
            waited += after;
        }
        assert!(waited > Duration::from_secs(86_400), "{waited:?}");
        assert_eq!(standing(&missing(MISSING_TRIES), None, Terms::MAY_2026).0, Change::Forgotten);
        // However often its settlement failed before.
        assert_ne!(standing(&duty(MISSING_TRIES), None, Terms::MAY_2026).0, Change::Forgotten);
    }
}
