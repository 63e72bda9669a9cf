//! What holds for every sequence of calls and for every number, and the rules against an reference_model
//! of their own.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod reference_model;

use std::collections::HashMap;

use agirails::{
    Address, B256, Code, CreateTransaction, DisputeWindow, Error, Event, Generation, LinkEscrow,
    State, Storage, Terms, Transaction, TransactionId, U256, Usdc,
    kernel::{
        Kernel, Transition,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    protocol::{
        id::{parse_address, parse_transaction_id, transaction_id},
        money::{Payout, archive_share, cancellation_penalty, dispute_bond, payout},
        rules::{self, Arbiters, Move, Rates, WayBack},
    },
};
use proptest::{collection::vec, prelude::*, sample::Index};
use reference_model::{Call, Deal, INSUFFICIENT, Word, World};

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;
const USDC: u64 = 1_000_000;
const START: u64 = 1_000 * USDC;

/// Five parties, of whom any can be requester, provider or stranger.
fn party(number: u8) -> Address {
    Address::repeat_byte(0xa0 + number % 5)
}

const MEDIATOR: Address = Address::repeat_byte(0xed);
const PENDING_MEDIATOR: Address = Address::repeat_byte(0xee);

fn word(number: u64) -> [u8; 32] {
    U256::from(number).to_be_bytes()
}

fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().copied().flat_map(word).collect()
}

fn mediation(split: [u64; 2], mediator: Address, fee: u64, fault: &[u64]) -> Vec<u8> {
    [words(&split), mediator.into_word().to_vec(), words(&[fee]), words(fault)].concat()
}

/// The terms of a kernel of each generation.
const GENERATIONS: [Terms; 3] =
    [Terms::MAY_2026, Terms::new(Generation::F6, HOUR), Terms::new(Generation::Aip14c, HOUR)];

/// Everything that a transition can carry, good and bad, for this much in escrow.
fn loads(remaining: u64) -> Vec<Vec<u8>> {
    let half = remaining / 2;
    let tenth = remaining / 10;
    let mut loads: Vec<Vec<u8>> =
        [0, 1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 160, 161, 192]
            .iter()
            .flat_map(|length| [vec![0; *length], vec![1; *length], vec![0xff; *length]])
            .collect();
    let mut wide = words(&[half, remaining - half]);
    wide[23] = 1;
    loads.push(wide);
    for window in [3_599, 3_600, 30 * DAY, 30 * DAY + 1] {
        loads.push(words(&[window, 7]));
    }
    for seconds in [1, 3_599, 3_600, 30 * DAY, 30 * DAY + 1, u64::MAX] {
        loads.push(words(&[seconds]));
    }
    for fault in [&[][..], &[0], &[1], &[2]] {
        for split in [
            [remaining, 0],
            [0, remaining],
            [half, remaining - half],
            [remaining.saturating_sub(49_999), remaining.min(49_999)],
            [remaining.saturating_sub(50_000), remaining.min(50_000)],
            [remaining, 1],
            [half, half.saturating_sub(1)],
            [u64::MAX, u64::MAX],
        ] {
            loads.push([words(&split), words(fault)].concat());
            for mediator in [MEDIATOR, PENDING_MEDIATOR, party(4), Address::ZERO] {
                for fee in [0, tenth, tenth + 1] {
                    let rest = split[0].saturating_sub(fee);
                    loads.push(mediation([rest, split[1]], mediator, fee, fault));
                }
            }
        }
    }
    loads
}

