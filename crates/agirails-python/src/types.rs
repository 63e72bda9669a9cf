//! Values of the classes in `agirails.types`.

use agirails::{Address, State};
use pyo3::{prelude::*, sync::PyOnceLock, types::PyType};

/// The member of `State`.
pub fn state_member(py: Python<'_>, state: State) -> PyResult<Py<PyAny>> {
    static MEMBERS: PyOnceLock<Vec<Py<PyAny>>> = PyOnceLock::new();
    let members = MEMBERS.get_or_try_init(py, || {
        let class = py.import("agirails.types")?.getattr("State")?;
        State::ALL.iter().map(|state| Ok(class.getattr(state.name())?.unbind())).collect()
    });
    members.map(|members: &Vec<_>| members[state as usize].clone_ref(py))
}

/// An `Address`: checksummed, equal in any case.
pub fn address_object(py: Python<'_>, address: Address) -> PyResult<Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "agirails.types", "Address")?.call1((address.to_checksum(None),))
}
