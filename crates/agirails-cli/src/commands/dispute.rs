use agirails::{Code, Error, Result, TransactionId, Usdc};

use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Format, Progress, Record},
    parse,
};

/// Dispute a delivery within its window. It takes a bond.
///
/// The bond falls to the provider unless the resolver finds the provider at fault.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --max-bond it says what the bond is, and does nothing.\n\n\
    Example:\n  agirails dispute 0x5f16… --max-bond 1.00 --mode testnet")]
pub struct Dispute {
    /// The transaction
    #[arg(value_name = "ID", value_parser = parse::transaction_id)]
    id: TransactionId,
    /// The greatest bond to pay
    #[arg(long, value_name = "USDC", value_parser = parse::usdc)]
    max_bond: Option<Usdc>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Dispute {
    pub async fn run(self) -> Result<u8> {
        let consumer = self.connection.consumer_of_existing().await?;
        let Some(max_bond) = self.max_bond else {
            let bond = consumer.bond(self.id).await?;
            let message = format!("disputing {} takes a bond of {bond} USDC", self.id);
            return Err(Error::new(Code::PriceAboveLimit, message)
                .with_hint(format!("pass --max-bond {bond} to dispute; nothing was done"))
                .with_facts(|facts| {
                    facts.transaction_id = Some(self.id);
                    facts.required = Some(bond);
                }));
        };
        let progress = Progress::show("disputing");
        let bond = consumer.dispute(self.id, max_bond).await?;
        drop(progress);
        Record::new()
            .with("transactionId", "transaction", Cell::text(self.id))
            .with("state", "state", Cell::text("DISPUTED"))
            .with("bond", "bond", Cell::usdc(bond))
            .print(self.format)?;
        Ok(DONE)
    }
}
