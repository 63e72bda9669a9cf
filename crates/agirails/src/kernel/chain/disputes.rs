//! Disputes that bonds decide, on a chain (AIP-14c).
//!
//! The contract checks the money last, as the kernel does: a simulation tells whether anything else
//! stands in the way. It pulls whatever bond is due at that time, which may have doubled since it was
//! read. So it is allowed exactly the bond that was agreed to, and never more, also where an older
//! allowance would suffice: that one is replaced.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent};
use async_trait::async_trait;

use super::{
    ChainKernel, GasLimit, Mined, Operation,
    contracts::{self, Contract, at_most, bond_escalation as abi, token},
    funding::TRIES,
    lens::{self, Answer, Read},
    reader, reverts,
};
use crate::{
    error::{Code, Error, Result},
    kernel::{
        BondEscalation,
        errors::{contradiction, no_bond_escalation},
    },
    protocol::{
        Refusal, TransactionId, Usdc,
        disputes::{Dispute, Ruling, dispute_id},
    },
};

/// Gas for a ruling right behind its approval, before which it cannot be estimated: measured 181,430
/// on our own contract. What is not used is not paid.
const RULING_GAS: u64 = 500_000;
/// Words of the contract's `disputes`.
const VIEW_WORDS: usize = 13;

/// A ruling that is to be backed by a bond.
struct Backed {
    what: &'static str,
    sender: Address,
    id: TransactionId,
    data: Bytes,
    max_bond: Usdc,
}

impl ChainKernel {
    /// # Errors
    /// As [`crate::kernel::Kernel::bond_escalation`].
    pub(super) fn escalation(&self) -> Result<Contract> {
        let address = self.network.bond_escalation;
        match address.filter(|_| self.network.terms.escalates_disputes()) {
            Some(address) => Ok(Contract { role: "bond escalation", address }),
            None => Err(no_bond_escalation(&self.network)),
        }
    }

    fn read_dispute(escalation: Contract, id: TransactionId) -> Read {
        let call = abi::disputesCall { disputeId: dispute_id(id) };
        Read::new(escalation, &call, VIEW_WORDS)
    }

    /// A call of the contract about a dispute, which pays nothing in.
    async fn about_dispute(
        &self,
        sender: Address,
        what: &'static str,
        id: TransactionId,
        call: &impl SolCall,
    ) -> Result<Mined> {
        let escalation = self.escalation()?;
        self.require_wallet(sender)?;
        let answers = self.reader.read_many(&wiring(escalation)).await?;
        let [kernel, coin] = answers.as_slice() else { return Err(lens::strange()) };
        self.check_wiring(escalation, kernel, coin)?;
        match self.send(sender, what, escalation.address, call).await {
            Ok(mined) => Ok(mined),
            Err(error) => Err(self.tell_dispute(error, id).await),
        }
    }

    /// Sends a ruling behind an approval of its bond. Where somebody else came first, it is looked anew
    /// what stands and what the bond is, a few times.
    async fn back(&self, ruling: Backed) -> Result<Usdc> {
        let escalation = self.escalation()?;
        self.require_wallet(ruling.sender)?;
        let operation = |gas| Operation {
            what: ruling.what,
            from: ruling.sender,
            to: escalation.address,
            data: ruling.data.clone(),
            gas,
        };
        // Asked before anything is looked at: once the earlier call is mined, this one would be
        // refused as a repetition.
        match self.earlier_pull(operation(GasLimit::Estimate)).await {
            Ok(Some(mined)) => return self.paid(&mined, ruling.sender, escalation.address),
            Ok(None) => {}
            Err(error) => return Err(self.tell_dispute(error, ruling.id).await),
        }
        let mut tries = 1;
        loop {
            let operations = match self.missing_approval(&ruling, escalation).await? {
                None => vec![operation(GasLimit::Estimate)],
                Some(approval) => vec![approval, operation(GasLimit::AtMost(RULING_GAS))],
            };
            match self.send_all(operations).await {
                Ok(mined) => return self.paid(&mined, ruling.sender, escalation.address),
                Err(error) if error.code() == Code::Reverted && tries < TRIES => {
                    tracing::debug!(%error, id = %ruling.id, "looking at the bond again");
                    tries += 1;
                }
                Err(error) => return Err(self.tell_dispute(error, ruling.id).await),
            }
        }
    }

