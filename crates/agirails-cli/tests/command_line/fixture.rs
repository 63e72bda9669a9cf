//! A directory with a ledger, a service behind a paywall, and the program in it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use agirails::{
    ACTPClient, Address, CreateTransaction, Evidence, PrivateKey, State, TransactionId, Usdc,
    paywall::{Charge, Paywall, PaywallLayer},
};
use axum::{Router, routing::post};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

pub const PAYER: &str = "0xc0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
pub const HOUR: u64 = 3_600;

/// A published test key: never fund it.
pub fn key(number: u64) -> PrivateKey {
    secret(number).parse().unwrap()
}

pub fn secret(number: u64) -> String {
    format!("{number:064x}")
}

/// What the program printed, and how it ended.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// The output as JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The lines behind `error:` and `hint:`.
    pub fn told(&self, status: i32) -> (String, String) {
        assert_eq!(self.status, status, "{self:?}");
        let line = |word: &str| {
            let line = self.err.lines().find_map(|line| line.strip_prefix(word));
            line.unwrap_or_else(|| panic!("no {word} {self:?}")).trim().to_owned()
        };
        (line("error:"), line("hint:"))
    }
}

/// A state directory, and whoever lives in it.
pub struct Fixture {
    pub directory: TempDir,
    pub runtime: Runtime,
}

impl Fixture {
    /// Without a ledger.
    pub fn empty() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self { directory: tempfile::tempdir().unwrap(), runtime }
    }

    /// With the payer's ledger.
    pub fn new() -> Self {
        let fixture = Self::empty();
        fixture.client(PAYER.parse().unwrap());
        fixture
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn client(&self, address: Address) -> ACTPClient {
        let builder = ACTPClient::builder().address(address).state_directory(self.path());
        self.runtime.block_on(builder.connect()).unwrap()
    }

    pub fn payer(&self) -> ACTPClient {
        self.client(PAYER.parse().unwrap())
    }

    pub fn provider(&self) -> ACTPClient {
        self.client(Address::repeat_byte(0xfe))
    }

    /// A transaction of the payer in this state: INITIATED, COMMITTED or DELIVERED.
    pub fn transaction(&self, amount: u64, state: State) -> TransactionId {
        let (payer, provider) = (self.payer(), self.provider());
        self.runtime.block_on(async {
            let deadline = payer.now().await.unwrap() + HOUR;
            let (from, to) = (payer.address(), provider.address());
            let request = CreateTransaction::new(from, to, Usdc(amount), deadline);
            let id = payer.create_transaction(&request).await.unwrap();
            if state != State::Initiated {
                payer.link_escrow(id).await.unwrap();
            }
            if state == State::Delivered {
                for to in [State::InProgress, State::Delivered] {
                    provider.transition_state(id, to, Evidence::None).await.unwrap();
                }
            }
            id
        })
    }

    pub fn state(&self, id: TransactionId) -> State {
        self.runtime.block_on(self.payer().get_transaction(id)).unwrap().state
    }

    /// The client of the provider that [`Self::service`] is of.
    pub async fn provider_client(&self) -> ACTPClient {
        let builder = ACTPClient::builder().private_key(key(7)).state_directory(self.path());
        builder.connect().await.unwrap()
    }

    /// A service whose calls cost 0.10 USDC, served as long as the fixture lives; its origin.
    pub fn service(&self) -> String {
        self.service_at(0, None)
    }

    /// The same on this port, with its store in this database.
    pub fn service_at(&self, port: u16, database: Option<String>) -> String {
        self.runtime.block_on(async {
            let mut paywall = Paywall::builder(self.provider_client().await);
            if let Some(url) = database {
                paywall = paywall.database(url);
            }
            let paywall = paywall.open().await.unwrap();
            let charge = Charge::new("POST /api/generate", "0.10".parse().unwrap());
            let charge = paywall.charge(charge).unwrap();
            let paid = PaywallLayer::new(&paywall, &charge);
            let app = Router::new()
                .route(
                    "/api/generate",
                    post(|body: String| async move { format!("answer to {body}") })
                        .route_layer(paid),
                )
                .route("/free", post(|| async { "for nothing" }))
                .fallback_service(paywall.pages());
            let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            format!("http://{address}")
        })
    }

    /// With everything that runs ended, as a process ends that is killed.
    pub fn without_service(self) -> Self {
        let Self { directory, runtime } = self;
        runtime.shutdown_background();
        Self { directory, ..Self::empty() }
    }

    /// The program in this directory.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        self.run_with(arguments, "", &[])
    }

    /// The same as the payer.
    pub fn pay<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        let mut all: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        all.extend(["--address", PAYER].map(OsStr::new));
        self.run(&all)
    }

    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: &str,
        environment: &[(&str, &str)],
    ) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agirails"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::piped());
        for name in [
            "ACTP_MODE",
            "ACTP_STATE_DIR",
            "ACTP_PRIVATE_KEY",
            "ACTP_KEYSTORE_BASE64",
            "ACTP_KEY_PASSWORD",
            "AGIRAILS_NETWORK",
            "AGIRAILS_STORE",
            "BASE_SEPOLIA_RPC",
            "BASE_MAINNET_RPC",
        ] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Whoever needs no input may be gone by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        done(child.wait_with_output().unwrap())
    }

    /// Every file with its length and bytes: for what must change nothing.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(self.path(), &mut found);
        // SQLite's own, which reading changes.
        found.retain(|path, _| !path.to_string_lossy().ends_with("-shm"));
        found
    }
}

fn collect(directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), vec![]);
            collect(&path, found);
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

fn done(output: Output) -> Done {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap_or(-1);
    let done = Done { status, out: text(output.stdout), err: text(output.stderr) };
    assert!(!done.err.contains("panicked"), "{done:?}");
    assert!(!done.out.contains('\u{1b}') && !done.err.contains('\u{1b}'), "colours: {done:?}");
    done
}
