"""A service that is paid per call, behind a paywall: the price is one line on the view.

    PROVIDER_ADDRESS=0x… flask --app examples/flask_provider.py run --port 3000

Who calls without payment gets 402 with the price; who pays is served once, and gets the same
bytes again however often it asks. The delivery on chain follows by itself.
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
