//! DELIVERED → SETTLED, and `releaseEscrow`.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::{Address, B256};

use super::{
    Stage,
    scenario::{Flow, HOUR, Scene, USDC, refused},
};
use crate::{
    error::{Error, Result},
    kernel::Escrow,
    protocol::{Refusal, State, TransactionId},
};

pub async fn settling_pays_the_provider_less_the_fee(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    // 1 %, at least 0.05 USDC; of the fee a thousandth to the treasury, rounded down.
    for (amount, net, fee, treasury) in [
        (100_000, 50_000, 50_000, 50),
        (1_000_000, 950_000, 50_000, 50),
        (5_000_000, 4_950_000, 50_000, 50),
        (5_000_099, 4_950_099, 50_000, 50),
        (5_000_100, 4_950_099, 50_001, 50),
        (12_345_678, 12_222_222, 123_456, 123),
        (100_000_000, 99_000_000, 1_000_000, 1_000),
    ] {
        let id = play.in_state(State::Delivered, amount).await?;
        let before = play.purses().await?;
        play.step(play.requester, id, State::Settled).await?;
        let vault = -i128::from(amount);
        let paid = Flow { provider: net, vault, ..play.fee(fee, treasury) };
        assert_eq!(play.purses().await? - before, paid, "{amount}");
        assert_eq!(play.state(id).await?, State::Settled);
        assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
    }
    Ok(())
}

pub async fn a_settlement_of_five_cents_pays_the_provider_nothing(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for (amount, net) in [(50_000, 0), (50_001, 1)] {
        let id = play.in_state(State::Delivered, amount).await?;
        let before = play.purses().await?;
        play.step(play.requester, id, State::Settled).await?;
        let paid = Flow { provider: net, vault: -i128::from(amount), ..play.fee(50_000, 50) };
        assert_eq!(play.purses().await? - before, paid);
    }
    Ok(())
}

pub async fn the_requester_settles_at_any_time(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Delivered, USDC).await?;
    // What it carries is ignored.
    play.step_with(play.requester, id, State::Settled, &[0xff; 31]).await?;
    let id = play.in_state(State::Delivered, USDC).await?;
    play.miss_deadline(id).await?;
    play.step(play.requester, id, State::Settled).await?;
    let id = play.in_state(State::Delivered, USDC).await?;
    play.miss_window(id).await?;
    play.step(play.requester, id, State::Settled).await?;
    Ok(())
}

pub async fn the_provider_settles_once_the_window_has_passed(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Delivered, USDC).await?;
    let settle = async || play.step(play.provider, id, State::Settled).await;
    refused(settle().await, Refusal::RequesterDecisionPending);
    play.miss_deadline(id).await?;
    refused(settle().await, Refusal::RequesterDecisionPending);
    play.miss_window(id).await?;
    let before = play.purses().await?;
    settle().await?;
    let paid = Flow { provider: 950_000, vault: -1_000_000, ..play.fee(50_000, 50) };
    assert_eq!(play.purses().await? - before, paid);
    Ok(())
}

pub async fn strangers_settle_once_the_window_has_passed(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Delivered, USDC).await?;
    for other in [play.stranger, play.admin] {
        refused(play.step(other, id, State::Settled).await, Refusal::NotAuthorizedToSettle);
    }
    play.miss_window(id).await?;
    let before = play.purses().await?;
    play.step(play.stranger, id, State::Settled).await?;
    let paid = Flow { provider: 950_000, vault: -1_000_000, ..play.fee(50_000, 50) };
    assert_eq!(play.purses().await? - before, paid);
    Ok(())
}

pub async fn settling_is_open_to_all_after_the_windows_last_second(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let deliver = async |hours: u64| {
        let id = play.in_state(State::InProgress, USDC).await?;
        let window = play.delivery(hours * HOUR);
        play.step_with(play.provider, id, State::Delivered, &window).await?;
        Ok::<_, Error>((id, play.tx(id).await?.dispute_window.to_contract()))
    };
    let settle =
        async |by: Address, (id, _): (TransactionId, u64)| play.step(by, id, State::Settled).await;
    let (first, second) = (deliver(1).await?, deliver(2).await?);
    let (third, fourth) = (deliver(3).await?, deliver(4).await?);
    stage.at(first.1).await?;
    refused(settle(play.provider, first).await, Refusal::RequesterDecisionPending);
    stage.at(second.1).await?;
    refused(settle(play.stranger, second).await, Refusal::NotAuthorizedToSettle);
    stage.at(third.1 + 1).await?;
    settle(play.provider, third).await?;
    stage.at(fourth.1 + 1).await?;
    settle(play.stranger, fourth).await?;
    Ok(())
}

pub async fn releasing_a_settled_escrow_again_finds_nothing_left(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Settled, USDC).await?;
    let (before, old, cursor) = (play.purses().await?, play.tx(id).await?, play.cursor().await?);
    for anyone in [play.requester, play.provider, play.stranger] {
        play.kernel.release_escrow(anyone, id).await?;
    }
    assert_eq!(play.purses().await? - before, Flow::NONE);
    assert_eq!(play.tx(id).await?, old);
    assert_eq!(play.events_after(cursor).await?, []);
    Ok(())
}

pub async fn nothing_is_released_before_settlement(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let release = async |id| play.kernel.release_escrow(play.provider, id).await;
    refused(release(B256::repeat_byte(0xee)).await, Refusal::TxMissing);
    for state in State::ALL.into_iter().filter(|state| *state != State::Settled) {
        let id = play.in_state(state, USDC).await?;
        refused(release(id).await, Refusal::NotSettled);
    }
    Ok(())
}
