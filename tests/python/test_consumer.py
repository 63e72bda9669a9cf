"""Paying for calls from Python: by the wheel's own driver, requests and httpx."""

import asyncio
import base64
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import new_address, until

import agirails.httpx
import agirails.requests
from agirails import (
    ACTPClient,
    AsyncConsumer,
    CallError,
    Consumer,
    NetworkError,
    SpendingError,
    State,
    ValidationError,
    apaid_call,
    canonical_json,
    canonical_target,
    paid_call,
)

PRICE = 100_000
DOLLAR = 1_000_000


class Service:
    """A service that stands in for one behind a paywall."""

    def __init__(self, provider: ACTPClient) -> None:
        self.provider = provider
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.calls: dict[str, int] = {}
        self.lie: Callable[[dict[str, Any]], None] = lambda receipt: None
        # Whether answers are compressed: "before" their receipt is made, or "after" it.
        self.packs = ""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                service.requests.append((self.path, dict(self.headers)))
                status, headers, answer = service.answer(
                    self.command, self.path, self.headers, body
                )
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_HEAD = do_POST = handle_any

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def offer(self, kind: str, calls: int) -> dict[str, Any]:
        network = self.provider.network
        return {
            "scheme": "actp-escrow",
            "network": f"eip155:{network.chain_id}",
            "amount": str(PRICE * calls),
            "asset": network.usdc,
            "payTo": self.provider.address,
            "maxTimeoutSeconds": 3600,
            "extra": {
                "kind": kind,
                "pricePerCall": str(PRICE),
                "calls": calls,
                "kernel": network.kernel,
                "vault": network.vault,
                "signature": "optional",
                "minSecondsLeft": 120,
                "disputeWindowSeconds": 172800,
            },
        }

    def answer(
        self, method: str, target: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if target == "/free":
            return 200, {"Set-Cookie": "a=b"}, b"free"
        if target.startswith("/api/payments"):
            return 404, {}, b'{"detail": "No such payment"}'
        if target == "/away":
            return 302, {"Location": f"{self.url}/free"}, b""
        tx_id = headers.get("X-AGIRAILS-TX-ID")
        if not tx_id:
            offers = [self.offer("single", 1), self.offer("prepaid", 10)]
            return 402, {}, json.dumps({"x402Version": 2, "accepts": offers}).encode()
        tx = self.provider.advanced.get_transaction(tx_id)
        assert tx.provider == self.provider.address
        key = headers.get("Idempotency-Key", "")
        index = self.calls.get(tx_id, 0)
        self.calls[tx_id] = index + 1
        answer = b"answer to " + body
        if self.packs == "before":
            answer = gzip.compress(answer)
        digest = self.provider.proof_generator.hash_content
        record = canonical_json(
            {
                "request": {
                    "bodyHash": digest(body),
                    "idempotencyKey": key,
                    "method": method,
                    "target": canonical_target(target),
                },
                "response": {
                    "bodyHash": digest(answer),
                    "contentType": "text/plain",
                    "status": 200,
                },
                "txId": tx_id,
            }
        )
        if not key:
            proof = self.provider.proof_generator.generate_delivery_proof(
                tx_id=tx_id, deliverable=record
            )
            self.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
            self.provider.advanced.transition_state(tx_id, State.DELIVERED, proof)
        receipt = {
            "txId": tx_id,
            "idempotencyKey": key,
            "index": index,
            "contentHash": digest(record),
            "deliveredAt": tx.created_at,
            "provider": self.provider.address,
        }
        self.lie(receipt)
        encoded = base64.b64encode(json.dumps(receipt).encode()).decode()
        sent = {"Content-Type": "text/plain; charset=utf-8", "X-AGIRAILS-RECEIPT": encoded}
        if self.packs:
            sent["Content-Encoding"] = "gzip"
        return 200, sent, gzip.compress(answer) if self.packs == "after" else answer


class Raw:
    """A server that begins every answer with the same bytes, and drips more where told to."""

    def __init__(self, begins: bytes, drips: bytes = b"") -> None:
        self.begins, self.drips = begins, drips
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}/"
        self.talking, self.is_over = 0, False
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                self.talking += 1
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(self.begins)
            while self.drips and not self.is_over:
                time.sleep(0.02)
                connection.sendall(self.drips)
        self.talking -= 1

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        # A close alone would leave behind who waits in accept.
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


