"""Nobody but its requester ends what somebody paid for, also where unsigned calls are served."""

import pytest
from paid import Stage

from agirails import State

DOLLAR = 1_000_000


@pytest.fixture(params=["flask", "fastapi"])
def stage(request, tmp_path):
    return Stage(tmp_path, request.param, unsigned="serve")


@pytest.mark.parametrize("how", ["unsigned", "by a stranger", "with a call's signature"])
def test_a_stranger_closes_no_balance(stage, how):
    tx_id = stage.fund(DOLLAR)
    target = f"/api/payments/{tx_id}/close"
    call = stage.headers(tx_id, key="one")
    assert stage.ask("POST", "/api/generate?x=%41b", b"{}", **call).status == 200
    headers = {
        "unsigned": {},
        "by a stranger": stage.headers(tx_id, target=target, body=b"", by=stage.stranger),
        "with a call's signature": {"X_AGIRAILS_SIGNATURE": call["X_AGIRAILS_SIGNATURE"]},
    }[how]
    assert stage.ask("POST", target, b"", **headers).status == 401
    assert stage.ask("GET", f"/api/payments/{tx_id}").json["stage"] == "open"
    # Its owner's next call is served, and so is its close.
    assert stage.pay(tx_id, key="two").status == 200
    assert stage.pay(tx_id, b"", target=target).status == 202
    stage.becomes(tx_id, State.DELIVERED)


def test_a_stranger_gives_back_nothing_that_was_never_used(stage):
    tx_id = stage.fund(DOLLAR)
    target = f"/api/payments/{tx_id}/close"
    assert stage.ask("POST", target, b"").status == 401
    assert stage.paywall is not None
    assert stage.pay(tx_id, key="one").status == 200
