"""Two providers whose addresses begin alike: neither serves, delivers or refunds what is the other's."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from paid import MAKERS, ask_wsgi
from support import fund, new_key, paywall_file, sql, until

from agirails import ACTPClient, State

# Alike in all but the last byte.
ALIKE = ["0x" + "00" * 19 + "a1", "0x" + "00" * 19 + "b2"]
TARGET = "/api/cheap"


def test_neighbours_in_an_address_share_no_payment(tmp_path: Path, caplog: Any):
    caplog.set_level(logging.INFO, "agirails.paywall")
    consumer = ACTPClient(private_key=new_key(), state_directory=tmp_path)
    runs: dict[str, list[Any]] = {address: [] for address in ALIKE}
    apps = {}
    for address in ALIKE:
        client = ACTPClient(requester_address=address, state_directory=tmp_path)
        apps[address] = MAKERS["flask"](client, runs[address], unsigned="serve")
    files = {path.name for path in (tmp_path / ".actp").glob("paywall-*.sqlite3")}
    assert len(files) == 2, files

    victim, other = ALIKE
    tx_id = fund(consumer, victim, 1_000_000)

    def call(address: str, key: str):
        headers = {"X-AGIRAILS-TX-ID": tx_id, "Idempotency-Key": key}
        return ask_wsgi(apps[address][0], "POST", TARGET, headers, b"{}")

    assert call(victim, "1").status == 200
    # The neighbour neither serves it, nor has a row of it, nor takes part in its end.
    stolen = call(other, "2")
    assert (stolen.status, runs[other]) == (403, [])
    assert apps[other][1].close(tx_id) is None
    assert apps[other][1].owed() == 0
    assert call(victim, "3").status == 200
    apps[victim][1].close(tx_id)
    until(lambda: consumer.advanced.get_transaction(tx_id).state is State.DELIVERED)
    # For as long as the neighbour's outbox would have come to it.
    time.sleep(0.6)
    assert consumer.advanced.get_transaction(tx_id).state is State.DELIVERED
    assert "Only provider" not in caplog.text


def test_a_payment_of_another_provider_in_the_same_file_is_refused(tmp_path: Path):
    consumer = ACTPClient(private_key=new_key(), state_directory=tmp_path)
    client = ACTPClient(requester_address=ALIKE[0], state_directory=tmp_path)
    app, paywall = MAKERS["flask"](client, [], unsigned="serve")
    tx_id = fund(consumer, ALIKE[0], 1_000_000)
    headers = {"X-AGIRAILS-TX-ID": tx_id, "Idempotency-Key": "1"}
    assert ask_wsgi(app, "POST", TARGET, headers, b"{}").status == 200
    sql(paywall_file(tmp_path), f"UPDATE payments SET provider = x'{ALIKE[1][2:]}'")
    headers["Idempotency-Key"] = "2"
    assert ask_wsgi(app, "POST", TARGET, headers, b"{}").status == 503
    with pytest.raises(Exception, match="is a payment to"):
        paywall.close(tx_id)
    assert consumer.advanced.get_transaction(tx_id).state is State.COMMITTED
