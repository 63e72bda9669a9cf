//! Attestations of deliveries, in the Ethereum Attestation Service (AIP-4).
//!
//! V1 kernels keep an attestation's UID and check nothing: a consumer checks before it settles.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolEvent;
use async_trait::async_trait;

use super::{
    ChainKernel,
    contracts::{Contract, eas},
};
use crate::{
    error::{Code, Error, Result},
    kernel::{Attestations, Kernel as _},
    protocol::{Refusal, Transaction, proof::DeliveryAttestation},
};

impl ChainKernel {
    fn attestation_service(&self) -> Result<(Contract, B256)> {
        match (self.network.eas, self.eas_schema) {
            (Some(address), Some(schema)) => {
                Ok((Contract { role: "attestation service (EAS)", address }, schema))
            }
            _ => Err(Error::new(
                Code::NetworkUnavailable,
                "this network has no attestation service for deliveries",
            )
            .with_hint(
                "name contracts.eas and easSchema in the network profile, if there are any",
            )),
        }
    }
}

#[async_trait]
impl Attestations for ChainKernel {
    async fn attest(&self, sender: Address, delivery: &DeliveryAttestation) -> Result<B256> {
        let (service, schema) = self.attestation_service()?;
        let transaction = self.get_transaction(delivery.transaction_id).await?;
        if transaction.provider != sender {
            return Err(Error::refused(Refusal::OnlyProvider, Some(&transaction)));
        }
        let call = eas::attestCall {
            request: eas::AttestationRequest {
                schema,
                data: eas::AttestationRequestData {
                    recipient: transaction.requester,
                    expirationTime: 0,
                    revocable: true,
                    refUID: B256::ZERO,
                    data: delivery.encode().into(),
                    value: U256::ZERO,
                },
            },
        };
        let mined = self.send(sender, "attest", service.address, &call).await?;
        mined
            .logs
            .iter()
            .filter(|log| log.address() == service.address)
            .find_map(|log| eas::Attested::decode_log_data(log.data()).ok())
            .map(|attested| attested.uid)
            .ok_or_else(|| {
                let hash = mined.hash;
                Error::new(Code::InvalidAnswer, format!("the receipt of {hash} has no Attested"))
                    .with_hint("look the attestation up in an explorer of this chain")
                    .with_facts(|facts| facts.transaction_hash = Some(hash))
            })
    }

    async fn verify(&self, uid: B256, transaction: &Transaction) -> Result<DeliveryAttestation> {
        let (service, schema) = self.attestation_service()?;
        let found = self.reader.call(service, &eas::getAttestationCall { uid }).await?;
        let now = if found.expirationTime == 0 { 0 } else { self.now().await? };
        check(uid, &found, schema, now, transaction)
    }
}

fn check(
    uid: B256,
    found: &eas::Attestation,
    schema: B256,
    now: u64,
    transaction: &Transaction,
) -> Result<DeliveryAttestation> {
    let invalid = |problem: String| {
        Error::new(Code::InvalidAttestation, format!("the attestation {uid} {problem}"))
            .with_hint("do not settle on it; ask the provider for an attestation of this delivery")
            .with_facts(|facts| {
                facts.transaction_id = Some(transaction.id);
                facts.field = Some("attestation_uid");
                facts.value = Some(uid.to_string());
            })
    };
    let &Transaction { id, requester, provider, .. } = transaction;
    if uid == B256::ZERO || found.uid != uid {
        return Err(invalid("does not exist".to_owned()));
    }
    if found.schema != schema {
        return Err(invalid(format!("has the schema {}, not {schema}", found.schema)));
    }
    if found.attester != provider {
        return Err(invalid(format!("is by {}, not by the provider {provider}", found.attester)));
    }
    if found.recipient != requester {
        return Err(invalid(format!(
            "is for {}, not for the requester {requester}",
            found.recipient
        )));
    }
    if found.revocationTime != 0 {
        return Err(invalid(format!("was revoked at {}", found.revocationTime)));
    }
    if found.expirationTime != 0 && found.expirationTime <= now {
        return Err(invalid(format!("expired at {}", found.expirationTime)));
    }
    let Some(delivery) = DeliveryAttestation::decode(&found.data) else {
        return Err(invalid("holds no delivery".to_owned()));
    };
    if delivery.transaction_id != id {
        return Err(invalid(format!("is of transaction {}, not of {id}", delivery.transaction_id)));
    }
    Ok(delivery)
}

#[cfg(test)]
mod tests {
    use alloy_sol_types::SolValue as _;

    use super::{super::contracts::kernel::TransactionView, *};

    #[test]
    fn only_an_attestation_of_this_delivery_is_valid() {
        let (requester, provider) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let view = TransactionView::abi_decode(&[[0_u8; 32]; 23].concat()).unwrap();
        let id = B256::repeat_byte(3);
        let view = TransactionView { transactionId: id, requester, provider, ..view };
        let tx = Transaction::try_from(view).unwrap();
        let delivery = DeliveryAttestation {
            transaction_id: id,
            result_cid: "bafy".to_owned(),
            result_hash: B256::repeat_byte(4),
            delivered_at: 1_780_000_000,
        };
        let (uid, schema) = (B256::repeat_byte(5), B256::repeat_byte(6));
        let sound = eas::Attestation {
            uid,
            schema,
            time: 1,
            expirationTime: 0,
            revocationTime: 0,
            refUID: B256::ZERO,
            recipient: requester,
            attester: provider,
            revocable: true,
            data: delivery.encode().into(),
        };
        assert_eq!(check(uid, &sound, schema, 0, &tx), Ok(delivery.clone()));
        let later = eas::Attestation { expirationTime: 11, ..sound.clone() };
        assert_eq!(check(uid, &later, schema, 10, &tx), Ok(delivery.clone()));

        let foreign = DeliveryAttestation { transaction_id: uid, ..delivery };
        for (attestation, problem) in [
            (eas::Attestation { uid: B256::ZERO, ..sound.clone() }, "does not exist"),
            (eas::Attestation { schema: uid, ..sound.clone() }, "schema"),
            (eas::Attestation { attester: requester, ..sound.clone() }, "provider"),
            (eas::Attestation { recipient: provider, ..sound.clone() }, "requester"),
            (eas::Attestation { revocationTime: 1, ..sound.clone() }, "revoked"),
            (eas::Attestation { expirationTime: 10, ..sound.clone() }, "expired"),
            (eas::Attestation { data: vec![1].into(), ..sound.clone() }, "no delivery"),
            (eas::Attestation { data: foreign.encode().into(), ..sound }, "is of transaction"),
        ] {
            let error = check(uid, &attestation, schema, 10, &tx).unwrap_err();
            assert_eq!(error.code(), Code::InvalidAttestation);
            assert!(error.to_string().contains(problem), "{error}");
            assert_eq!(error.facts().transaction_id, Some(id));
        }
    }
}
