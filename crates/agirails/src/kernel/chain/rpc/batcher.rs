//! Many requests at once: the first few go out as they come, the others share round trips.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::{runtime::Handle, sync::oneshot};

use super::{Answered, Call, Line, endpoint::Miss, failover::Failover};
use crate::error::Result;

/// HTTP requests under way before further ones wait for one of them to return. Below it nothing
/// is ever delayed; above it, what has gathered meanwhile leaves as one batch.
const AT_ONCE: usize = 8;

/// Who is under way, and who waits.
#[derive(Default)]
pub(super) struct Batcher {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

/// A request that shares a round trip with others.
struct Waiting {
    call: Arc<Call>,
    until: Instant,
    /// The runtime that its caller waits on, so one that runs.
    runtime: Handle,
    answer: oneshot::Sender<Result<Answered>>,
}

/// How a request goes out.
pub(super) enum Admission {
    /// By itself.
    Now(Slot, Arc<Call>),
    /// With others; the answer comes here.
    Later(oneshot::Receiver<Result<Answered>>, Arc<Call>),
}

/// One HTTP request under way. Whoever waits goes out when it is dropped, so a caller that stops
/// waiting holds up nobody.
pub(super) struct Slot(Arc<Line>);

impl Slot {
    /// Counts what goes out whether others are under way or not.
    pub(super) fn one_more(line: &Arc<Line>) -> Self {
        line.batcher().under_way += 1;
        Self(line.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut batcher = self.0.batcher();
        let most = if batcher.waiting.is_empty() { 0 } else { self.0.taken_together() };
        let mut together = Vec::new();
        while together.len() < most
            && let Some(waiting) = batcher.waiting.pop_front()
        {
            if !waiting.answer.is_closed() {
                together.push(waiting);
            }
        }
        match together.first().map(|waiting| waiting.runtime.clone()) {
            Some(runtime) => {
                // The slot passes on, so the count stays.
                drop(batcher);
                let slot = Self(self.0.clone());
                runtime.spawn(slot.carry(together));
            }
            None => batcher.under_way = batcher.under_way.saturating_sub(1),
        }
    }
}

impl Slot {
    /// Brings their answers to callers who are free to leave.
    async fn carry(self, mut together: Vec<Waiting>) {
        let line = &self.0;
        let client = match line.client() {
            Ok(client) => client,
            // Callers find the same by themselves.
            Err(_) => return,
        };
        let until = together.iter().map(|waiting| waiting.until).max();
        let mut failover = Failover::new(line, until.unwrap_or_else(Instant::now));
        while let Some(turn) = failover.next().await {
            together.retain(|waiting| !waiting.answer.is_closed());
            if together.is_empty() {
                return;
            }
            let calls: Vec<&Call> = together.iter().map(|waiting| &*waiting.call).collect();
            let answers = match turn.endpoint.ask_all(line, client, &calls, turn.timeout).await {
                Ok(answers) => answers,
                Err(miss) => {
                    failover.missed(&turn, miss);
                    continue;
                }
            };
            // They have nothing to do with each other: those whom the endpoint put off try again.
            let mut put_off = None;
            for (waiting, answer) in mem::take(&mut together).into_iter().zip(answers) {
                match answer.as_ref().err().and_then(Miss::limited_by) {
                    Some(miss) => {
                        put_off = Some(miss);
                        together.push(waiting);
                    }
                    // An error here is a caller who has left.
                    None => drop(waiting.answer.send(Ok(answer))),
                }
            }
            match put_off {
                Some(miss) => failover.missed(&turn, miss),
                None => {
                    failover.answered(&turn);
                    return;
                }
            }
        }
        for waiting in together {
            let error = failover.error(waiting.call.method);
            drop(waiting.answer.send(Err(error)));
        }
    }
}

impl Line {
    /// Lets a request out, or has it wait for one that is under way to return.
    pub(super) fn admit(self: &Arc<Self>, call: Call) -> Admission {
        let call = Arc::new(call);
        let mut batcher = self.batcher();
        if batcher.under_way < AT_ONCE {
            batcher.under_way += 1;
            return Admission::Now(Slot(self.clone()), call);
        }
        let (answer, later) = oneshot::channel();
        batcher.waiting.push_back(Waiting {
            call: call.clone(),
            until: Instant::now() + self.patience,
            runtime: Handle::current(),
            answer,
        });
        Admission::Later(later, call)
    }

    /// How many calls the endpoint that is asked first takes in one request.
    fn taken_together(&self) -> usize {
        let now = Instant::now();
        let rested = self.endpoints.iter().find(|endpoint| endpoint.readiness(now).rested <= now);
        rested.or(self.endpoints.first()).map_or(1, |endpoint| endpoint.batch_size())
    }

    /// How many are under way, and how many wait.
    #[cfg(test)]
    pub(super) fn batcher_size(&self) -> (usize, usize) {
        let batcher = self.batcher();
        (batcher.under_way, batcher.waiting.len())
    }

    fn batcher(&self) -> MutexGuard<'_, Batcher> {
        self.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
