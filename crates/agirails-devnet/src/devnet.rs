use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agirails::{
    Code, Contracts, Error, Generation, NetworkProfile, PrivateKey, Result, Terms, Usdc,
    protocol::MIN_RECOVERY_GRACE_SECONDS,
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolValue};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    artifacts::{self, Artifact},
    contracts::{self, DELIVERY_SCHEMA, schema_uid},
    find,
    node::Node,
    rpc::Rpc,
};

const CHAIN_ID: u64 = 31_337;
/// How many accounts users get; the admin is one more.
const ACCOUNTS: usize = 10;
const STARTING_BALANCE: Usdc = Usdc(1_000_000_000_000);
/// Enough for the largest contract, and little enough that all of them fit into one block.
const DEPLOYMENT_GAS: u64 = 8_000_000;
/// Each state that anvil keeps is a file with all there is, so a long run would fill the disk. (Its
/// `--prune-history` keeps none, but takes time that grows with the chain.)
const KEPT_STATES: usize = 256;
/// A kernel waits two days until a mediator that it approved resolves disputes
/// (`MEDIATOR_APPROVAL_DELAY`); an hour more, so that no rounding counts.
const MEDIATOR_WAIT_SECONDS: u64 = 2 * 86_400 + 3_600;
/// How long a transaction of the devnet's own may take until a block has it.
const INCLUSION: Duration = Duration::from_secs(20);

/// A local chain with ACTP on it. It listens on 127.0.0.1 only, and ends when this is dropped or
/// when the process that started it ends, however that happens.
///
/// The contracts lie at the same addresses in every devnet, and the accounts are anvil's published
/// ones: **anyone can spend what is theirs on a real network**. The states of the newest 256 blocks
/// are kept; blocks, transactions and events are kept for ever.
///
/// ```no_run
/// # async fn example() -> agirails::Result<()> {
/// let devnet = agirails_devnet::Devnet::start().await?;
/// let [consumer, provider, ..] = devnet.accounts() else { return Ok(()) };
/// println!("{} pays {} on {}", consumer.address, provider.address, devnet.rpc_url());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Devnet {
    rpc: Rpc,
    profile: NetworkProfile,
    accounts: Vec<Account>,
    admin: Account,
    node: Node,
}

/// One of anvil's published accounts: 10_000 ETH, 1_000_000 USDC.
#[derive(Clone)]
pub struct Account {
    /// Its address.
    pub address: Address,
    /// Its key.
    pub private_key: PrivateKey,
    secret: String,
}

impl Account {
    /// The key as text, `0x` and 64 hex digits, for programs that take it so. It is published: it
    /// protects nothing on any network.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

/// Shows the address only: nobody should get used to keys in logs.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.address)
    }
}

/// A moment of the chain that [`Devnet::revert`] returns to, once.
#[derive(Debug)]
pub struct Snapshot(String);

/// How a [`Devnet`] is started.
#[derive(Debug, Clone, Default)]
pub struct DevnetBuilder {
    anvil: Option<PathBuf>,
    port: u16,
    block_time: Option<Duration>,
    generation: Generation,
    recovery_grace: Option<u64>,
}

impl DevnetBuilder {
    /// The anvil to use, instead of looking for it in `AGIRAILS_ANVIL`, on the `PATH` and in the
    /// `node_modules` and `target/npm/node_modules` of the working directory and those above it.
    #[must_use]
    pub fn anvil(mut self, path: impl Into<PathBuf>) -> Self {
        self.anvil = Some(path.into());
        self
    }

    /// The port to listen on, instead of any free one.
    #[must_use]
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// A block in each such interval, as on Base (2 seconds), instead of one for each transaction.
    #[must_use]
    pub const fn block_time(mut self, interval: Duration) -> Self {
        self.block_time = Some(interval);
        self
    }

    /// Which generation of the kernel to put there, instead of that of mainnet.
    #[must_use]
    pub const fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// The kernel's `recoveryGrace` in seconds, at least 3_600, instead of that least one. The
    /// generation of May 2026 has none.
    #[must_use]
    pub const fn recovery_grace(mut self, seconds: u64) -> Self {
        self.recovery_grace = Some(seconds);
        self
    }

