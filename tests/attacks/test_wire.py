"""What comes over the wire in place of an answer, or in a form that costs its reader more than agreed."""

import gzip
import http.client
import zlib

import doors
import pytest
from flask import Flask, Response, request
from services import relaying, serving

import agirails.requests
from agirails import CallError, Consumer
from agirails.flask import Paywall

MIB = 1 << 20
BOMB = bytes(40 * MIB)
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"


def packed(coding: str) -> bytes:
    """Much in little. What cannot be made here stays as it is under its name."""
    if coding == "gzip":
        return gzip.compress(BOMB)
    if coding == "deflate":
        return zlib.compress(BOMB)
    if coding.startswith("gzip, "):
        body = BOMB
        for _ in coding.split(","):
            body = gzip.compress(body)
        return body
    return b"\x00" * 100


@pytest.fixture
def service(parties):
    app = Flask("packs")
    paywall = Paywall(parties.provider, app=app)

    def answer():
        coding = request.args["coding"]
        return Response(packed(coding), headers={"Content-Encoding": coding})

    @app.post("/free")
    def free():
        return answer()

    @app.post("/paid")
    @paywall.charge("1.00")
    def paid():
        return answer()

    with serving(app) as url:
        yield url


@pytest.mark.parametrize(
    "coding", ["gzip", "deflate", "gzip, gzip", "gzip, gzip, gzip, gzip, gzip"]
)
@pytest.mark.parametrize("path", ["free", "paid"])
@pytest.mark.parametrize("door", doors.DOORS)
def test_no_answer_is_unpacked_beyond_its_limit(parties, service, door, path, coding):
    url = f"{service}/{path}?coding={coding}"
    try:
        got = door(parties.consumer, url, [], max_amount="1.00", body_limit=MIB)
    except CallError as error:
        assert error.code == "answer_too_large"
    else:
        # More codings than anybody undoes: as it came, and nobody above unpacks it.
        assert len(got.content) < MIB
        assert coding.count("gzip") > 3


@pytest.mark.parametrize("door", doors.DOORS)
def test_an_answer_in_an_unknown_coding_is_handed_over_as_it_came(parties, service, door):
    got = door(parties.consumer, f"{service}/free?coding=br", [], max_amount="1.00")
    assert got.content == b"\x00" * 100
    name = "content-encoding" if door is doors.by_call else "x-original-content-encoding"
    assert got.headers[name] == "br"


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("door", doors.DOORS)
def test_an_interim_answer_is_not_taken_for_the_answer(parties, door, times):
    app = Flask("hints")
    paywall = Paywall(parties.provider, app=app)

    @app.post("/api/quote")
    @paywall.charge("1.00")
    def quote():
        return {"quote": 42}

    def hinted(asked: bytes, piece: bytes) -> bytes:
        return HINT * times + piece if piece.startswith(b"HTTP/1.1 ") else piece

    with serving(app) as inner, relaying(int(inner.rpartition(":")[2]), hinted) as url:
        got = door(parties.consumer, f"{url}/api/quote", [], max_amount="1.00", timeout=20)
        assert (got.status, got.content.strip()) == (200, b'{"quote":42}')
    assert Consumer(parties.consumer).spent().day == 1_000_000


def test_interim_answers_without_end_are_none(parties):
    class Endless:
        def readline(self, limit: int = -1) -> bytes:
            self.lines += 1
            return b"\r\n" if self.lines % 2 == 0 else b"HTTP/1.1 103 Early Hints\r\n"

        lines = 0

        def close(self) -> None:
            pass

    class Socket:
        def makefile(self, mode: str) -> Endless:
            return Endless()

    response = agirails.requests._FinalResponse(Socket())
    with pytest.raises(http.client.BadStatusLine):
        response.begin()
