//! Which transactions a party has. The contract cannot be asked, so its `TransactionCreated` are
//! read, and kept in the state file: what is deep in the chain is read once.
//!
//! Only the party's own are read, by topic. That is less data than all of a busy kernel's, and no
//! request more.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use futures_util::future::try_join;
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};

use super::{
    Logs, cursor, moving,
    ranges::{self, Found},
};
use crate::{
    error::{Error, Result},
    kernel::{Role, TransactionQuery},
    protocol::{Event, Refusal, TransactionId},
    storage::Attempt,
};

/// The tables, part of the schema of a chain kernel's state file.
#[cfg(test)]
pub(super) const SCHEMA: &str = include_str!("schema.sql");

/// The newest blocks, which may yet be replaced, are read each time.
pub(super) const TAIL: u64 = 64;
/// As many blocks cost no request more than the newest, so the file is not written for fewer.
const WORTH_NOTING: u64 = 1_000;
/// Ranges between two notes of how far a scan has got: what a scan that is interrupted repeats.
const RANGES_PER_NOTE: u32 = 16;
/// Rows between two notes: memory stays flat.
const ROWS_PER_NOTE: usize = 4_000;

/// A row of `created`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Created {
    cursor: u64,
    id: TransactionId,
    block_hash: B256,
    requester: Address,
    provider: Address,
}

impl Created {
    fn of(found: &Found) -> Option<Self> {
        let Event::TransactionCreated { transaction_id, requester, provider, .. } =
            found.record.event
        else {
            return None;
        };
        let (cursor, id, block_hash) = (found.record.cursor, transaction_id, found.hash);
        Some(Self { cursor, id, block_hash, requester, provider })
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            cursor: number(row, 0)?,
            id: bytes(row, 1)?.into(),
            block_hash: bytes(row, 2)?.into(),
            requester: bytes(row, 3)?.into(),
            provider: bytes(row, 4)?.into(),
        })
    }
}

