"""How figures are shown: cells, rows, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STATE = Path(__file__).resolve().parent.parent / "target" / "bench-state"
Row = list[str]
NOTHING = "–"


class Measured:
    """What the benchmarks left, by way of measuring; an absent file is a column of dashes."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.ways: dict[str, Any] = {
            way: json.loads(file.read_text()) if file.exists() else {"figures": {}}
            for way, file in files.items()
        }

    def __bool__(self) -> bool:
        return any(way["figures"] for way in self.ways.values())

    def get(self, way: str, name: str, kind: str = "median_ns") -> float | None:
        value: float | None = self.ways[way]["figures"].get(name, {}).get(kind)
        return value

    def ratio(
        self, above: tuple[str, str], below: tuple[str, str], kind: str = "median_ns"
    ) -> float | None:
        return divide(self.get(*above, kind), self.get(*below, kind))


def show_time(nanoseconds: float | None) -> str:
    if nanoseconds is None:
        return NOTHING
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1e3:.3g} µs"


def show_ratio(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"{ratio:,.1f}×" if ratio < 10 else f"{ratio:,.0f}×"


def divide(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def target(
    what: str, value: float | None, form: str, *, least: float = 0, most: float = float("inf")
) -> Row:
    if value is None:
        return [what, NOTHING, "not measured"]
    return [what, form.format(value), "yes" if least <= value <= most else "NO"]


def text(rows: Iterable[Row]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown(rows: Iterable[Row]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *body])
