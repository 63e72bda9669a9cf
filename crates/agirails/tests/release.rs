//! A careful consumer pays for what was delivered and for nothing else; and on mainnet no client
//! risks more than the limit.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[macro_use]
mod kernel_in_front;

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use agirails::{
    ACTPClient, Address, B256, Code, CreateTransaction, DeliveryStatement, Error, Evidence,
    Generation, LinkEscrow, MAINNET_LIMIT, Network, PrivateKey, Refusal, Result, State,
    Transaction, TransactionId, U256, Usdc,
    kernel::{
        Attestations, DeliveryAttestation, GasCost, Kernel, TransactionQuery, Transition,
        embedded::EmbeddedKernel,
    },
    protocol::{
        canonical_json::result_hash,
        did::{Did, WrittenDid},
        proof::{
            DeliveryMessage, DeliveryProof, DeliveryProofRequest, ProofGenerator, SignedDelivery,
            Verification,
        },
    },
};
use async_trait::async_trait;
use serde_json::{Value, json};

const CONSUMER: Address = Address::repeat_byte(0xc0);
const STRANGER: Address = Address::repeat_byte(0x57);
const CONTENT: &[u8] = b"a haiku";

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[track_caller]
fn refused<T: Debug>(outcome: Result<T>, code: impl Into<Option<Code>>, field: &str) -> Error {
    let error = outcome.unwrap_err();
    assert_eq!(Some(error.code()), code.into(), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.len() > 10), "{error:?}");
    assert_eq!(error.facts().field.unwrap_or(""), field, "{error:?}");
    error
}

/// The embedded kernel under another network's name, with an attestation service if there is one.
#[derive(Debug)]
struct Elsewhere {
    kernel: Arc<EmbeddedKernel>,
    network: Network,
    attestations: Option<Book>,
}

/// Attestations by UID: who attested what.
#[derive(Debug, Default)]
struct Book(Mutex<HashMap<B256, (Address, DeliveryAttestation)>>);

#[async_trait]
impl Attestations for Book {
    async fn attest(&self, sender: Address, delivery: &DeliveryAttestation) -> Result<B256> {
        let mut book = self.0.lock().unwrap();
        let uid = B256::with_last_byte(u8::try_from(book.len() + 1).unwrap());
        book.insert(uid, (sender, delivery.clone()));
        Ok(uid)
    }

    async fn verify(&self, uid: B256, transaction: &Transaction) -> Result<DeliveryAttestation> {
        let book = self.0.lock().unwrap();
        match book.get(&uid) {
            Some((sender, delivery))
                if (*sender, delivery.transaction_id) == (transaction.provider, transaction.id) =>
            {
                Ok(delivery.clone())
            }
            _ => {
                let error = Error::new(Code::InvalidAttestation, "it is another's");
                Err(error.with_hint("do not settle on it"))
            }
        }
    }
}

kernel_in_front! {
    impl Kernel for Elsewhere {
        fn network(&self) -> &Network {
            &self.network
        }
        async fn now(&self) -> Result<u64> {
            self.kernel.now().await
        }
        async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
            self.kernel.get_transaction(id).await
        }
        async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
            self.kernel.find_transactions(query).await
        }
        async fn balance(&self, owner: Address) -> Result<Usdc> {
            self.kernel.balance(owner).await
        }
        async fn create_transaction(
            &self,
            sender: Address,
            request: &CreateTransaction,
        ) -> Result<TransactionId> {
            self.kernel.create_transaction(sender, request).await
        }
        async fn link_escrow(
            &self,
            sender: Address,
            id: TransactionId,
            link: LinkEscrow,
        ) -> Result<B256> {
            self.kernel.link_escrow(sender, id, link).await
        }
        async fn transition_state(
        &self,
        sender: Address,
        transition: &Transition,
    ) -> Result<GasCost> {
            self.kernel.transition_state(sender, transition).await
        }
        fn attestations(&self) -> Option<&dyn Attestations> {
            self.attestations.as_ref().map(|book| book as _)
        }
    }
}

/// One paid call between a consumer and a provider with a key.
struct Call {
    directory: tempfile::TempDir,
    key: PrivateKey,
    provider: ACTPClient,
    consumer: ACTPClient,
    id: TransactionId,
}

fn key(number: u8) -> PrivateKey {
    format!("{number:064x}").parse().unwrap()
}

impl Call {
    async fn committed() -> Self {
        Self::committed_on(Generation::default()).await
    }

