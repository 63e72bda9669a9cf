//! The paywall for web frameworks: `agirails.flask` and `agirails.asgi` carry requests in and
//! responses out, and decide nothing.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agirails::{
    Code, Storage, Usdc,
    fork::PerProcess,
    paywall::{
        Answer as CoreAnswer, CallPayment as CorePayment, Charge, Deliver, Entry, Incoming, Level,
        Notice, Paywall, Settings, Streaming, Ticket, Unsigned,
    },
};
use alloy_primitives::keccak256;
use pyo3::{
    IntoPyObjectExt,
    exceptions::PyRuntimeError,
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyString, PyTuple},
};

use crate::{
    client::ACTPClient,
    convert::{self, Any, Maybe, optional},
    errors::OrRaise,
    run::{
        Effect::{Commits, Moves, Reads},
        Style, run, run_sync,
    },
};

pyo3::import_exception!(agirails._paywall, BrokenOff);

type Object = PyResult<Py<PyAny>>;

/// Larger bodies are hashed with the GIL released; handing it over costs more for smaller ones.
const LARGE: usize = 32 << 10;

/// A provider's paywall, for the adapters: use agirails.flask.Paywall or agirails.asgi.Paywall.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Paywall {
    core: Paywall,
    settings: Settings,
    style: Style,
}

#[pymethods]
impl _Paywall {
    /// Opens the store, and begins to deliver what it owes. Blocks in either style.
    #[new]
    #[pyo3(signature = (client, awaitable, settings))]
    fn new(
        py: Python<'_>,
        client: &ACTPClient,
        awaitable: bool,
        settings: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let (settings, place) = read_settings(settings)?;
        let mut builder =
            Paywall::builder(client.core().clone()).settings(settings.clone()).on_notice(note);
        builder = match place {
            Place::OfTheClient => builder,
            Place::Directory(path) => builder.storage(Storage::Directory(path)),
            Place::Database(url) => builder.database(url),
        };
        let core = run_sync(py, Reads, builder.open())?;
        let style = if awaitable { Style::Async } else { Style::Sync };
        Ok(Self { core, settings, style })
    }

    /// Puts a price on a route, which the price page shows from then on; None for a price that
    /// comes with each request. Without a name, only checks that it could.
    fn charge(
        &self,
        py: Python<'_>,
        name: Maybe<'_, '_>,
        price: Maybe<'_, '_>,
        calls: Maybe<'_, '_>,
        min_seconds_left: Maybe<'_, '_>,
        deliver: Maybe<'_, '_>,
    ) -> PyResult<Option<_Charge>> {
        let text = |name| convert::text(Code::InvalidSettings, "name", name);
        let name = optional(name, text)?;
        let route = name.unwrap_or_default();
        let mut charge = match price {
            Some(price) => Charge::new(route, convert::price("price", price)?),
            None => Charge::per_request(route),
        };
        if let Some(value) = calls {
            charge = charge.calls(match convert::count("calls", value)? {
                0 => {
                    let hint = "pass how many calls one transaction pays for, or leave calls out";
                    let (code, problem) = (Code::InvalidNumber, "is no bundle");
                    return Err(convert::refuse(py, code, "calls", "0", problem, hint));
                }
                calls => calls,
            });
        }
        if let Some(value) = min_seconds_left {
            let seconds = convert::number("min_seconds_left", value, Code::InvalidNumber)?;
            charge = charge.min_seconds_left(seconds);
        }
        if let Some(value) = deliver {
            charge = charge.deliver(read_deliver(value)?);
        }
        if name.is_none() {
            self.core.check_charge(&charge).or_raise(py)?;
            return Ok(None);
        }
        Ok(Some(_Charge(self.core.charge(charge).or_raise(py)?)))
    }

    /// Lets a request in, which is a _Ticket, or answers it, which is an _Answer.
    #[expect(clippy::too_many_arguments, reason = "a request's own parts")]
    fn enter(
        &self,
        py: Python<'_>,
        charge: &_Charge,
        method: &str,
        target: &Bound<'_, PyString>,
        headers: Headers<'_>,
        body: &Bound<'_, PyBytes>,
        price: Maybe<'_, '_>,
    ) -> Object {
        let price = optional(price, |price| convert::price("price", price))?;
        let incoming = incoming(py, method, target, headers, body);
        let (core, charge, style) = (self.core.clone(), charge.0.clone(), self.style);
        let call = async move { Ok((core.enter(&charge, &incoming, price).await, style)) };
        run(py, self.style, Commits, call, |py, (entry, style)| match entry {
            Entry::Run(ticket) => {
                let payment = ticket.payment().clone();
                _Ticket { ticket: Mutex::new(Some(ticket)), payment, style }.into_py_any(py)
            }
            Entry::Answer(answer) => answer_object(py, answer),
        })
    }

