//! The paywall for web frameworks: `agirails.flask` and `agirails.asgi` carry bytes to an exchange and
//! from it, and decide nothing.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agirails::{
    Code, Storage, Usdc,
    fork::PerProcess,
    paywall::{
        Action, Answer as CoreAnswer, CallPayment as CorePayment, Charge, Chunk, DashboardRequest,
        Deliver, End, Event as CoreEvent, Exchange, HIDDEN_HEADERS, Head, Headers, Level,
        PaymentQuery, PaymentRecord, Paywall, Price, Reason, ReportBy, ReportQuery, ReportRow,
        RequestHead, Settings, Settle, Unsigned, Webhook,
    },
};
use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyRuntimeError, PyValueError},
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict, PyFrozenSet, PyList, PyString, PyTuple},
};

use crate::{
    client::ACTPClient,
    convert::{self, Any, Maybe, optional},
    errors::OrRaise,
    run::{
        Effect::{Glances, Moves, Reads},
        Style, run, run_sync,
    },
    session::{core_of, paid_request},
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
    number: u64,
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
        let former = settings.get_item("former_clients")?.filter(|value| !value.is_none());
        let (settings, place) = read_settings(settings)?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let mut builder = Paywall::builder(client.core().clone())
            .settings(settings.clone())
            .on_event(move |event| note(number, event));
        if let Some(former) = former {
            for client in former.try_iter()? {
                let client = client?;
                let client = client.cast::<ACTPClient>().map_err(|_| {
                    let (code, problem) = (Code::InvalidSettings, "must be a list of clients");
                    let hint = "pass [ACTPClient(...)], with a key that the provider used before";
                    convert::refuse(py, code, "former_clients", "this", problem, hint)
                })?;
                builder = builder.former_client(client.get().core().clone());
            }
        }
        builder = match place {
            Place::OfTheClient => builder,
            Place::Directory(path) => builder.storage(Storage::Directory(path)),
            Place::Database(url) => builder.database(url),
        };
        let core = run_sync(py, Reads, builder.open())?;
        let style = if awaitable { Style::Async } else { Style::Sync };
        Ok(Self { core, settings, style, number })
    }

    /// Which paywall of this process it is: events name it.
    #[getter]
    fn number(&self) -> u64 {
        self.number
    }

    /// Puts a price on a route, which the price page shows from then on; None for a price that
    /// comes with each request. Without a name, only checks that it could.
    #[pyo3(signature = (name, price, calls, min_seconds_left, deliver, price_text=None, lasts=None))]
    #[expect(clippy::too_many_arguments, reason = "a charge's own settings")]
    fn charge(
        &self,
        py: Python<'_>,
        name: Maybe<'_, '_>,
        price: Maybe<'_, '_>,
        calls: Maybe<'_, '_>,
        min_seconds_left: Maybe<'_, '_>,
        deliver: Maybe<'_, '_>,
        price_text: Maybe<'_, '_>,
        lasts: Maybe<'_, '_>,
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
                    let (code, problem) = (Code::InvalidNumber, "must be at least 1");
                    return Err(convert::refuse(py, code, "calls", "0", problem, hint));
                }
                calls => calls,
            });
        }
        if let Some(value) = min_seconds_left {
            let seconds = convert::number("min_seconds_left", value, Code::InvalidNumber)?;
            charge = charge.min_seconds_left(seconds);
        }
        if let Some(value) = lasts {
            charge = charge.lasts(convert::number("lasts", value, Code::InvalidNumber)?);
        }
        if let Some(value) = deliver {
            charge = charge.deliver(read_deliver(value)?);
        }
        if let Some(value) = price_text {
            charge = charge.described(convert::text(Code::InvalidSettings, "price_text", value)?);
        }
        if name.is_none() {
            self.core.check_charge(&charge).or_raise(py)?;
            return Ok(None);
        }
        Ok(Some(_Charge(self.core.charge(charge).or_raise(py)?)))
    }

    /// One request at a charged route. Asks nobody. The charge may be set later.
    #[pyo3(signature = (charge, method, target, headers, mount="", *, scheme="http", allow=vec![]))]
    #[expect(clippy::too_many_arguments, reason = "a request's own parts")]
    fn exchange(
        &self,
        charge: Option<&_Charge>,
        method: &str,
        target: &Bound<'_, PyString>,
        headers: &Bound<'_, PyAny>,
        mount: &str,
        scheme: &str,
        allow: Vec<String>,
    ) -> PyResult<_Exchange> {
        let (headers, target) = (read_headers(headers)?, target.to_string_lossy());
        let head = request_head(method, &target, mount, scheme, &headers);
        let mut exchange = self.core.exchange(charge.map(|charge| &charge.0), head);
        exchange.set_allow(allow);
        Ok(_Exchange { slot: Arc::new(Slot::new(exchange)), style: self.style })
    }

    /// Answers a free route, below the path that the application is mounted under; None for all
    /// other paths.
    #[pyo3(signature = (method, target, headers, body, mount="", *, scheme="http"))]
    #[expect(clippy::too_many_arguments, reason = "a request's own parts")]
    fn page(
        &self,
        py: Python<'_>,
        method: &str,
        target: &Bound<'_, PyString>,
        headers: &Bound<'_, PyAny>,
        body: &Bound<'_, PyBytes>,
        mount: &str,
        scheme: &str,
    ) -> Object {
        let headers = read_headers(headers)?;
        let target = target.to_string_lossy().into_owned();
        let (method, mount, scheme) = (method.to_owned(), mount.to_owned(), scheme.to_owned());
        let (core, body) = (self.core.clone(), body.as_bytes().to_vec());
        let call = async move {
            let head = request_head(&method, &target, &mount, &scheme, &headers);
            Ok(core.page_for(head, &body).await)
        };
        run(py, self.style, Moves, call, maybe_answer)
    }

    /// Answers a request to the dashboard, below the path that it is mounted under.
    fn dashboard(
        &self,
        py: Python<'_>,
        method: &str,
        mount: &str,
        path: &str,
        query: &str,
    ) -> Object {
        let [method, mount, path, query] = [method, mount, path, query].map(str::to_owned);
        let dashboard = self.core.dashboard();
        let call = async move {
            let (method, mount, path, query) = (&*method, &*mount, &*path, &*query);
            Ok(dashboard.answer(DashboardRequest { method, mount, path, query }).await)
        };
        run(py, self.style, Reads, call, answer_object)
    }

    /// The answer to a method that a charged path does not have.
    fn method_not_allowed(&self, allow: Vec<String>) -> _Answer {
        self.core.method_not_allowed(&allow).into()
    }

    /// Ends an open payment now: delivers it where something was served, else gives it back.
    fn close(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Object {
        let id = convert::transaction_id(tx_id)?;
        let core = self.core.clone();
        run(py, self.style, Moves, async move { core.close(id).await }, convert::plain)
    }

    /// Gives a transaction back, whatever was served with it.
    fn refund(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Object {
        let id = convert::transaction_id(tx_id)?;
        let core = self.core.clone();
        run(py, self.style, Moves, async move { core.refund(id).await }, convert::plain)
    }

    /// The evidence file of a transaction, as its text.
    fn evidence(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Object {
        let id = convert::transaction_id(tx_id)?;
        let core = self.core.clone();
        let call = async move { Ok::<_, agirails::Error>(core.evidence(id).await?.to_json()?) };
        run(py, self.style, Reads, call, convert::plain)
    }

    /// What transactions are bound to.
    #[getter]
    fn service_hash(&self) -> String {
        self.core.service_hash().to_string()
    }

    /// Payments with their story, as dicts.
    #[pyo3(signature = (stage=None, requester=None, limit=None, after=None))]
    fn payments(
        &self,
        py: Python<'_>,
        stage: Maybe<'_, '_>,
        requester: Maybe<'_, '_>,
        limit: Maybe<'_, '_>,
        after: Maybe<'_, '_>,
    ) -> Object {
        let text = |value| convert::text(Code::InvalidSettings, "stage", value).map(str::to_owned);
        let mut query = PaymentQuery {
            stage: optional(stage, text)?,
            requester: optional(requester, |value| convert::address("requester", value))?,
            after: optional(after, convert::transaction_id)?,
            ..PaymentQuery::default()
        };
        if let Some(limit) = optional(limit, |value| convert::count("limit", value))? {
            query.limit = limit;
        }
        let core = self.core.clone();
        run(py, self.style, Reads, async move { core.payments(&query).await }, |py, records| {
            let dicts: PyResult<Vec<_>> =
                records.into_iter().map(|record| payment_dict(py, record)).collect();
            Ok(PyList::new(py, dicts?)?.into_any().unbind())
        })
    }

    /// The books, as dicts.
    #[pyo3(signature = (by, since=None, until=None, after=None, limit=None))]
    fn report(
        &self,
        py: Python<'_>,
        by: Any<'_, '_>,
        since: Maybe<'_, '_>,
        until: Maybe<'_, '_>,
        after: Maybe<'_, '_>,
        limit: Maybe<'_, '_>,
    ) -> Object {
        let (day, route) = (ReportBy::Day, ReportBy::Route);
        let known = [("day", day), ("route", route), ("customer", ReportBy::Customer)];
        let time =
            |field| move |value: Any<'_, '_>| convert::number(field, value, Code::InvalidNumber);
        let text = |value| convert::text(Code::InvalidSettings, "after", value).map(str::to_owned);
        let query = ReportQuery {
            by: one_of("by", by, known)?,
            since: optional(since, time("since"))?,
            until: optional(until, time("until"))?,
            after: optional(after, text)?,
            limit: optional(limit, |value| convert::count("limit", value))?,
        };
        let core = self.core.clone();
        run(py, self.style, Reads, async move { core.report(&query).await }, |py, rows| {
            let dicts: PyResult<Vec<_>> =
                rows.into_iter().map(|row| report_dict(py, row)).collect();
            Ok(PyList::new(py, dicts?)?.into_any().unbind())
        })
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
}

fn payment_dict(py: Python<'_>, record: PaymentRecord) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("transaction_id", record.transaction_id.to_string())?;
    dict.set_item("requester", convert::address_object(py, record.requester)?)?;
    dict.set_item("stage", record.stage)?;
    for (name, amount) in [
        ("amount", Some(record.amount)),
        ("spent", Some(record.spent)),
        ("fee", record.fee),
        ("net", record.net),
        ("expected_net", Some(record.expected_net)),
    ] {
        dict.set_item(name, amount.map(|amount| convert::usdc_object(py, amount)).transpose()?)?;
    }
    for (name, number) in [
        ("calls", record.calls),
        ("gas_wei", record.gas_wei),
        ("opened_at", record.opened_at),
        ("deadline", record.deadline),
        ("delivered_at", record.delivered_at),
        ("settle_at", record.settle_at),
        ("settled_at", record.settled_at),
    ] {
        dict.set_item(name, number)?;
    }
    dict.set_item("content_hash", record.content_hash.map(|hash| hash.to_string()))?;
    dict.set_item("trouble", record.trouble)?;
    Ok(dict)
}

fn report_dict(py: Python<'_>, row: ReportRow) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("key", row.key)?;
    for (name, amount) in
        [("gross", row.gross), ("paid_out", row.paid_out), ("fee", row.fee), ("net", row.net)]
    {
        dict.set_item(name, convert::usdc_object(py, amount)?)?;
    }
    for (name, number) in [
        ("calls", row.calls),
        ("settled", row.settled),
        ("gas_wei", row.gas_wei),
        ("refunded", row.refunded),
        ("disputed", row.disputed),
    ] {
        dict.set_item(name, number)?;
    }
    Ok(dict)
}

/// A price on a route.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Charge(Arc<Charge>);

#[pymethods]
impl _Charge {
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// What a call costs, base units of USDC; None where each request has its own price.
    #[getter]
    fn price(&self) -> Option<u64> {
        match self.0.price() {
            Price::Fixed(Usdc(units)) => Some(units),
            Price::PerRequest => None,
        }
    }
}

fn request_head<'a>(
    method: &'a str,
    target: &'a str,
    mount: &'a str,
    scheme: &'a str,
    headers: &'a Headers,
) -> RequestHead<'a, impl Iterator<Item = (&'a str, &'a [u8])>> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    RequestHead { method, target, mount, scheme, headers }
}

/// An HTTP response of the paywall.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Answer {
    answer: CoreAnswer,
    is_handlers: bool,
}