    async fn committed_on(generation: Generation) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connect =
            || ACTPClient::builder().state_directory(directory.path()).generation(generation);
        let provider = connect().private_key(key(1)).connect().await.unwrap();
        let consumer = connect().address(CONSUMER).connect().await.unwrap();
        let deadline = consumer.now().await.unwrap() + 7_200;
        let request =
            CreateTransaction::new(CONSUMER, provider.address(), Usdc(2_000_000), deadline);
        let id = consumer.create_transaction(&request).await.unwrap();
        consumer.link_escrow(id).await.unwrap();
        Self { directory, key: key(1), provider, consumer, id }
    }

    async fn delivered(evidence: impl FnOnce(TransactionId) -> Evidence) -> Self {
        Self::delivered_on(Generation::default(), evidence).await
    }

    async fn delivered_on(
        generation: Generation,
        evidence: impl FnOnce(TransactionId) -> Evidence,
    ) -> Self {
        let call = Self::committed_on(generation).await;
        let step = |to, evidence| call.provider.transition_state(call.id, to, evidence);
        step(State::InProgress, Evidence::None).await.unwrap();
        step(State::Delivered, evidence(call.id)).await.unwrap();
        call
    }

    fn proof(&self, content: &[u8]) -> DeliveryProof {
        proof(self.id, content)
    }

    fn result(&self) -> Value {
        json!({"text": "a haiku", "tokens": 17})
    }

    async fn signed(&self, uid: B256) -> SignedDelivery {
        let statement = DeliveryStatement {
            transaction_id: self.id,
            result_cid: "bafyresult".to_owned(),
            result_hash: result_hash(&self.result()).unwrap(),
            eas_attestation_uid: uid,
            nonce: 3,
            ..DeliveryStatement::default()
        };
        self.provider.sign_delivery(statement).await.unwrap()
    }

    async fn release(&self, verification: Verification) -> Result<()> {
        self.consumer.release(self.id, &verification).await
    }

    /// What was refused has settled nothing.
    async fn refuses(&self, verification: Verification, code: Code, field: &str) -> Error {
        let error = refused(self.release(verification).await, code, field);
        assert_eq!(error.facts().transaction_id, Some(self.id));
        assert_eq!(self.state().await, State::Delivered);
        error
    }

    async fn state(&self) -> State {
        self.consumer.get_transaction(self.id).await.unwrap().state
    }

    fn elsewhere(&self, change: impl FnOnce(&mut Network), book: bool) -> Arc<dyn Kernel> {
        let kernel = self.consumer.mock().unwrap().clone();
        let mut network = kernel.network().clone();
        change(&mut network);
        Arc::new(Elsewhere { kernel, network, attestations: book.then(Book::default) })
    }
}

/// From AIP-14c on the chain holds what the delivery committed to: nobody has to be asked for a proof.
#[test]
fn what_the_kernel_was_given_is_compared_without_any_proof() {
    run(async {
        let deliverable = |content: &[u8]| Verification {
            deliverable: Some(content.to_vec()),
            ..Verification::default()
        };
        let given = |result| Verification { result: Some(result), ..Verification::default() };
        let delivered = async |hash: B256| {
            let data = [U256::from(7_200).to_be_bytes::<32>(), hash.0].concat();
            Call::delivered_on(Generation::Aip14c, |_| Evidence::Bytes(data)).await
        };
        let call = delivered(ProofGenerator.hash_content(CONTENT)).await;
        call.refuses(deliverable(b"another haiku"), Code::ProofMismatch, "resultHash").await;
        call.refuses(given(json!("another")), Code::ProofMismatch, "resultHash").await;
        call.refuses(Verification::default(), Code::InvalidSettings, "verification").await;
        // A proof that was made up under way does not count more than the chain.
        let forged = Verification {
            proof: Some(call.proof(b"another haiku")),
            ..deliverable(b"another haiku")
        };
        call.refuses(forged, Code::ProofMismatch, "resultHash").await;
        call.release(deliverable(CONTENT)).await.unwrap();

        // Upstream commits to the canonical JSON of a result.
        let result = json!({"text": "a haiku"});
        let call = delivered(result_hash(&result).unwrap()).await;
        call.refuses(given(json!({"text": "no haiku"})), Code::ProofMismatch, "resultHash").await;
        call.release(given(result)).await.unwrap();
    });
}

fn proof(transaction_id: TransactionId, content: &[u8]) -> DeliveryProof {
    ProofGenerator
        .generate_delivery_proof(DeliveryProofRequest {
            transaction_id,
            deliverable: content,
            timestamp_ms: 1_780_000_000_000,
            ..DeliveryProofRequest::default()
        })
        .unwrap()
}

