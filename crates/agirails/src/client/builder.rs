//! How a client comes to be: which network, which key, which settings, and what contradicts what.

use std::{
    any::Any,
    env, fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::Address;
use alloy_signer::Signer;

use super::ACTPClient;
#[cfg(feature = "chain")]
use crate::kernel::chain::{ChainKernel, ChainSettings};
use crate::{
    error::{Code, Error, Result},
    kernel::{
        Kernel,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    network::{
        Contracts, LOCAL_CHAIN_ID, MAINNET_CHAIN_ID, Mode, NETWORK_VARIABLE, NetworkProfile,
    },
    protocol::{Generation, Usdc},
    storage::Storage,
    wallet::{
        KeyEnvironment, KeySources, NO_KEY_HINT, Password, PrivateKey, Wallet, admit, resolve_key,
    },
};

/// The environment variable that names the state directory.
pub const STATE_DIR_VARIABLE: &str = "ACTP_STATE_DIR";

/// How to connect; made by [`ACTPClient::builder`].
///
/// ```
/// use agirails::{ACTPClient, Code, Mode};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// let builder = ACTPClient::builder().rpc_url("https://rpc.example.com/secret").in_memory();
/// assert!(!format!("{builder:?}").contains("secret"));
/// // Mode mock reaches no chain.
/// let error = builder.mode(Mode::Mock).connect().await.unwrap_err();
/// assert_eq!(error.code(), Code::InvalidSettings);
/// # });
/// ```
#[derive(Default)]
#[must_use = "nothing happens until connect"]
pub struct ClientBuilder {
    mode: Mode,
    address: Option<Address>,
    key: Option<PrivateKey>,
    keystore: Option<(PathBuf, Password)>,
    wallet: Option<Arc<dyn Wallet>>,
    state_directory: Option<PathBuf>,
    in_memory: bool,
    starting_balance: Option<Usdc>,
    generation: Option<Generation>,
    profile: Option<NetworkProfile>,
    rpc_urls: Vec<String>,
    contracts: Option<Contracts>,
    confirmations: Option<u64>,
    wait_timeout: Option<Duration>,
    max_fee_per_gas: Option<u128>,
    max_priority_fee_per_gas: Option<u128>,
    agree: Option<u32>,
}

/// Shows no URL, because many carry an access token, and nothing of keys and passwords.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("mode", &self.mode)
            .field("address", &self.address)
            .field("key", &self.key)
            .field("keystore", &self.keystore)
            .field("wallet", &self.wallet.as_deref().map(Signer::address))
            .field("state_directory", &self.state_directory)
            .finish_non_exhaustive()
    }
}

/// For whom a client acts, and who signs for it.
struct Identity {
    address: Address,
    wallet: Option<Arc<dyn Wallet>>,
    warnings: Vec<String>,
}

impl ClientBuilder {
    /// Which network. Default: [`Mode::Mock`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The address this client acts for. Default: that of the key.
    ///
    /// On a chain, a client that has an address and no key only reads.
    pub fn address(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// The key that signs, in the clear. In mode mock nothing needs one but signed deliveries;
    /// testnet warns of it ([`ACTPClient::warnings`]), mainnet refuses it unless it came out of a
    /// keystore (AIP-13). Default: what [`resolve_key`] finds.
    pub fn private_key(mut self, key: PrivateKey) -> Self {
        self.key = Some(key);
        self
    }

    /// The keystore whose key signs, and its password. [`Self::connect`] opens it, for about a
    /// second, without holding up other tasks.
    pub fn keystore(mut self, path: impl Into<PathBuf>, password: impl Into<Password>) -> Self {
        self.keystore = Some((path.into(), password.into()));
        self
    }

    /// Who signs, in place of a key: any signer of alloy, such as a hardware wallet or a key
    /// service. On mainnet a [`PrivateKey`] in the clear is refused here too; what else a wallet
    /// keeps its key in is its owner's affair.
    pub fn wallet(mut self, wallet: Arc<dyn Wallet>) -> Self {
        self.wallet = Some(wallet);
        self
    }

    /// Where `.actp/` with the state lies. Default: `ACTP_STATE_DIR`, else the working directory.
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_directory = Some(directory.into());
        self
    }

    /// Keep everything in memory: in mode mock the state, for this client and its clones alone;
    /// on a chain the journal of what was sent, which then ends with this process.
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    /// Mode mock: what an address owns the first time it is seen. Default: 1_000 USDC; zero
    /// switches it off. A state file keeps the amount it was created with.
    pub fn starting_balance(mut self, amount: Usdc) -> Self {
        self.starting_balance = Some(amount);
        self
    }

