//! The client: one address, one network.

use agirails::{ACTPClient as Core, ClientBuilder, Code, Mode, PrivateKey};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyDict, PyString},
};

use crate::{
    convert::{self, Any, Given, Maybe, optional},
    errors::OrRaise,
    kernel::Kernel,
    mock::Mock,
    network::Network,
    proof::ProofGenerator,
    registry::Registry,
    run::{Effect, Style, run, run_sync},
};

/// A participant's client: it acts for one address on one network, and blocks.
///
/// It may be used from many threads, and after a fork in parent and children.
///
/// Args:
///     mode: "mock", the protocol on this machine, with test money and no network; "testnet" and
///         "mainnet" come with a later version.
///     requester_address: the address it acts for; the private key's own where None.
///     private_key: 64 hex digits. In mode mock only signed proofs need one. It is never shown.
///     state_directory: where `.actp/` with the state lies; ACTP_STATE_DIR or else the working
///         directory where None. Clients and processes with the same one see the same state.
///     in_memory: keep the state in memory, for this client alone.
///     starting_balance: what an address owns the first time it is seen, base units of USDC;
///         1_000 USDC where None. A state file keeps the amount it was made with.
///
/// Raises:
///     ValidationError: neither address nor key is given, or they disagree (code key_mismatch).
///     NetworkError: this version cannot reach that network (code network_unavailable).
///     StorageError: the state directory cannot be used; the message names it.
///
/// Example:
///     >>> client = ACTPClient(mode="mock", requester_address="0x" + "c0" * 20)
///     >>> client.advanced.get_balance()
///     1000000000
#[pyclass(frozen, module = "agirails._agirails")]
pub struct ACTPClient {
    core: Core,
    mode: Mode,
    kernel: Py<Kernel>,
    registry: Option<Py<Registry>>,
    mock: Option<Py<Mock>>,
}

impl ACTPClient {
    fn wrap(py: Python<'_>, core: Core, mode: Mode, style: Style) -> PyResult<Self> {
        let kernel = Py::new(py, Kernel::new(core.clone(), style))?;
        let registry = core.registry().map(|registry| Py::new(py, Registry::new(registry, style)));
        let mock = core.mock().map(|mock| Py::new(py, Mock::new(mock.clone(), style)));
        Ok(Self { mode, kernel, registry: registry.transpose()?, mock: mock.transpose()?, core })
    }
}

#[pymethods]
impl ACTPClient {
    #[new]
    #[pyo3(
        signature = (mode=Given::LEFT_OUT, requester_address=None, private_key=None, *, state_directory=None,
            in_memory=Given::LEFT_OUT, starting_balance=None),
        text_signature = "(mode='mock', requester_address=None, private_key=None, *, \
            state_directory=None, in_memory=False, starting_balance=None)"
    )]
    fn new(
        py: Python<'_>,
        mode: Given<'_, '_>,
        requester_address: Maybe<'_, '_>,
        private_key: Maybe<'_, '_>,
        state_directory: Maybe<'_, '_>,
        in_memory: Given<'_, '_>,
        starting_balance: Maybe<'_, '_>,
    ) -> PyResult<Self> {
        let (mode, builder) = settings(
            mode.get(),
            requester_address,
            private_key,
            state_directory,
            in_memory.get(),
            starting_balance,
        )?;
        let core = run_sync(py, Effect::Reads, builder.connect())?;
        Self::wrap(py, core, mode, Style::Sync)
    }

    /// Makes the awaitable client, with the same arguments: `await ACTPClient.create(...)`.
    ///
    /// Returns:
    ///     A coroutine that returns an AsyncACTPClient.
    ///
    /// Example:
    ///     >>> client = await ACTPClient.create(mode="mock", requester_address="0x" + "c0" * 20)
    #[staticmethod]
    #[pyo3(
        signature = (mode=Given::LEFT_OUT, requester_address=None, private_key=None, *, state_directory=None,
            in_memory=Given::LEFT_OUT, starting_balance=None),
        text_signature = "(mode='mock', requester_address=None, private_key=None, *, \
            state_directory=None, in_memory=False, starting_balance=None)"
    )]
    fn create<'py>(
        py: Python<'py>,
        mode: Given<'_, 'py>,
        requester_address: Maybe<'_, 'py>,
        private_key: Maybe<'_, 'py>,
        state_directory: Maybe<'_, 'py>,
        in_memory: Given<'_, 'py>,
        starting_balance: Maybe<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let settings = PyDict::new(py);
        for (name, value) in [
            ("mode", mode.get()),
            ("requester_address", requester_address),
            ("private_key", private_key),
            ("state_directory", state_directory),
            ("in_memory", in_memory.get()),
            ("starting_balance", starting_balance),
        ] {
            if let Some(value) = value {
                settings.set_item(name, value)?;
            }
        }
        py.import("agirails.aio")?.getattr("AsyncACTPClient")?.call_method(
            "create",
            (),
            Some(&settings),
        )
    }

    /// The address this client acts for, checksummed.
    #[getter]
    fn address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::address_object(py, self.core.address())
    }

    /// "mock", "testnet" or "mainnet".
    #[getter]
    fn mode(&self) -> &'static str {
        self.mode.as_str()
    }

    /// The network's chain id (EIP-155); 31337 for mock.
    #[getter]
    fn chain_id(&self) -> u64 {
        self.core.network().chain_id
    }

    /// The network's name, chain id and contracts.
    #[getter]
    fn network(&self) -> Network {
        Network::from(self.core.network())
    }

    /// The protocol's verbs; the documentation calls them the advanced API.
    #[getter]
    fn advanced(&self, py: Python<'_>) -> Py<Kernel> {
        self.kernel.clone_ref(py)
    }

    /// The same object as `advanced`.
    #[getter]
    fn kernel(&self, py: Python<'_>) -> Py<Kernel> {
        self.kernel.clone_ref(py)
    }

    /// The agent registry; None where the network has none.
    #[getter]
    fn registry(&self, py: Python<'_>) -> Option<Py<Registry>> {
        self.registry.as_ref().map(|registry| registry.clone_ref(py))
    }

    /// What only mode mock can do; None on a chain.
    #[getter]
    fn mock(&self, py: Python<'_>) -> Option<Py<Mock>> {
        self.mock.as_ref().map(|mock| mock.clone_ref(py))
    }

    /// Makes and checks delivery proofs.
    #[getter]
    fn proof_generator(&self) -> ProofGenerator {
        ProofGenerator
    }

    fn __repr__(&self) -> String {
        format!("<ACTPClient {} {}>", self.mode.as_str(), self.core.address())
    }
}

