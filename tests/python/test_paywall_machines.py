"""A paywall on several machines: servers that share nothing but a PostgreSQL database and a chain."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

import pytest
from paid import Reply, request
from support import HERE, PRICE, free_port, fund, served, until

from agirails import ACTPClient, State, sign_request
from agirails._agirails import _Postgres
from agirails.testing import Devnet

TARGET = "/api/generate"
# A server with two workers.
GUNICORN = ("-m", "gunicorn", "--workers", "2", "--threads", "32", "--no-control-socket")
# How long a claim whose process died stands, and the lease of the one that sends (paywall/mod.rs).
CLAIM_LEASE = 15


class Machine(NamedTuple):
    process: Popen[bytes]
    port: int
    log: Path

    def crash(self) -> None:
        """SIGKILL to the server and its workers at once."""
        os.killpg(self.process.pid, signal.SIGKILL)


class House(NamedTuple):
    """What machines share, and a consumer."""

    directory: Path
    database: Any
    consumer: ACTPClient
    provider: str
    env: dict[str, str]

    @contextmanager
    def machines(self, count: int = 2) -> Iterator[list[Machine]]:
        with ExitStack() as stack:
            yield [stack.enter_context(self._machine()) for _ in range(count)]

    @contextmanager
    def _machine(self) -> Iterator[Machine]:
        port = free_port()
        home, url = self.directory / str(port), f"http://127.0.0.1:{port}/health"
        home.mkdir()
        command = [sys.executable, *GUNICORN, "--bind", f"127.0.0.1:{port}", "paid_flask_app:app"]
        log = home / "log"
        with served(command, url, log, ACTP_STATE_DIR=str(home), **self.env) as process:
            yield Machine(process, port, log)
        text = log.read_text()
        assert "panicked" not in text and "fatal" not in text.lower(), text

    def fund(self) -> str:
        return fund(self.consumer, self.provider, PRICE)

    def pay(self, machine: Machine, tx_id: str) -> Reply:
        signature = sign_request(self.consumer, tx_id, "POST", TARGET, b"prompt")
        headers = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signature}
        return request(machine.port, "POST", TARGET, b"prompt", headers)

    def runs(self, tx_id: str) -> int:
        runs = Path(self.env["RUNS"])
        return runs.read_text().split().count(tx_id) if runs.exists() else 0

    def is_delivered(self, tx_id: str) -> bool:
        return self.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory, database = tmp_path_factory.mktemp("machines"), _Postgres()
    with Devnet() as net:
        net.write_profile(directory / "network.json")
        provider = net.accounts[1]
        env = {
            "ACTP_MODE": "testnet",
            "ACTP_PRIVATE_KEY": provider.private_key,
            "AGIRAILS_NETWORK": str(directory / "network.json"),
            "PYTHONPATH": str(HERE),
            "RUNS": str(directory / "runs"),
            "STORE": database.url,
        }
        yield House(directory, database, net.client(0), provider.address, env)
    database.close()


def test_fifty_identical_requests_at_two_machines_are_one_run_and_one_answer(house):
    tx_id = house.fund()
    with house.machines() as machines, ThreadPoolExecutor(50) as pool:
        replies = list(
            pool.map(lambda number: house.pay(machines[number % 2], tx_id), range(50)),
        )
        until(lambda: house.is_delivered(tx_id), 30)
    assert [reply.status for reply in replies] == [200] * 50
    assert len({reply.body for reply in replies}) == 1
    assert len({reply.headers["x-agirails-receipt"] for reply in replies}) == 1
    assert sum("x-agirails-replay" in reply.headers for reply in replies) == 49
    assert house.runs(tx_id) == 1


def test_what_a_machine_served_before_it_died_is_delivered_by_another(house):
    ids = [house.fund() for _ in range(8)]
    with house.machines() as (doomed, other), ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda tx_id: house.pay(doomed, tx_id), ids))
        doomed.crash()
        assert [reply.status for reply in replies] == [200] * 8
        # The other one gives the same answers.
        again = list(pool.map(lambda tx_id: house.pay(other, tx_id), ids))
        assert [reply.body for reply in again] == [reply.body for reply in replies]
        until(lambda: all(map(house.is_delivered, ids)), 60)
    assert [house.runs(tx_id) for tx_id in ids] == [1] * 8


def test_a_call_whose_machine_dies_in_the_handler_is_taken_over(house):
    tx_id = house.fund()
    with house.machines() as (doomed, other), ThreadPoolExecutor(1) as pool:
        lost = pool.submit(house.pay, doomed, tx_id)
        until(lambda: house.runs(tx_id) == 1)
        doomed.crash()
        with pytest.raises(OSError):
            lost.result()
        give_up = time.monotonic() + 2 * CLAIM_LEASE
        while (reply := house.pay(other, tx_id)).status != 200:
            assert reply.status in (409, 503) and "retry-after" in reply.headers, reply
            assert time.monotonic() < give_up
            time.sleep(1)
        until(lambda: house.is_delivered(tx_id), 60)
    assert house.runs(tx_id) == 2


def test_nothing_is_served_without_the_database_and_everything_once_it_is_back(house):
    tx_id = house.fund()
    with house.machines(1) as (machine,):
        house.database.kill()
        reply = house.pay(machine, tx_id)
        assert (reply.status, reply.json["error"]) == (503, "Store Unavailable")
        assert request(machine.port, "GET", "/health").status == 503
        # Not a word of where it is or how it is reached.
        assert b"postgres" not in reply.body.lower() and b"127.0.0.1" not in reply.body
        assert house.runs(tx_id) == 0
        house.database.restart()
        until(lambda: house.pay(machine, tx_id).status == 200, 30)
        until(lambda: house.is_delivered(tx_id), 30)
        password = house.env["STORE"].split(":")[2].split("@")[0]
        assert password not in machine.log.read_text()
    assert house.runs(tx_id) == 1
