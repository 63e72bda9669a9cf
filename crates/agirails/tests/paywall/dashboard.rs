//! The dashboard: its figures are the books', what others wrote stays data, and nothing is asked of
//! anybody else.

use std::time::Duration;

use agirails::{
    Address, State, TransactionId, Usdc,
    paywall::{
        Answer, Charge, Dashboard, DashboardRequest, PaymentQuery, Paywall, ReportBy, ReportQuery,
        ReportRow, Settings,
    },
};
use serde_json::Value;

use crate::fixture::{CENTS_10, Stage, answer, body, charge, json, ok, run};

const DOLLAR: Usdc = Usdc(1_000_000);
const DAY: u64 = 86_400;
const SCRIPT: &str = "</script><img src=x onerror=alert(1)>";

async fn get(dashboard: &Dashboard, target: &str) -> Answer {
    ask(dashboard, "GET", target).await
}

async fn ask(dashboard: &Dashboard, method: &str, target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    dashboard.answer(DashboardRequest { method, mount: "/admin", path, query }).await
}

async fn read(dashboard: &Dashboard, target: &str) -> Value {
    let answer = get(dashboard, target).await;
    assert_eq!(answer.status, 200, "{target}: {}", body(&answer));
    json(&answer)
}

fn header(answer: &Answer, name: &str) -> String {
    String::from_utf8(answer.header(name).unwrap_or_default().to_vec()).unwrap()
}

async fn serve(stage: &Stage, paywall: &Paywall, amount: Usdc) -> TransactionId {
    let id = stage.funded(amount).await;
    let request = stage.signed(id, None, b"{}").await;
    let entry = paywall.enter(&charge(paywall, amount), &request, None).await;
    assert_eq!(run(entry).finish(ok("done")).await.status, 200);
    id
}

async fn becomes(paywall: &Paywall, id: TransactionId, stage: &str) {
    for _ in 0..200 {
        let all = paywall.payments(&PaymentQuery::default()).await.unwrap();
        if all.iter().any(|row| row.transaction_id == id && row.stage == stage) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} is not {stage}");
}

async fn report(paywall: &Paywall, by: ReportBy) -> Vec<ReportRow> {
    paywall.report(&ReportQuery { by, ..ReportQuery::default() }).await.unwrap()
}

