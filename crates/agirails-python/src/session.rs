//! Session keys: a wallet signs once, a key of this process signs the calls.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use agirails::{
    Address, Code, Error, SessionKey as Core, TransactionId,
    protocol::{
        paid_request::{
            IDEMPOTENCY_HEADER, PaidRequest, SESSION_HEADER, SIGNATURE_HEADER, TRANSACTION_HEADER,
        },
        wallet_signature::WalletSignature,
    },
};
use pyo3::{prelude::*, types::PyDict};

use crate::{
    client::{ACTPClient, key},
    convert::{self, Any, Maybe, optional},
    errors::OrRaise,
    json,
    run::{Effect::Reads, run_sync},
};

/// The core of a client, blocking or awaitable.
pub fn core_of(client: Any<'_, '_>) -> PyResult<agirails::ACTPClient> {
    match client.cast::<ACTPClient>() {
        Ok(client) => Ok(client.get().core().clone()),
        // The awaitable client has one inside.
        Err(_) => Ok(client.getattr("_client")?.cast::<ACTPClient>()?.get().core().clone()),
    }
}

/// What a paid request signs, from the arguments that Python gives.
pub fn paid_request(
    id: TransactionId,
    method: Any<'_, '_>,
    target: Any<'_, '_>,
    body: Maybe<'_, '_>,
    idempotency_key: Maybe<'_, '_>,
    timestamp: Maybe<'_, '_>,
) -> PyResult<PaidRequest> {
    let text = |field, value| convert::text(Code::InvalidSettings, field, value);
    let body = optional(body, |body| convert::content("body", body))?.unwrap_or_default();
    let at = optional(timestamp, |at| convert::number("timestamp", at, Code::InvalidNumber))?;
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let (method, target) = (text("method", method)?, text("target", target)?);
    let mut request = PaidRequest::new(id, method, target, &body, at.unwrap_or_else(now));
    if let Some(key) = idempotency_key {
        request.idempotency_key = text("idempotency_key", key)?.to_owned();
    }
    Ok(request)
}

/// A key that signs the calls of one transaction in its requester's place.
///
/// For wallets that cannot sign every call: a contract, which the paywall has to ask on chain, or
/// one that asks a person. The wallet signs once, and the paywall asks the chain about that once.
/// Whoever gets the key can make calls with this transaction until its time, and nothing else.
///
/// Args:
///     client: a client of the network that the transaction is on. Its key is not used, except by
///         appoint() without a signature.
///     tx_id: the transaction.
///     valid_until: the last Unix second in which the key may sign.
///     private_key: a key that was kept, as 64 hex digits; a new one where None.
///
/// Raises:
///     ValidationError: an argument is wrong; `field` names it.
///
/// Example:
///     >>> session = SessionKey(client, tx_id, valid_until=int(time.time()) + 3600)
///     >>> session.appoint(wallet.sign_typed_data(session.typed_data))
///     >>> requests.post(url, data=body, headers=session.headers("POST", "/api/generate", body))
///
/// Source: EIP-712, EIP-1271.
#[pyclass(frozen, module = "agirails")]
pub struct SessionKey {
    core: Core,
    client: agirails::ACTPClient,
    signature: Mutex<Option<WalletSignature>>,
}

impl SessionKey {
    fn place(&self) -> (u64, Address) {
        let network = self.client.network();
        (network.chain_id, network.kernel)
    }
}

#[pymethods]
impl SessionKey {
    #[new]
    #[pyo3(signature = (client, tx_id, *, valid_until, private_key=None))]
    fn new(
        client: Any<'_, '_>,
        tx_id: Any<'_, '_>,
        valid_until: Any<'_, '_>,
        private_key: Maybe<'_, '_>,
    ) -> PyResult<Self> {
        let py = client.py();
        let id = convert::transaction_id(tx_id)?;
        let valid_until = convert::number("valid_until", valid_until, Code::InvalidNumber)?;
        let core = match private_key {
            None => Core::random(id, valid_until).or_raise(py)?,
            Some(given) => Core::of(key(given)?, id, valid_until),
        };
        Ok(Self { core, client: core_of(client)?, signature: Mutex::default() })
    }

