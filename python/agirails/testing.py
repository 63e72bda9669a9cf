"""What tests of programs that use agirails need: a ledger without a chain, a local chain, and
pytest fixtures of both.

The fixtures are not there by themselves. In conftest.py::

    pytest_plugins = ["agirails.testing"]

or, where that is not the topmost conftest, `from agirails.testing import mock_ledger`. Then each
test has a ledger of its own, whose clock it can move::

    def test_a_paid_call(mock_ledger):
        provider, consumer = mock_ledger.client(0), mock_ledger.client(1)

and with `devnet` a new chain, which takes an eighth of a second::

    def test_a_paid_call_on_a_chain(devnet):
        provider, consumer = devnet.client(0), devnet.client(1)

One for more tests is a fixture of one's own, around `yield MockLedger(directory)` or
`with Devnet() as net: yield net`.

PYTEST_DONT_REWRITE: nothing here asserts, and a conftest may have imported it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._mock_ledger import MockLedger
from .devnet import Account, AsyncDevnet, Devnet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Account", "AsyncDevnet", "Devnet", "MockLedger"]

_KEYS_AND_NETWORKS = (
    "ACTP_PRIVATE_KEY",
    "ACTP_KEYSTORE_BASE64",
    "ACTP_KEY_PASSWORD",
    "AGIRAILS_NETWORK",
)

try:
    import pytest
except ModuleNotFoundError:
    # The classes do without it.
    pass
else:

    @pytest.fixture
    def mock_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MockLedger:
        """A MockLedger for this test alone.

        Clients of mode mock that name no state directory use it too, and no key or network of the
        environment is there while the test runs.
        """
        for name in _KEYS_AND_NETWORKS:
            monkeypatch.delenv(name, raising=False)
        ledger = MockLedger(tmp_path / "mock-ledger")
        for name, value in ledger.environment().items():
            monkeypatch.setenv(name, value)
        return ledger

    @pytest.fixture
    def devnet() -> Iterator[Devnet]:
        """A Devnet for this test alone."""
        with Devnet() as net:
            yield net
