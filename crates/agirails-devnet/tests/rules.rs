//! The contracts judge every step as `agirails::protocol::rules` does: who, when, what it carries,
//! and in which order. Needs anvil.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use agirails::{
    CreateTransaction, DisputeWindow, Refusal, Result, State, Terms, Transaction, Usdc,
    protocol::rules::{self, Arbiters, Call, Rates},
};
use agirails_devnet::Devnet;
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_sol_types::{SolCall, SolValue, sol};
use serde_json::json;

sol! {
    struct View {
        bytes32 transactionId; address requester; address provider; uint8 state; uint256 amount;
        uint256 createdAt; uint256 updatedAt; uint256 deadline; bytes32 serviceHash;
        address escrowContract; bytes32 escrowId; bytes32 attestationUID; uint256 disputeWindow;
        bytes32 metadata; uint16 platformFeeBpsLocked; uint16 requesterPenaltyBpsLocked;
        uint16 disputeBondBpsLocked; uint256 agentId; uint256 requesterAgentId;
        address disputeInitiator; uint256 disputeBond;
    }

    function createTransaction(
        address provider, address requester, uint256 amount, uint256 deadline,
        uint256 disputeWindow, bytes32 serviceHash, uint256 agentId, uint256 requesterAgentId
    ) returns (bytes32);
    function acceptQuote(bytes32 id, uint256 amount);
    function linkEscrow(bytes32 id, address vault, bytes32 escrowId);
    function transitionState(bytes32 id, uint8 state, bytes data);
    function releaseMilestone(bytes32 id, uint256 amount);
    function releaseEscrow(bytes32 id);
    function anchorAttestation(bytes32 id, bytes32 uid);
    function getTransaction(bytes32 id) returns (View);
    function remaining(bytes32 escrowId) returns (uint256);
    function approve(address spender, uint256 amount);
    function approveMediator(address mediator, bool approved);
}

const PRICE: u64 = 10_000_000;

struct Stage {
    devnet: Devnet,
    kernel: Address,
    vault: Address,
    requester: Address,
    provider: Address,
    admin: Address,
    stranger: Address,
}

impl Stage {
    async fn new() -> Result<Self> {
        let devnet = Devnet::start().await?;
        let [requester, provider, stranger] =
            [0, 1, 2].map(|number| devnet.accounts()[number].address);
        let contracts = devnet.profile().contracts;
        for party in [requester, provider] {
            let call = approveCall { spender: contracts.escrow_vault, amount: U256::MAX };
            devnet.send(party, Some(contracts.usdc), call.abi_encode().into()).await?;
        }
        let admin = devnet.admin().address;
        let (kernel, vault) = (contracts.actp_kernel, contracts.escrow_vault);
        Ok(Self { devnet, kernel, vault, requester, provider, admin, stranger })
    }

    async fn send(&self, from: Address, call: impl SolCall) -> Result<()> {
        self.devnet.send(from, Some(self.kernel), call.abi_encode().into()).await.map(drop)
    }

    /// What the kernel says to a call at some time: the words of its refusal, or nothing.
    async fn words(&self, from: Address, at: u64, call: impl SolCall) -> Option<String> {
        let data = Bytes::from(call.abi_encode());
        let params = json!([
            {"from": from, "to": self.kernel, "data": data}, "latest", {}, {"time": U64::from(at)}
        ]);
        let error = self.devnet.rpc("eth_call", params).await.err()?.to_string();
        let words = error.split_once("execution reverted: ").map(|(_, words)| words.to_owned());
        Some(words.unwrap_or(error))
    }

    async fn read<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return> {
        let data = Bytes::from(call.abi_encode());
        let answer =
            self.devnet.rpc("eth_call", json!([{"to": to, "data": data}, "latest"])).await?;
        let bytes: Bytes = answer.as_str().unwrap().parse().unwrap();
        Ok(C::abi_decode_returns(&bytes).unwrap())
    }

