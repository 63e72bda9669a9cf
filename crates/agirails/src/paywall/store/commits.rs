//! Many callers, one commit: steps that wait while another is being written are written together,
//! in one transaction, and synced once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::{Mutex as Turn, oneshot};

use crate::{
    error::{Code, Error, Result},
    storage::{Attempt, Store},
};

/// The most steps of one commit: a few milliseconds of work, in which others wait.
const MOST: usize = 256;

trait Step: Send {
    /// May run several times; the last one counts.
    fn run(&mut self, connection: &Connection) -> Attempt<()>;
    fn end(self: Box<Self>, outcome: Result<(), &Error>);
}

struct Waiting<T, F> {
    step: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Connection) -> Attempt<T> + Send> Step for Waiting<T, F> {
    fn run(&mut self, connection: &Connection) -> Attempt<()> {
        self.value = Some((self.step)(connection)?);
        Ok(())
    }

    fn end(self: Box<Self>, outcome: Result<(), &Error>) {
        let value = match (outcome, self.value) {
            (Ok(()), Some(value)) => Ok(value),
            (Ok(()), None) => Err(never_ran()),
            (Err(error), _) => Err(error.again()),
        };
        // A caller that gave up is answered by nobody; its step stands.
        let _ = self.reply.send(value);
    }
}

fn never_ran() -> Error {
    Error::new(Code::Internal, "a step of the paywall's store was never run")
}

/// Writes to one file, many steps at a time.
#[derive(Clone)]
pub(super) struct Commits {
    file: Arc<Store>,
    queue: Arc<Mutex<Vec<Box<dyn Step>>>>,
    turn: Arc<Turn<()>>,
}

impl Commits {
    pub(super) fn new(file: Arc<Store>) -> Self {
        Self { file, queue: Arc::default(), turn: Arc::default() }
    }

    /// Runs one step, all of it or nothing. It is durable when this returns.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        step: impl FnMut(&Connection) -> Attempt<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, mut answer) = oneshot::channel();
        self.queue().push(Box::new(Waiting { step, value: None, reply }));
        // Whoever else is ready joins the same commit.
        tokio::task::yield_now().await;
        loop {
            // Whoever has the turn writes what all others wait for.
            let _turn = self.turn.lock().await;
            match answer.try_recv() {
                Ok(outcome) => return outcome,
                Err(oneshot::error::TryRecvError::Empty) => self.commit().await,
                Err(oneshot::error::TryRecvError::Closed) => return Err(never_ran()),
            }
        }
    }

    async fn commit(&self) {
        let mut taken = self.take();
        let steps = &mut taken.steps;
        let outcome = self
            .file
            .write(|connection| steps.iter_mut().try_for_each(|step| step.run(connection)))
            .await;
        match outcome {
            Ok(()) => taken.steps.drain(..).for_each(|step| step.end(Ok(()))),
            // Nobody can write: each of them alone would wait as long, one behind the other.
            Err(error) if taken.steps.len() == 1 || error.code() == Code::StorageBusy => {
                taken.steps.drain(..).for_each(|step| step.end(Err(&error)));
            }
            // One that fails takes no other with it.
            Err(_) => {
                while let Some(step) = taken.steps.first_mut() {
                    let outcome = self.file.write(|connection| step.run(connection)).await;
                    taken.steps.remove(0).end(outcome.as_ref().copied());
                }
            }
        }
    }

    fn take(&self) -> Taken<'_> {
        let mut queue = self.queue();
        let count = queue.len().min(MOST);
        let steps = queue.drain(..count).collect();
        Taken { steps, commits: self }
    }

    fn queue(&self) -> MutexGuard<'_, Vec<Box<dyn Step>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steps that are being written. Where the writer is dropped in the middle, nothing of them is
/// written, and the next in turn takes them.
struct Taken<'a> {
    steps: Vec<Box<dyn Step>>,
    commits: &'a Commits,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            self.commits.queue().splice(..0, self.steps.drain(..));
        }
    }
}

impl std::fmt::Debug for Commits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Commits").field(&self.file).finish()
    }
}
