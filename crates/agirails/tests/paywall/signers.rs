//! Who signs for a requester: its key, its contract, a session key that it appointed; and who does
//! not, whatever they try.

use std::time::Duration;

use agirails::{
    Address, B256, PrivateKey, SessionKey, TransactionId, U256, Usdc,
    kernel::ContractFinding,
    paywall::{Charge, Incoming, Paywall, Settings, Unsigned},
    protocol::{
        id::transaction_id,
        paid_request::PaidRequest,
        wallet_signature::{ContractQuestion, WalletSignature},
    },
};
use agirails_devnet::{Devnet, artifacts};
use alloy_primitives::Bytes;
use alloy_sol_types::{SolCall, SolValue, sol};

use crate::{
    faulty_kernel::{FaultyKernel, Mood},
    fixture::{CENTS_10, Stage, answer, charge, client, json, key, ok, run, unsigned},
    generation::generation,
};

fn strict() -> Settings {
    Settings { unsigned: Some(Unsigned::Refuse), ..Settings::default() }
}

/// A signature that only a contract can make something of.
fn contracts_own(seed: u8) -> WalletSignature {
    WalletSignature::from_bytes(vec![seed; 96]).unwrap()
}

/// The request as its requester's wallet signs it; `byte` makes one signature differ from another.
pub async fn by_contract(
    stage: &Stage,
    id: TransactionId,
    key: Option<&str>,
    byte: u8,
) -> Incoming {
    let now = stage.requester.now().await.unwrap();
    let mut incoming = unsigned(id, "/api/generate", b"{}");
    incoming.idempotency_key = key.map(str::to_owned);
    incoming.signature = Some(format!("t={now},s={}", contracts_own(byte)));
    incoming
}

/// The request with a session key's signature.
async fn by_session(
    stage: &Stage,
    session: &SessionKey,
    appointed: WalletSignature,
    id: TransactionId,
    key: Option<&str>,
) -> Incoming {
    let now = stage.requester.now().await.unwrap();
    let network = stage.requester.network();
    let mut request = PaidRequest::new(id, "POST", "/api/generate", b"{}", now);
    request.idempotency_key = key.unwrap_or_default().to_owned();
    let mut incoming = unsigned(id, "/api/generate", b"{}");
    incoming.idempotency_key = key.map(str::to_owned);
    incoming.session = Some(session.appointed(appointed));
    incoming.signature =
        Some(session.sign_request(&request, network.chain_id, network.kernel).unwrap());
    incoming
}

async fn session(stage: &Stage, id: TransactionId) -> SessionKey {
    SessionKey::random(id, stage.requester.now().await.unwrap() + 600).unwrap()
}

fn signed_by(stage: &Stage, wallet: &PrivateKey, session: &SessionKey) -> WalletSignature {
    let network = stage.requester.network();
    let hash = session.session().signing_hash(network.chain_id, network.kernel);
    wallet.sign_hash(&hash).unwrap().into()
}

#[tokio::test]
async fn a_contract_is_asked_once_about_each_signature() {
    let stage = Stage::new().await;
    let node = FaultyKernel::of(&stage);
    let paywall = stage.behind(&node).settings(strict()).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    let request = by_contract(&stage, id, None, 1).await;

    // A "no" is believed for seconds, and "out of reach" not at all.
    node.wallets_say(ContractFinding::Refused);
    for _ in 0..20 {
        assert_eq!(answer(paywall.enter(&charge, &request, None).await).status, 401);
    }
    assert_eq!(node.questions(), 1);
    node.is(Mood::SeesNothing);
    let other = by_contract(&stage, id, None, 2).await;
    assert_eq!(answer(paywall.enter(&charge, &other, None).await).status, 503);
    node.is(Mood::Well);
    node.wallets_say(ContractFinding::Accepted);
    let served = run(paywall.enter(&charge, &other, None).await).finish(ok("hello")).await;
    assert_eq!(served.status, 200);
    // Repeats of the very same request cost the chain nothing.
    for _ in 0..20 {
        assert_eq!(answer(paywall.enter(&charge, &other, None).await).status, 200);
    }
    assert_eq!(node.questions(), 3);
}

