"""Get paid per call by AI agents: the Python SDK of ACTP, an escrow protocol in USDC.

To be paid for calls, use `Paywall` of `agirails.flask` or `agirails.asgi`. To pay for calls, use
`paid_call` or `Consumer`. Both rest on `ACTPClient`, which has one method for each step of the
protocol:

>>> from agirails import ACTPClient, State
>>> consumer = ACTPClient(mode="mock", requester_address="0x" + "c0" * 20)
>>> tx_id = consumer.advanced.create_transaction(
...     provider="0x" + "fe" * 20, amount=100_000, deadline=consumer.advanced.now() + 3600)
>>> escrow_id = consumer.advanced.link_escrow(tx_id)
>>> consumer.advanced.get_transaction(tx_id).state
<State.COMMITTED: 2>
"""

try:
    from ._agirails import (
        ACTPClient,
        AgentProfile,
        CallPayment,
        Dispute,
        Disputes,
        Event,
        Kernel,
        Mock,
        Network,
        ProofGenerator,
        Registry,
        SessionKey,
        Transaction,
        __version__,
        agreement_hash,
        canonical_json,
        canonical_target,
        encode_resolution,
        format_usdc,
        parse_usdc,
        recover_delivery_signer,
        result_hash,
        service_type_hash,
        sign_request,
        verify_delivery,
    )
except ImportError as _error:
    if "interpreter" not in str(_error):
        raise
    raise ImportError(
        "agirails can be used in one Python interpreter of a process only, and another one has "
        "imported it. Under mod_wsgi set `WSGIApplicationGroup %{GLOBAL}`; elsewhere import it in "
        "the main interpreter, or run one process for each application."
    ) from _error
from ._books import PaymentRecord, ReportRow
from .aio import AsyncACTPClient, AsyncDisputes, AsyncKernel, AsyncMock, AsyncRegistry
from .consumer import (
    AsyncConsumer,
    Balance,
    Consumer,
    PaidResponse,
    Payment,
    Report,
    Spent,
    apaid_call,
    paid_call,
)
from .errors import (
    ACTPError,
    ACTPTimeoutError,
    CallError,
    ContractPausedError,
    DeadlineExpiredError,
    DeadlinePassedError,
    DisputeWindowActiveError,
    InsufficientFundsError,
    InvalidStateTransitionError,
    NetworkError,
    NetworkWarning,
    QueryCapExceededError,
    RawPrivateKeyWarning,
    Retry,
    SignatureVerificationError,
    SpendingError,
    StorageError,
    TransactionNotFoundError,
    TransactionRevertedError,
    UnauthorizedError,
    ValidationError,
)
from .evidence import verify_evidence
from .types import Address, State, Usdc, usdc_base_units

__all__ = [
    "ACTPClient",
    "ACTPError",
    "ACTPTimeoutError",
    "Address",
    "AgentProfile",
    "AsyncACTPClient",
    "AsyncConsumer",
    "AsyncDisputes",
    "AsyncKernel",
    "AsyncMock",
    "AsyncRegistry",
    "Balance",
    "CallError",
    "CallPayment",
    "Consumer",
    "ContractPausedError",
    "DeadlineExpiredError",
    "DeadlinePassedError",
    "Dispute",
    "DisputeWindowActiveError",
    "Disputes",
    "Event",
    "InsufficientFundsError",
    "InvalidStateTransitionError",
    "Kernel",
    "Mock",
    "Network",
    "NetworkError",
    "NetworkWarning",
    "PaidResponse",
    "Payment",
    "PaymentRecord",
    "ProofGenerator",
    "QueryCapExceededError",
    "RawPrivateKeyWarning",
    "Registry",
    "Report",
    "ReportRow",
    "Retry",
    "SessionKey",
    "SignatureVerificationError",
    "SpendingError",
    "Spent",
    "State",
    "StorageError",
    "Transaction",
    "TransactionNotFoundError",
    "TransactionRevertedError",
    "UnauthorizedError",
    "Usdc",
    "ValidationError",
    "__version__",
    "apaid_call",
    "agreement_hash",
    "canonical_json",
    "canonical_target",
    "encode_resolution",
    "format_usdc",
    "paid_call",
    "parse_usdc",
    "recover_delivery_signer",
    "result_hash",
    "service_type_hash",
    "sign_request",
    "usdc_base_units",
    "verify_delivery",
    "verify_evidence",
]
