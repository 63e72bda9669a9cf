"""The paywall for Flask: one line on a view, and only callers who have paid are served.

>>> from flask import Flask
>>> from agirails import ACTPClient
>>> from agirails.flask import Paywall
>>> app = Flask(__name__)
>>> paywall = Paywall(ACTPClient(mode="mock", requester_address="0x" + "fe" * 20), app=app)
>>> @app.post("/api/generate")
... @paywall.charge("0.10")
... def generate():
...     return {"paid by": paywall.payment.requester}
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Literal

from flask import Blueprint, Flask, Request, Response, abort, current_app, request
from werkzeug.datastructures import Headers
from werkzeug.routing import Rule

from ._agirails import CallPayment
from ._books import PaymentRecord, ReportRow, unix_seconds
from ._paywall import (
    BUILTIN_PATHS,
    MARK,
    MAX_BUILTIN_BYTES,
    PAYMENTS_PATH,
    Base,
    PaywallEvent,
    fetcher,
    is_builtin,
)
from ._wsgi import ANSWER, EXCHANGE, Call, behind, request_parts, respond

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from ._paywall import Price

__all__ = ["CallPayment", "Paywall", "PaywallEvent"]

_BUILTIN = Rule("/", endpoint="agirails_builtin")
"""The rule of the built-in routes, which is in no map: the application's own go first."""


