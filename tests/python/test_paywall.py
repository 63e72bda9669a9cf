"""What a paywall promises, through every adapter: Flask, FastAPI, and any ASGI application."""

import asyncio
import contextlib
import logging
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from paid import MAKERS, SECRET, TARGET, Stage, ask_wsgi
from support import (
    HERE,
    PRICE,
    USDC,
    create,
    deliver,
    fund,
    new_address,
    new_hash,
    run_python,
    until,
    write_lock,
)
from test_bad_input import in_own_mounts

from agirails import ACTPClient, State, ValidationError, usdc_base_units
from agirails.asgi import Paywall as AsgiPaywall
from agirails.flask import Paywall as FlaskPaywall
from agirails.testing import Devnet

ADAPTERS = tuple(MAKERS)


@pytest.fixture(params=ADAPTERS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(tmp_path, request.param)


@pytest.fixture(params=ADAPTERS)
def make(request: pytest.FixtureRequest, tmp_path: Path):
    """A stage with settings."""
    return lambda **settings: Stage(tmp_path, request.param, **settings)


def refusal(reply, status: int, error: str, **facts: str) -> dict:
    """Checks a refusal's form, and that it says nothing of the inside."""
    assert (reply.status, reply.json["error"]) == (status, error), reply
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["cache-control"] == "no-store"
    problem = reply.json
    assert problem["title"] == problem["error"] and problem["detail"] == problem["message"]
    assert problem["status"] == status and problem["requestId"]
    assert {name: problem[name] for name in facts} == facts
    assert ("accepts" in problem) == ("payment-required" in reply.headers)
    text = reply.body.decode()
    for inside in (SECRET, "sqlite", "Traceback", ".py", ".rs", "/work", "/tmp", "panicked"):
        assert inside not in text
    return problem


class TestACall:
    def test_is_served_kept_and_delivered(self, stage):
        tx_id = stage.fund()
        first = stage.pay(tx_id)
        assert first.status == 200, first
        assert first.headers["x-agirails-tx-id"] == tx_id
        assert first.receipt["txId"] == tx_id and first.receipt["signature"]
        stage.becomes(tx_id, State.DELIVERED)
        proof = stage.consumer.advanced.get_delivery_proof(tx_id)
        assert proof["contentHash"] == first.receipt["contentHash"]
        again = stage.pay(tx_id)
        assert again.body == first.body
        assert again.headers == {**first.headers, "x-agirails-replay": "1"}
        assert len(stage.runs) == 1

    def test_shows_its_payment_to_the_handler(self, stage):
        tx_id = stage.fund(2 * PRICE)
        seen = stage.pay(tx_id, b"hello").json
        deadline = stage.consumer.advanced.get_transaction(tx_id).deadline
        key = seen.pop("idempotencyKey")
        assert len(key) == 32
        assert seen == {
            "body": "hello",
            "attempt": 1,
            "txId": tx_id,
            "requester": stage.consumer.address,
            "price": 2 * PRICE,
            "amount": 2 * PRICE,
            "deadline": deadline,
            "callKey": None,
        }
        (payment,) = stage.runs
        assert payment.requester == str(stage.consumer.address).lower()
        assert repr(payment) == f"<CallPayment 0.20 USDC of transaction {tx_id}>"

    def test_that_raises_takes_nothing_and_may_be_repeated(self, stage):
        tx_id = stage.fund()
        # Flask answers what a view raises; from an ASGI application it reaches the server.
        raised = pytest.raises(ValueError, match=SECRET)
        with contextlib.nullcontext() if stage.kind == "flask" else raised:
            assert stage.pay(tx_id, b"raise once").status == 500
        assert stage.consumer.advanced.get_transaction(tx_id).state is State.COMMITTED
        reply = stage.pay(tx_id, b"raise once")
        assert (reply.status, reply.json["attempt"]) == (200, 2)
        first, second = stage.runs
        assert first.idempotency_key == second.idempotency_key
        stage.becomes(tx_id, State.DELIVERED)

    @pytest.mark.parametrize("body", [b"status 404", b"status 302", b"abort 418", b"abort 503"])
    def test_that_is_no_success_goes_out_as_it_is_and_takes_nothing(self, stage, body):
        tx_id = stage.fund()
        for _ in range(2):
            reply = stage.pay(tx_id, body)
            assert reply.status == int(body.split()[1])
            assert "x-agirails-receipt" not in reply.headers
        assert stage.paywall._core.max_body_bytes == 16 << 20
        assert stage.consumer.advanced.get_transaction(tx_id).state is State.COMMITTED

    def test_that_failed_five_times_is_given_back(self, stage):
        tx_id = stage.fund()
        for _ in range(5):
            stage.pay(tx_id, b"status 500")
        stage.becomes(tx_id, State.CANCELLED)

    def test_may_answer_nothing(self, stage):
        tx_id = stage.fund()
        first, again = stage.pay(tx_id, b"status 204"), stage.pay(tx_id, b"status 204")
        assert first.status == again.status == 204
        assert again.headers["x-agirails-replay"] == "1"
        stage.becomes(tx_id, State.DELIVERED)

    def test_with_a_body_of_many_pieces_is_one_call(self, stage):
        tx_id = stage.fund()
        headers = stage.headers(tx_id, body=b"abc")
        assert stage.ask("POST", TARGET, [b"a", b"b", b"c"], **headers).json["body"] == "abc"
        assert stage.ask("POST", TARGET, b"abc", **headers).headers["x-agirails-replay"] == "1"

    def test_leaves_when_it_is_delivered_where_that_is_wanted(self, make):
        stage = make(deliver="confirmed")
        tx_id = stage.fund()
        assert stage.pay(tx_id).status == 200
        assert stage.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED

    def test_outside_of_one_there_is_no_payment(self, stage):
        with pytest.raises(RuntimeError, match="no paid call is being served"):
            stage.paywall.payment  # noqa: B018
        assert stage.ask("GET", "/free").json == {"free": True}


class TestRefusals:
    def test_no_transaction(self, stage):
        problem = refusal(stage.ask("POST", TARGET, b"{}"), 402, "Payment Required")
        single, prepaid = problem["accepts"]
        assert (single["amount"], single["payTo"]) == (str(PRICE), stage.provider.address)
        assert prepaid["extra"]["calls"] == 10

    @pytest.mark.parametrize(
        "given", ["x", "0x12", "0x" + "g" * 64, "1" * 66, "0x" + "1" * 10_000_000]
    )
    def test_malformed_id(self, stage, given):
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=given)
        refusal(reply, 400, "Invalid Transaction Id")
        assert len(reply.body) < 1_000

    def test_unknown_id(self, stage):
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=new_hash())
        refusal(reply, 402, "Transaction Not Found")

    def test_another_providers(self, stage):
        tx_id = stage.fund()
        other = Stage(stage.directory, stage.kind)
        reply = other.ask("POST", TARGET, X_AGIRAILS_TX_ID=tx_id)
        refusal(reply, 403, "Invalid Transaction")

    @pytest.mark.parametrize("state", ["INITIATED", "DELIVERED", "SETTLED", "CANCELLED"])
    def test_wrong_state(self, stage, state):
        tx_id = create(stage.consumer, stage.provider.address)
        if state != "INITIATED":
            stage.consumer.advanced.link_escrow(tx_id)
        if state in ("DELIVERED", "SETTLED"):
            deliver(stage.provider, tx_id)
        if state == "SETTLED":
            stage.consumer.advanced.transition_state(tx_id, State.SETTLED)
        if state == "CANCELLED":
            stage.provider.advanced.transition_state(tx_id, State.CANCELLED)
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=tx_id)
        refusal(reply, 402, "Invalid Transaction State", currentState=state)

    def test_too_little(self, stage):
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=stage.fund(PRICE // 2))
        refusal(reply, 402, "Insufficient Payment", provided="0.05", required="0.10")

    def test_too_late(self, stage):
        now = stage.consumer.advanced.now()
        soon, later = (stage.fund(deadline=now + seconds) for seconds in (100, 200))
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=soon)
        refusal(reply, 402, "Transaction Expires Too Soon")
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=later)
        assert reply.status == 200
        stage.provider.mock.advance_time(101)
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=soon)
        refusal(reply, 402, "Transaction Expired")
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=later)
        assert reply.headers["x-agirails-replay"] == "1"

    def test_unsigned_where_that_is_refused(self, make):
        stage = make(unsigned="refuse")
        tx_id = stage.fund()
        problem = refusal(
            stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=tx_id), 401, "Signature Required"
        )
        assert "X-AGIRAILS-SIGNATURE" in problem["detail"]
        assert stage.pay(tx_id).status == 200

    def test_signed_for_another_request_or_by_another_or_long_ago(self, stage):
        tx_id = stage.fund()
        now = int(time.time())
        for wrong in (
            {"by": stage.stranger},
            {"body": b"[]"},
            {"target": "/api/generate"},
            # The canonical form is signed: an escape of a plain letter makes no difference.
            {"target": "/api/generate?x=Ac"},
            {"method": "PUT"},
        ):
            reply = stage.ask("POST", TARGET, b"{}", **stage.headers(tx_id, **wrong))
            refusal(reply, 401, "Invalid Signature")
        for wrong_time in (now - 400, now + 400):
            headers = stage.headers(tx_id, timestamp=wrong_time)
            refusal(stage.ask("POST", TARGET, b"{}", **headers), 401, "Signature Expired")
        headers = {**stage.headers(tx_id), "X_AGIRAILS_SIGNATURE": "t=1,s=0x00"}
        refusal(stage.ask("POST", TARGET, b"{}", **headers), 400, "Invalid Signature Header")
        assert stage.runs == []

    def test_dearer_than_the_request_allows(self, stage):
        tx_id = stage.fund(USDC)
        paid = stage.headers(tx_id, key="a")
        reply = stage.ask("POST", TARGET, b"{}", **paid, X_AGIRAILS_MAX_PRICE=str(PRICE - 1))
        told = refusal(reply, 402, "Price Above Maximum", allowed="0.099999", required="0.10")
        assert told["accepts"]
        for malformed in ("", "1.5", "0x1", f"{PRICE}, {PRICE}"):
            reply = stage.ask("POST", TARGET, b"{}", **paid, X_AGIRAILS_MAX_PRICE=malformed)
            refusal(reply, 400, "Invalid Max Price")
        assert not stage.runs
        reply = stage.ask("POST", TARGET, b"{}", **paid, X_AGIRAILS_MAX_PRICE=str(PRICE))
        assert reply.status == 200

    def test_malformed_key(self, stage):
        tx_id = stage.fund()
        for key in ("a b", "x" * 256, "ü"):
            reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID=tx_id, Idempotency_Key=key)
            refusal(reply, 400, "Invalid Idempotency Key")

    def test_another_request_with_the_same_transaction(self, stage):
        tx_id = stage.fund()
        assert stage.pay(tx_id).status == 200
        refusal(stage.pay(tx_id, b"other"), 409, "Transaction Already Used")
        refusal(stage.pay(tx_id, target="/api/generate"), 409, "Transaction Already Used")
        assert len(stage.runs) == 1

    def test_a_body_that_breaks_off(self, stage):
        tx_id = stage.fund()
        reply = stage.ask("POST", TARGET, [b"{", None], X_AGIRAILS_TX_ID=tx_id)
        refusal(reply, 400, "Body Unreadable")
        assert stage.pay(tx_id).status == 200

    def test_a_body_that_is_too_long(self, make):
        stage = make(max_body_bytes=10)
        tx_id = stage.fund()
        for body in (b"x" * 11, b"x" * 1_000_000, [b"x" * 6, b"x" * 6]):
            reply = stage.ask("POST", TARGET, body, X_AGIRAILS_TX_ID=tx_id)
            refusal(reply, 413, "Body Too Large")
        assert stage.pay(tx_id, b"x" * 10).status == 200

    def test_a_store_that_another_process_holds_is_waited_for(self, stage):
        tx_id = stage.fund()
        (file,) = Path(stage.directory, ".actp").glob("paywall-*.sqlite3")
        headers = stage.headers(tx_id)
        with write_lock(str(file)):
            replies: list = []
            asking = threading.Thread(
                target=lambda: replies.append(stage.ask("POST", TARGET, b"{}", **headers))
            )
            asking.start()
            time.sleep(1)
            assert replies == []
        asking.join(30)
        assert [reply.status for reply in replies] == [200]


