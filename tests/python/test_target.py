"""The canonical form of a target: ours, and the guide's version for other languages."""

import json
import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pytest
from support import ROOT

from agirails import ValidationError, canonical_target

VECTORS = json.loads((ROOT / "tests" / "vectors" / "target.json").read_text())


def guides_version():
    guide = (ROOT / "docs" / "guide" / "foreign-clients.md").read_text()
    code = re.search(r"```python\n(import re\n.*?)```", guide, re.DOTALL).group(1)
    scope = {}
    exec(code, scope)
    return scope["canonical_target"]


@pytest.mark.parametrize("version", [canonical_target, guides_version()], ids=["ours", "guide"])
@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["target"])
def test_vectors_agree(version, case):
    assert version(case["target"]) == case["canonical"]


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["target"])
def test_a_server_that_decodes_the_path_comes_to_the_same_form(case):
    parts = urlsplit(case["target"].split("#")[0])
    if parts.netloc or parts.scheme or case["target"].startswith("//"):
        return
    path_info = unquote_to_bytes(parts.path).decode("latin-1")
    encoded = quote(path_info.encode("latin-1"))
    assert canonical_target(f"{encoded}?{parts.query}") == case["canonical"]


def test_bytes_are_taken_as_a_server_gives_them():
    assert canonical_target(b"/caf\xc3\xa9/\xff") == "/caf%C3%A9/%FF"


def test_what_is_no_target_is_refused():
    with pytest.raises(ValidationError):
        canonical_target(5)
