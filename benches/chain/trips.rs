//! Round trips of each call, counted by the network in front of the node.

use std::time::Duration;

use agirails::{
    Address, LinkEscrow, Result, State, TransactionId, Usdc,
    kernel::{Kernel, TransactionQuery, Transition, chain::ChainKernel},
    protocol::proof::Resolution,
};
use agirails_devnet::{Fault, Rule};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    Plan,
    figures::Outcome,
    ground::{Ground, PRICE},
};

/// How often the counter is looked at.
const SAMPLE: Duration = Duration::from_millis(1);
/// How long a transaction is held back, so that nothing else passes while that is noticed.
const SENDING: Duration = Duration::from_millis(30);
const SEND: &str = "eth_sendRawTransaction";

/// The least that was counted of each call, in the order in which they were first seen.
#[derive(Default)]
struct Table(Vec<Count>);

struct Count {
    call: &'static str,
    /// Up to the one that brought the last of its transactions; 0 where it sends none.
    sent: u64,
    /// All of them. The chain mines at once.
    confirmed: u64,
    /// Transactions that it sends.
    transactions: u64,
}

impl Table {
    fn note(&mut self, new: Count) {
        match self.0.iter_mut().find(|count| count.call == new.call) {
            Some(count) if (new.confirmed, new.sent) < (count.confirmed, count.sent) => {
                *count = new;
            }
            Some(_) => {}
            None => self.0.push(new),
        }
    }

    /// Counts what passes while this call is under way.
    async fn count<T>(
        &mut self,
        ground: &Ground,
        name: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let before = ground.network.stats();
        let (mut sent, mut transactions) = (0, 0);
        let watch = async {
            loop {
                let now = ground.network.stats();
                let more = now.calls_of(SEND) - before.calls_of(SEND);
                if more > transactions {
                    (sent, transactions) = (now.requests - before.requests, more);
                }
                sleep(SAMPLE).await;
            }
        };
        let outcome = tokio::select! {
            outcome = call => outcome?,
            () = watch => unreachable!("it never ends"),
        };
        let confirmed = ground.network.stats().requests - before.requests;
        self.note(Count { call: name, sent, confirmed, transactions });
        Ok(outcome)
    }
}

pub async fn count(plan: &Plan, ground: &Ground, ids: &[TransactionId]) -> Outcome<Value> {
    let mut table = Table::default();
    let url = ground.network.url();
    ground.network.add(Rule::new(Fault::Delay(SENDING)).on(SEND));
    for round in 0..plan.counts {
        count_reads(&mut table, ground, ids).await?;
        let kernel = ground.kernel(url).await?;
        count_sends(&mut table, ground, &kernel, round).await?;
    }
    ground.network.clear();
    let rows = table.0.iter().map(|Count { call, sent, confirmed, transactions }| {
        println!("{call:<44} {transactions} transactions, {sent} requests until sent, {confirmed}");
        json!({ "call": call, "sent": sent, "confirmed": confirmed, "transactions": transactions })
    });
    Ok(rows.collect())
}

async fn count_reads(table: &mut Table, ground: &Ground, ids: &[TransactionId]) -> Outcome<()> {
    let profile = ground.profile(ground.network.url());
    let connect = async { Ok(ground.reader(profile).await) };
    let kernel = table.count(ground, "connect", connect).await??;
    let (requester, many) = (ground.requester(), &ids[..100]);
    let page = TransactionQuery::of(requester);
    table.count(ground, "get_transaction", kernel.get_transaction(ids[0])).await?;
    table.count(ground, "get_transactions of 100", kernel.get_transactions(many)).await?;
    table.count(ground, "escrow", kernel.escrow(ids[0])).await?;
    table.count(ground, "balance", kernel.balance(requester)).await?;
    let first = "find_transactions of 100, the first time";
    let found = table.count(ground, first, kernel.find_transactions(&page)).await?;
    let after = found.last().map(|transaction| transaction.id);
    let again = kernel.find_transactions(&page);
    table.count(ground, "find_transactions of 100, again", again).await?;
    let page = TransactionQuery { after, ..page };
    let behind = kernel.find_transactions(&page);
    table.count(ground, "find_transactions of 100, a later page", behind).await?;
    let events = table.count(ground, "events, 1_000 of them", kernel.events(0, 1_000)).await?;
    let newest = newest(&kernel, events.last().map_or(0, |record| record.cursor)).await?;
    table.count(ground, "events, none of them new", kernel.events(newest, 1_000)).await?;
    Ok(())
}

