//! Which headers a handler sees, which of its own leave, and what is added to them.

use super::answer::Headers;
use crate::protocol::{
    paid_request::{IDEMPOTENCY_HEADER, SIGNATURE_HEADER, TRANSACTION_HEADER},
    receipt::RECEIPT_HEADER,
};

/// The request header in which x402 clients send a payment.
pub(super) const PAYMENT_SIGNATURE: &str = "PAYMENT-SIGNATURE";
/// The response header in which x402 clients read what became of it.
pub(super) const PAYMENT_RESPONSE: &str = "PAYMENT-RESPONSE";
/// The response header in which x402 clients read what to pay.
pub(super) const PAYMENT_REQUIRED: &str = "PAYMENT-REQUIRED";
/// Marks an answer that was kept and is given again.
pub(super) const REPLAY: &str = "X-AGIRAILS-REPLAY";

/// Request headers that the handler does not see: they ask for another form of the same answer
/// (nothing, a part of it, compressed), and the answer that is kept must be right for every repeat.
pub const HIDDEN_HEADERS: [&str; 8] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "range",
    "accept-encoding",
    "te",
];

/// Request headers that can change an answer: two requests are the same only where these are equal.
const VARIANTS: [&str; 6] =
    ["accept", "accept-language", "content-type", "content-encoding", "authorization", "cookie"];

/// Headers of one connection or one moment, which are no part of an answer.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "date",
];

/// Headers that make a cache keep what `Cache-Control` says is private.
const CACHE_OVERRIDES: [&str; 5] =
    ["surrogate-control", "cdn-cache-control", "x-accel-expires", "surrogate-key", "edge-control"];

/// What a private cache has to tell apart.
const VARY: [&str; 4] =
    [TRANSACTION_HEADER, SIGNATURE_HEADER, IDEMPOTENCY_HEADER, PAYMENT_SIGNATURE];

/// What a script of another origin has to be able to read.
const EXPOSED: [&str; 6] =
    [RECEIPT_HEADER, TRANSACTION_HEADER, REPLAY, PAYMENT_REQUIRED, PAYMENT_RESPONSE, "Retry-After"];

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether only the paywall may write it.
fn is_ours(name: &str) -> bool {
    starts_with(name, "x-agirails-")
        || starts_with(name, "payment-")
        || starts_with(name, "x-payment-")
}

fn is_cors(name: &str) -> bool {
    starts_with(name, "access-control-")
}

/// Whether a request header can change the answer. `more` are the application's own such names.
pub(super) fn is_variant(name: &str, more: &[String]) -> bool {
    is_one_of(name, &VARIANTS) || more.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// A handler's headers as they may leave.
pub(super) fn of_handler(mut headers: Headers) -> Headers {
    headers.retain(|(name, _)| !is_ours(name));
    headers
}

/// A handler's headers as they are kept: without those of one connection, and without the answer
/// to one origin. Whoever repeats the request from another origin gets its own.
pub(super) fn kept(headers: &Headers) -> Headers {
    let is_kept = |(name, _): &&(String, Vec<u8>)| !is_one_of(name, &HOP_BY_HOP) && !is_cors(name);
    headers.iter().filter(is_kept).cloned().collect()
}

/// A handler's headers without those of one connection.
pub(super) fn end_to_end(mut headers: Headers) -> Headers {
    headers.retain(|(name, _)| !is_one_of(name, &HOP_BY_HOP));
    headers
}

/// Makes the headers of a paid answer: no cache that several people share may keep it.
pub(super) fn make_private(headers: &mut Headers) {
    headers.retain(|(name, _)| {
        !is_one_of(name, &CACHE_OVERRIDES)
            && !name.to_ascii_lowercase().ends_with("-cdn-cache-control")
    });
    let given = take(headers, "cache-control");
    headers.push(("Cache-Control".to_owned(), private(&given).into_bytes()));
    vary(headers, &VARY);
    expose(headers);
}

/// `Cache-Control` with `private` in it, or with the handler's own `no-store`.
fn private(given: &[String]) -> String {
    let directives = given.iter().flat_map(|value| split(value));
    let name = |directive: &str| {
        directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase()
    };
    let mut kept: Vec<&str> = directives
        .filter(|directive| {
            !matches!(name(directive).as_str(), "" | "public" | "s-maxage" | "private")
        })
        .collect();
    if !kept.iter().any(|directive| name(directive) == "no-store") {
        kept.insert(0, "private");
    }
    kept.join(", ")
}

/// A list's elements. A comma between quotes is part of its element.
fn split(value: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    value
        .split(move |char| {
            is_quoted ^= char == '"';
            char == ',' && !is_quoted
        })
        .map(str::trim)
}

/// Adds names to `Vary`.
pub(super) fn vary(headers: &mut Headers, names: &[&str]) {
    merge(headers, "Vary", names);
}

/// Has scripts of an origin that may read the answer read the paywall's headers too.
fn expose(headers: &mut Headers) {
    let is_for_scripts =
        headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("access-control-allow-origin"));
    if is_for_scripts {
        merge(headers, "Access-Control-Expose-Headers", &EXPOSED);
    }
}

