"""Our provider and consumer as two processes, and what they say when something is wrong."""

import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from support import (
    HOUR,
    PRICE,
    ROOT,
    START,
    create,
    deliver,
    free_port,
    fund,
    http,
    new_address,
    new_key,
    run_python,
    served,
)

from agirails import ACTPClient, State, canonical_json

EXAMPLES = ROOT / "examples"
PROVIDER, CONSUMER, DEMO = (EXAMPLES / f"{name}.py" for name in ("provider", "consumer", "demo"))


class Service(NamedTuple):
    port: int
    directory: Path
    provider: ACTPClient
    consumer: ACTPClient
    stranger: ACTPClient


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory, port = tmp_path_factory.mktemp("examples"), free_port()
    provider, consumer, stranger = (
        ACTPClient(requester_address=new_address(), state_directory=directory) for _ in range(3)
    )
    command = [
        sys.executable,
        str(PROVIDER),
        "--port",
        str(port),
        "--state-directory",
        str(directory),
    ]
    with served(
        command,
        f"http://127.0.0.1:{port}/api/pricing",
        directory / "log",
        PROVIDER_ADDRESS=str(provider.address),
    ):
        yield Service(port, directory, provider, consumer, stranger)


def post(service: Service, tx_id: str | None, body: object = None):
    headers = {} if tx_id is None else {"X_AGIRAILS_TX_ID": tx_id}
    return http(
        "POST",
        f"http://127.0.0.1:{service.port}/api/generate",
        {"prompt": "p"} if body is None else body,
        **headers,
    )


def run_consumer(service: Service, *arguments: str, **env: str | None):
    env.setdefault("CONSUMER_ADDRESS", str(service.consumer.address))
    return run_python(
        CONSUMER,
        "--port",
        str(service.port),
        "--state-directory",
        service.directory,
        *arguments,
        **env,
    )


