//! What a store hands on to another one: its tables as both kinds of store know them, row by row.

use async_trait::async_trait;
use tokio::sync::mpsc::Sender;

use super::Store;
use crate::error::Result;

/// A value on its way. Truth is 1 or 0, times are milliseconds or seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::paywall) enum Value {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

pub(in crate::paywall) type Row = Vec<Value>;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::paywall) enum Kind {
    Int,
    Text,
    Bytes,
    /// An answer's headers, as JSON.
    Headers,
    /// An answer's body, whole.
    Body,
}
use Kind::{Body, Bytes, Headers, Int, Text};

/// A table as both kinds of store know it.
#[derive(Debug)]
pub(in crate::paywall) struct Table {
    pub(in crate::paywall) name: &'static str,
    pub(super) columns: &'static [(&'static str, Kind)],
    /// Columns of both queries whose sums must be the same on both sides.
    pub(in crate::paywall) sums: &'static [&'static str],
    pub(in crate::paywall) sqlite: Dialect,
    pub(in crate::paywall) postgres: Dialect,
}

/// How one kind of store keeps it.
#[derive(Debug)]
pub(in crate::paywall) struct Dialect {
    /// The tables of its schema that hold it.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests hold it against the schema"))]
    pub(in crate::paywall) tables: &'static [&'static str],
    /// The columns in their order. The first parameter is whose they are: in SQLite the provider's
    /// address, in PostgreSQL the scope.
    pub(super) select: &'static str,
    /// The same first parameter, and the columns behind it.
    pub(in crate::paywall) insert: &'static str,
}

/// Tables of the schemas that are not handed on: leases end by themselves.
#[cfg(test)]
pub(in crate::paywall) const LEFT: [&str; 4] = ["leases", "lease", "version", "identity"];

