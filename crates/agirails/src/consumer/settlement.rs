//! After the calls: settling what is proven, disputing what is not, and taking back what was
//! never used.

use std::time::Duration;

use alloy_primitives::{Address, B256};
use serde_json::Value;

use super::{
    BODY_LIMIT, Consumer, Inner, REQUEST_TIMEOUT, check_limit, encoding,
    http::{AS_IT_IS, HttpOutcome, HttpRequest, HttpResponse},
    offer::PaymentKind,
    records::{Payment, Purchase, Stage},
};
use crate::{
    client::Evidence,
    error::{Code, Error, Result},
    protocol::{
        State, Transaction, TransactionId, Usdc,
        money::{cancellation_penalty, dispute_bond},
        receipt::{Neighbour, climb, merkle_root},
    },
    wall_clock::wall_seconds,
};

/// How often a service is asked to close a balance while one of its calls still runs.
const CLOSE_TRIES: u32 = 4;
/// How long it is left alone in between, whatever it asks for.
const LEAST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// What became of transactions that pay for calls.
#[derive(Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The provider was paid.
    pub settled: Vec<TransactionId>,
    /// The money came back.
    pub refunded: Vec<TransactionId>,
    /// Nothing can be done yet.
    pub waiting: Vec<TransactionId>,
    /// Something contradicts, or failed: the error says what.
    pub refused: Vec<(TransactionId, Error)>,
}

impl Report {
    fn add(&mut self, id: TransactionId, outcome: Result<State>) {
        match outcome {
            Ok(State::Settled) => self.settled.push(id),
            Ok(State::Cancelled) => self.refunded.push(id),
            Ok(_) => self.waiting.push(id),
            Err(error) => self.refused.push((id, error)),
        }
    }
}

/// A prepaid transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Balance {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Who is paid.
    pub provider: Address,
    /// The service's origin.
    pub origin: String,
    /// What was put in.
    pub amount: Usdc,
    /// What no call has taken yet.
    pub left: Usdc,
    /// Until when calls can be made with it, Unix seconds.
    pub usable_until: u64,
    /// Whether calls are still made with it.
    pub is_open: bool,
}

/// A transaction that pays for calls, as it is on record here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PaymentRecord {
    /// The transaction; `None` where it is not known whether it was created.
    pub transaction_id: Option<TransactionId>,
    /// Who is paid.
    pub provider: Address,
    /// The service's origin.
    pub origin: String,
    /// Whether one call takes all of it.
    pub kind: PaymentKind,
    /// Where it stands: `planned`, `created`, `funded`, `retired` (no more calls are made with it),
    /// `disputed`, `settled`, `refunded`, or `abandoned` (no money ever moved).
    pub stage: &'static str,
    /// What was put into escrow.
    pub amount: Usdc,
    /// What calls have taken of it.
    pub used: Usdc,
    /// When it was planned, Unix seconds.
    pub planned_at: u64,
    /// Until when calls can be made with it, Unix seconds.
    pub usable_until: u64,
    /// The transaction's deadline, Unix seconds.
    pub deadline: u64,
}

impl Consumer {
    /// What is on record of this client's payments, the newest first. What is over is forgotten
    /// after 90 days.
    ///
    /// # Errors
    /// The storage's codes.
    pub async fn payments(&self) -> Result<Vec<PaymentRecord>> {
        let payments = self.inner.records.payments(&Stage::ALL).await?;
        let records = payments.into_iter().rev().map(|payment| PaymentRecord {
            transaction_id: payment.transaction_id,
            provider: payment.provider,
            origin: payment.origin,
            kind: payment.kind,
            stage: payment.stage.as_str(),
            amount: payment.amount,
            used: payment.used,
            planned_at: payment.planned_at,
            usable_until: payment.usable_until,
            deadline: payment.deadline,
        });
        Ok(records.collect())
    }

