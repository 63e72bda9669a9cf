//! The agent registry's rules and records (AIP-7).

use alloy_primitives::{Address, B256, keccak256};
use serde::{Deserialize, Serialize};

use super::{Refusal, Usdc};

/// An agent offers at most this many services.
pub const MAX_SERVICES: usize = 100;
/// A registry holds at most this many agents.
pub const MAX_AGENTS: usize = 10_000;
/// On-chain queries stop beyond this many registered agents.
pub const MAX_QUERIED_AGENTS: usize = 1_000;
/// A query returns at most this many agents, and asks for at least one.
pub const MAX_QUERY_LIMIT: usize = 100;
/// The longest service type, in bytes, each of which is one character.
pub const MAX_SERVICE_TYPE_LENGTH: usize = 64;
/// The longest endpoint, in bytes.
pub const MAX_ENDPOINT_LENGTH: usize = 256;
/// The best reputation, which counts in basis points.
pub const MAX_REPUTATION: u64 = 10_000;

/// What an agent offers, and what it asks for it.
///
/// In JSON everything but `serviceType` may be left out.
///
/// ```
/// use agirails_protocol::{Usdc, registry::ServiceDescriptor};
///
/// let service = ServiceDescriptor::new("ai-completion")?.with_price(Usdc(100_000), Usdc(5_000_000));
/// assert_eq!(service.service_type_hash, alloy_primitives::keccak256("ai-completion"));
/// # Ok::<(), agirails_protocol::Refusal>(())
/// ```
///
/// Source: AIP-7, `IAgentRegistry.ServiceDescriptor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "PartialDescriptor")]
pub struct ServiceDescriptor {
    /// keccak256 of the service type.
    pub service_type_hash: B256,
    /// Lowercase letters, digits and single hyphens, such as `ai-completion`.
    pub service_type: String,
    /// Where the schema of input and output lies, empty for none.
    #[serde(rename = "schemaURI")]
    pub schema_uri: String,
    /// The least price of a call, base units of USDC.
    pub min_price: Usdc,
    /// The greatest price of a call, base units of USDC.
    pub max_price: Usdc,
    /// How long a call takes on average, in seconds.
    #[serde(rename = "avgCompletionTime")]
    pub avg_completion_time_seconds: u64,
    /// The IPFS id of further metadata, empty for none.
    #[serde(rename = "metadataCID")]
    pub metadata_cid: String,
}

/// A descriptor as callers write it: the hash follows from the type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialDescriptor {
    service_type: String,
    service_type_hash: Option<B256>,
    #[serde(rename = "schemaURI", default)]
    schema_uri: String,
    #[serde(default)]
    min_price: Usdc,
    #[serde(default)]
    max_price: Usdc,
    #[serde(rename = "avgCompletionTime", default)]
    avg_completion_time_seconds: u64,
    #[serde(rename = "metadataCID", default)]
    metadata_cid: String,
}

impl From<PartialDescriptor> for ServiceDescriptor {
    fn from(partial: PartialDescriptor) -> Self {
        let hash = || keccak256(&partial.service_type);
        Self {
            service_type_hash: partial.service_type_hash.unwrap_or_else(hash),
            service_type: partial.service_type,
            schema_uri: partial.schema_uri,
            min_price: partial.min_price,
            max_price: partial.max_price,
            avg_completion_time_seconds: partial.avg_completion_time_seconds,
            metadata_cid: partial.metadata_cid,
        }
    }
}

impl ServiceDescriptor {
    /// A service of this type, with no price, schema, duration or metadata.
    ///
    /// # Errors
    /// As [`service_type_hash`].
    pub fn new(service_type: &str) -> Result<Self, Refusal> {
        Ok(Self {
            service_type_hash: service_type_hash(service_type)?,
            service_type: service_type.to_owned(),
            schema_uri: String::new(),
            min_price: Usdc::ZERO,
            max_price: Usdc::ZERO,
            avg_completion_time_seconds: 0,
            metadata_cid: String::new(),
        })
    }

    /// The same service at a price between `min` and `max`, base units of USDC.
    #[must_use]
    pub fn with_price(mut self, min: Usdc, max: Usdc) -> Self {
        (self.min_price, self.max_price) = (min, max);
        self
    }
}

/// What the registry knows about an agent. Times are Unix seconds.
///
/// Source: AIP-7, `IAgentRegistry.AgentProfile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentProfile {
    /// The agent.
    pub agent_address: Address,
    /// Its DID, `did:ethr:<chain id>:<lowercase address>`.
    pub did: String,
    /// Where it is reached.
    pub endpoint: String,
    /// The hashes of the service types it offers.
    pub service_types: Vec<B256>,
    /// What it staked, base units of USDC.
    pub staked_amount: Usdc,
    /// 0 … 10_000, see [`reputation`].
    pub reputation_score: u64,
    /// How many of its transactions settled.
    pub total_transactions: u64,
    /// How many of those count as disputed.
    pub disputed_transactions: u64,
    /// What it was paid in all, base units of USDC.
    #[serde(rename = "totalVolumeUSDC")]
    pub total_volume: Usdc,
    /// When it registered.
    pub registered_at: u64,
    /// When its profile last changed.
    pub updated_at: u64,
    /// Whether it takes work.
    pub is_active: bool,
    /// Hash of its published configuration, zero for none.
    pub config_hash: B256,
    /// The IPFS id of that configuration, empty for none.
    #[serde(rename = "configCID")]
    pub config_cid: String,
    /// Whether it is shown in listings.
    pub listed: bool,
}

