//! The commands, a file each. A new one is a file, a variant of [`Command`] and its line in
//! [`Command::run`].

mod backup;
mod balance;
mod books;
mod call;
mod close;
mod completions;
mod dashboard;
mod devnet;
mod dispute;
mod doctor;
mod evidence;
mod inspect;
mod keeper;
mod keystore;
mod mint;
mod outcomes;
mod payments;
mod purchases;
mod reclaim;
mod refund;
mod report;
mod request;
mod settle;
mod spent;
mod store;
mod tx;
mod verify;

use std::io::{self, IsTerminal, Write};

use agirails::{Code, Error, Result, U256};
use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    failure::{self, INTERRUPTED},
    interrupt::interruptible,
    output::{Cell, Format},
};

/// The program's name.
pub const NAME: &str = "agirails";

/// Payments for services per call: the escrow protocol ACTP.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, disable_help_subcommand = true,
    after_help = "`agirails COMMAND --help` says what a command does, with an example.\n\
        Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 outcome unknown, 130 interrupted.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Call(call::Call),
    Inspect(inspect::Inspect),
    Purchases(purchases::Purchases),
    Spent(spent::Spent),
    Reclaim(reclaim::Reclaim),
    Close(close::Close),
    Dispute(dispute::Dispute),
    Balance(balance::Balance),
    Tx(tx::Tx),
    Settle(settle::Settle),
    #[command(name = "keeper")]
    Keep(keeper::Keep),
    Payments(payments::Payments),
    Report(report::Report),
    Refund(refund::Refund),
    Dashboard(dashboard::Dashboard),
    Evidence(evidence::Evidence),
    Verify(verify::Verify),
    Mint(mint::Mint),
    Doctor(doctor::Doctor),
    Keystore(keystore::Keystore),
    Backup(backup::Backup),
    Store(store::Store),
    Devnet(devnet::Devnet),
    Completions(completions::Completions),
}

/// The whole command line.
pub fn parser() -> clap::Command {
    // Without a command it is wrong usage, and says so instead of explaining everything.
    Cli::command().bin_name(NAME).arg_required_else_help(false)
}

impl Command {
    /// How its result, and its error, are written.
    pub fn format(&self) -> Format {
        match self {
            Self::Call(command) => command.format(),
            Self::Inspect(command) => command.format,
            Self::Purchases(command) => command.format,
            Self::Spent(command) => command.format,
            Self::Reclaim(command) => command.format,
            Self::Close(command) => command.format,
            Self::Dispute(command) => command.format,
            Self::Balance(command) => command.format,
            Self::Tx(command) => command.format(),
            Self::Settle(command) => command.format,
            Self::Keep(command) => command.format(),
            Self::Payments(command) => command.format,
            Self::Report(command) => command.format,
            Self::Refund(command) => command.format,
            Self::Dashboard(command) => Format { json: command.json, csv: false },
            Self::Evidence(command) => command.format,
            Self::Verify(command) => command.format,
            Self::Mint(command) => command.format,
            Self::Doctor(command) => command.format,
            Self::Store(command) => command.format(),
            Self::Keystore(_) | Self::Backup(_) | Self::Devnet(_) | Self::Completions(_) => {
                Format::default()
            }
        }
    }

    /// Runs it, and returns the exit status of the process.
    pub async fn run(self) -> u8 {
        let format = self.format();
        let outcome = match self {
            // They end in order on Ctrl-C.
            Self::Devnet(command) => command.run().await,
            Self::Keep(command) => command.run().await,
            Self::Dashboard(command) => command.run().await,
            Self::Call(command) => until_interrupted(command.run()).await,
            Self::Inspect(command) => until_interrupted(command.run()).await,
            Self::Purchases(command) => until_interrupted(command.run()).await,
            Self::Spent(command) => until_interrupted(command.run()).await,
            Self::Reclaim(command) => until_interrupted(command.run()).await,
            Self::Close(command) => until_interrupted(command.run()).await,
            Self::Dispute(command) => until_interrupted(command.run()).await,
            Self::Balance(command) => until_interrupted(command.run()).await,
            Self::Tx(command) => until_interrupted(command.run()).await,
            Self::Settle(command) => until_interrupted(command.run()).await,
            Self::Payments(command) => until_interrupted(command.run()).await,
            Self::Report(command) => until_interrupted(command.run()).await,
            Self::Refund(command) => until_interrupted(command.run()).await,
            Self::Evidence(command) => until_interrupted(command.run()).await,
            Self::Verify(command) => until_interrupted(command.run()).await,
            Self::Mint(command) => until_interrupted(command.run()).await,
            Self::Doctor(command) => until_interrupted(command.run()).await,
            Self::Keystore(command) => until_interrupted(command.run()).await,
            Self::Backup(command) => until_interrupted(command.run()).await,
            Self::Store(command) => until_interrupted(command.run()).await,
            Self::Completions(command) => command.run(),
        };
        outcome.unwrap_or_else(|error| failure::tell(&error, format))
    }
}

/// Ctrl-C ends it at once.
async fn until_interrupted(work: impl Future<Output = Result<u8>>) -> Result<u8> {
    interruptible(work).await.unwrap_or_else(|| {
        let _ = writeln!(anstream::stderr());
        Ok(INTERRUPTED)
    })
}

/// What blocks, beside the task that looks for Ctrl-C.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(Code::Internal, format!("the command failed: {error}"))
            .with_hint("this is a mistake in agirails: please report it")
            .with_source(error))
    })
}

/// Asks on the terminal. `unasked` is what to do where nobody can be asked, `otherwise` how to agree.
async fn agreed(question: String, unasked: &str, otherwise: &str) -> Result<()> {
    let refused = |problem: &str, hint: &str| {
        Err(Error::new(Code::InvalidSettings, problem).with_hint(hint.to_owned()))
    };
    if !io::stdin().is_terminal() {
        return refused("nobody can be asked: the standard input is no terminal", unasked);
    }
    let said = aside(move || {
        let mut line = String::new();
        let asked = write!(io::stderr(), "{question}").and_then(|()| io::stderr().flush());
        // What cannot be asked is not agreed to.
        let read = asked.and_then(|()| io::stdin().read_line(&mut line));
        Ok(read.map(|_| line).unwrap_or_default())
    });
    match said.await?.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => refused("it was not agreed to", otherwise),
    }
}

/// Wei, as ETH for people.
fn gas_money(wei: U256) -> Cell {
    let unit = U256::from(10_u64.pow(18));
    let (whole, rest) = (wei / unit, (wei % unit).to_string());
    let decimals = format!("{rest:0>18}");
    let shown = decimals.trim_end_matches('0').len().max(2);
    // More digits than JSON's readers keep.
    Cell::both(format!("{whole}.{} ETH", &decimals[..shown]), wei.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gas_money_is_exact() {
        for (wei, shown) in [
            (0, "0.00 ETH"),
            (1, "0.000000000000000001 ETH"),
            (10_000 * 10_u128.pow(18), "10000.00 ETH"),
            (1_500_000_000_000_000_000, "1.50 ETH"),
        ] {
            assert_eq!(gas_money(U256::from(wei)).shown(), shown);
        }
    }
}
