//! What is wrong with a network is said clearly: each fault its own error.

use std::sync::Arc;

use agirails::{
    Address, B256, Code, Contracts, CreateTransaction, LinkEscrow, NetworkProfile, Refusal, State,
    U256, Usdc,
    kernel::{
        Kernel, Transition,
        chain::{ChainKernel, ChainSettings},
    },
};
use agirails_devnet::{Devnet, artifacts};
use alloy_sol_types::SolValue;
use serde_json::json;

use crate::fixture::{connect, key, wallet};

const DAY: u64 = 86_400;

async fn fails(profile: &NetworkProfile, code: Code, words: &[&str]) {
    let error = connect(profile, vec![]).await.unwrap_err();
    assert_eq!(error.code(), code, "{error:?}");
    let text = format!("{error:#}");
    for word in words {
        assert!(text.contains(word), "{text:?} does not speak of {word:?}");
    }
    assert!(error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_wrong_network_is_named_when_a_client_connects() {
    let devnet = Devnet::start().await.unwrap();
    let good = devnet.profile().clone();
    connect(&good, vec![]).await.unwrap();

    let mut wrong = good.clone();
    wrong.chain_id = 8_453;
    fails(&wrong, Code::WrongChain, &["8453", "31337"]).await;

    let mut wrong = good.clone();
    wrong.contracts.actp_kernel = Address::repeat_byte(0x42);
    let address = wrong.contracts.actp_kernel.to_string();
    fails(&wrong, Code::ContractMissing, &[&address]).await;

    let mut wrong = good.clone();
    wrong.contracts.actp_kernel = devnet.accounts()[0].address;
    fails(&wrong, Code::ContractMissing, &[&devnet.accounts()[0].address.to_string()]).await;

    let mut wrong = good.clone();
    wrong.contracts.actp_kernel = good.contracts.usdc;
    fails(&wrong, Code::UnsupportedKernel, &[&good.contracts.usdc.to_string()]).await;

    let mut wrong = good.clone();
    wrong.contracts.escrow_vault = Address::repeat_byte(0x43);
    fails(&wrong, Code::ContractMissing, &[&wrong.contracts.escrow_vault.to_string()]).await;

    let mut wrong = good.clone();
    wrong.contracts.actp_kernel = devnet.deploy(artifacts::OLD_KERNEL, &[]).await.unwrap();
    fails(&wrong, Code::UnsupportedKernel, &["before May 2026"]).await;

    // A generation that nobody knows yet: any contract that names a version of its own.
    let admin = devnet.admin().address;
    let later = Address::repeat_byte(0x44);
    // mstore(0, 7); return(0, 32): it answers everything with 7.
    devnet.rpc("anvil_setCode", json!([later, "0x600760005260206000f3"])).await.unwrap();
    let mut wrong = good.clone();
    wrong.contracts.actp_kernel = later;
    fails(&wrong, Code::UnsupportedKernel, &["its version 0x", &later.to_string()]).await;

    // Contracts of two deployments.
    let rules = (admin, admin, admin, Address::ZERO, good.contracts.usdc);
    let second = devnet.deploy(artifacts::ACTP_KERNEL, &rules.abi_encode_params()).await.unwrap();
    let mut mixed = good.clone();
    mixed.contracts.actp_kernel = second;
    fails(&mixed, Code::InvalidSettings, &["the vault names"]).await;
    let vault = (good.contracts.usdc, second).abi_encode_params();
    mixed.contracts.escrow_vault = devnet.deploy(artifacts::ESCROW_VAULT, &vault).await.unwrap();
    mixed.contracts.agent_registry = None;
    let second = connect(&mixed, vec![]).await.unwrap();
    assert_eq!(second.network().archive_treasury, None);
    assert!(second.registry().is_none());
    // It was never told of this vault.
    assert!(second.warnings()[0].contains("does not approve the vault"), "{:?}", second.warnings());
    let error = second.get_transaction(B256::repeat_byte(1)).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::TxMissing));

    for wrong in [
        Contracts { usdc: admin, ..good.contracts },
        Contracts { agent_registry: Some(admin), ..good.contracts },
        Contracts { eas: Some(admin), ..good.contracts },
    ] {
        let wrong = NetworkProfile { contracts: wrong, ..good.clone() };
        fails(&wrong, Code::ContractMissing, &[&admin.to_string()]).await;
    }

    let mut wrong = good.clone();
    wrong.rpc_urls = vec!["http://127.0.0.1:1/secret-api-key".to_owned()];
    let error = connect(&wrong, vec![]).await.unwrap_err();
    assert_eq!(error.code(), Code::EndpointUnreachable, "{error:?}");
    assert!(!format!("{error:?} {error:#}").contains("secret-api-key"), "{error:?}");

    wrong.rpc_urls = vec!["ftp://127.0.0.1".to_owned()];
    fails(&wrong, Code::InvalidSettings, &["ftp"]).await;
}

