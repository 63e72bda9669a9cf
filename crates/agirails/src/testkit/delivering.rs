//! COMMITTED → IN_PROGRESS → DELIVERED.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::B256;

use super::{
    Stage,
    scenario::{DAY, Flow, HOUR, RESULT, Scene, USDC, refused, word, words},
};
use crate::{
    error::Result,
    protocol::{CreateTransaction, DisputeWindow, Refusal, State, Transaction},
};

pub async fn work_is_started_by_the_provider_and_moves_no_money(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    // What it carries is ignored.
    for data in [vec![], vec![1], vec![0xff; 96]] {
        let id = play.in_state(State::Committed, USDC).await?;
        let (before, old) = (play.purses().await?, play.tx(id).await?);
        play.step_with(play.provider, id, State::InProgress, &data).await?;
        let tx = play.tx(id).await?;
        let updated_at = tx.updated_at;
        assert_eq!(tx, Transaction { state: State::InProgress, updated_at, ..old });
        assert_eq!(play.purses().await? - before, Flow::NONE);
        assert_eq!(play.remaining(id).await?, USDC);
    }
    Ok(())
}

pub async fn only_the_provider_starts_and_only_in_time(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Committed, USDC).await?;
    for other in [play.requester, play.stranger, play.admin] {
        refused(play.step(other, id, State::InProgress).await, Refusal::OnlyProvider);
    }
    play.miss_deadline(id).await?;
    refused(play.step(play.requester, id, State::InProgress).await, Refusal::OnlyProvider);
    refused(play.step(play.provider, id, State::InProgress).await, Refusal::TransactionExpired);
    Ok(())
}

pub async fn a_delivery_opens_the_dispute_window(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, USDC).await?;
    let (before, old) = (play.purses().await?, play.tx(id).await?);
    play.step(play.provider, id, State::Delivered).await?;
    let tx = play.tx(id).await?;
    let updated_at = tx.updated_at;
    let dispute_window = DisputeWindow::EndsAt(updated_at + 172_800);
    let delivered = State::Delivered;
    let result_hash = play.committed(RESULT);
    let expected = Transaction { state: delivered, dispute_window, updated_at, result_hash, ..old };
    assert_eq!(tx, expected);
    assert_eq!(play.purses().await? - before, Flow::NONE);
    Ok(())
}

pub async fn a_delivery_carries_a_window_or_nothing(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let mut windows = vec![(play.delivery(3_600), 3_600), (play.delivery(2_592_000), 2_592_000)];
    if !play.terms.takes_results() {
        // Nothing and zero are two days, whatever the creation said.
        windows.extend([(vec![], 172_800), (word(0).to_vec(), 172_800)]);
    }
    for (data, seconds) in windows {
        let request = play.request(USDC).await?;
        let request = CreateTransaction { dispute_window_seconds: 5 * HOUR, ..request };
        let id = play.create(&request).await?;
        play.link(id).await?;
        play.step(play.provider, id, State::InProgress).await?;
        play.step_with(play.provider, id, State::Delivered, &data).await?;
        let tx = play.tx(id).await?;
        assert_eq!(tx.dispute_window, DisputeWindow::EndsAt(tx.updated_at + seconds));
    }
    let id = play.in_state(State::InProgress, USDC).await?;
    let deliver =
        async |data: Vec<u8>| play.step_with(play.provider, id, State::Delivered, &data).await;
    let (lengths, malformed): (&[usize], _) = match play.terms.takes_results() {
        true => (&[0, 1, 32, 63, 65, 96, 128], Refusal::DeliveryProofMalformed),
        false => (&[1, 31, 33, 64, 96], Refusal::InvalidDisputeWindowProof),
    };
    for length in lengths {
        refused(deliver(vec![0; *length]).await, malformed);
    }
    for seconds in [1, 3_599] {
        refused(deliver(play.delivery(seconds)).await, Refusal::DisputeWindowTooShort);
    }
    for seconds in [2_592_001, u64::MAX] {
        refused(deliver(play.delivery(seconds)).await, Refusal::DisputeWindowTooLong);
    }
    let boundless = [vec![0xff; 32], play.delivery(3_600)[32..].to_vec()].concat();
    refused(deliver(boundless).await, Refusal::DisputeWindowTooLong);
    if play.terms.takes_results() {
        // The window, before the result; zero is no window here.
        refused(deliver(words(&[0, 0])).await, Refusal::DisputeWindowTooShort);
        refused(deliver(words(&[3_599, 0])).await, Refusal::DisputeWindowTooShort);
        refused(deliver(words(&[3_600, 0])).await, Refusal::ResultHashRequired);
        deliver(words(&[3_600, 1])).await?;
        assert_eq!(play.tx(id).await?.result_hash, B256::from(word(1)));
    }
    Ok(())
}

