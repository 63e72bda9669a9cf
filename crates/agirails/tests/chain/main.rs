//! The chain kernel against a local chain that has the contracts.
//!
//! Needs anvil, which `make` installs; AGIRAILS_ANVIL names another.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod attesting;
mod client;
mod faults;
mod fixture;
mod parity;
mod reading;
mod refusals;
mod scenarios;
