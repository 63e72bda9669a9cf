"""Bodies and prefixes, behind the servers that people use."""

import contextlib
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import HERE, free_port, fund, new_address, new_key, served

from agirails import ACTPClient, sign_request

GUNICORN = "gunicorn --no-control-socket --bind 127.0.0.1:{port} edge_apps:flask_app"
SERVERS = {
    "gunicorn": GUNICORN,
    "gunicorn threads": f"{GUNICORN} --threads 4",
    "waitress": "waitress {options} --listen 127.0.0.1:{port} edge_apps:flask_app",
    "flask": "flask --app edge_apps:flask_app run --port {port}",
    "uvicorn": "uvicorn --port {port} edge_apps:asgi_app",
}
MIB = 1 << 20


class Service:
    def __init__(self, port: int, directory: Path, provider: str) -> None:
        self.port, self.provider = port, provider
        self.consumer = ACTPClient(private_key=new_key(), state_directory=directory)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        signed: str | None = None,
        is_chunked: bool = False,
        **headers: str,
    ) -> tuple[int, bytes]:
        """What comes back to a caller that writes all before it reads. `signed` is the target that
        it pays for."""
        lines = [f"{method} {target} HTTP/1.1", "Host: h", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if signed is not None:
            tx_id = fund(self.consumer, self.provider)
            signature = sign_request(self.consumer, tx_id, method, signed, body)
            lines += [f"X-AGIRAILS-TX-ID: {tx_id}", f"X-AGIRAILS-SIGNATURE: {signature}"]
        framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", self.port), 60) as wire:
            wire.sendall("\r\n".join([*lines, framing, "", ""]).encode())
            for at in range(0, len(body), 1 << 16):
                piece = body[at : at + (1 << 16)]
                wire.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
            if is_chunked:
                wire.sendall(b"0\r\n\r\n")
            answer = b""
            while got := wire.recv(1 << 16):
                answer += got
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), content


Make = Callable[..., contextlib.AbstractContextManager[Service]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Starts a server with environment variables and options of its own."""

    @contextlib.contextmanager
    def make(server: str, *options: str, **env: str) -> Iterator[Service]:
        port, provider = free_port(), new_address()
        line = SERVERS[server].format(port=port, options=" ".join(options))
        command = [*line.split(), *(options if server == "uvicorn" else ())]
        env |= {"PROVIDER_ADDRESS": provider, "ACTP_STATE_DIR": str(tmp_path)}
        env |= {"PYTHONPATH": str(HERE)}
        url = f"http://127.0.0.1:{port}/health"
        with served([sys.executable, "-m", *command], url, tmp_path / "log", **env):
            yield Service(port, tmp_path, provider)

    return make


@pytest.mark.parametrize("server", SERVERS)
def test_a_body_is_whole_or_refused_as_too_long_and_its_writer_is_told(make, server):
    target = "/api/size"
    with make(server) as service:
        for is_chunked in (False, True):
            for length, status in ((1_000, 200), (1_001, 413), (3_000, 413)):
                body = b"x" * length
                got, content = service.ask("POST", target, body, target, is_chunked)
                assert got == status, (is_chunked, length, content)
                if status == 200:
                    assert json.loads(content)["size"] == length
        for is_chunked in (False, True):
            body = b"x" * (17 * MIB)
            assert service.ask("POST", target, body, target, is_chunked)[0] == 413
            # Who did not pay is told so, or that it is too long.
            assert service.ask("POST", target, body, is_chunked=is_chunked)[0] in (402, 413)


@pytest.mark.parametrize("server", ["gunicorn", "flask"])
def test_the_applications_own_limit_holds_for_bodies_in_chunks(make, server):
    with make(server, OWN_LIMIT="500") as service:
        for length, status in ((500, 200), (501, 413), (900, 413)):
            got = service.ask("POST", "/api/size", b"x" * length, "/api/size", True)
            assert got[0] == status, got


PREFIXED = {
    "ProxyFix": ("gunicorn", (), {}, {"X_Forwarded_Prefix": "/shop"}, "/api/size"),
    "SCRIPT_NAME": ("gunicorn", (), {"SCRIPT_NAME": "/shop"}, {}, "/shop/api/size"),
    "waitress prefix": ("waitress", ("--url-prefix=/shop",), {}, {}, "/shop/api/size"),
    "root_path": ("uvicorn", (), {"ROOT_PATH": "/shop"}, {}, "/api/size"),
    "--root-path": ("uvicorn", ("--root-path", "/shop"), {}, {}, "/api/size"),
    "public_url, Flask": ("gunicorn", (), {"PUBLIC_URL": "https://h/shop"}, {}, "/api/size"),
    "public_url, ASGI": ("uvicorn", (), {"PUBLIC_URL": "https://h/shop"}, {}, "/api/size"),
}


@pytest.mark.parametrize("how", PREFIXED)
def test_behind_a_prefix_callers_sign_and_see_the_path_that_they_call(make, how):
    server, options, env, headers, inside = PREFIXED[how]
    with make(server, *options, **env) as service:
        query = "?x=%41b"
        signed = f"/shop/api/size{query}"
        got = service.ask("POST", f"{inside}{query}", b"body", signed, **headers)
        assert got[0] == 200, got
        status, content = service.ask("GET", inside, **headers)
        assert status == 402
        links = json.loads(content)["links"]
        assert links["pricing"].removeprefix("https://h") == "/shop/api/pricing"
        assert links["pricing"].startswith("https://h") == ("public_url" in how)
