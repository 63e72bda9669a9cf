"""What the paywalls of all frameworks share: their settings, the payment at hand, the log."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ._agirails import ACTPClient, _notices, _Paywall
from .aio import AsyncACTPClient

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from ._agirails import CallPayment, _Charge

HEADERS = ("X-AGIRAILS-TX-ID", "X-AGIRAILS-SIGNATURE", "Idempotency-Key", "X-AGIRAILS-MAX-PRICE")
"""The request headers that a paywall reads, in the order in which it is given them."""
FREE_PATHS = ("/api/pricing", "/health", "/metrics")
PAYMENTS_PATH = "/api/payments/"
MOST_FREE_BYTES = 1 << 16
"""No free route has a body to speak of."""

LOGGER = logging.getLogger("agirails.paywall")
FETCH_SECONDS = 0.25

current: ContextVar[CallPayment | None] = ContextVar("agirails.payment", default=None)
"""The payment of the call that this context runs."""


class Settings(TypedDict, total=False):
    """The settings of a paywall; agirails.asgi.Paywall says what each is."""

    store: str | PathLike[str] | None
    unsigned: Literal["serve", "refuse"] | None
    deliver: Literal["outbox", "confirmed"] | None
    min_seconds_left: int | None
    closing_seconds: int | None
    lease_seconds: float | None
    wait_seconds: float | None
    confirm_wait_seconds: float | None
    give_up_after: int | None
    max_body_bytes: int | None
    max_kept_stream_bytes: int | None
    keep_days: int | None
    give_back_unclaimed: bool | None
    survive_power_cut: bool | None


class BrokenOff(Exception):
    """A stream's end could not be kept. Raised in place of the end, so that the connection breaks
    off and the consumer knows that it has no whole answer, and repeats the request."""

    def __init__(self) -> None:
        super().__init__("the answer could not be kept: it is not paid for, repeat the request")


class Base:
    """What is the same for every framework."""

    _awaitable = False

    def __init__(self, client: Any, settings: Mapping[str, Any]) -> None:
        if isinstance(client, AsyncACTPClient):
            client = client._client
        if not isinstance(client, ACTPClient):
            raise TypeError(
                "Paywall() needs the provider's client: "
                f"Paywall(ACTPClient(...)), not {type(client).__name__}"
            )
        self._core = _Paywall(client, self._awaitable, dict(settings))
        self._provider = client.address
        fetcher.start()

    @property
    def payment(self) -> CallPayment:
        """The payment of the call that is being served.

        Raises:
            RuntimeError: none is: this is for the functions that `charge` is put on, and for what
                they call.
        """
        payment = current.get()
        if payment is None:
            raise RuntimeError(
                "no paid call is being served here: paywall.payment is for functions under "
                "@paywall.charge(...)"
            )
        return payment

    def __repr__(self) -> str:
        return f"<Paywall of {self._provider}>"


class Price:
    """What is put on a route: one price, under a name for each method and path it is put on."""

    def __init__(
        self,
        paywall: Base,
        price: Any,
        calls: int | None,
        min_seconds_left: int | None,
        deliver: str | None,
        name: str | None,
    ) -> None:
        self.function = price if callable(price) else None
        fixed = None if self.function else price
        if fixed is None and self.function is None:
            raise TypeError('charge() needs a price: USDC such as "0.10", or a function')
        self._core, self._terms = paywall._core, (fixed, calls, min_seconds_left, deliver)
        self._name = name
        self._charges: dict[str, _Charge] = {}
        if name is None:
            # A wrong price is told where it stands, not at the first request.
            self._core.charge(None, *self._terms)
        else:
            self.named("")

    def named(self, route: str) -> _Charge:
        """The charge of this route, which the price page shows from the first time on."""
        name = self._name or route
        charge = self._charges.get(name)
        if charge is None:
            charge = self._core.charge(name, *self._terms)
            assert charge is not None
            # Two threads that come here at once name it twice, which changes nothing.
            self._charges[name] = charge
        return charge


class Fetcher:
    """Hands notices on to `logging`: see _notices for why Rust does not.

    A call's own are fetched right behind it, in its thread. What comes up while nobody calls (the
    outbox's troubles, above all) is fetched by a daemon thread, a few times a second. It waits in
    time.sleep, where an interpreter that exits can leave it behind; what is left then is told at
    exit. A forked child inherits no thread: it starts its own with its first call, before which
    nothing comes up in it either.
    """

    def __init__(self) -> None:
        self._is_wanted = self._is_running = False
        # After logging's own handler, so it runs before that one closes the log.
        atexit.register(self.fetch)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._lose_thread)

    def start(self) -> None:
        """Begins to fetch in this process."""
        self._is_wanted = True
        self._keep_running()

    def _lose_thread(self) -> None:
        self._is_running = False

    def _run(self) -> None:
        while True:
            time.sleep(FETCH_SECONDS)
            self.fetch()

    def fetch(self) -> None:
        """Tells what came up since the last time."""
        self._keep_running()
        for level, request_id, message in _notices():
            told = message if request_id is None else f"{message} [request {request_id}]"
            LOGGER.log(level, "%s", told, extra={"request_id": request_id})

    def _keep_running(self) -> None:
        """Begins to fetch in a forked child, where the parent has begun."""
        if self._is_wanted and not self._is_running:
            self._is_running = True
            threading.Thread(target=self._run, name="agirails.paywall", daemon=True).start()


fetcher = Fetcher()


def price_problem(price: Price, error: Exception) -> None:
    """Tells the operator that a price function failed; the caller is told less."""
    LOGGER.error("the price function %r failed", price.function, exc_info=error)
