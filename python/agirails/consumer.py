"""Paying for calls: what a service wants is read, checked against what may be spent, put into
escrow, and the answer compared with the provider's receipt.

>>> from agirails import Consumer, ACTPClient
>>> client = ACTPClient(mode="mock", requester_address="0x" + "c0" * 20)
>>> consumer = Consumer(client, budget={"per_day": "10"})
>>> consumer.spent()
Spent(hour=0, day=0, provider=0, used=0, locked=0)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from ._agirails import ACTPClient, _open_consumer
from .errors import ACTPError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

    from .aio import AsyncACTPClient
    from .types import Address

    _Headers = Mapping[str, str] | Iterable[tuple[str, str]]
    _Amount = str | Decimal | int

MODE_VARIABLE = "ACTP_MODE"
"""The environment variable that names the mode of the client that `paid_call` makes by itself."""

_SETTINGS = (
    MODE_VARIABLE,
    "ACTP_STATE_DIR",
    "ACTP_PRIVATE_KEY",
    "ACTP_KEYSTORE_BASE64",
    "ACTP_KEY_PASSWORD",
    "AGIRAILS_NETWORK",
    "BASE_SEPOLIA_RPC",
    "BASE_MAINNET_RPC",
)


class Payment(NamedTuple):
    """How a call was paid. Amounts are base units of USDC."""

    transaction_id: str
    """The transaction."""
    provider: Address
    """Who is paid."""
    kind: str
    """ "single": the call took the whole transaction; "prepaid": it was drawn from a balance."""
    price: int
    """What the call took."""
    amount: int
    """What the transaction holds."""
    funded_now: bool
    """Whether it was funded for this purchase."""
    idempotency_key: str
    """The call's own key, empty where it took the whole transaction."""
    purchase_key: str
    """The purchase's key."""
    cancellable_from: int | None
    """From when on the requester could cancel it, as long as the provider has not begun."""
    proof: str
    """ "signed" or "unsigned", as the receipt is; "missing" where none came."""
    receipt: dict[str, Any] | None
    """The provider's receipt."""
    is_settled: bool
    """Whether it was settled."""


class Balance(NamedTuple):
    """A prepaid transaction. Amounts are base units of USDC."""

    transaction_id: str
    """The transaction."""
    provider: Address
    """Who is paid."""
    origin: str
    """The service."""
    amount: int
    """What was put in."""
    left: int
    """What no call has taken yet."""
    usable_until: int
    """Until when calls can be made with it, Unix seconds."""
    is_open: bool
    """Whether calls are still made with it."""


class Purchase(NamedTuple):
    """A transaction that pays for calls, as it is on record here. Amounts are base units of USDC,
    times Unix seconds."""

    transaction_id: str | None
    """The transaction; None where it is not known whether it was created."""
    provider: Address
    """Who is paid."""
    origin: str
    """The service."""
    kind: str
    """ "single": one call takes all of it; "prepaid": calls are drawn from it."""
    stage: str
    """Where it stands: "planned", "created", "funded", "retired" (no more calls are made with it),
    "disputed", "settled", "refunded", or "abandoned" (no money ever moved)."""
    amount: int
    """What was put into escrow."""
    used: int
    """What calls have taken of it."""
    planned_at: int
    """When it was planned."""
    usable_until: int
    """Until when calls can be made with it."""
    deadline: int
    """The transaction's deadline."""


class Spent(NamedTuple):
    """What was spent, base units of USDC: what was put into escrow, as the budget counts, and what
    calls took of it."""

    hour: int
    """Within the last hour."""
    day: int
    """Within the last day."""
    provider: int
    """Within the last day, for the provider that was asked about."""
    used: int
    """What calls took within the last day, those that are under way among them."""
    locked: int
    """What is in escrow now and no call has taken: it can be called with, or is the provider's once
    its balance ends."""


class Report(NamedTuple):
    """What became of transactions that pay for calls, by their ids."""

    settled: list[str]
    """The provider was paid."""
    refunded: list[str]
    """The money came back."""
    waiting: list[str]
    """Nothing can be done yet."""
    refused: dict[str, ACTPError]
    """Something contradicts, or failed: the error says what."""


