//! The client that the builder makes, on a chain: keys, keystores, reading only, and release.

use std::{sync::Arc, time::Duration};

use agirails::{
    ACTPClient, Address, B256, ClientBuilder, Code, CreateTransaction, DeliveryStatement, Evidence,
    Kind, Mode, NetworkProfile, PrivateKey, State, TransactionId, U256, Usdc,
    protocol::{
        canonical_json::result_hash,
        proof::{DeliveryProofRequest, ProofGenerator, Verification},
    },
};
use agirails_devnet::Devnet;
use serde_json::json;

use crate::fixture::key;

const PASSWORD: &str = "correct horse";

fn builder(profile: &NetworkProfile) -> ClientBuilder {
    ACTPClient::builder().mode(Mode::Testnet).network_profile(profile.clone())
}

/// A devnet, and a consumer and a provider on it with money.
struct Call {
    devnet: Devnet,
    consumer: ACTPClient,
    provider: ACTPClient,
}

impl Call {
    async fn start() -> Self {
        let devnet = Devnet::start().await.unwrap();
        let [consumer, provider] = [key(1), key(2)];
        for key in [&consumer, &provider] {
            let wei = U256::from(10).pow(U256::from(20));
            devnet.set_eth(key.address(), wei).await.unwrap();
            devnet.mint(key.address(), Usdc(1_000_000_000)).await.unwrap();
        }
        let profile = devnet.profile();
        let connect = |key: PrivateKey| builder(profile).wallet(Arc::new(key)).in_memory();
        let consumer = connect(consumer).connect().await.unwrap();
        let provider = connect(provider).connect().await.unwrap();
        Self { devnet, consumer, provider }
    }

    async fn delivered(&self) -> TransactionId {
        let deadline = self.consumer.now().await.unwrap() + 3_600;
        let (from, to) = (self.consumer.address(), self.provider.address());
        let request = CreateTransaction::new(from, to, Usdc(2_000_000), deadline);
        let id = self.consumer.create_transaction(&request).await.unwrap();
        self.consumer.link_escrow(id).await.unwrap();
        let step = |to| self.provider.transition_state(id, to, Evidence::None);
        step(State::InProgress).await.unwrap();
        step(State::Delivered).await.unwrap();
        id
    }
}

