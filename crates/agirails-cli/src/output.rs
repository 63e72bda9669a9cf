//! What a command found: a table for people, JSON or CSV for programs.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    time::{Duration, UNIX_EPOCH},
};

use agirails::{Code, Error, Result, Usdc};
use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table as Drawing, presets};
use serde_json::Value;

/// The word before an error.
pub const ERROR: Style = AnsiColor::Red.on_default().bold();
/// The word before a hint.
pub const HINT: Style = AnsiColor::Cyan.on_default();
/// The word before a warning.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// The word before what is as it should be.
pub const OK: Style = AnsiColor::Green.on_default();

/// How the result is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Format {
    /// Print JSON; amounts are base units of USDC, times Unix seconds
    #[arg(long, conflicts_with = "csv", help_heading = "Output")]
    pub json: bool,
    /// Print CSV with a header line; amounts and times as in JSON
    #[arg(long, help_heading = "Output")]
    pub csv: bool,
}

/// One value: how people read it, and how programs do.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    value: Value,
}

impl Cell {
    /// The same for both.
    pub fn text(text: impl ToString) -> Self {
        let text = text.to_string();
        Self { value: text.clone().into(), text: clean(&text) }
    }

    /// A number.
    pub fn number(number: u64) -> Self {
        Self { text: number.to_string(), value: number.into() }
    }

    /// What people read, and what programs do.
    pub fn both(text: impl ToString, value: impl Into<Value>) -> Self {
        Self { text: clean(&text.to_string()), value: value.into() }
    }

    /// An amount: `0.10`, and base units.
    pub fn usdc(amount: Usdc) -> Self {
        Self { text: amount.to_string(), value: amount.0.into() }
    }

    /// A Unix time: in UTC with the seconds, and the seconds.
    pub fn time(seconds: u64) -> Self {
        Self { text: time(seconds), value: seconds.into() }
    }

    /// What people read.
    pub fn shown(&self) -> &str {
        &self.text
    }

    /// Nothing: `-`, and null.
    pub fn none() -> Self {
        Self { text: "-".to_owned(), value: Value::Null }
    }
}

/// A value, or nothing.
impl From<Option<Cell>> for Cell {
    fn from(cell: Option<Cell>) -> Self {
        cell.unwrap_or_else(Cell::none)
    }
}

/// A column of a [`Table`].
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name in JSON and CSV.
    pub key: &'static str,
    /// Its title for people, who do not see it where this is empty.
    pub title: &'static str,
    /// Whether it holds figures, which stand right.
    pub is_figure: bool,
}

/// A column of words.
pub const fn words(key: &'static str, title: &'static str) -> Column {
    Column { key, title, is_figure: false }
}

/// A column of figures.
pub const fn figures(key: &'static str, title: &'static str) -> Column {
    Column { key, title, is_figure: true }
}

/// Rows of the same columns.
#[derive(Debug)]
pub struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Without rows.
    pub fn new(columns: &'static [Column]) -> Self {
        Self { columns, rows: vec![] }
    }

    /// One more row, a cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Prints it; `empty` is what people read where there is no row.
    pub fn print(&self, format: Format, empty: &str) -> Result<()> {
        match format {
            Format { json: true, .. } => print_json(&self.objects()),
            Format { csv: true, .. } => print(&self.csv()?),
            _ if self.rows.is_empty() => print(&format!("{empty}\n")),
            _ => print(&self.drawn()),
        }
    }

    /// For programs.
    pub fn objects(&self) -> Value {
        self.rows.iter().map(|row| self.object(row)).collect()
    }

    fn object(&self, row: &[Cell]) -> Value {
        let fields = self.columns.iter().zip(row);
        fields.map(|(column, cell)| (column.key.to_owned(), cell.value.clone())).collect()
    }

    fn csv(&self) -> Result<String> {
        let header = self.columns.iter().map(|column| column.key);
        let rows = self.rows.iter().map(|row| row.iter().map(|cell| plain(&cell.value)).collect());
        csv(header, rows)
    }

    fn drawn(&self) -> String {
        let shown = |cells: &[Cell]| -> Vec<String> {
            let cells = self.columns.iter().zip(cells);
            let seen = cells.filter(|(column, _)| !column.title.is_empty());
            seen.map(|(_, cell)| cell.text.clone()).collect()
        };
        let seen: Vec<_> = self.columns.iter().filter(|column| !column.title.is_empty()).collect();
        let mut drawing = Drawing::new();
        drawing.load_preset(presets::NOTHING).set_header(seen.iter().map(|column| column.title));
        for row in &self.rows {
            drawing.add_row(shown(row));
        }
        for (drawn, column) in drawing.column_iter_mut().zip(seen) {
            drawn.set_padding((0, 2));
            if column.is_figure {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{}\n", drawing.trim_fmt())
    }
}

/// One thing with its properties: lines for people, one object for programs.
#[derive(Debug, Default)]
pub struct Record {
    fields: Vec<(&'static str, &'static str, Cell)>,
}

impl Record {
    /// Without properties.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more: its name in JSON and CSV, its title for people, who do not see it where this is
    /// empty.
    #[must_use]
    pub fn with(mut self, key: &'static str, title: &'static str, cell: impl Into<Cell>) -> Self {
        self.fields.push((key, title, cell.into()));
        self
    }

    /// Prints it.
    pub fn print(&self, format: Format) -> Result<()> {
        match format {
            Format { json: true, .. } => print_json(&self.object()),
            Format { csv: true, .. } => {
                let row = self.fields.iter().map(|(.., cell)| plain(&cell.value)).collect();
                print(&csv(self.fields.iter().map(|(key, ..)| *key), [row])?)
            }
            _ => print(&self.lines()),
        }
    }

    /// For programs.
    pub fn object(&self) -> Value {
        let fields = self.fields.iter();
        fields.map(|(key, _, cell)| ((*key).to_owned(), cell.value.clone())).collect()
    }

    /// For people.
    pub fn lines(&self) -> String {
        let seen: Vec<_> = self.fields.iter().filter(|(_, title, _)| !title.is_empty()).collect();
        let width = seen.iter().map(|(_, title, _)| title.len()).max().unwrap_or_default();
        seen.iter().map(|(_, title, cell)| format!("{title:width$}  {}\n", cell.text)).collect()
    }
}

/// A Unix time in UTC, and in seconds.
pub fn time(seconds: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        // Beyond the year 9999 there are no such times.
        Some(time) if seconds < 253_402_300_800 => {
            format!("{} ({seconds})", humantime::format_rfc3339_seconds(time))
        }
        _ => seconds.to_string(),
    }
}

