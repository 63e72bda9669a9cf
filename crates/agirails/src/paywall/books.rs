//! The books: what was served, what was paid out, what arrived of it, and what it cost.

use alloy_primitives::{Address, B256};
use serde::Serialize;

use super::{
    Inner, Paywall,
    store::{Backlog, DAY, PaymentFilter, PaymentRow, ReportBy, Stage, Totals},
};
use crate::{
    error::{Code, Error, Result},
    protocol::{TransactionId, Usdc},
};

/// The most rows of a page.
const MOST: u32 = 1_000;

/// Which payments, newest first: [`Paywall::payments`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentQuery {
    /// Where they stand, as [`PaymentRecord::stage`] names it; all where `None`.
    pub stage: Option<String>,
    /// Who pays; everybody where `None`.
    pub requester: Option<Address>,
    /// How many, 1 … 1,000.
    pub limit: u32,
    /// Read on behind this one, the last of the page before.
    pub after: Option<TransactionId>,
}

impl Default for PaymentQuery {
    fn default() -> Self {
        Self { stage: None, requester: None, limit: 100, after: None }
    }
}

/// A payment and its story so far. Amounts are USDC; times are Unix seconds, 0 where it has not come to
/// that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PaymentRecord {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Who pays.
    pub requester: Address,
    /// Where it stands: `open`, `delivering`, `delivered`, `settled`, `disputed`, `returning`,
    /// `returned`, `lost` or `left`.
    pub stage: &'static str,
    /// What lies in escrow, or did.
    pub amount: Usdc,
    /// What served calls took of it: the gross.
    pub spent: Usdc,
    /// How many calls were served with it.
    pub calls: u64,
    /// The protocol's fee of what was paid out, where it has ended and that is known.
    pub fee: Option<Usdc>,
    /// What arrived, where that is known. After a dispute it is what the resolver decided.
    pub net: Option<Usdc>,
    /// What is to arrive of it if nobody disputes it.
    pub expected_net: Usdc,
    /// What its moves on chain cost its provider in gas, in wei, those that failed too.
    pub gas_wei: u64,
    /// When its first call came, by the store's clock; the other times are the kernel's.
    pub opened_at: u64,
    /// Its deadline.
    pub deadline: u64,
    /// When it was delivered.
    pub delivered_at: u64,
    /// When its dispute window is over: it can be settled from then on.
    pub settle_at: u64,
    /// When it was settled.
    pub settled_at: u64,
    /// The delivery proof's content hash, once it is known.
    pub content_hash: Option<B256>,
    /// Why its last move failed, or what others did with it.
    pub trouble: Option<String>,
}

impl From<PaymentRow> for PaymentRecord {
    fn from(row: PaymentRow) -> Self {
        let PaymentRow { payment, payout, .. } = row;
        let amount = payment.facts.amount;
        Self {
            transaction_id: payment.facts.id,
            requester: payment.facts.requester,
            stage: payment.stage.as_str(),
            amount,
            spent: payment.spent,
            calls: payment.calls,
            fee: payout.map(|payout| payout.fee),
            net: payout.map(|payout| payout.net),
            expected_net: payment.facts.net,
            gas_wei: row.gas,
            opened_at: row.opened_at,
            deadline: payment.facts.deadline,
            delivered_at: row.delivered_at,
            settle_at: row.settle_at,
            settled_at: row.settled_at,
            content_hash: payment.content_hash,
            trouble: payment.trouble,
        }
    }
}

/// Which part of the books: [`Paywall::report`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportQuery {
    /// What there is a row for.
    pub by: ReportBy,
    /// From the day of this time on, Unix seconds; from the beginning where `None`.
    pub since: Option<u64>,
    /// To the day of this time, that day included, Unix seconds; to the end where `None`.
    pub until: Option<u64>,
    /// Read on behind the row of this key, the last of the page before.
    pub after: Option<String>,
    /// How many rows, 1 … 1,000; 1,000 where `None`.
    pub limit: Option<u32>,
}

/// The books of a day, a route or a customer.
///
/// `gross` counts on the day on which calls were served. `paid_out`, `fee` and `net` count on the day on which their
/// payments were settled, which is later by the dispute window; where calls of several routes took from
/// a payment, each route has its share. What a balance forfeits is paid out too, so `paid_out` can be
/// more than `gross`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReportRow {
    /// The day, the route or the address; the route is empty for moves of payments with which nothing
    /// was served.
    pub key: String,
    /// Calls that were served.
    pub calls: u64,
    /// What they took.
    pub gross: Usdc,
    /// Payments that were settled.
    pub settled: u64,
    /// What they paid out, the fee included.
    pub paid_out: Usdc,
    /// The protocol's fee of it.
    pub fee: Usdc,
    /// What arrived.
    pub net: Usdc,
    /// What moves on chain cost the provider in gas, in wei, those that failed too.
    pub gas_wei: u64,
    /// Payments that were given back.
    pub refunded: u64,
    /// Payments that were disputed.
    pub disputed: u64,
}

