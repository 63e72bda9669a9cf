//! Reads an evidence file. Strangers write them: an object's text is only looked into where a key of
//! the file stands, so that what a short text unfolds to stays small.

use std::{collections::BTreeMap, fmt, str::FromStr};

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    Body, ChainTransaction, Evidence, EvidenceAnswer, EvidenceCall, EvidenceDelivery,
    EvidenceNetwork, EvidenceRequest, LONGEST_FILE, MOST_CALLS, MOST_CHAIN_TRANSACTIONS,
    MOST_HEADERS, Parties, Party,
};
use crate::{
    Transaction,
    error::{Details, EvidenceError},
    id::{parse_address, parse_bytes32},
    proof::DeliveryProof,
    receipt::{Neighbour, Receipt},
    text,
    wallet_signature::LONGEST_SIGNATURE,
};

type Result<T, E = EvidenceError> = std::result::Result<T, E>;

/// An object of the file has 23 keys at most; a later version may have more.
const MOST_KEYS: usize = 64;
/// A tree of 2^64 leaves has no longer way.
const LONGEST_BRANCH: usize = 64;
/// A delivery proof holds hashes and few words.
const LONGEST_PROOF: usize = 64 << 10;

const HINT: &str = "an evidence file is JSON of the type agirails.evidence.v1: ask who made it for \
                    the file again, as it was written";

pub(super) fn evidence(text: &str) -> Result<Evidence> {
    if text.len() > LONGEST_FILE {
        let problem = format!("the file has {} bytes, and may have {LONGEST_FILE}", text.len());
        return Err(EvidenceError::Invalid(Details::new(problem).hint(HINT).field("file")));
    }
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let words = format!("the file is not JSON: {}", short(&error));
        EvidenceError::Invalid(Details::new(words).hint(HINT).field("file"))
    })?;
    let file = Object::of(raw, "file", "the file".to_owned(), true)?;
    file.constant("type", Evidence::TYPE)?;
    Ok(Evidence {
        network: network(&file.object("network")?)?,
        parties: parties(&file.object("parties")?)?,
        transaction: transaction(&file.object("transaction")?)?,
        transaction_block: file.optional("transactionBlock", Object::number)?,
        requester_nonce: file.optional("requesterNonce", Object::number)?,
        calls: file.list("calls", MOST_CALLS, call)?,
        delivery: file.optional("delivery", |file, key| delivery(&file.object(key)?))?,
        chain_transactions: file
            .optional("chainTransactions", |file, key| {
                file.list(key, MOST_CHAIN_TRANSACTIONS, chain_transaction)
            })?
            .unwrap_or_default(),
    })
}

fn network(object: &Object<'_>) -> Result<EvidenceNetwork> {
    Ok(EvidenceNetwork {
        chain_id: object.number("chainId")?,
        kernel: object.address("kernel")?,
        name: object.text("name")?,
    })
}

fn parties(object: &Object<'_>) -> Result<Parties> {
    let party = |key| {
        let party = object.object(key)?;
        Ok(Party {
            address: party.address("address")?,
            is_contract: party.optional("isContract", Object::flag)?.unwrap_or_default(),
            name: party.optional("name", Object::text)?,
        })
    };
    Ok(Parties { requester: party("requester")?, provider: party("provider")? })
}