    /// The prepaid transactions that are not settled or refunded.
    ///
    /// # Errors
    /// The storage's codes.
    pub async fn balances(&self) -> Result<Vec<Balance>> {
        let now = self.inner.now().await?;
        for (id, error) in self.inner.catch_up().await? {
            tracing::warn!(transaction = %id, %error, "whether it was funded is not known yet");
        }
        let payments = self.inner.records.payments(&Stage::HELD).await?;
        let balances = payments.into_iter().filter(|payment| payment.kind == PaymentKind::Prepaid);
        let balances = balances.filter_map(|payment| {
            Some(Balance {
                transaction_id: payment.transaction_id?,
                provider: payment.provider,
                left: Usdc(payment.amount.0.saturating_sub(payment.used.0)),
                amount: payment.amount,
                usable_until: payment.usable_until,
                is_open: payment.stage == Stage::Funded && payment.usable_until > now,
                origin: payment.origin,
            })
        });
        Ok(balances.collect())
    }

    /// Settles what was delivered and is proven: every answer that came has a receipt, and the
    /// receipts are those of the delivery's proof, where that can be seen. A balance that its
    /// provider ended while calls could be made with it is not. What was settled or
    /// given back by others meanwhile is written down, so that the budget knows.
    ///
    /// Settling is not a duty: once the dispute window has passed, the provider can do it.
    ///
    /// # Errors
    /// The storage's codes; all others stand in the report.
    pub async fn settle(&self) -> Result<Report> {
        let mut report = self.inner.report().await?;
        for payment in self.inner.records.payments(&Stage::HELD).await? {
            let Some(id) = payment.transaction_id else { continue };
            report.add(id, self.inner.settle(&payment, id, true).await);
        }
        Ok(report)
    }

    /// Takes back what the provider has not touched by the deadline, less the penalty of the
    /// protocol, and all of what it has begun and not delivered by the end of the kernel's grace. On
    /// the kernel of May 2026 the first is possible from 1 USDC on, and there is no grace: what is
    /// refused stays the provider's to give back.
    ///
    /// # Errors
    /// The storage's codes; all others stand in the report.
    pub async fn reclaim(&self) -> Result<Report> {
        let mut report = self.inner.report().await?;
        for payment in self.inner.records.payments(&Stage::HELD).await? {
            let Some(id) = payment.transaction_id else { continue };
            report.add(id, self.inner.reclaim(&payment, id).await);
        }
        Ok(report)
    }

