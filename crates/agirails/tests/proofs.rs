//! Proofs, signatures and the texts that are hashed: the vectors that Python reads too, and what
//! must hold for every value.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{fs, path::Path};

use agirails::{
    Address, B256, Code, Error, PrivateKey, Refusal, U256, Usdc,
    protocol::{
        canonical_json::{canonical_json, result_hash},
        did::{Did, WrittenDid},
        id::transaction_id,
        proof::{
            DecodedProof, DeliveryMessage, DeliveryProof, DeliveryProofRequest, ProofGenerator,
            Resolution, SignedDelivery, encode_window,
        },
    },
};
use alloy_primitives::{Signature, hex, keccak256};
use proptest::{
    collection::{hash_map, vec},
    prelude::*,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

const GENERATOR: ProofGenerator = ProofGenerator;

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn cases(value: &Value) -> &[Value] {
    let cases = value.as_array().unwrap();
    assert!(!cases.is_empty());
    cases
}

fn read<T: DeserializeOwned>(case: &Value, key: &str) -> T {
    serde_json::from_value(case[key].clone())
        .unwrap_or_else(|error| panic!("{key} of {case}: {error}"))
}

fn bytes(case: &Value, key: &str) -> Vec<u8> {
    hex::decode(case[key].as_str().unwrap()).unwrap()
}

/// A signed delivery as its receiver takes it: read, and verified.
fn checked(json: &Value, kernel: Address) -> agirails::Result<()> {
    Ok(SignedDelivery::from_json(json)?.verify(kernel)?)
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap()
}

mod canonical {
    use super::*;

    #[test]
    fn prints_what_a_javascript_engine_prints() {
        for case in cases(&vectors("canonical_json.json")) {
            let value: Value = serde_json::from_str(text(case, "json")).unwrap();
            assert_eq!(
                canonical_json(&value).unwrap(),
                text(case, "canonical"),
                "{}",
                case["name"]
            );
            assert_eq!(
                result_hash(&value).unwrap(),
                read::<B256>(case, "hash"),
                "{}",
                case["name"]
            );
        }
    }

    #[test]
    fn a_number_that_rust_built_prints_like_one_that_was_read() {
        let built = json!([u64::MAX, i64::MIN, -0.0, 1e21, 0.1 + 0.2, 9_007_199_254_740_993_u64]);
        assert_eq!(
            canonical_json(&built).unwrap(),
            "[18446744073709552000,-9223372036854776000,0,1e+21,0.30000000000000004,9007199254740992]"
        );
    }
}

mod delivery_proof {
    use super::*;

    fn proof() -> DeliveryProof {
        GENERATOR
            .generate_delivery_proof(DeliveryProofRequest {
                transaction_id: B256::repeat_byte(7),
                deliverable: b"hello",
                timestamp_ms: 1_780_000_000_000,
                ..Default::default()
            })
            .unwrap()
    }

    #[test]
    fn vectors_agree() {
        for case in cases(&vectors("proofs.json")["valid"]) {
            let deliverable = text(case, "deliverable").as_bytes();
            let proof = GENERATOR
                .generate_delivery_proof(DeliveryProofRequest {
                    transaction_id: read(case, "txId"),
                    deliverable,
                    timestamp_ms: read(case, "timestamp"),
                    ..Default::default()
                })
                .unwrap();
            assert_eq!(proof.content_hash, read::<B256>(case, "contentHash"), "{}", case["name"]);
            assert_eq!(proof.metadata["size"], case["size"], "{}", case["name"]);
            assert_eq!(
                GENERATOR.encode_proof(&proof).as_slice(),
                bytes(case, "encoded"),
                "{}",
                case["name"]
            );
            assert!(GENERATOR.verify_deliverable(proof.content_hash, deliverable));
        }
    }

    #[test]
    fn another_length_or_an_impossible_time_is_refused() {
        for case in cases(&vectors("proofs.json")["invalid"]) {
            let encoded = bytes(case, "encoded");
            let error = Error::from(GENERATOR.decode_proof(&encoded).unwrap_err());
            assert_eq!(error.code(), Code::InvalidProof, "{}", case["name"]);
            assert_eq!(error.facts().field, Some("proof"));
            if encoded.len() != 96 {
                assert!(error.to_string().contains(&format!("{} bytes", encoded.len())), "{error}");
            }
        }
    }

    #[test]
    fn a_window_is_one_word() {
        for case in cases(&vectors("proofs.json")["windows"]) {
            assert_eq!(encode_window(read(case, "seconds")).as_slice(), bytes(case, "encoded"));
        }
    }

    #[test]
    fn size_is_computed_and_the_callers_metadata_is_kept() {
        let metadata = |value: Value| value.as_object().unwrap().clone();
        let generate = |given: Value| {
            GENERATOR.generate_delivery_proof(DeliveryProofRequest {
                deliverable: "€".as_bytes(),
                metadata: metadata(given),
                ..Default::default()
            })
        };
        for (given, expected) in [
            (json!({}), json!({"size": 3, "mimeType": "application/octet-stream"})),
            (json!({"mimeType": null}), json!({"size": 3, "mimeType": "application/octet-stream"})),
            (json!({"mimeType": ""}), json!({"size": 3, "mimeType": "application/octet-stream"})),
            (
                json!({"mimeType": "text/plain", "size": 9, "model": {"name": "m"}}),
                json!({"size": 3, "mimeType": "text/plain", "model": {"name": "m"}}),
            ),
        ] {
            assert_eq!(generate(given).unwrap().metadata, metadata(expected));
        }
        let error = Error::from(generate(json!({"mimeType": 5})).unwrap_err());
        assert_eq!((error.code(), error.facts().field), (Code::InvalidProof, Some("mimeType")));
    }

    #[test]
    fn json_has_the_documented_keys() {
        let written = serde_json::to_value(proof()).unwrap();
        assert_eq!(
            written,
            json!({
                "type": "delivery.proof",
                "txId": B256::repeat_byte(7),
                "contentHash": keccak256("hello"),
                "timestamp": 1_780_000_000_000_u64,
                "deliveryUrl": null,
                "metadata": {"size": 5, "mimeType": "application/octet-stream"},
            })
        );
        assert_eq!(serde_json::from_value::<DeliveryProof>(written).unwrap(), proof());
    }

    #[test]
    fn url_and_metadata_may_be_missing_as_after_decoding() {
        let decoded = GENERATOR.decode_proof(&GENERATOR.encode_proof(&proof())).unwrap();
        let bare = DeliveryProof::from(decoded);
        let mut written = serde_json::to_value(&bare).unwrap();
        let object = written.as_object_mut().unwrap();
        object.remove("deliveryUrl");
        object.remove("metadata");
        object.insert("signature".to_owned(), json!("unknown keys are passed over"));
        assert_eq!(DeliveryProof::from_json(&written).unwrap(), bare);
    }

    #[test]
    fn a_bad_key_is_named() {
        let good = serde_json::to_value(proof()).unwrap();
        for (key, wrong) in [
            ("type", json!("agirails.delivery.v1")),
            ("type", json!(1)),
            ("txId", json!("0x07")),
            ("txId", json!(7)),
            ("contentHash", json!(null)),
            ("contentHash", json!("07".repeat(32))),
            ("timestamp", json!("2026-05-28")),
            ("timestamp", json!(-1)),
            ("timestamp", json!(1.5)),
            ("deliveryUrl", json!(["https://example.com"])),
            ("metadata", json!("none")),
        ] {
            let mut bad = good.clone();
            bad[key] = wrong;
            let error = Error::from(DeliveryProof::from_json(&bad).unwrap_err());
            assert_eq!(
                (error.code(), error.facts().field),
                (Code::InvalidProof, Some(key)),
                "{bad}"
            );
            assert!(error.to_string().contains(key) && error.hint().is_some(), "{error:?}");
            assert!(
                serde_json::from_value::<DeliveryProof>(bad).unwrap_err().to_string().contains(key)
            );
        }
        for key in ["type", "txId", "contentHash", "timestamp"] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(key);
            let error = Error::from(DeliveryProof::from_json(&bad).unwrap_err());
            assert_eq!((error.code(), error.facts().field), (Code::InvalidProof, Some(key)));
        }
        for other in [json!(null), json!([]), json!("0x")] {
            let error = Error::from(DeliveryProof::from_json(&other).unwrap_err());
            assert_eq!(error.code(), Code::InvalidProof);
        }
    }
}

