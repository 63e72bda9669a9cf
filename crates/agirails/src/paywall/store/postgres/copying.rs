//! The tables of a scope, on their way to another store or from it.

use std::pin::pin;

use async_trait::async_trait;
use futures_util::{StreamExt, future::try_join_all};
use tokio::sync::mpsc::Sender;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

use super::{
    super::copy::{Depot, Figures, Intake, Kind, Parcel, Row, Sent, TABLES, Table, Value},
    PostgresStore, damaged, errors, first,
    pool::{Link, Parameter},
    positive, text, utf8, value,
};
use crate::{error::Result, paywall::answer::Headers};

#[async_trait]
impl Depot for PostgresStore {
    fn shown(&self) -> String {
        format!("the database {}", self.pool.shown())
    }

    async fn running(&self) -> Result<u64> {
        const SQL: &str = "SELECT count(*) FROM agirails_paywall.call
            WHERE scope = $1 AND state = 1 AND leased_until > clock_timestamp()";
        positive(self.ask_one(SQL, &[(&self.scope, Type::TEXT)]).await?)
    }

    async fn figures(&self) -> Result<Figures> {
        let link = self.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        self.figures_in(&link.client).await
    }

    async fn hand_on(&self, to: Sender<Sent>) -> Result<Figures> {
        let link = self.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        for (place, table) in TABLES.iter().enumerate() {
            let parameters: [Parameter<'_>; 1] = [(&self.scope, Type::TEXT)];
            let rows = link.client.query_typed_raw(table.postgres.select, parameters).await;
            let mut rows = pin!(rows.map_err(|cause| self.in_words(cause))?);
            let mut parcel = Parcel::new();
            while let Some(row) = rows.next().await {
                let row = row.map_err(|cause| self.in_words(cause))?;
                if let Some(full) = parcel.add(read(table, &row)?)
                    && to.send((place, full)).await.is_err()
                {
                    return Ok(vec![]);
                }
            }
            if to.send((place, parcel.take())).await.is_err() {
                return Ok(vec![]);
            }
        }
        self.figures_in(&link.client).await
    }

    async fn take_in(&self) -> Result<Box<dyn Intake>> {
        let link = self.begin("ISOLATION LEVEL READ COMMITTED").await?;
        Ok(Box::new(Taking {
            shown: self.pool.shown().to_owned(),
            scope: self.scope.clone(),
            link,
        }))
    }
}

impl PostgresStore {
    fn in_words(&self, cause: tokio_postgres::Error) -> crate::error::Error {
        errors::in_words(cause, self.pool.shown())
    }

    /// A connection in a transaction that may take its time; it ends with the connection.
    async fn begin(&self, isolation: &str) -> Result<Link> {
        let link = self.pool.connect().await?;
        let begin =
            format!("BEGIN {isolation}; {}; SET LOCAL statement_timeout = 0", self.pool.settings());
        link.client.batch_execute(&begin).await.map_err(|cause| self.in_words(cause))?;
        Ok(link)
    }

    async fn figures_in(&self, client: &Client) -> Result<Figures> {
        figures(client, &self.scope, self.pool.shown()).await
    }
}

/// A transaction that takes rows in.
struct Taking {
    shown: String,
    scope: String,
    link: Link,
}

#[async_trait]
impl Intake for Taking {
    async fn put(&mut self, table: usize, rows: Vec<Row>) -> Result<()> {
        let table = &TABLES[table];
        let values = rows.iter().map(|row| parameters(table, row)).collect::<Result<Vec<_>>>()?;
        let scope: (&(dyn ToSql + Sync), Type) = (&self.scope, Type::TEXT);
        // All are sent before the first is answered.
        try_join_all(values.iter().map(async |values| {
            let values = values.iter().map(|(value, kind)| (&**value as _, kind.clone()));
            let all: Vec<Parameter<'_>> = [scope.clone()].into_iter().chain(values).collect();
            self.link.client.query_typed(table.postgres.insert, &all).await
        }))
        .await
        .map_err(|cause| errors::in_words(cause, &self.shown))?;
        Ok(())
    }

