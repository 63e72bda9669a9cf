"""Floods of made-up ids: whoever pays is served, and what was served is delivered."""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from nodes import Node, node
from support import free_port, fund, new_hash, served, until

from agirails import ACTPClient, State, sign_request
from agirails.testing import Devnet

CALLERS = 40
PAYERS = 5
# As public endpoints allow.
CALLS_A_SECOND = 25
# So that a test that fails ends.
MOST_MADE_UP = 20_000


def test_made_up_ids_starve_neither_payers_nor_deliveries(tmp_path: Path) -> None:
    with Devnet(block_time=1) as net, node(net.rpc_url) as limited:
        provider, port = net.accounts[2], free_port()
        profile = tmp_path / "network.json"
        profile.write_text(json.dumps({**net.profile, "rpcUrl": limited.url}))
        payer = ACTPClient(
            "testnet",
            private_key=net.accounts[1].private_key,
            network=net.profile,
            state_directory=tmp_path / "payer",
        )
        paid = [fund(payer, provider.address) for _ in range(PAYERS)]
        uvicorn = [sys.executable, "-m", "uvicorn", "--log-level", "error", "--port", str(port)]
        settings = {
            "ACTP_PRIVATE_KEY": provider.private_key,
            "ACTP_STATE_DIR": str(tmp_path / "provider"),
            "AGIRAILS_NETWORK": str(profile),
        }
        here, url = Path(__file__).parent, f"http://127.0.0.1:{port}"
        command = [*uvicorn, "flooded_app:app"]
        with served(command, f"{url}/health", tmp_path / "log", here, **settings):
            limited.limit = CALLS_A_SECOND
            flood(limited, payer, paid, f"{url}/api/generate")


def flood(limited: Node, payer: ACTPClient, paid: list[str], url: str) -> None:
    made_up: list[int] = []
    is_over = threading.Event()

    def call(tx_id: str, signature: str) -> int:
        headers = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signature}
        return requests.post(url, headers=headers, timeout=60).status_code

    def make_up() -> None:
        while not is_over.is_set() and len(made_up) < MOST_MADE_UP:
            made_up.append(call(new_hash(), f"t={int(time.time())},s=0x{'11' * 64}1b"))

    def are_delivered() -> bool:
        read = payer.advanced.get_transaction
        return all(read(tx_id).state == State.DELIVERED for tx_id in paid)

    with ThreadPoolExecutor(CALLERS) as callers:
        flooding = [callers.submit(make_up) for _ in range(CALLERS)]
        try:
            until(lambda: len(made_up) > 2 * CALLERS)
            before = len(made_up), limited.calls["eth_call"]
            answers = [
                call(tx_id, sign_request(payer, tx_id, "POST", "/api/generate", b""))
                for tx_id in paid
            ]
            until(are_delivered, 60)
            ids, calls = len(made_up) - before[0], limited.calls["eth_call"] - before[1]
        finally:
            is_over.set()
        for each in flooding:
            each.result()
    assert answers == [200] * PAYERS
    # Many ids share a call of the node.
    assert 4 * calls < ids, (calls, ids, limited.refused)
    assert set(made_up) <= {402, 429}, set(made_up)
