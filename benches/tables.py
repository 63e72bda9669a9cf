"""How figures are shown: cells, rows, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable

Row = list[str]
NOTHING = "–"


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
