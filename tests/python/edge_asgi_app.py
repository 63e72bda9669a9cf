"""A paid FastAPI service for every ASGI server, and one without a framework under `wrap`."""

import json
import os
import secrets
from urllib.parse import parse_qs, unquote

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from agirails import ACTPClient
from agirails.asgi import Paywall

SETTINGS = json.loads(os.environ["SETTINGS"])
app = FastAPI(root_path=os.environ.get("ROOT_PATH", ""))
client = ACTPClient(private_key=os.environ["PROVIDER_PRIVATE_KEY"])


def ran(method, path):
    """Counts a run of a paid function in a file that every worker appends to."""
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(f"{method} {path}\n")


if os.environ.get("WRAPPED"):
    paywall = Paywall(client, **SETTINGS)
else:
    paywall = Paywall(client, app=app, **SETTINGS)


@app.api_route("/api/items/{name:path}", methods=["GET", "HEAD", "POST"])
@paywall.charge("0.10")
async def item(name: str, request: Request):
    ran(request.method, request.url.path)
    return {
        "name": name,
        "q": request.query_params.get("q"),
        "body": (await request.body()).decode(),
        "unique": secrets.token_hex(),
    }


@app.get("/api/stream")
@paywall.charge("0.10")
async def stream(request: Request):
    ran(request.method, request.url.path)

    async def generated():
        for number in range(20):
            yield f"{number:9}\n" * 1_000

    return StreamingResponse(generated(), media_type="text/plain")


@app.get("/api/typed/{main}/{sub}")
@paywall.charge("0.10")
async def typed(main: str, sub: str, request: Request):
    ran(request.method, request.url.path)
    content = f"{main} and {sub}, ä and 1\n" * 200
    return Response(content, headers={"Content-Type": f"{main}/{sub}"})


@app.get("/api/bundle")
@paywall.charge("0.001", calls=1000)
async def bundle(request: Request):
    ran(request.method, request.url.path)
    return {"unique": secrets.token_hex()}


@app.get("/free")
def free(request: Request):
    return {"free": True, "root": request.scope["root_path"]}


async def bare(scope, receive, send):
    """The same service without a framework: it routes by the segments as they came."""
    if scope["type"] != "http":
        return
    raw = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    segments = [unquote(segment) for segment in raw.decode("latin-1").split("/")]
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    status, content, kind = 200, b"", b"application/json"
    if segments == ["", "api", "stream"]:
        content = b"".join(f"{number:9}\n".encode() * 1_000 for number in range(20))
        kind = b"text/plain"
    elif segments[:3] == ["", "api", "items"] and len(segments) == 4:
        query = parse_qs(scope["query_string"].decode())
        answer = {
            "name": segments[3],
            "q": query.get("q", [None])[0],
            "body": body.decode(),
            "unique": secrets.token_hex(),
        }
        content = json.dumps(answer).encode()
    else:
        status = 404
    if status == 200:
        ran(scope["method"], scope["path"])
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


if os.environ.get("WRAPPED"):
    app = paywall.wrap(
        bare,
        {
            "GET /api/items/{name}": "0.10",
            "POST /api/items/{name}": "0.10",
            "GET /api/stream": "0.10",
        },
    )
