//! What only the protocol on this machine can do.

use std::sync::Arc;

use agirails::{Code, kernel::embedded::EmbeddedKernel};
use pyo3::prelude::*;

use crate::{
    convert::{self, Any},
    run::{Effect::Moves, Style, run},
};

/// What only mode mock can do: advance the clock, make test money, pause the protocol.
///
/// It acts on the whole state file, so on every client and process that shares it.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct Mock {
    kernel: Arc<EmbeddedKernel>,
    style: Style,
}

type Answer = PyResult<Py<PyAny>>;

impl Mock {
    pub fn new(kernel: Arc<EmbeddedKernel>, style: Style) -> Self {
        Self { kernel, style }
    }

    fn set_paused(&self, py: Python<'_>, paused: bool) -> Answer {
        let kernel = self.kernel.clone();
        let call = async move { kernel.set_paused(paused).await };
        run(py, self.style, Moves, call, convert::nothing)
    }
}

#[pymethods]
impl Mock {
    /// Moves the kernel's clock ahead.
    ///
    /// Args:
    ///     seconds: how far; a hundred years in all.
    ///
    /// Returns:
    ///     The new time, Unix seconds.
    ///
    /// Raises:
    ///     ValidationError: `seconds` is negative or too great.
    ///
    /// Example:
    ///     >>> client.mock.advance_time(3_600)
    fn advance_time(&self, py: Python<'_>, seconds: Any<'_, '_>) -> Answer {
        let seconds = convert::number("seconds", seconds, Code::InvalidNumber)?;
        let kernel = self.kernel.clone();
        let call = async move { kernel.advance_time(seconds).await };
        run(py, self.style, Moves, call, convert::plain)
    }

    /// Makes test USDC out of nothing.
    ///
    /// Args:
    ///     address: whose it becomes.
    ///     amount: base units of USDC.
    ///
    /// Raises:
    ///     ValidationError: the file cannot hold that much.
    ///
    /// Example:
    ///     >>> client.mock.mint(client.address, 5_000_000)
    fn mint(&self, py: Python<'_>, address: Any<'_, '_>, amount: Any<'_, '_>) -> Answer {
        let address = convert::address("address", address)?;
        let amount = convert::amount("amount", amount, Code::InvalidAmount)?;
        let kernel = self.kernel.clone();
        let call = async move { kernel.mint(address, amount).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Pauses the protocol, as its operators can: calls then raise ContractPausedError.
    ///
    /// Example:
    ///     >>> client.mock.pause()
    fn pause(&self, py: Python<'_>) -> Answer {
        self.set_paused(py, true)
    }

    /// Resumes the protocol.
    ///
    /// Example:
    ///     >>> client.mock.unpause()
    fn unpause(&self, py: Python<'_>) -> Answer {
        self.set_paused(py, false)
    }

    /// Approves a mediator, who can be paid from two days later on.
    ///
    /// Args:
    ///     address: the mediator's.
    ///
    /// Example:
    ///     >>> client.mock.approve_mediator(mediator)
    ///
    /// Source: `ACTPKernel.approveMediator`.
    fn approve_mediator(&self, py: Python<'_>, address: Any<'_, '_>) -> Answer {
        let mediator = convert::address("address", address)?;
        let kernel = self.kernel.clone();
        let call = async move { kernel.approve_mediator(mediator).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// The state file's path; None where the state is in memory.
    #[getter]
    fn file(&self) -> Option<String> {
        self.kernel.file().map(|path| path.to_string_lossy().into_owned())
    }

    fn __repr__(&self) -> String {
        format!("<Mock {}>", self.file().as_deref().unwrap_or("in memory"))
    }
}
