//! What Python passes in, checked, and what it gets back. Every argument comes through here, so
//! that a wrong one is always a ValidationError that names it.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use agirails::{
    Code, Error, Evidence, State, TransactionId, Usdc,
    protocol::{
        id::{parse_address, parse_bytes32, parse_transaction_id},
        proof::DeliveryProof,
    },
};
use alloy_primitives::{Address, B256, U256, hex};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString,
        PyType,
    },
};

pub use crate::{
    argument::{Any, Given, Maybe, refuse, shown, text, type_name},
    types::{address_object, state_member},
};
use crate::{
    argument::{bit_length, is_integer, wrong_type},
    errors::OrRaise,
    json,
};

const BYTES_HINT: &str = "pass bytes, or a str of 0x and hex digits";

/// A flag: exactly True or False.
pub fn flag(field: &'static str, value: Any<'_, '_>) -> PyResult<bool> {
    match value.cast::<PyBool>() {
        Ok(flag) => Ok(flag.is_true()),
        Err(_) => Err(wrong_type(Code::InvalidSettings, field, value, "pass True or False")),
    }
}

/// A transaction's id.
pub fn transaction_id(value: Any<'_, '_>) -> PyResult<TransactionId> {
    let Ok(string) = value.cast::<PyString>() else {
        let hint = "pass the str that create_transaction returned: 0x and 64 hex digits";
        return Err(wrong_type(Code::InvalidTransactionId, "transaction_id", value, hint));
    };
    parse_transaction_id(text(Code::InvalidTransactionId, "transaction_id", string)?)
        .or_raise(value.py())
}

/// An address.
pub fn address(field: &'static str, value: Any<'_, '_>) -> PyResult<Address> {
    if !value.is_instance_of::<PyString>() {
        let hint = "an address is a str: 0x and 40 hex digits";
        return Err(wrong_type(Code::InvalidAddress, field, value, hint));
    }
    parse_address(field, text(Code::InvalidAddress, field, value)?).or_raise(value.py())
}

/// An amount in base units; `too_much` is how the contract would refuse one beyond 64 bits.
pub fn amount(field: &'static str, value: Any<'_, '_>, too_much: Code) -> PyResult<Usdc> {
    let hint = if value.is_instance_of::<PyString>() || value.is_instance_of::<PyFloat>() {
        "pass base units of USDC as an int; parse_usdc(\"0.10\") converts"
    } else {
        "pass base units of USDC as an int: 1 USDC is 1_000_000"
    };
    unsigned(Code::InvalidAmount, field, value, too_much, hint).map(Usdc)
}

/// A price in USDC, as it is written: str or Decimal; or in base units, as int.
pub fn price(field: &'static str, value: Any<'_, '_>) -> PyResult<Usdc> {
    let py = value.py();
    if value.is_instance_of::<PyString>() {
        return text(Code::InvalidAmount, field, value)?.parse::<Usdc>().or_raise(py);
    }
    static DECIMAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if value.is_instance(DECIMAL.import(py, "decimal", "Decimal")?)? {
        // Without an exponent, which no amount is written with.
        let written = value.call_method1("__format__", ("f",))?;
        return text(Code::InvalidAmount, field, &written)?.parse::<Usdc>().or_raise(py);
    }
    let hint =
        "pass USDC as str or Decimal such as \"0.10\"; base units as usdc_base_units(100_000)";
    if value.is_instance(USDC.import(py, "agirails.types", "Usdc")?)? {
        return unsigned(Code::InvalidAmount, field, value, Code::InvalidAmount, hint).map(Usdc);
    }
    let problem = "must be USDC as str or Decimal: an int does not say which unit is meant";
    Err(refuse(py, Code::InvalidAmount, field, &shown(value), problem, hint))
}

/// A duration in seconds: int or float, finite and not negative.
pub fn seconds(field: &'static str, value: Any<'_, '_>) -> PyResult<Duration> {
    let number = match value.is_instance_of::<PyBool>() {
        true => None,
        false => value.extract::<f64>().ok(),
    };
    number.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
        let shown = value.repr().map_or_else(|_| String::new(), |repr| repr.to_string());
        let (code, hint) = (Code::InvalidNumber, "pass seconds as int or float, from 0 on");
        refuse(value.py(), code, field, &shown, "must be a duration", hint)
    })
}

/// A time, a duration or a count; `too_much` is how the contract would refuse one beyond 64 bits.
pub fn number(field: &'static str, value: Any<'_, '_>, too_much: Code) -> PyResult<u64> {
    unsigned(Code::InvalidNumber, field, value, too_much, "pass a whole number as an int")
}