    async fn transaction(&self, id: B256) -> Result<(Transaction, Usdc)> {
        let view = self.read(self.kernel, getTransactionCall { id }).await?;
        let left = self.read(self.vault, remainingCall { escrowId: view.escrowId }).await?;
        let transaction = Transaction {
            id: view.transactionId,
            requester: view.requester,
            provider: view.provider,
            state: State::try_from(u64::from(view.state))?,
            amount: Usdc(view.amount.to()),
            created_at: view.createdAt.to(),
            updated_at: view.updatedAt.to(),
            deadline: view.deadline.to(),
            service_hash: view.serviceHash,
            escrow_contract: view.escrowContract,
            escrow_id: view.escrowId,
            attestation_uid: view.attestationUID,
            dispute_window: DisputeWindow::from_contract(view.disputeWindow.to()),
            metadata: view.metadata,
            platform_fee_bps_locked: view.platformFeeBpsLocked,
            requester_penalty_bps_locked: view.requesterPenaltyBpsLocked,
            dispute_bond_bps_locked: view.disputeBondBpsLocked,
            agent_id: view.agentId,
            requester_agent_id: view.requesterAgentId,
            dispute_initiator: view.disputeInitiator,
            dispute_bond: Usdc(view.disputeBond.to()),
            result_hash: B256::ZERO,
            agreement_hash: B256::ZERO,
        };
        Ok((transaction, Usdc(left.to())))
    }

    fn creation(&self, request: &CreateTransaction) -> createTransactionCall {
        createTransactionCall {
            provider: request.provider,
            requester: request.requester,
            amount: U256::from(request.amount.0),
            deadline: U256::from(request.deadline),
            disputeWindow: U256::from(request.dispute_window_seconds),
            serviceHash: request.service_hash,
            agentId: request.agent_id,
            requesterAgentId: request.requester_agent_id,
        }
    }

    async fn request(&self, amount: u64) -> Result<CreateTransaction> {
        let deadline = self.devnet.now().await? + 86_400;
        Ok(CreateTransaction::new(self.requester, self.provider, Usdc(amount), deadline))
    }

    async fn in_state(&self, state: State, amount: u64) -> Result<B256> {
        use State::*;
        let request = self.request(amount).await?;
        let data = Bytes::from(self.creation(&request).abi_encode());
        let call = json!([{"from": self.requester, "to": self.kernel, "data": data}, "latest"]);
        let id: B256 = self.devnet.rpc("eth_call", call).await?.as_str().unwrap().parse().unwrap();
        self.send(self.requester, self.creation(&request)).await?;
        let way: &[State] = match state {
            Initiated => &[],
            Quoted => &[Quoted],
            Committed => &[Committed],
            InProgress => &[Committed, InProgress],
            Delivered => &[Committed, InProgress, Delivered],
            Settled => &[Committed, InProgress, Delivered, Settled],
            Disputed => &[Committed, InProgress, Delivered, Disputed],
            Cancelled => &[Cancelled],
        };
        for to in way {
            if *to == Committed {
                let link = linkEscrowCall { id, vault: self.vault, escrowId: id };
                self.send(self.requester, link).await?;
                continue;
            }
            let by = match to {
                Quoted | InProgress | Delivered => self.provider,
                _ => self.requester,
            };
            let step = transitionStateCall { id, state: *to as u8, data: Bytes::new() };
            self.send(by, step).await?;
        }
        Ok(id)
    }

    fn everybody(&self) -> [Address; 4] {
        [self.requester, self.provider, self.admin, self.stranger]
    }
}

/// The moments at which a rule can change its mind.
fn moments(transaction: &Transaction) -> Vec<u64> {
    let window = transaction.dispute_window.ends_at().unwrap_or(transaction.deadline + 100);
    [transaction.deadline, window].into_iter().flat_map(|end| [end - 1, end, end + 1]).collect()
}

fn amounts(amounts: &[u64]) -> Vec<u8> {
    amounts.iter().flat_map(|amount| U256::from(*amount).to_be_bytes::<32>()).collect()
}

