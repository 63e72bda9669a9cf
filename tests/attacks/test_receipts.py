"""The receipt of a call, which anybody may ask for: it costs one row and its way to the root, however many
calls its payment paid for."""

from pathlib import Path
from typing import Any

import pytest
from paid import Stage
from support import paywall_file, sql, until

CALLS = 70
TARGET = "/api/cheap"


def receipt(stage: Stage, tx_id: str, key: str) -> Any:
    reply = stage.ask("GET", f"/api/payments/{tx_id}/receipts/{key}")
    assert reply.status == 200, reply
    return reply.json


def forget_all_but(directory: Path, key: str) -> int:
    """Takes every other call out of the store: whoever reads one of them notices."""
    return sql(paywall_file(directory), f"DELETE FROM calls WHERE key != '{key}'")[0]


@pytest.mark.parametrize("closed", [True, False])
def test_a_receipt_reads_no_other_call(tmp_path: Path, closed: bool):
    stage = Stage(tmp_path, "flask")
    tx_id = stage.fund(2_000_000)
    for number in range(CALLS):
        assert stage.pay(tx_id, key=f"k{number}", target=TARGET).status == 200
    if closed:
        stage.paywall.close(tx_id)
        until(lambda: stage.ask("GET", f"/api/payments/{tx_id}").json["stage"] == "delivered")
    before = receipt(stage, tx_id, "k66")
    assert forget_all_but(tmp_path, "k66") == CALLS - 1
    assert receipt(stage, tx_id, "k66") == before
    # Of 70, 35, 18, 9, 5, 3 and 2 nodes: no neighbour where it is an odd last one.
    assert (len(before["branch"]) if closed else before["branch"]) == (4 if closed else None)
    assert (before["root"] is not None) is closed


def test_a_payment_that_an_earlier_version_closed_gets_its_tree_once(tmp_path: Path):
    stage = Stage(tmp_path, "flask")
    tx_id = stage.fund(2_000_000)
    for number in range(5):
        assert stage.pay(tx_id, key=f"k{number}", target=TARGET).status == 200
    stage.paywall.close(tx_id)
    until(lambda: stage.ask("GET", f"/api/payments/{tx_id}").json["stage"] == "delivered")
    before = receipt(stage, tx_id, "k4")
    assert sql(paywall_file(tmp_path), "DELETE FROM trees")[0] > 0
    assert receipt(stage, tx_id, "k4") == before
    assert forget_all_but(tmp_path, "k4") == 4
    assert receipt(stage, tx_id, "k4") == before
