//! What the kernel announced.

use agirails::EventRecord;
use alloy_primitives::U256;
use pyo3::{prelude::*, types::PyDict};
use serde_json::Value;

use crate::{
    convert::{address_object, big_int},
    json,
};

/// Something the kernel announced, under the contract's names.
///
/// Source: `IACTPKernel`'s events.
#[pyclass(frozen, eq, module = "agirails._agirails")]
#[derive(PartialEq)]
pub struct Event(EventRecord);

impl From<EventRecord> for Event {
    fn from(record: EventRecord) -> Self {
        Self(record)
    }
}

impl Event {
    /// The contract's field names with their values; `event` holds the event's name.
    fn json(&self) -> Value {
        serde_json::to_value(&self.0.event).unwrap_or_default()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.json()[key].as_str().map(str::to_owned)
    }
}

#[pymethods]
impl Event {
    /// Its place in the kernel's order; pass it to get_events to read on behind it.
    #[getter]
    fn cursor(&self) -> u64 {
        self.0.cursor
    }

    /// The contract's name for it, such as "StateTransitioned".
    #[getter]
    fn name(&self) -> String {
        self.text("event").unwrap_or_default()
    }

    /// The transaction it is about; None for what is about the kernel or a vault.
    #[getter]
    fn transaction_id(&self) -> Option<String> {
        self.text("transactionId")
    }

    /// When it happened, Unix seconds; None where the contract does not say, as of a recovery.
    #[getter]
    fn timestamp(&self) -> Option<u64> {
        self.json()["timestamp"].as_u64()
    }

    /// Its fields under the contract's names: amounts and agent ids as int, states by name.
    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let Value::Object(fields) = self.json() else { return Ok(dict) };
        for (key, value) in fields {
            if key == "event" {
                continue;
            }
            let text = value.as_str().unwrap_or_default();
            let object = match key.as_str() {
                "agentId" => match text.parse::<U256>() {
                    Ok(number) => big_int(py, number)?,
                    Err(_) => json::to_python(py, &value)?,
                },
                // An address is the only text of 42 characters.
                _ => match text.parse() {
                    Ok(address) if text.len() == 42 => address_object(py, address)?,
                    _ => json::to_python(py, &value)?,
                },
            };
            dict.set_item(key, object)?;
        }
        Ok(dict)
    }

    fn __hash__(&self) -> u64 {
        self.0.cursor
    }

    fn __repr__(&self) -> String {
        match self.transaction_id() {
            Some(id) => format!("<Event {} {} {id}>", self.0.cursor, self.name()),
            None => format!("<Event {} {}>", self.0.cursor, self.name()),
        }
    }
}
