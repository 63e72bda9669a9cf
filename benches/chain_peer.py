"""The same figures of agirails 4.8.0, the existing Python SDK. The Rust benchmark `chain` runs it.

Its runtime for chains takes a network's description, so that it works on any chain. It lets
through ten reads a second, also where the node is one's own; reads are measured with that limit
and without it. It leaves target/bench-state/chain_peer.json.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
from importlib.metadata import version
from typing import Any

from chain_calls import ground, measure_crowd, measure_reads, measure_singles
from measure import Figures, progress

# By name: for a type checker, `agirails` is ours.
networks = importlib.import_module("agirails.config.networks")
runtimes = importlib.import_module("agirails.runtime.blockchain_runtime")

NO_LIMIT = 1e9


async def main(on: dict[str, Any]) -> None:
    figures = Figures()
    progress("chain_peer: reads")
    rounds = 100 if on["quick"] else 1_000
    unlimited = await connect(on, on["profile"]["rpcUrl"], rpc_rate_limit=NO_LIMIT)
    read = unlimited.get_transaction
    await measure_reads(figures, "get_transaction, no limit", on["reads"], read, rounds)
    limited = await connect(on, on["profile"]["rpcUrl"])
    # The first twenty pass at once.
    await asyncio.gather(*(limited.get_transaction(tx_id) for tx_id in on["reads"][:20]))
    rounds = 10 if on["quick"] else 60
    await measure_reads(figures, "get_transaction", on["reads"], limited.get_transaction, rounds)

    progress("chain_peer: transitions")
    far = await connect(on, on["slowUrl"])

    async def start(tx_id: str) -> None:
        await far.transition_state(tx_id, "IN_PROGRESS")

    await measure_singles(figures, on, start)
    await measure_crowd(figures, on["crowd"], start)
    for runtime in (unlimited, limited, far):
        await runtime.w3.provider.disconnect()
    figures.save("chain_peer", quick=on["quick"], version=version("agirails"))


async def connect(on: dict[str, Any], url: str, **options: Any) -> Any:
    profile, testnet = on["profile"], networks.BASE_SEPOLIA
    contracts = dataclasses.replace(
        testnet.contracts,
        actp_kernel=profile["contracts"]["actpKernel"],
        escrow_vault=profile["contracts"]["escrowVault"],
        usdc=profile["contracts"]["usdc"],
    )
    network = dataclasses.replace(
        testnet,
        name=profile["name"],
        chain_id=profile["chainId"],
        rpc_url=url,
        contracts=contracts,
    )
    return await runtimes.BlockchainRuntime.create(on["privateKey"], network, **options)


if __name__ == "__main__":
    asyncio.run(main(ground()))