/// In the order in which they are taken in. The service's id comes first: whoever opens the other store
/// meanwhile waits for it.
pub(in crate::paywall) const TABLES: [Table; 10] = [
    Table {
        name: "service",
        columns: &[("name", Text), ("value", Bytes)],
        sums: &[],
        sqlite: Dialect {
            tables: &["meta"],
            select: "SELECT name, value FROM meta WHERE name <> 'moved'",
            insert: "INSERT INTO meta (name, value) VALUES (?2, ?3)",
        },
        postgres: Dialect {
            tables: &["meta"],
            select: "SELECT name, value FROM agirails_paywall.meta
                WHERE scope = $1 AND name <> 'moved'",
            insert: "INSERT INTO agirails_paywall.meta (scope, name, value) VALUES ($1, $2, $3)",
        },
    },
    Table {
        name: "payments",
        columns: &[
            ("id", Bytes),
            ("requester", Bytes),
            ("amount", Int),
            ("deadline", Int),
            ("window_seconds", Int),
            ("keyed", Int),
            ("stage", Int),
            ("spent", Int),
            ("reserved", Int),
            ("calls", Int),
            ("answered_at", Int),
            ("content_hash", Bytes),
            ("trouble", Text),
            ("since", Int),
            ("next_try", Int),
            ("tries", Int),
            ("bound", Int),
            ("failures", Int),
            ("failed_at", Int),
            ("opened_at", Int),
            ("delivered_at", Int),
            ("settle_at", Int),
            ("settled_at", Int),
            ("net", Int),
            ("arrived", Int),
            ("gas", Int),
            ("fee", Int),
        ],
        sums: &["amount", "spent", "reserved", "calls", "net", "arrived", "fee", "stage"],
        sqlite: Dialect {
            tables: &["payments"],
            select: "SELECT id, requester, amount, deadline, window, keyed, stage, spent, reserved, \
                calls, answered_at, content_hash, trouble, since, next_try, tries, bound, failures, \
                failed_at, opened_at, delivered_at, settle_at, settled_at, net, arrived, gas, \
                fee FROM payments WHERE coalesce(provider, ?1) = ?1",
            insert: "INSERT INTO payments (id, requester, amount, deadline, window, keyed, stage, \
                spent, reserved, calls, answered_at, content_hash, trouble, since, next_try, tries, \
                bound, failures, failed_at, opened_at, delivered_at, settle_at, settled_at, net, \
                arrived, gas, fee, provider) VALUES (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, \
                ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?1)",
        },
        postgres: Dialect {
            tables: &["payment"],
            // Since when it is at its stage is one column there, and here one for each kind of stage.
            select: "SELECT id, requester, amount, deadline, window_seconds, keyed::int::bigint,
                    stage::bigint AS stage, spent, reserved, calls, answered_at, content_hash, trouble,
                    round(extract(epoch FROM CASE WHEN stage IN (1, 3) THEN owed_since
                        WHEN stage = 0 THEN opened_at ELSE coalesce(ended_at, opened_at) END)
                        * 1000)::bigint,
                    coalesce(round(extract(epoch FROM due_at) * 1000), 0)::bigint,
                    tries::bigint, bound::int::bigint, failures::bigint,
                    coalesce(round(extract(epoch FROM failed_at) * 1000), 0)::bigint,
                    floor(extract(epoch FROM opened_at))::bigint,
                    delivered_at, settle_at, settled_at, net, arrived, gas, fee
                FROM agirails_paywall.payment WHERE scope = $1",
            insert: "INSERT INTO agirails_paywall.payment (scope, id, requester, amount, deadline,
                    window_seconds, keyed, stage, spent, reserved, calls, answered_at, content_hash,
                    trouble, owed_since, ended_at, due_at, tries, bound, failures, failed_at, opened_at,
                    delivered_at, settle_at, settled_at, net, arrived, gas, fee)
                VALUES ($1, $2, $3, $4, $5, $6, $7 <> 0, $8, $9, $10, $11, $12, $13, $14,
                    CASE WHEN $8 IN (1, 3) THEN to_timestamp($15::float8 / 1000) END,
                    CASE WHEN $8 NOT IN (0, 1, 3) THEN to_timestamp($15::float8 / 1000) END,
                    CASE WHEN $16 > 0 OR $8 IN (1, 3) THEN to_timestamp($16::float8 / 1000) END,
                    $17, $18 <> 0, $19,
                    CASE WHEN $20 > 0 THEN to_timestamp($20::float8 / 1000) END,
                    to_timestamp($21), $22, $23, $24, $25, $26, $27, $28)",
        },
    },
    Table {
        name: "calls",
        columns: &[
            ("payment", Bytes),
            ("key", Bytes),
            ("digest", Bytes),
            ("state", Int),
            ("owner", Bytes),
            ("attempt", Int),
            ("lease_until", Int),
            ("price", Int),
            ("position", Int),
            ("content_hash", Bytes),
            ("answered_at", Int),
            ("status", Int),
            ("headers", Headers),
            ("body", Body),
            ("route", Text),
        ],
        sums: &["price", "answered_at", "state", "bytes"],
        sqlite: Dialect {
            tables: &["calls", "pieces"],
            // Where the body lies in pieces, its length stands for it.
            select: "SELECT payment, CAST(key AS BLOB), digest, state, owner, attempt, lease_until, \
                price, position, content_hash, answered_at, status, headers, coalesce(length, body), \
                route, coalesce(length, length(body), 0) AS bytes FROM calls",
            insert: "INSERT INTO calls (payment, key, digest, state, owner, attempt, lease_until, \
                price, position, content_hash, answered_at, status, headers, body, length, route) \
                VALUES (?2, CAST(?3 AS TEXT), ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
                CASE WHEN typeof(?15) = 'blob' THEN ?15 END, \
                CASE WHEN typeof(?15) = 'integer' THEN ?15 END, ?16)",
        },
        postgres: Dialect {
            tables: &["call"],
            select: "SELECT payment, key, digest,
                    (CASE state WHEN 1 THEN 0 WHEN 2 THEN 1 ELSE 2 END)::bigint AS state, owner,
                    attempt::bigint, round(extract(epoch FROM leased_until) * 1000)::bigint, price,
                    index, content_hash, answered_at, status::bigint, header_names || header_values,
                    body, route, coalesce(octet_length(body), 0)::bigint AS bytes
                FROM agirails_paywall.call WHERE scope = $1",
            // Nobody waits for the word on a claim that was made in another store.
            insert: "INSERT INTO agirails_paywall.call (scope, payment, key, digest, state, owner,
                    attempt, ticket, leased_until, price, index, content_hash, answered_at, status,
                    header_names, header_values, body, route)
                VALUES ($1, $2, $3, $4, CASE $5 WHEN 0 THEN 1 WHEN 1 THEN 2 ELSE 0 END, $6, $7, '',
                    to_timestamp($8::float8 / 1000), $9, $10, $11, $12, $13,
                    $14[1:cardinality($14) / 2], $14[cardinality($14) / 2 + 1:], $15, $16)",
        },
    },
    Table {
        name: "requests",
        columns: &[("payment", Bytes), ("key", Bytes), ("request", Bytes), ("body", Bytes)],
        sums: &["bytes"],
        sqlite: Dialect {
            tables: &["requests"],
            select: "SELECT payment, CAST(key AS BLOB), request, body, \
                length(request) + coalesce(length(body), 0) AS bytes FROM requests",
            insert: "INSERT INTO requests (payment, key, request, body) \
                VALUES (?2, CAST(?3 AS TEXT), ?4, ?5)",
        },
        postgres: Dialect {
            tables: &["request"],
            select: "SELECT payment, key, request, body,
                    (octet_length(request) + coalesce(octet_length(body), 0))::bigint AS bytes
                FROM agirails_paywall.request WHERE scope = $1",
            insert: "INSERT INTO agirails_paywall.request (scope, payment, key, request, body)
                VALUES ($1, $2, $3, $4, $5)",
        },
    },
    Table {
        name: "trees",
        columns: &[("payment", Bytes), ("level", Int), ("number", Int), ("hashes", Bytes)],
        sums: &["bytes"],
        sqlite: Dialect {
            tables: &["trees"],
            select: "SELECT payment, level, number, hashes, length(hashes) AS bytes FROM trees",
            insert: "INSERT INTO trees (payment, level, number, hashes) VALUES (?2, ?3, ?4, ?5)",
        },
        postgres: Dialect {
            tables: &["tree"],
            select: "SELECT payment, level::bigint, number, hashes, octet_length(hashes)::bigint AS bytes
                FROM agirails_paywall.tree WHERE scope = $1",
            insert: "INSERT INTO agirails_paywall.tree (scope, payment, level, number, hashes)
                VALUES ($1, $2, $3, $4, $5)",
        },
    },
    Table {
        name: "books",
        columns: &[
            ("day", Int),
            ("route", Text),
            ("requester", Bytes),
            ("calls", Int),
            ("gross", Int),
            ("settled", Int),
            ("paid_out", Int),
            ("fee", Int),
            ("net", Int),
            ("gas", Int),
            ("refunded", Int),
            ("disputed", Int),
        ],
        sums: &["calls", "gross", "settled", "paid_out", "fee", "net", "refunded", "disputed"],
        sqlite: Dialect {
            tables: &["books"],
            select: "SELECT day, route, requester, calls, gross, settled, paid_out, fee, net, gas, \
                refunded, disputed FROM books",
            insert: "INSERT INTO books (day, route, requester, calls, gross, settled, paid_out, fee, \
                net, gas, refunded, disputed) \
                VALUES (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        },
        postgres: Dialect {
            tables: &["books"],
            select: "SELECT day, route, requester, calls, gross, settled, paid_out, fee, net, gas,
                    refunded, disputed
                FROM agirails_paywall.books WHERE scope = $1",
            insert: "INSERT INTO agirails_paywall.books (scope, day, route, requester, calls, gross,
                    settled, paid_out, fee, net, gas, refunded, disputed)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        },
    },
    Table {
        name: "runs",
        columns: &[("day", Int), ("route", Text), ("within_ms", Int), ("runs", Int)],
        sums: &["runs"],
        sqlite: Dialect {
            tables: &["runs"],
            select: "SELECT day, route, within_ms, runs FROM runs",
            insert: "INSERT INTO runs (day, route, within_ms, runs) VALUES (?2, ?3, ?4, ?5)",
        },
        postgres: Dialect {
            tables: &["runs"],
            select: "SELECT day, route, within_ms, runs FROM agirails_paywall.runs WHERE scope = $1",
            insert: "INSERT INTO agirails_paywall.runs (scope, day, route, within_ms, runs)
                VALUES ($1, $2, $3, $4, $5)",
        },
    },
    Table {
        name: "webhooks",
        columns: &[
            ("id", Bytes),
            ("payment", Bytes),
            ("requester", Bytes),
            ("amount", Int),
            ("name", Text),
            ("at", Int),
            ("net", Int),
            ("gas", Int),
            ("since", Int),
            ("next_try", Int),
            ("tries", Int),
        ],
        sums: &["amount"],
        sqlite: Dialect {
            tables: &["webhooks"],
            // Their numbers are each store's own, in the same order.
            select: "SELECT id, payment, requester, amount, name, at, net, gas, since, next_try, tries \
                FROM webhooks ORDER BY number",
            insert: "INSERT INTO webhooks (id, payment, requester, amount, name, at, net, gas, since, \
                next_try, tries) VALUES (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        },
        postgres: Dialect {
            tables: &["webhook"],
            select: "SELECT id, payment, requester, amount, name, at, net, gas,
                    round(extract(epoch FROM since) * 1000)::bigint,
                    round(extract(epoch FROM due_at) * 1000)::bigint, tries::bigint
                FROM agirails_paywall.webhook WHERE scope = $1 ORDER BY number",
            insert: "INSERT INTO agirails_paywall.webhook (scope, id, payment, requester, amount, name,
                    at, net, gas, since, due_at, tries)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, to_timestamp($10::float8 / 1000),
                    to_timestamp($11::float8 / 1000), $12)",
        },
    },
    Table {
        name: "counters",
        columns: &[("name", Text), ("value", Int)],
        sums: &[],
        sqlite: Dialect {
            tables: &["counters", "totals"],
            // A route's totals under the names that `calls_counter` and `revenue_counter` give them.
            select: r#"WITH quoted AS (SELECT '{route="' || replace(replace(replace(route, '\', '\\'),
                    '"', '\"'), char(10), '\n') || '"}' AS label, calls, revenue FROM totals)
                SELECT name, sum(value) FROM (SELECT name, value FROM counters
                    UNION ALL SELECT 'agirails_paywall_calls_total' || label, calls FROM quoted
                    UNION ALL SELECT 'agirails_paywall_revenue_base_units_total' || label, revenue
                        FROM quoted) GROUP BY name"#,
            insert: "INSERT INTO counters (name, value) VALUES (?2, ?3)",
        },
        postgres: Dialect {
            tables: &["counter"],
            select: "SELECT name, sum(value)::bigint FROM agirails_paywall.counter
                WHERE scope = $1 GROUP BY name",
            insert: "INSERT INTO agirails_paywall.counter (scope, name, part, value)
                VALUES ($1, $2, 0, $3)",
        },
    },
    Table {
        name: "restored",
        columns: &[("at", Int)],
        sums: &[],
        sqlite: Dialect {
            tables: &["restored"],
            select: "SELECT DISTINCT at FROM restored",
            insert: "INSERT INTO restored (at) VALUES (?2)",
        },
        postgres: Dialect {
            tables: &["restored"],
            // It is said of all scopes of a database at once.
            select: "SELECT DISTINCT at FROM agirails_paywall.restored WHERE $1 <> ''",
            insert: "INSERT INTO agirails_paywall.restored (at) SELECT $2 WHERE $1 <> ''",
        },
    },
];

