"""The dashboard that the documentation offers: Prometheus answers every query of it, and once."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from edge import program
from paid import TARGET, flask_app
from support import DAY, PRICE, ROOT, free_port, fund, http, served, until
from werkzeug.serving import make_server

from agirails import Consumer, State, sign_request
from agirails.testing import Devnet

FILE = ROOT / "docs" / "operating" / "grafana.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel, target["expr"]) for panel in PANELS for target in panel["targets"]]
FEE = 50_000
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$store": ".*"}


def put_in(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """An application on a port of this machine."""
    port = free_port()
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Prometheus:
    """A Prometheus that scrapes these ports every half second, as targets of one store."""

    def __init__(self, url: str, targets: int) -> None:
        self.url, self.targets = url, targets

    def ask(self, expr: str) -> list[Any]:
        """The series of an instant query."""
        query = urlencode({"query": expr})
        status, answer = http("GET", f"{self.url}/api/v1/query?{query}")
        assert status == 200 and answer["status"] == "success", (expr, answer)
        assert not answer.get("warnings"), (expr, answer)
        return answer["data"]["result"]

    def value(self, expr: str) -> float:
        (series,) = self.ask(expr)
        return float(series["value"][1])

    def scrape_twice(self) -> None:
        """Waits until each target was read twice more."""
        count = "min(scrape_samples_scraped) and count(timestamp(up) > {}) == " + str(self.targets)
        for _ in range(2):
            begun = time.time()
            until(lambda begun=begun: bool(self.ask(count.format(begun))), 20)


@contextmanager
def prometheus(directory: Path, ports: list[int]) -> Iterator[Prometheus]:
    binary, port = program("prometheus", "prometheus"), free_port()
    targets = ", ".join(f"'127.0.0.1:{each}'" for each in ports)
    (directory / "prometheus.yml").write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
        "scrape_configs:\n"
        f"  - {{job_name: shop, static_configs: [{{targets: [{targets}], labels: {{store: shop}}}}]}}\n"
    )
    command = [
        binary,
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    url = f"http://127.0.0.1:{port}"
    with served(command, f"{url}/-/ready", directory / "prometheus.log", directory):
        yield Prometheus(url, len(ports))


class Shop:
    """A paid service on a chain, and its consumer."""

    def __init__(self, net: Devnet) -> None:
        self.net = net
        self.provider, self.consumer = net.client(0), net.client(1)
        self.app, self.paywall = flask_app(self.provider, [])

    def fund(self) -> str:
        metadata = self.paywall.service_hash
        return fund(self.consumer, self.provider.address, PRICE, metadata=metadata)

    def pay(self, tx_id: str, body: bytes = b"{}") -> int:
        signature = sign_request(self.consumer, tx_id, "POST", TARGET, body)
        headers = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signature}
        return self.app.test_client().post(TARGET, data=body, headers=headers).status_code

    def becomes(self, tx_id: str, state: State) -> None:
        until(lambda: self.consumer.advanced.get_transaction(tx_id).state is state, 60)

    def has(self, **stages: int) -> None:
        """Waits for the books: they are written after the chain."""
        for stage, count in stages.items():
            until(lambda s=stage, n=count: len(self.paywall.payments(stage=s)) == n, 60)

    def sell(self) -> str:
        """A call that is served, with a repeat, a failure and a rejection beside it."""
        tx_id, failed = self.fund(), self.fund()
        assert self.pay(tx_id) == self.pay(tx_id) == 200
        assert self.pay(failed, b"status 500") == 500
        assert self.app.test_client().post(TARGET).status_code == 402
        self.becomes(tx_id, State.DELIVERED)
        return tx_id


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Prometheus]]:
    """A shop that has sold, settled, refunded and been disputed, as two targets of one store."""
    with ExitStack() as ends:
        shop = Shop(ends.enter_context(Devnet()))
        ports = [ends.enter_context(serving(shop.app)) for _ in range(2)]
        watch = ends.enter_context(prometheus(tmp_path_factory.mktemp("watch"), ports))
        settled, refunded, disputed = shop.sell(), shop.fund(), shop.sell()
        shop.paywall.refund(refunded)
        Consumer(shop.consumer).dispute(disputed, max_bond="1")
        shop.becomes(refunded, State.CANCELLED)
        shop.net.advance_time(3 * DAY)
        shop.becomes(settled, State.SETTLED)
        # The failed ones are given back too, now that their deadlines are over.
        shop.has(settled=1, disputed=1, returned=3)
        watch.scrape_twice()
        shop.sell()
        shop.has(delivered=1)
        watch.scrape_twice()
        yield shop, watch


class TestTheFile:
    def test_is_one_that_grafana_imports(self):
        assert DASHBOARD["schemaVersion"] >= 39 and DASHBOARD["id"] is None
        assert DASHBOARD["uid"] and DASHBOARD["title"]
        variables = {one["name"]: one["type"] for one in DASHBOARD["templating"]["list"]}
        assert variables == {"datasource": "datasource", "store": "query"}
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        assert len(set(ids)) == len(ids)

    def test_its_data_source_is_a_variable_everywhere(self):
        assert set(re.findall(r'"uid": "(.*?)"', FILE.read_text())) == {
            "${datasource}",
            DASHBOARD["uid"],
        }
        for panel in PANELS:
            for part in (panel, *panel["targets"]):
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

    def test_its_panels_do_not_overlap(self):
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24

    def test_every_panel_has_a_name_and_says_what_it_shows(self):
        assert len({panel["title"] for panel in PANELS}) == len(PANELS)
        assert all(panel["description"].endswith(".") for panel in PANELS)

    def test_no_query_adds_up_what_two_targets_of_a_store_report(self):
        for panel, expr in QUERIES:
            if panel["title"] != "Targets":
                assert re.match(r"(sum|max|histogram_quantile)\b", expr), expr
                assert expr.count("agirails_") == expr.count("max by (store"), expr


def test_every_metric_of_the_dashboard_exists(watched):
    shop, _ = watched
    told = shop.app.test_client().get("/metrics").text
    families = set(re.findall(r"^# TYPE (\w+)", told, re.M))
    named = {
        re.sub(r"_bucket$", "", name)
        for _, expr in QUERIES
        for name in re.findall(r"\bagirails_paywall_\w+", expr)
    }
    assert len(named) > 20 and named <= families, named - families
    # And it shows what there is.
    unseen = families - named
    assert unseen == {
        "agirails_paywall_paid_out_base_units_total",
        "agirails_paywall_webhooks_given_up_total",
        "agirails_paywall_webhooks_waiting",
    }


@pytest.mark.parametrize(
    ("panel", "expr"), QUERIES, ids=[f"{panel['title']} {expr}"[:80] for panel, expr in QUERIES]
)
def test_prometheus_answers_with_figures(watched, panel, expr):
    _, watch = watched
    series = watch.ask(put_in(expr))
    assert series, f"{panel['title']}: no data for {expr}"
    for one in series:
        assert float(one["value"][1]) >= 0, (expr, one)  # not NaN


def test_the_figures_are_the_books_and_not_twice_them(watched):
    shop, watch = watched
    (books,) = shop.paywall.report(by="customer")
    shown = {
        panel["title"]: watch.value(put_in(panel["targets"][0]["expr"]))
        for panel in PANELS
        if panel["type"] == "stat"
    }
    assert shown["Arrived (net)"] == pytest.approx(books.net / 1e6) == (PRICE - FEE) / 1e6
    assert shown["Served (gross)"] == pytest.approx(books.gross / 1e6) == 3 * PRICE / 1e6
    assert shown["Protocol fee"] == pytest.approx(books.fee / 1e6) == FEE / 1e6
    assert shown["Gas"] == pytest.approx(books.gas_wei / 1e18) and shown["Gas"] > 0
    assert (shown["Given back"], shown["Ever disputed"]) == (3, 1)
    assert (shown["Disputed now"], shown["Lost"], shown["Targets"]) == (1, 0, 2)


def test_the_variable_finds_the_store(watched):
    _, watch = watched
    (query,) = [
        one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"
    ]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    assert {series["metric"][label] for series in watch.ask(metric)} == {"shop"}
