"""A worker that stands still for longer than its lease, and wakes up when another one has taken over: what
it has in hand is neither kept nor sent as a paid answer."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from paid import request
from support import HERE, free_port, fund, new_address, new_key, served, until

from agirails import ACTPClient, State, sign_request

TARGET = "/api/generate"
APP = """
import os, time
from pathlib import Path
from flask import Flask
from agirails import ACTPClient
from agirails.flask import Paywall

app = Flask(__name__)
paywall = Paywall(ACTPClient(requester_address=os.environ["PROVIDER_ADDRESS"]), app=app, lease_seconds=1)
place = Path(os.environ["PLACE"])


@app.post("/api/generate")
@paywall.charge("0.10")
def generate():
    attempt = paywall.payment.attempt
    (place / f"run-{attempt}").write_text(str(os.getpid()))
    while attempt == 1 and not (place / "go").exists():
        time.sleep(0.01)
    return {"attempt": attempt, "pid": os.getpid()}
"""


def test_a_worker_that_stood_still_gives_no_paid_answer(tmp_path: Path):
    (tmp_path / "stopped_app.py").write_text(APP)
    provider = new_address()
    consumer = ACTPClient(private_key=new_key(), state_directory=tmp_path)
    tx_id = fund(consumer, provider)
    signed = sign_request(consumer, tx_id, "POST", TARGET, b"{}")
    headers = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signed}
    env = {
        "ACTP_STATE_DIR": str(tmp_path),
        "PROVIDER_ADDRESS": provider,
        "PLACE": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
    }
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        ports = []
        for name in ("first", "second"):
            ports.append(free_port())
            command = [sys.executable, "-m", "gunicorn", "--threads", "4", "--timeout", "300"]
            command += ["--bind", f"127.0.0.1:{ports[-1]}", "stopped_app:app"]
            url = f"http://127.0.0.1:{ports[-1]}/health"
            stack.enter_context(served(command, url, tmp_path / f"{name}.log", cwd=HERE, **env))

        def pay(port: int) -> Any:
            return request(port, "POST", TARGET, b"{}", headers)

        first = pool.submit(pay, ports[0])
        until(lambda: (tmp_path / "run-1").exists() and (tmp_path / "run-1").read_text() != "")
        worker = int((tmp_path / "run-1").read_text())
        os.kill(worker, signal.SIGSTOP)
        try:
            # Nobody renews its claim, which ends with its lease.
            second = pay(ports[1])
            assert (second.status, second.json["attempt"]) == (200, 2)
            assert second.json["pid"] != worker
        finally:
            (tmp_path / "go").touch()
            os.kill(worker, signal.SIGCONT)
        late = first.result(60)
        # The handler went on to its end, and its answer is nobody's.
        assert (late.status, late.json["error"] != "") == (503, True)
        assert "x-agirails-receipt" not in late.headers
        assert b'"pid"' not in late.body
        for port in ports:
            again = pay(port)
            assert (again.status, again.body) == (200, second.body)
            assert again.headers["x-agirails-replay"] == "1"
            assert again.headers["x-agirails-receipt"] == second.headers["x-agirails-receipt"]
        until(lambda: consumer.advanced.get_transaction(tx_id).state is State.DELIVERED)
    assert not (tmp_path / "run-3").exists()