impl From<CoreAnswer> for _Answer {
    fn from(answer: CoreAnswer) -> Self {
        Self { answer, is_handlers: false }
    }
}

#[pymethods]
impl _Answer {
    #[getter]
    fn status(&self) -> u16 {
        self.answer.status
    }

    /// Whether it is the handler's own answer, with the paywall's headers.
    #[getter]
    fn is_handlers(&self) -> bool {
        self.is_handlers
    }

    /// How many bytes of the request's body to read before it is sent, at most: a writer that is
    /// cut off loses his answer.
    #[getter]
    fn drain_bytes(&self) -> usize {
        self.answer.drain_bytes()
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

fn maybe_answer(py: Python<'_>, answer: Option<CoreAnswer>) -> Object {
    answer.map_or_else(|| Ok(py.None()), |answer| answer_object(py, answer))
}

/// Pairs of str or bytes, as WSGI or ASGI has them.
fn read_headers(headers: &Bound<'_, PyAny>) -> PyResult<Headers> {
    let text = |value: Bound<'_, PyAny>| -> PyResult<Vec<u8>> {
        match value.cast::<PyBytes>() {
            Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
            Err(_) => Ok(latin1(value.cast::<PyString>()?)),
        }
    };
    let pair = |pair: PyResult<Bound<'_, PyAny>>| {
        let pair = pair?;
        let (name, value) = match pair.cast::<PyTuple>() {
            Ok(pair) => (pair.get_item(0)?, pair.get_item(1)?),
            // Some servers have lists.
            Err(_) => (pair.get_item(0)?, pair.get_item(1)?),
        };
        Ok((String::from_utf8_lossy(&text(name)?).into_owned(), text(value)?))
    };
    headers.try_iter()?.map(pair).collect()
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

