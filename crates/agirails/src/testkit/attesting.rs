//! `anchorAttestation`.
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::B256;

use super::{
    Stage,
    scenario::{Flow, Scene, USDC, assert_events, refused},
};
use crate::{
    error::Result,
    protocol::{Event, Refusal, State, Transaction},
};

pub async fn parties_anchor_attestations_on_settled_transactions(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let id = play.in_state(State::Settled, USDC).await?;
    let old = play.tx(id).await?;
    let before = play.purses().await?;
    // The last one stays.
    for (attester, uid) in [(play.provider, 0xa1), (play.requester, 0xa2)] {
        let (cursor, since) = (play.cursor().await?, play.now().await?);
        let attestation_uid = B256::repeat_byte(uid);
        play.kernel.anchor_attestation(attester, id, attestation_uid).await?;
        assert_eq!(play.tx(id).await?, Transaction { attestation_uid, ..old.clone() });
        let announced = Event::AttestationAnchored {
            transaction_id: id,
            attestation_uid,
            attester,
            timestamp: 0,
        };
        let found = play.events_after(cursor).await?;
        assert_events(&found, &[announced], since, play.now().await?);
    }
    assert_eq!(play.purses().await? - before, Flow::NONE);
    Ok(())
}

pub async fn attestations_are_refused_in_the_order_of_the_checks(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let (unknown, uid) = (B256::repeat_byte(0xee), B256::repeat_byte(0xa7));
    let anchor = async |sender, id, uid| play.kernel.anchor_attestation(sender, id, uid).await;
    refused(anchor(play.stranger, unknown, B256::ZERO).await, Refusal::AttestationMissing);
    refused(anchor(play.stranger, unknown, uid).await, Refusal::TxMissing);
    for state in State::ALL.into_iter().filter(|state| *state != State::Settled) {
        let id = play.in_state(state, USDC).await?;
        refused(anchor(play.stranger, id, uid).await, Refusal::OnlySettled);
        refused(anchor(play.provider, id, uid).await, Refusal::OnlySettled);
    }
    let id = play.in_state(State::Settled, USDC).await?;
    refused(anchor(play.requester, id, B256::ZERO).await, Refusal::AttestationMissing);
    for other in [play.stranger, play.admin] {
        refused(anchor(other, id, uid).await, Refusal::NotParticipant);
    }
    Ok(())
}
