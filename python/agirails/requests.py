"""Paying for calls that are made with requests.

    import agirails.requests

    session = agirails.requests.session(consumer, max_amount="0.25")
    response = session.post("https://api.example.com/generate", json={"prompt": "a haiku"})
    print(response.text, response.raw.agirails_payment)

All that `requests` does above its adapters works as ever. A redirect that a session follows is a
call of its own, with no signature of the one before, and is paid for at the origin alone that its
caller named.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import suppress
from http.client import BadStatusLine, HTTPMessage, parse_headers
from http.client import HTTPResponse as WireResponse
from typing import TYPE_CHECKING, Any

from requests import Session
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as Unconnected
from requests.exceptions import ConnectTimeout, RequestException, SSLError
from urllib3 import HTTPHeaderDict, HTTPResponse

from ._transport import CALL_OPTIONS, drive, gather, handed_over, origin
from .consumer import Consumer, Payment

if TYPE_CHECKING:
    from types import TracebackType

    from requests import PreparedRequest, Response

    from ._transport import Request, _Outcome
    from .consumer import _Amount

__all__ = ["PayingAdapter", "session"]

MOST_INTERIM_ANSWERS = 100
"""More than anybody sends before an answer."""


class PayingAdapter(HTTPAdapter):
    """Pays for what is sent through it.

    Args:
        consumer: who pays.
        max_amount: what one call may cost.
        options: further arguments of `Consumer.call`, such as `max_funding` or `settle`; and those
            of requests' HTTPAdapter.
    """

    def __init__(self, consumer: Consumer, *, max_amount: _Amount, **options: Any) -> None:
        self._paying = {name: options.pop(name, None) for name in CALL_OPTIONS}
        self._paying["max_amount"] = max_amount
        self._consumer = consumer
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Makes the connections, which pass over interim answers."""
        super().init_poolmanager(*args, **kwargs)
        _pass_over_interim_answers(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the connections through a proxy, which pass over interim answers too."""
        return _pass_over_interim_answers(super().proxy_manager_for(*args, **kwargs))

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Sends a request, and pays for it where it must be."""
        content = _content(request.body)
        options = self._paying
        if isinstance(timeout, (int, float)):
            options = {**options, "request_timeout": timeout}
        options = {**options, "pays": _Named.by_caller(request)}
        given = [(name, _text(value)) for name, value in request.headers.items()]
        purchase = self._consumer._core.purchase(
            request.method, request.url, given, content, options
        )

        def sent(asked: Request) -> _Outcome:
            copy = request.copy()
            copy.method, copy.url, copy.body = asked.method, asked.url, asked.body
            copy.headers.clear()
            copy.headers.update(asked.headers)
            if asked.has_body:
                copy.headers["Content-Length"] = str(len(asked.body))
            try:
                with (
                    _Deadline(asked.timeout) as deadline,
                    super(PayingAdapter, self).send(
                        copy,
                        stream=True,
                        timeout=asked.timeout,
                        verify=verify,
                        cert=cert,
                        proxies=proxies,
                    ) as answer,
                ):
                    # It has none any more where there is no body to come.
                    with suppress(AttributeError, OSError, ValueError):
                        deadline.watch(answer.raw.fileno())
                    pieces = iter(lambda: answer.raw.read(65_536, decode_content=False), b"")
                    content = gather(pieces, asked.body_limit, deadline.until)
                    if isinstance(content, tuple):
                        return content
                    return answer.status_code, list(answer.raw.headers.items()), content
            except (ConnectTimeout, SSLError) as error:
                return "not_sent", type(error).__name__
            except Unconnected as error:
                refused = "NewConnectionError" in repr(error) or "NameResolution" in repr(error)
                return ("not_sent" if refused else "lost"), type(error).__name__
            except (RequestException, OSError) as error:
                return "lost", type(error).__name__
            except Exception as error:  # urllib3's own, while the body is read
                if type(error).__module__.startswith("urllib3"):
                    return "lost", type(error).__name__
                raise

        paid = drive(purchase, sent)
        message = HTTPMessage()
        headers = handed_over(paid["headers"])
        for name, value in headers:
            message.add_header(name, value)
        raw = HTTPResponse(
            body=io.BytesIO(paid["content"]),
            headers=HTTPHeaderDict(headers),
            status=paid["status"],
            # Without it a HEAD's answer would be one whose body broke off.
            request_method=request.method,
            preload_content=False,
            original_response=_Original(message),  # type: ignore[arg-type, unused-ignore]
        )
        payment = paid["payment"]
        raw.agirails_payment = None if payment is None else Payment(**payment)  # type: ignore[attr-defined, unused-ignore]
        return self.build_response(request, raw)


def _text(value: str | bytes) -> str:
    # What the library cannot write raises here, and not when something was paid already.
    return (value if isinstance(value, bytes) else value.encode("latin-1")).decode("latin-1")


def _content(body: Any) -> bytes:
    """A body of any kind that requests takes, whole: it may have to be sent again."""
    if body is None:
        return b""
    if isinstance(body, (str, bytes)):
        return body.encode() if isinstance(body, str) else body
    pieces = [body.read()] if hasattr(body, "read") else list(body)
    return b"".join(piece.encode() if isinstance(piece, str) else piece for piece in pieces)


class _Named:
    """Which origin a caller named, as a hook of the request: a session hands hooks on to the
    requests by which it follows a redirect. It does nothing else."""

    def __init__(self, request: PreparedRequest) -> None:
        self.request = request
        self.origin = origin(request.url or "")

    def __call__(self, response: Response, **kwargs: Any) -> None:
        pass

    @classmethod
    def by_caller(cls, request: PreparedRequest) -> bool:
        """Whether this request goes where its caller wanted, or where a redirect of it went first."""
        hooks = request.hooks.setdefault("response", [])
        named = next((hook for hook in hooks if isinstance(hook, cls)), None)
        if named is None or named.request is request:
            named = cls(request)
            others = [hook for hook in hooks if not isinstance(hook, cls)]
            request.hooks = {**request.hooks, "response": [*others, named]}
        return named.origin == origin(request.url or "")


class _FinalResponse(WireResponse):
    """http.client takes each answer but "100 Continue" for the final one (RFC 9110, 15.2)."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM_ANSWERS):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            parse_headers(self.fp)
        raise BadStatusLine("more interim answers than anybody sends")


def _pass_over_interim_answers(manager: Any) -> Any:
    for scheme, pool in manager.pool_classes_by_scheme.items():
        if getattr(pool.ConnectionCls, "response_class", None) is not _FinalResponse:
            connection = type(
                pool.ConnectionCls.__name__,
                (pool.ConnectionCls,),
                {"response_class": _FinalResponse},
            )
            pool = type(pool.__name__, (pool,), {"ConnectionCls": connection})
            classes = {**manager.pool_classes_by_scheme, scheme: pool}
            manager.pool_classes_by_scheme = classes
    return manager


class _Deadline:
    """Ends the reading of an answer when its time is up.

    A socket's own timeout is for each read alone: a server that sends a byte now and then would
    hold its caller for as long as it likes.
    """

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self._watched: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        # It may be at it just now, and a socket that is closed may be another one the next moment.
        self._timer.join()
        if self._watched is not None:
            self._watched.close()

    def watch(self, fileno: int) -> None:
        """Cuts this connection when the time is up."""
        # By a handle of its own, since the library may close the first one.
        self._watched = socket.fromfd(fileno, socket.AF_INET, socket.SOCK_STREAM)
        if time.monotonic() >= self.until:
            self._cut()

    def _cut(self) -> None:
        if self._watched is not None:
            with suppress(OSError):
                self._watched.shutdown(socket.SHUT_RDWR)


class _Original:
    """What of a connection's response is looked at for cookies."""

    def __init__(self, msg: HTTPMessage) -> None:
        self.msg = msg

    def isclosed(self) -> bool:
        return True

    def close(self) -> None:
        pass


def session(consumer: Consumer, *, max_amount: _Amount, **options: Any) -> Session:
    """A session whose calls are paid for: see PayingAdapter."""
    paying = Session()
    for scheme in ("https://", "http://"):
        paying.mount(scheme, PayingAdapter(consumer, max_amount=max_amount, **options))
    return paying
