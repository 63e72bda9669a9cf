//! Evidence files: what holds, what fails, what cannot be checked, and what is no such file.

use std::{fs, path::Path};

use serde_json::Value;

use crate::fixture::{Fixture, PAYER, key};

/// The files that all languages read, by name.
fn vectors() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/evidence.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

impl Fixture {
    fn write(&self, evidence: &Value) -> &'static str {
        fs::write(self.path().join("evidence.json"), evidence.to_string()).unwrap();
        "evidence.json"
    }
}

#[test]
fn a_file_is_verified_offline_and_the_status_says_the_conclusion() {
    let fixture = Fixture::empty();
    for vector in vectors() {
        let file = fixture.write(&vector["evidence"]);
        let done = fixture.run(&["verify", file, "--json"]);
        let status = match vector["conclusion"].as_str().unwrap() {
            "holds" => 0,
            "fails" => 1,
            _ => 3,
        };
        assert_eq!(done.status, status, "{done:?}");
        let told: Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(told["conclusion"], vector["conclusion"]);
        let findings = told["findings"].as_array().unwrap();
        for finding in findings {
            let name = finding["name"].as_str().unwrap();
            assert_eq!(finding["outcome"], vector["findings"][name], "{name}");
        }
        assert_eq!(fixture.files().len(), 1, "it made something");
    }
}

#[test]
fn people_see_a_table_and_that_the_chain_was_not_asked() {
    let fixture = Fixture::empty();
    let mut evidence = vectors().swap_remove(0)["evidence"].take();
    let done = fixture.run(&["verify", fixture.write(&evidence)]);
    assert_eq!((done.status, done.err.as_str()), (0, ""), "{done:?}");
    assert!(done.out.contains("calls[0].receipt.signature"), "{}", done.out);
    assert!(done.out.trim_end().ends_with("--chain compares it with the kernel)"), "{}", done.out);

    evidence["calls"][0]["answer"]["body"] = serde_json::json!({"text": "another answer"});
    let done = fixture.run(&["verify", fixture.write(&evidence)]);
    assert!(done.status == 1 && done.out.contains("a check fails"), "{done:?}");
    let csv = fixture.run(&["verify", fixture.write(&evidence), "--csv"]).out;
    assert!(csv.starts_with("outcome,name,words\n") && csv.contains("\nfails,"), "{csv}");
}

#[test]
fn a_kernel_that_does_not_have_it_fails_it_and_one_that_is_not_there_does_not() {
    let evidence = vectors().swap_remove(0)["evidence"].take();
    let fixture = Fixture::new();
    let done = fixture.run(&["verify", fixture.write(&evidence), "--chain"]);
    assert!(done.status == 1 && done.out.contains("has no such transaction"), "{done:?}");
    let fixture = Fixture::empty();
    let done = fixture.run(&["verify", fixture.write(&evidence), "--chain"]);
    assert!(done.status == 3 && done.out.contains("no mock ledger"), "{done:?}");
}

#[test]
fn what_is_no_evidence_file_is_named() {
    let fixture = Fixture::empty();
    let (error, hint) = fixture.run(&["verify", "nowhere.json"]).told(1);
    assert!(error.contains("nowhere.json cannot be read") && !hint.is_empty(), "{error}");
    for text in ["", "nonsense", "{}", r#"{"type": "agirails.evidence.v2"}"#] {
        fs::write(fixture.path().join("evidence.json"), text).unwrap();
        let (error, hint) = fixture.run(&["verify", "evidence.json"]).told(1);
        assert!(error.starts_with("evidence.json is not an evidence file: "), "{error}");
        assert!(!hint.is_empty());
    }
    fs::write(fixture.path().join("evidence.json"), [0xff, 0xfe]).unwrap();
    let (error, _) = fixture.run(&["verify", "evidence.json"]).told(1);
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn both_parties_write_the_file_of_a_call_and_it_holds() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    let done = fixture.pay(&["call", &url, "--max", "1", "-d", "one", "--trust", &url]);
    assert_eq!(done.status, 0, "{done:?}");
    let purchases = fixture.pay(&["purchases", "--json"]).json();
    let id = purchases[0]["transactionId"].as_str().unwrap().to_owned();
    let provider = key(7).address().to_string();
    for (who, file) in [(PAYER, "theirs.json"), (&*provider, "ours.json")] {
        let written = ["evidence", &id, "--out", file, "--address", who, "--json"];
        let told = fixture.run(&written).json();
        assert_eq!((told["calls"].as_u64(), told["file"].as_str()), (Some(1), Some(file)));
        // A file that is there is somebody's.
        let before = fixture.files();
        let again = fixture.run(&["evidence", &id, "--out", file, "--address", who]);
        let (error, hint) = again.told(1);
        assert!(error.contains(file) && hint.contains("--out"), "{error} {hint}");
        assert_eq!(
            before.get(&fixture.path().join(file)),
            fixture.files().get(&fixture.path().join(file))
        );
        let verified = fixture.run(&["verify", file, "--json"]);
        assert_ne!(verified.status, 1, "{verified:?}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(fixture.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
    let done = fixture.pay(&["evidence", &id]);
    assert!(done.status == 0 && fixture.path().join(format!("{id}.json")).exists(), "{done:?}");
    let shown = fixture.pay(&["evidence", &id, "--out", "-"]).out;
    assert!(shown.contains("agirails.evidence.v1") && shown.contains("answer to one"), "{shown}");
    let stranger = format!("0x{}", "aa".repeat(20));
    let (error, _) = fixture.run(&["evidence", &id, "--address", &stranger]).told(1);
    assert!(error.contains("Only requester"), "{error}");
}
