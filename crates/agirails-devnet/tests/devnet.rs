//! A devnet and its contracts. Needs anvil.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::time::{SystemTime, UNIX_EPOCH};

use agirails::{Code, Generation, NetworkProfile, Result, Usdc};
use agirails_devnet::{Devnet, artifacts};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolValue, sol};
use serde_json::{Value, json};

sol! {
    struct Transaction {
        bytes32 transactionId; address requester; address provider; uint8 state; uint256 amount;
        uint256 createdAt; uint256 updatedAt; uint256 deadline; bytes32 serviceHash;
        address escrowContract; bytes32 escrowId; bytes32 attestationUID; uint256 disputeWindow;
        bytes32 metadata; uint16 platformFeeBpsLocked; uint16 requesterPenaltyBpsLocked;
        uint16 disputeBondBpsLocked; uint256 agentId; uint256 requesterAgentId;
        address disputeInitiator; uint256 disputeBond;
    }
    struct ServiceDescriptor {
        bytes32 serviceTypeHash; string serviceType; string schemaURI; uint256 minPrice;
        uint256 maxPrice; uint256 avgCompletionTime; string metadataCID;
    }
    struct AgentProfile {
        address agentAddress; string did; string endpoint; bytes32[] serviceTypes;
        uint256 stakedAmount; uint256 reputationScore; uint256 totalTransactions;
        uint256 disputedTransactions; uint256 totalVolumeUSDC; uint256 registeredAt;
        uint256 updatedAt; bool isActive; bytes32 configHash; string configCID; bool listed;
    }
    struct AttestationRequestData {
        address recipient; uint64 expirationTime; bool revocable; bytes32 refUID; bytes data;
        uint256 value;
    }
    struct AttestationRequest { bytes32 schema; AttestationRequestData data; }
    struct Attestation {
        bytes32 uid; bytes32 schema; uint64 time; uint64 expirationTime; uint64 revocationTime;
        bytes32 refUID; address recipient; address attester; bool revocable; bytes data;
    }
    struct Answer { bool success; bytes returnData; uint256 codeSize; }

    function createTransaction(
        address provider, address requester, uint256 amount, uint256 deadline,
        uint256 disputeWindow, bytes32 serviceHash, uint256 agentId, uint256 requesterAgentId
    ) returns (bytes32);
    function linkEscrow(bytes32 id, address vault, bytes32 escrowId);
    function transitionState(bytes32 id, uint8 state, bytes data);
    function getTransaction(bytes32 id) returns (Transaction);
    function paused() returns (bool);
    function disputeBondBps() returns (uint16);
    function recoveryGrace() returns (uint256);
    function platformFeeBps() returns (uint16);
    function approve(address spender, uint256 amount);
    function balanceOf(address owner) returns (uint256);
    function registerAgent(string endpoint, ServiceDescriptor[] services);
    function getAgent(address agent) returns (AgentProfile);
    function attest(AttestationRequest request) returns (bytes32);
    function getAttestation(bytes32 uid) returns (Attestation);
    function getBalance() returns (uint256);
    function approvedMediators(address mediator) returns (bool);
    function mediatorApprovedAt(address mediator) returns (uint256);
    function compositeMediator() returns (address);
    function bondEscalation() returns (address);
}

/// What a contract would answer to whoever.
async fn read<C: SolCall>(devnet: &Devnet, to: Address, call: C) -> Result<C::Return> {
    let data = Bytes::from(call.abi_encode());
    let answer = devnet.rpc("eth_call", json!([{"to": to, "data": data}, "latest"])).await?;
    let bytes: Bytes = answer.as_str().unwrap().parse().unwrap();
    Ok(C::abi_decode_returns(&bytes).unwrap())
}

async fn send(devnet: &Devnet, from: Address, to: Address, call: impl SolCall) -> Result<Value> {
    devnet.send(from, Some(to), call.abi_encode().into()).await
}

