"""A local chain with the protocol's contracts on it, for tests and for trying things out.

It runs `anvil` on 127.0.0.1, which is found by the environment variable AGIRAILS_ANVIL, on the
PATH, or where `npm install @foundry-rs/anvil` put it. It ends with its `with` block, and with the
process that started it, however that ends. Unix only.

>>> from agirails.testing import Devnet
>>> with Devnet() as net:
...     consumer, provider = net.client(0), net.client(1)
...     tx_id = consumer.advanced.create_transaction(
...         provider=provider.address, amount=1_000_000, deadline=net.now() + 3600)
...     escrow_id = consumer.advanced.link_escrow(tx_id)
...     provider.advanced.get_transaction(tx_id).state
<State.COMMITTED: 2>

Inside `async with Devnet() as net:` the same methods are awaitable.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._agirails import ACTPClient
from .aio import AsyncACTPClient
from .errors import NetworkError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from types import TracebackType

    from ._agirails import Snapshot
    from .types import Address

NETWORK_VARIABLE = "AGIRAILS_NETWORK"
"""The environment variable that names the profile of the network behind mode "testnet"."""


@dataclass(frozen=True)
class Account:
    """An account for tests, with a published key. **Anyone can spend what it owns on a real network.**"""

    address: Address
    """Its address."""
    private_key: str = field(repr=False)
    """Its key, 0x and 64 hex digits."""


class _Chain:
    """What there is to know about a devnet, whoever waits for it."""

    def __init__(self, *settings: Any) -> None:
        self._settings = settings
        self._verbs: Any = None
        self._directory: Path | None = None
        self._owner = os.getpid()

    def _open(self, *, awaitable: bool) -> Any:
        if self._verbs is not None:
            raise NetworkError(
                "this devnet was started before",
                code="devnet_unavailable",
                hint="make another Devnet",
            )
        try:
            from ._agirails import _start_devnet
        except ImportError:
            raise NetworkError(
                "this build of agirails brings no devnet",
                code="devnet_unavailable",
                hint="it runs on Linux and macOS; on Windows use WSL",
            ) from None
        return _start_devnet(awaitable, *self._settings)

    @property
    def _chain(self) -> Any:
        if self._verbs is None:
            raise NetworkError(
                "this devnet was not started",
                code="devnet_unavailable",
                hint="use it in a `with` block, or call start()",
            )
        return self._verbs

    def _own_directory(self) -> Path:
        """A directory that lasts as long as the chain."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="agirails-devnet-"))
            weakref.finalize(self, _remove, self._directory, self._owner)
        return self._directory

    def _settings_of(self, account: int | Account, options: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(account, Account):
            account = self.accounts[account]
        settings = {"private_key": account.private_key, "network": self.profile, **options}
        if not settings.get("in_memory"):
            settings.setdefault("state_directory", self._own_directory())
        return settings

    def close(self) -> None:
        """Ends the chain and removes its files. Closing twice does nothing."""
        if self._verbs is not None:
            self._verbs.close()
        if self._directory is not None:
            _remove(self._directory, self._owner)
            self._directory = None

    @property
    def rpc_url(self) -> str:
        """Where it answers, such as "http://127.0.0.1:40123"."""
        url: str = self._chain.rpc_url
        return url

    @property
    def ws_url(self) -> str:
        """The same for WebSockets."""
        url: str = self._chain.ws_url
        return url

    @property
    def chain_id(self) -> int:
        """31337, as on all local development chains."""
        number: int = self._chain.chain_id
        return number

    @property
    def profile(self) -> dict[str, Any]:
        """The network's profile: name, chainId, rpcUrl, contracts; `network` of ACTPClient."""
        profile: dict[str, Any] = self._chain.profile
        return profile

    @property
    def accounts(self) -> list[Account]:
        """Ten accounts, each with 10_000 ETH and 1_000_000 USDC, and with no part in the protocol."""
        return [Account(*pair) for pair in self._chain.accounts]

    @property
    def admin(self) -> Account:
        """The kernel's admin and pauser, who resolves disputes. It owns no USDC."""
        return Account(*self._chain.admin)

    def write_profile(self, path: str | PathLike[str]) -> None:
        """Writes the profile as the JSON file that AGIRAILS_NETWORK can name.

        Args:
            path: a file in a directory that exists; it is overwritten.

        Raises:
            NetworkError: it cannot be written (code devnet_unavailable).
        """
        self._chain.write_profile(path)

    def environment(self) -> dict[str, str]:
        """What makes mode "testnet" this chain, in this process or in one that is started.

        Returns:
            AGIRAILS_NETWORK with the path of the profile, which is written and lasts until
            the devnet ends.

        Example:
            >>> subprocess.run([...], env={**os.environ, **net.environment()})
        """
        path = self._own_directory() / "network.json"
        self.write_profile(path)
        return {NETWORK_VARIABLE: str(path)}

    def __repr__(self) -> str:
        if self._verbs is None:
            return f"<{type(self).__name__} not started>"
        return repr(self._verbs).replace("Devnet", type(self).__name__, 1)


class Devnet(_Chain):
    """A local chain with the protocol's contracts, as long as its `with` block.

    Args:
        port: where it listens on 127.0.0.1; any free one where 0.
        block_time: seconds between blocks, as on Base (2); a block for each transaction where None.
        anvil: the program to run, in place of the one that is found.
        generation: of the kernel: "2026-05", that of mainnet, "f6" or "aip14c".
        recovery_grace: the kernel's recoveryGrace in seconds, at least 3_600; an hour where None.
            The generation "2026-05" has none.

    Raises:
        NetworkError: anvil is not found or does not start (code devnet_unavailable); the hint
            tells how to get it.

    Example:
        >>> with Devnet() as net:
        ...     net.client(0).advanced.get_balance()
        1000000000000
    """

    def __init__(
        self,
        *,
        port: int = 0,
        block_time: float | None = None,
        anvil: str | PathLike[str] | None = None,
        generation: Literal["2026-05", "f6", "aip14c"] | str = "2026-05",
        recovery_grace: int | None = None,
    ) -> None:
        super().__init__(anvil, port, block_time, generation, recovery_grace)
        self._twin: AsyncDevnet | None = None

    def start(self) -> Devnet:
        """Starts it without a `with` block; close() ends it."""
        self._verbs = self._open(awaitable=False)
        return self

    def __enter__(self) -> Devnet:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> AsyncDevnet:
        twin = AsyncDevnet(*self._settings)
        await twin.start()
        self._twin = twin
        return twin

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._twin is not None:
            self._twin.close()

    def client(self, account: int | Account, **options: Any) -> ACTPClient:
        """A client of this chain, in mode "testnet".

        Args:
            account: which of `accounts`, 0 ... 9, or an Account such as `admin`.
            options: further arguments of ACTPClient. The state lies with the devnet's own files
                unless `state_directory` says otherwise.

        Example:
            >>> provider = net.client(1)
        """
        return ACTPClient("testnet", **self._settings_of(account, options))

    def mint(self, address: str, amount: int) -> None:
        """Gives an address more USDC, in base units."""
        self._chain.mint(address, amount)

    def set_eth(self, address: str, wei: int) -> None:
        """Sets what an address owns of the chain's own coin, which pays for gas; 10**18 is 1 ETH."""
        self._chain.set_eth(address, wei)

    def now(self) -> int:
        """The time of the newest block, Unix seconds."""
        now: int = self._chain.now()
        return now

    def advance_time(self, seconds: int) -> int:
        """Moves the clock ahead and mines a block there; returns its time, Unix seconds."""
        now: int = self._chain.advance_time(seconds)
        return now

    def set_next_time(self, time: int) -> None:
        """Gives the next block exactly this time, Unix seconds, later than all blocks before."""
        self._chain.set_next_time(time)

    def mine(self, blocks: int = 1) -> None:
        """Mines blocks at once, with what is pending in the first of them."""
        self._chain.mine(blocks)

    def set_automine(self, automatic: bool) -> None:
        """True: a block for each transaction. False: blocks come by mine() alone."""
        self._chain.set_automine(automatic)

    def snapshot(self) -> Snapshot:
        """Remembers the chain as it is, for revert()."""
        snapshot: Snapshot = self._chain.snapshot()
        return snapshot

    def revert(self, snapshot: Snapshot) -> None:
        """Makes the chain what it was, once. Snapshots that were taken since then are lost."""
        self._chain.revert(snapshot)

    def reorganise(self, depth: int = 1) -> None:
        """Replaces the newest blocks by empty ones, as a reorganisation does: what they held is gone."""
        self._chain.reorganise(depth)

    def pause(self) -> None:
        """Stops the protocol, as its operators can: calls then raise ContractPausedError."""
        self._chain.pause()

    def unpause(self) -> None:
        """Lets the protocol go on."""
        self._chain.unpause()

    def approve_mediator(self, address: str) -> None:
        """Approves a mediator, who can be paid from two days later on."""
        self._chain.approve_mediator(address)

    def rpc(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Asks the node itself; returns the answer's JSON.

        Raises:
            NetworkError: with the node's own words (code request_refused).

        Example:
            >>> net.rpc("eth_blockNumber")
            '0x1'
        """
        return self._chain.rpc(method, list(params))


class AsyncDevnet(_Chain):
    """What `async with Devnet() as net` gives: a Devnet whose methods are awaitable."""

    async def start(self) -> AsyncDevnet:
        """Starts it; close() ends it."""
        self._verbs = await self._open(awaitable=True)
        return self

    async def client(self, account: int | Account, **options: Any) -> AsyncACTPClient:
        """A client of this chain; see Devnet.client."""
        return await AsyncACTPClient.create("testnet", **self._settings_of(account, options))

    async def mint(self, address: str, amount: int) -> None:
        """Gives an address more USDC, in base units."""
        await self._chain.mint(address, amount)

    async def set_eth(self, address: str, wei: int) -> None:
        """Sets what an address owns of the chain's own coin, which pays for gas."""
        await self._chain.set_eth(address, wei)

    async def now(self) -> int:
        """The time of the newest block, Unix seconds."""
        now: int = await self._chain.now()
        return now

    async def advance_time(self, seconds: int) -> int:
        """Moves the clock ahead and mines a block there; returns its time, Unix seconds."""
        now: int = await self._chain.advance_time(seconds)
        return now

    async def set_next_time(self, time: int) -> None:
        """Gives the next block exactly this time, Unix seconds, later than all blocks before."""
        await self._chain.set_next_time(time)

    async def mine(self, blocks: int = 1) -> None:
        """Mines blocks at once, with what is pending in the first of them."""
        await self._chain.mine(blocks)

    async def set_automine(self, automatic: bool) -> None:
        """True: a block for each transaction. False: blocks come by mine() alone."""
        await self._chain.set_automine(automatic)

    async def snapshot(self) -> Snapshot:
        """Remembers the chain as it is, for revert()."""
        snapshot: Snapshot = await self._chain.snapshot()
        return snapshot

    async def revert(self, snapshot: Snapshot) -> None:
        """Makes the chain what it was, once. Snapshots that were taken since then are lost."""
        await self._chain.revert(snapshot)

    async def reorganise(self, depth: int = 1) -> None:
        """Replaces the newest blocks by empty ones, as a reorganisation does."""
        await self._chain.reorganise(depth)

    async def pause(self) -> None:
        """Stops the protocol: calls then raise ContractPausedError."""
        await self._chain.pause()

    async def unpause(self) -> None:
        """Lets the protocol go on."""
        await self._chain.unpause()

    async def approve_mediator(self, address: str) -> None:
        """Approves a mediator, who can be paid from two days later on."""
        await self._chain.approve_mediator(address)

    async def rpc(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Asks the node itself; returns the answer's JSON."""
        return await self._chain.rpc(method, list(params))


def _remove(directory: Path, owner: int) -> None:
    # A forked child has no right to what its parent uses.
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)
