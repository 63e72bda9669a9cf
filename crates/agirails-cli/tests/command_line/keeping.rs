//! The keeper, and `settle --due`: what is due is settled, once, and what is not due waits.

use agirails::{
    ACTPClient, CreateTransaction, Evidence, Generation, State, Usdc, kernel::Kernel as _,
};

use crate::fixture::{Fixture, HOUR, key};

const DAY: u64 = 24 * HOUR;
const KEEPER: &str = "0x4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e";

impl Fixture {
    /// The window of everything that was delivered until now is over.
    fn let_windows_pass(&self) {
        let kernel = self.payer().mock().unwrap().clone();
        self.runtime.block_on(kernel.advance_time(2 * DAY + 1)).unwrap();
    }

    fn keep(&self, arguments: &[&str]) -> crate::fixture::Done {
        self.run(&[&["keeper", "--once", "--address", KEEPER], arguments].concat())
    }
}

#[test]
fn a_round_settles_what_is_due_and_says_so_to_people_and_programs() {
    let fixture = Fixture::new();
    let id = fixture.transaction(1_000_000, State::Delivered);
    let done = fixture.keep(&[]);
    assert!(done.status == 0 && done.out.contains("0 settled, 0 failed, 1 waiting"), "{done:?}");
    assert!(done.out.contains("the next is due at"), "{done:?}");
    fixture.let_windows_pass();

    let done = fixture.keep(&["--dry-run"]);
    assert!(done.out.starts_with(&format!("would settle {id}")), "{done:?}");
    assert_eq!(fixture.state(id), State::Delivered);

    let done = fixture.keep(&["--json"]);
    assert_eq!(done.status, 0, "{done:?}");
    let lines: Vec<serde_json::Value> =
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines[0]["net"]), (&"settled".into(), &950_000.into()));
    let last = lines.last().unwrap();
    assert_eq!((&last["event"], &last["waiting"]), (&"round".into(), &0.into()));
    assert_eq!(fixture.state(id), State::Settled);
    assert!(fixture.keep(&[]).out.starts_with("0 settled"), "twice is once");
}

#[test]
fn it_keeps_to_the_providers_and_limits_that_it_is_given() {
    let fixture = Fixture::new();
    let id = fixture.transaction(1_000_000, State::Delivered);
    fixture.let_windows_pass();
    let done = fixture.keep(&["--provider", KEEPER]);
    assert!(done.status == 0 && fixture.state(id) == State::Delivered, "{done:?}");
    let done = fixture.keep(&["--min-net", "0.96"]);
    assert!(done.out.contains("not worth its gas"), "{done:?}");
    assert_eq!(fixture.state(id), State::Delivered);
    let provider = fixture.provider().address().to_string();
    let done = fixture.keep(&["--provider", &provider, "--provider", KEEPER]);
    assert_eq!(fixture.state(id), State::Settled, "{done:?}");
}

#[test]
fn abandoned_work_goes_back_to_whoever_paid_where_the_kernel_allows_it() {
    let fixture = Fixture::new();
    let (error, hint) = fixture.keep(&["--recover"]).told(1);
    assert!(error.contains("recovers no abandoned work"), "{error}");
    assert!(hint.contains("only the provider"), "{hint}");

    let newer = tempfile::tempdir().unwrap();
    let (id, kernel) = fixture.runtime.block_on(async {
        let client = async |number| {
            let builder = ACTPClient::builder().private_key(key(number)).generation(Generation::F6);
            builder.state_directory(newer.path()).connect().await.unwrap()
        };
        let (payer, provider) = (client(2).await, client(1).await);
        let kernel = payer.mock().unwrap().clone();
        let deadline = payer.now().await.unwrap() + DAY;
        let (requester, by) = (payer.address(), provider.address());
        let order = CreateTransaction::new(requester, by, Usdc(1_000_000), deadline);
        let id = payer.create_transaction(&order).await.unwrap();
        payer.link_escrow(id).await.unwrap();
        provider.transition_state(id, State::InProgress, Evidence::None).await.unwrap();
        kernel.advance_time(DAY + HOUR).await.unwrap();
        (id, kernel)
    });
    let keep = |arguments: &[&str]| {
        let directory = ["--state-directory", newer.path().to_str().unwrap()];
        fixture.keep(&[&directory, arguments].concat())
    };
    let done = keep(&[]);
    assert!(done.out.contains("1 abandoned (--recover returns their money)"), "{done:?}");
    let done = keep(&["--recover", "--dry-run"]);
    assert!(done.out.starts_with(&format!("would recover {id}")), "{done:?}");
    let done = keep(&["--recover"]);
    assert!(done.out.starts_with(&format!("recovered {id} for requester ")), "{done:?}");
    assert!(done.out.contains("0 settled, 1 recovered, 0 failed"), "{done:?}");
    let state = fixture.runtime.block_on(kernel.get_transaction(id)).unwrap().state;
    assert_eq!(state, State::Cancelled);
}

#[test]
fn the_metrics_are_written_whole_or_it_says_why_not() {
    let fixture = Fixture::new();
    let done = fixture.keep(&["--metrics-file", "keeper.prom"]);
    assert_eq!(done.status, 0, "{done:?}");
    let text = std::fs::read_to_string(fixture.path().join("keeper.prom")).unwrap();
    assert!(text.contains("\nagirails_keeper_settled_total 0\n"), "{text}");
    let left = std::fs::read_dir(fixture.path()).unwrap().count();
    assert_eq!(left, 2, ".actp and the metrics");
    let (error, hint) = fixture.keep(&["--metrics-file", "nowhere/keeper.prom"]).told(1);
    assert!(error.contains("nowhere/keeper.prom") && hint.contains("directory"), "{error} {hint}");
}

#[cfg(unix)]
#[test]
fn it_runs_until_it_is_stopped_and_ends_in_order() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    let fixture = Fixture::new();
    for (signal, status) in [("-INT", 130), ("-TERM", 0)] {
        let id = fixture.transaction(1_000_000, State::Delivered);
        fixture.let_windows_pass();
        let mut child = Command::new(env!("CARGO_BIN_EXE_agirails"))
            .args(["keeper", "--mode", "mock", "--address", KEEPER])
            .current_dir(fixture.path())
            .env_remove("ACTP_STATE_DIR")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().starts_with(&format!("settled {id}")));
        let asked = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(asked.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
    }
}

#[test]
fn a_provider_settles_what_is_due_of_its_own() {
    let fixture = Fixture::new();
    let provider = fixture.provider().address().to_string();
    let id = fixture.transaction(1_000_000, State::Delivered);
    let settle = |address: &str| fixture.run(&["settle", "--due", "--address", address]);
    let done = settle(&provider);
    assert!(done.status == 0 && done.out.starts_with("nothing is due before"), "{done:?}");
    fixture.let_windows_pass();
    let done = settle(KEEPER);
    assert_eq!((done.status, fixture.state(id)), (0, State::Delivered), "{done:?}");
    let done = settle(&provider);
    assert!(done.out.contains(&id.to_string()) && done.out.contains("0.95"), "{done:?}");
    assert_eq!((done.status, fixture.state(id)), (0, State::Settled));
    let done = settle(&provider);
    assert_eq!((done.status, done.out.as_str()), (0, "nothing is due\n"), "{done:?}");
}
