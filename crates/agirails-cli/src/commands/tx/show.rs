use agirails::{Address, B256, DisputeWindow, Result, Transaction, TransactionId, U256};

use super::next;
use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Format, Record, duration, rate},
};

/// A transaction with everything that is known of it.
pub async fn run(id: TransactionId, connection: &Connection, format: Format) -> Result<u8> {
    let kernel = connection.reader().await?;
    let tx = kernel.get_transaction(id).await?;
    let escrow = kernel.escrow(id).await?;
    let proof = kernel.delivery_proof(id).await?;
    let (now, network) = (kernel.now().await?, kernel.network());
    let next = next(&tx, network.terms, now, escrow.remaining(), network.admin);
    let usdc = |amount: agirails::Usdc| Cell::both(format!("{amount} USDC"), amount.0);
    let Transaction { dispute_window, .. } = tx;
    Record::new()
        .with("transactionId", "transaction", Cell::text(tx.id))
        .with("network", "network", Cell::text(&network.name))
        .with("chainId", "", Cell::number(network.chain_id))
        .with("state", "state", Cell::text(tx.state))
        .with("next", "next", Cell::text(next))
        .with("amount", "amount", usdc(tx.amount))
        .with("escrowRemaining", "in escrow", usdc(escrow.remaining()))
        .with("requester", "requester", Cell::text(tx.requester))
        .with("provider", "provider", Cell::text(tx.provider))
        .with("createdAt", "created", Cell::time(tx.created_at))
        .with("updatedAt", "updated", Cell::time(tx.updated_at))
        .with("deadline", "deadline", Cell::time(tx.deadline))
        .with(
            "disputeWindowSeconds",
            if dispute_window.seconds().is_some() { "dispute window" } else { "" },
            dispute_window.seconds().map(|s| Cell::both(duration(s), s)),
        )
        .with(
            "disputeWindowEndsAt",
            if matches!(dispute_window, DisputeWindow::EndsAt(_)) {
                "disputable until"
            } else {
                ""
            },
            dispute_window.ends_at().map(Cell::time),
        )
        .with(
            "disputeInitiator",
            shown(tx.dispute_initiator, "disputed by"),
            address(tx.dispute_initiator),
        )
        .with(
            "resultHash",
            if tx.result_hash.is_zero() { "" } else { "committed result" },
            Cell::text(tx.result_hash),
        )
        .with(
            "agreementHash",
            if tx.agreement_hash.is_zero() { "" } else { "agreement" },
            Cell::text(tx.agreement_hash),
        )
        .with("disputeBond", shown(tx.dispute_bond, "bond in the vault"), usdc(tx.dispute_bond))
        .with(
            "platformFeeBps",
            "fee",
            Cell::both(
                format!("{}, at least 0.05 USDC", rate(tx.platform_fee_bps_locked)),
                tx.platform_fee_bps_locked,
            ),
        )
        .with(
            "requesterPenaltyBps",
            "penalty",
            Cell::both(rate(tx.requester_penalty_bps_locked), tx.requester_penalty_bps_locked),
        )
        .with(
            "disputeBondBps",
            "dispute bond",
            Cell::both(
                format!("{}, at least 1.00 USDC", rate(tx.dispute_bond_bps_locked)),
                tx.dispute_bond_bps_locked,
            ),
        )
        .with("serviceHash", shown(tx.service_hash, "service hash"), hash(tx.service_hash))
        .with("quoteHash", shown(tx.metadata, "quote hash"), hash(tx.metadata))
        .with("escrowContract", shown(tx.escrow_contract, "vault"), address(tx.escrow_contract))
        .with("escrowId", shown(tx.escrow_id, "escrow id"), hash(tx.escrow_id))
        .with("attestationUID", shown(tx.attestation_uid, "attestation"), hash(tx.attestation_uid))
        .with("agentId", shown(tx.agent_id, "provider's agent id"), agent(tx.agent_id))
        .with(
            "requesterAgentId",
            shown(tx.requester_agent_id, "requester's agent id"),
            agent(tx.requester_agent_id),
        )
        .with(
            "contentHash",
            if proof.is_some() { "delivered content" } else { "" },
            proof.map(|proof| Cell::text(proof.content_hash)),
        )
        .with("now", "clock", Cell::time(now))
        .print(format)?;
    Ok(DONE)
}

/// What is not set is nothing for people to read.
fn shown<T: Default + PartialEq>(value: T, title: &'static str) -> &'static str {
    if value == T::default() { "" } else { title }
}

fn hash(value: B256) -> Option<Cell> {
    (value != B256::ZERO).then(|| Cell::text(value))
}

fn address(value: Address) -> Option<Cell> {
    (value != Address::ZERO).then(|| Cell::text(value))
}

/// Beyond what JSON's readers keep of a number.
fn agent(value: U256) -> Option<Cell> {
    (value != U256::ZERO).then(|| Cell::text(value))
}
