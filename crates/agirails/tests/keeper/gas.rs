//! What is not worth its gas waits, and is never forgotten.

use agirails::{SettlementLimits, State, Usdc, keeper::Event};

use crate::{
    fixture::{CENTS_10, DOLLAR, Fixture, Told, WINDOW},
    front::Front,
};

const GWEI: u128 = 1_000_000_000;
/// 3,000 USDC for a whole coin: at 1 gwei a settlement costs 0.978831 USDC.
const LIMITS: SettlementLimits =
    SettlementLimits { min_net: None, coin_price: Some(Usdc(3_000_000_000)) };

#[tokio::test]
async fn what_is_not_worth_its_gas_waits_until_gas_is_cheaper() {
    let fixture = Fixture::new().await;
    let small = fixture.delivered(fixture.providers[0], DOLLAR).await;
    let large = fixture.delivered(fixture.providers[1], Usdc(5_000_000)).await;
    fixture.pass(WINDOW + 1).await;
    let (front, told) = (Front::of(&fixture.kernel), Told::default());
    front.is(|mood| mood.gas_price = Some(GWEI));
    let open = async || {
        let keeper = fixture.behind(&front).limits(LIMITS).on_event(told.listener());
        keeper.open().await.unwrap()
    };
    let keeper = open().await;
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.settled[0].transaction), (1, large));
    assert_eq!((report.waiting, report.unprofitable, report.next_due_at), (1, 1, None));
    let waits =
        told.events().into_iter().filter(|event| matches!(event, Event::Unprofitable { .. }));
    let lines: Vec<_> = waits.map(|event| event.to_string()).collect();
    let line = "waits: not worth its gas, net 0.95 USDC of at least 0.978831 USDC";
    assert_eq!(lines, [format!("{small} {line}")]);

    // It is told once, also by the one who comes after.
    drop(keeper);
    let keeper = open().await;
    for _ in 0..2 {
        let report = keeper.turn().await.unwrap();
        assert_eq!((report.settled.len(), report.unprofitable), (0, 1));
    }
    assert_eq!(told.lines(), [""; 0]);
    let metrics = keeper.metrics().await.unwrap();
    assert_eq!((metrics.unprofitable, metrics.oldest_due_seconds), (1, 0));

    front.is(|mood| mood.gas_price = Some(GWEI / 2));
    let report = keeper.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.waiting, report.unprofitable), (1, 0, 0));
    assert_eq!(fixture.state(small).await, State::Settled);
}

#[tokio::test]
async fn the_least_net_may_be_set() {
    let fixture = Fixture::new().await;
    fixture.delivered(fixture.providers[0], CENTS_10).await;
    fixture.delivered(fixture.providers[0], DOLLAR).await;
    fixture.pass(WINDOW + 1).await;
    let limits = SettlementLimits { min_net: Some(Usdc(50_001)), coin_price: None };
    let picky = fixture.builder().limits(limits).open().await.unwrap();
    let report = picky.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.unprofitable), (1, 1));
    // Another one settles for less.
    let report = fixture.open().await.turn().await.unwrap();
    assert_eq!((report.settled.len(), report.settled[0].net), (1, Usdc(50_000)));
}

#[tokio::test]
async fn what_is_due_and_cannot_be_settled_shows_its_age() {
    let fixture = Fixture::new().await;
    fixture.two_due().await;
    let front = Front::of(&fixture.kernel);
    front.is(|mood| mood.is_down = true);
    let keeper = fixture.behind(&front).open().await.unwrap();
    fixture.pass(1_000).await;
    keeper.turn().await.unwrap();
    let metrics = keeper.metrics().await.unwrap();
    assert!((1_000..1_100).contains(&metrics.oldest_due_seconds), "{metrics:?}");
    assert!(metrics.failures_total > 0);
    let text = metrics.to_prometheus();
    assert!(text.contains("# TYPE agirails_keeper_waiting gauge\nagirails_keeper_waiting 2\n"));
}
