//! What a call costs with few transactions in the file, and with a hundred thousand.

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr::null_mut,
    sync::Once,
};

use agirails::{
    LinkEscrow, State, TransactionId,
    kernel::{Kernel, Role, TransactionQuery, embedded::EmbeddedKernel},
};
use rusqlite::{Connection, ffi, params};
use tempfile::tempdir;

use crate::{create, open, paid_call, party, run, state_file, step};

/// One statement that ran: its text, the steps of SQLite's machine, and those of full scans.
#[derive(Debug)]
struct Ran {
    sql: String,
    steps: i64,
    scanned: i64,
}

thread_local! {
    /// What runs on this thread while it is recorded.
    static RECORD: RefCell<Option<Vec<Ran>>> = const { RefCell::new(None) };
}

/// Called when a statement has run to its end.
unsafe extern "C" fn note(
    _kind: c_uint,
    _context: *mut c_void,
    statement: *mut c_void,
    _nanoseconds: *mut c_void,
) -> c_int {
    let statement = statement.cast();
    // SAFETY: SQLite hands over a statement that lives through this call, and its text too. The
    // counters are set back also where nothing is recorded: statements are kept and used again.
    let ran = unsafe {
        let count = |what| ffi::sqlite3_stmt_status(statement, what, 1).into();
        Ran {
            sql: CStr::from_ptr(ffi::sqlite3_sql(statement)).to_string_lossy().into_owned(),
            steps: count(ffi::SQLITE_STMTSTATUS_VM_STEP),
            scanned: count(ffi::SQLITE_STMTSTATUS_FULLSCAN_STEP),
        }
    };
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            record.push(ran);
        }
    });
    0
}

/// Called for every connection that this process opens.
unsafe extern "C" fn listen(
    connection: *mut ffi::sqlite3,
    _message: *mut *mut c_char,
    _routines: *const ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the connection was just opened, and `note` needs no context.
    unsafe { ffi::sqlite3_trace_v2(connection, ffi::SQLITE_TRACE_PROFILE, Some(note), null_mut()) }
}

fn listen_to_all_connections() {
    static ONCE: Once = Once::new();
    // SAFETY: `listen` opens and closes nothing, and stays for the whole process.
    ONCE.call_once(|| unsafe {
        rusqlite::auto_extension::register_auto_extension(listen).unwrap();
    });
}

/// What this call makes SQLite do.
fn record(call: impl Future<Output = ()>) -> Vec<Ran> {
    RECORD.set(Some(vec![]));
    run(call);
    RECORD.take().unwrap()
}

const PAGE: u32 = 20;

/// A file in which party 0 has this many transactions more than a few, and the ids of some.
fn file_with(directory: &Path, count: u32) -> (EmbeddedKernel, Vec<TransactionId>) {
    let kernel = run(open(directory)).unwrap();
    let mut ids = vec![];
    let more = |ids: &mut Vec<_>| {
        for _ in 0..40 {
            ids.push(run(paid_call(&kernel, party(0))).unwrap());
            ids.push(run(create(&kernel, party(0))).unwrap());
        }
    };
    more(&mut ids);
    // The same again under other ids, which takes SQLite a moment and the kernel a minute.
    let file = Connection::open(state_file(directory)).unwrap();
    let columns: Vec<String> = file
        .prepare(
            "SELECT name FROM pragma_table_info('transactions') WHERE name NOT IN ('seq', 'id')",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let columns = columns.join(", ");
    let copy = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
         INSERT INTO transactions (id, {columns}) \
         SELECT randomblob(32), {columns} FROM n JOIN transactions ON seq = 1 + i % 80"
    );
    if count > 0 {
        file.execute(&copy, params![count]).unwrap();
        file.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
             INSERT INTO events (event) SELECT event FROM n JOIN events ON cursor = 1 + i % 80",
            params![count],
        )
        .unwrap();
    }
    drop(file);
    more(&mut ids);
    (kernel, ids)
}

