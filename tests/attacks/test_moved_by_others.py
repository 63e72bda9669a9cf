"""What somebody moves behind the paywall's back is served no longer, and raises no false alarm."""

import logging

import pytest
from paid import TARGET, Stage
from support import deliver, until

from agirails import State

DOLLAR = 1_000_000


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path, "flask")


def alarms(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def stage_of(stage: Stage, tx_id: str) -> str:
    return stage.ask("GET", f"/api/payments/{tx_id}").json["stage"]


def test_a_cancelled_balance_is_served_no_more_and_nothing_is_lost(stage, caplog):
    tx_id = stage.fund(DOLLAR)
    assert stage.pay(tx_id, b"raise", key="failing").status == 500
    caplog.clear()
    stage.provider.advanced.transition_state(tx_id, State.CANCELLED)
    until(lambda: stage_of(stage, tx_id) == "returned")
    reply = stage.pay(tx_id, key="one-more")
    assert (reply.status, reply.json["currentState"]) == (402, "CANCELLED")
    assert stage.ask("GET", "/health").json["lost"] == 0
    assert alarms(caplog) == []


def test_what_was_served_before_the_cancellation_is_told_as_lost(stage, caplog):
    tx_id = stage.fund(DOLLAR)
    first = stage.pay(tx_id, key="paid")
    stage.provider.advanced.transition_state(tx_id, State.CANCELLED)
    until(lambda: stage_of(stage, tx_id) == "lost")
    assert stage.pay(tx_id, key="one-more").status == 402
    assert stage.pay(tx_id, key="paid").body == first.body
    assert len(stage.runs) == 1
    until(lambda: any(tx_id in words for words in alarms(caplog)))


def test_a_balance_that_is_delivered_by_other_hands_is_served_no_more(stage, caplog):
    tx_id = stage.fund(DOLLAR)
    assert stage.pay(tx_id, key="paid").status == 200
    deliver(stage.provider, tx_id)
    until(lambda: stage_of(stage, tx_id) == "delivered")
    assert stage.ask("POST", TARGET, b"{}", **stage.headers(tx_id, key="more")).status == 402
    assert alarms(caplog) == []