    /// Mode mock: which generation of the kernel is played. Default: that of mainnet,
    /// [`Generation::May2026`]. A state file keeps the one it was created with.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.generation = Some(generation);
        self
    }

    /// Another network than the mode's, such as a local chain. Goes before `AGIRAILS_NETWORK`.
    /// Mode mainnet takes only profiles of chain 8453; a profile of chain 8453 is mainnet in any
    /// mode.
    pub fn network_profile(mut self, profile: NetworkProfile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// Where the chain is reached, in place of the profile's URLs. Call it again for more: the
    /// first one is preferred.
    pub fn rpc_url(mut self, url: impl Into<String>) -> Self {
        self.rpc_urls.push(url.into());
        self
    }

    /// The contracts, in place of the profile's. Events still begin at the profile's deployment
    /// block: for a kernel that is older, pass a whole [`Self::network_profile`].
    pub fn contracts(mut self, contracts: Contracts) -> Self {
        self.contracts = Some(contracts);
        self
    }

    /// How many blocks, its own among them, a transaction must lie under to count as done.
    pub fn confirmations(mut self, blocks: u64) -> Self {
        self.confirmations = Some(blocks);
        self
    }

    /// How long a call waits for its transaction before it ends in [`Code::OutcomeUnknown`].
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.wait_timeout = Some(timeout);
        self
    }

    /// The most to pay for a unit of gas, wei. Above it nothing is sent
    /// ([`Code::FeeAboveLimit`]).
    pub fn max_fee_per_gas(mut self, wei: u128) -> Self {
        self.max_fee_per_gas = Some(wei);
        self
    }

    /// The most of it to pay to whoever includes a transaction, wei per unit of gas, however much a
    /// node says that others give. Default: 0.1 gwei on Base and Base Sepolia, 2 gwei elsewhere.
    pub fn max_priority_fee_per_gas(mut self, wei: u128) -> Self {
        self.max_priority_fee_per_gas = Some(wei);
        self
    }

    /// How many RPC endpoints, each on a host of its own, must say the same about a transaction
    /// before it is served, and before what was served is given back or given up. One node can lie
    /// about anything. Default: the profile's, else 2 on mainnet where two or more are named
    /// ([`Self::rpc_url`]), else 1. Name one more than must agree, so that one may fail.
    pub fn agree(mut self, endpoints: u32) -> Self {
        self.agree = Some(endpoints);
        self
    }

    /// The chain that [`Self::connect`] would reach, with what was set in place of its profile's;
    /// `None` in mode mock. Nothing is connected.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`], as [`Self::connect`].
    pub fn profile(&self) -> Result<Option<NetworkProfile>> {
        let named = env::var_os(NETWORK_VARIABLE).filter(|path| !path.is_empty());
        self.network(named.as_ref().map(Path::new))
    }

    /// The directory below which `.actp/` with the state lies, also where everything is kept in
    /// memory: a keystore may lie there.
    pub fn directory(&self) -> PathBuf {
        self.state_directory.clone().unwrap_or_else(|| {
            let named = env::var_os(STATE_DIR_VARIABLE).filter(|value| !value.is_empty());
            named.map_or_else(|| ".".into(), PathBuf::from)
        })
    }

    /// Connects.
    ///
    /// The network is that of the mode: mock is this machine; testnet is Base Sepolia, or the profile
    /// that `AGIRAILS_NETWORK` names ([`NetworkProfile::find`]); mainnet is Base, which no variable changes. The key
    /// is found as [`resolve_key`] tells; in mode mock only where no address is given.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] where neither address nor key is there, or settings contradict
    /// each other or the mode; [`Code::KeyMismatch`] where key and address disagree;
    /// [`Code::KeyNotAllowed`], [`Code::InvalidKeystore`] and [`Code::WrongPassword`] as
    /// [`resolve_key`]; the storage codes where the state directory cannot be used; on a chain the
    /// network codes, before which nothing was sent.
    ///
    /// Source: AIP-13.
    pub async fn connect(mut self) -> Result<ACTPClient> {
        let profile = self.profile()?;
        let storage = self.storage()?;
        let policy = self.policy(profile.as_ref());
        let identity = self.identity(policy, KeyEnvironment::read).await?;
        let Identity { address, wallet, warnings } = identity;
        let warnings = warnings.into();
        let Some(profile) = profile else {
            let options = EmbeddedOptions {
                storage: storage.clone(),
                starting_balance: self.starting_balance,
                generation: self.generation,
            };
            let embedded = EmbeddedKernel::open(options).await?;
            embedded.greet(address).await?;
            let embedded = Arc::new(embedded);
            return Ok(ACTPClient {
                kernel: embedded.clone(),
                embedded: Some(embedded),
                address,
                wallet,
                read_only: false,
                warnings,
                storage,
            });
        };
        // A key of a chain on this machine guards nothing.
        let local = profile.chain_id == LOCAL_CHAIN_ID;
        let warnings = if local { Default::default() } else { warnings };
        let (read_only, kernel) = (wallet.is_none(), self.chain(profile, &wallet, &storage).await?);
        Ok(ACTPClient { kernel, embedded: None, address, wallet, read_only, warnings, storage })
    }

    #[cfg(feature = "chain")]
    async fn chain(
        &self,
        profile: NetworkProfile,
        wallet: &Option<Arc<dyn Wallet>>,
        storage: &Storage,
    ) -> Result<Arc<dyn Kernel>> {
        let mut settings = ChainSettings::new(profile);
        settings.wallets = wallet.iter().cloned().collect();
        settings.storage = storage.clone();
        settings.confirmations = self.confirmations.unwrap_or(settings.confirmations);
        settings.wait_timeout = self.wait_timeout.unwrap_or(settings.wait_timeout);
        settings.max_fee_per_gas = self.max_fee_per_gas.unwrap_or(settings.max_fee_per_gas);
        settings.max_priority_fee_per_gas =
            self.max_priority_fee_per_gas.unwrap_or(settings.max_priority_fee_per_gas);
        settings.agree = self.agree;
        Ok(Arc::new(ChainKernel::connect(settings).await?))
    }

    #[cfg(not(feature = "chain"))]
    async fn chain(
        &self,
        profile: NetworkProfile,
        _wallet: &Option<Arc<dyn Wallet>>,
        _storage: &Storage,
    ) -> Result<Arc<dyn Kernel>> {
        let message = format!("this build cannot reach {}: it has no chain", profile.name);
        Err(Error::new(Code::NetworkUnavailable, message)
            .with_hint("build the crate agirails with its feature \"chain\""))
    }

    /// The chain to reach, with what was set in place of its profile's; `None` for mock.
    fn network(&self, named: Option<&Path>) -> Result<Option<NetworkProfile>> {
        if self.mode == Mode::Mock {
            let chain_only = [
                ("network", self.profile.is_some()),
                ("rpc_url", !self.rpc_urls.is_empty()),
                ("contracts", self.contracts.is_some()),
                ("confirmations", self.confirmations.is_some()),
                ("wait_timeout", self.wait_timeout.is_some()),
                ("max_fee_per_gas", self.max_fee_per_gas.is_some()),
                ("max_priority_fee_per_gas", self.max_priority_fee_per_gas.is_some()),
                ("agree", self.agree.is_some()),
            ];
            return match chain_only.into_iter().find(|(_, set)| *set) {
                Some((field, _)) => Err(contradiction(
                    field,
                    format!("{field} is for a chain, and mode mock reaches none"),
                    "leave it out, or pass mode \"testnet\" or \"mainnet\"",
                )),
                None => Ok(None),
            };
        }
        if self.generation.is_some() {
            return Err(contradiction(
                "generation",
                format!("generation is for mode mock, not for {}", self.mode.as_str()),
                "leave it out: a kernel on a chain tells its own; choose among the networks with \
                 network",
            ));
        }
        if self.starting_balance.is_some() {
            return Err(contradiction(
                "starting_balance",
                format!("starting_balance is for mode mock, not for {}", self.mode.as_str()),
                "leave it out: on a chain an address owns what it was sent",
            ));
        }
        let mut profile = match (self.profile.clone(), self.mode, named) {
            (Some(profile), ..) => profile,
            (None, Mode::Testnet, Some(named)) => NetworkProfile::find(named)?,
            (None, Mode::Mainnet, _) => NetworkProfile::mainnet(),
            (None, ..) => NetworkProfile::testnet(),
        };
        if self.mode == Mode::Mainnet && profile.chain_id != MAINNET_CHAIN_ID {
            return Err(contradiction(
                "network",
                format!(
                    "mode mainnet is chain {MAINNET_CHAIN_ID}, and the profile's is {}",
                    profile.chain_id
                ),
                "pass mode \"testnet\" for a profile of any other chain",
            ));
        }
        if !self.rpc_urls.is_empty() {
            profile.rpc_urls.clone_from(&self.rpc_urls);
        }
        profile.contracts = self.contracts.unwrap_or(profile.contracts);
        Ok(Some(profile))
    }

    /// Whose rules for keys apply: chain 8453 is mainnet, whatever the mode is called.
    fn policy(&self, profile: Option<&NetworkProfile>) -> Mode {
        match profile {
            Some(profile) if profile.chain_id == MAINNET_CHAIN_ID => Mode::Mainnet,
            _ => self.mode,
        }
    }

    fn storage(&self) -> Result<Storage> {
        match (self.in_memory, &self.state_directory) {
            (true, None) => Ok(Storage::Memory),
            (false, _) => Ok(Storage::Directory(self.directory())),
            (true, Some(_)) => Err(contradiction(
                "in_memory",
                "in_memory and state_directory contradict each other".to_owned(),
                "pass one of them",
            )),
        }
    }

    async fn identity(
        &mut self,
        policy: Mode,
        environment: impl FnOnce() -> Result<KeyEnvironment>,
    ) -> Result<Identity> {
        if let Some(wallet) = self.wallet.take() {
            if self.key.is_some() || self.keystore.is_some() {
                return Err(contradiction(
                    "wallet",
                    "both a wallet and a key were passed".to_owned(),
                    "pass one of them",
                ));
            }
            let any: &dyn Any = &*wallet;
            let warning = match any.downcast_ref::<PrivateKey>() {
                Some(key) => admit(policy, key, "the private key that was passed as wallet")?,
                None => None,
            };
            return self.identify("the wallet", wallet, warning);
        }
        let mut sources = KeySources {
            private_key: self.key.take(),
            keystore: self.keystore.take(),
            ..KeySources::default()
        };
        // Test money needs no key: mock looks for one only where it must learn an address.
        if policy != Mode::Mock || self.address.is_none() {
            sources.environment = environment()?;
            sources.state_directory = Some(self.directory());
        }
        match (resolve_key(policy, sources).await?, self.address) {
            (Some(found), _) => self.identify(&found.source, Arc::new(found.key), found.warning),
            (None, Some(address)) => Ok(Identity { address, wallet: None, warnings: vec![] }),
            (None, None) => Err(Error::new(
                Code::InvalidSettings,
                "neither an address nor a key was given, and none was found",
            )
            .with_hint(format!(
                "pass the address of whom the client acts for (`address` of the builder, \
                 `requester_address` in Python); or, to sign, {NO_KEY_HINT}"
            ))
            .with_facts(|facts| facts.field = Some("address"))),
        }
    }

    fn identify(
        &self,
        source: &str,
        wallet: Arc<dyn Wallet>,
        warning: Option<String>,
    ) -> Result<Identity> {
        let owner = Signer::address(&*wallet);
        let address = self.address.unwrap_or(owner);
        if owner != address {
            return Err(Error::new(
                Code::KeyMismatch,
                format!("{source} belongs to {owner}, not to {address}"),
            )
            .with_hint("pass the key's own address, or the key of this address"));
        }
        Ok(Identity { address, wallet: Some(wallet), warnings: warning.into_iter().collect() })
    }
}

