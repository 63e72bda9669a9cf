"""The same program on every generation of the kernel: single calls, a bundle, settlement by others, a
dispute, and money that comes back. And what each of them refuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import PRICE, create, deliver, free_port, fund, new_address, served, until

import agirails
from agirails import (
    ACTPClient,
    Consumer,
    InvalidStateTransitionError,
    NetworkError,
    ProofGenerator,
    State,
    ValidationError,
    encode_resolution,
)
from agirails.flask import Paywall
from agirails.testing import Devnet

GENERATIONS = ["2026-05", "f6", "aip14c"]
HOUR, DAY = 3_600, 86_400
ZERO = "0x" + "00" * 32

APP = """
import json, sys
from flask import Flask
from agirails import ACTPClient
from agirails.flask import Paywall

app = Flask(__name__)
client = ACTPClient(mode="testnet", private_key=sys.argv[2], network="network.json")
# Others settle here.
paywall = Paywall(client, app=app, settle="never")

@app.get("/haiku")
@paywall.charge("1.00")
def haiku():
    return {"text": "an old silent pond"}

@app.get("/word")
@paywall.charge("0.10", calls=10)
def word():
    return {"word": "frog"}

app.run(port=int(sys.argv[1]))
"""


class Shop(NamedTuple):
    """A Flask service on a devnet."""

    generation: str
    url: str
    chain: Devnet
    directory: Path

    def client(self, account: int) -> ACTPClient:
        directory = self.directory / str(account)
        directory.mkdir(exist_ok=True)
        return self.chain.client(account, state_directory=directory)

    def tomorrow(self) -> int:
        """By the clock of the chain."""
        return self.chain.now() + DAY

    def agirails(self, *arguments: str, account: int) -> str:
        """The command, as this account."""
        command = [sys.executable, "-m", "agirails", *arguments, "--mode", "testnet"]
        command += ["--network", str(self.directory / "network.json")]
        directory = self.directory / f"command-{account}"
        directory.mkdir(exist_ok=True)
        key = self.chain.accounts[account].private_key
        environment = {"ACTP_PRIVATE_KEY": key, "ACTP_STATE_DIR": str(directory)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=GENERATIONS)
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    with Devnet(generation=request.param) as chain:
        (directory / "network.json").write_text(json.dumps(chain.profile))
        (directory / "app.py").write_text(APP)
        port, key = free_port(), chain.accounts[1].private_key
        origin = f"http://127.0.0.1:{port}"
        command = [sys.executable, "app.py", str(port), key]
        with served(command, f"{origin}/health", directory / "log", directory):
            yield Shop(request.param, origin, chain, directory)


def test_a_kernel_tells_its_generation(shop: Shop) -> None:
    network = shop.client(2).network
    grace = None if shop.generation == "2026-05" else HOUR
    assert (network.generation, network.recovery_grace_seconds) == (shop.generation, grace)


def test_the_same_program_runs_everywhere(shop: Shop) -> None:
    payer, chain = shop.client(2), shop.chain
    provider = chain.accounts[1].address
    at_first = payer.advanced.get_balance(provider)
    consumer = Consumer(payer, trusted=[provider])
    single = consumer.call(f"{shop.url}/haiku", max_amount="1.00")
    assert single.json() == {"text": "an old silent pond"}
    words = [consumer.call(f"{shop.url}/word", max_amount="0.10") for _ in range(3)]
    assert {word.json()["word"] for word in words} == {"frog"}
    [bundle] = {word.payment.transaction_id for word in words}
    # The rest of the bundle is the provider's once it is closed.
    consumer.close(bundle)
    ids = [single.payment.transaction_id, bundle]
    until(lambda: all(payer.advanced.get_transaction(i).state == State.DELIVERED for i in ids), 60)
    for tx_id in ids:
        committed = payer.advanced.get_transaction(tx_id).result_hash
        assert (committed == ZERO) == (shop.generation != "aip14c")
    # A consumer that looks settles what its receipts prove, and nothing else moves.
    report = consumer.settle()
    assert sorted(report.settled) == sorted(ids), report
    net = 950_000 + 950_000
    assert payer.advanced.get_balance(provider) - at_first == net


def test_a_keeper_settles_what_nobody_did(shop: Shop) -> None:
    payer, provider = shop.client(2), shop.client(1)
    tx_id = fund(payer, provider.address, 1_000_000, deadline=shop.tomorrow())
    proof = ProofGenerator().generate_delivery_proof(tx_id=tx_id, deliverable=b"done")
    deliver(provider, tx_id, proof)
    shop.chain.advance_time(2 * DAY + 2)
    shop.agirails("keeper", "--once", account=4)
    assert payer.advanced.get_transaction(tx_id).state == State.SETTLED


def test_a_dispute_is_resolved(shop: Shop) -> None:
    payer, provider = shop.client(2), shop.client(1)
    tx_id = fund(payer, provider.address, 10_000_000, deadline=shop.tomorrow())
    proof = ProofGenerator().generate_delivery_proof(tx_id=tx_id, deliverable=b"done")
    deliver(provider, tx_id, proof)
    payer.advanced.transition_state(tx_id, State.DISPUTED)
    before = payer.advanced.get_balance()
    admin = shop.chain.client(shop.chain.admin, state_directory=shop.directory)
    split = encode_resolution(
        requester_amount=10_000_000, provider_amount=0, provider_at_fault=True
    )
    admin.advanced.transition_state(tx_id, State.SETTLED, split)
    assert payer.advanced.get_balance() - before == 11_000_000


def test_abandoned_work_comes_back_where_the_kernel_recovers_it(shop: Shop) -> None:
    payer, provider = shop.client(2), shop.client(1)
    tx_id = fund(payer, provider.address, PRICE, deadline=shop.tomorrow())
    provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
    if shop.generation == "2026-05":
        with pytest.raises(NetworkError, match="recovers no abandoned work") as caught:
            payer.advanced.recover_stalled(tx_id)
        assert caught.value.code == "unsupported_kernel"
        return
    with pytest.raises(InvalidStateTransitionError) as early:
        payer.advanced.recover_stalled(tx_id)
    assert early.value.code == "recovery_not_yet_available"
    deadline = payer.advanced.get_transaction(tx_id).deadline
    shop.chain.advance_time(deadline + HOUR - shop.chain.now())
    before = payer.advanced.get_balance()
    # A stranger pays the gas, and has nothing of it.
    shop.agirails("keeper", "--once", "--recover", account=4)
    assert payer.advanced.get_balance() - before == PRICE


def tomorrow(client: ACTPClient) -> int:
    return client.advanced.now() + DAY


class TestBadInput:
    """Each has an error of its own, on the embedded kernel as on a chain."""

    def client(self, generation: str) -> ACTPClient:
        return ACTPClient(requester_address=new_address(), in_memory=True, generation=generation)

    def test_an_agreement_where_none_is_kept(self) -> None:
        agreement = agirails.agreement_hash({"service": "ocr"}, {}, {})
        for generation in GENERATIONS[:2]:
            client = self.client(generation)
            with pytest.raises(NetworkError) as caught:
                create(client, new_address(), agreement_hash=agreement, deadline=tomorrow(client))
            assert (caught.value.code, caught.value.field) == (
                "unsupported_kernel",
                "agreement_hash",
            )
            with pytest.raises(NetworkError) as caught:
                Paywall(client, require_agreement=True)
            assert (caught.value.code, caught.value.field) == (
                "unsupported_kernel",
                "require_agreement",
            )
        client = self.client("aip14c")
        tx_id = create(client, new_address(), agreement_hash=agreement, deadline=tomorrow(client))
        assert client.advanced.get_transaction(tx_id).agreement_hash == agreement

    def test_a_deadline_in_59_minutes(self) -> None:
        for generation in GENERATIONS:
            client = self.client(generation)
            deadline = client.advanced.now() + 59 * 60
            if generation == "2026-05":
                create(client, new_address(), deadline=deadline)
                continue
            with pytest.raises(ValidationError) as caught:
                create(client, new_address(), deadline=deadline)
            assert (caught.value.code, caught.value.field) == ("deadline_too_soon", "deadline")

    def test_a_32_byte_proof_where_a_result_is_committed_to(self, tmp_path: Path) -> None:
        connect = lambda: ACTPClient(  # noqa: E731
            requester_address=new_address(), state_directory=tmp_path, generation="aip14c"
        )
        payer, provider = connect(), connect()
        tx_id = fund(payer, provider.address, deadline=payer.advanced.now() + DAY)
        provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        for proof in [HOUR.to_bytes(32, "big"), None, b""]:
            with pytest.raises(ValidationError) as caught:
                provider.advanced.transition_state(tx_id, State.DELIVERED, proof)
            assert caught.value.code == "delivery_proof_malformed"
            assert "delivery proof" in (caught.value.hint or "")
        # In the recipe's own spelling: a proof in its 96 bytes.
        generator = ProofGenerator()
        proof = generator.generate_delivery_proof(tx_id=tx_id, deliverable=b"done")
        encoded = generator.encode_proof(proof)
        provider.advanced.transition_state(tx_id, State.DELIVERED, encoded)
        found = payer.advanced.get_transaction(tx_id)
        assert found.result_hash == generator.hash_content(b"done")

    def test_a_generation_that_does_not_exist_or_is_not_the_files(self, tmp_path: Path) -> None:
        with pytest.raises(ValidationError, match="generation") as caught:
            self.client("f7")
        assert caught.value.code == "invalid_settings"
        address = new_address()
        ACTPClient(requester_address=address, state_directory=tmp_path, generation="f6")
        with pytest.raises(ValidationError, match="f6") as caught:
            ACTPClient(requester_address=address, state_directory=tmp_path, generation="aip14c")
        assert caught.value.field == "generation"
        again = ACTPClient(requester_address=address, state_directory=tmp_path)
        assert again.network.generation == "f6"

    def test_a_generation_on_a_chain_and_a_grace_that_none_can_have(self) -> None:
        with pytest.raises(ValidationError, match="for mode mock") as caught:
            ACTPClient(mode="testnet", requester_address=new_address(), generation="f6")
        assert caught.value.field == "generation"
        for settings in [
            {"generation": "f6", "recovery_grace": 3_599},
            {"recovery_grace": HOUR},
            {"generation": "f7"},
        ]:
            with pytest.raises(ValidationError), Devnet(**settings):
                pass
