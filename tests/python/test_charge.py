"""How charge() is put on a function, and what it says where it is put wrongly."""

import asyncio
import functools
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from flask import Blueprint, Flask
from paid import ask_wsgi, asked
from support import HERE, new_address, run_python

from agirails import ACTPClient, ValidationError
from agirails._paywall import Price
from agirails.asgi import Paywall as AsgiPaywall
from agirails.flask import Paywall as FlaskPaywall

BELOW = "must stand below the route's decorator"
PARENTHESES = "needs its price in parentheses"


class Stage:
    """An application of one kind and its paywall."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        provider = ACTPClient(requester_address=new_address(), state_directory=directory)
        self.app: Any = Flask(__name__) if kind == "flask" else FastAPI()
        Paywall = FlaskPaywall if kind == "flask" else AsgiPaywall
        self.paywall: Any = Paywall(provider, app=self.app)

    def router(self) -> Any:
        return Blueprint("router", __name__) if self.kind == "flask" else APIRouter()

    def include(self, router: Any) -> None:
        include = "register_blueprint" if self.kind == "flask" else "include_router"
        getattr(self.app, include)(router)

    def ask(self, target: str) -> Any:
        if self.kind == "flask":
            return ask_wsgi(self.app, "GET", target, {}, b"")
        return asyncio.run(asked(self.app, "GET", target, {}, b""))


@pytest.fixture(params=["flask", "fastapi"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(request.param, tmp_path)


class TestOrder:
    def test_a_charge_above_its_route_is_refused_where_it_stands(self, stage):
        with pytest.raises(TypeError, match=BELOW):

            @stage.paywall.charge("0.10")
            @stage.app.get("/")
            def endpoint():
                return "free"

    def test_a_charge_without_parentheses_above_its_route_too(self, stage):
        with pytest.raises(TypeError, match=BELOW):

            @stage.paywall.charge
            @stage.app.get("/")
            def endpoint():
                return "free"

    def test_a_charge_above_a_router_that_is_included_later_serves_nothing(self, stage):
        router = stage.router()

        @stage.paywall.charge("0.10")
        @router.get("/router")
        def endpoint():
            return "free"

        stage.include(router)
        stage.app.get("/other")(lambda: "other")
        if stage.kind == "flask":
            stage.app.testing = True
        for target in ("/router", "/other"):
            with pytest.raises(TypeError, match=BELOW):
                stage.ask(target)

    def test_an_asgi_server_does_not_start_with_it(self, tmp_path):
        stage = Stage("fastapi", tmp_path)
        router = stage.router()

        @stage.paywall.charge("0.10")
        @router.get("/router")
        def endpoint():
            return "free"

        stage.include(router)
        sent: list[Any] = []

        async def receive():
            return {"type": "lifespan.startup"}

        async def send(message):
            sent.append(message)

        asyncio.run(stage.app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
        (message,) = sent
        assert message["type"] == "lifespan.startup.failed" and BELOW in message["message"]

    def test_a_paywall_that_comes_later_finds_it_too(self, stage, tmp_path):
        app = Flask("late") if stage.kind == "flask" else FastAPI()
        provider = ACTPClient(requester_address=new_address(), state_directory=tmp_path)
        paywall = type(stage.paywall)(provider)

        @paywall.charge("0.10")
        @app.get("/")
        def endpoint():
            return "free"

        with pytest.raises(TypeError, match=BELOW):
            paywall.init_app(app)

    def test_below_the_route_and_other_decorators_is_right(self, stage):
        def own(function):
            @functools.wraps(function)
            def inside(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

            @functools.wraps(function)
            async def waited(*args: Any, **kwargs: Any) -> Any:
                return await function(*args, **kwargs)

            return inside if stage.kind == "flask" else waited

        charged = own(stage.paywall.charge("0.10")(lambda: "paid"))
        if stage.kind == "flask":
            stage.app.add_url_rule("/", view_func=charged)
        else:
            stage.app.add_api_route("/", charged)
        assert stage.ask("/").status == 402


class TestParentheses:
    def test_that_are_missing_are_asked_for(self, stage):
        with pytest.raises(TypeError, match=PARENTHESES):

            @stage.app.get("/")
            @stage.paywall.charge
            def endpoint():
                return "free"

    def test_below_another_decorator_too(self, stage):
        def endpoint():
            return "free"

        with pytest.raises(TypeError, match=PARENTHESES):
            functools.wraps(stage.paywall.charge(endpoint))(lambda: None)

    def test_a_price_function_is_no_mistake(self, stage):
        price = stage.paywall.charge(lambda: "0.10")
        stage.app.get("/")(price(lambda: "paid"))
        assert stage.ask("/").status == 402

    @pytest.mark.parametrize("wrong", ["text", 7, None, object()])
    def test_only_functions_can_be_charged_for(self, stage, wrong):
        with pytest.raises(TypeError, match="for functions"):
            stage.paywall.charge("0.10")(wrong)


class TestPrices:
    @pytest.mark.parametrize(
        "function",
        [
            lambda: "0.10",
            lambda request: "0.10",
            lambda *requests: "0.10",
            lambda request=None: "0.10",
            functools.partial(lambda price, request: price, "0.10"),
        ],
    )
    def test_come_from_functions_of_the_request_or_of_nothing(self, stage, function):
        stage.app.get("/")(stage.paywall.charge(function)(lambda: "paid"))
        assert stage.ask("/").json["accepts"][0]["amount"] == "100000"

    def test_come_from_async_functions_without_arguments(self, stage):
        async def price():
            return Decimal("0.10")

        stage.app.get("/")(stage.paywall.charge(price)(lambda: "paid"))
        assert stage.ask("/").json["accepts"][0]["amount"] == "100000"

    def test_do_not_come_from_functions_of_more(self, stage):
        for function in (lambda a, b: "0.10", lambda *, key: "0.10"):
            with pytest.raises(TypeError, match="must take the request or nothing"):
                stage.paywall.charge(function)

    @pytest.mark.parametrize("free", [0, "0", Decimal("0")])
    def test_of_nothing_are_free_calls(self, stage, free):
        stage.app.get("/")(stage.paywall.charge(lambda: free)(lambda: "served"))
        reply = stage.ask("/")
        assert reply.status == 200 and b"served" in reply.body
        assert "x-agirails-receipt" not in reply.headers

    @pytest.mark.parametrize("wrong", [None, False, True, 100_000, 0.1, "free", "-1"])
    def test_that_are_none_serve_nothing(self, stage, wrong, caplog):
        stage.app.get("/")(stage.paywall.charge(lambda: wrong)(lambda: "served"))
        with caplog.at_level(logging.ERROR, "agirails.paywall"):
            assert stage.ask("/").status == 500
        assert any("price function" in record.getMessage() for record in caplog.records)

    def test_describe_themselves_on_the_price_page(self, stage):
        charge = stage.paywall.charge(lambda: "0.10", price_text="0.05 to 0.50 USDC")
        stage.app.get("/")(charge(lambda: "paid"))
        (route,) = stage.ask("/api/pricing").json["routes"]
        assert "0.05 to 0.50 USDC" in route.values()

    def test_a_bare_int_is_refused_with_the_remedy(self, stage):
        for price in (10, 100_000):
            with pytest.raises(ValidationError) as raised:
                stage.paywall.charge(price)
            assert '"0.10"' in raised.value.hint


def test_help_shows_the_settings():
    for module in ("agirails.flask", "agirails.asgi"):
        script = f"import {module}; help({module}.Paywall)"
        shown = run_python("-c", script, cwd=HERE).stdout
        for setting in ("public_url", "unsigned", "max_body_bytes", "survive_power_cut"):
            assert f"{setting}:" in shown, (module, setting)


def test_a_price_keeps_one_charge_for_each_route(tmp_path):
    stage = Stage("flask", tmp_path)
    price = Price(stage.paywall, "0.10")
    assert price.named("GET /a") is price.named("GET /a")
    assert price.named("GET /a").name == "GET /a"
