//! No anvil outlives its owner, however that ends. Needs anvil.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agirails_devnet::Devnet;

const ROLE: &str = "AGIRAILS_TEST_OWNER";
/// The supervisor looks every second.
const SOON: Duration = Duration::from_secs(10);

/// Another process that owns a devnet: this test program, in the role of [`owner`].
struct Owner {
    process: Child,
    address: String,
    forked: Option<i32>,
    directory: tempfile::TempDir,
}

impl Owner {
    fn start(role: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["owner", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env("TMPDIR", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        // The test harness may have begun the line.
        let told = |line: String| line.split_once("OWNS ").map(|(_, told)| told.to_owned());
        let told = lines.filter_map(told).next().unwrap();
        let (address, forked) = told.split_once(' ').unwrap();
        let (address, forked) = (address.to_owned(), forked.parse().ok().filter(|pid| *pid > 0));
        Self { process, address, forked, directory }
    }

    fn listens(&self) -> bool {
        TcpStream::connect(&self.address).is_ok()
    }

    /// Whether nothing listens any more and no file is left.
    fn is_cleaned_up(&self) -> bool {
        let files = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
        !self.listens() && files(self.directory.path()) == 0
    }

    fn assert_cleaned_up(&self) {
        let started = Instant::now();
        while !self.is_cleaned_up() {
            assert!(started.elapsed() < SOON, "{} is still there", self.address);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(forked) = self.forked {
            // SAFETY: a process that the owner forked for this test.
            unsafe { libc::kill(forked, libc::SIGKILL) };
        }
    }
}

#[test]
#[ignore = "a role that the other tests start in a process of its own"]
fn owner() {
    let Ok(role) = env::var(ROLE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let devnet = runtime.block_on(Devnet::start()).unwrap();
    let address = devnet.rpc_url().trim_start_matches("http://").to_owned();
    let mut forked = 0;
    if role == "forks" {
        // SAFETY: the child does nothing but wait, and leaves without any cleaning up.
        forked = unsafe { libc::fork() };
        if forked == 0 {
            unsafe {
                libc::sleep(60);
                libc::_exit(0);
            }
        }
    }
    println!("OWNS {address} {forked}");
    match role.as_str() {
        "panics" => panic!("as it was told"),
        "exits" => std::process::exit(0),
        "returns" => {}
        _ => thread::sleep(Duration::from_secs(60)),
    }
}

#[test]
fn anvil_ends_with_an_owner_that_is_killed_even_before_anybody_buries_it() {
    let mut owner = Owner::start("waits");
    assert!(owner.listens());
    // Not waited for: it stays a zombie while this looks.
    owner.process.kill().unwrap();
    owner.assert_cleaned_up();
}

#[test]
fn anvil_ends_with_an_owner_whose_forked_children_live_on() {
    let mut owner = Owner::start("forks");
    let forked = owner.forked.unwrap();
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    owner.assert_cleaned_up();
    // SAFETY: signal 0 is sent to nobody.
    assert_eq!(unsafe { libc::kill(forked, 0) }, 0);
}

#[test]
fn anvil_ends_with_an_owner_that_panics_exits_or_returns() {
    for role in ["panics", "exits", "returns"] {
        let mut owner = Owner::start(role);
        owner.process.wait().unwrap();
        owner.assert_cleaned_up();
    }
}

#[test]
fn anvil_outlives_the_thread_and_the_runtime_that_started_it() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let started = thread::spawn(move || runtime().block_on(Devnet::start()).unwrap());
    let devnet = started.join().unwrap();
    thread::sleep(Duration::from_millis(2_500));
    runtime().block_on(devnet.now()).unwrap();
    let address = devnet.rpc_url().trim_start_matches("http://").to_owned();
    drop(devnet);
    assert!(TcpStream::connect(address).is_err());
}
