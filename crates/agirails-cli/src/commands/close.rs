use agirails::{Result, TransactionId};

use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Format, Progress, Record},
    parse,
};

/// End a balance: its service delivers now what was served, or gives the money back.
///
/// What is left of a balance from which calls were served goes to the provider.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agirails close 0x5f16… --mode testnet")]
pub struct Close {
    /// The balance's transaction
    #[arg(value_name = "ID", value_parser = parse::transaction_id)]
    id: TransactionId,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Close {
    pub async fn run(self) -> Result<u8> {
        let consumer = self.connection.consumer_of_existing().await?;
        let progress = Progress::show("closing");
        let stage = consumer.close(self.id).await?;
        drop(progress);
        Record::new()
            .with("transactionId", "transaction", Cell::text(self.id))
            .with("stage", "the service says", Cell::text(stage))
            .print(self.format)?;
        Ok(DONE)
    }
}
