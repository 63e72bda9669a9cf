"""What a signed call, an unpaid one and a wrong one get, on every server that PyPI offers.

Servers hand a request on in different ways: with the raw path or only a decoded one, with a body
in chunks or without it, with HEAD as GET. The paywall must come to the same answers on each.

Not here: mod_wsgi (needs Apache), bjoern (needs libev's headers to build), gevent and eventlet
(docs/guide/flask.md says why they are not supported).
"""

import http.client
import json
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from edge import MAX_BODY_BYTES, Service, chunked, head, missing, read_reply, send, service
from support import ROOT, free_port

from agirails import Consumer

PYTHON = [sys.executable, "-m"]
GUNICORN = [*PYTHON, "gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}"]
UVICORN = [*PYTHON, "uvicorn", "--host", "127.0.0.1", "--port", "{port}"]
GRANIAN = [*PYTHON, "granian", "--host", "127.0.0.1", "--port", "{port}", "--interface"]
UWSGI = [
    *(str(Path(sys.executable).parent / "uwsgi"), "--http-socket", "127.0.0.1:{port}"),
    *("--module", "edge_flask_app:app", "--need-app", "--master", "--die-on-term"),
    *("--home", sys.prefix, "--buffer-size", "16384"),
]
FLASK, FASTAPI = "edge_flask_app:app", "edge_asgi_app:app"


class Server(NamedTuple):
    """How a server is started, and what it cannot do."""

    command: list[str]
    env: dict[str, str] = {}
    # What a body in chunks gets: 200, or 411 where the server gives no way to read it.
    chunked: int = 200
    # Whether it decodes an escaped slash in the path that it hands to the application.
    decodes_slash: bool = True
    # What it raises itself, answering 500, where an answer has no body; empty where it can send one.
    own_error: str = ""
    # Whether it takes a second request on a connection, however early that one arrives.
    keeps_alive: bool = True


WRAPPED = {"WRAPPED": "1"}
SERVERS = {
    "werkzeug": Server(
        [*PYTHON, "flask", "--app", FLASK, "run", "--port", "{port}"], keeps_alive=False
    ),
    "wsgiref": Server([*PYTHON, "edge_flask_app", "wsgiref", "{port}"], chunked=411),
    "gunicorn sync": Server([*GUNICORN, FLASK]),
    "gunicorn gthread": Server([*GUNICORN, "--threads", "4", FLASK]),
    "waitress": Server([*PYTHON, "waitress", "--listen", "127.0.0.1:{port}", FLASK]),
    "cheroot": Server([*PYTHON, "edge_flask_app", "cheroot", "{port}"], decodes_slash=False),
    "uwsgi": Server(UWSGI, chunked=411),
    "uwsgi threads": Server([*UWSGI, "--http-chunked-input", "--threads", "2"], chunked=411),
    "twisted": Server(
        [
            *(*PYTHON, "twisted", "web", "--wsgi", "edge_flask_app.app"),
            *("--listen", "tcp:{port}:interface=127.0.0.1"),
        ],
        chunked=411,
    ),
    "granian wsgi": Server([*GRANIAN, "wsgi", FLASK]),
    # For an answer without a body hypercorn 0.18 sends a 500 of its own, under WSGI.
    "hypercorn wsgi": Server(
        [*PYTHON, "hypercorn", "-b", "127.0.0.1:{port}", f"wsgi:{FLASK}"],
        chunked=411,
        own_error="hypercorn.utils.UnexpectedMessageError:",
    ),
    # A request that arrives before the end of the previous answer runs in that one's context, whose
    # executor has ended: asgiref 3.13 then answers 500 ("CurrentThreadExecutor already quit").
    "asgiref": Server(
        [*UVICORN, "--factory", "edge_flask_app:by_asgiref"], chunked=411, keeps_alive=False
    ),
    "a2wsgi": Server([*UVICORN, "--factory", "edge_flask_app:by_a2wsgi"], chunked=411),
    "uvicorn h11": Server([*UVICORN, "--http", "h11", FASTAPI]),
    "uvicorn httptools": Server([*UVICORN, "--http", "httptools", FASTAPI]),
    "gunicorn asgi": Server([*GUNICORN, "-k", "asgi", FASTAPI]),
    "hypercorn": Server([*PYTHON, "hypercorn", "-b", "127.0.0.1:{port}", FASTAPI]),
    "daphne": Server([*PYTHON, "daphne", "-b", "127.0.0.1", "-p", "{port}", FASTAPI]),
    "granian asgi": Server([*GRANIAN, "asgi", FASTAPI]),
    "uvicorn wrap": Server([*UVICORN, FASTAPI], WRAPPED),
    "granian wrap": Server([*GRANIAN, "asgi", FASTAPI], WRAPPED),
}
# Every spelling that a client may choose, and the name that the service then reads.
TARGETS = {
    "/api/items/plain?q=1": "plain",
    "/api/items/a%2Fb?q=1": "a/b",
    "/api/items/a%2fb?q=%2f": "a/b",
    "/api/items/a%20b%C3%BC?q=%C3%BC+1&r=&s": "a bü",
    "/api/items/%c3%bc?q=%c3%bc": "ü",
    "/api/items/a+b~c!d'e(f)*,;=:@&$?q=a/b?c": "a+b~c!d'e(f)*,;=:@&$",
    "/api/items/a%2Bb%7Ec%21?q=%2B%7E": "a+b~c!",
    "/api/items/%41b?q=%41": "Ab",
    "/api/items/100%25?q=100%25": "100%",
    "/api/items/%2541?q=%2541": "%41",
    "/api/items/x?": "x",
    "/api/items/x%3Fy?q=1": "x?y",
    "/api/items/x%23y": "x#y",
    "/api/items/" + "long" * 250 + "?q=" + "q" * 1000: "long" * 250,
}
# Paths of several segments, which `wrap`'s `{name}` does not stand for.
SEGMENTS = {
    "/api/items/a//b?q=1": "a//b",
    "/api/items/a/b/?q=1": "a/b/",
}
POST = "/api/items/body?q=1"