    /// What this call takes, base units of USDC; it prints as USDC. A call without an
    /// Idempotency-Key takes the whole transaction.
    #[getter]
    fn price<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::usdc_object(py, self.0.price)
    }

    /// What the whole transaction holds, base units of USDC; it prints as USDC.
    #[getter]
    fn amount<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::usdc_object(py, self.0.amount)
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

    /// The number of this run of the call, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.0.attempt
    }

    fn __repr__(&self) -> String {
        let payment = &self.0;
        format!("<CallPayment {} USDC of transaction {}>", payment.price, payment.transaction_id)
    }
}

/// An exchange that is taken out while it is asked something that waits.
struct Slot {
    exchange: Mutex<Option<Exchange>>,
    held: Held,
}

impl Slot {
    fn new(exchange: Exchange) -> Self {
        Self { exchange: Mutex::new(Some(exchange)), held: Held::default() }
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Exchange) -> T) -> PyResult<T> {
        self.lock().as_mut().map(ask).ok_or_else(in_use)
    }

    fn take(&self) -> PyResult<Exchange> {
        self.lock().take().ok_or_else(in_use)
    }

    fn put_back(&self, exchange: Exchange) {
        *self.lock() = Some(exchange);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Exchange>> {
        lock(&self.exchange)
    }
}

