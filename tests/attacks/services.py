"""Services for attacks: on loopback, in this process, ended with their test."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from werkzeug.serving import make_server


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """A WSGI application, at the URL that this yields."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def relaying(port: int, back: Callable[[bytes, bytes], bytes | None]) -> Iterator[str]:
    """A relay before a service. `back` is given what was asked and a piece of the answer, and returns
    what its caller gets of it; None breaks the connection off."""
    server = socket.create_server(("127.0.0.1", 0))

    def relay(outer: socket.socket) -> None:
        with outer, socket.create_connection(("127.0.0.1", port)) as upstream:
            asked = b""

            def forth() -> None:
                nonlocal asked
                with suppress(OSError):
                    while data := outer.recv(65_536):
                        asked += data
                        upstream.sendall(data)

            threading.Thread(target=forth, daemon=True).start()
            with suppress(OSError):
                while data := upstream.recv(65_536):
                    given = back(asked, data)
                    if given is None:
                        break
                    outer.sendall(given)
                outer.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=relay, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
