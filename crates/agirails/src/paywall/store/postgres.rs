//! The store in a PostgreSQL database, for workers on several machines.
//!
//! Every step is a function in the database (`functions.sql`): one statement, one round trip, one
//! transaction. Clocks are the database's. Where the answer to a step is lost on the way, the step
//! is sent once more, since each finds out whether it was done already; counters alone are not.

mod address;
mod copying;
mod errors;
mod pool;
mod together;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::{Address as Account, B256};
use async_trait::async_trait;
use tokio::time;
use tokio_postgres::{
    Row,
    types::{FromSqlOwned, Type},
};

use self::{
    address::Address,
    errors::damaged,
    pool::{Again, Limits, Parameter, Pool},
    together::{Step, Together},
};
use super::{
    AnswerRequest, Backlog, CallId, CallRow, Claim, ClaimRequest, Claimed, Counters, Duty, Ended,
    Entry, Facts, GAS, Kept, KeptAnswer, KeptBody, KeptRequest, Known, MOVES, Outcome, Owner,
    PIECE_BYTES, Payment, PaymentFilter, PaymentRow, REST_DOUBLINGS, Ran, ReportBy, Runs, Scope,
    Stage, Store, Stranger, Totals, WebhookRow, calls_counter, money_event, node_in_row,
    revenue_counter, row_of_node, rows_of_level,
};
use crate::{
    error::{Code, Error, Result, shown_words},
    protocol::{TransactionId, Usdc, money::Payout},
};

/// Columns of a payment.
macro_rules! payment {
    () => {
        "id, requester, amount, deadline, window_seconds, net, bound, stage, spent, reserved, calls,
        content_hash, trouble"
    };
}

/// A payment with its story.
macro_rules! payment_row {
    () => {
        concat!(
            payment!(),
            ", extract(epoch FROM opened_at)::bigint, delivered_at, settle_at, settled_at, gas, arrived, fee"
        )
    };
}

/// The totals of what a report has a row for.
macro_rules! totals {
    () => {
        "sum(calls)::bigint, sum(gross)::bigint, sum(settled)::bigint, sum(paid_out)::bigint,
        sum(fee)::bigint, sum(net)::bigint, sum(gas)::bigint, sum(refunded)::bigint,
        sum(disputed)::bigint"
    };
}

/// Statements for what a report has a row for: `$key` is what is told, `$column` what is grouped by.
macro_rules! report {
    ($by:expr, $make:ident) => {
        match $by {
            ReportBy::Day => {
                $make!("to_char(to_timestamp(day * 86400) AT TIME ZONE 'UTC', 'YYYY-MM-DD')", "day")
            }
            ReportBy::Route => $make!("route", "route"),
            ReportBy::Customer => $make!("'0x' || encode(requester, 'hex')", "requester"),
        }
    };
}

/// The n-th step makes tables of version n out of those of version n - 1. Steps are only ever added.
const TABLES: [&str; 10] = [
    include_str!("postgres.sql"),
    include_str!("postgres/deadlines.sql"),
    include_str!("postgres/services.sql"),
    include_str!("postgres/kept.sql"),
    include_str!("postgres/books.sql"),
    include_str!("postgres/requests.sql"),
    include_str!("postgres/runs.sql"),
    include_str!("postgres/webhooks.sql"),
    include_str!("postgres/counts.sql"),
    include_str!("postgres/payouts.sql"),
];
const FUNCTIONS: &str = include_str!("postgres/functions.sql");
/// The schema that this version reads and writes.
const VERSION: i32 = TABLES.len() as i32;
/// In PostgreSQL's space of advisory locks: ours is held while the schema is made or changed.
const MIGRATION_LOCK: i64 = 0x6167_6972_6169_6c73;
/// How long a database that is not there yet is left alone.
const PAUSE: Duration = Duration::from_millis(250);
/// How long steps that go together wait for a row that others hold.
const TOGETHER: Duration = Duration::from_millis(250);
/// The longest lease or delay that is kept as it is; what is longer is as good as for ever.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Payments and claims of one scope in a PostgreSQL database.
pub(in crate::paywall) struct PostgresStore {
    pool: Pool,
    /// In every row, with the provider's whole address in it.
    scope: String,
    /// The same in its parts.
    network: Scope,
    keeps_webhooks: AtomicBool,
    claims: Together<Claiming, Claimed>,
    answers: Together<AnswerRequest, Ended>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("database", &self.pool.shown())
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, and makes or updates the schema. A database that is not there yet is waited for
    /// until `give_up`, which may be zero. Stores of different scopes do not see each other.
    pub(in crate::paywall) async fn connect(
        url: &str,
        scope: &Scope,
        give_up: Duration,
    ) -> Result<Self> {
        Self::connect_within(url, scope, give_up, Limits::USUAL).await
    }

    async fn connect_within(
        url: &str,
        scope: &Scope,
        give_up: Duration,
        limits: Limits,
    ) -> Result<Self> {
        let pool = Pool::new(Address::read(url, limits.connect)?, limits);
        let started = Instant::now();
        while let Err(error) = migrate(&pool).await {
            if error.code() != Code::StoreUnreachable || started.elapsed() >= give_up {
                return Err(error);
            }
            time::sleep(PAUSE).await;
        }
        let (network, former, scope) = (*scope, scope.former_name(), scope.name());
        const SQL: &str = "SELECT agirails_paywall.adopt($1, $2)";
        pool.ask(Again::Harmless, SQL, &[(&former, Type::TEXT), (&scope, Type::TEXT)]).await?;
        Ok(Self {
            pool,
            scope,
            network,
            keeps_webhooks: AtomicBool::new(false),
            claims: Together::new(),
            answers: Together::new(),
        })
    }

    /// Whether each step is on the server's disk before it counts: it is, unless this says otherwise.
    pub(in crate::paywall) fn synced(mut self, is_synced: bool) -> Self {
        self.pool.is_synced = is_synced;
        self
    }

