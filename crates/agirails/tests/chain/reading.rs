//! Reading takes few round trips, and a node that lags is not believed.

use std::time::{Duration, Instant};

use agirails::{
    B256, Code, CreateTransaction, Generation, LinkEscrow, State, U256, Usdc,
    kernel::{AgentQuery, Kernel},
    protocol::registry::ServiceDescriptor,
    testkit::Stage,
};
use agirails_devnet::{Fault, FaultProxy, Head, Rule};
use alloy_primitives::keccak256;
use alloy_sol_types::SolValue;
use serde_json::json;

use crate::fixture::{Local, connect, key, wallet};

#[tokio::test]
async fn reading_takes_one_round_trip() {
    let stage = Local::start(Generation::default()).await.unwrap();
    let (requester, provider) = (stage.party().await.unwrap(), stage.party().await.unwrap());
    let kernel = &stage.chain;
    let deadline = kernel.now().await.unwrap() + 86_400;
    let mut ids = vec![];
    for amount in 0..60 {
        let amount = Usdc(1_000_000 + amount);
        let request = CreateTransaction::new(requester, provider, amount, deadline);
        ids.push(kernel.create_transaction(requester, &request).await.unwrap());
    }
    kernel.link_escrow(requester, ids[0], LinkEscrow::default()).await.unwrap();

    let proxy = FaultProxy::start(stage.devnet.rpc_url()).unwrap();
    let mut profile = stage.devnet.profile().clone();
    profile.rpc_urls = vec![proxy.url().to_owned()];
    let reader = connect(&profile, vec![]).await.unwrap();
    assert_eq!(proxy.stats().requests, 1, "connecting");

    let expected = kernel.get_transaction(ids[0]).await.unwrap();
    let mut asked = proxy.stats().requests;
    let mut round_trips = || {
        let now = proxy.stats().requests;
        now - std::mem::replace(&mut asked, now)
    };
    assert_eq!(reader.get_transaction(ids[0]).await.unwrap(), expected);
    assert_eq!(round_trips(), 1);
    ids.insert(7, B256::repeat_byte(0xee));
    let found = reader.get_transactions(&ids).await.unwrap();
    assert_eq!(round_trips(), 1);
    assert_eq!(found.len(), 61);
    assert_eq!(found[0], Some(expected));
    assert_eq!(found[7], None);
    assert!(found.iter().zip(&ids).all(|(tx, id)| tx.as_ref().is_none_or(|tx| tx.id == *id)));
    assert!(reader.escrow(ids[0]).await.unwrap().active);
    assert_eq!(round_trips(), 1);
    assert_eq!(reader.get_transactions(&[]).await.unwrap(), []);
    assert_eq!(round_trips(), 0);

    let request = CreateTransaction::new(requester, provider, Usdc(1_000_000), deadline);
    let error = reader.create_transaction(requester, &request).await.unwrap_err();
    assert_eq!(error.code(), Code::KeyMissing);
    assert_eq!(round_trips(), 0);
}

#[tokio::test]
async fn long_profiles_are_read_in_parts() {
    let stage = Local::start(Generation::default()).await.unwrap();
    let registry = stage.chain.registry().unwrap();
    let services: Vec<_> =
        (0..60).map(|n| ServiceDescriptor::new(&format!("long-{n}")).unwrap()).collect();
    let mut agents = vec![];
    for _ in 0..12 {
        let agent = stage.party().await.unwrap();
        registry.register_agent(agent, &"x".repeat(256), &services).await.unwrap();
        agents.push(agent);
    }
    let service_type_hash = keccak256("long-7");
    let query = AgentQuery { service_type_hash, min_reputation: 0, offset: 0, limit: 100 };
    let found = registry.query_agents_by_service(query).await.unwrap();
    assert_eq!(found.iter().map(|agent| agent.agent_address).collect::<Vec<_>>(), agents);
    assert!(found.iter().all(|agent| agent.service_types.len() == 60));
}

