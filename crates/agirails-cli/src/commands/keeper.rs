use std::{
    convert::Infallible,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agirails::{
    Address, Code, Error, Result, SettlementLimits, Usdc,
    keeper::{Event, Keeper, Report},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    connection::Connection,
    failure::{DONE, FAILED, INTERRUPTED, warn},
    interrupt::{End, asked_to_end, interruptible},
    output::{Format, print, time},
    parse,
};

/// How often the metrics are written while it runs.
const METRICS_PERIOD: Duration = Duration::from_secs(10);

/// Settle what was delivered, for all providers or for some, until it is stopped.
///
/// Once the dispute window of a delivery is over, anybody may settle it, which pays its provider. With --recover
/// it also returns the money of abandoned work to whoever paid. The keeper's key pays the gas and needs nothing
/// else. It prints a line for each thing that it did.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It ends on Ctrl-C (exit status 130) and SIGTERM (0), once what it has sent is settled or on \
    record; the next one goes on. With --once the exit status is 1 where something failed; the next round \
    tries it again.\n\n\
    Examples:\n  agirails keeper --provider 0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045 --mode testnet\n  \
    agirails keeper --once --dry-run --address 0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045 --mode testnet"
)]
pub struct Keep {
    /// Care for this provider's transactions only; repeat it for more. All providers where it is left out
    #[arg(long = "provider", value_name = "ADDRESS", value_parser = parse::address)]
    providers: Vec<Address>,
    /// Also return the money of work that was begun and not delivered until the deadline and the kernel's grace
    /// had passed. Kernels before F-6 do not allow it
    #[arg(long)]
    recover: bool,
    /// The least that must arrive, after the protocol's fee: 0.01 where moves cost gas
    #[arg(long, value_name = "USDC", value_parser = parse::usdc)]
    min_net: Option<Usdc>,
    /// What one coin of the chain costs, 1 ETH on Base: then nothing is sent whose gas costs more than it
    /// brings
    #[arg(long, value_name = "USDC", value_parser = parse::usdc)]
    coin_price: Option<Usdc>,
    /// Begin with this block of the chain, where no earlier keeper was: the kernel's first where it is left out
    #[arg(long, value_name = "N")]
    from_block: Option<u64>,
    /// Say what would be sent. It sends nothing and needs no key
    #[arg(long)]
    dry_run: bool,
    /// Do one round and end
    #[arg(long)]
    once: bool,
    /// Write the metrics into this file, as Prometheus' textfile collector reads them: every ten seconds,
    /// and at the end
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    /// Print a JSON object a line; amounts are base units of USDC, times Unix seconds
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Keep {
    pub fn format(&self) -> Format {
        Format { json: self.json, csv: false }
    }

    pub async fn run(self) -> Result<u8> {
        let Some(opened) = interruptible(self.open()).await else { return Ok(INTERRUPTED) };
        let keeper = opened?;
        // A file that cannot be written is said before anything is done.
        self.write_metrics(&keeper).await?;
        if self.once {
            let Some(turned) = interruptible(keeper.turn()).await else { return Ok(INTERRUPTED) };
            let report = turned?;
            print(&self.summary(&report))?;
            self.write_metrics(&keeper).await?;
            return Ok(if report.failed > 0 { FAILED } else { DONE });
        }
        let stop = Arc::new(Notify::new());
        let (keeping, writing) = (keeper.run(stop.notified()), self.keep_metrics(&keeper));
        tokio::pin!(keeping, writing);
        let end = tokio::select! {
            outcome = &mut keeping => return outcome.map(|()| DONE),
            never = &mut writing => match never {},
            end = asked_to_end() => end,
        };
        stop.notify_one();
        keeping.await?;
        self.write_metrics(&keeper).await?;
        Ok(match end {
            End::Interrupted => INTERRUPTED,
            End::Terminated => DONE,
        })
    }

    async fn open(&self) -> Result<Keeper> {
        let client = self.connection.client_of_existing().await?;
        let limits = SettlementLimits { min_net: self.min_net, coin_price: self.coin_price };
        let format = self.format();
        let mut builder = Keeper::builder(client)
            .providers(self.providers.iter().copied())
            .limits(limits)
            .recover(self.recover)
            .dry_run(self.dry_run)
            .on_event(move |event| {
                // Nobody who reads it is no reason to stop settling.
                let _ = print(&line(event, format));
            });
        if let Some(block) = self.from_block {
            builder = builder.from_block(block);
        }
        builder.open().await
    }

    /// The last line of a single round.
    fn summary(&self, report: &Report) -> String {
        if self.json {
            let mut fields = serde_json::to_value(report).unwrap_or_default();
            fields["event"] = json!("round");
            return format!("{fields}\n");
        }
        let would = if report.is_dry_run { "would be " } else { "" };
        let mut text = format!("{} {would}settled, ", report.settled.len());
        if self.recover {
            text += &format!("{} {would}recovered, ", report.recovered.len());
        }
        text += &format!(
            "{} failed, {} waiting, {} not worth their gas, {} disputed",
            report.failed, report.waiting, report.unprofitable, report.disputed
        );
        if !self.recover && report.stalled > 0 {
            text += &format!(", {} abandoned (--recover returns their money)", report.stalled);
        }
        if let Some(due) = report.next_due_at {
            text += &format!("; the next is due at {}", time(due));
        }
        text + "\n"
    }

    /// Writes the metrics now and then. Without a file it only waits.
    async fn keep_metrics(&self, keeper: &Keeper) -> Infallible {
        if self.metrics_file.is_none() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(METRICS_PERIOD).await;
            if let Err(error) = self.write_metrics(keeper).await {
                warn(&error.to_string());
            }
        }
    }

    /// In place of the old file at once: whoever reads it sees one or the other.
    async fn write_metrics(&self, keeper: &Keeper) -> Result<()> {
        let Some(path) = self.metrics_file.clone() else { return Ok(()) };
        let text = keeper.metrics().await?.to_prometheus();
        super::aside(move || replace(&path, &text).map_err(|error| unwritable(&path, &error))).await
    }
}

/// What happened, as a line.
pub fn line(event: &Event, format: Format) -> String {
    if format.json {
        let fields = serde_json::to_value(event).unwrap_or_default();
        return format!("{fields}\n");
    }
    // A message of a node may have more lines than one.
    let text = event.to_string();
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text + "\n"
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = OsString::from(path);
    // The collector reads names that end with .prom alone.
    fresh.push(format!(".{}.new", std::process::id()));
    let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // There may be none.
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    let message = format!("the metrics cannot be written to {}: {error}", path.display());
    Error::new(Code::InvalidSettings, message)
        .with_hint("name a file in a directory that exists and that this user may write")
}
