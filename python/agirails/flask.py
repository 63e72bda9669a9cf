"""The paywall for Flask: one line on a view, and it is served to whoever has paid.

>>> from flask import Flask
>>> from agirails import ACTPClient
>>> from agirails.flask import Paywall
>>> app = Flask(__name__)
>>> paywall = Paywall(ACTPClient(mode="mock", requester_address="0x" + "fe" * 20), app=app)
>>> @app.post("/api/generate")
... @paywall.charge("0.10")
... def generate():
...     return {"paid by": paywall.payment.requester}

A view that answers 2xx is paid: its answer is kept, with its proof, before the first byte leaves,
and the same request gets the same bytes ever after. A view that raises, or answers anything else,
takes nothing, and the same transaction may be used again. See docs/guide/exactly-once.md.
"""

from __future__ import annotations

import functools
import inspect
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from flask import Flask, Request, Response, abort, current_app, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal

    from typing_extensions import Unpack
    from werkzeug.routing import Rule

    from ._agirails import ACTPClient, _Charge, _Streaming, _Ticket
    from ._paywall import Settings
    from .aio import AsyncACTPClient

__all__ = ["CallPayment", "Paywall"]

V = TypeVar("V", bound="Callable[..., Any]")
_MARK = "__agirails_charge__"
_PAID = "agirails.payment"
"""Where a request's environ has its payment, once it was let in."""
_HEADERS = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in HEADERS)


