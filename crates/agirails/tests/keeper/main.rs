//! The keeper: what is due is settled once, whoever dies, lies or comes first.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../generation/mod.rs"]
mod generation;

#[cfg(feature = "chain")]
mod chain;
mod crashes;
mod fixture;
mod front;
mod gas;
mod lies;
#[cfg(feature = "chain")]
mod measure;
mod recovering;
mod settling;
