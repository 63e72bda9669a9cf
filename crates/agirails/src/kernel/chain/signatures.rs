//! Asking a contract wallet whether a signature is its own (EIP-1271, ERC-6492).

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::SolValue;
use serde_json::json;

use super::{
    reader::{Doubt, Reader},
    reverts::{self, Revert},
    rpc::{Answered, Call, parse},
};
use crate::{error::Result, kernel::ContractFinding, protocol::wallet_signature::ContractQuestion};

/// What creates the check; encoded arguments follow. Built from
/// `crates/agirails-devnet/contracts/SignatureCheck.sol`, the `bytecode` of
/// `artifacts/SignatureCheck.json` there.
const CODE: &[u8] = include_bytes!("signature_check.bin");
/// What the check may burn: its own bounds, 1,000,000 for each of two answers and 1,500,000 for what
/// deploys a wallet, do not add up to more with what a creation costs.
const GAS: u64 = 4_000_000;

/// One `eth_call` to each of so many endpoints. Where they contradict each other the signature is
/// nobody's: a node that lies keeps a wallet out, and lets no stranger in.
pub(super) async fn ask(
    reader: &Reader,
    question: &ContractQuestion,
    endpoints: usize,
) -> Result<ContractFinding> {
    let ContractQuestion { wallet, hash, signature } = question;
    let arguments = (*wallet, *hash, signature.clone()).abi_encode_params();
    let data = Bytes::from([CODE, &arguments].concat());
    // No `to`: the check is created, for the length of this call.
    let call = Call::new("eth_call", json!([{"data": data, "gas": U256::from(GAS)}, "latest"]));
    let answers = match endpoints {
        0 | 1 => reader.ask(vec![call], Doubt::Everything).await?,
        _ => reader.ask_each(&call, endpoints).await?,
    };
    let findings = answers.into_iter().map(finding).collect::<Result<Vec<_>>>()?;
    let (first, others) = findings.split_first().ok_or_else(super::lens::strange)?;
    Ok(if others.iter().all(|other| other == first) { *first } else { ContractFinding::Refused })
}

fn finding(answered: Answered) -> Result<ContractFinding> {
    let raw = match answered {
        Ok(raw) => parse::<Bytes>("eth_call", &raw)?,
        // An envelope that cannot be opened, or gas without end.
        Err(refused) if Revert::of(&refused).is_some() || is_out_of_gas(&refused.message) => {
            return Ok(ContractFinding::Refused);
        }
        Err(refused) => return Err(reverts::explain(&refused)),
    };
    match U256::try_from_be_slice(&raw).filter(|_| raw.len() == 32).map(|word| word.to::<u64>()) {
        Some(0) => Ok(ContractFinding::NoContract),
        Some(1) => Ok(ContractFinding::Refused),
        Some(2) => Ok(ContractFinding::Accepted),
        _ => Err(super::lens::strange()),
    }
}

fn is_out_of_gas(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["out of gas", "outofgas", "gas required exceeds"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_what_the_devnet_compiled() {
        assert_eq!(CODE, &agirails_devnet::artifacts::SIGNATURE_CHECK.bytecode()[..]);
    }
}
