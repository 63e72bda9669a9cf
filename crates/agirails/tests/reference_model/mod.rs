//! The protocol a second time, written from its table and not from the crate's rules: what each
//! call answers, announces and moves. Tests compare the kernels with it.

use std::collections::{HashMap, HashSet};

use agirails::{
    Address, B256, DisputeWindow, Event, Generation, LinkEscrow, State, TransactionId, U256, Usdc,
    protocol::CreateTransaction,
};
use alloy_primitives::keccak256;

const DAY: u64 = 86_400;
const FLOOR: u64 = 50_000;
const CEILING: u64 = 1_000_000_000_000_000;

/// A refusal in the contract's words, or `INSUFFICIENT` for the token's.
pub type Word = &'static str;
pub const INSUFFICIENT: Word = "insufficient balance";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deal {
    pub id: TransactionId,
    pub requester: Address,
    pub provider: Address,
    pub state: State,
    pub amount: u64,
    pub deadline: u64,
    /// A duration before delivery, a time from then on.
    pub window: u64,
    pub service_hash: B256,
    pub metadata: B256,
    pub attestation: B256,
    pub remaining: u64,
    pub initiator: Address,
    pub bond: u64,
    pub result: B256,
    pub agreement: B256,
}

#[derive(Debug, Clone)]
pub enum Call {
    Create(CreateTransaction),
    Link(TransactionId, LinkEscrow),
    Accept(TransactionId, u64),
    Step(TransactionId, State, Vec<u8>),
    Milestone(TransactionId, u64),
    Release(TransactionId),
    Anchor(TransactionId, B256),
    Recover(TransactionId),
}

/// Who is who, and who has how much.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub generation: Generation,
    /// Of use from F-6 on.
    pub grace: u64,
    pub admin: Address,
    pub vault: Address,
    pub fee_recipient: Address,
    pub treasury: Address,
    pub balances: HashMap<Address, u64>,
    pub nonces: HashMap<Address, u64>,
    pub deals: HashMap<TransactionId, Deal>,
    pub used_escrow_ids: HashSet<B256>,
    pub mediators: HashMap<Address, u64>,
}

/// What an accepted call announces, and where it moves money: from, to, how much.
#[derive(Debug, Default)]
struct Outcome {
    events: Vec<Event>,
    moves: Vec<(Address, Address, u64)>,
}

impl World {
    /// Plays a call at a time: the events, or the word that refuses it and changes nothing.
    pub fn play(&mut self, now: u64, sender: Address, call: &Call) -> Result<Vec<Event>, Word> {
        let mut after = self.clone();
        let outcome = match call {
            Call::Create(request) => after.create(now, sender, request),
            Call::Link(id, link) => after.link(now, sender, *id, link),
            Call::Accept(id, amount) => after.accept(now, sender, *id, *amount),
            Call::Step(id, to, data) => after.step(now, sender, *id, *to, data),
            Call::Milestone(id, amount) => after.milestone(now, sender, *id, *amount),
            Call::Release(id) => after.release(*id),
            Call::Anchor(id, uid) => after.anchor(now, sender, *id, *uid),
            Call::Recover(id) => after.recover(now, sender, *id),
        }?;
        for (from, to, amount) in outcome.moves {
            let purse = after.balances.entry(from).or_default();
            *purse = purse.checked_sub(amount).ok_or(INSUFFICIENT)?;
            *after.balances.entry(to).or_default() += amount;
        }
        *self = after;
        Ok(outcome.events)
    }

    /// Whether it is of F-6 or later.
    fn recovers(&self) -> bool {
        self.generation != Generation::May2026
    }

    fn commits(&self) -> bool {
        self.generation == Generation::Aip14c
    }

    fn deal(&self, id: TransactionId) -> Result<Deal, Word> {
        self.deals.get(&id).cloned().ok_or("Tx missing")
    }

