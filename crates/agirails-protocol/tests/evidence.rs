//! Evidence files: what a whole one proves, that no change of a proven part passes, and what strangers
//! may send. The files are in tests/vectors/evidence.json, where Python reads them too.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{collections::BTreeMap, path::PathBuf};

use agirails_protocol::{
    Address, B256, DisputeWindow, State, Transaction, U256, Usdc,
    evidence::{
        Body, ChainTransaction, Conclusion, Evidence, EvidenceAnswer, EvidenceCall,
        EvidenceDelivery, EvidenceNetwork, EvidenceRequest, LONGEST_FILE, MOST_CALLS, Outcome,
        compare_with_chain, verify,
    },
    id::transaction_id,
    paid_request::{PaidRequest, Session},
    proof::{DeliveryProofRequest, ProofGenerator},
    receipt::{CallRecord, Receipt, merkle_branch, merkle_root},
    wallet_signature::WalletSignature,
};
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};

const CREATED_AT: u64 = 1_780_000_000;
const DEADLINE: u64 = CREATED_AT + 86_400;
const NONCE: u64 = 7;

/// The key of this number: 1 is the requester's, 2 the provider's, 3 a session key.
struct Key(SigningKey);

impl Key {
    fn new(number: u8) -> Self {
        Self(SigningKey::from_slice(&U256::from(number).to_be_bytes::<32>()).unwrap())
    }

    fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    fn sign(&self, hash: B256) -> alloy_primitives::Signature {
        self.0.sign_prehash_recoverable(hash.as_slice()).unwrap().into()
    }
}

fn network() -> EvidenceNetwork {
    let kernel = "0x048c811352e8a3fECd5b0Ec4AA2c2b94083CC842".parse().unwrap();
    EvidenceNetwork::new(8453, kernel, "base")
}

fn delivered(amount: Usdc) -> Transaction {
    let [requester, provider] = [1, 2].map(|number| Key::new(number).address());
    let service_hash = B256::repeat_byte(0x5e);
    let id = transaction_id(requester, provider, amount, service_hash, NONCE);
    Transaction {
        id,
        requester,
        provider,
        state: State::Delivered,
        amount,
        created_at: CREATED_AT,
        updated_at: CREATED_AT + 900,
        deadline: DEADLINE,
        service_hash,
        escrow_contract: "0x262D5912A9612F0c66dA5d13B4E678D50ebC44b5".parse().unwrap(),
        escrow_id: id,
        attestation_uid: B256::ZERO,
        dispute_window: DisputeWindow::EndsAt(CREATED_AT + 900 + 172_800),
        metadata: B256::ZERO,
        platform_fee_bps_locked: 100,
        requester_penalty_bps_locked: 500,
        dispute_bond_bps_locked: 500,
        agent_id: U256::ZERO,
        requester_agent_id: U256::from(12),
        dispute_initiator: Address::ZERO,
        dispute_bond: Usdc::ZERO,
        result_hash: B256::ZERO,
        agreement_hash: B256::ZERO,
    }
}

/// A call of this key, answered as the index-th, without its way.
fn answered(
    evidence: &Evidence,
    key: &str,
    index: u64,
    body: &[u8],
    answer: &[u8],
) -> EvidenceCall {
    let (network, transaction) = (&evidence.network, &evidence.transaction);
    let at = CREATED_AT + 60 + index;
    let request = PaidRequest {
        idempotency_key: key.to_owned(),
        ..PaidRequest::new(transaction.id, "POST", "/api/caf%c3%a9?q=a%2fb", body, at)
    };
    let hash = request.signing_hash(network.chain_id, network.kernel);
    // The third call is signed by a session key.
    let (signature, session) = match index {
        2 => {
            let key = Key::new(3);
            let session = Session {
                transaction_id: transaction.id,
                key: key.address(),
                valid_until: DEADLINE,
            };
            let appointed = session.signing_hash(network.chain_id, network.kernel);
            let appointed = WalletSignature::from(Key::new(1).sign(appointed));
            (key.sign(hash), Some(session.signed(appointed)))
        }
        _ => (Key::new(1).sign(hash), None),
    };
    let mut asked = EvidenceRequest::signed(&request, request.signed(signature), session, network);
    asked.body = Some(Body::new(body.to_vec()));
    asked.headers = vec![("accept-language".to_owned(), "de".to_owned())];
    let answer = EvidenceAnswer::new(200, "Application/JSON; charset=\"utf-8\"", answer);
    let mut call = EvidenceCall::new(asked, answer);
    call.answer.headers.push(("x-model".to_owned(), "basho-2".to_owned()));
    let record = CallRecord {
        request: &request,
        status: 200,
        content_type: call.answer.content_type(),
        body_hash: call.answer.body_hash,
    };
    let mut receipt = Receipt {
        transaction_id: transaction.id,
        idempotency_key: key.to_owned(),
        index,
        content_hash: record.content_hash().unwrap(),
        delivered_at: at + 2,
        provider: transaction.provider,
        signature: None,
    };
    sign_receipt(&mut receipt, evidence);
    call.receipt = Some(receipt);
    (call.received_at, call.answered_at) = (Some(at + 1), Some(at + 3));
    call
}

