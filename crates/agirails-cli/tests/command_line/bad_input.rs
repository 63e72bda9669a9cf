//! Every command with something wrong: one line that says what, the right status, nothing changed.

use agirails::State;

use crate::fixture::{Fixture, PAYER};

const ID: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

#[test]
fn wrong_usage_is_2_and_names_the_command() {
    let fixture = Fixture::empty();
    for (arguments, words) in [
        (&[][..], "subcommand"),
        (&["nonsense"], "nonsense"),
        (&["balance", "nonsense"], "0x"),
        (&["balance", PAYER, "--mode", "nowhere"], "mock"),
        (&["balance", PAYER, "--json", "--csv"], "--csv"),
        (&["tx"], "<ID>"),
        (&["tx", "0x12"], "too short"),
        (&["tx", "list", "--state", "PAID"], "DELIVERED"),
        (&["tx", "list", "--role", "nobody"], "requester"),
        (&["tx", "list", "--limit", "0"], "1..=1000"),
        (&["settle"], "<ID>"),
        (&["settle", "0x12"], "too short"),
        (&["settle", ID, "--proven"], "--proven"),
        (&["call", "http://127.0.0.1:1"], "--max"),
        (&["call", "http://127.0.0.1:1", "--max", "ten"], "decimal"),
        (&["call", "http://127.0.0.1:1", "--max", "1", "-H", "nonsense"], "Name: value"),
        (&["call", "http://127.0.0.1:1", "--max", "1", "--trust", "0x12"], "too short"),
        (&["call", "http://127.0.0.1:1", "--max", "1", "--timeout", "soon"], "15min"),
        (&["call", "http://127.0.0.1:1", "--max", "1", "--dry-run", "--confirm"], "--confirm"),
        (&["inspect"], "<URL>"),
        (&["dispute", ID, "--max-bond", "-1"], "-1"),
        (&["close"], "<ID>"),
        (&["spent", "--provider", "0x12"], "too short"),
        (&["reclaim", "more"], "more"),
        (&["purchases", "more"], "more"),
        (&["mint"], "<USDC>"),
        (&["mint", "0.0000001"], "decimals"),
        (&["doctor", "more"], "more"),
        (&["keystore", "more"], "more"),
        (&["backup"], "<DIRECTORY>"),
        (&["store", "copy", "sqlite:."], "<TO>"),
        (&["devnet", "--port", "65536"], "65535"),
        (&["devnet", "--block-time", "0"], "seconds"),
        (&["completions", "nonsense"], "bash"),
        (&["keeper", "--provider", "0x12"], "too short"),
        (&["keeper", "--min-net", "much"], "decimal"),
        (&["keeper", "--coin-price", "-1"], "-1"),
        (&["keeper", "--from-block", "first"], "first"),
        (&["verify"], "<FILE>"),
        (&["payments", "--stage", "nowhere"], "delivering"),
        (&["payments", "--limit", "0"], "1..=1000"),
        (&["payments", "--all", "--limit", "5"], "--limit"),
        (&["payments", "--requester", "0x12"], "too short"),
        (&["report", "--by", "week"], "customer"),
        (&["report", "--since", "2026-11-31"], "2026-11-01"),
        (&["dashboard", "--port", "65536"], "65535"),
        (&["dashboard", "--csv"], "--csv"),
        (&["refund"], "<ID>"),
        (&["refund", "0x12"], "too short"),
        (&["settle", ID, "--due"], "--due"),
    ] {
        let done = fixture.run(arguments);
        assert_eq!((done.status, done.out.as_str()), (2, ""), "{arguments:?} {done:?}");
        let lines: Vec<_> = done.err.lines().collect();
        let [usage, .., error, hint] = lines[..] else { panic!("{arguments:?} {done:?}") };
        let command = match arguments {
            ["tx", "list", ..] => "agirails tx list",
            ["store", "copy", ..] => "agirails store copy",
            ["nonsense"] | [] => "agirails",
            [command, ..] => &format!("agirails {command}"),
        };
        assert!(usage.starts_with(&format!("usage: {command}")), "{arguments:?} {usage}");
        assert!(error.starts_with("error: ") && error.contains(words), "{arguments:?} {error}");
        assert!(hint.ends_with(&format!("see `{command} --help`")), "{arguments:?} {hint}");
    }
    assert!(fixture.files().is_empty());
}

