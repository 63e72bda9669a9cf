//! The task of one key.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_json_rpc::ErrorPayload;
use alloy_primitives::{Address, B256, Bytes, TxKind, U64, U256};
use futures_util::future::BoxFuture;
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;

use super::{
    GasLimit, Mined, Operation, Reply, Request, SenderSettings, Shared,
    fees::{FeeHistory, Fees, Verdict},
    journal::{self, Attempt, Draft, Journal, Outcome, Send, State},
    watch::{Look, Receipt, Rhythm, look},
};
use crate::{
    error::{Code, Error, Result, shown_words},
    kernel::chain::{
        reverts,
        rpc::{Call, Failure, parse},
    },
    process_locks::ProcessLock,
    wall_clock::wall_seconds,
    wallet::Wallet,
};

/// Operations that are taken on together.
const BATCH: usize = 100;
/// A node that does not show a transaction within this time may have forgotten it.
const RESEND: Duration = Duration::from_secs(3);
/// A transaction that is not mined within this time offers too little.
const STUCK: Duration = Duration::from_secs(12);
/// What nobody waits for and is not mined within this time is called off: done late, it could
/// come as a surprise.
const ABANDONED: Duration = Duration::from_secs(5);
/// Other processes look after their own sends, unless they hang.
const NEGLECTED: Duration = Duration::from_secs(30);
/// A nonce that the chain has passed without a receipt of ours: nodes may lag that much.
const MISSING: Duration = Duration::from_secs(8);
/// How long after the last outcome a reorganisation is looked for.
const LINGER: Duration = Duration::from_secs(10);
/// Between two looks while nobody waits.
const IDLE: Duration = Duration::from_secs(1);
/// How long a lagging node is asked again.
const LAG_PATIENCE: Duration = Duration::from_secs(6);
/// Nonces that are looked after at a time.
const WINDOW: usize = 100;
/// No call of ours takes as much: the largest, a registration of a hundred services, takes 18 million.
/// A node that says more would have us offer for gas what nobody uses.
const MOST_GAS: u64 = 30_000_000;
/// What taking a nonce costs: a transfer of nothing to oneself.
const CALL_OFF_GAS: u64 = 30_000;

/// One key's task: the only one of this process that sends for it.
pub(super) struct AccountTask {
    shared: Arc<Shared>,
    sender: Address,
    wallet: Arc<dyn Wallet>,
    journal: Journal,
    place: ProcessLock,
    queue: mpsc::UnboundedReceiver<Request>,
    /// Whether the journal was found to be of this chain.
    began: bool,
    /// Callers, by number.
    calls: HashMap<u64, InFlight>,
    /// Which caller waits for which send.
    waiting: HashMap<i64, u64>,
    next_call: u64,
    /// Sends whose callers were answered since the journal was last written.
    told: Vec<i64>,
    sent: HashMap<i64, Sent>,
    /// Sends that a node found too cheap.
    too_cheap: HashSet<i64>,
    /// Since when the chain has passed a send's nonce without a receipt.
    missing: HashMap<i64, Instant>,
    rhythm: Rhythm,
    head: u64,
    quiet_since: Instant,
}

/// When a send was given to a node.
#[derive(Clone, Copy)]
struct Sent {
    first: Instant,
    last: Instant,
    /// When it first offered what it offers now.
    offered: Instant,
}

/// A caller's operations, on their way.
struct InFlight {
    what: &'static str,
    sends: Vec<(i64, B256, Operation)>,
    mined: HashMap<i64, Mined>,
    reply: Reply,
    until: Instant,
}

/// A request whose operations have their gas limits.
struct Ready {
    request: Request,
    gas: Vec<u64>,
}

/// What the chain says before a batch is signed.
struct Terms {
    next_nonce: u64,
    fees: Fees,
}

