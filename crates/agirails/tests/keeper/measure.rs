//! What one transaction for many settlements would save. `--nocapture` prints the figures of
//! docs/decisions/0025-settling-in-one-call.md.

use agirails::{Address, TransactionId, protocol::registry::ServiceDescriptor};
use alloy_sol_types::{SolCall, sol};
use serde_json::Value;

use crate::{chain::Local, fixture::DOLLAR};

sol! {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }
    struct Outcome {
        bool success;
        bytes returnData;
    }
    function aggregate3(Call3[] calls) external payable returns (Outcome[] results);
    function transitionState(bytes32 id, uint8 state, bytes proof) external;
}

const SETTLED: u8 = 5;

fn settle(id: TransactionId) -> Vec<u8> {
    transitionStateCall { id, state: SETTLED, proof: Default::default() }.abi_encode()
}

fn gas(receipt: &Value) -> u64 {
    let text = receipt["gasUsed"].as_str().unwrap();
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

impl Local {
    fn keeper_address(&self) -> Address {
        self.devnet.accounts()[4].address
    }

    /// Each in a transaction of its own.
    pub async fn settle_alone(&self, ids: &[TransactionId]) -> Vec<u64> {
        let kernel = self.devnet.profile().contracts.actp_kernel;
        let mut used = vec![];
        for id in ids {
            let data = settle(*id).into();
            let receipt = self.devnet.send(self.keeper_address(), Some(kernel), data).await;
            used.push(gas(&receipt.unwrap()));
        }
        used
    }

    /// All in one transaction.
    async fn settle_together(&self, multicall: Address, ids: &[TransactionId]) -> u64 {
        let target = self.devnet.profile().contracts.actp_kernel;
        let call =
            |id: &TransactionId| Call3 { target, allowFailure: true, callData: settle(*id).into() };
        let data = aggregate3Call { calls: ids.iter().map(call).collect() }.abi_encode().into();
        let receipt = self.devnet.send(self.keeper_address(), Some(multicall), data).await;
        gas(&receipt.unwrap())
    }

    async fn register(&self, provider: Address) {
        let registry = self.kernel.registry().unwrap();
        let service = ServiceDescriptor::new("text-generation").unwrap();
        registry.register_agent(provider, "https://a.example", &[service]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_for_many_settlements_saves_more_than_a_tenth() {
    for is_registered in [false, true] {
        let local = Local::start().await;
        let multicall = local.devnet.profile().contracts.multicall.unwrap();
        if is_registered {
            for provider in local.providers {
                local.register(provider).await;
            }
        }
        let who = if is_registered { "registered" } else { "unregistered" };
        let ids = local.due(20, DOLLAR).await;
        let alone = local.settle_alone(&ids).await;
        // The first of each provider writes what was zero before.
        let usual = *alone.last().unwrap();
        println!("two {who} providers, alone: first {} gas, then {usual}", alone[0]);
        for count in [2, 5, 10, 20, 50, 100] {
            let ids = local.due(count, DOLLAR).await;
            let all = local.settle_together(multicall, &ids).await;
            let each = all / count as u64;
            let saved = 100 - each * 100 / usual;
            println!(
                "two {who} providers, {count:>3} together: {each} gas each, {saved} % less ({all})"
            );
            assert!(count < 5 || each * 10 < usual * 9);
            for id in &ids {
                let state = local.kernel.get_transaction(*id).await.unwrap().state;
                assert_eq!(state, agirails::State::Settled);
            }
        }
        // One that is refused costs the others nothing.
        let ids = local.due(10, DOLLAR).await;
        local.settle_alone(&ids[..1]).await;
        let all = local.settle_together(multicall, &ids).await;
        println!("two {who} providers, 9 together and one refused: {} gas each", all / 9);
        for id in &ids {
            let state = local.kernel.get_transaction(*id).await.unwrap().state;
            assert_eq!(state, agirails::State::Settled);
        }
    }
}
