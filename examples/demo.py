"""One paid call from end to end: two processes, one state file, no chain and no network.

    make demo

Starts the provider, lets the consumer pay and call it, settles, and checks every figure on the
way. Exits 1 where one differs from what the protocol's rules say.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import consumer

from agirails import ACTPClient, State, canonical_json, format_usdc

PROMPT = "Write a haiku about AI agents"
PRICE = 100_000
FEE = 50_000  # 1 %, but at least 0.05 USDC
STARTING_BALANCE = 1_000_000_000
STARTUP_SECONDS = 20


class Check:
    """Remembers what differs."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def same(self, what: str, actual: object, expected: object) -> None:
        if actual == expected:
            self.passed += 1
        else:
            self.failed.append(f"{what} is {actual!r}, expected {expected!r}")


def usdc(amount: int) -> str:
    return f"{format_usdc(amount):>11} USDC"


def balances(client: ACTPClient, provider: str) -> dict[str, int]:
    network = client.network
    collectors = [network.fee_recipient, network.archive_treasury]
    return {
        "consumer": client.advanced.get_balance(),
        "provider": client.advanced.get_balance(provider),
        "protocol": sum(client.advanced.get_balance(address) for address in collectors if address),
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running_provider(address: str, port: int, state_directory: str) -> Iterator[None]:
    """The provider as a process of its own, until it answers; ended by its process id."""
    script = Path(__file__).with_name("provider.py")
    arguments = ["--port", str(port), "--state-directory", state_directory]
    log_path = Path(state_directory, "provider.log")
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**os.environ, "PROVIDER_ADDRESS": address, "PROVIDER_PRIVATE_KEY": ""},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the provider did not start:\n{log_path.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/pricing", timeout=5):
            return True
    except OSError:
        return False


def run(client: ACTPClient, provider: str, url: str, check: Check) -> None:
    before = balances(client, provider)

    found, price = consumer.discover(url, max_price=PRICE)
    check.same("the provider's address", found.lower(), provider)
    check.same("the price", price, PRICE)

    tx_id = consumer.pay(client, found, price)
    check.same(
        "the state after funding", client.advanced.get_transaction(tx_id).state, State.COMMITTED
    )
    check.same("the escrow", client.advanced.get_escrow(tx_id)["remaining"], PRICE)

    result, proof_hash = consumer.call(url, tx_id, PROMPT)
    print(f"Result: {result}")
    delivered = client.advanced.get_transaction(tx_id)
    kept = client.advanced.get_delivery_proof(tx_id)
    deliverable = canonical_json({"prompt": PROMPT, "result": result})
    check.same("the state after the call", delivered.state, State.DELIVERED)
    check.same("the kept proof's hash", kept and kept["contentHash"], proof_hash)
    matches = client.proof_generator.verify_deliverable(proof_hash, deliverable)
    check.same("whether the proof matches the answer", matches, True)

    consumer.accept(client, tx_id, PROMPT, result, proof_hash)
    settled = client.advanced.get_transaction(tx_id)
    check.same("the state at the end", settled.state, State.SETTLED)

    after = balances(client, provider)
    expected = {
        "consumer": STARTING_BALANCE - PRICE,
        "provider": STARTING_BALANCE + PRICE - FEE,
        "protocol": before["protocol"] + FEE,
    }
    print(f"\n{'':10}{'before':>16}{'after':>17}{'change':>17}")
    for party, amount in after.items():
        check.same(f"the {party}'s balance", amount, expected[party])
        change = amount - before[party]
        signed = ("-" if change < 0 else "+") + usdc(abs(change)).strip()
        print(f"{party:10}{usdc(before[party])} {usdc(amount)}{signed:>17}")
    fee = after["protocol"] - before["protocol"]
    print(f"\nstate  {settled.state.name}")
    print(f"fee    {format_usdc(fee)} USDC of {format_usdc(price)} USDC")
    print(f"proof  {proof_hash}")


def main() -> int:
    check = Check()
    with tempfile.TemporaryDirectory(prefix="actp-demo-") as state_directory:
        client = ACTPClient(
            requester_address="0x" + secrets.token_hex(20), state_directory=state_directory
        )
        provider, port = "0x" + secrets.token_hex(20), free_port()
        with running_provider(provider, port, state_directory):
            url = f"http://127.0.0.1:{port}"
            print(f"Provider {provider} on {url}\nConsumer {client.address.lower()}")
            try:
                run(client, provider, url, check)
            except consumer.CallFailed as error:
                check.failed.append(str(error))
    for failure in check.failed:
        print(f"FAILED: {failure}", file=sys.stderr)
    if not check.failed:
        print(f"All {check.passed} checks passed.")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
