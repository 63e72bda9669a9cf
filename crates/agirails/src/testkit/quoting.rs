//! INITIATED → QUOTED, and `acceptQuote`.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::B256;

use super::{
    Stage,
    scenario::{DAY, Flow, Scene, USDC, assert_events, refused},
};
use crate::{
    error::Result,
    protocol::{Event, Refusal, State, Transaction, Usdc},
};

pub async fn a_quote_keeps_its_hash(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Initiated, USDC).await?;
    let (before, old) = (play.purses().await?, play.tx(id).await?);
    let hash = B256::repeat_byte(0x40);
    play.step_with(play.provider, id, State::Quoted, hash.as_slice()).await?;
    let tx = play.tx(id).await?;
    let updated_at = tx.updated_at;
    assert!(updated_at >= old.updated_at);
    assert_eq!(tx, Transaction { state: State::Quoted, metadata: hash, updated_at, ..old });
    assert_eq!(play.purses().await? - before, Flow::NONE);
    Ok(())
}

pub async fn a_quote_without_a_hash_keeps_none(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Quoted, USDC).await?;
    assert_eq!(play.tx(id).await?.metadata, B256::ZERO);
    refused(play.step(play.provider, id, State::Quoted).await, Refusal::NoOp);
    Ok(())
}

pub async fn a_quote_hash_has_32_bytes_that_are_not_zero(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Initiated, USDC).await?;
    for length in [1, 31, 33, 64, 96] {
        let outcome = play.step_with(play.provider, id, State::Quoted, &vec![7; length]).await;
        refused(outcome, Refusal::QuoteHashLength);
    }
    let outcome = play.step_with(play.provider, id, State::Quoted, &[0; 32]).await;
    refused(outcome, Refusal::InvalidQuoteHash);
    Ok(())
}

pub async fn only_the_provider_quotes_and_only_in_time(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Initiated, USDC).await?;
    for other in [play.requester, play.stranger, play.admin] {
        refused(play.step(other, id, State::Quoted).await, Refusal::OnlyProvider);
    }
    play.miss_deadline(id).await?;
    refused(play.step(play.provider, id, State::Quoted).await, Refusal::TransactionExpired);
    Ok(())
}

pub async fn accepting_a_quote_replaces_the_amount_and_stays_quoted(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Quoted, USDC).await?;
    let old = play.tx(id).await?;
    let (before, cursor, since) = (play.purses().await?, play.cursor().await?, play.now().await?);

    play.kernel.accept_quote(play.requester, id, Usdc(2_500_000)).await?;

    let tx = play.tx(id).await?;
    let updated_at = tx.updated_at;
    assert_eq!(tx, Transaction { amount: Usdc(2_500_000), updated_at, ..old });
    assert_eq!(tx.platform_fee_bps_locked, 100);
    assert_eq!(play.purses().await? - before, Flow::NONE);
    let announced = Event::QuoteAccepted {
        transaction_id: id,
        old_amount: Usdc(1_000_000),
        new_amount: Usdc(2_500_000),
        timestamp: 0,
    };
    let found = play.events_after(cursor).await?;
    assert_events(&found, &[announced], since, play.now().await?);

    // Up and down, again and again, until the escrow is linked.
    play.kernel.accept_quote(play.requester, id, Usdc(1_000_000_000_000_000)).await?;
    play.kernel.accept_quote(play.requester, id, Usdc(50_000)).await?;
    assert_eq!(play.tx(id).await?.amount, Usdc(50_000));
    Ok(())
}

pub async fn accepting_a_quote_is_refused_in_the_order_of_the_checks(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (unknown, fine) = (B256::repeat_byte(0xee), Usdc(USDC));
    let initiated = play.in_state(State::Initiated, USDC).await?;
    let quoted = play.in_state(State::Quoted, USDC).await?;
    let accept = async |sender, id, amount| play.kernel.accept_quote(sender, id, amount).await;

    for amount in [0, 49_999] {
        refused(accept(play.stranger, unknown, Usdc(amount)).await, Refusal::BelowMinimum);
    }
    for amount in [1_000_000_000_000_001, u64::MAX] {
        refused(accept(play.stranger, unknown, Usdc(amount)).await, Refusal::AboveMaximum);
    }
    refused(accept(play.stranger, unknown, fine).await, Refusal::TxMissing);
    refused(accept(play.stranger, initiated, fine).await, Refusal::NotQuoted);
    refused(accept(play.requester, initiated, fine).await, Refusal::NotQuoted);
    for other in [play.stranger, play.provider, play.admin] {
        refused(accept(other, quoted, fine).await, Refusal::OnlyRequester);
    }
    play.miss_deadline(quoted).await?;
    refused(accept(play.requester, initiated, fine).await, Refusal::NotQuoted);
    refused(accept(play.provider, quoted, fine).await, Refusal::OnlyRequester);
    refused(accept(play.requester, quoted, fine).await, Refusal::Expired);
    for state in [State::Committed, State::InProgress, State::Settled, State::Cancelled] {
        let id = play.in_state(state, USDC).await?;
        refused(accept(play.requester, id, fine).await, Refusal::NotQuoted);
    }
    Ok(())
}

pub async fn quotes_are_made_and_accepted_until_the_deadline_to_the_second(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let first = play.now().await? + DAY;
    let mut ids = vec![];
    for number in 0..4 {
        ids.push(play.create(&play.request_until(first + 10 * number).await?).await?);
    }
    for id in &ids[2..] {
        play.step(play.provider, *id, State::Quoted).await?;
    }
    stage.at(first).await?;
    play.step(play.provider, ids[0], State::Quoted).await?;
    stage.at(first + 11).await?;
    refused(play.step(play.provider, ids[1], State::Quoted).await, Refusal::TransactionExpired);
    let accept = async |id| play.kernel.accept_quote(play.requester, id, Usdc(2 * USDC)).await;
    stage.at(first + 20).await?;
    accept(ids[2]).await?;
    stage.at(first + 31).await?;
    refused(accept(ids[3]).await, Refusal::Expired);
    Ok(())
}
