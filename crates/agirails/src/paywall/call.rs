//! A call while it runs: what its handler may know, and its response so far.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use alloy_primitives::{Address, B256, Bytes, hex, keccak256};

use super::{
    Inner, lock,
    price::Charge,
    request::headers_of_variant,
    response::{Response, Whole},
    store::{AnswerRequest, Answered, Claim, Facts, KeptRequest},
};
use crate::{
    error::Result,
    protocol::{
        TransactionId, Usdc, evidence,
        paid_request::{PaidRequest, RequestSignature, SignedSession},
        receipt::CallRecord,
    },
};

/// What a handler may know of the payment it runs for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallPayment {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Who pays.
    pub requester: Address,
    /// What this call takes.
    pub price: Usdc,
    /// What the whole transaction holds.
    pub amount: Usdc,
    /// Unix seconds.
    pub deadline: u64,
    /// The call's own key; `None` for a call that takes the whole transaction.
    pub call_key: Option<String>,
    /// The same for every run of this call, and for no other call: pass it on to whatever the
    /// handler calls, so that a run after a crash does nothing twice.
    pub idempotency_key: String,
    /// The how many-th run of this call it is, from 1.
    pub attempt: u32,
}

impl CallPayment {
    pub(super) fn of(facts: &Facts, key: &str, price: Usdc, attempt: u32, inner: &Inner) -> Self {
        let network = inner.client.network();
        let mut seed = network.chain_id.to_be_bytes().to_vec();
        seed.extend(network.kernel.as_slice());
        seed.extend(facts.id.as_slice());
        seed.extend(key.as_bytes());
        Self {
            transaction_id: facts.id,
            requester: facts.requester,
            price,
            amount: facts.amount,
            deadline: facts.deadline,
            call_key: (!key.is_empty()).then(|| key.to_owned()),
            idempotency_key: hex::encode(&keccak256(seed)[..16]),
            attempt,
        }
    }
}

/// What of a request is kept with its answer, beside what its requester signed.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) digest: B256,
    /// As [`super::Incoming::variant`] has it: with credentials, which are not kept.
    pub(super) variant: Vec<u8>,
    /// `None` where it is too long.
    pub(super) body: Option<Bytes>,
    pub(super) signature: Option<RequestSignature>,
    pub(super) session: Option<SignedSession>,
    pub(super) by_contract: bool,
}

/// What a run is about, and its response so far. The process that runs it may end it: a stream is cut
/// when its transaction is about to be closed, also where its handler or its caller stands still.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) charge: Arc<Charge>,
    pub(super) claim: Claim,
    pub(super) request: PaidRequest,
    /// `None` where requests are not kept.
    pub(super) asked: Option<Asked>,
    pub(super) payment: CallPayment,
    pub(super) response: Mutex<Response>,
    pub(super) is_cut: AtomicBool,
    /// What is to be kept of a stream that was cut, until that is done.
    pub(super) cut: Mutex<Option<AnswerRequest>>,
}

impl Live {
    pub(super) fn new(
        charge: Arc<Charge>,
        claim: Claim,
        request: PaidRequest,
        asked: Option<Asked>,
        payment: CallPayment,
        response: Response,
    ) -> Self {
        let (response, cut) = (Mutex::new(response), Mutex::new(None));
        let is_cut = AtomicBool::new(false);
        Self { charge, claim, request, asked, payment, response, is_cut, cut }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Whether something is left to do for whoever tends the process's streams.
    pub(super) fn has_work(&self) -> bool {
        lock(&self.cut).is_some()
    }

    /// The request as it is kept with this answer.
    pub(super) fn kept_request(&self, whole: &Whole) -> Option<Arc<KeptRequest>> {
        let Asked { digest, variant, body, signature, session, by_contract } =
            self.asked.as_ref()?;
        let headers = headers_of_variant(variant)
            .into_iter()
            .filter(|(name, _)| !evidence::is_credential(name))
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        let PaidRequest { method, target, body_hash, .. } = &self.request;
        let (status, content_type) = (whole.status, whole.content_type.clone());
        Some(Arc::new(KeptRequest {
            digest: *digest,
            method: method.clone(),
            target: target.clone(),
            headers: headers.collect(),
            body_hash: *body_hash,
            body: body.clone(),
            signature: signature.as_ref().map(ToString::to_string),
            session: session.as_ref().map(ToString::to_string),
            by_contract: *by_contract,
            answered: Answered { status, content_type, body_hash: whole.body_hash },
        }))
    }

    pub(super) fn content_hash(&self, whole: &Whole) -> Result<B256> {
        let Whole { status, content_type, body_hash, .. } = whole;
        let (request, status, body_hash) = (&self.request, *status, *body_hash);
        Ok(CallRecord { request, status, content_type, body_hash }.content_hash()?)
    }
}
