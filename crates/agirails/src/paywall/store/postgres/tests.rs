use std::{
    env,
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use agirails_devnet::{Pooler, Postgres};
use alloy_primitives::{hex, keccak256};
use futures_util::future::join_all;
use tokio::runtime;
use tokio_postgres::NoTls;

use super::*;
use crate::paywall::{answer::Answer, store::conformance};

/// One server for all tests of this process; it ends with the process.
static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());

/// A name that no other test has.
fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn connect(url: &str, scope: &str, give_up: Duration) -> Result<PostgresStore> {
    PostgresStore::connect(url, &Scope::of(scope), give_up).await
}

async fn store(url: &str, scope: &str) -> PostgresStore {
    connect(url, scope, Duration::ZERO).await.unwrap()
}

async fn pair() -> (PostgresStore, PostgresStore, ()) {
    let scope = fresh("scope");
    (store(&SERVER.url(), &scope).await, store(&SERVER.url(), &scope).await, ())
}

conformance::suite!(pair);

/// The same through a pooler, with fewer sessions than connections: each transaction gets a session
/// that others had before.
mod pooled {
    use super::*;

    /// `None` where PgBouncer is not installed: the tests then say that they have no pooler. In CI
    /// nothing may be lacking.
    static POOLER: LazyLock<Option<Pooler>> = LazyLock::new(|| match SERVER.pooler(4) {
        Ok(pooler) => Some(pooler),
        Err(error) if env::var_os("CI").is_none() && error.to_string().contains("installed") => {
            eprintln!("without a pooler: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    });

    fn url_of(database: &str) -> String {
        let direct = || SERVER.database_url(database);
        POOLER.as_ref().map_or_else(direct, |pooler| pooler.database_url(database))
    }

    async fn pair() -> (PostgresStore, PostgresStore, ()) {
        let scope = fresh("pooled");
        let url = url_of("postgres");
        (store(&url, &scope).await, store(&url, &scope).await, ())
    }

    conformance::suite!(pair);

    /// Only where the paywall's owner says so.
    #[tokio::test]
    async fn what_need_not_survive_a_power_cut_is_not_synced() {
        let url = url_of(&fresh_database().await);
        let owner = super::administrator(&url).await;
        let seen = async |scope: &str, is_synced: bool| {
            let store = store(&url, scope).await.synced(is_synced);
            let sql = "SELECT current_setting('synchronous_commit')";
            store.ask_one::<String>(sql, &[]).await.unwrap()
        };
        assert_eq!(seen("a", true).await, "on");
        assert_eq!(seen("b", false).await, "off");
        let after = owner.query_one("SHOW synchronous_commit", &[]).await.unwrap();
        assert_eq!(after.get::<_, &str>(0), "on", "a session was changed");
    }

    /// Nothing that a session was told stays with it, and what the database's owner chose for all
    /// others decides nothing for us.
    #[tokio::test]
    async fn sessions_stay_as_they_were_and_what_is_written_is_durable() {
        let name = fresh("shared");
        let administrator = administrator(&SERVER.url()).await;
        for sql in [
            format!("CREATE DATABASE {name}"),
            format!("ALTER DATABASE {name} SET synchronous_commit = off"),
            format!("ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"),
        ] {
            administrator.batch_execute(&sql).await.unwrap();
        }
        let url = url_of(&name);
        let store = store(&url, "a").await;
        let owner = super::administrator(&SERVER.database_url(&name)).await;
        owner
            .batch_execute(
                "CREATE TABLE public.seen (sync text, isolation text);
                 CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.seen VALUES
                     (current_setting('synchronous_commit'), current_setting('transaction_isolation'));
                 RETURN NULL; END $$;
                 CREATE TRIGGER looks AFTER INSERT OR UPDATE ON agirails_paywall.call
                 FOR EACH STATEMENT EXECUTE FUNCTION public.look()",
            )
            .await
            .unwrap();
        for key in ["k", "l"] {
            store.claim(&request(key)).await.unwrap();
            store.answer(&answer_of(key, 1)).await.unwrap();
        }
        let seen =
            owner.query("SELECT DISTINCT sync, isolation FROM public.seen", &[]).await.unwrap();
        let seen: Vec<(String, String)> = seen.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(seen, [("on".to_owned(), "read committed".to_owned())]);

        let others = super::administrator(&url).await;
        for (setting, value) in [
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("search_path", "\"$user\", public"),
            ("synchronous_commit", "off"),
            ("default_transaction_isolation", "repeatable read"),
        ] {
            // More often than there are sessions.
            for _ in 0..8 {
                let shown = others.simple_query(&format!("SHOW {setting}")).await.unwrap();
                let found = shown.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                assert_eq!(found, Some(value), "{setting}");
            }
        }
    }
}

/// Another client of the server, which may do everything.
async fn administrator(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A database of its own.
async fn new_database() -> String {
    SERVER.database_url(&fresh_database().await)
}

async fn fresh_database() -> String {
    let name = fresh("database");
    let administrator = administrator(&SERVER.url()).await;
    administrator.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    name
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
            net: Usdc(990_000_000),
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
        request: None,
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
    let error = connect(&url, "a", Duration::ZERO).await.unwrap_err();
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
        .batch_execute(&format!(
            "INSERT INTO agirails_paywall.lease VALUES ('{}', 'chain', '\\x01', 'infinity');
             CREATE FUNCTION agirails_paywall.duties(p_scope text, p_limit bigint)
             RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
            Scope::of("a").name()
        ))
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
    let error = connect(&of(&other), "a", Duration::ZERO).await.unwrap_err();
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
    let error = connect(&url, "a", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageUnavailable);
    assert!(error.hint().unwrap().contains("UTF8"));
}

#[tokio::test]
async fn a_lock_that_others_hold_is_waited_for_in_bounds() {
    let url = new_database().await;
    let limits = Limits { lock: Duration::from_millis(200), ..Limits::USUAL };
    let store =
        PostgresStore::connect_within(&url, &Scope::of("a"), Duration::ZERO, limits).await.unwrap();
    store.claim(&request("k")).await.unwrap();
    let administrator = administrator(&url).await;
    let lock = "BEGIN; LOCK TABLE agirails_paywall.payment";
    administrator.batch_execute(lock).await.unwrap();
    let error = store.claim(&request("l")).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageBusy);
    administrator.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.claim(&request("l")).await.unwrap(), Claimed::Run { attempt: 1 });
}

/// The same request on a payment of its own.
fn request_of(payment: &str) -> ClaimRequest {
    let mut request = request("k");
    request.facts.id = keccak256(payment);
    request
}

#[tokio::test]
async fn a_row_that_others_hold_delays_its_own_callers_only() {
    let url = new_database().await;
    let store = store(&url, "a").await;
    store.claim(&request_of("held")).await.unwrap();
    let administrator = administrator(&url).await;
    let held = hex::encode(keccak256("held"));
    administrator
        .batch_execute(&format!(
            "BEGIN; SELECT FROM agirails_paywall.payment WHERE id = '\\x{held}' FOR UPDATE"
        ))
        .await
        .unwrap();
    let mut again = request_of("held");
    again.key = "l".to_owned();
    let mut waits = std::pin::pin!(store.claim(&again));
    for round in 0..3 {
        let names: Vec<String> = (0..50).map(|number| format!("{round} {number}")).collect();
        let all = join_all(names.iter().map(async |name| store.claim(&request_of(name)).await));
        let claimed = tokio::select! {
            biased;
            done = &mut waits => panic!("it was free: {done:?}"),
            claimed = time::timeout(Duration::from_secs(5), all) => claimed.unwrap(),
        };
        for claimed in claimed {
            assert_eq!(claimed.unwrap(), Claimed::Run { attempt: 1 });
        }
    }
    administrator.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waits.await.unwrap(), Claimed::Run { attempt: 1 });
}

#[tokio::test]
async fn a_step_that_fails_takes_no_other_with_it() {
    let url = new_database().await;
    let store = store(&url, "a").await;
    let administrator = administrator(&url).await;
    administrator
        .batch_execute(
            "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.key = 'k13' THEN RAISE 'not this one'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER fails BEFORE INSERT ON agirails_paywall.call
             FOR EACH ROW EXECUTE FUNCTION public.fail()",
        )
        .await
        .unwrap();
    let claims = (0..40).map(async |number| store.claim(&request(&format!("k{number}"))).await);
    for (number, claimed) in join_all(claims).await.into_iter().enumerate() {
        match number {
            13 => assert!(claimed.unwrap_err().to_string().contains("not this one")),
            _ => assert_eq!(claimed.unwrap(), Claimed::Run { attempt: 1 }),
        }
    }
    let payment = store.payment(request("k").facts.id).await.unwrap().unwrap();
    assert_eq!(payment.reserved, Usdc(39));
}

/// Whoever gives up while it sends for others leaves them to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_take_nobody_with_them() {
    let url = new_database().await;
    let store = Arc::new(store(&url, "a").await);
    let claims = (0..400_u64).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let request = request(&format!("{number}"));
            let claim = store.claim(&request);
            match number % 4 {
                0 => claim.await.map(Some),
                // Some leave at once, some on the way.
                rest => match time::timeout(Duration::from_micros(rest * number), claim).await {
                    Ok(claimed) => claimed.map(Some),
                    Err(_) => Ok(None),
                },
            }
        })
    });
    let claimed = time::timeout(Duration::from_secs(60), join_all(claims)).await.unwrap();
    let claimed: Vec<_> = claimed.into_iter().map(|claimed| claimed.unwrap().unwrap()).collect();
    assert!(claimed.iter().step_by(4).all(Option::is_some), "somebody was left behind");
    assert!(claimed.iter().flatten().all(|claimed| *claimed == Claimed::Run { attempt: 1 }));
    // What was taken from the balance is what runs.
    let payment = store.payment(request("0").facts.id).await.unwrap().unwrap();
    let administrator = administrator(&url).await;
    let running = "SELECT count(*) FROM agirails_paywall.call WHERE state = 1";
    let running: i64 = administrator.query_one(running, &[]).await.unwrap().get(0);
    assert_eq!(payment.reserved, Usdc(running as u64));
    assert!(running >= claimed.iter().flatten().count() as i64);
}

