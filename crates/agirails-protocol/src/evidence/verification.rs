//! What an evidence file proves, check by check.

use std::{collections::HashSet, fmt};

use alloy_primitives::{Address, B256};
use serde::Serialize;
use serde_json::Value;

use super::{Body, Evidence, EvidenceCall, EvidenceDelivery};
use crate::{
    State, Transaction,
    id::transaction_id,
    receipt::{Expected, Neighbour, Receipt, climb, merkle_places},
    text,
    wallet_signature::{ContractQuestion, Verdict},
};

/// What became of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is as the file says.
    Holds,
    /// The file contradicts itself, or the chain.
    Fails,
    /// The file does not hold what the check needs.
    NotCheckable,
}

impl Outcome {
    /// The name that bindings use: `holds`, `fails` or `not_checkable`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::NotCheckable => "not_checkable",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Which part of the file was checked, such as `calls[0].receipt.signature`.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The same in words.
    pub words: String,
}

/// All checks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// All checks hold.
    Holds,
    /// No check fails, and some could not be made.
    Incomplete,
    /// A check fails.
    Fails,
}

impl Conclusion {
    /// The name that bindings use: `holds`, `incomplete` or `fails`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Incomplete => "incomplete",
            Self::Fails => "fails",
        }
    }
}

/// What was found, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// The checks.
    pub findings: Vec<Finding>,
    /// What the requester's contract has to be asked on chain (EIP-1271), where the requester is
    /// one: the checks of those signatures are [`Outcome::NotCheckable`].
    pub questions: Vec<ContractQuestion>,
}

impl Verification {
    /// What all checks together say.
    pub fn conclusion(&self) -> Conclusion {
        let has = |outcome| self.findings.iter().any(|finding| finding.outcome == outcome);
        match (has(Outcome::Fails), has(Outcome::NotCheckable)) {
            (true, _) => Conclusion::Fails,
            (false, true) => Conclusion::Incomplete,
            (false, false) => Conclusion::Holds,
        }
    }

    /// What was found here and there.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.findings.extend(other.findings);
        self.questions.extend(other.questions);
        self
    }

    fn add(&mut self, name: impl Into<String>, (outcome, words): Found) {
        self.findings.push(Finding { name: name.into(), outcome, words });
    }
}

/// One check to a line.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { name, outcome, words } in &self.findings {
            writeln!(f, "{}: {name}: {words}", outcome.as_str())?;
        }
        Ok(())
    }
}

type Found = (Outcome, String);

fn holds(words: impl Into<String>) -> Found {
    (Outcome::Holds, words.into())
}

fn fails(words: impl Into<String>) -> Found {
    (Outcome::Fails, words.into())
}

fn unknown(words: impl Into<String>) -> Found {
    (Outcome::NotCheckable, words.into())
}

/// Checks all that a file shows by itself: hashes, both signatures, and the way of each call to the
/// delivery's content hash.
///
/// | finding | holds where |
/// |---|---|
/// | `parties` | requester and provider are the transaction's |
/// | `transaction.transactionId` | the id follows from the parties, the amount, the service hash and the nonce; only where the file has the nonce |
/// | `calls` | there is a call, and no index and no key stands twice |
/// | `delivery` | the proof is of this transaction, and of no fewer calls than the file holds |
/// | `….request.bodyHash` | it is the hash of the body |
/// | `….request.digest` | it is the EIP-712 hash of the request; only where the file has it |
/// | `….request.signature` | the requester signed that hash, or a session key that it appointed |
/// | `….answer.bodyHash` | it is the hash of the body |
/// | `….receipt` | it is of this call, this answer and this provider, and of a time when the transaction could be delivered |
/// | `….receipt.signature` | the provider signed it |
/// | `….branch` | it leads from the call's place to the delivery's content hash |
///
/// What it does not tell: whether the transaction, the parties and the kernel are real
/// ([`compare_with_chain`]), and whether the answer was any good.
///
/// Source: EIP-712, AIP-4, and [`crate::receipt`].
pub fn verify(evidence: &Evidence) -> Verification {
    let mut verification = Verification::default();
    verification.add("parties", parties(evidence));
    if let Some(nonce) = evidence.requester_nonce {
        verification.add("transaction.transactionId", id(&evidence.transaction, nonce));
    }
    verification.add("calls", calls(evidence));
    verification.add("delivery", delivery(evidence));
    for (at, call) in evidence.calls.iter().enumerate() {
        check_call(&mut verification, &format!("calls[{at}]"), evidence, call);
    }
    verification
}

