//! Figures of the dashboard: `cargo bench -p agirails --features postgres --bench dashboard`, and with
//! `-- --quick` for a look.
//!
//! A store is filled with the payments of 30 days, of 1,000 customers on 12 routes, and its dashboard
//! is opened as a browser opens it: the page, its style and script, the figures and the newest payments.
//! Nobody tends the store meanwhile.

mod figures;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use agirails::{
    ACTPClient, Address,
    paywall::{Dashboard, DashboardRequest, Paywall},
};
use agirails_devnet::Postgres;
use alloy_primitives::keccak256;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::NoTls;

use figures::{Figures, Outcome, Stopwatch, forget, profile, state};

const SIZES: [u64; 2] = [1_000, 100_000];
const CUSTOMERS: u64 = 1_000;
const ROUTES: u64 = 12;
const DAYS: i64 = 30;
const DAY: i64 = 86_400;
/// What is asked for, by the name of its figure.
const QUESTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "opening",
        &[
            ("/", ""),
            ("/dashboard.css", ""),
            ("/dashboard.js", ""),
            ("/data/overview", "range=7d"),
            ("/data/payments", ""),
        ],
    ),
    ("all time", &[("/data/overview", "range=all")]),
    ("rare stage", &[("/data/payments", "stage=disputed")]),
    ("one customer", &[("/data/payments", "requester=0x0000000000000000000000000000000000000007")]),
];

fn main() -> Outcome<()> {
    let quick = env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 5 } else { 50 };
    let state = state()?;
    forget(&state, &["paywall_dashboard"])?;
    let server = Postgres::start()?;
    let mut figures = Figures::default();
    for size in SIZES {
        let directory = tempfile::tempdir_in(&state)?;
        let sqlite = paywall(directory.path(), None)?;
        fill_sqlite(directory.path(), size)?;
        measure(&mut figures, "SQLite", &sqlite, size, rounds)?;

        let runtime = runtime()?;
        let database = format!("of_{size}");
        runtime.block_on(make_database(&server, &database))?;
        let url = server.database_url(&database);
        let directory = tempfile::tempdir_in(&state)?;
        let postgres = paywall(directory.path(), Some(&url))?;
        runtime.block_on(fill_postgres(&url, size))?;
        measure(&mut figures, "PostgreSQL", &postgres, size, rounds)?;
    }
    for store in ["SQLite", "PostgreSQL"] {
        let [few, many] = SIZES.map(|size| {
            figures.0[&format!("{store} opening/{size}")]["median_ns"].as_f64().unwrap_or_default()
        });
        println!(
            "{store}: 100 times the payments take {:.1} times as long, {:.0} times less than a second",
            many / few,
            1e9 / many
        );
    }
    let report = json!({"profile": profile(), "quick": quick, "figures": figures.0});
    fs::write(state.join("paywall_dashboard.json"), serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

fn runtime() -> Outcome<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Its tasks end with the runtime that they were begun in, so that nothing is looked up or moved.
fn paywall(directory: &Path, database: Option<&str>) -> Outcome<Paywall> {
    runtime()?.block_on(async {
        let client = ACTPClient::builder()
            .address(Address::repeat_byte(0xaa))
            .state_directory(directory)
            .connect()
            .await?;
        let builder = Paywall::builder(client).on_event(|_| {});
        let builder = match database {
            Some(url) => builder.database(url),
            None => builder,
        };
        Ok(builder.open().await?)
    })
}

fn measure(
    figures: &mut Figures,
    store: &str,
    paywall: &Paywall,
    size: u64,
    rounds: usize,
) -> Outcome<()> {
    let dashboard = paywall.dashboard();
    runtime()?.block_on(async {
        let calls = overview(&dashboard).await?["totals"]["calls"].as_u64();
        assert_eq!(calls, Some(size), "the books were not filled");
        let mut watch = Stopwatch::default();
        for _ in 0..rounds {
            for (name, requests) in QUESTIONS {
                watch.time(name, ask(&dashboard, requests)).await;
            }
        }
        for (name, times) in watch.0 {
            figures.note(format!("{store} {name}/{size}"), times);
        }
        Ok(())
    })
}

async fn ask(dashboard: &Dashboard, requests: &[(&str, &str)]) {
    for (path, query) in requests {
        let request =
            DashboardRequest { method: "GET", path, query, ..DashboardRequest::default() };
        let answer = dashboard.answer(request).await;
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    }
}

async fn overview(dashboard: &Dashboard) -> Outcome<Value> {
    let (path, query) = ("/data/overview", "range=all");
    let request = DashboardRequest { method: "GET", path, query, ..DashboardRequest::default() };
    Ok(serde_json::from_slice(&dashboard.answer(request).await.body)?)
}

/// A payment of 1 USDC with one call.
struct Payment {
    id: [u8; 32],
    requester: [u8; 20],
    route: String,
    opened_at: i64,
    stage: i64,
}

impl Payment {
    fn nth(number: u64, size: u64) -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()) as i64;
        let (ago, of) = ((size - number) as i64, size as i64);
        let mut requester = [0; 20];
        requester[12..].copy_from_slice(&(number % CUSTOMERS).to_be_bytes());
        // Ten of a hundred wait for their settlement; a few of the others are open or disputed.
        let stage = match number {
            _ if number * 10 > size * 9 => 2,
            _ if number.is_multiple_of(997) => 8,
            _ if number.is_multiple_of(499) => 0,
            _ => 7,
        };
        Self {
            id: keccak256(number.to_be_bytes()).0,
            requester,
            route: format!("POST /api/route-{}", number % ROUTES),
            opened_at: now - DAYS * DAY * ago / of,
            stage,
        }
    }

    fn settle_at(&self) -> i64 {
        self.opened_at + 2 * DAY
    }
}

