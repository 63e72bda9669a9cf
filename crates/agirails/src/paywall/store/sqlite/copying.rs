//! The tables of a file, on their way to another store or from it.

use std::sync::Arc;

use alloy_primitives::Address;
use async_trait::async_trait;
use rusqlite::{Connection, params, types::ValueRef};
use tokio::{sync::mpsc::Sender, task};

use super::{
    super::copy::{Depot, Figures, Intake, Kind, Parcel, Row, Sent, TABLES, Table, Value},
    SqliteStore, now_ms, number,
};
use crate::{
    error::{Code, Error, Result, shown_path},
    paywall::store::PIECE_BYTES,
    storage::{self, Attempt},
};

#[async_trait]
impl Depot for SqliteStore {
    fn shown(&self) -> String {
        self.file.path().map_or_else(|| "memory".to_owned(), shown_path)
    }

    async fn running(&self) -> Result<u64> {
        self.file
            .read(|connection| {
                let sql = "SELECT count(*) FROM calls WHERE state = 0 AND lease_until > ?1";
                Ok(connection.query_row(sql, [now_ms()], |row| number(row, 0))?)
            })
            .await
    }

    async fn figures(&self) -> Result<Figures> {
        let file = self.file.clone();
        let connection = file.session("BEGIN").await?;
        file.explained(figures(&connection, self.provider))
    }

    async fn hand_on(&self, to: Sender<Sent>) -> Result<Figures> {
        let (file, provider) = (self.file.clone(), self.provider);
        let connection = file.session("BEGIN").await?;
        // It waits for whoever takes the rows.
        let work = move || {
            let sent = send_all(&connection, provider, &to);
            file.explained(sent.and_then(|()| figures(&connection, provider)))
        };
        task::spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(Error::new(Code::Internal, "the store was not read").with_source(error))
        })
    }

    async fn take_in(&self) -> Result<Box<dyn Intake>> {
        let connection = self.file.session("BEGIN IMMEDIATE").await?;
        Ok(Box::new(Taking { file: self.file.clone(), provider: self.provider, connection }))
    }
}

/// A transaction that takes rows in.
struct Taking {
    file: Arc<storage::Store>,
    provider: Address,
    connection: Connection,
}

#[async_trait]
impl Intake for Taking {
    async fn put(&mut self, table: usize, rows: Vec<Row>) -> Result<()> {
        let table = &TABLES[table];
        self.file.explained(
            rows.iter().try_for_each(|row| put(&self.connection, self.provider, table, row)),
        )
    }

    async fn figures(&mut self) -> Result<Figures> {
        self.file.explained(figures(&self.connection, self.provider))
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.file.explained(self.connection.execute_batch("COMMIT").map_err(Into::into))
    }
}

fn figures(connection: &Connection, provider: Address) -> Attempt<Figures> {
    let of = |table: &Table| {
        // So that it has the parameter in every case.
        let sql = format!("{} WHERE ?1 <> ''", table.figures(table.sqlite.select, ""));
        let row = |row: &rusqlite::Row<'_>| (0..=table.sums.len()).map(|at| row.get(at)).collect();
        Ok(connection.query_row(&sql, [provider.as_slice()], row)?)
    };
    TABLES.iter().map(of).collect()
}

fn send_all(connection: &Connection, provider: Address, to: &Sender<Sent>) -> Attempt<()> {
    for (place, table) in TABLES.iter().enumerate() {
        let sql = format!("SELECT * FROM ({}) WHERE ?1 <> ''", table.sqlite.select);
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([provider.as_slice()])?;
        let mut parcel = Parcel::new();
        while let Some(row) = rows.next()? {
            let row = read(connection, table, row)?;
            if let Some(full) = parcel.add(row)
                && to.blocking_send((place, full)).is_err()
            {
                return Ok(());
            }
        }
        if to.blocking_send((place, parcel.take())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn read(connection: &Connection, table: &Table, row: &rusqlite::Row<'_>) -> Attempt<Row> {
    let mut values = vec![];
    for (at, (_, kind)) in table.columns.iter().enumerate() {
        values.push(match row.get_ref(at)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(length) if *kind == Kind::Body => {
                let sql = "SELECT bytes FROM pieces WHERE payment = ?1 AND key = CAST(?2 AS TEXT) \
                           ORDER BY number";
                let mut statement = connection.prepare_cached(sql)?;
                let call = [row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?];
                let pieces = statement.query_map(call, |row| row.get::<_, Vec<u8>>(0))?;
                let body = pieces.collect::<rusqlite::Result<Vec<_>>>()?.concat();
                if i64::try_from(body.len()) != Ok(length) {
                    let message = format!("a body of {length} bytes has {} here", body.len());
                    return Err(Error::new(Code::StorageDamaged, message).into());
                }
                Value::Bytes(body)
            }
            ValueRef::Integer(number) => Value::Int(number),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
            ValueRef::Real(_) => {
                let message = "a number that is no integer";
                return Err(Error::new(Code::StorageDamaged, message).into());
            }
        });
    }
    Ok(values)
}

fn put(connection: &Connection, provider: Address, table: &Table, row: &Row) -> Attempt<()> {
    let mut statement = connection.prepare_cached(table.sqlite.insert)?;
    let mut long = None;
    statement.raw_bind_parameter(1, provider.as_slice())?;
    for (at, (value, (_, kind))) in (2..).zip(row.iter().zip(table.columns)) {
        match value {
            Value::Null => statement.raw_bind_parameter(at, None::<i64>)?,
            Value::Int(number) => statement.raw_bind_parameter(at, number)?,
            Value::Text(text) => statement.raw_bind_parameter(at, text)?,
            Value::Bytes(body) if *kind == Kind::Body && body.len() > PIECE_BYTES => {
                long = Some(body);
                statement.raw_bind_parameter(at, body.len() as i64)?;
            }
            Value::Bytes(bytes) => statement.raw_bind_parameter(at, bytes)?,
        }
    }
    statement.raw_execute()?;
    let (Some(body), [Value::Bytes(payment), Value::Bytes(key), ..]) = (long, &row[..]) else {
        return Ok(());
    };
    let sql =
        "INSERT INTO pieces (payment, key, number, bytes) VALUES (?1, CAST(?2 AS TEXT), ?3, ?4)";
    let mut statement = connection.prepare_cached(sql)?;
    for (number, bytes) in (0_i64..).zip(body.chunks(PIECE_BYTES)) {
        statement.execute(params![payment, key, number, bytes])?;
    }
    Ok(())
}
