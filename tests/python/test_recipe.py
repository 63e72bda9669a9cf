"""The documented recipe, word for word, as two processes over HTTP: in mode mock, and on a chain."""

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest
from support import (
    DAY,
    HOUR,
    PRICE,
    ROOT,
    chain_kernel,
    create,
    deliver,
    free_port,
    fund,
    http,
    new_hash,
    new_key,
    run_python,
    served,
)

from agirails import ACTPClient, CallError, Consumer, ProofGenerator, SpendingError, State
from agirails.testing import Devnet

RECIPE = ROOT / "tests" / "recipe" / "api-pay-per-call.md"
RUN_CONSUMER = "import asyncio, api_consumer; print('Result:', asyncio.run(api_consumer.call_paid_api('Write a haiku')))"


def program(title: str, replacements: dict[str, str]) -> str:
    """A program of the recipe, with nothing changed but these words, each of which is there."""
    (code,) = re.findall(
        rf'^```python title="{re.escape(title)}"\n(.*?)^```$',
        RECIPE.read_text(encoding="utf-8"),
        re.M | re.S,
    )
    for placeholder, real in replacements.items():
        assert placeholder in code, f"{title} has no {placeholder}"
        code = code.replace(placeholder, real)
    ast.parse(code)
    return code


class Service(NamedTuple):
    url: str
    directory: Path
    network: dict[str, str]
    provider: ACTPClient
    consumer: ACTPClient
    consumer_key: str
    stranger: ACTPClient
    advance_time: Callable[[int], object]