#[tokio::test]
async fn gas_money_is_told_and_test_money_made() {
    let Call { devnet, consumer, .. } = Call::start().await;
    let before = consumer.balance().await.unwrap();
    consumer.mint_test_usdc(Usdc(5_000_000)).await.unwrap();
    assert_eq!(consumer.balance().await.unwrap(), Usdc(before.0 + 5_000_000));
    let wei = consumer.gas_balance().await.unwrap().unwrap();
    assert!(wei < U256::from(10).pow(U256::from(20)) && !wei.is_zero(), "gas was paid");

    let profile = devnet.profile();
    let reader = builder(profile).address(Address::repeat_byte(7)).in_memory();
    let reader = reader.connect().await.unwrap();
    assert_eq!(reader.gas_balance().await.unwrap(), Some(U256::ZERO));
    let error = reader.mint_test_usdc(Usdc(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::KeyMissing);
}

#[tokio::test]
async fn a_signed_and_attested_delivery_is_released_and_a_forged_one_is_not() {
    let call = Call::start().await;
    let Call { consumer, provider, .. } = &call;
    let (id, result) = (call.delivered().await, json!({"text": "a haiku"}));
    let statement = DeliveryStatement {
        transaction_id: id,
        result_hash: result_hash(&result).unwrap(),
        ..DeliveryStatement::default()
    };
    let uid = provider.attest_delivery(statement.clone()).await.unwrap();
    let other = DeliveryStatement { result_hash: B256::repeat_byte(7), ..statement.clone() };
    let others = provider.attest_delivery(other).await.unwrap();
    let statement = DeliveryStatement { eas_attestation_uid: uid, ..statement };
    let signed = provider.sign_delivery(statement).await.unwrap();

    let refuse = async |verification: Verification, code, field| {
        let error = consumer.release(id, &verification).await.unwrap_err();
        assert_eq!((error.code(), error.facts().field), (code, Some(field)), "{error:?}");
        assert_eq!(consumer.get_transaction(id).await.unwrap().state, State::Delivered);
    };
    let attested = |uid| Verification {
        attestation: Some(uid),
        result: Some(result.clone()),
        ..Verification::default()
    };
    refuse(attested(others), Code::InvalidAttestation, "resultHash").await;
    refuse(attested(B256::repeat_byte(9)), Code::InvalidAttestation, "attestation_uid").await;
    let sound = Verification {
        signed: Some(signed.clone()),
        result: Some(result.clone()),
        ..Verification::default()
    };
    let mut forged = sound.clone();
    let message = &mut forged.signed.as_mut().unwrap().message;
    message.consumer = message.provider.clone();
    refuse(forged, Code::ProofMismatch, "consumer").await;
    let proof = ProofGenerator
        .generate_delivery_proof(DeliveryProofRequest {
            transaction_id: id,
            deliverable: b"a haiku",
            ..DeliveryProofRequest::default()
        })
        .unwrap();
    let content =
        Verification { deliverable: Some(b"a haikU".into()), proof: Some(proof), ..sound };
    refuse(content.clone(), Code::ProofMismatch, "contentHash").await;
    let sound = Verification { deliverable: Some(b"a haiku".into()), ..content };
    consumer.release(id, &sound).await.unwrap();
    assert_eq!(consumer.get_transaction(id).await.unwrap().state, State::Settled);
}

#[tokio::test]
async fn a_client_without_key_reads_and_writes_nothing() {
    let call = Call::start().await;
    let id = call.delivered().await;
    let builder = builder(call.devnet.profile()).in_memory();
    let watcher = builder.address(call.consumer.address()).connect().await.unwrap();
    assert_eq!(watcher.get_transaction(id).await.unwrap().state, State::Delivered);
    assert_eq!(watcher.balance().await.unwrap(), Usdc(998_000_000));
    let settled = watcher.transition_state(id, State::Settled, Evidence::None).await;
    let error = settled.unwrap_err();
    assert_eq!(error.code(), Code::KeyMissing);
    assert!(error.hint().unwrap().contains("keystore"));
}

#[tokio::test]
async fn a_keystore_opens_and_keys_of_a_local_chain_need_no_warning() {
    let devnet = Devnet::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.json");
    std::fs::write(&file, key(1).to_keystore(PASSWORD).unwrap()).unwrap();
    let connect = || builder(devnet.profile()).state_directory(directory.path());

    let clear = connect().private_key(key(1)).connect().await.unwrap();
    assert!(clear.warnings().is_empty());
    let kept = connect().keystore(&file, PASSWORD).connect().await.unwrap();
    assert_eq!(kept.address(), key(1).address());
    assert!(kept.warnings().is_empty());
    let error = connect().keystore(&file, "another").connect().await.unwrap_err();
    assert_eq!(error.code(), Code::WrongPassword);
}

#[tokio::test]
async fn urls_contracts_and_limits_reach_the_kernel() {
    let devnet = Devnet::start().await.unwrap();
    let elsewhere = NetworkProfile {
        rpc_urls: vec!["http://127.0.0.1:9".to_owned()],
        ..devnet.profile().clone()
    };
    let connect = || builder(&elsewhere).private_key(key(1)).in_memory();
    let error = connect().connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network);

    let client = connect().rpc_url("http://127.0.0.1:9").rpc_url(devnet.rpc_url());
    let client =
        client.confirmations(1).wait_timeout(Duration::from_secs(5)).connect().await.unwrap();
    assert_eq!(client.network().chain_id, devnet.profile().chain_id);

    let nobody = Address::repeat_byte(7);
    let contracts = agirails::Contracts { actp_kernel: nobody, ..elsewhere.contracts };
    let error =
        connect().rpc_url(devnet.rpc_url()).contracts(contracts).connect().await.unwrap_err();
    assert_eq!(error.code(), Code::ContractMissing);

    let wei = U256::from(10).pow(U256::from(20));
    devnet.set_eth(key(1).address(), wei).await.unwrap();
    let cheap = connect().rpc_url(devnet.rpc_url()).max_fee_per_gas(1).connect().await.unwrap();
    assert_eq!(cheap.approve(Usdc(1)).await.unwrap_err().code(), Code::FeeAboveLimit);
}
