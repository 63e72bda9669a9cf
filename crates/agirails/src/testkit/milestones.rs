//! `releaseMilestone`.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::B256;

use super::{
    Stage,
    scenario::{Flow, Scene, USDC, refused},
};
use crate::{
    error::Result,
    kernel::Escrow,
    protocol::{Refusal, State, Transaction, Usdc},
};

pub async fn a_milestone_pays_part_and_its_own_fee(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, 100 * USDC).await?;
    let old = play.tx(id).await?;
    let mut left = 100 * USDC;
    for (amount, net, fee, treasury) in [
        (50_000, 0, 50_000, 50),
        (1_000_000, 950_000, 50_000, 50),
        (20_000_000, 19_800_000, 200_000, 200),
    ] {
        let before = play.purses().await?;
        play.kernel.release_milestone(play.requester, id, Usdc(amount)).await?;
        let paid = Flow { provider: net, vault: -i128::from(amount), ..play.fee(fee, treasury) };
        assert_eq!(play.purses().await? - before, paid);
        left -= amount;
        let escrow = play.kernel.escrow(id).await?;
        assert_eq!((escrow.remaining(), escrow.released), (Usdc(left), Usdc(100 * USDC - left)));
        assert!(escrow.active);
    }
    let tx = play.tx(id).await?;
    let updated_at = tx.updated_at;
    assert_eq!(tx, Transaction { updated_at, ..old });

    // The settlement pays the rest, and its fee.
    play.step(play.provider, id, State::Delivered).await?;
    let before = play.purses().await?;
    play.step(play.requester, id, State::Settled).await?;
    let rest = Flow { provider: 78_160_500, vault: -78_950_000, ..play.fee(789_500, 789) };
    assert_eq!(play.purses().await? - before, rest);
    Ok(())
}

pub async fn milestones_can_pay_everything(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let in_progress = async || -> Result<B256> {
        let id = play.in_state(State::InProgress, 2 * USDC).await?;
        play.kernel.release_milestone(play.requester, id, Usdc(2 * USDC)).await?;
        assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
        let outcome = play.kernel.release_milestone(play.requester, id, Usdc(50_000)).await;
        refused(outcome, Refusal::InsufficientEscrow);
        Ok(id)
    };
    // What ends afterwards moves nothing.
    let id = in_progress().await?;
    let before = play.purses().await?;
    play.step(play.provider, id, State::Delivered).await?;
    play.step(play.requester, id, State::Settled).await?;
    play.kernel.release_escrow(play.provider, id).await?;
    let id = in_progress().await?;
    play.step(play.provider, id, State::Cancelled).await?;
    assert_eq!(play.state(id).await?, State::Cancelled);
    let milestone = Flow { requester: -2_000_000, provider: 1_950_000, ..play.fee(50_000, 50) };
    assert_eq!(play.purses().await? - before, milestone);
    Ok(())
}

pub async fn a_milestone_is_paid_after_the_deadline_too(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, 2 * USDC).await?;
    play.miss_deadline(id).await?;
    let before = play.purses().await?;
    play.kernel.release_milestone(play.requester, id, Usdc(USDC)).await?;
    let paid = Flow { provider: 950_000, vault: -1_000_000, ..play.fee(50_000, 50) };
    assert_eq!(play.purses().await? - before, paid);
    Ok(())
}

pub async fn milestones_are_refused_in_the_order_of_the_checks(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let unknown = B256::repeat_byte(0xee);
    let id = play.in_state(State::InProgress, USDC).await?;
    let release =
        async |sender, id, amount| play.kernel.release_milestone(sender, id, Usdc(amount)).await;
    refused(release(play.stranger, unknown, 0).await, Refusal::AmountZero);
    refused(release(play.stranger, unknown, 2 * USDC).await, Refusal::TxMissing);
    for state in State::ALL.into_iter().filter(|state| *state != State::InProgress) {
        let id = play.in_state(state, USDC).await?;
        refused(release(play.stranger, id, 2 * USDC).await, Refusal::NotInProgress);
        refused(release(play.requester, id, 100_000).await, Refusal::NotInProgress);
    }
    for other in [play.stranger, play.provider, play.admin] {
        refused(release(other, id, 2 * USDC).await, Refusal::OnlyRequester);
        refused(release(other, id, 1).await, Refusal::OnlyRequester);
    }
    for amount in [USDC + 1, u64::MAX] {
        refused(release(play.requester, id, amount).await, Refusal::InsufficientEscrow);
    }
    if play.terms.recovery_grace_seconds().is_none() {
        for amount in [1, 49_999] {
            refused(release(play.requester, id, amount).await, Refusal::FeeExceedsAmount);
        }
        // Too little for the fee and more than is left.
        release(play.requester, id, USDC - 10).await?;
        refused(release(play.requester, id, 11).await, Refusal::InsufficientEscrow);
        refused(release(play.requester, id, 10).await, Refusal::FeeExceedsAmount);
    }
    Ok(())
}

pub async fn from_f6_on_a_payout_below_the_least_fee_is_all_fee(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    if play.terms.recovery_grace_seconds().is_none() {
        return Ok(());
    }
    let id = play.in_state(State::InProgress, USDC).await?;
    for (amount, treasury) in [(1, 0), (999, 0), (1_000, 1), (40_000, 40), (49_999, 49)] {
        let before = play.purses().await?;
        play.kernel.release_milestone(play.requester, id, Usdc(amount)).await?;
        let amount = i128::from(amount);
        let paid = Flow { vault: -amount, ..play.fee(amount, treasury) };
        assert_eq!(play.purses().await? - before, paid, "{amount}");
    }
    Ok(())
}
