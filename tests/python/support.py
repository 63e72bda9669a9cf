"""What several test files share: addresses, paid transactions, processes, HTTP."""

import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agirails import ACTPClient, NetworkError, State
from agirails.testing import Devnet

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
HOUR = 3600
DAY = 24 * HOUR
USDC = 1_000_000
PRICE = 100_000
START = 1_000 * USDC
# The SDK's own environment variables.
SETTINGS = (
    "ACTP_MODE",
    "ACTP_STATE_DIR",
    "ACTP_PRIVATE_KEY",
    "ACTP_KEYSTORE_BASE64",
    "ACTP_KEY_PASSWORD",
    "AGIRAILS_NETWORK",
)
ZERO_ADDRESS = "0x" + "00" * 20
ZERO_HASH = "0x" + "00" * 32


def new_address() -> str:
    return "0x" + secrets.token_hex(20)


def new_hash() -> str:
    return "0x" + secrets.token_hex(32)


def new_key() -> str:
    return "0x" + secrets.token_hex(32)


def word(number: int) -> bytes:
    """`abi.encode(uint256)`."""
    return number.to_bytes(32, "big")


def create(consumer: ACTPClient, provider: str, amount: int = PRICE, **options: Any) -> str:
    options.setdefault("deadline", consumer.advanced.now() + HOUR)
    options.setdefault("dispute_window", HOUR)
    return consumer.advanced.create_transaction(provider=provider, amount=amount, **options)


def fund(consumer: ACTPClient, provider: str, amount: int = PRICE, **options: Any) -> str:
    """A transaction that is COMMITTED."""
    tx_id = create(consumer, provider, amount, **options)
    consumer.advanced.link_escrow(tx_id)
    return tx_id


def deliver(provider: ACTPClient, tx_id: str, proof: Any = None) -> None:
    provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
    provider.advanced.transition_state(tx_id, State.DELIVERED, proof)


def chain_kernel(net: Devnet) -> None:
    """Skips what needs a client of a chain, as long as there is none."""
    try:
        net.client(0)
    except NetworkError as error:
        if error.code != "network_unavailable":
            raise
        pytest.skip(str(error))


def listens(url: str) -> bool:
    """Whether somebody answers there."""
    address = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), 1).close()
    except OSError:
        return False
    return True


def until(true: Callable[[], bool], seconds: float = 15) -> None:
    """Waits for it to become true."""
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.05)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens.

    It is none of those that outgoing connections take for themselves, and tests that run side by
    side seldom try the same one: until the server listens, another process could take it.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment with no setting of the SDK but these."""
    own = (
        *SETTINGS,
        "PROVIDER_ADDRESS",
        "PROVIDER_PRIVATE_KEY",
        "CONSUMER_ADDRESS",
        "CONSUMER_PRIVATE_KEY",
    )
    kept = {name: value for name, value in os.environ.items() if name not in own}
    changed = {name: value for name, value in changes.items() if value is not None}
    return {**kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", **changed}


def run_python(
    *arguments: str | Path, timeout: float = 60, cwd: Path | None = None, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, ended when it takes too long."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment(**env),
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def run_worker(name: str, *arguments: str | Path, timeout: float = 90) -> list[str]:
    """What a function of workers.py printed, line by line. A hang or a failure fails the test."""
    done = run_python(HERE / "workers.py", name, *arguments, timeout=timeout)
    assert done.returncode == 0, (
        f"{name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout.splitlines()


def start_worker(name: str, *arguments: object) -> subprocess.Popen[str]:
    """A function of workers.py in a process that is the caller's to end."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "workers.py"), name, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def sql(file: Path, statement: str) -> list[Any]:
    """What a stranger's statement brings from a state file, or how many rows it changed.

    In another process: locks of SQLite count per process, and this one has the SDK's own.
    """
    code = (
        "import json, sqlite3, sys; database = sqlite3.connect(sys.argv[1], timeout=30);"
        " found = database.execute(sys.argv[2]); rows = found.fetchall(); database.commit();"
        " print(json.dumps(rows or [found.rowcount]))"
    )
    done = run_python("-c", code, file, statement)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def paywall_file(directory: Path) -> Path:
    (file,) = (directory / ".actp").glob("paywall-*.sqlite3")
    return file


@contextmanager
def write_lock(file: str) -> Iterator[None]:
    """Holds a state file's write lock.

    In another process: locks of SQLite count per process, and this one has the SDK's own.
    """
    with start_worker("hold", file) as holder:
        try:
            assert holder.stdout and holder.stdout.readline() == "held\n"
            yield
            holder.communicate("release\n", timeout=30)
            assert holder.returncode == 0
        finally:
            holder.kill()


@contextmanager
def started(
    arguments: list[str], log: Path, cwd: Path | None = None, **env: str | None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended by its process id, whatever happens. It leads a group of its own."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            env=environment(**env),
            cwd=cwd,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def served(
    arguments: list[str], url: str, log: Path, cwd: Path | None = None, **env: str | None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, once it answers at this URL."""
    with started(arguments, log, cwd, **env) as process:
        give_up = time.monotonic() + 30
        while True:
            try:
                http("GET", url)
                break
            except OSError:
                assert process.poll() is None, f"the server ended:\n{log.read_text()}"
                assert time.monotonic() < give_up, f"the server does not answer:\n{log.read_text()}"
                time.sleep(0.05)
        yield process


def http(method: str, url: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer; header names with underscores for hyphens."""
    data = None if body is None else json.dumps(body).encode()
    sent = {
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    request = urllib.request.Request(url, data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, content = error.code, error.read()
    try:
        return status, json.loads(content)
    except ValueError:
        return status, content.decode(errors="replace")
