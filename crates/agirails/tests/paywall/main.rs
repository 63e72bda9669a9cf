//! The paywall's promise, through its public face.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "tower")]
mod layer;
mod prepaid;
mod promise;
mod stage;
