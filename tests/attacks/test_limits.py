"""An amount in another unit is refused at every door, before anything is asked of a service."""

from decimal import Decimal

import pytest

import agirails.httpx
import agirails.requests
from agirails import ACTPError, Consumer, parse_usdc
from agirails.flask import Paywall

MUCH = [
    10**15 + 1,
    10**17,
    10**18,
    2**63,
    2**64,
    10**30,
    "1000000000.000001",
    "999999999999999999",
    Decimal("1e18"),
]
URL = "http://127.0.0.1:1/x"
MOST = 10**15


def refused(call) -> str:
    with pytest.raises(ACTPError) as raised:
        call()
    assert raised.value.code == "invalid_amount", raised.value
    return raised.value.field


@pytest.mark.parametrize("amount", MUCH, ids=str)
def test_a_limit_that_no_transaction_reaches_is_refused(parties, amount):
    client = parties.consumer
    consumer = Consumer(client)
    assert refused(lambda: consumer.call(URL, max_amount=amount)) in ("max_amount", "amount")
    call = lambda: consumer.call(URL, max_amount="0.10", max_funding=amount)  # noqa: E731
    assert refused(call) in ("max_funding", "amount")
    refused(lambda: consumer.dispute("0x" + "11" * 32, max_bond=amount))
    for name in ("per_call", "per_hour", "per_day", "per_provider_per_day"):
        refused(lambda name=name: Consumer(client, budget={name: amount}))
    with agirails.requests.session(consumer, max_amount=amount) as session:
        refused(lambda: session.get(URL))
    refused(lambda: Paywall(parties.provider).charge(str(amount)))


def test_the_greatest_transaction_is_within_the_limit(parties):
    Consumer(parties.consumer, budget={"per_day": MOST})
    assert parse_usdc("1000000000") == MOST
