//! The contracts in an EVM of our own: no node, no blocks, a clock that is told the time.

#![expect(clippy::too_many_arguments, reason = "the interfaces are the contracts' own")]

use agirails::{
    Address, B256, DisputeWindow, Event, Network, Refusal, State, Transaction, U256, Usdc,
    kernel::{AgentQuery, Escrow, Transition},
    protocol::registry::{AgentProfile, ServiceDescriptor},
};
use agirails_devnet::artifacts::{self, Artifact};
use alloy_primitives::{Bytes, Log};
use alloy_sol_types::{
    Panic, Revert, SolCall, SolError, SolEvent, SolEventInterface, SolValue, sol,
};
use revm::{
    Context, ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext, MainnetEvm,
    context::{TxEnv, result::ExecutionResult},
    database::{CacheDB, EmptyDB},
    handler::MainnetContext,
    primitives::{TxKind, hardfork::SpecId},
};

use crate::{
    operations::Operation,
    side::{Answer, Call, Reverted, Side},
};

sol! {
    interface Kernel {
        struct View {
            bytes32 transactionId;
            address requester;
            address provider;
            uint8 state;
            uint256 amount;
            uint256 createdAt;
            uint256 updatedAt;
            uint256 deadline;
            bytes32 serviceHash;
            address escrowContract;
            bytes32 escrowId;
            bytes32 attestationUID;
            uint256 disputeWindow;
            bytes32 metadata;
            uint16 platformFeeBpsLocked;
            uint16 requesterPenaltyBpsLocked;
            uint16 disputeBondBpsLocked;
            uint256 agentId;
            uint256 requesterAgentId;
            address disputeInitiator;
            uint256 disputeBond;
            bytes32 resultHash;
            bytes32 agreementHash;
        }

        function createTransaction(address provider, address requester, uint256 amount, uint256 deadline, uint256 disputeWindow, bytes32 serviceHash, uint256 agentId, uint256 requesterAgentId) returns (bytes32);
        function linkEscrow(bytes32 id, address escrowContract, bytes32 escrowId);
        function acceptQuote(bytes32 id, uint256 newAmount);
        function transitionState(bytes32 id, uint8 newState, bytes proof);
        function releaseMilestone(bytes32 id, uint256 amount);
        function releaseEscrow(bytes32 id);
        function anchorAttestation(bytes32 id, bytes32 uid);
        function recoverStalledInProgress(bytes32 id);
        function getTransaction(bytes32 id) returns (View);
        function pause();
        function unpause();
        function approveMediator(address mediator, bool approved);
        function approveEscrowVault(address vault, bool approved);
        function setArchiveTreasury(address treasury);
    }

    interface Aip14c {
        function createTransaction(address provider, address requester, uint256 amount, uint256 deadline, uint256 disputeWindow, bytes32 serviceHash, bytes32 agreementHash, uint256 agentId, uint256 requesterAgentId) returns (bytes32);

        event TransactionCreated(bytes32 indexed id, address indexed requester, address indexed provider, uint256 amount, bytes32 serviceHash, uint256 deadline, uint256 timestamp, uint256 agentId, bytes32 agreementHash);
    }

    interface KernelEvents {
        event TransactionCreated(bytes32 indexed id, address indexed requester, address indexed provider, uint256 amount, bytes32 serviceHash, uint256 deadline, uint256 timestamp, uint256 agentId);
        event StateTransitioned(bytes32 indexed id, uint8 indexed oldState, uint8 indexed newState, address triggeredBy, uint256 timestamp);
        event EscrowLinked(bytes32 indexed id, address escrowContract, bytes32 escrowId, uint256 amount, uint256 timestamp);
        event EscrowReleased(bytes32 indexed id, address recipient, uint256 amount, uint256 timestamp);
        event EscrowRefunded(bytes32 indexed id, address recipient, uint256 amount, uint256 timestamp);
        event EscrowMilestoneReleased(bytes32 indexed id, uint256 amount, uint256 timestamp);
        event QuoteAccepted(bytes32 indexed id, uint256 oldAmount, uint256 newAmount, uint256 timestamp);
        event PlatformFeeAccrued(bytes32 indexed id, address indexed recipient, uint256 amount, uint256 timestamp);
        event EscrowMediatorPaid(bytes32 indexed id, address indexed mediator, uint256 amount, uint256 timestamp);
        event AttestationAnchored(bytes32 indexed id, bytes32 indexed uid, address attester, uint256 timestamp);
        event DisputeOpened(bytes32 indexed id, address indexed initiator, uint256 bond, uint256 timestamp);
        event DisputeResolved(bytes32 indexed id, bytes32 indexed disputeId, address indexed initiator, bool providerAtFault, uint256 bond, uint256 timestamp);
        event StalledInProgressRecovered(bytes32 indexed id, address indexed requester, uint256 amount);
        event KernelPaused(address indexed by, uint256 timestamp);
        event KernelUnpaused(address indexed by, uint256 timestamp);
        event MediatorApproved(address indexed mediator, bool approved);
        event EscrowVaultApproved(address indexed vault, bool approved);
        event ArchiveTreasuryUpdated(address indexed oldTreasury, address indexed newTreasury);
    }

    interface Vault {
        struct Record {
            address requester;
            address provider;
            uint256 amount;
            uint256 releasedAmount;
            bool active;
        }

        function escrows(bytes32 escrowId) returns (Record);
        function bonds(bytes32 escrowId) returns (uint256);
    }

    interface Token {
        function mint(address to, uint256 amount);
        function approve(address spender, uint256 amount);
        function balanceOf(address owner) returns (uint256);
        function allowance(address owner, address spender) returns (uint256);

        error ERC20InsufficientBalance(address sender, uint256 balance, uint256 needed);
        error ERC20InsufficientAllowance(address spender, uint256 allowance, uint256 needed);
    }

    interface Registry {
        struct Service {
            bytes32 serviceTypeHash;
            string serviceType;
            string schemaURI;
            uint256 minPrice;
            uint256 maxPrice;
            uint256 avgCompletionTime;
            string metadataCID;
        }

        struct Profile {
            address agentAddress;
            string did;
            string endpoint;
            bytes32[] serviceTypes;
            uint256 stakedAmount;
            uint256 reputationScore;
            uint256 totalTransactions;
            uint256 disputedTransactions;
            uint256 totalVolumeUSDC;
            uint256 registeredAt;
            uint256 updatedAt;
            bool isActive;
            bytes32 configHash;
            string configCID;
            bool listed;
        }

        function registerAgent(string endpoint, Service[] services);
        function updateEndpoint(string newEndpoint);
        function addServiceType(string serviceType);
        function removeServiceType(bytes32 serviceTypeHash);
        function setActiveStatus(bool isActive);
        function getAgent(address agent) returns (Profile);
        function getServiceDescriptors(address agent) returns (Service[]);
        function supportsService(address agent, bytes32 serviceTypeHash) returns (bool);
        function queryAgentsByService(bytes32 hash, uint256 minReputation, uint256 offset, uint256 limit) returns (address[]);
    }
}

