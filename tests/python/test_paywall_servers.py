"""A paywall behind real servers, whose workers are processes of their own."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paid import Reply, request
from support import HERE, PRICE, free_port, fund, new_address, new_key, served, until

from agirails import ACTPClient, State, sign_request

TARGET = "/api/generate?x=%41b"
GUNICORN = ("gunicorn", "--workers", "4", "--threads", "16", "--no-control-socket")
SERVERS = {
    "gunicorn": (*GUNICORN, "--bind", "127.0.0.1:{port}", "paid_flask_app:app"),
    "gunicorn --preload": (
        *GUNICORN,
        *("--preload", "--bind", "127.0.0.1:{port}", "paid_flask_app:app"),
    ),
    "uvicorn": (
        *("uvicorn", "--workers", "2", "--host", "127.0.0.1", "--port", "{port}"),
        "paid_asgi_app:app",
    ),
    "flask": ("flask", "--app", "paid_flask_app:app", "run", "--port", "{port}"),
}


class Service(NamedTuple):
    port: int
    directory: Path
    provider: str
    consumer: ACTPClient

    def fund(self, **options: Any) -> str:
        return fund(self.consumer, self.provider, PRICE, **options)

    def pay(self, tx_id: str, method: str, target: str, body: bytes = b"") -> Reply:
        signature = sign_request(self.consumer, tx_id, method, target, body)
        headers = {"X_AGIRAILS_TX_ID": tx_id, "X_AGIRAILS_SIGNATURE": signature}
        return request(self.port, method, target, body, headers)

    @property
    def runs(self) -> list[str]:
        runs = self.directory / "runs"
        return runs.read_text().split() if runs.exists() else []

    def becomes(self, tx_id: str, state: State) -> None:
        until(lambda: self.consumer.advanced.get_transaction(tx_id).state is state)


@pytest.fixture(scope="module", params=SERVERS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    directory, port, provider = tmp_path_factory.mktemp("served"), free_port(), new_address()
    command = [part.format(port=port) for part in SERVERS[request.param]]
    env = {
        "ACTP_STATE_DIR": str(directory),
        "PROVIDER_ADDRESS": provider,
        "PYTHONPATH": str(HERE),
        "RUNS": str(directory / "runs"),
    }
    consumer = ACTPClient(private_key=new_key(), state_directory=directory)
    log, url = directory / "log", f"http://127.0.0.1:{port}/health"
    with served([sys.executable, "-m", *command], url, log, **env):
        yield Service(port, directory, provider, consumer)
    text = log.read_text()
    assert "panicked" not in text and "fatal" not in text.lower(), text


def test_fifty_identical_requests_at_once_are_one_run_and_one_answer(service):
    tx_id = service.fund()
    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(lambda _: service.pay(tx_id, "POST", TARGET, b"prompt"), range(50)))
    assert [reply.status for reply in replies] == [200] * 50
    assert len({reply.body for reply in replies}) == 1
    assert service.runs.count(tx_id) == 1
    assert sum("x-agirails-replay" in reply.headers for reply in replies) == 49
    assert len({reply.headers["x-agirails-receipt"] for reply in replies}) == 1
    service.becomes(tx_id, State.DELIVERED)


def test_many_calls_are_served_by_many_workers(service):
    ids = [service.fund() for _ in range(24)]
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda tx_id: service.pay(tx_id, "POST", TARGET), ids))
    assert [reply.status for reply in replies] == [200] * 24
    assert sorted(tx_id for tx_id in service.runs if tx_id in ids) == sorted(ids)
    for tx_id in ids:
        service.becomes(tx_id, State.DELIVERED)
    metrics = request(service.port, "GET", "/metrics").body.decode()
    assert 'agirails_paywall_calls_total{route="POST /api/generate"}' in metrics


def test_a_stream_whose_consumer_goes_away_is_served_to_its_end_and_repeated(service):
    tx_id, target = service.fund(), "/api/stream"
    signature = sign_request(service.consumer, tx_id, "GET", target)
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        head = (
            f"GET {target} HTTP/1.1\r\nHost: x\r\nX-AGIRAILS-TX-ID: {tx_id}\r\n"
            f"X-AGIRAILS-SIGNATURE: {signature}\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert b"200" in connection.recv(100)
    until(lambda: service.runs.count(tx_id) == 1, 30)
    service.becomes(tx_id, State.DELIVERED)
    # 2 MB are more than is kept by default.
    assert service.pay(tx_id, "GET", target).status == 410


def test_a_stream_arrives_whole(service):
    tx_id = service.fund()
    reply = service.pay(tx_id, "GET", "/api/stream")
    assert (reply.status, len(reply.body)) == (200, 2_000_000)
    assert reply.headers["x-agirails-tx-id"] == tx_id
    service.becomes(tx_id, State.DELIVERED)


def test_what_breaks_off_is_no_request(service):
    tx_id = service.fund()
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        head = f"POST {TARGET} HTTP/1.1\r\nHost: x\r\nX-AGIRAILS-TX-ID: {tx_id}\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\nhalf".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(10_000)
    assert not answer or b" 400 " in answer.splitlines()[0]
    assert tx_id not in service.runs
    assert service.pay(tx_id, "POST", TARGET, b"prompt").status == 200


def test_a_header_of_10_mb_is_refused_and_harms_nobody(service):
    try:
        reply = request(service.port, "POST", TARGET, b"", {"X_AGIRAILS_TX_ID": "0x" + "1" * 10**7})
        assert 400 <= reply.status < 500
    except OSError:
        pass  # the server cut the connection while it came
    assert service.pay(service.fund(), "POST", TARGET).status == 200


def test_what_nobody_calls_with_is_given_back_without_a_request(service):
    now = service.consumer.advanced.now()
    bound_to = request(service.port, "GET", "/api/pricing").json["serviceHash"]
    tx_id = service.fund(deadline=now + 61, metadata=bound_to)
    service.becomes(tx_id, State.CANCELLED)