fn sign_receipt(receipt: &mut Receipt, evidence: &Evidence) {
    let EvidenceNetwork { chain_id, kernel, .. } = evidence.network;
    let message = receipt.message(evidence.transaction.requester, chain_id);
    let signature = Key::new(2).sign(message.signing_hash(kernel));
    receipt.signature = Some(signature.as_bytes().to_vec().into());
}

/// Delivers all calls of the file, and gives each its way.
fn deliver(evidence: &mut Evidence) {
    let leaves: Vec<_> =
        evidence.calls.iter().map(|call| evidence.content_hash(call).unwrap()).collect();
    for (index, call) in evidence.calls.iter_mut().enumerate() {
        call.branch = merkle_branch(&leaves, index);
    }
    let mut proof = ProofGenerator
        .generate_delivery_proof(DeliveryProofRequest {
            transaction_id: evidence.transaction.id,
            timestamp_ms: (CREATED_AT + 900) * 1_000,
            ..Default::default()
        })
        .unwrap();
    proof.content_hash = merkle_root(&leaves).unwrap();
    proof.metadata = serde_json::from_value(json!({"mimeType": "application/json"})).unwrap();
    evidence.delivery = Some(EvidenceDelivery::new(proof, leaves.len() as u64));
}

/// One transaction for one call, and all that is known of it.
fn single() -> Evidence {
    let mut evidence = Evidence::new(network(), delivered(Usdc(100_000)));
    evidence.parties.provider.name = Some("https://api.example.com".to_owned());
    evidence.transaction_block = Some(46_212_999);
    evidence.requester_nonce = Some(NONCE);
    let (body, answer) = (r#"{"prompt":"a haiku"}"#, "{\"result\": \"grüß\\u0000 \u{1f600}\"}\n");
    evidence.calls = vec![answered(&evidence, "", 0, body.as_bytes(), answer.as_bytes())];
    deliver(&mut evidence);
    let mut sent = ChainTransaction::new("DELIVERED", B256::repeat_byte(0xde));
    sent.block = Some(46_212_990);
    evidence.chain_transactions = vec![sent];
    evidence
}

/// A balance of five calls: bodies that are no text, and one whose call a session key signed.
fn balance() -> Evidence {
    let mut evidence = Evidence::new(network(), delivered(Usdc(1_000_000)));
    evidence.calls = (0..5)
        .map(|index| {
            let (body, answer) = ([0xff, index], [b'a', index]);
            answered(&evidence, &format!("call \"{index}\""), index.into(), &body, &answer)
        })
        .collect();
    deliver(&mut evidence);
    evidence
}

/// Two calls of the five, and less of them.
fn remains() -> Evidence {
    let mut evidence = balance();
    evidence.calls.drain(1..4);
    let [first, last] = evidence.calls.as_mut_slice() else { panic!("five calls less three") };
    (first.request.signature, first.request.digest) = (None, None);
    first.answer.body = None;
    last.request.body = None;
    last.receipt.as_mut().unwrap().signature = None;
    evidence
}

/// A requester that is a contract, before the delivery.
fn contract() -> Evidence {
    let mut evidence = balance();
    let contract = Address::repeat_byte(0xc0);
    evidence.transaction.requester = contract;
    evidence.parties.requester.address = contract;
    evidence.parties.requester.is_contract = true;
    evidence.delivery = None;
    evidence.calls.truncate(3);
    for at in 0..3 {
        let mut receipt = evidence.calls[at].receipt.take().unwrap();
        sign_receipt(&mut receipt, &evidence);
        evidence.calls[at].receipt = Some(receipt);
    }
    evidence
}

fn outcomes(evidence: &Evidence) -> BTreeMap<String, &'static str> {
    let findings = verify(evidence).findings.into_iter();
    findings.map(|finding| (finding.name, finding.outcome.as_str())).collect()
}

