"""Figures of the chain kernel from Python. The Rust benchmark `chain` runs it.

It leaves target/bench-state/chain_python.json.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

from chain_calls import ground, measure_crowd, measure_reads, measure_singles
from measure import Figures, progress

from agirails import ACTPClient, RawPrivateKeyWarning, State


async def main(on: dict[str, Any]) -> None:
    figures = Figures()
    progress("chain_python: reads")
    rounds = 500 if on["quick"] else 5_000
    near = ACTPClient(**settings(on, on["profile"]))
    read = near.advanced.get_transaction
    await measure_reads(figures, "get_transaction", on["reads"], read, rounds)
    near_async = await ACTPClient.create(**settings(on, on["profile"]))
    read = near_async.advanced.get_transaction
    await measure_reads(figures, "get_transaction, async", on["reads"], read, rounds)

    progress("chain_python: transitions")
    far = await ACTPClient.create(**settings(on, on["profile"] | {"rpcUrl": on["slowUrl"]}))

    async def start(tx_id: str) -> None:
        await far.advanced.transition_state(tx_id, State.IN_PROGRESS)

    await measure_singles(figures, on, start)
    await measure_crowd(figures, on["crowd"], start)
    figures.save("chain_python", quick=on["quick"])


def settings(on: dict[str, Any], network: dict[str, Any]) -> dict[str, Any]:
    return {
        "mode": "testnet",
        "network": network,
        "private_key": on["privateKey"],
        "in_memory": True,
    }


if __name__ == "__main__":
    # The key is one that anvil publishes.
    warnings.simplefilter("ignore", RawPrivateKeyWarning)
    asyncio.run(main(ground()))
