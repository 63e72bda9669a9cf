//! Disputes that bonds decide, called as the client's address.

use agirails::{ACTPClient, Code, Dispute as Core, Ruling, Usdc};
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyDict, PyList, PyString, PyTuple},
};

use crate::{
    argument::wrong_type,
    convert::{self, Any, address_object, usdc_object},
    errors::OrRaise,
    run::{
        Effect::{Glances, Moves},
        Style, run,
    },
};

type Answer = PyResult<Py<PyAny>>;

/// Disputes that bonds decide, on kernels of AIP-14c: whoever wants a ruling pays a bond for it, and what
/// nobody challenges in time is carried out. **Silence loses**: read the guide on disputes first.
///
/// Amounts are Usdc: they count in base units of USDC and print as USDC. Times are Unix seconds.
///
/// Source: AIP-14c, `BondEscalation`.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct Disputes {
    client: ACTPClient,
    style: Style,
}

impl Disputes {
    pub fn new(client: ACTPClient, style: Style) -> Self {
        Self { client, style }
    }
}

#[pymethods]
impl Disputes {
    /// Opens the dispute about a transaction that is DISPUTED. Anyone may; it costs gas only.
    ///
    /// Args:
    ///     tx_id: a transaction that a party has disputed on the kernel.
    ///
    /// Returns:
    ///     The dispute's number, 0x and 64 hex digits. No other method needs it.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: it is not DISPUTED (not_in_disputed_state), or its dispute is open
    ///         already (dispute_already_opened).
    ///     NetworkError: this kernel, or this network, decides no disputes by bonds
    ///         (unsupported_kernel, network_unavailable).
    ///
    /// Example:
    ///     >>> client.advanced.transition_state(tx_id, State.DISPUTED)
    ///     >>> client.disputes.open(tx_id)
    ///
    /// Source: `BondEscalation.openDispute`.
    fn open(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        run(py, self.style, Moves, async move { disputes.open(id).await }, convert::hash)
    }

