"""One paid call of a Flask application: the bytes of its request and its response pass here."""

from __future__ import annotations

import functools
import inspect
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Flask, Request, Response, abort
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from ._paywall import DRAIN_SECONDS, BrokenOff, below, current, fetcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._agirails import CallPayment, _Answer, _Exchange
    from ._paywall import Price
    from .flask import Paywall

EXCHANGE = "agirails.exchange"
"""Where a request's environ has the exchange that runs its view."""
ANSWER = "agirails.answer"
"""Where it has what the paywall answers."""
_CHUNK = 1 << 16


class Call:
    """One request to a charged view."""

    def __init__(
        self, paywall: Paywall, price: Price, app: Flask, asked: Request, view: Callable[[], Any]
    ) -> None:
        self.paywall, self.price, self.app, self.asked = paywall, price, app, asked
        self.view, self.environ = view, asked.environ

    def serve(self) -> Any:
        outer: _Exchange | None = self.environ.get(EXCHANGE)
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
                self.environ[EXCHANGE] = outer

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
            self.price.named(name),
            *request_parts(self.asked),
            scheme=self.asked.scheme,
            allow=methods,
        )
        answer = exchange.admit_head() or self.read(exchange)
        if answer is not None:
            self.drain(answer.drain_bytes)
        else:
            amount = None if self.price.function is None else self.amount()
            answer = exchange.admit(amount)
        self.environ[EXCHANGE] = exchange
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
        length, own_limit = self.asked.content_length, self.asked.max_content_length
        stream, size = self.stream(), 0
        if stream is None:
            return exchange.length_required()
        while piece := stream.read(_CHUNK):
            answer = exchange.body(piece)
            size += len(piece)
            if answer is not None:
                return answer
            if own_limit is not None and size > own_limit:
                self.drain(self.paywall._core.max_body_bytes)
                raise RequestEntityTooLarge
        # Not every server tells that a connection ended before its body did.
        return exchange.unreadable() if length is not None and size != length else None

    def stream(self) -> Any:
        """The request's body; None where the server does not tell where it ends, so that Flask
        would not see it."""
        if "stream" in self.asked.__dict__:
            return self.asked.stream
        if self.asked.content_length is None and "HTTP_TRANSFER_ENCODING" in self.environ:
            if not self.environ.get("wsgi.input_terminated"):
                return None
        stream = self.asked.__dict__["stream"] = get_input_stream(self.environ)
        return stream

    def drain(self, most: int) -> None:
        """Reads on for a while: a caller that is still writing would not see its answer."""
        stream, until = self.stream(), time.monotonic() + DRAIN_SECONDS
        try:
            while stream is not None and most > 0 and time.monotonic() < until:
                piece = stream.read(min(most, _CHUNK))
                if not piece:
                    break
                most -= len(piece)
        except Exception:
            pass  # it broke off, and nobody waits for an answer

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
        self.environ[ANSWER] = answer
        response = respond(self.app, answer)
        exchange: _Exchange | None = self.environ.get(EXCHANGE)
        if exchange is not None and exchange.has_rest:
            response.response = _again(exchange)
            # Its place is free when nobody holds it any more.
            response.call_on_close(lambda: self.environ.pop(EXCHANGE, None))
        return response

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
        if head.action == "buffer":
            return self.keep(exchange, response, body)
        if head.action == "pass":
            exchange.end()
            if body is not None:
                response.headers = Headers(head.headers)
                return response
            pieces: Any = in_context(response.iter_encoded(), exchange.payment)
        else:
            pieces = _Pieces(exchange, response)
        passing = self.app.response_class(pieces, head.status)
        passing.headers = Headers(head.headers)
        if head.action == "pass":
            passing.call_on_close(response.close)
        return passing

    def keep(self, exchange: _Exchange, response: Response, body: bytes | None) -> Response:
        """Answers with what is kept for repeats."""
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
        self.environ[ANSWER] = answer
        if body is None:
            response.set_data(answer.body)
        response.headers = Headers(answer.headers)
        return response

    @property
    def exchange(self) -> _Exchange:
        """The one that runs now: a dearer charged function inside has one of its own."""
        exchange: _Exchange = self.environ[EXCHANGE]
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
        try:
            for piece in in_context(self._response.iter_encoded(), self._payment):
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


def _again(exchange: _Exchange) -> Iterator[bytes]:
    """A long answer that is kept, as its caller reads it."""
    while (piece := exchange.next_piece()) is not None:
        yield piece


def in_context(pieces: Iterator[bytes], payment: CallPayment | None) -> Iterator[bytes]:
    """The pieces of a generator, which runs in the context of whoever asks for the next one: the
    server's."""
    while True:
        token = current.set(payment)
        try:
            piece = next(pieces)
        except StopIteration:
            return
        finally:
            current.reset(token)
        yield piece


async def _awaited(result: Any) -> Any:
    return await result


def behind(proxy: Any) -> Any:
    """What a proxy of Flask's stands for right now."""
    return proxy._get_current_object()


def request_parts(asked: Request) -> tuple[str, str, list[tuple[str, str]], str]:
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


def _in_environ(headers: frozenset[str]) -> tuple[str, ...]:
    return tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in headers)


_environ_names = functools.cache(_in_environ)


def respond(app: Flask, answer: _Answer) -> Response:
    response = app.response_class(answer.body, answer.status)
    # In place of Flask's default for the type.
    response.headers = Headers(answer.headers)
    return response
