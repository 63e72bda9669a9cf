//! The kernel's rules: who may do what, when, and what it does to the money.
//!
//! Each function takes what the kernel knows and returns what the call changes, or the refusal
//! that the deployed contract gives, in the contract's order of checks. Nothing here reads a
//! clock or a database; both kernels and the paywall ask here and repeat nothing.
//!
//! In what the generations of the kernel differ, [`Terms`] tells.
//!
//! Source: `ACTPKernel` as deployed since 2026-05-19; AIP-0, AIP-14, AIP-14c.

use alloy_primitives::{Address, B256, U256};

use super::{
    CreateTransaction, DisputeWindow, Refusal, State, Terms, Transaction, Usdc,
    id::transaction_id,
    money::{self, MAX_AMOUNT, MAX_MEDIATOR_FEE_BPS, MIN_AMOUNT, Payout},
    proof::Resolution,
};

/// A deadline lies at most this far ahead: 365 days (`MAX_DEADLINE`).
pub const MAX_DEADLINE_SECONDS: u64 = 365 * 86_400;
/// The shortest dispute window: 1 hour (`MIN_DISPUTE_WINDOW`).
pub const MIN_DISPUTE_WINDOW_SECONDS: u64 = 3_600;
/// The longest dispute window: 30 days (`MAX_DISPUTE_WINDOW`).
pub const MAX_DISPUTE_WINDOW_SECONDS: u64 = 30 * 86_400;
/// The dispute window where none is given: 2 days (`DEFAULT_DISPUTE_WINDOW`).
pub const DEFAULT_DISPUTE_WINDOW_SECONDS: u64 = 2 * 86_400;
/// A mediator can be paid this long after its approval: 2 days (`MEDIATOR_APPROVAL_DELAY`).
pub const MEDIATOR_APPROVAL_DELAY_SECONDS: u64 = 2 * 86_400;

/// The rates that a transaction locks at its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Platform fee, basis points, at most 500.
    pub platform_fee_bps: u16,
    /// Requester's cancellation penalty, basis points, at most 5_000.
    pub requester_penalty_bps: u16,
    /// Dispute bond, basis points, at most 2_000.
    pub dispute_bond_bps: u16,
}

/// The rates in force since deployment: 1 %, 5 % and 5 %.
impl Default for Rates {
    fn default() -> Self {
        Self { platform_fee_bps: 100, requester_penalty_bps: 500, dispute_bond_bps: 500 }
    }
}

/// Money that an accepted call moves, in the order in which it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Requester's account → escrow.
    Fund(Usdc),
    /// Escrow → provider and protocol.
    PayProvider(Payout),
    /// Escrow → requester.
    Refund(Usdc),
    /// Escrow → requester, because its provider abandoned the work; it may be nothing.
    Recover(Usdc),
    /// Escrow → mediator.
    PayMediator(Address, Usdc),
    /// A party's account → vault, beside the escrow.
    DepositBond(Address, Usdc),
    /// Vault → the party that the bond falls to.
    ReleaseBond {
        /// Who gets it.
        to: Address,
        /// How much.
        bond: Usdc,
        /// Whether the resolver found the provider at fault.
        provider_at_fault: bool,
    },
}

/// What an accepted call changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The transaction afterwards.
    pub transaction: Transaction,
    /// The money that moves.
    pub moves: Vec<Move>,
    /// Where the provider's reputation remembers the step: whether it was at fault.
    pub settled_at_fault: Option<bool>,
}

/// What a call on an existing transaction is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The transaction before the call.
    pub transaction: &'a Transaction,
    /// Who calls.
    pub sender: Address,
    /// The kernel's clock, Unix seconds.
    pub now: u64,
    /// What is left in the transaction's escrow.
    pub remaining: Usdc,
    /// The kernel's terms.
    pub terms: Terms,
}

/// Who may resolve disputes, and who may be paid for mediating; from F-6 on mediators resolve too.
#[derive(Debug, Clone, Copy)]
pub struct Arbiters<'a> {
    /// The kernel's admin.
    pub resolver: Address,
    /// Approved mediators, each with the time from which its approval counts.
    pub mediators: &'a [(Address, u64)],
}