#[test]
fn the_vectors_are_what_this_crate_writes() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/evidence.json");
    let cases = [
        ("one call", single()),
        ("a balance of five calls", balance()),
        ("two of five calls, and not all of them", remains()),
        ("a contract wallet, before the delivery", contract()),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(name, evidence)| {
            let conclusion = verify(evidence).conclusion().as_str();
            let findings = outcomes(evidence);
            let evidence: Value = serde_json::from_str(&evidence.to_json().unwrap()).unwrap();
            json!({"name": name, "conclusion": conclusion, "findings": findings, "evidence": evidence})
        })
        .collect();
    let text = serde_json::to_string_pretty(&cases).unwrap() + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(written == text, "evidence.json is out of date: run the test with UPDATE_VECTORS=1");
}

#[test]
fn a_whole_file_proves_every_call() {
    for evidence in [single(), balance()] {
        let verification = verify(&evidence);
        assert_eq!(verification.conclusion(), Conclusion::Holds, "{verification}");
        assert!(verification.questions.is_empty());
    }
    let session = &verify(&balance()).findings;
    let session = session.iter().find(|found| found.name == "calls[2].request.signature").unwrap();
    assert!(session.words.contains("session key"), "{}", session.words);
}

#[test]
fn a_file_survives_being_written() {
    for evidence in [single(), balance(), remains(), contract()] {
        let text = evidence.to_json().unwrap();
        let read = Evidence::from_json(&text).unwrap();
        assert_eq!(read, evidence);
        assert_eq!(read.to_json().unwrap(), text);
        // In one line, and with keys of a later version.
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["later"] = json!({"type": 7});
        assert_eq!(Evidence::from_json(&value.to_string()).unwrap(), evidence);
    }
}

#[test]
fn what_was_not_kept_is_told_and_fails_nothing() {
    let evidence = remains();
    let found = outcomes(&evidence);
    let unknown: Vec<_> = found
        .iter()
        .filter(|(_, is)| **is != "holds")
        .map(|(name, is)| (name.as_str(), *is))
        .collect();
    assert_eq!(
        unknown,
        [
            ("calls[0].answer.bodyHash", "not_checkable"),
            ("calls[0].request.signature", "not_checkable"),
            ("calls[1].receipt.signature", "not_checkable"),
            ("calls[1].request.bodyHash", "not_checkable"),
        ]
    );
    assert_eq!(verify(&evidence).conclusion(), Conclusion::Incomplete);
}

#[test]
fn a_contracts_signatures_are_questions_to_the_chain() {
    let mut evidence = contract();
    let verification = verify(&evidence);
    assert_eq!(verification.conclusion(), Conclusion::Incomplete, "{verification}");
    // Two requests, and the appointment of a session key.
    let wallets: Vec<_> = verification.questions.iter().map(|question| question.wallet).collect();
    assert_eq!(wallets, [Address::repeat_byte(0xc0); 3]);
    evidence.parties.requester.is_contract = false;
    assert_eq!(verify(&evidence).conclusion(), Conclusion::Fails);
}

#[test]
fn a_file_without_its_proofs_never_holds() {
    for (name, evidence) in [("single", single()), ("balance", balance())] {
        let without = |change: &dyn Fn(&mut Evidence)| {
            let mut evidence = evidence.clone();
            change(&mut evidence);
            let verification = verify(&evidence);
            assert_ne!(verification.conclusion(), Conclusion::Holds, "{name}\n{verification}");
        };
        without(&|file| file.calls.clear());
        without(&|file| file.delivery = None);
        without(&|file| file.calls[0].receipt = None);
        without(&|file| file.calls[0].branch = None);
        without(&|file| file.calls[0].receipt.as_mut().unwrap().signature = None);
        without(&|file| file.calls[0].request.signature = None);
        without(&|file| file.calls[0].request.body = None);
        without(&|file| file.calls[0].answer.body = None);
        without(&|file| file.calls.push(file.calls[0].clone()));
    }
    let mut headless = balance();
    headless.calls[2].request.session = None;
    assert_eq!(verify(&headless).conclusion(), Conclusion::Fails);
}

