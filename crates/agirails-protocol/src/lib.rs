//! The rules of ACTP, pure: no clock, no storage, no network, no runtime.
//!
//! The SDK is the crate [`agirails`](https://docs.rs/agirails), which offers this crate as
//! `agirails::protocol`. Whoever needs the rules alone, such as an indexer, a server in another
//! framework or a contract's test, depends on this one.
//!
//! ```
//! use agirails_protocol::{Usdc, money::payout};
//!
//! let paid = payout("0.10".parse()?, 100)?;
//! assert_eq!(paid.net, Usdc(50_000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod canonical_json;
pub mod did;
pub mod error;
mod event;
pub mod id;
pub mod money;
pub mod paid_request;
pub mod proof;
pub mod receipt;
mod refusal;
pub mod registry;
pub mod rules;
mod state;
pub mod target;
pub mod text;
mod transaction;

pub use alloy_primitives::{Address, B256, U256};
pub use error::{Kind, Retry};
pub use event::{Event, EventRecord};
pub use id::TransactionId;
pub use money::Usdc;
pub use refusal::Refusal;
pub use state::State;
pub use transaction::{CreateTransaction, DisputeWindow, LinkEscrow, Transaction};