    fn create(
        &mut self,
        now: u64,
        sender: Address,
        r: &CreateTransaction,
    ) -> Result<Outcome, Word> {
        refuse(sender != r.requester, "Requester mismatch")?;
        refuse(r.provider == Address::ZERO, "Zero provider")?;
        refuse(r.requester == r.provider, "Self-transaction not allowed")?;
        refuse(r.amount.0 < FLOOR, "Amount below minimum")?;
        refuse(r.amount.0 > CEILING, "Amount exceeds maximum")?;
        refuse(r.deadline <= now, "Deadline in past")?;
        refuse(self.recovers() && r.deadline < now + 3_600, "Deadline too soon")?;
        refuse(r.deadline > now + 365 * DAY, "Deadline too far")?;
        refuse(r.dispute_window_seconds < 3_600, "Dispute window too short")?;
        refuse(r.dispute_window_seconds > 30 * DAY, "Dispute window too long")?;
        let nonce = self.nonces.entry(sender).or_default();
        let mut packed = vec![];
        packed.extend(r.requester);
        packed.extend(r.provider);
        packed.extend(U256::from(r.amount.0).to_be_bytes::<32>());
        packed.extend(r.service_hash);
        packed.extend(U256::from(*nonce).to_be_bytes::<32>());
        *nonce += 1;
        let deal = Deal {
            id: keccak256(packed),
            requester: r.requester,
            provider: r.provider,
            state: State::Initiated,
            amount: r.amount.0,
            deadline: r.deadline,
            window: r.dispute_window_seconds,
            service_hash: r.service_hash,
            metadata: B256::ZERO,
            attestation: B256::ZERO,
            remaining: 0,
            initiator: Address::ZERO,
            bond: 0,
            result: B256::ZERO,
            agreement: r.agreement_hash,
        };
        let events = vec![Event::TransactionCreated {
            transaction_id: deal.id,
            requester: deal.requester,
            provider: deal.provider,
            amount: r.amount,
            service_hash: r.service_hash,
            deadline: r.deadline,
            timestamp: now,
            agent_id: r.agent_id,
            agreement_hash: r.agreement_hash,
        }];
        self.deals.insert(deal.id, deal);
        Ok(Outcome { events, moves: vec![] })
    }

    fn link(
        &mut self,
        now: u64,
        sender: Address,
        id: TransactionId,
        link: &LinkEscrow,
    ) -> Result<Outcome, Word> {
        let vault = link.escrow_contract.unwrap_or(self.vault);
        let escrow_id = link.escrow_id.unwrap_or(id);
        refuse(vault == Address::ZERO, "Escrow addr")?;
        refuse(escrow_id == B256::ZERO, "Invalid escrow ID")?;
        refuse(vault != self.vault, "Escrow not approved")?;
        refuse(self.used_escrow_ids.contains(&escrow_id), "Escrow ID already used")?;
        let mut deal = self.deal(id)?;
        let old_state = deal.state;
        let linkable = matches!(old_state, State::Initiated | State::Quoted);
        refuse(!linkable, "Invalid state for linking escrow")?;
        refuse(sender != deal.requester, "Only requester")?;
        refuse(now > deal.deadline, "Transaction expired")?;
        deal.state = State::Committed;
        deal.remaining = deal.amount;
        let amount = deal.amount;
        self.used_escrow_ids.insert(escrow_id);
        self.deals.insert(id, deal);
        Ok(Outcome {
            events: vec![
                Event::EscrowLinked {
                    transaction_id: id,
                    escrow_contract: vault,
                    escrow_id,
                    amount: Usdc(amount),
                    timestamp: now,
                },
                transitioned(now, sender, id, old_state, State::Committed),
            ],
            moves: vec![(sender, vault, amount)],
        })
    }

    fn accept(
        &mut self,
        now: u64,
        sender: Address,
        id: TransactionId,
        amount: u64,
    ) -> Result<Outcome, Word> {
        refuse(amount < FLOOR, "Below minimum")?;
        refuse(amount > CEILING, "Above maximum")?;
        let mut deal = self.deal(id)?;
        refuse(deal.state != State::Quoted, "Not quoted")?;
        refuse(sender != deal.requester, "Only requester")?;
        refuse(now > deal.deadline, "Expired")?;
        let old_amount = Usdc(deal.amount);
        deal.amount = amount;
        self.deals.insert(id, deal);
        let events = vec![Event::QuoteAccepted {
            transaction_id: id,
            old_amount,
            new_amount: Usdc(amount),
            timestamp: now,
        }];
        Ok(Outcome { events, moves: vec![] })
    }