ENDLESS_BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"y"
ENDLESS = [
    ENDLESS_BODY,
    (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
]
"""Answers that never come to their end."""


@pytest.fixture
def payer(tmp_path: Path) -> ACTPClient:
    return ACTPClient(requester_address=new_address(), state_directory=tmp_path)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(ACTPClient(requester_address=new_address(), state_directory=tmp_path))
    yield service
    service.server.shutdown()
    service.server.server_close()


def funded(payer: ACTPClient) -> list[int]:
    found = payer.advanced.get_transactions(role="requester")
    return [tx.amount for tx in found if int(tx.escrow_id, 16)]


class TestPaidCall:
    def test_pays_proves_and_settles(self, payer, service):
        answer = paid_call(
            f"{service.url}/api/generate?a=[ü]",
            json={"prompt": "a haiku"},
            max_amount="0.25",
            client=payer,
            trust=[service.url],
            settle=True,
        )
        assert (answer.status, answer.text) == (200, 'answer to {"prompt": "a haiku"}')
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.payment.kind == "single"
        assert answer.payment.price == PRICE
        assert answer.payment.proof == "unsigned"
        assert answer.payment.is_settled
        state = payer.advanced.get_transaction(answer.payment.transaction_id).state
        assert state is State.SETTLED
        assert funded(payer) == [PRICE]

    @pytest.mark.parametrize("limit", ["0.10", Decimal("0.10"), Decimal("1E-1"), PRICE])
    def test_takes_its_limits_as_text_decimal_or_base_units(self, payer, service, limit):
        budget = {"per_call": limit, "per_day": limit}
        consumer = Consumer(payer, trusted=[service.url], budget=budget)
        answer = consumer.call(f"{service.url}/x", max_amount=limit, max_funding=limit)
        assert answer.payment.price == PRICE

    def test_buys_nothing_for_an_int_that_was_meant_as_usdc(self, payer, service):
        with pytest.raises(SpendingError) as raised:
            Consumer(payer, trusted=[service.url]).call(f"{service.url}/x", max_amount=1)
        assert "0.000001" in str(raised.value)
        assert funded(payer) == []

    def test_buys_a_bundle_from_whom_it_does_not_trust(self, payer, service):
        consumer = Consumer(payer)
        for number in range(10):
            url = f"{service.url}/api/generate"
            answer = paid_call(url, data=str(number), max_amount=PRICE, consumer=consumer)
            assert answer.text == f"answer to {number}"
            assert answer.payment.kind == "prepaid"
            assert answer.payment.funded_now == (number == 0)
        assert funded(payer) == [DOLLAR]
        (balance,) = consumer.balances()
        assert (balance.amount, balance.left, balance.is_open) == (DOLLAR, 0, True)
        spent = consumer.spent(service.provider.address)
        assert (spent.hour, spent.day, spent.provider) == (DOLLAR, DOLLAR, DOLLAR)

    def test_finds_its_client_in_the_environment(self, service, monkeypatch, tmp_path):
        monkeypatch.setenv("ACTP_STATE_DIR", str(tmp_path))
        monkeypatch.setenv("ACTP_PRIVATE_KEY", f"{7:064x}")
        answer = paid_call(f"{service.url}/x", max_amount="0.25", trust=service.url)
        assert answer.payment.amount == PRICE
        sent = service.requests[-1][1]
        assert sent["x-agirails-signature"].startswith("t=")

    def test_asks_for_nothing_where_nothing_is_to_pay(self, payer, service):
        answer = paid_call(f"{service.url}/free", max_amount="0.25", client=payer)
        assert (answer.content, answer.payment) == (b"free", None)
        away = paid_call(f"{service.url}/away", max_amount="0.25", client=payer)
        assert (away.status, away.headers["location"]) == (302, f"{service.url}/free")
        assert funded(payer) == []

    def test_is_the_same_purchase_by_its_key(self, payer, service):
        def call(**more: Any) -> Any:
            consumer = Consumer(payer, trusted=[service.url])
            return consumer.call(f"{service.url}/x", max_amount="0.25", purchase_key="k", **more)

        service.lie = lambda receipt: receipt.update(contentHash="0x" + "00" * 32)
        with pytest.raises(ValidationError) as raised:
            call()
        assert raised.value.code == "proof_mismatch"
        assert raised.value.purchase_key == "k"
        with pytest.raises(ValidationError) as raised:
            call(data="other")
        assert raised.value.code == "purchase_mismatch"
        assert funded(payer) == [PRICE]


class TestRefusals:
    def test_come_before_anything_is_created(self, payer, service):
        url = f"{service.url}/x"
        cases = [
            (Consumer(payer), {"max_amount": "0.25", "max_funding": "0.5"}, "untrusted_provider"),
            (Consumer(payer), {"max_amount": "0.09"}, "price_above_limit"),
            (
                Consumer(payer, trusted=[url], budget={"per_day": "0.09"}),
                {"max_amount": "0.25"},
                "budget_exceeded",
            ),
        ]
        for consumer, limits, code in cases:
            with pytest.raises(SpendingError) as raised:
                consumer.call(url, **limits)
            assert raised.value.code == code
            assert raised.value.hint
            assert raised.value.purchase_key is None
        assert payer.advanced.get_transactions() == []

    def test_name_the_argument(self, payer, service):
        consumer = Consumer(payer)
        bad: list[tuple[dict[str, Any], str]] = [
            ({"max_amount": None}, "max_amount"),
            ({"max_amount": 0.25}, "max_amount"),
            ({"max_amount": True}, "max_amount"),
            ({"max_amount": Decimal("0.0000001")}, "amount"),
            ({"max_amount": Decimal("NaN")}, "amount"),
            ({"max_amount": "a lot"}, "amount"),
            ({"json": {1}, "max_amount": 1}, "json"),
            ({"json": {}, "data": "", "max_amount": 1}, "data"),
            ({"data": 5, "max_amount": 1}, "data"),
            ({"timeout": -1, "max_amount": 1}, "timeout"),
            ({"purchase_key": "", "max_amount": 1}, "purchase_key"),
            ({"headers": {"a": "b\n"}, "max_amount": 1}, "headers"),
            ({"headers": {"X-AGIRAILS-TX-ID": "b"}, "max_amount": 1}, "headers"),
            ({"method": "GET /", "max_amount": 1}, "method"),
        ]
        for arguments, field in bad:
            with pytest.raises(ValidationError) as raised:
                consumer.call(service.url, **arguments)
            assert raised.value.field == field, arguments
        with pytest.raises(ValidationError):
            consumer.call("ftp://example.com", max_amount=1)
        with pytest.raises(ValidationError):
            Consumer(payer, budget={"per_year": 1})
        with pytest.raises(ValidationError):
            Consumer(payer, trusted=["example"])
        with pytest.raises(ValidationError):
            paid_call(service.url, max_amount=1, consumer=consumer, client=payer)
        assert service.requests == []

    def test_of_a_service_that_is_not_there(self, payer):
        with pytest.raises(NetworkError) as raised:
            Consumer(payer).call("http://127.0.0.1:1/?secret", max_amount=1, timeout=1)
        assert raised.value.code == "service_unreachable"
        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize(("begins", "drips"), ENDLESS)
    def test_of_a_service_whose_answer_never_ends_come_in_time(self, payer, begins, drips):
        with Raw(begins, drips) as raw:
            began = time.monotonic()
            with pytest.raises(NetworkError) as raised:
                Consumer(payer).call(raw.url, max_amount=1, timeout=2, request_timeout=0.5)
            assert raised.value.code == "service_unreachable"
            assert time.monotonic() - began < 10
            # Nobody is left behind who listens to it.
            until(lambda: raw.talking == 0)

    def test_of_a_call_that_is_interrupted_come_at_once(self, payer):
        def interrupt(raw: Raw) -> None:
            until(lambda: raw.talking > 0)
            os.kill(os.getpid(), signal.SIGINT)

        # Event loops of other tests in this process may have left a handler of their own.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with Raw(*ENDLESS_BODY) as raw:
                threading.Thread(target=interrupt, args=(raw,), daemon=True).start()
                with pytest.raises(KeyboardInterrupt):
                    Consumer(payer).call(raw.url, max_amount=1, timeout=60)
                # Nobody goes on with it.
                until(lambda: raw.talking == 0)
        finally:
            signal.signal(signal.SIGINT, before)

    def test_of_a_call_that_is_cancelled_leave_nobody_behind(self, payer):
        async def call(url: str) -> None:
            await asyncio.wait_for(AsyncConsumer(payer).call(url, max_amount=1, timeout=60), 0.3)

        with Raw(*ENDLESS_BODY) as raw:
            with pytest.raises(asyncio.TimeoutError):
                asyncio.run(call(raw.url))
            until(lambda: raw.talking == 0)

    def test_of_an_answer_that_is_too_long_once_it_is_unpacked(self, payer):
        packed = gzip.compress(bytes(20_000_000))
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        with Raw(head.encode() + packed) as raw, pytest.raises(CallError) as raised:
            Consumer(payer).call(raw.url, max_amount=1, body_limit=1_000_000)
        assert raised.value.code == "answer_too_large"

    def test_of_an_answer_that_is_too_long(self, payer, service):
        with pytest.raises(CallError) as raised:
            Consumer(payer).call(f"{service.url}/free", max_amount=1, body_limit=3)
        assert raised.value.code == "answer_too_large"


class TestTheWire:
    @pytest.mark.parametrize("length", ["\xb2", "9" * 5_000, "-1", "4, 5", "x"])
    def test_an_answer_with_a_length_that_is_no_number_is_none(self, payer, length):
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode("latin-1")
        with Raw(head + b"free") as raw, pytest.raises(NetworkError):
            Consumer(payer).call(raw.url, max_amount=1, timeout=0.6)

    @pytest.mark.parametrize("hints", [1, 2])
    def test_an_interim_answer_is_passed_over(self, payer, hints):
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" * hints
        with Raw(hint + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfree") as raw:
            assert Consumer(payer).call(raw.url, max_amount=1).content == b"free"

    def test_a_header_that_is_no_utf_8_is_latin_1(self, payer):
        head = "HTTP/1.1 200 OK\r\nX-A: é\r\n".encode("latin-1") + "X-B: é\r\n\r\n".encode()
        with Raw(head) as raw:
            headers = Consumer(payer).call(raw.url, max_amount=1).headers
        assert (headers["x-a"], headers["x-b"]) == ("é", "é")

    def test_goes_by_the_proxy_of_the_environment(self, tmp_path):
        program = """
from agirails import ACTPClient, Consumer
client = ACTPClient(requester_address="0x" + "c0" * 20, in_memory=True)
print(Consumer(client).call("http://service.invalid/a?b", max_amount=1).text)
"""
        with Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfree") as raw:
            environment = {**os.environ, "HTTP_PROXY": raw.url, "http_proxy": raw.url}
            ran = subprocess.run(
                [sys.executable, "-c", program],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert (ran.stdout.strip(), ran.returncode) == ("free", 0), ran.stderr

    def test_a_service_that_compresses_is_proven(self, payer, service):
        service.packs = "after"
        self.check_packed(payer, service)

    def test_a_handler_that_compresses_is_proven(self, payer, service):
        service.packs = "before"
        self.check_packed(payer, service)

    def check_packed(self, payer: ACTPClient, service: Service) -> None:
        consumer = Consumer(payer, trusted=[service.url])
        url, limits = f"{service.url}/x", {"max_amount": "0.25", "settle": True}
        answer = consumer.call(url, data="a", **limits)
        assert (answer.text, answer.payment.is_settled) == ("answer to a", True)
        assert "content-encoding" not in answer.headers
        with agirails.requests.session(consumer, **limits) as session:
            assert session.post(url, data="b").text == "answer to b"
        transport = agirails.httpx.PayingTransport(consumer, **limits)
        with httpx.Client(transport=transport) as client:
            assert client.post(url, content="c").text == "answer to c"
        assert len(funded(payer)) == 3

    def test_an_answer_that_breaks_off_is_none(self, payer):
        with Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfree") as raw:
            with pytest.raises(NetworkError, match="broke off"):
                Consumer(payer).call(raw.url, max_amount=1, timeout=1)

    def test_a_header_holds_any_text(self, payer, service):
        Consumer(payer).call(f"{service.url}/free", headers={"x-note": "1 €"}, max_amount=1)
        assert service.requests[-1][1]["x-note"].encode("latin-1").decode() == "1 €"


class TestAfterwards:
    def test_disputes_name_their_bond_first(self, payer, service):
        consumer = Consumer(payer, trusted=[service.url])
        tx_id = consumer.call(f"{service.url}/x", max_amount="0.25").payment.transaction_id
        with pytest.raises(SpendingError) as raised:
            consumer.dispute(tx_id)
        assert raised.value.required == consumer.bond(tx_id) == DOLLAR
        assert consumer.dispute(tx_id, max_bond="1") == DOLLAR

    def test_settles_what_is_delivered_and_reports_the_rest(self, payer, service):
        consumer = Consumer(payer, trusted=[service.provider.address])
        first = consumer.call(f"{service.url}/x", max_amount="0.25").payment.transaction_id
        report = consumer.settle()
        assert report == ([first], [], [], {})
        assert consumer.reclaim() == ([], [], [], {})
        with pytest.raises(CallError, match="No such payment") as raised:
            consumer.close(first)
        assert raised.value.status == 404


def test_an_event_loop_pays_too(payer, service):
    async def calls() -> None:
        consumer = AsyncConsumer(payer)
        url = f"{service.url}/x"
        answers = await asyncio.gather(
            *(consumer.call(url, data=str(number), max_amount="0.25") for number in range(5))
        )
        assert [answer.text for answer in answers] == [f"answer to {n}" for n in range(5)]
        (balance,) = await consumer.balances()
        assert balance.left == DOLLAR // 2
        assert (await consumer.spent()).day == DOLLAR
        one = await apaid_call(url, max_amount="0.25", client=payer)
        assert one.payment is not None
        with pytest.raises(SpendingError):
            await consumer.dispute(balance.transaction_id)
        assert (await consumer.settle()).waiting == [balance.transaction_id]

    asyncio.run(calls())
    assert funded(payer) == [DOLLAR]


def test_an_event_loop_runs_on_while_a_client_is_made(payer, service, monkeypatch):
    makers = []

    def make() -> ACTPClient:
        makers.append(threading.current_thread())
        return payer

    monkeypatch.setattr("agirails.consumer._client_from_environment", make)

    async def calls() -> None:
        await AsyncConsumer(trusted=[service.url]).call(f"{service.url}/free", max_amount=1)
        await apaid_call(f"{service.url}/free", max_amount=1)
        transport = agirails.httpx.AsyncPayingTransport(AsyncConsumer(), max_amount=1)
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(f"{service.url}/free")

    asyncio.run(calls())
    assert len(makers) == 3
    assert threading.main_thread() not in makers


class TestRequests:
    def test_pays_what_is_sent_through_a_session(self, payer, service):
        consumer = Consumer(payer, trusted=[service.url])
        with agirails.requests.session(consumer, max_amount="0.25", settle=True) as session:
            response = session.post(f"{service.url}/x?a=[b|ü]", json={"a": 1}, timeout=10)
            assert (response.status_code, response.text) == (200, 'answer to {"a": 1}')
            assert response.raw.agirails_payment.is_settled
            followed = session.get(f"{service.url}/away")
            assert (followed.text, followed.history[0].status_code) == ("free", 302)
            assert session.cookies["a"] == "b"
            assert followed.raw.agirails_payment is None
            with pytest.raises(SpendingError):
                session.mount(service.url, agirails.requests.PayingAdapter(consumer, max_amount=1))
                session.get(f"{service.url}/x")

    def test_hands_over_an_answer_without_its_body(self, payer, service):
        with agirails.requests.session(Consumer(payer), max_amount="0.25") as session:
            response = session.head(f"{service.url}/free")
        assert (response.content, response.headers["Content-Length"]) == (b"", "4")

    def test_raises_before_anything_is_paid_for_what_it_cannot_write(self, payer, service):
        consumer = Consumer(payer)
        with agirails.requests.session(consumer, max_amount="0.25") as session:
            session.post(f"{service.url}/x")
            with pytest.raises(UnicodeEncodeError):
                session.post(f"{service.url}/x", headers={"x-note": "1 €"})
        assert consumer.balances()[0].left == DOLLAR - PRICE

    def test_gives_up_an_answer_whose_body_never_ends(self, payer):
        options = {"timeout": 2, "request_timeout": 0.5}
        with (
            Raw(*ENDLESS_BODY) as raw,
            agirails.requests.session(Consumer(payer), max_amount=1, **options) as session,
            pytest.raises(NetworkError),
        ):
            session.get(raw.url)


class TestHttpx:
    def test_pays_what_is_sent_through_a_client(self, payer, service):
        consumer = Consumer(payer, trusted=[service.url])
        transport = agirails.httpx.PayingTransport(consumer, max_amount="0.25", settle=True)
        with httpx.Client(transport=transport, follow_redirects=True) as client:
            response = client.post(f"{service.url}/x?a=[b|ü]", json={"a": 1})
            assert (response.status_code, response.text) == (200, 'answer to {"a":1}')
            assert response.extensions["agirails_payment"].is_settled
            followed = client.get(f"{service.url}/away")
            assert (followed.text, followed.history[0].status_code) == ("free", 302)
            assert client.cookies["a"] == "b"
        with pytest.raises(TypeError):
            agirails.httpx.PayingTransport(consumer, max_amount=1, max_age=1)

    def test_pays_from_an_event_loop_without_threads(self, payer, service):
        async def calls() -> None:
            consumer = AsyncConsumer(payer, trusted=[service.url])
            transport = agirails.httpx.AsyncPayingTransport(consumer, max_amount="0.25")
            async with httpx.AsyncClient(transport=transport) as client:
                response = await client.post(f"{service.url}/x", content=b"abc")
            assert response.text == "answer to abc"
            assert response.extensions["agirails_payment"].amount == PRICE

        asyncio.run(calls())

    def test_gives_up_an_answer_whose_body_never_ends(self, payer):
        options = {"timeout": 2, "request_timeout": 0.5}
        transport = agirails.httpx.PayingTransport(Consumer(payer), max_amount=1, **options)
        with (
            Raw(*ENDLESS_BODY) as raw,
            httpx.Client(transport=transport) as client,
            pytest.raises(NetworkError),
        ):
            client.get(raw.url)

    @pytest.mark.parametrize(("begins", "drips"), ENDLESS)
    def test_gives_up_an_answer_that_never_ends_in_an_event_loop(self, payer, begins, drips):
        async def calls(url: str) -> None:
            transport = agirails.httpx.AsyncPayingTransport(
                AsyncConsumer(payer), max_amount=1, timeout=2, request_timeout=0.5
            )
            async with httpx.AsyncClient(transport=transport) as client:
                with pytest.raises(NetworkError):
                    await client.get(url)

        with Raw(begins, drips) as raw:
            asyncio.run(calls(raw.url))
