"""The provider is paid without anybody's help, and its books say what arrived."""

import asyncio
import logging
from datetime import date, datetime, timezone
from decimal import Decimal

import pytest
from paid import Stage
from support import PRICE, until

from agirails import PaymentRecord, State, Usdc, ValidationError

DAY = 86_400
NET = PRICE - 50_000


@pytest.fixture(params=["flask", "fastapi"])
def stage(tmp_path, request):
    return Stage(tmp_path, request.param)


def books(service, name, *arguments, **options):
    """What the paywall's books say, of whichever style it is."""
    answer = getattr(service.paywall, name)(*arguments, **options)
    return answer if service.kind == "flask" else asyncio.run(answer)


def pass_time(stage, days):
    stage.provider.mock.advance_time(days * DAY)


def paid_out(stage):
    """A call that was served, delivered and settled."""
    tx_id = stage.fund()
    assert stage.pay(tx_id).status == 200
    stage.becomes(tx_id, State.DELIVERED)
    pass_time(stage, 3)
    stage.becomes(tx_id, State.SETTLED)
    until(lambda: books(stage, "payments", stage="settled"))
    return tx_id


class TestSettlement:
    def test_the_provider_is_paid_when_the_window_is_over(self, stage, caplog):
        caplog.set_level(logging.INFO, "agirails.paywall")
        before = stage.provider.advanced.get_balance()
        tx_id = paid_out(stage)
        assert stage.provider.advanced.get_balance() == before + NET
        (payment,) = books(stage, "payments")
        assert isinstance(payment, PaymentRecord)
        assert (payment.transaction_id, payment.stage, payment.calls) == (tx_id, "settled", 1)
        assert (payment.amount, payment.spent, payment.fee, payment.net) == (
            PRICE,
            PRICE,
            50_000,
            NET,
        )
        assert str(payment.net) == "0.05"
        assert payment.requester == stage.consumer.address
        assert payment.opened_at <= payment.delivered_at < payment.settle_at < payment.settled_at
        until(lambda: [r for r in caplog.records if getattr(r, "event", None) == "settled"])
        (told,) = [r for r in caplog.records if getattr(r, "event", None) == "settled"]
        assert (told.transaction, told.net) == (tx_id, NET)

    def test_settling_can_be_left_to_others(self, tmp_path):
        stage = Stage(tmp_path, "flask", settle="never")
        tx_id = stage.fund()
        stage.pay(tx_id)
        stage.becomes(tx_id, State.DELIVERED)
        pass_time(stage, 3)
        until(lambda: stage.ask("GET", "/health").json["settlement"]["due"] == 1)
        assert stage.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED
        stage.stranger.advanced.transition_state(tx_id, State.SETTLED)
        until(lambda: books(stage, "payments", stage="settled"))

    def test_what_brings_too_little_waits(self, tmp_path):
        stage = Stage(tmp_path, "flask", settle_min_net="0.06")
        tx_id = stage.fund()
        stage.pay(tx_id)
        stage.becomes(tx_id, State.DELIVERED)
        pass_time(stage, 3)
        until(lambda: stage.ask("GET", "/health").json["settlement"]["notWorthGas"] == 1)
        assert stage.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"settle": "sometimes"}, '"auto" or "never"'),
            ({"settle_min_net": 10_000}, "unit"),
            ({"coin_price": 3000.0}, "unit"),
            ({"settle_collect_seconds": -1}, "settle_collect_seconds"),
        ],
    )
    def test_a_wrong_setting_is_named(self, tmp_path, settings, words):
        with pytest.raises(ValidationError) as caught:
            Stage(tmp_path, "flask", **settings)
        assert words in f"{caught.value} {caught.value.hint}"

    @pytest.mark.parametrize(
        ("settle", "words"), [("auto", "auto-settles once"), ("never", "can be settled once")]
    )
    def test_the_price_page_says_when_the_money_moves(self, tmp_path, settle, words):
        stage = Stage(tmp_path, "flask", settle=settle)
        page = stage.ask("GET", "/api/pricing").json["payment"]
        assert words in page["instructions"][-1]
        assert "dispute window" in page["instructions"][-1]


class TestReports:
    def test_days_routes_and_customers(self, stage):
        paid_out(stage)
        served, paid = books(stage, "report")
        assert (served.calls, served.gross, served.net) == (1, PRICE, 0)
        assert (paid.calls, paid.paid_out, paid.fee, paid.net) == (0, PRICE, 50_000, NET)
        assert isinstance(paid.net, Usdc)
        today = datetime.now(timezone.utc).date()
        assert served.key == today.isoformat()
        assert books(stage, "report", since=today, until=today) == [served]
        assert books(stage, "report", until=datetime(2000, 1, 1, tzinfo=timezone.utc)) == []
        assert books(stage, "report", after=served.key) == [paid]
        (route,) = books(stage, "report", "route")
        assert (route.key, route.gross, route.net) == ("POST /api/generate", PRICE, NET)
        (customer,) = books(stage, "report", by="customer")
        assert customer.key == stage.consumer.address.lower()
        assert (customer.settled, customer.gas_wei, customer.disputed) == (1, 0, 0)

    def test_payments_come_in_pages(self, stage):
        ids = {stage.fund() for _ in range(5)}
        for tx_id in ids:
            stage.pay(tx_id)
        found, after = [], None
        while page := books(stage, "payments", limit=2, after=after):
            assert len(page) <= 2
            found += [payment.transaction_id for payment in page]
            after = found[-1]
        assert set(found) == ids
        assert len(found) == 5
        assert books(stage, "payments", requester=stage.stranger.address) == []

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("payments", {"limit": 0}),
            ("payments", {"limit": 1_001}),
            ("payments", {"stage": "paid"}),
            ("payments", {"requester": "0x12"}),
            ("payments", {"after": "0x12"}),
            ("report", {"by": "month"}),
            ("report", {"since": -1}),
            ("report", {"since": Decimal("1.5")}),
            ("report", {"limit": 0}),
        ],
    )
    def test_what_cannot_be_asked_is_named(self, stage, name, options):
        with pytest.raises(ValidationError) as caught:
            books(stage, name, **options)
        assert caught.value.hint or "must be" in str(caught.value)

    def test_a_time_without_a_zone_is_none(self, stage):
        with pytest.raises(TypeError, match="time zone"):
            books(stage, "report", since=datetime(2026, 1, 1))
        assert books(stage, "report", since=date(2026, 1, 1)) == []