fn in_use() -> PyErr {
    PyRuntimeError::new_err("another call of this exchange is still under way, or was given up")
}

/// What to do with a handler's response.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Head(Head);

#[pymethods]
impl _Head {
    /// "buffer", "stream" or "pass".
    #[getter]
    fn action(&self) -> &'static str {
        match self.0.action {
            Action::Buffer => "buffer",
            Action::Stream => "stream",
            Action::Pass => "pass",
        }
    }

    #[getter]
    fn status(&self) -> u16 {
        self.0.status
    }

    /// As WSGI has them: pairs of text, a byte a character.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        text_headers(py, &self.0.headers)
    }

    /// As ASGI has them: pairs of bytes, the names in lower case.
    #[getter]
    fn raw_headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        raw_headers(py, &self.0.headers)
    }
}

/// One request at a charged route, from its head to the end of its response.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Exchange {
    slot: Arc<Slot>,
    style: Style,
}

/// What a run ended with, in words that Python has.
struct Ended {
    end: End,
    held: Held,
}

type Held = Arc<Mutex<Vec<u8>>>;

#[pymethods]
impl _Exchange {
    #[pyo3(signature = (charge, allow=vec![]))]
    fn set_charge(&self, charge: &_Charge, allow: Vec<String>) -> PyResult<()> {
        self.slot.with(|exchange| {
            exchange.set_charge(&charge.0);
            exchange.set_allow(allow);
        })
    }

    /// What the request's headers alone already answer; None where its body has to be read.
    fn admit_head(&self, py: Python<'_>) -> Object {
        let (slot, mut exchange) = (self.slot.clone(), self.slot.take()?);
        let call = async move {
            let answer = exchange.admit_head().await;
            slot.put_back(exchange);
            Ok(answer)
        };
        run(py, self.style, Moves, call, maybe_answer)
    }

