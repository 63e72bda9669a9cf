"""The books of a paywall, as Python reads them."""

from __future__ import annotations

from datetime import date, datetime, time, timezone
from typing import NamedTuple

from .types import Address, Usdc


class PaymentRecord(NamedTuple):
    """A payment and its story so far. Times are Unix seconds, 0 where it has not come to that."""

    transaction_id: str
    """The transaction."""
    requester: Address
    """Who pays."""
    stage: str
    """Where it stands: "open", "delivering", "delivered", "settled", "disputed", "returning",
    "returned", "lost" or "left"."""
    amount: Usdc
    """What lies in escrow, or did."""
    spent: Usdc
    """What served calls took of it: the gross."""
    calls: int
    """How many calls were served with it."""
    fee: Usdc | None
    """The protocol's fee of what was paid out, where it has ended and that is known."""
    net: Usdc | None
    """What arrived, where that is known. After a dispute it is what the resolver decided."""
    expected_net: Usdc
    """What is to arrive of it if nobody disputes it."""
    gas_wei: int
    """What its moves on chain cost its provider in gas, in wei, those that failed too."""
    opened_at: int
    """When its first call came, by the store's clock; the other times are the kernel's."""
    deadline: int
    """Its deadline."""
    delivered_at: int
    """When it was delivered."""
    settle_at: int
    """When its dispute window is over: it can be settled from then on."""
    settled_at: int
    """When it was settled."""
    content_hash: str | None
    """The delivery proof's content hash, once it is known."""
    trouble: str | None
    """Why its last move failed, or what others did with it."""


class ReportRow(NamedTuple):
    """The books of a day, a route or a customer.

    `gross` counts on the day on which calls were served. `paid_out`, `fee` and `net` count on the
    day on which their payments were settled, which is later by the dispute window. Where calls of
    several routes took from a payment, each route has its share. What a balance forfeits is paid
    out too, so `paid_out` can be more than `gross`.
    """

    key: str
    """The day ("2026-11-27"), the route or the address. The route is empty for moves of payments
    with which nothing was served."""
    calls: int
    """Calls that were served."""
    gross: Usdc
    """What they took."""
    settled: int
    """Payments that were settled."""
    paid_out: Usdc
    """What they paid out, the fee included."""
    fee: Usdc
    """The protocol's fee of it."""
    net: Usdc
    """What arrived."""
    gas_wei: int
    """What moves on chain cost the provider in gas, in wei, those that failed too."""
    refunded: int
    """Payments that were given back."""
    disputed: int
    """Payments that were disputed."""


def unix_seconds(moment: int | date | None) -> int | None:
    """A time as people have it: Unix seconds, a day of UTC, or a datetime that knows its zone."""
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise TypeError("this datetime has no time zone: pass one with tzinfo, or a date")
        return int(moment.timestamp())
    if isinstance(moment, date):
        return int(datetime.combine(moment, time(), timezone.utc).timestamp())
    return moment
