//! What was signed, kept before it is sent: which nonce is whose, and what became of it.
//!
//! A nonce belongs to whoever first writes a signed transaction for it into this journal, so it
//! is given out once among all processes that share the state file, and no crash leaves a gap:
//! the signed bytes are there, and any process can send them again or call them off.

use std::{collections::HashMap, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, hex};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    error::Result,
    kernel::errors::contradiction,
    network::LOCAL_CHAIN_ID,
    process_locks::WorkerId,
    storage::{Attempt as Tried, Store},
};

/// Blocks after which a chain's reorganisation is not expected any more.
pub(super) const DEPTH: u64 = 64;
/// How long the outcome of a send is remembered, in seconds.
const MEMORY_SECONDS: u64 = 7 * 86_400;

/// The sends of a JSON list of ids, and those that prepare them.
const NAMED: &str = "id IN (SELECT value FROM json_each(?1)) \
                     OR prepares IN (SELECT value FROM json_each(?1))";

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing is known yet.
    Open,
    /// It stands in a block.
    Mined,
    /// Its nonce went to another transaction, so it never will be.
    Superseded,
}

/// One operation at one nonce.
#[derive(Debug, Clone)]
pub(super) struct Send {
    pub(super) id: i64,
    pub(super) nonce: u64,
    /// The last send of its request, where this one comes before it.
    pub(super) prepares: Option<i64>,
    /// Whose caller waits for it; 0 where nobody does.
    pub(super) owner: WorkerId,
    pub(super) state: State,
    /// Whether its caller knows the outcome.
    pub(super) told: bool,
    /// When it was signed, Unix seconds.
    pub(super) at: u64,
    /// The signed transactions that compete for the nonce, the newest last.
    pub(super) attempts: Vec<Attempt>,
}

/// One signed transaction.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) hash: B256,
    pub(super) raw: Bytes,
    /// Whether it only takes the nonce, so that the operation is called off.
    pub(super) calls_off: bool,
}

/// A send that is to be written down.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) digest: B256,
    /// Whether the next one is of the same request, and needs this one to be mined before it.
    pub(super) prepares_next: bool,
    pub(super) attempt: Attempt,
}

#[derive(Debug, Clone)]
pub(super) struct Journal {
    file: Arc<Store>,
    sender: Address,
}

impl Journal {
    pub(super) fn new(file: Arc<Store>, sender: Address) -> Self {
        Self { file, sender }
    }

    /// The first nonce that no send of the journal takes.
    pub(super) async fn next_nonce(&self) -> Result<u64> {
        self.file.read(|connection| next_nonce(connection, self.sender)).await
    }

    /// Whether a send has no outcome yet.
    pub(super) async fn is_busy(&self) -> Result<bool> {
        self.file
            .read(|connection| {
                let sql = "SELECT EXISTS (SELECT 1 FROM sends WHERE sender = ?1 AND state = 0)";
                let mut statement = connection.prepare_cached(sql)?;
                Ok(statement.query_row([self.sender.as_slice()], |row| row.get(0))?)
            })
            .await
    }

    /// Writes down sends of consecutive nonces from `first` on, and returns their ids; `None`
    /// where another process took one of the nonces meanwhile.
    pub(super) async fn take(
        &self,
        first: u64,
        owner: WorkerId,
        drafts: &[Draft],
        now: u64,
    ) -> Result<Option<Vec<i64>>> {
        self.file
            .write(|connection| {
                if next_nonce(connection, self.sender)? > first {
                    return Ok(None);
                }
                forget_old(connection, now)?;
                let mut ids = Vec::with_capacity(drafts.len());
                let mut last = 0;
                // From the last on, so that those before it can name it.
                for (place, draft) in drafts.iter().enumerate().rev() {
                    connection
                        .prepare_cached(
                            "INSERT INTO sends \
                             (sender, nonce, digest, prepares, owner, state, told, at) \
                             VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6)",
                        )?
                        .execute(params![
                            self.sender.as_slice(),
                            (first + place as u64) as i64,
                            draft.digest.as_slice(),
                            draft.prepares_next.then_some(last),
                            owner,
                            now as i64
                        ])?;
                    let id = connection.last_insert_rowid();
                    insert_attempt(connection, id, &draft.attempt)?;
                    if !draft.prepares_next {
                        last = id;
                    }
                    ids.push(id);
                }
                ids.reverse();
                Ok(Some(ids))
            })
            .await
    }

    /// One more signed transaction for a send's nonce.
    pub(super) async fn add(&self, send: i64, attempt: &Attempt) -> Result<()> {
        self.file.write(|connection| insert_attempt(connection, send, attempt)).await
    }