/// Enough for a registration with a hundred services; running out of it is a failure.
const GAS: u64 = 60_000_000;

type Evm = MainnetEvm<MainnetContext<CacheDB<EmptyDB>>>;

/// A chain with the contracts on it.
pub struct Chain {
    evm: Evm,
    pub network: Network,
}

impl Chain {
    /// The contracts at this network's addresses, the vault approved and the treasury set.
    ///
    /// A contract's address follows from its creator's; so that events and views need no mapping,
    /// each is created somewhere, for the addresses that the network has, and then moved there.
    /// No constructor calls another contract, so that makes no difference.
    pub fn deploy(network: &Network) -> Self {
        let context = Context::mainnet().with_db(CacheDB::default()).modify_cfg_chained(|config| {
            // Base's rules at the time of the deployment, and no rules about accounts.
            config.set_spec_and_mainnet_gas_params(SpecId::PRAGUE);
            config.chain_id = network.chain_id;
            config.disable_nonce_check = true;
            config.tx_gas_limit_cap = Some(u64::MAX);
        });
        let mut chain = Self { evm: context.build_mainnet(), network: network.clone() };
        chain.evm.ctx.block.gas_limit = u64::MAX;
        let Network { kernel, vault, usdc, admin, fee_recipient, .. } = *network;
        let (registry, treasury) =
            (network.agent_registry.unwrap(), network.archive_treasury.unwrap());
        let generation = network.terms.generation();
        let grace = network.terms.recovery_grace_seconds().map(U256::from);
        let rules = artifacts::kernel_arguments(admin, admin, fee_recipient, registry, usdc, grace);
        chain.create(usdc, artifacts::MOCK_USDC, &[]);
        chain.create(kernel, artifacts::kernel(generation), &rules);
        chain.create(vault, artifacts::ESCROW_VAULT, &(usdc, kernel).abi_encode_params());
        chain.create(registry, artifacts::AGENT_REGISTRY, &kernel.abi_encode());
        chain.create(treasury, artifacts::ARCHIVE_TREASURY, &(usdc, admin).abi_encode_params());
        let approve = Kernel::approveEscrowVaultCall { vault, approved: true };
        chain.send(admin, kernel, approve, 1).unwrap();
        chain.send(admin, kernel, Kernel::setArchiveTreasuryCall { treasury }, 1).unwrap();
        chain
    }

