//! The scenarios of the testkit on the contracts.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
};

use agirails::testkit::{Need, SCENARIOS, Scenario};

use crate::fixture::Local;

/// `SCENARIO=part_of_a_name` plays only those.
#[test]
fn the_chain_kernel_passes_every_scenario() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let scenarios = SCENARIOS.iter().filter(|s| s.name.contains(&wanted));
    let (own, others): (Vec<_>, Vec<_>) = scenarios.partition(|s| s.needs == Need::OwnStage);
    let own: Vec<_> = own.into_iter().map(|scenario| Mutex::new(vec![scenario])).collect();
    let others = Mutex::new(others);
    let failures: Vec<_> = thread::scope(|scope| {
        let queues = own.iter().chain([&others, &others]);
        let crew: Vec<_> = queues.map(|queue| scope.spawn(move || play(queue))).collect();
        crew.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

/// Plays what is in the queue on one stage; returns what went wrong.
fn play(queue: &Mutex<Vec<&Scenario>>) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(Local::start()).unwrap();
    let mut failures = vec![];
    loop {
        let Some(scenario) = queue.lock().unwrap().pop() else { break failures };
        let run = || runtime.block_on((scenario.run)(&stage));
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failures.push(format!("{}: {error:?}", scenario.name)),
            Err(_) => failures.push(format!("{}: see the panic above", scenario.name)),
        }
    }
}
