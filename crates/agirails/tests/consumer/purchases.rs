//! What is bought, how it is paid, and what is refused before anything is.

use std::time::Duration;

use agirails::{
    ACTPClient, Code, Evidence, Retry, State, Storage, Usdc,
    consumer::{
        Budget, Consumer, HttpFailure, HttpOutcome, HttpResponse, PaidCall, PaymentKind, Proof,
        Report, Step,
    },
    paywall::Charge,
};

use crate::fixture::{CENTS_10, DOLLAR, Fixture, ORIGIN, Service, call, client, drive, key};

#[tokio::test]
async fn a_trusted_provider_is_paid_for_one_call_and_the_answer_proven_and_settled() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let paid = fixture.buy(&consumer, call().settle(true)).await.unwrap();
    assert_eq!((paid.status, paid.body.as_ref()), (200, &b"answer 0"[..]));
    let payment = paid.payment.unwrap();
    assert_eq!((payment.kind, payment.amount), (PaymentKind::Single, CENTS_10));
    assert_eq!(payment.proof, Proof::Signed);
    assert_eq!(payment.cancellable_from, None);
    assert!(payment.is_settled && payment.funded_now);
    assert_eq!(fixture.paid().await, (1, CENTS_10));
    let state = fixture.payer.get_transaction(payment.transaction_id).await.unwrap().state;
    assert_eq!(state, State::Settled);
}

#[tokio::test]
async fn an_untrusted_provider_gets_a_bundle_from_which_later_calls_are_drawn() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    for number in 0..10 {
        let paid = fixture.buy(&consumer, call()).await.unwrap();
        let payment = paid.payment.unwrap();
        assert_eq!(
            (payment.kind, payment.amount, payment.price),
            (PaymentKind::Prepaid, DOLLAR, CENTS_10)
        );
        assert!(payment.cancellable_from.is_some());
        assert_eq!(payment.funded_now, number == 0);
    }
    assert_eq!(fixture.paid().await, (1, DOLLAR));
    assert_eq!(fixture.service.runs(), 10);
    // Only the first call asked for the price.
    assert_eq!(fixture.service.seen.lock().unwrap().len(), 11);
    let balance = &consumer.balances().await.unwrap()[0];
    assert_eq!((balance.amount, balance.left), (DOLLAR, Usdc(0)));
    // The eleventh buys another bundle; all eleven answers are proven by two deliveries.
    fixture.buy(&consumer, call()).await.unwrap();
    assert_eq!(fixture.paid().await, (2, Usdc(2_000_000)));
    fixture.becomes(balance.transaction_id, State::Delivered).await;
    let report = consumer.settle().await.unwrap();
    assert_eq!(report.settled, [balance.transaction_id]);
    assert_eq!(report.waiting.len(), 1);
    assert_eq!(report.refused, []);
}

#[tokio::test]
async fn a_balance_is_drawn_from_at_no_price_but_the_requests_own() {
    let fixture = Fixture::new(CENTS_10).await;
    fixture.service.sell(Charge::per_request("POST /api/generate"));
    let consumer = fixture.wary().await;
    let costs = |units: u64, most: Usdc| {
        PaidCall::new("POST", format!("{ORIGIN}/api/generate?costs={units}"), most)
    };
    let small = fixture.buy(&consumer, costs(10_000, CENTS_10)).await.unwrap().payment.unwrap();
    let error = fixture.buy(&consumer, costs(800_000, CENTS_10)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.facts().required),
        (Code::PriceAboveLimit, Some(Usdc(800_000)))
    );
    assert_eq!(consumer.balances().await.unwrap()[0].left, Usdc(990_000));
    let huge = fixture.buy(&consumer, costs(800_000, DOLLAR)).await.unwrap().payment.unwrap();
    assert_eq!((huge.transaction_id, huge.price), (small.transaction_id, Usdc(800_000)));
    assert_eq!((fixture.paid().await, fixture.service.runs()), ((1, DOLLAR), 2));
}