/// A transaction between the first two accounts, COMMITTED.
async fn committed(devnet: &Devnet, amount: u64) -> Result<B256> {
    let contracts = devnet.profile().contracts;
    let (requester, provider) = (devnet.accounts()[0].address, devnet.accounts()[1].address);
    let create = createTransactionCall {
        provider,
        requester,
        amount: U256::from(amount),
        deadline: U256::from(devnet.now().await? + 86_400),
        disputeWindow: U256::from(7_200),
        serviceHash: B256::ZERO,
        agentId: U256::ZERO,
        requesterAgentId: U256::ZERO,
    };
    let receipt = send(devnet, requester, contracts.actp_kernel, create).await?;
    let id: B256 = receipt["logs"][0]["topics"][1].as_str().unwrap().parse().unwrap();
    let approve = approveCall { spender: contracts.escrow_vault, amount: U256::from(amount) };
    send(devnet, requester, contracts.usdc, approve).await?;
    let link = linkEscrowCall { id, vault: contracts.escrow_vault, escrowId: id };
    send(devnet, requester, contracts.actp_kernel, link).await?;
    Ok(id)
}

async fn step(devnet: &Devnet, by: Address, id: B256, state: u8, data: &[u8]) -> Result<Value> {
    let call = transitionStateCall { id, state, data: data.to_vec().into() };
    send(devnet, by, devnet.profile().contracts.actp_kernel, call).await
}

async fn balance(devnet: &Devnet, owner: Address) -> Result<U256> {
    read(devnet, devnet.profile().contracts.usdc, balanceOfCall { owner }).await
}

#[tokio::test]
async fn a_devnet_starts_with_contracts_and_rich_accounts() {
    let devnet = Devnet::start().await.unwrap();
    assert!(devnet.rpc_url().starts_with("http://127.0.0.1:"));
    assert_eq!(devnet.rpc("eth_chainId", json!([])).await.unwrap(), "0x7a69");
    assert_eq!(devnet.chain_id(), devnet.profile().chain_id);
    let contracts = devnet.profile().contracts;
    for address in
        [contracts.actp_kernel, contracts.escrow_vault, contracts.usdc].into_iter().chain(
            [contracts.agent_registry, contracts.archive_treasury, contracts.eas]
                .map(Option::unwrap),
        )
    {
        let code = devnet.rpc("eth_getCode", json!([address, "latest"])).await.unwrap();
        assert!(code.as_str().unwrap().len() > 100, "{address}");
    }
    assert_eq!(devnet.accounts().len(), 10);
    let wealth = U256::from(10_000) * U256::from(10).pow(U256::from(18));
    for account in devnet.accounts() {
        assert_eq!(account.address, account.private_key.address());
        assert_eq!(
            balance(&devnet, account.address).await.unwrap(),
            U256::from(1_000_000_000_000u64)
        );
        let wei = devnet.rpc("eth_getBalance", json!([account.address, "latest"])).await.unwrap();
        assert_eq!(wei, json!(wealth));
        assert_eq!(format!("{account:?}"), format!("Account({})", account.address));
    }
    assert!(!format!("{devnet:?}").contains(&devnet.accounts()[0].secret()[2..]));
    assert_eq!(balance(&devnet, devnet.admin().address).await.unwrap(), U256::ZERO);
}

#[tokio::test]
async fn disputes_are_decided_by_bonds_from_the_start_where_the_kernel_allows_it() {
    let plain = Devnet::start().await.unwrap();
    assert_eq!(plain.profile().contracts.bond_escalation, None);
    for interval in [None, Some(std::time::Duration::from_secs(1))] {
        let mut builder = Devnet::builder().generation(Generation::Aip14c);
        if let Some(interval) = interval {
            builder = builder.block_time(interval);
        }
        let devnet = builder.start().await.unwrap();
        let contracts = devnet.profile().contracts;
        // All else lies where it always does.
        assert_eq!(contracts.actp_kernel, plain.profile().contracts.actp_kernel);
        assert_eq!(contracts.eas, plain.profile().contracts.eas);
        let escalation = contracts.bond_escalation.unwrap();
        let mediator = read(&devnet, escalation, compositeMediatorCall {}).await.unwrap();
        assert_eq!(read(&devnet, mediator, bondEscalationCall {}).await.unwrap(), escalation);
        let kernel = contracts.actp_kernel;
        assert!(read(&devnet, kernel, approvedMediatorsCall { mediator }).await.unwrap());
        let since = read(&devnet, kernel, mediatorApprovedAtCall { mediator }).await.unwrap();
        let (now, own) = (devnet.now().await.unwrap(), SystemTime::now());
        assert!(since <= U256::from(now));
        // The chain's clock is this machine's all the same.
        let own = own.duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(own) < 30, "{now} and {own}");
    }
}

