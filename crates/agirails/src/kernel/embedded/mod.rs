//! The kernel in a SQLite file on this machine: the deployed contracts' rules, balances, fees,
//! events and clock, without a chain. Mode `mock`.

mod ledger;
mod registry;
mod rows;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use self::{ledger::Books, rows::Stored};
use super::{
    AgentRegistry, Escrow, GasCost, Kernel, Role, TransactionQuery, Transition,
    errors::{check_agreement, check_limit, missing, refused_creation, require_recovery},
};
use crate::{
    error::{Code, Error, Result},
    fork,
    network::Network,
    protocol::{
        CreateTransaction, Event, EventRecord, Generation, LinkEscrow, State, Terms, Transaction,
        TransactionId, Usdc,
        proof::DeliveryProof,
        rules::{self, Arbiters, Call, Rates},
    },
    storage::{self, Attempt, Format, Storage, Store},
    wall_clock::wall_seconds,
};

/// The state file of this kernel ("actp" in its header).
fn format() -> Format {
    Format {
        file: "kernel.sqlite3".to_owned(),
        identity: None,
        former: None,
        application_id: 0x6163_7470,
        schema: &[
            include_str!("schema.sql"),
            include_str!("ledger_id.sql"),
            include_str!("generation.sql"),
        ],
        synchronous: "NORMAL",
        patience: storage::PATIENCE,
    }
}

/// What an address owns when a state file first sees it: 1_000 USDC.
pub const STARTING_BALANCE: Usdc = Usdc(1_000_000_000);

/// The grace of the generations that have one: that of the kernels on Base Sepolia, an hour.
const RECOVERY_GRACE_SECONDS: u64 = 3_600;
/// All the test money a state file can hold: SQLite's integers are signed.
const MAX_SUPPLY: Usdc = Usdc(i64::MAX as u64);
/// The clock can be advanced by a hundred years in all.
const MAX_CLOCK_OFFSET: u64 = 100 * 365 * 86_400;

/// How to open an [`EmbeddedKernel`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// Where the state is kept.
    pub storage: Storage,
    /// What an address owns when the file first sees it; [`STARTING_BALANCE`] where `None`.
    /// A file keeps the amount it was made with.
    pub starting_balance: Option<Usdc>,
    /// Which generation of the kernel to play; that of mainnet where `None`. A file keeps the one it
    /// was made with.
    pub generation: Option<Generation>,
}

impl EmbeddedOptions {
    /// The defaults, in this storage.
    pub const fn new(storage: Storage) -> Self {
        Self { storage, starting_balance: None, generation: None }
    }
}

/// The protocol on this machine. It acts for any sender, since test money needs no keys.
///
/// Several processes may share a file; each call is atomic and durable once it returns.
#[derive(Debug)]
pub struct EmbeddedKernel {
    store: Arc<Store>,
    network: Network,
    ledger_id: String,
    /// How far the clock is ahead, and since when that is known.
    ahead: Mutex<Option<(Instant, u64)>>,
}

/// For so long a process takes the clock's offset as it read it last; whoever moves the clock waits
/// until no process can know the old one. Servers ask for the time with every call.
const CLOCK_KNOWN_FOR: Duration = Duration::from_millis(5);

impl EmbeddedKernel {
    /// Opens a state file, or makes it.
    ///
    /// # Errors
    /// [`Code::StorageUnavailable`] where the directory cannot be used, [`Code::StorageDamaged`]
    /// and [`Code::StorageVersion`] for a file that is not ours to write, which is left as it is;
    /// [`Code::InvalidSettings`] for a file that plays another generation than the one asked for.
    pub async fn open(options: EmbeddedOptions) -> Result<Self> {
        let mut network = Network::mock();
        let wanted = options.generation.unwrap_or_default();
        let terms = Terms::new(wanted, RECOVERY_GRACE_SECONDS);
        let starting_balance = options.starting_balance.unwrap_or(STARTING_BALANCE);
        if starting_balance > MAX_SUPPLY {
            return Err(too_much("starting_balance", starting_balance));
        }
        let store = Store::open(options.storage, format(), |connection| {
            ledger::fill(connection, &network, terms, starting_balance)
        })
        .await?;
        let ledger_id = store.read(ledger::id).await?;
        network.terms = store.read(ledger::terms).await?;
        let played = network.terms.generation();
        if options.generation.is_some_and(|wanted| wanted != played) {
            let problem = format!("is not the generation of this state file, {played}");
            return Err(Error::invalid(
                Code::InvalidSettings,
                "generation",
                wanted.as_str(),
                &problem,
            )
            .with_hint(
                "leave it out, or use another state directory: a file keeps its generation",
            ));
        }
        Ok(Self { store, network, ledger_id, ahead: Mutex::default() })
    }

