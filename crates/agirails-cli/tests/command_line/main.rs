//! The program as a process: what it prints, where, and its exit status.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod fixture;

mod bad_input;
mod books;
mod calls;
#[cfg(unix)]
mod chain;
mod evidence;
mod keeping;
mod keys_and_files;
mod stores;
mod transactions;
