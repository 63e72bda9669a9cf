//! Events as they come, with those of replaced blocks taken back.
//!
//! The stream is a program that reads the chain and hands over updates. It runs only inside
//! [`EventStream::next`], and stays where it was when that future is dropped.
//!
//! What was delivered is remembered as marks: numbers and hashes of blocks, whose hashes cover all
//! blocks before them. Each piece that is read has to join the newest mark. Where it does not, or
//! where the head of the chain contradicts a mark, the newest mark that still stands is the common
//! ancestor, and everything behind it is taken back. A node that lacks a mark's block contradicts
//! nothing: it lags.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use alloy_primitives::B256;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Position, cursor, prefix,
    ranges::{AT_ONCE, Header, News, Piece, RECENT, Read, Reader},
};
use crate::{
    error::{Code, Error, Result},
    protocol::EventRecord,
};

/// Blocks whose replacement is noticed with the exact events that it takes back. Base's blocks
/// are final long before.
const REMEMBERED: u64 = 128;
/// Events of these blocks that are remembered at most: a few megabytes.
const REMEMBERED_EVENTS: usize = 4_096;
/// How far a replacement is taken to reach where nothing tells.
const UNKNOWN_DEPTH: u64 = 64;
/// Ranges on the way or waiting while events are handed over.
const AHEAD: usize = 2;
/// Between two reports of progress.
const REPORT: Duration = Duration::from_secs(1);
/// An endpoint on this machine reads many ranges in a second; each so many are reported too.
const REPORT_RANGES: u32 = 64;

/// Where a stream begins, and how it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// Where to begin. The default is the beginning: the block of the kernel's deployment.
    pub from: Position,
    /// How many blocks have to stand on a block before its events are delivered. With 0 (the
    /// default) they come at once, and are taken back where the block is replaced.
    pub confirmations: u64,
    /// How often to look for new blocks (the default: each second). A WebSocket among the network's URLs
    /// tells of them earlier.
    pub poll_interval: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        let poll_interval = Duration::from_secs(1);
        Self { from: Position::default(), confirmations: 0, poll_interval }
    }
}

/// What an [`EventStream`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// The next event.
    Event(EventRecord),
    /// Blocks were replaced: every event behind `after` that was delivered is void. The events of
    /// the new blocks follow, also those that both have.
    TakenBack {
        /// A cursor: all events up to it stand.
        after: u64,
        /// The void events that the stream remembers, newest first: all of them, save where more
        /// than 4_096 events or 128 blocks are void, or where they were delivered by an earlier stream.
        events: Vec<EventRecord>,
    },
    /// The stream is far behind the head and reads on; told about once a second.
    Progress {
        /// All events up to this block have been delivered.
        block: u64,
        /// The head of the chain, when it was last looked at.
        head: u64,
        /// How many events this stream has delivered.
        events: u64,
    },
    /// The stream was behind, and has delivered all events up to this block, the newest one that
    /// is deep enough.
    CaughtUp {
        /// The block.
        block: u64,
    },
}

/// The kernel contract's events in the chain's order, from any place on, without end.
///
/// Memory does not grow with the number of events. Dropping the future of [`Self::next`] loses
/// nothing: what it had read is returned by the next call.
///
/// ```no_run
/// use agirails::{EventStream, Update};
///
/// # async fn save(_: String) {}
/// async fn follow(mut stream: EventStream) -> agirails::Result<()> {
///     loop {
///         match stream.next().await {
///             Ok(Update::Event(record)) => println!("{:?}", record.event),
///             Ok(Update::TakenBack { after, .. }) => println!("void: all behind {after}"),
///             Ok(Update::Progress { block, head, .. }) => println!("{block} of {head}"),
///             Ok(_) => {}
///             Err(error) if error.retry() == agirails::Retry::Safe => eprintln!("{error:#}"),
///             Err(error) => return Err(error),
///         }
///         save(stream.position().to_string()).await;
///     }
/// }
/// ```
pub struct EventStream {
    /// Runs in [`Self::next`] only.
    program: Pin<Box<dyn Future<Output = Infallible> + Send>>,
    handover: Arc<Handover>,
    position: Position,
}

impl EventStream {
    pub(super) fn new(reader: Arc<Reader>, first_block: u64, options: WatchOptions) -> Self {
        let handover = Arc::new(Handover::default());
        let program = Program {
            news: reader.source.news(),
            reader,
            handover: Arc::clone(&handover),
            first_block,
            confirmations: options.confirmations,
            poll_interval: options.poll_interval,
            next: options.from.block().max(first_block),
            delivered: options.from.cursor(),
            skip: options.from.cursor(),
            half: None,
            marks: Marks::default(),
            behind: true,
            events: 0,
            reported: None,
            unreported: 0,
        };
        let program = Box::pin(program.run(options.from));
        Self { program, handover, position: options.from }
    }

