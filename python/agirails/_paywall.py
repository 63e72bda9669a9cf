"""What the paywalls of all frameworks share: settings, prices, the payment at hand, the log."""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
import os
import queue
import threading
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeVar

from ._agirails import ACTPClient, _events, _Paywall, _price
from .aio import AsyncACTPClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from decimal import Decimal
    from os import PathLike

    from typing_extensions import Unpack

    from ._agirails import CallPayment, _Charge
    from .types import Address, Usdc

F = TypeVar("F", bound="Callable[..., Any]")

BUILTIN_PATHS = ("/api/pricing", "/health", "/metrics")
PAYMENTS_PATH = "/api/payments/"
MAX_BUILTIN_BYTES = 1 << 16
"""The longest request body that a built-in route takes."""
DRAIN_SECONDS = 10
"""How long a caller may still send a body that is rejected, so that it sees the answer."""
PAYMENT_HEADERS = ("x-agirails-tx-id", "payment-signature")
"""The request headers that carry a payment."""
MARK = "__agirails_charge__"
"""Where a charged function keeps its Price."""

LOGGER = logging.getLogger("agirails.paywall")
FETCH_SECONDS = 0.25

current: ContextVar[CallPayment | None] = ContextVar("agirails.payment", default=None)
"""The payment of the call that is being served."""


class Settings(TypedDict, total=False):
    """The settings of a paywall; Base.__init__ describes them."""

    store: str | PathLike[str] | None
    former_clients: Sequence[ACTPClient | AsyncACTPClient] | None
    public_url: str | None
    unsigned: Literal["serve", "refuse"] | None
    one_store: bool | None
    deliver: Literal["outbox", "confirmed"] | None
    settle: Literal["auto", "never"] | None
    settle_min_net: str | Decimal | Usdc | None
    coin_price: str | Decimal | Usdc | None
    settle_collect_seconds: int | None
    vary_on: Sequence[str] | None
    min_seconds_left: int | None
    closing_seconds: int | None
    lease_seconds: float | None
    wait_seconds: float | None
    confirm_wait_seconds: float | None
    give_up_after: int | None
    max_window_seconds: int | None
    max_deadline_seconds: int | None
    idle_close_seconds: int | None
    max_body_bytes: int | None
    body_seconds: float | None
    body_budget_bytes: int | None
    max_kept_stream_bytes: int | None
    max_kept_answer_bytes: int | None
    keep_requests: bool | None
    max_kept_request_bytes: int | None
    webhook_url: str | None
    webhook_secret: str | None
    keep_days: int | None
    give_back_unclaimed: bool | None
    require_agreement: bool | None
    survive_power_cut: bool | None


class PaywallEvent(NamedTuple):
    """Something that happened at a paywall. What does not apply is None."""

    name: str
    """What kind of event it is. Of money: "delivered", "settled", "disputed", "resolved" (a dispute
    has ended), "refunded", "cancelled" (by others, before anything was served), "lost", "ruling" (of a
    dispute that bonds decide, something else stands than before). Of calls: "served", "repeated",
    "run_failed", "stream_cut", "rejected". Else "background"."""
    level: int
    """How much it matters, as `logging` counts: 20 info, 30 warning, 40 error."""
    message: str
    """What happened, in words."""
    transaction: str | None = None
    """The transaction."""
    requester: str | None = None
    """Who pays."""
    net: int | None = None
    """Of a settlement: what arrived, base units of USDC."""
    gas_wei: int | None = None
    """What a move's gas cost the provider, in wei."""
    answer_until: int | None = None
    """Of a ruling against the provider: the last second in which a challenge counts, Unix time of the
    chain."""
    price: int | None = None
    """What the call takes, base units of USDC."""
    route: str | None = None
    """The charge's name."""
    request_id: str | None = None
    """The request that was rejected, as its caller was told."""
    attempt: int | None = None
    """The number of the run, from 1."""
    status: int | None = None
    """The HTTP status that the caller got."""
    seconds: float | None = None
    """From the claim to the outcome."""
    reason: str | None = None
    """Why a run failed or a request was rejected."""
    outcome: str | None = None
    """What became of a failed run's payment."""


class BrokenOff(Exception):
    """A stream could not be kept. It is raised in place of the stream's end, so that the
    connection breaks off: the consumer sees that the answer is not whole, and repeats its
    request."""

    def __init__(self) -> None:
        super().__init__("the answer could not be kept: it is not paid for, repeat the request")


