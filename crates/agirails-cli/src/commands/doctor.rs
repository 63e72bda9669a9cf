use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use agirails::{
    Address, ClientBuilder, Error, KeyEnvironment, KeySources, Mode, NetworkProfile, Result,
    Storage, U256, Usdc,
    kernel::{
        Kernel,
        chain::{ChainKernel, ChainSettings},
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    resolve_key,
};

use crate::{
    connection::Connection,
    failure::{DONE, FAILED},
    output::{Cell, Column, ERROR, Format, OK, Progress, Table, WARNING, print, time, words},
};

const COLUMNS: &[Column] = &[
    words("status", "status"),
    words("check", "check"),
    words("found", "found"),
    words("remedy", "remedy"),
];

/// By so many seconds may two clocks differ: blocks come late.
const CLOCKS_DIFFER: u64 = 60;
/// Beyond so many seconds no deadline is signed.
const CLOCKS_CONTRADICT: u64 = 3_600;
/// Below 0.0001 ETH a day's calls may not be paid for.
const LITTLE_GAS: u64 = 100_000_000_000_000;
/// What nobody has who approves what a payment takes.
const MUCH_ALLOWED: Usdc = Usdc(1_000_000_000_000);

/// Check this installation: network, nodes, key, money, clock and state directory.
///
/// Each line is `ok`, `warning` or `problem`, with what to do. With a problem the exit status is 1.
/// Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agirails doctor --mode testnet")]
pub struct Doctor {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    Warning,
    Problem,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

struct Finding {
    status: Status,
    check: &'static str,
    found: String,
    remedy: Option<String>,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Finding { status: Status::Ok, check, found: found.into(), remedy: None });
    }

    fn warning(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Status::Warning, check, found, remedy);
    }

    fn problem(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Status::Problem, check, found, remedy);
    }

    fn error(&mut self, check: &'static str, error: &Error) {
        let remedy = error.hint().map(str::to_owned);
        let found = error.to_string();
        self.0.push(Finding { status: Status::Problem, check, found, remedy });
    }

    fn add(
        &mut self,
        status: Status,
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding { status, check, found: found.into(), remedy: Some(remedy.into()) });
    }

    fn print(&self, format: Format) -> Result<()> {
        if format != Format::default() {
            let mut table = Table::new(COLUMNS);
            for Finding { status, check, found, remedy } in &self.0 {
                table.row(vec![
                    Cell::text(status.word()),
                    Cell::text(check),
                    Cell::text(found),
                    remedy.as_ref().map(Cell::text).into(),
                ]);
            }
            return table.print(format, "");
        }
        let width = self.0.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
        let mut text = String::new();
        for Finding { status, check, found, remedy } in &self.0 {
            let style = match status {
                Status::Ok => OK,
                Status::Warning => WARNING,
                Status::Problem => ERROR,
            };
            let (word, found) = (status.word(), Cell::text(found));
            text += &format!("{style}{word:7}{style:#}  {check:width$}  {}\n", found.shown());
            if let Some(remedy) = remedy {
                text += &format!("{:7}  {:width$}  → {remedy}\n", "", "");
            }
        }
        print(&text)
    }
}

impl Doctor {
    pub async fn run(self) -> Result<u8> {
        let progress = Progress::show("checking");
        let mut findings = Findings::default();
        self.check(&mut findings).await;
        drop(progress);
        findings.print(self.format)?;
        let is_ill = findings.0.iter().any(|finding| finding.status == Status::Problem);
        Ok(if is_ill { FAILED } else { DONE })
    }

    async fn check(&self, findings: &mut Findings) {
        let settings = self.connection.builder().and_then(|builder| {
            let profile = builder.profile()?;
            Ok((builder, profile, self.connection.mode()?))
        });
        let (builder, profile, mode) = match settings {
            Ok(settings) => settings,
            Err(error) => return findings.error("settings", &error),
        };
        let directory = builder.directory();
        check_state(findings, &directory);
        let kernel = match &profile {
            None => check_ledger(findings, &directory).await,
            Some(profile) => check_chain(findings, profile).await,
        };
        let is_mainnet =
            kernel.as_ref().map_or(mode == Mode::Mainnet, |kernel| kernel.network().is_mainnet());
        let policy = if is_mainnet { Mode::Mainnet } else { mode };
        let owner = self.check_key(findings, policy, &builder).await;
        if let (Some(kernel), Some((owner, signs))) = (kernel, owner) {
            check_money(findings, &*kernel, owner, signs).await;
        }
    }

