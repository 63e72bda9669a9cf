//! Providers who delivered, a requester who pays and says nothing, and a keeper who is none of them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use agirails::{
    ACTPClient, Address, B256, CreateTransaction, Event, Generation, PrivateKey, State, Storage,
    TransactionId, Usdc,
    keeper::{self, Keeper, KeeperBuilder},
    kernel::{Kernel, Transition},
};
use rusqlite::Connection;

use crate::front::Front;
use crate::generation::generation;

pub const DOLLAR: Usdc = Usdc(1_000_000);
pub const CENTS_10: Usdc = Usdc(100_000);
/// The shortest dispute window.
pub const WINDOW: u64 = 3_600;
/// What deliveries commit to, on the kernels that ask for it.
pub const RESULT: B256 = B256::repeat_byte(7);

pub fn key(number: u64) -> PrivateKey {
    format!("{number:064x}").parse().unwrap()
}

/// On the embedded kernel.
pub struct Fixture {
    pub kernel: Arc<dyn Kernel>,
    pub keeper: ACTPClient,
    pub requester: Address,
    /// Two of them.
    pub providers: [Address; 2],
    pub directory: tempfile::TempDir,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::of(generation()).await
    }

    pub async fn of(generation: Generation) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let builder = ACTPClient::builder().private_key(key(9)).state_directory(directory.path());
        let keeper = builder.generation(generation).connect().await.unwrap();
        let kernel = keeper.kernel().clone();
        let [requester, one, other] = [1, 2, 3].map(|number| key(number).address());
        Self { kernel, keeper, requester, providers: [one, other], directory }
    }

    pub async fn delivered(&self, provider: Address, amount: Usdc) -> TransactionId {
        delivered(&self.kernel, self.requester, provider, amount).await
    }

    /// One of a dollar by each provider, whose windows are over.
    pub async fn two_due(&self) -> [TransactionId; 2] {
        let [one, other] = self.providers;
        let ids = [self.delivered(one, DOLLAR).await, self.delivered(other, DOLLAR).await];
        self.pass(WINDOW + 1).await;
        ids
    }

    pub async fn pass(&self, seconds: u64) {
        self.keeper.mock().unwrap().advance_time(seconds).await.unwrap();
    }

    pub async fn state(&self, id: TransactionId) -> State {
        self.kernel.get_transaction(id).await.unwrap().state
    }

    pub async fn balance(&self, owner: Address) -> Usdc {
        self.kernel.balance(owner).await.unwrap()
    }

    /// How often a transaction was settled, as the kernel's events have it.
    pub async fn settlements(&self, id: TransactionId) -> usize {
        settlements(&self.kernel).await.into_iter().filter(|settled| *settled == id).count()
    }

    pub fn builder(&self) -> KeeperBuilder {
        Keeper::builder(self.keeper.clone())
    }

    pub async fn open(&self) -> Keeper {
        self.builder().open().await.unwrap()
    }

    /// A keeper of the same key and files that has this kernel for its node.
    pub fn behind(&self, front: &Arc<Front>) -> KeeperBuilder {
        let client = ACTPClient::with_kernel(front.clone(), self.keeper.address());
        Keeper::builder(client).storage(Storage::Directory(self.directory.path().to_owned()))
    }

    /// The keeper's file, where there is one.
    pub fn file(&self) -> Option<PathBuf> {
        let files = std::fs::read_dir(self.directory.path().join(".actp")).unwrap();
        let mut files = files.map(|file| file.unwrap().path());
        files.find(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("keeper-") && name.ends_with(".sqlite3")
        })
    }

    /// Lets the time pass that a keeper's file waits for.
    pub fn wait_is_over(&self) {
        let file = Connection::open(self.file().unwrap()).unwrap();
        file.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        file.execute_batch("DELETE FROM leases; UPDATE duties SET next_try = 0").unwrap();
    }
}

/// A funded transaction whose provider has delivered it just now.
pub async fn delivered(
    kernel: &Arc<dyn Kernel>,
    requester: Address,
    provider: Address,
    amount: Usdc,
) -> TransactionId {
    let deadline = kernel.now().await.unwrap() + 86_400;
    let mut request = CreateTransaction::new(requester, provider, amount, deadline);
    request.dispute_window_seconds = WINDOW;
    let id = kernel.create_transaction(requester, &request).await.unwrap();
    kernel.link_escrow(requester, id, Default::default()).await.unwrap();
    let data = kernel.network().terms.encode_delivery(WINDOW, RESULT);
    let delivery = Transition { id, to: State::Delivered, data, proof: None };
    kernel.deliver(provider, &delivery).await.unwrap();
    id
}

pub async fn settlements(kernel: &Arc<dyn Kernel>) -> Vec<TransactionId> {
    let events = kernel.events(0, 10_000).await.unwrap();
    let settled = events.into_iter().filter_map(|record| match record.event {
        Event::StateTransitioned { transaction_id, new_state: State::Settled, .. } => {
            Some(transaction_id)
        }
        _ => None,
    });
    settled.collect()
}

/// What a keeper told.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<keeper::Event>>>);

impl Told {
    pub fn listener(&self) -> impl Fn(&keeper::Event) + Send + Sync + 'static {
        let told = self.clone();
        move |event| told.0.lock().unwrap().push(event.clone())
    }

    /// The lines since the last call.
    pub fn lines(&self) -> Vec<String> {
        self.events().iter().map(ToString::to_string).collect()
    }

    pub fn events(&self) -> Vec<keeper::Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}