#[test]
fn calls_of_two_files_do_not_mix() {
    let (one, mut other) = (single(), balance());
    other.calls[1] = one.calls[0].clone();
    assert_eq!(verify(&other).conclusion(), Conclusion::Fails);
    let mut swapped = balance();
    let answer = swapped.calls[0].answer.clone();
    swapped.calls[1].answer = answer;
    assert_eq!(verify(&swapped).conclusion(), Conclusion::Fails);
    // A way to the root from another place.
    let mut elsewhere = balance();
    let receipt = elsewhere.calls[4].receipt.as_mut().unwrap();
    receipt.index = 3;
    let mut receipt = receipt.clone();
    sign_receipt(&mut receipt, &elsewhere);
    elsewhere.calls.drain(1..4);
    elsewhere.calls[1].receipt = Some(receipt);
    let found = outcomes(&elsewhere);
    assert_eq!((found["calls[1].receipt.signature"], found["calls[1].branch"]), ("holds", "fails"));
}

/// What can be changed in a file without a check of [`verify`] that fails: what the chain alone can
/// tell, and what nobody proves.
const UNPROVEN: [&str; 31] = [
    // The parameters of the Content-Type; its media type is proven.
    "/calls/0/answer/headers/0/1",
    "/calls/0/answer/headers/1/0",
    "/calls/0/answer/headers/1/1",
    "/calls/0/answeredAt",
    "/calls/0/receivedAt",
    "/calls/0/request/headers/0/0",
    "/calls/0/request/headers/0/1",
    "/chainTransactions/0/block",
    "/chainTransactions/0/hash",
    "/chainTransactions/0/what",
    "/delivery/proof/metadata/mimeType",
    "/delivery/proof/timestamp",
    "/network/name",
    "/parties/provider/name",
    "/transaction/agentId",
    "/transaction/agreementHash",
    "/transaction/attestationUID",
    "/transaction/createdAt",
    "/transaction/deadline",
    "/transaction/disputeBond",
    "/transaction/disputeBondBpsLocked",
    "/transaction/disputeInitiator",
    "/transaction/disputeWindow/endsAt",
    "/transaction/escrowContract",
    "/transaction/escrowId",
    "/transaction/metadata",
    "/transaction/platformFeeBpsLocked",
    "/transaction/requesterAgentId",
    "/transaction/requesterPenaltyBpsLocked",
    "/transaction/updatedAt",
    "/transactionBlock",
];

/// Every single value of a file, by its JSON pointer.
fn values(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            object
                .iter()
                .for_each(|(key, value)| values(value, &format!("{pointer}/{key}"), found));
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(at, value)| values(value, &format!("{pointer}/{at}"), found));
        }
        _ => found.push(pointer.to_owned()),
    }
}

/// A value changed a little, in each of these ways.
fn changed(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(number) => vec![json!(number.as_u64().unwrap() + 1)],
        Value::Bool(flag) => vec![json!(!flag)],
        Value::String(text) => {
            let end = text.len();
            let places = [0, 10, end.saturating_sub(10), end.saturating_sub(1)];
            let flipped = places.map(|at| {
                let mut bytes = text.clone().into_bytes();
                match bytes.get_mut(at).filter(|byte| byte.is_ascii_hexdigit()) {
                    Some(byte) if *byte == b'0' => *byte = b'1',
                    Some(byte) => *byte = b'0',
                    None => bytes.push(b'x'),
                }
                json!(String::from_utf8(bytes).unwrap())
            });
            flipped.to_vec()
        }
        _ => vec![],
    }
}