    /// What disputing a transaction would cost at first: a bond, at least 1 USDC, which falls to
    /// the provider unless the resolver finds the provider at fault.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn bond(&self, id: TransactionId) -> Result<Usdc> {
        let transaction = self.inner.client.get_transaction(id).await?;
        Ok(dispute_bond(transaction.amount, transaction.dispute_bond_bps_locked))
    }

    /// Disputes a delivery, with a bond of `max_bond` at most ([`Self::bond`]).
    ///
    /// # Errors
    /// [`Code::PriceAboveLimit`], naming the bond, where it is more: nothing was done. Else the
    /// kernel's, such as [`crate::Refusal::DisputeWindowClosed`].
    pub async fn dispute(&self, id: TransactionId, max_bond: Usdc) -> Result<Usdc> {
        check_limit("max_bond", Some(max_bond))?;
        let bond = self.inner.client.dispute(id, max_bond).await?;
        if let Some(payment) = self.inner.records.payment_of(id).await? {
            self.inner.records.finish(payment.id, Stage::Disputed, Usdc::ZERO).await?;
        }
        Ok(bond)
    }

    /// Makes no more calls with a balance, and asks the service to end it: to deliver now where
    /// calls were served, else to give the money back. What is left of a balance from which calls
    /// were served goes to the provider when it is settled. Returns where the service says it
    /// stands, such as `delivering`.
    ///
    /// # Errors
    /// [`Code::InvalidTransactionId`] for a transaction that paid for no calls,
    /// [`Code::CallRefused`] with the service's status, [`Code::ServiceUnreachable`].
    pub async fn close(&self, id: TransactionId) -> Result<String> {
        let inner = &self.inner;
        let payment = inner.records.payment_of(id).await?.ok_or_else(|| {
            let problem = "must be a transaction that paid for calls of this client";
            Error::invalid(Code::InvalidTransactionId, "transaction_id", &id.to_string(), problem)
        })?;
        inner.records.close(payment.id).await?;
        for tries_left in (0..CLOSE_TRIES).rev() {
            let (page, headers) = inner.sign_close(&payment, id, wall_seconds()).await?;
            let response = inner.page(&payment, "POST", &page, headers).await?;
            let busy = matches!(response.status, 409 | 429 | 503);
            if busy && tries_left > 0 {
                let rest = response.retry_after().unwrap_or(Duration::from_secs(1));
                tokio::time::sleep(rest.clamp(LEAST_REST, LONGEST_REST)).await;
                continue;
            }
            let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            if response.is_success() {
                let stage = body.get("stage").and_then(Value::as_str);
                return Ok(stage.unwrap_or("closed").to_owned());
            }
            let words = body.get("detail").and_then(Value::as_str).unwrap_or("it says no more");
            let (status, words) = (response.status, crate::error::shown_words(words));
            let message = format!("the service did not close the balance: HTTP {status}: {words}");
            return Err(Error::new(Code::CallRefused, message)
                .with_hint(
                    "an honest provider ends it by the deadline by itself; from then on reclaim \
                     takes back what was never used",
                )
                .with_facts(|facts| {
                    facts.transaction_id = Some(id);
                    facts.status = Some(status);
                }));
        }
        Err(Error::new(Code::ServiceUnreachable, "the service did not close the balance"))
    }
}

impl Inner {
    /// An empty report, but for payments of which it cannot be told whether they were funded.
    async fn report(&self) -> Result<Report> {
        Ok(Report { refused: self.catch_up().await?, ..Report::default() })
    }

    /// Settles a transaction if it is delivered and proven by its receipts. Returns its state.
    pub(super) async fn settle_if_delivered(&self, id: TransactionId) -> Result<State> {
        match self.records.payment_of(id).await? {
            Some(payment) => self.settle(&payment, id, false).await,
            None => Ok(self.client.get_transaction(id).await?.state),
        }
    }

    async fn settle(&self, payment: &Payment, id: TransactionId, ask: bool) -> Result<State> {
        let transaction = self.client.get_transaction(id).await?;
        if self.note(payment, &transaction).await? || transaction.state != State::Delivered {
            return Ok(transaction.state);
        }
        self.check_end(payment, &transaction).await?;
        self.check_delivery(payment, &transaction, ask).await?;
        self.client.transition_state(id, State::Settled, Evidence::None).await?;
        self.records.finish(payment.id, Stage::Settled, Usdc::ZERO).await?;
        Ok(State::Settled)
    }

