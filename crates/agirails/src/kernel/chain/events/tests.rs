//! Events of a chain that grows, is replaced, lags, refuses and fails between any two requests.

use std::{
    collections::VecDeque,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, LogData, U256, keccak256};
use alloy_rpc_types_eth::Log;
use async_trait::async_trait;
use proptest::{collection::vec, prelude::*};
use tokio::sync::Notify;

use super::{
    EventStream, Logs, Position, Source, Update, WatchOptions, contracts, cursor, index,
    ranges::{Header, News, Reader, Unread},
};
use crate::{
    error::{Code, Error, Result, Retry},
    kernel::{Role, TransactionQuery},
    protocol::{Event, EventRecord, Refusal, TransactionId},
    storage::{self, Format, Storage, Store},
};

/// What happens to the chain before it answers the next request.
#[derive(Debug, Clone)]
enum Happening {
    Nothing,
    /// So many blocks, with so many events each.
    Grows(Vec<u8>),
    /// As many of the newest blocks as given here are replaced by these, or one fewer.
    IsReplaced(Vec<u8>, bool),
    /// The next answer comes from a node that lacks so many blocks.
    Lags(u8),
    /// The next answer is an error.
    Fails,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    hash: B256,
    parent: B256,
    events: u32,
}

#[derive(Debug, Default)]
struct State {
    blocks: Vec<Block>,
    script: VecDeque<Happening>,
    made: u64,
    longest: usize,
    lag: usize,
    fails: bool,
    refuses_more_than: u64,
    answers_at_most: usize,
    asked: usize,
}

/// A chain in memory, whose blocks are made of hashes only.
#[derive(Debug, Default)]
struct Fake {
    state: Mutex<State>,
    largest_answer: AtomicUsize,
}

impl Fake {
    fn new(events: &[u8], script: Vec<Happening>) -> Arc<Self> {
        let fake = Self::default();
        {
            let mut state = fake.state();
            state.refuses_more_than = u64::MAX;
            state.answers_at_most = usize::MAX;
            state.push(&[0]);
            state.push(events);
            state.script = script.into();
        }
        Arc::new(fake)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next request's answer is made of the first so many blocks.
    fn view(&self) -> Result<(MutexGuard<'_, State>, usize)> {
        let mut state = self.state();
        state.asked += 1;
        let next = state.script.pop_front();
        if let Some(next) = next {
            state.happen(next);
            if state.script.is_empty() {
                // In the end it is longer than ever, and the nodes agree.
                let missing = (state.longest + 1).saturating_sub(state.blocks.len());
                state.push(&vec![1; missing]);
            }
        }
        let lag = std::mem::take(&mut state.lag);
        if std::mem::take(&mut state.fails) {
            return Err(Error::new(Code::EndpointUnreachable, "the line is dead"));
        }
        let height = state.blocks.len().saturating_sub(lag).max(1);
        Ok((state, height))
    }

    /// All events of the chain as it is.
    fn canonical(&self) -> Vec<EventRecord> {
        let state = self.state();
        let logs = state.logs(0..=u64::MAX, state.blocks.len());
        logs.iter().filter_map(record).collect()
    }

    fn head(&self) -> u64 {
        self.state().blocks.len() as u64 - 1
    }
}

impl State {
    fn push(&mut self, events: &[u8]) {
        for events in events {
            self.made += 1;
            let parent = self.blocks.last().map_or(B256::ZERO, |block| block.hash);
            let hash = keccak256([parent.as_slice(), &self.made.to_be_bytes()].concat());
            self.blocks.push(Block { hash, parent, events: u32::from(*events) });
        }
        self.longest = self.longest.max(self.blocks.len());
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Nothing => {}
            Happening::Grows(events) => self.push(&events),
            Happening::IsReplaced(events, shorter) => {
                let depth = events.len().min(self.blocks.len() - 1);
                self.blocks.truncate(self.blocks.len() - depth);
                // Within what a stream can tell apart: see UNKNOWN_DEPTH.
                let shorter = shorter && self.blocks.len() + depth + 8 > self.longest;
                self.push(&events[usize::from(shorter).min(depth)..depth]);
            }
            Happening::Lags(blocks) => self.lag = blocks.into(),
            Happening::Fails => self.fails = true,
        }
    }

