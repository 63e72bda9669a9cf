"""Nobody has a handler run for nothing without end."""

import sqlite3

import pytest
from paid import Stage
from support import until

from agirails import State

DOLLAR = 1_000_000
TRIES = 200


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path, "flask")


def failing(stage: Stage, tx_id: str, tries: int = TRIES) -> list:
    return [stage.pay(tx_id, b"status 422", key=f"failing-{number}") for number in range(tries)]


def rows(stage: Stage) -> int:
    (file,) = (stage.directory / ".actp").glob("paywall-*.sqlite3")
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as kept:
        return kept.execute("SELECT count(*) FROM calls").fetchone()[0]


def test_a_balance_of_which_nothing_is_served_is_given_back_after_five_failures(stage):
    before = stage.consumer.advanced.get_balance()
    tx_id = stage.fund(DOLLAR)
    statuses = [reply.status for reply in failing(stage, tx_id)]
    assert statuses == [422] * 5 + [402] * (TRIES - 5)
    assert len(stage.runs) == 0
    stage.becomes(tx_id, State.CANCELLED)
    # Whoever fails by mistake has all of it back, and nothing is kept of the failures.
    assert stage.consumer.advanced.get_balance() == before
    until(lambda: rows(stage) == 0)


def test_a_balance_that_paid_for_a_call_rests_longer_with_every_failure(stage):
    tx_id = stage.fund(DOLLAR)
    assert stage.pay(tx_id, key="paid").status == 200
    replies = failing(stage, tx_id)
    served = [reply.status for reply in replies].count(422)
    # Five, and one more for each of the doubled rests that passed meanwhile.
    assert 5 <= served <= 12
    rejected = replies[-1]
    assert (rejected.status, rejected.json["error"]) == (429, "Too Many Failed Calls")
    assert int(rejected.headers["retry-after"]) >= 1
    assert rows(stage) == 1 + served
    # What it paid for is still given, and an answered call begins the count anew.
    assert stage.pay(tx_id, key="paid").headers["x-agirails-replay"] == "1"
    until(lambda: stage.pay(tx_id, key="good").status == 200, seconds=60)
    assert failing(stage, tx_id, 5)[-1].status == 422
    # What ends leaves none of its failures behind.
    assert stage.paywall.close(tx_id) == "delivering"
    stage.becomes(tx_id, State.DELIVERED)
    until(lambda: rows(stage) == 2)
