"""A paid service for uvicorn: it counts its runs in a file that all workers append to."""

import asyncio
import os

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from agirails import ACTPClient
from agirails.asgi import Paywall

app = FastAPI()
paywall = Paywall(ACTPClient(requester_address=os.environ["PROVIDER_ADDRESS"]), app=app)


@app.post("/api/generate")
@paywall.charge("0.10")
async def generate(request: Request):
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(f"{paywall.payment.transaction_id}\n")
    await asyncio.sleep(0.3)
    return {"pid": os.getpid(), "runs": (await request.body()).decode()}


@app.get("/api/stream")
@paywall.charge("0.10")
async def stream():
    async def generated():
        for number in range(200):
            yield f"{number:9}\n" * 1_000
            await asyncio.sleep(0.005)
        with open(os.environ["RUNS"], "a") as runs:
            runs.write(f"{paywall.payment.transaction_id}\n")

    return StreamingResponse(generated(), media_type="text/plain")