class Base:
    """What is the same for every framework."""

    _awaitable = False

    def __init__(
        self,
        client: ACTPClient | AsyncACTPClient | None = None,
        app: Any = None,
        *,
        free_routes: bool = True,
        on_event: Callable[[PaywallEvent], Any] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        """Opens the store, and starts to deliver on chain what it owes.

        A setting that is left out or None has its default.

        Args:
            client: the provider's client. Its address is paid.
            app: the application; or call init_app later.
            free_routes: whether the application also serves /api/pricing, /health, /metrics and
                /api/payments/…. A route of the application's own at one of these paths wins.
            on_event: a function, sync or async, that is called with a PaywallEvent for everything
                that happens at this paywall in this process, one after the other in a thread of
                its own. What it raises is logged and changes nothing; an event that it is told of
                when the process dies is lost. For money use the webhook, which is told at least
                once.
            store: where claims and answers are kept: None for a SQLite file beside the client's
                state, which all workers of a machine share; another directory; or
                "postgresql://…", for several machines.
            former_clients: clients of the keys that this provider used before. What is open of them
                is served, delivered, settled and given back under their own keys; offers name the
                new one. Leave a key out once /health shows nothing open of it.
            public_url: the URL under which callers reach the application, such as
                "https://example.com/shop". Set it where a proxy changes host or path.
            unsigned: what to do with a request that its payer did not sign: "serve" or "refuse".
                The default is "serve" on mock, local chains and Base Sepolia, else "refuse".
                Closing a transaction always needs its payer's signature.
            one_store: whether no other store serves for this client's key. Then transactions are
                served whose service hash does not name this store's service, as the recipe's
                consumers make them. The default is True on mock, local chains and Base Sepolia,
                else False.
            deliver: when a response leaves: "outbox" (default), as soon as it is durable, and the
                delivery on chain follows; or "confirmed", when the delivery stands on chain.
            settle: whether what was delivered is settled once its dispute window is over, at your
                gas: "auto" (default), or "never", which leaves it to others.
            settle_min_net: the least that a settlement must bring, after the protocol's fee, USDC
                as str or Decimal: "0.01" on a chain. What brings less waits, and is counted by
                /metrics and /health.
            coin_price: what one whole coin of the chain costs (1 ETH on Base), USDC as str or
                Decimal. Where it is given, a settlement also waits while its gas costs more than
                it brings.
            settle_collect_seconds: for how long settlements that are due are collected, to be sent
                together, seconds: 0.
            vary_on: names of further request headers that can change an answer. Two requests that
                differ in one of them are two calls.
            min_seconds_left: how much time a transaction must have left before its deadline for a
                call to start, seconds: 120. It must be longer than a handler runs, plus
                closing_seconds.
            closing_seconds: how long before its deadline a transaction is closed, seconds: 60.
            lease_seconds: how long the claim of a process that died is kept for it, seconds: 15.
            wait_seconds: how long a repeat waits for the run that is under way, seconds: 30.
            confirm_wait_seconds: how long a response waits with deliver="confirmed", seconds: 60.
            give_up_after: after how many failed runs in a row a payment is given up, whichever its
                calls: 5. It is given back where nothing was served; else it has to wait longer
                before every further run.
            max_window_seconds: the longest dispute window of transactions that are served, seconds:
                7 days.
            max_deadline_seconds: the most time that a transaction may have left before its deadline
                when it is used for the first time, seconds: 7 days. No charge's bundles may last
                longer.
            idle_close_seconds: after how long without an answered call a balance is delivered of
                which calls were served, seconds: a day, at least an hour.
            max_body_bytes: the longest request body, bytes: 16 MiB.
            body_seconds: how long a request body may take to arrive, seconds: 60.
            body_budget_bytes: how many bytes of request bodies the process holds at once, a quarter
                of them for requests without a payment that was checked: 128 MiB.
            max_kept_stream_bytes: the longest streamed response that is kept for repeats, bytes:
                1 MiB.
            max_kept_answer_bytes: the longest other response that is kept for repeats, bytes:
                16 MiB.
            keep_requests: whether the request of each answered call is kept beside its answer, with
                its signature, so that `evidence` can show what was asked: True. The values of
                Authorization, Cookie and other headers that carry credentials are never kept.
            max_kept_request_bytes: the longest request body that is kept with it, bytes: 64 KiB.
                Of a longer one its hash alone is kept.
            webhook_url: where the application is told of money by a POST of JSON: an https URL, or
                an http one of this machine. Each event is kept in the store until the receiver
                answers 2xx, for five days, and is signed as Standard Webhooks have it.
            webhook_secret: what both sides know: "whsec_" and 24 to 64 random bytes in base64.
            keep_days: how long ended payments are kept, days: 30.
            give_back_unclaimed: whether a transaction that nobody calls with is given back before
                its deadline: True.
            require_agreement: whether the transaction of a single call must name its request, so that
                it pays for nothing else: False. It takes a kernel of AIP-14c, which keeps it.
            survive_power_cut: whether what the store keeps is synced to the disk before it counts.
                Without it, it survives the end of any process that serves, but a power cut of the
                store's machine may take the last moments, and so may the crash of a PostgreSQL
                server: False on SQLite, True on PostgreSQL.

        Raises:
            TypeError: client is missing or not a client, or a setting is unknown.
            ValidationError: a setting's value is not allowed, or contradicts another; the client
                of a chain has no key (code key_missing).
            StorageError: the store cannot be used; the message names it.

        Example:
            >>> paywall = Paywall(client, app=app, unsigned="refuse", min_seconds_left=300)
        """
        if isinstance(client, AsyncACTPClient):
            client = client._client
        if not isinstance(client, ACTPClient):
            raise TypeError(
                "Paywall() needs the provider's client: "
                f"Paywall(ACTPClient(...)), not {type(client).__name__}"
            )
        given: dict[str, Any] = dict(settings)
        if given.get("former_clients") is not None:
            given["former_clients"] = [
                former._client if isinstance(former, AsyncACTPClient) else former
                for former in given["former_clients"]
            ]
        self._core = _Paywall(client, self._awaitable, given)
        self._provider = client.address
        self._on_event = on_event
        if on_event is not None:
            listeners.add(self)
        self._free_routes = free_routes
        self._functions: set[Any] = set()
        fetcher.start()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        """Connects the paywall to an application that is made later than the paywall."""
        raise NotImplementedError

    def charge(
        self,
        price: str | Decimal | Usdc | Callable[..., Any],
        *,
        calls: int | None = None,
        min_seconds_left: int | None = None,
        deliver: Literal["outbox", "confirmed"] | None = None,
        name: str | None = None,
        price_text: str | None = None,
        lasts: int | None = None,
    ) -> Callable[[F], F]:
        """Puts a price on a function that answers requests. It goes below the route's decorator.

        An answer with a status of 2xx is paid: it is kept, with its proof, before its first byte
        leaves, and the same request gets the same bytes again. Any other status, and any
        exception, costs nothing. An answer that is sent piece by piece is a stream: it is hashed
        as it passes and delivered at its end; where its caller goes away, the rest is made all the
        same, so a stream must have an end.

        HEAD costs what GET costs. OPTIONS is answered without running the function. A charged
        function that calls another one is paid once, by the higher price.

        Args:
            price: what a call costs: USDC as str or Decimal ("0.10"), or usdc_base_units(…); or a
                function, sync or async, that takes the request or nothing and returns the price, 0
                for a call that is free. It runs before the payment is checked. An HTTPException that it raises is
                the answer.
            calls: sells bundles of this many calls only: one transaction is drawn down call by
                call, each with an Idempotency-Key of its own.
            min_seconds_left: how much time a transaction must have left before its deadline,
                seconds, in place of the paywall's setting; longer than the function may run.
            deliver: "outbox" or "confirmed", in place of the paywall's setting.
            name: what the price page, log and metrics call it; method and path by default.
            price_text: what the price page says in place of a number where the price is a
                function, such as "0.05 to 0.50 USDC".
            lasts: for how many seconds from its purchase on calls can be made with a bundle, 300
                to 2_592_000 (30 days), and no longer than the paywall's `idle_close_seconds` and
                `max_deadline_seconds` allow; what is left of it then goes to you. Where None, until
                `min_seconds_left` before the end of an hour.

        Raises:
            TypeError: charge stands above the route's decorator, or is used without parentheses.
            ValidationError: the protocol cannot carry this price or bundle.

        Example:
            >>> @app.get("/api/search")
            ... @paywall.charge("0.10")
            ... def search(): ...
        """
        if callable(price):
            self._check_routes((price,))
        terms = Price(
            self,
            price,
            calls=calls,
            min_seconds_left=min_seconds_left,
            deliver=deliver,
            name=name,
            price_text=price_text,
            lasts=lasts,
        )
        return _Decorator(self, terms)

    def _put(self, price: Price, function: Any) -> Any:
        """The charged function."""
        raise NotImplementedError

    def _registered(self) -> Iterable[Any]:
        """The functions that the application serves as they are."""
        return ()

    def _check_routes(self, charged: Iterable[Any] = ()) -> None:
        """Raises if the application serves a function without the charge that was put on it."""
        functions = self._functions.union(charged)
        for function in self._registered():
            if _is_function(function) and function in functions:
                raise TypeError(
                    f"@paywall.charge(...) must stand below the route's decorator: "
                    f"{_name_of(function)}() was made a route before its price was put on it, so "
                    "that it would be served free. For a free route beside the paid one use a "
                    "function of its own"
                )

    @property
    def payment(self) -> CallPayment:
        """The payment of the call that is being served.

        Raises:
            RuntimeError: no paid call is being served. This is for functions under `charge`, and
                for what they call.
        """
        payment = current.get()
        if payment is None:
            raise RuntimeError(
                "no paid call is being served here: paywall.payment is for functions under "
                "@paywall.charge(...)"
            )
        return payment

    @property
    def provider(self) -> Address:
        """Who is paid: the address of the client that the paywall was made with."""
        return self._provider

    @property
    def service_hash(self) -> str:
        """What transactions are bound to: the serviceHash of the offers, 0x and 64 hex digits.

        It is kept in the store, and so is the same for all workers that share it.
        """
        return self._core.service_hash

    def __repr__(self) -> str:
        return f"<Paywall of {self._provider}>"


class _Decorator:
    """What charge() returns. Used as a route it raises: the parentheses were left out."""

    def __init__(self, paywall: Base, price: Price) -> None:
        self._paywall, self._price = paywall, price

    def __call__(self, function: F) -> F:
        if inspect.isclass(function):
            raise TypeError(
                f"charge() is for functions: put it on the methods of {function.__name__}, or "
                "into the list `decorators` of a Flask view class"
            )
        if not _is_function(function):
            raise TypeError(
                f"charge() is for functions, not for {type(function).__name__}: "
                "put it below the route's decorator, and write its price in parentheses"
            )
        self._paywall._check_routes((function,))
        self._paywall._functions.add(function)
        charged = self._paywall._put(self._price, function)
        setattr(charged, MARK, self._price)
        return charged  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        # The first attributes that frameworks read of a route's function.
        if name in ("__name__", "__signature__", "methods", "required_methods"):
            raise TypeError(
                'charge needs its price in parentheses, such as @paywall.charge("0.10")'
            )
        raise AttributeError(name)


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, functools.partial)


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


