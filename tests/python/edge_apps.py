"""Paid services as they stand behind servers and proxies; environment variables say how."""

import os

from fastapi import FastAPI, Request
from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from agirails import ACTPClient
from agirails.asgi import Paywall as AsgiPaywall
from agirails.flask import Paywall as FlaskPaywall

OPTIONS = {
    "max_body_bytes": int(os.environ.get("MAX_BODY", "1000")),
    "public_url": os.environ.get("PUBLIC_URL"),
}
client = ACTPClient(requester_address=os.environ["PROVIDER_ADDRESS"])

flask_app = Flask(__name__)
flask_app.wsgi_app = ProxyFix(flask_app.wsgi_app, x_prefix=1)  # type: ignore[method-assign]
flask_app.config["MAX_CONTENT_LENGTH"] = int(os.environ.get("OWN_LIMIT", "0")) or None
flask_paywall = FlaskPaywall(client, app=flask_app, **OPTIONS)


@flask_app.route("/api/size", methods=["GET", "POST"])
@flask_paywall.charge("0.10")
def size():
    return {"size": len(request.get_data())}


asgi_app = FastAPI(root_path=os.environ.get("ROOT_PATH", ""))
asgi_paywall = AsgiPaywall(client, app=asgi_app, **OPTIONS)


@asgi_app.api_route("/api/size", methods=["GET", "POST"])
@asgi_paywall.charge("0.10")
async def asgi_size(request: Request):
    return {"size": len(await request.body())}
