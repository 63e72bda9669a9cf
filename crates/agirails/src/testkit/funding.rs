//! `linkEscrow`: INITIATED, QUOTED → COMMITTED.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::{Address, B256};

use super::{
    Stage,
    scenario::{DAY, Flow, Scene, USDC, assert_events, failed, refused},
};
use crate::{
    error::{Code, Result},
    kernel::Escrow,
    protocol::{Event, LinkEscrow, Refusal, State, Transaction, Usdc},
};

pub async fn linking_takes_the_amount_into_the_vault(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let vault = play.kernel.network().vault;
    let id = play.in_state(State::Initiated, 10 * USDC).await?;
    let old = play.tx(id).await?;
    assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
    let (before, cursor, since) = (play.purses().await?, play.cursor().await?, play.now().await?);

    assert_eq!(play.link(id).await?, id);

    let moved = Flow { requester: -10_000_000, vault: 10_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, moved);
    let tx = play.tx(id).await?;
    let (updated_at, state) = (tx.updated_at, State::Committed);
    let expected = Transaction { state, escrow_contract: vault, escrow_id: id, updated_at, ..old };
    assert_eq!(tx, expected);
    let escrow = Escrow {
        requester: play.requester,
        provider: play.provider,
        amount: Usdc(10_000_000),
        released: Usdc(0),
        active: true,
    };
    assert_eq!(play.kernel.escrow(id).await?, escrow);
    let announced = [
        Event::EscrowLinked {
            transaction_id: id,
            escrow_contract: vault,
            escrow_id: id,
            amount: Usdc(10_000_000),
            timestamp: 0,
        },
        Event::StateTransitioned {
            transaction_id: id,
            old_state: State::Initiated,
            new_state: State::Committed,
            triggered_by: play.requester,
            timestamp: 0,
        },
    ];
    let found = play.events_after(cursor).await?;
    assert_events(&found, &announced, since, play.now().await?);
    Ok(())
}

pub async fn linking_takes_what_an_accepted_quote_says(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Quoted, USDC).await?;
    play.kernel.accept_quote(play.requester, id, Usdc(3_000_000)).await?;
    let before = play.purses().await?;
    play.link(id).await?;
    let moved = Flow { requester: -3_000_000, vault: 3_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, moved);
    assert_eq!(play.state(id).await?, State::Committed);
    // A quote that nobody accepted is funded at the first amount.
    let id = play.in_state(State::Quoted, USDC).await?;
    play.link(id).await?;
    assert_eq!(play.remaining(id).await?, 1_000_000);
    Ok(())
}

pub async fn linking_approves_exactly_what_is_missing(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let allowance = async || play.kernel.allowance(play.requester).await;
    for (approved, left) in [(0, 0), (1, 0), (999_999, 0), (1_000_000, 0), (1_000_007, 7)] {
        let id = play.in_state(State::Initiated, USDC).await?;
        play.kernel.approve(play.requester, Usdc(approved)).await?;
        assert_eq!(allowance().await?, Usdc(approved));
        play.link(id).await?;
        assert_eq!(allowance().await?, Usdc(left));
    }
    Ok(())
}

pub async fn linking_takes_all_that_the_requester_has(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    stage.mint(play.requester, Usdc(123_456)).await?;
    let all = play.kernel.balance(play.requester).await?;
    let id = play.in_state(State::Initiated, all.0).await?;
    play.link(id).await?;
    assert_eq!(play.kernel.balance(play.requester).await?, Usdc(0));
    assert_eq!(play.remaining(id).await?, all.0);
    Ok(())
}

pub async fn linking_without_the_money_is_refused_before_anything_moves(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let balance = play.kernel.balance(play.requester).await?;
    let id = play.in_state(State::Initiated, balance.0 + 1).await?;
    let error = failed(play.link(id).await, Code::InsufficientBalance);
    let facts = error.as_ref().map(|error| error.facts());
    assert_eq!(facts.and_then(|facts| facts.transaction_id), Some(id));
    assert_eq!(facts.and_then(|facts| facts.available), Some(balance));
    assert_eq!(facts.and_then(|facts| facts.required), Some(Usdc(balance.0 + 1)));
    assert_eq!(play.state(id).await?, State::Initiated);
    // With the money the same call succeeds: nothing was used up.
    stage.mint(play.requester, Usdc(1)).await?;
    play.link(id).await?;
    Ok(())
}

