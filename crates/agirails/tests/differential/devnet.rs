//! The contracts on a local chain, through the chain kernel, which signs for everybody.

use std::{collections::HashMap, sync::Arc};

use agirails::{
    Address, B256, CreateTransaction, Event, Network, PrivateKey, Result, Storage, Transaction,
    TransactionId, U256, Usdc,
    kernel::{
        AgentRegistry, Escrow, Kernel,
        chain::{ChainKernel, ChainSettings},
    },
    protocol::{
        id::transaction_id,
        registry::{AgentProfile, ServiceDescriptor},
    },
};
use agirails_devnet::Devnet;
use alloy_primitives::{Bytes, hex, keccak256};
use alloy_sol_types::{SolCall, sol};
use futures_util::future::join_all;
use serde_json::json;

use crate::{
    operations::{MEDIATORS, Operation, PEOPLE, contracts},
    side::{Answer, Call, Reverted, Side, send},
};

sol! {
    function updateFeeRecipient(address recipient);
    function bonds(bytes32 escrowId) returns (uint256);
}

/// Wei, for gas.
const GAS_MONEY: u128 = 100_000_000_000_000_000_000;

/// A devnet whose clock stands still but where a call sets it ahead.
pub struct Local {
    devnet: Devnet,
    kernel: ChainKernel,
    names: Names,
    /// How many transactions each requester has created.
    nonces: HashMap<Address, u64>,
    cursor: u64,
    time: u64,
}

impl Local {
    /// For the embedded kernel's network, each of these owners with so much.
    pub async fn start(network: &Network, owners: &[Address], amount: Usdc) -> Result<Self> {
        let devnet = Devnet::builder().generation(network.terms.generation()).start().await?;
        let deployed = devnet.profile().contracts;
        // On a chain who calls has a key: people, mediators and the fee recipient get one.
        let people = PEOPLE.into_iter().chain(MEDIATORS).chain([network.fee_recipient]);
        let keys: Vec<_> = people.map(|person| (person, key_of(person))).collect();
        let mut names = Names::default();
        for (person, key) in &keys {
            devnet.set_eth(key.address(), U256::from(GAS_MONEY)).await?;
            names.addresses.push((*person, key.address()));
        }
        names.addresses.push((network.admin, devnet.admin().address));
        names.addresses.extend(contracts(network).into_iter().zip([
            deployed.actp_kernel,
            deployed.escrow_vault,
            deployed.usdc,
            deployed.agent_registry.unwrap(),
            deployed.archive_treasury.unwrap(),
        ]));
        let recipient = names.there(network.fee_recipient);
        let call = updateFeeRecipientCall { recipient }.abi_encode().into();
        devnet.send(devnet.admin().address, Some(deployed.actp_kernel), call).await?;
        for owner in owners {
            devnet.mint(names.there(*owner), amount).await?;
        }
        // From here on a block has the time of the block before, if not told another.
        devnet.rpc("anvil_setBlockTimestampInterval", json!([0])).await?;

        let mut settings = ChainSettings::new(devnet.profile().clone());
        settings.storage = Storage::Memory;
        let keys = keys.into_iter().map(|(_, key)| key);
        let keys = keys.chain([devnet.admin().private_key.clone()]);
        settings.wallets = keys.map(|key| Arc::new(key) as _).collect();
        let kernel = ChainKernel::connect(settings).await?;
        let time = devnet.now().await?;
        Ok(Self { devnet, kernel, names, nonces: HashMap::new(), cursor: 0, time })
    }

    async fn set_clock(&mut self, now: u64) -> Result<()> {
        if now > self.time {
            self.devnet.set_next_time(now).await?;
            self.devnet.mine(1).await?;
            self.time = now;
        }
        Ok(())
    }

    async fn make(&self, call: &Call) -> Result<Answer> {
        match call {
            Call::Other(Operation::Mint { to, amount }) => {
                self.devnet.mint(*to, Usdc(*amount)).await?;
            }
            Call::Other(Operation::Pause(true)) => self.devnet.pause().await?,
            Call::Other(Operation::Pause(false)) => self.devnet.unpause().await?,
            Call::Other(Operation::ApproveMediator(mediator)) => {
                self.devnet.approve_mediator(*mediator).await?;
            }
            call => return send(&self.kernel, call).await,
        }
        Ok(Answer::Nothing)
    }

