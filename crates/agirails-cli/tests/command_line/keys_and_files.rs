//! Keystores, backups, completions, help.

use std::fs;

use agirails::PrivateKey;

use crate::fixture::{Fixture, PAYER, key, secret};

#[test]
fn a_keystore_is_written_where_clients_find_it() {
    let fixture = Fixture::empty();
    let input = format!("{}\ncorrect horse\n", secret(1));
    let done = fixture.run_with(&["keystore"], &input, &[]);
    assert_eq!((done.status, done.err.as_str()), (0, ""), "{done:?}");
    assert!(done.out.starts_with(&format!("the key of {} is in ", key(1).address())), "{done:?}");
    let path = fixture.path().join(".actp/keystore.json");
    let opened = PrivateKey::from_keystore_file(&path, "correct horse").unwrap();
    assert_eq!(opened.address(), key(1).address());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.as_path()), mode(path.parent().unwrap())), (0o600, 0o700));
    }
    let (error, hint) = fixture.run_with(&["keystore"], &input, &[]).told(1);
    assert!(error.ends_with("exists already") && hint.contains("--output"), "{error} {hint}");
}

#[test]
fn a_keystore_is_not_written_where_something_is_wrong() {
    let fixture = Fixture::empty();
    let key = secret(1);
    for (input, words) in [
        (String::new(), "no private key"),
        ("nonsense\nword\n".to_owned(), "private key"),
        (format!("{key}\n"), "password is empty"),
    ] {
        let done = fixture.run_with(&["keystore", "--output", "key.json"], &input, &[]);
        let (error, _) = done.told(1);
        assert!(error.contains(words), "{error}");
        assert!(!done.err.contains("nonsense") && !done.err.contains(&key), "{done:?}");
    }
    let input = format!("{key}\nword\n");
    let done = fixture.run_with(&["keystore", "--output", "none/key.json"], &input, &[]);
    assert!(done.told(1).0.contains("cannot be written"), "{done:?}");
    assert!(fixture.files().is_empty());
}

#[test]
fn a_backup_is_made_of_what_is_there_and_never_over_another() {
    let fixture = Fixture::new();
    let done = fixture.run(&["backup", "copy"]);
    assert_eq!((done.status, done.out.as_str()), (0, "copy/.actp/kernel.sqlite3\n"), "{done:?}");
    let done = fixture.run(&["balance", PAYER, "--state-directory", "copy", "--json"]);
    assert_eq!(done.json()["balance"], 1_000_000_000);
    let (error, _) = fixture.run(&["backup", "copy"]).told(1);
    assert!(error.contains("is there already"), "{error}");
    let (error, _) = fixture.run(&["backup", "other", "--state-directory", "nowhere"]).told(1);
    assert!(error.contains("cannot be read"), "{error}");
    assert!(!fixture.path().join("other").exists());
}

#[test]
fn completions_are_there_for_every_usual_shell() {
    let fixture = Fixture::empty();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let done = fixture.run(&["completions", shell]);
        assert!(done.status == 0 && done.out.contains("devnet"), "{shell}: {done:?}");
    }
}

#[test]
fn help_is_no_error() {
    let fixture = Fixture::empty();
    let done = fixture.run(&["--help"]);
    assert!(done.status == 0 && done.out.contains("Exit status"), "{done:?}");
    let done = fixture.run(&["call", "--help"]);
    assert!(done.out.contains("Example") && done.out.contains("--max <USDC>"), "{}", done.out);
    let done = fixture.run(&["--version"]);
    assert_eq!(done.out, concat!("agirails ", env!("CARGO_PKG_VERSION"), "\n"));
}
