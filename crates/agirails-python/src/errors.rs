//! The core's errors as Python's exceptions, which are defined in `agirails/errors.py`.

use agirails::{Code, Error, Kind};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyType},
};

use crate::types;

/// The classes, by the names they have in Python.
mod classes {
    pyo3::import_exception!(agirails.errors, ACTPError);
    pyo3::import_exception!(agirails.errors, ACTPTimeoutError);
    pyo3::import_exception!(agirails.errors, CallError);
    pyo3::import_exception!(agirails.errors, ContractPausedError);
    pyo3::import_exception!(agirails.errors, DeadlinePassedError);
    pyo3::import_exception!(agirails.errors, DisputeWindowActiveError);
    pyo3::import_exception!(agirails.errors, InsufficientFundsError);
    pyo3::import_exception!(agirails.errors, InvalidStateTransitionError);
    pyo3::import_exception!(agirails.errors, NetworkError);
    pyo3::import_exception!(agirails.errors, QueryCapExceededError);
    pyo3::import_exception!(agirails.errors, SignatureVerificationError);
    pyo3::import_exception!(agirails.errors, SpendingError);
    pyo3::import_exception!(agirails.errors, StorageError);
    pyo3::import_exception!(agirails.errors, TransactionNotFoundError);
    pyo3::import_exception!(agirails.errors, TransactionRevertedError);
    pyo3::import_exception!(agirails.errors, UnauthorizedError);
    pyo3::import_exception!(agirails.errors, ValidationError);
}

/// A panic of the core, caught.
pub fn panicked(message: &str) -> Error {
    Error::new(Code::Internal, format!("internal error: {message}"))
        .with_hint("this is a mistake in agirails: please report it")
}

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    facts(py, error)
        .and_then(|facts| instantiate(&class(py, error.kind()), &error.to_string(), &facts))
        .unwrap_or_else(|error| error)
}

/// Raises an error of the core's pure functions.
pub trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T, E: Into<Error>> OrRaise<T> for Result<T, E> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raise(py, &error.into()))
    }
}

fn instantiate(
    class: &Bound<'_, PyType>,
    message: &str,
    facts: &Bound<'_, PyDict>,
) -> PyResult<PyErr> {
    Ok(PyErr::from_value(class.call((message,), Some(facts))?))
}

fn facts<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyDict>> {
    let given = error.facts();
    let facts = PyDict::new(py);
    facts.set_item("code", error.code().as_str())?;
    facts.set_item("retry", error.retry().as_str())?;
    facts.set_item("hint", error.hint())?;
    facts.set_item("refusal", error.refusal().map(|refusal| refusal.words()))?;
    facts.set_item("transaction_id", given.transaction_id.map(|id| id.to_string()))?;
    facts
        .set_item("state", given.state.map(|state| types::state_member(py, state)).transpose()?)?;
    facts.set_item("deadline", given.deadline)?;
    facts.set_item("transaction_hash", given.transaction_hash.map(|hash| hash.to_string()))?;
    facts.set_item("gas_wei", given.gas_wei)?;
    facts.set_item("field", given.field)?;
    facts.set_item("value", given.value.as_deref())?;
    facts.set_item("required", given.required.map(|amount| amount.0))?;
    facts.set_item("available", given.available.map(|amount| amount.0))?;
    facts.set_item("status", given.status)?;
    facts.set_item("body", given.body.as_ref().map(|body| PyBytes::new(py, &body.0)))?;
    facts.set_item("purchase_key", given.purchase_key.as_deref())?;
    Ok(facts)
}

/// The class of all of them.
#[cfg(feature = "testkit")]
pub fn base(py: Python<'_>) -> Bound<'_, PyType> {
    py.get_type::<classes::ACTPError>()
}

fn class(py: Python<'_>, kind: Kind) -> Bound<'_, PyType> {
    match kind {
        Kind::Validation => py.get_type::<classes::ValidationError>(),
        Kind::TransactionNotFound => py.get_type::<classes::TransactionNotFoundError>(),
        Kind::InvalidStateTransition => py.get_type::<classes::InvalidStateTransitionError>(),
        Kind::Unauthorized => py.get_type::<classes::UnauthorizedError>(),
        Kind::DeadlinePassed => py.get_type::<classes::DeadlinePassedError>(),
        Kind::DisputeWindowActive => py.get_type::<classes::DisputeWindowActiveError>(),
        Kind::InsufficientFunds => py.get_type::<classes::InsufficientFundsError>(),
        Kind::TransactionReverted => py.get_type::<classes::TransactionRevertedError>(),
        Kind::ContractPaused => py.get_type::<classes::ContractPausedError>(),
        Kind::Network => py.get_type::<classes::NetworkError>(),
        Kind::Timeout => py.get_type::<classes::ACTPTimeoutError>(),
        Kind::SignatureVerification => py.get_type::<classes::SignatureVerificationError>(),
        Kind::Storage => py.get_type::<classes::StorageError>(),
        Kind::Spending => py.get_type::<classes::SpendingError>(),
        Kind::Call => py.get_type::<classes::CallError>(),
        Kind::QueryCapExceeded => py.get_type::<classes::QueryCapExceededError>(),
        _ => py.get_type::<classes::ACTPError>(),
    }
}