mod resolution {
    use super::*;

    #[test]
    fn every_form_the_kernel_takes_is_read() {
        for case in cases(&vectors("resolutions.json")["valid"]) {
            let mediator = read::<Option<Address>>(case, "mediator");
            let expected = Resolution {
                requester_amount: read(case, "requesterAmount"),
                provider_amount: read(case, "providerAmount"),
                provider_at_fault: read(case, "providerAtFault"),
                mediator: mediator.map(|address| (address, read(case, "mediatorAmount"))),
            };
            assert_eq!(
                Resolution::decode(&bytes(case, "encoded")),
                Ok(Some(expected)),
                "{}",
                case["name"]
            );
            assert_eq!(expected.encode(), bytes(case, "reencoded"), "{}", case["name"]);
        }
    }

    #[test]
    fn the_rest_is_refused_in_the_kernels_words() {
        for case in cases(&vectors("resolutions.json")["refused"]) {
            let refusal = Resolution::decode(&bytes(case, "encoded")).unwrap_err();
            assert_eq!(refusal.words(), text(case, "words"), "{}", case["name"]);
        }
    }

    #[test]
    fn no_bytes_are_no_resolution() {
        assert_eq!(Resolution::decode(&[]), Ok(None));
    }

    #[test]
    fn an_amount_beyond_64_bits_can_never_add_up() {
        let encoded =
            [U256::from(1) << 64, U256::ONE].map(|word| word.to_be_bytes::<32>()).concat();
        let read = Resolution::decode(&encoded).unwrap().unwrap();
        assert_eq!(read.requester_amount.checked_add(read.provider_amount), None);
    }
}

