//! The protocol's rules, pure: no clock, no storage, no network.
//!
//! One place: both kernels, the client and the bindings ask here.

pub mod canonical_json;
pub mod did;
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
mod transaction;

pub use event::{Event, EventRecord};
pub use id::TransactionId;
pub use money::Usdc;
pub use refusal::Refusal;
pub use state::State;
pub use transaction::{CreateTransaction, DisputeWindow, LinkEscrow, Transaction};