#[tokio::test]
async fn a_profile_is_written_for_clients_to_read() {
    let devnet = Devnet::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("devnet.json");
    devnet.write_profile(&path).unwrap();
    assert_eq!(NetworkProfile::from_file(&path).unwrap(), *devnet.profile());
    let error = devnet.write_profile(directory.path().join("no/devnet.json")).unwrap_err();
    assert_eq!(error.code(), Code::DevnetUnavailable);
}

#[tokio::test]
async fn two_devnets_have_the_same_contracts_on_ports_of_their_own() {
    let (first, second) = (Devnet::start().await.unwrap(), Devnet::start().await.unwrap());
    assert_eq!(first.profile().contracts, second.profile().contracts);
    assert_ne!(first.rpc_url(), second.rpc_url());
}

#[tokio::test]
async fn a_call_is_paid_for_from_unlocked_accounts() -> Result<()> {
    let devnet = Devnet::start().await?;
    let (requester, provider) = (devnet.accounts()[0].address, devnet.accounts()[1].address);
    let contracts = devnet.profile().contracts;
    let registry = contracts.agent_registry.unwrap();
    let service = ServiceDescriptor {
        serviceTypeHash: keccak256("ai-completion"),
        serviceType: "ai-completion".to_owned(),
        schemaURI: String::new(),
        minPrice: U256::ZERO,
        maxPrice: U256::ZERO,
        avgCompletionTime: U256::ZERO,
        metadataCID: String::new(),
    };
    let register =
        registerAgentCall { endpoint: "https://a.example".to_owned(), services: vec![service] };
    send(&devnet, provider, registry, register).await?;

    let id = committed(&devnet, 20_000_000).await?;
    step(&devnet, provider, id, 3, &[]).await?;
    step(&devnet, provider, id, 4, &[]).await?;
    let early = step(&devnet, provider, id, 5, &[]).await.unwrap_err();
    assert!(early.to_string().contains("Requester decision pending"), "{early}");
    devnet.advance_time(2 * 86_400 + 1).await?;
    step(&devnet, provider, id, 5, &[]).await?;

    let transaction = read(&devnet, contracts.actp_kernel, getTransactionCall { id }).await?;
    assert_eq!((transaction.transactionId, transaction.state), (id, 5));
    assert_eq!((transaction.requester, transaction.provider), (requester, provider));
    // 20 USDC: a fee of 0.20, a thousandth of which is the archive's.
    let start = 1_000_000_000_000u64;
    assert_eq!(balance(&devnet, requester).await?, U256::from(start - 20_000_000));
    assert_eq!(balance(&devnet, provider).await?, U256::from(start + 19_800_000));
    let treasury = contracts.archive_treasury.unwrap();
    assert_eq!(read(&devnet, treasury, getBalanceCall {}).await?, U256::from(200));
    let agent = read(&devnet, registry, getAgentCall { agent: provider }).await?;
    assert_eq!(agent.did, format!("did:ethr:31337:{provider:#x}"));
    assert_eq!(agent.totalVolumeUSDC, U256::from(20_000_000));
    // The first step for volume is at 100 USDC.
    assert_eq!(agent.reputationScore, U256::from(7_000));
    Ok(())
}

#[tokio::test]
async fn a_mediator_is_paid_once_its_approval_counts() -> Result<()> {
    let devnet = Devnet::start().await?;
    let [requester, provider, mediator] = [0, 1, 2].map(|number| devnet.accounts()[number].address);
    let contracts = devnet.profile().contracts;
    devnet.approve_mediator(mediator).await?;
    let id = committed(&devnet, 10_000_000).await?;
    step(&devnet, provider, id, 3, &[]).await?;
    step(&devnet, provider, id, 4, &[]).await?;
    let bond = approveCall { spender: contracts.escrow_vault, amount: U256::from(1_000_000) };
    send(&devnet, requester, contracts.usdc, bond).await?;
    step(&devnet, requester, id, 6, &[]).await?;

    let amount = |number: u64| U256::from(number);
    let split = (amount(4_000_000), amount(5_000_000), mediator, amount(1_000_000), false)
        .abi_encode_params();
    let admin = devnet.admin().address;
    let early = step(&devnet, admin, id, 5, &split).await.unwrap_err();
    assert!(early.to_string().contains("Mediator approval pending"), "{early}");
    devnet.advance_time(2 * 86_400).await?;
    step(&devnet, admin, id, 5, &split).await?;
    let start = 1_000_000_000_000u64;
    assert_eq!(
        balance(&devnet, requester).await?,
        U256::from(start - 10_000_000 - 1_000_000 + 4_000_000)
    );
    assert_eq!(balance(&devnet, provider).await?, U256::from(start + 4_950_000 + 1_000_000));
    assert_eq!(balance(&devnet, mediator).await?, U256::from(start + 1_000_000));
    Ok(())
}

