"""Neighbours on the same machine: they read no paid answer, and have no code run by who opens a state."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from paid import Stage
from support import new_key, sql

from agirails import ACTPClient, Consumer, StorageError

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def open_to_others(directory: Path) -> list[str]:
    """Everything of a state that its owner does not have alone."""
    return [
        f"{path.name} {stat.S_IMODE(path.stat().st_mode):04o}"
        for path in [directory / ".actp", *(directory / ".actp").iterdir()]
        if path.stat().st_mode & 0o077
    ]


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_nobody_else_reads_a_paid_answer(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        stage = Stage(tmp_path, "flask")
        reply = stage.pay(stage.fund(), b"patient A")
        Consumer(stage.consumer)
        assert reply.status == 200
    finally:
        os.umask(before)
    names = {path.name for path in (tmp_path / ".actp").iterdir()}
    assert {"kernel.sqlite3", "kernel.sqlite3-wal"} <= names
    assert any(name.startswith("paywall-") for name in names)
    assert any(name.startswith("consumer-") for name in names)
    assert not open_to_others(tmp_path)


@as_root
def test_another_user_reads_nothing_of_what_an_earlier_version_left_open(tmp_path: Path):
    stage = Stage(tmp_path, "flask")
    assert stage.pay(stage.fund(), b"patient A").status == 200
    state = tmp_path / ".actp"
    for path in [tmp_path, state, *state.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in tmp_path.parents:
        if path.stat().st_uid == 0 and str(path).startswith("/tmp/"):
            path.chmod(0o755)

    def seen() -> int:
        look = ["sh", "-c", f"cat {state}/* 2>/dev/null | grep -ac 'patient A'"]
        done = subprocess.run(look, user=NOBODY, group=NOBODY, capture_output=True, text=True)
        return int(done.stdout)

    assert seen() > 0, "the other user must be able to read it in the first place"
    ACTPClient(private_key=new_key(), state_directory=tmp_path)
    assert seen() == 0


def plant(directory: Path) -> None:
    """A state that this very version made, with a trigger in it that sends the money to a stranger."""
    consumer = ACTPClient(private_key=new_key(), state_directory=directory)
    Consumer(consumer)
    del consumer
    (file,) = (directory / ".actp").glob("consumer-*.sqlite3")
    sql(
        file,
        "CREATE TRIGGER theft AFTER INSERT ON payments BEGIN UPDATE payments"
        f" SET provider = x'{'66' * 20}', trusted = 1 WHERE id = new.id; END",
    )


@as_root
@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_another_user_owns_is_refused(tmp_path: Path, what: str):
    plant(tmp_path)
    state = tmp_path / ".actp"
    for path in [state] if what == "directory" else state.iterdir():
        os.chown(path, NOBODY, NOBODY)
    with pytest.raises(StorageError) as refused:
        ACTPClient(private_key=new_key(), state_directory=tmp_path)
    assert refused.value.code == "storage_exposed"
    assert f"user {NOBODY}" in str(refused.value)
    assert "chown" in refused.value.hint


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_every_user_could_have_written_is_refused(tmp_path: Path, what: str):
    plant(tmp_path)
    state = tmp_path / ".actp"
    path = state if what == "directory" else state / "kernel.sqlite3"
    path.chmod(0o777)
    with pytest.raises(StorageError, match="can be written by every user") as refused:
        ACTPClient(private_key=new_key(), state_directory=tmp_path)
    assert refused.value.code == "storage_exposed"
    assert "chmod -R go-rwx" in refused.value.hint
    assert path.stat().st_mode & 0o777 == 0o777, "it was trusted and closed"


def test_a_planted_trigger_moves_no_money(tmp_path: Path):
    plant(tmp_path)
    with pytest.raises(StorageError, match="the trigger theft, which agirails did not make"):
        Consumer(ACTPClient(private_key=new_key(), state_directory=tmp_path))
