use std::{
    env,
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use agirails_devnet::Postgres;
use alloy_primitives::keccak256;
use tokio::runtime;
use tokio_postgres::NoTls;

use super::*;
use crate::paywall::store::conformance;

/// One server for all tests of this process; it ends with the process.
static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());

/// A name that no other test has.
fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn store(url: &str, scope: &str) -> PostgresStore {
    PostgresStore::connect(url, scope, Duration::ZERO).await.unwrap()
}

async fn pair() -> (PostgresStore, PostgresStore, ()) {
    let scope = fresh("scope");
    (store(&SERVER.url(), &scope).await, store(&SERVER.url(), &scope).await, ())
}

conformance::suite!(pair);

/// Another client of the server, which may do everything.
async fn administrator(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A database of its own.
async fn new_database() -> String {
    let name = fresh("database");
    let administrator = administrator(&SERVER.url()).await;
    administrator.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    SERVER.database_url(&name)
}

fn request(key: &str) -> ClaimRequest {
    let (amount, id) = (Usdc(1_000_000_000), keccak256("payment"));
    let requester = Account::repeat_byte(1);
    ClaimRequest {
        facts: Facts {
            id,
            requester,
            amount,
            deadline: 1_900_000_000,
            window_seconds: 3_600,
            bound: true,
        },
        key: key.to_owned(),
        digest: keccak256(key),
        price: Usdc(1),
        least: Usdc(1),
        owner: [1; 16],
        lease: Duration::from_secs(60),
        give_up_after: u32::MAX,
    }
}

fn answer_of(key: &str, attempt: u32) -> AnswerRequest {
    let call = CallId { transaction: request(key).facts.id, key: key.to_owned() };
    AnswerRequest {
        claim: Claim { call, owner: [1; 16], attempt, price: Usdc(1) },
        content_hash: keccak256(key),
        answered_at: 1_800_000_000,
        answer: Some(Answer::text(200, "text/plain", vec![b'x'; 2_000])),
        route: "/".to_owned(),
        close_below: Usdc(1),
    }
}

#[tokio::test]
async fn scopes_do_not_see_each_other() {
    let (one, other) =
        (store(&SERVER.url(), &fresh("one")).await, store(&SERVER.url(), &fresh("other")).await);
    let id = request("k").facts.id;
    assert_eq!(one.claim(&request("k")).await.unwrap(), Claimed::Run { attempt: 1 });
    assert!(one.lease("chain", [1; 16], Duration::from_secs(60)).await.unwrap());
    assert_eq!(other.payment(id).await.unwrap(), None);
    assert!(other.lease("chain", [2; 16], Duration::from_secs(60)).await.unwrap());
    assert_eq!(other.close_expiring(u64::MAX).await.unwrap(), 0);
    assert_eq!(other.claim(&request("k")).await.unwrap(), Claimed::Run { attempt: 1 });
    assert!(matches!(
        other.answer(&answer_of("k", 1)).await.unwrap(),
        Ended::Done { stage: Stage::Open, .. }
    ));
    assert_eq!(one.counters().await.unwrap(), Counters::new());
    assert_eq!(one.payment(id).await.unwrap().unwrap().calls, 0);
    assert_eq!(one.prune(Duration::ZERO, u64::MAX, 10).await.unwrap(), 0);
}

#[tokio::test]
async fn a_socket_serves_too() {
    let store = store(&SERVER.socket_url(), &fresh("socket")).await;
    assert_eq!(store.claim(&request("k")).await.unwrap(), Claimed::Run { attempt: 1 });
}

#[tokio::test]
async fn many_may_make_the_schema_at_once() {
    let url = new_database().await;
    let opened = (0..8).map(|number| {
        let url = url.clone();
        tokio::spawn(async move { store(&url, &format!("scope {number}")).await })
    });
    for store in futures_util::future::join_all(opened).await {
        assert_eq!(store.unwrap().claim(&request("k")).await.unwrap(), Claimed::Run { attempt: 1 });
    }
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let url = new_database().await;
    store(&url, "a").await;
    let administrator = administrator(&url).await;
    administrator.batch_execute("UPDATE agirails_paywall.version SET number = 99").await.unwrap();
    let error = PostgresStore::connect(&url, "a", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageVersion);
    assert!(error.hint().unwrap().contains("update"));
}

#[tokio::test]
async fn an_older_schema_is_brought_forward_with_what_is_in_it() {
    let url = new_database().await;
    let administrator = administrator(&url).await;
    administrator.batch_execute("CREATE SCHEMA agirails_paywall").await.unwrap();
    administrator.batch_execute(TABLES[0]).await.unwrap();
    administrator
        .batch_execute(
            "INSERT INTO agirails_paywall.lease VALUES ('a', 'chain', '\\x01', 'infinity');
             CREATE FUNCTION agirails_paywall.duties(p_scope text, p_limit bigint)
             RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        )
        .await
        .unwrap();
    let store = store(&url, "a").await;
    assert!(!store.lease("chain", [1; 16], Duration::from_secs(60)).await.unwrap());
    assert_eq!(store.claim(&request("k")).await.unwrap(), Claimed::Run { attempt: 1 });
    assert_eq!(store.duties(Stage::Delivering, 10).await.unwrap(), []);
    let rows = administrator.query(TAKEN, &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, i32>(0), VERSION);
}

#[tokio::test]
async fn whoever_owns_the_schema_needs_no_more() {
    let url = new_database().await;
    let administrator = administrator(&url).await;
    let (role, other) = (fresh("role"), fresh("other"));
    administrator
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'p';
             CREATE ROLE {other} LOGIN PASSWORD 'p';
             CREATE SCHEMA agirails_paywall AUTHORIZATION {role}"
        ))
        .await
        .unwrap();
    let of = |role: &str| {
        let (_, place) = url.split_once('@').unwrap();
        format!("postgres://{role}:p@{place}")
    };
    let store = store(&of(&role), "a").await;
    assert_eq!(store.claim(&request("k")).await.unwrap(), Claimed::Run { attempt: 1 });
    let error = PostgresStore::connect(&of(&other), "a", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageUnavailable);
    assert!(error.hint().unwrap().contains("agirails_paywall"), "{error:#}");
}

