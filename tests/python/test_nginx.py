"""A paid service behind nginx: prefixes, buffers, charsets, compression, and large bodies."""

import base64
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

import httpx
import pytest
from edge import MAX_BODY_BYTES, Service, head, nginx, send, service
from support import ROOT, free_port, until

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


def by_requests(consumer: Consumer, url: str) -> Any:
    with agirails.requests.session(consumer, max_amount="0.25") as session:
        return session.get(url, timeout=20)


def by_httpx(consumer: Consumer, url: str) -> Any:
    transport = agirails.httpx.PayingTransport(consumer, max_amount="0.25")
    with httpx.Client(transport=transport) as client:
        return client.get(url, timeout=20)


CALLS: dict[str, Callable[[Consumer, str], Any]] = {
    "call": lambda consumer, url: consumer.call(url, max_amount="0.25", timeout=20),
    "requests": by_requests,
    "httpx": by_httpx,
}
TYPES = """
    charset utf-8;
    charset_types text/html text/plain text/css text/csv application/json;
"""
PACKED = """
    gzip on; gzip_min_length 1; gzip_http_version 1.0; gzip_proxied any;
    gzip_types text/plain text/css text/csv application/json application/problem+json;
"""

CHANGES = {"charset": TYPES, "gzip": PACKED, "both": TYPES + PACKED}


class Front(NamedTuple):
    """A service behind nginx, reached through it."""

    shop: Service
    errors: Path

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.shop.port}"


@contextmanager
def front(
    directory: Path,
    kind: str,
    location: str = "location / { proxy_pass http://127.0.0.1:{port}; }",
    http: str = "",
    public: str | None = None,
    flags: tuple[str, ...] = (),
    **env: str,
) -> Iterator[Front]:
    """A service, and nginx in front of it with these lines."""
    inner, port = free_port(), free_port()
    settings: dict[str, Any] = {"max_body_bytes": MAX_BODY_BYTES}
    if public is not None:
        settings["public_url"] = public.replace("PORT", str(port))
    command = [part.replace("{port}", str(inner)) for part in (*KINDS[kind], *flags)]
    with service(command, directory, inner, json.dumps(settings), **env) as shop:
        with nginx(directory, port, location.replace("{port}", str(inner)), http) as errors:
            yield Front(shop.at(port), errors)


@pytest.fixture(scope="module", params=KINDS)
def plain(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """nginx with its defaults."""
    http = "client_max_body_size 20m;"
    with front(tmp_path_factory.mktemp("plain"), request.param, http=http) as it:
        yield it


def offers(reply: Any) -> dict[str, Any]:
    return json.loads(base64.b64decode(reply.headers["payment-required"], validate=True))


# As the guide has it.
GUIDE = (ROOT / "docs" / "guide" / "servers.md").read_text(encoding="utf-8")
STRIPPED = GUIDE.partition("```nginx\n")[2].partition("```")[0].replace(":8000/", ":{port}/")
# nginx leaves the prefix where the application is mounted under it.
KEPT = "location /shop/ { proxy_pass http://127.0.0.1:{port}; proxy_set_header Host $http_host; }"
# Every documented way of telling an application its prefix.
PREFIXES: dict[str, dict[str, Any]] = {
    "flask public_url": {"kind": "flask", "public": "http://127.0.0.1:PORT/shop"},
    "flask public_url with a slash": {"kind": "flask", "public": "http://127.0.0.1:PORT/shop/"},
    "flask SCRIPT_NAME": {"kind": "flask", "location": KEPT, "SCRIPT_NAME": "/shop"},
    "flask ProxyFix": {"kind": "flask", "PROXY_FIX": "1"},
    "flask both": {"kind": "flask", "public": "http://127.0.0.1:PORT/shop", "PROXY_FIX": "1"},
    "fastapi public_url": {"kind": "fastapi", "public": "http://127.0.0.1:PORT/shop"},
    "fastapi root_path": {"kind": "fastapi", "ROOT_PATH": "/shop"},
    "fastapi --root-path": {"kind": "fastapi", "flags": ("--root-path", "/shop")},
    "fastapi both": {
        "kind": "fastapi", "public": "http://127.0.0.1:PORT/shop", "flags": ("--root-path", "/shop"),
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=PREFIXES)
def prefixed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Front, bool]]:
    """A service behind a prefix, and whether it was told its public URL."""
    way = {"location": STRIPPED, **PREFIXES[request.param]}
    with front(tmp_path_factory.mktemp("prefixed"), **way) as it:
        yield it, "public" in way


def test_a_signed_call_works_behind_a_prefix(prefixed):
    shop = prefixed[0].shop
    for target in ("/shop/api/items/x?q=1", "/shop/api/items/a%20b%2Fc?q=%C3%BC"):
        assert shop.pay("GET", target).status == 200, target
        body = b"hello"
        assert shop.pay("POST", target, body).status == 200, target
    # A signature over the target without the prefix is one over another target.
    headers = shop.signed("GET", "/api/items/x?q=1")
    assert shop.call("GET", "/shop/api/items/x?q=1", None, headers).status == 401