#[tokio::test]
async fn deliveries_are_attested() -> Result<()> {
    let devnet = Devnet::start().await?;
    let [requester, provider] = [0, 1].map(|number| devnet.accounts()[number].address);
    let (eas, schema) =
        (devnet.profile().contracts.eas.unwrap(), devnet.profile().eas_schema.unwrap());
    let attest = |schema| AttestationRequest {
        schema,
        data: AttestationRequestData {
            recipient: requester,
            expirationTime: 0,
            revocable: true,
            refUID: B256::ZERO,
            data: Bytes::from_static(b"data"),
            value: U256::ZERO,
        },
    };
    let receipt = send(&devnet, provider, eas, attestCall { request: attest(schema) }).await?;
    let log = &receipt["logs"][0];
    let event = keccak256("Attested(address,address,bytes32,bytes32)");
    assert_eq!(log["topics"], json!([event, requester.into_word(), provider.into_word(), schema]));
    let uid: B256 = log["data"].as_str().unwrap().parse().unwrap();
    let attestation = read(&devnet, eas, getAttestationCall { uid }).await?;
    assert_eq!((attestation.uid, attestation.schema), (uid, schema));
    assert_eq!((attestation.recipient, attestation.attester), (requester, provider));
    assert_eq!(attestation.data, Bytes::from_static(b"data"));
    let unknown = attestCall { request: attest(B256::ZERO) };
    assert!(send(&devnet, provider, eas, unknown).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_lens_reads_much_of_one_block_in_one_round_trip() -> Result<()> {
    let devnet = Devnet::start().await?;
    let contracts = devnet.profile().contracts;
    let id = committed(&devnet, 1_000_000).await?;
    let targets = vec![contracts.actp_kernel, contracts.actp_kernel, Address::repeat_byte(1)];
    let missing = getTransactionCall { id: B256::ZERO };
    let calls: Vec<Bytes> = [getTransactionCall { id }, missing.clone(), missing]
        .iter()
        .map(|call| call.abi_encode().into())
        .collect();
    let data = artifacts::LENS.creation(&(targets, calls).abi_encode_params());
    let answer = devnet.rpc("eth_call", json!([{"data": data}, "latest"])).await?;
    let bytes: Bytes = answer.as_str().unwrap().parse().unwrap();
    let (block, time, answers) = <(U256, U256, Vec<Answer>)>::abi_decode_params(&bytes).unwrap();
    assert_eq!(json!(block), devnet.rpc("eth_blockNumber", json!([])).await?);
    assert!(time >= U256::from(devnet.now().await?));
    let read = getTransactionCall::abi_decode_returns(&answers[0].returnData).unwrap();
    assert_eq!((read.transactionId, read.state), (id, 2));
    assert!(!answers[1].success && answers[1].returnData.ends_with(&[0; 22]));
    assert!(answers[1].codeSize > U256::from(10_000));
    assert!(
        answers[2].success && answers[2].returnData.is_empty() && answers[2].codeSize.is_zero()
    );
    Ok(())
}

#[tokio::test]
async fn the_chain_is_paused_wound_forward_and_turned_back() -> Result<()> {
    let devnet = Devnet::start().await?;
    let kernel = devnet.profile().contracts.actp_kernel;
    devnet.pause().await?;
    assert!(read(&devnet, kernel, pausedCall {}).await?);
    assert!(devnet.pause().await.unwrap_err().to_string().contains("Already paused"));
    devnet.unpause().await?;

    let start = devnet.now().await?;
    let snapshot = devnet.snapshot().await?;
    assert!(devnet.advance_time(1_000).await? >= start + 1_000);
    devnet.set_next_time(start + 5_000).await?;
    devnet.mint(Address::repeat_byte(7), Usdc(70)).await?;
    assert_eq!(devnet.now().await?, start + 5_000);
    assert_eq!(devnet.set_next_time(start).await.unwrap_err().code(), Code::RequestRefused);
    devnet.revert(snapshot).await?;
    assert_eq!(devnet.now().await?, start);
    assert_eq!(balance(&devnet, Address::repeat_byte(7)).await?, U256::ZERO);

    devnet.mint(Address::repeat_byte(7), Usdc(70)).await?;
    devnet.set_eth(Address::repeat_byte(7), U256::from(9)).await?;
    let block = devnet.rpc("eth_getBlockByNumber", json!(["latest", false])).await?;
    devnet.reorganise(1).await?;
    let other = devnet.rpc("eth_getBlockByNumber", json!(["latest", false])).await?;
    assert_eq!(block["number"], other["number"]);
    assert_ne!(block["hash"], other["hash"]);
    assert_eq!(balance(&devnet, Address::repeat_byte(7)).await?, U256::ZERO);
    Ok(())
}

#[tokio::test]
async fn blocks_come_for_each_transaction_by_the_clock_or_when_told() -> Result<()> {
    let devnet = Devnet::start().await?;
    let height = async || devnet.rpc("eth_blockNumber", json!([])).await;
    let before = height().await?;
    devnet.set_automine(false).await?;
    let (from, to) = (devnet.accounts()[0].address, devnet.accounts()[1].address);
    let (sent, mined) = tokio::join!(devnet.send(from, Some(to), Bytes::new()), async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert_eq!(height().await?, before);
        devnet.mine(3).await
    });
    mined?;
    sent?;
    devnet.set_automine(true).await?;
    devnet.send(from, Some(to), Bytes::new()).await?;

    let interval = std::time::Duration::from_secs(1);
    let devnet = Devnet::builder().block_time(interval).start().await?;
    let start = devnet.now().await?;
    devnet.send(from, Some(to), Bytes::new()).await?;
    devnet.send(from, Some(to), Bytes::new()).await?;
    assert!(devnet.now().await? > start);
    Ok(())
}

#[tokio::test]
async fn generations_of_the_kernel_are_told_apart_by_their_views() -> Result<()> {
    let devnet = Devnet::start().await?;
    let deployed = devnet.profile().contracts.actp_kernel;
    let admin = devnet.admin().address;
    let usdc = devnet.profile().contracts.usdc;
    let old = devnet.deploy(artifacts::OLD_KERNEL, &[]).await?;
    let grace = U256::from(7 * 86_400);
    let arguments = (admin, admin, admin, Address::ZERO, usdc, grace).abi_encode_params();
    let newer = devnet.deploy(artifacts::F6_KERNEL, &arguments).await?;
    for (kernel, has_bonds, has_grace) in
        [(old, false, false), (deployed, true, false), (newer, true, true)]
    {
        let answers = async |call: Vec<u8>| {
            let call = json!([{"to": kernel, "data": Bytes::from(call)}, "latest"]);
            devnet.rpc("eth_call", call).await.is_ok()
        };
        assert!(answers(platformFeeBpsCall {}.abi_encode()).await);
        assert_eq!(answers(disputeBondBpsCall {}.abi_encode()).await, has_bonds);
        assert_eq!(answers(recoveryGraceCall {}.abi_encode()).await, has_grace);
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_anvil_is_named_with_the_remedy() {
    let error = Devnet::builder().anvil("/nowhere/anvil").start().await.unwrap_err();
    assert_eq!(error.code(), Code::DevnetUnavailable);
    assert_eq!(error.to_string(), "there is no anvil at /nowhere/anvil");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("npm install @foundry-rs/anvil") && hint.contains("AGIRAILS_ANVIL"));
}

#[tokio::test]
async fn a_port_in_use_is_reported_in_anvils_words() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Devnet::builder().port(port).start().await.unwrap_err();
    assert_eq!(error.code(), Code::DevnetUnavailable);
    assert!(error.to_string().contains("in use"), "{error}");
}
