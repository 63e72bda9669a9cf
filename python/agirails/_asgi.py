"""One paid call of an ASGI application: the bytes of its request and its response pass here."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ._paywall import (
    DRAIN_SECONDS,
    MAX_BUILTIN_BYTES,
    PAYMENT_HEADERS,
    BrokenOff,
    below,
    current,
    dearest,
    fetcher,
)

try:
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
except ModuleNotFoundError:  # another framework, or none
    run_in_threadpool = asyncio.to_thread  # type: ignore
    JSONResponse = Request = Response = None  # type: ignore
    HTTPException = ()  # type: ignore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._agirails import _Answer, _Exchange, _Head
    from ._paywall import Price
    from .asgi import Paywall

__all__ = ["HTTPException", "JSONResponse", "run_in_threadpool"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_PAYMENT_HEADERS = tuple(name.encode() for name in PAYMENT_HEADERS)
# With these, a response's bytes would leave without passing here.
_SHORT_CUTS = ("http.response.pathsend", "http.response.zerocopysend", "http.response.trailers")


class Rejected(Exception):
    """The request is rejected. The middleware answers in place of what becomes of this."""


_call: ContextVar[Call | None] = ContextVar("agirails.call", default=None)


def this_call() -> Call:
    call = _call.get()
    if call is None:
        raise RuntimeError(
            "a function under @paywall.charge(...) was called outside of its paywall: pass the "
            "application to Paywall(client, app=app)"
        )
    return call


class Call:
    """One request and its response, whose bytes pass through the exchange."""

    def __init__(self, paywall: Paywall, scope: Scope, receive: Receive, send: Send) -> None:
        self.paywall, self.scope = paywall, scope
        self.raw_receive, self.raw_send = receive, send
        self.has_payment = any(name in _PAYMENT_HEADERS for name, _ in scope["headers"])
        # The request.
        self.exchange: _Exchange | None = None
        self.prices: list[Price] = []
        self.route: tuple[str, Sequence[str]] | None = None
        self.held: deque[Message] = deque()
        self.reading = asyncio.Lock()
        self.is_read = self.is_broken = self.is_head_admitted = False
        self.answer: _Answer | None = None
        self.early: _Answer | None = None
        # The response.
        self.start: Message | None = None
        self.head: _Head | None = None
        self.is_started = self.is_over = self.is_gone = False
        self.over = asyncio.Event()
        if self.has_payment:
            hidden = self.begin().hidden_headers
            scope["headers"] = [
                pair for pair in scope["headers"] if pair[0].decode("latin-1") not in hidden
            ]

    def name(self, price: Price) -> tuple[str, Sequence[str]]:
        """What the route of this request is called, and its methods."""
        raise NotImplementedError

    def route_prices(self) -> Sequence[Price]:
        """The prices on the endpoint of this request and on what it depends on."""
        return ()

    def begin(self) -> _Exchange:
        if self.exchange is None:
            scheme = self.scope.get("scheme", "http")
            self.exchange = self.paywall._core.exchange(
                None, *request_parts(self.scope), scheme=scheme
            )
        return self.exchange

    @property
    def is_running(self) -> bool:
        return self.exchange is not None and self.exchange.is_running

    # The request

    async def receive(self) -> Message:
        if self.held:
            return self.held.popleft()
        if self.is_read and self.is_running:
            # A caller that goes away does not end what it paid for.
            await self.over.wait()
            return {"type": "http.disconnect"}
        if self.is_read or not self.route_prices():
            return await self.next_message(False)
        # The framework reads a form before it calls the endpoint that has the price; and a response
        # that streams listens for the caller's end while the endpoint asks for its payment.
        async with self.reading:
            if not (self.is_read or self.held):
                return await self.receive_charged(self.begin())
        return await self.receive()

    async def receive_charged(self, exchange: _Exchange) -> Message:
        if self.has_payment and not self.prices:
            self.answer = await self.admit_head(exchange, dearest(self.route_prices()))
        message = {} if self.answer else await self.next_message(True)
        self.answer = self.answer or self.early
        if self.answer is not None:
            raise Rejected
        return message

    async def next_message(self, is_timed: bool) -> Message:
        """One more message of the server's, which the exchange sees too."""
        exchange = self.exchange
        patience = exchange.body_seconds_left if exchange is not None and is_timed else None
        try:
            message = await asyncio.wait_for(self.raw_receive(), patience)
        except asyncio.TimeoutError:
            assert exchange is not None
            self.early = exchange.too_slow()
            return {"type": "http.disconnect"}
        if message["type"] != "http.request":
            self.is_broken = not self.is_read
        else:
            self.is_read = not message.get("more_body", False)
            if exchange is not None and self.early is None:
                self.early = exchange.body(message.get("body", b""))
        return message

    async def read(self, exchange: _Exchange) -> _Answer | None:
        """Reads the rest of the body; the application sees it later. An answer ends the call."""
        while not (self.is_read or self.is_broken or self.early):
            self.held.append(await self.next_message(True))
        if self.early is not None or self.is_read:
            return self.early
        return exchange.unreadable()

    async def drain(self, answer: _Answer) -> None:
        """Reads on for a while: a caller that is still writing would not see its answer."""
        left = answer.drain_bytes

        async def drained() -> None:
            nonlocal left
            while left > 0 and not (self.is_read or self.is_broken):
                message = await self.raw_receive()
                self.is_broken = message["type"] != "http.request"
                self.is_read = not message.get("more_body", False)
                left -= len(message.get("body", b""))

        try:
            await asyncio.wait_for(drained(), DRAIN_SECONDS)
        except asyncio.TimeoutError:
            pass

    async def enter(self, price: Price) -> bool:
        """Whether the endpoint may run. Otherwise there is an answer."""
        if self.answer is not None:
            return False
        exchange = self.begin()
        if self.prices:
            # A charged function called another one.
            if price in self.prices or await self.is_covered(price, exchange):
                return True
            await exchange.abort("raised", "it called a charged function that costs more")
            body, self.exchange = exchange.body_bytes, None
            exchange, self.prices = self.begin(), [price]
            self.is_head_admitted, self.early = False, exchange.body(body)
        elif self.is_started:
            raise RuntimeError("the response had begun before its payment was checked")
        else:
            self.prices = list(dict.fromkeys([*self.route_prices(), price]))
        async with self.reading:
            self.answer = self.answer or await self.admit(exchange)
        if self.answer is not None:
            return False
        # In the context of this request's own task, which ends with it.
        current.set(exchange.payment)
        self.scope.setdefault("state", {})["payment"] = exchange.payment
        return True

    async def is_covered(self, price: Price, exchange: _Exchange) -> bool:
        amount = await self.amount(price, exchange)
        paid = exchange.payment.price if exchange.payment is not None else 0
        return amount is not None and amount <= paid

    async def admit_head(self, exchange: _Exchange, price: Price | None) -> _Answer | None:
        """The checks that need no body; none where only the body tells the price."""
        if price is None or self.is_head_admitted:
            return None
        self.is_head_admitted = True
        self.route = self.route or self.name(price)
        name, methods = self.route
        exchange.set_charge(price.named(name), methods)
        answer: _Answer | None = await exchange.admit_head()
        return answer

    async def admit(self, exchange: _Exchange) -> _Answer | None:
        price, amount = dearest(self.prices), None
        answer = await self.admit_head(exchange, price) or await self.read(exchange)
        if answer is not None:
            return answer
        if price is None:
            amounts = [(await self.amount(price, exchange), price) for price in self.prices]
            # A price that cannot be told counts as the dearest, and is answered so.
            amount, price = max(amounts, key=lambda pair: (pair[0] is None, pair[0] or 0))
            answer = await self.admit_head(exchange, price)
        elif price.function is not None:
            amount = await self.amount(price, exchange)
        answer = answer or await exchange.admit(None if price.function is None else amount)
        return answer

    async def amount(self, price: Price, exchange: _Exchange) -> int | None:
        """The price of this very request; None where its function failed."""
        if price.function is None:
            return price.amount
        body = exchange.body_bytes

        async def whole() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        request = self.scope if Request is None else Request(dict(self.scope), whole)
        try:
            result = price.ask(request)
            return price.read(await result if inspect.isawaitable(result) else result)
        except HTTPException:
            self.prices = []
            raise
        except Exception as error:
            price.failed(error)
            return None

    def stand_in(self) -> Any:
        """What a function returns that is not run."""
        if Response is None:
            raise Rejected
        return Response(status_code=self.answer.status if self.answer else 500)

    # The response

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.is_over:
            return
        if kind == "http.response.start":
            self.start = message
            # An endpoint that generates asks for its payment after this.
            if not (self.prices or self.route_prices()):
                await self.send_start()
        elif kind != "http.response.body":
            await self.raw_send(message)
        elif self.answer is not None:
            await self.send_answer(self.answer)
        elif self.exchange is not None and (self.head is not None or self.is_running):
            await self.send_paid(self.exchange, message)
        else:
            await self.send_start()
            await self.pass_on(message)

    async def send_start(self, headers: Iterable[tuple[bytes, bytes]] | None = None) -> None:
        if self.start is None or self.is_started:
            return
        self.is_started = True
        await self.pass_on(self.start if headers is None else {**self.start, "headers": headers})

    async def send_answer(self, answer: _Answer) -> None:
        self.is_over = self.is_started = True
        if not answer.is_handlers:
            if self.exchange is not None and self.start is not None:
                answer = self.exchange.decorate(answer, _pairs(self.start))
            await self.drain(answer)
        if self.exchange is not None and self.exchange.has_rest:
            return await self.give_again(answer, self.exchange)
        for message in _messages(answer):
            await self.pass_on(message)

    async def give_again(self, answer: _Answer, exchange: _Exchange) -> None:
        """A long answer that is kept, as its caller reads it."""
        start, end = _messages(answer)
        await self.pass_on(start)
        while not self.is_gone:
            patience, piece = exchange.patience, await exchange.next_piece()
            if piece is None:
                return await self.pass_on(end)
            await self.pass_on({**end, "body": piece, "more_body": True}, patience)
        # The caller went away, or does not read: what has no end is not taken for the whole.

    async def send_paid(self, exchange: _Exchange, message: Message) -> None:
        assert self.start is not None, "a response must begin with its start"
        piece, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if self.head is None:
            pairs = _pairs(self.start)
            length = _length(pairs) if more else len(piece)
            self.head = exchange.head(self.start["status"], pairs, length)
            if self.head.action == "pass":
                await exchange.end()
            if self.head.action != "buffer":
                await self.send_start(self.head.raw_headers)
        if self.head.action == "pass":
            return await self.pass_on(message)
        out = exchange.chunk(piece)
        if self.head.action == "stream" and out:
            part = {"type": "http.response.body", "body": out, "more_body": True}
            await self.pass_on(part, exchange.patience)
        if more:
            return
        if self.head.action == "buffer":
            return await self.send_answer(await exchange.end())
        self.is_over = True
        if not await exchange.end():
            raise BrokenOff
        await self.pass_on({"type": "http.response.body", "body": exchange.held})

    async def pass_on(self, message: Message, patience: float | None = None) -> None:
        if self.is_gone:
            return
        try:
            await asyncio.wait_for(self.raw_send(message), patience)
        except Exception:
            # The caller went away, or does not read: no reason to stop what it paid for.
            if not self.has_payment:
                raise
            self.is_gone = True

    # The end

    async def run(self, app: App) -> None:
        """The application, to its end, whoever waits for it."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            await self.abort(error)
            # The application may have made what it liked of a function that did not run.
            if self.answer is None or not isinstance(error, Exception):
                raise
        else:
            await self.abort(None)
        finally:
            self.over.set()
            fetcher.fetch()
        if self.answer is not None and not self.is_over:
            await self.send_answer(self.answer)

    async def abort(self, error: BaseException | None) -> None:
        """Gives back what is not ended."""
        if self.exchange is None:
            return
        if error is None:
            await self.exchange.abort("never_ended")
        elif isinstance(error, asyncio.CancelledError):
            await self.exchange.abort("cancelled")
        else:
            is_streaming = self.head is not None and self.head.action == "stream"
            await self.exchange.abort("broke_off" if is_streaming else "raised", _kind(error))


def _kind(error: BaseException) -> str:
    """The exception's type; of a task group's, the one inside."""
    inner = getattr(error, "exceptions", None)
    return _kind(inner[0]) if inner else type(error).__name__


_tasks: set[asyncio.Task[None]] = set()
"""The event loop holds its tasks weakly."""


async def serve(call: Call, app: App) -> None:
    """Runs the application around one call. What may be paid for runs in a task of its own: a
    server, or a timeout, that ends the request does not end that."""
    if not call.has_payment:
        token = _call.set(call)
        try:
            return await call.run(app)
        finally:
            _call.reset(token)
    extensions = call.scope.get("extensions") or {}
    call.scope["extensions"] = {k: v for k, v in extensions.items() if k not in _SHORT_CUTS}

    async def alone() -> None:
        _call.set(call)
        await call.run(app)

    task = asyncio.create_task(alone())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    await asyncio.shield(task)


def method_of(scope: Scope) -> str:
    """The method under which a route is known: HEAD costs what GET costs.

    Not every server refuses a method in lower case, and there are applications that answer it.
    """
    method: str = scope["method"].upper()
    return "GET" if method == "HEAD" else method


def mount_of(scope: Scope) -> str:
    """The path that the application is mounted under."""
    return str(scope.get("root_path", "")).rstrip("/")


def raw_path(scope: Scope) -> str:
    """The path as it stands in the request line; encoded again where the server does not give it."""
    raw: bytes | None = scope.get("raw_path")
    if not raw:
        return _encoded(scope["path"])
    path = raw.partition(b"?")[0].decode("latin-1")
    if path.startswith("/"):
        return path
    # The absolute form, which is meant for proxies.
    _, _, rest = path.partition("://")
    return f"/{rest.partition('/')[2]}"


def _encoded(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=~")


def request_parts(scope: Scope) -> tuple[str, str, list[tuple[bytes, bytes]], str]:
    """Method, target, headers and mount path, as the paywall takes them."""
    query = scope.get("query_string", b"").decode("latin-1")
    target, mount = raw_path(scope), _encoded(mount_of(scope))
    target = below(mount, f"{target}?{query}" if query else target)
    return scope["method"], target, list(map(tuple, scope["headers"])), mount


def _pairs(start: Message) -> list[tuple[bytes, bytes]]:
    return list(map(tuple, start.get("headers", ())))


def _length(pairs: Iterable[tuple[bytes, bytes]]) -> int | None:
    lengths = [value for name, value in pairs if name.lower() == b"content-length"]
    return int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else None


async def send_page(paywall: Paywall, scope: Scope, receive: Receive, send: Send) -> bool:
    """Answers a built-in route; whether it was one."""
    method, body, more = scope["method"], b"", scope["method"] == "POST"
    while more and len(body) <= MAX_BUILTIN_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    method, target, headers, mount = request_parts(scope)
    scheme = scope.get("scheme", "http")
    answer = await paywall._core.page(method, target, headers, body, mount, scheme=scheme)
    fetcher.fetch()
    if answer is not None:
        for message in _messages(answer):
            await send(message)
    elif method == "POST":
        # Its body was read: nobody else can answer it any more.
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    else:
        return False
    return True


class Dashboard:
    """The dashboard, as an application of its own."""

    def __init__(self, paywall: Paywall) -> None:
        self._paywall = paywall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # For whoever serves it by itself: it has nothing to begin or to end.
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            return await send({"type": "lifespan.shutdown.complete"})
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1000})
        mount = mount_of(scope)
        path, query = below(mount, scope["path"]), scope.get("query_string", b"").decode("latin-1")
        answer = await self._paywall._core.dashboard(scope["method"], mount, path, query)
        fetcher.fetch()
        for message in _messages(answer):
            await send(message)


def _messages(answer: _Answer) -> tuple[Message, Message]:
    headers, body = answer.raw_headers, answer.body
    # A server that is not told the length sends pieces.
    if answer.status not in (204, 304) and _length(headers) is None:
        headers.append((b"content-length", b"%d" % len(body)))
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    return start, {"type": "http.response.body", "body": body}