    /// One piece of the request's body. An answer ends the request.
    fn body(&self, piece: &Bound<'_, PyBytes>) -> PyResult<Option<_Answer>> {
        let answer = self.slot.with(|exchange| exchange.body(piece.as_bytes()))?;
        Ok(answer.map(_Answer::from))
    }

    /// The body, as far as it was read.
    #[getter]
    fn body_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.slot.with(|exchange| PyBytes::new(py, exchange.body_bytes()))
    }

    /// How much longer the body may take, seconds.
    #[getter]
    fn body_seconds_left(&self) -> PyResult<f64> {
        self.slot.with(|exchange| exchange.body_time_left().as_secs_f64())
    }

    /// The answer to a body that broke off or could not be read.
    fn unreadable(&self) -> PyResult<_Answer> {
        self.slot.with(|exchange| exchange.unreadable().into())
    }

    /// The answer to a body that was not there in time: body_seconds_left have passed.
    fn too_slow(&self) -> PyResult<_Answer> {
        self.slot.with(|exchange| exchange.too_slow().into())
    }

    /// The answer to a body whose length the server cannot tell.
    fn length_required(&self) -> PyResult<_Answer> {
        self.slot.with(|exchange| exchange.length_required().into())
    }

    /// Whether the handler may run; None: run it.
    #[pyo3(signature = (price=None))]
    fn admit(&self, py: Python<'_>, price: Option<u64>) -> Object {
        let (slot, mut exchange) = (self.slot.clone(), self.slot.take()?);
        let call = async move {
            let answer = exchange.admit(price.map(Usdc)).await;
            slot.put_back(exchange);
            Ok(answer)
        };
        run(py, self.style, Moves, call, maybe_answer)
    }

    /// Whether the answer is a kept one that is long: its body is empty, and comes from next_piece.
    #[getter]
    fn has_rest(&self) -> PyResult<bool> {
        self.slot.with(|exchange| exchange.rest_bytes().is_some())
    }

    /// The next piece of a long kept answer; None at its end.
    fn next_piece(&self, py: Python<'_>) -> Object {
        let (slot, mut exchange) = (self.slot.clone(), self.slot.take()?);
        let call = async move {
            let piece = exchange.next_piece().await;
            slot.put_back(exchange);
            piece
        };
        run(py, self.style, Glances, call, |py, piece: Option<Vec<u8>>| match piece {
            Some(piece) => PyBytes::new(py, &piece).into_py_any(py),
            None => Ok(py.None()),
        })
    }

    /// The payment that the handler runs for.
    #[getter]
    fn payment(&self) -> PyResult<Option<CallPayment>> {
        self.slot.with(|exchange| exchange.payment().cloned().map(CallPayment))
    }

    /// Whether a handler runs that is paid for.
    #[getter]
    fn is_running(&self) -> PyResult<bool> {
        self.slot.with(|exchange| exchange.is_running())
    }

    /// Names of request headers, in lower case, that are not to be shown to the handler.
    #[getter]
    fn hidden_headers(&self, py: Python<'_>) -> PyResult<Py<PyFrozenSet>> {
        static NAMES: PyOnceLock<Py<PyFrozenSet>> = PyOnceLock::new();
        let make = || PyFrozenSet::new(py, HIDDEN_HEADERS).map(Bound::unbind);
        Ok(NAMES.get_or_try_init(py, make)?.clone_ref(py))
    }

    /// The handler's status and headers.
    fn head(
        &self,
        status: u16,
        headers: &Bound<'_, PyAny>,
        length: Option<usize>,
    ) -> PyResult<_Head> {
        let headers = read_headers(headers)?;
        self.slot.with(|exchange| _Head(exchange.head(status, headers, length)))
    }

    /// One piece of the handler's body: what to send now, or None. Raises BrokenOff where the
    /// stream must be broken off.
    fn chunk<'py>(
        &self,
        py: Python<'py>,
        piece: &Bound<'py, PyBytes>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let bytes = piece.as_bytes();
        let chunk = match bytes.len() {
            0..LARGE => self.slot.with(|exchange| exchange.chunk(bytes)),
            _ => py.detach(|| self.slot.with(|exchange| exchange.chunk(bytes))),
        };
        match chunk? {
            Chunk::Send => Ok(Some(piece.clone())),
            Chunk::Hold => Ok(None),
            Chunk::Break => Err(BrokenOff::new_err(())),
        }
    }

    /// How long sending one piece of a stream may take, seconds; None without a limit.
    #[getter]
    fn patience(&self) -> PyResult<Option<f64>> {
        let patience = self.slot.with(|exchange| exchange.patience())?;
        Ok(patience.map(|patience| patience.as_secs_f64()))
    }

    /// The handler's response is at its end.
    fn end(&self, py: Python<'_>) -> Object {
        let (slot, mut exchange) = (self.slot.clone(), self.slot.take()?);
        let held = slot.held.clone();
        let call = async move {
            let end = exchange.end().await;
            slot.put_back(exchange);
            Ok(Ended { end, held })
        };
        run(py, self.style, Moves, call, |py, Ended { end, held }| match end {
            End::Answer { answer, is_handlers } => _Answer { answer, is_handlers }.into_py_any(py),
            End::Kept(rest) => {
                *lock(&held) = rest;
                true.into_py_any(py)
            }
            End::Passed => true.into_py_any(py),
            End::Broken => false.into_py_any(py),
        })
    }

    /// What is left to send of a stream whose end was kept.
    #[getter]
    fn held<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &lock(&self.slot.held))
    }

    /// Ends a run that has no answer. Without effect where none is under way.
    #[pyo3(signature = (kind, detail=""))]
    fn abort(&self, py: Python<'_>, kind: &str, detail: &str) -> Object {
        let Some(reason) = Reason::from_name(kind) else {
            return Err(PyValueError::new_err(format!(
                "kind must be a reason's name, not {kind:?}"
            )));
        };
        // Where a call of it was given up, that one ends the run.
        let taken = self.slot.lock().take();
        let (slot, detail) = (self.slot.clone(), detail.to_owned());
        let call = async move {
            if let Some(mut exchange) = taken {
                exchange.abort(reason, &detail).await;
                slot.put_back(exchange);
            }
            Ok(())
        };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// The answer with the CORS headers and Vary that the application's own middleware put around
    /// it.
    fn decorate(&self, answer: &_Answer, outer_headers: &Bound<'_, PyAny>) -> PyResult<_Answer> {
        let mut decorated = answer.answer.clone();
        Paywall::decorate(&mut decorated, &read_headers(outer_headers)?);
        Ok(_Answer { answer: decorated, is_handlers: answer.is_handlers })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Events that Python's logging has not been told yet, of all paywalls of this process.
///
/// They come up on threads of the runtime, which must not call into Python: one that waits for
/// the GIL while the interpreter exits takes the process down with it. So they are queued, and
/// Python fetches them: after every call, and from a thread of its own for what comes up while
/// nobody calls. A forked child begins with a queue of its own.
static EVENTS: PerProcess<Mutex<Queue>> = PerProcess::new();
/// Where nobody fetches them, memory must not fill up.
const MOST_EVENTS: usize = 10_000;

#[derive(Default)]
struct Queue {
    /// Each with the number of its paywall.
    events: VecDeque<(u64, CoreEvent)>,
    dropped: u64,
}

/// The number of the next paywall. 0 is none's.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

fn note(paywall: u64, event: &CoreEvent) {
    let mut queue = lock(EVENTS.get_or_init(Mutex::default));
    if queue.events.len() < MOST_EVENTS {
        queue.events.push_back((paywall, event.clone()));
    } else {
        queue.dropped += 1;
    }
}

type Told<'py> = (u8, String, Bound<'py, PyDict>, u64);

/// Fetches what came up since the last time: level (as `logging` counts), message, fields, and the
/// number of the paywall.
#[pyfunction]
pub fn _events(py: Python<'_>) -> PyResult<Vec<Told<'_>>> {
    let Queue { events, dropped } = std::mem::take(&mut *lock(EVENTS.get_or_init(Mutex::default)));
    let mut told = Vec::with_capacity(events.len());
    for (number, event) in events {
        let level = match event.level {
            Level::Info => 20,
            Level::Warning => 30,
            Level::Error => 40,
        };
        told.push((level, event.message.to_string(), fields(py, &event)?, number));
    }
    if dropped > 0 {
        let words = format!("{dropped} events were dropped: nobody fetched them");
        told.push((30, words, PyDict::new(py), 0));
    }
    Ok(told)
}

/// An event's fields; those that do not apply are left out.
fn fields<'py>(py: Python<'py>, event: &CoreEvent) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("event", event.name)?;
    let texts = [
        ("request_id", event.request_id.clone()),
        ("route", event.route.clone()),
        ("transaction", event.transaction.map(|id| id.to_string())),
        ("requester", event.requester.map(|address| address.to_string())),
        ("reason", event.reason.map(str::to_owned)),
        ("outcome", event.outcome.map(str::to_owned)),
    ];
    let numbers = [
        ("price", event.price.map(|Usdc(units)| units)),
        ("net", event.net.map(|Usdc(units)| units)),
        ("gas_wei", event.gas_wei),
        ("answer_until", event.answer_until),
        ("attempt", event.attempt.map(u64::from)),
        ("status", event.status.map(u64::from)),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            fields.set_item(name, text)?;
        }
    }
    for (name, number) in numbers {
        if let Some(number) = number {
            fields.set_item(name, number)?;
        }
    }
    if let Some(took) = event.took {
        fields.set_item("seconds", took.as_secs_f64())?;
    }
    Ok(fields)
}

