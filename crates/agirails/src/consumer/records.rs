//! What was paid for what, kept before and after every step, so that no step is taken twice.

use std::sync::Arc;

use alloy_primitives::{Address, B256, hex};
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};

use super::{
    budget::{Budget, DAY, HOUR, Spent},
    exchange::{Exchange, Keeping},
    offer::{Offer, PaymentKind},
};
use crate::{
    error::{Code, Error, Result},
    network::Network,
    process_locks::WorkerId,
    protocol::{TransactionId, Usdc, receipt::Receipt},
    storage::{self, Attempt, Format, Storage, Store},
};

/// How long calls stay on record once their transaction is over.
const MEMORY_SECONDS: u64 = 90 * DAY;

/// A balance that nobody has used for so long may be ended where its offer says so.
const LEAST_IDLE_SECONDS: i64 = 3_600;
/// How many bodies make room in one step.
const BODIES_AT_ONCE: i64 = 32;
/// By how much the clock of the calls on record may be ahead of the kernel's.
const CLOCKS_DIFFER_SECONDS: i64 = 60;

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It counts against the budget; whether its transaction exists is not on record.
    Planned,
    /// Its transaction exists.
    Created,
    /// Its money is in escrow.
    Funded,
    /// As funded, and no more calls are made with it.
    Retired,
    /// The provider was paid.
    Settled,
    /// The money came back.
    Refunded,
    /// No money ever moved.
    Abandoned,
    /// A dispute is open.
    Disputed,
}

impl Stage {
    /// Every one.
    pub(super) const ALL: [Self; 8] = [
        Self::Planned,
        Self::Created,
        Self::Funded,
        Self::Retired,
        Self::Settled,
        Self::Refunded,
        Self::Abandoned,
        Self::Disputed,
    ];

    /// Its name for people and programs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Created => "created",
            Self::Funded => "funded",
            Self::Retired => "retired",
            Self::Settled => "settled",
            Self::Refunded => "refunded",
            Self::Abandoned => "abandoned",
            Self::Disputed => "disputed",
        }
    }

    /// In these its money is in escrow, as far as is on record.
    pub(super) const HELD: [Self; 3] = [Self::Funded, Self::Retired, Self::Disputed];

    fn read(number: i64) -> Self {
        match number {
            0 => Self::Planned,
            1 => Self::Created,
            2 => Self::Funded,
            3 => Self::Retired,
            4 => Self::Settled,
            5 => Self::Refunded,
            7 => Self::Disputed,
            _ => Self::Abandoned,
        }
    }
}

/// A transaction that pays for calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payment {
    pub(super) id: i64,
    pub(super) provider: Address,
    pub(super) origin: String,
    /// The URL below which the paywall's free routes are: its origin, or a path of it.
    pub(super) base: String,
    pub(super) kind: PaymentKind,
    pub(super) amount: Usdc,
    pub(super) used: Usdc,
    pub(super) deadline: u64,
    pub(super) usable_until: u64,
    pub(super) dispute_window: u64,
    pub(super) service_hash: B256,
    /// What its transaction names as agreed; zero for nothing.
    pub(super) agreement_hash: B256,
    pub(super) trusted: bool,
    pub(super) transaction_id: Option<TransactionId>,
    pub(super) stage: Stage,
    pub(super) tries: u64,
    /// The kernel's time then.
    pub(super) planned_at: u64,
    /// Whether its requester asked the service to end it.
    pub(super) is_closed: bool,
    /// What its requester's own cancellation keeps back, where one may have been sent.
    pub(super) penalty: Usdc,
    /// What makes its service hash, together with the offer's service.
    pub(super) service_key: Option<B256>,
}

/// A call, and what it is paid with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Purchase {
    pub(super) id: i64,
    pub(super) key: String,
    pub(super) digest: B256,
    pub(super) payment: Option<i64>,
    pub(super) call_key: String,
    pub(super) price: Usdc,
    pub(super) funds: bool,
    pub(super) content_hash: Option<B256>,
    pub(super) receipt: Option<Receipt>,
    /// Whether its last answer contradicted its receipt.
    pub(super) is_contradicted: bool,
    /// Who was at it last.
    pub(super) owner: WorkerId,
}

/// A call that looks for something to be paid with.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    pub(super) key: &'a str,
    /// What the same call is known by that is made again without a key.
    pub(super) fingerprint: Option<B256>,
    pub(super) owner: WorkerId,
    pub(super) digest: B256,
    pub(super) origin: &'a str,
    pub(super) base: &'a str,
    pub(super) route: &'a str,
    pub(super) provider: Address,
    pub(super) price: Usdc,
    /// The key of this call, if it is drawn from a balance.
    pub(super) call_key: &'a str,
    pub(super) now: u64,
}

