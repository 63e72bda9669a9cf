"""A keystore that is as good as open is not used for real money."""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from support import environment

from agirails import ACTPClient, ProofGenerator

# Whatever it decrypts to is a key.
TEXT = bytes(range(32))


def keystore(file: Path, password: str, rounds: int) -> Path:
    """As eth-account writes it with kdf="pbkdf2", for whatever key."""
    derived = hashlib.pbkdf2_hmac("sha256", password.encode(), bytes(32), rounds, 32)
    crypto: dict[str, Any] = {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": bytes(16).hex()},
        "ciphertext": TEXT.hex(),
        "kdf": "pbkdf2",
        "kdfparams": {"c": rounds, "dklen": 32, "prf": "hmac-sha256", "salt": bytes(32).hex()},
        "mac": ProofGenerator().hash_content(derived[16:] + TEXT)[2:],
    }
    file.write_text(json.dumps({"version": 3, "crypto": crypto}))
    file.chmod(0o600)
    return file


def opened(file: Path, password: str, mode: str) -> str:
    """The code of what it ends in; nobody listens at that endpoint."""
    try:
        ACTPClient(
            mode=mode,
            keystore=file,
            keystore_password=password,
            rpc_url="http://127.0.0.1:1",
            state_directory=file.parent,
        )
    except Exception as error:
        return str(getattr(error, "code", error))
    return "opened"


@pytest.mark.parametrize(("password", "rounds"), [("", 262_144), ("pw", 1), ("pw", 99_999)])
def test_a_keystore_that_anybody_opens_signs_nothing_on_mainnet(tmp_path, password, rounds):
    file = keystore(tmp_path / "k.json", password, rounds)
    assert opened(file, password, "mainnet") == "key_not_allowed"
    strong = keystore(tmp_path / "strong.json", "pw", 100_000)
    assert opened(strong, "pw", "mainnet") == "endpoint_unreachable"


@pytest.mark.skipif(os.name != "posix", reason="permissions of Unix")
def test_a_keystore_that_others_can_replace_is_told_of(tmp_path):
    file = keystore(tmp_path / "k.json", "pw", 100_000)
    told = {}
    for mode in (0o600, 0o666):
        file.chmod(mode)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ACTPClient(keystore=file, keystore_password="pw", in_memory=True)
        told[mode] = [str(warning.message) for warning in caught]
    assert told[0o600] == []
    assert len(told[0o666]) == 1 and "written by others" in told[0o666][0]


def test_no_keystore_is_made_with_an_empty_password(tmp_path):
    file = tmp_path / "keystore.json"
    done = subprocess.run(
        [sys.executable, "-m", "agirails", "keystore", "--output", file],
        env=environment(),
        input="11" * 32 + "\n\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "password is empty" in done.stderr
    assert not file.exists()