fn fill_sqlite(directory: &Path, size: u64) -> Outcome<()> {
    let files = fs::read_dir(directory.join(".actp"))?;
    let paths = files.collect::<Result<Vec<_>, _>>()?.into_iter().map(|file| file.path());
    let is_store = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with("paywall-") && name.ends_with(".sqlite3"))
    };
    let path = paths.into_iter().find(is_store).ok_or("there is no store")?;
    let mut connection = Connection::open(path)?;
    let transaction = connection.transaction()?;
    {
        let mut payments = transaction.prepare(
            "INSERT INTO payments (id, requester, amount, deadline, window, keyed, stage, spent, calls,
                 since, opened_at, delivered_at, settle_at, net, arrived, provider)
             VALUES (?1, ?2, 1000000, ?3, 172800, 0, ?4, 1000000, 1, ?5, ?6, ?6, ?3, 950000,
                 iif(?4 = 7, 950000, NULL), ?7)",
        )?;
        let mut calls = transaction.prepare(
            "INSERT INTO calls (payment, key, digest, state, owner, attempt, lease_until, price, position,
                 content_hash, answered_at, route)
             VALUES (?1, '', ?1, 1, x'00', 1, 0, 1000000, 0, ?1, ?2, ?3)",
        )?;
        let mut books = transaction.prepare(
            "INSERT INTO books (day, route, requester, calls, gross, settled, paid_out, fee, net)
             VALUES (?1, ?2, ?3, 1, 1000000, 1, 1000000, 50000, 950000)
             ON CONFLICT DO UPDATE SET calls = calls + 1, gross = gross + 1000000",
        )?;
        let mut runs = transaction.prepare(
            "INSERT INTO runs (day, route, within_ms, runs) VALUES (?1, ?2, ?3, 1)
             ON CONFLICT DO UPDATE SET runs = runs + 1",
        )?;
        for number in 1..=size {
            let payment = Payment::nth(number, size);
            let (id, requester, day) =
                (&payment.id[..], &payment.requester[..], payment.opened_at / DAY);
            payments.execute(params![
                id,
                requester,
                payment.settle_at(),
                payment.stage,
                payment.opened_at * 1_000,
                payment.opened_at,
                &[0xaa_u8; 20][..],
            ])?;
            calls.execute(params![id, payment.opened_at, payment.route])?;
            books.execute(params![day, payment.route, requester])?;
            runs.execute(params![day, payment.route, within_ms(number)])?;
        }
    }
    Ok(transaction.commit()?)
}

