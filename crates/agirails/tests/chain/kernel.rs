//! The kernel on a local chain reads in few round trips, and says what is wrong where a network is
//! not what its profile says.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use agirails::{
    Address, B256, Code, CreateTransaction, Error, LinkEscrow, NetworkProfile, PrivateKey, Refusal,
    Result, State, Storage, U256, Usdc, Wallet,
    kernel::{
        AgentQuery, Kernel, Transition,
        chain::{ChainKernel, ChainSettings, DeliveryAttestation},
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    protocol::registry::ServiceDescriptor,
    testkit::{Need, SCENARIOS, Stage, Watch},
};
use agirails_devnet::{Devnet, Fault, FaultProxy, Head, Rule, artifacts};
use alloy_primitives::keccak256;
use alloy_sol_types::SolValue;
use async_trait::async_trait;
use futures_util::FutureExt;
use serde_json::json;

use crate::stage::{OnChain, key, settings};

#[tokio::test]
async fn reading_takes_one_round_trip() {
    let stage = OnChain::open(false).await.unwrap();
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
    let reader = ChainKernel::connect(settings(&profile, &[])).await.unwrap();
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
    let stage = OnChain::open(false).await.unwrap();
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
async fn a_network_that_is_not_its_profiles_is_named() {
    let devnet = Devnet::start().await.unwrap();
    let sound = devnet.profile().clone();
    let usdc = sound.contracts.usdc;
    let account = devnet.accounts()[0].address;
    let old = devnet.deploy(artifacts::OLD_KERNEL, &[]).await.unwrap();
    let admin = devnet.admin().address;
    let rules = (admin, admin, admin, Address::ZERO, usdc, U256::from(3_600));
    let rules = rules.abi_encode_params();
    let newer = devnet.deploy(artifacts::NEWER_KERNEL, &rules).await.unwrap();
    let vault = (usdc, newer).abi_encode_params();
    let newer_vault = devnet.deploy(artifacts::ESCROW_VAULT, &vault).await.unwrap();

    let connect = async |change: &dyn Fn(&mut NetworkProfile)| {
        let mut profile = sound.clone();
        change(&mut profile);
        ChainKernel::connect(settings(&profile, &[])).await
    };
    type Change<'a> = &'a dyn Fn(&mut NetworkProfile);
    let changes: &[(Change<'_>, Code, &str)] = &[
        (&|profile| profile.chain_id = 84_532, Code::WrongChain, "chain 31337"),
        (&|p| p.contracts.actp_kernel = account, Code::ContractMissing, "kernel 0x"),
        (&|p| p.contracts.escrow_vault = account, Code::ContractMissing, "vault 0x"),
        (&|p| p.contracts.usdc = account, Code::ContractMissing, "USDC token 0x"),
        (&|p| p.contracts.agent_registry = Some(account), Code::ContractMissing, "agent registry"),
        (&|p| p.contracts.eas = Some(account), Code::ContractMissing, "EAS"),
        (&|p| p.contracts.actp_kernel = old, Code::UnsupportedKernel, "until May 2026"),
        (&|p| p.contracts.actp_kernel = usdc, Code::UnsupportedKernel, "no ACTP kernel"),
        (&|p| p.contracts.actp_kernel = newer, Code::InvalidSettings, "the vault names"),
        (&|p| p.contracts.usdc = p.contracts.eas.unwrap(), Code::InvalidSettings, "usdc"),
    ];
    for (change, code, words) in changes {
        let error = connect(change).await.unwrap_err();
        assert_eq!(error.code(), *code, "{words}: {error:?}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(error.hint().is_some());
    }
    let bare = connect(&|p| p.contracts.agent_registry = None).await.unwrap();
    assert!(bare.registry().is_none());
    let change = |profile: &mut NetworkProfile| {
        profile.contracts.actp_kernel = newer;
        profile.contracts.escrow_vault = newer_vault;
    };
    let newer = connect(&change).await.unwrap();
    assert_eq!(newer.network().archive_treasury, None);
    let error = newer.get_transaction(B256::repeat_byte(1)).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::TxMissing));
}

#[tokio::test]
async fn a_node_that_has_not_seen_our_block_is_asked_again() {
    let stage = OnChain::open(false).await.unwrap();
    let proxy = FaultProxy::start(stage.devnet.rpc_url()).unwrap();
    let mut profile = stage.devnet.profile().clone();
    profile.rpc_urls = vec![proxy.url().to_owned()];
    let (requester, provider) = (stage.party().await.unwrap(), stage.party().await.unwrap());
    let kernel = ChainKernel::connect(settings(&profile, &[key(0), key(1)])).await.unwrap();
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
    proxy.add(Rule::new(Fault::Stale(Head::Behind(2))).on("eth_call").times(3));
    assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Committed);

    // In the end it is believed: the block may be gone.
    let started = Instant::now();
    proxy.add(Rule::new(Fault::Stale(Head::Behind(2))));
    assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Initiated);
    assert!(started.elapsed() > Duration::from_secs(5));
    // Whoever sent nothing believes at once.
    let other = ChainKernel::connect(settings(&profile, &[])).await.unwrap();
    let started = Instant::now();
    assert_eq!(other.get_transaction(id).await.unwrap().state, State::Initiated);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_allowance_that_another_call_used_up_is_given_again() {
    let stage = OnChain::open(false).await.unwrap();
    let proxy = FaultProxy::start(stage.devnet.rpc_url()).unwrap();
    let mut profile = stage.devnet.profile().clone();
    profile.rpc_urls = vec![proxy.url().to_owned()];
    let (requester, provider) = (stage.party().await.unwrap(), stage.party().await.unwrap());
    let kernel = ChainKernel::connect(settings(&profile, &[key(0), key(1)])).await.unwrap();
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
        let nothing = (profile.contracts.escrow_vault, U256::ZERO).abi_encode_params();
        let data = [&keccak256("approve(address,uint256)")[..4], &nothing].concat();
        stage.devnet.send(requester, Some(profile.contracts.usdc), data.into()).await
    };
    let (linked, used_up) = tokio::join!(link, used_up);
    used_up.unwrap();
    linked.unwrap();
    assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Committed);
    assert_eq!(kernel.allowance(requester).await.unwrap(), Usdc(0));
}

