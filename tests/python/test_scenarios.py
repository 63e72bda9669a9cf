"""Every behaviour that a kernel must have, played through this package: the scenarios of the Rust
testkit, on each kernel, by the blocking and by the awaitable client."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stages import ChainStage, EmbeddedStage, event_loop
from support import chain_kernel

from agirails import ValidationError, _agirails
from agirails.testing import Devnet

# Some scenarios pause the kernel before they connect.
pytestmark = pytest.mark.filterwarnings("default::agirails.NetworkWarning")

SCENARIOS = _agirails._scenarios()
GENERATIONS = ["2026-05", "f6", "aip14c"]
Finish = Callable[[Any], Any] | None


@pytest.fixture(scope="module", params=["sync", "async"])
def finish(request: pytest.FixtureRequest) -> Iterator[Finish]:
    """How an answer of the client is waited for."""
    if request.param == "sync":
        yield None
        return
    with event_loop() as wait:
        yield wait


@pytest.fixture(scope="module", params=GENERATIONS)
def net(request: pytest.FixtureRequest) -> Iterator[Devnet]:
    """One chain for all scenarios of a generation: each makes its own parties."""
    with Devnet(generation=request.param) as net:
        chain_kernel(net)
        yield net


# The registry is the same for every generation, and filling it takes long.
CASES = [
    (name, generation)
    for name, needs in SCENARIOS
    for generation in (GENERATIONS[:1] if needs == "own_stage" else GENERATIONS)
]


@pytest.mark.parametrize(("name", "generation"), CASES)
def test_embedded(name: str, generation: str, finish: Finish, tmp_path: Path) -> None:
    _agirails._play(name, EmbeddedStage(tmp_path, finish, generation))


# Ten thousand registrations, one after another, would take minutes and test nothing of the client
# that the state file does not: the limits are the registry's own.
@pytest.mark.parametrize("name", [name for name, needs in SCENARIOS if needs != "own_stage"])
def test_devnet(name: str, finish: Finish, net: Devnet, tmp_path: Path) -> None:
    _agirails._play(name, ChainStage(net, tmp_path, finish))


class TestAFailure:
    """What a scenario says when it is not met."""

    NAME = "linking_takes_the_amount_into_the_vault"

    def test_is_the_scenarios_own_words(self, tmp_path: Path, finish: Finish) -> None:
        class Timeless(EmbeddedStage):
            def advance(self, seconds: int) -> None:
                pass

        with pytest.raises(AssertionError, match="it succeeded"):
            _agirails._play("only_the_provider_starts_and_only_in_time", Timeless(tmp_path, finish))

    def test_is_an_error_that_should_not_have_been(self, tmp_path: Path, finish: Finish) -> None:
        class Broken(EmbeddedStage):
            def party(self) -> str:
                self.mint("nonsense", 1)
                raise AssertionError

        with pytest.raises(ValidationError, match="nonsense") as caught:
            _agirails._play(self.NAME, Broken(tmp_path, finish))
        assert (caught.value.code, caught.value.field) == ("invalid_address", "address")

    def test_is_whatever_else_python_raised(self, tmp_path: Path, finish: Finish) -> None:
        class Interrupted(EmbeddedStage):
            def party(self) -> str:
                raise KeyboardInterrupt("pressed")

        with pytest.raises(KeyboardInterrupt, match="pressed"):
            _agirails._play(self.NAME, Interrupted(tmp_path, finish))

    def test_is_a_scenario_that_does_not_exist(self, tmp_path: Path, finish: Finish) -> None:
        with pytest.raises(LookupError, match="no scenario nonsense"):
            _agirails._play("nonsense", EmbeddedStage(tmp_path, finish))