    /// The same chain once more, to go another way.
    pub fn fork(&self) -> Self {
        let context = Context::mainnet()
            .with_db(self.evm.ctx.journaled_state.database.clone())
            .with_cfg(self.evm.ctx.cfg.clone())
            .with_block(self.evm.ctx.block.clone());
        Self { evm: context.build_mainnet(), network: self.network.clone() }
    }

    fn create(&mut self, at: Address, contract: Artifact, arguments: &[u8]) {
        let (creator, nonce) = (Address::repeat_byte(0xc0), self.creations());
        let data = contract.creation(arguments);
        let (result, state) = self.execute(creator, TxKind::Create, data, nonce);
        let created =
            result.created_address().unwrap_or_else(|| panic!("{contract:?}: {result:?}"));
        self.evm.commit(state);
        let accounts = &mut self.evm.ctx.journaled_state.database.cache.accounts;
        let account = accounts.remove(&created).unwrap();
        accounts.insert(at, account);
    }

    fn creations(&self) -> u64 {
        let accounts = &self.evm.ctx.journaled_state.database.cache.accounts;
        accounts.get(&Address::repeat_byte(0xc0)).map_or(0, |account| account.info.nonce)
    }

    fn execute(
        &mut self,
        from: Address,
        kind: TxKind,
        data: Bytes,
        nonce: u64,
    ) -> (ExecutionResult, revm::state::EvmState) {
        let chain_id = Some(self.network.chain_id);
        let transaction =
            TxEnv { caller: from, kind, data, nonce, chain_id, gas_limit: GAS, ..TxEnv::default() };
        let done = self.evm.transact(transaction).unwrap();
        (done.result, done.state)
    }

    fn attempt(
        &mut self,
        from: Address,
        to: Address,
        data: Vec<u8>,
        now: u64,
    ) -> Result<(Bytes, Vec<Log>, revm::state::EvmState), Reverted> {
        self.evm.ctx.block.timestamp = U256::from(now);
        let (result, state) = self.execute(from, TxKind::Call(to), data.into(), 0);
        match result {
            ExecutionResult::Success { logs, output, .. } => Ok((output.into_data(), logs, state)),
            ExecutionResult::Revert { output, .. } => Err(read_revert(&output)),
            ExecutionResult::Halt { reason, .. } => Err(Reverted::Broken(format!("{reason:?}"))),
        }
    }

