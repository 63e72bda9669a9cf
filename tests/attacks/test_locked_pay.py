"""A payer does not lock the provider's pay for as long as it likes."""

import pytest
from paid import Stage
from support import DAY, HOUR, until

from agirails import State, ValidationError

DOLLAR = 1_000_000


@pytest.fixture
def make(tmp_path):
    return lambda **settings: Stage(tmp_path, "flask", **settings)


def test_a_long_window_is_rejected_with_the_limit(make):
    stage = make()
    reply = stage.pay(stage.fund(dispute_window=30 * DAY))
    assert (reply.status, reply.json["error"]) == (402, "Dispute Window Too Long")
    assert reply.json["maxWindowSeconds"] == 7 * DAY
    assert stage.pay(stage.fund(dispute_window=7 * DAY)).status == 200
    assert len(stage.runs) == 1


def test_a_far_deadline_is_rejected_with_the_limit(make):
    stage = make()
    now = stage.consumer.advanced.now()
    reply = stage.pay(stage.fund(deadline=now + 364 * DAY))
    assert (reply.status, reply.json["error"]) == (402, "Transaction Deadline Too Far")
    assert reply.json["maxDeadlineSeconds"] == 7 * DAY
    assert stage.pay(stage.fund(deadline=now + 7 * DAY)).status == 200
    assert len(stage.runs) == 1


def test_the_limits_are_settings_and_offers_say_them(make):
    stage = make(max_window_seconds=HOUR, max_deadline_seconds=2 * HOUR, idle_close_seconds=HOUR)
    extra = stage.ask("POST", "/api/generate").json["accepts"][0]["extra"]
    limits = ("maxWindowSeconds", "maxDeadlineSeconds", "idleCloseSeconds", "disputeWindowSeconds")
    assert [extra[name] for name in limits] == [HOUR, 2 * HOUR, HOUR, HOUR]
    assert stage.pay(stage.fund(dispute_window=2 * HOUR)).status == 402
    now = stage.consumer.advanced.now()
    assert stage.pay(stage.fund(deadline=now + 3 * HOUR)).status == 402


def test_an_idle_balance_is_delivered_long_before_its_deadline(make):
    stage = make()
    used, unused = stage.fund(DOLLAR, deadline=far(stage)), stage.fund(DOLLAR, deadline=far(stage))
    assert stage.pay(used, key="one").status == 200
    assert stage.pay(unused, b"raise", key="one").status == 500
    stage.provider.mock.advance_time(DAY - 60)
    assert stage.pay(used, key="two").status == 200
    stage.provider.mock.advance_time(120)
    assert stage.pay(used, key="three").status == 200
    stage.provider.mock.advance_time(DAY + 1)
    stage.becomes(used, State.DELIVERED)
    # What was never served locks nobody's pay.
    assert stage.ask("GET", f"/api/payments/{unused}").json["stage"] == "open"


def far(stage: Stage) -> int:
    return stage.consumer.advanced.now() + 7 * DAY


@pytest.mark.parametrize(
    "setting",
    [
        {"max_window_seconds": 3_599},
        {"max_deadline_seconds": 120},
        {"idle_close_seconds": HOUR - 1},
    ],
)
def test_limits_that_no_transaction_could_meet_are_refused(make, setting):
    with pytest.raises(ValidationError) as refused:
        make(**setting)
    assert refused.value.field == next(iter(setting))


def test_what_is_known_is_served_on(make):
    stage = make()
    tx_id = stage.fund(DOLLAR, dispute_window=7 * DAY)
    assert stage.pay(tx_id, key="one").status == 200
    stricter = make(max_window_seconds=HOUR)
    stricter.consumer, stricter.provider = stage.consumer, stage.provider
    until(lambda: stage.pay(tx_id, key="two").status == 200)
