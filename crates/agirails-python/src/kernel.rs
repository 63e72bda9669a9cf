//! The protocol's verbs, each written once for the blocking and the awaitable client.

use agirails::{
    ACTPClient, Code, CreateTransaction, DeliveryStatement, LinkEscrow, Refusal,
    kernel::{Escrow, Role, TransactionQuery},
    protocol::{
        canonical_json,
        proof::{SignedDelivery, Verification},
        rules::DEFAULT_DISPUTE_WINDOW_SECONDS,
    },
};
use alloy_primitives::{Address, B256, U256};
use pyo3::{IntoPyObjectExt, prelude::*, types::PyDict};

use crate::{
    convert::{self, Any, Given, Maybe, optional},
    errors::OrRaise,
    event::Event,
    json,
    proof::proof_object,
    run::{
        Effect::{Glances, Moves, Reads},
        Style, run,
    },
    transaction::Transaction,
};

/// The protocol's verbs, called as the client's address.
///
/// Every error is an ACTPError: `code` names the case, `hint` the remedy, and `retry` tells
/// whether the same call can succeed later. Amounts are base units of USDC as int (1 USDC =
/// 1_000_000), times are Unix seconds.
///
/// Source: AIP-0, `ACTPKernel`.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct Kernel {
    client: ACTPClient,
    style: Style,
}

type Answer = PyResult<Py<PyAny>>;

impl Kernel {
    pub fn new(client: ACTPClient, style: Style) -> Self {
        Self { client, style }
    }

    fn own_or(&self, address: Maybe<'_, '_>) -> PyResult<Address> {
        Ok(optional(address, |address| convert::address("address", address))?
            .unwrap_or_else(|| self.client.address()))
    }
}

#[pymethods]
impl Kernel {
    /// Creates a transaction with this client as its requester. No money moves yet.
    ///
    /// Args:
    ///     provider: address of who works.
    ///     amount: what is paid, base units of USDC, 50_000 ... 10**15. On mainnet's kernel, below
    ///         1 USDC nobody but the provider can give the money back once it is in escrow.
    ///     deadline: until when the provider can deliver, Unix seconds, at most 365 days away; on
    ///         kernels from F-6 on at least an hour away.
    ///     dispute_window: how long the delivery can be disputed, 3_600 ... 2_592_000 seconds.
    ///     requester: this client's own address, or nothing.
    ///     metadata: hash of what is ordered, 32 bytes or 0x and 64 hex digits; "0x" for none.
    ///     agent_id: the provider's ERC-8004 identity, 0 for none.
    ///     requester_agent_id: the requester's ERC-8004 identity, 0 for none.
    ///     agreement_hash: what was agreed, as agreement_hash() makes it, for kernels of AIP-14c.
    ///
    /// Returns:
    ///     The transaction's id. It names no network: keep the network beside it.
    ///
    /// Raises:
    ///     ValidationError: an argument is out of bounds; `field` and `value` say which.
    ///     UnauthorizedError: `requester` is another address.
    ///     NetworkError: an agreement_hash, and the kernel keeps none (code unsupported_kernel).
    ///
    /// Example:
    ///     >>> tx_id = client.advanced.create_transaction(
    ///     ...     provider=provider, amount=100_000, deadline=client.advanced.now() + 3600)
    ///
    /// Source: `ACTPKernel.createTransaction`.
    #[pyo3(
        signature = (*, provider, amount, deadline, dispute_window=Given::LEFT_OUT, requester=None,
            metadata=None, agent_id=Given::LEFT_OUT, requester_agent_id=Given::LEFT_OUT,
            agreement_hash=None),
        text_signature = "($self, *, provider, amount, deadline, dispute_window=172800, \
            requester=None, metadata=None, agent_id=0, requester_agent_id=0, agreement_hash=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "the contract's own arguments")]
    fn create_transaction(
        &self,
        py: Python<'_>,
        provider: Any<'_, '_>,
        amount: Any<'_, '_>,
        deadline: Any<'_, '_>,
        dispute_window: Given<'_, '_>,
        requester: Maybe<'_, '_>,
        metadata: Maybe<'_, '_>,
        agent_id: Given<'_, '_>,
        requester_agent_id: Given<'_, '_>,
        agreement_hash: Maybe<'_, '_>,
    ) -> Answer {
        let request = CreateTransaction {
            provider: convert::address("provider", provider)?,
            requester: optional(requester, |address| convert::address("requester", address))?
                .unwrap_or_else(|| self.client.address()),
            amount: convert::amount("amount", amount, Code::Refused(Refusal::AmountAboveMaximum))?,
            deadline: convert::number(
                "deadline",
                deadline,
                Code::Refused(Refusal::DeadlineTooFar),
            )?,
            dispute_window_seconds: optional(dispute_window.get(), |seconds| {
                convert::number(
                    "dispute_window",
                    seconds,
                    Code::Refused(Refusal::DisputeWindowTooLong),
                )
            })?
            .unwrap_or(DEFAULT_DISPUTE_WINDOW_SECONDS),
            service_hash: convert::bytes32_or_zero("metadata", metadata)?,
            agent_id: optional(agent_id.get(), |number| convert::agent_id("agent_id", number))?
                .unwrap_or(U256::ZERO),
            requester_agent_id: optional(requester_agent_id.get(), |number| {
                convert::agent_id("requester_agent_id", number)
            })?
            .unwrap_or(U256::ZERO),
            agreement_hash: convert::bytes32_or_zero("agreement_hash", agreement_hash)?,
        };
        let client = self.client.clone();
        let call = async move { client.create_transaction(&request).await };
        run(py, self.style, Moves, call, convert::hash)
    }

