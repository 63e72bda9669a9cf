//! A provider's books: the store of its paywall, opened beside the service that uses it.

use std::{env, path::Path};

use agirails::{
    ACTPClient, Code, Error, Result,
    paywall::{Paywall, PaywallBuilder},
};
use tokio::runtime::Builder;

use crate::{connection::Connection, output::Progress};

/// The database of the paywall's store, where no option names one.
pub(super) const STORE_VARIABLE: &str = "AGIRAILS_STORE";

/// Whose books, and where they are.
#[derive(Debug, Clone, clap::Args)]
pub struct Books {
    #[command(flatten)]
    connection: Connection,
    /// The paywall's PostgreSQL database: AGIRAILS_STORE where it is left out, else the file in the state
    /// directory. Other users can read a command line, so a password belongs into the variable
    #[arg(long, value_name = "URL", help_heading = "Network and key")]
    store: Option<String>,
}

impl Books {
    /// Opens the store where there is one, and leaves what is owed there to the service.
    ///
    /// # Errors
    /// [`Code::StorageUnavailable`] where there is no store; those of the client and the store.
    pub async fn open(&self) -> Result<Paywall> {
        self.database()?;
        self.open_as(self.client().await?).await
    }

    /// Whose books they are.
    ///
    /// # Errors
    /// Those of the client.
    pub async fn client(&self) -> Result<ACTPClient> {
        self.connection.client_of_existing().await
    }

    /// [`Self::open`] with a client that is there already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_as(&self, client: ACTPClient) -> Result<Paywall> {
        let database = self.database()?;
        let directory = self.connection.builder()?.directory();
        let mut builder = Paywall::builder(client.clone()).on_event(|_| {});
        match database {
            Some(url) => builder = builder.database(url),
            None => require_store(&client, &directory)?,
        }
        let _progress = Progress::show("opening the paywall's store");
        untended(builder).await
    }

    /// It may hold a password, so it stands in no message.
    fn database(&self) -> Result<Option<String>> {
        let named = self.store.clone().or_else(|| env::var(STORE_VARIABLE).ok());
        let Some(url) = named.filter(|url| !url.is_empty()) else { return Ok(None) };
        if url.starts_with("postgresql://") || url.starts_with("postgres://") {
            return Ok(Some(url));
        }
        let message = format!("--store or {STORE_VARIABLE} does not begin with postgresql://");
        Err(Error::new(Code::InvalidSettings, message).with_hint(
            "write postgresql://user:password@host/database; leave it out where the store is a file",
        ))
    }
}

fn require_store(client: &ACTPClient, directory: &Path) -> Result<()> {
    let (network, provider, state) = (client.network(), client.address(), directory.join(".actp"));
    let name = |kernel: &[u8], provider: &[u8]| {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        state.join(format!(
            "paywall-{}-{}-{}.sqlite3",
            network.chain_id,
            hex(kernel),
            hex(provider)
        ))
    };
    let (kernel, address) = (network.kernel.as_slice(), provider.as_slice());
    // An earlier version shortened both addresses.
    let names = [name(kernel, address), name(&kernel[..4], &address[..4])];
    if names.iter().any(|path| path.exists()) {
        return Ok(());
    }
    let message = format!("there is no paywall's store of {provider} in {}", state.display());
    Err(Error::new(Code::StorageUnavailable, message).with_hint(
        "name the service's directory by --state-directory or ACTP_STATE_DIR, its provider by --address \
         or its key, or its database by AGIRAILS_STORE",
    ))
}

/// Opening starts the tasks that deliver and settle what is owed. Here they are started in a runtime
/// of their own, which ends before it runs them: a command that reads must take no lead from the service,
/// and must begin no move that it does not stay for. Connections to a database are each runtime's own.
async fn untended(builder: PaywallBuilder) -> Result<Paywall> {
    super::aside(move || {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            Error::new(Code::Internal, format!("no thread can be started: {error}"))
        })?;
        runtime.block_on(builder.open())
    })
    .await
}