    /// What the embedded kernel calls a transaction that was created here: its id follows from who
    /// takes part.
    fn name_created(&mut self, call: &Call, there: TransactionId) {
        let Call::Create(sender, request) = call else { return };
        let nonce = self.nonces.entry(*sender).or_default();
        let &CreateTransaction { provider, amount, service_hash, .. } = request;
        let here = transaction_id(*sender, provider, amount, service_hash, *nonce);
        *nonce += 1;
        self.names.ids.push((here, there));
    }

    async fn new_events(&mut self) -> Vec<Event> {
        let records = self.kernel.events(self.cursor, 10_000).await.unwrap();
        self.cursor = records.last().map_or(self.cursor, |record| record.cursor);
        records.into_iter().map(|record| self.names.event_here(&record.event)).collect()
    }
}

impl Side for Local {
    async fn call(&mut self, call: &Call, now: u64) -> Result<(Answer, Vec<Event>), Reverted> {
        self.set_clock(now).await?;
        let answer = self.make(&self.names.call_there(call)).await?;
        if let Answer::Id(id) = answer {
            self.name_created(call, id);
        }
        let answer = match answer {
            Answer::Nothing => Answer::Nothing,
            Answer::Id(id) => Answer::Id(self.names.word_here(id)),
            Answer::Agents(agents) => {
                Answer::Agents(agents.into_iter().map(|agent| self.names.here(agent)).collect())
            }
        };
        Ok((answer, self.new_events().await))
    }

    async fn transaction(&mut self, id: TransactionId) -> Result<Transaction, Reverted> {
        let tx = self.kernel.get_transaction(self.names.word_there(id)).await?;
        let names = &self.names;
        Ok(Transaction {
            id: names.word_here(tx.id),
            requester: names.here(tx.requester),
            provider: names.here(tx.provider),
            escrow_contract: names.here(tx.escrow_contract),
            escrow_id: names.word_here(tx.escrow_id),
            dispute_initiator: names.here(tx.dispute_initiator),
            ..tx
        })
    }

    async fn escrow(&mut self, of: &Transaction) -> Escrow {
        let escrow = self.kernel.escrow(self.names.word_there(of.id)).await.unwrap();
        let (requester, provider) =
            (self.names.here(escrow.requester), self.names.here(escrow.provider));
        Escrow { requester, provider, ..escrow }
    }

    async fn bond(&mut self, of: &Transaction) -> Usdc {
        let call = bondsCall { escrowId: self.names.word_there(of.escrow_id) };
        let vault = self.kernel.network().vault;
        let call = json!({"to": vault, "data": Bytes::from(call.abi_encode())});
        let answer = self.devnet.rpc("eth_call", json!([call, "latest"])).await.unwrap();
        let bond: B256 = serde_json::from_value(answer).unwrap();
        Usdc(U256::from_be_bytes(bond.0).to())
    }

    async fn money(&mut self, owners: &[Address]) -> Vec<(Usdc, Usdc)> {
        let kernel = &self.kernel;
        join_all(
            owners.iter().map(|owner| {
                let owner = self.names.there(*owner);
                async move {
                    (kernel.balance(owner).await.unwrap(), kernel.allowance(owner).await.unwrap())
                }
            }),
        )
        .await
    }

    async fn agent(&mut self, agent: Address) -> Option<AgentProfile> {
        let there = self.names.there(agent);
        let profile = self.kernel.get_agent(there).await.unwrap()?;
        let did = profile.did.replace(&format!("{there:#x}"), &format!("{agent:#x}"));
        Some(AgentProfile { agent_address: self.names.here(profile.agent_address), did, ..profile })
    }

    async fn services(&mut self, agent: Address) -> Vec<ServiceDescriptor> {
        self.kernel.get_service_descriptors(self.names.there(agent)).await.unwrap()
    }

