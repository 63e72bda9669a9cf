//! `did:ethr` identifiers: an address on a chain.

use std::{fmt, str::FromStr};

use alloy_primitives::Address;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::{Details, ParseError},
    id::parse_address,
};

/// An agent's identifier, written `did:ethr:<chain id>:<lowercase address>`.
///
/// ```
/// use agirails_protocol::did::Did;
///
/// let did: Did = "did:ethr:8453:0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045".parse()?;
/// assert_eq!(did.chain_id, 8453);
/// assert_eq!(did.to_string(), "did:ethr:8453:0xd8da6bf26964af9d7eed9e03e53415d37aa96045");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: AIP-4, AIP-7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did {
    /// The EIP-155 chain id.
    pub chain_id: u64,
    /// The agent's address.
    pub address: Address,
}

/// The one spelling that is signed and hashed: the address in lower case.
impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "did:ethr:{}:{:#x}", self.chain_id, self.address)
    }
}

/// Reads a DID whose address is in lower case or checksummed (EIP-55), and nothing around it.
///
/// # Errors
/// [`ParseError::Did`] where it is anything else.
impl FromStr for Did {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |problem: &str| {
            Details::invalid("did", text, problem)
                .hint("a DID reads did:ethr:<chain id>:<lowercase address>")
        };
        let read = || {
            let rest = text
                .strip_prefix("did:ethr:")
                .ok_or_else(|| refuse("does not start with did:ethr:"))?;
            let (chain, address) = rest.split_once(':').ok_or_else(|| refuse("has no chain id"))?;
            let chain_id = parse_chain_id(chain).map_err(refuse)?;
            let parsed = parse_address("address", address)
                .map_err(|error| refuse("does not end in an address").source(error))?;
            if address != format!("{parsed:#x}") && address != parsed.to_checksum(None) {
                return Err(refuse("has an address that is neither lowercase nor checksummed"));
            }
            Ok(Self { chain_id, address: parsed })
        };
        read().map_err(ParseError::Did)
    }
}

/// Decimal digits and one spelling for each number: `str::parse` would take `+1` and `01`.
fn parse_chain_id(digits: &str) -> Result<u64, &'static str> {
    match digits.as_bytes() {
        [] => Err("has an empty chain id"),
        [b'0', _, ..] => Err("has a chain id with leading zeros"),
        bytes if bytes.iter().all(u8::is_ascii_digit) => {
            digits.parse().map_err(|_| "has a chain id beyond 64 bits")
        }
        _ => Err("must have a decimal chain id"),
    }
}

impl Serialize for Did {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Did {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
