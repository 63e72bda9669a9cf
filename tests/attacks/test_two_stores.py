"""One key with two stores serves nothing twice, and neither gives back what the other has served."""

import pytest
from flask import Flask
from paid import Stage, ask_wsgi
from support import HOUR, until

from agirails import State, sign_request
from agirails.flask import Paywall

DOLLAR = 1_000_000


class Store:
    """A service of the provider's key that keeps its calls by itself."""

    def __init__(self, stage: Stage, directory: object, **settings: object) -> None:
        self.stage, self.runs, self.fails = stage, [], False
        self.app = Flask(__name__)
        self.paywall = Paywall(stage.provider, app=self.app, store=directory, **settings)

        @self.app.post("/api/generate")
        @self.paywall.charge("0.10")
        def generate():
            self.runs.append(self.paywall.payment)
            return ("no", 500) if self.fails else {"served": True}

    def ask(self, tx_id: str, target: str = "/api/generate", key: str = ""):
        signed = sign_request(self.stage.consumer, tx_id, "POST", target, b"", idempotency_key=key)
        named = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signed}
        if key:
            named["Idempotency-Key"] = key
        return ask_wsgi(self.app, "POST", target, named, b"")

    def close(self, tx_id: str):
        return self.ask(tx_id, f"/api/payments/{tx_id}/close")


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "stage", "flask")


@pytest.fixture
def stores(stage, tmp_path):
    def make(**settings):
        return [Store(stage, tmp_path / name, **settings) for name in ("one", "two")]

    return make


def unbound(stage: Stage, amount: int) -> str:
    return stage.fund(amount, metadata=None)


def test_a_transaction_is_not_served_twice(stage, stores):
    one, two = stores(one_store=False)
    tx_id = stage.fund(100_000, metadata=one.paywall.service_hash)
    replies = [store.ask(tx_id) for store in (two, one, two)]
    assert [reply.status for reply in replies] == [402, 200, 402]
    assert replies[0].json["type"].endswith("other_service")
    assert (len(one.runs), len(two.runs)) == (1, 0)
    # What names no service is served by none.
    tx_id = unbound(stage, 100_000)
    assert [store.ask(tx_id).status for store in (one, two)] == [402, 402]
    assert (len(one.runs), len(two.runs)) == (1, 0)


def test_offers_and_the_price_page_say_which_service_it_is(stage, stores):
    one, two = stores()
    assert one.paywall.service_hash != two.paywall.service_hash
    for store in (one, two):
        offers = ask_wsgi(store.app, "POST", "/api/generate", {}, b"").json["accepts"]
        page = ask_wsgi(store.app, "GET", "/api/pricing", {}, b"").json
        named = {offer["extra"]["serviceHash"] for offer in offers} | {page["serviceHash"]}
        assert named == {store.paywall.service_hash}


@pytest.mark.parametrize("settings", [{}, {"one_store": True}, {"one_store": False}])
def test_a_close_at_the_second_store_does_not_refund_what_the_first_one_served(
    stage, stores, settings
):
    one, two = stores(**settings)
    metadata = one.paywall.service_hash if settings.get("one_store") is False else None
    tx_id = stage.fund(DOLLAR, metadata=metadata)
    assert [one.ask(tx_id, key=f"call-{number}").status for number in range(9)] == [200] * 9
    reply = two.close(tx_id)
    assert (reply.status, reply.json["error"]) == (409, "Not Bound To This Service")
    assert two.paywall.close(tx_id) is None
    assert two.paywall.owed() == 0
    assert stage.consumer.advanced.get_transaction(tx_id).state is State.COMMITTED
    assert one.close(tx_id).status == 202
    stage.becomes(tx_id, State.DELIVERED)


def test_runs_that_fail_at_the_second_store_do_not_refund_what_the_first_one_served(stage, stores):
    one, two = stores()
    two.fails = True
    tx_id = unbound(stage, DOLLAR)
    assert one.ask(tx_id, key="call").status == 200
    for number in range(5):
        assert two.ask(tx_id, key=f"failing-{number}").status == 500
    given_up = two.ask(tx_id, key="one-more")
    assert (given_up.status, given_up.json["error"]) == (402, "Transaction Given Up")
    assert two.ask(f"{tx_id}", f"/api/payments/{tx_id}/close").json["stage"] == "left"
    assert two.paywall.owed() == 0
    assert one.close(tx_id).status == 202
    stage.becomes(tx_id, State.DELIVERED)


def test_the_deadline_at_the_second_store_does_not_refund_what_the_first_one_served(stage, stores):
    one, two = stores()
    two.fails = True
    tx_id = unbound(stage, DOLLAR)
    assert one.ask(tx_id, key="call").status == 200
    assert two.ask(tx_id, key="failing").status == 500
    stage.provider.mock.advance_time(HOUR - 50)
    stage.becomes(tx_id, State.DELIVERED)
    until(lambda: page(two, tx_id)["stage"] == "left")
    assert stage.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED


def test_what_no_store_can_be_paid_for_is_given_back(stage, stores):
    one, _ = stores()
    one.fails = True
    tx_id = unbound(stage, 100_000)
    assert one.ask(tx_id).status == 500
    stage.provider.mock.advance_time(HOUR)
    until(lambda: page(one, tx_id)["stage"] == "left")
    stage.provider.mock.advance_time(HOUR + 60)
    stage.becomes(tx_id, State.CANCELLED)


def page(store: Store, tx_id: str):
    return ask_wsgi(store.app, "GET", f"/api/payments/{tx_id}", {}, b"").json
