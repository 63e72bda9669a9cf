"""What a relay between consumer and service may do: interim answers, and redirects."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from edge import Service, service
from support import free_port

import agirails.httpx
from agirails import Consumer

HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
COMMAND = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--threads", "4", "-b"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    port = free_port()
    command = [*COMMAND, f"127.0.0.1:{port}", "edge_flask_app:app"]
    with service(command, tmp_path_factory.mktemp("relayed"), port) as it:
        yield it


@contextmanager
def relay(inner: int, changed: Callable[[bytes], bytes]) -> Iterator[int]:
    """Hands on what comes, and changes each piece of an answer. Yields its port."""

    def copy(source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(change(data))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(outer: socket.socket) -> None:
        with outer, socket.create_connection(("127.0.0.1", inner), 20) as upstream:
            back = threading.Thread(target=copy, args=(upstream, outer, changed), daemon=True)
            back.start()
            copy(outer, upstream, lambda data: data)
            back.join(20)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def by_httpx(consumer: Consumer, url: str) -> Any:
    transport = agirails.httpx.PayingTransport(consumer, max_amount="0.25")
    with httpx.Client(transport=transport, timeout=20) as client:
        return client.post(url, content=b"hello").json()


CALLS: dict[str, Callable[[Consumer, str], Any]] = {
    "call": lambda consumer, url: consumer.call(
        url, data=b"hello", max_amount="0.25", timeout=20
    ).json(),
    "httpx": by_httpx,
}
BEFORE = {
    "every answer, one": (b"HTTP/1.1 ", 1),
    "every answer, two": (b"HTTP/1.1 ", 2),
    "a success": (b"HTTP/1.1 2", 1),
}


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("before", BEFORE)
def test_an_interim_answer_is_not_the_answer(shop: Service, before: str, how: str) -> None:
    """RFC 9110, 15.2: a server or proxy may send 1xx responses before the final one."""
    start, times = BEFORE[before]
    runs = shop.runs
    with relay(
        shop.port, lambda data: HINT * times + data if data.startswith(start) else data
    ) as port:
        origin = f"http://127.0.0.1:{port}"
        consumer = Consumer(shop.consumer, trusted=[origin])
        spent = consumer.spent().day
        assert CALLS[how](consumer, f"{origin}/api/items/hints")["body"] == "hello"
        assert consumer.spent().day - spent == 100_000
    assert shop.runs == runs + 1


def test_a_redirect_is_handed_back_and_nobody_behind_it_is_paid(
    shop: Service, tmp_path: Path
) -> None:
    target = f"http://localhost:{shop.port}/api/items/behind"
    answer = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"

    def redirected(data: bytes) -> bytes:
        return answer.encode() if data.startswith(b"HTTP/1.1 ") else b""

    runs = shop.runs
    with relay(shop.port, redirected) as port:
        consumer = Consumer(shop.consumer, trusted=[f"http://127.0.0.1:{port}"])
        spent = consumer.spent().day
        url = f"http://127.0.0.1:{port}/api/items/x"
        reply = consumer.call(url, data=b"hello", max_amount="0.25", timeout=20)
        assert (reply.status, consumer.spent().day) == (307, spent)
    assert shop.runs == runs
