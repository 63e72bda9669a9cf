//! Why a node or a contract refused: from JSON-RPC errors to this crate's.
//!
//! Nodes put a revert's data into `error.data`, as text or inside an object, with or without words
//! around it; some give the contract's words in the message alone.

use std::fmt;

use alloy_json_rpc::ErrorPayload;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolError, sol};
use serde_json::Value;

use crate::{
    error::{Code, Error, shown_words},
    protocol::{Refusal, Usdc},
};

/// Of a custom error's data enough to look it up.
const SHOWN_BYTES: usize = 36;
/// Objects within objects: no node nests its data deeper.
const MAX_DEPTH: u8 = 4;

/// What Solidity itself and OpenZeppelin's tokens revert with (ERC-6093).
mod errors {
    use super::sol;

    sol! {
        error Error(string message);
        error Panic(uint256 code);
        error ERC20InsufficientBalance(address sender, uint256 balance, uint256 needed);
        error ERC20InsufficientAllowance(address spender, uint256 allowance, uint256 needed);
    }
}

/// What a contract reverted with. It is the source of the error made from it, for whoever has to
/// tell one [`Code::Reverted`] from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Revert {
    /// `require(…, "words")`.
    Words(String),
    /// A mistake that the compiler catches: overflow, a missing element, …
    Panic(U256),
    /// The token: the sender owns too little.
    TokenBalance { owner: Address, balance: U256, needed: U256 },
    /// The token: the spender was allowed too little.
    TokenAllowance { spender: Address, allowance: U256, needed: U256 },
    /// Another custom error.
    Custom(Bytes),
    /// No data at all.
    Silent,
}

impl Revert {
    /// Reads what a call reverted with.
    pub(crate) fn decode(data: &[u8]) -> Self {
        if data.is_empty() {
            return Self::Silent;
        }
        if let Ok(error) = errors::Error::abi_decode(data) {
            return Self::Words(error.message);
        }
        if let Ok(error) = errors::Panic::abi_decode(data) {
            return Self::Panic(error.code);
        }
        if let Ok(error) = errors::ERC20InsufficientBalance::abi_decode(data) {
            let (owner, balance, needed) = (error.sender, error.balance, error.needed);
            return Self::TokenBalance { owner, balance, needed };
        }
        if let Ok(error) = errors::ERC20InsufficientAllowance::abi_decode(data) {
            let (spender, allowance, needed) = (error.spender, error.allowance, error.needed);
            return Self::TokenAllowance { spender, allowance, needed };
        }
        Self::Custom(Bytes::copy_from_slice(data))
    }

    /// Finds the revert in a node's answer; `None` where the call did not revert.
    pub(crate) fn of(payload: &ErrorPayload) -> Option<Self> {
        let message = payload.message.trim();
        let data = payload.data.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok());
        let in_data = data.as_ref().and_then(|data| in_value(data, MAX_DEPTH));
        let in_message = reason(message);
        match (in_data, in_message) {
            // Without words in the data the message may still have them.
            (None | Some(Self::Silent), Some(in_message)) => Some(in_message),
            (Some(found), _) if is_about_execution(payload.code, message) => Some(found),
            _ => None,
        }
    }

    /// The protocol's refusal, where the words are its own.
    fn refusal(&self) -> Option<Refusal> {
        let Self::Words(words) = self else { return None };
        Refusal::from_words(words)
    }
}

impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) if words.trim().is_empty() => write!(f, "with empty words"),
            Self::Words(words) => write!(f, "{:?}", shown_words(words)),
            Self::Panic(code) => {
                let meaning = match code.saturating_to::<u64>() {
                    0x01 => "a failed assertion",
                    0x11 => "an overflow",
                    0x12 => "a division by zero",
                    0x21 => "a value outside its enum",
                    0x32 => "an index out of bounds",
                    0x41 => "out of memory",
                    _ => "a mistake of the contract",
                };
                write!(f, "Panic({code:#x}), {meaning}")
            }
            Self::TokenBalance { owner, balance, needed } => {
                write!(f, "the token: {owner} owns {}, {} are needed", Base(balance), Base(needed))
            }
            Self::TokenAllowance { spender, allowance, needed } => {
                let (allowance, needed) = (Base(allowance), Base(needed));
                write!(f, "the token: {spender} may take {allowance}, {needed} are needed")
            }
            Self::Custom(data) => {
                let shown = Bytes::copy_from_slice(&data[..data.len().min(SHOWN_BYTES)]);
                let rest = if data.len() > SHOWN_BYTES { "…" } else { "" };
                write!(f, "custom error {shown}{rest}")
            }
            Self::Silent => f.write_str("without words"),
        }
    }
}