    fn step(
        &mut self,
        now: u64,
        sender: Address,
        id: TransactionId,
        to: State,
        data: &[u8],
    ) -> Result<Outcome, Word> {
        use State::*;
        let mut deal = self.deal(id)?;
        let from = deal.state;
        self.may_step(&deal, now, sender, to)?;

        let mut out = Outcome::default();
        out.events.push(transitioned(now, sender, id, from, to));
        deal.state = to;
        match (from, to) {
            (_, Quoted) => {
                refuse(!data.is_empty() && data.len() != 32, "Quote hash must be 32 bytes")?;
                refuse(
                    data.len() == 32 && data.iter().all(|byte| *byte == 0),
                    "Invalid quote hash",
                )?;
                if !data.is_empty() {
                    deal.metadata = B256::from_slice(data);
                }
            }
            (_, Delivered) if self.commits() => {
                refuse(data.len() != 64, "Delivery proof must be (window,resultHash)")?;
                let window = U256::from_be_slice(&data[..32]);
                refuse(window < U256::from(3_600), "Dispute window too short")?;
                refuse(window > U256::from(30 * DAY), "Dispute window too long")?;
                refuse(data[32..] == [0; 32], "resultHash required")?;
                deal.window = now + window.to::<u64>();
                deal.result = B256::from_slice(&data[32..]);
            }
            (_, Delivered) => {
                refuse(!matches!(data.len(), 0 | 32), "Invalid dispute window proof")?;
                let window = data.try_into().map_or(U256::ZERO, U256::from_be_bytes::<32>);
                refuse(window > U256::from(30 * DAY), "Dispute window too long")?;
                let window = if window == U256::ZERO { 2 * DAY } else { window.to() };
                refuse(window < 3_600, "Dispute window too short")?;
                deal.window = now + window;
            }
            (_, Disputed) => {
                let bond = (deal.amount / 20).max(1_000_000);
                (deal.initiator, deal.bond) = (sender, bond);
                out.moves.push((sender, self.vault, bond));
                out.events.push(Event::DisputeOpened {
                    transaction_id: id,
                    initiator: sender,
                    bond: Usdc(bond),
                    timestamp: now,
                });
            }
            (Disputed, _) => self.resolve(now, &mut deal, data, &mut out)?,
            (_, Settled) => self.pay(now, &mut deal, u64::MAX, &mut out)?,
            (Committed, Cancelled) if sender == deal.requester => {
                let penalty = deal.remaining / 20;
                let rest = deal.remaining - penalty;
                self.refund(now, &mut deal, rest, &mut out);
                self.pay(now, &mut deal, penalty, &mut out)?;
            }
            (_, Cancelled) => {
                let all = deal.remaining;
                self.refund(now, &mut deal, all, &mut out);
            }
            _ => {}
        }
        self.deals.insert(id, deal);
        Ok(out)
    }

    fn resolve(
        &self,
        now: u64,
        deal: &mut Deal,
        data: &[u8],
        out: &mut Outcome,
    ) -> Result<(), Word> {
        let resolution = read_resolution(data)?;
        let settles = deal.state == State::Settled;
        refuse(settles && resolution.is_none(), "Dispute resolution requires explicit proof")?;
        let mut at_fault = false;
        match resolution {
            // In other words there, of the same meaning.
            None if self.commits() => return Err("Dispute resolution requires explicit proof"),
            None => {
                let all = deal.remaining;
                self.refund(now, deal, all, out);
            }
            Some(resolution) => {
                at_fault = settles && resolution.provider_at_fault;
                if resolution.mediator != Address::ZERO {
                    let payable_from = self.mediators.get(&resolution.mediator);
                    refuse(payable_from.is_none(), "Mediator not approved")?;
                    refuse(payable_from.is_some_and(|t| now < *t), "Mediator approval pending")?;
                }
                if deal.remaining > 0 {
                    let [requester, provider, mediator] = resolution.amounts;
                    let sum = requester.saturating_add(provider).saturating_add(mediator);
                    refuse(sum != U256::from(deal.remaining), "Must distribute ALL funds")?;
                    self.pay(now, deal, provider.to(), out)?;
                    self.refund(now, deal, requester.to(), out);
                    let fee: u64 = mediator.to();
                    refuse(fee > deal.amount / 10, "Mediator fee exceeds maximum")?;
                    if fee > 0 {
                        deal.remaining -= fee;
                        out.moves.push((self.vault, resolution.mediator, fee));
                        out.events.push(Event::EscrowMediatorPaid {
                            transaction_id: deal.id,
                            recipient: resolution.mediator,
                            amount: Usdc(fee),
                            timestamp: now,
                        });
                    }
                }
            }
        }
        let winner = match (settles, at_fault) {
            (false, _) => deal.initiator,
            (true, true) => deal.requester,
            (true, false) => deal.provider,
        };
        out.moves.push((self.vault, winner, deal.bond));
        out.events.push(Event::DisputeResolved {
            transaction_id: deal.id,
            dispute_id: B256::ZERO,
            initiator: deal.initiator,
            provider_at_fault: at_fault,
            bond: Usdc(deal.bond),
            timestamp: now,
        });
        deal.bond = 0;
        Ok(())
    }