    /// Answers a free route, below the path that the application is mounted under; None for all
    /// other paths.
    #[pyo3(signature = (method, target, headers, body, mount=""))]
    fn page(
        &self,
        py: Python<'_>,
        method: &str,
        target: &Bound<'_, PyString>,
        headers: Headers<'_>,
        body: &Bound<'_, PyBytes>,
        mount: &str,
    ) -> Object {
        let incoming = incoming(py, method, target, headers, body);
        let (core, mount) = (self.core.clone(), mount.to_owned());
        let call = async move { Ok(core.page_under(&mount, &incoming).await) };
        run(py, self.style, Commits, call, |py, answer| match answer {
            Some(answer) => answer_object(py, answer),
            None => Ok(py.None()),
        })
    }

    /// The refusal of a body that could not be read.
    fn unreadable_body(&self, charge: &_Charge) -> _Answer {
        self.core.unreadable_body(&charge.0).into()
    }

    /// The refusal of a body longer than max_body_bytes.
    fn oversized_body(&self, charge: &_Charge) -> _Answer {
        self.core.oversized_body(&charge.0).into()
    }

    /// Ends an open payment now: delivers it where something was served, else gives it back.
    fn close(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Object {
        let id = convert::transaction_id(tx_id)?;
        let core = self.core.clone();
        run(py, self.style, Moves, async move { core.close(id).await }, convert::plain)
    }

    /// How many deliveries and refunds are owed on chain.
    fn owed(&self, py: Python<'_>) -> Object {
        let core = self.core.clone();
        run(py, self.style, Reads, async move { core.owed().await }, convert::plain)
    }

    /// The longest request body that adapters read.
    #[getter]
    fn max_body_bytes(&self) -> usize {
        self.settings.max_body_bytes
    }

    /// The longest streamed response that is kept for repeats.
    #[getter]
    fn max_kept_stream_bytes(&self) -> usize {
        self.settings.max_kept_stream_bytes
    }
}

/// A price on a route.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Charge(Arc<Charge>);

/// The headers that a paywall reads: transaction id, signature, idempotency key, highest price.
type Headers<'py> = (Header<'py>, Header<'py>, Header<'py>, Header<'py>);
type Header<'py> = Option<Bound<'py, PyString>>;

fn incoming(
    py: Python<'_>,
    method: &str,
    target: &Bound<'_, PyString>,
    (transaction_id, signature, idempotency_key, max_price): Headers<'_>,
    body: &Bound<'_, PyBytes>,
) -> Incoming {
    let text = |header: Option<Bound<'_, PyString>>| {
        // What is no Unicode text is malformed either way, and refused as such.
        header.map(|header| header.to_string_lossy().into_owned())
    };
    Incoming {
        method: method.to_ascii_uppercase(),
        target: target.to_string_lossy().into_owned(),
        body_hash: hash(py, body.as_bytes()),
        transaction_id: text(transaction_id),
        signature: text(signature),
        idempotency_key: text(idempotency_key),
        max_price: text(max_price),
    }
}

fn hash(py: Python<'_>, bytes: &[u8]) -> alloy_primitives::B256 {
    match bytes.len() {
        0..LARGE => keccak256(bytes),
        _ => py.detach(|| keccak256(bytes)),
    }
}

/// An HTTP response of the paywall.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Answer {
    answer: CoreAnswer,
    /// From which header on it is the paywall's, where all before is the handler's own answer.
    own: Option<usize>,
}

impl From<CoreAnswer> for _Answer {
    fn from(answer: CoreAnswer) -> Self {
        Self { answer, own: None }
    }
}

#[pymethods]
impl _Answer {
    #[getter]
    fn status(&self) -> u16 {
        self.answer.status
    }

