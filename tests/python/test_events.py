"""The application is told of what happens at its paywall: by a function, and at a URL."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paid import Stage
from support import ROOT, free_port, sql, until
from werkzeug.serving import make_server

import agirails
from agirails import ACTPClient, State
from agirails.flask import Paywall, PaywallEvent

GUIDE = (ROOT / "docs" / "guide" / "operating.md").read_text(encoding="utf-8")
(RECEIVER,) = re.findall(r"^```python\n(import base64, hmac.*?)^```$", GUIDE, re.M | re.S)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DAYS_3 = 3 * 86_400


@contextmanager
def receiver(port: int) -> Iterator[dict[str, Any]]:
    """The guide's receiver, as it is written there; its names."""
    names: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(RECEIVER, "receiver.py", "exec"), names)
    server = make_server("127.0.0.1", port, names["app"], threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield names
    finally:
        server.shutdown()
        thread.join()


def of_money(events: list[PaywallEvent], tx_id: str) -> list[str]:
    return [event.name for event in events if event.transaction == tx_id and event.name != "served"]


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_is_told_in_a_thread_of_its_own(tmp_path, kind, is_async):
    told: list[PaywallEvent] = []
    threads = set()

    def note(event: PaywallEvent) -> None:
        threads.add(threading.current_thread().name)
        told.append(event)

    async def note_later(event: PaywallEvent) -> None:
        await asyncio.sleep(0)
        note(event)

    stage = Stage(tmp_path, kind, on_event=note_later if is_async else note)
    tx_id = stage.fund()
    assert stage.pay(tx_id).status == 200
    stage.becomes(tx_id, State.DELIVERED)
    until(lambda: of_money(told, tx_id) == ["delivered"])
    stage.provider.mock.advance_time(DAYS_3)
    until(lambda: of_money(told, tx_id) == ["delivered", "settled"])
    settled = told[-1]
    assert (settled.level, settled.net, settled.requester) == (20, 50_000, stage.consumer.address)
    served = next(event for event in told if event.name == "served")
    assert (served.transaction, served.price, served.status) == (tx_id, 100_000, 200)
    assert threads == {"agirails.events"}
    with pytest.raises(AttributeError):
        settled.name = "other"  # type: ignore[misc]


def test_what_the_function_raises_and_how_slow_it_is_changes_nothing(tmp_path, caplog):
    hold, begun = threading.Event(), threading.Event()

    def fail(event: PaywallEvent) -> None:
        begun.set()
        hold.wait(30)
        raise ValueError("a mistake of the application")

    stage = Stage(tmp_path, "flask", on_event=fail)
    tx_id = stage.fund()
    assert stage.pay(tx_id).status == 200
    until(begun.is_set)
    # While the function stands still, calls are served and delivered.
    again = stage.fund()
    assert stage.pay(again).status == 200
    stage.becomes(again, State.DELIVERED)
    hold.set()
    until(lambda: "on_event failed at the event served" in caplog.text)
    assert "a mistake of the application" in caplog.text


def test_a_paywall_without_a_function_is_not_told_of_another_ones_events(tmp_path):
    told: list[PaywallEvent] = []
    one = Stage(tmp_path / "one", "flask", on_event=told.append)
    two = Stage(tmp_path / "two", "flask")
    (mine, theirs) = (one.fund(), two.fund())
    assert (one.pay(mine).status, two.pay(theirs).status) == (200, 200)
    until(lambda: bool(of_money(told, mine)))
    assert {event.transaction for event in told} <= {mine, None}


def test_the_guides_receiver_takes_each_event_once_and_nobody_elses(tmp_path):
    port = free_port()
    with receiver(port) as names:
        url = f"http://127.0.0.1:{port}/hooks/paywall"
        stage = Stage(tmp_path, "flask", webhook_url=url, webhook_secret=SECRET)
        tx_id = stage.fund()
        assert stage.pay(tx_id).status == 200
        stage.becomes(tx_id, State.DELIVERED)
        stage.provider.mock.advance_time(DAYS_3)
        until(lambda: len(names["taken"]) == 2)
        client = names["app"].test_client()
        headers = {"webhook-id": "msg_1", "webhook-timestamp": "1614265330"}
        for signature in ("v1,", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="):
            forged = client.post(
                "/hooks/paywall", data=b"{}", headers={**headers, "webhook-signature": signature}
            )
            assert forged.status_code == 400
        assert client.post("/hooks/paywall", data=b"{}").status_code == 400
        assert len(names["taken"]) == 2


PROVIDER = """
import sys, time
from pathlib import Path
from paid import Stage
from agirails import State

directory, url, secret = sys.argv[1:]
stage = Stage(Path(directory), "flask", webhook_url=url, webhook_secret=secret)
tx_id = stage.fund()
assert stage.pay(tx_id).status == 200
stage.becomes(tx_id, State.DELIVERED)
print(stage.provider.address, flush=True)
time.sleep(60)
"""


def test_what_was_written_down_before_a_kill_is_sent_after_it(tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks/paywall"

    def count() -> int:
        (row,) = sql(store, "SELECT count(*) FROM webhooks")
        return row[0]

    with subprocess.Popen(
        [sys.executable, "-c", PROVIDER, str(tmp_path), url, SECRET],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    ) as child:
        try:
            assert child.stdout is not None
            address = child.stdout.readline().strip()
            (store,) = Path(tmp_path).rglob("paywall-*.sqlite3")
            until(lambda: count() == 1)
        finally:
            child.kill()
    assert count() == 1
    with receiver(port) as names:
        client = ACTPClient(requester_address=address, state_directory=tmp_path)
        paywall = Paywall(client, webhook_url=url, webhook_secret=SECRET)
        until(lambda: len(names["taken"]) == 1, 30)
        until(lambda: count() == 0)
        assert paywall.payments()[0].stage == "delivered"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"webhook_url": "https://example.com/SECRET"}, "webhook_secret"),
        ({"webhook_secret": SECRET}, "webhook_url"),
        ({"webhook_url": "http://example.com/SECRET", "webhook_secret": SECRET}, "webhook_url"),
        ({"webhook_url": "https://example.com", "webhook_secret": "SECRET"}, "webhook_secret"),
    ],
)
def test_a_webhook_that_means_nothing_is_refused_without_showing_it(tmp_path, settings, field):
    with pytest.raises(agirails.ValidationError) as caught:
        Stage(tmp_path, "flask", **settings)
    assert caught.value.field == field and caught.value.hint
    assert "SECRET" not in f"{caught.value!r}{caught.value}{caught.value.hint}"
