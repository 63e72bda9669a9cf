//! INITIATED, QUOTED, COMMITTED, IN_PROGRESS → CANCELLED.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use super::{
    Stage,
    scenario::{DAY, Flow, Scene, USDC, refused},
};
use crate::{
    error::Result,
    kernel::Escrow,
    protocol::{Refusal, State, Transaction, Usdc},
};

pub async fn the_requester_calls_off_what_is_not_funded(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for late in [false, true] {
        for state in [State::Initiated, State::Quoted] {
            let id = play.in_state(state, USDC).await?;
            if late {
                play.miss_deadline(id).await?;
            }
            for other in [play.provider, play.stranger, play.admin] {
                let outcome = play.step(other, id, State::Cancelled).await;
                refused(outcome, Refusal::OnlyRequesterCanCancel);
            }
            let (before, old) = (play.purses().await?, play.tx(id).await?);
            // What it carries is ignored.
            play.step_with(play.requester, id, State::Cancelled, &[9; 33]).await?;
            let tx = play.tx(id).await?;
            let updated_at = tx.updated_at;
            assert_eq!(tx, Transaction { state: State::Cancelled, updated_at, ..old });
            assert_eq!(play.purses().await? - before, Flow::NONE);
        }
    }
    Ok(())
}

pub async fn the_provider_gives_a_commitment_back_in_full(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for (amount, late) in [(50_000, false), (100_000_000, false), (100_000_000, true)] {
        let id = play.in_state(State::Committed, amount).await?;
        if late {
            play.miss_deadline(id).await?;
        }
        let before = play.purses().await?;
        play.step(play.provider, id, State::Cancelled).await?;
        let back = i128::from(amount);
        let refund = Flow { requester: back, vault: -back, ..Flow::NONE };
        assert_eq!(play.purses().await? - before, refund);
        assert_eq!(play.state(id).await?, State::Cancelled);
        assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
    }
    Ok(())
}

pub async fn the_requester_takes_a_commitment_back_after_the_deadline_for_a_penalty(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    // 5 % to the provider, which pays the fee of it.
    for (amount, back, net, fee, treasury) in [
        (1_000_000, 950_000, 0, 50_000, 50),
        (1_000_019, 950_019, 0, 50_000, 50),
        (1_000_020, 950_019, 1, 50_000, 50),
        (100_000_000, 95_000_000, 4_950_000, 50_000, 50),
        (200_000_000, 190_000_000, 9_900_000, 100_000, 100),
    ] {
        let id = play.in_state(State::Committed, amount).await?;
        let cancel = async || play.step(play.requester, id, State::Cancelled).await;
        refused(cancel().await, Refusal::DeadlineNotReached);
        play.miss_deadline(id).await?;
        let before = play.purses().await?;
        cancel().await?;
        let moved = Flow {
            requester: back,
            provider: net,
            vault: -i128::from(amount),
            ..play.fee(fee, treasury)
        };
        assert_eq!(play.purses().await? - before, moved, "{amount}");
        assert_eq!(play.state(id).await?, State::Cancelled);
        assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
    }
    Ok(())
}

pub async fn a_commitment_below_one_usdc_is_taken_back_from_f6_on_only(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let is_refused = play.terms.recovery_grace_seconds().is_none();
    for amount in [50_000, 100_000, 999_999] {
        let id = play.in_state(State::Committed, amount).await?;
        let cancel = async |by| play.step(by, id, State::Cancelled).await;
        refused(cancel(play.requester).await, Refusal::DeadlineNotReached);
        play.miss_deadline(id).await?;
        if !is_refused {
            // From F-6 on it costs the penalty, which is all fee.
            let (before, penalty) = (play.purses().await?, i128::from(amount / 20));
            cancel(play.requester).await?;
            let (vault, requester) = (-i128::from(amount), i128::from(amount) - penalty);
            let moved = Flow { requester, vault, ..play.fee(penalty, penalty / 1_000) };
            assert_eq!(play.purses().await? - before, moved, "{amount}");
            continue;
        }
        refused(cancel(play.requester).await, Refusal::FeeExceedsAmount);
        stage.advance(400 * DAY).await?;
        refused(cancel(play.requester).await, Refusal::FeeExceedsAmount);
        // The provider alone can give it back.
        let before = play.purses().await?;
        cancel(play.provider).await?;
        let back = i128::from(amount);
        let refund = Flow { requester: back, vault: -back, ..Flow::NONE };
        assert_eq!(play.purses().await? - before, refund);
    }
    Ok(())
}

pub async fn once_work_started_only_the_provider_gives_back(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, 10 * USDC).await?;
    let cancel = async |by| play.step(by, id, State::Cancelled).await;
    refused(cancel(play.requester).await, Refusal::CannotCancelAfterWorkStarted);
    play.miss_deadline(id).await?;
    refused(cancel(play.requester).await, Refusal::CannotCancelAfterWorkStarted);
    stage.advance(400 * DAY).await?;
    refused(cancel(play.requester).await, Refusal::CannotCancelAfterWorkStarted);
    let before = play.purses().await?;
    cancel(play.provider).await?;
    let refund = Flow { requester: 10_000_000, vault: -10_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, refund);

    // What a milestone paid stays paid.
    let id = play.in_state(State::InProgress, 10 * USDC).await?;
    play.kernel.release_milestone(play.requester, id, Usdc(4 * USDC)).await?;
    let before = play.purses().await?;
    play.step(play.provider, id, State::Cancelled).await?;
    let refund = Flow { requester: 6_000_000, vault: -6_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, refund);
    Ok(())
}

pub async fn a_late_provider_can_only_give_back(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, USDC).await?;
    play.miss_delivery(id).await?;
    refused(play.step(play.provider, id, State::Delivered).await, play.too_late());
    for to in [State::Settled, State::Disputed] {
        refused(play.step(play.provider, id, to).await, Refusal::InvalidTransition);
    }
    play.step(play.provider, id, State::Cancelled).await?;
    let id = play.in_state(State::Committed, USDC).await?;
    play.miss_deadline(id).await?;
    refused(play.step(play.provider, id, State::InProgress).await, Refusal::TransactionExpired);
    play.step(play.provider, id, State::Cancelled).await?;
    Ok(())
}

pub async fn strangers_cancel_nothing(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for state in [State::Committed, State::InProgress] {
        let id = play.in_state(state, USDC).await?;
        for other in [play.stranger, play.admin] {
            refused(play.step(other, id, State::Cancelled).await, Refusal::PartyOnly);
        }
        play.miss_deadline(id).await?;
        refused(play.step(play.stranger, id, State::Cancelled).await, Refusal::PartyOnly);
    }
    let id = play.in_state(State::Delivered, USDC).await?;
    for anyone in [play.requester, play.provider, play.stranger, play.admin] {
        refused(play.step(anyone, id, State::Cancelled).await, Refusal::InvalidTransition);
    }
    Ok(())
}

pub async fn the_requester_takes_back_from_the_deadlines_second_on(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let deadline = play.now().await? + DAY;
    let mut ids = vec![];
    for deadline in [deadline, deadline + 10] {
        let id = play.create(&play.request_until(deadline).await?).await?;
        play.link(id).await?;
        ids.push(id);
    }
    stage.at(deadline - 1).await?;
    let outcome = play.step(play.requester, ids[0], State::Cancelled).await;
    refused(outcome, Refusal::DeadlineNotReached);
    stage.at(deadline + 10).await?;
    play.step(play.requester, ids[1], State::Cancelled).await?;
    assert_eq!(play.tx(ids[1]).await?.updated_at, deadline + 10);
    Ok(())
}
