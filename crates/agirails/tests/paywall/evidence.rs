//! The evidence file of a disputed transaction: whoever decides verifies it without trusting either party.

use agirails::{
    Address, Code, CreateTransaction, Refusal, SessionKey, State, TransactionId, Usdc,
    kernel::ContractFinding,
    paywall::{Answer, Charge, Incoming, Paywall, RequestHead, Settings, Settle, Unsigned},
    protocol::{
        evidence::{Conclusion, Evidence, Outcome, Verification, compare_with_chain, verify},
        paid_request::PaidRequest,
        receipt::RECEIPT_HEADER,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{
    faulty_kernel::FaultyKernel,
    fixture::{CENTS_10, HOUR, Stage, charge, json, key, ok, run, unsigned},
    signers::by_contract,
};

const DOLLAR: Usdc = Usdc(1_000_000);

fn settings() -> Settings {
    Settings { unsigned: Some(Unsigned::Refuse), settle: Settle::Never, ..Settings::default() }
}

async fn paywall(stage: &Stage, settings: Settings) -> Paywall {
    stage.builder().settings(settings).open().await.unwrap()
}

/// Serves a request, and brings the answer as its caller gets it.
async fn serve(paywall: &Paywall, price: Usdc, request: &Incoming, answer: Answer) -> Answer {
    let entry = paywall.enter(&charge(paywall, price), request, None).await;
    let served = run(entry).finish(answer).await;
    assert_eq!(served.status, 200);
    served
}

/// A disputed call that took the whole transaction.
async fn disputed(stage: &Stage, paywall: &Paywall, body: &[u8]) -> TransactionId {
    let id = stage.funded(CENTS_10).await;
    serve(paywall, CENTS_10, &stage.signed(id, None, body).await, ok("done")).await;
    dispute(stage, id).await;
    id
}

async fn dispute(stage: &Stage, id: TransactionId) {
    stage.becomes(id, State::Delivered).await;
    // The least bond.
    stage.requester.dispute(id, DOLLAR).await.unwrap();
}

/// The file as its reader has it.
async fn written(paywall: &Paywall, id: TransactionId) -> Evidence {
    let evidence = paywall.evidence(id).await.unwrap();
    assert_eq!(Evidence::from_json(&evidence.to_json().unwrap()).unwrap(), evidence);
    evidence
}

fn of(verification: &Verification, outcome: Outcome) -> Vec<&str> {
    let findings = verification.findings.iter();
    findings.filter(|found| found.outcome == outcome).map(|found| &*found.name).collect()
}

/// Both checks hold: of the file alone, and against the chain.
async fn assert_holds(stage: &Stage, evidence: &Evidence) {
    let found = verify(evidence);
    assert_eq!(found.conclusion(), Conclusion::Holds, "{found:?}");
    let (id, network) = (evidence.transaction.id, stage.requester.network());
    let read = stage.requester.get_transaction(id).await.unwrap();
    let compared = compare_with_chain(evidence, &read, network.chain_id, network.kernel);
    assert_eq!(compared.conclusion(), Conclusion::Holds, "{compared:?}");
}

/// The store's file and what was not yet written into it.
fn store_bytes(stage: &Stage) -> Vec<u8> {
    let file = stage.store_file();
    let wal = file.with_extension("sqlite3-wal");
    [std::fs::read(file).unwrap(), std::fs::read(wal).unwrap_or_default()].concat()
}

fn holds_bytes(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disputed_call_is_shown_whole() {
    let stage = Stage::new().await;
    let paywall = paywall(&stage, settings()).await;
    let id = stage.funded(CENTS_10).await;
    let request = stage.signed(id, None, b"{\"q\": 1}").await;
    let served = serve(&paywall, CENTS_10, &request, ok("done")).await;
    dispute(&stage, id).await;

    let evidence = written(&paywall, id).await;
    assert_holds(&stage, &evidence).await;
    assert_eq!(evidence.transaction.state, State::Disputed);
    let [call] = &evidence.calls[..] else { panic!("{evidence:?}") };
    assert_eq!(call.request.body.as_ref().unwrap().as_bytes(), b"{\"q\": 1}");
    assert_eq!(call.request.signature.as_ref().unwrap().to_string(), request.signature.unwrap());
    assert_eq!(call.answer.body.as_ref().unwrap().as_bytes(), b"done");
    // The very receipt that its caller got.
    let sent = BASE64.decode(served.header(RECEIPT_HEADER).unwrap()).unwrap();
    assert_eq!(call.receipt, Some(serde_json::from_slice(&sent).unwrap()));
    assert_eq!(call.branch, Some(vec![]));

    // What was answered otherwise, or asked otherwise, is found.
    let mut forged = evidence.clone();
    forged.calls[0].answer.status = 201;
    assert_eq!(verify(&forged).conclusion(), Conclusion::Fails);
    let text = evidence.to_json().unwrap();
    let forged = Evidence::from_json(&text.replace("done", "gone")).unwrap();
    assert_eq!(of(&verify(&forged), Outcome::Fails), ["calls[0].answer.bodyHash"]);
    let forged = Evidence::from_json(&text.replace("/api/generate", "/api/other")).unwrap();
    assert_eq!(verify(&forged).conclusion(), Conclusion::Fails);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundles_calls_are_all_in_it_whoever_signed_them() {
    let stage = Stage::new().await;
    let paywall = paywall(&stage, settings()).await;
    let charge = Charge::new("POST /api/generate", Usdc(300_000)).calls(3);
    let charge = paywall.charge(charge).unwrap();
    let id = stage.funded(DOLLAR).await;
    let network = stage.requester.network();
    let session = SessionKey::random(id, stage.requester.now().await.unwrap() + 600).unwrap();
    let hash = session.session().signing_hash(network.chain_id, network.kernel);
    let appointed = session.appointed(key(2).sign_hash(&hash).unwrap().into());
    for number in 0..3 {
        let (body, call_key) = (vec![0xff, number], format!("call {number}").replace(' ', "-"));
        let mut request = stage.signed(id, Some(&call_key), &body).await;
        if number == 1 {
            let now = stage.requester.now().await.unwrap();
            let mut asked = PaidRequest::new(id, "POST", "/api/generate", &body, now);
            asked.idempotency_key = call_key;
            let signed = session.sign_request(&asked, network.chain_id, network.kernel).unwrap();
            (request.signature, request.session) = (Some(signed), Some(appointed.clone()));
        }
        // The last answer is longer than a piece of the store.
        let answer = if number == 2 { "x".repeat(200_000) } else { "short".to_owned() };
        run(paywall.enter(&charge, &request, None).await).finish(ok(&answer)).await;
        if number == 0 {
            // While calls may come there is nothing that was delivered yet.
            let open = written(&paywall, id).await;
            assert_eq!((open.calls.len(), open.delivery), (1, None));
            let found = verify(&written(&paywall, id).await);
            assert_eq!(of(&found, Outcome::NotCheckable), ["delivery", "calls[0].branch"]);
        }
    }
    dispute(&stage, id).await;
    let evidence = written(&paywall, id).await;
    assert_holds(&stage, &evidence).await;
    assert_eq!((evidence.calls.len(), evidence.delivery.as_ref().unwrap().calls), (3, 3));
    let bodies = evidence.calls.iter().map(|call| call.answer.body.as_ref().unwrap());
    assert_eq!(bodies.map(|body| body.as_bytes().len()).collect::<Vec<_>>(), [5, 5, 200_000]);
    for call in &evidence.calls {
        // As the free route has it.
        let path = format!("/api/payments/{id}/receipts/{}", call.request.idempotency_key);
        let page = json(&paywall.page(&Incoming::new("GET", &path, b"")).await.unwrap());
        assert_eq!(page["receipt"], serde_json::to_value(&call.receipt).unwrap());
        assert_eq!(page["branch"], serde_json::to_value(&call.branch).unwrap());
    }
    // One call can be shown without the others.
    let mut one = evidence.clone();
    one.calls.drain(..2);
    assert_eq!(verify(&one).conclusion(), Conclusion::Holds);
    one.calls[0].branch.clone_from(&evidence.calls[0].branch);
    assert_eq!(of(&verify(&one), Outcome::Fails), ["calls[0].branch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_kept_makes_a_file_incomplete() {
    let stage = Stage::new().await;
    let off = Settings { keep_requests: false, ..settings() };
    let paywall = paywall(&stage, off).await;
    let id = disputed(&stage, &paywall, b"{}").await;
    let evidence = written(&paywall, id).await;
    assert_eq!((evidence.calls.len(), evidence.delivery.as_ref().unwrap().calls), (0, 1));
    let found = verify(&evidence);
    assert_eq!(found.conclusion(), Conclusion::Incomplete);
    assert_eq!(of(&found, Outcome::NotCheckable), ["calls"]);
    let file = rusqlite::Connection::open(stage.store_file()).unwrap();
    let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    assert_eq!(file.query_row("SELECT count(*) FROM requests", [], count).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_long_body_its_hash_is_kept() {
    let stage = Stage::new().await;
    let paywall = paywall(&stage, Settings { max_kept_request_bytes: 64, ..settings() }).await;
    for (length, is_kept) in [(64, true), (65, false)] {
        let body = vec![b'z'; length];
        let id = disputed(&stage, &paywall, &body).await;
        let evidence = written(&paywall, id).await;
        let request = &evidence.calls[0].request;
        assert_eq!(request.body_hash, alloy_primitives::keccak256(&body));
        assert_eq!(
            request.body.as_ref().map(|body| body.as_bytes().len()),
            is_kept.then_some(length)
        );
        let found = verify(&evidence);
        let lacks: &[&str] = if is_kept { &[] } else { &["calls[0].request.bodyHash"] };
        assert_eq!(of(&found, Outcome::NotCheckable), lacks);
        assert_eq!(of(&found, Outcome::Fails), [""; 0]);
    }
    let stored = store_bytes(&stage);
    assert!(holds_bytes(&stored, &[b'z'; 64]) && !holds_bytes(&stored, &[b'z'; 65]));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_neither_kept_nor_shown() {
    let stage = Stage::new().await;
    let vary_on = ["X-Api-Key", "X-Tenant"].map(str::to_owned).to_vec();
    let paywall = paywall(&stage, Settings { vary_on, ..settings() }).await;
    let charge = charge(&paywall, CENTS_10);
    let id = stage.funded(CENTS_10).await;
    let signed = stage.signed(id, None, b"ask").await;
    let (id_text, signature) = (id.to_string(), signed.signature.unwrap());
    let headers = [
        ("X-AGIRAILS-TX-ID", &*id_text),
        ("X-AGIRAILS-SIGNATURE", &*signature),
        ("Authorization", "Bearer secret-value-1"),
        ("Cookie", "session=secret-value-2"),
        ("X-Api-Key", "secret-value-3"),
        ("X-Tenant", "tenant-7"),
        ("Accept", "text/plain"),
        ("X-Else", "passing-by"),
    ];
    let head = RequestHead {
        method: "POST",
        target: "/api/generate",
        mount: "",
        scheme: "https",
        headers: headers.map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    };
    let mut exchange = paywall.exchange(Some(&charge), head);
    assert_eq!(exchange.admit_head().await, None);
    assert_eq!(exchange.body(b"ask"), None);
    assert_eq!(exchange.admit(None).await, None);
    assert_eq!(exchange.take_body(), b"ask", "the handler gets it whole");
    let given = vec![("Content-Type".to_owned(), b"text/plain".to_vec())];
    let set_cookie = ("Set-Cookie".to_owned(), b"session=shown-to-its-caller".to_vec());
    exchange.head(200, [given, vec![set_cookie]].concat(), Some(4));
    let _ = exchange.chunk(b"done");
    exchange.end().await;
    dispute(&stage, id).await;

    let evidence = written(&paywall, id).await;
    assert_holds(&stage, &evidence).await;
    let shown = [("accept", "text/plain"), ("x-tenant", "tenant-7")];
    assert_eq!(
        evidence.calls[0].request.headers,
        shown.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    let (text, stored) = (evidence.to_json().unwrap(), store_bytes(&stage));
    assert!(holds_bytes(&stored, b"tenant-7"), "the store's bytes are not these");
    for secret in ["secret-value", "passing-by", "shown-to-its-caller"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(!holds_bytes(&stored, b"secret-value") && !holds_bytes(&stored, b"passing-by"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contracts_signature_is_a_question_to_the_chain() {
    let stage = Stage::new().await;
    let node = FaultyKernel::of(&stage);
    node.wallets_say(ContractFinding::Accepted);
    let paywall = stage.behind(&node).settings(settings()).open().await.unwrap();
    let id = stage.funded(CENTS_10).await;
    serve(&paywall, CENTS_10, &by_contract(&stage, id, None, 1).await, ok("done")).await;
    dispute(&stage, id).await;
    let evidence = written(&paywall, id).await;
    assert!(evidence.parties.requester.is_contract);
    let found = verify(&evidence);
    // This paywall has no key to sign receipts with.
    let open = ["calls[0].request.signature", "calls[0].receipt.signature"];
    assert_eq!(of(&found, Outcome::NotCheckable), open);
    assert_eq!(found.questions.len(), 1);
    assert_eq!(found.conclusion(), Conclusion::Incomplete);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_proven_of_a_request_that_nobody_signed() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let id = stage.funded(CENTS_10).await;
    serve(&paywall, CENTS_10, &unsigned(id, "/api/generate", b"{}"), ok("done")).await;
    stage.becomes(id, State::Delivered).await;
    let evidence = written(&paywall, id).await;
    assert!(!evidence.parties.requester.is_contract);
    let found = verify(&evidence);
    assert_eq!(of(&found, Outcome::NotCheckable), ["calls[0].request.signature"]);
    assert_eq!(of(&found, Outcome::Fails), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_served_call_there_is_no_file() {
    let stage = Stage::new().await;
    let paywall = paywall(&stage, settings()).await;
    let unknown = paywall.evidence(TransactionId::repeat_byte(7)).await.unwrap_err();
    assert_eq!(unknown.refusal(), Some(Refusal::TxMissing));
    let id = stage.funded(CENTS_10).await;
    let unused = paywall.evidence(id).await.unwrap_err();
    assert_eq!((unused.code(), unused.facts().transaction_id), (Code::NothingServed, Some(id)));
    assert!(unused.hint().is_some());
    // A handler that failed answered nothing.
    let request = stage.signed(id, None, b"{}").await;
    let entry = paywall.enter(&charge(&paywall, CENTS_10), &request, None).await;
    run(entry).finish(Answer::new(500, "")).await;
    assert_eq!(paywall.evidence(id).await.unwrap_err().code(), Code::NothingServed);
    let other = CreateTransaction::new(
        stage.requester.address(),
        Address::repeat_byte(0x33),
        CENTS_10,
        stage.requester.now().await.unwrap() + HOUR,
    );
    let other = stage.requester.create_transaction(&other).await.unwrap();
    let refused = paywall.evidence(other).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Refusal::OnlyProvider));
}
