//! The agent registry's rules, against the vectors that Python reads too.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{fs, path::Path};

use agirails::{
    Address, B256, Refusal, Usdc,
    protocol::registry::{
        AgentProfile, MAX_ENDPOINT_LENGTH, MAX_REPUTATION, MAX_SERVICES, ServiceDescriptor,
        check_endpoint, check_profile, check_services, reputation, service_type_hash,
    },
};
use alloy_primitives::keccak256;
use proptest::prelude::*;
use serde_json::{Value, json};

const USDC: u64 = 1_000_000;

fn service(service_type: &str) -> ServiceDescriptor {
    ServiceDescriptor::new(service_type).unwrap()
}

/// A descriptor as another SDK could send it: nothing about it is checked.
fn unchecked(service_type: &str) -> ServiceDescriptor {
    serde_json::from_value(json!({ "serviceType": service_type })).unwrap()
}

#[test]
fn service_types_are_judged_as_the_contract_judges_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/service_types.json");
    let vectors: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for case in vectors["valid"].as_array().unwrap() {
        let hash: B256 = serde_json::from_value(case["hash"].clone()).unwrap();
        assert_eq!(service_type_hash(case["serviceType"].as_str().unwrap()), Ok(hash), "{case}");
    }
    for case in vectors["refused"].as_array().unwrap() {
        let refusal = service_type_hash(case["serviceType"].as_str().unwrap()).unwrap_err();
        assert_eq!(refusal.words(), case["words"], "{case}");
    }
}

#[test]
fn an_endpoint_is_measured_in_bytes() {
    assert_eq!(check_endpoint(""), Err(Refusal::EmptyEndpoint));
    assert_eq!(check_endpoint("x"), Ok(()));
    assert_eq!(check_endpoint(&"x".repeat(MAX_ENDPOINT_LENGTH)), Ok(()));
    assert_eq!(check_endpoint(&"x".repeat(MAX_ENDPOINT_LENGTH + 1)), Err(Refusal::EndpointTooLong));
    assert_eq!(check_endpoint(&"é".repeat(MAX_ENDPOINT_LENGTH / 2)), Ok(()));
    assert_eq!(
        check_endpoint(&"é".repeat(MAX_ENDPOINT_LENGTH / 2 + 1)),
        Err(Refusal::EndpointTooLong)
    );
}

#[test]
fn a_registration_is_refused_in_the_contracts_order() {
    let many = |count| vec![service("a"); count];
    assert_eq!(check_profile("", &[]), Err(Refusal::EmptyEndpoint));
    assert_eq!(check_profile(&"x".repeat(257), &[]), Err(Refusal::EndpointTooLong));
    assert_eq!(check_profile("x", &[]), Err(Refusal::NoServices));
    assert_eq!(check_profile("x", &many(MAX_SERVICES + 1)), Err(Refusal::TooManyServices));
    assert_eq!(check_profile("x", &many(MAX_SERVICES)), Ok(()));

    let wrong_hash = ServiceDescriptor { service_type_hash: B256::ZERO, ..service("a") };
    let both_wrong = ServiceDescriptor { service_type_hash: B256::ZERO, ..unchecked("A") };
    assert_eq!(check_services(&[]), Ok(()));
    assert_eq!(check_services(&[service("a"), service("b-1")]), Ok(()));
    assert_eq!(check_services(&[service("a"), wrong_hash.clone()]), Err(Refusal::HashMismatch));
    assert_eq!(check_services(&[both_wrong]), Err(Refusal::ServiceTypeUppercase));
    assert_eq!(check_services(&[wrong_hash, unchecked("A")]), Err(Refusal::HashMismatch));
    assert_eq!(check_services(&[unchecked(""), unchecked("A")]), Err(Refusal::EmptyServiceType));
}

#[test]
fn a_descriptor_is_written_with_the_contracts_names() {
    let full = ServiceDescriptor {
        schema_uri: "ipfs://schema".to_owned(),
        avg_completion_time_seconds: 30,
        metadata_cid: "bafy".to_owned(),
        ..service("ai-completion").with_price(Usdc(100_000), Usdc(200_000))
    };
    let written = json!({
        "serviceTypeHash": keccak256("ai-completion"),
        "serviceType": "ai-completion",
        "schemaURI": "ipfs://schema",
        "minPrice": 100_000,
        "maxPrice": 200_000,
        "avgCompletionTime": 30,
        "metadataCID": "bafy",
    });
    assert_eq!(json!(full), written);
    assert_eq!(serde_json::from_value::<ServiceDescriptor>(written).unwrap(), full);
}