impl Paywall {
    /// Payments with their story, newest first, in pages.
    ///
    /// # Errors
    /// [`Code::InvalidNumber`] for a limit outside 1 … 1,000, [`Code::InvalidSettings`] for a stage that
    /// does not exist, and the storage's codes.
    ///
    /// ```
    /// use agirails::{ACTPClient, Address, paywall::{PaymentQuery, Paywall}};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let provider = Address::repeat_byte(0xaa);
    /// let client = ACTPClient::builder().address(provider).in_memory().connect().await?;
    /// let paywall = Paywall::builder(client).open().await?;
    /// let disputed = PaymentQuery { stage: Some("disputed".to_owned()), ..PaymentQuery::default() };
    /// assert!(paywall.payments(&disputed).await?.is_empty());
    /// # Ok::<(), agirails::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn payments(&self, query: &PaymentQuery) -> Result<Vec<PaymentRecord>> {
        self.tend();
        let stage = match query.stage.as_deref() {
            Some(name) => Some(Stage::named(name).ok_or_else(|| unknown_stage(name))?),
            None => None,
        };
        let filter = PaymentFilter {
            stage,
            requester: query.requester,
            after: query.after,
            limit: checked(query.limit)?,
        };
        let rows = self.inner.store.payments(&filter).await?;
        Ok(rows.into_iter().map(PaymentRecord::from).collect())
    }

    /// The books by day, route or customer, in the order of their keys, in pages. They outlive the
    /// payments, which are forgotten some time after they ended ([`super::Settings::keep`]).
    ///
    /// # Errors
    /// [`Code::InvalidNumber`] for a limit outside 1 … 1,000, and the storage's codes.
    ///
    /// ```
    /// use agirails::{ACTPClient, Address, paywall::{Paywall, ReportBy, ReportQuery}};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let provider = Address::repeat_byte(0xaa);
    /// let client = ACTPClient::builder().address(provider).in_memory().connect().await?;
    /// let paywall = Paywall::builder(client).open().await?;
    /// let by_route = ReportQuery { by: ReportBy::Route, ..ReportQuery::default() };
    /// assert!(paywall.report(&by_route).await?.is_empty());
    /// # Ok::<(), agirails::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn report(&self, query: &ReportQuery) -> Result<Vec<ReportRow>> {
        self.tend();
        let after = query.after.as_deref();
        let days = (query.since.unwrap_or_default() / DAY, query.until.unwrap_or(u64::MAX) / DAY);
        let limit = checked(query.limit.unwrap_or(MOST))?;
        let rows = self.inner.store.report(query.by, days, after, limit).await?;
        Ok(rows.into_iter().map(|(key, totals)| row(key, totals)).collect())
    }
}

impl Inner {
    /// What is owed and what is to come in.
    pub(super) async fn backlog(&self) -> Result<Backlog> {
        let least = self.least_net().map(|least| least.net).unwrap_or_default();
        self.store.backlog(self.clock.about(), least).await
    }

    /// For how long the first settlement is due that is worth its gas.
    pub(super) fn overdue_seconds(&self, backlog: &Backlog) -> u64 {
        match backlog.due_since {
            // It was delivered by other hands, and its window is looked up first.
            None | Some(0) => 0,
            Some(since) => self.clock.about().saturating_sub(since),
        }
    }
}

fn row(key: String, totals: Totals) -> ReportRow {
    let Totals { calls, gross, settled, paid_out, fee, net, gas, refunded, disputed } = totals;
    ReportRow {
        key,
        calls,
        gross: Usdc(gross),
        settled,
        paid_out: Usdc(paid_out),
        fee: Usdc(fee),
        net: Usdc(net),
        gas_wei: gas,
        refunded,
        disputed,
    }
}

fn checked(limit: u32) -> Result<u32> {
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::invalid(Code::InvalidNumber, "limit", &limit.to_string(), "must be 1 … 1,000"))
}

fn unknown_stage(name: &str) -> Error {
    let names: Vec<_> = Stage::ALL.into_iter().map(Stage::as_str).collect();
    let problem = format!("must be one of {}", names.join(", "));
    Error::invalid(Code::InvalidSettings, "stage", name, &problem)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::protocol::money::Payout;

    #[test]
    fn what_is_shared_out_adds_up() {
        let payout = Some(Payout { net: Usdc(950_001), fee: Usdc(50_000) });
        let whole = Totals::of_move(Stage::Delivered, Stage::Settled, 7, payout);
        for routes in [vec![], vec![3], vec![5, 3, 3], vec![1, 1, 1, 1, 1, 1, 1], vec![0]] {
            let named = routes.iter().zip(0..).map(|(took, name)| (format!("{name}"), *took));
            let shares = whole.shared_out(named.collect());
            assert_eq!(shares.len(), routes.len().max(1));
            let sum = |of: fn(&Totals) -> u64| shares.iter().map(|(_, share)| of(share)).sum();
            let sums: [u64; 5] = [
                sum(|share| share.paid_out),
                sum(|share| share.net),
                sum(|share| share.fee),
                sum(|share| share.gas),
                sum(|share| share.settled),
            ];
            assert_eq!(sums, [1_000_001, 950_001, 50_000, 7, 1], "{routes:?}");
        }
    }
}