fn transaction(object: &Object<'_>) -> Result<Transaction> {
    let bps = |key| object.value(key, "must be a number below 65,536");
    let usdc = |key| object.value(key, "must be base units of USDC");
    let agent = |key| object.value::<U256>(key, "must be a number of 256 bits in hex");
    Ok(Transaction {
        id: object.bytes32("transactionId")?,
        requester: object.address("requester")?,
        provider: object.address("provider")?,
        state: object.value("state", "must be a state of the protocol")?,
        amount: usdc("amount")?,
        created_at: object.number("createdAt")?,
        updated_at: object.number("updatedAt")?,
        deadline: object.number("deadline")?,
        service_hash: object.bytes32("serviceHash")?,
        escrow_contract: object.address("escrowContract")?,
        escrow_id: object.bytes32("escrowId")?,
        attestation_uid: object.bytes32("attestationUID")?,
        dispute_window: object
            .value("disputeWindow", "must be {\"seconds\": …} or {\"endsAt\": …}")?,
        metadata: object.bytes32("metadata")?,
        platform_fee_bps_locked: bps("platformFeeBpsLocked")?,
        requester_penalty_bps_locked: bps("requesterPenaltyBpsLocked")?,
        dispute_bond_bps_locked: bps("disputeBondBpsLocked")?,
        agent_id: agent("agentId")?,
        requester_agent_id: agent("requesterAgentId")?,
        dispute_initiator: object.address("disputeInitiator")?,
        dispute_bond: usdc("disputeBond")?,
        result_hash: object.optional("resultHash", Object::bytes32)?.unwrap_or_default(),
        agreement_hash: object.optional("agreementHash", Object::bytes32)?.unwrap_or_default(),
    })
}

fn call(item: Item<'_>) -> Result<EvidenceCall> {
    let object = item.object()?;
    Ok(EvidenceCall {
        request: request(&object.object("request")?)?,
        answer: answer(&object.object("answer")?)?,
        receipt: object.optional("receipt", |object, key| receipt(&object.object(key)?))?,
        branch: object
            .optional("branch", |object, key| object.list(key, LONGEST_BRANCH, neighbour))?,
        received_at: object.optional("receivedAt", Object::number)?,
        answered_at: object.optional("answeredAt", Object::number)?,
    })
}

fn request(object: &Object<'_>) -> Result<EvidenceRequest> {
    Ok(EvidenceRequest {
        method: object.text("method")?,
        target: object.text("target")?,
        idempotency_key: object.text("idempotencyKey")?,
        headers: object
            .optional("headers", |object, key| object.list(key, MOST_HEADERS, header))?
            .unwrap_or_default(),
        body: object.optional("body", body)?,
        body_hash: object.bytes32("bodyHash")?,
        digest: object.optional("digest", Object::bytes32)?,
        signature: object.optional("signature", Object::parsed)?,
        session: object.optional("session", Object::parsed)?,
    })
}

fn answer(object: &Object<'_>) -> Result<EvidenceAnswer> {
    Ok(EvidenceAnswer {
        status: object.value("status", "must be an HTTP status")?,
        headers: object.list("headers", MOST_HEADERS, header)?,
        body: object.optional("body", body)?,
        body_hash: object.bytes32("bodyHash")?,
    })
}

fn header(item: Item<'_>) -> Result<(String, String)> {
    serde_json::from_str(item.raw.get())
        .map_err(|_| wrong(item.key, &item.path, item.raw, "must be a header's name and value"))
}

fn body(object: &Object<'_>, key: &'static str) -> Result<Body> {
    let body = object.object(key)?;
    let text = body.optional("text", Object::text)?;
    let base64 = body.optional("base64", |body, key| {
        let text = body.text(key)?;
        BASE64.decode(text).map_err(|_| body.wrong(key, "must be base64 with its padding"))
    })?;
    match (text, base64) {
        (Some(text), None) => Ok(Body::new(text.into_bytes())),
        (None, Some(bytes)) => Ok(Body::new(bytes)),
        _ => Err(object.wrong(key, "must be {\"text\": …} or {\"base64\": …}")),
    }
}

fn receipt(object: &Object<'_>) -> Result<Receipt> {
    Ok(Receipt {
        transaction_id: object.bytes32("txId")?,
        idempotency_key: object.text("idempotencyKey")?,
        index: object.number("index")?,
        content_hash: object.bytes32("contentHash")?,
        delivered_at: object.number("deliveredAt")?,
        provider: object.address("provider")?,
        signature: object.optional("signature", Object::signature)?,
    })
}