    /// Starts anvil and puts the contracts on it.
    ///
    /// # Errors
    /// [`Code::InvalidNumber`] for a grace that no kernel can have.
    /// [`Code::DevnetUnavailable`] where anvil is not found or does not start, with its own words.
    pub async fn start(self) -> Result<Devnet> {
        let terms = self.terms()?;
        let anvil = find::anvil(self.anvil.as_deref())?;
        let mining = match self.block_time {
            Some(interval) => format!("--block-time={}", interval.as_secs_f64()),
            None => "--no-mining".to_owned(),
        };
        let mut arguments = vec![
            "--host=127.0.0.1".to_owned(),
            format!("--port={}", self.port),
            format!("--accounts={}", ACCOUNTS + 1),
            format!("--chain-id={CHAIN_ID}"),
            format!("--max-persisted-states={KEPT_STATES}"),
            // A block tells the order in which it was asked.
            "--order=fifo".to_owned(),
            mining,
        ];
        if terms.escalates_disputes() {
            // The mediator is approved in the past, so that it resolves disputes now.
            let genesis = wall_seconds().saturating_sub(MEDIATOR_WAIT_SECONDS);
            arguments.push(format!("--timestamp={genesis}"));
        }
        let node = Node::start(&anvil, &arguments).await?;
        let devnet = Devnet::on(node, terms).await?;
        if self.block_time.is_none() {
            devnet.set_automine(true).await?;
        }
        Ok(devnet)
    }

    fn terms(&self) -> Result<Terms> {
        let grace = self.recovery_grace.unwrap_or(MIN_RECOVERY_GRACE_SECONDS);
        let has_grace = self.generation != Generation::May2026 || self.recovery_grace.is_none();
        if grace >= MIN_RECOVERY_GRACE_SECONDS && has_grace {
            return Ok(Terms::new(self.generation, grace));
        }
        let problem = match has_grace {
            true => format!("must be at least {MIN_RECOVERY_GRACE_SECONDS} seconds"),
            false => format!("is nothing that a kernel of {} has", self.generation),
        };
        Err(Error::invalid(Code::InvalidNumber, "recovery_grace", &grace.to_string(), &problem)
            .with_hint("leave it out for the least one, an hour"))
    }
}

impl Devnet {
    /// A devnet with the defaults: a free port, and a block for each transaction.
    ///
    /// # Errors
    /// As [`DevnetBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// A devnet to be described.
    pub fn builder() -> DevnetBuilder {
        DevnetBuilder::default()
    }

    async fn on(node: Node, terms: Terms) -> Result<Self> {
        let rpc = Rpc::new(format!("http://{}", node.address()))?;
        // Anvil logs each request to a file that nobody reads and that would grow for ever.
        rpc.call("anvil_setLoggingEnabled", json!([false])).await?;
        let mut accounts = read_accounts(&node.read("config.json"))?;
        let admin = accounts.pop().ok_or_else(|| unusable("anvil names no accounts"))?;
        let profile = deploy_all(&rpc, terms, &admin, &accounts).await?;
        let devnet = Self { rpc, profile, accounts, admin, node };
        if terms.escalates_disputes() {
            devnet.set_next_time(wall_seconds()).await?;
            devnet.mine(1).await?;
        }
        Ok(devnet)
    }

    /// Where it answers, such as `http://127.0.0.1:40123`.
    pub fn rpc_url(&self) -> &str {
        self.rpc.url()
    }

