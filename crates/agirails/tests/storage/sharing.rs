//! One file, many users.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agirails::{
    ACTPClient, ClientBuilder, LinkEscrow, Refusal, STATE_DIR_VARIABLE, State, Storage,
    TransactionId, Usdc,
    kernel::{
        Kernel, TransactionQuery,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
};
use rusqlite::Connection;
use tempfile::tempdir;

use crate::{
    USDC, assert_sound,
    children::{self, Report},
    create, open, options, paid_call, party, run, state_file, step,
};

#[test]
fn two_kernels_on_one_file_see_each_other() {
    let directory = tempdir().unwrap();
    run(async {
        let one = open(directory.path()).await.unwrap();
        let other = open(directory.path()).await.unwrap();
        let id = create(&one, party(0)).await.unwrap();
        assert_eq!(other.get_transaction(id).await, one.get_transaction(id).await);
        other.link_escrow(party(0), id, LinkEscrow::default()).await.unwrap();
        assert_eq!(one.get_transaction(id).await.unwrap().state, State::Committed);
        step(&one, party(1_000), id, State::InProgress).await.unwrap();
        step(&other, party(1_000), id, State::Delivered).await.unwrap();
        // The ids count on, whoever creates.
        let ids = [
            create(&one, party(0)).await.unwrap(),
            create(&other, party(0)).await.unwrap(),
            create(&one, party(0)).await.unwrap(),
        ];
        assert_eq!(HashSet::from(ids).len(), 3);

        // Time, pauses, mediators and money are the file's.
        let now = other.now().await.unwrap();
        one.advance_time(10 * 86_400).await.unwrap();
        assert!(other.now().await.unwrap() >= now + 10 * 86_400);
        step(&other, party(7), id, State::Settled).await.unwrap();
        one.set_paused(true).await.unwrap();
        let outcome = create(&other, party(0)).await;
        assert_eq!(outcome.unwrap_err().refusal(), Some(Refusal::KernelPaused));
        other.set_paused(false).await.unwrap();
        create(&one, party(0)).await.unwrap();
        one.mint(party(5), Usdc(77)).await.unwrap();
        assert_eq!(other.balance(party(5)).await.unwrap(), Usdc(1_000_000_077));
        assert_eq!(other.total_supply().await, one.total_supply().await);
        assert_eq!(other.events(0, 10_000).await, one.events(0, 10_000).await);
    });
    assert_sound(directory.path());
}

/// The role of a process that looks at what another one did, and does the same.
pub fn answer(directory: &Path) {
    run(async {
        let wall = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let kernel = open(directory).await.unwrap();
        assert!(kernel.now().await.unwrap() >= wall + 86_400);
        assert_eq!(kernel.balance(party(0)).await.unwrap(), Usdc(7));
        let outcome = create(&kernel, party(0)).await;
        assert_eq!(outcome.unwrap_err().refusal(), Some(Refusal::KernelPaused));
        kernel.set_paused(false).await.unwrap();
        kernel.advance_time(86_400).await.unwrap();
        kernel.mint(party(0), Usdc(USDC)).await.unwrap();
        paid_call(&kernel, party(0)).await.unwrap();
    });
}

#[test]
fn time_pauses_and_money_are_shared_between_processes() {
    let directory = tempdir().unwrap();
    run(async {
        let wall = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let options =
            EmbeddedOptions { starting_balance: Some(Usdc(0)), ..options(directory.path()) };
        let kernel = EmbeddedKernel::open(options).await.unwrap();
        kernel.advance_time(86_400).await.unwrap();
        kernel.mint(party(0), Usdc(7)).await.unwrap();
        kernel.set_paused(true).await.unwrap();
        children::succeeds(children::command("answer", directory.path(), 0));
        assert!(kernel.now().await.unwrap() >= wall + 2 * 86_400);
        assert_eq!(kernel.balance(party(0)).await.unwrap(), Usdc(7));
        assert_eq!(kernel.balance(party(1_000)).await.unwrap(), Usdc(950_000));
        let found = kernel.find_transactions(&TransactionQuery::of(party(0))).await.unwrap();
        assert_eq!(found[0].state, State::Settled);
        create(&kernel, party(0)).await.unwrap();
    });
    assert_sound(directory.path());
}

