#![doc = include_str!("../README.md")]

pub mod canonical_json;
pub mod did;
pub mod disputes;
pub mod error;
mod event;
pub mod evidence;
mod generation;
pub mod id;
pub mod money;
pub mod paid_request;
pub mod proof;
pub mod receipt;
mod refusal;
pub mod registry;
pub mod rules;
pub mod service;
mod state;
pub mod target;
pub mod text;
mod transaction;
pub mod wallet_signature;

pub use alloy_primitives::{Address, B256, U256};
pub use error::{Kind, Retry};
pub use event::{Event, EventRecord};
pub use generation::{Generation, MIN_DEADLINE_SECONDS, MIN_RECOVERY_GRACE_SECONDS, Terms};
pub use id::TransactionId;
pub use money::Usdc;
pub use refusal::Refusal;
pub use state::State;
pub use transaction::{CreateTransaction, DisputeWindow, LinkEscrow, Transaction};
