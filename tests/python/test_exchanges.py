"""The scripted exchanges of tests/vectors/exchanges.json, over real HTTP to Flask and FastAPI."""

import asyncio
import http.client
import json
import logging
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from support import ROOT, free_port, fund, new_hash, new_key, until

from agirails import ACTPClient, sign_request

TABLE = json.loads((ROOT / "tests" / "vectors" / "exchanges.json").read_text())
SETTINGS = TABLE["settings"]
PAYWALL = {
    name: SETTINGS[name]
    for name in ("max_body_bytes", "max_kept_stream_bytes", "body_seconds", "unsigned")
}
METHODS = ["GET", "HEAD", "POST", "OPTIONS"]
ROUTES = ("paid", "priced_raises", "priced_free", "nested")


class Script:
    """What the handler does, and how often it did."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self.handlers = {item["name"]: item.get("handler", {}) for item in TABLE["exchanges"]}

    def begin(self, name: str) -> dict[str, Any]:
        self.runs[name] = self.runs.get(name, 0) + 1
        handler = self.handlers[name.partition("|")[0]]
        if handler["sends"] == "raise":
            raise ValueError("scripted")
        return handler

    @staticmethod
    def pieces(handler: dict[str, Any]) -> list[bytes]:
        return [piece.encode() for piece in handler["body"]] * handler.get("repeat", 1)

    @staticmethod
    def headers(handler: dict[str, Any]) -> list[tuple[str, str]]:
        headers = [tuple(pair) for pair in handler.get("headers", [])]
        if "length" in handler:
            headers.append(("Content-Length", str(handler["length"])))
        return headers


def raising() -> str:
    raise ValueError("scripted")


def flask_service(client: ACTPClient, script: Script) -> Any:
    from flask import Flask, Response, request

    from agirails.flask import Paywall

    app = Flask(__name__)
    paywall = Paywall(client, app=app, **PAYWALL)

    def run():
        handler = script.begin(request.args["script"])
        pieces, sends = script.pieces(handler), handler["sends"]

        def generated():
            for piece in pieces:
                time.sleep(0.1 if sends == "slow stream" else 0)
                yield piece
            time.sleep(0.1 if sends == "slow stream" else 0)
            if handler.get("then") == "raise":
                raise ValueError("scripted")

        if sends == "slow":
            time.sleep(0.5)
        body = generated() if "stream" in sends else b"".join(pieces)
        response = Response(body, handler["status"])
        response.headers.clear()
        for name, value in script.headers(handler):
            response.headers.add(name, value)
        return response

    inner = paywall.charge("0.05")(run)
    prices = dict.fromkeys(ROUTES, SETTINGS["price"])
    prices |= {"priced_raises": raising, "priced_free": lambda: 0}
    for route in ROUTES:
        view = paywall.charge(prices[route])(lambda: inner()) if route == "nested" else None
        view = view or paywall.charge(prices[route])(lambda: run())
        app.add_url_rule(f"/{route}", route, view, methods=METHODS)
    return app


def fastapi_service(client: ACTPClient, script: Script) -> Any:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response, StreamingResponse

    from agirails.asgi import Paywall

    app = FastAPI()
    paywall = Paywall(client, app=app, **PAYWALL)

    async def run(request: Request):
        handler = script.begin(request.query_params["script"])
        pieces, sends = script.pieces(handler), handler["sends"]

        async def generated():
            for piece in pieces:
                await asyncio.sleep(0.1 if sends == "slow stream" else 0)
                yield piece
            await asyncio.sleep(0.1 if sends == "slow stream" else 0)
            if handler.get("then") == "raise":
                raise ValueError("scripted")

        if sends == "slow":
            await asyncio.sleep(0.5)
        if "stream" in sends:
            response: Response = StreamingResponse(generated(), handler["status"])
        else:
            response = Response(b"".join(pieces), handler["status"])
        own = [(n.lower().encode(), v.encode()) for n, v in script.headers(handler)]
        length = [pair for pair in response.raw_headers if pair[0] == b"content-length"]
        response.raw_headers = own + ([] if dict(own).get(b"content-length") else length)
        return response

    inner = paywall.charge("0.05")(run)

    async def nested(request: Request):
        return await inner(request)

    prices = dict.fromkeys(ROUTES, SETTINGS["price"])
    prices |= {"priced_raises": raising, "priced_free": lambda: 0}
    for route in ROUTES:
        # A function of its own for each: a price is put on a function.
        async def plain(request: Request):
            return await run(request)

        view = paywall.charge(prices[route])(nested if route == "nested" else plain)
        app.add_api_route(f"/{route}", view, methods=METHODS)
    return app


def serve_flask(app: Any, port: int) -> Any:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            pass

    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.shutdown, server.server_close


def serve_fastapi(app: Any, port: int) -> Any:
    import uvicorn

    config = uvicorn.Config(app, "127.0.0.1", port, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True

    return stop, lambda: thread.join(30)


SERVICES = {"flask": (flask_service, serve_flask), "asgi": (fastapi_service, serve_fastapi)}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool


class Stage:
    """A served paywall, and who calls it."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind, self.script, self.port = kind, Script(), free_port()
        self.provider = ACTPClient(private_key=new_key(), state_directory=directory)
        self.consumer = ACTPClient(private_key=new_key(), state_directory=directory)
        self.stranger = ACTPClient(private_key=new_key(), state_directory=directory)
        make, serve = SERVICES[kind]
        self.app = make(self.provider, self.script)
        self.stop = serve(self.app, self.port)
        until(lambda: self.is_up())

    def is_up(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def payment(self, asked: dict[str, Any], target: str, body: bytes, tx_id: str | None) -> Any:
        """The transaction and the headers of a request."""
        kind = asked["payment"]
        if kind in ("none", "malformed", "unknown"):
            given = {"none": None, "malformed": "nonsense", "unknown": new_hash()}[kind]
            return given, {} if given is None else {"X-AGIRAILS-TX-ID": given}
        if kind != "same":
            amount, service = SETTINGS["amount"], self.page("/api/pricing")["serviceHash"]
            tx_id = fund(self.consumer, self.provider.address, amount, metadata=service)
        assert tx_id is not None, "the first request of an exchange has no id to repeat"
        signer = self.stranger if kind == "stranger" else self.consumer
        at = int(time.time()) - 301 if kind == "stale" else None
        signed = sign_request(signer, tx_id, asked["method"], target, body, timestamp=at)
        return tx_id, {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signed}

    def page(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        page = json.loads(answer.read())
        connection.close()
        return page

    def calls(self, tx_id: str) -> int | None:
        return self.page(f"/api/payments/{tx_id}").get("calls")


@pytest.fixture(scope="module", params=SERVICES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    stage = Stage(request.param, tmp_path_factory.mktemp("exchanges"))
    yield stage
    for step in stage.stop:
        step()


def send(
    wire: socket.socket, asked: dict[str, Any], target: str, headers: Any, body: bytes
) -> None:
    """One request, framed as the table says."""
    framing = asked.get("framing", "length")
    lines = [f"{asked['method']} {target} HTTP/1.1", "Host: h", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"{name}: {value}" for name, value in asked.get("headers", [])]
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        chunks = [body[at : at + 8192] for at in range(0, len(body), 8192)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body) + (10 if framing == 'short' else 0)}")
    if framing == "slow":
        body = body[:1]
    if asked.get("gone") == "before the body's end":
        body = body[: len(body) // 2]
    wire.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    if framing == "short":
        wire.shutdown(socket.SHUT_WR)


def receive(wire: socket.socket, method: str) -> Reply:
    answer = http.client.HTTPResponse(wire, method=method)
    answer.begin()
    try:
        body, is_whole = answer.read(), True
    except http.client.IncompleteRead as error:
        body, is_whole = error.partial, False
    finally:
        answer.close()
    headers: dict[str, str] = {}
    for name, value in answer.getheaders():
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Reply(answer.status, headers, body, is_whole)


def leave(wire: socket.socket, gone: str) -> None:
    """Waits for the moment at which the caller goes away."""
    if gone in ("before the body's end", "while the handler runs"):
        time.sleep(0.2)
    wanted = {
        "before the stream's first piece": b"",
        "in the middle of a stream": b"one ",
        "before the stream's last piece": b"two ",
    }.get(gone)
    if wanted is not None:
        got = b""
        while b"\r\n\r\n" not in got if not wanted else wanted not in got:
            piece = wire.recv(4096)
            if not piece:
                break
            got += piece


def check(stage: Stage, expect: dict[str, Any], reply: Reply, where: str) -> None:
    problem = reply.body.decode(errors="replace")[:400]
    assert reply.status == expect["status"], (where, reply.status, problem)
    if "body" in expect:
        assert reply.body.decode() == expect["body"], where
    if "problem" in expect:
        assert json.loads(reply.body)["type"].rpartition(":")[2] == expect["problem"], where
    for name, value in expect.get("headers", {}).items():
        assert name in reply.headers, (where, name, reply.headers)
        assert value in ("*", reply.headers[name]), (where, name, reply.headers[name])
    for name in expect.get("absent", ()):
        assert name not in reply.headers, (where, name)
    if "whole" in expect:
        assert reply.is_whole == expect["whole"], where


@pytest.mark.parametrize("exchange", TABLE["exchanges"], ids=lambda item: item["name"])
def test_each_exchange_comes_out_as_the_table_says(stage, exchange, caplog):
    caplog.set_level(logging.INFO, "agirails.paywall")
    differs = exchange.get("except", {}).get(stage.kind, {})
    if "skip" in differs:
        pytest.skip(differs["skip"])
    name, tx_id = f"{exchange['name']}|{uuid.uuid4().hex}", None
    for number, asked in enumerate(exchange["requests"]):
        where = f"{exchange['name']}, request {number + 1}"
        expect = {**asked["expect"], **differs.get("expect", {})}
        target = f"/{asked.get('route', 'paid')}?script={quote(name)}"
        body = b"x" * asked["size"] if "size" in asked else asked["body"].encode()
        tx_id, headers = stage.payment(asked, target, body, tx_id)
        before = len(caplog.records)
        with socket.create_connection(("127.0.0.1", stage.port), 30) as wire:
            send(wire, asked, target, headers, body)
            if "gone" in asked:
                leave(wire, asked["gone"])
            elif expect["status"] is None:
                assert wire.recv(1) == b"", where
            else:
                check(stage, expect, receive(wire, asked["method"]), where)
        # What a caller that went away paid for ends without it, and is told when it has.
        check_log(caplog, before, expect["log"], where)
        assert stage.script.runs.get(name, 0) == expect["runs"], where
        if tx_id is not None and tx_id.startswith("0x"):
            assert stage.calls(tx_id) == expect["calls"], where


def told(caplog: Any, since: int) -> list[logging.LogRecord]:
    """The paywall's events of calls."""
    kinds = ("served", "repeated", "run_failed", "rejected")
    return [r for r in caplog.records[since:] if getattr(r, "event", None) in kinds]


def check_log(caplog: Any, since: int, wanted: dict[str, Any] | None, where: str) -> None:
    if wanted is None:
        time.sleep(0.3)
        assert told(caplog, since) == [], where
        return
    until(lambda: bool(told(caplog, since)), 10)
    record, *others = told(caplog, since)
    # The operator is also told what the caller of a run that failed got.
    assert [other.event for other in others] in ([], ["rejected"]), where
    assert record.levelname.lower() == wanted["level"], (where, record.getMessage())
    for field, value in wanted.items():
        if field != "level":
            assert getattr(record, field, None) == value, (where, field, record.getMessage())
    if record.event == "served":
        for field in ("route", "transaction", "requester", "price", "attempt", "status", "seconds"):
            assert getattr(record, field, None) is not None, (where, field)