/// A payment that would be made for it.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub(super) offer: &'a Offer,
    pub(super) trusted: bool,
    /// The kernel's clock.
    pub(super) kernel_now: u64,
    pub(super) service_hash: B256,
    pub(super) service_key: Option<B256>,
    pub(super) agreement_hash: B256,
    pub(super) budget: Budget,
}

/// The records of one requester.
#[derive(Debug, Clone)]
pub(super) struct Records {
    file: Arc<Store>,
    requester: Address,
}

const PAYMENT: &str = "SELECT id, provider, origin, kind, amount, used, deadline, usable_until, \
     dispute_window, service_hash, trusted, transaction_id, stage, tries, planned_at, \
     closed, penalty, coalesce(base, origin), service_key, agreement_hash FROM payments";
const PURCHASE: &str = "SELECT id, digest, payment, call_key, price, funds, \
     content_hash, receipt, contradicted, key, owner FROM purchases";

impl Records {
    /// Opens or makes `.actp/consumer-<chain id>-<kernel>.sqlite3` ("actb" in its header). Every commit is durable (`FULL`): what was paid must not be
    /// forgotten.
    pub(super) async fn open(
        storage: Storage,
        network: &Network,
        requester: Address,
    ) -> Result<Self> {
        let Network { chain_id, kernel, .. } = network;
        let format = Format {
            file: format!("consumer-{chain_id}-{}.sqlite3", hex::encode(kernel)),
            identity: Some(format!("kernel {kernel} on chain {chain_id}")),
            former: Some(format!("consumer-{chain_id}-{}.sqlite3", hex::encode(&kernel[..4]))),
            application_id: 0x6163_7462,
            schema: &[
                include_str!("records.sql"),
                include_str!("contradicts.sql"),
                include_str!("closes.sql"),
                include_str!("penalties.sql"),
                include_str!("bases.sql"),
                include_str!("services.sql"),
                include_str!("early_ends.sql"),
                include_str!("retries.sql"),
                include_str!("exchanges.sql"),
                include_str!("agreements.sql"),
            ],
            synchronous: "FULL",
            patience: storage::PATIENCE,
        };
        Ok(Self { file: Store::open(storage, format, |_| Ok(())).await?, requester })
    }

    /// The file, for its owners' locks.
    pub(super) fn path(&self) -> Option<&std::path::Path> {
        self.file.path()
    }

    /// What a route cost last.
    pub(super) async fn price(&self, origin: &str, route: &str) -> Result<Option<(Address, Usdc)>> {
        self.file
            .read(|connection| {
                let sql = "SELECT provider, price FROM prices WHERE origin = ?1 AND route = ?2";
                let mut statement = connection.prepare_cached(sql)?;
                let row = statement.query_row([origin, route], |row| {
                    Ok((address(row, 0)?, Usdc(row.get::<_, i64>(1)? as u64)))
                });
                Ok(row.optional()?)
            })
            .await
    }

    pub(super) async fn purchase(&self, key: &str) -> Result<Option<Purchase>> {
        self.file.read(|connection| find(connection, self.requester, key)).await
    }

