"""Every wrong value ends in a typed error that names it and the remedy, and harms nothing."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from support import (
    DAY,
    HERE,
    HOUR,
    PRICE,
    START,
    ZERO_ADDRESS,
    create,
    deliver,
    environment,
    fund,
    new_address,
    new_hash,
    new_key,
    word,
)

import agirails
from agirails import ACTPClient, ACTPError, State

HUGE = "0x" + "a" * 10_000_000
LONGEST_MESSAGE = 1_000
GOOD_CHECKSUM = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"


def refused(
    call, *codes: str, kind: type[ACTPError] = agirails.ValidationError, names: str | None = None
) -> ACTPError:
    """The error of a call that must fail: typed, short, with a hint, and naming the value."""
    with pytest.raises(ACTPError) as caught:
        call()
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.code in codes, error.code
    assert error.hint
    assert len(str(error)) < LONGEST_MESSAGE and len(error.value or "") < LONGEST_MESSAGE
    if names is not None:
        assert names in str(error), str(error)
    return error


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A consumer and a provider that all refused calls of this file have in common."""
    directory = tmp_path_factory.mktemp("state")
    return tuple(
        ACTPClient(requester_address=new_address(), state_directory=directory) for _ in range(2)
    )


@pytest.fixture(autouse=True)
def the_next_correct_call_works(request):
    """And nothing was moved by the wrong one."""
    if "two" not in request.fixturenames:
        yield
        return
    consumer, provider = request.getfixturevalue("two")
    before = consumer.advanced.get_balance()
    yield
    assert consumer.advanced.get_balance() == before
    tx_id = fund(consumer, provider.address)
    provider.advanced.transition_state(tx_id, State.CANCELLED)
    assert consumer.advanced.get_balance() == before


BAD_HEX = {
    "empty": ("", "does not start with 0x"),
    "prefix alone": ("0x", "empty"),
    "nul": ("\0", "does not start with 0x"),
    "newline": ("\n", "does not start with 0x"),
    "text": ("nonsense", "nonsense"),
    "unicode": ("0x" + "é" * 32, "é"),
    "surrogate": ("\udc80", ""),
    "huge": (HUGE, "10000002 bytes"),
}
BAD_IDS = {
    **BAD_HEX,
    "short": ("0x" + "ab" * 31, "too short"),
    "long": ("0x" + "ab" * 33, "too long"),
    "odd": ("0x" + "a" * 63, "too short"),
    "not hex": ("0x" + "g" * 64, "ggg"),
    "no prefix": ("ab" * 32, "abab"),
    "nul inside": ("0x" + "ab" * 31 + "a\0", "aba"),
    "space before": (" 0x" + "ab" * 32, "abab"),
    "address": (GOOD_CHECKSUM, GOOD_CHECKSUM),
}
BAD_ADDRESSES = {
    **BAD_HEX,
    "short": ("0x" + "ab" * 19, "too short"),
    "long": ("0x" + "ab" * 21, "too long"),
    "not hex": ("0x" + "g" * 40, "ggg"),
    "no prefix": ("ab" * 20, "abab"),
    "nul inside": ("0x" + "ab" * 19 + "a\0", "aba"),
    "wrong checksum": (GOOD_CHECKSUM.replace("0xd8dA", "0xd8da"), "checksum"),
    "swapped digits": (GOOD_CHECKSUM.replace("6045", "0645"), "checksum"),
    "ens name": ("vitalik.eth", "vitalik.eth"),
}
WRONG_TYPES = {"none": None, "int": 5, "bytes": b"0x" + b"ab" * 20, "list": ["0x"], "float": 1.5}


def table(rows: dict) -> list:
    return [
        pytest.param(*(row if isinstance(row, tuple) else (row,)), id=name)
        for name, row in rows.items()
    ]


PROFILE = {
    "name": "nowhere",
    "chainId": 31337,
    "rpcUrl": "http://127.0.0.1:9",
    "contracts": {
        "actpKernel": "0x" + "a1" * 20,
        "escrowVault": "0x" + "a2" * 20,
        "usdc": "0x" + "a3" * 20,
    },
}