    async fn supports(&mut self, agent: Address, service_type_hash: B256) -> bool {
        self.kernel.supports_service(self.names.there(agent), service_type_hash).await.unwrap()
    }
}

fn key_of(person: Address) -> PrivateKey {
    keccak256(format!("the key of {person}")).to_string().parse().unwrap()
}

/// What the embedded kernel calls people, contracts and transactions, and what the chain does.
#[derive(Default)]
struct Names {
    addresses: Vec<(Address, Address)>,
    ids: Vec<(TransactionId, TransactionId)>,
}

/// The other name of this, where it has one.
fn other<T: Copy + PartialEq>(mut names: impl Iterator<Item = (T, T)>, of: T) -> T {
    names.find(|(name, _)| *name == of).map_or(of, |(_, other)| other)
}

impl Names {
    fn there(&self, address: Address) -> Address {
        other(self.addresses.iter().copied(), address)
    }

    fn here(&self, address: Address) -> Address {
        other(self.addresses.iter().map(|(here, there)| (*there, *here)), address)
    }

    /// An id of a transaction, which may serve as the id of an escrow; other words stay.
    fn word_there(&self, word: B256) -> B256 {
        other(self.ids.iter().copied(), word)
    }

    fn word_here(&self, word: B256) -> B256 {
        other(self.ids.iter().map(|(here, there)| (*there, *here)), word)
    }

    /// Through JSON, where addresses and ids stand in lower case, and nothing else looks like them.
    fn event_here(&self, event: &Event) -> Event {
        let mut text = serde_json::to_string(event).unwrap();
        for (here, there) in &self.addresses {
            text = rename(&text, there.as_slice(), here.as_slice());
        }
        for (here, there) in &self.ids {
            text = rename(&text, there.as_slice(), here.as_slice());
        }
        serde_json::from_str(&text).unwrap()
    }

    fn call_there(&self, call: &Call) -> Call {
        let there = |address: &Address| self.there(*address);
        let id = |id: &TransactionId| self.word_there(*id);
        match call.clone() {
            Call::Create(sender, mut request) => {
                request.requester = there(&request.requester);
                request.provider = there(&request.provider);
                Call::Create(there(&sender), request)
            }
            Call::Link(sender, of, mut link) => {
                link.escrow_contract = link.escrow_contract.as_ref().map(there);
                link.escrow_id = link.escrow_id.as_ref().map(id);
                Call::Link(there(&sender), id(&of), link)
            }
            Call::Accept(sender, of, amount) => Call::Accept(there(&sender), id(&of), amount),
            Call::Step(sender, mut transition) => {
                transition.id = id(&transition.id);
                self.rename_mediator(&mut transition.data);
                Call::Step(there(&sender), transition)
            }
            Call::Milestone(sender, of, amount) => Call::Milestone(there(&sender), id(&of), amount),
            Call::Release(sender, of) => Call::Release(there(&sender), id(&of)),
            Call::Anchor(sender, of, uid) => Call::Anchor(there(&sender), id(&of), uid),
            Call::Recover(sender, of) => Call::Recover(there(&sender), id(&of)),
            Call::Other(mut operation) => {
                match &mut operation {
                    Operation::Approve { sender: who, .. }
                    | Operation::Mint { to: who, .. }
                    | Operation::ApproveMediator(who)
                    | Operation::Register { sender: who, .. }
                    | Operation::UpdateEndpoint { sender: who, .. }
                    | Operation::AddService { sender: who, .. }
                    | Operation::RemoveService { sender: who, .. }
                    | Operation::SetActive { sender: who, .. } => *who = there(who),
                    _ => {}
                }
                Call::Other(operation)
            }
        }
    }

    /// A resolution names a mediator in the last 20 bytes of a word.
    fn rename_mediator(&self, data: &mut [u8]) {
        for word in data.chunks_exact_mut(32) {
            let address = self.there(Address::from_slice(&word[12..]));
            word[12..].copy_from_slice(address.as_slice());
        }
    }
}

/// The same text with one hexadecimal value in place of another.
fn rename(text: &str, from: &[u8], to: &[u8]) -> String {
    text.replace(&hex::encode(from), &hex::encode(to))
}