fn neighbour(item: Item<'_>) -> Result<Neighbour> {
    let object = item.object()?;
    let hash = object.bytes32("hash")?;
    match object.text("side")?.as_str() {
        "left" => Ok(Neighbour::Left(hash)),
        "right" => Ok(Neighbour::Right(hash)),
        _ => Err(object.wrong("side", "must be left or right")),
    }
}

fn delivery(object: &Object<'_>) -> Result<EvidenceDelivery> {
    let raw = object.raw("proof")?;
    if raw.get().len() > LONGEST_PROOF {
        return Err(object.wrong("proof", "is longer than 65,536 bytes"));
    }
    // As this file's object first: its keys stand once, and its hashes are in lower case.
    let keys = object.object("proof")?;
    ["txId", "contentHash"].into_iter().try_for_each(|key| keys.bytes32(key).map(drop))?;
    let value: Value = object.value("proof", "must be a delivery proof")?;
    let proof = DeliveryProof::from_json(&value).map_err(|error| {
        let details = error.details();
        let mut outer = Details::new(format!("{}: {error}", object.path("proof"))).hint(HINT);
        (outer.field, outer.value) = (details.field, details.value.clone());
        EvidenceError::Invalid(outer)
    })?;
    Ok(EvidenceDelivery { proof, calls: object.number("calls")? })
}

fn chain_transaction(item: Item<'_>) -> Result<ChainTransaction> {
    let object = item.object()?;
    Ok(ChainTransaction {
        what: object.text("what")?,
        hash: object.bytes32("hash")?,
        block: object.optional("block", Object::number)?,
    })
}

/// An object's values, each as its text, and where the object stands.
struct Object<'a> {
    values: BTreeMap<String, &'a RawValue>,
    path: String,
    is_root: bool,
}

impl<'a> Object<'a> {
    fn of(raw: &'a RawValue, key: &'static str, path: String, is_root: bool) -> Result<Self> {
        match serde_json::from_str(raw.get()) {
            Ok(Keys(values)) => Ok(Self { values, path, is_root }),
            Err(error) => {
                let problem = format!("must be an object: {}", short(&error));
                Err(wrong(key, &path, raw, &problem))
            }
        }
    }

    fn path(&self, key: &str) -> String {
        if self.is_root { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A key that may be missing or null.
    fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Self, &'static str) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(raw) if raw.get() == "null" => Ok(None),
            Some(_) => read(self, key).map(Some),
        }
    }

    fn raw(&self, key: &'static str) -> Result<&'a RawValue> {
        self.values.get(key).copied().ok_or_else(|| {
            let missing = format!("{} is missing", self.path(key));
            EvidenceError::Invalid(Details::new(missing).hint(HINT).field(key))
        })
    }

    fn value<T: Deserialize<'a>>(&self, key: &'static str, problem: &str) -> Result<T> {
        serde_json::from_str(self.raw(key)?.get()).map_err(|_| self.wrong(key, problem))
    }

    fn wrong(&self, key: &'static str, problem: &str) -> EvidenceError {
        match self.raw(key) {
            Ok(raw) => wrong(key, &self.path(key), raw, problem),
            Err(missing) => missing,
        }
    }

    fn text(&self, key: &'static str) -> Result<String> {
        self.value(key, "must be a string")
    }

    fn number(&self, key: &'static str) -> Result<u64> {
        self.value(key, "must be a whole number below 2^64")
    }

    fn flag(&self, key: &'static str) -> Result<bool> {
        self.value(key, "must be true or false")
    }

    fn constant(&self, key: &'static str, expected: &str) -> Result<()> {
        match self.text(key)? == expected {
            true => Ok(()),
            false => Err(self.wrong(key, &format!("must be {expected:?}"))),
        }
    }

