"""One file, many threads and processes: nothing lost, nothing locked, nothing half done."""

import itertools
import json
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import (
    HERE,
    PRICE,
    START,
    create,
    free_port,
    http,
    new_address,
    run_worker,
    served,
    start_worker,
    write_lock,
)

from agirails import ACTPClient, State


def accounts_of(client: ACTPClient) -> set[str]:
    """Every address that ever took part, the protocol's own included."""
    addresses = {client.network.fee_recipient, client.network.archive_treasury, client.address}
    cursor = 0
    while page := client.advanced.get_events(after=cursor, limit=10_000):
        cursor = page[-1].cursor
        for event in page:
            addresses |= {event.data[key] for key in ("requester", "provider") if key in event.data}
    return {str(address).lower() for address in addresses}


class TestThreads:
    def test_threads_on_one_client_lose_nothing(self, tmp_path):
        run_worker("hammer", tmp_path, 16, 20)

    def test_of_many_threads_one_funds_an_escrow(self, tmp_path):
        run_worker("race_for_one_escrow", tmp_path)

    def test_a_blocked_call_lets_other_threads_run(self, tmp_path):
        """The GIL is free while a write waits for the file's lock."""
        client = ACTPClient(requester_address=new_address(), state_directory=tmp_path)
        tx_id = create(client, new_address())
        with ThreadPoolExecutor(1) as pool:
            with write_lock(client.mock.file):
                blocked = pool.submit(client.advanced.link_escrow, tx_id)
                reads = [client.advanced.get_transaction(tx_id).state for _ in range(50)]
                assert not blocked.done()
            assert blocked.result(60) == tx_id
        assert set(reads) == {State.INITIATED}


class TestFork:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_a_client_works_in_parent_and_children_at_once(self, tmp_path, method):
        run_worker("multiprocess", method, tmp_path)

    def test_a_fork_while_threads_write_leaves_both_sides_working(self, tmp_path):
        run_worker("fork_while_threads_write", tmp_path)

    def test_a_fork_of_a_fork_works(self, tmp_path):
        run_worker("fork_of_a_fork", tmp_path)

    def test_an_async_client_works_on_both_sides_of_a_fork(self, tmp_path):
        run_worker("fork_an_async_client", tmp_path)

    def test_a_state_in_memory_after_a_fork_is_a_copy_or_a_typed_error(self):
        run_worker("fork_in_memory")

    def test_gunicorn_preloads_a_client_that_four_workers_use(self, tmp_path):
        pytest.importorskip("gunicorn")
        address, port, requests = new_address(), free_port(), 40
        command = [
            "-m",
            "gunicorn",
            "--preload",
            "--workers",
            "4",
            "--bind",
            f"127.0.0.1:{port}",
            "--no-control-socket",
            "preloaded_app:app",
        ]
        env = {
            "ACTP_STATE_DIR": str(tmp_path),
            "CONSUMER_ADDRESS": address,
            "PYTHONPATH": str(HERE),
        }
        url = f"http://127.0.0.1:{port}"
        with (
            served([sys.executable, *command], f"{url}/", tmp_path / "log", **env),
            ThreadPoolExecutor(8) as pool,
        ):
            answers = list(pool.map(lambda _: http("GET", f"{url}/pay"), range(requests)))
        assert [status for status, _ in answers] == [200] * requests, (tmp_path / "log").read_text()
        assert len({answer["txId"] for _, answer in answers}) == requests
        assert len({answer["pid"] for _, answer in answers}) > 1
        client = ACTPClient(requester_address=address, state_directory=tmp_path)
        assert client.advanced.get_balance() == START - (requests + 1) * PRICE


