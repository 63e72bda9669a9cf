"""The ledger that tests of services and agents are given, and its guide."""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from support import DAY, HOUR, PRICE, ROOT, START, run_python

import agirails
from agirails import (
    ACTPClient,
    ContractPausedError,
    InsufficientFundsError,
    State,
    TransactionNotFoundError,
    ValidationError,
)
from agirails.flask import Paywall
from agirails.testing import Account, MockLedger

GUIDE = ROOT / "docs" / "guide" / "testing.md"


@pytest.fixture
def ledger(tmp_path):
    return MockLedger(tmp_path / "ledger")


def flask_service(ledger):
    from flask import Flask

    app = Flask(__name__)
    paywall = Paywall(ledger.client(0), app=app)

    @app.get("/api/quote")
    @paywall.charge("0.10")
    def quote():
        return {"price": 42}

    return app, paywall


class TestMockLedger:
    def test_its_clients_share_one_ledger_and_its_clock(self, ledger):
        provider, consumer = ledger.client(0), ledger.client(1)
        assert provider.address != consumer.address
        assert provider.advanced.get_balance() == consumer.advanced.get_balance() == START
        ledger.mint(consumer.address, 5)
        assert provider.advanced.get_balance(consumer.address) == START + 5
        before = consumer.advanced.now()
        assert ledger.advance_time(DAY) >= before + DAY
        assert provider.advanced.now() >= before + DAY and ledger.now() >= before + DAY

    def test_ten_parties_have_the_same_keys_in_every_ledger(self, ledger, tmp_path):
        other = MockLedger(tmp_path / "other")
        assert len({account.address for account in ledger.accounts}) == 10
        assert other.accounts == ledger.accounts
        assert ledger.client(9).address == ledger.accounts[9].address
        assert ledger.accounts[0].private_key not in repr(ledger.accounts)

    def test_another_account_takes_part(self, ledger):
        account = Account("0x" + "00" * 20, "0x" + "21" * 32)
        assert ledger.client(account).address != account.address  # the key's
        assert ledger.client(account).advanced.get_balance() == START

    def test_an_account_that_does_not_exist_is_an_error(self, ledger):
        with pytest.raises(IndexError):
            ledger.client(10)

    def test_a_second_ledger_knows_nothing_of_the_first(self, ledger, tmp_path):
        _, paywall = flask_service(ledger)
        headers = ledger.pay(ledger.client(1), paywall, "0.10", "GET", "/api/quote")
        other = MockLedger(tmp_path / "other")
        with pytest.raises(TransactionNotFoundError):
            other.client(1).advanced.get_transaction(headers["X-AGIRAILS-TX-ID"])
        ledger.advance_time(30 * DAY)
        assert other.now() < ledger.now() - 29 * DAY
        assert other.client(1).advanced.get_balance() == START

    def test_its_clients_of_an_event_loop_share_it_too(self, ledger):
        async def play():
            consumer = await ledger.async_client(1)
            return await consumer.advanced.create_transaction(
                provider=ledger.accounts[0].address, amount=PRICE, deadline=ledger.now() + HOUR
            )

        tx_id = asyncio.run(play())
        found = ledger.client(0).advanced.get_transaction(tx_id)
        assert (found.requester, found.amount) == (ledger.accounts[1].address, PRICE)

    def test_a_paused_protocol_moves_no_money(self, ledger):
        _, paywall = flask_service(ledger)
        ledger.pause()
        with pytest.raises(ContractPausedError):
            ledger.pay(ledger.client(1), paywall, "0.10", "GET", "/api/quote")
        ledger.unpause()
        assert ledger.pay(ledger.client(1), paywall, "0.10", "GET", "/api/quote")

    def test_it_lasts_and_is_private(self, ledger):
        ledger.mint(ledger.accounts[3].address, 7)
        assert oct(ledger.directory.stat().st_mode & 0o777) == "0o700"
        again = MockLedger(ledger.directory)
        assert again.client(3).advanced.get_balance() == START + 7
        assert repr(ledger) == f"<MockLedger {ledger.directory}>"


