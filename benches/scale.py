"""What a deployment carries: a model from measured costs, for docs/scale.md.

`python benches/scale.py` prints its tables; `--write` puts them into docs/scale.md. The costs are those
of benches/costs.json; `--measured` takes them from the figures that benches/paywall.rs left, as a full
`make bench` does. Random numbers come from a fixed seed, so that the same costs give the same tables.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from tables import STATE, Row, markdown

ROOT = Path(__file__).resolve().parent.parent
COSTS = Path(__file__).with_name("costs.json")
PAPER = ROOT / "docs" / "scale.md"
MARKS = ("<!-- from benches/scale.py -->\n", "<!-- end -->\n")

# Base: a block every two seconds, 140 million gas at most (docs.base.org, block building, August 2025).
BLOCK_SECONDS, BLOCK_GAS = 2, 140_000_000
# docs/guide/operating.md, which tests/python/test_gas.py measures: create, approve and link; then the way to
# DELIVERED and SETTLED.
GAS = 241_000 + 46_000 + 252_000 + 46_000 + 52_000 + 160_000
MOST, TURNS = 128, 2  # paywall/store/postgres: together.rs, pool.rs
AT_ONCE = 64  # paywall.rs


@dataclass
class Server:
    """One PostgreSQL server: transactions that carry steps, on one core, with one log to sync."""

    # A step: when its call came, and whether it is the claim or the answer.
    waiting: deque[tuple[float, bool]] = field(default_factory=deque)
    under_way: int = 0
    free_at: float = 0.0


def simulate(costs: dict[str, float], servers: int, rate: float, calls: int) -> list[float]:
    """Seconds that calls wait for their two commits, where they come at random at this rate.

    A call belongs to a server by its payment's id. Each server works for one process of callers, whose
    steps share transactions as the store has it: two at a time, 128 steps in one.
    """
    dice = random.Random(servers * 1_000_003 + calls)
    places = [Server() for _ in range(servers)]
    events: list[tuple[float, int, int, list[tuple[float, bool]]]] = []
    number = 0

    def push(time: float, place: int, steps: list[tuple[float, bool]]) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (time, number, place, steps))

    def start(now: float, place: int) -> None:
        server = places[place]
        while server.waiting and server.under_way < TURNS:
            steps = [server.waiting.popleft() for _ in range(min(MOST, len(server.waiting)))]
            server.under_way += 1
            # The core works on one after the other; while one is synced, the next one may begin.
            begun = max(now, server.free_at)
            server.free_at = begun + costs["begin_s"] + costs["step_s"] * len(steps)
            push(server.free_at + costs["commit_s"], place, steps)

    came = 0.0
    for _ in range(calls):
        came += dice.expovariate(rate)
        push(came, -1 - dice.randrange(servers), [(came, True)])
    times: list[float] = []
    while events:
        now, _, place, steps = heapq.heappop(events)
        if place < 0:
            places[-1 - place].waiting.extend(steps)
            start(now, -1 - place)
            continue
        places[place].under_way -= 1
        for came, is_claim in steps:
            if is_claim:
                places[place].waiting.append((came, False))
            else:
                times.append(now - came)
        start(now, place)
    return sorted(times)


def measured() -> dict[str, float]:
    """The costs of one step and of its transaction, from what one call and 64 at once take."""
    figures = json.loads((STATE / "paywall_rust.json").read_text())["figures"]
    commit, alone = (
        figures[name]["median_ns"] / 1e9 for name in ("postgres_commit", "postgres_synced_alone")
    )
    both = alone / 2 - commit  # a transaction with one step
    share = (
        1 / figures["postgres_synced"]["per_second"] / 2
    )  # a step, and its share of a transaction
    step = (share - both / AT_ONCE) / (1 - 1 / AT_ONCE)
    return {
        "commit_s": commit,
        "begin_s": both - step,
        "step_s": step,
        "sqlite_per_s": figures["layer"]["per_second"],
        "postgres_per_s": figures["postgres_synced"]["per_second"],
        "sqlite_bytes": figures["layer"]["bytes_per_call"],
        "postgres_bytes": figures["postgres_synced"]["bytes_per_call"],
    }


def capacity(costs: dict[str, float]) -> float:
    """Calls a second of one core, where transactions are full: two steps each."""
    return 1 / (2 * (costs["step_s"] + costs["begin_s"] / MOST))


def servers_table(costs: dict[str, float]) -> list[Row]:
    rows = [["PostgreSQL servers of one core", "calls a second", "median", "p99"]]
    for servers in (1, 4, 16):
        for share in (0.25, 0.5, 0.8):
            rate = capacity(costs) * servers * share
            times = simulate(costs, servers, rate, 20_000)
            median, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
            rows.append(
                [str(servers), f"{rate:,.0f}", f"{median * 1e3:.1f} ms", f"{p99 * 1e3:.1f} ms"]
            )
    return rows


def places_table(costs: dict[str, float]) -> list[Row]:
    rows = [["", "SQLite, one core", "PostgreSQL, one core and one for the paywall"]]
    rows.append(
        ["calls a second", f"{costs['sqlite_per_s']:,.0f}", f"{costs['postgres_per_s']:,.0f}"]
    )
    rows.append(
        [
            "GB a million calls",
            f"{costs['sqlite_bytes'] * 1e6 / 1e9:.1f}",
            f"{costs['postgres_bytes'] * 1e6 / 1e9:.1f}",
        ]
    )
    month = 30 * 86_400 / 1e9
    rows.append(
        [
            "GB for 30 days of 100 calls a second",
            f"{costs['sqlite_bytes'] * 100 * month:,.0f}",
            f"{costs['postgres_bytes'] * 100 * month:,.0f}",
        ]
    )
    return rows


def chain_table() -> list[Row]:
    rows = [
        [
            "calls a funded transaction pays for",
            "funded transactions a second, all of Base",
            "calls a second, all of Base",
            "calls a second with a tenth of it",
        ]
    ]
    most = BLOCK_GAS / BLOCK_SECONDS / GAS
    for calls in (1, 100, 10_000, 100_000):
        rows.append(
            [f"{calls:,}", f"{most:,.0f}", f"{most * calls:,.0f}", f"{most * calls / 10:,.0f}"]
        )
    return rows


def tables() -> str:
    costs: dict[str, float] = json.loads(COSTS.read_text())
    parts = [places_table(costs), servers_table(costs), chain_table()]
    return "\n\n".join(markdown(part) for part in parts) + "\n"


def written(paper: str, made: str) -> str:
    before, rest = paper.split(MARKS[0])
    return before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    parser.add_argument("--measured", action="store_true", help="take the costs anew")
    options = parser.parse_args()
    if options.measured:
        COSTS.write_text(json.dumps(measured(), indent=1) + "\n")
    made = tables()
    if options.write:
        PAPER.write_text(written(PAPER.read_text(), made))
    print(made, end="")


if __name__ == "__main__":
    main()
