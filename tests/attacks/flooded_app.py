"""A paid service of a chain's provider that refuses unsigned requests."""

from fastapi import FastAPI

from agirails import ACTPClient
from agirails.asgi import Paywall

app = FastAPI()
paywall = Paywall(ACTPClient("testnet"), app=app, unsigned="refuse")


@app.post("/api/generate")
@paywall.charge("0.10")
async def generate():
    return {"ok": True}
