//! Delivery proofs, through [`crate::ACTPClient`].
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::B256;
use serde_json::json;

use super::{
    Stage,
    scenario::{HOUR, Scene, USDC, failed, refused, word},
};
use crate::{
    client::Evidence,
    error::{Code, Result},
    protocol::{
        CreateTransaction, DisputeWindow, Refusal, State, TransactionId,
        proof::{DeliveryProof, DeliveryProofRequest, ProofGenerator},
    },
};

fn proof_of(transaction_id: TransactionId) -> Result<DeliveryProof> {
    Ok(ProofGenerator.generate_delivery_proof(DeliveryProofRequest {
        transaction_id,
        deliverable: b"the answer is 42",
        delivery_url: Some("https://provider.example/answers/42".to_owned()),
        metadata: [("note".to_owned(), json!({"unit": "°C", "of": [1, 2.5]}))]
            .into_iter()
            .collect(),
        timestamp_ms: 1_780_000_000_123,
    })?)
}

pub async fn a_delivery_proof_never_reaches_the_kernel_and_is_found_again(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (provider, requester) = (play.client(play.provider), play.client(play.requester));

    // Whole, as the recipe has it.
    let id = play.in_state(State::InProgress, USDC).await?;
    assert_eq!(requester.get_delivery_proof(id).await?, None);
    let proof = proof_of(id)?;
    provider.transition_state(id, State::Delivered, proof.clone().into()).await?;
    assert_eq!(requester.get_delivery_proof(id).await?, Some(proof.clone()));
    let tx = play.tx(id).await?;
    assert_eq!(tx.metadata, B256::ZERO);
    // Where a delivery commits to its result, it commits to what its proof says.
    assert_eq!(tx.result_hash, play.committed(proof.content_hash));

    // In its 96 bytes, which hold neither URL nor metadata.
    let id = play.in_state(State::InProgress, USDC).await?;
    let encoded = provider.proof_generator().encode_proof(&proof_of(id)?);
    assert_eq!(encoded.len(), 96);
    provider.transition_state(id, State::Delivered, encoded.as_slice().into()).await?;
    let kept = requester.get_delivery_proof(id).await?;
    let bare = DeliveryProof { delivery_url: None, metadata: Default::default(), ..proof_of(id)? };
    assert_eq!(kept, Some(bare));

    // It outlives the settlement.
    play.step(play.requester, id, State::Settled).await?;
    assert!(requester.get_delivery_proof(id).await?.is_some());

    // Without a proof there is none, and of nothing neither.
    let id = play.in_state(State::Delivered, USDC).await?;
    assert_eq!(requester.get_delivery_proof(id).await?, None);
    let outcome = requester.get_delivery_proof(B256::repeat_byte(0xee)).await;
    refused(outcome, Refusal::TxMissing);
    Ok(())
}

pub async fn a_delivery_proof_opens_the_window_of_the_creation(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    for dispute_window_seconds in [HOUR, 5 * HOUR, 30 * 24 * HOUR] {
        let request = play.request(USDC).await?;
        let id = play.create(&CreateTransaction { dispute_window_seconds, ..request }).await?;
        play.link(id).await?;
        play.step(play.provider, id, State::InProgress).await?;
        let client = play.client(play.provider);
        client.transition_state(id, State::Delivered, proof_of(id)?.into()).await?;
        let tx = play.tx(id).await?;
        let end = DisputeWindow::EndsAt(tx.updated_at + dispute_window_seconds);
        assert_eq!(tx.dispute_window, end);
    }
    Ok(())
}

pub async fn a_32_byte_delivery_is_the_window_that_it_is(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let client = play.client(play.provider);
    let id = play.in_state(State::InProgress, USDC).await?;
    let window = client.transition_state(id, State::Delivered, word(7_200).as_slice().into()).await;
    if play.terms.takes_results() {
        refused(window, Refusal::DeliveryProofMalformed);
        assert_eq!(play.state(id).await?, State::InProgress);
        return Ok(());
    }
    window?;
    let tx = play.tx(id).await?;
    assert_eq!(tx.dispute_window, DisputeWindow::EndsAt(tx.updated_at + 7_200));
    assert_eq!(client.get_delivery_proof(id).await?, None);
    Ok(())
}

pub async fn a_proof_of_another_transaction_is_refused(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let client = play.client(play.provider);
    let id = play.in_state(State::InProgress, USDC).await?;
    let foreign = proof_of(play.in_state(State::InProgress, USDC).await?)?;
    let encoded = client.proof_generator().encode_proof(&foreign);
    for evidence in [foreign.into(), encoded.as_slice().into()] {
        let outcome = client.transition_state(id, State::Delivered, evidence).await;
        let error = failed(outcome, Code::ProofMismatch);
        assert_eq!(error.and_then(|error| error.facts().transaction_id), Some(id));
    }
    assert_eq!(play.state(id).await?, State::InProgress);
    assert_eq!(client.get_delivery_proof(id).await?, None);
    Ok(())
}

pub async fn a_proof_belongs_to_a_delivery(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Committed, USDC).await?;
    let client = play.client(play.provider);
    for to in State::ALL.into_iter().filter(|to| *to != State::Delivered) {
        let outcome = client.transition_state(id, to, proof_of(id)?.into()).await;
        failed(outcome, Code::InvalidProof);
    }
    // Its bytes are then just bytes.
    let id = play.in_state(State::Initiated, USDC).await?;
    let encoded = client.proof_generator().encode_proof(&proof_of(id)?);
    let outcome = client.transition_state(id, State::Quoted, encoded.as_slice().into()).await;
    refused(outcome, Refusal::QuoteHashLength);
    Ok(())
}

pub async fn a_refused_delivery_keeps_no_proof(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::InProgress, USDC).await?;
    let deliver = async |by| {
        play.client(by).transition_state(id, State::Delivered, proof_of(id)?.into()).await
    };
    refused(deliver(play.requester).await, Refusal::OnlyProvider);
    play.miss_delivery(id).await?;
    refused(deliver(play.provider).await, play.too_late());
    assert_eq!(play.client(play.requester).get_delivery_proof(id).await?, None);

    // A second delivery leaves the first one's proof.
    let id = play.in_state(State::InProgress, USDC).await?;
    let client = play.client(play.provider);
    client.transition_state(id, State::Delivered, proof_of(id)?.into()).await?;
    let other = DeliveryProof { content_hash: B256::repeat_byte(9), ..proof_of(id)? };
    let outcome = client.transition_state(id, State::Delivered, other.into()).await;
    refused(outcome, Refusal::NoOp);
    assert_eq!(client.get_delivery_proof(id).await?, Some(proof_of(id)?));
    Ok(())
}

pub async fn other_lengths_reach_the_kernel_and_its_words(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let client = play.client(play.provider);
    let id = play.in_state(State::InProgress, USDC).await?;
    let takes_results = play.terms.takes_results();
    for length in [1, 31, 33, 64, 95, 97, 128] {
        let evidence = Evidence::Bytes(vec![0; length]);
        let outcome = client.transition_state(id, State::Delivered, evidence).await;
        let word = match (takes_results, length) {
            (true, 64) => Refusal::DisputeWindowTooShort,
            (true, _) => Refusal::DeliveryProofMalformed,
            (false, _) => Refusal::InvalidDisputeWindowProof,
        };
        refused(outcome, word);
    }
    let nothing = client.transition_state(id, State::Delivered, Evidence::None).await;
    if takes_results {
        refused(nothing, Refusal::DeliveryProofMalformed);
    } else {
        nothing?;
    }
    Ok(())
}
