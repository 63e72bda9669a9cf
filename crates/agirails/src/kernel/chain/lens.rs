//! Many reads of one block in one `eth_call`, through a contract that is never deployed.

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::{SolCall, SolValue, sol};
use serde_json::json;

use super::{
    contracts::{self, Contract, kernel},
    reverts::Revert,
    rpc::Call,
};
use crate::{
    error::{Code, Error, Result},
    protocol::{Terms, Transaction},
};

/// What creates the lens; encoded arguments follow. Built from
/// `crates/agirails-devnet/contracts/Lens.sol`, the `bytecode` of `artifacts/Lens.json` there.
const CODE: &[u8] = include_bytes!("lens.bin");

/// Nodes hold a creation's answer to the limit of deployed code, 24,576 bytes (EIP-170).
const ROOM: usize = 24_000;
/// Beside a read's own data, its answer has five words around it.
const FRAME: usize = 5 * 32;
/// And they hold its data to 49,152 bytes (EIP-3860).
const INPUT_ROOM: usize = 48_000;

sol! {
    struct LensAnswer {
        bool success;
        bytes returnData;
        uint256 codeSize;
    }

    struct LensAnswers {
        uint256 blockNumber;
        uint256 blockTimestamp;
        LensAnswer[] answers;
    }
}

/// One read.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    contract: Contract,
    data: Bytes,
    /// How many bytes its answer takes at most, or mostly.
    room: usize,
}

impl Read {
    /// A function that returns so many words.
    pub(crate) fn new(contract: Contract, call: &impl SolCall, words: usize) -> Self {
        Self { contract, data: call.abi_encode().into(), room: 32 * words }
    }

    pub(super) fn contract(&self) -> Contract {
        self.contract
    }

    pub(super) fn data(&self) -> &Bytes {
        &self.data
    }
}

/// What one read returned.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    contract: Contract,
    outcome: Result<Bytes, Revert>,
    is_contract: bool,
}

impl Answer {
    /// What a plain `eth_call` returned, which cannot tell an account from a silent contract.
    pub(super) fn plain(contract: Contract, outcome: Result<Bytes, Revert>) -> Self {
        let is_contract = !matches!(&outcome, Ok(data) if data.is_empty());
        Self { contract, outcome, is_contract }
    }

    /// One word; `Some(None)` where the contract refused without data, as one does that lacks the
    /// function; `None` for any other answer.
    pub(super) fn probed(&self) -> Option<Option<B256>> {
        match &self.outcome {
            Ok(word) => B256::try_from(word.as_ref()).ok().map(Some),
            Err(Revert::Silent) => Some(None),
            Err(_) => None,
        }
    }

    /// # Errors
    /// [`Code::ContractMissing`] where no code lies.
    pub(crate) fn require_contract(&self) -> Result<()> {
        if self.is_contract { Ok(()) } else { Err(self.contract.missing()) }
    }

    /// # Errors
    /// [`Code::ContractMissing`] where no code lies; the contract's refusal; and
    /// [`Code::InvalidAnswer`] for another shape than the function's.
    pub(crate) fn decode<C: SolCall>(&self) -> Result<C::Return> {
        self.contract.decode::<C>(self.data(C::SIGNATURE)?)
    }

    /// A kernel's view of a transaction.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub(crate) fn transaction(&self, terms: Terms) -> Result<Transaction> {
        let view = self.data(kernel::getTransactionCall::SIGNATURE)?;
        contracts::transaction(self.contract, terms, view)
    }

    fn data(&self, signature: &str) -> Result<&Bytes> {
        self.require_contract()?;
        let data = self.outcome.as_ref().map_err(|revert| Error::from(revert.clone()))?;
        if data.is_empty() {
            // A fallback that swallows everything.
            let Contract { role, address } = self.contract;
            let message = format!("the {role} {address} answers {signature} with nothing");
            return Err(Error::new(Code::InvalidAnswer, message)
                .with_hint("check the contracts' addresses in the network profile"));
        }
        Ok(data)
    }
}

/// Groups of reads that fit into one call each, in their order.
pub(super) fn fitting(reads: &[Read]) -> Vec<&[Read]> {
    let mut groups = vec![];
    let (mut start, mut room, mut input) = (0, 0, 0);
    for (index, read) in reads.iter().enumerate() {
        let (more_room, more_input) =
            (FRAME + read.room, 4 * 32 + read.data.len().next_multiple_of(32));
        if index > start
            && (room + more_room > ROOM || input + more_input > INPUT_ROOM - CODE.len())
        {
            groups.push(&reads[start..index]);
            (start, room, input) = (index, 0, 0);
        }
        room += more_room;
        input += more_input;
    }
    if start < reads.len() {
        groups.push(&reads[start..]);
    }
    groups
}

