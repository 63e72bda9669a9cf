//! The store of one machine: a SQLite file that all its workers share.

mod copying;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};

use super::{
    AnswerRequest, Backlog, CallId, CallRow, Claim, ClaimRequest, Claimed, Counters, DAY, Duty,
    Ended, Entry, Facts, Kept, KeptAnswer, KeptBody, KeptRequest, Known, MOVES, Outcome, Owner,
    PIECE_BYTES, Payment, PaymentFilter, PaymentRow, REST_DOUBLINGS, Ran, ReportBy, Runs, Scope,
    Stage, Store, Stranger, Totals, WebhookRow, group_commit::GroupCommit, money_event,
    node_in_row, row_of_node, rows_of_level,
};
use crate::{
    error::{Code, Error, Result},
    fork::Renewed,
    protocol::{TransactionId, Usdc, money::Payout},
    storage::{self, Attempt, Format, Storage, ms, now_ms},
};

/// How long a call waits while another process holds the file's lock, counted from its arrival (see
/// [`GroupCommit`]): a consumer waits meanwhile, and servers end a request after some 30 seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Columns of a payment, and a payment by its id. The same words in the same order.
macro_rules! payment {
    () => {
        "requester, amount, deadline, window, net, bound, stage, spent, reserved, calls, \
         content_hash, provider, trouble"
    };
}
const RUNNING: i64 = 0;
const ANSWERED: i64 = 1;

/// Keeps everything in `.actp/paywall-….sqlite3`.
#[derive(Debug)]
pub(in crate::paywall) struct SqliteStore {
    file: Arc<storage::Store>,
    scope: Scope,
    provider: Address,
    keeps_webhooks: AtomicBool,
    /// A forked child's writers wait for one another, not for the parent's.
    commits: Renewed<GroupCommit>,
}

impl SqliteStore {
    /// `survives_power_cut`: whether every commit is synced to the disk. Without it a commit
    /// survives everything that can happen to processes, and a power cut may take the last ones.
    pub(in crate::paywall) async fn open(
        storage: Storage,
        scope: &Scope,
        survives_power_cut: bool,
    ) -> Result<Self> {
        let Scope { chain_id, kernel, provider } = scope;
        let format = Format {
            file: format!("paywall-{}.sqlite3", scope.name()),
            identity: Some(format!("{provider} at kernel {kernel} on chain {chain_id}")),
            former: Some(format!("paywall-{}.sqlite3", scope.former_name())),
            application_id: 0x6163_7477,
            schema: &[
                include_str!("sqlite.sql"),
                include_str!("sqlite/deadlines.sql"),
                include_str!("sqlite/services.sql"),
                include_str!("sqlite/kept.sql"),
                include_str!("sqlite/books.sql"),
                include_str!("sqlite/requests.sql"),
                include_str!("sqlite/runs.sql"),
                include_str!("sqlite/webhooks.sql"),
                include_str!("sqlite/counts.sql"),
                include_str!("sqlite/payouts.sql"),
            ],
            synchronous: if survives_power_cut { "FULL" } else { "NORMAL" },
            patience: PATIENCE,
        };
        let file = storage::Store::open(storage, format, |_| Ok(())).await?;
        let commits = Renewed::new({
            let file = file.clone();
            move || GroupCommit::new(file.clone())
        });
        let keeps_webhooks = AtomicBool::new(false);
        Ok(Self { file, scope: *scope, provider: *provider, keeps_webhooks, commits })
    }

    /// Whether there is one in this place.
    pub(in crate::paywall) fn is_in(storage: &Storage, scope: &Scope) -> bool {
        [scope.name(), scope.former_name()]
            .iter()
            .any(|name| storage.has(&format!("paywall-{name}.sqlite3")))
    }

    /// What only its key can move, where nobody who has that holds a lease; nothing where it was moved.
    async fn untended(&self) -> Result<Option<Stranger>> {
        let (payments, amount) = self
            .file
            .read(|connection| {
                let sql = "SELECT count(*), coalesce(sum(amount), 0) FROM payments \
                           WHERE stage IN (0, 1, 3) \
                           AND NOT EXISTS (SELECT 1 FROM leases WHERE until > ?1) \
                           AND NOT EXISTS (SELECT 1 FROM meta WHERE name = 'moved')";
                let mut found = connection.prepare_cached(sql)?;
                Ok(found.query_row([now_ms()], |row| Ok((number(row, 0)?, number(row, 1)?)))?)
            })
            .await?;
        let provider = self.provider;
        Ok((payments > 0).then_some(Stranger { provider, payments, amount: Usdc(amount) }))
    }