    /// The headers to add to the handler's own response, as WSGI has them; None where another
    /// one has to be answered in its place.
    #[getter]
    fn added<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let added = self.own.and_then(|own| self.answer.headers.get(own..));
        added.map(|added| text_headers(py, added)).transpose()
    }

    /// As WSGI has them: pairs of text, a byte a character.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        text_headers(py, &self.answer.headers)
    }

    /// As ASGI has them: pairs of bytes, the names in lower case.
    #[getter]
    fn raw_headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        raw_headers(py, &self.answer.headers)
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.answer.body)
    }
}

type Pairs = [(String, Vec<u8>)];

fn text_headers<'py>(py: Python<'py>, headers: &Pairs) -> PyResult<Bound<'py, PyList>> {
    let pairs = headers.iter().map(|(name, value)| {
        let value: String = value.iter().map(|byte| char::from(*byte)).collect();
        (name.as_str(), value)
    });
    PyList::new(py, pairs.collect::<Vec<_>>())
}

fn raw_headers<'py>(py: Python<'py>, headers: &Pairs) -> PyResult<Bound<'py, PyList>> {
    let pairs = headers.iter().map(|(name, value)| {
        let name = PyBytes::new(py, name.to_ascii_lowercase().as_bytes());
        (name, PyBytes::new(py, value))
    });
    PyList::new(py, pairs.collect::<Vec<_>>())
}

fn answer_object(py: Python<'_>, answer: CoreAnswer) -> Object {
    _Answer::from(answer).into_py_any(py)
}

/// Pairs of str or bytes, as WSGI or ASGI has them.
fn read_headers(headers: &Bound<'_, PyList>) -> PyResult<Vec<(String, Vec<u8>)>> {
    let text = |value: Bound<'_, PyAny>| -> PyResult<Vec<u8>> {
        match value.cast::<PyBytes>() {
            Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
            Err(_) => Ok(latin1(value.cast::<PyString>()?)),
        }
    };
    let pair = |pair: Bound<'_, PyAny>| {
        let pair = pair.cast::<PyTuple>()?.clone();
        let name = String::from_utf8_lossy(&text(pair.get_item(0)?)?).into_owned();
        Ok((name, text(pair.get_item(1)?)?))
    };
    headers.iter().map(pair).collect()
}

/// WSGI's text is bytes in disguise. What is none of it goes out as UTF-8.
fn latin1(text: &Bound<'_, PyString>) -> Vec<u8> {
    let text = text.to_string_lossy();
    let bytes = text.chars().map(|char| u8::try_from(u32::from(char)).ok());
    bytes.collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.as_bytes().to_vec())
}

/// What a handler may know of the payment it runs for.
///
/// Amounts are base units of USDC (1 USDC = 1_000_000).
#[pyclass(frozen, eq, module = "agirails._agirails")]
#[derive(PartialEq)]
pub struct CallPayment(CorePayment);

#[pymethods]
impl CallPayment {
    /// The transaction's id, 0x and 64 hex digits.
    #[getter]
    fn transaction_id(&self) -> String {
        self.0.transaction_id.to_string()
    }

    /// The address of who pays.
    #[getter]
    fn requester<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::address_object(py, self.0.requester)
    }

    /// What this call takes, base units of USDC. A call without an Idempotency-Key takes the
    /// whole transaction.
    #[getter]
    fn price(&self) -> u64 {
        self.0.price.0
    }

    /// What the whole transaction holds, base units of USDC.
    #[getter]
    fn amount(&self) -> u64 {
        self.0.amount.0
    }

    /// Until when it can be delivered, Unix seconds.
    #[getter]
    fn deadline(&self) -> u64 {
        self.0.deadline
    }

    /// The call's Idempotency-Key; None for a call that takes the whole transaction.
    #[getter]
    fn call_key(&self) -> Option<&str> {
        self.0.call_key.as_deref()
    }

    /// 32 hex digits that are the same for every run of this call, and for no other call: pass
    /// them on to whatever the handler calls, so that a run after a crash does nothing twice.
    #[getter]
    fn idempotency_key(&self) -> &str {
        &self.0.idempotency_key
    }

    /// The how many-th run of this call it is, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.0.attempt
    }

    fn __repr__(&self) -> String {
        let payment = &self.0;
        format!("<CallPayment {} USDC of {}>", payment.price, payment.transaction_id)
    }
}

/// The right to run a handler once.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Ticket {
    /// None once it was ended. Dropped with a ticket in it, it gives the claim back.
    ticket: Mutex<Option<Box<Ticket>>>,
    payment: CorePayment,
    style: Style,
}

