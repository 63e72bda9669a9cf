"""Nothing with a price is served free, whichever framework stands behind the paywall."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from framework_apps import CHARGED, FRAMEWORKS, TEXT
from paid import request
from support import HERE, free_port, fund, new_address, started, until

from agirails import ACTPClient

SPELLINGS = """
/api/items/x /api/items/x%2Fy /api/items/x%2fy /api/items/x%252Fy /api/items/x%5Cy /api/items/%2F
/api/items/x% /api/items/x%c0 /api/items/x/ //api/items/x /api//items/x /api/items/x%00y
/api/items/x%0Ay /api/items/x;v=1 /api/items/..%2Fx /API/Items/x
/api/premium /api%2Fpremium /api/premium%2F /api/premium/ /api/premium// //api/premium
/api/%70remium /api/./premium /api/x/../premium /api/premium%20 /api/premium%3F /api/premium%23
/api\\premium http://h/api/premium /API/premium /api/premium?x=/free /api/premium;x
/api/pr%65mium%2f /api/premium%00 /api/premium#x /%61pi/premium /api/premium%252F
""".split()


class Service:
    def __init__(self, port: int, directory: Path, provider: str) -> None:
        self.port, self.provider = port, provider
        self.consumer = ACTPClient(requester_address=new_address(), state_directory=directory)

    def ask(self, method: str, target: str, **headers: str) -> tuple[int, bytes]:
        """Status and body, of a request line that is sent as it stands here."""
        lines = [f"{method} {target} HTTP/1.1", "Host: h", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        with socket.create_connection(("127.0.0.1", self.port), 30) as wire:
            wire.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = b""
            while piece := wire.recv(1 << 16):
                answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    directory, provider = tmp_path_factory.mktemp("frameworks"), new_address()
    services = {name: Service(free_port(), directory, provider) for name in FRAMEWORKS}
    arguments = [f"{name}={service.port}" for name, service in services.items()]
    command = [sys.executable, str(HERE / "framework_apps.py"), provider, *arguments]
    log = directory / "log"
    with started(command, log, cwd=directory, ACTP_STATE_DIR=str(directory)):
        for service in services.values():
            try:
                until(lambda service=service: listens(service.port), 60)
            except AssertionError:
                pytest.fail(log.read_text()[-3000:])
        yield services


@pytest.fixture(params=FRAMEWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def service(name: str, ports: dict[str, Service]) -> Service:
    return ports[name]


def test_no_spelling_of_a_priced_path_is_served_free(service):
    holes = []
    for target in SPELLINGS:
        for method in ("GET", "HEAD", "get"):
            status, body = service.ask(method, target)
            if status == 200 or TEXT.encode() in body:
                holes.append(f"{method} {target}: {status}")
    assert holes == []


def test_who_pays_is_served_once(service):
    tx_id = fund(service.consumer, service.provider)
    for target in ("/api/items/7", "/api/items/7"):
        reply = request(service.port, "GET", target, headers={"X-AGIRAILS-TX-ID": tx_id})
        assert (reply.status, reply.body) == (200, TEXT.encode())
    assert reply.headers["x-agirails-replay"] == "1"
    assert request(service.port, "GET", "/free").body == TEXT.encode()


def test_no_other_method_is_served_free(service, name):
    for method in ("POST", "PUT", "PATCH", "OPTIONS"):
        reply = request(service.port, method, "/api/premium")
        assert reply.status != 200 or TEXT.encode() not in reply.body
        if name not in CHARGED:
            assert reply.status == (204 if method == "OPTIONS" else 405)
            assert {"GET", "HEAD", "OPTIONS"} == set(reply.headers["allow"].split(", "))