    /// The event that is kept of a move.
    fn webhook_of(&self, from: Stage, to: Stage, is_resolved: bool) -> Option<&'static str> {
        money_event(from, to, is_resolved).filter(|_| self.keeps_webhooks.load(Ordering::Relaxed))
    }

    async fn claim_all(&self, steps: &[Arc<Claiming>]) -> Result<Vec<Claimed>> {
        const SQL: &str = "SELECT * FROM agirails_paywall.claims(
            $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";
        let facts: Vec<KeptFacts<'_>> = each(steps, |step| KeptFacts::of(&step.request.facts))
            .into_iter()
            .collect::<Result<_>>()?;
        let rows = self
            .ask_together(
                SQL,
                steps.len(),
                &[
                    (&self.scope, Type::TEXT),
                    (&each(&facts, |facts| facts.id), Type::BYTEA_ARRAY),
                    (&each(&facts, |facts| facts.requester), Type::BYTEA_ARRAY),
                    (&each(&facts, |facts| facts.amount), Type::INT8_ARRAY),
                    (&each(&facts, |facts| facts.deadline), Type::INT8_ARRAY),
                    (&each(&facts, |facts| facts.window_seconds), Type::INT8_ARRAY),
                    (&each(steps, |step| step.request.key.as_bytes()), Type::BYTEA_ARRAY),
                    (&each(steps, |step| step.request.digest.as_slice()), Type::BYTEA_ARRAY),
                    (&each(steps, |step| at_most(step.request.price.0)), Type::INT8_ARRAY),
                    (&each(steps, |step| at_most(step.request.least.0)), Type::INT8_ARRAY),
                    (&each(steps, |step| &step.request.owner[..]), Type::BYTEA_ARRAY),
                    (&each(steps, |step| &step.ticket[..]), Type::BYTEA_ARRAY),
                    (&each(steps, |step| microseconds(step.request.lease)), Type::INT8_ARRAY),
                    (&each(&facts, |facts| facts.bound), Type::BOOL_ARRAY),
                    (&each(steps, |step| i64::from(step.request.give_up_after)), Type::INT8_ARRAY),
                    (&i64::from(REST_DOUBLINGS), Type::INT8),
                    (&(PIECE_BYTES as i32), Type::INT4),
                    (&each(&facts, |facts| facts.net), Type::INT8_ARRAY),
                ],
            )
            .await?;
        told(steps.len(), &rows, claimed)
    }

    async fn answer_all(&self, steps: &[Arc<AnswerRequest>]) -> Result<Vec<Ended>> {
        const SQL: &str = "SELECT * FROM agirails_paywall.answers(
            $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";
        let answers = each(steps, |step| step.answer.as_ref());
        let (mut names, mut values, mut from) = (vec![], vec![], vec![]);
        for answer in &answers {
            from.push(i32::try_from(names.len() + 1).unwrap_or(i32::MAX));
            for (name, value) in answer.iter().flat_map(|answer| &answer.headers) {
                names.push(name.as_bytes());
                values.push(value.as_slice());
            }
        }
        let headers = each(&answers, |answer| answer.map(|answer| answer.headers.len() as i32));
        let asked = each(steps, |step| step.request.as_ref());
        let rows = self
            .ask_together(
                SQL,
                steps.len(),
                &[
                    (&self.scope, Type::TEXT),
                    (
                        &each(steps, |step| step.claim.call.transaction.as_slice()),
                        Type::BYTEA_ARRAY,
                    ),
                    (&each(steps, |step| step.claim.call.key.as_bytes()), Type::BYTEA_ARRAY),
                    (&each(steps, |step| &step.claim.owner[..]), Type::BYTEA_ARRAY),
                    (&each(steps, |step| number(step.claim.attempt)), Type::INT4_ARRAY),
                    (&each(steps, |step| step.content_hash.as_slice()), Type::BYTEA_ARRAY),
                    (&each(steps, |step| at_most(step.answered_at)), Type::INT8_ARRAY),
                    (
                        &each(&answers, |answer| answer.map(|answer| i32::from(answer.status))),
                        Type::INT4_ARRAY,
                    ),
                    (&names, Type::BYTEA_ARRAY),
                    (&values, Type::BYTEA_ARRAY),
                    (&from, Type::INT4_ARRAY),
                    (&headers, Type::INT4_ARRAY),
                    (
                        &each(&answers, |answer| answer.map(|answer| answer.body.as_slice())),
                        Type::BYTEA_ARRAY,
                    ),
                    (&each(steps, |step| at_most(step.close_below.0)), Type::INT8_ARRAY),
                    (&each(steps, |step| text(&step.route)), Type::TEXT_ARRAY),
                    (&each(&asked, |asked| asked.map(|asked| asked.to_json())), Type::BYTEA_ARRAY),
                    (
                        &each(&asked, |asked| {
                            asked.and_then(|asked| asked.body.as_ref()).map(|body| &body[..])
                        }),
                        Type::BYTEA_ARRAY,
                    ),
                    (&each(steps, |step| text(&calls_counter(&step.route))), Type::TEXT_ARRAY),
                    (&each(steps, |step| text(&revenue_counter(&step.route))), Type::TEXT_ARRAY),
                ],
            )
            .await?;
        told(steps.len(), &rows, ended)
    }

    /// Where several go together, a row that others hold keeps none of them waiting for long: each then
    /// goes by itself.
    async fn ask_together(
        &self,
        sql: &str,
        steps: usize,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let limits = self.pool.limits();
        let lock = if steps > 1 { limits.lock.min(TOGETHER) } else { limits.lock };
        self.pool.ask_within(lock, Again::Harmless, sql, parameters).await
    }

    async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.pool.ask(Again::Harmless, sql, parameters).await
    }

    /// The one value of the one row.
    async fn ask_one<T: FromSqlOwned>(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<T> {
        value(first(&self.ask(sql, parameters).await?)?, 0)
    }
}

/// A claim, and what tells its request from another for the same: asked again, because the answer got
/// lost, it is told the same.
struct Claiming {
    request: ClaimRequest,
    ticket: [u8; 16],
}

impl Claiming {
    fn new(request: &ClaimRequest) -> Result<Self> {
        let mut ticket = [0_u8; 16];
        getrandom::fill(&mut ticket).map_err(|error| {
            Error::new(Code::Internal, "the system gives no random numbers").with_source(error)
        })?;
        Ok(Self { request: request.clone(), ticket })
    }
}

impl Step for Claiming {
    fn payment(&self) -> TransactionId {
        self.request.facts.id
    }

    fn bytes(&self) -> usize {
        self.request.key.len()
    }
}

impl Step for AnswerRequest {
    fn payment(&self) -> TransactionId {
        self.claim.call.transaction
    }

    fn bytes(&self) -> usize {
        let answer = self.answer.as_ref().map_or(0, |answer| answer.body.len());
        let asked = self.request.as_ref().and_then(|asked| asked.body.as_ref());
        answer + asked.map_or(0, |body| body.len())
    }
}

/// Whether there is a schema, and whether there are tables in it.
const FOUND: &str = "SELECT to_regnamespace('agirails_paywall') IS NOT NULL,
    to_regclass('agirails_paywall.version') IS NOT NULL,
    current_setting('server_encoding')";
const TAKEN: &str = "SELECT number FROM agirails_paywall.version";
/// What stands in the schema and belongs to a role that could run code as this one by it.
const STRANGE: &str = "SELECT thing.kind || ' ' || thing.name, role.rolname::text
    FROM (
        SELECT 'schema' AS kind, n.nspname::text AS name, n.nspowner AS owner
        FROM pg_namespace n WHERE n.nspname = 'agirails_paywall'
        UNION ALL
        SELECT 'relation', c.relname::text, c.relowner
        FROM pg_class c WHERE c.relnamespace = to_regnamespace('agirails_paywall')
        UNION ALL
        SELECT 'function', p.proname::text, p.proowner
        FROM pg_proc p WHERE p.pronamespace = to_regnamespace('agirails_paywall')
    ) thing JOIN pg_roles role ON role.oid = thing.owner
    WHERE NOT role.rolsuper AND NOT pg_has_role(current_user, role.oid, 'MEMBER') LIMIT 1";

