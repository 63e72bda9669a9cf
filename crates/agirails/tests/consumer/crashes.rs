//! A purchase that dies at any point is taken up again, and paid once to the base unit.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use agirails::{
    ACTPClient, Address, B256, CreateTransaction, LinkEscrow, Network, Result, State, Storage,
    Transaction, TransactionId, Usdc,
    consumer::{Budget, Consumer, HttpOutcome, Report},
    kernel::{GasCost, Kernel, TransactionQuery, Transition},
};

use crate::{
    children,
    fixture::{CENTS_10, DOLLAR, Fixture, Service, call, client, drive, paid},
};

/// A kernel whose caller dies at its n-th call: before it takes effect, or right after.
#[derive(Debug)]
struct Deadly {
    kernel: Arc<dyn Kernel>,
    calls_left: AtomicI64,
    after: bool,
}

impl Deadly {
    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        let dies = self.calls_left.fetch_sub(1, Ordering::SeqCst) == 0;
        if dies && !self.after {
            std::future::pending::<()>().await;
        }
        let value = call.await;
        if dies {
            std::future::pending::<()>().await;
        }
        value
    }
}

kernel_in_front! {
    impl Kernel for Deadly {
        fn network(&self) -> &Network {
            self.kernel.network()
        }
        async fn now(&self) -> Result<u64> {
            self.around(self.kernel.now()).await
        }
        async fn get_transaction(&self, id: TransactionId) -> Result<Transaction> {
            self.around(self.kernel.get_transaction(id)).await
        }
        async fn find_transactions(&self, query: &TransactionQuery) -> Result<Vec<Transaction>> {
            self.around(self.kernel.find_transactions(query)).await
        }
        async fn balance(&self, owner: Address) -> Result<Usdc> {
            self.around(self.kernel.balance(owner)).await
        }
        async fn create_transaction(
            &self,
            sender: Address,
            request: &CreateTransaction,
        ) -> Result<TransactionId> {
            self.around(self.kernel.create_transaction(sender, request)).await
        }
        async fn link_escrow(
            &self,
            sender: Address,
            id: TransactionId,
            link: LinkEscrow,
        ) -> Result<B256> {
            self.around(self.kernel.link_escrow(sender, id, link)).await
        }
        async fn transition_state(
        &self,
        sender: Address,
        transition: &Transition,
    ) -> Result<GasCost> {
            self.around(self.kernel.transition_state(sender, transition)).await
        }
    }
}

/// A consumer who dies at this call of the kernel.
async fn mortal(fixture: &Fixture, point: i64, after: bool, trusting: bool) -> Consumer {
    let kernel = Arc::new(Deadly {
        kernel: fixture.payer.kernel().clone(),
        calls_left: AtomicI64::new(point),
        after,
    });
    let mortal = ACTPClient::with_kernel(kernel.clone(), fixture.payer.address());
    let storage = Storage::Directory(fixture.directory.path().to_owned());
    let mut builder = Consumer::builder(mortal).storage(storage);
    if trusting {
        builder = builder.trust(fixture.provider.address().to_string());
    }
    builder.open().await.unwrap()
}

/// Buys with the key "k", and dies at this call of the kernel; false where it came to its end.
async fn dies_buying(fixture: &Fixture, point: i64, after: bool, trusting: bool) -> bool {
    let consumer = mortal(fixture, point, after, trusting).await;
    let attempt = fixture.buy(&consumer, call().purchase_key("k"));
    tokio::time::timeout(Duration::from_millis(200), attempt).await.is_err()
}

#[tokio::test]
async fn a_cancellation_whose_outcome_was_lost_still_counts_its_penalty() {
    let mut lost = 0;
    for point in 0.. {
        let fixture = Fixture::new(CENTS_10).await;
        let consumer = fixture.wary().await;
        let id = fixture.buy_in_silence(&consumer).await;
        fixture.payer.mock().unwrap().advance_time(4_000).await.unwrap();
        let dying = mortal(&fixture, point, true, false).await;
        if tokio::time::timeout(Duration::from_millis(200), dying.reclaim()).await.is_ok() {
            break;
        }
        if fixture.payer.get_transaction(id).await.unwrap().state == State::Cancelled {
            assert_eq!(consumer.settle().await.unwrap().refunded, [id]);
            assert_eq!(consumer.spent(None).await.unwrap().day, Usdc(50_000));
            lost += 1;
        }
    }
    assert!(lost > 0);
}

#[tokio::test]
async fn money_whose_process_died_before_it_knew_is_listed_and_comes_back() {
    let mut locked = 0;
    for point in 0.. {
        let fixture = Fixture::new(CENTS_10).await;
        if !dies_buying(&fixture, point, true, false).await {
            break;
        }
        let consumer = fixture.wary().await;
        let (funded, _) = fixture.paid().await;
        assert_eq!(consumer.balances().await.unwrap().len(), funded, "died at call {point}");
        assert_eq!(consumer.settle().await.unwrap().waiting.len(), funded);
        fixture.payer.mock().unwrap().advance_time(4_000).await.unwrap();
        assert_eq!(consumer.reclaim().await.unwrap().refunded.len(), funded);
        locked += funded;
    }
    assert!(locked > 0);
}

