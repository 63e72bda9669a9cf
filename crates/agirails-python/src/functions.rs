//! The package's functions.

use agirails::{
    Code, Usdc,
    protocol::{canonical_json as canonical, proof::Resolution, registry, target},
};
use pyo3::{prelude::*, types::PyBytes};

use crate::{
    convert::{self, Any, Given, Maybe, optional},
    errors::OrRaise,
    json,
};

/// Base units of an amount of USDC.
///
/// Args:
///     text: a plain decimal number of USDC with at most 6 decimals, as str.
///
/// Raises:
///     ValidationError: it is anything else; floats too, since they do not hold 0.10.
///
/// Example:
///     >>> parse_usdc("0.10")
///     100000
#[pyfunction]
pub fn parse_usdc(py: Python<'_>, text: Any<'_, '_>) -> PyResult<u64> {
    Ok(convert::text(Code::InvalidAmount, "amount", text)?.parse::<Usdc>().or_raise(py)?.0)
}

/// An amount in base units, written in USDC with two to six decimals.
///
/// Args:
///     amount: base units of USDC (1 USDC = 1_000_000).
///
/// Raises:
///     ValidationError: it is no int of 0 ... 2**64 - 1.
///
/// Example:
///     >>> format_usdc(100_000)
///     '0.10'
#[pyfunction]
pub fn format_usdc(amount: Any<'_, '_>) -> PyResult<String> {
    Ok(convert::amount("amount", amount, Code::InvalidAmount)?.to_string())
}

/// The canonical form of a request target (a path with its query), which is what a paid request signs.
///
/// All spellings by which servers hand one target over have the same canonical form: the raw request
/// line and the decoded path, encoded again. The guide "Paying for calls" has the rules and a version
/// in plain Python for other languages to follow.
///
/// Args:
///     target: str or bytes; a whole URL is taken too.
///
/// Raises:
///     ValidationError: it is neither str nor bytes.
///
/// Example:
///     >>> canonical_target("/caf%c3%a9/%7eme//x/../?q=a%2fb")
///     '/caf%C3%A9/~me/?q=a%2Fb'
///
/// Source: RFC 3986, sections 5.2.4 and 6.2.2.
#[pyfunction]
pub fn canonical_target(target: Any<'_, '_>) -> PyResult<String> {
    Ok(target::canonical_target(convert::content("target", target)?))
}

/// The one text of a JSON value, so that both parties hash the same bytes: keys sorted by UTF-16
/// code unit, no white space, numbers as ECMAScript prints them, NaN and infinity as null.
///
/// Args:
///     obj: dict with str keys, list, tuple, str, int, float, bool or None, at most 200 deep.
///         Integers beyond 53 bits lose digits, as in ECMAScript: pass those as str.
///
/// Raises:
///     ValidationError: JSON cannot carry it (code invalid_json); the message names the type.
///
/// Example:
///     >>> canonical_json({"b": 1.0, "a": [True]})
///     '{"a":[true],"b":1}'
///
/// Source: AIP-4, RFC 8785.
#[pyfunction]
pub fn canonical_json(py: Python<'_>, obj: Any<'_, '_>) -> PyResult<String> {
    let value = json::from_python("obj", obj)?;
    py.detach(|| canonical::canonical_json(&value)).or_raise(py)
}

/// The resultHash of a delivery: keccak256 of canonical_json, as 0x and 64 hex digits.
///
/// Args:
///     obj: as for canonical_json.
///
/// Raises:
///     ValidationError: JSON cannot carry it.
///
/// Example:
///     >>> result_hash({"a": 1}) == result_hash({"a": 1.0})
///     True
///
/// Source: AIP-4.
#[pyfunction]
pub fn result_hash(py: Python<'_>, obj: Any<'_, '_>) -> PyResult<String> {
    let value = json::from_python("obj", obj)?;
    Ok(py.detach(|| canonical::result_hash(&value)).or_raise(py)?.to_string())
}

