"""One paid call from end to end: two processes, one state file, no chain and no network.

    make demo

Starts the Flask provider with its paywall, pays for a call with `paid_call`, repeats the call,
moves the clock past the dispute window, waits until the provider has been paid, and checks every
amount on the way, on the dashboard too. Exits with 1 if an amount is not what the protocol's rules
say.
"""

import argparse
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agirails import ACTPClient, ACTPError, State, format_usdc, paid_call, sign_request
from agirails.flask import Paywall

PATH = "/api/generate"
PROMPT = "Write a haiku about AI agents"
PRICE = 100_000
FEE = 50_000  # 1 %, but at least 0.05 USDC
STARTING_BALANCE = 1_000_000_000
STARTUP_SECONDS = 20
DAY = 86_400
PATIENCE_SECONDS = 20


class Check:
    """Collects the checks that failed."""

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
    script = Path(__file__).with_name("flask_provider.py")
    server = ["-m", "flask", "--app", str(script), "run", "--port", str(port)]
    log_path = Path(state_directory, "provider.log")
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *server],
            env={**os.environ, "PROVIDER_ADDRESS": address, "ACTP_STATE_DIR": state_directory},
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


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=5) as response:
        answer: dict[str, object] = json.load(response)
        return answer


def again(client: ACTPClient, url: str, tx_id: str, body: bytes) -> tuple[bytes, str | None]:
    """Repeats the request, as a consumer does after its connection broke."""
    signature = sign_request(client, tx_id, "POST", PATH, body)
    headers = {
        "Content-Type": "application/json",
        "X-AGIRAILS-TX-ID": tx_id,
        "X-AGIRAILS-SIGNATURE": signature,
    }
    request = urllib.request.Request(url + PATH, body, headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read(), response.headers.get("X-AGIRAILS-REPLAY")


def becomes(client: ACTPClient, tx_id: str, expected: State, check: Check) -> None:
    """Waits until the provider's paywall has moved the transaction there."""
    until = time.monotonic() + PATIENCE_SECONDS
    state = client.advanced.get_transaction(tx_id).state
    while state is not expected and time.monotonic() < until:
        time.sleep(0.05)
        state = client.advanced.get_transaction(tx_id).state
    check.same("the state", state, expected)


def run(client: ACTPClient, provider: str, url: str, check: Check) -> None:
    before = balances(client, provider)
    page = get(f"{url}/api/pricing")
    check.same("the provider on the price page", str(page["provider"]).lower(), provider)
    print(f"Price    {page['pricing']['perCall']} per call\n")  # type: ignore[index]

    # The provider must be trusted: below 1 USDC nobody else can give the money back.
    body = json.dumps({"prompt": PROMPT}).encode()
    answer = paid_call(
        url + PATH,
        data=body,
        headers={"Content-Type": "application/json"},
        max_amount=PRICE,
        client=client,
        trust=[provider],
    )
    payment = answer.payment
    if payment is None or payment.receipt is None:
        raise SystemExit("FAILED: the call was answered without payment or receipt")
    tx_id, proof_hash = payment.transaction_id, payment.receipt["contentHash"]
    print(f"Result: {answer.json()['result']}")
    check.same("the price", payment.price, PRICE)

    repeated, replay = again(client, url, tx_id, body)
    check.same("the answer to the same request", repeated, answer.content)
    check.same("whether it was the stored one", replay, "1")

    # The consumer does no more. Once the dispute window is over, the provider's paywall settles.
    becomes(client, tx_id, State.DELIVERED, check)
    assert client.mock is not None, "only the mode mock has a clock that can be moved"
    client.mock.advance_time(3 * DAY)
    becomes(client, tx_id, State.SETTLED, check)
    kept = client.advanced.get_delivery_proof(tx_id)
    check.same("the delivered proof's hash", kept and kept["contentHash"], proof_hash)

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
    print(f"\nstate  {client.advanced.get_transaction(tx_id).state.name}")
    print(f"fee    {format_usdc(fee)} USDC of {format_usdc(PRICE)} USDC")
    print(f"proof  {proof_hash}")


def books(provider: str, state_directory: str, check: Check) -> None:
    """What the provider sees: any process that opens the store reads the books of all."""
    paywall = Paywall(ACTPClient(requester_address=provider, state_directory=state_directory))
    print("\nThe provider's books")
    print(f"{'day':10}{'calls':>7}{'gross':>16}{'fee':>16}{'net':>16}")
    until = time.monotonic() + PATIENCE_SECONDS
    # The chain knows it a moment before the books do.
    while not paywall.payments(stage="settled") and time.monotonic() < until:
        time.sleep(0.05)
    rows = paywall.report(by="day")
    for row in rows:
        print(f"{row.key}{row.calls:>7}{usdc(row.gross)}{usdc(row.fee)}{usdc(row.net)}")
    check.same("the gross in the books", sum(row.gross for row in rows), PRICE)
    check.same("the net in the books", sum(row.net for row in rows), PRICE - FEE)


def dashboard(provider: str, state_directory: str, check: Check) -> str:
    """Looks at the dashboard of these books, and returns the command that serves it."""
    where = ["--state-directory", state_directory, "--address", provider]
    command = [sys.executable, "-m", "agirails", "dashboard", *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            link = process.stdout.readline().strip()
            page, _, token = link.partition("?")
            check.same("whether the dashboard has a link with a token", bool(page and token), True)
            # The link opens once, and leaves a cookie.
            browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with browser.open(link, timeout=5), browser.open(page, timeout=5):
                pass
            with browser.open(f"{page}data/overview?range=all", timeout=5) as response:
                totals = json.load(response)["totals"]
            check.same("the gross on the dashboard", totals["gross"], format_usdc(PRICE))
            check.same("the net on the dashboard", totals["net"], format_usdc(PRICE - FEE))
        finally:
            process.terminate()
    return shlex.join(command)


def main() -> int:
    parser = argparse.ArgumentParser(description="One paid call from end to end.")
    parser.add_argument("--generation", help='of the kernel: "2026-05", "f6" or "aip14c"')
    generation = parser.parse_args().generation
    check, command = Check(), ""
    state_directory = tempfile.mkdtemp(prefix="actp-demo-")
    try:
        # A new key; it signs the requests.
        key = secrets.token_hex(32)
        client = ACTPClient(private_key=key, state_directory=state_directory, generation=generation)
        provider, port = "0x" + secrets.token_hex(20), free_port()
        with running_provider(provider, port, state_directory):
            url = f"http://127.0.0.1:{port}"
            print(f"Provider {provider} on {url}\nConsumer {client.address.lower()}")
            print(f"Kernel   {client.network.generation}, embedded")
            try:
                run(client, provider, url, check)
                books(provider, state_directory, check)
                command = dashboard(provider, state_directory, check)
            except ACTPError as error:
                check.failed.append(str(error))
    finally:
        if check.failed or not command:
            shutil.rmtree(state_directory)
    for failure in check.failed:
        print(f"FAILED: {failure}", file=sys.stderr)
    if not check.failed:
        print(f"\nThe books stay in {state_directory} until you delete it.")
        print(f"This prints the link to their dashboard, and serves it until Ctrl-C:\n  {command}")
        print(f"\nAll {check.passed} checks passed.")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
