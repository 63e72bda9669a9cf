//! The books: accounts, transactions, events, and how an accepted call changes them.

use alloy_primitives::{Address, B256, hex};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    MAX_SUPPLY,
    rows::{self, Stored, unless_zero},
    too_much,
};
use crate::{
    error::{Code, Error},
    kernel::errors::{insufficient_balance, missing},
    network::Network,
    protocol::{
        Event, Refusal, Terms, Transaction, TransactionId, Usdc,
        money::archive_share,
        proof::DeliveryProof,
        registry::reputation,
        rules::{Call, Effect, MEDIATOR_APPROVAL_DELAY_SECONDS, Move},
    },
    storage::{Attempt, Stop},
    wall_clock::wall_seconds,
};

/// One USDC account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) balance: Usdc,
    pub(super) allowance: Usdc,
    nonce: u64,
}

/// What there is once per file.
pub(super) struct Globals {
    pub(super) clock_offset: u64,
    paused: bool,
    pub(super) starting_balance: Usdc,
    minted: Usdc,
}

/// A new file: the protocol's own accounts own nothing.
pub(super) fn fill(
    connection: &Connection,
    network: &Network,
    terms: Terms,
    starting_balance: Usdc,
) -> Attempt<()> {
    let grace = terms.recovery_grace_seconds().unwrap_or_default();
    connection.execute(
        "INSERT INTO kernel VALUES (1, 0, 0, ?1, 0, randomblob(16), ?2, ?3)",
        params![starting_balance.0 as i64, terms.generation().as_str(), grace as i64],
    )?;
    let own = [
        Some(network.vault),
        Some(network.admin),
        Some(network.fee_recipient),
        network.archive_treasury,
    ];
    for address in own.into_iter().flatten() {
        connection.execute(
            "INSERT INTO accounts (address, balance) VALUES (?1, 0)",
            [address.as_slice()],
        )?;
    }
    Ok(())
}

pub(super) fn globals(connection: &Connection) -> Attempt<Globals> {
    let sql = "SELECT clock_offset, paused, starting_balance, minted FROM kernel";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([], |row| {
        Ok(Globals {
            clock_offset: rows::number(row, 0)?,
            paused: row.get(1)?,
            starting_balance: rows::usdc(row, 2)?,
            minted: rows::usdc(row, 3)?,
        })
    })?)
}

pub(super) fn id(connection: &Connection) -> Attempt<String> {
    let sql = "SELECT ledger_id FROM kernel";
    let id = connection.query_row(sql, [], |row| row.get::<_, Vec<u8>>(0))?;
    Ok(hex::encode(id))
}

pub(super) fn terms(connection: &Connection) -> Attempt<Terms> {
    let sql = "SELECT generation, recovery_grace FROM kernel";
    let (name, grace) = connection
        .query_row(sql, [], |row| Ok((row.get::<_, String>(0)?, rows::number(row, 1)?)))?;
    let generation = name.parse().map_err(|error| {
        Error::new(Code::StorageDamaged, "the state file names no generation that is known")
            .with_source(error)
    })?;
    Ok(Terms::new(generation, grace))
}

pub(super) fn account(connection: &Connection, address: Address) -> Attempt<Option<Account>> {
    let sql = "SELECT balance, allowance, nonce FROM accounts WHERE address = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([address.as_slice()], |row| {
        Ok(Account {
            balance: rows::usdc(row, 0)?,
            allowance: rows::usdc(row, 1)?,
            nonce: rows::number(row, 2)?,
        })
    });
    Ok(found.optional()?)
}

/// The file inside a write transaction, at one moment of the kernel's clock.
pub(super) struct Books<'a> {
    pub(super) connection: &'a Connection,
    network: &'a Network,
    globals: Globals,
    pub(super) now: u64,
}

impl<'a> Books<'a> {
    pub(super) fn open(connection: &'a Connection, network: &'a Network) -> Attempt<Self> {
        let globals = globals(connection)?;
        let now = wall_seconds() + globals.clock_offset;
        Ok(Self { connection, network, globals, now })
    }

    pub(super) fn clock_offset(&self) -> u64 {
        self.globals.clock_offset
    }

    pub(super) fn is_paused(&self) -> bool {
        self.globals.paused
    }

    pub(super) fn require_running(&self) -> Attempt<()> {
        if self.globals.paused { Err(Refusal::KernelPaused.into()) } else { Ok(()) }
    }

    pub(super) fn set_clock_offset(&self, offset: u64) -> Attempt<()> {
        self.run("UPDATE kernel SET clock_offset = ?1", params![offset as i64])
    }

