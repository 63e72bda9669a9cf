"""Writes the vectors beside this file, from other implementations than the one they test.

Numbers and key order come from a JavaScript engine, hashes from pycryptodome, ABI encodings from
eth-abi, signatures from eth-account, decimal arithmetic from Python. Run it with

    python -m venv /tmp/vectors && /tmp/vectors/bin/pip install pycryptodome eth-abi eth-account
    /tmp/vectors/bin/python tests/vectors/generate.py     # needs `node` on the PATH
"""

import json
import re
import subprocess
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from Crypto.Hash import keccak as _keccak
from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data

HERE = Path(__file__).parent
CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
U64_MAX = 2**64 - 1


def keccak(data: bytes) -> str:
    return "0x" + _keccak.new(digest_bits=256, data=data).hexdigest()


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def to_hex(data: bytes) -> str:
    return "0x" + data.hex()


def write(name: str, value) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=True)
    (HERE / name).write_text(text + "\n")


# --- canonical JSON: the expected text is what a JavaScript engine prints ---

CANONICALIZE = r"""
const canonical = (value) =>
  Array.isArray(value) ? "[" + value.map(canonical).join(",") + "]"
  : value !== null && typeof value === "object"
    ? "{" + Object.keys(value).sort().map((key) => JSON.stringify(key) + ":" + canonical(value[key])).join(",") + "}"
    : JSON.stringify(value);
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(texts.map((text) => canonical(JSON.parse(text)))));
"""

NUMBERS = [
    "0", "-0", "-0.0", "0.0", "1.0", "-1.0", "4.50", "2e-3", "1e0", "10E1",
    "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993",
    "9007199254740995", "9223372036854775807", "-9223372036854775808",
    "18446744073709551615", "18446744073709551616", "-18446744073709551617",
    "123456789012345678901234567890", "1" + "0" * 100,
    "1e20", "100000000000000000000", "999999999999999900000", "1e21", "-1e21", "1000000000000000000000",
    "1.5e21", "1e+22", "9.999999999999997e22", "1e23", "295147905179352830000",
    "0.1", "0.30000000000000004", "0.000001", "0.0000015", "1e-6", "1e-7", "1.5e-7", "-1e-7",
    "333333333.33333329", "424989.8765", "0.000000000000000000000000001",
    "5e-324", "2.2250738585072014e-308", "1.7976931348623157e308", "1e-400", "-1e-400",
    "1424953923781206.2", "333333333.3333332", "333333333.3333333", "1.7800000001e12",
]

DOCUMENTS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "empty string": '""',
    "empty object": "{}",
    "empty array": "[]",
    "white space": ' {\n "b" :\t[ 1 , 2 ] ,\r "a" : { } } ',
    "nested": '{"z":{"y":{"x":[{"b":2,"a":1},[],{}]}},"a":[[["deep"]]]}',
    "sorted at every level": '{"b":{"d":1,"c":2},"a":{"f":3,"e":4}}',
    "array order is kept": '["b","a",3,2,1]',
    "capitals before small letters": '{"a":1,"B":2,"_":3,"1":4,"10":5,"2":6}',
    "a key and its prefix": '{"ab":1,"a":2,"":3,"abc":4}',
    "keys by UTF-16 code unit (RFC 8785)": json.dumps(
        {"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
         "1": "One", "\U0001f600": "Emoji: Grinning Face", "\u0080": "Control",
         "\u00f6": "Latin Small Letter O With Diaeresis"}),
    "a surrogate pair sorts before U+FB33": '{"\ufb33":1,"\U0001f600":2,"\uffff":3,"\U0010ffff":4,"\ue000":5}',
    "escaped and plain keys sort alike": r'{"\u0062":1,"a":2,"\u0063":3}',
    "keys with escapes": r'{"\"":1,"\\":2,"\n":3,"\u0000":4,"/":5}',
    "every control character": json.dumps("".join(map(chr, range(0x20)))),
    "quote, backslash, solidus": r'"\"\\\/"',
    "DEL and C1 are not escaped": json.dumps("\x7f\x80\x9f"),
    "line separators are not escaped": json.dumps("\u2028\u2029"),
    "not normalised": json.dumps(["\u00e9", "e\u0301", "\u212b"]),
    "surrogate pair written as escapes": r'"\ud83d\ude00\uD834\uDD1E"',
    "HTML is left alone": '"<script>alert(1)&amp;</script>"',
    "null byte": r'"a\u0000b"',
    "an object named like a prototype": '{"__proto__":{"b":1,"a":2},"constructor":null}',
    "a service result": '{"result":"Generated response","usage":{"tokens":42,"cost":0.10},"ok":true,"timestamp":1780000000000}',
    "forty levels": "[" * 40 + '{"b":1.0,"a":[]}' + "]" * 40,
}