#[tokio::test]
async fn a_wallet_that_appointed_a_session_key_is_asked_once_for_all_its_calls() {
    let stage = Stage::new().await;
    let node = FaultyKernel::of(&stage);
    node.wallets_say(ContractFinding::Accepted);
    let paywall = stage.behind(&node).settings(strict()).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(Usdc(1_000_000)).await;
    let session = session(&stage, id).await;
    for number in 0..5 {
        let call = format!("call-{number}");
        let request = by_session(&stage, &session, contracts_own(1), id, Some(&call)).await;
        let served = run(paywall.enter(&charge, &request, None).await).finish(ok("hello")).await;
        assert_eq!(served.status, 200);
    }
    assert_eq!(node.questions(), 1);
    // And a session key closes what is left, as its requester can.
    let now = stage.requester.now().await.unwrap();
    let network = stage.requester.network();
    let target = format!("/api/payments/{id}/close");
    let mut close = Incoming::new("POST", &target, b"");
    let request = PaidRequest::new(id, "POST", &target, b"", now);
    close.session = Some(session.appointed(contracts_own(1)));
    close.signature =
        Some(session.sign_request(&request, network.chain_id, network.kernel).unwrap());
    assert_eq!(paywall.page(&close).await.unwrap().status, 202);
    assert_eq!(node.questions(), 1);
}

#[tokio::test]
async fn a_session_key_is_good_for_its_transaction_and_its_time_only() {
    let stage = Stage::new().await;
    let node = FaultyKernel::of(&stage);
    let paywall = stage.behind(&node).settings(strict()).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let (id, other) = (stage.funded(CENTS_10).await, stage.funded(CENTS_10).await);
    let owner = key(2);
    let session = session(&stage, id).await;
    let appointed = signed_by(&stage, &owner, &session);
    let status = async |request: Incoming| {
        let refused = answer(paywall.enter(&charge, &request, None).await);
        (refused.status, json(&refused)["error"].clone())
    };
    let wrong = (401, "Invalid Signature".into());

    // Appointed for one transaction, used for another of the same requester.
    let elsewhere = SessionKey::of(key(9), other, u64::MAX);
    let stolen = by_session(&stage, &session, appointed.clone(), other, None).await;
    assert_eq!(status(stolen).await, wrong);
    // Appointed by somebody else, or by itself.
    for signer in [key(3), key(9)] {
        let appointed = signed_by(&stage, &signer, &elsewhere);
        let forged = by_session(&stage, &elsewhere, appointed, other, None).await;
        assert_eq!(status(forged).await, wrong);
    }
    // A longer time than the wallet signed, another key than it named, and a time that is over.
    let good = by_session(&stage, &session, appointed.clone(), id, None).await;
    let now = stage.requester.now().await.unwrap();
    let longer = SessionKey::of(key(9), id, u64::MAX);
    let mut renamed = good.clone();
    renamed.session = Some(longer.appointed(appointed.clone()));
    assert_eq!(status(renamed).await, wrong);
    let over = SessionKey::of(key(9), id, now - 1);
    let appointed_then = signed_by(&stage, &owner, &over);
    assert_eq!(status(by_session(&stage, &over, appointed_then, id, None).await).await, wrong);
    // The appointment without a signature of the request, and one that cannot be read.
    let mut bare = good.clone();
    bare.signature = None;
    assert_eq!(status(bare).await, (401, "Signature Required".into()));
    let mut broken = good.clone();
    broken.session = Some("k=0x00,u=1,s=0x00".to_owned());
    assert_eq!(status(broken).await, (400, "Invalid Session Header".into()));
    // A key is no contract: the chain is asked once about its address, however many forge.
    assert!(node.questions() <= 1, "{}", node.questions());

    assert_eq!(run(paywall.enter(&charge, &good, None).await).finish(ok("x")).await.status, 200);
}

#[tokio::test]
async fn forged_signatures_of_a_keys_transaction_cost_one_question() {
    let stage = Stage::new().await;
    let node = FaultyKernel::of(&stage);
    let paywall = stage.behind(&node).settings(strict()).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    for number in 0..50 {
        let forged = match number % 2 {
            0 => by_contract(&stage, id, None, number).await,
            _ => {
                let by = u64::from(number) + 100;
                stage.signed_by(by, id, None, "/api/generate", b"{}").await
            }
        };
        assert_eq!(answer(paywall.enter(&charge, &forged, None).await).status, 401);
    }
    assert_eq!(node.questions(), 1);
    let honest = stage.signed(id, None, b"{}").await;
    run(paywall.enter(&charge, &honest, None).await).finish(ok("x")).await;
    assert_eq!(node.questions(), 1);
}