class PaidResponse:
    """The answer to a call, and how it was paid."""

    __slots__ = ("_headers", "content", "payment", "status")

    status: int
    """The HTTP status: of a paid call 2xx, of one that cost nothing any."""
    content: bytes
    """The body."""
    payment: Payment | None
    """How it was paid; None where it cost nothing."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.status = answer["status"]
        self.content = answer["content"]
        self._headers: list[tuple[str, str]] = answer["headers"]
        payment = answer["payment"]
        self.payment = None if payment is None else Payment(**payment)

    @property
    def headers(self) -> dict[str, str]:
        """The headers by their names in lower case; several of one name are joined by commas."""
        headers: dict[str, str] = {}
        for name, value in self._headers:
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    @property
    def text(self) -> str:
        """The body as text, by the charset of its Content-Type, else UTF-8."""
        _, _, charset = self.headers.get("content-type", "").partition("charset=")
        try:
            return self.content.decode(charset.split(";")[0].strip(" \"'") or "utf-8", "replace")
        except LookupError:  # a charset that Python does not know
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        import json

        return json.loads(self.content)

    def __repr__(self) -> str:
        paid = f", paid {self.payment.price}" if self.payment else ""
        return f"<PaidResponse {self.status}{paid}>"


class Consumer:
    """Whoever pays for calls. It may be used from many threads.

    All consumers of one address that share a state directory, in whatever processes, share its
    balances and the sums of its budget.

    Args:
        client: an ACTPClient, which pays. None: one from the environment, of the mode that
            ACTP_MODE names, else "mock".
        budget: limits as `max_amount` takes them: `per_call`; `per_hour`, `per_day`
            and `per_provider_per_day`, which count what is put into escrow. Whom one service names
            is one provider, whatever the address.
        trusted: whom to trust with money that could not be taken back: addresses of providers, or
            origins of services ("https://api.example.com"). Below 1 USDC a funded transaction can
            never be cancelled by who paid it, so from all others such calls are bought in bundles.
            An http origin is trusted on this machine and in mode "mock" alone.
        keep_evidence: whether each answered call is kept with its request, its signature and its
            answer, so that `evidence` can show what was asked and answered. The values of
            Authorization, Cookie and other headers that carry credentials are never kept; a secret
            in a URL or a body is.
        max_kept_body_bytes: the longest request body, and the longest answer, that is kept with it,
            bytes: 65_536 where None. Of a longer one its hash alone is kept. In all 256 MiB of
            bodies are kept; the oldest make room.

    Raises:
        ValidationError: a limit or a name that means nothing.
        StorageError: the state directory cannot be used.

    Example:
        >>> consumer = Consumer(client, budget={"per_day": "10"}, trusted=["0x" + "fe" * 20])
    """

    __slots__ = ("_core",)

    def __init__(
        self,
        client: ACTPClient | None = None,
        *,
        budget: Mapping[str, _Amount | None] | None = None,
        trusted: Iterable[str] = (),
        keep_evidence: bool = True,
        max_kept_body_bytes: int | None = None,
    ) -> None:
        if client is None:
            client = _client_from_environment()
        self._core = _open_consumer(
            client,
            False,
            dict(budget or {}),
            _several(trusted),
            keep_evidence,
            max_kept_body_bytes,
        )

    def call(
        self,
        url: str,
        *,
        method: str | None = None,
        json: Any = None,
        data: str | bytes | None = None,
        headers: _Headers | None = None,
        max_amount: _Amount,
        max_funding: _Amount | None = None,
        settle: bool = False,
        timeout: float | None = None,
        request_timeout: float | None = None,
        purchase_key: str | None = None,
        body_limit: int | None = None,
        lasts: float | None = None,
    ) -> PaidResponse:
        """Makes a call, and pays for it where it must be. No redirect is followed.

        Proxies are those of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, certificates those of
        the system or of SSL_CERT_FILE; both are read with the first call of a process. Ctrl-C ends
        a call within a moment, except what it is just doing with its money.

        Nothing is created before every check has passed. What ends paid and unanswered, by an error
        or by the end of the process, goes on where it ended when the same call is made again within
        an hour: same URL, method, body and headers. Later, or with other headers, its
        `purchase_key` does so, which the error tells. One purchase never pays twice; a
        `purchase_key` of its own buys the same call a second time.

        Args:
            url: the service's address.
            method: the HTTP method; POST where there is a body, else GET.
            json: a body, sent as JSON.
            data: a body as it is.
            headers: headers for the service. An Idempotency-Key is taken as `purchase_key`.
            max_amount: what the call may cost: USDC as str or Decimal ("0.25"), or base units as
                int (250_000). An int that was meant as USDC allows a millionth of it, so it refuses
                calls and never overpays.
            max_funding: what may be put into escrow for it, where only a bundle is sold or safe;
                1 USDC where None, or `max_amount` if that is more.
            settle: wait, 30 seconds at most, until the provider has delivered, and settle. For
                calls that took a whole transaction; balances are settled by `settle()`.
            timeout: how long all of it may take, in seconds; 300 where None. Funding alone takes
                as long as the network does, since it is never left half done.
            request_timeout: how long one request may take, in seconds; 60 where None.
            purchase_key: names the purchase, 1 to 255 visible ASCII characters.
            body_limit: how many bytes the answer may have once it is unpacked; 64 MB where None.
            lasts: for how many seconds calls can be made with a bundle that is bought for it, 1 to
                2_592_000 (30 days); what is left of it then goes to the provider. A service whose
                bundles end earlier sells none. Where None, as long as the service says, at most a
                day.

        Raises:
            SpendingError: it costs or risks too much; nothing was paid (price_above_limit,
                budget_exceeded, untrusted_provider, balance_forfeited).
            CallError: there is no way to pay (no_offer); or the paid call was refused
                (call_refused, see `status` and `body`), not answered (call_failed), or failed each
                time (service_failed).
            ValidationError: an argument is wrong, or the answer is not what the provider's receipt
                says (proof_mismatch).
            NetworkError: the service does not answer; nothing was paid.

        Example:
            >>> answer = consumer.call("https://api.example.com/x", json={}, max_amount="0.25")
        """
        return PaidResponse(self._core.call(*_call(locals())))

    def settle(self) -> Report:
        """Settles what was delivered and is proven by the receipts that came with the answers.

        A balance that its provider ended while calls could be made with it is not settled unless
        it was closed. Settling is not a duty: once the dispute window has passed, the provider can do it.
        """
        return Report(**self._core.settle())

    def reclaim(self) -> Report:
        """Takes back what its provider has not touched by the deadline, less the penalty of 5 %.

        Possible from 1 USDC on, and only as long as the provider has not begun.
        """
        return Report(**self._core.reclaim())

    def balances(self) -> list[Balance]:
        """The prepaid transactions that are not settled or refunded."""
        return [Balance(**balance) for balance in self._core.balances()]

    def purchases(self) -> list[Purchase]:
        """What is on record of this client's payments, the newest first.

        What is over is forgotten after 90 days. `settle` and `reclaim` find out what became of it.
        """
        return [Purchase(**purchase) for purchase in self._core.purchases()]

    def spent(self, provider: str | None = None) -> Spent:
        """What was put into escrow, with a provider's share of it, and what calls took of it."""
        return Spent(**self._core.spent(provider))

    def close(self, transaction_id: str) -> str:
        """Makes no more calls with a balance, and asks the service to end it.

        It delivers now where calls were served, and what is left goes to the provider; else it
        gives the money back. Returns where the service says it stands, such as "delivering".
        """
        stage: str = self._core.close(transaction_id)
        return stage

    def evidence(self, transaction_id: str) -> str:
        """The evidence file of a transaction that paid for calls of this consumer, as JSON.

        It holds the transaction as the kernel has it now, and each answered call with its request,
        answer and receipt. Once it is delivered, also the delivery proof and each call's way to
        it, as far as the service shows them. An answer that its receipt contradicts is in it, and
        `verify_evidence` says so.

        Raises:
            ValidationError: no answered call of it is kept (nothing_served).
            UnauthorizedError: somebody else pays it.
            TransactionNotFoundError: the kernel does not know it.

        Example:
            >>> Path("dispute.json").write_text(consumer.evidence(tx_id))  # doctest: +SKIP
        """
        text: str = self._core.evidence(transaction_id)
        return text

    def bond(self, transaction_id: str) -> int:
        """What disputing a transaction takes at first, in base units: at least 1 USDC.

        It falls to the provider unless the resolver finds the provider at fault.
        """
        bond: int = self._core.bond(transaction_id)
        return bond

    def dispute(self, transaction_id: str, *, max_bond: _Amount = 0) -> int:
        """Disputes a delivery, with a bond of `max_bond` at most; returns the bond.

        Raises:
            SpendingError: the bond is more; `required` says how much. Nothing was done.
            DeadlinePassedError: the dispute window has passed.
        """
        bond: int = self._core.dispute(transaction_id, max_bond)
        return bond

    def __repr__(self) -> str:
        return "<Consumer>"


