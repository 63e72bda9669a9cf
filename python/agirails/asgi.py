"""The paywall for FastAPI, Starlette and any other ASGI application.

>>> from fastapi import FastAPI
>>> from agirails import ACTPClient
>>> from agirails.asgi import Paywall
>>> app = FastAPI()
>>> paywall = Paywall(ACTPClient(mode="mock", requester_address="0x" + "fe" * 20), app=app)
>>> @app.post("/api/generate")
... @paywall.charge("0.10")
... async def generate():
...     return {"paid by": paywall.payment.requester}

An endpoint that answers 2xx is paid: its answer is kept, with its proof, before the first byte
leaves, and the same request gets the same bytes ever after. One that raises, or answers anything
else, takes nothing, and the same transaction may be used again. See docs/guide/exactly-once.md.

How it works: a decorator cannot see the bytes of a response, nor a middleware know what an
endpoint costs before the application has routed the request. So both work together. The function
that is charged for asks for the payment, right before it runs; the middleware keeps the request's
body for it, and takes the response in before it leaves. A charged function that no paywall's
middleware stands around does not run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from ._agirails import CallPayment, _Answer, _price
from ._paywall import (
    FREE_PATHS,
    HEADERS,
    MOST_FREE_BYTES,
    PAYMENTS_PATH,
    Base,
    BrokenOff,
    Price,
    current,
    fetcher,
    price_problem,
)

try:
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
except ModuleNotFoundError:  # another framework, or none
    run_in_threadpool = JSONResponse = Request = Response = None  # type: ignore
    HTTPException = ()  # type: ignore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from decimal import Decimal

    from typing_extensions import Unpack

    from ._agirails import ACTPClient, _Streaming, _Ticket
    from ._paywall import Settings
    from .aio import AsyncACTPClient

__all__ = ["CallPayment", "Paywall"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
F = TypeVar("F", bound="Callable[..., Any]")
_MARK = "__agirails_charge__"
_HEADERS = tuple(name.lower().encode() for name in HEADERS)
# With these, a response's bytes would leave without passing here.
_SHORT_CUTS = ("http.response.pathsend", "http.response.zerocopysend", "http.response.trailers")
# Of endpoints that do not say which they answer.
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
# A request that was looked at before its payment, and found wanting.
_LOOKED_AT = (400, 422)


class Paywall(Base):
    """A provider's paywall in front of endpoints.

    It works with an ACTPClient as well as an AsyncACTPClient, and in every event loop of asyncio.

    Args:
        client: the provider's client: its address is paid.
        app: the FastAPI or Starlette application; or call init_app. For others there is wrap.
        free_routes: whether the application also serves /api/pricing, /health, /metrics and
            /api/payments/…. Where it has a route or a mount of its own at one of these paths, that
            one answers.
        store: where claims and answers are kept: None for a SQLite file beside the client's state,
            which all workers of a machine share; another directory; or "postgresql://…", for
            several machines.
        unsigned: what is done with requests that the payer did not sign: "serve" or "refuse". None
            is "serve" on mock and testnet, "refuse" on mainnet.
        deliver: when a response leaves: "outbox", as soon as it is durable, and the delivery
            follows behind; or "confirmed", when the delivery stands on chain.
        min_seconds_left: how much time a transaction must have left before its deadline for a call
            to be run, seconds: 120. Longer than an endpoint runs, plus closing_seconds.
        closing_seconds: how long before its deadline a transaction is closed, seconds: 60.
        lease_seconds: after how long the claim of a process that died is taken over: 15.
        wait_seconds: how long a repeat waits for the run that is under way: 30.
        confirm_wait_seconds: how long a response waits with deliver="confirmed": 60.
        give_up_after: after how many failed runs a payment of which nothing was served is given
            back: 5.
        max_body_bytes: the longest request body, bytes: 16 MiB.
        max_kept_stream_bytes: the longest streamed response that is kept for repeats, bytes: 1 MiB.
        keep_days: for how long ended payments are kept: 30.
        give_back_unclaimed: whether transactions that nobody calls with are given back before
            their deadline: True.
        survive_power_cut: whether the SQLite file syncs every commit: False, which survives
            whatever happens to processes.

    Raises:
        TypeError: no client was passed, or a setting that there is not.
        ValidationError: a setting has no such value, or contradicts another; the client of a chain
            has no key (code key_missing).
        StorageError: the store cannot be used; the message names it.

    Example:
        >>> paywall = Paywall(client, app=app, unsigned="refuse", min_seconds_left=300)
    """

    _awaitable = True

    def __init__(
        self,
        client: ACTPClient | AsyncACTPClient | None = None,
        app: Any = None,
        *,
        free_routes: bool = True,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(client, settings)
        self._free_routes = free_routes
        # The event loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        """Adds the paywall to a FastAPI or Starlette application, for one that is made later.

        Middleware that is added before it stands inside of it: what that does to a response is
        hashed and kept. What is added afterwards stands outside, and sees repeats too: compression
        belongs there.

        Raises:
            RuntimeError: the application has started.

        Example:
            >>> paywall = Paywall(client)
            >>> paywall.init_app(app)
        """
        app.add_middleware(_Middleware, paywall=self, application=app)

    def charge(
        self,
        price: str | Decimal | int | Callable[[Any], Any],
        *,
        calls: int | None = None,
        min_seconds_left: int | None = None,
        deliver: str | None = None,
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Puts a price on an endpoint function, or on a method of a Starlette HTTPEndpoint.

        It goes below the route's decorator. Dependencies are resolved before: they may refuse a
        request that then costs nothing, and must do no work that is paid. OPTIONS passes free,
        for CORS.

        An answer that comes in one piece, or with a Content-Length of at most
        max_kept_stream_bytes, is kept before its first byte leaves. Any other is a stream, hashed
        as it passes and delivered at its end. Where its consumer goes away, the endpoint runs to
        its end all the same, so that the call ends and can be repeated; a stream must have an end.

        Args:
            price: what a call costs: USDC as str or Decimal ("0.10"), base units as int; or a
                function, sync or async, that returns it for a request (Starlette's Request;
                without Starlette, the scope). An HTTPException that it raises is answered as it
                is.
            calls: sells bundles of this many calls only: one transaction is drawn down call by
                call, each with its own Idempotency-Key.
            min_seconds_left: how much time a transaction must have left before its deadline,
                seconds, in place of the paywall's; longer than the endpoint may run.
            deliver: "outbox" or "confirmed", in place of the paywall's.
            name: what prices, log and metrics call it; method and path where None.

        Raises:
            ValidationError: that is no price, or no bundle, that the protocol could carry.

        Example:
            >>> @app.get("/api/search")
            ... @paywall.charge(lambda request: "0.10" if "deep" in request.query_params else "0.05")
            ... async def search(): ...
        """
        terms = Price(self, price, calls, min_seconds_left, deliver, name)

        def decorate(function: F) -> F:
            charged = _charged(terms, function)
            try:
                # Frameworks look an annotation's names up where the function stands: here they
                # would find none of the endpoint's.
                signature = inspect.signature(function, eval_str=True)
                charged.__signature__ = signature  # type: ignore[attr-defined]
            except Exception:
                pass  # names that come later: the framework finds them by __wrapped__, or not
            setattr(charged, _MARK, terms)
            return charged  # type: ignore[return-value]

        return decorate

    def wrap(self, app: App, routes: Mapping[str, Any]) -> App:
        """Any ASGI application, with prices on some of its paths.

        Args:
            app: the application. What is no HTTP passes through.
            routes: what costs how much: a method and a path, to a price as `charge` takes it, or
                to a dict of charge's arguments. In a path `{name}` stands for one segment. Slashes
                at the end, or double ones, make no difference.

        Returns:
            The application to serve.

        Raises:
            ValidationError: that is no price that the protocol could carry.
            ValueError: that is no method and path.

        Example:
            >>> app = paywall.wrap(app, {
            ...     "POST /api/generate": "0.10",
            ...     "GET /api/items/{id}": {"price": "0.001", "calls": 1_000}})
        """
        return _Wrapped(self, app, routes)

    async def close(self, tx_id: str) -> str | None:
        """Ends an open payment now: delivers it where something was served, else gives it back.

        Returns:
            Where it stands, such as "delivering"; "open" where a call is running; None where no
            call was ever made with it.

        Raises:
            ValidationError: that is no transaction id.
            StorageError: the store cannot be used.
        """
        stage: str | None = await self._core.close(tx_id)
        return stage

    async def owed(self) -> int:
        """How many deliveries and refunds are owed on chain.

        Raises:
            StorageError: the store cannot be used.
        """
        owed: int = await self._core.owed()
        return owed


