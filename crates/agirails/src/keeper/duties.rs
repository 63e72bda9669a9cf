//! What is to be settled or recovered, in a state file: the transactions, and how far the events were read.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, hex};
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};

use crate::{
    error::Result,
    kernel::GasCost,
    network::Network,
    protocol::{TransactionId, Usdc},
    storage::{self, Attempt, Format, Storage, Store, ms, now_ms},
};

/// The one lease: one sender for each key, whoever holds the file.
const LEASE: &str = "settling";

/// Tells a keeper from every other one.
pub(super) type Owner = [u8; 16];

/// How far the kernel's events were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    /// All up to here were read.
    pub(super) read: u64,
    /// All up to here were read once more, when no reorganisation reached them any longer.
    pub(super) checked: u64,
}

/// Where a transaction stands, as it was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// An event named it; it is to be read.
    Unread,
    /// Its window is running, or over.
    Delivered,
    /// Its resolver decides.
    Disputed,
    /// It was seen settled or cancelled, and is looked at once more.
    Ended,
    /// Its provider has begun and not delivered, on a kernel that recovers such work.
    Begun,
}

impl Stage {
    const fn of(number: i64) -> Option<Self> {
        Some(match number {
            0 => Self::Unread,
            1 => Self::Delivered,
            2 => Self::Disputed,
            3 => Self::Ended,
            4 => Self::Begun,
            _ => return None,
        })
    }
}

/// A transaction that is to be settled or recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Duty {
    pub(super) id: TransactionId,
    pub(super) stage: Stage,
    /// `None` until it was read.
    pub(super) provider: Option<Address>,
    pub(super) net: Option<Usdc>,
    pub(super) is_unprofitable: bool,
    /// Of its stage.
    pub(super) tries: u32,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It can be settled from this time of the kernel on.
    Delivered { provider: Address, amount: Usdc, due_at: u64 },
    /// It can be recovered from this time of the kernel on.
    Begun { provider: Address, amount: Usdc, due_at: u64 },
    /// It is disputed, and looked at again after this.
    Disputed { provider: Address, amount: Usdc, after: Duration },
    /// This keeper settled it; it is looked at again after this.
    Settled { gas_cost: GasCost, after: Duration },
    /// This keeper recovered it; it is looked at again after this.
    Recovered { gas_cost: GasCost, after: Duration },
    /// It is settled or cancelled; it is looked at again after this.
    Ended { after: Duration },
    /// It is of no interest any more.
    Forgotten,
    /// This is what arrives, and it is not worth its gas.
    Unprofitable { net: Usdc },
    /// What an event told of is not to be seen; it is read again after this.
    Unread { after: Duration },
    /// It is not moved before this has passed.
    Later { after: Duration },
    /// A try to move it failed; the next comes after this.
    Failed { after: Duration, trouble: String },
}

/// What an event says about a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) id: TransactionId,
    pub(super) seen: Seen,
    /// The event was not read before.
    pub(super) is_new: bool,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Its provider began, on a kernel that recovers begun work.
    Begun,
    Delivered,
    /// It was moved on, which counts only where it is known.
    MovedOn,
}

/// How much is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) waiting: u64,
    pub(super) unprofitable: u64,
    pub(super) disputed: u64,
    /// Begun, not delivered, and recoverable.
    pub(super) stalled: u64,
    /// From when on the first of all could be moved, or could have been.
    pub(super) first_due_at: Option<u64>,
}

/// What was counted since the file was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) settled: u128,
    pub(super) recovered: u128,
    pub(super) failures: u128,
    pub(super) gas_wei: u128,
}

/// The transactions of one kernel, for one key.
#[derive(Debug)]
pub(super) struct Duties {
    file: Arc<Store>,
    /// Whether begun work is among what is due.
    recovers: bool,
}

fn format(network: &Network, address: Address) -> Format {
    let Network { chain_id, kernel, .. } = network;
    Format {
        file: format!("keeper-{chain_id}-{}-{}.sqlite3", hex::encode(kernel), hex::encode(address)),
        identity: Some(format!("{address} at kernel {kernel} on chain {chain_id}")),
        former: None,
        application_id: 0x6163_746b,
        schema: &[include_str!("schema.sql"), include_str!("begun.sql")],
        synchronous: "NORMAL",
        patience: storage::PATIENCE,
    }
}

