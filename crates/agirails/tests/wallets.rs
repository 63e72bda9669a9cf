//! Keys and where they come from: keystores open with their password and with nothing else, each
//! network takes the keys that AIP-13 lets it take, and nothing ever shows a secret.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{fmt::Debug, fs, path::Path, sync::Arc, time::Duration};

use agirails::{
    ACTPClient, Address, ClientBuilder, Code, Contracts, Error, KeyEnvironment, KeySources, Mode,
    NetworkProfile, Password, PrivateKey, Result, Usdc, resolve_key,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// The key and the password of the definition's test vectors.
const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
const OWNER: &str = "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b";
const PASSWORD: &str = "testpassword";
const OTHER: Address = Address::repeat_byte(0xfe);

/// Source: Web3 Secret Storage Definition, test vector PBKDF2-SHA-256.
fn pbkdf2_vector() -> Value {
    json!({
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262_144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3,
    })
}

/// Source: Web3 Secret Storage Definition, test vector scrypt.
fn scrypt_vector() -> Value {
    json!({
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32,
                "n": 262_144,
                "p": 8,
                "r": 1,
                "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
            },
            "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3,
    })
}

fn open(keystore: &Value, password: &str) -> Result<PrivateKey> {
    PrivateKey::from_keystore(keystore.to_string(), password)
}

fn raw_key() -> PrivateKey {
    SECRET.parse().unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// The error that a call ended in, which helps and keeps its secrets.
#[track_caller]
fn refused<T: Debug>(outcome: Result<T>, code: Code) -> Error {
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), code, "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.len() > 10), "{error:?}");
    keeps_secrets(&format!("{error} {error:#} {error:?}"));
    error
}

#[track_caller]
fn keeps_secrets(shown: &str) {
    let shown = shown.to_lowercase();
    assert!(!shown.contains(&SECRET[..16]), "{shown}");
    assert!(!shown.contains(&SECRET[48..]), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
}

/// A directory with this keystore at `.actp/keystore.json`.
fn state_directory(keystore: &Value) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join(".actp")).unwrap();
    fs::write(directory.path().join(".actp/keystore.json"), keystore.to_string()).unwrap();
    directory
}

mod keystores {
    use super::*;

    #[test]
    fn the_definitions_vectors_open() {
        for vector in [pbkdf2_vector(), scrypt_vector()] {
            let key = open(&vector, PASSWORD).unwrap();
            assert_eq!(key.address().to_string(), OWNER);
            assert!(!key.is_raw());
            keeps_secrets(&format!("{key:?}"));
        }
        assert!(raw_key().is_raw());
    }

    #[test]
    fn what_tools_vary_makes_no_difference() {
        let mut capital = pbkdf2_vector();
        let crypto = capital.as_object_mut().unwrap().remove("crypto").unwrap();
        capital["Crypto"] = crypto;
        capital["address"] = json!(OWNER[2..]);
        capital["x-ethers"] = json!({"client": "ethers"});
        assert_eq!(open(&capital, PASSWORD).unwrap().address().to_string(), OWNER);
        for address in [json!(OWNER), json!(OWNER.to_lowercase()), Value::Null] {
            capital["address"] = address;
            open(&capital, PASSWORD).unwrap();
        }
    }

    #[test]
    fn a_keystore_made_here_opens_here() {
        let error = refused(raw_key().to_keystore(""), Code::InvalidSettings);
        assert_eq!(error.facts().field, Some("password"));
        for password in ["pässwörd 🗝", PASSWORD] {
            let made = raw_key().to_keystore(password).unwrap();
            let file: Value = serde_json::from_str(&made).unwrap();
            assert!(!made.contains(SECRET));
            assert_eq!(file["version"], 3);
            assert_eq!(file["crypto"]["kdfparams"]["n"], 262_144);
            assert_eq!(file["id"].as_str().unwrap().as_bytes()[14], b'4');
            let key = PrivateKey::from_keystore(&made, password).unwrap();
            assert_eq!(key.address(), raw_key().address());
        }
        let twice = [0, 1].map(|_| raw_key().to_keystore("secret").unwrap());
        assert_ne!(twice[0], twice[1]);
    }

