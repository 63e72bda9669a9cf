"""What the tests of threads and processes run in interpreters of their own.

    python workers.py FUNCTION ARGUMENT…

Each function ends by itself; a failed assertion or a hang is the caller's failure.
"""

import asyncio
import contextlib
import functools
import json
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from support import HOUR, PRICE, START, create, fund, new_address, write_lock

from agirails import ACTPClient, ACTPError, State, TransactionNotFoundError

WAIT_SECONDS = 60
shared_client: ACTPClient | None = None  # made before a fork, used on both sides of it


def client_of(address: str, directory: str) -> ACTPClient:
    return ACTPClient(requester_address=address, state_directory=directory)


def pay_many(client: ACTPClient, provider: str, count: int) -> list[str]:
    return [fund(client, provider) for _ in range(count)]


def pay(directory: str, address: str, count: str) -> None:
    """Prints the id of every payment once it is made."""
    client, provider = client_of(address, directory), new_address()
    for _ in range(int(count)):
        print(fund(client, provider), flush=True)


def pay_for_ever(directory: str, address: str) -> None:
    """As pay, with the whole life of every transaction, until killed; bounded all the same."""
    client = client_of(address, directory)
    provider = client_of(new_address(), directory)
    give_up = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < give_up:
        tx_id = fund(client, provider.address)
        print("COMMITTED", tx_id, flush=True)
        provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        provider.advanced.transition_state(tx_id, State.DELIVERED)
        print("DELIVERED", tx_id, flush=True)
        client.advanced.transition_state(tx_id, State.SETTLED)
        print("SETTLED", tx_id, flush=True)


def pay_in_child(
    directory: str | None, address: str, provider: str, count: int, results: Any
) -> None:
    """In a forked child the inherited client, in a fresh interpreter a new one."""
    client = shared_client if directory is None else client_of(address, directory)
    assert client is not None
    results.put(pay_many(client, provider, count))


def multiprocess(method: str, directory: str) -> None:
    """Four children and the parent pay at the same time, from one address."""
    global shared_client
    address, provider, count = new_address(), new_address(), 15
    shared_client = client_of(address, directory)
    own = pay_many(shared_client, provider, 1)
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    inherited = None if method == "fork" else directory
    children = [
        context.Process(target=pay_in_child, args=(inherited, address, provider, count, results))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    own += pay_many(shared_client, provider, count)
    for child in children:
        child.join(WAIT_SECONDS)
    assert [child.exitcode for child in children] == [0] * 4
    theirs = [tx_id for _ in children for tx_id in results.get()]
    ids = own + theirs
    assert len(set(ids)) == 5 * count + 1
    assert {shared_client.advanced.get_transaction(tx_id).state for tx_id in ids} == {
        State.COMMITTED
    }
    assert shared_client.advanced.get_balance() == START - len(ids) * PRICE


def open_in_step(barrier: Any, directory: str, turns: int, results: Any) -> None:
    failures = []
    for turn in range(turns):
        barrier.wait(WAIT_SECONDS)
        try:
            fund(client_of(new_address(), f"{directory}/{turn}"), new_address())
        except ACTPError as error:
            failures.append(f"{error.code}: {error}")
    results.put(failures)


def open_together(directory: str) -> None:
    """Eight processes make the same file at the same moment, again and again."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(8), context.SimpleQueue()
    children = [
        context.Process(target=open_in_step, args=(barrier, directory, 40, results))
        for _ in range(8)
    ]
    for child in children:
        child.start()
    failures = [failure for _ in children for failure in results.get()]
    for child in children:
        child.join(WAIT_SECONDS)
    assert failures == [], "\n".join(failures)


def wait_for(pid: int) -> int:
    """A child's exit code; -1 for one that hung and was ended."""
    give_up = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < give_up:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def fork_while_threads_write(directory: str) -> None:
    """Forks again and again while four threads are in the middle of writing."""
    address, provider = new_address(), new_address()
    client = client_of(address, directory)
    stop, failures, counts = threading.Event(), [], [0] * 4

    def write(index: int) -> None:
        try:
            while not stop.is_set() and counts[index] < 500:
                fund(client, provider)
                counts[index] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(index,), daemon=True) for index in range(4)]
    for thread in threads:
        thread.start()
    exits = []
    for _ in range(12):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                pay_many(client, provider, 3)
                code = 0
            finally:
                os._exit(code)
        exits.append(wait_for(pid))
    stop.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert exits == [0] * 12, exits
    assert failures == []
    paid = sum(counts) + 12 * 3
    assert client.advanced.get_balance() == START - paid * PRICE