impl Duties {
    pub(super) async fn open(
        storage: Storage,
        network: &Network,
        address: Address,
        recovers: bool,
    ) -> Result<Self> {
        let file = Store::open(storage, format(network, address), |_| Ok(())).await?;
        Ok(Self { file, recovers })
    }

    /// A copy in memory, of nothing where there is no file yet.
    pub(super) async fn copy(
        storage: &Storage,
        network: &Network,
        address: Address,
        recovers: bool,
    ) -> Result<Self> {
        let copy = Self::open(Storage::Memory, network, address, recovers).await?;
        if !storage.has(&format(network, address).file) {
            return Ok(copy);
        }
        let original = Self::open(storage.clone(), network, address, recovers).await?;
        for table in ["places", "duties"] {
            let rows = original.file.read(|connection| rows(connection, table)).await?;
            let width = rows.first().map_or(0, Vec::len);
            let marks = vec!["?"; width].join(", ");
            let sql = format!("INSERT INTO {table} VALUES ({marks})");
            copy.file
                .write(|connection| {
                    for row in &rows {
                        connection
                            .prepare_cached(&sql)?
                            .execute(rusqlite::params_from_iter(row))?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(copy)
    }

    /// How far the events were read; up to `start` where none were.
    pub(super) async fn places(&self, start: u64) -> Result<Places> {
        self.file
            .read(|connection| {
                let mut find =
                    connection.prepare_cached("SELECT cursor FROM places WHERE name = ?1")?;
                let mut place =
                    |name: &str| find.query_row([name], |row| number(row, 0)).optional();
                let (read, checked) = (place("read")?, place("checked")?);
                Ok(Places { read: read.unwrap_or(start), checked: checked.unwrap_or(start) })
            })
            .await
    }

    /// Has all events read again, from `start` on.
    pub(super) async fn rewind(&self, start: u64) -> Result<()> {
        self.note(&[], Places { read: start, checked: start }).await
    }

    /// Takes in a page of events, and how far they were read with it.
    pub(super) async fn note(&self, sightings: &[Sighting], places: Places) -> Result<()> {
        self.file
            .write(|connection| {
                let mut begun = connection.prepare_cached(
                    "INSERT INTO duties (id, stage) VALUES (?1, 4) ON CONFLICT DO NOTHING",
                )?;
                let mut delivered = connection.prepare_cached(
                    "INSERT INTO duties (id, stage) VALUES (?1, 0) ON CONFLICT (id) DO UPDATE \
                     SET stage = 0, next_try = 0, tries = 0, net = NULL, unprofitable = 0 \
                     WHERE stage = 4",
                )?;
                let mut again = connection.prepare_cached(
                    "UPDATE duties SET next_try = 0, tries = 0, \
                     stage = CASE stage WHEN 4 THEN 4 ELSE 0 END, \
                     due_at = CASE stage WHEN 4 THEN NULL ELSE due_at END \
                     WHERE id = ?1 AND stage IN (1, 2, 4)",
                )?;
                for Sighting { id, seen, is_new } in sightings {
                    let id = [id.as_slice()];
                    match seen {
                        Seen::Begun => begun.execute(id)?,
                        Seen::Delivered => delivered.execute(id)?,
                        Seen::MovedOn if *is_new => again.execute(id)?,
                        Seen::MovedOn => 0,
                    };
                }
                let mut reach =
                    connection.prepare_cached("INSERT OR REPLACE INTO places VALUES (?1, ?2)")?;
                for (name, cursor) in [("read", places.read), ("checked", places.checked)] {
                    reach.execute(params![name, signed(cursor)])?;
                }
                Ok(())
            })
            .await
    }

    /// Those that are to be read now, those with the earliest time first.
    pub(super) async fn to_look_at(&self, limit: u32) -> Result<Vec<Duty>> {
        let sql = format!(
            "SELECT {DUTY} FROM (SELECT * FROM duties WHERE stage IN (0, 2, 3) AND next_try <= ?1 \
             UNION ALL SELECT * FROM duties WHERE stage = 4 AND due_at IS NULL AND next_try <= ?1) \
             ORDER BY next_try LIMIT ?2"
        );
        self.file
            .read(|connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map(params![now_ms(), limit], duty)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// A condition: what this keeper moves once it is due.
    const fn to_do(&self) -> &'static str {
        if self.recovers { "stage IN (1, 4)" } else { "stage = 1" }
    }

    /// A condition: what can be moved at the kernel's time `?1` and this machine's `?2`.
    fn due_now(&self) -> String {
        format!("{} AND due_at <= ?1 AND next_try <= ?2", self.to_do())
    }

    /// Whether something can be moved at this time of the kernel.
    pub(super) async fn is_any_due(&self, providers: &[Address], now: u64) -> Result<bool> {
        let sql = format!("SELECT 1 FROM duties WHERE {}{}", self.due_now(), of(providers));
        self.file
            .read(|connection| {
                Ok(connection.prepare(&sql)?.exists(params![signed(now), now_ms()])?)
            })
            .await
    }

    /// Those that can be moved at this time of the kernel and bring this much, or whose net is not
    /// known yet; the oldest first.
    pub(super) async fn due(
        &self,
        providers: &[Address],
        now: u64,
        least: Usdc,
        limit: u32,
    ) -> Result<Vec<Duty>> {
        let sql = format!(
            "SELECT {DUTY} FROM duties WHERE {} AND (net IS NULL OR net >= ?3){} \
             ORDER BY due_at LIMIT ?4",
            self.due_now(),
            of(providers)
        );
        self.file
            .read(|connection| {
                let mut statement = connection.prepare(&sql)?;
                let due = params![signed(now), now_ms(), signed(least.0), limit];
                let rows = statement.query_map(due, duty)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Marks those that could be moved and bring less than this, and no others; returns those that
    /// were not marked before.
    pub(super) async fn mark_unprofitable(
        &self,
        providers: &[Address],
        now: u64,
        least: Usdc,
    ) -> Result<Vec<Duty>> {
        let sql = format!(
            "UPDATE duties SET unprofitable = 1 \
             WHERE {} AND net < ?3 AND NOT unprofitable{} RETURNING {DUTY}",
            self.due_now(),
            of(providers)
        );
        let unmark = format!(
            "UPDATE duties SET unprofitable = 0 WHERE {} AND net >= ?3 AND unprofitable",
            self.due_now()
        );
        self.file
            .write(|connection| {
                let due = params![signed(now), now_ms(), signed(least.0)];
                connection.prepare_cached(&unmark)?.execute(due)?;
                let mut statement = connection.prepare(&sql)?;
                let rows = statement.query_map(due, duty)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Writes down what became of transactions.
    pub(super) async fn change(&self, changes: &[(TransactionId, Change)]) -> Result<()> {
        self.file
            .write(|connection| {
                changes.iter().try_for_each(|(id, change)| apply(connection, *id, change))
            })
            .await
    }

    /// Writes down what arrives of a transaction that is to be settled.
    pub(super) async fn set_net(&self, id: TransactionId, net: Usdc) -> Result<()> {
        self.file
            .write(|connection| {
                let sql = "UPDATE duties SET net = ?2, unprofitable = 0 WHERE id = ?1";
                connection.prepare_cached(sql)?.execute(params![id.as_slice(), signed(net.0)])?;
                Ok(())
            })
            .await
    }

    /// Has it asked anew what unprofitable transactions bring.
    pub(super) async fn forget_unprofitable_nets(&self) -> Result<()> {
        self.file
            .write(|connection| {
                connection.execute("UPDATE duties SET net = NULL WHERE unprofitable", [])?;
                Ok(())
            })
            .await
    }

    /// Takes or renews the lease; `false` where another one has it.
    pub(super) async fn lease(&self, owner: Owner, lease: Duration) -> Result<bool> {
        self.file.write(|connection| storage::take_lease(connection, LEASE, owner, lease)).await
    }

    /// Gives the lease back.
    pub(super) async fn release(&self, owner: Owner) -> Result<()> {
        self.file
            .write(|connection| {
                let sql = "DELETE FROM leases WHERE name = ?1 AND owner = ?2";
                connection.prepare_cached(sql)?.execute(params![LEASE, owner.as_slice()])?;
                Ok(())
            })
            .await
    }

    /// At this time of the kernel.
    pub(super) async fn backlog(&self, providers: &[Address], now: u64) -> Result<Backlog> {
        let to_do = self.to_do();
        let sql = format!(
            "SELECT count(*) FILTER (WHERE stage = 1), \
             count(*) FILTER (WHERE {to_do} AND due_at <= ?1 AND unprofitable), \
             count(*) FILTER (WHERE stage = 2), \
             min(due_at) FILTER (WHERE {to_do} AND NOT unprofitable), \
             count(*) FILTER (WHERE stage = 4 AND due_at <= ?1) \
             FROM duties WHERE stage IN (1, 2, 4){}",
            of(providers)
        );
        self.file
            .read(|connection| {
                Ok(connection.query_row(&sql, [signed(now)], |row| {
                    Ok(Backlog {
                        waiting: number(row, 0)?,
                        unprofitable: number(row, 1)?,
                        disputed: number(row, 2)?,
                        first_due_at: optional(row, 3)?,
                        stalled: number(row, 4)?,
                    })
                })?)
            })
            .await
    }

    pub(super) async fn counters(&self) -> Result<Counters> {
        self.file
            .read(|connection| {
                Ok(Counters {
                    settled: counter(connection, "settled")?,
                    recovered: counter(connection, "recovered")?,
                    failures: counter(connection, "failures")?,
                    gas_wei: counter(connection, "gas_wei")?,
                })
            })
            .await
    }
}

fn apply(connection: &Connection, id: TransactionId, change: &Change) -> Attempt<()> {
    let id = id.as_slice();
    match change {
        Change::Delivered { provider, amount, due_at } => {
            let sql = "UPDATE duties SET stage = 1, provider = ?2, amount = ?3, due_at = ?4, \
                       next_try = CASE stage WHEN 1 THEN next_try ELSE 0 END, \
                       tries = CASE stage WHEN 1 THEN tries ELSE 0 END, \
                       net = CASE stage WHEN 4 THEN NULL ELSE net END, \
                       unprofitable = CASE stage WHEN 4 THEN 0 ELSE unprofitable END WHERE id = ?1";
            let (amount, due_at) = (signed(amount.0), signed(*due_at));
            let row = params![id, provider.as_slice(), amount, due_at];
            connection.prepare_cached(sql)?.execute(row)?;
        }
        Change::Begun { provider, amount, due_at } => {
            let sql = "UPDATE duties SET stage = 4, provider = ?2, amount = ?3, due_at = ?4, \
                       next_try = 0, tries = 0, net = NULL, unprofitable = 0 WHERE id = ?1";
            let (amount, due_at) = (signed(amount.0), signed(*due_at));
            let row = params![id, provider.as_slice(), amount, due_at];
            connection.prepare_cached(sql)?.execute(row)?;
        }
        Change::Disputed { provider, amount, after } => {
            let sql = "UPDATE duties SET stage = 2, provider = ?2, amount = ?3, next_try = ?4, \
                       unprofitable = 0 WHERE id = ?1";
            let next = now_ms() + ms(*after);
            let row = params![id, provider.as_slice(), signed(amount.0), next];
            connection.prepare_cached(sql)?.execute(row)?;
        }
        Change::Settled { gas_cost, after } => {
            end(connection, id, *after)?;
            count(connection, "settled", 1)?;
            count(connection, "gas_wei", gas_cost.0)?;
        }
        Change::Recovered { gas_cost, after } => {
            end(connection, id, *after)?;
            count(connection, "recovered", 1)?;
            count(connection, "gas_wei", gas_cost.0)?;
        }
        Change::Ended { after } => end(connection, id, *after)?,
        Change::Forgotten => {
            connection.prepare_cached("DELETE FROM duties WHERE id = ?1")?.execute([id])?;
        }
        Change::Unprofitable { net } => {
            let sql = "UPDATE duties SET net = ?2, unprofitable = 1 WHERE id = ?1";
            connection.prepare_cached(sql)?.execute(params![id, signed(net.0)])?;
        }
        Change::Unread { after } => {
            let sql = "UPDATE duties SET next_try = ?2, \
                       tries = CASE WHEN stage IN (0, 4) THEN tries + 1 ELSE 1 END, \
                       due_at = CASE stage WHEN 4 THEN NULL ELSE due_at END, \
                       stage = CASE stage WHEN 4 THEN 4 ELSE 0 END WHERE id = ?1";
            connection.prepare_cached(sql)?.execute(params![id, now_ms() + ms(*after)])?;
        }
        Change::Later { after } => {
            let sql = "UPDATE duties SET next_try = ?2 WHERE id = ?1";
            connection.prepare_cached(sql)?.execute(params![id, now_ms() + ms(*after)])?;
        }
        Change::Failed { after, trouble } => {
            let sql = "UPDATE duties SET tries = tries + 1, next_try = ?2, trouble = ?3 \
                       WHERE id = ?1";
            let row = params![id, now_ms() + ms(*after), trouble];
            connection.prepare_cached(sql)?.execute(row)?;
            count(connection, "failures", 1)?;
        }
    }
    Ok(())
}

fn end(connection: &Connection, id: &[u8], after: Duration) -> Attempt<()> {
    let sql = "UPDATE duties SET stage = 3, next_try = ?2, tries = 0, trouble = NULL, \
               unprofitable = 0 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![id, now_ms() + ms(after)])?;
    Ok(())
}

fn count(connection: &Connection, name: &str, more: u128) -> Attempt<()> {
    let sum = counter(connection, name)?.saturating_add(more);
    let sql = "INSERT OR REPLACE INTO counters VALUES (?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![name, sum.to_be_bytes().as_slice()])?;
    Ok(())
}

fn counter(connection: &Connection, name: &str) -> Attempt<u128> {
    let mut find = connection.prepare_cached("SELECT value FROM counters WHERE name = ?1")?;
    let value: Option<[u8; 16]> = find.query_row([name], |row| row.get(0)).optional()?;
    Ok(value.map_or(0, u128::from_be_bytes))
}

/// A condition: all providers where none is named.
fn of(providers: &[Address]) -> String {
    if providers.is_empty() {
        return String::new();
    }
    let named: Vec<_> = providers.iter().map(|one| format!("x'{}'", hex::encode(one))).collect();
    format!(" AND provider IN ({})", named.join(", "))
}

const DUTY: &str = "id, stage, provider, net, unprofitable, tries";

fn duty(row: &Row<'_>) -> rusqlite::Result<Duty> {
    let stage = row.get(1)?;
    Ok(Duty {
        id: row.get::<_, [u8; 32]>(0)?.into(),
        stage: Stage::of(stage).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, stage))?,
        provider: row.get::<_, Option<[u8; 20]>>(2)?.map(Address::from),
        net: optional(row, 3)?.map(Usdc),
        is_unprofitable: row.get(4)?,
        tries: row.get(5)?,
    })
}

fn rows(connection: &Connection, table: &str) -> Attempt<Vec<Vec<rusqlite::types::Value>>> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table}"))?;
    let width = statement.column_count();
    let rows = statement.query_map([], |row| (0..width).map(|column| row.get(column)).collect())?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    optional(row, column)?.ok_or_else(|| {
        rusqlite::Error::InvalidColumnType(column, "a number".to_owned(), Type::Null)
    })
}

fn optional(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    let number: Option<i64> = row.get(column)?;
    let out_of_range = |number| rusqlite::Error::IntegralValueOutOfRange(column, number);
    number.map(|number| u64::try_from(number).map_err(|_| out_of_range(number))).transpose()
}

/// As SQLite keeps it. Amounts and times that would not fit do not exist.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
