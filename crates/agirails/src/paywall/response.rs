//! What becomes of a handler's response, as a machine without clock, store or network: head →
//! buffer, stream or pass; chunk → send, hold or break off; end.

use alloy_primitives::{B256, Keccak256, keccak256};

use super::{
    answer::{Answer, Headers},
    headers,
    reason::Reason,
};

/// What an adapter does with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Collects its body: the answer is kept before its first byte leaves.
    Buffer,
    /// Sends it piece by piece: it is hashed as it passes, and kept at its end.
    Stream,
    /// Sends it as it is. It is no success, and nothing is taken for it.
    Pass,
}

/// The status line and headers of a response, and what to do with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// What to do with the body.
    pub action: Action,
    /// The HTTP status.
    pub status: u16,
    /// What to send now where the action is not [`Action::Buffer`].
    pub headers: Headers,
}

/// What an adapter does with one piece of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Chunk {
    /// Sends it.
    Send,
    /// Sends nothing: it leaves with the end of the response.
    Hold,
    /// Breaks the connection off and aborts the run: nobody would pay for what comes.
    Break,
}

/// How much of an answer is collected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A body whose length is known and at most this is collected whole.
    pub(super) answer: usize,
    /// A stream is kept for repeats up to this length.
    pub(super) stream: usize,
}

/// A response in full.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) status: u16,
    pub(super) content_type: String,
    /// Of the bytes that the caller gets.
    pub(super) body_hash: B256,
    /// The handler's answer as it leaves; its body is empty where it left in pieces.
    pub(super) answer: Answer,
    /// The answer to keep; `None` where it was too long.
    pub(super) kept: Option<Answer>,
    /// The last piece of a stream, which is sent once the answer is kept.
    pub(super) held: Vec<u8>,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Response {
    is_head: bool,
    limits: Limits,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Waiting,
    Buffer { answer: Answer, announced: Option<usize> },
    Stream(Box<Stream>),
    Pass { status: u16 },
    Broken(Reason),
}

#[derive(Debug)]
struct Stream {
    status: u16,
    headers: Headers,
    announced: Option<usize>,
    hasher: Keccak256,
    length: usize,
    kept: Option<Vec<u8>>,
    held: Vec<u8>,
}

/// How a response ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// It is whole, and a success.
    Whole(Box<Whole>, Action),
    /// Nothing is taken for it.
    Failed(Reason),
}

impl Response {
    pub(super) fn new(method: &str, limits: Limits) -> Self {
        Self { is_head: method == "HEAD", limits, phase: Phase::Waiting }
    }

    /// In place of one that was ended.
    pub(super) fn broken_off() -> Self {
        let limits = Limits { answer: 0, stream: 0 };
        Self { is_head: false, limits, phase: Phase::Broken(Reason::Dropped) }
    }

    /// Collects the body whatever its length.
    pub(super) fn collect_all(&mut self) {
        self.limits.answer = usize::MAX;
    }