    /// For whom a client would act, and whether it has a key.
    async fn check_key(
        &self,
        findings: &mut Findings,
        policy: Mode,
        builder: &ClientBuilder,
    ) -> Option<(Address, bool)> {
        let address = self.connection.address;
        let is_mock = policy == Mode::Mock;
        // As a client does: mock looks for a key only where it must learn an address.
        if let (true, Some(address)) = (is_mock, address) {
            findings.ok("key", format!("none is needed in mode mock; acting for {address}"));
            return Some((address, true));
        }
        let sources = KeyEnvironment::read().map(|environment| KeySources {
            environment,
            state_directory: Some(builder.directory()),
            ..KeySources::default()
        });
        let found = match sources {
            Ok(sources) => resolve_key(policy, sources).await,
            Err(error) => Err(error),
        };
        match found {
            Err(error) => {
                findings.error("key", &error);
                None
            }
            Ok(Some(found)) => {
                let owner = found.key.address();
                if let Some(address) = address.filter(|address| *address != owner) {
                    findings.problem(
                        "key",
                        format!("{} belongs to {owner}, not to {address}", found.source),
                        "pass the key's own address, or set the key of this address",
                    );
                    return None;
                }
                match found.warning {
                    Some(warning) => {
                        findings.warning("key", format!("{owner}, from {}", found.source), warning)
                    }
                    None => findings.ok("key", format!("{owner}, from {}", found.source)),
                }
                Some((owner, true))
            }
            Ok(None) => {
                let remedy = match is_mock {
                    true => "pass --address: mode mock needs no key",
                    false => {
                        "to pay or settle, make a keystore with `agirails keystore` and set \
                         ACTP_KEY_PASSWORD; on testnet ACTP_PRIVATE_KEY does too"
                    }
                };
                findings.warning("key", "none was found, so commands only read", remedy);
                address.map(|address| (address, false))
            }
        }
    }
}

/// Whether others can read or write what is kept.
fn check_state(findings: &mut Findings, directory: &Path) {
    let state = directory.join(".actp");
    let shown = state.display();
    match state.metadata() {
        Err(_) => findings.ok("state directory", format!("{shown} is not made yet")),
        Ok(found) if !found.is_dir() => findings.problem(
            "state directory",
            format!("{shown} is no directory"),
            "name another one by --state-directory or ACTP_STATE_DIR",
        ),
        Ok(found) => match open_to_others(&found) {
            Some((status, problem)) => findings.add(
                status,
                "state directory",
                format!("{shown} {problem}"),
                format!("close it to others: chmod -R go-rwx {shown}"),
            ),
            None => findings.ok("state directory", shown.to_string()),
        },
    }
    let keystore = state.join("keystore.json");
    if let Ok(found) = keystore.metadata()
        && let Some((status, problem)) = open_to_others(&found)
    {
        let shown = keystore.display();
        let remedy = format!("close it to others: chmod 600 {shown}");
        findings.add(status, "keystore", format!("{shown} {problem}"), remedy);
    }
}

#[cfg(unix)]
fn open_to_others(found: &std::fs::Metadata) -> Option<(Status, String)> {
    use std::os::unix::fs::PermissionsExt;
    let mode = found.permissions().mode() & 0o7777;
    match mode {
        _ if mode & 0o022 != 0 => {
            Some((Status::Problem, format!("can be written by others (mode {mode:04o})")))
        }
        _ if mode & 0o044 != 0 => {
            Some((Status::Warning, format!("can be read by others (mode {mode:04o})")))
        }
        _ => None,
    }
}

