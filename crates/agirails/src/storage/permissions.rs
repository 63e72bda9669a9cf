//! State files are for their owner alone: they hold what was paid for, and decide where money goes.
//!
//! Directories have mode 0700 and files 0600. What an earlier version made more open is closed. What
//! another user owns, or every user can write, is refused: whoever can write a state file can
//! move its owner's money.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::error::{Code, Error, Result, shown_path};

/// SQLite's own files beside a state file.
pub(crate) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Makes a directory, and those above it, where they are missing.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)
}

/// Checks a directory, and closes it to others.
///
/// # Errors
/// [`Code::StorageExposed`].
pub(crate) fn check_directory(directory: &Path) -> Result<()> {
    // Whoever can put a link in its place chooses the directory.
    check_link(directory)?;
    check(directory)
}

/// Makes a file where it is missing; checks it, and closes it to others. It holds nothing yet, so
/// that no process has a lock on it, which closing it would release.
///
/// # Errors
/// [`Code::StorageExposed`].
pub(crate) fn prepare_file(path: &Path) -> Result<()> {
    match options().write(true).create_new(true).open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        // Whoever opens it next says why it cannot be.
        Err(_) => return Ok(()),
    }
    check_link(path)?;
    check(path)?;
    COMPANIONS.iter().try_for_each(|suffix| check(&beside(path, suffix)))
}

/// How files are opened that may be new.
pub(crate) fn options() -> fs::OpenOptions {
    #[allow(unused_mut)]
    let mut options = fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A file beside this one.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(unix)]
fn check_link(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => check_owner(path, found.uid()),
        _ => Ok(()),
    }
}

/// What is not there, or cannot be looked at, cannot be used either; others say so.
#[cfg(unix)]
fn check(path: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    check_owner(path, found.uid())?;
    let mode = found.mode() & 0o7777;
    if mode & 0o002 != 0 {
        return Err(exposed(path, &format!("can be written by every user (mode {mode:04o})")));
    }
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let closed = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700));
    // What belongs to the administrator stays as it is, unless others of its group can write it.
    match closed {
        Err(_) if mode & 0o020 != 0 => {
            Err(exposed(path, &format!("can be written by its group (mode {mode:04o})")))
        }
        _ => Ok(()),
    }
}

/// The administrator may do everything anyway, so that what is his is no worse than what is ours.
#[cfg(unix)]
fn check_owner(path: &Path, owner: u32) -> Result<()> {
    // SAFETY: it only reads this process's user.
    let user = unsafe { libc::geteuid() };
    match owner == user || owner == 0 {
        true => Ok(()),
        false => Err(Error::new(
            Code::StorageExposed,
            format!("{} belongs to user {owner}, and this process runs as user {user}", shown_path(path)),
        )
        .with_hint(
            "name a directory of this user's own with ACTP_STATE_DIR or state_directory; where it is yours, \
             and nobody else could write it, change its owner: chown -R",
        )
        .with_facts(|facts| {
            facts.field = Some("state_directory");
            facts.value = Some(shown_path(path));
        })),
    }
}

#[cfg(unix)]
fn exposed(path: &Path, problem: &str) -> Error {
    let shown = shown_path(path);
    Error::new(Code::StorageExposed, format!("{shown} {problem}"))
        .with_hint(
            "name another directory with ACTP_STATE_DIR or state_directory; where you trust what it holds, \
             close it to others: chmod -R go-rwx",
        )
        .with_facts(|facts| {
            facts.field = Some("state_directory");
            facts.value = Some(shown);
        })
}

/// Access is the directory's there.
#[cfg(not(unix))]
fn check_link(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn check(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_an_earlier_version_made_is_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let (made, file) = (directory.path().join("a/.actp"), directory.path().join("a/.actp/f"));
        create_directory(&made).unwrap();
        assert_eq!((mode(&made), mode(made.parent().unwrap())), (0o700, 0o700));
        set_mode(&made, 0o775);
        check_directory(&made).unwrap();
        assert_eq!(mode(&made), 0o700);

        prepare_file(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        let companion = beside(&file, "-wal");
        fs::write(&companion, "").unwrap();
        set_mode(&file, 0o664);
        set_mode(&companion, 0o644);
        prepare_file(&file).unwrap();
        assert_eq!((mode(&file), mode(&companion)), (0o600, 0o600));
    }

    #[test]
    fn what_every_user_can_write_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "").unwrap();
        set_mode(&file, 0o666);
        let error = prepare_file(&file).unwrap_err();
        assert_eq!(error.code(), Code::StorageExposed);
        assert!(error.to_string().contains("mode 0666"), "{error}");
        assert!(error.hint().unwrap().contains("chmod -R go-rwx"));
        assert_eq!(mode(&file), 0o666, "it was changed");
    }

    #[test]
    fn what_another_user_owns_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let owned = directory.path().join("owned");
        fs::create_dir(&owned).unwrap();
        // Only an administrator can give a file away; as any other user his directories are at hand.
        if chown(&owned, Some(65_534), None).is_err() {
            return check_directory(Path::new("/")).unwrap();
        }
        let error = check_directory(&owned).unwrap_err();
        assert_eq!(error.code(), Code::StorageExposed);
        assert!(error.to_string().contains("user 65534"), "{error}");
        // And a link that somebody else put there, wherever it leads.
        let (ours, link) = (directory.path().join("ours"), directory.path().join("link"));
        fs::create_dir(&ours).unwrap();
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        check_directory(&link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
        assert_eq!(check_directory(&link).unwrap_err().code(), Code::StorageExposed);
    }
}
