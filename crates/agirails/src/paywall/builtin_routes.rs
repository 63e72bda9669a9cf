//! The free routes: prices, health, metrics, and what became of a payment.

use std::{collections::BTreeMap, fmt::Write};

use alloy_primitives::B256;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Inner,
    answer::Answer,
    event::Level,
    price::{Charge, Price, sensible_calls, usdc},
    rejection::{Refused, Rejection},
    request::{Incoming, parse_id},
    settings::{Settle, Unsigned},
    signer::read_session,
    store::{Backlog, CallId, Counters, Facts, Payment, Stage},
};
use crate::{
    error::Result,
    protocol::{
        State, TransactionId, Usdc,
        paid_request::TRANSACTION_HEADER,
        receipt::{Neighbour, merkle_places},
        service::is_bound,
    },
};

const PAYMENTS: &str = "/api/payments/";
/// A duty that is older than this is a fault that somebody has to see to.
const DEGRADED_SECONDS: u64 = 120;
/// So is a settlement that is due for longer than this.
const SETTLEMENT_DEGRADED_SECONDS: u64 = 3_600;

impl Inner {
    /// The answer of a free route; `None` where the path is none.
    pub(super) async fn page(&self, mount: &str, incoming: &Incoming) -> Option<Answer> {
        let path = incoming.target.split_once('?').map_or(&*incoming.target, |(path, _)| path);
        let path = below(mount, below(&self.public.prefix, path));
        let answer = match (incoming.method.as_str(), path) {
            ("GET" | "HEAD", "/api/pricing") => Ok(self.pricing()),
            ("GET" | "HEAD", "/health") => Ok(self.health().await),
            ("GET" | "HEAD", "/metrics") => self.metrics().await,
            (method, path) => {
                let (id, rest) = match path.strip_prefix(PAYMENTS)?.split_once('/') {
                    Some((id, rest)) => (id, rest),
                    None => (path.strip_prefix(PAYMENTS)?, ""),
                };
                let id = parse_id(id);
                let former = match id {
                    // One that was never used can be closed too.
                    Some(id) if method == "POST" => self.former_paid_by(id).await,
                    Some(id) => self.former_with(id).await,
                    None => None,
                };
                let inner = former.map_or(self, |former| former);
                match (method, id, rest) {
                    (_, None, _) => Err(Rejection::malformed_id().into()),
                    ("GET" | "HEAD", Some(id), "") => inner.status(id).await,
                    ("POST", Some(id), "close") => inner.close(id, incoming).await,
                    ("GET" | "HEAD", Some(id), rest) => match rest.strip_prefix("receipts/") {
                        Some(key) => inner.receipt_page(id, key).await,
                        None => return None,
                    },
                    _ => return None,
                }
            }
        };
        Some(answer.unwrap_or_else(|Refused(rejection, cause)| {
            let free = Charge::new(path_name(path), Usdc::ZERO);
            self.reject(&free, Usdc::ZERO, &rejection, cause.as_ref(), Some(incoming))
        }))
    }

    fn pricing(&self) -> Answer {
        let network = self.client.network();
        let mut charges = super::lock(&self.charges).clone();
        // Adapters register a route when it is first asked for, which differs between workers.
        charges.sort_by(|one, other| one.name.cmp(&other.name));
        let routes: Vec<_> = charges.iter().map(|charge| self.describe(charge)).collect();
        let per_call = charges.iter().filter_map(|charge| charge.single_price()).max();
        let settles = match self.settings.settle {
            Settle::Auto => "auto-settles",
            Settle::Never => "can be settled",
        };
        Answer::json(
            200,
            &json!({
                "provider": self.client.address().to_string(),
                "network": network.name,
                "mode": self.mode(),
                "serviceHash": self.service,
                "pricing": { "perCall": per_call.map(usdc), "currency": "USDC", "decimals": 6 },
                "payment": {
                    "protocol": "AGIRAILS/ACTP",
                    "header": TRANSACTION_HEADER,
                    "instructions": [
                        "1. Create transaction with this provider address",
                        "2. Fund the transaction (amount >= perCall price)",
                        format!("3. Call API with {TRANSACTION_HEADER} header"),
                        format!("4. Payment {settles} once the delivery's dispute window is over"),
                    ],
                },
                "routes": routes,
            }),
        )
    }