pub async fn an_escrow_id_is_used_once_ever(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let link = async |id, escrow_id| {
        let link = LinkEscrow { escrow_id: Some(escrow_id), ..LinkEscrow::default() };
        play.kernel.link_escrow(play.requester, id, link).await
    };
    // The stage may have run this before.
    let own = B256::from_slice(&[&[0xe5; 12], play.requester.as_slice()].concat());
    let first = play.in_state(State::Initiated, USDC).await?;
    assert_eq!(link(first, own).await?, own);
    assert_eq!(play.tx(first).await?.escrow_id, own);
    assert_eq!(play.remaining(first).await?, USDC);

    // By another transaction: an id of one's own, and a transaction's.
    let second = play.in_state(State::Initiated, USDC).await?;
    refused(link(second, own).await, Refusal::EscrowIdUsed);
    let conventional = play.in_state(State::Committed, USDC).await?;
    refused(link(second, conventional).await, Refusal::EscrowIdUsed);

    // After everything is paid out.
    for id in [first, conventional] {
        play.step(play.provider, id, State::InProgress).await?;
        play.step(play.provider, id, State::Delivered).await?;
        play.step(play.requester, id, State::Settled).await?;
        let escrow_id = play.tx(id).await?.escrow_id;
        refused(link(second, escrow_id).await, Refusal::EscrowIdUsed);
    }

    // Whose transaction id another one took needs another escrow id.
    let robbed = play.in_state(State::Initiated, USDC).await?;
    link(second, robbed).await?;
    refused(play.link(robbed).await, Refusal::EscrowIdUsed);
    let mut free = own;
    free.0[0] = 0xe6;
    link(robbed, free).await?;
    assert_eq!(play.state(robbed).await?, State::Committed);
    // A first transaction's own id is free where it took another.
    let third = play.in_state(State::Initiated, USDC).await?;
    link(third, first).await?;
    Ok(())
}

pub async fn linking_is_refused_in_the_order_of_the_checks(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (unknown, free) = (B256::repeat_byte(0xee), B256::repeat_byte(0xf1));
    let foreign_vault = Some(Address::repeat_byte(0xfa));
    let committed = play.in_state(State::Committed, USDC).await?;
    let link = async |sender, id, escrow_contract, escrow_id| {
        let link = LinkEscrow { escrow_contract, escrow_id, ..LinkEscrow::default() };
        play.kernel.link_escrow(sender, id, link).await
    };
    let balance = play.kernel.balance(play.requester).await?.0;
    let dear = play.in_state(State::Initiated, balance + 1).await?;

    // Each with everything wrong that comes later.
    let no_vault = Some(Address::ZERO);
    let outcome = link(play.stranger, unknown, no_vault, Some(B256::ZERO)).await;
    refused(outcome, Refusal::EscrowAddress);
    let outcome = link(play.stranger, unknown, foreign_vault, Some(B256::ZERO)).await;
    refused(outcome, Refusal::InvalidEscrowId);
    let outcome = link(play.stranger, unknown, foreign_vault, Some(committed)).await;
    refused(outcome, Refusal::EscrowNotApproved);
    let outcome = link(play.stranger, unknown, None, Some(committed)).await;
    refused(outcome, Refusal::EscrowIdUsed);
    refused(link(play.stranger, committed, None, None).await, Refusal::EscrowIdUsed);
    refused(link(play.stranger, unknown, None, Some(free)).await, Refusal::TxMissing);
    let outcome = link(play.stranger, committed, None, Some(free)).await;
    refused(outcome, Refusal::InvalidStateForLinking);
    for other in [play.stranger, play.provider, play.admin] {
        refused(link(other, dear, None, None).await, Refusal::OnlyRequester);
    }
    failed(link(play.requester, dear, None, None).await, Code::InsufficientBalance);

    stage.advance(DAY + 1).await?;
    let outcome = link(play.requester, committed, None, Some(free)).await;
    refused(outcome, Refusal::InvalidStateForLinking);
    refused(link(play.provider, dear, None, None).await, Refusal::OnlyRequester);
    refused(link(play.requester, dear, None, None).await, Refusal::TransactionExpired);

    for state in [State::InProgress, State::Delivered, State::Disputed, State::Settled] {
        let id = play.in_state(state, USDC).await?;
        let outcome = link(play.requester, id, None, Some(free)).await;
        refused(outcome, Refusal::InvalidStateForLinking);
    }
    let id = play.in_state(State::Cancelled, USDC).await?;
    refused(link(play.requester, id, None, None).await, Refusal::InvalidStateForLinking);
    Ok(())
}

pub async fn linking_ends_with_the_deadline_to_the_second(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let deadline = play.now().await? + DAY;
    let punctual = play.create(&play.request_until(deadline).await?).await?;
    let late = play.create(&play.request_until(deadline + 10).await?).await?;
    // So that linking is one call.
    play.kernel.approve(play.requester, Usdc(2 * USDC)).await?;
    stage.at(deadline).await?;
    play.link(punctual).await?;
    assert_eq!(play.tx(punctual).await?.updated_at, deadline);
    stage.at(deadline + 11).await?;
    refused(play.link(late).await, Refusal::TransactionExpired);
    Ok(())
}