/// The agreement_hash of a creation: keccak256 of the canonical JSON of what was agreed.
///
/// Kernels of AIP-14c keep it; evaluators of a dispute ask for the three parts.
///
/// Args:
///     request: what is ordered, anything that JSON can carry; as the other two.
///     input: what it works on.
///     sla: what was promised, such as {"deadlineSeconds": 3600}.
///
/// Raises:
///     ValidationError: JSON cannot carry it.
///
/// Example:
///     >>> agreement = agreement_hash({"service": "ocr"}, {"lang": "en"}, {})
///
/// Source: AIP-14c.
#[pyfunction]
pub fn agreement_hash(
    py: Python<'_>,
    request: Any<'_, '_>,
    input: Any<'_, '_>,
    sla: Any<'_, '_>,
) -> PyResult<String> {
    let request = json::from_python("request", request)?;
    let (input, sla) = (json::from_python("input", input)?, json::from_python("sla", sla)?);
    Ok(py.detach(|| canonical::agreement_hash(&request, &input, &sla)).or_raise(py)?.to_string())
}

/// How a dispute ends, as bytes for transition_state(tx_id, State.SETTLED, ...).
///
/// Args:
///     requester_amount: the requester's part, base units of USDC.
///     provider_amount: the provider's part, before its fee. With the mediator's part, the
///         amounts must add up to what remains in escrow.
///     provider_at_fault: whether the bond goes to the requester; else it goes to the provider.
///     mediator: address of an approved mediator.
///     mediator_amount: its part, at most 10 % of the transaction's amount.
///
/// Raises:
///     ValidationError: an argument is wrong.
///
/// Example:
///     >>> resolution = encode_resolution(
///     ...     requester_amount=600_000, provider_amount=400_000, provider_at_fault=True)
///
/// Source: AIP-14, `ACTPKernel`'s resolution proofs.
#[pyfunction]
#[pyo3(
    signature = (*, requester_amount, provider_amount, provider_at_fault, mediator=None,
        mediator_amount=Given::LEFT_OUT),
    text_signature = "(*, requester_amount, provider_amount, provider_at_fault, mediator=None, \
        mediator_amount=0)"
)]
pub fn encode_resolution<'py>(
    py: Python<'py>,
    requester_amount: Any<'_, 'py>,
    provider_amount: Any<'_, 'py>,
    provider_at_fault: Any<'_, 'py>,
    mediator: Maybe<'_, 'py>,
    mediator_amount: Given<'_, 'py>,
) -> PyResult<Bound<'py, PyBytes>> {
    let amount = |field, value| convert::amount(field, value, Code::InvalidAmount);
    let mediator = optional(mediator, |address| convert::address("mediator", address))?;
    let mediator_amount =
        optional(mediator_amount.get(), |value| amount("mediator_amount", value))?
            .unwrap_or_default();
    if mediator.is_none() && mediator_amount > Usdc::ZERO {
        return Err(agirails::Refusal::MediatorAddressRequired).or_raise(py);
    }
    let resolution = Resolution {
        requester_amount: amount("requester_amount", requester_amount)?,
        provider_amount: amount("provider_amount", provider_amount)?,
        provider_at_fault: convert::flag("provider_at_fault", provider_at_fault)?,
        mediator: mediator.map(|mediator| (mediator, mediator_amount)),
    };
    Ok(PyBytes::new(py, &resolution.encode()))
}

/// The hash by which the registry knows a service type: keccak256 of it.
///
/// Args:
///     service_type: 1 ... 64 lowercase letters, digits and single hyphens.
///
/// Raises:
///     ValidationError: it is anything else; `refusal` has the contract's words.
///
/// Example:
///     >>> service_type_hash("ai-completion")[:10]
///
/// Source: AIP-7, `AgentRegistry`.
#[pyfunction]
pub fn service_type_hash(py: Python<'_>, service_type: Any<'_, '_>) -> PyResult<String> {
    let service_type = convert::text(Code::InvalidSettings, "service_type", service_type)?;
    Ok(registry::service_type_hash(service_type).or_raise(py)?.to_string())
}