    fn header(&self, number: u64, height: usize) -> Option<Header> {
        let place = usize::try_from(number).unwrap();
        let Block { hash, parent, .. } = *self.blocks[..height].get(place)?;
        Some(Header { number, hash, parent, time: time_of(number) })
    }

    fn logs(&self, blocks: RangeInclusive<u64>, height: usize) -> Vec<Log> {
        let last = height as u64 - 1;
        let range = *blocks.start()..=last.min(*blocks.end());
        range.flat_map(|number| logs_of(number, self.blocks[number as usize])).collect()
    }
}

/// Two blocks have each time.
fn time_of(block: u64) -> u64 {
    1_000 + block / 2 * 3
}

/// Every block's parties are one of four each.
fn party(kind: u8, of: u8) -> Address {
    Address::repeat_byte(16 * kind + of % 4)
}

fn logs_of(number: u64, block: Block) -> impl Iterator<Item = Log> {
    (0..block.events).map(move |index| {
        let seed = block.hash.0[index as usize % 32];
        // Not every log of the kernel is an event of the protocol, and not every event a creation.
        let (topics, data) = match index % 5 {
            4 => (vec![keccak256("FeeRecipientUpdated(address,address)")], vec![]),
            3 => (
                vec![keccak256("KernelPaused(address,uint256)"), party(1, seed).into_word()],
                vec![B256::from(U256::from(number))],
            ),
            _ => (
                vec![
                    contracts::CREATED[0],
                    keccak256([block.hash.as_slice(), &index.to_be_bytes()].concat()),
                    party(1, seed).into_word(),
                    party(2, seed / 4).into_word(),
                ],
                vec![B256::with_last_byte(100); 5],
            ),
        };
        let data: Bytes = data.into_iter().flatten().collect::<Vec<u8>>().into();
        Log {
            inner: alloy_primitives::Log {
                address: Address::ZERO,
                data: LogData::new_unchecked(topics, data),
            },
            block_hash: Some(block.hash),
            block_number: Some(number),
            // Other contracts' logs stand in between.
            log_index: Some(u64::from(index) * 2),
            ..Log::default()
        }
    })
}

fn record(log: &Log) -> Option<EventRecord> {
    let cursor = cursor::of(log.block_number.unwrap(), log.log_index.unwrap()).unwrap();
    Some(EventRecord { cursor, event: contracts::event(log)?.unwrap() })
}

/// One stream's line to the chain.
#[derive(Debug, Clone)]
struct Line {
    chain: Arc<Fake>,
    /// Nothing will happen any more, and the stream has been looking in vain.
    idle: Arc<AtomicBool>,
    told: Arc<Notify>,
}

impl Line {
    fn to(chain: &Arc<Fake>) -> Self {
        Self { chain: Arc::clone(chain), idle: Arc::default(), told: Arc::default() }
    }
}

struct Naps(Line, u32);