#[test]
fn every_change_of_a_proven_value_is_found() {
    let evidence: Value = serde_json::from_str(&single().to_json().unwrap()).unwrap();
    let mut pointers = vec![];
    values(&evidence, "", &mut pointers);
    assert!(pointers.len() > 60, "{}", pointers.len());
    let mut passed = vec![];
    for pointer in &pointers {
        for change in changed(evidence.pointer(pointer).unwrap()) {
            let mut tampered = evidence.clone();
            *tampered.pointer_mut(pointer).unwrap() = change;
            let is_found = Evidence::from_json(&tampered.to_string())
                .map_or(true, |file| verify(&file).conclusion() == Conclusion::Fails);
            if !is_found {
                passed.push(pointer.as_str());
            }
        }
    }
    passed.sort_unstable();
    passed.dedup();
    assert_eq!(passed, UNPROVEN);
}

#[test]
fn the_chain_finds_what_the_file_cannot_show() {
    let evidence = single();
    let EvidenceNetwork { chain_id, kernel, .. } = evidence.network;
    let compared =
        |transaction: &Transaction| compare_with_chain(&evidence, transaction, chain_id, kernel);
    let same = compared(&evidence.transaction);
    assert_eq!((same.conclusion(), same.findings.len()), (Conclusion::Holds, 24), "{same}");

    // What comes later on chain is no contradiction.
    let settled = Transaction {
        state: State::Settled,
        updated_at: CREATED_AT + 200_000,
        attestation_uid: B256::repeat_byte(1),
        dispute_initiator: Address::repeat_byte(1),
        ..evidence.transaction.clone()
    };
    let later = compared(&settled);
    assert_eq!(later.conclusion(), Conclusion::Holds, "{later}");

    let base = || evidence.transaction.clone();
    let moved = || settled.clone();
    for (field, read) in [
        ("transactionId", Transaction { id: B256::ZERO, ..base() }),
        ("requester", Transaction { requester: Address::ZERO, ..moved() }),
        ("provider", Transaction { provider: Address::ZERO, ..moved() }),
        ("state", Transaction { state: State::InProgress, ..moved() }),
        ("state", Transaction { state: State::Settled, ..base() }),
        ("amount", Transaction { amount: Usdc(1), ..moved() }),
        ("createdAt", Transaction { created_at: 1, ..moved() }),
        ("updatedAt", Transaction { updated_at: 1, ..base() }),
        ("deadline", Transaction { deadline: 1, ..moved() }),
        ("serviceHash", Transaction { service_hash: B256::ZERO, ..moved() }),
        ("escrowId", Transaction { escrow_id: B256::ZERO, ..moved() }),
        ("disputeWindow", Transaction { dispute_window: DisputeWindow::EndsAt(1), ..moved() }),
        ("disputeInitiator", Transaction { dispute_initiator: Address::repeat_byte(1), ..base() }),
        ("agentId", Transaction { agent_id: U256::from(1), ..moved() }),
        ("resultHash", Transaction { result_hash: B256::repeat_byte(1), ..moved() }),
        ("agreementHash", Transaction { agreement_hash: B256::repeat_byte(1), ..moved() }),
    ] {
        let failed = compared(&read).findings.into_iter();
        let failed: Vec<_> = failed
            .filter(|finding| finding.outcome == Outcome::Fails)
            .map(|finding| finding.name)
            .collect();
        assert_eq!(failed, [format!("chain.{field}")]);
    }
    for (chain_id, kernel) in [(1, kernel), (chain_id, Address::ZERO)] {
        let elsewhere = compare_with_chain(&evidence, &base(), chain_id, kernel);
        let both = verify(&evidence).and(elsewhere);
        assert_eq!(both.conclusion(), Conclusion::Fails, "{both}");
    }
}

