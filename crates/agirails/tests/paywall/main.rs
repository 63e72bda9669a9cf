//! The paywall's promise, through its public face.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod chain;
#[cfg(feature = "tower")]
mod death;
mod edge;
#[cfg(feature = "tower")]
mod exchanges;
#[cfg(feature = "tower")]
mod layer;
mod odd;
mod outage;
mod prepaid;
mod promise;
mod stage;