    pub(super) fn set_paused(&self, paused: bool) -> Attempt<()> {
        self.run("UPDATE kernel SET paused = ?1", params![paused])
    }

    pub(super) fn approve_mediator(&self, mediator: Address) -> Attempt<()> {
        self.run(
            "INSERT OR IGNORE INTO mediators VALUES (?1, ?2)",
            params![mediator.as_slice(), (self.now + MEDIATOR_APPROVAL_DELAY_SECONDS) as i64],
        )
    }

    pub(super) fn mediators(&self) -> Attempt<Vec<(Address, u64)>> {
        let mut statement =
            self.connection.prepare_cached("SELECT address, payable_from FROM mediators")?;
        let found =
            statement.query_map([], |row| Ok((rows::address(row, 0)?, rows::number(row, 1)?)))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    // Accounts.

    pub(super) fn greet(&self, address: Address) -> Attempt<()> {
        let start = self.globals.starting_balance;
        let sql = "INSERT OR IGNORE INTO accounts (address, balance) VALUES (?1, ?2)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let is_new = statement.execute(params![address.as_slice(), start.0 as i64])? == 1;
        if is_new { self.count_minted(start) } else { Ok(()) }
    }

    pub(super) fn mint(&self, address: Address, amount: Usdc) -> Attempt<()> {
        self.count_minted(amount)?;
        self.credit(address, amount)
    }

    fn count_minted(&self, amount: Usdc) -> Attempt<()> {
        // Read anew: greeting may have counted already.
        let minted = globals(self.connection)?.minted;
        let supply = minted.checked_add(amount).filter(|supply| *supply <= MAX_SUPPLY);
        let supply = supply.ok_or_else(|| too_much("amount", amount))?;
        self.run("UPDATE kernel SET minted = ?1", params![supply.0 as i64])
    }

    pub(super) fn nonce(&self, address: Address) -> Attempt<u64> {
        Ok(account(self.connection, address)?.map_or(0, |account| account.nonce))
    }

    pub(super) fn set_allowance(&self, owner: Address, amount: Usdc) -> Attempt<()> {
        self.run(
            "UPDATE accounts SET allowance = ?2 WHERE address = ?1",
            params![owner.as_slice(), amount.0 as i64],
        )
    }

    /// Into the vault, with the allowance raised by exactly what it lacks before.
    fn pull_into_vault(&self, stored: &Stored, owner: Address, amount: Usdc) -> Attempt<()> {
        if owner == self.network.vault {
            // On a chain nobody holds its key; here its balance is other people's escrows.
            return Err(Error::invalid(
                Code::InvalidAddress,
                "sender",
                &owner.to_string(),
                "is the vault",
            )
            .with_hint("act for an address of your own")
            .into());
        }
        let account = account(self.connection, owner)?;
        let (balance, allowance) = account
            .map_or((Usdc::ZERO, Usdc::ZERO), |account| (account.balance, account.allowance));
        let Some(rest) = balance.checked_sub(amount) else {
            return Err(insufficient_balance(&stored.transaction, owner, amount, balance).into());
        };
        let allowance = allowance.checked_sub(amount).unwrap_or(Usdc::ZERO);
        self.run(
            "UPDATE accounts SET balance = ?2, allowance = ?3 WHERE address = ?1",
            params![owner.as_slice(), rest.0 as i64, allowance.0 as i64],
        )?;
        self.credit(self.network.vault, amount)
    }

    fn pay_from_vault(&self, to: Address, amount: Usdc) -> Attempt<()> {
        if amount == Usdc::ZERO {
            return Ok(());
        }
        self.run(
            "UPDATE accounts SET balance = balance - ?2 WHERE address = ?1",
            params![self.network.vault.as_slice(), amount.0 as i64],
        )?;
        self.credit(to, amount)
    }

    fn credit(&self, address: Address, amount: Usdc) -> Attempt<()> {
        self.run(
            "UPDATE accounts SET balance = balance + ?2 WHERE address = ?1",
            params![address.as_slice(), amount.0 as i64],
        )
    }

    // Transactions.

    pub(super) fn transaction(&self, id: TransactionId) -> Attempt<Stored> {
        Ok(rows::find(self.connection, id)?.ok_or_else(|| missing(id))?)
    }

    pub(super) fn judge(
        &self,
        stored: &Stored,
        sender: Address,
        rule: impl FnOnce(Call<'_>) -> Result<Effect, Refusal>,
    ) -> Attempt<Effect> {
        let Stored { transaction, remaining, .. } = stored;
        let (now, terms) = (self.now, self.network.terms);
        rule(Call { transaction, sender, now, remaining: *remaining, terms })
            .map_err(|refusal| Error::refused(refusal, Some(transaction)).into())
    }

    pub(super) fn create(&self, tx: &Transaction) -> Attempt<()> {
        self.run(
            "UPDATE accounts SET nonce = nonce + 1 WHERE address = ?1",
            params![tx.requester.as_slice()],
        )?;
        self.run(
            "INSERT INTO transactions (id, requester, provider, state, amount, created_at, updated_at, \
             deadline, service_hash, dispute_window, platform_fee_bps, requester_penalty_bps, \
             dispute_bond_bps, agent_id, requester_agent_id, dispute_bond, remaining, agreement_hash) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0, 0, ?16)",
            params![
                tx.id.as_slice(),
                tx.requester.as_slice(),
                tx.provider.as_slice(),
                tx.state as u8,
                tx.amount.0 as i64,
                tx.created_at as i64,
                tx.updated_at as i64,
                tx.deadline as i64,
                unless_zero(tx.service_hash.as_slice()),
                tx.dispute_window.to_contract() as i64,
                tx.platform_fee_bps_locked,
                tx.requester_penalty_bps_locked,
                tx.dispute_bond_bps_locked,
                unless_zero(&tx.agent_id.to_be_bytes::<32>()),
                unless_zero(&tx.requester_agent_id.to_be_bytes::<32>()),
                unless_zero(tx.agreement_hash.as_slice()),
            ],
        )?;
        self.emit(&Event::TransactionCreated {
            transaction_id: tx.id,
            requester: tx.requester,
            provider: tx.provider,
            amount: tx.amount,
            service_hash: tx.service_hash,
            deadline: tx.deadline,
            timestamp: self.now,
            agent_id: tx.agent_id,
            agreement_hash: tx.agreement_hash,
        })
    }

    /// By convention an escrow carries its transaction's id; all other ids have a row of their own.
    pub(super) fn is_escrow_id_used(
        &self,
        escrow_id: B256,
        linking: Option<&Stored>,
    ) -> Attempt<bool> {
        let carries = |stored: &Stored| stored.transaction.escrow_id == escrow_id;
        let used_by_owner = match linking {
            Some(stored) if stored.transaction.id == escrow_id => carries(stored),
            _ => rows::find(self.connection, escrow_id)?.as_ref().is_some_and(carries),
        };
        let mut statement =
            self.connection.prepare_cached("SELECT 1 FROM escrow_ids WHERE escrow_id = ?1")?;
        Ok(used_by_owner || statement.exists([escrow_id.as_slice()])?)
    }

    pub(super) fn use_escrow_id(&self, escrow_id: B256) -> Attempt<()> {
        self.run("INSERT INTO escrow_ids VALUES (?1)", params![escrow_id.as_slice()])
    }

    pub(super) fn keep_proof(&self, stored: &Stored, proof: &DeliveryProof) -> Attempt<()> {
        let json = to_json(proof)?;
        self.run(
            "INSERT OR REPLACE INTO delivery_proofs VALUES (?1, ?2)",
            params![stored.seq, json],
        )
    }

    /// Writes what an accepted call changes, and announces it in the contract's order.
    pub(super) fn apply(&self, stored: &Stored, effect: &Effect, sender: Address) -> Attempt<()> {
        let (before, after) = (&stored.transaction, &effect.transaction);
        let transaction_id = after.id;
        if before.state != after.state {
            self.emit(&Event::StateTransitioned {
                transaction_id,
                old_state: before.state,
                new_state: after.state,
                triggered_by: sender,
                timestamp: self.now,
            })?;
        }
        if let Some(at_fault) = effect.settled_at_fault {
            self.remember(after, at_fault)?;
        }
        let mut remaining = stored.remaining;
        for step in &effect.moves {
            remaining = self.carry_out(stored, after, *step, remaining)?;
        }
        self.run(
            "UPDATE transactions SET state = ?2, amount = ?3, updated_at = ?4, escrow_contract = ?5, \
             escrow_id = ?6, attestation_uid = ?7, dispute_window = ?8, metadata = ?9, \
             platform_fee_bps = ?10, dispute_initiator = ?11, dispute_bond = ?12, remaining = ?13, \
             result_hash = ?14 WHERE seq = ?1",
            params![
                stored.seq,
                after.state as u8,
                after.amount.0 as i64,
                after.updated_at as i64,
                unless_zero(after.escrow_contract.as_slice()),
                unless_zero(after.escrow_id.as_slice()),
                unless_zero(after.attestation_uid.as_slice()),
                after.dispute_window.to_contract() as i64,
                unless_zero(after.metadata.as_slice()),
                after.platform_fee_bps_locked,
                unless_zero(after.dispute_initiator.as_slice()),
                after.dispute_bond.0 as i64,
                remaining.0 as i64,
                unless_zero(after.result_hash.as_slice()),
            ],
        )
    }

    /// One movement of money; returns what is left in escrow.
    fn carry_out(
        &self,
        stored: &Stored,
        tx: &Transaction,
        step: Move,
        remaining: Usdc,
    ) -> Attempt<Usdc> {
        let (transaction_id, timestamp) = (tx.id, self.now);
        let out = match step {
            Move::Fund(amount) => {
                self.pull_into_vault(stored, tx.requester, amount)?;
                return Ok(amount);
            }
            Move::PayProvider(paid) => {
                if paid.net > Usdc::ZERO {
                    let (recipient, amount) = (tx.provider, paid.net);
                    self.pay_from_vault(recipient, amount)?;
                    self.emit(&Event::EscrowReleased {
                        transaction_id,
                        recipient,
                        amount,
                        timestamp,
                    })?;
                }
                let archived = match self.network.archive_treasury {
                    Some(treasury) => {
                        let share = archive_share(paid.fee);
                        self.pay_from_vault(treasury, share)?;
                        share
                    }
                    None => Usdc::ZERO,
                };
                let recipient = self.network.fee_recipient;
                let amount = Usdc(paid.fee.0 - archived.0);
                self.pay_from_vault(recipient, amount)?;
                self.emit(&Event::PlatformFeeAccrued {
                    transaction_id,
                    recipient,
                    amount,
                    timestamp,
                })?;
                Usdc(paid.net.0 + paid.fee.0)
            }
            Move::Refund(amount) => {
                let recipient = tx.requester;
                self.pay_from_vault(recipient, amount)?;
                self.emit(&Event::EscrowRefunded { transaction_id, recipient, amount, timestamp })?;
                amount
            }
            Move::Recover(amount) => {
                let requester = tx.requester;
                self.emit(&Event::StalledInProgressRecovered {
                    transaction_id,
                    requester,
                    amount,
                })?;
                if amount > Usdc::ZERO {
                    return self.carry_out(stored, tx, Move::Refund(amount), remaining);
                }
                amount
            }
            Move::PayMediator(recipient, amount) => {
                self.pay_from_vault(recipient, amount)?;
                self.emit(&Event::EscrowMediatorPaid {
                    transaction_id,
                    recipient,
                    amount,
                    timestamp,
                })?;
                amount
            }
            Move::DepositBond(initiator, bond) => {
                self.pull_into_vault(stored, initiator, bond)?;
                self.emit(&Event::DisputeOpened { transaction_id, initiator, bond, timestamp })?;
                Usdc::ZERO
            }
            Move::ReleaseBond { to, bond, provider_at_fault } => {
                self.pay_from_vault(to, bond)?;
                self.emit(&Event::DisputeResolved {
                    transaction_id,
                    dispute_id: B256::ZERO,
                    initiator: tx.dispute_initiator,
                    provider_at_fault,
                    bond,
                    timestamp,
                })?;
                Usdc::ZERO
            }
        };
        Ok(Usdc(remaining.0 - out.0))
    }

    /// The provider's reputation, if it is registered.
    fn remember(&self, tx: &Transaction, at_fault: bool) -> Attempt<()> {
        let sql = "SELECT total, disputed, volume FROM agents WHERE address = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let record = statement.query_row([tx.provider.as_slice()], |row| {
            Ok((rows::number(row, 0)?, rows::number(row, 1)?, rows::usdc(row, 2)?))
        });
        let Some((total, disputed, volume)) = record.optional()? else { return Ok(()) };
        let (total, disputed) = (total + 1, disputed + u64::from(at_fault));
        let volume = Usdc(volume.0.saturating_add(tx.amount.0).min(MAX_SUPPLY.0));
        self.run(
            "UPDATE agents SET total = ?2, disputed = ?3, volume = ?4, reputation = ?5, updated_at = ?6 \
             WHERE address = ?1",
            params![
                tx.provider.as_slice(),
                total as i64,
                disputed as i64,
                volume.0 as i64,
                reputation(total, disputed, volume) as i64,
                self.now as i64
            ],
        )
    }

    pub(super) fn emit(&self, event: &Event) -> Attempt<()> {
        self.run("INSERT INTO events (event) VALUES (?1)", params![to_json(event)?])
    }

    pub(super) fn run(&self, sql: &str, params: impl rusqlite::Params) -> Attempt<()> {
        self.connection.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Attempt<String> {
    serde_json::to_string(value)
        .map_err(|error| Stop::Failed(Error::new(Code::InvalidJson, error.to_string())))
}