    /// The next update, as soon as there is one.
    ///
    /// # Errors
    /// The endpoint's ([`Code::EndpointUnreachable`], [`Code::RateLimited`],
    /// [`Code::InvalidAnswer`], [`Code::RequestRefused`]). The stream stays usable: the next call
    /// goes on where it was, one poll interval later.
    pub async fn next(&mut self) -> Result<Update> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Where to go on behind the last update that [`Self::next`] returned, in a later stream too.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many updates have been read and not taken.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.handover.queue().len()
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Update>> {
        loop {
            match self.handover.take() {
                Some(Handed::Update(update, position)) => {
                    self.position = position;
                    return Poll::Ready(Ok(*update));
                }
                Some(Handed::Silence(position)) => self.position = position,
                Some(Handed::Error(error)) => return Poll::Ready(Err(error)),
                None => {
                    // It never ends; where it waits for its updates to be taken, they are there.
                    let _waits = self.program.as_mut().poll(context);
                    if self.handover.is_empty() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("position", &self.position).finish_non_exhaustive()
    }
}

/// What the program has for [`EventStream::next`].
enum Handed {
    Update(Box<Update>, Position),
    /// Nothing happened up to there.
    Silence(Position),
    Error(Error),
}

/// From the program to [`EventStream::next`]. Both run in the same call, so nobody ever waits.
#[derive(Default)]
struct Handover(Mutex<VecDeque<Handed>>);

impl Handover {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Handed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, handed: Handed) {
        self.queue().push_back(handed);
    }

    fn take(&self) -> Option<Handed> {
        let mut queue = self.queue();
        let handed = queue.pop_front();
        if queue.is_empty() && queue.capacity() > 64 {
            // The next range may be a small one, and the room of a large one is memory too.
            *queue = VecDeque::new();
        }
        handed
    }

    fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    /// Stops the program until all of it has been taken.
    async fn taken(&self) {
        std::future::poll_fn(|_| match self.is_empty() {
            true => Poll::Ready(()),
            // Woken by nothing but the next call, which polls the program once all is taken.
            false => Poll::Pending,
        })
        .await;
    }
}

/// A block that was read, and what was delivered of it.
struct Mark {
    block: u64,
    hash: B256,
    events: Vec<EventRecord>,
}

/// The newest blocks that were read, ascending; those without events only where they were read one
/// by one or ended a range.
#[derive(Default)]
pub(super) struct Marks {
    marks: VecDeque<Mark>,
    events: usize,
}

impl Marks {
    /// How many marks, and how many events in them.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.marks.len(), self.events)
    }

    fn newest(&self) -> Option<&Mark> {
        self.marks.back()
    }

    fn at(&self, block: u64) -> Option<&Mark> {
        let place = self.marks.binary_search_by_key(&block, |mark| mark.block).ok()?;
        self.marks.get(place)
    }

    /// A block that was read, with its next event where it has one.
    pub(super) fn add(&mut self, block: u64, hash: B256, event: Option<EventRecord>) {
        if self.newest().is_none_or(|newest| newest.block < block) {
            self.marks.push_back(Mark { block, hash, events: Vec::new() });
        }
        if let (Some(mark), Some(event)) = (self.marks.back_mut(), event) {
            mark.events.push(event);
            self.events += 1;
        }
        while self.marks.len() > 1
            && self.marks.front().is_some_and(|oldest| oldest.block + REMEMBERED < block)
        {
            self.events -= self.marks.pop_front().map_or(0, |mark| mark.events.len());
        }
        let newest = self.marks.len().saturating_sub(1);
        for (place, mark) in self.marks.iter_mut().enumerate() {
            if self.events <= REMEMBERED_EVENTS {
                break;
            }
            // The oldest blocks' go whole. Where the newest is too much alone, half of it goes,
            // so that this is seldom.
            let surplus = if place == newest { mark.events.len() / 2 } else { mark.events.len() };
            mark.events.drain(..surplus);
            mark.events.shrink_to_fit();
            self.events -= surplus;
        }
    }

    /// Forgets the marks from this block on. Returns their events, newest first.
    pub(super) fn take_from(&mut self, block: u64) -> Vec<EventRecord> {
        let mut taken = Vec::new();
        while let Some(mark) = self.marks.pop_back_if(|mark| mark.block >= block) {
            self.events -= mark.events.len();
            taken.extend(mark.events.into_iter().rev());
        }
        taken
    }
}

/// A range that is read in the background; given up where it is dropped.
struct Flight {
    from: u64,
    task: JoinHandle<Result<Read>>,
}

impl Flight {
    fn start(reader: Arc<Reader>, from: u64, to: u64) -> Self {
        Self { from, task: tokio::spawn(async move { reader.settled(from, to).await }) }
    }

