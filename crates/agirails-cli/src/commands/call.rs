use std::{io::Write, time::Duration};

use agirails::{
    Result, Usdc,
    consumer::{Choice, Consumer, PaidCall, PaidResponse, Payment},
};
use serde_json::{Value, json};

use super::{inspect, request::Request};
use crate::{
    connection::{Connection, trusting},
    failure::{DONE, FAILED},
    output::{Cell, Format, Progress, Record, print_bytes, print_json},
    parse,
};

/// Call a service, and pay for it where it must be.
///
/// The answer's body goes to the standard output, and how it was paid to the standard error. A call that
/// was paid and not answered is on record: the same command within an hour goes on with it, and pays
/// nothing more.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A provider that is not trusted is paid by a bundle of 1 USDC or more, of which the rest \
    pays later calls.\n\n\
    Example:\n  agirails call https://api.example.com/generate --max 0.25 -d '{\"prompt\": \"a haiku\"}' --confirm"
)]
pub struct Call {
    #[command(flatten)]
    request: Request,
    /// What the call may cost
    #[arg(long, value_name = "USDC", value_parser = parse::usdc)]
    max: Usdc,
    /// What may be put into escrow for it: 1 USDC where it is left out, or --max if that is more
    #[arg(long, value_name = "USDC", value_parser = parse::usdc)]
    max_funding: Option<Usdc>,
    /// Say what would be paid, and pay nothing. A service that costs nothing does what it is asked
    #[arg(long, conflicts_with = "confirm")]
    dry_run: bool,
    /// Say what would be paid, and ask before it is
    #[arg(long)]
    confirm: bool,
    /// Go on with the purchase of this key, or name a new one
    #[arg(long, value_name = "KEY")]
    purchase_key: Option<String>,
    /// Wait until the provider has delivered, and settle then
    #[arg(long)]
    settle: bool,
    /// How long all of it may take, such as 90s
    #[arg(long, value_name = "TIME", default_value = "5min", value_parser = parse::duration)]
    timeout: Duration,
    #[command(flatten)]
    connection: Connection,
    /// Print status, headers, body and payment as JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Call {
    pub fn format(&self) -> Format {
        Format { json: self.json, csv: false }
    }

    pub async fn run(self) -> Result<u8> {
        let request = self.request.clone();
        let max = self.max;
        // A body on the standard input must not hold up the task that looks for Ctrl-C.
        let call = super::aside(move || request.call(max)).await?;
        let client = self.connection.client_of_existing().await?;
        let consumer = trusting(Consumer::builder(client), &self.request.trust).open().await?;
        let mut call = self.with_limits(call);
        if self.dry_run || self.confirm {
            let progress = Progress::show("asking for the price");
            let found = consumer.inspect(call.clone()).await?;
            drop(progress);
            let Some(choice) = found.choice else { return self.print(&found.answer) };
            let choice = choice?;
            if self.dry_run {
                inspect::described(&choice).print(self.format())?;
                return Ok(DONE);
            }
            self.ask(&choice).await?;
            call = no_more_than(call, &choice);
        }
        let progress = Progress::show("calling");
        let answer = consumer.call(call).await?;
        drop(progress);
        self.print(&answer)
    }

    fn with_limits(&self, mut call: PaidCall) -> PaidCall {
        call = call.settle(self.settle).timeout(self.timeout);
        if let Some(amount) = self.max_funding {
            call = call.max_funding(amount);
        }
        match &self.purchase_key {
            Some(key) => call.purchase_key(key),
            None => call,
        }
    }

    async fn ask(&self, choice: &Choice) -> Result<()> {
        let question = format!("{}Pay this? [y/N] ", inspect::described(choice).lines());
        let unasked = "leave --confirm out where --max is enough; nothing was paid";
        super::agreed(question, unasked, "answer y to pay; nothing was paid").await
    }

    fn print(&self, answer: &PaidResponse) -> Result<u8> {
        if self.json {
            print_json(&json!({
                "status": answer.status,
                "headers": answer.headers,
                "body": std::str::from_utf8(&answer.body).ok(),
                "bodyHex": answer.body.to_string(),
                "payment": answer.payment.as_ref().map(|payment| paid(payment).object()),
            }))?;
        } else {
            print_bytes(&answer.body)?;
            let said = match &answer.payment {
                Some(payment) => paid(payment).lines(),
                None => format!("HTTP {}; nothing was paid\n", answer.status),
            };
            let _ = write!(anstream::stderr(), "{said}");
        }
        Ok(if answer.status < 400 { DONE } else { FAILED })
    }
}

/// The same call, that pays no more than was agreed to.
fn no_more_than(call: PaidCall, choice: &Choice) -> PaidCall {
    match choice {
        Choice::Offer(offer) => {
            let each = Usdc(offer.price.0.max(offer.amount.0.div_ceil(offer.calls.max(1))));
            call.max_amount(each).max_funding(offer.amount)
        }
        // What lies there is enough: nothing more is put into escrow.
        Choice::Balance { price, .. } => call.max_amount(*price).max_funding(Usdc::ZERO),
        _ => call,
    }
}

fn paid(payment: &Payment) -> Record {
    let from = match payment.funded_now {
        true => "paid, funded now",
        false => "paid from",
    };
    Record::new()
        .with("price", "paid", Cell::both(format!("{} USDC", payment.price), payment.price.0))
        .with("provider", "to", Cell::text(payment.provider))
        .with("transactionId", from, Cell::text(payment.transaction_id))
        .with(
            "amount",
            "it holds",
            Cell::both(format!("{} USDC", payment.amount), payment.amount.0),
        )
        .with("kind", "kind", Cell::text(payment.kind.as_str()))
        .with("proof", "receipt", Cell::text(payment.proof.as_str()))
        .with("isSettled", "settled", Cell::both(yes(payment.is_settled), payment.is_settled))
        .with("cancellableFrom", "cancellable from", payment.cancellable_from.map(Cell::time))
        .with("fundedNow", "", Cell::both("", payment.funded_now))
        .with("idempotencyKey", "", Cell::text(&payment.idempotency_key))
        .with("purchaseKey", "purchase key", Cell::text(&payment.purchase_key))
        .with("receipt", "", Cell::both("", receipt(payment)))
}

fn receipt(payment: &Payment) -> Value {
    serde_json::to_value(&payment.receipt).unwrap_or_default()
}

/// For people.
pub fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}
