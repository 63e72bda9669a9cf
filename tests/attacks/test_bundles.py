"""A provider gets no more of a payer's money than the one bundle that the payer agreed to buy."""

import pytest
import services
from flask import Flask
from support import new_key, until

from agirails import ACTPClient, Consumer, SpendingError, State
from agirails.flask import Paywall


@pytest.fixture
def payer(parties):
    """With a key: what a paywall gives back before the deadline, it gives to a signature."""
    return ACTPClient(private_key=new_key(), state_directory=parties.directory)


@pytest.fixture
def service(parties):
    app = Flask("ends")
    paywall = Paywall(parties.provider, app=app)

    @app.post("/api/generate")
    @paywall.charge("0.10")
    def generate():
        return {"ok": True}

    @app.post("/api/daily")
    @paywall.charge("0.10", calls=10, lasts=86_400)
    def daily():
        return {"ok": True}

    with services.serving(app) as url:
        yield url, paywall


def test_a_provider_that_ends_each_bundle_early_sells_one(payer, service):
    url, paywall = service
    consumer = Consumer(payer)
    before = payer.advanced.get_balance(payer.address)
    client = payer.advanced
    ended: list[str] = []
    codes: list[str] = []
    for number in range(6):
        try:
            answer = consumer.call(f"{url}/api/generate", json={"n": number}, max_amount="0.25")
        except SpendingError as error:
            codes.append(error.code)
            assert (error.transaction_id, error.available) == (ended[0], 900_000)
            continue
        ended.append(answer.payment.transaction_id)
        paywall.close(ended[-1])
        until(lambda: client.get_transaction(ended[-1]).state is State.DELIVERED)
    took = before - payer.advanced.get_balance(payer.address)
    assert (codes, took) == (["balance_forfeited"] * 5, 1_000_000)
    # All of it counts, also what no call was made for.
    assert consumer.spent().day == 1_000_000
    # Whoever says that the loss is fine buys again.
    consumer.close(ended[0])
    assert consumer.call(f"{url}/api/generate", json={}, max_amount="0.25").status == 200


def test_a_bundle_lasts_as_long_as_both_sides_agreed(payer, service):
    url, _ = service
    consumer = Consumer(payer)
    now = payer.advanced.now()
    consumer.call(f"{url}/api/daily", json={}, max_amount="0.25")
    (balance,) = consumer.balances()
    assert 86_000 < balance.usable_until - now <= 86_410


def test_a_bundle_that_ends_too_soon_is_not_bought(payer, service):
    url, _ = service
    consumer = Consumer(payer)
    with pytest.raises(SpendingError) as raised:
        consumer.call(f"{url}/api/generate", json={}, max_amount="0.25", lasts=86_400)
    assert raised.value.code == "untrusted_provider"
    assert "can be used for 3480 seconds, and lasts is 86400" in raised.value.hint
    assert consumer.spent().day == 0
    consumer.call(f"{url}/api/generate", json={}, max_amount="0.25", lasts=1_800)
    (balance,) = consumer.balances()
    assert balance.usable_until - payer.advanced.now() <= 1_800
