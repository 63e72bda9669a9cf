"""Paid services of every adapter, in this process and as servers, and consumers who sign."""

import asyncio
import base64
import http.client
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from support import PRICE, fund, new_key, until
from werkzeug.test import EnvironBuilder, run_wsgi_app

from agirails import ACTPClient, State, sign_request

TARGET = "/api/generate?x=%41b"
SECRET = "a-secret-of-the-inside"


class Reply(NamedTuple):
    """A response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def receipt(self) -> dict[str, Any]:
        return json.loads(base64.b64decode(self.headers["x-agirails-receipt"]))


class Parts(NamedTuple):
    """A handler's view of its request, whatever the framework."""

    paywall: Any
    runs: list[Any]

    def generate(self, body: bytes) -> Any:
        """The service: what it does depends on the body."""
        payment = self.paywall.payment
        self.runs.append(payment)
        if body == b"raise" or (body == b"raise once" and payment.attempt == 1):
            raise ValueError(SECRET)
        return {
            "body": body.decode("latin-1"),
            "attempt": payment.attempt,
            "txId": payment.transaction_id,
            "requester": payment.requester,
            "price": payment.price,
            "amount": payment.amount,
            "deadline": payment.deadline,
            "callKey": payment.call_key,
            "idempotencyKey": payment.idempotency_key,
        }


def price_of(query: str) -> Any:
    """What the price functions return: the query's text."""
    if query == "raise":
        raise ValueError(SECRET)
    return {"none": None, "float": 0.1}.get(query, query)


def flask_app(client: Any, runs: list[Any], **settings: Any) -> tuple[Any, Any]:
    from flask import Flask, abort, request, stream_with_context

    from agirails.flask import Paywall

    app = Flask(__name__)
    paywall = Paywall(client, app=app, **settings)
    parts = Parts(paywall, runs)

    @app.post("/api/generate")
    @paywall.charge("0.10")
    def generate():
        body = request.get_data()
        if body.startswith(b"status "):
            return "no", int(body[7:])
        if body.startswith(b"abort "):
            abort(int(body[6:]), SECRET)
        return parts.generate(body)

    @app.get("/api/stream/<int:pieces>")
    @paywall.charge("0.10")
    def stream(pieces: int):
        runs.append(paywall.payment)

        def generated():
            for number in range(pieces):
                assert paywall.payment.attempt
                yield f"{number:9}\n"
            if "raise" in request.args:
                raise ValueError(SECRET)
            if "late" in request.args:
                client.mock.advance_time(150)
                # The paywall looks at the kernel's clock every second.
                time.sleep(1.5)
                yield "what comes too late"

        return stream_with_context(generated()), 500 if "broken" in request.args else 200

    @app.post("/api/cheap")
    @paywall.charge("0.02", calls=5)
    async def cheap():
        return parts.generate(request.get_data())

    @app.get("/api/priced")
    @paywall.charge(lambda request: price_of(request.query_string.decode()))
    def priced():
        return parts.generate(b"")

    async def slowly(request):
        return price_of(request.query_string.decode())

    @app.get("/api/priced/async")
    @paywall.charge(slowly)
    def priced_async():
        return parts.generate(b"")

    @app.get("/free")
    def free():
        return {"free": True}

    return app, paywall


def fastapi_app(client: Any, runs: list[Any], **settings: Any) -> tuple[Any, Any]:
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import JSONResponse, StreamingResponse

    from agirails.asgi import Paywall

    app = FastAPI()
    paywall = Paywall(client, app=app, **settings)
    parts = Parts(paywall, runs)

    @app.post("/api/generate")
    @paywall.charge("0.10")
    async def generate(request: Request):
        body = await request.body()
        if body.startswith(b"status "):
            return JSONResponse("no", int(body[7:]))
        if body.startswith(b"abort "):
            raise HTTPException(int(body[6:]), SECRET)
        assert request.state.payment == paywall.payment
        return parts.generate(body)

    @app.get("/api/stream/{pieces}")
    @paywall.charge("0.10")
    def stream(pieces: int, request: Request):
        runs.append(paywall.payment)

        async def generated():
            for number in range(pieces):
                assert paywall.payment.attempt
                yield f"{number:9}\n"
                await asyncio.sleep(0)
            if "raise" in request.query_params:
                raise ValueError(SECRET)

        return StreamingResponse(generated(), 500 if "broken" in request.query_params else 200)

    @app.post("/api/cheap")
    @paywall.charge("0.02", calls=5)
    async def cheap(request: Request):
        return parts.generate(await request.body())

    @app.get("/api/priced")
    @paywall.charge(lambda request: price_of(request.url.query))
    def priced():
        return parts.generate(b"")

    async def slowly(request):
        assert await request.body() == b""
        return price_of(request.url.query)

    @app.get("/api/priced/async")
    @paywall.charge(slowly)
    def priced_async():
        return parts.generate(b"")

    @app.get("/free")
    def free():
        return {"free": True}

    return app, paywall