    /// Gives a nonce back that was refused for good: true where no later one is taken, so that
    /// the next send can have it.
    pub(super) async fn give_back(&self, send: i64, nonce: u64) -> Result<bool> {
        self.file
            .write(|connection| {
                if next_nonce(connection, self.sender)? != nonce + 1 {
                    return Ok(false);
                }
                connection.execute("DELETE FROM attempts WHERE send = ?1", [send])?;
                connection.execute("DELETE FROM sends WHERE id = ?1", [send])?;
                Ok(true)
            })
            .await
    }

    /// Sends that somebody gave up waiting for, or died waiting for, and whose outcome nobody
    /// was told: the one with this digest is taken over, and with it what its request sent before
    /// it. `alive` tells whether an owner lives.
    pub(super) async fn adopt(
        &self,
        digest: B256,
        owner: WorkerId,
        alive: impl Fn(WorkerId) -> bool + core::marker::Send + Sync,
    ) -> Result<Option<i64>> {
        // Nearly always there is none, and a read does not wait for other processes.
        if self.orphan(digest, &alive).await?.is_none() {
            return Ok(None);
        }
        self.file
            .write(|connection| {
                let Some(id) = orphan(connection, self.sender, digest, &alive)? else {
                    return Ok(None);
                };
                // Open again: its receipt is looked for and handed over.
                let sql = "UPDATE sends SET owner = ?2, state = 0 WHERE id = ?1";
                connection.execute(sql, params![id, owner])?;
                let sql = "UPDATE sends SET owner = ?2 WHERE prepares = ?1 AND state <> 3";
                connection.execute(sql, params![id, owner])?;
                Ok(Some(id))
            })
            .await
    }

    async fn orphan(
        &self,
        digest: B256,
        alive: &(impl Fn(WorkerId) -> bool + core::marker::Send + Sync),
    ) -> Result<Option<i64>> {
        self.file.read(|connection| orphan(connection, self.sender, digest, alive)).await
    }

    /// What has to be looked after: sends without an outcome, and those mined so lately that a
    /// reorganisation may take them back. In the order of their nonces.
    pub(super) async fn open(&self, head: u64) -> Result<Vec<Send>> {
        let mut sends = self
            .file
            .read(|connection| {
                let sql = "SELECT id, nonce, owner, state, at, told, prepares FROM sends \
                     WHERE sender = ?1 AND (state = 0 OR (state = 1 AND block > ?2)) \
                     ORDER BY nonce, id";
                let mut statement = connection.prepare_cached(sql)?;
                let since = head.saturating_sub(DEPTH) as i64;
                let rows = statement.query_map(params![self.sender.as_slice(), since], send)?;
                Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
            })
            .await?;
        let mut attempts: HashMap<i64, Vec<Attempt>> = HashMap::new();
        let ids: Vec<_> = sends.iter().map(|send| send.id).collect();
        let ids = serde_json::to_string(&ids).unwrap_or_default();
        let found = self
            .file
            .read(|connection| {
                let sql = "SELECT send, hash, raw, calls_off FROM attempts \
                     WHERE send IN (SELECT value FROM json_each(?1)) ORDER BY rowid";
                let mut statement = connection.prepare_cached(sql)?;
                let rows = statement.query_map([&ids], attempt)?;
                Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
            })
            .await?;
        for (send, attempt) in found {
            attempts.entry(send).or_default().push(attempt);
        }
        for send in &mut sends {
            send.attempts = attempts.remove(&send.id).unwrap_or_default();
        }
        Ok(sends)
    }

    /// Writes outcomes down, and whose callers were told theirs.
    pub(super) async fn close(&self, outcomes: &[Outcome], told: &[i64]) -> Result<()> {
        let told = serde_json::to_string(told).unwrap_or_default();
        self.file
            .write(|connection| {
                for outcome in outcomes {
                    let state = match outcome.state {
                        State::Open => 0,
                        State::Mined => 1,
                        State::Superseded => 3,
                    };
                    connection
                        .prepare_cached("UPDATE sends SET state = ?2, block = ?3 WHERE id = ?1")?
                        .execute(params![
                            outcome.id,
                            state,
                            outcome.block.map(|block| block as i64),
                        ])?;
                }
                let sql = format!("UPDATE sends SET told = 1 WHERE {NAMED}");
                connection.prepare_cached(&sql)?.execute([&told])?;
                Ok(())
            })
            .await
    }