class Price:
    """What is put on a route: one price, under a name for each method and path it is put on."""

    def __init__(
        self,
        paywall: Base,
        price: Any,
        *,
        calls: int | None = None,
        min_seconds_left: int | None = None,
        deliver: str | None = None,
        name: str | None = None,
        price_text: str | None = None,
        lasts: int | None = None,
    ) -> None:
        self.function = price if callable(price) else None
        fixed = None if self.function else price
        if fixed is None and self.function is None:
            raise TypeError('charge() needs a price: USDC such as "0.10", or a function')
        self._takes_request = self.function is not None and _takes_request(self.function)
        self._core = paywall._core
        self._terms = (fixed, calls, min_seconds_left, deliver, price_text, lasts)
        self._name = name
        self._charges: dict[str, _Charge] = {}
        # A wrong price raises here, not at the first request.
        self._core.charge(None, *self._terms)
        self.amount = None if fixed is None else _price(fixed)
        if name is not None:
            self.named("")

    def named(self, route: str) -> _Charge:
        """The charge of this route. The price page shows it from now on."""
        name = self._name or route
        charge = self._charges.get(name)
        if charge is None:
            charge = self._core.charge(name, *self._terms)
            assert charge is not None
            # Two threads that come here at once name it twice, which changes nothing.
            self._charges[name] = charge
        return charge

    def ask(self, request: Any) -> Any:
        """What the price function returns: something to await where it is async."""
        assert self.function is not None
        return self.function(request) if self._takes_request else self.function()

    def read(self, result: Any) -> int:
        """The price in base units of USDC; 0 for a call that is free."""
        if result is None or isinstance(result, bool):
            # A function that forgets to return must not give its calls away.
            raise TypeError(f"a price function must return a price, 0 for a free call: {result}")
        return _price(result)

    def failed(self, error: Exception) -> None:
        """Tells the operator that the price function failed; the caller is told less."""
        LOGGER.error("the price function %s failed", _name_of(self.function), exc_info=error)