    fn milestone(
        &mut self,
        now: u64,
        sender: Address,
        id: TransactionId,
        amount: u64,
    ) -> Result<Outcome, Word> {
        refuse(amount == 0, "Amount zero")?;
        let mut deal = self.deal(id)?;
        refuse(deal.state != State::InProgress, "Not in progress")?;
        refuse(sender != deal.requester, "Only requester")?;
        refuse(amount > deal.remaining, "Insufficient escrow")?;
        let mut out = Outcome::default();
        self.pay(now, &mut deal, amount, &mut out)?;
        out.events.push(Event::EscrowMilestoneReleased {
            transaction_id: id,
            amount: Usdc(amount),
            timestamp: now,
        });
        self.deals.insert(id, deal);
        Ok(out)
    }

    fn recover(&mut self, now: u64, sender: Address, id: TransactionId) -> Result<Outcome, Word> {
        let mut deal = self.deal(id)?;
        refuse(deal.state != State::InProgress, "Not in progress")?;
        refuse(now < deal.deadline + self.grace, "Recovery not yet available")?;
        let (requester, amount) = (deal.requester, Usdc(deal.remaining));
        deal.state = State::Cancelled;
        let events = vec![
            transitioned(now, sender, id, State::InProgress, State::Cancelled),
            Event::StalledInProgressRecovered { transaction_id: id, requester, amount },
        ];
        let mut out = Outcome { events, moves: vec![] };
        self.refund(now, &mut deal, amount.0, &mut out);
        self.deals.insert(id, deal);
        Ok(out)
    }

    fn release(&mut self, id: TransactionId) -> Result<Outcome, Word> {
        refuse(self.deal(id)?.state != State::Settled, "Not settled")?;
        Ok(Outcome::default())
    }

    fn anchor(
        &mut self,
        now: u64,
        sender: Address,
        id: TransactionId,
        uid: B256,
    ) -> Result<Outcome, Word> {
        refuse(uid == B256::ZERO, "Attestation missing")?;
        let mut deal = self.deal(id)?;
        refuse(deal.state != State::Settled, "Only settled")?;
        refuse(![deal.requester, deal.provider].contains(&sender), "Not participant")?;
        deal.attestation = uid;
        self.deals.insert(id, deal);
        let events = vec![Event::AttestationAnchored {
            transaction_id: id,
            attestation_uid: uid,
            attester: sender,
            timestamp: now,
        }];
        Ok(Outcome { events, moves: vec![] })
    }

    /// Part of the escrow, or all of it, to the provider, which pays the fee.
    fn pay(&self, now: u64, deal: &mut Deal, gross: u64, out: &mut Outcome) -> Result<(), Word> {
        let gross = gross.min(deal.remaining);
        if gross == 0 {
            return Ok(());
        }
        let mut fee = (gross / 100).max(FLOOR);
        if self.recovers() {
            fee = fee.min(gross);
        }
        refuse(fee > gross, "Fee exceeds amount")?;
        let (net, archived) = (gross - fee, fee / 1_000);
        deal.remaining -= gross;
        out.moves.push((self.vault, deal.provider, net));
        out.moves.push((self.vault, self.treasury, archived));
        out.moves.push((self.vault, self.fee_recipient, fee - archived));
        let (transaction_id, timestamp) = (deal.id, now);
        if net > 0 {
            let (recipient, amount) = (deal.provider, Usdc(net));
            out.events.push(Event::EscrowReleased { transaction_id, recipient, amount, timestamp });
        }
        let (recipient, amount) = (self.fee_recipient, Usdc(fee - archived));
        out.events.push(Event::PlatformFeeAccrued { transaction_id, recipient, amount, timestamp });
        Ok(())
    }

