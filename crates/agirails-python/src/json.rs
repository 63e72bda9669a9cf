//! JSON values from Python and back.

use agirails::Code;
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyNone, PyString, PyTuple},
};
use serde_json::{Map, Number, Value};

use crate::argument::{refuse, text, type_name};

/// Deeper than any honest value, and shallow enough for every stack. A value that contains
/// itself ends here too.
const MAX_DEPTH: usize = 200;
const HINT: &str = "JSON holds dict with str keys, list, tuple, str, int, float, bool and None";

/// Reads a value as `JSON.stringify` would: an integer beyond 64 bits is a double, a number that
/// is not finite is null.
pub fn from_python(field: &'static str, value: &Bound<'_, PyAny>) -> PyResult<Value> {
    read(field, value, MAX_DEPTH)
}

/// [`from_python`] of a dict.
pub fn object_from_python(
    field: &'static str,
    value: &Bound<'_, PyAny>,
) -> PyResult<Map<String, Value>> {
    match from_python(field, value)? {
        Value::Object(object) => Ok(object),
        _ => Err(not_json(field, value, "is not a dict", "pass a dict with str keys")),
    }
}

fn read(field: &'static str, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if depth == 0 {
        let problem = "is nested more than 200 deep, or contains itself";
        return Err(not_json(field, value, problem, HINT));
    }
    if let Ok(string) = value.cast::<PyString>() {
        return Ok(text(Code::InvalidJson, field, string)?.into());
    }
    if value.is_none() {
        return Ok(Value::Null);
    }
    if let Ok(flag) = value.cast::<PyBool>() {
        return Ok(flag.is_true().into());
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(number(value));
    }
    if let Ok(float) = value.cast::<PyFloat>() {
        return Ok(Number::from_f64(float.value()).map_or(Value::Null, Value::Number));
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        let mut object = Map::new();
        for (key, value) in dict {
            let Ok(name) = key.cast::<PyString>() else {
                let problem = format!("has a key of type {}", type_name(&key));
                return Err(not_json(field, dict, &problem, "JSON's keys are text: make them str"));
            };
            let name = text(Code::InvalidJson, field, name)?.to_owned();
            object.insert(name, read(field, &value, depth - 1)?);
        }
        return Ok(Value::Object(object));
    }
    if let Ok(list) = value.cast::<PyList>() {
        return list.iter().map(|item| read(field, &item, depth - 1)).collect();
    }
    if let Ok(tuple) = value.cast::<PyTuple>() {
        return tuple.iter().map(|item| read(field, &item, depth - 1)).collect();
    }
    Err(not_json(field, value, "has no JSON form", HINT))
}

fn number(value: &Bound<'_, PyAny>) -> Value {
    if let Ok(number) = value.extract::<i64>() {
        return number.into();
    }
    if let Ok(number) = value.extract::<u64>() {
        return number.into();
    }
    // Beyond a double's range it is infinite, which JSON writes as null.
    value.extract().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

fn not_json(field: &'static str, value: &Bound<'_, PyAny>, problem: &str, hint: &str) -> PyErr {
    let shown = format!("<{}>", type_name(value));
    refuse(value.py(), Code::InvalidJson, field, &shown, problem, hint)
}

/// The Python objects of a JSON value.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Null => Ok(PyNone::get(py).to_owned().into_any()),
        Value::Bool(flag) => flag.into_bound_py_any(py),
        Value::String(string) => string.into_bound_py_any(py),
        Value::Number(number) => {
            if let Some(number) = number.as_i64() {
                number.into_bound_py_any(py)
            } else if let Some(number) = number.as_u64() {
                number.into_bound_py_any(py)
            } else {
                number.as_f64().into_bound_py_any(py)
            }
        }
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_python(py, item)?)?;
            }
            Ok(list.into_any())
        }
        Value::Object(object) => {
            let dict = PyDict::new(py);
            for (key, value) in object {
                dict.set_item(key, to_python(py, value)?)?;
            }
            Ok(dict.into_any())
        }
    }
}
