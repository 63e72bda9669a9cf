//! Reading transactions, settling them, and what an address owns.

use agirails::State;

use crate::fixture::{Fixture, HOUR, PAYER};

const DAY: u64 = 24 * HOUR;

#[test]
fn a_balance_is_told_to_people_and_to_programs() {
    let fixture = Fixture::new();
    let done = fixture.run(&["balance", PAYER]);
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.out.contains("USDC            1000.00"), "{}", done.out);
    let balance = fixture.pay(&["balance", "--json"]).json();
    assert_eq!((&balance["balance"], &balance["gasWei"]), (&1_000_000_000.into(), &().into()));
    let csv = fixture.pay(&["balance", "--csv"]).out;
    assert!(csv.starts_with("address,network,balance,allowance,gasWei\n"), "{csv}");
    assert!(csv.ends_with(",mock,1000000000,0,\n"), "{csv}");
}

#[test]
fn a_transaction_is_shown_with_everything_and_what_can_happen_next() {
    let fixture = Fixture::new();
    let id = fixture.transaction(1_000_000, State::Committed).to_string();
    // Reading takes neither key nor address.
    let done = fixture.run(&["tx", &id]);
    assert_eq!((done.status, done.err.as_str()), (0, ""), "{done:?}");
    for words in [
        id.as_str(),
        "COMMITTED",
        "in escrow       1.00 USDC",
        "2days",
        "for a penalty of 0.05 USDC",
        "Z (",
    ] {
        assert!(done.out.contains(words), "{words}: {}", done.out);
    }
    let tx = fixture.run(&["tx", &id, "--json"]).json();
    assert_eq!((&tx["amount"], &tx["escrowRemaining"]), (&1_000_000.into(), &1_000_000.into()));
    assert_eq!(
        (&tx["disputeWindowSeconds"], &tx["disputeWindowEndsAt"]),
        (&172_800.into(), &().into())
    );
    assert!(tx["next"].as_str().unwrap().contains("the provider can deliver"));
    let csv = fixture.run(&["tx", &id, "--csv"]).out;
    assert_eq!(csv.lines().count(), 2);
}

#[test]
fn lists_are_filtered_by_role_state_and_number() {
    let fixture = Fixture::new();
    let delivered = fixture.transaction(1_000_000, State::Delivered).to_string();
    let committed = fixture.transaction(100_000, State::Committed).to_string();
    let ids = |more: &[&str]| -> Vec<String> {
        let list = fixture.pay(&[&["tx", "list", "--json"], more].concat()).json();
        let ids = list.as_array().unwrap().iter().map(|tx| tx["transactionId"].as_str());
        ids.map(|id| id.unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&[]), [committed.as_str(), delivered.as_str()]);
    assert_eq!(ids(&["--state", "delivered"]), [delivered.as_str()]);
    assert_eq!(ids(&["--limit", "1"]), [committed.as_str()]);
    assert_eq!(ids(&["--limit", "1", "--after", &committed]), [delivered.as_str()]);
    assert!(ids(&["--role", "provider"]).is_empty());
    let provider = fixture.provider().address().to_string();
    assert_eq!(ids(&["--role", "provider", "--party", &provider]).len(), 2);
    let done = fixture.pay(&["tx", "list"]);
    assert!(done.out.contains(&delivered) && done.out.contains("DELIVERED"), "{}", done.out);
    let done = fixture.pay(&["tx", "list", "--state", "SETTLED"]);
    assert_eq!(done.out, "no transactions\n");
    assert_eq!(
        fixture.pay(&["tx", "list", "--state", "SETTLED", "--json"]).json(),
        serde_json::json!([])
    );
}

#[test]
fn the_requester_settles_at_once_and_twice_is_once() {
    let fixture = Fixture::new();
    let id = fixture.transaction(1_000_000, State::Delivered);
    let text = id.to_string();
    let settled = fixture.pay(&["settle", &text, "--json"]).json();
    let row = &settled[0];
    assert_eq!(
        (&row["outcome"], &row["net"], &row["fee"]),
        (&"settled".into(), &950_000.into(), &50_000.into())
    );
    assert_eq!(fixture.state(id), State::Settled);
    let again = fixture.pay(&["settle", &text]);
    assert!(again.status == 0 && again.out.contains("was settled before"), "{again:?}");
}

