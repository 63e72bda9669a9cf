//! The consumer: what it pays for, what it refuses to pay for, and what it never pays twice.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[macro_use]
#[path = "../kernel_in_front/mod.rs"]
mod kernel_in_front;
#[path = "../generation/mod.rs"]
mod generation;

mod agreements;
mod attacks;
mod chain;
mod children;
mod crashes;
mod evidence;
mod fixture;
mod hostile_provider;
mod http;
mod in_between;
mod purchases;