impl Table {
    /// Whether its rows are of all who share the store.
    pub(in crate::paywall) fn is_shared(&self) -> bool {
        self.name == "restored"
    }

    /// Asks how many rows there are, and for the sums.
    pub(super) fn figures(&self, select: &str, cast: &str) -> String {
        let sums = self.sums.iter().map(|sum| format!(", coalesce(sum({sum}), 0){cast}"));
        format!("SELECT count(*){} FROM ({select}) AS copied", sums.collect::<String>())
    }
}

/// The rows of a table, and its sums, in the order of [`TABLES`] and of [`Table::sums`].
pub(in crate::paywall) type Figures = Vec<Vec<i64>>;

/// So many rows travel together, unless their bytes are more than so many.
pub(super) const ROWS: usize = 500;
pub(super) const BYTES: usize = 4 << 20;

/// Collects rows that travel together.
pub(super) struct Parcel {
    rows: Vec<Row>,
    bytes: usize,
}

impl Parcel {
    pub(super) const fn new() -> Self {
        Self { rows: vec![], bytes: 0 }
    }

    /// What is full by now.
    pub(super) fn add(&mut self, row: Row) -> Option<Vec<Row>> {
        let long = row.iter().map(|value| match value {
            Value::Null | Value::Int(_) => 8,
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
        });
        self.bytes += long.sum::<usize>();
        self.rows.push(row);
        let is_full = self.rows.len() >= ROWS || self.bytes >= BYTES;
        is_full.then(|| self.take())
    }

