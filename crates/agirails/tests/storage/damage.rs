//! Files and directories that cannot be used, and a disk that is full.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use agirails::{ACTPClient, Code, Error, LinkEscrow, Retry, State, Usdc, kernel::Kernel};
use rusqlite::Connection;
use tempfile::tempdir;

use crate::{USDC, assert_sound, children, create, open, paid_call, party, run, state_file};

/// A directory whose state file holds these bytes.
fn directory_with(bytes: &[u8]) -> tempfile::TempDir {
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join(".actp")).unwrap();
    fs::write(state_file(directory.path()), bytes).unwrap();
    directory
}

/// A sound file with some transactions, all of it in the file itself.
fn sound_file() -> Vec<u8> {
    let directory = tempdir().unwrap();
    run(async {
        let kernel = open(directory.path()).await.unwrap();
        for number in 0..60 {
            paid_call(&kernel, party(number)).await.unwrap();
        }
    });
    let file = state_file(directory.path());
    let connection = Connection::open(&file).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
    fs::read(file).unwrap()
}

fn changed(sql: &str) -> Vec<u8> {
    let directory = directory_with(&sound_file());
    let file = state_file(directory.path());
    let connection = Connection::open(&file).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
    fs::read(file).unwrap()
}

fn foreign(sql: &str) -> Vec<u8> {
    let directory = tempdir().unwrap();
    let file = directory.path().join("foreign");
    let connection = Connection::open(&file).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
    fs::read(file).unwrap()
}

/// Connects, and uses what could be opened.
async fn use_it(directory: &Path) -> Result<(), Error> {
    let builder = ACTPClient::builder().address(party(0)).state_directory(directory);
    let client = builder.connect().await?;
    client.balance().await?;
    client.kernel().events(0, 10_000).await?;
    paid_call(client.kernel().as_ref(), party(0)).await?;
    Ok(())
}