    /// Calls a contract at this time; returns its answer and the kernel's events.
    pub fn send<C: SolCall>(
        &mut self,
        from: Address,
        to: Address,
        call: C,
        now: u64,
    ) -> Result<(C::Return, Vec<Event>), Reverted> {
        let (output, logs, state) = self.attempt(from, to, call.abi_encode(), now)?;
        let events = logs.iter().filter(|log| log.address == self.network.kernel);
        let events = events.filter_map(read_event).collect();
        self.evm.commit(state);
        Ok((C::abi_decode_returns(&output).unwrap(), events))
    }

    /// Calls a contract as an SDK does whose sender may have to approve the vault for more first:
    /// for exactly what is needed, and only where the call is then accepted.
    pub fn send_paying<C: SolCall + Clone>(
        &mut self,
        from: Address,
        to: Address,
        call: C,
        now: u64,
    ) -> Result<Vec<Event>, Reverted> {
        let needed = match self.send(from, to, call.clone(), now) {
            Err(Reverted::Allowance { needed }) => needed,
            other => return other.map(|(_, events)| events),
        };
        let before = U256::from(self.allowance(from).0);
        self.approve(from, needed, now);
        let outcome = self.send(from, to, call, now).map(|(_, events)| events);
        if outcome.is_err() {
            self.approve(from, before, now);
        }
        outcome
    }

    pub fn approve(&mut self, owner: Address, amount: U256, now: u64) {
        let call = Token::approveCall { spender: self.network.vault, amount };
        self.send(owner, self.network.usdc, call, now).unwrap();
    }

    /// Asks a contract, of which nothing stays.
    pub fn ask<C: SolCall>(&mut self, to: Address, call: C) -> Result<C::Return, Reverted> {
        let now = self.evm.ctx.block.timestamp.to();
        let (output, ..) = self.attempt(Address::ZERO, to, call.abi_encode(), now)?;
        Ok(C::abi_decode_returns(&output).unwrap())
    }

    /// The view of a transaction; what a generation lacks of it is zero.
    fn view(&mut self, id: B256) -> Result<Kernel::View, Reverted> {
        let now = self.evm.ctx.block.timestamp.to();
        let call = Kernel::getTransactionCall { id }.abi_encode();
        let (output, ..) = self.attempt(Address::ZERO, self.network.kernel, call, now)?;
        let fields = if self.network.terms.takes_agreements() { 23 } else { 21 };
        assert_eq!(output.len(), 32 * fields);
        let words = [&output[..], &[0; 64]].concat();
        Ok(Kernel::View::abi_decode(&words[..32 * 23]).unwrap())
    }

    pub fn balance(&mut self, owner: Address) -> Usdc {
        usdc(self.ask(self.network.usdc, Token::balanceOfCall { owner }).unwrap())
    }

    pub fn allowance(&mut self, owner: Address) -> Usdc {
        let call = Token::allowanceCall { owner, spender: self.network.vault };
        usdc(self.ask(self.network.usdc, call).unwrap())
    }
}

