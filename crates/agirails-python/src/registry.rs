//! The agent registry, called as the client's address.

use agirails::{
    Code, RegistryClient, Usdc,
    kernel::AgentQuery,
    protocol::registry::{self, ServiceDescriptor, service_type_hash},
};
use alloy_primitives::keccak256;
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyDict, PyList, PyString, PyTuple},
};

use crate::{
    convert::{self, Any, Given, address_object, optional},
    errors::OrRaise,
    run::{
        Effect::{Glances, Moves, Reads},
        Style, run,
    },
};

/// Where providers advertise their services, called as the client's address.
///
/// Source: AIP-7, `AgentRegistry`.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct Registry {
    client: RegistryClient,
    style: Style,
}

type Answer = PyResult<Py<PyAny>>;

impl Registry {
    pub fn new(client: RegistryClient, style: Style) -> Self {
        Self { client, style }
    }
}

#[pymethods]
impl Registry {
    /// Registers this client's address.
    ///
    /// Args:
    ///     endpoint: the URL at which the agent is reached, at most 256 bytes.
    ///     services: 1 ... 100 services, each a service type such as "ai-completion" or a dict:
    ///         service_type, and where known schema_uri, min_price, max_price (base units of
    ///         USDC), avg_completion_time (seconds), metadata_cid.
    ///
    /// Raises:
    ///     ValidationError: the endpoint or a service is not as the registry wants it.
    ///     TransactionRevertedError: the address is registered already; update it.
    ///
    /// Example:
    ///     >>> client.registry.register_agent("https://api.example.com", ["ai-completion"])
    ///
    /// Source: `AgentRegistry.registerAgent`.
    fn register_agent(
        &self,
        py: Python<'_>,
        endpoint: Any<'_, '_>,
        services: Any<'_, '_>,
    ) -> Answer {
        let endpoint = text("endpoint", endpoint)?.to_owned();
        let services = service_descriptors(services)?;
        let client = self.client.clone();
        let call = async move { client.register_agent(&endpoint, &services).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Changes the URL at which this agent is reached.
    ///
    /// Args:
    ///     endpoint: the new URL, at most 256 bytes.
    ///
    /// Raises:
    ///     TransactionRevertedError: register the agent first.
    ///
    /// Example:
    ///     >>> client.registry.update_endpoint("https://api2.example.com")
    ///
    /// Source: `AgentRegistry.updateEndpoint`.
    fn update_endpoint(&self, py: Python<'_>, endpoint: Any<'_, '_>) -> Answer {
        let endpoint = text("endpoint", endpoint)?.to_owned();
        let client = self.client.clone();
        let call = async move { client.update_endpoint(&endpoint).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Offers one more service.
    ///
    /// Args:
    ///     service_type: lowercase letters, digits and single hyphens, at most 64.
    ///
    /// Raises:
    ///     TransactionRevertedError: it is offered already, or the agent is not registered.
    ///
    /// Example:
    ///     >>> client.registry.add_service_type("translation")
    ///
    /// Source: `AgentRegistry.addServiceType`.
    fn add_service_type(&self, py: Python<'_>, service_type: Any<'_, '_>) -> Answer {
        let service_type = text("service_type", service_type)?.to_owned();
        let client = self.client.clone();
        let call = async move { client.add_service_type(&service_type).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Offers a service no longer.
    ///
    /// Args:
    ///     service_type: one that is offered.
    ///
    /// Raises:
    ///     TransactionRevertedError: it is not offered.
    ///
    /// Example:
    ///     >>> client.registry.remove_service_type("translation")
    ///
    /// Source: `AgentRegistry.removeServiceType`.
    fn remove_service_type(&self, py: Python<'_>, service_type: Any<'_, '_>) -> Answer {
        let service_type = text("service_type", service_type)?.to_owned();
        let client = self.client.clone();
        let call = async move { client.remove_service_type(&service_type).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Shows this agent in queries, or hides it.
    ///
    /// Args:
    ///     active: whether it takes work.
    ///
    /// Raises:
    ///     TransactionRevertedError: register the agent first.
    ///
    /// Example:
    ///     >>> client.registry.set_active_status(False)
    ///
    /// Source: `AgentRegistry.setActiveStatus`.
    fn set_active_status(&self, py: Python<'_>, active: Any<'_, '_>) -> Answer {
        let active = convert::flag("active", active)?;
        let client = self.client.clone();
        let call = async move { client.set_active_status(active).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// An agent's profile; None where the address never registered.
    ///
    /// Args:
    ///     address: the agent's.
    ///
    /// Example:
    ///     >>> client.registry.get_agent(provider).endpoint
    ///
    /// Source: `AgentRegistry.getAgent`.
    fn get_agent(&self, py: Python<'_>, address: Any<'_, '_>) -> Answer {
        let address = convert::address("address", address)?;
        let client = self.client.clone();
        run(py, self.style, Glances, async move { client.get_agent(address).await }, profile_object)
    }

    /// An agent's profile by its DID; None also for an agent of another chain.
    ///
    /// Args:
    ///     did: did:ethr:<chain id>:<address>.
    ///
    /// Raises:
    ///     ValidationError: that is no DID.
    ///
    /// Example:
    ///     >>> client.registry.get_agent_by_did(f"did:ethr:31337:{provider.lower()}")
    ///
    /// Source: `AgentRegistry.getAgentByDID`.
    fn get_agent_by_did(&self, py: Python<'_>, did: Any<'_, '_>) -> Answer {
        let did = convert::text(Code::InvalidDid, "did", did)?.to_owned();
        let client = self.client.clone();
        let call = async move { client.get_agent_by_did(&did).await };
        run(py, self.style, Glances, call, profile_object)
    }

    /// What an agent offers, in its own words.
    ///
    /// Args:
    ///     address: the agent's.
    ///
    /// Returns:
    ///     Dicts with service_type_hash, service_type, schema_uri, min_price, max_price (base
    ///     units of USDC), avg_completion_time (seconds) and metadata_cid.
    ///
    /// Example:
    ///     >>> client.registry.get_service_descriptors(provider)[0]["min_price"]
    ///
    /// Source: `AgentRegistry.getServiceDescriptors`.
    fn get_service_descriptors(&self, py: Python<'_>, address: Any<'_, '_>) -> Answer {
        let address = convert::address("address", address)?;
        let client = self.client.clone();
        let call = async move { client.get_service_descriptors(address).await };
        run(py, self.style, Glances, call, |py, services| {
            let list = PyList::empty(py);
            for service in &services {
                list.append(service_object(py, service)?)?;
            }
            Ok(list.into_any().unbind())
        })
    }

    /// Whether an agent offers a service.
    ///
    /// Args:
    ///     address: the agent's.
    ///     service_type: such as "ai-completion".
    ///
    /// Example:
    ///     >>> client.registry.supports_service(provider, "ai-completion")
    ///     True
    ///
    /// Source: `AgentRegistry.supportsService`.
    fn supports_service(
        &self,
        py: Python<'_>,
        address: Any<'_, '_>,
        service_type: Any<'_, '_>,
    ) -> Answer {
        let address = convert::address("address", address)?;
        let service_type = text("service_type", service_type)?.to_owned();
        let client = self.client.clone();
        let call = async move { client.supports_service(address, &service_type).await };
        run(py, self.style, Glances, call, convert::plain)
    }

    /// Active agents that offer a service, in the order of their registration.
    ///
    /// Args:
    ///     service_type: such as "ai-completion".
    ///     min_reputation: the least reputation, 0 ... 10_000.
    ///     offset: how many matches to skip.
    ///     limit: how many to return, 1 ... 100.
    ///
    /// Raises:
    ///     ValidationError: an argument is out of bounds.
    ///     QueryCapExceededError: more than 1_000 agents are registered; use an indexer.
    ///
    /// Example:
    ///     >>> provider = client.registry.get_agents_by_service("ai-completion")[0].agent_address
    ///
    /// Source: `AgentRegistry.queryAgentsByService`.
    #[pyo3(
        signature = (service_type, *, min_reputation=Given::LEFT_OUT, offset=Given::LEFT_OUT, limit=Given::LEFT_OUT),
        text_signature = "($self, service_type, *, min_reputation=0, offset=0, limit=100)"
    )]
    fn get_agents_by_service(
        &self,
        py: Python<'_>,
        service_type: Any<'_, '_>,
        min_reputation: Given<'_, '_>,
        offset: Given<'_, '_>,
        limit: Given<'_, '_>,
    ) -> Answer {
        let number = |field, value: &Given<'_, '_>, default| {
            optional(value.get(), |value| convert::number(field, value, Code::InvalidNumber))
                .map(|number| number.unwrap_or(default))
        };
        let query = AgentQuery {
            service_type_hash: service_type_hash(text("service_type", service_type)?)
                .or_raise(py)?,
            min_reputation: number("min_reputation", &min_reputation, 0)?,
            offset: number("offset", &offset, 0)?,
            limit: number("limit", &limit, 100)?,
        };
        let client = self.client.clone();
        let call = async move { client.query_agents_by_service(query).await };
        run(py, self.style, Reads, call, convert::list::<_, AgentProfile>)
    }

    fn __repr__(&self) -> String {
        "<Registry>".to_owned()
    }
}

/// What the registry knows about an agent. Times are Unix seconds.
///
/// Source: AIP-7, `IAgentRegistry.AgentProfile`.
#[pyclass(frozen, eq, module = "agirails._agirails")]
#[derive(PartialEq)]
pub struct AgentProfile(registry::AgentProfile);

impl From<registry::AgentProfile> for AgentProfile {
    fn from(profile: registry::AgentProfile) -> Self {
        Self(profile)
    }
}

#[pymethods]
impl AgentProfile {
    /// The agent's address.
    #[getter]
    fn agent_address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_object(py, self.0.agent_address)
    }

    /// Its DID, did:ethr:<chain id>:<lowercase address>.
    #[getter]
    fn did(&self) -> &str {
        &self.0.did
    }

    /// The URL at which it is reached.
    #[getter]
    fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// The hashes of the service types it offers; service_type_hash makes them.
    #[getter]
    fn service_types(&self) -> Vec<String> {
        self.0.service_types.iter().map(ToString::to_string).collect()
    }

    /// What it staked, base units of USDC.
    #[getter]
    fn staked_amount(&self) -> u64 {
        self.0.staked_amount.0
    }

    /// 0 ... 10_000.
    #[getter]
    fn reputation_score(&self) -> u64 {
        self.0.reputation_score
    }

    /// How many of its transactions settled.
    #[getter]
    fn total_transactions(&self) -> u64 {
        self.0.total_transactions
    }

    /// How many of those count as disputed.
    #[getter]
    fn disputed_transactions(&self) -> u64 {
        self.0.disputed_transactions
    }

    /// What it was paid in all, base units of USDC.
    #[getter]
    fn total_volume_usdc(&self) -> u64 {
        self.0.total_volume.0
    }

    /// When it registered, Unix seconds.
    #[getter]
    fn registered_at(&self) -> u64 {
        self.0.registered_at
    }

    /// When its profile last changed, Unix seconds.
    #[getter]
    fn updated_at(&self) -> u64 {
        self.0.updated_at
    }

    /// Whether it takes work.
    #[getter]
    fn is_active(&self) -> bool {
        self.0.is_active
    }

    /// Hash of its published configuration, zero for none.
    #[getter]
    fn config_hash(&self) -> String {
        self.0.config_hash.to_string()
    }

    /// The IPFS id of that configuration, empty for none.
    #[getter]
    fn config_cid(&self) -> &str {
        &self.0.config_cid
    }

    /// Whether it is shown in listings.
    #[getter]
    fn listed(&self) -> bool {
        self.0.listed
    }

    /// All fields by name, as JSON can carry them.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("agent_address", self.agent_address(py)?)?;
        dict.set_item("did", self.did())?;
        dict.set_item("endpoint", self.endpoint())?;
        dict.set_item("service_types", self.service_types())?;
        dict.set_item("staked_amount", self.staked_amount())?;
        dict.set_item("reputation_score", self.reputation_score())?;
        dict.set_item("total_transactions", self.total_transactions())?;
        dict.set_item("disputed_transactions", self.disputed_transactions())?;
        dict.set_item("total_volume_usdc", self.total_volume_usdc())?;
        dict.set_item("registered_at", self.registered_at())?;
        dict.set_item("updated_at", self.updated_at())?;
        dict.set_item("is_active", self.is_active())?;
        dict.set_item("config_hash", self.config_hash())?;
        dict.set_item("config_cid", self.config_cid())?;
        dict.set_item("listed", self.listed())?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        format!("<AgentProfile {} {}>", self.0.agent_address, self.0.endpoint)
    }
}

fn profile_object(py: Python<'_>, profile: Option<registry::AgentProfile>) -> Answer {
    profile.map(AgentProfile).into_py_any(py)
}

fn text<'a>(field: &'static str, value: Any<'a, '_>) -> PyResult<&'a str> {
    convert::text(Code::InvalidSettings, field, value)
}

const SERVICES_HINT: &str = "pass a list of service types, each a str or a dict with service_type";

fn service_descriptors(services: Any<'_, '_>) -> PyResult<Vec<ServiceDescriptor>> {
    let items = if let Ok(list) = services.cast::<PyList>() {
        list.iter().collect::<Vec<_>>()
    } else if let Ok(tuple) = services.cast::<PyTuple>() {
        tuple.iter().collect()
    } else {
        return Err(no_service(services, "is not a list"));
    };
    items.iter().map(service_descriptor).collect()
}

fn service_descriptor(service: Any<'_, '_>) -> PyResult<ServiceDescriptor> {
    let py = service.py();
    if service.is_instance_of::<PyString>() {
        return Ok(offering(text("service_type", service)?));
    }
    let Ok(fields) = service.cast::<PyDict>() else {
        return Err(no_service(service, "is neither a str nor a dict"));
    };
    let Some(service_type) = fields.get_item("service_type")? else {
        return Err(no_service(service, "has no service_type"));
    };
    // The registry looks at the types itself, after what comes before them.
    let mut descriptor = offering(text("service_type", &service_type)?);
    for (key, value) in fields {
        let price = |field| convert::amount(field, &value, Code::InvalidAmount);
        match text("services", &key)? {
            "service_type" => {}
            "schema_uri" => descriptor.schema_uri = text("schema_uri", &value)?.to_owned(),
            "min_price" => descriptor.min_price = price("min_price")?,
            "max_price" => descriptor.max_price = price("max_price")?,
            "avg_completion_time" => {
                descriptor.avg_completion_time_seconds =
                    convert::number("avg_completion_time", &value, Code::InvalidNumber)?;
            }
            "metadata_cid" => descriptor.metadata_cid = text("metadata_cid", &value)?.to_owned(),
            // What get_service_descriptors returned can be registered again.
            "service_type_hash" => {
                descriptor.service_type_hash = convert::bytes32("service_type_hash", &value)?;
            }
            other => {
                let hint = "a service has service_type, schema_uri, min_price, max_price, \
                            avg_completion_time and metadata_cid";
                let code = Code::InvalidSettings;
                return Err(convert::refuse(
                    py,
                    code,
                    "services",
                    other,
                    "must be a key of a service",
                    hint,
                ));
            }
        }
    }
    Ok(descriptor)
}

fn offering(service_type: &str) -> ServiceDescriptor {
    ServiceDescriptor {
        service_type_hash: keccak256(service_type),
        service_type: service_type.to_owned(),
        schema_uri: String::new(),
        min_price: Usdc::ZERO,
        max_price: Usdc::ZERO,
        avg_completion_time_seconds: 0,
        metadata_cid: String::new(),
    }
}

fn no_service(value: Any<'_, '_>, problem: &str) -> PyErr {
    let shown = format!("<{}>", convert::type_name(value));
    let code = Code::InvalidSettings;
    convert::refuse(value.py(), code, "services", &shown, problem, SERVICES_HINT)
}

fn service_object<'py>(
    py: Python<'py>,
    service: &ServiceDescriptor,
) -> PyResult<Bound<'py, PyDict>> {
    let Usdc(min_price) = service.min_price;
    let Usdc(max_price) = service.max_price;
    let dict = PyDict::new(py);
    dict.set_item("service_type_hash", service.service_type_hash.to_string())?;
    dict.set_item("service_type", &service.service_type)?;
    dict.set_item("schema_uri", &service.schema_uri)?;
    dict.set_item("min_price", min_price)?;
    dict.set_item("max_price", max_price)?;
    dict.set_item("avg_completion_time", service.avg_completion_time_seconds)?;
    dict.set_item("metadata_cid", &service.metadata_cid)?;
    Ok(dict)
}