/// What the page shows of a row, and what the books have.
fn assert_same(shown: &Value, row: &ReportRow) {
    assert_eq!(shown["key"], row.key.as_str());
    for (name, amount) in
        [("gross", row.gross), ("paidOut", row.paid_out), ("fee", row.fee), ("net", row.net)]
    {
        assert_eq!(shown[name], amount.to_string(), "{name} of {}", row.key);
    }
    for (name, count) in [
        ("calls", row.calls),
        ("settled", row.settled),
        ("refunded", row.refunded),
        ("disputed", row.disputed),
    ] {
        assert_eq!(shown[name], count, "{name} of {}", row.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_those_of_the_books() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let dashboard = paywall.dashboard();
    let empty = read(&dashboard, "/data/overview?range=all").await;
    assert_eq!((&empty["totals"]["net"], &empty["totals"]["calls"]), (&"0.00".into(), &0.into()));

    let settled = serve(&stage, &paywall, DOLLAR).await;
    let refunded = stage.funded(CENTS_10).await;
    let request = stage.signed(refunded, None, b"{}").await;
    let failed = run(paywall.enter(&charge(&paywall, CENTS_10), &request, None).await);
    assert_eq!(failed.finish(Answer::new(500, "broken")).await.status, 500);
    paywall.refund(refunded).await.unwrap();
    stage.becomes(refunded, State::Cancelled).await;
    stage.becomes(settled, State::Delivered).await;
    stage.provider.mock().unwrap().advance_time(3 * DAY).await.unwrap();
    becomes(&paywall, settled, "settled").await;
    let disputed = serve(&stage, &paywall, DOLLAR).await;
    stage.becomes(disputed, State::Delivered).await;
    stage.requester.dispute(disputed, DOLLAR).await.unwrap();
    becomes(&paywall, disputed, "disputed").await;
    let waiting = serve(&stage, &paywall, DOLLAR).await;
    becomes(&paywall, waiting, "delivered").await;

    let shown = read(&dashboard, "/data/overview?range=all").await;
    let totals = &shown["totals"];
    assert_eq!((&totals["gross"], &totals["net"]), (&"3.00".into(), &"0.95".into()));
    assert_eq!((&totals["calls"], &totals["failures"]), (&3.into(), &1.into()));
    assert_eq!((&totals["refunded"], &totals["disputed"]), (&1.into(), &1.into()));
    let backlog = &shown["backlog"];
    assert_eq!((&backlog["delivered"], &backlog["disputed"]), (&1.into(), &1.into()));
    assert_eq!(backlog["expected"], "0.95");
    let days = report(&paywall, ReportBy::Day).await;
    assert!(days.len() >= 2, "{days:?}");
    for row in &days {
        let days = shown["days"].as_array().unwrap();
        assert_same(days.iter().find(|day| day["key"] == row.key.as_str()).unwrap(), row);
    }
    for (by, name) in [(ReportBy::Route, "routes"), (ReportBy::Customer, "customers")] {
        let rows = report(&paywall, by).await;
        assert_eq!(rows.len(), shown[name].as_array().unwrap().len());
        for row in rows {
            let shown = shown[name].as_array().unwrap();
            assert_same(shown.iter().find(|shown| shown["key"] == row.key.as_str()).unwrap(), &row);
        }
    }
    let route = &shown["routes"][0];
    assert_eq!((&route["key"], &route["failures"]), (&"POST /api/generate".into(), &1.into()));
    assert!(["p50", "p95", "p99"].iter().all(|name| route[name].is_string()), "{route}");

    // A range has its days and no others: what was refunded is three days ago by now.
    let day = read(&dashboard, "/data/overview?range=24h").await;
    assert_eq!((&day["totals"]["refunded"], &day["totals"]["settled"]), (&0.into(), &1.into()));
    assert_eq!(day["days"].as_array().unwrap().len(), 2);
    let week = read(&dashboard, "/data/overview").await;
    assert_eq!((&week["range"]["name"], &week["totals"]), (&"7d".into(), totals));

    let rows = read(&dashboard, "/data/payments?stage=disputed").await;
    assert_eq!(rows["payments"].as_array().unwrap().len(), 1);
    assert_eq!(rows["payments"][0]["transactionId"], disputed.to_string());
    let story = read(&dashboard, &format!("/data/payments/{settled}")).await;
    assert_eq!(
        (&story["payment"]["net"], &story["payment"]["fee"]),
        (&"0.95".into(), &"0.05".into())
    );
    assert_eq!(story["calls"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_come_in_pages_and_by_customer() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    for _ in 0..27 {
        serve(&stage, &paywall, CENTS_10).await;
    }
    let dashboard = paywall.dashboard();
    let first = read(&dashboard, "/data/payments").await;
    let ids = |page: &Value| -> Vec<String> {
        let rows = page["payments"].as_array().unwrap();
        rows.iter().map(|row| row["transactionId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((ids(&first).len(), &first["hasMore"]), (25, &true.into()));
    let second = read(&dashboard, &format!("/data/payments?after={}", ids(&first)[24])).await;
    assert_eq!((ids(&second).len(), &second["hasMore"]), (2, &false.into()));
    let all = paywall.payments(&PaymentQuery::default()).await.unwrap();
    let all: Vec<_> = all.iter().map(|row| row.transaction_id.to_string()).collect();
    assert_eq!([ids(&first), ids(&second)].concat(), all);
    let own = format!("/data/payments?requester={}", stage.requester.address());
    assert_eq!(ids(&read(&dashboard, &own).await), ids(&first));
    let nobody = format!("/data/payments?requester={}", Address::repeat_byte(9));
    assert!(ids(&read(&dashboard, &nobody).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_is_data_and_a_file() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let charge = paywall.charge(Charge::new(SCRIPT, Usdc(10)).calls(100_000)).unwrap();
    let id = stage.funded(DOLLAR).await;
    let request = stage.signed(id, Some("\"><script>"), SCRIPT.as_bytes()).await;
    let entry = paywall.enter(&charge, &request, None).await;
    assert_eq!(run(entry).finish(ok(SCRIPT)).await.status, 200);
    let dashboard = paywall.dashboard();
    for target in ["/data/overview?range=all", &format!("/data/payments/{id}")] {
        let answer = get(&dashboard, target).await;
        assert_eq!(header(&answer, "Content-Type"), "application/json");
        assert_eq!(header(&answer, "X-Content-Type-Options"), "nosniff");
    }
    assert_eq!(read(&dashboard, "/data/overview").await["routes"][0]["key"], SCRIPT);
    let story = read(&dashboard, &format!("/data/payments/{id}")).await;
    assert_eq!(story["calls"][0]["key"], "\"><script>");
    let evidence = get(&dashboard, &format!("/data/payments/{id}/evidence")).await;
    assert_eq!(evidence.status, 200);
    let name = format!("attachment; filename=\"evidence-{id}.json\"");
    assert_eq!(header(&evidence, "Content-Disposition"), name);
    assert_eq!(body(&evidence), paywall.evidence(id).await.unwrap().to_json().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_nobody_else_and_runs_nothing_that_is_written_into_it() {
    let stage = Stage::new().await;
    let dashboard = stage.paywall().await.dashboard();
    for (target, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/dashboard.css", "text/css; charset=utf-8"),
        ("/dashboard.js", "text/javascript; charset=utf-8"),
        ("/data/overview", "application/json"),
        ("/data/payments", "application/json"),
        ("/nowhere", "application/json"),
    ] {
        let answer = get(&dashboard, target).await;
        assert_eq!(header(&answer, "Content-Type"), kind, "{target}");
        let policy = header(&answer, "Content-Security-Policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|part| part == rule), "{rule} is not in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(header(&answer, "Cache-Control"), "no-store");
        assert_eq!(header(&answer, "Referrer-Policy"), "no-referrer");
        assert_eq!(header(&answer, "X-Content-Type-Options"), "nosniff");
        let head = ask(&dashboard, "HEAD", target).await;
        assert_eq!((head.status, head.body), (answer.status, vec![]));
    }
    let page = body(&get(&dashboard, "/").await);
    // Everything that the page names is there, relative to its own address.
    let named = |attribute: &str| -> Vec<String> {
        let start = format!("{attribute}=\"");
        let parts = page.split(&start).skip(1);
        parts.map(|part| part.split('"').next().unwrap().to_owned()).collect()
    };
    let parts = [named(" src"), named(" href")].concat();
    assert!(parts.contains(&"dashboard.js".to_owned()), "{parts:?}");
    for part in parts {
        if !part.starts_with(['#']) && !part.starts_with("data:") {
            assert_eq!(get(&dashboard, &format!("/{part}")).await.status, 200, "{part}");
        }
    }
    let script = body(&get(&dashboard, "/dashboard.js").await);
    for risky in
        ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("]
    {
        assert!(!script.contains(risky), "{risky}");
    }
    let style = body(&get(&dashboard, "/dashboard.css").await);
    assert!(!style.contains("url(") && !style.contains("@import"));
    assert!(!page.contains("<style") && !page.contains("<script>"));
    // A handler or a style in an attribute would need `unsafe-inline`.
    let inline =
        |word: &&str| word.contains('=') && (word.starts_with("on") || word.starts_with("style"));
    assert_eq!(page.split_whitespace().find(inline), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_nothing_but_reading_is_done() {
    let stage = Stage::new().await;
    let dashboard = stage.paywall().await.dashboard();
    let unknown = format!("/data/payments/{}", TransactionId::ZERO);
    for (target, status, words) in [
        ("/data/overview?range=8d", 400, "24h, 7d, 30d, 90d, all"),
        ("/data/payments?stage=paid", 400, "delivering"),
        ("/data/payments?requester=0x12", 400, "requester"),
        ("/data/payments?after=x", 400, "0x"),
        ("/data/payments/x", 404, "payment"),
        (&unknown, 404, "payment"),
        (&format!("{unknown}/evidence"), 404, "Tx missing"),
        (&format!("{unknown}/refund"), 404, "payment"),
        ("/data/", 404, "figures"),
        ("/../page.html", 404, "page"),
    ] {
        let answer = get(&dashboard, target).await;
        assert_eq!(answer.status, status, "{target}");
        let error = json(&answer)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{target}: {error}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", ""] {
        let answer = ask(&dashboard, method, "/").await;
        assert_eq!((answer.status, header(&answer, "Allow")), (405, "GET, HEAD".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_its_last_slash_leads_to_the_one_with_it() {
    let stage = Stage::new().await;
    let dashboard = stage.paywall().await.dashboard();
    for (mount, location) in [
        ("/admin/paywall", "./paywall/"),
        ("/a b", "./a%20b/"),
        ("/http:", "./http%3A/"),
        ("/ä", "./%C3%A4/"),
    ] {
        let request = DashboardRequest { method: "GET", mount, path: "", query: "" };
        let answer = dashboard.answer(request).await;
        assert_eq!((answer.status, header(&answer, "Location")), (308, location.to_owned()));
    }
    let request = DashboardRequest { method: "GET", mount: "", path: "", query: "" };
    assert_eq!(dashboard.answer(request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gas_price_that_was_never_asked_makes_no_figure() {
    let stage = Stage::new().await;
    let paywall = stage.paywall().await;
    let id = serve(&stage, &paywall, CENTS_10).await;
    becomes(&paywall, id, "delivered").await;
    let asked = async || read(&paywall.dashboard(), "/data/overview").await;
    while asked().await["backlog"]["notWorthGas"] != 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // As the command line opens it: its tasks end before they ran.
    let builder = stage.builder().settings(Settings::default());
    let untended = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(builder.open()).unwrap()
    });
    let untended = untended.join().unwrap();
    let shown = read(&untended.dashboard(), "/data/overview").await;
    assert_eq!(shown["backlog"]["notWorthGas"], Value::Null);
    assert_eq!(shown["backlog"]["delivered"], 1);
    let unpaid = stage.signed(stage.funded(CENTS_10).await, None, b"").await;
    // It serves all the same, and its own failures and times are in the figures.
    let entry = untended.enter(&charge(&untended, CENTS_10), &unpaid, None).await;
    assert_eq!(run(entry).finish(ok("done")).await.status, 200);
    assert_eq!(read(&untended.dashboard(), "/data/overview").await["totals"]["calls"], 2);
    assert_eq!(
        answer(untended.enter(&charge(&untended, CENTS_10), &unpaid, None).await).status,
        200
    );
}