mod signed {
    use super::*;

    fn first() -> (PrivateKey, DeliveryMessage, Address) {
        let vectors = vectors("signed_delivery.json");
        let case = &vectors["valid"][0];
        (text(case, "privateKey").parse().unwrap(), read(case, "message"), read(case, "kernel"))
    }

    #[test]
    fn the_signed_type_is_the_protocols() {
        let vectors = vectors("signed_delivery.json");
        assert_eq!(keccak256(text(&vectors, "type")), read::<B256>(&vectors, "typeHash"));
        assert_eq!(
            read::<B256>(&vectors, "typeHash"),
            "0x425ced2de607050b98321400e4411aa0eee4eb375290b412216b6cece62260da"
                .parse::<B256>()
                .unwrap()
        );
    }

    #[test]
    fn signatures_are_those_of_another_implementation() {
        for case in cases(&vectors("signed_delivery.json")["valid"]) {
            let key: PrivateKey = text(case, "privateKey").parse().unwrap();
            let (message, kernel) =
                (read::<DeliveryMessage>(case, "message"), read(case, "kernel"));
            assert_eq!(key.address(), read::<Address>(case, "address"), "{}", case["name"]);
            assert_eq!(
                serde_json::to_value(&message).unwrap(),
                case["message"],
                "{}",
                case["name"]
            );
            assert_eq!(
                message.signing_hash(kernel),
                read::<B256>(case, "signingHash"),
                "{}",
                case["name"]
            );

            let signed = key.sign_delivery(message, kernel).unwrap();
            let mut expected = case["message"].clone();
            expected["signature"] = case["signature"].clone();
            let written = serde_json::to_value(&signed).unwrap();
            assert_eq!(written, expected, "{}", case["name"]);

            let again: SignedDelivery = serde_json::from_str(&written.to_string()).unwrap();
            assert_eq!(again, signed);
            assert_eq!(again.recover(kernel).unwrap(), key.address());
            again.verify(kernel).unwrap();
        }
    }