    #[test]
    fn another_password_opens_nothing() {
        for password in ["", "Testpassword", "testpassword ", " testpassword"] {
            refused(open(&pbkdf2_vector(), password), Code::WrongPassword);
        }
    }

    #[test]
    fn a_damaged_keystore_names_what_is_wrong() {
        let whole = pbkdf2_vector();
        let cases: &[(&str, Value, &str)] = &[
            ("/version", json!(1), "version 1"),
            ("/version", json!("3"), "version"),
            ("/crypto", json!("text"), "cipher"),
            ("/crypto/cipher", json!("aes-256-gcm"), "cipher"),
            ("/crypto/cipherparams/iv", json!("60"), "iv"),
            ("/crypto/cipherparams", Value::Null, "iv"),
            ("/crypto/ciphertext", json!(SECRET[..62]), "ciphertext"),
            ("/crypto/ciphertext", json!(7), "ciphertext"),
            ("/crypto/kdf", json!("argon2"), "kdf"),
            ("/crypto/kdf", json!("scrypt"), "kdfparams.n"),
            ("/crypto/kdfparams/prf", json!("hmac-sha1"), "prf"),
            ("/crypto/kdfparams/c", json!(-1), "kdfparams.c"),
            ("/crypto/kdfparams/dklen", json!(16), "dklen"),
            ("/crypto/kdfparams/salt", json!("xyz"), "salt"),
            ("/crypto/mac", json!("51"), "mac"),
        ];
        for (pointer, value, named) in cases {
            let mut damaged = whole.clone();
            *damaged.pointer_mut(pointer).unwrap() = value.clone();
            let error = refused(open(&damaged, PASSWORD), Code::InvalidKeystore);
            assert!(error.to_string().contains(named), "{error}");
        }
        let mut damaged = whole.clone();
        damaged["address"] = json!(OTHER);
        let error = refused(open(&damaged, PASSWORD), Code::InvalidKeystore);
        assert!(error.to_string().contains(OWNER));
        // Damage inside the ciphertext cannot be told from another password.
        let mut damaged = whole;
        damaged["crypto"]["ciphertext"] = json!(SECRET);
        refused(open(&damaged, PASSWORD), Code::WrongPassword);
    }

    #[test]
    fn what_is_no_keystore_is_never_shown() {
        let texts = [
            String::new(),
            SECRET.to_owned(),
            format!("\"{SECRET}\""),
            format!("{{\"{SECRET}\": 1}}"),
            format!("{{\"version\": \"{SECRET}\"}}"),
            format!("{{\"version\": 3, \"crypto\": {{\"cipher\": \"{SECRET}\"}}}}"),
            "[".repeat(100_000),
        ];
        for text in texts {
            refused(PrivateKey::from_keystore(text, PASSWORD), Code::InvalidKeystore);
        }
        refused(PrivateKey::from_keystore([0xff, 0xfe], PASSWORD), Code::InvalidKeystore);
    }