impl AccountTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        sender: Address,
        wallet: Arc<dyn Wallet>,
        queue: mpsc::UnboundedReceiver<Request>,
    ) -> Result<Self> {
        let place = ProcessLock::take(shared.file.path())?;
        Ok(Self {
            journal: Journal::new(shared.file.clone(), sender),
            place,
            queue,
            shared,
            sender,
            wallet,
            began: false,
            calls: HashMap::new(),
            waiting: HashMap::new(),
            next_call: 0,
            told: vec![],
            sent: HashMap::new(),
            too_cheap: HashSet::new(),
            missing: HashMap::new(),
            rhythm: Rhythm::default(),
            head: 0,
            quiet_since: Instant::now(),
        })
    }

    /// Until nobody can ask any more, and nobody waits.
    pub(super) async fn run(mut self) {
        let mut heads = self.shared.rpc.heads();
        let mut looking: Option<BoxFuture<'static, Result<Look>>> = None;
        let mut due = Instant::now();
        let mut closed = false;
        loop {
            if self.calls.is_empty() && (closed || self.quiet_since.elapsed() > LINGER) {
                looking = None;
                match self.queue.recv().await {
                    Some(request) => self.admit(request).await,
                    None => return,
                }
                due = Instant::now();
            }
            let pause = due.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                request = self.queue.recv(), if !closed => match request {
                    Some(request) => {
                        self.admit(request).await;
                        due = Instant::now();
                    }
                    None => closed = true,
                },
                found = wait(&mut looking), if looking.is_some() => {
                    looking = None;
                    due = Instant::now() + self.take_in(found).await;
                }
                () = heads.changed(pause), if looking.is_none() => {
                    looking = Some(Box::pin(self.look()));
                }
            }
        }
    }

    // ---- taking on -----------------------------------------------------------------------

    /// Takes on a request and all others that have come meanwhile.
    async fn admit(&mut self, first: Request) {
        let mut count = first.operations.len();
        let mut requests = vec![first];
        while count < BATCH
            && let Ok(request) = self.queue.try_recv()
        {
            count += request.operations.len();
            requests.push(request);
        }
        if let Err(error) = self.begin().await {
            return refuse_all(requests, &error);
        }
        let mut fresh = vec![];
        for request in requests {
            match self.adopt(&request).await {
                Ok(None) if request.resumes => drop(request.reply.send(Ok(vec![]))),
                Ok(None) => fresh.push(request),
                Ok(Some(send)) => self.wait_for_adopted(send, request),
                Err(error) => drop(request.reply.send(Err(error))),
            }
        }
        if fresh.is_empty() {
            return;
        }
        let (ready, terms) = match self.prepare(fresh).await {
            Ok(prepared) => prepared,
            Err((requests, error)) => return refuse_all(requests, &error),
        };
        if !ready.is_empty() {
            self.sign_and_send(ready, terms).await;
        }
    }

    async fn begin(&mut self) -> Result<()> {
        if self.began {
            return Ok(());
        }
        #[derive(serde::Deserialize)]
        struct Block {
            hash: B256,
        }
        let params = json!(["0x0", false]);
        let genesis: Block = self.shared.rpc.request("eth_getBlockByNumber", params).await?;
        journal::begin(&self.shared.file, self.shared.chain_id, genesis.hash).await?;
        self.began = true;
        Ok(())
    }

    /// The send of an earlier caller who asked for the same and never heard of it.
    async fn adopt(&self, request: &Request) -> Result<Option<i64>> {
        let Some(last) = request.operations.last() else { return Ok(None) };
        let alive = |owner| self.place.is_alive(owner);
        self.journal.adopt(last.digest(), self.place.owner(), alive).await
    }

    fn wait_for_adopted(&mut self, send: i64, request: Request) {
        if let Some(last) = request.operations.last().cloned() {
            self.enlist(request.reply, vec![(send, B256::ZERO, last)]);
        }
    }

    fn enlist(&mut self, reply: Reply, sends: Vec<(i64, B256, Operation)>) {
        let call = self.next_call;
        self.next_call += 1;
        self.waiting.extend(sends.iter().map(|(send, ..)| (*send, call)));
        let what = sends.last().map_or("", |(.., operation)| operation.what);
        let until = Instant::now() + self.shared.settings.wait_timeout;
        self.calls.insert(call, InFlight { what, sends, mined: HashMap::new(), reply, until });
    }

    /// Asks the chain, in one round trip, what everything costs and whether it would be refused.
    async fn prepare(
        &mut self,
        requests: Vec<Request>,
    ) -> Result<(Vec<Ready>, Terms), (Vec<Request>, Error)> {
        let mut calls = vec![
            Call::new("eth_blockNumber", json!([])),
            Call::new("eth_getTransactionCount", json!([self.sender, "pending"])),
            Call::new("eth_getBalance", json!([self.sender, "latest"])),
            Call::new("eth_feeHistory", json!(["0x5", "latest", [50]])),
        ];
        for operation in requests.iter().flat_map(|request| &request.operations) {
            if !matches!(operation.gas, GasLimit::AtMost(_)) {
                let Operation { from, to, data, .. } = operation;
                let call = json!([{ "from": from, "to": to, "data": data }, "pending"]);
                calls.push(Call::new("eth_estimateGas", call));
            }
        }
        let asked = Instant::now();
        let (mut answers, head, count, balance, fees) = loop {
            let answers = match self.shared.rpc.batch(&calls).await {
                Ok(answers) => answers,
                Err(error) => return Err((requests, error)),
            };
            let mut answers = answers.into_iter();
            let read = (|| {
                let head: U64 = number("eth_blockNumber", answers.next())?;
                let count: U64 = number("eth_getTransactionCount", answers.next())?;
                let balance: U256 = number("eth_getBalance", answers.next())?;
                let fees: FeeHistory = number("eth_feeHistory", answers.next())?;
                Ok((head.to::<u64>(), count.to::<u64>(), balance, fees))
            })();
            let (head, count, balance, fees) = match read {
                Ok(read) => read,
                Err(error) => return Err((requests, error)),
            };
            // A node that has not seen our last block judges by the past.
            let lags = self.shared.min_block.required().is_some_and(|required| head < required);
            if !lags || asked.elapsed() > LAG_PATIENCE {
                break (answers, head, count, balance, fees);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        self.head = self.head.max(head);
        let fees = match self.offer(&fees) {
            Ok(fees) => fees,
            Err(error) => return Err((requests, error)),
        };
        let mut ready = vec![];
        let mut affordable = balance;
        for request in requests {
            let mut gas = vec![];
            let mut refusal = None;
            for operation in &request.operations {
                let limit = match operation.gas {
                    GasLimit::AtMost(limit) => Ok(limit),
                    GasLimit::Estimate | GasLimit::AtLeast(_) => match answers.next() {
                        Some(Ok(raw)) => parse::<U64>("eth_estimateGas", &raw).and_then(|gas| {
                            let gas = gas.to::<u64>();
                            if gas > MOST_GAS {
                                return Err(too_much_gas(operation.what, gas));
                            }
                            Ok(gas / 2 * 3 + 10_000)
                        }),
                        Some(Err(payload)) => Err(reverts::explain(&payload)),
                        None => Err(unanswered("eth_estimateGas")),
                    },
                };
                let least = match operation.gas {
                    GasLimit::AtLeast(least) => least,
                    _ => 0,
                };
                match limit {
                    Ok(limit) => gas.push(limit.max(least)),
                    Err(error) => refusal = refusal.or(Some(error)),
                }
            }
            if refusal.is_none() {
                let cost: U256 =
                    gas.iter().map(|gas| U256::from(*gas) * U256::from(fees.max_fee)).sum();
                match affordable.checked_sub(cost) {
                    Some(rest) => affordable = rest,
                    None => refusal = Some(no_gas_money(self.sender, balance, cost)),
                }
            }
            match refusal {
                Some(error) => drop(request.reply.send(Err(error))),
                None => ready.push(Ready { request, gas }),
            }
        }
        Ok((ready, Terms { next_nonce: count, fees }))
    }

    /// Signs, writes down, and sends. Signing comes before the nonces are taken, so that one is
    /// never taken without the transaction that uses it; where another process takes them
    /// first, everything is signed anew.
    async fn sign_and_send(&mut self, ready: Vec<Ready>, terms: Terms) {
        let taken = loop {
            match self.try_to_take(&ready, &terms).await {
                Ok(Some(taken)) => break taken,
                Ok(None) => {}
                Err(error) => {
                    return refuse_all(ready.into_iter().map(|ready| ready.request), &error);
                }
            }
        };
        let (first, drafts, ids) = taken;
        let mut numbered = ids.iter().copied().zip(&drafts);
        for Ready { request, .. } in ready {
            let sends = request
                .operations
                .into_iter()
                .zip(numbered.by_ref())
                .map(|(operation, (id, draft))| (id, draft.attempt.hash, operation));
            let sends = sends.collect();
            self.enlist(request.reply, sends);
        }
        let outgoing: Vec<_> = (first..)
            .zip(ids)
            .zip(drafts)
            .map(|((nonce, id), draft)| (id, nonce, draft.attempt.raw))
            .collect();
        self.broadcast(&outgoing).await;
        self.rhythm.sent();
    }

    async fn try_to_take(
        &self,
        ready: &[Ready],
        terms: &Terms,
    ) -> Result<Option<(u64, Vec<Draft>, Vec<i64>)>> {
        let first = self.journal.next_nonce().await?.max(terms.next_nonce);
        let mut drafts = vec![];
        let operations = ready.iter().flat_map(|Ready { request, gas }| {
            let following = (0..request.operations.len()).rev();
            request.operations.iter().zip(gas).zip(following)
        });
        for (nonce, ((operation, gas), following)) in (first..).zip(operations) {
            let transaction = TxEip1559 {
                chain_id: self.shared.chain_id,
                nonce,
                gas_limit: *gas,
                max_fee_per_gas: terms.fees.max_fee,
                max_priority_fee_per_gas: terms.fees.tip,
                to: TxKind::Call(operation.to),
                value: U256::ZERO,
                access_list: Default::default(),
                input: operation.data.clone(),
            };
            let attempt = self.sign(transaction, false).await?;
            let prepares_next = following > 0;
            drafts.push(Draft { digest: operation.digest(), prepares_next, attempt });
        }
        let ids = self.journal.take(first, self.place.owner(), &drafts, wall_seconds()).await?;
        Ok(ids.map(|ids| (first, drafts, ids)))
    }

    async fn sign(&self, mut transaction: TxEip1559, calls_off: bool) -> Result<Attempt> {
        let signature = alloy_network::TxSigner::sign_transaction(&*self.wallet, &mut transaction)
            .await
            .map_err(|error| {
                let message = format!("the wallet of {} did not sign: {error}", self.sender);
                Error::new(Code::InvalidSignature, message)
                    .with_hint("nothing was sent; look after the wallet and try again")
            })?;
        let signed = transaction.into_signed(signature);
        let hash = *signed.hash();
        let raw = Bytes::from(TxEnvelope::from(signed).encoded_2718());
        Ok(Attempt { hash, raw, calls_off })
    }

    /// Gives signed transactions to a node, in the order of their nonces. What it refuses for
    /// good is withdrawn; all else the looks that follow will clear up.
    async fn broadcast(&mut self, outgoing: &[(i64, u64, Bytes)]) {
        let now = Instant::now();
        for (id, ..) in outgoing {
            let sent = Sent { first: now, last: now, offered: now };
            self.sent.entry(*id).or_insert(sent).last = now;
        }
        let calls: Vec<_> = outgoing
            .iter()
            .map(|(.., raw)| Call::new("eth_sendRawTransaction", json!([raw])))
            .collect();
        let Ok(answers) = self.shared.rpc.batch(&calls).await else { return };
        // From the last to the first, so that withdrawn nonces are the highest ones.
        for ((id, nonce, _), answer) in outgoing.iter().zip(answers).rev() {
            let Err(payload) = answer else { continue };
            match Verdict::of(&payload.message) {
                Verdict::Accepted | Verdict::Unclear => {}
                Verdict::FeeTooLow => drop(self.too_cheap.insert(*id)),
                Verdict::NoGasMoney => {
                    let message = format!(
                        "{} cannot pay for gas: {}",
                        self.sender,
                        shown_words(&payload.message)
                    );
                    let error = Error::new(Code::InsufficientGas, message)
                        .with_hint("send the address some of the chain's own coin");
                    self.withdraw(*id, *nonce, error).await;
                }
                Verdict::Refused => {
                    self.withdraw(*id, *nonce, Failure::Refused(payload).into()).await;
                }
            }
        }
    }

    /// A node refused a transaction for good, so nothing was sent.
    async fn withdraw(&mut self, send: i64, nonce: u64, error: Error) {
        let Some(call) = self.waiting.get(&send).copied() else { return };
        let given_back = self.journal.give_back(send, nonce).await;
        if !matches!(given_back, Ok(true)) {
            // A later nonce is taken: this one is called off in time, so that no gap stays.
            let _ = self.journal.abandon(&[send]).await;
        }
        self.finish(call, Err(error));
    }

    fn offer(&self, history: &FeeHistory) -> Result<Fees> {
        let SenderSettings { max_fee_per_gas, max_tip, .. } = self.shared.settings;
        history.offer(max_fee_per_gas, max_tip)
    }

    // ---- looking after -------------------------------------------------------------------

    fn look(&self) -> impl Future<Output = Result<Look>> + core::marker::Send + 'static {
        let (journal, rpc) = (self.journal.clone(), self.shared.rpc.clone());
        let (sender, head) = (self.sender, self.head);
        let waiting = self.waiting.keys().copied().collect();
        async move {
            let sends = journal.open(head).await?;
            look(rpc, sender, sends, waiting).await
        }
    }

    /// Takes in what a look found, and tells how long to wait before the next.
    async fn take_in(&mut self, found: Result<Look>) -> Duration {
        let pause = match found {
            Ok(look) => {
                self.rhythm.note(look.head, Instant::now());
                if self.shared.min_block.required().is_none_or(|required| look.head >= required) {
                    self.head = look.head;
                    self.act_on(look).await;
                }
                if self.calls.is_empty() { IDLE } else { self.rhythm.pause(Instant::now()) }
            }
            // The calls that wait end by their own time.
            Err(_) => Duration::from_millis(250),
        };
        self.give_up_waiting().await;
        pause
    }

    async fn act_on(&mut self, mut look: Look) {
        let mut outcomes = vec![];
        let mut resend = vec![];
        let mut raise = vec![];
        let sends = std::mem::take(&mut look.sends);
        for send in &sends {
            let passed = send.nonce < look.passed || has_receipt(send, &look);
            let awaited = send.state == State::Open || self.waiting.contains_key(&send.id);
            if awaited && passed {
                self.conclude(send, &mut look, &mut outcomes);
            }
        }
        // Everything from here on the chain has not passed.
        let pending =
            sends.iter().filter(|send| send.nonce >= look.passed && !has_receipt(send, &look));
        for send in pending.take(WINDOW) {
            if send.state == State::Mined {
                // A reorganisation took it back.
                outcomes.push(Outcome { id: send.id, state: State::Open, block: None });
            }
            match self.neglect(send) {
                Some(Neglect::Forgotten) => resend.push(send),
                Some(Neglect::TooCheap) => raise.push((send, false)),
                Some(Neglect::Abandoned) => raise.push((send, true)),
                None => {}
            }
        }
        let told = std::mem::take(&mut self.told);
        if !outcomes.is_empty() || !told.is_empty() {
            // Not written now, it is found again by a later look.
            let _ = self.journal.close(&outcomes, &told).await;
        }
        let mut outgoing: Vec<_> = resend
            .iter()
            .filter_map(|send| Some((send.id, send.nonce, send.attempts.last()?.raw.clone())))
            .collect();
        for (send, calls_off) in raise {
            if let Some(raw) = self.raise(send, calls_off).await {
                if let Some(sent) = self.sent.get_mut(&send.id) {
                    sent.offered = Instant::now();
                }
                outgoing.push((send.id, send.nonce, raw));
            }
        }
        if !outgoing.is_empty() {
            outgoing.sort_by_key(|(_, nonce, _)| *nonce);
            self.broadcast(&outgoing).await;
        }
    }

    /// What became of a send whose nonce the chain has passed.
    fn conclude(&mut self, send: &Send, look: &mut Look, outcomes: &mut Vec<Outcome>) {
        let call = self.waiting.get(&send.id).copied();
        let found = send
            .attempts
            .iter()
            .find_map(|attempt| Some((attempt, look.receipts.get(&attempt.hash)?.clone())));
        let (state, block) = match found {
            Some((attempt, receipt)) => {
                let confirmed = look.head.saturating_sub(receipt.block()) + 1;
                if confirmed < self.shared.settings.confirmations && call.is_some() {
                    return;
                }
                let block = receipt.block();
                if let Some(call) = call {
                    self.deliver(call, send.id, attempt, receipt);
                }
                if attempt.calls_off {
                    (State::Superseded, None)
                } else {
                    (State::Mined, Some(block))
                }
            }
            None => {
                let since = *self.missing.entry(send.id).or_insert_with(Instant::now);
                if since.elapsed() < MISSING {
                    return;
                }
                if let Some(call) = call {
                    self.finish(call, Err(superseded(send)));
                }
                (State::Superseded, None)
            }
        };
        self.missing.remove(&send.id);
        self.too_cheap.remove(&send.id);
        self.sent.remove(&send.id);
        outcomes.push(Outcome { id: send.id, state, block });
    }

    /// Hands a receipt to its caller.
    fn deliver(&mut self, call: u64, send: i64, attempt: &Attempt, receipt: Receipt) {
        self.shared.min_block.note(receipt.block());
        let Some(in_flight) = self.calls.get_mut(&call) else { return };
        let gas_cost = receipt.gas_cost();
        // What went before it is of no use without it.
        let lost = in_flight.mined.values().fold(gas_cost.0, |sum, mined| sum + mined.gas_cost.0);
        if attempt.calls_off {
            let error = Error::new(
                Code::Superseded,
                format!("{} was called off, since nobody waited for it", in_flight.what),
            )
            .with_hint("nothing was done; make the call again")
            .with_facts(|facts| facts.gas_wei = Some(lost));
            return self.finish(call, Err(error));
        }
        if !receipt.succeeded() {
            let operation = in_flight.sends.iter().find(|(id, ..)| *id == send);
            let Some((.., operation)) = operation.cloned() else { return };
            let (shared, hash, block) = (self.shared.clone(), attempt.hash, receipt.block());
            if let Some(in_flight) = self.answered(call) {
                // The node is asked for the reason, while this task goes on.
                tokio::spawn(async move {
                    let error = reason(&shared, &operation, hash, block).await;
                    let error = error.with_facts(|facts| facts.gas_wei = Some(lost));
                    let _ = in_flight.reply.send(Err(error));
                });
            }
            return;
        }
        let mined = Mined { hash: attempt.hash, logs: receipt.logs, gas_cost };
        in_flight.mined.insert(send, mined);
        if in_flight.mined.len() == in_flight.sends.len() {
            let InFlight { sends, mined, .. } = in_flight;
            let all = sends.iter().filter_map(|(id, ..)| mined.remove(id)).collect();
            self.finish(call, Ok(all));
        }
    }

    fn finish(&mut self, call: u64, outcome: Result<Vec<Mined>>) {
        if let Some(in_flight) = self.answered(call) {
            // Whoever asked may be gone.
            let _ = in_flight.reply.send(outcome);
        }
    }

    /// A call whose caller is told what became of all of it.
    fn answered(&mut self, call: u64) -> Option<InFlight> {
        let in_flight = self.forget(call)?;
        self.told.extend(in_flight.sends.iter().map(|(send, ..)| *send));
        Some(in_flight)
    }

    fn forget(&mut self, call: u64) -> Option<InFlight> {
        let in_flight = self.calls.remove(&call)?;
        for (send, ..) in &in_flight.sends {
            self.waiting.remove(send);
        }
        self.quiet_since = Instant::now();
        Some(in_flight)
    }

    async fn give_up_waiting(&mut self) {
        let now = Instant::now();
        let late: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, call)| call.until <= now)
            .map(|(call, _)| *call)
            .collect();
        for call in late {
            let Some(in_flight) = self.forget(call) else { continue };
            let open: Vec<_> = in_flight
                .sends
                .iter()
                .filter(|(id, ..)| !in_flight.mined.contains_key(id))
                .collect();
            let ids: Vec<_> = open.iter().map(|(id, ..)| *id).collect();
            let _ = self.journal.abandon(&ids).await;
            let hash = open.last().map(|(_, hash, _)| *hash).filter(|hash| !hash.is_zero());
            let waited = self.shared.settings.wait_timeout.as_secs();
            let error = Error::new(
                Code::OutcomeUnknown,
                format!("{} was sent and not confirmed within {waited} seconds", in_flight.what),
            )
            .with_hint(
                "make the same call again: it waits for what was sent and sends nothing twice",
            )
            .with_facts(|facts| facts.transaction_hash = hash);
            let _ = in_flight.reply.send(Err(error));
        }
    }

    /// Whether a send that is not mined needs something.
    fn neglect(&self, send: &Send) -> Option<Neglect> {
        let age = Duration::from_secs(wall_seconds().saturating_sub(send.at));
        let (first, last, offered) = self.sent.get(&send.id).map_or((age, age, age), |sent| {
            (sent.first.elapsed(), sent.last.elapsed(), sent.offered.elapsed())
        });
        if self.is_wanted(send) {
            // It is sent again meanwhile, so it counts since when it has offered as much.
            if self.too_cheap.contains(&send.id) && last > Duration::from_secs(1)
                || first > STUCK && offered > STUCK / 2
            {
                return Some(Neglect::TooCheap);
            }
            return (last > RESEND).then_some(Neglect::Forgotten);
        }
        let taken_back = send.state == State::Mined || send.told;
        if taken_back {
            return (last > RESEND || !self.sent.contains_key(&send.id))
                .then_some(Neglect::Forgotten);
        }
        if send.owner != 0 && send.owner != self.place.owner() && self.place.is_alive(send.owner) {
            return (last > NEGLECTED).then_some(Neglect::Forgotten);
        }
        (last > ABANDONED).then_some(Neglect::Abandoned)
    }

    /// Whether a caller of this process waits for a send, or for one that needs it.
    fn is_wanted(&self, send: &Send) -> bool {
        let is_awaited = |send| self.waiting.contains_key(&send);
        is_awaited(send.id) || send.prepares.is_some_and(is_awaited)
    }

    /// A new transaction for a send's nonce that offers more, or that calls the send off.
    async fn raise(&mut self, send: &Send, calls_off: bool) -> Option<Bytes> {
        let last = send.attempts.last()?;
        let SenderSettings { max_fee_per_gas: limit, max_tip, .. } = self.shared.settings;
        let history: FeeHistory =
            self.shared.rpc.request("eth_feeHistory", json!(["0x5", "latest", [50]])).await.ok()?;
        let mut transaction = decode(&last.raw)?;
        let earlier = Fees {
            max_fee: transaction.max_fee_per_gas,
            tip: transaction.max_priority_fee_per_gas,
        };
        let fees = self.offer(&history).ok()?.above(earlier);
        if fees.max_fee > limit || fees.tip > max_tip {
            // It waits until the fee falls, and is sent again as it is.
            return Some(last.raw.clone());
        }
        transaction.max_fee_per_gas = fees.max_fee;
        transaction.max_priority_fee_per_gas = fees.tip;
        if calls_off {
            transaction.to = TxKind::Call(self.sender);
            transaction.input = Bytes::new();
            transaction.gas_limit = CALL_OFF_GAS;
        }
        let calls_off = calls_off || last.calls_off;
        let attempt = self.sign(transaction, calls_off).await.ok()?;
        self.journal.add(send.id, &attempt).await.ok()?;
        self.too_cheap.remove(&send.id);
        Some(attempt.raw)
    }
}

