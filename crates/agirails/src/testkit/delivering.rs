//! COMMITTED → IN_PROGRESS → DELIVERED.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use super::{
    Stage,
    scenario::{DAY, Flow, HOUR, Scene, USDC, refused, word, words},
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
    assert_eq!(tx, Transaction { state: delivered, dispute_window, updated_at, ..old });
    assert_eq!(play.purses().await? - before, Flow::NONE);
    Ok(())
}

pub async fn a_delivery_carries_a_window_or_nothing(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    // Nothing and zero are two days, whatever the creation said.
    for (data, seconds) in [
        (vec![], 172_800),
        (word(0).to_vec(), 172_800),
        (word(3_600).to_vec(), 3_600),
        (word(2_592_000).to_vec(), 2_592_000),
    ] {
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
    for length in [1, 31, 33, 64, 96] {
        refused(deliver(vec![0; length]).await, Refusal::InvalidDisputeWindowProof);
    }
    for seconds in [1, 3_599] {
        refused(deliver(words(&[seconds])).await, Refusal::DisputeWindowTooShort);
    }
    for seconds in [2_592_001, u64::MAX] {
        refused(deliver(words(&[seconds])).await, Refusal::DisputeWindowTooLong);
    }
    refused(deliver(vec![0xff; 32]).await, Refusal::DisputeWindowTooLong);
    Ok(())
}

pub async fn only_the_provider_delivers_and_only_in_time(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, USDC).await?;
    for other in [play.requester, play.stranger, play.admin] {
        refused(play.step(other, id, State::Delivered).await, Refusal::OnlyProvider);
    }
    play.miss_deadline(id).await?;
    refused(play.step(play.stranger, id, State::Delivered).await, Refusal::OnlyProvider);
    refused(play.step(play.provider, id, State::Delivered).await, Refusal::TransactionExpired);
    let outcome = play.step_with(play.provider, id, State::Delivered, &[1]).await;
    refused(outcome, Refusal::TransactionExpired);
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
            play.step(play.admin, id, resolved).await?;
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

    stage.at(first).await?;
    play.step(play.provider, punctual, State::Delivered).await?;
    let end = DisputeWindow::EndsAt(first + 172_800);
    assert_eq!(play.tx(punctual).await?.dispute_window, end);
    stage.at(first + 11).await?;
    refused(play.step(play.provider, late, State::Delivered).await, Refusal::TransactionExpired);

    stage.at(first + 20).await?;
    play.step(play.provider, punctual_start, State::InProgress).await?;
    stage.at(first + 31).await?;
    let outcome = play.step(play.provider, late_start, State::InProgress).await;
    refused(outcome, Refusal::TransactionExpired);
    Ok(())
}