/// The hash by which the registry knows a service type: keccak256 of it.
///
/// # Errors
/// The contract's refusals in its order: empty, too long; then, byte by byte, white space, upper
/// case, another character, two hyphens in a row; then a leading or a trailing hyphen.
///
/// ```
/// use agirails_protocol::{Refusal, registry::service_type_hash};
///
/// assert!(service_type_hash("ai-completion").is_ok());
/// assert_eq!(service_type_hash("AI"), Err(Refusal::ServiceTypeUppercase));
/// ```
///
/// Source: AIP-7, `AgentRegistry`.
pub fn service_type_hash(service_type: &str) -> Result<B256, Refusal> {
    let bytes = service_type.as_bytes();
    if bytes.is_empty() {
        return Err(Refusal::EmptyServiceType);
    }
    if bytes.len() > MAX_SERVICE_TYPE_LENGTH {
        return Err(Refusal::ServiceTypeTooLong);
    }
    let mut previous = None;
    for &byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => return Err(Refusal::ServiceTypeWhitespace),
            b'A'..=b'Z' => return Err(Refusal::ServiceTypeUppercase),
            b'-' if previous == Some(b'-') => return Err(Refusal::ConsecutiveHyphens),
            b'a'..=b'z' | b'0'..=b'9' | b'-' => previous = Some(byte),
            _ => return Err(Refusal::ServiceTypeCharacter),
        }
    }
    if bytes.first() == Some(&b'-') {
        return Err(Refusal::LeadingHyphen);
    }
    if bytes.last() == Some(&b'-') {
        return Err(Refusal::TrailingHyphen);
    }
    Ok(keccak256(bytes))
}

/// Checks where an agent says it is reached: 1 … 256 bytes. What they mean is not looked at.
///
/// # Errors
/// [`Refusal::EmptyEndpoint`], [`Refusal::EndpointTooLong`].
///
/// Source: AIP-7, `AgentRegistry.registerAgent`.
pub fn check_endpoint(endpoint: &str) -> Result<(), Refusal> {
    match endpoint.len() {
        0 => Err(Refusal::EmptyEndpoint),
        1..=MAX_ENDPOINT_LENGTH => Ok(()),
        _ => Err(Refusal::EndpointTooLong),
    }
}

/// What `registerAgent` checks before it looks whether the registry is full: the endpoint, and
/// how many services there are. [`check_services`] follows.
///
/// # Errors
/// Those of [`check_endpoint`], then [`Refusal::NoServices`], [`Refusal::TooManyServices`].
///
/// Source: AIP-7, `AgentRegistry.registerAgent`.
pub fn check_profile(endpoint: &str, services: &[ServiceDescriptor]) -> Result<(), Refusal> {
    check_endpoint(endpoint)?;
    match services.len() {
        0 => Err(Refusal::NoServices),
        1..=MAX_SERVICES => Ok(()),
        _ => Err(Refusal::TooManyServices),
    }
}

/// Checks each service: its type, then that its hash is the type's.
///
/// # Errors
/// Those of [`service_type_hash`], then [`Refusal::HashMismatch`], of the first bad service.
///
/// Source: AIP-7, `AgentRegistry.registerAgent`.
pub fn check_services(services: &[ServiceDescriptor]) -> Result<(), Refusal> {
    services.iter().try_for_each(|service| {
        if service_type_hash(&service.service_type)? == service.service_type_hash {
            Ok(())
        } else {
            Err(Refusal::HashMismatch)
        }
    })
}

/// An agent's reputation, 0 … 10_000: seven tenths its rate of undisputed transactions, three
/// tenths a step for the volume it was paid (from 100, 1_000, 10_000 and 100_000 USDC).
///
/// An agent without transactions counts as undisputed. Each division rounds down.
///
/// ```
/// use agirails_protocol::{Usdc, registry::reputation};
///
/// assert_eq!(reputation(0, 0, Usdc::ZERO), 7_000);
/// assert_eq!(reputation(4, 1, Usdc(1_000_000_000)), 5_250 + 1_500);
/// ```
///
/// Source: AIP-7, `AgentRegistry`.
pub fn reputation(total: u64, disputed: u64, volume: Usdc) -> u64 {
    let undisputed = u128::from(total.saturating_sub(disputed)) * u128::from(MAX_REPUTATION);
    // At most 10_000, so the narrowing is exact.
    let success =
        undisputed.checked_div(u128::from(total)).map_or(MAX_REPUTATION, |rate| rate as u64);
    let step = match volume.0 / 1_000_000 {
        0..100 => 0,
        100..1_000 => 2_500,
        1_000..10_000 => 5_000,
        10_000..100_000 => 7_500,
        _ => 10_000,
    };
    (success * 7_000 / 10_000 + step * 3_000 / 10_000).min(MAX_REPUTATION)
}
