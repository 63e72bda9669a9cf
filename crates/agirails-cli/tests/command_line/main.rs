//! The program as a process: what it prints, where, and its exit status.

mod fixture;

mod bad_input;
mod calls;
#[cfg(unix)]
mod chain;
mod keys_and_files;
mod transactions;
