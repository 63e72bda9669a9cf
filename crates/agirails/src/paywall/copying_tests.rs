//! A store in the other kind and back.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, sync::LazyLock};

use agirails_devnet::Postgres;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::{
    copying::copy_between,
    store::{
        PostgresStore, Scope, SqliteStore, Store,
        conformance::{fill, goes_on, told},
        copy::{Depot, LEFT, TABLES},
    },
    *,
};
use crate::error::Code;

/// One server for all tests of this process; it ends with the process.
static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());
const LEASE: &str = "outbox";

async fn file(directory: &TempDir) -> SqliteStore {
    let storage = Storage::Directory(directory.path().to_owned());
    SqliteStore::open(storage, &Scope::of("copied"), true).await.unwrap()
}

async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// An empty database of its own, and its URL.
async fn database(name: &str) -> (PostgresStore, String) {
    client(&SERVER.url()).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let url = SERVER.database_url(name);
    let scope = Scope::of("copied");
    (PostgresStore::connect(&url, &scope, std::time::Duration::ZERO).await.unwrap(), url)
}

async fn copy(from: &dyn Depot, to: &dyn Depot) -> Result<Vec<CopiedTable>> {
    copy_between(from, to, LEASE, &mut |_, _| {}).await
}

async fn is_empty(depot: &dyn Depot) -> bool {
    depot.figures().await.unwrap().iter().all(|table| table[0] == 0)
}

