use agirails::{Address, Result};

use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Format, Record},
    parse,
};

/// Show what was put into escrow within the last hour and the last day.
///
/// What came back counts no longer. A bundle counts in full when it is bought; what calls took of it, and
/// what is left in escrow, stand beside it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agirails spent --provider 0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
)]
pub struct Spent {
    /// Show this provider's share too
    #[arg(long, value_name = "ADDRESS", value_parser = parse::address)]
    provider: Option<Address>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Spent {
    pub async fn run(self) -> Result<u8> {
        let consumer = self.connection.consumer_of_existing().await?;
        let spent = consumer.spent(self.provider).await?;
        let mut record = Record::new().with("hour", "last hour", Cell::usdc(spent.hour)).with(
            "day",
            "last day",
            Cell::usdc(spent.day),
        );
        if self.provider.is_some() {
            record = record.with("provider", "of it, this provider", Cell::usdc(spent.provider));
        }
        record
            .with("used", "calls took, last day", Cell::usdc(spent.used))
            .with("locked", "in escrow, not used", Cell::usdc(spent.locked))
            .print(self.format)?;
        Ok(DONE)
    }
}