    #[test]
    fn what_other_sdks_signed_is_verified_as_they_wrote_it() {
        for case in cases(&vectors("signed_delivery.json")["foreign"]) {
            let kernel = read(case, "kernel");
            let signed = SignedDelivery::from_json(&case["json"]).unwrap();
            signed.verify(kernel).unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
            assert_eq!(signed.recover(kernel).unwrap(), read::<Address>(case, "address"));
            // It survives being written again: what was signed is the text.
            let again = SignedDelivery::from_json(&json!(signed)).unwrap();
            assert_eq!(again, signed, "{}", case["name"]);
            for field in ["provider", "consumer"] {
                assert_eq!(json!(signed)[field], case["json"][field], "{}", case["name"]);
            }
            again.verify(kernel).unwrap();
            // And it is good for this kernel alone.
            again.verify(Address::repeat_byte(9)).unwrap_err();
        }
    }

    #[test]
    fn what_the_provider_did_not_sign_is_refused() {
        for case in cases(&vectors("signed_delivery.json")["invalid"]) {
            let checked = checked(&case["json"], read(case, "kernel"));
            let Err(error) = checked else { panic!("{} was accepted", case["name"]) };
            assert_eq!(error.code().as_str(), text(case, "code"), "{}: {error:?}", case["name"]);
            if let Some(field) = case["field"].as_str() {
                assert_eq!(error.facts().field, Some(field), "{}", case["name"]);
            }
            assert!(error.hint().is_some(), "{}", case["name"]);
        }
    }

    #[test]
    fn a_high_s_is_refused_also_where_no_text_was_parsed() {
        let (key, message, kernel) = first();
        let mut signed = key.sign_delivery(message, kernel).unwrap();
        let order = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
            .parse::<U256>()
            .unwrap();
        signed.signature = Signature::new(
            signed.signature.r(),
            order - signed.signature.s(),
            !signed.signature.v(),
        );
        let high = [signed.recover(kernel).map(drop), signed.verify(kernel)];
        for error in high.map(|outcome| Error::from(outcome.unwrap_err())) {
            assert_eq!(error.code(), Code::InvalidSignature);
        }
    }

    #[test]
    fn only_the_provider_signs() {
        let (_, message, kernel) = first();
        let other: PrivateKey = format!("{:064x}", 2).parse().unwrap();
        let error = other.sign_delivery(message, kernel).unwrap_err();
        assert_eq!((error.code(), error.facts().field), (Code::KeyMismatch, Some("provider")));
        assert!(error.to_string().contains(&other.address().to_string()));
    }

    #[test]
    fn nothing_is_signed_that_nobody_would_accept() {
        let (key, message, kernel) = first();
        let elsewhere = Did { chain_id: 1, address: message.consumer.address() }.into();
        for (wrong, field) in [
            (DeliveryMessage { consumer: elsewhere, ..message.clone() }, "consumer"),
            (DeliveryMessage { nonce: 0, ..message }, "nonce"),
        ] {
            let error = key.sign_delivery(wrong, kernel).unwrap_err();
            assert_eq!((error.code(), error.facts().field), (Code::InvalidProof, Some(field)));
        }
    }
}

mod paid_requests {
    use agirails::protocol::{
        paid_request::{PaidRequest, Session},
        wallet_signature::{Verdict, WalletSignature},
    };

    use super::*;

    #[test]
    fn requests_and_sessions_are_those_of_another_implementation() {
        let vectors = vectors("paid_request.json");
        let (chain_id, kernel): (u64, Address) =
            (read(&vectors, "chainId"), read(&vectors, "kernel"));
        let (key, signer): (PrivateKey, Address) =
            (text(&vectors, "privateKey").parse().unwrap(), read(&vectors, "address"));
        let check = |case: &Value, hash: B256, typed_data: &Value| {
            assert_eq!(hash, read::<B256>(case, "signingHash"));
            let signature: WalletSignature = text(case, "signature").parse().unwrap();
            assert_eq!(signature, key.sign_hash(&hash).unwrap().into());
            assert_eq!(signature.verdict(signer, hash), Verdict::Signed);
            assert_eq!(typed_data["domain"]["chainId"], chain_id);
        };
        for case in cases(&vectors["requests"]) {
            let message = &case["message"];
            let request = PaidRequest {
                transaction_id: read(message, "txId"),
                method: read(message, "method"),
                target: read(message, "target"),
                body_hash: read(message, "bodyHash"),
                idempotency_key: read(message, "idempotencyKey"),
                timestamp: read(message, "timestamp"),
            };
            let typed_data = request.typed_data(chain_id, kernel);
            check(case, request.signing_hash(chain_id, kernel), &typed_data);
        }
        for case in cases(&vectors["sessions"]) {
            let message = &case["message"];
            let session = Session {
                transaction_id: read(message, "txId"),
                key: read(message, "key"),
                valid_until: read(message, "validUntil"),
            };
            let typed_data = session.typed_data(chain_id, kernel);
            check(case, session.signing_hash(chain_id, kernel), &typed_data);
        }
    }
}

