"""Puts the figures side by side: a table, and which targets were reached. `make bench` runs it.

It reads target/bench-state/*.json and prints, at the end what became slower or faster since the
figures that are committed; a full run of a release build it also writes to docs/figures.md and
benches/last.json.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import chain_report
import paywall_report
import since
from tables import STATE, Measured, Row, divide, markdown, show_ratio, show_time, target, text

ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "rust": "Rust",
    "python": "Python",
    "python_async": "Python, async",
    "peer": "agirails 4.8.0",
}
VERBS = ["create_transaction", "link_escrow", "IN_PROGRESS", "DELIVERED", "SETTLED"]
OPERATIONS = ["get_transaction", *VERBS, "lifecycle"]


class Figures(Measured):
    def __init__(self) -> None:
        super().__init__({way: STATE / f"{way}.json" for way in WAYS})
        self.about = self.ways["rust"]
        self.most = max(self.about["sizes"])


def table(figures: Figures) -> Iterator[Row]:
    yield ["median (p99)", "in the file", *WAYS.values(), "peer / Python"]
    operations = [
        (name, f"{name}/{size}", f"{size:_}")
        for name in [*OPERATIONS, "sqlite_point_read"]
        for size in figures.about["sizes"]
    ]
    proofs = [
        (f"generate_delivery_proof, {label}", f"delivery_proof/{size}", "")
        for label, size in {"1 KB": 1_000, "1 MB": 1_000_000, "100 MB": 100_000_000}.items()
    ]
    signatures = [
        ("sign_delivery", "sign", ""),
        ("recover_delivery_signer", "recover", ""),
        ("the same by k256", "recover_k256", ""),
    ]
    for label, name, size in operations + proofs + signatures:
        cells = [time_cell(figures, way, name) for way in WAYS]
        ratio = figures.ratio(("peer", name), ("python", name))
        yield [label, size, *cells, show_ratio(ratio)]
    for label, name, unit in [("import", "import_ms", "ms"), ("import, memory", "import_mb", "MB")]:
        values = [figures.get(way, name, "value") for way in WAYS]
        cells = ["–" if value is None else f"{value:.1f} {unit}" for value in values]
        peer, ours = figures.get("peer", name, "value"), figures.get("python", name, "value")
        yield [label, "", *cells, show_ratio(divide(peer, ours))]


def time_cell(figures: Figures, way: str, name: str) -> str:
    median, p99 = figures.get(way, name), figures.get(way, name, "p99_ns")
    if median is None or p99 is None:
        return "–"
    cell = f"{show_time(median)} ({show_time(p99)})"
    if name.startswith("lifecycle/"):
        cell += f", {figures.get(way, name, 'per_second'):,.0f}/s"
    if name.startswith("delivery_proof/"):
        cell += f", {int(name.split('/')[1]) / median * 1e3:,.0f} MB/s"
    return cell


def targets(figures: Figures) -> Iterator[Row]:
    """Section 7's targets, and section 4's on the import."""
    most = figures.most
    yield ["to reach", "measured", "reached"]
    read = figures.get("python", f"get_transaction/{most}")
    yield target(
        f"get_transaction from Python ≤ 15 µs with {most:_} transactions",
        read and read / 1e3,
        "{:.1f} µs",
        most=15,
    )
    yield target(
        "get_transaction from Python ≥ 100 times faster than the peer, empty store",
        figures.ratio(("peer", "get_transaction/0"), ("python", "get_transaction/0")),
        "{:.0f}×",
        least=100,
    )
    for size in (0, most):
        yield target(
            f"≥ 3,000 lifecycles a second from Python, {size:_} transactions",
            figures.get("python", f"lifecycle/{size}", "per_second"),
            "{:,.0f}/s",
            least=3_000,
        )
    for way in ("rust", "python", "python_async"):
        growth = {
            name: figures.ratio((way, f"{name}/{most}"), (way, f"{name}/0")) for name in OPERATIONS
        }
        yield worst(f"every operation with {most:_} ≤ 2 times the cost with 0, {WAYS[way]}", growth)
    for kind, key in {"median": "median_ns", "p99": "p99_ns"}.items():
        ratios = {
            name: figures.ratio(("python_async", f"{name}/0"), ("python", f"{name}/0"), key)
            for name in OPERATIONS
        }
        yield worst(f"every awaited verb ≤ 2 times the synchronous one, {kind}", ratios)
    for name, least in {"sign": 20, "recover": 60}.items():
        yield target(
            f"{name} ≥ {least} times faster than the peer, from Python",
            figures.ratio(("peer", name), ("python", name)),
            "{:.1f}×",
            least=least,
        )
    yield target(
        "recover ≥ 3 times faster than k256, from Rust",
        figures.ratio(("rust", "recover_k256"), ("rust", "recover")),
        "{:.1f}×",
        least=3,
    )
    yield target(
        "import < 100 ms", figures.get("python", "import_ms", "value"), "{:.1f} ms", most=100
    )
    yield target(
        "import < 25 MB", figures.get("python", "import_mb", "value"), "{:.1f} MB", most=25
    )


def worst(what: str, ratios: dict[str, float | None]) -> Row:
    """The largest of the ratios, which is to be 2 at most."""
    name = max(ratios, key=lambda name: ratios[name] or 0)
    return target(what, ratios[name], f"{{:.2f}}× ({name})", most=2)


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return (
        f"{os.cpu_count()} cores, {model}, {platform.system()}, Python {platform.python_version()}"
    )


def main() -> None:
    figures = Figures()
    about = f"{machine()}; {figures.about['profile']} build"
    if not figures.ways["peer"]["figures"]:
        about += f"; {WAYS['peer']} could not be installed here"
    print(f"{about}\n\n{text(table(figures))}\n\n{text(targets(figures))}")
    chain = chain_report.Chain()
    if chain:
        print(chain_report.show(chain))
    paid = paywall_report.Paid()
    if paid:
        print(paywall_report.show(paid))
    print(f"\n{since.show(machine())}")
    if figures.about["quick"] or figures.about["profile"] != "release":
        return
    since.keep(machine())
    document = f"""# Figures

`make bench` measured and wrote this on {about}.

Every cell is the median of single calls, with the 99th percentile behind it; a lifecycle is the
five verbs and the making of a proof, by a client for each side. The state file is on disk and its
reads are random over the whole file. `sqlite_point_read` is what SQLite alone needs for the same
row. From Python, `sign_delivery` also reads the transaction that it speaks of. The peer is what
`pip install agirails==4.8.0` gives; its mock keeps one JSON file, so it was given at most 1_000
transactions.

{markdown(table(figures))}

{markdown(targets(figures))}
"""
    if chain:
        document += chain_report.document(chain)
    if paid:
        document += paywall_report.document(paid)
    (ROOT / "docs" / "figures.md").write_text(document)


if __name__ == "__main__":
    main()
