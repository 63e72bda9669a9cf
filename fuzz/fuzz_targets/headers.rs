//! The headers of a paid request: whatever comes, it is read or refused in few words, what was read
//! is written as it came, and a target has one canonical form.
#![no_main]

use agirails_protocol::{
    Address, B256,
    paid_request::{PaidRequest, RequestSignature, SignedSession},
    target::canonical_target,
    wallet_signature::WalletSignature,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let canonical = canonical_target(text);
    assert_eq!(canonical_target(&canonical), canonical);
    assert!(canonical.is_ascii() && canonical.starts_with('/'));

    let request = PaidRequest::new(B256::ZERO, "POST", text, b"", 7);
    let session = text.parse::<SignedSession>();
    match text.parse::<RequestSignature>() {
        Ok(signature) => {
            assert_eq!(signature.to_string().parse(), Ok(signature.clone()));
            // Nobody's word is taken for another's: the zero address signs nothing.
            let verdict =
                signature.verdict(&request, session.as_ref().ok(), Address::ZERO, 1, Address::ZERO);
            assert_ne!(verdict, Ok(agirails_protocol::wallet_signature::Verdict::Signed));
        }
        Err(error) => assert!(error.to_string().len() < 1_500),
    }
    match session {
        Ok(session) => assert_eq!(session.to_string().parse(), Ok(session)),
        Err(error) => assert!(error.to_string().len() < 1_500),
    }
    if let Ok(signature) = text.parse::<WalletSignature>() {
        assert_eq!(signature.to_string(), text.to_lowercase());
    }
});