/// None of the steps reads what ended, however much of it is kept.
#[tokio::test]
async fn what_ended_costs_nothing() {
    let url = new_database().await;
    let store = store(&url, "a").await;
    store.claim(&request("open")).await.unwrap();
    let mut administrator = administrator(&url).await;
    let scope = Scope::of("a").name();
    administrator
        .batch_execute(&format!(
            "INSERT INTO agirails_paywall.payment (scope, id, requester, amount, deadline, window_seconds,
                 calls, answered_at, ended_at, opened_at, stage)
             SELECT '{scope}', sha256(n::text::bytea), '\\x{}', 100, 1900000000, 3600,
                 1, 1800000000, clock_timestamp(), clock_timestamp(),
                 CASE WHEN n <= 10 THEN 5 WHEN n <= 30 THEN 0 ELSE (ARRAY[4, 6, 7])[n % 3 + 1] END
             FROM generate_series(1, 20000) n;
             INSERT INTO agirails_paywall.call (scope, payment, key, digest, state, owner, attempt,
                 ticket, price, leased_until)
             SELECT '{scope}', sha256('1'), n::text::bytea, '\\x{}', 2, '', 1, '', 1, clock_timestamp()
             FROM generate_series(1, 20000) n",
            "11".repeat(20),
            "22".repeat(32)
        ))
        .await
        .unwrap();
    let id = hex::encode(request("open").facts.id);
    let steps = [
        format!("backlog('{scope}', 1900000000, 1)"),
        format!("duties('{scope}', 1::smallint, 100)"),
        format!("duties('{scope}', 3::smallint, 100)"),
        format!("settlements('{scope}', 1900000000, 1, 100)"),
        format!("prune('{scope}', 86400000000, 1800000000, 100)"),
        format!("close_expiring('{scope}', 1)"),
        format!("close_idle('{scope}', 1)"),
        format!("close('{scope}', '\\x{id}')"),
    ];
    // A fresh server knows nothing of its tables; one that has looked at them plans by it.
    for known in ["", "ANALYZE agirails_paywall.payment, agirails_paywall.call"] {
        administrator.batch_execute(known).await.unwrap();
        for step in &steps {
            // In one transaction, since a session tells others of its figures later.
            let transaction = administrator.transaction().await.unwrap();
            let sql = format!("SELECT * FROM agirails_paywall.{step}");
            transaction.query(&sql, &[]).await.unwrap();
            let read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
                FROM pg_stat_xact_user_tables
                WHERE schemaname = 'agirails_paywall' AND relname IN ('payment', 'call')";
            let read: i64 = transaction.query_one(read, &[]).await.unwrap().get(0);
            // What is open, and what was lost, of which the operator is told: some of it more than once.
            assert!(read <= 1_000, "{step} read {read} rows");
            transaction.commit().await.unwrap();
        }
    }
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
    let error = connect(&server.url(), "b", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnreachable);

    // Who is patient waits for it.
    let (url, comes) =
        (server.url(), tokio::task::spawn_blocking(move || server.restart().map(|()| server)));
    connect(&url, "b", Duration::from_secs(60)).await.unwrap();
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
        PostgresStore::connect_within(&server.url(), &Scope::of("a"), Duration::ZERO, limits)
            .await
            .unwrap();
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
        let error = connect(&url, "a", Duration::ZERO).await.unwrap_err();
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