    async fn land(mut self) -> Result<Read> {
        (&mut self.task).await.unwrap_or_else(|stopped| {
            // The runtime is ending, or a mistake of ours; the range is read anew.
            let message = format!("reading events was stopped: {stopped}");
            Err(Error::new(Code::EndpointUnreachable, message))
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Program {
    reader: Arc<Reader>,
    news: Box<dyn News>,
    handover: Arc<Handover>,
    first_block: u64,
    confirmations: u64,
    poll_interval: Duration,
    /// The block to read next.
    next: u64,
    /// No event behind this cursor is with the consumer.
    delivered: u64,
    /// Events up to this cursor are with the consumer already.
    skip: u64,
    /// The block that an earlier stream delivered a part of; `next` is this one.
    half: Option<(u64, B256)>,
    marks: Marks,
    /// [`Update::CaughtUp`] is due at the head.
    behind: bool,
    events: u64,
    reported: Option<Instant>,
    unreported: u32,
}

impl Program {
    async fn run(mut self, from: Position) -> Infallible {
        loop {
            match self.resume(from).await {
                Ok(true) => break,
                Ok(false) => self.news.changed(self.poll_interval).await,
                Err(error) => self.fail(error).await,
            }
        }
        loop {
            match self.step().await {
                Ok(()) => self.news.changed(self.poll_interval).await,
                Err(error) => self.fail(error).await,
            }
        }
    }

    /// Whether the stream may begin: the block that the position saw is there, or void.
    async fn resume(&mut self, from: Position) -> Result<bool> {
        let Some(seen) = from.seen else { return Ok(true) };
        let half = cursor::log(from.cursor()) > 0;
        let Some(block) = from.block().checked_sub(u64::from(!half)) else { return Ok(true) };
        let headers = self.reader.source.headers(&[block]).await?;
        let Some(header) = headers.into_iter().next().flatten() else { return Ok(false) };
        if prefix(header.hash) != seen {
            let back = block.saturating_sub(UNKNOWN_DEPTH).max(self.first_block).min(self.next);
            self.take_back(back, None).await;
        } else if half {
            if let Some(before) = block.checked_sub(1) {
                self.marks.add(before, header.parent, None);
            }
            self.half = Some((block, header.hash));
        } else {
            self.marks.add(block, header.hash, None);
        }
        Ok(true)
    }

    /// Reads up to the head, as far as the nodes have got.
    async fn step(&mut self) -> Result<()> {
        loop {
            let head = self.reader.source.head().await?;
            let contradicted = self.marks.at(head.number).is_some_and(|m| m.hash != head.hash);
            let joined = !contradicted
                && match head.number.checked_sub(self.confirmations) {
                    Some(deepest) => self.read_to(deepest, head.number).await?,
                    None => true,
                };
            // Where the nodes contradict each other and not us, time will tell.
            if joined || !self.find_ancestor().await? {
                return Ok(());
            }
        }
    }

    /// Reads on up to this block. Returns whether all of it joined what was read before.
    async fn read_to(&mut self, deepest: u64, head: u64) -> Result<bool> {
        let settled = head.saturating_sub(RECENT).min(deepest);
        let mut flights: VecDeque<Flight> = VecDeque::new();
        let mut planned = self.next;
        while self.next <= settled {
            // Narrower ranges than planned leave a gap.
            if flights.front().is_none_or(|flight| flight.from != self.next) {
                flights.clear();
                planned = self.next;
            }
            while flights.len() < AHEAD && planned <= settled {
                let to = settled.min(planned.saturating_add(self.reader.width() - 1));
                flights.push_back(Flight::start(Arc::clone(&self.reader), planned, to));
                planned = to + 1;
            }
            let Some(flight) = flights.pop_front() else { break };
            match flight.land().await? {
                Read::Piece(piece) => {
                    if !self.deliver(piece).await {
                        return Ok(false);
                    }
                }
                Read::Behind => return Ok(true),
                Read::Moved => return Ok(false),
            }
            if self.next <= settled {
                self.report(head).await;
            }
        }
        while self.next <= deepest {
            match self.reader.recent(self.next, deepest).await? {
                Read::Piece(piece) => {
                    if !self.deliver(piece).await {
                        return Ok(false);
                    }
                }
                Read::Behind => return Ok(true),
                Read::Moved => return Ok(false),
            }
        }
        // A node that lags, or has not got the block that was left half delivered, does not know
        // what there is to catch up with.
        let level = self.next == deepest + 1 && self.delivered <= cursor::before(self.next);
        if level && std::mem::take(&mut self.behind) {
            let position = self.place();
            self.give(Update::CaughtUp { block: deepest }, position).await;
        }
        Ok(true)
    }

    /// Hands over the events of the next piece. Returns whether it joined what was read before.
    async fn deliver(&mut self, piece: Piece) -> bool {
        match (self.marks.newest(), piece.before) {
            (Some(newest), Some(before)) if newest.hash != before => return false,
            (None, Some(before)) => {
                if let Some(block) = piece.from.checked_sub(1) {
                    self.marks.add(block, before, None);
                }
            }
            _ => {}
        }
        if let Some((block, hash)) = self.half.take()
            && piece.hash_of(block) != Some(hash)
        {
            let before = self.marks.newest().map(|mark| mark.hash);
            self.take_back(block, before).await;
        }
        let (end, end_hash) = piece.end();
        let mut hashes = piece.hashes.into_iter().peekable();
        for found in piece.events {
            while let Some((block, hash)) = hashes.next_if(|(block, _)| *block < found.block) {
                self.marks.add(block, hash, None);
            }
            if found.record.cursor <= self.skip {
                self.marks.add(found.block, found.hash, None);
                continue;
            }
            self.marks.add(found.block, found.hash, Some(found.record.clone()));
            self.events += 1;
            self.delivered = found.record.cursor;
            let position = Position::behind(found.record.cursor).with_hash(found.hash);
            let update = Box::new(Update::Event(found.record));
            self.handover.put(Handed::Update(update, position));
        }
        for (block, hash) in hashes {
            self.marks.add(block, hash, None);
        }
        self.next = end + 1;
        let position = Position::before(self.next).with_hash(end_hash);
        self.handover.put(Handed::Silence(position));
        self.handover.taken().await;
        true
    }

    /// Looks for the newest mark that still stands, and takes back what was delivered behind it.
    /// Returns whether there was anything to take back.
    async fn find_ancestor(&mut self) -> Result<bool> {
        let (mut ancestor, mut contradicted) = (None, false);
        let newest_first: Vec<(u64, B256)> =
            self.marks.marks.iter().rev().map(|mark| (mark.block, mark.hash)).collect();
        'search: for marks in newest_first.chunks(AT_ONCE as usize) {
            let numbers: Vec<u64> = marks.iter().map(|(block, _)| *block).collect();
            for (mark, header) in marks.iter().zip(self.reader.source.headers(&numbers).await?) {
                match header {
                    None => {}
                    Some(Header { hash, .. }) if hash == mark.1 => {
                        ancestor = Some(*mark);
                        break 'search;
                    }
                    Some(_) => contradicted = true,
                }
            }
        }
        if !contradicted {
            return Ok(false);
        }
        let (block, hash) = match (ancestor, newest_first.last()) {
            (Some((block, hash)), _) => (block + 1, Some(hash)),
            (None, Some((oldest, _))) => {
                (oldest.saturating_sub(UNKNOWN_DEPTH).max(self.first_block).min(self.next), None)
            }
            (None, None) => return Ok(false),
        };
        self.take_back(block, hash).await;
        Ok(true)
    }

    /// Takes back everything from this block on. `before` is the hash of the block before it.
    async fn take_back(&mut self, block: u64, before: Option<B256>) {
        let events = self.marks.take_from(block);
        (self.next, self.half, self.behind) = (block, None, true);
        let position = Position::before(block);
        let position = before.map_or(position, |hash| position.with_hash(hash));
        let after = position.cursor();
        if self.delivered <= after {
            // None of the replaced blocks had an event.
            self.handover.put(Handed::Silence(position));
            return;
        }
        (self.delivered, self.skip) = (after, 0);
        self.give(Update::TakenBack { after, events }, position).await;
    }

    async fn report(&mut self, head: u64) {
        self.unreported += 1;
        let due = self.reported.is_none_or(|at| at.elapsed() >= REPORT);
        if due || self.unreported >= REPORT_RANGES {
            (self.reported, self.unreported) = (Some(Instant::now()), 0);
            let block = self.next.saturating_sub(1);
            let position = self.place();
            self.give(Update::Progress { block, head, events: self.events }, position).await;
        }
    }

    /// Behind everything that has been read.
    fn place(&self) -> Position {
        let position = Position::before(self.next);
        match self.marks.newest() {
            Some(mark) if mark.block + 1 == self.next => position.with_hash(mark.hash),
            _ => position,
        }
    }

    async fn give(&self, update: Update, position: Position) {
        self.handover.put(Handed::Update(Box::new(update), position));
        self.handover.taken().await;
    }

    async fn fail(&self, error: Error) {
        self.handover.put(Handed::Error(error));
        self.handover.taken().await;
        sleep(self.poll_interval).await;
    }
}