#[async_trait]
impl News for Naps {
    async fn changed(&mut self, _: Duration) {
        self.1 = if self.0.chain.state().script.is_empty() { self.1 + 1 } else { 0 };
        if self.1 > 3 {
            self.0.idle.store(true, Ordering::Relaxed);
            self.0.told.notify_one();
            std::future::pending().await
        }
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Source for Line {
    async fn head(&self) -> Result<Header> {
        let (state, height) = self.chain.view()?;
        Ok(state.header(height as u64 - 1, height).unwrap())
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>> {
        let (state, height) = self.chain.view()?;
        Ok(numbers.iter().map(|number| state.header(*number, height)).collect())
    }

    async fn logs(&self, blocks: RangeInclusive<u64>) -> Result<Vec<Log>, Unread> {
        let (state, height) = self.chain.view().map_err(Unread::Failed)?;
        if blocks.end() - blocks.start() >= state.refuses_more_than {
            return Err(Unread::TooMuch(Error::new(Code::RequestRefused, "block range")));
        }
        let logs = state.logs(blocks.clone(), height);
        if logs.len() > state.answers_at_most && blocks.end() > blocks.start() {
            return Err(Unread::TooMuch(Error::new(Code::RequestRefused, "query returned more")));
        }
        self.chain.largest_answer.fetch_max(logs.len(), Ordering::Relaxed);
        Ok(logs)
    }

    async fn logs_of(&self, blocks: &[B256]) -> Result<Vec<Option<Vec<Log>>>> {
        let (state, height) = self.chain.view()?;
        let find = |hash: &B256| {
            let number = state.blocks[..height].iter().position(|block| block.hash == *hash)?;
            Some(logs_of(number as u64, state.blocks[number]).collect())
        };
        Ok(blocks.iter().map(find).collect())
    }

    async fn created(
        &self,
        blocks: RangeInclusive<u64>,
        party: Address,
    ) -> Result<Vec<Log>, Unread> {
        let mut logs = self.logs(blocks).await?;
        logs.retain(|log| {
            let topics = log.inner.data.topics();
            contracts::CREATED.contains(&topics[0]) && topics[2..].contains(&party.into_word())
        });
        Ok(logs)
    }

    fn news(&self) -> Box<dyn News> {
        Box::new(Naps(self.clone(), 0))
    }
}

/// What a consumer holds: what was delivered, less what was taken back.
#[derive(Debug, Default)]
struct Consumer {
    held: Vec<EventRecord>,
    updates: usize,
    taken_back: usize,
    caught_up: usize,
    progress: Vec<u64>,
    errors: usize,
}

impl Consumer {
    fn hears(&mut self, update: Result<Update>, position: Position, restarted: bool) {
        self.updates += 1;
        let last = |held: &[EventRecord]| held.last().map_or(0, |record| record.cursor);
        match update {
            Ok(Update::Event(record)) => {
                assert!(
                    record.cursor > last(&self.held),
                    "{record:?} after {:?}",
                    self.held.last()
                );
                assert_eq!(position.cursor(), record.cursor);
                self.held.push(record);
            }
            Ok(Update::TakenBack { after, events }) => {
                self.taken_back += 1;
                let keep = self.held.partition_point(|record| record.cursor <= after);
                let mut void = self.held.split_off(keep);
                void.reverse();
                // A later stream remembers nothing of an earlier one's.
                assert!(void.starts_with(&events), "{events:?} of {void:?}");
                assert!(restarted || events == void, "{events:?} of {void:?}");
                assert_eq!(position.cursor(), after);
            }
            Ok(Update::Progress { block, events, .. }) => {
                assert!(cursor::block(last(&self.held)) <= block);
                assert!(events as usize >= self.held.len() || restarted);
                self.progress.push(block);
            }
            Ok(Update::CaughtUp { block }) => {
                assert!(cursor::block(last(&self.held)) <= block);
                self.caught_up += 1;
            }
            Err(error) => {
                assert_eq!(error.retry(), Retry::Safe);
                self.errors += 1;
            }
        }
        assert!(position.cursor() >= last(&self.held));
    }

    /// Follows until nothing happens any more. After each of so many updates another stream takes
    /// over. `impatient` drops every future that is not ready at once.
    async fn follow(
        &mut self,
        chain: &Arc<Fake>,
        confirmations: u64,
        stints: &[usize],
        impatient: bool,
    ) {
        let mut position = Position::default();
        let mut stints = stints.iter();
        let mut restarted = false;
        loop {
            let line = Line::to(chain);
            let options =
                WatchOptions { from: position, confirmations, poll_interval: Duration::ZERO };
            let reader = Arc::new(Reader::new(Arc::new(line.clone())));
            let mut stream = EventStream::new(reader, 0, options);
            assert_eq!(stream.position(), position);
            let stint = stints.next().map(|stint| self.updates + stint);
            loop {
                if stint.is_some_and(|stint| self.updates >= stint) {
                    break;
                }
                let update = if impatient {
                    match futures_util::poll!(Box::pin(stream.next())) {
                        Poll::Ready(update) => Some(update),
                        Poll::Pending if line.idle.load(Ordering::Relaxed) => None,
                        Poll::Pending => {
                            tokio::task::yield_now().await;
                            continue;
                        }
                    }
                } else {
                    tokio::select! {
                        biased;
                        update = stream.next() => Some(update),
                        () = line.told.notified() => None,
                    }
                };
                match update {
                    Some(update) => self.hears(update, stream.position(), restarted),
                    None => return,
                }
            }
            position = stream.position().to_string().parse().unwrap();
            assert_eq!(position, stream.position());
            restarted = true;
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn few_events() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0_u8), 3 => 1..4_u8, 1 => 4..20_u8]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::Nothing),
        3 => vec(few_events(), 0..4).prop_map(Happening::Grows),
        1 => vec(few_events(), 10..60).prop_map(Happening::Grows),
        2 => (vec(few_events(), 1..4), any::<bool>()).prop_map(|(e, s)| Happening::IsReplaced(e, s)),
        1 => (vec(few_events(), 4..30), any::<bool>()).prop_map(|(e, s)| Happening::IsReplaced(e, s)),
        1 => (1..8_u8).prop_map(Happening::Lags),
        1 => Just(Happening::Fails),
    ]
}

fn chain() -> impl Strategy<Value = Arc<Fake>> {
    let refuses = prop_oneof![Just(u64::MAX), 1..40_u64];
    let at_most = prop_oneof![Just(usize::MAX), 1..200_usize];
    (vec(few_events(), 0..300), vec(happening(), 0..80), refuses, at_most).prop_map(
        |(blocks, script, refuses, at_most)| {
            let chain = Fake::new(&blocks, script);
            chain.state().refuses_more_than = refuses;
            chain.state().answers_at_most = at_most;
            chain
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_delivered_less_what_is_taken_back_is_the_chain(
        chain in chain(),
        confirmations in prop_oneof![3 => Just(0_u64), 1 => 0..40_u64],
        stints in vec(0..60_usize, 0..5),
        impatient in any::<bool>(),
    ) {
        let mut consumer = Consumer::default();
        runtime().block_on(consumer.follow(&chain, confirmations, &stints, impatient));
        let mut expected = chain.canonical();
        let deepest = (chain.head() + 1).saturating_sub(confirmations);
        expected.retain(|record| record.cursor < cursor::before(deepest));
        prop_assert_eq!(consumer.held, expected);
    }
}

fn logs(chain: &Arc<Fake>) -> Logs {
    let format = Format {
        file: "chain.sqlite".to_owned(),
        identity: None,
        former: None,
        application_id: 0x0a51_7e57,
        schema: &[index::SCHEMA],
        synchronous: "NORMAL",
        patience: storage::PATIENCE,
    };
    let store = Store::open(Storage::Memory, format, |_| Ok(()));
    let store = futures_util::FutureExt::now_or_never(store).unwrap().unwrap();
    Logs::of(Arc::new(Line::to(chain)), 0, store)
}

/// The ids of a party's transactions, newest first.
fn transactions_of(chain: &Fake, party: Address, role: Option<Role>) -> Vec<TransactionId> {
    let mut found = chain.canonical();
    found.reverse();
    let ids = found.into_iter().filter_map(|record| match record.event {
        Event::TransactionCreated { transaction_id, requester, provider, .. } => {
            let as_requester = requester == party && role != Some(Role::Provider);
            let as_provider = provider == party && role != Some(Role::Requester);
            (as_requester || as_provider).then_some(transaction_id)
        }
        _ => None,
    });
    ids.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn pages_of_events_leave_nothing_out_where_nodes_lag(
        blocks in vec(few_events(), 0..300),
        script in vec(prop_oneof![
            3 => Just(Happening::Nothing),
            2 => (1..8_u8).prop_map(Happening::Lags),
            1 => vec(few_events(), 0..20).prop_map(Happening::Grows),
            1 => Just(Happening::Fails),
        ], 0..80),
        refuses_more_than in prop_oneof![Just(u64::MAX), 1..40_u64],
        limit in prop_oneof![1..4_u32, 1..200_u32, Just(10_000)],
    ) {
        let chain = Fake::new(&blocks, script);
        chain.state().refuses_more_than = refuses_more_than;
        let logs = logs(&chain);
        let (mut found, mut cursor, mut in_vain) = (vec![], 0, 0);
        runtime().block_on(async {
            while in_vain < 2 {
                let done = chain.state().script.is_empty();
                let Ok(page) = logs.events(cursor, limit).await else { continue };
                assert!(page.len() <= limit as usize);
                in_vain = if done && page.is_empty() { in_vain + 1 } else { 0 };
                cursor = page.last().map_or(cursor, |record| record.cursor);
                found.extend(page);
            }
        });
        prop_assert_eq!(found, chain.canonical());
    }

    #[test]
    fn a_partys_transactions_are_found_whatever_the_chain_did_before(
        chain in chain(),
        old in prop_oneof![Just(vec![]), vec(few_events(), 60)],
        looks in vec((1..3_u8, 0..4_u8), 0..30),
        limit in 1..20_u32,
    ) {
        // Long enough for a scan that is noted.
        let chain = Fake::new(&[old.repeat(25), vec![0]].concat(), {
            let mut state = chain.state();
            let blocks: Vec<u8> = state.blocks.iter().map(|b| b.events as u8).collect();
            let mut script: Vec<_> = std::mem::take(&mut state.script).into();
            script.insert(0, Happening::Grows(blocks));
            script
        });
        let logs = logs(&chain);
        runtime().block_on(async {
            for (kind, of) in looks {
                // The answer may be old by the time it is there.
                let _ = logs.created(&TransactionQuery::of(party(kind, of))).await;
            }
            while !chain.state().script.is_empty() {
                let _ = logs.created(&TransactionQuery::of(party(1, 0))).await;
            }
            for (kind, of) in [(1, 0), (1, 1), (2, 0), (2, 3)] {
                for role in [None, Some(Role::Requester), Some(Role::Provider)] {
                    let party = party(kind, of);
                    let mut query =
                        TransactionQuery { role, limit, ..TransactionQuery::of(party) };
                    let mut found = vec![];
                    loop {
                        let page = logs.created(&query).await.unwrap();
                        assert!(page.len() <= limit as usize);
                        query.after = page.last().copied();
                        found.extend(page);
                        if query.after.is_none() {
                            break;
                        }
                    }
                    assert_eq!(found, transactions_of(&chain, party, role));
                }
            }
        });
    }
}

#[test]
fn a_second_look_for_a_partys_transactions_reads_new_blocks_only() {
    let chain = Fake::new(&[2; 20_000], vec![]);
    let logs = logs(&chain);
    let query = TransactionQuery { limit: 1_000, ..TransactionQuery::of(party(1, 2)) };
    let asked = || std::mem::take(&mut chain.state().asked);
    runtime().block_on(async {
        let first = logs.created(&query).await.unwrap();
        assert_eq!(first.len(), 1_000);
        assert!((10..60).contains(&asked()));
        assert_eq!(logs.created(&query).await.unwrap(), first);
        assert!(asked() <= 4);
        chain.state().push(&[3; 10]);
        let newest = logs.created(&query).await.unwrap();
        assert_eq!(newest, transactions_of(&chain, query.party, None)[..1_000]);
        assert!(asked() <= 4);
        // Pages behind the first ask nobody.
        let after = newest.last().copied();
        let next = logs.created(&TransactionQuery { after, ..query }).await.unwrap();
        assert_eq!(next, transactions_of(&chain, query.party, None)[1_000..2_000]);
        assert_eq!(asked(), 0);
    });
}

#[tokio::test]
async fn an_unknown_transaction_has_nothing_behind_it() {
    let chain = Fake::new(&[3; 20], vec![]);
    let after = Some(B256::repeat_byte(0xee));
    let query = TransactionQuery { after, ..TransactionQuery::of(party(1, 1)) };
    let error = logs(&chain).created(&query).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::TxMissing));
}

#[tokio::test]
async fn events_are_found_by_their_second() {
    let chain = Fake::new(&[1, 2, 0, 3, 1, 0, 0, 4, 2, 1, 0], vec![]);
    let logs = logs(&chain);
    let newest = time_of(chain.head());
    for time in 990..=newest {
        let of_time = |record: &EventRecord| time_of(cursor::block(record.cursor)) == time;
        let expected: Vec<_> = chain.canonical().into_iter().filter(of_time).collect();
        assert_eq!(logs.at(time).await.unwrap(), expected, "at {time}");
    }
    // A node that has not come so far is asked again later.
    let error = logs.at(newest + 1).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidAnswer);
}

