//! Receipts, delivery messages and proofs, as JSON and as bytes: what is read survives being written
//! again, and nothing that was not signed passes.
#![no_main]

use agirails_protocol::{
    Address, B256,
    canonical_json::{canonical_json, result_hash},
    paid_request::PaidRequest,
    proof::{DeliveryProof, ProofGenerator, Resolution, SignedDelivery},
    receipt::{CallRecord, Expected, Receipt},
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = ProofGenerator.decode_proof(bytes) {
        assert_eq!(ProofGenerator.encode_proof(&decoded.into())[..], *bytes);
    }
    let _ = Resolution::decode(bytes);
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    if let Ok(text) = canonical_json(&value) {
        let again: Value = serde_json::from_str(&text).expect("canonical JSON is JSON");
        assert_eq!(canonical_json(&again).as_deref(), Ok(text.as_str()));
        assert_eq!(result_hash(&again), result_hash(&value));
    }
    if let Ok(signed) = SignedDelivery::from_json(&value) {
        assert_eq!(SignedDelivery::from_json(&json!(signed)), Ok(signed.clone()));
        let kernel = Address::repeat_byte(1);
        if signed.verify(kernel).is_ok() {
            assert_eq!(signed.recover(kernel), Ok(signed.message.provider.address()));
        }
    }
    if let Ok(proof) = DeliveryProof::from_json(&value) {
        assert_eq!(DeliveryProof::from_json(&json!(proof)), Ok(proof));
    }
    if let Ok(receipt) = serde_json::from_value::<Receipt>(value) {
        let mut request = PaidRequest::new(receipt.transaction_id, "GET", "/", b"", 0);
        request.idempotency_key.clone_from(&receipt.idempotency_key);
        let record =
            CallRecord { request: &request, status: 200, content_type: "", body_hash: B256::ZERO };
        let content_hash = record.content_hash().expect("a record has a hash");
        let receipt = Receipt { content_hash, ..receipt };
        let expected = Expected {
            provider: receipt.provider,
            requester: Address::repeat_byte(2),
            chain_id: 8453,
            kernel: Address::repeat_byte(1),
            may_be_unsigned: false,
            calls: u64::MAX,
            answered: 0..=u64::MAX,
        };
        // No input holds a signature of what was made up here.
        assert!(receipt.check(&record, &expected).is_err());
        let again: Receipt = serde_json::from_value(json!(receipt)).expect("its own JSON");
        assert_eq!(again, receipt);
    }
});
