//! What attackers try on servers that are paid by the call. Every one of them is refused, and the
//! consumer whose money it is gets served.

use std::{sync::Arc, time::Duration};

use agirails::{
    ACTPClient, B256, Event, State, Storage, TransactionId, U256, Usdc,
    paywall::{Answer, Charge, Entry, Incoming, Paywall, Settings, Unsigned},
    protocol::{paid_request::PaidRequest, service::bound_service_hash},
};
use agirails_devnet::{Fault, FaultProxy, Rule};
use rusqlite::Connection;
use tokio::task::JoinSet;

use crate::{
    chain::Local,
    fixture::{CENTS_10, HOUR, Stage, answer, body, charge, json, key, ok, run, unsigned},
};

async fn strict(stage: &Stage) -> Paywall {
    let settings = Settings { unsigned: Some(Unsigned::Refuse), ..Settings::default() };
    stage.builder().settings(settings).open().await.unwrap()
}

/// Status and the words for programs; what a refusal says is short and has nothing of the inside.
fn refusal(entry: Entry) -> (u16, String) {
    let answer = answer(entry);
    let told = body(&answer);
    for inside in ["sqlite", "/tmp", "panicked", "rpc", ".rs:"] {
        assert!(!told.to_lowercase().contains(inside), "{told}");
    }
    let told = json(&answer);
    assert!(told["requestId"].is_string(), "{told}");
    (answer.status, told["error"].as_str().unwrap().to_owned())
}

