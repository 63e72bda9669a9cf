"""The dashboard in a real browser: its figures are the books', and it asks nobody else."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import abort, request
from paid import Stage
from support import DAY, PRICE, environment, paywall_file, until
from werkzeug.serving import make_server

from agirails import State, verify_evidence

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    (CHROMIUM is None or DRIVER is None) and not os.environ.get("CI"),
    reason="Chromium and its driver are not installed: apt-get install chromium chromium-driver",
)
MOUNT = "/admin/paywall/"
SCRIPT = '<img src=x onerror="document.title=1">'
"""What a customer, or the chain, may try to have run."""
KEY = '"><script>document.title=1</script>'


class Shown(NamedTuple):
    """A dashboard that is served, and whose books it shows."""

    stage: Stage
    origin: str
    disputed: str

    @property
    def url(self) -> str:
        return self.origin + MOUNT

    def report(self, by: str, days: int | None = None) -> list[Any]:
        since = None
        if days is not None:
            now = datetime.fromtimestamp(self.stage.provider.advanced.now(), timezone.utc)
            since = now.date() - timedelta(days - 1)
        return self.stage.paywall.report(by, since=since)


def dispute(stage: Stage, tx_id: str) -> None:
    stage.consumer.advanced.transition_state(tx_id, State.DISPUTED)


@contextmanager
def served(app: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def mount(stage: Stage) -> None:
    dashboard = stage.paywall.dashboard()

    @dashboard.before_request
    def only_admins() -> None:
        if request.cookies.get("login") != "admin":
            abort(403)

    stage.app.register_blueprint(dashboard, url_prefix=MOUNT.rstrip("/"))


def fill(stage: Stage) -> str:
    """500 calls, a refund, failures, and a dispute, whose transaction is returned."""
    for _ in range(98):
        tx_id = stage.fund()
        for call in range(5):
            assert stage.pay(tx_id, target="/api/cheap", key=f"{call}").status == 200
    refunded = stage.fund()
    assert stage.pay(refunded, b"status 500").status == 500
    assert stage.pay(refunded, b"status 500").status == 500
    assert stage.paywall.refund(refunded) == "returning"
    until(lambda: len(stage.paywall.payments(stage="delivered", limit=200)) == 98, 60)
    stage.provider.mock.advance_time(3 * DAY)
    until(lambda: len(stage.paywall.payments(stage="settled", limit=200)) == 98, 60)
    until(lambda: stage.paywall.payments(stage="returned"))
    for _ in range(9):
        assert stage.pay(stage.fund()).status == 200
    disputed = stage.fund()
    assert stage.pay(disputed).status == 200
    stage.becomes(disputed, State.DELIVERED)
    dispute(stage, disputed)
    until(lambda: stage.paywall.payments(stage="disputed"))
    return disputed


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    stage = Stage(tmp_path_factory.mktemp("dashboard"), "flask")
    charge = stage.paywall.charge("0.02", calls=5, name=SCRIPT)
    stage.app.post("/api/odd")(charge(lambda: {"odd": True}))
    mount(stage)
    disputed = fill(stage)
    assert stage.pay(stage.fund(), target="/api/odd", key=KEY).status == 200
    with served(stage.app) as origin:
        yield Shown(stage, origin, disputed)


class Browser:
    """Chromium, and what it tells of itself."""

    def __init__(self, directory: Path, is_dark: bool = False) -> None:
        from selenium.webdriver import Chrome, ChromeOptions
        from selenium.webdriver.chrome.service import Service

        assert CHROMIUM and DRIVER, "CI has to install chromium and chromium-driver"
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "--headless=new",
            "--window-size=1200,900",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={directory / 'profile'}",
            # Its sandbox does not work for root.
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            *(["--force-dark-mode"] if is_dark else []),
        ):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(directory)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options, Service(DRIVER))
        self.driver.set_page_load_timeout(30)

    def log_in(self, origin: str) -> None:
        self.driver.execute_cdp_cmd(
            "Network.setCookie", {"name": "login", "value": "admin", "url": origin}
        )

    def open(self, url: str) -> None:
        self.driver.get(url)
        until(lambda: self.js("return document.body.dataset.ready === 'true'"))

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def value(self, path: str) -> str:
        return self.text(f'[data-value="{path}"]')

    def shows(self, selector: str) -> None:
        """Waits for it: a busy machine draws the page a moment later."""
        until(lambda: self.js("return document.querySelector(arguments[0]) !== null", selector))

    def click(self, selector: str) -> None:
        self.shows(selector)
        self.js("document.querySelector(arguments[0]).click()", selector)

    def rows(self, table: str) -> list[list[str]]:
        return self.js(
            "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map("
            "row => [...row.children].map(cell => cell.textContent))",
            table,
        )

    def choose(self, name: str) -> None:
        label = self.text(f'[data-range="{name}"]')
        self.click(f'[data-range="{name}"]')
        until(lambda: self.text("#status") == f"Figures of {label}")

    def problems(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()


@pytest.fixture(scope="module")
def browser(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    try:
        found.log_in(shown.origin)
        yield found
    finally:
        found.driver.quit()


@needs_chromium
class TestInABrowser:
    @pytest.fixture(autouse=True)
    def page(self, shown, browser):
        browser.problems(), browser.requests()
        browser.open(shown.url)
        yield
        # Nothing that went wrong, and nothing that was asked of anybody else.
        assert browser.problems() == []
        asked = [url for url in browser.requests() if not url.startswith(("data:", shown.url))]
        assert asked == []

    @pytest.mark.parametrize(("name", "days"), [("24h", 2), ("7d", 7), ("30d", 30), ("all", None)])
    def test_the_figures_are_those_of_the_books(self, shown, browser, name, days):
        browser.choose(name)
        by_day = shown.report("day", days)
        for figure in ("net", "gross", "fee"):
            total = sum(getattr(row, figure) for row in by_day)
            assert Decimal(browser.value(f"totals.{figure}")) * 1_000_000 == total, figure
        for figure in ("calls", "settled", "refunded", "disputed"):
            total = sum(getattr(row, figure) for row in by_day)
            assert browser.value(f"totals.{figure}") == str(total), figure
        days_shown = {row[0]: row[1:] for row in browser.rows("days")}
        for row in by_day:
            expected = [
                row.calls,
                row.gross,
                row.net,
                row.fee,
                row.settled,
                row.refunded,
                row.disputed,
            ]
            assert days_shown.pop(row.key) == [str(figure) for figure in expected]
        assert all(set(row) == {"0", "0.00"} for row in days_shown.values())
        routes = {row[0]: row[2:5] for row in browser.rows("routes")}
        for row in shown.report("route", days):
            key = row.key or "(nothing was served)"
            assert routes[key] == [str(row.gross), str(row.net), str(row.calls)]
        (customer,) = shown.report("customer", days)
        (row,) = browser.rows("customers")
        assert row[2:] == [
            str(figure)
            for figure in (
                customer.gross,
                customer.net,
                customer.calls,
                customer.refunded,
                customer.disputed,
            )
        ]

    def test_all_of_it_happened(self, shown, browser):
        browser.choose("all")
        assert browser.value("totals.calls") == "501"
        assert browser.value("totals.failures") == "2"
        assert browser.value("totals.refunded") == browser.value("totals.disputed") == "1"
        assert browser.value("backlog.disputed") == "1"
        delivered = shown.stage.paywall.payments(stage="delivered", limit=200)
        assert browser.value("backlog.delivered") == str(len(delivered))
        expected = sum(payment.expected_net for payment in delivered)
        assert Decimal(browser.value("backlog.expected")) * 1_000_000 == expected
        by_route = {row[0]: row for row in browser.rows("routes")}
        assert by_route["POST /api/generate"][5] == "2"
        for row in by_route.values():
            if row[4] != "0":
                assert all(re.fullmatch(r"(≤|>) \d+(\.\d+)? m?s", cell) for cell in row[6:]), row

    def test_payments_come_in_pages_and_by_stage(self, shown, browser):
        ids = []
        while True:
            labels = browser.js(
                "return [...document.querySelectorAll('#payments tbody th button')]"
                ".map(button => button.ariaLabel)"
            )
            ids += [label.removeprefix("The story of ") for label in labels]
            if browser.js("return document.querySelector('#older').disabled"):
                break
            last = ids[-1]
            browser.click("#older")
            until(
                lambda last=last: (
                    last not in browser.js("return document.querySelector('#payments').innerHTML")
                    and browser.text("#status") == "Older payments"
                )
            )
        known = shown.stage.paywall.payments(limit=1_000)
        assert ids == [payment.transaction_id for payment in known]
        browser.js(
            "const stage = document.querySelector('#stage'); stage.value = 'disputed';"
            " stage.dispatchEvent(new Event('change', {bubbles: true}))"
        )
        until(lambda: len(browser.rows("payments")) == 1)
        assert shown.disputed in browser.js("return document.querySelector('#payments').innerHTML")

    def test_a_story_with_its_evidence(self, shown, browser, tmp_path):
        browser.click(f'button[data-key="payment {shown.disputed}"]')
        until(lambda: browser.js("return document.querySelector('#story').open"))
        told = browser.text("#facts")
        assert shown.disputed in told
        assert "disputed" in told
        assert len(browser.rows("calls")) == 1
        link = browser.js("return document.querySelector('#evidence').href")
        asked = urllib.request.Request(link, headers={"Cookie": "login=admin"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert answer.headers["Content-Disposition"].startswith("attachment")
            found = verify_evidence(answer.read().decode())
        assert {finding.name: finding.outcome for finding in found.findings}
        assert found.conclusion != "fails"

    def test_what_others_wrote_stays_text(self, shown, browser):
        browser.choose("all")
        assert SCRIPT in [row[0] for row in browser.rows("routes")]
        odd = shown.stage.paywall.payments(limit=1)[0].transaction_id
        browser.click(f'button[data-key="payment {odd}"]')
        until(lambda: browser.js("return document.querySelector('#story').open"))
        assert browser.rows("calls")[0][2] == KEY
        assert browser.js("return document.querySelectorAll('img, script:not([src])').length") == 0
        assert browser.driver.title.endswith("Paywall")

    def test_the_keyboard_reaches_everything(self, shown, browser):
        from selenium.webdriver.common.keys import Keys

        browser.click("#live")  # or its rows are made anew meanwhile
        wanted = browser.js(
            "return [...document.querySelectorAll('a[href], button:enabled, select, input, summary,"
            ' [tabindex="0"]\')].filter(element => element.checkVisibility()).map('
            "(element, index) => element.dataset.seen = index)"
        )
        reached = set()
        for _ in range(len(wanted) + 2):
            browser.press(Keys.TAB)
            reached.add(browser.js("return document.activeElement.dataset.seen"))
            # Whoever looks sees where it is.
            assert browser.js(
                "const at = document.activeElement; return at === document.body"
                " || getComputedStyle(at).outlineStyle !== 'none'"
            )
        assert {str(index) for index in wanted} <= reached
        key = f"payment {shown.disputed}"
        browser.shows(f'button[data-key="{key}"]')
        browser.js(f"document.querySelector('button[data-key=\"{key}\"]').focus()")
        browser.press(Keys.ENTER)
        until(lambda: browser.js("return document.querySelector('#story').open"))
        browser.press(Keys.ESCAPE)
        until(lambda: not browser.js("return document.querySelector('#story').open"))
        assert browser.js("return document.activeElement.dataset.key") == key

    def test_a_phone_scrolls_down_and_not_sideways(self, shown, browser):
        size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            browser.open(shown.url)
            width = "return document.documentElement.scrollWidth"
            assert browser.js(width) == 360
            browser.click("details summary")
            browser.click(f'button[data-key="payment {shown.disputed}"]')
            until(lambda: browser.js("return document.querySelector('#story').open"))
            assert browser.js(width) == 360
            assert browser.js("return document.querySelector('#story').offsetWidth") <= 360
        finally:
            browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_light_and_dark(self, browser):
        ground = "return getComputedStyle(document.body).backgroundColor"
        before = browser.js(ground)
        browser.click("#theme")
        assert browser.js(ground) != before
        browser.driver.refresh()
        assert browser.js(ground) != before
        browser.click("#theme")
        assert browser.js(ground) == before

    def test_new_figures_come_by_themselves_and_are_told(self, shown, browser):
        browser.choose("all")
        before = int(browser.value("totals.calls"))
        open_payments = shown.stage.paywall.payments(stage="open")
        tx_id = open_payments[0].transaction_id if open_payments else shown.stage.fund()
        assert shown.stage.pay(tx_id, target="/api/odd", key=f"{time.time()}").status == 200
        until(lambda: browser.value("totals.calls") == str(before + 1), 25)
        assert browser.text("#status") == "The figures have changed."


@needs_chromium
def test_the_browser_would_have_told(shown, browser):
    """What the page must not do is refused, and seen by these tests."""
    browser.open(shown.url)
    browser.problems()
    browser.js(
        "const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x.png';"
        " document.body.append(image);"
        " document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"1\">')"
    )
    until(lambda: len([told for told in browser.problems() if "Content Security" in told]) > 0)


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    asked = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.build_opener(Stay).open(asked, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


class TestMounted:
    """The same bytes below any path, behind the application's own login."""

    @pytest.fixture(params=["flask", "fastapi"])
    def stage(self, tmp_path, request):
        stage = Stage(tmp_path, request.param)
        if request.param == "flask":
            mount(stage)
        else:
            stage.app.mount(MOUNT.rstrip("/"), stage.paywall.dashboard())
        return stage

    def get(self, stage, path, method="GET"):
        return stage.ask(method, f"{MOUNT}{path}", Cookie="login=admin")

    def test_every_part_has_its_type_and_the_policy(self, stage):
        assert stage.pay(stage.fund()).status == 200
        for path, kind in [
            ("", "text/html"),
            ("dashboard.css", "text/css"),
            ("dashboard.js", "text/javascript"),
            ("data/overview?range=all", "application/json"),
            ("data/payments", "application/json"),
        ]:
            answer = self.get(stage, path)
            assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, kind)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'")
            assert "unsafe" not in policy
            assert "://" not in policy
            assert self.get(stage, path, "HEAD").body == b""
        overview = self.get(stage, "data/overview?range=all").json
        assert (overview["totals"]["calls"], overview["totals"]["gross"]) == (1, "0.10")

    def test_what_is_wrong_is_named(self, stage):
        for path, status, words in [
            ("data/overview?range=8d", 400, "24h, 7d"),
            ("data/payments?stage=paid", 400, "delivering"),
            ("data/payments?requester=0x12", 400, "requester"),
            ("data/payments?after=x", 400, "0x"),
            (f"data/payments/0x{'00' * 32}", 404, "no such payment"),
            (f"data/payments/0x{'00' * 32}/evidence", 404, "Tx missing"),
            ("data/payments/x", 404, "no such payment"),
            ("data/secrets", 404, "no such figures"),
            ("../../etc/passwd", 404, ""),
            ("dashboard.js.map", 404, "no such page"),
        ]:
            answer = self.get(stage, path)
            assert answer.status == status, path
            assert words in answer.body.decode(), path
        assert self.get(stage, "data/overview", "POST").status == 405

    def test_the_address_without_its_slash_leads_to_the_one_with_it(self, stage):
        answer = stage.ask("GET", MOUNT.rstrip("/"), Cookie="login=admin")
        assert answer.status in (307, 308)
        assert answer.headers["location"].endswith("paywall/")


