//! The application is told of money at its own URL, also by who comes after a process that was not there
//! any more.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use agirails::{
    State, TransactionId, Usdc,
    paywall::{Event, Paywall, Settings, Webhook},
};
use axum::{
    Router,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::IntoResponse,
    routing::post,
};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::fixture::{CENTS_10, Stage, charge, ok, run};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What came: id, signature and body.
type Came = Arc<Mutex<Vec<(String, String, Value)>>>;

/// A receiver that answers with these statuses first, and takes what comes then.
async fn receiver(listener: TcpListener, first: &[u16]) -> Came {
    let came = Came::default();
    let (told, answers) = (came.clone(), Arc::new(Mutex::new(first.to_vec())));
    let handler = move |headers: HeaderMap, body: String| async move {
        let header = |name| headers[name].to_str().unwrap().to_owned();
        let (id, body) = (header("webhook-id"), serde_json::from_str(&body).unwrap());
        told.lock().unwrap().push((id, header("webhook-signature"), body));
        let mut answers = answers.lock().unwrap();
        let status = if answers.is_empty() { 204 } else { answers.remove(0) };
        // Nobody follows it.
        (StatusCode::from_u16(status).unwrap(), [(LOCATION, "/elsewhere")]).into_response()
    };
    let app = Router::new().route("/hook", post(handler));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    came
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    (listener, url)
}

async fn paywall(stage: &Stage, url: &str) -> (Paywall, Arc<Mutex<Vec<Event>>>) {
    let webhook = Some(Webhook::new(url, SECRET).unwrap());
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let told = events.clone();
    let builder = stage.builder().settings(Settings { webhook, ..Settings::default() });
    let builder = builder.on_event(move |event| told.lock().unwrap().push(event.clone()));
    (builder.open().await.unwrap(), events)
}

async fn serve(stage: &Stage, paywall: &Paywall) -> TransactionId {
    let id = stage.funded(CENTS_10).await;
    let request = stage.signed(id, None, b"{}").await;
    let entry = paywall.enter(&charge(paywall, CENTS_10), &request, None).await;
    run(entry).finish(ok("done")).await;
    stage.becomes(id, State::Delivered).await;
    id
}

async fn settle(stage: &Stage) {
    stage.provider.mock().unwrap().advance_time(3 * 86_400).await.unwrap();
}

async fn until(came: &Came, count: usize) -> Vec<(String, String, Value)> {
    for _ in 0..400 {
        let all = came.lock().unwrap().clone();
        if all.len() >= count {
            return all;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?}", came.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_comes_until_it_is_taken_and_in_the_order_of_its_payment() {
    let stage = Stage::new().await;
    let (listener, url) = listener().await;
    // It is out of order, then sends elsewhere: neither is a yes.
    let came = receiver(listener, &[500, 307]).await;
    let (paywall, events) = paywall(&stage, &url).await;
    let id = serve(&stage, &paywall).await;
    settle(&stage).await;
    let all = until(&came, 4).await;
    let kinds: Vec<_> = all.iter().map(|(.., body)| body["type"].as_str().unwrap()).collect();
    let (delivered, settled) = ("payment.delivered", "payment.settled");
    assert_eq!(kinds, [delivered, delivered, delivered, settled]);
    assert!(all[0].0 == all[1].0 && all[1].0 == all[2].0 && all[2].0 != all[3].0);
    assert!(
        all.iter().all(|(id, signature, _)| id.starts_with("msg_") && signature.starts_with("v1,"))
    );
    let data = &all[3].2["data"];
    assert_eq!(data["transactionId"], id.to_string());
    assert_eq!((&data["amount"], &data["net"]), (&100_000.into(), &50_000.into()));
    assert_eq!(data["requester"], stage.requester.address().to_string().to_lowercase());
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(came.lock().unwrap().len(), 4, "what was taken is not sent again");
    // The application in the same process is told too, and no message shows the secret.
    let events = events.lock().unwrap();
    let money: Vec<_> = events.iter().filter(|event| event.transaction == Some(id)).collect();
    assert!(money.iter().any(|event| event.name == "delivered"));
    assert!(money.iter().any(|event| event.name == "settled" && event.net == Some(Usdc(50_000))));
    assert!(events.iter().any(|event| event.message.contains("HTTP 500")));
    assert!(
        !events
            .iter()
            .any(|event| event.message.contains("MfKQ") || event.message.contains("/hook"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_could_not_tell_is_told_by_the_next() {
    let stage = Stage::new().await;
    let (listener, url) = listener().await;
    drop(listener);
    let (first, _) = paywall(&stage, &url).await;
    let id = serve(&stage, &first).await;
    drop(first);
    let address = url.trim_start_matches("http://").trim_end_matches("/hook");
    let came = receiver(TcpListener::bind(address).await.unwrap(), &[]).await;
    let (_second, _) = paywall(&stage, &url).await;
    let all = until(&came, 1).await;
    assert_eq!(all[0].2["type"], "payment.delivered");
    assert_eq!(all[0].2["data"]["transactionId"], id.to_string());
}