/// A count of at most 32 bits.
pub fn count(field: &'static str, value: Any<'_, '_>) -> PyResult<u32> {
    let count = number(field, value, Code::InvalidNumber)?;
    count.try_into().map_err(|_| {
        let hint = "read in pages instead";
        refuse(value.py(), Code::InvalidNumber, field, &shown(value), "is too great", hint)
    })
}

fn unsigned(
    code: Code,
    field: &'static str,
    value: Any<'_, '_>,
    too_much: Code,
    hint: &str,
) -> PyResult<u64> {
    if !is_integer(value) {
        return Err(wrong_type(code, field, value, hint));
    }
    if let Ok(number) = value.extract() {
        return Ok(number);
    }
    if value.lt(0)? {
        return Err(refuse(value.py(), code, field, &shown(value), "is negative", hint));
    }
    match too_much {
        // Within uint256 the contract would refuse it, in its own words.
        Code::Refused(refusal) if bit_length(value).is_some_and(|bits| bits <= 256) => {
            let error = Error::from(refusal);
            let problem = format!("is refused: {refusal}");
            let hint = error.hint().unwrap_or(hint);
            Err(refuse(value.py(), too_much, field, &shown(value), &problem, hint))
        }
        _ => Err(refuse(value.py(), code, field, &shown(value), "is too great", hint)),
    }
}

/// An agent's number, up to 256 bits.
pub fn agent_id(field: &'static str, value: Any<'_, '_>) -> PyResult<U256> {
    uint256(field, value, "an agent id is an int from 0 to 2**256 - 1; 0 is none")
}

/// A number of up to 256 bits.
pub fn uint256(field: &'static str, value: Any<'_, '_>, hint: &str) -> PyResult<U256> {
    if !is_integer(value) {
        return Err(wrong_type(Code::InvalidNumber, field, value, hint));
    }
    let bytes = value.call_method1("to_bytes", (32, "big")).map_err(|_| {
        let problem = "is not from 0 to 2**256 - 1";
        refuse(value.py(), Code::InvalidNumber, field, &shown(value), problem, hint)
    })?;
    Ok(U256::from_be_slice(bytes.cast::<PyBytes>()?.as_bytes()))
}
/// A state, by member, number or name.
pub fn state(field: &'static str, value: Any<'_, '_>) -> PyResult<State> {
    let hint = "pass a member of State, its number or its name";
    if value.is_instance_of::<PyString>() {
        return text(Code::InvalidState, field, value)?.parse::<State>().or_raise(value.py());
    }
    State::try_from(unsigned(Code::InvalidState, field, value, Code::InvalidState, hint)?)
        .or_raise(value.py())
}

/// 32 bytes, as bytes or as `0x` and 64 hex digits.
pub fn bytes32(field: &'static str, value: Any<'_, '_>) -> PyResult<B256> {
    if value.is_instance_of::<PyString>() {
        return parse_bytes32(field, text(Code::InvalidBytes, field, value)?).or_raise(value.py());
    }
    let bytes = bytes(field, value)?;
    B256::try_from(&*bytes).map_err(|_| {
        let (shown, problem) = (shown(value), format!("has {} bytes, not 32", bytes.len()));
        refuse(value.py(), Code::InvalidBytes, field, &shown, &problem, "pass 32 bytes")
    })
}

/// [`bytes32`] where nothing (None, `b""`, `""`, `"0x"`) means zero.
pub fn bytes32_or_zero(field: &'static str, value: Maybe<'_, '_>) -> PyResult<B256> {
    match value {
        None => Ok(B256::ZERO),
        Some(value) if !value.is_instance_of::<PyString>() && bytes(field, value)?.is_empty() => {
            Ok(B256::ZERO)
        }
        Some(value) if value.eq("").unwrap_or(false) || value.eq("0x").unwrap_or(false) => {
            Ok(B256::ZERO)
        }
        Some(value) => bytes32(field, value),
    }
}

/// Bytes of any length, as bytes or as `0x` and hex digits.
pub fn bytes<'a>(field: &'static str, value: Any<'a, '_>) -> PyResult<Cow<'a, [u8]>> {
    if !value.is_instance_of::<PyString>() {
        return raw_bytes(field, value, BYTES_HINT);
    }
    let text = text(Code::InvalidBytes, field, value)?;
    let refuse = |problem| refuse(value.py(), Code::InvalidBytes, field, text, problem, BYTES_HINT);
    match text.strip_prefix("0x") {
        None if text.is_empty() => Ok(Cow::Borrowed(&[])),
        None => Err(refuse("does not start with 0x")),
        Some(digits) if digits.len() % 2 == 1 => Err(refuse("has an odd number of hex digits")),
        Some(digits) => hex::decode(digits)
            .map(Cow::Owned)
            .map_err(|_| refuse("has characters that are no hex digits")),
    }
}