#[tokio::test]
async fn a_payment_that_was_created_and_can_never_be_funded_counts_no_longer() {
    let mut abandoned = 0;
    for point in 0.. {
        let fixture = Fixture::new(CENTS_10).await;
        if !dies_buying(&fixture, point, false, false).await {
            break;
        }
        let created = TransactionQuery::of(fixture.payer.address());
        let created = !fixture.payer.find_transactions(&created).await.unwrap().is_empty();
        if !created || fixture.paid().await.0 > 0 {
            continue;
        }
        let consumer = fixture.wary().await;
        consumer.settle().await.unwrap();
        assert_eq!(consumer.spent(None).await.unwrap().day, DOLLAR, "it may still be funded");
        fixture.payer.mock().unwrap().advance_time(4_000).await.unwrap();
        assert_eq!(consumer.settle().await.unwrap(), Report::default());
        assert_eq!(consumer.spent(None).await.unwrap().day, Usdc(0), "died at call {point}");
        abandoned += 1;
    }
    assert!(abandoned > 0);
}

#[tokio::test]
async fn a_purchase_that_dies_at_any_call_of_the_kernel_pays_once() {
    let mut deaths = 0;
    for after in [false, true] {
        for trusting in [true, false] {
            for point in 0.. {
                let fixture = Fixture::new(CENTS_10).await;
                let died = dies_buying(&fixture, point, after, trusting).await;
                deaths += u32::from(died);

                let consumer =
                    if trusting { fixture.trusting().await } else { fixture.wary().await };
                let answer = fixture.buy(&consumer, call().purchase_key("k")).await.unwrap();
                assert_eq!(answer.body.as_ref(), b"answer 0");
                let amount = if trusting { CENTS_10 } else { DOLLAR };
                assert_eq!(
                    fixture.paid().await,
                    (1, amount),
                    "died at call {point}, after: {after}"
                );
                let balance = fixture.payer.balance().await.unwrap();
                assert_eq!(balance, Usdc(1_000_000_000 - amount.0));
                assert_eq!(consumer.spent(None).await.unwrap().day, amount);
                if !died {
                    break;
                }
            }
        }
    }
    assert!(deaths > 20, "{deaths}");
}

/// Another process: buys the purchases one after the other, until it is killed.
pub async fn buy_until_killed(directory: &Path, first: u64) {
    let (provider, payer) = (client(directory, 1).await, client(directory, 2).await);
    let service = Service::of(provider.clone(), CENTS_10).await;
    let consumer = Consumer::builder(payer);
    let consumer = consumer.trust(provider.address().to_string()).open().await.unwrap();
    for number in first.. {
        std::fs::write(directory.join(format!("begun-{first}")), number.to_string()).unwrap();
        let purchase = consumer.purchase(call().purchase_key(format!("order-{number}"))).unwrap();
        let carry = async |request: agirails::consumer::HttpRequest| {
            HttpOutcome::Answered(service.answer(&request).await)
        };
        drive(purchase, carry).await.unwrap();
    }
}

#[test]
fn purchases_of_processes_that_are_killed_are_paid_once() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..12_u64 {
        let mut child =
            children::command("buy until killed", directory.path(), round * 1_000).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 + round * 9));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (provider, payer) =
            (client(directory.path(), 1).await, client(directory.path(), 2).await);
        let service = Service::of(provider.clone(), CENTS_10).await;
        let consumer = Consumer::builder(payer.clone());
        let consumer = consumer.trust(provider.address().to_string()).open().await.unwrap();
        let mut bought = 0;
        for round in 0..12_u64 {
            // Again from the beginning: what was bought is fetched, what was not is bought.
            let begun = directory.path().join(format!("begun-{}", round * 1_000));
            // A process may have been killed before it began, or within the write of this file.
            let begun = std::fs::read_to_string(begun).unwrap_or_default();
            let last = begun.parse().unwrap_or(round * 1_000 + 30);
            for number in round * 1_000..=last {
                let key = format!("order-{number}");
                let purchase = consumer.purchase(call().purchase_key(key)).unwrap();
                let carry = async |request: agirails::consumer::HttpRequest| {
                    HttpOutcome::Answered(service.answer(&request).await)
                };
                drive(purchase, carry).await.unwrap();
                bought += 1;
            }
        }
        let (funded, amount) = paid(&payer).await;
        let spent = consumer.spent(None).await.unwrap();
        assert!(funded >= bought, "{funded} of {bought}");
        assert_eq!(amount, Usdc(CENTS_10.0 * funded as u64));
        assert_eq!(spent.day, amount, "what is on record is what was paid");
        assert_eq!(payer.balance().await.unwrap(), Usdc(1_000_000_000 - amount.0));
    });
}

/// Another process: spends as much as the budget lets it.
pub async fn spend_the_budget(directory: &Path) {
    let (provider, payer) = (client(directory, 1).await, client(directory, 2).await);
    let service = Service::of(provider, CENTS_10).await;
    let budget = Budget { per_day: Some(DOLLAR), ..Budget::default() };
    let consumer = Consumer::builder(payer).trust(crate::fixture::ORIGIN).budget(budget);
    let consumer = consumer.open().await.unwrap();
    for _ in 0..20 {
        let carry = async |request: agirails::consumer::HttpRequest| {
            HttpOutcome::Answered(service.answer(&request).await)
        };
        match drive(consumer.purchase(call()).unwrap(), carry).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.code(), agirails::Code::BudgetExceeded, "{error}"),
        }
    }
}

#[test]
fn processes_that_spend_one_budget_together_never_overspend_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut processes: Vec<_> = (0..4)
        .map(|_| children::command("spend the budget", directory.path(), 0).spawn().unwrap())
        .collect();
    for process in &mut processes {
        assert!(
            children::wait(process, Duration::from_secs(120))
                .is_some_and(|status| status.success())
        );
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (funded, amount) =
        runtime.block_on(async { paid(&client(directory.path(), 2).await).await });
    assert_eq!((funded, amount), (10, DOLLAR));
}