#[tokio::test]
async fn whoever_asks_for_news_again_and_again_reads_few_blocks() {
    let chain = Fake::new(&[&[1; 10][..], &[0; 30_000]].concat(), vec![]);
    let logs = logs(&chain);
    let cursor = logs.events(0, 10_000).await.unwrap().last().unwrap().cursor;
    assert_eq!(logs.events(cursor, 10).await.unwrap(), []);
    chain.state().asked = 0;
    assert_eq!(logs.events(cursor, 10).await.unwrap(), []);
    assert!(chain.state().asked <= 10, "{}", chain.state().asked);
    chain.state().push(&[1]);
    let news = logs.events(cursor, 10).await.unwrap();
    assert_eq!(news, chain.canonical()[10..]);
    assert_eq!(logs.events(u64::MAX, 10).await.unwrap(), []);
}

/// What replaces the last `depth` blocks of a chain of 500, and what a consumer hears of it.
async fn replaced_while_away(depth: usize, events: u8) -> (Consumer, Arc<Fake>) {
    let chain = Fake::new(&[1; 500], vec![]);
    let mut consumer = Consumer::default();
    let line = Line::to(&chain);
    let options = WatchOptions { poll_interval: Duration::ZERO, ..WatchOptions::default() };
    let mut stream = EventStream::new(Arc::new(Reader::new(Arc::new(line))), 0, options);
    while consumer.caught_up == 0 {
        let update = stream.next().await;
        consumer.hears(update, stream.position(), false);
    }
    let from = stream.position();
    drop(stream);
    chain.state().happen(Happening::IsReplaced(vec![events; depth], false));
    chain.state().push(&[events; 3]);
    let options = WatchOptions { from, ..options };
    let line = Line::to(&chain);
    let mut stream = EventStream::new(Arc::new(Reader::new(Arc::new(line))), 0, options);
    while consumer.caught_up == 1 {
        let update = stream.next().await;
        consumer.hears(update, stream.position(), true);
    }
    (consumer, chain)
}

