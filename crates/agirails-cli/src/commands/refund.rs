use agirails::{Result, TransactionId};

use super::{agreed, books::Books};
use crate::{
    failure::DONE,
    output::{Cell, Format, Progress, Record},
    parse,
};

/// Give a transaction back to its requester, by its provider's decision.
///
/// All of it goes back, also what calls have used: the protocol knows no partial refund. No call is served
/// with it any more.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The decision is written into the paywall's store, and the service carries it out: stage \
    returning, and returned once CANCELLED stands on chain. Where the service does not run, it does so when it \
    starts. Asked again, the command shows the stage and changes nothing. What is delivered already cannot be \
    given back.\n\n\
    Example:\n  agirails refund 0x5f16… --mode testnet --state-directory /srv/app"
)]
pub struct Refund {
    /// The transaction
    #[arg(value_name = "ID", value_parser = parse::transaction_id)]
    id: TransactionId,
    /// Do not ask first
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    books: Books,
    #[command(flatten)]
    pub format: Format,
}

impl Refund {
    pub async fn run(self) -> Result<u8> {
        let paywall = self.books.open().await?;
        if !self.yes {
            let tx = paywall.client().get_transaction(self.id).await?;
            let question = format!(
                "{} is {} and holds {} USDC of {}.\nGive it back, also what calls have used? [y/N] ",
                tx.id, tx.state, tx.amount, tx.requester
            );
            agreed(question, "pass --yes; nothing was done", "answer y; nothing was done").await?;
        }
        let progress = Progress::show("writing the decision");
        let stage = paywall.refund(self.id).await?;
        drop(progress);
        let next = match stage {
            "returned" => "nothing: it was given back",
            _ => "the service gives it back on chain",
        };
        Record::new()
            .with("transactionId", "transaction", Cell::text(self.id))
            .with("stage", "stage", Cell::text(stage))
            .with("next", "next", Cell::text(next))
            .print(self.format)?;
        Ok(DONE)
    }
}