fn refused(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

#[tokio::test]
async fn a_watched_request_is_of_no_use_to_anybody_else() {
    let stage = Stage::new().await;
    let paywall = strict(&stage).await;
    let charge = charge(&paywall, CENTS_10);
    let (id, other) = (stage.funded(CENTS_10).await, stage.funded(CENTS_10).await);
    let enter = async |request: &Incoming| paywall.enter(&charge, request, None).await;
    let wrong = refused(401, "Invalid Signature");

    // The id alone, and signed by somebody else.
    let bare = unsigned(id, "/api/generate", b"{}");
    assert_eq!(refusal(enter(&bare).await), refused(401, "Signature Required"));
    let stranger = stage.signed_by(3, id, None, "/api/generate", b"{}").await;
    assert_eq!(refusal(enter(&stranger).await), wrong);

    // The requester's own signature, on anything that it did not sign.
    let signed = stage.signed(id, None, b"{}").await;
    let signature = signed.signature.clone();
    let with = |mut request: Incoming| {
        request.signature.clone_from(&signature);
        request
    };
    let mut keyed = with(unsigned(id, "/api/generate", b"{}"));
    keyed.idempotency_key = Some("another-call".to_owned());
    let mut get = with(Incoming::new("GET", "/api/generate", b"{}"));
    get.transaction_id = Some(id.to_string());
    for altered in [
        with(unsigned(id, "/api/generate", b"{\"prompt\": \"mine\"}")),
        with(unsigned(id, "/api/generate?to=attacker", b"{}")),
        with(unsigned(id, "/api/other", b"{}")),
        with(unsigned(other, "/api/generate", b"{}")),
        keyed,
        get,
    ] {
        assert_eq!(refusal(enter(&altered).await), wrong);
    }

    // Nothing of that cost the requester its call; repeated by whomever, it is the same answer.
    let first = run(enter(&signed).await).finish(ok("for the requester")).await;
    let again = answer(enter(&signed).await);
    assert_eq!((first.status, again.body), (200, first.body));
}

#[tokio::test]
async fn a_cheap_route_does_not_pay_for_a_dear_one() {
    let stage = Stage::new().await;
    let paywall = strict(&stage).await;
    let cheap = paywall.charge(Charge::new("POST /api/cheap", CENTS_10)).unwrap();
    let dear = paywall.charge(Charge::new("POST /api/dear", Usdc(1_000_000))).unwrap();
    let signed = async |id, target| stage.signed_by(2, id, None, target, b"").await;

    let id = stage.funded(CENTS_10).await;
    let too_little = paywall.enter(&dear, &signed(id, "/api/dear").await, None).await;
    assert_eq!(refusal(too_little).0, 402);
    let served = paywall.enter(&cheap, &signed(id, "/api/cheap").await, None).await;
    assert_eq!(run(served).finish(ok("cheap")).await.status, 200);

    // One that was enough for the dear route pays for one of the two.
    let id = stage.funded(Usdc(1_000_000)).await;
    let served = paywall.enter(&cheap, &signed(id, "/api/cheap").await, None).await;
    assert_eq!(run(served).finish(ok("cheap")).await.status, 200);
    let second = paywall.enter(&dear, &signed(id, "/api/dear").await, None).await;
    assert_eq!(refusal(second), refused(409, "Transaction Already Used"));
}

#[tokio::test]
async fn a_failed_run_of_a_cheap_route_opens_no_dear_one() {
    let stage = Stage::new().await;
    let paywall = strict(&stage).await;
    let cheap = paywall.charge(Charge::new("POST /api/cheap", CENTS_10)).unwrap();
    let dear = paywall.charge(Charge::new("POST /api/dear", Usdc(1_000_000))).unwrap();
    let signed = async |id, target| stage.signed_by(2, id, None, target, b"").await;
    let id = stage.funded(CENTS_10).await;
    let failing = paywall.enter(&cheap, &signed(id, "/api/cheap").await, None).await;
    run(failing).finish(Answer::new(500, "broken")).await;
    let second = paywall.enter(&dear, &signed(id, "/api/dear").await, None).await;
    assert_eq!(refusal(second), refused(402, "Insufficient Payment"));
    let again = paywall.enter(&cheap, &signed(id, "/api/cheap").await, None).await;
    assert_eq!(run(again).finish(ok("cheap")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_routes_at_once_serve_one_of_them() {
    let stage = Stage::new().await;
    // Two processes' worth of paywalls on one store.
    let paywalls = [strict(&stage).await, strict(&stage).await];
    for _ in 0..10 {
        let id = stage.funded(CENTS_10).await;
        let mut tasks = JoinSet::new();
        for number in 0..40 {
            let target = ["/api/a", "/api/b"][number % 2];
            let paywall = paywalls[number / 2 % 2].clone();
            let request = stage.signed_by(2, id, None, target, b"").await;
            let name = format!("POST {target}");
            let charge = paywall.charge(Charge::new(name, CENTS_10)).unwrap();
            tasks.spawn(async move {
                match paywall.enter(&charge, &request, None).await {
                    Entry::Run(served) => (true, served.finish(ok(target)).await),
                    Entry::Answer(answer) => (false, answer),
                }
            });
        }
        let ended = tasks.join_all().await;
        let runs: Vec<&Answer> = ended.iter().filter(|end| end.0).map(|end| &end.1).collect();
        assert_eq!(runs.len(), 1);
        for (_, answer) in &ended {
            match answer.status {
                200 => assert_eq!(answer.body, runs[0].body),
                status => assert_eq!((status, json(answer)["status"].clone()), (409, 409.into())),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_for_ten_calls_serves_ten_of_fifty_at_once() {
    let stage = Stage::new().await;
    let paywall = strict(&stage).await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(Usdc(10 * CENTS_10.0)).await;
    let mut tasks = JoinSet::new();
    for number in 0..50 {
        let (paywall, charge) = (paywall.clone(), charge.clone());
        let request = stage.signed(id, Some(&format!("call-{number}")), b"").await;
        tasks.spawn(async move {
            match paywall.enter(&charge, &request, None).await {
                Entry::Run(served) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    served.finish(ok("served")).await.status
                }
                Entry::Answer(answer) => answer.status,
            }
        });
    }
    let mut statuses = tasks.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![200; 10], vec![402; 40]].concat());
}

/// Follows the chain and spends every transaction that it sees as soon as it is funded.
async fn front_run(watcher: ACTPClient, paywall: Paywall, charge: Arc<Charge>) -> u32 {
    let (mut after, mut tried) = (0, 0);
    let us = watcher.network().clone();
    loop {
        for record in watcher.events(after, 100).await.unwrap_or_default() {
            after = record.cursor;
            let Event::EscrowLinked { transaction_id, .. } = record.event else { continue };
            let mut theirs = unsigned(transaction_id, "/api/generate", b"{}");
            let now = watcher.now().await.unwrap();
            let signed = PaidRequest::new(transaction_id, "POST", "/api/generate", b"{}", now);
            let own = key(3).sign_request(&signed, us.chain_id, us.kernel).unwrap();
            for signature in [None, Some(own)] {
                theirs.signature = signature;
                let (status, _) = refusal(paywall.enter(&charge, &theirs, None).await);
                assert_eq!(status, 401);
                tried += 1;
            }
            if tried == 10 {
                return tried;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_the_chain_and_calls_first_gets_nothing() {
    let local = Local::start().await;
    let settings = Settings { unsigned: Some(Unsigned::Refuse), ..Settings::default() };
    let paywall = Paywall::builder(local.provider.clone()).settings(settings).open().await.unwrap();
    let charge = charge(&paywall, CENTS_10);
    let watcher = tokio::spawn(front_run(local.consumer.clone(), paywall.clone(), charge.clone()));
    let mut ids = vec![];
    for _ in 0..5 {
        ids.push(local.funded(CENTS_10, HOUR).await);
    }
    // It was there first, with every one of them.
    let tried = tokio::time::timeout(Duration::from_secs(60), watcher).await;
    assert_eq!(tried.unwrap().unwrap(), 10);
    for id in ids {
        let request = local.signed(id, None).await;
        let served = run(paywall.enter(&charge, &request, None).await);
        assert_eq!(served.payment().attempt, 1);
        assert_eq!(served.finish(ok("for the requester")).await.status, 200);
    }
}

/// A paywall that reaches its chain through a proxy, and knows one transaction: a balance of which
/// one call is left.
struct Proxied {
    local: Local,
    proxy: FaultProxy,
    paywall: Paywall,
    charge: Arc<Charge>,
    bundle: TransactionId,
}

impl Proxied {
    async fn start() -> Self {
        let local = Local::start().await;
        let proxy = FaultProxy::start(local.devnet.rpc_url()).unwrap();
        let provider = local.provider_at(proxy.url()).await;
        let paywall = Paywall::builder(provider).open().await.unwrap();
        let charge = charge(&paywall, CENTS_10);
        let bundle = local.funded(Usdc(2 * CENTS_10.0), HOUR).await;
        let proxied = Self { local, proxy, paywall, charge, bundle };
        proxied.serves_the_known("first").await;
        proxied
    }

    async fn serves_the_known(&self, key: &str) {
        let request = self.local.signed(self.bundle, Some(key)).await;
        let served = run(self.paywall.enter(&self.charge, &request, None).await);
        assert_eq!(served.finish(ok(key)).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_nothing_is_claimed_and_what_is_known_is_served() {
    let proxied = Proxied::start().await;
    let Proxied { local, proxy, paywall, charge, .. } = &proxied;
    let asked = proxy.stats().requests;

    let id = local.funded(CENTS_10, HOUR).await;
    let unknown = local.signed(id, None).await;
    proxy.add(Rule::new(Fault::Status(503)));
    let (status, _) = refusal(paywall.enter(charge, &unknown, None).await);
    assert_eq!(status, 503);
    proxied.serves_the_known("second").await;
    assert!(proxy.stats().requests > asked);

    proxy.clear();
    let served = run(paywall.enter(charge, &unknown, None).await);
    assert_eq!(served.payment().attempt, 1, "the refusal claimed it");
    assert_eq!(served.finish(ok("back")).await.status, 200);
}

/// Made-up ids cost the attacker more than the node: those that come while others are read share a
/// call, and who is known never notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_ids_keeps_nobody_out() {
    const MADE_UP: usize = 104;
    let proxied = Proxied::start().await;
    let Proxied { proxy, paywall, charge, .. } = &proxied;
    let asked = proxy.stats().calls_of("eth_call");

    proxy.add(Rule::new(Fault::Delay(Duration::from_secs(3))));
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..MADE_UP {
        let (paywall, charge, told) = (paywall.clone(), charge.clone(), told.clone());
        tokio::spawn(async move {
            let id = TransactionId::from(U256::from(number + 1));
            let request = unsigned(id, "/api/generate", b"{}");
            told.send(answer(paywall.enter(&charge, &request, None).await)).unwrap();
        });
    }
    proxied.serves_the_known("second").await;
    assert!(heard.is_empty(), "the known call was served no sooner than the flood");
    for _ in 0..MADE_UP {
        let answer = heard.recv().await.unwrap();
        assert_eq!(
            (answer.status, &json(&answer)["error"]),
            (402, &"Transaction Not Found".into())
        );
    }
    // Those that came while others were read shared what the node was asked.
    let asked = proxy.stats().calls_of("eth_call") - asked;
    assert!(asked <= 20, "{asked} calls for {MADE_UP} ids");
}

/// Somebody holds the file's lock and does not work: a backup tool, a stopped process.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stays_locked_refuses_everybody_and_uses_nothing() {
    const CALLERS: usize = 20;
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = charge(&paywall, CENTS_10);
    let mut requests = vec![];
    for _ in 0..CALLERS {
        let id = stage.funded(CENTS_10).await;
        requests.push(stage.signed(id, None, b"{}").await);
    }
    let holder = Connection::open(stage.store_file()).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();

    // How long each of them waits is tested beside `GroupCommit`, by a clock that no other work moves.
    let mut tasks = JoinSet::new();
    for request in requests.clone() {
        let (paywall, charge) = (paywall.clone(), charge.clone());
        tasks.spawn(async move { paywall.enter(&charge, &request, None).await });
    }
    for entry in tasks.join_all().await {
        assert_eq!(refusal(entry), refused(503, "Store Unavailable"));
    }
    // Nobody is asked to pay for what cannot be served.
    let unpaid = Incoming::new("POST", "/api/generate", b"{}");
    let entry = paywall.enter(&charge, &unpaid, None).await;
    assert_eq!(refusal(entry), refused(503, "Store Unavailable"));

    holder.execute_batch("ROLLBACK").unwrap();
    for request in &requests {
        let served = run(paywall.enter(&charge, request, None).await);
        assert_eq!(served.payment().attempt, 1, "the refusal claimed it");
        assert_eq!(served.finish(ok("unlocked")).await.status, 200);
    }
    let entry = paywall.enter(&charge, &unpaid, None).await;
    assert_eq!(refusal(entry), refused(402, "Payment Required"));
}

/// A transaction whose service hash was made with a key: only whoever tells the key is served, and
/// only by the service that it was made for.
#[tokio::test]
async fn a_transaction_of_one_service_buys_nothing_at_another() {
    let stage = Stage::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let settings = Settings { one_store: Some(false), ..Settings::default() };
    let open = async |storage| {
        let builder = stage.builder().settings(settings.clone()).storage(storage);
        builder.open().await.unwrap()
    };
    let ours = open(Storage::Directory(stage.directory.path().to_owned())).await;
    let theirs = open(Storage::Directory(elsewhere.path().to_owned())).await;
    assert_ne!(ours.service_hash(), theirs.service_hash());
    let (here, there) = (charge(&ours, CENTS_10), charge(&theirs, CENTS_10));

    let secret = B256::repeat_byte(7);
    let id = stage.funded_with(CENTS_10, bound_service_hash(ours.service_hash(), secret)).await;
    let with = async |key: Option<&str>| {
        let mut request = stage.signed(id, None, b"{}").await;
        request.service_key = key.map(str::to_owned);
        request
    };
    let told = with(Some(&secret.to_string())).await;
    let other = refused(402, "Transaction Not For This Service");
    assert_eq!(refusal(theirs.enter(&there, &told, None).await), other);
    assert_eq!(refusal(ours.enter(&here, &with(None).await, None).await), other);
    let wrong = with(Some(&B256::repeat_byte(8).to_string())).await;
    assert_eq!(refusal(ours.enter(&here, &wrong, None).await), other);
    let malformed = with(Some("0x07")).await;
    let invalid = refused(400, "Invalid Service Key");
    assert_eq!(refusal(ours.enter(&here, &malformed, None).await), invalid);

    let served = run(ours.enter(&here, &told, None).await);
    assert_eq!(served.finish(ok("here")).await.status, 200);
    stage.becomes(id, State::Delivered).await;
}

/// The service's own value is on every offer: a foreign client may use it as it is, and a
/// transaction that names another one is not closed here.
#[tokio::test]
async fn a_close_needs_the_key_of_what_was_never_used() {
    let stage = Stage::new().await;
    let paywall = strict(&stage).await;
    let secret = B256::repeat_byte(7);
    let hash = bound_service_hash(paywall.service_hash(), secret);
    let id = stage.funded_with(CENTS_10, hash).await;
    let close = async |key: Option<B256>| {
        let target = format!("/api/payments/{id}/close");
        let mut request = stage.signed_by(2, id, None, &target, b"").await;
        request.service_key = key.map(|key| key.to_string());
        paywall.page(&request).await.unwrap()
    };
    let unbound = close(None).await;
    assert_eq!(
        (unbound.status, &json(&unbound)["error"]),
        (409, &"Not Bound To This Service".into())
    );
    assert_eq!(stage.state(id).await, State::Committed);
    assert_eq!(close(Some(secret)).await.status, 202);
    stage.becomes(id, State::Cancelled).await;
}

/// A price that is worked out from something that makes no other request.
#[tokio::test]
async fn a_failed_run_at_a_low_price_pays_for_no_dear_one() {
    let stage = Stage::new().await;
    let paywall = strict(&stage).await;
    let priced = paywall.charge(Charge::per_request("POST /api/generate")).unwrap();
    let (low, high) = (CENTS_10, Usdc(5_000_000));
    for key in [None, Some("call")] {
        let id = stage.funded(Usdc(1_000_000)).await;
        let request = stage.signed(id, key, b"{}").await;
        let failing = run(paywall.enter(&priced, &request, Some(low)).await);
        failing.finish(Answer::new(422, "no")).await;
        let dear = refusal(paywall.enter(&priced, &request, Some(high)).await);
        assert_eq!(dear, refused(402, "Insufficient Payment"));
        let again = run(paywall.enter(&priced, &request, Some(low)).await);
        assert_eq!(again.finish(ok("cheap")).await.status, 200);
        // The answer that was paid for is given again, whatever a call costs now.
        let repeated = answer(paywall.enter(&priced, &request, Some(high)).await);
        assert_eq!((repeated.status, body(&repeated).as_str()), (200, "cheap"));
    }
}
