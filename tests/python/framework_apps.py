"""One service in many frameworks, each on a port of its own: `python framework_apps.py NAME=PORT…`."""

import sys
import threading
from typing import Any

from agirails import ACTPClient
from agirails.asgi import Paywall
from agirails.flask import Paywall as FlaskPaywall

TEXT = "paid content"
PRICES = {"GET /api/items/{id}": "0.10", "GET /api/premium": "0.10"}


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def paid(request):
        return PlainTextResponse(TEXT)

    paths = ("/api/items/{id}", "/api/premium", "/free")
    return Starlette(routes=[Route(path, paid, methods=["GET", "POST"]) for path in paths])


def fastapi() -> Any:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()
    paywall = Paywall(client(), app=app)

    @app.get("/api/items/{id:path}", response_class=PlainTextResponse)
    @paywall.charge("0.10")
    def item(id: str):
        return TEXT

    @app.get("/api/premium", response_class=PlainTextResponse)
    @paywall.charge("0.10")
    async def premium():
        return TEXT

    app.get("/free", response_class=PlainTextResponse)(lambda: TEXT)
    return app


def litestar() -> Any:
    from litestar import Litestar, MediaType, get

    def handler(path: str) -> Any:
        async def paid() -> str:
            return TEXT

        return get(path, media_type=MediaType.TEXT)(paid)

    return Litestar([handler(path) for path in ("/api/items/{id:str}", "/api/premium", "/free")])


def falcon() -> Any:
    import falcon.asgi

    class Paid:
        async def on_get(self, request, response, **_):
            response.content_type, response.text = "text/plain", TEXT

        on_post = on_get

    app = falcon.asgi.App()
    for path in ("/api/items/{id}", "/api/premium", "/free"):
        app.add_route(path, Paid())
    return app


def quart() -> Any:
    from quart import Quart

    app = Quart("framework_apps")

    async def paid(id=None):
        return TEXT

    for number, path in enumerate(("/api/items/<id>", "/api/premium", "/free")):
        app.add_url_rule(path, str(number), paid, methods=["GET", "POST"])
    return app


def django() -> Any:
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    def paid(request, id=None):
        return HttpResponse(TEXT)

    urls = [path(p, paid) for p in ("api/items/<str:id>", "api/premium", "free")]
    settings.configure(ROOT_URLCONF=tuple(urls), ALLOWED_HOSTS=["*"], DEBUG=False)
    django.setup()
    return get_asgi_application()


def blacksheep() -> Any:
    from blacksheep import Application, text

    app = Application()

    async def item(id: str):
        return text(TEXT)

    async def plain():
        return text(TEXT)

    app.router.add_get("/api/items/{id}", item)
    app.router.add_get("/api/premium", plain)
    app.router.add_get("/free", plain)
    return app


def sanic() -> Any:
    from sanic import Sanic, text

    app = Sanic("framework_apps")

    @app.get("/api/items/<id>")
    async def item(request, id):
        return text(TEXT)

    @app.get("/api/premium", name="premium")
    @app.get("/free", name="free")
    async def plain(request):
        return text(TEXT)

    return app


def flask() -> Any:
    from flask import Flask

    app = Flask(__name__)
    paywall = FlaskPaywall(client(), app=app)

    @app.get("/api/items/<path:id>")
    @paywall.charge("0.10")
    def item(id):
        return TEXT

    @app.get("/api/premium")
    @paywall.charge("0.10")
    async def premium():
        return TEXT

    app.add_url_rule("/free", "free", lambda: TEXT)
    return app


CHARGED = {"fastapi": fastapi, "flask": flask}
WRAPPED = {
    "starlette": starlette,
    "litestar": litestar,
    "falcon": falcon,
    "quart": quart,
    "django": django,
    "blacksheep": blacksheep,
    "sanic": sanic,
}
FRAMEWORKS = (*CHARGED, *WRAPPED)
_client: ACTPClient | None = None


def client() -> ACTPClient:
    """The provider of all of them."""
    global _client
    _client = _client or ACTPClient(requester_address=sys.argv[1])
    return _client


def serve(name: str, port: int) -> None:
    if name == "flask":
        from werkzeug.serving import make_server

        return make_server("127.0.0.1", port, flask(), threaded=True).serve_forever()
    import uvicorn

    app = CHARGED[name]() if name in CHARGED else Paywall(client()).wrap(WRAPPED[name](), PRICES)
    uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning")).run()


def main() -> None:
    client()
    threads = []
    for argument in sys.argv[2:]:
        name, _, port = argument.partition("=")
        threads.append(threading.Thread(target=serve, args=(name, int(port)), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
