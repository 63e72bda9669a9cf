//! Paid calls, from a service of this process.

use crate::fixture::{Fixture, PAYER, secret};

#[test]
fn a_call_is_paid_and_its_body_alone_goes_to_the_standard_output() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    let done = fixture.pay(&["call", &url, "--max", "0.25", "-d", "a haiku", "--trust", &url]);
    assert_eq!((done.status, done.out.as_str()), (0, "answer to a haiku"), "{done:?}");
    assert!(done.err.contains("0.10 USDC") && done.err.contains("receipt"), "{}", done.err);

    let purchases = fixture.pay(&["purchases", "--json"]).json();
    assert_eq!(
        (&purchases[0]["amount"], &purchases[0]["kind"]),
        (&100_000.into(), &"single".into())
    );
    let spent = fixture.pay(&["spent", "--json"]).json();
    assert_eq!(spent["day"], 100_000);
}

#[test]
fn who_is_not_trusted_is_paid_by_a_bundle_that_later_calls_draw_from() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    // A balance is closed by a signed request.
    let secret = secret(8);
    let pay =
        |arguments: &[&str]| fixture.run_with(arguments, "", &[("ACTP_PRIVATE_KEY", &secret)]);
    let call = |body: &str| pay(&["call", &url, "--max", "0.10", "-d", body, "--json"]).json();
    let first = call(r#"{"prompt": "one"}"#);
    assert_eq!((&first["status"], &first["payment"]["fundedNow"]), (&200.into(), &true.into()));
    let second = call("two");
    assert_eq!(second["payment"]["fundedNow"], false);
    assert_eq!(first["payment"]["transactionId"], second["payment"]["transactionId"]);
    assert_eq!(second["body"], "answer to two");

    let purchases = pay(&["purchases", "--open", "--json"]).json();
    assert_eq!((&purchases[0]["used"], &purchases[0]["left"]), (&200_000.into(), &800_000.into()));
    let id = first["payment"]["transactionId"].as_str().unwrap().to_owned();
    let closed = pay(&["close", &id, "--json"]).json();
    assert!(closed["stage"].is_string(), "{closed}");
    let reclaimed = pay(&["reclaim", "--json"]);
    assert_eq!(reclaimed.status, 0, "{reclaimed:?}");
}

#[test]
fn a_dry_run_says_what_would_be_paid_and_pays_nothing() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    let arguments = ["call", &url, "--max", "0.25", "-d", "x", "--dry-run"];
    let done = fixture.pay(&arguments);
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.out.contains("into escrow  1.00 USDC"), "{}", done.out);
    let would = fixture.pay(&[&arguments[..], &["--json"]].concat()).json();
    assert_eq!((&would["price"], &would["calls"]), (&100_000.into(), &10.into()));
    assert_eq!(fixture.pay(&["purchases", "--json"]).json(), serde_json::json!([]));
    assert_eq!(fixture.pay(&["balance", "--json"]).json()["balance"], 1_000_000_000);
    // Once a balance is there, it says so.
    fixture.pay(&["call", &url, "--max", "0.25", "-d", "y"]);
    let would = fixture.pay(&[&arguments[..], &["--json"]].concat()).json();
    assert_eq!((&would["left"], &would["amount"]), (&900_000.into(), &0.into()));
}

#[test]
fn nobody_is_asked_where_nobody_sits_before_it() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    let done = fixture.pay(&["call", &url, "--max", "0.25", "-d", "x", "--confirm"]);
    let (error, hint) = done.told(1);
    assert!(error.contains("no terminal") && hint.contains("nothing was paid"), "{done:?}");
    assert_eq!(fixture.pay(&["purchases", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn what_costs_too_much_is_not_paid() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    for more in [&[][..], &["--dry-run"]] {
        let arguments = [&["call", &url, "--max", "0.05", "-d", "x"], more].concat();
        let (error, hint) = fixture.pay(&arguments).told(1);
        assert!(error.contains("0.10 USDC") && hint.contains("nothing was paid"), "{error} {hint}");
    }
    let more = ["--max-funding", "0.50"];
    let arguments = [&["call", &url, "--max", "0.10", "-d", "x"], &more[..]].concat();
    let (error, _) = fixture.pay(&arguments).told(1);
    assert!(error.contains("not trusted"), "{error}");
}

#[test]
fn a_free_call_is_free_and_a_failed_one_fails() {
    let fixture = Fixture::new();
    let origin = fixture.service();
    let done = fixture.pay(&["call", &format!("{origin}/free"), "-X", "post", "--max", "1"]);
    assert_eq!((done.status, done.out.as_str()), (0, "for nothing"), "{done:?}");
    assert!(done.err.contains("nothing was paid"));
    let done = fixture.pay(&["call", &format!("{origin}/nothing"), "--max", "1"]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.err.contains("HTTP 404"));
}

#[test]
fn a_service_is_inspected_with_and_without_somebody_who_pays() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    let done = fixture.pay(&["inspect", &url, "-d", "x"]);
    assert_eq!(done.status, 0, "{done:?}");
    for words in ["single", "prepaid", "never", "less 0.05 USDC", "would pay", "only the provider"]
    {
        assert!(done.out.contains(words), "{words}: {}", done.out);
    }
    let found = fixture.pay(&["inspect", &url, "-d", "x", "--max", "0.01", "--json"]).json();
    assert_eq!((&found["status"], &found["offers"][0]["price"]), (&402.into(), &100_000.into()));
    assert_eq!(found["refusal"]["code"], "price_above_limit");
    let found = fixture.run(&["inspect", &url, "-d", "x", "--json"]).json();
    assert!(found["wouldPay"].is_null() && found["offers"].as_array().unwrap().len() >= 2);
    let csv = fixture.run(&["inspect", &url, "-d", "x", "--csv"]).out;
    assert!(csv.starts_with("kind,price,calls,amount,"), "{csv}");
    assert_eq!(fixture.pay(&["balance", "--json"]).json()["balance"], 1_000_000_000);
}

#[test]
fn bodies_and_headers_come_from_files_and_the_standard_input() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    std::fs::write(fixture.path().join("body"), "from a file").unwrap();
    std::fs::write(fixture.path().join("headers"), "X-Note: secret\n\nX-Other: b\n").unwrap();
    let arguments = ["call", &url, "--max", "0.1", "--address", PAYER, "-H", "@headers", "-d"];
    let done = fixture.run(&[&arguments[..], &["@body"]].concat());
    assert_eq!(done.out, "answer to from a file", "{done:?}");
    let done = fixture.run_with(&[&arguments[..], &["-"]].concat(), "from the input", &[]);
    assert_eq!(done.out, "answer to from the input", "{done:?}");
}

#[test]
fn a_purchase_is_gone_on_with_by_its_key() {
    let fixture = Fixture::new();
    let url = format!("{}/api/generate", fixture.service());
    let call = ["call", &url, "--max", "0.1", "-d", "x", "--purchase-key", "mine", "--json"];
    let (first, again) = (fixture.pay(&call).json(), fixture.pay(&call).json());
    assert_eq!(first["body"], again["body"]);
    assert_eq!(fixture.pay(&["purchases", "--json"]).json()[0]["used"], 100_000);
    let other = ["call", &url, "--max", "0.1", "-d", "y", "--purchase-key", "mine"];
    let (error, _) = fixture.pay(&other).told(1);
    assert!(error.contains("another request"), "{error}");
}
