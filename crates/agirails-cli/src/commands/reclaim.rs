use agirails::Result;

use super::outcomes;
use crate::{
    connection::Connection,
    output::{Format, Progress},
};

/// Take back what no provider has touched by its deadline, less the protocol's penalty, and all of
/// what was begun and not delivered by the end of the kernel's grace.
///
/// On the kernel of mainnet the first is possible from 1 USDC on, and there is no grace. What is refused
/// is the provider's to give back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agirails reclaim --mode testnet")]
pub struct Reclaim {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

impl Reclaim {
    pub async fn run(self) -> Result<u8> {
        let consumer = self.connection.consumer_of_existing().await?;
        let progress = Progress::show("reclaiming");
        let found = consumer.reclaim().await?;
        drop(progress);
        outcomes::print(&found, self.format)
    }
}
