"""A paid service behind nginx: prefixes, buffers, charsets, compression, and large bodies."""

import base64
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from edge import MAX_BODY_BYTES, Service, head, nginx, send, service
from support import free_port

import agirails.httpx
import agirails.requests
from agirails import Consumer, State

PYTHON = [sys.executable, "-m"]
FLASK = [*PYTHON, "gunicorn", "--no-control-socket", "--threads", "4", "-b", "127.0.0.1:{port}"]
UVICORN = [*PYTHON, "uvicorn", "--port", "{port}"]
KINDS = {
    "flask": [*FLASK, "edge_flask_app:app"],
    "fastapi": [*UVICORN, "edge_asgi_app:app"],
}
CALLS: dict[str, Callable[[Consumer, str], Any]] = {
    "call": lambda consumer, url: consumer.call(url, max_amount="0.25", timeout=20),
    "requests": lambda consumer, url: agirails.requests.session(consumer, max_amount="0.25").get(
        url, timeout=20
    ),
    "httpx": lambda consumer, url: httpx.Client(
        transport=agirails.httpx.PayingTransport(consumer, max_amount="0.25")
    ).get(url, timeout=20),
}
TYPES = """
    charset utf-8;
    charset_types text/html text/plain text/css text/csv application/json;
"""
PACKED = """
    gzip on; gzip_min_length 1; gzip_http_version 1.0; gzip_proxied any;
    gzip_types text/plain text/css text/csv application/json application/problem+json;
"""


class Front:
    """One service, and nginx in front of it with these lines."""

    def __init__(self, ends: ExitStack, directory: Path) -> None:
        self.ends, self.directory = ends, directory

    def start(
        self,
        kind: str,
        location: str = "location / { proxy_pass http://127.0.0.1:{port}; }",
        http: str = "",
        public: str | None = None,
        flags: tuple[str, ...] = (),
        **env: str,
    ) -> tuple[Service, Path]:
        inner, port = free_port(), free_port()
        settings: dict[str, Any] = {"max_body_bytes": MAX_BODY_BYTES}
        if public is not None:
            settings["public_url"] = public.replace("PORT", str(port))
        command = [part.replace("{port}", str(inner)) for part in (*KINDS[kind], *flags)]
        shop = self.ends.enter_context(
            service(command, self.directory, inner, json.dumps(settings), **env)
        )
        lines = location.replace("{port}", str(inner))
        errors = self.ends.enter_context(nginx(self.directory, port, lines, http))
        return shop.at(port), errors


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with ExitStack() as ends:
        yield Front(ends, tmp_path)


def offers(reply: Any) -> dict[str, Any]:
    return json.loads(base64.b64decode(reply.headers["payment-required"], validate=True))


STRIPPED = """
    location /shop/ {
        proxy_pass http://127.0.0.1:{port}/;
        proxy_set_header X-Forwarded-Prefix /shop;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header Host $http_host;
    }
"""
# Every documented way of telling an application that its prefix was taken off.
PREFIXES: dict[str, dict[str, Any]] = {
    "flask public_url": {"kind": "flask", "public": "http://127.0.0.1:PORT/shop"},
    "flask public_url with a slash": {"kind": "flask", "public": "http://127.0.0.1:PORT/shop/"},
    "flask ProxyFix": {"kind": "flask", "PROXY_FIX": "1"},
    "flask both": {"kind": "flask", "public": "http://127.0.0.1:PORT/shop", "PROXY_FIX": "1"},
    "fastapi public_url": {"kind": "fastapi", "public": "http://127.0.0.1:PORT/shop"},
    "fastapi root_path": {"kind": "fastapi", "ROOT_PATH": "/shop"},
    "fastapi --root-path": {"kind": "fastapi", "flags": ("--root-path", "/shop")},
    "fastapi both": {
        "kind": "fastapi", "public": "http://127.0.0.1:PORT/shop", "flags": ("--root-path", "/shop"),
    },
}  # fmt: skip


@pytest.mark.parametrize("way", PREFIXES)
def test_a_signed_call_works_behind_a_prefix_that_nginx_strips(front, way):
    shop, _ = front.start(location=STRIPPED, **PREFIXES[way])
    for target in ("/shop/api/items/x?q=1", "/shop/api/items/a%20b%2Fc?q=%C3%BC"):
        assert shop.pay("GET", target).status == 200, target
    # A signature over the stripped target is one over another target.
    headers = shop.signed("GET", "/api/items/x?q=1")
    assert shop.call("GET", "/shop/api/items/x?q=1", None, headers).status == 401


