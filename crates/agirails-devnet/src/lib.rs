//! ACTP on a local chain: contracts with the deployed kernel's interface, the [anvil] that runs them,
//! a bad network in front of it, and a PostgreSQL server beside it. For tests and for trying things
//! out; Unix only.
//!
//! ```no_run
//! use agirails_devnet::{Devnet, Fault, FaultProxy, Rule};
//!
//! # async fn example() -> agirails::Result<()> {
//! let devnet = Devnet::start().await?;
//! println!("{} with {}", devnet.rpc_url(), devnet.accounts()[0].address);
//! devnet.write_profile("devnet.json")?;
//! devnet.advance_time(2 * 86_400).await?;
//!
//! let network = FaultProxy::start(devnet.rpc_url())?;
//! network.add(Rule::new(Fault::DropAnswer).on("eth_sendRawTransaction").times(1));
//! # Ok(())
//! # }
//! ```
//!
//! [anvil]: https://getfoundry.sh/anvil

pub mod artifacts;
mod contracts;
mod devnet;
mod find;
mod node;
mod postgres;
mod proxy;
mod rpc;
mod supervisor;

pub use devnet::{Account, Devnet, DevnetBuilder, Snapshot};
pub use find::ANVIL_VARIABLE;
pub use postgres::{POSTGRES_VARIABLE, Pooler, Postgres};
pub use proxy::{Fault, FaultProxy, Faults, Head, Rule, Stats};