def _charged(price: Price, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which asks for its payment before it runs."""
    if inspect.isclass(function):
        raise TypeError(f"charge() is for functions: put it on methods of {function.__name__}")
    if inspect.isgeneratorfunction(function):
        raise TypeError(
            f"charge() cannot pause {function.__name__}(): make it `async def`, or return a "
            "StreamingResponse of it"
        )
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def generated(*args: Any, **kwargs: Any) -> Any:
            call = _this_call()
            if not await call.enter(price):
                raise _Refused
            async for item in function(*args, **kwargs):
                yield item

        return generated
    is_async = inspect.iscoroutinefunction(function)

    @functools.wraps(function)
    async def charged(*args: Any, **kwargs: Any) -> Any:
        call = _this_call()
        if not await call.enter(price):
            return call.stand_in()
        if is_async:
            return await function(*args, **kwargs)
        return await _in_thread(functools.partial(function, *args, **kwargs))

    return charged


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Where a function that blocks is run, with the payment in its context."""
    if run_in_threadpool is not None:
        return await run_in_threadpool(function)
    return await asyncio.to_thread(function)


class _Refused(Exception):
    """A function that is not run. The middleware answers in place of what becomes of this."""


_call: ContextVar[_Call | None] = ContextVar("agirails.call", default=None)


def _this_call() -> _Call:
    call = _call.get()
    if call is None:
        raise RuntimeError(
            "a function under @paywall.charge(...) was called, and no paywall stands around the "
            "application: Paywall(client, app=app), for HTTP only"
        )
    return call


class _Call:
    """One request: its body, kept as it is read, and its response, taken in before it leaves."""

    def __init__(
        self,
        paywall: Paywall,
        scope: Scope,
        receive: Receive,
        send: Send,
        name: Callable[[Price], str],
    ) -> None:
        self.paywall, self.scope, self.name = paywall, scope, name
        self.headers = _headers(scope)
        self.core = paywall._core
        self.raw_receive, self.raw_send = receive, send
        # The request.
        self.body: list[bytes] = []
        self.size = 0
        self.is_read = self.is_broken = False
        self.held: deque[Message] = deque()
        # What the paywall says to it.
        self.price: Price | None = None
        self.answer: _Answer | None = None
        self.ticket: _Ticket | None = None
        self.is_paid = False
        # The response.
        self.start: Message | None = None
        self.is_started = self.is_over = self.is_gone = False
        self.pieces: list[bytes] = []
        self.streaming: _Streaming | None = None
        self.over = asyncio.Event()

    # The request

    async def receive(self) -> Message:
        if self.held:
            return self.held.popleft()
        if self.is_paid and self.is_read:
            # A consumer that goes away is not told: what was begun is served to its end.
            await self.over.wait()
            return {"type": "http.disconnect"}
        message = await self.raw_receive()
        self.note(message)
        return message

    def note(self, message: Message) -> None:
        if message["type"] != "http.request":
            self.is_broken = not self.is_read
            return
        piece = message.get("body", b"")
        self.size += len(piece)
        if self.size <= self.core.max_body_bytes:
            self.body.append(piece)
        self.is_read = not message.get("more_body", False)

    async def read(self) -> None:
        """The rest of the body. What the application has not seen yet waits for it."""
        while not (self.is_read or self.is_broken or self.size > self.core.max_body_bytes):
            message = await self.raw_receive()
            self.note(message)
            self.held.append(message)

    async def enter(self, price: Price) -> bool:
        """Whether the endpoint may run. Otherwise there is an answer."""
        if self.scope["method"] == "OPTIONS":
            return True
        if self.price is not None:
            # One charged function called another: a call is paid once.
            return self.answer is None
        if self.is_started:
            raise RuntimeError("the response had begun before its payment was looked at")
        self.price = price
        charge = price.named(self.name(price))
        await self.read()
        if self.size > self.core.max_body_bytes:
            self.answer = self.core.oversized_body(charge)
        elif not self.is_read:
            self.answer = self.core.unreadable_body(charge)
        else:
            body = b"".join(self.body)
            amount = await self.amount(price, body)
            method, target = self.scope["method"], _target(self.scope)
            entry = await self.core.enter(charge, method, target, self.headers, body, amount)
            if isinstance(entry, _Answer):
                self.answer = entry
            else:
                self.begin(entry)
        return self.answer is None

    def begin(self, ticket: _Ticket) -> None:
        self.ticket, self.is_paid = ticket, True
        payment = ticket.payment
        # In the context of this request's own task, which ends with it.
        current.set(payment)
        self.scope.setdefault("state", {})["payment"] = payment

    async def amount(self, price: Price, body: bytes) -> int | None:
        """The price of this very request, where it has one of its own."""
        function = price.function
        if function is None:
            return None

        async def whole() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        request = self.scope if Request is None else Request(dict(self.scope), whole)
        try:
            amount = function(request)
            return _price(await amount if inspect.isawaitable(amount) else amount)
        except HTTPException:
            self.price = None
            raise
        except Exception as error:
            price_problem(price, error)
            return None

    def stand_in(self) -> Any:
        """What a function returns that is not run."""
        if Response is None:
            raise _Refused
        return Response(status_code=self.answer.status if self.answer else 500)

    # The response

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.is_over:
            return
        if kind == "http.response.start":
            self.start = message
            price = self.price or _price_of(self.scope.get("endpoint"), self.scope["method"])
            if price is None:
                await self.send_start()
            elif (
                self.price is None and self.headers[0] is None and self.scope["method"] != "OPTIONS"
            ):
                # Whoever asks without paying is told the price, whatever else is wrong.
                if message["status"] in _LOOKED_AT and price.function is None:
                    await self.enter(price)
        elif kind != "http.response.body":
            await self.raw_send(message)
        elif self.answer is not None:
            await self.send_answer(self.answer)
        elif self.ticket is None and self.streaming is None:
            await self.send_start()
            await self.pass_on(message)
        else:
            await self.send_paid(message)

    async def send_start(self, headers: Iterable[tuple[bytes, bytes]] | None = None) -> None:
        if self.start is None or self.is_started:
            return
        self.is_started = True
        await self.pass_on(self.start if headers is None else {**self.start, "headers": headers})

    async def send_answer(self, answer: _Answer) -> None:
        self.is_over = self.is_started = True
        for message in _messages(answer):
            await self.pass_on(message)

    async def send_paid(self, message: Message) -> None:
        assert self.start is not None, "a response begins with its start"
        status, headers = self.start["status"], list(map(tuple, self.start.get("headers", ())))
        piece, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if self.ticket is not None:
            if not 200 <= status < 300:
                await self.give_back(f"the handler answered {status}")
                await self.send_start()
                return await self.pass_on(message)
            self.pieces.append(piece)
            if not more:
                ticket, self.ticket = self.ticket, None
                answer = await ticket.finish(status, headers, b"".join(self.pieces))
                return await self.send_answer(answer)
            if self.is_collected(headers):
                return
            ticket, self.ticket = self.ticket, None
            self.streaming = ticket.stream(status, headers)
            await self.send_start(self.streaming.raw_headers)
            piece, self.pieces = b"".join(self.pieces), []
        assert self.streaming is not None
        self.streaming.push(piece)
        patience: float | None = self.streaming.patience
        if not more:
            streaming, self.streaming, self.is_over = self.streaming, None, True
            if not await streaming.finish():
                raise BrokenOff
            # It is paid for now, and may take its time.
            patience = None
        body = {"type": "http.response.body", "body": piece, "more_body": more}
        await self.pass_on(body, patience)

    def is_collected(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether pieces wait for the rest: its length was announced, and can be kept."""
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        most = self.core.max_kept_stream_bytes
        if len(lengths) != 1 or not lengths[0].isdigit() or int(lengths[0]) > most:
            return False
        return sum(map(len, self.pieces)) <= most

    async def pass_on(self, message: Message, patience: float | None = None) -> None:
        if self.is_gone:
            return
        try:
            await asyncio.wait_for(self.raw_send(message), patience)
        except Exception:
            # The consumer went away, or does not read: no reason to stop what it paid for.
            if not self.is_paid:
                raise
            self.is_gone = True

    # The end

    async def run(self, app: App) -> None:
        """The application, to its end, whoever waits for it."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            await self.give_back(f"the handler raised {type(error).__name__}")
            # The application may have made what it liked of a function that did not run.
            if self.answer is None or not isinstance(error, Exception):
                raise
        else:
            await self.give_back("the handler did not end its answer")
        finally:
            self.over.set()
            fetcher.fetch()
        if self.answer is not None and not self.is_over:
            await self.send_answer(self.answer)

    async def give_back(self, problem: str) -> None:
        run = self.ticket or self.streaming
        self.ticket = self.streaming = None
        if run is not None:
            await run.fail(problem)


async def _serve(call: _Call, app: App) -> None:
    """Runs the application around one call. What may be paid for runs in a task of its own: a
    server, or a timeout, that ends the request does not end that."""
    if call.headers[0] is None:
        token = _call.set(call)
        try:
            return await call.run(app)
        finally:
            _call.reset(token)
    if "extensions" in call.scope:
        kept = {k: v for k, v in call.scope["extensions"].items() if k not in _SHORT_CUTS}
        call.scope["extensions"] = kept

    async def alone() -> None:
        _call.set(call)
        await call.run(app)

    task = asyncio.create_task(alone())
    tasks = call.paywall._tasks
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    await asyncio.shield(task)


class _Middleware:
    """What `init_app` puts around a FastAPI or Starlette application."""

    def __init__(self, app: App, paywall: Paywall, application: Any) -> None:
        self._app, self._paywall, self._application = app, paywall, application
        self._paths: dict[tuple[int, str], list[str]] = {}
        # Prices of functions that are no endpoints: the routes are not searched for them again.
        self._inner: set[int] = set()
        self._own: set[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = _path(scope)
        if self._paywall._free_routes and _is_free(path) and not self._is_own(path):
            if path == FREE_PATHS[0]:
                self._name_all()
            if await _page(self._paywall, scope, path, receive, send):
                return
        name = functools.partial(self._name, scope)
        await _serve(_Call(self._paywall, scope, receive, send, name), self._app)

    def _name(self, scope: Scope, price: Price) -> str:
        method = _method(scope)
        key = (id(price), method)
        if key not in self._paths and id(price) not in self._inner:
            self._learn()
        paths = self._paths.get(key)
        if paths is None:
            self._inner.add(id(price))
            return _caller(scope)
        if len(paths) > 1:
            filled = [path for path in paths if _fill(path, scope) == _path(scope)]
            paths = filled or paths
        return f"{method} {paths[0]}"

    def _priced(self) -> Iterator[tuple[str, str, Price]]:
        """Method, path and price of the application's routes that are charged for."""
        for path, methods, endpoint in _routes(self._application.routes):
            for method in sorted(methods or _METHODS):
                price = _price_of(endpoint, method)
                if price is not None and price._core is self._paywall._core and method != "HEAD":
                    yield method, path, price

    def _learn(self) -> None:
        """Looks which of the application's routes are charged for."""
        self._paths = {}
        self._own = {path for path, _, _ in _routes(self._application.routes)}
        for method, path, price in self._priced():
            # What a price is put on lives as long as the application: an id stays its own.
            self._paths.setdefault((id(price), method), []).append(path)

    def _name_all(self) -> None:
        """Has the price page show what no request has asked for yet."""
        self._learn()
        for method, path, price in self._priced():
            price.named(f"{method} {path}")

    def _is_own(self, path: str) -> bool:
        if self._own is None:
            self._learn()
        assert self._own is not None
        if path.startswith(PAYMENTS_PATH):
            return any(f"{own}/".startswith(PAYMENTS_PATH) for own in self._own)
        return path in self._own


class _Wrapped:
    """Any ASGI application with prices on some of its paths."""

    def __init__(self, paywall: Paywall, app: App, routes: Mapping[str, Any]) -> None:
        self._paywall, self._app = paywall, app
        self._routes: list[tuple[str, re.Pattern[str], str, Price]] = []
        for route, terms in routes.items():
            method, _, path = route.partition(" ")
            if not method.isalpha() or not path.startswith("/"):
                raise ValueError(f'{route!r} is no route: write it as in "POST /api/generate"')
            given = terms if isinstance(terms, dict) else {"price": terms}
            defaults = {"calls": None, "min_seconds_left": None, "deliver": None, "name": None}
            price = Price(paywall, **{"price": None, **defaults, **given})
            name = f"{method.upper()} {path}"
            price.named(name)
            parts = re.split(r"\{[^{}]*\}", _plain(path))
            pattern = re.compile("[^/]+".join(map(re.escape, parts)))
            self._routes.append((method.upper(), pattern, name, price))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = _path(scope)
        if self._paywall._free_routes and _is_free(path):
            if await _page(self._paywall, scope, path, receive, send):
                return
        method = _method(scope)
        charged = (
            (name, price)
            for known, pattern, name, price in self._routes
            if known == method and pattern.fullmatch(_plain(path))
        )
        found = next(charged, None)
        if found is None:
            return await self._app(scope, receive, send)
        name, price = found
        call = _Call(self._paywall, scope, receive, send, lambda _: name)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                is_let_in = await call.enter(price)
            except HTTPException as refusal:
                # The price function's. No framework stands around it that would answer.
                detail = {"detail": refusal.detail}
                answer = JSONResponse(detail, refusal.status_code, refusal.headers)
                return await answer(scope, receive, send)
            if is_let_in:
                await self._app(scope, receive, send)

        await _serve(call, app)


def _price_of(endpoint: Any, method: str) -> Price | None:
    """The price on an endpoint: a function, or a class with a method for each method."""
    price: Price | None = getattr(endpoint, _MARK, None)
    if price is None and inspect.isclass(endpoint):
        price = getattr(getattr(endpoint, method.lower(), None), _MARK, None)
    return price


def _routes(routes: Any, prefix: str = "") -> Iterator[tuple[str, Iterable[str] | None, Any]]:
    """All routes of an application, those of routers and applications inside of it too: path,
    methods, endpoint. What is mounted and does not tell its routes is one, without endpoint."""
    try:
        # Routers are included as they are in newer versions, and were copied route by route.
        from fastapi.routing import iter_route_contexts
    except ImportError:
        pass
    else:
        routes = iter_route_contexts(routes)
    for route in routes:
        endpoint, inner = getattr(route, "endpoint", None), getattr(route, "routes", None)
        path = getattr(route, "path", None) or ""
        if endpoint is not None:
            # Without the converters of its parameters.
            path = getattr(route, "path_format", None) or path
            yield prefix + path, getattr(route, "methods", None), endpoint
        elif inner:
            yield from _routes(inner, prefix + path)
        else:
            yield prefix + path, None, None


def _caller(scope: Scope) -> str:
    """What a charged function is called that is no endpoint, and is called by one.

    It has nothing in it that the request's sender makes up, neither path nor method: each of them
    would be a charge of its own.
    """
    route, endpoint = scope.get("route"), scope.get("endpoint")
    return str(getattr(route, "path", "") or getattr(endpoint, "__qualname__", "?"))


def _fill(path: str, scope: Scope) -> str:
    try:
        return path.format_map(scope.get("path_params", {}))
    except (KeyError, ValueError, IndexError):
        return path


def _method(scope: Scope) -> str:
    """The method under which a route is known: HEAD costs what GET costs.

    Not every server refuses a method in lower case, and there are applications that answer it.
    """
    method: str = scope["method"].upper()
    return "GET" if method == "HEAD" else method


def _path(scope: Scope) -> str:
    """The path below the one that the application is mounted under."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _plain(path: str) -> str:
    return re.sub("/+", "/", path).rstrip("/") or "/"


def _is_free(path: str) -> bool:
    return path in FREE_PATHS or path.startswith(PAYMENTS_PATH)


def _target(scope: Scope) -> str:
    """Path and query as they stand in the request line, which is what callers sign.

    A server that does not give the path as it came has it put together again, with what must be
    escaped escaped: most callers wrote it the same way.
    """
    raw: bytes | None = scope.get("raw_path")
    path = raw.partition(b"?")[0].decode("latin-1") if raw else None
    query = scope.get("query_string", b"").decode("latin-1")
    if path is None:
        path = quote(scope["path"], safe="/:@!$&'()*+,;=~")
    return f"{path}?{query}" if query else path


def _headers(scope: Scope) -> tuple[str | None, ...]:
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _HEADERS:
            # Two of one name are none: nobody can tell which was meant.
            found[name] = "given twice" if name in found else value.decode("latin-1")
    return tuple(map(found.get, _HEADERS))


async def _page(paywall: Paywall, scope: Scope, path: str, receive: Receive, send: Send) -> bool:
    """Answers a free route; whether it was one."""
    body, more = b"", scope["method"] == "POST"
    while more and len(body) <= MOST_FREE_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    # A mount does not move the pages inside of it, and callers sign the whole path.
    method, target, mount = scope["method"], _target(scope), scope.get("root_path", "")
    answer = await paywall._core.page(method, target, _headers(scope), body, mount)
    fetcher.fetch()
    if answer is None and scope["method"] != "POST":
        return False
    if answer is None:
        # Its body was read: nobody else can answer it any more.
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    else:
        for message in _messages(answer):
            await send(message)
    return True


def _messages(answer: _Answer) -> tuple[Message, Message]:
    headers, body = answer.raw_headers, answer.body
    # A server that is not told the length sends pieces.
    if answer.status not in (204, 304) and not any(
        name == b"content-length" for name, _ in headers
    ):
        headers.append((b"content-length", b"%d" % len(body)))
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    return start, {"type": "http.response.body", "body": body}
