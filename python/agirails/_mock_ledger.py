"""A ledger of mode mock for one test. agirails.testing offers it, with its pytest fixture."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._agirails import ACTPClient, _price, sign_request
from .aio import AsyncACTPClient
from .devnet import Account
from .types import State

if TYPE_CHECKING:
    from decimal import Decimal
    from os import PathLike

    from .types import Usdc

POLL_SECONDS = 0.02
_ACCOUNTS = 10
_HOUR = 3_600


class MockLedger:
    """The whole protocol in a directory: any number of clients that share one ledger and its clock.

    It has the accounts, clients and clock of a Devnet, and needs no chain. Clients with
    `in_memory=True` share nothing with each other, so services and agents that are tested together
    take their clients from here. Threads and processes may share it.

    Args:
        directory: where the state lies. It is made where there is none.

    Raises:
        StorageError: the directory cannot be used.

    Example:
        >>> ledger = MockLedger("/tmp/ledger")
        >>> provider, consumer = ledger.client(0), ledger.client(1)
    """

    def __init__(self, directory: str | PathLike[str]) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.accounts = [_account(number) for number in range(_ACCOUNTS)]
        reader = self.client(0)
        assert reader.mock is not None
        self._kernel, self._mock = reader.advanced, reader.mock

    def client(self, account: int | Account = 0, **options: Any) -> ACTPClient:
        """A client of this ledger, with a key, so that what it asks for is signed.

        Args:
            account: which of `accounts`, 0 ... 9; or another Account.
            options: further arguments of ACTPClient.

        Example:
            >>> provider = mock_ledger.client(0)
        """
        return ACTPClient("mock", **self._settings(account, options))

    async def async_client(self, account: int | Account = 0, **options: Any) -> AsyncACTPClient:
        """The same, with awaitable verbs; see `client`."""
        return await AsyncACTPClient.create("mock", **self._settings(account, options))

    def _settings(self, account: int | Account, options: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(account, Account):
            account = self.accounts[account]
        key = account.private_key
        return {"private_key": key, "state_directory": self.directory, **options}

    def pay(
        self,
        consumer: ACTPClient,
        paywall: Any,
        amount: str | Decimal | Usdc,
        method: str,
        target: str,
        body: str | bytes = b"",
        *,
        dispute_window: int = 172_800,
    ) -> dict[str, str]:
        """Puts money into escrow for one request, and signs it: for test clients of frameworks.

        `Consumer` and its adapters do this over HTTP, with every check of what is asked for.

        Args:
            consumer: who pays, a client of this ledger.
            paywall: the service's Paywall.
            amount: what goes into escrow, as prices are written ("0.10"), 0.05 USDC or more.
            method: the request's method.
            target: its path and query, as the test client will ask for it.
            body: its body, byte for byte.
            dispute_window: for how long the delivery can be disputed, seconds: an hour to 30 days.

        Returns:
            The headers to send. X-AGIRAILS-TX-ID is the transaction.

        Raises:
            ValidationError: the protocol cannot carry this.
            InsufficientFundsError: the consumer has less.

        Example:
            >>> headers = mock_ledger.pay(consumer, paywall, "0.10", "GET", "/api/quote")
            >>> app.test_client().get("/api/quote", headers=headers).status_code
            200
        """
        tx_id = consumer.advanced.create_transaction(
            provider=paywall.provider,
            amount=_price(amount),
            deadline=self.now() + _HOUR,
            dispute_window=dispute_window,
            metadata=paywall.service_hash,
        )
        consumer.advanced.link_escrow(tx_id)
        signature = sign_request(consumer, tx_id, method, target, body)
        return {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signature}

    def wait_for_state(self, tx_id: str, state: State, *, timeout: float = 15) -> None:
        """Waits until a transaction is in a state: a paywall delivers and settles in the background.

        In an event loop: `await asyncio.to_thread(mock_ledger.wait_for_state, tx_id, state)`.

        Args:
            tx_id: the transaction.
            state: where it should be.
            timeout: for how long to wait, seconds of this machine's clock.

        Raises:
            TimeoutError: it is still somewhere else; the message says where.
            TransactionNotFoundError: this ledger does not know it.

        Example:
            >>> mock_ledger.wait_for_state(tx_id, State.DELIVERED)
        """
        state, until = State(state), time.monotonic() + timeout
        while (found := self._kernel.get_transaction(tx_id).state) is not state:
            if time.monotonic() >= until:
                raise TimeoutError(
                    f"transaction {tx_id} is {found.name} after {timeout:g} s, "
                    f"expected {state.name}"
                )
            time.sleep(POLL_SECONDS)

    def now(self) -> int:
        """The ledger's clock, Unix seconds."""
        return self._kernel.now()

    def advance_time(self, seconds: int) -> int:
        """Moves the clock ahead for everybody; returns the new time, Unix seconds.

        Raises:
            ValidationError: `seconds` is negative, or more than a hundred years in all.

        Example:
            >>> mock_ledger.advance_time(3 * 86_400)
        """
        return self._mock.advance_time(seconds)

    def mint(self, address: str, amount: int) -> None:
        """Gives an address more test USDC, in base units."""
        self._mock.mint(address, amount)

    def pause(self) -> None:
        """Stops the protocol, as its operators can: calls then raise ContractPausedError."""
        self._mock.pause()

    def unpause(self) -> None:
        """Lets the protocol go on."""
        self._mock.unpause()

    def environment(self) -> dict[str, str]:
        """What makes this the ledger of programs in mode mock, of this process or one that is started.

        Example:
            >>> subprocess.run([...], env={**os.environ, **mock_ledger.environment()})
        """
        return {"ACTP_MODE": "mock", "ACTP_STATE_DIR": str(self.directory)}

    def __repr__(self) -> str:
        return f"<MockLedger {self.directory}>"


def _account(number: int) -> Account:
    key = "0x" + hashlib.sha256(f"agirails mock ledger, account {number}".encode()).hexdigest()
    return Account(ACTPClient("mock", private_key=key, in_memory=True).address, key)