@pytest.mark.parametrize("way", PREFIXES)
def test_the_links_of_a_402_behind_a_prefix_lead_to_their_pages(front, way):
    shop, _ = front.start(location=STRIPPED, **PREFIXES[way])
    base = f"http://127.0.0.1:{shop.port}"
    reply = shop.call("GET", "/shop/api/items/x?q=1")
    assert reply.status == 402
    links = {name: urljoin(base, link) for name, link in reply.json["links"].items()}
    assert all(link.startswith(f"{base}/shop/") for link in links.values()), links
    assert reply.json["resource"]["url"].endswith("/shop/api/items/x?q=1")
    if "public" in PREFIXES[way]:
        assert reply.json["resource"]["url"].startswith(f"{base}/shop/")
        assert all(link.startswith(base) for link in reply.json["links"].values())
    tx_id = shop.fund()
    assert shop.pay("GET", "/shop/api/items/x?q=1", tx_id=tx_id).status == 200
    payment = links["payment"].replace("{txId}", tx_id).removeprefix(base)
    receipt = links["receipt"].replace("{txId}", tx_id).replace("{key}", "-").removeprefix(base)
    for page in (links["pricing"].removeprefix(base), payment, receipt):
        assert shop.call("GET", page).status == 200, page


@pytest.mark.parametrize("way", ["flask public_url", "fastapi --root-path"])
def test_a_consumer_buys_a_bundle_draws_from_it_and_closes_it_behind_a_prefix(front, way):
    shop, _ = front.start(location=STRIPPED, **PREFIXES[way])
    origin = f"http://127.0.0.1:{shop.port}"
    consumer = Consumer(shop.consumer, trusted=[origin])
    answers = [
        consumer.call(f"{origin}/shop/api/bundle", max_amount="0.01", max_funding="1", timeout=20)
        for _ in range(3)
    ]
    ids = {answer.payment.transaction_id for answer in answers}
    assert [answer.status for answer in answers] == [200] * 3
    assert len(ids) == 1
    consumer.close(*ids)
    assert shop.consumer.advanced.get_transaction(*ids).state in (
        State.COMMITTED,
        State.IN_PROGRESS,
        State.DELIVERED,
    )


def test_the_host_header_alone_names_no_url(front):
    """It is the caller's word. With `public_url`, another Host changes nothing."""
    shop, _ = front.start("flask", public="http://127.0.0.1:PORT")
    wanted = f"http://127.0.0.1:{shop.port}"
    reply = shop.call("GET", "/api/items/x", None, {"X-Forwarded-Host": "evil.example"})
    assert reply.status == 402
    text = reply.body.decode() + json.dumps(offers(reply))
    assert "evil.example" not in text and "shop.example" not in text
    assert offers(reply)["resource"]["url"] == f"{wanted}/api/items/x"


@pytest.mark.parametrize("kind", KINDS)
def test_a_402_fits_into_the_default_buffers_whatever_the_query(front, kind):
    """nginx answers 502 where a response's headers exceed 4 KiB."""
    shop, errors = front.start(kind)
    for path in ("/api/items/x", "/api/bundle", "/api/items/" + "p" * 1_500):
        for length in (0, 100, 1_000, 1_900, 2_500, 5_000):
            reply = shop.call("GET", f"{path}?q={'%C3%BC' * (length // 6)}")
            assert reply.status == 402, (path, length, reply)
            assert len(reply.headers["payment-required"]) <= 2048
            assert offers(reply)["accepts"]
    assert not errors.exists() or "too big header" not in errors.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_paid_answer_fits_into_the_default_buffers(front, kind):
    shop, _ = front.start(kind)
    reply = shop.pay("GET", "/api/bundle", key="k" * 255, tx_id=shop.fund(1_000_000))
    assert reply.status == 200, reply
    assert reply.receipt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("http", [TYPES, PACKED, TYPES + PACKED], ids=["charset", "gzip", "both"])
def test_the_consumer_verifies_what_nginx_has_relabelled_or_packed(front, http, how, kind):
    shop, _ = front.start(kind, http=http)
    origin = f"http://127.0.0.1:{shop.port}"
    consumer = Consumer(shop.consumer, trusted=[origin])
    for typed in ("text/plain", "text/html", "text/csv", "application/json", "image/png"):
        answer = CALLS[how](consumer, f"{origin}/api/typed/{typed}")
        assert answer.content.decode().startswith(typed.replace("/", " and ")), typed
        if how == "call":
            assert answer.payment.proof == "signed", typed


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_over_the_limit_is_413_behind_nginx(front, kind):
    """nginx buffers the request's body, and hands on what the service answers early."""
    shop, _ = front.start(kind, http="client_max_body_size 20m;")
    target, body = "/api/items/x", b"x" * 5_000_000
    headers = {**shop.signed("POST", target, body), "Content-Length": str(len(body))}
    reply = send(shop.port, head("POST", target, {**headers, "Connection": "close"}) + body)
    assert reply.status == 413, reply
    assert reply.json["status"] == 413
    assert shop.runs == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nginx_own_limit_is_told_to_the_consumer_and_pays_nothing(front, kind):
    shop, _ = front.start(kind, http="client_max_body_size 1k;")
    consumer = Consumer(shop.consumer, trusted=[f"http://127.0.0.1:{shop.port}"])
    url = f"http://127.0.0.1:{shop.port}/api/items/x"
    answer = consumer.call(url, data=b"x" * 2_000, max_amount="0.25", timeout=20)
    assert answer.status == 413
    assert consumer.spent().day == 0
