"""The picture of the dashboard in its guide: python tests/python/make_screenshot.py FILE

It makes the books of some days on a mock ledger, opens them in Chromium, and writes a PNG.
"""

import sys
import tempfile
from pathlib import Path

from paid import Stage
from support import DAY, until
from test_dashboard import MOUNT, Browser, dispute, mount, served

CALLS = (4, 9, 6, 12, 8, 15, 11)
"""How many payments were made on each of the days."""


def books(directory: Path) -> Stage:
    stage = Stage(directory, "flask")
    mount(stage)
    last = ""
    for day, count in enumerate(CALLS):
        for number in range(count):
            last = stage.fund(2 * 10**6)
            target = "/api/generate" if number % 3 else "/api/priced?0.75"
            method = "POST" if number % 3 else "GET"
            body = b"{}" if number % 3 else b""
            assert stage.pay(last, body, method, target).status == 200
        assert stage.pay(stage.fund(), b"status 500").status == 500
        delivered = sum(CALLS[: day + 1])
        until(
            lambda delivered=delivered: (
                len(
                    [
                        payment
                        for payment in stage.paywall.payments(limit=1_000)
                        if payment.delivered_at
                    ]
                )
                >= delivered
            ),
            30,
        )
        if day < len(CALLS) - 1:
            stage.provider.mock.advance_time(DAY)
    dispute(stage, last)
    until(lambda: stage.paywall.payments(stage="disputed"))
    return stage


def main() -> None:
    (file,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        stage = books(Path(directory, "state"))
        with served(stage.app) as origin:
            browser = Browser(Path(directory))
            try:
                browser.log_in(origin)
                browser.driver.set_window_size(1000, 1560)
                browser.open(origin + MOUNT)
                browser.driver.save_screenshot(file)
            finally:
                browser.driver.quit()


main()
