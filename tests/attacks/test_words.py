"""An error says what the service said, and a wrong setting of one's own is named as the cause."""

import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from support import new_address

from agirails import ACTPClient, CallError, Consumer
from agirails.asgi import Paywall

LIMERICK = {"prompt": "x", "style": "limerick"}


class Prompt(BaseModel):
    prompt: str
    style: str | None = None


@pytest.fixture
def service(parties):
    app = FastAPI()
    paywall = Paywall(parties.provider, app=app)

    @app.post("/api/generate")
    @paywall.charge("1.00")
    async def generate(prompt: Prompt):
        if prompt.style not in (None, "haiku"):
            problem = {"type": "enum", "loc": ["body", "style"], "msg": "Input should be 'haiku'"}
            raise RequestValidationError([problem])
        return {"haiku": prompt.prompt}

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


def test_a_rejected_body_is_explained_in_the_services_own_words(parties, service):
    consumer = Consumer(parties.consumer)
    with pytest.raises(CallError) as raised:
        consumer.call(f"{service}/api/generate", json=LIMERICK, max_amount="1.00")
    error = raised.value
    assert (error.code, error.status) == ("call_refused", 422)
    assert "body.style: Input should be 'haiku'" in str(error)
    assert b"Input should be 'haiku'" in error.body
    assert error.purchase_key
    assert consumer.spent().day == 1_000_000
    # The same call made again is told the same, and pays nothing more.
    with pytest.raises(CallError, match="style"):
        consumer.call(f"{service}/api/generate", json=LIMERICK, max_amount="1.00")
    assert consumer.spent().day == 1_000_000


def test_a_body_that_the_service_rejects_unpaid_costs_nothing(parties, service):
    consumer = Consumer(parties.consumer)
    answer = consumer.call(f"{service}/api/generate", json={"promt": "x"}, max_amount="1.00")
    assert (answer.status, answer.payment, consumer.spent().day) == (422, None, 0)
    assert answer.json()["detail"][0]["msg"] == "Field required"


def test_two_state_directories_are_named_as_the_cause(parties, service, tmp_path_factory):
    other = ACTPClient(
        requester_address=new_address(), state_directory=tmp_path_factory.mktemp("other")
    )
    with pytest.raises(CallError) as raised:
        Consumer(other).call(f"{service}/api/generate", json={"prompt": "x"}, max_amount="1.00")
    assert raised.value.code == "no_offer"
    assert "ledger" in str(raised.value)
    assert "ACTP_STATE_DIR" in raised.value.hint
    assert Consumer(other).spent().day == 0