class TestStreams:
    def test_are_hashed_as_they_pass_and_delivered_at_their_end(self, stage):
        tx_id, target = stage.fund(), "/api/stream/5"
        first = stage.pay(tx_id, b"", "GET", target)
        assert first.status == 200 and first.body == b"".join(b"%9d\n" % n for n in range(5))
        assert first.headers["x-agirails-tx-id"] == tx_id
        assert "x-agirails-receipt" not in first.headers
        again = stage.pay(tx_id, b"", "GET", target)
        assert again.body == first.body and again.headers["x-agirails-replay"] == "1"
        stage.becomes(tx_id, State.DELIVERED)
        proof = stage.consumer.advanced.get_delivery_proof(tx_id)
        assert proof["contentHash"] == again.receipt["contentHash"]
        page = stage.ask("GET", f"/api/payments/{tx_id}/receipts/-").json
        assert page["receipt"] == again.receipt
        assert len(stage.runs) == 1

    def test_beyond_the_limit_are_not_kept_and_delivered_all_the_same(self, make):
        stage = make(max_kept_stream_bytes=100)
        long, short = (stage.fund() for _ in range(2))
        assert len(stage.pay(long, b"", "GET", "/api/stream/11").body) == 110
        refusal(stage.pay(long, b"", "GET", "/api/stream/11"), 410, "Answer Not Kept")
        stage.becomes(long, State.DELIVERED)
        assert len(stage.pay(short, b"", "GET", "/api/stream/10").body) == 100
        assert stage.pay(short, b"", "GET", "/api/stream/10").status == 200

    def test_that_break_off_take_nothing(self, stage):
        tx_id = stage.fund()
        with pytest.raises(ValueError, match=SECRET):
            stage.pay(tx_id, b"", "GET", "/api/stream/2?raise")
        with pytest.raises(ValueError, match=SECRET):
            stage.pay(tx_id, b"", "GET", "/api/stream/2?raise")
        assert [payment.attempt for payment in stage.runs] == [1, 2]
        assert stage.consumer.advanced.get_transaction(tx_id).state is State.COMMITTED

    def test_that_are_no_success_take_nothing(self, stage):
        tx_id = stage.fund()
        for _ in range(2):
            reply = stage.pay(tx_id, b"", "GET", "/api/stream/2?broken")
            assert (reply.status, len(reply.body)) == (500, 20)
        assert [payment.attempt for payment in stage.runs] == [1, 2]


