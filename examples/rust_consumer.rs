//! Pays for a call of a service: `cargo run -p agirails --example rust_consumer -- "a haiku"`.
//!
//! It calls the service of `axum_provider`, which has to run in another terminal. On mock, both keep
//! their transactions in a file below the working directory, so start them in the same directory.

use agirails::{
    ACTPClient, Address,
    consumer::{Budget, Consumer, PaidCall, PaidResponse},
};
use serde_json::json;

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("error: {error}");
        if let Some(hint) = error.hint() {
            eprintln!("hint: {hint}");
        }
        // The same call with this key goes on where it ended, and pays nothing more.
        if let Some(key) = &error.facts().purchase_key {
            eprintln!("purchase key: {key}");
        }
        std::process::exit(1);
    }
}

async fn run() -> agirails::Result<()> {
    let address: Address = match std::env::var("CONSUMER_ADDRESS") {
        Ok(text) => agirails::protocol::id::parse_address("CONSUMER_ADDRESS", &text)?,
        Err(_) => Address::repeat_byte(0xc0),
    };
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "a haiku about AI agents".to_owned());
    let origin = std::env::var("SERVICE").unwrap_or_else(|_| "http://127.0.0.1:3000".to_owned());

    let client = ACTPClient::builder().address(address).connect().await?;
    let answer = generate(client, &origin, &prompt).await?;

    println!("{}", String::from_utf8_lossy(&answer.body));
    if let Some(payment) = answer.payment {
        println!("paid {} USDC to {}", payment.price, payment.provider);
        println!("settled: {}", payment.is_settled);
    }
    Ok(())
}

/// Asks for a generated text, for 0.25 USDC at most.
pub async fn generate(
    client: ACTPClient,
    origin: &str,
    prompt: &str,
) -> agirails::Result<PaidResponse> {
    let budget = Budget { per_day: Some("10".parse()?), ..Budget::default() };
    // Below 1 USDC a payment cannot be taken back, so it is made to a trusted service alone.
    let consumer = Consumer::builder(client).budget(budget).trust(origin).open().await?;
    let call = PaidCall::new("POST", format!("{origin}/api/generate"), "0.25".parse()?)
        .json(&json!({"prompt": prompt}))
        .settle(true);
    consumer.call(call).await
}
