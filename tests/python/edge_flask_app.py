"""A paid Flask service for every WSGI server, and for the bridges from WSGI to ASGI.

`python -m edge_flask_app cheroot 8000` serves it by a server that has no command line of its own.
"""

import json
import os
import secrets
import sys

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from agirails import ACTPClient
from agirails.flask import Paywall

app = Flask(__name__)
if os.environ.get("PROXY_FIX"):
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1, x_prefix=1)
client = ACTPClient(private_key=os.environ["PROVIDER_PRIVATE_KEY"])
paywall = Paywall(client, app=app, **json.loads(os.environ["SETTINGS"]))


def ran():
    """Counts a run of a paid function in a file that every worker appends to."""
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(f"{request.method} {request.path}\n")


@app.route("/api/items/<path:name>", methods=["GET", "POST"])
@paywall.charge("0.10")
def item(name):
    ran()
    return {
        "name": name,
        "q": request.args.get("q"),
        "body": request.get_data(as_text=True),
        "unique": secrets.token_hex(),
    }


@app.get("/api/stream")
@paywall.charge("0.10")
def stream():
    ran()

    def generated():
        for number in range(20):
            yield f"{number:9}\n" * 1_000

    return generated(), {"Content-Type": "text/plain"}


@app.get("/api/typed/<main>/<sub>")
@paywall.charge("0.10")
def typed(main, sub):
    ran()
    return f"{main} and {sub}, ä and 1\n" * 200, {"Content-Type": f"{main}/{sub}"}


@app.get("/api/bundle")
@paywall.charge("0.001", calls=1000)
def bundle():
    ran()
    return {"unique": secrets.token_hex()}


@app.get("/free")
def free():
    return {"free": True, "root": request.script_root}


def by_asgiref():
    """The service as an ASGI application."""
    from asgiref.wsgi import WsgiToAsgi

    return WsgiToAsgi(app)


def by_a2wsgi():
    """The service as an ASGI application."""
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(app)


def serve(server, port):
    if server == "cheroot":
        from cheroot.wsgi import Server

        Server(("127.0.0.1", port), app).start()
    elif server == "wsgiref":
        from wsgiref.simple_server import make_server

        make_server("127.0.0.1", port, app).serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