/// A duration for people.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0 => "no time".to_owned(),
        _ => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
    }
}

/// A rate in basis points as per cent.
pub fn rate(bps: u16) -> String {
    match bps % 100 {
        0 => format!("{} %", bps / 100),
        rest => format!("{}.{rest:02} %", bps / 100),
    }
}

/// Writes to the standard output. Whoever reads only the first lines closes the pipe, which is no
/// failure.
///
/// # Errors
/// [`Code::StorageUnavailable`] where it cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut to = anstream::stdout();
    written(to.write_all(text.as_bytes()).and_then(|()| to.flush()))
}

/// The same for bytes of others: as they are, but on a terminal without what would move its cursor.
///
/// # Errors
/// As [`print`].
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut to = io::stdout();
    if !to.is_terminal() {
        return written(to.write_all(bytes).and_then(|()| to.flush()));
    }
    let text = String::from_utf8_lossy(bytes);
    let text: String =
        text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    print(&format!("{}\n", text.trim_end_matches('\n')))
}

/// A JSON value, on lines.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

fn written(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let message = format!("the output cannot be written: {error}");
            Err(Error::new(Code::StorageUnavailable, message)
                .with_hint("what the command did is done; look where its output goes")
                .with_source(error))
        }
        _ => Ok(()),
    }
}

/// What would move a terminal's cursor, or begin a line that nobody wrote, is left out.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv(
    header: impl IntoIterator<Item = &'static str>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Result<String> {
    let strange = |problem: &dyn std::fmt::Display| {
        Error::new(Code::Internal, format!("the table has no CSV form: {problem}"))
    };
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(header).map_err(|error| strange(&error))?;
    for row in rows {
        writer.write_record(row).map_err(|error| strange(&error))?;
    }
    let bytes = writer.into_inner().map_err(|error| strange(&error))?;
    String::from_utf8(bytes).map_err(|error| strange(&error))
}

/// How many letters wide a [`Bar`] is.
const BAR_WIDTH: usize = 30;

/// A line on a terminal that says what takes its time, and goes when it is done.
#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    /// Shows it, where somebody sits before the standard error.
    pub fn show(what: &str) -> Self {
        let is_shown = io::stderr().is_terminal();
        if is_shown {
            let _ = write!(anstream::stderr(), "{what} …\r");
        }
        Self { is_shown }
    }
}

/// How far long work is, on a terminal; it goes when the work is done.
#[derive(Debug)]
pub struct Bar {
    what: &'static str,
    shown: Option<u64>,
    line: Progress,
}

impl Bar {
    /// Shows it from the first step on, where somebody sits before the standard error.
    pub fn new(what: &'static str) -> Self {
        Self { what, shown: None, line: Progress::show(what) }
    }

    /// So much of all is done.
    pub fn show(&mut self, done: u64, all: u64) {
        let percent = done.min(all) * 100 / all.max(1);
        if !self.line.is_shown || self.shown == Some(percent) {
            return;
        }
        self.shown = Some(percent);
        let full = percent as usize * BAR_WIDTH / 100;
        let (full, empty) = ("█".repeat(full), "░".repeat(BAR_WIDTH - full));
        let _ = write!(anstream::stderr(), "\r{} {full}{empty} {percent:3} %", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(anstream::stderr(), "\r\u{1b}[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[words("id", "id"), figures("amount", "USDC"), words("note", "")];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS);
        table.row(vec![Cell::text("a"), Cell::usdc(Usdc(100_000)), Cell::text("x, \"y\"")]);
        table.row(vec![Cell::text("b\u{1b}[2K"), Cell::usdc(Usdc(12_000_000)), Cell::none()]);
        table
    }

    #[test]
    fn people_see_columns_and_programs_see_all() {
        assert_eq!(table().drawn(), "id      USDC\na       0.10\nb [2K  12.00\n");
        assert_eq!(
            table().csv().unwrap(),
            "id,amount,note\na,100000,\"x, \"\"y\"\"\"\nb\u{1b}[2K,12000000,\n"
        );
    }

    #[test]
    fn times_are_told_in_utc_and_in_seconds() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z (0)");
        assert_eq!(time(1_795_811_274), "2026-11-27T20:27:54Z (1795811274)");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
        assert_eq!(duration(172_800), "2days");
        assert_eq!((rate(100), rate(525)), ("1 %".to_owned(), "5.25 %".to_owned()));
    }

    #[test]
    fn a_record_is_lines_or_one_object() {
        let record = Record::new().with("state", "state", Cell::text("SETTLED")).with(
            "agentId",
            "",
            Cell::number(7),
        );
        assert_eq!(record.lines(), "state  SETTLED\n");
        assert_eq!(record.object(), serde_json::json!({"state": "SETTLED", "agentId": 7}));
    }
}
