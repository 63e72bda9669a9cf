//! Whatever is passed in, the answer is a typed error that names the value and the remedy, stays
//! short, gives no secret away, and leaves the next correct call working.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{error::Error as _, fmt::Debug};

use agirails::{
    ACTPClient, Address, B256, Code, CreateTransaction, DeliveryStatement, Error, Evidence, Kind,
    Mode, PrivateKey, Refusal, Result, Retry, State, TransactionId, Usdc,
    kernel::TransactionQuery,
    protocol::{
        did::Did,
        id::{parse_address, parse_bytes32, parse_transaction_id},
        proof::{
            DeliveryMessage, DeliveryProof, DeliveryProofRequest, ProofGenerator, SignedDelivery,
        },
        registry::ServiceDescriptor,
    },
};
use serde_json::{Value, json};

const REQUESTER: Address = Address::repeat_byte(0xc0);
const PROVIDER: Address = Address::repeat_byte(0xfe);
const MEGABYTES: usize = 10 * 1024 * 1024;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn client() -> ACTPClient {
    ACTPClient::builder().address(REQUESTER).in_memory().connect().await.unwrap()
}

async fn sound(client: &ACTPClient) -> CreateTransaction {
    let deadline = client.now().await.unwrap() + 3_600;
    CreateTransaction::new(REQUESTER, PROVIDER, Usdc(1_000_000), deadline)
}

/// A transaction on which the provider works.
async fn in_progress(client: &ACTPClient) -> (ACTPClient, TransactionId) {
    let provider = ACTPClient::with_kernel(client.kernel().clone(), PROVIDER);
    let id = client.create_transaction(&sound(client).await).await.unwrap();
    client.link_escrow(id).await.unwrap();
    provider.transition_state(id, State::InProgress, Evidence::None).await.unwrap();
    (provider, id)
}