class AsyncConsumer:
    """A Consumer whose methods are coroutines; see there for what each of them does.

    A call that is cancelled sends nothing more; what it is just doing with its money goes on to its
    end, and the same call with its purchase key goes on from there. Without a client, one is made
    from the environment with the first call, whose errors may be those of the environment.
    """

    __slots__ = ("_core", "_terms")

    def __init__(
        self,
        client: ACTPClient | AsyncACTPClient | None = None,
        *,
        budget: Mapping[str, _Amount | None] | None = None,
        trusted: Iterable[str] = (),
        keep_evidence: bool = True,
        max_kept_body_bytes: int | None = None,
    ) -> None:
        kept = keep_evidence, max_kept_body_bytes
        self._terms = dict(budget or {}), _several(trusted), *kept
        self._core: Any = None if client is None else self._open(client)

    def _open(self, client: ACTPClient | AsyncACTPClient) -> Any:
        client = client if isinstance(client, ACTPClient) else client._client
        return _open_consumer(client, True, *self._terms)

    async def _ready(self) -> Any:
        """The core. A client from the environment is made in a thread: a keystore takes a second."""
        if self._core is None:
            import asyncio

            self._core = self._open(await asyncio.to_thread(_client_from_environment))
        return self._core

    async def call(
        self,
        url: str,
        *,
        method: str | None = None,
        json: Any = None,
        data: str | bytes | None = None,
        headers: _Headers | None = None,
        max_amount: _Amount,
        max_funding: _Amount | None = None,
        settle: bool = False,
        timeout: float | None = None,
        request_timeout: float | None = None,
        purchase_key: str | None = None,
        body_limit: int | None = None,
        lasts: float | None = None,
    ) -> PaidResponse:
        """Makes a call, and pays for it where it must be."""
        call = _call(locals())
        return PaidResponse(await (await self._ready()).call(*call))

    async def settle(self) -> Report:
        """Settles what was delivered and is proven by the receipts that came with the answers."""
        return Report(**await (await self._ready()).settle())

    async def reclaim(self) -> Report:
        """Takes back what its provider has not touched by the deadline, less the penalty."""
        return Report(**await (await self._ready()).reclaim())

    async def balances(self) -> list[Balance]:
        """The prepaid transactions that are not settled or refunded."""
        return [Balance(**balance) for balance in await (await self._ready()).balances()]

    async def purchases(self) -> list[Purchase]:
        """What is on record of this client's payments, the newest first."""
        return [Purchase(**purchase) for purchase in await (await self._ready()).purchases()]

    async def spent(self, provider: str | None = None) -> Spent:
        """What was put into escrow, with a provider's share of it, and what calls took of it."""
        return Spent(**await (await self._ready()).spent(provider))

    async def close(self, transaction_id: str) -> str:
        """Makes no more calls with a balance, and asks the service to end it."""
        stage: str = await (await self._ready()).close(transaction_id)
        return stage

    async def evidence(self, transaction_id: str) -> str:
        """The evidence file of a transaction that paid for calls of this consumer, as JSON."""
        text: str = await (await self._ready()).evidence(transaction_id)
        return text

    async def bond(self, transaction_id: str) -> int:
        """What disputing a transaction takes at first, in base units."""
        bond: int = await (await self._ready()).bond(transaction_id)
        return bond

    async def dispute(self, transaction_id: str, *, max_bond: _Amount = 0) -> int:
        """Disputes a delivery, with a bond of `max_bond` at most; returns the bond."""
        bond: int = await (await self._ready()).dispute(transaction_id, max_bond)
        return bond

    def __repr__(self) -> str:
        return "<AsyncConsumer>"


