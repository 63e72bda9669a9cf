//! A paused kernel.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::{Address, B256};

use super::{
    Stage,
    scenario::{Scene, USDC, refused},
};
use crate::{
    error::Result,
    protocol::{CreateTransaction, Event, LinkEscrow, Refusal, State, Usdc},
};

pub async fn a_pause_comes_before_all_other_words(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (unknown, kernel) = (B256::repeat_byte(0xee), play.kernel);
    let mut ids = vec![(unknown, play.stranger)];
    for state in State::ALL {
        ids.push((play.in_state(state, USDC).await?, play.requester));
    }
    let sound = play.request(USDC).await?;
    let bad = CreateTransaction::new(play.stranger, Address::ZERO, Usdc(0), 0);
    let cursor = play.cursor().await?;

    stage.set_paused(true).await?;
    refused(kernel.create_transaction(play.requester, &sound).await, Refusal::KernelPaused);
    refused(kernel.create_transaction(play.requester, &bad).await, Refusal::KernelPaused);
    for (id, sender) in ids.iter().copied() {
        for escrow_contract in [None, Some(Address::ZERO)] {
            let link = LinkEscrow { escrow_contract, ..LinkEscrow::default() };
            refused(kernel.link_escrow(sender, id, link).await, Refusal::KernelPaused);
        }
        for amount in [0, USDC] {
            let outcome = kernel.accept_quote(sender, id, Usdc(amount)).await;
            refused(outcome, Refusal::KernelPaused);
            let outcome = kernel.release_milestone(sender, id, Usdc(amount)).await;
            refused(outcome, Refusal::KernelPaused);
        }
        for to in State::ALL {
            refused(play.step_with(sender, id, to, &[1]).await, Refusal::KernelPaused);
        }
        for uid in [B256::ZERO, B256::repeat_byte(1)] {
            refused(kernel.anchor_attestation(sender, id, uid).await, Refusal::KernelPaused);
        }
    }
    stage.set_paused(false).await?;

    let found = play.events_after(cursor).await?;
    assert!(matches!(found[..], [Event::KernelPaused { .. }, Event::KernelUnpaused { .. }]));
    play.create(&sound).await?;
    Ok(())
}

pub async fn a_pause_does_not_hold_back_settled_money_nor_reading(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let settled = play.in_state(State::Settled, USDC).await?;
    let delivered = play.in_state(State::Delivered, USDC).await?;
    stage.set_paused(true).await?;
    let released = play.kernel.release_escrow(play.provider, settled).await;
    let unsettled = play.kernel.release_escrow(play.provider, delivered).await;
    let unknown = play.kernel.release_escrow(play.provider, B256::repeat_byte(0xee)).await;
    let (read, escrow) = (play.tx(settled).await, play.kernel.escrow(delivered).await);
    let balance = play.kernel.balance(play.requester).await;
    stage.set_paused(false).await?;
    released?;
    refused(unsettled, Refusal::NotSettled);
    refused(unknown, Refusal::TxMissing);
    assert_eq!(read?.state, State::Settled);
    assert_eq!(escrow?.remaining(), Usdc(USDC));
    balance?;
    Ok(())
}