impl Side for Chain {
    async fn call(&mut self, call: &Call, now: u64) -> Result<(Answer, Vec<Event>), Reverted> {
        let chain = self;
        let (kernel, registry) = (chain.network.kernel, chain.network.agent_registry.unwrap());
        let (usdc, admin) = (chain.network.usdc, chain.network.admin);
        let nothing = |events| (Answer::Nothing, events);
        match call {
            Call::Create(sender, request) if chain.network.terms.takes_agreements() => {
                let call = Aip14c::createTransactionCall {
                    provider: request.provider,
                    requester: request.requester,
                    amount: U256::from(request.amount.0),
                    deadline: U256::from(request.deadline),
                    disputeWindow: U256::from(request.dispute_window_seconds),
                    serviceHash: request.service_hash,
                    agreementHash: request.agreement_hash,
                    agentId: request.agent_id,
                    requesterAgentId: request.requester_agent_id,
                };
                let (id, events) = chain.send(*sender, kernel, call, now)?;
                Ok((Answer::Id(id), events))
            }
            Call::Create(sender, request) => {
                let call = Kernel::createTransactionCall {
                    provider: request.provider,
                    requester: request.requester,
                    amount: U256::from(request.amount.0),
                    deadline: U256::from(request.deadline),
                    disputeWindow: U256::from(request.dispute_window_seconds),
                    serviceHash: request.service_hash,
                    agentId: request.agent_id,
                    requesterAgentId: request.requester_agent_id,
                };
                let (id, events) = chain.send(*sender, kernel, call, now)?;
                Ok((Answer::Id(id), events))
            }
            Call::Link(sender, id, link) => {
                let call = Kernel::linkEscrowCall {
                    id: *id,
                    escrowContract: link.escrow_contract.unwrap_or(chain.network.vault),
                    escrowId: link.escrow_id.unwrap_or(*id),
                };
                let escrow_id = call.escrowId;
                let events = chain.send_paying(*sender, kernel, call, now)?;
                Ok((Answer::Id(escrow_id), events))
            }
            Call::Accept(sender, id, amount) => {
                let call = Kernel::acceptQuoteCall { id: *id, newAmount: U256::from(*amount) };
                chain.send(*sender, kernel, call, now).map(|(_, events)| nothing(events))
            }
            Call::Step(sender, Transition { id, to, data, .. }) => {
                let proof = data.clone().into();
                let call = Kernel::transitionStateCall { id: *id, newState: *to as u8, proof };
                chain.send_paying(*sender, kernel, call, now).map(nothing)
            }
            Call::Milestone(sender, id, amount) => {
                let call = Kernel::releaseMilestoneCall { id: *id, amount: U256::from(*amount) };
                chain.send(*sender, kernel, call, now).map(|(_, events)| nothing(events))
            }
            Call::Release(sender, id) => {
                let call = Kernel::releaseEscrowCall { id: *id };
                chain.send(*sender, kernel, call, now).map(|(_, events)| nothing(events))
            }
            Call::Recover(sender, id) => {
                let call = Kernel::recoverStalledInProgressCall { id: *id };
                chain.send(*sender, kernel, call, now).map(|(_, events)| nothing(events))
            }
            Call::Anchor(sender, id, uid) => {
                let call = Kernel::anchorAttestationCall { id: *id, uid: *uid };
                chain.send(*sender, kernel, call, now).map(|(_, events)| nothing(events))
            }
            Call::Other(operation) => match operation.clone() {
                Operation::Approve { sender, amount } => {
                    chain.approve(sender, U256::from(amount), now);
                    Ok(nothing(vec![]))
                }
                Operation::Mint { to, amount } => {
                    let call = Token::mintCall { to, amount: U256::from(amount) };
                    chain.send(admin, usdc, call, now).map(|(_, events)| nothing(events))
                }
                Operation::Pause(true) => chain
                    .send(admin, kernel, Kernel::pauseCall {}, now)
                    .map(|(_, events)| nothing(events)),
                Operation::Pause(false) => chain
                    .send(admin, kernel, Kernel::unpauseCall {}, now)
                    .map(|(_, events)| nothing(events)),
                Operation::ApproveMediator(mediator) => {
                    let call = Kernel::approveMediatorCall { mediator, approved: true };
                    chain.send(admin, kernel, call, now).map(|(_, events)| nothing(events))
                }
                Operation::Register { sender, endpoint, services } => {
                    let services = services.iter().map(Registry::Service::from).collect();
                    let call = Registry::registerAgentCall { endpoint, services };
                    chain.send(sender, registry, call, now).map(|(_, events)| nothing(events))
                }
                Operation::UpdateEndpoint { sender, endpoint } => {
                    let call = Registry::updateEndpointCall { newEndpoint: endpoint };
                    chain.send(sender, registry, call, now).map(|(_, events)| nothing(events))
                }
                Operation::AddService { sender, service_type } => {
                    let call = Registry::addServiceTypeCall { serviceType: service_type };
                    chain.send(sender, registry, call, now).map(|(_, events)| nothing(events))
                }
                Operation::RemoveService { sender, hash } => {
                    let call = Registry::removeServiceTypeCall { serviceTypeHash: hash };
                    chain.send(sender, registry, call, now).map(|(_, events)| nothing(events))
                }
                Operation::SetActive { sender, active } => {
                    let call = Registry::setActiveStatusCall { isActive: active };
                    chain.send(sender, registry, call, now).map(|(_, events)| nothing(events))
                }
                Operation::Query(query) => {
                    let found = chain.ask(registry, query_call(query))?;
                    Ok((Answer::Agents(found), vec![]))
                }
                other => unreachable!("{other:?} is concrete"),
            },
        }
    }

