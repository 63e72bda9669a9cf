//! DELIVERED → DISPUTED → SETTLED or CANCELLED.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::{Address, B256, U256};

use super::{
    Stage,
    scenario::{DAY, Flow, HOUR, Scene, USDC, failed, mediation, refused, word, words},
};
use crate::{
    error::{Code, Error, Result},
    kernel::Escrow,
    protocol::{Refusal, State, Transaction, TransactionId, Usdc},
};

/// A dispute of this party's over a delivery of this price.
async fn disputed(play: &Scene<'_>, by: Address, amount: u64) -> Result<TransactionId> {
    let id = play.in_state(State::Delivered, amount).await?;
    play.step(by, id, State::Disputed).await.map(|()| id)
}

/// A mediator who can be paid by now.
async fn mediator(play: &Scene<'_>) -> Result<Address> {
    play.stage.approve_mediator(play.stranger).await?;
    play.stage.advance(2 * DAY + 1).await?;
    Ok(play.stranger)
}

pub async fn a_dispute_takes_a_bond_from_whoever_opens_it(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for by in [play.requester, play.provider] {
        let id = play.in_state(State::Delivered, 10 * USDC).await?;
        let (before, old) = (play.purses().await?, play.tx(id).await?);
        // What it carries is ignored.
        play.step_with(by, id, State::Disputed, &[7; 5]).await?;
        let pulled = Flow { vault: 1_000_000, ..Flow::NONE };
        let pulled = if by == play.requester {
            Flow { requester: -1_000_000, ..pulled }
        } else {
            Flow { provider: -1_000_000, ..pulled }
        };
        assert_eq!(play.purses().await? - before, pulled);
        let tx = play.tx(id).await?;
        let (state, updated_at) = (State::Disputed, tx.updated_at);
        let (dispute_initiator, dispute_bond) = (by, Usdc(1_000_000));
        let expected = Transaction { state, updated_at, dispute_initiator, dispute_bond, ..old };
        assert_eq!(tx, expected);
        // The bond lies beside the escrow.
        assert_eq!(play.remaining(id).await?, 10 * USDC);
        assert_eq!(play.kernel.allowance(by).await?, Usdc(0));
    }
    Ok(())
}

pub async fn a_dispute_bond_is_five_percent_and_at_least_one_usdc(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for (amount, bond) in [
        (50_000, 1_000_000),
        (100_000, 1_000_000),
        (20_000_000, 1_000_000),
        (20_000_019, 1_000_000),
        (20_000_020, 1_000_001),
        (100_000_000, 5_000_000),
    ] {
        let id = disputed(&play, play.requester, amount).await?;
        assert_eq!(play.tx(id).await?.dispute_bond, Usdc(bond), "{amount}");
    }
    Ok(())
}

pub async fn a_dispute_without_money_for_the_bond_is_refused(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let balance = play.kernel.balance(play.requester).await?.0;
    let id = play.in_state(State::Delivered, balance - 999_999).await?;
    let error =
        failed(play.step(play.requester, id, State::Disputed).await, Code::InsufficientBalance);
    let facts = error.as_ref().map(|error| error.facts());
    assert_eq!(facts.and_then(|facts| facts.available), Some(Usdc(999_999)));
    assert_eq!(play.state(id).await?, State::Delivered);
    Ok(())
}

pub async fn only_parties_dispute_and_only_within_the_window(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Delivered, USDC).await?;
    for other in [play.stranger, play.admin] {
        refused(play.step(other, id, State::Disputed).await, Refusal::PartyOnly);
    }
    // The deadline has nothing to say here.
    play.miss_deadline(id).await?;
    let second = play.in_state(State::Delivered, USDC).await?;
    play.miss_deadline(second).await?;
    play.step(play.requester, second, State::Disputed).await?;
    play.miss_window(id).await?;
    for party in [play.requester, play.provider] {
        refused(play.step(party, id, State::Disputed).await, Refusal::DisputeWindowClosed);
    }
    refused(play.step(play.stranger, id, State::Disputed).await, Refusal::PartyOnly);
    Ok(())
}

pub async fn disputes_end_with_the_windows_last_second(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let deliver = async |hours: u64| {
        let id = play.in_state(State::InProgress, USDC).await?;
        let window = play.delivery(hours * HOUR);
        play.step_with(play.provider, id, State::Delivered, &window).await?;
        Ok::<_, Error>((id, play.tx(id).await?.dispute_window.to_contract()))
    };
    let (first, second) = (deliver(1).await?, deliver(2).await?);
    // So that disputing is one call.
    play.kernel.approve(play.requester, Usdc(2 * USDC)).await?;
    stage.at(first.1).await?;
    play.step(play.requester, first.0, State::Disputed).await?;
    stage.at(second.1 + 1).await?;
    let outcome = play.step(play.requester, second.0, State::Disputed).await;
    refused(outcome, Refusal::DisputeWindowClosed);
    Ok(())
}

