//! The state file of a kernel on a chain: what the chain itself does not keep.

use std::sync::Arc;

use alloy_primitives::{Address, hex};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    error::{Code, Error, Result},
    protocol::{TransactionId, proof::DeliveryProof},
    storage::{self, Attempt, Format, Storage, Store},
    wall_clock::wall_seconds,
};

/// Opens or makes `.actp/chain-<chain id>-<kernel>.sqlite3` ("actc" in its header): proofs of
/// deliveries, and the sender's journal.
///
/// Every commit is durable (`FULL`): the journal must not forget what was sent.
///
/// # Errors
/// The storage codes.
pub(crate) async fn open_file(
    storage: Storage,
    chain_id: u64,
    kernel: Address,
) -> Result<Arc<Store>> {
    let format = Format {
        file: format!("chain-{chain_id}-{}.sqlite3", hex::encode(kernel)),
        identity: Some(format!("kernel {kernel} on chain {chain_id}")),
        former: Some(format!("chain-{chain_id}-{}.sqlite3", hex::encode(&kernel[..4]))),
        application_id: 0x6163_7463,
        schema: &[
            concat!(
                include_str!("schema.sql"),
                include_str!("sender/journal.sql"),
                include_str!("events/schema.sql"),
            ),
            include_str!("sender/prepares.sql"),
        ],
        synchronous: "FULL",
        patience: storage::PATIENCE,
    };
    Store::open(storage, format, |_| Ok(())).await
}

/// Proofs of deliveries, kept from before a delivery is sent.
#[derive(Debug, Clone)]
pub(super) struct ProofStore(Arc<Store>);

/// A proof that was written down, and what stood in its place before.
#[derive(Debug)]
pub(super) struct Kept {
    id: TransactionId,
    proof: String,
    before: Option<String>,
}

impl ProofStore {
    pub(super) fn new(file: Arc<Store>) -> Self {
        Self(file)
    }

    pub(super) async fn proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        self.0
            .read(|connection| {
                let Some(text) = find(connection, id)? else { return Ok(None) };
                let proof = serde_json::from_str(&text).map_err(|error| {
                    let message = format!("the delivery proof of {id} cannot be read");
                    Error::new(Code::StorageDamaged, message).with_source(error)
                })?;
                Ok(Some(proof))
            })
            .await
    }

    /// Writes a proof down, durably.
    pub(super) async fn keep(&self, id: TransactionId, proof: &DeliveryProof) -> Result<Kept> {
        let proof = serde_json::to_string(proof)
            .map_err(|error| Error::new(Code::InvalidJson, error.to_string()))?;
        let before = self
            .0
            .write(|connection| {
                let before = find(connection, id)?;
                put(connection, id, &proof)?;
                Ok(before)
            })
            .await?;
        Ok(Kept { id, proof, before })
    }

    /// Undoes [`Self::keep`] after a refusal, unless another call wrote its own proof meanwhile.
    pub(super) async fn take_back(&self, kept: Kept) -> Result<()> {
        let Kept { id, proof, before } = kept;
        self.0
            .write(|connection| {
                if find(connection, id)?.as_deref() != Some(proof.as_str()) {
                    return Ok(());
                }
                match &before {
                    Some(before) => put(connection, id, before),
                    None => {
                        let sql = "DELETE FROM delivery_proofs WHERE id = ?1";
                        connection.prepare_cached(sql)?.execute([id.as_slice()])?;
                        Ok(())
                    }
                }
            })
            .await
    }
}

fn find(connection: &Connection, id: TransactionId) -> Attempt<Option<String>> {
    let mut statement =
        connection.prepare_cached("SELECT proof FROM delivery_proofs WHERE id = ?1")?;
    Ok(statement.query_row([id.as_slice()], |row| row.get(0)).optional()?)
}

fn put(connection: &Connection, id: TransactionId, proof: &str) -> Attempt<()> {
    let now = wall_seconds();
    let sql = "INSERT OR REPLACE INTO delivery_proofs VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![id.as_slice(), proof, now as i64])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(timestamp: u64) -> DeliveryProof {
        DeliveryProof {
            transaction_id: TransactionId::repeat_byte(1),
            content_hash: TransactionId::repeat_byte(2),
            timestamp,
            delivery_url: None,
            metadata: Default::default(),
        }
    }

    #[tokio::test]
    async fn a_proof_that_is_taken_back_leaves_what_was_there() {
        let file = open_file(Storage::Memory, 1, Address::ZERO).await.unwrap();
        let (notes, id) = (ProofStore::new(file), TransactionId::repeat_byte(1));
        let first = notes.keep(id, &proof(1)).await.unwrap();
        let second = notes.keep(id, &proof(2)).await.unwrap();
        assert_eq!(notes.proof(id).await.unwrap(), Some(proof(2)));
        // Not its own any more.
        notes.take_back(first).await.unwrap();
        assert_eq!(notes.proof(id).await.unwrap(), Some(proof(2)));
        notes.take_back(second).await.unwrap();
        assert_eq!(notes.proof(id).await.unwrap(), Some(proof(1)));
    }

    #[tokio::test]
    async fn the_files_name_tells_chain_and_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::Directory(directory.path().to_owned());
        let file = open_file(storage, 8_453, Address::repeat_byte(0xa1)).await.unwrap();
        let name = file.path().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name, format!("chain-8453-{}.sqlite3", "a1".repeat(20)));
    }
}
