"""Payers without this SDK: TypeScript programs of the guide, and a contract wallet on a chain."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from edge import missing, program
from support import ROOT, USDC, free_port, served

from agirails import (
    ACTPClient,
    Address,
    ProofGenerator,
    SessionKey,
    SignatureVerificationError,
    ValidationError,
)
from agirails.testing import Account, Devnet

pytest_plugins = ["agirails.testing"]

JSON = {"Content-Type": "application/json"}
GUIDE = ROOT / "docs" / "guide" / "foreign-clients.md"
PROGRAMS = dict(
    re.findall(r"^## (\w+)\n\n```ts\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
)

APP = """
import json, sys
from flask import Flask, request
from agirails import ACTPClient
from agirails.flask import Paywall

app = Flask(__name__)
network = json.load(open("network.json"))
client = ACTPClient(mode="testnet", private_key=sys.argv[2], network=network)
paywall = Paywall(client, app=app, unsigned="refuse")

@app.post("/api/generate")
@paywall.charge("0.10")
def generate():
    return {"made of": request.get_json()["prompt"], "paid by": paywall.payment.requester}

app.run(port=int(sys.argv[1]))
"""


class Shop(NamedTuple):
    """A Flask service on a devnet that serves nobody who does not sign."""

    url: str
    chain: Devnet
    provider: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    with Devnet() as chain:
        (directory / "network.json").write_text(json.dumps(chain.profile))
        (directory / "app.py").write_text(APP)
        port, key = free_port(), chain.accounts[1].private_key
        command = [sys.executable, "app.py", str(port), key]
        origin = f"http://127.0.0.1:{port}"
        with served(command, f"{origin}/health", directory / "log", directory):
            yield Shop(f"{origin}/api/generate", chain, chain.accounts[1].address)


def modules() -> Path:
    found = ROOT / "target" / "npm" / "node_modules"
    if anvil := os.environ.get("AGIRAILS_ANVIL"):
        found = Path(anvil).parents[1]
    for name in ("ethers", "viem"):
        if not (found / name).exists():
            missing(f"{name} is not installed in {found}")
    return found


@pytest.mark.parametrize("library", ["ethers", "viem"])
def test_the_guides_program_pays_for_a_call(shop: Shop, library: str, tmp_path: Path) -> None:
    text = PROGRAMS[library]
    assert sum(map(bool, text.splitlines())) < 30
    script = tmp_path / "call.mjs"
    script.write_text(text)
    (tmp_path / "node_modules").symlink_to(modules())
    payer = shop.chain.accounts[2 if library == "ethers" else 3]
    done = subprocess.run(
        [program("node", "nodejs"), str(script)],
        env={
            **os.environ,
            "PRIVATE_KEY": payer.private_key,
            "RPC_URL": shop.chain.rpc_url,
            "SERVICE_URL": shop.url,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"made of": "a haiku", "paid by": payer.address}


def word(value: int | str) -> str:
    """32 bytes of an ABI encoding, in hex."""
    number = value if isinstance(value, int) else int(value, 16)
    return f"{number:064x}"


def encoded(function: str, *arguments: int | str | bytes) -> bytes:
    """A call of a function. Bytes come last."""
    selector = ProofGenerator().hash_content(function)[2:10]
    static = [value for value in arguments if not isinstance(value, bytes)]
    text = selector + "".join(map(word, static))
    for value in arguments:
        if isinstance(value, bytes):
            padded = value.ljust(-(-len(value) // 32) * 32, b"\0")
            text += word(32 * len(arguments)) + word(len(value)) + padded.hex()
    return bytes.fromhex(text)


class ContractWallet:
    """A wallet contract on a devnet: its owner acts and signs for it."""

    def __init__(self, chain: Devnet, owner: Account) -> None:
        self.chain, self.owner = chain, owner
        artifact = ROOT / "crates/agirails-devnet/artifacts/ContractWallet.json"
        code = json.loads(artifact.read_text())["bytecode"] + word(owner.address)
        self.address = Address(self._send(data=code)["contractAddress"])

    def _send(self, **transaction: str) -> dict[str, Any]:
        transaction.update({"from": self.owner.address, "gas": hex(2_000_000)})
        transaction_hash = self.chain.rpc("eth_sendTransaction", [transaction])
        for _ in range(200):
            receipt = self.chain.rpc("eth_getTransactionReceipt", [transaction_hash])
            if receipt is not None:
                assert receipt["status"] == "0x1", receipt
                return receipt
            time.sleep(0.01)
        raise AssertionError("no block took it")

    def does(self, to: str, function: str, *arguments: int | str) -> dict[str, Any]:
        call = encoded("execute(address,bytes)", to, encoded(function, *arguments))
        return self._send(to=self.address, data="0x" + call.hex())

    def funds(self, provider: str, amount: int) -> str:
        """A transaction with this requester, in escrow."""
        contracts = self.chain.profile["contracts"]
        kernel, vault = contracts["actpKernel"], contracts["escrowVault"]
        self.chain.mint(self.address, amount)
        create = (
            "createTransaction(address,address,uint256,uint256,uint256,bytes32,uint256,uint256)"
        )
        terms = (amount, self.chain.now() + 7200, 3600, 0, 0, 0)
        logs = self.does(kernel, create, provider, self.address, *terms)["logs"]
        (tx_id,) = (log["topics"][1] for log in logs if len(log["topics"]) == 4)
        self.does(contracts["usdc"], "approve(address,uint256)", vault, amount)
        self.does(kernel, "linkEscrow(bytes32,address,bytes32)", tx_id, vault, tx_id)
        return tx_id


def test_a_contract_wallet_appoints_a_session_key(shop: Shop) -> None:
    owner = shop.chain.accounts[4]
    wallet = ContractWallet(shop.chain, owner)
    tx_id = wallet.funds(shop.provider, USDC)
    client = ACTPClient(
        mode="testnet", private_key=owner.private_key, network=shop.chain.profile, in_memory=True
    )
    valid_until = int(time.time()) + 600
    body = json.dumps({"prompt": "a haiku"}).encode()

    def call(headers: dict[str, str]) -> tuple[int, Any]:
        request = urllib.request.Request(shop.url, body, {**headers, **JSON}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    session = SessionKey(client, tx_id, valid_until=valid_until)
    with pytest.raises(ValidationError) as caught:
        session.headers("POST", "/api/generate", body)
    assert caught.value.code == "key_missing"
    assert session.typed_data["message"] == {
        "txId": tx_id,
        "key": str(session.address).lower(),
        "validUntil": str(valid_until),
    }
    # The owner's signature, as this wallet's contract takes it: with zeros behind.
    session.appoint()
    plain = session.headers("POST", "/api/generate", body)["X-AGIRAILS-SESSION"].split(",s=")[1]
    session.appoint(plain + "00" * 31)
    for key in ("first", "second"):
        status, answer = call(session.headers("POST", "/api/generate", body, idempotency_key=key))
        assert (status, answer.get("paid by")) == (200, wallet.address), answer

    # A session that the wallet did not appoint, and one of another of its transactions.
    stranger = SessionKey(client, tx_id, valid_until=valid_until)
    stranger.appoint("0x" + "11" * 96)
    status, told = call(stranger.headers("POST", "/api/generate", body, idempotency_key="third"))
    assert (status, told["error"]) == (401, "Invalid Signature")
    assert told["signing"]["session"]["typedData"]["primaryType"] == "Session"
    other = wallet.funds(shop.provider, USDC)
    stolen = session.headers("POST", "/api/generate", body, idempotency_key="fourth")
    status, told = call({**stolen, "X-AGIRAILS-TX-ID": other})
    assert (status, told["error"]) == (401, "Invalid Signature")
    for wrong in ("0x", "0x11", b"", b"1" * 3000, "no hex"):
        with pytest.raises(SignatureVerificationError):
            session.appoint(wrong)
    assert "SessionKey" in repr(session) and plain[2:] not in repr(session)
