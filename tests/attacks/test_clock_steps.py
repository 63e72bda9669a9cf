"""A machine's clock that steps: NTP after boot, a machine that was resumed, a host that corrects itself.
No call that is under way and no payment ends by it. Needs faketime."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from edge import program
from support import HOUR, USDC, free_port, fund, served, until

from agirails import ACTPClient, State, sign_request
from agirails.testing import Devnet

# Local chains are asked at every turn; on this one the clock goes on by itself in between.
CHAIN = 84_777
STEP = 2 * HOUR


@pytest.fixture
def library() -> Path:
    program("faketime", "faketime")
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "faketime has no libfaketimeMT.so.1"
    return found[0]


@pytest.mark.filterwarnings("ignore::agirails.RawPrivateKeyWarning")
def test_a_step_of_the_clock_ends_no_call_and_closes_no_payment(
    tmp_path: Path, library: Path
) -> None:
    with Devnet(block_time=1) as net:
        net.rpc("anvil_setChainId", [CHAIN])
        profile, stamp = tmp_path / "network.json", tmp_path / "step"
        profile.write_text(json.dumps({**net.profile, "chainId": CHAIN}))
        stamp.write_text("+0")
        provider, port = net.accounts[1], free_port()
        payer = ACTPClient(
            "testnet",
            private_key=net.accounts[2].private_key,
            network=profile,
            state_directory=tmp_path / "payer",
        )
        uvicorn = [sys.executable, "-m", "uvicorn", "--log-level", "error", "--port", str(port)]
        settings = {
            "ACTP_PRIVATE_KEY": provider.private_key,
            "ACTP_STATE_DIR": str(tmp_path / "provider"),
            "AGIRAILS_NETWORK": str(profile),
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        here, url = Path(__file__).parent, f"http://127.0.0.1:{port}"
        command = [*uvicorn, "stepped_app:app"]
        with served(command, f"{url}/health", tmp_path / "log", here, **settings):
            step(payer, provider.address, url, stamp)


def step(payer: ACTPClient, provider: str, url: str, stamp: Path) -> None:
    def call(target: str, tx_id: str, key: str = "") -> requests.Response:
        signature = sign_request(payer, tx_id, "POST", target, b"", idempotency_key=key)
        headers = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signature}
        if key:
            headers["Idempotency-Key"] = key
        return requests.post(url + target, headers=headers, timeout=60)

    def state(tx_id: str) -> State:
        return payer.advanced.get_transaction(tx_id).state

    deadline: dict[str, Any] = {"deadline": payer.advanced.now() + HOUR // 2}
    slow, unused = (fund(payer, provider, **deadline) for _ in range(2))
    bundle = fund(payer, provider, 2 * USDC, **deadline)
    assert call("/api/cheap", bundle, "one").status_code == 200
    answers: list[requests.Response] = []
    running = threading.Thread(target=lambda: answers.append(call("/api/slow", slow)))
    running.start()
    until(lambda: requests.get(f"{url}/api/payments/{slow}", timeout=10).status_code == 200)
    stamp.write_text(f"+{STEP}")
    running.join(60)
    assert [answer.status_code for answer in answers] == [200], answers and answers[0].text
    until(lambda: state(slow) == State.DELIVERED, 30)
    assert call("/api/cheap", bundle, "two").status_code == 200
    assert (state(bundle), state(unused)) == (State.COMMITTED, State.COMMITTED)
