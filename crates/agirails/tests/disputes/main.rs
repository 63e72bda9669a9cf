//! Disputes that bonds decide, on a local chain that has the contracts.
//!
//! Needs anvil, which `make` installs; AGIRAILS_ANVIL names another.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod fixture;
mod races;
mod refusals;

use agirails::{Dispute, Refusal, Ruling, State, Usdc, protocol::disputes::Tier};

use crate::fixture::{DOLLAR, Game, HOUR, refused};

#[tokio::test]
async fn whoever_is_challenged_and_silent_loses_the_bond_and_the_transaction() {
    let game = Game::start().await;
    let [requester, provider, stranger] = game.parties();
    let vault_before = game.balance(game.vault()).await;
    let id = game.disputed(Usdc(10 * DOLLAR)).await;
    assert_eq!(stranger.disputes().get(id).await.unwrap(), None);
    stranger.disputes().open(id).await.unwrap();
    let opened = stranger.disputes().get(id).await.unwrap().unwrap();
    assert_eq!(
        (opened.tier, opened.ruling, opened.escrow),
        (Tier::Opened, None, Usdc(10 * DOLLAR))
    );
    assert_eq!((opened.next_bond(), opened.finalized_from()), (Some(Usdc(DOLLAR)), None));

    let before = [
        game.balance(requester.address()).await,
        game.balance(provider.address()).await,
        game.balance(stranger.address()).await,
    ];
    let bond = requester.disputes().propose(id, Ruling::RequesterWins, Usdc(DOLLAR)).await;
    assert_eq!(bond.unwrap(), Usdc(DOLLAR));
    let standing = game.dispute(id).await;
    assert_eq!(standing.last_proposer, Some(requester.address()));
    assert_eq!(standing.liveness_end, game.now().await + HOUR);
    assert_eq!(standing.next_bond(), Some(Usdc(2 * DOLLAR)));

    game.pass(HOUR - 10).await;
    let bond = provider.disputes().challenge(id, Ruling::ProviderWins, Usdc(2 * DOLLAR)).await;
    assert_eq!(bond.unwrap(), Usdc(2 * DOLLAR));
    let standing = game.dispute(id).await;
    let expected = Dispute {
        transaction_id: id,
        tier: Tier::Proposed,
        ruling: Some(Ruling::ProviderWins),
        bond: Usdc(2 * DOLLAR),
        pool: Usdc(3 * DOLLAR),
        liveness_end: game.now().await + HOUR,
        disputed_at: opened.disputed_at,
        last_proposer: Some(provider.address()),
        resolved: false,
        winner_paid: false,
        original_pool: Usdc::ZERO,
        escrow: Usdc(10 * DOLLAR),
    };
    assert_eq!(standing, expected);
    // The challenge began the time anew.
    game.pass(HOUR - 30).await;
    let early = refused(stranger.disputes().finalize(id).await, Refusal::LivenessActive);
    let from = standing.finalized_from().unwrap().to_string();
    assert!(early.to_string().contains(&from), "{early}");
    assert_eq!(early.facts().value.as_deref(), Some(&*from));

    game.pass(31).await;
    let late = requester.disputes().challenge(id, Ruling::RequesterWins, Usdc(4 * DOLLAR)).await;
    refused(late, Refusal::LivenessExpired);
    assert_eq!(stranger.disputes().finalize(id).await.unwrap(), Usdc(300_000));

    // The stranger has a tenth of three dollars; the provider its bond, the rest of the pool, ten dollars
    // less the fee, and the kernel's bond.
    let after = [
        game.balance(requester.address()).await,
        game.balance(provider.address()).await,
        game.balance(stranger.address()).await,
    ];
    assert_eq!(before[0].0 - after[0].0, DOLLAR);
    assert_eq!(after[1].0 - before[1].0, 700_000 + 10 * DOLLAR - 100_000 + DOLLAR);
    assert_eq!(after[2].0 - before[2].0, 300_000);
    assert_eq!(game.balance(game.vault()).await, vault_before);
    assert_eq!(game.balance(game.escalation()).await, Usdc::ZERO);
    assert_eq!(requester.get_transaction(id).await.unwrap().state, State::Settled);
    let over = game.dispute(id).await;
    assert!(over.resolved && over.winner_paid && over.next_bond().is_none());
    assert_eq!((over.pool, over.original_pool), (Usdc::ZERO, Usdc(3 * DOLLAR)));
    for party in [&requester, &provider] {
        assert_eq!(game.allowance(party.address()).await, Usdc::ZERO);
    }

    refused(stranger.disputes().finalize(id).await, Refusal::DisputeResolved);
    refused(requester.disputes().claim_refund(id).await, Refusal::NotASplit);
    refused(requester.disputes().open(id).await, Refusal::DisputeAlreadyOpened);
}

