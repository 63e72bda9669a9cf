"""The page about going live: its files run as they are written, but for places and ports."""

import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from edge import listening, nginx, program
from support import PRICE, ROOT, START, environment, free_port, new_key, served, until

from agirails import ACTPClient, CallError, Consumer, State
from agirails.testing import Devnet

PAGE = (ROOT / "docs" / "guide" / "going-live.md").read_text(encoding="utf-8")
ALERTS = ROOT / "docs" / "operating" / "alerts.yml"
AGIRAILS = Path(sys.executable).with_name("agirails")
PASSWORD = "a-long-password"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def named(name: str, kind: str) -> str:
    """The file that the page introduces by its name."""
    return re.findall(rf"^`[\w/.-]*{re.escape(name)}`.*?^```{kind}\n(.*?)^```", PAGE, re.M | re.S)[
        0
    ]


APP, GUNICORN = named("app.py", "python"), named("gunicorn.conf.py", "python")
UNIT, SECRETS = named("shop.service", "ini"), named("environment", "ini")
NGINX, DOCKERFILE = named("shop.conf", "nginx"), named("Dockerfile", "dockerfile")
(FUNCTION,) = [block for block in blocks("sh") if block.startswith("shop()")]


def start_of_the_unit() -> list[str]:
    """What systemd starts, by this interpreter."""
    (found,) = re.findall("^ExecStart=/srv/shop/venv/bin/gunicorn (.*)$", UNIT, re.M)
    return [sys.executable, "-m", "gunicorn", "--no-control-socket", *shlex.split(found)]


