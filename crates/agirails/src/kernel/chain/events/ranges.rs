//! Reading logs in ranges of blocks that endpoints allow, and in one piece with the chain.
//!
//! An endpoint may be many nodes, and the chain may change between two requests. So a piece of
//! the chain counts only where it holds together, in one of two ways:
//!
//! - Blocks that some node may not know yet are read by hash. A node that lags answers that it
//!   does not know the block; by number it would answer that the block is empty.
//! - Older blocks are read by range. The hash of the last block is asked for before and after
//!   everything else; where it has not changed, nothing before it has.
//!
//! Every piece brings the hash of the block before it, by which it is joined to the piece that
//! was read before.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_json_rpc::ErrorPayload;
use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::Log;
use async_trait::async_trait;

use super::{super::contracts, cursor};
use crate::{
    error::{Code, Error, Result},
    protocol::EventRecord,
};

/// What Base's public endpoints allow. Those that allow less are found out.
const WIDEST: u64 = 2_000;
/// The first range, doubled with every answer: an endpoint of one's own may answer with all
/// events of a range, however many.
const FIRST: u64 = 125;
/// An answer with more logs than these makes the next range narrower, one with fewer than a
/// quarter of them wider.
const MANY: usize = 4_000;
/// After so many answers a limit that was found out is tried again: it may have been of a moment.
const FORGET: u32 = 256;
/// Blocks behind the head that some node of an endpoint may lack: at 2 s each, three times the
/// lag that [`super::super::seen`] reckons with.
pub(super) const RECENT: u64 = 16;
/// Blocks read by hash at once. Endpoints limit batches, some to ten calls.
pub(super) const AT_ONCE: u64 = 8;

/// A block, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) hash: B256,
    pub(super) parent: B256,
    /// Unix seconds.
    pub(super) time: u64,
}

/// Why a range was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is too wide for the endpoint, or holds too much.
    TooMuch(Error),
    /// Something else.
    Failed(Error),
}

/// A chain, as far as its events need it. Each call is answered by one node, which may lag.
#[async_trait]
pub(super) trait Source: fmt::Debug + Send + Sync {
    /// The newest block.
    async fn head(&self) -> Result<Header>;

    /// The blocks with these numbers; `None` for what the node has not got.
    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>>;

    /// The kernel's logs in these blocks.
    async fn logs(&self, blocks: RangeInclusive<u64>) -> Result<Vec<Log>, Unread>;

    /// The kernel's logs in each of these blocks; `None` for a block that the node has not got.
    async fn logs_of(&self, blocks: &[B256]) -> Result<Vec<Option<Vec<Log>>>>;

    /// `TransactionCreated` in these blocks with this party in either role.
    async fn created(
        &self,
        blocks: RangeInclusive<u64>,
        party: Address,
    ) -> Result<Vec<Log>, Unread>;

    /// News of blocks, from now on.
    fn news(&self) -> Box<dyn News>;
}

/// News of blocks.
#[async_trait]
pub(super) trait News: Send + Sync {
    /// Returns when a new block is known to exist, and after `at_most` in any case.
    async fn changed(&mut self, at_most: Duration);
}

/// An event, and the block it stands in.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) block: u64,
    pub(super) hash: B256,
    pub(super) record: EventRecord,
}

/// A part of the chain that holds together.
#[derive(Debug)]
pub(super) struct Piece {
    /// Its first block.
    pub(super) from: u64,
    /// The hash of the block before it; `None` where there is none.
    pub(super) before: Option<B256>,
    /// Hashes of blocks in it, ascending; the last one is its last block's.
    pub(super) hashes: Vec<(u64, B256)>,
    /// Its events, ascending.
    pub(super) events: Vec<Found>,
}

impl Piece {
    /// Its last block.
    pub(super) fn end(&self) -> (u64, B256) {
        // A piece is never made without.
        self.hashes.last().copied().unwrap_or((self.from, B256::ZERO))
    }

    /// The hash of a block, where it is known.
    pub(super) fn hash_of(&self, block: u64) -> Option<B256> {
        let found = self.hashes.iter().find(|(number, _)| *number == block).map(|(_, hash)| *hash);
        found.or_else(|| self.events.iter().find(|e| e.block == block).map(|e| e.hash))
    }
}

/// How reading a piece ended.
#[derive(Debug)]
pub(super) enum Read {
    /// The beginning of what was asked for, or all of it.
    Piece(Piece),
    /// The node that was asked has not got these blocks yet.
    Behind,
    /// The chain changed meanwhile.
    Moved,
}

/// Reads pieces, and learns how wide a range may be.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) source: Arc<dyn Source>,
    span: Mutex<Span>,
}