def canonical_json() -> None:
    cases = [(f"number {text[:30]}", text) for text in NUMBERS] + list(DOCUMENTS.items())
    shown = subprocess.run(
        ["node", "-e", CANONICALIZE], input=json.dumps([text for _, text in cases]),
        capture_output=True, text=True, check=True).stdout
    write("canonical_json.json", [
        {"name": name, "json": text, "canonical": canonical, "hash": keccak(canonical.encode())}
        for (name, text), canonical in zip(cases, json.loads(shown), strict=True)
    ])


# --- proofs ---

def proofs() -> None:
    valid = []
    for name, deliverable, tx_id, timestamp in [
        ("empty", "", "0x" + "00" * 32, 0),
        ("one byte", "a", "0x" + "11" * 32, 1),
        ("text", "Hello, world!", "0x" + "ab" * 32, 1_780_000_000_000),
        ("text beyond ASCII", "gr\u00fc\u00df Gott \u20ac \U0001f600", "0x" + "00" * 31 + "01", 1_780_000_000_001),
        ("JSON", '{"prompt":"hi","result":"there","timestamp":1780000000000}', "0x" + "ff" * 32, 2**53 - 1),
        ("one block of keccak", "x" * 136, "0x" + "12" * 32, 1_780_000_000_002),
        ("more than one block", "\u00e4" * 500, "0x" + "34" * 32, U64_MAX),
    ]:
        content = deliverable.encode()
        content_hash = keccak(content)
        valid.append({
            "name": name, "txId": tx_id, "deliverable": deliverable, "timestamp": timestamp,
            "size": len(content), "contentHash": content_hash,
            "encoded": to_hex(encode(["bytes32", "bytes32", "uint256"],
                                     [unhex(tx_id), unhex(content_hash), timestamp])),
        })
    good = unhex(valid[2]["encoded"])
    invalid = [{"name": name, "encoded": to_hex(data)} for name, data in [
        ("empty", b""), ("a window", encode(["uint256"], [172_800])), ("two words", good[:64]),
        ("one byte short", good[:-1]), ("one byte long", good + b"\0"), ("four words", good + bytes(32)),
        ("a time beyond 64 bits", good[:64] + encode(["uint256"], [2**64])),
        ("a time of 256 bits", good[:64] + b"\xff" * 32),
    ]]
    windows = [{"seconds": seconds, "encoded": to_hex(encode(["uint256"], [seconds]))}
               for seconds in [0, 1, 3_600, 172_800, 2_592_000, U64_MAX]]
    write("proofs.json", {"valid": valid, "invalid": invalid, "windows": windows})


# --- signed deliveries ---

FIELDS = [
    ("txId", "bytes32"), ("provider", "string"), ("consumer", "string"), ("resultCID", "string"),
    ("resultHash", "bytes32"), ("easAttestationUID", "bytes32"), ("deliveredAt", "uint256"),
    ("chainId", "uint256"), ("nonce", "uint256"),
]
TYPE = "DeliveryProof(" + ",".join(f"{kind} {name}" for name, kind in FIELDS) + ")"


def did(chain_id: int, key: int) -> str:
    return f"did:ethr:{chain_id}:{Account.from_key(key.to_bytes(32)).address.lower()}"


def foreign_did(key: int, chain_id: int | None = None) -> str:
    """As the official SDKs write it: checksummed, and with a chain id or without."""
    chain = "" if chain_id is None else f"{chain_id}:"
    return f"did:ethr:{chain}{Account.from_key(key.to_bytes(32)).address}"


def sign(key: int, kernel: str, message: dict, version: str = "1") -> tuple[str, bytes]:
    typed = encode_typed_data(full_message={
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "version", "type": "string"},
                             {"name": "chainId", "type": "uint256"}, {"name": "verifyingContract", "type": "address"}],
            "DeliveryProof": [{"name": name, "type": kind} for name, kind in FIELDS],
        },
        "primaryType": "DeliveryProof",
        "domain": {"name": "AGIRAILS", "version": version, "chainId": message["chainId"], "verifyingContract": kernel},
        "message": {name: unhex(message[name]) if kind == "bytes32" else message[name] for name, kind in FIELDS},
    })
    signed = Account.sign_message(typed, key.to_bytes(32))
    return keccak(b"\x19\x01" + typed.header + typed.body), bytes(signed.signature)


