//! A local chain; `agirails.devnet` puts its context managers in front.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agirails::{Code, Error, Generation, Result};
use agirails_devnet as core;
use pyo3::{IntoPyObjectExt, prelude::*};

use crate::{
    convert::{self, Any, Given, Maybe, optional},
    errors::OrRaise,
    json,
    run::{
        Effect::{Moves, Reads},
        Style, run,
    },
};

type Answer = PyResult<Py<PyAny>>;

/// A local chain with the protocol's contracts on it. Use agirails.testing.Devnet.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct Devnet {
    /// None once it was closed. Calls that are under way share it to their end.
    chain: Mutex<Option<Arc<core::Devnet>>>,
    style: Style,
}

/// Starts a devnet that blocks, or one whose methods are awaitable.
#[pyfunction]
pub fn _start_devnet(
    py: Python<'_>,
    awaitable: bool,
    anvil: Maybe<'_, '_>,
    port: Maybe<'_, '_>,
    block_time: Maybe<'_, '_>,
    generation: Maybe<'_, '_>,
    recovery_grace: Maybe<'_, '_>,
) -> Answer {
    let mut builder = core::Devnet::builder();
    if let Some(value) = anvil {
        builder = builder.anvil(convert::path("anvil", value)?);
    }
    if let Some(value) = port {
        let hint = "pass a port from 0 to 65535; 0 is any free one";
        let port = convert::count("port", value)?;
        builder = builder
            .port(port.try_into().map_err(|_| wrong("port", value, "must be a port", hint))?);
    }
    if let Some(value) = block_time {
        let seconds = value.extract::<f64>().ok().filter(|seconds| *seconds > 0.0);
        let interval = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        builder = builder.block_time(interval.ok_or_else(|| {
            let hint = "pass seconds above 0; Base has a block every 2";
            wrong("block_time", value, "must be an interval", hint)
        })?);
    }
    if let Some(value) = generation {
        let name = convert::text(Code::InvalidSettings, "generation", value)?;
        let generation = name.parse::<Generation>().map_err(Error::from).or_raise(py)?;
        builder = builder.generation(generation);
    }
    if let Some(value) = recovery_grace {
        builder = builder.recovery_grace(convert::count("recovery_grace", value)?.into());
    }
    let start = builder.start();
    if awaitable {
        run(py, Style::Async, Reads, start, |py, chain| opened(py, chain, Style::Async))
    } else {
        run(py, Style::Sync, Reads, start, |py, chain| opened(py, chain, Style::Sync))
    }
}

fn opened(py: Python<'_>, chain: core::Devnet, style: Style) -> Answer {
    Devnet { chain: Mutex::new(Some(Arc::new(chain))), style }.into_py_any(py)
}

fn wrong(field: &'static str, value: Any<'_, '_>, problem: &str, hint: &str) -> PyErr {
    let shown = convert::shown(value);
    convert::refuse(value.py(), Code::InvalidSettings, field, &shown, problem, hint)
}

impl Devnet {
    fn chain(&self) -> Result<Arc<core::Devnet>> {
        let chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        chain.clone().ok_or_else(|| {
            Error::new(Code::DevnetUnavailable, "the devnet was closed")
                .with_hint("use it inside its `with` block, or start another one")
        })
    }
}

