//! The kernel on Base, or on any EVM chain that has its contracts. Modes `testnet` and `mainnet`.

pub(crate) mod seen;
mod stub;

pub(crate) use stub::{ChainKernel, ChainSettings};
