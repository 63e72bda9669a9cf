//! Steps that come at the same time share a transaction: one round trip, and one sync of the
//! server's disk.
//!
//! While some are on the way, others gather. Whoever is next in turn takes along what waits. One that
//! fails takes no other with it: then each goes by itself.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time};

use super::{damaged, pool::Pool};
use crate::{
    error::{Code, Result},
    fork::Renewed,
    protocol::TransactionId,
};

/// The most steps of one transaction: some milliseconds of work, in which others wait.
const MOST: usize = 128;
/// Their bodies come along as one value, which the server copies.
const MOST_BYTES: usize = 1 << 20;

/// A step as others see it.
pub(super) trait Step: Send + Sync {
    /// The payment that it locks.
    fn payment(&self) -> TransactionId;

    /// What it carries, roughly.
    fn bytes(&self) -> usize;
}

/// Sends steps in one transaction, in the order of their payments, and brings an answer for each.
pub(super) type SendAll<'a, S, A> =
    dyn Fn(Vec<Arc<S>>) -> BoxFuture<'a, Result<Vec<A>>> + Sync + 'a;

/// Steps of one kind.
pub(super) struct Together<S, A> {
    /// A forked child starts with none: the parent's callers wait there.
    queue: Renewed<Queue<S, A>>,
}

struct Queue<S, A> {
    waiting: Mutex<Vec<Waiting<S, A>>>,
    next: AtomicU64,
}

struct Waiting<S, A> {
    number: u64,
    step: Arc<S>,
    reply: oneshot::Sender<Told<A>>,
}

enum Told<A> {
    Done(Result<A>),
    /// Nothing was done, because of one among them or of what it met.
    GoAlone,
}

impl<S: Step + 'static, A: Send + 'static> Together<S, A> {
    pub(super) fn new() -> Self {
        Self {
            queue: Renewed::new(|| Queue { waiting: Mutex::default(), next: AtomicU64::new(0) }),
        }
    }

    /// Sends a step, with others where some wait. Each must bear being sent twice.
    ///
    /// # Errors
    /// Those of `send`, and the pool's where no turn came for as long as it lets wait.
    pub(super) async fn go(&self, step: S, pool: &Pool, send: &SendAll<'_, S, A>) -> Result<A> {
        let step = Arc::new(step);
        let give_up = time::Instant::now() + pool.limits().queue;
        loop {
            let (queue, connections) = (self.queue.get(), pool.connections());
            let (number, mut answer) = queue.add(step.clone());
            // Whoever else is ready comes along.
            tokio::task::yield_now().await;
            let told = tokio::select! {
                biased;
                told = &mut answer => told,
                turn = connections.turns.acquire() => {
                    let taken = queue.take(number);
                    match taken.is_empty() {
                        // Ours is on the way already.
                        true => drop(turn),
                        false => queue.send(taken, send).await,
                    }
                    answer.await
                }
                () = time::sleep_until(give_up) => match queue.leave(number) {
                    true => return Err(pool.busy()),
                    false => answer.await,
                },
            };
            match told {
                Ok(Told::Done(outcome)) => return outcome,
                Ok(Told::GoAlone) => return one(send(vec![step]).await),
                // Whoever took it along gave up in the middle.
                Err(_) => {}
            }
        }
    }
}

impl<S: Step, A> Queue<S, A> {
    fn add(&self, step: Arc<S>) -> (u64, oneshot::Receiver<Told<A>>) {
        let (reply, answer) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().push(Waiting { number, step, reply });
        (number, answer)
    }

    /// Those that waited longest, and this one; none where this one is on the way.
    fn take(&self, number: u64) -> Vec<Waiting<S, A>> {
        let mut waiting = self.waiting();
        let Some(own) = waiting.iter().position(|other| other.number == number) else {
            return vec![];
        };
        let mut taken = vec![waiting.remove(own)];
        let mut bytes = taken[0].step.bytes();
        // Whoever gave up is forgotten, if it was not taken along before.
        waiting.retain(|other| !other.reply.is_closed());
        let more = waiting.iter().take(MOST - 1).take_while(|other| {
            bytes = bytes.saturating_add(other.step.bytes());
            bytes <= MOST_BYTES
        });
        let more = more.count();
        taken.extend(waiting.drain(..more));
        taken.sort_by_key(|one| (one.step.payment(), one.number));
        taken
    }

    /// Whether it was waiting still.
    fn leave(&self, number: u64) -> bool {
        let mut waiting = self.waiting();
        let before = waiting.len();
        waiting.retain(|other| other.number != number);
        waiting.len() < before
    }

    async fn send(&self, taken: Vec<Waiting<S, A>>, send: &SendAll<'_, S, A>) {
        let outcome = send(taken.iter().map(|waiting| waiting.step.clone()).collect()).await;
        match outcome {
            Ok(answers) => {
                for (waiting, answer) in taken.into_iter().zip(answers) {
                    // A caller that gave up is answered by nobody; its step stands.
                    let _ = waiting.reply.send(Told::Done(Ok(answer)));
                }
            }
            Err(error) => {
                let is_alone = taken.len() == 1 || error.code() == Code::StoreUnreachable;
                for waiting in taken {
                    let told = match is_alone {
                        true => Told::Done(Err(error.again())),
                        false => Told::GoAlone,
                    };
                    let _ = waiting.reply.send(told);
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting<S, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one answer to one step.
fn one<A>(answers: Result<Vec<A>>) -> Result<A> {
    answers?.pop().ok_or_else(|| damaged("a step without an answer"))
}
