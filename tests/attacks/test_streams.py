"""A stream is not had free by the choice of a deadline before its end."""

import time

import pytest
from paid import Stage
from werkzeug.test import EnvironBuilder, run_wsgi_app

from agirails import State
from agirails._paywall import BrokenOff


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path, "flask")


def funded(stage: Stage) -> str:
    return stage.fund(deadline=stage.consumer.advanced.now() + 200)


def test_what_was_sent_before_the_deadline_is_paid(stage):
    tx_id = funded(stage)
    # After two pieces the handler lets 150 of its transaction's 200 seconds pass.
    with pytest.raises(BrokenOff):
        stage.pay(tx_id, b"", "GET", "/api/stream/2?late")
    stage.becomes(tx_id, State.DELIVERED)
    page = stage.ask("GET", f"/api/payments/{tx_id}").json
    assert (page["calls"], page["spent"]) == (1, "0.10 USDC")
    # It is not taken for the whole answer.
    assert stage.pay(tx_id, b"", "GET", "/api/stream/2?late").status == 410
    assert len(stage.runs) == 1


def test_a_caller_who_stops_reading_pays_for_what_was_sent(stage):
    tx_id = funded(stage)
    target = "/api/stream/1000"
    headers = {
        name.replace("_", "-"): value
        for name, value in stage.headers(tx_id, "GET", target, b"").items()
    }
    environ = EnvironBuilder(target, method="GET", headers=headers).get_environ()
    pieces, status, _ = run_wsgi_app(stage.app.wsgi_app, environ)
    reading = iter(pieces)
    assert (status[:3], next(reading)) == ("200", b"        0\n")
    stage.provider.mock.advance_time(150)
    # Neither the handler nor the caller makes a move.
    stage.becomes(tx_id, State.DELIVERED)
    with pytest.raises(BrokenOff):
        list(reading)
    pieces.close()


def test_a_stream_that_breaks_off_by_itself_in_time_costs_nothing(stage):
    tx_id = funded(stage)
    with pytest.raises(ValueError):
        stage.pay(tx_id, b"", "GET", "/api/stream/2?raise")
    time.sleep(0)
    assert stage.ask("GET", f"/api/payments/{tx_id}").json["spent"] == "0.00 USDC"