/// The same calls on both kernels, and what each said where it refused.
async fn refusals(
    kernel: &dyn Kernel,
    [requester, provider, stranger]: [Address; 3],
    deadline: u64,
) -> Vec<Error> {
    let sound = CreateTransaction::new(requester, provider, Usdc(1_000_000), deadline);
    let dear = CreateTransaction { amount: Usdc(2_000_000_000), ..sound.clone() };
    let id = kernel.create_transaction(requester, &sound).await.unwrap();
    let dear = kernel.create_transaction(requester, &dear).await.unwrap();
    let unknown = B256::repeat_byte(0xee);
    let mut errors = vec![];
    let mut note = |outcome: Result<()>| errors.push(outcome.unwrap_err());

    for request in [
        CreateTransaction { requester: stranger, ..sound.clone() },
        CreateTransaction { provider: requester, ..sound.clone() },
        CreateTransaction { amount: Usdc(49_999), ..sound.clone() },
        CreateTransaction { dispute_window_seconds: 1, ..sound.clone() },
    ] {
        note(kernel.create_transaction(requester, &request).await.map(drop));
    }
    let link = async |by, id, escrow_contract, escrow_id| {
        kernel.link_escrow(by, id, LinkEscrow { escrow_contract, escrow_id }).await.map(drop)
    };
    note(link(requester, unknown, None, None).await);
    note(link(requester, unknown, Some(Address::ZERO), None).await);
    note(link(requester, id, Some(stranger), None).await);
    note(link(requester, id, None, Some(B256::ZERO)).await);
    note(link(stranger, id, None, None).await);
    note(link(requester, dear, None, None).await);
    link(requester, id, None, None).await.unwrap();
    note(link(requester, dear, None, Some(id)).await);
    note(link(requester, id, None, None).await);

    let step = async |by, id, to, data: &[u8]| {
        kernel.transition_state(by, &Transition { id, to, data: data.to_vec(), proof: None }).await
    };
    note(step(stranger, unknown, State::Quoted, &[]).await);
    note(step(stranger, id, State::Committed, &[]).await);
    note(step(stranger, id, State::InProgress, &[]).await);
    note(step(requester, id, State::Cancelled, &[]).await);
    step(provider, id, State::InProgress, &[]).await.unwrap();
    note(step(provider, id, State::Delivered, &[1]).await);
    note(kernel.accept_quote(requester, id, Usdc(1)).await);
    note(kernel.accept_quote(requester, id, Usdc(100_000)).await);
    note(kernel.release_milestone(requester, id, Usdc(0)).await);
    note(kernel.release_milestone(requester, id, Usdc(2_000_000)).await);
    note(kernel.release_milestone(requester, id, Usdc(1)).await);
    step(provider, id, State::Delivered, &[]).await.unwrap();
    note(step(stranger, id, State::Disputed, &[]).await);
    step(requester, id, State::Disputed, &[]).await.unwrap();
    let admin = kernel.network().admin;
    note(step(admin, id, State::Settled, &[]).await);
    note(step(admin, id, State::Settled, &[1; 31]).await);
    note(kernel.release_escrow(stranger, id).await);
    note(kernel.anchor_attestation(stranger, id, B256::ZERO).await);
    note(kernel.anchor_attestation(stranger, id, unknown).await);
    note(kernel.escrow(unknown).await.map(drop));
    note(kernel.delivery_proof(unknown).await.map(drop));

    let registry = kernel.registry().unwrap();
    note(registry.register_agent(provider, "", &[]).await);
    note(registry.update_endpoint(provider, "x").await);
    let service = ServiceDescriptor::new("ai").unwrap();
    let hash = service.service_type_hash;
    registry.register_agent(provider, "x", &[service]).await.unwrap();
    note(registry.register_agent(provider, "x", &[]).await);
    note(registry.add_service_type(provider, "ai").await);
    note(registry.add_service_type(provider, "AI").await);
    note(registry.remove_service_type(provider, unknown).await);
    let query = AgentQuery { service_type_hash: hash, min_reputation: 0, offset: 0, limit: 0 };
    note(registry.query_agents_by_service(query).await.map(drop));
    errors
}

