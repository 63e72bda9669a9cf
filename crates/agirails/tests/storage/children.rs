//! This test binary, started again as another process that plays a role.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{damage, forking, sharing};

const ROLE: &str = "STORAGE_TEST_ROLE";
const DIRECTORY: &str = "STORAGE_TEST_DIRECTORY";
const NUMBER: &str = "STORAGE_TEST_NUMBER";

/// Plays a role where this process was started for one; does nothing in the suite itself.
#[test]
fn child_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let directory = PathBuf::from(env::var_os(DIRECTORY).unwrap());
    let number = env::var(NUMBER).unwrap().parse().unwrap();
    match role.as_str() {
        "pay" => sharing::pay(&directory, number),
        "pay until killed" => sharing::pay_until_killed(&directory, number),
        "open" => sharing::open_at_the_same_time(&directory),
        "answer" => sharing::answer(&directory),
        "use the environment" => sharing::use_the_environment(&directory),
        "write without leave" => damage::write_without_leave(&directory),
        "fill a small disk" => damage::fill_a_small_disk(&directory),
        "write beyond the limit" => damage::write_beyond_the_limit(&directory),
        "fork among writers" => forking::fork_among_writers(&directory),
        "fork among openers" => forking::fork_among_openers(&directory),
        "fork in memory" => forking::fork_in_memory(),
        "fork with a value" => forking::fork_with_a_value(),
        other => panic!("no such role: {other}"),
    }
    std::process::exit(0);
}

pub fn command(role: &str, directory: &Path, number: u64) -> Command {
    prefixed(&[] as &[&str], role, directory, number)
}

/// Started by another program, such as `unshare`.
pub fn prefixed(
    prefix: &[impl AsRef<OsStr>],
    role: &str,
    directory: &Path,
    number: u64,
) -> Command {
    let this = env::current_exe().unwrap();
    let mut words = prefix.iter().map(AsRef::as_ref).chain([this.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
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

#[track_caller]
pub fn succeeds(mut command: Command) {
    let mut child = command.spawn().unwrap();
    let status = wait(&mut child, Duration::from_secs(120));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

/// A file of lines that survives its writer's death.
pub struct Report(fs::File);

impl Report {
    pub fn at(directory: &Path) -> Self {
        let name = directory.join(format!("report-{}", std::process::id()));
        Self(fs::OpenOptions::new().append(true).create(true).open(name).unwrap())
    }

    pub fn line(&mut self, line: impl std::fmt::Display) {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub fn all(directory: &Path) -> Vec<String> {
        let mut lines = vec![];
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("report-") {
                let text = fs::read_to_string(entry.path()).unwrap();
                // What was cut off was not reported.
                lines.extend(
                    text.split_inclusive('\n')
                        .filter_map(|line| line.strip_suffix('\n'))
                        .map(str::to_owned),
                );
            }
        }
        lines
    }
}
