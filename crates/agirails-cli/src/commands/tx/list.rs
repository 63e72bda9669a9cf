use agirails::{
    Address, Result, State, TransactionId,
    kernel::{Role, TransactionQuery},
};
use clap::ValueEnum;

use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Column, Format, Progress, Table, figures, words},
    parse,
};

const COLUMNS: &[Column] = &[
    words("transactionId", "transaction"),
    words("state", "state"),
    words("role", "role"),
    figures("amount", "USDC"),
    words("deadline", "deadline"),
    words("requester", ""),
    words("provider", ""),
    words("createdAt", ""),
    words("updatedAt", ""),
    words("disputeWindowEndsAt", ""),
];

/// List a party's transactions, the newest first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "On a chain the first list of an address reads all the kernel's events; later ones read on.\n\n\
    Example:\n  agirails tx list --role provider --state DELIVERED --mode testnet"
)]
pub struct List {
    /// Whose: the client's own where it is left out
    #[arg(long, value_name = "ADDRESS", value_parser = parse::address)]
    party: Option<Address>,
    /// In which role: both where it is left out
    #[arg(long, value_name = "ROLE")]
    role: Option<Side>,
    /// In which state: all where it is left out
    #[arg(long, value_name = "STATE", value_parser = parse::state)]
    state: Option<State>,
    /// How many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Read on behind this transaction, the last one of the list before
    #[arg(long, value_name = "ID", value_parser = parse::transaction_id)]
    after: Option<TransactionId>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Side {
    /// It pays
    Requester,
    /// It works
    Provider,
}

impl List {
    pub async fn run(self) -> Result<u8> {
        let (kernel, party) = match self.party.or(self.connection.address) {
            Some(party) => (self.connection.reader().await?, party),
            None => {
                let client = self.connection.client_of_existing().await?;
                (client.kernel().clone(), client.address())
            }
        };
        let role = self.role.map(|side| match side {
            Side::Requester => Role::Requester,
            Side::Provider => Role::Provider,
        });
        let Self { state, limit, after, .. } = self;
        let progress = Progress::show("reading the kernel's events");
        let found = kernel
            .find_transactions(&TransactionQuery { party, role, state, limit, after })
            .await?;
        drop(progress);
        let mut table = Table::new(COLUMNS);
        for tx in found {
            table.row(vec![
                Cell::text(tx.id),
                Cell::text(tx.state),
                Cell::text(if tx.requester == party { "requester" } else { "provider" }),
                Cell::usdc(tx.amount),
                Cell::time(tx.deadline),
                Cell::text(tx.requester),
                Cell::text(tx.provider),
                Cell::time(tx.created_at),
                Cell::time(tx.updated_at),
                tx.dispute_window.ends_at().map(Cell::time).into(),
            ]);
        }
        table.print(self.format, "no transactions")?;
        Ok(DONE)
    }
}
