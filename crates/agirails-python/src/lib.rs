//! The extension module `agirails._agirails`: converts arguments and results, maps errors,
//! releases the GIL and owns the runtime. It decides nothing; the crate `agirails` does.

mod argument;
mod client;
mod command_line;
mod consumer;
mod convert;
#[cfg(all(unix, feature = "devnet"))]
mod devnet;
mod disputes;
mod errors;
mod event;
mod evidence;
mod functions;
mod interpreter;
mod json;
mod kernel;
mod mock;
mod network;
mod paywall;
mod proof;
mod registry;
mod run;
mod runtime;
mod session;
#[cfg(feature = "testkit")]
mod testkit;
mod transaction;
mod types;

/// The Rust core of agirails. Import from `agirails` instead.
#[pyo3::pymodule]
mod _agirails {
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::interpreter::only_one(module.py())
    }

    #[pymodule_export]
    use crate::{
        client::{_connect, ACTPClient},
        command_line::_main,
        consumer::{_Consumer, _Purchase, _open_consumer},
        disputes::{Dispute, Disputes},
        event::Event,
        evidence::_verify_evidence,
        functions::{
            agreement_hash, canonical_json, canonical_target, encode_resolution, format_usdc,
            parse_usdc, result_hash, service_type_hash,
        },
        kernel::Kernel,
        mock::Mock,
        network::Network,
        paywall::{
            _Answer, _Charge, _Exchange, _Head, _Paywall, _events, _price, CallPayment,
            sign_request,
        },
        proof::{ProofGenerator, recover_delivery_signer, verify_delivery},
        registry::{AgentProfile, Registry},
        session::SessionKey,
        transaction::Transaction,
    };

    #[cfg(all(unix, feature = "devnet"))]
    #[pymodule_export]
    use crate::devnet::{_start_devnet, Devnet, Snapshot};

    #[cfg(feature = "testkit")]
    #[pymodule_export]
    use crate::testkit::{_play, _scenarios};

    #[cfg(all(unix, feature = "testkit"))]
    #[pymodule_export]
    use crate::testkit::_Postgres;

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
