//! The kernel on Base, or on any EVM chain that has its contracts. Modes `testnet` and `mainnet`.

pub(crate) mod events;
pub(crate) mod rpc;
pub(crate) mod seen;

pub use events::{EventStream, Position, Update, WatchOptions};