#[tokio::test]
async fn a_schema_that_is_not_ours_is_damaged() {
    let url = new_database().await;
    let store = store(&url, "a").await;
    let administrator = administrator(&url).await;
    let drop = "ALTER TABLE agirails_paywall.call RENAME COLUMN digest TO other";
    administrator.batch_execute(drop).await.unwrap();
    assert_eq!(store.claim(&request("k")).await.unwrap_err().code(), Code::StorageDamaged);
}

#[tokio::test]
async fn an_encoding_that_cannot_hold_all_texts_is_refused() {
    let name = fresh("latin");
    let administrator = administrator(&SERVER.url()).await;
    let make = format!("CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    administrator.batch_execute(&make).await.unwrap();
    let url = SERVER.database_url(&name);
    let error = PostgresStore::connect(&url, "a", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageUnavailable);
    assert!(error.hint().unwrap().contains("UTF8"));
}

#[tokio::test]
async fn a_lock_that_others_hold_is_waited_for_in_bounds() {
    let url = new_database().await;
    let limits = Limits { lock: Duration::from_millis(200), ..Limits::USUAL };
    let store = PostgresStore::connect_within(&url, "a", Duration::ZERO, limits).await.unwrap();
    store.claim(&request("k")).await.unwrap();
    let administrator = administrator(&url).await;
    let lock = "BEGIN; LOCK TABLE agirails_paywall.payment";
    administrator.batch_execute(lock).await.unwrap();
    let error = store.claim(&request("l")).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageBusy);
    administrator.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.claim(&request("l")).await.unwrap(), Claimed::Run { attempt: 1 });
}

#[tokio::test]
async fn a_session_that_the_server_ended_is_replaced() {
    let url = new_database().await;
    let store = store(&url, "a").await;
    let administrator = administrator(&url).await;
    for round in 0..5 {
        let key = format!("{round}");
        assert_eq!(store.claim(&request(&key)).await.unwrap(), Claimed::Run { attempt: 1 });
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        administrator.batch_execute(end).await.unwrap();
        // At once, before anybody can have seen it.
        let answered = store.answer(&answer_of(&key, 1)).await.unwrap();
        assert!(matches!(answered, Ended::Done { stage: Stage::Open, .. }));
    }
}

