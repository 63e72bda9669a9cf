//! A transaction, as the kernel keeps it.

use std::hash::{DefaultHasher, Hash, Hasher};

use pyo3::{prelude::*, types::PyDict};

use crate::convert::{address_object, big_int, state_member};

/// A transaction as the kernel keeps it: the 21 fields of `getTransaction(bytes32)`.
///
/// It is a picture of the moment it was read; read it again to see what has changed since.
/// Amounts are base units of USDC (1 USDC = 1_000_000), times are Unix seconds. Zero addresses
/// and hashes mean "not set".
///
/// Source: AIP-0, `IACTPKernel.TransactionView`.
#[pyclass(frozen, eq, module = "agirails._agirails")]
#[derive(PartialEq)]
pub struct Transaction(agirails::Transaction);

impl From<agirails::Transaction> for Transaction {
    fn from(transaction: agirails::Transaction) -> Self {
        Self(transaction)
    }
}

impl Transaction {
    /// The transaction as the core has it.
    pub fn core(&self) -> &agirails::Transaction {
        &self.0
    }
}

#[pymethods]
impl Transaction {
    /// The id: 0x and 64 hex digits.
    #[getter]
    fn transaction_id(&self) -> String {
        self.0.id.to_string()
    }

    /// The same as `transaction_id`.
    #[getter]
    fn id(&self) -> String {
        self.transaction_id()
    }

    /// Who pays.
    #[getter]
    fn requester<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_object(py, self.0.requester)
    }

    /// Who works.
    #[getter]
    fn provider<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_object(py, self.0.provider)
    }

    /// Where it stands.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        state_member(py, self.0.state)
    }

    /// What the requester pays, base units of USDC.
    #[getter]
    fn amount(&self) -> u64 {
        self.0.amount.0
    }

    /// When it was created, Unix seconds.
    #[getter]
    fn created_at(&self) -> u64 {
        self.0.created_at
    }

    /// When it last changed, Unix seconds.
    #[getter]
    fn updated_at(&self) -> u64 {
        self.0.updated_at
    }

    /// Until when the provider can deliver, Unix seconds.
    #[getter]
    fn deadline(&self) -> u64 {
        self.0.deadline
    }

    /// Hash of what was ordered; `metadata` of create_transaction.
    #[getter]
    fn service_hash(&self) -> String {
        self.0.service_hash.to_string()
    }

    /// The vault that holds the money.
    #[getter]
    fn escrow_contract<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_object(py, self.0.escrow_contract)
    }

    /// The escrow's id in that vault; the transaction's own by convention.
    #[getter]
    fn escrow_id(&self) -> String {
        self.0.escrow_id.to_string()
    }

    /// The attestation that was anchored after settlement.
    #[getter]
    fn attestation_uid(&self) -> String {
        self.0.attestation_uid.to_string()
    }

    /// How long a delivery can be disputed, in seconds; None from delivery on.
    #[getter]
    fn dispute_window_seconds(&self) -> Option<u64> {
        self.0.dispute_window.seconds()
    }

    /// Until when the delivery can be disputed, Unix seconds; None before delivery.
    #[getter]
    fn dispute_window_ends_at(&self) -> Option<u64> {
        self.0.dispute_window.ends_at()
    }

    /// The quote hash, if the provider quoted one.
    #[getter]
    fn metadata(&self) -> String {
        self.0.metadata.to_string()
    }

    /// Platform fee rate locked at creation or at the quote's acceptance, in 1/100 %.
    #[getter]
    fn platform_fee_bps_locked(&self) -> u16 {
        self.0.platform_fee_bps_locked
    }

    /// Cancellation penalty rate locked at creation, in 1/100 %.
    #[getter]
    fn requester_penalty_bps_locked(&self) -> u16 {
        self.0.requester_penalty_bps_locked
    }

    /// Dispute bond rate locked at creation, in 1/100 %.
    #[getter]
    fn dispute_bond_bps_locked(&self) -> u16 {
        self.0.dispute_bond_bps_locked
    }

    /// The provider's ERC-8004 identity, 0 for none.
    #[getter]
    fn agent_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        big_int(py, self.0.agent_id)
    }

    /// The requester's ERC-8004 identity, 0 for none.
    #[getter]
    fn requester_agent_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        big_int(py, self.0.requester_agent_id)
    }

    /// Who opened the dispute.
    #[getter]
    fn dispute_initiator<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_object(py, self.0.dispute_initiator)
    }

    /// The bond that lies in the vault, base units of USDC.
    #[getter]
    fn dispute_bond(&self) -> u64 {
        self.0.dispute_bond.0
    }

    /// The hash of the result that the delivery committed to; zero before it, and on kernels before
    /// AIP-14c.
    #[getter]
    fn result_hash(&self) -> String {
        self.0.result_hash.to_string()
    }

    /// The hash of the agreement that the creation named; zero for none, and on kernels before
    /// AIP-14c.
    #[getter]
    fn agreement_hash(&self) -> String {
        self.0.agreement_hash.to_string()
    }

    /// All fields by name, as JSON can carry them: the state by its name, addresses as str.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("transaction_id", self.transaction_id())?;
        dict.set_item("requester", self.requester(py)?)?;
        dict.set_item("provider", self.provider(py)?)?;
        dict.set_item("state", self.0.state.name())?;
        dict.set_item("amount", self.amount())?;
        dict.set_item("created_at", self.created_at())?;
        dict.set_item("updated_at", self.updated_at())?;
        dict.set_item("deadline", self.deadline())?;
        dict.set_item("service_hash", self.service_hash())?;
        dict.set_item("escrow_contract", self.escrow_contract(py)?)?;
        dict.set_item("escrow_id", self.escrow_id())?;
        dict.set_item("attestation_uid", self.attestation_uid())?;
        dict.set_item("dispute_window_seconds", self.dispute_window_seconds())?;
        dict.set_item("dispute_window_ends_at", self.dispute_window_ends_at())?;
        dict.set_item("metadata", self.metadata())?;
        dict.set_item("platform_fee_bps_locked", self.platform_fee_bps_locked())?;
        dict.set_item("requester_penalty_bps_locked", self.requester_penalty_bps_locked())?;
        dict.set_item("dispute_bond_bps_locked", self.dispute_bond_bps_locked())?;
        dict.set_item("agent_id", self.agent_id(py)?)?;
        dict.set_item("requester_agent_id", self.requester_agent_id(py)?)?;
        dict.set_item("dispute_initiator", self.dispute_initiator(py)?)?;
        dict.set_item("dispute_bond", self.dispute_bond())?;
        dict.set_item("result_hash", self.result_hash())?;
        dict.set_item("agreement_hash", self.agreement_hash())?;
        Ok(dict)
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.id.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let agirails::Transaction { id, state, amount, .. } = &self.0;
        format!("<Transaction {id} {state} {amount} USDC>")
    }
}
