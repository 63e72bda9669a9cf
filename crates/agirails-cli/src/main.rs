//! The program `agirails`.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    ExitCode::from(agirails_cli::run(env::args_os().skip(1)))
}