#[tokio::test]
async fn a_database_that_dies_and_comes_back_serves_again() {
    let mut server = Postgres::start().unwrap();
    let store = store(&server.url(), "a").await;
    assert_eq!(store.claim(&request("k")).await.unwrap(), Claimed::Run { attempt: 1 });
    server.kill();
    let started = Instant::now();
    let error = store.claim(&request("l")).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnreachable, "{error:#}");
    assert!(error.hint().is_some() && !format!("{error:?}").contains(server.password()));
    assert!(started.elapsed() < Duration::from_secs(6));
    let error = PostgresStore::connect(&server.url(), "b", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnreachable);

    // Who is patient waits for it.
    let (url, comes) =
        (server.url(), tokio::task::spawn_blocking(move || server.restart().map(|()| server)));
    PostgresStore::connect(&url, "b", Duration::from_secs(60)).await.unwrap();
    let _server = comes.await.unwrap().unwrap();
    let claimed = store.claim(&request("k")).await.unwrap();
    assert!(matches!(claimed, Claimed::Running { .. }), "{claimed:?}");
    let answered = store.answer(&answer_of("k", 1)).await.unwrap();
    assert!(matches!(answered, Ended::Done { stage: Stage::Open, .. }));
}

#[tokio::test]
async fn a_server_that_stands_still_is_given_up() {
    let server = Postgres::start().unwrap();
    let limits = Limits {
        connect: Duration::from_millis(500),
        answer: Duration::from_millis(500),
        ..Limits::USUAL
    };
    let store =
        PostgresStore::connect_within(&server.url(), "a", Duration::ZERO, limits).await.unwrap();
    store.claim(&request("k")).await.unwrap();
    server.suspend().unwrap();
    // First through a connection that there is, then through one that cannot be made.
    for _ in 0..2 {
        let call = answer_of("k", 1);
        // Who does not give up waits for ever.
        let given_up = tokio::time::timeout(Duration::from_secs(60), store.answer(&call));
        let error = given_up.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::StoreUnreachable, "{error:#}");
    }
    server.resume().unwrap();
    let answered = store.answer(&answer_of("k", 1)).await.unwrap();
    assert!(matches!(answered, Ended::Done { stage: Stage::Open, .. }));
    // The server may have heard the first one too.
    assert_eq!(store.payment(request("k").facts.id).await.unwrap().unwrap().calls, 1);
}

#[tokio::test]
async fn the_password_is_never_shown() {
    let password = SERVER.password();
    let url = SERVER.url();
    let (place, wrong) = (url.split_once('@').unwrap().1, "geheim-geheim");
    let opened = store(&url, "a").await;
    assert!(!format!("{opened:?}").contains(password));
    assert!(format!("{opened:?}").contains("127.0.0.1"));
    let refused = [
        (format!("postgres://agirails:{wrong}@{place}"), Code::StorageUnavailable),
        (format!("postgres://{wrong}:{wrong}@127.0.0.1:1/db"), Code::StoreUnreachable),
        (
            format!("postgres://agirails:{password}@{}", place.replace("/postgres", "/none")),
            Code::StorageUnavailable,
        ),
        (
            format!("postgres://agirails:{password}@{}", place.replace("disable", "require")),
            Code::StoreUnreachable,
        ),
        (format!("postgres://agirails:{wrong}@localhost:x{wrong}/db"), Code::InvalidSettings),
    ];
    for (url, code) in refused {
        let error = PostgresStore::connect(&url, "a", Duration::ZERO).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:#}");
        assert!(error.hint().is_some(), "{error}");
        let said = format!("{error} {error:#} {error:?} {:?}", std::error::Error::source(&error));
        // As a password; as a user's name it is told.
        let said = said.replace(&format!("user \"{wrong}\""), "");
        assert!(!said.contains(wrong) && !said.contains(password), "{said}");
    }
}

