"""What each microsecond of a paid call in Flask is: one thread, no server, the steps one by one.

`make bench` runs it with the release wheel: `python benches/flask_steps.py [--quick]`. A bare route and
the same route behind the paywall take turns; then calls whose steps are timed. What the timing itself
costs is no part of the rest, which is the difference between the calls that were not timed inside.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from paywall_flask import APP, BODY, KEY, STATE, fund

from agirails import ACTPClient, _wsgi

STEPS = ("request_parts", "exchange", "admit_head", "body", "admit", "head", "chunk", "end")
ENVIRON = {
    "CONTENT_LENGTH": str(len(BODY)),
    "CONTENT_TYPE": "application/json",
    "HTTP_ACCEPT_ENCODING": "identity",
    "HTTP_HOST": "127.0.0.1:8000",
    "QUERY_STRING": "",
    "REMOTE_ADDR": "127.0.0.1",
    "REQUEST_METHOD": "POST",
    "SCRIPT_NAME": "",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.errors": sys.stderr,
    "wsgi.multiprocess": True,
    "wsgi.multithread": True,
    "wsgi.run_once": False,
    "wsgi.url_scheme": "http",
    "wsgi.version": (1, 0),
}


class Timed:
    """An object whose steps leave their times; what they return is timed too, where it has steps."""

    def __init__(self, inner: Any, times: dict[str, list[int]]) -> None:
        self._inner, self._times = inner, times

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return timed(value, name, self._times) if name in STEPS else value


def timed(step: Callable[..., Any], name: str, times: dict[str, list[int]]) -> Callable[..., Any]:
    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter_ns()
        result = step(*args, **kwargs)
        times[name].append(time.perf_counter_ns() - begun)
        return Timed(result, times) if name == "exchange" else result

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    quick = parser.parse_args().quick
    rounds, calls = 10, 50 if quick else 500

    with tempfile.TemporaryDirectory() as directory:
        os.environ["STATE"] = directory
        agent = ACTPClient(mode="mock", private_key=KEY, state_directory=directory)
        served: dict[str, Any] = {"__name__": "__main__"}
        exec(APP, served)
        app, paywall = served["app"], served["paywall"]
        tx_id = fund(agent, 3 * rounds * calls + 100_000)

        def bare(_: str) -> int:
            return call(app, "/bare")

        def paid(key: str) -> int:
            return call(app, "/paid", HTTP_X_AGIRAILS_TX_ID=tx_id, HTTP_IDEMPOTENCY_KEY=key)

        whole: dict[str, list[int]] = {"bare": [], "paid": []}
        for number in range(rounds):
            for name, route in {"bare": bare, "paid": paid}.items():
                spent = [route(f"{number}-{index}") for index in range(calls)]
                whole[name] += spent if number else []  # the first round is for warming up

        times: dict[str, list[int]] = {name: [] for name in STEPS}
        paywall._core = Timed(paywall._core, times)
        _wsgi.request_parts = timed(_wsgi.request_parts, "request_parts", times)  # type: ignore[assignment]
        for index in range(rounds * calls):
            paid(f"timed-{index}")
        paywall._core = paywall._core._inner

    figures = {name: float(median(spent)) for name, spent in (whole | times).items()}
    figures["rest"] = figures["paid"] - figures["bare"] - sum(figures[name] for name in STEPS)
    STATE.mkdir(parents=True, exist_ok=True)
    report = {"quick": quick, "figures": {name: {"median_ns": ns} for name, ns in figures.items()}}
    (STATE / "paywall_steps.json").write_text(json.dumps(report, indent=2))
    for name, nanoseconds in figures.items():
        print(f"{name:<14} {nanoseconds / 1e3:>7.1f} µs")


def call(app: Any, path: str, **headers: str) -> int:
    """Nanoseconds from the request to the last byte of its answer."""
    environ = {**ENVIRON, **headers, "PATH_INFO": path, "RAW_URI": path}
    environ["wsgi.input"] = io.BytesIO(BODY)
    told: list[str] = []
    begun = time.perf_counter_ns()
    pieces: Iterator[bytes] = app(environ, lambda status, *_: told.append(status))
    body = b"".join(pieces)
    pieces.close()  # type: ignore[attr-defined]
    spent = time.perf_counter_ns() - begun
    assert told == ["200 OK"], (told, body)
    return spent


if __name__ == "__main__":
    main()