    /// The purchases that were paid since then for the same call, and are not answered.
    pub(super) async fn unanswered(&self, fingerprint: B256, since: u64) -> Result<Vec<Purchase>> {
        self.file
            .read(|connection| {
                let sql = format!(
                    "{PURCHASE} WHERE requester = ?1 AND fingerprint = ?2 AND content_hash IS NULL \
                     AND payment IS NOT NULL AND at >= ?3 ORDER BY id"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let values =
                    params![self.requester.as_slice(), fingerprint.as_slice(), since as i64];
                let rows = statement.query_map(values, purchase)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Makes `owner` the one who is at a purchase, unless somebody else became so meanwhile.
    pub(super) async fn take_up(&self, purchase: &Purchase, owner: WorkerId) -> Result<bool> {
        self.file
            .write(|connection| {
                let sql = "UPDATE purchases SET owner = ?3 WHERE id = ?1 AND owner = ?2 \
                     AND content_hash IS NULL AND payment IS NOT NULL";
                let values = params![purchase.id, purchase.owner, owner];
                Ok(connection.prepare_cached(sql)?.execute(values)? > 0)
            })
            .await
    }

    pub(super) async fn payment(&self, id: i64) -> Result<Payment> {
        self.file
            .read(|connection| {
                let sql = format!("{PAYMENT} WHERE id = ?1");
                Ok(connection.prepare_cached(&sql)?.query_row([id], payment)?)
            })
            .await
    }

    /// From when on the provider of a payment may end it: when its time is over, or nobody has used
    /// it for as long as its offer said, which is taken for an hour at least.
    pub(super) async fn may_end_from(&self, id: i64) -> Result<u64> {
        self.file
            .read(|connection| {
                let sql = "SELECT usable_until, idle_seconds, \
                     (SELECT max(at) FROM purchases WHERE payment = payments.id) \
                     FROM payments WHERE id = ?1";
                let row = connection.prepare_cached(sql)?.query_row([id], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get(2)?))
                })?;
                let (usable_until, idle_seconds, last_call): (_, _, Option<i64>) = row;
                let idle = idle_seconds.zip(last_call).map(|(idle, last_call)| {
                    last_call.saturating_add(idle.max(LEAST_IDLE_SECONDS)) - CLOCKS_DIFFER_SECONDS
                });
                Ok(idle.map_or(usable_until, |idle| idle.min(usable_until)).max(0) as u64)
            })
            .await
    }

    pub(super) async fn payment_of(&self, id: TransactionId) -> Result<Option<Payment>> {
        self.file
            .read(|connection| {
                let sql = format!("{PAYMENT} WHERE requester = ?1 AND transaction_id = ?2");
                let ids = [self.requester.as_slice(), id.as_slice()];
                Ok(connection.prepare_cached(&sql)?.query_row(ids, payment).optional()?)
            })
            .await
    }

    /// Payments in one of these stages, oldest first.
    pub(super) async fn payments(&self, stages: &[Stage]) -> Result<Vec<Payment>> {
        self.file
            .read(|connection| {
                let stages: Vec<_> =
                    stages.iter().map(|stage| (*stage as i64).to_string()).collect();
                let sql = format!(
                    "{PAYMENT} WHERE requester = ?1 AND stage IN ({}) ORDER BY id",
                    stages.join(", ")
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map([self.requester.as_slice()], payment)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// The balance from which a call of this price would be drawn.
    pub(super) async fn balance_for(
        &self,
        origin: &str,
        (provider, price): (Address, Usdc),
        now: u64,
    ) -> Result<Option<Payment>> {
        let requester = self.requester;
        let balance = self
            .file
            .read(|connection| open_balance(connection, requester, origin, (provider, price), now))
            .await?;
        match balance {
            Some(id) => self.payment(id).await.map(Some),
            None => Ok(None),
        }
    }

    /// The calls of a payment.
    pub(super) async fn calls(&self, payment: i64) -> Result<Vec<Purchase>> {
        self.file
            .read(|connection| {
                let sql = format!("{PURCHASE} WHERE payment = ?1 ORDER BY id");
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map([payment], purchase)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    pub(super) async fn spent(&self, provider: Address, now: u64) -> Result<Spent> {
        self.file.read(|connection| spent(connection, self.requester, provider, "", now)).await
    }

    /// Finds the purchase's record, or has it paid from an open balance, or plans a payment for
    /// it, in this order and in one write. `None` where there is neither balance nor plan.
    ///
    /// # Errors
    /// [`Code::PurchaseMismatch`] and [`Code::BudgetExceeded`].
    pub(super) async fn attach(
        &self,
        wanted: &Wanted<'_>,
        plan: Option<&Plan<'_>>,
    ) -> Result<Option<Purchase>> {
        self.file
            .write(|connection| {
                let known = find(connection, self.requester, wanted.key)?;
                if let Some(known) = &known {
                    check_digest(known, wanted.digest)?;
                    if known.payment.is_some() {
                        return Ok(Some(known.clone()));
                    }
                }
                let (payment, call_key, funds) = match self.draw(connection, wanted)? {
                    Some(balance) => (balance, wanted.call_key, false),
                    None => match plan {
                        Some(plan) => {
                            let call_key = match plan.offer.kind {
                                PaymentKind::Single => "",
                                PaymentKind::Prepaid => wanted.call_key,
                            };
                            (self.plan(connection, wanted, plan)?, call_key, true)
                        }
                        None => return Ok(None),
                    },
                };
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO prices (origin, route, provider, price) \
                         VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![
                        wanted.origin,
                        wanted.route,
                        wanted.provider.as_slice(),
                        wanted.price.0 as i64
                    ])?;
                connection
                    .prepare_cached(
                        "INSERT INTO purchases (requester, key, digest, payment, call_key, price, \
                         funds, at, fingerprint, owner) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                         ON CONFLICT (requester, key) DO UPDATE SET payment = excluded.payment, \
                         call_key = excluded.call_key, price = excluded.price, \
                         funds = excluded.funds, owner = excluded.owner",
                    )?
                    .execute(params![
                        self.requester.as_slice(),
                        wanted.key,
                        wanted.digest.as_slice(),
                        payment,
                        call_key,
                        wanted.price.0 as i64,
                        funds,
                        wanted.now as i64,
                        wanted.fingerprint.map(|hash| hash.0),
                        wanted.owner
                    ])?;
                find(connection, self.requester, wanted.key)
            })
            .await
    }

    /// Takes the price from an open balance of this provider at this service.
    fn draw(&self, connection: &Connection, wanted: &Wanted<'_>) -> Attempt<Option<i64>> {
        let Wanted { origin, provider, price, now, .. } = *wanted;
        let balance = open_balance(connection, self.requester, origin, (provider, price), now)?;
        if let Some(balance) = balance {
            connection
                .prepare_cached("UPDATE payments SET used = used + ?2 WHERE id = ?1")?
                .execute(params![balance, wanted.price.0 as i64])?;
        }
        Ok(balance)
    }

    fn plan(&self, connection: &Connection, wanted: &Wanted<'_>, plan: &Plan<'_>) -> Attempt<i64> {
        let offer = plan.offer;
        let Wanted { provider, origin, now, .. } = *wanted;
        let spent = spent(connection, self.requester, provider, origin, now)?;
        plan.budget.check(offer.amount, spent)?;
        if !plan.trusted {
            check_balances(connection, self.requester, wanted)?;
        }
        forget_old(connection, self.requester, wanted.now)?;
        let deadline = plan.kernel_now + offer.lasts;
        let used = match offer.kind {
            PaymentKind::Single => offer.amount,
            PaymentKind::Prepaid => wanted.price,
        };
        connection
            .prepare_cached(
                "INSERT INTO payments (requester, provider, origin, kind, amount, used, deadline, \
                 usable_until, dispute_window, service_hash, trusted, stage, returned, tries, \
                 owner, at, planned_at, base, service_key, idle_seconds, agreement_hash) VALUES (?1, \
                 ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, 0, 0, 0, ?12, ?13, ?14, ?15, ?16, ?17)",
            )?
            .execute(params![
                self.requester.as_slice(),
                wanted.provider.as_slice(),
                wanted.origin,
                offer.kind as i64,
                offer.amount.0 as i64,
                used.0 as i64,
                deadline as i64,
                (deadline - offer.min_seconds_left) as i64,
                offer.dispute_window as i64,
                plan.service_hash.as_slice(),
                plan.trusted,
                wanted.now as i64,
                plan.kernel_now as i64,
                wanted.base,
                plan.service_key.map(|key| key.0),
                offer.idle_seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
                Some(plan.agreement_hash.0).filter(|hash| *hash != [0; 32])
            ])?;
        Ok(connection.last_insert_rowid())
    }

    /// Makes `owner` the one that moves a payment on; false where another one lives.
    pub(super) async fn claim(
        &self,
        payment: i64,
        owner: WorkerId,
        is_alive: impl Fn(WorkerId) -> bool + Send + Sync,
    ) -> Result<bool> {
        self.file
            .write(|connection| {
                let sql = "SELECT owner FROM payments WHERE id = ?1";
                let now: WorkerId =
                    connection.prepare_cached(sql)?.query_row([payment], |row| row.get(0))?;
                if now != 0 && is_alive(now) {
                    return Ok(false);
                }
                connection
                    .prepare_cached(
                        "UPDATE payments SET owner = ?2, tries = tries + 1 WHERE id = ?1",
                    )?
                    .execute(params![payment, owner])?;
                Ok(true)
            })
            .await
    }

    /// Lets others have it.
    pub(super) async fn let_go(&self, payment: i64) -> Result<()> {
        self.change("UPDATE payments SET owner = 0 WHERE id = ?1", payment).await
    }

    pub(super) async fn created(&self, payment: i64, id: TransactionId) -> Result<()> {
        self.file
            .write(|connection| {
                connection
                    .prepare_cached(
                        "UPDATE payments SET stage = 1, transaction_id = ?2 WHERE id = ?1",
                    )?
                    .execute(params![payment, id.as_slice()])?;
                Ok(())
            })
            .await
    }

    /// Funded, and nobody is at it any more.
    pub(super) async fn funded(&self, payment: i64) -> Result<()> {
        self.change("UPDATE payments SET stage = 2, owner = 0 WHERE id = ?1", payment).await
    }

    /// No money moved, and none will: it counts no longer.
    pub(super) async fn abandon(&self, payment: i64) -> Result<()> {
        self.change("UPDATE payments SET stage = 6, owner = 0 WHERE id = ?1", payment).await
    }

    /// No new calls are made with it.
    pub(super) async fn retire(&self, payment: i64) -> Result<()> {
        self.change("UPDATE payments SET stage = 3 WHERE id = ?1 AND stage = 2", payment).await
    }

    /// Its provider ended it while calls could be made with it.
    pub(super) async fn ended_early(&self, payment: i64) -> Result<()> {
        self.change("UPDATE payments SET ended_early = 1 WHERE id = ?1", payment).await?;
        self.retire(payment).await
    }

    /// The service counts no more than this as left, and less than its requester does.
    pub(super) async fn lower(&self, payment: i64, left: Usdc) -> Result<()> {
        self.file
            .write(|connection| {
                let sql = "UPDATE payments SET used = amount - ?2, ended_early = 1 \
                     WHERE id = ?1 AND used < amount - ?2";
                connection.prepare_cached(sql)?.execute(params![payment, left.0 as i64])?;
                Ok(())
            })
            .await
    }

    /// No new calls are made with it, as its requester has it.
    pub(super) async fn close(&self, payment: i64) -> Result<()> {
        self.change("UPDATE payments SET closed = 1 WHERE id = ?1", payment).await?;
        self.retire(payment).await
    }

    /// It is about to be cancelled by its requester, which keeps this much back.
    pub(super) async fn cancelling(&self, payment: i64, penalty: Usdc) -> Result<()> {
        self.file
            .write(|connection| {
                connection
                    .prepare_cached("UPDATE payments SET penalty = ?2 WHERE id = ?1")?
                    .execute(params![payment, penalty.0 as i64])?;
                Ok(())
            })
            .await
    }

    /// It is over, and this much came back.
    pub(super) async fn finish(&self, payment: i64, stage: Stage, returned: Usdc) -> Result<()> {
        self.file
            .write(|connection| {
                connection
                    .prepare_cached("UPDATE payments SET stage = ?2, returned = ?3 WHERE id = ?1")?
                    .execute(params![payment, stage as i64, returned.0 as i64])?;
                Ok(())
            })
            .await
    }

    /// The service says that it did not serve the call: its price goes back into the balance, and
    /// the purchase is as if it had not begun. A single payment stays the purchase's own.
    pub(super) async fn give_back(&self, purchase: i64) -> Result<()> {
        self.file
            .write(|connection| {
                let sql = "UPDATE payments SET used = used - p.price FROM purchases p \
                     WHERE p.id = ?1 AND payments.id = p.payment AND payments.kind = 1";
                if connection.prepare_cached(sql)?.execute([purchase])? > 0 {
                    let sql = "UPDATE purchases SET payment = NULL WHERE id = ?1";
                    connection.prepare_cached(sql)?.execute([purchase])?;
                }
                Ok(())
            })
            .await
    }

    /// The purchase looks for another payment: nothing was paid with this one.
    pub(super) async fn detach(&self, purchase: i64) -> Result<()> {
        self.change("UPDATE purchases SET payment = NULL WHERE id = ?1", purchase).await
    }

    /// An answer came that its receipt does not prove: until one is proven, nothing is settled.
    pub(super) async fn contradict(
        &self,
        purchase: i64,
        kept: Option<(&Exchange, Keeping)>,
    ) -> Result<()> {
        self.file
            .write(|connection| {
                let sql = "UPDATE purchases SET contradicted = 1 WHERE id = ?1";
                connection.prepare_cached(sql)?.execute([purchase])?;
                keep(connection, purchase, kept)
            })
            .await
    }

    pub(super) async fn answered(
        &self,
        purchase: i64,
        content_hash: B256,
        receipt: Option<&Receipt>,
        kept: Option<(&Exchange, Keeping)>,
    ) -> Result<()> {
        let receipt = receipt.and_then(|receipt| serde_json::to_string(receipt).ok());
        self.file
            .write(|connection| {
                connection
                    .prepare_cached(
                        "UPDATE purchases SET content_hash = ?2, receipt = ?3, \
                         contradicted = contradicted AND ?3 IS NULL WHERE id = ?1",
                    )?
                    .execute(params![purchase, content_hash.as_slice(), receipt])?;
                keep(connection, purchase, kept)
            })
            .await
    }

    /// What was asked and answered by a purchase; `None` where that is not kept.
    pub(super) async fn exchange(&self, purchase: i64) -> Result<Option<Exchange>> {
        self.file
            .read(|connection| {
                let sql = "SELECT exchange, asked, answered FROM exchanges WHERE purchase = ?1";
                let mut statement = connection.prepare_cached(sql)?;
                let kept = statement.query_row([purchase], |row| {
                    let (asked, answered) = (row.get(1)?, row.get(2)?);
                    Exchange::from_json(row.get_ref(0)?.as_blob()?, asked, answered).map_err(
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

    async fn change(&self, sql: &str, id: i64) -> Result<()> {
        self.file
            .write(|connection| Ok(connection.prepare_cached(sql)?.execute([id]).map(drop)?))
            .await
    }
}

/// Keeps an exchange, and forgets the oldest bodies where all of them are more than may be kept.
fn keep(connection: &Connection, purchase: i64, kept: Option<(&Exchange, Keeping)>) -> Attempt<()> {
    let Some((exchange, keeping)) = kept else { return Ok(()) };
    let [asked, answered] =
        [&exchange.asked, &exchange.answered].map(|body| body.as_ref().map(|bytes| &bytes[..]));
    let bytes = asked.map_or(0, <[u8]>::len) + answered.map_or(0, <[u8]>::len);
    forget_bodies(connection, "purchase = ?1", purchase)?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO exchanges (purchase, exchange, asked, answered, bytes) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![purchase, exchange.to_json(), asked, answered, bytes as i64])?;
    connection.prepare_cached("UPDATE kept SET bytes = bytes + ?1")?.execute([bytes as i64])?;
    let mut total = connection.prepare_cached("SELECT bytes FROM kept")?;
    let oldest =
        "purchase IN (SELECT purchase FROM exchanges WHERE bytes > 0 ORDER BY purchase LIMIT ?1)";
    while total.query_row([], |row| row.get::<_, i64>(0))? > keeping.all_bytes as i64
        && forget_bodies(connection, oldest, BODIES_AT_ONCE)? > 0
    {}
    Ok(())
}

/// Forgets the bodies of these exchanges; how many.
fn forget_bodies(connection: &Connection, these: &str, value: i64) -> Attempt<usize> {
    let sql = format!(
        "UPDATE kept SET bytes = bytes - (SELECT coalesce(sum(bytes), 0) FROM exchanges WHERE {these})"
    );
    connection.prepare_cached(&sql)?.execute([value])?;
    let sql = format!(
        "UPDATE exchanges SET asked = NULL, answered = NULL, bytes = 0 WHERE bytes > 0 AND {these}"
    );
    Ok(connection.prepare_cached(&sql)?.execute([value])?)
}

/// # Errors
/// [`Code::PurchaseMismatch`].
pub(super) fn check_digest(known: &Purchase, digest: B256) -> Result<()> {
    if known.digest == digest {
        return Ok(());
    }
    Err(Error::new(Code::PurchaseMismatch, "the purchase key belongs to another request")
        .with_hint(
            "a key names one purchase: repeat it with the same method, URL and body, or leave it \
             out to buy anew",
        )
        .with_facts(|facts| facts.field = Some("purchase_key")))
}

fn find(connection: &Connection, requester: Address, key: &str) -> Attempt<Option<Purchase>> {
    let sql = format!("{PURCHASE} WHERE requester = ?1 AND key = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row(params![requester.as_slice(), key], purchase).optional()?)
}

/// The money of a balance is the provider's once the provider ends it, and every call could be made
/// to buy another one. So no other is bought where one was ended early, or stands open under the
/// name of another provider, until its requester has closed it.
///
/// # Errors
/// [`Code::BalanceForfeited`].
fn check_balances(connection: &Connection, requester: Address, wanted: &Wanted<'_>) -> Attempt<()> {
    let sql = "SELECT transaction_id, provider, amount - used, ended_early FROM payments \
         WHERE requester = ?1 AND (origin = ?2 OR provider = ?3) AND kind = 1 AND closed = 0 \
         AND ((ended_early = 1 AND stage <> 5) OR (origin = ?2 AND provider <> ?3 AND stage = 2 \
         AND amount - used >= ?4 AND usable_until > ?5)) ORDER BY id DESC LIMIT 1";
    let values = params![
        requester.as_slice(),
        wanted.origin,
        wanted.provider.as_slice(),
        wanted.price.0 as i64,
        wanted.now as i64
    ];
    let found = connection
        .prepare_cached(sql)?
        .query_row(values, |row| {
            let id = row.get::<_, Option<[u8; 32]>>(0)?.map(B256::from);
            let left = Usdc(row.get::<_, i64>(2)?.max(0) as u64);
            Ok((id, address(row, 1)?, left, row.get::<_, bool>(3)?))
        })
        .optional()?;
    match found {
        None => Ok(()),
        Some((id, provider, left, ended_early)) => {
            Err(forfeited(id, provider, left, ended_early).into())
        }
    }
}

pub(super) fn forfeited(
    id: Option<TransactionId>,
    provider: Address,
    left: Usdc,
    ended_early: bool,
) -> Error {
    let name = id.map(|id| id.to_string()).unwrap_or_default();
    let (message, hint) = match ended_early {
        true => (
            format!(
                "the provider {provider} ended the balance {name} with {left} USDC left of it, so \
                 no other one is bought there"
            ),
            "ask the provider, or dispute the delivery within its window; close(transaction_id) \
             accepts the loss, and trusting the provider does so for good; nothing more was paid",
        ),
        false => (
            format!(
                "the service names another provider than {provider}, with whom {left} USDC are \
                 left of the balance {name}, so no other one is bought there"
            ),
            "close(transaction_id) gives that balance up; trusting the new provider buys another \
             one beside it; nothing was paid",
        ),
    };
    Error::new(Code::BalanceForfeited, message).with_hint(hint).with_facts(|facts| {
        facts.transaction_id = id;
        facts.available = Some(left);
        facts.field = Some("provider");
        facts.value = Some(provider.to_string());
    })
}

/// An open balance of this provider at this service that holds this price.
fn open_balance(
    connection: &Connection,
    requester: Address,
    origin: &str,
    (provider, price): (Address, Usdc),
    now: u64,
) -> Attempt<Option<i64>> {
    let sql = "SELECT id FROM payments WHERE requester = ?1 AND origin = ?2 AND stage <= 2 \
         AND provider = ?3 AND kind = 1 AND amount - used >= ?4 AND usable_until > ?5 \
         ORDER BY stage DESC, id LIMIT 1";
    let values =
        params![requester.as_slice(), origin, provider.as_slice(), price.0 as i64, now as i64];
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(values, |row| row.get(0)).optional()?)
}

/// A provider's share is also what was paid to others at the same service: addresses cost nothing,
/// and a service may name another one each time.
fn spent(
    connection: &Connection,
    requester: Address,
    provider: Address,
    origin: &str,
    now: u64,
) -> Attempt<Spent> {
    let sql = "SELECT coalesce(sum(amount - returned) FILTER (WHERE at > ?3), 0), \
         coalesce(sum(amount - returned), 0), \
         coalesce(sum(amount - returned) FILTER (WHERE provider = ?4 OR origin = ?5), 0), \
         (SELECT coalesce(sum(price), 0) FROM purchases \
          WHERE requester = ?1 AND at > ?2 AND payment IS NOT NULL), \
         (SELECT coalesce(sum(amount - used), 0) FROM payments \
          WHERE requester = ?1 AND stage IN (2, 3, 7)) \
         FROM payments WHERE requester = ?1 AND at > ?2 AND stage <> 6";
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![
        requester.as_slice(),
        now as i64 - DAY as i64,
        now as i64 - HOUR as i64,
        provider.as_slice(),
        origin
    ];
    Ok(statement.query_row(values, |row| {
        let sum = |column| Ok::<_, rusqlite::Error>(Usdc(row.get::<_, i64>(column)?.max(0) as u64));
        let [hour, day, provider, used, locked] = [sum(0)?, sum(1)?, sum(2)?, sum(3)?, sum(4)?];
        Ok(Spent { hour, day, provider, used, locked })
    })?)
}

fn forget_old(connection: &Connection, requester: Address, now: u64) -> Attempt<()> {
    let before = now.saturating_sub(MEMORY_SECONDS) as i64;
    let over = "SELECT id FROM payments WHERE requester = ?1 AND at < ?2 AND stage BETWEEN 4 AND 6";
    let these = format!(
        "SELECT id FROM purchases WHERE payment IN ({over}) \
         OR (requester = ?1 AND at < ?2 AND payment IS NULL)"
    );
    for sql in [
        format!(
            "UPDATE kept SET bytes = bytes - (SELECT coalesce(sum(bytes), 0) FROM exchanges \
             WHERE purchase IN ({these}))"
        ),
        format!("DELETE FROM exchanges WHERE purchase IN ({these})"),
        format!("DELETE FROM purchases WHERE payment IN ({over})"),
        format!("DELETE FROM payments WHERE id IN ({over})"),
        "DELETE FROM purchases WHERE requester = ?1 AND at < ?2 AND payment IS NULL".to_owned(),
    ] {
        connection.prepare_cached(&sql)?.execute(params![requester.as_slice(), before])?;
    }
    Ok(())
}

fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Address> {
    row.get::<_, [u8; 20]>(column).map(Address::from)
}

fn payment(row: &Row<'_>) -> rusqlite::Result<Payment> {
    let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
    Ok(Payment {
        id: row.get(0)?,
        provider: address(row, 1)?,
        origin: row.get(2)?,
        kind: if number(3)? == 0 { PaymentKind::Single } else { PaymentKind::Prepaid },
        amount: Usdc(number(4)?),
        used: Usdc(number(5)?),
        deadline: number(6)?,
        usable_until: number(7)?,
        dispute_window: number(8)?,
        service_hash: row.get::<_, [u8; 32]>(9)?.into(),
        trusted: row.get(10)?,
        transaction_id: row.get::<_, Option<[u8; 32]>>(11)?.map(B256::from),
        stage: Stage::read(row.get(12)?),
        tries: number(13)?,
        planned_at: number(14)?,
        is_closed: row.get(15)?,
        penalty: Usdc(number(16)?),
        base: row.get(17)?,
        service_key: row.get::<_, Option<[u8; 32]>>(18)?.map(B256::from),
        agreement_hash: row.get::<_, Option<[u8; 32]>>(19)?.map(B256::from).unwrap_or_default(),
    })
}

fn purchase(row: &Row<'_>) -> rusqlite::Result<Purchase> {
    let receipt: Option<String> = row.get(7)?;
    Ok(Purchase {
        id: row.get(0)?,
        digest: row.get::<_, [u8; 32]>(1)?.into(),
        payment: row.get(2)?,
        call_key: row.get(3)?,
        price: Usdc(row.get::<_, i64>(4)? as u64),
        funds: row.get(5)?,
        content_hash: row.get::<_, Option<[u8; 32]>>(6)?.map(B256::from),
        receipt: receipt.and_then(|text| serde_json::from_str(&text).ok()),
        is_contradicted: row.get(8)?,
        key: row.get(9)?,
        owner: row.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_primitives::Bytes;

    use super::*;
    use crate::{consumer::http::HttpResponse, protocol::paid_request::PaidRequest};

    #[tokio::test]
    async fn the_oldest_bodies_make_room_and_their_hashes_stay() {
        let client = crate::ACTPClient::builder().address(Address::repeat_byte(1)).in_memory();
        let client = client.connect().await.unwrap();
        let (storage, network) = (client.storage().clone(), client.network());
        let records = Records::open(storage, network, client.address()).await.unwrap();
        let keeping = Keeping { all_bytes: 30_000, ..Keeping::default() };
        let bytes = || async {
            let sum = |connection: &Connection| {
                let sql = "SELECT bytes, (SELECT sum(bytes) FROM exchanges) FROM kept";
                Ok(connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
            };
            records.file.read(sum).await.unwrap()
        };
        for number in 1..=100_i64 {
            let insert = |connection: &Connection| {
                let sql = "INSERT INTO purchases (id, requester, key, digest, call_key, price, funds, at) \
                           VALUES (?1, x'01', ?1, zeroblob(32), '', 0, 0, 0)";
                Ok(connection.execute(sql, [number]).map(drop)?)
            };
            records.file.write(insert).await.unwrap();
            let (body, id) = (Bytes::from(vec![number as u8; 500]), TransactionId::ZERO);
            let asked = PaidRequest::new(id, "POST", "/", &body, 0);
            let response = HttpResponse { status: 200, headers: vec![], body: body.clone() };
            let hash = alloy_primitives::keccak256(&body[..]);
            let exchange = Exchange::new(&asked, (&[], &body), &response, hash, keeping);
            // Kept twice, it counts once.
            for _ in 0..2 {
                let kept = Some((&exchange, keeping));
                records.answered(number, B256::ZERO, None, kept).await.unwrap();
            }
            let (counted, summed): (i64, i64) = bytes().await;
            assert!(counted == summed && counted <= 30_000, "{counted} {summed}");
        }
        let first = records.exchange(1).await.unwrap().unwrap();
        assert_eq!((first.asked, first.answered), (None, None));
        assert_eq!(first.body_hash, alloy_primitives::keccak256([1; 500]));
        assert!(records.exchange(100).await.unwrap().unwrap().asked.is_some());
    }
}
