//! The paywall's promise, through its public face.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod promise;
mod stage;