def test_the_guide_lists_these_servers_and_what_becomes_of_chunks_there():
    guide = (ROOT / "docs" / "guide" / "servers.md").read_text(encoding="utf-8")
    rows = {
        name: row
        for row in guide.splitlines()
        if row.startswith("| ")
        for name in re.findall(r"[a-z0-9]+", row.split("|")[1].lower())
    }
    for name, server in SERVERS.items():
        if not server.env:
            assert ("411" in rows[name.split()[0]]) or server.chunked == 200, name
    assert {name.split()[0] for name in SERVERS} <= rows.keys()


class Running(NamedTuple):
    service: Service
    server: Server

    @property
    def is_wrapped(self) -> bool:
        return bool(self.server.env)


@pytest.fixture(scope="module", params=SERVERS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    server, port = SERVERS[request.param], free_port()
    if not Path(server.command[0]).exists():
        missing(f"{server.command[0]} is not installed")
    command = [part.format(port=port) for part in server.command]
    settings = json.dumps({"max_body_bytes": MAX_BODY_BYTES})
    directory = tmp_path_factory.mktemp("served")
    with service(command, directory, port, settings, server.own_error, **server.env) as it:
        yield Running(it, server)


@pytest.fixture
def shop(running: Running) -> Service:
    return running.service


def test_a_signed_call_is_served_whatever_the_spelling_of_its_target(running, shop):
    wrong = []
    for target, name in {**TARGETS, **({} if running.is_wrapped else SEGMENTS)}.items():
        for method in ("GET", "POST"):
            body = b"hello" if method == "POST" else None
            reply = shop.pay(method, target, body)
            if reply.status == 404 and running.is_wrapped and "%2" in target:
                continue  # Without a raw path this application finds two segments.
            if reply.status != 200:
                wrong.append(f"{method} {target[:60]}: {reply.status} {reply.body[:200]!r}")
            elif not running.server.decodes_slash and "%2F" in target.upper():
                assert reply.json["name"] == name.replace("/", "%2F")
            elif reply.json["name"] != name or reply.json["body"] != (body or b"").decode():
                wrong.append(f"{method} {target[:60]}: the service read {reply.json}")
    assert not wrong, "\n".join(wrong)


def test_a_signed_call_is_served_in_absolute_form_and_in_http_1_0(running, shop):
    target = "/api/items/forms?q=a%2Fb"
    headers = shop.signed("GET", target)
    reply = shop.call("GET", f"http://shop.example{target}", None, headers)
    # A server, or its router, may not know the absolute form. Then it says so itself.
    assert reply.status in (200, 400, 404), reply.body
    assert reply.status == 200 or "x-agirails-tx-id" not in reply.headers
    reply = shop.call("GET", target, None, shop.signed("GET", target), version="1.0")
    assert (reply.status, reply.json["name"]) == (200, "forms")


def test_a_signature_over_another_target_or_body_is_refused(shop):
    before = shop.runs
    for target in ("/api/items/y?q=1", "/api/items/x?q=2", "/api/items/x", "/api/items/x?q=%31%31"):
        tx_id = shop.fund()
        headers = shop.signed("GET", target, tx_id=tx_id)
        reply = shop.call("GET", "/api/items/x?q=1", None, headers)
        assert reply.status in (401, 403), (target, reply)
    reply = shop.call("POST", POST, b"sent", shop.signed("POST", POST, b"signed"))
    assert reply.status in (401, 403), reply
    assert shop.runs == before


def test_an_unpaid_call_gets_the_offers_and_runs_nothing(shop):
    before = shop.runs
    for method, body in (("GET", None), ("POST", b"hello"), ("POST", b"x" * 50_000)):
        reply = shop.call(method, POST, body)
        assert (reply.status, reply.json["status"]) == (402, 402)
        assert reply.headers["cache-control"] == "no-store"
        assert len(reply.headers["payment-required"]) <= 2048
        assert reply.headers["content-length"] == str(len(reply.body))
    assert shop.runs == before


def test_options_is_answered_without_running_the_view(running, shop):
    before = shop.runs
    reply = shop.call("OPTIONS", "/api/items/x?q=1")
    if not running.server.own_error:
        # 405: the router answers, where the route does not list OPTIONS.
        assert reply.status in (200, 204, 405), reply
        assert "GET" in reply.headers["allow"]
    else:
        assert reply.status == 500  # the server's own
    reply = shop.pay("OPTIONS", "/api/items/x?q=1")
    assert "x-agirails-receipt" not in reply.headers
    assert shop.runs == before


def test_another_method_is_not_allowed_rather_than_free(shop):
    before = shop.runs
    for method in ("PUT", "DELETE", "PATCH"):
        reply = shop.call(method, "/api/items/x?q=1", b"")
        assert reply.status == 405, (method, reply)
        assert "GET" in reply.headers["allow"]
    assert shop.runs == before


def test_head_costs_what_get_costs(running, shop):
    before, has_head = shop.runs, not running.server.own_error
    reply = shop.call("HEAD", "/api/items/x?q=1")
    assert (reply.status, reply.body) == (402 if has_head else 500, b"")
    assert shop.runs == before
    if not has_head:
        return  # the server answers 500 by itself
    reply = shop.pay("HEAD", "/api/items/x?q=1")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["x-agirails-tx-id"]
    assert shop.runs == before + 1


def test_a_body_in_chunks_is_served_whole_or_its_length_is_asked_for(running, shop):
    body, before = b"in chunks, " * 3_000, shop.runs
    headers = {
        **shop.signed("POST", POST, body),
        **{"Transfer-Encoding": "chunked", "Connection": "close"},
    }
    reply = send(shop.port, head("POST", POST, headers) + chunked(body))
    assert reply.status == running.server.chunked, reply
    if reply.status == 200:
        assert reply.json["body"] == body.decode()
    else:
        assert shop.runs == before


@pytest.mark.parametrize("paid", [True, False], ids=["paid", "unpaid"])
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_body_over_the_limit_is_413_which_reaches_its_writer(running, shop, coding, paid):
    # More than the buffers of two sockets hold, so that the writer is still writing.
    body, before = b"x" * 12_000_000, shop.runs
    headers = {"Connection": "close"}
    if paid:
        tx_id = shop.fund()
        headers |= shop.signed("POST", POST, body, tx_id=tx_id)
    if coding == "chunked":
        content, headers["Transfer-Encoding"] = chunked(body, 65_536), "chunked"
    else:
        content, headers["Content-Length"] = body, str(len(body))
    try:
        reply = send(shop.port, head("POST", POST, headers) + content)
    except OSError:
        # A server that cannot read chunks does not take the body: it cuts the connection.
        if coding == "chunked" and running.server.chunked == 411:
            return
        raise
    wanted = {413} if coding == "length" or running.server.chunked == 200 else {411}
    assert reply.status in wanted | (set() if paid else {402}), reply
    assert shop.runs == before
    if paid:
        # The transaction was not used.
        headers = shop.signed("POST", POST, b"short", tx_id=tx_id)
        assert shop.call("POST", POST, b"short", headers).status == 200


def test_a_body_at_the_limit_is_served(shop):
    body = b"x" * MAX_BODY_BYTES
    assert shop.pay("POST", POST, body).json["body"] == body.decode()


def test_a_repeat_gets_the_same_bytes_and_runs_nothing(shop):
    target, before = "/api/items/again?q=%41", shop.runs
    headers = shop.signed("POST", target, b"hello")
    first = shop.call("POST", target, b"hello", headers)
    assert first.status == 200
    # The same target in another spelling is the same request.
    for spelled in (target, "/api/items/%61gain?q=%41"):
        again = shop.call("POST", spelled, b"hello", headers)
        assert (again.status, again.body) == (200, first.body)
        assert "x-agirails-replay" in again.headers
        for name in ("x-agirails-receipt", "content-type", "content-length"):
            assert again.headers[name] == first.headers[name]
    assert shop.runs == before + 1


def test_equal_requests_at_once_are_one_run(shop):
    headers, before = shop.signed("POST", POST, b"hello"), shop.runs
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: shop.call("POST", POST, b"hello", headers), range(8)))
    assert [reply.status for reply in replies] == [200] * 8
    assert len({reply.body for reply in replies}) == 1
    assert shop.runs == before + 1