class House(NamedTuple):
    """/srv/shop and /var/lib/shop of the page, and a local chain in the place of Base Sepolia."""

    home: Path
    state: Path
    net: Devnet
    port: int
    env: dict[str, str]

    def shop(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """The page's function `shop`. There is no user to become here."""
        function = FUNCTION.replace("setpriv --reuid shop --regid shop --init-groups ", "")
        function = function.replace("/srv/shop/venv/bin/agirails", str(AGIRAILS))
        function = function.replace("/etc/shop/environment", str(self.home / "environment"))
        assert "/srv" not in function and "/etc" not in function
        return subprocess.run(
            ["sh", "-c", f'{function}shop "$@"', "sh", *arguments],
            env=environment(AGIRAILS_NETWORK=self.env["AGIRAILS_NETWORK"]),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.home,
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home, state = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("state")
    state.chmod(0o700)
    port = free_port()
    with Devnet() as net:
        net.write_profile(home / "network.json")
        secrets = SECRETS.replace("/var/lib/shop", str(state))
        assert f"ACTP_KEY_PASSWORD={PASSWORD}\n" in secrets
        (home / "environment").write_text(secrets)
        (home / "app.py").write_text(
            APP.replace("https://shop.example", f"https://localhost:{port}")
        )
        (home / "gunicorn.conf.py").write_text(GUNICORN)
        given = dict(line.split("=", 1) for line in secrets.splitlines())
        env = {**given, "AGIRAILS_NETWORK": str(home / "network.json")}
        yield House(home, state, net, port, env)


@pytest.fixture(scope="module")
def keystore(house: House) -> Path:
    """Section 3."""
    done = house.shop("keystore", stdin=f"{house.net.accounts[0].private_key}\n")
    assert done.returncode == 0, done.stderr
    return house.state / ".actp" / "keystore.json"


def test_the_keystore_is_where_the_service_looks_for_it(house, keystore):
    assert keystore.stat().st_mode & 0o777 == 0o600
    assert house.net.accounts[0].private_key.removeprefix("0x") not in keystore.read_text()


def test_doctor_finds_no_problem_with_the_service_key(house, keystore):
    done = house.shop("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "problem" not in done.stdout
    assert house.net.accounts[0].address in done.stdout


def test_mainnet_takes_this_key_and_none_in_the_clear(house, keystore):
    """No node is asked here: only the lines about the key are read."""
    done = house.shop("doctor", "--mode", "mainnet", "--rpc-url", "http://127.0.0.1:1")
    assert re.search(r"^ok +key ", done.stdout, re.M), done.stdout
    bare = subprocess.run(
        [AGIRAILS, "doctor", "--mode", "mainnet", "--rpc-url", "http://127.0.0.1:1"],
        env=environment(ACTP_PRIVATE_KEY=new_key(), ACTP_STATE_DIR=str(house.home)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert bare.returncode == 1 and re.search(r"^problem +key ", bare.stdout, re.M), bare.stdout


class Front(NamedTuple):
    """The service behind nginx, with the certificate that its callers know."""

    house: House
    url: str
    inner: str
    log: Path
    certificate: Path
    pid: int

    def status(self, url: str, **options: Any) -> int:
        trust = ssl.create_default_context(cafile=str(self.certificate))
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=trust), NoRedirect()
        )
        try:
            with opener.open(urllib.request.Request(url, **options), timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@pytest.fixture(scope="module")
def front(house: House, keystore: Path) -> Iterator[Front]:
    """Sections 1, 5 and 6: gunicorn as systemd starts it, and nginx with TLS."""
    inner, plain = free_port(), free_port()
    home, port = house.home, house.port
    certificate, key = home / "fullchain.pem", home / "privkey.pem"
    subprocess.run(
        [
            *(program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    (home / "gunicorn.conf.py").write_text(GUNICORN.replace(":8000", f":{inner}"))
    config = NGINX.replace("127.0.0.1:8000", f"127.0.0.1:{inner}")
    config = config.replace("listen 80;", f"listen 127.0.0.1:{plain};")
    config = config.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    config = config.replace("/etc/letsencrypt/live/shop.example", str(home))
    config = config.replace("server_name shop.example;", "server_name localhost;")
    config = config.replace("https://$host$request_uri", f"https://$host:{port}$request_uri")
    assert "shop.example" not in config and "/etc" not in config
    places = "".join(
        f"{kind}_temp_path {home}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root; " if os.getuid() == 0 else ""
    (home / "nginx.conf").write_text(
        f"daemon off; {user}pid {home}/pid; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {places}\n{config}\n}}\n"
    )
    binary, log = program("nginx", "nginx"), home / "shop.log"
    (home / "nginx").mkdir()
    asked = f"http://127.0.0.1:{inner}"
    with ExitStack() as ends:
        service = ends.enter_context(
            served(start_of_the_unit(), f"{asked}/health", log, home, **house.env)
        )
        command = [binary, "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
        ends.enter_context(listening(command, port, home / "nginx"))
        yield Front(house, f"https://localhost:{port}", asked, log, certificate, service.pid)


def test_a_call_is_bought_through_nginx_delivered_and_settled(front):
    """Section 4, word by word, and what the page says to look at."""
    house, provider = front.house, front.house.net.client(0)
    before = provider.advanced.get_balance()

    def run(line: str) -> str:
        done = subprocess.run(
            [AGIRAILS, *shlex.split(line.replace("https://shop.example", front.url))[1:]],
            env=environment(
                ACTP_PRIVATE_KEY=house.net.accounts[1].private_key,
                ACTP_STATE_DIR=str(house.home / "consumer"),
                AGIRAILS_NETWORK=house.env["AGIRAILS_NETWORK"],
                SSL_CERT_FILE=str(front.certificate),
            ),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    (mint, buy, settle) = next(
        block.splitlines() for block in blocks("sh") if block.startswith("agirails mint")
    )
    run(mint)
    assert "Generated response for: a haiku" in run(buy)
    until(lambda: "delivered" in house.shop("payments", "--limit", "20").stdout)
    run(settle)
    until(lambda: provider.advanced.get_balance() == before + 50_000)
    until(lambda: "settled" in house.shop("payments").stdout)
    assert "0.05" in house.shop("report").stdout
    assert house.shop("balance").returncode == 0
    log = front.log.read_text()
    assert "INFO agirails.paywall: POST /api/generate" in log and "ERROR" not in log, log


def test_the_figures_are_open_to_this_machine_alone(front):
    for page in ("/metrics", "/health"):
        assert front.status(f"{front.url}{page}") == 403
        assert front.status(f"{front.inner}{page}") == 200
        for spelling in (f"/{page}", f"/x/..{page}", f"/%{ord(page[1]):x}{page[2:]}", f"{page}?x"):
            assert front.status(f"{front.url}{spelling}") == 403, spelling
        for spelling in (f"{page}/", page.upper(), f"{page};x", f"/%25{ord(page[1]):x}{page[2:]}"):
            assert front.status(f"{front.url}{spelling}") == 404, spelling
    assert front.status(f"{front.url}/api/pricing") == 200
    assert front.status(f"{front.url}/api/generate", data=b"{}", method="POST") == 402


def test_nginx_sends_callers_to_https(front):
    config = (front.house.home / "nginx.conf").read_text()
    (port,) = re.findall(r"listen 127\.0\.0\.1:(\d+);", config)
    assert front.status(f"http://127.0.0.1:{port}/api/pricing") == 308


def test_a_backup_is_made_while_the_service_runs(front, tmp_path):
    (line,) = [block for block in blocks("text") if "agirails backup" in block]
    command = line.split("* * * ")[1].replace("\\%", "%").strip()
    command = command.replace("/srv/shop/venv/bin/agirails", str(AGIRAILS))
    command = command.replace("/var/backups/shop", str(tmp_path))
    command = command.replace("/var/lib/shop", str(front.house.state))
    subprocess.run(["sh", "-c", command], env=environment(), check=True, timeout=60)
    (copy,) = tmp_path.iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", copy.name)
    files = {file.name for file in (copy / ".actp").iterdir()}
    assert any(name.startswith("paywall-") for name in files) and "keystore.json" not in files


def test_a_reload_starts_new_workers_and_the_service_goes_on(front):
    (signalled,) = re.findall(r"^ExecReload=/bin/kill -(\w+) \$MAINPID$", UNIT, re.M)
    before = front.log.read_text().count("Booting worker")
    os.kill(front.pid, getattr(signal, f"SIG{signalled}"))
    until(lambda: front.log.read_text().count("Booting worker") == before + 2)
    assert front.status(f"{front.url}/api/pricing") == 200


def test_systemd_takes_the_unit(tmp_path):
    binary = program("systemd-analyze", "systemd")
    unit = tmp_path / "shop.service"
    # Program, user and file are this machine's: others do not exist here.
    text = UNIT.replace("/srv/shop/venv/bin/gunicorn", sys.executable)
    unit.write_text(re.sub(r"^(User|Group)=shop\n", "", text, flags=re.M))
    done = subprocess.run(
        [binary, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    # It loads the machine's own units too, and may complain of those.
    said = [line for line in (done.stdout + done.stderr).splitlines() if "shop.service" in line]
    assert said == [], said
    # That it would say something, too.
    unit.write_text(text.replace("KillMode=mixed", "KillMode=gently"))
    done = subprocess.run(
        [binary, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "shop.service" in done.stdout + done.stderr


def test_prometheus_takes_the_scrape_configuration(tmp_path):
    (config,) = blocks("yaml")
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(ALERTS, tmp_path)
    done = subprocess.run(
        [program("promtool", "prometheus"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_starts_the_service_with_what_it_copies(house, keystore, tmp_path):
    """No image is built here: its last command runs, among the files that it copies."""
    lines = [line.split(None, 1) for line in DOCKERFILE.replace("\\\n", " ").splitlines()]
    order = [verb for verb, _ in lines]
    given = {verb: rest for verb, rest in lines}
    assert order[0] == "FROM" and order.index("USER") < order.index("CMD")
    # The volume is made for the user before it becomes one: afterwards Docker copies no owner.
    assert f"-o {given['USER']} -g {given['USER']} {given['VOLUME']}" in lines[1][1]
    assert given["ENV"] == f"ACTP_STATE_DIR={given['VOLUME']}"
    copied = [name for verb, rest in lines if verb == "COPY" for name in rest.split()[:-1]]
    assert copied == ["agirails_rs-*.whl", "app.py", "gunicorn.conf.py"]
    for name in copied[1:]:
        shutil.copy(house.home / name, tmp_path)
    port = free_port()
    first, *rest = json.loads(given["CMD"].replace("0.0.0.0:8000", f"127.0.0.1:{port}"))
    assert first == "gunicorn"
    command = [sys.executable, "-m", first, "--no-control-socket", *rest]
    url = f"http://127.0.0.1:{port}/health"
    with served(command, url, tmp_path / "log", tmp_path, **house.env):
        check = json.loads(given["HEALTHCHECK"].removeprefix("CMD "))[2]
        check = check.replace(":8000", f":{port}")
        assert subprocess.run([sys.executable, "-c", check], timeout=20).returncode == 0
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, timeout=20)
    assert done.returncode != 0


SLOW = r"""
import ctypes, os, time
from flask import Flask
from agirails import ACTPClient
from agirails.flask import Paywall

app = Flask(__name__)
paywall = Paywall(ACTPClient(), app=app, lease_seconds=1)

@app.get("/api/<how>")
@paywall.charge("0.10")
def slow(how):
    with open("runs", "a") as runs:
        runs.write(f"{os.getpid()}\n")
    if paywall.payment.attempt == 1 or how == "always":
        # PyDLL keeps the global lock while it calls.
        ctypes.PyDLL(None).sleep(30) if how == "locked" else time.sleep(4)
    return {"attempt": paywall.payment.attempt}
"""


class TestTimeouts:
    """Section 2, with gunicorn's `timeout` of a second and a handler of four."""

    @pytest.fixture
    def ask(self, tmp_path: Path) -> Iterator[Any]:
        (tmp_path / "slow.py").write_text(SLOW)
        (tmp_path / "runs").touch()
        port, outer, key = free_port(), free_port(), new_key()
        consumer = ACTPClient(private_key=new_key(), state_directory=tmp_path)
        payer = Consumer(consumer, trusted=[f"http://127.0.0.1:{each}" for each in (port, outer)])
        options = {"ACTP_STATE_DIR": str(tmp_path), "ACTP_PRIVATE_KEY": key}

        def ask(how: str, *flags: str, proxy: str = "") -> tuple[Any, int, str, ACTPClient]:
            """One purchase: its answer or error, how many runs, the log, the consumer."""
            command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--timeout", "1"]
            command += ["-w", "2", *flags, "-b", f"127.0.0.1:{port}", "slow:app"]
            log = tmp_path / "log"
            with ExitStack() as ends:
                asked = f"http://127.0.0.1:{port}"
                ends.enter_context(served(command, f"{asked}/health", log, tmp_path, **options))
                if proxy:
                    location = f"location / {{ proxy_pass {asked}; {proxy} }}"
                    ends.enter_context(nginx(tmp_path, outer, location))
                url = f"http://127.0.0.1:{outer if proxy else port}/api/{how}"
                try:
                    found: Any = payer.call(url, max_amount="0.10", timeout=40)
                except CallError as error:
                    found = error
            runs = len((tmp_path / "runs").read_text().splitlines())
            return found, runs, log.read_text(), consumer

        yield ask

    def test_with_threads_a_call_may_take_longer_than_the_timeout(self, ask):
        answer, runs, log, _ = ask("once", "--threads", "4")
        assert (answer.json(), runs) == ({"attempt": 1}, 1)
        assert "WORKER TIMEOUT" not in log

    def test_a_proxy_that_waits_less_long_costs_the_consumer_nothing(self, ask, tmp_path):
        answer, runs, _, consumer = ask("once", "--threads", "4", proxy="proxy_read_timeout 1s;")
        assert (answer.json(), runs) == ({"attempt": 1}, 1)
        assert consumer.advanced.get_balance() == START - PRICE
        (errors,) = tmp_path.glob("nginx-*/error.log")
        assert "upstream timed out" in errors.read_text()

    def test_without_threads_the_run_is_ended_and_the_next_try_runs_it_again(self, ask):
        answer, runs, log, _ = ask("once")
        assert (answer.json(), runs) == ({"attempt": 2}, 2)
        assert "WORKER TIMEOUT" in log and "SystemExit; nothing was taken" in log

    def test_without_threads_a_handler_that_always_takes_longer_never_serves(self, ask):
        error, runs, _, consumer = ask("always")
        assert (error.code, runs) == ("service_failed", 3)
        state = consumer.advanced.get_transaction(error.transaction_id).state
        assert state in (State.COMMITTED, State.CANCELLED)

    def test_a_handler_that_holds_the_global_lock_is_killed_and_run_again(self, ask):
        begun = time.monotonic()
        answer, runs, log, _ = ask("locked", "--threads", "4")
        assert (answer.json(), runs) == ({"attempt": 2}, 2)
        assert "WORKER TIMEOUT" in log and time.monotonic() - begun < 30


def test_the_defaults_of_the_table_are_the_paywalls():
    source = (ROOT / "crates/agirails/src/paywall/settings.rs").read_text()
    for name, seconds in (("lease", 15), ("wait", 30), ("confirm_wait", 60)):
        assert f" {name}: Duration::from_secs({seconds})" in source, name
    assert "closing_seconds: 60" in source and "min_seconds_left: 120" in source
    table = PAGE.partition("## 2.")[2].partition("## 3.")[0]
    for told in ("`lease_seconds` | 15 s", "`wait_seconds` (30)", "`confirm_wait_seconds` (60)"):
        assert told in table
    assert "`closing_seconds` (60)" in table and "`min_seconds_left` | 120 s" in table


def test_the_times_of_the_files_fit_together():
    (timeout,) = re.findall(r"^timeout = (\d+)$", GUNICORN, re.M)
    (graceful,) = re.findall(r"^graceful_timeout = (\d+)$", GUNICORN, re.M)
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)
    (read,) = re.findall(r"proxy_read_timeout (\d+)s;", NGINX)
    (left,) = re.findall(r"min_seconds_left=(\d+)", APP)
    (docker,) = re.findall(r"--stop-timeout (\d+)", PAGE)
    longest = int(left) - 60
    assert longest <= int(graceful) < int(stop) <= int(docker)
    assert longest <= int(read) and longest <= int(timeout) and "threads = " in GUNICORN
