use agirails::{
    Code, Error, Result, U256,
    paywall::{ReportBy, ReportQuery},
};
use clap::ValueEnum;

use super::{books::Books, gas_money};
use crate::{
    failure::DONE,
    output::{Cell, Column, Format, Progress, Table, figures, words},
    parse,
};

/// The first column has the name of what there is a row for.
macro_rules! columns {
    ($title:literal) => {
        const {
            &[
                words("key", $title),
                figures("calls", "calls"),
                figures("gross", "gross"),
                figures("settled", "settled"),
                figures("paidOut", "paid out"),
                figures("fee", "fee"),
                figures("net", "net"),
                figures("gasWei", "gas"),
                figures("refunded", "refunded"),
                figures("disputed", "disputed"),
            ]
        }
    };
}

/// Show a provider's books by day, route or customer.
///
/// What calls took counts on the day of the calls (gross); what was paid out, the fee and what arrived (net)
/// count on the day of the settlement, which is later by the dispute window.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It reads the store beside the service that uses it, and delivers and settles nothing. Days \
    are UTC.\n\n\
    Example:\n  agirails report --by route --since 2026-11-01 --until 2026-11-30 --mode mainnet --csv"
)]
pub struct Report {
    /// What there is a row for
    #[arg(long, value_name = "WHAT", default_value = "day")]
    by: By,
    /// The first day: the books' first where it is left out
    #[arg(long, value_name = "DATE", value_parser = parse::day)]
    since: Option<u64>,
    /// The last day, which is included: the books' last where it is left out
    #[arg(long, value_name = "DATE", value_parser = parse::day)]
    until: Option<u64>,
    #[command(flatten)]
    books: Books,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    /// Each day of UTC
    Day,
    /// Each route
    Route,
    /// Each requester
    Customer,
}

impl Report {
    pub async fn run(self) -> Result<u8> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since > until
        {
            return Err(Error::new(Code::InvalidSettings, "--since is later than --until")
                .with_hint("name the first day by --since and the last one by --until"));
        }
        let paywall = self.books.open().await?;
        let (by, columns): (_, &'static [Column]) = match self.by {
            By::Day => (ReportBy::Day, columns!("day")),
            By::Route => (ReportBy::Route, columns!("route")),
            By::Customer => (ReportBy::Customer, columns!("customer")),
        };
        let mut query =
            ReportQuery { by, since: self.since, until: self.until, after: None, limit: None };
        let progress = Progress::show("reading the books");
        let mut table = Table::new(columns);
        loop {
            let page = paywall.report(&query).await?;
            // Behind the last row there is an empty page.
            let Some(last) = page.last() else { break };
            query.after = Some(last.key.clone());
            for row in page {
                table.row(vec![
                    Cell::text(row.key),
                    Cell::number(row.calls),
                    Cell::usdc(row.gross),
                    Cell::number(row.settled),
                    Cell::usdc(row.paid_out),
                    Cell::usdc(row.fee),
                    Cell::usdc(row.net),
                    gas_money(U256::from(row.gas_wei)),
                    Cell::number(row.refunded),
                    Cell::number(row.disputed),
                ]);
            }
        }
        drop(progress);
        table.print(self.format, "nothing in the books")?;
        Ok(DONE)
    }
}
