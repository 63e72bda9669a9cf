use std::{path::PathBuf, time::Duration};

use agirails::{Generation, Result};

const LONGEST_BLOCK_TIME: f64 = 3_600.0;

/// Run a local chain with the protocol's contracts on it, until Ctrl-C.
///
/// It listens on 127.0.0.1 only and forgets everything when it ends. Programs whose mode is "testnet"
/// use it where AGIRAILS_NETWORK names its profile, as the line that is printed says.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It runs anvil: the one that AGIRAILS_ANVIL names, else that on the PATH, else the \
    nearest that `npm install @foundry-rs/anvil` installed.\n\n\
    Example:\n  agirails devnet --port 8545 --profile network.json --accounts"
)]
pub struct Devnet {
    /// Where it listens: any free port where it is left out
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Seconds between blocks: a block for each transaction where it is left out
    #[arg(long, value_name = "S", value_parser = block_time)]
    block_time: Option<Duration>,
    /// Which generation of the kernel: 2026-05, f6 or aip14c
    #[arg(long, value_name = "NAME", default_value_t = Generation::default())]
    generation: Generation,
    /// The kernel's recoveryGrace in seconds, at least 3600: an hour where it is left out
    #[arg(long, value_name = "S")]
    recovery_grace: Option<u64>,
    /// Where to write the network's profile, which then stays: a temporary file where it is left out
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print the funded accounts and their private keys
    #[arg(long)]
    accounts: bool,
}

fn block_time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= LONGEST_BLOCK_TIME);
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| format!("must be a number of seconds above 0, at most {LONGEST_BLOCK_TIME}"))
}

#[cfg(all(unix, feature = "devnet"))]
mod chain {
    use std::path::{self, Path};

    use agirails::{Code, Error, NETWORK_VARIABLE, Result};
    use tempfile::TempDir;
    use tokio::{
        select,
        signal::unix::{SignalKind, signal},
    };

    use super::Devnet;
    use crate::{
        failure::{DONE, INTERRUPTED},
        interrupt::interruptible,
        output::{Progress, print},
    };

    /// How often it is looked whether the chain is still there.
    const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

    impl Devnet {
        pub async fn run(self) -> Result<u8> {
            let progress = Progress::show("starting anvil");
            let mut builder =
                agirails_devnet::Devnet::builder().port(self.port).generation(self.generation);
            if let Some(seconds) = self.recovery_grace {
                builder = builder.recovery_grace(seconds);
            }
            if let Some(interval) = self.block_time {
                builder = builder.block_time(interval);
            }
            let Some(started) = interruptible(builder.start()).await else {
                return Ok(INTERRUPTED);
            };
            let chain = started?;
            drop(progress);
            // It goes with the command.
            let mut temporary: Option<TempDir> = None;
            let profile = match &self.profile {
                Some(path) => path::absolute(path).unwrap_or_else(|_| path.clone()),
                None => {
                    let directory = tempfile::Builder::new().prefix("agirails-devnet-").tempdir();
                    let directory = directory.map_err(|error| unusable(&error))?;
                    temporary.insert(directory).path().join("network.json")
                }
            };
            chain.write_profile(&profile)?;
            let mut ends = vec![];
            for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
                ends.push(signal(kind).map_err(|error| unusable(&error))?);
            }
            print(&self.greeting(&chain, &profile))?;
            let [interrupt, terminate, hangup] = &mut ends[..] else { return Ok(DONE) };
            loop {
                select! {
                    _ = interrupt.recv() => return Ok(DONE),
                    _ = terminate.recv() => return Ok(DONE),
                    _ = hangup.recv() => return Ok(DONE),
                    () = tokio::time::sleep(LOOK) => {
                        // Fails once the chain is gone.
                        chain.now().await?;
                    }
                }
            }
        }

        fn greeting(&self, chain: &agirails_devnet::Devnet, profile: &Path) -> String {
            let mut text = format!("chain {} at {}\n", chain.chain_id(), chain.rpc_url());
            if self.accounts {
                text += "Anyone knows these keys. Each owns 10_000 ETH and 1_000_000 USDC, here only:\n";
                for account in chain.accounts() {
                    text += &format!("{}  {}\n", account.address, account.secret());
                }
                let admin = chain.admin();
                text += &format!("{}  {}  (admin, no USDC)\n", admin.address, admin.secret());
            }
            // The last line: whoever waits for it finds everything there.
            let profile = profile.to_string_lossy();
            let quoted = shlex::try_quote(&profile).unwrap_or(std::borrow::Cow::Borrowed(&profile));
            text + &format!("export {NETWORK_VARIABLE}={quoted}\n")
        }
    }

    fn unusable(error: &std::io::Error) -> Error {
        Error::new(Code::DevnetUnavailable, format!("the devnet cannot be run: {error}"))
            .with_hint("a directory for temporary files is needed")
    }
}

#[cfg(not(all(unix, feature = "devnet")))]
impl Devnet {
    pub async fn run(self) -> Result<u8> {
        let Self { port, block_time, generation, recovery_grace, profile, accounts } = self;
        let _ = (port, block_time, generation, recovery_grace, profile, accounts);
        Err(agirails::Error::new(
            agirails::Code::DevnetUnavailable,
            "this build of agirails brings no devnet",
        )
        .with_hint("it runs on Linux and macOS; on Windows use WSL"))
    }
}