fn nothing(_: TransactionId) -> Evidence {
    Evidence::None
}

#[test]
fn a_delivery_that_is_what_it_says_is_paid() {
    run(async {
        let paid = |verification: Verification, call: Call| async move {
            call.release(verification).await.unwrap();
            assert_eq!(call.state().await, State::Settled);
            assert!(call.provider.balance().await.unwrap() > Usdc(1_000_000_000));
        };
        let deliverable = Some(CONTENT.to_vec());
        let call = Call::delivered(nothing).await;
        let everything = Verification {
            deliverable: deliverable.clone(),
            proof: Some(call.proof(CONTENT)),
            signed: Some(call.signed(B256::ZERO).await),
            result: Some(call.result()),
            attestation: None,
        };
        paid(everything, call).await;

        // The proof that was kept at delivery is enough.
        let call = Call::delivered(|id| proof(id, CONTENT).into()).await;
        paid(Verification { deliverable, ..Verification::default() }, call).await;

        let call = Call::delivered(nothing).await;
        let signed = Some(call.signed(B256::ZERO).await);
        paid(Verification { signed, ..Verification::default() }, call).await;
    });
}

#[test]
fn another_deliverable_or_proof_is_not_paid() {
    run(async {
        let call = Call::delivered(|id| proof(id, CONTENT).into()).await;
        let given = |deliverable: &[u8], proof| Verification {
            deliverable: Some(deliverable.to_vec()),
            proof,
            ..Verification::default()
        };
        let code = Code::ProofMismatch;
        call.refuses(given(b"a haikU", None), code, "contentHash").await;
        call.refuses(given(b"a haikU", Some(call.proof(CONTENT))), code, "contentHash").await;
        // Both forged: they fit each other, and not the provider's own proof.
        call.refuses(given(b"forged", Some(call.proof(b"forged"))), code, "contentHash").await;
        let others = proof(B256::repeat_byte(9), CONTENT);
        call.refuses(given(CONTENT, Some(others)), code, "txId").await;
        call.release(given(CONTENT, Some(call.proof(CONTENT)))).await.unwrap();
    });
}

#[test]
fn a_signed_delivery_forged_in_any_field_is_not_paid() {
    run(async {
        let call = Call::delivered(nothing).await;
        let genuine = call.signed(B256::ZERO).await;
        let chain_id = genuine.message.chain_id;
        let elsewhere = |did: &WrittenDid| Did { chain_id: 1, address: did.address() }.into();
        let other = |_: &WrittenDid| Did { chain_id, address: STRANGER }.into();
        type Forge<'a> = Box<dyn Fn(&mut DeliveryMessage) + 'a>;
        // Whoever forges has not the provider's key: the signature stays as it is.
        let forgeries: Vec<(&str, Code, Forge<'_>)> = vec![
            ("txId", Code::ProofMismatch, Box::new(|m| m.transaction_id = B256::repeat_byte(9))),
            ("provider", Code::ProofMismatch, Box::new(|m| m.provider = other(&m.provider))),
            ("provider", Code::ProofMismatch, Box::new(|m| m.provider = elsewhere(&m.provider))),
            ("consumer", Code::ProofMismatch, Box::new(|m| m.consumer = other(&m.consumer))),
            ("consumer", Code::ProofMismatch, Box::new(|m| m.consumer = elsewhere(&m.consumer))),
            ("chainId", Code::ProofMismatch, Box::new(|m| m.chain_id = 1)),
            ("signature", Code::InvalidSignature, Box::new(|m| m.result_cid.push('x'))),
            ("signature", Code::InvalidSignature, Box::new(|m| m.result_hash = B256::ZERO)),
            ("signature", Code::InvalidSignature, Box::new(|m| m.delivered_at += 1)),
            ("signature", Code::InvalidSignature, Box::new(|m| m.nonce += 1)),
            (
                "signature",
                Code::InvalidSignature,
                Box::new(|m| m.eas_attestation_uid = B256::repeat_byte(1)),
            ),
        ];
        for (field, code, forge) in forgeries {
            let mut signed = genuine.clone();
            forge(&mut signed.message);
            let verification = Verification { signed: Some(signed), ..Verification::default() };
            call.refuses(verification, code, field).await;
        }
        let verification = Verification {
            signed: Some(genuine),
            result: Some(call.result()),
            ..Default::default()
        };
        call.release(verification).await.unwrap();
    });
}

