"""Evidence files: our checks and the guide's, which use nothing of ours, find the same."""

import ast
import asyncio
import copy
import json
import re
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paid import Stage
from support import PRICE, ROOT, fund, new_address

import agirails
from agirails import ACTPClient, ProofGenerator, State, verify_evidence
from agirails._agirails import _verify_evidence

GUIDE = (ROOT / "docs" / "guide" / "evidence.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"^```python\n(import base64.*?)^```$", GUIDE, re.M | re.S)
CASES = json.loads((ROOT / "tests" / "vectors" / "evidence.json").read_text(encoding="utf-8"))
SINGLE, BALANCE = (case["evidence"] for case in CASES[:2])
# The call of the five that a session key signed.
SESSION = {**BALANCE, "calls": [BALANCE["calls"][2]]}
OUTCOMES = {True: "holds", False: "fails", None: "not_checkable"}


@pytest.fixture(scope="module")
def theirs() -> Callable[[Any], dict[str, str]]:
    """The guide's checks: each finding by its name."""
    names: dict[str, Any] = {}
    argv, sys.argv = sys.argv, ["verify.py"]
    try:
        exec(compile(SCRIPT, "verify.py", "exec"), names)
    finally:
        sys.argv = argv
    return lambda file: {name: OUTCOMES[found] for name, found in names["verify"](file).items()}


def ours(file: Any) -> dict[str, str]:
    found = verify_evidence(json.dumps(file))
    return {finding.name: finding.outcome for finding in found.findings}


def test_the_guides_script_is_short_and_uses_nothing_of_ours():
    assert len(SCRIPT.splitlines()) <= 60
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported - sys.stdlib_module_names == {"eth_account", "eth_utils"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_both_find_in_a_file_what_the_vectors_say(case, theirs):
    found = verify_evidence(json.dumps(case["evidence"]))
    assert {finding.name: finding.outcome for finding in found.findings} == case["findings"]
    assert found.conclusion == case["conclusion"]
    assert theirs(case["evidence"]) == case["findings"]


def values(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from values(inner, (*path, key))
        else:
            yield (*path, key), inner


def changed(value: Any) -> list[Any]:
    if isinstance(value, int):
        return [value + 1]
    if not isinstance(value, str):
        return []
    changes = []
    for at in {0, 10, len(value) // 2, len(value) - 10, len(value) - 1}:
        if 0 <= at < len(value) and value[at] in string.hexdigits:
            digit = "1" if value[at] == "0" else "0"
            changes.append(value[:at] + digit + value[at + 1 :])
    return [*changes, value + "x"]


def tampered(file: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The file with each of its values changed a little."""
    for path, value in values(file):
        for change in changed(value):
            copied = copy.deepcopy(file)
            inner = copied
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = change
            yield path, copied


# What no check of a file alone reads (the guide's "What it does not prove"), and the chain has.
UNPROVEN = re.compile(
    r"network/name|parties/\w+/name|transactionBlock|chainTransactions/.*|calls/0/\w+At"
    r"|calls/0/\w+/headers/.*|delivery/calls|delivery/proof/(type|timestamp|deliveryUrl|metadata/.*)|transaction/.*"
)


@pytest.mark.parametrize("file", [SINGLE, SESSION], ids=["one call", "a session key's call"])
def test_both_find_every_change_of_a_proven_value(file, theirs):
    assert set(ours(file).values()) == {"holds"}
    changes = 0
    for path, copied in tampered(file):
        name = "/".join(map(str, path))
        try:
            by_us = ours(copied)
        except agirails.ValidationError as error:
            assert error.code == "invalid_evidence"
            by_us = None
        try:
            by_them = theirs(copied)
        except Exception:
            by_them = None
        changes += 1
        is_found_by_us = by_us is None or "fails" in by_us.values()
        is_found_by_them = by_them is None or "fails" in by_them.values()
        assert is_found_by_us or UNPROVEN.fullmatch(name), name
        # The script reads no more than it checks, so it takes what has another form there.
        assert is_found_by_us == is_found_by_them or (by_us is None and UNPROVEN.fullmatch(name)), (
            name
        )
        if by_us is not None and by_them is not None:
            assert by_us == by_them, name
    assert changes > 100


@pytest.mark.parametrize(
    "part",
    ["calls/0/receipt", "calls/0/branch", "calls/0/request/signature", "calls/0/request/body"]
    + ["calls/0/answer/body", "calls/0/receipt/signature", "delivery", "calls/0"],
)
def test_a_file_without_a_part_is_incomplete_for_both(part, theirs):
    file = copy.deepcopy(SINGLE)
    inner: Any = file
    *path, last = (int(key) if key.isdigit() else key for key in part.split("/"))
    for key in path:
        inner = inner[key]
    del inner[last]
    if part.endswith("request/signature"):
        # Without the time that was signed nobody can compute it.
        del file["calls"][0]["request"]["digest"]
    assert verify_evidence(json.dumps(file)).conclusion == "incomplete"
    assert theirs(file) == ours(file)


def test_the_guides_script_is_a_program(tmp_path):
    script, good, bad = (tmp_path / name for name in ("verify.py", "good.json", "bad.json"))
    script.write_text(SCRIPT, encoding="utf-8")
    good.write_text(json.dumps(SINGLE), encoding="utf-8")
    answer = {**SINGLE["calls"][0]["answer"], "status": 500}
    bad.write_text(json.dumps({**SINGLE, "calls": [{**SINGLE["calls"][0], "answer": answer}]}))

    def said(file: Path, status: int) -> list[str]:
        command = [sys.executable, "-W", "error", str(script), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout.splitlines()

    checks = said(good, 0)
    assert all(line.startswith("holds: ") for line in checks) and len(checks) > 10
    failed = {line for line in said(bad, 1) if line.startswith("fails: ")}
    assert failed == {"fails: calls[0].receipt", "fails: calls[0].branch"}


def test_a_file_is_read_from_its_path_or_its_text(tmp_path):
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(SINGLE), encoding="utf-8")
    found = verify_evidence(path)
    assert found == verify_evidence(path.read_text(encoding="utf-8"))
    assert found.conclusion == "holds"
    assert str(found).splitlines()[0].startswith("holds: parties: ")
    with pytest.raises(FileNotFoundError):
        verify_evidence(tmp_path / "missing.json")
    # A str is a file's text, never a path: whoever sends it must not open files here.
    with pytest.raises(agirails.ValidationError):
        verify_evidence(str(path))


@pytest.mark.parametrize(
    ("evidence", "field"),
    [
        ("", "file"),
        ("{}", "type"),
        ("[" * 100_000, "file"),
        ('{"type": "agirails.evidence.v2"}', "type"),
        (json.dumps({**SINGLE, "calls": [{}]}), "request"),
        ("\ud800", "evidence"),
        (b"{}", "evidence"),
        (None, "evidence"),
        (SINGLE, "evidence"),
    ],
    ids=range(9),
)
def test_what_is_no_file_is_refused_by_name(evidence, field):
    with pytest.raises(agirails.ValidationError) as caught:
        verify_evidence(evidence)
    assert (caught.value.code, caught.value.field) == ("invalid_evidence", field)
    assert caught.value.hint and len(str(caught.value)) < 500


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "evidence.json"
    path.write_bytes(b'{"type": "\xff"}')
    with pytest.raises(agirails.ValidationError) as caught:
        verify_evidence(path)
    assert caught.value.code == "invalid_evidence"


def written(client: ACTPClient, tx_id: str) -> dict[str, Any]:
    """A file without calls of a transaction."""
    tx = client.advanced.get_transaction(tx_id)
    network = client.network
    ends_at = tx.dispute_window_ends_at
    window = {"seconds": tx.dispute_window_seconds} if ends_at is None else {"endsAt": ends_at}
    transaction = {
        **SINGLE["transaction"],
        "transactionId": tx.id,
        "requester": tx.requester.lower(),
        "provider": tx.provider.lower(),
        "state": str(tx.state),
        "amount": tx.amount,
        "createdAt": tx.created_at,
        "updatedAt": tx.updated_at,
        "deadline": tx.deadline,
        "serviceHash": tx.service_hash,
        "escrowContract": tx.escrow_contract.lower(),
        "escrowId": tx.escrow_id,
        "disputeWindow": window,
        "requesterAgentId": "0x0",
    }
    return {
        "type": "agirails.evidence.v1",
        "network": {"chainId": network.chain_id, "kernel": network.kernel.lower(), "name": "mock"},
        "parties": {
            "requester": {"address": tx.requester.lower()},
            "provider": {"address": tx.provider.lower()},
        },
        "transaction": transaction,
        "calls": [],
    }


def test_a_client_compares_a_file_with_the_chain():
    client = ACTPClient(mode="mock", requester_address=new_address(), in_memory=True)
    tx_id = fund(client, new_address())
    file = written(client, tx_id)

    def failed(file: dict[str, Any]) -> list[str]:
        found = verify_evidence(json.dumps(file), client=client)
        assert sum(finding.name.startswith("chain.") for finding in found.findings) == 24
        return [finding.name for finding in found.findings if finding.outcome == "fails"]

    assert failed(file) == []
    assert failed({**file, "transaction": {**file["transaction"], "amount": PRICE + 1}}) == [
        "chain.amount"
    ]
    assert failed({**file, "network": {**file["network"], "chainId": 1}}) == ["chain.network"]
    unknown = {**file["transaction"], "transactionId": "0x" + "ab" * 32}
    with pytest.raises(agirails.TransactionNotFoundError):
        verify_evidence(json.dumps({**file, "transaction": unknown}), client=client)


def test_a_paywalls_calls_make_a_file_that_holds(tmp_path, theirs):
    stage = Stage(tmp_path, "flask", unsigned="refuse")
    tx_id, target, calls = stage.fund(), "/api/cheap?x=%41b", []
    for number in range(5):
        body, key = f"question {number}", f"call-{number}"
        headers = stage.headers(tx_id, "POST", target, body.encode(), key)
        reply = stage.ask("POST", target, body.encode(), **headers)
        assert reply.status == 200, reply
        asked = {
            "method": "POST",
            "target": agirails.canonical_target(target),
            "idempotencyKey": key,
            "body": {"text": body},
            "bodyHash": ProofGenerator().hash_content(body),
            "signature": headers["X_AGIRAILS_SIGNATURE"],
        }
        answered = {
            "status": reply.status,
            "headers": [*reply.headers.items()],
            "body": {"text": reply.body.decode()},
            "bodyHash": ProofGenerator().hash_content(reply.body),
        }
        calls.append({"request": asked, "answer": answered, "receipt": reply.receipt})
    stage.becomes(tx_id, State.DELIVERED)
    for call in calls:
        key = call["receipt"]["idempotencyKey"]
        page = stage.ask("GET", f"/api/payments/{tx_id}/receipts/{key}").json
        call["branch"] = page["branch"]
    proof = stage.consumer.advanced.get_delivery_proof(tx_id)
    file = {
        **written(stage.consumer, tx_id),
        "calls": calls,
        "delivery": {"proof": proof, "calls": len(calls)},
    }
    found = verify_evidence(json.dumps(file), client=stage.consumer)
    assert found.conclusion == "holds", str(found)
    assert len(found.findings) == 3 + 5 * 6 + 24
    assert set(theirs(file).values()) == {"holds"}


def file_of(stage: Stage, tx_id: str) -> str:
    """The file that the paywall writes."""
    made = stage.paywall.evidence(tx_id)
    return made if stage.kind == "flask" else asyncio.run(made)


def dispute(stage: Stage, tx_id: str) -> None:
    stage.becomes(tx_id, State.DELIVERED)
    stage.consumer.advanced.transition_state(tx_id, State.DISPUTED)


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
def test_the_guides_script_verifies_what_a_paywall_wrote_of_a_disputed_call(tmp_path, theirs, kind):
    stage = Stage(tmp_path, kind, unsigned="refuse")
    tx_id, body = stage.fund(), b"\xff what is asked"
    headers = stage.headers(tx_id, body=body)
    secrets = {"Authorization": "Bearer a-secret", "Cookie": "session=a-secret"}
    reply = stage.ask("POST", "/api/generate?x=%41b", body, **headers, **secrets, Accept="*/json")
    assert reply.status == 200, reply
    dispute(stage, tx_id)
    text = file_of(stage, tx_id)
    assert "a-secret" not in text
    found = verify_evidence(text, client=stage.consumer)
    assert found.conclusion == "holds", str(found)
    file = json.loads(text)
    (call,) = file["calls"]
    assert file["transaction"]["state"] == "DISPUTED"
    assert call["request"]["signature"] == headers["X_AGIRAILS_SIGNATURE"]
    assert call["request"]["headers"] == [["accept", "*/json"]]
    assert call["receipt"] == reply.receipt
    assert call["answer"]["body"]["text"].encode() == reply.body
    script, path = tmp_path / "verify.py", tmp_path / "evidence.json"
    script.write_text(SCRIPT, encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10 and all(line.startswith("holds: ") for line in lines)
    call["answer"]["status"] = 202
    assert "fails" in theirs(file).values()


def test_a_paywall_keeps_of_a_request_what_its_settings_say(tmp_path, theirs):
    for settings, lacks in [
        ({"max_kept_request_bytes": 1}, {"calls[0].request.bodyHash"}),
        ({"keep_requests": False}, {"calls"}),
    ]:
        stage = Stage(tmp_path / next(iter(settings)), "flask", unsigned="refuse", **settings)
        tx_id = stage.fund()
        assert stage.pay(tx_id, b"{}").status == 200
        dispute(stage, tx_id)
        text = file_of(stage, tx_id)
        assert verify_evidence(text).conclusion == "incomplete"
        found = theirs(json.loads(text))
        assert {name for name, is_so in found.items() if is_so != "holds"} == lacks


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
def test_without_a_served_call_there_is_no_file(tmp_path, kind):
    stage = Stage(tmp_path, kind)
    with pytest.raises(agirails.ValidationError) as caught:
        file_of(stage, stage.fund())
    assert caught.value.code == "nothing_served" and caught.value.hint
    with pytest.raises(agirails.TransactionNotFoundError):
        file_of(stage, "0x" + "ab" * 32)
    with pytest.raises(agirails.ValidationError):
        file_of(stage, "0x12")


def test_the_extension_takes_the_text_alone():
    found = _verify_evidence(json.dumps(SINGLE))
    assert found["conclusion"] == "holds"
    assert {*found["findings"][0]} == {"name", "outcome", "words"}


def test_a_consumer_writes_the_file_of_a_call_that_it_paid_for_and_the_guides_script_takes_it(
    tmp_path, theirs
):
    from support import new_key
    from werkzeug.serving import make_server

    stage = Stage(tmp_path, "flask", unsigned="refuse")
    server = make_server("127.0.0.1", 0, stage.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        client = ACTPClient(private_key=new_key(), state_directory=tmp_path)
        consumer = agirails.Consumer(client, trusted=[stage.provider.address])
        url = f"http://127.0.0.1:{server.server_port}/api/generate"
        answer = consumer.call(url, data=b"what is asked", max_amount="0.25")
    finally:
        server.shutdown()
        thread.join()
    tx_id = answer.payment.transaction_id
    stage.becomes(tx_id, State.DELIVERED)
    assert consumer.dispute(tx_id, max_bond="1")
    file = json.loads(consumer.evidence(tx_id))
    assert verify_evidence(json.dumps(file), client=client).conclusion == "holds"
    assert set(theirs(file).values()) == {"holds"}
    (call,) = file["calls"]
    assert call["request"]["body"] == {"text": "what is asked"}
    (purchase,) = consumer.purchases()
    assert (purchase.transaction_id, purchase.stage) == (tx_id, "disputed")
    spent = consumer.spent()
    assert (spent.day, spent.used, spent.locked) == (PRICE, PRICE, 0)
    with pytest.raises(agirails.UnauthorizedError):
        agirails.Consumer(stage.provider).evidence(tx_id)