/// Content: text as its UTF-8, bytes as they are.
pub fn content<'a>(field: &'static str, value: Any<'a, '_>) -> PyResult<Cow<'a, [u8]>> {
    if value.is_instance_of::<PyString>() {
        return Ok(Cow::Borrowed(text(Code::InvalidBytes, field, value)?.as_bytes()));
    }
    raw_bytes(field, value, "pass str or bytes; json.dumps(...) makes text of a value")
}

fn raw_bytes<'a>(field: &'static str, value: Any<'a, '_>, hint: &str) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Cow::Borrowed(bytes.as_bytes()));
    }
    if let Ok(bytes) = value.cast::<PyByteArray>() {
        return Ok(Cow::Owned(bytes.to_vec()));
    }
    if value.is_instance_of::<PyMemoryView>() {
        let copy = value.call_method0("tobytes")?;
        return Ok(Cow::Owned(copy.cast::<PyBytes>()?.as_bytes().to_vec()));
    }
    Err(wrong_type(Code::InvalidBytes, field, value, hint))
}

/// What accompanies a transition: nothing, bytes, or a delivery proof.
pub fn evidence(value: Maybe<'_, '_>) -> PyResult<Evidence> {
    match value {
        None => Ok(Evidence::None),
        Some(value) if value.is_instance_of::<PyDict>() => Ok(Evidence::Proof(proof(value)?)),
        Some(value) => {
            let hint = "pass a proof of the ProofGenerator, bytes, or a str of 0x and hex digits";
            match value.is_instance_of::<PyString>() {
                true => bytes("proof", value),
                false => raw_bytes("proof", value, hint),
            }
            .map(|bytes| Evidence::Bytes(bytes.into_owned()))
        }
    }
}

/// A delivery proof, as the ProofGenerator made it.
pub fn proof(value: Any<'_, '_>) -> PyResult<DeliveryProof> {
    DeliveryProof::from_json(&json::from_python("proof", value)?).or_raise(value.py())
}

/// A path: text, or what `os.fspath` takes.
pub fn path(field: &'static str, value: Any<'_, '_>) -> PyResult<PathBuf> {
    value.extract().map_err(|_| {
        let shown = format!("<{}>", type_name(value));
        let (code, hint) = (Code::InvalidSettings, "pass a str or a Path");
        refuse(value.py(), code, field, &shown, "must be a path", hint)
    })
}

/// Applies a conversion to an argument that may be left out.
pub fn optional<'a, 'py, T>(
    value: Maybe<'a, 'py>,
    convert: impl FnOnce(Any<'a, 'py>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    value.map(convert).transpose()
}

static USDC: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// A `Usdc`: an int of base units that prints as USDC.
pub fn usdc_object(py: Python<'_>, Usdc(units): Usdc) -> PyResult<Bound<'_, PyAny>> {
    USDC.import(py, "agirails.types", "Usdc")?.call1((units,))
}

/// An int of up to 256 bits.
pub fn big_int(py: Python<'_>, number: U256) -> PyResult<Bound<'_, PyAny>> {
    match u64::try_from(number) {
        Ok(number) => number.into_bound_py_any(py),
        Err(_) => {
            let bytes = PyBytes::new(py, &number.to_be_bytes::<32>());
            py.get_type::<PyInt>().call_method1("from_bytes", (bytes, "big"))
        }
    }
}

/// For verbs whose result is that they succeeded.
pub fn nothing(py: Python<'_>, (): ()) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

/// For verbs that return a hash.
pub fn hash(py: Python<'_>, hash: B256) -> PyResult<Py<PyAny>> {
    hash.to_string().into_py_any(py)
}

/// For verbs that return an amount.
pub fn usdc(py: Python<'_>, amount: Usdc) -> PyResult<Py<PyAny>> {
    amount.0.into_py_any(py)
}

/// For verbs that return a number or a truth.
pub fn plain<T>(py: Python<'_>, value: T) -> PyResult<Py<PyAny>>
where
    T: for<'py> IntoPyObject<'py>,
{
    value.into_py_any(py)
}

/// For verbs that return records.
pub fn list<T, W>(py: Python<'_>, records: Vec<T>) -> PyResult<Py<PyAny>>
where
    W: From<T> + for<'py> IntoPyObject<'py>,
{
    let objects: PyResult<Vec<_>> =
        records.into_iter().map(|record| W::from(record).into_py_any(py)).collect();
    Ok(PyList::new(py, objects?)?.into_any().unbind())
}