/// The rules and the reference_model, compared in every state, to every state, by everybody, at every
/// time, with everything that could be carried.
#[test]
fn transitions_agree_with_the_table_in_every_combination() {
    let (requester, provider, stranger) = (party(0), party(1), party(2));
    let now = 1_900_000_000_u64;
    let mut compared = 0_u32;
    for terms in GENERATIONS {
        for amount in [50_000, 999_999, USDC, 10 * USDC + 7] {
            for (state, spent) in
                State::ALL.into_iter().flat_map(|state| [(state, false), (state, true)])
            {
                let funded = matches!(
                    state,
                    State::Committed | State::InProgress | State::Delivered | State::Disputed
                );
                // Milestones can have paid everything.
                let can_be_spent =
                    matches!(state, State::InProgress | State::Delivered | State::Disputed);
                if spent && !can_be_spent {
                    continue;
                }
                let remaining = if funded && !spent { amount } else { 0 };
                let delivered =
                    matches!(state, State::Delivered | State::Disputed | State::Settled);
                let loads = loads(amount);
                let grace = terms.recovery_grace_seconds().unwrap_or_default() as i64;
                let deadlines = [-1_i64, 0, 1, -grace - 1, -grace, 1 - grace];
                for (deadline, window) in
                    deadlines.iter().flat_map(|d| [-1_i64, 0, 1].map(|w| (*d, w)))
                {
                    if state != State::InProgress && deadline < -1 {
                        continue;
                    }
                    if window != 0 && !delivered {
                        continue;
                    }
                    let deal = Deal {
                        id: B256::repeat_byte(1),
                        requester,
                        provider,
                        state,
                        amount,
                        deadline: now.strict_add_signed(deadline),
                        window: if delivered { now.strict_add_signed(window) } else { 2 * DAY },
                        service_hash: B256::ZERO,
                        metadata: B256::ZERO,
                        attestation: B256::ZERO,
                        remaining,
                        initiator: if delivered { provider } else { Address::ZERO },
                        bond: if state == State::Disputed { USDC } else { 0 },
                        result: B256::ZERO,
                        agreement: B256::ZERO,
                    };
                    // The admin can be anyone, a party too.
                    for admin in [party(3), requester, provider] {
                        for sender in [requester, provider, stranger, party(3)] {
                            for to in State::ALL {
                                compared += compare(terms, &deal, admin, sender, now, to, &loads);
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(compared > 300_000, "{compared}");
}

fn compare(
    terms: Terms,
    deal: &Deal,
    admin: Address,
    sender: Address,
    now: u64,
    to: State,
    loads: &[Vec<u8>],
) -> u32 {
    let transaction = as_transaction(deal);
    let mediators = [(MEDIATOR, now), (PENDING_MEDIATOR, now + 1)];
    let world = World {
        generation: terms.generation(),
        grace: terms.recovery_grace_seconds().unwrap_or_default(),
        admin,
        vault: party(100),
        fee_recipient: Address::repeat_byte(0xfe),
        treasury: Address::repeat_byte(0xfd),
        balances: [party(0), party(1), party(100)].map(|owner| (owner, START)).into(),
        deals: [(deal.id, deal.clone())].into(),
        mediators: mediators.into(),
        ..World::default()
    };
    // What cannot be reached need not be carried.
    let reached = world.may_step(deal, now, sender, to).is_ok();
    // A quote, a delivery and a resolution carry something; the others must ignore it.
    let loads = if reached { loads } else { &loads[..2] };
    for load in loads {
        // Cancelling what is funded: the contracts' papers do not tell what becomes of a load.
        let funded_cancel =
            to == State::Cancelled && matches!(deal.state, State::Committed | State::InProgress);
        let load: &[u8] = if funded_cancel { &[] } else { load };
        let call = rules::Call {
            transaction: &transaction,
            sender,
            now,
            remaining: Usdc(deal.remaining),
            terms,
        };
        let arbiters = Arbiters { resolver: admin, mediators: &mediators };
        let found = rules::transition(call, to, load, arbiters);
        let mut after = world.clone();
        let step = Call::Step(deal.id, to, load.to_vec());
        let expected =
            after.play(now, sender, &step).map(|_| after.deals.remove(&deal.id).unwrap());
        match (found, expected) {
            (Ok(effect), Ok(expected)) => {
                let expected = Transaction { updated_at: now, ..as_transaction(&expected) };
                assert_eq!(effect.transaction, expected, "{deal:?} to {to} with {load:02x?}");
                let moved = carry_out(&effect.moves, deal, &world);
                assert_eq!(moved, after.balances, "{deal:?} to {to} with {load:02x?}");
                if effect.settled_at_fault.is_some() {
                    assert_eq!(to, State::Settled);
                }
            }
            (found, expected) => assert_eq!(
                found.err().map(|refusal| refusal.words()),
                expected.err(),
                "{deal:?} to {to} by {sender}, the admin being {admin}, with {load:02x?}",
            ),
        }
    }
    loads.len() as u32
}

/// The balances after these moves, in the reference_model's world.
fn carry_out(moves: &[Move], deal: &Deal, world: &World) -> HashMap<Address, u64> {
    let mut balances = world.balances.clone();
    let mut pay = |from: Address, to: Address, amount: u64| {
        *balances.entry(from).or_default() -= amount;
        *balances.entry(to).or_default() += amount;
    };
    let vault = world.vault;
    for step in moves {
        match *step {
            Move::Fund(amount) => pay(deal.requester, vault, amount.0),
            Move::PayProvider(Payout { net, fee }) => {
                let archived = archive_share(fee).0;
                pay(vault, deal.provider, net.0);
                pay(vault, world.treasury, archived);
                pay(vault, world.fee_recipient, fee.0 - archived);
            }
            Move::Refund(amount) | Move::Recover(amount) => pay(vault, deal.requester, amount.0),
            Move::PayMediator(mediator, amount) => pay(vault, mediator, amount.0),
            Move::DepositBond(by, bond) => pay(by, vault, bond.0),
            Move::ReleaseBond { to, bond, .. } => pay(vault, to, bond.0),
        }
    }
    balances
}

/// The rates are the transaction's own, whatever is in force when they apply.
#[test]
fn a_transaction_is_charged_the_rates_that_it_locked() {
    let (requester, provider) = (party(0), party(1));
    let now = 1_900_000_000;
    let first =
        Rates { platform_fee_bps: 500, requester_penalty_bps: 5_000, dispute_bond_bps: 2_000 };
    let later = Rates { platform_fee_bps: 250, requester_penalty_bps: 0, dispute_bond_bps: 0 };
    let request = CreateTransaction::new(requester, provider, Usdc(100 * USDC), now + HOUR);
    let locked = |tx: &Transaction| {
        (tx.platform_fee_bps_locked, tx.requester_penalty_bps_locked, tx.dispute_bond_bps_locked)
    };
    let judge = |transaction: &Transaction, sender, now, to| {
        let terms = Terms::MAY_2026;
        let call = rules::Call { transaction, sender, now, remaining: Usdc(100 * USDC), terms };
        rules::transition(call, to, &[], Arbiters { resolver: party(3), mediators: &[] }).unwrap()
    };
    let terms = Terms::MAY_2026;
    let created = rules::create(&request, requester, 0, terms, first, now).unwrap();
    assert_eq!(locked(&created), (500, 5_000, 2_000));

    // Accepting a quote locks the platform fee again, and nothing else.
    let quoted = judge(&created, provider, now, State::Quoted).transaction;
    let (sender, remaining) = (requester, Usdc::ZERO);
    let call = rules::Call { transaction: &quoted, sender, now, remaining, terms };
    let accepted = rules::accept_quote(call, Usdc(100 * USDC), later).unwrap().transaction;
    assert_eq!(locked(&accepted), (250, 5_000, 2_000));

    let paid = |net, fee| Move::PayProvider(Payout { net: Usdc(net), fee: Usdc(fee) });
    let committed = Transaction { state: State::Committed, ..created.clone() };
    let cancelled = judge(&committed, requester, now + HOUR, State::Cancelled);
    let penalty = [Move::Refund(Usdc(50 * USDC)), paid(47_500_000, 2_500_000)];
    assert_eq!(cancelled.moves, penalty);

    let delivered = Transaction {
        state: State::Delivered,
        escrow_contract: party(100),
        dispute_window: DisputeWindow::EndsAt(now + HOUR),
        ..accepted
    };
    let settled = judge(&delivered, requester, now, State::Settled);
    assert_eq!(settled.moves, [paid(97_500_000, 2_500_000)]);
    let disputed = judge(&delivered, provider, now, State::Disputed);
    assert_eq!(disputed.moves, [Move::DepositBond(provider, Usdc(20 * USDC))]);
}

fn as_transaction(deal: &Deal) -> Transaction {
    Transaction {
        id: deal.id,
        requester: deal.requester,
        provider: deal.provider,
        state: deal.state,
        amount: Usdc(deal.amount),
        created_at: 1,
        updated_at: 1,
        deadline: deal.deadline,
        service_hash: deal.service_hash,
        escrow_contract: Address::repeat_byte(7),
        escrow_id: deal.id,
        attestation_uid: deal.attestation,
        dispute_window: reference_model::window_of(deal),
        metadata: deal.metadata,
        platform_fee_bps_locked: 100,
        requester_penalty_bps_locked: 500,
        dispute_bond_bps_locked: 500,
        agent_id: U256::ZERO,
        requester_agent_id: U256::ZERO,
        dispute_initiator: deal.initiator,
        dispute_bond: Usdc(deal.bond),
        result_hash: deal.result,
        agreement_hash: deal.agreement,
    }
}

/// What somebody tries, before it is known which transactions there are.
#[derive(Debug, Clone)]
enum Attempt {
    Wait(Wait),
    Create {
        by: u8,
        to: u8,
        amount: u64,
        deadline: u64,
        window: u64,
        on_behalf: bool,
    },
    /// The right party takes a step that leads on; of nothing, a transaction is made.
    Forward {
        which: Index,
        turn: u8,
    },
    Link {
        by: u8,
        which: Index,
        escrow_id: Option<Index>,
        vault: bool,
    },
    Accept {
        by: u8,
        which: Index,
        amount: u64,
    },
    Step {
        by: u8,
        which: Index,
        to: State,
        load: Index,
    },
    /// The right party, or the admin, with something that fits.
    Resolve {
        which: Index,
        to: State,
        load: Index,
    },
    Milestone {
        by: u8,
        which: Index,
        amount: u64,
    },
    Release {
        by: u8,
        which: Index,
    },
    Anchor {
        by: u8,
        which: Index,
        uid: u8,
    },
    Recover {
        by: u8,
        which: Index,
    },
}

#[derive(Debug, Clone)]
enum Wait {
    Seconds(u64),
    /// Until a transaction's deadline, or its window's end, and so many seconds beyond.
    Deadline(Index, u64),
    /// Until the first second in which begun work is recovered, less so many.
    Recovery(Index, u64),
    Window(Index, u64),
}

fn amounts() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => Just(0_u64),
        4 => 49_990_u64..50_010,
        6 => 50_000..2 * USDC,
        6 => 999_990..1_000_010_u64,
        4 => USDC..200 * USDC,
        1 => 900 * USDC..1_200 * USDC,
        1 => 999_999_999_999_990..1_000_000_000_000_010_u64,
        1 => any::<u64>(),
    ]
}

fn attempts() -> impl Strategy<Value = Attempt> {
    let which = || any::<Index>();
    let by = || any::<u8>();
    let states = || (0..State::ALL.len()).prop_map(|index| State::ALL[index]);
    let waits = prop_oneof![
        (0..2 * HOUR).prop_map(Wait::Seconds),
        (0..3 * DAY).prop_map(Wait::Seconds),
        (which(), 0..2_u64).prop_map(|(which, beyond)| Wait::Deadline(which, beyond)),
        (which(), 0..2_u64).prop_map(|(which, beyond)| Wait::Window(which, beyond)),
        (which(), 0..2_u64).prop_map(|(which, before)| Wait::Recovery(which, before)),
    ];
    prop_oneof![
        2 => waits.prop_map(Attempt::Wait),
        4 => (by(), by(), amounts(), 0..3 * DAY, 3_590..3 * DAY, prop::bool::weighted(0.1)).prop_map(
            |(by, to, amount, deadline, window, on_behalf)| {
                Attempt::Create { by, to, amount, deadline, window, on_behalf }
            }
        ),
        16 => (which(), by()).prop_map(|(which, turn)| Attempt::Forward { which, turn }),
        2 => (by(), which(), prop::option::weighted(0.3, which()), prop::bool::weighted(0.1))
            .prop_map(|(by, which, escrow_id, vault)| Attempt::Link { by, which, escrow_id, vault }),
        2 => (by(), which(), amounts())
            .prop_map(|(by, which, amount)| Attempt::Accept { by, which, amount }),
        8 => (by(), which(), states(), which())
            .prop_map(|(by, which, to, load)| Attempt::Step { by, which, to, load }),
        4 => (which(), states(), which())
            .prop_map(|(which, to, load)| Attempt::Resolve { which, to, load }),
        4 => (by(), which(), amounts())
            .prop_map(|(by, which, amount)| Attempt::Milestone { by, which, amount }),
        1 => (by(), which()).prop_map(|(by, which)| Attempt::Release { by, which }),
        1 => (by(), which(), 0..3_u8).prop_map(|(by, which, uid)| Attempt::Anchor { by, which, uid }),
        2 => (by(), which()).prop_map(|(by, which)| Attempt::Recover { by, which }),
    ]
}

/// A kernel, the reference_model's world beside it, and what was seen of both.
struct Pair {
    kernel: EmbeddedKernel,
    world: World,
    /// In the order of their creation.
    ids: Vec<TransactionId>,
    told: Vec<Event>,
}

impl Pair {
    async fn open(generation: Generation) -> Self {
        let options = EmbeddedOptions {
            starting_balance: Some(Usdc(START)),
            generation: Some(generation),
            ..EmbeddedOptions::new(Storage::Memory)
        };
        let kernel = EmbeddedKernel::open(options).await.unwrap();
        let network = kernel.network().clone();
        let mut world = World {
            generation,
            grace: network.terms.recovery_grace_seconds().unwrap_or_default(),
            admin: network.admin,
            vault: network.vault,
            fee_recipient: network.fee_recipient,
            treasury: network.archive_treasury.unwrap(),
            ..World::default()
        };
        for owner in (0..5).map(party).chain([MEDIATOR, PENDING_MEDIATOR]) {
            kernel.greet(owner).await.unwrap();
            world.balances.insert(owner, START);
        }
        // One mediator can be paid, the other one never within a case.
        for mediator in [MEDIATOR, PENDING_MEDIATOR] {
            kernel.approve_mediator(mediator).await.unwrap();
            world.mediators.insert(mediator, kernel.now().await.unwrap() + 2 * DAY);
            if mediator == MEDIATOR {
                kernel.advance_time(2 * DAY + 2).await.unwrap();
            }
        }
        Self { kernel, world, ids: vec![], told: vec![] }
    }

    /// One of the transactions, and now and then one that there is not.
    fn pick(&self, which: &Index) -> TransactionId {
        match which.index(self.ids.len() + 1).checked_sub(1) {
            Some(index) => self.ids[index],
            None => B256::repeat_byte(0xee),
        }
    }

    /// A party of the transaction three times out of four.
    fn caller(&self, by: u8, id: TransactionId) -> Address {
        match (self.world.deals.get(&id), by % 8) {
            (Some(deal), 0..3) => deal.requester,
            (Some(deal), 3..6) => deal.provider,
            (_, 6) => self.world.admin,
            _ => party(by / 8),
        }
    }

    fn load(&self, id: TransactionId, load: &Index) -> Vec<u8> {
        let remaining = self.world.deals.get(&id).map_or(0, |deal| deal.remaining);
        load.get(&loads(remaining)).clone()
    }

    async fn attempt(&mut self, attempt: &Attempt) {
        let (sender, call) = match attempt {
            Attempt::Wait(wait) => return self.wait(wait).await,
            Attempt::Create { by, to, amount, deadline, window, on_behalf } => {
                let now = self.kernel.now().await.unwrap();
                let request = CreateTransaction {
                    dispute_window_seconds: *window,
                    service_hash: B256::repeat_byte(*by),
                    ..CreateTransaction::new(party(*by), party(*to), Usdc(*amount), now + deadline)
                };
                let sender = if *on_behalf { party(by / 8) } else { party(*by) };
                (sender, Call::Create(request))
            }
            Attempt::Forward { which, turn } => {
                let id = self.pick(which);
                match self.world.deals.get(&id) {
                    Some(deal) => self.forward(deal, *turn),
                    None => {
                        let (by, to) = (party(*turn), party(turn.wrapping_add(1)));
                        let deadline = self.kernel.now().await.unwrap() + 10 * DAY;
                        let amount = Usdc(u64::from(*turn) * USDC / 10 + 50_000);
                        let request = CreateTransaction::new(by, to, amount, deadline);
                        (by, Call::Create(request))
                    }
                }
            }
            Attempt::Link { by, which, escrow_id, vault } => {
                let id = self.pick(which);
                let link = LinkEscrow {
                    escrow_contract: vault.then(|| party(*by)),
                    escrow_id: escrow_id.map(|other| self.pick(&other)),
                    most: None,
                };
                (self.caller(*by, id), Call::Link(id, link))
            }
            Attempt::Accept { by, which, amount } => {
                let id = self.pick(which);
                (self.caller(*by, id), Call::Accept(id, *amount))
            }
            Attempt::Step { by, which, to, load } => {
                let id = self.pick(which);
                (self.caller(*by, id), Call::Step(id, *to, self.safe_load(id, *to, load)))
            }
            Attempt::Resolve { which, to, load } => {
                let id = self.pick(which);
                let Some(deal) = self.world.deals.get(&id) else { return };
                let sender = match deal.state {
                    State::Disputed => self.world.admin,
                    State::Initiated => deal.provider,
                    _ => deal.requester,
                };
                (sender, Call::Step(id, *to, self.safe_load(id, *to, load)))
            }
            Attempt::Milestone { by, which, amount } => {
                let id = self.pick(which);
                (self.caller(*by, id), Call::Milestone(id, *amount))
            }
            Attempt::Release { by, which } => {
                let id = self.pick(which);
                (self.caller(*by, id), Call::Release(id))
            }
            Attempt::Anchor { by, which, uid } => {
                let id = self.pick(which);
                (self.caller(*by, id), Call::Anchor(id, B256::repeat_byte(*uid)))
            }
            Attempt::Recover { by, which } => {
                let id = self.pick(which);
                let recovers = self.kernel.network().terms.recovery_grace_seconds().is_some();
                // Before F-6 there is no such call.
                let call = if recovers { Call::Recover(id) } else { Call::Release(id) };
                (self.caller(*by, id), call)
            }
        };
        self.call(sender, &call).await;
    }

    fn forward(&self, deal: &Deal, turn: u8) -> (Address, Call) {
        let id = deal.id;
        let step = |to, data| Call::Step(id, to, data);
        match (deal.state, turn % 3) {
            (State::Initiated, 0) => (deal.provider, step(State::Quoted, vec![7; 32])),
            (State::Quoted, 0) => (deal.requester, Call::Accept(id, deal.amount + 50_000)),
            (State::Initiated | State::Quoted, _) => {
                (deal.requester, Call::Link(id, LinkEscrow::default()))
            }
            (State::Committed, _) => (deal.provider, step(State::InProgress, vec![])),
            (State::InProgress, _) => {
                let data = match self.world.generation {
                    Generation::Aip14c => words(&[2 * DAY, 7]),
                    _ => vec![],
                };
                (deal.provider, step(State::Delivered, data))
            }
            (State::Delivered, 0) => (deal.requester, step(State::Settled, vec![])),
            (State::Delivered, 1) => (deal.requester, step(State::Disputed, vec![])),
            (State::Delivered, _) => (deal.provider, step(State::Disputed, vec![])),
            (State::Disputed, 0) if self.world.generation != Generation::Aip14c => {
                (self.world.admin, step(State::Cancelled, vec![]))
            }
            (_, fault) => {
                let half = deal.remaining / 2;
                let split = words(&[half, deal.remaining - half, u64::from(fault) % 2]);
                (self.world.admin, step(State::Settled, split))
            }
        }
    }

    /// What becomes of a load when something funded is cancelled is not settled in the papers.
    fn safe_load(&self, id: TransactionId, to: State, load: &Index) -> Vec<u8> {
        match self.world.deals.get(&id).map(|deal| deal.state) {
            Some(State::Committed | State::InProgress) if to == State::Cancelled => vec![],
            _ => self.load(id, load),
        }
    }

    async fn wait(&mut self, wait: &Wait) {
        let now = self.kernel.now().await.unwrap();
        let until = match wait {
            Wait::Seconds(seconds) => now + seconds,
            Wait::Deadline(which, beyond) => {
                self.world.deals.get(&self.pick(which)).map_or(0, |deal| deal.deadline) + beyond
            }
            Wait::Recovery(which, before) => {
                let deal = self.world.deals.get(&self.pick(which));
                deal.map_or(0, |deal| deal.deadline + self.world.grace).saturating_sub(*before)
            }
            Wait::Window(which, beyond) => match self.world.deals.get(&self.pick(which)) {
                Some(deal) if deal.window > 30 * DAY => deal.window + beyond,
                _ => 0,
            },
        };
        self.kernel.advance_time(until.saturating_sub(now)).await.unwrap();
    }

    async fn call(&mut self, sender: Address, call: &Call) {
        let id = call_id(call);
        let before = self.picture().await;
        let moved_by_provider_only = match id.and_then(|id| self.world.deals.get(&id)) {
            Some(deal) if matches!(deal.state, State::Committed | State::InProgress) => {
                Some((deal.provider, deal.deadline))
            }
            _ => None,
        };
        let since = self.kernel.now().await.unwrap();
        let found = self.send(sender, call).await;
        let until = self.kernel.now().await.unwrap();
        let news = self.news().await;
        let after = self.picture().await;

        // The clock may have gone on in between.
        let (expected, world) = (since..=until)
            .map(|now| {
                let mut world = self.world.clone();
                (world.play(now, sender, call), world)
            })
            .find(|(expected, _)| agree(&found, &news, expected))
            .unwrap_or_else(|| {
                let expected = self.world.clone().play(until, sender, call);
                panic!("{call:?} by {sender}: {found:?} {news:#?}\nbut expected {expected:#?}")
            });
        self.world = world;
        match (&found, expected) {
            (Ok(()), Ok(events)) => self.told.extend(events),
            _ => assert_eq!(before, after, "a refused call changed something: {call:?}"),
        }
        if let Call::Create(_) = call {
            self.ids.extend(self.world.deals.keys().copied().find(|id| !self.ids.contains(id)));
        }
        if let (Some((provider, deadline)), Some(id)) = (moved_by_provider_only, id)
            && until < deadline
            && sender != provider
        {
            // A milestone pays, and moves nothing else.
            let standing =
                |picture: &Picture| Transaction { updated_at: 0, ..picture.states[&id].0.clone() };
            assert_eq!(standing(&before), standing(&after), "{call:?} moved it");
        }
        check_history(&before, &after);
        self.check_books(&after).await;
    }

    async fn send(&self, sender: Address, call: &Call) -> Result<(), Error> {
        let kernel = &self.kernel;
        match call {
            Call::Create(request) => kernel.create_transaction(sender, request).await.map(drop),
            Call::Link(id, link) => kernel.link_escrow(sender, *id, *link).await.map(drop),
            Call::Accept(id, amount) => kernel.accept_quote(sender, *id, Usdc(*amount)).await,
            Call::Step(id, to, data) => {
                let transition = Transition { id: *id, to: *to, data: data.clone(), proof: None };
                kernel.transition_state(sender, &transition).await.map(drop)
            }
            Call::Milestone(id, amount) => {
                kernel.release_milestone(sender, *id, Usdc(*amount)).await
            }
            Call::Release(id) => kernel.release_escrow(sender, *id).await,
            Call::Anchor(id, uid) => kernel.anchor_attestation(sender, *id, *uid).await,
            Call::Recover(id) => kernel.recover_stalled(sender, *id).await.map(drop),
        }
    }

    async fn news(&self) -> Vec<Event> {
        let records = self.kernel.events(self.told.len() as u64, 10_000).await.unwrap();
        records.into_iter().map(|record| record.event).collect()
    }

    async fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        for id in &self.ids {
            let tx = self.kernel.get_transaction(*id).await.unwrap();
            let remaining = self.kernel.escrow(*id).await.unwrap().remaining();
            picture.states.insert(*id, (tx, remaining));
        }
        let network = self.kernel.network();
        let own = [network.vault, network.admin, network.fee_recipient];
        let owners = (0..5).map(party).chain([MEDIATOR, PENDING_MEDIATOR]);
        for owner in owners.chain(own).chain(network.archive_treasury) {
            picture.balances.insert(owner, self.kernel.balance(owner).await.unwrap());
        }
        picture
    }

    /// Every base unit is somewhere, and where the reference_model has it.
    async fn check_books(&self, picture: &Picture) {
        let all: u64 = picture.balances.values().map(|balance| balance.0).sum();
        assert_eq!(Usdc(all), self.kernel.total_supply().await.unwrap());
        assert_eq!(all, 7 * START);
        let held: u64 =
            picture.states.values().map(|(tx, remaining)| remaining.0 + tx.dispute_bond.0).sum();
        assert_eq!(picture.balances[&self.world.vault], Usdc(held));
        for (owner, balance) in &picture.balances {
            let expected = self.world.balances.get(owner).copied().unwrap_or_default();
            assert_eq!(balance.0, expected, "{owner}");
        }
        for (id, (tx, remaining)) in &picture.states {
            let deal = &self.world.deals[id];
            let expected = Transaction {
                created_at: tx.created_at,
                updated_at: tx.updated_at,
                escrow_contract: tx.escrow_contract,
                escrow_id: tx.escrow_id,
                ..as_transaction(deal)
            };
            assert_eq!(*tx, expected);
            assert_eq!(remaining.0, deal.remaining);
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Picture {
    states: HashMap<TransactionId, (Transaction, Usdc)>,
    balances: HashMap<Address, Usdc>,
}

fn call_id(call: &Call) -> Option<TransactionId> {
    match call {
        Call::Create(_) => None,
        Call::Link(id, _)
        | Call::Accept(id, _)
        | Call::Step(id, ..)
        | Call::Milestone(id, _)
        | Call::Release(id)
        | Call::Anchor(id, _)
        | Call::Recover(id) => Some(*id),
    }
}

fn agree(found: &Result<(), Error>, news: &[Event], expected: &Result<Vec<Event>, Word>) -> bool {
    match (found, expected) {
        (Ok(()), Ok(events)) => news == events,
        (Err(error), Err(word)) => {
            let found = match (error.refusal(), error.code()) {
                (Some(refusal), _) => refusal.words(),
                (None, Code::InsufficientBalance) => INSUFFICIENT,
                _ => return false,
            };
            found == *word && news.is_empty()
        }
        _ => false,
    }
}

/// How far along a state is; no call leads back.
fn rank(state: State) -> u8 {
    match state {
        State::Initiated => 0,
        State::Quoted => 1,
        State::Committed => 2,
        State::InProgress => 3,
        State::Delivered => 4,
        State::Disputed => 5,
        State::Settled | State::Cancelled => 6,
    }
}

fn check_history(before: &Picture, after: &Picture) {
    for (id, (old, _)) in &before.states {
        let (new, _) = &after.states[id];
        assert!(
            rank(new.state) >= rank(old.state),
            "{id} went from {} to {}",
            old.state,
            new.state
        );
        if old.state.is_terminal() {
            assert_eq!(new.state, old.state);
        }
        let fixed = |tx: &Transaction| {
            (tx.requester, tx.provider, tx.deadline, tx.service_hash, tx.created_at, tx.agent_id)
        };
        assert_eq!(fixed(new), fixed(old));
        if rank(old.state) >= rank(State::Committed) {
            let funded =
                |tx: &Transaction| (tx.amount, tx.escrow_contract, tx.escrow_id, tx.metadata);
            assert_eq!(funded(new), funded(old));
        }
        assert!(new.updated_at >= old.updated_at);
    }
}

/// States and balances again, from nothing but the events.
fn replay(
    events: &[Event],
    vault: Address,
    treasury: Address,
) -> (HashMap<B256, State>, HashMap<Address, i128>) {
    let mut states = HashMap::new();
    let mut parties = HashMap::new();
    let mut escrows: HashMap<B256, i128> = HashMap::new();
    let mut balances: HashMap<Address, i128> = HashMap::new();
    // What leaves the escrow unannounced is the treasury's thousandth of a fee.
    let mut payout: HashMap<B256, i128> = HashMap::new();
    let mut pay = |from: Address, to: Address, amount: i128| {
        *balances.entry(from).or_default() -= amount;
        *balances.entry(to).or_default() += amount;
    };
    for event in events {
        match *event {
            Event::TransactionCreated { transaction_id, requester, provider, .. } => {
                states.insert(transaction_id, State::Initiated);
                parties.insert(transaction_id, (requester, provider));
            }
            Event::StateTransitioned { transaction_id, old_state, new_state, .. } => {
                assert_eq!(states.insert(transaction_id, new_state), Some(old_state));
            }
            Event::EscrowLinked { transaction_id, escrow_contract, amount, .. } => {
                pay(parties[&transaction_id].0, escrow_contract, amount.0.into());
                escrows.insert(transaction_id, amount.0.into());
            }
            Event::EscrowReleased { transaction_id, recipient, amount, .. }
            | Event::EscrowRefunded { transaction_id, recipient, amount, .. }
            | Event::PlatformFeeAccrued { transaction_id, recipient, amount, .. }
            | Event::EscrowMediatorPaid { transaction_id, recipient, amount, .. } => {
                pay(vault, recipient, amount.0.into());
                *escrows.get_mut(&transaction_id).unwrap() -= i128::from(amount.0);
                *payout.entry(transaction_id).or_default() += i128::from(amount.0);
            }
            Event::EscrowMilestoneReleased { transaction_id, amount, .. } => {
                let announced = payout.remove(&transaction_id).unwrap_or_default();
                let archived = i128::from(amount.0) - announced;
                pay(vault, treasury, archived);
                *escrows.get_mut(&transaction_id).unwrap() -= archived;
            }
            Event::DisputeOpened { initiator, bond, .. } => pay(initiator, vault, bond.0.into()),
            Event::DisputeResolved {
                transaction_id, initiator, provider_at_fault, bond, ..
            } => {
                let (requester, provider) = parties[&transaction_id];
                let winner = match (states[&transaction_id], provider_at_fault) {
                    (State::Settled, true) => requester,
                    (State::Settled, false) => provider,
                    _ => initiator,
                };
                pay(vault, winner, bond.0.into());
            }
            _ => {}
        }
    }
    for (id, left) in escrows {
        if states[&id].is_terminal() {
            assert!((0..=20 * i128::from(USDC)).contains(&left));
            pay(vault, treasury, left);
        }
    }
    (states, balances)
}

/// The states that random cases came to.
fn play_case(generation: Generation, attempts: &[Attempt]) -> Vec<State> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut pair = Pair::open(generation).await;
        for attempt in attempts {
            pair.attempt(attempt).await;
        }
        let picture = pair.picture().await;
        let (states, balances) = replay(&pair.told, pair.world.vault, pair.world.treasury);
        assert_eq!(states.len(), picture.states.len());
        for (id, (tx, _)) in &picture.states {
            assert_eq!(states[id], tx.state);
        }
        let start = |owner| if pair.world.balances.contains_key(owner) { START } else { 0 };
        for (owner, balance) in &picture.balances {
            let own = [pair.world.vault, pair.world.treasury, pair.world.fee_recipient];
            let start = if own.contains(owner) { 0 } else { start(owner) };
            let moved = balances.get(owner).copied().unwrap_or_default();
            assert_eq!(i128::from(balance.0), i128::from(start) + moved, "{owner}");
        }
        states.into_values().collect()
    })
}

/// Cases of sequences depend on the clock, so they are not kept.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(200))]

    /// Money, states, words, events and history hold in every sequence of calls by anybody at
    /// any time.
    #[test]
    fn every_sequence_of_calls_agrees_with_the_reference_model(
        generation in 0..Generation::ALL.len(), attempts in vec(attempts(), 20..120)
    ) {
        play_case(Generation::ALL[generation], &attempts);
    }
}

/// Random sequences are worth little where they never come far.
#[test]
fn random_sequences_come_to_every_state() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut reached: Vec<State> = vec![];
    for number in 0..12 {
        let case = vec(attempts(), 120).new_tree(&mut runner).unwrap().current();
        reached.extend(play_case(Generation::ALL[number % 3], &case));
    }
    for state in State::ALL {
        assert!(reached.contains(&state), "{state} was never reached: {reached:?}");
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn fee_and_net_are_the_gross(gross: u64, bps in 0..=10_000_u16) {
        match payout(Usdc(gross), bps) {
            Ok(Payout { net, fee }) => {
                prop_assert_eq!(u128::from(net.0) + u128::from(fee.0), u128::from(gross));
                let rate = u128::from(gross) * u128::from(bps) / 10_000;
                prop_assert_eq!(u128::from(fee.0), rate.max(50_000));
                let archived = archive_share(fee);
                prop_assert_eq!(archived.0, fee.0 / 1_000);
            }
            Err(refusal) => {
                prop_assert_eq!(refusal.words(), "Fee exceeds amount");
                prop_assert!(gross < 50_000);
            }
        }
    }

    #[test]
    fn a_payout_around_the_floor_is_refused_exactly_below_it(gross in 49_990..50_010_u64) {
        prop_assert_eq!(payout(Usdc(gross), 100).is_ok(), gross >= 50_000);
    }

    #[test]
    fn shares_grow_with_amount_and_rate(a: u64, b: u64, low in 0..=10_000_u16, high in 0..=10_000_u16) {
        let (a, b, low, high) = (a.min(b), a.max(b), low.min(high), low.max(high));
        prop_assert!(Usdc(a).share(low) <= Usdc(b).share(low));
        prop_assert!(Usdc(a).share(low) <= Usdc(a).share(high));
        prop_assert!(Usdc(b).share(high) <= Usdc(b));
        prop_assert_eq!(Usdc(a).share(0), Usdc(0));
        prop_assert_eq!(Usdc(a).share(10_000), Usdc(a));
        let penalty = cancellation_penalty(Usdc(b), high);
        prop_assert_eq!(u128::from(penalty.0), u128::from(b) * u128::from(high) / 10_000);
        prop_assert!(dispute_bond(Usdc(a), low) >= Usdc(1_000_000));
        prop_assert!(dispute_bond(Usdc(a), low) <= dispute_bond(Usdc(b), high));
    }

    #[test]
    fn the_way_back_tells_what_a_cancellation_does(amount in amounts()) {
        let penalty = amount / 20;
        let is_refused = penalty > 0 && penalty < 50_000;
        for terms in GENERATIONS {
            let grace = terms.recovery_grace_seconds();
            let is_refused = is_refused && grace.is_none();
            let expected = WayBack {
                cancellation_penalty: (!is_refused).then_some(Usdc(penalty)),
                recovery_grace_seconds: grace,
            };
            prop_assert_eq!(rules::way_back(terms, Usdc(amount), Rates::default()), expected);
        }
    }

    #[test]
    fn amounts_print_and_parse_without_loss(units: u64) {
        let text = Usdc(units).to_string();
        prop_assert_eq!(text.parse::<Usdc>().unwrap(), Usdc(units));
        let (whole, decimals) = text.split_once('.').unwrap();
        prop_assert!(!whole.starts_with('0') || whole == "0");
        prop_assert!((2..=6).contains(&decimals.len()));
        prop_assert!(decimals.len() == 2 || !decimals.ends_with('0'));
        // Any other spelling of the same number.
        prop_assert_eq!(format!("00{text}").parse::<Usdc>().unwrap(), Usdc(units));
        let padded = format!("{}.{:06}", units / USDC, units % USDC);
        prop_assert_eq!(padded.parse::<Usdc>().unwrap(), Usdc(units));
    }

    #[test]
    fn no_text_makes_an_amount_panic(text in ".{0,40}") {
        if let Ok(amount) = text.parse::<Usdc>() {
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
            prop_assert_eq!(amount.to_string().parse::<Usdc>().unwrap(), amount);
        }
    }

    #[test]
    fn ids_are_of_everything_that_they_are_made_of(
        requester: [u8; 20], provider: [u8; 20], amount: u64, hash: [u8; 32], nonce: u64,
    ) {
        let id = |r, p, a, h, n| transaction_id(Address::new(r), Address::new(p), Usdc(a), B256::new(h), n);
        let made = id(requester, provider, amount, hash, nonce);
        let packed = [&requester[..], &provider, &word(amount), &hash, &word(nonce)].concat();
        prop_assert_eq!(made, alloy_primitives::keccak256(packed));
        prop_assert_ne!(made, id(requester, provider, amount, hash, nonce.wrapping_add(1)));
        prop_assert_ne!(made, id(requester, provider, amount ^ 1, hash, nonce));
        prop_assert_eq!(parse_transaction_id(&made.to_string()).unwrap(), made);
        let address = Address::new(requester);
        for text in [address.to_checksum(None), format!("{address:#x}"), format!("0x{address:X}")] {
            prop_assert_eq!(parse_address("requester", &text).unwrap(), address);
        }
    }

    #[test]
    fn a_window_keeps_its_number_and_its_meaning(value: u64) {
        let window = DisputeWindow::from_contract(value);
        prop_assert_eq!(window.to_contract(), value);
        let is_duration = value <= 2_592_000;
        prop_assert_eq!(window.seconds(), is_duration.then_some(value));
        prop_assert_eq!(window.ends_at(), (!is_duration).then_some(value));
        let json = serde_json::to_string(&window).unwrap();
        prop_assert_eq!(serde_json::from_str::<DisputeWindow>(&json).unwrap(), window);
    }

    #[test]
    fn states_are_their_numbers_and_names(number: u64) {
        match State::try_from(number) {
            Ok(state) => {
                prop_assert_eq!(state as u64, number);
                prop_assert_eq!(state.name().parse::<State>().unwrap(), state);
            }
            Err(error) => {
                prop_assert!(number > 7);
                prop_assert_eq!(Error::from(error).code(), Code::InvalidState);
            }
        }
    }
}
