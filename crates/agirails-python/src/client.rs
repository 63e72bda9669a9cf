//! The client: one address, one network.

use std::ffi::CString;

use agirails::{
    ACTPClient as Core, ClientBuilder, Code, Contracts, Error, Generation, Mode, NetworkProfile,
    Password, PrivateKey,
};
use pyo3::{
    IntoPyObjectExt,
    exceptions::PyTypeError,
    prelude::*,
    types::{PyDict, PyList, PyString, PyTuple},
};

use crate::{
    convert::{self, Any, Given, Maybe, optional},
    disputes::Disputes,
    errors::OrRaise,
    json,
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
///     mode: "mock", the protocol on this machine, with test money and no network; "testnet", Base
///         Sepolia, or the network of the profile that AGIRAILS_NETWORK names; "mainnet", Base.
///     requester_address: the address it acts for; the key's own where None. On a chain, a client
///         without key only reads.
///     private_key: 64 hex digits. It is never shown. In mode mock only signed deliveries need
///         one; testnet warns of it (RawPrivateKeyWarning), mainnet refuses it.
///     state_directory: where `.actp/` with the state lies; ACTP_STATE_DIR or else the working
///         directory where None. Clients and processes with the same one see the same state.
///     in_memory: keep the state, or on a chain the journal of what was sent, in memory, for this
///         client alone: another one cannot pay it. `agirails.testing.mock_ledger` is for tests of
///         several.
///     starting_balance: mode mock: what an address owns the first time it is seen, base units of
///         USDC; 1_000 USDC where None. A state file keeps the amount it was made with.
///     generation: mode mock: which generation of the kernel is played: "2026-05", that of mainnet,
///         "f6" or "aip14c"; "2026-05" where None. A state file keeps the one it was made with.
///     rpc_url: where the chain is reached, or a list of such URLs, the preferred one first; the
///         network's public ones where None.
///     contracts: the contracts' addresses by the names of a profile: actpKernel, escrowVault,
///         usdc, and agentRegistry, archiveTreasury, eas, multicall, bondEscalation where there are
///         such.
///     network: a network's profile in place of the mode's: its name ("base-sepolia",
///         "base-sepolia-f6" or "base-sepolia-aip14c"), the path of its JSON file, or a dict.
///     keystore: path of an encrypted keystore (Web3 Secret Storage, version 3), whose key signs.
///         It is opened in about a second.
///     keystore_password: its password. It is never shown.
///     confirmations: on a chain, how many blocks a transaction must lie under to count as done.
///     wait_timeout: on a chain, how many seconds a call waits for its transaction.
///     max_fee_per_gas: on a chain, the most to pay for a unit of gas, in wei; above it nothing is
///         sent. 50 gwei where None.
///     max_priority_fee_per_gas: on a chain, the most of it to pay to whoever includes a
///         transaction, in wei, whatever a node says that others pay. Where None, 0.1 gwei on Base
///         and Base Sepolia, 2 gwei elsewhere.
///     agree: on a chain, how many RPC endpoints, each on a host of its own, must say the same about
///         a transaction before it is served, and before what was served is given back or given up.
///         Where None, the profile's; else 2 on mainnet if rpc_url names two hosts or more, else 1.
///
/// Where neither key nor keystore is passed, a client of a chain takes ACTP_PRIVATE_KEY, else
/// ACTP_KEYSTORE_BASE64 with ACTP_KEY_PASSWORD, else `.actp/keystore.json` of the state directory
/// with ACTP_KEY_PASSWORD; a client in mode mock does so only where it has no requester_address.
///
/// Raises:
///     ValidationError: neither address nor key is there, or they disagree (code key_mismatch);
///         settings contradict each other or the mode (invalid_settings); mainnet and a key in
///         the clear (key_not_allowed); no keystore (invalid_keystore), or one that the password
///         does not open (wrong_password).
///     NetworkError: the chain cannot be reached, or is not what the profile says; `code` tells.
///     StorageError: the state directory cannot be used; the message names it.
///
/// Warns:
///     RawPrivateKeyWarning: the key lies in the clear.
///     NetworkWarning: the kernel is paused, or does not approve the vault.
///
/// Example:
///     >>> client = ACTPClient(mode="mock", requester_address="0x" + "c0" * 20)
///     >>> client.advanced.get_balance()
///     1000000000
///
/// Source: AIP-13.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct ACTPClient {
    core: Core,
    mode: Mode,
    kernel: Py<Kernel>,
    registry: Option<Py<Registry>>,
    disputes: Py<Disputes>,
    mock: Option<Py<Mock>>,
}

