//! The figures of the dashboard: the books as JSON, with every amount written out, so that the page
//! computes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{Dashboard, PAYMENTS};
use crate::{
    error::{Code, Error, Result},
    paywall::{
        Settle,
        books::{PaymentQuery, PaymentRecord},
        store::{Backlog, DAY, Ran, ReportBy, Totals},
    },
    protocol::{TransactionId, Usdc},
};

/// How many routes, customers and calls of a payment are shown.
const MOST: u32 = 50;
/// Rows that the store is asked for at once.
const PAGE: u32 = 1_000;
/// A gap of more days than this is no gap in a chart.
const MOST_DAYS: u64 = 4_000;

/// For how long back the figures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    Day,
    Week,
    Month,
    Quarter,
    All,
}

impl Range {
    const ALL: [Self; 5] = [Self::Day, Self::Week, Self::Month, Self::Quarter, Self::All];

    const fn name(self) -> &'static str {
        match self {
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "30d",
            Self::Quarter => "90d",
            Self::All => "all",
        }
    }

    /// # Errors
    /// [`Code::InvalidSettings`] for a name that is none of them.
    pub(super) fn named(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else { return Ok(Self::Week) };
        let found = Self::ALL.into_iter().find(|range| range.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(Code::InvalidSettings, "range", name, &format!("must be one of {names}"))
        })
    }

    /// The days of the books in it, counted from 1970, the last one included.
    fn days(self, now: u64) -> (u64, u64) {
        let today = now / DAY;
        let first = match self {
            // The books know whole days of UTC: those that the last 24 hours touch.
            Self::Day => now.saturating_sub(DAY) / DAY,
            Self::Week => today.saturating_sub(6),
            Self::Month => today.saturating_sub(29),
            Self::Quarter => today.saturating_sub(89),
            Self::All => return (0, u64::MAX / DAY),
        };
        // To the end: a clock that went back must hide nothing.
        (first, u64::MAX / DAY)
    }
}

impl Dashboard {
    pub(super) async fn overview(&self, range: Range) -> Result<Value> {
        let inner = &self.paywall.inner;
        if inner.client.network().is_local() {
            // Its clock can be moved, and asking costs nothing. The clock that is known does as well.
            let _ = inner.clock.refresh().await;
        }
        // What this process has counted since the last time.
        inner.flush_meters().await?;
        let now = inner.clock.about();
        let span = range.days(now);
        let days = self.days(span).await?;
        let routes = inner.store.top(ReportBy::Route, span, MOST + 1).await?;
        let customers = inner.store.top(ReportBy::Customer, span, MOST + 1).await?;
        let runs = inner.store.runs(span).await?;
        let backlog = inner.backlog().await?;
        let first = match range {
            Range::All => days.keys().next().copied().unwrap_or(now / DAY),
            _ => span.0,
        };
        let last = days.keys().next_back().copied().unwrap_or_default().max(now / DAY);
        let totals = days.values().fold(Totals::default(), |sum, day| sum.and(day));
        let failures: u64 =
            runs.iter().filter(|((_, ran), _)| *ran == Ran::Failed).map(|(_, count)| count).sum();
        let mut all = figures(&totals);
        all["failures"] = failures.into();
        let network = inner.client.network();
        Ok(json!({
            "provider": inner.client.address().to_string(),
            "network": network.name,
            "now": now,
            "range": { "name": range.name(), "since": date(first), "until": date(last) },
            "totals": all,
            "backlog": self.waiting(&backlog, now),
            "days": by_day(&days, first, last),
            "peak": days.values().map(|day| day.gross.max(day.net)).max().map(Usdc).map(usdc),
            "routes": by_route(&routes, &runs),
            "customers": rows(&customers),
            "hasMoreRoutes": routes.len() > MOST as usize,
            "hasMoreCustomers": customers.len() > MOST as usize,
        }))
    }