#[tokio::test]
async fn refusals_read_as_the_embedded_kernels_do() {
    let stage = OnChain::open(false).await.unwrap();
    let mut parties = vec![];
    for _ in 0..3 {
        parties.push(stage.party().await.unwrap());
    }
    let parties: [Address; 3] = parties.try_into().unwrap();
    // As transactions are: neither chain nor kernel is part of an id.
    let deadline = stage.chain.now().await.unwrap() + 86_400;
    let options = EmbeddedOptions { storage: Storage::Memory, starting_balance: None };
    let embedded = EmbeddedKernel::open(options).await.unwrap();
    let expected = refusals(&embedded, parties, deadline).await;
    let found = refusals(stage.chain.as_ref(), parties, deadline).await;
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!(found, expected);
        assert_eq!(found.hint(), expected.hint());
    }
}

#[tokio::test]
async fn a_delivery_is_attested_and_checked() {
    let stage = OnChain::open(false).await.unwrap();
    let kernel = &stage.chain;
    let (requester, provider) = (stage.party().await.unwrap(), stage.party().await.unwrap());
    let deadline = kernel.now().await.unwrap() + 86_400;
    let request = CreateTransaction::new(requester, provider, Usdc(1_000_000), deadline);
    let id = kernel.create_transaction(requester, &request).await.unwrap();
    kernel.link_escrow(requester, id, LinkEscrow::default()).await.unwrap();
    for to in [State::InProgress, State::Delivered] {
        let step = Transition { id, to, data: vec![], proof: None };
        kernel.transition_state(provider, &step).await.unwrap();
    }
    let delivery = DeliveryAttestation {
        transaction_id: id,
        result_cid: "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi".to_owned(),
        result_hash: B256::repeat_byte(7),
        delivered_at: deadline - 86_000,
    };
    let error = kernel.attest(requester, &delivery).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::OnlyProvider));
    let uid = kernel.attest(provider, &delivery).await.unwrap();
    let transaction = kernel.get_transaction(id).await.unwrap();
    assert_eq!(kernel.verify_attestation(uid, &transaction).await.unwrap(), delivery);
    for unknown in [B256::ZERO, B256::repeat_byte(1)] {
        let error = kernel.verify_attestation(unknown, &transaction).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidAttestation);
    }
}
