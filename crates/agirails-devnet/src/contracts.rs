//! The calls that setting up and running a devnet takes.

use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::sol;

sol! {
    function approveEscrowVault(address vault, bool approved);
    function approveMediator(address mediator, bool approved);
    function setArchiveTreasury(address treasury);
    function pause();
    function unpause();
    function mint(address to, uint256 amount);
    function register(string schema, address resolver, bool revocable);
}

/// What a delivery's attestation says (AIP-4).
pub(crate) const DELIVERY_SCHEMA: &str =
    "bytes32 txId,string resultCID,bytes32 resultHash,uint256 deliveredAt";

/// The UID that a schema registry gives to a revocable schema without a resolver.
pub(crate) fn schema_uid(schema: &str) -> B256 {
    keccak256([schema.as_bytes(), Address::ZERO.as_slice(), &[1]].concat())
}