impl std::error::Error for Revert {}

/// A token's number as USDC, where it can be one.
struct Base<'a>(&'a U256);

impl fmt::Display for Base<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(*self.0) {
            Ok(amount) => write!(f, "{} USDC", Usdc(amount)),
            Err(_) => write!(f, "{} base units", self.0),
        }
    }
}

/// The bare refusal where the words are the protocol's, else [`Code::Reverted`].
impl From<Revert> for Error {
    fn from(revert: Revert) -> Self {
        if let Some(refusal) = revert.refusal() {
            return refusal.into();
        }
        let hint = match revert {
            Revert::TokenBalance { .. } => "add USDC to this address",
            Revert::TokenAllowance { .. } => {
                "make the same call again: it approves what is missing"
            }
            _ => {
                "no rule of the protocol has these words: look at the arguments, at the token, and at the kernel's address"
            }
        };
        Self::new(Code::Reverted, format!("the contract refused: {revert}"))
            .with_hint(hint)
            .with_source(revert)
    }
}

/// The error that a node's JSON-RPC error stands for: the protocol's refusal with its bare words;
/// [`Code::Reverted`] for any other revert or failure, whose words are shown; [`Code::InsufficientGas`],
/// [`Code::FeeAboveLimit`]; else [`Code::RequestRefused`] with the node's words.
pub(crate) fn explain(payload: &ErrorPayload) -> Error {
    if let Some(revert) = Revert::of(payload) {
        return revert.into();
    }
    let words = shown_words(payload.message.trim());
    let lower = words.to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if says(&[
        "insufficient funds",
        "insufficientfunds",
        "gas required exceeds allowance",
        "upfront cost exceeds account balance",
    ]) {
        return Error::new(
            Code::InsufficientGas,
            format!("the sender cannot pay for gas: {words}"),
        )
        .with_hint("send some of the chain's own coin (ETH on Base) to this address");
    }
    if says(&["out of gas", "outofgas", "oog", "invalid opcode", "invalid jump", "stack overflow"])
    {
        return Error::new(Code::Reverted, format!("the contract broke off: {words}")).with_hint(
            "no rule of the protocol does this: check the kernel's address, or report this",
        );
    }
    if says(&["less than block base fee", "lower than the block base fee", "below base fee"]) {
        return Error::new(
            Code::FeeAboveLimit,
            format!("the chain asks for a higher fee than offered: {words}"),
        )
        .with_hint("wait until the fee falls, or raise max_fee_per_gas; nothing was sent");
    }
    let message = format!("the RPC endpoint refused: {words} (code {})", payload.code);
    Error::new(Code::RequestRefused, message)
        .with_hint("try again; if it stays, ask another RPC endpoint")
}

/// Whether the data of an error can be a revert's: other errors carry data of other kinds.
fn is_about_execution(code: i64, message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    code == 3 || ["revert", "vm execution", "vm exception"].iter().any(|part| lower.contains(part))
}

fn in_value(value: &Value, depth: u8) -> Option<Revert> {
    match value {
        Value::String(text) => in_text(text),
        Value::Object(fields) if depth > 0 => {
            // The usual keys first: others hold hashes, which look like data too.
            let usual = ["data", "result", "return", "originalError", "error", "cause", "reason"];
            let usual = usual.iter().filter_map(|key| fields.get(*key));
            let nested = fields.values().filter(|value| value.is_object());
            usual.chain(nested).find_map(|value| in_value(value, depth - 1))
        }
        _ => None,
    }
}

fn in_text(text: &str) -> Option<Revert> {
    let text = text.trim();
    let hex = text.strip_prefix("Reverted").unwrap_or(text).trim_start();
    if let Some(digits) = hex.strip_prefix("0x") {
        return alloy_primitives::hex::decode(digits).ok().map(|data| Revert::decode(&data));
    }
    reason(text)
}

