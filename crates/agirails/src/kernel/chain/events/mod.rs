//! The kernel contract's events: page by page, as a stream, and as an index of transactions.
//!
//! Everything here is read from logs. WebSocket and HTTP polling differ only in when it is looked
//! for them: what a socket says is a reason to look, and never what is seen.

#[cfg(test)]
mod devnet_tests;
mod index;
mod node;
mod ranges;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use alloy_primitives::{Address, B256};

pub use self::stream::{EventStream, Update, WatchOptions};
use self::{
    node::Node,
    ranges::{Header, RECENT, Read, Reader, Source, Unread},
};
#[cfg(test)]
use super::contracts;
use super::rpc::Rpc;
use crate::{
    error::{Code, Error, Result},
    protocol::EventRecord,
    storage::Store,
};

/// Places in the order of all events: `block << 20 | (log index in the block + 1)`. So 0 is the
/// beginning, no event's place is 0, and `block << 20` lies before everything in the block.
mod cursor {
    const LOG_BITS: u32 = 20;
    const NEWEST_BLOCK: u64 = u64::MAX >> LOG_BITS;

    /// An event's place; `None` for numbers that no chain has.
    pub(super) const fn of(block: u64, log_index: u64) -> Option<u64> {
        if block > NEWEST_BLOCK || log_index + 1 >= 1 << LOG_BITS {
            return None;
        }
        Some(before(block) | (log_index + 1))
    }

    /// The place before everything in a block, and behind everything in the blocks before it.
    pub(super) const fn before(block: u64) -> u64 {
        let block = if block > NEWEST_BLOCK { NEWEST_BLOCK } else { block };
        block << LOG_BITS
    }

    pub(super) const fn block(cursor: u64) -> u64 {
        cursor >> LOG_BITS
    }

    /// The log index + 1, or 0 before the block's first.
    pub(super) const fn log(cursor: u64) -> u64 {
        cursor & ((1 << LOG_BITS) - 1)
    }
}

/// A place in the chain from which an [`EventStream`] can go on, in another process too.
///
/// As text it is `block:log:hash`: the block, the log's number in it counted from 1 (0 stands for
/// the place before the block's first), and the first eight bytes of the hash of the newest block
/// that was read. By the hash a stream finds out that the chain has changed since. A place that was
/// made from a number has none, and then nobody can tell.
///
/// ```
/// use agirails::Position;
///
/// let position: Position = "41725690:3:a1b2c3d4e5f60718".parse()?;
/// assert_eq!(position.block(), 41_725_690);
/// assert_eq!(position.cursor(), 41_725_690 << 20 | 3);
/// assert_eq!(position.to_string(), "41725690:3:a1b2c3d4e5f60718");
/// assert_eq!(Position::before(41_725_690).to_string(), "41725690:0");
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Position {
    cursor: u64,
    seen: Option<u64>,
}

impl Position {
    /// Before all events of this block; 0 is the beginning.
    pub const fn before(block: u64) -> Self {
        Self { cursor: cursor::before(block), seen: None }
    }

    /// Behind an event, by its [`EventRecord::cursor`].
    pub const fn behind(cursor: u64) -> Self {
        Self { cursor, seen: None }
    }

    /// The place among the events: all up to it have been seen.
    pub const fn cursor(self) -> u64 {
        self.cursor
    }

    /// The block that is read next.
    pub const fn block(self) -> u64 {
        cursor::block(self.cursor)
    }

    const fn with_hash(self, hash: B256) -> Self {
        Self { seen: Some(prefix(hash)), ..self }
    }
}

/// Enough of a hash to tell the blocks of one height apart.
const fn prefix(hash: B256) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.block(), cursor::log(self.cursor))?;
        match self.seen {
            Some(hash) => write!(f, ":{hash:016x}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Position {
    type Err = Error;

    /// # Errors
    /// [`Code::InvalidNumber`] for anything but what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut parts = text.split(':');
            let block: u64 = parts.next()?.parse().ok()?;
            let before = cursor::before(block);
            let cursor = match parts.next()?.parse::<u64>().ok()? {
                0 => before,
                log => cursor::of(block, log - 1)?,
            };
            let seen = match parts.next() {
                Some(hash) if hash.len() == 16 => Some(u64::from_str_radix(hash, 16).ok()?),
                Some(_) => return None,
                None => None,
            };
            let whole = parts.next().is_none() && cursor::block(cursor) == block;
            whole.then_some(Self { cursor, seen })
        };
        read().ok_or_else(|| {
            Error::invalid(
                Code::InvalidNumber,
                "position",
                text,
                "must be a position that an event had",
            )
            .with_hint("pass what a stream's position() returned, or Position::before(block)")
        })
    }
}

/// The pace of Base.
const SECONDS_PER_BLOCK: u64 = 2;
/// A chain that is replaced more often within one call is not worth waiting for.
const RESTARTS: u32 = 5;

/// The logs of one kernel contract.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    reader: Arc<Reader>,
    store: Arc<Store>,
    /// The kernel's first block.
    first_block: u64,
    /// Behind this cursor nothing stands before this block, so that whoever asks for news again
    /// and again is not answered by reading the same blocks again and again.
    silence: Arc<Mutex<Option<(u64, u64)>>>,
}