/// Whoever may create in a schema of the session's search_path has nothing of his run as ours.
#[tokio::test]
async fn operators_and_functions_of_others_are_not_run() {
    let url = new_database().await;
    let administrator = administrator(&url).await;
    let role = fresh("role");
    administrator
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'p';
             CREATE SCHEMA agirails_paywall AUTHORIZATION {role};
             CREATE TABLE public.loot (who text); GRANT ALL ON public.loot TO PUBLIC"
        ))
        .await
        .unwrap();
    let (_, place) = url.split_once('@').unwrap();
    let store = store(&format!("postgres://{role}:p@{place}"), "a").await;
    // Better matches than the system's own, for what the steps and their callers use.
    administrator
        .batch_execute(
            "CREATE FUNCTION public.evil(bigint, interval) RETURNS interval LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.loot SELECT current_user; RETURN make_interval(secs => 60); END $$;
             CREATE OPERATOR public.* (leftarg = bigint, rightarg = interval, function = public.evil);
             CREATE FUNCTION public.evil(timestamptz, timestamptz) RETURNS interval LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.loot SELECT current_user; RETURN make_interval(secs => 60); END $$;
             CREATE OPERATOR public.- (leftarg = timestamptz, rightarg = timestamptz, function = public.evil);
             CREATE FUNCTION public.current_setting(varchar) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.loot SELECT current_user; RETURN 'off'; END $$",
        )
        .await
        .unwrap();
    administrator
        .batch_execute(&format!("ALTER ROLE {role} SET search_path = public, pg_catalog"))
        .await
        .unwrap();
    let store_again = self::store(&format!("postgres://{role}:p@{place}"), "a").await;
    for (store, key) in [(&store, "k"), (&store_again, "l")] {
        assert_eq!(store.claim(&request(key)).await.unwrap(), Claimed::Run { attempt: 1 });
        let call = CallId { transaction: request(key).facts.id, key: key.to_owned() };
        store.known(&call, request(key).digest).await.unwrap();
        store.answer(&answer_of(key, 1)).await.unwrap();
        store.duties(Stage::Delivering, 10).await.unwrap();
        store.backlog(0, Usdc::ZERO).await.unwrap();
        store.lease("chain", [1; 16], Duration::from_secs(60)).await.unwrap();
    }
    let loot = administrator.query("SELECT who FROM public.loot", &[]).await.unwrap();
    assert!(loot.is_empty(), "somebody else's code ran");
}