    fn waiting(&self, backlog: &Backlog, now: u64) -> Value {
        let inner = &self.paywall.inner;
        let owed = backlog.deliveries + backlog.returns;
        json!({
            "open": backlog.open,
            "deliveries": backlog.deliveries,
            "refunds": backlog.returns,
            "owedSince": (owed > 0).then(|| now.saturating_sub(backlog.oldest.as_secs())),
            "trouble": backlog.trouble,
            "expected": usdc(backlog.expected),
            "delivered": backlog.delivered,
            "nextAt": backlog.next_at,
            "due": backlog.due,
            "dueSince": backlog.due_since.filter(|since| *since > 0),
            // Who settles nothing has not asked what gas costs.
            "notWorthGas": inner.least_net().map(|_| backlog.small),
            "settlesItself": inner.settings.settle == Settle::Auto,
            "disputed": backlog.disputed,
            "lost": backlog.lost,
        })
    }

    /// The totals of these days, by day.
    async fn days(&self, span: (u64, u64)) -> Result<BTreeMap<u64, Totals>> {
        let (mut days, mut after) = (BTreeMap::new(), None);
        loop {
            let store = &self.paywall.inner.store;
            let page = store.report(ReportBy::Day, span, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(days) };
            after = Some(last.clone());
            days.extend(page.into_iter().filter_map(|(key, row)| Some((day_of(&key)?, row))));
        }
    }

    pub(super) async fn payments(&self, query: &PaymentQuery) -> Result<Value> {
        let mut records = self.paywall.payments(query).await?;
        let has_more = records.len() > PAYMENTS as usize;
        records.truncate(PAYMENTS as usize);
        let rows: Vec<_> = records.iter().map(payment).collect();
        Ok(json!({ "payments": rows, "hasMore": has_more }))
    }

    pub(super) async fn story(&self, id: TransactionId) -> Result<Option<Value>> {
        let store = &self.paywall.inner.store;
        let Some(row) = store.payment_row(id).await? else { return Ok(None) };
        let kept = store.calls(id).await?;
        let calls: Vec<_> = kept
            .iter()
            .take(MOST as usize)
            .map(|call| {
                json!({
                    "number": call.index + 1,
                    "key": call.key,
                    "answeredAt": call.answered_at,
                    "contentHash": call.content_hash,
                })
            })
            .collect();
        Ok(Some(json!({
            "payment": payment(&PaymentRecord::from(row)),
            "calls": calls,
            "keptCalls": kept.len(),
        })))
    }
}

fn usdc(amount: Usdc) -> String {
    amount.to_string()
}

/// Wei as ETH, to the last digit.
fn eth(wei: u64) -> String {
    let (whole, rest) = (wei / 10_u64.pow(18), wei % 10_u64.pow(18));
    let digits = format!("{rest:018}");
    let shown = digits.trim_end_matches('0').len().max(2);
    format!("{whole}.{}", &digits[..shown])
}

/// A day of the books, which are of UTC: `2026-11-27`.
fn date(day: u64) -> String {
    // No calendar that people use goes on behind the year 9999.
    let time = UNIX_EPOCH + Duration::from_secs(day.min(2_932_896) * DAY);
    humantime::format_rfc3339_seconds(time).to_string().chars().take(10).collect()
}

fn day_of(date: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(&format!("{date}T00:00:00Z")).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs() / DAY)
}

fn figures(totals: &Totals) -> Value {
    let Totals { calls, gross, settled, paid_out, fee, net, gas, refunded, disputed } = *totals;
    json!({
        "calls": calls,
        "gross": usdc(Usdc(gross)),
        "settled": settled,
        "paidOut": usdc(Usdc(paid_out)),
        "fee": usdc(Usdc(fee)),
        "net": usdc(Usdc(net)),
        "gas": eth(gas),
        "refunded": refunded,
        "disputed": disputed,
    })
}

