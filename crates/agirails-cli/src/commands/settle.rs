use agirails::{
    ACTPClient, Code, Error, Evidence, Refusal, Result, State, Transaction, TransactionId, Usdc,
    keeper::{Event, Keeper},
    protocol::{
        money::Payout,
        rules::{Arbiters, Call, Move, transition},
    },
};

use super::{outcomes, tx::next};
use crate::{
    connection::Connection,
    failure::{self, DONE, FAILED, warn},
    output::{Cell, Column, Format, Progress, Table, figures, time, words},
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
    receipts; --due settles what this client delivered, once the dispute window is over, as `agirails keeper \
    --once` does for its own address. On a chain the first --due reads all the kernel's events.\n\n\
    Examples:\n  agirails settle 0x5f16… --mode testnet\n  agirails settle --due --mode testnet"
)]
pub struct Settle {
    /// The transactions
    #[arg(value_name = "ID", value_parser = parse::transaction_id, required_unless_present_any = ["proven", "due"])]
    ids: Vec<TransactionId>,
    /// Settle what is on record here as paid for by calls, where receipts prove all of its answers
    #[arg(long, conflicts_with = "ids")]
    proven: bool,
    /// Settle what this client delivered as a provider and what is due
    #[arg(long, conflicts_with_all = ["ids", "proven"])]
    due: bool,
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
            return outcomes::print(&found, self.format);
        }
        let client = self.connection.client_of_existing().await?;
        client.sender()?;
        if self.due {
            return settle_due(client, self.format).await;
        }
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

/// A round of a keeper for this client alone.
async fn settle_due(client: ACTPClient, format: Format) -> Result<u8> {
    let (told, events) = std::sync::mpsc::channel();
    let keeper = Keeper::builder(client.clone())
        .providers([client.address()])
        .on_event(move |event| {
            // It is listened to until the round is over.
            let _ = told.send(event.clone());
        })
        .open()
        .await?;
    let progress = Progress::show("settling what is due");
    let report = keeper.turn().await?;
    drop(progress);
    let mut table = Table::new(COLUMNS);
    for event in events.try_iter() {
        let (id, outcome, net) = match event {
            Event::Settled(settled) => (settled.transaction, "settled", Some(settled.net)),
            Event::Unprofitable { transaction, .. } => (transaction, "not worth its gas", None),
            Event::Disputed { transaction } => (transaction, "disputed", None),
            Event::Failed { transaction, ref message, .. } => {
                warn(&format!("{transaction} was not settled: {message}"));
                (transaction, "failed", None)
            }
            _ => continue,
        };
        table.row(vec![
            Cell::text(id),
            Cell::text(outcome),
            net.map(Cell::usdc).into(),
            Cell::none(),
        ]);
    }
    let empty = match report.next_due_at {
        _ if report.is_busy => "nothing was settled".to_owned(),
        Some(due) => format!("nothing is due before {}", time(due)),
        None => "nothing is due".to_owned(),
    };
    table.print(format, &empty)?;
    if report.is_busy {
        let message = "another keeper of this key is at work, and settles what is due";
        return Err(Error::new(Code::StorageBusy, message)
            .with_hint("look again in a minute; after a crash it takes nine seconds"));
    }
    Ok(if report.failed > 0 { FAILED } else { DONE })
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
    let terms = client.network().terms;
    let next = next(tx, terms, now, remaining, admin);
    if tx.state != State::Delivered {
        return Err(Error::refused(Refusal::InvalidTransition, Some(tx)).with_hint(format!(
            "only what is DELIVERED is settled; what can happen next: {next}"
        )));
    }
    let call = Call { transaction: tx, sender: client.address(), now, remaining, terms };
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