def signed_delivery() -> None:
    sepolia, base = "0x9d25A874f046185d9237Cd4954C88D2B74B0021b", "0x048c811352e8a3fECd5b0Ec4AA2c2b94083CC842"
    cases = []
    for name, key, consumer, chain_id, kernel, changes in [
        ("the first key on Base Sepolia", 1, 2, 84532, sepolia, {}),
        ("the first key on Base", 1, 2, 8453, base, {}),
        ("no CID, no attestation, all zero", 2, 1, 84532, sepolia, {
            "txId": "0x" + "00" * 32, "resultCID": "", "resultHash": "0x" + "00" * 32,
            "easAttestationUID": "0x" + "00" * 32, "deliveredAt": 0}),
        ("great numbers", 3, 4, 31337, sepolia, {"deliveredAt": U64_MAX, "nonce": U64_MAX}),
        ("a CID beyond ASCII", 0xAC0974BEC39A17E36BA4A6B4D238FF944BACB478CBED5EFCAE784D7BF4F2FF80, 5, 84532, sepolia,
         {"resultCID": "ipfs://gr\u00fc\u00df-\U0001f600"}),
        ("the greatest key", CURVE_ORDER - 1, 6, 84532, sepolia, {"nonce": 7}),
        *((f"message {n}", 1000 + n, 2000 + n, 84532, sepolia, {"nonce": n, "resultHash": keccak(bytes([n]))})
          for n in range(1, 9)),
    ]:
        message = {
            "type": "agirails.delivery.v1", "version": "1.0.0", "txId": "0x" + "7d" * 32,
            "provider": did(chain_id, key), "consumer": did(chain_id, consumer),
            "resultCID": "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
            "resultHash": keccak(b'{"result":"hello"}'), "easAttestationUID": "0x" + "e5" * 32,
            "deliveredAt": 1_780_000_000, "chainId": chain_id, "nonce": 1, **changes,
        }
        signing_hash, signature = sign(key, kernel, message)
        cases.append({
            "name": name, "privateKey": to_hex(key.to_bytes(32)),
            "address": Account.from_key(key.to_bytes(32)).address, "kernel": kernel,
            "message": message, "signingHash": signing_hash, "signature": to_hex(signature),
        })

    first = cases[0]
    good, signature = first["message"], unhex(first["signature"])
    r, s, v = signature[:32], int.from_bytes(signature[32:64]), signature[64]

    def refused(name: str, code: str, field: str | None = None, kernel: str = sepolia,
                signature: bytes | str | None = signature, drop: str | None = None, **changes) -> dict:
        signed = {**good, **changes}
        signed.pop(drop, None)
        if signature is not None:
            signed["signature"] = signature if isinstance(signature, str) else to_hex(signature)
        return {"name": name, "kernel": kernel, "code": code, "field": field, "json": signed}

    elsewhere = {"provider": did(8453, 1), "consumer": did(84532, 2)}
    s_bytes = lambda value: value.to_bytes(32)  # noqa: E731
    invalid = [
        refused("the same signature with a high s", "invalid_signature",
                signature=r + s_bytes(CURVE_ORDER - s) + bytes([55 - v])),
        refused("v as a parity", "invalid_signature", signature=signature[:64] + bytes([v - 27])),
        refused("v of EIP-155", "invalid_signature", signature=signature[:64] + bytes([v + 8])),
        refused("the other v", "invalid_signature", signature=signature[:64] + bytes([55 - v])),
        refused("r is zero", "invalid_signature", signature=bytes(32) + signature[32:]),
        refused("s is zero", "invalid_signature", signature=r + bytes(32) + bytes([v])),
        refused("r is the curve's order", "invalid_signature", signature=s_bytes(CURVE_ORDER) + signature[32:]),
        refused("64 bytes", "invalid_signature", signature=signature[:64]),
        refused("66 bytes", "invalid_signature", signature=signature + b"\0"),
        refused("empty signature", "invalid_signature", signature="0x"),
        refused("no prefix", "invalid_signature", signature=signature.hex()),
        refused("two prefixes", "invalid_signature", signature="0x0x" + signature.hex()),
        refused("not hex", "invalid_signature", signature="0x" + "zz" * 65),
        refused("no signature", "invalid_proof", "signature", signature=None),
        refused("another signer", "invalid_signature", signature=sign(2, sepolia, good)[1]),
        refused("signed for another kernel", "invalid_signature", kernel=base),
        refused("another nonce", "invalid_signature", nonce=2),
        refused("another result", "invalid_signature", resultHash=keccak(b"")),
        refused("another transaction", "invalid_signature", txId="0x" + "7c" * 32),
        refused("another consumer", "invalid_signature", consumer=did(84532, 3)),
        refused("another provider", "invalid_signature", provider=did(84532, 3)),
        refused("another time", "invalid_signature", deliveredAt=1_780_000_001),
        refused("another CID", "invalid_signature", resultCID=""),
        refused("another attestation", "invalid_signature", easAttestationUID="0x" + "00" * 32),
        refused("another chain", "invalid_signature", chainId=8453),
        refused("a provider on another chain, rightly signed", "invalid_signature",
                signature=sign(1, sepolia, {**good, **elsewhere})[1], **elsewhere),
        refused("a consumer on another chain, rightly signed", "invalid_signature",
                signature=sign(1, sepolia, {**good, "consumer": did(1, 2)})[1], consumer=did(1, 2)),
        refused("another type", "invalid_proof", "type", type="agirails.delivery.v2"),
        refused("another version", "invalid_proof", "version", version="1.0.1"),
        refused("no attestation, where one was signed", "invalid_signature", drop="easAttestationUID"),
        refused("the same DID in another spelling", "invalid_signature", provider=foreign_did(1, chain_id=84532)),
        refused("the same DID without its chain", "invalid_signature", provider=foreign_did(1)),
        refused("the domain of another version", "invalid_signature", signature=sign(1, sepolia, good, "2")[1]),
        *(refused(f"no {key}", "invalid_proof", key, drop=key) for key in good if key != "easAttestationUID"),
        refused("a short id", "invalid_proof", "txId", txId="0x7d"),
        refused("a number as id", "invalid_proof", "txId", txId=1),
        refused("no DID", "invalid_proof", "provider", provider="0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"),
        refused("a negative nonce", "invalid_proof", "nonce", nonce=-1),
        refused("a nonce in quotes", "invalid_proof", "nonce", nonce="1"),
        refused("half a second", "invalid_proof", "deliveredAt", deliveredAt=1_780_000_000.5),
        refused("null as CID", "invalid_proof", "resultCID", resultCID=None),
    ]
    # As the official SDKs sign: the DIDs in their own spelling, the domain in either version.
    foreign = []
    for name, version, provider, consumer, changes in [
        ("domain version 1.0", "1.0", did(84532, 1), did(84532, 2), {}),
        ("checksummed DIDs", "1", foreign_did(1, chain_id=84532), foreign_did(2, chain_id=84532), {}),
        ("checksummed DIDs, domain version 1.0", "1.0", foreign_did(1, chain_id=84532), foreign_did(2, chain_id=84532), {}),
        ("DIDs without a chain id", "1", foreign_did(1), foreign_did(2), {}),
        ("DIDs without a chain id, domain version 1.0", "1.0", foreign_did(1).lower(), foreign_did(2), {}),
        ("digits in upper case", "1", "did:ethr:84532:0x" + foreign_did(1)[-40:].upper(), did(84532, 2), {}),
        ("nonce 0, no CID", "1.0", foreign_did(1, chain_id=84532), did(84532, 2), {"nonce": 0, "resultCID": ""}),
        ("metadata, which is not signed", "1.0", did(84532, 1), did(84532, 2), {"metadata": {"executionTime": 3}}),
        ("no attestation named, zero signed", "1", did(84532, 1), did(84532, 2), {"easAttestationUID": "0x" + "00" * 32}),
    ]:
        message = {**good, "provider": provider, "consumer": consumer, **changes}
        message["signature"] = to_hex(sign(1, sepolia, message, version)[1])
        if name.startswith("no attestation"):
            del message["easAttestationUID"]
        foreign.append({"name": name, "kernel": sepolia, "address": first["address"], "json": message})
    # What `MessageSigner.sign_delivery_proof_message` of agirails 4.8.0 (PyPI) signed.
    foreign.append({"name": "the Python SDK's own", "kernel": sepolia, "address": first["address"], "json": {
        "type": "agirails.delivery.v1", "version": "1.0.0", "txId": "0x" + "7d" * 32,
        "provider": foreign_did(1, chain_id=84532), "consumer": foreign_did(2, chain_id=84532), "resultCID": "",
        "resultHash": keccak(b'{"text":"a haiku"}'), "easAttestationUID": "0x" + "00" * 32,
        "deliveredAt": 1795791862, "chainId": 84532, "nonce": 0,
        "signature": "0x516e1155fb95b9df341ff2a5c14f49fe6600413e5110fa5ef0b8f995966099312af"
                     "4402353f64bfd56694c004ac77e702aa3e8ead309d9795fcf00aa661a2f151b",
    }})
    write("signed_delivery.json", {
        "type": TYPE, "typeHash": keccak(TYPE.encode()), "valid": cases, "foreign": foreign, "invalid": invalid,
    })