#[test]
fn a_descriptor_needs_only_its_type() {
    assert_eq!(unchecked("ai-completion"), service("ai-completion"));
    assert!(serde_json::from_value::<ServiceDescriptor>(json!({"minPrice": 1})).is_err());
    assert_eq!(ServiceDescriptor::new("AI"), Err(Refusal::ServiceTypeUppercase));
}

#[test]
fn a_profile_is_written_with_the_contracts_names() {
    let profile = AgentProfile {
        agent_address: Address::repeat_byte(1),
        did: "did:ethr:84532:0x0101010101010101010101010101010101010101".to_owned(),
        endpoint: "https://example.com".to_owned(),
        service_types: vec![keccak256("a")],
        staked_amount: Usdc::ZERO,
        reputation_score: 7_000,
        total_transactions: 1,
        disputed_transactions: 0,
        total_volume: Usdc(100_000),
        registered_at: 1,
        updated_at: 2,
        is_active: true,
        config_hash: B256::ZERO,
        config_cid: String::new(),
        listed: false,
    };
    let written = json!({
        "agentAddress": "0x0101010101010101010101010101010101010101",
        "did": "did:ethr:84532:0x0101010101010101010101010101010101010101",
        "endpoint": "https://example.com",
        "serviceTypes": [keccak256("a")],
        "stakedAmount": 0,
        "reputationScore": 7_000,
        "totalTransactions": 1,
        "disputedTransactions": 0,
        "totalVolumeUSDC": 100_000,
        "registeredAt": 1,
        "updatedAt": 2,
        "isActive": true,
        "configHash": B256::ZERO,
        "configCID": "",
        "listed": false,
    });
    assert_eq!(json!(profile), written);
    assert_eq!(serde_json::from_value::<AgentProfile>(written).unwrap(), profile);
}

#[test]
fn reputation_follows_success_and_volume() {
    for (total, disputed, volume, expected) in [
        (0, 0, 0, 7_000),
        (1, 0, 0, 7_000),
        (1, 1, 0, 0),
        (2, 1, 0, 3_500),
        // 6_666 (rounded down) × 0.7 = 4_666.2, rounded down again.
        (3, 1, 0, 4_666),
        (3, 2, 0, 2_333),
        (10_000, 1, 0, 6_999),
        (1, 0, 100 * USDC - 1, 7_000),
        (1, 0, 100 * USDC, 7_750),
        (1, 0, 1_000 * USDC - 1, 7_750),
        (1, 0, 1_000 * USDC, 8_500),
        (1, 0, 10_000 * USDC - 1, 8_500),
        (1, 0, 10_000 * USDC, 9_250),
        (1, 0, 100_000 * USDC - 1, 9_250),
        (1, 0, 100_000 * USDC, 10_000),
        (1, 1, 100_000 * USDC, 3_000),
        (u64::MAX, 0, u64::MAX, 10_000),
        (u64::MAX, u64::MAX, u64::MAX, 3_000),
    ] {
        assert_eq!(
            reputation(total, disputed, Usdc(volume)),
            expected,
            "{total} {disputed} {volume}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_matches_the_pattern_is_a_service_type(text in "[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,6}") {
        prop_assert_eq!(service_type_hash(&text), Ok(keccak256(&text)));
        prop_assert_eq!(check_services(&[unchecked(&text)]), Ok(()));
    }

    #[test]
    fn whatever_does_not_is_refused(text in prop_oneof![any::<String>(), "[a-zA-Z0-9_ -]{0,70}"]) {
        let inside = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let hyphens = text.starts_with('-') || text.ends_with('-') || text.contains("--");
        let valid = (1..=64).contains(&text.len()) && inside && !hyphens;
        prop_assert_eq!(service_type_hash(&text).is_ok(), valid);
    }

    #[test]
    fn reputation_stays_in_bounds_and_only_disputes_lower_it(
        total in any::<u64>(), disputed in any::<u64>(), volume in any::<u64>(), more in any::<u64>(),
    ) {
        let score = reputation(total, disputed, Usdc(volume));
        prop_assert!(score <= MAX_REPUTATION);
        prop_assert!(reputation(total, disputed.saturating_add(more), Usdc(volume)) <= score);
        prop_assert!(reputation(total, disputed, Usdc(volume.saturating_add(more))) >= score);
    }
}
