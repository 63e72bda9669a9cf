//! What stands between a service and its consumer: it makes no honest answer a lie, and no lie honest.

use std::{io::Write, time::Duration};

use agirails::{
    Code,
    consumer::{HttpFailure, HttpOutcome, HttpRequest, HttpResponse, PaidCall, Proof, Step},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use serde_json::{Value, json};

use crate::fixture::{CENTS_10, Fixture, ORIGIN, call, drive};

const RECEIPT: &str = "X-AGIRAILS-RECEIPT";

fn is_paid(request: &HttpRequest) -> bool {
    request.headers.iter().any(|(name, _)| name == "X-AGIRAILS-TX-ID")
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(vec![], Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn pack(response: &mut HttpResponse, coding: &str, pack: impl Fn(&[u8]) -> Vec<u8>) {
    response.body = pack(&response.body).into();
    response.headers.push(("content-encoding".to_owned(), coding.to_owned()));
}

fn charset(response: &mut HttpResponse) {
    for (name, value) in &mut response.headers {
        if name == "Content-Type" {
            *value = "Text/Plain; charset=utf-8".to_owned();
        }
    }
}

#[tokio::test]
async fn a_charset_and_compression_leave_an_answer_proven() {
    type Change = fn(&mut HttpResponse);
    let changes: [Change; 4] = [
        charset,
        |response| pack(response, "gzip", gzip),
        |response| pack(response, "deflate", deflate),
        |response| {
            charset(response);
            pack(response, "gzip, deflate", |body| deflate(&gzip(body)));
        },
    ];
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    for (run, change) in changes.into_iter().enumerate() {
        // The 402 and the price page come through the same proxy.
        let paid = drive(consumer.purchase(call().settle(true)).unwrap(), async |request| {
            let mut response = fixture.service.answer(&request).await;
            change(&mut response);
            HttpOutcome::Answered(response)
        })
        .await
        .unwrap();
        assert_eq!(paid.body, format!("answer {run}").into_bytes());
        let names = paid.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
        assert_eq!(names.filter(|name| name == "content-encoding").count(), 0);
        let payment = paid.payment.unwrap();
        assert_eq!((payment.proof, payment.is_settled), (Proof::Signed, true));
    }
}

#[tokio::test]
async fn a_changed_body_is_no_more_honest_for_being_compressed() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    for coding in ["gzip", "identity"] {
        let error = drive(consumer.purchase(call()).unwrap(), async |request| {
            let mut response = fixture.service.answer(&request).await;
            if is_paid(&request) {
                pack(&mut response, coding, |_| match coding {
                    "gzip" => gzip(b"forged"),
                    _ => b"forged".to_vec(),
                });
            }
            HttpOutcome::Answered(response)
        })
        .await
        .unwrap_err();
        assert_eq!(error.code(), Code::ProofMismatch, "{coding}: {error}");
    }
}

#[tokio::test]
async fn an_answer_in_an_unknown_coding_is_fetched_again_by_its_purchase_key() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let error = drive(consumer.purchase(call()).unwrap(), async |request| {
        let mut response = fixture.service.answer(&request).await;
        if is_paid(&request) {
            pack(&mut response, "br", |body| [b"br:", body].concat());
        }
        HttpOutcome::Answered(response)
    })
    .await
    .unwrap_err();
    assert_eq!(error.code(), Code::CallFailed, "{error}");
    assert!(error.to_string().contains("Content-Encoding br"), "{error}");
    let key = error.facts().purchase_key.clone().unwrap();
    let paid = fixture.buy(&consumer, call().purchase_key(key).settle(true)).await.unwrap();
    assert!(paid.payment.unwrap().is_settled);
    assert_eq!((fixture.service.runs(), fixture.paid().await.0), (1, 1));
}

#[tokio::test]
async fn the_limit_of_an_answer_counts_what_it_is_unpacked() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let bomb = gzip(&vec![0; 20_000_000]);
    assert!(bomb.len() < 100_000);
    for is_paid_for in [false, true] {
        let small = call().body_limit(1_000_000);
        let error = drive(consumer.purchase(small).unwrap(), async |request| {
            let mut response = fixture.service.answer(&request).await;
            if is_paid(&request) == is_paid_for {
                pack(&mut response, "gzip", |_| bomb.clone());
            }
            HttpOutcome::Answered(response)
        })
        .await
        .unwrap_err();
        assert_eq!(error.code(), Code::AnswerTooLarge, "{error}");
        assert_eq!(error.facts().purchase_key.is_some(), is_paid_for);
    }
}