    /// The approval that a ruling needs before it, found out in one round trip; `None` where exactly
    /// its bond is allowed already.
    async fn missing_approval(
        &self,
        ruling: &Backed,
        escalation: Contract,
    ) -> Result<Option<Operation>> {
        let &Backed { sender, id, max_bond, ref data, .. } = ruling;
        let [of, in_coin] = wiring(escalation);
        let reads = [
            Self::read_dispute(escalation, id),
            of,
            in_coin,
            self.read_balance(sender),
            self.read_allowance(sender, escalation.address),
        ];
        let estimate = reader::estimate(sender, escalation.address, data);
        let (answers, estimate) = self.reader.read_beside(&reads, estimate).await?;
        let [dispute, kernel, coin, balance, allowance] = answers.as_slice() else {
            return Err(lens::strange());
        };
        self.check_wiring(escalation, kernel, coin)?;
        let refused = estimate.err().map(|refused| reverts::explain(&refused));
        if let Some(refused) = &refused
            && (refused.refusal().is_some() || refused.code() != Code::Reverted)
        {
            return Err(self.tell_dispute(refused.again(), id).await);
        }
        let dispute = read_or_missing(dispute, id)?;
        let Some(bond) = dispute.and_then(|dispute| dispute.next_bond()) else {
            let told = "the RPC endpoint says both that a ruling can be proposed and that none can";
            return Err(
                contradiction(told.to_owned()).with_facts(|facts| facts.transaction_id = Some(id))
            );
        };
        let allowed = at_most(allowance.decode::<token::allowanceCall>()?);
        if bond > max_bond {
            return Err(above_limit(id, bond, max_bond, allowed));
        }
        let available = at_most(balance.decode::<token::balanceOfCall>()?);
        if available < bond {
            return Err(cannot_pay(id, sender, bond, available));
        }
        // While something else is under way, an allowance that is there may be another call's.
        let is_allowed = allowed == bond && !self.sender.is_busy(sender).await?;
        match refused {
            // The token has reasons of its own.
            Some(refused) if is_allowed => {
                return Err(refused.with_facts(|facts| facts.transaction_id = Some(id)));
            }
            None if is_allowed => return Ok(None),
            _ => {}
        }
        Ok(Some(self.approval(sender, escalation.address, bond)))
    }

    /// Whether the contract decides this kernel's disputes, in this token: the profile may be wrong.
    fn check_wiring(&self, escalation: Contract, kernel: &Answer, coin: &Answer) -> Result<()> {
        kernel.require_contract()?;
        let address = escalation.address.to_string();
        let wrong = |problem: &str| {
            Error::invalid(Code::InvalidSettings, "bond_escalation", &address, problem).with_hint(
                "check contracts.bondEscalation in the network profile: it may be another \
                 deployment's; nothing was sent",
            )
        };
        let named = [
            ("kernel", kernel.decode::<abi::kernelCall>(), self.network.kernel),
            ("USDC token", coin.decode::<abi::USDCCall>(), self.network.usdc),
        ];
        for (what, named, own) in named {
            match named {
                Ok(named) if named == own => {}
                Ok(named) => {
                    let problem = format!("names another {what}, {named}; the network's is {own}");
                    return Err(wrong(&problem));
                }
                Err(error) => {
                    let problem = format!("is a contract that names no {what}");
                    return Err(wrong(&problem).with_source(error));
                }
            }
        }
        Ok(())
    }

    /// What left the sender for the contract.
    ///
    /// # Errors
    /// [`Code::InvalidAnswer`] where the receipt shows nothing of the kind.
    fn paid(&self, mined: &Mined, sender: Address, escalation: Address) -> Result<Usdc> {
        let bond = self.moved(mined, sender, escalation);
        if bond > Usdc::ZERO {
            return Ok(bond);
        }
        let message = format!("the receipt of {} shows no bond that was paid", mined.hash);
        Err(Error::new(Code::InvalidAnswer, message)
            .with_hint("read where the dispute stands before you propose again")
            .with_facts(|facts| facts.transaction_hash = Some(mined.hash)))
    }

