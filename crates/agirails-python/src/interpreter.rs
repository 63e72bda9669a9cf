//! One interpreter of a process.

use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::{exceptions::PyImportError, ffi, prelude::*};

/// The interpreter that imported this module first, whose classes it keeps: in another one an
/// exception would be none of `agirails.ACTPError`.
static FIRST: AtomicI64 = AtomicI64::new(-1);

/// Refuses all interpreters but the first.
pub fn only_one(_: Python<'_>) -> PyResult<()> {
    // SAFETY: the token shows that this thread is attached to an interpreter.
    let own = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    match FIRST.compare_exchange(-1, own, Ordering::Relaxed, Ordering::Relaxed) {
        Err(first) if first != own => {
            Err(PyImportError::new_err("another interpreter of this process has imported agirails"))
        }
        _ => Ok(()),
    }
}
