//! IN_PROGRESS → CANCELLED by anybody, once deadline and grace have passed; and what AIP-14c commits
//! to.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::B256;

use super::{
    Stage,
    scenario::{DAY, Flow, RESULT, Scene, USDC, assert_events, failed, refused},
};
use crate::{
    error::{Code, Error, Result},
    kernel::Escrow,
    protocol::{CreateTransaction, Event, Refusal, State, Transaction, TransactionId, Usdc},
};

/// Whether this kernel recovers anything; where it does not, it says so and nothing else.
async fn recovers(play: &Scene<'_>) -> Result<bool> {
    if play.terms.recovery_grace_seconds().is_some() {
        return Ok(true);
    }
    let id = play.in_state(State::InProgress, USDC).await?;
    stage_long_after(play, id).await?;
    for id in [id, B256::repeat_byte(0xee)] {
        let outcome = play.kernel.recover_stalled(play.requester, id).await;
        failed(outcome, Code::UnsupportedKernel);
    }
    assert_eq!(play.state(id).await?, State::InProgress);
    Ok(false)
}

async fn stage_long_after(play: &Scene<'_>, id: TransactionId) -> Result<()> {
    play.miss_delivery(id).await?;
    play.stage.advance(400 * DAY).await
}

pub async fn from_f6_on_anybody_recovers_abandoned_work_for_its_requester(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    if !recovers(&play).await? {
        return Ok(());
    }
    for by in [play.requester, play.provider, play.stranger, play.admin] {
        let id = play.in_state(State::InProgress, 10 * USDC).await?;
        play.kernel.release_milestone(play.requester, id, Usdc(4 * USDC)).await?;
        let early = play.kernel.recover_stalled(by, id).await;
        refused(early, Refusal::RecoveryNotYetAvailable);
        play.miss_deadline(id).await?;
        let early = play.kernel.recover_stalled(by, id).await;
        refused(early, Refusal::RecoveryNotYetAvailable);
        play.miss_delivery(id).await?;

        let (before, old, cursor) =
            (play.purses().await?, play.tx(id).await?, play.cursor().await?);
        play.kernel.recover_stalled(by, id).await?;
        // All of what is left, without fee and penalty.
        let back = Flow { requester: 6_000_000, vault: -6_000_000, ..Flow::NONE };
        assert_eq!(play.purses().await? - before, back);
        let tx = play.tx(id).await?;
        let updated_at = tx.updated_at;
        assert_eq!(tx, Transaction { state: State::Cancelled, updated_at, ..old });
        assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
        let amount = Usdc(6 * USDC);
        let told = [
            Event::StateTransitioned {
                transaction_id: id,
                old_state: State::InProgress,
                new_state: State::Cancelled,
                triggered_by: by,
                timestamp: 0,
            },
            Event::StalledInProgressRecovered {
                transaction_id: id,
                requester: play.requester,
                amount,
            },
            Event::EscrowRefunded {
                transaction_id: id,
                recipient: play.requester,
                amount,
                timestamp: 0,
            },
        ];
        let found = play.events_after(cursor).await?;
        assert_events(&found, &told, updated_at, updated_at);
        let again = play.kernel.recover_stalled(by, id).await;
        refused(again, Refusal::NotInProgress);
    }
    Ok(())
}

pub async fn only_begun_work_is_recovered_and_a_pause_does_not_stop_it(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    if !recovers(&play).await? {
        return Ok(());
    }
    let recover = async |id| play.kernel.recover_stalled(play.stranger, id).await;
    refused(recover(B256::repeat_byte(0xee)).await, Refusal::TxMissing);
    for state in State::ALL.into_iter().filter(|state| *state != State::InProgress) {
        let id = play.in_state(state, USDC).await?;
        play.miss_delivery(id).await?;
        refused(recover(id).await, Refusal::NotInProgress);
    }
    // An emptied escrow just ends.
    let id = play.in_state(State::InProgress, USDC).await?;
    play.kernel.release_milestone(play.requester, id, Usdc(USDC)).await?;
    play.miss_delivery(id).await?;
    let before = play.purses().await?;
    recover(id).await?;
    assert_eq!(play.purses().await? - before, Flow::NONE);
    assert_eq!(play.state(id).await?, State::Cancelled);

    let id = play.in_state(State::InProgress, USDC).await?;
    play.miss_delivery(id).await?;
    stage.set_paused(true).await?;
    let recovered = recover(id).await;
    stage.set_paused(false).await?;
    recovered?;
    Ok(())
}

