//! What survives a fork, and what must not.
//!
//! Servers load an application and then fork their workers (gunicorn `--preload`,
//! `multiprocessing`). Two things break silently across a fork: threads, which do not exist in
//! the child, and SQLite connections, whose file locks belong to the parent while the library's
//! memory in the child believes to hold them. So every storage operation passes a gate; a fork
//! waits until nobody is inside, closes the idle connections, and opens the gate again on both
//! sides, where connections are opened anew on their next use.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
};

/// A value that each process makes for itself: a forked child gets its own, and the parent's
/// copy in the child's memory is never touched, nor freed.
///
/// ```
/// use agirails::fork::PerProcess;
///
/// static RUNTIME: PerProcess<String> = PerProcess::new();
/// assert_eq!(RUNTIME.get_or_init(|| "made once".to_owned()), "made once");
/// assert_eq!(RUNTIME.get_or_init(|| "never made".to_owned()), "made once");
/// ```
#[derive(Debug)]
pub struct PerProcess<T: 'static>(AtomicPtr<Owned<T>>);

#[derive(Debug)]
struct Owned<T> {
    generation: u32,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    /// Nothing yet.
    #[expect(clippy::new_without_default, reason = "statics only, which need a const")]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// This process's value, made by `make` where there is none. No lock is taken, since another
    /// thread could hold it while the process forks. Two threads may both call `make` at first;
    /// one of the values is dropped.
    pub fn get_or_init(&'static self, make: impl FnOnce() -> T) -> &'static T {
        let generation = gate::generation();
        let current = self.0.load(Ordering::Acquire);
        // SAFETY: pointers in here come from Box::into_raw below and are never freed.
        if let Some(owned) = unsafe { current.as_ref() }
            && owned.generation == generation
        {
            return &owned.value;
        }
        let made = Box::into_raw(Box::new(Owned { generation, value: make() }));
        match self.0.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: as above; it is published and stays.
            Ok(_) => unsafe { &(*made).value },
            Err(theirs) => {
                // SAFETY: `made` was not published, so nobody else has it; `theirs` was
                // published by a thread of this process, since a fork would have ended the race.
                unsafe {
                    drop(Box::from_raw(made));
                    &(*theirs).value
                }
            }
        }
    }
}

/// What is made anew in a forked child, for values that do not live as long as the program:
/// connections and tasks of the parent do not exist there.
pub(crate) struct Renewed<T> {
    current: Mutex<(u32, Arc<T>)>,
    make: Box<dyn Fn() -> T + Send + Sync>,
}

impl<T> Renewed<T> {
    pub(crate) fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let current = Mutex::new((gate::generation(), Arc::new(make())));
        Self { current, make: Box::new(make) }
    }

    /// This process's value. The parent's is left as it is, never dropped: closing its
    /// connections here would close them there.
    pub(crate) fn get(&self) -> Arc<T> {
        // No fork happens while the lock is held.
        let _passage = enter();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = gate::generation();
        if current.0 != generation {
            let parents = std::mem::replace(&mut *current, (generation, Arc::new((self.make)())));
            std::mem::forget(parents);
        }
        current.1.clone()
    }
}

impl<T> std::fmt::Debug for Renewed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

thread_local! {
    /// How many passages this thread holds. The thread that forks holds one too.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// While one of these lives, a fork waits. It stays with its thread.
pub(crate) struct Passage(PhantomData<*const ()>);

/// Passes the gate; waits while another thread forks. Whoever is inside passes again at once.
pub(crate) fn enter() -> Passage {
    if HELD.replace(HELD.get() + 1) == 0 {
        gate::enter();
    }
    Passage(PhantomData)
}

impl Drop for Passage {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            gate::leave();
        }
    }
}

/// Has `close_idle` called before every fork, when nobody is inside the gate.
pub(crate) fn before_each(close_idle: fn()) {
    gate::before_each(close_idle);
}

#[cfg(unix)]
mod gate {
    use std::{
        sync::{
            Once, OnceLock,
            atomic::{AtomicU32, Ordering},
        },
        thread,
        time::Duration,
    };

    use super::HELD;

    /// How many are inside; the top bit is set while a fork is under way.
    static GATE: AtomicU32 = AtomicU32::new(0);
    const FORKING: u32 = 1 << 31;
    /// Operations last microseconds, forks milliseconds.
    const PAUSE: Duration = Duration::from_micros(50);

    static CLOSE_IDLE: OnceLock<fn()> = OnceLock::new();

    /// How many forks lie between this process and the one that loaded this library. Reading it
    /// takes a nanosecond; asking for the process id is a system call.
    static GENERATION: AtomicU32 = AtomicU32::new(0);

    pub(super) fn generation() -> u32 {
        watch_forks();
        GENERATION.load(Ordering::Acquire)
    }

    pub(super) fn enter() {
        let admit = |inside: u32| (inside & FORKING == 0).then_some(inside + 1);
        while GATE.fetch_update(Ordering::AcqRel, Ordering::Acquire, admit).is_err() {
            thread::sleep(PAUSE);
        }
    }

    pub(super) fn leave() {
        GATE.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn before_each(close_idle: fn()) {
        // Set before the handlers can run.
        let _ = CLOSE_IDLE.set(close_idle);
        watch_forks();
    }

    fn watch_forks() {
        static REGISTER: Once = Once::new();
        REGISTER.call_once(|| {
            // SAFETY: the handlers are plain functions that live as long as the program. Its
            // only failure is a lack of memory, after which forks stay as unsafe as they were.
            unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        });
    }

    extern "C" fn prepare() {
        let claim = |inside: u32| (inside & FORKING == 0).then_some(inside | FORKING);
        while GATE.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).is_err() {
            thread::sleep(PAUSE);
        }
        while GATE.load(Ordering::Acquire) != FORKING {
            thread::sleep(PAUSE);
        }
        HELD.set(HELD.get() + 1);
        if let Some(close_idle) = CLOSE_IDLE.get() {
            close_idle();
        }
    }

    extern "C" fn parent() {
        HELD.set(HELD.get() - 1);
        GATE.fetch_and(!FORKING, Ordering::AcqRel);
    }

    extern "C" fn child() {
        HELD.set(HELD.get() - 1);
        GENERATION.fetch_add(1, Ordering::AcqRel);
        GATE.store(0, Ordering::Release);
    }
}

#[cfg(not(unix))]
mod gate {
    pub(super) fn enter() {}
    pub(super) fn leave() {}
    pub(super) fn generation() -> u32 {
        0
    }
    pub(super) fn before_each(_close_idle: fn()) {}
}