#[tokio::test]
async fn what_a_sender_lacks_is_told_before_anything_is_sent() {
    let devnet = Devnet::start().await.unwrap();
    let kernel = connect(devnet.profile(), vec![wallet(key(1))]).await.unwrap();
    let poor = key(1).address();
    let deadline = kernel.now().await.unwrap() + DAY;
    let request = CreateTransaction::new(poor, Address::repeat_byte(7), Usdc(2_000_000), deadline);

    let error = kernel.create_transaction(poor, &request).await.unwrap_err();
    assert_eq!(error.code(), Code::InsufficientGas, "{error:?}");
    assert!(error.to_string().contains(&poor.to_string()), "{error}");

    devnet.set_eth(poor, U256::from(10).pow(U256::from(18))).await.unwrap();
    let id = kernel.create_transaction(poor, &request).await.unwrap();
    let error = kernel.link_escrow(poor, id, LinkEscrow::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::InsufficientBalance, "{error:?}");
    assert_eq!(error.facts().required, Some(Usdc(2_000_000)));
    assert_eq!(error.facts().available, Some(Usdc(0)));

    devnet.mint(poor, Usdc(2_000_000)).await.unwrap();
    devnet.pause().await.unwrap();
    let error = kernel.link_escrow(poor, id, LinkEscrow::default()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::KernelPaused), "{error:?}");
    devnet.unpause().await.unwrap();

    let gwei = U256::from(10).pow(U256::from(9));
    let jump = json!([format!("{:#x}", gwei * U256::from(500))]);
    devnet.rpc("anvil_setNextBlockBaseFeePerGas", jump).await.unwrap();
    devnet.mine(1).await.unwrap();
    let error = kernel.link_escrow(poor, id, LinkEscrow::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::FeeAboveLimit, "{error:?}");
    let base = json!([format!("{gwei:#x}")]);
    devnet.rpc("anvil_setNextBlockBaseFeePerGas", base).await.unwrap();
    devnet.mine(1).await.unwrap();
    kernel.link_escrow(poor, id, LinkEscrow::default()).await.unwrap();

    let stranger = Address::repeat_byte(9);
    let request = CreateTransaction::new(stranger, poor, Usdc(2_000_000), deadline);
    let error = kernel.create_transaction(stranger, &request).await.unwrap_err();
    assert_eq!(error.code(), Code::KeyMissing, "{error:?}");
}