#[tokio::test]
async fn receipts_of_others_beside_the_services_own_are_passed_over() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let other = fixture.buy(&consumer, call()).await.unwrap().payment.unwrap().receipt.unwrap();
    let other = BASE64_STANDARD.encode(serde_json::to_vec(&other).unwrap());
    for number in 0..4 {
        let paid = drive(consumer.purchase(call()).unwrap(), async |request| {
            let mut response = fixture.service.answer(&request).await;
            let own = response.header(RECEIPT).map(str::to_owned);
            if let Some(own) = own {
                let foreign = |value: String| (RECEIPT.to_ascii_lowercase(), value);
                match number {
                    0 => response.headers.insert(0, foreign(other.clone())),
                    1 => response.headers.push(foreign(other.clone())),
                    2 => response.headers.insert(0, foreign("!".to_owned())),
                    _ => {
                        response.headers.retain(|(name, _)| name != RECEIPT);
                        response.headers.push(foreign(format!("{other}, {own},")));
                    }
                }
            }
            HttpOutcome::Answered(response)
        })
        .await
        .unwrap();
        assert_eq!(paid.payment.unwrap().proof, Proof::Signed, "{number}");
    }
    // Alone, it proves another call.
    let error = drive(consumer.purchase(call()).unwrap(), async |request| {
        let mut response = fixture.service.answer(&request).await;
        for (name, value) in &mut response.headers {
            if name == RECEIPT {
                *value = other.clone();
            }
        }
        HttpOutcome::Answered(response)
    })
    .await
    .unwrap_err();
    assert_eq!(error.code(), Code::ProofMismatch, "{error}");
}

/// Puts links into a 402, as a service behind a prefix does.
fn linked(mut response: HttpResponse, links: &Value) -> HttpResponse {
    if response.status == 402 {
        let mut body: Value = serde_json::from_slice(&response.body).unwrap();
        body["links"] = links.clone();
        response.body = body.to_string().into_bytes().into();
        response.headers.retain(|(name, _)| name != "PAYMENT-REQUIRED");
    }
    response
}

#[tokio::test]
async fn the_receipt_is_asked_for_where_the_402_says_and_never_at_another_origin() {
    let page = "/api/payments/{txId}";
    let cases = [
        (json!({"payment": format!("{ORIGIN}/shop{page}")}), format!("{ORIGIN}/shop")),
        (json!({"payment": format!("/shop{page}")}), format!("{ORIGIN}/shop")),
        (json!({"base": "/shop"}), format!("{ORIGIN}/shop")),
        (json!({"base": ""}), ORIGIN.to_owned()),
        (json!({"payment": format!("https://evil.example{page}")}), ORIGIN.to_owned()),
        (json!({"payment": format!("{ORIGIN}.evil.example{page}")}), ORIGIN.to_owned()),
        (json!({"payment": "/elsewhere"}), ORIGIN.to_owned()),
        (json!(null), ORIGIN.to_owned()),
    ];
    for (links, base) in cases {
        let fixture = Fixture::new(CENTS_10).await;
        let consumer = fixture.trusting().await;
        let mut pages = vec![];
        let paid = drive(consumer.purchase(call()).unwrap(), async |mut request| {
            if request.url.contains("/receipts/") {
                pages.push(request.url.clone());
            }
            // What a proxy does with the prefix.
            request.url = request.url.replace("/shop/", "/");
            let mut response = fixture.service.answer(&request).await;
            response.headers.retain(|(name, _)| name != RECEIPT);
            HttpOutcome::Answered(linked(response, &links))
        })
        .await
        .unwrap();
        let payment = paid.payment.unwrap();
        assert_eq!(payment.proof, Proof::Signed);
        let id = payment.transaction_id;
        assert_eq!(pages, [format!("{base}/api/payments/{id}/receipts/-")], "{links}");
    }
}

#[tokio::test]
async fn a_service_that_wants_to_be_left_alone_for_no_time_is_not_flooded() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let mut purchase = consumer.purchase(call()).unwrap();
    let (mut outcome, mut waits) = (None, vec![]);
    while waits.len() < 8 {
        match purchase.next(outcome.take()).await.unwrap() {
            Step::Send(_) => {
                let headers = vec![("Retry-After".to_owned(), "0".to_owned())];
                let body = Default::default();
                outcome = Some(HttpOutcome::Answered(HttpResponse { status: 429, headers, body }));
            }
            Step::Wait(time) => waits.push(time),
            Step::Done(response) => panic!("{response:?}"),
        }
    }
    assert!(waits[0] >= Duration::from_millis(250), "{waits:?}");
    assert!(waits.is_sorted() && waits[7] >= Duration::from_secs(5), "{waits:?}");
}

#[tokio::test]
async fn an_interim_answer_is_no_answer() {
    let fixture = Fixture::new(CENTS_10).await;
    let consumer = fixture.trusting().await;
    let mut hints = 0;
    let get = PaidCall::new("GET", format!("{ORIGIN}/free"), CENTS_10);
    let answer = drive(consumer.purchase(get).unwrap(), async |request| {
        hints += 1;
        match hints {
            1 => HttpOutcome::Answered(HttpResponse {
                status: 103,
                headers: vec![],
                body: Default::default(),
            }),
            2 => HttpOutcome::Failed(HttpFailure::NotSent("gone".to_owned())),
            _ => HttpOutcome::Answered(fixture.service.answer(&request).await),
        }
    })
    .await
    .unwrap();
    assert_eq!((answer.status, hints), (200, 3));
}
