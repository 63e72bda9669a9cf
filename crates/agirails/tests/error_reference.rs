//! docs/errors.md is written from the code: every code an error can carry, and nothing else.

use agirails::{Code, Kind, Refusal};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
const BEGIN: &str = "<!-- codes: begin -->\n";
const END: &str = "<!-- codes: end -->\n";

#[test]
fn the_error_page_lists_every_code() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let expected = format!("{head}{BEGIN}{}{END}{tail}", tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, expected).unwrap();
    } else {
        assert!(page == expected, "docs/errors.md is out of date: run the test with UPDATE_DOCS=1");
    }
}

#[test]
fn codes_are_unique_and_well_formed() {
    let mut names: Vec<_> = all().map(Code::as_str).collect();
    assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

fn all() -> impl Iterator<Item = Code> {
    Code::LOCAL.iter().copied().chain(Refusal::ALL.iter().copied().map(Code::Refused))
}

fn tables() -> String {
    let mut text = String::from("\n## Before anything is sent, and around it\n\n");
    text += "| code | exception | retry | meaning |\n|---|---|---|---|\n";
    for code in Code::LOCAL {
        let retry = code.retry().as_str();
        let row = (code.as_str(), exception(code.kind()), code.meaning());
        text += &format!("| `{}` | {} | {retry} | {} |\n", row.0, row.1, row.2);
    }
    text += "\n## Refusals of the contracts, in their words\n\n";
    text +=
        "| code | exception | retry | the contract's words | what to do |\n|---|---|---|---|---|\n";
    for refusal in Refusal::ALL {
        let code = Code::Refused(*refusal);
        let hint = agirails::Error::from(*refusal).hint().unwrap_or_default().to_owned();
        text += &format!(
            "| `{}` | {} | {} | {refusal} | {hint} |\n",
            code.as_str(),
            exception(code.kind()),
            code.retry().as_str()
        );
    }
    text + "\n"
}

/// The Python class of a family.
fn exception(kind: Kind) -> String {
    match kind {
        Kind::Timeout => "ACTPTimeoutError".to_owned(),
        Kind::Internal => "ACTPError".to_owned(),
        kind => format!("{kind:?}Error"),
    }
}
