"""Payments for services per call: the Python SDK of ACTP, the escrow protocol of AI agents.

>>> from agirails import ACTPClient, State
>>> consumer = ACTPClient(mode="mock", requester_address="0x" + "c0" * 20)
>>> tx_id = consumer.advanced.create_transaction(
...     provider="0x" + "fe" * 20, amount=100_000, deadline=consumer.advanced.now() + 3600)
>>> escrow_id = consumer.advanced.link_escrow(tx_id)
>>> consumer.advanced.get_transaction(tx_id).state
<State.COMMITTED: 2>
"""

from ._agirails import (
    ACTPClient,
    AgentProfile,
    CallPayment,
    Event,
    Kernel,
    Mock,
    Network,
    ProofGenerator,
    Registry,
    Transaction,
    __version__,
    canonical_json,
    encode_resolution,
    format_usdc,
    parse_usdc,
    recover_delivery_signer,
    result_hash,
    service_type_hash,
    sign_request,
    verify_delivery,
)
from .aio import AsyncACTPClient, AsyncKernel, AsyncMock, AsyncRegistry
from .errors import (
    ACTPError,
    ACTPTimeoutError,
    ContractPausedError,
    DeadlineExpiredError,
    DeadlinePassedError,
    DisputeWindowActiveError,
    InsufficientFundsError,
    InvalidStateTransitionError,
    NetworkError,
    QueryCapExceededError,
    RawPrivateKeyWarning,
    Retry,
    SignatureVerificationError,
    StorageError,
    TransactionNotFoundError,
    TransactionRevertedError,
    UnauthorizedError,
    ValidationError,
)
from .types import Address, State

__all__ = [
    "ACTPClient",
    "ACTPError",
    "ACTPTimeoutError",
    "Address",
    "AgentProfile",
    "AsyncACTPClient",
    "AsyncKernel",
    "AsyncMock",
    "AsyncRegistry",
    "CallPayment",
    "ContractPausedError",
    "DeadlineExpiredError",
    "DeadlinePassedError",
    "DisputeWindowActiveError",
    "Event",
    "InsufficientFundsError",
    "InvalidStateTransitionError",
    "Kernel",
    "Mock",
    "Network",
    "NetworkError",
    "ProofGenerator",
    "QueryCapExceededError",
    "RawPrivateKeyWarning",
    "Registry",
    "Retry",
    "SignatureVerificationError",
    "State",
    "StorageError",
    "Transaction",
    "TransactionNotFoundError",
    "TransactionRevertedError",
    "UnauthorizedError",
    "ValidationError",
    "__version__",
    "canonical_json",
    "encode_resolution",
    "format_usdc",
    "parse_usdc",
    "recover_delivery_signer",
    "result_hash",
    "service_type_hash",
    "sign_request",
    "verify_delivery",
]