    async fn write<T: Send + 'static>(
        &self,
        step: impl FnMut(&Connection) -> Attempt<T> + Send + 'static,
    ) -> Result<T> {
        self.commits.get().write(step).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn service(&self) -> Result<B256> {
        let fresh = super::fresh_service();
        self.write(move |connection| {
            let sql = "INSERT OR IGNORE INTO meta (name, value) VALUES ('service', ?1)";
            connection.prepare_cached(sql)?.execute([fresh.as_slice()])?;
            let sql = "SELECT value FROM meta WHERE name = 'service'";
            Ok(connection.prepare_cached(sql)?.query_row([], |row| hash(row, 0))?)
        })
        .await
    }

    async fn payment(&self, id: TransactionId) -> Result<Option<Payment>> {
        self.file.read(|connection| payment(connection, self.provider, id)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        // An answer is final: those who ask for it again are no writers.
        let call = CallId { transaction: request.facts.id, key: request.key.clone() };
        if let Known::Answered(kept) = self.known(&call, request.digest).await? {
            return Ok(Claimed::Answered(kept));
        }
        let (request, provider) = (request.clone(), self.provider);
        self.write(move |connection| claim(connection, provider, &request)).await
    }

    async fn known(&self, call: &CallId, digest: B256) -> Result<Known> {
        let found = self
            .file
            .read(|connection| self::call(connection, call.transaction, &call.key))
            .await?;
        Ok(match found {
            Some(found) if found.digest != digest.as_slice() => Known::Nothing,
            Some(Call { kept: Some(kept), .. }) => Known::Answered(kept),
            Some(found) => match found.lease_left(now_ms()) {
                Some(lease_left) => Known::Running { lease_left },
                None => Known::Nothing,
            },
            None => Known::Nothing,
        })
    }

    async fn renew(&self, claims: &[Claim], lease: Duration) -> Result<()> {
        let claims = claims.to_vec();
        self.write(move |connection| {
            let until = now_ms() + ms(lease);
            let mut statement = connection.prepare_cached(
                "UPDATE calls SET lease_until = ?1 WHERE payment = ?2 AND key = ?3 AND state = 0 \
                 AND owner = ?4 AND attempt = ?5",
            )?;
            for Claim { call, owner, attempt, .. } in &claims {
                let id = call.transaction.as_slice();
                statement.execute(params![until, id, call.key, owner.as_slice(), attempt])?;
            }
            Ok(())
        })
        .await
    }

    async fn answer(&self, request: &AnswerRequest) -> Result<Ended> {
        let (request, provider) = (request.clone(), self.provider);
        self.write(move |connection| answer(connection, provider, &request)).await
    }

    async fn release(&self, claim: &Claim, give_up_after: u32) -> Result<Ended> {
        let (claim, provider) = (claim.clone(), self.provider);
        self.write(move |connection| {
            let id = claim.call.transaction;
            let Some(before) = payment(connection, provider, id)? else {
                return Ok(Ended::TakenOver);
            };
            if before.stage != Stage::Open || !fail_claim(connection, &claim)? {
                return too_late(connection, &claim);
            }
            reserve(connection, id, -(claim.price.0 as i64))?;
            let failures = count_failure(connection, id)?;
            let alone = before.calls == 0 && before.reserved == claim.price;
            if alone && failures >= give_up_after {
                let stage = unserved(&before.facts);
                enter(connection, id, stage)?;
                return Ok(Ended::Done { stage, index: 0 });
            }
            Ok(Ended::Done { stage: Stage::Open, index: before.calls })
        })
        .await
    }

    async fn close(&self, id: TransactionId) -> Result<Option<Stage>> {
        let provider = self.provider;
        self.write(move |connection| {
            let Some(payment) = payment(connection, provider, id)? else { return Ok(None) };
            let is_served = payment.calls > 0;
            let may_close = (is_served || payment.facts.bound) && !is_running(connection, id)?;
            if payment.stage != Stage::Open || !may_close {
                return Ok(Some(payment.stage));
            }
            let stage = if is_served { Stage::Delivering } else { Stage::Returning };
            enter(connection, id, stage)?;
            Ok(Some(stage))
        })
        .await
    }

    async fn close_expiring(&self, deadline: u64) -> Result<u64> {
        let provider = self.provider;
        self.write(move |connection| {
            let sql = "UPDATE payments SET \
                       stage = CASE WHEN calls > 0 THEN 1 WHEN bound THEN 3 ELSE 6 END, \
                       since = ?2, next_try = 0, tries = 0, trouble = NULL \
                       WHERE stage = 0 AND deadline <= ?1 AND coalesce(provider, ?3) = ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let done = params![deadline as i64, now_ms(), provider.as_slice()];
            Ok(statement.execute(done)? as u64)
        })
        .await
    }

    async fn close_idle(&self, answered_at: u64) -> Result<u64> {
        let provider = self.provider;
        self.write(move |connection| {
            let sql = "UPDATE payments SET stage = 1, since = ?2, next_try = 0, tries = 0, \
                       trouble = NULL WHERE stage = 0 AND calls > 0 AND answered_at <= ?1 \
                       AND NOT EXISTS (SELECT 1 FROM calls WHERE payment = payments.id \
                       AND state = 0 AND lease_until > ?2) AND coalesce(provider, ?3) = ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let idle = params![answered_at as i64, now_ms(), provider.as_slice()];
            Ok(statement.execute(idle)? as u64)
        })
        .await
    }

    async fn payments_at(
        &self,
        stage: Stage,
        after: TransactionId,
        limit: u32,
    ) -> Result<Vec<TransactionId>> {
        self.file
            .read(|connection| {
                // The stages are named, as the index names them.
                let sql = "SELECT id FROM payments WHERE stage = ?4 AND stage IN (0, 2, 8) \
                           AND id > ?1 AND coalesce(provider, ?3) = ?3 ORDER BY id LIMIT ?2";
                let mut statement = connection.prepare_cached(sql)?;
                let provider = self.provider.as_slice();
                let page = params![after.as_slice(), limit, provider, stage.number()];
                let rows = statement.query_map(page, |row| hash(row, 0))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn overtake(
        &self,
        id: TransactionId,
        unserved: Stage,
        served: Stage,
        trouble: &str,
    ) -> Result<Option<Stage>> {
        let (trouble, provider) = (trouble.to_owned(), self.provider);
        let keeps = self.keeps_webhooks.load(Ordering::Relaxed);
        self.write(move |connection| {
            let Some(payment) = payment(connection, provider, id)? else { return Ok(None) };
            if payment.stage != Stage::Open {
                return Ok(Some(payment.stage));
            }
            let stage = if payment.calls > 0 { served } else { unserved };
            enter(connection, id, stage)?;
            let sql = "UPDATE payments SET trouble = ?2 WHERE id = ?1";
            connection.prepare_cached(sql)?.execute(params![id.as_slice(), trouble])?;
            let entry = Entry { at: (now_ms() / 1_000) as u64, ..Entry::default() };
            keep_webhook(connection, keeps, id, (Stage::Open, stage), &entry)?;
            Ok(Some(stage))
        })
        .await
    }

    async fn refund(&self, facts: &Facts) -> Result<Stage> {
        let (facts, provider) = (*facts, self.provider);
        self.write(move |connection| {
            insert(connection, provider, &facts, None, Stage::Returning)?;
            let stage = payment(connection, provider, facts.id)?.map(|payment| payment.stage);
            if let Some(Stage::Open | Stage::Lost | Stage::Left) = stage {
                enter(connection, facts.id, Stage::Returning)?;
                return Ok(Stage::Returning);
            }
            Ok(stage.unwrap_or(Stage::Returning))
        })
        .await
    }

    async fn give_back(&self, facts: &Facts) -> Result<()> {
        let (facts, provider) = (*facts, self.provider);
        self.write(move |connection| {
            insert(connection, provider, &facts, None, Stage::Returning)?;
            Ok(())
        })
        .await
    }

    async fn duties(&self, stage: Stage, limit: u32) -> Result<Vec<Duty>> {
        self.file
            .read(|connection| {
                // Both stages are named, as the index names them.
                let sql = format!(
                    "SELECT {DUTY} FROM payments WHERE stage = ?1 AND stage IN (1, 3) \
                     AND next_try <= ?2 AND coalesce(provider, ?4) = ?4 ORDER BY deadline LIMIT ?3"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let due = params![stage.number(), now_ms(), limit, self.provider.as_slice()];
                let rows = statement.query_map(due, duty)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn settlements(&self, now: u64, least: Usdc, limit: u32) -> Result<Vec<Duty>> {
        self.file
            .read(|connection| {
                let sql = format!(
                    "SELECT {DUTY} FROM payments WHERE stage = 2 AND settle_at < ?1 AND net >= ?2 \
                     AND next_try <= ?3 AND coalesce(provider, ?5) = ?5 ORDER BY settle_at LIMIT ?4"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let provider = self.provider.as_slice();
                let due = params![now as i64, at_most(least.0), now_ms(), limit, provider];
                let rows = statement.query_map(due, duty)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn payment_row(&self, id: TransactionId) -> Result<Option<PaymentRow>> {
        self.file
            .read(|connection| {
                let sql = format!(
                    "SELECT {PAYMENT_ROW} FROM payments WHERE id = ?1 AND coalesce(provider, ?2) = ?2"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let of = params![id.as_slice(), self.provider.as_slice()];
                Ok(statement.query_row(of, payment_row).optional()?)
            })
            .await
    }

    async fn payments(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRow>> {
        let PaymentFilter { stage, requester, after, limit } = *filter;
        self.file
            .read(|connection| {
                let sql = format!(
                    "SELECT {PAYMENT_ROW} FROM payments WHERE coalesce(provider, ?5) = ?5 \
                     AND (?1 IS NULL OR stage = ?1) AND (?2 IS NULL OR requester = ?2) \
                     AND (?3 IS NULL OR (opened_at, id) < (SELECT opened_at, id FROM payments \
                     WHERE id = ?3)) ORDER BY opened_at DESC, id DESC LIMIT ?4"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let page = params![
                    stage.map(Stage::number),
                    requester.as_ref().map(|requester| requester.as_slice()),
                    after.as_ref().map(|after| after.as_slice()),
                    limit,
                    self.provider.as_slice(),
                ];
                let rows = statement.query_map(page, payment_row)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn report(
        &self,
        by: ReportBy,
        (first, last): (u64, u64),
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Totals)>> {
        let (key, column) = report_key(by);
        self.file
            .read(|connection| {
                let sql = format!(
                    "SELECT {key}, {TOTALS} FROM books \
                     WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR {key} > ?3) \
                     GROUP BY {column} ORDER BY {column} LIMIT ?4"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement
                    .query_map(params![at_most(first), at_most(last), after, limit], totals)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn top(
        &self,
        by: ReportBy,
        (first, last): (u64, u64),
        limit: u32,
    ) -> Result<Vec<(String, Totals)>> {
        let (key, column) = report_key(by);
        self.file
            .read(|connection| {
                let sql = format!(
                    "SELECT {key}, {TOTALS} FROM books WHERE day BETWEEN ?1 AND ?2 \
                     GROUP BY {column} ORDER BY sum(gross) + sum(net) DESC, {column} LIMIT ?3"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let rows =
                    statement.query_map(params![at_most(first), at_most(last), limit], totals)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn runs(&self, (first, last): (u64, u64)) -> Result<BTreeMap<(String, Ran), u64>> {
        self.file
            .read(|connection| {
                let sql = "SELECT route, within_ms, sum(runs) FROM runs \
                           WHERE day BETWEEN ?1 AND ?2 GROUP BY route, within_ms";
                let mut statement = connection.prepare_cached(sql)?;
                let rows = statement.query_map([at_most(first), at_most(last)], |row| {
                    Ok(((row.get(0)?, Ran::from_number(row.get(1)?)), number(row, 2)?))
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn calls(&self, id: TransactionId) -> Result<Vec<CallRow>> {
        self.file
            .read(|connection| {
                let sql = "SELECT key, position, content_hash, answered_at FROM calls \
                           WHERE payment = ?1 AND state = 1 ORDER BY position";
                let mut statement = connection.prepare_cached(sql)?;
                let rows = statement.query_map([id.as_slice()], call_row)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn piece(&self, call: &CallId, number: u64) -> Result<Vec<u8>> {
        self.file
            .read(|connection| {
                let sql = "SELECT bytes FROM pieces \
                           WHERE payment = ?1 AND key = ?2 AND number = ?3";
                let mut statement = connection.prepare_cached(sql)?;
                let piece = params![call.transaction.as_slice(), call.key, number as i64];
                let bytes = statement.query_row(piece, |row| row.get(0)).optional()?;
                Ok(bytes.unwrap_or_default())
            })
            .await
    }

    async fn answered(&self, call: &CallId) -> Result<Option<CallRow>> {
        self.file
            .read(|connection| {
                let sql = "SELECT key, position, content_hash, answered_at FROM calls \
                           WHERE payment = ?1 AND key = ?2 AND state = 1";
                let mut statement = connection.prepare_cached(sql)?;
                let call = params![call.transaction.as_slice(), call.key];
                Ok(statement.query_row(call, call_row).optional()?)
            })
            .await
    }

    async fn request(&self, call: &CallId) -> Result<Option<KeptRequest>> {
        self.file
            .read(|connection| {
                let sql = "SELECT request, body FROM requests WHERE payment = ?1 AND key = ?2";
                let mut statement = connection.prepare_cached(sql)?;
                let call = params![call.transaction.as_slice(), call.key];
                let kept = statement.query_row(call, |row| {
                    KeptRequest::from_json(row.get_ref(0)?.as_blob()?, row.get(1)?).map_err(
                        |error| {
                            let source = Box::new(error);
                            rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, source)
                        },
                    )
                });
                Ok(kept.optional()?)
            })
            .await
    }

    async fn keep_tree(&self, id: TransactionId, levels: &[Vec<B256>]) -> Result<()> {
        let levels = levels.to_vec();
        self.write(move |connection| {
            let sql = "INSERT OR IGNORE INTO trees (payment, level, number, hashes) \
                       VALUES (?1, ?2, ?3, ?4)";
            let mut statement = connection.prepare_cached(sql)?;
            for (level, hashes) in levels.iter().enumerate() {
                for (number, row) in rows_of_level(hashes) {
                    statement.execute(params![id.as_slice(), level as i64, number as i64, row])?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn nodes(&self, id: TransactionId, places: &[(u32, u64)]) -> Result<Vec<B256>> {
        self.file
            .read(|connection| {
                let sql = "SELECT hashes FROM trees \
                           WHERE payment = ?1 AND level = ?2 AND number = ?3";
                let mut statement = connection.prepare_cached(sql)?;
                let mut nodes = vec![];
                for (level, place) in places {
                    let (number, at) = row_of_node(*place);
                    let row = params![id.as_slice(), level, number as i64];
                    let found = statement
                        .query_row(row, |row| Ok(node_in_row(row.get_ref(0)?.as_blob()?, at)));
                    nodes.extend(found.optional()?.flatten());
                }
                Ok(nodes)
            })
            .await
    }

    async fn set_content_hash(&self, id: TransactionId, hash: B256) -> Result<B256> {
        self.write(move |connection| {
            let sql = "UPDATE payments SET content_hash = coalesce(content_hash, ?2) WHERE id = ?1 \
                       RETURNING content_hash";
            let mut statement = connection.prepare_cached(sql)?;
            let stands = statement
                .query_row(params![id.as_slice(), hash.as_slice()], |row| self::hash(row, 0));
            Ok(stands.optional()?.unwrap_or(hash))
        })
        .await
    }

    async fn settle(&self, id: TransactionId, stage: Stage, outcome: &Outcome) -> Result<bool> {
        let (outcome, keeps) = (outcome.clone(), self.keeps_webhooks.load(Ordering::Relaxed));
        self.write(move |connection| {
            let done = match &outcome {
                Outcome::Moved { to, trouble, entry } => {
                    let sql = "UPDATE payments SET stage = ?3, since = ?4, next_try = 0, tries = 0, \
                               trouble = ?5 WHERE id = ?1 AND stage = ?2";
                    let from = stage.number();
                    let moved = connection.prepare_cached(sql)?.execute(params![
                        id.as_slice(),
                        from,
                        to.number(),
                        now_ms(),
                        trouble
                    ])?;
                    if moved > 0 {
                        book(connection, id, stage, *to, entry)?;
                        keep_webhook(connection, keeps, id, (stage, *to), entry)?;
                    }
                    let sql = "DELETE FROM calls WHERE payment = ?1 AND state = 2";
                    if moved > 0 && to.is_closed() {
                        connection.prepare_cached(sql)?.execute([id.as_slice()])?;
                    }
                    moved
                }
                Outcome::NotBefore { settle_at } => connection
                    .prepare_cached(
                        "UPDATE payments SET settle_at = ?3 WHERE id = ?1 AND stage = ?2",
                    )?
                    .execute(params![id.as_slice(), stage.number(), *settle_at as i64])?,
                Outcome::Later { after, trouble } => connection
                    .prepare_cached(
                        "UPDATE payments SET tries = tries + 1, next_try = ?3, trouble = ?4 \
                         WHERE id = ?1 AND stage = ?2",
                    )?
                    .execute(params![
                        id.as_slice(),
                        stage.number(),
                        now_ms() + ms(*after),
                        trouble
                    ])?,
            };
            Ok(done > 0)
        })
        .await
    }

    async fn spend(&self, id: TransactionId, at: u64, gas: u64) -> Result<()> {
        self.write(move |connection| {
            let sql = "UPDATE payments SET gas = gas + ?2 WHERE id = ?1 RETURNING requester";
            let known = connection
                .prepare_cached(sql)?
                .query_row(params![id.as_slice(), at_most(gas)], |row| row.get::<_, [u8; 20]>(0));
            let Some(requester) = known.optional()? else { return Ok(()) };
            let spent = Totals { gas, ..Totals::default() };
            enter_in_books(connection, id, requester, at, spent)
        })
        .await
    }

    async fn lease(&self, name: &str, owner: Owner, lease: Duration) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |connection| storage::take_lease(connection, &name, owner, lease)).await
    }

    async fn backlog(&self, now: u64, least: Usdc) -> Result<Backlog> {
        self.file
            .read(|connection| {
                let mut statement = connection.prepare_cached(BACKLOG)?;
                Ok(statement.query_row([now as i64, at_most(least.0)], |row| {
                    Ok(Backlog {
                        deliveries: number(row, 0)?,
                        returns: number(row, 1)?,
                        open: number(row, 2)?,
                        lost: number(row, 3)?,
                        oldest: row.get::<_, Option<i64>>(4)?.map_or(Duration::ZERO, age),
                        trouble: row.get(5)?,
                        delivered: number(row, 6)?,
                        due: number(row, 7)?,
                        small: number(row, 8)?,
                        due_since: row.get::<_, Option<i64>>(9)?.map(|since| since as u64),
                        disputed: number(row, 10)?,
                        expected: Usdc(number(row, 11)?),
                        next_at: row.get::<_, Option<i64>>(12)?.map(|at| at as u64),
                        webhooks: number(row, 13)?,
                    })
                })?)
            })
            .await
    }

    async fn count(&self, more: &Counters, runs: &Runs) -> Result<()> {
        let (more, runs) = (more.clone(), runs.clone());
        self.write(move |connection| {
            let sql = "INSERT INTO counters (name, value) VALUES (?1, ?2) \
                       ON CONFLICT (name) DO UPDATE SET value = value + excluded.value";
            let mut statement = connection.prepare_cached(sql)?;
            for (name, value) in &more {
                statement.execute(params![name, *value as i64])?;
            }
            let sql = "INSERT INTO runs (day, route, within_ms, runs) VALUES (?1, ?2, ?3, ?4) \
                       ON CONFLICT DO UPDATE SET runs = runs + excluded.runs";
            let mut statement = connection.prepare_cached(sql)?;
            for ((day, route, ran), count) in &runs {
                statement.execute(params![at_most(*day), route, ran.number(), *count as i64])?;
            }
            Ok(())
        })
        .await
    }

    async fn counters(&self) -> Result<Counters> {
        self.file
            .read(|connection| {
                let sql = "SELECT name, value FROM counters";
                let mut statement = connection.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, number(row, 1)?)))?;
                let mut counters = rows.collect::<rusqlite::Result<Counters>>()?;
                let sql = "SELECT route, calls, revenue FROM totals";
                let mut statement = connection.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| {
                    Ok((row.get::<_, String>(0)?, number(row, 1)?, number(row, 2)?))
                })?;
                for row in rows {
                    let (route, calls, revenue) = row?;
                    // What came from another store stands among the counters.
                    *counters.entry(super::calls_counter(&route)).or_default() += calls;
                    *counters.entry(super::revenue_counter(&route)).or_default() += revenue;
                }
                Ok(counters)
            })
            .await
    }

    async fn prune(&self, age: Duration, now: u64, limit: u32) -> Result<u64> {
        let provider = self.provider;
        self.write(move |connection| {
            let before = now_ms() - ms(age);
            let sql = "SELECT id FROM payments WHERE stage IN (4, 5, 6, 7) AND since < ?1 \
                       AND deadline < ?2 AND coalesce(provider, ?4) = ?4 LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let old = params![before, now as i64, limit, provider.as_slice()];
            let rows = statement.query_map(old, |row| row.get(0))?;
            let ids = rows.collect::<rusqlite::Result<Vec<Vec<u8>>>>()?;
            for id in &ids {
                for sql in [
                    "DELETE FROM pieces WHERE payment = ?1",
                    "DELETE FROM requests WHERE payment = ?1",
                    "DELETE FROM trees WHERE payment = ?1",
                    "DELETE FROM calls WHERE payment = ?1",
                    "DELETE FROM payments WHERE id = ?1",
                ] {
                    connection.prepare_cached(sql)?.execute([id])?;
                }
            }
            Ok(ids.len() as u64)
        })
        .await
    }

    fn keep_webhooks(&self) {
        self.keeps_webhooks.store(true, Ordering::Relaxed);
    }

    async fn webhooks(&self, limit: u32) -> Result<Vec<WebhookRow>> {
        self.file
            .read(|connection| {
                let sql = "SELECT number, id, payment, requester, amount, name, at, net, gas, tries \
                           FROM webhooks w WHERE next_try <= ?1 AND NOT EXISTS (SELECT 1 \
                           FROM webhooks e WHERE e.payment = w.payment AND e.number < w.number) \
                           ORDER BY number LIMIT ?2";
                let mut statement = connection.prepare_cached(sql)?;
                let rows = statement.query_map(params![now_ms(), limit], |row| {
                    Ok(WebhookRow {
                        number: row.get(0)?,
                        id: row.get(1)?,
                        payment: hash(row, 2)?,
                        requester: Address::from(row.get::<_, [u8; 20]>(3)?),
                        amount: Usdc(number(row, 4)?),
                        name: row.get(5)?,
                        at: number(row, 6)?,
                        net: row.get::<_, Option<i64>>(7)?.map(|net| Usdc(net as u64)),
                        gas: number(row, 8)?,
                        tries: row.get(9)?,
                    })
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn webhook_told(&self, number: i64) -> Result<()> {
        self.write(move |connection| {
            let sql = "DELETE FROM webhooks WHERE number = ?1";
            Ok(connection.prepare_cached(sql)?.execute([number]).map(drop)?)
        })
        .await
    }

    async fn webhook_later(&self, number: i64, after: Duration) -> Result<()> {
        self.write(move |connection| {
            let sql = "UPDATE webhooks SET tries = tries + 1, next_try = ?2 WHERE number = ?1";
            let until = now_ms() + ms(after);
            Ok(connection.prepare_cached(sql)?.execute(params![number, until]).map(drop)?)
        })
        .await
    }

    async fn expire_webhooks(&self, age: Duration, most: u32) -> Result<u64> {
        self.write(move |connection| {
            let sql = "DELETE FROM webhooks WHERE since < ?1 OR number <= \
                       (SELECT number FROM webhooks ORDER BY number DESC LIMIT 1 OFFSET ?2)";
            let before = now_ms() - ms(age);
            Ok(connection.prepare_cached(sql)?.execute(params![before, most])? as u64)
        })
        .await
    }

    async fn restored(&self, now: u64) -> Result<Option<u64>> {
        self.write(move |connection| {
            connection.execute("UPDATE restored SET at = ?1 WHERE at = 0", [now as i64])?;
            let at: Option<i64> =
                connection.query_row("SELECT max(at) FROM restored", [], |row| row.get(0))?;
            Ok(at.map(|at| at as u64))
        })
        .await
    }

    async fn strangers(&self) -> Result<Vec<Stranger>> {
        let Some(state) = self.file.path().and_then(Path::parent) else { return Ok(vec![]) };
        let names = fs::read_dir(state).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let providers: Vec<_> = names
            .filter_map(|name| {
                let name = name.strip_prefix("paywall-")?.strip_suffix(".sqlite3")?;
                self.scope.provider_of(name)
            })
            .collect();
        let mut found = vec![];
        for provider in providers {
            let Some(directory) = state.parent() else { continue };
            let storage = Storage::Directory(directory.to_owned());
            let other = Self::open(storage, &Scope { provider, ..self.scope }, true).await?;
            found.extend(other.untended().await?);
        }
        Ok(found)
    }

    async fn moved_to(&self) -> Result<Option<String>> {
        self.file
            .read(|connection| {
                let sql = "SELECT CAST(value AS TEXT) FROM meta WHERE name = 'moved'";
                Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?)
            })
            .await
    }

    async fn move_to(&self, place: Option<&str>) -> Result<()> {
        let place = place.map(|place| place.as_bytes().to_vec());
        self.write(move |connection| {
            let sql = match place {
                Some(_) => "INSERT OR REPLACE INTO meta (name, value) VALUES ('moved', ?1)",
                None => "DELETE FROM meta WHERE name = 'moved' AND ?1 IS NULL",
            };
            connection.prepare_cached(sql)?.execute([&place])?;
            Ok(())
        })
        .await
    }

    async fn tidy(&self) -> Result<()> {
        self.file.checkpoint().await
    }
}

/// A call's row, as far as a claim looks at it.
struct Call {
    digest: Vec<u8>,
    state: i64,
    attempt: u32,
    lease_until: i64,
    price: Usdc,
    kept: Option<Kept>,
}

impl Call {
    /// Of a claim that runs.
    fn lease_left(&self, now: i64) -> Option<Duration> {
        let left = u64::try_from(self.lease_until - now).ok().filter(|left| *left > 0);
        left.filter(|_| self.state == RUNNING).map(Duration::from_millis)
    }
}

fn claim(connection: &Connection, provider: Address, request: &ClaimRequest) -> Attempt<Claimed> {
    let id = request.facts.id;
    let earlier = call(connection, id, &request.key)?;
    if let Some(earlier) = &earlier {
        if earlier.digest != request.digest.as_slice() {
            return Ok(Claimed::OtherRequest);
        }
        if let Some(kept) = &earlier.kept {
            return Ok(Claimed::Answered(kept.clone()));
        }
    }
    let now = now_ms();
    if let Some(lease_left) = earlier.as_ref().and_then(|earlier| earlier.lease_left(now)) {
        return Ok(Claimed::Running { lease_left });
    }
    let is_keyed = !request.key.is_empty();
    match payment_and_kind(connection, provider, id)? {
        None => {
            let amount = request.facts.amount;
            if amount < request.least || amount < request.price {
                return Ok(Claimed::NoBalance { left: amount });
            }
            insert(connection, provider, &request.facts, Some(is_keyed), Stage::Open)?;
            reserve(connection, id, request.price.0 as i64)?;
        }
        Some((payment, kind)) => {
            if payment.stage != Stage::Open {
                return Ok(Claimed::Closed(payment.stage));
            }
            if kind.is_some_and(|kind| kind != is_keyed) {
                return Ok(Claimed::OtherKind);
            }
            if let Some(left) = rest_left(connection, id, request.give_up_after, now)? {
                return Ok(Claimed::Resting { left });
            }
            if earlier.as_ref().is_some_and(|earlier| earlier.state == RUNNING) {
                count_failure(connection, id)?;
            }
            // A claim whose process died holds its price still.
            let held = match &earlier {
                Some(Call { state: RUNNING, price, .. }) => *price,
                _ => Usdc::ZERO,
            };
            let left = payment.facts.amount.0 - payment.spent.0 - (payment.reserved.0 - held.0);
            if left < request.price.0 {
                return Ok(Claimed::NoBalance { left: Usdc(left) });
            }
            reserve(connection, id, request.price.0 as i64 - held.0 as i64)?;
        }
    }
    let attempt = earlier.map_or(0, |earlier| earlier.attempt).saturating_add(1);
    let sql = "INSERT INTO calls (payment, key, digest, state, owner, attempt, lease_until, price) \
               VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7) ON CONFLICT (payment, key) DO UPDATE SET \
               state = 0, owner = excluded.owner, attempt = excluded.attempt, \
               lease_until = excluded.lease_until, price = excluded.price";
    connection.prepare_cached(sql)?.execute(params![
        id.as_slice(),
        request.key,
        request.digest.as_slice(),
        request.owner.as_slice(),
        attempt,
        now + ms(request.lease),
        request.price.0 as i64,
    ])?;
    Ok(Claimed::Run { attempt })
}

fn answer(connection: &Connection, provider: Address, request: &AnswerRequest) -> Attempt<Ended> {
    let AnswerRequest { claim, answer, .. } = request;
    let id = claim.call.transaction;
    let Some(before) = payment(connection, provider, id)? else { return Ok(Ended::TakenOver) };
    if before.stage != Stage::Open {
        return too_late(connection, claim);
    }
    // Pairs of text and bytes always have JSON.
    let headers =
        answer.as_ref().map(|answer| serde_json::to_vec(&answer.headers).unwrap_or_default());
    let body = answer.as_ref().map(|answer| answer.body.as_slice());
    let long = body.filter(|body| body.len() > PIECE_BYTES);
    let sql = "UPDATE calls SET state = 1, position = ?5, content_hash = ?6, answered_at = ?7, \
               status = ?8, headers = ?9, body = ?10, length = ?11, route = ?12 \
               WHERE payment = ?1 AND key = ?2 AND state = 0 AND owner = ?3 AND attempt = ?4";
    let ended = connection.prepare_cached(sql)?.execute(params![
        id.as_slice(),
        claim.call.key,
        claim.owner.as_slice(),
        claim.attempt,
        before.calls as i64,
        request.content_hash.as_slice(),
        request.answered_at as i64,
        answer.as_ref().map(|answer| answer.status),
        headers,
        body.filter(|_| long.is_none()),
        long.map(|body| body.len() as i64),
        request.route,
    ])?;
    if ended == 0 {
        return Ok(Ended::TakenOver);
    }
    if let Some(body) = long {
        let sql = "INSERT INTO pieces (payment, key, number, bytes) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = connection.prepare_cached(sql)?;
        for (number, bytes) in (0_i64..).zip(body.chunks(PIECE_BYTES)) {
            statement.execute(params![id.as_slice(), claim.call.key, number, bytes])?;
        }
    }
    if let Some(request) = &request.request {
        let sql = "INSERT INTO requests (payment, key, request, body) VALUES (?1, ?2, ?3, ?4)";
        connection.prepare_cached(sql)?.execute(params![
            id.as_slice(),
            claim.call.key,
            request.to_json(),
            request.body.as_ref().map(|body| &body[..]),
        ])?;
    }
    let sql = "UPDATE payments SET reserved = reserved - ?2, spent = spent + ?2, \
               calls = calls + 1, answered_at = ?3, failures = 0 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![
        id.as_slice(),
        claim.price.0 as i64,
        request.answered_at as i64
    ])?;
    let sql = "INSERT INTO totals (route, calls, revenue) VALUES (?1, 1, ?2) ON CONFLICT (route) \
               DO UPDATE SET calls = calls + 1, revenue = revenue + excluded.revenue";
    connection.prepare_cached(sql)?.execute(params![request.route, claim.price.0 as i64])?;
    let taken = Totals { calls: 1, gross: claim.price.0, ..Totals::default() };
    let requester = before.facts.requester;
    add_to_books(connection, request.answered_at / DAY, &request.route, requester, &taken)?;
    let left = before.facts.amount.0 - before.spent.0 - claim.price.0;
    let index = before.calls;
    if before.reserved == claim.price && left < request.close_below.0 {
        enter(connection, id, Stage::Delivering)?;
        return Ok(Ended::Done { stage: Stage::Delivering, index });
    }
    Ok(Ended::Done { stage: Stage::Open, index })
}

/// Enters a move on chain in the books.
fn book(
    connection: &Connection,
    id: TransactionId,
    from: Stage,
    to: Stage,
    entry: &Entry,
) -> Attempt<()> {
    let Entry { at, gas, settle_at, payout, .. } = *entry;
    // A chain may take a settlement back, and a node may have made one up: it is booked once.
    let sql = "SELECT settled_at > 0 FROM payments WHERE id = ?1";
    let is_booked = connection.prepare_cached(sql)?.query_row([id.as_slice()], |row| row.get(0))?;
    let sql = "UPDATE payments SET gas = gas + ?2, \
               delivered_at = CASE WHEN ?3 = 2 THEN ?4 ELSE delivered_at END, \
               settle_at = CASE WHEN ?3 = 2 THEN ?5 ELSE settle_at END, \
               settled_at = CASE WHEN ?3 = 7 THEN ?4 ELSE settled_at END, \
               arrived = ?6, fee = ?7 WHERE id = ?1 RETURNING requester";
    let requester: [u8; 20] = connection.prepare_cached(sql)?.query_row(
        params![
            id.as_slice(),
            at_most(gas),
            to.number(),
            at as i64,
            settle_at as i64,
            payout.map(|payout| at_most(payout.net.0)),
            payout.map(|payout| at_most(payout.fee.0))
        ],
        |row| row.get(0),
    )?;
    let totals = match to {
        Stage::Settled if is_booked => Totals { gas, ..Totals::default() },
        _ => Totals::of_move(from, to, gas, payout),
    };
    enter_in_books(connection, id, requester, at, totals)
}

/// Adds to the counters, and to the books of the routes that a payment's calls were made of.
fn enter_in_books(
    connection: &Connection,
    id: TransactionId,
    requester: [u8; 20],
    at: u64,
    totals: Totals,
) -> Attempt<()> {
    if totals == Totals::default() {
        return Ok(());
    }
    let sql = "INSERT INTO counters (name, value) VALUES (?1, ?2) \
               ON CONFLICT (name) DO UPDATE SET value = value + excluded.value";
    let mut statement = connection.prepare_cached(sql)?;
    for (name, value) in MOVES.into_iter().zip(totals.of_moves()) {
        statement.execute(params![name, value as i64])?;
    }
    let sql = "SELECT route, sum(price) FROM calls WHERE payment = ?1 AND state = 1 \
               GROUP BY route ORDER BY 2 DESC, 1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement
        .query_map([id.as_slice()], |row| Ok((row.get::<_, String>(0)?, number(row, 1)?)))?;
    let routes = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    for (route, share) in totals.shared_out(routes) {
        add_to_books(connection, at / DAY, &route, Address::from(requester), &share)?;
    }
    Ok(())
}

/// Keeps the event of a move until the application was told.
fn keep_webhook(
    connection: &Connection,
    keeps: bool,
    id: TransactionId,
    (from, to): (Stage, Stage),
    entry: &Entry,
) -> Attempt<()> {
    let Some(name) = money_event(from, to, entry.is_resolved).filter(|_| keeps) else {
        return Ok(());
    };
    let sql = "INSERT INTO webhooks (payment, requester, amount, name, at, net, gas, since) \
               SELECT id, requester, amount, ?2, ?3, ?4, ?5, ?6 FROM payments WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![
        id.as_slice(),
        name,
        at_most(entry.at),
        entry.payout.map(|payout| at_most(payout.net.0)),
        at_most(entry.gas),
        now_ms(),
    ])?;
    Ok(())
}

fn add_to_books(
    connection: &Connection,
    day: u64,
    route: &str,
    requester: Address,
    more: &Totals,
) -> Attempt<()> {
    let sql = "INSERT INTO books (day, route, requester, calls, gross, settled, paid_out, fee, net, \
               gas, refunded, disputed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
               ON CONFLICT (day, route, requester) DO UPDATE SET calls = calls + excluded.calls, \
               gross = gross + excluded.gross, settled = settled + excluded.settled, \
               paid_out = paid_out + excluded.paid_out, fee = fee + excluded.fee, \
               net = net + excluded.net, gas = gas + excluded.gas, \
               refunded = refunded + excluded.refunded, disputed = disputed + excluded.disputed";
    connection.prepare_cached(sql)?.execute(params![
        day as i64,
        route,
        requester.as_slice(),
        more.calls as i64,
        more.gross as i64,
        more.settled as i64,
        more.paid_out as i64,
        more.fee as i64,
        more.net as i64,
        more.gas as i64,
        more.refunded as i64,
        more.disputed as i64,
    ])?;
    Ok(())
}

/// What a report has a row for: its key, and the column.
const fn report_key(by: ReportBy) -> (&'static str, &'static str) {
    match by {
        ReportBy::Day => ("date(day * 86400, 'unixepoch')", "day"),
        ReportBy::Route => ("route", "route"),
        ReportBy::Customer => ("'0x' || lower(hex(requester))", "requester"),
    }
}

/// What is owed, and what waits. An index that holds some stages is found by its own words alone.
const BACKLOG: &str = "SELECT (SELECT count(*) FROM payments WHERE stage = 1 AND stage IN (1, 3)), \
    (SELECT count(*) FROM payments WHERE stage = 3 AND stage IN (1, 3)), \
    (SELECT count(*) FROM payments WHERE stage = 0 AND stage IN (0, 2, 8)), \
    (SELECT count(*) FROM payments WHERE stage = 5), \
    (SELECT min(since) FROM payments WHERE stage IN (1, 3)), \
    (SELECT trouble FROM payments WHERE stage IN (1, 3) AND trouble IS NOT NULL \
     ORDER BY since LIMIT 1), \
    (SELECT count(*) FROM payments WHERE stage = 2 AND stage IN (0, 2, 8)), \
    (SELECT count(*) FROM payments WHERE stage = 2 AND settle_at < ?1), \
    (SELECT count(*) FROM payments WHERE stage = 2 AND settle_at < ?1 \
     AND net < ?2), \
    (SELECT min(settle_at) FROM payments WHERE stage = 2 AND settle_at < ?1 \
     AND net >= ?2), \
    (SELECT count(*) FROM payments WHERE stage = 8 AND stage IN (0, 2, 8)), \
    (SELECT coalesce(sum(net), 0) FROM payments WHERE stage = 2) \
    + (SELECT coalesce(sum(net), 0) FROM payments WHERE stage = 1 \
       AND stage IN (1, 3)), \
    (SELECT min(settle_at) FROM payments WHERE stage = 2 AND settle_at >= ?1), \
    (SELECT count(*) FROM webhooks)";

const TOTALS: &str = "sum(calls), sum(gross), sum(settled), sum(paid_out), sum(fee), sum(net), \
                      sum(gas), sum(refunded), sum(disputed)";

/// From a key and [`TOTALS`].
fn totals(row: &Row<'_>) -> rusqlite::Result<(String, Totals)> {
    let totals = Totals {
        calls: number(row, 1)?,
        gross: number(row, 2)?,
        settled: number(row, 3)?,
        paid_out: number(row, 4)?,
        fee: number(row, 5)?,
        net: number(row, 6)?,
        gas: number(row, 7)?,
        refunded: number(row, 8)?,
        disputed: number(row, 9)?,
    };
    Ok((row.get(0)?, totals))
}

/// Why a claim could not end as it wanted.
fn too_late(connection: &Connection, claim: &Claim) -> Attempt<Ended> {
    let Claim { call, owner, attempt, .. } = claim;
    let sql = "SELECT 1 FROM calls WHERE payment = ?1 AND key = ?2 AND state = 0 \
               AND owner = ?3 AND attempt = ?4";
    let is_latest = connection.prepare_cached(sql)?.exists(params![
        call.transaction.as_slice(),
        call.key,
        owner.as_slice(),
        attempt
    ])?;
    Ok(if is_latest { Ended::Closed } else { Ended::TakenOver })
}

/// Frees a running claim, if it is still the latest attempt.
fn fail_claim(connection: &Connection, claim: &Claim) -> Attempt<bool> {
    let sql = "UPDATE calls SET state = 2 WHERE payment = ?1 AND key = ?2 AND state = 0 \
               AND owner = ?3 AND attempt = ?4";
    let Claim { call, owner, attempt, .. } = claim;
    let id = call.transaction.as_slice();
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.execute(params![id, call.key, owner.as_slice(), attempt])? > 0)
}

/// Counts a run that failed or got lost; how many did since the last answer.
fn count_failure(connection: &Connection, id: TransactionId) -> Attempt<u32> {
    let sql = "UPDATE payments SET failures = failures + 1, failed_at = ?2 WHERE id = ?1 \
               RETURNING failures";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(params![id.as_slice(), now_ms()], |row| row.get(0))?)
}

/// How much longer a payment rests whose runs failed too often.
fn rest_left(
    connection: &Connection,
    id: TransactionId,
    give_up_after: u32,
    now: i64,
) -> Attempt<Option<Duration>> {
    let sql = "SELECT failures, failed_at FROM payments WHERE id = ?1";
    let (failures, failed_at): (u32, i64) = connection
        .prepare_cached(sql)?
        .query_row([id.as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(more) = failures.checked_sub(give_up_after) else { return Ok(None) };
    let left = failed_at + (1_000 << more.min(REST_DOUBLINGS)) - now;
    Ok(u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis))
}

/// Where a payment goes of which nothing was served.
const fn unserved(facts: &Facts) -> Stage {
    if facts.bound { Stage::Returning } else { Stage::Left }
}

/// Holds so many base units more of a payment, or fewer.
fn reserve(connection: &Connection, id: TransactionId, more: i64) -> Attempt<()> {
    let sql = "UPDATE payments SET reserved = reserved + ?2 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![id.as_slice(), more])?;
    Ok(())
}

fn insert(
    connection: &Connection,
    provider: Address,
    facts: &Facts,
    keyed: Option<bool>,
    stage: Stage,
) -> Attempt<()> {
    let sql = "INSERT OR IGNORE INTO payments \
               (id, requester, amount, deadline, window, keyed, stage, since, bound, provider, net, \
               opened_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?8 / 1000)";
    connection.prepare_cached(sql)?.execute(params![
        facts.id.as_slice(),
        facts.requester.as_slice(),
        facts.amount.0 as i64,
        facts.deadline as i64,
        facts.window_seconds as i64,
        keyed,
        stage.number(),
        now_ms(),
        facts.bound,
        provider.as_slice(),
        facts.net.0 as i64,
    ])?;
    Ok(())
}

/// Moves an open payment on.
fn enter(connection: &Connection, id: TransactionId, stage: Stage) -> Attempt<()> {
    let sql = "UPDATE payments SET stage = ?2, since = ?3, next_try = 0, tries = 0, trouble = NULL \
               WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![id.as_slice(), stage.number(), now_ms()])?;
    Ok(())
}

fn is_running(connection: &Connection, id: TransactionId) -> Attempt<bool> {
    let sql = "SELECT 1 FROM calls WHERE payment = ?1 AND state = 0 AND lease_until > ?2";
    Ok(connection.prepare_cached(sql)?.exists(params![id.as_slice(), now_ms()])?)
}

fn call(connection: &Connection, id: TransactionId, key: &str) -> Attempt<Option<Call>> {
    let sql = "SELECT digest, state, attempt, lease_until, price, position, content_hash, \
               answered_at, status, headers, body, length FROM calls WHERE payment = ?1 AND key = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row(params![id.as_slice(), key], |row| {
        let state = row.get(1)?;
        let kept = if state == ANSWERED {
            Some(Kept {
                index: number(row, 5)?,
                content_hash: hash(row, 6)?,
                answered_at: number(row, 7)?,
                answer: kept_answer(row)?,
            })
        } else {
            None
        };
        Ok(Call {
            digest: row.get(0)?,
            state,
            attempt: row.get(2)?,
            lease_until: row.get(3)?,
            price: Usdc(number(row, 4)?),
            kept,
        })
    });
    Ok(found.optional()?)
}

fn call_row(row: &Row<'_>) -> rusqlite::Result<CallRow> {
    Ok(CallRow {
        key: row.get(0)?,
        index: number(row, 1)?,
        content_hash: hash(row, 2)?,
        answered_at: number(row, 3)?,
    })
}

fn kept_answer(row: &Row<'_>) -> rusqlite::Result<Option<KeptAnswer>> {
    let Some(status) = row.get(8)? else { return Ok(None) };
    let headers: Vec<u8> = row.get(9)?;
    let headers = serde_json::from_slice(&headers).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(9, Type::Blob, Box::new(error))
    })?;
    let body = match row.get::<_, Option<i64>>(11)? {
        Some(_) => KeptBody::Pieces { length: number(row, 11)? },
        None => KeptBody::Whole(row.get(10)?),
    };
    Ok(Some(KeptAnswer { status, headers, body }))
}

fn payment(
    connection: &Connection,
    provider: Address,
    id: TransactionId,
) -> Attempt<Option<Payment>> {
    Ok(payment_and_kind(connection, provider, id)?.map(|(payment, _)| payment))
}

/// Nothing is done with another provider's payment, however it came to be here.
fn payment_and_kind(
    connection: &Connection,
    provider: Address,
    id: TransactionId,
) -> Attempt<Option<(Payment, Option<bool>)>> {
    // The text is as long as it lives: this runs with every claim.
    let mut statement = connection.prepare_cached(PAYMENT_OF)?;
    let found = statement.query_row([id.as_slice()], |row| {
        let payment = read_payment(id, row)?;
        Ok((payment, row.get(13)?, row.get::<_, Option<[u8; 20]>>(11)?))
    });
    match found.optional()? {
        Some((.., Some(other))) if other != provider => Err(Error::new(
            Code::StorageDamaged,
            format!("{id} is a payment to {}, not to {provider}", Address::from(other)),
        )
        .into()),
        found => Ok(found.map(|(payment, kind, _)| (payment, kind))),
    }
}

const PAYMENT_OF: &str = concat!("SELECT ", payment!(), ", keyed FROM payments WHERE id = ?1");

/// From the columns of [`payment!`], which must be the first.
fn read_payment(id: TransactionId, row: &Row<'_>) -> rusqlite::Result<Payment> {
    Ok(Payment {
        facts: facts(id, row, 0)?,
        stage: stage(row, 6)?,
        spent: Usdc(number(row, 7)?),
        reserved: Usdc(number(row, 8)?),
        calls: number(row, 9)?,
        content_hash: optional_hash(row, 10)?,
        trouble: row.get(12)?,
    })
}

/// A payment with its story.
const PAYMENT_ROW: &str =
    concat!(payment!(), ", id, opened_at, delivered_at, settle_at, settled_at, gas, arrived, fee");

/// From [`PAYMENT_ROW`].
fn payment_row(row: &Row<'_>) -> rusqlite::Result<PaymentRow> {
    Ok(PaymentRow {
        payment: read_payment(hash(row, 13)?, row)?,
        opened_at: number(row, 14)?,
        delivered_at: number(row, 15)?,
        settle_at: number(row, 16)?,
        settled_at: number(row, 17)?,
        gas: number(row, 18)?,
        payout: match (row.get::<_, Option<i64>>(19)?, row.get::<_, Option<i64>>(20)?) {
            (Some(net), Some(fee)) => Some(Payout { net: Usdc(net as u64), fee: Usdc(fee as u64) }),
            _ => None,
        },
    })
}

const DUTY: &str = "id, requester, amount, deadline, window, net, bound, stage, content_hash, \
                    answered_at, tries, since, settle_at";

fn duty(row: &Row<'_>) -> rusqlite::Result<Duty> {
    Ok(Duty {
        facts: facts(hash(row, 0)?, row, 1)?,
        stage: stage(row, 7)?,
        content_hash: optional_hash(row, 8)?,
        answered_at: number(row, 9)?,
        tries: row.get(10)?,
        age: age(row.get(11)?),
        settle_at: number(row, 12)?,
    })
}

/// Requester, amount, deadline, window, net amount and whether it is bound, from this column on.
fn facts(id: TransactionId, row: &Row<'_>, first: usize) -> rusqlite::Result<Facts> {
    let requester: [u8; 20] = row.get(first)?;
    Ok(Facts {
        id,
        requester: Address::from(requester),
        amount: Usdc(number(row, first + 1)?),
        deadline: number(row, first + 2)?,
        window_seconds: number(row, first + 3)?,
        net: Usdc(number(row, first + 4)?),
        bound: row.get(first + 5)?,
    })
}

fn stage(row: &Row<'_>, column: usize) -> rusqlite::Result<Stage> {
    let number: i16 = row.get(column)?;
    Stage::from_number(number)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number.into()))
}

fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<B256> {
    Ok(B256::from(row.get::<_, [u8; 32]>(column)?))
}

fn optional_hash(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<B256>> {
    Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(B256::from))
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// A number that is compared, where everything beyond the range is as much as the range's end.
fn at_most(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn age(since: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms() - since).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::paywall::store::conformance;

    /// Two handles of one file, as two workers have them.
    async fn file() -> (SqliteStore, SqliteStore, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let open = async || {
            let storage = Storage::Directory(directory.path().to_owned());
            SqliteStore::open(storage, &Scope::of("test"), true).await.unwrap()
        };
        (open().await, open().await, directory)
    }

    conformance::suite!(file);

    /// What has ended is most of a store, and is kept for a month.
    #[tokio::test]
    async fn what_has_ended_costs_metrics_nothing() {
        let (store, _other, _directory) = file().await;
        let plan = store.file.read(|connection| {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {BACKLOG}"))?;
            let lines = statement.query_map([0, 0], |row| row.get::<_, String>(3))?;
            Ok(lines.collect::<Result<Vec<_>, _>>()?)
        });
        let reads: Vec<_> = plan.await.unwrap();
        let of_payments: Vec<_> = reads.iter().filter(|line| line.contains(" payments ")).collect();
        assert!(of_payments.len() >= 14, "{reads:?}");
        for line in of_payments {
            // Of what is owed there is little, and its trouble is read.
            let is_small = line.contains("INDEX payments_owed (");
            assert!(
                line.starts_with("SEARCH") && (is_small || line.contains("COVERING")),
                "{line}"
            );
        }
    }

    #[tokio::test]
    async fn a_copy_knows_since_when_it_is_at_work() {
        let (store, _, directory) = file().await;
        let copy = directory.path().join("copy");
        let copies = storage::back_up(directory.path(), &copy).unwrap();
        assert_eq!(copies.len(), 1);
        assert_eq!(store.restored(1).await.unwrap(), None);
        let open = async |place: &std::path::Path| {
            let storage = Storage::Directory(place.to_owned());
            SqliteStore::open(storage, &Scope::of("test"), true).await.unwrap()
        };
        let restored = open(&copy).await;
        assert_eq!(restored.restored(1_000).await.unwrap(), Some(1_000));
        assert_eq!(restored.restored(2_000).await.unwrap(), Some(1_000));
        // A copy of the copy lacks what came later.
        let again = directory.path().join("again");
        storage::back_up(&copy, &again).unwrap();
        assert_eq!(open(&again).await.restored(3_000).await.unwrap(), Some(3_000));
    }
}