def fork_of_a_fork(directory: str) -> None:
    """A worker of a worker, each with the client of its grandparent."""
    client, provider = client_of(new_address(), directory), new_address()
    fund(client, provider)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fund(client, provider)
            grandchild = os.fork()
            if grandchild == 0:
                try:
                    fund(client, provider)
                    code = 0
                finally:
                    os._exit(code)
            code = wait_for(grandchild)
            fund(client, provider)
        finally:
            os._exit(code)
    assert wait_for(pid) == 0
    assert client.advanced.get_balance() == START - 4 * PRICE


def fork_an_async_client(directory: str) -> None:
    """An async client made and used before the fork is used on both sides of it."""

    async def make() -> Any:
        made = await ACTPClient.create(requester_address=new_address(), state_directory=directory)
        await made.advanced.get_balance()
        return made

    client = asyncio.run(make())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if asyncio.run(client.advanced.get_balance()) == START else 2
        finally:
            os._exit(code)
    assert asyncio.run(client.advanced.get_balance()) == START
    assert wait_for(pid) == 0


def fork_in_memory() -> None:
    """A child has its own copy of a state in memory, as of everything else, or says why not."""
    client, provider = ACTPClient(requester_address=new_address(), in_memory=True), new_address()
    tx_id = fund(client, provider)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                code = 0 if client.advanced.get_transaction(tx_id).id == tx_id else 2
            except ACTPError as error:
                code = 0 if error.hint else 3
        finally:
            os._exit(code)
    assert wait_for(pid) == 0
    assert client.advanced.get_transaction(tx_id).state is State.COMMITTED


def raise_in_child(tx_id: str, directory: str) -> None:
    client_of(new_address(), directory).advanced.get_transaction(tx_id)


def exceptions_cross_processes(directory: str) -> None:
    """A pool sends a worker's exception back with all its facts."""
    tx_id = "0x" + "ab" * 32
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply_async(raise_in_child, (tx_id, directory))
        try:
            result.get(WAIT_SECONDS)
        except TransactionNotFoundError as error:
            print(json.dumps([error.code, error.transaction_id, error.hint, str(error)]))
        else:
            raise AssertionError("nothing was raised")


def interrupt(directory: str, address: str, tx_id: str, kind: str) -> None:
    """Blocks in link_escrow, because the caller holds the file's lock; then works again.

    The caller sends SIGINT after "calling", and gives the lock up after the next line.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    client = client_of(address, directory)

    other = asyncio.run(ACTPClient.create(requester_address=address, state_directory=directory))

    async def link() -> None:
        print("calling", flush=True)
        await other.advanced.link_escrow(tx_id)

    assert sys.stdin.readline() == "held\n"
    try:
        if kind == "async":
            asyncio.run(link())
        else:
            print("calling", flush=True)
            client.advanced.link_escrow(tx_id)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    else:
        print("linked", flush=True)
    assert sys.stdin.readline() == "released\n"
    # The next correct calls work, and the money is where the state says.
    fresh = create(client, new_address())
    client.advanced.link_escrow(fresh)
    for _ in range(200):
        state, balance = client.advanced.get_transaction(tx_id).state, client.advanced.get_balance()
        if (state, balance) in (
            (State.INITIATED, START - PRICE),
            (State.COMMITTED, START - 2 * PRICE),
        ):
            break
        time.sleep(0.02)
    print(json.dumps([state.name, balance]), flush=True)


def hammer(directory: str, threads: str, count: str) -> None:
    """Threads of one process with one client, each taking a payment through its whole life."""
    consumer, provider = client_of(new_address(), directory), client_of(new_address(), directory)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(int(count)):
                tx_id = fund(consumer, provider.address)
                provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
                provider.advanced.transition_state(tx_id, State.DELIVERED)
                consumer.advanced.transition_state(tx_id, State.SETTLED)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_SECONDS)
    assert failures == []
    assert not any(worker.is_alive() for worker in workers)
    paid = int(threads) * int(count)
    assert consumer.advanced.get_balance() == START - paid * PRICE
    assert provider.advanced.get_balance() == START + paid * PRICE // 2
    events = consumer.advanced.get_events(limit=10_000)
    assert [event.cursor for event in events] == sorted({event.cursor for event in events})
    assert len(consumer.advanced.get_transactions(state=State.SETTLED, limit=1000)) == paid


def race_for_one_escrow(directory: str) -> None:
    """Of many threads that link the same escrow, one pays."""
    consumer, provider = client_of(new_address(), directory), new_address()
    for _ in range(10):
        tx_id, outcomes = create(consumer, provider, deadline=consumer.advanced.now() + HOUR), []
        barrier = threading.Barrier(8)

        def link(tx_id: str, outcomes: list[str], barrier: threading.Barrier) -> None:
            barrier.wait(WAIT_SECONDS)
            try:
                consumer.advanced.link_escrow(tx_id)
                outcomes.append("paid")
            except ACTPError as error:
                outcomes.append(error.code)

        threads = [
            threading.Thread(target=functools.partial(link, tx_id, outcomes, barrier), daemon=True)
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        assert len(outcomes) == 8
        assert outcomes.count("paid") == 1, outcomes
        assert set(outcomes) <= {"paid", "escrow_id_used", "invalid_state_for_linking"}, outcomes
    assert consumer.advanced.get_balance() == START - 10 * PRICE


def hold(file: str) -> None:
    """Holds the write lock until a line comes in, at the latest as long as pipes are open."""
    lock = sqlite3.connect(file, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.readline()
    lock.execute("ROLLBACK")
    lock.close()


def check_integrity(file: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        print(connection.execute("PRAGMA integrity_check").fetchone()[0])


def wait_in_vain(directory: str) -> None:
    """Reports what a payment raises while another process holds the file's lock."""
    client = client_of(new_address(), directory)
    tx_id = create(client, new_address())
    with write_lock(client.mock.file):
        try:
            client.advanced.link_escrow(tx_id)
        except TimeoutError as error:
            print(json.dumps([type(error).__name__, error.code, error.retry, error.hint]))
    client.advanced.link_escrow(tx_id)


