"""JSON-RPC nodes on loopback that hand everything on, and lie, limit or count on the way."""

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Changes an answer in place: the request's object, the answer's object.
Lie = Callable[[dict[str, Any], dict[str, Any]], None]


class Node:
    """What stands between a client and a chain."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.lie: Lie | None = None
        # Calls that are answered in a second; what is more gets 429.
        self.limit: int | None = None
        self.calls: Counter[str] = Counter()
        self.refused = 0
        self._second = (0, 0)
        self._lock = threading.Lock()
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = node.answer(body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)
        calls = asked if isinstance(asked, list) else [asked]
        if self._is_over_the_limit(len(calls)):
            return 429, b""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.upstream, body, headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            answered = json.loads(reply.read())
        by_id = {call["id"]: call for call in calls}
        for answer in answered if isinstance(answered, list) else [answered]:
            call = by_id[answer["id"]]
            self.calls[call["method"]] += 1
            if self.lie is not None:
                self.lie(call, answer)
        return 200, json.dumps(answered).encode()

    def _is_over_the_limit(self, calls: int) -> bool:
        with self._lock:
            second = int(time.time())
            taken = self._second[1] if self._second[0] == second else 0
            self._second = (second, taken + calls)
            is_over = self.limit is not None and taken + calls > self.limit
            self.refused += calls if is_over else 0
            return is_over

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def node(upstream: str) -> Iterator[Node]:
    between = Node(upstream)
    try:
        yield between
    finally:
        between.close()


def word(value: str | int) -> str:
    """32 bytes of an ABI encoding, in hex."""
    digits = value.removeprefix("0x") if isinstance(value, str) else f"{value:x}"
    return digits.lower().rjust(64, "0")
