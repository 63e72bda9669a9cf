//! A paid route in axum: `cargo run -p agirails --features tower --example axum_provider`.
//!
//! It runs in mode mock: the transactions are in a file below the working directory.

use agirails::{
    ACTPClient, Address,
    paywall::{CallPayment, Charge, Paywall, PaywallLayer},
};
use axum::{Extension, Json, Router, routing::post};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider: Address = std::env::var("PROVIDER_ADDRESS")
        .unwrap_or_else(|_| format!("0x{}", "aa".repeat(20)))
        .parse()?;
    let client = ACTPClient::builder().address(provider).connect().await?;
    let paywall = Paywall::builder(client).open().await?;

    let address = std::env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("serving http://{}", listener.local_addr()?);
    axum::serve(listener, app(&paywall)?).await?;
    Ok(())
}

/// The paid route, and the free ones behind it.
pub fn app(paywall: &Paywall) -> agirails::Result<Router> {
    let charge = paywall.charge(Charge::new("POST /api/generate", "0.10".parse()?))?;
    let paid = PaywallLayer::new(paywall, &charge);
    Ok(Router::new()
        // `route_layer` charges only for the route's own methods; `layer` would also charge for a 405.
        .route("/api/generate", post(generate).route_layer(paid))
        .fallback_service(paywall.pages()))
}

/// Runs once for each paid call.
async fn generate(
    Extension(payment): Extension<CallPayment>,
    Json(body): Json<Value>,
) -> Json<Value> {
    let prompt = body["prompt"].as_str().unwrap_or_default();
    Json(json!({
        "result": format!("Generated response for: {prompt}"),
        "paid": format!("{} USDC by {}", payment.price, payment.requester),
    }))
}