# --- paid requests and session keys ---

def paid_requests() -> None:
    kernel, chain_id = "0x048c811352e8a3fECd5b0Ec4AA2c2b94083CC842", 8453
    kinds = {
        "PaidRequest": [("txId", "bytes32"), ("method", "string"), ("target", "string"), ("bodyHash", "bytes32"),
                        ("idempotencyKey", "string"), ("timestamp", "uint256")],
        "Session": [("txId", "bytes32"), ("key", "address"), ("validUntil", "uint256")],
    }

    def case(kind: str, message: dict) -> dict:
        fields = [{"name": name, "type": type_} for name, type_ in kinds[kind]]
        domain = [{"name": "name", "type": "string"}, {"name": "version", "type": "string"},
                  {"name": "chainId", "type": "uint256"}, {"name": "verifyingContract", "type": "address"}]
        typed = encode_typed_data(full_message={
            "types": {"EIP712Domain": domain, kind: fields}, "primaryType": kind,
            "domain": {"name": "AGIRAILS", "version": "1", "chainId": chain_id, "verifyingContract": kernel},
            "message": {name: unhex(message[name]) if type_ == "bytes32" else message[name] for name, type_ in kinds[kind]},
        })
        signed = Account.sign_message(typed, (1).to_bytes(32))
        return {"message": message, "signingHash": keccak(b"\x19\x01" + typed.header + typed.body),
                "signature": to_hex(bytes(signed.signature))}

    tx_id = "0x" + "7d" * 32
    request = {"txId": tx_id, "method": "POST", "target": "/api/generate?x=1", "bodyHash": keccak(b'{"prompt":"hi"}'),
               "idempotencyKey": "", "timestamp": 1_780_000_000}
    requests = [case("PaidRequest", request), case("PaidRequest", {**request, "idempotencyKey": "call-1", "target": "/caf%C3%A9"}),
                case("PaidRequest", {**request, "method": "GET", "bodyHash": keccak(b"")})]
    session = {"txId": tx_id, "key": Account.from_key((2).to_bytes(32)).address, "validUntil": 1_780_003_600}
    write("paid_request.json", {
        "privateKey": to_hex((1).to_bytes(32)), "address": Account.from_key((1).to_bytes(32)).address,
        "chainId": chain_id, "kernel": kernel, "requests": requests, "sessions": [case("Session", session)],
    })


