"""The command line: `agirails devnet`, also as `python -m agirails devnet`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from . import ACTPError, __version__
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what stands behind the program's name; the process's own where None.

    Returns:
        The exit status: 0, or 1 after an error. Wrong usage ends the process with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        return _devnet(options)
    except ACTPError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Before the chain was there.
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


if __name__ == "__main__":
    sys.exit(main())