pub async fn only_the_admin_resolves(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = disputed(&play, play.requester, USDC).await?;
    let all = words(&[USDC, 0, 1]);
    for to in [State::Settled, State::Cancelled] {
        for other in [play.requester, play.provider, play.stranger] {
            refused(play.step_with(other, id, to, &all).await, Refusal::ResolverOnly);
        }
    }
    // However late, and nobody else then either.
    stage.advance(400 * DAY).await?;
    refused(play.step(play.requester, id, State::Settled).await, Refusal::ResolverOnly);
    refused(play.step(play.stranger, id, State::Settled).await, Refusal::ResolverOnly);
    play.step_with(play.admin, id, State::Settled, &all).await?;
    Ok(())
}

pub async fn from_f6_on_a_mediator_resolves_two_days_after_its_approval(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (first, second) = (stage.party().await?, mediator(&play).await?);
    stage.approve_mediator(first).await?;
    let id = disputed(&play, play.requester, USDC).await?;
    let resolve = async |by| play.step_with(by, id, State::Settled, &words(&[USDC, 0, 1])).await;
    refused(resolve(first).await, Refusal::ResolverOnly);
    if !play.terms.mediators_resolve() {
        refused(resolve(second).await, Refusal::ResolverOnly);
        return Ok(());
    }
    let before = play.purses().await?;
    resolve(second).await?;
    let moved = Flow { requester: 2_000_000, vault: -2_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, moved);
    Ok(())
}

pub async fn a_resolution_splits_the_escrow_and_gives_the_bond_to_the_winner(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    // Of 10 USDC: 4 back, 6 to the provider, less 0.06.
    let split = Flow {
        requester: 4_000_000,
        provider: 5_940_000,
        vault: -11_000_000,
        ..play.fee(60_000, 60)
    };
    for by in [play.requester, play.provider] {
        for at_fault in [0, 1] {
            let id = disputed(&play, by, 10 * USDC).await?;
            let before = play.purses().await?;
            let resolution = words(&[4 * USDC, 6 * USDC, at_fault]);
            play.step_with(play.admin, id, State::Settled, &resolution).await?;
            let mut moved = split;
            match at_fault {
                0 => moved.provider += 1_000_000,
                _ => moved.requester += 1_000_000,
            }
            assert_eq!(play.purses().await? - before, moved);
            let tx = play.tx(id).await?;
            assert_eq!((tx.state, tx.dispute_bond), (State::Settled, Usdc(0)));
            assert_eq!(tx.dispute_initiator, by);
            assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
        }
    }
    // All to one side.
    for (resolution, moved) in [
        ([USDC, 0, 0], Flow { requester: 1_000_000, provider: 1_000_000, ..Flow::NONE }),
        ([0, USDC, 1], Flow { requester: 1_000_000, provider: 950_000, ..play.fee(50_000, 50) }),
    ] {
        let id = disputed(&play, play.requester, USDC).await?;
        let before = play.purses().await?;
        play.step_with(play.admin, id, State::Settled, &words(&resolution)).await?;
        assert_eq!(play.purses().await? - before, Flow { vault: -2_000_000, ..moved });
    }
    Ok(())
}

pub async fn a_resolution_without_a_verdict_finds_the_provider_at_fault(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let mediator = mediator(&play).await?;
    let without = words(&[4 * USDC, 6 * USDC]);
    let split = Flow {
        requester: 5_000_000,
        provider: 5_940_000,
        vault: -11_000_000,
        ..play.fee(60_000, 60)
    };
    let with_mediator = mediation([4 * USDC, 5 * USDC], mediator, USDC, &[]);
    let mediated = Flow {
        requester: 5_000_000,
        provider: 4_950_000,
        stranger: 1_000_000,
        vault: -11_000_000,
        ..play.fee(50_000, 50)
    };
    assert_eq!((without.len(), with_mediator.len()), (64, 128));
    for (resolution, moved) in [(without, split), (with_mediator, mediated)] {
        let id = disputed(&play, play.provider, 10 * USDC).await?;
        let before = play.purses().await?;
        play.step_with(play.admin, id, State::Settled, &resolution).await?;
        assert_eq!(play.purses().await? - before, moved);
    }
    Ok(())
}

