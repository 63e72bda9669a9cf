"""The papers tell the truth: every Python example runs, and every error code is listed."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import ROOT, free_port, run_python, served, until

import agirails
from agirails import ACTPClient, State
from agirails._agirails import _Postgres
from agirails.testing import Devnet

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Where the papers' examples find what the tests have elsewhere.
SERVICE = "http://127.0.0.1:5000"
DATABASE = "postgresql://user:password@db.internal/payments?sslmode=require"
FENCE = re.compile(r"^```python[ \t]*$\n(.*?)^```[ \t]*$", re.M | re.S)

# A page that builds a Flask app is asked once, without payment: it must neither fail nor serve.
EXERCISE = """

def _exercise(app):
    client = app.test_client()
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "static" or rule.arguments:
            continue
        for method in (rule.methods or set()) & {"GET", "POST"}:
            answer = client.open(rule.rule, method=method, json={"prompt": "p"} if method == "POST" else None)
            assert answer.status_code < 500, (rule.rule, method, answer.status_code, answer.text)
            assert method == "GET" or answer.status_code in (400, 402), (rule.rule, answer.status_code)

if "app" in globals() and hasattr(globals()["app"], "test_client"):
    _exercise(globals()["app"])
"""


def blocks(page: Path) -> list[tuple[int, str]]:
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start()) + 2, match[1]) for match in FENCE.finditer(text)]


def examples(kind: str) -> list[object]:
    """The examples that need a service, a database, or nothing."""
    found = []
    for page in filter(Path.is_file, PAGES):
        for line, code in blocks(page):
            needs = "service" if SERVICE in code else "database" if DATABASE in code else "nothing"
            if needs == kind:
                found.append(pytest.param(page, line, code, id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def written(directory: Path, page: Path, line: int, code: str) -> Path:
    """An example as a program. Blank lines before it: a traceback names the line of the page."""
    # The prefix: flask.py would hide flask.
    script = directory / f"page_{page.stem}.py"
    script.write_text("\n" * (line - 1) + code, encoding="utf-8")
    return script


def run_example(script: Path, **environment: str) -> str:
    directory = script.parent / "cwd"
    directory.mkdir()
    environment = {"ACTP_STATE_DIR": str(script.parent / "state"), **environment}
    done = run_python("-W", "error", script, cwd=directory, **environment)
    assert done.returncode == 0, f"{script.name}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("page", "line", "code"), examples("nothing"))
def test_an_example_of_the_papers_runs(page, line, code, tmp_path):
    environment = {
        "PROVIDER_ADDRESS": "0x" + "9a" * 20,
        "CONSUMER_ADDRESS": "0x" + "c0" * 20,
        "ADDRESS": "0x" + "9a" * 20,
    }
    if "ACTP_MODE" in code:  # it takes its key from there, too
        environment["ACTP_PRIVATE_KEY"] = "0x" + "9a" * 32
    run_example(written(tmp_path, page, line, code + EXERCISE), **environment)


@pytest.mark.parametrize(("page", "line", "code"), examples("service"))
def test_a_call_of_the_papers_pays_the_service_of_the_readme(page, line, code, tmp_path):
    readme = ROOT / "README.md"
    service = written(tmp_path, readme, *blocks(readme)[0]).rename(tmp_path / "service.py")
    port, state = free_port(), str(tmp_path / "state")
    command = [sys.executable, "-m", "flask", "--app", str(service), "run", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with served(command, f"{url}/health", tmp_path / "log", ACTP_STATE_DIR=state):
        said = run_example(written(tmp_path, page, line, code.replace(SERVICE, url)))
    assert "Generated response for: a haiku" in said and "transaction_id" in said


@pytest.mark.parametrize(("page", "line", "code"), examples("database"))
def test_an_example_of_the_papers_runs_on_a_database(page, line, code, tmp_path):
    database = _Postgres()
    try:
        with Devnet() as net:
            net.write_profile(tmp_path / "network.json")
            run_example(
                written(tmp_path, page, line, code.replace(DATABASE, database.url) + EXERCISE),
                ACTP_PRIVATE_KEY=net.accounts[1].private_key,
                AGIRAILS_NETWORK=str(tmp_path / "network.json"),
            )
    finally:
        database.close()


def test_no_example_of_the_papers_is_left_out():
    for page in filter(Path.is_file, PAGES):
        text = page.read_text(encoding="utf-8")
        assert "import" not in "".join(re.findall(r"^```text$(.*?)^```$", text, re.M | re.S)), page
    assert len(examples("service")) >= 2 and len(examples("database")) == 1


class FirstPage:
    """Both programs and both commands of README, each in a directory that it is given."""

    TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

    def __init__(self, provider: Path, agent: Path) -> None:
        self.directories = {"provider.py": provider, "agent.py": agent}
        self.port = str(free_port())
        programs = re.findall(r"^`(\w+\.py)`", self.TEXT, re.M)
        assert programs == list(self.directories)
        for name, (_, code) in zip(programs, blocks(ROOT / "README.md"), strict=True):
            self.directories[name].mkdir(exist_ok=True)
            changed = code.replace(":5000", f":{self.port}")
            (self.directories[name] / name).write_text(changed, encoding="utf-8")
        commands = re.findall(r"^```sh\n(flask .*)\n(python .*)\n```$", self.TEXT, re.M)
        ((self.flask, self.python),) = commands

    @contextmanager
    def serving(self, log: Path, **env: str) -> Iterator[None]:
        command = [sys.executable, "-m", *self.flask.split(), "--port", self.port]
        url, directory = f"http://127.0.0.1:{self.port}/health", self.directories["provider.py"]
        with served(command, url, log, directory, **env):
            yield

    def call(self, **env: str) -> subprocess.CompletedProcess[str]:
        return run_python(*self.python.split()[1:], cwd=self.directories["agent.py"], **env)


def test_the_first_page_works_as_it_is_written_and_its_provider_is_paid(tmp_path):
    """In one directory and with no settings."""
    here = tmp_path / "with space"
    page = FirstPage(here, here)
    with page.serving(tmp_path / "log"):
        done = page.call()
        assert done.stdout.startswith("Generated response for: a haiku "), done.stderr
        assert done.stderr == "" and (here / ".actp").is_dir()

        # As the page says: a bundle ends after an hour, and two days later its money is there.
        provider = ACTPClient(requester_address="0x" + "fe" * 20, state_directory=here)
        before = provider.advanced.get_balance()
        (bundle,) = provider.advanced.get_transactions()
        assert (bundle.state, bundle.amount) == (State.COMMITTED, 1_000_000)

        def becomes(state: State) -> None:
            until(lambda: provider.advanced.get_transaction(bundle.id).state is state)

        assert provider.mock is not None
        # Not beyond its deadline, where nothing can be delivered any more.
        left = bundle.deadline - provider.advanced.now()
        assert 3_500 < left <= 3_600
        provider.mock.advance_time(left - 30)
        becomes(State.DELIVERED)
        assert provider.advanced.get_balance() == before
        provider.mock.advance_time(2 * 86_400)
        becomes(State.SETTLED)
        assert provider.advanced.get_balance() == before + 950_000
    assert "its provider has 0.95 USDC\ntwo days and an hour later" in page.TEXT


def test_the_first_page_works_from_two_directories_as_it_says(tmp_path):
    page = FirstPage(tmp_path / "one", tmp_path / "other")
    (named,) = re.findall(r"`export (ACTP_STATE_DIR)=\S+`", page.TEXT)
    shared = {named: str(tmp_path / "shared")}
    with page.serving(tmp_path / "log", **shared):
        done = page.call(**shared)
    assert done.stdout.startswith("Generated response for: a haiku "), done.stderr
    with page.serving(tmp_path / "log"):
        alone = page.call()
    assert alone.returncode == 1 and "ACTP_STATE_DIR" in alone.stderr.splitlines()[-1]
    assert "mock ledger" in alone.stderr


def test_the_readme_names_the_rust_that_the_crates_need():
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    (needed,) = re.findall(r'^rust-version = "(.*)"$', manifest, re.M)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"Rust (\d[\d.]*\d)", readme)) == {needed}


def test_make_help_lists_every_target():
    if shutil.which("make") is None:
        pytest.skip("the program make is not installed")
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    rules = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert re.findall(r"^make (\S+) +\S", listed.stdout, re.M) == rules


def documented_codes() -> dict[str, tuple[str, str]]:
    """Code → exception class and retry, as the tables of docs/errors.md have them."""
    rows = re.findall(
        r"^\| `(\w+)` \| `?(\w+)`? \| `?(\w+)`? \|",
        (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"),
        re.M,
    )
    return {code: (kind, retry) for code, kind, retry in rows if code != "retry"}


def codes_in_the_source() -> set[str]:
    """Every code the core can give: the rows of its two tables."""
    sources = ROOT / "crates" / "agirails" / "src"
    rules = ROOT / "crates" / "agirails-protocol" / "src"
    text = (sources / "error.rs").read_text() + (rules / "refusal.rs").read_text()
    return set(re.findall(r'^    \w+, "([a-z_]+)", ', text, re.M))


def test_every_error_code_is_documented_and_no_other():
    assert codes_in_the_source() == set(documented_codes())
    assert len(documented_codes()) > 80


def test_every_documented_class_exists():
    kinds = {kind for kind, _ in documented_codes().values()}
    for kind in kinds:
        assert issubclass(getattr(agirails, kind), agirails.ACTPError)
    assert {retry for _, retry in documented_codes().values()} <= {"never", "safe", "check_first"}


def test_every_refusal_of_a_paywall_is_documented_and_no_other():
    source = ROOT / "crates" / "agirails" / "src" / "paywall" / "rejection.rs"
    given = re.findall(r'Self::new\(\s*(\d{3}), "(\w+)"', source.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert set(given) == set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", page, re.M))
    assert len(given) == len(set(given)) > 25


def test_the_threat_model_names_every_attack_that_is_played_and_no_other():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    played = {file.name for file in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert played
    assert set(re.findall(r"test_\w+\.py", page)) == played


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.is_file()], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_inside_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def commands() -> list[tuple[str, list[str]]]:
    """The command lines of `agirails` that the papers show: page and words."""
    found = []
    for page in filter(Path.is_file, PAGES):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?:^|`)agirails +([a-z][^`\n]*)", text, re.M):
            found.append((page.name, re.split(r"\s#\s", line)[0].split()))
    return found


def test_every_command_and_option_of_the_papers_exists():
    helps: dict[str, str] = {}
    for page, words in commands():
        # `store` has commands of its own.
        command = " ".join(words[: 2 if words[0] == "store" else 1])
        if command not in helps:
            done = run_python("-m", "agirails", *command.split(), "--help")
            assert done.returncode == 0, (page, words, done.stderr)
            helps[command] = done.stdout
        for option in (word for word in words if re.match(r"--[a-z]", word)):
            assert re.search(rf"{re.escape(option)}\b", helps[command]), (page, words)
    assert len(helps) > 10


def test_every_metric_of_the_papers_exists():
    crate = ROOT / "crates" / "agirails" / "src"
    source = "".join(
        (crate / name).read_text(encoding="utf-8")
        for name in ("paywall/builtin_routes.rs", "keeper/report.rs")
    )
    named = set()
    for page in filter(Path.is_file, PAGES):
        text = page.read_text(encoding="utf-8")
        named |= set(re.findall(r"\bagirails_(?:paywall|keeper)_([a-z_]+)", text))
        named |= set(re.findall(r"`…_([a-z_]+)`", text))
    missing = {name for name in named if not re.search(rf"\b(agirails_\w+?_)?{name}\b", source)}
    assert len(named) > 20 and missing == set()


def test_the_tables_of_scale_are_those_of_the_model():
    """The model prints them from the committed costs; a paper that was edited by hand differs."""
    model = subprocess.run(
        [sys.executable, "benches/scale.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert model.stdout.count("|---") > 3
    assert model.stdout in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
