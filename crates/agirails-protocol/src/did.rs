//! `did:ethr` identifiers: an address on a chain.

use std::{fmt, str::FromStr};

use alloy_primitives::{Address, hex};
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

/// A DID as somebody wrote it. A signature over a message is a signature over this text, so it is
/// kept to the letter: other SDKs write checksummed addresses, and DIDs without a chain id.
///
/// ```
/// use agirails_protocol::did::{Did, WrittenDid};
///
/// let written: WrittenDid = "did:ethr:0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045".parse()?;
/// assert_eq!(written.chain_id(), None);
/// assert_eq!(written.to_string(), "did:ethr:0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045");
/// assert!(written.is(Did { chain_id: 8453, address: written.address() }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: AIP-4's schema, `^did:ethr:(\d+:)?0x[a-fA-F0-9]{40}$`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WrittenDid {
    text: String,
    chain_id: Option<u64>,
    address: Address,
}

impl WrittenDid {
    /// The chain that it names, if it names one.
    pub const fn chain_id(&self) -> Option<u64> {
        self.chain_id
    }

    /// The agent's address.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Whether it may stand for this agent: the same address, and no other chain.
    pub fn is(&self, did: Did) -> bool {
        self.address == did.address && self.chain_id.is_none_or(|chain_id| chain_id == did.chain_id)
    }
}

/// In the one spelling of [`Did`].
impl From<Did> for WrittenDid {
    fn from(did: Did) -> Self {
        Self { text: did.to_string(), chain_id: Some(did.chain_id), address: did.address }
    }
}

/// The text as it was written.
impl fmt::Display for WrittenDid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads a DID with or without a chain id and with an address in any case, and nothing around it.
///
/// # Errors
/// [`ParseError::Did`] where it is anything else.
impl FromStr for WrittenDid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |problem: &str| {
            ParseError::Did(
                Details::invalid("did", text, problem)
                    .hint("a DID reads did:ethr:<chain id>:<address> or did:ethr:<address>"),
            )
        };
        let rest =
            text.strip_prefix("did:ethr:").ok_or_else(|| wrong("does not start with did:ethr:"))?;
        let (chain_id, address) = match rest.split_once(':') {
            Some((chain, address)) => (Some(parse_chain_id(chain).map_err(&wrong)?), address),
            None => (None, rest),
        };
        let mut bytes = [0; 20];
        let digits = address.strip_prefix("0x").filter(|digits| digits.len() == 40);
        digits
            .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
            .ok_or_else(|| wrong("does not end in an address"))?;
        Ok(Self { text: text.to_owned(), chain_id, address: bytes.into() })
    }
}

impl Serialize for WrittenDid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Did {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
