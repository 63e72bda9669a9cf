//! The evidence file of a transaction: what was asked, answered and delivered, from what is kept.

use std::sync::Arc;

use super::{
    Inner, Paywall, outbox,
    repeat::Repeat,
    store::{CallId, CallRow, Kept, KeptRequest, Known, Payment},
};
use crate::{
    error::{Code, Error, Result},
    protocol::{
        Refusal, Transaction, TransactionId,
        evidence::{
            Body, Evidence, EvidenceAnswer, EvidenceCall, EvidenceDelivery, EvidenceNetwork,
            EvidenceRequest, MOST_CALLS, MOST_HEADERS, is_credential,
        },
        paid_request::{PaidRequest, RequestSignature, SignedSession},
    },
};

impl Paywall {
    /// The evidence file of a transaction, for whoever decides a dispute: the transaction as the kernel
    /// has it now, each answered call with its request, its answer and its receipt, and, once it is
    /// delivered, the delivery proof and each call's way to it. Nothing is sent or changed.
    ///
    /// The file has what was kept. Without [`super::Settings::keep_requests`] it has no calls; a body
    /// that was too long to keep stands in it as its hash. `Authorization`, `Cookie`, `Set-Cookie` and
    /// other headers that carry credentials are not in it. Before the delivery it has no delivery proof.
    /// [`verify`](crate::protocol::evidence::verify) says of such a file that it is incomplete.
    ///
    /// It is at most [`LONGEST_FILE`](crate::protocol::evidence::LONGEST_FILE) bytes long and has at most [`MOST_CALLS`] calls: bodies that do
    /// not fit are left out, then the last calls. `delivery.calls` says how many there were.
    ///
    /// # Errors
    /// [`Refusal::TxMissing`] where the kernel does not know the transaction, [`Refusal::OnlyProvider`]
    /// where it pays somebody else, [`Code::NothingServed`] where this paywall answered no call with it,
    /// or has forgotten it ([`super::Settings::keep`]); the kernel's and the storage's codes.
    ///
    /// ```
    /// use agirails::{
    ///     ACTPClient, CreateTransaction, PrivateKey, Usdc,
    ///     paywall::{Answer, Charge, Entry, Incoming, Paywall, Settings, Unsigned},
    ///     protocol::{evidence::{Conclusion, verify}, paid_request::PaidRequest},
    /// };
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// let client = async |key: &PrivateKey| {
    ///     ACTPClient::builder()
    ///         .private_key(key.clone())
    ///         .state_directory(directory.path())
    ///         .connect()
    ///         .await
    /// };
    /// let [provider, requester]: [PrivateKey; 2] = ["1", "2"].map(|n| format!("{n:0>64}").parse().unwrap());
    /// let paywall = Paywall::builder(client(&provider).await?).open().await?;
    /// let charge = paywall.charge(Charge::new("POST /api/generate", "0.10".parse()?))?;
    ///
    /// let consumer = client(&requester).await?;
    /// let (now, network) = (consumer.now().await?, consumer.network());
    /// let order = CreateTransaction::new(
    ///     consumer.address(), paywall.client().address(), Usdc(100_000), now + 3_600,
    /// );
    /// let id = consumer.create_transaction(&order).await?;
    /// consumer.link_escrow(id).await?;
    /// let request = PaidRequest::new(id, "POST", "/api/generate", b"{}", now);
    /// let mut incoming = Incoming::new("POST", "/api/generate", b"{}");
    /// incoming.transaction_id = Some(id.to_string());
    /// incoming.signature =
    ///     Some(requester.sign_request(&request, network.chain_id, network.kernel)?);
    /// let Entry::Run(run) = paywall.enter(&charge, &incoming, None).await else { panic!() };
    /// run.finish(Answer::new(200, "done")).await;
    ///
    /// let evidence = paywall.evidence(id).await?;
    /// let found = verify(&evidence);
    /// assert_ne!(found.conclusion(), Conclusion::Fails);
    /// assert!(evidence.to_json()?.contains("done"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn evidence(&self, id: TransactionId) -> Result<Evidence> {
        self.tend();
        self.inner.whose(id).await?.evidence(id).await
    }
}