async fn newest(kernel: &ChainKernel, mut cursor: u64) -> Result<u64> {
    while let Some(last) = kernel.events(cursor, 10_000).await?.last() {
        cursor = last.cursor;
    }
    Ok(cursor)
}

/// The two parties, and the kernel that sends for them.
struct Play<'a> {
    table: &'a mut Table,
    ground: &'a Ground,
    kernel: &'a ChainKernel,
    payer: Address,
    worker: Address,
}

async fn count_sends(
    table: &mut Table,
    ground: &Ground,
    kernel: &ChainKernel,
    round: usize,
) -> Outcome<()> {
    let (payer, worker) = (ground.requester(), ground.provider().address);
    let mut play = Play { table, ground, kernel, payer, worker };
    // A key's first call also looks which chain this is.
    let approval = kernel.approve(payer, Usdc(0));
    play.table.count(ground, "approve, a key's first call", approval).await?;
    kernel.approve(worker, Usdc(0)).await?;
    kernel.approve(ground.devnet.admin().address, Usdc(0)).await?;
    play.a_quoted_one(&format!("quoted {round}")).await?;
    play.a_settled_one(&format!("settled {round}")).await?;
    play.a_disputed_one(&format!("disputed {round}")).await
}

impl Play<'_> {
    async fn create(&mut self, label: &str) -> Outcome<TransactionId> {
        let request = self.ground.request(label).await?;
        let call = self.kernel.create_transaction(self.payer, &request);
        Ok(self.table.count(self.ground, "create_transaction", call).await?)
    }

    async fn link(&mut self, name: &'static str, id: TransactionId) -> Outcome<()> {
        let call = self.kernel.link_escrow(self.payer, id, LinkEscrow::default());
        self.table.count(self.ground, name, call).await?;
        Ok(())
    }

    async fn step(
        &mut self,
        name: &'static str,
        by: Address,
        id: TransactionId,
        to: State,
        data: Vec<u8>,
    ) -> Outcome<()> {
        let transition = Transition { id, to, data, proof: None };
        let call = self.kernel.transition_state(by, &transition);
        self.table.count(self.ground, name, call).await?;
        Ok(())
    }

    async fn a_quoted_one(&mut self, label: &str) -> Outcome<()> {
        let (payer, worker) = (self.payer, self.worker);
        let id = self.create(label).await?;
        self.step("transition to QUOTED", worker, id, State::Quoted, vec![]).await?;
        let accept = self.kernel.accept_quote(payer, id, PRICE);
        self.table.count(self.ground, "accept_quote", accept).await?;
        self.step("transition to CANCELLED", payer, id, State::Cancelled, vec![]).await
    }

    async fn a_settled_one(&mut self, label: &str) -> Outcome<()> {
        let (payer, worker) = (self.payer, self.worker);
        let id = self.create(label).await?;
        let approve = self.kernel.approve(payer, PRICE);
        self.table.count(self.ground, "approve", approve).await?;
        self.link("link_escrow, approved before", id).await?;
        self.step("transition to IN_PROGRESS", worker, id, State::InProgress, vec![]).await?;
        let milestone = self.kernel.release_milestone(payer, id, Usdc(PRICE.0 / 2));
        self.table.count(self.ground, "release_milestone", milestone).await?;
        self.step("transition to DELIVERED", worker, id, State::Delivered, vec![]).await?;
        self.step("transition to SETTLED", payer, id, State::Settled, vec![]).await
    }

    async fn a_disputed_one(&mut self, label: &str) -> Outcome<()> {
        let (payer, worker) = (self.payer, self.worker);
        let id = self.create(label).await?;
        self.link("link_escrow, nothing approved", id).await?;
        self.step("transition to IN_PROGRESS", worker, id, State::InProgress, vec![]).await?;
        self.step("transition to DELIVERED", worker, id, State::Delivered, vec![]).await?;
        let dispute = "transition to DISPUTED, nothing approved";
        self.step(dispute, payer, id, State::Disputed, vec![]).await?;
        let resolution = Resolution {
            requester_amount: Usdc(PRICE.0 / 2),
            provider_amount: Usdc(PRICE.0 - PRICE.0 / 2),
            provider_at_fault: true,
            mediator: None,
        };
        let admin = self.ground.devnet.admin().address;
        let settle = "transition of a dispute to SETTLED";
        self.step(settle, admin, id, State::Settled, resolution.encode()).await
    }
}
