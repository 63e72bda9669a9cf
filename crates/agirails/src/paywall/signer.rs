//! Whether a request comes from its transaction's requester: signed by its key, by its contract, or
//! by a session key that it appointed.

use std::{
    num::NonZeroUsize,
    sync::Mutex,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, hex, keccak256};
use lru::LruCache;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Inner, lock,
    rejection::{Refused, Rejection},
    request::{Incoming, parse_id},
    store::Facts,
};
use crate::{
    error::{Code, Error},
    kernel::ContractFinding,
    protocol::{
        error::SignatureError,
        paid_request::{
            PaidRequest, RequestSignature, SESSION_FORM, SESSION_HEADER, SIGNATURE_FORM,
            SIGNATURE_HEADER, Session, SignedSession,
        },
        wallet_signature::{ContractQuestion, Verdict},
    },
    wall_clock::wall_seconds,
};

/// How many contracts are asked at once.
const QUESTIONS: usize = 8;
/// How long one more waits for its turn.
const TURN: Duration = Duration::from_secs(2);
/// How long a contract is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// For how long a contract's "no" is believed: wallets collect approvals.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// For how long an address without code is taken for a key's: forged signatures of its
/// transactions, which are public, cost no question each.
const NO_CONTRACT_FOR: Duration = Duration::from_secs(60);
/// How many answers of each kind are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// What the contracts of wallets have said.
#[derive(Debug)]
pub(super) struct Wallets {
    permits: Semaphore,
    /// By wallet, hash and signature: what was accepted, and until when what was not.
    answers: Mutex<LruCache<B256, Option<Instant>>>,
    /// Addresses that had no code, and when that was.
    keys: Mutex<LruCache<Address, Instant>>,
}

impl Default for Wallets {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(QUESTIONS),
            answers: Mutex::new(LruCache::new(REMEMBERED)),
            keys: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }
}

impl Wallets {
    /// What is known without asking.
    fn known(&self, question: &ContractQuestion, id: B256) -> Option<bool> {
        let looked = lock(&self.keys).get(&question.wallet).copied();
        if looked.is_some_and(|at| at.elapsed() < NO_CONTRACT_FOR) {
            return Some(false);
        }
        match lock(&self.answers).get(&id).copied()? {
            None => Some(true),
            Some(until) => (Instant::now() < until).then_some(false),
        }
    }

    fn learn(&self, question: &ContractQuestion, id: B256, finding: ContractFinding) -> bool {
        match finding {
            ContractFinding::NoContract => {
                lock(&self.keys).put(question.wallet, Instant::now());
            }
            ContractFinding::Refused => {
                lock(&self.answers).put(id, Some(Instant::now() + REFUSED_FOR));
            }
            ContractFinding::Accepted => {
                lock(&self.answers).put(id, None);
            }
        }
        finding == ContractFinding::Accepted
    }
}

/// The appointment of a session key, where the request names one.
pub(super) fn read_session(given: Option<&str>) -> Result<Option<SignedSession>, Refused> {
    let read = |text: &str| {
        text.trim().parse().map_err(|error: SignatureError| {
            Refused::because(Rejection::malformed_session(), error.into())
        })
    };
    given.map(read).transpose()
}

impl Inner {
    /// Whether it was the requester's contract that said so; nobody said so of an unsigned request.
    pub(super) async fn check_signer(
        &self,
        signature: Option<&RequestSignature>,
        session: Option<&SignedSession>,
        request: &PaidRequest,
        facts: &Facts,
    ) -> Result<bool, Refused> {
        let Some(signature) = signature else {
            self.warn_of_unsigned();
            return Ok(false);
        };
        let network = self.client.network();
        let verdict =
            signature.verdict(request, session, facts.requester, network.chain_id, network.kernel);
        match verdict {
            Ok(Verdict::Signed) => Ok(false),
            Ok(Verdict::AskContract(question)) => match self.ask_wallet(&question, facts).await? {
                true => Ok(true),
                false => Err(Rejection::wrong_signer().into()),
            },
            Err(error) => Err(Refused::because(Rejection::wrong_signer(), error.into())),
        }
    }

    /// Whether the requester is a contract that takes the signature for its own. What it once
    /// accepted is not asked again by this process.
    async fn ask_wallet(
        &self,
        question: &ContractQuestion,
        facts: &Facts,
    ) -> Result<bool, Refused> {
        let process = self.process.get();
        let wallets = &process.wallets;
        let ContractQuestion { wallet, hash, signature } = question;
        let id = keccak256([wallet.as_slice(), hash.as_slice(), signature].concat());
        if let Some(known) = wallets.known(question, id) {
            return Ok(known);
        }
        // One at a time for each transaction: who sends many forgeries waits behind himself.
        let turn = process.lookups.turn(facts.id);
        let _turn =
            timeout(TURN, turn.lock()).await.map_err(|_| Rejection::too_many_contract_checks())?;
        if let Some(known) = wallets.known(question, id) {
            return Ok(known);
        }
        let _permit = timeout(TURN, wallets.permits.acquire())
            .await
            .map_err(|_| Rejection::too_many_contract_checks())?;
        match timeout(ANSWER, self.client.kernel().ask_wallet(question)).await {
            Ok(Ok(finding)) => Ok(wallets.learn(question, id, finding)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let message =
                    format!("the contract of the wallet {wallet} was not reached in time");
                Err(Error::new(Code::EndpointUnreachable, message).into())
            }
        }
    }

    /// What a request must carry, for who did not sign it, or not rightly.
    pub(super) fn signing(&self, incoming: &Incoming) -> Value {
        let network = self.client.network();
        let (chain_id, kernel) = (network.chain_id, network.kernel);
        let id = incoming.payment(network, self.client.address()).ok();
        let id = id.and_then(|payment| parse_id(&payment.transaction_id)).unwrap_or_default();
        let now = wall_seconds();
        let key = incoming.idempotency_key.as_deref().unwrap_or_default();
        let request = PaidRequest { timestamp: now, ..incoming.paid(id, key) };
        let mut typed_data = request.typed_data(chain_id, kernel);
        if incoming.body_hash.is_zero() {
            // It is refused before its body is read.
            typed_data["message"]["bodyHash"] = "keccak256 of the body's bytes".into();
        }
        let session = Session { transaction_id: id, key: Address::ZERO, valid_until: now + 86_400 };
        json!({
            "header": SIGNATURE_HEADER,
            "form": SIGNATURE_FORM,
            "example": format!("t={now},s=0x{}1b", hex::encode([0x11; 64])),
            "typedData": typed_data,
            "signers": [
                "the requester's key: 65 bytes, r, s and v",
                "the requester's contract: whatever its isValidSignature takes (EIP-1271), also in \
                 an ERC-6492 envelope",
                "a session key that the requester appointed",
            ],
            "session": {
                "header": SESSION_HEADER,
                "form": SESSION_FORM,
                "typedData": session.typed_data(chain_id, kernel),
            },
        })
    }
}