/// What a step can carry: nothing, hashes, windows, resolutions, and each of them spoilt.
fn burdens(approved: Address, pending: Address, stranger: Address) -> Vec<Vec<u8>> {
    let mut burdens: Vec<Vec<u8>> = (0..=192).step_by(16).map(|length| vec![1; length]).collect();
    burdens.push(vec![0; 32]);
    burdens.extend([1, 3_599, 3_600, 2_592_000, 2_592_001].map(|window| amounts(&[window])));
    burdens.push(U256::MAX.to_be_bytes::<32>().to_vec());
    let splits = [
        [0, 0],
        [PRICE, 0],
        [0, PRICE],
        [PRICE - 49_999, 49_999],
        [PRICE - 50_000, 50_000],
        [PRICE, 1],
        [1, 1],
        [u64::MAX, PRICE + 1],
    ];
    for split in splits {
        burdens.push(amounts(&split));
        burdens.extend([0, 1, 2].map(|fault| [amounts(&split), amounts(&[fault])].concat()));
    }
    burdens.push([U256::MAX.to_be_bytes::<32>().to_vec(), amounts(&[PRICE + 1])].concat());
    for mediator in [Address::ZERO, approved, pending, stranger] {
        for (fee, rest) in
            [(0, PRICE), (1_000_000, PRICE - 1_000_000), (1_000_001, PRICE - 1_000_001), (7, 7)]
        {
            let who = mediator.into_word().to_vec();
            let mediation = [amounts(&[rest, 0]), who.clone(), amounts(&[fee])].concat();
            burdens.extend([0, 1, 9].map(|fault| [mediation.clone(), amounts(&[fault])].concat()));
            burdens.push([amounts(&[0, 0]), who, amounts(&[fee])].concat());
            burdens.push(mediation);
        }
    }
    burdens.push([amounts(&[PRICE, 0]), vec![7; 32], amounts(&[0])].concat());
    burdens
}

fn expected<T>(outcome: std::result::Result<T, Refusal>) -> Option<String> {
    outcome.err().map(|refusal| refusal.words().to_owned())
}

#[tokio::test]
async fn every_step_is_judged_as_the_rules_judge_it() -> Result<()> {
    let stage = Stage::new().await?;
    let [approved, pending] = [Address::repeat_byte(0xa1), Address::repeat_byte(0xa2)];
    let mut mediators = vec![];
    for mediator in [approved, pending] {
        stage.devnet.approve_mediator(mediator).await?;
        mediators.push((mediator, stage.devnet.now().await? + 2 * 86_400));
        stage.devnet.advance_time(3 * 86_400).await?;
    }
    // Approved anew for each transaction, the second one is pending as long as it is tried.
    mediators[1].1 = u64::MAX;
    let approval = |approved| approveMediatorCall { mediator: pending, approved };
    let burdens = burdens(approved, pending, stage.stranger);
    let arbiters = Arbiters { resolver: stage.admin, mediators: &mediators };
    let mut judged = 0;
    for state in State::ALL {
        let id = stage.in_state(state, PRICE).await?;
        stage.send(stage.admin, approval(false)).await?;
        stage.send(stage.admin, approval(true)).await?;
        let (transaction, remaining) = stage.transaction(id).await?;
        assert_eq!(transaction.state, state);
        for (now, sender, to) in moments(&transaction)
            .into_iter()
            .flat_map(|now| stage.everybody().map(|sender| (now, sender)))
            .flat_map(|(now, sender)| State::ALL.map(|to| (now, sender, to)))
        {
            let terms = Terms::MAY_2026;
            let call = Call { transaction: &transaction, sender, now, remaining, terms };
            // What is carried is looked at last; after the deadline the mediator is not pending.
            let tried = match rules::transition(call, to, &[], arbiters) {
                Ok(_) | Err(Refusal::ResolutionRequired) if now <= transaction.deadline => {
                    &burdens[..]
                }
                _ => &burdens[..2],
            };
            for data in tried {
                let outcome = rules::transition(call, to, data, arbiters);
                let step = transitionStateCall { id, state: to as u8, data: data.clone().into() };
                let found = stage.words(sender, now, step).await;
                let case = format!(
                    "{state} to {to} by {sender} at {now} with {}",
                    Bytes::from(data.clone())
                );
                assert_eq!(found, expected(outcome), "{case}");
                judged += 1;
            }
        }
    }
    assert!(judged > 2_000, "{judged}");
    Ok(())
}

