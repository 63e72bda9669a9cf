"""What became slower or faster since the figures that are committed, in benches/last.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import exp, log
from pathlib import Path

from tables import STATE, Row, show_time, text

LAST = Path(__file__).with_name("last.json")
# From run to run the medians of one tree differ by as much.
NOISE = 1.15


def measured() -> dict[str, float]:
    """The medians that the benchmarks left, in nanoseconds, by way of measuring and name."""
    return {
        f"{file.stem}: {name}": figure["median_ns"]
        for file in sorted(STATE.glob("*.json"))
        for name, figure in json.loads(file.read_text()).get("figures", {}).items()
        if figure.get("median_ns")
    }


def show(machine: str) -> str:
    """The ratios, worst first; those within the noise are counted."""
    if not LAST.exists():
        return "no figures are committed yet: nothing to compare with"
    last = json.loads(LAST.read_text())
    before, now = last["medians"], measured()
    ratios = {name: now[name] / before[name] for name in now.keys() & before.keys()}
    if not ratios:
        return "nothing of what is committed was measured"
    slower = sum(ratio > NOISE for ratio in ratios.values())
    faster = sum(ratio < 1 / NOISE for ratio in ratios.values())
    mean = exp(sum(map(log, ratios.values())) / len(ratios))
    lines = [
        f"{len(ratios)} figures beside those of {LAST.name}: {slower} slower by more than "
        f"{NOISE - 1:.0%}, {faster} faster; all together {mean:.2f}×"
    ]
    if last["machine"] != machine:
        lines.append(f"that was another machine ({last['machine']}): compare the ratios alone")
    if slower + faster:
        lines.append(text(table(ratios, before, now)))
    return "\n".join(lines)


def table(
    ratios: dict[str, float], before: dict[str, float], now: dict[str, float]
) -> Iterator[Row]:
    yield ["median", "committed", "now", "now / committed"]
    for name, ratio in sorted(ratios.items(), key=lambda pair: -pair[1]):
        if not 1 / NOISE <= ratio <= NOISE:
            yield [name, show_time(before[name]), show_time(now[name]), f"{ratio:.2f}×"]


def keep(machine: str) -> None:
    """Puts this run's figures in their place."""
    last = {"machine": machine, "medians": dict(sorted(measured().items()))}
    LAST.write_text(json.dumps(last, indent=1) + "\n")
