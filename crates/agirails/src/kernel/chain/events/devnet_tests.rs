//! Events of a real node, with a WebSocket, replaced blocks and a limit on ranges.

use std::time::Duration;

use agirails_devnet::Devnet;
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, sol};
use futures_util::FutureExt;
use tokio::time::timeout;

use super::{
    super::rpc::{Rpc, RpcSettings},
    Logs, Update, WatchOptions, index,
};
use crate::{
    kernel::{Role, TransactionQuery},
    protocol::{Event, EventRecord, TransactionId},
    storage::{self, Format, Storage, Store},
};

sol! {
    function createTransaction(address provider, address requester, uint256 amount, uint256 deadline, uint256 disputeWindow, bytes32 serviceHash, uint256 agentId, uint256 requesterAgentId) returns (bytes32);
}

fn logs_of(devnet: &Devnet, urls: &[&str]) -> Logs {
    let urls = urls.iter().map(|url| (*url).to_owned()).collect();
    let rpc = Rpc::new(RpcSettings { urls, ..RpcSettings::default() }).unwrap();
    let format = Format {
        file: "chain.sqlite".to_owned(),
        identity: None,
        former: None,
        application_id: 0x0a51_7e57,
        schema: &[index::SCHEMA],
        synchronous: "NORMAL",
        patience: storage::PATIENCE,
    };
    let store = Store::open(Storage::Memory, format, |_| Ok(())).now_or_never();
    Logs::new(rpc, devnet.profile().contracts.actp_kernel, 0, store.unwrap().unwrap())
}

/// The requester is the account with this number, the provider the next one.
async fn create(devnet: &Devnet, requester: usize) -> B256 {
    let [requester, provider] = [0, 1].map(|next| devnet.accounts()[requester + next].address);
    let call = createTransactionCall {
        provider,
        requester,
        amount: U256::from(100_000),
        deadline: U256::from(devnet.now().await.unwrap() + 3_600),
        disputeWindow: U256::from(3_600),
        serviceHash: B256::ZERO,
        agentId: U256::ZERO,
        requesterAgentId: U256::ZERO,
    };
    let kernel = devnet.profile().contracts.actp_kernel;
    let receipt = devnet.send(requester, Some(kernel), call.abi_encode().into()).await.unwrap();
    receipt["logs"][0]["topics"][1].as_str().unwrap().parse().unwrap()
}

fn created(update: Update) -> TransactionId {
    match update {
        Update::Event(EventRecord {
            event: Event::TransactionCreated { transaction_id, .. },
            ..
        }) => transaction_id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_nodes_events_come_by_websocket_and_are_taken_back_where_its_blocks_are_replaced() {
    let devnet = Devnet::start().await.unwrap();
    // The socket has to wake us: nobody waits for a poll of tomorrow.
    for (socket, poll_interval) in [(true, 86_400_000), (false, 20)] {
        let ws = devnet.ws_url();
        let urls = [devnet.rpc_url(), if socket { &ws } else { devnet.rpc_url() }];
        let logs = logs_of(&devnet, &urls);
        let first = create(&devnet, 0).await;
        devnet.mine(150).await.unwrap();
        let poll_interval = Duration::from_millis(poll_interval);
        let options = WatchOptions { poll_interval, ..WatchOptions::default() };
        let mut stream = logs.watch(options);
        let mut next = async || {
            let update = timeout(Duration::from_secs(30), stream.next()).await.unwrap().unwrap();
            (update, stream.position())
        };
        let (mut seen, mut progress) = (vec![], false);
        loop {
            match next().await.0 {
                Update::Progress { .. } => progress = true,
                Update::CaughtUp { .. } => break,
                update => seen.push(update),
            }
        }
        assert!(progress);
        assert_eq!(created(seen.pop().unwrap()), first);

        let second = create(&devnet, 2).await;
        let (update, position) = next().await;
        assert_eq!(created(update), second);
        let requester = devnet.accounts()[2].address;
        let query =
            TransactionQuery { role: Some(Role::Requester), ..TransactionQuery::of(requester) };
        assert_eq!(logs.created(&query).await.unwrap(), [second]);

        devnet.reorganise(1).await.unwrap();
        devnet.mine(1).await.unwrap();
        let (update, _) = next().await;
        let Update::TakenBack { after, events } = update else { panic!("{update:?}") };
        assert_eq!(created(Update::Event(events[0].clone())), second);
        assert!(events.len() == 1 && after < events[0].cursor);
        assert!(matches!(next().await.0, Update::CaughtUp { .. }));
        assert!(logs.created(&query).await.unwrap().is_empty());

        // Somebody who was away since finds out too.
        let mut late = logs.watch(WatchOptions { from: position, ..options });
        let update = late.next().await.unwrap();
        assert!(matches!(update, Update::TakenBack { .. }), "{update:?}");
    }
}

#[tokio::test]
async fn a_nodes_events_are_read_in_pages() {
    let devnet = Devnet::start().await.unwrap();
    let logs = logs_of(&devnet, &[devnet.rpc_url()]);
    let mut ids = vec![];
    for number in 0..5 {
        ids.push(create(&devnet, number).await);
        devnet.mine(20).await.unwrap();
    }
    let (mut cursor, mut found) = (0, vec![]);
    loop {
        let page = logs.events(cursor, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        for record in &page {
            let then = logs.at(record.event.timestamp().unwrap()).await.unwrap();
            assert!(then.contains(record), "{record:?} is not among {then:?}");
        }
        found.extend(page.into_iter().map(|record| created(Update::Event(record))));
    }
    assert_eq!(found, ids);
    let both = TransactionQuery::of(devnet.accounts()[2].address);
    assert_eq!(logs.created(&both).await.unwrap(), [ids[2], ids[1]]);
    let nobody = TransactionQuery::of(Address::repeat_byte(9));
    assert!(logs.created(&nobody).await.unwrap().is_empty());
}
