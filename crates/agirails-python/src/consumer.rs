//! Paying for calls: the core's consumer, and its purchases for Python's HTTP libraries to send.

use std::{
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use agirails::{
    Code, Usdc,
    consumer::{
        Balance, Budget, Consumer as Core, HttpFailure, HttpOutcome, HttpResponse, PaidCall,
        PaidResponse, PaymentRecord, Purchase as CorePurchase, Report, Spent, Step, Waiter,
    },
};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyBytes, PyDict, PyInt, PyList},
};
use tokio::sync::Mutex;

use crate::{
    client::ACTPClient,
    convert::{self, Any, Maybe, optional},
    errors::{self, OrRaise},
    json,
    run::{
        Effect::{Moves, Reads},
        Style, run,
    },
};

type Answer = PyResult<Py<PyAny>>;

/// What agirails.Consumer and agirails.AsyncConsumer are made of.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Consumer {
    core: Core,
    style: Style,
}

/// One purchase under way.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct _Purchase {
    core: Arc<Mutex<CorePurchase>>,
    waiter: StdMutex<Option<Waiter>>,
    key: String,
    style: Style,
}

/// A limit, as people write amounts: "0.25" or Decimal("0.25") is USDC, an int is base units. An int
/// that was meant as USDC is a millionth of it, and such a limit refuses calls instead of paying.
fn amount(field: &'static str, value: Any<'_, '_>) -> PyResult<Usdc> {
    if value.is_instance_of::<PyInt>() {
        return convert::amount(field, value, Code::InvalidAmount);
    }
    convert::price(field, value)
}

/// The call that Python's arguments describe.
fn paid_call(
    method: Any<'_, '_>,
    url: Any<'_, '_>,
    headers: Any<'_, '_>,
    body: Any<'_, '_>,
    options: &Bound<'_, PyDict>,
) -> PyResult<PaidCall> {
    let get = |name: &str| Ok::<_, PyErr>(options.get_item(name)?.filter(|value| !value.is_none()));
    let Some(max_amount) = get("max_amount")? else {
        let (code, problem) = (Code::InvalidAmount, "must be given");
        let hint = "say what the call may cost: max_amount=\"0.25\"";
        return Err(convert::refuse(options.py(), code, "max_amount", "None", problem, hint));
    };
    let max_amount = amount("max_amount", &max_amount)?;
    let mut call = PaidCall::new(text_of("method", method)?, text_of("url", url)?, max_amount);
    for header in headers.try_iter()? {
        let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = header?.extract()?;
        call = call.header(text_of("headers", &name)?, text_of("headers", &value)?);
    }
    call = call.body(convert::content("data", body)?.into_owned());
    if let Some(value) = get("max_funding")? {
        call = call.max_funding(amount("max_funding", &value)?);
    }
    if let Some(value) = get("purchase_key")? {
        call = call.purchase_key(text_of("purchase_key", &value)?);
    }
    if let Some(value) = get("timeout")? {
        call = call.timeout(convert::seconds("timeout", &value)?);
    }
    if let Some(value) = get("request_timeout")? {
        call = call.request_timeout(convert::seconds("request_timeout", &value)?);
    }
    if let Some(value) = get("body_limit")? {
        let bytes = convert::number("body_limit", &value, Code::InvalidNumber)?;
        call = call.body_limit(bytes as usize);
    }
    if let Some(value) = get("settle")? {
        call = call.settle(convert::flag("settle", &value)?);
    }
    if let Some(value) = get("lasts")? {
        call = call.lasts(convert::seconds("lasts", &value)?);
    }
    if let Some(value) = get("pays")? {
        call = call.pays(convert::flag("pays", &value)?);
    }
    Ok(call)
}

fn text_of<'a>(field: &'static str, value: Any<'a, '_>) -> PyResult<&'a str> {
    convert::text(Code::InvalidSettings, field, value)
}

