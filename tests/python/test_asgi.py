"""What is particular to the paywall of FastAPI, Starlette and ASGI."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from paid import Reply, asked
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount, Route
from support import fund, new_address, new_key, until

from agirails import ACTPClient, State, sign_request
from agirails.asgi import Paywall


class Prompt(BaseModel):
    prompt: str


@pytest.fixture
def provider(tmp_path: Path) -> ACTPClient:
    return ACTPClient(requester_address=new_address(), state_directory=tmp_path)


@pytest.fixture
def pay(provider: ACTPClient, tmp_path: Path):
    """A paid request without signature."""
    consumer = ACTPClient(requester_address=new_address(), state_directory=tmp_path)

    def pay(app, method: str, target: str, body=b"", tx_id=None, stay=None) -> Reply:
        headers = {"X-AGIRAILS-TX-ID": tx_id or pay.fund(), "Content-Type": "application/json"}
        return asyncio.run(asked(app, method, target, headers, body, stay))

    pay.fund = functools.partial(fund, consumer, provider.address)
    pay.state = lambda tx_id: consumer.advanced.get_transaction(tx_id).state
    return pay


def ask(app, method: str, target: str, body=b"", **headers: str) -> Reply:
    return asyncio.run(asked(app, method, target, headers, body))


def allowed(reply: Reply) -> set[str]:
    return set(reply.headers["allow"].split(", "))


def test_a_consumer_that_does_not_read_is_served_to_the_end_and_pays(provider, pay):
    app = FastAPI()
    paywall = Paywall(provider, app=app, min_seconds_left=3, closing_seconds=1)

    @app.get("/stream")
    @paywall.charge("0.10")
    async def stream():
        return StreamingResponse(b"x" * 100 for _ in range(4))

    tx_id = pay.fund(deadline=provider.advanced.now() + 6)
    headers = [(b"x-agirails-tx-id", tx_id.encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "GET", "path": "/stream", "raw_path": b"/stream"}
    scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http"}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)
        if len(sent) > 2:
            await asyncio.Event().wait()

    asyncio.run(app(scope, receive, send))
    assert len(sent) == 3
    assert pay(app, "GET", "/stream", tx_id=tx_id).body == b"x" * 400
    until(lambda: pay.state(tx_id) is State.DELIVERED)


class TestFastAPI:
    def test_injects_what_an_endpoint_asks_for(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)
        order = []

        async def dependency(request: Request):
            order.append("in")
            yield request.method
            order.append("out")

        @app.post("/async/{number}")
        @paywall.charge("0.10")
        async def endpoint(
            number: int,
            prompt: Prompt,
            method: str = Depends(dependency),  # noqa: B008
            q: str = "?",
            x_own: Annotated[str | None, Header()] = None,
        ) -> dict[str, str]:
            order.append("run")
            return {"said": f"{number} {prompt.prompt} {method} {q} {x_own}"}

        @app.post("/sync/{number}", response_model=Prompt)
        @paywall.charge("0.10")
        def blocking(number: int, prompt: Prompt, request: Request):
            assert request.state.payment == paywall.payment
            return {"prompt": f"{number} {prompt.prompt}", "hidden": True}

        reply = pay(app, "POST", "/async/7?q=x", b'{"prompt":"p"}')
        assert (reply.status, reply.json) == (200, {"said": "7 p POST x None"})
        assert order == ["in", "run", "out"]
        reply = pay(app, "POST", "/sync/7", b'{"prompt":"p"}')
        assert (reply.status, reply.json) == (200, {"prompt": "7 p"})
        body = app.openapi()["paths"]["/sync/{number}"]["post"]["requestBody"]
        assert body["content"]["application/json"]["schema"]["$ref"].endswith("/Prompt")

    def test_answers_a_wrong_form_before_it_asks_for_money(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)
        runs = []

        @app.post("/{number}")
        @paywall.charge("0.10")
        async def endpoint(number: int, prompt: Prompt):
            runs.append(number)
            return {}

        for target, body in (("/7", b""), ("/7", b"{}"), ("/x", b'{"prompt":"p"}')):
            assert ask(app, "POST", target, body).status == 422
        headers = {"Content-Type": "application/json"}
        reply = asyncio.run(asked(app, "POST", "/7", headers, b'{"prompt":"p"}'))
        assert (reply.status, reply.json["error"]) == (402, "Payment Required")
        tx_id = pay.fund()
        reply = pay(app, "POST", "/7", b"{}", tx_id)
        assert (reply.status, reply.json["detail"][0]["loc"]) == (422, ["body", "prompt"])
        # Nothing was used: the corrected request is served.
        assert pay(app, "POST", "/7", b'{"prompt":"p"}', tx_id).status == 200
        assert runs == [7]

    def test_may_refuse_by_a_dependency_before_anything_is_used(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)

        def forbid():
            raise HTTPException(403, "not you")

        app.add_api_route(
            "/", paywall.charge("0.10")(lambda: "never"), dependencies=[Depends(forbid)]
        )
        tx_id = pay.fund()
        assert pay(app, "GET", "/", tx_id=tx_id).json == {"detail": "not you"}
        assert ask(app, "GET", "/").status == 403
        assert pay.state(tx_id) is State.COMMITTED

    def test_knows_charged_routes_of_routers_and_mounted_applications(self, provider, pay):
        app, inner = FastAPI(), FastAPI()
        paywall = Paywall(provider, app=app)
        router = APIRouter(prefix="/router")

        @router.get("/items/{item}")
        @paywall.charge("0.10")
        async def item(item: str):
            return item

        @inner.get("/items/{item}")
        @paywall.charge("0.20")
        def mounted(item: str):
            return item

        app.include_router(router, prefix="/v1")
        app.include_router(router, prefix="/v2")
        app.mount("/inner", inner)
        assert pay(app, "GET", "/v2/router/items/a").json == "a"
        reply = ask(app, "GET", "/inner/items/b")
        assert reply.json["accepts"][0]["amount"] == "200000"
        metrics = ask(app, "GET", "/metrics").body.decode()
        assert 'calls_total{route="GET /v2/router/items/{item}"} 1' in metrics
        routes = ask(app, "GET", "/api/pricing").json["routes"]
        assert {route["route"] for route in routes} == {
            "GET /v1/router/items/{item}",
            "GET /v2/router/items/{item}",
            "GET /inner/items/{item}",
        }

    def test_knows_charged_routes_that_are_added_while_it_serves(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)
        assert ask(app, "GET", "/late").status == 404
        app.add_api_route("/late", paywall.charge("0.10")(lambda: "late"))
        assert pay(app, "GET", "/late").json == "late"
        assert 'calls_total{route="GET /late"} 1' in ask(app, "GET", "/metrics").body.decode()

    def test_streams_what_an_endpoint_yields(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)

        @app.get("/")
        @paywall.charge("0.10")
        async def endpoint():
            for number in range(3):
                assert paywall.payment.attempt == 1
                yield {"number": number}

        tx_id = pay.fund()
        first, again = (pay(app, "GET", "/", tx_id=tx_id) for _ in range(2))
        assert first.status == 200 and first.body.count(b"number") == 3
        assert again.body == first.body and again.receipt
        assert ask(app, "GET", "/").status == 402

    def test_an_endpoint_that_blocks_cannot_be_paused(self, provider):
        with pytest.raises(TypeError, match="async def"):

            @Paywall(provider).charge("0.10")
            def endpoint():
                yield 1

        with pytest.raises(TypeError, match="put it on the methods of Prompt"):
            Paywall(provider).charge("0.10")(Prompt)

    def test_an_own_route_under_a_free_path_answers(self, provider):
        app = FastAPI()
        Paywall(provider, app=app)
        app.add_api_route("/health", lambda: "my own")
        assert ask(app, "GET", "/health").json == "my own"
        assert ask(app, "GET", "/metrics").status == 200

    def test_what_is_mounted_at_a_free_path_answers_and_what_is_mounted_above_does_not(
        self, provider
    ):
        app = FastAPI()
        Paywall(provider, app=app)
        app.mount("/metrics", PlainTextResponse("my own"))
        app.mount("/", PlainTextResponse("a site"))
        assert ask(app, "GET", "/metrics/").body == b"my own"
        # Where it goes from here is the application's to say.
        assert b"agirails" not in ask(app, "GET", "/metrics").body
        assert ask(app, "GET", "/health").json["status"] == "ok"

    def test_unpaid_requests_make_no_charges_of_their_own(self, provider):
        app = FastAPI()
        paywall = Paywall(provider, app=app)
        paid = [paywall.charge(price)(lambda: "ok") for price in ("0.10", "0.20")]

        @app.get("/first/{number}")
        async def first(number: int):
            return await paid[0]()

        @app.get("/second/{number}")
        async def second(number: int):
            return await paid[1]()

        for number in range(5):
            for path in ("first", "second"):
                assert ask(app, "GET", f"/{path}/{number}").status == 402
        routes = ask(app, "GET", "/api/pricing").json["routes"]
        assert {route["route"] for route in routes} == {"/first/{number}", "/second/{number}"}

    def test_options_does_not_run_the_endpoint(self, provider):
        app = FastAPI()
        paywall = Paywall(provider, app=app)
        app.add_api_route("/", paywall.charge("0.10")(lambda: "ok"), methods=["GET", "OPTIONS"])
        reply = ask(app, "OPTIONS", "/")
        assert (reply.status, reply.body) == (204, b"")
        assert allowed(reply) == {"GET", "HEAD", "OPTIONS"}
        assert ask(app, "PUT", "/").status == 405

    @pytest.mark.parametrize("is_inside", [True, False])
    def test_every_answer_has_the_applications_cors_headers(self, provider, pay, is_inside):
        app, origins = FastAPI(), ["https://one.example", "https://two.example"]
        cors = {"allow_origins": origins, "allow_methods": ["*"], "allow_headers": ["*"]}
        if is_inside:
            app.add_middleware(CORSMiddleware, **cors)
        paywall = Paywall(provider, app=app)
        if not is_inside:
            app.add_middleware(CORSMiddleware, **cors)
        app.add_api_route("/", paywall.charge("0.10")(lambda: "ok"))
        tx_id = pay.fund()
        payment = {"X-AGIRAILS-TX-ID": tx_id}
        preflight = {"Access-Control-Request-Method": "GET"}
        for method, status, headers in (
            ("OPTIONS", 200, preflight),
            ("GET", 402, {}),
            ("GET", 400, {"X-AGIRAILS-TX-ID": "0x12"}),
            ("GET", 200, payment),
            ("GET", 200, payment),
        ):
            for origin in origins:
                reply = ask(app, method, "/", Origin=origin, **headers)
                assert reply.status == status
                assert reply.headers["access-control-allow-origin"] == origin
                assert status != 200 or "origin" in reply.headers["vary"].lower()

    def test_a_charged_dependency_does_not_lower_the_price(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)

        @paywall.charge("0.10")
        async def cheap():
            return "cheap"

        @app.get("/dear")
        @paywall.charge("5.00")
        async def dear(part: str = Depends(cheap)):  # noqa: B008
            return {"part": part, "price": paywall.payment.price}

        @app.get("/only")
        async def only(part: str = Depends(cheap)):  # noqa: B008
            return part

        assert ask(app, "GET", "/dear").json["accepts"][0]["amount"] == "5000000"
        small, enough = pay.fund(), pay.fund(5_000_000)
        assert pay(app, "GET", "/dear", tx_id=small).status == 402
        assert pay(app, "GET", "/dear", tx_id=enough).json == {"part": "cheap", "price": 5_000_000}
        assert pay(app, "GET", "/only", tx_id=small).json == "cheap"
        routes = ask(app, "GET", "/api/pricing").json["routes"]
        prices = {route["route"]: route["price"] for route in routes}
        assert prices == {"GET /dear": "5.00 USDC", "GET /only": "0.10 USDC"}

    def test_a_dearer_function_inside_asks_for_the_difference(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)
        runs = []

        @paywall.charge("5.00")
        async def dear():
            runs.append(paywall.payment.price)
            return "dear"

        @app.get("/")
        @paywall.charge("0.10")
        async def cheap():
            return await dear()

        small, enough = pay.fund(), pay.fund(5_000_000)
        reply = pay(app, "GET", "/", tx_id=small)
        assert (reply.status, reply.json["required"]) == (402, "5.00")
        assert pay.state(small) is State.COMMITTED
        assert pay(app, "GET", "/", tx_id=enough).json == "dear"
        assert runs == [5_000_000]

    def test_a_price_function_may_refuse_a_request(self, provider, pay):
        app = FastAPI()
        paywall = Paywall(provider, app=app)

        async def price(request: Request):
            try:
                return f"0.{len((await request.json())['prompt']):02}"
            except ValueError:
                raise HTTPException(400, "no JSON") from None

        @app.post("/")
        @paywall.charge(price)
        async def endpoint(request: Request):
            return {"price": paywall.payment.amount, "body": await request.json()}

        reply = ask(app, "POST", "/", b'{"prompt":"0123456789"}')
        assert reply.json["accepts"][0]["amount"] == "100000"
        assert ask(app, "POST", "/", b"nonsense").json == {"detail": "no JSON"}
        assert pay(app, "POST", "/", b'{"prompt":"0123456789"}').json["price"] == 100_000


class TestStarlette:
    def test_methods_of_an_endpoint_class_have_their_own_prices(self, provider, pay):
        paywall = Paywall(provider)

        class Items(HTTPEndpoint):
            async def get(self, request):
                return PlainTextResponse("free")

            @paywall.charge("0.10")
            async def post(self, request):
                return PlainTextResponse(f"paid {request.state.payment.price}")

            @paywall.charge("0.10")
            def put(self, request):
                return PlainTextResponse(f"put {paywall.payment.price}")

        app = Starlette(routes=[Mount("/a", routes=[Route("/items", Items)])])
        paywall.init_app(app)
        assert ask(app, "GET", "/a/items").body == b"free"
        assert ask(app, "POST", "/a/items").status == 402
        assert pay(app, "POST", "/a/items").body == b"paid 0.10"
        assert pay(app, "PUT", "/a/items").body == b"put 0.10"
        routes = ask(app, "GET", "/api/pricing").json["routes"]
        assert {route["route"] for route in routes} == {"POST /a/items", "PUT /a/items"}

    def test_middleware_may_stand_on_either_side(self, provider, pay):
        class Stamp(BaseHTTPMiddleware):
            async def dispatch(self, request, call_next):
                response = await call_next(request)
                response.headers["X-Stamp"] = "1"
                return response

        def application(paywall, outside: bool):
            @paywall.charge("0.10")
            async def endpoint(request):
                return JSONResponse({"text": "word " * 1_000})

            app = Starlette(routes=[Route("/", endpoint)])
            for step in ("paywall", "stamp") if outside else ("stamp", "paywall"):
                if step == "paywall":
                    paywall.init_app(app)
                else:
                    app.add_middleware(Stamp)
                    app.add_middleware(GZipMiddleware)
            return app

        for outside in (True, False):
            app = application(Paywall(provider), outside)
            tx_id = pay.fund()
            first, again = (pay(app, "GET", "/", tx_id=tx_id) for _ in range(2))
            assert first.status == 200 and first.json == again.json
            assert first.headers["x-stamp"] == again.headers["x-stamp"] == "1"
            # It was whole before its first byte left, middleware that takes it apart or not.
            assert first.receipt == again.receipt
            assert ask(app, "GET", "/").status == 402

    def test_a_small_file_has_a_receipt_and_a_large_one_is_a_stream(self, provider, pay, tmp_path):
        most = {"max_kept_stream_bytes": 200_000, "max_kept_answer_bytes": 200_000}
        paywall = Paywall(provider, **most)
        for name, size in (("small", 200_000), ("large", 200_001)):
            (tmp_path / name).write_bytes(b"x" * size)

        @paywall.charge("0.10")
        async def endpoint(request):
            return FileResponse(tmp_path / request.path_params["name"])

        app = Starlette(routes=[Route("/{name}", endpoint)])
        paywall.init_app(app)
        tx_id = pay.fund()
        small, large = pay(app, "GET", "/small"), pay(app, "GET", "/large", tx_id=tx_id)
        assert (len(small.body), len(large.body)) == (200_000, 200_001)
        assert small.receipt and "x-agirails-receipt" not in large.headers
        until(lambda: pay.state(tx_id) is State.DELIVERED)

    def test_without_a_paywall_around_it_nothing_is_served(self, provider, pay):
        app = Starlette(
            routes=[Route("/", Paywall(provider).charge("0.10")(lambda _: PlainTextResponse("x")))]
        )
        with pytest.raises(RuntimeError, match="outside of its paywall"):
            pay(app, "GET", "/")

    def test_lifespan_and_websockets_pass(self, provider):
        seen = []

        async def inner(scope, receive, send):
            seen.append(scope["type"])

        paywall = Paywall(provider)
        app = paywall.wrap(inner, {"GET /": "0.10"})
        star = Starlette()
        paywall.init_app(star)
        for kind in ("lifespan", "websocket"):
            asyncio.run(app({"type": kind, "path": "/"}, None, None))
        assert seen == ["lifespan", "websocket"]


class TestWhoGoesAway:
    def application(self, paywall, made):
        @paywall.charge("0.10")
        async def stream(request):
            async def generated():
                for number in range(10):
                    made.append(number)
                    yield str(number)
                    await asyncio.sleep(0.01)

            return StreamingResponse(generated())

        @paywall.charge("0.10")
        async def slow(request):
            await asyncio.sleep(0.5)
            made.append(await request.is_disconnected())
            return PlainTextResponse("done")

        app = Starlette(routes=[Route("/stream", stream), Route("/slow", slow)])
        paywall.init_app(app)
        return app

    @pytest.mark.parametrize("stay", [0, 1, 5])
    def test_leaves_a_stream_that_is_served_to_its_end(self, provider, pay, stay):
        made: list[object] = []
        app, tx_id = self.application(Paywall(provider), made), pay.fund()
        assert len(pay(app, "GET", "/stream", tx_id=tx_id, stay=stay).body) <= stay
        assert made == list(range(10))
        reply = pay(app, "GET", "/stream", tx_id=tx_id)
        assert reply.body == b"0123456789" and reply.receipt
        until(lambda: pay.state(tx_id) is State.DELIVERED)

    def test_or_is_cancelled_leaves_a_call_that_goes_on(self, provider, pay):
        made: list[object] = []
        app, tx_id = self.application(Paywall(provider), made), pay.fund()

        async def scene():
            headers = {"X-AGIRAILS-TX-ID": tx_id}
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asked(app, "GET", "/slow", headers, b""), 0.1)
            # Whoever asks again waits for the same run.
            return await asked(app, "GET", "/slow", headers, b"")

        reply = asyncio.run(scene())
        assert (reply.body, reply.headers["x-agirails-replay"]) == (b"done", "1")
        assert made == [False]

    def test_fifty_of_one_request_in_one_loop_are_one_run(self, provider, pay):
        made: list[object] = []
        app, tx_id = self.application(Paywall(provider), made), pay.fund()

        async def scene():
            headers = {"X-AGIRAILS-TX-ID": tx_id}
            asking = (asked(app, "GET", "/slow", headers, b"") for _ in range(50))
            return await asyncio.gather(*asking)

        replies = asyncio.run(scene())
        assert {(reply.status, reply.body) for reply in replies} == {(200, b"done")}
        assert made == [False]


class TestWrap:
    @staticmethod
    async def echo(scope, receive, send):
        status = 404 if scope["path"].endswith("/health") else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    def test_charges_however_a_path_is_spelled(self, provider, pay):
        routes = {"POST /api/generate": "0.10", "GET /items/{id}/parts": {"price": "0.10"}}
        app = Paywall(provider).wrap(self.echo, routes)
        for target in ("/api/generate", "/api/generate/", "//api//generate", "/api/%67enerate"):
            assert ask(app, "POST", target).status == 402
        for method in ("GET", "HEAD", "get", "head"):
            assert ask(app, method, "/items/%37/parts").status == 402
        assert ask(app, "post", "/api/generate").status == 402
        for method, target in (("GET", "/items/7"), ("POST", "/other")):
            assert ask(app, method, target).status == 200
        assert pay(app, "GET", "/items/7/parts").body == b"/items/7/parts"

    def test_serves_no_other_method_of_a_priced_path(self, provider):
        routes = {"POST /api/generate": "0.10", "PUT /api/generate": None}
        app = Paywall(provider).wrap(self.echo, routes)
        for method in ("GET", "HEAD", "PATCH", "DELETE", "BREW"):
            reply = ask(app, method, "/API//generate")
            assert (reply.status, allowed(reply)) == (405, {"OPTIONS", "POST", "PUT"})
        assert ask(app, "PUT", "/api/generate").body == b"/api/generate"
        reply = ask(app, "OPTIONS", "/api/generate")
        assert (reply.status, allowed(reply)) == (204, {"OPTIONS", "POST", "PUT"})

    def test_asks_the_higher_price_of_two_ways_to_read_a_path(self, provider):
        routes = {"GET /a/{x}": "0.10", "GET /a/{x}/{y}": "5.00"}
        app = Paywall(provider).wrap(self.echo, routes)
        for target, amount in (("/a/b", "100000"), ("/a/b/c", "5000000"), ("/a/b%2Fc", "5000000")):
            assert ask(app, "GET", target).json["accepts"][0]["amount"] == amount

    def test_leaves_the_applications_own_pages(self, provider):
        async def app(scope, receive, send):
            status = 200 if scope["path"] in ("/health", "/api/payments/mine") else 404
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"own page"})

        wrapped = Paywall(provider).wrap(app, {"GET /paid": "0.10"})
        for path in ("/health", "/api/payments/mine"):
            assert ask(wrapped, "GET", path).body == b"own page"
        assert ask(wrapped, "GET", "/api/pricing").json["routes"]
        assert b"agirails" in ask(wrapped, "GET", "/metrics").body
        assert ask(wrapped, "POST", "/metrics").body == b"own page"

    def test_answers_what_a_price_function_raises(self, provider, pay):
        def price(request):
            raise HTTPException(400, {"wrong": "no JSON"}, {"X-Reason": "price"})

        app = Paywall(provider).wrap(self.echo, {"GET /": price})
        for reply in (ask(app, "GET", "/"), pay(app, "GET", "/")):
            assert (reply.status, reply.json) == (400, {"detail": {"wrong": "no JSON"}})
            assert reply.headers["x-reason"] == "price"

    def test_refuses_what_is_no_route(self, provider):
        paywall = Paywall(provider)
        for route in ("/api/generate", "POST", "POST api", "", "P0ST /"):
            with pytest.raises(ValueError, match="must be a method and a path"):
                paywall.wrap(self.echo, {route: "0.10"})
        with pytest.raises(TypeError):
            paywall.wrap(self.echo, {"GET /": {"price": "0.10", "cost": 1}})

    def test_below_a_mounted_path_pages_and_prices_stay_where_they_are(self, provider):
        app = Paywall(provider).wrap(self.echo, {"GET /paid": "0.10"})
        star = Starlette(routes=[Mount("/prefix", app)])
        assert ask(star, "GET", "/prefix/paid").status == 402
        assert ask(star, "GET", "/prefix/health").json["status"] == "ok"
        assert ask(star, "GET", "/prefix/free").status == 200

    def test_below_a_mounted_path_a_close_is_signed_by_its_whole_path(self, tmp_path):
        provider, consumer = (
            ACTPClient(private_key=new_key(), state_directory=tmp_path) for _ in range(2)
        )
        paywall = Paywall(provider)
        app = Starlette(routes=[Mount("/prefix", paywall.wrap(self.echo, {}))])
        tx_id = fund(consumer, provider.address, metadata=paywall.service_hash)
        target = f"/api/payments/{tx_id}/close"
        for signed, status in ((target, 401), (f"/prefix{target}", 202)):
            signature = sign_request(consumer, tx_id, "POST", signed, b"")
            headers = {"X-AGIRAILS-SIGNATURE": signature}
            assert ask(app, "POST", f"/prefix{target}", **headers).status == status


def test_payments_can_be_closed_and_what_is_owed_be_asked(provider, pay):
    app = FastAPI()
    paywall = Paywall(provider, app=app)
    app.add_api_route("/", paywall.charge("0.10", calls=2)(lambda: "ok"))
    tx_id = pay.fund(200_000)

    async def scene():
        headers = {"X-AGIRAILS-TX-ID": tx_id, "Idempotency-Key": "1"}
        assert (await asked(app, "GET", "/", headers, b"")).status == 200
        assert await paywall.close("0x" + "12" * 32) is None
        assert await paywall.close(tx_id) == "delivering"
        assert await paywall.owed() in (0, 1)

    asyncio.run(scene())
    until(lambda: pay.state(tx_id) is State.DELIVERED)
