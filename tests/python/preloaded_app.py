"""A service as gunicorn --preload loads it: the client is made, and used, before the fork."""

import os
import time

from flask import Flask, jsonify
from support import fund, new_address

from agirails import ACTPClient

app = Flask(__name__)
client = ACTPClient(requester_address=os.environ["CONSUMER_ADDRESS"])
provider = new_address()
fund(client, provider)


@app.get("/pay")
def pay():
    tx_id = fund(client, provider)
    time.sleep(0.05)  # long enough that one worker does not take every request
    return jsonify({"txId": tx_id, "pid": os.getpid()})


@app.get("/")
def ready():
    return jsonify({})