class TestIds:
    @pytest.mark.parametrize(("bad", "named"), table(BAD_IDS))
    def test_no_verb_takes_a_malformed_id(self, two, bad, named):
        advanced = two[0].advanced
        calls = [
            lambda: advanced.get_transaction(bad),
            lambda: advanced.link_escrow(bad),
            lambda: advanced.transition_state(bad, State.CANCELLED),
            lambda: advanced.accept_quote(bad, PRICE),
            lambda: advanced.release_milestone(bad, PRICE),
            lambda: advanced.release_escrow(bad),
            lambda: advanced.anchor_attestation(bad, new_hash()),
            lambda: advanced.get_delivery_proof(bad),
            lambda: advanced.get_escrow(bad),
            lambda: advanced.get_transactions(after=bad),
            lambda: advanced.sign_delivery(bad, result="a"),
            lambda: agirails.ProofGenerator().generate_delivery_proof(tx_id=bad, deliverable=""),
        ]
        for call in calls:
            refused(call, "invalid_transaction_id", "invalid_bytes", names=named)

    @pytest.mark.parametrize(("bad", "named"), table(BAD_IDS))
    def test_no_32_byte_argument_takes_anything_else(self, two, bad, named):
        consumer, provider = two
        tx_id = create(consumer, provider.address)
        refused(
            lambda: consumer.advanced.link_escrow(tx_id, escrow_id=bad),
            "invalid_bytes",
            names=named,
        )
        refused(
            lambda: consumer.advanced.anchor_attestation(tx_id, bad), "invalid_bytes", names=named
        )
        if bad not in ("", "0x"):  # no metadata
            refused(
                lambda: create(consumer, provider.address, metadata=bad),
                "invalid_bytes",
                names=named,
            )

    @pytest.mark.parametrize("bad", table(WRONG_TYPES))
    def test_an_id_of_another_type_is_refused(self, two, bad):
        error = refused(lambda: two[0].advanced.get_transaction(bad), "invalid_transaction_id")
        assert type(bad).__name__ in str(error) or str(bad) in str(error)

    def test_an_unknown_id_is_missing_for_every_verb(self, two):
        advanced, unknown = two[0].advanced, new_hash()
        for call in (
            lambda: advanced.get_transaction(unknown),
            lambda: advanced.link_escrow(unknown),
            lambda: advanced.transition_state(unknown, State.CANCELLED),
            lambda: advanced.accept_quote(unknown, PRICE),
            lambda: advanced.release_milestone(unknown, PRICE),
            lambda: advanced.release_escrow(unknown),
            lambda: advanced.anchor_attestation(unknown, new_hash()),
            lambda: advanced.get_delivery_proof(unknown),
            lambda: advanced.get_escrow(unknown),
            lambda: advanced.get_transactions(after=unknown),
        ):
            error = refused(
                call, "tx_missing", kind=agirails.TransactionNotFoundError, names=unknown
            )
            assert error.transaction_id == unknown


class TestAddresses:
    @pytest.mark.parametrize(("bad", "named"), table(BAD_ADDRESSES))
    def test_no_argument_takes_a_malformed_address(self, two, bad, named):
        client = two[0]
        tx_id = create(client, new_address())
        calls = [
            lambda: create(client, bad),
            lambda: create(client, new_address(), requester=bad),
            lambda: client.advanced.link_escrow(tx_id, escrow_contract=bad),
            lambda: client.advanced.get_balance(bad),
            lambda: client.advanced.get_allowance(bad),
            lambda: client.advanced.get_transactions(bad),
            lambda: client.registry.get_agent(bad),
            lambda: client.registry.get_service_descriptors(bad),
            lambda: client.registry.supports_service(bad, "a"),
            lambda: client.mock.mint(bad, 1),
            lambda: client.mock.approve_mediator(bad),
            lambda: ACTPClient(requester_address=bad, in_memory=True),
            lambda: agirails.encode_resolution(
                requester_amount=1,
                provider_amount=1,
                provider_at_fault=True,
                mediator=bad,
                mediator_amount=1,
            ),
        ]
        for call in calls:
            error = refused(call, "invalid_address", names=named)
            assert error.field

    @pytest.mark.parametrize(
        "good", [GOOD_CHECKSUM, GOOD_CHECKSUM.lower(), "0x" + GOOD_CHECKSUM[2:].upper()]
    )
    def test_one_case_or_the_checksum_is_fine(self, two, good):
        assert two[0].advanced.get_transaction(create(two[0], good)).provider == GOOD_CHECKSUM

    @pytest.mark.parametrize(
        "bad", table({name: value for name, value in WRONG_TYPES.items() if value is not None})
    )
    def test_an_address_of_another_type_is_refused(self, two, bad):
        refused(lambda: create(two[0], bad), "invalid_address")
        refused(lambda: ACTPClient(requester_address=bad, in_memory=True), "invalid_address")

    def test_the_parties_must_be_two_and_the_requester_oneself(self, two):
        consumer, provider = two
        refused(lambda: create(consumer, consumer.address), "self_transaction")
        refused(lambda: create(consumer, ZERO_ADDRESS), "zero_provider")
        refused(
            lambda: create(consumer, new_address(), requester=provider.address),
            "requester_mismatch",
            kind=agirails.UnauthorizedError,
        )

    def test_a_strange_vault_is_refused(self, two):
        consumer, provider = two
        tx_id = create(consumer, provider.address)
        refused(
            lambda: consumer.advanced.link_escrow(tx_id, escrow_contract=ZERO_ADDRESS),
            "escrow_address",
        )
        refused(
            lambda: consumer.advanced.link_escrow(tx_id, escrow_contract=new_address()),
            "escrow_not_approved",
            kind=agirails.TransactionRevertedError,
        )
        refused(
            lambda: consumer.advanced.link_escrow(tx_id, escrow_id="0x" + "00" * 32),
            "invalid_escrow_id",
        )

    def test_neither_address_nor_key_is_refused(self):
        refused(lambda: ACTPClient(in_memory=True), "invalid_settings")

    @pytest.mark.parametrize("mode", ["", "Mock", "base", "mock\0", "x" * 10_000_000])
    def test_an_unknown_mode_is_refused(self, mode):
        refused(lambda: ACTPClient(mode=mode, requester_address=new_address()), "invalid_settings")

    @pytest.mark.parametrize("mode", ["testnet", "mainnet"])
    def test_a_chain_that_cannot_be_reached_is_a_network_error(self, mode):
        with pytest.raises(agirails.NetworkError) as caught:
            ACTPClient(
                mode=mode,
                requester_address=new_address(),
                rpc_url="http://127.0.0.1:9",
                in_memory=True,
            )
        assert caught.value.hint

    @pytest.mark.parametrize(
        "setting",
        [
            {"rpc_url": "http://127.0.0.1:9"},
            {"rpc_url": ["http://127.0.0.1:9", "ws://127.0.0.1:9"]},
            {"confirmations": 1},
            {"wait_timeout": 1.5},
            {"max_fee_per_gas": 1},
            {"max_priority_fee_per_gas": 1},
            {"agree": 1},
            {"network": PROFILE},
            {"contracts": PROFILE["contracts"]},
        ],
        ids=lambda setting: next(iter(setting)),
    )
    def test_a_setting_of_a_chain_contradicts_mode_mock(self, setting):
        refused(
            lambda: ACTPClient(requester_address=new_address(), in_memory=True, **setting),
            "invalid_settings",
            names=next(iter(setting)),
        )

    @pytest.mark.parametrize(
        ("setting", "code", "names"),
        [
            ({"rpc_url": []}, "invalid_settings", "rpc_url"),
            ({"rpc_url": 7}, "invalid_settings", "rpc_url"),
            ({"rpc_url": ["http://127.0.0.1:9", None]}, "invalid_settings", "rpc_url"),
            ({"contracts": {}}, "invalid_settings", "actpKernel"),
            ({"contracts": {**PROFILE["contracts"], "usdx": "0x"}}, "invalid_settings", "usdx"),
            ({"contracts": "0x"}, "invalid_settings", "contracts"),
            ({"network": 7}, "invalid_settings", "network"),
            ({"network": "/nowhere.json"}, "invalid_settings", "/nowhere.json"),
            ({"network": {"name": "x"}}, "invalid_settings", "chainId"),
            ({"confirmations": -1}, "invalid_number", "confirmations"),
            ({"confirmations": 1.5}, "invalid_number", "confirmations"),
            ({"wait_timeout": -1}, "invalid_number", "wait_timeout"),
            ({"wait_timeout": float("nan")}, "invalid_number", "wait_timeout"),
            ({"wait_timeout": float("inf")}, "invalid_number", "wait_timeout"),
            ({"wait_timeout": True}, "invalid_number", "wait_timeout"),
            ({"wait_timeout": "5"}, "invalid_number", "wait_timeout"),
            ({"max_fee_per_gas": -1}, "invalid_number", "max_fee_per_gas"),
            ({"max_priority_fee_per_gas": 0.1}, "invalid_number", "max_priority_fee_per_gas"),
            ({"agree": -1}, "invalid_number", "agree"),
            ({"agree": 0}, "invalid_settings", "agree"),
            ({"agree": 9}, "invalid_settings", "agree"),
            ({"starting_balance": 1}, "invalid_settings", "starting_balance"),
            ({"keystore": "k.json"}, "invalid_settings", "keystore_password"),
            ({"keystore_password": "x"}, "invalid_settings", "keystore"),
            ({"keystore": 7, "keystore_password": "x"}, "invalid_settings", "keystore"),
            ({"keystore": "k", "keystore_password": 7}, "invalid_settings", "keystore_password"),
            ({"keystore": "k.json", "keystore_password": "x"}, "invalid_keystore", "k.json"),
        ],
        ids=str,
    )
    def test_a_wrong_setting_is_named(self, setting, code, names):
        refused(
            lambda: ACTPClient("testnet", new_address(), in_memory=True, **setting),
            code,
            names=names,
        )


