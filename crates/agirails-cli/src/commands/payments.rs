use agirails::{
    Address, Result, TransactionId, U256,
    paywall::{PaymentQuery, PaymentRecord},
};
use clap::builder::PossibleValuesParser;

use super::{books::Books, gas_money};
use crate::{
    failure::DONE,
    output::{Cell, Column, Format, Progress, Table, figures, words},
    parse,
};

const COLUMNS: &[Column] = &[
    words("transactionId", "transaction"),
    words("stage", "stage"),
    figures("amount", "USDC"),
    figures("spent", "spent"),
    figures("calls", "calls"),
    figures("net", "arrived"),
    figures("expectedNet", "expected"),
    words("settleAt", "can be settled from"),
    words("trouble", "trouble"),
    words("requester", ""),
    figures("fee", ""),
    figures("gasWei", ""),
    words("openedAt", ""),
    words("deadline", ""),
    words("deliveredAt", ""),
    words("settledAt", ""),
    words("contentHash", ""),
];
/// The most that one question brings.
const PAGE: u32 = 1_000;

/// List the payments of a provider's paywall, the newest first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It reads the store beside the service that uses it, and delivers and settles nothing.\n\n\
    Example:\n  agirails payments --stage disputed --mode testnet --state-directory /srv/app"
)]
pub struct Payments {
    /// At which stage: all where it is left out
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new([
        "open", "delivering", "delivered", "settled", "disputed", "returning", "returned", "lost", "left",
    ]))]
    stage: Option<String>,
    /// Who pays: everybody where it is left out
    #[arg(long, value_name = "ADDRESS", value_parser = parse::address)]
    requester: Option<Address>,
    /// How many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// List all of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Read on behind this transaction, the last one of the list before
    #[arg(long, value_name = "ID", value_parser = parse::transaction_id)]
    after: Option<TransactionId>,
    #[command(flatten)]
    books: Books,
    #[command(flatten)]
    pub format: Format,
}

impl Payments {
    pub async fn run(self) -> Result<u8> {
        let paywall = self.books.open().await?;
        let mut query = PaymentQuery {
            stage: self.stage,
            requester: self.requester,
            limit: if self.all { PAGE } else { self.limit },
            after: self.after,
        };
        let progress = Progress::show("reading the books");
        let mut table = Table::new(COLUMNS);
        loop {
            let page = paywall.payments(&query).await?;
            query.after = page.last().map(|payment| payment.transaction_id);
            let is_last = page.len() < query.limit as usize;
            page.into_iter().for_each(|payment| table.row(row(payment)));
            if is_last || !self.all {
                break;
            }
        }
        drop(progress);
        table.print(self.format, "no payments")?;
        Ok(DONE)
    }
}

fn row(payment: PaymentRecord) -> Vec<Cell> {
    // It has not come to that.
    let time = |seconds: u64| Some(seconds).filter(|seconds| *seconds > 0).map(Cell::time).into();
    vec![
        Cell::text(payment.transaction_id),
        Cell::text(payment.stage),
        Cell::usdc(payment.amount),
        Cell::usdc(payment.spent),
        Cell::number(payment.calls),
        payment.net.map(Cell::usdc).into(),
        Cell::usdc(payment.expected_net),
        time(payment.settle_at),
        payment.trouble.map(Cell::text).into(),
        Cell::text(payment.requester),
        payment.fee.map(Cell::usdc).into(),
        gas_money(U256::from(payment.gas_wei)),
        time(payment.opened_at),
        time(payment.deadline),
        time(payment.delivered_at),
        time(payment.settled_at),
        payment.content_hash.map(Cell::text).into(),
    ]
}
