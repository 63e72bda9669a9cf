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
