//! What every kernel says in the same words.

use alloy_primitives::Address;

use crate::{
    error::{Code, Error, Result},
    network::Network,
    protocol::{CreateTransaction, Refusal, Transaction, TransactionId, Usdc, money},
};

/// Nothing has this id.
pub(super) fn missing(id: TransactionId) -> Error {
    Error::refused_value(Refusal::TxMissing, "transaction_id", id)
        .with_facts(|facts| facts.transaction_id = Some(id))
}

/// Money cannot be made out of nothing here.
pub(super) fn no_test_money(network: &Network) -> Error {
    let message = format!("USDC cannot be minted on {}", network.name);
    Error::new(Code::NetworkUnavailable, message).with_hint(
        "test USDC is minted in mode mock, on Base Sepolia and on local chains; send real USDC to \
         this address",
    )
}

/// What a kernel of another generation can do.
fn unsupported(network: &Network, what: &str, hint: &str) -> Error {
    let Network { name, terms, .. } = network;
    let generation = terms.generation();
    let message = format!("the kernel of {name} is of the generation {generation}, which {what}");
    Error::new(Code::UnsupportedKernel, message).with_hint(format!("{hint}; nothing was sent"))
}

/// Kernels before AIP-14c have nowhere to keep an agreement.
pub(super) fn check_agreement(network: &Network, request: &CreateTransaction) -> Result<()> {
    if network.terms.takes_agreements() || request.agreement_hash.is_zero() {
        return Ok(());
    }
    let hint = "leave agreement_hash out, or commit to what was agreed by service_hash";
    Err(unsupported(network, "keeps no agreement hash", hint).with_facts(|facts| {
        facts.field = Some("agreement_hash");
        facts.value = Some(request.agreement_hash.to_string());
    }))
}

/// A paywall cannot ask for agreements where none is kept.
#[cfg(feature = "paywall")]
pub(crate) fn require_agreements(network: &Network) -> Result<()> {
    if network.terms.takes_agreements() {
        return Ok(());
    }
    let hint = "leave require_agreement out";
    Err(unsupported(network, "keeps no agreement hash", hint)
        .with_facts(|facts| facts.field = Some("require_agreement")))
}

/// Kernels before F-6 recover nothing.
pub(crate) fn require_recovery(network: &Network) -> Result<()> {
    if network.terms.recovery_grace_seconds().is_some() {
        return Ok(());
    }
    let hint =
        "on this kernel only the provider can give the money of begun work back, by cancelling";
    Err(unsupported(network, "recovers no abandoned work", hint))
}

/// No contract decides disputes by bonds here.
#[cfg(feature = "disputes")]
pub(super) fn no_bond_escalation(network: &Network) -> Error {
    let error = match network.terms.escalates_disputes() {
        false => unsupported(
            network,
            "decides no disputes by bonds",
            "here the kernel's admin resolves disputes, or a mediator that it approved; bonds \
             decide them on base-sepolia-aip14c, and on a devnet of the generation aip14c",
        ),
        true => {
            let message = format!(
                "the network {} has no contract that decides disputes by bonds",
                network.name
            );
            Error::new(Code::NetworkUnavailable, message).with_hint(
                "name contracts.bondEscalation in the network profile, if there is one; mode mock \
                 has none; nothing was sent",
            )
        }
    };
    error.with_facts(|facts| facts.field = Some("bond_escalation"))
}

/// A page has 1 … `most` entries.
pub(super) fn check_limit(limit: u32, most: u32) -> Result<()> {
    if (1..=most).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid(
        Code::InvalidNumber,
        "limit",
        &limit.to_string(),
        &format!("is not within 1 … {most}"),
    )
    .with_hint("read the rest in further pages"))
}

/// Somebody owns less than a transaction takes.
pub(super) fn insufficient_balance(
    transaction: &Transaction,
    owner: Address,
    required: Usdc,
    available: Usdc,
) -> Error {
    let &Transaction { id, state, deadline, .. } = transaction;
    let message = format!("{owner} owns {available} USDC, {required} are needed");
    Error::new(Code::InsufficientBalance, message)
        .with_hint("add USDC to this address; in mode mock with mint(address, amount)")
        .with_facts(|facts| {
            facts.transaction_id = Some(id);
            facts.state = Some(state);
            facts.deadline = Some(deadline);
            facts.required = Some(required);
            facts.available = Some(available);
        })
}

/// The bond that disputing a transaction takes.
///
/// # Errors
/// [`Code::PriceAboveLimit`] where it is more than `max_bond`.
pub(super) fn agreed_bond(transaction: &Transaction, max_bond: Usdc) -> Result<Usdc> {
    let bond = money::dispute_bond(transaction.amount, transaction.dispute_bond_bps_locked);
    if bond <= max_bond {
        return Ok(bond);
    }
    let message = format!("a dispute takes a bond of {bond} USDC, and max_bond is {max_bond}");
    Err(Error::new(Code::PriceAboveLimit, message)
        .with_hint(
            "the bond falls to the provider unless the resolver finds it at fault: pass it as \
             max_bond if the dispute is worth it; nothing was done",
        )
        .with_facts(|facts| {
            facts.transaction_id = Some(transaction.id);
            facts.field = Some("max_bond");
            facts.required = Some(bond);
            facts.available = Some(max_bond);
        }))
}

/// What a node says contradicts what is known or was agreed.
#[cfg(feature = "chain")]
pub(in crate::kernel) fn contradiction(message: String) -> Error {
    Error::new(Code::ContradictoryAnswer, message).with_hint(
        "ask another RPC endpoint, and do not trust this one with money until you know why; \
         nothing was sent",
    )
}

/// The refusal of this creation, naming the argument that caused it.
pub(super) fn refused_creation(request: &CreateTransaction, refusal: Refusal, now: u64) -> Error {
    match refusal {
        Refusal::RequesterMismatch => Error::refused_value(refusal, "requester", request.requester),
        Refusal::ZeroProvider | Refusal::SelfTransaction => {
            Error::refused_value(refusal, "provider", request.provider)
        }
        Refusal::AmountBelowMinimum | Refusal::AmountAboveMaximum => {
            Error::refused_value(refusal, "amount", request.amount.0)
        }
        Refusal::DeadlineInPast | Refusal::DeadlineTooSoon | Refusal::DeadlineTooFar => {
            let deadline = format!("{}, the kernel's clock reads {now}", request.deadline);
            Error::refused_value(refusal, "deadline", deadline)
        }
        Refusal::DisputeWindowTooShort | Refusal::DisputeWindowTooLong => {
            Error::refused_value(refusal, "dispute_window", request.dispute_window_seconds)
        }
        _ => refusal.into(),
    }
}
