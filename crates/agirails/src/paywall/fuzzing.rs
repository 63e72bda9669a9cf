//! What the fuzzers in `fuzz/` reach of this room.

use alloy_primitives::Address;

use super::{
    headers::PAYMENT_SIGNATURE,
    request::{Incoming, PublicUrl, RequestHead, parse_id},
    signer::read_session,
};
use crate::{
    network::Network,
    protocol::{
        paid_request::{
            IDEMPOTENCY_HEADER, MAX_PRICE_HEADER, RequestSignature, SESSION_HEADER,
            SIGNATURE_HEADER, TRANSACTION_HEADER,
        },
        service::SERVICE_KEY_HEADER,
    },
};

const NAMES: [&str; 13] = [
    TRANSACTION_HEADER,
    SIGNATURE_HEADER,
    SESSION_HEADER,
    IDEMPOTENCY_HEADER,
    MAX_PRICE_HEADER,
    PAYMENT_SIGNATURE,
    "Content-Length",
    "Transfer-Encoding",
    "Host",
    "Accept",
    "Content-Type",
    "X-Own",
    SERVICE_KEY_HEADER,
];

/// Reads the head of a request: a line with the target, one with the mount, then a line for each
/// header, whose first byte names it.
pub fn request(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut text = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (target, mount) = (text(), text());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_first())
        .map(|(name, value)| (NAMES[usize::from(*name) % NAMES.len()], value))
        .collect();
    for public in [None, Some("https://example.com/market")] {
        let Ok(public) = PublicUrl::parse(public) else { return };
        let head = RequestHead {
            method: "post",
            target: &target,
            mount: &mount,
            scheme: "https",
            headers: headers.iter().copied(),
        };
        let (incoming, _) = Incoming::read(head, &public, &["X-Own".to_owned()]);
        assert!(incoming.target.starts_with('/') && incoming.target.is_ascii());
        let Ok(payment) = incoming.payment(&Network::mock(), Address::repeat_byte(0xaa)) else {
            continue;
        };
        if let Some(id) = parse_id(&payment.transaction_id) {
            assert_eq!(id.to_string(), payment.transaction_id.to_lowercase());
        }
        let _ = payment.most();
        let _ = payment.service_key();
        let _ = payment.signature.as_deref().map(str::parse::<RequestSignature>);
        let _ = read_session(payment.session.as_deref());
        let _ = incoming.digest("POST /api/generate");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_is_read() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/requests");
        let files: Vec<_> = std::fs::read_dir(seeds).unwrap().map(Result::unwrap).collect();
        assert!(!files.is_empty());
        for file in files {
            super::request(&std::fs::read(file.path()).unwrap());
        }
    }
}