/// A bound of the histogram; every hundredth run failed.
fn within_ms(number: u64) -> i64 {
    [5, 10, 25, 50, 0][if number.is_multiple_of(100) { 4 } else { (number % 4) as usize }]
}

async fn make_database(server: &Postgres, name: &str) -> Outcome<()> {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client.batch_execute(&format!("CREATE DATABASE {name}")).await?)
}

async fn fill_postgres(url: &str, size: u64) -> Outcome<()> {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let scope: String =
        client.query_one("SELECT scope FROM agirails_paywall.meta LIMIT 1", &[]).await?.get(0);
    let transaction = client.transaction().await?;
    let payments = transaction
        .prepare(
            "INSERT INTO agirails_paywall.payment (scope, id, requester, amount, deadline, window_seconds,
                 stage, keyed, spent, calls, opened_at, delivered_at, settle_at, net, arrived)
             SELECT $1, id, requester, 1000000, opened + 172800, 172800, stage, false, 1000000, 1,
                 to_timestamp(opened), opened, opened + 172800, 950000,
                 CASE WHEN stage = 7 THEN 950000 END
             FROM unnest($2::bytea[], $3::bytea[], $4::bigint[], $5::smallint[])
                 AS new (id, requester, opened, stage)",
        )
        .await?;
    let calls = transaction
        .prepare(
            "INSERT INTO agirails_paywall.call (scope, payment, key, digest, state, owner, attempt, ticket,
                 price, leased_until, index, content_hash, answered_at, route)
             SELECT $1, id, ''::bytea, id, 2, ''::bytea, 1, ''::bytea, 1000000, now(), 0, id, opened, route
             FROM unnest($2::bytea[], $3::bigint[], $4::text[]) AS new (id, opened, route)",
        )
        .await?;
    let books = transaction
        .prepare(
            "INSERT INTO agirails_paywall.books
                 (scope, day, route, requester, calls, gross, settled, paid_out, fee, net)
             SELECT $1, opened / 86400, route, requester, count(*), 1000000 * count(*), 1, 1000000, 50000,
                 950000
             FROM unnest($2::bytea[], $3::bigint[], $4::text[]) AS new (requester, opened, route)
             GROUP BY 2, 3, 4
             ON CONFLICT (scope, day, route, requester) DO UPDATE
                 SET calls = books.calls + excluded.calls, gross = books.gross + excluded.gross",
        )
        .await?;
    let runs = transaction
        .prepare(
            "INSERT INTO agirails_paywall.runs (scope, day, route, within_ms, runs)
             SELECT $1, opened / 86400, route, within_ms, count(*)
             FROM unnest($2::bigint[], $3::text[], $4::bigint[]) AS new (opened, route, within_ms)
             GROUP BY 2, 3, 4
             ON CONFLICT (scope, day, route, within_ms) DO UPDATE SET runs = runs.runs + excluded.runs",
        )
        .await?;
    let numbers: Vec<u64> = (1..=size).collect();
    for numbers in numbers.chunks(10_000) {
        let rows: Vec<_> = numbers.iter().map(|number| Payment::nth(*number, size)).collect();
        let ids: Vec<_> = rows.iter().map(|row| &row.id[..]).collect();
        let requesters: Vec<_> = rows.iter().map(|row| &row.requester[..]).collect();
        let opened: Vec<_> = rows.iter().map(|row| row.opened_at).collect();
        let stages: Vec<_> = rows.iter().map(|row| row.stage as i16).collect();
        let routes: Vec<_> = rows.iter().map(|row| &*row.route).collect();
        let within: Vec<_> = numbers.iter().map(|number| within_ms(*number)).collect();
        transaction.execute(&payments, &[&scope, &ids, &requesters, &opened, &stages]).await?;
        transaction.execute(&calls, &[&scope, &ids, &opened, &routes]).await?;
        transaction.execute(&books, &[&scope, &requesters, &opened, &routes]).await?;
        transaction.execute(&runs, &[&scope, &opened, &routes, &within]).await?;
    }
    transaction.commit().await?;
    // As the server does by itself, some time after so many rows.
    Ok(client.batch_execute("VACUUM ANALYZE").await?)
}