enum Place {
    OfTheClient,
    Directory(std::path::PathBuf),
    Database(String),
}

/// Settings by name; those that are None are left at their defaults.
fn read_settings(given: &Bound<'_, PyDict>) -> PyResult<(Settings, Place)> {
    let (mut settings, mut place) = (Settings::default(), Place::OfTheClient);
    let (mut webhook_url, mut webhook_secret) = (None, None);
    for (name, value) in given {
        if value.is_none() {
            continue;
        }
        let number = |field| convert::number(field, &value, Code::InvalidNumber);
        let bytes = |field| Ok::<_, PyErr>(usize::try_from(number(field)?).unwrap_or(usize::MAX));
        let seconds = |field| convert::seconds(field, &value);
        match name.cast::<PyString>()?.to_str()? {
            "store" => place = read_place(&value)?,
            // Clients are no settings of the core.
            "former_clients" => {}
            "unsigned" => settings.unsigned = Some(read_unsigned(&value)?),
            "one_store" => settings.one_store = Some(convert::flag("one_store", &value)?),
            "max_window_seconds" => settings.max_window_seconds = number("max_window_seconds")?,
            "max_deadline_seconds" => {
                settings.max_deadline_seconds = number("max_deadline_seconds")?;
            }
            "idle_close_seconds" => settings.idle_close_seconds = number("idle_close_seconds")?,
            "deliver" => settings.deliver = read_deliver(&value)?,
            "settle" => settings.settle = read_settle(&value)?,
            "settle_min_net" => {
                settings.settlement_limits.min_net =
                    Some(convert::price("settle_min_net", &value)?);
            }
            "coin_price" => {
                settings.settlement_limits.coin_price = Some(convert::price("coin_price", &value)?);
            }
            "settle_collect_seconds" => {
                settings.settle_collect_seconds = number("settle_collect_seconds")?;
            }
            "min_seconds_left" => settings.min_seconds_left = number("min_seconds_left")?,
            "closing_seconds" => settings.closing_seconds = number("closing_seconds")?,
            "lease_seconds" => settings.lease = seconds("lease_seconds")?,
            "wait_seconds" => settings.wait = seconds("wait_seconds")?,
            "confirm_wait_seconds" => settings.confirm_wait = seconds("confirm_wait_seconds")?,
            "give_up_after" => settings.give_up_after = convert::count("give_up_after", &value)?,
            "max_body_bytes" => settings.max_body_bytes = bytes("max_body_bytes")?,
            "body_seconds" => settings.body_time = seconds("body_seconds")?,
            "body_budget_bytes" => settings.body_budget_bytes = bytes("body_budget_bytes")?,
            "max_kept_answer_bytes" => {
                settings.max_kept_answer_bytes = bytes("max_kept_answer_bytes")?;
            }
            "public_url" => {
                let url = convert::text(Code::InvalidSettings, "public_url", &value)?;
                settings.public_url = Some(url.to_owned());
            }
            "vary_on" => settings.vary_on = read_names("vary_on", &value)?,
            "max_kept_stream_bytes" => {
                settings.max_kept_stream_bytes = bytes("max_kept_stream_bytes")?;
            }
            "keep_requests" => {
                settings.keep_requests = convert::flag("keep_requests", &value)?;
            }
            "max_kept_request_bytes" => {
                settings.max_kept_request_bytes = bytes("max_kept_request_bytes")?;
            }
            "keep_days" => {
                let days = number("keep_days")?;
                settings.keep = Duration::from_secs(days.saturating_mul(86_400).min(1 << 40));
            }
            "give_back_unclaimed" => {
                settings.give_back_unclaimed = convert::flag("give_back_unclaimed", &value)?;
            }
            "require_agreement" => {
                settings.require_agreement = convert::flag("require_agreement", &value)?;
            }
            "webhook_url" | "webhook_secret" => {
                let is_url = name.cast::<PyString>()?.to_str()? == "webhook_url";
                let field = if is_url { "webhook_url" } else { "webhook_secret" };
                // Neither is shown.
                let Ok(text) = value.extract::<String>() else {
                    let problem = format!("{field} must be a str");
                    return Err(pyo3::exceptions::PyTypeError::new_err(problem));
                };
                *(if is_url { &mut webhook_url } else { &mut webhook_secret }) = Some(text);
            }
            "survive_power_cut" => {
                settings.survive_power_cut = Some(convert::flag("survive_power_cut", &value)?);
            }
            name => {
                let message = format!("Paywall() got an unexpected keyword argument '{name}'");
                return Err(pyo3::exceptions::PyTypeError::new_err(message));
            }
        }
    }
    settings.webhook = match (webhook_url, webhook_secret) {
        (None, None) => None,
        (Some(url), Some(secret)) => Some(Webhook::new(&url, &secret).or_raise(given.py())?),
        (url, _) => {
            let field = if url.is_some() { "webhook_secret" } else { "webhook_url" };
            let (code, problem) = (Code::InvalidSettings, "must be given too");
            let hint = "pass webhook_url and webhook_secret, or neither";
            return Err(convert::refuse(given.py(), code, field, "None", problem, hint));
        }
    };
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
            let (code, problem) =
                (Code::InvalidSettings, "must be a directory or the URL of a PostgreSQL database");
            let hint = "pass \"postgresql://user:password@host/database\", or a directory";
            Err(convert::refuse(value.py(), code, "store", "<URL>", problem, hint))
        }
        _ => Ok(Place::Directory(convert::path("store", value)?)),
    }
}

