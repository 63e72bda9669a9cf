//! Addresses, DIDs, ids, amounts and service types: one spelling for one meaning, or a refusal in
//! few words.
#![no_main]

use agirails_protocol::{
    TransactionId, Usdc,
    did::{Did, WrittenDid},
    id::parse_address,
    registry::service_type_hash,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse_address("address", text) {
        Ok(address) => assert_eq!(format!("{address:#x}"), text.to_lowercase()),
        Err(error) => assert!(error.to_string().len() < 1_500),
    }
    let written = text.parse::<WrittenDid>();
    match text.parse::<Did>() {
        Ok(did) => {
            assert_eq!(did.to_string(), text.to_lowercase());
            // What the strict reader takes, the other takes for the same.
            assert!(written.as_ref().is_ok_and(|written| written.is(did)));
        }
        Err(error) => assert!(error.to_string().len() < 1_500),
    }
    if let Ok(written) = written {
        assert_eq!(written.to_string(), text);
        assert_eq!(WrittenDid::from(Did { chain_id: 1, address: written.address() }).chain_id(), Some(1));
    }
    if let Ok(amount) = text.parse::<Usdc>() {
        assert_eq!(amount.to_string().parse(), Ok(amount));
    }
    if let Ok(id) = text.parse::<TransactionId>() {
        assert_eq!(id.to_string().trim_start_matches("0x"), text.to_lowercase().trim_start_matches("0x"));
    }
    let _ = service_type_hash(text);
});
