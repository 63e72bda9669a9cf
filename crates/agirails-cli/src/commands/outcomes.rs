//! What became of several transactions.

use agirails::{Result, consumer::Report};

use crate::{
    failure::{self, DONE},
    output::{Cell, Column, Format, Table, words},
};

const COLUMNS: &[Column] = &[words("transactionId", "transaction"), words("outcome", "outcome")];

/// Prints a row for each transaction, and an error for each that was refused.
pub fn print(report: &Report, format: Format) -> Result<u8> {
    let mut table = Table::new(COLUMNS);
    let outcomes = [
        ("settled", &report.settled),
        ("refunded", &report.refunded),
        ("waiting", &report.waiting),
    ];
    for (outcome, ids) in outcomes {
        for id in ids {
            table.row(vec![Cell::text(id), Cell::text(outcome)]);
        }
    }
    for (id, error) in &report.refused {
        let is_unknown = failure::status(error) == failure::UNKNOWN;
        let outcome = if is_unknown { "unknown" } else { "refused" };
        table.row(vec![Cell::text(id), Cell::text(outcome)]);
    }
    table.print(format, "nothing is under way")?;
    let told = report.refused.iter().map(|(_, error)| failure::tell(error, format));
    Ok(told.fold(DONE, failure::worse))
}