/// How much of the greatest an amount is, in thousandths: for bars.
fn share(of: u64, greatest: u64) -> u64 {
    (u128::from(of) * 1_000).checked_div(u128::from(greatest)).unwrap_or_default() as u64
}

fn by_day(days: &BTreeMap<u64, Totals>, first: u64, last: u64) -> Vec<Value> {
    let greatest = days.values().map(|day| day.gross.max(day.net)).max().unwrap_or_default();
    let shown: Vec<u64> = match last.saturating_sub(first) < MOST_DAYS {
        // Days on which nothing was earned are a part of the picture.
        true => (first..=last).collect(),
        false => days.keys().copied().collect(),
    };
    let nothing = Totals::default();
    let row = |day: u64| {
        let totals = days.get(&day).unwrap_or(&nothing);
        let mut row = figures(totals);
        row["key"] = date(day).into();
        row["grossBar"] = share(totals.gross, greatest).into();
        row["netBar"] = share(totals.net, greatest).into();
        row
    };
    shown.into_iter().map(row).collect()
}

fn rows(top: &[(String, Totals)]) -> Vec<Value> {
    let greatest = top.iter().map(|(_, row)| row.gross.max(row.net)).max().unwrap_or_default();
    let row = |(key, totals): &(String, Totals)| {
        let mut row = figures(totals);
        row["key"] = key.as_str().into();
        row["bar"] = share(totals.gross.max(totals.net), greatest).into();
        row
    };
    top.iter().take(MOST as usize).map(row).collect()
}

fn by_route(top: &[(String, Totals)], runs: &BTreeMap<(String, Ran), u64>) -> Vec<Value> {
    let mut shown = rows(top);
    let earned: BTreeSet<_> = top.iter().map(|(route, _)| route.as_str()).collect();
    let failed: BTreeSet<_> = runs.keys().map(|(route, _)| route.as_str()).collect();
    // Where every call failed, nothing was earned.
    for route in failed.difference(&earned).take((MOST as usize).saturating_sub(shown.len())) {
        shown.extend(rows(&[((*route).to_owned(), Totals::default())]));
    }
    for row in &mut shown {
        let route = row["key"].as_str().unwrap_or_default().to_owned();
        let ran = runs.range((route.clone(), Ran::Failed)..=(route, Ran::Longer));
        let ran: Vec<_> = ran.map(|((_, ran), count)| (*ran, *count)).collect();
        let failures = ran.iter().filter(|(ran, _)| *ran == Ran::Failed).map(|(_, count)| count);
        row["failures"] = failures.sum::<u64>().into();
        for (name, percent) in [("p50", 50), ("p95", 95), ("p99", 99)] {
            row[name] = percentile(&ran, percent).into();
        }
    }
    shown
}

/// In which time so many of a hundred runs were done: the bound of the bucket that the run is in, which
/// is what a histogram knows. `None` where nothing was served.
fn percentile(ran: &[(Ran, u64)], percent: u64) -> Option<String> {
    let served = || ran.iter().filter(|(ran, _)| *ran != Ran::Failed);
    let wanted = (served().map(|(_, count)| count).sum::<u64>() * percent).div_ceil(100);
    let mut done = 0;
    let (found, _) = served().find(|(_, count)| {
        done += count;
        done >= wanted
    })?;
    let words = |ms: u32| match ms {
        0..1_000 => format!("{ms} ms"),
        _ => format!("{} s", f64::from(ms) / 1e3),
    };
    match *found {
        Ran::Within(ms) => Some(format!("≤ {}", words(ms))),
        // The bounds of the histogram end there.
        Ran::Longer => Some("> 60 s".to_owned()),
        Ran::Failed => None,
    }
}

