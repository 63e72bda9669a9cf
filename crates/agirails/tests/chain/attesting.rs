//! Attestations of deliveries, from the provider's call to the requester's check.

use agirails::{
    B256, Code, CreateTransaction, Generation, LinkEscrow, Refusal, State, Usdc,
    kernel::{DeliveryAttestation, Kernel, Transition},
    testkit::Stage,
};

use crate::fixture::Local;

#[tokio::test]
async fn a_delivery_is_attested_and_checked() {
    let stage = Local::start(Generation::default()).await.unwrap();
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
    let service = kernel.attestations().unwrap();
    let error = service.attest(requester, &delivery).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::OnlyProvider));
    let uid = service.attest(provider, &delivery).await.unwrap();
    let transaction = kernel.get_transaction(id).await.unwrap();
    assert_eq!(service.verify(uid, &transaction).await.unwrap(), delivery);
    for unknown in [B256::ZERO, B256::repeat_byte(1)] {
        let error = service.verify(unknown, &transaction).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidAttestation);
    }
}
