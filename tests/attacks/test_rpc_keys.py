"""The key in a node's URL: no word of an error, a repr or a log shows it, also where the node does."""

import json
import logging
import pickle
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support import new_key

from agirails import ACTPClient

SECRET = "s3cr3tkey0123456789abcdef"
# The status, and what stands in the answer; `None` for an answer that breaks off.
MODES: dict[str, tuple[int, str] | None] = {
    "401": (401, "{}"),
    "429": (429, "error"),
    "html": (200, "html"),
    "redirect": (301, "html"),
    "refusal": (200, "error"),
    "refusal with a status": (403, "error"),
    "another result": (200, "result"),
    "broken off": None,
}


@contextmanager
def echoing(mode: tuple[int, str] | None) -> Iterator[int]:
    """A node that repeats the URL that it was asked at."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if mode is None:
                return
            user = "user:" + SECRET + "@"
            url = f"http://{user}{self.headers['Host']}{self.path}"

            def one(call: dict[str, Any]) -> dict[str, Any]:
                words = f"invalid project id {SECRET}, see {url}"
                error = {"code": -32602, "message": words, "data": words}
                said = {"error": error} if mode[1] == "error" else {"result": url}
                return {"jsonrpc": "2.0", "id": call.get("id"), **said}

            text = f"<html>{url}</html>"
            if mode[1] in ("error", "result"):
                many = isinstance(asked, list)
                text = json.dumps([one(call) for call in asked] if many else one(asked))
            self.send_response(mode[0], url)
            self.send_header("Location", url)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def words_of(url: str) -> str:
    """Everything that a failure shows."""
    client = None
    with pytest.raises(Exception) as caught:
        client = ACTPClient("testnet", private_key=new_key(), rpc_url=url, in_memory=True)
    error = caught.value
    facts = {name: getattr(error, name, None) for name in dir(error) if not name.startswith("__")}
    # Without the source lines that a traceback quotes, which are this test's.
    told = "".join(traceback.format_exception_only(error)) + repr(error) + repr(facts)
    return told + repr(pickle.dumps(error)) + str(error.__cause__) + repr(client)


@pytest.mark.parametrize("mode", [*MODES, "nobody", "no TLS"])
@pytest.mark.parametrize(
    "url",
    ["http://{host}/v2/SECRET", "http://{host}/?apikey=SECRET", "http://user:SECRET@{host}/"],
    ids=["path", "query", "password"],
)
def test_no_failure_shows_the_key_of_a_nodes_url(
    mode: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = url.replace("SECRET", SECRET)
    if mode in MODES:
        with echoing(MODES[mode]) as port:
            words = words_of(url.format(host=f"127.0.0.1:{port}"))
    else:
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
        scheme = "https" if mode == "no TLS" else "http"
        words = words_of(url.format(host=f"127.0.0.1:{port}").replace("http", scheme, 1))
    assert SECRET not in words
    assert SECRET not in caplog.text