#[tokio::test]
async fn a_401_says_what_to_sign_and_who_may() {
    let stage = Stage::new().await;
    let paywall = stage.builder().settings(strict()).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    let mut bare = unsigned(id, "/api/generate?b=%2f", b"{}");
    bare.idempotency_key = Some("a".to_owned());
    let told = json(&answer(paywall.enter(&charge, &bare, None).await));
    let signing = &told["signing"];
    assert_eq!(signing["header"], "X-AGIRAILS-SIGNATURE");
    let typed = &signing["typedData"];
    let network = stage.requester.network();
    assert_eq!(typed["domain"]["chainId"], network.chain_id);
    assert_eq!(typed["domain"]["verifyingContract"], serde_json::json!(network.kernel));
    assert_eq!(typed["primaryType"], "PaidRequest");
    assert_eq!(typed["message"]["txId"], id.to_string());
    assert_eq!(typed["message"]["target"], "/api/generate?b=%2F");
    assert_eq!(typed["message"]["idempotencyKey"], "a");
    assert_eq!(signing["session"]["typedData"]["primaryType"], "Session");
    assert_eq!(signing["signers"].as_array().unwrap().len(), 3);
    // What it says can be followed to the letter.
    let timestamp: u64 = typed["message"]["timestamp"].as_str().unwrap().parse().unwrap();
    let mut request = PaidRequest::new(id, "POST", "/api/generate?b=%2f", b"{}", timestamp);
    request.idempotency_key = "a".to_owned();
    assert_eq!(request.typed_data(network.chain_id, network.kernel), *typed);
    bare.signature = Some(key(2).sign_request(&request, network.chain_id, network.kernel).unwrap());
    run(paywall.enter(&charge, &bare, None).await).finish(ok("x")).await;
}

sol! {
    function execute(address to, bytes data);
    function create(address owner, bytes32 salt);
    function predict(address owner, bytes32 salt) returns (address);
    function approve(address spender, uint256 amount);
    function createTransaction(
        address provider,
        address requester,
        uint256 amount,
        uint256 deadline,
        uint256 disputeWindow,
        bytes32 serviceHash,
        uint256 agentId,
        uint256 requesterAgentId
    );
    function createTransaction(
        address provider,
        address requester,
        uint256 amount,
        uint256 deadline,
        uint256 disputeWindow,
        bytes32 serviceHash,
        bytes32 agreementHash,
        uint256 agentId,
        uint256 requesterAgentId
    );
    function linkEscrow(bytes32 id, address vault, bytes32 escrowId);
}

/// A contract wallet on a devnet, and a provider.
struct Chain {
    devnet: Devnet,
    provider: agirails::ACTPClient,
    paywall: Paywall,
    charge: std::sync::Arc<Charge>,
    _directory: tempfile::TempDir,
}

impl Chain {
    async fn start() -> Self {
        let devnet = Devnet::builder().generation(generation()).start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let provider_key = devnet.accounts()[1].private_key.clone();
        let provider = client(provider_key, directory.path(), Some(devnet.profile())).await;
        let paywall = Paywall::builder(provider.clone()).settings(strict()).open().await.unwrap();
        let charge = charge(&paywall, CENTS_10);
        Self { devnet, provider, paywall, charge, _directory: directory }
    }

    fn owner(&self) -> &agirails_devnet::Account {
        &self.devnet.accounts()[3]
    }

    /// What this wallet's owner has it do.
    async fn execute(&self, wallet: Address, to: Address, call: Vec<u8>) {
        let call = executeCall { to, data: call.into() };
        let data = call.abi_encode().into();
        self.devnet.send(self.owner().address, Some(wallet), data).await.unwrap();
    }