impl Logs {
    /// The ids of a party's transactions, newest first, in pages; the query's `state` is not
    /// looked at. The first page looks for new ones; those behind it are read from the state file.
    ///
    /// The first call for a party reads its events since the kernel's deployment. A call that is
    /// dropped on the way has not worked in vain: the next one goes on.
    ///
    /// # Errors
    /// [`Refusal::TxMissing`] where `after` is not one of the party's transactions; the
    /// endpoint's, and the state file's.
    pub(crate) async fn created(&self, query: &TransactionQuery) -> Result<Vec<TransactionId>> {
        let before = match query.after {
            None => {
                self.scan(query.party).await?;
                i64::MAX
            }
            Some(id) => match self.place_of(id).await? {
                Some(place) => place,
                // It may be known from elsewhere than a page before.
                None => {
                    self.scan(query.party).await?;
                    self.place_of(id).await?.ok_or_else(|| missing(id))?
                }
            },
        };
        let sql = match query.role {
            Some(Role::Requester) => page("requester"),
            Some(Role::Provider) => page("provider"),
            // One transaction's parties differ, so that nothing is found twice.
            None => format!(
                "SELECT * FROM ({}) UNION ALL SELECT * FROM ({}) ORDER BY cursor DESC LIMIT ?3",
                page("requester"),
                page("provider")
            ),
        };
        self.store
            .read(|connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                let ids = statement
                    .query_map(params![query.party.as_slice(), before, query.limit], |row| {
                        bytes(row, 1).map(B256::from)
                    })?;
                Ok(ids.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn place_of(&self, id: TransactionId) -> Result<Option<i64>> {
        self.store
            .read(|connection| {
                let mut find =
                    connection.prepare_cached("SELECT cursor FROM created WHERE id = ?1")?;
                Ok(find.query_row([id.as_slice()], |row| row.get(0)).optional()?)
            })
            .await
    }

    /// Reads what is new of a party.
    async fn scan(&self, party: Address) -> Result<()> {
        let source = &*self.reader.source;
        let scanned = self.store.read(|connection| scanned(connection, party)).await?;
        let (head, seen) = match scanned {
            None => (source.head().await?, None),
            Some((block, _)) => {
                let (head, headers) = try_join(source.head(), source.headers(&[block])).await?;
                (head, headers.into_iter().next().flatten())
            }
        };
        let head = head.number;
        let mut next = match (scanned, seen) {
            (None, _) => self.first_block,
            // The chain was replaced that deep: its blocks are read anew, and rows with them.
            (Some((_, hash)), Some(header)) if header.hash != hash => self.first_block,
            (Some((block, _)), _) => block + 1,
        };
        if head.saturating_sub(next) > WORTH_NOTING {
            next = self.scan_settled(party, next, head - TAIL).await?;
        }
        let (from, mut found) = (next, Vec::new());
        while next <= head {
            let (read, end) = self.created_in(party, next, head).await?;
            found.extend(read);
            next = end + 1;
        }
        self.note_tail(party, from, head, found).await
    }

    /// Reads blocks that stay, and notes how far it got. Returns the block behind them.
    async fn scan_settled(&self, party: Address, from: u64, settled: u64) -> Result<u64> {
        let (mut next, mut noted) = (from, from);
        let (mut found, mut ranges) = (Vec::new(), 0);
        while next <= settled {
            let (read, end) = self.created_in(party, next, settled).await?;
            found.extend(read);
            next = end + 1;
            ranges += 1;
            if next <= settled && ranges < RANGES_PER_NOTE && found.len() < ROWS_PER_NOTE {
                continue;
            }
            let headers = self.reader.source.headers(&[end]).await?;
            // A node that lags so far is asked again by the next call.
            let Some(header) = headers.into_iter().next().flatten() else { break };
            tracing::debug!(%party, block = end, of = settled, "reading a party's transactions");
            self.store
                .write(|connection| {
                    forget(connection, party, noted, end)?;
                    found.iter().try_for_each(|row| keep(connection, row))?;
                    let sql = "INSERT OR REPLACE INTO scanned VALUES (?1, ?2, ?3)";
                    connection.prepare_cached(sql)?.execute(params![
                        party.as_slice(),
                        signed(end),
                        header.hash.as_slice()
                    ])?;
                    Ok(())
                })
                .await?;
            (noted, ranges) = (next, 0);
            found.clear();
        }
        Ok(noted)
    }

    /// Brings the rows of the newest blocks in line with what was read of them.
    async fn note_tail(
        &self,
        party: Address,
        from: u64,
        head: u64,
        found: Vec<Created>,
    ) -> Result<()> {
        let known = self.store.read(|connection| rows_from(connection, party, from)).await?;
        let by_place = |rows: Vec<Created>| -> BTreeMap<u64, Created> {
            rows.into_iter().map(|row| (row.cursor, row)).collect()
        };
        let (known, found) = (by_place(known), by_place(found));
        let absent: Vec<&Created> =
            known.values().filter(|row| !found.contains_key(&row.cursor)).collect();
        let blocks: BTreeSet<u64> = absent.iter().map(|row| cursor::block(row.cursor)).collect();
        let blocks: Vec<u64> = blocks.into_iter().collect();
        let mut hashes = BTreeMap::new();
        if !blocks.is_empty() {
            let headers = self.reader.source.headers(&blocks).await?;
            hashes.extend(headers.into_iter().flatten().map(|header| (header.number, header.hash)));
        }
        // The node that was asked for the logs may lack a block that another one had.
        let is_void = |row: &Created| {
            let block = cursor::block(row.cursor);
            match hashes.get(&block) {
                Some(hash) => *hash != row.block_hash,
                None => block > head + TAIL,
            }
        };
        let void: Vec<u64> =
            absent.into_iter().filter(|row| is_void(row)).map(|row| row.cursor).collect();
        let new: Vec<&Created> =
            found.values().filter(|row| known.get(&row.cursor) != Some(row)).collect();
        if void.is_empty() && new.is_empty() {
            return Ok(());
        }
        self.store
            .write(|connection| {
                let mut delete =
                    connection.prepare_cached("DELETE FROM created WHERE cursor = ?1")?;
                for cursor in &void {
                    delete.execute([signed(*cursor)])?;
                }
                new.iter().try_for_each(|row| keep(connection, row))
            })
            .await
    }

    /// The party's transactions in `from..=to`, or in as many blocks from `from` on as the
    /// endpoint allows, and the last block that was read.
    async fn created_in(&self, party: Address, from: u64, to: u64) -> Result<(Vec<Created>, u64)> {
        let mut end = to.min(from.saturating_add(self.reader.width() - 1));
        loop {
            let answer = self.reader.source.created(from..=end, party).await;
            match self.reader.heed(from, end, answer)? {
                Err(nearer) => end = nearer,
                Ok(logs) => {
                    let found = ranges::events(logs, from..=end)?.ok_or_else(moving)?;
                    return Ok((found.iter().filter_map(Created::of).collect(), end));
                }
            }
        }
    }
}

fn page(role: &str) -> String {
    format!(
        "SELECT cursor, id FROM created WHERE {role} = ?1 AND cursor < ?2 \
         ORDER BY cursor DESC LIMIT ?3"
    )
}

fn scanned(connection: &Connection, party: Address) -> Attempt<Option<(u64, B256)>> {
    let sql = "SELECT block, hash FROM scanned WHERE party = ?1";
    let mut find = connection.prepare_cached(sql)?;
    let read = |row: &Row<'_>| Ok((number(row, 0)?, bytes(row, 1)?.into()));
    Ok(find.query_row([party.as_slice()], read).optional()?)
}

fn rows_from(connection: &Connection, party: Address, block: u64) -> Attempt<Vec<Created>> {
    let sql = "SELECT cursor, id, block_hash, requester, provider FROM created \
               WHERE (requester = ?1 OR provider = ?1) AND cursor >= ?2 ORDER BY cursor";
    let mut find = connection.prepare_cached(sql)?;
    let from = signed(cursor::before(block));
    let rows = find.query_map(params![party.as_slice(), from], Created::read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn forget(connection: &Connection, party: Address, from: u64, to: u64) -> Attempt<()> {
    let sql = "DELETE FROM created WHERE (requester = ?1 OR provider = ?1) AND cursor >= ?2 AND cursor < ?3";
    let (from, to) = (signed(cursor::before(from)), signed(cursor::before(to + 1)));
    connection.prepare_cached(sql)?.execute(params![party.as_slice(), from, to])?;
    Ok(())
}

fn keep(connection: &Connection, row: &Created) -> Attempt<()> {
    let sql = "INSERT OR REPLACE INTO created VALUES (?1, ?2, ?3, ?4, ?5)";
    connection.prepare_cached(sql)?.execute(params![
        signed(row.cursor),
        row.id.as_slice(),
        row.block_hash.as_slice(),
        row.requester.as_slice(),
        row.provider.as_slice(),
    ])?;
    Ok(())
}

/// As SQLite keeps it. Blocks that would not fit do not exist.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn bytes<const N: usize>(row: &Row<'_>, column: usize) -> rusqlite::Result<[u8; N]> {
    row.get_ref(column)?.as_blob()?.try_into().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
    })
}

fn missing(id: TransactionId) -> Error {
    Error::refused_value(Refusal::TxMissing, "after", id)
        .with_facts(|facts| facts.transaction_id = Some(id))
}