pub async fn a_late_provider_gives_back_until_somebody_recovers(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, USDC).await?;
    stage_long_after(&play, id).await?;
    let before = play.purses().await?;
    play.step(play.provider, id, State::Cancelled).await?;
    let back = Flow { requester: 1_000_000, vault: -1_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, back);
    Ok(())
}

/// Deliver and recover exclude each other to the second.
pub async fn work_is_recovered_from_the_second_after_its_last_delivery(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    if !recovers(&play).await? {
        return Ok(());
    }
    let first = play.now().await? + DAY;
    let mut begun = vec![];
    for number in 0..4 {
        let id = play.create(&play.request_until(first + 10 * number).await?).await?;
        play.link(id).await?;
        play.step(play.provider, id, State::InProgress).await?;
        begun.push((id, play.terms.recovered_from(first + 10 * number).unwrap_or_default()));
    }
    let recover = async |id| play.kernel.recover_stalled(play.stranger, id).await;
    let deliver = async |id| play.step(play.provider, id, State::Delivered).await;
    stage.at(begun[0].1 - 1).await?;
    refused(recover(begun[0].0).await, Refusal::RecoveryNotYetAvailable);
    stage.at(begun[1].1 - 1).await?;
    deliver(begun[1].0).await?;
    stage.at(begun[2].1).await?;
    refused(deliver(begun[2].0).await, Refusal::DeliveryGraceExpired);
    stage.at(begun[3].1).await?;
    recover(begun[3].0).await?;
    Ok(())
}

pub async fn from_aip_14c_on_agreement_and_result_are_kept(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agreement_hash = B256::repeat_byte(0xa6);
    let request = CreateTransaction { agreement_hash, ..play.request(USDC).await? };
    let cursor = play.cursor().await?;
    let created = play.create(&request).await;
    if !play.terms.takes_agreements() {
        let error = failed(created, Code::UnsupportedKernel);
        assert_eq!(error.and_then(|error| error.facts().field), Some("agreement_hash"));
        assert_eq!(play.events_after(cursor).await?, []);
        return Ok(());
    }
    let id = created?;
    let announced = play.events_after(cursor).await?;
    let kept = |event: &Event| match event {
        Event::TransactionCreated { agreement_hash, .. } => Some(*agreement_hash),
        _ => None,
    };
    assert_eq!(announced.iter().find_map(kept), Some(agreement_hash));
    let hashes = async || {
        let tx = play.tx(id).await?;
        Ok::<_, Error>((tx.agreement_hash, tx.result_hash))
    };
    play.step(play.provider, id, State::Quoted).await?;
    play.kernel.accept_quote(play.requester, id, Usdc(2 * USDC)).await?;
    play.link(id).await?;
    play.step(play.provider, id, State::InProgress).await?;
    assert_eq!(hashes().await?, (agreement_hash, B256::ZERO));
    play.step(play.provider, id, State::Delivered).await?;
    assert_eq!(hashes().await?, (agreement_hash, RESULT));
    play.step(play.requester, id, State::Settled).await?;
    assert_eq!(hashes().await?, (agreement_hash, RESULT));

    // It is no part of the id: the next one's nonce is.
    let other = play.create(&CreateTransaction { agreement_hash: B256::ZERO, ..request }).await?;
    assert_eq!(play.tx(other).await?.agreement_hash, B256::ZERO);
    Ok(())
}