/// A schema that somebody else made first, with functions of his own in it.
#[tokio::test]
async fn a_schema_with_another_roles_functions_is_refused() {
    let url = new_database().await;
    let administrator = administrator(&url).await;
    let (us, mallory) = (fresh("us"), fresh("mallory"));
    administrator
        .batch_execute(&format!(
            "CREATE ROLE {us} LOGIN PASSWORD 'p'; CREATE ROLE {mallory} LOGIN PASSWORD 'p';
             CREATE SCHEMA agirails_paywall AUTHORIZATION {us}"
        ))
        .await
        .unwrap();
    let (_, place) = url.split_once('@').unwrap();
    let ours = format!("postgres://{us}:p@{place}");
    store(&ours, "a").await;
    administrator
        .batch_execute(&format!(
            "CREATE FUNCTION agirails_paywall.after(timestamptz, integer) RETURNS timestamptz
             LANGUAGE sql AS 'SELECT now()';
             ALTER FUNCTION agirails_paywall.after(timestamptz, integer) OWNER TO {mallory}"
        ))
        .await
        .unwrap();
    let error = connect(&ours, "a", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StorageExposed);
    let told = format!("the function after belongs to {mallory}");
    assert!(error.to_string().contains(&told), "{error}");
}

/// A server, or whoever is on the way to it, that offers no TLS and asks for the password.
#[tokio::test]
async fn a_password_is_told_to_nobody_in_the_clear() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    const REFUSED: &[u8] = b"N";
    // AuthenticationCleartextPassword.
    const ASKED: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 1_024];
                for answer in [REFUSED, ASKED, b""] {
                    let Ok(read @ 1..) = caller.read(&mut bytes).await else { return };
                    let _ = heard.send(bytes[..read].to_vec());
                    let _ = caller.write_all(answer).await;
                }
            });
        }
    });
    // A name that is not this machine's, and leads to it.
    let url = format!("postgres://pay:hunter2@db.internal:{port}/pay?hostaddr=127.0.0.1");
    let error = connect(&url, "a", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnreachable, "{error:#}");
    assert!(error.hint().unwrap().contains("sslmode=disable"), "{error:#}");
    let mut messages = 0;
    while let Ok(bytes) = told.try_recv() {
        messages += 1;
        // Eight bytes that ask for TLS, and nothing after the answer.
        assert_eq!(bytes.len(), 8, "{:?}", String::from_utf8_lossy(&bytes));
    }
    assert!(messages > 0);
}

