//! A devnet with disputed transactions, and clients of those who argue about them.

use std::sync::Arc;

use agirails::{
    ACTPClient, Address, B256, CreateTransaction, Dispute, Error, Evidence, Generation,
    NetworkProfile, Refusal, Result, State, Storage, TransactionId, Usdc, Wallet,
    kernel::chain::{ChainKernel, ChainSettings},
    protocol::{disputes::dispute_id, proof::Resolution},
};
use agirails_devnet::Devnet;
use alloy_primitives::{Bytes, U256};
use alloy_sol_types::{SolCall, sol};
use serde_json::json;

pub const DOLLAR: u64 = 1_000_000;
pub const HOUR: u64 = 3_600;

sol! {
    function balanceOf(address owner) returns (uint256);
    function allowance(address owner, address spender) returns (uint256);
    function approve(address spender, uint256 amount) returns (bool);
    function challenge(bytes32 disputeId, uint8 ruling, uint16 splitBps);
    function pause();
    function transfer(address to, uint256 amount) returns (bool);
}

pub struct Game {
    pub devnet: Devnet,
    pub kernel: Arc<ChainKernel>,
}

/// The refusal that a call ended in.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T>, refusal: Refusal) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.refusal(), Some(refusal), "{error:?}");
    assert!(error.facts().transaction_id.is_some(), "{error:?}");
    error
}

pub async fn connect(devnet: &Devnet, profile: NetworkProfile) -> ChainKernel {
    let mut settings = ChainSettings::new(profile);
    let accounts = devnet.accounts().iter().chain([devnet.admin()]);
    settings.wallets =
        accounts.map(|account| Arc::new(account.private_key.clone()) as Arc<dyn Wallet>).collect();
    settings.storage = Storage::Memory;
    ChainKernel::connect(settings).await.unwrap()
}

impl Game {
    pub async fn start() -> Self {
        let devnet = Devnet::builder().generation(Generation::Aip14c).start().await.unwrap();
        let kernel = Arc::new(connect(&devnet, devnet.profile().clone()).await);
        Self { devnet, kernel }
    }

    pub fn client(&self, account: usize) -> ACTPClient {
        let address = self.devnet.accounts()[account].address;
        ACTPClient::with_kernel(self.kernel.clone(), address)
    }

    /// The requester, the provider and a stranger.
    pub fn parties(&self) -> [ACTPClient; 3] {
        [self.client(0), self.client(1), self.client(2)]
    }

    pub fn vault(&self) -> Address {
        self.devnet.profile().contracts.escrow_vault
    }

    pub fn escalation(&self) -> Address {
        self.devnet.profile().contracts.bond_escalation.unwrap()
    }

    /// A transaction that its requester disputes on the kernel.
    pub async fn disputed(&self, amount: Usdc) -> TransactionId {
        let [requester, provider, _] = self.parties();
        let deadline = requester.now().await.unwrap() + 24 * HOUR;
        let request =
            CreateTransaction::new(requester.address(), provider.address(), amount, deadline);
        let id = requester.create_transaction(&request).await.unwrap();
        requester.link_escrow(id).await.unwrap();
        provider.transition_state(id, State::InProgress, Evidence::None).await.unwrap();
        let terms = self.kernel_terms();
        let delivery = terms.encode_delivery(2 * HOUR, B256::repeat_byte(7));
        let delivery = Evidence::Bytes(delivery);
        provider.transition_state(id, State::Delivered, delivery).await.unwrap();
        requester.dispute(id, amount.max(Usdc(DOLLAR))).await.unwrap();
        id
    }

    fn kernel_terms(&self) -> agirails::Terms {
        self.client(0).network().terms
    }

    pub async fn resolve_as_admin(&self, id: TransactionId, to_requester: Usdc) {
        let admin = self.devnet.admin().address;
        let admin = ACTPClient::with_kernel(self.kernel.clone(), admin);
        let resolution = Resolution {
            requester_amount: to_requester,
            provider_amount: Usdc::ZERO,
            provider_at_fault: true,
            mediator: None,
        };
        let resolution = Evidence::Bytes(resolution.encode());
        admin.transition_state(id, State::Settled, resolution).await.unwrap();
    }

    pub async fn dispute(&self, id: TransactionId) -> Dispute {
        self.client(0).disputes().get(id).await.unwrap().unwrap()
    }

    pub async fn now(&self) -> u64 {
        self.devnet.now().await.unwrap()
    }

    pub async fn pass(&self, seconds: u64) {
        self.devnet.advance_time(seconds).await.unwrap();
    }

    async fn read<C: SolCall>(&self, to: Address, call: C) -> C::Return {
        let data = Bytes::from(call.abi_encode());
        let call = json!([{"to": to, "data": data}, "latest"]);
        let answer = self.devnet.rpc("eth_call", call).await.unwrap();
        let bytes: Bytes = answer.as_str().unwrap().parse().unwrap();
        C::abi_decode_returns(&bytes).unwrap()
    }

    pub async fn balance(&self, owner: Address) -> Usdc {
        let usdc = self.devnet.profile().contracts.usdc;
        Usdc(self.read(usdc, balanceOfCall { owner }).await.to())
    }

    /// What the contract may take of somebody's USDC.
    pub async fn allowance(&self, owner: Address) -> Usdc {
        let usdc = self.devnet.profile().contracts.usdc;
        let call = allowanceCall { owner, spender: self.escalation() };
        Usdc(self.read(usdc, call).await.to())
    }

    pub async fn approve(&self, owner: Address, amount: u64) {
        let usdc = self.devnet.profile().contracts.usdc;
        let call = approveCall { spender: self.escalation(), amount: U256::from(amount) };
        self.devnet.send(owner, Some(usdc), call.abi_encode().into()).await.unwrap();
    }

    pub async fn give_away(&self, from: Address, to: Address, amount: u64) {
        let usdc = self.devnet.profile().contracts.usdc;
        let call = transferCall { to, amount: U256::from(amount) };
        self.devnet.send(from, Some(usdc), call.abi_encode().into()).await.unwrap();
    }

    /// Somebody else's challenge, which no block has yet. It is allowed its bond already.
    pub async fn challenge_behind_our_back(&self, by: Address, id: TransactionId, ruling: u8) {
        let call = challengeCall { disputeId: dispute_id(id), ruling, splitBps: 0 };
        let data = Bytes::from(call.abi_encode());
        let call = json!([{"from": by, "to": self.escalation(), "data": data, "gas": "0x7a120"}]);
        self.devnet.rpc("eth_sendTransaction", call).await.unwrap();
    }

    pub async fn pause_disputes(&self) {
        let admin = self.devnet.admin().address;
        let call = pauseCall {}.abi_encode().into();
        self.devnet.send(admin, Some(self.escalation()), call).await.unwrap();
    }

    /// How many transactions this account has sent.
    pub async fn sent(&self, account: Address) -> u64 {
        let count = self.devnet.rpc("eth_getTransactionCount", json!([account, "pending"])).await;
        serde_json::from_value::<U256>(count.unwrap()).unwrap().to()
    }
}