    async fn reclaim(&self, payment: &Payment, id: TransactionId) -> Result<State> {
        let transaction = self.client.get_transaction(id).await?;
        if self.note(payment, &transaction).await? {
            return Ok(transaction.state);
        }
        let now = self.client.now().await?;
        if now < transaction.deadline || transaction.state == State::Delivered {
            return Ok(transaction.state);
        }
        let (terms, penalty) =
            (self.client.network().terms, transaction.requester_penalty_bps_locked);
        if transaction.state == State::InProgress
            && let Some(recovered_from) = terms.recovered_from(transaction.deadline)
        {
            if now >= recovered_from {
                self.records.cancelling(payment.id, Usdc::ZERO).await?;
                self.client.recover_stalled(id).await?;
                self.records.finish(payment.id, Stage::Refunded, transaction.amount).await?;
                return Ok(State::Cancelled);
            }
            return Ok(transaction.state);
        }
        let problem = match transaction.state {
            State::Committed if terms.requester_can_cancel(transaction.amount, penalty) => None,
            State::Committed => Some("is too small for its requester to cancel"),
            _ => Some("was begun by its provider, who alone can refund it now"),
        };
        if let Some(problem) = problem {
            let message = format!("the transaction {id} of {} USDC {problem}", transaction.amount);
            return Err(Error::new(Code::UntrustedProvider, message)
                .with_hint("ask the provider to cancel it, which refunds it in full")
                .with_facts(|facts| {
                    facts.transaction_id = Some(id);
                    facts.state = Some(transaction.state);
                    facts.deadline = Some(transaction.deadline);
                }));
        }
        let lost = cancellation_penalty(transaction.amount, penalty);
        self.records.cancelling(payment.id, lost).await?;
        self.client.transition_state(id, State::Cancelled, Evidence::None).await?;
        let returned = Usdc(transaction.amount.0.saturating_sub(lost.0));
        self.records.finish(payment.id, Stage::Refunded, returned).await?;
        Ok(State::Cancelled)
    }

    /// Writes down what was brought to an end, by others or by a cancellation of our own whose
    /// outcome was lost.
    pub(super) async fn note(&self, payment: &Payment, transaction: &Transaction) -> Result<bool> {
        let (stage, returned) = match transaction.state {
            State::Settled => (Stage::Settled, Usdc::ZERO),
            // A resolver may have split it, and how is not told: too much is counted, never too
            // little.
            State::Cancelled if transaction.dispute_initiator != Address::ZERO => {
                (Stage::Refunded, Usdc::ZERO)
            }
            State::Cancelled => {
                (Stage::Refunded, Usdc(transaction.amount.0.saturating_sub(payment.penalty.0)))
            }
            State::Disputed => (Stage::Disputed, Usdc::ZERO),
            _ => return Ok(false),
        };
        self.records.finish(payment.id, stage, returned).await?;
        Ok(true)
    }

    /// A delivery pays the provider all of a balance, so one that calls could still be made with is
    /// settled only where its requester closed it.
    ///
    /// # Errors
    /// [`Code::ProofMismatch`], saying how much was left.
    async fn check_end(&self, payment: &Payment, transaction: &Transaction) -> Result<()> {
        let left = Usdc(payment.amount.0.saturating_sub(payment.used.0));
        let calls = self.records.calls(payment.id).await?;
        let dearest = calls.iter().map(|call| call.price).max().unwrap_or_default();
        let is_early = payment.kind == PaymentKind::Prepaid
            && !payment.is_closed
            && left >= dearest.max(Usdc(1))
            && transaction.updated_at < self.records.may_end_from(payment.id).await?;
        if !is_early {
            return Ok(());
        }
        let id = transaction.id;
        self.records.ended_early(payment.id).await?;
        let message = format!(
            "the balance {id} is not settled: its provider ended it early, {left} USDC are left"
        );
        Err(Error::new(Code::ProofMismatch, message)
            .with_hint(
                "close it if you accept that; else ask the provider, or dispute within the window",
            )
            .with_facts(|facts| {
                facts.transaction_id = Some(id);
                facts.available = Some(left);
            }))
    }

