//! A keeper that is killed at any point is followed by one that loses nothing and does nothing twice.

use std::time::Duration;

use agirails::{State, Usdc};

use crate::{fixture::Fixture, front::Front};

#[tokio::test]
async fn a_keeper_that_dies_anywhere_is_followed_by_one_that_goes_on() {
    for dies_after in [false, true] {
        let mut deaths = 0;
        for point in 0.. {
            let fixture = Fixture::new().await;
            let ids = fixture.two_due().await;
            let before = fixture.balance(fixture.providers[0]).await;
            let front = Front::deadly(&fixture.kernel, point, dies_after);
            let mortal = fixture.behind(&front).open().await.unwrap();
            let life = tokio::time::timeout(Duration::from_millis(200), mortal.turn()).await;
            let died = life.is_err();
            drop(mortal);
            // Until then its lease keeps others out.
            let next = fixture.open().await;
            assert_eq!(next.turn().await.unwrap().is_busy, died, "call {point}");
            fixture.wait_is_over();
            let report = next.turn().await.unwrap();
            assert_eq!((report.is_busy, report.waiting), (false, 0), "call {point}");
            for id in ids {
                assert_eq!(fixture.state(id).await, State::Settled, "call {point}");
                assert_eq!(fixture.settlements(id).await, 1, "call {point}");
            }
            let paid = Usdc(before.0 + 950_000);
            assert_eq!(fixture.balance(fixture.providers[0]).await, paid, "call {point}");
            if !died {
                break;
            }
            deaths += 1;
        }
        // Clock, events, two reads, clock, gas, two reads, two escrows, two settlements.
        assert!(deaths >= 10, "{deaths}");
    }
}