    /// Pays the transaction's amount into escrow: approves exactly what is missing, then links.
    ///
    /// From here until the deadline only the provider can move the transaction.
    ///
    /// Args:
    ///     tx_id: a transaction that is INITIATED or QUOTED, of which this client is requester.
    ///     escrow_contract: another vault than the network's.
    ///     escrow_id: another id than the transaction's, 32 bytes; it can be used once, ever.
    ///
    /// Returns:
    ///     The escrow's id.
    ///
    /// Raises:
    ///     InsufficientFundsError: the balance is below the amount; see `required`, `available`.
    ///     InvalidStateTransitionError: it is funded already, or over; read it first.
    ///     UnauthorizedError: this client is not the requester.
    ///     DeadlinePassedError: create a new transaction.
    ///
    /// Example:
    ///     >>> escrow_id = client.advanced.link_escrow(tx_id)
    ///
    /// Source: `ACTPKernel.linkEscrow`.
    #[pyo3(signature = (tx_id, *, escrow_contract=None, escrow_id=None))]
    fn link_escrow(
        &self,
        py: Python<'_>,
        tx_id: Any<'_, '_>,
        escrow_contract: Maybe<'_, '_>,
        escrow_id: Maybe<'_, '_>,
    ) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let link = LinkEscrow {
            escrow_contract: optional(escrow_contract, |address| {
                convert::address("escrow_contract", address)
            })?,
            escrow_id: optional(escrow_id, |id| convert::bytes32("escrow_id", id))?,
            most: None,
        };
        let client = self.client.clone();
        let call = async move { client.link_escrow_as(id, link).await };
        run(py, self.style, Moves, call, convert::hash)
    }

    /// Reads a transaction.
    ///
    /// Args:
    ///     tx_id: its id.
    ///
    /// Raises:
    ///     ValidationError: that is no id.
    ///     TransactionNotFoundError: nobody created it on this network and in this state.
    ///
    /// Example:
    ///     >>> client.advanced.get_transaction(tx_id).state
    ///     <State.COMMITTED: 2>
    ///
    /// Source: `ACTPKernel.getTransaction`.
    fn get_transaction(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let client = self.client.clone();
        let call = async move { client.get_transaction(id).await };
        run(py, self.style, Glances, call, |py, tx| Transaction::from(tx).into_py_any(py))
    }

    /// Moves a transaction on.
    ///
    /// A delivery takes a delivery proof, whole or in its 96 encoded bytes. The contract itself
    /// accepts no such bytes: the proof is checked, kept (see get_delivery_proof) and replaced
    /// by the dispute window that the transaction was created with. On a kernel of AIP-14c the
    /// proof's content hash goes behind it, and a delivery without a proof is refused.
    ///
    /// Args:
    ///     tx_id: its id.
    ///     new_state: a member of State, its number or its name. COMMITTED is reached by
    ///         link_escrow alone.
    ///     proof: to DELIVERED a delivery proof or 32 bytes that encode the dispute window in
    ///         seconds; to QUOTED a 32-byte hash; from DISPUTED a resolution
    ///         (encode_resolution); else nothing. Bytes, or a str of 0x and hex digits.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: its state does not allow this step; read it first.
    ///     UnauthorizedError: this step is somebody else's.
    ///     DeadlinePassedError: too late to deliver; cancel, which refunds the requester.
    ///     DisputeWindowActiveError: too early to settle, unless the requester does.
    ///     ValidationError: `proof` is not what this step carries.
    ///
    /// Example:
    ///     >>> client.advanced.transition_state(tx_id, State.IN_PROGRESS)
    ///
    /// Source: `ACTPKernel.transitionState`, AIP-4.
    #[pyo3(signature = (tx_id, new_state, proof=None))]
    fn transition_state(
        &self,
        py: Python<'_>,
        tx_id: Any<'_, '_>,
        new_state: Any<'_, '_>,
        proof: Maybe<'_, '_>,
    ) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let to = convert::state("new_state", new_state)?;
        let evidence = convert::evidence(proof)?;
        let client = self.client.clone();
        let call = async move { client.transition_state(id, to, evidence).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Accepts the provider's quote: the transaction's amount is replaced.
    ///
    /// Args:
    ///     tx_id: a QUOTED transaction, of which this client is requester.
    ///     amount: the new amount, base units of USDC, 50_000 ... 10**15.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: it is not QUOTED.
    ///     UnauthorizedError: this client is not the requester.
    ///     DeadlinePassedError: create a new transaction.
    ///
    /// Example:
    ///     >>> client.advanced.accept_quote(tx_id, 120_000)
    ///
    /// Source: `ACTPKernel.acceptQuote`.
    fn accept_quote(&self, py: Python<'_>, tx_id: Any<'_, '_>, amount: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let amount = convert::amount("amount", amount, Code::Refused(Refusal::AboveMaximum))?;
        let client = self.client.clone();
        let call = async move { client.accept_quote(id, amount).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Pays part of an IN_PROGRESS transaction to its provider early.
    ///
    /// Args:
    ///     tx_id: a transaction of which this client is requester.
    ///     amount: gross, base units of USDC, at least 50_000. Each payout is charged its own
    ///         fee: 1 %, but at least 50_000.
    ///
    /// Raises:
    ///     InsufficientFundsError: less remains in escrow.
    ///     TransactionRevertedError: the amount is below the fee.
    ///     InvalidStateTransitionError: it is not IN_PROGRESS.
    ///     UnauthorizedError: this client is not the requester.
    ///
    /// Example:
    ///     >>> client.advanced.release_milestone(tx_id, 1_000_000)
    ///
    /// Source: `ACTPKernel.releaseMilestone`.
    fn release_milestone(&self, py: Python<'_>, tx_id: Any<'_, '_>, amount: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let amount = convert::amount("amount", amount, Code::Refused(Refusal::InsufficientEscrow))?;
        let client = self.client.clone();
        let call = async move { client.release_milestone(id, amount).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Pays out what a settled transaction still holds, which is nothing: settling pays.
    ///
    /// Args:
    ///     tx_id: a SETTLED transaction.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: it is not SETTLED; settle it with transition_state.
    ///
    /// Example:
    ///     >>> client.advanced.release_escrow(tx_id)
    ///
    /// Source: `ACTPKernel.releaseEscrow`.
    fn release_escrow(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let client = self.client.clone();
        let call = async move { client.release_escrow(id).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Returns the money of begun work that its provider abandoned to its requester, in full.
    ///
    /// Anybody may ask for it, once the deadline and the kernel's grace have passed
    /// (`network.recovery_grace_seconds`).
    ///
    /// Args:
    ///     tx_id: an IN_PROGRESS transaction.
    ///
    /// Raises:
    ///     NetworkError: kernels before F-6 recover nothing (code unsupported_kernel).
    ///     InvalidStateTransitionError: it is too early (recovery_not_yet_available), or it is not
    ///         IN_PROGRESS (not_in_progress).
    ///
    /// Example:
    ///     >>> client.advanced.recover_stalled(tx_id)
    ///
    /// Source: `ACTPKernel.recoverStalledInProgress`.
    fn recover_stalled(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let client = self.client.clone();
        let call = async move { client.recover_stalled(id).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Records an attestation on a settled transaction of this client.
    ///
    /// Args:
    ///     tx_id: a SETTLED transaction.
    ///     uid: the EAS attestation's UID, 32 bytes or 0x and 64 hex digits, not zero.
    ///
    /// Raises:
    ///     InvalidStateTransitionError: it is not SETTLED yet.
    ///     UnauthorizedError: this client is neither requester nor provider.
    ///
    /// Example:
    ///     >>> client.advanced.anchor_attestation(tx_id, uid)
    ///
    /// Source: `ACTPKernel.anchorAttestation`.
    fn anchor_attestation(&self, py: Python<'_>, tx_id: Any<'_, '_>, uid: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let uid = convert::bytes32("uid", uid)?;
        let client = self.client.clone();
        let call = async move { client.anchor_attestation(id, uid).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// The proof with which a transaction was delivered, if one was given here.
    ///
    /// Args:
    ///     tx_id: its id.
    ///
    /// Returns:
    ///     The proof as generate_delivery_proof makes it, or None.
    ///
    /// Raises:
    ///     TransactionNotFoundError: there is no such transaction.
    ///
    /// Example:
    ///     >>> client.advanced.get_delivery_proof(tx_id)["contentHash"]
    ///
    /// Source: AIP-4.
    fn get_delivery_proof(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let client = self.client.clone();
        let call = async move { client.get_delivery_proof(id).await };
        run(py, self.style, Glances, call, |py, proof| match proof {
            Some(proof) => proof_object(py, &proof)?.into_py_any(py),
            None => Ok(py.None()),
        })
    }

    /// The vault's record of a transaction's escrow; all zero once everything is paid out.
    ///
    /// Args:
    ///     tx_id: its id.
    ///
    /// Returns:
    ///     requester, provider, amount, released, remaining (base units of USDC) and active.
    ///
    /// Raises:
    ///     TransactionNotFoundError: there is no such transaction.
    ///
    /// Example:
    ///     >>> client.advanced.get_escrow(tx_id)["remaining"]
    ///
    /// Source: `EscrowVault.escrows`, `EscrowVault.remaining`.
    fn get_escrow(&self, py: Python<'_>, tx_id: Any<'_, '_>) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let client = self.client.clone();
        run(py, self.style, Glances, async move { client.escrow(id).await }, escrow_object)
    }

    /// A party's transactions, newest first.
    ///
    /// Args:
    ///     party: an address; this client's own where None.
    ///     role: "requester" or "provider"; both where None.
    ///     state: only those in this state.
    ///     limit: how many, 1 ... 1_000.
    ///     after: read on behind this transaction, the last one of the page before.
    ///
    /// Raises:
    ///     ValidationError: an argument is out of bounds.
    ///     TransactionNotFoundError: `after` does not exist.
    ///
    /// Example:
    ///     >>> open_work = client.advanced.get_transactions(role="provider", state=State.COMMITTED)
    #[pyo3(
        signature = (party=None, *, role=None, state=None, limit=Given::LEFT_OUT, after=None),
        text_signature = "($self, party=None, *, role=None, state=None, limit=100, after=None)"
    )]
    fn get_transactions(
        &self,
        py: Python<'_>,
        party: Maybe<'_, '_>,
        role: Maybe<'_, '_>,
        state: Maybe<'_, '_>,
        limit: Given<'_, '_>,
        after: Maybe<'_, '_>,
    ) -> Answer {
        let mut query = TransactionQuery::of(self.own_or(party)?);
        query.role = optional(role, role_of)?;
        query.state = optional(state, |state| convert::state("state", state))?;
        query.after = optional(after, convert::transaction_id)?;
        if let Some(limit) = limit.get() {
            query.limit = convert::count("limit", limit)?;
        }
        let client = self.client.clone();
        let call = async move { client.find_transactions(&query).await };
        run(py, self.style, Reads, call, convert::list::<_, Transaction>)
    }

    /// What the kernel announced, oldest first.
    ///
    /// Args:
    ///     after: the `cursor` of the last event that was read; 0 is the beginning.
    ///     limit: how many, 1 ... 10_000.
    ///
    /// Raises:
    ///     ValidationError: an argument is out of bounds.
    ///
    /// Example:
    ///     >>> for event in client.advanced.get_events(cursor):
    ///     ...     cursor = event.cursor
    #[pyo3(
        signature = (after=Given::LEFT_OUT, limit=Given::LEFT_OUT),
        text_signature = "($self, after=0, limit=1000)"
    )]
    fn get_events(&self, py: Python<'_>, after: Given<'_, '_>, limit: Given<'_, '_>) -> Answer {
        let after =
            optional(after.get(), |after| convert::number("after", after, Code::InvalidNumber))?
                .unwrap_or(0);
        let limit = optional(limit.get(), |limit| convert::count("limit", limit))?.unwrap_or(1_000);
        let client = self.client.clone();
        let call = async move { client.events(after, limit).await };
        run(py, self.style, Reads, call, convert::list::<_, Event>)
    }

    /// How much USDC an account holds, in base units.
    ///
    /// Args:
    ///     address: whose; this client's own where None.
    ///
    /// Example:
    ///     >>> format_usdc(client.advanced.get_balance())
    ///     '1000.00'
    ///
    /// Source: `USDC.balanceOf`.
    #[pyo3(signature = (address=None))]
    fn get_balance(&self, py: Python<'_>, address: Maybe<'_, '_>) -> Answer {
        let owner = self.own_or(address)?;
        let kernel = self.client.kernel().clone();
        run(py, self.style, Glances, async move { kernel.balance(owner).await }, convert::usdc)
    }

    /// How much USDC the vault may take from an account, in base units.
    ///
    /// Args:
    ///     address: whose; this client's own where None.
    ///
    /// Example:
    ///     >>> client.advanced.get_allowance()
    ///     0
    ///
    /// Source: `USDC.allowance`.
    #[pyo3(signature = (address=None))]
    fn get_allowance(&self, py: Python<'_>, address: Maybe<'_, '_>) -> Answer {
        let owner = self.own_or(address)?;
        let kernel = self.client.kernel().clone();
        run(py, self.style, Glances, async move { kernel.allowance(owner).await }, convert::usdc)
    }

    /// Lets the vault take this much of this client's USDC, in place of what it might before.
    ///
    /// link_escrow and disputes approve by themselves exactly what they need.
    ///
    /// Args:
    ///     amount: base units of USDC; 0 withdraws the approval.
    ///
    /// Example:
    ///     >>> client.advanced.approve(5_000_000)
    ///
    /// Source: `USDC.approve`.
    fn approve(&self, py: Python<'_>, amount: Any<'_, '_>) -> Answer {
        let amount = convert::amount("amount", amount, Code::InvalidAmount)?;
        let client = self.client.clone();
        let call = async move { client.approve(amount).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// Signs a statement about a delivery of this client, the transaction's provider.
    ///
    /// Args:
    ///     tx_id: its id.
    ///     result: what was delivered, any JSON value; its canonical form is hashed.
    ///     result_hash: that hash, in place of the result.
    ///     result_cid: where the result lies (IPFS), "" for nowhere.
    ///     eas_attestation_uid: the EAS attestation of this delivery.
    ///     delivered_at: Unix seconds; the kernel's clock where None.
    ///     nonce: this provider's message number, from 1 on.
    ///
    /// Returns:
    ///     The AIP-4 message with its signature; verify_delivery checks it.
    ///
    /// Raises:
    ///     ValidationError: the client has no private key (code key_missing), or an argument is
    ///         wrong; `field` names it.
    ///     UnauthorizedError: this client is not the provider.
    ///
    /// Example:
    ///     >>> message = client.advanced.sign_delivery(tx_id, result={"text": "a haiku"})
    ///
    /// Source: AIP-4, `agirails.delivery.v1`.
    #[pyo3(
        signature = (tx_id, *, result=None, result_hash=None, result_cid=Given::LEFT_OUT,
            eas_attestation_uid=None, delivered_at=None, nonce=Given::LEFT_OUT),
        text_signature = "($self, tx_id, *, result=None, result_hash=None, result_cid='', \
            eas_attestation_uid=None, delivered_at=None, nonce=1)"
    )]
    #[expect(clippy::too_many_arguments, reason = "the message's own fields")]
    fn sign_delivery(
        &self,
        py: Python<'_>,
        tx_id: Any<'_, '_>,
        result: Maybe<'_, '_>,
        result_hash: Maybe<'_, '_>,
        result_cid: Given<'_, '_>,
        eas_attestation_uid: Maybe<'_, '_>,
        delivered_at: Maybe<'_, '_>,
        nonce: Given<'_, '_>,
    ) -> Answer {
        let number = |field, value| {
            optional(value, |value| convert::number(field, value, Code::InvalidNumber))
        };
        let statement = DeliveryStatement {
            transaction_id: convert::transaction_id(tx_id)?,
            result_cid: cid(result_cid.get())?,
            result_hash: hash_of(py, result, result_hash)?,
            eas_attestation_uid: convert::bytes32_or_zero(
                "eas_attestation_uid",
                eas_attestation_uid,
            )?,
            delivered_at: number("delivered_at", delivered_at)?,
            nonce: number("nonce", nonce.get())?.unwrap_or(1),
        };
        let client = self.client.clone();
        let call = async move { client.sign_delivery(statement).await };
        run(py, self.style, Reads, call, |py, signed| {
            let message = serde_json::to_value(&signed).unwrap_or_default();
            Ok(json::to_python(py, &message)?.unbind())
        })
    }

    /// Attests a delivery of this client, the transaction's provider, on chain (EAS).
    ///
    /// Args:
    ///     tx_id: its id.
    ///     result: what was delivered, any JSON value; its canonical form is hashed.
    ///     result_hash: that hash, in place of the result.
    ///     result_cid: where the result lies (IPFS), "" for nowhere.
    ///     delivered_at: Unix seconds; the kernel's clock where None.
    ///
    /// Returns:
    ///     The attestation's UID, for sign_delivery and release.
    ///
    /// Raises:
    ///     NetworkError: the network has no attestation service, as mock has none (code
    ///         network_unavailable).
    ///     UnauthorizedError: this client is not the provider.
    ///     ValidationError: the client has no key (code key_missing), or an argument is wrong.
    ///
    /// Example:
    ///     >>> uid = client.advanced.attest_delivery(tx_id, result={"text": "a haiku"})
    ///
    /// Source: AIP-4.
    #[pyo3(
        signature = (tx_id, *, result=None, result_hash=None, result_cid=Given::LEFT_OUT,
            delivered_at=None),
        text_signature = "($self, tx_id, *, result=None, result_hash=None, result_cid='', \
            delivered_at=None)"
    )]
    fn attest_delivery(
        &self,
        py: Python<'_>,
        tx_id: Any<'_, '_>,
        result: Maybe<'_, '_>,
        result_hash: Maybe<'_, '_>,
        result_cid: Given<'_, '_>,
        delivered_at: Maybe<'_, '_>,
    ) -> Answer {
        let statement = DeliveryStatement {
            transaction_id: convert::transaction_id(tx_id)?,
            result_cid: cid(result_cid.get())?,
            result_hash: hash_of(py, result, result_hash)?,
            delivered_at: optional(delivered_at, |time| {
                convert::number("delivered_at", time, Code::InvalidNumber)
            })?,
            ..DeliveryStatement::default()
        };
        let client = self.client.clone();
        let call = async move { client.attest_delivery(statement).await };
        run(py, self.style, Moves, call, convert::hash)
    }

    /// Accepts a delivery and pays for it, if everything that is given proves it; else raises,
    /// and nothing is paid. The contract itself looks at no evidence when it settles.
    ///
    /// Args:
    ///     tx_id: a DELIVERED transaction, of which this client is requester.
    ///     deliverable: what was delivered, byte for byte; text as its UTF-8. It is compared with
    ///         `proof` and with the proof that was kept at delivery, one of which must be there.
    ///     proof: the delivery proof that came with it, as generate_delivery_proof made it.
    ///     signed: the provider's signed message, as sign_delivery made it. It must be of this
    ///         transaction, kernel and chain, between these parties, and signed by the provider.
    ///     result: what was delivered, any JSON value; its hash must be the one that was signed
    ///         or attested.
    ///     attestation: UID of the provider's EAS attestation. The one that `signed` names is
    ///         looked at unasked.
    ///
    /// Raises:
    ///     ValidationError: the evidence is of something else (code proof_mismatch; `field` and
    ///         `value` tell what), or there is none, or half of it (invalid_settings).
    ///     SignatureVerificationError: the provider did not sign that (invalid_signature), or did
    ///         not attest it (invalid_attestation).
    ///     InvalidStateTransitionError: it is not DELIVERED.
    ///     UnauthorizedError: this client is not the requester.
    ///     NetworkError: this network has no service to check the attestation with.
    ///
    /// Example:
    ///     >>> client.advanced.release(tx_id, signed=message, result={"text": "a haiku"})
    ///
    /// Source: AIP-4, `ACTPKernel.transitionState`.
    #[pyo3(
        signature = (tx_id, *, deliverable=None, proof=None, signed=None, result=None,
            attestation=None)
    )]
    #[expect(clippy::too_many_arguments, reason = "one for each kind of evidence")]
    fn release(
        &self,
        py: Python<'_>,
        tx_id: Any<'_, '_>,
        deliverable: Maybe<'_, '_>,
        proof: Maybe<'_, '_>,
        signed: Maybe<'_, '_>,
        result: Maybe<'_, '_>,
        attestation: Maybe<'_, '_>,
    ) -> Answer {
        let id = convert::transaction_id(tx_id)?;
        let verification = Verification {
            deliverable: optional(deliverable, |content| {
                Ok(convert::content("deliverable", content)?.into_owned())
            })?,
            proof: optional(proof, convert::proof)?,
            signed: optional(signed, |message| {
                SignedDelivery::from_json(&json::from_python("signed", message)?).or_raise(py)
            })?,
            result: optional(result, |result| json::from_python("result", result))?,
            attestation: optional(attestation, |uid| convert::bytes32("attestation", uid))?,
        };
        let client = self.client.clone();
        let call = async move { client.release(id, &verification).await };
        run(py, self.style, Moves, call, convert::nothing)
    }

    /// The kernel's clock, Unix seconds. In mode mock it runs ahead by what was advanced.
    ///
    /// Example:
    ///     >>> deadline = client.advanced.now() + 3600
    fn now(&self, py: Python<'_>) -> Answer {
        let client = self.client.clone();
        run(py, self.style, Glances, async move { client.now().await }, convert::plain)
    }

    fn __repr__(&self) -> String {
        format!("<Kernel {} {}>", self.client.network().name, self.client.address())
    }
}

fn role_of(value: Any<'_, '_>) -> PyResult<Role> {
    match convert::text(Code::InvalidSettings, "role", value)? {
        "requester" => Ok(Role::Requester),
        "provider" => Ok(Role::Provider),
        other => Err(convert::refuse(
            value.py(),
            Code::InvalidSettings,
            "role",
            other,
            "must be a role",
            "pass \"requester\", \"provider\" or None for both",
        )),
    }
}

fn cid(value: Maybe<'_, '_>) -> PyResult<String> {
    let text = optional(value, |cid| convert::text(Code::InvalidProof, "result_cid", cid))?;
    Ok(text.unwrap_or_default().to_owned())
}

fn hash_of(py: Python<'_>, result: Maybe<'_, '_>, hash: Maybe<'_, '_>) -> PyResult<B256> {
    match (result, hash) {
        (Some(_), Some(hash)) => Err(convert::refuse(
            py,
            Code::InvalidSettings,
            "result_hash",
            &hash.to_string(),
            "was passed beside result",
            "pass the result or its hash",
        )),
        (Some(result), None) => {
            let result = json::from_python("result", result)?;
            py.detach(|| canonical_json::result_hash(&result)).or_raise(py)
        }
        (None, hash) => convert::bytes32_or_zero("result_hash", hash),
    }
}

fn escrow_object(py: Python<'_>, escrow: Escrow) -> Answer {
    let dict = PyDict::new(py);
    dict.set_item("requester", convert::address_object(py, escrow.requester)?)?;
    dict.set_item("provider", convert::address_object(py, escrow.provider)?)?;
    dict.set_item("amount", escrow.amount.0)?;
    dict.set_item("released", escrow.released.0)?;
    dict.set_item("remaining", escrow.remaining().0)?;
    dict.set_item("active", escrow.active)?;
    Ok(dict.into_any().unbind())
}
