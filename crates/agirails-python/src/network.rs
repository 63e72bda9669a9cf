//! A network's name, chain id and contracts.

use alloy_primitives::Address;
use pyo3::prelude::*;

use crate::convert::address_object;

/// The network a client works on: its name, its chain id and the addresses of its contracts.
///
/// Addresses are checksummed; `None` where the network has no such contract.
#[pyclass(frozen, eq, module = "agirails._agirails")]
#[derive(PartialEq)]
pub struct Network(agirails::Network);

impl From<&agirails::Network> for Network {
    fn from(network: &agirails::Network) -> Self {
        Self(network.clone())
    }
}

impl Network {
    /// The network as the core has it.
    pub fn core(&self) -> &agirails::Network {
        &self.0
    }
}

type AddressObject<'py> = PyResult<Bound<'py, PyAny>>;

fn optional(py: Python<'_>, address: Option<Address>) -> PyResult<Option<Bound<'_, PyAny>>> {
    address.map(|address| address_object(py, address)).transpose()
}

#[pymethods]
impl Network {
    /// "mock" for the protocol on this machine.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// EIP-155 chain id; 31337 for mock.
    #[getter]
    fn chain_id(&self) -> u64 {
        self.0.chain_id
    }

    /// The kernel contract.
    #[getter]
    fn kernel<'py>(&self, py: Python<'py>) -> AddressObject<'py> {
        address_object(py, self.0.kernel)
    }

    /// The vault contract, which holds the escrows.
    #[getter]
    fn vault<'py>(&self, py: Python<'py>) -> AddressObject<'py> {
        address_object(py, self.0.vault)
    }

    /// The USDC token.
    #[getter]
    fn usdc<'py>(&self, py: Python<'py>) -> AddressObject<'py> {
        address_object(py, self.0.usdc)
    }

    /// The kernel's admin, who resolves disputes.
    #[getter]
    fn admin<'py>(&self, py: Python<'py>) -> AddressObject<'py> {
        address_object(py, self.0.admin)
    }

    /// Who receives the platform fee.
    #[getter]
    fn fee_recipient<'py>(&self, py: Python<'py>) -> AddressObject<'py> {
        address_object(py, self.0.fee_recipient)
    }

    /// The archive treasury, which gets a share of each fee.
    #[getter]
    fn archive_treasury<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        optional(py, self.0.archive_treasury)
    }

    /// The agent registry (AIP-7).
    #[getter]
    fn agent_registry<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        optional(py, self.0.agent_registry)
    }

    /// The contract that decides disputes by bonds (AIP-14c).
    #[getter]
    fn bond_escalation<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        optional(py, self.0.bond_escalation)
    }

    /// The generation of the kernel: "2026-05", that of mainnet, "f6" or "aip14c".
    #[getter]
    fn generation(&self) -> &'static str {
        self.0.terms.generation().as_str()
    }

    /// How long after its deadline begun work can still be delivered, and from when on recover_stalled
    /// returns its money, in seconds; None where no work is ever recovered.
    #[getter]
    fn recovery_grace_seconds(&self) -> Option<u64> {
        self.0.terms.recovery_grace_seconds()
    }

    fn __repr__(&self) -> String {
        format!("<Network {} chain_id={}>", self.0.name, self.0.chain_id)
    }
}
