//! What is refused, in which words, and that it moves nothing.

use std::sync::Arc;

use agirails::{
    ACTPClient, Address, Code, Contracts, Generation, NetworkProfile, Refusal, Ruling,
    TransactionId, Usdc,
};
use agirails_devnet::artifacts;
use alloy_sol_types::SolValue;

use crate::fixture::{DOLLAR, Game, connect, refused};

#[tokio::test]
async fn a_bond_above_the_limit_is_named_and_nothing_moves() {
    let game = Game::start().await;
    let [requester, provider, _] = game.parties();
    let id = game.disputed(Usdc(200 * DOLLAR)).await;
    requester.disputes().open(id).await.unwrap();
    let (sent, balance) =
        (game.sent(requester.address()).await, game.balance(requester.address()).await);
    for limit in [Usdc::ZERO, Usdc(4 * DOLLAR - 1)] {
        let proposed = requester.disputes().propose(id, Ruling::RequesterWins, limit).await;
        let error = proposed.unwrap_err();
        assert_eq!(error.code(), Code::PriceAboveLimit, "{error:?}");
        let words = format!("a bond of 4.00 USDC, and max_bond is {limit}");
        assert!(error.to_string().contains(&words), "{error}");
        let facts = error.facts();
        assert_eq!((facts.required, facts.available), (Some(Usdc(4 * DOLLAR)), Some(limit)));
        assert_eq!((facts.transaction_id, facts.field), (Some(id), Some("max_bond")));
    }
    assert_eq!(game.sent(requester.address()).await, sent);
    assert_eq!(game.balance(requester.address()).await, balance);
    assert_eq!(game.allowance(requester.address()).await, Usdc::ZERO);

    let four = Usdc(4 * DOLLAR);
    requester.disputes().propose(id, Ruling::RequesterWins, four).await.unwrap();
    let challenged = provider.disputes().challenge(id, Ruling::ProviderWins, four).await;
    assert_eq!(challenged.unwrap_err().code(), Code::PriceAboveLimit);
    assert_eq!(game.allowance(provider.address()).await, Usdc::ZERO);

    // Nor is more approved than an address owns.
    let poor = game.client(3);
    let (other, rest) = (requester.address(), game.balance(poor.address()).await);
    let rest = rest.0 - 7 * DOLLAR;
    game.give_away(poor.address(), other, rest).await;
    let challenged = poor.disputes().challenge(id, Ruling::ProviderWins, Usdc(8 * DOLLAR)).await;
    let error = challenged.unwrap_err();
    assert_eq!(error.code(), Code::InsufficientBalance, "{error:?}");
    let facts = error.facts();
    assert_eq!((facts.required, facts.available), (Some(Usdc(8 * DOLLAR)), Some(Usdc(7 * DOLLAR))));
    assert_eq!(game.allowance(poor.address()).await, Usdc::ZERO);
}

#[tokio::test]
async fn steps_out_of_order_are_refused_in_the_contracts_words() {
    let game = Game::start().await;
    let [requester, provider, _] = game.parties();
    let unknown = TransactionId::repeat_byte(9);
    let (one, other) = (Ruling::RequesterWins, Ruling::ProviderWins);
    let much = Usdc(100 * DOLLAR);
    assert_eq!(requester.disputes().get(unknown).await.unwrap(), None);
    refused(requester.disputes().open(unknown).await, Refusal::TxMissing);
    let id = game.disputed(Usdc(10 * DOLLAR)).await;
    for result in [
        requester.disputes().propose(id, one, much).await,
        requester.disputes().challenge(id, one, much).await,
        requester.disputes().finalize(id).await,
    ] {
        refused(result, Refusal::DisputeNotOpened);
    }
    requester.disputes().open(id).await.unwrap();
    refused(provider.disputes().open(id).await, Refusal::DisputeAlreadyOpened);
    refused(requester.disputes().challenge(id, one, much).await, Refusal::NoRulingStands);
    refused(requester.disputes().finalize(id).await, Refusal::NoRulingStands);
    requester.disputes().propose(id, one, much).await.unwrap();
    refused(requester.disputes().propose(id, one, much).await, Refusal::RulingProposed);
    refused(provider.disputes().propose(id, other, much).await, Refusal::RulingProposed);
    let error = refused(requester.disputes().challenge(id, one, much).await, Refusal::SameRuling);
    assert!(error.to_string().contains("requester wins, with a bond of 1.00 USDC"), "{error}");
    let beyond = Ruling::Split { provider_bps: 10_001 };
    let error = provider.disputes().challenge(id, beyond, much).await.unwrap_err();
    assert_eq!((error.code(), error.facts().field), (Code::InvalidRuling, Some("provider_bps")));

    let settled = game.disputed(Usdc(DOLLAR)).await;
    game.resolve_as_admin(settled, Usdc(DOLLAR)).await;
    let error = refused(requester.disputes().open(settled).await, Refusal::NotInDisputedState);
    assert_eq!(error.facts().state, Some(agirails::State::Settled));

    game.pause_disputes().await;
    let challenged = provider.disputes().challenge(id, other, much).await;
    refused(challenged, Refusal::DisputesPaused);
    // What stands is carried out all the same.
    game.pass(3_601).await;
    requester.disputes().finalize(id).await.unwrap();
}

