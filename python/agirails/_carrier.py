"""Carries requests by the standard library. Imported with the first call, since `import agirails`
shall not take the time that these libraries take."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from .consumer import _gather

if TYPE_CHECKING:
    from types import TracebackType

    from .consumer import _Outcome, _Request

_NOT_SENT = (ConnectionRefusedError, socket.gaierror)


def send(asked: _Request) -> _Outcome:
    """Carries one request, with the system's proxies and certificates.

    No redirect is followed: none of the handlers here does.
    """
    with Deadline(asked.timeout) as deadline:
        try:
            with _opener(deadline).open(_prepared(asked), timeout=asked.timeout) as response:
                pieces = iter(lambda: response.read1(65_536), b"")
                content = _gather(pieces, asked.body_limit, deadline.until)
                if isinstance(content, tuple):
                    return content
                # What of the announced length never came.
                if response.length:
                    return "lost", "the answer broke off"
                return response.status, list(response.headers.items()), content
        except urllib.error.URLError as error:
            # Raised while connecting and sending only.
            refused = isinstance(error.reason, _NOT_SENT)
            return ("not_sent" if refused else "lost"), str(error.reason)
        except (OSError, http.client.HTTPException) as error:
            return "lost", str(error) or type(error).__name__


def _prepared(asked: _Request) -> urllib.request.Request:
    body = asked.body if asked.has_body else None
    request = urllib.request.Request(asked.url, body, method=asked.method)
    joined: dict[str, str] = {}
    for name, value in asked.headers:
        # The library writes Latin-1, and a value may be any text: it goes out as UTF-8.
        value = value.encode().decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    # The library would else call every body a form.
    if asked.has_body and not any(name.lower() == "content-type" for name in joined):
        joined["Content-Type"] = "application/octet-stream"
    for name, value in joined.items():
        request.add_header(name, value)
    return request


class Deadline:
    """Ends an exchange when its time is up, whatever it just waits for.

    A socket's own timeout is for each read alone: a server that sends a byte now and then, or one
    100 Continue after the other, would hold its caller for as long as it likes.
    """

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
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
        for watched in self._sockets:
            watched.close()

    def _cut(self) -> None:
        for watched in self._sockets:
            with contextlib.suppress(OSError):
                watched.shutdown(socket.SHUT_RDWR)

    def connect(self, address: tuple[str, int], *_: object) -> socket.socket:
        """As socket.create_connection, which would give each of a name's addresses all of it."""
        problem: OSError = TimeoutError("no connection in time")
        for found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            if (left := self.until - time.monotonic()) <= 0:
                break
            try:
                connected = socket.create_connection(found[4][:2], left)  # type: ignore[arg-type]
            except OSError as error:
                problem = error
            else:
                self.watch(connected.fileno())
                return connected
        raise problem

    def watch(self, fileno: int) -> None:
        """Cuts this connection too when the time is up."""
        # By a handle of its own, since TLS takes the first one over.
        self._sockets.append(socket.fromfd(fileno, socket.AF_INET, socket.SOCK_STREAM))
        if time.monotonic() >= self.until:
            self._cut()


class _Timed(urllib.request.AbstractHTTPHandler):
    deadline: Deadline

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        def connection(host: str, **more: Any) -> http.client.HTTPConnection:
            made: http.client.HTTPConnection = http_class(host, **more)
            made._create_connection = self.deadline.connect  # type: ignore[attr-defined]
            return made

        return super().do_open(connection, req, **options)


class _Plain(_Timed, urllib.request.HTTPHandler):
    pass


class _Secure(_Timed, urllib.request.HTTPSHandler):
    pass


def _opener(deadline: Deadline) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    for handler in (_Plain(), _Secure()):
        handler.deadline = deadline
        opener.add_handler(handler)
    return opener
