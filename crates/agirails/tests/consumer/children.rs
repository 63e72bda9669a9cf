//! This test binary, started again as another process that plays a role.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::crashes;

const ROLE: &str = "CONSUMER_TEST_ROLE";
const DIRECTORY: &str = "CONSUMER_TEST_DIRECTORY";
const NUMBER: &str = "CONSUMER_TEST_NUMBER";

/// Plays a role where this process was started for one; does nothing in the suite itself.
#[test]
fn child_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let directory = PathBuf::from(env::var_os(DIRECTORY).unwrap());
    let number = env::var(NUMBER).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "buy until killed" => crashes::buy_until_killed(&directory, number).await,
            "spend the budget" => crashes::spend_the_budget(&directory).await,
            other => panic!("no such role: {other}"),
        }
    });
    std::process::exit(0);
}

pub fn command(role: &str, directory: &Path, number: u64) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "children::child_process", "--nocapture"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .env(NUMBER, number.to_string())
        .stdout(Stdio::null());
    command
}

/// Waits, and kills what never ends.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