#[pymethods]
impl Devnet {
    #[getter]
    fn rpc_url(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.chain().or_raise(py)?.rpc_url().to_owned())
    }

    #[getter]
    fn ws_url(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.chain().or_raise(py)?.ws_url())
    }

    #[getter]
    fn chain_id(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.chain().or_raise(py)?.chain_id())
    }

    #[getter]
    fn profile<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let profile = serde_json::to_value(self.chain().or_raise(py)?.profile());
        json::to_python(py, &profile.unwrap_or_default())
    }

    /// The accounts, each as address and private key.
    #[getter]
    fn accounts<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyAny>, String)>> {
        let chain = self.chain().or_raise(py)?;
        chain.accounts().iter().map(|account| pair(py, account)).collect()
    }

    /// The admin, as address and private key.
    #[getter]
    fn admin<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, String)> {
        pair(py, self.chain().or_raise(py)?.admin())
    }

    fn write_profile(&self, py: Python<'_>, path: Any<'_, '_>) -> PyResult<()> {
        let path = convert::path("path", path)?;
        let chain = self.chain().or_raise(py)?;
        py.detach(|| chain.write_profile(path)).or_raise(py)
    }

    fn mint(&self, py: Python<'_>, address: Any<'_, '_>, amount: Any<'_, '_>) -> Answer {
        let address = convert::address("address", address)?;
        let amount = convert::amount("amount", amount, Code::InvalidAmount)?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.mint(address, amount).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    fn set_eth(&self, py: Python<'_>, address: Any<'_, '_>, wei: Any<'_, '_>) -> Answer {
        let address = convert::address("address", address)?;
        let wei = convert::uint256("wei", wei, "pass wei as an int: 10**18 is 1 ETH")?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.set_eth(address, wei).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    fn pause(&self, py: Python<'_>) -> Answer {
        let chain = self.chain().or_raise(py)?;
        run(py, self.style, Moves, async move { chain.pause().await }, convert::nothing)
    }

    fn unpause(&self, py: Python<'_>) -> Answer {
        let chain = self.chain().or_raise(py)?;
        run(py, self.style, Moves, async move { chain.unpause().await }, convert::nothing)
    }

    fn approve_mediator(&self, py: Python<'_>, address: Any<'_, '_>) -> Answer {
        let mediator = convert::address("address", address)?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.approve_mediator(mediator).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    fn now(&self, py: Python<'_>) -> Answer {
        let chain = self.chain().or_raise(py)?;
        run(py, self.style, Reads, async move { chain.now().await }, convert::plain)
    }

    fn advance_time(&self, py: Python<'_>, seconds: Any<'_, '_>) -> Answer {
        let seconds = convert::number("seconds", seconds, Code::InvalidNumber)?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.advance_time(seconds).await };
        run(py, self.style, Moves, call, convert::plain)
    }

    fn set_next_time(&self, py: Python<'_>, time: Any<'_, '_>) -> Answer {
        let time = convert::number("time", time, Code::InvalidNumber)?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.set_next_time(time).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    #[pyo3(signature = (blocks=Given::LEFT_OUT), text_signature = "($self, blocks=1)")]
    fn mine(&self, py: Python<'_>, blocks: Given<'_, '_>) -> Answer {
        let blocks = count("blocks", &blocks)?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.mine(blocks).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    fn set_automine(&self, py: Python<'_>, automatic: Any<'_, '_>) -> Answer {
        let automatic = convert::flag("automatic", automatic)?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.set_automine(automatic).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    fn snapshot(&self, py: Python<'_>) -> Answer {
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.snapshot().await };
        run(py, self.style, Moves, call, |py, snapshot| {
            Snapshot(Mutex::new(Some(snapshot))).into_py_any(py)
        })
    }

    fn revert(&self, py: Python<'_>, snapshot: Any<'_, '_>) -> Answer {
        let Ok(snapshot) = snapshot.cast::<Snapshot>() else {
            let hint = "pass what snapshot() returned";
            return Err(wrong("snapshot", snapshot, "must be a snapshot", hint));
        };
        let taken = snapshot.get().0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let snapshot = taken.ok_or_else(|| {
            Error::new(Code::RequestRefused, "the chain was reverted to this snapshot before")
                .with_hint("a snapshot is reverted to once: take another one")
        });
        let (snapshot, chain) = (snapshot.or_raise(py)?, self.chain().or_raise(py)?);
        let call = async move { chain.revert(snapshot).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    #[pyo3(signature = (depth=Given::LEFT_OUT), text_signature = "($self, depth=1)")]
    fn reorganise(&self, py: Python<'_>, depth: Given<'_, '_>) -> Answer {
        let depth = count("depth", &depth)?;
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.reorganise(depth).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    #[pyo3(signature = (method, params=None), text_signature = "($self, method, params=())")]
    fn rpc(&self, py: Python<'_>, method: Any<'_, '_>, params: Maybe<'_, '_>) -> Answer {
        let method = convert::text(Code::InvalidSettings, "method", method)?.to_owned();
        let params = optional(params, |params| json::from_python("params", params))?
            .unwrap_or_else(|| serde_json::Value::Array(vec![]));
        let chain = self.chain().or_raise(py)?;
        let call = async move { chain.rpc(&method, params).await };
        run(py, self.style, Moves, call, |py, answer| Ok(json::to_python(py, &answer)?.unbind()))
    }

    /// Ends it, unless it was ended. Waits for the process, which is killed.
    fn close(&self, py: Python<'_>) {
        let chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(chain));
    }

    fn __repr__(&self) -> String {
        match self.chain() {
            Ok(chain) => format!("<Devnet {}>", chain.rpc_url()),
            Err(_) => "<Devnet closed>".to_owned(),
        }
    }
}

/// A moment that a devnet can return to, once.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct Snapshot(Mutex<Option<core::Snapshot>>);

fn pair<'py>(py: Python<'py>, account: &core::Account) -> PyResult<(Bound<'py, PyAny>, String)> {
    Ok((convert::address_object(py, account.address)?, account.secret().to_owned()))
}

fn count(field: &'static str, value: &Given<'_, '_>) -> PyResult<u64> {
    let count = optional(value.get(), |value| convert::number(field, value, Code::InvalidNumber));
    Ok(count?.unwrap_or(1))
}