def asgi_app(client: Any, runs: list[Any], **settings: Any) -> tuple[Any, Any]:
    """No framework at all."""
    from agirails.asgi import Paywall

    paywall = Paywall(client, **settings)
    parts = Parts(paywall, runs)

    async def app(scope, receive, send):
        body, more, query = b"", True, scope["query_string"].decode()
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body, more = body + message.get("body", b""), message.get("more_body", False)

        async def start(status, content_type=b"application/json"):
            headers = [(b"content-type", content_type)]
            await send({"type": "http.response.start", "status": status, "headers": headers})

        if scope["path"].startswith("/api/stream/"):
            runs.append(paywall.payment)
            await start(500 if "broken" in query else 200, b"text/plain; charset=utf-8")
            for number in range(int(scope["path"].rpartition("/")[2])):
                piece = f"{number:9}\n".encode()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if "raise" in query:
                raise ValueError(SECRET)
            return await send({"type": "http.response.body"})
        status, answer = 200, None
        if scope["path"] == "/free":
            answer = {"free": True}
        elif scope["path"] not in (
            "/api/generate",
            "/api/cheap",
            "/api/priced",
            "/api/priced/async",
        ):
            status, answer = 404, "no such page"
        elif body.startswith((b"status ", b"abort ")):
            status, answer = int(body.split()[1]), "no"
        else:
            assert scope["state"]["payment"] == paywall.payment
            answer = parts.generate(body)
        await start(status)
        content = b"" if status == 204 else json.dumps(answer).encode()
        await send({"type": "http.response.body", "body": content})

    async def slowly(request):
        return price_of(request.url.query)

    routes = {
        "POST /api/generate": "0.10",
        "GET /api/stream/{pieces}": {"price": "0.10"},
        "POST /api/cheap": {"price": "0.02", "calls": 5},
        "GET /api/priced": lambda request: price_of(request.url.query),
        "GET /api/priced/async": slowly,
    }
    return paywall.wrap(app, routes), paywall


MAKERS = {"flask": flask_app, "fastapi": fastapi_app, "asgi": asgi_app}


def ask_wsgi(app: Any, method: str, target: str, headers: Mapping[str, str], body: Any) -> Reply:
    """One request to a Flask application. A body in pieces breaks off where the last is None."""
    pieces = body if isinstance(body, list) else [body]
    known = b"".join(piece for piece in pieces if piece is not None)
    builder = EnvironBuilder(target, method=method, headers=dict(headers), data=known)
    environ = builder.get_environ()
    if pieces[-1] is None:
        environ["CONTENT_LENGTH"] = str(len(known) + 1)
    answered, status, given = run_wsgi_app(app.wsgi_app, environ, buffered=True)
    named = {name.lower(): value for name, value in given}
    return Reply(int(status.split()[0]), named, b"".join(answered))


async def asked(
    app: Any,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Any,
    stay: int | None = None,
) -> Reply:
    """One request to an ASGI application. A consumer that stays for some pieces is gone then."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    pieces = body if isinstance(body, list) else [body]
    messages: list[Any] = [
        {"type": "http.request", "body": piece, "more_body": number + 1 < len(pieces)}
        if piece is not None
        else {"type": "http.disconnect"}
        for number, piece in enumerate(pieces)
    ]
    gone = asyncio.Event()
    sent: list[Any] = []

    async def receive():
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if stay is not None and len(sent) > stay:
            gone.set()
            raise OSError("the consumer is gone")
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            gone.set()

    await asyncio.wait_for(app(scope, receive, send), 60)
    start, *rest = sent
    given = {name.decode(): value.decode() for name, value in start["headers"]}
    content = b"".join(message.get("body", b"") for message in rest)
    return Reply(start["status"], given, content)


class Stage:
    """A provider with a paid service, and consumers around it, on one state."""

    def __init__(self, directory: Path, kind: str, key: str | None = None, **settings: Any) -> None:
        self.directory, self.kind, self.runs = directory, kind, []
        self.provider = self.client(key)
        self.consumer = self.client()
        self.stranger = self.client()
        self.app, self.paywall = MAKERS[kind](self.provider, self.runs, **settings)

    def client(self, key: str | None = None) -> ACTPClient:
        return ACTPClient(private_key=key or new_key(), state_directory=self.directory)

    def fund(self, amount: int = PRICE, **options: Any) -> str:
        """A transaction that is bound to this service."""
        options.setdefault("metadata", self.paywall.service_hash)
        return fund(self.consumer, self.provider.address, amount, **options)

    def ask(self, method: str, target: str, body: Any = b"", **headers: str) -> Reply:
        """Header names with underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.kind == "flask":
            return ask_wsgi(self.app, method, target, named, body)
        return asyncio.run(asked(self.app, method, target, named, body))

    def headers(
        self,
        tx_id: str,
        method: str = "POST",
        target: str = TARGET,
        body: bytes = b"{}",
        key: str = "",
        by: ACTPClient | None = None,
        **options: Any,
    ) -> dict[str, str]:
        signed = sign_request(
            by or self.consumer, tx_id, method, target, body, idempotency_key=key, **options
        )
        named = {"X_AGIRAILS_TX_ID": tx_id, "X_AGIRAILS_SIGNATURE": signed}
        return {**named, "Idempotency_Key": key} if key else named

    def pay(
        self,
        tx_id: str,
        body: bytes = b"{}",
        method: str = "POST",
        target: str = TARGET,
        key: str = "",
    ) -> Reply:
        """A request that its requester signed."""
        return self.ask(method, target, body, **self.headers(tx_id, method, target, body, key))

    def becomes(self, tx_id: str, state: State) -> None:
        until(lambda: self.consumer.advanced.get_transaction(tx_id).state is state)


def request(
    port: int,
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> Reply:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        connection.request(method, target, body, named)
        answer = connection.getresponse()
        given = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, given, answer.read())
    finally:
        connection.close()
