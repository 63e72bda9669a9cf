//! The testkit's scenarios, played through the Python package: every call of a scenario goes out as
//! the Python call of the same name, made by the sender's own client, and what comes back is read
//! from Python's objects and exceptions. A released wheel has none of this (feature `testkit`).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use agirails::{
    Code, CreateTransaction, DisputeWindow, Error, EventRecord, Generation, LinkEscrow, Network,
    Refusal, Result, State, Terms, Transaction, TransactionId, Usdc,
    kernel::{
        AgentQuery, AgentRegistry, Escrow, GasCost, Kernel, Role, TransactionQuery, Transition,
    },
    protocol::{
        proof::{DeliveryProof, ENCODED_PROOF_LENGTH},
        registry::{AgentProfile, ServiceDescriptor},
    },
    testkit::{Need, SCENARIOS, Stage},
};
use alloy_primitives::{Address, B256, U256, keccak256};
use async_trait::async_trait;
use pyo3::{
    exceptions::{PyAssertionError, PyLookupError},
    prelude::*,
    types::{PyBytes, PyDict, PyTuple},
};

use crate::{
    convert::{self, Any},
    errors::{self, OrRaise},
    json,
    proof::proof_object,
    run,
};

/// The scenarios that every kernel must pass, each with what it takes beyond a stage: "nothing",
/// "exact_clock" or "own_stage".
#[pyfunction]
pub fn _scenarios() -> Vec<(&'static str, &'static str)> {
    let needs = |need| match need {
        Need::Nothing => "nothing",
        Need::ExactClock => "exact_clock",
        Need::OwnStage => "own_stage",
    };
    SCENARIOS.iter().map(|scenario| (scenario.name, needs(scenario.needs))).collect()
}

/// A PostgreSQL server, until it is closed or collected.
#[cfg(unix)]
#[pyclass(module = "agirails._agirails")]
pub struct _Postgres(Option<agirails_devnet::Postgres>);

#[cfg(unix)]
#[pymethods]
impl _Postgres {
    /// Where it is synced, it waits for its disk, as a real one does.
    #[new]
    #[pyo3(signature = (*, synced=false))]
    fn new(py: Python<'_>, synced: bool) -> PyResult<Self> {
        use agirails_devnet::Postgres;
        let start = if synced { Postgres::start_synced } else { Postgres::start };
        Ok(Self(Some(py.detach(start).or_raise(py)?)))
    }

    /// How clients connect; None once it is closed.
    #[getter]
    fn url(&self) -> Option<String> {
        self.0.as_ref().map(agirails_devnet::Postgres::url)
    }

    /// Ends it at once, as a crash does, and starts it anew with everything that was committed.
    fn restart(&mut self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.as_mut().map_or(Ok(()), agirails_devnet::Postgres::restart))
            .or_raise(py)
    }

    /// Ends it at once, as a crash does; restart() starts it anew.
    fn kill(&mut self) {
        if let Some(server) = &mut self.0 {
            server.kill();
        }
    }

    fn close(&mut self) {
        self.0 = None;
    }
}

