"""A redirect never has another origin paid than the one that its caller named."""

import doors
import pytest
from flask import Flask, redirect, request
from services import serving

from agirails import Consumer
from agirails.flask import Paywall


@pytest.fixture
def stranger(parties):
    app = Flask("stranger")
    paywall = Paywall(parties.provider, app=app)
    taken: list[bytes] = []

    @app.post("/take")
    @paywall.charge("0.10")
    def take():
        taken.append(request.get_data())
        return {"thanks": True}

    @app.post("/free")
    def free():
        return "free"

    @app.post("/here")
    def here():
        return redirect("/take", 307)

    with serving(app) as url:
        # The same server under another name is another origin.
        yield url, url.replace("127.0.0.1", "localhost"), taken


@pytest.fixture
def honest():
    app = Flask("honest")

    @app.post("/go")
    def go():
        return redirect(request.args["to"], 307)

    with serving(app) as url:
        yield url


@pytest.mark.parametrize("door", doors.DOORS)
def test_a_redirect_pays_no_stranger(parties, honest, stranger, door):
    _, elsewhere, taken = stranger
    url = f"{honest}/go?to={elsewhere}/take"
    # Whom the caller trusts is not asked: the provider of the other origin is.
    trusted = [honest, parties.provider.address]
    got = door(parties.consumer, url, trusted, max_amount="0.25")
    assert got.status == (307 if door is doors.by_call else 402)
    assert Consumer(parties.consumer).spent().day == 0
    assert taken == []


@pytest.mark.parametrize("door", doors.DOORS[1:])
def test_a_redirect_of_a_redirect_pays_no_stranger(parties, honest, stranger, door):
    url, elsewhere, taken = stranger
    # From the one who was named by way of another origin to a third one, and back.
    for last, status in ((f"{elsewhere}/here", 402), (f"{url}/here", 402)):
        away = f"{honest}/go?to={honest}/go?to={last}"
        got = door(parties.consumer, away, [parties.provider.address], max_amount="0.25")
        assert got.status == status
    assert Consumer(parties.consumer).spent().day == 0
    assert taken == []


@pytest.mark.parametrize("door", doors.DOORS[1:])
def test_a_redirect_is_followed_where_nothing_is_paid_or_nobody_else(
    parties, honest, stranger, door
):
    url, elsewhere, taken = stranger
    free = door(parties.consumer, f"{honest}/go?to={elsewhere}/free", [], max_amount="0.25")
    assert free.content == b"free"
    trusted = [parties.provider.address]
    paid = door(parties.consumer, f"{url}/here", trusted, max_amount="0.25")
    assert (paid.status, len(taken)) == (200, 1)


def test_what_a_caller_sends_again_itself_is_its_own_wish(parties, honest, stranger):
    import httpx
    import requests

    import agirails.httpx
    import agirails.requests

    url, elsewhere, taken = stranger
    consumer = Consumer(parties.consumer, trusted=[parties.provider.address])
    with agirails.requests.session(consumer, max_amount="0.25") as session:
        prepared = session.prepare_request(requests.Request("POST", f"{url}/take"))
        assert session.send(prepared).status_code == 200
        prepared.url = f"{elsewhere}/take"
        assert session.send(prepared).status_code == 200
    transport = agirails.httpx.PayingTransport(consumer, max_amount="0.25")
    extensions = {"trace": lambda *_: None}
    with httpx.Client(transport=transport) as client:
        for target in (url, elsewhere):
            assert client.post(f"{target}/take", extensions=extensions).status_code == 200
    assert len(taken) == 4
