//! What stands in a state file beside rows: the tables of its format, its identity, and nothing else.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::{Attempt, storage_error};
use crate::error::{Code, Error, shown_words};

const IDENTITY: &str = "CREATE TABLE identity (value TEXT NOT NULL)";

/// Whose file it is; `None` where nobody has said so yet.
pub(super) fn identity(connection: &Connection) -> Attempt<Option<String>> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'identity'";
    if !connection.prepare(sql)?.exists([])? {
        return Ok(None);
    }
    let sql = "SELECT value FROM identity";
    Ok(connection.query_row(sql, [], |row| row.get(0)).optional()?)
}

pub(super) fn set_identity(connection: &Connection, identity: &str) -> Attempt<()> {
    connection.execute_batch(&IDENTITY.replacen("TABLE", "TABLE IF NOT EXISTS", 1))?;
    connection.execute("INSERT INTO identity VALUES (?1)", [identity])?;
    Ok(())
}

/// A thing in a schema by type and name, and the words that made it; an index that comes with a
/// table has none.
type Objects = BTreeMap<(String, String), Option<String>>;

fn objects(connection: &Connection) -> rusqlite::Result<Objects> {
    // What ANALYZE writes down is harmless.
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT GLOB 'sqlite_stat[0-9]*'";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
    rows.collect()
}

/// Refuses a file that holds what its format does not: a trigger, a view, a changed table. Whoever
/// can put such a thing there has code run by all who open the file.
///
/// # Errors
/// [`Code::StorageDamaged`] names the thing.
pub(super) fn check(connection: &Connection, steps: &[&str]) -> Attempt<()> {
    // Version and schema of the same moment: another process may be updating the file just now.
    connection.execute_batch("BEGIN")?;
    let found = connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .and_then(|version| Ok((version, objects(connection)?)));
    connection.execute_batch("COMMIT")?;
    let (version, found) = found?;
    let expected =
        expected(&steps[..steps.len().min(usize::try_from(version).unwrap_or_default())])
            .map_err(storage_error)?;
    let identity = ("table".to_owned(), "identity".to_owned());
    for (object, sql) in &found {
        let known = match expected.get(object) {
            None if *object == identity => sql.as_deref() == Some(IDENTITY),
            None => false,
            Some(expected) => expected == sql,
        };
        if !known {
            return Err(strange("has", object).into());
        }
    }
    match expected.keys().find(|object| !found.contains_key(object)) {
        Some(object) => Err(strange("lacks", object).into()),
        None => Ok(()),
    }
}

fn expected(steps: &[&str]) -> rusqlite::Result<Objects> {
    let model = Connection::open_in_memory()?;
    for step in steps {
        model.execute_batch(step)?;
    }
    objects(&model)
}

fn strange(verb: &str, (kind, name): &(String, String)) -> Error {
    let what = shown_words(&format!("{kind} {name}"));
    let message = match verb {
        "has" => format!("the state file has the {what}, which agirails did not make"),
        _ => format!("the state file lacks the {what}"),
    };
    Error::new(Code::StorageDamaged, message)
}