impl _Ticket {
    fn take(&self) -> PyResult<Box<Ticket>> {
        lock(&self.ticket).take().ok_or_else(ended)
    }
}

#[pymethods]
impl _Ticket {
    #[getter]
    fn payment(&self) -> CallPayment {
        CallPayment(self.payment.clone())
    }

    /// Ends the run. What comes back is what has to be answered.
    fn finish(
        &self,
        py: Python<'_>,
        status: u16,
        headers: &Bound<'_, PyList>,
        body: &Bound<'_, PyBytes>,
    ) -> Object {
        let (headers, body) = (read_headers(headers)?, body.as_bytes().to_vec());
        let ticket = self.take()?;
        let call = async move {
            let (given, length) = (headers.clone(), body.len());
            let answer = ticket.finish(CoreAnswer { status, headers, body }).await;
            let is_own = (answer.status, answer.body.len()) == (status, length)
                && answer.headers.starts_with(&given);
            Ok(_Answer { answer, own: is_own.then_some(given.len()) })
        };
        run(py, self.style, Commits, call, |py, answer| answer.into_py_any(py))
    }

    /// Ends a run that raised: the claim is free again. Without effect where it was ended.
    fn fail(&self, py: Python<'_>, problem: String) -> Object {
        let ticket = lock(&self.ticket).take();
        let call = async move {
            if let Some(ticket) = ticket {
                ticket.fail(&problem).await;
            }
            Ok(())
        };
        run(py, self.style, Commits, call, convert::nothing)
    }

    /// Ends a run that answers 2xx in a stream.
    fn stream(&self, status: u16, headers: &Bound<'_, PyList>) -> PyResult<_Streaming> {
        let headers = read_headers(headers)?;
        let ticket = self.take()?;
        match ticket.stream(status, headers) {
            Ok(streaming) => {
                let (status, headers) = streaming.head();
                let streaming = Mutex::new(Some(streaming));
                Ok(_Streaming { streaming, status, headers, style: self.style })
            }
            Err(ticket) => {
                *lock(&self.ticket) = Some(ticket);
                Err(PyRuntimeError::new_err(format!("{status} is no success: fail the ticket")))
            }
        }
    }
}

/// A run whose answer is leaving in pieces.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Streaming {
    streaming: Mutex<Option<Streaming>>,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    style: Style,
}

impl _Streaming {
    fn take(&self) -> PyResult<Streaming> {
        lock(&self.streaming).take().ok_or_else(ended)
    }
}

#[pymethods]
impl _Streaming {
    #[getter]
    fn status(&self) -> u16 {
        self.status
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        text_headers(py, &self.headers)
    }

    #[getter]
    fn raw_headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        raw_headers(py, &self.headers)
    }

    /// How long a caller who does not read may hold the stream up, seconds.
    #[getter]
    fn patience(&self) -> PyResult<f64> {
        let patience = lock(&self.streaming).as_ref().map(Streaming::patience);
        patience.map(|patience| patience.as_secs_f64()).ok_or_else(ended)
    }

    /// One more piece, on its way to the caller. Raises BrokenOff where nobody would pay for it any
    /// more: then the stream must be broken off.
    fn push(&self, py: Python<'_>, piece: &Bound<'_, PyBytes>) -> PyResult<()> {
        let push = |piece: &[u8]| match &mut *lock(&self.streaming) {
            Some(streaming) => {
                streaming.push(piece).then_some(()).ok_or_else(|| BrokenOff::new_err(()))
            }
            None => Err(ended()),
        };
        match piece.as_bytes() {
            small if small.len() < LARGE => push(small),
            large => py.detach(|| push(large)),
        }
    }

    /// The stream is at its end. Whether it was kept; where it was not, it must be broken off.
    fn finish(&self, py: Python<'_>) -> Object {
        let streaming = self.take()?;
        run(py, self.style, Commits, async move { Ok(streaming.finish().await) }, convert::plain)
    }

    /// The stream broke off: the claim is free again. Without effect where it was ended.
    fn fail(&self, py: Python<'_>, problem: String) -> Object {
        let streaming = lock(&self.streaming).take();
        let call = async move {
            if let Some(streaming) = streaming {
                streaming.fail(&problem).await;
            }
            Ok(())
        };
        run(py, self.style, Commits, call, convert::nothing)
    }
}