/// Brings the schema to this version.
async fn migrate(pool: &Pool) -> Result<()> {
    let found = pool.ask(Again::Harmless, FOUND, &[]).await?;
    let encoding: String = value(first(&found)?, 2)?;
    if encoding != "UTF8" {
        return Err(Error::new(
            Code::StorageUnavailable,
            format!("the database {} is encoded as {encoding}, not as UTF8", pool.shown()),
        )
        .with_hint("make one with createdb --encoding=UTF8 --template=template0"));
    }
    if let Some(strange) = pool.ask(Again::Harmless, STRANGE, &[]).await?.first() {
        let (thing, role): (&str, &str) = (value(strange, 0)?, value(strange, 1)?);
        let message = format!(
            "in {} the {} belongs to {}",
            pool.shown(),
            shown_words(thing),
            shown_words(role)
        );
        return Err(Error::new(Code::StorageExposed, message).with_hint(
            "that role could run code as this one: use another database; where you trust it, \
             make this role a member of it",
        ));
    }
    let taken = match value(first(&found)?, 1)? {
        true => value::<i32>(first(&pool.ask(Again::Harmless, TAKEN, &[]).await?)?, 0)?,
        false => 0,
    };
    match taken {
        VERSION => Ok(()),
        0..VERSION => update(pool).await,
        newer if newer > VERSION => Err(Error::new(
            Code::StorageVersion,
            format!(
                "the paywall's tables in {} are of version {newer}, newer than {VERSION}",
                pool.shown()
            ),
        )
        .with_hint("update agirails, or use another database")),
        other => Err(damaged(&format!("the version {other}"))),
    }
}

/// Takes the steps that are left, unless another process did meanwhile.
async fn update(pool: &Pool) -> Result<()> {
    let in_words = |cause| errors::in_words(cause, pool.shown());
    let mut link = pool.connect().await?;
    let transaction = link.client.transaction().await.map_err(in_words)?;
    let lock = format!("{}; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})", pool.settings());
    transaction.batch_execute(&lock).await.map_err(in_words)?;
    let found = transaction.query_typed(FOUND, &[]).await.map_err(in_words)?;
    let taken = match value(first(&found)?, 1)? {
        true => value(first(&transaction.query_typed(TAKEN, &[]).await.map_err(in_words)?)?, 0)?,
        false => 0,
    };
    if taken >= VERSION {
        return Ok(());
    }
    // Whoever owns the schema need not be allowed to make one.
    if !value::<bool>(first(&found)?, 0)? {
        transaction.batch_execute("CREATE SCHEMA agirails_paywall").await.map_err(in_words)?;
    }
    let set = format!("UPDATE agirails_paywall.version SET number = {VERSION}");
    let steps = TABLES.into_iter().skip(usize::try_from(taken).unwrap_or_default());
    for step in steps.chain([FUNCTIONS, &set]) {
        transaction.batch_execute(step).await.map_err(in_words)?;
    }
    transaction.commit().await.map_err(in_words)
}

