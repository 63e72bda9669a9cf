use agirails::{Result, Usdc};

use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Format, Progress, Record},
    parse,
};

/// Make test USDC: in mode mock, on Base Sepolia, or on a local chain.
#[derive(Debug, clap::Args)]
#[command(after_help = "On a chain it takes a key, and gas money.\n\n\
    Example:\n  agirails mint 100 --mode testnet")]
pub struct Mint {
    /// How much, in USDC
    #[arg(value_name = "USDC", value_parser = parse::usdc)]
    amount: Usdc,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Mint {
    pub async fn run(self) -> Result<u8> {
        let client = self.connection.client().await?;
        let progress = Progress::show("minting");
        client.mint_test_usdc(self.amount).await?;
        let balance = client.balance().await?;
        drop(progress);
        Record::new()
            .with("address", "address", Cell::text(client.address()))
            .with("minted", "minted", Cell::usdc(self.amount))
            .with("balance", "USDC", Cell::usdc(balance))
            .print(self.format)?;
        Ok(DONE)
    }
}