    /// A transaction that this wallet created and funded.
    async fn funded(&self, wallet: Address, amount: Usdc) -> TransactionId {
        let contracts = &self.devnet.profile().contracts;
        let provider = self.provider.address();
        self.devnet.mint(wallet, amount).await.unwrap();
        let deadline = self.devnet.now().await.unwrap() + 7_200;
        let [units, deadline, window] = [amount.0, deadline, 3_600].map(U256::from);
        let (zero, nobody) = (B256::ZERO, U256::ZERO);
        let create = if self.provider.network().terms.takes_agreements() {
            let with_agreement =
                (provider, wallet, units, deadline, window, zero, zero, nobody, nobody);
            createTransaction_1Call::from(with_agreement).abi_encode()
        } else {
            let without = (provider, wallet, units, deadline, window, zero, nobody, nobody);
            createTransaction_0Call::from(without).abi_encode()
        };
        self.execute(wallet, contracts.actp_kernel, create).await;
        let id = transaction_id(wallet, provider, amount, B256::ZERO, 0);
        let approve = approveCall { spender: contracts.escrow_vault, amount: U256::from(amount.0) };
        self.execute(wallet, contracts.usdc, approve.abi_encode()).await;
        let link = linkEscrowCall { id, vault: contracts.escrow_vault, escrowId: id };
        self.execute(wallet, contracts.actp_kernel, link.abi_encode()).await;
        id
    }

    async fn signed(
        &self,
        id: TransactionId,
        key: &str,
        sign: impl FnOnce(B256) -> WalletSignature,
    ) -> Incoming {
        let network = self.provider.network();
        let now = self.devnet.now().await.unwrap();
        let mut request = PaidRequest::new(id, "POST", "/api/generate", b"{}", now);
        request.idempotency_key = key.to_owned();
        let signature = sign(request.signing_hash(network.chain_id, network.kernel));
        let mut incoming = unsigned(id, "/api/generate", b"{}");
        incoming.idempotency_key = Some(key.to_owned());
        incoming.signature = Some(request.signed(signature).to_string());
        incoming
    }
}

fn longer(signature: &[u8]) -> WalletSignature {
    WalletSignature::from_bytes([signature, &[0; 31]].concat()).unwrap()
}

