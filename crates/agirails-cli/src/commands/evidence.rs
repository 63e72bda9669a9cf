use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use agirails::{
    ACTPClient, Code, Error, Result, TransactionId,
    consumer::Consumer,
    protocol::evidence::{Evidence as File, verify},
};

use super::books::Books;
use crate::{
    failure::DONE,
    output::{Cell, Format, Progress, Record, print},
    parse,
};

/// Write the evidence file of a transaction: what was asked, answered and delivered.
///
/// Its provider's paywall and its requester's records both have what it needs. It is made of the state of
/// whichever of the two this client is.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file holds what was asked and answered in full: give it to whoever decides a dispute, and \
    nobody else. It is made for its owner alone to read, and a file that is there is left as it is. `agirails \
    verify` checks it.\n\n\
    Example:\n  agirails evidence 0x5f16… --out dispute.json --mode mainnet --state-directory /srv/app"
)]
pub struct Evidence {
    /// The transaction
    #[arg(value_name = "ID", value_parser = parse::transaction_id)]
    id: TransactionId,
    /// Where to: ID.json in the working directory where it is left out, - for the standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    books: Books,
    #[command(flatten)]
    pub format: Format,
}

impl Evidence {
    pub async fn run(self) -> Result<u8> {
        let client = self.books.client().await?;
        let progress = Progress::show("gathering what is kept");
        let evidence = self.gather(client).await?;
        drop(progress);
        let text = evidence.to_json()?;
        let path = match self.out {
            Some(path) if path.as_os_str() == "-" => {
                print(&text)?;
                return Ok(DONE);
            }
            Some(path) => path,
            None => PathBuf::from(format!("{}.json", self.id)),
        };
        let (file, bytes) = (path.clone(), text.into_bytes());
        super::aside(move || write_new(&file, &bytes)).await?;
        Record::new()
            .with("transactionId", "transaction", Cell::text(self.id))
            .with("file", "file", Cell::text(path.display()))
            .with("calls", "calls", Cell::number(evidence.calls.len() as u64))
            .with("conclusion", "by itself", Cell::text(verify(&evidence).conclusion().as_str()))
            .print(self.format)?;
        Ok(DONE)
    }

    async fn gather(&self, client: ACTPClient) -> Result<File> {
        let transaction = client.get_transaction(self.id).await?;
        match transaction.provider == client.address() {
            true => self.books.open_as(client).await?.evidence(self.id).await,
            false => Consumer::builder(client).open().await?.evidence(self.id).await,
        }
    }
}

/// Nothing of it is there where it could not be written whole.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let refused = |error: std::io::Error| {
        let there = error.kind() == ErrorKind::AlreadyExists;
        let hint =
            if there { "name another file by --out" } else { "name a file that can be made" };
        let message = format!("{} cannot be written: {error}", path.display());
        Error::new(Code::InvalidSettings, message).with_hint(hint)
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(refused)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = fs::remove_file(path);
        refused(error)
    })
}
