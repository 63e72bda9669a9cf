"""One answer is paid for once, whoever makes the call again above."""

import asyncio
import threading

import doors
import httpx
import pytest
from flask import Flask
from services import relaying, serving
from support import new_key

import agirails.httpx
import agirails.requests
from agirails import ACTPClient, AsyncConsumer, CallError, Consumer
from agirails.flask import Paywall


class Runs(list[str]):
    """What the handler was run for. A run waits until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.may_end.set()


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def payer(parties):
    """With a key: what a paywall gives back before the deadline, it gives to a signature."""
    return ACTPClient(private_key=new_key(), state_directory=parties.directory)


@pytest.fixture
def service(parties, runs):
    app = Flask("service")
    paywall = Paywall(parties.provider, app=app)

    @app.post("/api/generate")
    @paywall.charge("1.00")
    def generate():
        runs.append(paywall.payment.transaction_id)
        runs.may_end.wait(60)
        return {"haiku": "…"}

    @app.post("/api/broken")
    @paywall.charge("1.00")
    def broken():
        runs.append(paywall.payment.transaction_id)
        return {"detail": "no model"}, 500

    with serving(app) as url:
        yield url


class Lossy:
    """Loses the answers of paid calls as long as it is told to."""

    def __init__(self) -> None:
        self.loses = True

    def __call__(self, asked: bytes, piece: bytes) -> bytes | None:
        return None if self.loses and b"x-agirails-tx-id" in asked.lower() else piece


@pytest.mark.parametrize("door", doors.DOORS)
def test_a_retry_loop_pays_once_for_an_answer_that_was_lost(payer, service, runs, door):
    lossy = Lossy()
    with relaying(int(service.rpartition(":")[2]), lossy) as url:
        for tries in range(4):
            lossy.loses = tries < 2
            try:
                got = door(payer, f"{url}/api/generate", [], max_amount="1.00", timeout=2)
                break
            except CallError as error:
                assert error.code == "call_failed"
                # The traceback of an error that somebody keeps changes nothing.
                kept = error
    assert (tries, got.status, len(runs)) == (2, 200, 1)
    assert kept.purchase_key
    assert Consumer(payer).spent().day == 1_000_000


def test_the_retries_of_a_client_library_pay_once(payer, service, runs):
    lossy = Lossy()
    consumer = Consumer(payer)
    transport = agirails.httpx.PayingTransport(consumer, max_amount="1.00", timeout=2)
    with (
        relaying(int(service.rpartition(":")[2]), lossy) as url,
        httpx.Client(transport=transport) as client,
    ):
        for tries in range(3):
            lossy.loses = tries < 2
            headers = {
                "Authorization": "Bearer a",
                "X-Stainless-Retry-Count": str(tries),
                "traceparent": f"00-{tries:032}-{tries:016}-01",
            }
            try:
                answer = client.post(f"{url}/api/generate", json={"p": 1}, headers=headers)
            except CallError:
                continue
    assert (answer.status_code, len(runs), consumer.spent().day) == (200, 1, 1_000_000)


def test_a_call_that_is_cancelled_and_made_again_pays_once(payer, service, runs):
    runs.may_end.clear()

    async def calls() -> int:
        consumer = AsyncConsumer(payer)
        transport = agirails.httpx.AsyncPayingTransport(consumer, max_amount="1.00")
        async with httpx.AsyncClient(transport=transport) as client:
            post = client.post(f"{service}/api/generate")
            task = asyncio.create_task(post)
            while not runs:
                await asyncio.sleep(0.01)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError as error:
                kept = error
            runs.may_end.set()
            again = await client.post(f"{service}/api/generate")
            assert kept.__traceback__
            return again.status_code

    assert asyncio.run(calls()) == 200
    assert len(runs) == 1
    assert Consumer(payer).spent().day == 1_000_000


def test_calls_that_are_alike_are_many_where_they_are_made_together(payer, service, runs):
    runs.may_end.clear()
    consumer = Consumer(payer)
    url = f"{service}/api/generate"
    threads = [
        threading.Thread(target=lambda: consumer.call(url, method="POST", max_amount="1.00"))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while len(runs) < 3:
        threading.Event().wait(0.01)
    runs.may_end.set()
    for thread in threads:
        thread.join(60)
    assert (len(set(runs)), consumer.spent().day) == (3, 3_000_000)


@pytest.mark.parametrize("door", doors.DOORS)
def test_a_handler_that_keeps_failing_costs_nothing_and_says_so(payer, service, runs, door):
    with pytest.raises(CallError) as raised:
        door(payer, f"{service}/api/broken", [], max_amount="1.00")
    error = raised.value
    assert (error.code, error.status, len(runs)) == ("service_failed", 500, 3)
    assert b"no model" in error.body
    assert "no model" in str(error)
    assert "the money came back" in str(error)
    assert len(set(runs)) == 1
    assert Consumer(payer).spent().day == 0
