//! Somebody else comes first, a node falls silent, a process dies: never more is paid than was agreed
//! to, and never twice.

use std::{path::Path, sync::Arc, time::Duration};

use agirails::{
    ACTPClient, Code, Refusal, Ruling, Storage, Usdc,
    kernel::chain::{ChainKernel, ChainSettings},
};

use crate::fixture::{DOLLAR, Game, refused};

const ADVERSARY: usize = 2;

/// A dispute whose ruling is that the requester wins, and a challenge of the provider that finds
/// somebody else's in the block before it.
async fn overtaken(
    game: &Game,
    ruling: u8,
    max_bond: Usdc,
) -> (agirails::TransactionId, agirails::Result<Usdc>) {
    let [requester, provider, adversary] = game.parties();
    let id = game.disputed(Usdc(10 * DOLLAR)).await;
    requester.disputes().open(id).await.unwrap();
    requester.disputes().propose(id, Ruling::RequesterWins, Usdc(DOLLAR)).await.unwrap();
    game.approve(adversary.address(), 2 * DOLLAR).await;
    game.devnet.set_automine(false).await.unwrap();
    game.challenge_behind_our_back(game.client(ADVERSARY).address(), id, ruling).await;
    let disputes = provider.disputes();
    let challenge = disputes.challenge(id, Ruling::ProviderWins, max_bond);
    let mining = async {
        // Until then the challenge was read, allowed and sent; nothing is mined before that.
        let sent = game.sent(provider.address()).await;
        while game.sent(provider.address()).await < sent + 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        game.devnet.set_automine(true).await.unwrap();
        game.devnet.mine(1).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(challenge, mining);
    (id, outcome)
}

#[tokio::test]
async fn a_challenge_that_comes_second_pays_what_it_takes_then_within_its_limit() {
    let game = Game::start().await;
    let provider = game.client(1);
    let before = game.balance(provider.address()).await;
    // A split of nothing: the adversary's ruling differs from both.
    let (id, outcome) = overtaken(&game, 2, Usdc(4 * DOLLAR)).await;
    assert_eq!(outcome.unwrap(), Usdc(4 * DOLLAR));
    assert_eq!(before.0 - game.balance(provider.address()).await.0, 4 * DOLLAR);
    let standing = game.dispute(id).await;
    assert_eq!((standing.ruling, standing.pool), (Some(Ruling::ProviderWins), Usdc(7 * DOLLAR)));
    assert_eq!(game.allowance(provider.address()).await, Usdc::ZERO);
}

#[tokio::test]
async fn a_challenge_that_comes_second_never_pays_more_than_its_limit() {
    let game = Game::start().await;
    let provider = game.client(1);
    // An allowance of old would let the contract take the doubled bond.
    game.approve(provider.address(), 500 * DOLLAR).await;
    let before = game.balance(provider.address()).await;
    let (id, outcome) = overtaken(&game, 2, Usdc(3 * DOLLAR)).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), Code::PriceAboveLimit, "{error:?}");
    let facts = error.facts();
    assert_eq!((facts.required, facts.available), (Some(Usdc(4 * DOLLAR)), Some(Usdc(3 * DOLLAR))));
    assert_eq!(game.balance(provider.address()).await, before);
    // What was allowed is said, and replaced by the next try.
    assert!(error.hint().unwrap().contains("may still take 2.00 USDC"), "{error:#}");
    assert_eq!(game.allowance(provider.address()).await, Usdc(2 * DOLLAR));
    let bond = provider.disputes().challenge(id, Ruling::ProviderWins, Usdc(4 * DOLLAR)).await;
    assert_eq!(bond.unwrap(), Usdc(4 * DOLLAR));
    assert_eq!(game.allowance(provider.address()).await, Usdc::ZERO);
}

#[tokio::test]
async fn whoever_wants_what_somebody_else_just_proposed_pays_nothing() {
    let game = Game::start().await;
    let provider = game.client(1);
    let before = game.balance(provider.address()).await;
    let (_, outcome) = overtaken(&game, 0, Usdc(8 * DOLLAR)).await;
    refused(outcome, Refusal::SameRuling);
    assert_eq!(game.balance(provider.address()).await, before);
}

#[tokio::test]
async fn two_rulings_of_one_address_at_once_are_both_backed() {
    let game = Game::start().await;
    let [requester, ..] = game.parties();
    let ids = [game.disputed(Usdc(10 * DOLLAR)).await, game.disputed(Usdc(100 * DOLLAR)).await];
    for id in ids {
        requester.disputes().open(id).await.unwrap();
    }
    let disputes = requester.disputes();
    let (ruling, much) = (Ruling::RequesterWins, Usdc(10 * DOLLAR));
    let (small, large) = tokio::join!(
        disputes.propose(ids[0], ruling, much),
        disputes.propose(ids[1], ruling, much)
    );
    assert_eq!((small.unwrap(), large.unwrap()), (Usdc(DOLLAR), Usdc(2 * DOLLAR)));
    assert_eq!(game.allowance(requester.address()).await, Usdc::ZERO);
}

/// A process of the provider, with its state in this directory.
async fn process(game: &Game, directory: &Path) -> ACTPClient {
    let account = &game.devnet.accounts()[1];
    let mut settings = ChainSettings::new(game.devnet.profile().clone());
    settings.wallets = vec![Arc::new(account.private_key.clone())];
    settings.storage = Storage::Directory(directory.to_owned());
    settings.wait_timeout = Duration::from_millis(800);
    let kernel = Arc::new(ChainKernel::connect(settings).await.unwrap());
    ACTPClient::with_kernel(kernel, account.address)
}

#[tokio::test]
async fn a_call_whose_process_ended_is_found_by_the_next_one_and_not_paid_twice() {
    let game = Game::start().await;
    let [requester, provider, _] = game.parties();
    let id = game.disputed(Usdc(10 * DOLLAR)).await;
    requester.disputes().open(id).await.unwrap();
    requester.disputes().propose(id, Ruling::RequesterWins, Usdc(DOLLAR)).await.unwrap();
    let before = game.balance(provider.address()).await;
    let directory = tempfile::tempdir().unwrap();
    game.devnet.set_automine(false).await.unwrap();
    let (ruling, bond) = (Ruling::ProviderWins, Usdc(2 * DOLLAR));
    let first = process(&game, directory.path()).await;
    let unknown = first.disputes().challenge(id, ruling, bond).await.unwrap_err();
    assert_eq!(unknown.code(), Code::OutcomeUnknown, "{unknown:?}");
    drop(first);
    game.devnet.set_automine(true).await.unwrap();
    game.devnet.mine(1).await.unwrap();
    let second = process(&game, directory.path()).await;
    assert_eq!(second.disputes().challenge(id, ruling, bond).await.unwrap(), bond);
    assert_eq!(before.0 - game.balance(provider.address()).await.0, bond.0);
    assert_eq!(game.dispute(id).await.pool, Usdc(3 * DOLLAR));
    // Once that was told, the same call is another one.
    refused(second.disputes().challenge(id, ruling, bond).await, Refusal::SameRuling);
}
