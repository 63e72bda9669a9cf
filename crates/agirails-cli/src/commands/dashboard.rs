//! The dashboard on this machine alone, for whoever has the link that is printed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use agirails::{
    Code, Error, Result,
    paywall::{self, Answer, DashboardRequest},
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use serde_json::json;
use tokio::{net::TcpListener, select};

use super::books::Books;
use crate::{failure::DONE, interrupt::asked_to_end, output::print, output::print_json};

/// Serve a provider's dashboard on this machine, until Ctrl-C.
///
/// It shows what was earned, what arrived, what waits and since when, and each payment's story with its
/// evidence. It listens on 127.0.0.1 only. The link that is printed opens it once, in one browser.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It reads the store beside the service that uses it, and delivers and settles nothing.\n\n\
    Example:\n  agirails dashboard --mode mainnet --state-directory /srv/app"
)]
pub struct Dashboard {
    /// Where it listens: any free port where it is left out
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    port: u16,
    #[command(flatten)]
    books: Books,
    /// Print the link as JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

impl Dashboard {
    pub async fn run(self) -> Result<u8> {
        let paywall = self.books.open().await?;
        let unusable = |error: std::io::Error| {
            let message = format!("127.0.0.1:{} cannot be listened on: {error}", self.port);
            Error::new(Code::InvalidSettings, message)
                .with_hint("name another port by --port, or leave it out")
                .with_source(error)
        };
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let (door, link) = Door::new(address)?;
        let server = Arc::new(Server { door, dashboard: paywall.dashboard() });
        let app = Router::new().fallback(answer).with_state(server);
        match self.json {
            true => print_json(&json!({ "url": link }))?,
            false => print(&format!("{link}\nIt opens once. Ctrl-C ends the dashboard.\n"))?,
        }
        let served = async { axum::serve(listener, app).await };
        select! {
            served = served => served.map_err(unusable)?,
            _ = asked_to_end() => {}
        }
        Ok(DONE)
    }
}

struct Server {
    door: Door,
    dashboard: paywall::Dashboard,
}

/// Who may come in: the first who has the token, and from then on the browser that got the cookie for it.
struct Door {
    /// What a browser writes into `Host`: a page of another name that was pointed at this machine does not.
    hosts: Vec<String>,
    /// The path that all stands under. Browsers send cookies to every port of a machine, and so to
    /// whoever else listens there; but only for the path that they were set for.
    path: String,
    token: Mutex<Option<String>>,
    session: String,
}

/// What a request is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It has another host's name.
    WrongHost,
    /// It has neither the token nor the cookie.
    Shut,
    /// The token was right, and is used up.
    Welcome,
    /// It asks the dashboard for this path.
    Ask(String),
}

const COOKIE: &str = "agirails_dashboard";
const HTTP_PORT: u16 = 80;

impl Door {
    /// With the link that opens it.
    fn new(address: SocketAddr) -> Result<(Self, String)> {
        let [path, token, session] = [secret::<8>()?, secret::<32>()?, secret::<32>()?];
        let mut hosts = vec![address.to_string(), format!("localhost:{}", address.port())];
        if address.port() == HTTP_PORT {
            // Which browsers leave out.
            hosts.extend([address.ip().to_string(), "localhost".to_owned()]);
        }
        let link = format!("http://{address}/{path}/?token={token}");
        Ok((Self { hosts, path, token: Mutex::new(Some(token)), session }, link))
    }

    fn look(&self, method: &str, path: &str, query: &str, headers: &HeaderMap) -> Told {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))) {
            return Told::WrongHost;
        }
        let below = path.strip_prefix('/').and_then(|path| path.strip_prefix(&*self.path));
        let Some(below) = below.filter(|below| below.starts_with('/')) else { return Told::Shut };
        if let Some(token) =
            query.strip_prefix("token=").filter(|_| method == "GET" && below == "/")
        {
            let mut kept = self.token.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.take_if(|kept| is_same(kept, token)).is_some() {
                return Told::Welcome;
            }
        }
        let cookies =
            headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        match pairs.any(|(name, value)| name == COOKIE && is_same(&self.session, value)) {
            true => Told::Ask(below.to_owned()),
            false => Told::Shut,
        }
    }
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (method, uri) = (request.method().as_str(), request.uri());
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let door = &server.door;
    let answer = match door.look(method, path, query, request.headers()) {
        Told::WrongHost => page(421, "This is the dashboard of another address."),
        Told::Shut => page(
            403,
            "This link was opened before, or is not whole. Run <code>agirails dashboard</code> again for \
             a new one.",
        ),
        Told::Welcome => {
            let cookie = format!(
                "{COOKIE}={}; Path=/{}/; HttpOnly; SameSite=Strict",
                door.session, door.path
            );
            // A page that goes on by itself, and no redirect: a strict cookie goes along where the way
            // began at our own page, wherever the link was clicked.
            page(200, "<meta http-equiv=\"refresh\" content=\"0;url=./\"><a href=\"./\">Open the dashboard</a>")
                .with("Set-Cookie", cookie)
        }
        Told::Ask(below) => {
            let request = DashboardRequest { method, mount: "", path: &below, query };
            server.dashboard.answer(request).await
        }
    };
    sent(answer)
}

