//! The table of transitions as a whole.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::B256;

use super::{
    Stage,
    scenario::{Scene, USDC, refused, words},
};
use crate::{
    error::Result,
    protocol::{LinkEscrow, Refusal, State, Usdc},
};
use State::*;

/// Every way by `transitionState`.
const WAYS: [(State, State); 11] = [
    (Initiated, Quoted),
    (Committed, InProgress),
    (InProgress, Delivered),
    (Delivered, Settled),
    (Delivered, Disputed),
    (Disputed, Settled),
    (Disputed, Cancelled),
    (Initiated, Cancelled),
    (Quoted, Cancelled),
    (Committed, Cancelled),
    (InProgress, Cancelled),
];

pub async fn every_step_that_the_table_does_not_know_is_refused(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for from in State::ALL {
        let id = play.in_state(from, USDC).await?;
        for to in State::ALL.into_iter().filter(|to| !WAYS.contains(&(from, *to))) {
            let word = if from == to { Refusal::NoOp } else { Refusal::InvalidTransition };
            for anyone in [play.requester, play.provider, play.stranger, play.admin] {
                refused(play.step_with(anyone, id, to, &[1]).await, word);
            }
        }
    }
    Ok(())
}

pub async fn terminal_states_are_left_by_nobody(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for terminal in [Settled, Cancelled] {
        let id = play.in_state(terminal, USDC).await?;
        play.miss_window(id).await?;
        play.miss_deadline(id).await?;
        for to in State::ALL.into_iter().filter(|to| *to != terminal) {
            for anyone in [play.requester, play.provider, play.stranger, play.admin] {
                refused(play.step(anyone, id, to).await, Refusal::InvalidTransition);
            }
        }
    }
    Ok(())
}

pub async fn until_the_deadline_only_the_provider_moves_a_commitment(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    for state in [Committed, InProgress] {
        let id = play.in_state(state, USDC).await?;
        let old = play.tx(id).await?;
        for other in [play.requester, play.stranger, play.admin] {
            for to in State::ALL {
                assert!(play.step(other, id, to).await.is_err(), "{state} to {to} by {other}");
            }
            let link = LinkEscrow { escrow_id: Some(B256::repeat_byte(3)), ..Default::default() };
            assert!(play.kernel.link_escrow(other, id, link).await.is_err());
            assert!(play.kernel.accept_quote(other, id, Usdc(USDC)).await.is_err());
            assert!(play.kernel.release_escrow(other, id).await.is_err());
            assert!(play.kernel.anchor_attestation(other, id, B256::repeat_byte(3)).await.is_err());
        }
        assert_eq!(play.tx(id).await?, old);
    }
    Ok(())
}

pub async fn moves_are_refused_in_the_order_of_the_checks(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (requester, provider, stranger) = (play.requester, play.provider, play.stranger);
    let bad: &[u8] = &[1; 31];
    let step = async |by, id, to, data| play.step_with(by, id, to, data).await;

    let initiated = play.in_state(Initiated, USDC).await?;
    let committed = play.in_state(Committed, USDC / 2).await?;
    let in_progress = play.in_state(InProgress, USDC).await?;
    let delivered = play.in_state(Delivered, USDC).await?;
    let disputed = play.in_state(Disputed, USDC).await?;

    // Who, before what it carries.
    refused(step(requester, initiated, Quoted, bad).await, Refusal::OnlyProvider);
    refused(step(provider, initiated, Quoted, bad).await, Refusal::QuoteHashLength);
    refused(step(requester, in_progress, Delivered, bad).await, Refusal::OnlyProvider);
    let malformed = match play.terms.takes_results() {
        true => Refusal::DeliveryProofMalformed,
        false => Refusal::InvalidDisputeWindowProof,
    };
    refused(step(provider, in_progress, Delivered, bad).await, malformed);
    refused(step(requester, disputed, Settled, bad).await, Refusal::ResolverOnly);
    refused(step(play.admin, disputed, Settled, bad).await, Refusal::InvalidResolutionProof);
    // Who, before when.
    refused(step(stranger, committed, Cancelled, &[]).await, Refusal::PartyOnly);
    refused(step(stranger, delivered, Settled, &[]).await, Refusal::NotAuthorizedToSettle);
    // When, before the money.
    refused(step(requester, committed, Cancelled, &[]).await, Refusal::DeadlineNotReached);

    // The same again when all time is up.
    play.miss_window(delivered).await?;
    for id in [initiated, committed, in_progress] {
        play.miss_delivery(id).await?;
    }
    // The same state and no such way, before all else.
    refused(step(stranger, initiated, Initiated, bad).await, Refusal::NoOp);
    refused(step(stranger, initiated, Delivered, bad).await, Refusal::InvalidTransition);
    refused(step(stranger, committed, Committed, bad).await, Refusal::NoOp);
    refused(step(stranger, committed, Delivered, bad).await, Refusal::InvalidTransition);
    // Who, before when.
    refused(step(stranger, initiated, Quoted, bad).await, Refusal::OnlyProvider);
    refused(step(stranger, committed, InProgress, bad).await, Refusal::OnlyProvider);
    refused(step(stranger, in_progress, Delivered, bad).await, Refusal::OnlyProvider);
    refused(step(stranger, delivered, Disputed, bad).await, Refusal::PartyOnly);
    refused(step(provider, initiated, Cancelled, &[]).await, Refusal::OnlyRequesterCanCancel);
    // When, before what it carries and before the money.
    refused(step(provider, initiated, Quoted, bad).await, Refusal::TransactionExpired);
    refused(step(provider, in_progress, Delivered, bad).await, play.too_late());
    refused(step(requester, delivered, Disputed, bad).await, Refusal::DisputeWindowClosed);
    if play.terms.recovery_grace_seconds().is_none() {
        refused(step(requester, committed, Cancelled, &[]).await, Refusal::FeeExceedsAmount);
    }
    Ok(())
}

pub async fn an_unknown_id_is_refused_everywhere(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for id in [B256::ZERO, B256::repeat_byte(0xee), B256::repeat_byte(0xff)] {
        refused(play.kernel.get_transaction(id).await, Refusal::TxMissing);
        for to in State::ALL {
            refused(play.step_with(play.stranger, id, to, &[1]).await, Refusal::TxMissing);
        }
        let escrow_id = Some(B256::repeat_byte(0x77));
        let link = LinkEscrow { escrow_id, ..LinkEscrow::default() };
        let outcome = play.kernel.link_escrow(play.requester, id, link).await;
        refused(outcome, Refusal::TxMissing);
        let outcome = play.kernel.accept_quote(play.requester, id, Usdc(USDC)).await;
        refused(outcome, Refusal::TxMissing);
        let outcome = play.kernel.release_milestone(play.requester, id, Usdc(USDC)).await;
        refused(outcome, Refusal::TxMissing);
        refused(play.kernel.release_escrow(play.requester, id).await, Refusal::TxMissing);
        let uid = B256::repeat_byte(1);
        let outcome = play.kernel.anchor_attestation(play.requester, id, uid).await;
        refused(outcome, Refusal::TxMissing);
    }
    let resolution = words(&[USDC, 0, 0]);
    let outcome = play.step_with(play.admin, B256::ZERO, Settled, &resolution).await;
    refused(outcome, Refusal::TxMissing);
    Ok(())
}