#[test]
fn what_was_written_is_there_after_everybody_left() {
    let directory = tempdir().unwrap();
    let id = run(async {
        let kernel = open(directory.path()).await.unwrap();
        kernel.advance_time(1_000).await.unwrap();
        paid_call(&kernel, party(0)).await.unwrap()
    });
    let kernel = run(open(directory.path())).unwrap();
    assert_eq!(run(kernel.get_transaction(id)).unwrap().state, State::Settled);
    let wall = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(run(kernel.now()).unwrap() >= wall + 1_000);
    assert_eq!(run(kernel.balance(party(1_000))).unwrap(), Usdc(1_000_950_000));
}

#[test]
fn a_file_keeps_the_starting_balance_that_it_was_made_with() {
    let directory = tempdir().unwrap();
    run(async {
        let options =
            |starting_balance| EmbeddedOptions { starting_balance, ..options(directory.path()) };
        let poor = EmbeddedKernel::open(options(Some(Usdc(0)))).await.unwrap();
        let rich = EmbeddedKernel::open(options(Some(Usdc(5)))).await.unwrap();
        for kernel in [&poor, &rich] {
            kernel.greet(party(0)).await.unwrap();
            assert_eq!(kernel.balance(party(0)).await.unwrap(), Usdc(0));
            assert_eq!(kernel.balance(party(1)).await.unwrap(), Usdc(0));
            assert_eq!(kernel.total_supply().await.unwrap(), Usdc(0));
        }
        let id = create(&poor, party(0)).await.unwrap();
        let outcome = poor.link_escrow(party(0), id, LinkEscrow::default()).await;
        assert_eq!(outcome.unwrap_err().code().as_str(), "insufficient_balance");
        rich.mint(party(0), Usdc(USDC)).await.unwrap();
        poor.link_escrow(party(0), id, LinkEscrow::default()).await.unwrap();
    });
    assert_sound(directory.path());
}

#[test]
fn an_address_is_greeted_once_and_only_when_it_takes_part() {
    run(async {
        let options = EmbeddedOptions::new(Storage::Memory);
        let kernel = EmbeddedKernel::open(options).await.unwrap();
        assert_eq!(kernel.balance(party(0)).await.unwrap(), Usdc(1_000 * USDC));
        assert_eq!(kernel.total_supply().await.unwrap(), Usdc(0));
        for _ in 0..3 {
            kernel.greet(party(0)).await.unwrap();
            assert_eq!(kernel.total_supply().await.unwrap(), Usdc(1_000 * USDC));
        }
        // Requester and provider.
        create(&kernel, party(1)).await.unwrap();
        assert_eq!(kernel.total_supply().await.unwrap(), Usdc(3_000 * USDC));
        // The protocol's own accounts start with nothing.
        let network = kernel.network().clone();
        for owner in [network.vault, network.fee_recipient, network.admin] {
            kernel.greet(owner).await.unwrap();
            assert_eq!(kernel.balance(owner).await.unwrap(), Usdc(0));
        }
    });
}

#[test]
fn many_threads_and_tasks_share_a_kernel() {
    let directory = tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let kernel: Arc<dyn Kernel> = Arc::new(run(open(directory.path())).unwrap());
    let ids: HashSet<TransactionId> = runtime.block_on(async {
        let tasks: Vec<_> = (0..32)
            .map(|task| {
                let kernel = kernel.clone();
                tokio::spawn(async move {
                    let mut ids = vec![];
                    for _ in 0..5 {
                        ids.push(paid_call(kernel.as_ref(), party(task % 4)).await.unwrap());
                        let query = TransactionQuery::of(party(task % 4));
                        assert!(!kernel.find_transactions(&query).await.unwrap().is_empty());
                    }
                    ids
                })
            })
            .collect();
        let mut ids = HashSet::new();
        for task in tasks {
            ids.extend(task.await.unwrap());
        }
        ids
    });
    assert_eq!(ids.len(), 160);
    let paid = run(kernel.balance(party(1_000))).unwrap();
    assert_eq!(paid, Usdc(1_000 * USDC + 160 * 950_000));
    drop(kernel);
    assert_sound(directory.path());
}

const CALLS_PER_PROCESS: u64 = 60;