class TestPay:
    def test_a_signed_request_is_served_once_and_by_nobody_else(self, ledger):
        app, paywall = flask_service(ledger)
        client, consumer = app.test_client(), ledger.client(1)
        headers = ledger.pay(consumer, paywall, "0.10", "GET", "/api/quote")
        assert client.get("/api/quote", headers=headers).get_json() == {"price": 42}
        assert client.get("/api/quote", headers=headers).headers["X-AGIRAILS-REPLAY"] == "1"
        assert client.get("/api/quote?other", headers=headers).status_code == 401
        assert consumer.advanced.get_balance() == START - PRICE

    @pytest.mark.parametrize("amount", ["0.04", "abc", "-1", "0.1234567"])
    def test_what_the_protocol_cannot_carry_is_named(self, ledger, amount):
        _, paywall = flask_service(ledger)
        with pytest.raises(ValidationError):
            ledger.pay(ledger.client(1), paywall, amount, "GET", "/api/quote")

    def test_a_consumer_without_the_money_cannot_pay(self, ledger):
        _, paywall = flask_service(ledger)
        with pytest.raises(InsufficientFundsError):
            ledger.pay(ledger.client(1), paywall, "1001", "GET", "/api/quote")

    def test_a_window_of_an_hour_ends_after_an_hour(self, ledger):
        app, paywall = flask_service(ledger)
        headers = ledger.pay(
            ledger.client(1), paywall, "0.10", "GET", "/api/quote", dispute_window=HOUR
        )
        assert app.test_client().get("/api/quote", headers=headers).status_code == 200
        tx_id = headers["X-AGIRAILS-TX-ID"]
        ledger.wait_for_state(tx_id, State.DELIVERED)
        ledger.advance_time(HOUR + 60)
        ledger.wait_for_state(tx_id, State.SETTLED)
        assert ledger.client(0).advanced.get_balance() == START + PRICE - 50_000


class TestWaitForState:
    def test_tells_where_the_transaction_is_instead(self, ledger):
        _, paywall = flask_service(ledger)
        tx_id = ledger.pay(ledger.client(1), paywall, "0.10", "GET", "/api/quote")[
            "X-AGIRAILS-TX-ID"
        ]
        ledger.wait_for_state(tx_id, State.COMMITTED, timeout=0)
        ledger.wait_for_state(tx_id, 2, timeout=0)
        with pytest.raises(TimeoutError, match=f"{tx_id} is COMMITTED .* expected DELIVERED"):
            ledger.wait_for_state(tx_id, State.DELIVERED, timeout=0.05)
        with pytest.raises(TransactionNotFoundError):
            ledger.wait_for_state("0x" + "ab" * 32, State.DELIVERED)


def pytest_run(directory: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options, directory)
    return run_python(*command, cwd=directory, **env)