#[tokio::test]
async fn restored_tables_know_since_when_they_are_at_work() {
    let url = new_database().await;
    let store = store(&url, "a").await;
    let administrator = administrator(&url).await;
    administrator.batch_execute("INSERT INTO agirails_paywall.restored VALUES (0)").await.unwrap();
    assert_eq!(store.restored(1_000).await.unwrap(), Some(1_000));
    assert_eq!(store.restored(2_000).await.unwrap(), Some(1_000));
}

/// What version 2 kept is found again, by the first of those who could have kept it.
#[tokio::test]
async fn what_was_kept_under_a_short_scope_is_moved_to_the_whole_one() {
    let url = new_database().await;
    let administrator = administrator(&url).await;
    store(&url, "somebody").await;
    let ours = Scope::of("ours");
    let mut others = ours;
    others.provider.0[19] ^= 1;
    assert_eq!(ours.former_name(), others.former_name());
    let former = ours.former_name();
    let rows = format!(
        "ALTER TABLE agirails_paywall.payment DROP CONSTRAINT payment_scope_is_whole;
         INSERT INTO agirails_paywall.payment (scope, id, requester, amount, deadline, window_seconds, stage, keyed)
         VALUES ('{former}', '\\x{}', '\\x{}', 100, 1900000000, 3600, 0, true);
         INSERT INTO agirails_paywall.counter VALUES ('{former}', 'n', 0, 7);
         ALTER TABLE agirails_paywall.payment ADD CONSTRAINT payment_scope_is_whole
         CHECK (scope !~ '^[0-9]+-[0-9a-f]{{8}}-[0-9a-f]{{8}}$') NOT VALID",
        "11".repeat(32),
        "22".repeat(20),
    );
    administrator.batch_execute(&rows).await.unwrap();
    let open =
        async |scope: &Scope| PostgresStore::connect(&url, scope, Duration::ZERO).await.unwrap();
    let (first, second, again) = (open(&ours).await, open(&others).await, open(&ours).await);
    let id = B256::repeat_byte(0x11);
    for store in [&first, &again] {
        assert_eq!(store.payment(id).await.unwrap().unwrap().facts.amount, Usdc(100));
        assert_eq!(store.counters().await.unwrap(), Counters::from([("n".to_owned(), 7)]));
    }
    assert_eq!(second.payment(id).await.unwrap(), None);
    assert_eq!(second.counters().await.unwrap(), Counters::new());
    // A worker of that version serves nothing any more.
    let late = format!(
        "INSERT INTO agirails_paywall.payment (scope, id, requester, amount, deadline, window_seconds, stage)
         VALUES ('{former}', '\\x01', '\\x02', 100, 1900000000, 3600, 0)"
    );
    let error = administrator.batch_execute(&late).await.unwrap_err();
    assert!(format!("{error:?}").contains("payment_scope_is_whole"), "{error:?}");
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