#[tokio::test]
async fn a_node_that_has_not_seen_our_block_is_asked_again() {
    let stage = Local::start(Generation::default()).await.unwrap();
    let proxy = FaultProxy::start(stage.devnet.rpc_url()).unwrap();
    let mut profile = stage.devnet.profile().clone();
    profile.rpc_urls = vec![proxy.url().to_owned()];
    let (requester, provider) = (stage.party().await.unwrap(), stage.party().await.unwrap());
    let kernel = connect(&profile, vec![wallet(key(0)), wallet(key(1))]).await.unwrap();
    let deadline = kernel.now().await.unwrap() + 86_400;
    let request = CreateTransaction::new(requester, provider, Usdc(1_000_000), deadline);
    let id = kernel.create_transaction(requester, &request).await.unwrap();

    // It answers `Tx missing`, in a plain read and through the lens.
    proxy.add(Rule::new(Fault::Stale(Head::Behind(1))).times(3));
    assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Initiated);
    proxy.add(Rule::new(Fault::Stale(Head::Behind(1))).times(3));
    assert!(kernel.get_transactions(&[id]).await.unwrap()[0].is_some());
    // It would refuse what is allowed by now, and knows neither the transaction nor an allowance.
    proxy.add(Rule::new(Fault::Stale(Head::Behind(1))).times(3));
    kernel.link_escrow(requester, id, LinkEscrow::default()).await.unwrap();
    proxy.add(Rule::new(Fault::Stale(Head::Behind(1))).on("eth_call").times(3));
    assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Committed);

    // In the end it is believed: the block may be gone.
    let started = Instant::now();
    proxy.add(Rule::new(Fault::Stale(Head::Behind(1))));
    assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Initiated);
    assert!(started.elapsed() > Duration::from_secs(5));
    // Whoever sent nothing believes at once.
    let other = connect(&profile, vec![]).await.unwrap();
    let started = Instant::now();
    assert_eq!(other.get_transaction(id).await.unwrap().state, State::Initiated);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_allowance_that_another_call_used_up_is_given_again() {
    let stage = Local::start(Generation::default()).await.unwrap();
    let proxy = FaultProxy::start(stage.devnet.rpc_url()).unwrap();
    let mut profile = stage.devnet.profile().clone();
    profile.rpc_urls = vec![proxy.url().to_owned()];
    let (requester, provider) = (stage.party().await.unwrap(), stage.party().await.unwrap());
    let kernel = connect(&profile, vec![wallet(key(0)), wallet(key(1))]).await.unwrap();
    let deadline = kernel.now().await.unwrap() + 86_400;
    let request = CreateTransaction::new(requester, provider, Usdc(1_000_000), deadline);
    let id = kernel.create_transaction(requester, &request).await.unwrap();
    kernel.approve(requester, Usdc(1_000_000)).await.unwrap();

    // What was looked at first is not so any more when the call itself is estimated.
    let late = Fault::Delay(Duration::from_millis(1_500));
    proxy.add(Rule::new(late).on("eth_estimateGas").after(1).times(1));
    let link = kernel.link_escrow(requester, id, LinkEscrow::default());
    let used_up = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        // OpenZeppelin's ERC20 keeps allowances in its second slot.
        let inner = keccak256((requester, U256::from(1)).abi_encode_params());
        let slot = keccak256((profile.contracts.escrow_vault, inner).abi_encode_params());
        stage
            .devnet
            .rpc("anvil_setStorageAt", json!([profile.contracts.usdc, slot, B256::ZERO]))
            .await
    };
    let (linked, used_up) = tokio::join!(link, used_up);
    used_up.unwrap();
    linked.unwrap();
    assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Committed);
    assert_eq!(kernel.allowance(requester).await.unwrap(), Usdc(0));
    // Creation, approval, another approval, link.
    let sent = stage.devnet.rpc("eth_getTransactionCount", json!([requester, "latest"])).await;
    assert_eq!(sent.unwrap(), "0x4");
}