/// `createTransaction`: the new transaction.
///
/// # Errors
/// The contract's refusals in its order: sender, provider, self, amount, deadline, window. Kernels
/// before AIP-14c have no argument for an agreement: theirs is passed over.
pub fn create(
    request: &CreateTransaction,
    sender: Address,
    nonce: u64,
    terms: Terms,
    rates: Rates,
    now: u64,
) -> Result<Transaction, Refusal> {
    let CreateTransaction { provider, requester, amount, deadline, .. } = *request;
    require(sender == requester, Refusal::RequesterMismatch)?;
    require(provider != Address::ZERO, Refusal::ZeroProvider)?;
    require(requester != provider, Refusal::SelfTransaction)?;
    require(amount >= MIN_AMOUNT, Refusal::AmountBelowMinimum)?;
    require(amount <= MAX_AMOUNT, Refusal::AmountAboveMaximum)?;
    require(deadline > now, Refusal::DeadlineInPast)?;
    require(deadline >= terms.earliest_deadline(now), Refusal::DeadlineTooSoon)?;
    require(deadline - now <= MAX_DEADLINE_SECONDS, Refusal::DeadlineTooFar)?;
    check_dispute_window(request.dispute_window_seconds)?;
    Ok(Transaction {
        id: transaction_id(requester, provider, amount, request.service_hash, nonce),
        requester,
        provider,
        state: State::Initiated,
        amount,
        created_at: now,
        updated_at: now,
        deadline,
        service_hash: request.service_hash,
        escrow_contract: Address::ZERO,
        escrow_id: B256::ZERO,
        attestation_uid: B256::ZERO,
        dispute_window: DisputeWindow::Seconds(request.dispute_window_seconds),
        metadata: B256::ZERO,
        platform_fee_bps_locked: rates.platform_fee_bps,
        requester_penalty_bps_locked: rates.requester_penalty_bps,
        dispute_bond_bps_locked: rates.dispute_bond_bps,
        agent_id: request.agent_id,
        requester_agent_id: request.requester_agent_id,
        dispute_initiator: Address::ZERO,
        dispute_bond: Usdc::ZERO,
        result_hash: B256::ZERO,
        agreement_hash: if terms.takes_agreements() { request.agreement_hash } else { B256::ZERO },
    })
}

/// The checks of `linkEscrow` that come before it looks for the transaction.
///
/// # Errors
/// The contract's refusals in its order: vault, escrow id, approval, reuse.
pub fn check_escrow(
    vault: Address,
    escrow_id: B256,
    approved: bool,
    used: bool,
) -> Result<(), Refusal> {
    require(vault != Address::ZERO, Refusal::EscrowAddress)?;
    require(escrow_id != B256::ZERO, Refusal::InvalidEscrowId)?;
    require(approved, Refusal::EscrowNotApproved)?;
    require(!used, Refusal::EscrowIdUsed)
}

/// `linkEscrow`, once [`check_escrow`] has passed: INITIATED or QUOTED → COMMITTED.
///
/// # Errors
/// The contract's refusals in its order: state, sender, deadline. Balance and allowance are the
/// token's to check.
pub fn link_escrow(call: Call<'_>, vault: Address, escrow_id: B256) -> Result<Effect, Refusal> {
    let Call { transaction: tx, sender, now, .. } = call;
    require(matches!(tx.state, State::Initiated | State::Quoted), Refusal::InvalidStateForLinking)?;
    require(sender == tx.requester, Refusal::OnlyRequester)?;
    require(now <= tx.deadline, Refusal::TransactionExpired)?;
    let transaction = Transaction {
        state: State::Committed,
        updated_at: now,
        escrow_contract: vault,
        escrow_id,
        ..tx.clone()
    };
    Ok(Effect { transaction, moves: vec![Move::Fund(tx.amount)], settled_at_fault: None })
}

/// The checks of `acceptQuote` that come before it looks for the transaction.
///
/// # Errors
/// [`Refusal::BelowMinimum`], [`Refusal::AboveMaximum`].
pub fn check_quoted_amount(amount: Usdc) -> Result<(), Refusal> {
    require(amount >= MIN_AMOUNT, Refusal::BelowMinimum)?;
    require(amount <= MAX_AMOUNT, Refusal::AboveMaximum)
}