impl Inner {
    async fn evidence(self: &Arc<Self>, id: TransactionId) -> Result<Evidence> {
        let transaction = self.client.get_transaction(id).await?;
        if transaction.provider != self.client.address() {
            return Err(Error::refused(Refusal::OnlyProvider, Some(&transaction)));
        }
        let payment = self.store.payment(id).await?.filter(|payment| payment.calls > 0);
        let payment = payment.ok_or_else(|| nothing_served(id))?;
        let rows = self.store.calls(id).await?;
        let network = self.client.network();
        let network = EvidenceNetwork::new(network.chain_id, network.kernel, &*network.name);
        let mut evidence = Evidence::new(network, transaction);
        evidence.delivery = self.delivery(&evidence.transaction, &payment, &rows).await?;
        let mut room = evidence.room()?;
        for row in rows.iter().take(MOST_CALLS) {
            let call = CallId { transaction: id, key: row.key.clone() };
            let Some(kept) = self.store.request(&call).await? else { continue };
            let call = self.call(&evidence, &payment, row, call, &kept).await?;
            if !evidence.add(call, &mut room) {
                break;
            }
            evidence.parties.requester.is_contract |= kept.by_contract;
        }
        Ok(evidence)
    }

    /// What was delivered, where it was.
    async fn delivery(
        &self,
        transaction: &Transaction,
        payment: &Payment,
        rows: &[CallRow],
    ) -> Result<Option<EvidenceDelivery>> {
        // The kernel keeps a proof from before its delivery stands.
        if !transaction.was_delivered() {
            return Ok(None);
        }
        let kept = self.client.get_delivery_proof(transaction.id).await?;
        // Another machine may have delivered it.
        let ours = || {
            let answered_at = rows.iter().map(|row| row.answered_at).max().unwrap_or_default();
            let content_hash = payment.content_hash?;
            Some(outbox::delivery_proof(transaction.id, content_hash, answered_at))
        };
        Ok(kept.or_else(ours).map(|proof| EvidenceDelivery::new(proof, payment.calls)))
    }

    async fn call(
        self: &Arc<Self>,
        evidence: &Evidence,
        payment: &Payment,
        row: &CallRow,
        call: CallId,
        kept: &KeptRequest,
    ) -> Result<EvidenceCall> {
        let id = call.transaction;
        let mut answer = EvidenceAnswer::hashed(
            kept.answered.status,
            &kept.answered.content_type,
            kept.answered.body_hash,
        );
        if let Known::Answered(Kept { answer: Some(found), .. }) =
            self.store.known(&call, kept.digest).await?
        {
            let found = Repeat::whole(self, call.clone(), found).await?;
            let others = found.headers.iter().filter(|(name, _)| {
                !name.eq_ignore_ascii_case("content-type") && !is_credential(name)
            });
            let others =
                others.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into()));
            answer.headers.extend(others);
            answer.headers.truncate(MOST_HEADERS);
            answer.body = Some(Body::new(found.body));
        }
        let asked = asked(&evidence.network, id, &row.key, kept)?;
        let mut made = EvidenceCall::new(asked, answer);
        let requester = payment.facts.requester;
        let receipt = self
            .receipt(id, requester, &row.key, row.index, row.content_hash, row.answered_at)
            .await;
        made.receipt = Some(receipt);
        // Before the delivery more calls may come, and there is no way to a root yet.
        if evidence.delivery.is_some() {
            made.branch = Some(self.branch(payment, row.index).await?);
        }
        Ok(made)
    }
}

fn asked(
    network: &EvidenceNetwork,
    id: TransactionId,
    key: &str,
    kept: &KeptRequest,
) -> Result<EvidenceRequest> {
    let request = PaidRequest {
        transaction_id: id,
        method: kept.method.clone(),
        target: kept.target.clone(),
        body_hash: kept.body_hash,
        idempotency_key: key.to_owned(),
        timestamp: 0,
    };
    let damaged = |error| {
        let message = format!("the kept signature of a request of {id} cannot be read");
        Error::new(Code::StorageDamaged, message).with_source(error)
    };
    let signature = kept.signature.as_deref().map(str::parse::<RequestSignature>);
    let session = kept.session.as_deref().map(str::parse::<SignedSession>);
    let (signature, session) =
        (signature.transpose().map_err(damaged)?, session.transpose().map_err(damaged)?);
    let mut asked = match signature {
        Some(signature) => EvidenceRequest::signed(&request, signature, session, network),
        None => EvidenceRequest::new(&request),
    };
    let mut headers = kept.headers.clone();
    headers.truncate(MOST_HEADERS);
    (asked.headers, asked.body) = (headers, kept.body.clone().map(Body::new));
    Ok(asked)
}

fn nothing_served(id: TransactionId) -> Error {
    let message = format!("this paywall keeps no answered call of the transaction {id}");
    Error::new(Code::NothingServed, message)
        .with_facts(|facts| facts.transaction_id = Some(id))
        .with_hint(
            "ask the paywall whose store served it; what ended longer ago than `keep` is forgotten",
        )
}
