"""What tests of programs that use agirails need: a local chain, and a pytest fixture of it.

The fixture is not there by itself. In conftest.py::

    pytest_plugins = ["agirails.testing"]

and then, with a new chain for each test, which takes an eighth of a second::

    def test_a_paid_call(devnet):
        consumer, provider = devnet.client(0), devnet.client(1)

A chain for more tests than one is a fixture of one's own, around `with Devnet() as net: yield net`.

PYTEST_DONT_REWRITE: nothing here asserts, and a conftest may have imported it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .devnet import Account, AsyncDevnet, Devnet

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Account", "AsyncDevnet", "Devnet"]

try:
    import pytest
except ModuleNotFoundError:
    # Devnet does without it.
    pass
else:

    @pytest.fixture
    def devnet() -> Iterator[Devnet]:
        """A Devnet for this test alone."""
        with Devnet() as net:
            yield net
