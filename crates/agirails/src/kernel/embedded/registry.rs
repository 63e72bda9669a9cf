//! The agent registry of an embedded kernel.

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    EmbeddedKernel,
    ledger::{Books, to_json},
    rows,
};
use crate::{
    error::{Error, Result},
    kernel::{AgentQuery, AgentRegistry},
    protocol::{
        Refusal, Usdc,
        did::Did,
        registry::{
            self, AgentProfile, MAX_AGENTS, MAX_QUERIED_AGENTS, MAX_QUERY_LIMIT, MAX_SERVICES,
            ServiceDescriptor,
        },
    },
    storage::Attempt,
};

const COLUMNS: &str = "seq, address, endpoint, services, reputation, total, disputed, volume, \
     registered_at, updated_at, active";

/// An agent's row.
struct Agent {
    seq: i64,
    address: Address,
    endpoint: String,
    services: Vec<ServiceDescriptor>,
    reputation: u64,
    total: u64,
    disputed: u64,
    volume: Usdc,
    registered_at: u64,
    updated_at: u64,
    active: bool,
}

impl Agent {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            address: rows::address(row, 1)?,
            endpoint: row.get(2)?,
            services: rows::json(row, 3)?,
            reputation: rows::number(row, 4)?,
            total: rows::number(row, 5)?,
            disputed: rows::number(row, 6)?,
            volume: rows::usdc(row, 7)?,
            registered_at: rows::number(row, 8)?,
            updated_at: rows::number(row, 9)?,
            active: row.get(10)?,
        })
    }

    fn find(connection: &Connection, address: Address) -> Attempt<Option<Self>> {
        let sql = format!("SELECT {COLUMNS} FROM agents WHERE address = ?1");
        let mut statement = connection.prepare_cached(&sql)?;
        Ok(statement.query_row([address.as_slice()], Self::read).optional()?)
    }

    fn into_profile(self, chain_id: u64) -> AgentProfile {
        AgentProfile {
            agent_address: self.address,
            did: Did { chain_id, address: self.address }.to_string(),
            endpoint: self.endpoint,
            service_types: self.services.iter().map(|service| service.service_type_hash).collect(),
            staked_amount: Usdc::ZERO,
            reputation_score: self.reputation,
            total_transactions: self.total,
            disputed_transactions: self.disputed,
            total_volume: self.volume,
            registered_at: self.registered_at,
            updated_at: self.updated_at,
            is_active: self.active,
            config_hash: B256::ZERO,
            config_cid: String::new(),
            listed: false,
        }
    }
}

impl Books<'_> {
    fn agent(&self, address: Address) -> Attempt<Agent> {
        Ok(Agent::find(self.connection, address)?
            .ok_or_else(|| Error::refused_value(Refusal::NotRegistered, "agent", address))?)
    }

    fn save_services(&self, agent: &Agent) -> Attempt<()> {
        self.run(
            "UPDATE agents SET services = ?2, updated_at = ?3 WHERE seq = ?1",
            params![agent.seq, to_json(&agent.services)?, self.now as i64],
        )
    }

    fn support(&self, agent: i64, service_type_hash: B256) -> Attempt<()> {
        self.run(
            "INSERT OR IGNORE INTO agent_services VALUES (?1, ?2)",
            params![service_type_hash.as_slice(), agent],
        )
    }
}

fn count_agents(connection: &Connection) -> Attempt<u64> {
    // Nobody ever leaves the registry, so the last number is the count.
    let mut statement = connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM agents")?;
    Ok(statement.query_row([], |row| rows::number(row, 0))?)
}

fn supports(connection: &Connection, agent: i64, service_type_hash: B256) -> Attempt<bool> {
    let sql = "SELECT 1 FROM agent_services WHERE service_type_hash = ?1 AND agent = ?2";
    Ok(connection.prepare_cached(sql)?.exists(params![service_type_hash.as_slice(), agent])?)
}