    /// # Errors
    /// [`Code::ProofMismatch`] where something contradicts, or nothing proves anything.
    async fn check_delivery(
        &self,
        payment: &Payment,
        transaction: &Transaction,
        ask: bool,
    ) -> Result<()> {
        let id = transaction.id;
        let differs = |problem: String| {
            Error::new(
                Code::ProofMismatch,
                format!("the delivery of {id} is not settled: {problem}"),
            )
            .with_hint(
                "ask the provider, or dispute within the window; without either, the provider \
                     can settle once the window has passed",
            )
            .with_facts(|facts| facts.transaction_id = Some(id))
        };
        let calls = self.records.calls(payment.id).await?;
        if calls.iter().any(|call| call.is_contradicted) {
            return Err(differs("an answer is not what its receipt says".to_owned()));
        }
        let mut leaves = vec![];
        for call in &calls {
            match (call.content_hash, &call.receipt) {
                (Some(hash), Some(receipt)) => leaves.push((receipt.index, hash, call)),
                (Some(_), None) => {
                    return Err(differs("an answer came without a receipt".to_owned()));
                }
                (None, _) => {}
            }
        }
        if leaves.is_empty() {
            return Err(differs("none of its answers was received".to_owned()));
        }
        leaves.sort_by_key(|(index, ..)| *index);
        if let Some(pair) = leaves.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(differs(format!("two of its answers have the index {}", pair[0].0)));
        }
        // What the kernel committed to, its provider cannot tell differently to anybody.
        let committed = Some(transaction.result_hash).filter(|hash| !hash.is_zero());
        let kept = match committed {
            Some(hash) => Some(hash),
            None => self.client.get_delivery_proof(id).await?.map(|proof| proof.content_hash),
        };
        let root = match (kept, ask) {
            (Some(root), _) => Some(root),
            (None, true) => self.root_of(payment, id).await,
            (None, false) => None,
        };
        let Some(root) = root else { return Ok(()) };
        let hashes: Vec<B256> = leaves.iter().map(|(_, hash, _)| *hash).collect();
        if merkle_root(&hashes) == Some(root) {
            return Ok(());
        }
        if payment.kind == PaymentKind::Single {
            return Err(differs(format!("its proof is of {root}, and what came is {}", hashes[0])));
        }
        // There are calls whose answers never arrived, so the provider shows the way to the root.
        for (_, hash, call) in leaves {
            let branch = self.branch_of(payment, id, call).await?;
            if climb(hash, &branch) != root {
                return Err(differs(format!("its proof {root} does not hold the call {hash}")));
            }
        }
        Ok(())
    }

    async fn root_of(&self, payment: &Payment, id: TransactionId) -> Option<B256> {
        let page = self.page(payment, "GET", &format!("/api/payments/{id}"), vec![]).await.ok()?;
        let page: Value = serde_json::from_slice(&page.body).ok()?;
        page.get("contentHash")?.as_str()?.parse().ok()
    }

    pub(super) async fn branch_of(
        &self,
        payment: &Payment,
        id: TransactionId,
        call: &Purchase,
    ) -> Result<Vec<Neighbour>> {
        let key = if call.call_key.is_empty() { "-" } else { &call.call_key };
        let target = format!("/api/payments/{id}/receipts/{key}");
        let page = self.page(payment, "GET", &target, vec![]).await?;
        let branch = serde_json::from_slice::<Value>(&page.body)
            .ok()
            .and_then(|mut page| serde_json::from_value(page["branch"].take()).ok());
        branch.ok_or_else(|| {
            Error::new(Code::ServiceUnreachable, "the service does not show the call's proof")
                .with_hint("try again later")
                .with_facts(|facts| facts.transaction_id = Some(id))
        })
    }

    /// A page of the paywall that sold the payment.
    pub(super) async fn page(
        &self,
        payment: &Payment,
        method: &str,
        page: &str,
        mut headers: Vec<(String, String)>,
    ) -> Result<HttpResponse> {
        headers.push(AS_IT_IS.map(str::to_owned).into());
        let request = HttpRequest {
            method: method.to_owned(),
            url: format!("{}{page}", payment.base),
            headers,
            body: Default::default(),
            timeout: REQUEST_TIMEOUT,
            body_limit: BODY_LIMIT,
        };
        match encoding::decoded(self.send(request).await?, BODY_LIMIT).0 {
            HttpOutcome::Answered(response) => Ok(response),
            HttpOutcome::Failed(failure) => {
                let message = format!("the service did not answer: {failure}");
                Err(Error::new(Code::ServiceUnreachable, message).with_hint("try again later"))
            }
        }
    }
}