    /// How much USDC went from one address to another in a chain transaction.
    fn moved(&self, mined: &Mined, from: Address, to: Address) -> Usdc {
        let transfers = mined
            .logs
            .iter()
            .filter(|log| log.address() == self.network.usdc)
            .filter_map(|log| token::Transfer::decode_log_data(log.data()).ok())
            .filter(|transfer| (transfer.from, transfer.to) == (from, to));
        let sum = transfers.fold(U256::ZERO, |sum, transfer| sum.saturating_add(transfer.value));
        at_most(sum)
    }

    /// The same error with what it speaks of: the dispute, read anew after a refusal.
    async fn tell_dispute(&self, error: Error, id: TransactionId) -> Error {
        let words = error.refusal().filter(|refusal| Refusal::DISPUTES.contains(refusal));
        let refusal = match words {
            // The transaction's state tells more.
            None | Some(Refusal::NotInDisputedState) => return self.tell(error, id).await,
            Some(refusal) => refusal,
        };
        let sent = error.sent();
        // The refusal tells more than that it could not be looked into.
        let dispute = self.get_dispute(id).await.ok().flatten();
        refused(refusal, id, dispute.as_ref()).with_sent(sent)
    }
}

/// Which kernel and which token the contract names.
fn wiring(escalation: Contract) -> [Read; 2] {
    [Read::new(escalation, &abi::kernelCall {}, 1), Read::new(escalation, &abi::USDCCall {}, 1)]
}

/// The refusal, and what of the dispute explains it.
fn refused(refusal: Refusal, id: TransactionId, dispute: Option<&Dispute>) -> Error {
    let mut message = format!("{refusal}: the dispute about transaction {id}");
    let mut time = None;
    if let Some(dispute) = dispute {
        let ruling = dispute.ruling.map_or_else(|| "none".to_owned(), |ruling| ruling.to_string());
        match refusal {
            Refusal::LivenessActive => {
                time = dispute.finalized_from();
                let from = dispute.liveness_end.saturating_add(1);
                message += &format!(" can be finalized from {from} on; its ruling is: {ruling}");
            }
            Refusal::LivenessExpired => {
                time = Some(dispute.liveness_end);
                let end = dispute.liveness_end;
                message += &format!(" could be challenged until {end}; its ruling is: {ruling}");
            }
            Refusal::NotStale => {
                time = dispute.stale_from();
                if let Some(from) = time {
                    message += &format!(" is stale from {from} on");
                }
            }
            Refusal::DisputeResolved | Refusal::NotASplit => {
                message += &format!(" ended with the ruling: {ruling}");
            }
            Refusal::RulingProposed | Refusal::SameRuling => {
                let bond = dispute.bond;
                message += &format!(" has the ruling: {ruling}, with a bond of {bond} USDC");
            }
            _ => {}
        }
    }
    Error::new(Code::Refused(refusal), message).with_facts(|facts| {
        facts.transaction_id = Some(id);
        facts.value = time.map(|time| time.to_string());
    })
}

/// The bond is more than was agreed to.
fn above_limit(id: TransactionId, bond: Usdc, max_bond: Usdc, allowed: Usdc) -> Error {
    let message = format!("the ruling takes a bond of {bond} USDC, and max_bond is {max_bond}");
    let mut hint =
        "the bond is lost if another ruling is carried out, and somebody may have raised \
                    it just now: pass it as max_bond if the dispute is worth it; nothing was paid"
            .to_owned();
    if allowed > Usdc::ZERO {
        hint += &format!(
            "; the contract may still take {allowed} USDC, for rulings of this address alone, until \
             the next one replaces that"
        );
    }
    Error::new(Code::PriceAboveLimit, message).with_hint(hint).with_facts(|facts| {
        facts.transaction_id = Some(id);
        facts.field = Some("max_bond");
        facts.required = Some(bond);
        facts.available = Some(max_bond);
    })
}

fn cannot_pay(id: TransactionId, owner: Address, required: Usdc, available: Usdc) -> Error {
    let message = format!("{owner} owns {available} USDC, the bond is {required}");
    Error::new(Code::InsufficientBalance, message)
        .with_hint("add USDC to this address; nothing was sent")
        .with_facts(|facts| {
            facts.transaction_id = Some(id);
            facts.required = Some(required);
            facts.available = Some(available);
        })
}

