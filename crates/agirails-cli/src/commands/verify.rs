use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use agirails::{
    Code, Error, Refusal, Result,
    protocol::evidence::{Evidence, Finding, LONGEST_FILE, compare_with_chain, verify},
};
use serde_json::json;

use crate::{
    connection::Connection,
    failure::{DONE, FAILED, UNKNOWN},
    output::{Cell, Column, Format, Table, print, print_json, words},
};

const COLUMNS: &[Column] =
    &[words("outcome", "outcome"), words("name", "what"), words("words", "finding")];

/// Verify an evidence file: what was asked, answered and delivered for a transaction.
///
/// It checks hashes, signatures and the way of each call to the delivery proof, offline and without a key.
/// The file shows by that only that it agrees with itself; --chain compares it with the kernel.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 all checks hold, 1 a check fails, 3 no check fails and some could not be made.\n\n\
    Example:\n  agirails verify evidence.json --chain --mode mainnet"
)]
pub struct Verify {
    /// The evidence file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Also compare it with the transaction as the kernel has it; the network options say which kernel
    #[arg(long)]
    chain: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub format: Format,
}

/// The findings as rows, and the worst of them.
struct Findings {
    table: Table,
    has_failed: bool,
    has_gaps: bool,
}

impl Findings {
    fn add(&mut self, outcome: &str, name: &str, words: &str) {
        self.has_failed |= outcome == "fails";
        self.has_gaps |= outcome == "not_checkable";
        let shown = if outcome == "not_checkable" { "not checkable" } else { outcome };
        self.table.row(vec![Cell::both(shown, outcome), Cell::text(name), Cell::text(words)]);
    }

    fn add_all(&mut self, found: &[Finding]) {
        for Finding { name, outcome, words, .. } in found {
            self.add(outcome.as_str(), name, words);
        }
    }

    fn conclusion(&self) -> (&'static str, u8) {
        match (self.has_failed, self.has_gaps) {
            (true, _) => ("fails", FAILED),
            (false, true) => ("incomplete", UNKNOWN),
            (false, false) => ("holds", DONE),
        }
    }
}

impl Verify {
    pub async fn run(self) -> Result<u8> {
        let path = self.file.clone();
        let evidence = super::aside(move || read(&path)).await?;
        let mut findings =
            Findings { table: Table::new(COLUMNS), has_failed: false, has_gaps: false };
        findings.add_all(&verify(&evidence).findings);
        if self.chain {
            self.compare(&evidence, &mut findings).await;
        }
        let (conclusion, status) = findings.conclusion();
        let Format { json, csv } = self.format;
        if json {
            print_json(&json!({
                "transactionId": evidence.transaction.id,
                "conclusion": conclusion,
                "isComparedWithChain": self.chain,
                "findings": findings.table.objects(),
            }))?;
            return Ok(status);
        }
        findings.table.print(self.format, "")?;
        if !csv {
            let words = match conclusion {
                "holds" => "all checks hold",
                "incomplete" => "no check fails, and some could not be made",
                _ => "a check fails",
            };
            let advice = match self.chain {
                true => "",
                false => " (by itself; --chain compares it with the kernel)",
            };
            print(&format!("\n{}: {words}{advice}\n", evidence.transaction.id))?;
        }
        Ok(status)
    }

    /// A kernel that cannot be asked proves nothing, neither for the file nor against it.
    async fn compare(&self, evidence: &Evidence, findings: &mut Findings) {
        let unknown = |findings: &mut Findings, error: &Error| {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            let words = format!("the kernel could not be asked: {error}{hint}");
            findings.add("not_checkable", "chain", &words);
        };
        let kernel = match self.connection.reader().await {
            Ok(kernel) => kernel,
            Err(error) => return unknown(findings, &error),
        };
        let (id, network) = (evidence.transaction.id, kernel.network());
        let (chain_id, address) = (network.chain_id, network.kernel);
        match kernel.get_transaction(id).await {
            Ok(transaction) => {
                let compared = compare_with_chain(evidence, &transaction, chain_id, address);
                findings.add_all(&compared.findings);
            }
            Err(error) if error.refusal() == Some(Refusal::TxMissing) => {
                let own = &evidence.network;
                let words = format!(
                    "the kernel {address} of chain {chain_id} has no such transaction; the file is of \
                     the kernel {} of chain {}",
                    own.kernel, own.chain_id
                );
                findings.add("fails", "chain.transaction", &words);
            }
            Err(error) => unknown(findings, &error),
        }
    }
}

fn read(path: &Path) -> Result<Evidence> {
    let unreadable = |problem: &dyn std::fmt::Display| {
        Error::new(Code::InvalidSettings, format!("{} cannot be read: {problem}", path.display()))
            .with_hint("name an evidence file")
    };
    let mut bytes = vec![];
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    // One byte more shows that it is too long.
    let read = file.take(LONGEST_FILE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is not text in UTF-8"))?;
    Evidence::from_json(&text).map_err(|error| {
        let error = Error::from(error);
        let message = format!("{} is not an evidence file: {error}", path.display());
        let hint = error.hint().unwrap_or("ask for the file again").to_owned();
        Error::new(Code::InvalidEvidence, message).with_hint(hint)
    })
}