fn envelope(factory: Address, prepare: Vec<u8>, inner: &[u8]) -> Vec<u8> {
    let body = (factory, Bytes::from(prepare), Bytes::copy_from_slice(inner));
    [body.abi_encode_params(), [0x64, 0x92].repeat(16)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_wallet_on_a_chain_pays_signs_and_appoints() {
    let chain = Chain::start().await;
    let owner = chain.owner().clone();
    let arguments = owner.address.abi_encode();
    let wallet = chain.devnet.deploy(artifacts::CONTRACT_WALLET, &arguments).await.unwrap();
    let id = chain.funded(wallet, Usdc(1_000_000)).await;
    let enter = async |request: &Incoming| {
        let entry = chain.paywall.enter(&chain.charge, request, None).await;
        run(entry).finish(ok("hello")).await.status
    };
    let sign = |hash: B256| owner.private_key.sign_hash(&hash).unwrap();

    // The owner's 65 bytes, a longer signature, and one in an envelope though it is deployed.
    let request = chain.signed(id, "plain", |hash| sign(hash).into()).await;
    assert_eq!(enter(&request).await, 200);
    let request = chain.signed(id, "longer", |hash| longer(&sign(hash).as_bytes())).await;
    assert_eq!(enter(&request).await, 200);
    let wrapped = |hash| {
        let inner = sign(hash).as_bytes();
        WalletSignature::from_bytes(envelope(Address::ZERO, vec![], &inner)).unwrap()
    };
    let request = chain.signed(id, "wrapped", wrapped).await;
    assert_eq!(enter(&request).await, 200);

    // A session key that the contract appoints.
    let network = chain.provider.network();
    let now = chain.devnet.now().await.unwrap();
    let session = SessionKey::random(id, now + 600).unwrap();
    let hash = session.session().signing_hash(network.chain_id, network.kernel);
    let appointed = session.appointed(longer(&sign(hash).as_bytes()));
    for call in ["first", "second"] {
        let mut request = PaidRequest::new(id, "POST", "/api/generate", b"{}", now);
        request.idempotency_key = call.to_owned();
        let mut incoming = unsigned(id, "/api/generate", b"{}");
        incoming.idempotency_key = Some(call.to_owned());
        incoming.session = Some(appointed.clone());
        incoming.signature =
            Some(session.sign_request(&request, network.chain_id, network.kernel).unwrap());
        assert_eq!(enter(&incoming).await, 200);
    }

    // Anybody else's signature, in any of these shapes.
    let stranger = &chain.devnet.accounts()[4].private_key;
    let forge = |hash: B256| stranger.sign_hash(&hash).unwrap().as_bytes();
    type Shape = fn(&[u8]) -> Vec<u8>;
    let shapes: [Shape; 4] = [
        <[u8]>::to_vec,
        |inner| [inner, &[0; 31]].concat(),
        |inner| envelope(Address::ZERO, vec![], inner),
        // An envelope that cannot be opened.
        |_| [vec![0xff; 96], [0x64, 0x92].repeat(16)].concat(),
    ];
    for (number, shape) in shapes.into_iter().enumerate() {
        let signature = |hash| WalletSignature::from_bytes(shape(&forge(hash))).unwrap();
        let request = chain.signed(id, &format!("forged-{number}"), signature).await;
        let refused = answer(chain.paywall.enter(&chain.charge, &request, None).await);
        assert_eq!(refused.status, 401, "{number}: {}", json(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_is_not_there_yet_is_asked_as_if_it_were() {
    let chain = Chain::start().await;
    let owner = chain.owner().clone();
    let factory = chain.devnet.deploy(artifacts::CONTRACT_WALLET_FACTORY, &[]).await.unwrap();
    let salt = B256::repeat_byte(5);
    let predict = predictCall { owner: owner.address, salt }.abi_encode();
    let call = serde_json::json!([{"to": factory, "data": Bytes::from(predict)}, "latest"]);
    let word = chain.devnet.rpc("eth_call", call).await.unwrap();
    let word: B256 = word.as_str().unwrap().parse().unwrap();
    let wallet = Address::from_word(word);

    let hash = B256::repeat_byte(6);
    let inner = owner.private_key.sign_hash(&hash).unwrap().as_bytes();
    let create = createCall { owner: owner.address, salt }.abi_encode();
    let kernel = chain.provider.kernel();
    let ask = async |hash, signature: Vec<u8>| {
        let question = ContractQuestion { wallet, hash, signature: signature.into() };
        kernel.ask_wallet(&question).await.unwrap()
    };
    let wrapped = envelope(factory, create.clone(), &inner);
    assert_eq!(ask(hash, wrapped.clone()).await, ContractFinding::Accepted);
    assert_eq!(ask(B256::ZERO, wrapped.clone()).await, ContractFinding::Refused);
    assert_eq!(ask(hash, inner.to_vec()).await, ContractFinding::NoContract);
    // Asking leaves nothing behind on the chain.
    let code = chain.devnet.rpc("eth_getCode", serde_json::json!([wallet, "latest"])).await;
    assert_eq!(code.unwrap(), "0x");
    // A factory that is none deploys nothing.
    let nowhere = envelope(Address::repeat_byte(9), create, &inner);
    assert_eq!(ask(hash, nowhere).await, ContractFinding::NoContract);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_contract_cannot_hold_up_the_paywall() {
    let chain = Chain::start().await;
    let kernel = chain.provider.kernel();
    for (is_endless, expected) in
        [(false, ContractFinding::Refused), (true, ContractFinding::Accepted)]
    {
        let arguments = is_endless.abi_encode();
        let wallet = chain.devnet.deploy(artifacts::HOSTILE_WALLET, &arguments).await.unwrap();
        let hash = B256::repeat_byte(6);
        let bare = vec![1; 100];
        // Also where its "factory" burns all gas, and the answer is asked for twice.
        let burner = chain.devnet.deploy(artifacts::HOSTILE_WALLET, &false.abi_encode()).await;
        let burn = [[0x16, 0x26, 0xba, 0x7e].as_slice(), &[0; 32 * 3]].concat();
        for signature in [bare.clone(), envelope(burner.unwrap(), burn, &bare)] {
            let question = ContractQuestion { wallet, hash, signature: signature.into() };
            let asked = tokio::time::timeout(Duration::from_secs(60), kernel.ask_wallet(&question));
            assert_eq!(asked.await.unwrap().unwrap(), expected);
        }
    }
    // What is no address of a contract is found out, and nothing else fails.
    let question = ContractQuestion {
        wallet: Address::repeat_byte(7),
        hash: B256::ZERO,
        signature: vec![0; 2_048].into(),
    };
    assert_eq!(kernel.ask_wallet(&question).await, Ok(ContractFinding::NoContract));
}
