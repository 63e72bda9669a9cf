//! The agent registry on a chain (AIP-7).
//!
//! The contract checks and speaks; here its words get the value that they refuse.

use alloy_primitives::{Address, B256, U256};
use async_trait::async_trait;

use super::{
    ChainKernel,
    contracts::{Contract, registry as abi},
    lens::Read,
    with_value,
};
use crate::{
    error::{Code, Error, Result},
    kernel::{AgentQuery, AgentRegistry},
    protocol::{
        Refusal,
        registry::{AgentProfile, MAX_QUERIED_AGENTS, ServiceDescriptor},
    },
};

/// Words of a profile as most are: an endpoint of up to 96 bytes, a few services. What is longer
/// makes an answer too large at worst, and is then read in parts.
const PROFILE_WORDS: usize = 36;

impl ChainKernel {
    fn agents(&self) -> Result<Contract> {
        let address = self.network.agent_registry.ok_or_else(|| {
            Error::new(Code::NetworkUnavailable, "this network has no agent registry")
                .with_hint("name contracts.agentRegistry in the network profile, if there is one")
        })?;
        Ok(Contract { role: "agent registry", address })
    }

    async fn write_agent(
        &self,
        sender: Address,
        what: &'static str,
        call: &impl alloy_sol_types::SolCall,
    ) -> Result<()> {
        let registry = self.agents()?.address;
        let own = [Refusal::AlreadyRegistered, Refusal::NotRegistered];
        self.send(sender, what, registry, call)
            .await
            .map(drop)
            .map_err(|error| with_value(error, &own, "agent", sender))
    }
}

/// `None` for the zeros of an address that never registered.
fn registered(profile: abi::Profile) -> Result<Option<AgentProfile>> {
    if profile.registeredAt.is_zero() { Ok(None) } else { profile.try_into().map(Some) }
}

#[async_trait]
impl AgentRegistry for ChainKernel {
    async fn register_agent(
        &self,
        sender: Address,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()> {
        let services = services.iter().map(Into::into).collect();
        let call = abi::registerAgentCall { endpoint: endpoint.to_owned(), services };
        self.write_agent(sender, "registerAgent", &call).await
    }

    async fn update_endpoint(&self, sender: Address, endpoint: &str) -> Result<()> {
        let call = abi::updateEndpointCall { newEndpoint: endpoint.to_owned() };
        self.write_agent(sender, "updateEndpoint", &call).await
    }

    async fn add_service_type(&self, sender: Address, service_type: &str) -> Result<()> {
        let call = abi::addServiceTypeCall { serviceType: service_type.to_owned() };
        let added = [Refusal::ServiceAlreadyAdded];
        self.write_agent(sender, "addServiceType", &call)
            .await
            .map_err(|error| with_value(error, &added, "service_type", service_type))
    }

    async fn remove_service_type(&self, sender: Address, service_type_hash: B256) -> Result<()> {
        let call = abi::removeServiceTypeCall { serviceTypeHash: service_type_hash };
        let unknown = [Refusal::ServiceNotFound];
        self.write_agent(sender, "removeServiceType", &call)
            .await
            .map_err(|error| with_value(error, &unknown, "service_type_hash", service_type_hash))
    }

    async fn set_active_status(&self, sender: Address, active: bool) -> Result<()> {
        let call = abi::setActiveStatusCall { isActive: active };
        self.write_agent(sender, "setActiveStatus", &call).await
    }

    async fn get_agent(&self, agent: Address) -> Result<Option<AgentProfile>> {
        let call = abi::getAgentCall { agentAddress: agent };
        registered(self.reader.call(self.agents()?, &call).await?)
    }

    async fn get_service_descriptors(&self, agent: Address) -> Result<Vec<ServiceDescriptor>> {
        let call = abi::getServiceDescriptorsCall { agentAddress: agent };
        let found = self.reader.call(self.agents()?, &call).await?;
        found.into_iter().map(TryInto::try_into).collect()
    }

    async fn supports_service(&self, agent: Address, service_type_hash: B256) -> Result<bool> {
        let call =
            abi::supportsServiceCall { agentAddress: agent, serviceTypeHash: service_type_hash };
        self.reader.call(self.agents()?, &call).await
    }

    /// Two round trips: the addresses, then all profiles.
    async fn query_agents_by_service(&self, query: AgentQuery) -> Result<Vec<AgentProfile>> {
        let AgentQuery { service_type_hash, min_reputation, offset, limit } = query;
        let registry = self.agents()?;
        let call = abi::queryAgentsByServiceCall {
            serviceTypeHash: service_type_hash,
            minReputation: U256::from(min_reputation),
            offset: U256::from(offset),
            limit: U256::from(limit),
        };
        let found = self.reader.call(registry, &call).await.map_err(|error| {
            let error = with_value(error, &[Refusal::QueryLimit], "limit", limit);
            let many = format!("more than {MAX_QUERIED_AGENTS}");
            with_value(error, &[Refusal::QueryCapExceeded], "registered agents", many)
        })?;
        let reads: Vec<_> = found
            .into_iter()
            .map(|agent| {
                Read::new(registry, &abi::getAgentCall { agentAddress: agent }, PROFILE_WORDS)
            })
            .collect();
        let answers = self.reader.read_many(&reads).await?;
        let profiles =
            answers.iter().map(|answer| registered(answer.decode::<abi::getAgentCall>()?));
        Ok(profiles.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}
