//! On a local chain: the devnet that the program itself runs, and what the others do there.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use agirails_devnet::Devnet;

use crate::fixture::Fixture;

/// A running `agirails devnet`, and the path of its profile.
struct Running {
    child: Child,
    lines: Vec<String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_agirails"))
            .arg("devnet")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = vec![];
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            lines.push(line.unwrap());
            if lines.last().unwrap().starts_with("export ") {
                break;
            }
        }
        Self { child, lines }
    }

    fn profile(&self) -> &str {
        self.lines.last().unwrap().strip_prefix("export AGIRAILS_NETWORK=").unwrap()
    }

    fn interrupt(mut self) -> i32 {
        let ended = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(ended.unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_devnet_ends_in_order_and_takes_its_profile_with_it() {
    let devnet = Running::start(&["--accounts"]);
    assert_eq!(devnet.lines.len(), 1 + 1 + 11 + 1, "{:?}", devnet.lines);
    let profile = devnet.profile().to_owned();
    assert!(std::path::Path::new(&profile).exists());
    assert_eq!(devnet.interrupt(), 0);
    assert!(!std::path::Path::new(&profile).exists());
}

#[test]
fn the_doctor_and_the_others_work_on_a_chain() {
    let fixture = Fixture::empty();
    let devnet = fixture.runtime.block_on(Devnet::start()).unwrap();
    let profile = fixture.path().join("with space.json");
    devnet.write_profile(&profile).unwrap();
    let profile = profile.to_str().unwrap();
    let account = &devnet.accounts()[0];
    let key = [("ACTP_PRIVATE_KEY", account.secret())];
    // A profile is a chain's, so the mode need not be named.
    let run = |arguments: &[&str], key: &[(&str, &str)]| {
        fixture.run_with(&[arguments, &["--network", profile]].concat(), "", key)
    };

    let done = run(&["doctor"], &key);
    assert_eq!(done.status, 0, "{done:?}");
    for check in ["node", "contracts", "agreement", "gas money", "USDC", "allowance"] {
        assert!(
            done.out.lines().any(|line| line.starts_with("ok") && line.contains(check)),
            "{check}: {}",
            done.out
        );
    }
    assert!(!done.out.contains(account.secret()) && !done.err.contains(account.secret()));
    assert_eq!(fixture.files().len(), 1, "the doctor made something");

    let done = run(&["doctor"], &[("ACTP_PRIVATE_KEY", &crate::fixture::secret(77))]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.out.contains("problem") && done.out.contains("gas money"), "{}", done.out);
    assert!(done.out.contains("agirails mint"), "{}", done.out);

    let address = account.address.to_string();
    let balance = run(&["balance", &address, "--json"], &[]).json();
    assert_eq!(
        (&balance["balance"], &balance["gasWei"]),
        (&1_000_000_000_000_u64.into(), &"10000000000000000000000".into())
    );
    assert_eq!(fixture.files().len(), 1, "reading made something");

    let minted = run(&["mint", "5", "--json"], &key).json();
    assert_eq!(minted["balance"], 1_000_005_000_000_u64);
    let done = run(&["mint", "5", "--address", &address], &[]);
    assert!(done.told(1).0.contains("no key"), "{done:?}");
    assert_eq!(run(&["tx", "list", "--json"], &key).json(), serde_json::json!([]));
}

#[test]
fn a_node_that_does_not_answer_is_named_by_its_host_alone() {
    let fixture = Fixture::empty();
    let url = "http://127.0.0.1:1/v3/SECRET";
    let done = fixture.run(&["doctor", "--mode", "testnet", "--rpc-url", url]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(
        done.out.contains("http://127.0.0.1:1") && !done.out.contains("SECRET"),
        "{}",
        done.out
    );
    assert!(fixture.files().is_empty());
}
