//! The paywall's promise, through its public face.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[macro_use]
#[path = "../kernel_in_front/mod.rs"]
mod kernel_in_front;
#[path = "../generation/mod.rs"]
mod generation;

mod attacks;
mod chain;
mod dashboard;
#[cfg(feature = "tower")]
mod death;
mod edge;
mod evidence;
#[cfg(feature = "tower")]
mod exchanges;
mod faulty_kernel;
mod fixture;
mod former_keys;
#[cfg(feature = "tower")]
mod layer;
mod outage;
mod prepaid;
mod promise;
mod settlement;
mod signers;
mod webhook;
