//! Copies of state files that are in use.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{PATIENCE, harden, permissions, storage_error};
use crate::error::{Code, Error, Result, shown_path};

/// The first three bytes of every state file's application id: "act".
const OURS: i64 = 0x0061_6374;

/// Copies the state below a directory, while processes use it: every state file, each as it stood at
/// one moment, checked and written to the disk.
///
/// The copies are in `.actp/` of `destination`, which is made, so that the destination can be used as
/// a state directory itself, or its files be moved back. A paywall that opens such a copy knows that
/// it is one: what was paid for after it was made is not given back as if it had never been used.
/// Keystores are not copied. Returns the files that were written.
///
/// # Errors
/// [`Code::StorageUnavailable`] where there is no state, or the destination has some already;
/// [`Code::StorageDamaged`] where a file, or its copy, is not sound; [`Code::StorageFull`];
/// [`Code::StorageExposed`] where others could write it. What was written by then stays.
///
/// ```
/// use agirails::{ACTPClient, Address, back_up};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(async {
/// let state = tempfile::tempdir().unwrap();
/// let builder = ACTPClient::builder().address(Address::repeat_byte(0xaa));
/// let client = builder.state_directory(state.path()).connect().await?;
///
/// let copies = back_up(state.path(), state.path().join("copy"))?;
/// assert!(copies[0].ends_with("copy/.actp/kernel.sqlite3"));
/// # drop(client);
/// # Ok::<(), agirails::Error>(())
/// # }).unwrap();
/// ```
pub fn back_up(
    state_directory: impl AsRef<Path>,
    destination: impl AsRef<Path>,
) -> Result<Vec<PathBuf>> {
    let source = state_directory.as_ref().join(".actp");
    let target = destination.as_ref().join(".actp");
    let mut files: Vec<_> = fs::read_dir(&source)
        .map_err(|error| unusable(&source, &format!("cannot be read: {error}")))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("sqlite3")))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(unusable(&source, "holds no state file"));
    }
    permissions::check_directory(&source)?;
    permissions::create_directory(&target)
        .map_err(|error| unusable(&target, &format!("cannot be made: {error}")))?;
    permissions::check_directory(&target)?;
    let mut copies = vec![];
    for file in files {
        let copy = target.join(file.file_name().unwrap_or_default());
        if copy.exists() {
            return Err(unusable(&copy, "is there already"));
        }
        permissions::prepare_file(&copy)?;
        copy_file(&file, &copy).map_err(|error| {
            Error::new(error.code(), format!("{}: {error}", shown_path(&file)))
                .with_hint("the copy is not to be used; the state is as it was")
                .with_source(error)
        })?;
        copies.push(copy);
    }
    // The names are on the disk when the directory is.
    let _ = File::open(&target).and_then(|directory| directory.sync_all());
    Ok(copies)
}

fn copy_file(file: &Path, copy: &Path) -> Result<()> {
    let application = |connection: &Connection| {
        connection.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0))
    };
    let source = open(file).map_err(storage_error)?;
    if application(&source).map_err(storage_error)? >> 8 != OURS {
        let message = "the file is no state file of agirails";
        return Err(Error::new(Code::StorageDamaged, message));
    }
    // One read, of one moment: nobody who writes waits for it.
    source.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map_err(storage_error)?;
    let written = open(copy).map_err(storage_error)?;
    let verdict: String = written
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(storage_error)?;
    if verdict != "ok" {
        return Err(Error::new(Code::StorageDamaged, format!("the copy is not sound: {verdict}")));
    }
    mark(&written).map_err(storage_error)?;
    drop(written);
    File::open(copy).and_then(|file| file.sync_all()).map_err(|error| {
        Error::new(Code::StorageUnavailable, format!("the copy cannot be written: {error}"))
    })
}

/// Has a paywall's store know that it is a copy.
fn mark(copy: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'restored'";
    if copy.prepare(sql)?.exists([])? {
        copy.execute("INSERT INTO restored (at) VALUES (0)", [])?;
    }
    Ok(())
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    harden(&connection)?;
    Ok(connection)
}

fn unusable(path: &Path, problem: &str) -> Error {
    Error::new(Code::StorageUnavailable, format!("{} {problem}", shown_path(path)))
        .with_hint("name the state directory, and a new directory for its copy")
}