#[async_trait]
impl AgentRegistry for EmbeddedKernel {
    async fn register_agent(
        &self,
        sender: Address,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()> {
        self.write(|books| {
            if Agent::find(books.connection, sender)?.is_some() {
                return Err(Error::refused_value(Refusal::AlreadyRegistered, "agent", sender).into());
            }
            registry::check_profile(endpoint, services)?;
            if count_agents(books.connection)? >= MAX_AGENTS as u64 {
                return Err(Refusal::RegistryFull.into());
            }
            registry::check_services(services)?;
            books.run(
                "INSERT INTO agents (address, endpoint, services, reputation, total, disputed, volume, \
                 registered_at, updated_at, active) VALUES (?1, ?2, ?3, 0, 0, 0, 0, ?4, ?4, 1)",
                params![sender.as_slice(), endpoint, to_json(&services)?, books.now as i64],
            )?;
            let seq = books.connection.last_insert_rowid();
            services.iter().try_for_each(|service| books.support(seq, service.service_type_hash))
        })
        .await
    }

    async fn update_endpoint(&self, sender: Address, endpoint: &str) -> Result<()> {
        self.write(|books| {
            let agent = books.agent(sender)?;
            registry::check_endpoint(endpoint)?;
            books.run(
                "UPDATE agents SET endpoint = ?2, updated_at = ?3 WHERE seq = ?1",
                params![agent.seq, endpoint, books.now as i64],
            )
        })
        .await
    }

    async fn add_service_type(&self, sender: Address, service_type: &str) -> Result<()> {
        self.write(|books| {
            let mut agent = books.agent(sender)?;
            if agent.services.len() >= MAX_SERVICES {
                return Err(Refusal::ServiceLimitReached.into());
            }
            let service = ServiceDescriptor::new(service_type)?;
            if supports(books.connection, agent.seq, service.service_type_hash)? {
                return Err(Error::refused_value(
                    Refusal::ServiceAlreadyAdded,
                    "service_type",
                    service_type,
                )
                .into());
            }
            books.support(agent.seq, service.service_type_hash)?;
            agent.services.push(service);
            books.save_services(&agent)
        })
        .await
    }

    async fn remove_service_type(&self, sender: Address, service_type_hash: B256) -> Result<()> {
        self.write(|books| {
            let mut agent = books.agent(sender)?;
            if !supports(books.connection, agent.seq, service_type_hash)? {
                return Err(Error::refused_value(
                    Refusal::ServiceNotFound,
                    "service_type_hash",
                    service_type_hash,
                )
                .into());
            }
            let position = agent
                .services
                .iter()
                .position(|service| service.service_type_hash == service_type_hash);
            if let Some(position) = position {
                // The contract moves the last one into the gap.
                agent.services.swap_remove(position);
            }
            books.run(
                "DELETE FROM agent_services WHERE service_type_hash = ?1 AND agent = ?2",
                params![service_type_hash.as_slice(), agent.seq],
            )?;
            books.save_services(&agent)
        })
        .await
    }

    async fn set_active_status(&self, sender: Address, active: bool) -> Result<()> {
        self.write(|books| {
            let agent = books.agent(sender)?;
            books.run(
                "UPDATE agents SET active = ?2, updated_at = ?3 WHERE seq = ?1",
                params![agent.seq, active, books.now as i64],
            )
        })
        .await
    }

    async fn get_agent(&self, agent: Address) -> Result<Option<AgentProfile>> {
        let found = self.store.read(|connection| Agent::find(connection, agent)).await?;
        Ok(found.map(|agent| agent.into_profile(self.network.chain_id)))
    }

    async fn get_service_descriptors(&self, agent: Address) -> Result<Vec<ServiceDescriptor>> {
        let found = self.store.read(|connection| Agent::find(connection, agent)).await?;
        Ok(found.map_or_else(Vec::new, |agent| agent.services))
    }

    async fn supports_service(&self, agent: Address, service_type_hash: B256) -> Result<bool> {
        self.store
            .read(|connection| match Agent::find(connection, agent)? {
                Some(agent) => supports(connection, agent.seq, service_type_hash),
                None => Ok(false),
            })
            .await
    }

    async fn query_agents_by_service(&self, query: AgentQuery) -> Result<Vec<AgentProfile>> {
        let AgentQuery { service_type_hash, min_reputation, offset, limit } = query;
        self.store
            .read(|connection| {
                if !(1..=MAX_QUERY_LIMIT as u64).contains(&limit) {
                    return Err(Error::refused_value(Refusal::QueryLimit, "limit", limit).into());
                }
                let registered = count_agents(connection)?;
                if registered > MAX_QUERIED_AGENTS as u64 {
                    return Err(Error::refused_value(
                        Refusal::QueryCapExceeded,
                        "registered agents",
                        registered,
                    )
                    .into());
                }
                let sql = format!(
                    "SELECT {COLUMNS} FROM agents JOIN agent_services ON agent = seq \
                     WHERE service_type_hash = ?1 AND active AND reputation >= ?2 \
                     ORDER BY seq LIMIT ?3 OFFSET ?4"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let found = statement.query_map(
                    params![
                        service_type_hash.as_slice(),
                        i64::try_from(min_reputation).unwrap_or(i64::MAX),
                        limit as i64,
                        i64::try_from(offset).unwrap_or(i64::MAX)
                    ],
                    Agent::read,
                )?;
                let agents: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
                Ok(agents
                    .into_iter()
                    .map(|agent| agent.into_profile(self.network.chain_id))
                    .collect())
            })
            .await
    }
}