/// Opens the records of a client.
#[pyfunction]
pub fn _open_consumer(
    py: Python<'_>,
    client: &ACTPClient,
    awaitable: bool,
    budget: Any<'_, '_>,
    trusted: Any<'_, '_>,
    keep_evidence: Any<'_, '_>,
    max_kept_body_bytes: Maybe<'_, '_>,
) -> Answer {
    let mut limits = Budget::default();
    for (name, value) in budget.cast::<PyDict>()? {
        let name: String = name.extract()?;
        let (field, limit) = match name.as_str() {
            "per_call" => ("per_call", &mut limits.per_call),
            "per_hour" => ("per_hour", &mut limits.per_hour),
            "per_day" => ("per_day", &mut limits.per_day),
            "per_provider_per_day" => ("per_provider_per_day", &mut limits.per_provider_per_day),
            other => {
                let (code, problem) = (Code::InvalidSettings, "must be a limit");
                let hint = "a budget has per_call, per_hour, per_day and per_provider_per_day";
                return Err(convert::refuse(py, code, "budget", other, problem, hint));
            }
        };
        if !value.is_none() {
            *limit = Some(amount(field, &value)?);
        }
    }
    let mut builder = Core::builder(client.core().clone()).budget(limits);
    for whom in trusted.try_iter()? {
        let whom = whom?;
        builder = builder.trust(convert::text(Code::InvalidSettings, "trust", &whom)?);
    }
    builder = builder.keep_evidence(convert::flag("keep_evidence", keep_evidence)?);
    if let Some(value) = max_kept_body_bytes.filter(|value| !value.is_none()) {
        let bytes = convert::number("max_kept_body_bytes", value, Code::InvalidNumber)?;
        builder = builder.max_kept_body_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let style = if awaitable { Style::Async } else { Style::Sync };
    match style {
        Style::Sync => run(py, style, Reads, builder.open(), |py, core| {
            _Consumer { core, style: Style::Sync }.into_py_any(py)
        }),
        // Opening a file that other processes share takes microseconds; an object is needed now.
        Style::Async => run(py, Style::Sync, Reads, builder.open(), |py, core| {
            _Consumer { core, style: Style::Async }.into_py_any(py)
        }),
    }
}

#[pymethods]
impl _Consumer {
    /// Begins a purchase, for an HTTP library of Python's to send.
    fn purchase(
        &self,
        method: Any<'_, '_>,
        url: Any<'_, '_>,
        headers: Any<'_, '_>,
        body: Any<'_, '_>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<_Purchase> {
        let call = paid_call(method, url, headers, body, options)?;
        let core = self.core.purchase(call).or_raise(options.py())?;
        let (key, waiter) = (core.key().to_owned(), StdMutex::new(Some(core.waiter())));
        Ok(_Purchase { key, waiter, core: Arc::new(Mutex::new(core)), style: self.style })
    }

    /// Makes a call, and pays for it where it must be.
    fn call(
        &self,
        method: Any<'_, '_>,
        url: Any<'_, '_>,
        headers: Any<'_, '_>,
        body: Any<'_, '_>,
        options: &Bound<'_, PyDict>,
    ) -> Answer {
        let call = paid_call(method, url, headers, body, options)?;
        let core = self.core.clone();
        // Given up, it sends nothing more: the core goes on with what moves money by itself.
        run(
            options.py(),
            self.style,
            Reads,
            async move { core.call(call).await },
            |py, response| response_dict(py, response)?.into_py_any(py),
        )
    }

    /// Settles what is delivered and proven.
    fn settle(&self, py: Python<'_>) -> Answer {
        let core = self.core.clone();
        run(py, self.style, Moves, async move { core.settle().await }, report)
    }

    /// Takes back what no provider has touched by its deadline.
    fn reclaim(&self, py: Python<'_>) -> Answer {
        let core = self.core.clone();
        run(py, self.style, Moves, async move { core.reclaim().await }, report)
    }

    /// The prepaid transactions.
    fn balances(&self, py: Python<'_>) -> Answer {
        let core = self.core.clone();
        run(py, self.style, Reads, async move { core.balances().await }, |py, balances| {
            let list = PyList::empty(py);
            for balance in balances {
                list.append(balance_dict(py, &balance)?)?;
            }
            Ok(list.into_any().unbind())
        })
    }

    /// What was paid for calls.
    fn purchases(&self, py: Python<'_>) -> Answer {
        let core = self.core.clone();
        run(py, self.style, Reads, async move { core.payments().await }, |py, payments| {
            let list = PyList::empty(py);
            for payment in payments {
                list.append(payment_dict(py, &payment)?)?;
            }
            Ok(list.into_any().unbind())
        })
    }

    /// What the budget has counted.
    fn spent(&self, py: Python<'_>, provider: Maybe<'_, '_>) -> Answer {
        let provider = optional(provider, |value| convert::address("provider", value))?;
        let core = self.core.clone();
        run(py, self.style, Reads, async move { core.spent(provider).await }, |py, spent| {
            let Spent { hour, day, provider, used, locked, .. } = spent;
            let dict = PyDict::new(py);
            let sums = [
                ("hour", hour),
                ("day", day),
                ("provider", provider),
                ("used", used),
                ("locked", locked),
            ];
            for (name, amount) in sums {
                dict.set_item(name, amount.0)?;
            }
            Ok(dict.into_any().unbind())
        })
    }

    /// Ends a balance.
    fn close(&self, py: Python<'_>, transaction_id: Any<'_, '_>) -> Answer {
        let (core, id) = (self.core.clone(), convert::transaction_id(transaction_id)?);
        run(py, self.style, Moves, async move { core.close(id).await }, convert::plain)
    }

    /// The evidence file of a transaction, as its text.
    fn evidence(&self, py: Python<'_>, transaction_id: Any<'_, '_>) -> Answer {
        let (core, id) = (self.core.clone(), convert::transaction_id(transaction_id)?);
        let call = async move { Ok::<_, agirails::Error>(core.evidence(id).await?.to_json()?) };
        run(py, self.style, Reads, call, convert::plain)
    }

    /// What a dispute takes.
    fn bond(&self, py: Python<'_>, transaction_id: Any<'_, '_>) -> Answer {
        let (core, id) = (self.core.clone(), convert::transaction_id(transaction_id)?);
        run(py, self.style, Reads, async move { core.bond(id).await }, convert::usdc)
    }

    /// Disputes a delivery.
    fn dispute(
        &self,
        py: Python<'_>,
        transaction_id: Any<'_, '_>,
        max_bond: Any<'_, '_>,
    ) -> Answer {
        let (core, id) = (self.core.clone(), convert::transaction_id(transaction_id)?);
        let max_bond = amount("max_bond", max_bond)?;
        run(py, self.style, Moves, async move { core.dispute(id, max_bond).await }, convert::usdc)
    }
}

#[pymethods]
impl _Purchase {
    /// The key by which it is taken up again.
    #[getter]
    fn key(&self) -> &str {
        &self.key
    }

    /// Nobody waits for it any more: the same call made again goes on with it.
    fn let_go(&self) {
        self.waiter.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The next step: ("send", method, url, headers, body, timeout, body_limit), ("wait",
    /// seconds), or ("done", response).
    ///
    /// `outcome` is None at first and after a wait; after a send it is (status, headers, body), or
    /// the failure as (kind, words), where kind is "not_sent", "lost" or "too_large".
    #[pyo3(signature = (outcome=None))]
    fn next(&self, py: Python<'_>, outcome: Maybe<'_, '_>) -> Answer {
        let outcome = optional(outcome, outcome_of)?;
        let core = self.core.clone();
        let call = async move { core.lock().await.next(outcome).await };
        run(py, self.style, Moves, call, step)
    }
}

fn outcome_of(outcome: Any<'_, '_>) -> PyResult<HttpOutcome> {
    if let Ok((kind, words)) = outcome.extract::<(String, String)>() {
        return Ok(HttpOutcome::Failed(match kind.as_str() {
            "not_sent" => HttpFailure::NotSent(words),
            "too_large" => HttpFailure::TooLarge,
            _ => HttpFailure::Lost(words),
        }));
    }
    let (status, headers, body): (u16, Vec<(String, String)>, Bound<'_, PyBytes>) =
        outcome.extract()?;
    let body = body.as_bytes().to_vec().into();
    Ok(HttpOutcome::Answered(HttpResponse { status, headers, body }))
}

fn step(py: Python<'_>, step: Step) -> Answer {
    match step {
        Step::Send(request) => {
            let body = PyBytes::new(py, &request.body);
            let (timeout, limit) = (request.timeout.as_secs_f64(), request.body_limit);
            ("send", request.method, request.url, request.headers, body, timeout, limit)
                .into_py_any(py)
        }
        Step::Wait(time) => ("wait", Duration::as_secs_f64(&time)).into_py_any(py),
        Step::Done(response) => ("done", response_dict(py, *response)?).into_py_any(py),
    }
}

fn response_dict(py: Python<'_>, response: PaidResponse) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("status", response.status)?;
    dict.set_item("headers", response.headers)?;
    dict.set_item("content", PyBytes::new(py, &response.body))?;
    let payment = response.payment.map(|payment| {
        let dict = PyDict::new(py);
        dict.set_item("transaction_id", payment.transaction_id.to_string())?;
        dict.set_item("provider", convert::address_object(py, payment.provider)?)?;
        dict.set_item("kind", payment.kind.as_str())?;
        dict.set_item("price", payment.price.0)?;
        dict.set_item("amount", payment.amount.0)?;
        dict.set_item("funded_now", payment.funded_now)?;
        dict.set_item("idempotency_key", payment.idempotency_key)?;
        dict.set_item("purchase_key", payment.purchase_key)?;
        dict.set_item("cancellable_from", payment.cancellable_from)?;
        dict.set_item("proof", payment.proof.as_str())?;
        let receipt = payment.receipt.and_then(|receipt| serde_json::to_value(receipt).ok());
        dict.set_item("receipt", receipt.map(|value| json::to_python(py, &value)).transpose()?)?;
        dict.set_item("is_settled", payment.is_settled)?;
        Ok::<_, PyErr>(dict)
    });
    dict.set_item("payment", payment.transpose()?)?;
    Ok(dict)
}

fn payment_dict<'py>(py: Python<'py>, payment: &PaymentRecord) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("transaction_id", payment.transaction_id.map(|id| id.to_string()))?;
    dict.set_item("provider", convert::address_object(py, payment.provider)?)?;
    dict.set_item("origin", &payment.origin)?;
    dict.set_item("kind", payment.kind.as_str())?;
    dict.set_item("stage", payment.stage)?;
    for (name, number) in [
        ("amount", payment.amount.0),
        ("used", payment.used.0),
        ("planned_at", payment.planned_at),
        ("usable_until", payment.usable_until),
        ("deadline", payment.deadline),
    ] {
        dict.set_item(name, number)?;
    }
    Ok(dict)
}

fn balance_dict<'py>(py: Python<'py>, balance: &Balance) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("transaction_id", balance.transaction_id.to_string())?;
    dict.set_item("provider", convert::address_object(py, balance.provider)?)?;
    dict.set_item("origin", &balance.origin)?;
    dict.set_item("amount", balance.amount.0)?;
    dict.set_item("left", balance.left.0)?;
    dict.set_item("usable_until", balance.usable_until)?;
    dict.set_item("is_open", balance.is_open)?;
    Ok(dict)
}

fn report(py: Python<'_>, report: Report) -> Answer {
    let dict = PyDict::new(py);
    for (name, ids) in
        [("settled", &report.settled), ("refunded", &report.refunded), ("waiting", &report.waiting)]
    {
        dict.set_item(name, ids.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    }
    let refused = PyDict::new(py);
    for (id, error) in &report.refused {
        refused.set_item(id.to_string(), errors::raise(py, error).into_value(py))?;
    }
    dict.set_item("refused", refused)?;
    Ok(dict.into_any().unbind())
}