#[tokio::test]
async fn silence_of_the_provider_costs_it_the_whole_transaction() {
    let game = Game::start().await;
    let [requester, provider, _] = game.parties();
    let id = game.disputed(Usdc(5 * DOLLAR)).await;
    let before = [game.balance(requester.address()).await, game.balance(provider.address()).await];
    requester.disputes().open(id).await.unwrap();
    requester.disputes().propose(id, Ruling::RequesterWins, Usdc(DOLLAR)).await.unwrap();
    game.pass(HOUR + 1).await;
    // The bounty and the rest: the whole bond.
    assert_eq!(requester.disputes().finalize(id).await.unwrap(), Usdc(DOLLAR));
    let after = [game.balance(requester.address()).await, game.balance(provider.address()).await];
    assert_eq!(after[0].0 - before[0].0, 5 * DOLLAR + DOLLAR);
    assert_eq!(after[1], before[1]);
    assert_eq!(requester.get_transaction(id).await.unwrap().state, State::Settled);
}

#[tokio::test]
async fn a_split_shares_the_escrow_and_the_bonds_also_while_the_kernel_is_paused() {
    let game = Game::start().await;
    let [requester, provider, stranger] = game.parties();
    let id = game.disputed(Usdc(100 * DOLLAR)).await;
    let before = [game.balance(requester.address()).await, game.balance(provider.address()).await];
    stranger.disputes().open(id).await.unwrap();
    let bond = requester.disputes().propose(id, Ruling::RequesterWins, Usdc(DOLLAR * 2)).await;
    assert_eq!(bond.unwrap(), Usdc(2 * DOLLAR));
    let quarter = Ruling::Split { provider_bps: 2_500 };
    let half = Ruling::Split { provider_bps: 5_000 };
    provider.disputes().challenge(id, half, Usdc(4 * DOLLAR)).await.unwrap();
    refused(requester.disputes().challenge(id, half, Usdc(8 * DOLLAR)).await, Refusal::SameRuling);
    // Another share is another ruling.
    let bond = requester.disputes().challenge(id, quarter, Usdc(8 * DOLLAR)).await;
    assert_eq!(bond.unwrap(), Usdc(8 * DOLLAR));
    refused(requester.disputes().claim_refund(id).await, Refusal::DisputeNotResolved);

    game.devnet.pause().await.unwrap();
    game.pass(2 * HOUR + 1).await;
    assert_eq!(stranger.disputes().finalize(id).await.unwrap(), Usdc(1_400_000));
    game.devnet.unpause().await.unwrap();
    assert_eq!(requester.get_transaction(id).await.unwrap().state, State::Cancelled);
    // 12.6 of 14 dollars are left; who paid 10 of them gets 9, who paid 4 gets 3.6.
    let over = game.dispute(id).await;
    assert_eq!(over.refund(Usdc(10 * DOLLAR)), Usdc(9 * DOLLAR));
    assert_eq!(requester.disputes().claim_refund(id).await.unwrap(), Usdc(9 * DOLLAR));
    assert_eq!(provider.disputes().claim_refund(id).await.unwrap(), Usdc(3_600_000));
    refused(provider.disputes().claim_refund(id).await, Refusal::NothingToClaim);
    refused(stranger.disputes().claim_refund(id).await, Refusal::NothingToClaim);
    let after = [game.balance(requester.address()).await, game.balance(provider.address()).await];
    // The kernel's bond, 5 % of a hundred dollars, returns to the requester, who paid it before.
    assert_eq!(after[0].0 - before[0].0, 75 * DOLLAR + 5 * DOLLAR - DOLLAR);
    assert_eq!(after[1].0 - before[1].0, 25 * DOLLAR - 250_000 - 400_000);
    assert_eq!(game.balance(game.escalation()).await, Usdc::ZERO);
}