#[track_caller]
fn assert_refused(error: &Error, code: Code, directory: &Path) {
    assert_eq!(error.code(), code, "{error:?}");
    assert_eq!(error.facts().field, Some("state_directory"));
    let place = directory.to_string_lossy();
    assert!(error.to_string().contains(&*place), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn damaged_and_foreign_files_are_refused_and_left_as_they_are() {
    let sound = sound_file();
    let mut scribbled = sound.clone();
    scribbled[4_096..].fill(0xff);
    let mut headless = sound.clone();
    headless[..100].fill(b'x');
    for (what, bytes) in [
        ("text", b"this is my diary".to_vec()),
        ("garbage", (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("a lost header", headless),
        ("a header alone", sound[..100].to_vec()),
        ("a first page alone", sound[..4_096].to_vec()),
        ("half a file", sound[..sound.len() / 2].to_vec()),
        ("a cut page", sound[..sound.len() - 1_000].to_vec()),
        ("lost pages", scribbled),
        ("a foreign file", foreign("CREATE TABLE accounts (id INTEGER); PRAGMA user_version = 1")),
        ("a foreign file without a version", foreign("CREATE TABLE a (b)")),
        ("another application's file", foreign("PRAGMA application_id = 7; CREATE TABLE a (b)")),
        ("another application's empty file", foreign("PRAGMA application_id = 7")),
        (
            "a version of another application",
            foreign("PRAGMA user_version = 1; CREATE TABLE a (b)"),
        ),
    ] {
        let directory = directory_with(&bytes);
        for _ in 0..2 {
            let error = run(use_it(directory.path())).expect_err(what);
            assert_refused(&error, Code::StorageDamaged, directory.path());
            assert_eq!(error.retry(), Retry::Never);
        }
        assert!(fs::read(state_file(directory.path())).unwrap() == bytes, "{what} was changed");

        // Moved away, as the hint says, it is in nobody's way.
        fs::remove_dir_all(directory.path().join(".actp")).unwrap();
        run(use_it(directory.path())).unwrap();
    }
}

#[test]
fn a_newer_file_is_refused_and_left_as_it_is() {
    let sound = directory_with(&sound_file());
    let file = Connection::open(state_file(sound.path())).unwrap();
    let ours: i32 = file.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    for version in [ours + 1, ours + 2, i32::MAX] {
        let bytes = changed(&format!("PRAGMA user_version = {version}"));
        let directory = directory_with(&bytes);
        let error = run(use_it(directory.path())).unwrap_err();
        assert_refused(&error, Code::StorageVersion, directory.path());
        assert!(error.to_string().contains(&version.to_string()), "{error}");
        assert!(fs::read(state_file(directory.path())).unwrap() == bytes);
    }
}

#[test]
fn unreadable_values_are_damage_and_nothing_worse() {
    for sql in [
        "UPDATE transactions SET state = 42",
        "UPDATE transactions SET amount = -1",
        "UPDATE transactions SET requester = x'0102'",
        "UPDATE transactions SET platform_fee_bps = 70000",
        "UPDATE events SET event = '{\"event\": \"Nonsense\"}'",
        "UPDATE events SET event = ''",
        "UPDATE kernel SET clock_offset = -1",
        "DELETE FROM kernel",
        "DROP TABLE accounts",
    ] {
        let directory = directory_with(&changed(sql));
        let file = Connection::open(state_file(directory.path())).unwrap();
        let id = "SELECT id FROM transactions WHERE seq = 7";
        let id: [u8; 32] = file.query_row(id, [], |row| row.get(0)).unwrap();
        drop(file);
        let outcome = run(async {
            use_it(directory.path()).await?;
            let kernel = open(directory.path()).await?;
            kernel.get_transaction(id.into()).await.map(drop)
        });
        let error = outcome.expect_err(sql);
        assert_refused(&error, Code::StorageDamaged, directory.path());
    }
}

#[test]
fn an_empty_file_becomes_a_state_file() {
    // What a process killed at the very start leaves.
    let directory = directory_with(b"");
    run(use_it(directory.path())).unwrap();
    assert_sound(directory.path());
}

#[test]
fn a_missing_directory_is_made() {
    let directory = tempdir().unwrap();
    let deep = directory.path().join("a/b/größe 数据");
    run(use_it(&deep)).unwrap();
    assert_sound(&deep);
}

#[test]
fn a_directory_that_cannot_be_made_is_unavailable() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "mine").unwrap();
    let taken = directory.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join(".actp"), "mine").unwrap();
    let folder = directory.path().join("folder");
    fs::create_dir_all(state_file(&folder)).unwrap();
    let nul = PathBuf::from("nul\0byte");
    for place in [&file, &file.join("below"), &taken, &folder, Path::new("/proc/agirails"), &nul] {
        let error = run(use_it(place)).unwrap_err();
        assert_refused(&error, Code::StorageUnavailable, place);
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    assert_eq!(fs::read_to_string(taken.join(".actp")).unwrap(), "mine");
}

/// The role of a user who may not write where the state is.
pub fn write_without_leave(directory: &Path) {
    // SAFETY: plain system calls. Root could write anywhere, so this process stops being it.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setgid(65_534), 0);
            assert_eq!(libc::setuid(65_534), 0);
        }
    }
    let error = run(use_it(&directory.join("nothing there"))).unwrap_err();
    assert_refused(&error, Code::StorageUnavailable, directory);
    let error = run(use_it(&directory.join("all there"))).unwrap_err();
    assert_refused(&error, Code::StorageUnavailable, directory);
}

#[test]
fn a_directory_that_cannot_be_written_is_unavailable() {
    let directory = tempdir().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let there = directory.path().join("all there");
    run(use_it(&there)).unwrap();
    mode(&state_file(&there), 0o444);
    let closed = [there.join(".actp"), there, directory.path().join("nothing there")];
    fs::create_dir(&closed[2]).unwrap();
    mode(directory.path(), 0o755);
    for path in &closed {
        mode(path, 0o555);
    }
    let before = fs::read(state_file(&closed[1])).unwrap();
    children::succeeds(children::command("write without leave", directory.path(), 0));
    assert!(fs::read(state_file(&closed[1])).unwrap() == before);
    for path in &closed {
        mode(path, 0o755);
    }
}

