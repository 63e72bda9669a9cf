//! The canonical form of a request's target: what is signed, and what makes two requests the same.

/// The canonical form of a request target, that is of a path with its query.
///
/// The payer signs this form and the paywall computes it from what its server hands over. Servers
/// spell one target in many ways: some give the request line, some only the decoded path (all of
/// WSGI), some merge slashes, and proxies rewrite escapes. All of these spellings have one
/// canonical form, and the function can be computed from a decoded path that was percent-encoded
/// again.
///
/// 1. A scheme with its authority (`https://host:port`) and a fragment are dropped.
/// 2. The path, up to the first `?`: every escape is decoded to its byte; a `%` that begins no
///    escape stands for itself. The result is split at `/`. Empty segments and `.` are dropped, and
///    `..` drops the segment before it. A final `/` is kept (`/a/` is not `/a`), also where the last
///    segment was `.` or `..`. Then everything but `A-Z a-z 0-9 - . _ ~ ! $ & ' ( ) * + , ; = : @` is
///    percent-encoded, in upper case. Without any segment the path is `/`.
/// 3. The query: escapes of `A-Z a-z 0-9 - . _ ~` are decoded, other escapes are written in upper
///    case, and everything that may not stand in a query is percent-encoded, a `%` that begins no
///    escape too. `+` and `%20` remain different. An empty query is dropped together with its `?`.
///
/// Text is taken as UTF-8. Case is kept, and Unicode is not normalized.
///
/// `/a%2Fb` and `/a/b` have one canonical form, because a server that gives the decoded path cannot
/// tell them apart. This opens nothing: what a call costs is the price of the route that runs,
/// whatever the target looks like, and a transaction or idempotency key that was used for one of the
/// two gets the stored answer for the other instead of a second run.
///
/// Source: RFC 3986, sections 5.2.4 and 6.2.2; RFC 9112, section 3.2.
///
/// ```
/// use agirails_protocol::target::canonical_target;
///
/// assert_eq!(canonical_target("/caf%c3%a9/%7eme/./x/../?q=a%2fb"), "/caf%C3%A9/~me/?q=a%2Fb");
/// assert_eq!(canonical_target("/files/a%2Fb"), canonical_target("/files//a/b?"));
/// assert_eq!(canonical_target("https://api.example.com"), "/");
/// ```
pub fn canonical_target(target: impl AsRef<[u8]>) -> String {
    let target = without_authority(target.as_ref());
    let target = split(target, b'#').0;
    let (path, query) = split(target, b'?');
    let mut text = String::with_capacity(target.len() + 8);
    write_path(&decode(path), &mut text);
    if !query.is_empty() {
        text.push('?');
        write_query(query, &mut text);
    }
    text
}

/// What comes before the first such byte, and what comes after it.
fn split(bytes: &[u8], at: u8) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == at) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// A target in absolute-form, as proxies are asked, without its scheme and authority.
fn without_authority(target: &[u8]) -> &[u8] {
    let is_in_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let scheme = target.iter().take_while(|byte| is_in_scheme(byte)).count();
    match target[scheme..].strip_prefix(b"://") {
        Some(rest) if target[0].is_ascii_alphabetic() => {
            let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
            &rest[end..]
        }
        _ => target,
    }
}

/// The byte that these three characters escape.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match *bytes {
        [b'%', high, low, ..] => Some((digit(high)? * 16 + digit(low)?) as u8),
        _ => None,
    }
}

fn decode(path: &[u8]) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::with_capacity(path.len()), path);
    while let [byte, after @ ..] = rest {
        let escape = escaped(rest);
        decoded.push(escape.unwrap_or(*byte));
        rest = if escape.is_some() { &rest[3..] } else { after };
    }
    decoded
}

fn write_path(decoded: &[u8], text: &mut String) {
    let mut segments: Vec<&[u8]> = vec![];
    let mut is_directory = true;
    for segment in decoded.split(|&byte| byte == b'/') {
        is_directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    for segment in &segments {
        text.push('/');
        for &byte in *segment {
            write(byte, is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte), text);
        }
    }
    if is_directory || segments.is_empty() {
        text.push('/');
    }
}

fn write_query(query: &[u8], text: &mut String) {
    let mut rest = query;
    while let [byte, after @ ..] = rest {
        if let Some(escaped) = escaped(rest) {
            write(escaped, is_unreserved(escaped), text);
            rest = &rest[3..];
        } else {
            write(*byte, is_unreserved(*byte) || b"!$&'()*+,;=:@/?".contains(byte), text);
            rest = after;
        }
    }
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn write(byte: u8, is_plain: bool, text: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if is_plain {
        text.push(char::from(byte));
    } else {
        let digit = |nibble: u8| char::from(HEX[usize::from(nibble)]);
        text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// What a server does that hands over the decoded path, and the adapter that encodes it again.
    fn through_a_decoding_server(target: &str) -> String {
        let target = target.split('#').next().unwrap();
        let (path, query) = split(target.as_bytes(), b'?');
        let encoded: String = decode(path)
            .iter()
            .map(|&byte| if byte == b'/' { "/".to_owned() } else { format!("%{byte:02x}") })
            .collect();
        format!("{encoded}?{}", std::str::from_utf8(query).unwrap())
    }

    #[test]
    fn the_vectors_that_python_reads_too() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/target.json");
        let vectors: Vec<Value> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(vectors.len() > 40, "{}", vectors.len());
        for vector in vectors {
            let text = |key: &str| vector[key].as_str().unwrap();
            assert_eq!(canonical_target(text("target")), text("canonical"), "{vector}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped_one_by_one() {
        assert_eq!(canonical_target(b"/\xff\x00?\xfe"), "/%FF%00?%FE");
    }

    proptest! {
        #[test]
        fn the_canonical_form_of_a_canonical_form_is_itself(
            target in "(https?://[a-z]{1,3})?[/a.%2fF5?#+é&=~ ]{0,40}",
        ) {
            let canonical = canonical_target(&target);
            prop_assert_eq!(canonical_target(&canonical), canonical);
        }

        #[test]
        fn a_server_that_decodes_the_path_comes_to_the_same_form(
            target in "/[/a.%2fF5?+é&=~ ;:@\u{0}-\u{7f}]{0,40}",
        ) {
            prop_assert_eq!(
                canonical_target(through_a_decoding_server(&target)),
                canonical_target(&target)
            );
        }

        #[test]
        fn a_canonical_form_is_a_request_target_of_rfc_3986(bytes: Vec<u8>) {
            let canonical = canonical_target(&bytes);
            prop_assert!(canonical.starts_with('/') && !canonical.contains("//") || canonical.contains('?'));
            prop_assert!(canonical.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
            prop_assert!(!canonical.ends_with('?') || canonical.matches('?').count() > 1);
        }
    }
}
