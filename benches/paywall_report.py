"""The part of the report that is about the paywall, from target/bench-state/paywall_*.json."""

from __future__ import annotations

from collections.abc import Iterator

from tables import STATE, Measured, Row, markdown, show_time, target, text

ROWS = {
    "checks of a known transaction": ("rust", "verification"),
    "the same, with a signature": ("rust", "verification_signed"),
    "tower layer, 64 calls at once": ("rust", "layer"),
    "the same, signed": ("rust", "layer_signed"),
    "the same, synced to the disk": ("rust", "layer_synced"),
    "the same, synced and signed": ("rust", "layer_synced_signed"),
    "the same, synced, from 64 balances": ("rust", "layer_synced_many"),
    "on PostgreSQL, not synced": ("rust", "postgres"),
    "on PostgreSQL, synced": ("rust", "postgres_synced"),
    "on PostgreSQL, synced and signed": ("rust", "postgres_synced_signed"),
    "on PostgreSQL, synced, from 64 balances": ("rust", "postgres_synced_many"),
    "on PostgreSQL, synced, one call at a time": ("rust", "postgres_synced_alone"),
    "one commit of that server": ("rust", "postgres_commit"),
    "Flask route, bare": ("flask", "bare"),
    "Flask route behind the paywall": ("flask", "paid"),
    "the same, signed by a consumer": ("flask", "paid_signed"),
    "Flask route with a millisecond of work, bare": ("flask", "work"),
    "the same, behind the paywall": ("flask", "work_paid"),
    "eight callers, SQLite": ("flask", "sqlite"),
    "eight callers, PostgreSQL, not synced": ("flask", "postgres"),
    "eight callers, SQLite, synced": ("flask", "sqlite_synced"),
    "eight callers, PostgreSQL": ("flask", "postgres_synced"),
}

STEPS = {
    "Flask, Werkzeug and the view: the bare route": "bare",
    "the request's headers, taken from the environ": "request_parts",
    "an exchange for them, in Rust": "exchange",
    "the checks of its head": "admit_head",
    "its body, copied": "body",
    "the claim, in the store": "admit",
    "the answer's status and headers": "head",
    "its body, copied again": "chunk",
    "the answer with its receipt, in the store": "end",
    "Python between these steps": "rest",
    "the paid route": "paid",
}
STORES = ("SQLite", "PostgreSQL")
SIZES = (1_000, 100_000)
QUESTIONS = {
    "opening it": "opening",
    "the figures of all time": "all time",
    "a stage that few payments are at": "rare stage",
    "one customer's payments": "one customer",
}


class Paid(Measured):
    def __init__(self) -> None:
        ways = ("rust", "flask", "steps", "dashboard")
        super().__init__({way: STATE / f"paywall_{way}.json" for way in ways})


def show(paid: Paid) -> str:
    tables = (table, steps, dashboard, targets)
    return "".join(f"\n\n{text(rows(paid))}" for rows in tables)


def table(paid: Paid) -> Iterator[Row]:
    yield ["prepaid calls", "median (p99)", "a second"]
    for label, (way, name) in ROWS.items():
        median, p99, rate = (
            paid.get(way, name, kind) for kind in ("median_ns", "p99_ns", "per_second")
        )
        time = f"{show_time(median)} ({show_time(p99)})"
        yield [label, time, "–" if rate is None else f"{rate:,.0f}"]


def steps(paid: Paid) -> Iterator[Row]:
    yield ["a paid call in Flask, one thread and no server", "median"]
    for label, name in STEPS.items():
        yield [label, show_time(paid.get("steps", name))]


def dashboard(paid: Paid) -> Iterator[Row]:
    yield ["the dashboard", *(f"{store}, {size:_}" for store in STORES for size in SIZES)]
    for label, name in QUESTIONS.items():
        cells = []
        for store in STORES:
            for size in SIZES:
                figure = f"{store} {name}/{size}"
                median, p99 = (
                    paid.get("dashboard", figure, kind) for kind in ("median_ns", "p99_ns")
                )
                cells.append(f"{show_time(median)} ({show_time(p99)})")
        yield [label, *cells]