# --- identifiers ---

def dids() -> None:
    address = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
    valid = [
        {"text": f"did:ethr:{chain}:{written}", "chainId": chain, "address": written.lower(),
         "printed": f"did:ethr:{chain}:{written.lower()}"}
        for chain, written in [
            (84532, address.lower()), (8453, address), (1, "0x" + "00" * 20), (31337, "0x" + "11" * 20),
            (U64_MAX, address.lower()), (10, "0x" + "ff" * 20)]
    ]
    low = address.lower()
    invalid = {
        "empty": "", "prefix alone": "did:ethr:", "address alone": low, "no chain id": f"did:ethr:{low}",
        "empty chain id": f"did:ethr::{low}", "leading zero": f"did:ethr:01:{low}", "two zeros": f"did:ethr:00:{low}",
        "plus": f"did:ethr:+1:{low}", "minus": f"did:ethr:-1:{low}", "hex chain id": f"did:ethr:0x2105:{low}",
        "chain id with a space": f"did:ethr: 1:{low}", "underscore": f"did:ethr:8_453:{low}",
        "fraction": f"did:ethr:1.0:{low}", "chain id beyond 64 bits": f"did:ethr:{2**64}:{low}",
        "Arabic digits": f"did:ethr:\u0661:{low}", "another method": f"did:key:1:{low}",
        "capital prefix": f"DID:ethr:1:{low}", "network name": f"did:ethr:base:{low}",
        "wrong checksum": f"did:ethr:1:{address.replace('d8dA', 'd8da')}", "upper case": f"did:ethr:1:0x{low[2:].upper()}",
        "capital X": f"did:ethr:1:0X{low[2:]}", "no 0x": f"did:ethr:1:{low[2:]}", "short address": f"did:ethr:1:{low[:-1]}",
        "long address": f"did:ethr:1:{low}0", "two prefixes": f"did:ethr:1:0x0x{low[4:]}", "no hex": f"did:ethr:1:0x{'g' * 40}",
        "no address": "did:ethr:1:", "space before": f" did:ethr:1:{low}", "space after": f"did:ethr:1:{low} ",
        "line end": f"did:ethr:1:{low}\n", "fragment": f"did:ethr:1:{low}#controller", "path": f"did:ethr:1:{low}/x",
        "public key": "did:ethr:1:0x02" + "11" * 32,
    }
    write("did.json", {"valid": valid, "invalid": [{"name": k, "text": v} for k, v in invalid.items()]})