/// `acceptQuote`, once [`check_quoted_amount`] has passed: the amount is replaced and the
/// platform fee rate locked again.
///
/// # Errors
/// The contract's refusals in its order: state, sender, deadline.
pub fn accept_quote(call: Call<'_>, amount: Usdc, rates: Rates) -> Result<Effect, Refusal> {
    let Call { transaction: tx, sender, now, .. } = call;
    require(tx.state == State::Quoted, Refusal::NotQuoted)?;
    require(sender == tx.requester, Refusal::OnlyRequester)?;
    require(now <= tx.deadline, Refusal::Expired)?;
    let transaction = Transaction {
        amount,
        platform_fee_bps_locked: rates.platform_fee_bps,
        updated_at: now,
        ..tx.clone()
    };
    Ok(Effect { transaction, moves: vec![], settled_at_fault: None })
}

/// `transitionState`: every row of the protocol's table but creation and linking.
///
/// `data` is what the transition carries: a quote hash, an encoded dispute window, a resolution.
/// Where the table says "ignored", it is.
///
/// # Errors
/// The contract's refusals in its order: same state, no such way, who, when, what it carries.
pub fn transition(
    call: Call<'_>,
    to: State,
    data: &[u8],
    arbiters: Arbiters<'_>,
) -> Result<Effect, Refusal> {
    let Call { transaction: tx, sender, now, remaining, terms } = call;
    require(to != tx.state, Refusal::NoOp)?;
    require(tx.state.can_become(to), Refusal::InvalidTransition)?;
    authorize(call, to, arbiters)?;
    check_time(call, to)?;

    let mut after = Transaction { state: to, updated_at: now, ..tx.clone() };
    let mut moves = vec![];
    let mut settled_at_fault = None;
    match (tx.state, to) {
        (_, State::Quoted) => after.metadata = quote_hash(data)?.unwrap_or(tx.metadata),
        (_, State::Delivered) => {
            let (window, result_hash) = delivery(terms, data)?;
            after.dispute_window = DisputeWindow::EndsAt(now + window);
            after.result_hash = result_hash;
        }
        (_, State::Disputed) => {
            require(tx.escrow_contract != Address::ZERO, Refusal::EscrowMissingForDispute)?;
            let bond = money::dispute_bond(tx.amount, tx.dispute_bond_bps_locked);
            after.dispute_initiator = sender;
            after.dispute_bond = bond;
            moves.push(Move::DepositBond(sender, bond));
        }
        (State::Disputed, State::Settled) => {
            let resolution = Resolution::decode(data)?.ok_or(Refusal::ResolutionRequired)?;
            moves = resolve(call, &resolution, arbiters.mediators)?;
            let provider_at_fault = resolution.provider_at_fault;
            let to = if provider_at_fault { tx.requester } else { tx.provider };
            moves.push(Move::ReleaseBond { to, bond: tx.dispute_bond, provider_at_fault });
            after.dispute_bond = Usdc::ZERO;
            settled_at_fault = Some(provider_at_fault);
        }
        (State::Disputed, _) => {
            moves = match Resolution::decode(data)? {
                Some(resolution) => resolve(call, &resolution, arbiters.mediators)?,
                None if terms.takes_results() => return Err(Refusal::ResolutionRequired),
                None => refund(remaining),
            };
            let (to, bond) = (tx.dispute_initiator, tx.dispute_bond);
            moves.push(Move::ReleaseBond { to, bond, provider_at_fault: false });
            after.dispute_bond = Usdc::ZERO;
        }
        (_, State::Settled) => {
            moves = pay_provider(call, remaining)?;
            settled_at_fault = Some(false);
        }
        (State::Committed, State::Cancelled) if sender == tx.requester => {
            let penalty = money::cancellation_penalty(remaining, tx.requester_penalty_bps_locked);
            moves = refund(Usdc(remaining.0 - penalty.0));
            moves.extend(pay_provider(call, penalty)?);
        }
        (State::Committed | State::InProgress, State::Cancelled) => moves = refund(remaining),
        _ => {}
    }
    Ok(Effect { transaction: after, moves, settled_at_fault })
}