def paid_call(
    url: str,
    *,
    method: str | None = None,
    json: Any = None,
    data: str | bytes | None = None,
    headers: _Headers | None = None,
    max_amount: _Amount,
    max_funding: _Amount | None = None,
    client: ACTPClient | None = None,
    consumer: Consumer | None = None,
    trust: Iterable[str] = (),
    settle: bool = False,
    timeout: float | None = None,
    request_timeout: float | None = None,
    purchase_key: str | None = None,
    body_limit: int | None = None,
    lasts: float | None = None,
) -> PaidResponse:
    """Makes one call, and pays for it where it must be: see `Consumer.call`.

    Args:
        client: who pays; None: one from the environment, of the mode that ACTP_MODE names.
        consumer: who pays, with a budget; then neither `client` nor `trust` is passed.
        trust: whom to trust with money that could not be taken back.

    Example:
        >>> answer = paid_call("https://api.example.com/x", json={}, max_amount="0.25")
    """
    given = dict(locals())
    consumer = _one_consumer(Consumer, given)
    return consumer.call(**given)


async def apaid_call(
    url: str,
    *,
    method: str | None = None,
    json: Any = None,
    data: str | bytes | None = None,
    headers: _Headers | None = None,
    max_amount: _Amount,
    max_funding: _Amount | None = None,
    client: ACTPClient | AsyncACTPClient | None = None,
    consumer: AsyncConsumer | None = None,
    trust: Iterable[str] = (),
    settle: bool = False,
    timeout: float | None = None,
    request_timeout: float | None = None,
    purchase_key: str | None = None,
    body_limit: int | None = None,
    lasts: float | None = None,
) -> PaidResponse:
    """Makes one call, and pays for it where it must be: `paid_call` for event loops."""
    given = dict(locals())
    consumer = _one_consumer(AsyncConsumer, given)
    return await consumer.call(**given)