    fn describe(&self, charge: &Charge) -> Value {
        let Price::Fixed(price) = charge.price else {
            let text = charge.described.as_deref().unwrap_or("depends on the request");
            return json!({
                "route": charge.name, "price": null, "priceText": text, "calls": charge.calls,
            });
        };
        let min_seconds_left = self.min_seconds_left(charge);
        let terms = self.client.network().terms;
        let offers: Vec<_> =
            charge.offers(price).into_iter().map(|offer| offer.describe(terms)).collect();
        json!({
            "route": charge.name,
            "price": usdc(price),
            "priceBaseUnits": price.0.to_string(),
            "calls": charge.least_calls(price),
            "leastSensibleCalls": sensible_calls(price).max(charge.least_calls(price)),
            "offers": offers,
            "lastsSeconds": charge.lifetime(min_seconds_left, true) - min_seconds_left,
            "accepts": self.terms(charge, price).accepts(),
        })
    }

    fn mode(&self) -> &'static str {
        match self.client.network().is_mainnet() {
            _ if self.client.mock().is_some() => "mock",
            true => "mainnet",
            false => "testnet",
        }
    }

    async fn health(&self) -> Answer {
        let found = async { Ok((self.backlog().await?, self.former_backlogs().await?)) };
        let found: Result<_> = found.await;
        match found {
            Ok((backlog, former)) => {
                let Backlog { deliveries, returns, oldest, lost, .. } = backlog;
                let is_settling = self.settings.settle == Settle::Auto;
                let overdue = self.overdue_seconds(&backlog);
                let is_well = oldest.as_secs() < DEGRADED_SECONDS
                    && !(is_settling && overdue >= SETTLEMENT_DEGRADED_SECONDS);
                let status = if is_well { "ok" } else { "degraded" };
                let outbox =
                    json!({"depth": deliveries + returns, "oldestSeconds": oldest.as_secs()});
                let settlement = json!({
                    "waiting": backlog.delivered,
                    "due": backlog.due,
                    "notWorthGas": backlog.small,
                    "oldestSeconds": overdue,
                    "disputed": backlog.disputed,
                });
                let body = json!({
                    "status": status, "store": "ok", "outbox": outbox, "settlement": settlement,
                    "lost": lost,
                    "formerKeys": former.into_iter().map(|(provider, open, owed)| {
                        json!({"provider": provider, "open": open, "owed": owed})
                    }).collect::<Vec<_>>(),
                    "otherKeys": super::lock(&self.strangers).iter().map(|stranger| {
                        json!({
                            "provider": stranger.provider.to_string(),
                            "payments": stranger.payments,
                            "amount": usdc(stranger.amount),
                        })
                    }).collect::<Vec<_>>(),
                });
                Answer::json(200, &body)
            }
            Err(error) => {
                self.listener.tell(Level::Error, format!("/health: {error}"));
                Answer::json(503, &json!({"status": "down", "store": "unavailable"}))
            }
        }
        .with("Cache-Control", "no-store")
    }

    async fn metrics(&self) -> Result<Answer, Refused> {
        self.flush_meters().await.map_err(Refused::store)?;
        let mut counters = self.store.counters().await.map_err(Refused::store)?;
        let mut backlog = self.backlog().await.map_err(Refused::store)?;
        for former in &self.former {
            former.flush_meters().await.map_err(Refused::store)?;
            for (name, value) in former.store.counters().await.map_err(Refused::store)? {
                *counters.entry(name).or_default() += value;
            }
            backlog.add(former.backlog().await.map_err(Refused::store)?);
        }
        let text = prometheus(&counters, &backlog, self.overdue_seconds(&backlog));
        Ok(Answer::text(200, "text/plain; version=0.0.4; charset=utf-8", text)
            .with("Cache-Control", "no-store"))
    }

    async fn status(&self, id: TransactionId) -> Result<Answer, Refused> {
        let payment = self.payment_of(id).await?;
        let payment = payment.ok_or_else(Rejection::nothing_here)?;
        Ok(Answer::json(
            200,
            &json!({
                "txId": id,
                "stage": payment.stage.as_str(),
                "amount": usdc(payment.facts.amount),
                "spent": usdc(payment.spent),
                "calls": payment.calls,
                "contentHash": payment.content_hash,
                "deadline": payment.facts.deadline,
            }),
        )
        .with("Cache-Control", "no-store"))
    }

    async fn receipt_page(&self, id: TransactionId, key: &str) -> Result<Answer, Refused> {
        // As it stands in a path; a key is ASCII, so what is not is none.
        let key = percent_decode_str(key).decode_utf8_lossy();
        let key = if key == "-" { "" } else { &key };
        let payment = self.payment_of(id).await?;
        let payment = payment.ok_or_else(Rejection::nothing_here)?;
        let call = CallId { transaction: id, key: key.to_owned() };
        let call = self.store.answered(&call).await.map_err(Refused::store)?;
        let call = call.ok_or_else(Rejection::nothing_here)?;
        let receipt = self
            .receipt(
                id,
                payment.facts.requester,
                key,
                call.index,
                call.content_hash,
                call.answered_at,
            )
            .await;
        // The tree is complete when the payment is.
        let branch = match payment.stage {
            Stage::Open => None,
            _ => Some(self.branch(&payment, call.index).await.map_err(Refused::store)?),
        };
        Ok(Answer::json(
            200,
            &json!({"receipt": receipt, "branch": branch, "root": payment.content_hash}),
        )
        .with("Cache-Control", "no-store"))
    }

    /// The way from a call of a closed payment to its root: a node of each level, and no other call.
    pub(super) async fn branch(&self, payment: &Payment, index: u64) -> Result<Vec<Neighbour>> {
        let places = merkle_places(payment.calls, index);
        let nodes: Vec<_> = places.iter().map(|(level, place, _)| (*level, *place)).collect();
        let id = payment.facts.id;
        let mut found = self.store.nodes(id, &nodes).await?;
        if found.len() < nodes.len() {
            // It was closed just now, or by an earlier version: the tree is made once.
            let process = self.process.get();
            let _turn = process.trees.lock().await;
            found = self.store.nodes(id, &nodes).await?;
            if found.len() < nodes.len() {
                self.close_tree(id).await?;
                found = self.store.nodes(id, &nodes).await?;
            }
        }
        let side = |(node, (_, _, is_left)): (B256, (u32, u64, bool))| match is_left {
            true => Neighbour::Left(node),
            false => Neighbour::Right(node),
        };
        Ok(found.into_iter().zip(places).map(side).collect())
    }

    /// The requester has no more calls to make: what was served is delivered now, and what was
    /// never used is given back.
    async fn close(&self, id: TransactionId, incoming: &Incoming) -> Result<Answer, Refused> {
        // Whoever closes a balance ends what somebody paid for: only its requester may, also where
        // unsigned calls are served.
        let given = incoming.signature.as_deref();
        let signature = self.read_signature(given, Unsigned::Refuse).await?;
        let session = read_session(incoming.session.as_deref())?;
        let payment = incoming.payment(self.client.network(), self.client.address())?;
        let service_key = payment.service_key()?;
        let (facts, problem) = match self.payment_of(id).await? {
            Some(payment) => {
                let is_open = payment.stage == Stage::Open;
                let is_closable = payment.calls > 0 || payment.facts.bound || !is_open;
                (payment.facts, (!is_closable).then(Rejection::not_bound_here))
            }
            // No call was ever made with it: its requester may have no other way to its money, and
            // another service of the same key may be at work on it.
            None => {
                let transaction = self.look_up(id).await?;
                let bound = is_bound(transaction.service_hash, self.service, service_key);
                let is_idle = transaction.state == State::Committed
                    && self.settings.give_back_unclaimed
                    && !self.may_have_been_served(&transaction).await?;
                let problem = match (is_idle, bound) {
                    (false, _) => Some(Rejection::not_ours_to_close()),
                    (true, false) => Some(Rejection::not_bound_here()),
                    (true, true) => None,
                };
                (Facts { bound, ..Facts::of(&transaction) }, problem)
            }
        };
        self.check_signer(
            signature.as_ref(),
            session.as_ref(),
            &incoming.paid(id, incoming.idempotency_key.as_deref().unwrap_or_default()),
            &facts,
        )
        .await?;
        if let Some(problem) = problem {
            return Err(problem.into());
        }
        self.store.give_back(&facts).await.map_err(Refused::store)?;
        let stage = self.store.close(id).await.map_err(Refused::store)?;
        let stage = stage.ok_or_else(Rejection::nothing_here)?;
        if stage == Stage::Open {
            return Err(Rejection::call_is_running().into());
        }
        self.process.get().wake();
        Ok(Answer::json(202, &json!({"txId": id, "stage": stage.as_str()})))
    }
}

