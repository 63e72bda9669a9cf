"""The values that have a type of their own. The extension module imports them from here."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """The eight states of a transaction. The numbers are the contract's.

    It prints as its name and counts as its number. SETTLED and CANCELLED are terminal.

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

    def __str__(self) -> str:
        return self.name

    def __format__(self, format_spec: str) -> str:
        if format_spec.endswith(tuple("bcdeEfFgGnoxX%")):
            return int.__format__(self, format_spec)
        return format(self.name, format_spec)


class Usdc(int):
    """An amount of USDC: it counts in base units (1 USDC = 1_000_000) and prints as USDC.

    It is an int in everything else, in JSON and sums too.

    Example:
        >>> price = usdc_base_units(100_000)
        >>> print(f"{price} USDC, {price:.1f} USDC, {price:d} base units")
        0.10 USDC, 0.1 USDC, 100000 base units
    """

    __slots__ = ()

    def __str__(self) -> str:
        from ._agirails import format_usdc

        return format_usdc(int(self))

    def __repr__(self) -> str:
        return f"{self} USDC" if self >= 0 else int.__repr__(self)

    def __format__(self, format_spec: str) -> str:
        if format_spec.endswith(tuple("eEfFgG%")):
            from decimal import Decimal

            return format(Decimal(int(self)) / 1_000_000, format_spec)
        if format_spec.endswith(tuple("bcdnoxX,_")):
            return int.__format__(self, format_spec)
        return format(str(self), format_spec)


def usdc_base_units(amount: int) -> Usdc:
    """A price in base units (1 USDC = 1_000_000), for what takes a price.

    An int by itself is not taken for a price: it does not say which unit is meant.

    Args:
        amount: base units, from 0 on.

    Raises:
        TypeError: amount is not an int.
        ValueError: amount is below 0.

    Example:
        >>> paywall.charge(usdc_base_units(100_000))  # the same as "0.10"
    """
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise TypeError(f"amount must be an int, not {type(amount).__name__}")
    if amount < 0:
        raise ValueError(f"amount must be at least 0, not {amount}")
    return Usdc(amount)


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