fn contradiction(field: &'static str, message: String, hint: &str) -> Error {
    Error::new(Code::InvalidSettings, message)
        .with_hint(hint)
        .with_facts(|facts| facts.field = Some(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CreateTransaction, DeliveryStatement, Evidence, State, TransactionId};

    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const OTHER: Address = Address::repeat_byte(0xfe);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn clear_key_in_the_environment() -> Result<KeyEnvironment> {
        Ok(KeyEnvironment { private_key: Some(SECRET.into()), ..KeyEnvironment::default() })
    }

    fn builder(mode: Mode) -> (tempfile::TempDir, ClientBuilder) {
        let directory = tempfile::tempdir().unwrap();
        let builder = ClientBuilder::default().mode(mode).state_directory(directory.path());
        (directory, builder)
    }

    #[test]
    fn the_variable_replaces_testnet_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("network.json");
        let devnet = NetworkProfile {
            name: "devnet".to_owned(),
            chain_id: 31_337,
            ..NetworkProfile::testnet()
        };
        std::fs::write(&file, serde_json::to_string(&devnet).unwrap()).unwrap();
        let network = |mode, named| builder(mode).1.network(named).unwrap();
        assert_eq!(network(Mode::Testnet, Some(&*file)), Some(devnet.clone()));
        assert_eq!(network(Mode::Testnet, None), Some(NetworkProfile::testnet()));
        assert_eq!(network(Mode::Mainnet, Some(&*file)), Some(NetworkProfile::mainnet()));
        assert_eq!(network(Mode::Mock, Some(&*file)), None);
        // What is passed goes before what is set.
        let passed = builder(Mode::Testnet).1.network_profile(NetworkProfile::testnet());
        assert_eq!(passed.network(Some(&file)).unwrap(), Some(NetworkProfile::testnet()));
        let missing = directory.path().join("none.json");
        let error = builder(Mode::Testnet).1.network(Some(&missing)).unwrap_err();
        assert_eq!(error.code(), Code::InvalidSettings);
    }

    #[test]
    fn urls_and_contracts_take_the_place_of_the_profiles() {
        let contracts = Contracts { actp_kernel: OTHER, ..NetworkProfile::testnet().contracts };
        let (_, builder) = builder(Mode::Mainnet);
        let builder = builder.rpc_url("http://a").rpc_url("http://b").contracts(contracts);
        let profile = builder.network(None).unwrap().unwrap();
        assert_eq!(profile.rpc_urls, ["http://a", "http://b"]);
        assert_eq!(profile.contracts.actp_kernel, OTHER);
        assert_eq!(profile.chain_id, NetworkProfile::mainnet().chain_id);
    }

    #[test]
    fn chain_8453_is_mainnet_in_any_mode() {
        let (_, builder) = builder(Mode::Testnet);
        assert_eq!(builder.policy(Some(&NetworkProfile::mainnet())), Mode::Mainnet);
        assert_eq!(builder.policy(Some(&NetworkProfile::testnet())), Mode::Testnet);
    }

    #[test]
    fn an_address_on_mock_asks_for_no_key() {
        let (_directory, builder) = builder(Mode::Mock);
        let mut builder = builder.address(OTHER);
        let unread = || -> Result<KeyEnvironment> { panic!("the environment was read") };
        let identity = run(builder.identity(Mode::Mock, unread)).unwrap();
        assert!(identity.wallet.is_none() && identity.address == OTHER);
    }

    #[test]
    fn a_key_of_the_environment_makes_the_client_or_is_refused() {
        let identify = |mode, address: Option<Address>| {
            let (_directory, mut builder) = builder(mode);
            builder.address = address;
            run(builder.identity(mode, clear_key_in_the_environment))
        };
        let owner = SECRET.parse::<PrivateKey>().unwrap().address();
        let mock = identify(Mode::Mock, None).unwrap();
        assert!(mock.warnings.is_empty() && mock.address == owner);
        for address in [None, Some(owner)] {
            let identity = identify(Mode::Testnet, address).unwrap();
            assert!(identity.address == owner && identity.wallet.is_some());
            assert_eq!(identity.warnings.len(), 1);
            assert!(!identity.warnings[0].contains(SECRET));
        }
        let code = |mode, address| identify(mode, address).map(|_| ()).unwrap_err().code();
        assert_eq!(code(Mode::Testnet, Some(OTHER)), Code::KeyMismatch);
        assert_eq!(code(Mode::Mainnet, Some(owner)), Code::KeyNotAllowed);
    }

    #[test]
    fn a_chain_client_without_key_reads_and_names_what_writing_needs() {
        run(async {
            let (_directory, builder) = builder(Mode::Mock);
            let mut client = builder.address(OTHER).connect().await.unwrap();
            client.read_only = true;
            assert!(client.balance().await.is_ok() && client.now().await.is_ok());
            let id = TransactionId::ZERO;
            let request = CreateTransaction::new(OTHER, Address::ZERO, Usdc(1), 1);
            let registry = client.registry().unwrap();
            let verification = crate::protocol::proof::Verification::default();
            let outcomes = [
                client.create_transaction(&request).await.map(drop),
                client.link_escrow(id).await.map(drop),
                client.accept_quote(id, Usdc(1)).await,
                client.transition_state(id, State::Settled, Evidence::None).await,
                client.release_milestone(id, Usdc(1)).await,
                client.release_escrow(id).await,
                client.anchor_attestation(id, id).await,
                client.approve(Usdc(1)).await,
                client.release(id, &verification).await,
                client.sign_delivery(DeliveryStatement::default()).await.map(drop),
                client.attest_delivery(DeliveryStatement::default()).await.map(drop),
                registry.register_agent("https://example.com", &[]).await,
                registry.update_endpoint("https://example.com").await,
                registry.add_service_type("a").await,
                registry.remove_service_type("a").await,
                registry.set_active_status(true).await,
            ];
            for outcome in outcomes {
                let error = outcome.unwrap_err();
                assert_eq!(error.code(), Code::KeyMissing);
                assert!(error.hint().unwrap().contains("keystore"));
            }
        });
    }
}