#[tokio::test]
async fn a_replacement_while_nobody_looked_is_noticed_by_the_position() {
    for depth in [1, 2, 30, 64] {
        let (consumer, chain) = replaced_while_away(depth, 2).await;
        assert_eq!(consumer.taken_back, 1);
        assert_eq!(consumer.held, chain.canonical());
    }
    let (consumer, chain) = replaced_while_away(0, 2).await;
    assert_eq!(consumer.taken_back, 0);
    assert_eq!(consumer.held, chain.canonical());
}

#[tokio::test]
async fn events_of_replaced_blocks_are_taken_back_newest_first() {
    let chain = Fake::new(&[2; 40], vec![]);
    let line = Line::to(&chain);
    let options = WatchOptions { poll_interval: Duration::ZERO, ..WatchOptions::default() };
    let mut stream = EventStream::new(Arc::new(Reader::new(Arc::new(line.clone()))), 0, options);
    while !matches!(stream.next().await.unwrap(), Update::CaughtUp { block: 40 }) {}
    let mut void = chain.canonical().split_off(2 * 37);
    void.reverse();
    chain.state().happen(Happening::IsReplaced(vec![0, 0, 1], false));
    let taken_back = Update::TakenBack { after: 38 << 20, events: void };
    assert_eq!(stream.next().await.unwrap(), taken_back);
    assert_eq!(stream.position().cursor(), 38 << 20);
    let new = chain.canonical().pop().unwrap();
    assert_eq!(stream.next().await.unwrap(), Update::Event(new));
    assert_eq!(stream.next().await.unwrap(), Update::CaughtUp { block: 40 });

    // Empty blocks are replaced in silence.
    chain.state().push(&[0, 0]);
    chain.state().happen(Happening::IsReplaced(vec![0, 0], false));
    tokio::select! {
        biased;
        update = stream.next() => panic!("{update:?}"),
        () = line.told.notified() => {}
    }
    assert_eq!(stream.position().block(), 43);
}

