//! Services that want more of a payer's money than was agreed to: what they must not get.

use std::time::Duration;

use agirails::{
    ACTPClient, Address, B256, Code, State, Storage, Usdc,
    consumer::{
        Budget, Consumer, HttpFailure, HttpOutcome, HttpRequest, HttpResponse, PaidCall,
        PaidResponse, Proof, Step,
    },
    paywall::{Paywall, Settings},
    protocol::service::{SERVICE_KEY_HEADER, bound_service_hash, is_bound},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::fixture::{CENTS_10, DOLLAR, Fixture, ORIGIN, Service, call, drive};

fn is_paid(request: &HttpRequest) -> bool {
    request.headers.iter().any(|(name, _)| name == "X-AGIRAILS-TX-ID")
}

fn answer(status: u16, body: &Value) -> HttpResponse {
    HttpResponse { status, headers: vec![], body: body.to_string().into_bytes().into() }
}

fn number(number: u32) -> PaidCall {
    call().body(number.to_string().into_bytes())
}

#[tokio::test]
async fn ending_each_bundle_after_one_call_sells_no_second_one() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let mut codes = vec![];
    for each in 0..6 {
        let bought = fixture.buy(&consumer, number(each)).await;
        codes.extend(bought.as_ref().err().map(agirails::Error::code));
        if let Ok(answer) = bought {
            let id = answer.payment.unwrap().transaction_id;
            fixture.service.paywall.close(id).await.unwrap();
            fixture.becomes(id, State::Delivered).await;
        }
    }
    assert_eq!(codes, [Code::BalanceForfeited; 5]);
    assert_eq!(fixture.paid().await, (1, DOLLAR));
    assert_eq!(consumer.spent(None).await.unwrap().day, DOLLAR);
}

#[tokio::test]
async fn counting_a_bundle_as_used_up_sells_no_second_one() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    fixture.buy(&consumer, call()).await.unwrap();
    let none = json!({"error": "Insufficient Payment", "provided": "0.00", "required": "0.10"});
    let mut codes = vec![];
    for each in 0..3 {
        let outcome = drive(consumer.purchase(number(each)).unwrap(), async |request| {
            HttpOutcome::Answered(match is_paid(&request) {
                true => answer(402, &none),
                false => fixture.service.answer(&request).await,
            })
        });
        codes.push(outcome.await.unwrap_err().code());
    }
    assert_eq!(codes, [Code::CallRefused, Code::BalanceForfeited, Code::BalanceForfeited]);
    assert_eq!(fixture.paid().await, (1, DOLLAR));
}

#[tokio::test]
async fn naming_another_provider_for_each_route_sells_no_second_bundle() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let mut codes = vec![];
    for each in 1..=3_u8 {
        let url = format!("{ORIGIN}/api/generate/{each}");
        let call = PaidCall::new("POST", url, CENTS_10).timeout(Duration::from_secs(1));
        let outcome = drive(consumer.purchase(call).unwrap(), async |request| {
            if is_paid(&request) {
                return HttpOutcome::Failed(HttpFailure::NotSent("away".to_owned()));
            }
            let response = fixture.service.answer(&request).await;
            let mut body: Value = serde_json::from_slice(&response.body).unwrap();
            for offer in body["accepts"].as_array_mut().unwrap() {
                offer["payTo"] = json!(Address::repeat_byte(each));
            }
            HttpOutcome::Answered(answer(402, &body))
        });
        codes.push(outcome.await.unwrap_err().code());
    }
    assert_eq!(codes, [Code::CallFailed, Code::BalanceForfeited, Code::BalanceForfeited]);
    assert_eq!(fixture.paid().await, (1, DOLLAR));
}

#[tokio::test]
async fn a_call_that_is_made_again_by_whoever_lost_its_answer_is_paid_once() {
    for bundle in [false, true] {
        let fixture = Fixture::new(CENTS_10).await;
        let mut tries = 0;
        let answer = loop {
            let consumer = if bundle { fixture.wary().await } else { fixture.trusting().await };
            // As the library above makes it again: with another count of its tries.
            let call = call()
                .header("Authorization", "Bearer a")
                .header("X-Stainless-Retry-Count", tries.to_string())
                .timeout(Duration::from_secs(1));
            let outcome = drive(consumer.purchase(call).unwrap(), async |request| {
                let answer = fixture.service.answer(&request).await;
                match is_paid(&request) && tries < 2 {
                    true => HttpOutcome::Failed(HttpFailure::Lost("cut".to_owned())),
                    false => HttpOutcome::Answered(answer),
                }
            });
            match outcome.await {
                Ok(answer) => break answer,
                Err(error) => assert_eq!(error.code(), Code::CallFailed),
            }
            tries += 1;
        };
        assert_eq!(answer.body.as_ref(), b"answer 0");
        assert_eq!((tries, fixture.paid().await.0, fixture.service.runs()), (2, 1, 1));
        // Answered, it is over: the same call is another one.
        fixture
            .buy(&fixture.trusting().await, call().header("Authorization", "Bearer a"))
            .await
            .unwrap();
        assert_eq!(fixture.service.runs(), 2);
    }
}