/// The error that a call ended in, which must be of use.
#[track_caller]
fn helpful<T: Debug>(outcome: Result<T, impl Into<Error>>, code: Code) -> Error {
    let error = outcome.map_err(Into::into).unwrap_err();
    assert_eq!(error.code(), code, "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.len() > 10), "{error:?}");
    assert!(!error.to_string().is_empty());
    assert_short(&error);
    error
}

/// [`helpful`], with the argument and the beginning of its value.
#[track_caller]
fn names<T: Debug>(outcome: Result<T, impl Into<Error>>, code: Code, field: &str, value: &str) {
    let error = helpful(outcome, code);
    assert_eq!(error.facts().field, Some(field), "{error:?}");
    let start: String = value.chars().take(20).collect();
    let shown = error.facts().value.as_deref().unwrap_or_default();
    assert!(shown.starts_with(&start), "{error:?}");
    let printed = format!("{start:?}");
    let printed = printed.trim_matches('"');
    assert!(error.to_string().contains(printed), "{error}");
}

/// Every way of looking at an error.
fn views(error: &Error) -> Vec<String> {
    let mut views = vec![error.to_string(), format!("{error:#}"), format!("{error:?}")];
    views.push(format!("{:?}", error.facts()));
    let mut cause = error.source();
    while let Some(inner) = cause {
        views.extend([inner.to_string(), format!("{inner:?}")]);
        cause = inner.source();
    }
    views
}

#[track_caller]
fn assert_short(error: &Error) {
    for view in views(error) {
        assert!(view.len() < 4_000, "{} bytes: {:.200}", view.len(), view);
    }
    assert!(error.to_string().len() < 1_000, "{error}");
}

/// Texts that are no `0x` and this many hex digits.
fn no_hex(digits: usize) -> Vec<String> {
    let good = "ab".repeat(digits / 2);
    vec![
        String::new(),
        "0x".to_owned(),
        "0".to_owned(),
        good.clone(),
        format!("0X{good}"),
        format!("0x{}", &good[1..]),
        format!("0x{good}a"),
        format!("0x{good}ab"),
        format!("0x0x{}", &good[2..]),
        format!("0x{}g", &good[1..]),
        format!("0x{}\0", &good[1..]),
        format!("0x{good}\0"),
        format!(" 0x{good}"),
        format!("0x{good}\n"),
        format!("0x{} ", &good[1..]),
        format!("0x{}", "é".repeat(digits / 2)),
        format!("0x{}", "𝟘".repeat(digits / 4)),
        format!("0x{}", "ab".repeat(MEGABYTES / 2)),
        "é".repeat(MEGABYTES / 2),
        "\0".repeat(MEGABYTES),
        "vitalik.eth".to_owned(),
        "None".to_owned(),
    ]
}

#[test]
fn transaction_ids_are_32_bytes_in_hex() {
    for text in no_hex(64) {
        names(parse_transaction_id(&text), Code::InvalidTransactionId, "transaction_id", &text);
        names(parse_bytes32("service hash", &text), Code::InvalidBytes, "service hash", &text);
    }
    // An address is none, and an id in either case is one.
    let address = REQUESTER.to_string();
    names(parse_transaction_id(&address), Code::InvalidTransactionId, "transaction_id", &address);
    let id = B256::repeat_byte(0xab);
    assert_eq!(parse_transaction_id(&id.to_string()).unwrap(), id);
    assert_eq!(parse_transaction_id(&format!("0x{}", "AB".repeat(32))).unwrap(), id);
}

#[test]
fn addresses_are_20_bytes_in_hex_and_well_checksummed() {
    for text in no_hex(40) {
        names(parse_address("provider", &text), Code::InvalidAddress, "provider", &text);
    }
    let good = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045";
    for text in [
        "0xD8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
        "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96046",
        "0xd8da6bf26964af9d7eed9e03e53415d37aa9604F",
    ] {
        names(parse_address("provider", text), Code::InvalidAddress, "provider", text);
    }
    for text in [good.to_owned(), good.to_lowercase(), format!("0x{}", good[2..].to_uppercase())] {
        assert_eq!(parse_address("provider", &text).unwrap().to_string(), good);
    }
}

#[test]
fn amounts_are_plain_decimals_of_what_can_exist() {
    let long = format!("{}1", "9".repeat(MEGABYTES));
    let power = alloy_primitives::U256::MAX.to_string();
    for text in [
        "",
        ".",
        "..",
        "1.2.3",
        "-1",
        "-0",
        "+1",
        "1e6",
        "1E6",
        "0x10",
        "NaN",
        "inf",
        "1_000",
        "1,5",
        " 1",
        "1 ",
        "1\n",
        "1\0",
        "１",
        "٣",
        "½",
        "$1",
        "1 USDC",
        "true",
        "None",
        "0.0000001",
        "1.0000000",
        "18446744073709.551616",
        "18446744073710",
        &power,
        &long,
    ] {
        names(text.parse::<Usdc>(), Code::InvalidAmount, "amount", text);
    }
    for (text, units) in [
        ("0", 0),
        ("0.10", 100_000),
        ("5", 5_000_000),
        (".5", 500_000),
        ("5.", 5_000_000),
        ("000.000001", 1),
        ("18446744073709.551615", u64::MAX),
    ] {
        assert_eq!(text.parse::<Usdc>().unwrap(), Usdc(units));
    }
}

#[test]
fn states_modes_and_dids_are_known_ones() {
    let long = "S".repeat(MEGABYTES);
    for text in ["", "DONE", "settled", "IN PROGRESS", "INITIATED\0", "5", &long] {
        names(text.parse::<State>(), Code::InvalidState, "state", text);
    }
    for number in [8, 255, u64::MAX] {
        names(State::try_from(number), Code::InvalidState, "state", &number.to_string());
    }
    for text in ["", "Mock", "mock ", "test", "base-sepolia", &long] {
        names(text.parse::<Mode>(), Code::InvalidSettings, "mode", text);
    }
    let address = format!("{PROVIDER:#x}");
    for text in [
        String::new(),
        address.clone(),
        "did:web:example.org".to_owned(),
        "did:ethr:".to_owned(),
        format!("did:ethr:{address}"),
        format!("did:ethr::{address}"),
        format!("did:ethr:01:{address}"),
        format!("did:ethr:-1:{address}"),
        format!("did:ethr:0x1:{address}"),
        format!("did:ethr:18446744073709551616:{address}"),
        format!("did:ethr:1:{address} "),
        format!("did:ethr:1:{}", address.to_uppercase()),
        format!("did:ethr:1:{}", "0".repeat(MEGABYTES)),
        format!("did:ethr:{}:{address}", "1".repeat(MEGABYTES)),
        long.clone(),
    ] {
        names(text.parse::<Did>(), Code::InvalidDid, "did", &text);
    }
}

#[test]
fn a_request_out_of_bounds_names_the_argument_its_value_and_the_bound() {
    run(async {
        let client = client().await;
        let now = client.now().await.unwrap();
        let base = sound(&client).await;
        type Change = fn(CreateTransaction, u64) -> CreateTransaction;
        let amount: Change = |r, value| CreateTransaction { amount: Usdc(value), ..r };
        let deadline: Change = |r, value| CreateTransaction { deadline: value, ..r };
        let window: Change = |r, value| CreateTransaction { dispute_window_seconds: value, ..r };
        for (change, field, value, refusal, bound) in [
            (amount, "amount", 0, Refusal::AmountBelowMinimum, "50_000"),
            (amount, "amount", 49_999, Refusal::AmountBelowMinimum, "50_000"),
            (amount, "amount", 1_000_000_000_000_001, Refusal::AmountAboveMaximum, "1e15"),
            (amount, "amount", u64::MAX, Refusal::AmountAboveMaximum, "1e15"),
            (deadline, "deadline", 0, Refusal::DeadlineInPast, "seconds"),
            (deadline, "deadline", now - 1, Refusal::DeadlineInPast, "seconds"),
            (deadline, "deadline", 3_600, Refusal::DeadlineInPast, "absolute"),
            (deadline, "deadline", now * 1_000, Refusal::DeadlineTooFar, "milliseconds"),
            (deadline, "deadline", now + 400 * 86_400, Refusal::DeadlineTooFar, "365 days"),
            (deadline, "deadline", u64::MAX, Refusal::DeadlineTooFar, "365 days"),
            (window, "dispute_window", 0, Refusal::DisputeWindowTooShort, "3_600"),
            (window, "dispute_window", 48, Refusal::DisputeWindowTooShort, "seconds"),
            (window, "dispute_window", now + 3_600, Refusal::DisputeWindowTooLong, "2_592_000"),
            (window, "dispute_window", u64::MAX, Refusal::DisputeWindowTooLong, "2_592_000"),
        ] {
            let outcome = client.create_transaction(&change(base.clone(), value)).await;
            let hint = outcome.as_ref().err().and_then(|e| e.hint()).map(str::to_owned);
            names(outcome, Code::Refused(refusal), field, &value.to_string());
            assert!(hint.clone().is_some_and(|hint| hint.contains(bound)), "{hint:?}");
        }
        for (requester, provider, refusal, field) in [
            (REQUESTER, Address::ZERO, Refusal::ZeroProvider, "provider"),
            (REQUESTER, REQUESTER, Refusal::SelfTransaction, "provider"),
            (PROVIDER, REQUESTER, Refusal::RequesterMismatch, "requester"),
        ] {
            let request = CreateTransaction { requester, provider, ..base.clone() };
            let value = if field == "provider" { provider } else { requester };
            let outcome = client.create_transaction(&request).await;
            names(outcome, Code::Refused(refusal), field, &value.to_string());
        }
        client.create_transaction(&base).await.unwrap();
    });
}

#[test]
fn a_refused_move_names_the_transaction_its_state_and_its_deadline() {
    run(async {
        let client = client().await;
        let (provider, id) = in_progress(&client).await;
        let outcome = client.transition_state(id, State::Cancelled, Evidence::None).await;
        let error = helpful(outcome, Code::Refused(Refusal::CannotCancelAfterWorkStarted));
        assert_eq!(error.facts().transaction_id, Some(id));
        assert_eq!(error.facts().state, Some(State::InProgress));
        let deadline = client.get_transaction(id).await.unwrap().deadline;
        assert_eq!(error.facts().deadline, Some(deadline));
        assert!(error.to_string().contains(&id.to_string()));
        assert_eq!((error.kind(), error.retry()), (Kind::InvalidStateTransition, Retry::Never));

        let unknown = B256::repeat_byte(0xee);
        let outcome = client.get_transaction(unknown).await;
        names(outcome, Code::Refused(Refusal::TxMissing), "transaction_id", &unknown.to_string());
        let outcome = client.accept_quote(id, Usdc(3)).await;
        names(outcome, Code::Refused(Refusal::BelowMinimum), "amount", "3");
        let outcome = client.release_milestone(id, Usdc(0)).await;
        names(outcome, Code::Refused(Refusal::AmountZero), "amount", "0");
        let outcome = client.anchor_attestation(id, B256::ZERO).await;
        helpful(outcome, Code::Refused(Refusal::AttestationMissing));
        provider.transition_state(id, State::Delivered, Evidence::None).await.unwrap();
    });
}

#[test]
fn what_a_delivery_carries_has_a_length_that_means_something() {
    run(async {
        let client = client().await;
        let (provider, id) = in_progress(&client).await;
        for length in [1, 20, 31, 33, 64, 95, 97, 128, MEGABYTES] {
            let evidence = Evidence::Bytes(vec![7; length]);
            let outcome = provider.transition_state(id, State::Delivered, evidence).await;
            let refusal = Refusal::InvalidDisputeWindowProof;
            let error = helpful(outcome, Code::Refused(refusal));
            assert_eq!(error.facts().transaction_id, Some(id));
        }
        // 96 bytes are a proof: here another transaction's, or one from beyond 64 bits of time.
        for bytes in [[7_u8; 96], [0xff; 96]] {
            let evidence = Evidence::Bytes(bytes.to_vec());
            let outcome = provider.transition_state(id, State::Delivered, evidence).await;
            assert!(matches!(
                outcome.map_err(|error| error.code()),
                Err(Code::ProofMismatch | Code::InvalidProof)
            ));
        }
        for length in [0, 31, 32, 33, 64, 95, 97, MEGABYTES] {
            let outcome = ProofGenerator.decode_proof(&vec![0; length]);
            let error = helpful(outcome, Code::InvalidProof);
            assert!(error.to_string().contains(&length.to_string()), "{error}");
        }
        let proof = proof_of(id, b"42");
        provider.transition_state(id, State::Delivered, proof.clone().into()).await.unwrap();
        assert_eq!(client.get_delivery_proof(id).await.unwrap(), Some(proof));
    });
}

fn proof_of(transaction_id: TransactionId, deliverable: &[u8]) -> DeliveryProof {
    let request = DeliveryProofRequest {
        transaction_id,
        deliverable,
        timestamp_ms: 1_780_000_000_000,
        ..Default::default()
    };
    ProofGenerator.generate_delivery_proof(request).unwrap()
}

#[test]
fn proofs_in_json_name_the_key_that_is_wrong() {
    let good = serde_json::to_value(proof_of(B256::repeat_byte(1), b"42")).unwrap();
    assert_eq!(DeliveryProof::from_json(&good).unwrap().transaction_id, B256::repeat_byte(1));
    let long = "x".repeat(MEGABYTES);
    for (key, values) in [
        ("type", vec![json!("proof"), json!(1), json!(null), json!(long)]),
        ("txId", vec![json!("0x12"), json!(7), json!(null), json!([1]), json!(long)]),
        ("contentHash", vec![json!(""), json!(true), json!("0x"), json!(long)]),
        ("timestamp", vec![json!("now"), json!(-1), json!(1.5), json!(null), json!(1e300)]),
        ("deliveryUrl", vec![json!(1), json!(["https://example.org"])]),
        ("metadata", vec![json!("none"), json!([]), json!(7)]),
    ] {
        for value in values {
            let mut proof = good.clone();
            proof[key] = value;
            let error = helpful(DeliveryProof::from_json(&proof), Code::InvalidProof);
            assert_eq!(error.facts().field, Some(key));
            assert!(error.to_string().contains(key), "{error}");
        }
        if !["deliveryUrl", "metadata"].contains(&key) {
            let mut proof = good.clone();
            proof.as_object_mut().unwrap().remove(key);
            let error = helpful(DeliveryProof::from_json(&proof), Code::InvalidProof);
            assert_eq!(error.facts().field, Some(key));
        }
    }
    for value in [json!(null), json!("proof"), json!([good]), json!(long), json!({})] {
        helpful(DeliveryProof::from_json(&value), Code::InvalidProof);
        helpful(DeliveryMessage::from_json(&value), Code::InvalidProof);
        helpful(SignedDelivery::from_json(&value), Code::InvalidProof);
    }
}

#[test]
fn huge_and_foreign_deliverables_are_hashed_like_any_other() {
    run(async {
        let client = client().await;
        let huge = "größe 数据 🦀 \0".repeat(MEGABYTES / 24);
        for deliverable in [b"".as_slice(), "🦀".as_bytes(), &[0xff, 0xfe], huge.as_bytes()] {
            let (provider, id) = in_progress(&client).await;
            let metadata = [
                ("mimeType".to_owned(), json!("text/plain; charset=utf-8")),
                ("ключ".to_owned(), json!({"𝟘": "\u{0}\u{ffff}", "n": [1.5, null, true]})),
            ];
            let proof = ProofGenerator
                .generate_delivery_proof(DeliveryProofRequest {
                    transaction_id: id,
                    deliverable,
                    delivery_url: Some("https://例え.jp/größe?q=🦀".to_owned()),
                    metadata: metadata.into_iter().collect(),
                    timestamp_ms: u64::MAX,
                })
                .unwrap();
            assert_eq!(proof.metadata["size"], deliverable.len());
            assert!(ProofGenerator.verify_deliverable(proof.content_hash, deliverable));
            provider.transition_state(id, State::Delivered, proof.clone().into()).await.unwrap();
            let kept = client.get_delivery_proof(id).await.unwrap();
            assert_eq!(kept, Some(proof));
        }
        for mime_type in [json!(7), json!(["text/plain"]), json!({})] {
            let request = DeliveryProofRequest {
                metadata: [("mimeType".to_owned(), mime_type)].into_iter().collect(),
                ..Default::default()
            };
            let outcome = ProofGenerator.generate_delivery_proof(request);
            helpful(outcome, Code::InvalidProof);
        }
    });
}

/// Parts of this secret are long enough to be recognised anywhere.
const SECRET: &str = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";

#[track_caller]
fn keeps_the_secret(views: &[String], secret: &str) {
    let secret: Vec<char> = secret.chars().collect();
    for view in views {
        let view = view.to_lowercase();
        for part in secret.windows(6) {
            let part: String = part.iter().collect::<String>().to_lowercase();
            assert!(!view.contains(&part), "{part:?} of the key shows in {view:.300}");
        }
    }
}

#[test]
fn malformed_keys_are_never_shown() {
    let long = SECRET.repeat(MEGABYTES / 64);
    for text in [
        SECRET[1..].to_owned(),
        format!("{SECRET}a"),
        format!("0x{SECRET}0x"),
        format!("0X{SECRET}"),
        format!("0x0x{}", &SECRET[2..]),
        format!(" {SECRET}"),
        format!("{SECRET}\n"),
        format!("{}\0", &SECRET[1..]),
        format!("{}g", &SECRET[1..]),
        format!("{}é", &SECRET[2..]),
        format!("\"{SECRET}\""),
        long,
    ] {
        let error = helpful(text.parse::<PrivateKey>(), Code::InvalidPrivateKey);
        keeps_the_secret(&views(&error), &text[..text.len().min(80)]);
        assert_eq!(error.facts().value, None);
        assert_eq!(error.facts().field, Some("private key"));
    }
    // Zero, and the curve's order: of the right form, and no keys.
    let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let zero = "0".repeat(64);
    for text in ["", "0x", zero.as_str(), order] {
        let error = helpful(text.parse::<PrivateKey>(), Code::InvalidPrivateKey);
        assert_eq!(error.facts().value, None);
    }
    keeps_the_secret(&views(&helpful(order.parse::<PrivateKey>(), Code::InvalidPrivateKey)), order);
}

#[test]
fn sound_keys_are_never_shown_either() {
    run(async {
        let key: PrivateKey = SECRET.parse().unwrap();
        assert_eq!(format!("0x{SECRET}").parse::<PrivateKey>().unwrap().address(), key.address());
        let builder = ACTPClient::builder().private_key(key.clone()).in_memory();
        let mut shown = vec![format!("{key:?}"), format!("{builder:?}")];
        let client = builder.connect().await.unwrap();
        assert_eq!(client.address(), key.address());
        shown.push(format!("{client:?} {:?}", client.kernel()));

        let other = ACTPClient::builder().address(PROVIDER).private_key(key.clone()).in_memory();
        let error = helpful(other.connect().await, Code::KeyMismatch);
        assert!(error.to_string().contains(&key.address().to_string()));
        assert!(error.to_string().contains(&PROVIDER.to_string()));
        shown.extend(views(&error));

        let unknown = DeliveryStatement::default();
        let outcome = client.sign_delivery(unknown.clone()).await;
        shown.extend(views(&helpful(outcome, Code::Refused(Refusal::TxMissing))));
        let request = CreateTransaction { requester: key.address(), ..sound(&client).await };
        let id = client.create_transaction(&request).await.unwrap();
        let statement = DeliveryStatement { transaction_id: id, ..unknown };
        let outcome = client.sign_delivery(statement.clone()).await;
        shown.extend(views(&helpful(outcome, Code::Refused(Refusal::OnlyProvider))));
        keeps_the_secret(&shown, SECRET);

        let keyless = ACTPClient::with_kernel(client.kernel().clone(), PROVIDER);
        helpful(keyless.sign_delivery(statement).await, Code::KeyMissing);
    });
}

#[test]
fn settings_that_make_no_client_say_what_is_missing() {
    run(async {
        helpful(ACTPClient::builder().in_memory().connect().await, Code::InvalidSettings);
        // Port 9 of this machine: nobody answers there.
        for mode in [Mode::Testnet, Mode::Mainnet] {
            let builder = ACTPClient::builder().mode(mode).address(REQUESTER).in_memory();
            let error = builder.rpc_url("http://127.0.0.1:9").connect().await.unwrap_err();
            assert_eq!(error.kind(), Kind::Network, "{error:?}");
            assert!(error.hint().is_some());
        }
        let builder = || ACTPClient::builder().address(REQUESTER).in_memory();
        let outcome = builder().state_directory("/nowhere").connect().await;
        helpful(outcome, Code::InvalidSettings);
        for amount in [i64::MAX as u64 + 1, u64::MAX] {
            let outcome = builder().starting_balance(Usdc(amount)).connect().await;
            names(outcome, Code::InvalidAmount, "starting_balance", &amount.to_string());
        }
        builder().connect().await.unwrap();
    });
}

#[test]
fn a_mock_makes_no_more_than_a_file_can_hold() {
    run(async {
        let client = client().await;
        let mock = client.mock().unwrap();
        let all = i64::MAX as u64;
        for amount in [all + 1, u64::MAX, all, all - 1_999_999_999] {
            let outcome = mock.mint(PROVIDER, Usdc(amount)).await;
            names(outcome, Code::InvalidAmount, "amount", &amount.to_string());
        }
        mock.mint(PROVIDER, Usdc(all - 2_000_000_000)).await.unwrap();
        assert_eq!(mock.total_supply().await.unwrap(), Usdc(all));
        helpful(mock.mint(PROVIDER, Usdc(1)).await, Code::InvalidAmount);
        let kernel = client.kernel();
        for amount in [all + 1, u64::MAX] {
            let outcome = kernel.approve(REQUESTER, Usdc(amount)).await;
            names(outcome, Code::InvalidAmount, "amount", &amount.to_string());
        }
        kernel.approve(REQUESTER, Usdc(all)).await.unwrap();
        for seconds in [u64::MAX, 101 * 365 * 86_400, 1_780_000_000_000] {
            let outcome = mock.advance_time(seconds).await;
            names(outcome, Code::InvalidNumber, "seconds", &seconds.to_string());
        }
        for limit in [0, 1_001, u32::MAX] {
            let query = TransactionQuery { limit, ..TransactionQuery::of(REQUESTER) };
            let outcome = client.find_transactions(&query).await;
            names(outcome, Code::InvalidNumber, "limit", &limit.to_string());
        }
        for limit in [0, 10_001, u32::MAX] {
            names(client.events(0, limit).await, Code::InvalidNumber, "limit", &limit.to_string());
        }
        mock.advance_time(3_600).await.unwrap();
        client.create_transaction(&sound(&client).await).await.unwrap();
    });
}

#[test]
fn too_little_money_says_how_much_there_is_and_how_much_it_takes() {
    run(async {
        let client = client().await;
        let request = CreateTransaction { amount: Usdc(1_000_000_001), ..sound(&client).await };
        let id = client.create_transaction(&request).await.unwrap();
        let error = helpful(client.link_escrow(id).await, Code::InsufficientBalance);
        assert_eq!(error.facts().required, Some(Usdc(1_000_000_001)));
        assert_eq!(error.facts().available, Some(Usdc(1_000_000_000)));
        assert_eq!(error.kind(), Kind::InsufficientFunds);
        for part in ["1000.00", "1000.000001", &REQUESTER.to_string()] {
            assert!(error.to_string().contains(part), "{error}");
        }
        client.mock().unwrap().mint(REQUESTER, Usdc(1)).await.unwrap();
        client.link_escrow(id).await.unwrap();
    });
}

#[test]
fn registrations_of_any_size_are_refused_in_few_words() {
    run(async {
        let client = client().await;
        let registry = client.registry().unwrap();
        let long = "x".repeat(MEGABYTES);
        let service = ServiceDescriptor::new("ai-completion").unwrap();
        let offered = [service.clone()];
        let refused = Code::Refused;
        let outcome = registry.register_agent(&long, &offered).await;
        helpful(outcome, refused(Refusal::EndpointTooLong));
        let nameless = ServiceDescriptor { service_type: long.clone(), ..service.clone() };
        let outcome = registry.register_agent("https://a.example", &[nameless]).await;
        helpful(outcome, refused(Refusal::ServiceTypeTooLong));
        for text in ["ai completion", "AI", "größe", "\0", "🦀"] {
            let outcome = registry.get_agents_by_service(text).await;
            assert_eq!(outcome.unwrap_err().kind(), Kind::Validation);
        }
        let outcome = registry.get_agents_by_service(&long).await;
        helpful(outcome, refused(Refusal::ServiceTypeTooLong));
        names(registry.get_agent_by_did(&long).await, Code::InvalidDid, "did", &long);

        // What the contract does not look at may be anything.
        let odd = ServiceDescriptor {
            schema_uri: "größe 🦀\0".to_owned(),
            metadata_cid: "x".repeat(100_000),
            avg_completion_time_seconds: u64::MAX,
            min_price: Usdc(u64::MAX),
            ..service
        };
        registry.register_agent("größe 🦀\0", std::slice::from_ref(&odd)).await.unwrap();
        assert_eq!(registry.get_service_descriptors(REQUESTER).await.unwrap(), [odd]);
        let outcome = registry.register_agent("https://a.example", &offered).await;
        let code = refused(Refusal::AlreadyRegistered);
        names(outcome, code, "agent", &REQUESTER.to_string());
    });
}

#[test]
fn two_clients_of_one_address_are_one_party() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let connect = || {
            let builder = ACTPClient::builder().address(REQUESTER);
            builder.state_directory(directory.path()).connect()
        };
        let (one, two) = (connect().await.unwrap(), connect().await.unwrap());
        let request = sound(&one).await;
        let ids = [
            one.create_transaction(&request).await.unwrap(),
            two.create_transaction(&request).await.unwrap(),
        ];
        assert_ne!(ids[0], ids[1]);
        one.link_escrow(ids[1]).await.unwrap();
        let outcome = two.link_escrow(ids[1]).await;
        let error = helpful(outcome, Code::Refused(Refusal::EscrowIdUsed));
        assert_eq!(error.facts().state, Some(State::Committed));
        // Both at once: one pays, once.
        let (first, second) = tokio::join!(one.link_escrow(ids[0]), two.link_escrow(ids[0]));
        assert!(first.is_ok() != second.is_ok());
        assert_eq!(two.balance().await.unwrap(), Usdc(998_000_000));
    });
}

#[test]
fn every_refusal_brings_its_words_a_code_and_a_hint() {
    for refusal in Refusal::ALL {
        let error = Error::from(*refusal);
        assert_eq!(error.to_string(), refusal.words());
        assert_eq!(error.code(), Code::Refused(*refusal));
        assert_eq!(error.code().as_str(), refusal.code());
        assert!(error.hint().is_some_and(|hint| hint.len() > 15), "{refusal}");
        let json: Value = json!(error.hint());
        assert!(json.is_string());
    }
}

#[test]
fn nobody_acts_for_the_vault_whose_money_is_other_peoples() {
    run(async {
        let client = client().await;
        let id = client.create_transaction(&sound(&client).await).await.unwrap();
        client.link_escrow(id).await.unwrap();

        let vault = client.network().vault;
        let thief = ACTPClient::with_kernel(client.kernel().clone(), vault);
        let request = CreateTransaction { requester: vault, ..sound(&client).await };
        let stolen = thief.create_transaction(&request).await.unwrap();
        let refused = thief.link_escrow(stolen).await;
        names(refused, Code::InvalidAddress, "sender", &vault.to_string());
        assert_eq!(client.escrow(id).await.unwrap().remaining(), Usdc(1_000_000));
    });
}