/// Plays one scenario.
///
/// Args:
///     name: one of _scenarios().
///     stage: has `client(address)`, `reader` (a client of anybody), `finish(answer)`, which waits
///         for what a client answered, `party()`, `mint(address, amount)`, `advance(seconds)`,
///         `at(time)`, `set_paused(paused)` and `approve_mediator(address)`.
///
/// Raises:
///     AssertionError: the scenario's own words where it was not met; its place is on stderr.
///     ACTPError: a call failed that should have succeeded.
///     Exception: whatever else a call raised, itself.
#[pyfunction]
pub fn _play(py: Python<'_>, name: &str, stage: Bound<'_, PyAny>) -> PyResult<()> {
    let scenario = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| PyLookupError::new_err(format!("there is no scenario {name}")))?;
    let network = read_network(&stage.getattr("reader")?.getattr("network")?)?;
    let kernel = Through { stage: stage.unbind(), network, service_types: Mutex::default() };
    let kernel = Arc::new(kernel);
    let stage = OnStage { python: kernel.clone(), kernel };
    let outcome = py.detach(|| {
        catch_unwind(AssertUnwindSafe(|| {
            // Every call returns when Python does, so a scenario never waits. It needs no runtime
            // and must not have one: a client's own waiting would then count as the scenario's.
            (scenario.run)(&stage).as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }))
    });
    match outcome {
        Ok(Poll::Ready(Ok(()))) => Ok(()),
        Ok(Poll::Ready(Err(error))) => Err(errors::raise(py, &error)),
        Ok(Poll::Pending) => Err(PyAssertionError::new_err("the scenario waits for something")),
        Err(panic) => match panic.downcast::<PyErr>() {
            Ok(raised) => Err(*raised),
            Err(panic) => Err(PyAssertionError::new_err(run::message(&*panic))),
        },
    }
}

/// A kernel that is Python's clients.
struct Through {
    stage: Py<PyAny>,
    network: Network,
    /// Kernels know service types by their hash, Python's callers by their name.
    service_types: Mutex<HashMap<B256, String>>,
}

/// What scenarios do around it.
struct OnStage {
    python: Arc<Through>,
    kernel: Arc<dyn Kernel>,
}

/// The arguments of a Python call that it names.
type Named<'py> = Bound<'py, PyDict>;

impl Through {
    /// Calls Python, and reads what it answers or raises.
    fn python<T>(&self, call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T> {
        Python::attach(|py| call(self.stage.bind(py)).map_err(|raised| read_error(py, raised)))
    }

    /// Reads through anybody's client.
    fn read<T>(
        &self,
        verb: &str,
        arguments: impl FnOnce(Python<'_>, &Named<'_>) -> PyResult<()>,
        read: impl FnOnce(Any<'_, '_>) -> PyResult<T>,
    ) -> Result<T> {
        self.python(|stage| {
            let client = stage.getattr("reader")?;
            read(&ask(stage, &client, "advanced", verb, arguments)?)
        })
    }

    /// Calls as this sender.
    fn verb<T>(
        &self,
        sender: Address,
        verb: &str,
        arguments: impl FnOnce(Python<'_>, &Named<'_>) -> PyResult<()>,
        read: impl FnOnce(Any<'_, '_>) -> PyResult<T>,
    ) -> Result<T> {
        self.python(|stage| {
            let client = stage.call_method1("client", (sender.to_string(),))?;
            read(&ask(stage, &client, "advanced", verb, arguments)?)
        })
    }

    fn read_agents<T>(
        &self,
        verb: &str,
        arguments: impl FnOnce(Python<'_>, &Named<'_>) -> PyResult<()>,
        read: impl FnOnce(Any<'_, '_>) -> PyResult<T>,
    ) -> Result<T> {
        self.python(|stage| {
            let client = stage.getattr("reader")?;
            read(&ask(stage, &client, "registry", verb, arguments)?)
        })
    }

    fn agent_verb(
        &self,
        sender: Address,
        verb: &str,
        arguments: impl FnOnce(Python<'_>, &Named<'_>) -> PyResult<()>,
    ) -> Result<()> {
        self.python(|stage| {
            let client = stage.call_method1("client", (sender.to_string(),))?;
            nothing(&ask(stage, &client, "registry", verb, arguments)?)
        })
    }

    /// What only a stage can do.
    fn around<T>(
        &self,
        method: &str,
        arguments: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>>,
        read: impl FnOnce(Any<'_, '_>) -> PyResult<T>,
    ) -> Result<T> {
        self.python(|stage| {
            let arguments = arguments(stage.py())?;
            read(&stage.call_method1(method, arguments)?)
        })
    }

    fn learn(&self, name: &str) {
        let mut names = self.service_types.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(keccak256(name), name.to_owned());
    }

    /// The name of a service type. One that nobody registered has one here that nobody can
    /// register either, as it is not the hash's.
    fn name_of(&self, hash: B256) -> String {
        let names = self.service_types.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .get(&hash)
            .cloned()
            .unwrap_or_else(|| format!("unknown-{}", &format!("{hash:x}")[..48]))
    }
}

/// `client.<part>.<verb>(**arguments)`, finished.
fn ask<'py>(
    stage: &Bound<'py, PyAny>,
    client: &Bound<'py, PyAny>,
    part: &str,
    verb: &str,
    arguments: impl FnOnce(Python<'_>, &Named<'_>) -> PyResult<()>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = stage.py();
    let named = PyDict::new(py);
    arguments(py, &named)?;
    let answer = client.getattr(part)?.call_method(verb, (), Some(&named))?;
    stage.call_method1("finish", (answer,))
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Through({})", self.network.name)
    }
}

