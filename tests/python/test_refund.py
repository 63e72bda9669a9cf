"""The provider gives a transaction back by its own decision."""

import asyncio

import pytest
from paid import Stage
from support import create, deliver, new_hash

from agirails import (
    InvalidStateTransitionError,
    State,
    TransactionNotFoundError,
    UnauthorizedError,
    ValidationError,
)

DOLLAR = 1_000_000


@pytest.fixture(params=["flask", "fastapi"])
def stage(request, tmp_path):
    return Stage(tmp_path, request.param)


def refund(stage: Stage, tx_id: str) -> str:
    answer = stage.paywall.refund(tx_id)
    return asyncio.run(answer) if stage.kind != "flask" else answer


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_gives_everything_back_whatever_was_served(stage, calls):
    before = stage.consumer.advanced.get_balance()
    tx_id = stage.fund(DOLLAR)
    answers = [stage.pay(tx_id, key=f"call-{number}").body for number in range(calls)]
    assert refund(stage, tx_id) == "returning"
    reply = stage.pay(tx_id, key="one-more")
    assert (reply.status, reply.json["currentState"]) == (402, "CANCELLED")
    stage.becomes(tx_id, State.CANCELLED)
    assert stage.consumer.advanced.get_balance() == before
    assert len(stage.runs) == calls
    # Kept answers are given as before.
    again = [stage.pay(tx_id, key=f"call-{number}").body for number in range(calls)]
    assert again == answers


def test_is_the_same_however_often_it_is_asked_for(stage):
    tx_id = stage.fund(DOLLAR)
    assert refund(stage, tx_id) == "returning"
    assert refund(stage, tx_id) in ("returning", "returned")
    stage.becomes(tx_id, State.CANCELLED)
    while refund(stage, tx_id) != "returned":
        pass
    elsewhere = stage.fund(DOLLAR)
    stage.provider.advanced.transition_state(elsewhere, State.CANCELLED)
    assert refund(stage, elsewhere) == "returned"


def test_gives_back_what_is_bound_to_no_service(stage):
    tx_id = stage.fund(DOLLAR, metadata=None)
    assert stage.pay(tx_id, b"status 500", key="one").status == 500
    assert refund(stage, tx_id) == "returning"
    stage.becomes(tx_id, State.CANCELLED)


def test_refuses_what_cannot_be_given_back(stage):
    delivered = stage.fund()
    assert stage.pay(delivered).status == 200
    with pytest.raises(InvalidStateTransitionError) as refused:
        refund(stage, delivered)
    assert refused.value.transaction_id == delivered
    elsewhere = stage.fund()
    deliver(stage.provider, elsewhere)
    unfunded = create(stage.consumer, stage.provider.address)
    for tx_id in (elsewhere, unfunded):
        with pytest.raises(InvalidStateTransitionError):
            refund(stage, tx_id)
    with pytest.raises(TransactionNotFoundError):
        refund(stage, new_hash())
    with pytest.raises(UnauthorizedError):
        refund(stage, create(stage.consumer, stage.stranger.address))
    with pytest.raises(ValidationError):
        refund(stage, "0x12")
