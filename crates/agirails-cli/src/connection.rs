//! Which network, whose key, which state: as the SDK's clients find them.

use std::{path::PathBuf, sync::Arc};

use agirails::{
    ACTPClient, Address, ClientBuilder, Code, Error, Mode, NetworkProfile, Result, Storage,
    consumer::{Consumer, ConsumerBuilder},
    kernel::{
        Kernel,
        chain::{ChainKernel, ChainSettings},
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::{failure::warn, output::Progress, parse};

const HEADING: &str = "Network and key";

/// Where to, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// The network: ACTP_MODE where it is left out, else testnet with --network, else mock
    #[arg(long, value_name = "MODE", help_heading = HEADING,
        value_parser = PossibleValuesParser::new(["mock", "testnet", "mainnet"])
            .try_map(|name| name.parse::<Mode>()))]
    pub mode: Option<Mode>,
    /// The profile of another chain, as `agirails devnet` writes it; else AGIRAILS_NETWORK names one
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub network: Option<PathBuf>,
    /// A node of the chain, in place of the network's; repeat it for more
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    pub rpc_url: Vec<String>,
    /// Where .actp with the state lies: ACTP_STATE_DIR where it is left out, else the working directory
    #[arg(long, value_name = "DIRECTORY", help_heading = HEADING)]
    pub state_directory: Option<PathBuf>,
    /// Whom to act for: the key's address where it is left out; in mode mock no key is needed
    #[arg(long, value_name = "ADDRESS", value_parser = parse::address, help_heading = HEADING)]
    pub address: Option<Address>,
}

impl Connection {
    /// The mode in force.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] where ACTP_MODE names none.
    pub fn mode(&self) -> Result<Mode> {
        let default = if self.network.is_some() { Mode::Testnet } else { Mode::Mock };
        match self.mode {
            Some(mode) => Ok(mode),
            None => Ok(Mode::from_environment()?.unwrap_or(default)),
        }
    }

    /// A client to be made, with what was said here.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] for a profile that cannot be read.
    pub fn builder(&self) -> Result<ClientBuilder> {
        let mut builder = ACTPClient::builder().mode(self.mode()?);
        if let Some(profile) = &self.network {
            builder = builder.network_profile(NetworkProfile::find(profile)?);
        }
        for url in &self.rpc_url {
            builder = builder.rpc_url(url);
        }
        if let Some(directory) = &self.state_directory {
            builder = builder.state_directory(directory);
        }
        if let Some(address) = self.address {
            builder = builder.address(address);
        }
        Ok(builder)
    }

    /// A client that acts for its key, or for `--address`. Its state is made where there is none.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn client(&self) -> Result<ACTPClient> {
        let builder = self.builder()?;
        let _progress = Progress::show("connecting");
        let client = builder.connect().await.map_err(with_options)?;
        client.warnings().iter().chain(client.network_warnings()).for_each(|text| warn(text));
        Ok(client)
    }

    /// [`Self::client`], where in mode mock somebody has made a ledger.
    ///
    /// # Errors
    /// As [`Self::client`]; [`Code::StorageUnavailable`] where there is no ledger.
    pub async fn client_of_existing(&self) -> Result<ACTPClient> {
        self.require_ledger(&self.builder()?)?;
        self.client().await
    }

    /// Who pays for calls, where in mode mock somebody has made a ledger.
    ///
    /// # Errors
    /// As [`Self::client_of_existing`].
    pub async fn consumer_of_existing(&self) -> Result<Consumer> {
        Consumer::builder(self.client_of_existing().await?).open().await
    }

    /// For reading alone: it asks for no key, and nothing is made.
    ///
    /// # Errors
    /// As [`Self::client_of_existing`].
    pub async fn reader(&self) -> Result<Arc<dyn Kernel>> {
        let builder = self.builder()?;
        let directory = builder.directory();
        let Some(profile) = builder.profile()? else {
            self.require_ledger(&builder)?;
            let storage = Storage::Directory(directory);
            let options = EmbeddedOptions::new(storage);
            return Ok(Arc::new(EmbeddedKernel::open(options).await?));
        };
        let _progress = Progress::show("connecting");
        let mut settings = ChainSettings::new(profile);
        settings.storage = match directory.join(".actp").is_dir() {
            // What was found out before need not be asked for again.
            true => Storage::Directory(directory),
            false => Storage::Memory,
        };
        let kernel = ChainKernel::connect(settings).await?;
        kernel.warnings().iter().for_each(|text| warn(text));
        Ok(Arc::new(kernel))
    }

    fn require_ledger(&self, builder: &ClientBuilder) -> Result<()> {
        let state = builder.directory().join(".actp");
        if self.mode()? != Mode::Mock || state.join("kernel.sqlite3").exists() {
            return Ok(());
        }
        let message = format!("there is no mock ledger in {}", state.display());
        Err(Error::new(Code::StorageUnavailable, message).with_hint(
            "name the directory of the program that made it, by --state-directory or ACTP_STATE_DIR; \
             for a chain pass --mode testnet",
        ))
    }
}

/// With whom to trust, by address or origin.
pub fn trusting(builder: ConsumerBuilder, trusted: &[String]) -> ConsumerBuilder {
    trusted.iter().fold(builder, |builder, name| builder.trust(name))
}

/// The SDK's remedies name its settings; here they are options.
fn with_options(error: Error) -> Error {
    match error.code() {
        Code::InvalidSettings if error.facts().field == Some("address") => error.with_hint(
            "pass --address, which is enough in mode mock and for reading; to sign, set \
                 ACTP_KEYSTORE_BASE64 and ACTP_KEY_PASSWORD, or make a keystore with `agirails \
                 keystore`; on testnet ACTP_PRIVATE_KEY does too",
        ),
        _ => error,
    }
}