    /// The same for WebSockets, such as `ws://127.0.0.1:40123`.
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.node.address())
    }

    /// 31337, as on all local development chains.
    pub const fn chain_id(&self) -> u64 {
        CHAIN_ID
    }

    /// Where the contracts lie, for a client to connect by.
    pub const fn profile(&self) -> &NetworkProfile {
        &self.profile
    }

    /// Writes [`Self::profile`] as the JSON file that `AGIRAILS_NETWORK` can name.
    ///
    /// # Errors
    /// [`Code::DevnetUnavailable`] where the file cannot be written.
    pub fn write_profile(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = serde_json::to_string_pretty(&self.profile)
            .map_err(|error| unusable("the profile must be JSON").with_source(error))?;
        fs::write(path, text + "\n").map_err(|error| {
            Error::new(
                Code::DevnetUnavailable,
                format!("the profile cannot be written to {}: {error}", path.display()),
            )
            .with_hint("name a file in a directory that exists and is writable")
            .with_source(error)
        })
    }

    /// The ten accounts, none of which has a part in the protocol.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// The kernel's admin and pauser, who deployed the contracts. It owns no USDC.
    pub const fn admin(&self) -> &Account {
        &self.admin
    }

    /// Gives an address more USDC, in base units.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn mint(&self, to: Address, amount: Usdc) -> Result<()> {
        let call = contracts::mintCall { to, amount: U256::from(amount.0) };
        self.administer(self.profile.contracts.usdc, call).await
    }

    /// Sets what an address owns of the chain's own coin, in wei.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn set_eth(&self, address: Address, wei: U256) -> Result<()> {
        self.rpc("anvil_setBalance", json!([address, wei])).await.map(drop)
    }

    /// Stops the protocol, as its operators can.
    ///
    /// # Errors
    /// As [`Self::send`]; also where it is stopped already.
    pub async fn pause(&self) -> Result<()> {
        self.administer(self.profile.contracts.actp_kernel, contracts::pauseCall {}).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`Self::send`]; also where it is not stopped.
    pub async fn unpause(&self) -> Result<()> {
        self.administer(self.profile.contracts.actp_kernel, contracts::unpauseCall {}).await
    }

    /// Approves a mediator, who can be paid from two days later on.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn approve_mediator(&self, mediator: Address) -> Result<()> {
        let call = contracts::approveMediatorCall { mediator, approved: true };
        self.administer(self.profile.contracts.actp_kernel, call).await
    }

    /// The time of the newest block, Unix seconds.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn now(&self) -> Result<u64> {
        let block = self.rpc("eth_getBlockByNumber", json!(["latest", false])).await?;
        read_number(&block["timestamp"])
    }

    /// Moves the clock ahead and mines a block there; returns that block's time, Unix seconds.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn advance_time(&self, seconds: u64) -> Result<u64> {
        self.rpc("evm_increaseTime", json!([seconds])).await?;
        self.mine(1).await?;
        self.now().await
    }

    /// Gives the next block exactly this time, Unix seconds, and sets the clock by it.
    ///
    /// # Errors
    /// [`Code::RequestRefused`] where that is not later than the newest block, else as [`Self::rpc`].
    pub async fn set_next_time(&self, time: u64) -> Result<()> {
        self.rpc("evm_setNextBlockTimestamp", json!([time])).await.map(drop)
    }

    /// Mines blocks at once, with what is pending in the first of them.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        self.rpc("anvil_mine", json!([blocks])).await.map(drop)
    }

    /// With `true` each transaction gets a block at once; with `false` blocks come by
    /// [`Self::mine`] alone.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn set_automine(&self, automatic: bool) -> Result<()> {
        self.rpc("evm_setAutomine", json!([automatic])).await.map(drop)
    }

    /// From now on a block in each such interval, in whole seconds, of which there is at least one.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn set_block_time(&self, seconds: u64) -> Result<()> {
        self.set_automine(false).await?;
        self.rpc("evm_setIntervalMining", json!([seconds.max(1)])).await.map(drop)
    }

    /// Remembers the chain as it is.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let id = self.rpc("evm_snapshot", json!([])).await?;
        id.as_str()
            .map(|id| Snapshot(id.to_owned()))
            .ok_or_else(|| unusable("anvil made no snapshot"))
    }

    /// Makes the chain what it was. Snapshots taken since then are lost.
    ///
    /// # Errors
    /// [`Code::RequestRefused`] where the snapshot was lost, else as [`Self::rpc`].
    pub async fn revert(&self, to: Snapshot) -> Result<()> {
        if self.rpc("evm_revert", json!([to.0])).await? == true {
            return Ok(());
        }
        Err(Error::new(Code::RequestRefused, "the snapshot is lost")
            .with_hint("a snapshot is reverted to once, and lost with an older one"))
    }

    /// Replaces the newest blocks by as many empty ones, as a chain reorganisation does: their
    /// transactions are gone.
    ///
    /// # Errors
    /// [`Code::RequestRefused`] where there are fewer blocks, else as [`Self::rpc`].
    pub async fn reorganise(&self, depth: u64) -> Result<()> {
        self.rpc("anvil_reorg", json!([depth, []])).await.map(drop)
    }

    /// Creates a contract from the admin's account; returns its address.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// ```no_run
    /// # async fn example(devnet: &agirails_devnet::Devnet) -> agirails::Result<()> {
    /// let old = devnet.deploy(agirails_devnet::artifacts::OLD_KERNEL, &[]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn deploy(&self, contract: Artifact, arguments: &[u8]) -> Result<Address> {
        let receipt = self.send(self.admin.address, None, contract.creation(arguments)).await?;
        read(&receipt["contractAddress"])
    }

    /// Sends a transaction from one of the devnet's accounts and waits until a block has it, which
    /// takes [`Self::mine`] where blocks come by that alone; returns its receipt.
    ///
    /// # Errors
    /// [`Code::RequestRefused`] with the contract's words where it refuses; [`Code::OutcomeUnknown`]
    /// where no block took it within 20 seconds; else as [`Self::rpc`].
    pub async fn send(&self, from: Address, to: Option<Address>, data: Bytes) -> Result<Value> {
        let mut transaction = json!({"from": from, "data": data});
        if let Some(to) = to {
            transaction["to"] = json!(to);
        }
        // Left alone, anvil would mine what reverts, and keep the words to itself.
        let estimate = self.rpc("eth_estimateGas", json!([transaction, "pending"])).await?;
        transaction["gas"] = json!(U256::from(read_number(&estimate)? * 3 / 2));
        let hash = self.rpc("eth_sendTransaction", json!([transaction])).await?;
        let started = Instant::now();
        loop {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash])).await?;
            if receipt["status"] == "0x1" {
                return Ok(receipt);
            }
            if !receipt.is_null() {
                return Err(Error::new(Code::RequestRefused, format!("{hash} was reverted"))
                    .with_hint("between its estimate and its block something changed"));
            }
            if started.elapsed() > INCLUSION {
                return Err(Error::new(Code::OutcomeUnknown, format!("no block has {hash} yet"))
                    .with_hint("mine a block, or set_automine(true)"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Asks the node, such as `rpc("eth_blockNumber", json!([]))`; returns the result.
    ///
    /// # Errors
    /// [`Code::RequestRefused`] with the node's words, [`Code::EndpointUnreachable`] where it ended,
    /// [`Code::InvalidAnswer`].
    pub async fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        self.rpc.call(method, params).await
    }

    async fn administer(&self, contract: Address, call: impl SolCall) -> Result<()> {
        self.send(self.admin.address, Some(contract), call.abi_encode().into()).await.map(drop)
    }
}

/// The part of anvil's `--config-out` that is needed.
#[derive(Deserialize)]
struct Config {
    private_keys: Vec<String>,
}

fn read_accounts(config: &str) -> Result<Vec<Account>> {
    let config: Config = serde_json::from_str(config)
        .map_err(|error| unusable("anvil's --config-out is not understood").with_source(error))?;
    let account = |secret: String| {
        let private_key: PrivateKey = secret.parse()?;
        Ok(Account { address: private_key.address(), private_key, secret })
    };
    config.private_keys.into_iter().map(account).collect()
}

/// The admin's transactions, which all go into one block.
struct Deployment {
    admin: Address,
    transactions: Vec<Value>,
}

impl Deployment {
    fn create(&mut self, contract: Artifact, arguments: &[u8]) -> Address {
        let address = self.next_address(0);
        self.push(None, contract.creation(arguments));
        address
    }

    fn call(&mut self, contract: Address, call: impl SolCall) {
        self.push(Some(contract), call.abi_encode().into());
    }

    /// What the contract will get that is created after so many more transactions.
    fn next_address(&self, ahead: u64) -> Address {
        self.admin.create(self.transactions.len() as u64 + ahead)
    }

    fn push(&mut self, to: Option<Address>, data: Bytes) {
        let (nonce, gas) = (U256::from(self.transactions.len()), U256::from(DEPLOYMENT_GAS));
        let mut transaction = json!({"from": self.admin, "data": data, "nonce": nonce, "gas": gas});
        if let Some(to) = to {
            transaction["to"] = json!(to);
        }
        self.transactions.push(transaction);
    }
}

async fn deploy_all(
    rpc: &Rpc,
    terms: Terms,
    admin: &Account,
    accounts: &[Account],
) -> Result<NetworkProfile> {
    let admin = admin.address;
    // Nobody holds its key.
    let fee_recipient = Address::from_word(keccak256("agirails devnet fee recipient"));
    let mut deployment = Deployment { admin, transactions: vec![] };
    let usdc = deployment.create(artifacts::MOCK_USDC, &[]);
    // Kernel and registry name each other.
    let registry = deployment.next_address(1);
    let grace = terms.recovery_grace_seconds().map(U256::from);
    let rules = artifacts::kernel_arguments(admin, admin, fee_recipient, registry, usdc, grace);
    let kernel = deployment.create(artifacts::kernel(terms.generation()), &rules);
    deployment.create(artifacts::AGENT_REGISTRY, &kernel.abi_encode());
    let vault = deployment.create(artifacts::ESCROW_VAULT, &(usdc, kernel).abi_encode_params());
    let treasury =
        deployment.create(artifacts::ARCHIVE_TREASURY, &(usdc, admin).abi_encode_params());
    let schemas = deployment.create(artifacts::SCHEMA_REGISTRY, &[]);
    let eas = deployment.create(artifacts::EAS, &schemas.abi_encode());
    let multicall = deployment.create(artifacts::MULTICALL, &[]);

    deployment.call(kernel, contracts::approveEscrowVaultCall { vault, approved: true });
    deployment.call(kernel, contracts::setArchiveTreasuryCall { treasury });
    let schema = DELIVERY_SCHEMA.to_owned();
    let resolver = Address::ZERO;
    deployment.call(schemas, contracts::registerCall { schema, resolver, revocable: true });
    let amount = U256::from(STARTING_BALANCE.0);
    for account in accounts {
        deployment.call(usdc, contracts::mintCall { to: account.address, amount });
    }
    // Last, so that all else lies at the same addresses whichever generation is played.
    let bond_escalation = terms.escalates_disputes().then(|| {
        // They name each other.
        let escalation = deployment.next_address(1);
        let names = (kernel, escalation).abi_encode_params();
        let mediator = deployment.create(artifacts::COMPOSITE_MEDIATOR, &names);
        let names = (kernel, usdc, mediator, admin).abi_encode_params();
        deployment.create(artifacts::BOND_ESCALATION, &names);
        deployment.call(kernel, contracts::approveMediatorCall { mediator, approved: true });
        escalation
    });
    let block = carry_out(rpc, deployment.transactions).await?;
    Ok(NetworkProfile {
        name: "devnet".to_owned(),
        chain_id: CHAIN_ID,
        rpc_urls: vec![rpc.url().to_owned()],
        contracts: Contracts {
            actp_kernel: kernel,
            escrow_vault: vault,
            usdc,
            agent_registry: Some(registry),
            archive_treasury: Some(treasury),
            eas: Some(eas),
            multicall: Some(multicall),
            bond_escalation,
        },
        deployment_block: Some(block),
        eas_schema: Some(schema_uid(DELIVERY_SCHEMA)),
        agree: None,
    })
}

/// Sends all, mines, and looks at every receipt; returns the first one's block.
async fn carry_out(rpc: &Rpc, transactions: Vec<Value>) -> Result<u64> {
    let send = |transaction| ("eth_sendTransaction".to_owned(), json!([transaction]));
    let hashes: Vec<B256> = rpc
        .batch(transactions.into_iter().map(send).collect())
        .await?
        .into_iter()
        .map(|hash| read(&hash?))
        .collect::<Result<_>>()?;
    rpc.call("evm_mine", json!([])).await?;
    let ask = |hash: &B256| ("eth_getTransactionReceipt".to_owned(), json!([hash]));
    let receipts = rpc.batch(hashes.iter().map(ask).collect()).await?;
    let mut blocks = vec![];
    for (number, receipt) in receipts.into_iter().enumerate() {
        let receipt = receipt?;
        if receipt["status"] != "0x1" {
            return Err(unusable(&format!("step {number} of the deployment failed: {receipt}")));
        }
        blocks.push(read_number(&receipt["blockNumber"])?);
    }
    Ok(blocks.into_iter().min().unwrap_or_default())
}

fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn read<T: for<'de> Deserialize<'de>>(value: &Value) -> Result<T> {
    T::deserialize(value)
        .map_err(|error| unusable(&format!("anvil answered {value}")).with_source(error))
}

fn read_number(value: &Value) -> Result<u64> {
    read::<U256>(value).map(|number| number.saturating_to())
}

fn unusable(what: &str) -> Error {
    Error::new(Code::DevnetUnavailable, what).with_hint("use the anvil that package.json names")
}
