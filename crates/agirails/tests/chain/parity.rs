//! What a chain refuses reads as what the embedded kernel refuses.

use agirails::{
    Address, B256, CreateTransaction, Error, Generation, LinkEscrow, Result, State, Storage, Usdc,
    kernel::{
        AgentQuery, Kernel, Transition,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    protocol::registry::ServiceDescriptor,
    testkit::Stage,
};

use crate::fixture::Local;

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
        let link = LinkEscrow { escrow_contract, escrow_id, most: None };
        kernel.link_escrow(by, id, link).await.map(drop)
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
        let transition = Transition { id, to, data: data.to_vec(), proof: None };
        kernel.transition_state(by, &transition).await.map(drop)
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
    let stage = Local::start(Generation::default()).await.unwrap();
    let mut parties = vec![];
    for _ in 0..3 {
        parties.push(stage.party().await.unwrap());
    }
    let parties: [Address; 3] = parties.try_into().unwrap();
    // As transactions are: neither chain nor kernel is part of an id.
    let deadline = stage.chain.now().await.unwrap() + 86_400;
    let options = EmbeddedOptions::new(Storage::Memory);
    let embedded = EmbeddedKernel::open(options).await.unwrap();
    let expected = refusals(&embedded, parties, deadline).await;
    let found = refusals(stage.chain.as_ref(), parties, deadline).await;
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!(found, expected);
        assert_eq!(found.hint(), expected.hint());
    }
}
