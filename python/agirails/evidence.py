"""Evidence files: what was asked, answered and delivered for one transaction, in one JSON document
that anybody can verify. The guide "Evidence for a dispute" says what it proves, and what not."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from ._agirails import _verify_evidence

if TYPE_CHECKING:
    from ._agirails import ACTPClient

# The core refuses what is longer; one byte more is enough to see that it is.
_LONGEST_FILE = 64 << 20


class Finding(NamedTuple):
    """One check of an evidence file."""

    name: str
    """Which part was checked, such as "calls[0].receipt.signature"."""
    outcome: Literal["holds", "fails", "not_checkable"]
    """What became of the check. It cannot be made where the file does not hold what it needs."""
    words: str
    """The same in words."""


class Verification(NamedTuple):
    """What was found in an evidence file. It prints as one line for each check."""

    conclusion: Literal["holds", "incomplete", "fails"]
    """All checks hold; or none fails, and some could not be made; or one fails."""
    findings: tuple[Finding, ...]
    """The checks, in the order of the file."""

    def __str__(self) -> str:
        return "\n".join(
            f"{finding.outcome}: {finding.name}: {finding.words}" for finding in self.findings
        )


def verify_evidence(
    evidence: str | os.PathLike[str], *, client: ACTPClient | None = None
) -> Verification:
    """Checks all that an evidence file shows: the hashes, both signatures, and the way of each call
    to the delivery's content hash. With a client it also compares the file with the transaction
    on the client's network; without one, a file only shows that it agrees with itself.

    Nothing is written, and nothing is read but the file and that transaction.

    Args:
        evidence: the text of a file as str, or its path as pathlib.Path; at most 64 MiB, in UTF-8.
        client: an ACTPClient of the network that the transaction must be on.

    Returns:
        The checks, and what they say together: "holds", "incomplete" or "fails". What was not kept
        is "not_checkable" and makes no check fail.

    Raises:
        ValidationError: it is no evidence file (code invalid_evidence); `field` names the key. Ask
            for the file again.
        TransactionNotFoundError: the client's kernel does not know the transaction.
        OSError: the file cannot be read.

    Example:
        >>> found = verify_evidence(Path("evidence.json"))
        >>> found.conclusion
        'holds'
        >>> [finding.words for finding in found.findings if finding.outcome == "fails"]
        []

    Source: EIP-712, AIP-4, and the guide "Evidence for a dispute".
    """
    # A str is never taken for a path: whoever passes on a stranger's text opens no file.
    text = (
        evidence
        if isinstance(evidence, str) or not isinstance(evidence, os.PathLike)
        else _read(evidence)
    )
    found = _verify_evidence(text)
    if client is not None:
        transaction = client.advanced.get_transaction(
            json.loads(text)["transaction"]["transactionId"]
        )
        found = _verify_evidence(text, transaction, client.network)
    return Verification(
        found["conclusion"], tuple(Finding(**finding) for finding in found["findings"])
    )


def _read(path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        # Bytes that are no UTF-8 become what the core refuses.
        return file.read(_LONGEST_FILE + 1).decode("utf-8", "surrogateescape")
