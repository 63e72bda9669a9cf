//! The scenarios of the testkit on the contracts.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
};

use agirails::{
    Generation,
    testkit::{Need, SCENARIOS, Scenario},
};

use crate::fixture::Local;

/// `SCENARIO=part_of_a_name` plays only those.
#[test]
fn the_chain_kernel_passes_every_scenario() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let scenarios = SCENARIOS.iter().filter(|s| s.name.contains(&wanted));
    let (own, others): (Vec<_>, Vec<_>) = scenarios.partition(|s| s.needs == Need::OwnStage);
    // The registry is the same for every generation.
    let own = own.into_iter().map(|scenario| (Generation::default(), Mutex::new(vec![scenario])));
    let others = Generation::ALL.map(|generation| (generation, Mutex::new(others.clone())));
    let queues: Vec<_> = own.chain(others).collect();
    let failures: Vec<_> = thread::scope(|scope| {
        let player = |(generation, queue)| scope.spawn(move || play(generation, queue));
        let crew: Vec<_> =
            queues.iter().map(|(generation, queue)| player((*generation, queue))).collect();
        crew.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

/// Plays what is in the queue on one stage of a generation; returns what went wrong.
fn play(generation: Generation, queue: &Mutex<Vec<&Scenario>>) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(Local::start(generation)).unwrap();
    let mut failures = vec![];
    loop {
        let Some(scenario) = queue.lock().unwrap().pop() else { break failures };
        let run = || runtime.block_on((scenario.run)(&stage));
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                failures.push(format!("{} on {generation}: {error:?}", scenario.name))
            }
            Err(_) => {
                failures.push(format!("{} on {generation}: see the panic above", scenario.name))
            }
        }
    }
}