    /// Decides by status and headers. `length` is the body's, where it is known.
    pub(super) fn head(&mut self, status: u16, given: Headers, length: Option<usize>) -> Head {
        let given = headers::of_handler(given);
        if !is_success(status) {
            self.phase = Phase::Pass { status };
            return Head { action: Action::Pass, status, headers: given };
        }
        let mut given = headers::end_to_end(given);
        if status == 204 {
            given.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
        }
        if self.is_head
            && let Some(length) = length
            && !given.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            // A server would measure the body that is not sent.
            given.push(("Content-Length".to_owned(), length.to_string().into_bytes()));
        }
        let has_body = !self.is_head && !is_without_body(status);
        let announced = announced(&given).filter(|_| has_body);
        let length = if has_body { announced.or(length) } else { Some(0) };
        if length.is_some_and(|length| length <= self.limits.answer) {
            let answer = Answer { status, headers: given, body: vec![] };
            self.phase = Phase::Buffer { answer, announced };
            return Head { action: Action::Buffer, status, headers: vec![] };
        }
        let head = Head { action: Action::Stream, status, headers: given.clone() };
        self.phase = Phase::Stream(Box::new(Stream {
            status,
            headers: given,
            announced,
            hasher: Keccak256::new(),
            length: 0,
            kept: Some(vec![]),
            held: vec![],
        }));
        head
    }

    /// One piece of the body.
    pub(super) fn chunk(&mut self, piece: &[u8]) -> Chunk {
        match &mut self.phase {
            Phase::Waiting => self.breaks(Reason::NeverEnded),
            Phase::Broken(_) => Chunk::Break,
            Phase::Pass { .. } => Chunk::Send,
            Phase::Buffer { answer, announced } => {
                if self.is_head || is_without_body(answer.status) {
                    return Chunk::Hold;
                }
                // More than was announced cannot be sent; it need not be collected either.
                let most = announced.map_or(usize::MAX, |length| length.saturating_add(1));
                let room = most.saturating_sub(answer.body.len());
                answer.body.extend_from_slice(piece.get(..room).unwrap_or(piece));
                Chunk::Hold
            }
            Phase::Stream(stream) => {
                if !stream.held.is_empty() && !piece.is_empty() {
                    return self.breaks(Reason::WrongLength);
                }
                stream.hasher.update(piece);
                stream.length += piece.len();
                match &mut stream.kept {
                    Some(kept) if stream.length <= self.limits.stream => {
                        kept.extend_from_slice(piece)
                    }
                    kept => *kept = None,
                }
                match stream.announced {
                    Some(announced) if stream.length > announced => {
                        self.breaks(Reason::WrongLength)
                    }
                    // With these bytes its caller would have all of it.
                    Some(announced) if stream.length == announced && !piece.is_empty() => {
                        stream.held = piece.to_vec();
                        Chunk::Hold
                    }
                    _ => Chunk::Send,
                }
            }
        }
    }

    /// Ends a stream where it is, because its transaction is about to be closed. What was sent of it;
    /// `None` where there is no stream, or nothing was sent.
    pub(super) fn cut(&mut self) -> Option<Whole> {
        if !self.is_streaming() {
            return None;
        }
        let broken = Phase::Broken(Reason::TransactionClosed);
        let Phase::Stream(stream) = std::mem::replace(&mut self.phase, broken) else { return None };
        (stream.length > 0).then(|| stream.whole())
    }

    fn breaks(&mut self, reason: Reason) -> Chunk {
        self.phase = Phase::Broken(reason);
        Chunk::Break
    }

    /// Why it broke off, where this machine said that it must.
    pub(super) fn broken(&self) -> Option<Reason> {
        match self.phase {
            Phase::Broken(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether its first bytes may have left already.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Stream(_))
    }

    /// The body is at its end.
    pub(super) fn end(self) -> Ending {
        match self.phase {
            Phase::Waiting => Ending::Failed(Reason::NeverEnded),
            Phase::Broken(reason) => Ending::Failed(reason),
            Phase::Pass { status } => Ending::Failed(Reason::Status(status)),
            Phase::Buffer { answer, announced } => {
                if announced.is_some_and(|length| length != answer.body.len()) {
                    return Ending::Failed(Reason::WrongLength);
                }
                let kept = Answer { headers: headers::kept(&answer.headers), ..answer.clone() };
                let whole = Whole {
                    status: answer.status,
                    content_type: answer.content_type().to_owned(),
                    body_hash: keccak256(&answer.body),
                    answer,
                    kept: Some(kept),
                    held: vec![],
                };
                Ending::Whole(Box::new(whole), Action::Buffer)
            }
            Phase::Stream(stream) => {
                if stream.announced.is_some_and(|announced| announced != stream.length) {
                    return Ending::Failed(Reason::WrongLength);
                }
                Ending::Whole(Box::new(stream.whole()), Action::Stream)
            }
        }
    }
}

impl Stream {
    fn whole(self) -> Whole {
        let Self { status, headers, hasher, kept, held, .. } = self;
        let answer = Answer { status, headers, body: vec![] };
        let kept_headers = headers::kept(&answer.headers);
        Whole {
            status,
            content_type: answer.content_type().to_owned(),
            body_hash: hasher.finalize(),
            kept: kept.map(|body| Answer { status, headers: kept_headers, body }),
            answer,
            held,
        }
    }
}

/// The `Content-Length` that a response announces, where it is one number.
fn announced(headers: &Headers) -> Option<usize> {
    let mut given = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, value) = given.next()?;
    let is_one = given.next().is_none() && value.iter().all(u8::is_ascii_digit);
    is_one.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// Statuses whose responses have no body, whatever the handler returned.
const fn is_without_body(status: u16) -> bool {
    matches!(status, 204 | 205)
}

const fn is_success(status: u16) -> bool {
    matches!(status, 200..=299)
}