def _takes_request(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True  # a function that does not tell is asked as most are written
    for arguments in ((None,), ()):
        try:
            signature.bind(*arguments)
            return bool(arguments)
        except TypeError:
            pass
    raise TypeError(
        f"a price function must take the request or nothing, not {_name_of(function)}{signature}"
    )


def dearest(prices: Sequence[Price]) -> Price | None:
    """The price that is asked for where one request runs several charged functions; None where
    it takes the request to tell."""
    if len(prices) == 1:
        return prices[0]
    if any(price.function for price in prices):
        return None
    return max(prices, key=lambda price: price.amount or 0)


def below(mount: str, path: str) -> str:
    """A path or target below the path that the application is mounted under. Servers differ in
    whether they leave that on."""
    rest = path[len(mount) :]
    return rest if mount and path.startswith(mount) and rest[:1] in ("", "/", "?") else path


def is_builtin(path: str) -> bool:
    return path in BUILTIN_PATHS or path.startswith(PAYMENTS_PATH)


class Listeners:
    """Calls the functions that are told of events, in a thread of their own: no call waits for them.

    A forked child inherits no thread: it starts its own with its first event.
    """

    MOST_WAITING = 10_000
    """A function that is slower than its events must not fill the memory."""
    EXIT_SECONDS = 5
    """How long an interpreter that exits waits for what is left."""

    def __init__(self) -> None:
        self._paywalls: weakref.WeakValueDictionary[int, Base] = weakref.WeakValueDictionary()
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(self.MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, paywall: Base) -> None:
        """Has this paywall's function told from now on."""
        self._paywalls[paywall._core.number] = paywall

    def tell(self, number: int, level: int, message: str, fields: dict[str, Any]) -> None:
        """Has the function of this paywall called, where there is one."""
        paywall = self._paywalls.get(number)
        if paywall is None:
            return
        fields = {name: value for name, value in fields.items() if name != "event"}
        event = PaywallEvent(fields.pop("name"), level, message, **fields)
        try:
            self._queue.put_nowait((paywall._on_event, event))
        except queue.Full:
            LOGGER.warning("on_event is too slow: it was not told that %s", message)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._queue,), name="agirails.events", daemon=True
                )
                self._thread.start()

    @staticmethod
    def _run(waiting: queue.Queue[Any]) -> None:
        loop = None
        while (item := waiting.get()) is not None:
            function, event = item
            try:
                result = function(event)
                if inspect.isawaitable(result):
                    import asyncio

                    loop = loop or asyncio.new_event_loop()
                    loop.run_until_complete(_awaited(result))
            except Exception:
                LOGGER.exception("on_event failed at the event %s", event.name)

    def finish(self) -> None:
        """Waits for what is left."""
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=self.EXIT_SECONDS)
            except queue.Full:
                return
            self._thread.join(self.EXIT_SECONDS)