#[test]
fn without_a_ledger_nothing_is_made_and_it_is_said_where_to_look() {
    let fixture = Fixture::empty();
    for arguments in [
        &["balance"][..],
        &["balance", PAYER],
        &["tx", ID],
        &["tx", "list"],
        &["settle", ID],
        &["settle", "--proven"],
        &["call", "http://127.0.0.1:1", "--max", "1"],
        &["call", "http://127.0.0.1:1", "--max", "1", "--dry-run"],
        &["inspect", "http://127.0.0.1:1"],
        &["purchases"],
        &["spent"],
        &["reclaim"],
        &["close", ID],
        &["dispute", ID],
        &["keeper"],
        &["payments"],
        &["report"],
        &["dashboard"],
        &["refund", ID],
        &["settle", "--due"],
        &["keeper", "--once", "--dry-run"],
    ] {
        let done = fixture.pay(arguments);
        let (error, hint) = done.told(1);
        assert!(error.contains("no mock ledger"), "{arguments:?} {error}");
        assert!(hint.contains("ACTP_STATE_DIR"), "{hint}");
        assert_eq!(done.out, "");
    }
    assert!(fixture.files().is_empty());
}

#[test]
fn what_is_refused_changes_nothing() {
    let fixture = Fixture::new();
    let committed = fixture.transaction(1_000_000, State::Committed).to_string();
    // Whoever pays has records, from the first look at them on.
    assert_eq!(fixture.pay(&["purchases"]).status, 0);
    let before = fixture.files();
    for (arguments, words) in [
        (&["tx", ID][..], "Tx missing"),
        (&["settle", ID], "Tx missing"),
        (&["settle", &committed], "Invalid transition"),
        (&["dispute", ID], "Tx missing"),
        (&["dispute", &committed], "a bond of 1.00 USDC"),
        (&["call", "ftp://nowhere", "--max", "1"], "http"),
        (&["call", "http://user:word@a", "--max", "1"], "password"),
        (&["call", "http://127.0.0.1:1", "--max", "1", "-d", "@/nowhere"], "/nowhere"),
        (&["call", "http://127.0.0.1:1", "--max", "1", "-H", "@/nowhere"], "/nowhere"),
        (&["call", "http://127.0.0.1:1", "--max", "1", "-X", "TRACE"], "method"),
        (&["inspect", "nonsense"], "URL"),
        (&["balance", "--network", "/nowhere"], "/nowhere"),
        (&["balance", "--mode", "mock", "--rpc-url", "http://a"], "rpc_url"),
        (&["backup", "/proc/nowhere"], "cannot be made"),
        (&["tx", "list", "--after", ID], "Tx missing"),
    ] {
        let done = fixture.pay_or_run(arguments);
        let (error, hint) = done.told(1);
        assert!(error.contains(words), "{arguments:?} {error}");
        assert!(!hint.is_empty() && !done.err.contains("user:word"), "{done:?}");
    }
    assert!(fixture.files() == before, "a file was changed");
}

#[test]
fn nobody_named_is_said_with_the_options_that_name_somebody() {
    let fixture = Fixture::new();
    for arguments in [&["balance"][..], &["tx", "list"], &["purchases"], &["mint", "1"]] {
        let (error, hint) = fixture.run(arguments).told(1);
        assert!(error.contains("neither an address nor a key"), "{error}");
        assert!(hint.contains("--address"), "{hint}");
    }
}

#[test]
fn a_private_key_where_none_belongs_is_never_repeated() {
    let fixture = Fixture::new();
    let secret = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    for arguments in
        [&["keystore", secret][..], &["balance", secret], &["balance", "--key", secret]]
    {
        let done = fixture.run(arguments);
        assert_eq!(done.status, 2);
        assert!(!done.err.contains(&secret[2..]), "{done:?}");
    }
    for variable in ["ACTP_PRIVATE_KEY", "ACTP_KEYSTORE_BASE64", "ACTP_KEY_PASSWORD"] {
        for command in ["balance", "doctor"] {
            let value = format!("{secret}0");
            let done = fixture.run_with(&[command], "", &[(variable, &value)]);
            assert!(
                !done.err.contains(&secret[2..]) && !done.out.contains(&secret[2..]),
                "{done:?}"
            );
        }
    }
}

#[test]
fn an_unknown_mode_of_the_environment_is_named() {
    let fixture = Fixture::new();
    let done = fixture.run_with(&["balance", PAYER], "", &[("ACTP_MODE", "nowhere")]);
    let (error, hint) = done.told(1);
    assert!(error.contains("ACTP_MODE") && hint.contains("testnet"), "{error} {hint}");
}

#[test]
fn an_error_is_one_object_where_json_is_asked_for() {
    let fixture = Fixture::new();
    let done = fixture.pay(&["tx", ID, "--json"]);
    assert_eq!((done.status, done.out.as_str()), (1, ""));
    let error: serde_json::Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!(error["error"]["code"], "tx_missing");
    assert_eq!(error["error"]["transactionId"], ID);
    assert_eq!(error["error"]["retry"], "never");
}

impl Fixture {
    /// As the payer, but for commands that take nobody.
    fn pay_or_run(&self, arguments: &[&str]) -> crate::fixture::Done {
        match arguments[0] {
            "backup" => self.run(arguments),
            _ => self.pay(arguments),
        }
    }
}