NOT_INTEGERS = {
    "float": (0.1, "0.1"),
    "whole float": (100_000.0, "100000.0"),
    "nan": (float("nan"), "nan"),
    "bool": (True, "True"),
    "decimal": (Decimal("100000"), "100000"),
    "fraction": (Fraction(100_000), "Fraction"),
    "text": ("100000", "100000"),
    "decimal text": ("0.10", "0.10"),
    "none": (None, "None"),
    "bytes": (b"1", "bytes"),
    "list": ([1], "list"),
    "huge text": ("9" * 10_000_000, "999"),
}
TOO_MUCH = {
    "2**63": (2**63, str(2**63)),
    "2**64": (2**64, str(2**64)),
    "2**256": (2**256, str(2**256)[:20]),
    "10**5000": (10**5000, "1"),
}


class TestAmounts:
    @pytest.mark.parametrize(("bad", "named"), table(NOT_INTEGERS))
    def test_an_amount_is_an_int_of_base_units(self, two, bad, named):
        consumer, provider = two
        tx_id = create(consumer, provider.address)
        for call in (
            lambda: create(consumer, provider.address, bad),
            lambda: consumer.advanced.accept_quote(tx_id, bad),
            lambda: consumer.advanced.release_milestone(tx_id, bad),
            lambda: consumer.advanced.approve(bad),
            lambda: consumer.mock.mint(consumer.address, bad),
            lambda: agirails.format_usdc(bad),
            lambda: agirails.encode_resolution(
                requester_amount=bad, provider_amount=1, provider_at_fault=True
            ),
        ):
            refused(call, "invalid_amount", names=named)

    @pytest.mark.parametrize(
        ("bad", "named"),
        table(
            {
                "-1": (-1, "-1"),
                "-100000": (-100_000, "-100000"),
                "-(2**255)": (-(2**255), "-578"),
                **TOO_MUCH,
            }
        ),
    )
    def test_an_amount_out_of_all_range_is_refused(self, two, bad, named):
        consumer, provider = two
        for call in (
            lambda: create(consumer, provider.address, bad),
            lambda: consumer.advanced.approve(bad),
            lambda: consumer.mock.mint(consumer.address, bad),
        ):
            refused(call, "invalid_amount", "amount_above_maximum", names=named)

    @pytest.mark.parametrize(
        ("amount", "code"),
        [
            (0, "amount_below_minimum"),
            (49_999, "amount_below_minimum"),
            (10**15 + 1, "amount_above_maximum"),
        ],
    )
    def test_the_protocols_bounds_are_kept(self, two, amount, code):
        consumer, provider = two
        refused(lambda: create(consumer, provider.address, amount), code, names=str(amount))
        tx_id = create(consumer, provider.address)
        quoted = {"amount_below_minimum": "below_minimum", "amount_above_maximum": "above_maximum"}[
            code
        ]
        refused(lambda: consumer.advanced.accept_quote(tx_id, amount), quoted, names=str(amount))

    @pytest.mark.parametrize("amount", [50_000, 10**15])
    def test_the_bounds_themselves_are_fine(self, two, amount):
        assert (
            two[0].advanced.get_transaction(create(two[0], new_address(), amount)).amount == amount
        )

    def test_milestones_pay_more_than_nothing_and_no_more_than_there_is(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address, 10 * PRICE)
        parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        refused(lambda: parties.consumer.advanced.release_milestone(tx_id, 0), "amount_zero")
        refused(
            lambda: parties.consumer.advanced.release_milestone(tx_id, 10 * PRICE + 1),
            "insufficient_escrow",
            kind=agirails.InsufficientFundsError,
        )
        parties.consumer.advanced.release_milestone(tx_id, 10 * PRICE)

    @pytest.mark.parametrize("bad", [-1, 2**256, 2**300, 1.0, "1", True])
    def test_an_agent_id_is_a_number_of_256_bits(self, two, bad):
        refused(
            lambda: create(two[0], new_address(), agent_id=bad), "invalid_number", "invalid_amount"
        )
        refused(
            lambda: create(two[0], new_address(), requester_agent_id=bad),
            "invalid_number",
            "invalid_amount",
        )
        assert create(two[0], new_address(), agent_id=2**256 - 1)