/// `recoverStalledInProgress`: returns the money of work that was begun and not delivered to its
/// requester. Anyone may call it, also while the kernel is paused. Kernels before F-6 have no such
/// function.
///
/// # Errors
/// The contract's refusals in its order: state, time, escrow.
pub fn recover_stalled(call: Call<'_>) -> Result<Effect, Refusal> {
    let Call { transaction: tx, now, remaining, terms, .. } = call;
    require(tx.state == State::InProgress, Refusal::NotInProgress)?;
    let recovered = terms.recovered_from(tx.deadline).is_some_and(|time| now >= time);
    require(recovered, Refusal::RecoveryNotYetAvailable)?;
    require(tx.escrow_contract != Address::ZERO, Refusal::EscrowMissing)?;
    let transaction = Transaction { state: State::Cancelled, updated_at: now, ..tx.clone() };
    Ok(Effect { transaction, moves: vec![Move::Recover(remaining)], settled_at_fault: Some(true) })
}

/// `releaseMilestone`: pays part of an IN_PROGRESS transaction early, charged its own fee.
///
/// # Errors
/// The contract's refusals in its order. [`check_milestone`] comes before the transaction is
/// looked for.
pub fn release_milestone(call: Call<'_>, amount: Usdc) -> Result<Effect, Refusal> {
    let Call { transaction: tx, sender, now, remaining, .. } = call;
    require(tx.state == State::InProgress, Refusal::NotInProgress)?;
    require(sender == tx.requester, Refusal::OnlyRequester)?;
    require(tx.escrow_contract != Address::ZERO, Refusal::EscrowMissing)?;
    require(amount <= remaining, Refusal::InsufficientEscrow)?;
    let moves = pay_provider(call, amount)?;
    let transaction = Transaction { updated_at: now, ..tx.clone() };
    Ok(Effect { transaction, moves, settled_at_fault: None })
}

/// The check of `releaseMilestone` that comes before it looks for the transaction.
///
/// # Errors
/// [`Refusal::AmountZero`].
pub fn check_milestone(amount: Usdc) -> Result<(), Refusal> {
    require(amount > Usdc::ZERO, Refusal::AmountZero)
}

/// `releaseEscrow`: pays what a settled transaction still holds, which after a settlement is
/// nothing. Anyone may call it, also while the kernel is paused.
///
/// # Errors
/// [`Refusal::NotSettled`].
pub fn release_escrow(call: Call<'_>) -> Result<Effect, Refusal> {
    let Call { transaction: tx, remaining, .. } = call;
    require(tx.state == State::Settled, Refusal::NotSettled)?;
    let moves = pay_provider(call, remaining)?;
    Ok(Effect { transaction: tx.clone(), moves, settled_at_fault: None })
}

/// The check of `anchorAttestation` that comes before it looks for the transaction.
///
/// # Errors
/// [`Refusal::AttestationMissing`].
pub fn check_attestation(uid: B256) -> Result<(), Refusal> {
    require(uid != B256::ZERO, Refusal::AttestationMissing)
}

/// `anchorAttestation`, once [`check_attestation`] has passed.
///
/// # Errors
/// The contract's refusals in its order: state, sender.
pub fn anchor_attestation(call: Call<'_>, uid: B256) -> Result<Effect, Refusal> {
    let Call { transaction: tx, sender, .. } = call;
    require(tx.state == State::Settled, Refusal::OnlySettled)?;
    require(is_party(tx, sender), Refusal::NotParticipant)?;
    let transaction = Transaction { attestation_uid: uid, ..tx.clone() };
    Ok(Effect { transaction, moves: vec![], settled_at_fault: None })
}

/// How the money of a funded transaction comes back to its requester without the provider's help.
/// A careful consumer asks before it funds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WayBack {
    /// What cancelling costs, from the deadline on, while the provider has not begun. `None`: it is
    /// refused, since the penalty would be below the least fee.
    pub cancellation_penalty: Option<Usdc>,
    /// How long after the deadline the money of begun work is recovered, in seconds. `None`: once the
    /// provider has begun, it alone can give the money back.
    pub recovery_grace_seconds: Option<u64>,
}