#[test]
fn a_delivery_in_another_sdks_spelling_is_paid() {
    run(async {
        let call = Call::delivered(nothing).await;
        let kernel = call.consumer.network().kernel;
        let DeliveryMessage { provider, consumer, .. } = call.signed(B256::ZERO).await.message;
        let spelled = |did: &WrittenDid| format!("did:ethr:{}", did.address()).parse().unwrap();
        let (provider, consumer) = (spelled(&provider), spelled(&consumer));
        let message =
            DeliveryMessage { provider, consumer, ..call.signed(B256::ZERO).await.message };
        let signed = Some(call.key.sign_delivery(message, kernel).unwrap());
        let result = Some(call.result());
        call.release(Verification { signed, result, ..Verification::default() }).await.unwrap();
    });
}

#[test]
fn a_sound_signature_over_something_else_is_not_paid() {
    run(async {
        let call = Call::delivered(nothing).await;
        let genuine = call.signed(B256::ZERO).await.message;
        let kernel = call.consumer.network().kernel;
        let code = Code::ProofMismatch;
        let given = |signed| Verification { signed: Some(signed), ..Verification::default() };

        // A stranger signs for itself, in every other point correctly.
        let chain_id = genuine.chain_id;
        let stranger = Did { chain_id, address: key(2).address() }.into();
        let own = DeliveryMessage { provider: stranger, ..genuine.clone() };
        call.refuses(given(key(2).sign_delivery(own, kernel).unwrap()), code, "provider").await;

        // The provider itself signs for another transaction, consumer, chain, kernel or result.
        let other = DeliveryMessage { transaction_id: B256::repeat_byte(9), ..genuine.clone() };
        call.refuses(given(call.key.sign_delivery(other, kernel).unwrap()), code, "txId").await;
        let other = Did { chain_id, address: STRANGER }.into();
        let other = DeliveryMessage { consumer: other, ..genuine.clone() };
        call.refuses(given(call.key.sign_delivery(other, kernel).unwrap()), code, "consumer").await;
        let at = |did: &WrittenDid| Did { chain_id: 1, address: did.address() }.into();
        let (provider, consumer) = (at(&genuine.provider), at(&genuine.consumer));
        let other = DeliveryMessage { chain_id: 1, provider, consumer, ..genuine.clone() };
        call.refuses(given(call.key.sign_delivery(other, kernel).unwrap()), code, "chainId").await;
        let other = call.key.sign_delivery(genuine.clone(), STRANGER).unwrap();
        call.refuses(given(other), Code::InvalidSignature, "signature").await;
        let signed = call.key.sign_delivery(genuine, kernel).unwrap();
        let result = Some(json!({"text": "another"}));
        call.refuses(Verification { result, ..given(signed) }, code, "resultHash").await;
    });
}

#[test]
fn only_the_requester_releases_and_only_what_is_delivered() {
    run(async {
        let call = Call::committed().await;
        let verification =
            Verification { signed: Some(call.signed(B256::ZERO).await), ..Verification::default() };
        let refusal = Code::Refused(Refusal::InvalidTransition);
        let release = || call.release(verification.clone());
        refused(release().await, refusal, "");
        call.provider.transition_state(call.id, State::InProgress, Evidence::None).await.unwrap();
        refused(release().await, refusal, "");
        call.provider.transition_state(call.id, State::Delivered, Evidence::None).await.unwrap();
        let outcome = call.provider.release(call.id, &verification).await;
        refused(outcome, Code::Refused(Refusal::OnlyRequester), "");
        release().await.unwrap();
        refused(release().await, refusal, "");
        let outcome = call.consumer.release(B256::repeat_byte(9), &verification).await;
        assert_eq!(outcome.unwrap_err().refusal(), Some(Refusal::TxMissing));
    });
}

#[test]
fn half_the_evidence_is_none() {
    run(async {
        let call = Call::delivered(nothing).await;
        let none = Verification::default;
        let code = Code::InvalidSettings;
        call.refuses(none(), code, "verification").await;
        let half = Verification { deliverable: Some(CONTENT.to_vec()), ..none() };
        call.refuses(half, code, "proof").await;
        let half = Verification { proof: Some(call.proof(CONTENT)), ..none() };
        call.refuses(half, code, "deliverable").await;
        let half = Verification { result: Some(call.result()), ..none() };
        call.refuses(half, code, "signed").await;
    });
}