#[test]
fn of_delivered_events_a_bounded_number_is_remembered() {
    let mut marks = super::stream::Marks::default();
    let event = |cursor| EventRecord {
        cursor,
        event: Event::KernelPaused { by: Address::ZERO, timestamp: 0 },
    };
    for block in 0..10_000_u64 {
        for log in 0..=block % 100 {
            marks.add(block, B256::with_last_byte(1), Some(event(block << 20 | log)));
        }
        assert!(marks.len().0 <= 129 && marks.len().1 <= 4_096, "{:?}", marks.len());
    }
    for log in 0..20_000 {
        marks.add(10_000, B256::with_last_byte(1), Some(event(10_000 << 20 | log)));
        assert!(marks.len().0 <= 129 && marks.len().1 <= 4_096, "{:?}", marks.len());
    }
    let taken = marks.take_from(10_000);
    assert!(taken.len() >= 2_048 && taken.is_sorted_by(|a, b| a.cursor > b.cursor));
}

#[tokio::test]
async fn a_million_events_are_caught_up_with_in_flat_memory_and_with_progress() {
    let chain = Fake::new(&[100; 12_500], vec![]);
    let line = Line::to(&chain);
    let mut stream =
        EventStream::new(Arc::new(Reader::new(Arc::new(line))), 0, WatchOptions::default());
    let (mut events, mut reports, mut waiting, mut memory) = (0_u64, 0, 0, vec![]);
    loop {
        match stream.next().await.unwrap() {
            Update::Event(_) => events += 1,
            Update::Progress { block, head, events: told } => {
                assert!(block < head && told == events);
                reports += 1;
            }
            Update::CaughtUp { block } => {
                assert_eq!(block, 12_500);
                break;
            }
            other => panic!("{other:?}"),
        }
        waiting = waiting.max(stream.waiting());
        if events % 250_000 == 1 && memory.len() as u64 == events / 250_000 {
            memory.push(resident_bytes());
        }
    }
    assert_eq!(events, 1_000_000);
    assert!(reports > 0);
    let largest = chain.largest_answer.load(Ordering::Relaxed);
    assert!(largest <= 12_500 && waiting <= largest + 1, "{largest} {waiting}");
    // The events alone would take 180 MB; other tests of this process take some too.
    assert!(memory[3].saturating_sub(memory[0]) < 100 << 20, "{memory:?}");
    println!("{reports} reports, at most {waiting} events waiting, resident bytes {memory:?}");
}

/// 0 where nobody tells.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}
