//! What both sides of a comparison understand.

use agirails::{
    Address, B256, Code, CreateTransaction, Error, Event, LinkEscrow, Transaction, TransactionId,
    U256, Usdc,
    kernel::{Escrow, Kernel, Transition},
    protocol::registry::{AgentProfile, ServiceDescriptor},
};

use crate::operations::Operation;

/// An operation with ids and times.
#[derive(Debug, Clone)]
pub enum Call {
    Create(Address, CreateTransaction),
    Link(Address, TransactionId, LinkEscrow),
    Accept(Address, TransactionId, u64),
    Step(Address, Transition),
    Milestone(Address, TransactionId, u64),
    Release(Address, TransactionId),
    Anchor(Address, TransactionId, B256),
    Recover(Address, TransactionId),
    /// One that names no transaction.
    Other(Operation),
}

/// What one side answers.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Nothing,
    Id(B256),
    Agents(Vec<Address>),
}

/// Why a call changed nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Reverted {
    /// In the contracts' words.
    Words(String),
    /// In the token's words: the owner has less.
    Balance,
    /// In the token's words: the vault may take less than this.
    Allowance { needed: U256 },
    /// What no contract should do: panics, halts, words of nobody.
    Broken(String),
}

impl From<Error> for Reverted {
    fn from(error: Error) -> Self {
        match (error.refusal(), error.code()) {
            (Some(refusal), _) => Self::Words(refusal.words().to_owned()),
            (None, Code::InsufficientBalance) => Self::Balance,
            _ => Self::Broken(format!("{error:?}")),
        }
    }
}

/// The contracts, however they are reached: what the embedded kernel is compared with. It calls
/// people, contracts and transactions what the embedded kernel calls them.
pub trait Side {
    /// Makes a call at this time, which is never earlier than the last; tells the events.
    async fn call(&mut self, call: &Call, now: u64) -> Result<(Answer, Vec<Event>), Reverted>;

    async fn transaction(&mut self, id: TransactionId) -> Result<Transaction, Reverted>;

    async fn escrow(&mut self, of: &Transaction) -> Escrow;

    async fn bond(&mut self, of: &Transaction) -> Usdc;

    /// The balance of each of them, and what the vault may take of it.
    async fn money(&mut self, owners: &[Address]) -> Vec<(Usdc, Usdc)>;

    /// `None` for an address that never registered.
    async fn agent(&mut self, agent: Address) -> Option<AgentProfile>;

    async fn services(&mut self, agent: Address) -> Vec<ServiceDescriptor>;

    async fn supports(&mut self, agent: Address, service_type_hash: B256) -> bool;
}

/// Makes a call of a kernel of this crate; what only operators do is none.
pub async fn send(kernel: &dyn Kernel, call: &Call) -> Result<Answer, Error> {
    let registry = kernel.registry().unwrap();
    match call {
        Call::Create(sender, request) => {
            return kernel.create_transaction(*sender, request).await.map(Answer::Id);
        }
        Call::Link(sender, id, link) => {
            return kernel.link_escrow(*sender, *id, *link).await.map(Answer::Id);
        }
        Call::Accept(sender, id, amount) => {
            kernel.accept_quote(*sender, *id, Usdc(*amount)).await?;
        }
        Call::Step(sender, transition) => {
            kernel.transition_state(*sender, transition).await?;
        }
        Call::Milestone(sender, id, amount) => {
            kernel.release_milestone(*sender, *id, Usdc(*amount)).await?;
        }
        Call::Release(sender, id) => kernel.release_escrow(*sender, *id).await?,
        Call::Recover(sender, id) => {
            kernel.recover_stalled(*sender, *id).await?;
        }
        Call::Anchor(sender, id, uid) => kernel.anchor_attestation(*sender, *id, *uid).await?,
        Call::Other(operation) => match operation {
            Operation::Approve { sender, amount } => kernel.approve(*sender, Usdc(*amount)).await?,
            Operation::Register { sender, endpoint, services } => {
                registry.register_agent(*sender, endpoint, services).await?;
            }
            Operation::UpdateEndpoint { sender, endpoint } => {
                registry.update_endpoint(*sender, endpoint).await?;
            }
            Operation::AddService { sender, service_type } => {
                registry.add_service_type(*sender, service_type).await?;
            }
            Operation::RemoveService { sender, hash } => {
                registry.remove_service_type(*sender, *hash).await?;
            }
            Operation::SetActive { sender, active } => {
                registry.set_active_status(*sender, *active).await?;
            }
            Operation::Query(query) => {
                let found = registry.query_agents_by_service(*query).await?;
                let addresses = found.into_iter().map(|agent| agent.agent_address);
                return Ok(Answer::Agents(addresses.collect()));
            }
            other => unreachable!("{other:?} is no call of a kernel"),
        },
    }
    Ok(Answer::Nothing)
}
