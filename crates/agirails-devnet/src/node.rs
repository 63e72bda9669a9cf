//! The process: an anvil that never outlives its owner.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::{Duration, Instant},
};

use agirails::{Code, Error, Result};

use crate::supervisor::{self, last_words};

/// How long anvil may take until it listens; it takes a tenth of a second on an idle machine.
const START: Duration = Duration::from_secs(20);

/// It buries what it kills, so that no zombies pile up where nobody else does.
const SUPERVISOR: &str = supervisor::script!(
    r#"
    [ -z "$child" ] || { kill -9 $child $nap; wait $child $nap; }
    [ "$1" = clean ] && rm -rf "$directory"
    kill -9 0
"#
);

/// A running anvil. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Node {
    supervisor: Child,
    directory: PathBuf,
    owner: u32,
    address: SocketAddr,
}

impl Node {
    /// Starts anvil and waits until it listens.
    pub(crate) async fn start(anvil: &Path, arguments: &[String]) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(Code::DevnetUnavailable, format!("anvil cannot be started: {error}"))
                .with_hint("a directory for temporary files and a shell (sh) are needed")
                .with_source(error)
        };
        let directory =
            tempfile::Builder::new().prefix("agirails-devnet-").tempdir().map_err(failed)?;
        let owner = process::id();
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "agirails-devnet", &owner.to_string()])
            .arg(directory.path())
            .arg(anvil)
            .args(arguments)
            .arg("--config-out")
            .arg(directory.path().join("config.json"))
            .arg("--cache-path")
            .arg(directory.path().join("cache"))
            // Away from the terminal's Ctrl-C, and one group to end.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        // From here on dropping the node cleans up.
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self { supervisor, directory: directory.keep(), owner, address };
        node.address = node.listening().await?;
        Ok(node)
    }

    async fn listening(&mut self) -> Result<SocketAddr> {
        let started = Instant::now();
        loop {
            // Looked at before the log, so that a log of the dead is complete.
            let ended = !matches!(self.supervisor.try_wait(), Ok(None));
            let log = self.read("log");
            // Without its newline the number may lack digits.
            let address =
                log.split_once("Listening on ").and_then(|(_, rest)| rest.split_once('\n'));
            if let Some(Ok(address)) = address.map(|(address, _)| address.trim().parse()) {
                return Ok(address);
            }
            if ended {
                return Err(silent("anvil did not start", &log));
            }
            if started.elapsed() > START {
                return Err(silent("anvil does not listen", &log));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One of its files, as far as it is written.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A forked child has a copy of this, and no right to end what its parent uses.
        if process::id() != self.owner {
            return;
        }
        supervisor::end(&mut self.supervisor);
        // Nothing is left to be done about a failure.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Anvil's own last words, without the keys that it prints when all is well.
fn silent(what: &str, log: &str) -> Error {
    let words = last_words(log);
    Error::new(Code::DevnetUnavailable, format!("{what}: {words}"))
        .with_hint("anvil 1.5 or later is needed, and a free port")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// A program in anvil's place.
    fn program(script: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("anvil");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    fn runs(group: i32) -> bool {
        // SAFETY: signal 0 is sent to nobody.
        unsafe { libc::kill(-group, 0) == 0 }
    }

    #[tokio::test]
    async fn dropping_a_node_ends_its_whole_group_and_leaves_no_files() {
        let (_directory, path) = program("echo Listening on 127.0.0.1:1; sleep 100 & sleep 100");
        let node = Node::start(&path, &[]).await.unwrap();
        let (group, files) = (node.supervisor.id() as i32, node.directory.clone());
        assert!(runs(group) && files.join("log").exists());
        drop(node);
        assert!(!files.exists());
        // What anvil itself started is dead too, and buried by whoever inherits orphans.
        let started = Instant::now();
        while runs(group) {
            assert!(started.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_copy_in_another_process_ends_nothing() {
        let (_directory, path) = program("echo Listening on 127.0.0.1:1; sleep 100");
        let mut node = Node::start(&path, &[]).await.unwrap();
        let (group, files) = (node.supervisor.id() as i32, node.directory.clone());
        node.owner += 1;
        drop(node);
        assert!(runs(group) && files.exists());
        // SAFETY: the group is the one that was started above.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        fs::remove_dir_all(files).unwrap();
    }

    #[tokio::test]
    async fn an_anvil_that_ends_is_reported_in_its_own_words() {
        let (_directory, path) = program("echo 'Error: Address already in use'; exit 1");
        let error = Node::start(&path, &[]).await.unwrap_err();
        assert_eq!(error.code(), Code::DevnetUnavailable);
        assert_eq!(error.to_string(), "anvil did not start: Error: Address already in use");

        let (_directory, path) = program("exit 1");
        let error = Node::start(&path, &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "anvil did not start: it said nothing");
    }
}
