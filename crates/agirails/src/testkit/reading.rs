//! Events, and finding transactions.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::{Address, B256, U256};

use super::{
    Stage,
    scenario::{Scene, USDC, assert_events, failed, refused, words},
};
use crate::{
    error::{Code, Result},
    kernel::{Role, TransactionQuery},
    protocol::{Event, Refusal, State, TransactionId, Usdc},
};

/// The events of one transaction, as a story.
struct Story<'a> {
    play: &'a Scene<'a>,
    transaction_id: TransactionId,
    events: Vec<Event>,
}

impl<'a> Story<'a> {
    fn of(play: &'a Scene<'a>, transaction_id: TransactionId) -> Self {
        Self { play, transaction_id, events: vec![] }
    }

    fn created(mut self, amount: u64, deadline: u64) -> Self {
        self.events.push(Event::TransactionCreated {
            transaction_id: self.transaction_id,
            requester: self.play.requester,
            provider: self.play.provider,
            amount: Usdc(amount),
            service_hash: B256::ZERO,
            deadline,
            timestamp: 0,
            agent_id: U256::ZERO,
            agreement_hash: B256::ZERO,
        });
        self
    }

    fn linked(mut self, amount: u64) -> Self {
        self.events.push(Event::EscrowLinked {
            transaction_id: self.transaction_id,
            escrow_contract: self.play.kernel.network().vault,
            escrow_id: self.transaction_id,
            amount: Usdc(amount),
            timestamp: 0,
        });
        self
    }

    fn moved(mut self, triggered_by: Address, old_state: State, new_state: State) -> Self {
        let (transaction_id, timestamp) = (self.transaction_id, 0);
        self.events.push(Event::StateTransitioned {
            transaction_id,
            old_state,
            new_state,
            triggered_by,
            timestamp,
        });
        self
    }

    fn released(mut self, net: u64) -> Self {
        let (transaction_id, recipient) = (self.transaction_id, self.play.provider);
        let amount = Usdc(net);
        self.events.push(Event::EscrowReleased { transaction_id, recipient, amount, timestamp: 0 });
        self
    }

    /// The fee recipient's part of a fee.
    fn charged(mut self, fee: i128, treasury: i128) -> Self {
        let amount = Usdc(self.play.fee(fee, treasury).fees.try_into().unwrap_or_default());
        self.events.push(Event::PlatformFeeAccrued {
            transaction_id: self.transaction_id,
            recipient: self.play.kernel.network().fee_recipient,
            amount,
            timestamp: 0,
        });
        self
    }

    fn refunded(mut self, amount: u64) -> Self {
        let (transaction_id, recipient) = (self.transaction_id, self.play.requester);
        let amount = Usdc(amount);
        self.events.push(Event::EscrowRefunded { transaction_id, recipient, amount, timestamp: 0 });
        self
    }

