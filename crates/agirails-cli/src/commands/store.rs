use std::env;

use agirails::{
    Code, Error, Result,
    paywall::{StorePlace, copy_store},
};
use clap::Subcommand;

use super::books::STORE_VARIABLE;
use crate::{
    connection::Connection,
    failure::DONE,
    output::{Bar, Cell, Column, Format, Table, figures, words},
};

const COLUMNS: &[Column] = &[
    words("table", "table"),
    figures("rows", "rows"),
    words("sums", "sums, the same on both sides"),
];

/// Look after a paywall's store.
#[derive(Debug, clap::Args)]
pub struct Store {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Copy(CopyStore),
}

impl Store {
    pub fn format(&self) -> Format {
        let Verb::Copy(command) = &self.command;
        command.format
    }

    pub async fn run(self) -> Result<u8> {
        let Verb::Copy(command) = self.command;
        command.run().await
    }
}

/// Copy a paywall's store from a file into a PostgreSQL database, or back, and close the old one.
///
/// Everything goes along: open balances, kept answers and requests, the books, the counters and the
/// service's id. The service must stand still meanwhile.
#[derive(Debug, clap::Args)]
#[command(
    name = "copy",
    after_help = "It is refused beside a service that runs, and into a store that is not empty. It is one \
    transaction on the new store: ended in the middle, it leaves nothing there. At the end rows and sums of \
    both are compared and printed. A service refuses to open the old store from then on, since its balances \
    could be spent twice; it can be deleted once the new one serves.\n\n\
    Other users can read a command line. Where a URL has a password, set AGIRAILS_STORE to the URL and write \
    AGIRAILS_STORE in its place.\n\n\
    Example:\n  agirails store copy sqlite:/srv/app AGIRAILS_STORE --mode testnet"
)]
struct CopyStore {
    /// The store: sqlite:DIRECTORY, the state directory of the service; postgresql://…; or AGIRAILS_STORE
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to, in the same way
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

impl CopyStore {
    async fn run(self) -> Result<u8> {
        let (from, to) = (place(&self.from)?, place(&self.to)?);
        let client = self.connection.client_of_existing().await?;
        let mut bar = Bar::new("copying");
        let copied = copy_store(&client, &from, &to, |done, all| bar.show(done, all)).await;
        drop(bar);
        let mut table = Table::new(COLUMNS);
        for copied in copied? {
            let sums = copied.sums.iter().map(|(name, sum)| format!("{name} {sum}"));
            table.row(vec![
                Cell::text(copied.name),
                Cell::number(copied.rows),
                Cell::text(sums.collect::<Vec<_>>().join(", ")),
            ]);
        }
        table.print(self.format, "nothing was there")?;
        Ok(DONE)
    }
}

fn place(text: &str) -> Result<StorePlace> {
    if text != STORE_VARIABLE {
        return text.parse();
    }
    let url = env::var(STORE_VARIABLE).ok().filter(|url| !url.is_empty());
    let unset = || {
        Error::new(Code::InvalidSettings, format!("{STORE_VARIABLE} is not set"))
            .with_hint("set it to postgresql://user:password@host/database")
    };
    url.ok_or_else(unset)?.parse()
}