class Paywall(Base):
    """A provider's paywall in front of views.

    `charge` goes on views of an application or a blueprint and on methods of a MethodView, sync or
    async. Its settings are described at __init__ below.

    The response's hash, which the provider delivers and the consumer checks, is of what the view
    returned. Functions registered with `after_request` run later, for repeats too: they may add
    headers, and must leave the body alone.

    Example:
        >>> paywall = Paywall(client, app=app, unsigned="refuse", min_seconds_left=300)
    """

    _app: Flask | None = None
    _is_checked = False

    def init_app(self, app: Flask) -> None:
        """Registers the built-in routes, for an application that is made later than the paywall.

        Raises:
            RuntimeError: the application has the built-in routes of another paywall.
            TypeError: a charge stands above its route's decorator.

        Example:
            >>> paywall = Paywall(client)
            >>> paywall.init_app(app)
        """
        if self._free_routes and "agirails_paywall" in app.extensions:
            raise RuntimeError(
                "this application serves the built-in routes of another paywall: "
                "pass free_routes=False to one of them"
            )
        self._app = app
        self._check_routes()
        if self._free_routes:
            app.extensions["agirails_paywall"] = self
            app.view_functions[_BUILTIN.endpoint] = self._builtin
        # First in these lists: before all else at a request's begin, after all else at its end.
        app.before_request_funcs.setdefault(None, []).insert(0, self._before)
        app.after_request_funcs.setdefault(None, []).insert(0, _expose)

    def guards(self, request: Request) -> bool:
        """Whether the paywall says who may make this request: for the application's own login.

        It does for its built-in routes, where a route of the application's own does not win, and
        for views with a charge: they run for payment alone. A login that stands before every route
        lets these pass, since a consumer sends no password with a close. Never go by a header that
        the caller sends: anybody can send it with any request. Where a price function returns 0, the
        call is free for everybody who is let pass.

        Args:
            request: Flask's request, in a function before the view.

        Example:
            >>> @app.before_request
            ... def login():
            ...     if not (paywall.guards(request) or "user" in session):
            ...         abort(401)
        """
        rule = request.url_rule
        if rule is _BUILTIN:
            return current_app.extensions.get("agirails_paywall") is self
        view = None if rule is None else current_app.view_functions.get(rule.endpoint)
        return self._price_of(view, request.method) is not None

    def close(self, tx_id: str) -> str | None:
        """Ends an open payment now: delivers it where something was served, else gives it back.

        Returns:
            Its stage, such as "delivering"; "open" where a call is running, or where nothing was
            served and it is not bound to this service (`refund` gives such a one back); None where
            no call was ever made with it.

        Raises:
            ValidationError: tx_id is not a transaction id.
            StorageError: the store cannot be used.
        """
        stage: str | None = self._core.close(tx_id)
        return stage

    def refund(self, tx_id: str) -> str:
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
            >>> paywall.refund(tx_id)
            'returning'
        """
        stage: str = self._core.refund(tx_id)
        return stage

    def evidence(self, tx_id: str) -> str:
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
            >>> Path("dispute.json").write_text(paywall.evidence(tx_id), encoding="utf-8")
        """
        text: str = self._core.evidence(tx_id)
        return text

    def payments(
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
            >>> [payment.net for payment in paywall.payments(stage="settled")]
            [Usdc("0.95")]
        """
        rows = self._core.payments(stage, requester, limit, after)
        return [PaymentRecord(**row) for row in rows]

    def report(
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
            >>> [(row.key, row.gross, row.net) for row in paywall.report(by="route")]
            [('POST /api/generate', Usdc("1.00"), Usdc("0.95"))]
        """
        days = unix_seconds(since), unix_seconds(until)
        rows = self._core.report(by, *days, after, limit)
        return [ReportRow(**row) for row in rows]

    def dashboard(self) -> Blueprint:
        """A page for the person who asks "am I paid?", as a blueprint to register behind your login.

        It shows what was earned, what arrived, what waits and since when, calls, failures and
        latency by route, customers, and each payment's story with its evidence. It reads the books
        of all workers, and moves nothing. It asks nobody but this application.

        Whoever can reach it reads all of that, what callers sent too: let the blueprint's
        before_request turn away everybody else.

        Example:
            >>> dashboard = paywall.dashboard()
            >>> @dashboard.before_request
            ... def only_admins():
            ...     if not session.get("is_admin"):
            ...         abort(403)
            >>> app.register_blueprint(dashboard, url_prefix="/admin/paywall")
        """
        blueprint = Blueprint("agirails_dashboard", __name__)

        @blueprint.get("/", defaults={"path": ""})
        @blueprint.get("/<path:path>")
        def show(path: str) -> Response:
            asked = behind(request)
            query = asked.query_string.decode("latin-1")
            answer = self._core.dashboard(asked.method, "", f"/{path}", query)
            fetcher.fetch()
            return respond(behind(current_app), answer)

        return blueprint

    def owed(self) -> int:
        """How many deliveries and refunds are owed on chain.

        Raises:
            StorageError: the store cannot be used.
        """
        owed: int = self._core.owed()
        return owed

    def _before(self) -> None:
        asked = behind(request)
        if not self._is_checked:
            # Blueprints may have been registered since init_app.
            self._check_routes()
            self._is_checked = True
        if self._free_routes and is_builtin(asked.path) and not _is_own(asked):
            # The application's own functions before a request still say who may see the page.
            asked.url_rule, asked.view_args, asked.routing_exception = _BUILTIN, {}, None

    def _registered(self) -> Iterable[Any]:
        return self._app.view_functions.values() if self._app is not None else ()

    def _put(self, price: Price, function: Any) -> Any:
        is_async = inspect.iscoroutinefunction(function)

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            # The objects themselves: each look through Flask's proxies costs a microsecond.
            app, asked = behind(current_app), behind(request)
            run = app.ensure_sync(function) if is_async else function
            call = Call(self, price, app, asked, functools.partial(run, *args, **kwargs))
            try:
                return call.serve()
            finally:
                fetcher.fetch()

        return charged

    def _builtin(self) -> Any:
        """The view of the built-in routes."""
        app, asked = behind(current_app), behind(request)
        if asked.path == BUILTIN_PATHS[0]:
            self._name_routes(app)
        asked.max_content_length = MAX_BUILTIN_BYTES
        body, (method, target, headers, mount) = asked.get_data(), request_parts(asked)
        answer = self._core.page(method, target, headers, body, mount, scheme=asked.scheme)
        fetcher.fetch()
        return abort(404) if answer is None else respond(app, answer)

    def _name_routes(self, app: Flask) -> None:
        """Has the price page show what no request has asked for yet."""
        for rule in app.url_map.iter_rules():
            view = app.view_functions.get(rule.endpoint)
            for method in sorted(rule.methods or ()):
                price = self._price_of(view, method)
                if price is not None and method not in ("HEAD", "OPTIONS"):
                    price.named(f"{method} {rule.rule}")

    def _price_of(self, view: Any, method: str) -> Price | None:
        """The price on a view, or on the method of a MethodView that answers."""
        of_class = getattr(view, "view_class", None)
        handler = getattr(of_class, method.lower(), None)
        if handler is None and method == "HEAD":
            handler = getattr(of_class, "get", None)
        price: Price | None = getattr(view, MARK, None) or getattr(handler, MARK, None)
        return price if price is not None and price._core is self._core else None


def _expose(response: Response) -> Response:
    """Lets a browser read the paywall's headers where it may read the answer at all."""
    if "Access-Control-Allow-Origin" not in response.headers:
        return response
    environ = behind(request).environ
    answer, exchange = environ.get(ANSWER), environ.get(EXCHANGE)
    if answer is not None and exchange is not None:
        merged = Headers(exchange.decorate(answer, response.headers.to_wsgi_list()).headers)
        for name in ("Access-Control-Expose-Headers", "Vary"):
            if name in merged:
                response.headers[name] = ", ".join(merged.getlist(name))
    return response


def _is_own(asked: Request) -> bool:
    """Whether a request to a built-in path is the application's own: it has a route for this path,
    not only for all paths."""
    rule, path = asked.url_rule, asked.path
    if asked.method not in (
        ("GET", "HEAD", "POST") if path not in BUILTIN_PATHS else ("GET", "HEAD")
    ):
        return True
    return rule is not None and (not rule.arguments or rule.rule.startswith(PAYMENTS_PATH))