def test_nobody_else_gets_in(tmp_path):
    stage = Stage(tmp_path, "flask")
    mount(stage)
    for path in ("", "dashboard.js", "data/overview", f"data/payments/0x{'00' * 32}/evidence"):
        assert stage.ask("GET", MOUNT + path).status == 403


def test_the_command_lets_in_whoever_has_its_link_once(tmp_path):
    stage = Stage(tmp_path, "flask")
    assert stage.pay(stage.fund()).status == 200
    before = paywall_file(tmp_path).exists()
    command = [sys.executable, "-m", "agirails", "dashboard", "--address", stage.provider.address]
    process = subprocess.Popen(
        command,
        env=environment(ACTP_STATE_DIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        link = process.stdout.readline().strip()
        root, token = re.fullmatch(
            r"(http://127\.0\.0\.1:\d+/[0-9a-f]{16}/)(\?token=.{64})", link
        ).groups()
        assert ask(root)[0] == 403
        assert ask(root + "?token=" + "0" * 64)[0] == 403
        assert ask(link, Host="evil.example")[0] == 421
        status, headers, _ = ask(link)
        cookie = headers["Set-Cookie"]
        assert status == 200
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert ask(link)[0] == 403, "the token is used up"
        cookie = cookie.split(";")[0]
        assert ask(root, Cookie=cookie)[0] == 200
        status, _, body = ask(root + "data/overview?range=all", Cookie=cookie)
        totals = json.loads(body)["totals"]
        assert (status, totals["calls"], totals["gross"]) == (200, 1, "0.10")
        assert Decimal(totals["gross"]) * 1_000_000 == PRICE
        assert ask(root, "POST", Cookie=cookie)[0] == 405
        assert before
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