class TestTimes:
    @pytest.mark.parametrize(
        ("ahead", "code"),
        [
            (-10, "deadline_in_past"),
            (0, "deadline_in_past"),
            (366 * DAY, "deadline_too_far"),
            (10**9, "deadline_too_far"),
        ],
    )
    def test_a_deadline_lies_within_a_year(self, two, ahead, code):
        deadline = two[0].advanced.now() + ahead
        error = refused(
            lambda: create(two[0], new_address(), deadline=deadline), code, names=str(deadline)
        )
        assert error.field == "deadline"

    def test_milliseconds_are_recognised(self, two):
        deadline = (two[0].advanced.now() + HOUR) * 1000
        error = refused(
            lambda: create(two[0], new_address(), deadline=deadline),
            "deadline_too_far",
            names=str(deadline),
        )
        assert "milliseconds" in error.hint

    @pytest.mark.parametrize(
        ("bad", "named"),
        table({**NOT_INTEGERS, "-1": (-1, "-1"), "2**256": (2**256, str(2**256)[:20])}),
    )
    def test_a_time_is_an_int_of_seconds(self, two, bad, named):
        refused(
            lambda: create(two[0], new_address(), deadline=bad),
            "invalid_number",
            "deadline_too_far",
            names=named,
        )
        refused(
            lambda: create(two[0], new_address(), dispute_window=bad),
            "invalid_number",
            "dispute_window_too_long",
            names=named,
        )

    @pytest.mark.parametrize(
        ("window", "code"),
        [
            (0, "dispute_window_too_short"),
            (3_599, "dispute_window_too_short"),
            (30 * DAY + 1, "dispute_window_too_long"),
            (2**63, "dispute_window_too_long"),
        ],
    )
    def test_a_window_lies_between_an_hour_and_thirty_days(self, two, parties, window, code):
        refused(
            lambda: create(two[0], new_address(), dispute_window=window), code, names=str(window)
        )
        if window == 0:
            return  # a delivery's zero is the default
        tx_id = fund(parties.consumer, parties.provider.address)
        parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        refused(
            lambda: parties.provider.advanced.transition_state(
                tx_id, State.DELIVERED, word(window)
            ),
            code,
        )
        parties.provider.advanced.transition_state(tx_id, State.DELIVERED, word(HOUR))

    @pytest.mark.parametrize("window", [HOUR, 30 * DAY])
    def test_the_bounds_themselves_are_fine(self, two, window):
        tx_id = create(
            two[0],
            new_address(),
            dispute_window=window,
            deadline=two[0].advanced.now() + 365 * DAY - 5,
        )
        assert two[0].advanced.get_transaction(tx_id).dispute_window_seconds == window

    @pytest.mark.parametrize("bad", [-1, 1.5, "60", None, True, 10**12, 2**64])
    def test_the_clock_advances_by_whole_seconds_within_reason(self, two, bad):
        before = two[0].advanced.now()
        refused(lambda: two[0].mock.advance_time(bad), "invalid_number")
        assert two[0].advanced.now() - before < HOUR

    @pytest.mark.parametrize("bad", [0, -1, 1.5, "10", 2**64, 10**7])
    def test_a_page_has_a_sensible_length(self, two, bad):
        refused(
            lambda: two[0].advanced.get_transactions(limit=bad),
            "invalid_number",
            names=str(bad)[:10],
        )
        refused(
            lambda: two[0].advanced.get_events(limit=bad), "invalid_number", names=str(bad)[:10]
        )

    @pytest.mark.parametrize("bad", [-1, 1.5, "10", 2**64])
    def test_a_cursor_is_a_number(self, two, bad):
        refused(
            lambda: two[0].advanced.get_events(after=bad), "invalid_number", names=str(bad)[:10]
        )


