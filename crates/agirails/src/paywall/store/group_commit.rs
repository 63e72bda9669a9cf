//! Many callers, one commit: steps that wait while another is being written are written together,
//! in one transaction, and synced once.
//!
//! A step waits for a locked file from the moment it arrives, not from the moment its commit
//! begins. So a step that arrives while others wait is refused with them, and no caller waits for
//! longer than the file's patience, however many commits fail before its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

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
    /// How long its caller has waited.
    fn waited(&self) -> Duration;
    fn end(self: Box<Self>, outcome: Result<(), &Error>);
}

struct Waiting<T, F> {
    step: F,
    value: Option<T>,
    arrived: Instant,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Connection) -> Attempt<T> + Send> Step for Waiting<T, F> {
    fn run(&mut self, connection: &Connection) -> Attempt<()> {
        self.value = Some((self.step)(connection)?);
        Ok(())
    }

    fn waited(&self) -> Duration {
        self.arrived.elapsed()
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
pub(super) struct GroupCommit {
    file: Arc<Store>,
    queue: Arc<Mutex<Vec<Box<dyn Step>>>>,
    turn: Arc<Turn<()>>,
}

impl GroupCommit {
    pub(super) fn new(file: Arc<Store>) -> Self {
        Self { file, queue: Arc::default(), turn: Arc::default() }
    }

    /// Runs one step, all of it or nothing. It is durable when this returns.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        step: impl FnMut(&Connection) -> Attempt<T> + Send + 'static,
    ) -> Result<T> {
        self.write_since(Instant::now(), step).await
    }

    async fn write_since<T: Send + 'static>(
        &self,
        arrived: Instant,
        step: impl FnMut(&Connection) -> Attempt<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, mut answer) = oneshot::channel();
        self.queue().push(Box::new(Waiting { step, value: None, arrived, reply }));
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
        let waited = steps.iter().map(|step| step.waited()).max().unwrap_or_default();
        let outcome = self
            .file
            .write_after(waited, |connection| {
                steps.iter_mut().try_for_each(|step| step.run(connection))
            })
            .await;
        match outcome {
            Ok(()) => taken.steps.drain(..).for_each(|step| step.end(Ok(()))),
            // Nobody can write: alone, each of them would wait again, one behind the other.
            Err(error) if taken.steps.len() == 1 || error.code() == Code::StorageBusy => {
                taken.steps.drain(..).for_each(|step| step.end(Err(&error)));
            }
            // One that fails takes no other with it.
            Err(_) => {
                while let Some(step) = taken.steps.first_mut() {
                    let waited = step.waited();
                    let outcome =
                        self.file.write_after(waited, |connection| step.run(connection)).await;
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
    commits: &'a GroupCommit,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            self.commits.queue().splice(..0, self.steps.drain(..));
        }
    }
}

impl std::fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GroupCommit").field(&self.file).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::storage::{Format, Storage};

    /// The file's patience, which no test waits for.
    const PATIENCE: Duration = Duration::from_secs(600);
    /// Who is not refused by then waits for the file's patience.
    const SOON: Duration = Duration::from_secs(60);

    /// A file, and somebody who holds its lock and does not work.
    async fn locked() -> (GroupCommit, Connection, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let format = Format {
            file: "commits.sqlite3".to_owned(),
            identity: None,
            former: None,
            application_id: 0x6163_7478,
            schema: &["CREATE TABLE steps (number INTEGER)"],
            synchronous: "NORMAL",
            patience: PATIENCE,
        };
        let storage = Storage::Directory(directory.path().to_owned());
        let file = Store::open(storage, format, |_| Ok(())).await.unwrap();
        let holder = Connection::open(file.path().unwrap()).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        (GroupCommit::new(file), holder, directory)
    }

    /// A step of a caller that arrived so long ago.
    async fn add(commits: &GroupCommit, waited: Duration) -> Result<()> {
        let arrived = Instant::now().checked_sub(waited).unwrap();
        commits
            .write_since(arrived, |connection| {
                connection.execute("INSERT INTO steps VALUES (1)", [])?;
                Ok(())
            })
            .await
    }

    fn is_busy(outcome: Result<()>) -> bool {
        outcome.is_err_and(|error| error.code() == Code::StorageBusy)
    }

    #[tokio::test]
    async fn nobody_waits_for_a_locked_file_behind_a_commit_that_failed() {
        let (commits, holder, _directory) = locked().await;
        let nearly = PATIENCE - Duration::from_millis(300);
        let behind = async {
            // The first commit has begun without these: one caller as old, and one that has just come.
            tokio::time::sleep(Duration::from_millis(100)).await;
            tokio::join!(add(&commits, nearly), add(&commits, Duration::ZERO))
        };
        let all = async { tokio::join!(add(&commits, nearly), behind) };
        let (first, (second, third)) = tokio::time::timeout(SOON, all).await.unwrap();
        assert!(is_busy(first) && is_busy(second) && is_busy(third));

        holder.execute_batch("ROLLBACK").unwrap();
        // Who has waited in vain elsewhere still gets an attempt.
        add(&commits, PATIENCE).await.unwrap();
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let written = holder.query_row("SELECT count(*) FROM steps", [], count).unwrap();
        assert_eq!(written, 1, "a refused step was written");
    }

    #[tokio::test]
    async fn a_caller_that_leaves_its_commit_makes_nobody_wait_longer() {
        let (commits, _holder, _directory) = locked().await;
        let leaver =
            tokio::time::timeout(Duration::from_millis(100), add(&commits, Duration::ZERO));
        let other = add(&commits, PATIENCE - Duration::from_millis(300));
        let all = async { tokio::join!(leaver, other) };
        let (left, other) = tokio::time::timeout(SOON, all).await.unwrap();
        assert!(left.is_err() && is_busy(other));
    }
}