    /// Tells this state file from every other one, 32 hex digits. An offer carries it, so that a
    /// payer with another state directory learns that it is on another ledger.
    pub fn ledger_id(&self) -> &str {
        &self.ledger_id
    }

    /// The state file; `None` in memory.
    pub fn file(&self) -> Option<&Path> {
        self.store.path()
    }

    /// Gives an address its starting balance, if this file has never seen it.
    pub async fn greet(&self, address: Address) -> Result<()> {
        let known =
            self.store.read(|connection| ledger::account(connection, address)).await?.is_some();
        if known {
            return Ok(());
        }
        self.write(|books| books.greet(address)).await
    }

    /// Moves the clock of all processes of this file ahead; returns the new time.
    ///
    /// # Errors
    /// [`Code::InvalidNumber`] beyond a hundred years in all.
    pub async fn advance_time(&self, seconds: u64) -> Result<u64> {
        let offset = self.move_clock(seconds).await?;
        if self.file().is_some() {
            tokio::time::sleep(CLOCK_KNOWN_FOR).await;
        }
        self.know_ahead(Instant::now(), offset);
        Ok(wall_seconds() + offset)
    }

    async fn move_clock(&self, seconds: u64) -> Result<u64> {
        self.write(|books| {
            let offset = books.clock_offset().saturating_add(seconds);
            if offset > MAX_CLOCK_OFFSET {
                return Err(Error::invalid(
                    Code::InvalidNumber,
                    "seconds",
                    &seconds.to_string(),
                    "would advance the clock by more than a hundred years",
                )
                .with_hint("pass a duration in seconds, not a time")
                .into());
            }
            books.set_clock_offset(offset)?;
            Ok(offset)
        })
        .await
    }

    fn known_ahead(&self) -> Option<u64> {
        // No fork happens while the lock is held.
        let _passage = fork::enter();
        let known = *self.ahead();
        known.filter(|(since, _)| since.elapsed() < CLOCK_KNOWN_FOR).map(|(_, offset)| offset)
    }

    fn know_ahead(&self, since: Instant, offset: u64) {
        let _passage = fork::enter();
        let mut known = self.ahead();
        if known.is_none_or(|(earlier, _)| earlier < since) {
            *known = Some((since, offset));
        }
    }

    fn ahead(&self) -> MutexGuard<'_, Option<(Instant, u64)>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes test USDC out of nothing.
    ///
    /// # Errors
    /// [`Code::InvalidAmount`] where all money of the file would exceed 9.2e18 base units.
    pub async fn mint(&self, address: Address, amount: Usdc) -> Result<()> {
        self.write(|books| {
            books.greet(address)?;
            books.mint(address, amount)
        })
        .await
    }

    /// Pauses or resumes the protocol, as its operators can.
    pub async fn set_paused(&self, paused: bool) -> Result<()> {
        let by = self.network.admin;
        self.write(|books| {
            if books.is_paused() == paused {
                return Ok(());
            }
            books.set_paused(paused)?;
            let timestamp = books.now;
            books.emit(&if paused {
                Event::KernelPaused { by, timestamp }
            } else {
                Event::KernelUnpaused { by, timestamp }
            })
        })
        .await
    }

    /// Approves a mediator, who can be paid from two days later on.
    pub async fn approve_mediator(&self, mediator: Address) -> Result<()> {
        self.write(|books| {
            books.greet(mediator)?;
            books.approve_mediator(mediator)
        })
        .await
    }

