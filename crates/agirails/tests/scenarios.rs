//! The embedded kernel passes every scenario of the testkit, whichever generation it plays.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use agirails::{
    Address, Generation, Refusal, Result, Storage, Usdc,
    kernel::{
        Kernel,
        embedded::{EmbeddedKernel, EmbeddedOptions},
    },
    testkit::{Need, SCENARIOS, Scenario, Stage, Watch},
};
use alloy_primitives::keccak256;
use async_trait::async_trait;

/// Words that no call can meet here, each with the reason.
const UNREACHABLE: [(Refusal, &str); 7] = [
    (Refusal::TxExists, "an id holds its requester's nonce, which grows with every creation"),
    (Refusal::VaultNotApproved, "the embedded kernel has one vault, which nobody revokes"),
    (Refusal::EscrowFundingFailed, "USDC moves the whole amount or nothing"),
    (Refusal::EscrowExists, "a used escrow id is refused before the vault is asked"),
    (Refusal::EscrowMissing, "nothing is IN_PROGRESS without an escrow"),
    (Refusal::EscrowMissingForDispute, "nothing is DELIVERED without an escrow"),
    (Refusal::InvalidDidLength, "DIDs are read before the registry is asked, and refused there"),
];

/// An embedded kernel in memory, watched.
struct Embedded {
    mock: Arc<EmbeddedKernel>,
    watch: Arc<Watch>,
    kernel: Arc<dyn Kernel>,
    parties: AtomicU64,
}

impl Embedded {
    async fn open(generation: Generation) -> Result<Self> {
        let options = EmbeddedOptions {
            generation: Some(generation),
            ..EmbeddedOptions::new(Storage::Memory)
        };
        let mock = Arc::new(EmbeddedKernel::open(options).await?);
        let watch = Arc::new(Watch::over(mock.clone()));
        Ok(Self { mock, kernel: watch.clone(), watch, parties: AtomicU64::new(0) })
    }
}

#[async_trait]
impl Stage for Embedded {
    fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    async fn party(&self) -> Result<Address> {
        let number = self.parties.fetch_add(1, Ordering::Relaxed);
        let party = Address::from_word(keccak256(number.to_be_bytes()));
        self.mock.greet(party).await?;
        Ok(party)
    }

    async fn mint(&self, to: Address, amount: Usdc) -> Result<()> {
        self.mock.mint(to, amount).await
    }

    async fn advance(&self, seconds: u64) -> Result<()> {
        self.mock.advance_time(seconds).await.map(drop)
    }

    /// The kernel's clock is the wall clock's, so a call is made early in one of its seconds.
    async fn at(&self, time: u64) -> Result<()> {
        let into_second = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_millis();
        if into_second > 400 {
            tokio::time::sleep(Duration::from_millis(u64::from(1_000 - into_second))).await;
        }
        let ahead = time.checked_sub(self.mock.now().await?).unwrap();
        let now = self.mock.advance_time(ahead).await?;
        assert_eq!(now, time);
        Ok(())
    }

    async fn set_paused(&self, paused: bool) -> Result<()> {
        self.mock.set_paused(paused).await
    }

    async fn approve_mediator(&self, mediator: Address) -> Result<()> {
        self.mock.approve_mediator(mediator).await
    }
}

/// What went wrong, and which words were met.
fn play((generation, scenario): (Generation, &Scenario)) -> (Option<String>, Vec<Refusal>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let stage = runtime.block_on(Embedded::open(generation)).unwrap();
    let run = || runtime.block_on((scenario.run)(&stage));
    let failure = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{} on {generation}: {error:?}", scenario.name)),
        Err(_) => Some(format!("{} on {generation}: see the panic above", scenario.name)),
    };
    (failure, stage.watch.refusals())
}

/// `SCENARIO=part_of_a_name` plays only those.
#[test]
fn the_embedded_kernel_passes_every_scenario_and_meets_every_word() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let scenarios = SCENARIOS.iter().filter(|s| s.name.contains(&wanted));
    let queue: VecDeque<_> = scenarios
        .flat_map(|scenario| Generation::ALL.map(|generation| (generation, scenario)))
        // The registry is the same on all of them.
        .filter(|(generation, scenario)| {
            scenario.needs != Need::OwnStage || *generation == Generation::default()
        })
        .collect();
    for generation in Generation::ALL {
        let count = queue.iter().filter(|(of, _)| *of == generation).count();
        println!("{generation}: {count} scenarios");
    }
    // The long ones first.
    let queue = Mutex::new({
        let (own, mut others): (VecDeque<_>, VecDeque<_>) =
            queue.into_iter().partition(|(_, scenario)| scenario.needs == Need::OwnStage);
        for scenario in own {
            others.push_front(scenario);
        }
        others
    });
    let next = || queue.lock().unwrap().pop_front();
    let played: Vec<_> = thread::scope(|scope| {
        let crew: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| std::iter::from_fn(next).map(play).collect::<Vec<_>>()))
            .collect();
        crew.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });

    let (failures, met): (Vec<_>, Vec<_>) = played.into_iter().unzip();
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
    if !wanted.is_empty() {
        return;
    }
    let met = met.concat();
    // What decides disputes beside the kernel has tests of its own.
    let kernels = Refusal::ALL.iter().filter(|word| !Refusal::DISPUTES.contains(word));
    let unmet: Vec<_> = kernels.filter(|word| !met.contains(word)).collect();
    let unreachable: Vec<_> = UNREACHABLE.iter().map(|(word, _)| word).collect();
    assert_eq!(unmet, unreachable, "words that no scenario met; those that none can meet");
}

#[test]
fn scenarios_have_names_of_their_own() {
    let mut names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SCENARIOS.len());
    assert!(names.len() > 80);
}
