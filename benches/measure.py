"""What the Python benchmarks share: timing, statistics, the cost of an import."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

STATE = Path(__file__).resolve().parent.parent / "target" / "bench-state"
AMOUNT = 100_000
MONTH_SECONDS = 30 * 86_400
# A published test key: never fund it.
KEY = f"0x{1:064x}"
CONSUMER = "0x2b5ad5c4795c026514f8317c7a215e218dccd6cf"
TX_ID = "0x" + "07" * 32
DELIVERABLE = b"\7" * 1_000


class Figures:
    """Times by name; behind the slash stand the transactions in the file, or the bytes."""

    def __init__(self) -> None:
        self.times: dict[str, list[int]] = {}
        self.figures: dict[str, dict[str, float]] = {}

    async def time(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls, awaits what is awaitable, and notes how long both took."""
        started = perf_counter_ns()
        result = call(*args, **kwargs)
        if hasattr(result, "__await__"):
            result = await result
        self.note(name, perf_counter_ns() - started)
        return result

    def note(self, name: str, nanoseconds: int) -> None:
        self.times.setdefault(name, []).append(nanoseconds)

    async def measure_delivery_proofs(self, generator: Any, quick: bool) -> None:
        for size, rounds in {1_000: 5_000, 1_000_000: 50, 100_000_000: 3}.items():
            deliverable = b"\7" * size
            generate = generator.generate_delivery_proof
            for _ in range(rounds // 10 + 1 if quick else rounds):
                name = f"delivery_proof/{size}"
                await self.time(name, generate, tx_id=TX_ID, deliverable=deliverable)

    def measure_import(self, module: str) -> None:
        """Medians of 11 processes, less those of a bare interpreter."""
        with_module, bare = median_run(f"import {module}"), median_run("pass")
        for name, value, bare_value in zip(
            ("import_ms", "import_mb"), with_module, bare, strict=True
        ):
            self.figures[name] = {"value": value - bare_value}

    def save(self, name: str, **about: Any) -> None:
        for key, times in self.times.items():
            times.sort()
            self.figures[key] = {
                "median_ns": times[len(times) // 2],
                "p99_ns": times[len(times) * 99 // 100],
                "max_ns": times[-1],
                "per_second": len(times) * 1e9 / sum(times),
            }
        STATE.mkdir(parents=True, exist_ok=True)
        report = json.dumps(about | {"figures": self.figures}, indent=2)
        (STATE / f"{name}.json").write_text(report + "\n")


async def done(value: Any) -> Any:
    """The value itself, or what it becomes when awaited."""
    return await value if hasattr(value, "__await__") else value


def median_run(code: str) -> tuple[float, float]:
    """Milliseconds of a fresh interpreter that runs this, and its resident MB at the end."""
    run_once(code)  # it writes the bytecode
    milliseconds, kilobytes = zip(*(run_once(code) for _ in range(11)), strict=True)
    return statistics.median(milliseconds), statistics.median(kilobytes) * 1024 / 1e6


def run_once(code: str) -> tuple[float, float]:
    started = perf_counter_ns()
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    milliseconds = (perf_counter_ns() - started) / 1e6
    # ru_maxrss would be the peak of this process, which a child inherits.
    code += "\nprint(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
    command = [sys.executable, "-I", "-c", code]
    kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return milliseconds, float(kilobytes)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
