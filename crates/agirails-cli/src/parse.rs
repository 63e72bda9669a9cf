//! Arguments as people write them. What is wrong with one is said in the SDK's words.

use std::{
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use agirails::{Address, Error, State, TransactionId, Usdc, protocol::id};

/// An error on one line, for wrong usage.
fn told(error: impl Into<Error>) -> String {
    let error = error.into();
    match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

/// `0x` and 40 hex digits.
pub fn address(text: &str) -> Result<Address, String> {
    id::parse_address("address", text).map_err(told)
}

/// `0x` and 64 hex digits.
pub fn transaction_id(text: &str) -> Result<TransactionId, String> {
    id::parse_transaction_id(text).map_err(told)
}

/// `0.25`.
pub fn usdc(text: &str) -> Result<Usdc, String> {
    text.parse::<Usdc>().map_err(told)
}

/// A state's name, in any case.
pub fn state(text: &str) -> Result<State, String> {
    text.to_ascii_uppercase()
        .replace('-', "_")
        .parse::<State>()
        .map_err(|_| format!("must be one of {}", State::ALL.map(State::name).join(", ")))
}

/// A header, or a file with one on each line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// `Name: value`.
    Pair(String, String),
    /// `@FILE`.
    File(PathBuf),
}

/// `Name: value`, or `@FILE`.
pub fn header(text: &str) -> Result<Header, String> {
    if let Some(path) = text.strip_prefix('@') {
        return Ok(Header::File(path.into()));
    }
    // The value may be a secret, so it is not repeated.
    let problem =
        || "a header is written as 'Name: value', or @FILE with one on each line".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(problem)?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() {
        Err(problem())
    } else {
        Ok(Header::Pair(name.to_owned(), value.to_owned()))
    }
}

/// Whose money could not be taken back: an address, or a service's origin.
pub fn trusted(text: &str) -> Result<String, String> {
    if text.starts_with("0x") {
        address(text)?;
    }
    Ok(text.to_owned())
}

/// `90s`, `15min`, `7days`, or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| format!("{error}; write 90s, 15min, 2h or 7days")),
    }
}

/// `2026-11-01`, as the Unix time of its beginning in UTC.
pub fn day(text: &str) -> Result<u64, String> {
    let problem = || "must be a date as 2026-11-01".to_owned();
    // The reader of times takes more than dates.
    if text.len() != 10 {
        return Err(problem());
    }
    let time = humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).map_err(|_| problem())?;
    time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).map_err(|_| problem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_people_write_them() {
        assert_eq!(state("in_progress"), Ok(State::InProgress));
        assert_eq!(state("In-Progress"), Ok(State::InProgress));
        assert!(state("paid").unwrap_err().contains("DELIVERED"));
        assert_eq!(header("A:b: c "), Ok(Header::Pair("A".to_owned(), "b: c".to_owned())));
        assert_eq!(header("@h"), Ok(Header::File("h".into())));
        assert!(!header("no secret").unwrap_err().contains("secret"));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7days"), Ok(Duration::from_secs(604_800)));
        assert!(duration("soon").unwrap_err().contains("15min"));
        assert_eq!(day("2026-11-27"), Ok(1_795_737_600));
        for text in ["2026-13-01", "2026-02-30", "today", "2026-11-27T00:00:00Z", "1969-12-31"] {
            assert!(day(text).unwrap_err().contains("2026-11-01"), "{text}");
        }
        assert!(usdc("0.1.0").unwrap_err().contains("decimal"));
    }
}