/// Tells what a requester can do if the provider never delivers.
///
/// ```
/// use agirails_protocol::{Generation, Terms, Usdc, rules::{Rates, way_back}};
///
/// let way = way_back(Terms::MAY_2026, Usdc(100_000), Rates::default());
/// assert_eq!((way.cancellation_penalty, way.recovery_grace_seconds), (None, None));
/// let way = way_back(Terms::MAY_2026, Usdc(1_000_000), Rates::default());
/// assert_eq!(way.cancellation_penalty, Some(Usdc(50_000)));
/// let way = way_back(Terms::new(Generation::F6, 3_600), Usdc(100_000), Rates::default());
/// assert_eq!(way.cancellation_penalty, Some(Usdc(5_000)));
/// assert_eq!(way.recovery_grace_seconds, Some(3_600));
/// ```
pub fn way_back(terms: Terms, amount: Usdc, rates: Rates) -> WayBack {
    let penalty_bps = rates.requester_penalty_bps;
    let penalty = money::cancellation_penalty(amount, penalty_bps);
    WayBack {
        cancellation_penalty: terms.requester_can_cancel(amount, penalty_bps).then_some(penalty),
        recovery_grace_seconds: terms.recovery_grace_seconds(),
    }
}

fn require(holds: bool, otherwise: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(otherwise) }
}

fn is_party(tx: &Transaction, address: Address) -> bool {
    address == tx.requester || address == tx.provider
}

fn check_dispute_window(seconds: u64) -> Result<(), Refusal> {
    require(seconds >= MIN_DISPUTE_WINDOW_SECONDS, Refusal::DisputeWindowTooShort)?;
    require(seconds <= MAX_DISPUTE_WINDOW_SECONDS, Refusal::DisputeWindowTooLong)
}

fn authorize(call: Call<'_>, to: State, arbiters: Arbiters<'_>) -> Result<(), Refusal> {
    let Call { transaction: tx, sender, now, .. } = call;
    match (tx.state, to) {
        (_, State::Quoted | State::InProgress | State::Delivered) => {
            require(sender == tx.provider, Refusal::OnlyProvider)
        }
        (State::Disputed, _) => require(may_resolve(call, arbiters), Refusal::ResolverOnly),
        (_, State::Settled) => require(
            is_party(tx, sender) || window_has_passed(tx, now),
            Refusal::NotAuthorizedToSettle,
        ),
        (State::Initiated | State::Quoted, State::Cancelled) => {
            require(sender == tx.requester, Refusal::OnlyRequesterCanCancel)
        }
        _ => require(is_party(tx, sender), Refusal::PartyOnly),
    }
}

fn check_time(call: Call<'_>, to: State) -> Result<(), Refusal> {
    let Call { transaction: tx, sender, now, terms, .. } = call;
    let by_requester = sender == tx.requester;
    match (tx.state, to) {
        (_, State::Quoted | State::InProgress) => {
            require(now <= tx.deadline, Refusal::TransactionExpired)
        }
        (_, State::Delivered) => {
            let in_time = now <= terms.delivered_until(tx.deadline);
            require(
                in_time,
                match terms.recovery_grace_seconds() {
                    None => Refusal::TransactionExpired,
                    Some(_) => Refusal::DeliveryGraceExpired,
                },
            )
        }
        (State::InProgress, State::Cancelled) => {
            require(!by_requester, Refusal::CannotCancelAfterWorkStarted)
        }
        (State::Committed, State::Cancelled) => {
            require(!by_requester || now >= tx.deadline, Refusal::DeadlineNotReached)
        }
        (_, State::Disputed) => require(!window_has_passed(tx, now), Refusal::DisputeWindowClosed),
        (State::Delivered, State::Settled) => {
            require(by_requester || window_has_passed(tx, now), Refusal::RequesterDecisionPending)
        }
        _ => Ok(()),
    }
}