mod private_key {
    use super::*;

    #[test]
    fn prefix_and_case_do_not_matter() {
        let digits = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
        for text in
            [digits.to_owned(), format!("0x{digits}"), format!("0x{}", digits.to_uppercase())]
        {
            let key: PrivateKey = text.parse().unwrap();
            assert_eq!(key.address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        }
    }

    #[test]
    fn a_bad_key_is_refused_and_never_shown() {
        const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        let secret = "5ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7";
        for text in [
            String::new(),
            "0x".to_owned(),
            "0".repeat(64),
            ORDER.to_owned(),
            "f".repeat(64),
            secret[1..].to_owned(),
            format!("{secret}0"),
            format!("{secret}\n"),
            format!(" {secret}"),
            format!("0X{secret}"),
            format!("0x0x{}", &secret[2..]),
            format!("0x0x{secret}"),
            format!("{}zz", &secret[2..]),
            format!("{}é", &secret[2..]),
        ] {
            let error = text.parse::<PrivateKey>().unwrap_err();
            assert_eq!(error.code(), Code::InvalidPrivateKey, "{text:?}");
            assert_eq!(error.facts().value, None);
            let shown = format!("{error} {error:#} {error:?}");
            assert!(
                !shown.contains("5ec7") && !shown.contains('é') && !shown.contains("zz"),
                "{shown}"
            );
        }
    }

    #[test]
    fn debug_shows_the_address_alone() {
        let secret = "5ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7";
        let key: PrivateKey = secret.parse().unwrap();
        assert_eq!(format!("{key:?}"), format!("PrivateKey({})", key.address()));
        assert_eq!(format!("{key:#?}"), format!("PrivateKey({})", key.address()));
    }
}

mod identifiers {
    use super::*;

