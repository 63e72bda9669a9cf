//! What the vault pulls from somebody's account: the amount of a linked transaction, and the bond of
//! a dispute.
//!
//! The kernel checks the money last. So a simulation without an allowance tells whether anything
//! else stands in the way, and only then is the allowance given, together with the call that uses it.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;

use super::{
    ChainKernel, GasLimit, Mined, Operation,
    contracts::{at_most, kernel, token},
    lens, read_or_missing, reader, reverts,
};
use crate::{
    error::{Code, Error, Result},
    kernel::{
        GasCost,
        errors::{contradiction, insufficient_balance},
    },
    protocol::{Transaction, TransactionId, Usdc, money},
};

/// Gas for `linkEscrow` right behind its approval, before which it cannot be estimated: measured
/// 253,261, and what is not used is not paid.
const LINK_GAS: u64 = 400_000;
/// Gas for an approval, at least: where an allowance of another call is there now and gone when this
/// one is mined, it costs more than estimated. Measured 45,901 with a plain token.
const APPROVE_GAS: u64 = 90_000;
/// The greatest share of its amount that a dispute's bond can be (`MAX_DISPUTE_BOND_BPS`).
const MAX_DISPUTE_BOND_BPS: u16 = 2_000;
/// How often it is looked again where others came first.
pub(super) const TRIES: u32 = 4;
/// The same for a dispute: measured 147,567.
const DISPUTE_GAS: u64 = 300_000;

/// A call of the kernel for which a vault pulls money.
struct Pull {
    what: &'static str,
    sender: Address,
    id: TransactionId,
    data: Bytes,
    purpose: Purpose,
}

#[derive(Clone, Copy)]
enum Purpose {
    /// The transaction's amount, into this vault; at most this much, where that is known.
    Fund { vault: Address, most: Option<Usdc> },
    /// The bond, into the vault that the transaction was linked with; at most this much.
    Bond { most: Option<Usdc> },
}

impl Pull {
    fn amount(&self, transaction: &Transaction) -> Usdc {
        match self.purpose {
            Purpose::Fund { .. } => transaction.amount,
            Purpose::Bond { .. } => {
                money::dispute_bond(transaction.amount, transaction.dispute_bond_bps_locked)
            }
        }
    }

    fn vault(&self, transaction: &Transaction) -> Address {
        match self.purpose {
            Purpose::Fund { vault, .. } => vault,
            Purpose::Bond { .. } => transaction.escrow_contract,
        }
    }

    const fn most_gas(&self) -> u64 {
        match self.purpose {
            Purpose::Fund { .. } => LINK_GAS,
            Purpose::Bond { .. } => DISPUTE_GAS,
        }
    }
}

impl ChainKernel {
    pub(super) async fn link(
        &self,
        sender: Address,
        id: TransactionId,
        vault: Address,
        escrow_id: B256,
        most: Option<Usdc>,
    ) -> Result<()> {
        let call = kernel::linkEscrowCall {
            transactionId: id,
            escrowContract: vault,
            escrowId: escrow_id,
        };
        let (data, purpose) = (call.abi_encode().into(), Purpose::Fund { vault, most });
        self.pull(Pull { what: "linkEscrow", sender, id, data, purpose }).await.map(drop)
    }

    /// Without a limit to the bond, the greatest share of the amount that a kernel can ask for is
    /// one.
    pub(super) async fn dispute_with(
        &self,
        sender: Address,
        id: TransactionId,
        call: &kernel::transitionStateCall,
        most: Option<Usdc>,
    ) -> Result<GasCost> {
        let (data, purpose) = (call.abi_encode().into(), Purpose::Bond { most });
        let pull = Pull { what: "transitionState", sender, id, data, purpose };
        Ok(self.pull(pull).await?.gas_cost)
    }

    /// What became of an earlier send of this call; `None` where there is none, and where it failed. Then
    /// it moved nothing, and what it counted on may just have been another's.
    pub(super) async fn earlier_pull(&self, operation: Operation) -> Result<Option<Mined>> {
        match self.sender.resume(operation).await {
            Err(error) if error.code() == Code::Reverted => {
                tracing::debug!(%error, "the earlier call failed; looking anew");
                Ok(None)
            }
            found => found,
        }
    }

    /// Lets a contract take exactly so much of the sender's USDC.
    pub(super) fn approval(&self, sender: Address, spender: Address, amount: Usdc) -> Operation {
        let approval = token::approveCall { spender, amount: U256::from(amount.0) };
        Operation {
            what: "approve",
            from: sender,
            to: self.network.usdc,
            data: approval.abi_encode().into(),
            gas: GasLimit::AtLeast(APPROVE_GAS),
        }
    }