#[tokio::test]
async fn bonds_end_at_five_hundred() {
    let game = Game::start().await;
    let [requester, provider, stranger] = game.parties();
    let id = game.disputed(Usdc(20_000 * DOLLAR)).await;
    requester.disputes().open(id).await.unwrap();
    let dear = Usdc(500 * DOLLAR);
    let bond = requester.disputes().propose(id, Ruling::RequesterWins, dear).await.unwrap();
    assert_eq!(bond, Usdc(400 * DOLLAR));
    let bond = provider.disputes().challenge(id, Ruling::ProviderWins, dear).await.unwrap();
    assert_eq!(bond, dear);
    let bond = stranger.disputes().challenge(id, Ruling::RequesterWins, dear).await.unwrap();
    assert_eq!(bond, dear);
    let standing = game.dispute(id).await;
    assert_eq!(standing.liveness_end, game.now().await + 8 * HOUR);
    assert_eq!((standing.pool, standing.next_bond()), (Usdc(1_400 * DOLLAR), Some(dear)));
}

#[tokio::test]
async fn a_dispute_that_nobody_decides_ends_after_thirty_days_with_half_for_each() {
    let game = Game::start().await;
    let [requester, provider, stranger] = game.parties();
    let id = game.disputed(Usdc(10 * DOLLAR)).await;
    requester.disputes().open(id).await.unwrap();
    requester.disputes().propose(id, Ruling::RequesterWins, Usdc(DOLLAR)).await.unwrap();
    game.pass(29 * 24 * HOUR).await;
    let early = refused(stranger.disputes().force_resolve_stale(id).await, Refusal::NotStale);
    let from = game.dispute(id).await.stale_from().unwrap();
    assert_eq!(early.facts().value.as_deref(), Some(&*from.to_string()));
    game.pass(24 * HOUR + 1).await;
    let before = game.balance(provider.address()).await;
    stranger.disputes().force_resolve_stale(id).await.unwrap();
    assert_eq!(requester.get_transaction(id).await.unwrap().state, State::Cancelled);
    assert_eq!(game.balance(provider.address()).await.0 - before.0, 5 * DOLLAR - 50_000);
    // There is no bounty, so the whole bond comes back.
    assert_eq!(requester.disputes().claim_refund(id).await.unwrap(), Usdc(DOLLAR));
}

#[tokio::test]
async fn bonds_come_back_where_the_kernels_admin_decides() {
    let game = Game::start().await;
    let [requester, provider, stranger] = game.parties();
    let ids = [game.disputed(Usdc(2 * DOLLAR)).await, game.disputed(Usdc(2 * DOLLAR)).await];
    for id in ids {
        requester.disputes().open(id).await.unwrap();
        requester.disputes().propose(id, Ruling::RequesterWins, Usdc(DOLLAR)).await.unwrap();
        refused(stranger.disputes().sync_external_resolution(id).await, Refusal::StillDisputed);
        game.resolve_as_admin(id, Usdc(2 * DOLLAR)).await;
    }
    let [synced, finalized] = ids;
    stranger.disputes().sync_external_resolution(synced).await.unwrap();
    game.pass(HOUR + 1).await;
    // It pays no bounty, since it decides nothing.
    assert_eq!(stranger.disputes().finalize(finalized).await.unwrap(), Usdc::ZERO);
    for id in ids {
        assert_eq!(requester.disputes().claim_refund(id).await.unwrap(), Usdc(DOLLAR));
        refused(provider.disputes().claim_refund(id).await, Refusal::NothingToClaim);
    }
    assert_eq!(game.balance(game.escalation()).await, Usdc::ZERO);
}
