//! A paid call as its requester keeps it for disputes.

use alloy_primitives::{B256, Bytes, keccak256};
use serde::{Deserialize, Serialize};

use super::http::HttpResponse;
use crate::protocol::{
    TransactionId,
    evidence::{MOST_HEADERS, is_credential},
    paid_request::PaidRequest,
    receipt::Receipt,
};

/// What is kept of paid calls, for disputes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keeping {
    pub(super) is_on: bool,
    /// The longest body that is kept.
    pub(super) body_bytes: usize,
    /// How many bytes of bodies are kept in all; the oldest make room.
    pub(super) all_bytes: u64,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { is_on: true, body_bytes: 64 << 10, all_bytes: 256 << 20 }
    }
}

/// The longest headers of a request, or of an answer, that are kept, in all.
const HEADER_BYTES: usize = 8 << 10;

/// A paid call as its requester saw it. It is kept as JSON, and the bodies by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exchange {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) key: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body_hash: B256,
    /// The header that holds the signature; `None` where nobody signs.
    pub(super) signature: Option<String>,
    /// When it was sent, and when its answer was there: Unix seconds of this machine's clock.
    pub(super) sent_at: u64,
    pub(super) answered_at: u64,
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) answer_headers: Vec<(String, String)>,
    pub(super) answer_hash: B256,
    /// The receipt that came with it, also where it proves another answer.
    pub(super) receipt: Option<Receipt>,
    #[serde(skip)]
    pub(super) asked: Option<Bytes>,
    #[serde(skip)]
    pub(super) answered: Option<Bytes>,
}

impl Exchange {
    pub(super) fn new(
        request: &PaidRequest,
        (headers, body): (&[(String, String)], &Bytes),
        response: &HttpResponse,
        answer_hash: B256,
        keeping: Keeping,
    ) -> Self {
        let is_kept = |body: &&Bytes| body.len() <= keeping.body_bytes;
        // Where its compressed form was proven, the body that is at hand is another one.
        let answered = Some(&response.body).filter(|body| keccak256(&body[..]) == answer_hash);
        Self {
            method: request.method.clone(),
            target: request.target.clone(),
            key: request.idempotency_key.clone(),
            headers: shown(headers),
            body_hash: request.body_hash,
            signature: None,
            sent_at: 0,
            answered_at: 0,
            status: response.status,
            content_type: response.header("Content-Type").unwrap_or_default().to_owned(),
            answer_headers: shown(&response.headers),
            answer_hash,
            receipt: None,
            asked: Some(body).filter(is_kept).cloned(),
            answered: answered.filter(is_kept).cloned(),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        // Text, numbers and hashes always have JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn from_json(
        json: &[u8],
        asked: Option<Vec<u8>>,
        answered: Option<Vec<u8>>,
    ) -> serde_json::Result<Self> {
        let kept: Self = serde_json::from_slice(json)?;
        let [asked, answered] = [asked, answered].map(|body| body.map(Bytes::from));
        Ok(Self { asked, answered, ..kept })
    }

    pub(super) fn request(&self, id: TransactionId) -> PaidRequest {
        PaidRequest {
            transaction_id: id,
            method: self.method.clone(),
            target: self.target.clone(),
            body_hash: self.body_hash,
            idempotency_key: self.key.clone(),
            timestamp: 0,
        }
    }
}

/// Headers without credentials and without what evidence has places of its own for.
fn shown(headers: &[(String, String)]) -> Vec<(String, String)> {
    let mut room = HEADER_BYTES;
    let others = headers.iter().filter(|(name, _)| {
        let name = name.to_ascii_lowercase();
        !is_credential(&name) && !name.starts_with("x-agirails-") && !name.starts_with("payment-")
    });
    let fitting = others.filter(|(name, value)| {
        let left = room.checked_sub(name.len() + value.len());
        room = left.unwrap_or(room);
        left.is_some()
    });
    fitting.take(MOST_HEADERS - 1).cloned().collect()
}
