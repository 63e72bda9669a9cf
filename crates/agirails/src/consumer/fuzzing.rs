//! What the fuzzers in `fuzz/` reach of this room.

use alloy_primitives::Address;
use serde_json::Value;

use super::{
    http::{Endpoint, HttpResponse},
    offer::{Payer, base_of_challenge, of_challenge, of_price_page, usable},
};
use crate::{
    network::Network,
    protocol::{
        Usdc,
        money::{MAX_AMOUNT, MIN_AMOUNT},
    },
};

/// Reads what a service says that it costs: the first line is the header of a 402, the rest its body,
/// and a price page. No offer is taken that is outside what the protocol carries or that pays nobody.
pub fn offers(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let header = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = bytes.get(end + 1..).unwrap_or_default();
    let Ok(called) = Endpoint::parse("https://example.com/shop/api?x=1") else { return };
    let response = HttpResponse {
        status: 402,
        headers: vec![("PAYMENT-REQUIRED".to_owned(), header)],
        body: body.to_vec().into(),
    };
    let base = base_of_challenge(&response, &called);
    assert!(base.as_ref().is_none_or(|base| base.starts_with("https://example.com")));
    let mut offers = of_challenge(&response);
    if let Ok(page) = serde_json::from_slice::<Value>(body) {
        offers.extend(of_price_page(&page, "POST", &called, &base.unwrap_or_default()));
    }
    let (network, address) = (Network::mock(), Address::repeat_byte(0xcc));
    let payer = Payer { network: &network, address, can_sign: true, ledger: None, lasts: None };
    let Ok(usable) = usable(&offers, payer) else { return };
    for (offer, calls) in usable.offers {
        assert!(calls > 0 && offer.price > Usdc::ZERO && offer.price <= offer.amount);
        assert!((MIN_AMOUNT..=MAX_AMOUNT).contains(&offer.amount));
        assert!(offer.provider != address && !offer.provider.is_zero());
        assert!(offer.lasts >= offer.min_seconds_left);
        let _ = offer.cost_of_a_call(calls);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_is_read() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/offers");
        let files: Vec<_> = std::fs::read_dir(seeds).unwrap().map(Result::unwrap).collect();
        assert!(!files.is_empty());
        for file in files {
            super::offers(&std::fs::read(file.path()).unwrap());
        }
    }
}