#[tokio::test]
async fn nobody_gets_the_lost_answer_of_another_caller() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let call = |token: &str| {
        call().header("Authorization", format!("Bearer {token}")).timeout(Duration::from_secs(1))
    };
    drive(consumer.purchase(call("a")).unwrap(), async |request| {
        let answer = fixture.service.answer(&request).await;
        match is_paid(&request) {
            true => HttpOutcome::Failed(HttpFailure::Lost("cut".to_owned())),
            false => HttpOutcome::Answered(answer),
        }
    })
    .await
    .unwrap_err();
    assert_eq!(fixture.buy(&consumer, call("b")).await.unwrap().body.as_ref(), b"answer 1");
    assert_eq!(fixture.buy(&consumer, call("a")).await.unwrap().body.as_ref(), b"answer 0");
}

#[tokio::test]
async fn a_call_that_somebody_waits_for_is_not_taken_from_him() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let mut first = consumer.purchase(call()).unwrap();
    let waiter = first.waiter();
    let mut outcome = None;
    // As far as its answer, which is on its way.
    loop {
        let Step::Send(request) = first.next(outcome.take()).await.unwrap() else { panic!() };
        let answer = fixture.service.answer(&request).await;
        if is_paid(&request) {
            break;
        }
        outcome = Some(HttpOutcome::Answered(answer));
    }
    assert_eq!(fixture.buy(&consumer, call()).await.unwrap().body.as_ref(), b"answer 1");
    drop(waiter);
    assert_eq!(fixture.buy(&consumer, call()).await.unwrap().body.as_ref(), b"answer 0");
    assert_eq!((fixture.paid().await.0, fixture.service.runs()), (2, 2));
}

#[tokio::test]
async fn a_handler_that_keeps_failing_is_run_a_few_times_and_paid_for_not_at_all() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let url = format!("{ORIGIN}/api/generate?broken");
    let error = fixture.buy(&consumer, PaidCall::new("POST", url, CENTS_10)).await.unwrap_err();
    assert_eq!((error.code(), error.facts().status), (Code::ServiceFailed, Some(500)), "{error}");
    assert!(error.to_string().contains("the money came back"), "{error}");
    assert_eq!(error.facts().body.as_ref().unwrap().0.as_ref(), b"answer 2");
    assert_eq!((fixture.paid().await.0, fixture.service.runs()), (1, 3));
    assert_eq!(consumer.spent(None).await.unwrap().day, Usdc(0));
}

#[tokio::test]
async fn a_handler_behind_a_failing_gateway_is_asked_for_until_it_answers() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let mut failures = 8;
    let paid = drive(consumer.purchase(call()).unwrap(), async |request| {
        if is_paid(&request) && failures > 0 {
            failures -= 1;
            return HttpOutcome::Answered(answer(502, &json!({})));
        }
        HttpOutcome::Answered(fixture.service.answer(&request).await)
    });
    assert_eq!(paid.await.unwrap().body.as_ref(), b"answer 0");
    assert_eq!(fixture.paid().await.0, 1);
}

#[tokio::test]
async fn the_time_of_a_signature_is_not_moved_by_years_on_the_services_word() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let wall = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    for (said, most) in [(json!(4_102_444_800_u64), 5), (json!(wall() + 1_800), 1_805)] {
        let mut times = vec![];
        let call = call().purchase_key(said.to_string());
        let _ = drive(consumer.purchase(call).unwrap(), async |request| {
            if let Some((_, value)) =
                request.headers.iter().find(|(name, _)| name == "X-AGIRAILS-SIGNATURE")
            {
                let time = value.strip_prefix("t=").unwrap().split(',').next().unwrap();
                times.push(time.parse::<u64>().unwrap());
                let mut late = answer(401, &json!({"error": "Signature Expired", "time": said}));
                late.headers.push(("Date".to_owned(), "Fri, 01 Jan 2100 00:00:00 GMT".to_owned()));
                return HttpOutcome::Answered(late);
            }
            HttpOutcome::Answered(fixture.service.answer(&request).await)
        })
        .await;
        assert_eq!(times.len(), 2);
        assert!(times[1].abs_diff(times[0]) <= most, "{times:?}");
    }
}