#[tokio::test]
async fn all_other_calls_are_judged_as_the_rules_judge_them() -> Result<()> {
    let stage = Stage::new().await?;
    let rates = Rates::default();
    for state in State::ALL {
        let id = stage.in_state(state, PRICE).await?;
        let (transaction, remaining) = stage.transaction(id).await?;
        let fresh = B256::repeat_byte(0xf1);
        for (now, sender) in moments(&transaction)
            .into_iter()
            .flat_map(|now| stage.everybody().map(|sender| (now, sender)))
        {
            let terms = Terms::MAY_2026;
            let call = Call { transaction: &transaction, sender, now, remaining, terms };
            let case = format!("{state} by {sender} at {now}");
            for amount in [0, 49_999, 50_000, 1_000_000_000_000_000, 1_000_000_000_000_001] {
                let quoted = Usdc(amount);
                let outcome = rules::check_quoted_amount(quoted)
                    .and_then(|()| rules::accept_quote(call, quoted, rates));
                let accept = acceptQuoteCall { id, amount: U256::from(amount) };
                assert_eq!(stage.words(sender, now, accept).await, expected(outcome), "{case}");
            }
            for amount in [0, 1, 49_999, 50_000, PRICE, PRICE + 1] {
                let part = Usdc(amount);
                let outcome = rules::check_milestone(part)
                    .and_then(|()| rules::release_milestone(call, part));
                let release = releaseMilestoneCall { id, amount: U256::from(amount) };
                assert_eq!(stage.words(sender, now, release).await, expected(outcome), "{case}");
            }
            for uid in [B256::ZERO, fresh] {
                let outcome = rules::check_attestation(uid)
                    .and_then(|()| rules::anchor_attestation(call, uid));
                let anchor = anchorAttestationCall { id, uid };
                assert_eq!(stage.words(sender, now, anchor).await, expected(outcome), "{case}");
            }
            let release = releaseEscrowCall { id };
            let outcome = rules::release_escrow(call);
            assert_eq!(stage.words(sender, now, release).await, expected(outcome), "{case}");
            for vault in [Address::ZERO, stage.stranger, stage.vault] {
                for escrow_id in [B256::ZERO, fresh, id] {
                    let used = transaction.escrow_id == escrow_id;
                    let outcome = rules::check_escrow(vault, escrow_id, vault == stage.vault, used)
                        .and_then(|()| rules::link_escrow(call, vault, escrow_id));
                    let link = linkEscrowCall { id, vault, escrowId: escrow_id };
                    assert_eq!(stage.words(sender, now, link).await, expected(outcome), "{case}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn creations_are_judged_as_the_rules_judge_them() -> Result<()> {
    let stage = Stage::new().await?;
    let sound = stage.request(PRICE).await?;
    let now = stage.devnet.now().await?;
    let [year, month] = [365 * 86_400, 30 * 86_400];
    let faults: &[&dyn Fn(&mut CreateTransaction)] = &[
        &|_| (),
        &|request| request.requester = stage.stranger,
        &|request| request.provider = Address::ZERO,
        &|request| request.provider = request.requester,
        &|request| request.amount = Usdc(49_999),
        &|request| request.amount = Usdc(1_000_000_000_000_001),
        &|request| request.deadline = now,
        &|request| request.deadline = now + 1,
        &|request| request.deadline = now + year,
        &|request| request.deadline = now + year + 1,
        &|request| request.dispute_window_seconds = 3_599,
        &|request| request.dispute_window_seconds = month,
        &|request| request.dispute_window_seconds = month + 1,
    ];
    let rates = Rates::default();
    for (first, second) in
        faults.iter().flat_map(|first| faults.iter().map(move |second| (first, second)))
    {
        let mut request = sound.clone();
        first(&mut request);
        second(&mut request);
        let outcome = rules::create(&request, stage.requester, 0, Terms::MAY_2026, rates, now);
        let found = stage.words(stage.requester, now, stage.creation(&request)).await;
        assert_eq!(found, expected(outcome), "{request:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_is_read_as_21_words() -> Result<()> {
    let stage = Stage::new().await?;
    let id = stage.in_state(State::Initiated, PRICE).await?;
    let view = stage.read(stage.kernel, getTransactionCall { id }).await?;
    assert_eq!(view.abi_encode().len(), 21 * 32);
    let data = Bytes::from(getTransactionCall { id }.abi_encode());
    let call = json!([{"to": stage.kernel, "data": data}, "latest"]);
    let answer: Bytes =
        stage.devnet.rpc("eth_call", call).await?.as_str().unwrap().parse().unwrap();
    assert_eq!(answer.len(), 21 * 32);
    Ok(())
}