    #[test]
    fn did_vectors_agree() {
        let vectors = vectors("did.json");
        for case in cases(&vectors["valid"]) {
            let did: Did = text(case, "text").parse().unwrap();
            assert_eq!(
                did,
                Did { chain_id: read(case, "chainId"), address: read(case, "address") }
            );
            assert_eq!(did.to_string(), text(case, "printed"));
        }
        for case in cases(&vectors["invalid"]) {
            let Err(error) = text(case, "text").parse::<Did>() else {
                panic!("{} was accepted", case["name"])
            };
            let error = Error::from(error);
            assert_eq!((error.code(), error.facts().field), (Code::InvalidDid, Some("did")));
            assert_eq!(error.facts().value.as_deref(), Some(text(case, "text")));
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn transaction_ids_are_the_contracts() {
        for case in cases(&vectors("transaction_ids.json")) {
            let id = transaction_id(
                read(case, "requester"),
                read(case, "provider"),
                read(case, "amount"),
                read(case, "serviceHash"),
                read(case, "nonce"),
            );
            assert_eq!(id, read::<B256>(case, "id"), "{}", case["name"]);
        }
    }

    #[test]
    fn usdc_texts_are_exact() {
        let vectors = vectors("usdc.json");
        for case in cases(&vectors["valid"]) {
            let amount: Usdc = text(case, "text").parse().unwrap();
            assert_eq!(amount, read::<Usdc>(case, "units"), "{case}");
            assert_eq!(amount.to_string(), text(case, "printed"), "{case}");
        }
        for case in cases(&vectors["invalid"]) {
            let error = Error::from(case.as_str().unwrap().parse::<Usdc>().unwrap_err());
            assert_eq!(error.code(), Code::InvalidAmount, "{case}");
        }
    }
}

mod for_every_value {
    use super::*;

    fn hash() -> impl Strategy<Value = B256> {
        any::<[u8; 32]>().prop_map(B256::from)
    }

    fn address() -> impl Strategy<Value = Address> {
        any::<[u8; 20]>().prop_map(Address::from)
    }

    fn key() -> impl Strategy<Value = PrivateKey> {
        hash().prop_filter_map("no key of the curve", |bytes| format!("{bytes:x}").parse().ok())
    }

    fn usdc() -> impl Strategy<Value = Usdc> {
        prop_oneof![any::<u64>(), 0..2_000_000_u64].prop_map(Usdc)
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            // What a double holds exactly: greater integers are rounded, as documented.
            (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
            prop::num::f64::ANY.prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 48, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                hash_map(".{0,4}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// The same value written with its keys in another order and with white space.
    fn written_otherwise(value: &Value) -> String {
        match value {
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(written_otherwise).collect();
                format!("[ {} ]", items.join(" ,\n"))
            }
            Value::Object(map) => {
                let pairs: Vec<_> = map
                    .iter()
                    .rev()
                    .map(|(key, value)| {
                        format!("{} : {}", Value::from(key.as_str()), written_otherwise(value))
                    })
                    .collect();
                format!("{{ {} }}", pairs.join(" ,\t"))
            }
            Value::Number(number) if number.is_i64() => format!("{number}.0"),
            other => other.to_string(),
        }
    }

    /// Equal as ECMAScript sees it: 1 and 1.0 are one number, 0 and -0 are one zero.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
            }
            _ => a == b,
        }
    }

    prop_compose! {
        fn message()(
            key in key(),
            transaction_id in hash(),
            consumer in address(),
            result_cid in any::<String>(),
            result_hash in hash(),
            eas_attestation_uid in hash(),
            delivered_at in any::<u64>(),
            chain_id in any::<u64>(),
            nonce in 1..=u64::MAX,
        ) -> (PrivateKey, DeliveryMessage) {
            let message = DeliveryMessage {
                transaction_id,
                provider: Did { chain_id, address: key.address() }.into(),
                consumer: Did { chain_id, address: consumer }.into(),
                result_cid,
                result_hash,
                eas_attestation_uid,
                delivered_at,
                chain_id,
                nonce,
            };
            (key, message)
        }
    }

    fn flip(bytes: &mut [u8], bit: usize) {
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }

    fn flipped<const N: usize>(mut bytes: [u8; N], bit: usize) -> [u8; N] {
        flip(&mut bytes, bit);
        bytes
    }

    proptest! {
        #[test]
        fn canonical_json_is_one_text_for_one_value(value in json()) {
            let text = canonical_json(&value).unwrap();
            let otherwise: Value = serde_json::from_str(&written_otherwise(&value)).unwrap();
            prop_assert_eq!(&canonical_json(&otherwise).unwrap(), &text);
            prop_assert_eq!(result_hash(&otherwise).unwrap(), keccak256(&text));

            let back: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(same(&back, &value), "{} became {}", value, text);
            prop_assert_eq!(canonical_json(&back).unwrap(), text);
        }

        #[test]
        fn keys_are_in_utf16_order(map in hash_map(any::<String>(), Just(Value::Null), 0..12)) {
            let mut keys: Vec<_> = map.keys().cloned().collect();
            keys.sort_by_key(|key| key.encode_utf16().collect::<Vec<_>>());
            let pairs: Vec<_> = keys.iter().map(|key| format!("{}:null", Value::from(key.as_str()))).collect();
            let value = Value::Object(map.into_iter().collect());
            prop_assert_eq!(canonical_json(&value).unwrap(), format!("{{{}}}", pairs.join(",")));
        }

        #[test]
        fn a_did_survives_printing(chain_id in any::<u64>(), address in address()) {
            let did = Did { chain_id, address };
            prop_assert_eq!(did.to_string().parse::<Did>().unwrap(), did);
            let checksummed = format!("did:ethr:{chain_id}:{}", address.to_checksum(None));
            prop_assert_eq!(checksummed.parse::<Did>().unwrap(), did);
            prop_assert_eq!(serde_json::from_value::<Did>(json!(did)).unwrap(), did);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>(), near in "(did:ethr:)?[0-9x:]{0,6}(0x)?[0-9a-fA-Fxé]{0,66}") {
            for text in [text, near] {
                let _ = text.parse::<Did>();
                let _ = text.parse::<PrivateKey>();
                let _ = SignedDelivery::from_json(&json!(text));
            }
        }

        #[test]
        fn a_proof_survives_encoding(
            transaction_id in hash(), content_hash in hash(), timestamp in any::<u64>(),
        ) {
            let decoded = DecodedProof { transaction_id, content_hash, timestamp };
            let proof = DeliveryProof::from(decoded);
            prop_assert_eq!(GENERATOR.decode_proof(&GENERATOR.encode_proof(&proof)).unwrap(), decoded);
            prop_assert_eq!(serde_json::from_value::<DeliveryProof>(json!(proof)).unwrap(), proof);
        }

        #[test]
        fn bytes_of_any_length_decode_or_are_refused(encoded in vec(any::<u8>(), 0..200)) {
            match GENERATOR.decode_proof(&encoded) {
                Ok(decoded) => prop_assert_eq!(GENERATOR.encode_proof(&decoded.into()).to_vec(), encoded),
                Err(error) => prop_assert_eq!(Error::from(error).code(), Code::InvalidProof),
            }
        }

        #[test]
        fn a_deliverable_is_verified_to_the_bit(
            content in vec(any::<u8>(), 1..300), bit in any::<usize>(),
        ) {
            let hash = GENERATOR.hash_content(&content);
            prop_assert!(GENERATOR.verify_deliverable(hash, &content));
            let mut other = content;
            flip(&mut other, bit);
            prop_assert!(!GENERATOR.verify_deliverable(hash, &other));
        }

        #[test]
        fn a_resolution_survives_encoding(
            amounts in (usdc(), usdc(), usdc()), provider_at_fault in any::<bool>(),
            address in prop::option::of(address()),
        ) {
            let (requester_amount, provider_amount, share) = amounts;
            let mediator = address.filter(|address| *address != Address::ZERO).map(|address| (address, share));
            let resolution = Resolution { requester_amount, provider_amount, provider_at_fault, mediator };
            let encoded = resolution.encode();
            prop_assert_eq!(encoded.len(), if mediator.is_some() { 160 } else { 96 });
            let paid = [requester_amount, provider_amount, mediator.map_or(Usdc::ZERO, |(_, share)| share)];
            let expected = if paid == [Usdc::ZERO; 3] { Err(Refusal::EmptyResolution) } else { Ok(Some(resolution)) };
            prop_assert_eq!(Resolution::decode(&encoded), expected);
        }

        #[test]
        fn any_bytes_are_a_resolution_or_refused(words in vec(prop_oneof![
            any::<[u8; 32]>(), (0..3_u64).prop_map(|word| U256::from(word).to_be_bytes()),
            address().prop_map(|address| address.into_word().0),
        ], 0..7), cut in 0..32_usize) {
            let bytes = words.concat();
            for bytes in [&bytes[..], &bytes[..bytes.len().saturating_sub(cut)]] {
                match Resolution::decode(bytes) {
                    Ok(Some(resolution)) => {
                        prop_assert_eq!(Resolution::decode(&resolution.encode()), Ok(Some(resolution)));
                    }
                    Ok(None) => prop_assert!(bytes.is_empty()),
                    Err(refusal) => prop_assert!(matches!(
                        refusal,
                        Refusal::InvalidResolutionProof | Refusal::EmptyResolution | Refusal::MediatorAddressRequired
                    )),
                }
            }
        }
    }

    proptest! {
        // Each case signs and recovers several times.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whoever_signs_is_recovered(key in key(), hash in hash()) {
            let signature = key.sign_hash(&hash).unwrap();
            prop_assert_eq!(signature.normalize_s(), None);
            prop_assert_eq!(signature.recover_address_from_prehash(&hash).unwrap(), key.address());
            prop_assert_eq!(key.sign_hash(&hash).unwrap(), signature);
        }

        #[test]
        fn a_signed_delivery_verifies_and_survives_json(
            (key, message) in message(), kernel in address(),
        ) {
            let signed = key.sign_delivery(message.clone(), kernel).unwrap();
            signed.verify(kernel).unwrap();
            let again: SignedDelivery = serde_json::from_str(&json!(signed).to_string()).unwrap();
            prop_assert_eq!(&again, &signed);
            prop_assert_eq!(&again.message, &message);
            prop_assert_eq!(again.recover(kernel).unwrap(), key.address());
        }

        #[test]
        fn any_flipped_bit_of_a_signature_is_refused(
            (key, message) in message(), kernel in address(), bit in any::<usize>(),
        ) {
            let signed = key.sign_delivery(message, kernel).unwrap();
            let mut bytes = signed.signature.as_bytes();
            flip(&mut bytes, bit);
            let mut written = json!(signed);
            written["signature"] = json!(hex::encode_prefixed(bytes));
            let checked = checked(&written, kernel);
            prop_assert_eq!(checked.map_err(|error| error.code()), Err(Code::InvalidSignature));
        }

        #[test]
        fn any_flipped_bit_of_a_field_is_refused(
            (key, message) in message(), kernel in address(), bit in any::<usize>(), letter in any::<char>(),
        ) {
            let signed = key.sign_delivery(message, kernel).unwrap();
            let number = |value: u64| u64::from_be_bytes(flipped(value.to_be_bytes(), bit));
            let word = |value: B256| B256::from(flipped(value.0, bit));
            let agent = |did: &WrittenDid| {
                let address = flipped(did.address().0.0, bit).into();
                Did { chain_id: did.chain_id().unwrap(), address }.into()
            };
            let on_chain = |chain_id: u64, did: &WrittenDid| {
                Did { chain_id, address: did.address() }.into()
            };
            let chainless = |did: &WrittenDid| {
                format!("did:ethr:{:#x}", did.address()).parse::<WrittenDid>().unwrap()
            };
            let changes: [&dyn Fn(&mut DeliveryMessage); 14] = [
                &|m| m.transaction_id = word(m.transaction_id),
                &|m| m.provider = agent(&m.provider),
                &|m| m.consumer = agent(&m.consumer),
                &|m| m.provider = on_chain(number(m.chain_id), &m.provider),
                &|m| m.consumer = on_chain(number(m.chain_id), &m.consumer),
                &|m| m.provider = chainless(&m.provider),
                &|m| m.consumer = chainless(&m.consumer),
                &|m| m.result_cid.push(letter),
                &|m| m.result_hash = word(m.result_hash),
                &|m| m.eas_attestation_uid = word(m.eas_attestation_uid),
                &|m| m.delivered_at = number(m.delivered_at),
                &|m| m.chain_id = number(m.chain_id),
                &|m| m.nonce = number(m.nonce),
                &|m| {
                    // The whole message moved to another chain, consistently.
                    m.chain_id = number(m.chain_id);
                    m.provider = on_chain(m.chain_id, &m.provider);
                    m.consumer = on_chain(m.chain_id, &m.consumer);
                },
            ];
            for change in changes {
                let mut tampered = signed.clone();
                change(&mut tampered.message);
                let checked = tampered.verify(kernel).map_err(|error| Error::from(error).code());
                prop_assert_eq!(checked, Err(Code::InvalidSignature), "{:?}", tampered.message);
            }
            let elsewhere = Address::from(flipped(kernel.0.0, bit));
            let checked = signed.verify(elsewhere).map_err(|error| Error::from(error).code());
            prop_assert_eq!(checked, Err(Code::InvalidSignature));
        }
    }

    #[test]
    fn metadata_of_any_shape_survives_json() {
        proptest!(|(value in json())| {
            let metadata = Map::from_iter([("extra".to_owned(), value)]);
            let proof = GENERATOR
                .generate_delivery_proof(DeliveryProofRequest { metadata, ..Default::default() })
                .unwrap();
            let again: DeliveryProof = serde_json::from_str(&json!(proof).to_string()).unwrap();
            prop_assert!(same(&json!(again), &json!(proof)));
        });
    }
}