pub async fn a_resolution_pays_its_mediator(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let mediator = mediator(&play).await?;
    let id = disputed(&play, play.requester, 10 * USDC).await?;
    let before = play.purses().await?;
    let resolution = mediation([4 * USDC, 5 * USDC], mediator, USDC, &[0]);
    play.step_with(play.admin, id, State::Settled, &resolution).await?;
    let moved = Flow {
        requester: 4_000_000,
        provider: 5_950_000,
        stranger: 1_000_000,
        vault: -11_000_000,
        ..play.fee(50_000, 50)
    };
    assert_eq!(play.purses().await? - before, moved);

    // More than a tenth of the amount is refused; nothing is fine.
    let id = disputed(&play, play.requester, 10 * USDC).await?;
    let greedy = mediation([4 * USDC, 5 * USDC - 1], mediator, USDC + 1, &[0]);
    let outcome = play.step_with(play.admin, id, State::Settled, &greedy).await;
    refused(outcome, Refusal::MediatorFeeExceedsMaximum);
    let idle = mediation([5 * USDC, 5 * USDC], mediator, 0, &[0]);
    play.step_with(play.admin, id, State::Settled, &idle).await?;
    Ok(())
}

pub async fn a_mediator_is_paid_from_two_days_after_its_approval_to_the_second(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (first, second) = (stage.party().await?, stage.party().await?);
    let approved_at = play.now().await? + 100;
    stage.at(approved_at).await?;
    stage.approve_mediator(first).await?;
    stage.at(approved_at + 10).await?;
    stage.approve_mediator(second).await?;
    let id = disputed(&play, play.requester, 10 * USDC).await?;
    let by = |mediator| mediation([4 * USDC, 5 * USDC], mediator, USDC, &[0]);
    stage.at(approved_at + 172_799).await?;
    let outcome = play.step_with(play.admin, id, State::Settled, &by(first)).await;
    refused(outcome, Refusal::MediatorApprovalPending);
    stage.at(approved_at + 10 + 172_800).await?;
    play.step_with(play.admin, id, State::Settled, &by(second)).await?;
    Ok(())
}

pub async fn a_resolution_is_refused_unless_it_gives_all_and_only_what_is_there(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = disputed(&play, play.requester, 10 * USDC).await?;
    let pending = stage.party().await?;
    stage.approve_mediator(pending).await?;
    let (stranger, nobody) = (play.stranger, Address::ZERO);
    let no_bool = [words(&[4 * USDC, 6 * USDC]), vec![7; 32]].concat();
    let no_address = [words(&[4 * USDC, 5 * USDC]), vec![7; 32], words(&[USDC, 0])].concat();
    let boundless = [U256::MAX.to_be_bytes::<32>(), word(10 * USDC + 1)].concat();

    refused(play.step(play.admin, id, State::Settled).await, Refusal::ResolutionRequired);
    for to in [State::Settled, State::Cancelled] {
        let resolve = async |data: &[u8]| play.step_with(play.admin, id, to, data).await;
        for length in [1, 31, 32, 63, 65, 95, 97, 127, 129, 159, 161, 192] {
            refused(resolve(&vec![1; length]).await, Refusal::InvalidResolutionProof);
        }
        refused(resolve(&no_bool).await, Refusal::InvalidResolutionProof);
        refused(resolve(&no_address).await, Refusal::InvalidResolutionProof);
        for words in [words(&[0, 0]), words(&[0, 0, 1]), mediation([0, 0], stranger, 0, &[])] {
            refused(resolve(&words).await, Refusal::EmptyResolution);
        }
        let outcome = resolve(&mediation([4 * USDC, 5 * USDC], nobody, USDC, &[0])).await;
        refused(outcome, Refusal::MediatorAddressRequired);
        // A mediator counts also where it is paid nothing, and before the sum.
        for (mediator, word) in
            [(stranger, Refusal::MediatorNotApproved), (pending, Refusal::MediatorApprovalPending)]
        {
            refused(resolve(&mediation([4 * USDC, 5 * USDC], mediator, USDC, &[0])).await, word);
            refused(resolve(&mediation([USDC, USDC], mediator, 0, &[0])).await, word);
        }
        for split in [[0, 1], [10 * USDC, 1], [10 * USDC - 1, 0], [u64::MAX, u64::MAX]] {
            refused(resolve(&words(&split)).await, Refusal::MustDistributeAll);
        }
        refused(resolve(&boundless).await, Refusal::MustDistributeAll);
        // More than 64 bits, of which the low ones would be right.
        let mut wide = words(&[4 * USDC, 6 * USDC]);
        wide[23] = 1;
        refused(resolve(&wide).await, Refusal::MustDistributeAll);
        // The sum that wraps around to what is there.
        let wrapping = words(&[u64::MAX, 10 * USDC + 1]);
        refused(resolve(&wrapping).await, Refusal::MustDistributeAll);
        assert_eq!(play.state(id).await?, State::Disputed);
    }
    Ok(())
}