/// Line by line, since a line may be long.
async fn assert_told(store: &dyn Store, expected: &[String]) {
    let told = told(store).await;
    assert_eq!(told.len(), expected.len());
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!(told, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_the_same_in_the_other_kind_and_back() {
    let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (first, (second, _), third) =
        (file(&one).await, database("there").await, file(&other).await);
    fill(&first).await;
    let before = told(&first).await;
    let mut seen = vec![];
    let mut watch = |done, all| seen.push((done, all));
    let copied = copy_between(&first, &second, LEASE, &mut watch).await.unwrap();
    let rows: u64 = copied.iter().map(|table| table.rows).sum();
    assert_eq!(seen.last(), Some(&(rows, rows)));
    let payments = copied.iter().find(|table| table.name == "payments").unwrap();
    assert_eq!(payments.rows, 7);
    assert!(payments.sums.contains(&("spent", 3_000_140)), "{payments:?}");
    assert!(copied.iter().all(|table| table.rows > 0 || table.name == "restored"), "{copied:?}");
    assert_told(&second, &before).await;
    assert!(first.moved_to().await.unwrap().unwrap().contains("there"));

    copy(&second, &third).await.unwrap();
    assert_told(&third, &before).await;
    assert!(second.moved_to().await.unwrap().is_some());
    assert_eq!(third.moved_to().await.unwrap(), None);
    goes_on(&third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_balance_is_served_from_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let (first, (second, _)) = (file(&directory).await, database("rest").await);
    fill(&first).await;
    copy(&first, &second).await.unwrap();
    goes_on(&second).await;
}

/// Whoever adds a table, or a column, says here how it is handed on.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_and_column_is_handed_on() {
    let directory = tempfile::tempdir().unwrap();
    let (_file, (_, url)) = (file(&directory).await, database("schema").await);
    let path = std::fs::read_dir(directory.path().join(".actp")).unwrap();
    let path = path.map(|entry| entry.unwrap().path());
    let path = path.into_iter().find(|path| path.extension().unwrap() == "sqlite3").unwrap();
    let sqlite = rusqlite::Connection::open(path).unwrap();
    let sql = "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c \
               WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    let mut statement = sqlite.prepare(sql).unwrap();
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let in_file: Vec<(String, String)> = found.map(std::result::Result::unwrap).collect();
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns \
               WHERE table_schema = 'agirails_paywall'";
    let found = client(&url).await.query(sql, &[]).await.unwrap();
    let in_database: Vec<(String, String)> =
        found.iter().map(|row| (row.get(0), row.get(1))).collect();
    // Totals are counters elsewhere, pieces are bodies, who counts running calls counts them anew, and
    // events are numbered anew.
    let known = ["totals", "pieces", "payment.running", "webhook.number", "webhooks.number"];
    for (found, is_sqlite) in [(in_file, true), (in_database, false)] {
        assert!(found.len() > 60, "{found:?}");
        let dialects =
            TABLES.iter().map(|table| if is_sqlite { &table.sqlite } else { &table.postgres });
        let dialects: Vec<_> = dialects.collect();
        for (table, column) in found {
            let name = format!("{table}.{column}");
            if LEFT.contains(&&*table) {
                continue;
            }
            let dialect = dialects.iter().find(|dialect| dialect.tables.contains(&&*table));
            let dialect = dialect.unwrap_or_else(|| panic!("{table} is not handed on"));
            let words: BTreeSet<_> = dialect
                .insert
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .collect();
            let is_named = words.contains(&*column);
            let is_known = known.contains(&&*table) || known.contains(&&*name);
            assert!(is_named || is_known, "{name} is not handed on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_refused_beside_a_server_and_into_what_is_not_empty() {
    let directory = tempfile::tempdir().unwrap();
    let (first, (second, _)) = (file(&directory).await, database("refused").await);
    fill(&first).await;
    let long = std::time::Duration::from_secs(60);
    for server in [&first as &dyn Depot, &second] {
        assert!(server.lease(LEASE, [7; 16], long).await.unwrap());
        let error = copy(&first, &second).await.unwrap_err();
        assert_eq!(error.code(), Code::StorageBusy, "{error}");
        assert!(error.to_string().contains(&server.shown()), "{error}");
        assert!(is_empty(&second).await);
        assert!(server.lease(LEASE, [7; 16], std::time::Duration::ZERO).await.unwrap());
    }
    second.service().await.unwrap();
    let error = copy(&first, &second).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidSettings, "{error}");
    assert!(error.to_string().contains("1 service"), "{error}");
    assert_eq!(first.moved_to().await.unwrap(), None);
    // Nobody has to wait for a copy that was refused.
    for depot in [&first as &dyn Depot, &second] {
        assert!(depot.lease(LEASE, [8; 16], long).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_behind_its_back_ends_a_copy() {
    let directory = tempfile::tempdir().unwrap();
    let (first, (second, _)) = (file(&directory).await, database("behind").await);
    fill(&first).await;
    let writer = file(&directory).await;
    let mut is_written = false;
    let mut write = |_, _| {
        if !std::mem::replace(&mut is_written, true) {
            let service = goes_on(&writer);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(service));
        }
    };
    let error = copy_between(&first, &second, LEASE, &mut write).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageDamaged, "{error}");
    assert!(is_empty(&second).await);
    assert_eq!(first.moved_to().await.unwrap(), None);
    // With nobody at work it goes through.
    copy(&first, &second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paywall_does_not_open_what_was_copied() {
    let directory = tempfile::tempdir().unwrap();
    let builder = || {
        let builder = ACTPClient::builder().address(alloy_primitives::Address::repeat_byte(0xaa));
        builder.state_directory(directory.path())
    };
    let client = builder().connect().await.unwrap();
    // Opened by nobody who would tend it.
    let scope = Scope::of_client(&client);
    let storage = Storage::Directory(directory.path().to_owned());
    let store = SqliteStore::open(storage, &scope, true).await.unwrap();
    store.service().await.unwrap();
    let (_, url) = database("opened").await;
    let from = StorePlace::Sqlite(directory.path().to_owned());
    let to: StorePlace = url.parse().unwrap();
    copy_store(&client, &from, &to, |_, _| {}).await.unwrap();
    let error = Paywall::builder(client.clone()).open().await.unwrap_err();
    assert_eq!(error.code(), Code::StorageUnavailable, "{error}");
    assert!(error.to_string().contains("opened"), "{error}");
    assert!(!error.to_string().contains(SERVER.password()), "{error}");
    let service = store.service().await.unwrap();
    let paywall = Paywall::builder(client.clone()).database(url).open().await.unwrap();
    assert_eq!(paywall.service_hash(), service);
    let error = copy_store(&client, &from, &from, |_, _| {}).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidSettings);
    let nowhere = StorePlace::Sqlite(directory.path().join("nowhere"));
    let error = copy_store(&client, &nowhere, &from, |_, _| {}).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageUnavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_of_a_key_that_nobody_has_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let (_, url) = database("strangers").await;
    let ours = Scope::of("copied");
    let theirs = Scope { provider: alloy_primitives::Address::repeat_byte(0x0d), ..ours };
    let elsewhere = Scope { chain_id: 1, ..theirs };
    let wait = std::time::Duration::ZERO;
    let storage = || Storage::Directory(directory.path().to_owned());
    let file = async |scope: &Scope| {
        Box::new(SqliteStore::open(storage(), scope, true).await.unwrap()) as Box<dyn Depot>
    };
    let table = async |scope: &Scope| {
        Box::new(PostgresStore::connect(&url, scope, wait).await.unwrap()) as Box<dyn Depot>
    };
    let stores = [
        [file(&ours).await, file(&theirs).await, file(&elsewhere).await],
        [table(&ours).await, table(&theirs).await, table(&elsewhere).await],
    ];
    for [ours, old, elsewhere] in stores {
        assert_eq!(ours.strangers().await.unwrap(), []);
        fill(&*old).await;
        fill(&*elsewhere).await;
        // Open, owed and to be given back; what ended or can be settled by anybody needs no key.
        let (payments, amount) = (3, Usdc(300));
        let found = [store::Stranger { provider: theirs.provider, payments, amount }];
        assert_eq!(ours.strangers().await.unwrap(), found);
        // Whoever holds its lease has the key.
        let long = std::time::Duration::from_secs(60);
        assert!(old.lease("outbox", [1; 16], long).await.unwrap());
        assert_eq!(ours.strangers().await.unwrap(), []);
        assert!(old.lease("outbox", [1; 16], wait).await.unwrap());
        assert_eq!(ours.strangers().await.unwrap(), found);
        old.move_to(Some("elsewhere")).await.unwrap();
        assert_eq!(ours.strangers().await.unwrap(), []);
    }
}