/// Adds names to a header that is a list of names.
fn merge(headers: &mut Headers, header: &str, names: &[&str]) {
    let given = take(headers, header);
    let mut all: Vec<&str> =
        given.iter().flat_map(|value| split(value)).filter(|name| !name.is_empty()).collect();
    // Vary: * says more than any name.
    if !(header == "Vary" && all.contains(&"*")) {
        for name in names {
            if !all.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                all.push(name);
            }
        }
    }
    headers.push((header.to_owned(), all.join(", ").into_bytes()));
}

/// Takes all headers of this name out.
fn take(headers: &mut Headers, wanted: &str) -> Vec<String> {
    let mut taken = vec![];
    headers.retain(|(name, value)| {
        let is_it = name.eq_ignore_ascii_case(wanted);
        if is_it {
            taken.push(String::from_utf8_lossy(value).into_owned());
        }
        !is_it
    });
    taken
}

/// Adds what the application's own middleware put around an answer: whom it lets read it, and what
/// caches have to tell apart. The answer's own CORS headers give way.
pub(super) fn decorate(headers: &mut Headers, outer: &Headers) {
    let cors: Vec<_> = outer.iter().filter(|(name, _)| is_cors(name)).cloned().collect();
    if !cors.is_empty() {
        headers.retain(|(name, _)| !is_cors(name));
        headers.extend(cors);
    }
    let mut outer = outer.clone();
    let outer_vary = take(&mut outer, "vary");
    let names: Vec<&str> =
        outer_vary.iter().flat_map(|value| split(value)).filter(|name| !name.is_empty()).collect();
    if !names.is_empty() {
        merge(headers, "Vary", &names);
    }
    expose(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn cache_control(given: &[&str]) -> String {
        private(&given.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_paid_answer_is_private_and_never_less_than_its_handler_said() {
        for (given, made) in [
            (&[][..], "private"),
            (&["public, max-age=60"], "private, max-age=60"),
            (&["no-store"], "no-store"),
            (&["No-Store, public"], "No-Store"),
            (&["max-age=60", "s-maxage=600"], "private, max-age=60"),
            (&["private=\"set-cookie, x\", no-cache"], "private, no-cache"),
            (&["no-cache=\"a, public\""], "private, no-cache=\"a, public\""),
            (&[" , ,"], "private"),
        ] {
            assert_eq!(cache_control(given), made, "{given:?}");
        }
    }

    #[test]
    fn what_tells_a_cache_otherwise_does_not_leave() {
        let mut made = headers(&[
            ("Surrogate-Control", "max-age=60"),
            ("X-Accel-Expires", "60"),
            ("Cloudflare-CDN-Cache-Control", "public"),
            ("Vary", "Accept, x-agirails-tx-id"),
        ]);
        make_private(&mut made);
        let expected = "Accept, x-agirails-tx-id, X-AGIRAILS-SIGNATURE, Idempotency-Key, \
                        PAYMENT-SIGNATURE";
        assert_eq!(made, headers(&[("Cache-Control", "private"), ("Vary", expected)]));
    }

    #[test]
    fn an_origin_gets_its_own_headers_with_every_repeat() {
        let first = headers(&[
            ("Content-Type", "text/plain"),
            ("Access-Control-Allow-Origin", "https://one.example"),
        ]);
        let mut repeat = kept(&first);
        assert_eq!(repeat, first[..1]);
        let outer = headers(&[
            ("access-control-allow-origin", "https://two.example"),
            ("Vary", "Origin"),
            ("X-Other", "stays out"),
        ]);
        decorate(&mut repeat, &outer);
        assert_eq!(repeat[1], outer[0]);
        assert!(repeat.contains(&("Vary".to_owned(), b"Origin".to_vec())));
        let exposed = &repeat.last().map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        assert!(exposed.as_ref().is_some_and(|names| names.contains("X-AGIRAILS-RECEIPT")));
        assert_eq!(repeat.len(), 4);
    }

    #[test]
    fn only_the_paywall_writes_the_paywalls_headers() {
        let forged = headers(&[
            ("x-agirails-receipt", "forged"),
            ("Payment-Response", "forged"),
            ("X-PAYMENT-RESPONSE", "forged"),
            ("X-Payments-Left", "mine"),
        ]);
        assert_eq!(of_handler(forged.clone()), forged[3..]);
    }
}