    /// Nobody waits for these any more; whoever makes the same call takes them over.
    pub(super) async fn abandon(&self, sends: &[i64]) -> Result<()> {
        let sends = serde_json::to_string(sends).unwrap_or_default();
        self.file
            .write(|connection| {
                let sql = format!("UPDATE sends SET owner = 0 WHERE {NAMED}");
                Ok(connection.execute(&sql, [&sends]).map(drop)?)
            })
            .await
    }
}

/// What became of a send, to be written down.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) id: i64,
    pub(super) state: State,
    pub(super) block: Option<u64>,
}

/// A journal belongs to one chain: a local chain that was started anew has the same id and the
/// same addresses, but another beginning. What was sent on the old one is forgotten. No other chain
/// begins anew, whatever a node says: forgotten, what was sent would be sent twice.
///
/// # Errors
/// [`crate::Code::ContradictoryAnswer`], naming both beginnings, and the storage's codes.
pub(super) async fn begin(file: &Store, chain_id: u64, genesis: B256) -> Result<()> {
    let known = file.read(known_genesis).await?;
    if known.as_deref() == Some(genesis.as_slice()) {
        return Ok(());
    }
    if let Some(known) = known
        && chain_id != LOCAL_CHAIN_ID
    {
        return Err(contradiction(format!(
            "the RPC endpoint says that chain {chain_id} begins with the block {genesis}; the \
             journal of what was sent there was begun with {}",
            hex::encode_prefixed(known)
        )));
    }
    file.write(|connection| {
        if known_genesis(connection)?.as_deref() != Some(genesis.as_slice()) {
            connection
                .execute_batch("DELETE FROM attempts; DELETE FROM sends; DELETE FROM chain;")?;
            connection.execute("INSERT INTO chain (genesis) VALUES (?1)", [genesis.as_slice()])?;
        }
        Ok(())
    })
    .await
}

fn known_genesis(connection: &Connection) -> Tried<Option<Vec<u8>>> {
    Ok(connection.query_row("SELECT genesis FROM chain", [], |row| row.get(0)).optional()?)
}

fn next_nonce(connection: &Connection, sender: Address) -> Tried<u64> {
    let sql = "SELECT coalesce(max(nonce) + 1, 0) FROM sends WHERE sender = ?1 AND state <> 3";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([sender.as_slice()], |row| row.get::<_, i64>(0))? as u64)
}

fn orphan(
    connection: &Connection,
    sender: Address,
    digest: B256,
    alive: &impl Fn(WorkerId) -> bool,
) -> Tried<Option<i64>> {
    let sql = "SELECT id, owner FROM sends \
         WHERE sender = ?1 AND digest = ?2 AND told = 0 AND state <> 3 ORDER BY nonce";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![sender.as_slice(), digest.as_slice()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, WorkerId>(1)?))
    })?;
    for row in rows {
        let (id, owner) = row?;
        if owner == 0 || !alive(owner) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn insert_attempt(connection: &Connection, send: i64, attempt: &Attempt) -> Tried<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO attempts (hash, send, raw, calls_off) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![attempt.hash.as_slice(), send, attempt.raw.as_ref(), attempt.calls_off])?;
    Ok(())
}

/// The outcome of the newest send of each key stays, since its nonce must not be given out again.
fn forget_old(connection: &Connection, now: u64) -> Tried<()> {
    let before = now.saturating_sub(MEMORY_SECONDS) as i64;
    let old = "state <> 0 AND at < ?1 AND nonce < (SELECT max(nonce) FROM sends s WHERE s.sender = sends.sender AND s.state <> 3)";
    connection
        .prepare_cached(&format!(
            "DELETE FROM attempts WHERE send IN (SELECT id FROM sends WHERE {old})"
        ))?
        .execute([before])?;
    connection.prepare_cached(&format!("DELETE FROM sends WHERE {old}"))?.execute([before])?;
    Ok(())
}

fn send(row: &Row<'_>) -> rusqlite::Result<Send> {
    Ok(Send {
        id: row.get(0)?,
        nonce: row.get::<_, i64>(1)? as u64,
        owner: row.get(2)?,
        state: match row.get::<_, i64>(3)? {
            0 => State::Open,
            1 => State::Mined,
            _ => State::Superseded,
        },
        at: row.get::<_, i64>(4)? as u64,
        told: row.get(5)?,
        prepares: row.get(6)?,
        attempts: vec![],
    })
}

fn attempt(row: &Row<'_>) -> rusqlite::Result<(i64, Attempt)> {
    let hash: [u8; 32] = row.get(1)?;
    let attempt = Attempt {
        hash: hash.into(),
        raw: row.get::<_, Vec<u8>>(2)?.into(),
        calls_off: row.get(3)?,
    };
    Ok((row.get(0)?, attempt))
}