fn ended() -> PyErr {
    PyRuntimeError::new_err("this run was ended before")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notices that Python's logging has not been told yet, of all paywalls of this process.
///
/// They come up on threads of the runtime, which must not call into Python: one that waits for
/// the GIL while the interpreter exits takes the process down with it. So they are queued, and
/// Python fetches them: after every call, and from a thread of its own for what comes up while
/// nobody calls. A forked child begins with a queue of its own.
static NOTICES: PerProcess<Mutex<Queue>> = PerProcess::new();
/// Where nobody fetches them, memory must not fill up.
const MOST_NOTICES: usize = 10_000;

#[derive(Default)]
struct Queue {
    notices: VecDeque<Notice>,
    dropped: u64,
}

fn note(notice: &Notice) {
    let mut queue = lock(NOTICES.get_or_init(Mutex::default));
    if queue.notices.len() < MOST_NOTICES {
        queue.notices.push_back(notice.clone());
    } else {
        queue.dropped += 1;
    }
}

/// Fetches what came up since the last time: level (as `logging` counts), request id, message.
#[pyfunction]
pub fn _notices() -> Vec<(u8, Option<String>, String)> {
    let Queue { notices, dropped } =
        std::mem::take(&mut *lock(NOTICES.get_or_init(Mutex::default)));
    let lost = (dropped > 0)
        .then(|| (30, None, format!("{dropped} notices were dropped: nobody fetched them")));
    let told = notices.into_iter().map(|Notice { level, request_id, message }| {
        let level = match level {
            Level::Info => 20,
            Level::Warning => 30,
            Level::Error => 40,
        };
        (level, request_id, message)
    });
    told.chain(lost).collect()
}

enum Place {
    OfTheClient,
    Directory(std::path::PathBuf),
    Database(String),
}

/// Settings by name; those that are None are left at their defaults.
fn read_settings(given: &Bound<'_, PyDict>) -> PyResult<(Settings, Place)> {
    let (mut settings, mut place) = (Settings::default(), Place::OfTheClient);
    for (name, value) in given {
        if value.is_none() {
            continue;
        }
        let number = |field| convert::number(field, &value, Code::InvalidNumber);
        let bytes = |field| Ok::<_, PyErr>(usize::try_from(number(field)?).unwrap_or(usize::MAX));
        let seconds = |field| convert::seconds(field, &value);
        match name.cast::<PyString>()?.to_str()? {
            "store" => place = read_place(&value)?,
            "unsigned" => settings.unsigned = Some(read_unsigned(&value)?),
            "deliver" => settings.deliver = read_deliver(&value)?,
            "min_seconds_left" => settings.min_seconds_left = number("min_seconds_left")?,
            "closing_seconds" => settings.closing_seconds = number("closing_seconds")?,
            "lease_seconds" => settings.lease = seconds("lease_seconds")?,
            "wait_seconds" => settings.wait = seconds("wait_seconds")?,
            "confirm_wait_seconds" => settings.confirm_wait = seconds("confirm_wait_seconds")?,
            "give_up_after" => settings.give_up_after = convert::count("give_up_after", &value)?,
            "max_body_bytes" => settings.max_body_bytes = bytes("max_body_bytes")?,
            "max_kept_stream_bytes" => {
                settings.max_kept_stream_bytes = bytes("max_kept_stream_bytes")?;
            }
            "keep_days" => {
                let days = number("keep_days")?;
                settings.keep = Duration::from_secs(days.saturating_mul(86_400).min(1 << 40));
            }
            "give_back_unclaimed" => {
                settings.give_back_unclaimed = convert::flag("give_back_unclaimed", &value)?;
            }
            "survive_power_cut" => {
                settings.survive_power_cut = convert::flag("survive_power_cut", &value)?;
            }
            name => {
                let message = format!("Paywall() got an unexpected keyword argument '{name}'");
                return Err(pyo3::exceptions::PyTypeError::new_err(message));
            }
        }
    }
    Ok((settings, place))
}

/// A database's URL, which may carry a password and so is never shown, or a directory.
fn read_place(value: Any<'_, '_>) -> PyResult<Place> {
    let url = value.cast::<PyString>().ok().map(|text| text.to_string_lossy().into_owned());
    match url {
        Some(url) if url.starts_with("postgresql://") || url.starts_with("postgres://") => {
            Ok(Place::Database(url))
        }
        Some(url) if url.contains("://") => {
            let (code, problem) = (Code::InvalidSettings, "names no store that there is");
            let hint = "pass \"postgresql://user:password@host/database\", or a directory";
            Err(convert::refuse(value.py(), code, "store", "<URL>", problem, hint))
        }
        _ => Ok(Place::Directory(convert::path("store", value)?)),
    }
}

fn read_deliver(value: Any<'_, '_>) -> PyResult<Deliver> {
    let (outbox, confirmed) = (Deliver::Outbox, Deliver::Confirmed);
    one_of("deliver", value, [("outbox", outbox), ("confirmed", confirmed)])
}

fn read_unsigned(value: Any<'_, '_>) -> PyResult<Unsigned> {
    one_of("unsigned", value, [("serve", Unsigned::Serve), ("refuse", Unsigned::Refuse)])
}

fn one_of<T>(field: &'static str, value: Any<'_, '_>, known: [(&str, T); 2]) -> PyResult<T> {
    let text = convert::text(Code::InvalidSettings, field, value)?;
    let hint = format!("pass \"{}\" or \"{}\"", known[0].0, known[1].0);
    known.into_iter().find(|(name, _)| *name == text).map(|(_, value)| value).ok_or_else(|| {
        let problem = "is none of the two";
        convert::refuse(value.py(), Code::InvalidSettings, field, text, problem, &hint)
    })
}

/// Signs a paid request as the transaction's requester, for the header X-AGIRAILS-SIGNATURE.
///
/// Args:
///     client: the requester's ACTPClient, with its key; in mode mock pass it private_key.
///     tx_id: the transaction that pays.
///     method: the HTTP method, such as "POST".
///     target: path and query exactly as they stand in the request line: "/api/generate?x=1".
///     body: the request body's bytes.
///     idempotency_key: the Idempotency-Key header's value, "" where there is none.
///     timestamp: when it is signed, Unix seconds; now where None. Providers take it for 300 s.
///
/// Returns:
///     The header's value: `t=<Unix seconds>,s=0x<130 hex digits>`.
///
/// Raises:
///     ValidationError: the client has no key (code key_missing), or that is no transaction id.
///
/// Example:
///     >>> header = sign_request(client, tx_id, "POST", "/api/generate", b'{"prompt":"hi"}')
///
/// Source: EIP-712, in the domain of the AIP-4 delivery messages.
#[pyfunction]
#[pyo3(signature = (client, tx_id, method, target, body=None, *, idempotency_key=None,
        timestamp=None),
    text_signature = "(client, tx_id, method, target, body=b'', *, idempotency_key='', \
        timestamp=None)")]