class TestTheFixture:
    def test_programs_that_name_no_state_find_the_ledger(self, tmp_path):
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["agirails.testing"]\n')
        (tmp_path / "test_it.py").write_text(
            "import os, subprocess, sys\n"
            "from agirails import ACTPClient\n"
            "CODE = 'from agirails import ACTPClient; '\\\n"
            '    \'print(ACTPClient(requester_address="0x" + "ab" * 20).advanced.get_balance())\'\n'
            "def test_it(mock_ledger):\n"
            "    assert not {'ACTP_PRIVATE_KEY', 'ACTP_KEYSTORE_BASE64', 'AGIRAILS_NETWORK',"
            " 'ACTP_KEY_PASSWORD'} & set(os.environ)\n"
            "    own = ACTPClient(requester_address='0x' + 'cd' * 20)\n"
            "    mock_ledger.mint('0x' + 'ab' * 20, 5)\n"
            "    assert own.advanced.get_balance('0x' + 'ab' * 20) == 1_000_000_005\n"
            "    told = subprocess.run([sys.executable, '-c', CODE], capture_output=True, text=True)\n"
            "    assert told.stdout == '1000000005\\n', told.stderr\n"
            "def test_without_it():\n"
            "    assert os.environ['ACTP_MODE'] == 'mainnet'\n"
            "    assert os.environ['ACTP_PRIVATE_KEY'] == 'a secret'\n"
        )
        given = {
            "ACTP_MODE": "mainnet",
            "ACTP_STATE_DIR": "/nowhere",
            "ACTP_PRIVATE_KEY": "a secret",
            "ACTP_KEYSTORE_BASE64": "x",
            "ACTP_KEY_PASSWORD": "x",
            "AGIRAILS_NETWORK": "/nowhere.json",
        }
        done = pytest_run(tmp_path, **given)
        assert "2 passed" in done.stdout, done.stdout + done.stderr

    def test_comes_by_an_import_where_a_conftest_is_not_the_topmost(self, tmp_path):
        below = tmp_path / "below"
        below.mkdir()
        (below / "conftest.py").write_text("from agirails.testing import mock_ledger\n")
        (below / "test_it.py").write_text("def test_it(mock_ledger):\n    mock_ledger.client(1)\n")
        assert "1 passed" in pytest_run(tmp_path).stdout

    def test_is_not_there_unasked(self, tmp_path):
        (tmp_path / "test_it.py").write_text("def test_it(mock_ledger): pass\n")
        assert "fixture 'mock_ledger' not found" in pytest_run(tmp_path).stdout

    def test_each_test_has_its_own_also_in_parallel(self, tmp_path):
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["agirails.testing"]\n')
        (tmp_path / "test_it.py").write_text(
            "import os, pytest\n"
            "@pytest.mark.parametrize('number', range(16))\n"
            "def test_it(mock_ledger, number):\n"
            "    one, other = mock_ledger.client(1), mock_ledger.client(2)\n"
            "    assert other.advanced.get_balance(one.address) == 1_000_000_000\n"
            "    mock_ledger.mint(one.address, number + 1)\n"
            "    mock_ledger.advance_time(86_400 * (number + 1))\n"
            "    assert other.advanced.get_balance(one.address) == 1_000_000_001 + number\n"
            "    with open(os.environ['SEEN'], 'a') as seen:\n"
            "        seen.write(f'{os.getpid()} {mock_ledger.directory}\\n')\n"
        )
        seen = tmp_path / "seen"
        done = pytest_run(tmp_path, "-n", "3", SEEN=str(seen))
        assert "16 passed" in done.stdout, done.stdout + done.stderr
        lines = [line.split(maxsplit=1) for line in seen.read_text().splitlines()]
        assert len({process for process, _ in lines}) > 1
        assert len({directory for _, directory in lines}) == 16

    def test_the_package_does_not_import_pytest(self):
        modules = ["", *(f".{name}" for name in ("testing", "flask", "asgi", "requests", "httpx"))]
        for module in modules:
            script = f"import sys, agirails{module}; print('pytest' in sys.modules)"
            done = run_python("-c", script)
            assert done.stdout == f"{module == '.testing'}\n", (module, done.stderr)

    def test_the_classes_do_without_pytest(self, tmp_path):
        script = (
            "import sys; sys.modules['pytest'] = None; from agirails.testing import MockLedger;"
            " print(MockLedger(sys.argv[1]).client(1).advanced.get_balance())"
        )
        done = run_python("-W", "error", "-c", script, tmp_path / "ledger")
        assert done.stdout == f"{START}\n", done.stderr


class TestTheGuide:
    BLOCKS = dict(
        re.findall(r"^`(\w+\.py)`.*?^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
    )

    def test_its_tests_pass(self, tmp_path):
        assert set(self.BLOCKS) == {"conftest.py", "test_service.py", "test_agent.py"}
        for name, code in self.BLOCKS.items():
            (tmp_path / name).write_text(code)
        tests = sum(code.count("\ndef test_") for code in self.BLOCKS.values())
        done = pytest_run(tmp_path)
        assert tests == 4 and f"{tests} passed" in done.stdout, done.stdout + done.stderr

    def test_its_tests_fail_where_the_service_is_wrong(self, tmp_path):
        for name, code in self.BLOCKS.items():
            code = code.replace(".upper()", "").replace('charge("0.10")', 'charge("0.05")')
            (tmp_path / name).write_text(code)
        done = pytest_run(tmp_path)
        failed = set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.M))
        assert failed == {
            "test_the_provider_is_paid_after_the_window",
            "test_the_agent_pays_what_the_call_costs",
            "test_the_agent_does_not_pay_more_than_it_may",
        }

    def test_it_lists_every_method(self):
        text = GUIDE.read_text()
        methods = [name for name in vars(MockLedger) if not name.startswith("_")]
        missing = [name for name in methods if f"`{name}(" not in text]
        assert methods and missing == []


def test_two_clients_in_memory_share_nothing_and_the_reference_says_where_to_go():
    one, other = (ACTPClient(requester_address="0x" + digit * 40, in_memory=True) for digit in "ab")
    tx_id = one.advanced.create_transaction(
        provider=other.address, amount=PRICE, deadline=one.advanced.now() + HOUR
    )
    with pytest.raises(TransactionNotFoundError):
        other.advanced.get_transaction(tx_id)
    assert "agirails.testing.mock_ledger" in (agirails.ACTPClient.__doc__ or "")
