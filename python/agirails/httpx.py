"""Paying for calls that are made with httpx.

    import httpx
    import agirails.httpx

    transport = agirails.httpx.PayingTransport(consumer, max_amount="0.25")
    with httpx.Client(transport=transport) as client:
        response = client.post("https://api.example.com/generate", json={"prompt": "a haiku"})
        print(response.text, response.extensions["agirails_payment"])

A transport and not an Auth: httpx follows redirects with the headers that an Auth has set, and a
signature is for one server alone. Below a transport nothing is followed; a redirect that a client
follows is a call of its own, and is paid for at the origin alone that its caller named.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx

from ._transport import CALL_OPTIONS, LATE, drive, drive_async, gather, handed_over, origin
from .consumer import AsyncConsumer, Consumer, Payment

if TYPE_CHECKING:
    from ._transport import Request, _Outcome
    from .consumer import _Amount

__all__ = ["AsyncPayingTransport", "PayingTransport"]

NAMED = "agirails_named"
"""The extension that tells a redirect which origin its caller named: clients hand extensions on."""


class _Terms:
    def __init__(self, max_amount: _Amount, options: dict[str, Any]) -> None:
        unknown = set(options) - set(CALL_OPTIONS)
        if unknown:
            raise TypeError(f"got an unexpected keyword argument {sorted(unknown)[0]!r}")
        self.options = {**options, "max_amount": max_amount}

    def purchase(self, core: Any, request: httpx.Request, content: bytes) -> Any:
        limits = request.extensions.get("timeout") or {}
        options = dict(self.options)
        asked = origin(str(request.url))
        named = request.extensions.get(NAMED, asked)
        # A copy: the caller may pass the same ones with another request.
        request.extensions = {**request.extensions, NAMED: named}
        options["pays"] = asked == named
        if options.get("request_timeout") is None and limits.get("read") is not None:
            options["request_timeout"] = limits["read"]
        headers = _decoded(request.headers)
        return core.purchase(request.method, str(request.url), headers, content, options)


def _request(original: httpx.Request, asked: Request) -> httpx.Request:
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), asked.timeout)
    extensions = {**original.extensions, "timeout": timeout}
    content = asked.body if asked.has_body else None
    headers = _encoded(asked.headers)
    return httpx.Request(
        asked.method, asked.url, headers=headers, content=content, extensions=extensions
    )


def _failure(error: httpx.TransportError) -> _Outcome:
    early = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
    return ("not_sent" if isinstance(error, early) else "lost"), type(error).__name__


def _decoded(headers: httpx.Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw]


def _encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _response(paid: dict[str, Any], request: httpx.Request) -> httpx.Response:
    payment = paid["payment"]
    # The body is whole, so it is not sent in pieces any more.
    dropped = ("transfer-encoding", "content-length")
    return httpx.Response(
        paid["status"],
        headers=_encoded(
            [pair for pair in handed_over(paid["headers"]) if pair[0].lower() not in dropped]
        ),
        content=paid["content"],
        request=request,
        extensions={"agirails_payment": None if payment is None else Payment(**payment)},
    )


class PayingTransport(httpx.BaseTransport):
    """Pays for what is sent through it.

    Args:
        consumer: who pays.
        max_amount: what one call may cost.
        transport: what sends the requests; httpx's own where None.
        options: further arguments of `Consumer.call`, such as `max_funding` or `settle`.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        max_amount: _Amount,
        transport: httpx.BaseTransport | None = None,
        **options: Any,
    ) -> None:
        self._core = consumer._core
        self._terms = _Terms(max_amount, options)
        self._inner = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, and pays for it where it must be."""
        purchase = self._terms.purchase(self._core, request, request.read())

        def send(asked: Request) -> _Outcome:
            until = time.monotonic() + asked.timeout
            sent = _request(request, asked)
            try:
                response = self._inner.handle_request(sent)
                try:
                    content = gather(response.stream, asked.body_limit, until)  # type: ignore[arg-type]
                finally:
                    response.close()
            except httpx.TransportError as error:
                return _failure(error)
            if isinstance(content, tuple):
                return content
            return response.status_code, _decoded(response.headers), content

        return _response(drive(purchase, send), request)

    def close(self) -> None:
        """Closes what sends the requests."""
        self._inner.close()


class AsyncPayingTransport(httpx.AsyncBaseTransport):
    """PayingTransport for httpx.AsyncClient; `transport` is httpx's AsyncHTTPTransport if None."""

    def __init__(
        self,
        consumer: AsyncConsumer,
        *,
        max_amount: _Amount,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        self._consumer = consumer
        self._terms = _Terms(max_amount, options)
        self._inner = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, and pays for it where it must be."""
        core = await self._consumer._ready()
        purchase = self._terms.purchase(core, request, await request.aread())

        async def send(asked: Request) -> _Outcome:
            try:
                return await asyncio.wait_for(exchange(asked), asked.timeout)
            except asyncio.TimeoutError:
                return LATE

        async def exchange(asked: Request) -> _Outcome:
            sent = _request(request, asked)
            try:
                response = await self._inner.handle_async_request(sent)
                try:
                    pieces, length = [], 0
                    async for piece in response.stream:  # type: ignore[union-attr]
                        length += len(piece)
                        if length > asked.body_limit:
                            return "too_large", ""
                        pieces.append(piece)
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                return _failure(error)
            return response.status_code, _decoded(response.headers), b"".join(pieces)

        return _response(await drive_async(purchase, send), request)

    async def aclose(self) -> None:
        """Closes what sends the requests."""
        await self._inner.aclose()