/// Other systems' permissions are not looked at.
#[cfg(not(unix))]
fn open_to_others(_found: &std::fs::Metadata) -> Option<(Status, String)> {
    None
}

async fn check_ledger(findings: &mut Findings, directory: &Path) -> Option<Arc<dyn Kernel>> {
    findings.ok("network", "mock: a file on this machine, no chain");
    let file = directory.join(".actp").join("kernel.sqlite3");
    if !file.exists() {
        findings.warning(
            "ledger",
            format!("{} is not there", file.display()),
            "the first client makes it; programs that pay each other need the same ACTP_STATE_DIR",
        );
        return None;
    }
    let storage = Storage::Directory(directory.to_owned());
    match EmbeddedKernel::open(EmbeddedOptions::new(storage)).await {
        Ok(kernel) => {
            findings.ok("ledger", format!("{}, {}", kernel.ledger_id(), file.display()));
            Some(Arc::new(kernel))
        }
        Err(error) => {
            findings.error("ledger", &error);
            None
        }
    }
}

/// Each node by itself, then what they say together.
async fn check_chain(findings: &mut Findings, profile: &NetworkProfile) -> Option<Arc<dyn Kernel>> {
    let NetworkProfile { name, chain_id, .. } = profile;
    findings.ok("network", format!("{name}, chain {chain_id}"));
    let mut kernels: Vec<(String, ChainKernel, u64)> = vec![];
    let mut failures = vec![];
    let mut nodes = 0;
    for (url, shown) in profile.rpc_urls.iter().zip(profile.shown_urls()) {
        // They bring nothing but news of blocks.
        if url.starts_with("ws") {
            continue;
        }
        nodes += 1;
        let rpc_urls = vec![url.clone()];
        let alone = NetworkProfile { rpc_urls, agree: None, ..profile.clone() };
        match ask(alone).await {
            Ok((kernel, now)) => kernels.push((shown, kernel, now)),
            Err(error) => failures.push((shown, error)),
        }
    }
    for (shown, kernel, now) in &kernels {
        let kernel = kernel.network().kernel;
        findings.ok("node", format!("{shown} answers: kernel {kernel}, clock {}", time(*now)));
    }
    for (shown, error) in &failures {
        let status = if kernels.is_empty() { Status::Problem } else { Status::Warning };
        let remedy = error.hint().unwrap_or("name another node by --rpc-url");
        findings.add(status, "node", format!("{shown}: {error}"), remedy);
    }
    if nodes == 0 {
        let remedy = "name its http:// or https:// URL by --rpc-url, or in the profile";
        findings.problem("node", "no node is named that takes requests", remedy);
    }
    check_agreement(findings, profile, &kernels);
    let (_, kernel, now) = kernels.into_iter().next()?;
    check_clock(findings, &kernel, now);
    let network = kernel.network();
    let generation = network.terms.generation();
    findings.ok(
        "generation",
        match network.terms.recovery_grace_seconds() {
            None => format!("the kernel is {generation}"),
            Some(grace) => format!("the kernel is {generation}, its grace {grace} s"),
        },
    );
    if network.kernel == NetworkProfile::testnet().contracts.actp_kernel {
        findings.ok(
            "generation",
            "newer kernels stand on this chain: base-sepolia-f6 and base-sepolia-aip14c; the second \
             is to come to mainnet",
        );
    }
    if kernel.warnings().is_empty() {
        findings.ok("contracts", "the kernel is not paused, and it approves the vault");
    }
    for warning in kernel.warnings() {
        let remedy = "wait until the protocol's operators resume it; nothing new can be paid now";
        findings.problem("contracts", warning, remedy);
    }
    Some(Arc::new(kernel))
}

async fn ask(profile: NetworkProfile) -> Result<(ChainKernel, u64)> {
    let mut settings = ChainSettings::new(profile);
    settings.storage = Storage::Memory;
    settings.agree = Some(1);
    let kernel = ChainKernel::connect(settings).await?;
    let now = kernel.now().await?;
    Ok((kernel, now))
}

