"""The part of the report that is about a chain, from target/bench-state/chain*.json."""

from __future__ import annotations

from collections.abc import Iterator

from tables import (
    NOTHING,
    STATE,
    Measured,
    Row,
    divide,
    markdown,
    show_ratio,
    show_time,
    target,
    text,
)

WAYS = {"chain": "Rust", "chain_python": "Python", "chain_peer": "agirails 4.8.0"}
NO_LIMIT = "get_transaction, no limit"
TIMES = [
    "bare eth_call",
    "get_transaction",
    "get_transaction, async",
    NO_LIMIT,
    "get_transactions of 100",
    "transition",
    "transition, after its block",
]


class Chain(Measured):
    def __init__(self) -> None:
        super().__init__({way: STATE / f"{way}.json" for way in WAYS})
        self.about = self.ways["chain"]

    def __bool__(self) -> bool:
        return bool(self.about["figures"])

    def own(self, name: str, kind: str = "value") -> float | None:
        return self.get("chain", name, kind)

    def crowd(self, way: str, name: str) -> float | None:
        """Of many transitions at once. Blocks are looked up on the chain, by the Rust program."""
        if way == "chain":
            return self.own(f"crowd, {name}")
        if name in ("arrived", "blocks"):
            return self.own(f"{way}, {name}")
        return self.get(way, f"crowd, {name}", "value")


def show(chain: Chain) -> str:
    return f"\n\n{text(table(chain))}\n\n{text(targets(chain))}\n\n{text(trips(chain))}"


def table(chain: Chain) -> Iterator[Row]:
    yield ["median (p99, or the longest)", *WAYS.values(), "peer / Python"]
    for name in TIMES:
        ratio = divide(chain.get("chain_peer", name), chain.get("chain_python", name))
        yield [name, *(time_cell(chain, way, name) for way in WAYS), show_ratio(ratio)]
    crowd = chain.about["crowd"]
    for name, form in (("seconds", "{:.2f} s"), ("blocks", "{:.0f}"), ("arrived", "{:.0f}")):
        cells = [chain.crowd(way, name) for way in WAYS]
        ratio = divide(cells[2], cells[1]) if name == "seconds" else None
        shown = [NOTHING if cell is None else form.format(cell) for cell in cells]
        yield [f"{crowd} transitions at once, {name}", *shown, show_ratio(ratio)]


def time_cell(chain: Chain, way: str, name: str) -> str:
    median = chain.get(way, name)
    if median is None:
        return NOTHING
    # Of few calls the longest tells more.
    worst = chain.get(way, name, "max_ns" if name.startswith("transition") else "p99_ns")
    return f"{show_time(median)} ({show_time(worst)})"


def targets(chain: Chain) -> Iterator[Row]:
    yield ["to reach", "measured", "reached"]
    read = chain.own("get_transaction", "median_ns")
    yield target(
        "get_transaction ≤ 1.3 times a bare eth_call",
        divide(read, chain.own("bare eth_call", "median_ns")),
        "{:.2f}×",
        most=1.3,
    )
    round_trip = chain.own("round trip", "median_ns") or 0
    most = (chain.about["block_ns"] + 2 * round_trip) / 1e9
    longest = chain.own("transition", "max_ns")
    yield target(
        f"the longest transition ≤ a block and two round trips ({most:.3f} s)",
        longest and longest / 1e9,
        "{:.3f} s",
        most=most,
    )
    waited = chain.own("transition, after its block", "max_ns")
    yield target(
        f"every transition returns ≤ two round trips ({2 * round_trip / 1e6:.0f} ms) after its block",
        waited and waited / 1e6,
        "{:.0f} ms",
        most=2 * round_trip / 1e6,
    )
    missed = chain.own("transition, blocks missed")
    yield target("no transition misses a block", missed, "{:.0f} missed", most=0)
    yield target(
        f"{chain.about['crowd']} transitions of one key ≤ 3 blocks",
        chain.own("crowd, blocks"),
        "{:.0f}",
        most=3,
    )
    for limit, name in (("", "get_transaction"), (" without its limit", NO_LIMIT)):
        yield target(
            f"get_transaction from Python ≥ 20 times faster than the peer{limit}",
            divide(chain.get("chain_peer", name), chain.get("chain_python", "get_transaction")),
            "{:.1f}×",
            least=20,
        )
    first, last = (chain.own(f"catching up, MB in the {part} tenth") for part in ("first", "last"))
    yield target(
        f"memory held in the last tenth of {chain.about['events']:_} events ≤ 1.1 times the first's",
        divide(last, first),
        "{:.2f}×",
        most=1.1,
    )


def trips(chain: Chain) -> Iterator[Row]:
    yield ["call", "chain transactions", "round trips until sent", "until confirmed"]
    for row in chain.about["trips"]:
        sends = row["transactions"] > 0
        yield [
            row["call"],
            str(row["transactions"]) if sends else NOTHING,
            str(row["sent"]) if sends else NOTHING,
            str(row["confirmed"]),
        ]


def document(chain: Chain) -> str:
    latency, block = chain.about["latency_ns"] / 1e6, chain.about["block_ns"] / 1e9
    return f"""
## On a chain

Measured on the local chain of `agirails-devnet`, which is anvil with the protocol's contracts.

Reads ask the node directly, one after the other. The bare `eth_call` sends the same bytes over a
kept connection and does not look at the answer; both take turns. Transitions are from COMMITTED
to IN_PROGRESS, on blocks of {block:.0f} s and behind a proxy that adds {latency:.0f} ms to each request
(a round trip takes {show_time(chain.own("round trip", "median_ns"))}): {chain.about["singles"]} one after
another, begun at moments spread evenly from one block to the next, then {chain.about["crowd"]} at once from
one key. "After its block" is the time from the block's arrival at the node to the call's return; a
block is missed where one that came more than three round trips after the call does not hold it.
Blocks are counted from the first that holds one of the transitions to the last. Sending takes two
round trips and seeing the block at least another, so one that is begun just too late for a block
cannot return within a block and two round trips.

The peer is what `pip install agirails==4.8.0` gives. It lets through ten reads a second, also
where the node is one's own; without that limit it was measured too. Both programs were given the
same chain, each its own transactions.

{markdown(table(chain))}

{markdown(targets(chain))}

{catching_up(chain)}

Round trips are HTTP requests, counted by the proxy on a chain that mines at once: the least of
{"three" if not chain.about["quick"] else "one"}. The looks that wait for a block are those behind the
sending; on a chain that makes one wait there are as many more as it takes.

{markdown(trips(chain))}
"""


def catching_up(chain: Chain) -> str:
    def figure(name: str) -> float:
        return chain.own(f"catching up, {name}") or 0

    told = f"""{figure("events"):_.0f} events were caught up with at
{figure("events a second"):_.0f} a second, from a process on this machine that makes them up, with
{figure("reports"):.0f} reports of progress."""
    told += f""" The stream's process held at
most {figure("MB in the first tenth"):.1f} MB in the first tenth of them and {figure("MB in the last tenth"):.1f} MB in the last."""
    if figure("resident MB at the end"):
        told += f""" What the
system counts ({figure("resident MB at a tenth"):.1f} MB behind a tenth, {figure("resident MB at the end"):.1f} MB at the end) has also what the allocator keeps
for later, which differs from run to run."""
    return told
