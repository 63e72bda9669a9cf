"""A store that is put back from a copy: what was served after the copy was made is not given back."""

import logging
from pathlib import Path
from typing import Any

from paid import Stage
from support import new_key, paywall_file, run_python, sql, until

from agirails import State

TARGET = "/api/cheap"


def back_up(state: Path, copy: Path) -> list[str]:
    done = run_python("-m", "agirails", "backup", copy, ACTP_STATE_DIR=str(state))
    assert done.returncode == 0, done.stderr
    return [Path(line).name for line in done.stdout.splitlines()]


def test_a_copy_made_while_calls_are_served_is_whole(tmp_path: Path):
    stage = Stage(tmp_path / "state", "flask")
    tx_id = stage.fund(2_000_000)
    for number in range(40):
        assert stage.pay(tx_id, key=f"k{number}", target=TARGET).status == 200
    names = back_up(stage.directory, tmp_path / "copy")
    assert names == sorted(path.name for path in (stage.directory / ".actp").glob("*.sqlite3"))
    # All of it is in the files themselves, which are their owner's alone.
    files = list((tmp_path / "copy" / ".actp").iterdir())
    assert sorted(path.name for path in files) == names
    assert all(path.stat().st_mode & 0o077 == 0 for path in [*files, files[0].parent])
    (file,) = (path for path in files if path.name.startswith("paywall-"))
    assert sql(file, "SELECT calls FROM payments") == [[40]]
    # Never over another one, and of nothing but a state.
    for state, copy in [
        (stage.directory, tmp_path / "copy"),
        (tmp_path / "copy", tmp_path / "copy"),
        (tmp_path, tmp_path / "other"),
    ]:
        done = run_python("-m", "agirails", "backup", copy, "--state-directory", state)
        assert done.returncode == 1 and "hint: name the state directory" in done.stderr, done.stderr


def is_at_work(directory: Path) -> bool:
    """Whether a store has found out that it is a copy."""
    rows = sql(paywall_file(directory), "SELECT at FROM restored")
    return len(rows) == 1 and rows[0][0] > 0


def test_what_was_served_after_the_copy_is_not_given_back(tmp_path: Path, caplog: Any):
    caplog.set_level(logging.INFO, "agirails.paywall")
    key, old, new = new_key(), tmp_path / "old", tmp_path / "new"
    stage = Stage(old, "flask", key)
    known = stage.fund(1_000_000)
    assert stage.pay(known, key="1", target=TARGET).status == 200
    back_up(old, new)
    lost = stage.fund(1_000_000)
    assert stage.pay(lost, key="1", target=TARGET).status == 200

    # The disk is lost. The kernel's file stands for the chain, which forgets nothing.
    chain = Path(".actp", "kernel.sqlite3")
    (new / chain).unlink()
    sql(old / chain, f"VACUUM INTO '{new / chain}'")
    restored = Stage(new, "flask", key)
    assert restored.provider.address == stage.provider.address
    until(lambda: is_at_work(new))
    assert restored.ask("GET", f"/api/payments/{known}").json["calls"] == 1
    assert restored.ask("GET", f"/api/payments/{lost}").status == 404
    # Its requester cannot have it back as if it had never been used, and a new one can.
    restored.consumer.mock.advance_time(5)
    unused = [restored.fund(1_000_000) for _ in range(2)]
    for tx_id, payer, status in [
        (lost, stage.consumer, 409),
        (unused[0], restored.consumer, 202),
    ]:
        target = f"/api/payments/{tx_id}/close"
        headers = restored.headers(tx_id, "POST", target, b"", by=payer)
        del headers["X_AGIRAILS_TX_ID"]
        assert restored.ask("POST", target, **headers).status == status
    # Nor is it given back by itself before its deadline, as what was never used is.
    restored.consumer.mock.advance_time(3_600 - 5 - 50)
    for tx_id in unused:
        restored.becomes(tx_id, State.CANCELLED)
    until(lambda: f"{lost} was made before this store was restored" in caplog.text)
    restored.becomes(known, State.DELIVERED)
    assert restored.provider.advanced.get_transaction(lost).state is State.COMMITTED