fn parties(evidence: &Evidence) -> Found {
    let Evidence { parties, transaction, .. } = evidence;
    let pairs = [
        ("requester", parties.requester.address, transaction.requester),
        ("provider", parties.provider.address, transaction.provider),
    ];
    match pairs.into_iter().find(|(_, party, own)| party != own) {
        Some((who, party, own)) => {
            fails(format!("the {who} is {party}, and the transaction's is {own}"))
        }
        None => holds("requester and provider are the transaction's"),
    }
}

fn id(transaction: &Transaction, nonce: u64) -> Found {
    let Transaction { id, requester, provider, amount, service_hash, metadata, .. } = *transaction;
    let computed = transaction_id(requester, provider, amount, service_hash, nonce);
    if computed == id {
        return holds(
            "the id follows from the parties, the amount, the service hash and the nonce",
        );
    }
    if !metadata.is_zero() {
        return unknown("the price was quoted, so the amount may not be the one of the id");
    }
    fails(format!("the id should be {computed}, unless a quote changed the amount"))
}

fn calls(evidence: &Evidence) -> Found {
    let calls = &evidence.calls;
    let (mut keys, mut indexes) = (HashSet::new(), HashSet::new());
    for EvidenceCall { request, receipt, .. } in calls {
        let key = request.idempotency_key.as_str();
        if !keys.insert(key) {
            return fails(format!("two calls have the key {:?}", text::value(key)));
        }
        if let Some(Receipt { index, .. }) = receipt
            && !indexes.insert(*index)
        {
            return fails(format!("two calls have the index {index}"));
        }
    }
    match calls.len() {
        0 => unknown("the file holds no calls"),
        2.. if keys.contains("") => fails("a call without a key is its transaction's only one"),
        count => holds(format!("{count} calls, each with its own key and place")),
    }
}

fn delivery(evidence: &Evidence) -> Found {
    let Some(EvidenceDelivery { proof, calls }) = &evidence.delivery else {
        return unknown("the file holds no delivery proof");
    };
    if proof.transaction_id != evidence.transaction.id {
        return fails(format!("the proof is of the transaction {}", proof.transaction_id));
    }
    let committed = evidence.transaction.result_hash;
    if !committed.is_zero() && committed != proof.content_hash {
        let delivered = proof.content_hash;
        return fails(format!("the kernel was given {committed}, and the proof is of {delivered}"));
    }
    let held = evidence.calls.len() as u64;
    if held > *calls {
        return fails(format!("the file holds {held} calls, and {calls} were delivered"));
    }
    holds(format!("the proof is of this transaction; the file holds {held} of its {calls} calls"))
}

fn check_call(to: &mut Verification, name: &str, evidence: &Evidence, call: &EvidenceCall) {
    let EvidenceCall { request, answer, .. } = call;
    to.add(format!("{name}.request.bodyHash"), body(request.body.as_ref(), request.body_hash));
    if let Some(found) = digest(evidence, call) {
        to.add(format!("{name}.request.digest"), found);
    }
    let signed = request_signature(evidence, call, &mut to.questions);
    to.add(format!("{name}.request.signature"), signed);
    to.add(format!("{name}.answer.bodyHash"), body(answer.body.as_ref(), answer.body_hash));
    to.add(format!("{name}.receipt"), receipt(evidence, call));
    to.add(format!("{name}.receipt.signature"), receipt_signature(evidence, call));
    to.add(format!("{name}.branch"), branch(evidence, call));
}

fn body(body: Option<&Body>, hash: B256) -> Found {
    match body.map(Body::hash) {
        None => unknown("the body was not kept"),
        Some(computed) if computed == hash => holds("it is the hash of the body"),
        Some(computed) => fails(format!("the body's hash is {computed}")),
    }
}

fn digest(evidence: &Evidence, call: &EvidenceCall) -> Option<Found> {
    let digest = call.request.digest?;
    if call.request.signature.is_none() {
        return Some(unknown("the time that was signed is not here"));
    }
    let network = &evidence.network;
    let computed = evidence.paid_request(call).signing_hash(network.chain_id, network.kernel);
    Some(match computed == digest {
        true => holds("it is the hash of the request"),
        false => fails(format!("the request's hash is {computed}")),
    })
}

