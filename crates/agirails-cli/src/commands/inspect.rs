use agirails::{
    ACTPClient, Address, Result, Storage, Usdc,
    consumer::{Choice, Consumer, Inspection, OfferedPayment},
    protocol::{money::MAX_AMOUNT, rules::WayBack},
};
use serde_json::{Value, json};

use super::request::Request;
use crate::{
    connection::{Connection, trusting},
    failure::{DONE, fields},
    output::{
        Cell, Column, Format, Progress, Record, Table, duration, figures, print, print_json, words,
    },
    parse,
};

const COLUMNS: &[Column] = &[
    words("kind", "kind"),
    figures("price", "a call"),
    figures("calls", "calls"),
    figures("amount", "in escrow"),
    words("lastsSeconds", "lasts"),
    words("disputeWindowSeconds", "dispute window"),
    words("wayBack", "how it comes back without the provider"),
    words("provider", "provider"),
    words("isTrusted", ""),
    words("signatureRequired", ""),
    words("penalty", ""),
];

/// Who asks where nobody said who would pay.
const NOBODY: Address = Address::with_last_byte(1);

/// Show what a service wants to be paid, what would lie in escrow, and how it could come back.
///
/// It makes the call without paying. A service that costs nothing does what it is asked.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It takes no key: with --address or a key it also says which offer `call` would take.\n\n\
    Example:\n  agirails inspect https://api.example.com/generate -X POST --mode testnet"
)]
pub struct Inspect {
    #[command(flatten)]
    request: Request,
    /// What the call may cost, for what `call` would do
    #[arg(long, value_name = "USDC", value_parser = parse::usdc)]
    max: Option<Usdc>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Inspect {
    pub async fn run(self) -> Result<u8> {
        let request = self.request.clone();
        let max = self.max.unwrap_or(MAX_AMOUNT);
        let call = super::aside(move || request.call(max)).await?;
        let (consumer, is_somebody) = self.consumer().await?;
        let progress = Progress::show("asking for the price");
        let found = consumer.inspect(call).await?;
        drop(progress);
        match self.format {
            Format { json: true, .. } => print_json(&object(&found, is_somebody))?,
            format => table(&found).print(format, &free(&found))?,
        }
        if self.format == Format::default() {
            print(&remarks(&found, is_somebody))?;
        }
        Ok(DONE)
    }

    /// Whether somebody was named who would pay, too.
    async fn consumer(&self) -> Result<(Consumer, bool)> {
        let (builder, is_somebody) = match self.connection.client_of_existing().await {
            Ok(client) => (Consumer::builder(client), true),
            Err(error) if error.facts().field == Some("address") => {
                let client = ACTPClient::with_kernel(self.connection.reader().await?, NOBODY);
                (Consumer::builder(client).storage(Storage::Memory), false)
            }
            Err(error) => return Err(error),
        };
        Ok((trusting(builder, &self.request.trust).open().await?, is_somebody))
    }
}

fn table(found: &Inspection) -> Table {
    let mut table = Table::new(COLUMNS);
    for offer in &found.offers {
        let (way_back, word, penalty) = way_back(offer);
        let seconds = |seconds| Cell::both(duration(seconds), seconds);
        table.row(vec![
            Cell::text(offer.kind.as_str()),
            Cell::usdc(offer.price),
            Cell::number(offer.calls),
            Cell::usdc(offer.amount),
            seconds(offer.lasts_seconds),
            seconds(offer.dispute_window_seconds),
            Cell::both(way_back, word),
            Cell::text(offer.provider),
            Cell::both("", offer.is_trusted),
            Cell::both("", offer.signature_required),
            penalty.map(Cell::usdc).into(),
        ]);
    }
    table
}

/// For people, for programs, and the penalty.
fn way_back(offer: &OfferedPayment) -> (String, &'static str, Option<Usdc>) {
    match offer.way_back.cancellation_penalty {
        Some(penalty) => (
            format!("by cancelling after the deadline, less {penalty} USDC"),
            "cancelAfterDeadline",
            Some(penalty),
        ),
        None => ("never".to_owned(), "providerOnly", None),
    }
}

/// What becomes of the money of work that was begun.
fn once_begun(way: WayBack) -> String {
    match way.recovery_grace_seconds {
        None => "Once a provider has begun to work, only the provider can give the money back."
            .to_owned(),
        Some(grace) => format!(
            "Once a provider has begun to work, it can deliver until {} after the deadline; from then \
             on `agirails reclaim` takes all of the money back.",
            duration(grace)
        ),
    }
}

fn free(found: &Inspection) -> String {
    format!("HTTP {}: the call costs nothing", found.answer.status)
}

fn remarks(found: &Inspection, is_somebody: bool) -> String {
    let mut text = String::new();
    for problem in &found.problems {
        text += &format!("another offer cannot be taken: {problem}\n");
    }
    match &found.choice {
        None => {}
        Some(_) if !is_somebody => {
            text += "\npass --address or a key to learn which one `agirails call` would take\n";
        }
        Some(Ok(choice)) => {
            text += &format!("\n`agirails call` would pay:\n{}", described(choice).lines())
        }
        Some(Err(error)) => {
            text += &format!("\n`agirails call` would pay nothing: {error}\n");
            text += &error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        }
    }
    if let Some(offer) = found.offers.first() {
        text += &format!("\n{}\n", once_begun(offer.way_back));
    }
    text
}

fn object(found: &Inspection, is_somebody: bool) -> Value {
    let choice = found.choice.as_ref().filter(|_| is_somebody);
    json!({
        "status": found.answer.status,
        "offers": table(found).objects(),
        "problems": found.problems,
        "wouldPay": choice.and_then(|choice| choice.as_ref().ok()).map(|choice| described(choice).object()),
        "refusal": choice.and_then(|choice| choice.as_ref().err()).map(fields),
    })
}

/// What would be paid.
pub fn described(choice: &Choice) -> Record {
    let usdc = |amount: Usdc| Cell::both(format!("{amount} USDC"), amount.0);
    match choice {
        Choice::Balance { transaction_id, provider, price, left } => Record::new()
            .with("price", "price", usdc(*price))
            .with("provider", "to", Cell::text(provider))
            .with("fromBalance", "from the balance", transaction_id.map(Cell::text))
            .with("left", "of which are left", usdc(*left))
            .with("amount", "", Cell::usdc(Usdc::ZERO)),
        Choice::Offer(offer) => {
            let (text, word, penalty) = way_back(offer);
            Record::new()
                .with("price", "price", usdc(offer.price))
                .with("provider", "to", Cell::text(offer.provider))
                .with("kind", "kind", Cell::text(offer.kind.as_str()))
                .with("calls", "calls", Cell::number(offer.calls))
                .with("amount", "into escrow", usdc(offer.amount))
                .with(
                    "lastsSeconds",
                    "for",
                    Cell::both(duration(offer.lasts_seconds), offer.lasts_seconds),
                )
                .with("wayBack", "comes back", Cell::both(text, word))
                .with("penalty", "", penalty.map(Cell::usdc))
        }
        _ => Record::new(),
    }
}