/// The revert that a message tells in words.
fn reason(message: &str) -> Option<Revert> {
    let lower = message.to_ascii_lowercase();
    let start = lower.find("revert")?;
    if let Some((_, quoted)) = message.split_once("reverted with reason string '") {
        let words = quoted.strip_suffix('\'').unwrap_or(quoted);
        return Some(Revert::Words(words.to_owned()));
    }
    // The bytes are the same in lower case as long as only ASCII changes.
    let rest = &message[start + "revert".len()..];
    let rest = rest.strip_prefix("ed").unwrap_or(rest).trim_start();
    let words = rest.strip_prefix(':').unwrap_or(rest).trim();
    match words {
        // Nethermind repeats itself where there are no words.
        "" | "revert" | "without a reason" | "0x" => Some(Revert::Silent),
        words if words.starts_with("custom error") || words.starts_with("with") => {
            Some(Revert::Silent)
        }
        words => Some(Revert::Words(words.trim_end_matches('.').to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use alloy_primitives::hex;
    use serde_json::json;

    use super::*;

    /// `Error("Tx missing")`.
    const TX_MISSING: &str = "0x08c379a0\
        0000000000000000000000000000000000000000000000000000000000000020\
        000000000000000000000000000000000000000000000000000000000000000a\
        5478206d697373696e6700000000000000000000000000000000000000000000";

    fn explained(error: Value) -> Error {
        explain(&serde_json::from_value(error).unwrap())
    }

    fn encoded(error: &impl SolError) -> String {
        hex::encode_prefixed(error.abi_encode())
    }

    #[test]
    fn the_contracts_words_are_found_in_every_nodes_answer() {
        let nested = json!({"message": "Error: …", "txHash": "0xabcd", "data": TX_MISSING});
        let ganache =
            json!({"0x5d1fbf7d": {"error": "revert", "reason": "Tx missing"}, "stack": "…"});
        for (node, error) in [
            (
                "geth",
                json!({"code": 3, "message": "execution reverted: Tx missing", "data": TX_MISSING}),
            ),
            (
                "op-geth without data",
                json!({"code": 3, "message": "execution reverted: Tx missing"}),
            ),
            ("geth of 2020", json!({"code": -32000, "message": "execution reverted: Tx missing"})),
            (
                "anvil",
                json!({"code": 3, "message": "execution reverted: Tx missing", "data": TX_MISSING}),
            ),
            (
                "anvil of 2023",
                json!({"code": 3, "message": "execution reverted: revert: Tx missing", "data": TX_MISSING}),
            ),
            (
                "erigon",
                json!({"code": 3, "message": "execution reverted: Tx missing", "data": TX_MISSING}),
            ),
            ("reth", json!({"code": 3, "message": "execution reverted", "data": TX_MISSING})),
            (
                "nethermind",
                json!({"code": -32000, "message": "execution reverted", "data": TX_MISSING}),
            ),
            (
                "nethermind of 2023",
                json!({"code": -32015, "message": "VM execution error.", "data": format!("Reverted {TX_MISSING}")}),
            ),
            (
                "nethermind of 2021",
                json!({"code": -32015, "message": "VM execution error.", "data": "revert: Tx missing"}),
            ),
            ("besu", json!({"code": -32000, "message": "Execution reverted", "data": TX_MISSING})),
            (
                "hardhat",
                json!({"code": -32603, "message": "Error: VM Exception while processing transaction: reverted with reason string 'Tx missing'", "data": nested}),
            ),
            (
                "ganache",
                json!({"code": -32000, "message": "VM Exception while processing transaction: revert Tx missing", "data": ganache}),
            ),
        ] {
            let error = explained(error);
            assert_eq!(error.refusal(), Some(Refusal::TxMissing), "{node}: {error:?}");
            assert_eq!(error, Error::from(Refusal::TxMissing), "{node}");
        }
    }

    #[test]
    fn every_refusal_is_known_by_its_words() {
        for refusal in Refusal::ALL {
            let data = errors::Error { message: refusal.words().to_owned() }.abi_encode();
            assert_eq!(Error::from(Revert::decode(&data)).refusal(), Some(*refusal));
        }
    }

    #[test]
    fn other_reverts_are_shown_in_their_own_words() {
        let reverted =
            |data: String| json!({"code": 3, "message": "execution reverted", "data": data});
        let one = U256::from(1_000_000);
        let (owner, spender) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let balance =
            errors::ERC20InsufficientBalance { sender: owner, balance: one, needed: U256::MAX };
        let allowance =
            errors::ERC20InsufficientAllowance { spender, allowance: U256::ZERO, needed: one };
        let words = errors::Error { message: "Blacklistable: account is blacklisted".to_owned() };
        let panic = errors::Panic { code: U256::from(0x11) };
        for (error, shown) in [
            (reverted(encoded(&words)), "\"Blacklistable: account is blacklisted\""),
            (reverted(encoded(&panic)), "Panic(0x11), an overflow"),
            (reverted(encoded(&balance)), "owns 1.00 USDC"),
            (reverted(encoded(&allowance)), "may take 0.00 USDC, 1.00 USDC are needed"),
            (reverted("0x7a933234".to_owned()), "custom error 0x7a933234"),
            (reverted("0x".to_owned()), "without words"),
            (json!({"code": 3, "message": "execution reverted"}), "without words"),
            (
                json!({"code": 3, "message": "execution reverted: revert", "data": "0x"}),
                "without words",
            ),
            (
                json!({"code": -32015, "message": "VM execution error.", "data": "revert"}),
                "without words",
            ),
            (
                json!({"code": 3, "message": "execution reverted: custom error 0x7a933234", "data": "0x7a933234"}),
                "custom error 0x7a933234",
            ),
            (
                json!({"code": 3, "message": "execution reverted: Vault not there"}),
                "\"Vault not there\"",
            ),
        ] {
            let error = explained(error);
            assert_eq!(error.code(), Code::Reverted, "{shown}: {error:?}");
            assert!(error.to_string().contains(shown), "{shown}: {error}");
            assert!(error.hint().is_some() && error.source().is_some());
        }
    }

    #[test]
    fn a_tokens_refusal_can_be_recognised() {
        let refused = errors::ERC20InsufficientAllowance {
            spender: Address::ZERO,
            allowance: U256::ZERO,
            needed: U256::from(1),
        };
        let error = Error::from(Revert::decode(&refused.abi_encode()));
        let revert = error.source().and_then(|source| source.downcast_ref::<Revert>());
        assert!(matches!(revert, Some(Revert::TokenAllowance { .. })));
    }

    #[test]
    fn a_nodes_own_refusals_are_told_apart() {
        for (message, code) in [
            (
                "insufficient funds for gas * price + value: address 0x… have 0 want 1",
                Code::InsufficientGas,
            ),
            ("Insufficient funds for gas * price + value", Code::InsufficientGas),
            ("gas required exceeds allowance (0)", Code::InsufficientGas),
            ("Upfront cost exceeds account balance", Code::InsufficientGas),
            (
                "max fee per gas less than block base fee: address 0x…, maxFeePerGas: 1, baseFee: 2",
                Code::FeeAboveLimit,
            ),
            ("fee cap less than block base fee", Code::FeeAboveLimit),
            ("EVM error ReentrancySentryOOG", Code::Reverted),
            ("out of gas", Code::Reverted),
            ("header not found", Code::RequestRefused),
            ("Method not found", Code::RequestRefused),
        ] {
            let error = explained(json!({"code": -32000, "message": message}));
            assert_eq!(error.code(), code, "{message}: {error:?}");
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().is_some());
        }
        // Data that is none of a revert's.
        let error = json!({"code": -32602, "message": "invalid argument", "data": "0x1234"});
        assert_eq!(explained(error).code(), Code::RequestRefused);
        let page = "<html>".repeat(1_000);
        let error = explained(json!({"code": -32000, "message": page}));
        assert!(error.to_string().len() < 400);
    }

    #[test]
    fn hostile_answers_do_not_panic() {
        for message in
            ["", "revert", "REVERTED", "İrevertİ", "revertedİ", "reverted with reason string '"]
        {
            for data in [
                json!(null),
                json!(7),
                json!("0x0"),
                json!("Reverted"),
                json!("0x08c379a0"),
                json!([1]),
            ] {
                let _ = explained(json!({"code": 3, "message": message, "data": data}));
            }
        }
    }
}