def test_a_stream_arrives_whole_and_is_repeated(shop):
    headers, wanted = shop.signed("GET", "/api/stream"), 20 * 1_000 * 10
    first = shop.call("GET", "/api/stream", None, headers)
    assert (first.status, len(first.body)) == (200, wanted)
    again = shop.call("GET", "/api/stream", None, headers)
    assert (again.status, again.body) == (200, first.body)


def test_paid_answers_are_kept_out_of_shared_caches(shop):
    headers = shop.signed("GET", "/api/items/private?q=1")
    for _ in range(2):
        reply = shop.call("GET", "/api/items/private?q=1", None, headers)
        assert reply.status == 200
        assert {"private", "no-store"} & set(reply.headers["cache-control"].split(", "))
        assert "x-agirails-tx-id" in reply.headers["vary"].lower()


def test_a_payment_header_that_stands_twice_is_refused(shop):
    target, before = "/api/items/twice?q=1", shop.runs
    first, second = shop.signed("GET", target), shop.signed("GET", target)
    for one, other in ((first, second), (second, first)):
        lines = head("GET", target, {**one, "Connection": "close"})[:-2]
        name = "X-AGIRAILS-TX-ID"
        reply = send(shop.port, lines + f"{name}: {other[name]}\r\n\r\n".encode())
        assert reply.status in (400, 401, 403), reply
    assert shop.runs == before


