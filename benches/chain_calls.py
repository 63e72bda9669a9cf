"""What chain_python.py and chain_peer.py share: the calls that both make on the same chain.

The Rust benchmark `chain` has started that chain, and describes it in the file that it passes on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, time
from typing import Any

from measure import Figures, done, progress

# Nobody waits longer for two hundred transitions on a chain with a block every two seconds.
PATIENCE_SECONDS = 60

Call = Callable[[str], Any]


def ground() -> dict[str, Any]:
    """The chain, and the transactions that are there to be read and started."""
    described: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return described


async def measure_reads(
    figures: Figures, name: str, ids: list[str], read: Call, rounds: int
) -> None:
    await done(read(ids[0]))  # it connects
    for tx_id in islice(cycle(ids), rounds):
        await figures.time(name, read, tx_id)


async def measure_singles(figures: Figures, on: dict[str, Any], start: Call) -> None:
    """One after another, at all moments between two blocks."""
    for tx_id, phase in zip(on["singles"], on["phases"], strict=True):
        into_block = (time() - on["block"]) % on["blockSeconds"]
        await asyncio.sleep((phase - into_block) % on["blockSeconds"])
        await figures.time("transition", start, tx_id)


async def measure_crowd(
    figures: Figures, ids: list[str], start: Callable[[str], Awaitable[Any]]
) -> None:
    """All at once, from one key. What became of them on the chain, the caller looks up there."""
    started = perf_counter()
    tasks = [asyncio.ensure_future(start(tx_id)) for tx_id in ids]
    ended, late = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
    seconds = perf_counter() - started
    failures = Counter(describe(task.exception()) for task in ended if task.exception())
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    confirmed = len(ended) - failures.total()
    for name, value in {
        "seconds": seconds,
        "confirmed": confirmed,
        "failed": failures.total(),
        "late": len(late),
    }.items():
        figures.figures[f"crowd, {name}"] = {"value": value}
    progress(f"{confirmed} of {len(ids)} confirmed in {seconds:.1f} s, {len(late)} still waiting")
    for failure, count in failures.most_common(3):
        progress(f"{count} failed: {failure}")


def describe(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
