//! The command line: the crate `agirails-cli`, started by `python -m agirails`.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line with these arguments, those behind the program's name; returns the exit
/// status. It takes Ctrl-C over.
#[pyfunction]
pub fn _main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| agirails_cli::run(arguments))
}
