//! An argument as Python passes it, and the exception for a wrong one.

use std::convert::Infallible;

use agirails::{Code, Error};
use pyo3::{
    prelude::*,
    types::{PyBool, PyInt, PyString},
};

use crate::errors;

/// An argument that may be anything, to be checked here.
pub type Any<'a, 'py> = &'a Bound<'py, PyAny>;
/// An argument that may be None or left out.
pub type Maybe<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// An argument that may be left out, but not be None.
pub struct Given<'a, 'py>(Option<Borrowed<'a, 'py, PyAny>>);

impl<'py> Given<'_, 'py> {
    pub const LEFT_OUT: Self = Self(None);

    pub fn get(&self) -> Maybe<'_, 'py> {
        self.0.as_deref()
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'a, 'py> {
    type Error = Infallible;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> Result<Self, Infallible> {
        Ok(Self(Some(value)))
    }
}

/// The exception for an argument that the core never gets to see.
pub fn refuse(
    py: Python<'_>,
    code: Code,
    field: &'static str,
    shown: &str,
    problem: &str,
    hint: &str,
) -> PyErr {
    errors::raise(py, &Error::invalid(code, field, shown, problem).with_hint(hint))
}

/// The class of a value, as messages name it.
pub fn type_name(value: Any<'_, '_>) -> String {
    value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}

/// A wrong value as messages show it: text itself, of all else what `reprlib` leaves of it.
pub fn shown(value: Any<'_, '_>) -> String {
    if let Ok(text) = value.cast::<PyString>() {
        return text.to_string_lossy().into_owned();
    }
    let short = match bit_length(value) {
        // Python refuses to print an integer of more than 4_300 digits.
        Some(bits @ 1_024..) => return format!("<int of {bits} bits>"),
        Some(_) => value.repr().map(Bound::into_any),
        None => {
            value.py().import("reprlib").and_then(|reprlib| reprlib.call_method1("repr", (value,)))
        }
    };
    match short.and_then(|short| Ok(short.cast::<PyString>()?.to_string_lossy().into_owned())) {
        Ok(short) => short,
        Err(_) => format!("<{}>", type_name(value)),
    }
}

pub fn bit_length(value: Any<'_, '_>) -> Option<u64> {
    if !is_integer(value) {
        return None;
    }
    value.call_method0("bit_length").and_then(|bits| bits.extract()).ok()
}

pub fn wrong_type(code: Code, field: &'static str, value: Any<'_, '_>, hint: &str) -> PyErr {
    let problem = format!("is of type {}", type_name(value));
    refuse(value.py(), code, field, &shown(value), &problem, hint)
}

/// Text: a str, and one that UTF-8 can carry.
pub fn text<'a>(code: Code, field: &'static str, value: Any<'a, '_>) -> PyResult<&'a str> {
    let Ok(string) = value.cast::<PyString>() else {
        return Err(wrong_type(code, field, value, "pass a str"));
    };
    string.to_str().map_err(|_| {
        let problem = "has lone surrogates, which no encoding can carry";
        refuse(value.py(), code, field, &shown(value), problem, "pass valid Unicode text")
    })
}

pub fn is_integer(value: Any<'_, '_>) -> bool {
    value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>()
}