    /// Proposes the first ruling and pays its bond.
    ///
    /// The bond is 2 % of what was in escrow, at least 1 USDC and at most 500. It is read first, and
    /// exactly as much is approved.
    ///
    /// Args:
    ///     tx_id: the transaction.
    ///     ruling: "provider" or "requester", who gets everything; or ("split", bps), of which bps is the
    ///         provider's share, 0 ... 10_000.
    ///     max_bond: the most to pay as a bond, USDC as str or Decimal such as "1.00"; base units as
    ///         usdc_base_units(1_000_000).
    ///
    /// Returns:
    ///     The bond that was paid.
    ///
    /// Raises:
    ///     SpendingError: the bond is more than max_bond (price_above_limit; required and available name
    ///         both); nothing was paid.
    ///     InvalidStateTransitionError: a ruling stands already (ruling_proposed): challenge it. Or the
    ///         dispute is not open (dispute_not_opened), or over (dispute_resolved).
    ///     ValidationError: no ruling (invalid_ruling).
    ///
    /// Example:
    ///     >>> client.disputes.propose(tx_id, "requester", max_bond="1.00")
    ///     1.00 USDC
    ///
    /// Source: `BondEscalation.proposeDirectly`.
    fn propose(
        &self,
        py: Python<'_>,
        tx_id: Any<'_, '_>,
        ruling: Any<'_, '_>,
        max_bond: Any<'_, '_>,
    ) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        let (ruling, max_bond) = (read_ruling(ruling)?, convert::price("max_bond", max_bond)?);
        let call = async move { disputes.propose(id, ruling, max_bond).await };
        run(py, self.style, Moves, call, amount)
    }

    /// Puts another ruling in the place of the one that stands, and pays twice its bond, at most 500 USDC.
    /// The time for challenges begins anew.
    ///
    /// Where somebody else's challenge comes first, the bond is read again: it is never more than max_bond.
    ///
    /// Args:
    ///     tx_id: the transaction.
    ///     ruling: as in propose; another one than stands.
    ///     max_bond: as in propose.
    ///
    /// Returns:
    ///     The bond that was paid.
    ///
    /// Raises:
    ///     SpendingError: the bond is more than max_bond (price_above_limit); nothing was paid.
    ///     InvalidStateTransitionError: this ruling stands (same_ruling), or none does (no_ruling_stands).
    ///     DeadlinePassedError: the time for challenges is over (liveness_expired).
    ///     ValidationError: no ruling (invalid_ruling).
    ///
    /// Example:
    ///     >>> client.disputes.challenge(tx_id, ("split", 5_000), max_bond="2.00")
    ///     2.00 USDC
    ///
    /// Source: `BondEscalation.challenge`.
    fn challenge(
        &self,
        py: Python<'_>,
        tx_id: Any<'_, '_>,
        ruling: Any<'_, '_>,
        max_bond: Any<'_, '_>,
    ) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        let (ruling, max_bond) = (read_ruling(ruling)?, convert::price("max_bond", max_bond)?);
        let call = async move { disputes.challenge(id, ruling, max_bond).await };
        run(py, self.style, Moves, call, amount)
    }

    /// Carries out the ruling that nobody challenged in time: the kernel settles or cancels the
    /// transaction. Anyone may, and gets a tenth of the bonds.
    ///
    /// Args:
    ///     tx_id: the transaction.
    ///
    /// Returns:
    ///     What this client was paid: the bounty, and where it proposed the ruling, the rest of the bonds.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: the ruling can still be challenged (liveness_active; value is the
    ///         Unix time from which on it can be finalized), or none stands (no_ruling_stands).
    ///
    /// Example:
    ///     >>> client.disputes.finalize(tx_id)
    ///     1.00 USDC
    ///
    /// Source: `BondEscalation.finalize`.
    fn finalize(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        run(py, self.style, Moves, async move { disputes.finalize(id).await }, amount)
    }

    /// Takes back this client's part of the bonds after a split.
    ///
    /// Args:
    ///     tx_id: the transaction.
    ///
    /// Returns:
    ///     What this client was paid.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: the dispute is not over (dispute_not_resolved), ended without a
    ///         split (not_a_split), or this client paid no bond or has claimed it (nothing_to_claim).
    ///
    /// Example:
    ///     >>> client.disputes.claim_refund(tx_id)
    ///     0.90 USDC
    ///
    /// Source: `BondEscalation.claimEscalationRefund`.
    fn claim_refund(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        run(py, self.style, Moves, async move { disputes.claim_refund(id).await }, amount)
    }

    /// Ends a dispute that nobody ended for 30 days, or 60 where UMA's oracle was asked, with half for
    /// each party. Anyone may.
    ///
    /// Args:
    ///     tx_id: the transaction.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: it is too early (not_stale; value is the Unix time from which on
    ///         it can be ended).
    ///
    /// Example:
    ///     >>> client.disputes.force_resolve_stale(tx_id)
    ///
    /// Source: `BondEscalation.forceResolveStale`.
    fn force_resolve_stale(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        let call = async move { disputes.force_resolve_stale(id).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Ends a dispute that the kernel's admin has resolved, so that all bonds can be claimed. Anyone may.
    ///
    /// Args:
    ///     tx_id: the transaction.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: the transaction is still DISPUTED (still_disputed).
    ///
    /// Example:
    ///     >>> client.disputes.sync_external_resolution(tx_id)
    ///
    /// Source: `BondEscalation.syncExternalResolution`.
    fn sync_external_resolution(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        let call = async move { disputes.sync_external_resolution(id).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Where the dispute about a transaction stands; None where none was opened.
    ///
    /// Args:
    ///     tx_id: the transaction.
    ///
    /// Raises:
    ///     NetworkError: this kernel, or this network, decides no disputes by bonds
    ///         (unsupported_kernel, network_unavailable), or endpoints disagree where `agree` is above 1
    ///         (contradictory_answer).
    ///
    /// Example:
    ///     >>> client.disputes.get(tx_id).next_bond
    ///     2.00 USDC
    ///
    /// Source: `BondEscalation.disputes`.
    fn get(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let (disputes, id) = (self.client.disputes(), convert::transaction_id(tx_id)?);
        let call = async move { disputes.get(id).await };
        run(py, self.style, Glances, call, |py, found| found.map(Dispute).into_py_any(py))
    }

    fn __repr__(&self) -> String {
        "<Disputes>".to_owned()
    }
}

/// Where a dispute stands. Amounts are Usdc, times Unix seconds of the chain's clock.
///
/// Source: `BondEscalation.disputes`.
#[pyclass(frozen, eq, module = "agirails._agirails")]
#[derive(PartialEq)]
pub struct Dispute(Core);

type Amount<'py> = PyResult<Bound<'py, PyAny>>;

#[pymethods]
impl Dispute {
    /// The transaction that it is about.
    #[getter]
    fn transaction_id(&self) -> String {
        self.0.transaction_id.to_string()
    }

    /// 0: opened, nothing is proposed. 1: a ruling stands and can be challenged. 2: UMA's oracle decides.
    #[getter]
    fn tier(&self) -> u8 {
        self.0.tier.to_contract()
    }

    /// The ruling that stands, and once it is resolved the one that counts: "provider", "requester" or
    /// ("split", bps); None before the first proposal.
    #[getter]
    fn ruling<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let object = |ruling| match ruling {
            Ruling::ProviderWins => "provider".into_bound_py_any(py),
            Ruling::RequesterWins => "requester".into_bound_py_any(py),
            Ruling::Split { provider_bps } => ("split", provider_bps).into_bound_py_any(py),
        };
        self.0.ruling.map(object).transpose()
    }

    /// The bond behind it.
    #[getter]
    fn bond<'py>(&self, py: Python<'py>) -> Amount<'py> {
        usdc_object(py, self.0.bond)
    }

    /// What proposing, or challenging, takes as a bond; None where nothing can be proposed any more.
    #[getter]
    fn next_bond<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.next_bond().map(|bond| usdc_object(py, bond)).transpose()
    }

    /// What the bonds add up to; once it is resolved, what of them is shared after a split.
    #[getter]
    fn pool<'py>(&self, py: Python<'py>) -> Amount<'py> {
        usdc_object(py, self.0.pool)
    }

    /// Until when the ruling can be challenged, this second included; None before the first proposal.
    #[getter]
    fn liveness_end(&self) -> Option<u64> {
        Some(self.0.liveness_end).filter(|end| *end > 0)
    }

    /// From when on it can be finalized; None while nothing is proposed, once it is resolved, and where
    /// the oracle decides.
    #[getter]
    fn finalized_from(&self) -> Option<u64> {
        self.0.finalized_from()
    }

    /// From when on anyone can end it with half for each; None once it is resolved.
    #[getter]
    fn stale_from(&self) -> Option<u64> {
        self.0.stale_from()
    }

    /// When it was opened.
    #[getter]
    fn disputed_at(&self) -> u64 {
        self.0.disputed_at
    }

    /// Who proposed the ruling that stands; None before the first proposal.
    #[getter]
    fn last_proposer<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.last_proposer.map(|proposer| address_object(py, proposer)).transpose()
    }

    /// Whether it is over.
    #[getter]
    fn resolved(&self) -> bool {
        self.0.resolved
    }

    /// Whether the bonds were paid to the last proposer.
    #[getter]
    fn winner_paid(&self) -> bool {
        self.0.winner_paid
    }

    /// What the bonds added up to when it was resolved.
    #[getter]
    fn original_pool<'py>(&self, py: Python<'py>) -> Amount<'py> {
        usdc_object(py, self.0.original_pool)
    }

    /// What was in escrow when it was opened.
    #[getter]
    fn escrow<'py>(&self, py: Python<'py>) -> Amount<'py> {
        usdc_object(py, self.0.escrow)
    }

    /// All fields by name, as JSON can carry them.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("transaction_id", self.transaction_id())?;
        dict.set_item("tier", self.tier())?;
        dict.set_item("ruling", self.ruling(py)?)?;
        dict.set_item("bond", self.bond(py)?)?;
        dict.set_item("next_bond", self.next_bond(py)?)?;
        dict.set_item("pool", self.pool(py)?)?;
        dict.set_item("liveness_end", self.liveness_end())?;
        dict.set_item("finalized_from", self.finalized_from())?;
        dict.set_item("stale_from", self.stale_from())?;
        dict.set_item("disputed_at", self.disputed_at())?;
        dict.set_item("last_proposer", self.last_proposer(py)?)?;
        dict.set_item("resolved", self.resolved())?;
        dict.set_item("winner_paid", self.winner_paid())?;
        dict.set_item("original_pool", self.original_pool(py)?)?;
        dict.set_item("escrow", self.escrow(py)?)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let Core { transaction_id, ruling, .. } = self.0;
        let ruling = ruling.map_or_else(|| "no ruling".to_owned(), |ruling| ruling.to_string());
        format!("<Dispute {transaction_id} {ruling}>")
    }
}