    /// The session key's address.
    #[getter]
    fn address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::address_object(py, self.core.address())
    }

    /// What the wallet signs by `eth_signTypedData_v4`.
    #[getter]
    fn typed_data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (chain_id, kernel) = self.place();
        json::to_python(py, &self.core.session().typed_data(chain_id, kernel))
    }

    /// The EIP-712 hash of it, 32 bytes in hex.
    #[getter]
    fn signing_hash(&self) -> String {
        let (chain_id, kernel) = self.place();
        self.core.session().signing_hash(chain_id, kernel).to_string()
    }

    /// Takes what the requester's wallet signed.
    ///
    /// Args:
    ///     signature: the wallet's signature of typed_data, as bytes or as hex with 0x; this
    ///         client's own key signs where None.
    ///
    /// Raises:
    ///     SignatureVerificationError: it has fewer than 65 bytes or more than 2048, or 65 that are
    ///         no key's.
    ///     ValidationError: without a signature, and the client has no key (code key_missing).
    ///
    /// Example:
    ///     >>> session.appoint()
    #[pyo3(signature = (signature=None))]
    fn appoint(&self, py: Python<'_>, signature: Maybe<'_, '_>) -> PyResult<()> {
        let signature: WalletSignature = match signature {
            None => {
                let (client, session) = (self.client.clone(), self.core.session());
                run_sync(py, Reads, async move { client.sign_session(&session).await })?
            }
            Some(given) => match given.extract::<String>() {
                Ok(text) => text.parse().map_err(Error::from).or_raise(py)?,
                Err(_) => {
                    let bytes = convert::content("signature", given)?.to_vec();
                    WalletSignature::from_bytes(bytes).map_err(Error::from).or_raise(py)?
                }
            },
        };
        *self.signature.lock().unwrap_or_else(PoisonError::into_inner) = Some(signature);
        Ok(())
    }

    /// The headers of a paid call.
    ///
    /// Args:
    ///     method: the HTTP method, such as "POST".
    ///     target: path and query exactly as they stand in the request line: "/api/generate?x=1".
    ///     body: the request body's bytes.
    ///     idempotency_key: the call's key, "" where it takes the whole transaction.
    ///     timestamp: when it is signed, Unix seconds; now where None.
    ///
    /// Raises:
    ///     ValidationError: appoint() was not called (code key_missing), or an argument is wrong.
    ///
    /// Example:
    ///     >>> session.headers("POST", "/api/generate", b"{}")
    #[pyo3(signature = (method, target, body=None, *, idempotency_key=None, timestamp=None),
        text_signature = "($self, method, target, body=b'', *, idempotency_key='', timestamp=None)")]
    fn headers<'py>(
        &self,
        py: Python<'py>,
        method: Any<'_, 'py>,
        target: Any<'_, 'py>,
        body: Maybe<'_, 'py>,
        idempotency_key: Maybe<'_, 'py>,
        timestamp: Maybe<'_, 'py>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let id = self.core.session().transaction_id;
        let request = paid_request(id, method, target, body, idempotency_key, timestamp)?;
        let signature = self.signature.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let signature = signature.ok_or_else(|| {
            Error::new(Code::KeyMissing, "no wallet has appointed this session key")
                .with_hint("call appoint() with the wallet's signature of typed_data first")
        });
        let signature = signature.or_raise(py)?;
        let (chain_id, kernel) = self.place();
        let headers = PyDict::new(py);
        headers.set_item(TRANSACTION_HEADER, id.to_string())?;
        headers.set_item(SESSION_HEADER, self.core.appointed(signature))?;
        let signed = self.core.sign_request(&request, chain_id, kernel).or_raise(py)?;
        headers.set_item(SIGNATURE_HEADER, signed)?;
        if !request.idempotency_key.is_empty() {
            headers.set_item(IDEMPOTENCY_HEADER, request.idempotency_key)?;
        }
        Ok(headers)
    }

    fn __repr__(&self) -> String {
        let session = self.core.session();
        format!("<SessionKey {} of {}>", session.key, session.transaction_id)
    }
}