#[test]
fn others_are_told_when_they_can_settle_and_then_can() {
    let fixture = Fixture::new();
    let id = fixture.transaction(1_000_000, State::Delivered);
    let provider = fixture.provider().address().to_string();
    let settle = ["settle", &id.to_string(), "--address", &provider];
    let (error, hint) = fixture.run(&settle).told(1);
    assert!(error.contains("Requester decision pending"), "{error}");
    assert!(hint.contains("cannot settle it yet") && hint.contains("Z ("), "{hint}");
    assert_eq!(fixture.state(id), State::Delivered);
    let kernel = fixture.payer().mock().unwrap().clone();
    fixture.runtime.block_on(kernel.advance_time(2 * DAY + 1)).unwrap();
    let done = fixture.run(&settle);
    assert_eq!((done.status, fixture.state(id)), (0, State::Settled), "{done:?}");
}

#[test]
fn of_several_each_is_told_and_the_status_is_the_worst() {
    let fixture = Fixture::new();
    let good = fixture.transaction(1_000_000, State::Delivered);
    let bad = fixture.transaction(1_000_000, State::Committed);
    let done = fixture.pay(&["settle", &bad.to_string(), &good.to_string(), "--csv"]);
    let (error, hint) = done.told(1);
    assert!(
        error.contains("Invalid transition") && hint.contains("only what is DELIVERED"),
        "{done:?}"
    );
    assert_eq!(done.out.lines().count(), 3, "{done:?}");
    assert_eq!((fixture.state(good), fixture.state(bad)), (State::Settled, State::Committed));
}

#[test]
fn a_dispute_names_its_bond_before_it_takes_it() {
    let fixture = Fixture::new();
    let id = fixture.transaction(1_000_000, State::Delivered);
    let text = id.to_string();
    let (error, hint) = fixture.pay(&["dispute", &text]).told(1);
    assert!(
        error.contains("a bond of 1.00 USDC") && hint.contains("--max-bond 1.00"),
        "{error} {hint}"
    );
    fixture.pay(&["dispute", &text, "--max-bond", "0.99"]).told(1);
    assert_eq!(fixture.state(id), State::Delivered);
    let disputed = fixture.pay(&["dispute", &text, "--max-bond", "1", "--json"]).json();
    assert_eq!((&disputed["bond"], fixture.state(id)), (&1_000_000.into(), State::Disputed));
}

#[test]
fn test_money_is_made_and_a_ledger_where_there_is_none() {
    let fixture = Fixture::empty();
    let minted = fixture.pay(&["mint", "2.50", "--json"]).json();
    assert_eq!((&minted["minted"], &minted["balance"]), (&2_500_000.into(), &1_002_500_000.into()));
}

#[test]
fn the_doctor_finds_a_ledger_sound_and_names_what_is_not() {
    let fixture = Fixture::new();
    let done = fixture.pay(&["doctor"]);
    assert_eq!(done.status, 0, "{done:?}");
    for check in ["state directory", "network", "ledger", "key", "USDC", "allowance"] {
        assert!(
            done.out.lines().any(|line| line.starts_with("ok") && line.contains(check)),
            "{check}: {}",
            done.out
        );
    }
    let findings = fixture.pay(&["doctor", "--json"]).json();
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["status"] == "ok"));

    let done = fixture.run_with(&["doctor"], "", &[("ACTP_PRIVATE_KEY", "nonsense")]);
    assert_eq!(done.status, 1);
    assert!(done.out.contains("problem") && done.out.contains("ACTP_PRIVATE_KEY"), "{}", done.out);
    assert!(done.out.contains("→"), "what to do: {}", done.out);
}

#[cfg(unix)]
#[test]
fn the_doctor_sees_a_directory_that_others_can_write_and_leaves_it() {
    use std::{fs, os::unix::fs::PermissionsExt};

    let fixture = Fixture::empty();
    let state = fixture.path().join(".actp");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let done = fixture.pay(&["doctor"]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.out.contains("mode 0777") && done.out.contains("chmod -R go-rwx"), "{}", done.out);
    assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o777);
    assert_eq!(fixture.files().len(), 1, "it made something");
}
