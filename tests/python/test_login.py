"""An application's own login before every route: what the paywall guards still has a way."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from paid import ask_wsgi
from support import HERE, http, new_key, served, until
from support import free_port as port_of

from agirails import ACTPClient, Consumer, State
from agirails.testing import MockLedger

SERVERS = {
    "flask": ("flask", "--app", "login_apps:flask_app", "run", "--port", "{port}"),
    "fastapi": ("uvicorn", "--factory", "--port", "{port}", "login_apps:fastapi_app"),
    "fastapi, login outside": (
        *("uvicorn", "--factory", "--port", "{port}"),
        "login_apps:fastapi_app_behind_a_middleware",
    ),
}


class Shop(NamedTuple):
    origin: str
    provider: ACTPClient
    consumer: ACTPClient


@pytest.fixture(scope="module", params=SERVERS)
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    directory, port, key = tmp_path_factory.mktemp("login"), port_of(), new_key()
    command = [part.format(port=port) for part in SERVERS[request.param]]
    origin = f"http://127.0.0.1:{port}"
    env = {
        "ACTP_STATE_DIR": str(directory),
        "PROVIDER_PRIVATE_KEY": key,
        "PYTHONPATH": str(HERE),
    }
    with served([sys.executable, "-m", *command], origin, directory / "log", **env):
        yield Shop(
            origin,
            ACTPClient(private_key=key, state_directory=directory),
            ACTPClient(private_key=new_key(), state_directory=directory),
        )


@pytest.mark.parametrize("path", ["/", "/private", "/api/payments-of-ours", "/nowhere"])
def test_the_login_rejects_everything_else(shop, path):
    for headers in ({}, {"X_AGIRAILS_TX_ID": "0x" + "11" * 32}, {"PAYMENT_SIGNATURE": "e30="}):
        assert http("GET", shop.origin + path, **headers)[0] == 401
    status = http("GET", f"{shop.origin}/private", X_Login="opened")[0]
    assert status == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/api/pricing"])
def test_built_in_pages_have_a_way(shop, path):
    assert http("GET", shop.origin + path)[0] == 200


def test_a_consumer_buys_a_bundle_calls_closes_and_gets_the_receipt(shop):
    consumer = Consumer(shop.consumer)
    url = f"{shop.origin}/api/quote"
    answers = [consumer.call(f"{url}?n={n}", max_amount="0.25", timeout=30) for n in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    payment = answers[1].payment
    assert payment is not None and payment.kind == "prepaid"
    tx_id = payment.transaction_id
    assert answers[0].payment.transaction_id == tx_id

    assert consumer.close(tx_id) in ("delivering", "delivered")
    until(lambda: shop.consumer.advanced.get_transaction(tx_id).state is State.DELIVERED)
    page = f"{shop.origin}/api/payments/{tx_id}/receipts/{payment.idempotency_key}"
    status, told = http("GET", page)
    assert status == 200
    assert told["receipt"]["txId"] == tx_id and told["root"] and told["branch"]
    assert http("GET", f"{shop.origin}/api/payments/{tx_id}")[1]["calls"] == 2


def test_a_stranger_neither_closes_nor_is_served(shop):
    status, _ = http("POST", f"{shop.origin}/api/payments/0x{'11' * 32}/close", {})
    assert status == 401  # of the paywall, which wants a signature
    assert http("GET", f"{shop.origin}/api/quote")[0] == 402


def test_a_route_can_want_both_login_and_payment(shop):
    """The consumer's headers go with the call, and with nothing that is the paywall's own."""
    consumer = Consumer(shop.consumer, trusted=[shop.origin])
    url = f"{shop.origin}/api/members"
    refused = consumer.call(url, max_amount="0.25", timeout=30)
    assert (refused.status, refused.payment) == (401, None)
    answer = consumer.call(url, max_amount="0.25", timeout=30, headers={"X-Login": "opened"})
    assert answer.status == 200 and answer.payment is not None
    assert answer.json() == {"member": True}


def test_an_own_route_at_a_built_in_path_is_the_logins(tmp_path, monkeypatch):
    from flask import Flask, abort, request

    from agirails.flask import Paywall

    app = Flask(__name__)
    paywall = Paywall(MockLedger(tmp_path).client(0), app=app)
    other = Paywall(MockLedger(tmp_path).client(1), free_routes=False)
    seen = []

    @app.before_request
    def login():
        seen.append((paywall.guards(request), other.guards(request)))
        if not paywall.guards(request):
            abort(401)

    @app.get("/metrics")
    def metrics():
        return "own"

    @app.get("/api/payments/<name>")
    def payments(name):
        return "own"

    assert ask_wsgi(app, "GET", "/metrics", {}, b"").status == 401
    assert ask_wsgi(app, "GET", "/api/payments/mine", {}, b"").status == 401
    assert ask_wsgi(app, "DELETE", "/health", {}, b"").status == 401
    assert ask_wsgi(app, "GET", "/health", {}, b"").status == 200
    assert {of_other for _, of_other in seen} == {False}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_of_a_class_of_views_only_the_charged_method_is_guarded(tmp_path, method):
    from flask import Flask, request
    from flask.views import MethodView

    from agirails.flask import Paywall

    app = Flask(__name__)
    paywall = Paywall(MockLedger(tmp_path).client(0), app=app)

    class Items(MethodView):
        @paywall.charge("0.10")
        def get(self):
            return "paid"

        def post(self):
            return "free"

    app.add_url_rule("/items", view_func=Items.as_view("items"))
    with app.test_request_context("/items", method=method):
        assert paywall.guards(request) is (method in ("GET", "HEAD"))


def test_an_asgi_application_without_a_router_knows_the_built_in_routes(tmp_path):
    from agirails.asgi import Paywall

    paywall = Paywall(MockLedger(tmp_path).client(0))
    scope = {"type": "http", "method": "GET", "root_path": "/shop"}
    for path in ("/shop/health", "/health", "/api/payments/0x12", "/shop/api/pricing"):
        assert paywall.guards({**scope, "path": path}), path
    for path in ("/", "/shop", "/api/payments", "/healthy", "/shop/api/generate"):
        assert not paywall.guards({**scope, "path": path}), path
    assert not paywall.guards({"type": "websocket", "path": "/health"})
    hidden = Paywall(MockLedger(tmp_path).client(1), free_routes=False)
    assert not hidden.guards({**scope, "path": "/health"})
