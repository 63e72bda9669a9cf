//! Evidence files: verified with nothing but the file.

use agirails::{
    Code,
    protocol::{
        error::EvidenceError,
        evidence::{Evidence, compare_with_chain, verify},
    },
};
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

use crate::{
    convert::{self, Any},
    errors::OrRaise,
    network::Network,
    transaction::Transaction,
};

/// What agirails.verify_evidence is made of: the same, of a file's text; and, where they are given,
/// compared with a transaction as the kernel of a network has it.
#[pyfunction]
#[pyo3(signature = (text, transaction=None, network=None))]
pub fn _verify_evidence<'py>(
    py: Python<'py>,
    text: Any<'_, 'py>,
    transaction: Option<&Bound<'py, Transaction>>,
    network: Option<&Bound<'py, Network>>,
) -> PyResult<Bound<'py, PyDict>> {
    let text = convert::text(Code::InvalidEvidence, "evidence", text)?;
    let read =
        transaction.zip(network).map(|(tx, network)| (tx.get().core(), network.get().core()));
    // A file may hold a hundred thousand calls, each with two signatures.
    let found = py.detach(|| {
        let evidence = Evidence::from_json(text)?;
        let found = verify(&evidence);
        Ok::<_, EvidenceError>(match read {
            Some((transaction, network)) => {
                let (chain_id, kernel) = (network.chain_id, network.kernel);
                found.and(compare_with_chain(&evidence, transaction, chain_id, kernel))
            }
            None => found,
        })
    });
    let found = found.or_raise(py)?;
    let findings = PyList::empty(py);
    for finding in &found.findings {
        let dict = PyDict::new(py);
        dict.set_item("name", &finding.name)?;
        dict.set_item("outcome", finding.outcome.as_str())?;
        dict.set_item("words", &finding.words)?;
        findings.append(dict)?;
    }
    let dict = PyDict::new(py);
    dict.set_item("conclusion", found.conclusion().as_str())?;
    dict.set_item("findings", findings)?;
    Ok(dict)
}
