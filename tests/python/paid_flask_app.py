"""A paid service for gunicorn: it counts its runs in a file that all workers append to."""

import os
import time

from flask import Flask, request

from agirails import ACTPClient
from agirails.flask import Paywall

app = Flask(__name__)
client = ACTPClient(
    mode=os.environ.get("ACTP_MODE", "mock"), requester_address=os.environ.get("PROVIDER_ADDRESS")
)
paywall = Paywall(client, store=os.environ.get("STORE"), app=app)


@app.post("/api/generate")
@paywall.charge("0.10")
def generate():
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(f"{paywall.payment.transaction_id}\n")
    time.sleep(0.3)
    return {"pid": os.getpid(), "runs": request.get_data(as_text=True)}


@app.get("/api/stream")
@paywall.charge("0.10")
def stream():
    def generated():
        for number in range(200):
            yield f"{number:9}\n" * 1_000
            time.sleep(0.005)
        with open(os.environ["RUNS"], "a") as runs:
            runs.write(f"{paywall.payment.transaction_id}\n")

    return generated(), {"Content-Type": "text/plain"}