#[tokio::test]
async fn a_price_that_is_raised_over_an_open_balance_is_asked_of_the_caller_again() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    fixture.buy(&consumer, call()).await.unwrap();
    fixture.service.sell(Charge::new("POST /api/generate", Usdc(200_000)));
    let error = fixture.buy(&consumer, call()).await.unwrap_err();
    assert_eq!((error.code(), fixture.service.runs()), (Code::PriceAboveLimit, 1));
    let capped = Budget { per_call: Some(CENTS_10), ..Budget::default() };
    let dear = || PaidCall::new("POST", format!("{ORIGIN}/api/generate"), DOLLAR);
    let error = fixture.buy(&fixture.limited(capped).await, dear()).await.unwrap_err();
    assert_eq!((error.code(), fixture.service.runs()), (Code::BudgetExceeded, 1));
    fixture.buy(&consumer, dear()).await.unwrap();
    let balance = &consumer.balances().await.unwrap()[0];
    assert_eq!((balance.left, balance.is_open), (Usdc(700_000), true));
    assert_eq!(fixture.paid().await, (1, DOLLAR));
}

#[tokio::test]
async fn calls_that_begin_together_share_one_bundle() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let calls = (0..10).map(|_| fixture.buy(&consumer, call()));
    for outcome in futures_util::future::join_all(calls).await {
        assert_eq!(outcome.unwrap().status, 200);
    }
    assert_eq!(fixture.paid().await, (1, DOLLAR));
}

#[tokio::test]
async fn what_costs_nothing_is_not_paid() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let free = PaidCall::new("GET", format!("{ORIGIN}/free?a=b"), CENTS_10);
    let answer = fixture.buy(&consumer, free).await.unwrap();
    assert_eq!((answer.status, answer.payment), (200, None));
    let page = PaidCall::new("GET", format!("{ORIGIN}/api/payments/none"), CENTS_10);
    assert_eq!(fixture.buy(&consumer, page).await.unwrap().status, 400);
    assert_eq!(fixture.paid().await.0, 0);
}

#[tokio::test]
async fn a_refusal_comes_before_anything_is_created() {
    let fixture = Fixture::new(CENTS_10).await;
    let limits = |budget| fixture.limited(budget);
    let no = Some(Usdc(99_999));
    let cases = [
        (fixture.wary().await, call().max_funding(Usdc(999_999)), Code::UntrustedProvider),
        (
            fixture.trusting().await,
            PaidCall::new("POST", format!("{ORIGIN}/a"), Usdc(99_999)),
            Code::PriceAboveLimit,
        ),
        (limits(Budget { per_call: no, ..Budget::default() }).await, call(), Code::BudgetExceeded),
        (limits(Budget { per_hour: no, ..Budget::default() }).await, call(), Code::BudgetExceeded),
        (limits(Budget { per_day: no, ..Budget::default() }).await, call(), Code::BudgetExceeded),
        (
            limits(Budget { per_provider_per_day: no, ..Budget::default() }).await,
            call(),
            Code::BudgetExceeded,
        ),
    ];
    for (consumer, call, code) in cases {
        let error = fixture.buy(&consumer, call).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.hint().is_some());
        assert_eq!(error.facts().purchase_key, None, "there is nothing to take up");
    }
    let query = agirails::kernel::TransactionQuery::of(fixture.payer.address());
    assert_eq!(fixture.payer.find_transactions(&query).await.unwrap(), []);
}

#[tokio::test]
async fn a_payer_without_the_money_creates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let builder = ACTPClient::builder().state_directory(directory.path());
    let poor = builder.private_key(key(2)).starting_balance(Usdc(5)).connect().await.unwrap();
    let provider = client(directory.path(), 1).await;
    let service = Service::of(provider.clone(), CENTS_10).await;
    let fixture = Fixture { directory, provider, payer: poor, service };
    let error = fixture.buy(&fixture.trusting().await, call()).await.unwrap_err();
    assert_eq!(error.code(), Code::InsufficientBalance);
    assert_eq!((error.facts().required, error.facts().available), (Some(CENTS_10), Some(Usdc(5))));
    let query = agirails::kernel::TransactionQuery::of(fixture.payer.address());
    assert_eq!(fixture.payer.find_transactions(&query).await.unwrap(), []);
}

