"""Figures of the embedded kernel from Python, sync and async, on the directories of embedded.rs.

Run it after `cargo bench -p agirails --bench embedded`: it measures the sizes found there, on
copies, and leaves target/bench-state/python.json and python_async.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from measure import (
    AMOUNT,
    CONSUMER,
    DELIVERABLE,
    KEY,
    MONTH_SECONDS,
    STATE,
    Figures,
    done,
    progress,
)

from agirails import ACTPClient, ProofGenerator, State, recover_delivery_signer


async def main() -> None:
    rust = json.loads((STATE / "rust.json").read_text())
    quick: bool = rust["quick"]
    ways: dict[str, Callable[..., Any]] = {
        "python": ACTPClient,
        "python_async": ACTPClient.create,
    }
    for name, connect in ways.items():
        figures = Figures()
        for size in rust["sizes"]:
            progress(f"{name}: {size} transactions")
            with tempfile.TemporaryDirectory(dir=STATE) as copy:
                shutil.copytree(STATE / str(size) / ".actp", Path(copy) / ".actp")
                os.sync()  # so that the disk rests while the copy is measured
                await measure_kernel(figures, connect, size, copy, quick)
        progress(f"{name}: signatures, proofs, import")
        await measure_signing(figures, connect, quick)
        if connect is ACTPClient:
            await figures.measure_delivery_proofs(ProofGenerator(), quick)
            figures.measure_import("agirails")
        figures.save(name, quick=quick)


async def measure_kernel(
    figures: Figures, connect: Callable[..., Any], size: int, copy: str, quick: bool
) -> None:
    """The verbs, the lifecycle and the reads, with a client for each side."""
    rounds = 200 if quick else 2_000
    consumer = await done(connect(requester_address=CONSUMER, state_directory=copy))
    provider = await done(connect(private_key=KEY, state_directory=copy))
    await done(consumer.mock.mint(consumer.address, rounds * AMOUNT))
    ids = (STATE / str(size) / "ids.txt").read_text().split()
    order = new_order(consumer, provider)

    async def lifecycle() -> str:
        pay, work = consumer.advanced, provider.advanced
        tx_id: str = await figures.time(
            f"create_transaction/{size}", pay.create_transaction, **order
        )
        await figures.time(f"link_escrow/{size}", pay.link_escrow, tx_id)
        move = work.transition_state
        await figures.time(f"IN_PROGRESS/{size}", move, tx_id, State.IN_PROGRESS)
        proof = ProofGenerator().generate_delivery_proof(tx_id=tx_id, deliverable=DELIVERABLE)
        await figures.time(f"DELIVERED/{size}", move, tx_id, State.DELIVERED, proof=proof)
        await figures.time(f"SETTLED/{size}", pay.transition_state, tx_id, State.SETTLED)
        return tx_id

    for _ in range(rounds):
        tx_id = await figures.time(f"lifecycle/{size}", lifecycle)
        if size == 0:
            ids.append(tx_id)
    read = consumer.advanced.get_transaction
    for tx_id in islice(cycle(ids), rounds * 10):
        await figures.time(f"get_transaction/{size}", read, tx_id)


async def measure_signing(figures: Figures, connect: Callable[..., Any], quick: bool) -> None:
    with tempfile.TemporaryDirectory(dir=STATE) as directory:
        consumer = await done(connect(requester_address=CONSUMER, state_directory=directory))
        provider = await done(connect(private_key=KEY, state_directory=directory))
        order = new_order(consumer, provider)
        tx_id = await done(consumer.advanced.create_transaction(**order))
        sign, kernel = provider.advanced.sign_delivery, provider.network.kernel
        for _ in range(100 if quick else 1_000):
            message = await figures.time("sign", sign, tx_id, result={"answer": 42})
            await figures.time("recover", recover_delivery_signer, message, kernel)


def new_order(consumer: Any, provider: Any) -> dict[str, Any]:
    return {
        "requester": consumer.address,
        "provider": provider.address,
        "amount": AMOUNT,
        "deadline": int(time.time()) + MONTH_SECONDS,
    }


if __name__ == "__main__":
    asyncio.run(main())
