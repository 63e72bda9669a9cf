//! What the fuzzers in `fuzz/` reach of this room.

use alloy_primitives::{Address, B256, Bytes, LogData};
use alloy_rpc_types_eth::Log;

use super::{
    contracts::{self, Contract, READERS},
    reverts::Revert,
};
use crate::protocol::{Generation, Terms};

/// Reads what a node says: a byte for the event, how many topics follow, the topics, and the data,
/// which is read as a log, as a transaction and as the reason why something was reverted.
pub fn answer(bytes: &[u8]) {
    let [event, count, rest @ ..] = bytes else { return };
    let (words, _) = rest.as_chunks::<32>();
    let given = &words[..words.len().min(usize::from(count % 4))];
    let data = &rest[32 * given.len()..];
    let (signature, _) = READERS[usize::from(*event) % READERS.len()];
    let topics = std::iter::once(signature).chain(given.iter().map(B256::from)).collect();
    let inner = LogData::new_unchecked(topics, Bytes::copy_from_slice(data));
    let inner = alloy_primitives::Log { address: Default::default(), data: inner };
    let _ = contracts::event(&Log { inner, ..Log::default() });
    let core = Contract { role: "kernel", address: Address::ZERO };
    for generation in Generation::ALL {
        let _ = contracts::transaction(core, Terms::new(generation, 3_600), data);
    }
    let _ = Revert::decode(data).to_string();
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_is_read() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/events");
        let files: Vec<_> = std::fs::read_dir(seeds).unwrap().map(Result::unwrap).collect();
        assert!(!files.is_empty());
        for file in files {
            super::answer(&std::fs::read(file.path()).unwrap());
        }
    }
}