/// `None` where no dispute was opened about the transaction.
fn read_or_missing(answer: &Answer, id: TransactionId) -> Result<Option<Dispute>> {
    let dispute = contracts::dispute(answer.decode::<abi::disputesCall>()?)?;
    match dispute {
        Some(dispute) if dispute.transaction_id != id => {
            let told = dispute.transaction_id;
            Err(contradiction(format!(
                "asked about the dispute about transaction {id}, the RPC endpoint answers about {told}"
            )))
        }
        dispute => Ok(dispute),
    }
}

#[async_trait]
impl BondEscalation for ChainKernel {
    /// Confirmed by as many nodes as the setting `agree` says: whoever is told that the ruling it wants
    /// stands does not challenge.
    async fn get_dispute(&self, id: TransactionId) -> Result<Option<Dispute>> {
        let read = Self::read_dispute(self.escalation()?, id);
        if self.agree < 2 {
            return read_or_missing(&self.reader.read(&read).await?, id);
        }
        let same = |one: &Answer, other: &Answer| {
            let views = (read_or_missing(one, id), read_or_missing(other, id));
            matches!(views, (Ok(one), Ok(other)) if one == other)
        };
        match self.reader.read_agreed(&read, self.agree, same).await? {
            Ok(answer) => read_or_missing(&answer, id),
            Err(answers) => {
                let endpoints: Vec<_> = answers.into_iter().map(|(endpoint, _)| endpoint).collect();
                Err(contradiction(format!(
                    "the RPC endpoints disagree about the dispute about transaction {id}: {}",
                    endpoints.join(", ")
                ))
                .with_facts(|facts| facts.transaction_id = Some(id)))
            }
        }
    }

    async fn open_dispute(&self, sender: Address, id: TransactionId) -> Result<B256> {
        let call = abi::openDisputeCall { txId: id };
        self.about_dispute(sender, "openDispute", id, &call).await?;
        Ok(dispute_id(id))
    }

    async fn propose_ruling(
        &self,
        sender: Address,
        id: TransactionId,
        ruling: Ruling,
        max_bond: Usdc,
    ) -> Result<Usdc> {
        let (number, split) = ruling.to_contract();
        let call =
            abi::proposeDirectlyCall { disputeId: dispute_id(id), ruling: number, splitBps: split };
        let data = call.abi_encode().into();
        self.back(Backed { what: "proposeDirectly", sender, id, data, max_bond }).await
    }

    async fn challenge_ruling(
        &self,
        sender: Address,
        id: TransactionId,
        ruling: Ruling,
        max_bond: Usdc,
    ) -> Result<Usdc> {
        let (number, split) = ruling.to_contract();
        let call = abi::challengeCall {
            disputeId: dispute_id(id),
            counterRuling: number,
            counterSplitBps: split,
        };
        let data = call.abi_encode().into();
        self.back(Backed { what: "challenge", sender, id, data, max_bond }).await
    }

    async fn finalize_dispute(&self, sender: Address, id: TransactionId) -> Result<Usdc> {
        let call = abi::finalizeCall { disputeId: dispute_id(id) };
        let mined = self.about_dispute(sender, "finalize", id, &call).await?;
        Ok(self.moved(&mined, self.escalation()?.address, sender))
    }

    async fn claim_bonds(&self, sender: Address, id: TransactionId) -> Result<Usdc> {
        let call = abi::claimEscalationRefundCall { disputeId: dispute_id(id) };
        let mined = self.about_dispute(sender, "claimEscalationRefund", id, &call).await?;
        Ok(self.moved(&mined, self.escalation()?.address, sender))
    }

    async fn resolve_stale_dispute(&self, sender: Address, id: TransactionId) -> Result<()> {
        let call = abi::forceResolveStaleCall { disputeId: dispute_id(id) };
        self.about_dispute(sender, "forceResolveStale", id, &call).await.map(drop)
    }

    async fn sync_resolved_dispute(&self, sender: Address, id: TransactionId) -> Result<()> {
        let call = abi::syncExternalResolutionCall { disputeId: dispute_id(id) };
        self.about_dispute(sender, "syncExternalResolution", id, &call).await.map(drop)
    }
}
