"""What can go wrong, and what to do then.

Every exception of this package is an ACTPError. The class tells the family, `code` the exact
case, `retry` whether the same call can succeed later, and `hint` the remedy.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import State


if sys.version_info >= (3, 11):
    from enum import StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):
        def __str__(self) -> str:
            return str(self.value)


class Retry(StrEnum):
    """May the same call be made again? The members are str and equal their values."""

    NEVER = "never"
    """No: it will be refused again."""
    SAFE = "safe"
    """Yes, later: nothing was done."""
    CHECK_FIRST = "check_first"
    """Something was sent and its outcome is unknown: read the transaction first."""


class ACTPError(Exception):
    """The base of all errors of this package. Attributes that do not apply are None."""

    code: str
    """The exact case, such as "deadline_too_far"; the same in every release."""
    retry: Retry
    """Whether the same call can succeed later."""
    hint: str | None
    """The remedy. From Python 3.11 on tracebacks show it as a note."""
    transaction_id: str | None
    """The transaction."""
    state: State | None
    """The state it was in."""
    deadline: int | None
    """Its deadline, Unix seconds."""
    transaction_hash: str | None
    """The hash of the chain transaction that was sent."""
    gas_wei: int | None
    """What its gas cost, in wei, where it was mined and did nothing."""
    field: str | None
    """The argument that was refused."""
    value: str | None
    """Its value, shortened; never a secret."""
    required: int | None
    """What would have been needed, base units of USDC."""
    available: int | None
    """What was there, base units of USDC."""
    refusal: str | None
    """The contract's own words."""
    status: int | None
    """The HTTP status that a service answered."""
    body: bytes | None
    """The body of that answer, its first 64 KiB."""
    purchase_key: str | None
    """The purchase: the same call with this key goes on where it ended, and never pays twice."""

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "internal",
        retry: Retry | str = Retry.NEVER,
        hint: str | None = None,
        transaction_id: str | None = None,
        state: State | None = None,
        deadline: int | None = None,
        transaction_hash: str | None = None,
        gas_wei: int | None = None,
        field: str | None = None,
        value: str | None = None,
        required: int | None = None,
        available: int | None = None,
        refusal: str | None = None,
        status: int | None = None,
        body: bytes | None = None,
        purchase_key: str | None = None,
    ) -> None:
        # `args` is the message alone and all else lies in `__dict__`, so that exceptions can be
        # pickled and copied by default.
        super().__init__(message)
        self.code = code
        self.retry = Retry(retry)
        self.hint = hint
        self.transaction_id = transaction_id
        self.state = state
        self.deadline = deadline
        self.transaction_hash = transaction_hash
        self.gas_wei = gas_wei
        self.field = field
        self.value = value
        self.required = required
        self.available = available
        self.refusal = refusal
        self.status = status
        self.body = body
        self.purchase_key = purchase_key
        if hint is not None and sys.version_info >= (3, 11):
            self.add_note(f"hint: {hint}")


class ValidationError(ACTPError, ValueError):
    """An argument is wrong: `field` names it, `value` shows it."""


class TransactionNotFoundError(ACTPError, LookupError):
    """No such transaction on this network and in this state directory."""


class InvalidStateTransitionError(ACTPError):
    """The transaction's `state` does not allow this step: read it and take another."""


class UnauthorizedError(ACTPError):
    """This step is another party's."""


class DeadlinePassedError(ACTPError):
    """It is too late for this step."""


DeadlineExpiredError = DeadlinePassedError
"""The same class under its other name."""


class DisputeWindowActiveError(ACTPError):
    """It is too early: the dispute window must pass first."""


class InsufficientFundsError(ACTPError):
    """The money does not suffice: see `required` and `available`."""


class TransactionRevertedError(ACTPError):
    """The contract refused for another reason: see `refusal`."""


class ContractPausedError(ACTPError):
    """The protocol is paused by its operators: try again later."""


class NetworkError(ACTPError):
    """The network cannot be reached."""


class ACTPTimeoutError(ACTPError, TimeoutError):
    """It took too long; `retry` tells whether something may have happened."""


class SignatureVerificationError(ACTPError):
    """A signature is malformed or not the expected signer's."""


class StorageError(ACTPError):
    """The state file cannot be used; the message names it."""


class QueryCapExceededError(ACTPError):
    """The registry has grown beyond what it can be asked on chain."""


class SpendingError(ACTPError):
    """The call costs more, or risks more, than this client may spend: nothing was paid."""


class CallError(ACTPError):
    """A service cannot be paid, or did not do what it was paid for: see `code` and `status`.

    Where `purchase_key` is set, the money is in escrow: the same call with this key goes on where
    it ended, and pays nothing more.
    """


class RawPrivateKeyWarning(UserWarning):
    """A private key is badly kept: in the clear, or in a keystore that mainnet refuses, on testnet; or
    in a file that others can write.

    Keep the key in an encrypted keystore: pass `keystore` and `keystore_password`, or set
    ACTP_KEYSTORE_BASE64 and ACTP_KEY_PASSWORD.

    Source: AIP-13.
    """


class NetworkWarning(UserWarning):
    """The network that a client connected to cannot do all of its work now.

    Its kernel is paused, or does not approve the vault: what was paid before can be read, and little
    else works until its operators change that.
    """
