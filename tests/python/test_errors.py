"""Errors say what happened, to what, and what to do now; none of them ever shows a secret."""

import copy
import inspect
import json
import pickle
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import (
    DAY,
    HOUR,
    USDC,
    create,
    deliver,
    fund,
    new_address,
    new_hash,
    new_key,
    word,
)

import agirails
from agirails import ACTPClient, ACTPError, Consumer, State, errors

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ACTPError) and kind is not ACTPError
]
FACTS = (
    "transaction_id",
    "state",
    "deadline",
    "transaction_hash",
    "field",
    "value",
    "required",
    "available",
    "refusal",
    "status",
    "purchase_key",
)


def validation(parties):
    create(parties.consumer, parties.provider.address, 1)


def not_found(parties):
    parties.consumer.advanced.get_transaction(new_hash())


def invalid_transition(parties):
    tx_id = create(parties.consumer, parties.provider.address)
    parties.provider.advanced.transition_state(tx_id, State.DELIVERED)


def unauthorized(parties):
    tx_id = fund(parties.consumer, parties.provider.address)
    parties.consumer.advanced.transition_state(tx_id, State.IN_PROGRESS)


def deadline_passed(parties):
    tx_id = create(parties.consumer, parties.provider.address)
    parties.consumer.mock.advance_time(2 * HOUR)
    parties.consumer.advanced.link_escrow(tx_id)


def window_active(parties):
    tx_id = fund(parties.consumer, parties.provider.address)
    deliver(parties.provider, tx_id, word(HOUR))
    parties.provider.advanced.transition_state(tx_id, State.SETTLED)


def insufficient_funds(parties):
    parties.consumer.advanced.link_escrow(
        create(parties.consumer, parties.provider.address, 1_001 * USDC)
    )


def reverted(parties):
    tx_id = fund(parties.consumer, parties.provider.address)
    parties.consumer.mock.advance_time(2 * HOUR)
    parties.consumer.advanced.transition_state(tx_id, State.CANCELLED)


def paused(parties):
    parties.admin.mock.pause()
    create(parties.consumer, parties.provider.address)


def network(parties):
    tx_id = fund(parties.consumer, parties.provider.address)
    parties.provider.advanced.attest_delivery(tx_id, result="a")


def signature(parties):
    provider = ACTPClient(private_key=new_key(), state_directory=parties.directory)
    tx_id = fund(parties.consumer, provider.address)
    signed = provider.advanced.sign_delivery(tx_id, result="a")
    agirails.verify_delivery({**signed, "nonce": 9}, str(provider.network.kernel))


def storage(parties):
    file = parties.directory / "file"
    file.write_text("in the way")
    ACTPClient(requester_address=new_address(), state_directory=file)


def query_cap(parties):
    for _ in range(1_001):
        agent = ACTPClient(requester_address=new_address(), state_directory=parties.directory)
        agent.registry.register_agent("https://api.example.com", ["ai-completion"])
    parties.consumer.registry.get_agents_by_service("ai-completion")