/// Times are 0 where it has not come to that.
fn payment(record: &PaymentRecord) -> Value {
    json!({
        "transactionId": record.transaction_id,
        "requester": record.requester.to_string(),
        "stage": record.stage,
        "amount": usdc(record.amount),
        "spent": usdc(record.spent),
        "calls": record.calls,
        "fee": record.fee.map(usdc),
        "net": record.net.map(usdc),
        "expectedNet": usdc(record.expected_net),
        "gas": eth(record.gas_wei),
        "openedAt": record.opened_at,
        "deadline": record.deadline,
        "deliveredAt": record.delivered_at,
        "settleAt": record.settle_at,
        "settledAt": record.settled_at,
        "contentHash": record.content_hash,
        "trouble": record.trouble,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_the_names_that_the_books_give_them() {
        for (day, name) in [(0, "1970-01-01"), (11_016, "2000-02-29"), (20_784, "2026-11-27")] {
            assert_eq!((date(day).as_str(), day_of(name)), (name, Some(day)));
        }
        assert_eq!(date(u64::MAX), "9999-12-31");
        assert_eq!(day_of("soon"), None);
    }

    #[test]
    fn a_range_begins_on_a_day_and_hides_nothing_that_came_later() {
        let now = 20_784 * DAY + 3_600;
        let first = |range: Range| range.days(now).0;
        assert_eq!(Range::ALL.map(first), [20_783, 20_778, 20_755, 20_695, 0]);
        assert!(Range::ALL.into_iter().all(|range| range.days(now).1 >= 20_785));
        assert_eq!(Range::Quarter.days(5).0, 0);
        let problem = Range::named(Some("8d")).unwrap_err().to_string();
        assert!(problem.contains("7d") && problem.contains("8d"), "{problem}");
    }

    #[test]
    fn percentiles_are_bounds_of_the_histogram_and_leave_failures_out() {
        let ran =
            [(Ran::Failed, 900), (Ran::Within(5), 50), (Ran::Within(2_500), 49), (Ran::Longer, 1)];
        let told = [50, 51, 95, 99, 100].map(|percent| percentile(&ran, percent));
        let expected = ["≤ 5 ms", "≤ 2.5 s", "≤ 2.5 s", "≤ 2.5 s", "> 60 s"];
        assert_eq!(told.map(Option::unwrap_or_default), expected);
        assert_eq!(percentile(&ran[..1], 50), None);
        assert_eq!(percentile(&[], 99), None);
    }

    #[test]
    fn bars_are_shares_of_the_greatest() {
        assert_eq!(
            [(0, 0), (1, 2), (u64::MAX, u64::MAX)].map(|(of, all)| share(of, all)),
            [0, 500, 1_000]
        );
        let day = |gross, net| Totals { gross, net, ..Totals::default() };
        let days = BTreeMap::from([(2, day(400, 0)), (4, day(100, 300))]);
        let shown = by_day(&days, 1, 4);
        let bars: Vec<_> = shown.iter().map(|row| (&row["grossBar"], &row["netBar"])).collect();
        assert_eq!(
            bars,
            [
                (&json!(0), &json!(0)),
                (&json!(1_000), &json!(0)),
                (&json!(0), &json!(0)),
                (&json!(250), &json!(750))
            ]
        );
        // One wrong day, far away, must not make millions of rows.
        assert_eq!(by_day(&BTreeMap::from([(2, day(1, 1))]), 2, u64::MAX).len(), 1);
    }

    #[test]
    fn gas_is_told_to_the_last_wei() {
        assert_eq!(
            [0, 1, 1_500_000_000_000_000_000].map(eth),
            ["0.00", "0.000000000000000001", "1.50"]
        );
    }

    #[test]
    fn a_route_of_which_every_call_failed_is_shown() {
        let runs = BTreeMap::from([(("GET /broken".to_owned(), Ran::Failed), 3)]);
        let shown =
            by_route(&[("GET /".to_owned(), Totals { calls: 1, ..Totals::default() })], &runs);
        assert_eq!((&shown[0]["failures"], &shown[1]["failures"]), (&json!(0), &json!(3)));
        assert_eq!((&shown[1]["key"], &shown[1]["p50"]), (&json!("GET /broken"), &Value::Null));
    }
}
