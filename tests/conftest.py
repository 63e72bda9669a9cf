import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import HERE, SETTINGS, environment, new_address

from agirails import ACTPClient

Waiting = subprocess.Popen[str]


class Parties(NamedTuple):
    """Everyone around one state file, with addresses nobody else has."""

    consumer: ACTPClient
    provider: ACTPClient
    stranger: ACTPClient
    admin: ACTPClient
    directory: Path


@pytest.fixture(autouse=True)
def own_working_directory(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test finds state that another one, or a developer, left behind."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    def client(address: str) -> ACTPClient:
        return ACTPClient(requester_address=address, state_directory=tmp_path)

    consumer = client(new_address())
    return Parties(
        consumer=consumer,
        provider=client(new_address()),
        stranger=client(new_address()),
        admin=client(consumer.network.admin),
        directory=tmp_path,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that waits a minute comes last: meanwhile the others ran."""
    items.sort(key=lambda item: "waited_out" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def _waiting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Waiting | None]:
    """A call waits a minute for a file that another process holds, so it waits beside all tests."""
    if not any("waited_out" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    command = [
        sys.executable,
        str(HERE / "workers.py"),
        "wait_in_vain",
        str(tmp_path_factory.mktemp("held")),
    ]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.fixture
def waited_out(_waiting: Waiting) -> Callable[[], list[str]]:
    """What the call that waited in vain raised."""
    return lambda: json.loads(_waiting.communicate(timeout=150)[0])