    async fn transaction(&mut self, id: B256) -> Result<Transaction, Reverted> {
        let view = self.view(id)?;
        Ok(Transaction {
            id: view.transactionId,
            requester: view.requester,
            provider: view.provider,
            state: state(view.state),
            amount: usdc(view.amount),
            created_at: view.createdAt.to(),
            updated_at: view.updatedAt.to(),
            deadline: view.deadline.to(),
            service_hash: view.serviceHash,
            escrow_contract: view.escrowContract,
            escrow_id: view.escrowId,
            attestation_uid: view.attestationUID,
            dispute_window: DisputeWindow::from_contract(view.disputeWindow.to()),
            metadata: view.metadata,
            platform_fee_bps_locked: view.platformFeeBpsLocked,
            requester_penalty_bps_locked: view.requesterPenaltyBpsLocked,
            dispute_bond_bps_locked: view.disputeBondBpsLocked,
            agent_id: view.agentId,
            requester_agent_id: view.requesterAgentId,
            dispute_initiator: view.disputeInitiator,
            dispute_bond: usdc(view.disputeBond),
            result_hash: view.resultHash,
            agreement_hash: view.agreementHash,
        })
    }

    async fn escrow(&mut self, of: &Transaction) -> Escrow {
        let call = Vault::escrowsCall { escrowId: of.escrow_id };
        let record = self.ask(self.network.vault, call).unwrap();
        Escrow {
            requester: record.requester,
            provider: record.provider,
            amount: usdc(record.amount),
            released: usdc(record.releasedAmount),
            active: record.active,
        }
    }

    async fn bond(&mut self, of: &Transaction) -> Usdc {
        let call = Vault::bondsCall { escrowId: of.escrow_id };
        usdc(self.ask(self.network.vault, call).unwrap())
    }

    async fn money(&mut self, owners: &[Address]) -> Vec<(Usdc, Usdc)> {
        owners.iter().map(|owner| (self.balance(*owner), self.allowance(*owner))).collect()
    }

    async fn agent(&mut self, agent: Address) -> Option<AgentProfile> {
        let registry = self.network.agent_registry.unwrap();
        let profile = self.ask(registry, Registry::getAgentCall { agent }).unwrap();
        // Of who never registered the contract knows zeros.
        (profile.registeredAt != U256::ZERO).then(|| AgentProfile {
            agent_address: profile.agentAddress,
            did: profile.did,
            endpoint: profile.endpoint,
            service_types: profile.serviceTypes,
            staked_amount: usdc(profile.stakedAmount),
            reputation_score: profile.reputationScore.to(),
            total_transactions: profile.totalTransactions.to(),
            disputed_transactions: profile.disputedTransactions.to(),
            total_volume: usdc(profile.totalVolumeUSDC),
            registered_at: profile.registeredAt.to(),
            updated_at: profile.updatedAt.to(),
            is_active: profile.isActive,
            config_hash: profile.configHash,
            config_cid: profile.configCID,
            listed: profile.listed,
        })
    }

