//! One text for one JSON value, so that both parties hash the same bytes.

use alloy_primitives::{B256, keccak256};
use serde_json::{Value, json};

use crate::error::{Details, JsonError};

/// Writes a value as canonical JSON: keys sorted by UTF-16 code unit, no white space, numbers as
/// ECMAScript prints them.
///
/// Every number is the double that ECMAScript would read: `1.0` becomes `1`, `-0.0` becomes `0`,
/// `1e21` becomes `1e+21`, and 2^53 + 1 becomes `9007199254740992`. Pass integers that need more
/// than 53 bits as strings. A [`Value`] holds no NaN and no infinity; a language whose numbers
/// do writes them as `null`, as `JSON.stringify` does.
///
/// # Errors
/// [`JsonError::Unrepresentable`] for a number beyond a double's range, which a value holds only where
/// serde_json is built with `arbitrary_precision`.
///
/// ```
/// use agirails_protocol::canonical_json::canonical_json;
/// use serde_json::json;
///
/// let text = canonical_json(&json!({"b": [1.0, 1e21], "a": "€"}))?;
/// assert_eq!(text, r#"{"a":"€","b":[1,1e+21]}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: AIP-4, RFC 8785.
pub fn canonical_json(value: &Value) -> Result<String, JsonError> {
    serde_json_canonicalizer::to_string(value).map_err(|error| {
        JsonError::Unrepresentable(
            Details::new(format!("the value has no canonical JSON: {error}"))
                .hint("pass numbers that fit a double; write greater ones as strings")
                .source(error),
        )
    })
}

/// The `resultHash` of a delivery: keccak256 of [`canonical_json`].
///
/// # Errors
/// As [`canonical_json`].
///
/// ```
/// use agirails_protocol::canonical_json::result_hash;
/// use serde_json::json;
///
/// assert_eq!(result_hash(&json!({"a": 1, "b": 2}))?, result_hash(&json!({"b": 2.0, "a": 1}))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: AIP-4.
pub fn result_hash(value: &Value) -> Result<B256, JsonError> {
    canonical_json(value).map(keccak256)
}

/// The `agreementHash` of a creation: keccak256 of the [`canonical_json`] of what the parties agreed
/// on. Kernels from AIP-14c on keep it; evaluators of a dispute ask for the three parts.
///
/// # Errors
/// As [`canonical_json`].
///
/// ```
/// use agirails_protocol::canonical_json::agreement_hash;
/// use serde_json::json;
///
/// let hash = agreement_hash(
///     &json!({"service": "summarize", "url": "https://example.com/doc"}),
///     &json!({"lang": "en", "maxTokens": 500}),
///     &json!({"deadlineSeconds": 3600, "minQualityBps": 9000}),
/// )?;
/// let expected = "0xb2ef8cf734173588408b48793a43cc53e86f1f3d5702778a29f4460f5c8e9db4";
/// assert_eq!(hash.to_string(), expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: AIP-14c.
pub fn agreement_hash(request: &Value, input: &Value, sla: &Value) -> Result<B256, JsonError> {
    result_hash(&json!({
        "schemaVersion": "1.0.0", "request": request, "input": input, "sla": sla,
    }))
}
