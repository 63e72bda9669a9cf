//! Services that lie: nothing is paid that should not be, and nothing twice.

use std::time::Duration;

use agirails::{
    Address, Code, Usdc,
    consumer::{Budget, HttpFailure, HttpOutcome, HttpRequest, HttpResponse, PaidCall},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::fixture::{CENTS_10, DOLLAR, Fixture, ORIGIN, call, drive};

type Lie = dyn Fn(&mut HttpResponse);

fn is_paid(request: &HttpRequest) -> bool {
    request.headers.iter().any(|(name, _)| name.starts_with("X-AGIRAILS"))
}

fn challenge(change: impl Fn(&mut Value), mut response: HttpResponse) -> HttpResponse {
    let mut body: Value = serde_json::from_slice(&response.body).unwrap();
    body["accepts"].as_array_mut().unwrap().iter_mut().for_each(change);
    response.body = body.to_string().into_bytes().into();
    response
}

fn plain(status: u16, body: &'static str) -> HttpResponse {
    HttpResponse { status, headers: vec![], body: body.into() }
}

/// Buys from a service whose answers are changed under way: by what came first, and by what came
/// to a paid call. Returns the error, and how many transactions were funded.
async fn buy(
    trusting: bool,
    unpaid: impl Fn(HttpResponse) -> HttpResponse,
    paid: impl Fn(HttpResponse) -> HttpOutcome,
) -> (Option<agirails::Error>, usize, Vec<HttpRequest>) {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = if trusting { fixture.trusting().await } else { fixture.wary().await };
    let mut requests = vec![];
    let impatient = call().timeout(Duration::from_secs(2));
    let outcome = drive(consumer.purchase(impatient).unwrap(), async |request| {
        requests.push(request.clone());
        let response = fixture.service.answer(&request).await;
        match is_paid(&request) {
            true => paid(response),
            false => HttpOutcome::Answered(unpaid(response)),
        }
    })
    .await;
    (outcome.err(), fixture.paid().await.0, requests)
}

#[tokio::test]
async fn an_offer_that_is_not_for_this_network_or_this_money_is_not_paid() {
    let other = json!(Address::repeat_byte(9));
    let lies: [(&str, Value, Code); 5] = [
        ("/network", json!("eip155:8453"), Code::NoOffer),
        ("/asset", other.clone(), Code::NoOffer),
        ("/extra/kernel", other.clone(), Code::NoOffer),
        ("/payTo", json!("0x"), Code::NoOffer),
        // Somebody whom nobody trusts.
        ("/payTo", other, Code::UntrustedProvider),
    ];
    for (path, value, code) in lies {
        let only_single = |response| {
            let mut response =
                challenge(|offer| *offer.pointer_mut(path).unwrap() = value.clone(), response);
            let mut body: Value = serde_json::from_slice(&response.body).unwrap();
            body["accepts"].as_array_mut().unwrap().truncate(1);
            response.body = body.to_string().into_bytes().into();
            response
        };
        let (error, funded, _) = buy(true, only_single, HttpOutcome::Answered).await;
        let error = error.unwrap();
        assert_eq!((error.code(), funded), (code, 0), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_service_that_names_another_provider_each_time_has_one_providers_budget() {
    let fixture = Fixture::new(DOLLAR).await;
    let budget = Budget { per_provider_per_day: Some(Usdc(2_500_000)), ..Budget::default() };
    let consumer = fixture.limited(budget).await;
    let mut codes = vec![];
    for number in 1..=3 {
        let other = json!(Address::repeat_byte(number));
        let dear = PaidCall::new("POST", format!("{ORIGIN}/api/generate?{number}"), DOLLAR)
            .timeout(Duration::from_secs(1));
        let outcome =
            drive(consumer.purchase(dear).unwrap(), async |request| match is_paid(&request) {
                true => HttpOutcome::Failed(HttpFailure::Lost("gone".to_owned())),
                false => HttpOutcome::Answered(challenge(
                    |offer| offer["payTo"] = other.clone(),
                    fixture.service.answer(&request).await,
                )),
            });
        codes.push(outcome.await.unwrap_err().code());
    }
    assert_eq!(codes, [Code::CallFailed, Code::CallFailed, Code::BudgetExceeded]);
}

#[tokio::test]
async fn a_402_without_an_offer_is_looked_up_on_the_price_page_and_else_refused() {
    let bare = |response: HttpResponse| match response.status {
        402 => plain(402, "{\"error\":\"Payment Required\"}"),
        _ => response,
    };
    let (error, funded, requests) = buy(true, bare, HttpOutcome::Answered).await;
    assert_eq!((error, funded), (None, 1));
    assert!(requests[1].url.ends_with("/api/pricing"));
    let silent = |_| plain(402, "pay!");
    let (error, funded, _) = buy(true, silent, HttpOutcome::Answered).await;
    assert_eq!((error.unwrap().code(), funded), (Code::NoOffer, 0));
}

#[tokio::test]
async fn a_paid_call_that_is_answered_402_again_pays_nothing_more() {
    for trusting in [true, false] {
        let dearer = |response: HttpResponse| {
            let mut again = plain(402, "");
            let accepts =
                json!({"error": "Insufficient Payment", "detail": "more!", "accepts": []});
            again.body = accepts.to_string().into_bytes().into();
            drop(response);
            HttpOutcome::Answered(again)
        };
        let (error, funded, _) = buy(trusting, |response| response, dearer).await;
        let error = error.unwrap();
        assert_eq!((error.code(), funded), (Code::CallRefused, 1), "{error}");
        assert_eq!(error.facts().status, Some(402));
        assert!(error.facts().purchase_key.is_some() && error.to_string().contains("more!"));
    }
}

#[tokio::test]
async fn an_answer_that_its_receipt_does_not_prove_is_refused_and_never_settled() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let mut lies: Vec<Box<Lie>> = vec![
        Box::new(|response| response.body = "forged".into()),
        Box::new(|response| response.status = 201),
        Box::new(|response| receipt(response, |receipt| receipt["deliveredAt"] = 1.into())),
        Box::new(|response| receipt(response, |receipt| receipt["index"] = 7.into())),
        Box::new(|response| {
            receipt(response, |receipt| receipt["provider"] = json!(Address::ZERO))
        }),
        Box::new(|response| receipt(response, |receipt| receipt["idempotencyKey"] = "x".into())),
    ];
    lies.push(Box::new(unreadable));
    let count = lies.len();
    for (number, lie) in lies.into_iter().enumerate() {
        let call = call().purchase_key(format!("lie-{number}"));
        let error = drive(consumer.purchase(call).unwrap(), async |request| {
            let mut response = fixture.service.answer(&request).await;
            if is_paid(&request) {
                lie(&mut response);
            }
            HttpOutcome::Answered(response)
        })
        .await
        .unwrap_err();
        assert!(matches!(error.code(), Code::ProofMismatch | Code::InvalidSignature), "{error}");
        assert!(error.facts().purchase_key.is_some());
        let id = error.facts().transaction_id.unwrap();
        fixture.becomes(id, agirails::State::Delivered).await;
    }
    let report = consumer.settle().await.unwrap();
    assert_eq!((report.settled.len(), report.refused.len()), (0, count));
}

#[tokio::test]
async fn a_bundle_with_one_contradicted_answer_is_not_settled_until_it_is_proven() {
    let forged: &Lie = &|response| response.body = "forged".into();
    for lie in [&unreadable, forged] {
        let fixture = Fixture::new(CENTS_10).await;
        let consumer = fixture.wary().await;
        let lied = call().purchase_key("lied");
        let error = drive(consumer.purchase(lied).unwrap(), async |request| {
            let mut response = fixture.service.answer(&request).await;
            if is_paid(&request) {
                lie(&mut response);
            }
            HttpOutcome::Answered(response)
        })
        .await
        .unwrap_err();
        assert_eq!(error.code(), Code::ProofMismatch, "{error}");
        let id = error.facts().transaction_id.unwrap();
        for _ in 0..9 {
            fixture.buy(&consumer, call()).await.unwrap();
        }
        fixture.becomes(id, agirails::State::Delivered).await;
        let report = consumer.settle().await.unwrap();
        assert_eq!((report.settled.len(), report.refused[0].0), (0, id));
        assert_eq!(report.refused[0].1.code(), Code::ProofMismatch);
        // The same call again has the answer that the receipt is for.
        fixture.buy(&consumer, call().purchase_key("lied")).await.unwrap();
        assert_eq!(consumer.settle().await.unwrap().settled, [id]);
    }
}

fn unreadable(response: &mut HttpResponse) {
    for (name, value) in &mut response.headers {
        if name == "X-AGIRAILS-RECEIPT" {
            *value = "!".to_owned();
        }
    }
}

fn receipt(response: &mut HttpResponse, change: impl Fn(&mut Value)) {
    for (name, value) in &mut response.headers {
        if name == "X-AGIRAILS-RECEIPT" {
            let mut json =
                serde_json::from_slice(&BASE64_STANDARD.decode(&*value).unwrap()).unwrap();
            change(&mut json);
            *value = BASE64_STANDARD.encode(json.to_string());
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_receipt_is_asked_for_one_and_kept_unsettled_without() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    for page_is_there in [true, false] {
        let paid = drive(consumer.purchase(call().settle(true)).unwrap(), async |request| {
            let mut response = fixture.service.answer(&request).await;
            response.headers.retain(|(name, _)| name != "X-AGIRAILS-RECEIPT");
            let is_page = request.url.contains("/receipts/");
            HttpOutcome::Answered(if is_page && !page_is_there { plain(404, "") } else { response })
        })
        .await
        .unwrap();
        let payment = paid.payment.unwrap();
        assert_eq!(payment.receipt.is_some(), page_is_there);
        assert_eq!(payment.is_settled, page_is_there);
    }
    assert_eq!(consumer.settle().await.unwrap().refused.len(), 1);
}

#[tokio::test]
async fn a_redirect_is_followed_neither_with_a_signature_nor_without() {
    let away = |_| {
        let headers = vec![("Location".to_owned(), "https://evil.example/".to_owned())];
        HttpResponse { status: 307, headers, body: Default::default() }
    };
    let (error, funded, requests) = buy(true, away, HttpOutcome::Answered).await;
    assert_eq!((error, funded, requests.len()), (None, 0, 1));
    let (error, funded, requests) =
        buy(true, |response| response, move |response| HttpOutcome::Answered(away(response))).await;
    assert_eq!((error.unwrap().code(), funded), (Code::CallRefused, 1));
    assert!(requests.iter().all(|request| request.url.starts_with(crate::fixture::ORIGIN)));
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let endless = |_| HttpOutcome::Failed(HttpFailure::TooLarge);
    let (error, funded, requests) = buy(true, |response| response, endless).await;
    let error = error.unwrap();
    assert_eq!((error.code(), funded), (Code::AnswerTooLarge, 1));
    assert!(error.facts().purchase_key.is_some());
    assert_eq!(requests[0].body_limit, 64 << 20);
}

#[tokio::test]
async fn a_service_that_never_answers_is_left_when_the_time_is_up() {
    let dead = |_| HttpOutcome::Failed(HttpFailure::Lost("no answer".to_owned()));
    let (error, funded, requests) = buy(true, |response| response, dead).await;
    assert_eq!((error.unwrap().code(), funded), (Code::CallFailed, 1));
    // The pauses in between grow.
    assert!(requests.len() < 10, "{}", requests.len());
}

#[tokio::test]
async fn the_callers_headers_go_to_the_service_and_not_to_its_other_pages() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let secret = call().header("Authorization", "Bearer x");
    drive(consumer.purchase(secret).unwrap(), async |request| {
        let mut response = fixture.service.answer(&request).await;
        response.headers.retain(|(name, _)| name != "X-AGIRAILS-RECEIPT");
        HttpOutcome::Answered(response)
    })
    .await
    .unwrap();
    for request in fixture.service.seen.lock().unwrap().iter() {
        let has_secret = request.headers.iter().any(|(name, _)| name == "Authorization");
        assert_eq!(has_secret, request.url.ends_with("/api/generate"));
        assert!(!format!("{request:?}").contains("Bearer"));
    }
}

#[tokio::test]
async fn what_the_application_forbids_costs_no_balance() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    fixture.buy(&consumer, call()).await.unwrap();
    for status in [402, 403] {
        let error = drive(consumer.purchase(call()).unwrap(), async |_| {
            HttpOutcome::Answered(plain(status, "{\"error\":\"Forbidden\"}"))
        })
        .await
        .unwrap_err();
        assert_eq!((error.code(), error.facts().status), (Code::CallRefused, Some(status)));
    }
    for _ in 0..9 {
        fixture.buy(&consumer, call()).await.unwrap();
    }
    assert_eq!(fixture.paid().await.0, 1);
}

#[tokio::test]
async fn a_balance_that_the_kernel_knows_to_be_good_is_not_replaced_on_the_services_word() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    fixture.buy(&consumer, call()).await.unwrap();
    let lied_to = async |problem: Value| {
        let error =
            drive(consumer.purchase(call()).unwrap(), async |request| match is_paid(&request) {
                true => {
                    let mut refusal = plain(402, "");
                    refusal.body = problem.to_string().into_bytes().into();
                    HttpOutcome::Answered(refusal)
                }
                false => HttpOutcome::Answered(fixture.service.answer(&request).await),
            })
            .await
            .unwrap_err();
        assert_eq!((error.code(), error.facts().status), (Code::CallRefused, Some(402)));
        consumer.balances().await.unwrap()[0].clone()
    };
    for title in ["Insufficient Payment", "Invalid Transaction State", "Transaction Expired"] {
        let balance = lied_to(json!({"error": title})).await;
        assert_eq!((balance.left.0, balance.is_open), (900_000, true));
    }
    fixture.buy(&consumer, call()).await.unwrap();
    assert_eq!(fixture.paid().await.0, 1);
    // A balance that the two count differently is used no further than both of them say.
    let less = json!({"error": "Insufficient Payment", "provided": "0.05", "required": "0.10"});
    assert_eq!(lied_to(less).await.left.0, 50_000);
    // And no other one is bought on its word.
    let error = fixture.buy(&consumer, call()).await.unwrap_err();
    assert_eq!((error.code(), fixture.paid().await.0), (Code::BalanceForfeited, 1));
}

#[tokio::test]
async fn a_balance_that_the_services_node_has_not_seen_yet_is_not_replaced() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.wary().await;
    fixture.buy(&consumer, call()).await.unwrap();
    let mut behind = 3;
    drive(consumer.purchase(call()).unwrap(), async |request| {
        if behind > 0 {
            behind -= 1;
            return HttpOutcome::Answered(plain(402, "{\"error\":\"Transaction Not Found\"}"));
        }
        HttpOutcome::Answered(fixture.service.answer(&request).await)
    })
    .await
    .unwrap();
    assert_eq!(fixture.paid().await.0, 1);
}
