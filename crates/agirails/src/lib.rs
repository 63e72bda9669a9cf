#![doc = include_str!("../README.md")]

mod client;
mod error;
pub mod fork;
pub mod kernel;
mod network;
pub mod protocol;
mod storage;
#[cfg(feature = "testkit")]
pub mod testkit;
mod wallet;

pub use alloy_primitives::{Address, B256, U256};
pub use client::{
    ACTPClient, ClientBuilder, DeliveryStatement, Evidence, RegistryClient, STATE_DIR_VARIABLE,
};
pub use error::{Code, Error, Facts, Kind, Result, Retry};
pub use kernel::chain::{EventStream, Position, Update, WatchOptions};
pub use network::{Contracts, Mode, NETWORK_VARIABLE, Network, NetworkProfile};
pub use protocol::{
    CreateTransaction, DisputeWindow, Event, EventRecord, LinkEscrow, Refusal, State, Transaction,
    TransactionId, Usdc,
};
pub use storage::Storage;
pub use wallet::{PrivateKey, Wallet};

/// The project's README, so that its example runs too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