#[tokio::test]
async fn a_budget_survives_a_restart_moves_with_time_and_takes_back_what_came_back() {
    let fixture = Fixture::new(DOLLAR).await;
    let budget =
        Budget { per_hour: Some(DOLLAR), per_day: Some(Usdc(2_000_000)), ..Budget::default() };
    let dear = || PaidCall::new("POST", format!("{ORIGIN}/api/generate"), DOLLAR);
    fixture.buy(&fixture.limited(budget).await, dear()).await.unwrap();
    let refused = async || {
        let error = fixture.buy(&fixture.limited(budget).await, dear()).await.unwrap_err();
        assert_eq!((error.code(), error.retry()), (Code::BudgetExceeded, Retry::Safe));
        error.facts().field.unwrap()
    };
    assert_eq!(refused().await, "per_hour");
    fixture.payer.mock().unwrap().advance_time(3_601).await.unwrap();
    // This one its provider gives back.
    let paid = fixture.buy(&fixture.limited(budget).await, dear().header("x", "y")).await.unwrap();
    fixture.payer.mock().unwrap().advance_time(3_601).await.unwrap();
    assert_eq!(refused().await, "per_day");
    let consumer = fixture.limited(budget).await;
    let spent = consumer.spent(Some(fixture.provider.address())).await.unwrap();
    assert_eq!(
        (spent.hour, spent.day, spent.provider),
        (Usdc(0), Usdc(2_000_000), Usdc(2_000_000))
    );
    drop(paid);
    fixture.payer.mock().unwrap().advance_time(90_000).await.unwrap();
    fixture.buy(&consumer, dear()).await.unwrap();
}

#[tokio::test]
async fn money_that_came_back_may_be_spent_again() {
    let fixture = Fixture::new(DOLLAR).await;
    let budget = Budget { per_day: Some(DOLLAR), ..Budget::default() };
    let consumer = fixture.limited(budget).await;
    let dear = || PaidCall::new("POST", format!("{ORIGIN}/api/generate?unwell"), DOLLAR);
    let error = fixture.buy(&consumer, dear()).await.unwrap_err();
    assert_eq!((error.code(), error.facts().status), (Code::CallRefused, Some(422)));
    let id = error.facts().transaction_id.unwrap();
    let cancel = agirails::State::Cancelled;
    fixture.provider.transition_state(id, cancel, agirails::Evidence::None).await.unwrap();
    assert_eq!(consumer.settle().await.unwrap().refunded, [id]);
    assert_eq!(consumer.spent(None).await.unwrap().day, Usdc(0));
    fixture
        .buy(&consumer, PaidCall::new("POST", format!("{ORIGIN}/api/generate"), DOLLAR))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_purchase_whose_money_came_back_is_paid_anew_by_its_key() {
    for settles_first in [false, true] {
        let fixture = Fixture::new(DOLLAR).await;
        let budget = Budget { per_day: Some(DOLLAR), ..Budget::default() };
        let consumer = fixture.limited(budget).await;
        let dear = || {
            let call = PaidCall::new("POST", format!("{ORIGIN}/api/generate"), DOLLAR);
            call.purchase_key("order")
        };
        let error = drive(consumer.purchase(dear()).unwrap(), async |request| {
            let is_paid = request.headers.iter().any(|(name, _)| name == "X-AGIRAILS-TX-ID");
            let answer = match is_paid {
                false => fixture.service.answer(&request).await,
                true => HttpResponse { status: 422, headers: vec![], body: "unwell".into() },
            };
            HttpOutcome::Answered(answer)
        })
        .await
        .unwrap_err();
        assert_eq!(error.code(), Code::CallRefused);
        let id = error.facts().transaction_id.unwrap();
        fixture.provider.transition_state(id, State::Cancelled, Evidence::None).await.unwrap();
        if settles_first {
            assert_eq!(consumer.settle().await.unwrap().refunded, [id]);
        }
        let paid = fixture.buy(&consumer, dear()).await.unwrap().payment.unwrap();
        assert_ne!(paid.transaction_id, id);
        assert_eq!(consumer.spent(None).await.unwrap().day, DOLLAR);
        let again = fixture.buy(&consumer, dear()).await.unwrap().payment.unwrap();
        assert_eq!((again.transaction_id, fixture.paid().await.0), (paid.transaction_id, 2));
    }
}

#[tokio::test]
async fn the_same_key_is_the_same_purchase_and_no_other() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let first = fixture.buy(&consumer, call().purchase_key("order-1")).await.unwrap();
    let again = fixture
        .buy(&fixture.trusting().await, call().header("Idempotency-Key", "order-1"))
        .await
        .unwrap();
    assert_eq!(first.body, again.body);
    assert_eq!((fixture.paid().await.0, fixture.service.runs()), (1, 1));
    let other = call().body(&b"{\"other\":1}"[..]).purchase_key("order-1");
    let error = fixture.buy(&consumer, other).await.unwrap_err();
    assert_eq!(error.code(), Code::PurchaseMismatch);
    fixture.buy(&consumer, call().purchase_key("order-2")).await.unwrap();
    assert_eq!((fixture.paid().await.0, fixture.service.runs()), (2, 2));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_transaction() {
    for bundle in [false, true] {
        let fixture = Fixture::new(CENTS_10).await;
        let consumer = if bundle { fixture.wary().await } else { fixture.trusting().await };
        // More of them than a call that is not paid is worth.
        let mut losses = 12;
        let paid = drive(consumer.purchase(call()).unwrap(), async |request| {
            let answer = fixture.service.answer(&request).await;
            if answer.status == 200 && losses > 0 {
                losses -= 1;
                return HttpOutcome::Failed(HttpFailure::Lost("cut".to_owned()));
            }
            HttpOutcome::Answered(answer)
        })
        .await
        .unwrap();
        assert_eq!(paid.body.as_ref(), b"answer 0");
        assert_eq!((fixture.paid().await.0, fixture.service.runs()), (1, 1));
    }
}

#[tokio::test]
async fn a_purchase_that_ends_unanswered_tells_the_key_that_takes_it_up() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let impatient = call().timeout(Duration::from_secs(1));
    let error = drive(consumer.purchase(impatient).unwrap(), async |request| {
        let answer = fixture.service.answer(&request).await;
        match answer.status {
            402 => HttpOutcome::Answered(answer),
            _ => HttpOutcome::Failed(HttpFailure::Lost("cut".to_owned())),
        }
    })
    .await
    .unwrap_err();
    assert_eq!((error.code(), error.retry()), (Code::CallFailed, Retry::CheckFirst));
    let key = error.facts().purchase_key.clone().unwrap();
    let paid = fixture.buy(&fixture.trusting().await, call().purchase_key(key)).await.unwrap();
    assert_eq!(paid.body.as_ref(), b"answer 0");
    assert_eq!((fixture.paid().await.0, fixture.service.runs()), (1, 1));
}