/// What every verb ends in.
async fn each_fails_with(client: &ACTPClient, code: Code, named: &str) {
    let (id, disputes) = (TransactionId::repeat_byte(1), client.disputes());
    let (ruling, much) = (Ruling::ProviderWins, Usdc(DOLLAR));
    for (verb, error) in [
        ("open", disputes.open(id).await.unwrap_err()),
        ("propose", disputes.propose(id, ruling, much).await.unwrap_err()),
        ("challenge", disputes.challenge(id, ruling, much).await.unwrap_err()),
        ("finalize", disputes.finalize(id).await.unwrap_err()),
        ("claim_refund", disputes.claim_refund(id).await.unwrap_err()),
        ("force_resolve_stale", disputes.force_resolve_stale(id).await.unwrap_err()),
        ("sync_external_resolution", disputes.sync_external_resolution(id).await.unwrap_err()),
    ] {
        assert_eq!(error.code(), code, "{verb}: {error:?}");
        assert!(error.to_string().contains(named), "{verb}: {error}");
        assert!(error.hint().is_some(), "{verb}");
    }
}

#[tokio::test]
async fn networks_without_the_contract_say_what_is_missing() {
    for generation in Generation::ALL {
        let client = ACTPClient::builder()
            .address(Address::repeat_byte(0xc0))
            .in_memory()
            .generation(generation)
            .connect()
            .await
            .unwrap();
        let (code, named) = match generation {
            Generation::Aip14c => (Code::NetworkUnavailable, "the network mock has no contract"),
            _ => (Code::UnsupportedKernel, generation.as_str()),
        };
        each_fails_with(&client, code, named).await;
        let error = client.disputes().get(TransactionId::ZERO).await.unwrap_err();
        assert_eq!((error.code(), error.facts().field), (code, Some("bond_escalation")));
    }
}

#[tokio::test]
async fn a_contract_of_another_deployment_gets_no_money() {
    let game = Game::start().await;
    let good = game.devnet.profile();
    let [admin, someone] = [game.devnet.admin().address, game.devnet.accounts()[0].address];
    let Contracts { actp_kernel, escrow_vault, usdc, .. } = good.contracts;
    let mut deployed = vec![];
    for (kernel, token) in [(escrow_vault, usdc), (actp_kernel, escrow_vault)] {
        let arguments = (kernel, token, admin, admin).abi_encode_params();
        let contract = artifacts::BOND_ESCALATION;
        deployed.push(game.devnet.deploy(contract, &arguments).await.unwrap());
    }
    for (address, code, words) in [
        (deployed[0], Code::InvalidSettings, "names another kernel"),
        (deployed[1], Code::InvalidSettings, "names another USDC token"),
        (usdc, Code::InvalidSettings, "names no kernel"),
        (someone, Code::ContractMissing, "is an account"),
    ] {
        let contracts = Contracts { bond_escalation: Some(address), ..good.contracts };
        let wrong = NetworkProfile { contracts, ..good.clone() };
        let kernel = Arc::new(connect(&game.devnet, wrong).await);
        let client = ACTPClient::with_kernel(kernel, someone);
        each_fails_with(&client, code, words).await;
    }
    let without = Contracts { bond_escalation: None, ..good.contracts };
    let without = NetworkProfile { contracts: without, ..good.clone() };
    let kernel = Arc::new(connect(&game.devnet, without).await);
    let client = ACTPClient::with_kernel(kernel, someone);
    each_fails_with(&client, Code::NetworkUnavailable, "the network devnet has no contract").await;
}