async def _awaited(awaitable: Any) -> None:
    await awaitable


listeners = Listeners()


class Fetcher:
    """Hands events on to `logging`: _events in Rust says why Rust does not.

    A call's own events are fetched at its end, in its thread. What happens between calls is fetched
    by a daemon thread, a few times a second. That thread waits in time.sleep, where an interpreter
    that exits can leave it behind; what is left then is logged at exit. A forked child inherits no
    thread: it starts its own with its first call, and no event happens in it before.
    """

    def __init__(self) -> None:
        self._is_wanted = self._is_running = False
        # After logging's own handler, so it runs before that one closes the log.
        atexit.register(self._finish)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._lose_thread)

    def start(self) -> None:
        """Starts to fetch in this process."""
        self._is_wanted = True
        self._keep_running()

    def _lose_thread(self) -> None:
        self._is_running = False

    def _finish(self) -> None:
        self.fetch()
        listeners.finish()

    def _run(self) -> None:
        while True:
            time.sleep(FETCH_SECONDS)
            self.fetch()

    def fetch(self) -> None:
        """Logs what happened since the last time."""
        self._keep_running()
        for level, message, fields, number in _events():
            if number:
                listeners.tell(number, level, message, {**fields, "name": fields.get("event")})
            request_id = fields.setdefault("request_id", None)
            text = message if request_id is None else f"{message} [request {request_id}]"
            LOGGER.log(level, "%s", text, extra=fields)

    def _keep_running(self) -> None:
        """Starts to fetch in a forked child, where the parent has."""
        if self._is_wanted and not self._is_running:
            self._is_running = True
            threading.Thread(target=self._run, name="agirails.paywall", daemon=True).start()


fetcher = Fetcher()