/// An ACTPClient whose verbs are awaitable; agirails.aio puts coroutine functions in front.
#[pyfunction]
pub fn _connect<'py>(
    py: Python<'py>,
    mode: Any<'_, 'py>,
    requester_address: Maybe<'_, 'py>,
    private_key: Maybe<'_, 'py>,
    state_directory: Maybe<'_, 'py>,
    in_memory: Any<'_, 'py>,
    starting_balance: Maybe<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let (mode, builder) = settings(
        Some(mode),
        requester_address,
        private_key,
        state_directory,
        Some(in_memory),
        starting_balance,
    )?;
    let call = async move { Ok((builder.connect().await?, mode)) };
    run(py, Style::Async, Effect::Reads, call, |py, (core, mode)| {
        ACTPClient::wrap(py, core, mode, Style::Async)?.into_py_any(py)
    })
}

fn settings(
    mode: Maybe<'_, '_>,
    requester_address: Maybe<'_, '_>,
    private_key: Maybe<'_, '_>,
    state_directory: Maybe<'_, '_>,
    in_memory: Maybe<'_, '_>,
    starting_balance: Maybe<'_, '_>,
) -> PyResult<(Mode, ClientBuilder)> {
    let mode = optional(mode, |value| {
        convert::text(Code::InvalidSettings, "mode", value)?.parse::<Mode>().or_raise(value.py())
    })?
    .unwrap_or_default();
    let mut builder = Core::builder().mode(mode);
    if let Some(value) = requester_address {
        builder = builder.address(convert::address("requester_address", value)?);
    }
    if let Some(value) = private_key {
        builder = builder.private_key(key(value)?);
    }
    if let Some(value) = state_directory {
        let directory = value.extract::<std::path::PathBuf>().map_err(|_| {
            let shown = format!("<{}>", convert::type_name(value));
            let (code, field) = (Code::InvalidSettings, "state_directory");
            convert::refuse(value.py(), code, field, &shown, "is no path", "pass a str or a Path")
        })?;
        builder = builder.state_directory(directory);
    }
    if optional(in_memory, |value| convert::flag("in_memory", value))?.unwrap_or(false) {
        builder = builder.in_memory();
    }
    if let Some(value) = starting_balance {
        builder = builder.starting_balance(convert::amount(
            "starting_balance",
            value,
            Code::InvalidAmount,
        )?);
    }
    Ok((mode, builder))
}

/// A private key. No message about it shows anything but its type.
fn key(value: Any<'_, '_>) -> PyResult<PrivateKey> {
    let text = value.cast::<PyString>().ok().and_then(|text| text.to_str().ok());
    let Some(text) = text else {
        let shown = format!("<{}>", convert::type_name(value));
        let hint = "a private key is a str of 64 hex digits, with or without 0x";
        let (code, field) = (Code::InvalidPrivateKey, "private_key");
        return Err(convert::refuse(value.py(), code, field, &shown, "is no private key", hint));
    };
    text.parse().or_raise(value.py())
}
