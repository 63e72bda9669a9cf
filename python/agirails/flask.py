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
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Flask, Request, Response, abort, current_app, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from ._agirails import CallPayment
from ._paywall import (
    BUILTIN_PATHS,
    MARK,
    MAX_BUILTIN_BYTES,
    PAYMENTS_PATH,
    Base,
    BrokenOff,
    Price,
    below,
    current,
    fetcher,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from werkzeug.routing import Rule

    from ._agirails import _Answer, _Exchange

__all__ = ["CallPayment", "Paywall"]

_EXCHANGE = "agirails.exchange"
"""Where a request's environ has the exchange that runs its view."""
_ANSWER = "agirails.answer"
"""Where it has what the paywall answers."""
_CHUNK = 1 << 16


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
        self._app = app
        self._check_routes()
        # First in these lists: before all else at a request's begin, after all else at its end.
        app.before_request_funcs.setdefault(None, []).insert(0, self._check_once)
        app.after_request_funcs.setdefault(None, []).insert(0, _expose)
        if not self._free_routes:
            return
        if "agirails_paywall" in app.extensions:
            raise RuntimeError(
                "this application serves the built-in routes of another paywall: "
                "pass free_routes=False to one of them"
            )
        app.extensions["agirails_paywall"] = self
        for path in BUILTIN_PATHS:
            name = path.rpartition("/")[2]
            app.add_url_rule(path, f"agirails_{name}", self._builtin, methods=["GET"])
        path = f"{PAYMENTS_PATH}<path:rest>"
        app.add_url_rule(path, "agirails_payments", self._builtin, methods=["GET", "POST"])

    def close(self, tx_id: str) -> str | None:
        """Ends an open payment now: delivers it where something was served, else gives it back.

        Returns:
            Its stage, such as "delivering"; "open" where a call is running; None where no call was
            ever made with it.

        Raises:
            ValidationError: tx_id is not a transaction id.
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

    def _check_once(self) -> None:
        """Before the first request: blueprints may have been registered since."""
        if not self._is_checked:
            self._check_routes()
            self._is_checked = True

    def _registered(self) -> Iterable[Any]:
        return self._app.view_functions.values() if self._app is not None else ()

    def _put(self, price: Price, function: Any) -> Any:
        is_async = inspect.iscoroutinefunction(function)

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            # The objects themselves: each look through Flask's proxies costs a microsecond.
            app, asked = _behind(current_app), _behind(request)
            run = app.ensure_sync(function) if is_async else function
            call = _Call(self, price, app, asked, functools.partial(run, *args, **kwargs))
            try:
                return call.serve()
            finally:
                fetcher.fetch()

        return charged

    def _builtin(self, rest: str = "") -> Any:
        """The view of the built-in routes."""
        app, asked = _behind(current_app), _behind(request)
        own = _own_rule(app, asked)
        if own is not None:
            return _hand_over(app, asked, own, {"rest": rest} if rest else {})
        if asked.path == BUILTIN_PATHS[0]:
            self._name_routes(app)
        asked.max_content_length = MAX_BUILTIN_BYTES
        body, (method, target, headers, mount) = asked.get_data(), _head(asked)
        scheme = asked.scheme
        answer = self._core.page(method, target, headers, body, mount, scheme=scheme)
        fetcher.fetch()
        return abort(404) if answer is None else _respond(app, answer)

    def _name_routes(self, app: Flask) -> None:
        """Has the price page show what no request has asked for yet."""
        for rule in app.url_map.iter_rules():
            view = app.view_functions.get(rule.endpoint)
            for method in sorted(rule.methods or ()):
                if method not in ("HEAD", "OPTIONS"):
                    handler = getattr(getattr(view, "view_class", None), method.lower(), None)
                    price = getattr(view, MARK, None) or getattr(handler, MARK, None)
                    if price is not None and price._core is self._core:
                        price.named(f"{method} {rule.rule}")


class _Call:
    """One request to a charged view."""

    def __init__(
        self, paywall: Paywall, price: Price, app: Flask, asked: Request, view: Callable[[], Any]
    ) -> None:
        self.paywall, self.price, self.app, self.asked = paywall, price, app, asked
        self.view, self.environ = view, asked.environ

    def serve(self) -> Any:
        outer: _Exchange | None = self.environ.get(_EXCHANGE)
        if outer is not None and outer.is_running and current.get() is not None:
            return self.serve_inside(outer)
        exchange, answer = self.admit()
        if answer is not None:
            return self.respond(answer)
        token = current.set(exchange.payment)
        try:
            return self.run()
        finally:
            current.reset(token)
            if outer is not None:
                self.environ[_EXCHANGE] = outer

    def serve_inside(self, outer: _Exchange) -> Any:
        """A charged function that another one calls: the call is paid once, by the higher price."""
        price = self.price
        amount = price.amount if price.function is None else self.amount()
        if amount is None or outer.payment is None or amount > outer.payment.price:
            outer.abort("raised", "it called a charged function that costs more")
            exchange, answer = self.admit()
            if answer is not None:
                abort(self.respond(answer))
            current.set(exchange.payment)
        return self.view()

    def admit(self) -> tuple[_Exchange, _Answer | None]:
        rule, method = self.asked.url_rule, self.asked.method
        # What answers in place of a route, such as a handler of 404s, is named after its function:
        # nothing in its name may be made up by the caller.
        name = f"{'GET' if method == 'HEAD' else method} {rule.rule}" if rule else self.own_name()
        methods = sorted(rule.methods or ()) if rule else ()
        exchange = self.paywall._core.exchange(
            self.price.named(name), *_head(self.asked), scheme=self.asked.scheme, allow=methods
        )
        answer = exchange.admit_head() or self.read(exchange)
        if answer is None:
            amount = None if self.price.function is None else self.amount()
            answer = exchange.admit(amount)
        self.environ[_EXCHANGE] = exchange
        return exchange, answer

    def own_name(self) -> str:
        return str(getattr(self.view, "func", self.view).__qualname__)

    def read(self, exchange: _Exchange) -> _Answer | None:
        """Reads the whole body, and puts it back for the view. An answer ends the call."""
        asked, environ = self.asked, self.environ
        try:
            if getattr(asked, "_cached_data", None) is not None:
                answer = exchange.body(asked.get_data())
            else:
                answer = self.read_stream(exchange)
        except RequestEntityTooLarge:
            raise  # the application's own limit
        except Exception:
            # Servers raise what they like where a body breaks off.
            return exchange.unreadable()
        if answer is None:
            stream = environ["wsgi.input"] = asked.__dict__["stream"] = BytesIO(exchange.body_bytes)
            asked.get_data()  # which keeps it as data and for forms
            stream.seek(0)
        return answer

    def read_stream(self, exchange: _Exchange) -> _Answer | None:
        asked, environ = self.asked, self.environ
        length, own_limit = asked.content_length, asked.max_content_length
        if length is None and "HTTP_TRANSFER_ENCODING" in environ:
            if not environ.get("wsgi.input_terminated"):
                # A body whose end the server does not tell, and that Flask would not see.
                return exchange.length_required()
        is_read = "stream" in asked.__dict__
        stream = asked.stream if is_read else get_input_stream(environ)
        size = 0
        while True:
            piece = stream.read(_CHUNK)
            answer = exchange.body(piece) if piece else None
            size += len(piece)
            if answer is not None:
                _drain(stream, answer.drain_bytes)
                return answer
            if own_limit is not None and size > own_limit:
                _drain(stream, self.paywall._core.max_body_bytes)
                raise RequestEntityTooLarge
            if not piece:
                break
        # Not every server tells that a connection ended before its body did.
        return exchange.unreadable() if length is not None and size != length else None

    def amount(self) -> int | None:
        """The price of this very request; None where its function failed."""
        try:
            result = self.price.ask(self.asked)
            if inspect.isawaitable(result):
                result = self.app.ensure_sync(_awaited)(result)
            return self.price.read(result)
        except HTTPException:
            raise
        except Exception as error:
            self.price.failed(error)
            return None

    def respond(self, answer: _Answer) -> Response:
        self.environ[_ANSWER] = answer
        return _respond(self.app, answer)

    def run(self) -> Response:
        hidden = self.hide_headers()
        try:
            response: Response = self.app.make_response(self.view())
            response.direct_passthrough = False
            # HEAD is answered without its body, so nobody would generate it.
            is_stream = response.is_streamed and self.asked.method != "HEAD"
            body = None if is_stream else response.get_data()
        except BaseException as error:
            # HTTPException too: whatever it is, the application's own handlers answer it.
            self.exchange.abort("raised", type(error).__name__)
            raise
        finally:
            self.environ.update(hidden)
        exchange = self.exchange
        length = response.content_length if body is None else len(body)
        head = exchange.head(response.status_code, response.headers.to_wsgi_list(), length)
        if head.action == "pass":
            exchange.end()
            response.headers = Headers(head.headers)
            return response
        if head.action == "stream":
            pieces = _Pieces(exchange, response)
            passing = self.app.response_class(pieces, head.status)
            passing.headers = Headers(head.headers)
            return passing
        try:
            for piece in response.iter_encoded() if body is None else (body,):
                exchange.chunk(piece)
        except BaseException as error:
            exchange.abort("raised", type(error).__name__)
            raise
        answer = exchange.end()
        if not answer.is_handlers:
            other = self.respond(answer)
            other.call_on_close(response.close)
            return other
        self.environ[_ANSWER] = answer
        if body is None:
            response.set_data(answer.body)
        response.headers = Headers(answer.headers)
        return response

    @property
    def exchange(self) -> _Exchange:
        """The one that runs now: a dearer charged function inside has one of its own."""
        exchange: _Exchange = self.environ[_EXCHANGE]
        return exchange

    def hide_headers(self) -> dict[str, str]:
        """Takes the headers away that must not change an answer that is kept."""
        names = _environ_names(self.exchange.hidden_headers)
        return {name: self.environ.pop(name) for name in names if name in self.environ}


class _Pieces:
    """A stream's pieces, which pass through the exchange."""

    def __init__(self, exchange: _Exchange, response: Response) -> None:
        self._exchange, self._response = exchange, response
        self._payment = exchange.payment
        self._sent = self._generated()

    def __iter__(self) -> Iterator[bytes]:
        return self._sent

    def _generated(self) -> Iterator[bytes]:
        pieces = self._response.iter_encoded()
        try:
            while True:
                # A generator runs in the context of whoever asks for its next piece: the server's.
                token = current.set(self._payment)
                try:
                    piece = next(pieces)
                except StopIteration:
                    break
                finally:
                    current.reset(token)
                out = self._exchange.chunk(piece)
                if out:
                    yield out
            is_kept = self._exchange.end()
        except BaseException as error:
            self._exchange.abort("broke_off", type(error).__name__)
            raise
        finally:
            fetcher.fetch()
        if not is_kept:
            raise BrokenOff
        if self._exchange.held:
            yield self._exchange.held

    def close(self) -> None:
        """The server is done with it, be it that the caller went away: what was begun is served to
        its end all the same, so that it is delivered, and a repeat gets it."""
        try:
            for _ in self._sent:
                pass
        except BrokenOff:
            pass  # nobody is there to whom the end could be denied
        finally:
            self._response.close()


async def _awaited(result: Any) -> Any:
    return await result


def _behind(proxy: Any) -> Any:
    """What a proxy of Flask's stands for right now."""
    return proxy._get_current_object()


def _drain(stream: Any, most: int) -> None:
    """Reads on for a while: a caller that is still writing would not see its answer."""
    while most > 0:
        piece = stream.read(min(most, _CHUNK))
        if not piece:
            break
        most -= len(piece)


def _expose(response: Response) -> Response:
    """Lets a browser read the paywall's headers where it may read the answer at all."""
    environ = _behind(request).environ
    answer, exchange = environ.get(_ANSWER), environ.get(_EXCHANGE)
    if answer is not None and exchange is not None:
        merged = Headers(exchange.decorate(answer, response.headers.to_wsgi_list()).headers)
        for name in ("Access-Control-Expose-Headers", "Vary"):
            if name in merged:
                response.headers[name] = ", ".join(merged.getlist(name))
    return response


def _own_rule(app: Flask, asked: Request) -> Rule | None:
    """The application's own rule for a path of the built-in routes."""
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


def _head(asked: Request) -> tuple[str, str, list[tuple[str, str]], str]:
    """Method, target, headers and mount path, as the paywall takes them."""
    environ = asked.environ
    mount = _encoded(environ.get("SCRIPT_NAME", "").rstrip("/"))
    headers = [
        (name[5:].replace("_", "-"), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers.append((name.replace("_", "-"), environ[name]))
    return asked.method, below(mount, _target(environ)), headers, mount


def _target(environ: dict[str, Any]) -> str:
    """Path and query as they stand in the request line, where the server gives them: under one of
    two names, neither of which is in the standard. Else they are encoded again."""
    target: str | None = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if target and target.startswith("/"):
        return target
    if target:
        # The absolute form, which is meant for proxies.
        _, _, rest = target.partition("://")
        return rest[rest.find("/") :] if "/" in rest else "/"
    path, query = _encoded(environ.get("PATH_INFO", "")), environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def _encoded(path: str) -> str:
    """A path of WSGI's, which is decoded, as a request line has it."""
    return quote(path.encode("latin-1"), safe="/:@!$&'()*+,;=~")


@functools.cache
def _environ_names(headers: frozenset[str]) -> tuple[str, ...]:
    return tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in headers)


def _respond(app: Flask, answer: _Answer) -> Response:
    response = app.response_class(answer.body, answer.status)
    # In place of Flask's default for the type.
    response.headers = Headers(answer.headers)
    return response
