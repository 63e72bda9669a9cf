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

/// How long anvil may take until it listens; it takes a tenth of a second on an idle machine.
const START: Duration = Duration::from_secs(20);

/// Starts anvil and ends it once this shell's parent is no longer the owner. The parent changes the
/// moment the owner is dead, however it died: nobody needs to have reaped it, its number can be in
/// use again, and children that it forked, which hold all its pipes open, change nothing. A
/// `PR_SET_PDEATHSIG` would fire with the *thread* that started anvil.
const SUPERVISOR: &str = r#"
owner=$1 directory=$2
shift 2
"$@" </dev/null >"$directory/log" 2>&1 &
node=$!
find_parent() {
    if [ -r "/proc/$$/stat" ]; then
        read -r _ _ _ parent _ <"/proc/$$/stat"
    else
        parent=$(ps -o ppid= -p $$ | tr -d ' ')
    fi
}
find_parent
while [ "$parent" = "$owner" ]; do
    kill -0 "$node" 2>/dev/null || { wait "$node"; exit $?; }
    sleep 1
    find_parent
done
kill -9 "$node"
rm -rf "$directory"
kill -9 0
"#;

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
        if let Ok(group) = i32::try_from(self.supervisor.id()) {
            // SAFETY: passes two numbers. The group is ours: its leader is not waited for yet, so
            // its number cannot belong to anybody else.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        // Nothing is left to be done about a failure.
        let _ = self.supervisor.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Anvil's own last words, without the keys that it prints when all is well.
fn silent(what: &str, log: &str) -> Error {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    let words = if last.is_empty() { "it said nothing".to_owned() } else { last };
    Error::new(Code::DevnetUnavailable, format!("{what}: {words}"))
        .with_hint("anvil 1.5 or later is needed, and a free port")
}
