"""What the package costs: time and memory to import, size and dependencies to install."""

import importlib.metadata
import os
import statistics
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from support import environment

import agirails

MEASURE = """
import time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
# Of the processor, which other programs do not change.
before, start = resident(), time.process_time()
import agirails
print(time.process_time() - start, resident() - before)
"""
MEGABYTE = 1_000_000


def measure() -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    seconds, size = done.stdout.split()
    return float(seconds), float(size)


def test_importing_takes_less_than_100_ms_of_the_processor_and_25_mb():
    measure()  # compiles the modules
    seconds, sizes = zip(*(measure() for _ in range(9)), strict=True)
    assert statistics.median(seconds) < 0.100
    assert statistics.median(sizes) < 25 * MEGABYTE


def test_importing_starts_no_thread_and_opens_no_file():
    script = "import os, agirails; print(len(os.listdir('/proc/self/task')), [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if int(fd) > 2 and os.path.exists(f'/proc/self/fd/{fd}')])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "1 []"


def test_nothing_else_must_be_installed():
    required = [
        line for line in importlib.metadata.requires("agirails-rs") or [] if "extra ==" not in line
    ]
    assert required == []


def test_the_version_is_the_distributions():
    assert agirails.__version__ == importlib.metadata.version("agirails-rs")


@pytest.fixture
def wheel() -> Path:
    path = os.environ.get("AGIRAILS_WHEEL")
    if not path:
        pytest.skip("AGIRAILS_WHEEL names no wheel")
    return Path(path)


class TestWheel:
    def test_has_one_stable_abi_module_and_its_types(self, wheel):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        assert [name for name in names if name.endswith(".so")] == ["agirails/_agirails.abi3.so"]
        assert {
            "agirails/py.typed",
            "agirails/_agirails.pyi",
            "agirails/__init__.py",
            "agirails/errors.py",
        } <= set(names)
        assert "-cp310-abi3-" in wheel.name

    def test_is_smaller_than_15_mb(self, wheel):
        assert wheel.stat().st_size < 15 * MEGABYTE

    def test_names_licence_python_and_no_required_dependency(self, wheel):
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(archive.read(name).decode())
        assert metadata["Requires-Python"] == ">=3.10"
        assert metadata["License-Expression"] == "MIT OR Apache-2.0"
        assert [
            line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line
        ] == []

    def test_is_what_the_tests_import(self, wheel):
        """And not the source tree, which could hide a file that the wheel lacks."""
        assert Path(agirails.__file__).is_relative_to(sysconfig.get_path("platlib"))
        with zipfile.ZipFile(wheel) as archive:
            assert archive.read("agirails/__init__.py") == Path(agirails.__file__).read_bytes()


SECOND_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
try:
    import agirails
    print("imported", flush=True)
except ImportError as error:
    print(error, flush=True)
'''
def elsewhere():
    # One that shares the GIL, as mod_wsgi's do.
    if sys.version_info >= (3, 13):
        failed = interpreters.exec(interpreters.create("legacy"), code)
    elif sys.version_info >= (3, 12):
        failed = interpreters.run_string(interpreters.create(isolated=False), code)
    else:
        failed = interpreters.run_string(interpreters.create(), code)
    assert not failed, failed
if sys.argv[1] == "main first":
    exec(code)
elsewhere()
elsewhere()
if sys.argv[1] == "main last":
    exec(code)
"""


@pytest.mark.parametrize("order", ["main first", "main last"])
def test_a_second_interpreter_is_refused_with_the_remedy(order, tmp_path):
    script = tmp_path / "interpreters.py"
    script.write_text(SECOND_INTERPRETER)
    done = subprocess.run(
        [sys.executable, str(script), order],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, *others = done.stdout.splitlines()
    assert (done.returncode, first) == (0, "imported"), done.stderr
    assert len(others) == 2
    assert all("WSGIApplicationGroup %{GLOBAL}" in line for line in others), others
