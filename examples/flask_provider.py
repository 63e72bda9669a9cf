"""A service behind a paywall: one line above the view sets the price of a call.

    PROVIDER_ADDRESS=0x… flask --app examples/flask_provider.py run --port 3000

A call without payment gets 402 and the price. A paid call runs the view once, and every repeat of
it gets the same bytes. The paywall delivers on chain by itself.
"""

import os

from flask import Flask, request

from agirails import ACTPClient
from agirails.flask import Paywall

app = Flask(__name__)
client = ACTPClient(mode="mock", requester_address=os.environ["PROVIDER_ADDRESS"])
paywall = Paywall(client, app=app)


@app.post("/api/generate")
@paywall.charge("0.10")
def generate() -> dict[str, str]:
    prompt = request.get_json()["prompt"]
    return {"result": f"Generated response for: {prompt}", "paidBy": paywall.payment.requester}