class TestStates:
    @pytest.mark.parametrize(
        "bad",
        [
            "",
            "PAID",
            "committed",
            "COMMITTED\0",
            8,
            -1,
            255,
            2**64,
            1.0,
            True,
            None,
            b"COMMITTED",
            "x" * 10_000_000,
        ],
    )
    def test_an_unknown_state_is_refused(self, two, bad):
        tx_id = create(two[0], new_address())
        refused(lambda: two[0].advanced.transition_state(tx_id, bad), "invalid_state")
        if bad is not None:
            refused(lambda: two[0].advanced.get_transactions(state=bad), "invalid_state")
        assert two[0].advanced.get_transaction(tx_id).state is State.INITIATED

    def test_committed_is_reached_by_linking_alone(self, two):
        tx_id = create(two[0], new_address())
        refused(
            lambda: two[0].advanced.transition_state(tx_id, State.COMMITTED),
            "invalid_transition",
            kind=agirails.InvalidStateTransitionError,
        )

    def test_the_state_it_has_is_no_step(self, two):
        tx_id = create(two[0], new_address())
        refused(
            lambda: two[0].advanced.transition_state(tx_id, State.INITIATED),
            "no_op",
            kind=agirails.InvalidStateTransitionError,
        )

    @pytest.mark.parametrize("bad", ["buyer", "", 1, "REQUESTER "])
    def test_an_unknown_role_is_refused(self, two, bad):
        refused(lambda: two[0].advanced.get_transactions(role=bad), "invalid_settings")


