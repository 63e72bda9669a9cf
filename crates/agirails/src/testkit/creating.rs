//! `createTransaction`.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::{Address, B256, U256, keccak256};

use super::{
    Stage,
    scenario::{DAY, Flow, HOUR, Scene, USDC, assert_events, refused, word},
};
use crate::{
    error::Result,
    protocol::{CreateTransaction, DisputeWindow, Event, Refusal, State, Transaction, Usdc},
};

pub async fn a_new_transaction_is_initiated_and_moves_no_money(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let request = CreateTransaction {
        dispute_window_seconds: 5 * HOUR,
        service_hash: B256::repeat_byte(0x5e),
        agent_id: U256::MAX,
        requester_agent_id: U256::from(7),
        ..play.request(USDC).await?
    };
    let (before, cursor, since) = (play.purses().await?, play.cursor().await?, play.now().await?);

    let id = play.create(&request).await?;

    let tx = play.tx(id).await?;
    assert!((since..=play.now().await?).contains(&tx.created_at));
    assert_eq!(
        tx,
        Transaction {
            id,
            requester: play.requester,
            provider: play.provider,
            state: State::Initiated,
            amount: Usdc(1_000_000),
            created_at: tx.created_at,
            updated_at: tx.created_at,
            deadline: request.deadline,
            service_hash: B256::repeat_byte(0x5e),
            escrow_contract: Address::ZERO,
            escrow_id: B256::ZERO,
            attestation_uid: B256::ZERO,
            dispute_window: DisputeWindow::Seconds(18_000),
            metadata: B256::ZERO,
            platform_fee_bps_locked: 100,
            requester_penalty_bps_locked: 500,
            dispute_bond_bps_locked: 500,
            agent_id: U256::MAX,
            requester_agent_id: U256::from(7),
            dispute_initiator: Address::ZERO,
            dispute_bond: Usdc(0),
            result_hash: B256::ZERO,
            agreement_hash: B256::ZERO,
        }
    );
    assert_eq!(play.purses().await? - before, Flow::NONE);
    assert_eq!(play.remaining(id).await?, 0);
    let announced = Event::TransactionCreated {
        transaction_id: id,
        requester: play.requester,
        provider: play.provider,
        amount: Usdc(1_000_000),
        service_hash: B256::repeat_byte(0x5e),
        deadline: request.deadline,
        timestamp: 0,
        agent_id: U256::MAX,
        agreement_hash: B256::ZERO,
    };
    let found = play.events_after(cursor).await?;
    assert_events(&found, &[announced], tx.created_at, tx.created_at);
    Ok(())
}

pub async fn equal_requests_get_different_ids(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let request = play.request(USDC).await?;
    // keccak256(requester, provider, amount, serviceHash, nonce), packed, counting from 0.
    let id = |nonce| {
        let parties = [play.requester.as_slice(), play.provider.as_slice()].concat();
        keccak256([parties, word(USDC).into(), vec![0; 32], word(nonce).into()].concat())
    };
    assert_eq!(play.create(&request).await?, id(0));
    assert_eq!(play.create(&request).await?, id(1));
    // A refused request uses no nonce up.
    let refused_request = CreateTransaction { amount: Usdc(1), ..request.clone() };
    refused(play.create(&refused_request).await, Refusal::AmountBelowMinimum);
    assert_eq!(play.create(&request).await?, id(2));
    Ok(())
}

pub async fn creation_is_refused_in_the_order_of_the_checks(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let sound = play.request(USDC).await?;
    for (word, request) in faulty_requests(&sound, play.stranger, play.now().await?) {
        let outcome = play.kernel.create_transaction(play.requester, &request).await;
        refused(outcome, word);
    }
    Ok(())
}

