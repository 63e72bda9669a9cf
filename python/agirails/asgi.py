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

How it works: a decorator cannot see the bytes of a response, and a middleware does not know what an
endpoint costs before the application has routed the request. So both work together. The charged
function asks for the payment right before it runs; the middleware feeds the request's body to the
paywall as it is read, and holds the response until it is kept. A charged function outside of any
paywall's middleware does not run.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Literal

from ._agirails import CallPayment
from ._asgi import Dashboard, Rejected, run_in_threadpool, this_call
from ._books import PaymentRecord, ReportRow, unix_seconds
from ._paywall import Base, PaywallEvent
from ._starlette import Middleware, app_routes, is_guarded
from ._wrap import Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date

    from starlette.requests import HTTPConnection

    from ._asgi import App, Scope
    from ._paywall import Price

__all__ = ["CallPayment", "Paywall", "PaywallEvent"]


class Paywall(Base):
    """A provider's paywall in front of endpoints.

    It works with an ACTPClient as well as an AsyncACTPClient, and in every event loop of asyncio.
    Its settings are described at __init__ below.

    Example:
        >>> paywall = Paywall(client, app=app, unsigned="refuse", min_seconds_left=300)
    """

    _awaitable = True
    _application: Any = None

    def init_app(self, app: Any) -> None:
        """Adds the paywall to a FastAPI or Starlette application, for one that is made later.

        Middleware that is added before it stands inside: what that does to a response is hashed and
        kept. What is added afterwards stands outside and sees repeats too: compression belongs
        there. CORS may stand on either side.

        Raises:
            RuntimeError: the application has started.
            TypeError: a charge stands above its route's decorator.

        Example:
            >>> paywall = Paywall(client)
            >>> paywall.init_app(app)
        """
        self._application = app
        self._check_routes()
        app.add_middleware(Middleware, paywall=self, application=app)

    def wrap(self, app: App, routes: Mapping[str, Any]) -> App:
        """Any ASGI application, with prices on some of its paths.

        However the path of a request is spelled, it is priced if any reading of it is: decoded or
        not, in upper or lower case, with double slashes or dot segments. Another method on a priced
        path is answered 405, and OPTIONS by the paywall, so CORS middleware belongs around what
        this returns.

        The built-in pages /api/pricing, /health and /metrics are shown where the application itself
        answers 404 there. /api/payments/0x… is always the paywall's.

        Args:
            app: the application. What is not HTTP passes through.
            routes: which costs how much: from a method and a path to a price as `charge` takes it,
                to a dict of charge's arguments, or to None for a method that is free. In a path
                `{name}` stands for one segment and `{name:path}` for one or more.

        Returns:
            The application to serve.

        Raises:
            ValidationError: the protocol cannot carry a price.
            ValueError: a route is not a method and a path.

        Example:
            >>> app = paywall.wrap(app, {
            ...     "POST /api/generate": "0.10",
            ...     "GET /api/generate": None,
            ...     "GET /api/items/{id}": {"price": "0.001", "calls": 1_000}})
        """
        return Wrapped(self, app, routes)

    def guards(self, request: HTTPConnection | Scope) -> bool:
        """Whether the paywall says who may make this request: for the application's own login.

        It does for its built-in routes, where a route of the application's own does not win, and
        for endpoints with a charge: they run for payment alone. A login that stands before every
        route lets these pass, since a consumer sends no password with a close. Never go by a header
        that the caller sends: anybody can send it with any request. Where a price function returns 0,
        the call is free for everybody who is let pass.

        Only the router knows which endpoint a request means. So in a dependency this says all; in a
        middleware, and with `wrap`, it knows the built-in routes only.

        Args:
            request: Starlette's request, or an ASGI scope. It is False for one that is not HTTP.

        Example:
            >>> def login(request: Request) -> None:
            ...     if not (paywall.guards(request) or request.headers.get("X-Key") == KEY):
            ...         raise HTTPException(401)
            >>> app = FastAPI(dependencies=[Depends(login)])
        """
        given: Any = request
        return is_guarded(self, self._application, getattr(given, "scope", given))

    async def close(self, tx_id: str) -> str | None:
        """Ends an open payment now: delivers it where something was served, else gives it back.

        Returns:
            Its stage, such as "delivering"; "open" where a call is running, or where nothing was
            served and it is not bound to this service (`refund` gives such a one back); None where
            no call was ever made with it.

        Raises:
            ValidationError: tx_id is not a transaction id.
            StorageError: the store cannot be used.
        """
        stage: str | None = await self._core.close(tx_id)
        return stage

    async def refund(self, tx_id: str) -> str:
        """Gives a transaction back in full, by the provider's own decision.

        No call is served with it any more, and it becomes CANCELLED on chain. What was served with
        it is not paid, since the protocol knows no partial refund; a call that is running is
        rejected when it ends. The decision is durable when this returns, and is carried out in the
        background. Asked again, it changes nothing. A transaction that another store of the same
        key serves is given back as well.

        Args:
            tx_id: the transaction, 0x and 64 hex digits.

        Returns:
            "returning", or "returned" once CANCELLED stands on chain.

        Raises:
            TransactionNotFoundError: the kernel does not know it.
            UnauthorizedError: it is another provider's.
            InvalidStateTransitionError: it is delivered, settled, disputed or not funded, or its
                delivery is under way.
            ValidationError: that is no transaction id.
            StorageError: the store cannot be used.

        Example:
            >>> await paywall.refund(tx_id)
            'returning'
        """
        stage: str = await self._core.refund(tx_id)
        return stage

    async def evidence(self, tx_id: str) -> str:
        """The evidence file of a transaction, as JSON text, for whoever decides a dispute.

        It has the transaction as the kernel has it now, each answered call with its request, its
        answer and its receipt, and, once it is delivered, the delivery proof and each call's way to
        it. `agirails.verify_evidence` checks such a file. Nothing is sent or changed.

        The file has what was kept: with keep_requests=False it has no calls, and a body that was
        too long to keep stands in it as its hash. It has at most 100,000 calls and 64 MiB: bodies
        that do not fit are left out, then the last calls.

        Args:
            tx_id: the transaction, 0x and 64 hex digits.

        Raises:
            TransactionNotFoundError: the kernel does not know it.
            UnauthorizedError: it is another provider's.
            ValidationError: no call was answered with it that is kept here (code nothing_served),
                or that is no transaction id.
            NetworkError: the transaction cannot be read.
            StorageError: the store cannot be used.

        Example:
            >>> Path("dispute.json").write_text(await paywall.evidence(tx_id), encoding="utf-8")
        """
        text: str = await self._core.evidence(tx_id)
        return text

    async def payments(
        self,
        *,
        stage: str | None = None,
        requester: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[PaymentRecord]:
        """Payments with their story, newest first, in pages.

        Args:
            stage: where they stand, as `PaymentRecord.stage` names it; all where None.
            requester: who pays; everybody where None.
            limit: how many, 1 to 1,000.
            after: read on behind this transaction, the last one of the page before.

        Raises:
            ValidationError: a value is not allowed.
            StorageError: the store cannot be used.

        Example:
            >>> [payment.net for payment in await paywall.payments(stage="settled")]
            [Usdc("0.95")]
        """
        rows = await self._core.payments(stage, requester, limit, after)
        return [PaymentRecord(**row) for row in rows]

    async def report(
        self,
        by: Literal["day", "route", "customer"] = "day",
        *,
        since: int | date | None = None,
        until: int | date | None = None,
        after: str | None = None,
        limit: int = 1_000,
    ) -> list[ReportRow]:
        """The books by day, route or customer, in the order of their keys, in pages.

        They outlive the payments, which are forgotten `keep_days` after they ended.

        Args:
            by: what there is a row for. Days are of UTC.
            since: from this day on: a date, a datetime that knows its zone, or Unix seconds; from
                the beginning where None.
            until: to this day, that day included; to the end where None.
            after: read on behind the row of this key, the last one of the page before.
            limit: how many rows, 1 to 1,000.

        Raises:
            TypeError: a datetime has no time zone.
            ValidationError: a value is not allowed.
            StorageError: the store cannot be used.

        Example:
            >>> [(row.key, row.gross, row.net) for row in await paywall.report(by="route")]
            [('POST /api/generate', Usdc("1.00"), Usdc("0.95"))]
        """
        days = unix_seconds(since), unix_seconds(until)
        rows = await self._core.report(by, *days, after, limit)
        return [ReportRow(**row) for row in rows]

    def dashboard(self) -> App:
        """A page for the person who asks "am I paid?", as an ASGI application to mount behind your
        login.

        It shows what was earned, what arrived, what waits and since when, calls, failures and
        latency by route, customers, and each payment's story with its evidence. It reads the books
        of all workers, and moves nothing. It asks nobody but this application.

        Whoever can reach it reads all of that, what callers sent too: mount it inside what turns
        away everybody else.

        Example:
            >>> app.mount("/admin/paywall", OnlyAdmins(paywall.dashboard()))
        """
        return Dashboard(self)

    async def owed(self) -> int:
        """How many deliveries and refunds are owed on chain.

        Raises:
            StorageError: the store cannot be used.
        """
        owed: int = await self._core.owed()
        return owed

    def _put(self, price: Price, function: Any) -> Any:
        charged = _charged(price, function)
        try:
            # Frameworks look up an annotation's names where the function stands: in this module
            # they would find none of the endpoint's.
            charged.__signature__ = inspect.signature(function, eval_str=True)
        except Exception:
            pass  # names that are defined later: the framework finds them by __wrapped__, or not
        return charged

    def _registered(self) -> Iterator[Any]:
        for route in app_routes(getattr(self._application, "routes", ())):
            yield route.endpoint


def _charged(price: Price, function: Callable[..., Any]) -> Any:
    """The function, which asks for its payment before it runs."""
    if inspect.isgeneratorfunction(function):
        raise TypeError(
            f"charge() cannot pause {function.__name__}(): make it `async def`, or return a "
            "StreamingResponse of it"
        )
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def generated(*args: Any, **kwargs: Any) -> Any:
            if not await this_call().enter(price):
                raise Rejected
            async for item in function(*args, **kwargs):
                yield item

        return generated
    is_async = inspect.iscoroutinefunction(function)

    @functools.wraps(function)
    async def charged(*args: Any, **kwargs: Any) -> Any:
        call = this_call()
        if not await call.enter(price):
            return call.stand_in()
        if is_async:
            return await function(*args, **kwargs)
        return await run_in_threadpool(functools.partial(function, *args, **kwargs))

    return charged
