//! Errors as people and programs read them, and the exit status that they end with.

use std::io::Write;

use agirails::{Error, Retry};
use serde_json::{Value, json};

use crate::output::{ERROR, Format, HINT, WARNING};

/// Everything was done.
pub const DONE: u8 = 0;
/// It was refused, or failed: nothing was done that is not said.
pub const FAILED: u8 = 1;
/// Something was sent, and its outcome is unknown: look before it is done again.
pub const UNKNOWN: u8 = 3;
/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Says what went wrong and what to do, and returns the exit status.
pub fn tell(error: &Error, format: Format) -> u8 {
    let mut to = anstream::stderr();
    // Nothing is left to be done where nobody reads it.
    if format.json {
        let _ = writeln!(to, "{}", json!({ "error": fields(error) }));
    } else {
        let _ = writeln!(to, "{ERROR}error:{ERROR:#} {error}");
        if let Some(hint) = error.hint() {
            let _ = writeln!(to, "{HINT}hint:{HINT:#} {hint}");
        }
        if let Some(key) = &error.facts().purchase_key {
            let _ = writeln!(to, "purchase key: {key}");
        }
    }
    status(error)
}

/// Says what somebody should know.
pub fn warn(warning: &str) {
    let _ = writeln!(anstream::stderr(), "{WARNING}warning:{WARNING:#} {warning}");
}

/// The exit status of an error.
pub fn status(error: &Error) -> u8 {
    if error.retry() == Retry::CheckFirst { UNKNOWN } else { FAILED }
}

/// The worse of two exit statuses: what is unknown must be looked at first.
pub fn worse(one: u8, other: u8) -> u8 {
    one.max(other)
}

/// An error for programs.
pub fn fields(error: &Error) -> Value {
    let facts = error.facts();
    json!({
        "code": error.code().as_str(),
        "message": error.to_string(),
        "hint": error.hint(),
        "retry": error.retry().as_str(),
        "transactionId": facts.transaction_id,
        "purchaseKey": facts.purchase_key,
    })
}
