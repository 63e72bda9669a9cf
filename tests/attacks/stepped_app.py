"""A paid service of a chain's provider, with a call that takes its time and a cheap one of a bundle."""

import asyncio

from fastapi import FastAPI

from agirails import ACTPClient
from agirails.asgi import Paywall

app = FastAPI()
# Its payer binds no transaction: this is the only store of the key.
paywall = Paywall(ACTPClient("testnet"), app=app, one_store=True)


@app.post("/api/slow")
@paywall.charge("0.10")
async def slow():
    await asyncio.sleep(8)
    return {"ok": True}


@app.post("/api/cheap")
@paywall.charge("0.01", calls=100)
async def cheap():
    return {"ok": True}
