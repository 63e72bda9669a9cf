"""The 402, PAYMENT-SIGNATURE and PAYMENT-RESPONSE, as the reference packages of x402 v2 read them.

@x402/core comes from npm (`make` installs it beside anvil), x402 from PyPI.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edge import Service, missing, program, service
from paid import Reply
from support import ROOT, free_port, new_hash
from x402 import x402ClientSync
from x402.extensions.payment_identifier import (
    append_payment_identifier_to_extensions,
    is_payment_identifier_extension,
    validate_payment_identifier,
)
from x402.extensions.payment_identifier.types import PaymentIdentifierExtension
from x402.http.utils import (
    decode_payment_required_header,
    decode_payment_response_header,
    encode_payment_signature_header,
)
from x402.http.x402_http_client import x402HTTPClientSync
from x402.schemas import PaymentPayload, PaymentRequired, parse_payment_required

PYTHON = [sys.executable, "-m"]
KINDS = {
    "flask": [*PYTHON, "flask", "--app", "edge_flask_app:app", "run", "--port", "{port}"],
    "fastapi": [*PYTHON, "uvicorn", "--port", "{port}", "edge_asgi_app:app"],
}
TARGET = "/api/items/x?q=1"
PUBLIC = "https://shop.example/market"


@pytest.fixture(scope="module", params=KINDS)
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    port = free_port()
    command = [part.format(port=port) for part in KINDS[request.param]]
    with service(command, tmp_path_factory.mktemp("served"), port) as it:
        yield it


def node(order: dict[str, Any]) -> Any:
    """What @x402/core makes of it."""
    binary = program("node", "nodejs")
    modules = ROOT / "target" / "npm" / "node_modules"
    if anvil := os.environ.get("AGIRAILS_ANVIL"):
        modules = Path(anvil).parents[1]
    if not (modules / "@x402" / "core").exists():
        missing(f"@x402/core is not installed in {modules}")
    done = subprocess.run(
        [binary, str(Path(__file__).with_name("x402_client.mjs")), str(modules.parent)],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def decoded(reply: Reply, name: str = "payment-required") -> Any:
    return json.loads(base64.b64decode(reply.headers[name], validate=True))


def paid_by_header(
    shop: Service,
    tx_id: str,
    target: str = TARGET,
    extensions: dict[str, Any] | None = None,
    method: str = "GET",
    body: bytes = b"",
    key: str = "",
    **changes: Any,
) -> dict[str, str]:
    """The header PAYMENT-SIGNATURE as the PyPI package encodes it."""
    required = decode_payment_required_header(shop.call("GET", target).headers["payment-required"])
    assert isinstance(required, PaymentRequired)
    signed = shop.signed(method, target, body, key, tx_id)
    own = {"transactionId": tx_id, "signature": signed["X-AGIRAILS-SIGNATURE"], **changes}
    payload = PaymentPayload(
        payload={name: value for name, value in own.items() if value is not None},
        accepted=required.accepts[0],
        resource=required.resource,
        extensions=extensions or required.extensions,
    )
    return {"PAYMENT-SIGNATURE": encode_payment_signature_header(payload)}


@pytest.mark.parametrize("target", [TARGET, "/api/bundle", "/api/items/%C3%BC%20b?q=%C3%BC"])
def test_the_402_is_a_payment_required_of_version_2(shop: Service, target: str) -> None:
    reply = shop.call("GET", target)
    assert reply.status == 402
    parsed = node({"do": "parse", "header": reply.headers["payment-required"], "body": reply.json})
    assert parsed["isV2"]
    for required in (
        decode_payment_required_header(reply.headers["payment-required"]),
        parse_payment_required(reply.body),
    ):
        assert isinstance(required, PaymentRequired)
        assert required.resource is not None
        for offer in required.accepts:
            assert offer.scheme == "actp-escrow"
            assert offer.network.startswith("eip155:")
            assert int(offer.amount) > 0 and offer.max_timeout_seconds > 0
            # An escrow is no transfer: the offer says so, and for how long the money is held.
            assert offer.extra["flow"] == "escrow", offer.extra
    assert decoded(reply)["accepts"] == parsed["header"]["accepts"]


def test_the_resource_is_named_by_an_absolute_url(tmp_path: Path) -> None:
    port = free_port()
    command = [part.format(port=port) for part in KINDS["flask"]]
    settings = json.dumps({"public_url": PUBLIC})
    with service(command, tmp_path, port, settings) as shop:
        reply = shop.call("GET", TARGET)
        for required in (decoded(reply), reply.json):
            assert required["resource"]["url"] == PUBLIC + TARGET


def test_the_idempotency_key_is_the_extension_payment_identifier(shop: Service) -> None:
    for required in (decoded(shop.call("GET", TARGET)), shop.call("GET", TARGET).json):
        extension = required["extensions"]["payment-identifier"]
        assert is_payment_identifier_extension(extension)
        assert PaymentIdentifierExtension.model_validate(extension).info.required is False
        # The declared schema takes the identifier that the package makes.
        extensions = append_payment_identifier_to_extensions(dict(required["extensions"]))
        identified = validate_payment_identifier(extensions["payment-identifier"])
        assert identified.valid, identified.errors


def test_payment_signature_pays_like_the_sdks_own_headers(shop: Service) -> None:
    tx_id = shop.fund()
    headers = paid_by_header(shop, tx_id)
    first = shop.call("GET", TARGET, None, headers)
    assert first.status == 200, first
    settled = decode_payment_response_header(first.headers["payment-response"])
    assert (settled.success, settled.transaction) == (True, tx_id)
    assert settled.network == decoded(shop.call("GET", TARGET))["accepts"][0]["network"]
    assert settled.payer is None or settled.payer.lower() == shop.consumer.address.lower()
    # Both forms name one request: the repeat by the other form gets the stored answer.
    runs = shop.runs
    own = shop.signed("GET", TARGET, tx_id=tx_id)
    for again in (shop.call("GET", TARGET, None, headers), shop.call("GET", TARGET, None, own)):
        assert (again.status, again.body) == (200, first.body)
        assert "x-agirails-replay" in again.headers
    assert shop.runs == runs


def test_a_payment_identifier_is_the_calls_idempotency_key(shop: Service) -> None:
    tx_id, target = shop.fund(1_000_000), "/api/bundle"
    required = decoded(shop.call("GET", target))
    answers = []
    for _ in range(2):
        key = f"pay_{secrets.token_hex(16)}"
        extensions = append_payment_identifier_to_extensions(dict(required["extensions"]), key)
        headers = paid_by_header(shop, tx_id, target, extensions, key=key)
        answers += [shop.call("GET", target, None, headers) for _ in range(2)]
    assert [reply.status for reply in answers] == [200] * 4, answers
    unique = [reply.json["unique"] for reply in answers]
    assert unique[0] == unique[1] != unique[2] == unique[3]


def test_the_reference_client_of_npm_pays(shop: Service) -> None:
    tx_id = shop.fund()
    signed = shop.signed("POST", TARGET, b"hello", tx_id=tx_id)
    payload = {"transactionId": tx_id, "signature": signed["X-AGIRAILS-SIGNATURE"]}
    url = f"http://127.0.0.1:{shop.port}{TARGET}"
    order = {"do": "pay", "url": url, "method": "POST", "body": "hello", "payload": payload}
    done = node(order)
    assert done["isPayload"]
    assert (done["asked"], done["status"]) == (402, 200), done
    assert json.loads(done["body"])["body"] == "hello"
    assert (done["settled"]["success"], done["settled"]["transaction"]) == (True, tx_id)


def test_the_reference_client_of_pypi_pays(shop: Service) -> None:
    tx_id = shop.fund()
    signature = shop.signed("GET", TARGET, tx_id=tx_id)["X-AGIRAILS-SIGNATURE"]

    class Escrow:
        scheme = "actp-escrow"

        def create_payment_payload(self, requirements: Any) -> dict[str, Any]:
            return {"transactionId": tx_id, "signature": signature}

    core = x402ClientSync().register("eip155:*", Escrow()).set_spend_controls(False)
    client = x402HTTPClientSync(core)
    asked = shop.call("GET", TARGET)
    headers, _ = client.handle_402_response(asked.headers, asked.body, TARGET)
    reply = shop.call("GET", TARGET, None, headers)
    assert reply.status == 200, reply
    settled = client.get_payment_settle_response(lambda name: reply.headers.get(name.lower()))
    assert settled.success


BASE = base64.b64encode


@pytest.mark.parametrize(
    "value",
    [
        "not base64!",
        BASE(b"no JSON").decode(),
        BASE(b"[]").decode(),
        BASE(b'"text"').decode(),
        BASE(b'{"x402Version": 2}').decode(),
        BASE(b'{"x402Version": 2, "payload": {}, "accepted": {}}').decode(),
        BASE(b'{"x402Version": 1, "scheme": "exact", "network": "base", "payload": {}}').decode(),
        BASE(b'{"x402Version": 2, "payload": "text", "accepted": []}').decode(),
        BASE(b"\xff\xfe{}").decode(),
        BASE(b'{"payload": ' * 2_000).decode(),
        "",
    ],
    ids=lambda value: value[:12] or "empty",
)
def test_a_malformed_payment_signature_is_400(shop: Service, value: str) -> None:
    runs = shop.runs
    reply = shop.call("GET", TARGET, None, {"PAYMENT-SIGNATURE": value})
    # An empty header says nothing, and pays nothing.
    assert reply.status == (400 if value else 402), reply
    assert shop.runs == runs


@pytest.mark.parametrize(
    "changes",
    [
        {"transactionId": None},
        {"transactionId": "0x12"},
        {"transactionId": 12},
        {"transactionId": ["0x" + "1" * 64]},
        {"signature": "0x12"},
        {"signature": {}},
    ],
    ids=str,
)
def test_a_payload_with_a_wrong_field_is_refused_with_its_name(
    shop: Service, changes: dict[str, Any]
) -> None:
    runs, tx_id = shop.runs, shop.fund()
    reply = shop.call("GET", TARGET, None, paid_by_header(shop, tx_id, **changes))
    assert reply.status in (400, 401), reply
    assert next(iter(changes)) in reply.body.decode() or reply.status == 401
    assert shop.runs == runs
    assert shop.pay("GET", TARGET, tx_id=tx_id).status == 200


def test_two_forms_that_contradict_each_other_are_400(shop: Service) -> None:
    runs, tx_id = shop.runs, shop.fund()
    headers = paid_by_header(shop, tx_id)
    other = shop.signed("GET", TARGET)
    assert shop.call("GET", TARGET, None, {**headers, **other}).status == 400
    key = {"Idempotency-Key": "another-key-than-that"}
    extensions = append_payment_identifier_to_extensions(
        dict(decoded(shop.call("GET", TARGET))["extensions"])
    )
    headers = paid_by_header(shop, tx_id, extensions=extensions)
    assert shop.call("GET", TARGET, None, {**headers, **key}).status == 400
    assert shop.runs == runs


def test_what_pays_for_another_scheme_or_an_unknown_transaction_runs_nothing(
    shop: Service,
) -> None:
    runs = shop.runs
    headers = paid_by_header(shop, shop.fund())
    payload = json.loads(base64.b64decode(headers["PAYMENT-SIGNATURE"]))
    payload["accepted"]["scheme"] = "exact"
    encoded = BASE(json.dumps(payload).encode()).decode()
    reply = shop.call("GET", TARGET, None, {"PAYMENT-SIGNATURE": encoded})
    assert reply.status in (400, 402), reply
    reply = shop.call("GET", TARGET, None, paid_by_header(shop, new_hash()))
    assert reply.status in (402, 404), reply
    assert shop.runs == runs