fn may_resolve(call: Call<'_>, arbiters: Arbiters<'_>) -> bool {
    let mediates = |(mediator, since): &(Address, u64)| {
        *mediator == call.sender && call.now >= *since && call.terms.mediators_resolve()
    };
    call.sender == arbiters.resolver || arbiters.mediators.iter().any(mediates)
}

/// Only asked of delivered transactions, whose window is a time.
fn window_has_passed(tx: &Transaction, now: u64) -> bool {
    now > tx.dispute_window.to_contract()
}

fn quote_hash(data: &[u8]) -> Result<Option<B256>, Refusal> {
    if data.is_empty() {
        return Ok(None);
    }
    let hash = B256::try_from(data).map_err(|_| Refusal::QuoteHashLength)?;
    require(hash != B256::ZERO, Refusal::InvalidQuoteHash)?;
    Ok(Some(hash))
}

/// What a delivery carries: the window in seconds, and the result's hash where one is committed to.
fn delivery(terms: Terms, data: &[u8]) -> Result<(u64, B256), Refusal> {
    if terms.takes_results() {
        let words = data.split_first_chunk::<32>();
        let words = words.and_then(|(window, hash)| Some((window, B256::try_from(hash).ok()?)));
        let (window, hash) = words.ok_or(Refusal::DeliveryProofMalformed)?;
        let window = window_seconds(U256::from_be_bytes(*window))?;
        require(hash != B256::ZERO, Refusal::ResultHashRequired)?;
        return Ok((window, hash));
    }
    if data.is_empty() {
        return Ok((DEFAULT_DISPUTE_WINDOW_SECONDS, B256::ZERO));
    }
    let word: [u8; 32] = data.try_into().map_err(|_| Refusal::InvalidDisputeWindowProof)?;
    let window = match U256::from_be_bytes(word) {
        U256::ZERO => DEFAULT_DISPUTE_WINDOW_SECONDS,
        window => window_seconds(window)?,
    };
    Ok((window, B256::ZERO))
}

fn window_seconds(window: U256) -> Result<u64, Refusal> {
    let seconds = u64::try_from(window).map_err(|_| Refusal::DisputeWindowTooLong)?;
    check_dispute_window(seconds).map(|()| seconds)
}

fn resolve(
    call: Call<'_>,
    resolution: &Resolution,
    mediators: &[(Address, u64)],
) -> Result<Vec<Move>, Refusal> {
    let Call { transaction: tx, now, remaining, .. } = call;
    if let Some((mediator, _)) = resolution.mediator {
        let payable_from = mediators.iter().find(|(address, _)| *address == mediator);
        let (_, payable_from) = payable_from.ok_or(Refusal::MediatorNotApproved)?;
        require(now >= *payable_from, Refusal::MediatorApprovalPending)?;
    }
    if remaining == Usdc::ZERO {
        return Ok(vec![]);
    }
    let mediation = resolution.mediator.map_or(Usdc::ZERO, |(_, amount)| amount);
    let total = resolution
        .requester_amount
        .checked_add(resolution.provider_amount)
        .and_then(|sum| sum.checked_add(mediation));
    require(total == Some(remaining), Refusal::MustDistributeAll)?;

    let mut moves = pay_provider(call, resolution.provider_amount)?;
    moves.extend(refund(resolution.requester_amount));
    if let Some((mediator, amount)) = resolution.mediator.filter(|(_, amount)| *amount > Usdc::ZERO)
    {
        require(
            amount <= tx.amount.share(MAX_MEDIATOR_FEE_BPS),
            Refusal::MediatorFeeExceedsMaximum,
        )?;
        moves.push(Move::PayMediator(mediator, amount));
    }
    Ok(moves)
}

/// Nothing to pay is nothing to charge a fee on.
fn pay_provider(call: Call<'_>, gross: Usdc) -> Result<Vec<Move>, Refusal> {
    if gross == Usdc::ZERO {
        return Ok(vec![]);
    }
    let fee_bps = call.transaction.platform_fee_bps_locked;
    Ok(vec![Move::PayProvider(call.terms.payout(gross, fee_bps)?)])
}

fn refund(amount: Usdc) -> Vec<Move> {
    if amount == Usdc::ZERO { vec![] } else { vec![Move::Refund(amount)] }
}
