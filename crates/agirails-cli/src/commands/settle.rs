use agirails::{
    ACTPClient, Code, Error, Evidence, Refusal, Result, State, Transaction, TransactionId, Usdc,
    protocol::{
        money::Payout,
        rules::{Arbiters, Call, Move, transition},
    },
};

use super::{report, tx::next};
use crate::{
    connection::Connection,
    failure::{self, DONE},
    output::{Cell, Column, Format, Progress, Table, figures, words},
    parse,
};

const COLUMNS: &[Column] = &[
    words("transactionId", "transaction"),
    words("outcome", "outcome"),
    figures("net", "provider gets"),
    figures("fee", "fee"),
];

/// Settle deliveries, which pays their providers.
///
/// The requester can settle at once, and accepts the delivery by it. Everybody else can settle once the
/// dispute window has passed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without IDs, --proven settles what this client paid for, whose delivery is proven by its \
    receipts.\n\nExample:\n  agirails settle 0x5f16… --mode testnet"
)]
pub struct Settle {
    /// The transactions
    #[arg(value_name = "ID", value_parser = parse::transaction_id, required_unless_present = "proven")]
    ids: Vec<TransactionId>,
    /// Settle what is on record here as paid for by calls, where receipts prove all of its answers
    #[arg(long, conflicts_with = "ids")]
    proven: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

/// What became of one.
enum Outcome {
    Settled(Payout),
    Before,
}

impl Settle {
    pub async fn run(self) -> Result<u8> {
        if self.proven {
            let consumer = self.connection.consumer_of_existing().await?;
            let progress = Progress::show("settling");
            let found = consumer.settle().await?;
            drop(progress);
            return report::print(&found, self.format);
        }
        let client = self.connection.client_of_existing().await?;
        client.sender()?;
        let (mut table, mut status, mut refused) = (Table::new(COLUMNS), DONE, vec![]);
        for id in self.ids {
            let progress = Progress::show("settling");
            let outcome = settle(&client, id).await;
            drop(progress);
            let (word, paid) = match outcome {
                Ok(Outcome::Settled(paid)) => ("settled", Some(paid)),
                Ok(Outcome::Before) => ("was settled before", None),
                Err(error) => {
                    let word = if failure::status(&error) == failure::UNKNOWN {
                        "unknown"
                    } else {
                        "refused"
                    };
                    refused.push(error);
                    (word, None)
                }
            };
            let usdc = |amount: Option<Usdc>| amount.map(Cell::usdc).into();
            table.row(vec![
                Cell::text(id),
                Cell::text(word),
                usdc(paid.map(|paid| paid.net)),
                usdc(paid.map(|paid| paid.fee)),
            ]);
        }
        table.print(self.format, "")?;
        for error in refused {
            status = failure::worse(status, failure::tell(&error, self.format));
        }
        Ok(status)
    }
}

async fn settle(client: &ACTPClient, id: TransactionId) -> Result<Outcome> {
    let tx = client.get_transaction(id).await?;
    if tx.state == State::Settled {
        return Ok(Outcome::Before);
    }
    let (now, remaining) = (client.now().await?, client.escrow(id).await?.remaining());
    let paid = payout(client, &tx, now, remaining)?;
    client.transition_state(id, State::Settled, Evidence::None).await?;
    Ok(Outcome::Settled(paid))
}

/// What settling would pay. Asked before anything is sent: an estimate of gas says less of the time.
fn payout(client: &ACTPClient, tx: &Transaction, now: u64, remaining: Usdc) -> Result<Payout> {
    let admin = client.network().admin;
    let next = next(tx, now, remaining, admin);
    if tx.state != State::Delivered {
        return Err(Error::refused(Refusal::InvalidTransition, Some(tx)).with_hint(format!(
            "only what is DELIVERED is settled; what can happen next: {next}"
        )));
    }
    let call = Call { transaction: tx, sender: client.address(), now, remaining };
    let arbiters = Arbiters { resolver: admin, mediators: &[] };
    let effect = transition(call, State::Settled, &[], arbiters).map_err(|refusal| {
        Error::refused(refusal, Some(tx)).with_hint(format!(
            "{} cannot settle it yet; what can happen next: {next}",
            client.address()
        ))
    })?;
    let paid = effect.moves.iter().find_map(|money| match money {
        Move::PayProvider(paid) => Some(*paid),
        _ => None,
    });
    paid.ok_or_else(|| {
        Error::new(
            Code::Refused(Refusal::EscrowMissing),
            format!("nothing lies in the escrow of {}", tx.id),
        )
    })
}