impl ACTPClient {
    /// The client of the core.
    pub fn core(&self) -> &Core {
        &self.core
    }

    fn wrap(py: Python<'_>, core: Core, mode: Mode, style: Style) -> PyResult<Self> {
        let kernel = Py::new(py, Kernel::new(core.clone(), style))?;
        let registry = core.registry().map(|registry| Py::new(py, Registry::new(registry, style)));
        let disputes = Py::new(py, Disputes::new(core.clone(), style))?;
        let mock = core.mock().map(|mock| Py::new(py, Mock::new(mock.clone(), style)));
        let (registry, mock) = (registry.transpose()?, mock.transpose()?);
        Ok(Self { mode, kernel, registry, disputes, mock, core })
    }
}

#[pymethods]
impl ACTPClient {
    #[new]
    #[pyo3(
        signature = (mode=Given::LEFT_OUT, requester_address=None, private_key=None, **settings),
        text_signature = "(mode='mock', requester_address=None, private_key=None, *, \
            state_directory=None, in_memory=False, starting_balance=None, generation=None, rpc_url=None, \
            contracts=None, network=None, keystore=None, keystore_password=None, \
            confirmations=None, wait_timeout=None, max_fee_per_gas=None, \
            max_priority_fee_per_gas=None, agree=None)"
    )]
    fn new(
        py: Python<'_>,
        mode: Given<'_, '_>,
        requester_address: Maybe<'_, '_>,
        private_key: Maybe<'_, '_>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let given = all(py, mode, requester_address, private_key, settings)?;
        let (mode, builder) = read(&given)?;
        let core = run_sync(py, Effect::Reads, builder.connect())?;
        warn(py, &core)?;
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
        signature = (mode=Given::LEFT_OUT, requester_address=None, private_key=None, **settings),
        text_signature = "(mode='mock', requester_address=None, private_key=None, *, \
            state_directory=None, in_memory=False, starting_balance=None, generation=None, rpc_url=None, \
            contracts=None, network=None, keystore=None, keystore_password=None, \
            confirmations=None, wait_timeout=None, max_fee_per_gas=None, \
            max_priority_fee_per_gas=None, agree=None)"
    )]
    fn create<'py>(
        py: Python<'py>,
        mode: Given<'_, 'py>,
        requester_address: Maybe<'_, 'py>,
        private_key: Maybe<'_, 'py>,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let given = all(py, mode, requester_address, private_key, settings)?;
        py.import("agirails.aio")?.getattr("AsyncACTPClient")?.call_method(
            "create",
            (),
            Some(&given),
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

    /// Disputes that bonds decide, where the kernel is of AIP-14c and the network has the contract.
    #[getter]
    fn disputes(&self, py: Python<'_>) -> Py<Disputes> {
        self.disputes.clone_ref(py)
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
pub fn _connect(py: Python<'_>, settings: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
    let (mode, builder) = read(settings)?;
    let call = async move { Ok((builder.connect().await?, mode)) };
    run(py, Style::Async, Effect::Reads, call, |py, (core, mode)| {
        warn(py, &core)?;
        ACTPClient::wrap(py, core, mode, Style::Async)?.into_py_any(py)
    })
}

/// The settings that go by keyword only.
const KEYWORDS: [&str; 14] = [
    "state_directory",
    "in_memory",
    "starting_balance",
    "generation",
    "rpc_url",
    "contracts",
    "network",
    "keystore",
    "keystore_password",
    "confirmations",
    "wait_timeout",
    "max_fee_per_gas",
    "max_priority_fee_per_gas",
    "agree",
];

/// All settings that were passed, by name.
fn all<'py>(
    py: Python<'py>,
    mode: Given<'_, 'py>,
    requester_address: Maybe<'_, 'py>,
    private_key: Maybe<'_, 'py>,
    settings: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyDict>> {
    let given = settings.map_or_else(|| Ok(PyDict::new(py)), |settings| settings.copy())?;
    for name in given.keys() {
        if !KEYWORDS.iter().any(|known| name.eq(known).unwrap_or(false)) {
            let message =
                format!("ACTPClient() got an unexpected keyword argument {}", name.repr()?);
            return Err(PyTypeError::new_err(message));
        }
    }
    for (name, value) in [
        ("mode", mode.get()),
        ("requester_address", requester_address),
        ("private_key", private_key),
    ] {
        if let Some(value) = value {
            given.set_item(name, value)?;
        }
    }
    Ok(given)
}

/// What the owner of a client should know is worth a warning of Python's own, which comes once for
/// each place in a program, and can be filtered or made an error like any other.
fn warn(py: Python<'_>, core: &Core) -> PyResult<()> {
    let errors = py.import("agirails.errors")?;
    for (class, warnings) in
        [("RawPrivateKeyWarning", core.warnings()), ("NetworkWarning", core.network_warnings())]
    {
        for warning in warnings {
            PyErr::warn(py, &errors.getattr(class)?, &CString::new(warning.as_str())?, 1)?;
        }
    }
    Ok(())
}

fn read(given: &Bound<'_, PyDict>) -> PyResult<(Mode, ClientBuilder)> {
    let py = given.py();
    let get = |name: &str| given.get_item(name);
    // None is a value like any other for a setting that has a default of its own.
    let maybe = |name: &str| Ok::<_, PyErr>(get(name)?.filter(|value| !value.is_none()));
    let mode = optional(get("mode")?.as_ref(), |value| {
        convert::text(Code::InvalidSettings, "mode", value)?.parse::<Mode>().or_raise(py)
    })?
    .unwrap_or_default();
    let mut builder = Core::builder().mode(mode);
    if let Some(value) = maybe("requester_address")? {
        builder = builder.address(convert::address("requester_address", &value)?);
    }
    if let Some(value) = maybe("private_key")? {
        builder = builder.private_key(key(&value)?);
    }
    builder = match (maybe("keystore")?, maybe("keystore_password")?) {
        (None, None) => builder,
        (Some(path), Some(password)) => builder
            .keystore(convert::path("keystore", &path)?, secret("keystore_password", &password)?),
        (path, _) => {
            let field = if path.is_some() { "keystore_password" } else { "keystore" };
            let hint = "pass keystore and keystore_password together";
            let problem = "is missing beside the other";
            return Err(convert::refuse(py, Code::InvalidSettings, field, "None", problem, hint));
        }
    };
    if let Some(value) = maybe("state_directory")? {
        builder = builder.state_directory(convert::path("state_directory", &value)?);
    }
    let in_memory = get("in_memory")?;
    if optional(in_memory.as_ref(), |value| convert::flag("in_memory", value))?.unwrap_or(false) {
        builder = builder.in_memory();
    }
    if let Some(value) = maybe("starting_balance")? {
        builder = builder.starting_balance(convert::amount(
            "starting_balance",
            &value,
            Code::InvalidAmount,
        )?);
    }
    if let Some(value) = maybe("generation")? {
        let name = convert::text(Code::InvalidSettings, "generation", &value)?;
        builder = builder.generation(name.parse::<Generation>().map_err(Error::from).or_raise(py)?);
    }
    if let Some(value) = maybe("network")? {
        builder = builder.network_profile(profile(&value)?);
    }
    if let Some(value) = maybe("contracts")? {
        let contracts = json::from_python("contracts", &value)?;
        builder = builder.contracts(Contracts::from_json(&contracts).or_raise(py)?);
    }
    if let Some(value) = maybe("rpc_url")? {
        for url in urls(&value)? {
            builder = builder.rpc_url(url);
        }
    }
    if let Some(value) = maybe("confirmations")? {
        let blocks = convert::number("confirmations", &value, Code::InvalidNumber)?;
        builder = builder.confirmations(blocks);
    }
    if let Some(value) = maybe("wait_timeout")? {
        builder = builder.wait_timeout(convert::seconds("wait_timeout", &value)?);
    }
    if let Some(value) = maybe("max_fee_per_gas")? {
        let wei: u64 = convert::number("max_fee_per_gas", &value, Code::InvalidNumber)?;
        builder = builder.max_fee_per_gas(wei.into());
    }
    if let Some(value) = maybe("max_priority_fee_per_gas")? {
        let wei: u64 = convert::number("max_priority_fee_per_gas", &value, Code::InvalidNumber)?;
        builder = builder.max_priority_fee_per_gas(wei.into());
    }
    if let Some(value) = maybe("agree")? {
        let endpoints = convert::number("agree", &value, Code::InvalidNumber)?;
        // More than there are, whichever of them it is.
        builder = builder.agree(u32::try_from(endpoints).unwrap_or(u32::MAX));
    }
    Ok((mode, builder))
}

/// A profile: its name, a file's path, or what would stand in the file.
fn profile(value: Any<'_, '_>) -> PyResult<NetworkProfile> {
    match value.is_instance_of::<PyDict>() {
        true => {
            let json = json::from_python("network", value)?;
            NetworkProfile::from_json(&json.to_string()).or_raise(value.py())
        }
        false => NetworkProfile::find(convert::path("network", value)?).or_raise(value.py()),
    }
}

/// One URL or several. No message shows one: many carry an access token.
fn urls(value: Any<'_, '_>) -> PyResult<Vec<String>> {
    let several = value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>();
    let urls =
        if several { value.extract().ok() } else { value.extract().ok().map(|url| vec![url]) };
    urls.filter(|urls: &Vec<String>| !urls.is_empty()).ok_or_else(|| {
        let shown = format!("<{}>", convert::type_name(value));
        let hint = "pass a URL as str, or a list of them";
        convert::refuse(value.py(), Code::InvalidSettings, "rpc_url", &shown, "must be a URL", hint)
    })
}

/// A password. No message about it shows anything but its type.
fn secret(field: &'static str, value: Any<'_, '_>) -> PyResult<Password> {
    let text = value.cast::<PyString>().ok().and_then(|text| text.to_str().ok());
    text.map(Password::from).ok_or_else(|| {
        let shown = format!("<{}>", convert::type_name(value));
        let (code, hint) = (Code::InvalidSettings, "pass the password as str");
        convert::refuse(value.py(), code, field, &shown, "must be a password", hint)
    })
}

/// A private key. No message about it shows anything but its type.
pub fn key(value: Any<'_, '_>) -> PyResult<PrivateKey> {
    let text = value.cast::<PyString>().ok().and_then(|text| text.to_str().ok());
    let Some(text) = text else {
        let shown = format!("<{}>", convert::type_name(value));
        let hint = "a private key is a str of 64 hex digits, with or without 0x";
        let (code, field) = (Code::InvalidPrivateKey, "private_key");
        return Err(convert::refuse(
            value.py(),
            code,
            field,
            &shown,
            "must be a private key",
            hint,
        ));
    };
    text.parse().or_raise(value.py())
}