    fn then(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    async fn was_told(self, cursor: u64, since: u64) -> Result<()> {
        let found = self.play.events_after(cursor).await?;
        assert_events(&found, &self.events, since, self.play.now().await?);
        Ok(())
    }
}

pub async fn events_tell_a_paid_call_in_the_contracts_order(stage: &dyn Stage) -> Result<()> {
    use State::*;
    let play = Scene::on(stage).await?;
    let (cursor, since) = (play.cursor().await?, play.now().await?);
    let id = play.in_state(Settled, 100_000).await?;
    let deadline = play.tx(id).await?.deadline;
    Story::of(&play, id)
        .created(100_000, deadline)
        .linked(100_000)
        .moved(play.requester, Initiated, Committed)
        .moved(play.provider, Committed, InProgress)
        .moved(play.provider, InProgress, Delivered)
        .moved(play.requester, Delivered, Settled)
        .released(50_000)
        .charged(50_000, 50)
        .was_told(cursor, since)
        .await?;

    // Five cents are all fee: nothing is released.
    let (cursor, since) = (play.cursor().await?, play.now().await?);
    let id = play.in_state(Settled, 50_000).await?;
    let deadline = play.tx(id).await?.deadline;
    Story::of(&play, id)
        .created(50_000, deadline)
        .linked(50_000)
        .moved(play.requester, Initiated, Committed)
        .moved(play.provider, Committed, InProgress)
        .moved(play.provider, InProgress, Delivered)
        .moved(play.requester, Delivered, Settled)
        .charged(50_000, 50)
        .was_told(cursor, since)
        .await
}

pub async fn events_tell_a_quote_and_a_milestone_in_the_contracts_order(
    stage: &dyn Stage,
) -> Result<()> {
    use State::*;
    let play = Scene::on(stage).await?;
    let (cursor, since) = (play.cursor().await?, play.now().await?);
    let id = play.in_state(Quoted, USDC).await?;
    let deadline = play.tx(id).await?.deadline;
    play.kernel.accept_quote(play.requester, id, Usdc(10 * USDC)).await?;
    play.link(id).await?;
    play.step(play.provider, id, InProgress).await?;
    play.kernel.release_milestone(play.requester, id, Usdc(10 * USDC)).await?;
    play.step(play.provider, id, Delivered).await?;
    play.step(play.requester, id, Settled).await?;
    let transaction_id = id;
    Story::of(&play, id)
        .created(1_000_000, deadline)
        .moved(play.provider, Initiated, Quoted)
        .then(Event::QuoteAccepted {
            transaction_id,
            old_amount: Usdc(1_000_000),
            new_amount: Usdc(10_000_000),
            timestamp: 0,
        })
        .linked(10_000_000)
        .moved(play.requester, Quoted, Committed)
        .moved(play.provider, Committed, InProgress)
        .released(9_900_000)
        .charged(100_000, 100)
        .then(Event::EscrowMilestoneReleased {
            transaction_id,
            amount: Usdc(10_000_000),
            timestamp: 0,
        })
        .moved(play.provider, InProgress, Delivered)
        .moved(play.requester, Delivered, Settled)
        .was_told(cursor, since)
        .await
}

pub async fn events_tell_a_dispute_in_the_contracts_order(stage: &dyn Stage) -> Result<()> {
    use State::*;
    let play = Scene::on(stage).await?;
    let resolved = |transaction_id, initiator, provider_at_fault| Event::DisputeResolved {
        transaction_id,
        dispute_id: B256::ZERO,
        initiator,
        provider_at_fault,
        bond: Usdc(1_000_000),
        timestamp: 0,
    };
    for (to, at_fault) in [(Settled, true), (Settled, false), (Cancelled, true)] {
        let id = play.in_state(Delivered, 10 * USDC).await?;
        let (cursor, since) = (play.cursor().await?, play.now().await?);
        play.step(play.provider, id, Disputed).await?;
        let split = words(&[4 * USDC, 6 * USDC, at_fault.into()]);
        play.step_with(play.admin, id, to, &split).await?;
        let (transaction_id, initiator) = (id, play.provider);
        let bond = Usdc(1_000_000);
        Story::of(&play, id)
            .moved(play.provider, Delivered, Disputed)
            .then(Event::DisputeOpened { transaction_id, initiator, bond, timestamp: 0 })
            .moved(play.admin, Disputed, to)
            .released(5_940_000)
            .charged(60_000, 60)
            .refunded(4_000_000)
            // A cancellation finds nobody at fault.
            .then(resolved(id, initiator, at_fault && to == Settled))
            .was_told(cursor, since)
            .await?;
    }

    let id = play.in_state(Disputed, 10 * USDC).await?;
    let (cursor, since) = (play.cursor().await?, play.now().await?);
    play.step_with(play.admin, id, Cancelled, &words(&[10 * USDC, 0])).await?;
    Story::of(&play, id)
        .moved(play.admin, Disputed, Cancelled)
        .refunded(10_000_000)
        .then(resolved(id, play.requester, false))
        .was_told(cursor, since)
        .await?;

    let mediator = stage.party().await?;
    stage.approve_mediator(mediator).await?;
    stage.advance(2 * 86_400 + 1).await?;
    let id = play.in_state(Disputed, 10 * USDC).await?;
    let (cursor, since) = (play.cursor().await?, play.now().await?);
    let split = super::scenario::mediation([4 * USDC, 5 * USDC], mediator, USDC, &[0]);
    play.step_with(play.admin, id, Settled, &split).await?;
    let paid = Event::EscrowMediatorPaid {
        transaction_id: id,
        recipient: mediator,
        amount: Usdc(1_000_000),
        timestamp: 0,
    };
    Story::of(&play, id)
        .moved(play.admin, Disputed, Settled)
        .released(4_950_000)
        .charged(50_000, 50)
        .refunded(4_000_000)
        .then(paid)
        .then(resolved(id, play.requester, false))
        .was_told(cursor, since)
        .await
}

pub async fn events_tell_a_cancellation_in_the_contracts_order(stage: &dyn Stage) -> Result<()> {
    use State::*;
    let play = Scene::on(stage).await?;
    for (state, by) in [(Committed, play.provider), (InProgress, play.provider)] {
        let id = play.in_state(state, USDC).await?;
        let (cursor, since) = (play.cursor().await?, play.now().await?);
        play.step(by, id, Cancelled).await?;
        Story::of(&play, id)
            .moved(by, state, Cancelled)
            .refunded(1_000_000)
            .was_told(cursor, since)
            .await?;
    }
    for state in [Initiated, Quoted] {
        let id = play.in_state(state, USDC).await?;
        let (cursor, since) = (play.cursor().await?, play.now().await?);
        play.step(play.requester, id, Cancelled).await?;
        let story = Story::of(&play, id).moved(play.requester, state, Cancelled);
        story.was_told(cursor, since).await?;
    }
    let id = play.in_state(Committed, 100 * USDC).await?;
    play.miss_deadline(id).await?;
    let (cursor, since) = (play.cursor().await?, play.now().await?);
    play.step(play.requester, id, Cancelled).await?;
    Story::of(&play, id)
        .moved(play.requester, Committed, Cancelled)
        .refunded(95_000_000)
        .released(4_950_000)
        .charged(50_000, 50)
        .was_told(cursor, since)
        .await
}

pub async fn events_are_read_on_from_any_cursor(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let start = play.cursor().await?;
    play.in_state(State::Settled, USDC).await?;
    let all = play.kernel.events(start, 10_000).await?;
    assert_eq!(all.len(), 8);
    assert!(all.is_sorted_by(|a, b| a.cursor < b.cursor));
    let (mut cursor, mut one_by_one) = (start, vec![]);
    while let Some(record) = play.kernel.events(cursor, 1).await?.pop() {
        cursor = record.cursor;
        one_by_one.push(record);
    }
    assert_eq!(one_by_one, all);
    assert_eq!(play.kernel.events(all[2].cursor, 2).await?, all[3..5]);
    assert_eq!(play.kernel.events(cursor, 10_000).await?, []);
    assert_eq!(play.kernel.events(u64::MAX, 10_000).await?, []);
    Ok(())
}

pub async fn transactions_are_found_by_party_role_and_state(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let mut ids = vec![];
    for state in State::ALL {
        ids.push(play.in_state(state, USDC).await?);
    }
    // The other way round: the provider pays.
    let mut request = play.request(USDC).await?;
    (request.requester, request.provider) = (play.provider, play.requester);
    let reverse = play.create(&request).await?;

    let find = async |query: TransactionQuery| -> Result<Vec<TransactionId>> {
        let found = play.kernel.find_transactions(&query).await?;
        for tx in &found {
            assert_eq!(*tx, play.tx(tx.id).await?);
        }
        Ok(found.iter().map(|tx| tx.id).collect())
    };
    let newest_first: Vec<_> = ids.iter().rev().copied().collect();
    let all = [&[reverse], newest_first.as_slice()].concat();
    for (party, as_requester, as_provider) in [
        (play.requester, &newest_first, &vec![reverse]),
        (play.provider, &vec![reverse], &newest_first),
    ] {
        let query = TransactionQuery::of(party);
        assert_eq!(find(query).await?, all);
        assert_eq!(
            find(TransactionQuery { role: Some(Role::Requester), ..query }).await?,
            *as_requester
        );
        assert_eq!(
            find(TransactionQuery { role: Some(Role::Provider), ..query }).await?,
            *as_provider
        );
    }
    for (state, id) in State::ALL.into_iter().zip(ids) {
        let query = TransactionQuery { state: Some(state), ..TransactionQuery::of(play.requester) };
        let expected = if state == State::Initiated { vec![reverse, id] } else { vec![id] };
        assert_eq!(find(query).await?, expected);
        let query = TransactionQuery { role: Some(Role::Requester), ..query };
        assert_eq!(find(query).await?, [id]);
    }
    assert!(find(TransactionQuery::of(play.stranger)).await?.is_empty());
    Ok(())
}

pub async fn transactions_are_found_in_pages_newest_first(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let mut ids = vec![];
    for number in 0..10 {
        // States differ, so that the order is not a state's.
        let state = if number % 3 == 0 { State::Quoted } else { State::Initiated };
        ids.insert(0, play.in_state(state, USDC).await?);
    }
    let page = async |limit, after| -> Result<Vec<TransactionId>> {
        let query = TransactionQuery { limit, after, ..TransactionQuery::of(play.provider) };
        let found = play.kernel.find_transactions(&query).await?;
        Ok(found.into_iter().map(|tx| tx.id).collect())
    };
    let (mut after, mut pages) = (None, vec![]);
    loop {
        let found = page(3, after).await?;
        let Some(last) = found.last() else { break };
        after = Some(*last);
        pages.push(found);
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
    assert_eq!(pages.concat(), ids);
    assert_eq!(page(1_000, None).await?, ids);
    refused(page(1, Some(B256::repeat_byte(0xee))).await, Refusal::TxMissing);
    Ok(())
}

pub async fn every_change_but_an_attestation_is_dated(stage: &dyn Stage) -> Result<()> {
    use State::*;
    let play = Scene::on(stage).await?;
    let id = play.in_state(Initiated, USDC).await?;
    let mut last = play.tx(id).await?.updated_at;
    let mut is_dated = async |expected: bool| -> Result<()> {
        let updated_at = play.tx(id).await?.updated_at;
        assert_eq!(updated_at >= last + 10, expected, "{last}, then {updated_at}");
        last = updated_at;
        stage.advance(10).await
    };
    stage.advance(10).await?;
    play.step(play.provider, id, Quoted).await?;
    is_dated(true).await?;
    play.kernel.accept_quote(play.requester, id, Usdc(2 * USDC)).await?;
    is_dated(true).await?;
    play.link(id).await?;
    is_dated(true).await?;
    play.step(play.provider, id, InProgress).await?;
    is_dated(true).await?;
    play.kernel.release_milestone(play.requester, id, Usdc(USDC)).await?;
    is_dated(true).await?;
    play.step(play.provider, id, Delivered).await?;
    is_dated(true).await?;
    play.step(play.requester, id, Settled).await?;
    is_dated(true).await?;
    play.kernel.anchor_attestation(play.provider, id, B256::repeat_byte(1)).await?;
    is_dated(false).await?;
    play.kernel.release_escrow(play.provider, id).await?;
    is_dated(false).await
}

pub async fn an_escrow_is_read_until_it_is_empty(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for state in State::ALL {
        let escrow = play.kernel.escrow(play.in_state(state, USDC).await?).await?;
        let funded = matches!(
            state,
            State::Committed | State::InProgress | State::Delivered | State::Disputed
        );
        assert_eq!(escrow.active, funded);
        assert_eq!(escrow.remaining(), Usdc(if funded { USDC } else { 0 }));
        assert_eq!(escrow.requester, if funded { play.requester } else { Address::ZERO });
    }
    refused(play.kernel.escrow(B256::repeat_byte(0xee)).await, Refusal::TxMissing);
    Ok(())
}

pub async fn reading_asks_for_a_sensible_number(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for limit in [0, 10_001, u32::MAX] {
        failed(play.kernel.events(0, limit).await, Code::InvalidNumber);
    }
    for limit in [0, 1_001, u32::MAX] {
        let query = TransactionQuery { limit, ..TransactionQuery::of(play.requester) };
        failed(play.kernel.find_transactions(&query).await, Code::InvalidNumber);
    }
    Ok(())
}