/// Writes until nothing fits any more; returns the refusal and how many transactions there are.
async fn fill(kernel: &dyn Kernel) -> (Error, usize) {
    for count in 0.. {
        let before = kernel.events(0, 1).await.unwrap();
        match create(kernel, party(0)).await {
            Ok(_) => {}
            Err(error) => {
                // Reading goes on.
                assert_eq!(kernel.events(0, 1).await.unwrap(), before);
                return (error, count);
            }
        }
    }
    unreachable!()
}

/// The role of a process, in a mount namespace of its own, whose disk holds one megabyte.
pub fn fill_a_small_disk(directory: &Path) {
    let target = std::ffi::CString::new(directory.to_str().unwrap()).unwrap();
    let mount = |flags, size: &std::ffi::CStr| {
        // SAFETY: all four strings end in NUL and live until the call returns.
        let done = unsafe {
            libc::mount(
                c"none".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                flags,
                size.as_ptr().cast(),
            )
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    mount(0, c"size=1m");
    run(async {
        let kernel = open(directory).await.unwrap();
        kernel.greet(party(0)).await.unwrap();
        let (error, count) = fill(&kernel).await;
        assert_refused(&error, Code::StorageFull, directory);
        assert_eq!(error.retry(), Retry::Safe);
        assert!(count > 10, "{count}");
        let (again, _) = fill(&kernel).await;
        assert_eq!(again.code(), Code::StorageFull);
        // A second kernel cannot write either, and says why.
        let outcome = run_anew(directory);
        assert!(matches!(outcome, None | Some(Code::StorageFull)), "{outcome:?}");

        mount(libc::MS_REMOUNT, c"size=8m");
        let created = kernel.events(0, 10_000).await.unwrap().len();
        let id = create(&kernel, party(0)).await.unwrap();
        kernel.link_escrow(party(0), id, LinkEscrow::default()).await.unwrap();
        assert_eq!(kernel.get_transaction(id).await.unwrap().state, State::Committed);
        assert_eq!(kernel.events(0, 10_000).await.unwrap().len(), created + 3);
    });
    assert_sound(directory);
}

fn run_anew(directory: &Path) -> Option<Code> {
    std::thread::scope(|scope| {
        let other = || {
            run(async {
                let kernel = open(directory).await?;
                kernel.mint(party(9), Usdc(1)).await
            })
        };
        scope.spawn(other).join().unwrap().err().map(|error| error.code())
    })
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    // A disk of one's own takes a mount namespace, which not every machine gives.
    let unshare = ["unshare", "--user", "--map-root-user", "--mount"];
    let mut probe = Command::new(unshare[0]);
    probe.args(&unshare[1..]).args(["mount", "-t", "tmpfs", "none", "/tmp"]);
    let possible = probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !possible {
        eprintln!("skipped: no mount namespaces here; the file size limit stands in");
        return;
    }
    let directory = tempdir().unwrap();
    let disk = directory.path();
    children::succeeds(children::prefixed(&unshare, "fill a small disk", disk, 0));
}

/// The role of a process whose files may not grow beyond one megabyte.
pub fn write_beyond_the_limit(directory: &Path) {
    let limit = |bytes| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: plain system calls; the signal would end this process.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        }
    };
    run(async {
        let kernel = open(directory).await.unwrap();
        kernel.greet(party(0)).await.unwrap();
        limit(1_000_000);
        let (error, count) = fill(&kernel).await;
        assert_eq!(error.kind(), agirails::Code::StorageFull.kind(), "{error:?}");
        assert!(count > 10, "{count}");
        limit(libc::RLIM_INFINITY);
        let created = kernel.events(0, 10_000).await.unwrap().len();
        create(&kernel, party(0)).await.unwrap();
        assert_eq!(kernel.events(0, 10_000).await.unwrap().len(), created + 1);
        assert_eq!(kernel.balance(party(0)).await.unwrap(), Usdc(1_000 * USDC));
    });
    assert_sound(directory);
}

#[test]
fn a_file_that_may_not_grow_refuses_and_loses_nothing() {
    let directory = tempdir().unwrap();
    children::succeeds(children::command("write beyond the limit", directory.path(), 0));
}