def test_after_an_early_answer_the_connection_is_closed_or_still_in_step(running, shop):
    """A body that nobody read must never be taken for the next request."""
    inner = head("GET", "/free", {"Content-Length": "0"})
    body = inner + b"x" * 30_000
    for headers in ({}, {"X-AGIRAILS-TX-ID": "malformed"}):
        with socket.create_connection(("127.0.0.1", shop.port), 5) as wire:
            wire.sendall(head("POST", POST, {"Content-Length": str(len(body)), **headers}) + body)
            assert read_reply(wire).status in (400, 402)
            if not running.server.keeps_alive:
                continue
            try:
                wire.sendall(head("GET", "/health", {"Connection": "close"}))
                following = read_reply(wire)
            except (ConnectionError, http.client.BadStatusLine):
                continue  # closed
            assert (following.status, following.json["status"]) == (200, "ok"), following


def test_a_client_that_expects_100_continue_is_answered(shop):
    headers = {
        **shop.signed("POST", POST, b"hello"),
        **{"Content-Length": "5", "Expect": "100-continue", "Connection": "close"},
    }
    with socket.create_connection(("127.0.0.1", shop.port), 20) as wire:
        wire.sendall(head("POST", POST, headers))
        wire.settimeout(3)
        try:
            assert wire.recv(4096).startswith((b"HTTP/1.1 100", b"HTTP/1.0 100"))
        except TimeoutError:
            pass  # not every server says it; then a client sends anyway
        wire.settimeout(20)
        wire.sendall(b"hello")
        reply = read_reply(wire)
    assert (reply.status, reply.json["body"]) == (200, "hello")


@pytest.mark.parametrize("running", ["granian wsgi", "hypercorn", "granian asgi"], indirect=True)
def test_a_signed_call_is_served_over_http_2(shop):
    """There no body is in chunks, and none must have a length."""
    target, url = "/api/items/a%20b?q=%41", f"http://127.0.0.1:{shop.port}"
    with httpx.Client(http1=False, http2=True, base_url=url, timeout=20) as client:
        assert client.post(target, content=b"hello").status_code == 402
        for content in (b"hello", iter([b"hel", b"lo"])):
            headers = shop.signed("POST", target, b"hello")
            reply = client.post(target, content=content, headers=headers)
            assert (reply.http_version, reply.status_code) == ("HTTP/2", 200), reply.text
            assert reply.json()["body"] == "hello"


def test_the_consumer_buys_and_verifies(shop):
    consumer = Consumer(shop.consumer, trusted=[f"http://127.0.0.1:{shop.port}"])
    url = f"http://127.0.0.1:{shop.port}/api/items/ü b+c~d?q=ü+x&r"
    answer = consumer.call(url, data=b"hello", max_amount="0.25", timeout=20)
    assert (answer.status, answer.json()["body"]) == (200, "hello")
    assert answer.payment.proof == "signed"
