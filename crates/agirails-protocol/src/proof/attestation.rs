use alloy_primitives::{B256, U256};
use alloy_sol_types::SolValue;

use crate::TransactionId;

/// What a provider attests about a delivery.
///
/// Source: AIP-4, the EAS schema `bytes32 txId,string resultCID,bytes32 resultHash,uint256
/// deliveredAt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryAttestation {
    /// Which transaction.
    pub transaction_id: TransactionId,
    /// Where the result lies (IPFS CID), empty for nowhere.
    pub result_cid: String,
    /// [`crate::canonical_json::result_hash`] of the result.
    pub result_hash: B256,
    /// When it was delivered, Unix seconds.
    pub delivered_at: u64,
}

impl DeliveryAttestation {
    /// The attested data: the schema's fields, ABI-encoded.
    pub fn encode(&self) -> Vec<u8> {
        let Self { transaction_id, result_cid, result_hash, delivered_at } = self;
        (*transaction_id, result_cid.as_str(), *result_hash, U256::from(*delivered_at))
            .abi_encode_params()
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let (transaction_id, result_cid, result_hash, delivered_at) =
            <(B256, String, B256, U256)>::abi_decode_params(data).ok()?;
        let delivered_at = delivered_at.try_into().ok()?;
        Some(Self { transaction_id, result_cid, result_hash, delivered_at })
    }
}