/// The base fee rises above what was offered, after it was sent: more is offered.
#[tokio::test]
async fn what_no_block_takes_is_offered_for_more_though_the_node_has_it() {
    let devnet = Devnet::start().await.unwrap();
    let sender = key(3).address();
    devnet.set_eth(sender, U256::from(10).pow(U256::from(21))).await.unwrap();
    let kernel = connect(devnet.profile(), vec![wallet(key(3))]).await.unwrap();
    let deadline = kernel.now().await.unwrap() + DAY;
    devnet.set_automine(false).await.unwrap();
    let request =
        CreateTransaction::new(sender, Address::repeat_byte(7), Usdc(2_000_000), deadline);
    let call = tokio::spawn(async move { kernel.create_transaction(sender, &request).await });
    let offered = async || {
        let pool = devnet.rpc("txpool_content", json!([])).await.unwrap();
        let of_sender = pool["pending"].as_object().unwrap().values().next()?.clone();
        let fee = of_sender["0"]["maxFeePerGas"].as_str()?.to_owned();
        U256::from_str_radix(fee.trim_start_matches("0x"), 16).ok()
    };
    let (mut at_first, mut now) = (None, None);
    for _ in 0..300 {
        now = offered().await;
        at_first = at_first.or(now);
        if now > at_first {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(at_first.is_some() && now > at_first, "{at_first:?} {now:?}");
    devnet.mine(1).await.unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stuck_transaction_is_replaced_with_a_higher_fee() {
    let devnet = Devnet::start().await.unwrap();
    let sender = key(2).address();
    devnet.set_eth(sender, U256::from(10).pow(U256::from(21))).await.unwrap();
    let mut settings = ChainSettings::new(devnet.profile().clone());
    settings.wallets = vec![wallet(key(2))];
    settings.storage = agirails::Storage::Memory;
    let kernel = ChainKernel::connect(settings).await.unwrap();
    let deadline = kernel.now().await.unwrap() + DAY;
    devnet.set_automine(false).await.unwrap();
    let request =
        CreateTransaction::new(sender, Address::repeat_byte(7), Usdc(2_000_000), deadline);
    let call = tokio::spawn(async move { kernel.create_transaction(sender, &request).await });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let gwei = U256::from(10).pow(U256::from(9));
    let jump = json!([format!("{:#x}", gwei * U256::from(20))]);
    devnet.rpc("anvil_setNextBlockBaseFeePerGas", jump).await.unwrap();
    devnet.mine(1).await.unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !call.is_finished() {
        assert!(std::time::Instant::now() < until, "it stays stuck");
        let jump = json!([format!("{:#x}", gwei * U256::from(20))]);
        devnet.rpc("anvil_setNextBlockBaseFeePerGas", jump).await.unwrap();
        devnet.mine(1).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    call.await.unwrap().unwrap();
}

/// Each could settle when it was asked for; the block takes what comes first.
#[tokio::test]
async fn what_a_block_refuses_has_cost_gas() {
    let devnet = Devnet::start().await.unwrap();
    let parties = [4, 5].map(key);
    let [requester, provider] = parties.each_ref().map(|key| key.address());
    for party in [requester, provider] {
        devnet.set_eth(party, U256::from(10).pow(U256::from(21))).await.unwrap();
    }
    let kernel = Arc::new(connect(devnet.profile(), parties.map(wallet).into()).await.unwrap());
    let deadline = kernel.now().await.unwrap() + DAY;
    let request = CreateTransaction::new(requester, provider, Usdc(2_000_000), deadline);
    devnet.mint(requester, Usdc(2_000_000)).await.unwrap();
    let id = kernel.create_transaction(requester, &request).await.unwrap();
    kernel.link_escrow(requester, id, LinkEscrow::default()).await.unwrap();
    for state in [State::InProgress, State::Delivered] {
        kernel.transition_state(provider, &Transition::bare(id, state)).await.unwrap();
    }
    devnet.advance_time(3 * DAY).await.unwrap();
    devnet.set_automine(false).await.unwrap();
    let settle = |party| {
        let kernel = kernel.clone();
        let settled = Transition::bare(id, State::Settled);
        tokio::spawn(async move { kernel.transition_state(party, &settled).await })
    };
    let calls = [settle(requester), settle(provider)];
    let pending = async || {
        let status = devnet.rpc("txpool_status", json!([])).await.unwrap();
        status["pending"].as_str().unwrap().to_owned()
    };
    for _ in 0..300 {
        if pending().await == "0x2" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(pending().await, "0x2");
    devnet.mine(1).await.unwrap();
    let mut failed = vec![];
    for call in calls {
        failed.extend(call.await.unwrap().err());
    }
    let [error] = failed.as_slice() else { panic!("{failed:?}") };
    assert!(error.refusal().is_some(), "{error:?}");
    let hash = error.facts().transaction_hash.unwrap();
    let receipt = devnet.rpc("eth_getTransactionReceipt", json!([hash])).await.unwrap();
    let [gas, price] = ["gasUsed", "effectiveGasPrice"].map(|field| {
        let number = receipt[field].as_str().unwrap().trim_start_matches("0x");
        u128::from_str_radix(number, 16).unwrap()
    });
    assert_eq!((&receipt["status"], error.facts().gas_wei), (&json!("0x0"), Some(gas * price)));
}