    pub(super) fn take(&mut self) -> Vec<Row> {
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }
}

/// Rows of a table of [`TABLES`], by its place.
pub(in crate::paywall) type Sent = (usize, Vec<Row>);

/// A store that hands its tables on, or takes another's in.
#[async_trait]
pub(in crate::paywall) trait Depot: Store {
    /// What errors call it.
    fn shown(&self) -> String;

    /// How many claims run whose leases stand.
    async fn running(&self) -> Result<u64>;

    /// Rows and sums as they are now.
    async fn figures(&self) -> Result<Figures>;

    /// Sends all tables as they are at one moment, whose figures it returns. Ends where nobody takes them.
    async fn hand_on(&self, to: Sender<Sent>) -> Result<Figures>;

    /// Begins to take in; nothing of it is there before [`Intake::commit`].
    async fn take_in(&self) -> Result<Box<dyn Intake>>;
}

/// Tables on their way into a store, in one transaction. Dropped, it leaves nothing.
#[async_trait]
pub(in crate::paywall) trait Intake: Send {
    async fn put(&mut self, table: usize, rows: Vec<Row>) -> Result<()>;

    /// Rows and sums with what was put.
    async fn figures(&mut self) -> Result<Figures>;

    async fn commit(self: Box<Self>) -> Result<()>;
}