def transaction_ids() -> None:
    a, b = (Account.from_key(n.to_bytes(32)).address for n in (1, 2))
    zero = "0x" + "00" * 32
    out = []
    for name, requester, provider, amount, service_hash, nonce in [
        ("the recipe's call", a, b, 100_000, zero, 0),
        ("the next one", a, b, 100_000, zero, 1),
        ("the other way round", b, a, 100_000, zero, 0),
        ("with a service", a, b, 100_000, keccak(b"ai-completion"), 0),
        ("one base unit more", a, b, 100_001, zero, 0),
        ("the greatest amount", a, b, 10**15, keccak(b""), 12_345),
        ("all of 64 bits", "0x" + "ff" * 20, "0x" + "01" * 20, U64_MAX, "0x" + "ff" * 32, U64_MAX),
        ("nothing", "0x" + "00" * 20, "0x" + "00" * 20, 0, zero, 0),
    ]:
        packed = unhex(requester) + unhex(provider) + amount.to_bytes(32) + unhex(service_hash) + nonce.to_bytes(32)
        out.append({"name": name, "requester": requester, "provider": provider, "amount": amount,
                    "serviceHash": service_hash, "nonce": nonce, "id": keccak(packed)})
    write("transaction_ids.json", out)


# --- resolutions ---

def service_hashes() -> None:
    pairs = [(b"\x00" * 32, b"\x00" * 32), (b"\x11" * 32, b"\x22" * 32), (bytes(range(32)), bytes(range(32, 64)))]
    vectors = [
        {"service": to_hex(service), "key": to_hex(key), "serviceHash": keccak(service + key)}
        for service, key in pairs
    ]
    write("service_hashes.json", vectors)