    /// Makes the call alone where the allowance suffices, else behind an approval of exactly its
    /// amount. A call of another process may use an allowance up in between: then it is looked at
    /// anew, a few times.
    async fn pull(&self, pull: Pull) -> Result<Mined> {
        self.require_wallet(pull.sender)?;
        // Asked before anything is looked at: once the earlier call is mined, this one would be
        // refused as a repetition.
        let alone = Operation {
            what: pull.what,
            from: pull.sender,
            to: self.network.kernel,
            data: pull.data.clone(),
            gas: GasLimit::Estimate,
        };
        match self.earlier_pull(alone).await {
            Ok(Some(mined)) => return Ok(mined),
            Ok(None) => {}
            Err(error) => return Err(self.tell(error, pull.id).await),
        }
        let mut tries = 1;
        loop {
            let operations = self.prepare(&pull).await?;
            let is_alone = operations.len() == 1;
            match self.send_all(operations).await {
                Ok(mined) => return Ok(mined),
                Err(error) if error.code() == Code::Reverted && is_alone && tries < TRIES => {
                    tracing::debug!(%error, id = %pull.id, "looking at the allowance again");
                    tries += 1;
                }
                Err(error) => return Err(self.tell(error, pull.id).await),
            }
        }
    }

    /// What to send, found out in one round trip.
    async fn prepare(&self, pull: &Pull) -> Result<Vec<Operation>> {
        let &Pull { what, sender, id, ref data, purpose } = pull;
        let kernel = self.network.kernel;
        let guess = match purpose {
            Purpose::Fund { vault, .. } => vault,
            Purpose::Bond { .. } => self.network.vault,
        };
        let reads = [
            self.read_transaction(id),
            self.read_balance(sender),
            self.read_allowance(sender, guess),
        ];
        let estimate = reader::estimate(sender, kernel, data);
        let (answers, estimate) = self.reader.read_beside(&reads, estimate).await?;
        let [transaction, balance, allowance] = answers.as_slice() else {
            return Err(lens::strange());
        };
        let operation = |gas| Operation { what, from: sender, to: kernel, data: data.clone(), gas };
        // While something else is under way, an allowance that is there may be another call's.
        let is_busy = self.sender.is_busy(sender).await?;
        let refused = match estimate {
            Ok(_) if !is_busy => return Ok(vec![operation(GasLimit::Estimate)]),
            Ok(_) => Error::new(Code::Reverted, "the allowance is another call's"),
            Err(refused) => reverts::explain(&refused),
        };
        if refused.refusal().is_some() {
            return Err(self.tell(refused, id).await);
        }
        let transaction =
            match (refused.code(), read_or_missing(transaction, self.network.terms, id)?) {
                (Code::Reverted, Some(transaction)) => transaction,
                _ => return Err(self.tell(refused, id).await),
            };

        let required = pull.amount(&transaction);
        self.check_agreed(pull, &transaction, required)?;
        let available = at_most(balance.decode::<token::balanceOfCall>()?);
        if available < required {
            return Err(insufficient_balance(&transaction, sender, required, available));
        }
        let allowed = at_most(allowance.decode::<token::allowanceCall>()?);
        if allowed >= required && !is_busy {
            // The token has reasons of its own.
            return Err(self.about(refused, &transaction));
        }
        let approval = self.approval(sender, self.network.vault, required);
        Ok(vec![approval, operation(GasLimit::AtMost(pull.most_gas()))])
    }

    /// Whether what the node says may be approved: by the network's vault alone, and no more than
    /// the caller agreed to. The node has been asked before, and whoever lies may wait for this.
    fn check_agreed(&self, pull: &Pull, transaction: &Transaction, required: Usdc) -> Result<()> {
        let (id, own) = (pull.id, self.network.vault);
        let vault = pull.vault(transaction);
        let (what, most) = match pull.purpose {
            Purpose::Fund { most, .. } => ("amount", most),
            Purpose::Bond { most } => {
                let share = transaction.dispute_bond_bps_locked.min(MAX_DISPUTE_BOND_BPS);
                let greatest = money::dispute_bond(transaction.amount, share);
                ("bond", Some(most.unwrap_or(greatest)))
            }
        };
        let told = match (pull.purpose, most) {
            (Purpose::Fund { .. }, _) if vault != own => {
                return Err(Error::invalid(
                    Code::InvalidSettings,
                    "escrow_contract",
                    &vault.to_string(),
                    &format!("must be the network's vault, {own}: only that one is approved"),
                )
                .with_hint("leave it out, or name this vault in the network profile's contracts"));
            }
            _ if vault != own => format!(
                "the RPC endpoint says that transaction {id} lies in the vault {vault}; the \
                 network's vault is {own}, and only that one is approved"
            ),
            (_, Some(most)) if required > most => format!(
                "the RPC endpoint says that the {what} of transaction {id} is {required} USDC, and \
                 at most {most} was agreed to"
            ),
            _ => return Ok(()),
        };
        Err(self.about(contradiction(told), transaction).with_facts(|facts| {
            facts.required = Some(required);
            facts.available = most;
        }))
    }

    fn about(&self, error: Error, transaction: &Transaction) -> Error {
        error.with_facts(|facts| {
            facts.transaction_id = Some(transaction.id);
            facts.state = Some(transaction.state);
            facts.deadline = Some(transaction.deadline);
        })
    }
}