pub async fn a_share_below_five_cents_to_the_provider_is_refused_before_f6(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = disputed(&play, play.requester, USDC).await?;
    for to in [State::Settled, State::Cancelled] {
        for share in [1, 49_999] {
            let split = words(&[USDC - share, share, 0]);
            if play.terms.recovery_grace_seconds().is_none() {
                let outcome = play.step_with(play.admin, id, to, &split).await;
                refused(outcome, Refusal::FeeExceedsAmount);
                continue;
            }
            // From F-6 on it is all fee.
            let id = disputed(&play, play.requester, USDC).await?;
            let before = play.purses().await?;
            play.step_with(play.admin, id, to, &split).await?;
            let (fee, bond) = (i128::from(share), 1_000_000);
            let mut moved = Flow { vault: -2_000_000, ..play.fee(fee, fee / 1_000) };
            moved.requester = i128::from(USDC) - fee;
            match to {
                State::Settled => moved.provider = bond,
                _ => moved.requester += bond,
            }
            assert_eq!(play.purses().await? - before, moved);
        }
    }
    // Five cents are taken, and are the fee.
    let before = play.purses().await?;
    play.step_with(play.admin, id, State::Settled, &words(&[950_000, 50_000, 1])).await?;
    let moved = Flow { requester: 1_950_000, vault: -2_000_000, ..play.fee(50_000, 50) };
    assert_eq!(play.purses().await? - before, moved);
    Ok(())
}

pub async fn a_cancelled_dispute_refunds_the_requester_and_returns_the_bond(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let refund = Flow { requester: 10_000_000, vault: -11_000_000, ..Flow::NONE };
    for (by, moved) in [
        (play.requester, Flow { requester: 11_000_000, ..refund }),
        (play.provider, Flow { provider: 1_000_000, ..refund }),
    ] {
        let id = disputed(&play, by, 10 * USDC).await?;
        let before = play.purses().await?;
        if play.terms.takes_results() {
            // AIP-14c wants to be told so.
            let outcome = play.step(play.admin, id, State::Cancelled).await;
            refused(outcome, Refusal::ResolutionRequired);
            let all = words(&[10 * USDC, 0]);
            play.step_with(play.admin, id, State::Cancelled, &all).await?;
        } else {
            play.step(play.admin, id, State::Cancelled).await?;
        }
        assert_eq!(play.purses().await? - before, moved);
        let tx = play.tx(id).await?;
        assert_eq!((tx.state, tx.dispute_bond), (State::Cancelled, Usdc(0)));
        assert_eq!(play.kernel.escrow(id).await?, Escrow::default());
    }
    Ok(())
}

pub async fn a_cancelled_dispute_can_split_the_escrow(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let mediator = mediator(&play).await?;
    // Whoever is at fault: a cancellation gives the bond back to who paid it.
    for at_fault in [0, 1] {
        let id = disputed(&play, play.provider, 10 * USDC).await?;
        let before = play.purses().await?;
        let resolution = mediation([4 * USDC, 5 * USDC], mediator, USDC, &[at_fault]);
        play.step_with(play.admin, id, State::Cancelled, &resolution).await?;
        let moved = Flow {
            requester: 4_000_000,
            provider: 5_950_000,
            stranger: 1_000_000,
            vault: -11_000_000,
            ..play.fee(50_000, 50)
        };
        assert_eq!(play.purses().await? - before, moved);
    }
    Ok(())
}

pub async fn a_dispute_over_an_empty_escrow_is_about_the_bond_alone(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let paid_out = async || -> Result<B256> {
        let id = play.in_state(State::InProgress, USDC).await?;
        play.kernel.release_milestone(play.requester, id, Usdc(USDC)).await?;
        play.step(play.provider, id, State::Delivered).await?;
        play.step(play.requester, id, State::Disputed).await?;
        Ok(id)
    };
    let id = paid_out().await?;
    refused(play.step(play.admin, id, State::Settled).await, Refusal::ResolutionRequired);
    let before = play.purses().await?;
    play.step_with(play.admin, id, State::Settled, &words(&[1, 0, 0])).await?;
    let moved = Flow { provider: 1_000_000, vault: -1_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, moved);

    let id = paid_out().await?;
    let before = play.purses().await?;
    play.step_with(play.admin, id, State::Cancelled, &words(&[1, 0])).await?;
    let moved = Flow { requester: 1_000_000, vault: -1_000_000, ..Flow::NONE };
    assert_eq!(play.purses().await? - before, moved);
    Ok(())
}