def resolutions() -> None:
    mediator, zero = Account.from_key((9).to_bytes(32)).address, "0x" + "00" * 20
    shapes = {
        64: ["uint256", "uint256"],
        96: ["uint256", "uint256", "bool"],
        128: ["uint256", "uint256", "address", "uint256"],
        160: ["uint256", "uint256", "address", "uint256", "bool"],
    }

    def case(name: str, requester: int, provider: int, who: str | None = None, share: int = 0, fault: bool | None = None):
        values = [requester, provider] + ([who, share] if who else []) + ([fault] if fault is not None else [])
        data = encode(shapes[32 * len(values)], values)
        kept = who if who not in (None, zero) else None
        at_fault = True if fault is None else fault
        clip = lambda amount: min(amount, U64_MAX)  # noqa: E731
        again = [clip(requester), clip(provider)] + ([kept, clip(share)] if kept else []) + [at_fault]
        return {
            "name": name, "encoded": to_hex(data), "requesterAmount": clip(requester), "providerAmount": clip(provider),
            "providerAtFault": at_fault, "mediator": kept, "mediatorAmount": clip(share) if kept else None,
            "reencoded": to_hex(encode(shapes[32 * len(again)], again)),
        }

    valid = [
        case("64 bytes: provider at fault", 600_000, 400_000),
        case("96 bytes, provider at fault", 600_000, 400_000, fault=True),
        case("96 bytes, requester at fault", 0, 1_000_000, fault=False),
        case("everything to the requester", 1_000_000, 0, fault=True),
        case("128 bytes: provider at fault", 500_000, 400_000, mediator, 100_000),
        case("160 bytes, provider at fault", 500_000, 400_000, mediator, 100_000, True),
        case("160 bytes, requester at fault", 500_000, 400_000, mediator, 100_000, False),
        case("a mediator for nothing is kept", 500_000, 500_000, mediator, 0, False),
        case("no mediator in a long form", 500_000, 500_000, zero, 0, False),
        case("no mediator in 128 bytes", 500_000, 500_000, zero, 0),
        case("only the mediator is paid", 0, 0, mediator, 1, False),
        case("an amount beyond 64 bits saturates", 2**64, 1, fault=False),
        case("256 bits saturate", 2**256 - 1, 2**255, mediator, 2**200, True),
        case("64 bits are exact", U64_MAX, U64_MAX - 1, fault=True),
    ]

    words = lambda *values: b"".join(value if isinstance(value, bytes) else value.to_bytes(32) for value in values)  # noqa: E731
    who = bytes(12) + unhex(mediator)
    refused = [{"name": name, "encoded": to_hex(data), "words": text} for name, data, text in [
        ("one word", words(1), "Invalid resolution proof"),
        ("one byte", b"\1", "Invalid resolution proof"),
        ("63 bytes", words(1, 1)[:-1], "Invalid resolution proof"),
        ("65 bytes", words(1, 1) + b"\0", "Invalid resolution proof"),
        ("95 bytes", words(1, 1, 1)[:-1], "Invalid resolution proof"),
        ("six words", words(1, 1, who, 1, 1, 0), "Invalid resolution proof"),
        ("161 bytes", words(1, 1, who, 1, 1) + b"\0", "Invalid resolution proof"),
        ("a bool of 2", words(1, 1, 2), "Invalid resolution proof"),
        ("a bool of 256 bits", words(1, 1, b"\xff" * 32), "Invalid resolution proof"),
        ("a bool with a high bit", words(1, 1, who, 1, 2**255 + 1), "Invalid resolution proof"),
        ("an address with a high byte", words(1, 1, b"\1" + who[1:], 1), "Invalid resolution proof"),
        ("an address with a byte just before it", words(1, 1, who[:11] + b"\1" + who[12:], 1, 1), "Invalid resolution proof"),
        ("nothing to nobody", words(0, 0), "Empty resolution"),
        ("nothing to nobody, 96 bytes", words(0, 0, 1), "Empty resolution"),
        ("nothing to a mediator either", words(0, 0, who, 0, 1), "Empty resolution"),
        ("all zero, 160 bytes", bytes(160), "Empty resolution"),
        ("a share for no mediator", words(1, 1, 0, 1), "Mediator address required"),
        ("a share for no mediator, 160 bytes", words(1, 1, 0, 1, 0), "Mediator address required"),
        ("a share for no mediator and nothing else", words(0, 0, 0, 1, 0), "Mediator address required"),
    ]]
    write("resolutions.json", {"valid": valid, "refused": refused})


# --- service types ---

def service_types() -> None:
    valid = ["ai-completion", "a", "0", "a-b", "text-generation", "gpt4", "1-2-3", "a" * 64, "a-" * 31 + "bc"]
    white, upper = "Service type contains whitespace", "Service type must be lowercase"
    other, double = "Invalid character in service type (allowed: a-z, 0-9, hyphen)", "Consecutive hyphens"
    lead, trail, long = "Cannot start with hyphen", "Cannot end with hyphen", "Service type too long"
    refused = [
        ("", "Empty service type"), ("a" * 65, long), ("A" * 65, long), (" " * 65, long), ("\u00e4" * 33, long),
        (" ", white), ("a b", white), ("a\tb", white), ("a\nb", white), ("a\rb", white), ("ai-completion\n", white), (" A", white),
        ("AI", upper), ("ai-Completion", upper), ("-A", upper), ("A ", upper), ("aZ_", upper),
        ("a_b", other), ("a.b", other), ("a/b", other), ("\u00e4", other), ("a\u00a0b", other), ("a\x0bb", other), ("a\0", other),
        ("_A", other), ("{", other), ("`", other), ("@", other), ("[", other), (":", other), ("/", other),
        ("a--b", double), ("--", double), ("--a", double), ("a--", double), ("a--B", double), ("A--", upper),
        ("-", lead), ("-a", lead), ("-a-", lead), ("a-", trail), ("ai-completion-", trail),
    ]
    write("service_types.json", {
        "valid": [{"serviceType": text, "hash": keccak(text.encode())} for text in valid],
        "refused": [{"serviceType": text, "words": words} for text, words in refused],
    })


