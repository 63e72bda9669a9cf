// Its examples need these features.
#![cfg_attr(
    any(not(doctest), all(feature = "consumer", feature = "tower")),
    doc = include_str!("../README.md")
)]
// What the storage, the client and the errors hold ready for a side that is left out is not
// dead: another set of features uses it.
#![cfg_attr(
    not(all(
        feature = "chain",
        feature = "consumer",
        feature = "disputes",
        feature = "keeper",
        feature = "paywall"
    )),
    allow(dead_code)
)]

mod client;
#[cfg(feature = "consumer")]
pub mod consumer;
mod error;
pub mod fork;
#[cfg(feature = "keeper")]
pub mod keeper;
pub mod kernel;
mod network;
#[cfg(feature = "paywall")]
pub mod paywall;
#[cfg(any(feature = "chain", feature = "consumer"))]
mod process_locks;
mod storage;
#[cfg(feature = "testkit")]
pub mod testkit;
mod wall_clock;
mod wallet;

/// The rules, pure: the crate `agirails-protocol`.
#[doc(inline)]
pub use agirails_protocol as protocol;
pub use alloy_primitives::{Address, B256, U256};
#[cfg(feature = "disputes")]
pub use client::Disputes;
pub use client::{
    ACTPClient, ClientBuilder, DeliveryStatement, Evidence, LeastNet, MAINNET_LIMIT,
    RegistryClient, STATE_DIR_VARIABLE, SettlementLimits,
};
pub use error::{AnswerBody, Code, Error, Facts, Kind, Result, Retry};
#[cfg(feature = "chain")]
pub use kernel::chain::{EventStream, Position, Update, WatchOptions};
pub use network::{Contracts, MODE_VARIABLE, Mode, NETWORK_VARIABLE, Network, NetworkProfile};
#[cfg(feature = "disputes")]
pub use protocol::disputes::{Dispute, Ruling};
pub use protocol::{
    CreateTransaction, DisputeWindow, Event, EventRecord, Generation, LinkEscrow, Refusal, State,
    Terms, Transaction, TransactionId, Usdc,
};
pub use storage::{Storage, back_up, without_waiting};
pub use wallet::{
    KEY_PASSWORD_VARIABLE, KEYSTORE_VARIABLE, KeyEnvironment, KeySources, PRIVATE_KEY_VARIABLE,
    Password, PrivateKey, ResolvedKey, SessionKey, Wallet, resolve_key,
};

/// The project's README, so that its examples are compiled too.
#[cfg(all(doctest, feature = "consumer", feature = "tower"))]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "tower"))]
#[doc = include_str!("../../../docs/guide/axum.md")]
struct AxumGuide;

#[cfg(all(doctest, feature = "tower"))]
#[doc = include_str!("../../../docs/guide/dashboard.md")]
struct DashboardGuide;

#[cfg(all(doctest, feature = "keeper"))]
#[doc = include_str!("../../../docs/guide/keeper.md")]
struct KeeperGuide;
