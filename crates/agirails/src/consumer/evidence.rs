//! The evidence file of a transaction that paid for calls: what was asked and answered, as its
//! requester keeps it.

use alloy_primitives::B256;
use serde_json::{Map, Value};

use super::{
    Consumer, Inner,
    exchange::Exchange,
    records::{Payment, Purchase},
};
use crate::{
    error::{Code, Error, Result},
    protocol::{
        Refusal, TransactionId,
        evidence::{
            Body, Evidence, EvidenceAnswer, EvidenceCall, EvidenceDelivery, EvidenceNetwork,
            EvidenceRequest,
        },
        paid_request::RequestSignature,
        proof::DeliveryProof,
        receipt::{Neighbour, climb, merkle_levels, merkle_places},
        wallet_signature::Verdict,
    },
};

impl Consumer {
    /// The evidence file of a transaction that paid for calls of this client, for whoever decides a
    /// dispute: the transaction as the kernel has it now, and each answered call with its request, its
    /// answer and its receipt. Once it is delivered, the delivery proof and each call's way to it too,
    /// as far as the service shows them: it is asked, and a file is made without where it does not
    /// answer. Nothing is sent to the chain.
    ///
    /// The file has what was kept ([`super::ConsumerBuilder::keep_evidence`]). A body that was too long to
    /// keep stands in it as its hash. Headers that carry credentials are not in it. An answer that its
    /// receipt contradicts is in it, and [`verify`](crate::protocol::evidence::verify) says that the
    /// receipt is of another one: that it came is the requester's word.
    ///
    /// # Errors
    /// [`Refusal::TxMissing`] where the kernel does not know the transaction, [`Refusal::OnlyRequester`]
    /// where somebody else pays it, [`Code::NothingServed`] where no answered call of it is kept; the
    /// kernel's and the storage's codes.
    pub async fn evidence(&self, id: TransactionId) -> Result<Evidence> {
        self.inner.evidence(id).await
    }
}

/// What was delivered, as far as it is known here.
struct Delivered {
    root: B256,
    calls: u64,
    /// The levels of the tree, where all its leaves came here.
    levels: Option<Vec<Vec<B256>>>,
}

impl Delivered {
    fn branch(&self, index: u64) -> Option<Vec<Neighbour>> {
        let levels = self.levels.as_ref()?;
        let neighbours =
            merkle_places(self.calls, index).into_iter().map(|(level, place, left)| {
                let node = *levels.get(level as usize)?.get(usize::try_from(place).ok()?)?;
                Some(if left { Neighbour::Left(node) } else { Neighbour::Right(node) })
            });
        neighbours.collect()
    }
}

impl Inner {
    async fn evidence(&self, id: TransactionId) -> Result<Evidence> {
        let transaction = self.client.get_transaction(id).await?;
        if transaction.requester != self.client.address() {
            return Err(Error::refused(Refusal::OnlyRequester, Some(&transaction)));
        }
        let payment = self.records.payment_of(id).await?.ok_or_else(|| nothing_kept(id))?;
        let calls = self.records.calls(payment.id).await?;
        let network = self.client.network();
        let network = EvidenceNetwork::new(network.chain_id, network.kernel, &*network.name);
        let mut evidence = Evidence::new(network, transaction);
        let delivered = match evidence.transaction.was_delivered() {
            true => self.delivered(&payment, id, &calls).await?,
            false => None,
        };
        evidence.delivery = match &delivered {
            Some(delivered) => Some(self.delivery(id, delivered, &calls).await?),
            None => None,
        };
        let mut room = evidence.room()?;
        for call in &calls {
            let Some(kept) = self.records.exchange(call.id).await? else { continue };
            let mut shown = self.shown(&mut evidence, id, &kept)?;
            if let (Some(delivered), Some(receipt)) = (&delivered, &shown.receipt) {
                shown.branch = match delivered.branch(receipt.index) {
                    Some(branch) => Some(branch),
                    None => self.branch_of(&payment, id, call).await.ok(),
                };
                shown
                    .branch
                    .take_if(|branch| climb(receipt.content_hash, branch) != delivered.root);
            }
            if !evidence.add(shown, &mut room) {
                break;
            }
        }
        match evidence.calls.is_empty() {
            true => Err(nothing_kept(id)),
            false => Ok(evidence),
        }
    }