    /// The sum of all balances. Nothing but minting and first sights of addresses changes it.
    pub async fn total_supply(&self) -> Result<Usdc> {
        self.store
            .read(|connection| {
                Ok(connection
                    .query_row("SELECT minted FROM kernel", [], |row| rows::usdc(row, 0))?)
            })
            .await
    }

    async fn write<T: Send>(
        &self,
        mut call: impl FnMut(&Books<'_>) -> Attempt<T> + Send,
    ) -> Result<T> {
        self.store.write(|connection| call(&Books::open(connection, &self.network)?)).await
    }
}

#[async_trait]
impl Kernel for EmbeddedKernel {
    fn network(&self) -> &Network {
        &self.network
    }

    async fn now(&self) -> Result<u64> {
        if let Some(offset) = self.known_ahead() {
            return Ok(wall_seconds() + offset);
        }
        let begun = Instant::now();
        let globals = self.store.read(ledger::globals).await?;
        self.know_ahead(begun, globals.clock_offset);
        Ok(wall_seconds() + globals.clock_offset)
    }

    async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
        let stored = self.store.read(|connection| rows::find(connection, id)).await?;
        stored.map(|stored| stored.transaction).ok_or_else(|| missing(id))
    }

    async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
        check_limit(query.limit, 1_000)?;
        let before = match query.after {
            None => i64::MAX,
            Some(id) => {
                let last = self.store.read(|connection| rows::find(connection, id)).await?;
                last.ok_or_else(|| missing(id))?.seq
            }
        };
        let sql = party_query(query.role, query.state);
        self.store
            .read(|connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                let found = statement
                    .query_map(params![query.party.as_slice(), before, query.limit], |row| {
                        Ok(rows::stored(row)?.transaction)
                    })?;
                Ok(found.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn events(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        check_limit(limit, 10_000)?;
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.store
            .read(|connection| {
                let sql =
                    "SELECT cursor, event FROM events WHERE cursor > ?1 ORDER BY cursor LIMIT ?2";
                let mut statement = connection.prepare_cached(sql)?;
                let found = statement.query_map(params![after, limit], |row| {
                    Ok(EventRecord { cursor: rows::number(row, 0)?, event: rows::json(row, 1)? })
                })?;
                Ok(found.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn events_at(&self, time: u64) -> Result<Vec<EventRecord>> {
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        self.store
            .read(|connection| {
                // From the newest back to that second: nobody asks for one that is long past.
                let sql = "SELECT cursor, event FROM events WHERE event ->> 'timestamp' = ?1 \
                           AND cursor > coalesce((SELECT cursor FROM events \
                           WHERE event ->> 'timestamp' < ?1 ORDER BY cursor DESC LIMIT 1), 0) \
                           ORDER BY cursor";
                let mut statement = connection.prepare_cached(sql)?;
                let found = statement.query_map([time], |row| {
                    Ok(EventRecord { cursor: rows::number(row, 0)?, event: rows::json(row, 1)? })
                })?;
                Ok(found.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn escrow(&self, id: TransactionId) -> Result<Escrow> {
        let stored = self.store.read(|connection| rows::find(connection, id)).await?;
        let Stored { transaction, remaining, .. } = stored.ok_or_else(|| missing(id))?;
        if remaining == Usdc::ZERO {
            return Ok(Escrow::default());
        }
        Ok(Escrow {
            requester: transaction.requester,
            provider: transaction.provider,
            amount: transaction.amount,
            released: Usdc(transaction.amount.0 - remaining.0),
            active: true,
        })
    }

    async fn delivery_proof(&self, id: TransactionId) -> Result<Option<DeliveryProof>> {
        self.store
            .read(|connection| {
                let stored = rows::find(connection, id)?.ok_or_else(|| missing(id))?;
                let sql = "SELECT proof FROM delivery_proofs WHERE seq = ?1";
                let mut statement = connection.prepare_cached(sql)?;
                Ok(statement.query_row([stored.seq], |row| rows::json(row, 0)).optional()?)
            })
            .await
    }

    async fn balance(&self, owner: Address) -> Result<Usdc> {
        self.store
            .read(|connection| match ledger::account(connection, owner)? {
                Some(account) => Ok(account.balance),
                // What it will own as soon as it takes part.
                None => Ok(ledger::globals(connection)?.starting_balance),
            })
            .await
    }

    async fn allowance(&self, owner: Address) -> Result<Usdc> {
        let account = self.store.read(|connection| ledger::account(connection, owner)).await?;
        Ok(account.map_or(Usdc::ZERO, |account| account.allowance))
    }

    async fn mint_test_usdc(&self, _sender: Address, to: Address, amount: Usdc) -> Result<()> {
        self.mint(to, amount).await
    }

    async fn approve(&self, sender: Address, amount: Usdc) -> Result<()> {
        if amount > MAX_SUPPLY {
            return Err(too_much("amount", amount));
        }
        self.write(|books| {
            books.greet(sender)?;
            books.set_allowance(sender, amount)
        })
        .await
    }

    async fn create_transaction(
        &self,
        sender: Address,
        request: &CreateTransaction,
    ) -> Result<TransactionId> {
        check_agreement(&self.network, request)?;
        let terms = self.network.terms;
        self.write(|books| {
            books.require_running()?;
            let nonce = books.nonce(sender)?;
            let (rates, now) = (Rates::default(), books.now);
            let transaction = rules::create(request, sender, nonce, terms, rates, now)
                .map_err(|refusal| refused_creation(request, refusal, now))?;
            books.greet(sender)?;
            books.greet(request.provider)?;
            books.create(&transaction)?;
            Ok(transaction.id)
        })
        .await
    }

    async fn link_escrow(
        &self,
        sender: Address,
        id: TransactionId,
        link: LinkEscrow,
    ) -> Result<B256> {
        let vault = link.escrow_contract.unwrap_or(self.network.vault);
        let escrow_id = link.escrow_id.unwrap_or(id);
        self.write(|books| {
            books.require_running()?;
            let found = rows::find(books.connection, id)?;
            let used = books.is_escrow_id_used(escrow_id, found.as_ref())?;
            rules::check_escrow(vault, escrow_id, vault == self.network.vault, used).map_err(
                |refusal| Error::refused(refusal, found.as_ref().map(|stored| &stored.transaction)),
            )?;
            let stored = found.ok_or_else(|| missing(id))?;
            let effect =
                books.judge(&stored, sender, |call| rules::link_escrow(call, vault, escrow_id))?;
            if escrow_id != id {
                books.use_escrow_id(escrow_id)?;
            }
            books.emit(&Event::EscrowLinked {
                transaction_id: id,
                escrow_contract: vault,
                escrow_id,
                amount: stored.transaction.amount,
                timestamp: books.now,
            })?;
            books.apply(&stored, &effect, sender)
        })
        .await?;
        Ok(escrow_id)
    }

    async fn accept_quote(&self, sender: Address, id: TransactionId, amount: Usdc) -> Result<()> {
        let check = rules::check_quoted_amount(amount);
        self.write(|books| {
            books.require_running()?;
            check.map_err(|refusal| Error::refused_value(refusal, "amount", amount.0))?;
            let stored = books.transaction(id)?;
            let accept = |call: Call<'_>| rules::accept_quote(call, amount, Rates::default());
            let effect = books.judge(&stored, sender, accept)?;
            books.apply(&stored, &effect, sender)?;
            books.emit(&Event::QuoteAccepted {
                transaction_id: id,
                old_amount: stored.transaction.amount,
                new_amount: amount,
                timestamp: books.now,
            })
        })
        .await
    }

    async fn transition_state(&self, sender: Address, transition: &Transition) -> Result<GasCost> {
        let Transition { id, to, data, proof } = transition;
        self.write(|books| {
            books.require_running()?;
            let stored = &books.transaction(*id)?;
            let mediators = match stored.transaction.state {
                State::Disputed => books.mediators()?,
                _ => vec![],
            };
            let arbiters = Arbiters { resolver: self.network.admin, mediators: &mediators };
            let effect =
                books.judge(stored, sender, |call| rules::transition(call, *to, data, arbiters))?;
            if let Some(proof) = proof {
                books.keep_proof(stored, proof)?;
            }
            books.apply(stored, &effect, sender)
        })
        .await?;
        Ok(GasCost::default())
    }

    async fn release_milestone(
        &self,
        sender: Address,
        id: TransactionId,
        amount: Usdc,
    ) -> Result<()> {
        let check = rules::check_milestone(amount);
        self.write(|books| {
            books.require_running()?;
            check.map_err(|refusal| Error::refused_value(refusal, "amount", amount.0))?;
            let stored = books.transaction(id)?;
            let effect =
                books.judge(&stored, sender, |call| rules::release_milestone(call, amount))?;
            books.apply(&stored, &effect, sender)?;
            books.emit(&Event::EscrowMilestoneReleased {
                transaction_id: id,
                amount,
                timestamp: books.now,
            })
        })
        .await
    }

    async fn release_escrow(&self, sender: Address, id: TransactionId) -> Result<()> {
        // Not stopped by a pause.
        self.write(|books| {
            let stored = books.transaction(id)?;
            let effect = books.judge(&stored, sender, rules::release_escrow)?;
            books.apply(&stored, &effect, sender)
        })
        .await
    }

    async fn recover_stalled(&self, sender: Address, id: TransactionId) -> Result<GasCost> {
        require_recovery(&self.network)?;
        // Not stopped by a pause.
        self.write(|books| {
            let stored = books.transaction(id)?;
            let effect = books.judge(&stored, sender, rules::recover_stalled)?;
            books.apply(&stored, &effect, sender)
        })
        .await?;
        Ok(GasCost::default())
    }

    async fn anchor_attestation(
        &self,
        sender: Address,
        id: TransactionId,
        uid: B256,
    ) -> Result<()> {
        let check = rules::check_attestation(uid);
        self.write(|books| {
            books.require_running()?;
            check?;
            let stored = books.transaction(id)?;
            let effect =
                books.judge(&stored, sender, |call| rules::anchor_attestation(call, uid))?;
            books.apply(&stored, &effect, sender)?;
            books.emit(&Event::AttestationAnchored {
                transaction_id: id,
                attestation_uid: uid,
                attester: sender,
                timestamp: books.now,
            })
        })
        .await
    }

    fn registry(&self) -> Option<&dyn AgentRegistry> {
        Some(self)
    }
}

fn too_much(field: &'static str, amount: Usdc) -> Error {
    Error::invalid(
        Code::InvalidAmount,
        field,
        &amount.0.to_string(),
        "is more than a state file can hold",
    )
    .with_hint("amounts are base units of USDC (1 USDC = 1_000_000)")
}

/// Newest first: `?1` the party, `?2` the first sequence number not to return, `?3` how many.
/// Each part runs down one end of an index, so the cost does not grow with the file.
fn party_query(role: Option<Role>, state: Option<State>) -> String {
    let roles: &[&str] = match role {
        Some(Role::Requester) => &["requester"],
        Some(Role::Provider) => &["provider"],
        None => &["requester", "provider"],
    };
    let states = state.map_or_else(|| State::ALL.to_vec(), |state| vec![state]);
    let part = |role: &str, state: State| {
        format!(
            "SELECT * FROM (SELECT seq FROM transactions WHERE {role} = ?1 AND state = {} AND seq < ?2 \
             ORDER BY seq DESC LIMIT ?3)",
            state as u8
        )
    };
    let parts: Vec<_> =
        roles.iter().flat_map(|role| states.iter().map(move |state| part(role, *state))).collect();
    format!(
        "SELECT {} FROM transactions WHERE seq IN (SELECT seq FROM ({}) ORDER BY seq DESC LIMIT ?3) \
         ORDER BY seq DESC",
        rows::COLUMNS,
        parts.join(" UNION ALL ")
    )
}