class Paywall(Base):
    """A provider's paywall in front of views.

    The response's hash, which the provider delivers and the consumer checks, is of what the view
    returned. Functions registered with `after_request` run later, for repeats too: they may add
    headers, and must leave the body alone.

    Args:
        client: the provider's ACTPClient (or AsyncACTPClient): its address is paid.
        app: the application; or call init_app.
        free_routes: whether the application also serves /api/pricing, /health, /metrics and
            /api/payments/…. Where it has a route of its own under one of these paths, that one
            answers.
        **settings: see agirails.asgi.Paywall, they are the same.

    Raises:
        TypeError: no client was passed, or a setting that there is not.
        ValidationError: a setting has no such value, or contradicts another; the client of a chain
            has no key (code key_missing).
        StorageError: the store cannot be used; the message names it.

    Example:
        >>> paywall = Paywall(client, app=app, unsigned="refuse", min_seconds_left=300)
    """

    def __init__(
        self,
        client: ACTPClient | AsyncACTPClient | None = None,
        app: Flask | None = None,
        *,
        free_routes: bool = True,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(client, settings)
        self._free_routes = free_routes
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Registers the free routes, for an application that is made later than the paywall.

        Raises:
            RuntimeError: the application has those of another paywall.

        Example:
            >>> paywall = Paywall(client)
            >>> paywall.init_app(app)
        """
        if not self._free_routes:
            return
        if "agirails_paywall" in app.extensions:
            raise RuntimeError(
                "this application serves the free routes of a paywall already: pass free_routes=False"
            )
        app.extensions["agirails_paywall"] = self
        for path in FREE_PATHS:
            name = path.rpartition("/")[2]
            app.add_url_rule(path, f"agirails_{name}", self._free, methods=["GET"])
        path = f"{PAYMENTS_PATH}<path:rest>"
        app.add_url_rule(path, "agirails_payments", self._free, methods=["GET", "POST"])

    def charge(
        self,
        price: str | Decimal | int | Callable[[Any], Any],
        *,
        calls: int | None = None,
        min_seconds_left: int | None = None,
        deliver: str | None = None,
        name: str | None = None,
    ) -> Callable[[V], V]:
        """Puts a price on a view: of an application, a blueprint, a MethodView, sync or async.

        It goes below the route's decorator. OPTIONS passes free, for CORS. An answer that the view
        returns whole is kept before its first byte leaves; one that is generated, a file too, is
        a stream, hashed as it passes and delivered at its end. Where its consumer goes away, the
        rest is generated all the same, so that the call ends and can be repeated; a stream must
        have an end.

        The request's body is read here, and is there for the view as ever, as data, JSON, form or
        stream; only a form that was parsed before, by a before_request function, cannot be read
        again. A charged function that calls another one is paid once, by its own price.

        Args:
            price: what a call costs: USDC as str or Decimal ("0.10"), base units as int; or a
                function, sync or async, that returns it for a request. It is called before the
                payment is looked at. An HTTPException that it raises is answered as it is.
            calls: sells bundles of this many calls only: one transaction is drawn down call by
                call, each with its own Idempotency-Key.
            min_seconds_left: how much time a transaction must have left before its deadline,
                seconds, in place of the paywall's; longer than the view may run.
            deliver: "outbox" or "confirmed", in place of the paywall's.
            name: what prices, log and metrics call it; method and rule where None.

        Raises:
            ValidationError: that is no price, or no bundle, that the protocol could carry.

        Example:
            >>> @app.get("/api/search")
            ... @paywall.charge(lambda request: "0.10" if "deep" in request.args else "0.05")
            ... def search(): ...
        """
        terms = Price(self, price, calls, min_seconds_left, deliver, name)

        def decorate(view: V) -> V:
            if inspect.isclass(view):
                raise TypeError(
                    f"charge() is for functions: put it on methods of {view.__name__}, or into "
                    "its list `decorators`"
                )

            is_async = inspect.iscoroutinefunction(view)

            @functools.wraps(view)
            def charged(*args: Any, **kwargs: Any) -> Any:
                # The objects themselves: each look through Flask's proxies costs a microsecond.
                app, asked = _behind(current_app), _behind(request)
                run = app.ensure_sync(view) if is_async else view
                call = functools.partial(run, *args, **kwargs)
                if asked.method == "OPTIONS" or _is_paid(asked):
                    return call()
                return self._serve(terms, app, asked, call)

            setattr(charged, _MARK, terms)
            return charged  # type: ignore[return-value]

        return decorate

    def close(self, tx_id: str) -> str | None:
        """Ends an open payment now: delivers it where something was served, else gives it back.

        Returns:
            Where it stands, such as "delivering"; "open" where a call is running; None where no
            call was ever made with it.

        Raises:
            ValidationError: that is no transaction id.
            StorageError: the store cannot be used.
        """
        stage: str | None = self._core.close(tx_id)
        return stage

    def owed(self) -> int:
        """How many deliveries and refunds are owed on chain.

        Raises:
            StorageError: the store cannot be used.
        """
        owed: int = self._core.owed()
        return owed

    def _serve(self, price: Price, app: Flask, asked: Request, call: Callable[[], Any]) -> Response:
        rule = asked.url_rule
        charge = price.named(_route(asked.method, rule.rule if rule else asked.path))
        try:
            return self._enter(price, charge, app, asked, call)
        finally:
            fetcher.fetch()

    def _enter(
        self, price: Price, charge: _Charge, app: Flask, asked: Request, call: Callable[[], Any]
    ) -> Response:
        try:
            body = _body(asked, self._core.max_body_bytes)
        except RequestEntityTooLarge:
            return _respond(app, self._core.oversized_body(charge))
        except Exception:
            # Servers raise what they like where a body breaks off.
            return _respond(app, self._core.unreadable_body(charge))
        amount = None
        if price.function is not None:
            try:
                amount = _price(app.ensure_sync(price.function)(asked))
            except HTTPException:
                raise
            except Exception as error:
                price_problem(price, error)
        method, target, environ = asked.method, _target(asked.environ), asked.environ
        entry = self._core.enter(charge, method, target, _headers(environ), body, amount)
        if isinstance(entry, _Answer):
            return _respond(app, entry)
        payment = environ[_PAID] = entry.payment
        return _run(app, method, entry, payment, call)

    def _free(self, rest: str = "") -> Any:
        """The view of the free routes."""
        app, asked = _behind(current_app), _behind(request)
        own = _own_rule(app, asked)
        if own is not None:
            return _hand_over(app, asked, own, {"rest": rest} if rest else {})
        if asked.path == FREE_PATHS[0]:
            self._name_routes(app)
        # Whoever mounts an application below a prefix does not move its pages.
        target, mount = _target(asked.environ), asked.root_path.rstrip("/")
        body = _body(asked, MOST_FREE_BYTES)
        answer = self._core.page(asked.method, target, _headers(asked.environ), body, mount)
        fetcher.fetch()
        return abort(404) if answer is None else _respond(app, answer)

    def _name_routes(self, app: Flask) -> None:
        """Has the price page show what no request has asked for yet."""
        for rule in app.url_map.iter_rules():
            view = app.view_functions.get(rule.endpoint)
            for method in sorted(rule.methods or ()):
                if method not in ("HEAD", "OPTIONS"):
                    handler = getattr(getattr(view, "view_class", None), method.lower(), None)
                    price = getattr(view, _MARK, None) or getattr(handler, _MARK, None)
                    if price is not None and price._core is self._core:
                        price.named(_route(method, rule.rule))


def _is_paid(asked: Request) -> bool:
    """Whether this runs inside of a charged function: a call is paid once. Not where one raised,
    and something else answers in its place."""
    payment = current.get()
    return payment is not None and asked.environ.get(_PAID) is payment


def _behind(proxy: Any) -> Any:
    """What a proxy of Flask's stands for right now."""
    return proxy._get_current_object()


def _own_rule(app: Flask, asked: Request) -> Rule | None:
    """The application's own rule for a path of the free routes."""
    rule = asked.url_rule
    for other in app.url_map.iter_rules():
        if rule is None or other.rule != rule.rule or other.endpoint == rule.endpoint:
            continue
        if asked.method in (other.methods or ()):
            return other
    return None


def _hand_over(app: Flask, asked: Request, rule: Rule, values: dict[str, Any]) -> Any:
    """Has the application's own view answer, behind what its blueprint puts before it: who may
    see a page is often said there. What comes after it follows from the rule by itself."""
    asked.url_rule, asked.view_args = rule, values
    for blueprint in reversed(asked.blueprints):
        for prepare in app.url_value_preprocessors.get(blueprint, ()):
            prepare(asked.endpoint, values)
    for blueprint in reversed(asked.blueprints):
        for before in app.before_request_funcs.get(blueprint, ()):
            answer = app.ensure_sync(before)()
            if answer is not None:
                return answer
    return app.ensure_sync(app.view_functions[rule.endpoint])(**values)


def _route(method: str, rule: str) -> str:
    """What a route is called: HEAD is the same as the GET that it stands for."""
    return f"{'GET' if method == 'HEAD' else method} {rule}"


def _target(environ: dict[str, Any]) -> str:
    """Path and query as they stand in the request line, which is what callers sign.

    Servers give it under one of two names; neither is in the standard. Without, it is put
    together again, with what must be escaped escaped: most callers wrote it the same way.
    """
    target: str | None = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if target:
        if target.startswith("/"):
            return target
        # The absolute form, which is meant for proxies.
        _, _, rest = target.partition("://")
        return rest[rest.find("/") :] if "/" in rest else "/"
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
    query = environ.get("QUERY_STRING", "")
    return quote(path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")


def _headers(environ: dict[str, Any]) -> tuple[str | None, ...]:
    """What a paywall reads. Two of one name come joined by a comma, which is malformed."""
    return tuple(map(environ.get, _HEADERS))


def _body(asked: Request, limit: int) -> bytes:
    """The whole body, kept for the view. Raises where it is too long or breaks off."""
    length = asked.content_length
    if length is None:
        body = _unmeasured_body(asked, limit)
    elif length > limit:
        raise RequestEntityTooLarge
    else:
        body = asked.get_data()
        # Not every server tells that a connection ended before its body did.
        if len(body) != length:
            raise EOFError("the body ended early")
    # A view may read its body as a stream, too.
    asked.environ["wsgi.input"] = asked.__dict__["stream"] = BytesIO(body)
    return body


def _unmeasured_body(asked: Request, limit: int) -> bytes:
    """A body in chunks, which tells its length at its end."""
    own = asked.max_content_length
    asked.max_content_length = limit if own is None else min(limit, own)
    try:
        return asked.get_data()
    finally:
        asked.max_content_length = own


def _respond(app: Flask, answer: _Answer) -> Response:
    response = app.response_class(answer.body, answer.status)
    # In place of Flask's default for the type.
    response.headers = Headers(answer.headers)
    return response


def _run(
    app: Flask, method: str, ticket: _Ticket, payment: CallPayment, call: Callable[[], Any]
) -> Response:
    token = current.set(payment)
    try:
        response: Response = app.make_response(call())
        # HEAD is answered without its body, so nobody would generate it.
        if response.is_streamed and method != "HEAD":
            return _stream(app, ticket, payment, response)
        response.direct_passthrough = False
        body = response.get_data()
    except BaseException as error:
        # HTTPException too: whatever it is, the application's own handlers answer it.
        ticket.fail(f"the handler raised {type(error).__name__}")
        raise
    finally:
        current.reset(token)
    answer = ticket.finish(response.status_code, response.headers.to_wsgi_list(), body)
    added = answer.added
    if added is None:
        other = _respond(app, answer)
        other.call_on_close(response.close)
        return other
    for name, value in added:
        response.headers.add(name, value)
    return response


def _stream(app: Flask, ticket: _Ticket, payment: CallPayment, response: Response) -> Response:
    """The same response, whose pieces pass through here."""
    response.direct_passthrough = False
    status, headers = response.status_code, response.headers.to_wsgi_list()
    if 200 <= status < 300:
        streaming = ticket.stream(status, headers)
        headers = streaming.headers
    else:
        streaming = None
        ticket.fail(f"the handler answered {status}")
    pieces = _Pieces(response, streaming, payment)
    passing = app.response_class(pieces, status)
    passing.headers = Headers(headers)
    return passing


class _Pieces:
    """A response's pieces, hashed as they pass where they are paid for."""

    def __init__(
        self, response: Response, streaming: _Streaming | None, payment: CallPayment
    ) -> None:
        self._response, self._payment = response, payment
        self._pieces = response.iter_encoded()
        self._streaming = streaming

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        # A generator runs in the context of whoever asks for its next piece: the server's.
        token = current.set(self._payment)
        try:
            piece = next(self._pieces)
            if self._streaming is not None:
                self._streaming.push(piece)
            return piece
        except StopIteration:
            streaming, self._streaming = self._streaming, None
        except BaseException as error:
            streaming, self._streaming = self._streaming, None
            if streaming is not None:
                streaming.fail(f"the stream raised {type(error).__name__}")
                fetcher.fetch()
            raise
        finally:
            current.reset(token)
        is_kept = streaming is None or streaming.finish()
        fetcher.fetch()
        if not is_kept:
            raise BrokenOff
        raise StopIteration

    def close(self) -> None:
        """The server is done with it, be it that the consumer went away: what was begun is served
        to its end all the same, so that it is delivered, and a repeat gets it."""
        try:
            while self._streaming is not None:
                next(self, None)
        except BrokenOff:
            # Nobody is there to whom the end could be denied.
            pass
        finally:
            self._response.close()