    async fn figures(&mut self) -> Result<Figures> {
        figures(&self.link.client, &self.scope, &self.shown).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        // The other store counts them where it has to.
        const RUNNING: &str = "UPDATE agirails_paywall.payment p SET running = c.running
            FROM (SELECT payment, count(*) AS running FROM agirails_paywall.call
                WHERE scope = $1 AND state = 1 GROUP BY payment) c
            WHERE p.scope = $1 AND p.id = c.payment";
        let client = &self.link.client;
        let counted = client.query_typed(RUNNING, &[(&self.scope, Type::TEXT)]).await;
        let in_words = |cause| errors::in_words(cause, &self.shown);
        counted.map_err(in_words)?;
        client.batch_execute("COMMIT").await.map_err(in_words)
    }
}

async fn figures(client: &Client, scope: &str, shown: &str) -> Result<Figures> {
    let mut all = vec![];
    for table in &TABLES {
        let sql = table.figures(table.postgres.select, "::bigint");
        let rows = client.query_typed(&sql, &[(&scope, Type::TEXT)]).await;
        let rows = rows.map_err(|cause| errors::in_words(cause, shown))?;
        all.push((0..=table.sums.len()).map(|at| value(first(&rows)?, at)).collect::<Result<_>>()?);
    }
    Ok(all)
}

fn read(table: &Table, row: &tokio_postgres::Row) -> Result<Row> {
    let value = |(at, (_, kind)): (usize, &(&str, Kind))| {
        Ok(match kind {
            Kind::Int => value::<Option<i64>>(row, at)?.map(Value::Int),
            Kind::Text => value::<Option<String>>(row, at)?.map(Value::Text),
            Kind::Bytes | Kind::Body => value::<Option<Vec<u8>>>(row, at)?.map(Value::Bytes),
            Kind::Headers => {
                let both = value::<Option<Vec<&[u8]>>>(row, at)?;
                both.map(|both| headers(&both).map(Value::Bytes)).transpose()?
            }
        }
        .unwrap_or(Value::Null))
    };
    table.columns.iter().enumerate().map(value).collect()
}

/// Names, and behind them their values, as JSON.
fn headers(both: &[&[u8]]) -> Result<Vec<u8>> {
    let (names, values) = both.split_at(both.len() / 2);
    let headers = names.iter().zip(values).map(|(name, value)| Ok((utf8(name)?, value.to_vec())));
    let headers: Headers = headers.collect::<Result<_>>()?;
    // Pairs of text and bytes always have JSON.
    Ok(serde_json::to_vec(&headers).unwrap_or_default())
}

type Owned = (Box<dyn ToSql + Sync + Send>, Type);

fn parameters(table: &Table, row: &Row) -> Result<Vec<Owned>> {
    let owned = |(value, (name, kind)): (&Value, &(&str, Kind))| -> Result<Owned> {
        Ok(match (kind, value) {
            (Kind::Int, Value::Null) => (Box::new(None::<i64>), Type::INT8),
            (Kind::Int, Value::Int(number)) => (Box::new(*number), Type::INT8),
            (Kind::Text, Value::Null) => (Box::new(None::<String>), Type::TEXT),
            (Kind::Text, Value::Text(words)) => (Box::new(text(words)), Type::TEXT),
            (Kind::Bytes | Kind::Body, Value::Null) => (Box::new(None::<Vec<u8>>), Type::BYTEA),
            (Kind::Bytes | Kind::Body, Value::Bytes(bytes)) => {
                (Box::new(bytes.clone()), Type::BYTEA)
            }
            (Kind::Headers, Value::Null) => (Box::new(None::<Vec<Vec<u8>>>), Type::BYTEA_ARRAY),
            (Kind::Headers, Value::Bytes(json)) => {
                let headers: Headers = serde_json::from_slice(json)
                    .map_err(|error| damaged("headers that are no JSON").with_source(error))?;
                let names = headers.iter().map(|(name, _)| name.clone().into_bytes());
                let values = headers.iter().map(|(_, value)| value.clone());
                (Box::new(names.chain(values).collect::<Vec<_>>()), Type::BYTEA_ARRAY)
            }
            (kind, _) => return Err(damaged(&format!("{name} is not {kind:?}"))),
        })
    };
    row.iter().zip(table.columns).map(owned).collect()
}
