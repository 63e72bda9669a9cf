//! What the database's refusals mean here.

use std::error::Error as StdError;

use tokio_postgres::{Error as Cause, error::SqlState};

use crate::error::{Code, Error, shown_words};

/// What a failure says about what was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing was done, because another transaction was in the way: again, at once.
    Conflict,
    /// Nothing was done, and this connection is of no more use.
    Undone,
    /// The connection broke: it may have been done or not.
    Broken,
    /// The database refused; nothing was done.
    Refused,
}

impl Failure {
    pub(super) fn of(cause: &Cause, closed: bool) -> Self {
        match cause.code() {
            Some(code) if is_conflict(code) => Self::Conflict,
            // The server shuts down, or is no longer the one that writes.
            Some(code) if is_going(code) || *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
                Self::Undone
            }
            Some(_) => Self::Refused,
            None if closed || cause.is_closed() || is_io(cause) => Self::Broken,
            None => Self::Refused,
        }
    }
}

fn is_conflict(code: &SqlState) -> bool {
    [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
}

fn is_going(code: &SqlState) -> bool {
    [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ]
    .contains(code)
        // The server ends sessions that were idle for too long (PostgreSQL 14).
        || code.code() == "57P05"
}

fn is_io(cause: &Cause) -> bool {
    cause.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// A failure in this crate's words. The server's own words never hold the password.
pub(super) fn in_words(cause: Cause, shown: &str) -> Error {
    let Some(database) = cause.as_db_error() else {
        let (words, tls) = (innermost(&cause), cause.to_string().contains("TLS"));
        let error = unreachable(shown, &words);
        return match tls || words.contains("certificate") {
            true => error.with_hint(
                "a server that is not on this machine must offer TLS (sslmode=require is the default), with a \
                 certificate for the host's name from an authority that this system trusts, or that sslrootcert= \
                 names; on a network that nobody else reaches, choose sslmode=disable",
            ),
            false => error,
        };
    };
    let words = shown_words(database.message());
    let (code, hint) = meaning(database.code());
    Error::new(code, format!("the database {shown} refuses ({}): {words}", database.code().code()))
        .with_hint(hint)
        .with_source(cause)
}

fn meaning(code: &SqlState) -> (Code, &'static str) {
    let class = code.code().get(..2).unwrap_or_default();
    match code.code() {
        "53100" => (Code::StorageFull, "make room on the database server's disk"),
        "53300" => (
            Code::StoreUnreachable,
            "raise the server's max_connections, or put a pooler between: each process takes up to 16 connections",
        ),
        "25006" => (
            Code::StoreUnreachable,
            "this server only reads: name the primary, or all servers with target_session_attrs=read-write",
        ),
        "55P03" | "57014" => (
            Code::StorageBusy,
            "the database was busy for too long: look for long transactions in pg_stat_activity, and try again",
        ),
        "57P01" | "57P02" | "57P03" | "57P05" => {
            (Code::StoreUnreachable, "the server stops or starts: try again")
        }
        "3D000" => (
            Code::StorageUnavailable,
            "make the database with createdb, or name another one in the URL",
        ),
        "42501" => (
            Code::StorageUnavailable,
            "the role needs CREATE on the database, or to own the schema agirails_paywall in it",
        ),
        "42P01" | "42883" | "42703" | "3F000" | "42P13" | "42804" => (
            Code::StorageDamaged,
            "the schema agirails_paywall is not as it was made: restore it, or use another database",
        ),
        "58030" => (Code::StorageUnavailable, "look at the database server's log and disks"),
        _ => match class {
            "08" => (Code::StoreUnreachable, "see whether the server runs and can be reached"),
            "28" => (
                Code::StorageUnavailable,
                "check user and password of the URL, and the server's pg_hba.conf",
            ),
            "40" => (Code::StorageBusy, "others were at the same rows again and again: try again"),
            "53" => (
                Code::StorageBusy,
                "the database server lacks memory or other resources: try again",
            ),
            "XX" => (
                Code::StorageDamaged,
                "look at the database server's log; restore a backup if it is damaged",
            ),
            _ => (Code::StorageUnavailable, "look at the database server's log"),
        },
    }
}

pub(super) fn unreachable(shown: &str, problem: &str) -> Error {
    Error::new(
        Code::StoreUnreachable,
        format!("the database {shown} gave no answer: {}", shown_words(problem)),
    )
    .with_hint("see whether the server runs and can be reached from here; then try again")
}

/// What the database holds is not what was put there.
pub(super) fn damaged(problem: &str) -> Error {
    Error::new(Code::StorageDamaged, format!("the paywall's tables hold what it never writes: {problem}"))
        .with_hint("somebody else changed the schema agirails_paywall: restore a backup, or use another database")
}

/// The innermost cause says the most.
fn innermost(cause: &Cause) -> String {
    let mut deepest: &dyn StdError = cause;
    while let Some(deeper) = deepest.source() {
        deepest = deeper;
    }
    deepest.to_string()
}
