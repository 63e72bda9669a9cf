//! PgBouncer before a server of ours: each transaction gets a session that others had before.

use std::{
    fs,
    net::TcpStream,
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    thread,
    time::Instant,
};

use agirails::{Code, Error, Result};

use super::{Postgres, ROLE, START, SUPERVISOR, User, failed, free_port, silent};
use crate::supervisor;

/// A running PgBouncer in transaction mode. Dropping it ends it.
#[derive(Debug)]
pub struct Pooler {
    directory: PathBuf,
    port: u16,
    supervisor: Child,
    owner: u32,
}

impl Postgres {
    /// Starts PgBouncer before this server, in transaction mode with so many sessions for each
    /// database. Its clients need no password.
    ///
    /// # Errors
    /// [`Code::DevnetUnavailable`] where PgBouncer is not installed, or does not start.
    pub fn pooler(&self, sessions: u32) -> Result<Pooler> {
        let directory = tempfile::Builder::new()
            .prefix("agirails-pooler-")
            .tempdir()
            .map_err(|error| failed("there is no directory for temporary files", error))?;
        let port = free_port()?;
        let settings = directory.path().join("pgbouncer.ini");
        let Self { password, port: server, .. } = self;
        fs::write(
            &settings,
            format!(
                "[databases]\n* = host=127.0.0.1 port={server} user={ROLE} password={password}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = any\npool_mode = transaction\ndefault_pool_size = {sessions}\n\
                 max_client_conn = 500\n"
            ),
        )
        .map_err(|error| failed("the pooler's settings cannot be written", error))?;
        if let Some(User { id, group }) = self.user {
            for path in [directory.path(), &settings] {
                chown(path, Some(id), Some(group))
                    .map_err(|error| failed("its directory cannot be given away", error))?;
            }
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "agirails-devnet", &process::id().to_string()])
            .arg(directory.path())
            .args(["pgbouncer", "pgbouncer.ini"])
            .process_group(0);
        let path = std::env::var("PATH").unwrap_or_default();
        let spawned = self
            .as_user(&mut command)
            .current_dir(directory.path())
            .env("PATH", format!("{path}:/usr/sbin"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let supervisor =
            spawned.map_err(|error| failed("its supervisor cannot be started", error))?;
        // From here on dropping it cleans up.
        let (directory, owner) = (directory.keep(), process::id());
        let mut pooler = Pooler { directory, port, supervisor, owner };
        pooler.wait()?;
        Ok(pooler)
    }
}

impl Pooler {
    /// How clients connect to this database of the server.
    pub fn database_url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    fn wait(&mut self) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = !matches!(self.supervisor.try_wait(), Ok(None));
            if ended || started.elapsed() > START {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                return Err(match log.contains("not found") {
                    true => Error::new(Code::DevnetUnavailable, "PgBouncer is not installed")
                        .with_hint("install it (Debian: apt-get install pgbouncer)"),
                    false => silent("pgbouncer does not start", &log),
                });
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // A forked child has a copy of this, and no right to end what its parent uses.
        if process::id() != self.owner {
            return;
        }
        supervisor::end(&mut self.supervisor);
        let _ = fs::remove_dir_all(&self.directory);
    }
}
