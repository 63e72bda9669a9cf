//! A provider's books: what they say, and that looking at them moves nothing.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use agirails::{ACTPClient, State, paywall::Paywall};
use serde_json::Value;

use crate::fixture::{Done, Fixture, key};

impl Fixture {
    /// The store of a paywall that nobody runs: nothing in it was ever tended.
    fn store(&self) {
        let client = self.provider();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        drop(runtime.block_on(Paywall::builder(client).open()).unwrap());
    }

    fn books(&self, arguments: &[&str]) -> Done {
        let provider = self.provider().address().to_string();
        self.run(&[arguments, &["--address", &provider]].concat())
    }
}

fn rows(done: &Done) -> Vec<Value> {
    done.json().as_array().unwrap().clone()
}

#[test]
fn what_was_served_stands_in_the_books() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    for text in ["one", "two"] {
        let done = fixture.pay(&["call", &url, "--max", "1", "-d", text, "--trust", &url]);
        assert_eq!(done.status, 0, "{done:?}");
    }
    let provider = key(7).address().to_string();
    let books = |arguments: &[&str]| {
        fixture.run(&[arguments, &["--address", &provider, "--mode", "mock"]].concat())
    };
    let payments = rows(&books(&["payments", "--json"]));
    let calls: u64 = payments.iter().map(|row| row["calls"].as_u64().unwrap()).sum();
    assert_eq!(calls, 2, "{payments:?}");
    assert_eq!(rows(&books(&["payments", "--all", "--json"])).len(), payments.len());
    assert_eq!(rows(&books(&["payments", "--limit", "1", "--json"])).len(), 1);
    assert_eq!(rows(&books(&["payments", "--stage", "lost", "--json"])).len(), 0);
    let first = payments[0]["transactionId"].as_str().unwrap();
    let behind = rows(&books(&["payments", "--after", first, "--json"]));
    assert_eq!(behind.len(), payments.len() - 1);
    let done = books(&["payments", "--requester", &provider]);
    assert_eq!(done.out, "no payments\n", "{done:?}");
    let done = books(&["payments"]);
    assert!(done.out.contains(first) && done.out.contains("expected"), "{}", done.out);

    for (by, word) in [("day", "-"), ("route", "POST /api/generate"), ("customer", "0x")] {
        let rows = rows(&books(&["report", "--by", by, "--json"]));
        let calls: u64 = rows.iter().map(|row| row["calls"].as_u64().unwrap()).sum();
        let gross: u64 = rows.iter().map(|row| row["gross"].as_u64().unwrap()).sum();
        assert_eq!((calls, gross), (2, 200_000), "{by} {rows:?}");
        let named = rows.iter().any(|row| row["key"].as_str().unwrap().contains(word));
        assert!(named, "{by} {rows:?}");
    }
    let before = books(&["report", "--until", "2026-01-01"]);
    assert_eq!(before.out, "nothing in the books\n", "{before:?}");
    let csv = books(&["report", "--csv"]).out;
    assert!(csv.starts_with("key,calls,gross,settled,paidOut,"), "{csv}");
}

#[test]
fn looking_moves_nothing_and_the_service_carries_a_refund_out() {
    let fixture = Fixture::new();
    fixture.store();
    let id = fixture.transaction(1_000_000, State::Committed);
    let text = id.to_string();
    let (error, hint) = fixture.books(&["refund", &text]).told(1);
    assert!(error.contains("no terminal") && hint.contains("--yes"), "{error} {hint}");
    assert_eq!(rows(&fixture.books(&["payments", "--json"])).len(), 0, "it was not decided");

    for _ in 0..2 {
        let refunded = fixture.books(&["refund", &text, "--yes", "--json"]).json();
        assert_eq!(refunded["stage"], "returning");
    }
    let payments = rows(&fixture.books(&["payments", "--stage", "returning", "--json"]));
    assert_eq!(payments[0]["transactionId"].as_str(), Some(text.as_str()));
    assert_eq!(fixture.books(&["report"]).status, 0);
    assert_eq!(fixture.state(id), State::Committed, "a command that reads moved money");

    // No command took the lead, which lasts nine seconds: the service begins at once.
    let begun = Instant::now();
    let service = fixture.runtime.block_on(Paywall::builder(fixture.provider()).open()).unwrap();
    while fixture.state(id) != State::Cancelled {
        assert!(begun.elapsed() < Duration::from_secs(6), "somebody else holds the lead");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its record follows the chain.
    let returned = |done: Done| done.json()["stage"] == "returned";
    while !returned(fixture.books(&["refund", &text, "--yes", "--json"])) {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    drop(service);
}

#[test]
fn what_was_delivered_is_not_given_back() {
    let fixture = Fixture::new();
    fixture.store();
    let id = fixture.transaction(1_000_000, State::Delivered).to_string();
    let (error, hint) = fixture.books(&["refund", &id, "--yes"]).told(1);
    assert!(error.contains("DELIVERED") && hint.contains("dispute"), "{error} {hint}");
}

#[test]
fn where_no_store_is_it_says_so_and_makes_none() {
    let fixture = Fixture::new();
    let id = format!("0x{}", "11".repeat(32));
    // Whoever connects for the first time is given test money.
    fixture.provider();
    let before = fixture.files();
    for arguments in [&["payments"][..], &["report"], &["refund", &id, "--yes"]] {
        let (error, hint) = fixture.books(arguments).told(1);
        assert!(error.contains("no paywall's store of 0x"), "{error}");
        assert!(hint.contains("--state-directory") && hint.contains("AGIRAILS_STORE"), "{hint}");
    }
    let names = |files: BTreeMap<PathBuf, Vec<u8>>| files.into_keys().collect::<Vec<_>>();
    assert_eq!(names(fixture.files()), names(before));
}

#[test]
fn the_password_of_a_store_is_never_shown() {
    let fixture = Fixture::new();
    // One that does not answer is waited for, since a service and its database start together.
    let done =
        fixture.books(&["payments", "--store", "postgresql://user:SECRET@127.0.0.1:1/books"]);
    assert!(done.told(1).0.contains("127.0.0.1:1") && !done.err.contains("SECRET"), "{done:?}");
    for url in [
        "postgresql://user:SECRET@127.0.0.1:nonsense/books",
        "postgresql://user:SECRET@/books?nonsense=1",
        "mysql://user:SECRET@127.0.0.1/books",
        "SECRET",
    ] {
        let by_option = fixture.books(&["payments", "--store", url]);
        let provider = fixture.provider().address().to_string();
        let by_variable =
            fixture.run_with(&["payments", "--address", &provider], "", &[("AGIRAILS_STORE", url)]);
        for done in [by_option, by_variable] {
            done.told(1);
            assert!(!done.err.contains("SECRET") && done.out.is_empty(), "{done:?}");
        }
    }
    let done = fixture.run(&["payments", "postgresql://user:SECRET@127.0.0.1/books"]);
    assert!(done.status == 2 && !done.err.contains("SECRET"), "{done:?}");
}

#[test]
fn the_books_of_nobody_are_not_opened() {
    let fixture = Fixture::new();
    let client = ACTPClient::builder().address(key(7).address()).state_directory(fixture.path());
    fixture.runtime.block_on(client.connect()).unwrap();
    let (error, hint) = fixture.run(&["payments"]).told(1);
    assert!(error.contains("neither an address nor a key"), "{error}");
    assert!(hint.contains("--address"), "{hint}");
    let (error, _) =
        fixture.books(&["report", "--since", "2026-11-02", "--until", "2026-11-01"]).told(1);
    assert!(error.contains("--since is later"), "{error}");
}
