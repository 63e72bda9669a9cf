"""The command line, `agirails` or `python -m agirails`: a local chain, encrypted keys, backups."""

from __future__ import annotations

import argparse
import getpass
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from . import ACTPError, ValidationError, __version__
from ._agirails import _back_up, _keystore
from .devnet import NETWORK_VARIABLE, Devnet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

DEVNET = """\
Run a local chain with the protocol's contracts on it, until Ctrl-C.

It listens on 127.0.0.1 only and forgets everything when it ends. Programs whose mode is "testnet"
use it where AGIRAILS_NETWORK names its profile, as the line that is printed says.
"""
ANVIL = """\
It runs anvil: the one that AGIRAILS_ANVIL names, else that on the PATH, else the nearest that
`npm install @foundry-rs/anvil` installed.
"""
KEYSTORE = """\
Encrypt a private key with a password, as mainnet requires it (AIP-13).

The key is asked for, or read from the first line of standard input; so is the password, where
ACTP_KEY_PASSWORD does not hold it. Neither is ever shown.
"""
FOUND = """\
A client finds the file at .actp/keystore.json of its state directory, or as `keystore`, and needs the
password with it: ACTP_KEY_PASSWORD, or `keystore_password`. Keep a copy of the key elsewhere: nobody
can restore it without the password.
"""
BACKUP = """\
Copy the state files, while the processes that use them go on.

Each file is copied as it stood at one moment, checked, and written to the disk. A copy of a file alone,
made by other means, lacks what lies in the log beside it.
"""
RESTORED = """\
To restore, stop all processes and use DIRECTORY as the state directory, or move its .actp in place of
the old one. A paywall that opens a copy does not give back what may have been served after the copy
was made. Keystores are not copied: keep them elsewhere.
"""
PASSWORD_VARIABLE = "ACTP_KEY_PASSWORD"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what stands behind the program's name; the process's own where None.

    Returns:
        The exit status: 0, or 1 after an error. Wrong usage ends the process with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except ACTPError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agirails", description="Payments for services per call: the escrow protocol ACTP."
    )
    parser.add_argument("--version", action="version", version=f"agirails {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    devnet = commands.add_parser(
        "devnet",
        help="run a local chain with the protocol's contracts on it",
        description=DEVNET,
        epilog=ANVIL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    devnet.add_argument(
        "--port", type=_port, default=0, metavar="N", help="where it listens; default: any free one"
    )
    devnet.add_argument(
        "--block-time",
        type=_seconds,
        metavar="S",
        help="seconds between blocks; default: a block for each transaction",
    )
    devnet.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="where to write the network's profile, which then stays; default: a temporary file",
    )
    devnet.add_argument(
        "--accounts", action="store_true", help="print the funded accounts and their private keys"
    )
    devnet.set_defaults(run=_devnet)
    keystore = commands.add_parser(
        "keystore",
        help="encrypt a private key with a password",
        description=KEYSTORE,
        epilog=FOUND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keystore.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="what to write, never over another file; default: .actp/keystore.json of the state"
        " directory (ACTP_STATE_DIR, else the working directory)",
    )
    keystore.set_defaults(run=_write_keystore)
    backup = commands.add_parser(
        "backup",
        help="copy the state files, while they are in use",
        description=BACKUP,
        epilog=RESTORED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backup.add_argument("directory", type=Path, metavar="DIRECTORY", help="a new directory")
    backup.add_argument(
        "--state-directory",
        type=Path,
        metavar="DIRECTORY",
        help="what to copy; default: ACTP_STATE_DIR, else the working directory",
    )
    backup.set_defaults(run=_write_backup)
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    # Not a number is neither.
    if not 0 < seconds <= 3600:
        raise ValueError(text)
    return seconds


# What argparse calls them in its messages.
_port.__name__ = "port"
_seconds.__name__ = "number of seconds"


def _devnet(options: argparse.Namespace) -> int:
    with Devnet(port=options.port, block_time=options.block_time) as net:
        if options.profile is None:
            profile = net.environment()[NETWORK_VARIABLE]
        else:
            profile = str(options.profile.absolute())
            net.write_profile(profile)
        done = threading.Event()

        def end(number: int, frame: FrameType | None) -> None:
            done.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)
        print(f"chain {net.chain_id} at {net.rpc_url}")
        if options.accounts:
            print("Anyone knows these keys. Each owns 10_000 ETH and 1_000_000 USDC, here only:")
            for account in net.accounts:
                print(f"{account.address}  {account.private_key}")
            print(f"{net.admin.address}  {net.admin.private_key}  (admin, no USDC)")
        # The last line: whoever waits for it finds everything there.
        print(f"export {NETWORK_VARIABLE}={shlex.quote(profile)}", flush=True)
        while not done.wait(1):
            # Raises once the chain is gone.
            net.now()
    return 0


def _write_keystore(options: argparse.Namespace) -> int:
    path: Path | None = options.output
    if path is None:
        path = Path(os.environ.get("ACTP_STATE_DIR") or ".") / ".actp" / "keystore.json"
    if path.exists():
        raise _refused(f"{path} exists already", "name another file with --output, or remove it")
    key = _secret("Private key: ")
    if not key:
        raise _refused("no private key was given", "type it, or pass it on standard input")
    password = os.environ.get(PASSWORD_VARIABLE) or _new_password()
    if not password:
        raise _refused("the password is empty", "choose one that nobody guesses")
    address, keystore = _keystore(key, password)
    try:
        if options.output is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Readable for its owner only from the first byte on, and never in place of another one.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(keystore + "\n")
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror}"
        raise _refused(problem, "name a new file in a directory that exists") from None
    print(f"the key of {address} is in {path}")
    return 0


def _write_backup(options: argparse.Namespace) -> int:
    state = options.state_directory or Path(os.environ.get("ACTP_STATE_DIR") or ".")
    for path in _back_up(state, options.directory):
        print(path)
    return 0


def _new_password() -> str:
    password = _secret("Password: ")
    if sys.stdin.isatty() and _secret("Password again: ") != password:
        raise _refused("the passwords differ", "type the same one twice")
    return password


def _secret(prompt: str) -> str:
    # A line of standard input where nobody sits before it.
    if sys.stdin.isatty():
        return getpass.getpass(prompt).strip()
    return sys.stdin.readline().rstrip("\r\n")


def _refused(problem: str, hint: str) -> ValidationError:
    return ValidationError(problem, code="invalid_settings", hint=hint)


if __name__ == "__main__":
    sys.exit(main())
