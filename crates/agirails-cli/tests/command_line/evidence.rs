//! Evidence files: what holds, what fails, what cannot be checked, and what is no such file.

use std::{fs, path::Path};

use serde_json::Value;

use crate::fixture::Fixture;

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