#[test]
fn an_attestation_must_be_the_providers_of_this_result() {
    run(async {
        let call = Call::delivered(nothing).await;
        let kernel = call.elsewhere(|_| (), true);
        let consumer = ACTPClient::with_kernel(kernel.clone(), CONSUMER);
        let provider = ACTPClient::with_kernel(kernel.clone(), call.provider.address());
        let statement = DeliveryStatement {
            transaction_id: call.id,
            result_hash: result_hash(&call.result()).unwrap(),
            ..DeliveryStatement::default()
        };
        let outcome = consumer.attest_delivery(statement.clone()).await;
        refused(outcome, Code::Refused(Refusal::OnlyProvider), "");
        let uid = provider.attest_delivery(statement.clone()).await.unwrap();
        let other = DeliveryStatement { result_hash: B256::repeat_byte(3), ..statement };
        let others = provider.attest_delivery(other).await.unwrap();

        let given = |attestation, result| Verification {
            attestation: Some(attestation),
            result: Some(result),
            ..Verification::default()
        };
        let release = |verification: Verification| {
            let consumer = consumer.clone();
            async move { consumer.release(call.id, &verification).await }
        };
        let code = Code::InvalidAttestation;
        refused(release(given(B256::repeat_byte(9), call.result())).await, code, "");
        refused(release(given(others, call.result())).await, code, "resultHash");
        refused(release(given(uid, json!("another"))).await, code, "resultHash");
        // The signed delivery's own attestation is looked at unasked, and must be the given one.
        let signed = |uid| call.signed(uid);
        let named = Verification { signed: Some(signed(others).await), ..Verification::default() };
        refused(release(named.clone()).await, code, "resultHash");
        let two = Verification { attestation: Some(uid), ..named };
        refused(release(two).await, Code::ProofMismatch, "easAttestationUID");
        assert_eq!(call.state().await, State::Delivered);

        let named = Verification {
            signed: Some(signed(uid).await),
            result: Some(call.result()),
            ..Verification::default()
        };
        // Mock itself has no such service: what cannot be checked is not paid.
        call.refuses_without_service(named.clone()).await;
        release(named).await.unwrap();
        assert_eq!(call.state().await, State::Settled);
    });
}

impl Call {
    async fn refuses_without_service(&self, verification: Verification) {
        refused(self.release(verification).await, Code::NetworkUnavailable, "");
        let statement = DeliveryStatement { transaction_id: self.id, ..Default::default() };
        refused(self.provider.attest_delivery(statement).await, Code::NetworkUnavailable, "");
        assert!(self.directory.path().exists());
    }
}

#[test]
fn on_mainnet_no_transaction_is_worth_more_than_the_limit() {
    run(async {
        let call = Call::committed().await;
        let mock = call.consumer.mock().unwrap();
        mock.mint(CONSUMER, Usdc(5_000_000_000)).await.unwrap();
        let kernel = call.elsewhere(|network| network.chain_id = 8_453, false);
        let mainnet = ACTPClient::with_kernel(kernel, CONSUMER);
        let provider = call.provider.address();
        let deadline = mainnet.now().await.unwrap() + 3_600;
        let request = |amount| CreateTransaction::new(CONSUMER, provider, amount, deadline);
        let above = Usdc(MAINNET_LIMIT.0 + 1);
        let code = Code::AmountAboveLimit;

        let error = refused(mainnet.create_transaction(&request(above)).await, code, "amount");
        assert_eq!(error.facts().required, Some(above));
        assert_eq!(error.facts().available, Some(MAINNET_LIMIT));
        assert!(error.hint().unwrap().contains("unaudited"));
        let id = mainnet.create_transaction(&request(MAINNET_LIMIT)).await.unwrap();
        mainnet.link_escrow(id).await.unwrap();

        // Created elsewhere, quoted up elsewhere: it is not funded here.
        let created = call.consumer.create_transaction(&request(above)).await.unwrap();
        let error = refused(mainnet.link_escrow(created).await, code, "amount");
        assert_eq!(error.facts().transaction_id, Some(created));
        let quoted = mainnet.create_transaction(&request(Usdc(1_000_000))).await.unwrap();
        call.provider.transition_state(quoted, State::Quoted, Evidence::None).await.unwrap();
        refused(mainnet.accept_quote(quoted, above).await, code, "amount");
        mainnet.accept_quote(quoted, MAINNET_LIMIT).await.unwrap();
        // Anywhere else the protocol's own bounds are the only ones.
        call.consumer.link_escrow(created).await.unwrap();
    });
}
