#![doc = include_str!("../README.md")]

mod commands;
mod connection;
mod failure;
mod interrupt;
mod output;
mod parse;
mod usage;

use std::ffi::OsString;

use agirails::{Code, Error};

/// Runs the command line, and returns the exit status of the process.
///
/// `arguments` are those behind the program's name. It writes to the standard output and the
/// standard error, and takes over Ctrl-C while a command runs.
///
/// ```
/// assert_eq!(agirails_cli::run(["--version".into()]), 0);
/// assert_eq!(agirails_cli::run(["--nonsense".into()]), 2);
/// ```
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let command = match usage::read(arguments) {
        Ok(command) => command,
        Err(status) => return status,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agirails")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::new(Code::Internal, format!("no threads can be started: {error}"));
            return failure::tell(&error, command.format());
        }
    };
    let status = runtime.block_on(command.run());
    // A prompt that nobody answers must not keep the process.
    runtime.shutdown_background();
    status
}