/// The path below the one that the application is mounted under.
fn below<'a>(mount: &str, path: &'a str) -> &'a str {
    match path.strip_prefix(mount.trim_end_matches('/')) {
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// Free routes are few, so that a scanner's paths make no new counters.
fn path_name(path: &str) -> &'static str {
    if path.starts_with(PAYMENTS) { "/api/payments" } else { "free" }
}

/// Families of counters, with what they mean.
const FAMILIES: [(&str, &str, &str); 14] = [
    ("agirails_paywall_calls_total", "counter", "Calls that were served and are paid."),
    (
        "agirails_paywall_revenue_base_units_total",
        "counter",
        "What served calls took, in base units of USDC (6 decimals).",
    ),
    ("agirails_paywall_repeats_total", "counter", "Answers that were given again."),
    ("agirails_paywall_failed_runs_total", "counter", "Handlers that failed; nothing was taken."),
    ("agirails_paywall_rejections_total", "counter", "Calls that were refused, by reason."),
    (
        "agirails_paywall_run_seconds",
        "histogram",
        "From a call's claim to its kept answer, the handler included.",
    ),
    ("agirails_paywall_settled_total", "counter", "Payments that were settled."),
    (
        "agirails_paywall_paid_out_base_units_total",
        "counter",
        "What settled payments paid out, the fee included, in base units of USDC (6 decimals).",
    ),
    ("agirails_paywall_fee_base_units_total", "counter", "The protocol's fee of it."),
    ("agirails_paywall_net_base_units_total", "counter", "What arrived of it."),
    ("agirails_paywall_gas_wei_total", "counter", "What the provider's moves cost in gas, in wei."),
    ("agirails_paywall_refunded_total", "counter", "Payments that were given back."),
    ("agirails_paywall_disputed_total", "counter", "Payments that were disputed."),
    ("agirails_paywall_webhooks_given_up_total", "counter", "Events that the webhook never took."),
];