    async fn services(&mut self, agent: Address) -> Vec<ServiceDescriptor> {
        let registry = self.network.agent_registry.unwrap();
        let services = self.ask(registry, Registry::getServiceDescriptorsCall { agent }).unwrap();
        services.into_iter().map(ServiceDescriptor::from).collect()
    }
    async fn supports(&mut self, agent: Address, service_type_hash: B256) -> bool {
        let registry = self.network.agent_registry.unwrap();
        let call = Registry::supportsServiceCall { agent, serviceTypeHash: service_type_hash };
        self.ask(registry, call).unwrap()
    }
}

pub fn query_call(query: AgentQuery) -> Registry::queryAgentsByServiceCall {
    Registry::queryAgentsByServiceCall {
        hash: query.service_type_hash,
        minReputation: U256::from(query.min_reputation),
        offset: U256::from(query.offset),
        limit: U256::from(query.limit),
    }
}

impl From<Registry::Service> for ServiceDescriptor {
    fn from(service: Registry::Service) -> Self {
        Self {
            service_type_hash: service.serviceTypeHash,
            service_type: service.serviceType,
            schema_uri: service.schemaURI,
            min_price: usdc(service.minPrice),
            max_price: usdc(service.maxPrice),
            avg_completion_time_seconds: service.avgCompletionTime.to(),
            metadata_cid: service.metadataCID,
        }
    }
}

impl From<&ServiceDescriptor> for Registry::Service {
    fn from(service: &ServiceDescriptor) -> Self {
        Self {
            serviceTypeHash: service.service_type_hash,
            serviceType: service.service_type.clone(),
            schemaURI: service.schema_uri.clone(),
            minPrice: U256::from(service.min_price.0),
            maxPrice: U256::from(service.max_price.0),
            avgCompletionTime: U256::from(service.avg_completion_time_seconds),
            metadataCID: service.metadata_cid.clone(),
        }
    }
}

fn usdc(amount: U256) -> Usdc {
    Usdc(amount.to())
}

fn state(number: u8) -> State {
    State::try_from(u64::from(number)).unwrap()
}

fn read_revert(data: &[u8]) -> Reverted {
    if let Ok(Revert { reason }) = Revert::abi_decode(data) {
        // A generation may say the same in other words.
        let words = Refusal::from_words(&reason).map(|refusal| refusal.words().to_owned());
        return Reverted::Words(words.unwrap_or(reason));
    }
    if Token::ERC20InsufficientBalance::abi_decode(data).is_ok() {
        return Reverted::Balance;
    }
    if let Ok(error) = Token::ERC20InsufficientAllowance::abi_decode(data) {
        return Reverted::Allowance { needed: error.needed };
    }
    match Panic::abi_decode(data) {
        Ok(panic) => Reverted::Broken(panic.to_string()),
        Err(_) => Reverted::Broken(format!("reverted with {}", Bytes::copy_from_slice(data))),
    }
}

