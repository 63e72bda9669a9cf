//! Transaction ids, addresses and 32-byte values as people write them.

use alloy_primitives::{Address, B256, U256, keccak256};

use super::Usdc;
use crate::error::{Details, ParseError};

/// A transaction's id: `keccak256(requester, provider, amount, serviceHash, nonce)`, packed.
///
/// It holds neither chain id nor kernel address: keep the network beside it wherever it is stored.
pub type TransactionId = B256;

/// The id that `createTransaction` gives.
///
/// `nonce` is the requester's `requesterNonces` before the call.
///
/// Source: `ACTPKernel.createTransaction`.
pub fn transaction_id(
    requester: Address,
    provider: Address,
    amount: Usdc,
    service_hash: B256,
    nonce: u64,
) -> TransactionId {
    let mut packed = [0; 136];
    packed[..20].copy_from_slice(requester.as_slice());
    packed[20..40].copy_from_slice(provider.as_slice());
    packed[40..72].copy_from_slice(&U256::from(amount.0).to_be_bytes::<32>());
    packed[72..104].copy_from_slice(service_hash.as_slice());
    packed[104..].copy_from_slice(&U256::from(nonce).to_be_bytes::<32>());
    keccak256(packed)
}

/// Reads a transaction id: `0x` and 64 hex digits.
///
/// # Errors
/// [`ParseError::TransactionId`] where it is anything else.
pub fn parse_transaction_id(text: &str) -> Result<TransactionId, ParseError> {
    parse_hex32(text).map_err(|problem| {
        ParseError::TransactionId(
            Details::invalid("transaction_id", text, problem).hint(
                "a transaction id is 0x and 64 hex digits, as create_transaction returned it",
            ),
        )
    })
}

/// Reads a 32-byte value: `0x` and 64 hex digits.
///
/// # Errors
/// [`ParseError::Bytes`], naming `field`, where it is anything else.
pub fn parse_bytes32(field: &'static str, text: &str) -> Result<B256, ParseError> {
    parse_hex32(text).map_err(|problem| {
        ParseError::Bytes(Details::invalid(field, text, problem).hint("pass 0x and 64 hex digits"))
    })
}

/// Reads an address: `0x` and 40 hex digits, in one case, or checksummed (EIP-55).
///
/// # Errors
/// [`ParseError::Address`], naming `field`, where it is anything else or the checksum is wrong.
///
/// ```
/// use agirails_protocol::id::parse_address;
///
/// let address = parse_address("provider", "0xd8da6bf26964af9d7eed9e03e53415d37aa96045")?;
/// assert_eq!(address.to_string(), "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn parse_address(field: &'static str, text: &str) -> Result<Address, ParseError> {
    let invalid = |problem: &str| Details::invalid(field, text, problem);
    let refuse = |problem: &str| {
        ParseError::Address(invalid(problem).hint("an address is 0x and 40 hex digits"))
    };
    let digits = hex_digits(text, 40).map_err(refuse)?;
    let mut address = Address::ZERO;
    alloy_primitives::hex::decode_to_slice(digits, address.as_mut_slice())
        .map_err(|_| refuse(NOT_HEX))?;
    let mixed_case = digits.bytes().any(|byte| byte.is_ascii_uppercase())
        && digits.bytes().any(|byte| byte.is_ascii_lowercase());
    if mixed_case && address.to_checksum(None)[2..] != *digits {
        return Err(ParseError::Address(
            invalid("has a wrong checksum")
                .hint("a mistyped digit? Copy the address again, or write it in lower case"),
        ));
    }
    Ok(address)
}

const NOT_HEX: &str = "has characters that are no hex digits";

fn parse_hex32(text: &str) -> Result<B256, &'static str> {
    let mut value = B256::ZERO;
    let digits = hex_digits(text, 64)?;
    alloy_primitives::hex::decode_to_slice(digits, value.as_mut_slice()).map_err(|_| NOT_HEX)?;
    Ok(value)
}

fn hex_digits(text: &str, length: usize) -> Result<&str, &'static str> {
    let digits = text.strip_prefix("0x").ok_or("does not start with 0x")?;
    match digits.len() {
        0 => Err("is empty"),
        n if n == length => Ok(digits),
        n if n < length => Err("is too short"),
        _ => Err("is too long"),
    }
}