def test_the_links_of_a_402_behind_a_prefix_lead_to_their_pages(prefixed):
    (shop, _), is_told = prefixed
    origin = prefixed[0].origin
    reply = shop.call("GET", "/shop/api/items/x?q=1")
    assert reply.status == 402
    links = {name: urljoin(origin, link) for name, link in reply.json["links"].items()}
    assert all(link.startswith(f"{origin}/shop/") for link in links.values()), links
    assert reply.json["resource"]["url"].endswith("/shop/api/items/x?q=1")
    if is_told:
        assert reply.json["resource"]["url"].startswith(f"{origin}/shop/")
        assert all(link.startswith(origin) for link in reply.json["links"].values())
    tx_id = shop.fund()
    assert shop.pay("GET", "/shop/api/items/x?q=1", tx_id=tx_id).status == 200
    payment = links["payment"].replace("{txId}", tx_id)
    receipt = links["receipt"].replace("{txId}", tx_id).replace("{key}", "-")
    for page in (links["pricing"], payment, receipt):
        assert shop.call("GET", page.removeprefix(origin)).status == 200, page


def test_a_consumer_buys_a_bundle_draws_from_it_and_closes_it_behind_a_prefix(prefixed):
    (shop, _), origin = prefixed[0], prefixed[0].origin
    consumer = Consumer(shop.consumer, trusted=[origin])
    url = f"{origin}/shop/api/bundle"
    answers = [consumer.call(url, max_amount="0.01", max_funding="1", timeout=20) for _ in range(3)]
    ids = {answer.payment.transaction_id for answer in answers}
    assert [answer.status for answer in answers] == [200] * 3
    assert len(ids) == 1
    consumer.close(*ids)
    until(lambda: shop.consumer.advanced.get_transaction(*ids).state is State.DELIVERED)


def test_the_host_header_alone_names_no_url(tmp_path):
    """It is the caller's word. With `public_url`, another Host changes nothing."""
    with front(tmp_path, "flask", public="http://127.0.0.1:PORT") as told:
        reply = told.shop.call("GET", "/api/items/x", None, {"X-Forwarded-Host": "evil.example"})
        assert reply.status == 402
        text = reply.body.decode() + json.dumps(offers(reply))
        assert "evil.example" not in text and "shop.example" not in text
        assert offers(reply)["resource"]["url"] == f"{told.origin}/api/items/x"


def test_a_402_fits_into_the_default_buffers_whatever_the_query(plain):
    """nginx answers 502 where a response's headers exceed 4 KiB."""
    for path in ("/api/items/x", "/api/bundle", "/api/items/" + "p" * 1_500):
        # gunicorn takes a request line of 4,094 bytes.
        for length in (0, 100, 1_000, 1_900, 2_500):
            reply = plain.shop.call("GET", f"{path}?q={'%C3%BC' * (length // 6)}")
            assert reply.status == 402, (path, length, reply)
            assert len(reply.headers["payment-required"]) <= 2048
            assert offers(reply)["accepts"]
    assert not plain.errors.exists() or "too big header" not in plain.errors.read_text()


def test_a_paid_answer_fits_into_the_default_buffers(plain):
    shop = plain.shop
    for key in ("k" * 255, "k"):
        reply = shop.pay("GET", "/api/bundle", key=key, tx_id=shop.fund(1_000_000))
        assert reply.status == 200, reply
        assert reply.receipt


@pytest.fixture(scope="module", params=[f"{kind} {name}" for kind in KINDS for name in CHANGES])
def changed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """nginx that adds a charset to the media type, compresses, or both."""
    kind, name = request.param.split()
    with front(tmp_path_factory.mktemp("changed"), kind, http=CHANGES[name]) as it:
        yield it


@pytest.mark.parametrize("how", CALLS)
def test_the_consumer_verifies_what_nginx_has_relabelled_or_packed(changed, how):
    consumer = Consumer(changed.shop.consumer, trusted=[changed.origin])
    for typed in ("text/plain", "text/html", "text/csv", "application/json", "image/png"):
        answer = CALLS[how](consumer, f"{changed.origin}/api/typed/{typed}")
        assert answer.content.decode().startswith(typed.replace("/", " and ")), typed
        if how == "call":
            assert answer.payment.proof == "signed", typed


@pytest.mark.parametrize("paid", [True, False], ids=["paid", "unpaid"])
def test_a_body_over_the_limit_is_413_behind_nginx(plain, paid):
    """nginx buffers the request's body, and hands on what the service answers early."""
    shop, target, body = plain.shop, "/api/items/x", b"x" * 5_000_000
    runs = shop.runs
    headers = {"Content-Length": str(len(body)), "Connection": "close"}
    if paid:
        headers |= shop.signed("POST", target, body)
    reply = send(shop.port, head("POST", target, headers) + body)
    assert (reply.status, reply.json["status"]) in (
        [(413, 413)] if paid else [(413, 413), (402, 402)]
    )
    assert shop.runs == runs


def test_nginx_own_limit_is_told_to_the_consumer_and_pays_nothing(tmp_path):
    with front(tmp_path, "flask", http="client_max_body_size 1k;") as small:
        consumer = Consumer(small.shop.consumer, trusted=[small.origin])
        url = f"{small.origin}/api/items/x"
        answer = consumer.call(url, data=b"x" * 2_000, max_amount="0.25", timeout=20)
        assert answer.status == 413
        assert consumer.spent().day == 0
