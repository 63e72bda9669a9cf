//! Forks, as servers make them: with a kernel open, and while other threads work.
//!
//! Each test runs in a process of its own, since a fork of this one would fork its other tests.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agirails::{
    Storage, Usdc,
    fork::PerProcess,
    kernel::{
        Kernel,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
};
use tempfile::tempdir;

use crate::{USDC, assert_sound, children, create, open, paid_call, party, run};

/// Forks, and has the child do this and end.
fn fork(child: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child runs test code that takes no lock but those that the library guards,
    // and ends without unwinding into the parent's frames.
    match unsafe { libc::fork() } {
        0 => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        child => {
            assert!(child > 0, "{}", std::io::Error::last_os_error());
            child
        }
    }
}

/// Waits for the child, but not for ever.
fn join(child: libc::pid_t) {
    let until = Instant::now() + Duration::from_secs(30);
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > until {
            // SAFETY: the child was not waited for, so the number is still its.
            unsafe { libc::kill(child, libc::SIGKILL) };
            eprintln!("a forked child hangs");
            // Other threads would go on for ever.
            std::process::exit(2);
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(status, 0, "a forked child failed");
}

const FORKS: u64 = 12;
const CALLS: u64 = 4;

/// The role of a server that forks workers while its own threads write.
pub fn fork_among_writers(directory: &Path) {
    let kernel: Arc<dyn Kernel> = Arc::new(run(open(directory)).unwrap());
    run(paid_call(kernel.as_ref(), party(0))).unwrap();
    let stop = AtomicBool::new(false);
    let paid_by_threads = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 0..3 {
            let (kernel, stop, paid) = (&kernel, &stop, &paid_by_threads);
            scope.spawn(move || {
                run(async {
                    while !stop.load(Ordering::Relaxed) {
                        paid_call(kernel.as_ref(), party(number)).await.unwrap();
                        paid.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let children: Vec<_> = (0..FORKS)
            .map(|number| {
                thread::sleep(Duration::from_millis(3));
                let kernel = &kernel;
                let child = fork(move || {
                    run(async {
                        for _ in 0..CALLS {
                            paid_call(kernel.as_ref(), party(10 + number)).await.unwrap();
                        }
                    });
                });
                // The parent goes on at once.
                run(paid_call(kernel.as_ref(), party(5))).unwrap();
                child
            })
            .collect();
        children.into_iter().for_each(join);
        stop.store(true, Ordering::Relaxed);
    });
    let calls = 1 + FORKS + FORKS * CALLS + u64::from(paid_by_threads.into_inner());
    let earned = run(kernel.balance(party(1_000))).unwrap();
    assert_eq!(earned, Usdc(1_000 * USDC + calls * 950_000));
    drop(kernel);
    assert_sound(directory);
}

#[test]
fn parent_and_children_write_on_with_the_kernel_opened_before_the_fork() {
    let directory = tempdir().unwrap();
    children::succeeds(children::command("fork among writers", directory.path(), 0));
    assert_sound(directory.path());
}

/// The role of a server whose threads open and close kernels while it forks.
pub fn fork_among_openers(directory: &Path) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..3 {
            let (directory, stop) = (directory.join(number.to_string()), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let memory = EmbeddedOptions::new(Storage::Memory);
                    let memory = run(EmbeddedKernel::open(memory)).unwrap();
                    let file = run(open(&directory)).unwrap();
                    run(file.mint(party(1), Usdc(1))).unwrap();
                    drop((memory, file));
                }
            });
        }
        for number in 0..150 {
            thread::sleep(Duration::from_micros(300 + number % 7 * 100));
            join(fork(|| {
                let kernel = run(open(directory)).unwrap();
                run(kernel.mint(party(1), Usdc(1))).unwrap();
            }));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let kernel = run(open(directory)).unwrap();
    assert_eq!(run(kernel.balance(party(1))).unwrap(), Usdc(1_000 * USDC + 150));
}

#[test]
fn a_fork_while_kernels_are_opened_and_closed_leaves_the_child_able_to_work() {
    let directory = tempdir().unwrap();
    children::succeeds(children::command("fork among openers", directory.path(), 0));
    assert_sound(directory.path());
}

/// The role of a process whose kernel lives in memory.
pub fn fork_in_memory() {
    let options = EmbeddedOptions::new(Storage::Memory);
    let kernel = run(EmbeddedKernel::open(options)).unwrap();
    let id = run(create(&kernel, party(0))).unwrap();
    let child = fork(|| {
        // The child has its own copy from here on.
        run(async {
            assert_eq!(kernel.get_transaction(id).await.unwrap().id, id);
            for _ in 0..5 {
                paid_call(&kernel, party(1)).await.unwrap();
            }
            assert_eq!(kernel.balance(party(1)).await.unwrap(), Usdc(995 * USDC));
        });
    });
    run(paid_call(&kernel, party(1))).unwrap();
    join(child);
    assert_eq!(run(kernel.balance(party(1))).unwrap(), Usdc(999 * USDC));
    assert_eq!(run(kernel.events(0, 100)).unwrap().len(), 9);
}

#[test]
fn a_kernel_in_memory_is_copied_by_a_fork() {
    let directory = tempdir().unwrap();
    children::succeeds(children::command("fork in memory", directory.path(), 0));
}

static VALUE: PerProcess<(u32, u32)> = PerProcess::new();

/// The role of a process with a value that must not be shared.
pub fn fork_with_a_value() {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let get = || *VALUE.get_or_init(|| (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
    let mine = (std::process::id(), 0);
    assert_eq!((get(), get()), (mine, mine));
    let child = fork(|| {
        let theirs = (std::process::id(), 1);
        assert_eq!((get(), get()), (theirs, theirs));
        // And a grandchild its own again.
        join(fork(|| assert_eq!(get(), (std::process::id(), 2))));
        assert_eq!(get(), theirs);
    });
    join(child);
    assert_eq!(get(), mine);
}

#[test]
fn a_value_per_process_is_made_anew_by_each() {
    let directory = tempdir().unwrap();
    children::succeeds(children::command("fork with a value", directory.path(), 0));
}

#[test]
fn threads_agree_on_the_value_of_their_process() {
    static SHARED: PerProcess<u64> = PerProcess::new();
    let noise = AtomicU32::new(0);
    let values: Vec<u64> = thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| *SHARED.get_or_init(|| noise.fetch_add(1, Ordering::Relaxed).into()))
            })
            .collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{values:?}");
}