/// The `eth_call` that makes these reads.
pub(super) fn call(reads: &[Read]) -> Call {
    let targets: Vec<Address> = reads.iter().map(|read| read.contract.address).collect();
    let calls: Vec<Bytes> = reads.iter().map(|read| read.data.clone()).collect();
    let data = Bytes::from([CODE, &(targets, calls).abi_encode_params()].concat());
    // No `to`: the lens is created, for the length of this call.
    Call::new("eth_call", json!([{"data": data}, "latest"]))
}

/// Reads what the lens returned for these reads.
///
/// # Errors
/// [`Code::InvalidAnswer`] where it is not as many answers.
pub(super) fn answers(reads: &[Read], data: &[u8]) -> Result<Vec<Answer>> {
    let LensAnswers { answers, .. } =
        LensAnswers::abi_decode_params(data).map_err(|error| strange().with_source(error))?;
    if answers.len() != reads.len() {
        return Err(strange());
    }
    Ok(reads
        .iter()
        .zip(answers)
        .map(|(read, answer)| Answer {
            contract: read.contract,
            outcome: if answer.success {
                Ok(answer.returnData)
            } else {
                Err(Revert::decode(&answer.returnData))
            },
            is_contract: !answer.codeSize.is_zero(),
        })
        .collect())
}

/// The endpoint's answer is none.
pub(super) fn strange() -> Error {
    Error::new(Code::InvalidAnswer, "the RPC endpoint answers a call without `to` strangely")
        .with_hint("ask another RPC endpoint")
}

/// Whether a node refused a call because of its size, so that less may pass.
pub(super) fn is_too_large(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["code size", "codesize", "contractsize", "code storage", "codestore", "initcode", "init code"]
        .iter()
        .chain(&["out of gas", "outofgas", "gas required exceeds", "too large"])
        .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;
    use crate::protocol::Refusal;

    fn reads(count: usize) -> Vec<Read> {
        let contract = Contract { role: "kernel", address: Address::repeat_byte(0xa1) };
        let call = kernel::getTransactionCall { transactionId: B256::ZERO };
        vec![Read::new(contract, &call, 21); count]
    }

    #[test]
    fn the_code_is_what_the_devnet_compiled() {
        assert_eq!(CODE, &agirails_devnet::artifacts::LENS.bytecode()[..]);
    }

    #[test]
    fn groups_fit_and_nothing_is_lost() {
        assert!(fitting(&[]).is_empty());
        for count in [1, 20, 28, 29, 100] {
            let reads = reads(count);
            let groups = fitting(&reads);
            assert_eq!(groups.iter().map(|group| group.len()).sum::<usize>(), count);
            assert!(groups.iter().all(|group| group.len() * (21 * 32 + FRAME) <= ROOM));
        }
        // One that is too large for itself is still asked for.
        let huge = Read { room: 100_000, ..reads(1).remove(0) };
        assert_eq!(fitting(&[huge.clone(), huge]).len(), 2);
    }

    #[test]
    fn answers_are_read_one_by_one() {
        let words = Bytes::from(
            alloy_primitives::hex!(
                "08c379a0\
                0000000000000000000000000000000000000000000000000000000000000020\
                000000000000000000000000000000000000000000000000000000000000000a\
                5478206d697373696e6700000000000000000000000000000000000000000000"
            )
            .to_vec(),
        );
        let answer = |success, data, size| LensAnswer {
            success,
            returnData: data,
            codeSize: U256::from(size),
        };
        let data = LensAnswers {
            blockNumber: U256::from(7),
            blockTimestamp: U256::from(8),
            answers: vec![
                answer(true, [[0_u8; 32]; 21].concat().into(), 9),
                answer(false, words, 9),
                answer(true, Bytes::new(), 0),
                answer(true, Bytes::new(), 9),
            ],
        }
        .abi_encode_params();
        let found = super::answers(&reads(4), &data).unwrap();
        let decode = |index: usize| found[index].transaction(Terms::MAY_2026).map(drop);
        assert_eq!(decode(0), Ok(()));
        assert_eq!(decode(1), Err(Refusal::TxMissing.into()));
        assert_eq!(decode(2).unwrap_err().code(), Code::ContractMissing);
        assert_eq!(decode(3).unwrap_err().code(), Code::InvalidAnswer);
        assert_eq!(super::answers(&reads(3), &data).unwrap_err().code(), Code::InvalidAnswer);
        assert_eq!(super::answers(&reads(1), &[]).unwrap_err().code(), Code::InvalidAnswer);
    }
}