#[async_trait]
impl Stage for OnStage {
    fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    async fn party(&self) -> Result<Address> {
        self.python.around("party", |py| Ok(PyTuple::empty(py)), address)
    }

    async fn mint(&self, to: Address, amount: Usdc) -> Result<()> {
        self.python.around("mint", |py| (to.to_string(), amount.0).into_pyobject(py), nothing)
    }

    async fn advance(&self, seconds: u64) -> Result<()> {
        self.python.around("advance", |py| (seconds,).into_pyobject(py), nothing)
    }

    async fn at(&self, time: u64) -> Result<()> {
        self.python.around("at", |py| (time,).into_pyobject(py), nothing)
    }

    async fn set_paused(&self, paused: bool) -> Result<()> {
        self.python.around("set_paused", |py| (paused,).into_pyobject(py), nothing)
    }

    async fn approve_mediator(&self, mediator: Address) -> Result<()> {
        let arguments = (mediator.to_string(),);
        self.python.around("approve_mediator", |py| arguments.into_pyobject(py), nothing)
    }
}

#[async_trait]
impl Kernel for Through {
    fn network(&self) -> &Network {
        &self.network
    }

    async fn now(&self) -> Result<u64> {
        self.read("now", |_, _| Ok(()), plain)
    }

    async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
        self.read("get_transaction", |_, named| tx_id(named, id), read_transaction)
    }

    async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
        let arguments = |py: Python<'_>, named: &Named<'_>| {
            named.set_item("party", query.party.to_string())?;
            if let Some(role) = query.role {
                let role = match role {
                    Role::Requester => "requester",
                    Role::Provider => "provider",
                };
                named.set_item("role", role)?;
            }
            if let Some(state) = query.state {
                named.set_item("state", convert::state_member(py, state)?)?;
            }
            named.set_item("after", query.after.map(|id| id.to_string()))?;
            named.set_item("limit", query.limit)
        };
        self.read("get_transactions", arguments, |found| records(found, read_transaction))
    }

    async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        let arguments = |_: Python<'_>, named: &Named<'_>| {
            named.set_item("after", after)?;
            named.set_item("limit", limit)
        };
        self.read("get_events", arguments, |found| records(found, read_event))
    }

    async fn escrow(&self, id: TransactionId) -> Result<Escrow> {
        self.read("get_escrow", |_, named| tx_id(named, id), read_escrow)
    }

    async fn delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        let read = |proof: Any<'_, '_>| match proof.is_none() {
            true => Ok(None),
            false => convert::proof(proof).map(Some),
        };
        self.read("get_delivery_proof", |_, named| tx_id(named, id), read)
    }

    async fn balance(&self, owner: Address) -> Result<Usdc> {
        self.read("get_balance", |_, named| named.set_item("address", owner.to_string()), usdc)
    }

    async fn allowance(&self, owner: Address) -> Result<Usdc> {
        self.read("get_allowance", |_, named| named.set_item("address", owner.to_string()), usdc)
    }

    async fn approve(&self, sender: Address, amount: Usdc) -> Result<()> {
        self.verb(sender, "approve", |_, named| named.set_item("amount", amount.0), nothing)
    }

    async fn create_transaction(
        &self,
        sender: Address,
        request: &CreateTransaction,
    ) -> Result<TransactionId> {
        let arguments = |py: Python<'_>, named: &Named<'_>| {
            named.set_item("provider", request.provider.to_string())?;
            named.set_item("requester", request.requester.to_string())?;
            named.set_item("amount", request.amount.0)?;
            named.set_item("deadline", request.deadline)?;
            named.set_item("dispute_window", request.dispute_window_seconds)?;
            named.set_item("metadata", PyBytes::new(py, request.service_hash.as_slice()))?;
            named.set_item("agent_id", convert::big_int(py, request.agent_id)?)?;
            named.set_item(
                "requester_agent_id",
                convert::big_int(py, request.requester_agent_id)?,
            )?;
            named.set_item("agreement_hash", request.agreement_hash.to_string())
        };
        self.verb(sender, "create_transaction", arguments, hash)
    }

    async fn link_escrow(
        &self,
        sender: Address,
        id: TransactionId,
        link: LinkEscrow,
    ) -> Result<B256> {
        let arguments = |_: Python<'_>, named: &Named<'_>| {
            if let Some(vault) = link.escrow_contract {
                named.set_item("escrow_contract", vault.to_string())?;
            }
            named.set_item("escrow_id", link.escrow_id.map(|id| id.to_string()))?;
            tx_id(named, id)
        };
        self.verb(sender, "link_escrow", arguments, hash)
    }

    async fn accept_quote(&self, sender: Address, id: TransactionId, amount: Usdc) -> Result<()> {
        self.verb(sender, "accept_quote", |_, named| tx_amount(named, id, amount), nothing)
    }

    async fn transition_state(&self, sender: Address, transition: &Transition) -> Result<GasCost> {
        let arguments = |py: Python<'_>, named: &Named<'_>| {
            tx_id(named, transition.id)?;
            named.set_item("new_state", convert::state_member(py, transition.to)?)?;
            // What goes to the contract beside a proof follows from the proof, here once more.
            match &transition.proof {
                Some(proof) => named.set_item("proof", proof_object(py, proof)?),
                None if transition.data.is_empty() => Ok(()),
                None => named.set_item("proof", PyBytes::new(py, sendable(transition))),
            }
        };
        self.verb(sender, "transition_state", arguments, nothing)?;
        Ok(GasCost::default())
    }

    async fn release_milestone(
        &self,
        sender: Address,
        id: TransactionId,
        amount: Usdc,
    ) -> Result<()> {
        self.verb(sender, "release_milestone", |_, named| tx_amount(named, id, amount), nothing)
    }

    async fn release_escrow(&self, sender: Address, id: TransactionId) -> Result<()> {
        self.verb(sender, "release_escrow", |_, named| tx_id(named, id), nothing)
    }

    async fn recover_stalled(&self, sender: Address, id: TransactionId) -> Result<GasCost> {
        self.verb(sender, "recover_stalled", |_, named| tx_id(named, id), nothing)?;
        Ok(GasCost::default())
    }

    async fn anchor_attestation(
        &self,
        sender: Address,
        id: TransactionId,
        uid: B256,
    ) -> Result<()> {
        let arguments = |_: Python<'_>, named: &Named<'_>| {
            named.set_item("uid", uid.to_string())?;
            tx_id(named, id)
        };
        self.verb(sender, "anchor_attestation", arguments, nothing)
    }

    fn registry(&self) -> Option<&dyn AgentRegistry> {
        self.network.agent_registry.map(|_| self as _)
    }
}

