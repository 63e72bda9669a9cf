//! Between rows and the protocol's types.

use std::sync::LazyLock;

use alloy_primitives::{Address, B256, U256};
use rusqlite::{
    Connection, OptionalExtension, Row,
    types::{Type, ValueRef},
};
use serde::de::DeserializeOwned;

use crate::{
    protocol::{DisputeWindow, State, Transaction, TransactionId, Usdc},
    storage::Attempt,
};

/// A transaction, its place in the file, and what is left in its escrow.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) seq: i64,
    pub(super) transaction: Transaction,
    pub(super) remaining: Usdc,
}

/// The columns that [`stored`] reads, in its order.
pub(super) const COLUMNS: &str = "seq, id, requester, provider, state, amount, created_at, updated_at, \
     deadline, service_hash, escrow_contract, escrow_id, attestation_uid, dispute_window, metadata, \
     platform_fee_bps, requester_penalty_bps, dispute_bond_bps, agent_id, requester_agent_id, \
     dispute_initiator, dispute_bond, remaining, result_hash, agreement_hash";

pub(super) fn find(connection: &Connection, id: TransactionId) -> Attempt<Option<Stored>> {
    static FIND: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT {COLUMNS} FROM transactions WHERE substr(id, 1, 8) = substr(?1, 1, 8) AND id = ?1"
        )
    });
    let mut statement = connection.prepare_cached(&FIND)?;
    Ok(statement.query_row([id.as_slice()], stored).optional()?)
}

pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let state = number(row, 4)?;
    let transaction = Transaction {
        id: hash(row, 1)?,
        requester: address(row, 2)?,
        provider: address(row, 3)?,
        state: State::try_from(state).map_err(|error| unreadable(4, error))?,
        amount: usdc(row, 5)?,
        created_at: number(row, 6)?,
        updated_at: number(row, 7)?,
        deadline: number(row, 8)?,
        service_hash: hash(row, 9)?,
        escrow_contract: address(row, 10)?,
        escrow_id: hash(row, 11)?,
        attestation_uid: hash(row, 12)?,
        dispute_window: DisputeWindow::from_contract(number(row, 13)?),
        metadata: hash(row, 14)?,
        platform_fee_bps_locked: row.get(15)?,
        requester_penalty_bps_locked: row.get(16)?,
        dispute_bond_bps_locked: row.get(17)?,
        agent_id: U256::from_be_bytes(hash(row, 18)?.0),
        requester_agent_id: U256::from_be_bytes(hash(row, 19)?.0),
        dispute_initiator: address(row, 20)?,
        dispute_bond: usdc(row, 21)?,
        result_hash: hash(row, 23)?,
        agreement_hash: hash(row, 24)?,
    };
    Ok(Stored { seq: row.get(0)?, transaction, remaining: usdc(row, 22)? })
}

pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

pub(super) fn usdc(row: &Row<'_>, column: usize) -> rusqlite::Result<Usdc> {
    number(row, column).map(Usdc)
}

pub(super) fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Address> {
    bytes(row, column).map(Address::from)
}

pub(super) fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<B256> {
    bytes(row, column).map(B256::from)
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| unreadable(column, error))
}

/// Zero is kept as NULL.
pub(super) fn unless_zero(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().any(|byte| *byte != 0).then_some(bytes)
}

fn bytes<const N: usize>(row: &Row<'_>, column: usize) -> rusqlite::Result<[u8; N]> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok([0; N]),
        value => value.as_blob()?.try_into().map_err(|error| unreadable(column, error)),
    }
}

fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
}
