//! Evidence files: whatever comes, it is read or refused in few words, what was read survives being
//! written again, and the checks hold, fail or cannot be made, but never panic.
#![no_main]

use agirails_protocol::{
    B256,
    evidence::{Conclusion, Evidence, compare_with_chain, verify},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let evidence = match Evidence::from_json(text) {
        Ok(evidence) => evidence,
        Err(error) => {
            assert!(error.to_string().len() < 1_500);
            assert!(error.details().field.is_some());
            return;
        }
    };
    let written = evidence.to_json().expect("a file has JSON");
    assert_eq!(Evidence::from_json(&written).as_ref(), Ok(&evidence));

    let found = verify(&evidence);
    assert_eq!(verify(&evidence), found);
    assert!(found.findings.iter().all(|finding| finding.words.len() < 1_500));
    // What was signed was signed for one transaction.
    let mut other = evidence.clone();
    other.transaction.id = B256::repeat_byte(0xee);
    assert_ne!(verify(&other).conclusion(), Conclusion::Holds);

    let (chain_id, kernel) = (evidence.network.chain_id, evidence.network.kernel);
    let same = compare_with_chain(&evidence, &evidence.transaction, chain_id, kernel);
    assert_eq!(same.conclusion(), Conclusion::Holds);
});