/// An event that the SDK tells of; what the operators set up is none.
fn read_event(log: &Log) -> Option<Event> {
    use KernelEvents::KernelEventsEvents as Told;
    if let Ok(e) = Aip14c::TransactionCreated::decode_log(log).map(|decoded| decoded.data) {
        return Some(Event::TransactionCreated {
            transaction_id: e.id,
            requester: e.requester,
            provider: e.provider,
            amount: usdc(e.amount),
            service_hash: e.serviceHash,
            deadline: e.deadline.to(),
            timestamp: e.timestamp.to(),
            agent_id: e.agentId,
            agreement_hash: e.agreementHash,
        });
    }
    // An event that no row here knows must not go by unseen.
    let told = Told::decode_log(log)
        .map_or_else(|_| panic!("an unknown event of the kernel: {log:?}"), |decoded| decoded.data);
    Some(match told {
        Told::TransactionCreated(e) => Event::TransactionCreated {
            transaction_id: e.id,
            requester: e.requester,
            provider: e.provider,
            amount: usdc(e.amount),
            service_hash: e.serviceHash,
            deadline: e.deadline.to(),
            timestamp: e.timestamp.to(),
            agent_id: e.agentId,
            agreement_hash: B256::ZERO,
        },
        Told::StalledInProgressRecovered(e) => Event::StalledInProgressRecovered {
            transaction_id: e.id,
            requester: e.requester,
            amount: usdc(e.amount),
        },
        Told::StateTransitioned(e) => Event::StateTransitioned {
            transaction_id: e.id,
            old_state: state(e.oldState),
            new_state: state(e.newState),
            triggered_by: e.triggeredBy,
            timestamp: e.timestamp.to(),
        },
        Told::EscrowLinked(e) => Event::EscrowLinked {
            transaction_id: e.id,
            escrow_contract: e.escrowContract,
            escrow_id: e.escrowId,
            amount: usdc(e.amount),
            timestamp: e.timestamp.to(),
        },
        Told::EscrowReleased(e) => Event::EscrowReleased {
            transaction_id: e.id,
            recipient: e.recipient,
            amount: usdc(e.amount),
            timestamp: e.timestamp.to(),
        },
        Told::EscrowRefunded(e) => Event::EscrowRefunded {
            transaction_id: e.id,
            recipient: e.recipient,
            amount: usdc(e.amount),
            timestamp: e.timestamp.to(),
        },
        Told::EscrowMilestoneReleased(e) => Event::EscrowMilestoneReleased {
            transaction_id: e.id,
            amount: usdc(e.amount),
            timestamp: e.timestamp.to(),
        },
        Told::QuoteAccepted(e) => Event::QuoteAccepted {
            transaction_id: e.id,
            old_amount: usdc(e.oldAmount),
            new_amount: usdc(e.newAmount),
            timestamp: e.timestamp.to(),
        },
        Told::PlatformFeeAccrued(e) => Event::PlatformFeeAccrued {
            transaction_id: e.id,
            recipient: e.recipient,
            amount: usdc(e.amount),
            timestamp: e.timestamp.to(),
        },
        Told::EscrowMediatorPaid(e) => Event::EscrowMediatorPaid {
            transaction_id: e.id,
            recipient: e.mediator,
            amount: usdc(e.amount),
            timestamp: e.timestamp.to(),
        },
        Told::AttestationAnchored(e) => Event::AttestationAnchored {
            transaction_id: e.id,
            attestation_uid: e.uid,
            attester: e.attester,
            timestamp: e.timestamp.to(),
        },
        Told::DisputeOpened(e) => Event::DisputeOpened {
            transaction_id: e.id,
            initiator: e.initiator,
            bond: usdc(e.bond),
            timestamp: e.timestamp.to(),
        },
        Told::DisputeResolved(e) => Event::DisputeResolved {
            transaction_id: e.id,
            dispute_id: e.disputeId,
            initiator: e.initiator,
            provider_at_fault: e.providerAtFault,
            bond: usdc(e.bond),
            timestamp: e.timestamp.to(),
        },
        Told::KernelPaused(e) => Event::KernelPaused { by: e.by, timestamp: e.timestamp.to() },
        Told::KernelUnpaused(e) => Event::KernelUnpaused { by: e.by, timestamp: e.timestamp.to() },
        Told::MediatorApproved(_)
        | Told::EscrowVaultApproved(_)
        | Told::ArchiveTreasuryUpdated(_) => return None,
    })
}