def call(parties, offers):
    """Calls a service that wants to be paid like this."""
    answer = json.dumps({"accepts": offers}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(402)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            Consumer(parties.consumer).call(url, max_amount="0.10")
        finally:
            server.shutdown()


def spending(parties):
    offer = {
        "scheme": "actp-escrow",
        "network": f"eip155:{parties.consumer.chain_id}",
        "amount": "100001",
        "payTo": parties.provider.address,
    }
    call(parties, [offer])


def no_offer(parties):
    call(parties, [])


REACHED = [
    (errors.ValidationError, "amount_below_minimum", "never", validation),
    (errors.TransactionNotFoundError, "tx_missing", "never", not_found),
    (errors.InvalidStateTransitionError, "invalid_transition", "never", invalid_transition),
    (errors.UnauthorizedError, "only_provider", "never", unauthorized),
    (errors.DeadlinePassedError, "transaction_expired", "never", deadline_passed),
    (errors.DisputeWindowActiveError, "requester_decision_pending", "safe", window_active),
    (errors.InsufficientFundsError, "insufficient_balance", "never", insufficient_funds),
    (errors.TransactionRevertedError, "fee_exceeds_amount", "never", reverted),
    (errors.ContractPausedError, "kernel_paused", "safe", paused),
    (errors.NetworkError, "network_unavailable", "never", network),
    (errors.SignatureVerificationError, "invalid_signature", "never", signature),
    (errors.StorageError, "storage_unavailable", "never", storage),
    (errors.QueryCapExceededError, "query_cap_exceeded", "never", query_cap),
    (errors.SpendingError, "price_above_limit", "never", spending),
    (errors.CallError, "no_offer", "never", no_offer),
]
cases = pytest.mark.parametrize(
    ("kind", "code", "retry", "trigger"),
    [pytest.param(*row, id=row[0].__name__) for row in REACHED],
)


def caught_from(trigger, parties) -> ACTPError:
    with pytest.raises(ACTPError) as caught:
        trigger(parties)
    return caught.value


class TestEveryClass:
    @cases
    def test_is_raised_with_code_retry_and_hint(self, parties, kind, code, retry, trigger):
        error = caught_from(trigger, parties)
        assert type(error) is kind
        assert (error.code, error.retry) == (code, retry)
        assert error.hint and error.hint != str(error)
        assert isinstance(error.code, str) and str(error)
        for fact in FACTS:
            getattr(error, fact)
        if retry == "safe" or trigger is reverted:
            assert error.refusal

    @cases
    def test_survives_pickling_and_copying(self, parties, kind, code, retry, trigger):
        error = caught_from(trigger, parties)
        protocols = range(2, pickle.HIGHEST_PROTOCOL + 1)
        for again in [
            *(pickle.loads(pickle.dumps(error, protocol)) for protocol in protocols),
            copy.copy(error),
            copy.deepcopy(error),
        ]:
            assert type(again) is kind
            assert (str(again), again.code, again.retry, again.hint) == (
                str(error),
                code,
                error.retry,
                error.hint,
            )
            assert [getattr(again, fact) for fact in FACTS] == [
                getattr(error, fact) for fact in FACTS
            ]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 brought notes")
    @cases
    def test_shows_its_hint_in_the_traceback(self, parties, kind, code, retry, trigger):
        error = caught_from(trigger, parties)
        shown = "".join(traceback.format_exception(error))
        assert error.hint in shown and str(error) in shown
        again = pickle.loads(pickle.dumps(error))
        assert "".join(traceback.format_exception(again)).count(error.hint) == 1

    def test_is_reached_by_a_test(self):
        reached = {kind for kind, *_ in REACHED} | {errors.ACTPTimeoutError}
        assert set(CLASSES) == reached

    def test_is_at_the_top_level_too(self):
        for kind in (*CLASSES, ACTPError):
            assert getattr(agirails, kind.__name__) is kind

    def test_a_state_file_held_for_too_long_is_a_timeout(self, waited_out):
        kind, code, retry, hint = waited_out()
        assert (kind, code, retry) == ("ACTPTimeoutError", "storage_busy", "safe")
        assert hint


class TestTree:
    def test_one_except_catches_them_all(self):
        assert all(issubclass(kind, ACTPError) for kind in CLASSES)
        assert issubclass(ACTPError, Exception)

    @pytest.mark.parametrize(
        ("kind", "builtin"),
        [
            (errors.ValidationError, ValueError),
            (errors.TransactionNotFoundError, LookupError),
            (errors.ACTPTimeoutError, TimeoutError),
        ],
    )
    def test_builtin_relatives_catch_them_too(self, kind, builtin):
        assert issubclass(kind, builtin)

    def test_the_other_sdks_name_of_the_deadline_error_works(self):
        assert errors.DeadlineExpiredError is errors.DeadlinePassedError


class TestFacts:
    def test_a_refused_step_names_the_transaction_its_state_and_deadline(self, parties):
        tx_id = create(parties.consumer, parties.provider.address)
        deadline = parties.consumer.advanced.get_transaction(tx_id).deadline
        with pytest.raises(errors.InvalidStateTransitionError) as caught:
            parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        error = caught.value
        assert (error.transaction_id, error.state, error.deadline) == (
            tx_id,
            State.INITIATED,
            deadline,
        )
        assert isinstance(error.state, State)
        assert error.refusal == "Invalid transition"
        assert tx_id in str(error)

    def test_a_missing_balance_is_told_to_the_base_unit(self, parties):
        error = caught_from(insufficient_funds, parties)
        assert (error.required, error.available) == (1_001 * USDC, 1_000 * USDC)
        assert error.transaction_id

    def test_an_argument_is_named_with_its_value(self, parties):
        error = caught_from(validation, parties)
        assert (error.field, error.value, error.refusal) == ("amount", "1", "Amount below minimum")

    def test_an_unknown_transaction_is_named(self, parties):
        tx_id = new_hash()
        with pytest.raises(LookupError) as caught:
            parties.consumer.advanced.get_transaction(tx_id)
        assert caught.value.transaction_id == tx_id
        assert tx_id in str(caught.value)

    def test_the_kernels_time_decides_and_not_the_wall_clock(self, parties):
        parties.consumer.mock.advance_time(10 * DAY)
        with pytest.raises(errors.ValidationError) as caught:
            create(
                parties.consumer,
                parties.provider.address,
                deadline=parties.consumer.advanced.now() - 1,
            )
        assert caught.value.code == "deadline_in_past"


class TestSecrets:
    def everything_about(self, error: BaseException) -> str:
        shown, seen = [], set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            shown += [
                str(error),
                repr(error),
                repr(error.args),
                repr(getattr(error, "__dict__", None)),
                str(getattr(error, "__notes__", None)),
            ]
            shown += [repr(getattr(error, fact, None)) for fact in FACTS]
            shown.append("".join(traceback.format_exception_only(error)))
            error = error.__cause__ or error.__context__
        return "\n".join(shown).lower()

    def test_no_error_of_a_client_with_a_key_shows_the_key(self, tmp_path):
        key = new_key()
        client = ACTPClient(private_key=key, state_directory=tmp_path)
        triggers = [
            lambda: create(client, client.address),
            lambda: create(client, "nonsense"),
            lambda: client.advanced.link_escrow(new_hash()),
            lambda: client.advanced.sign_delivery(new_hash(), result="a"),
            lambda: ACTPClient(mode="mainnet", private_key=key),
            lambda: ACTPClient(private_key=key, keystore="k.json", keystore_password=key),
            lambda: ACTPClient(keystore="no.json", keystore_password=key),
            lambda: ACTPClient(keystore_password=key),
            lambda: ACTPClient(keystore="no.json", keystore_password=key.encode()),
            lambda: ACTPClient(private_key=key, rpc_url=f"http://127.0.0.1:9/{key}"),
            lambda: ACTPClient(private_key=key, rpc_url={f"http://127.0.0.1:9/{key}"}),
            lambda: ACTPClient(mode="no such mode", private_key=key),
            lambda: ACTPClient(requester_address=new_address(), private_key=key),
            lambda: ACTPClient(requester_address="nobody", private_key=key),
            lambda: ACTPClient(private_key=key, state_directory="/proc/nowhere"),
        ]
        for trigger in triggers:
            with pytest.raises(ACTPError) as caught:
                trigger()
            assert key[2:] not in self.everything_about(caught.value)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda key: key[:-1],
            lambda key: key + "0",
            lambda key: key[:-1] + "g",
            lambda key: " " + key,
            lambda key: key[:-1] + "\0",
        ],
    )
    def test_a_malformed_key_is_not_echoed_in_any_part(self, spoil):
        key = new_key()
        with pytest.raises(errors.ValidationError) as caught:
            ACTPClient(private_key=spoil(key), in_memory=True)
        shown = self.everything_about(caught.value)
        digits = key[2:]
        assert all(digits[start : start + 8] not in shown for start in range(0, 57))
        assert caught.value.code == "invalid_private_key"
        assert caught.value.hint

    def test_a_key_of_another_type_is_not_echoed(self):
        key = new_key()
        for odd in (bytes.fromhex(key[2:]), int(key, 16), [key], {"key": key}):
            with pytest.raises((ACTPError, TypeError)) as caught:
                ACTPClient(private_key=odd, in_memory=True)
            shown = self.everything_about(caught.value)
            assert key[2:] not in shown and str(int(key, 16)) not in shown

    def test_a_mismatch_names_both_addresses(self):
        key, address = new_key(), new_address()
        own = ACTPClient(private_key=key, in_memory=True).address
        with pytest.raises(errors.ValidationError) as caught:
            ACTPClient(requester_address=address, private_key=key, in_memory=True)
        assert caught.value.code == "key_mismatch"
        assert own.lower() in str(caught.value).lower() and address in str(caught.value).lower()

    def test_pickled_errors_hold_no_key(self):
        key = new_key()
        with pytest.raises(errors.ValidationError) as caught:
            ACTPClient(requester_address=new_address(), private_key=key)
        pickled = pickle.dumps(caught.value)
        assert key[2:].encode() not in pickled and bytes.fromhex(key[2:]) not in pickled