fn request_signature(
    evidence: &Evidence,
    call: &EvidenceCall,
    questions: &mut Vec<ContractQuestion>,
) -> Found {
    let Evidence { network, parties, transaction, .. } = evidence;
    let Some(signature) = &call.request.signature else {
        return unknown("the request is not signed");
    };
    let session = call.request.session.as_ref();
    let requester = transaction.requester;
    let request = evidence.paid_request(call);
    let verdict = signature.verdict(&request, session, requester, network.chain_id, network.kernel);
    match (verdict, session) {
        (Ok(Verdict::Signed), None) => holds("the requester signed the request"),
        (Ok(Verdict::Signed), Some(session)) => holds(format!(
            "the session key {} signed it, and the requester appointed it",
            session.key
        )),
        (Ok(Verdict::AskContract(question)), _) if parties.requester.is_contract => {
            // The appointment of a session key is one question, however many calls it signed.
            if questions.last() != Some(&question) {
                questions.push(question);
            }
            unknown("the requester is a contract: ask its isValidSignature on chain")
        }
        (Ok(Verdict::AskContract(_)), None) => fails("the requester did not sign this request"),
        (Ok(Verdict::AskContract(_)), Some(session)) => {
            fails(format!("the requester did not appoint the session key {}", session.key))
        }
        (Err(error), _) => fails(error.to_string()),
    }
}

fn receipt(evidence: &Evidence, call: &EvidenceCall) -> Found {
    let Some(receipt) = &call.receipt else { return unknown("there is no receipt") };
    let Transaction { requester, provider, created_at, deadline, .. } = evidence.transaction;
    let expected = Expected {
        provider,
        requester,
        chain_id: evidence.network.chain_id,
        kernel: evidence.network.kernel,
        may_be_unsigned: true,
        calls: evidence.delivery.as_ref().map_or(u64::MAX, |delivery| delivery.calls),
        answered: created_at..=deadline,
    };
    // Its signature is a finding of its own.
    let unsigned = Receipt { signature: None, ..receipt.clone() };
    match unsigned.check(&call.record(&evidence.paid_request(call)), &expected) {
        Ok(()) => holds("it is the receipt of this call and this answer"),
        Err(error) => fails(error.to_string()),
    }
}

fn receipt_signature(evidence: &Evidence, call: &EvidenceCall) -> Found {
    let Some(receipt) = &call.receipt else { return unknown("there is no receipt") };
    if receipt.signature.is_none() {
        return unknown("the receipt is not signed");
    }
    let network = &evidence.network;
    let requester = evidence.transaction.requester;
    match receipt.check_signature(requester, network.chain_id, network.kernel) {
        Ok(()) => holds("the provider that it names signed it"),
        Err(error) => fails(error.to_string()),
    }
}

fn branch(evidence: &Evidence, call: &EvidenceCall) -> Found {
    let Some(EvidenceDelivery { proof, calls }) = &evidence.delivery else {
        return unknown("the file holds no delivery proof");
    };
    let Some(branch) = &call.branch else { return unknown("the way was not kept") };
    let leaf = match evidence.content_hash(call) {
        Ok(leaf) => leaf,
        Err(error) => return fails(error.to_string()),
    };
    let root = climb(leaf, branch);
    if root != proof.content_hash {
        return fails(format!("it leads to {root}, and {} was delivered", proof.content_hash));
    }
    let Some(Receipt { index, .. }) = call.receipt else {
        return holds("it leads to the delivery's content hash");
    };
    let goes = branch.iter().map(|neighbour| matches!(neighbour, Neighbour::Left(_)));
    let should_go = merkle_places(*calls, index).into_iter().map(|(_, _, is_left)| is_left);
    match goes.eq(should_go) {
        true => holds("it leads from the call's place to the delivery's content hash"),
        false => fails(format!("it is not the way from the place {index} of {calls}")),
    }
}

