"""Paid services behind real servers: raw requests, and programs that may be missing."""

import http.client
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paid import Reply
from support import HERE, PRICE, fund, new_key, served, started, until

from agirails import ACTPClient, sign_request

# Longer bodies are refused. A socket's buffers hold less than what exceeds it in these tests.
MAX_BODY_BYTES = 100_000


def program(name: str, package: str) -> str:
    """The path of a program. Without it the test is skipped; in CI it fails."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        missing(f"the program {name} (Debian package {package}) is not installed")
    return str(found)


def missing(what: str) -> None:
    """Skips a test for what this machine lacks. In CI nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def head(method: str, target: str, headers: Mapping[str, str], version: str = "1.1") -> bytes:
    """A request's head, byte by byte as given here."""
    lines = [f"{method} {target} HTTP/{version}", "Host: shop.example"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(body: bytes, size: int = 4096) -> bytes:
    """A body in the chunked transfer coding."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def read_reply(wire: socket.socket, method: str = "GET") -> Reply:
    """The next response on a connection; repeated headers are joined."""
    response = http.client.HTTPResponse(wire, method=method)
    response.begin()
    names: dict[str, str] = {}
    for name, value in response.getheaders():
        name = name.lower()
        names[name] = f"{names[name]}, {value}" if name in names else value
    return Reply(response.status, names, response.read())


def send(port: int, request: bytes, method: str = "GET", timeout: float = 20) -> Reply:
    """One request over a connection of its own. It is written whole before anything is read."""
    with socket.create_connection(("127.0.0.1", port), timeout) as wire:
        wire.sendall(request)
        return read_reply(wire, method)


class Service(NamedTuple):
    """A running service, its provider, and a consumer who pays it."""

    port: int
    directory: Path
    provider: str
    consumer: ACTPClient

    def fund(self, amount: int = PRICE, **options: int) -> str:
        return fund(self.consumer, self.provider, amount, **options)

    def signed(
        self, method: str, target: str, body: bytes = b"", key: str = "", tx_id: str = ""
    ) -> dict[str, str]:
        """The headers of a paid request, for a transaction of its own unless one is named."""
        tx_id = tx_id or self.fund()
        signature = sign_request(self.consumer, tx_id, method, target, body, idempotency_key=key)
        headers = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signature}
        return {**headers, "Idempotency-Key": key} if key else headers

    def call(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Reply:
        """A request with these headers and a Content-Length, and `Connection: close`."""
        named = {"Connection": "close", **(headers or {})}
        if body is not None:
            named["Content-Length"] = str(len(body))
        return send(self.port, head(method, target, named, **options) + (body or b""), method)

    def pay(self, method: str, target: str, body: bytes | None = None, **options: Any) -> Reply:
        """A paid request."""
        return self.call(method, target, body, self.signed(method, target, body or b"", **options))

    @property
    def runs(self) -> int:
        """How often paid functions ran so far."""
        runs = self.directory / "runs"
        return len(runs.read_text().splitlines()) if runs.exists() else 0

    def at(self, port: int) -> "Service":
        """The same service, as it is reached at another port."""
        return self._replace(port=port)


@contextmanager
def service(
    command: list[str],
    directory: Path,
    port: int,
    settings: str = "{}",
    own_error: str = "",
    **env: str,
) -> Iterator[Service]:
    """A server of edge_flask_app or edge_asgi_app, until the block ends.

    Its log must be clean, but for an error that is the server's own.
    """
    key, log = new_key(), directory / "log"
    provider = ACTPClient(private_key=key, in_memory=True).address
    consumer = ACTPClient(private_key=new_key(), state_directory=directory)
    names = {
        "ACTP_STATE_DIR": str(directory),
        "PROVIDER_PRIVATE_KEY": key,
        "PYTHONPATH": str(HERE),
        "RUNS": str(directory / "runs"),
        "SETTINGS": settings,
        **env,
    }
    with served(command, f"http://127.0.0.1:{port}/health", log, directory, **names):
        yield Service(port, directory, provider, consumer)
    text = log.read_text(errors="replace")
    excused = text.count(own_error) if own_error else 0
    assert "panicked" not in text and text.count("Traceback") == excused, text[-5_000:]


@contextmanager
def nginx(directory: Path, port: int, server: str, http: str = "") -> Iterator[Path]:
    """nginx on this port, with these lines in its `server` and `http` blocks. Yields its error log."""
    binary, home = program("nginx", "nginx"), directory / f"nginx-{port}"
    home.mkdir()
    places = "".join(
        f"{kind}_temp_path {home}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Without root there is no other user to become, and `user` would be warned of.
    user = "user root; " if os.getuid() == 0 else ""
    (home / "nginx.conf").write_text(
        f"daemon off; {user}pid {home}/pid; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {places}\n{http}\n"
        f"server {{ listen 127.0.0.1:{port};\n{server}\n}} }}\n"
    )
    errors = home / "error.log"
    command = [binary, "-c", str(home / "nginx.conf"), "-e", str(errors)]
    with listening(command, port, home):
        yield errors


@contextmanager
def varnish(directory: Path, port: int, behind: int) -> Iterator[None]:
    """Varnish with its built-in rules on this port, in front of another one."""
    binary, home = program("varnishd", "varnish"), directory / f"varnish-{port}"
    command = [
        *(binary, "-F", "-n", str(home / "work"), "-s", "malloc,8m"),
        *("-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{behind}"),
    ]
    home.mkdir()
    with listening(command, port, home):
        yield


@contextmanager
def listening(command: list[str], port: int, home: Path) -> Iterator[None]:
    """A process that listens on this port."""

    def accepts() -> bool:
        assert process.poll() is None, (home / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    with ExitStack() as ends:
        process = ends.enter_context(started(command, home / "log", home))
        until(accepts, 30)
        yield
