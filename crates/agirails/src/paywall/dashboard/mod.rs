//! The dashboard: a page for the person who asks "am I paid?". It reads the books and moves nothing.
//!
//! Every adapter carries the same bytes: a request comes in as its parts, and a whole answer goes
//! out. The page asks nobody but the place it came from.

mod figures;

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use url::form_urlencoded;

use self::figures::Range;
use super::{Paywall, answer::Answer, books::PaymentQuery, event::Level, request::parse_id};
use crate::{
    error::{Code, Error},
    protocol::{
        Refusal, TransactionId,
        id::{parse_address, parse_transaction_id},
    },
};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("dashboard.css");
const SCRIPT: &str = include_str!("dashboard.js");
/// What the page may do: nothing but ask the place it came from.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What is escaped in a segment of a path: all that is not unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Payments on a page.
const PAYMENTS: u32 = 25;

/// A provider's dashboard: [`Paywall::dashboard`]. Cheap to clone.
///
/// It is a page, its style and its script, and the figures that the script asks for. Whoever can reach
/// it reads all of the books, and what callers sent: mount it behind a login.
#[derive(Clone)]
pub struct Dashboard {
    paywall: Paywall,
}

/// A request to the dashboard, as an adapter has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DashboardRequest<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path that the dashboard is mounted under, without a slash at its end; empty where it is not
    /// known.
    pub mount: &'a str,
    /// The path below it, which begins with a slash or is empty.
    pub path: &'a str,
    /// What stands behind the question mark.
    pub query: &'a str,
}

impl Paywall {
    /// The dashboard of this paywall's books: what was earned, what arrived, what waits and since when,
    /// and each payment's story with its evidence. It reads, and moves nothing.
    ///
    /// With the feature `tower` it is a service: nest it under a path that ends with a slash, behind the
    /// application's own login.
    ///
    /// ```
    /// use agirails::{ACTPClient, Address, paywall::{DashboardRequest, Paywall}};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let provider = Address::repeat_byte(0xaa);
    /// let client = ACTPClient::builder().address(provider).in_memory().connect().await?;
    /// let paywall = Paywall::builder(client).open().await?;
    /// let request = DashboardRequest { method: "GET", path: "/", ..DashboardRequest::default() };
    /// let page = paywall.dashboard().answer(request).await;
    /// assert_eq!(page.status, 200);
    /// # Ok::<(), agirails::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn dashboard(&self) -> Dashboard {
        Dashboard { paywall: self.clone() }
    }
}

impl Dashboard {
    /// Answers a request. A path without its last slash is sent on to the one with it, since the page
    /// names all else relative to its own address; what is unknown is 404.
    pub async fn answer(&self, request: DashboardRequest<'_>) -> Answer {
        let DashboardRequest { method, mount, path, query } = request;
        let answer = match method {
            "GET" | "HEAD" => self.get(mount, path, query).await,
            _ => told(405, "the dashboard is only read", None).with("Allow", "GET, HEAD"),
        };
        let answer = answer
            .with("Cache-Control", "no-store")
            .with("Content-Security-Policy", POLICY)
            .with("Cross-Origin-Resource-Policy", "same-origin")
            .with("Referrer-Policy", "no-referrer")
            .with("X-Content-Type-Options", "nosniff")
            .with("X-Frame-Options", "DENY");
        match method {
            "HEAD" => Answer { body: vec![], ..answer },
            _ => answer,
        }
    }

    async fn get(&self, mount: &str, path: &str, query: &str) -> Answer {
        if path.is_empty()
            && let Some(last) = mount.rsplit('/').next().filter(|last| !last.is_empty())
        {
            // Relative, for a proxy may have taken a prefix off; the dot keeps it from being a scheme.
            let last = utf8_percent_encode(last, SEGMENT);
            return Answer::new(308, "").with("Location", format!("./{last}/"));
        }
        let path = path.trim_start_matches('/');
        match path {
            "" => Answer::text(200, "text/html; charset=utf-8", PAGE),
            "dashboard.css" => Answer::text(200, "text/css; charset=utf-8", STYLE),
            "dashboard.js" => Answer::text(200, "text/javascript; charset=utf-8", SCRIPT),
            _ => match path.strip_prefix("data/") {
                Some(path) => {
                    self.data(path, query).await.unwrap_or_else(|error| self.failed(&error))
                }
                None => told(404, "there is no such page", None),
            },
        }
    }

    async fn data(&self, path: &str, query: &str) -> Result<Answer, Error> {
        self.paywall.tend();
        let value = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            let found = pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
            found.filter(|value| !value.is_empty())
        };
        let body = match path {
            "overview" => self.overview(Range::named(value("range").as_deref())?).await?,
            "payments" => {
                let address = |text: String| parse_address("requester", &text);
                let id = |text: String| parse_transaction_id(&text);
                let query = PaymentQuery {
                    stage: value("stage"),
                    requester: value("requester").map(address).transpose()?,
                    after: value("after").map(id).transpose()?,
                    limit: PAYMENTS + 1,
                };
                self.payments(&query).await?
            }
            _ => match path
                .strip_prefix("payments/")
                .map(|path| path.split_once('/').unwrap_or((path, "")))
            {
                Some((id, rest)) => match (parse_id(id), rest) {
                    (Some(id), "") => match self.story(id).await? {
                        Some(story) => story,
                        None => return Ok(told(404, "this store knows no such payment", None)),
                    },
                    (Some(id), "evidence") => return self.evidence(id).await,
                    _ => return Ok(told(404, "there is no such payment", None)),
                },
                None => return Ok(told(404, "there are no such figures", None)),
            },
        };
        Ok(Answer::json(200, &body))
    }

    /// As a file: what callers sent is in it, which no browser should open as a page.
    async fn evidence(&self, id: TransactionId) -> Result<Answer, Error> {
        let text = self.paywall.evidence(id).await?.to_json()?;
        let disposition = format!("attachment; filename=\"evidence-{id}.json\"");
        Ok(Answer::text(200, "application/json", text).with("Content-Disposition", disposition))
    }

    fn failed(&self, error: &Error) -> Answer {
        let status = match error.code() {
            Code::InvalidTransactionId
            | Code::InvalidAddress
            | Code::InvalidNumber
            | Code::InvalidSettings => 400,
            Code::NothingServed => 404,
            _ if matches!(error.refusal(), Some(Refusal::TxMissing | Refusal::OnlyProvider)) => 404,
            _ => {
                let listener = &self.paywall.inner.listener;
                listener.tell(Level::Error, format!("the dashboard: {error}"));
                503
            }
        };
        told(status, &error.to_string(), error.hint())
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").field("paywall", &self.paywall).finish()
    }
}

fn told(status: u16, error: &str, hint: Option<&str>) -> Answer {
    let body: Value = json!({ "error": error, "hint": hint });
    Answer::json(status, &body)
}