class TestProofs:
    @pytest.fixture
    def started(self, parties):
        """A transaction IN_PROGRESS that is delivered rightly at the end."""
        tx_id = fund(parties.consumer, parties.provider.address)
        parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        yield parties.provider, tx_id
        proof = parties.provider.proof_generator.generate_delivery_proof(
            tx_id=tx_id, deliverable="done"
        )
        parties.provider.advanced.transition_state(tx_id, State.DELIVERED, proof)
        assert parties.consumer.advanced.get_delivery_proof(tx_id) == proof

    def test_a_proof_of_another_transaction_is_refused(self, started):
        provider, tx_id = started
        other = new_hash()
        proof = provider.proof_generator.generate_delivery_proof(tx_id=other, deliverable="done")
        encoded = provider.proof_generator.encode_proof(proof)
        for wrong in (proof, encoded, "0x" + encoded.hex()):
            refused(
                lambda wrong=wrong: provider.advanced.transition_state(
                    tx_id, State.DELIVERED, wrong
                ),
                "proof_mismatch",
                names=other,
            )

    @pytest.mark.parametrize("length", [1, 31, 33, 64, 95, 97, 128])
    def test_bytes_of_another_length_are_refused(self, started, length):
        provider, tx_id = started
        for wrong in (bytes(length), "0x" + "00" * length):
            error = refused(
                lambda wrong=wrong: provider.advanced.transition_state(
                    tx_id, State.DELIVERED, wrong
                ),
                "invalid_dispute_window_proof",
            )
            assert error.refusal == "Invalid dispute window proof"

    def test_ten_megabytes_are_refused(self, started):
        provider, tx_id = started
        refused(
            lambda: provider.advanced.transition_state(tx_id, State.DELIVERED, bytes(10_000_000)),
            "invalid_dispute_window_proof",
        )

    @pytest.mark.parametrize(
        "wrong",
        [
            "0x0",
            "0xzz",
            "nonsense",
            "é",
            5,
            1.5,
            True,
            [],
            {},
            {"type": "delivery.proof"},
            object(),
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_what_is_no_proof_is_refused(self, started, wrong):
        provider, tx_id = started
        refused(
            lambda: provider.advanced.transition_state(tx_id, State.DELIVERED, wrong),
            "invalid_bytes",
            "invalid_proof",
        )

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("type", "receipt"),
            ("txId", "0x12"),
            ("txId", 5),
            ("contentHash", "0xzz"),
            ("timestamp", -1),
            ("timestamp", "now"),
            ("timestamp", 1.5),
            ("deliveryUrl", 5),
            ("metadata", "text"),
        ],
    )
    def test_a_proof_with_one_wrong_key_is_refused_by_that_key(self, started, key, value):
        provider, tx_id = started
        proof = provider.proof_generator.generate_delivery_proof(tx_id=tx_id, deliverable="done")
        error = refused(
            lambda: provider.advanced.transition_state(
                tx_id, State.DELIVERED, {**proof, key: value}
            ),
            "invalid_proof",
        )
        assert error.field == key

    def test_a_proof_goes_with_a_delivery_only(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        proof = parties.provider.proof_generator.generate_delivery_proof(
            tx_id=tx_id, deliverable="done"
        )
        refused(
            lambda: parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS, proof),
            "invalid_proof",
        )
        parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)

    @pytest.mark.parametrize(
        ("quote", "code"),
        [
            (bytes(32), "invalid_quote_hash"),
            (b"\1" * 31, "quote_hash_length"),
            (b"\1" * 33, "quote_hash_length"),
        ],
    )
    def test_a_quote_hash_has_32_bytes_that_are_not_zero(self, parties, quote, code):
        tx_id = create(parties.consumer, parties.provider.address)
        refused(
            lambda: parties.provider.advanced.transition_state(tx_id, State.QUOTED, quote), code
        )
        parties.provider.advanced.transition_state(tx_id, State.QUOTED, b"\1" * 32)

    def test_a_resolution_must_distribute_everything(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id)
        parties.consumer.advanced.transition_state(tx_id, State.DISPUTED)
        settle = parties.admin.advanced.transition_state
        too_little = agirails.encode_resolution(
            requester_amount=PRICE - 1, provider_amount=0, provider_at_fault=True
        )
        refused(lambda: settle(tx_id, State.SETTLED, too_little), "must_distribute_all")
        refused(lambda: settle(tx_id, State.SETTLED), "resolution_required")
        unknown_mediator = agirails.encode_resolution(
            requester_amount=PRICE - 1,
            provider_amount=0,
            provider_at_fault=True,
            mediator=new_address(),
            mediator_amount=1,
        )
        refused(
            lambda: settle(tx_id, State.SETTLED, unknown_mediator),
            "mediator_not_approved",
            kind=agirails.TransactionRevertedError,
        )
        settle(
            tx_id,
            State.SETTLED,
            agirails.encode_resolution(
                requester_amount=PRICE, provider_amount=0, provider_at_fault=True
            ),
        )

    @pytest.mark.parametrize("bad", [None, 5, object(), ["text"]])
    def test_a_deliverable_is_text_or_bytes(self, bad):
        refused(
            lambda: agirails.ProofGenerator().generate_delivery_proof(
                tx_id=new_hash(), deliverable=bad
            ),
            "invalid_bytes",
            "invalid_proof",
        )

    def test_metadata_that_json_cannot_carry_is_refused(self):
        refused(
            lambda: agirails.ProofGenerator().generate_delivery_proof(
                tx_id=new_hash(), deliverable="", metadata={"a": object()}
            ),
            "invalid_json",
        )

    @pytest.mark.parametrize(
        "content",
        ["ß€😀\0\n", "日本語" * 1_000_000, b"\xff\xfe\x00" * 3_500_000],
        ids=["small", "9 MB text", "10 MB bytes"],
    )
    def test_unicode_and_huge_deliverables_are_delivered(self, parties, content):
        generator = parties.provider.proof_generator
        tx_id = fund(parties.consumer, parties.provider.address)
        proof = generator.generate_delivery_proof(tx_id=tx_id, deliverable=content)
        deliver(parties.provider, tx_id, generator.encode_proof(proof))
        kept = parties.consumer.advanced.get_delivery_proof(tx_id)
        assert generator.verify_deliverable(kept, content)
        assert proof["metadata"]["size"] == len(
            content.encode() if isinstance(content, str) else content
        )

    def test_text_that_has_no_utf8_is_refused(self):
        refused(
            lambda: agirails.ProofGenerator().hash_content("\ud800"),
            "invalid_bytes",
            "invalid_proof",
            "invalid_json",
        )


class TestKeys:
    @pytest.mark.parametrize(
        "bad",
        [
            "",
            "0x",
            "0x" + "00" * 32,
            "0x" + "ff" * 32,
            "0x" + "ab" * 31,
            "0x" + "ab" * 33,
            "zz" * 32,
            "0x" + "a" * 10_000_000,
            "\0" * 64,
            "é" * 32,
        ],
        ids=[
            "empty",
            "prefix",
            "zero",
            "beyond the order",
            "31 bytes",
            "33 bytes",
            "not hex",
            "huge",
            "nul",
            "unicode",
        ],
    )
    def test_a_malformed_key_is_refused_unseen(self, bad):
        error = refused(lambda: ACTPClient(private_key=bad, in_memory=True), "invalid_private_key")
        assert error.value is None
        assert len(bad) < 3 or bad[2:34] not in f"{error} {error.hint}"

    def test_a_session_key_is_read_as_a_client_s_key_is(self):
        def kept(key):
            client = ACTPClient(requester_address=new_address(), in_memory=True)
            return agirails.SessionKey(client, new_hash(), valid_until=START, private_key=key)

        key = new_key()
        assert kept(key).address == ACTPClient(private_key=key, in_memory=True).address
        for wrong in (7, key.encode(), key[:-1], "no hex"):
            error = refused(lambda: kept(wrong), "invalid_private_key", names="private key")  # noqa: B023
            assert key[2:34] not in f"{error} {error.hint}"

    def test_a_key_of_another_address_is_refused(self):
        refused(
            lambda: ACTPClient(
                requester_address=new_address(), private_key=new_key(), in_memory=True
            ),
            "key_mismatch",
        )

    def test_a_key_is_read_with_and_without_prefix_and_in_any_case(self):
        key = new_key()
        spellings = [key, key[2:], "0x" + key[2:].upper()]
        assert (
            len(
                {
                    str(ACTPClient(private_key=spelling, in_memory=True).address)
                    for spelling in spellings
                }
            )
            == 1
        )