#[tokio::test]
async fn a_call_that_the_service_refuses_takes_nothing_from_a_balance() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let unwell = || PaidCall::new("POST", format!("{ORIGIN}/api/generate?unwell"), CENTS_10);
    // One more, and the provider would give the balance back.
    for _ in 0..4 {
        let error = fixture.buy(&consumer, unwell()).await.unwrap_err();
        assert_eq!(error.facts().status, Some(422));
    }
    for _ in 0..10 {
        fixture.buy(&consumer, call()).await.unwrap();
    }
    assert_eq!(fixture.paid().await, (1, DOLLAR));
}

#[tokio::test]
async fn a_balance_that_a_trusted_service_does_not_take_any_more_is_replaced() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let first = fixture.buy(&consumer, call()).await.unwrap().payment.unwrap();
    // Closed behind the consumer's back.
    fixture.service.paywall.close(first.transaction_id).await.unwrap();
    fixture.becomes(first.transaction_id, State::Delivered).await;
    let second = fixture.buy(&fixture.trusting().await, call()).await.unwrap().payment.unwrap();
    assert_ne!(first.transaction_id, second.transaction_id);
    // What the provider ended of its own accord keeps its dispute window.
    let report = consumer.settle().await.unwrap();
    assert_eq!((report.settled.len(), report.refused[0].0), (0, first.transaction_id));
    let error = &report.refused[0].1;
    assert_eq!((error.code(), error.facts().available), (Code::ProofMismatch, Some(Usdc(900_000))));
    let open = consumer.balances().await.unwrap().into_iter().filter(|balance| balance.is_open);
    assert_eq!(open.count(), 0);
}