/// Compares what a file claims with the transaction as a kernel has it: read it from the kernel at
/// this address of this chain, and take that address from your own list, not from the file.
///
/// There is a finding for the network and one for each field of the transaction, such as
/// `chain.amount`. What can have changed since the file was made, such as the state, holds where the
/// protocol has a way from the file's value to the chain's.
///
/// ```
/// use agirails_protocol::{
///     Address, CreateTransaction, State, Terms, Usdc,
///     evidence::{Conclusion, Evidence, EvidenceNetwork, compare_with_chain},
///     rules::{Rates, create},
/// };
///
/// let [requester, provider, kernel] = [1, 2, 3].map(Address::repeat_byte);
/// let order = CreateTransaction::new(requester, provider, Usdc(100_000), 1_780_003_600);
/// let (terms, rates) = (Terms::default(), Rates::default());
/// let mut read = create(&order, requester, 0, terms, rates, 1_780_000_000)?;
/// let evidence = Evidence::new(EvidenceNetwork::new(8453, kernel, "base"), read.clone());
/// (read.state, read.updated_at) = (State::Committed, 1_780_000_002);
/// let compared = compare_with_chain(&evidence, &read, 8453, kernel);
/// assert_eq!(compared.conclusion(), Conclusion::Holds);
///
/// read.deadline += 1;
/// let compared = compare_with_chain(&evidence, &read, 8453, kernel);
/// assert_eq!(compared.conclusion(), Conclusion::Fails);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: `ACTPKernel`'s transitions.
pub fn compare_with_chain(
    evidence: &Evidence,
    transaction: &Transaction,
    chain_id: u64,
    kernel: Address,
) -> Verification {
    let Evidence { network, transaction: claimed, .. } = evidence;
    let mut verification = Verification::default();
    let is_same = (network.chain_id, network.kernel) == (chain_id, kernel);
    verification.add(
        "chain.network",
        match is_same {
            true => holds("the file is of this kernel of this chain"),
            false => fails(format!(
                "the file is of the kernel {} of chain {}",
                network.kernel, network.chain_id
            )),
        },
    );
    let has_moved = transaction.updated_at > claimed.updated_at;
    for (key, claims, is) in fields(claimed, transaction) {
        let may_differ = match key.as_str() {
            "state" => has_moved && can_reach(claimed.state, transaction.state),
            "updatedAt" => has_moved,
            // It is anchored without a change of `updatedAt`.
            "attestationUID" => claimed.attestation_uid.is_zero(),
            key => has_moved && may_change(key, claimed.state),
        };
        let found = match (claims == is, may_differ) {
            (true, _) => holds("the chain says the same"),
            (false, true) => holds(format!("{claims} has become {is} since the file was made")),
            (false, false) => fails(format!("the file says {claims}, and the chain {is}")),
        };
        verification.add(format!("chain.{key}"), found);
    }
    verification
}

/// The fields of both, by their names in JSON.
fn fields(claimed: &Transaction, read: &Transaction) -> Vec<(String, Value, Value)> {
    // Both are hashes, numbers and names, which always have JSON.
    let object = |transaction| match serde_json::to_value(transaction) {
        Ok(Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    let mut read = object(read);
    let pair = |(key, claims): (String, Value)| {
        let is = read.remove(&key).unwrap_or_default();
        (key, claims, is)
    };
    object(claimed).into_iter().map(pair).collect()
}

/// Whether this field can still change in a transaction of this state.
fn may_change(key: &str, state: State) -> bool {
    match key {
        // A quote changes the price, and its acceptance the rate.
        "amount" | "metadata" | "platformFeeBpsLocked" | "escrowContract" | "escrowId" => {
            matches!(state, State::Initiated | State::Quoted)
        }
        "disputeWindow" | "resultHash" => state < State::Delivered,
        "disputeInitiator" => state <= State::Delivered,
        "disputeBond" => !state.is_terminal(),
        _ => false,
    }
}

/// Whether a transaction comes from one state to the other, by however many steps.
fn can_reach(from: State, to: State) -> bool {
    // Each way leads to a greater number; linkEscrow is not in the table of transitions.
    let step = |next: State| {
        from.can_become(next)
            || (next == State::Committed && matches!(from, State::Initiated | State::Quoted))
    };
    from == to
        || State::ALL.into_iter().any(|next| next > from && step(next) && can_reach(next, to))
        || (from == State::Disputed && to == State::Settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_reached_by_the_protocols_ways_alone() {
        use State::*;
        for (from, to) in [
            (Initiated, Settled),
            (Quoted, Committed),
            (Committed, Disputed),
            (Disputed, Settled),
            (Disputed, Cancelled),
            (Delivered, Cancelled),
            (Settled, Settled),
        ] {
            assert!(can_reach(from, to), "{from} {to}");
        }
        for (from, to) in [
            (Quoted, Initiated),
            (Delivered, InProgress),
            (Settled, Cancelled),
            (Settled, Disputed),
            (Cancelled, Settled),
        ] {
            assert!(!can_reach(from, to), "{from} {to}");
        }
    }
}