/// Requests with one thing or two things wrong, and the word of what is checked first.
fn faulty_requests(
    sound: &CreateTransaction,
    stranger: Address,
    now: u64,
) -> Vec<(Refusal, CreateTransaction)> {
    type Fault<'a> = (Refusal, &'a dyn Fn(&mut CreateTransaction));
    // What the amount, the deadline and the window can have wrong excludes each other.
    let faults: [&[Fault<'_>]; 6] = [
        &[(Refusal::RequesterMismatch, &|r| r.requester = stranger)],
        &[(Refusal::ZeroProvider, &|r| r.provider = Address::ZERO)],
        &[(Refusal::SelfTransaction, &|r| r.provider = r.requester)],
        &[
            (Refusal::AmountBelowMinimum, &|r| r.amount = Usdc(49_999)),
            (Refusal::AmountAboveMaximum, &|r| r.amount = Usdc(1_000_000_000_000_001)),
        ],
        &[
            (Refusal::DeadlineInPast, &|r| r.deadline = now - 1),
            (Refusal::DeadlineTooFar, &|r| r.deadline = now + 366 * DAY),
        ],
        &[
            (Refusal::DisputeWindowTooShort, &|r| r.dispute_window_seconds = 3_599),
            (Refusal::DisputeWindowTooLong, &|r| r.dispute_window_seconds = 2_592_001),
        ],
    ];
    let mut requests = vec![];
    for (group, earlier) in faults.iter().enumerate() {
        for (word, spoil) in *earlier {
            let mut request = sound.clone();
            spoil(&mut request);
            for (later_word, spoil_too) in faults[group + 1..].iter().copied().flatten() {
                // Without a provider and with oneself as provider: the zero address calls.
                if (*word, *later_word) != (Refusal::ZeroProvider, Refusal::SelfTransaction) {
                    let mut request = request.clone();
                    spoil_too(&mut request);
                    requests.push((*word, request));
                }
            }
            requests.push((*word, request));
        }
    }
    requests
}

pub async fn amounts_reach_from_five_cents_to_a_thousand_million(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for amount in [50_000, 50_001, 1_000_000_000_000_000] {
        let id = play.create(&play.request(amount).await?).await?;
        assert_eq!(play.tx(id).await?.amount, Usdc(amount));
    }
    for amount in [0, 1, 49_999] {
        let outcome = play.create(&play.request(amount).await?).await;
        refused(outcome, Refusal::AmountBelowMinimum);
    }
    for amount in [1_000_000_000_000_001, u64::MAX] {
        let outcome = play.create(&play.request(amount).await?).await;
        refused(outcome, Refusal::AmountAboveMaximum);
    }
    Ok(())
}

pub async fn dispute_windows_reach_from_an_hour_to_thirty_days(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let create = async |dispute_window_seconds| {
        let request = play.request(USDC).await?;
        play.create(&CreateTransaction { dispute_window_seconds, ..request }).await
    };
    for seconds in [3_600, 2_592_000] {
        let id = create(seconds).await?;
        assert_eq!(play.tx(id).await?.dispute_window, DisputeWindow::Seconds(seconds));
    }
    refused(create(0).await, Refusal::DisputeWindowTooShort);
    refused(create(3_599).await, Refusal::DisputeWindowTooShort);
    refused(create(2_592_001).await, Refusal::DisputeWindowTooLong);
    refused(create(u64::MAX).await, Refusal::DisputeWindowTooLong);
    Ok(())
}

pub async fn deadlines_lie_ahead_and_within_a_year(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let now = play.now().await?;
    let create = async |deadline| {
        let request = play.request(USDC).await?;
        play.create(&CreateTransaction { deadline, ..request }).await
    };
    create(now + 364 * DAY).await?;
    let soon = create(now + 3_500).await;
    match play.terms.recovery_grace_seconds() {
        None => drop(soon?),
        Some(_) => refused(soon, Refusal::DeadlineTooSoon),
    }
    for deadline in [0, 1, now - DAY] {
        refused(create(deadline).await, Refusal::DeadlineInPast);
    }
    // The last but one is a time in milliseconds.
    for deadline in [now + 366 * DAY, now * 1_000, u64::MAX] {
        refused(create(deadline).await, Refusal::DeadlineTooFar);
    }
    Ok(())
}

pub async fn a_deadline_is_later_than_now_and_at_most_365_days_to_the_second(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let sound = play.request(USDC).await?;
    let start = play.now().await? + 100;
    let create = async |time: u64, deadline: u64| {
        stage.at(time).await?;
        play.create(&CreateTransaction { deadline, ..sound.clone() }).await
    };
    refused(create(start, start).await, Refusal::DeadlineInPast);
    match play.terms.recovery_grace_seconds() {
        None => drop(create(start + 10, start + 11).await?),
        Some(_) => {
            refused(create(start + 5, start + 5 + 3_599).await, Refusal::DeadlineTooSoon);
            create(start + 10, start + 10 + 3_600).await?;
        }
    }
    create(start + 20, start + 20 + 31_536_000).await?;
    refused(create(start + 30, start + 30 + 31_536_001).await, Refusal::DeadlineTooFar);
    Ok(())
}