#[tokio::test]
async fn what_was_never_touched_is_reclaimed_after_its_deadline() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let id = fixture.buy_in_silence(&consumer).await;
    assert_eq!(consumer.reclaim().await.unwrap().waiting, [id]);
    fixture.payer.mock().unwrap().advance_time(4_000).await.unwrap();
    assert_eq!(consumer.reclaim().await.unwrap().refunded, [id]);
    // All but the penalty of 5 %.
    assert_eq!(consumer.spent(None).await.unwrap().day, Usdc(50_000));
}

#[tokio::test]
async fn a_dispute_names_its_bond_before_it_takes_it() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let payment = fixture.buy(&consumer, call()).await.unwrap().payment.unwrap();
    let id = payment.transaction_id;
    fixture.becomes(id, State::Delivered).await;
    let error = consumer.dispute(id, Usdc(0)).await.unwrap_err();
    assert_eq!((error.code(), error.facts().required), (Code::PriceAboveLimit, Some(DOLLAR)));
    assert_eq!(consumer.dispute(id, DOLLAR).await.unwrap(), DOLLAR);
    assert_eq!(fixture.payer.get_transaction(id).await.unwrap().state, State::Disputed);
}

#[tokio::test]
async fn a_dispute_is_followed_until_it_is_resolved() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let id = fixture.buy(&consumer, call()).await.unwrap().payment.unwrap().transaction_id;
    fixture.becomes(id, State::Delivered).await;
    consumer.dispute(id, DOLLAR).await.unwrap();
    assert_eq!(consumer.settle().await.unwrap().waiting, [id]);
    let kernel = fixture.payer.kernel().clone();
    let resolver = ACTPClient::with_kernel(kernel, fixture.payer.network().admin);
    resolver.transition_state(id, State::Cancelled, Evidence::None).await.unwrap();
    assert_eq!(consumer.settle().await.unwrap().refunded, [id]);
    // How it was split is not told, so that all of it counts.
    assert_eq!(consumer.spent(None).await.unwrap().day, CENTS_10);
    assert_eq!(consumer.settle().await.unwrap(), Report::default());
}

#[tokio::test]
async fn an_origin_that_anybody_on_the_way_can_answer_for_is_trusted_with_no_real_money() {
    let fixture = Fixture::new(CENTS_10).await;
    let open = async |client: &ACTPClient, origin: &str| {
        let storage = Storage::Directory(fixture.directory.path().to_owned());
        Consumer::builder(client.clone()).storage(storage).trust(origin).open().await
    };
    let real = ACTPClient::with_kernel(fixture.payer.kernel().clone(), fixture.payer.address());
    let error = open(&real, "http://api.example.com").await.unwrap_err();
    assert_eq!((error.code(), error.facts().field), (Code::InvalidSettings, Some("trust")));
    for origin in [ORIGIN, "http://127.0.0.1:8080"] {
        open(&real, origin).await.unwrap();
    }
    open(&fixture.payer, "http://api.example.com").await.unwrap();
}

#[tokio::test]
async fn what_is_printed_of_a_purchase_shows_no_query() {
    let fixture = Fixture::new(CENTS_10).await;
    let call = PaidCall::new("POST", format!("{ORIGIN}/api/generate?token=secret"), CENTS_10);
    let mut purchase = fixture.wary().await.purchase(call).unwrap();
    let Step::Send(request) = purchase.next(None).await.unwrap() else { panic!() };
    for shown in [format!("{purchase:?}"), format!("{request:?}")] {
        assert!(shown.contains("/api/generate") && !shown.contains("secret"), "{shown}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_paid_for_is_refused_by_name() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let url = format!("{ORIGIN}/a");
    let call = |method: &str| PaidCall::new(method, &url, CENTS_10);
    let bad = [
        call("GET").header("X-Agirails-Tx-Id", "0x"),
        call("GET").header("X-Agirails-Max-Price", "1"),
        call("GET").header("a", "b\r\nc: d"),
        call("GET").header("", "b"),
        call("CONNECT"),
        call("GET /a HTTP/1.1\r\n"),
        call("GET").purchase_key(""),
        call("GET").purchase_key("ü"),
        PaidCall::new("GET", "api.example.com", CENTS_10),
    ];
    for call in bad {
        let shown = format!("{call:?}");
        let error = consumer.purchase(call).unwrap_err();
        assert_eq!(error.code(), Code::InvalidSettings, "{shown}");
    }
}
