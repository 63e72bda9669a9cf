//! The tokio runtime behind every call: made on first use, and anew in a forked child, which
//! inherits no threads.

use std::{future::Future, pin::Pin};

use agirails::fork::PerProcess;
use pyo3_async_runtimes::{
    TaskLocals,
    generic::{ContextExt, Runtime},
};
use tokio::{runtime, task};

static RUNTIME: PerProcess<runtime::Runtime> = PerProcess::new();

/// This process's runtime.
///
/// # Panics
/// Where the operating system gives no more threads; `crate::run` catches it.
pub fn get() -> &'static runtime::Runtime {
    #[expect(clippy::expect_used, reason = "caught in run, and reported as an internal error")]
    RUNTIME.get_or_init(|| {
        runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("agirails")
            .enable_all()
            .build()
            .expect("the runtime's threads cannot be started")
    })
}

/// Our runtime, as pyo3-async-runtimes wants to see one.
pub struct Ours;

impl Runtime for Ours {
    type JoinError = task::JoinError;
    type JoinHandle = task::JoinHandle<()>;

    fn spawn<F: Future<Output = ()> + Send + 'static>(future: F) -> Self::JoinHandle {
        get().spawn(future)
    }

    fn spawn_blocking<F: FnOnce() + Send + 'static>(job: F) -> Self::JoinHandle {
        get().spawn_blocking(job)
    }
}

/// No Python coroutine is ever awaited from Rust here, so no task needs to know its event loop.
impl ContextExt for Ours {
    fn scope<F, R>(_: TaskLocals, future: F) -> Pin<Box<dyn Future<Output = R> + Send>>
    where
        F: Future<Output = R> + Send + 'static,
    {
        Box::pin(future)
    }

    fn get_task_locals() -> Option<TaskLocals> {
        None
    }
}