fn check_agreement(
    findings: &mut Findings,
    profile: &NetworkProfile,
    kernels: &[(String, ChainKernel, u64)],
) {
    let Some(((first, one, now), others)) = kernels.split_first() else { return };
    let mut agreed = true;
    for (shown, other, their_now) in others {
        let differs = match () {
            () if one.network() != other.network() => "the network's contracts",
            () if one.rates().platform_fee_bps != other.rates().platform_fee_bps => "the fee",
            () if now.abs_diff(*their_now) > CLOCKS_DIFFER => "the chain's time",
            () => continue,
        };
        agreed = false;
        findings.problem(
            "agreement",
            format!("{first} and {shown} disagree about {differs}"),
            "one of them lags or lies: leave it out of the URLs, and name another one",
        );
    }
    let mut hosts: Vec<_> = kernels.iter().map(|(shown, ..)| shown.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    if hosts.len() < 2 && !one.network().has_test_money() {
        findings.warning(
            "agreement",
            "one node is the only witness of what is paid",
            "name three nodes that are run by different people, by BASE_MAINNET_RPC or rpcUrl",
        );
    } else if agreed {
        let agree = profile.agree.map(|count| format!("; agree is {count}")).unwrap_or_default();
        findings.ok("agreement", format!("{} node(s) say the same{agree}", kernels.len()));
    }
}

fn check_clock(findings: &mut Findings, kernel: &ChainKernel, now: u64) {
    let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let apart = own.abs_diff(now);
    let found = format!("this machine and the chain differ by {apart} s");
    let is_local = kernel.network().is_local();
    match apart {
        0..=CLOCKS_DIFFER => findings.ok("clock", found),
        _ if is_local => findings.warning(
            "clock",
            found,
            "a local chain's newest block may be old, and its clock can be moved",
        ),
        _ if apart <= CLOCKS_CONTRADICT => {
            findings.warning("clock", found, "synchronise this machine's clock (NTP)");
        }
        _ => findings.problem(
            "clock",
            found,
            "set this machine's clock, or name another node: beyond an hour nothing is paid",
        ),
    }
}

async fn check_money(findings: &mut Findings, kernel: &dyn Kernel, owner: Address, signs: bool) {
    let network = kernel.network();
    match kernel.gas_balance(owner).await {
        Ok(None) => {}
        Ok(Some(wei)) => check_gas(findings, network.is_mainnet(), owner, wei, signs),
        Err(error) => findings.error("gas money", &error),
    }
    match kernel.balance(owner).await {
        Ok(Usdc::ZERO) => findings.warning(
            "USDC",
            format!("{owner} owns none"),
            match network.has_test_money() {
                true => "make some with `agirails mint 100`, with the same options; to be paid, none is needed",
                false => "send USDC of this chain to it; to be paid, none is needed",
            },
        ),
        Ok(balance) => findings.ok("USDC", format!("{owner} owns {balance}")),
        Err(error) => findings.error("USDC", &error),
    }
    match kernel.allowance(owner).await {
        Ok(allowed) if allowed > MUCH_ALLOWED => findings.warning(
            "allowance",
            format!("the vault may take {allowed} USDC"),
            "this SDK approves what each payment takes, and no more: approve 0 in your wallet",
        ),
        Ok(allowed) => findings.ok("allowance", format!("the vault may take {allowed} USDC")),
        Err(error) => findings.error("allowance", &error),
    }
}

fn check_gas(findings: &mut Findings, is_mainnet: bool, owner: Address, wei: U256, signs: bool) {
    let has = format!("{owner} has {}", super::gas_money(wei).shown());
    let remedy = match is_mainnet {
        true => "send some ETH on Base to it: each payment takes gas",
        false => {
            "get test ETH for Base Sepolia from a faucet (docs.base.org lists them); on a devnet use \
             one of its accounts"
        }
    };
    match wei {
        _ if wei.is_zero() && signs => findings.problem("gas money", has, remedy),
        _ if wei < U256::from(LITTLE_GAS) => findings.warning("gas money", has, remedy),
        _ => findings.ok("gas money", has),
    }
}