/// A list of names; a single text would be taken letter by letter.
fn read_names(field: &'static str, value: Any<'_, '_>) -> PyResult<Vec<String>> {
    value.extract().map_err(|_| {
        let (code, problem) = (Code::InvalidSettings, "must be a list of names");
        let hint = "pass a list of request headers, such as [\"X-Tenant\"]";
        convert::refuse(value.py(), code, field, "this", problem, hint)
    })
}

fn read_deliver(value: Any<'_, '_>) -> PyResult<Deliver> {
    let (outbox, confirmed) = (Deliver::Outbox, Deliver::Confirmed);
    one_of("deliver", value, [("outbox", outbox), ("confirmed", confirmed)])
}

fn read_settle(value: Any<'_, '_>) -> PyResult<Settle> {
    one_of("settle", value, [("auto", Settle::Auto), ("never", Settle::Never)])
}

fn read_unsigned(value: Any<'_, '_>) -> PyResult<Unsigned> {
    one_of("unsigned", value, [("serve", Unsigned::Serve), ("refuse", Unsigned::Refuse)])
}

fn one_of<T, const N: usize>(
    field: &'static str,
    value: Any<'_, '_>,
    known: [(&str, T); N],
) -> PyResult<T> {
    let text = convert::text(Code::InvalidSettings, field, value)?;
    let names: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let hint = format!("pass {}", names.join(" or "));
    known.into_iter().find(|(name, _)| *name == text).map(|(_, value)| value).ok_or_else(|| {
        let problem = if N == 2 { "must be one of the two" } else { "must be one of these" };
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
    let client = core_of(client)?;
    let id = convert::transaction_id(tx_id)?;
    let request = paid_request(id, method, target, body, idempotency_key, timestamp)?;
    run_sync(py, Reads, async move { client.sign_request(&request).await })
}

/// A price as the adapters' price functions return it, in base units, 0 for a call that is free;
/// raises for all else.
#[pyfunction]
pub fn _price(value: Any<'_, '_>) -> PyResult<u64> {
    let is_free = value.is_none() || value.extract::<u64>().is_ok_and(|units| units == 0);
    match is_free {
        true => Ok(0),
        false => convert::price("price", value).map(|Usdc(units)| units),
    }
}