def mount(directory: str, options: str) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True, timeout=30
    )


def read_only(directory: str, options: str) -> None:
    """In a mount namespace of its own: what a read-only disk does."""
    small = Path(directory, "small")
    small.mkdir()
    mount(str(small), options)
    try:
        client_of(new_address(), str(small))
    except ACTPError as error:
        caught = error
    fund(client_of(new_address(), directory), new_address())
    print(
        json.dumps(
            {
                "kind": type(caught).__name__,
                "code": caught.code,
                "hint": bool(caught.hint),
                "named": str(small) in str(caught),
                "after": "paid",
            }
        )
    )


def disk_full(directory: str, options: str) -> None:
    """In a mount namespace of its own: fills a small disk until a payment fails."""
    small = Path(directory, "small")
    small.mkdir()
    mount(str(small), options)
    address, provider = new_address(), new_address()
    client = client_of(address, str(small))
    ballast = small / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    paid: list[str] = []
    caught = None
    for _ in range(9_000):
        try:
            paid.append(fund(client, provider))
        except ACTPError as error:
            caught = error
            break
    assert caught is not None, "the disk never filled"
    # What was reported is there, in this process and for a later one, and the rest is not half there.
    ballast.unlink()
    other = client_of(address, str(small))
    states = [other.advanced.get_transaction(tx_id).state for tx_id in paid]
    balance = other.advanced.get_balance()
    fund(client, provider)
    print(
        json.dumps(
            {
                "kind": type(caught).__name__,
                "code": caught.code,
                "retry": caught.retry,
                "hint": bool(caught.hint),
                "named": str(small) in str(caught),
                "sum": balance == START - len(paid) * PRICE and set(states) == {State.COMMITTED},
                "after": "paid",
            }
        )
    )


def paywall_on_a_full_disk(directory: str, options: str) -> None:
    """In a mount namespace of its own: calls are served until there is no room for answers."""
    from paid import TARGET, Stage, ask_wsgi, flask_app

    small = Path(directory, "small")
    small.mkdir()
    mount(str(small), options)
    stage = Stage(Path(directory), "flask")
    runs: list[Any] = []
    app, paywall = flask_app(stage.provider, runs, store=small)
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("agirails.paywall").addHandler(handler)
    # More than the store's log may take when it is written into the file, once there is room.
    ballast = small / "ballast"
    ballast.write_bytes(bytes(4_000_000))
    served = 0
    while served < 1_000:
        tx_id = stage.fund()
        reply = ask_wsgi(app, "POST", TARGET, {"X-AGIRAILS-TX-ID": tx_id}, bytes(50_000))
        if reply.status != 200:
            break
        served += 1
    count = len(runs)
    ballast.unlink()
    after = ask_wsgi(app, "POST", TARGET, {"X-AGIRAILS-TX-ID": tx_id}, bytes(50_000))
    print(
        json.dumps(
            {
                "error": reply.json["error"],
                "leaked": str(small) in reply.body.decode(),
                "logged": any(reply.json["requestId"] in message for message in told),
                "served": served,
                "runs": count,
                "after": after.status,
            }
        )
    )


if __name__ == "__main__":
    function, *arguments = sys.argv[1:]
    globals()[function](*arguments)