enum Neglect {
    /// The node may not have it any more.
    Forgotten,
    /// It offers too little.
    TooCheap,
    /// Nobody waits for it.
    Abandoned,
}

async fn wait(looking: &mut Option<BoxFuture<'static, Result<Look>>>) -> Result<Look> {
    match looking {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}

fn has_receipt(send: &Send, look: &Look) -> bool {
    send.attempts.iter().any(|attempt| look.receipts.contains_key(&attempt.hash))
}

fn decode(raw: &Bytes) -> Option<TxEip1559> {
    let envelope = TxEnvelope::decode_2718(&mut raw.as_ref()).ok()?;
    Some(envelope.as_eip1559()?.tx().clone())
}

/// Why a mined transaction failed. A receipt does not tell; the same call at its block does,
/// and where the block itself changed the answer, at the block before.
async fn reason(shared: &Shared, operation: &Operation, hash: B256, block: u64) -> Error {
    let Operation { what, from, to, data, .. } = operation;
    let call = json!({ "from": from, "to": to, "data": data });
    for at in [block, block.saturating_sub(1)] {
        let at = format!("{at:#x}");
        let answer = shared.rpc.request::<Bytes>("eth_call", json!([call, at])).await;
        if let Err(Failure::Refused(payload)) = answer {
            let error = reverts::explain(&payload);
            if error.code() != Code::RequestRefused {
                return error.with_facts(|facts| facts.transaction_hash = Some(hash));
            }
        }
    }
    Error::new(Code::Reverted, format!("{what} failed when it was mined, in block {block}"))
        .with_hint("read the transaction: another call may have come first")
        .with_facts(|facts| facts.transaction_hash = Some(hash))
}

fn superseded(send: &Send) -> Error {
    Error::new(
        Code::Superseded,
        format!("another transaction of the same key took the nonce {}", send.nonce),
    )
    .with_hint("nothing was done; make the call again, and use one state directory for one key")
}

fn no_gas_money(sender: Address, balance: U256, cost: U256) -> Error {
    Error::new(
        Code::InsufficientGas,
        format!("{sender} has {balance} wei, and the gas may cost up to {cost} wei"),
    )
    .with_hint("send the address some of the chain's own coin; nothing was sent")
}

fn too_much_gas(what: &str, gas: u64) -> Error {
    Error::new(
        Code::InvalidAnswer,
        format!("the RPC endpoint says that {what} takes {gas} gas; no call takes over {MOST_GAS}"),
    )
    .with_hint("ask another RPC endpoint; nothing was sent")
}

fn unanswered(method: &'static str) -> Error {
    Error::new(Code::InvalidAnswer, format!("the endpoint left {method} unanswered"))
}

fn number<T: serde::de::DeserializeOwned>(
    method: &'static str,
    answer: Option<Result<Box<RawValue>, ErrorPayload>>,
) -> Result<T> {
    match answer {
        Some(Ok(raw)) => parse(method, &raw),
        Some(Err(payload)) => Err(Failure::Refused(payload).into()),
        None => Err(unanswered(method)),
    }
}

/// Every caller gets an error of its own.
fn refuse_all(requests: impl IntoIterator<Item = Request>, error: &Error) {
    for request in requests {
        let _ = request.reply.send(Err(error.again()));
    }
}
