//! A paywall's store moves into a database and back, whatever happens on the way.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agirails::paywall::Paywall;
use agirails_devnet::Postgres;

use crate::fixture::{Fixture, key};

impl Fixture {
    fn provider_of_service(&self) -> [String; 2] {
        ["--address".to_owned(), key(7).address().to_string()]
    }
}

/// A session of the server, in SQL.
fn sql(fixture: &Fixture, url: &str, statements: &str) -> tokio_postgres::Client {
    fixture.runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(statements).await.unwrap();
        client
    })
}

fn count(fixture: &Fixture, client: &tokio_postgres::Client, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM agirails_paywall.{table}");
    fixture.runtime.block_on(client.query_one(&sql, &[])).unwrap().get(0)
}

#[test]
fn a_balance_is_used_up_from_the_store_that_it_was_copied_to() {
    let fixture = Fixture::new();
    let server = Postgres::start().unwrap();
    let origin = fixture.service();
    let url = format!("{origin}/api/generate");
    // A bundle of calls, of which one is made.
    let done = fixture.pay(&["call", &url, "--max", "1", "-d", "one"]);
    assert_eq!(done.status, 0, "{done:?}");
    let [option, provider] = fixture.provider_of_service();
    let from = format!("sqlite:{}", fixture.path().display());
    // The service runs.
    let arguments = ["store", "copy", &from, "AGIRAILS_STORE", &option, &provider];
    let refused = fixture.run_with(&arguments, "", &[("AGIRAILS_STORE", &server.url())]);
    let (error, hint) = refused.told(1);
    assert!(error.contains("a paywall runs on") && hint.contains("stop"), "{error} {hint}");
    let fixture = fixture.without_service();

    // Killed in the middle, it leaves nothing, and the old store serves on.
    let wait = Instant::now();
    let copy = || {
        let arguments = ["store", "copy", &from, "AGIRAILS_STORE", &option, &provider, "--json"];
        fixture.run_with(&arguments, "", &[("AGIRAILS_STORE", &server.url())])
    };
    let blocker =
        sql(&fixture, &server.url(), "BEGIN; LOCK TABLE agirails_paywall.books IN SHARE MODE");
    let watcher = sql(&fixture, &server.url(), "");
    let spawn = || {
        Command::new(env!("CARGO_BIN_EXE_agirails"))
            .args(["store", "copy", &from, "AGIRAILS_STORE", &option, &provider])
            .env("AGIRAILS_STORE", server.url())
            .current_dir(fixture.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let mut child = spawn();
    loop {
        let waiting: i64 = fixture.runtime.block_on(watcher.query_one(waits, &[])).unwrap().get(0);
        if waiting > 0 {
            break;
        }
        assert!(wait.elapsed() < Duration::from_secs(60), "it never came to the books");
        if child.try_wait().unwrap().is_some() {
            // The service held the lead for some seconds more.
            child = spawn();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(blocker);
    for table in ["payment", "call", "request", "meta", "books", "counter"] {
        assert_eq!(count(&fixture, &watcher, table), 0, "{table}");
    }

    let mut done = copy();
    while done.status == 1 && done.err.contains("a paywall runs on") {
        assert!(wait.elapsed() < Duration::from_secs(90), "{done:?}");
        std::thread::sleep(Duration::from_millis(500));
        done = copy();
    }
    let rows = done.json();
    let of = |name: &str| {
        rows.as_array().unwrap().iter().find(|row| row["table"] == name).unwrap().clone()
    };
    assert_eq!((&of("payments")["rows"], &of("calls")["rows"]), (&1.into(), &1.into()), "{rows}");
    assert!(of("payments")["sums"].as_str().unwrap().contains("spent 100000"), "{rows}");
    assert_eq!(count(&fixture, &watcher, "payment"), 1);

    // The old store is closed, and the new one goes on with the same balance.
    let old = fixture.runtime.block_on(async {
        let client = fixture.provider_client().await;
        Paywall::builder(client).open().await.unwrap_err()
    });
    assert!(old.to_string().contains("was copied to the database"), "{old}");
    let again = fixture.run_with(&arguments, "", &[("AGIRAILS_STORE", &server.url())]);
    let (error, _) = again.told(1);
    assert!(error.contains("is not empty: it has 1 service, 1 payments"), "{error}");
    let port = origin.rsplit(':').next().unwrap().parse().unwrap();
    fixture.service_at(port, Some(server.url()));
    let done = fixture.pay(&["call", &url, "--max", "1", "-d", "two"]);
    assert_eq!((done.status, done.out.as_str()), (0, "answer to two"), "{done:?}");
    assert_eq!(count(&fixture, &watcher, "payment"), 1, "another transaction was paid");
    assert_eq!(count(&fixture, &watcher, "call"), 2);
}

#[test]
fn what_names_no_store_is_said() {
    let fixture = Fixture::new();
    let before = fixture.files();
    for (arguments, words) in [
        (["sqlite:.", "mysql://host/x"], "sqlite:DIRECTORY"),
        (["sqlite:", "postgresql://host/x"], "sqlite:DIRECTORY"),
        (["sqlite:.", "AGIRAILS_STORE"], "is not set"),
        (["sqlite:.", "sqlite:."], "to where it is"),
        (["sqlite:nowhere", "sqlite:."], "no paywall's store"),
        (["sqlite:.", "postgresql://app:SECRET@127.0.0.1:1/x"], "no paywall's store"),
    ] {
        let done = fixture.pay(&["store", "copy", arguments[0], arguments[1]]);
        let (error, hint) = done.told(1);
        assert!(error.contains(words), "{arguments:?} {error}");
        assert!(!error.contains("SECRET") && !hint.contains("SECRET"), "{error} {hint}");
    }
    assert_eq!(fixture.files(), before);
}
