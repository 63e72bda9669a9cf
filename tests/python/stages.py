"""The stages on which the scenarios of the Rust testkit are played through this package."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import START, new_address, new_key

from agirails import ACTPClient, Address, AsyncACTPClient
from agirails.testing import Devnet

ETHER = 10**18


class Stage:
    """A kernel behind clients, one for each sender; what `_agirails._play` calls.

    The clients block, or with `finish` they are awaitable and their answers come through it.
    """

    def __init__(self, finish: Callable[[Any], Any] | None) -> None:
        self._finish = finish
        self._clients: dict[Address, Any] = {}

    def finish(self, answer: Any) -> Any:
        return self._finish(answer) if self._finish is not None else answer

    def connect(self, **settings: Any) -> Any:
        if self._finish is None:
            return ACTPClient(**settings)
        return self._finish(AsyncACTPClient.create(**settings))

    def client(self, address: str) -> Any:
        address = Address(address)
        if address not in self._clients:
            self._clients[address] = self.open(address)
        return self._clients[address]

    def open(self, address: Address) -> Any:
        raise NotImplementedError


class EmbeddedStage(Stage):
    """A state file. Nobody owns anything in it but what `party` and `mint` give."""

    def __init__(
        self,
        directory: Path,
        finish: Callable[[Any], Any] | None,
        generation: str = "2026-05",
    ) -> None:
        super().__init__(finish)
        self._directory = directory
        self._generation = generation
        self.reader = self.client(new_address())

    def open(self, address: Address) -> Any:
        return self.connect(
            requester_address=address,
            state_directory=self._directory,
            starting_balance=0,
            generation=self._generation,
        )

    def party(self) -> str:
        address = new_address()
        self.mint(address, START)
        return address

    def mint(self, address: str, amount: int) -> None:
        self.finish(self.reader.mock.mint(address, amount))

    def advance(self, seconds: int) -> None:
        self.finish(self.reader.mock.advance_time(seconds))

    def at(self, moment: int) -> None:
        # The kernel's clock is the wall clock's, so a call is made early in one of its seconds.
        into_second = time.time() % 1
        if into_second > 0.4:
            time.sleep(1 - into_second)
        ahead = moment - self.finish(self.reader.advanced.now())
        assert self.finish(self.reader.mock.advance_time(ahead)) == moment

    def set_paused(self, paused: bool) -> None:
        mock = self.reader.mock
        self.finish(mock.pause() if paused else mock.unpause())

    def approve_mediator(self, address: str) -> None:
        self.finish(self.reader.mock.approve_mediator(address))


class ChainStage(Stage):
    """A devnet, for whose parties and admin this stage holds the keys."""

    def __init__(self, net: Devnet, directory: Path, finish: Callable[[Any], Any] | None) -> None:
        super().__init__(finish)
        self._net, self._directory = net, directory
        self._keys = {net.admin.address: net.admin.private_key}
        self.reader = self.client(net.admin.address)

    def open(self, address: Address) -> Any:
        return self.connect(
            mode="testnet",
            network=self._net.profile,
            private_key=self._keys[address],
            state_directory=self._directory,
        )

    def party(self) -> str:
        key = new_key()
        address = ACTPClient(private_key=key, in_memory=True).address
        self._keys[address] = key
        self._net.set_eth(address, 100 * ETHER)
        self._net.mint(address, START)
        return str(address)

    def mint(self, address: str, amount: int) -> None:
        self._net.mint(address, amount)

    def advance(self, seconds: int) -> None:
        self._net.advance_time(seconds)

    def at(self, moment: int) -> None:
        self._net.set_next_time(moment)

    def set_paused(self, paused: bool) -> None:
        if paused:
            self._net.pause()
        else:
            self._net.unpause()

    def approve_mediator(self, address: str) -> None:
        self._net.approve_mediator(address)


@contextmanager
def event_loop() -> Iterator[Callable[[Any], Any]]:
    """An event loop in a thread of its own; yields what waits there for an awaitable."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="event loop", daemon=True)
    thread.start()

    def finish(answer: Any) -> Any:
        assert inspect.iscoroutine(answer), f"{answer!r} is not to be awaited"
        return asyncio.run_coroutine_threadsafe(answer, loop).result()

    try:
        yield finish
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
