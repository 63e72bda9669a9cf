//! The embedded kernel beside the contracts: random operations by random people at random times,
//! on both, and after each of them the same states, escrows, balances, allowances, events, agents
//! and words of refusal.
//!
//! The contracts are met twice: very often in an EVM of our own ([`evm`]), and in a sample on a
//! local chain, through the chain kernel ([`devnet`]), which has to bring all that over.
//!
//! | variable | meaning |
//! |---|---|
//! | `AGIRAILS_FUZZ_SECONDS=60` | goes on for so long, with new seeds (`make fuzz`); in the EVM alone |
//! | `AGIRAILS_FUZZ_SEED=7` | one sequence again, the one that a failure named |

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod devnet;
mod evm;
mod operations;
mod side;

use std::{
    collections::{BTreeMap, HashMap},
    env, fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agirails::{
    Address, B256, CreateTransaction, Error, Event, Generation, LinkEscrow, Network, Refusal,
    State, Storage, Transaction, TransactionId, U256, Usdc,
    kernel::{
        AgentQuery, AgentRegistry, Kernel as _, Transition,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    protocol::registry::AgentProfile,
};
use devnet::Local;
use evm::{Chain, Registry, Token, query_call};
use operations::{
    Create, DAY, Deal, EscrowId, Generator, Label, MEDIATORS, Operation, PEOPLE, USDC, View, When,
    contracts, describe,
};
use side::{Answer, Call, Reverted, Side, send};

/// What everybody owns at the beginning but the protocol's own accounts.
const START: Usdc = Usdc(1_000 * USDC);
/// Enough for some twenty transactions; a failure is found again in fewer.
const SEQUENCE: usize = 250;
/// How many sequences the sample on a chain has, where each operation takes many requests.
const SAMPLES: u64 = 3;
/// How many operations the test makes on each generation where no time is given.
const OPERATIONS: u64 = 50_000;
/// Everything is compared after so many operations, what one of them touches after each.
const EVERYTHING: usize = 25;

/// Refusals that no sequence can come to.
const OUT_OF_REACH: [Refusal; 9] = [
    // The embedded kernel has one vault, which nobody revokes.
    Refusal::VaultNotApproved,
    // An id holds a nonce that is used once.
    Refusal::TxExists,
    // The token pays in full or refuses; the kernel remembers ids longer than the vault does.
    Refusal::EscrowFundingFailed,
    Refusal::EscrowExists,
    // Work in progress has an escrow.
    Refusal::EscrowMissing,
    Refusal::EscrowMissingForDispute,
    // Ten thousand agents; a thousand have a test of their own.
    Refusal::RegistryFull,
    Refusal::QueryCapExceeded,
    // The SDK reads a DID itself.
    Refusal::InvalidDidLength,
];

/// Why a sequence ended early.
#[derive(Debug)]
enum End {
    /// The two differ.
    Differs(String),
    /// The second changed during a call that does not tell its time: nobody is to blame.
    Untimed,
}

fn differs(what: impl fmt::Display) -> End {
    End::Differs(what.to_string())
}

fn same<T: PartialEq + fmt::Debug>(
    what: impl fmt::Display,
    embedded: T,
    evm: T,
) -> Result<(), End> {
    if embedded == evm {
        return Ok(());
    }
    Err(differs(format_args!("{what}\n  embedded: {embedded:?}\n  contracts: {evm:?}")))
}

/// What came of the operations.
#[derive(Debug, Default)]
struct Tally {
    operations: u64,
    accepted: u64,
    refused: BTreeMap<String, u64>,
    reached: BTreeMap<State, u64>,
    untimed: u64,
}

impl Tally {
    fn add(&mut self, done: Done) {
        self.operations += 1;
        match done.refused {
            Some(word) => *self.refused.entry(word).or_default() += 1,
            None => self.accepted += 1,
        }
        for state in done.reached {
            *self.reached.entry(state).or_default() += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, accepted, refused, reached, untimed } = self;
        let all: u64 = refused.values().sum();
        writeln!(f, "{operations} operations: {accepted} accepted, {all} refused")?;
        let reached = reached.iter().map(|(state, count)| format!("{state} {count}"));
        writeln!(f, "states reached: {}", reached.collect::<Vec<_>>().join(" · "))?;
        for (word, count) in refused {
            writeln!(f, "{count:>7} {word}")?;
        }
        write!(f, "{untimed} sequences left where a second changed unseen")
    }
}

/// What came of one operation.
struct Done {
    refused: Option<String>,
    reached: Vec<State>,
}

/// In the words of the protocol, or this one where it is the token that refuses.
const TOO_LITTLE: &str = "(too little balance)";

/// The embedded kernel and the contracts, and what is known of them.
struct Pair<S> {
    embedded: EmbeddedKernel,
    contracts: S,
    ids: HashMap<Label, TransactionId>,
    /// In the order of their creation: label, transaction and what is left in escrow.
    deals: Vec<(Label, Transaction, Usdc)>,
    agents: Vec<AgentProfile>,
    mediators: Vec<(Address, u64)>,
    paused: bool,
    cursor: u64,
    played: usize,
}

/// Who takes part, in the embedded kernel's names.
fn everybody(network: &Network) -> Vec<Address> {
    PEOPLE.into_iter().chain(MEDIATORS).chain(contracts(network)).collect()
}

/// Who of them begins with [`START`].
fn owners(network: &Network) -> Vec<Address> {
    let mut owners = everybody(network);
    owners.retain(|owner| *owner != network.vault && Some(*owner) != network.archive_treasury);
    owners
}

impl<S: Side> Pair<S> {
    /// Beside contracts whose [`owners`] have what they begin with.
    async fn open(generation: Generation, contracts: S) -> Self {
        let options = EmbeddedOptions {
            starting_balance: Some(START),
            generation: Some(generation),
            ..EmbeddedOptions::new(Storage::Memory)
        };
        let embedded = EmbeddedKernel::open(options).await.unwrap();
        for owner in everybody(embedded.network()) {
            embedded.greet(owner).await.unwrap();
        }
        Self {
            embedded,
            contracts,
            ids: HashMap::new(),
            deals: vec![],
            agents: vec![],
            mediators: vec![],
            paused: false,
            cursor: 0,
            played: 0,
        }
    }

    async fn view(&self) -> View<'_> {
        View {
            now: self.embedded.now().await.unwrap(),
            paused: self.paused,
            deals: self
                .deals
                .iter()
                .map(|(label, tx, remaining)| Deal { label: *label, tx, remaining: remaining.0 })
                .collect(),
            agents: &self.agents,
            mediators: &self.mediators,
        }
    }

    fn id(&self, of: Label) -> TransactionId {
        self.ids.get(&of).copied().unwrap_or(B256::repeat_byte(0xee))
    }

    /// One operation on both, and whatever it may have touched compared.
    /// `None` for a wait.
    async fn play(&mut self, operation: &Operation) -> Result<Option<Done>, End> {
        let Some(call) = self.concrete(operation).await else { return Ok(None) };
        let (answer, events, now) = self.call_embedded(operation, &call).await?;
        let expected = match &call {
            // The embedded kernel's switch stays where it is; the contract's refuses that.
            Call::Other(Operation::Pause(paused)) if *paused == self.paused => {
                Ok((Answer::Nothing, vec![]))
            }
            call => self.contracts.call(call, now).await,
        };
        let answer = match answer.map_err(Reverted::from) {
            Err(Reverted::Broken(what)) => {
                return Err(differs(format_args!("the embedded kernel fails: {what}")));
            }
            answer => answer,
        };
        let (told, expected) = match expected {
            Ok((answer, events)) => (events, Ok(answer)),
            Err(refused @ (Reverted::Words(_) | Reverted::Balance)) => (vec![], Err(refused)),
            Err(broken) => return Err(differs(format_args!("the contracts fail: {broken:?}"))),
        };
        same("the outcome", &answer, &expected)?;
        same("the events", &events, &told)?;

        if let (Operation::Create(label, _), Ok(Answer::Id(id))) = (operation, &answer) {
            self.ids.insert(*label, *id);
        }
        if answer.is_ok() {
            self.note(&call, now);
        }
        self.played += 1;
        if let Some(of) = operation.of() {
            self.compare_transaction(of).await?;
        }
        if answer.is_ok() {
            self.compare_money().await?;
        }
        let mut agents: Vec<_> = operation.agent().into_iter().collect();
        if events.iter().any(|event| matches!(event, Event::StateTransitioned { .. })) {
            let of = operation.of().map(|of| self.id(of));
            let tx = self.deals.iter().find(|(_, tx, _)| Some(tx.id) == of);
            agents.extend(tx.map(|(_, tx, _)| tx.provider));
        }
        for agent in agents {
            self.compare_agent(agent).await?;
        }
        if self.played.is_multiple_of(EVERYTHING) {
            self.compare_everything().await?;
        }
        let reached = events.iter().filter_map(|event| match event {
            Event::TransactionCreated { .. } => Some(State::Initiated),
            Event::StateTransitioned { new_state, .. } => Some(*new_state),
            _ => None,
        });
        let refused = expected.err().map(|refused| match refused {
            Reverted::Words(words) => words,
            _ => TOO_LITTLE.to_owned(),
        });
        Ok(Some(Done { reached: reached.collect(), refused }))
    }

    /// The operation with this moment's ids and times; `None` for a wait, which is over then.
    async fn concrete(&self, operation: &Operation) -> Option<Call> {
        let now = self.embedded.now().await.unwrap();
        let until = |of: Label, time: &dyn Fn(&Transaction) -> u64, beyond: i64| {
            let (_, tx, _) = self.deals.iter().find(|(label, ..)| *label == of)?;
            time(tx).checked_add_signed(beyond)?.checked_sub(now)
        };
        let wait = match operation {
            Operation::Wait(seconds) => Some(*seconds),
            Operation::WaitForDeadline(of, beyond) => until(*of, &|tx| tx.deadline, *beyond),
            Operation::WaitForGrace(of, beyond) => {
                let terms = self.embedded.network().terms;
                until(*of, &|tx| terms.delivered_until(tx.deadline), *beyond)
            }
            // A duration before delivery: a moment of 1970, which is not ahead.
            Operation::WaitForWindow(of, beyond) => {
                until(*of, &|tx| tx.dispute_window.to_contract(), *beyond)
            }
            _ => None,
        };
        if let Some(seconds) = wait {
            self.embedded.advance_time(seconds).await.unwrap();
        }
        Some(match operation.clone() {
            Operation::Wait(_)
            | Operation::WaitForDeadline(..)
            | Operation::WaitForGrace(..)
            | Operation::WaitForWindow(..) => return None,
            Operation::Create(_, create) => Call::Create(create.sender, request(&create, now)),
            Operation::Link { sender, of, vault, escrow_id } => {
                let escrow_id = escrow_id.map(|escrow_id| match escrow_id {
                    EscrowId::Word(word) => word,
                    EscrowId::Of(other) => self.id(other),
                });
                let link = LinkEscrow { escrow_contract: vault, escrow_id, most: None };
                Call::Link(sender, self.id(of), link)
            }
            Operation::Accept { sender, of, amount } => Call::Accept(sender, self.id(of), amount),
            Operation::Step { sender, of, to, data } => {
                Call::Step(sender, Transition { id: self.id(of), to, data: data.0, proof: None })
            }
            Operation::Milestone { sender, of, amount } => {
                Call::Milestone(sender, self.id(of), amount)
            }
            Operation::Release { sender, of } => Call::Release(sender, self.id(of)),
            Operation::Anchor { sender, of, uid } => Call::Anchor(sender, self.id(of), uid),
            Operation::Recover { sender, of } => Call::Recover(sender, self.id(of)),
            other => Call::Other(other),
        })
    }

    /// Calls the embedded kernel, and finds out at which second.
    async fn call_embedded(
        &mut self,
        operation: &Operation,
        call: &Call,
    ) -> Result<(Result<Answer, Error>, Vec<Event>, u64), End> {
        loop {
            let before = self.embedded.now().await.unwrap();
            let answer = send_embedded(&self.embedded, call).await;
            let after = self.embedded.now().await.unwrap();
            if before != after && answer.is_err() {
                // It changed nothing, so it can be asked again.
                continue;
            }
            let records = self.embedded.events(self.cursor, 10_000).await.unwrap();
            self.cursor = records.last().map_or(self.cursor, |record| record.cursor);
            let events: Vec<_> = records.into_iter().map(|record| record.event).collect();
            let now = match (before == after, events.first(), operation.agent()) {
                (true, ..) => before,
                (false, Some(event), _) => timestamp(event),
                (false, None, Some(agent)) => {
                    self.embedded.get_agent(agent).await.unwrap().unwrap().updated_at
                }
                (false, None, None) if matches!(operation, Operation::ApproveMediator(_)) => {
                    return Err(End::Untimed);
                }
                // Nothing that these do depends on the time.
                (false, None, None) => before,
            };
            return Ok((answer, events, now));
        }
    }

    fn note(&mut self, call: &Call, now: u64) {
        match call {
            Call::Other(Operation::Pause(paused)) => self.paused = *paused,
            Call::Other(Operation::ApproveMediator(mediator))
                if self.mediators.iter().all(|(known, _)| known != mediator) =>
            {
                self.mediators.push((*mediator, now + 2 * DAY));
            }
            _ => {}
        }
    }

    // Comparisons.

    async fn compare_transaction(&mut self, of: Label) -> Result<(), End> {
        let id = self.id(of);
        let found = self.embedded.get_transaction(id).await.map_err(Reverted::from);
        let expected = self.contracts.transaction(id).await;
        if let Err(Reverted::Broken(what)) = &expected {
            return Err(differs(format_args!("getTransaction: {what}")));
        }
        same("the transaction", &found, &expected)?;
        let Ok(tx) = found else { return Ok(()) };
        let escrow = self.embedded.escrow(id).await.unwrap();
        same("the escrow", escrow, self.contracts.escrow(&tx).await)?;
        same("the bond", tx.dispute_bond, self.contracts.bond(&tx).await)?;
        let deal = (of, tx, escrow.remaining());
        match self.deals.iter_mut().find(|(label, ..)| *label == of) {
            Some(known) => *known = deal,
            None => self.deals.push(deal),
        }
        Ok(())
    }

    async fn compare_money(&mut self) -> Result<(), End> {
        let network = self.embedded.network();
        let mut owners = everybody(network);
        owners.extend([network.admin, network.fee_recipient]);
        let expected = self.contracts.money(&owners).await;
        for (owner, expected) in owners.into_iter().zip(expected) {
            let found = (
                self.embedded.balance(owner).await.unwrap(),
                self.embedded.allowance(owner).await.unwrap(),
            );
            same(format_args!("balance and allowance of {owner}"), found, expected)?;
        }
        Ok(())
    }

    async fn compare_agent(&mut self, agent: Address) -> Result<(), End> {
        let found = self.embedded.get_agent(agent).await.unwrap();
        same("the agent", &found, &self.contracts.agent(agent).await)?;
        let Some(profile) = found else { return Ok(()) };
        let services = self.embedded.get_service_descriptors(agent).await.unwrap();
        same("the services", &services, &self.contracts.services(agent).await)?;
        for hash in services.iter().map(|service| service.service_type_hash).take(8) {
            let found = self.embedded.supports_service(agent, hash).await.unwrap();
            same("the support", found, self.contracts.supports(agent, hash).await)?;
        }
        match self.agents.iter_mut().find(|known| known.agent_address == agent) {
            Some(known) => *known = profile,
            None => self.agents.push(profile),
        }
        Ok(())
    }

    async fn compare_everything(&mut self) -> Result<(), End> {
        let labels: Vec<_> = self.deals.iter().map(|(label, ..)| *label).collect();
        for label in labels {
            self.compare_transaction(label).await?;
        }
        let agents: Vec<_> = self.agents.iter().map(|agent| agent.agent_address).collect();
        for agent in agents {
            self.compare_agent(agent).await?;
        }
        self.compare_money().await
    }
}

/// Makes a call of the embedded kernel, or does what its operators do.
async fn send_embedded(kernel: &EmbeddedKernel, call: &Call) -> Result<Answer, Error> {
    match call {
        Call::Other(Operation::Mint { to, amount }) => kernel.mint(*to, Usdc(*amount)).await?,
        Call::Other(Operation::Pause(paused)) => kernel.set_paused(*paused).await?,
        Call::Other(Operation::ApproveMediator(mediator)) => {
            kernel.approve_mediator(*mediator).await?;
        }
        call => return send(kernel, call).await,
    }
    Ok(Answer::Nothing)
}

fn request(create: &Create, now: u64) -> CreateTransaction {
    CreateTransaction {
        provider: create.provider,
        requester: create.requester,
        amount: Usdc(create.amount),
        deadline: match create.deadline {
            When::FromNow(seconds) => now.strict_add_signed(seconds),
            When::At(time) => time,
        },
        dispute_window_seconds: create.window,
        service_hash: create.service_hash,
        agent_id: create.agent_id,
        requester_agent_id: create.requester_agent_id,
        agreement_hash: create.agreement_hash,
    }
}

fn timestamp(event: &Event) -> u64 {
    serde_json::to_value(event).unwrap()["timestamp"].as_u64().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The contracts at the addresses that the embedded kernel's network has.
fn deploy(generation: Generation) -> Chain {
    Chain::deploy(&network(generation))
}

/// The embedded kernel's network.
fn network(generation: Generation) -> Network {
    let generation = Some(generation);
    let options = EmbeddedOptions { generation, ..EmbeddedOptions::new(Storage::Memory) };
    runtime().block_on(EmbeddedKernel::open(options)).unwrap().network().clone()
}

/// A copy of them, whose [`owners`] have what they begin with.
fn begin(template: &Chain) -> Chain {
    let mut chain = template.fork();
    let network = chain.network.clone();
    for to in owners(&network) {
        let call = Token::mintCall { to, amount: U256::from(START.0) };
        chain.send(network.admin, network.usdc, call, 1).unwrap();
    }
    chain
}

/// One sequence of operations, made up as it goes.
fn explore<S: Side>(
    generation: Generation,
    open: &impl AsyncFn() -> S,
    seed: u64,
    length: usize,
    tally: &mut Tally,
) {
    let mut played = vec![];
    let end = runtime().block_on(async {
        let mut pair = Pair::open(generation, open().await).await;
        let mut generator = Generator::new(seed, pair.embedded.network().clone());
        while played.len() < length {
            let operation = generator.next(&pair.view().await);
            played.push(operation.clone());
            if let Some(done) = pair.play(&operation).await? {
                tally.add(done);
            }
        }
        pair.compare_everything().await
    });
    match end {
        Ok(()) => {}
        Err(End::Untimed) => tally.untimed += 1,
        Err(End::Differs(what)) => report(generation, open, seed, &what, played),
    }
}

/// Plays operations that are known already.
fn replay<S: Side>(
    generation: Generation,
    open: &impl AsyncFn() -> S,
    operations: &[Operation],
) -> Result<(), End> {
    runtime().block_on(async {
        let mut pair = Pair::open(generation, open().await).await;
        for operation in operations {
            pair.play(operation).await?;
        }
        pair.compare_everything().await
    })
}

/// Leaves out what does not matter, and fails with the rest.
fn report<S: Side>(
    generation: Generation,
    open: &impl AsyncFn() -> S,
    seed: u64,
    what: &str,
    mut operations: Vec<Operation>,
) {
    println!(
        "seed {seed} on {generation} came to a difference after {} operations: {what}",
        operations.len()
    );
    let mut found = what.to_owned();
    let until = Instant::now() + Duration::from_secs(60);
    let mut size = operations.len();
    while size > 0 && Instant::now() < until {
        let mut start = 0;
        while start < operations.len() && Instant::now() < until {
            let mut fewer = operations.clone();
            fewer.drain(start..(start + size).min(operations.len()));
            match replay(generation, open, &fewer) {
                Err(End::Differs(what)) => (operations, found) = (fewer, what),
                _ => start += size,
            }
        }
        size /= 2;
    }
    let shown: Vec<_> = operations.iter().map(|operation| format!("  {operation:?}\n")).collect();
    panic!(
        "the embedded kernel and the contracts of {generation} differ: {found}\n\nafter these operations:\n{}\
         AGIRAILS_FUZZ_SEED={seed} plays the whole sequence again; addresses: {:#?}",
        shown.concat(),
        network(generation)
    );
}

fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[test]
fn the_embedded_kernel_does_what_the_contracts_do() {
    let sides = Generation::ALL.map(|generation| (generation, deploy(generation)));
    let explore_on = |(generation, template): &(Generation, Chain), seed, tally: &mut Tally| {
        explore(*generation, &async || begin(template), seed, SEQUENCE, tally);
    };
    let mut tallies = Generation::ALL.map(|_| Tally::default());
    let started = Instant::now();
    if let Some(seed) = setting("AGIRAILS_FUZZ_SEED") {
        for (side, tally) in sides.iter().zip(&mut tallies) {
            explore_on(side, seed, tally);
        }
    } else if let Some(seconds) = setting("AGIRAILS_FUZZ_SECONDS") {
        // Seeds that no run before had.
        let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let mut shown = Instant::now();
        println!("seeds from {first} on");
        for seed in first.. {
            for (side, tally) in sides.iter().zip(&mut tallies) {
                explore_on(side, seed, tally);
            }
            let over = started.elapsed().as_secs() >= seconds;
            if over || shown.elapsed().as_secs() >= 10 {
                shown = Instant::now();
                let operations: u64 = tallies.iter().map(|tally| tally.operations).sum();
                println!("{:>5} s  {operations} operations", started.elapsed().as_secs());
            }
            if over {
                break;
            }
        }
    } else {
        // The same every time: what fails here is what was changed.
        for (side, tally) in sides.iter().zip(&mut tallies) {
            let mut seed = 0;
            while tally.operations < OPERATIONS {
                seed += 1;
                explore_on(side, seed, tally);
            }
            println!("{}: seeds 1 … {seed}", side.0);
            for state in State::ALL {
                assert!(
                    tally.reached.get(&state) > Some(&20),
                    "{state} is hardly reached\n{tally}"
                );
            }
        }
        // What decides disputes beside the kernel has tests of its own.
        let kernels = Refusal::ALL.iter().filter(|refusal| !Refusal::DISPUTES.contains(refusal));
        for refusal in kernels {
            let met = tallies.iter().any(|tally| tally.refused.contains_key(refusal.words()));
            assert!(met || OUT_OF_REACH.contains(refusal), "nobody met {refusal:?}\n{tallies:?}");
        }
    }
    let operations: u64 = tallies.iter().map(|tally| tally.operations).sum();
    for (generation, tally) in Generation::ALL.iter().zip(&tallies) {
        println!("{generation}: {tally}");
    }
    println!("{:.0} operations a second", operations as f64 / started.elapsed().as_secs_f64());
}

#[test]
fn the_chain_kernel_does_on_a_chain_what_the_embedded_kernel_does() {
    for generation in Generation::ALL {
        let network = network(generation);
        let open = async || Local::start(&network, &owners(&network), START).await.unwrap();
        let mut tally = Tally::default();
        let started = Instant::now();
        if let Some(seed) = setting("AGIRAILS_FUZZ_SEED") {
            explore(generation, &open, seed, SEQUENCE, &mut tally);
        } else {
            for seed in 1..=SAMPLES {
                explore(generation, &open, seed, SEQUENCE, &mut tally);
            }
            println!("{generation}: seeds 1 … {SAMPLES}");
            for state in State::ALL {
                assert!(tally.reached.contains_key(&state), "{state} is not reached\n{tally}");
            }
            assert!(tally.refused.len() > 35, "few refusals are met\n{tally}");
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{tally}\n{:.0} operations a second", tally.operations as f64 / seconds);
    }
}

#[test]
fn a_registry_of_more_than_a_thousand_agents_answers_no_query() {
    let mut chain = deploy(Generation::default());
    runtime().block_on(async {
        let options = EmbeddedOptions::new(Storage::Memory);
        let embedded = EmbeddedKernel::open(options).await.unwrap();
        let registry = chain.network.agent_registry.unwrap();
        let services = [describe("ocr")];
        let query = AgentQuery {
            service_type_hash: services[0].service_type_hash,
            min_reputation: 0,
            offset: 990,
            limit: 100,
        };
        for number in 1..=1_001_u64 {
            let agent = Address::from_word(B256::from(U256::from(number << 32)));
            embedded.register_agent(agent, "x", &services).await.unwrap();
            let call = Registry::registerAgentCall {
                endpoint: "x".to_owned(),
                services: services.iter().map(Registry::Service::from).collect(),
            };
            chain.send(agent, registry, call, 1).unwrap();
            if number < 1_000 {
                continue;
            }
            let found = embedded.query_agents_by_service(query).await;
            let expected = chain.ask(registry, query_call(query));
            if number == 1_000 {
                let found: Vec<_> =
                    found.unwrap().into_iter().map(|agent| agent.agent_address).collect();
                assert_eq!(found.len(), 10);
                assert_eq!(found, expected.unwrap());
            } else {
                let words = Refusal::QueryCapExceeded.words();
                assert_eq!(found.unwrap_err().refusal().map(Refusal::words), Some(words));
                assert_eq!(expected.unwrap_err(), Reverted::Words(words.to_owned()));
            }
        }
    });
}
