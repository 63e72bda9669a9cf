//! The arguments, and what is said of wrong ones.

use std::{ffi::OsString, io::Write};

use clap::{FromArgMatches, error::ErrorKind};

use crate::{
    commands::{Cli, Command, NAME, parser},
    output::{ERROR, HINT},
};

/// Reads the arguments behind the program's name.
///
/// # Errors
/// The exit status, once all is said: 0 for help and version, 2 for wrong usage.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, u8> {
    let arguments: Vec<_> = std::iter::once(NAME.into()).chain(arguments).collect();
    let read = parser()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    read.map(|cli| cli.command).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Whoever reads only the first lines closes the pipe.
            let _ = error.print();
            0
        }
        _ => {
            explain(&error, &arguments[1..]);
            2
        }
    })
}

/// The usage of the command that was meant, what is wrong, and where to read on.
fn explain(error: &clap::Error, arguments: &[OsString]) {
    let mut parser = parser();
    parser.build();
    let mut meant = &mut parser;
    for argument in arguments {
        let name = argument.to_string_lossy();
        if meant.find_subcommand(&*name).is_none() {
            continue;
        }
        match meant.find_subcommand_mut(&*name) {
            Some(deeper) => meant = deeper,
            None => return,
        }
    }
    let usage = meant.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let name = meant.get_bin_name().unwrap_or(NAME).to_owned();
    let (mut problem, mut tips) = (vec![], vec![]);
    for line in error.render().to_string().lines().map(str::trim) {
        if let Some(tip) = line.strip_prefix("tip:") {
            tips.push(tip.trim().to_owned());
        } else if line.starts_with("Usage:") {
            break;
        } else if !line.is_empty() && !line.starts_with("For more information") {
            problem.push(line.trim_start_matches("error:").trim().to_owned());
        }
    }
    tips.push(format!("see `{name} --help`"));
    let (problem, tips) = (problem.join(" "), tips.join("; "));
    let (problem, tips) = (without_secrets(&problem), without_secrets(&tips));
    let mut to = anstream::stderr();
    // Nothing is left to be done where nobody reads it.
    let _ = writeln!(to, "usage: {usage}");
    let _ = writeln!(to, "{ERROR}error:{ERROR:#} {problem}");
    let _ = writeln!(to, "{HINT}hint:{HINT:#} {tips}");
}

/// What is wrong, without what nobody else should read.
fn without_secrets(text: &str) -> String {
    without_passwords(&without_keys(text))
}

/// A URL may hold a password: what stands before its host is not repeated.
fn without_passwords(text: &str) -> String {
    let mut words = vec![];
    for word in text.split(' ') {
        words.push(match (word.find("://"), word.rfind('@')) {
            (Some(scheme), Some(host)) if scheme < host => {
                format!("{}://…{}", &word[..scheme], &word[host..])
            }
            _ => word.to_owned(),
        });
    }
    words.join(" ")
}

/// Whoever mistypes a command may have put a private key into it: 64 hex digits are not repeated.
fn without_keys(text: &str) -> String {
    let (mut shown, mut digits) = (String::with_capacity(text.len()), String::new());
    let flush = |shown: &mut String, digits: &mut String| {
        shown.push_str(if digits.len() >= 64 { "…" } else { digits });
        digits.clear();
    };
    for character in text.chars() {
        if character.is_ascii_hexdigit() {
            digits.push(character);
        } else {
            flush(&mut shown, &mut digits);
            // What would move a terminal's cursor is left out.
            shown.push(if character.is_control() { ' ' } else { character });
        }
    }
    flush(&mut shown, &mut digits);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_command_line_is_consistent() {
        parser().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_and_says_what_it_does() {
        fn check(command: &clap::Command) {
            let name = command.get_name().to_owned();
            assert!(command.get_about().is_some(), "{name}");
            if command.has_subcommands() {
                command.get_subcommands().for_each(check);
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(&format!("{NAME} ")), "{name} has no example");
                for argument in command.get_arguments() {
                    assert!(argument.get_help().is_some(), "{name}: {}", argument.get_id());
                }
            }
        }
        parser().get_subcommands().for_each(check);
    }

    #[test]
    fn a_private_key_in_the_wrong_place_is_not_repeated() {
        let key = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
        assert_eq!(without_keys(&format!("unexpected '0x{key}' found")), "unexpected '0x…' found");
        assert_eq!(without_keys(&format!("'{key}'")), "'…'");
        assert_eq!(without_keys("port 8545, 0xdecade"), "port 8545, 0xdecade");
        let told = without_secrets("unexpected 'postgresql://user:p@ss@host/db' found");
        assert_eq!(told, "unexpected 'postgresql://…@host/db' found");
        assert_eq!(without_secrets("a@b, see http://host"), "a@b, see http://host");
    }
}