/// The role of one of many processes.
pub fn pay(directory: &Path, number: u64) {
    run(async {
        let kernel = open(directory).await.unwrap();
        let mut report = Report::at(directory);
        for _ in 0..CALLS_PER_PROCESS {
            report.line(paid_call(&kernel, party(number % 4)).await.unwrap());
        }
    });
}

#[test]
fn sixteen_processes_write_one_file_together() {
    let directory = tempdir().unwrap();
    let mut processes: Vec<_> = (0..16)
        .map(|number| children::command("pay", directory.path(), number).spawn().unwrap())
        .collect();
    for process in &mut processes {
        let status = children::wait(process, Duration::from_secs(120));
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
    let calls = 16 * CALLS_PER_PROCESS;
    let ids: HashSet<_> = Report::all(directory.path()).into_iter().collect();
    assert_eq!(ids.len() as u64, calls);
    run(async {
        let kernel = open(directory.path()).await.unwrap();
        for id in ids {
            let tx = kernel.get_transaction(id.parse().unwrap()).await.unwrap();
            assert_eq!(tx.state, State::Settled);
        }
        let paid = kernel.balance(party(1_000)).await.unwrap();
        assert_eq!(paid, Usdc(1_000 * USDC + calls * 950_000));
        for number in 0..4 {
            let left = kernel.balance(party(number)).await.unwrap();
            assert_eq!(left, Usdc((1_000 - calls / 4) * USDC));
        }
        // One history without a gap: eight events a call.
        let events = kernel.events(0, 10_000).await.unwrap();
        let cursors: Vec<_> = events.iter().map(|record| record.cursor).collect();
        assert_eq!(cursors, (1..=8 * calls).collect::<Vec<_>>());
    });
    assert_sound(directory.path());
}

/// Whoever comes second must never take a file that is being made for a foreign one.
#[test]
fn a_new_file_is_opened_by_many_threads_at_once() {
    const THREADS: usize = 8;
    for _ in 0..40 {
        let directory = tempdir().unwrap();
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for number in 0..THREADS as u64 {
                let (directory, start) = (directory.path(), &start);
                scope.spawn(move || {
                    start.wait();
                    let kernel = run(open(directory)).unwrap();
                    run(kernel.greet(party(number))).unwrap();
                });
            }
        });
        let kernel = run(open(directory.path())).unwrap();
        let all = Usdc(THREADS as u64 * 1_000 * USDC);
        assert_eq!(run(kernel.total_supply()).unwrap(), all);
    }
}

/// The role of one of many processes that open new files together.
pub fn open_at_the_same_time(directory: &Path) {
    for round in 0..20 {
        let directory = directory.join(round.to_string());
        run(async {
            let kernel = open(&directory).await.unwrap();
            kernel.mint(party(0), Usdc(1)).await.unwrap();
        });
    }
}

