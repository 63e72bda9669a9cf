"""The paywall's price in Flask: one route bare and one behind the paywall, on one gunicorn, in turns.

`make bench` runs it with the release wheel: `python benches/paywall_flask.py [--quick]`. Prepaid
calls, each with a key of its own; unsigned, and signed by the requester. The handler turns a short
text around; that of the routes /work… takes a millisecond of the processor before it does so. Then
the same paid route with eight callers on each store, synced to the disk and not.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / "target" / "bench-state"
PROVIDER = "0x" + "aa" * 20
KEY = f"{2:064x}"  # a published test key: never fund it
PRICE = 10  # base units
CLIENTS = 4
BODY = b'{"prompt": "a haiku about escrow"}'

APP = f'''
import os
import time
from flask import Flask, request
from agirails import ACTPClient, usdc_base_units
from agirails.flask import Paywall

app = Flask(__name__)
client = ACTPClient(
    mode="mock", requester_address="{PROVIDER}", state_directory=os.environ["STATE"]
)
paywall = Paywall(
    client,
    app=app,
    store=os.environ.get("DATABASE"),
    survive_power_cut=os.environ.get("SYNCED") == "yes",
)

def answer():
    return {{"result": request.get_json()["prompt"][::-1] * 20}}

def work():
    done = time.thread_time() + 0.001
    while time.thread_time() < done:
        pass
    return answer()

price = paywall.charge(usdc_base_units({PRICE}), calls=100_000)
app.post("/bare", endpoint="bare")(answer)
app.post("/paid", endpoint="paid")(price(lambda: answer()))
app.post("/work", endpoint="work")(work)
app.post("/work-paid", endpoint="work-paid")(price(lambda: work()))
'''


def server(directory: Path, **settings: str) -> tuple[subprocess.Popen[bytes], int]:
    (directory / "bench_app.py").write_text(APP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "-m",
        "gunicorn",
        "-w",
        "2",
        "--threads",
        "2",
        "-b",
        f"127.0.0.1:{port}",
        "bench_app:app",
    ]
    environment = {**os.environ, "STATE": str(directory), **settings}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=directory, env=environment, stderr=subprocess.DEVNULL
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            time.sleep(0.05)
    raise SystemExit("gunicorn did not start")


def drive(
    port: int, path: str, calls: list[dict[str, str]], clients: int = CLIENTS
) -> tuple[list[float], float]:
    """All calls, spread over keep-alive connections; each call's seconds, and the whole's."""
    times: list[float] = []
    lock = threading.Lock()

    def one(mine: list[dict[str, str]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        own = []
        for headers in mine:
            begun = time.perf_counter()
            connection.request("POST", path, BODY, headers)
            response = connection.getresponse()
            body = response.read()
            own.append(time.perf_counter() - begun)
            assert response.status == 200, body
        with lock:
            times.extend(own)

    threads = [threading.Thread(target=one, args=(calls[n::clients],)) for n in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, time.perf_counter() - begun


def figure(rounds: list[tuple[list[float], float]]) -> dict[str, float]:
    times = sorted(time for times, _ in rounds for time in times)
    return {
        "median_ns": times[len(times) // 2] * 1e9,
        "p99_ns": times[len(times) * 99 // 100] * 1e9,
        "per_second": len(times) / sum(whole for _, whole in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    quick = parser.parse_args().quick
    rounds, calls = (3, 500) if quick else (8, 2_000)

    from agirails import ACTPClient, sign_request

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        agent = ACTPClient(mode="mock", private_key=KEY, state_directory=directory)
        process, port = server(directory)
        try:
            figures = measure(agent, sign_request, port, rounds, calls)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    figures |= measure_stores(rounds, calls)
    STATE.mkdir(parents=True, exist_ok=True)
    report = {"quick": quick, "figures": figures}
    (STATE / "paywall_flask.json").write_text(json.dumps(report, indent=2))
    for name, value in figures.items():
        print(
            f"{name:<12} {value['per_second']:>7.0f}/s   median {value['median_ns'] / 1e6:.2f} ms   "
            f"p99 {value['p99_ns'] / 1e6:.2f} ms"
        )
    for bare, paid in (("bare", "paid"), ("work", "work_paid")):
        ratio = figures[paid]["per_second"] / figures[bare]["per_second"]
        added = (figures[paid]["p99_ns"] - figures[bare]["p99_ns"]) / 1e6
        print(f"{paid} / {bare} {ratio:.2f} of its requests a second, p99 {added:+.2f} ms")


def measure(
    agent: object, sign: Callable[..., str], port: int, rounds: int, calls: int
) -> dict[str, dict[str, float]]:
    tx_id = fund(agent, 4 * rounds * calls + 100_000)
    plain = {"Content-Type": "application/json", "Connection": "keep-alive"}

    def paid(kind: str, number: int) -> list[dict[str, str]]:
        keys = [f"{kind}-{number}-{call}" for call in range(calls)]
        return [{**plain, "X-AGIRAILS-TX-ID": tx_id, "Idempotency-Key": key} for key in keys]

    def signed(number: int) -> list[dict[str, str]]:
        headers = paid("signed", number)
        for header in headers:
            key = header["Idempotency-Key"]
            signature = sign(agent, tx_id, "POST", "/paid", BODY, idempotency_key=key)
            header["X-AGIRAILS-SIGNATURE"] = signature
        return headers

    drive(port, "/bare", [plain] * 200)
    drive(port, "/paid", paid("warm", 0)[:200])
    turns: dict[str, Callable[[int], tuple[list[float], float]]] = {
        "bare": lambda _: drive(port, "/bare", [plain] * calls),
        "paid": lambda number: drive(port, "/paid", paid("paid", number)),
        "paid_signed": lambda number: drive(port, "/paid", signed(number)),
        "work": lambda _: drive(port, "/work", [plain] * calls),
        "work_paid": lambda number: drive(port, "/work-paid", paid("work", number)),
    }
    results: dict[str, list[tuple[list[float], float]]] = {name: [] for name in turns}
    for number in range(rounds):
        for name, turn in turns.items():
            results[name].append(turn(number))
    return {name: figure(result) for name, result in results.items()}


def measure_stores(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Both stores at both durabilities, in turns: the file is this machine's, and so is the server."""
    from agirails import ACTPClient

    with contextlib.ExitStack() as stack:
        database = {"DATABASE": stack.enter_context(postgres())}
        turns = {}
        for name, place in {"sqlite": {}, "postgres": database}.items():
            for ending, synced in {"": "no", "_synced": "yes"}.items():
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                agent = ACTPClient(mode="mock", private_key=KEY, state_directory=directory)
                process, port = server(directory, **place, SYNCED=synced)
                stack.callback(process.wait, 30)
                stack.callback(process.send_signal, signal.SIGTERM)
                turns[name + ending] = (port, fund(agent, rounds * calls + 100_000))
        results: dict[str, list[tuple[list[float], float]]] = {name: [] for name in turns}
        for number in range(rounds):
            for name, (port, tx_id) in turns.items():
                keys = [f"{name}-{number}-{call}" for call in range(calls)]
                headers = [
                    {
                        "Content-Type": "application/json",
                        "X-AGIRAILS-TX-ID": tx_id,
                        "Idempotency-Key": key,
                    }
                    for key in keys
                ]
                results[name].append(drive(port, "/paid", headers, clients=8))
    return {name: figure(result) for name, result in results.items()}


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A server that waits for its disk. The release wheel has none: the editable install does."""
    program = """
from agirails._agirails import _Postgres
server = _Postgres(synced=True)
print(server.url, flush=True)
input()
server.close()
"""
    command = [str(ROOT / ".venv" / "bin" / "python"), "-c", program]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("\n", 30)


def fund(agent: object, calls: int) -> str:
    advanced = agent.advanced  # type: ignore[attr-defined]
    tx_id: str = advanced.create_transaction(
        provider=PROVIDER, amount=max(PRICE * calls, 1_000_000), deadline=int(time.time()) + 86_400
    )
    advanced.link_escrow(tx_id)
    return tx_id


if __name__ == "__main__":
    main()