#[tokio::test]
async fn a_limit_in_another_unit_is_refused_at_every_door() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let much = Usdc(1_000_000_000_000_001);
    let url = format!("{ORIGIN}/a");
    let calls =
        [PaidCall::new("GET", &url, much), PaidCall::new("GET", &url, CENTS_10).max_funding(much)];
    for call in calls {
        assert_eq!(consumer.purchase(call).unwrap_err().code(), Code::InvalidAmount);
    }
    let error = consumer.dispute([1; 32].into(), much).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidAmount);
    let none = Budget::default();
    for budget in [
        Budget { per_call: Some(much), ..none },
        Budget { per_hour: Some(much), ..none },
        Budget { per_day: Some(much), ..none },
        Budget { per_provider_per_day: Some(much), ..none },
    ] {
        let opened = Consumer::builder(fixture.payer.clone()).budget(budget).open().await;
        assert_eq!(opened.unwrap_err().code(), Code::InvalidAmount);
    }
}

#[tokio::test]
async fn a_service_that_fails_is_paid_only_where_its_price_page_asks_for_it() {
    let fixture = Fixture::new(DOLLAR).await;
    let page = |more: Value| {
        let mut page = json!({
            "provider": fixture.provider.address(), "mode": "mock",
            "pricing": {"perCall": "1.00 USDC"}, "payment": {"header": "X-AGIRAILS-TX-ID"},
        });
        page.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        page
    };
    let pages = [
        (answer(200, &page(json!({}))), 1),
        (answer(200, &page(json!({"mode": "testnet"}))), 0),
        // A paywall that names its routes answers 402 by itself.
        (answer(200, &page(json!({"routes": []}))), 0),
        (answer(200, &page(json!({"payment": null}))), 0),
        (answer(404, &page(json!({}))), 0),
        (answer(200, &json!([])), 0),
    ];
    for (number, (page, funded)) in pages.into_iter().enumerate() {
        let consumer = fixture.wary().await;
        let before = fixture.paid().await.0;
        let url = format!("{ORIGIN}/api/generate?{number}");
        let mut urls = vec![];
        let bought = drive(
            consumer.purchase(PaidCall::new("POST", url, DOLLAR)).unwrap(),
            async |request| {
                urls.push(request.url.clone());
                HttpOutcome::Answered(match request.url.ends_with("/api/pricing") {
                    true => page.clone(),
                    false if is_paid(&request) => fixture.service.answer(&request).await,
                    false => answer(500, &json!("broken")),
                })
            },
        )
        .await;
        assert_eq!(fixture.paid().await.0 - before, funded, "{number}");
        match bought {
            Ok(answer) => assert_eq!(answer.status, if funded == 1 { 200 } else { 500 }),
            Err(error) => assert_eq!((error.code(), number), (Code::NoOffer, 1), "{error}"),
        }
        assert_eq!(urls[1], format!("{ORIGIN}/api/pricing"));
    }
}

/// Buys with a receipt that is changed under way.
async fn with_receipt(
    fixture: &Fixture,
    consumer: &Consumer,
    key: &str,
    change: impl Fn(&mut Value),
) -> agirails::Result<PaidResponse> {
    drive(consumer.purchase(call().purchase_key(key)).unwrap(), async |request| {
        let mut response = fixture.service.answer(&request).await;
        for (name, value) in &mut response.headers {
            if name == "X-AGIRAILS-RECEIPT" {
                let bytes = BASE64_STANDARD.decode(&*value).unwrap();
                let mut receipt = serde_json::from_slice(&bytes).unwrap();
                change(&mut receipt);
                *value = BASE64_STANDARD.encode(receipt.to_string());
            }
        }
        HttpOutcome::Answered(response)
    })
    .await
}

fn unsigned(receipt: &mut Value) {
    receipt.as_object_mut().unwrap().remove("signature");
}