    fn refund(&self, now: u64, deal: &mut Deal, amount: u64, out: &mut Outcome) {
        if amount == 0 {
            return;
        }
        deal.remaining -= amount;
        out.moves.push((self.vault, deal.requester, amount));
        out.events.push(Event::EscrowRefunded {
            transaction_id: deal.id,
            recipient: deal.requester,
            amount: Usdc(amount),
            timestamp: now,
        });
    }
}

impl World {
    /// The table: same state, no such way, who, when.
    pub fn may_step(&self, deal: &Deal, now: u64, sender: Address, to: State) -> Result<(), Word> {
        use State::*;
        let requester = sender == deal.requester;
        let provider = sender == deal.provider;
        let party = requester || provider;
        let late = now > deal.deadline;
        // Of use from DELIVERED on, where the window is a time.
        let closed = now > deal.window;
        match (deal.state, to) {
            (from, to) if from == to => Err("No-op"),
            (InProgress, Delivered) if self.recovers() => {
                refuse(!provider, "Only provider")?;
                refuse(now >= deal.deadline + self.grace, "Delivery grace expired")
            }
            (Initiated, Quoted) | (Committed, InProgress) | (InProgress, Delivered) => {
                refuse(!provider, "Only provider")?;
                refuse(late, "Transaction expired")
            }
            (Delivered, Settled) => {
                refuse(!party && !closed, "Not authorized to settle")?;
                refuse(!requester && !closed, "Requester decision pending")
            }
            (Delivered, Disputed) => {
                refuse(!party, "Party only")?;
                refuse(closed, "Dispute window closed")
            }
            (Disputed, Settled | Cancelled) => {
                let mediates = self.mediators.get(&sender).is_some_and(|since| now >= *since);
                refuse(sender != self.admin && !(mediates && self.recovers()), "Resolver only")
            }
            (Initiated | Quoted, Cancelled) => refuse(!requester, "Only requester can cancel"),
            (Committed, Cancelled) => {
                refuse(!party, "Party only")?;
                refuse(requester && now < deal.deadline, "Deadline not reached")
            }
            (InProgress, Cancelled) => {
                refuse(!party, "Party only")?;
                refuse(requester, "Cannot cancel after work started")
            }
            _ => Err("Invalid transition"),
        }
    }
}

struct Resolution {
    /// Requester's, provider's, mediator's.
    amounts: [U256; 3],
    mediator: Address,
    provider_at_fault: bool,
}

fn read_resolution(data: &[u8]) -> Result<Option<Resolution>, Word> {
    const INVALID: Word = "Invalid resolution proof";
    let word = |index: usize| U256::from_be_slice(&data[32 * index..32 * (index + 1)]);
    let fault = |index: usize| match word(index) {
        U256::ZERO => Ok(false),
        U256::ONE => Ok(true),
        _ => Err(INVALID),
    };
    let (provider_at_fault, mediated) = match data.len() {
        0 => return Ok(None),
        64 => (true, false),
        96 => (fault(2)?, false),
        128 => (true, true),
        160 => (fault(4)?, true),
        _ => return Err(INVALID),
    };
    let mut resolution = Resolution {
        amounts: [word(0), word(1), U256::ZERO],
        mediator: Address::ZERO,
        provider_at_fault,
    };
    if mediated {
        refuse(data[64..76] != [0; 12], INVALID)?;
        resolution.mediator = Address::from_slice(&data[76..96]);
        resolution.amounts[2] = word(3);
    }
    refuse(resolution.amounts == [U256::ZERO; 3], "Empty resolution")?;
    let nobody = resolution.mediator == Address::ZERO && resolution.amounts[2] > U256::ZERO;
    refuse(nobody, "Mediator address required")?;
    Ok(Some(resolution))
}

/// The meaning of a deal's window.
pub fn window_of(deal: &Deal) -> DisputeWindow {
    if deal.window > 30 * DAY {
        DisputeWindow::EndsAt(deal.window)
    } else {
        DisputeWindow::Seconds(deal.window)
    }
}

fn transitioned(
    timestamp: u64,
    triggered_by: Address,
    transaction_id: TransactionId,
    old_state: State,
    new_state: State,
) -> Event {
    Event::StateTransitioned { transaction_id, old_state, new_state, triggered_by, timestamp }
}

fn refuse(wrong: bool, word: Word) -> Result<(), Word> {
    if wrong { Err(word) } else { Ok(()) }
}