    /// Hex in lower case alone: one spelling for one value, so that others can compare the texts.
    fn lower(&self, key: &'static str) -> Result<String> {
        let text = self.text(key)?;
        match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Err(self.wrong(key, "must be in lower case")),
            false => Ok(text),
        }
    }

    fn bytes32(&self, key: &'static str) -> Result<B256> {
        parse_bytes32(key, &self.lower(key)?)
            .map_err(|_| self.wrong(key, "must be 0x and 64 hex digits"))
    }

    fn address(&self, key: &'static str) -> Result<Address> {
        parse_address(key, &self.lower(key)?)
            .map_err(|_| self.wrong(key, "must be an address: 0x and 40 hex digits"))
    }

    /// A signature's bytes, whoever made it.
    fn signature(&self, key: &'static str) -> Result<Bytes> {
        let text = self.text(key)?;
        let digits = text.strip_prefix("0x").filter(|digits| {
            digits.len() <= 2 * LONGEST_SIGNATURE
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let bytes = digits.and_then(|digits| hex::decode(digits).ok());
        bytes.map(Bytes::from).ok_or_else(|| self.wrong(key, "must be 0x and bytes in hex"))
    }

    /// What a header held.
    fn parsed<T: FromStr<Err: fmt::Display>>(&self, key: &'static str) -> Result<T> {
        self.text(key)?
            .parse()
            .map_err(|error| self.wrong(key, &format!("must be what its header held: {error}")))
    }

    fn object(&self, key: &'static str) -> Result<Self> {
        Self::of(self.raw(key)?, key, self.path(key), false)
    }

    fn list<T>(
        &self,
        key: &'static str,
        most: usize,
        read: impl Fn(Item<'a>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let raw = self.raw(key)?;
        let mut reader = serde_json::Deserializer::from_str(raw.get());
        let items = reader.deserialize_seq(Items { most }).map_err(|error| {
            let problem = format!("must be a list of at most {most}: {}", short(&error));
            self.wrong(key, &problem)
        })?;
        let path = self.path(key);
        let items = items.into_iter().enumerate();
        items.map(|(at, raw)| read(Item { raw, key, path: format!("{path}[{at}]") })).collect()
    }
}

/// An item of a list.
struct Item<'a> {
    raw: &'a RawValue,
    key: &'static str,
    path: String,
}

impl<'a> Item<'a> {
    fn object(self) -> Result<Object<'a>> {
        Object::of(self.raw, self.key, self.path, false)
    }
}

fn wrong(key: &'static str, path: &str, raw: &RawValue, problem: &str) -> EvidenceError {
    // What stands in a file over several lines stands in one here.
    let shown = text::value(raw.get()).replace(['\n', '\r', '\t'], " ");
    let mut details = Details::new(format!("{path} {shown} {problem}")).hint(HINT).field(key);
    details.value = Some(shown);
    EvidenceError::Invalid(details)
}

/// Its words may quote what was read, at any length.
fn short(error: &serde_json::Error) -> String {
    text::first(200, &error.to_string())
}

struct Keys<'a>(BTreeMap<String, &'a RawValue>);

impl<'de> Deserialize<'de> for Keys<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysOnce)
    }
}

struct KeysOnce;

impl<'de> Visitor<'de> for KeysOnce {
    type Value = Keys<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys<'de>, A::Error> {
        let mut values = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            if values.contains_key(&key) {
                let key = text::value(&key);
                return Err(de::Error::custom(format!("the key {key:?} stands twice")));
            }
            if values.len() == MOST_KEYS {
                return Err(de::Error::custom(format!("there are more than {MOST_KEYS} keys")));
            }
            values.insert(key, value);
        }
        Ok(Keys(values))
    }
}

struct Items {
    most: usize,
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = vec![];
        while let Some(item) = seq.next_element()? {
            if items.len() == self.most {
                return Err(de::Error::custom("there are more"));
            }
            items.push(item);
        }
        Ok(items)
    }
}