impl Logs {
    /// `store` has the tables of `schema.sql`; `first_block` is the one in which the kernel was
    /// deployed, or any before it.
    pub(crate) fn new(rpc: Rpc, kernel: Address, first_block: u64, store: Arc<Store>) -> Self {
        Self::of(Arc::new(Node { rpc, kernel }), first_block, store)
    }

    fn of(source: Arc<dyn Source>, first_block: u64, store: Arc<Store>) -> Self {
        let reader = Arc::new(Reader::new(source));
        Self { reader, store, first_block, silence: Arc::default() }
    }

    /// Up to `limit` events behind the cursor, oldest first, as the chain has them now. 0 is the
    /// beginning. A short answer ends with the newest block that the nodes agree to have.
    ///
    /// # Errors
    /// The endpoint's: all of them can be tried again.
    pub(crate) async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let head = self.reader.source.head().await?.number;
        let settled = head.saturating_sub(RECENT);
        let start = cursor::block(after).max(self.first_block).max(self.silence_after(after));
        let (mut next, mut joint, mut found) = (start, None, Vec::new());
        let (mut silent_until, mut restarts) = (None, 0);
        while next <= head && found.len() < limit {
            let read = if next <= settled {
                let width = self.reader.width();
                self.reader.settled(next, settled.min(next.saturating_add(width - 1))).await?
            } else {
                self.reader.recent(next, head).await?
            };
            let piece = match read {
                Read::Piece(piece) if joint.is_none() || piece.before == joint => piece,
                // The caller reads on behind what has been found.
                Read::Behind => break,
                Read::Piece(_) | Read::Moved if !found.is_empty() => break,
                Read::Piece(_) | Read::Moved => {
                    restarts += 1;
                    if restarts > RESTARTS {
                        return Err(moving());
                    }
                    (next, joint, silent_until) = (start, None, None);
                    continue;
                }
            };
            let (last, hash) = piece.end();
            (next, joint) = (last.saturating_add(1), Some(hash));
            found.extend(piece.events.into_iter().map(|e| e.record).filter(|r| r.cursor > after));
            if found.is_empty() {
                // Blocks that may yet be replaced are read again.
                silent_until = Some(last.min(head.saturating_sub(index::TAIL)));
            }
        }
        found.truncate(limit);
        if let Some(block) = silent_until.filter(|block| *block > start) {
            *self.silence.lock().unwrap_or_else(PoisonError::into_inner) = Some((after, block));
        }
        Ok(found)
    }

    /// The events of the blocks with this time, oldest first.
    ///
    /// # Errors
    /// As [`Self::events`], and where no block is as new as that.
    pub(crate) async fn at(&self, time: u64) -> Result<Vec<EventRecord>> {
        let source = &self.reader.source;
        let head = source.head().await?;
        if head.time < time {
            let message = format!("the newest block is of {}, before {time}", head.time);
            return Err(Error::new(Code::InvalidAnswer, message).with_hint("try again"));
        }
        let first = self.first_since(time, self.first_block, head).await?;
        let last = match head.time {
            newest if newest == time => head.number,
            _ => self.first_since(time + 1, first, head).await?.saturating_sub(1),
        };
        if last < first {
            return Ok(vec![]);
        }
        let logs = source.logs(first..=last).await.map_err(|unread| match unread {
            Unread::TooMuch(error) | Unread::Failed(error) => error,
        })?;
        let found = ranges::events(logs, first..=last)?.ok_or_else(moving)?;
        Ok(found.into_iter().map(|found| found.record).collect())
    }

    /// The first block from `first` on that is of this time or later, as `newest` is.
    async fn first_since(&self, time: u64, mut first: u64, mut newest: Header) -> Result<u64> {
        let mut halves = false;
        while first < newest.number {
            // On a chain with a steady pace the first guess is right; any other is halved.
            let back = match halves {
                true => (newest.number - first) / 2,
                false => (newest.time - time) / SECONDS_PER_BLOCK,
            };
            halves = !halves;
            let guess = newest.number.saturating_sub(back.max(1)).max(first);
            let found = self.reader.source.headers(&[guess]).await?.pop().flatten();
            let found = found.ok_or_else(|| {
                Error::new(Code::InvalidAnswer, format!("the endpoint has not got block {guess}"))
                    .with_hint("try again; if it goes on, set another rpc_url")
            })?;
            match found.time >= time {
                true => newest = found,
                false => first = guess + 1,
            }
        }
        Ok(first)
    }

    /// The events from there on, as they come.
    pub(crate) fn watch(&self, options: WatchOptions) -> EventStream {
        EventStream::new(Arc::clone(&self.reader), self.first_block, options)
    }

    fn silence_after(&self, after: u64) -> u64 {
        let silence = *self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        silence.filter(|(behind, _)| *behind == after).map_or(0, |(_, block)| block)
    }
}

fn moving() -> Error {
    Error::new(Code::InvalidAnswer, "the chain changed again and again while it was read")
        .with_hint("try again; if it goes on, set another rpc_url")
}