#[async_trait]
impl AgentRegistry for Through {
    async fn register_agent(
        &self,
        sender: Address,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()> {
        for service in services {
            self.learn(&service.service_type);
        }
        let arguments = |py: Python<'_>, named: &Named<'_>| {
            let services: PyResult<Vec<_>> =
                services.iter().map(|service| service_dict(py, service)).collect();
            named.set_item("endpoint", endpoint)?;
            named.set_item("services", services?)
        };
        self.agent_verb(sender, "register_agent", arguments)
    }

    async fn update_endpoint(&self, sender: Address, endpoint: &str) -> Result<()> {
        let arguments = |_: Python<'_>, named: &Named<'_>| named.set_item("endpoint", endpoint);
        self.agent_verb(sender, "update_endpoint", arguments)
    }

    async fn add_service_type(&self, sender: Address, service_type: &str) -> Result<()> {
        self.learn(service_type);
        let arguments =
            |_: Python<'_>, named: &Named<'_>| named.set_item("service_type", service_type);
        self.agent_verb(sender, "add_service_type", arguments)
    }

    async fn remove_service_type(&self, sender: Address, service_type_hash: B256) -> Result<()> {
        let name = self.name_of(service_type_hash);
        let arguments = |_: Python<'_>, named: &Named<'_>| named.set_item("service_type", name);
        self.agent_verb(sender, "remove_service_type", arguments)
    }

    async fn set_active_status(&self, sender: Address, active: bool) -> Result<()> {
        let arguments = |_: Python<'_>, named: &Named<'_>| named.set_item("active", active);
        self.agent_verb(sender, "set_active_status", arguments)
    }

    async fn get_agent(&self, agent: Address) -> Result<Option<AgentProfile>> {
        let arguments =
            |_: Python<'_>, named: &Named<'_>| named.set_item("address", agent.to_string());
        self.read_agents("get_agent", arguments, |profile| match profile.is_none() {
            true => Ok(None),
            false => read_profile(profile).map(Some),
        })
    }

    async fn get_service_descriptors(&self, agent: Address) -> Result<Vec<ServiceDescriptor>> {
        let arguments =
            |_: Python<'_>, named: &Named<'_>| named.set_item("address", agent.to_string());
        self.read_agents("get_service_descriptors", arguments, |found| records(found, read_service))
    }

    async fn supports_service(&self, agent: Address, service_type_hash: B256) -> Result<bool> {
        let name = self.name_of(service_type_hash);
        let arguments = |_: Python<'_>, named: &Named<'_>| {
            named.set_item("address", agent.to_string())?;
            named.set_item("service_type", name)
        };
        self.read_agents("supports_service", arguments, plain)
    }

    async fn query_agents_by_service(&self, query: AgentQuery) -> Result<Vec<AgentProfile>> {
        let name = self.name_of(query.service_type_hash);
        let arguments = |_: Python<'_>, named: &Named<'_>| {
            named.set_item("service_type", name)?;
            named.set_item("min_reputation", query.min_reputation)?;
            named.set_item("offset", query.offset)?;
            named.set_item("limit", query.limit)
        };
        let read = |found: Any<'_, '_>| records(found, read_profile);
        self.read_agents("get_agents_by_service", arguments, read)
    }
}

/// What a client can send. 96 bytes to DELIVERED are a delivery proof to it and never reach the
/// contract, so a scenario's go as another wrong length.
fn sendable(transition: &Transition) -> &[u8] {
    let data = transition.data.as_slice();
    match (transition.to, data.len()) {
        (State::Delivered, ENCODED_PROOF_LENGTH) => &data[1..],
        _ => data,
    }
}

fn tx_id(named: &Named<'_>, id: TransactionId) -> PyResult<()> {
    named.set_item("tx_id", id.to_string())
}

fn tx_amount(named: &Named<'_>, id: TransactionId, amount: Usdc) -> PyResult<()> {
    named.set_item("amount", amount.0)?;
    tx_id(named, id)
}

fn service_dict<'py>(py: Python<'py>, service: &ServiceDescriptor) -> PyResult<Named<'py>> {
    let dict = PyDict::new(py);
    dict.set_item("service_type", &service.service_type)?;
    dict.set_item("service_type_hash", service.service_type_hash.to_string())?;
    dict.set_item("schema_uri", &service.schema_uri)?;
    dict.set_item("min_price", service.min_price.0)?;
    dict.set_item("max_price", service.max_price.0)?;
    dict.set_item("avg_completion_time", service.avg_completion_time_seconds)?;
    dict.set_item("metadata_cid", &service.metadata_cid)?;
    Ok(dict)
}

