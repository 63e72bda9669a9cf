"""The values that have a type of their own. The extension module imports them from here."""

from __future__ import annotations

from decimal import Decimal
from enum import IntEnum


class State(IntEnum):
    """The eight states of a transaction. The numbers are the contract's.

    SETTLED and CANCELLED are terminal.

    Source: AIP-0, `IACTPKernel.State`.
    """

    INITIATED = 0
    QUOTED = 1
    COMMITTED = 2
    IN_PROGRESS = 3
    DELIVERED = 4
    SETTLED = 5
    DISPUTED = 6
    CANCELLED = 7


class Address(str):
    """An address: prints checksummed (EIP-55), and equals any spelling of the same address.

    It is a str in everything else. As keys of a dict or a set, addresses find each other in any
    case; a plain str finds them in lower case only.

    Example:
        >>> transaction.provider == transaction.provider.lower()
        True
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return str.__eq__(self.lower(), other.lower())

    def __ne__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return str.__ne__(self.lower(), other.lower())

    def __hash__(self) -> int:
        return hash(self.lower())


def usdc_base_units(amount: int) -> Decimal:
    """A price that is given in base units of USDC, as `charge` and price functions take it.

    Args:
        amount: base units, 1_000_000 of which are 1 USDC.

    Returns:
        The amount in USDC.

    Raises:
        TypeError: the amount is not an int.
        ValueError: it is negative.

    Example:
        >>> usdc_base_units(100_000)
        Decimal('0.100000')
    """
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise TypeError(f"amount must be base units as int, not {type(amount).__name__}")
    if amount < 0:
        raise ValueError(f"amount must not be negative, but is {amount}")
    return Decimal(amount).scaleb(-6)
