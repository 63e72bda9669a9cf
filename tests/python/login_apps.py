"""Services with a login before every route, for test_login.py."""

import os

from agirails import ACTPClient

PASSWORD = "opened"


def client():
    return ACTPClient(private_key=os.environ["PROVIDER_PRIVATE_KEY"])


def flask_app():
    from flask import Flask, abort, request

    from agirails.flask import Paywall

    app = Flask(__name__)
    paywall = Paywall(client(), app=app)

    @app.before_request
    def login():
        is_open = paywall.guards(request) and request.path != "/api/members"
        if not (is_open or request.headers.get("X-Login") == PASSWORD):
            abort(401)

    @app.get("/private")
    def private():
        return {"private": True}

    @app.get("/api/quote")
    @paywall.charge("0.10")
    def quote():
        return {"price": 42}

    @app.get("/api/members")
    @paywall.charge("0.10")
    def members():
        return {"member": True}

    return app


def routes(app, paywall):
    @app.get("/private")
    async def private():
        return {"private": True}

    @app.get("/api/quote")
    @paywall.charge("0.10")
    async def quote():
        return {"price": 42}

    @app.get("/api/members")
    @paywall.charge("0.10")
    async def members():
        return {"member": True}


def fastapi_app():
    from fastapi import Depends, FastAPI, HTTPException, Request

    from agirails.asgi import Paywall

    def login(request: Request) -> None:
        is_open = paywall.guards(request) and request.url.path != "/api/members"
        if not (is_open or request.headers.get("X-Login") == PASSWORD):
            raise HTTPException(401)

    app = FastAPI(dependencies=[Depends(login)])
    paywall = Paywall(client(), app=app)
    routes(app, paywall)

    # No dependency is asked where there is no route.
    @app.api_route("/{path:path}")
    async def nowhere(path: str):
        raise HTTPException(404)

    return app


def fastapi_app_behind_a_middleware():
    from fastapi import FastAPI
    from starlette.responses import JSONResponse

    from agirails.asgi import Paywall

    app = FastAPI()
    paywall = Paywall(client(), app=app)
    routes(app, paywall)

    @app.middleware("http")
    async def login(request, call_next):
        is_open = paywall.guards(request) or request.url.path == "/api/quote"
        if not (is_open or request.headers.get("X-Login") == PASSWORD):
            return JSONResponse({"detail": "log in"}, 401)
        return await call_next(request)

    return app