class TestProcesses:
    def test_sixteen_processes_write_one_file(self, tmp_path):
        count = 25
        addresses = [new_address() for _ in range(16)]
        workers = [start_worker("pay", tmp_path, address, count) for address in addresses]
        try:
            outputs = [worker.communicate(timeout=120) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        assert [
            (worker.returncode, stderr)
            for worker, (_, stderr) in zip(workers, outputs, strict=True)
        ] == [(0, "")] * 16
        for address, (stdout, _) in zip(addresses, outputs, strict=True):
            client = ACTPClient(requester_address=address, state_directory=tmp_path)
            reported = stdout.split()
            found = client.advanced.get_transactions(limit=1000)
            assert [tx.id for tx in found] == reported[::-1]
            assert {tx.state for tx in found} == {State.COMMITTED}
            assert client.advanced.get_balance() == START - count * PRICE

    def test_processes_that_start_together_make_one_file(self, tmp_path):
        """The first use creates the file: nobody sees it half made."""
        run_worker("open_together", tmp_path)

    def test_a_killed_writer_leaves_a_consistent_file(self, tmp_path):
        """Everything that was reported is there, and no coin is lost or made."""
        rng = random.Random(20260519)
        reported: dict[str, State] = {}
        addresses = [new_address() for _ in range(4)]
        for _ in range(6):
            workers = [start_worker("pay_for_ever", tmp_path, address) for address in addresses]
            try:
                # The first line says that it is in the middle of it.
                lines = [worker.stdout.readline() for worker in workers]
                time.sleep(rng.uniform(0, 0.2))
            finally:
                for worker in workers:
                    worker.kill()
            for worker, first in zip(workers, lines, strict=True):
                rest, stderr = worker.communicate(timeout=30)
                assert worker.returncode == -signal.SIGKILL, stderr
                for line in (first + rest).splitlines():
                    # The last line can be cut off in the middle.
                    if len(line.split()) == 2 and len(line) == 66 + 1 + len(line.split()[0]):
                        state, tx_id = line.split()
                        reported[tx_id] = State[state]
        client = ACTPClient(requester_address=new_address(), state_directory=tmp_path)
        assert len(reported) > 24
        for tx_id, state in reported.items():
            assert client.advanced.get_transaction(tx_id).state >= state
        accounts = accounts_of(client)
        held = sum(client.advanced.get_balance(account) for account in accounts)
        escrowed = 0
        for address in addresses:
            after = None
            while page := client.advanced.get_transactions(
                address, role="requester", limit=1000, after=after
            ):
                after = page[-1].id
                for tx in page:
                    left = client.advanced.get_escrow(tx.id)["remaining"]
                    inside = tx.state in (State.COMMITTED, State.IN_PROGRESS, State.DELIVERED)
                    assert left == (PRICE if inside else 0)
                    escrowed += left
        started = accounts - {
            str(client.network.fee_recipient).lower(),
            str(client.network.archive_treasury).lower(),
        }
        assert held + escrowed == len(started) * START
        assert run_worker("check_integrity", client.mock.file) == ["ok"]

    def test_an_exception_comes_back_from_a_worker_process(self, tmp_path):
        (line,) = run_worker("exceptions_cross_processes", tmp_path)
        code, tx_id, hint, message = json.loads(line)
        assert (code, tx_id) == ("tx_missing", "0x" + "ab" * 32)
        assert hint and message


class TestInterrupt:
    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_ctrl_c_ends_a_blocked_payment_that_is_then_made_or_not_made(self, tmp_path, kind):
        address = new_address()
        client = ACTPClient(requester_address=address, state_directory=tmp_path)
        tx_id = create(client, new_address())
        with start_worker("interrupt", tmp_path, address, tx_id, kind) as worker:
            try:
                with write_lock(client.mock.file):
                    worker.stdin.write("held\n")
                    assert worker.stdout.readline() == "calling\n"
                    time.sleep(0.3)  # by now it waits for the lock
                    os.kill(worker.pid, signal.SIGINT)
                    # The lock is still held: only the interrupt can have ended the call.
                    assert worker.stdout.readline() == "interrupted\n"
                stdout, stderr = worker.communicate("released\n", timeout=60)
            finally:
                worker.kill()
        assert worker.returncode == 0, stderr
        state, balance = json.loads(stdout.splitlines()[-1])
        assert (state, balance) in (("INITIATED", START - PRICE), ("COMMITTED", START - 2 * PRICE))


def test_file_descriptors_do_not_pile_up(tmp_path):
    """Clients that are gone have closed their files."""

    def make() -> None:
        ACTPClient(requester_address=new_address(), state_directory=tmp_path).advanced.get_balance()

    for _ in range(5):
        make()
    before = len(os.listdir("/proc/self/fd"))
    for _ in itertools.repeat(None, 50):
        make()
    assert len(os.listdir("/proc/self/fd")) <= before + 5