fn amount(py: Python<'_>, amount: Usdc) -> Answer {
    usdc_object(py, amount).map(Bound::unbind)
}

const RULING_HINT: &str = "pass \"provider\" or \"requester\", or (\"split\", bps) with the provider's share, 0 to 10_000";

fn read_ruling(value: Any<'_, '_>) -> PyResult<Ruling> {
    let (py, code) = (value.py(), Code::InvalidRuling);
    if value.is_instance_of::<PyString>() {
        return match convert::text(code, "ruling", value)? {
            "provider" => Ok(Ruling::ProviderWins),
            "requester" => Ok(Ruling::RequesterWins),
            other => {
                Err(convert::refuse(py, code, "ruling", other, "must be a ruling", RULING_HINT))
            }
        };
    }
    let parts = if let Ok(parts) = value.cast::<PyTuple>() {
        parts.iter().collect::<Vec<_>>()
    } else if let Ok(parts) = value.cast::<PyList>() {
        parts.iter().collect()
    } else {
        return Err(wrong_type(code, "ruling", value, RULING_HINT));
    };
    match parts.as_slice() {
        [split, share] if split.eq("split").unwrap_or(false) => {
            let bps = convert::number("provider_bps", share, code)?;
            Ruling::split(bps).or_raise(py)
        }
        _ => {
            let shown = convert::shown(value);
            Err(convert::refuse(py, code, "ruling", &shown, "must be a ruling", RULING_HINT))
        }
    }
}
