"""The papers tell the truth: every Python example runs, and every error code is listed."""

import re
from pathlib import Path

import pytest
from support import ROOT, run_python

import agirails

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
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


EXAMPLES = [
    pytest.param(page, line, code, id=f"{page.relative_to(ROOT)}:{line}")
    for page in PAGES
    if page.is_file()
    for line, code in blocks(page)
]


@pytest.mark.parametrize(("page", "line", "code"), EXAMPLES)
def test_an_example_of_the_papers_runs(page, line, code, tmp_path):
    # Blank lines before it: a traceback names the line of the page. The prefix: flask.py would hide flask.
    script = tmp_path / f"page_{page.stem}.py"
    script.write_text("\n" * (line - 1) + code + EXERCISE, encoding="utf-8")
    state = tmp_path / "state"
    environment = {
        "ACTP_STATE_DIR": str(state),
        "PROVIDER_ADDRESS": "0x" + "9a" * 20,
        "CONSUMER_ADDRESS": "0x" + "c0" * 20,
        "ADDRESS": "0x" + "9a" * 20,
    }
    (tmp_path / "cwd").mkdir()
    done = run_python("-W", "error", script, cwd=tmp_path / "cwd", **environment)
    assert done.returncode == 0, f"{page.relative_to(ROOT)}:{line}\n{done.stdout}{done.stderr}"


def test_the_readme_has_examples():
    assert len(blocks(ROOT / "README.md")) >= 1


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
    text = (sources / "error.rs").read_text() + (sources / "protocol" / "refusal.rs").read_text()
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


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.is_file()], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_inside_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []
