"""A long answer that is kept, asked for again by callers who do not read it: each costs a piece of it, only
so many are served at once, and nobody's claim waits for them."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from paid import Reply, Stage, ask_wsgi
from support import write_lock
from werkzeug.test import EnvironBuilder, run_wsgi_app

LENGTH = 15 << 20
PIECE = 64 << 10
# Of one payment at once.
MOST = 8
TARGET = "/api/long"


def body() -> bytes:
    return bytes(range(256)) * (LENGTH // 256)


@pytest.fixture(params=["flask", "fastapi", "asgi"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    stage = Stage(tmp_path, request.param)
    if request.param == "flask":
        from flask import Response as Answer

        @stage.app.get(TARGET)
        @stage.paywall.charge("0.10")
        def flask_long():
            return Answer(body(), content_type="application/octet-stream")

    elif request.param == "fastapi":
        from fastapi import Response

        @stage.app.get(TARGET)
        @stage.paywall.charge("0.10")
        async def fastapi_long():
            return Response(body(), media_type="application/octet-stream")

    else:
        from agirails.asgi import Paywall

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body()})

        stage.paywall = Paywall(stage.provider)
        stage.app = stage.paywall.wrap(app, {f"GET {TARGET}": "0.10"})
    return stage


def paid(stage: Stage) -> dict[str, str]:
    """The headers of a call that was answered."""
    tx_id = stage.fund()
    headers = stage.headers(tx_id, "GET", TARGET, b"")
    first = stage.ask("GET", TARGET, b"", **headers)
    assert (first.status, len(first.body)) == (200, LENGTH)
    return headers


def test_a_repeat_is_the_same_whole_answer_and_no_writer(stage: Stage):
    headers = paid(stage)
    (file,) = (stage.directory / ".actp").glob("paywall-*.sqlite3")
    # Whoever needs the file's write lock waits until it is given back.
    with write_lock(str(file)):
        again = stage.ask("GET", TARGET, b"", **headers)
    assert (again.status, again.headers["x-agirails-replay"]) == (200, "1")
    assert again.body == body()
    assert again.headers["content-length"] == str(LENGTH)


class SlowReader:
    """Asks, and takes nothing of the body but what the server has sent by itself."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self.app, self.headers = app, headers
        self.status, self.given, self.sent = 0, {}, 0
        self.reads, self.has_begun = asyncio.Event(), asyncio.Event()

    async def ask(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": unquote(TARGET),
            "raw_path": TARGET.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().replace("_", "-").encode(), value.encode())
                for name, value in self.headers.items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.given = {name.decode(): value.decode() for name, value in message["headers"]}
                return
            self.sent += len(message.get("body", b""))
            self.has_begun.set()
            if message.get("more_body"):
                await self.reads.wait()

        await self.app(scope, receive, send)


async def slow_readers(app: Any, headers: dict[str, str]) -> list[SlowReader]:
    readers = [SlowReader(app, headers) for _ in range(MOST + 4)]
    asking = []
    for reader in readers:
        asking.append(asyncio.create_task(reader.ask()))
        await asyncio.wait_for(reader.has_begun.wait(), 60)
    before = [reader.sent for reader in readers]
    for reader in readers:
        reader.reads.set()
    await asyncio.wait_for(asyncio.gather(*asking), 60)
    served = [reader for reader in readers if reader.status == 200]
    # Nothing is taken from the store that nobody reads.
    assert before[:MOST] == [PIECE] * MOST
    assert [reader.sent for reader in served] == [LENGTH] * MOST
    return readers


def wsgi(stage: Stage, headers: dict[str, str]) -> tuple[Any, int, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    builder = EnvironBuilder(TARGET, method="GET", headers=named)
    pieces, status, given = run_wsgi_app(stage.app.wsgi_app, builder.get_environ())
    return pieces, int(status.split()[0]), {name.lower(): value for name, value in given}


def test_callers_who_do_not_read_hold_a_piece_each_and_so_many_at_once(stage: Stage):
    headers = paid(stage)
    if stage.kind != "flask":
        readers = asyncio.run(slow_readers(stage.app, headers))
        refused = [(reader.status, reader.given) for reader in readers[MOST:]]
    else:
        held = [wsgi(stage, headers) for _ in range(MOST)]
        assert [status for _, status, _ in held] == [200] * MOST
        assert {len(next(iter(pieces))) for pieces, _, _ in held} == {PIECE}
        refused = [wsgi(stage, headers)[1:] for _ in range(4)]
        for pieces, _, _ in held:
            # The rest of its pieces, or that it goes away, makes room.
            pieces.close()
    for status, given in refused:
        assert status == 429 and int(given["retry-after"]) > 0
    again: Reply = (
        ask_wsgi(
            stage.app, "GET", TARGET, {k.replace("_", "-"): v for k, v in headers.items()}, b""
        )
        if stage.kind == "flask"
        else stage.ask("GET", TARGET, b"", **headers)
    )
    assert again.body == body()
