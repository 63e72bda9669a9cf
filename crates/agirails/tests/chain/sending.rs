//! What a sender lacks, and what is stuck.

use agirails::{
    Address, Code, CreateTransaction, LinkEscrow, Refusal, U256, Usdc,
    kernel::{Kernel, chain::ChainKernel},
};
use agirails_devnet::Devnet;
use serde_json::json;

use crate::stage::{key, settings};

const DAY: u64 = 86_400;

#[tokio::test]
async fn what_a_sender_lacks_is_told_before_anything_is_sent() {
    let devnet = Devnet::start().await.unwrap();
    let kernel = ChainKernel::connect(settings(devnet.profile(), &[key(1)])).await.unwrap();
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
async fn a_stuck_transaction_is_replaced_with_a_higher_fee() {
    let devnet = Devnet::start().await.unwrap();
    let sender = key(2).address();
    devnet.set_eth(sender, U256::from(10).pow(U256::from(21))).await.unwrap();
    let kernel = ChainKernel::connect(settings(devnet.profile(), &[key(2)])).await.unwrap();
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