pub async fn only_the_provider_delivers_and_only_in_time(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, USDC).await?;
    for other in [play.requester, play.stranger, play.admin] {
        refused(play.step(other, id, State::Delivered).await, Refusal::OnlyProvider);
    }
    play.miss_delivery(id).await?;
    refused(play.step(play.stranger, id, State::Delivered).await, Refusal::OnlyProvider);
    refused(play.step(play.provider, id, State::Delivered).await, play.too_late());
    let outcome = play.step_with(play.provider, id, State::Delivered, &[1]).await;
    refused(outcome, play.too_late());
    Ok(())
}

pub async fn nothing_is_delivered_before_work_started(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for state in [State::Initiated, State::Quoted, State::Committed] {
        let id = play.in_state(state, USDC).await?;
        let outcome = play.step(play.provider, id, State::Delivered).await;
        refused(outcome, Refusal::InvalidTransition);
    }
    Ok(())
}

pub async fn the_window_is_a_duration_before_delivery_and_a_time_from_then_on(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    use State::*;
    for state in [Initiated, Quoted, Committed, InProgress, Cancelled] {
        let id = play.in_state(state, USDC).await?;
        assert_eq!(play.tx(id).await?.dispute_window, DisputeWindow::Seconds(2 * DAY));
    }
    let id = play.in_state(Committed, USDC).await?;
    play.step(play.provider, id, Cancelled).await?;
    assert_eq!(play.tx(id).await?.dispute_window, DisputeWindow::Seconds(2 * DAY));

    for (state, resolved) in [(Delivered, None), (Settled, None), (Disputed, Some(Cancelled))] {
        let id = play.in_state(Delivered, USDC).await?;
        let end = play.tx(id).await?.dispute_window;
        assert_eq!(end, DisputeWindow::EndsAt(play.tx(id).await?.updated_at + 2 * DAY));
        if state != Delivered {
            play.step(play.requester, id, state).await?;
            assert_eq!(play.tx(id).await?.dispute_window, end);
        }
        if let Some(resolved) = resolved {
            play.step_with(play.admin, id, resolved, &words(&[USDC, 0, 0])).await?;
            assert_eq!(play.tx(id).await?.dispute_window, end);
        }
    }
    Ok(())
}

pub async fn delivery_ends_with_the_deadline_to_the_second(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let first = play.now().await? + DAY;
    let commit = async |deadline| {
        let id = play.create(&play.request_until(deadline).await?).await?;
        play.link(id).await.map(|_| id)
    };
    let start = async |deadline| {
        let id = commit(deadline).await?;
        play.step(play.provider, id, State::InProgress).await.map(|()| id)
    };
    let (punctual, late) = (start(first).await?, start(first + 10).await?);
    let (punctual_start, late_start) = (commit(first + 20).await?, commit(first + 30).await?);

    // The kernel's grace is of use to what has begun.
    let grace = play.terms.delivered_until(first) - first;
    if grace == 0 {
        stage.at(first).await?;
        play.step(play.provider, punctual, State::Delivered).await?;
        stage.at(first + 11).await?;
        refused(play.step(play.provider, late, State::Delivered).await, play.too_late());
    }
    stage.at(first + 20).await?;
    play.step(play.provider, punctual_start, State::InProgress).await?;
    stage.at(first + 31).await?;
    let outcome = play.step(play.provider, late_start, State::InProgress).await;
    refused(outcome, Refusal::TransactionExpired);
    if grace > 0 {
        stage.at(first + grace).await?;
        play.step(play.provider, punctual, State::Delivered).await?;
        stage.at(first + 10 + grace + 1).await?;
        refused(play.step(play.provider, late, State::Delivered).await, play.too_late());
    }
    let end = DisputeWindow::EndsAt(first + grace + 172_800);
    assert_eq!(play.tx(punctual).await?.dispute_window, end);
    Ok(())
}
