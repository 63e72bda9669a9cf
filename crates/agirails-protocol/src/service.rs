//! Which service a transaction is for: its `serviceHash` commits to it.

use alloy_primitives::{B256, keccak256};

/// The header that tells the key which a transaction's service hash was made with.
pub const SERVICE_KEY_HEADER: &str = "X-AGIRAILS-SERVICE-KEY";

/// The `serviceHash` of a transaction for this service: `keccak256(service ‖ key)`.
///
/// `service` is the service's own value, as its offer says it under `serviceHash`; `key` is 32
/// bytes that only the requester knows until it makes a call. With the key, its requester finds its
/// transaction on chain again, and the service sees that the transaction is meant for it.
///
/// ```
/// use agirails_protocol::{B256, service::{bound_service_hash, is_bound}};
///
/// let (service, key) = (B256::repeat_byte(1), B256::repeat_byte(2));
/// let hash = bound_service_hash(service, key);
/// assert!(is_bound(hash, service, Some(key)));
/// assert!(!is_bound(hash, B256::repeat_byte(3), Some(key)));
/// ```
pub fn bound_service_hash(service: B256, key: B256) -> B256 {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(service.as_slice());
    bytes[32..].copy_from_slice(key.as_slice());
    keccak256(bytes)
}

/// Whether a transaction with this `serviceHash` is for this service: the hash is the service's own
/// value, or [`bound_service_hash`] of it and the key that the caller tells.
///
/// The zero hash is bound to no service.
pub fn is_bound(service_hash: B256, service: B256, key: Option<B256>) -> bool {
    !service_hash.is_zero()
        && (service_hash == service
            || key.is_some_and(|key| service_hash == bound_service_hash(service, key)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::*;

    #[test]
    fn hashes_are_those_of_the_vectors() {
        let text = include_str!("../../../tests/vectors/service_hashes.json");
        let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(!vectors.is_empty());
        for vector in vectors {
            let field = |name: &str| vector[name].as_str().unwrap().parse::<B256>().unwrap();
            let (service, key, hash) = (field("service"), field("key"), field("serviceHash"));
            assert_eq!(bound_service_hash(service, key), hash, "{vector}");
            assert!(is_bound(hash, service, Some(key)));
            assert!(!is_bound(hash, service, None));
            assert_eq!(is_bound(hash, key, Some(service)), service == key, "the order counts");
        }
    }

    #[test]
    fn a_hash_is_bound_to_one_service() {
        let (service, other) = (B256::repeat_byte(1), B256::repeat_byte(2));
        assert!(is_bound(service, service, None));
        assert!(!is_bound(other, service, Some(B256::ZERO)));
        assert!(!is_bound(B256::ZERO, service, Some(B256::ZERO)));
        assert!(!is_bound(B256::ZERO, B256::ZERO, None));
    }
}