@pytest.fixture(scope="module", params=["mock", "testnet"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The recipe's provider as a process, and everyone's own view of its state."""
    directory = tmp_path_factory.mktemp("recipe")
    if request.param == "mock":
        keys = [new_key() for _ in range(3)]
        clients = [ACTPClient(private_key=key, state_directory=directory) for key in keys]
        mode, advance_time = {"mode='testnet'": "mode='mock'"}, clients[0].mock.advance_time
        with recipe(directory, mode, {}, clients, keys, advance_time) as service:
            yield service
        return
    # As it stands, mode and all: the environment says which testnet.
    with Devnet() as net:
        chain_kernel(net)
        keys = [account.private_key for account in net.accounts[:3]]
        clients = [net.client(number, state_directory=directory) for number in range(3)]
        network, advance_time = net.environment(), net.advance_time
        with recipe(directory, {}, network, clients, keys, advance_time) as service:
            yield service


@contextmanager
def recipe(
    directory: Path,
    mode: dict[str, str],
    network: dict[str, str],
    clients: list[ACTPClient],
    keys: list[str],
    advance_time: Callable[[int], object],
    page: dict[str, str] | None = None,
) -> Iterator[Service]:
    """The provider's program, served; nothing but placeholders is replaced in it, and `mode`; and
    what its price page says, where `page` says so."""
    provider, consumer, stranger = clients
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = {**mode, **(page or {}), "port=3000": f"port={port}"}
    (directory / "api_server.py").write_text(program("api_server.py", words), encoding="utf-8")
    words = {**mode, '"0x..."': f'"{provider.address}"', "https://api.example.com": url}
    (directory / "api_consumer.py").write_text(program("api_consumer.py", words), encoding="utf-8")
    env = {
        "PROVIDER_ADDRESS": str(provider.address),
        "PROVIDER_PRIVATE_KEY": keys[0],
        "ACTP_STATE_DIR": str(directory),
        **network,
    }
    with served(
        [sys.executable, "api_server.py"],
        f"{url}/api/pricing",
        directory / "server.log",
        cwd=directory,
        **env,
    ):
        yield Service(url, directory, network, provider, consumer, keys[1], stranger, advance_time)


def post(service: Service, **headers: str):
    return http("POST", f"{service.url}/api/generate", {"prompt": "Write a haiku"}, **headers)


def test_the_recipe_is_the_one_that_was_published():
    """Byte for byte: no formatter and no editor touched it."""
    digest = hashlib.sha256(RECIPE.read_bytes()).hexdigest()
    assert digest == "3ce2c84fe2739d55cf9128262935f4bd9fa2d56a5e6e7b172a758c9d65e2df43"


@pytest.fixture(scope="module")
def call(service: Service):
    """The recipe's consumer as a process: what it printed, its transaction, and what both had before."""
    before = {
        client: client.advanced.get_balance() for client in (service.consumer, service.provider)
    }
    env = {
        "CONSUMER_ADDRESS": str(service.consumer.address),
        "CONSUMER_PRIVATE_KEY": service.consumer_key,
        "ACTP_STATE_DIR": str(service.directory),
        **service.network,
    }
    done = run_python("-W", "error", "-c", RUN_CONSUMER, cwd=service.directory, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    tx = service.consumer.advanced.get_transactions()[0]
    return done.stdout, tx, before


class TestPaidCall:
    def test_the_consumer_gets_the_answer(self, call):
        output, tx, _ = call
        assert "Result: Generated response for: Write a haiku" in output
        assert f"Transaction created: {tx.id}" in output
        assert f"(escrowId {tx.escrow_id})" in output
        assert "API call successful! Payment: 0.1 USDC" in output

    def test_the_transaction_is_delivered_as_it_was_ordered(self, call, service):
        _, tx, _ = call
        assert (tx.state, tx.amount) == (State.DELIVERED, 100_000)
        assert (tx.requester, tx.provider) == (service.consumer.address, service.provider.address)
        assert tx.dispute_window_ends_at == tx.updated_at + 3600

    def test_the_proof_is_kept(self, call, service):
        _, tx, _ = call
        kept = service.consumer.advanced.get_delivery_proof(tx.id)
        assert (kept["type"], kept["txId"]) == ("delivery.proof", tx.id)

    def test_the_money_is_in_escrow_and_then_paid_out(self, call, service):
        _, tx, before = call
        assert service.consumer.advanced.get_balance() == before[service.consumer] - PRICE
        assert service.consumer.advanced.get_escrow(tx.id)["remaining"] == PRICE
        service.consumer.advanced.transition_state(tx.id, State.SETTLED)
        assert service.provider.advanced.get_balance() == before[service.provider] + 50_000

    def test_the_answer_names_the_payment_and_the_proof(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        status, answer = post(service, X_AGIRAILS_TX_ID=tx_id)
        kept = service.provider.advanced.get_delivery_proof(tx_id)
        assert (status, answer["result"]) == (200, "Generated response for: Write a haiku")
        assert answer["payment"] == {
            "txId": tx_id,
            "amount": "0.1 USDC",
            "status": "DELIVERED",
            "proofHash": kept["contentHash"],
        }

    def test_the_price_page_names_the_provider(self, service):
        status, page = http("GET", f"{service.url}/api/pricing")
        assert (status, page["provider"], page["pricing"]["perCall"]) == (
            200,
            service.provider.address,
            "0.1 USDC",
        )


class TestConsumers:
    """A consumer of this package finds out by itself how such a provider is paid."""

    CALL: ClassVar = {"json": {"prompt": "Write a haiku"}, "max_amount": "0.10"}

    def test_a_page_of_another_network_is_not_paid(self, service):
        consumer = Consumer(service.consumer, trusted=[service.url])
        before = consumer.spent().day
        with pytest.raises(CallError, match="base-sepolia") as raised:
            consumer.call(f"{service.url}/api/generate", **self.CALL)
        assert (raised.value.code, consumer.spent().day) == ("no_offer", before)

    def test_a_page_that_names_the_mode_is_paid(self, tmp_path):
        """As the documented provider in TypeScript says it."""
        keys = [new_key() for _ in range(3)]
        clients = [ACTPClient(private_key=key, state_directory=tmp_path) for key in keys]
        mode = {"mode='testnet'": "mode='mock'"}
        page = {'"network": "base-sepolia"': '"mode": "mock"'}
        advance_time = clients[0].mock.advance_time
        with recipe(tmp_path, mode, {}, clients, keys, advance_time, page) as service:
            consumer = Consumer(service.consumer, trusted=[service.url])
            answer = consumer.call(f"{service.url}/api/generate", **self.CALL)
            assert answer.json()["result"] == "Generated response for: Write a haiku"
            assert (answer.payment.price, answer.payment.proof) == (PRICE, "missing")
            tx = service.consumer.advanced.get_transaction(answer.payment.transaction_id)
            assert tx.state is State.DELIVERED
            # Nobody is paid below 1 USDC who is not trusted.
            with pytest.raises(SpendingError):
                Consumer(service.stranger).call(f"{service.url}/api/generate", **self.CALL)


class TestRefusals:
    """As written the recipe answers its own refusals with 500; what counts is that it never serves."""

    def never_served(self, service: Service, tx_id: str | None) -> None:
        advanced = service.provider.advanced
        known = tx_id is not None and len(tx_id) == 66 and tx_id != "0x" + "ab" * 32
        before = advanced.get_transaction(tx_id) if known else None
        balance = advanced.get_balance()
        headers = {} if tx_id is None else {"X_AGIRAILS_TX_ID": tx_id}
        status, answer = post(service, **headers)
        assert status >= 400
        assert "Generated response" not in str(answer)
        assert advanced.get_balance() == balance
        if known:
            assert advanced.get_transaction(tx_id) == before
            assert advanced.get_delivery_proof(tx_id) is None

    def test_no_header(self, service):
        self.never_served(service, None)

    def test_an_unknown_transaction(self, service):
        self.never_served(service, "0x" + "ab" * 32)

    def test_nonsense_for_an_id(self, service):
        self.never_served(service, "nonsense")

    def test_somebody_elses_transaction(self, service):
        self.never_served(service, fund(service.consumer, service.stranger.address))

    def test_an_unfunded_transaction(self, service):
        self.never_served(service, create(service.consumer, service.provider.address))

    def test_too_little_money(self, service):
        self.never_served(service, fund(service.consumer, service.provider.address, PRICE - 1))

    @pytest.mark.parametrize(
        "state", [State.DELIVERED, State.SETTLED, State.DISPUTED, State.CANCELLED]
    )
    def test_a_transaction_in_a_wrong_state(self, service, state):
        tx_id = fund(service.consumer, service.provider.address)
        if state is State.CANCELLED:
            service.provider.advanced.transition_state(tx_id, State.CANCELLED)
        else:
            deliver(service.provider, tx_id)
            if state is not State.DELIVERED:
                service.consumer.advanced.transition_state(tx_id, state)
        self.never_served(service, tx_id)

    def test_a_served_transaction_is_not_served_again(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        assert post(service, X_AGIRAILS_TX_ID=tx_id)[0] == 200
        status, answer = post(service, X_AGIRAILS_TX_ID=tx_id)
        assert status >= 400 and "Generated response" not in str(answer)

    def test_an_expired_transaction(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        service.advance_time(2 * HOUR)
        self.never_served(service, tx_id)


def test_the_recipes_registry_lines_work(service):
    service.provider.registry.register_agent(endpoint=service.url, services=["ai-completion"])
    providers = service.consumer.registry.get_agents_by_service("ai-completion")
    assert providers[0].agent_address == service.provider.address


def test_the_recipes_credit_is_one_transaction_for_many_calls(service):
    """Its section on batch payments: 10 USDC for 100 calls, delivered once."""
    tx_id = service.consumer.advanced.create_transaction(
        provider=service.provider.address,
        amount=10_000_000,
        deadline=service.consumer.advanced.now() + DAY,
    )
    service.consumer.advanced.link_escrow(tx_id)
    before = service.provider.advanced.get_balance()
    left = service.consumer.advanced.get_balance()
    generator = ProofGenerator()
    proof = generator.encode_proof(
        generator.generate_delivery_proof(tx_id=tx_id, deliverable=new_hash())
    )
    service.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
    service.provider.advanced.transition_state(tx_id, State.DELIVERED, proof)
    service.consumer.advanced.transition_state(tx_id, State.SETTLED)
    assert service.provider.advanced.get_balance() == before + 9_900_000
    assert service.consumer.advanced.get_balance() == left