    fn shown(
        &self,
        evidence: &mut Evidence,
        id: TransactionId,
        kept: &Exchange,
    ) -> Result<EvidenceCall> {
        let request = kept.request(id);
        let network = &evidence.network;
        let mut asked = match &kept.signature {
            None => EvidenceRequest::new(&request),
            Some(text) => {
                let signature: RequestSignature = text.parse().map_err(|error| {
                    let message = format!("the kept signature of a request of {id} cannot be read");
                    Error::new(Code::StorageDamaged, message).with_source(error)
                })?;
                let (chain_id, kernel) = (network.chain_id, network.kernel);
                let requester = evidence.transaction.requester;
                let verdict = signature.verdict(&request, None, requester, chain_id, kernel);
                // Ours it is: where no key made it, a contract's wallet did.
                evidence.parties.requester.is_contract |= !matches!(verdict, Ok(Verdict::Signed));
                EvidenceRequest::signed(&request, signature, None, network)
            }
        };
        (asked.headers, asked.body) = (kept.headers.clone(), kept.asked.clone().map(Body::new));
        let mut answer = EvidenceAnswer::hashed(kept.status, &kept.content_type, kept.answer_hash);
        let others = kept.answer_headers.iter();
        let others = others.filter(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        answer.headers.extend(others.cloned());
        answer.body = kept.answered.clone().map(Body::new);
        let mut call = EvidenceCall::new(asked, answer);
        (call.received_at, call.answered_at) = (Some(kept.sent_at), Some(kept.answered_at));
        call.receipt = kept.receipt.clone();
        Ok(call)
    }

    /// What was delivered: by the proof and the receipts where they are at hand, else on the service's
    /// word.
    async fn delivered(
        &self,
        payment: &Payment,
        id: TransactionId,
        calls: &[Purchase],
    ) -> Result<Option<Delivered>> {
        let receipts = calls.iter().filter_map(|call| call.receipt.as_ref());
        let mut leaves: Vec<_> =
            receipts.map(|receipt| (receipt.index, receipt.content_hash)).collect();
        leaves.sort_unstable();
        let is_whole = (0..).zip(&leaves).all(|(place, (index, _))| place == *index);
        let levels = merkle_levels(leaves.iter().map(|(_, hash)| *hash).collect());
        let is_root_of_all =
            |root| is_whole && levels.last().and_then(|top| top.first()) == Some(&root);
        let kept = self.client.get_delivery_proof(id).await?.map(|proof| proof.content_hash);
        let told = match kept {
            Some(root) if is_root_of_all(root) => None,
            _ => self.told_of(payment, id).await,
        };
        let Some(root) = kept.or(told.map(|(root, _)| root)) else { return Ok(None) };
        if is_root_of_all(root) {
            return Ok(Some(Delivered { root, calls: leaves.len() as u64, levels: Some(levels) }));
        }
        // Not all answers came here, so it is the service's to say how many there were.
        let least = leaves.last().map_or(1, |(index, _)| index.saturating_add(1));
        let calls = told.filter(|(said, _)| *said == root).map_or(least, |(_, calls)| calls);
        Ok(Some(Delivered { root, calls, levels: None }))
    }

    /// The content hash that the service says was delivered, and for how many calls.
    async fn told_of(&self, payment: &Payment, id: TransactionId) -> Option<(B256, u64)> {
        let page = self.page(payment, "GET", &format!("/api/payments/{id}"), vec![]).await.ok()?;
        let page: Value = serde_json::from_slice(&page.body).ok()?;
        Some((page.get("contentHash")?.as_str()?.parse().ok()?, page.get("calls")?.as_u64()?))
    }

    async fn delivery(
        &self,
        id: TransactionId,
        delivered: &Delivered,
        calls: &[Purchase],
    ) -> Result<EvidenceDelivery> {
        let receipts = calls.iter().filter_map(|call| call.receipt.as_ref());
        let last = receipts.map(|receipt| receipt.delivered_at).max().unwrap_or_default();
        let kept = self.client.get_delivery_proof(id).await?;
        // The chain keeps no proof: this one says what the service says.
        let proof = kept.unwrap_or_else(|| DeliveryProof {
            transaction_id: id,
            content_hash: delivered.root,
            timestamp: last.saturating_mul(1_000),
            delivery_url: None,
            metadata: Map::new(),
        });
        Ok(EvidenceDelivery::new(proof, delivered.calls))
    }
}

fn nothing_kept(id: TransactionId) -> Error {
    let message = format!("this consumer keeps no answered call of the transaction {id}");
    Error::new(Code::NothingServed, message)
        .with_facts(|facts| facts.transaction_id = Some(id))
        .with_hint(
            "ask the consumer whose state directory paid for it; keep_evidence=False keeps nothing, and \
             what ended more than 90 days ago is forgotten",
        )
}
