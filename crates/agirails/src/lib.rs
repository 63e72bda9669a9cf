#![doc = include_str!("../README.md")]

mod builder;
mod client;
pub mod consumer;
mod error;
pub mod fork;
pub mod kernel;
mod network;
mod owners;
pub mod paywall;
mod storage;
#[cfg(feature = "testkit")]
pub mod testkit;
mod wallet;

/// The rules, pure: the crate `agirails-protocol`.
pub use agirails_protocol as protocol;
pub use alloy_primitives::{Address, B256, U256};
pub use builder::{ClientBuilder, STATE_DIR_VARIABLE};
pub use client::{ACTPClient, DeliveryStatement, Evidence, MAINNET_LIMIT, RegistryClient};
pub use error::{Code, Error, Facts, Kind, Result, Retry};
pub use kernel::chain::{EventStream, Position, Update, WatchOptions};
pub use network::{Contracts, Mode, NETWORK_VARIABLE, Network, NetworkProfile};
pub use protocol::{
    CreateTransaction, DisputeWindow, Event, EventRecord, LinkEscrow, Refusal, State, Transaction,
    TransactionId, Usdc,
};
pub use storage::Storage;
pub use wallet::{
    KEY_PASSWORD_VARIABLE, KEYSTORE_VARIABLE, KeyEnvironment, KeySources, PRIVATE_KEY_VARIABLE,
    Password, PrivateKey, ResolvedKey, Wallet, resolve_key,
};

/// The project's README, so that its example runs too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "tower"))]
#[doc = include_str!("../../../docs/guide/axum.md")]
struct AxumGuide;
