use agirails::{Result, Usdc};

use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Column, Format, Table, figures, words},
};

const COLUMNS: &[Column] = &[
    words("transactionId", "transaction"),
    words("stage", "stage"),
    words("kind", "kind"),
    figures("amount", "USDC"),
    figures("used", "used"),
    figures("left", "left"),
    words("usableUntil", "usable until"),
    words("origin", "service"),
    words("provider", ""),
    words("plannedAt", ""),
    words("deadline", ""),
];

/// List what was paid for calls, the newest first.
///
/// It shows what is on record here. `settle --proven` and `reclaim` find out what became of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agirails purchases --open --json")]
pub struct Purchases {
    /// Leave out what is over
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Purchases {
    pub async fn run(self) -> Result<u8> {
        let consumer = self.connection.consumer_of_existing().await?;
        let mut table = Table::new(COLUMNS);
        for payment in consumer.payments().await? {
            if self.open && matches!(payment.stage, "settled" | "refunded" | "abandoned") {
                continue;
            }
            table.row(vec![
                payment.transaction_id.map(Cell::text).into(),
                Cell::text(payment.stage),
                Cell::text(payment.kind.as_str()),
                Cell::usdc(payment.amount),
                Cell::usdc(payment.used),
                Cell::usdc(Usdc(payment.amount.0.saturating_sub(payment.used.0))),
                Cell::time(payment.usable_until),
                Cell::text(payment.origin),
                Cell::text(payment.provider),
                Cell::time(payment.planned_at),
                Cell::time(payment.deadline),
            ]);
        }
        table.print(self.format, "no purchases")?;
        Ok(DONE)
    }
}