#[tokio::test]
async fn a_receipt_without_a_signature_proves_nothing_on_a_chain() {
    let fixture = Fixture::new(CENTS_10).await;
    let mock = fixture.trusting().await;
    let paid = with_receipt(&fixture, &mock, "mock", unsigned).await.unwrap();
    assert_eq!(paid.payment.unwrap().proof, Proof::Unsigned);
    // To this client the same kernel is not a mock.
    let chain = ACTPClient::with_kernel(fixture.payer.kernel().clone(), fixture.payer.address());
    let trust = fixture.provider.address().to_string();
    let storage = Storage::Directory(fixture.directory.path().to_owned());
    let chain = Consumer::builder(chain).storage(storage).trust(trust).open().await.unwrap();
    let error = with_receipt(&fixture, &chain, "chain", unsigned).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidSignature, "{error}");
    let paid = with_receipt(&fixture, &chain, "signed", |_| ()).await.unwrap();
    assert_eq!(paid.payment.unwrap().proof, Proof::Signed);
    let delivered = error.facts().transaction_id.unwrap();
    fixture.becomes(delivered, State::Delivered).await;
    let report = chain.settle().await.unwrap();
    assert!(report.refused.iter().any(|(id, _)| *id == delivered), "{report:?}");
}

#[tokio::test]
async fn a_receipt_of_another_index_or_time_proves_nothing() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let far = 4_102_444_800_u64;
    for (field, value) in [("index", 1), ("deliveredAt", 1), ("deliveredAt", far)] {
        let change = |receipt: &mut Value| {
            unsigned(receipt);
            receipt[field] = value.into();
        };
        let key = format!("{field}-{value}");
        let error = with_receipt(&fixture, &consumer, &key, change).await.unwrap_err();
        assert_eq!(
            (error.code(), error.facts().field),
            (Code::ProofMismatch, Some(field)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn two_answers_of_one_index_are_not_settled() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    let zero = |receipt: &mut Value| {
        unsigned(receipt);
        receipt["index"] = 0.into();
    };
    let mut id = None;
    // All of the bundle, so that it does not end early.
    for number in 0..10 {
        let paid = with_receipt(&fixture, &consumer, &number.to_string(), zero).await.unwrap();
        id = Some(paid.payment.unwrap().transaction_id);
    }
    fixture.becomes(id.unwrap(), State::Delivered).await;
    let report = consumer.settle().await.unwrap();
    let error = &report.refused[0].1;
    assert_eq!((report.settled.len(), error.code()), (0, Code::ProofMismatch));
    assert!(error.to_string().contains("have the index 0"), "{error}");
}

#[tokio::test]
async fn a_transaction_is_for_the_service_that_offered_it_and_for_no_other() {
    let fixture = Fixture::new(CENTS_10).await;
    let (provider, settings) = (fixture.provider.clone(), strict());
    let strict = Service::with(Paywall::builder(provider).settings(settings), CENTS_10).await;
    let consumer = fixture.wary().await;
    let (mut keys, mut ids, mut service) = (vec![], vec![], None);
    for _ in 0..2 {
        let paid = drive(consumer.purchase(call()).unwrap(), async |request| {
            let told = request.headers.iter().find(|(name, _)| name == SERVICE_KEY_HEADER);
            assert_eq!(told.is_some(), is_paid(&request), "only who serves is told: {request:?}");
            keys.extend(told.map(|(_, key)| key.parse::<B256>().unwrap()));
            let response = strict.answer(&request).await;
            if response.status == 402 {
                let body: Value = serde_json::from_slice(&response.body).unwrap();
                let hash = body.pointer("/accepts/0/extra/serviceHash").unwrap();
                service = Some(hash.as_str().unwrap().parse::<B256>().unwrap());
            }
            HttpOutcome::Answered(response)
        });
        ids.push(paid.await.unwrap().payment.unwrap().transaction_id);
    }
    // The second call is drawn from the same balance, which still knows its key.
    assert_eq!((ids[0], keys[0], strict.runs()), (ids[1], keys[1], 2));
    let on_chain = fixture.payer.get_transaction(ids[0]).await.unwrap().service_hash;
    assert_eq!(on_chain, bound_service_hash(service.unwrap(), keys[0]));
    assert!(!is_bound(on_chain, B256::repeat_byte(8), Some(keys[0])));
}

/// Serves no transaction that is not bound to its store.
fn strict() -> Settings {
    Settings { one_store: Some(false), ..Settings::default() }
}
