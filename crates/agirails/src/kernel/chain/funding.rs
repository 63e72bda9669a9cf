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
    kernel::errors::insufficient_balance,
    protocol::{Transaction, TransactionId, Usdc, money},
};

/// Gas for `linkEscrow` right behind its approval, before which it cannot be estimated: measured
/// 253,261, and what is not used is not paid.
const LINK_GAS: u64 = 400_000;
/// Gas for an approval, at least: where an allowance of another call is there now and gone when this
/// one is mined, it costs more than estimated. Measured 45,901 with a plain token.
const APPROVE_GAS: u64 = 90_000;
/// How often an allowance that is used up by others is looked at again.
const TRIES: u32 = 4;
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
    /// The transaction's amount, into this vault.
    Fund(Address),
    /// The bond, into the vault that the transaction was linked with.
    Bond,
}

impl Pull {
    fn amount(&self, transaction: &Transaction) -> Usdc {
        match self.purpose {
            Purpose::Fund(_) => transaction.amount,
            Purpose::Bond => {
                money::dispute_bond(transaction.amount, transaction.dispute_bond_bps_locked)
            }
        }
    }

    fn vault(&self, transaction: &Transaction) -> Address {
        match self.purpose {
            Purpose::Fund(vault) => vault,
            Purpose::Bond => transaction.escrow_contract,
        }
    }

    const fn most_gas(&self) -> u64 {
        match self.purpose {
            Purpose::Fund(_) => LINK_GAS,
            Purpose::Bond => DISPUTE_GAS,
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
    ) -> Result<()> {
        let call = kernel::linkEscrowCall {
            transactionId: id,
            escrowContract: vault,
            escrowId: escrow_id,
        };
        let (data, purpose) = (call.abi_encode().into(), Purpose::Fund(vault));
        self.pull(Pull { what: "linkEscrow", sender, id, data, purpose }).await.map(drop)
    }

    pub(super) async fn dispute(
        &self,
        sender: Address,
        id: TransactionId,
        call: &kernel::transitionStateCall,
    ) -> Result<()> {
        let (data, purpose) = (call.abi_encode().into(), Purpose::Bond);
        self.pull(Pull { what: "transitionState", sender, id, data, purpose }).await.map(drop)
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
        match self.sender.resume(alone).await {
            Ok(Some(mined)) => return Ok(mined),
            Ok(None) => {}
            // It moved nothing, and the allowance it counted on may just have been another's.
            Err(error) if error.code() == Code::Reverted => {
                tracing::debug!(%error, id = %pull.id, "the earlier call failed; looking anew");
            }
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
            Purpose::Fund(vault) => vault,
            Purpose::Bond => self.network.vault,
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
        let transaction = match (refused.code(), read_or_missing(transaction)?) {
            (Code::Reverted, Some(transaction)) => transaction,
            _ => return Err(self.tell(refused, id).await),
        };

        let (required, vault) = (pull.amount(&transaction), pull.vault(&transaction));
        let available = at_most(balance.decode::<token::balanceOfCall>()?);
        if available < required {
            return Err(insufficient_balance(&transaction, sender, required, available));
        }
        let allowed = if vault == guess {
            at_most(allowance.decode::<token::allowanceCall>()?)
        } else {
            let call = token::allowanceCall { owner: sender, spender: vault };
            at_most(self.reader.call(self.usdc(), &call).await?)
        };
        if allowed >= required && !is_busy {
            // The token has reasons of its own.
            return Err(self.about(refused, &transaction));
        }
        let approval = token::approveCall { spender: vault, amount: U256::from(required.0) };
        let approval = Operation {
            what: "approve",
            from: sender,
            to: self.network.usdc,
            data: approval.abi_encode().into(),
            gas: GasLimit::AtLeast(APPROVE_GAS),
        };
        Ok(vec![approval, operation(GasLimit::AtMost(pull.most_gas()))])
    }

    fn about(&self, error: Error, transaction: &Transaction) -> Error {
        error.with_facts(|facts| {
            facts.transaction_id = Some(transaction.id);
            facts.state = Some(transaction.state);
            facts.deadline = Some(transaction.deadline);
        })
    }
}
