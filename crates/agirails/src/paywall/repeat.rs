//! A kept answer, given again. A long body is read from the store piece by piece, as its caller takes
//! it, so that callers who ask for it again and read slowly cost no more than a piece each.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use super::{
    Inner,
    answer::Answer,
    lock,
    rejection::Rejection,
    store::{CallId, KeptAnswer, KeptBody},
};
use crate::{
    error::{Code, Error, Result},
    protocol::TransactionId,
};

/// How many long answers to calls of one payment are under way at once, in one process.
const OF_ONE_PAYMENT: usize = 8;
/// How many long answers are under way in all. Each holds a piece or two of its body.
const IN_ALL: usize = 256;

/// A kept answer; where `rest` is there, the answer's own body is empty.
#[derive(Debug)]
pub(super) struct Repeated {
    pub(super) answer: Answer,
    pub(super) rest: Option<Repeat>,
}

impl Repeated {
    /// With its whole body.
    pub(super) async fn whole(self) -> Result<Answer> {
        let Self { mut answer, rest } = self;
        if let Some(mut rest) = rest {
            while let Some(piece) = rest.next().await? {
                answer.body.extend_from_slice(&piece);
            }
        }
        Ok(answer)
    }
}

/// A body on its way from the store.
pub(super) struct Repeat {
    inner: Arc<Inner>,
    call: CallId,
    left: u64,
    next: u64,
    /// Of a caller, who may be slow; given back when this ends, however it does.
    _place: Option<Place>,
}

impl Repeat {
    /// What of an answer is there at once, and what comes in pieces.
    pub(super) fn begin(
        inner: &Arc<Inner>,
        call: CallId,
        kept: KeptAnswer,
    ) -> Result<(Answer, Option<Self>), Rejection> {
        let place = match kept.body {
            KeptBody::Whole(_) => None,
            KeptBody::Pieces { .. } => Some(inner.process.get().repeats.place(call.transaction)?),
        };
        Ok(Self::of(inner, call, kept, place))
    }

    /// The whole answer, for nobody who could be slow.
    pub(super) async fn whole(
        inner: &Arc<Inner>,
        call: CallId,
        kept: KeptAnswer,
    ) -> Result<Answer> {
        let (answer, rest) = Self::of(inner, call, kept, None);
        Repeated { answer, rest }.whole().await
    }

    fn of(
        inner: &Arc<Inner>,
        call: CallId,
        kept: KeptAnswer,
        place: Option<Place>,
    ) -> (Answer, Option<Self>) {
        let KeptAnswer { status, mut headers, body } = kept;
        let length = match body {
            KeptBody::Whole(body) => return (Answer { status, headers, body }, None),
            KeptBody::Pieces { length } => length,
        };
        let rest = Self { inner: inner.clone(), call, left: length, next: 0, _place: place };
        // Nobody sees the body's length from the answer.
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Content-Length"));
        let answer = Answer { status, headers, body: vec![] };
        (answer.with("Content-Length", length.to_string()), Some(rest))
    }

    /// How many bytes are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let piece = self.inner.store.piece(&self.call, self.next).await?;
        let Some(left) = self.left.checked_sub(piece.len() as u64).filter(|_| !piece.is_empty())
        else {
            let message = format!("the kept answer of {} is not whole", self.call.transaction);
            return Err(Error::new(Code::StorageDamaged, message));
        };
        (self.left, self.next) = (left, self.next + 1);
        Ok(Some(piece))
    }
}

impl fmt::Debug for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeat")
            .field("call", &self.call)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// How many long answers are under way, and of which payments.
#[derive(Debug, Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<TransactionId, usize>>>);

impl Repeats {
    fn place(&self, id: TransactionId) -> Result<Place, Rejection> {
        let mut under_way = lock(&self.0);
        if under_way.get(&id).is_some_and(|count| *count >= OF_ONE_PAYMENT) {
            return Err(Rejection::too_many_repeats_of_one());
        }
        if under_way.values().sum::<usize>() >= IN_ALL {
            return Err(Rejection::too_many_repeats());
        }
        *under_way.entry(id).or_default() += 1;
        Ok(Place { repeats: self.clone(), id })
    }
}

struct Place {
    repeats: Repeats,
    id: TransactionId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = lock(&self.repeats.0);
        if let Some(count) = under_way.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_are_bounded_for_each_payment_and_in_all() {
        let repeats = Repeats::default();
        let id = |number: usize| TransactionId::left_padding_from(&number.to_be_bytes());
        let reason = |number| repeats.place(id(number)).map(|_| ()).unwrap_err().reason;
        let mut places: Vec<_> = (0..IN_ALL)
            .map(|number| {
                repeats.place(id(number / OF_ONE_PAYMENT)).unwrap_or_else(|_| panic!("{number}"))
            })
            .collect();
        assert_eq!(reason(0), "too_many_repeats");
        assert_eq!(reason(IN_ALL), "too_many_answers");
        drop(places.pop());
        drop(repeats.place(id(IN_ALL)).unwrap_or_else(|_| panic!("no place was given back")));
        drop(places);
        assert!(lock(&repeats.0).is_empty());
    }
}