impl Reader {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, span: Mutex::default() }
    }

    /// How many blocks to ask for at once.
    pub(super) fn width(&self) -> u64 {
        self.learn(|span| span.width)
    }

    fn learn<T>(&self, lesson: impl FnOnce(&mut Span) -> T) -> T {
        lesson(&mut self.span.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Learns from an answer about `from..=to`: the logs, or the block to end with instead.
    ///
    /// # Errors
    /// Those of the source. Where a single block is too much, the endpoint's refusal.
    pub(super) fn heed(
        &self,
        from: u64,
        to: u64,
        answer: Result<Vec<Log>, Unread>,
    ) -> Result<Result<Vec<Log>, u64>> {
        let width = to - from + 1;
        match answer {
            Ok(logs) => {
                self.learn(|span| span.answered(width, logs.len()));
                Ok(Ok(logs))
            }
            Err(Unread::TooMuch(_)) if width > 1 => {
                self.learn(|span| span.refused(width));
                Ok(Err(from + width / 2 - 1))
            }
            Err(Unread::TooMuch(error)) => Err(error),
            Err(Unread::Failed(error)) => {
                self.learn(|span| span.failed(width));
                Err(error)
            }
        }
    }

    /// Reads blocks by range, which every node must have by now: `from..=to`, or as many of them
    /// as the endpoint allows.
    ///
    /// # Errors
    /// Those of [`Self::heed`], and [`Code::InvalidAnswer`] for a log that cannot be read.
    pub(super) async fn settled(&self, from: u64, mut to: u64) -> Result<Read> {
        let source = &*self.source;
        let (end, logs) = loop {
            let Some(end) = source.headers(&[to]).await?.into_iter().next().flatten() else {
                return Ok(Read::Behind);
            };
            match self.heed(from, to, source.logs(from..=to).await)? {
                Ok(logs) => break (end, logs),
                Err(nearer) => to = nearer,
            }
        };
        let numbers: Vec<u64> = from.checked_sub(1).into_iter().chain([end.number]).collect();
        let mut headers = source.headers(&numbers).await?.into_iter();
        let before = match from {
            0 => None,
            _ => match headers.next().flatten() {
                Some(header) => Some(header.hash),
                None => return Ok(Read::Behind),
            },
        };
        match headers.next().flatten() {
            Some(again) if again == end => {}
            Some(_) => return Ok(Read::Moved),
            None => return Ok(Read::Behind),
        }
        let Some(events) = events(logs, from..=end.number)? else { return Ok(Read::Moved) };
        let strange = |found: &Found| found.block == end.number && found.hash != end.hash;
        if events.iter().any(strange) {
            return Ok(Read::Moved);
        }
        Ok(Read::Piece(Piece { from, before, hashes: vec![(end.number, end.hash)], events }))
    }

    /// Reads up to [`AT_ONCE`] blocks by hash, as many as the nodes have.
    ///
    /// # Errors
    /// Those of the source, and [`Code::InvalidAnswer`] for a log that cannot be read.
    pub(super) async fn recent(&self, from: u64, to: u64) -> Result<Read> {
        let numbers: Vec<u64> = (from..=to.min(from + (AT_ONCE - 1))).collect();
        let mut headers: Vec<Header> = Vec::with_capacity(numbers.len());
        for header in self.source.headers(&numbers).await?.into_iter().map_while(|header| header) {
            if headers.last().is_some_and(|last| last.hash != header.parent) {
                break;
            }
            headers.push(header);
        }
        let Some(first) = headers.first() else { return Ok(Read::Behind) };
        let mut piece = Piece {
            from,
            before: (from > 0).then_some(first.parent),
            hashes: Vec::with_capacity(headers.len()),
            events: Vec::new(),
        };
        let hashes: Vec<B256> = headers.iter().map(|header| header.hash).collect();
        for (header, logs) in headers.iter().zip(self.source.logs_of(&hashes).await?) {
            let Some(logs) = logs else { break };
            let Some(found) = events(logs, header.number..=header.number)? else { break };
            if found.iter().any(|found| found.hash != header.hash) {
                break;
            }
            piece.hashes.push((header.number, header.hash));
            piece.events.extend(found);
        }
        Ok(if piece.hashes.is_empty() { Read::Behind } else { Read::Piece(piece) })
    }
}

/// The protocol's events among these logs, ascending; `None` where a log has been taken back, or
/// is not one of these blocks'.
pub(super) fn events(logs: Vec<Log>, blocks: RangeInclusive<u64>) -> Result<Option<Vec<Found>>> {
    let mut events = Vec::with_capacity(logs.len());
    for log in &logs {
        let (Some(block), Some(hash), Some(log_index), false) =
            (log.block_number, log.block_hash, log.log_index, log.removed)
        else {
            return Ok(None);
        };
        if !blocks.contains(&block) {
            return Ok(None);
        }
        let Some(event) = contracts::event(log) else { continue };
        let cursor = cursor::of(block, log_index).ok_or_else(|| {
            let message = format!("log {log_index} of block {block} has no place in the order");
            Error::new(Code::InvalidAnswer, message)
        })?;
        let record = EventRecord { cursor, event: event? };
        events.push(Found { block, hash, record });
    }
    // Nodes answer in this order; whoever stands before several of them may not.
    events.sort_by_key(|found| found.record.cursor);
    events.dedup_by_key(|found| found.record.cursor);
    let split = |pair: &[Found]| matches!(pair, [a, b] if a.block == b.block && a.hash != b.hash);
    Ok((!events.windows(2).any(split)).then_some(events))
}

/// How many blocks to ask for at once.
#[derive(Debug)]
struct Span {
    width: u64,
    /// What the endpoint has been found to allow.
    limit: u64,
    /// Answers since that was found out; `None` where nothing was refused so far.
    answers: Option<u32>,
}

impl Default for Span {
    fn default() -> Self {
        Self { width: FIRST, limit: WIDEST, answers: None }
    }
}

impl Span {
    fn answered(&mut self, width: u64, logs: usize) {
        if let Some(answers) = &mut self.answers {
            *answers += 1;
            if *answers >= FORGET {
                (*answers, self.limit) = (0, (self.limit * 2).min(WIDEST));
            }
        }
        if logs > MANY {
            self.width = self.width.min((width / 2).max(1));
        } else if logs < MANY / 4 && width >= self.width {
            let step = match self.answers {
                None => self.width,
                Some(_) => self.width / 8 + 1,
            };
            self.width = (self.width + step).min(self.limit);
        }
    }

    fn refused(&mut self, width: u64) {
        self.limit = self.limit.min((width - width.div_ceil(8)).max(1));
        self.width = self.width.min((width / 2).max(1));
        self.answers = Some(0);
    }

    /// Some endpoints have no words for too much: they cut the answer, or take too long.
    fn failed(&mut self, width: u64) {
        self.width = self.width.min((width / 2).max(1));
        self.answers = Some(self.answers.unwrap_or(0));
    }
}

/// Whether an endpoint refused logs because they are too many, or in too many blocks.
///
/// Sources: the words of geth, op-geth, erigon, reth, anvil, Base, Alchemy, Infura, QuickNode,
/// Ankr, dRPC, Blast, PublicNode and Cloudflare.
pub(super) fn is_too_much(refusal: &ErrorPayload) -> bool {
    let words = refusal.message.to_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    // Of a block that the node has not got yet, and of requests in too short a time.
    if says(&["beyond", "future block", "unknown block", "too many requests", "rate limit"]) {
        return false;
    }
    refusal.code == -32_005
        || says(&[
            "block range",
            "blocks range",
            "range limit",
            "range is too",
            "range too",
            "max range",
            "maximum range",
            "exceed maximum",
            "exceeds the range",
            "exceeds max",
            "limited to",
            "ranges over",
            "query returned more than",
            "returned more than",
            "limit exceeded",
            "exceeds limit",
            "too many",
            "too large",
            "too big",
            "response size",
            "max results",
            "query timeout",
            "timed out",
            "took too long",
            "deadline exceeded",
        ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_words_for_too_much_are_understood() {
        for (code, words) in [
            (-32_005, "query returned more than 10000 results"),
            (-32_005, "limit exceeded"),
            (-32_602, "query exceeds max block range 2000"),
            (-32_602, "eth_getLogs is limited to a 10,000 range"),
            (-32_614, "eth_getLogs is limited to a 5 range"),
            (
                -32_600,
                "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
            ),
            (
                -32_600,
                "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.",
            ),
            (-32_000, "block range is too wide"),
            (-32_000, "exceed maximum block range: 50000"),
            (-32_000, "query timeout exceeded"),
            (-32_000, "query exceeds max results 20000, retry with the range 100-200"),
            (35, "ranges over 10000 blocks are not supported on freetier"),
            (
                -32_047,
                "Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: 800",
            ),
        ] {
            let refusal = ErrorPayload { code, message: words.into(), data: None };
            assert!(is_too_much(&refusal), "{words}");
        }
        for (code, words) in [
            (-32_000, "block range extends beyond current head block"),
            (-32_000, "unknown block"),
            (-32_601, "the method eth_getLogs does not exist"),
            (-32_000, "header not found"),
            (-32_029, "Too Many Requests"),
        ] {
            let refusal = ErrorPayload { code, message: words.into(), data: None };
            assert!(!is_too_much(&refusal), "{words}");
        }
    }

    #[test]
    fn a_range_fits_what_the_endpoint_allows_after_few_refusals() {
        for allowed in [1, 2, 5, 10, 100, 500, 1_999, 2_000] {
            let (mut span, mut refusals) = (Span::default(), 0);
            for _ in 0..250 {
                let mut width = span.width;
                while width > allowed {
                    span.refused(width);
                    width /= 2;
                    refusals += 1;
                }
                span.answered(width, 0);
            }
            assert!(refusals <= 14, "{allowed}: {refusals}");
            assert!(span.width <= allowed && span.width * 2 > allowed, "{allowed}: {span:?}");
        }
    }

    #[test]
    fn a_range_with_many_logs_is_followed_by_a_narrower_one() {
        let mut span = Span::default();
        for _ in 0..20 {
            span.answered(span.width, (span.width * 100).try_into().unwrap());
        }
        assert!((10..=40).contains(&span.width), "{span:?}");
    }
}
