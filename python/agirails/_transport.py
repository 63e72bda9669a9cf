"""What the adapters of requests and httpx share: they send what a purchase asks for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ._agirails import _Purchase

    _Outcome = tuple[int, list[tuple[str, str]], bytes] | tuple[str, str]
    """What became of a request: status, headers and body; or the kind of failure and its words."""

CALL_OPTIONS = ("max_funding", "settle", "timeout", "request_timeout", "body_limit")
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


def drive(purchase: _Purchase, send: Callable[[Request], _Outcome]) -> dict[str, Any]:
    """Does what the purchase says, until it is over."""
    outcome: _Outcome | None = None
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


async def drive_async(
    purchase: _Purchase, send: Callable[[Request], Awaitable[_Outcome]]
) -> dict[str, Any]:
    """drive, for event loops."""
    outcome: _Outcome | None = None
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
