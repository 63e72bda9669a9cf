//! Answers that come compressed, although they are asked for as they are.

use std::io::Read;

use alloy_primitives::{B256, Bytes, keccak256};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use super::http::{HttpFailure, HttpOutcome, HttpResponse};

const CONTENT_ENCODING: &str = "Content-Encoding";
/// More codings than anybody puts on top of each other.
const MOST_CODINGS: usize = 3;

/// The body is longer than it may be once it is unpacked.
#[derive(Debug, PartialEq, Eq)]
struct TooLarge;

/// What became of a request, its body as the service wrote it, and the hash of the body as it came
/// where that is another one. An interim answer (1xx) is no answer.
pub(super) fn decoded(outcome: HttpOutcome, limit: usize) -> (HttpOutcome, Option<B256>) {
    let HttpOutcome::Answered(mut response) = outcome else { return (outcome, None) };
    if response.status < 200 {
        let words = format!("an interim answer, HTTP {}, was handed in", response.status);
        return (HttpOutcome::Failed(HttpFailure::Lost(words)), None);
    }
    match decode(&mut response, limit) {
        Ok(packed) => (HttpOutcome::Answered(response), packed),
        Err(TooLarge) => (HttpOutcome::Failed(HttpFailure::TooLarge), None),
    }
}

/// Undoes gzip and deflate, up to `limit` bytes, and returns the hash of the body as it came.
/// `None` where nothing was undone: an answer in another coding, or one that is not what it says,
/// stays as it is.
fn decode(response: &mut HttpResponse, limit: usize) -> Result<Option<B256>, TooLarge> {
    let codings = codings(response);
    if codings.is_empty() || codings.len() > MOST_CODINGS || response.body.is_empty() {
        return Ok(None);
    }
    let mut body = response.body.clone();
    for coding in codings.iter().rev() {
        match undo(coding, &body, limit)? {
            Some(decoded) => body = decoded,
            None => return Ok(None),
        }
    }
    let packed = keccak256(&response.body);
    response.body = body;
    response.headers.retain(|(name, _)| {
        !name.eq_ignore_ascii_case(CONTENT_ENCODING) && !name.eq_ignore_ascii_case("Content-Length")
    });
    Ok(Some(packed))
}

/// The codings of a body, in the order in which they were applied.
pub(super) fn codings(response: &HttpResponse) -> Vec<String> {
    response
        .all(CONTENT_ENCODING)
        .flat_map(|value| value.split(','))
        .map(|coding| coding.trim().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != "identity")
        .collect()
}

fn undo(coding: &str, body: &[u8], limit: usize) -> Result<Option<Bytes>, TooLarge> {
    match coding {
        "gzip" | "x-gzip" => read(MultiGzDecoder::new(body), limit),
        // What RFC 9110 calls deflate is zlib's format; some servers send the bare one.
        "deflate" => match read(ZlibDecoder::new(body), limit)? {
            None => read(DeflateDecoder::new(body), limit),
            decoded => Ok(decoded),
        },
        _ => Ok(None),
    }
}

fn read(decoder: impl Read, limit: usize) -> Result<Option<Bytes>, TooLarge> {
    let mut body = vec![];
    match decoder.take(limit as u64 + 1).read_to_end(&mut body) {
        Ok(length) if length > limit => Err(TooLarge),
        Ok(_) => Ok(Some(body.into())),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn response(coding: &str, body: Vec<u8>) -> HttpResponse {
        let headers = vec![
            ("content-encoding".to_owned(), coding.to_owned()),
            ("content-length".to_owned(), body.len().to_string()),
            ("X-Other".to_owned(), "1".to_owned()),
        ];
        HttpResponse { status: 200, headers, body: body.into() }
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(vec![], Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked_and_no_longer_said_to_be_packed() {
        let mut zlib = ZlibEncoder::new(vec![], Compression::default());
        zlib.write_all(b"answer").unwrap();
        let mut bare = DeflateEncoder::new(vec![], Compression::default());
        bare.write_all(b"answer").unwrap();
        let cases = [
            ("gzip", gzip(b"answer")),
            (" X-GZIP , identity", gzip(b"answer")),
            ("gzip, gzip", gzip(&gzip(b"answer"))),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", bare.finish().unwrap()),
        ];
        for (coding, packed) in cases {
            let mut response = response(coding, packed.clone());
            assert_eq!(decode(&mut response, 100), Ok(Some(keccak256(&packed))), "{coding}");
            assert_eq!(&response.body[..], b"answer");
            assert_eq!(response.headers, [("X-Other".to_owned(), "1".to_owned())]);
        }
    }

    #[test]
    fn the_limit_counts_unpacked_bytes() {
        let bomb = gzip(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000);
        assert_eq!(decode(&mut response("gzip", bomb), 100_000), Err(TooLarge));
        assert_eq!(decode(&mut response("gzip", gzip(b"answer")), 5), Err(TooLarge));
    }

    #[test]
    fn what_cannot_be_unpacked_stays_as_it_is() {
        for (coding, body) in [
            ("br", b"answer".to_vec()),
            ("gzip", b"answer".to_vec()),
            ("gzip", gzip(b"answer")[..20].to_vec()),
            ("gzip", vec![]),
            ("identity", b"answer".to_vec()),
            ("gzip, gzip, gzip, gzip", gzip(&gzip(&gzip(&gzip(b"answer"))))),
        ] {
            let before = response(coding, body);
            let mut after = before.clone();
            assert_eq!(decode(&mut after, 1_000), Ok(None), "{coding}");
            assert_eq!(after, before);
        }
    }
}
