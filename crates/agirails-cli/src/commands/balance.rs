use agirails::{Address, Result};

use crate::{
    connection::Connection,
    failure::DONE,
    output::{Cell, Format, Record},
    parse,
};

/// Show what an address owns: USDC, what the vault may take of it, and gas money.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agirails balance 0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045 --mode testnet"
)]
pub struct Balance {
    /// Whose: the client's own where it is left out
    #[arg(value_name = "ADDRESS", value_parser = parse::address)]
    owner: Option<Address>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Balance {
    pub async fn run(self) -> Result<u8> {
        let (kernel, owner) = match self.owner.or(self.connection.address) {
            Some(owner) => (self.connection.reader().await?, owner),
            None => {
                let client = self.connection.client_of_existing().await?;
                (client.kernel().clone(), client.address())
            }
        };
        let network = kernel.network().name.clone();
        let balance = kernel.balance(owner).await?;
        let allowance = kernel.allowance(owner).await?;
        let gas = kernel.gas_balance(owner).await?;
        Record::new()
            .with("address", "address", Cell::text(owner))
            .with("network", "network", Cell::text(network))
            .with("balance", "USDC", Cell::usdc(balance))
            .with("allowance", "vault may take", Cell::usdc(allowance))
            .with("gasWei", "gas money", gas.map(super::gas_money))
            .print(self.format)?;
        Ok(DONE)
    }
}