def _one_consumer(kind: Any, given: dict[str, Any]) -> Any:
    client, consumer, trust = (given.pop(name) for name in ("client", "consumer", "trust"))
    if consumer is None:
        return kind(client, trusted=trust)
    if client is not None or trust:
        raise ValidationError(
            "a consumer was passed, and a client or whom to trust beside it",
            code="invalid_settings",
            hint="pass client and trust to the Consumer",
            field="consumer",
        )
    return consumer


_found: tuple[tuple[str | None, ...], ACTPClient] | None = None


def _client_from_environment() -> ACTPClient:
    """One client as long as the environment stays as it is: opening a keystore takes a second."""
    global _found
    settings = (os.getcwd(), *(os.environ.get(name) for name in _SETTINGS))
    if _found is None or _found[0] != settings:
        _found = settings, ACTPClient(os.environ.get(MODE_VARIABLE) or "mock")
    return _found[1]


def _several(trusted: Iterable[str]) -> list[str]:
    return [trusted] if isinstance(trusted, str) else list(trusted)


def _call(given: dict[str, Any]) -> tuple[Any, ...]:
    """The core's arguments for a call."""
    headers = given["headers"] or ()
    headers = list(headers.items() if hasattr(headers, "items") else headers)
    body = given["data"]
    if given["json"] is not None:
        if body is not None:
            raise ValidationError(
                "json and data are both given",
                code="invalid_settings",
                hint="pass one of them",
                field="data",
            )
        import json

        try:
            text = json.dumps(given["json"], ensure_ascii=False, allow_nan=False)
            body = text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValidationError(
                f"json has no JSON form: {error}", code="invalid_json", field="json"
            ) from None
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/json"))
    method = given["method"] or ("GET" if body is None else "POST")
    return method, given["url"], headers, b"" if body is None else body, given