class TestRegistryInput:
    @pytest.mark.parametrize(
        ("service", "code"),
        [
            ("", "empty_service_type"),
            ("a" * 65, "service_type_too_long"),
            ("AI", "service_type_uppercase"),
            ("a b", "service_type_whitespace"),
            ("a_b", "service_type_character"),
            ("é", "service_type_character"),
            ("a--b", "consecutive_hyphens"),
            ("-a", "leading_hyphen"),
            ("a-", "trailing_hyphen"),
            ("a" * 10_000_000, "service_type_too_long"),
            ("a\0", "service_type_character"),
        ],
    )
    def test_a_malformed_service_type_is_refused(self, two, service, code):
        registry = two[0].registry
        refused(lambda: registry.register_agent("https://api.example.com", [service]), code)
        refused(lambda: registry.get_agents_by_service(service), code)
        refused(lambda: registry.supports_service(two[1].address, service), code)

    def test_a_profile_needs_an_endpoint_and_a_service(self, two):
        registry = two[0].registry
        refused(lambda: registry.register_agent("", ["a"]), "empty_endpoint")
        refused(lambda: registry.register_agent("x" * 257, ["a"]), "endpoint_too_long")
        refused(lambda: registry.register_agent("x", []), "no_services")
        refused(
            lambda: registry.register_agent("x", [f"a{number}" for number in range(101)]),
            "too_many_services",
        )
        refused(
            lambda: registry.update_endpoint("y"),
            "not_registered",
            kind=agirails.TransactionRevertedError,
        )

    @pytest.mark.parametrize(
        "bad",
        [
            5,
            None,
            {"no_service_type": 1},
            {"service_type": 5},
            {"service_type": "a", "min_price": -1},
            {"service_type": "a", "min_price": 0.5},
            {"service_type": "a", "colour": "red"},
        ],
    )
    def test_a_malformed_descriptor_is_refused(self, two, bad):
        with pytest.raises(agirails.ValidationError) as caught:
            two[0].registry.register_agent("https://api.example.com", [bad])
        assert caught.value.hint
        assert two[0].registry.get_agent(two[0].address) is None

    @pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}])
    def test_a_query_asks_for_one_to_a_hundred_agents(self, two, query):
        refused(lambda: two[0].registry.get_agents_by_service("a", **query), "query_limit")

    @pytest.mark.parametrize(
        "query",
        [{"limit": -1}, {"offset": -1}, {"min_reputation": -1}, {"limit": "5"}, {"offset": 1.5}],
    )
    def test_a_query_is_made_of_numbers(self, two, query):
        refused(
            lambda: two[0].registry.get_agents_by_service("a", **query),
            "invalid_number",
            "query_limit",
        )

    def test_one_address_registers_once(self, parties):
        registry = parties.provider.registry
        registry.register_agent("https://api.example.com", ["a"])
        refused(
            lambda: registry.register_agent("https://api.example.com", ["a"]),
            "already_registered",
            kind=agirails.TransactionRevertedError,
        )
        refused(
            lambda: registry.add_service_type("a"),
            "service_already_added",
            kind=agirails.TransactionRevertedError,
        )
        refused(
            lambda: registry.remove_service_type("b"),
            "service_not_found",
            kind=agirails.TransactionRevertedError,
        )


def client_in(directory: object, **options: object) -> ACTPClient:
    return ACTPClient(requester_address=new_address(), state_directory=directory, **options)


