"""What the adapters of requests and httpx share: they send what a purchase asks for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ._agirails import _Purchase

    _Outcome = tuple[int, list[tuple[str, str]], bytes] | tuple[str, str]
    """What became of a request: status, headers and body; or the kind of failure and its words."""

CALL_OPTIONS = ("max_funding", "settle", "timeout", "request_timeout", "body_limit", "lasts")
"""What the adapters pass on to each call, beside what it may cost."""

LATE = ("lost", "the answer did not come to its end in time")


class Request(NamedTuple):
    """One request to be sent."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    timeout: float
    body_limit: int

    @property
    def has_body(self) -> bool:
        """Whether a body is sent, an empty one too."""
        return bool(self.body) or self.method in ("POST", "PUT", "PATCH")


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def handed_over(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """An answer's headers, for a library that unpacks what says that it is packed.

    What could be unpacked within the limit is. The rest, which nobody asked to have packed, stays
    as it came under another name: the library would unpack it to any size.
    """
    renamed = {"content-encoding": "X-Original-Content-Encoding"}
    return [(renamed.get(name.lower(), name), value) for name, value in headers]


def drive(purchase: _Purchase, send: Callable[[Request], _Outcome]) -> dict[str, Any]:
    """Does what the purchase says, until it is over."""
    outcome: _Outcome | None = None
    try:
        while True:
            step = purchase.next(outcome)
            outcome = None
            if step[0] == "send":
                outcome = send(Request(*step[1:]))
            elif step[0] == "wait":
                time.sleep(step[1])
            else:
                answer: dict[str, Any] = step[1]
                return answer
    finally:
        # An error's traceback may hold the purchase, and its caller makes the call again.
        purchase.let_go()


async def drive_async(
    purchase: _Purchase, send: Callable[[Request], Awaitable[_Outcome]]
) -> dict[str, Any]:
    """drive, for event loops."""
    outcome: _Outcome | None = None
    try:
        while True:
            step = await purchase.next(outcome)
            outcome = None
            if step[0] == "send":
                outcome = await send(Request(*step[1:]))
            elif step[0] == "wait":
                await asyncio.sleep(step[1])
            else:
                answer: dict[str, Any] = step[1]
                return answer
    finally:
        purchase.let_go()


def gather(pieces: Iterable[bytes], limit: int, until: float) -> bytes | tuple[str, str]:
    """The whole body; or why there is none: it is longer than `limit`, or was not there at `until`,
    by the monotonic clock."""
    gathered, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            return "too_large", ""
        if time.monotonic() >= until:
            return LATE
        gathered.append(piece)
    # A connection that was cut at the deadline looks like one that came to its end.
    return LATE if time.monotonic() >= until else b"".join(gathered)