#[expect(clippy::too_many_arguments, reason = "everything that is signed")]
pub fn sign_request(
    py: Python<'_>,
    client: Any<'_, '_>,
    tx_id: Any<'_, '_>,
    method: Any<'_, '_>,
    target: Any<'_, '_>,
    body: Maybe<'_, '_>,
    idempotency_key: Maybe<'_, '_>,
    timestamp: Maybe<'_, '_>,
) -> PyResult<String> {
    let client = match client.cast::<ACTPClient>() {
        Ok(client) => client.get().core().clone(),
        // The awaitable client has one inside.
        Err(_) => client.getattr("_client")?.cast::<ACTPClient>()?.get().core().clone(),
    };
    let id = convert::transaction_id(tx_id)?;
    let text = |field, value| convert::text(Code::InvalidSettings, field, value);
    let body = optional(body, |body| convert::content("body", body))?.unwrap_or_default();
    let wall = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let at = optional(timestamp, |at| convert::number("timestamp", at, Code::InvalidNumber))?;
    let (method, target) = (text("method", method)?, text("target", target)?);
    let mut request = agirails::protocol::paid_request::PaidRequest::new(
        id,
        method,
        target,
        &body,
        at.unwrap_or(wall),
    );
    if let Some(key) = idempotency_key {
        request.idempotency_key = text("idempotency_key", key)?.to_owned();
    }
    run_sync(py, Reads, async move { client.sign_request(&request).await })
}

/// A price as the adapters' price functions return it, in base units; raises for all else.
#[pyfunction]
pub fn _price(value: Any<'_, '_>) -> PyResult<u64> {
    convert::price("price", value).map(|Usdc(units)| units)
}