/// One after another, as a program does that has no runtime of its own.
#[test]
fn every_runtime_is_served() {
    let scope = fresh("runtimes");
    let current = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let several =
        runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (first, second) = (current(), current());
    let store = first.block_on(store(&SERVER.url(), &scope));
    for round in 0..3 {
        for (name, runtime) in [("first", &first), ("several", &several), ("second", &second)] {
            let key = format!("{name} {round}");
            let claimed = runtime.block_on(store.claim(&request(&key))).unwrap();
            assert_eq!(claimed, Claimed::Run { attempt: 1 });
        }
    }
    // A future that is polled elsewhere, with the runtime entered.
    let _entered = several.enter();
    let asked = request("k");
    let claimed = futures_util::future::FutureExt::now_or_never(async {}).map(|()| {
        let mut claim =
            std::pin::pin!(tokio::time::timeout(Duration::from_secs(10), store.claim(&asked)));
        let waker = std::task::Waker::noop();
        loop {
            let polled = claim.as_mut().poll(&mut std::task::Context::from_waker(waker));
            if let std::task::Poll::Ready(claimed) = polled {
                break claimed.unwrap().unwrap();
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(claimed, Some(Claimed::Run { attempt: 1 }));
    // Runtimes that ended take their connections with them.
    drop(first);
    let claimed = second.block_on(store.claim(&request("l"))).unwrap();
    assert_eq!(claimed, Claimed::Run { attempt: 1 });
}

/// A call that is given up midway leaves its connection to nobody.
#[tokio::test]
async fn calls_that_are_given_up_disturb_no_others() {
    let store = store(&SERVER.url(), &fresh("given_up")).await;
    for round in 0..50 {
        let request = request(&format!("{round}"));
        let claim = store.claim(&request);
        let _ = tokio::time::timeout(Duration::from_micros(round * 20), claim).await;
        assert!(store.payment(B256::ZERO).await.unwrap().is_none());
    }
}

const ROLE: &str = "AGIRAILS_TEST_DATABASE";

/// In a process of its own, since a fork of this one would fork its other tests.
#[test]
fn a_forked_child_makes_its_own_connections() {
    let status = Command::new(env::current_exe().unwrap())
        .args([
            "paywall::store::postgres::tests::a_fork",
            "--exact",
            "--ignored",
            "--test-threads=1",
        ])
        .env(ROLE, SERVER.url())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "the role of a_forked_child_makes_its_own_connections"]
fn a_fork() {
    let Ok(url) = env::var(ROLE) else { return };
    let runtime = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let parents = runtime();
    let store = parents.block_on(store(&url, "forked"));
    parents.block_on(store.claim(&request("before"))).unwrap();
    // SAFETY: the child runs code that takes no lock but those that the library guards, and ends
    // without unwinding into the parent's frames.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let claimed = runtime().block_on(store.claim(&request("child"))).unwrap();
            assert_eq!(claimed, Claimed::Run { attempt: 1 });
        }));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(done.is_err())) }
    }
    for round in 0..20 {
        let claimed = parents.block_on(store.claim(&request(&format!("{round}")))).unwrap();
        assert_eq!(claimed, Claimed::Run { attempt: 1 });
    }
    let (mut status, started) = (0, Instant::now());
    // SAFETY: `status` lives through the call.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "the child hangs");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status, 0);
    let claimed = parents.block_on(store.claim(&request("child"))).unwrap();
    assert!(matches!(claimed, Claimed::Running { .. }));
}

/// For the figures: `cargo test --release … -- --ignored --nocapture a_call_takes`.
#[tokio::test]
#[ignore = "measures"]
async fn a_call_takes() {
    let store = store(&SERVER.url(), &fresh("figures")).await;
    let mut took = Vec::new();
    for round in 0..2_000 {
        let key = format!("{round}");
        let started = Instant::now();
        store.claim(&request(&key)).await.unwrap();
        let claimed = started.elapsed();
        store.answer(&answer_of(&key, 1)).await.unwrap();
        took.push((claimed, started.elapsed()));
    }
    let at = |share: usize, of: fn(&(Duration, Duration)) -> Duration| {
        let mut times: Vec<_> = took.iter().map(of).collect();
        times.sort_unstable();
        times[times.len() * share / 100]
    };
    println!("claim p50 {:?} p99 {:?}", at(50, |took| took.0), at(99, |took| took.0));
    println!("claim and answer p50 {:?} p99 {:?}", at(50, |took| took.1), at(99, |took| took.1));
}