#[test]
fn what_a_stranger_sends_is_refused_by_the_name_of_the_field() {
    let good: Value = serde_json::from_str(&single().to_json().unwrap()).unwrap();
    let refused = |pointer: &str, value: Value| {
        let mut file = good.clone();
        *file.pointer_mut(pointer).unwrap() = value;
        let error = Evidence::from_json(&file.to_string()).unwrap_err();
        assert!(error.to_string().len() < 1_000, "{error}");
        assert!(error.details().hint.is_some());
        (error.details().field.unwrap(), error.to_string())
    };
    let (field, words) = refused("/calls/0/request/bodyHash", json!("0x12"));
    assert_eq!(field, "bodyHash");
    assert_eq!(words, "calls[0].request.bodyHash \"0x12\" must be 0x and 64 hex digits");
    for (pointer, value, named) in [
        ("/type", json!("agirails.evidence.v2"), "type"),
        ("/network", json!([]), "network"),
        ("/network/chainId", json!(-1), "chainId"),
        ("/network/kernel", json!("0x048c811352e8a3fECd5b0Ec4AA2c2b94083CC842"), "kernel"),
        ("/parties/provider/name", json!(7), "name"),
        ("/parties/provider/address", json!("0x00"), "address"),
        ("/transaction/escrowId", json!(format!("0x{}", "AB".repeat(32))), "escrowId"),
        ("/transaction/amount", json!(1.5), "amount"),
        ("/transaction/state", json!("PAID"), "state"),
        ("/transaction/disputeWindow", json!({"ends": 1}), "disputeWindow"),
        ("/transaction/agentId", json!("x"), "agentId"),
        ("/calls", json!({}), "calls"),
        ("/calls/0", json!(null), "calls"),
        ("/calls", json!(vec![0; MOST_CALLS + 1]), "calls"),
        ("/calls/0/request/headers", json!([["a"]]), "headers"),
        ("/calls/0/request/headers", json!(vec![["a", "b"]; 300]), "headers"),
        ("/calls/0/request/body", json!({"text": "a", "base64": "YQ=="}), "body"),
        ("/calls/0/request/body", json!({}), "body"),
        ("/calls/0/answer/body", json!({"base64": "YQ"}), "base64"),
        ("/calls/0/answer/body", json!("x".repeat(10_000_000)), "body"),
        ("/calls/0/answer/status", json!(70_000), "status"),
        ("/calls/0/request/signature", json!("t=1,s=0x00"), "signature"),
        ("/calls/0/receipt/signature", json!("0x0"), "signature"),
        ("/calls/0/receipt/signature", json!(format!("0x{}", "00".repeat(3_000))), "signature"),
        ("/calls/0/receipt/index", json!("0"), "index"),
        ("/calls/0/branch", json!([{"side": "up", "hash": B256::ZERO}]), "side"),
        ("/calls/0/branch", json!(vec![{}; 65]), "branch"),
        ("/delivery/calls", json!(null), "calls"),
        ("/delivery/proof", json!({"type": "delivery.proof"}), "txId"),
        ("/delivery/proof/contentHash", json!(format!("0x{}", "AB".repeat(32))), "contentHash"),
        ("/delivery/proof/timestamp", json!("now"), "timestamp"),
        ("/delivery/proof/metadata", json!({"a": "x".repeat(100_000)}), "proof"),
        ("/chainTransactions/0/hash", json!("0x"), "hash"),
    ] {
        assert_eq!(refused(pointer, value).0, named, "{pointer}");
    }
    let twice = single().to_json().unwrap().replacen(
        "\"status\": 200",
        "\"status\": 200, \"status\": 201",
        1,
    );
    let error = Evidence::from_json(&twice).unwrap_err();
    assert!(error.to_string().contains("\"status\" stands twice"), "{error}");
    let twice = single().to_json().unwrap().replacen(
        "\"deliveryUrl\": null",
        "\"contentHash\": \"0x00\", \"deliveryUrl\": null",
        1,
    );
    assert_eq!(Evidence::from_json(&twice).unwrap_err().details().field, Some("proof"));
}

#[test]
fn what_is_no_file_is_refused_in_few_words() {
    let deep = "[".repeat(1_000_000);
    let keys: String = (0..100_000).map(|key| format!("\"{key}\":0,")).collect();
    let keys = format!("{{{keys}\"type\":0}}");
    let long = " ".repeat(LONGEST_FILE + 1);
    for text in
        ["", "{", "null", "7", "\"\\ud800\"", "{} {}", "{\"\\ud800\":1}", &deep, &keys, &long]
    {
        let error = Evidence::from_json(text).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
        assert!(error.details().field.is_some());
    }
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let text = single().to_json().unwrap();
    for end in (0..text.len() - 2).filter(|end| text.is_char_boundary(*end)) {
        Evidence::from_json(&text[..end]).unwrap_err();
    }
}
