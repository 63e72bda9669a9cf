"""No call runs for less than it costs today, whatever ran or failed before with the same payment."""

import pytest
from flask import Flask, request
from paid import Stage, ask_wsgi
from support import fund

from agirails import sign_request
from agirails.flask import Paywall

CHEAP, DEAR = 50_000, 5_000_000


class Service:
    """A price that depends on a header, and a handler that fails where it is told to."""

    def __init__(self, stage: Stage, price: object, store: object = None) -> None:
        self.stage, self.took = stage, []
        self.app = Flask(__name__)
        self.paywall = Paywall(stage.provider, app=self.app, store=store)

        @self.app.post("/api/generate")
        @self.paywall.charge(price)
        def generate():
            if "X-Fail" in request.headers:
                return "no", 422
            self.took.append(self.paywall.payment.price)
            return {"served": True}

    def call(self, tx_id: str, key: str = "", **headers: str) -> int:
        signed = sign_request(
            self.stage.consumer, tx_id, "POST", "/api/generate", b"{}", idempotency_key=key
        )
        named = {
            "X-AGIRAILS-TX-ID": tx_id,
            "X-AGIRAILS-SIGNATURE": signed,
            **({"Idempotency-Key": key} if key else {}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return ask_wsgi(self.app, "POST", "/api/generate", named, b"{}").status


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path, "flask")


def by_tier(asked):
    return "5.00" if asked.headers.get("X-Tier") == "deep" else "0.05"


def test_a_failed_cheap_run_does_not_pay_for_a_dear_one(stage):
    service = Service(stage, by_tier)
    tx_id = fund(stage.consumer, stage.provider.address, CHEAP)
    assert service.call(tx_id, X_Tier="deep") == 402
    assert service.call(tx_id, X_Fail="1") == 422
    assert service.call(tx_id, X_Tier="deep") == 402
    assert service.took == []
    # It still pays for what it was made for.
    assert service.call(tx_id) == 200
    assert service.took == [CHEAP]


def test_a_failed_cheap_call_of_a_balance_takes_the_dear_price(stage):
    service = Service(stage, by_tier)
    small = fund(stage.consumer, stage.provider.address, 1_000_000)
    assert service.call(small, "one", X_Fail="1") == 422
    assert service.call(small, "one", X_Tier="deep") == 402
    large = fund(stage.consumer, stage.provider.address, 10_000_000)
    assert service.call(large, "one", X_Fail="1") == 422
    assert service.call(large, "one", X_Tier="deep") == 200
    assert service.took == [DEAR]


def test_a_cheap_service_of_the_same_key_and_store_does_not_pay_for_a_dear_one(stage, tmp_path):
    store = tmp_path / "shared"
    cheap = Service(stage, "0.05", store)
    dear = Service(stage, "5.00", store)
    tx_id = fund(stage.consumer, stage.provider.address, CHEAP)
    assert cheap.call(tx_id, X_Fail="1") == 422
    assert dear.call(tx_id) == 402
    assert dear.took == []
    assert cheap.call(tx_id) == 200
    # What was answered is given again, and nothing is run for it.
    assert dear.call(tx_id) == 200
    assert (cheap.took, dear.took) == ([CHEAP], [])


def test_a_balance_that_is_too_small_for_a_bundle_pays_for_none_of_its_calls(stage):
    # Of 0.05 USDC the protocol's fee leaves nothing.
    tx_id = stage.fund(50_000)
    assert stage.pay(tx_id, b"", "GET", "/api/priced?0.05", key="first").status == 200
    tx_id = stage.fund(50_000)
    assert stage.pay(tx_id, b"", "GET", "/api/priced?raise", key="first").status == 500
    assert stage.pay(tx_id, b"", "GET", "/api/priced?0.04", key="second").status == 402
    failing = stage.pay(tx_id, b"raise", target="/api/cheap", key="third")
    assert failing.status == 402
