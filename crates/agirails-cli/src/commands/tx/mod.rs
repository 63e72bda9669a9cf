mod list;
mod next;
mod show;

use agirails::{Result, TransactionId};
use clap::Subcommand;

pub use self::next::next;
use crate::{connection::Connection, output::Format, parse};

/// Show a transaction, or list a party's.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  agirails tx 0x5f16… --mode testnet\n  agirails tx list --role provider --state DELIVERED"
)]
pub struct Tx {
    #[command(subcommand)]
    command: Option<Verb>,
    /// The transaction
    #[arg(value_name = "ID", required = true, value_parser = parse::transaction_id)]
    id: Option<TransactionId>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::List),
}

impl Tx {
    pub fn format(&self) -> Format {
        match &self.command {
            Some(Verb::List(command)) => command.format,
            None => self.format,
        }
    }

    pub async fn run(self) -> Result<u8> {
        match self.command {
            Some(Verb::List(command)) => command.run().await,
            // The parser asks for it where there is no other command.
            None => show::run(self.id.unwrap_or_default(), &self.connection, self.format).await,
        }
    }
}
