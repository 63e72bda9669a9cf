//! The scenarios of the testkit on the contracts.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
};

use agirails::testkit::{Need, SCENARIOS};

use crate::stage::Local;

/// `SCENARIO=part_of_a_name` plays only those.
#[test]
fn the_chain_kernel_passes_every_scenario() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let scenarios = SCENARIOS.iter().filter(|s| s.name.contains(&wanted));
    // A registry with ten thousand agents in it takes a chain of its own, and a while.
    let scenarios = scenarios.filter(|s| s.needs != Need::OwnStage);
    let queue = Mutex::new(scenarios.collect::<Vec<_>>());
    let failures = Mutex::new(vec![]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let stage = runtime.block_on(Local::start()).unwrap();
                loop {
                    let Some(scenario) = queue.lock().unwrap().pop() else { break };
                    let run = || runtime.block_on((scenario.run)(&stage));
                    let failure = match catch_unwind(AssertUnwindSafe(run)) {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => format!("{}: {error:?}", scenario.name),
                        Err(_) => format!("{}: see the panic above", scenario.name),
                    };
                    failures.lock().unwrap().push(failure);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}