/// The text format 0.0.4.
fn prometheus(counters: &Counters, backlog: &Backlog, overdue_seconds: u64) -> String {
    let mut text = String::new();
    let mut lines: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    for (name, value) in counters {
        let family = FAMILIES.iter().find(|(family, ..)| name.starts_with(family));
        let Some((family, ..)) = family else { continue };
        let line = match name.split_once("_sum_microseconds{") {
            Some((start, labels)) => {
                (format!("{start}_sum{{{labels}"), format!("{}", *value as f64 / 1e6))
            }
            None => (name.clone(), value.to_string()),
        };
        lines.entry(family).or_default().push(line);
    }
    for (family, kind, help) in FAMILIES {
        let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}");
        let mut family_lines = lines.remove(family).unwrap_or_default();
        family_lines.sort_by_key(|(name, _)| rank(name));
        for (name, value) in family_lines {
            let _ = writeln!(text, "{name} {value}");
        }
    }
    let gauges = [
        ("outbox_deliveries", "Deliveries that are owed on chain.", backlog.deliveries),
        ("outbox_refunds", "Refunds that are owed on chain.", backlog.returns),
        ("outbox_oldest_seconds", "The age of the oldest of them.", backlog.oldest.as_secs()),
        ("open_payments", "Payments that calls may be made with.", backlog.open),
        ("lost_payments", "Payments that could neither be delivered nor given back.", backlog.lost),
        ("delivered_payments", "Payments that are delivered and not settled.", backlog.delivered),
        ("settlements_due", "Those of them whose dispute window is over.", backlog.due),
        (
            "settlements_not_worth_gas",
            "Those of these that are not worth their gas.",
            backlog.small,
        ),
        (
            "settlement_oldest_seconds",
            "For how long the first of the others is due.",
            overdue_seconds,
        ),
        ("disputed_payments", "Payments that wait for the resolver.", backlog.disputed),
        ("webhooks_waiting", "Events that the webhook has not taken yet.", backlog.webhooks),
    ];
    for (name, help, value) in gauges {
        let name = format!("agirails_paywall_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    text
}

/// A histogram's buckets stand in the order of their bounds, route by route.
fn rank(name: &str) -> (String, u64) {
    let route = name.split_once("route=").map_or("", |(_, rest)| rest);
    let route = route.split_once(",le=").map_or(route, |(route, _)| route);
    let bound = match name.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"')) {
        Some(("+Inf", _)) => u64::MAX - 1,
        Some((bound, _)) => bound.parse::<f64>().map_or(0, |bound| (bound * 1_000.0) as u64),
        None if name.contains("_sum") || name.contains("_count") => u64::MAX,
        None => 0,
    };
    (route.trim_end_matches('}').to_owned(), bound)
}
