//! How a verb of the core becomes a Python call: blocking, or awaitable.

use std::{
    any::Any,
    cell::Cell,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use agirails::without_waiting;
use pyo3::{IntoPyObjectExt, exceptions::PyStopIteration, prelude::*};
use pyo3_async_runtimes::generic;

use crate::{
    errors::{self, panicked},
    runtime::{self, Ours},
};

/// How often a blocked call looks for Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// How an object answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// With the result.
    Sync,
    /// With something to await.
    Async,
}

/// What a call does, and so who may wait for it and what happens when nobody does any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It reads one record. Where that takes microseconds, an event loop waits for it: handing
    /// it to another thread and back would take twenty times as long.
    Glances,
    /// It reads. Given up, it is dropped.
    Reads,
    /// It writes. Where that is to a file of this machine that nobody else holds, it takes
    /// microseconds, and an event loop waits for it. What takes longer goes on to its end, also when
    /// it is given up: dropped half done, nobody would know where the money is.
    Moves,
}

type Outcome<T> = agirails::Result<T>;
type Call<T> = Pin<Box<dyn Future<Output = agirails::Result<T>> + Send>>;
/// Makes a result into what Python gets.
pub type Convert<T> = fn(Python<'_>, T) -> PyResult<Py<PyAny>>;

/// Runs a verb, and raises its error.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    style: Style,
    effect: Effect,
    call: impl Future<Output = agirails::Result<T>> + Send + 'static,
    convert: Convert<T>,
) -> PyResult<Py<PyAny>> {
    match style {
        Style::Sync => convert(py, run_sync(py, effect, call)?),
        Style::Async => run_async(py, effect, Box::pin(call), convert),
    }
}

/// Blocks, with the GIL released, until the call is done or a signal handler raises.
pub fn run_sync<T: Send + 'static>(
    py: Python<'_>,
    effect: Effect,
    call: impl Future<Output = agirails::Result<T>> + Send + 'static,
) -> PyResult<T> {
    let mut call: Call<T> = Box::pin(call);
    // The embedded kernel is done at the first look, for which no timer need be set.
    if let Poll::Ready(outcome) = glance(py, &mut call) {
        return outcome.map_err(|error| errors::raise(py, &error));
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Err(interrupt) = py.check_signals() {
            if effect == Effect::Moves {
                runtime::get().spawn(call);
            }
            return Err(interrupt);
        }
        let look = py.detach(|| {
            let look = poll(&mut call, &mut Context::from_waker(&waker));
            if look.is_pending() {
                thread::park_timeout(SIGNAL_INTERVAL);
            }
            look
        });
        if let Poll::Ready(outcome) = look {
            return outcome.map_err(|error| errors::raise(py, &error));
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn run_async<T: Send + 'static>(
    py: Python<'_>,
    effect: Effect,
    mut call: Call<T>,
    convert: Convert<T>,
) -> PyResult<Py<PyAny>> {
    if effect != Effect::Reads
        && let Poll::Ready(outcome) = without_waiting(|| glance(py, &mut call))
    {
        let value = outcome.map_err(|error| errors::raise(py, &error))?;
        let value = convert(py, value)?;
        return Done { value, yields: AtomicBool::new(is_others_turn()) }.into_py_any(py);
    }
    let finish = poll_fn(move |context| poll(&mut call, context));
    let outcome: Call<T> = match effect {
        Effect::Glances | Effect::Reads => Box::pin(finish),
        // At once, since it has begun: what is awaited below may be given up before it is looked at.
        Effect::Moves => {
            let task = runtime::get().spawn(finish);
            Box::pin(async { task.await.unwrap_or_else(|error| Err(panicked(&error.to_string()))) })
        }
    };
    let answer = async move { Ok(Answer { outcome: outcome.await, convert }) };
    Ok(generic::future_into_py::<Ours, _, _>(py, answer)?.unbind())
}

/// How often a call is looked at again that only lets others go first.
const COURTESIES: usize = 4;

/// A look, with the GIL released; and another where the call woke itself at once, as it does to
/// let others join its commit, or to try once more at a file that others hold.
fn glance<T: Send>(py: Python<'_>, call: &mut Call<T>) -> Poll<Outcome<T>> {
    py.detach(|| {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        for _ in 0..COURTESIES {
            let look = poll(call, &mut Context::from_waker(&waker));
            if look.is_ready() || !woken.0.swap(false, Ordering::AcqRel) {
                return look;
            }
        }
        Poll::Pending
    })
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Looks whether the call is done. A panic is an outcome too: Python must not see it.
fn poll<T>(call: &mut Call<T>, context: &mut Context<'_>) -> Poll<Outcome<T>> {
    let look = catch_unwind(AssertUnwindSafe(|| {
        // The core's timers want to know their runtime.
        let _inside = runtime::get().enter();
        call.as_mut().poll(context)
    }));
    match look {
        Ok(look) => look,
        Err(panic) => Poll::Ready(Err(panicked(&message(&*panic)))),
    }
}

/// A panic's words.
pub fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}

/// An outcome on its way to the event loop's thread, where it becomes a Python object.
struct Answer<T> {
    outcome: Outcome<T>,
    convert: Convert<T>,
}

impl<'py, T> IntoPyObject<'py> for Answer<T> {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let value = self.outcome.map_err(|error| errors::raise(py, &error))?;
        Ok((self.convert)(py, value)?.into_bound(py))
    }
}

/// How long a task may go on without letting the event loop's other tasks go on.
const FAIR_SHARE: Duration = Duration::from_millis(1);

thread_local! {
    static LAST_TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether the event loop of this thread is to have a turn now. A task whose verbs are all done at once
/// would never give it one.
fn is_others_turn() -> bool {
    let now = Instant::now();
    let is_due = LAST_TURN.get().is_none_or(|last| now - last >= FAIR_SHARE);
    if is_due {
        LAST_TURN.set(Some(now));
    }
    is_due
}

/// A result that is there already, for those who await it.
#[pyclass(frozen, module = "agirails._agirails")]
struct Done {
    value: Py<PyAny>,
    /// Whether others go first.
    yields: AtomicBool,
}

#[pymethods]
impl Done {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// A coroutine lets the loop go on by yielding nothing, and returns by StopIteration.
    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.yields.swap(false, Ordering::Relaxed) {
            return Ok(py.None());
        }
        Err(PyStopIteration::new_err((self.value.clone_ref(py),)))
    }
}