fn nothing(value: Any<'_, '_>) -> PyResult<()> {
    match value.is_none() {
        true => Ok(()),
        false => Err(PyAssertionError::new_err(format!("None was expected, not {value}"))),
    }
}

fn records<T>(list: Any<'_, '_>, read: impl Fn(Any<'_, '_>) -> PyResult<T>) -> PyResult<Vec<T>> {
    list.try_iter()?.map(|item| read(&item?)).collect()
}

fn address(value: Any<'_, '_>) -> PyResult<Address> {
    convert::address("address", value)
}

fn hash(value: Any<'_, '_>) -> PyResult<B256> {
    // Exactly as Python shows hashes: a str.
    let text: String = value.extract()?;
    text.parse().map_err(|_| PyAssertionError::new_err(format!("{text} is no hash")))
}

fn usdc(value: Any<'_, '_>) -> PyResult<Usdc> {
    value.extract().map(Usdc)
}

fn state(value: Any<'_, '_>) -> PyResult<State> {
    convert::state("state", value)
}

/// An attribute, read.
fn get<T>(
    object: Any<'_, '_>,
    name: &str,
    read: impl FnOnce(Any<'_, '_>) -> PyResult<T>,
) -> PyResult<T> {
    read(&object.getattr(name)?)
}

/// An attribute that may be None, read.
fn get_some<T>(
    object: Any<'_, '_>,
    name: &str,
    read: impl FnOnce(Any<'_, '_>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    let value = object.getattr(name)?;
    if value.is_none() { Ok(None) } else { read(&value).map(Some) }
}

/// A dict's value, read.
fn item<T>(
    dict: Any<'_, '_>,
    key: &str,
    read: impl FnOnce(Any<'_, '_>) -> PyResult<T>,
) -> PyResult<T> {
    read(&dict.get_item(key)?)
}

/// Numbers, text and truths.
fn plain<T>(value: Any<'_, '_>) -> PyResult<T>
where
    T: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr>,
{
    value.extract()
}

fn agent_id(value: Any<'_, '_>) -> PyResult<U256> {
    convert::agent_id("agent_id", value)
}

fn read_network(network: Any<'_, '_>) -> PyResult<Network> {
    Ok(Network {
        name: get(network, "name", plain)?,
        chain_id: get(network, "chain_id", plain)?,
        kernel: get(network, "kernel", address)?,
        vault: get(network, "vault", address)?,
        usdc: get(network, "usdc", address)?,
        admin: get(network, "admin", address)?,
        fee_recipient: get(network, "fee_recipient", address)?,
        archive_treasury: get_some(network, "archive_treasury", address)?,
        agent_registry: get_some(network, "agent_registry", address)?,
        eas: None,
        bond_escalation: None,
        terms: terms(network)?,
    })
}

fn terms(network: Any<'_, '_>) -> PyResult<Terms> {
    let generation: String = get(network, "generation", plain)?;
    let generation = generation.parse::<Generation>();
    let generation = generation.map_err(|error| PyAssertionError::new_err(error.to_string()))?;
    let grace = get_some(network, "recovery_grace_seconds", plain)?;
    Ok(Terms::new(generation, grace.unwrap_or_default()))
}

fn read_transaction(tx: Any<'_, '_>) -> PyResult<Transaction> {
    let seconds = get_some(tx, "dispute_window_seconds", plain)?;
    let ends_at = get_some(tx, "dispute_window_ends_at", plain)?;
    let dispute_window = match (seconds, ends_at) {
        (Some(seconds), None) => DisputeWindow::Seconds(seconds),
        (None, Some(time)) => DisputeWindow::EndsAt(time),
        both => {
            let message = format!("a dispute window that is not one of two: {both:?}");
            return Err(PyAssertionError::new_err(message));
        }
    };
    Ok(Transaction {
        id: get(tx, "transaction_id", hash)?,
        requester: get(tx, "requester", address)?,
        provider: get(tx, "provider", address)?,
        state: get(tx, "state", state)?,
        amount: get(tx, "amount", usdc)?,
        created_at: get(tx, "created_at", plain)?,
        updated_at: get(tx, "updated_at", plain)?,
        deadline: get(tx, "deadline", plain)?,
        service_hash: get(tx, "service_hash", hash)?,
        escrow_contract: get(tx, "escrow_contract", address)?,
        escrow_id: get(tx, "escrow_id", hash)?,
        attestation_uid: get(tx, "attestation_uid", hash)?,
        dispute_window,
        metadata: get(tx, "metadata", hash)?,
        platform_fee_bps_locked: get(tx, "platform_fee_bps_locked", plain)?,
        requester_penalty_bps_locked: get(tx, "requester_penalty_bps_locked", plain)?,
        dispute_bond_bps_locked: get(tx, "dispute_bond_bps_locked", plain)?,
        agent_id: get(tx, "agent_id", agent_id)?,
        requester_agent_id: get(tx, "requester_agent_id", agent_id)?,
        dispute_initiator: get(tx, "dispute_initiator", address)?,
        dispute_bond: get(tx, "dispute_bond", usdc)?,
        result_hash: get(tx, "result_hash", hash)?,
        agreement_hash: get(tx, "agreement_hash", hash)?,
    })
}

fn read_escrow(escrow: Any<'_, '_>) -> PyResult<Escrow> {
    let read = Escrow {
        requester: item(escrow, "requester", address)?,
        provider: item(escrow, "provider", address)?,
        amount: item(escrow, "amount", usdc)?,
        released: item(escrow, "released", usdc)?,
        active: item(escrow, "active", plain)?,
    };
    let remaining = item(escrow, "remaining", usdc)?;
    match remaining == read.remaining() {
        true => Ok(read),
        false => Err(PyAssertionError::new_err(format!("{remaining} remains of {read:?}"))),
    }
}

fn read_event(event: Any<'_, '_>) -> PyResult<EventRecord> {
    let py = event.py();
    let data = event.getattr("data")?.cast_into::<PyDict>()?;
    if let Some(id) = data.get_item("agentId")? {
        // JSON would make a double of a great one.
        data.set_item("agentId", id.str()?)?;
    }
    data.set_item("event", event.getattr("name")?)?;
    let told = |name: &str, key: &str| -> PyResult<bool> {
        let value = data.get_item(key)?.unwrap_or_else(|| py.None().into_bound(py));
        event.getattr(name)?.eq(value)
    };
    if !told("transaction_id", "transactionId")? || !told("timestamp", "timestamp")? {
        return Err(PyAssertionError::new_err(format!("{event} contradicts its data: {data}")));
    }
    let event_of = json::from_python("event", &data)?;
    Ok(EventRecord {
        cursor: get(event, "cursor", plain)?,
        event: serde_json::from_value(event_of)
            .map_err(|error| PyAssertionError::new_err(format!("{event}: {error}")))?,
    })
}

fn read_profile(profile: Any<'_, '_>) -> PyResult<AgentProfile> {
    Ok(AgentProfile {
        agent_address: get(profile, "agent_address", address)?,
        did: get(profile, "did", plain)?,
        endpoint: get(profile, "endpoint", plain)?,
        service_types: get(profile, "service_types", |hashes| records(hashes, hash))?,
        staked_amount: get(profile, "staked_amount", usdc)?,
        reputation_score: get(profile, "reputation_score", plain)?,
        total_transactions: get(profile, "total_transactions", plain)?,
        disputed_transactions: get(profile, "disputed_transactions", plain)?,
        total_volume: get(profile, "total_volume_usdc", usdc)?,
        registered_at: get(profile, "registered_at", plain)?,
        updated_at: get(profile, "updated_at", plain)?,
        is_active: get(profile, "is_active", plain)?,
        config_hash: get(profile, "config_hash", hash)?,
        config_cid: get(profile, "config_cid", plain)?,
        listed: get(profile, "listed", plain)?,
    })
}

fn read_service(service: Any<'_, '_>) -> PyResult<ServiceDescriptor> {
    Ok(ServiceDescriptor {
        service_type_hash: item(service, "service_type_hash", hash)?,
        service_type: item(service, "service_type", plain)?,
        schema_uri: item(service, "schema_uri", plain)?,
        min_price: item(service, "min_price", usdc)?,
        max_price: item(service, "max_price", usdc)?,
        avg_completion_time_seconds: item(service, "avg_completion_time", plain)?,
        metadata_cid: item(service, "metadata_cid", plain)?,
    })
}

/// The core's error behind an ACTPError. Whatever else was raised, a Ctrl-C too, ends the scenario
/// and is raised again by `_play`.
fn read_error(py: Python<'_>, raised: PyErr) -> Error {
    if !raised.is_instance(py, &errors::base(py)) {
        resume_unwind(Box::new(raised));
    }
    error_of(raised.value(py).as_any()).unwrap_or_else(|failed| resume_unwind(Box::new(failed)))
}

fn error_of(raised: Any<'_, '_>) -> PyResult<Error> {
    let py = raised.py();
    let name: String = get(raised, "code", plain)?;
    let refusals = Refusal::ALL.iter().copied().map(Code::Refused);
    let code = refusals
        .chain(Code::LOCAL.iter().copied())
        .find(|code| code.as_str() == name)
        .ok_or_else(|| PyAssertionError::new_err(format!("{name} is no code")))?;
    let mut error = Error::new(code, raised.str()?.to_string());
    if let Some(hint) = get_some(raised, "hint", plain::<String>)? {
        error = error.with_hint(hint);
    }
    let transaction_id = get_some(raised, "transaction_id", hash)?;
    let stood_in = get_some(raised, "state", state)?;
    let deadline = get_some(raised, "deadline", plain)?;
    let transaction_hash = get_some(raised, "transaction_hash", hash)?;
    let field = get_some(raised, "field", plain::<String>)?.map(|field| lasting(&field));
    let value = get_some(raised, "value", plain)?;
    let required = get_some(raised, "required", usdc)?;
    let available = get_some(raised, "available", usdc)?;
    let error = error.with_facts(|facts| {
        facts.transaction_id = transaction_id;
        facts.state = stood_in;
        facts.deadline = deadline;
        facts.transaction_hash = transaction_hash;
        facts.field = field;
        facts.value = value;
        facts.required = required;
        facts.available = available;
    });
    // What follows from the code must be what Python says of it.
    let expected = errors::raise(py, &error);
    let same = |name: &str| raised.getattr(name)?.eq(expected.value(py).getattr(name)?);
    let same_class = raised.get_type().is(expected.get_type(py));
    if !same_class || !same("retry")? || !same("refusal")? || !same("hint")? {
        let message = format!("{raised:?} is no true exception of {error:?}");
        return Err(PyAssertionError::new_err(message));
    }
    Ok(error)
}

/// Facts name arguments by text that lasts: each is kept once, and there are few.
fn lasting(name: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    if let Some(kept) = names.get(name) {
        return kept;
    }
    let kept = &*Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}
