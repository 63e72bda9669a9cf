//! The same on a chain: purchases that are dropped at any time are paid once.

use std::time::Duration;

use agirails::{
    ACTPClient, Mode, State, U256, Usdc,
    consumer::{Consumer, HttpOutcome, Proof},
};
use agirails_devnet::Devnet;

use crate::fixture::{CENTS_10, Service, call, drive, key, paid};
use crate::generation::generation;

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_on_a_chain_is_paid_once_however_often_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let devnet = Devnet::builder().generation(generation()).start().await.unwrap();
    let client = async |number: u64| {
        let key = key(number + 70);
        let wei = U256::from(10).pow(U256::from(20));
        devnet.set_eth(key.address(), wei).await.unwrap();
        devnet.mint(key.address(), Usdc(1_000_000_000)).await.unwrap();
        let builder = ACTPClient::builder().mode(Mode::Testnet).private_key(key);
        let builder = builder.network_profile(devnet.profile().clone());
        builder.state_directory(directory.path()).connect().await.unwrap()
    };
    let (provider, payer) = (client(1).await, client(2).await);
    let service = Service::of(provider.clone(), CENTS_10).await;
    let trust = provider.address().to_string();
    let consumer = Consumer::builder(payer.clone()).trust(trust).open().await.unwrap();
    let carry = async |request: agirails::consumer::HttpRequest| {
        HttpOutcome::Answered(service.answer(&request).await)
    };
    for order in 0..8 {
        let order_key = format!("order-{order}");
        for patience in [5, 20, 40, 80] {
            let purchase = consumer.purchase(call().purchase_key(&order_key)).unwrap();
            let patience = Duration::from_millis(patience + order * 3);
            let _ = tokio::time::timeout(patience, drive(purchase, carry)).await;
        }
        let again = call().purchase_key(&order_key).settle(true);
        let answer = drive(consumer.purchase(again).unwrap(), carry).await.unwrap();
        assert_eq!(answer.body.as_ref(), format!("answer {order}").as_bytes());
        assert_eq!(answer.payment.unwrap().proof, Proof::Signed);
    }
    let amount = Usdc(8 * CENTS_10.0);
    assert_eq!(paid(&payer).await, (8, amount));
    assert_eq!(payer.balance().await.unwrap(), Usdc(1_000_000_000 - amount.0));
    assert_eq!(consumer.spent(None).await.unwrap().day, amount);
    // What was not settled at once is settled now.
    for _ in 0..50 {
        if consumer.settle().await.unwrap().waiting.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let query = agirails::kernel::TransactionQuery::of(payer.address());
    let all = payer.find_transactions(&query).await.unwrap();
    let settled = all.iter().filter(|transaction| transaction.state == State::Settled);
    assert_eq!(settled.count(), 8);
}