    #[test]
    fn demands_beyond_all_measure_are_refused_at_once() {
        let scrypt = [
            (1_u64 << 40, 8_u64, 1_u64),
            (1 << 20, 8, 1),
            (1 << 18, 8, 1 << 20),
            (2, 1 << 40, 1),
            (2, 1, 1 << 40),
            (1 << 63, u64::MAX, u64::MAX),
            (0, 8, 1),
            (1, 8, 1),
            (262_143, 8, 1),
            (262_144, 0, 1),
            (262_144, 8, 0),
            (1 << 18, 1, 1 << 6),
        ];
        for (n, r, p) in scrypt {
            let mut greedy = scrypt_vector();
            greedy["crypto"]["kdfparams"]["n"] = json!(n);
            greedy["crypto"]["kdfparams"]["r"] = json!(r);
            greedy["crypto"]["kdfparams"]["p"] = json!(p);
            let error = refused(open(&greedy, PASSWORD), Code::InvalidKeystore);
            assert!(error.to_string().contains(&format!("n = {n}")), "{error}");
        }
        for rounds in [0, 10_000_001, u64::from(u32::MAX), u64::MAX] {
            let mut greedy = pbkdf2_vector();
            greedy["crypto"]["kdfparams"]["c"] = json!(rounds);
            let error = refused(open(&greedy, PASSWORD), Code::InvalidKeystore);
            assert!(error.to_string().contains(&rounds.to_string()), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let big = directory.path().join("big.json");
        fs::write(&big, " ".repeat(1 << 20)).unwrap();
        let empty = directory.path().join("empty.json");
        fs::write(&empty, "").unwrap();
        for path in [directory.path().join("none.json"), directory.path().into(), big, empty] {
            let outcome = PrivateKey::from_keystore_file(&path, PASSWORD);
            let error = refused(outcome, Code::InvalidKeystore);
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }
}

mod policy {
    use super::*;

    fn environment(key: Option<&str>, keystore: Option<&str>, password: bool) -> KeyEnvironment {
        KeyEnvironment {
            private_key: key.map(Password::from),
            keystore_base64: keystore.map(|text| BASE64_STANDARD.encode(text)),
            password: password.then(|| PASSWORD.into()),
        }
    }

    fn resolved(mode: Mode, sources: KeySources) -> Option<(bool, String, bool)> {
        let found = run(resolve_key(mode, sources)).unwrap()?;
        keeps_secrets(&format!("{found:?}"));
        Some((found.key.is_raw(), found.source, found.warning.is_some()))
    }

    #[test]
    fn a_key_in_the_clear_is_silent_warned_of_or_refused() {
        let passed = KeySources { private_key: Some(raw_key()), ..KeySources::default() };
        let set = KeySources {
            environment: environment(Some(SECRET), None, false),
            ..KeySources::default()
        };
        for sources in [passed, set] {
            assert!(!resolved(Mode::Mock, sources.clone()).unwrap().2);
            assert!(resolved(Mode::Testnet, sources.clone()).unwrap().2);
            let error = refused(run(resolve_key(Mode::Mainnet, sources)), Code::KeyNotAllowed);
            assert!(error.hint().unwrap().contains("to_keystore"));
            assert!(error.hint().unwrap().contains("ACTP_KEYSTORE_BASE64"));
        }
    }

    #[test]
    fn a_keystores_key_is_taken_everywhere_in_silence() {
        let directory = state_directory(&pbkdf2_vector());
        let file = directory.path().join(".actp/keystore.json");
        let text = pbkdf2_vector().to_string();
        let none = KeySources::default();
        let all = [
            KeySources {
                private_key: Some(open(&pbkdf2_vector(), PASSWORD).unwrap()),
                ..none.clone()
            },
            KeySources { keystore: Some((file, PASSWORD.into())), ..none.clone() },
            KeySources { environment: environment(None, Some(&text), true), ..none.clone() },
            KeySources {
                environment: environment(None, None, true),
                state_directory: Some(directory.path().into()),
                ..none
            },
        ];
        for sources in all {
            keeps_secrets(&format!("{sources:?}"));
            for mode in [Mode::Mock, Mode::Testnet, Mode::Mainnet] {
                let (raw, source, warned) = resolved(mode, sources.clone()).unwrap();
                assert!(!raw && !warned, "{source}");
            }
        }
    }

    /// A keystore as another tool might write it, with this password and this key derivation.
    fn keystore_with(password: &str, kdf: &Value) -> Value {
        use ctr::cipher::{KeyIvInit, StreamCipher};
        let number = |name: &str| kdf[name].as_u64().unwrap() as u32;
        let mut derived = [0; 32];
        let name = if kdf["c"].is_null() {
            let log_n = number("n").trailing_zeros() as u8;
            let params = scrypt::Params::new(log_n, number("r"), number("p")).unwrap();
            scrypt::scrypt(password.as_bytes(), &[], &params, &mut derived).unwrap();
            "scrypt"
        } else {
            let rounds = number("c");
            pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password.as_bytes(), &[], rounds, &mut derived);
            "pbkdf2"
        };
        let mut text = alloy_primitives::hex::decode(SECRET).unwrap();
        let (key, iv) = (derived.first_chunk::<16>().unwrap(), &[0; 16]);
        ctr::Ctr128BE::<aes::Aes128>::new(key.into(), iv.into()).apply_keystream(&mut text);
        let mac = alloy_primitives::keccak256([&derived[16..], &text].concat());
        let mut params = kdf.clone();
        params["dklen"] = 32.into();
        params["salt"] = "".into();
        params["prf"] = "hmac-sha256".into();
        let hex = |bytes: &[u8]| alloy_primitives::hex::encode(bytes);
        json!({"version": 3, "crypto": {
            "cipher": "aes-128-ctr", "cipherparams": {"iv": hex(iv)}, "ciphertext": hex(&text),
            "kdf": name, "kdfparams": params, "mac": hex(mac.as_slice()),
        }})
    }

    #[test]
    fn mainnet_takes_no_keystore_that_is_as_good_as_open() {
        let (foundry, geth) =
            (json!({"n": 8_192, "r": 8, "p": 1}), json!({"n": 4_096, "r": 8, "p": 6}));
        for (password, kdf, is_strong) in [
            ("", json!({"c": 262_144}), false),
            ("", foundry.clone(), false),
            (PASSWORD, json!({"c": 1}), false),
            (PASSWORD, json!({"c": 99_999}), false),
            (PASSWORD, json!({"n": 2, "r": 1, "p": 1}), false),
            (PASSWORD, json!({"n": 4_096, "r": 8, "p": 1}), false),
            (PASSWORD, json!({"c": 100_000}), true),
            (PASSWORD, foundry, true),
            (PASSWORD, geth, true),
        ] {
            let directory = state_directory(&keystore_with(password, &kdf));
            let file = directory.path().join(".actp").join("keystore.json");
            let sources = || KeySources {
                keystore: Some((file.clone(), Password::from(password))),
                ..KeySources::default()
            };
            let found = |mode| run(resolve_key(mode, sources()));
            assert_eq!(found(Mode::Mock).unwrap().unwrap().warning, None, "{kdf}");
            let warning = found(Mode::Testnet).unwrap().unwrap().warning;
            assert_eq!(warning.is_none(), is_strong, "{kdf}: {warning:?}");
            match found(Mode::Mainnet) {
                Ok(found) => assert!(is_strong && found.unwrap().warning.is_none(), "{kdf}"),
                Err(error) => {
                    assert!(!is_strong, "{kdf}: {error}");
                    let error = refused::<()>(Err(error), Code::KeyNotAllowed);
                    keeps_secrets(&format!("{error} {error:?}"));
                }
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_keystore_that_others_can_write_is_warned_of() {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt};
        let directory = state_directory(&pbkdf2_vector());
        let place = directory.path().join(".actp");
        let file = place.join("keystore.json");
        for (file_mode, place_mode, is_exposed) in [
            (0o600, 0o700, false),
            (0o644, 0o755, false),
            (0o666, 0o700, true),
            (0o620, 0o700, true),
            (0o600, 0o777, true),
            (0o600, 0o1777, false),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(file_mode)).unwrap();
            fs::set_permissions(&place, Permissions::from_mode(place_mode)).unwrap();
            for mode in [Mode::Mock, Mode::Testnet, Mode::Mainnet] {
                let keystore = Some((file.clone(), Password::from(PASSWORD)));
                let sources = KeySources { keystore, ..KeySources::default() };
                let warning = run(resolve_key(mode, sources)).unwrap().unwrap().warning;
                let told = warning.as_ref().is_some_and(|text| text.contains("written by others"));
                assert_eq!(told, is_exposed, "{file_mode:o} {place_mode:o}: {warning:?}");
            }
        }
    }

    #[test]
    fn sources_are_asked_in_the_order_of_aip_13() {
        let directory = state_directory(&pbkdf2_vector());
        let text = pbkdf2_vector().to_string();
        let mut sources = KeySources {
            private_key: Some(raw_key()),
            keystore: None,
            environment: environment(Some(SECRET), Some(&text), true),
            state_directory: Some(directory.path().into()),
        };
        let source = |sources: &KeySources| resolved(Mode::Testnet, sources.clone()).unwrap().1;
        assert_eq!(source(&sources), "the private key that was passed");
        sources.private_key = None;
        sources.keystore = Some((directory.path().join(".actp/keystore.json"), PASSWORD.into()));
        assert!(source(&sources).starts_with("the keystore"));
        sources.keystore = None;
        assert_eq!(source(&sources), "ACTP_PRIVATE_KEY");
        sources.environment.private_key = None;
        assert_eq!(source(&sources), "ACTP_KEYSTORE_BASE64");
        sources.environment.keystore_base64 = None;
        assert!(source(&sources).ends_with("keystore.json"));
        sources.state_directory = Some(directory.path().join("elsewhere"));
        assert_eq!(resolved(Mode::Testnet, sources), None);
        assert_eq!(resolved(Mode::Mainnet, KeySources::default()), None);
    }

    #[test]
    fn the_first_source_that_is_there_counts_even_where_it_is_unusable() {
        let directory = state_directory(&pbkdf2_vector());
        let state_directory = || Some(directory.path().to_path_buf());
        let text = pbkdf2_vector().to_string();
        let with = |environment| KeySources {
            environment,
            state_directory: state_directory(),
            ..KeySources::default()
        };
        let cases = [
            (environment(Some("no key"), Some(&text), true), Code::InvalidPrivateKey),
            (environment(Some(&SECRET[1..]), Some(&text), true), Code::InvalidPrivateKey),
            (environment(None, Some(&text), false), Code::InvalidSettings),
            (environment(None, Some("{}"), true), Code::InvalidKeystore),
            (environment(None, None, false), Code::InvalidSettings),
        ];
        for (environment, code) in cases {
            refused(run(resolve_key(Mode::Testnet, with(environment))), code);
        }
        // On mainnet the clear key is refused before it is looked at.
        let outcome =
            run(resolve_key(Mode::Mainnet, with(environment(Some("x"), Some(&text), true))));
        refused(outcome, Code::KeyNotAllowed);

        let mut wrong = environment(None, Some(&text), true);
        wrong.password = Some("another".into());
        let error = refused(run(resolve_key(Mode::Testnet, with(wrong))), Code::WrongPassword);
        assert!(error.to_string().contains("ACTP_KEYSTORE_BASE64"));
        let no_base64 = KeyEnvironment {
            keystore_base64: Some(format!("!{SECRET}")),
            ..environment(None, None, true)
        };
        refused(run(resolve_key(Mode::Testnet, with(no_base64))), Code::InvalidKeystore);
    }

    #[test]
    fn variables_may_end_in_a_line_break_and_base64_may_have_lines() {
        let spaced = environment(Some(&format!(" {SECRET}\n")), None, false);
        let sources = KeySources { environment: spaced, ..KeySources::default() };
        assert!(resolved(Mode::Mock, sources).is_some());
        let mut lines = environment(None, Some(&pbkdf2_vector().to_string()), true);
        let text = lines.keystore_base64.take().unwrap();
        let (head, tail) = text.split_at(76);
        lines.keystore_base64 = Some(format!("{head}\r\n{tail}\n"));
        let sources = KeySources { environment: lines, ..KeySources::default() };
        assert!(resolved(Mode::Mainnet, sources).is_some());
    }

    #[test]
    fn a_keystore_opens_beside_other_tasks_and_without_tokio() {
        let directory = state_directory(&pbkdf2_vector());
        let file = directory.path().join(".actp/keystore.json");
        let sources =
            KeySources { keystore: Some((file, PASSWORD.into())), ..KeySources::default() };
        let ticks = run(async {
            let mut ticks = 0;
            let mut opened = Box::pin(resolve_key(Mode::Mainnet, sources.clone()));
            loop {
                tokio::select! {
                    biased;
                    found = &mut opened => break found.map(|_| ticks).unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(1)) => ticks += 1,
                }
            }
        });
        assert!(ticks > 1, "{ticks}");
        let found = futures_util::FutureExt::now_or_never(resolve_key(Mode::Mainnet, sources));
        assert!(found.unwrap().unwrap().is_some());
    }
}

mod settings {
    use super::*;

    fn contracts() -> Contracts {
        NetworkProfile::testnet().contracts
    }

    fn refuse(builder: ClientBuilder, code: Code) -> Error {
        keeps_secrets(&format!("{builder:?}"));
        refused(run(builder.connect()), code)
    }

    fn chain(mode: Mode) -> ClientBuilder {
        // Port 9 of this machine: whatever goes wrong, no test reaches a chain.
        ACTPClient::builder().mode(mode).rpc_url("http://127.0.0.1:9").in_memory()
    }

    #[test]
    fn mode_mock_takes_no_settings_of_a_chain() {
        let mock = || ACTPClient::builder().address(OTHER).in_memory();
        for (field, builder) in [
            ("rpc_url", mock().rpc_url("http://127.0.0.1:9")),
            ("contracts", mock().contracts(contracts())),
            ("network", mock().network_profile(NetworkProfile::testnet())),
            ("confirmations", mock().confirmations(2)),
            ("wait_timeout", mock().wait_timeout(Duration::ZERO)),
            ("max_fee_per_gas", mock().max_fee_per_gas(1)),
            ("max_priority_fee_per_gas", mock().max_priority_fee_per_gas(1)),
            ("agree", mock().agree(1)),
        ] {
            assert_eq!(refuse(builder, Code::InvalidSettings).facts().field, Some(field));
        }
    }

    #[test]
    fn a_chain_takes_no_settings_of_mode_mock() {
        for mode in [Mode::Testnet, Mode::Mainnet] {
            let builder = chain(mode).address(OTHER).starting_balance(Usdc(1));
            let error = refuse(builder, Code::InvalidSettings);
            assert_eq!(error.facts().field, Some("starting_balance"));
        }
    }

    #[test]
    fn mainnet_is_chain_8453_and_chain_8453_is_mainnet() {
        let elsewhere = NetworkProfile { chain_id: 31_337, ..NetworkProfile::mainnet() };
        let builder = chain(Mode::Mainnet).address(OTHER).network_profile(elsewhere);
        assert_eq!(refuse(builder, Code::InvalidSettings).facts().field, Some("network"));

        let builder = chain(Mode::Testnet).network_profile(NetworkProfile::mainnet());
        refuse(builder.private_key(raw_key()), Code::KeyNotAllowed);
    }

    #[test]
    fn mainnet_refuses_a_key_in_the_clear_however_it_is_wrapped() {
        refuse(chain(Mode::Mainnet).private_key(raw_key()), Code::KeyNotAllowed);
        refuse(chain(Mode::Mainnet).wallet(Arc::new(raw_key())), Code::KeyNotAllowed);
    }

    #[test]
    fn one_signer_is_enough() {
        let path = Path::new("/nowhere/keystore.json");
        let mock = || ACTPClient::builder().in_memory();
        for builder in [
            mock().private_key(raw_key()).keystore(path, PASSWORD),
            mock().private_key(raw_key()).wallet(Arc::new(raw_key())),
            mock().keystore(path, PASSWORD).wallet(Arc::new(raw_key())),
        ] {
            refuse(builder, Code::InvalidSettings);
        }
        for builder in [mock().private_key(raw_key()), mock().wallet(Arc::new(raw_key()))] {
            let error = refuse(builder.address(OTHER), Code::KeyMismatch);
            assert!(error.to_string().contains(OWNER));
        }
    }

    #[test]
    fn a_mock_client_opens_the_keystore_that_it_is_given_and_no_other() {
        let directory = state_directory(&pbkdf2_vector());
        let file = directory.path().join(".actp/keystore.json");
        run(async {
            let mock = || ACTPClient::builder().state_directory(directory.path());
            let client = mock().keystore(&file, PASSWORD).connect().await.unwrap();
            assert_eq!(client.address().to_string(), OWNER);
            assert_eq!(client.warnings(), [""; 0]);
            refused(mock().keystore(&file, "x").connect().await, Code::WrongPassword);
            // No password is set, and none is asked for.
            mock().address(OTHER).connect().await.unwrap();
            mock().private_key(raw_key()).connect().await.unwrap();
            // Only without address a key is looked for.
            refused(mock().connect().await, Code::InvalidSettings);
        });
    }
}