class TestBundles:
    def test_are_drawn_down_call_by_call(self, stage):
        tx_id = stage.fund(PRICE)
        bodies = []
        for number in range(5):
            reply = stage.pay(tx_id, b"", target="/api/cheap", key=f"call-{number}")
            assert (reply.status, reply.receipt["index"]) == (200, number)
            assert (reply.json["price"], reply.json["callKey"]) == (20_000, f"call-{number}")
            bodies.append(reply.body)
        again = stage.pay(tx_id, b"", target="/api/cheap", key="call-3")
        assert again.body == bodies[3] and again.headers["x-agirails-replay"] == "1"
        stage.becomes(tx_id, State.DELIVERED)
        receipt = stage.ask("GET", f"/api/payments/{tx_id}/receipts/call-3").json
        assert receipt["branch"] and receipt["receipt"] == again.receipt
        proof = stage.consumer.advanced.get_delivery_proof(tx_id)
        assert receipt["root"] == proof["contentHash"]

    def test_need_a_key_and_a_balance(self, stage):
        tx_id = stage.fund(PRICE)
        reply = stage.pay(tx_id, target="/api/cheap")
        refusal(reply, 400, "Idempotency Key Required")
        small = stage.fund(PRICE // 2)
        reply = stage.pay(small, target="/api/cheap", key="1")
        refusal(reply, 402, "Insufficient Payment", required="0.10")
        problem = refusal(stage.ask("POST", "/api/cheap"), 402, "Payment Required")
        (offer,) = problem["accepts"]
        assert (offer["amount"], offer["extra"]["kind"]) == (str(PRICE), "prepaid")

    def test_are_closed_by_who_paid(self, stage):
        tx_id = stage.fund(PRICE)
        assert stage.pay(tx_id, target="/api/cheap", key="1").status == 200
        target = f"/api/payments/{tx_id}/close"
        wrong = stage.headers(tx_id, "POST", target, b"", by=stage.stranger)
        refusal(stage.ask("POST", target, **wrong), 401, "Invalid Signature")
        headers = stage.headers(tx_id, "POST", target, b"")
        reply = stage.ask("POST", target, **headers)
        assert (reply.status, reply.json["stage"]) == (202, "delivering")
        stage.becomes(tx_id, State.DELIVERED)


@pytest.mark.parametrize("path", ["/api/priced", "/api/priced/async"])
class TestPriceFunctions:
    def test_price_each_request(self, stage, path):
        problem = refusal(stage.ask("GET", f"{path}?0.50"), 402, "Payment Required")
        assert problem["accepts"][0]["amount"] == str(USDC // 2)
        tx_id = stage.fund(USDC // 2)
        reply = stage.pay(tx_id, b"", "GET", f"{path}?0.70")
        refusal(reply, 402, "Insufficient Payment", required="0.70")
        assert stage.pay(tx_id, b"", "GET", f"{path}?0.50").status == 200

    @pytest.mark.parametrize("query", ["raise", "none", "float", "-1", "cheap"])
    def test_that_fail_are_told_to_the_operator_alone(self, stage, path, query, caplog):
        tx_id = stage.fund()
        reply = stage.pay(tx_id, b"", "GET", f"{path}?{query}")
        refusal(reply, 500, "No Price")
        if query == "raise":
            (record,) = (record for record in caplog.records if record.exc_info)
            assert SECRET in str(record.exc_info[1])
        assert stage.runs == []


class TestFreeRoutes:
    def test_name_the_prices_before_anybody_asked(self, stage):
        page = stage.ask("GET", "/api/pricing").json
        assert page["provider"] == stage.provider.address
        assert (page["network"], page["mode"]) == ("mock", "mock")
        prices = {route["route"]: route["price"] for route in page["routes"]}
        stream = {"flask": "<int:pieces>"}.get(stage.kind, "{pieces}")
        assert prices == {
            "POST /api/generate": "0.10 USDC",
            f"GET /api/stream/{stream}": "0.10 USDC",
            "POST /api/cheap": "0.02 USDC",
            "GET /api/priced": None,
            "GET /api/priced/async": None,
        }

    def test_count_and_tell_how_things_are(self, stage):
        tx_id = stage.fund()
        stage.ask("POST", TARGET)
        assert stage.pay(tx_id).status == 200
        health = stage.ask("GET", "/health")
        assert (health.status, health.json["status"]) == (200, "ok")
        metrics = stage.ask("GET", "/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = metrics.body.decode()
        assert 'agirails_paywall_calls_total{route="POST /api/generate"} 1' in text
        assert 'rejections_total{route="POST /api/generate",reason="payment_required"} 1' in text
        page = stage.ask("GET", f"/api/payments/{tx_id}").json
        assert (page["txId"], page["calls"], page["spent"]) == (tx_id, 1, "0.10 USDC")
        refusal(stage.ask("GET", f"/api/payments/{new_hash()}"), 404, "Not Found")
        refusal(stage.ask("GET", "/api/payments/x"), 400, "Invalid Transaction Id")

    def test_are_not_there_where_nobody_wants_them(self, make):
        stage = make(free_routes=False)
        for path in ("/api/pricing", "/health", "/metrics", f"/api/payments/{new_hash()}"):
            assert stage.ask("GET", path).status == 404
        assert stage.pay(stage.fund()).status == 200


class TestTheLog:
    def test_has_every_refusal_with_its_request_id(self, stage, caplog):
        caplog.set_level(logging.INFO, "agirails.paywall")
        reply = stage.ask("POST", TARGET, X_AGIRAILS_TX_ID="nonsense")
        # What becomes of earlier payments is told too, when it happens.
        told = [record for record in caplog.records if record.name == "agirails.paywall"]
        (record,) = (record for record in told if record.getMessage().startswith("POST"))
        assert record.levelno == logging.INFO
        assert record.request_id == reply.json["requestId"]
        assert reply.json["requestId"] in record.getMessage()
        assert "invalid_transaction_id" in record.getMessage()

    def test_has_failed_runs_and_a_warning_of_unsigned_requests(self, stage, caplog):
        caplog.set_level(logging.INFO, "agirails.paywall")
        tx_id = stage.fund()
        stage.ask("POST", TARGET, b"status 500", X_AGIRAILS_TX_ID=tx_id)
        told = {record.levelname: record.getMessage() for record in caplog.records[-2:]}
        messages = [record.getMessage() for record in caplog.records]
        assert any("unsigned request was served" in message for message in messages), messages
        assert any("can be used again" in m for m in messages), told
        failed = [r for r in caplog.records if getattr(r, "event", None) == "run_failed"]
        assert [record.transaction for record in failed] == [tx_id]

    def test_has_what_the_outbox_has_to_say_while_nobody_calls(self, make, caplog):
        caplog.set_level(logging.INFO, "agirails.paywall")
        stage = make()
        soon = stage.fund(deadline=stage.consumer.advanced.now() + 65)
        stage.provider.mock.advance_time(10)
        until(lambda: any(f"{soon} was never used" in r.getMessage() for r in caplog.records))


class TestSettings:
    def test_a_paywall_needs_a_client(self, tmp_path):
        for Paywall in (AsgiPaywall, FlaskPaywall):
            with pytest.raises(TypeError, match="needs the provider's client"):
                Paywall()
            with pytest.raises(TypeError, match="not str"):
                Paywall("0x00")

    @pytest.mark.parametrize(
        ("settings", "field"),
        [
            ({"unsigned": "maybe"}, "unsigned"),
            ({"deliver": True}, "deliver"),
            ({"min_seconds_left": 30}, "min_seconds_left"),
            ({"closing_seconds": 0}, "closing_seconds"),
            ({"lease_seconds": 0.5}, "lease_seconds"),
            ({"wait_seconds": "1"}, "wait_seconds"),
            ({"give_up_after": 0}, "give_up_after"),
            ({"max_body_bytes": -1}, "max_body_bytes"),
            ({"survive_power_cut": 1}, "survive_power_cut"),
            ({"store": "mysql://root:hunter2@host/db"}, "store"),
            ({"store": 7}, "store"),
            ({"former_clients": ["0x00"]}, "former_clients"),
        ],
    )
    def test_that_cannot_be_are_refused_by_name(self, make, settings, field):
        with pytest.raises(ValidationError) as raised:
            make(**settings)
        assert raised.value.field == field
        assert raised.value.hint or raised.value.code == "invalid_number"
        assert "hunter2" not in str(raised.value)

    def test_that_are_none_are_the_defaults(self, make):
        stage = make(store=None, unsigned=None, wait_seconds=None, keep_days=None)
        assert stage.pay(stage.fund()).status == 200

    def test_that_there_are_not_are_type_errors(self, make):
        with pytest.raises(TypeError, match="min_second_left"):
            make(min_second_left=3)

    def test_all_of_them_at_once(self, make, tmp_path):
        stage = make(
            store=tmp_path / "elsewhere",
            unsigned="serve",
            deliver="outbox",
            min_seconds_left=300,
            closing_seconds=100,
            lease_seconds=5,
            wait_seconds=1.5,
            confirm_wait_seconds=2,
            give_up_after=2,
            max_body_bytes=1_000,
            max_kept_stream_bytes=1_000,
            keep_days=3,
            give_back_unclaimed=False,
            survive_power_cut=True,
        )
        assert stage.pay(stage.fund()).status == 200
        assert list(Path(tmp_path, "elsewhere", ".actp").glob("paywall-*.sqlite3"))

    @pytest.mark.parametrize("price", [0.1, True, "0", 0, "-1", "0.0000001", "free", b"0.10", ()])
    def test_a_price_that_is_none_is_refused_where_it_stands(self, stage, price):
        with pytest.raises(ValidationError) as raised:
            stage.paywall.charge(price)
        assert raised.value.field in ("price", "amount")

    def test_prices_are_text_decimals_or_base_units(self, stage):
        for price in ("0.10", Decimal("0.1"), Decimal("1E-1"), usdc_base_units(100_000)):
            stage.paywall.charge(price)
        with pytest.raises(TypeError, match="needs a price"):
            stage.paywall.charge(None)
        for wrong in ({"calls": 0}, {"calls": -1}, {"min_seconds_left": 60}, {"deliver": "now"}):
            with pytest.raises(ValidationError):
                stage.paywall.charge("0.10", **wrong)
        with pytest.raises(ValidationError):
            stage.paywall.charge("0.0001", calls=10)

    def test_the_awaitable_client_does_as_well(self, tmp_path):
        for number, kind in enumerate(ADAPTERS):
            directory = tmp_path / str(number)
            stage = Stage(directory, kind)
            stage.runs.clear()
            client = asyncio.run(
                ACTPClient.create(requester_address=new_address(), state_directory=directory)
            )
            stage.app, stage.paywall = MAKERS[kind](client, stage.runs)
            stage.provider = client
            assert stage.pay(stage.fund()).status == 200
            assert str(client.address) in repr(stage.paywall)


def test_what_was_paid_to_a_former_key_is_served_and_delivered_under_it(tmp_path):
    for number, kind in enumerate(ADAPTERS):
        stage = Stage(tmp_path / str(number), kind)
        old, tx_id = stage.provider, stage.fund()
        stage.provider = stage.client()
        stage.app, stage.paywall = MAKERS[kind](
            stage.provider, stage.runs, former_clients=[old], one_store=False
        )
        # An offer names the new key, and so is bound to the new key's service.
        offered = stage.ask("POST", TARGET, b"{}")
        assert offered.status == 402 and str(stage.provider.address) in offered.body.decode()
        assert str(old.address) not in offered.body.decode()
        first, second = stage.pay(tx_id), stage.pay(stage.fund())
        assert (first.status, second.status) == (200, 200)
        assert first.receipt["provider"] == old.address
        assert second.receipt["provider"] == stage.provider.address
        health = stage.ask("GET", "/health").json
        assert [former["provider"] for former in health["formerKeys"]] == [old.address]
        stage.becomes(tx_id, State.DELIVERED)


def test_a_full_disk_serves_nothing_and_says_so(tmp_path):
    said = in_own_mounts(tmp_path, "size=6m", "paywall_on_a_full_disk")
    assert said["error"] == "Store Unavailable"
    assert said["logged"] and not said["leaked"]
    assert said["after"] == 200
    # The last handler may have run before its answer found no room.
    assert said["served"] <= said["runs"] <= said["served"] + 1


def test_a_kernel_out_of_reach_is_503_and_nothing_is_claimed(tmp_path):
    with Devnet() as net:
        provider = net.client(1, state_directory=tmp_path)
        runs: list = []
        app, paywall = MAKERS["flask"](provider, runs)
        tx_id = fund(net.client(0), provider.address, deadline=net.now() + 3_600)
        headers = {"X-AGIRAILS-TX-ID": tx_id}
        url = net.rpc_url
    reply = ask_wsgi(app, "POST", TARGET, headers, b"{}")
    problem = refusal(reply, 503, "Payment Verification Failed")
    assert url not in reply.body.decode() and problem["retryAfter"]
    assert reply.headers["retry-after"]
    assert (runs, paywall.owed()) == ([], 0)
    assert ask_wsgi(app, "GET", f"/api/payments/{tx_id}", {}, b"").status == 404


def test_an_interpreter_that_exits_takes_nothing_along_and_tells_what_came_up_last(tmp_path):
    script = (
        "import logging, sys; sys.path.insert(0, sys.argv[1]); logging.basicConfig(level=20);"
        "from pathlib import Path; from paid import Stage, TARGET;"
        "stage = Stage(Path(sys.argv[2]), 'flask');"
        "assert stage.pay(stage.fund()).status == 200;"
        "charge = stage.paywall._core.charge('GET /', '0.10', None, None, None);"
        "stage.paywall._core.exchange(charge, 'GET', '/', []).unreadable(); print('done')"
    )
    for _ in range(5):
        done = run_python("-W", "error", "-c", script, HERE, tmp_path)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        assert "GET /: body_unreadable [request " in done.stderr