def targets(paid: Paid) -> Iterator[Row]:
    yield ["to reach", "measured", "reached"]
    checked = paid.get("rust", "verification", "median_ns")
    yield target(
        "verification of a known transaction ≤ 10 µs",
        checked and checked / 1e3,
        "{:.1f} µs",
        most=10,
    )
    yield target(
        "tower layer ≥ 5,000 prepaid calls a second on one core, claims durable",
        paid.get("rust", "layer_synced", "per_second"),
        "{:,.0f}/s",
        least=5_000,
    )
    for kind, bare, paid_for in (
        ("that works for a millisecond", "work", "work_paid"),
        ("that does nothing", "bare", "paid"),
    ):
        yield target(
            f"Flask behind the paywall ≥ 0.8 of the bare route's requests a second, a handler {kind}",
            paid.ratio(("flask", paid_for), ("flask", bare), "per_second"),
            "{:.2f}",
            least=0.8,
        )
        with_it, without = (paid.get("flask", name, "p99_ns") for name in (paid_for, bare))
        added = with_it - without if with_it and without else None
        yield target("p99 that it adds ≤ 2 ms", added and added / 1e6, "{:.1f} ms", most=2)
    yield target(
        "one balance on PostgreSQL ≥ 3,000 calls a second, claims durable",
        paid.get("rust", "postgres_synced", "per_second"),
        "{:,.0f}/s",
        least=3_000,
    )
    for durability, ending in {"not synced": "", "synced": "_synced"}.items():
        yield target(
            f"Flask on PostgreSQL ≥ 0.8 of SQLite's calls a second, {durability}",
            paid.ratio(("flask", f"postgres{ending}"), ("flask", f"sqlite{ending}"), "per_second"),
            "{:.2f}",
            least=0.8,
        )
    yield target(
        "Flask on PostgreSQL, synced: a call takes ≤ 2 commits of the server more than on SQLite",
        excess(paid),
        "{:.1f} commits",
        most=2,
    )
    for store in STORES:
        opened = paid.get("dashboard", f"{store} opening/{SIZES[-1]}", "p99_ns")
        yield target(
            f"the dashboard of {SIZES[-1]:_} payments opens in less than a second, {store}",
            opened and opened / 1e9,
            "{:.2f} s",
            most=1,
        )


def excess(paid: Paid) -> float | None:
    """By how many commits of the server a call on it takes longer than one on a file that is not synced."""
    with_it, without = (
        paid.get("flask", name, "median_ns") for name in ("postgres_synced", "sqlite")
    )
    commit = paid.get("rust", "postgres_commit")
    return (with_it - without) / commit if with_it and without and commit else None


def document(paid: Paid) -> str:
    return f"""
## Behind the paywall

Rust: one core, one runtime thread, a handler that answers at once, so that what is measured is
the paywall. Every claim and every answer is in the store before it counts; "synced" waits for the
disk too (`survive_power_cut`). Flask: gunicorn with two workers of two threads on two cores, which
a client of four connections shares with them. One handler does nothing but turn a short text
around, so that the paywall's share is as large as it can be; another one takes a millisecond of
the processor first, which is little for something that is sold. What the paywall adds to a call is
the same for both. All routes take turns; the stores do so with eight callers, on servers of their
own. Recovering a signer takes one elliptic-curve operation for each call.

A single call on PostgreSQL is limited by the processor: setting up its statements costs the server
more than syncing them does. The Rust layer sends up to 128 calls together, which share that; four
threads of gunicorn have no more than four to share it among, and the database works on the same two
cores. So Flask reaches about half of what it does on a file here, synced or not.

{markdown(table(paid))}

What a paid call in Flask takes beyond the bare route, with a handler that does nothing and a state
file that is not synced; the server, its threads and the network come on top of both. Most of it is
the two transactions of the store, which the exactly-once promise needs.

{markdown(steps(paid))}

The dashboard is opened as a browser opens it: the page, its style and script, the figures of seven
days and the newest payments. The store has that many payments of 30 days, of 1,000 customers on 12
routes, so that the books have a row for almost every one of them.

{markdown(dashboard(paid))}

{markdown(targets(paid))}
"""
