"""The same figures of agirails 4.8.0, the existing Python SDK, in a virtual environment of its own.

Its API is async, and its mock keeps all transactions in one JSON file, so the file gets at most
1_000 of them. It leaves target/bench-state/peer.json.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
from importlib.metadata import version
from time import perf_counter_ns
from typing import Any

from measure import AMOUNT, CONSUMER, DELIVERABLE, KEY, MONTH_SECONDS, TX_ID, Figures, progress

# By name: for a type checker, `agirails` is ours.
agirails = importlib.import_module("agirails")
base = importlib.import_module("agirails.runtime.base")
runtime_types = importlib.import_module("agirails.runtime.types")
message_types = importlib.import_module("agirails.types.message")
messages = importlib.import_module("agirails.protocol.messages")
proofs = importlib.import_module("agirails.protocol.proofs")

PROVIDER = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"
WINDOW_SECONDS = 3_600


async def main(quick: bool) -> None:
    figures = Figures()
    for size in (0, 1_000):
        with tempfile.TemporaryDirectory() as directory:
            await measure_runtime(figures, size, directory, rounds=5 if quick else 20)
    progress("peer: signatures, proofs, import")
    await measure_signing(figures, rounds=10 if quick else 100)
    await figures.measure_delivery_proofs(proofs.ProofGenerator(), quick)
    figures.measure_import("agirails")
    figures.save("peer", quick=quick, version=version("agirails"))


async def measure_runtime(figures: Figures, size: int, directory: str, rounds: int) -> None:
    client = await agirails.ACTPClient.create(
        mode="mock", requester_address=CONSUMER, state_directory=directory
    )
    runtime = client.advanced
    order = base.CreateTransactionParams(
        requester=CONSUMER,
        provider=PROVIDER,
        amount=str(AMOUNT),
        deadline=runtime.time.now() + 12 * MONTH_SECONDS,
        dispute_window=WINDOW_SECONDS,
    )
    # One transaction is what an empty store needs to be read; the lifecycles come on top.
    ids = [await runtime.create_transaction(order)]
    while len(ids) < size - rounds:
        ids.append(await runtime.create_transaction(order))
        if len(ids) % 100 == 0:
            progress(f"peer: {len(ids)} of {size} transactions")
    for index in range(rounds * 10):
        tx_id = ids[index * 7_919 % len(ids)]
        await figures.time(f"get_transaction/{size}", runtime.get_transaction, tx_id)
    for _ in range(rounds):
        await measure_lifecycle(figures, size, runtime, order)


async def measure_lifecycle(figures: Figures, size: int, runtime: Any, order: Any) -> None:
    state = runtime_types.State
    started = perf_counter_ns()
    tx_id = await figures.time(f"create_transaction/{size}", runtime.create_transaction, order)
    await figures.time(f"link_escrow/{size}", runtime.link_escrow, tx_id, str(AMOUNT))
    move = runtime.transition_state
    await figures.time(f"IN_PROGRESS/{size}", move, tx_id, state.IN_PROGRESS)
    generator = proofs.ProofGenerator()
    proof = generator.generate_delivery_proof(tx_id=tx_id, deliverable=DELIVERABLE)
    encoded = "0x" + generator.encode_proof(proof).hex()
    await figures.time(f"DELIVERED/{size}", move, tx_id, state.DELIVERED, encoded)
    # It pays only after the dispute window; the wait is not its fault.
    paused = perf_counter_ns()
    await runtime.time.advance_time(WINDOW_SECONDS)
    pause = perf_counter_ns() - paused
    await figures.time(f"SETTLED/{size}", runtime.release_escrow, tx_id)
    figures.note(f"lifecycle/{size}", perf_counter_ns() - started - pause)


async def measure_signing(figures: Figures, rounds: int) -> None:
    signer = messages.MessageSigner(KEY, chain_id=84_532, verifying_contract=CONSUMER)
    message = message_types.DeliveryProofMessage(
        tx_id=TX_ID,
        provider=f"did:ethr:84532:{PROVIDER}",
        consumer=f"did:ethr:84532:{CONSUMER}",
        result_cid="",
        result_hash=TX_ID,
        eas_attestation_uid="0x" + "00" * 32,
        delivered_at=1_780_000_000,
        chain_id=84_532,
        nonce=1,
    )
    for _ in range(rounds):
        signed = await figures.time("sign", signer.sign_delivery_proof_message, message)
        if not await figures.time("recover", signer.verify_signature, signed):
            raise RuntimeError("the peer does not recover its own signature")


if __name__ == "__main__":
    asyncio.run(main(quick="--quick" in sys.argv))