# --- USDC ---

def usdc() -> None:
    def printed(units: int) -> str:
        whole, fraction = divmod(units, 1_000_000)
        return f"{whole}." + f"{fraction:06}".rstrip("0").ljust(2, "0")

    texts = ["0", "0.0", "0.10", ".5", "5", "5.", "1.00", "0.05", "0.000001", "1.234567", "1.230000", "007", "00.10", "0.123",
             "1000", "1000000000", "999999999.999999", "18446744073709.551615", "9007199254.740993"]
    valid = []
    for text in texts:
        units = Decimal(text) * 1_000_000
        assert units == int(units)
        valid.append({"text": text, "units": int(units), "printed": printed(int(units))})
    invalid = ["", ".", " ", "-1", "+1", "1e6", "1,000", "1_000", "0x10", "NaN", "Infinity", "1 USDC", "$1", " 1", "1 ", "1\n",
               "1.0000001", "0.0000000", "1..0", "1.0.0", ".-5", "1.-5", "\u0661", "18446744073709.551616",
               "18446744073710", "99999999999999999999999999"]
    write("usdc.json", {"valid": valid, "invalid": invalid})


# --- request targets: escapes are Python's own ---

def canonical_target(target: str) -> str:
    """The form of a path and query that is signed."""
    target = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "", target).split("#")[0]
    path, _, query = target.partition("?")
    segments, last = [], b""
    for last in unquote_to_bytes(path).split(b"/"):
        if last == b"..":
            del segments[-1:]
        elif last not in (b"", b"."):
            segments.append(last)
    end = "/" if last in (b"", b".", b"..") else ""
    path = "".join("/" + quote(segment, safe="!$&'()*+,;=:@") for segment in segments)
    query = re.sub("%(?![0-9A-Fa-f]{2})", "%25", query)
    query = re.sub("%..", lambda escape: quote(unquote_to_bytes(escape[0]), safe=""), query)
    query = quote(query, safe="!$&'()*+,;=:@/?%")
    return (path + end or "/") + ("?" + query if query else "")


def targets() -> None:
    targets = [
        "/", "", "/a", "a", "/a/", "/api/generate", "/A", "*",
        # escapes of the path
        "/a%2Fb", "/a%2fb", "/a/b", "/%61%62", "/%7Eme", "/~me", "/a%20b", "/a b", "/a+b", "/a%2Bb", "/a%25b", "/a%b", "/100%",
        "/%zz", "/%2", "/%2%35", "/%25%32%35", "/a%3Fb", "/a%23b", "/a%5cb", "/a\\b", "/a|b", "/[1]", "/a;b=1,2", "/a%3Bb", "/a:b@c",
        "/!$&'()*+,;=:@-._~", "/%00", "/%C3%BC", "/\u00fc", "/%FC", "/\u2603", "/e\u0301", "/\u00e9", "/\"<>`{}^",
        # segments
        "//", "//a", "//a//b", "/a/./b", "/a/../b", "/../a", "/a/..", "/a/.", "/a/%2e%2e/b", "/a/%2E", "/a%2F..%2Fb", "/a/...", "/.a",
        "/a//../b", "/..", "/.", "/a/b/../../..",
        # queries
        "/a?", "/a?b", "/a?b=c&d=e", "/a?b=%2f&c=%26", "/a?%61=%7e", "/a?b+c", "/a?b%20c", "/a?b c", "/a?%zz", "/a?%", "/a?%2%35",
        "/a??", "/a?b?c", "/a?b/../c//d", "/a?\u00fc", "/a?%fc", "/a?[]|\\^`{}\"<>", "/a?'", "/a?b=1&b=1", "/a?&&", "?b", "/a?/", "/a?:@!$&'()*+,;=-._~",
        # fragments and absolute-form
        "/a#b", "/a?b#c", "/#?b", "/a?#b", "https://example.com", "https://example.com/", "https://example.com?b", "HTTP://user@example.com:80/a%2fb?c",
        "http://example.com#top", "/http://example.com//a", "1ttp://a/b", "h+t.t-p://a/b", "://a/b",
    ]
    write("target.json", [{"target": target, "canonical": canonical_target(target)} for target in targets])


for make in (canonical_json, proofs, signed_delivery, paid_requests, dids, transaction_ids, service_hashes, resolutions, service_types, usdc, targets):
    make()
