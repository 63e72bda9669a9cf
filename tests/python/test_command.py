"""The command line, as processes."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sysconfig
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import ROOT, chain_kernel, environment, free_port, listens, run_python, until

import agirails
from agirails import ACTPClient
from agirails.testing import Devnet

SCRIPT = Path(sysconfig.get_path("scripts")) / "agirails"


@contextmanager
def devnet(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A running `agirails devnet`, and what it printed when it was ready."""
    with subprocess.Popen(
        [SCRIPT, "devnet", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines: list[str] = []
            while not (lines and lines[-1].startswith("export ")):
                line = process.stdout.readline()
                assert line, process.stderr.read()
                lines.append(line.strip())
            yield process, lines
        finally:
            process.kill()


def url_of(lines: list[str]) -> str:
    return re.search(r"http://127\.0\.0\.1:\d+", "\n".join(lines))[0]


def profile_of(lines: list[str]) -> Path:
    return Path(lines[-1].removeprefix("export AGIRAILS_NETWORK="))


class TestDevnet:
    def test_prints_the_line_that_makes_it_the_testnet(self):
        with devnet() as (_, lines):
            profile = json.loads(profile_of(lines).read_text())
            assert profile["rpcUrl"] == url_of(lines)
            assert listens(url_of(lines))
            assert not re.search(r"0x[0-9a-f]{64}", "\n".join(lines)), "no keys unasked"

    def test_listens_and_writes_where_it_is_told(self, tmp_path):
        port, profile = free_port(), tmp_path / "with space.json"
        with devnet("--port", str(port), "--profile", profile, "--block-time", "0.5") as (_, lines):
            assert url_of(lines) == f"http://127.0.0.1:{port}"
            assert lines[-1] == f"export AGIRAILS_NETWORK='{profile}'"
            assert json.loads(profile.read_text())["rpcUrl"] == url_of(lines)
        assert profile.exists()

    def test_prints_accounts_and_keys_when_asked(self):
        with devnet("--accounts") as (_, lines), Devnet() as other:
            printed = re.findall(r"^(0x\w{40})  (0x\w{64})", "\n".join(lines), re.M)
            accounts = [*other.accounts, other.admin]
            assert printed == [(str(a.address), a.private_key) for a in accounts]

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_ends_in_order_when_asked(self, how):
        with devnet() as (process, lines):
            process.send_signal(how)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""
            assert not listens(url_of(lines))
            assert not profile_of(lines).exists()

    def test_ends_with_its_process_however_that_ends(self):
        with devnet() as (process, lines):
            process.kill()
            process.wait(10)
            until(lambda: not listens(url_of(lines)))

    def test_says_so_when_the_chain_ends_under_it(self):
        with devnet() as (process, lines):
            port = url_of(lines).rpartition(":")[2]
            (anvil,) = [
                int(entry.name)
                for entry in Path("/proc").iterdir()
                if entry.name.isdigit() and owns_port(entry, int(port))
            ]
            os.kill(anvil, signal.SIGKILL)
            assert process.wait(30) == 1
            assert process.stderr.read().startswith("error: ")

    def test_serves_programs_whose_mode_is_testnet(self):
        with Devnet() as net:
            chain_kernel(net)
            key = net.accounts[0].private_key
        with devnet() as (_, lines):
            script = (
                "import sys; from agirails import ACTPClient;"
                f" print(ACTPClient('testnet', private_key={key!r}).advanced.get_balance())"
            )
            done = run_python("-c", script, AGIRAILS_NETWORK=str(profile_of(lines)))
            assert done.stdout.strip() == str(10**12), done.stderr


def owns_port(process: Path, port: int) -> bool:
    """Whether this process listens on this port; its children's shell does not."""
    try:
        sockets = {link.readlink().name for link in (process / "fd").iterdir() if link.is_symlink()}
    except OSError:
        return False
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        f"socket:[{row[9]}]" in sockets
        for row in rows
        if row[3] == "0A" and row[1].endswith(f":{port:04X}")
    )


class TestKeystore:
    KEY = "0x" + "00" * 31 + "01"
    ADDRESS = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"

    def run(self, *arguments: str | Path, stdin: str, **env: str | None):
        return subprocess.run(
            [SCRIPT, "keystore", *arguments],
            env=environment(**env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def test_is_written_where_clients_find_it(self, tmp_path, monkeypatch):
        done = self.run(stdin=f"{self.KEY}\nsecret\n", ACTP_STATE_DIR=str(tmp_path))
        path = tmp_path / ".actp" / "keystore.json"
        assert (done.returncode, done.stderr) == (0, "")
        assert self.ADDRESS in done.stdout and str(path) in done.stdout
        assert path.stat().st_mode & 0o777 == 0o600
        monkeypatch.setenv("ACTP_KEY_PASSWORD", "secret")
        assert ACTPClient(state_directory=tmp_path).address == self.ADDRESS
        monkeypatch.delenv("ACTP_KEY_PASSWORD")
        client = ACTPClient(keystore=path, keystore_password="secret", in_memory=True)
        assert client.address == self.ADDRESS

    def test_takes_the_password_of_the_environment(self, tmp_path):
        path = tmp_path / "key.json"
        done = self.run("--output", path, stdin=self.KEY[2:], ACTP_KEY_PASSWORD="secret")
        assert done.returncode == 0, done.stderr
        client = ACTPClient(keystore=path, keystore_password="secret", in_memory=True)
        assert client.address == self.ADDRESS

    def test_never_takes_the_place_of_another_file(self, tmp_path):
        path = tmp_path / "key.json"
        path.write_text("precious")
        done = self.run("--output", path, stdin=f"{self.KEY}\nsecret\n")
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*key.json exists already\nhint: .*\n", done.stderr)
        assert path.read_text() == "precious"

    @pytest.mark.parametrize(
        ("stdin", "output", "words"),
        [
            ("", "key.json", "private key"),
            ("nonsense\nsecret\n", "key.json", "private key"),
            (f"{KEY}\n", "key.json", "password is empty"),
            (f"{KEY}\nsecret\n", "none/key.json", "cannot be written"),
        ],
    )
    def test_is_not_written_where_something_is_wrong(self, tmp_path, stdin, output, words):
        done = self.run("--output", tmp_path / output, stdin=stdin)
        assert done.returncode == 1 and list(tmp_path.iterdir()) == []
        assert re.fullmatch(rf"error: .*{words}.*\nhint: .*\n", done.stderr), done.stderr
        assert "nonsense" not in done.stderr and self.KEY[2:] not in done.stderr


class TestWhatItSays:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["nonsense"],
            ["devnet", "--port", "65536"],
            ["devnet", "--port", "x"],
            ["devnet", "--block-time", "0"],
            ["devnet", "--block-time", "nan"],
            ["devnet", "--nonsense"],
        ],
    )
    def test_wrong_usage_is_2(self, arguments):
        done = run_python("-m", "agirails", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: agirails") and "Traceback" not in done.stderr

    def test_a_missing_anvil_says_how_to_get_it(self):
        done = run_python("-m", "agirails", "devnet", AGIRAILS_ANVIL="/nowhere/anvil")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"error: .*AGIRAILS_ANVIL.*\nhint: .*npm install.*\n", done.stderr)

    def test_a_used_port_is_an_error(self):
        with Devnet() as net:
            port = net.rpc_url.rpartition(":")[2]
            done = run_python("-m", "agirails", "devnet", "--port", port)
        assert done.returncode == 1
        assert re.match(r"error: (.|\n)*hint: .*port", done.stderr), done.stderr

    def test_a_profile_that_cannot_be_written_is_an_error(self):
        done = run_python("-m", "agirails", "devnet", "--profile", "/nowhere/network.json")
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*/nowhere/network.json.*\nhint: .*\n", done.stderr)

    def test_help_names_every_option(self):
        done = run_python("-m", "agirails", "devnet", "--help")
        assert done.returncode == 0
        for word in ("--port", "--block-time", "--profile", "--accounts", "AGIRAILS_NETWORK"):
            assert word in done.stdout
        assert "devnet" in run_python("-m", "agirails", "--help").stdout

    def test_version_is_the_packages(self):
        done = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"agirails {agirails.__version__}\n"
        assert run_python("-m", "agirails", "--version").stdout == done.stdout

    def test_ctrl_c_ends_it_with_130(self):
        with subprocess.Popen(
            [SCRIPT, "keystore", "--output", "/nowhere/key.json"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            # It waits for a key: until then Python's own handler may be in force.
            until(lambda: handles_interrupts(process.pid))
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert "Traceback" not in process.stderr.read()

    def test_ctrl_c_at_a_prompt_ends_it_with_130_and_shows_what_is_typed_again(self, tmp_path):
        ours, theirs = os.openpty()
        shown = termios.tcgetattr(theirs)
        with subprocess.Popen(
            [SCRIPT, "keystore", "--output", tmp_path / "key.json"],
            env=environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        ) as process:
            until(lambda: not termios.tcgetattr(theirs)[3] & termios.ECHO)
            os.write(ours, b"\x03")
            assert process.wait(10) == 130
        assert termios.tcgetattr(theirs)[3] == shown[3] and list(tmp_path.iterdir()) == []
        os.close(ours)
        os.close(theirs)

    def test_every_variable_that_is_read_stands_in_the_guide(self):
        guide = (ROOT / "docs" / "guide" / "command-line.md").read_text(encoding="utf-8")
        read = set()
        for pattern in ("crates/*/src/**/*.rs", "python/**/*.py"):
            for file in ROOT.glob(pattern):
                if not file.name.endswith("tests.rs"):
                    text = file.read_text(encoding="utf-8")
                    read |= set(re.findall(r'"((?:ACTP|AGIRAILS|BASE)_[A-Z_0-9]+)"', text))
        assert len(read) >= 9
        assert {name for name in read if f"`{name}`" not in guide} == set()


def handles_interrupts(pid: int) -> bool:
    """Whether a process catches SIGINT by the handler of its runtime, with more threads than one."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    threads = int(re.search(r"Threads:\s*(\d+)", status)[1])
    return bool(caught & 1 << (signal.SIGINT - 1)) and threads > 1