#[test]
fn new_files_are_opened_by_many_processes_at_once() {
    let directory = tempdir().unwrap();
    let mut processes: Vec<_> = (0..8)
        .map(|number| children::command("open", directory.path(), number).spawn().unwrap())
        .collect();
    for process in &mut processes {
        let status = children::wait(process, Duration::from_secs(60));
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
    for round in 0..20 {
        let kernel = run(open(&directory.path().join(round.to_string()))).unwrap();
        assert_eq!(run(kernel.total_supply()).unwrap(), Usdc(1_000 * USDC + 8));
    }
}

/// The role of a process that dies at its work.
pub fn pay_until_killed(directory: &Path, number: u64) {
    run(async {
        let kernel = open(directory).await.unwrap();
        let mut report = Report::at(directory);
        loop {
            let requester = party(number);
            kernel.mint(requester, Usdc(USDC)).await.unwrap();
            let id = create(&kernel, requester).await.unwrap();
            report.line(format!("{id} {}", State::Initiated));
            kernel.link_escrow(requester, id, LinkEscrow::default()).await.unwrap();
            report.line(format!("{id} {}", State::Committed));
            step(&kernel, party(1_000), id, State::InProgress).await.unwrap();
            step(&kernel, party(1_000), id, State::Delivered).await.unwrap();
            step(&kernel, requester, id, State::Settled).await.unwrap();
            report.line(format!("{id} {}", State::Settled));
        }
    });
}

#[test]
fn processes_killed_at_any_moment_leave_a_sound_file() {
    let shared = tempdir().unwrap();
    let mut noise = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    for round in 0..24 {
        // Every other round in a new file, killed early, so that its making is hit too.
        let fresh = tempdir().unwrap();
        let (directory, longest) =
            if round % 2 == 0 { (shared.path(), 120) } else { (fresh.path(), 25) };
        let mut processes: Vec<_> = (0..3)
            .map(|number| children::command("pay until killed", directory, number).spawn().unwrap())
            .collect();
        for process in &mut processes {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            thread::sleep(Duration::from_millis(u64::from(noise >> 16) % longest));
            process.kill().unwrap();
            process.wait().unwrap();
        }
        run(async {
            let kernel = open(directory).await.unwrap();
            for line in Report::all(directory) {
                let (id, state) = line.split_once(' ').unwrap();
                let tx = kernel.get_transaction(id.parse().unwrap()).await.unwrap();
                let reached: State = state.parse().unwrap();
                assert!(tx.state as u8 >= reached as u8, "{} < {reached}", tx.state);
            }
        });
        assert_sound(directory);
    }
    assert!(Report::all(shared.path()).len() > 10);
}

/// A held lock delays a write, and nothing else: not the thread, not reading, not other tasks.
#[test]
fn a_held_write_lock_delays_and_blocks_no_thread() {
    let directory = tempdir().unwrap();
    run(async {
        let kernel = open(directory.path()).await.unwrap();
        let id = create(&kernel, party(0)).await.unwrap();
        let holder = Connection::open(state_file(directory.path())).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();

        let ticks = AtomicU32::new(0);
        let started = Instant::now();
        let write = async {
            kernel.link_escrow(party(0), id, LinkEscrow::default()).await.unwrap();
            started.elapsed()
        };
        let tick = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                kernel.get_transaction(id).await.unwrap();
                if ticks.fetch_add(1, Ordering::Relaxed) == 40 {
                    holder.execute_batch("ROLLBACK").unwrap();
                }
            }
        };
        let delay = tokio::select! { delay = write => delay, () = tick => unreachable!() };
        assert!(ticks.load(Ordering::Relaxed) > 40);
        assert!(delay >= Duration::from_millis(200) && delay < Duration::from_secs(5), "{delay:?}");
        assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Committed);
    });
}

#[test]
fn a_call_given_up_while_it_waits_did_nothing() {
    let directory = tempdir().unwrap();
    run(async {
        let kernel = open(directory.path()).await.unwrap();
        kernel.greet(party(0)).await.unwrap();
        let holder = Connection::open(state_file(directory.path())).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        let outcome =
            tokio::time::timeout(Duration::from_millis(40), create(&kernel, party(0))).await;
        outcome.unwrap_err();
        holder.execute_batch("ROLLBACK").unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert_eq!(kernel.events(0, 10).await.unwrap(), []);
        create(&kernel, party(0)).await.unwrap();
    });
}

/// The role of a process whose environment names the state directory, or names nothing.
pub fn use_the_environment(directory: &Path) {
    let connect = |builder: ClientBuilder| {
        let client = run(builder.address(party(0)).connect()).unwrap();
        client.mock().unwrap().file().unwrap().to_owned()
    };
    let named = match std::env::var(STATE_DIR_VARIABLE).unwrap().as_str() {
        "" => Path::new(".").to_owned(),
        named => Path::new(named).to_owned(),
    };
    // Where it lies, whatever the working directory will be.
    let file = |directory: &Path| state_file(directory).canonicalize().unwrap();
    assert_eq!(connect(ACTPClient::builder()), file(&named));
    let explicit = directory.join("explicit");
    let client = connect(ACTPClient::builder().state_directory(&explicit));
    assert_eq!(client, file(&explicit));
}

#[test]
fn the_environment_names_the_state_directory() {
    let directory = tempdir().unwrap();
    for named in [directory.path().join("named").as_path(), Path::new("")] {
        let mut command = children::command("use the environment", directory.path(), 0);
        command.env(STATE_DIR_VARIABLE, named).current_dir(directory.path());
        children::succeeds(command);
    }
    assert!(state_file(directory.path()).exists());
}