fn page(status: u16, words: &str) -> Answer {
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Paywall</title><p>{words}"
    );
    Answer::new(status, body)
        .with("Content-Type", "text/html; charset=utf-8")
        .with("Cache-Control", "no-store")
        .with(
            "Content-Security-Policy",
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        )
        .with("Referrer-Policy", "no-referrer")
        .with("X-Content-Type-Options", "nosniff")
}

fn sent(answer: Answer) -> Response {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    // Our own headers are valid ones.
    response.body(Body::from(answer.body)).unwrap_or_else(|_| {
        let mut failed = Response::new(Body::empty());
        *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        failed
    })
}

/// In the same time wherever they differ.
fn is_same(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differences == 0
}

/// Random bytes in hex, which nobody guesses.
fn secret<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        let message = format!("the system has no random numbers: {error}");
        Error::new(Code::Internal, message)
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::HeaderValue;

    use super::*;

    fn headers(host: &str, cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        headers
    }

    #[test]
    fn the_link_opens_once_and_its_cookie_stays() {
        let (door, link) = Door::new("127.0.0.1:7000".parse().unwrap()).unwrap();
        let (_, rest) = link.split_once("127.0.0.1:7000").unwrap();
        let (root, query) = rest.split_once('?').unwrap();
        let host = "127.0.0.1:7000";
        let none = headers(host, "");
        assert_eq!(door.look("GET", root, "", &none), Told::Shut);
        // A guess does not use the token up, nor does a preview that asks for the head alone.
        let guess = format!("token={}", "0".repeat(64));
        assert_eq!(door.look("GET", root, &guess, &none), Told::Shut);
        assert_eq!(door.look("GET", root, &query[..query.len() - 1], &none), Told::Shut);
        assert_eq!(door.look("HEAD", root, query, &none), Told::Shut);
        assert_eq!(door.look("GET", "/", query, &none), Told::Shut);
        assert_eq!(
            door.look("GET", root, query, &headers("evil.example:7000", "")),
            Told::WrongHost
        );
        assert_eq!(door.look("GET", root, query, &none), Told::Welcome);
        assert_eq!(door.look("GET", root, query, &none), Told::Shut);

        let cookie = format!("other=1; {COOKIE}={}", door.session);
        let asked = door.look("GET", &format!("{root}data/overview"), "", &headers(host, &cookie));
        assert_eq!(asked, Told::Ask("/data/overview".to_owned()));
        for host in ["localhost:7000", "LOCALHOST:7000"] {
            assert_eq!(
                door.look("GET", root, "", &headers(host, &cookie)),
                Told::Ask("/".to_owned())
            );
        }
        for host in ["localhost", "127.0.0.1:7001", "127.0.0.1.evil.example:7000", ""] {
            assert_eq!(
                door.look("GET", root, "", &headers(host, &cookie)),
                Told::WrongHost,
                "{host}"
            );
        }
        assert_eq!(door.look("GET", root, "", &HeaderMap::new()), Told::WrongHost);
        for cookie in [
            format!("{COOKIE}="),
            format!("{COOKIE}={}0", door.session),
            format!("x={}", door.session),
        ] {
            assert_eq!(door.look("GET", root, "", &headers(host, &cookie)), Told::Shut, "{cookie}");
        }
        // The same browser with a path that is none of ours, such as another server's page would name.
        for path in [
            "/",
            "/data/overview",
            &root[..root.len() - 1],
            &format!("{}x/", &root[..root.len() - 1]),
        ] {
            assert_eq!(door.look("GET", path, "", &headers(host, &cookie)), Told::Shut, "{path}");
        }
    }

    #[test]
    fn a_port_that_browsers_leave_out_may_be_left_out() {
        let (door, _) = Door::new("127.0.0.1:80".parse().unwrap()).unwrap();
        for (host, told) in [
            ("127.0.0.1", Told::Shut),
            ("localhost", Told::Shut),
            ("127.0.0.1:80", Told::Shut),
            ("evil.example", Told::WrongHost),
        ] {
            assert_eq!(door.look("GET", "/", "", &headers(host, "")), told, "{host}");
        }
    }

    #[test]
    fn secrets_differ_and_are_compared_whole() {
        assert_ne!(secret::<32>().unwrap(), secret::<32>().unwrap());
        assert_eq!(secret::<8>().unwrap().len(), 16);
        assert!(
            is_same("ab", "ab")
                && !is_same("ab", "a")
                && !is_same("ab", "abc")
                && !is_same("ab", "aB")
        );
    }
}
