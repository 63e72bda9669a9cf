//! Which processes are alive, among those that share a state file. The work of a process that
//! ended is taken over; the work of one that lives is left to it.

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    error::{Code, Error, Result, shown_path},
    storage::permissions,
};

/// A worker of one process: a number that no other worker has. 0 is nobody.
pub(crate) type WorkerId = i64;

/// The workers of this process, with its id, because a forked child inherits the list.
static HERE: Mutex<Vec<(u32, WorkerId)>> = Mutex::new(Vec::new());

/// The files that hold the locks. They stay open: closing any handle of a file releases all
/// locks that this process holds on it.
static FILES: Mutex<Vec<(PathBuf, Arc<File>)>> = Mutex::new(Vec::new());

/// A worker's sign of life: a lock on one byte of a file beside the state file, at the worker's
/// number. The operating system releases the lock however the process ends, and a forked child
/// does not inherit it.
#[derive(Debug)]
pub(crate) struct ProcessLock {
    owner: WorkerId,
    /// `None` for a state file in memory, which no other process shares.
    file: Option<Arc<File>>,
}

impl ProcessLock {
    pub(crate) fn take(state_file: Option<&Path>) -> Result<Self> {
        let owner = (RandomState::new().hash_one(std::process::id()) >> 2) as WorkerId | 1;
        let file = state_file.map(|file| open(&file.with_extension("owners"))).transpose()?;
        if let Some(file) = &file {
            lock(file, owner)?;
        }
        held(&HERE).push((std::process::id(), owner));
        Ok(Self { owner, file })
    }

    pub(crate) fn owner(&self) -> WorkerId {
        self.owner
    }

    /// Whether this worker may still be running.
    pub(crate) fn is_alive(&self, owner: WorkerId) -> bool {
        let own = (std::process::id(), owner);
        held(&HERE).contains(&own) || self.file.as_ref().is_some_and(|file| is_locked(file, owner))
    }
}

impl Drop for ProcessLock {
    fn drop(&mut self) {
        let own = (std::process::id(), self.owner);
        held(&HERE).retain(|place| *place != own);
        if let Some(file) = &self.file {
            unlock(file, self.owner);
        }
    }
}

fn held<T>(list: &'static Mutex<T>) -> MutexGuard<'static, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> Result<Arc<File>> {
    let mut files = held(&FILES);
    if let Some((_, file)) = files.iter().find(|(known, _)| known == path) {
        return Ok(file.clone());
    }
    permissions::prepare_file(path)?;
    let file =
        permissions::options().create(true).truncate(false).read(true).write(true).open(path);
    let file = Arc::new(file.map_err(|error| {
        let message = format!("{} cannot be opened: {error}", shown_path(path));
        Error::new(Code::StorageUnavailable, message)
            .with_hint("check that the state directory can be written")
            .with_source(error)
    })?);
    files.push((path.to_owned(), file.clone()));
    Ok(file)
}

#[cfg(unix)]
fn byte(kind: i32, owner: WorkerId) -> libc::flock {
    // SAFETY: a C struct of integers, for which all zeros are a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as _;
    lock.l_whence = libc::SEEK_SET as _;
    lock.l_start = owner as _;
    lock.l_len = 1;
    lock
}

#[cfg(unix)]
fn lock(file: &File, owner: WorkerId) -> Result<()> {
    use std::os::fd::AsRawFd;
    let request = byte(libc::F_WRLCK as _, owner);
    // SAFETY: the descriptor is open, and the struct lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &request) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    let message =
        format!("the file of process locks beside the state file cannot be locked: {error}");
    Err(Error::new(Code::StorageUnavailable, message)
        .with_hint("keep the state directory on a file system that supports locks")
        .with_source(error))
}

#[cfg(unix)]
fn unlock(file: &File, owner: WorkerId) {
    use std::os::fd::AsRawFd;
    let request = byte(libc::F_UNLCK as _, owner);
    // SAFETY: as above. It cannot fail for a byte that this process locked.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &request) };
}

#[cfg(unix)]
fn is_locked(file: &File, owner: WorkerId) -> bool {
    use std::os::fd::AsRawFd;
    let mut answer = byte(libc::F_WRLCK as _, owner);
    // SAFETY: as above; the struct is written to.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut answer) };
    asked != 0 || answer.l_type != libc::F_UNLCK as libc::c_short
}

/// Without such locks every worker counts as alive: nothing is taken over too early.
#[cfg(not(unix))]
fn lock(_file: &File, _owner: WorkerId) -> Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn unlock(_file: &File, _owner: WorkerId) {}

#[cfg(not(unix))]
fn is_locked(_file: &File, _owner: WorkerId) -> bool {
    true
}