class TestPaidCall:
    def test_two_processes_make_one_paid_call(self, service):
        before = service.provider.advanced.get_balance()
        done = run_consumer(service, "Write a haiku")
        assert done.returncode == 0, done.stderr
        assert "Result: Generated response for: Write a haiku" in done.stdout
        tx = service.consumer.advanced.get_transactions()[0]
        assert (tx.id in done.stdout, tx.state) == (True, State.SETTLED)
        assert service.provider.advanced.get_balance() == before + 50_000

    def test_a_key_alone_identifies_either_side(self, service):
        done = run_consumer(service, CONSUMER_ADDRESS=None, CONSUMER_PRIVATE_KEY=new_key())
        assert done.returncode == 0, done.stderr

    def test_a_call_can_be_repeated_with_its_transaction(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        done = run_consumer(service, "--transaction", tx_id)
        assert done.returncode == 0, done.stderr
        assert service.consumer.advanced.get_transaction(tx_id).state is State.SETTLED

    def test_the_answer_names_payment_and_proof(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        status, answer = post(service, tx_id)
        kept = service.consumer.advanced.get_delivery_proof(tx_id)
        assert (status, answer["success"]) == (200, True)
        assert answer["payment"] == {
            "txId": tx_id,
            "amount": "0.10 USDC",
            "status": "DELIVERED",
            "proofHash": kept["contentHash"],
        }
        deliverable = canonical_json({"prompt": "p", "result": answer["result"]})
        assert service.consumer.proof_generator.verify_deliverable(kept, deliverable)

    def test_a_provider_that_died_between_its_two_steps_delivers_on_the_next_try(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        service.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        assert post(service, tx_id)[0] == 200
        assert service.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED

    def test_many_calls_at_once_each_get_their_own_answer(self, service):
        ids = [fund(service.consumer, service.provider.address) for _ in range(16)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda tx_id: post(service, tx_id, {"prompt": tx_id}), ids))
        assert [(status, answer["payment"]["txId"]) for status, answer in answers] == [
            (200, tx_id) for tx_id in ids
        ]
        assert all(
            tx_id in answer["result"] for tx_id, (_, answer) in zip(ids, answers, strict=True)
        )

    def test_of_many_calls_with_one_transaction_one_is_answered(self, service):
        tx_id, barrier = fund(service.consumer, service.provider.address), threading.Barrier(6)

        def call(_: int):
            barrier.wait(30)
            return post(service, tx_id)

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(call, range(6)))
        statuses = sorted(status for status, _ in answers)
        assert statuses[0] == 200 and set(statuses[1:]) <= {402, 409}, answers
        assert [("result" in answer) for status, answer in answers] == [
            status == 200 for status, _ in answers
        ]


class TestRefusals:
    def refused(self, service, tx_id, status, error, body=None, **facts):
        balance = service.provider.advanced.get_balance()
        state = (
            service.consumer.advanced.get_transaction(tx_id).state
            if error not in ("Payment Required", "Invalid Transaction ID", "Transaction Not Found")
            else None
        )
        got, answer = post(service, tx_id, body)
        assert (got, answer["error"]) == (status, error)
        assert answer["message"] and "result" not in answer
        assert {key: answer[key] for key in facts} == facts
        assert service.provider.advanced.get_balance() == balance
        if state is not None:
            assert service.consumer.advanced.get_transaction(tx_id).state is state

    def test_no_header(self, service):
        self.refused(service, None, 402, "Payment Required")

    @pytest.mark.parametrize("tx_id", ["nonsense", "0x12", "0x" + "g" * 64])
    def test_a_malformed_id(self, service, tx_id):
        self.refused(service, tx_id, 400, "Invalid Transaction ID")

    def test_an_unknown_id(self, service):
        self.refused(service, "0x" + "ab" * 32, 402, "Transaction Not Found")

    def test_somebody_elses_transaction(self, service):
        self.refused(
            service, fund(service.consumer, service.stranger.address), 403, "Invalid Transaction"
        )

    def test_an_unfunded_transaction(self, service):
        tx_id = create(service.consumer, service.provider.address)
        self.refused(service, tx_id, 402, "Invalid Transaction State", currentState="INITIATED")

    def test_a_used_transaction(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        deliver(service.provider, tx_id)
        self.refused(service, tx_id, 402, "Invalid Transaction State", currentState="DELIVERED")

    def test_too_little_money(self, service):
        tx_id = fund(service.consumer, service.provider.address, PRICE - 1)
        self.refused(
            service, tx_id, 402, "Insufficient Payment", provided="0.099999", required="0.10"
        )

    def test_an_expired_transaction(self, service):
        tx_id = fund(service.consumer, service.provider.address)
        service.consumer.mock.advance_time(2 * HOUR)
        self.refused(service, tx_id, 402, "Transaction Expired")

    @pytest.mark.parametrize("body", [{}, {"prompt": 5}, [], "text"])
    def test_a_body_without_a_prompt_costs_nothing(self, service, body):
        tx_id = fund(service.consumer, service.provider.address)
        self.refused(service, tx_id, 400, "Invalid Request", body=body)
        assert post(service, tx_id)[0] == 200


class TestProviderInside:
    """What HTTP cannot show: the state while the service runs, and what its failures do."""

    @pytest.fixture
    def shop(self, parties, monkeypatch):
        monkeypatch.syspath_prepend(EXAMPLES)
        import provider

        app = provider.create_app(parties.provider)
        tx_id = fund(parties.consumer, parties.provider.address)

        def call():
            paid = {"X-AGIRAILS-TX-ID": tx_id}
            return app.test_client().post("/api/generate", json={"prompt": "p"}, headers=paid)

        return provider, parties, tx_id, call

    def test_the_service_runs_while_the_transaction_is_committed(self, shop, monkeypatch):
        provider, parties, tx_id, call = shop
        seen = []

        def generate(prompt: str) -> str:
            seen.append(parties.consumer.advanced.get_transaction(tx_id).state)
            return prompt

        monkeypatch.setattr(provider, "generate_content", generate)
        assert call().status_code == 200
        assert seen == [State.COMMITTED]

    def test_a_service_that_fails_gives_the_money_back(self, shop, monkeypatch):
        provider, parties, tx_id, call = shop
        monkeypatch.setattr(provider, "generate_content", lambda prompt: 1 / 0)
        answer = call()
        assert (answer.status_code, answer.json["error"], answer.json["txId"]) == (
            500,
            "Service Failed",
            tx_id,
        )
        assert "division" not in answer.text
        assert parties.consumer.advanced.get_transaction(tx_id).state is State.CANCELLED
        assert parties.consumer.advanced.get_balance() == START

    def test_an_answer_that_cannot_be_proven_gives_the_money_back(self, shop, monkeypatch):
        provider, parties, _, call = shop
        monkeypatch.setattr(provider, "generate_content", lambda prompt: "half a pair: \ud800")
        answer = call()
        assert (answer.status_code, answer.json["error"]) == (500, "Service Failed")
        assert parties.consumer.advanced.get_balance() == START

    def test_a_service_that_misses_the_deadline_gives_the_money_back(self, shop, monkeypatch):
        provider, parties, tx_id, call = shop
        monkeypatch.setattr(
            provider,
            "generate_content",
            lambda prompt: str(parties.consumer.mock.advance_time(2 * HOUR)),
        )
        answer = call()
        assert (answer.status_code, answer.json["error"]) == (402, "Transaction Expired")
        assert "result" not in answer.json
        assert parties.consumer.advanced.get_balance() == START

    def test_an_answer_that_cannot_be_delivered_is_not_handed_out(self, shop, monkeypatch):
        provider, parties, tx_id, call = shop
        monkeypatch.setattr(
            provider, "generate_content", lambda prompt: str(parties.admin.mock.pause())
        )
        answer = call()
        assert (answer.status_code, answer.json["error"]) == (500, "Delivery Failed")
        assert "result" not in answer.json
        parties.admin.mock.unpause()
        monkeypatch.undo()
        assert call().status_code == 200

    def test_a_payment_that_cannot_be_read_is_a_500(self, shop, monkeypatch):
        provider, parties, tx_id, call = shop

        class Broken:
            address = parties.provider.address

            class advanced:
                @staticmethod
                def get_transaction(tx_id):
                    from agirails import StorageError

                    raise StorageError("the disk is gone")

        with pytest.raises(provider.Refused) as caught:
            provider.verify_payment(Broken, tx_id)
        assert (caught.value.status, caught.value.body["error"]) == (
            500,
            "Payment Verification Failed",
        )


class TestWhatTheySay:
    @pytest.mark.parametrize("script", [PROVIDER, CONSUMER])
    def test_help_names_options_and_environment(self, script):
        done = run_python(script, "--help")
        assert done.returncode == 0
        for word in ("--port", "--state-directory", "_ADDRESS", "_PRIVATE_KEY", "ACTP_STATE_DIR"):
            assert word in done.stdout

    @pytest.mark.parametrize(("script", "role"), [(PROVIDER, "PROVIDER"), (CONSUMER, "CONSUMER")])
    @pytest.mark.parametrize(
        "setting", ["nothing", "address", "checksum", "key", "both", "directory"]
    )
    def test_a_wrong_setting_ends_with_what_to_do(self, tmp_path, script, role, setting):
        key = new_key()
        address, secret, directory = {
            "nothing": (None, None, tmp_path),
            "address": ("0x1234", None, tmp_path),
            "checksum": ("0xd8da6BF26964aF9D7eEd9e03E53415D37aA96045", None, tmp_path),
            "key": (None, key + "0", tmp_path),
            "both": (new_address(), key, tmp_path),
            "directory": (new_address(), None, "/proc/1/none"),
        }[setting]
        env = {f"{role}_ADDRESS": address, f"{role}_PRIVATE_KEY": secret}
        done = run_python(script, "--port", str(free_port()), "--state-directory", directory, **env)
        assert done.returncode == 1
        assert re.search(r"^error: .+\nhint: .+", done.stderr, re.M), done.stderr
        assert "Traceback" not in done.stderr and key[2:] not in done.stderr + done.stdout

    def test_a_missing_provider_costs_nothing(self, tmp_path):
        address = new_address()
        done = run_python(
            CONSUMER,
            "--port",
            str(free_port()),
            "--state-directory",
            tmp_path,
            CONSUMER_ADDRESS=address,
        )
        assert done.returncode == 1
        assert (
            "no answer" in done.stderr
            and "examples/provider.py" in done.stderr
            and "Traceback" not in done.stderr
        )
        client = ACTPClient(requester_address=address, state_directory=tmp_path)
        assert (client.advanced.get_balance(), client.advanced.get_transactions()) == (START, [])

    def test_a_price_above_the_limit_is_not_paid(self, service):
        before = service.consumer.advanced.get_balance()
        done = run_consumer(service, "--max-price", "0.09")
        assert done.returncode == 1
        assert "0.10 USDC" in done.stderr and "--max-price" in done.stderr
        assert service.consumer.advanced.get_balance() == before

    def test_a_refused_call_tells_how_to_repeat_it(self, service):
        tx_id = create(service.consumer, service.provider.address)
        done = run_consumer(service, "--transaction", tx_id)
        assert done.returncode == 1
        assert (
            "Invalid Transaction State" in done.stderr and f"--transaction {tx_id}" in done.stderr
        )

    @pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:1", "ftp://127.0.0.1/"])
    def test_a_wrong_url_ends_with_what_to_do(self, tmp_path, url):
        done = run_python(
            CONSUMER, "--url", url, "--state-directory", tmp_path, CONSUMER_ADDRESS=new_address()
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr

    def test_an_answer_that_does_not_match_its_proof_is_not_settled(
        self, parties, monkeypatch, capsys
    ):
        monkeypatch.syspath_prepend(EXAMPLES)
        import consumer

        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id)
        with pytest.raises(consumer.CallFailed, match="does not match"):
            consumer.accept(parties.consumer, tx_id, "p", "forged", "0x" + "ab" * 32)
        assert parties.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED


class TestDemo:
    def test_the_demo_checks_itself_and_shows_the_money(self, tmp_path):
        cwd, temporary = tmp_path / "cwd", tmp_path / "temporary"
        cwd.mkdir(), temporary.mkdir()
        done = run_python(DEMO, cwd=cwd, TMPDIR=str(temporary))
        assert done.returncode == 0, done.stdout + done.stderr
        for words in (
            "999.90 USDC",
            "1000.05 USDC",
            "fee    0.05 USDC",
            "SETTLED",
            "The provider's books",
            "-m agirails dashboard --state-directory",
            "checks passed",
        ):
            assert words in done.stdout, done.stdout
        assert re.search(r"^proof  0x[0-9a-f]{64}$", done.stdout, re.M)
        assert list(cwd.iterdir()) == []
        (kept,) = temporary.iterdir()
        assert f"The books stay in {kept}" in done.stdout

    def test_the_demo_fails_where_a_figure_differs(self, tmp_path):
        script = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import demo; demo.FEE = 1; sys.exit(demo.main())"
        done = run_python("-c", script, cwd=tmp_path, TMPDIR=str(tmp_path))
        assert done.returncode == 1
        assert "FAILED: the provider's balance is" in done.stderr
        assert "checks passed" not in done.stdout