/// The reads and writes whose cost must not grow, each with what it made SQLite do.
fn calls(kernel: &EmbeddedKernel, ids: &[TransactionId]) -> Vec<(String, Vec<Ran>)> {
    let mut calls = vec![];
    let mut call = |name: String, ran: Vec<Ran>| calls.push((name, ran));
    let (first, last) = (ids[0], ids[ids.len() - 1]);
    for (name, id) in [("first", first), ("last", last)] {
        call(
            format!("get_transaction, {name}"),
            record(async {
                kernel.get_transaction(id).await.unwrap();
            }),
        );
        call(
            format!("escrow, {name}"),
            record(async {
                kernel.escrow(id).await.unwrap();
            }),
        );
    }
    for role in [None, Some(Role::Requester), Some(Role::Provider)] {
        for state in [None, Some(State::Initiated), Some(State::Settled), Some(State::Disputed)] {
            for (page, after) in [("first", None), ("later", Some(ids[ids.len() - 40]))] {
                let party = if role == Some(Role::Provider) { party(1_000) } else { party(0) };
                let query = TransactionQuery { party, role, state, limit: PAGE, after };
                call(
                    format!("find_transactions, {role:?}, {state:?}, {page} page"),
                    record(async {
                        let found = kernel.find_transactions(&query).await.unwrap();
                        let expected =
                            if state == Some(State::Disputed) { 0 } else { PAGE as usize };
                        assert_eq!(found.len(), expected);
                    }),
                );
            }
        }
    }
    call(
        "events".to_owned(),
        record(async {
            assert_eq!(kernel.events(30, PAGE).await.unwrap().len(), PAGE as usize);
        }),
    );
    call(
        "balance".to_owned(),
        record(async {
            kernel.balance(party(0)).await.unwrap();
        }),
    );
    let mut made = None;
    call(
        "create_transaction".to_owned(),
        record(async {
            made = create(kernel, party(0)).await.ok();
        }),
    );
    let id = made.unwrap();
    call(
        "link_escrow".to_owned(),
        record(async {
            kernel.link_escrow(party(0), id, LinkEscrow::default()).await.unwrap();
        }),
    );
    for (by, to) in [
        (party(1_000), State::InProgress),
        (party(1_000), State::Delivered),
        (party(0), State::Settled),
    ] {
        call(
            format!("transition_state, {to}"),
            record(async {
                step(kernel, by, id, to).await.unwrap();
            }),
        );
    }
    calls
}

#[test]
fn no_call_costs_more_in_a_file_of_a_hundred_thousand_transactions() {
    listen_to_all_connections();
    let (few, many) = (tempdir().unwrap(), tempdir().unwrap());
    let (small, small_ids) = file_with(few.path(), 0);
    let (large, large_ids) = file_with(many.path(), 100_000);
    let plans = Connection::open(state_file(many.path())).unwrap();
    for ((name, little), (_, much)) in
        calls(&small, &small_ids).iter().zip(&calls(&large, &large_ids))
    {
        let sum = |ran: &[Ran], what: fn(&Ran) -> i64| ran.iter().map(what).sum::<i64>();
        let (steps, more_steps) = (sum(little, |ran| ran.steps), sum(much, |ran| ran.steps));
        assert!(steps > 0 && more_steps <= steps + 50, "{name}: {steps} steps became {more_steps}");
        let (scanned, more_scanned) =
            (sum(little, |ran| ran.scanned), sum(much, |ran| ran.scanned));
        assert!(more_scanned <= scanned, "{name}: scanned {scanned}, then {more_scanned}");
        for ran in much {
            assert_plan(&plans, name, &ran.sql);
        }
    }
}

/// No statement walks through a table, or sorts one.
fn assert_plan(file: &Connection, name: &str, sql: &str) {
    if !["SELECT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb)) {
        return;
    }
    let mut statement = file.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().unwrap() {
        let line: String = row.get(3).unwrap();
        for table in ["transactions", "events", "accounts", "agents", "delivery_proofs"] {
            assert!(!line.starts_with(&format!("SCAN {table}")), "{name}: {line}\n{sql}");
        }
    }
}