#[async_trait]
impl Store for PostgresStore {
    async fn service(&self) -> Result<B256> {
        const SQL: &str = "SELECT agirails_paywall.service($1, $2)";
        let fresh = super::fresh_service();
        let parameters: [Parameter<'_>; 2] =
            [(&self.scope, Type::TEXT), (&fresh.as_slice(), Type::BYTEA)];
        hash(&self.ask_one::<Vec<u8>>(SQL, &parameters).await?)
    }

    async fn payment(&self, id: TransactionId) -> Result<Option<Payment>> {
        const SQL: &str = concat!(
            "SELECT ",
            payment!(),
            " FROM agirails_paywall.payment WHERE scope = $1 AND id = $2"
        );
        let rows =
            self.ask(SQL, &[(&self.scope, Type::TEXT), (&id.as_slice(), Type::BYTEA)]).await?;
        rows.first().map(payment).transpose()
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        let claiming = Claiming::new(request)?;
        self.claims
            .go(claiming, &self.pool, &|steps| {
                Box::pin(async move { self.claim_all(&steps).await })
            })
            .await
    }

    async fn known(&self, call: &CallId, digest: B256) -> Result<Known> {
        const SQL: &str = "SELECT state = 2, 0,
            agirails_paywall.microseconds(leased_until - clock_timestamp()), 0, 0,
            index, content_hash, answered_at, status, header_names, header_values,
            CASE WHEN octet_length(body) <= $5 THEN body END, octet_length(body)::bigint
            FROM agirails_paywall.call
            WHERE scope = $1 AND payment = $2 AND key = $3 AND digest = $4
                AND (state = 2 OR state = 1 AND leased_until > clock_timestamp())";
        let rows = self
            .ask(
                SQL,
                &[
                    (&self.scope, Type::TEXT),
                    (&call.transaction.as_slice(), Type::BYTEA),
                    (&call.key.as_bytes(), Type::BYTEA),
                    (&digest.as_slice(), Type::BYTEA),
                    (&(PIECE_BYTES as i32), Type::INT4),
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(Known::Nothing) };
        match value(row, 0)? {
            true => kept(row).map(Known::Answered),
            false => Ok(Known::Running { lease_left: Duration::from_micros(unsigned(row, 2)?) }),
        }
    }

    async fn renew(&self, claims: &[Claim], lease: Duration) -> Result<()> {
        const SQL: &str = "SELECT agirails_paywall.renew($1, $2, $3, $4, $5, $6)";
        if claims.is_empty() {
            return Ok(());
        }
        let payments: Vec<&[u8]> =
            claims.iter().map(|claim| claim.call.transaction.as_slice()).collect();
        let keys: Vec<&[u8]> = claims.iter().map(|claim| claim.call.key.as_bytes()).collect();
        let owners: Vec<&[u8]> = claims.iter().map(|claim| &claim.owner[..]).collect();
        let attempts: Vec<i32> = claims.iter().map(|claim| number(claim.attempt)).collect();
        self.ask(
            SQL,
            &[
                (&self.scope, Type::TEXT),
                (&payments, Type::BYTEA_ARRAY),
                (&keys, Type::BYTEA_ARRAY),
                (&owners, Type::BYTEA_ARRAY),
                (&attempts, Type::INT4_ARRAY),
                (&microseconds(lease), Type::INT8),
            ],
        )
        .await?;
        Ok(())
    }

    async fn answer(&self, request: &AnswerRequest) -> Result<Ended> {
        self.answers
            .go(request.clone(), &self.pool, &|steps| {
                Box::pin(async move { self.answer_all(&steps).await })
            })
            .await
    }

    async fn release(&self, claim: &Claim, give_up_after: u32) -> Result<Ended> {
        const SQL: &str = "SELECT * FROM agirails_paywall.release($1, $2, $3, $4, $5, $6)";
        let Claim { call, owner, attempt, .. } = claim;
        let rows = self
            .ask(
                SQL,
                &[
                    (&self.scope, Type::TEXT),
                    (&call.transaction.as_slice(), Type::BYTEA),
                    (&call.key.as_bytes(), Type::BYTEA),
                    (&&owner[..], Type::BYTEA),
                    (&number(*attempt), Type::INT4),
                    (&i64::from(give_up_after), Type::INT8),
                ],
            )
            .await?;
        ended(first(&rows)?)
    }

    async fn close(&self, id: TransactionId) -> Result<Option<Stage>> {
        const SQL: &str = "SELECT agirails_paywall.close($1, $2)";
        let parameters: [Parameter<'_>; 2] =
            [(&self.scope, Type::TEXT), (&id.as_slice(), Type::BYTEA)];
        self.ask_one::<Option<i16>>(SQL, &parameters).await?.map(stage).transpose()
    }

    async fn close_expiring(&self, deadline: u64) -> Result<u64> {
        const SQL: &str = "SELECT agirails_paywall.close_expiring($1, $2)";
        let parameters: [Parameter<'_>; 2] =
            [(&self.scope, Type::TEXT), (&at_most(deadline), Type::INT8)];
        self.ask_one::<i64>(SQL, &parameters).await.and_then(positive)
    }

    async fn close_idle(&self, answered_at: u64) -> Result<u64> {
        const SQL: &str = "SELECT agirails_paywall.close_idle($1, $2)";
        let parameters: [Parameter<'_>; 2] =
            [(&self.scope, Type::TEXT), (&at_most(answered_at), Type::INT8)];
        self.ask_one::<i64>(SQL, &parameters).await.and_then(positive)
    }

    async fn payments_at(
        &self,
        stage: Stage,
        after: TransactionId,
        limit: u32,
    ) -> Result<Vec<TransactionId>> {
        // The stages are named, as the index names them.
        const SQL: &str = "SELECT id FROM agirails_paywall.payment
            WHERE scope = $1 AND stage = $4 AND stage IN (0, 2, 8) AND id > $2 ORDER BY id LIMIT $3";
        let parameters: [Parameter<'_>; 4] = [
            (&self.scope, Type::TEXT),
            (&after.as_slice(), Type::BYTEA),
            (&i64::from(limit), Type::INT8),
            (&stage.number(), Type::INT2),
        ];
        self.ask(SQL, &parameters).await?.iter().map(|row| hash(value(row, 0)?)).collect()
    }

    async fn overtake(
        &self,
        id: TransactionId,
        unserved: Stage,
        served: Stage,
        trouble: &str,
    ) -> Result<Option<Stage>> {
        const SQL: &str = "SELECT agirails_paywall.overtake($1, $2, $3, $4, $5, $6, $7)";
        let [event_unserved, event_served] =
            [unserved, served].map(|to| self.webhook_of(Stage::Open, to, false));
        let parameters: [Parameter<'_>; 7] = [
            (&self.scope, Type::TEXT),
            (&id.as_slice(), Type::BYTEA),
            (&unserved.number(), Type::INT2),
            (&served.number(), Type::INT2),
            (&text(trouble), Type::TEXT),
            (&event_unserved, Type::TEXT),
            (&event_served, Type::TEXT),
        ];
        self.ask_one::<Option<i16>>(SQL, &parameters).await?.map(stage).transpose()
    }

    async fn refund(&self, facts: &Facts) -> Result<Stage> {
        const SQL: &str = "SELECT agirails_paywall.refund($1, $2, $3, $4, $5, $6, $7, $8)";
        let kept = KeptFacts::of(facts)?;
        stage(self.ask_one::<i16>(SQL, &kept.parameters(&self.scope)).await?)
    }

    async fn give_back(&self, facts: &Facts) -> Result<()> {
        const SQL: &str = "SELECT agirails_paywall.give_back($1, $2, $3, $4, $5, $6, $7, $8)";
        let kept = KeptFacts::of(facts)?;
        self.ask(SQL, &kept.parameters(&self.scope)).await?;
        Ok(())
    }

    async fn duties(&self, stage: Stage, limit: u32) -> Result<Vec<Duty>> {
        const SQL: &str = "SELECT * FROM agirails_paywall.duties($1, $2, $3)";
        let parameters: [Parameter<'_>; 3] = [
            (&self.scope, Type::TEXT),
            (&stage.number(), Type::INT2),
            (&i64::from(limit), Type::INT8),
        ];
        self.ask(SQL, &parameters).await?.iter().map(duty).collect()
    }

    async fn settlements(&self, now: u64, least: Usdc, limit: u32) -> Result<Vec<Duty>> {
        const SQL: &str = "SELECT * FROM agirails_paywall.settlements($1, $2, $3, $4)";
        let parameters: [Parameter<'_>; 4] = [
            (&self.scope, Type::TEXT),
            (&at_most(now), Type::INT8),
            (&at_most(least.0), Type::INT8),
            (&i64::from(limit), Type::INT8),
        ];
        self.ask(SQL, &parameters).await?.iter().map(duty).collect()
    }

    async fn payment_row(&self, id: TransactionId) -> Result<Option<PaymentRow>> {
        const SQL: &str = concat!(
            "SELECT ",
            payment_row!(),
            " FROM agirails_paywall.payment WHERE scope = $1 AND id = $2"
        );
        let parameters: [Parameter<'_>; 2] =
            [(&self.scope, Type::TEXT), (&id.as_slice(), Type::BYTEA)];
        self.ask(SQL, &parameters).await?.first().map(payment_row).transpose()
    }

    async fn payments(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRow>> {
        const SQL: &str = concat!(
            "SELECT ",
            payment_row!(),
            " FROM agirails_paywall.payment
            WHERE scope = $1 AND stage >= 0 AND ($2 IS NULL OR stage = $2) AND ($3 IS NULL OR requester = $3)
                AND ($4 IS NULL OR (opened_at, id) < (
                    SELECT p.opened_at, p.id FROM agirails_paywall.payment p
                    WHERE p.scope = $1 AND p.id = $4))
            ORDER BY opened_at DESC, id DESC LIMIT $5"
        );
        let PaymentFilter { stage, requester, after, limit } = filter;
        let stage = stage.map(Stage::number);
        let requester = requester.as_ref().map(|requester| requester.as_slice());
        let after = after.as_ref().map(|after| after.as_slice());
        let parameters: [Parameter<'_>; 5] = [
            (&self.scope, Type::TEXT),
            (&stage, Type::INT2),
            (&requester, Type::BYTEA),
            (&after, Type::BYTEA),
            (&i64::from(*limit), Type::INT8),
        ];
        self.ask(SQL, &parameters).await?.iter().map(payment_row).collect()
    }

    async fn report(
        &self,
        by: ReportBy,
        (first, last): (u64, u64),
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Totals)>> {
        macro_rules! by_key {
            ($key:literal, $column:literal) => {
                concat!(
                    "SELECT ",
                    $key,
                    ", ",
                    totals!(),
                    " FROM agirails_paywall.books
                    WHERE scope = $1 AND day BETWEEN $2 AND $3 AND ($4 IS NULL OR (",
                    $key,
                    ") COLLATE \"C\" > $4) GROUP BY ",
                    $column,
                    " ORDER BY ",
                    $column,
                    " LIMIT $5"
                )
            };
        }
        let parameters: [Parameter<'_>; 5] = [
            (&self.scope, Type::TEXT),
            (&at_most(first), Type::INT8),
            (&at_most(last), Type::INT8),
            (&after.map(text), Type::TEXT),
            (&i64::from(limit), Type::INT8),
        ];
        self.ask(report!(by, by_key), &parameters).await?.iter().map(totals).collect()
    }

    async fn top(
        &self,
        by: ReportBy,
        (first, last): (u64, u64),
        limit: u32,
    ) -> Result<Vec<(String, Totals)>> {
        macro_rules! by_money {
            ($key:literal, $column:literal) => {
                concat!(
                    "SELECT ",
                    $key,
                    ", ",
                    totals!(),
                    " FROM agirails_paywall.books WHERE scope = $1 AND day BETWEEN $2 AND $3 GROUP BY ",
                    $column,
                    " ORDER BY sum(gross) + sum(net) DESC, ",
                    $column,
                    " LIMIT $4"
                )
            };
        }
        let parameters: [Parameter<'_>; 4] = [
            (&self.scope, Type::TEXT),
            (&at_most(first), Type::INT8),
            (&at_most(last), Type::INT8),
            (&i64::from(limit), Type::INT8),
        ];
        self.ask(report!(by, by_money), &parameters).await?.iter().map(totals).collect()
    }

    async fn runs(&self, (first, last): (u64, u64)) -> Result<BTreeMap<(String, Ran), u64>> {
        const SQL: &str = "SELECT route, within_ms, sum(runs)::bigint FROM agirails_paywall.runs
            WHERE scope = $1 AND day BETWEEN $2 AND $3 GROUP BY route, within_ms";
        let parameters: [Parameter<'_>; 3] = [
            (&self.scope, Type::TEXT),
            (&at_most(first), Type::INT8),
            (&at_most(last), Type::INT8),
        ];
        let read =
            |row: &Row| Ok(((value(row, 0)?, Ran::from_number(value(row, 1)?)), unsigned(row, 2)?));
        self.ask(SQL, &parameters).await?.iter().map(read).collect()
    }

    async fn calls(&self, id: TransactionId) -> Result<Vec<CallRow>> {
        const SQL: &str = "SELECT key, index, content_hash, answered_at FROM agirails_paywall.call
            WHERE scope = $1 AND payment = $2 AND state = 2 ORDER BY index";
        let rows =
            self.ask(SQL, &[(&self.scope, Type::TEXT), (&id.as_slice(), Type::BYTEA)]).await?;
        rows.iter().map(call_row).collect()
    }

    async fn piece(&self, call: &CallId, number: u64) -> Result<Vec<u8>> {
        const SQL: &str = "SELECT substring(body FROM $4 FOR $5) FROM agirails_paywall.call
            WHERE scope = $1 AND payment = $2 AND key = $3 AND state = 2";
        let first = i32::try_from(number.saturating_mul(PIECE_BYTES as u64).saturating_add(1));
        // PostgreSQL's values are no longer than that.
        let Ok(first) = first else { return Ok(vec![]) };
        let rows = self
            .ask(
                SQL,
                &[
                    (&self.scope, Type::TEXT),
                    (&call.transaction.as_slice(), Type::BYTEA),
                    (&call.key.as_bytes(), Type::BYTEA),
                    (&first, Type::INT4),
                    (&(PIECE_BYTES as i32), Type::INT4),
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(vec![]) };
        Ok(value::<Option<Vec<u8>>>(row, 0)?.unwrap_or_default())
    }

    async fn answered(&self, call: &CallId) -> Result<Option<CallRow>> {
        const SQL: &str = "SELECT key, index, content_hash, answered_at FROM agirails_paywall.call
            WHERE scope = $1 AND payment = $2 AND key = $3 AND state = 2";
        let parameters: [Parameter<'_>; 3] = [
            (&self.scope, Type::TEXT),
            (&call.transaction.as_slice(), Type::BYTEA),
            (&call.key.as_bytes(), Type::BYTEA),
        ];
        self.ask(SQL, &parameters).await?.first().map(call_row).transpose()
    }

    async fn request(&self, call: &CallId) -> Result<Option<KeptRequest>> {
        const SQL: &str = "SELECT request, body FROM agirails_paywall.request
            WHERE scope = $1 AND payment = $2 AND key = $3";
        let parameters: [Parameter<'_>; 3] = [
            (&self.scope, Type::TEXT),
            (&call.transaction.as_slice(), Type::BYTEA),
            (&call.key.as_bytes(), Type::BYTEA),
        ];
        let rows = self.ask(SQL, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let kept = KeptRequest::from_json(value(row, 0)?, value(row, 1)?);
        kept.map(Some).map_err(|error| damaged("a request that is not whole").with_source(error))
    }

    async fn keep_tree(&self, id: TransactionId, levels: &[Vec<B256>]) -> Result<()> {
        const SQL: &str = "SELECT agirails_paywall.keep_tree($1, $2, $3, $4, $5)";
        let (mut at, mut numbers, mut rows) = (vec![], vec![], vec![]);
        for (level, hashes) in (0_i32..).zip(levels) {
            for (number, row) in rows_of_level(hashes) {
                at.push(level);
                numbers.push(at_most(number));
                rows.push(row);
            }
        }
        self.ask(
            SQL,
            &[
                (&self.scope, Type::TEXT),
                (&id.as_slice(), Type::BYTEA),
                (&at, Type::INT4_ARRAY),
                (&numbers, Type::INT8_ARRAY),
                (&rows, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
        Ok(())
    }

    async fn nodes(&self, id: TransactionId, places: &[(u32, u64)]) -> Result<Vec<B256>> {
        const SQL: &str = "SELECT t.hashes
            FROM unnest($3, $4) WITH ORDINALITY AS wanted (level, number, place)
            JOIN agirails_paywall.tree t
                ON t.scope = $1 AND t.payment = $2 AND t.level = wanted.level AND t.number = wanted.number
            ORDER BY wanted.place";
        if places.is_empty() {
            return Ok(vec![]);
        }
        let levels: Vec<i32> = places.iter().map(|(level, _)| number(*level)).collect();
        let numbers: Vec<i64> =
            places.iter().map(|(_, place)| at_most(row_of_node(*place).0)).collect();
        let rows = self
            .ask(
                SQL,
                &[
                    (&self.scope, Type::TEXT),
                    (&id.as_slice(), Type::BYTEA),
                    (&levels, Type::INT4_ARRAY),
                    (&numbers, Type::INT8_ARRAY),
                ],
            )
            .await?;
        if rows.len() < places.len() {
            return Ok(vec![]);
        }
        let node = |(row, (_, place)): (&Row, &(u32, u64))| {
            node_in_row(value(row, 0)?, row_of_node(*place).1)
                .ok_or_else(|| damaged("a tree that lacks a node"))
        };
        rows.iter().zip(places).map(node).collect()
    }

    async fn set_content_hash(&self, id: TransactionId, content_hash: B256) -> Result<B256> {
        const SQL: &str =
            "UPDATE agirails_paywall.payment SET content_hash = coalesce(content_hash, $3)
            WHERE scope = $1 AND id = $2 RETURNING content_hash";
        let rows = self
            .ask(
                SQL,
                &[
                    (&self.scope, Type::TEXT),
                    (&id.as_slice(), Type::BYTEA),
                    (&content_hash.as_slice(), Type::BYTEA),
                ],
            )
            .await?;
        let row =
            rows.first().ok_or_else(|| damaged(&format!("no payment {id}, which is delivered")))?;
        hash(value(row, 0)?)
    }

    async fn settle(&self, id: TransactionId, stage: Stage, outcome: &Outcome) -> Result<bool> {
        const SQL: &str = "SELECT agirails_paywall.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
        const NOT_BEFORE: &str = "SELECT agirails_paywall.not_before($1, $2, $3, $4)";
        let (to, after, trouble, entry) = match outcome {
            Outcome::Moved { to, trouble, entry } => {
                (Some(*to), 0, trouble.as_deref().map(text), *entry)
            }
            Outcome::Later { after, trouble } => {
                (None, microseconds(*after), Some(text(trouble)), Entry::default())
            }
            Outcome::NotBefore { settle_at } => {
                let parameters: [Parameter<'_>; 4] = [
                    (&self.scope, Type::TEXT),
                    (&id.as_slice(), Type::BYTEA),
                    (&stage.number(), Type::INT2),
                    (&at_most(*settle_at), Type::INT8),
                ];
                return Ok(self.ask_one::<i64>(NOT_BEFORE, &parameters).await? > 0);
            }
        };
        // The database adds the payout, where it was not booked before.
        let moved = to.map(|to| Totals::of_move(stage, to, entry.gas, None));
        let values = moved.unwrap_or_default().of_moves().map(at_most);
        let event = to.and_then(|to| self.webhook_of(stage, to, entry.is_resolved));
        let to = to.map(Stage::number);
        self.ask_one(
            SQL,
            &[
                (&self.scope, Type::TEXT),
                (&id.as_slice(), Type::BYTEA),
                (&stage.number(), Type::INT2),
                (&to, Type::INT2),
                (&after, Type::INT8),
                (&trouble, Type::TEXT),
                (&at_most(entry.at), Type::INT8),
                (&at_most(entry.settle_at), Type::INT8),
                (&entry.payout.map(|payout| at_most(payout.net.0)), Type::INT8),
                (&entry.payout.map(|payout| at_most(payout.fee.0)), Type::INT8),
                (&&MOVES[..], Type::TEXT_ARRAY),
                (&&values[..], Type::INT8_ARRAY),
                (&event, Type::TEXT),
            ],
        )
        .await
    }

    async fn spend(&self, id: TransactionId, at: u64, gas: u64) -> Result<()> {
        const SQL: &str = "SELECT agirails_paywall.spend($1, $2, $3, $4, $5)";
        let parameters: [Parameter<'_>; 5] = [
            (&self.scope, Type::TEXT),
            (&id.as_slice(), Type::BYTEA),
            (&at_most(at), Type::INT8),
            (&at_most(gas), Type::INT8),
            (&GAS, Type::TEXT),
        ];
        self.pool.ask(Again::No, SQL, &parameters).await.map(drop)
    }

    async fn lease(&self, name: &str, owner: Owner, lease: Duration) -> Result<bool> {
        const SQL: &str = "SELECT agirails_paywall.take_lease($1, $2, $3, $4)";
        let parameters: [Parameter<'_>; 4] = [
            (&self.scope, Type::TEXT),
            (&text(name), Type::TEXT),
            (&&owner[..], Type::BYTEA),
            (&microseconds(lease), Type::INT8),
        ];
        Ok(self.ask_one::<i64>(SQL, &parameters).await? > 0)
    }

    async fn backlog(&self, now: u64, least: Usdc) -> Result<Backlog> {
        const SQL: &str = "SELECT * FROM agirails_paywall.backlog($1, $2, $3)";
        let parameters: [Parameter<'_>; 3] = [
            (&self.scope, Type::TEXT),
            (&at_most(now), Type::INT8),
            (&at_most(least.0), Type::INT8),
        ];
        let rows = self.ask(SQL, &parameters).await?;
        let row = rows.first().ok_or_else(|| damaged("a step without an answer"))?;
        Ok(Backlog {
            deliveries: unsigned(row, 0)?,
            returns: unsigned(row, 1)?,
            open: unsigned(row, 2)?,
            lost: unsigned(row, 3)?,
            oldest: Duration::from_micros(unsigned(row, 4)?),
            trouble: value(row, 5)?,
            delivered: unsigned(row, 6)?,
            due: unsigned(row, 7)?,
            small: unsigned(row, 8)?,
            due_since: value::<Option<i64>>(row, 9)?.map(positive).transpose()?,
            disputed: unsigned(row, 10)?,
            expected: usdc(row, 11)?,
            next_at: value::<Option<i64>>(row, 12)?.map(positive).transpose()?,
            webhooks: unsigned(row, 13)?,
        })
    }

    async fn count(&self, more: &Counters, runs: &Runs) -> Result<()> {
        const SQL: &str = "SELECT agirails_paywall.add($1, $2, $3),
            agirails_paywall.add_runs($1, $4, $5, $6, $7)";
        if more.is_empty() && runs.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = more.keys().map(|name| text(name)).collect();
        let values: Vec<i64> = more.values().map(|value| at_most(*value)).collect();
        let days: Vec<i64> = runs.keys().map(|(day, ..)| at_most(*day)).collect();
        let routes: Vec<String> = runs.keys().map(|(_, route, _)| text(route)).collect();
        let within: Vec<i64> = runs.keys().map(|(.., ran)| ran.number()).collect();
        let counts: Vec<i64> = runs.values().map(|count| at_most(*count)).collect();
        let parameters: [Parameter<'_>; 7] = [
            (&self.scope, Type::TEXT),
            (&names, Type::TEXT_ARRAY),
            (&values, Type::INT8_ARRAY),
            (&days, Type::INT8_ARRAY),
            (&routes, Type::TEXT_ARRAY),
            (&within, Type::INT8_ARRAY),
            (&counts, Type::INT8_ARRAY),
        ];
        self.pool.ask(Again::No, SQL, &parameters).await?;
        Ok(())
    }

    async fn counters(&self) -> Result<Counters> {
        const SQL: &str = "SELECT name, sum(value)::bigint FROM agirails_paywall.counter
            WHERE scope = $1 GROUP BY name";
        let rows = self.ask(SQL, &[(&self.scope, Type::TEXT)]).await?;
        rows.iter().map(|row| Ok((value(row, 0)?, unsigned(row, 1)?))).collect()
    }

    async fn prune(&self, age: Duration, now: u64, limit: u32) -> Result<u64> {
        const SQL: &str = "SELECT agirails_paywall.prune($1, $2, $3, $4)";
        let parameters: [Parameter<'_>; 4] = [
            (&self.scope, Type::TEXT),
            (&microseconds(age), Type::INT8),
            (&at_most(now), Type::INT8),
            (&i64::from(limit), Type::INT8),
        ];
        self.ask_one::<i64>(SQL, &parameters).await.and_then(positive)
    }

    fn keep_webhooks(&self) {
        self.keeps_webhooks.store(true, Ordering::Relaxed);
    }

    async fn webhooks(&self, limit: u32) -> Result<Vec<WebhookRow>> {
        const SQL: &str = "SELECT number, id, payment, requester, amount, name, at, net, gas, tries
            FROM agirails_paywall.webhook w
            WHERE scope = $1 AND due_at <= clock_timestamp() AND NOT EXISTS (
                SELECT FROM agirails_paywall.webhook e
                WHERE e.scope = $1 AND e.payment = w.payment AND e.number < w.number)
            ORDER BY number LIMIT $2";
        let parameters: [Parameter<'_>; 2] =
            [(&self.scope, Type::TEXT), (&i64::from(limit), Type::INT8)];
        let read = |row: &Row| {
            let id = value::<&[u8]>(row, 1)?.try_into();
            Ok(WebhookRow {
                number: value(row, 0)?,
                id: id.map_err(|_| damaged("an event's id of another length"))?,
                payment: hash(value(row, 2)?)?,
                requester: Account::from(
                    <[u8; 20]>::try_from(value::<&[u8]>(row, 3)?)
                        .map_err(|_| damaged("an address of another length"))?,
                ),
                amount: usdc(row, 4)?,
                name: value(row, 5)?,
                at: unsigned(row, 6)?,
                net: value::<Option<i64>>(row, 7)?.map(positive).transpose()?.map(Usdc),
                gas: unsigned(row, 8)?,
                tries: u32::try_from(value::<i32>(row, 9)?).unwrap_or_default(),
            })
        };
        self.ask(SQL, &parameters).await?.iter().map(read).collect()
    }

    async fn webhook_told(&self, number: i64) -> Result<()> {
        const SQL: &str = "DELETE FROM agirails_paywall.webhook WHERE scope = $1 AND number = $2";
        self.ask(SQL, &[(&self.scope, Type::TEXT), (&number, Type::INT8)]).await?;
        Ok(())
    }

    async fn webhook_later(&self, number: i64, after: Duration) -> Result<()> {
        const SQL: &str = "UPDATE agirails_paywall.webhook SET tries = tries + 1,
            due_at = agirails_paywall.after(clock_timestamp(), $3) WHERE scope = $1 AND number = $2";
        let parameters: [Parameter<'_>; 3] =
            [(&self.scope, Type::TEXT), (&number, Type::INT8), (&microseconds(after), Type::INT8)];
        self.ask(SQL, &parameters).await?;
        Ok(())
    }

    async fn expire_webhooks(&self, age: Duration, most: u32) -> Result<u64> {
        const SQL: &str = "SELECT agirails_paywall.expire_webhooks($1, $2, $3)";
        let parameters: [Parameter<'_>; 3] = [
            (&self.scope, Type::TEXT),
            (&microseconds(age), Type::INT8),
            (&i64::from(most), Type::INT8),
        ];
        self.ask_one::<i64>(SQL, &parameters).await.and_then(positive)
    }

    async fn restored(&self, now: u64) -> Result<Option<u64>> {
        const BEGIN: &str = "UPDATE agirails_paywall.restored SET at = $1 WHERE at = 0";
        const SQL: &str = "SELECT max(at) FROM agirails_paywall.restored";
        self.ask(BEGIN, &[(&at_most(now), Type::INT8)]).await?;
        self.ask_one::<Option<i64>>(SQL, &[]).await?.map(positive).transpose()
    }

    /// The server does that.
    async fn strangers(&self) -> Result<Vec<Stranger>> {
        const SQL: &str = "SELECT p.scope, count(*), sum(p.amount)::bigint
            FROM agirails_paywall.payment p
            WHERE p.scope <> $1 AND p.stage IN (0, 1, 3)
                AND NOT EXISTS (SELECT FROM agirails_paywall.lease l
                    WHERE l.scope = p.scope AND l.leased_until > clock_timestamp())
                AND NOT EXISTS (SELECT FROM agirails_paywall.meta m
                    WHERE m.scope = p.scope AND m.name = 'moved')
            GROUP BY p.scope ORDER BY p.scope";
        let mut found = vec![];
        for row in self.ask(SQL, &[(&self.scope, Type::TEXT)]).await? {
            if let Some(provider) = self.network.provider_of(value(&row, 0)?) {
                let (payments, amount) = (unsigned(&row, 1)?, usdc(&row, 2)?);
                found.push(Stranger { provider, payments, amount });
            }
        }
        Ok(found)
    }

    async fn moved_to(&self) -> Result<Option<String>> {
        const SQL: &str =
            "SELECT value FROM agirails_paywall.meta WHERE scope = $1 AND name = 'moved'";
        let rows = self.ask(SQL, &[(&self.scope, Type::TEXT)]).await?;
        rows.first().map(|row| utf8(value(row, 0)?)).transpose()
    }

    async fn move_to(&self, place: Option<&str>) -> Result<()> {
        const SQL: &str = "INSERT INTO agirails_paywall.meta (scope, name, value) \
            VALUES ($1, 'moved', $2) ON CONFLICT (scope, name) DO UPDATE SET value = excluded.value";
        const BACK: &str = "DELETE FROM agirails_paywall.meta WHERE scope = $1 AND name = 'moved'";
        let scope: Parameter<'_> = (&self.scope, Type::TEXT);
        match place {
            Some(place) => self.ask(SQL, &[scope, (&place.as_bytes(), Type::BYTEA)]).await?,
            None => self.ask(BACK, &[scope]).await?,
        };
        Ok(())
    }

    async fn tidy(&self) -> Result<()> {
        Ok(())
    }
}

/// From the columns of [`payment!`].
fn payment(row: &Row) -> Result<Payment> {
    Ok(Payment {
        facts: facts(row)?,
        stage: stage(value(row, 7)?)?,
        spent: usdc(row, 8)?,
        reserved: usdc(row, 9)?,
        calls: unsigned(row, 10)?,
        content_hash: optional_hash(row, 11)?,
        trouble: value(row, 12)?,
    })
}

/// From the columns of [`payment_row!`].
fn payment_row(row: &Row) -> Result<PaymentRow> {
    Ok(PaymentRow {
        payment: payment(row)?,
        opened_at: unsigned(row, 13)?,
        delivered_at: unsigned(row, 14)?,
        settle_at: unsigned(row, 15)?,
        settled_at: unsigned(row, 16)?,
        gas: unsigned(row, 17)?,
        payout: match (value::<Option<i64>>(row, 18)?, value::<Option<i64>>(row, 19)?) {
            (Some(net), Some(fee)) => {
                Some(Payout { net: Usdc(positive(net)?), fee: Usdc(positive(fee)?) })
            }
            _ => None,
        },
    })
}

fn totals(row: &Row) -> Result<(String, Totals)> {
    let totals = Totals {
        calls: unsigned(row, 1)?,
        gross: unsigned(row, 2)?,
        settled: unsigned(row, 3)?,
        paid_out: unsigned(row, 4)?,
        fee: unsigned(row, 5)?,
        net: unsigned(row, 6)?,
        gas: unsigned(row, 7)?,
        refunded: unsigned(row, 8)?,
        disputed: unsigned(row, 9)?,
    };
    Ok((value(row, 0)?, totals))
}

fn call_row(row: &Row) -> Result<CallRow> {
    Ok(CallRow {
        key: utf8(value(row, 0)?)?,
        index: unsigned(row, 1)?,
        content_hash: hash(value(row, 2)?)?,
        answered_at: unsigned(row, 3)?,
    })
}

/// Facts in the database's types.
struct KeptFacts<'a> {
    id: &'a [u8],
    requester: &'a [u8],
    amount: i64,
    deadline: i64,
    window_seconds: i64,
    net: i64,
    bound: bool,
}

impl<'a> KeptFacts<'a> {
    fn of(facts: &'a Facts) -> Result<Self> {
        // The kernels allow no such amounts, and no such times.
        let fits = |field, value: u64| {
            i64::try_from(value).map_err(|_| {
                let problem = "is more than a payment can have";
                Error::invalid(Code::InvalidNumber, field, &value.to_string(), problem)
            })
        };
        Ok(Self {
            id: facts.id.as_slice(),
            requester: facts.requester.as_slice(),
            amount: fits("amount", facts.amount.0)?,
            deadline: fits("deadline", facts.deadline)?,
            window_seconds: fits("window_seconds", facts.window_seconds)?,
            net: fits("net", facts.net.0)?,
            bound: facts.bound,
        })
    }

    /// For the steps that take a transaction in.
    fn parameters<'b>(&'b self, scope: &'b String) -> [Parameter<'b>; 8] {
        [
            (scope, Type::TEXT),
            (&self.id, Type::BYTEA),
            (&self.requester, Type::BYTEA),
            (&self.amount, Type::INT8),
            (&self.deadline, Type::INT8),
            (&self.window_seconds, Type::INT8),
            (&self.bound, Type::BOOL),
            (&self.net, Type::INT8),
        ]
    }
}

/// A text without what PostgreSQL's texts cannot hold.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A number that is compared, where everything beyond the range is as much as the range's end.
fn at_most(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(attempt: u32) -> i32 {
    i32::try_from(attempt).unwrap_or(i32::MAX)
}

fn microseconds(length: Duration) -> i64 {
    i64::try_from(length.min(FOR_EVER).as_micros()).unwrap_or(i64::MAX)
}

fn first(rows: &[Row]) -> Result<&Row> {
    rows.first().ok_or_else(|| damaged("a step without an answer"))
}

fn value<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(|error| damaged("a value of another type").with_source(error))
}

fn unsigned(row: &Row, column: usize) -> Result<u64> {
    positive(value(row, column)?)
}

fn positive(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| damaged("a negative number"))
}

fn usdc(row: &Row, column: usize) -> Result<Usdc> {
    unsigned(row, column).map(Usdc)
}

fn hash(bytes: &[u8]) -> Result<B256> {
    B256::try_from(bytes).map_err(|_| damaged("a hash that is not 32 bytes long"))
}

fn optional_hash(row: &Row, column: usize) -> Result<Option<B256>> {
    value::<Option<&[u8]>>(row, column)?.map(hash).transpose()
}

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged("a text that is not UTF-8"))
}

fn stage(number: i16) -> Result<Stage> {
    Stage::from_number(number).ok_or_else(|| damaged(&format!("the stage {number}")))
}

/// A column of an array's worth of steps.
fn each<'a, S, T>(steps: &'a [S], part: impl Fn(&'a S) -> T) -> Vec<T> {
    steps.iter().map(part).collect()
}

/// What the rows say, one for each step and in the steps' order.
fn told<T>(steps: usize, rows: &[Row], read: impl Fn(&Row) -> Result<T>) -> Result<Vec<T>> {
    match rows.len() == steps {
        true => rows.iter().map(read).collect(),
        false => Err(damaged("a step without an answer")),
    }
}

fn claimed(row: &Row) -> Result<Claimed> {
    match value::<&str>(row, 0)? {
        "run" => {
            let attempt = u32::try_from(value::<i32>(row, 1)?);
            Ok(Claimed::Run { attempt: attempt.map_err(|_| damaged("a negative attempt"))? })
        }
        "running" => Ok(Claimed::Running { lease_left: Duration::from_micros(unsigned(row, 2)?) }),
        "resting" => Ok(Claimed::Resting { left: Duration::from_micros(unsigned(row, 2)?) }),
        "answered" => kept(row).map(Claimed::Answered),
        "other_request" => Ok(Claimed::OtherRequest),
        "other_kind" => Ok(Claimed::OtherKind),
        "no_balance" => Ok(Claimed::NoBalance { left: usdc(row, 3)? }),
        "closed" => Ok(Claimed::Closed(stage(value(row, 4)?)?)),
        other => Err(damaged(&format!("the outcome {other:?}"))),
    }
}

fn ended(row: &Row) -> Result<Ended> {
    Ok(match (value::<Option<i16>>(row, 0)?, value::<Option<i64>>(row, 1)?) {
        (Some(number), Some(place)) => {
            Ended::Done { stage: stage(number)?, index: positive(place)? }
        }
        (Some(_), None) => Ended::Closed,
        (None, _) => Ended::TakenOver,
    })
}

/// From the first seven columns.
fn facts(row: &Row) -> Result<Facts> {
    let requester = value::<&[u8]>(row, 1)?;
    Ok(Facts {
        id: hash(value(row, 0)?)?,
        requester: Account::try_from(requester)
            .map_err(|_| damaged("an address that is not 20 bytes long"))?,
        amount: usdc(row, 2)?,
        deadline: unsigned(row, 3)?,
        window_seconds: unsigned(row, 4)?,
        net: usdc(row, 5)?,
        bound: value(row, 6)?,
    })
}

fn duty(row: &Row) -> Result<Duty> {
    Ok(Duty {
        facts: facts(row)?,
        stage: stage(value(row, 7)?)?,
        content_hash: optional_hash(row, 8)?,
        answered_at: unsigned(row, 9)?,
        tries: u32::try_from(value::<i32>(row, 10)?).map_err(|_| damaged("a negative number"))?,
        age: Duration::from_micros(unsigned(row, 11)?),
        settle_at: unsigned(row, 12)?,
    })
}

/// From the columns of a claim's answer.
fn kept(row: &Row) -> Result<Kept> {
    Ok(Kept {
        index: unsigned(row, 5)?,
        content_hash: hash(value(row, 6)?)?,
        answered_at: unsigned(row, 7)?,
        answer: answer(row)?,
    })
}

fn answer(row: &Row) -> Result<Option<KeptAnswer>> {
    let Some(status) = value::<Option<i32>>(row, 8)? else { return Ok(None) };
    let status = u16::try_from(status).map_err(|_| damaged("a status that HTTP has not"))?;
    let (names, values): (Vec<&[u8]>, Vec<&[u8]>) = (value(row, 9)?, value(row, 10)?);
    let headers =
        names.into_iter().zip(values).map(|(name, value)| Ok((utf8(name)?, value.to_vec())));
    let body = match value(row, 11)? {
        Some(body) => KeptBody::Whole(body),
        None => KeptBody::Pieces { length: unsigned(row, 12)? },
    };
    Ok(Some(KeptAnswer { status, headers: headers.collect::<Result<_>>()?, body }))
}

#[cfg(test)]
mod tests;