class TestStateDirectory:
    def test_a_missing_directory_is_made_with_its_parents(self, tmp_path):
        directory = tmp_path / "some" / "where" / "é 日本"
        assert client_in(directory).advanced.get_balance() == START
        assert (directory / ".actp").is_dir()

    def test_a_file_in_its_place_is_refused(self, tmp_path):
        file = tmp_path / "file"
        file.write_bytes(b"mine")
        for directory in (file, file / "below"):
            refused(
                lambda directory=directory: client_in(directory),
                "storage_unavailable",
                kind=agirails.StorageError,
                names=str(file),
            )
        assert file.read_bytes() == b"mine"
        client_in(tmp_path)

    def test_a_directory_that_cannot_be_written_is_refused(self, tmp_path):
        refused(
            lambda: client_in("/proc/1/none"),
            "storage_unavailable",
            kind=agirails.StorageError,
            names="/proc/1/none",
        )
        client_in(tmp_path)

    def test_a_directory_in_the_files_place_is_refused(self, tmp_path):
        file = Path(client_in(tmp_path / "good").mock.file)
        (tmp_path / "bad" / ".actp" / file.name).mkdir(parents=True)
        refused(
            lambda: client_in(tmp_path / "bad"),
            "storage_unavailable",
            kind=agirails.StorageError,
            names=str(tmp_path / "bad"),
        )

    @pytest.mark.parametrize("bad", ["\0", "a\0b", 5, b"\0", 1.5, ["x"]])
    def test_what_is_no_path_is_refused(self, bad):
        with pytest.raises(ACTPError) as caught:
            client_in(bad)
        assert caught.value.hint
        assert os.listdir() == []

    def test_a_name_that_no_disk_can_hold_is_refused(self):
        refused(lambda: client_in("x" * 5_000), "storage_unavailable", kind=agirails.StorageError)

    def test_memory_and_directory_contradict_each_other(self, tmp_path):
        refused(lambda: client_in(tmp_path, in_memory=True), "invalid_settings")

    @pytest.mark.parametrize("bad", [-1, 0.5, "1000", True, 2**64, Decimal(1)])
    def test_a_starting_balance_is_an_amount(self, bad):
        refused(
            lambda: ACTPClient(
                requester_address=new_address(), in_memory=True, starting_balance=bad
            ),
            "invalid_amount",
        )

    def test_a_read_only_file_system_is_refused(self, tmp_path):
        done = in_own_mounts(tmp_path, "ro", "read_only")
        assert done == {
            "kind": "StorageError",
            "code": "storage_unavailable",
            "hint": True,
            "named": True,
            "after": "paid",
        }

    def test_a_full_disk_is_told_and_nothing_is_lost(self, tmp_path):
        done = in_own_mounts(tmp_path, "size=3m", "disk_full")
        assert done == {
            "kind": "StorageError",
            "code": "storage_full",
            "retry": "safe",
            "hint": True,
            "named": True,
            "sum": True,
            "after": "paid",
        }


def in_own_mounts(directory: Path, options: str, name: str) -> dict:
    """Runs a function of workers.py that mounts a small file system nobody else sees."""
    command = [
        "unshare",
        "--mount",
        sys.executable,
        str(HERE / "workers.py"),
        name,
        str(directory),
        options,
    ]
    if os.geteuid() != 0:
        command[1:1] = ["--map-root-user"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    if "unshare: " in done.stderr or "mount: " in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestStateFile:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        """A state file with a payment in it that no client has open."""
        script = "import sys; sys.path.insert(0, sys.argv[2]); from support import *; c = ACTPClient(requester_address=new_address(), state_directory=sys.argv[1]); fund(c, new_address()); print(c.mock.file)"
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), str(HERE)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        file = Path(done.stdout.strip())
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file

    def left_alone(self, file: Path, code: str) -> None:
        """Refused twice, with the same bytes before and after; another directory works."""
        before = file.read_bytes()
        directory = file.parents[1]
        for _ in range(2):
            error = refused(
                lambda: client_in(directory), code, kind=agirails.StorageError, names=str(file)
            )
            assert error.retry == "never"
            assert file.read_bytes() == before
        client_in(directory / "elsewhere").advanced.get_balance()

    @pytest.mark.parametrize("damage", ["header", "half", "text", "one page", "word"])
    def test_a_damaged_file_is_refused_and_never_overwritten(self, file, damage):
        content = file.read_bytes()
        spoiled = {
            "header": b"\xff" * 100 + content[100:],
            "half": content[: len(content) // 2],
            "text": b"these are my notes, not a database\n" * 50,
            "one page": content[:4096],
            "word": b"hi",
        }[damage]
        file.write_bytes(spoiled)
        self.left_alone(file, "storage_damaged")

    def test_a_newer_format_is_refused_and_never_overwritten(self, file):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA user_version = 9999")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.left_alone(file, "storage_version")

    def test_somebody_elses_database_is_refused_and_never_overwritten(self, file):
        file.unlink()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE notes (text)")
            connection.commit()
        self.left_alone(file, "storage_damaged")

    def test_damage_in_the_middle_is_told_when_it_is_met(self, file):
        content = bytearray(file.read_bytes())
        for start in range(4096, len(content), 4096):
            content[start : start + 4096] = b"\xa5" * 4096
        file.write_bytes(content)
        with pytest.raises(agirails.StorageError) as caught:
            client = client_in(file.parents[1])
            client.advanced.get_balance()
            client.advanced.get_events()
            fund(client, new_address())
        assert (caught.value.code, bool(caught.value.hint)) == ("storage_damaged", True)

    def test_a_deleted_file_is_told_or_made_anew(self, tmp_path):
        """Whoever clears the state directory under a running client gets an error or a new file."""
        client = client_in(tmp_path)
        old = create(client, new_address())
        for path in (tmp_path / ".actp").iterdir():
            path.unlink()
        try:
            assert client.advanced.get_transaction(old).id == old
        except ACTPError as error:
            assert error.hint
        fresh = client_in(tmp_path)
        fund(fresh, new_address())

    def test_an_empty_file_is_a_new_one(self, file):
        for path in file.parent.iterdir():
            path.unlink()
        file.touch()
        assert client_in(file.parents[1]).advanced.get_balance() == START


class TestArguments:
    def test_a_missing_argument_is_pythons_own_error(self, two):
        with pytest.raises(TypeError, match="provider"):
            two[0].advanced.create_transaction(amount=PRICE, deadline=int(time.time()) + HOUR)

    def test_an_unknown_argument_is_pythons_own_error(self, two):
        with pytest.raises(TypeError, match="colour"):
            create(two[0], new_address(), colour="red")
        with pytest.raises(TypeError, match="colour"):
            ACTPClient(requester_address=new_address(), colour="red")
