"""The API of the documented recipe, and what each verb does to state and money."""

import copy
import json
import os
import time
from pathlib import Path

import pytest
from support import (
    DAY,
    HOUR,
    PRICE,
    START,
    USDC,
    ZERO_ADDRESS,
    ZERO_HASH,
    create,
    deliver,
    fund,
    new_address,
    new_hash,
    new_key,
    word,
)

import agirails
from agirails import (
    ACTPClient,
    ProofGenerator,
    State,
    encode_resolution,
    service_type_hash,
    usdc_base_units,
)


def balance(client: ACTPClient, address: str | None = None) -> int:
    return client.advanced.get_balance(address)


def protocol_income(client: ACTPClient) -> tuple[int, int]:
    """What the fee recipient and the archive treasury hold."""
    return balance(client, client.network.fee_recipient), balance(
        client, client.network.archive_treasury
    )


def event_names(client: ACTPClient, after: int = 0) -> list[str]:
    return [event.name for event in client.advanced.get_events(after)]


class TestRecipe:
    """Names, arguments and results are those of the recipe."""

    def test_a_paid_call_moves_through_every_state(self, parties):
        consumer, provider = parties.consumer, parties.provider
        tx_id = consumer.advanced.create_transaction(
            requester=consumer.address,
            provider=provider.address,
            amount=100_000,
            deadline=int(time.time()) + 3600,
            dispute_window=3600,
            metadata="0x",
        )
        assert consumer.advanced.get_transaction(tx_id).state is State.INITIATED
        assert consumer.advanced.link_escrow(tx_id) == tx_id
        assert provider.advanced.get_transaction(tx_id).state is State.COMMITTED
        provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        assert provider.advanced.get_transaction(tx_id).state is State.IN_PROGRESS
        generator = ProofGenerator()
        proof = generator.generate_delivery_proof(tx_id=tx_id, deliverable="a haiku")
        provider.advanced.transition_state(
            tx_id, State.DELIVERED, proof=generator.encode_proof(proof)
        )
        assert consumer.advanced.get_transaction(tx_id).state is State.DELIVERED
        consumer.advanced.transition_state(tx_id, State.SETTLED)
        assert provider.advanced.get_transaction(tx_id).state is State.SETTLED

    def test_kernel_is_another_name_of_advanced(self, parties):
        assert parties.consumer.kernel is parties.consumer.advanced

    def test_a_positional_client_is_a_keyword_client(self, tmp_path):
        key = new_key()
        address = ACTPClient(private_key=key, in_memory=True).address
        client = ACTPClient("mock", address, key, state_directory=str(tmp_path))
        assert (client.mode, client.address) == ("mock", address)

    def test_the_proof_generator_is_at_hand(self, parties):
        assert isinstance(parties.consumer.proof_generator, ProofGenerator)

    def test_the_proof_is_the_third_argument_too(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS, "0x")
        parties.provider.advanced.transition_state(tx_id, State.DELIVERED, word(2 * HOUR))
        tx = parties.provider.advanced.get_transaction(tx_id)
        assert tx.dispute_window_ends_at == tx.updated_at + 2 * HOUR

    @pytest.mark.parametrize("state", [State.IN_PROGRESS, 3, "IN_PROGRESS"])
    def test_a_state_is_named_by_enum_number_or_name(self, parties, state):
        tx_id = fund(parties.consumer, parties.provider.address)
        parties.provider.advanced.transition_state(tx_id, state)
        assert parties.provider.advanced.get_transaction(tx_id).state is State.IN_PROGRESS

    def test_states_are_the_contracts_numbers(self):
        names = (
            "INITIATED QUOTED COMMITTED IN_PROGRESS DELIVERED SETTLED DISPUTED CANCELLED".split()
        )
        assert [(state.name, int(state)) for state in State] == list(
            zip(names, range(8), strict=True)
        )

    def test_every_name_of_the_package_is_there(self):
        missing = [name for name in agirails.__all__ if not hasattr(agirails, name)]
        assert missing == []
        assert {
            "ACTPClient",
            "AsyncACTPClient",
            "ProofGenerator",
            "State",
            "Transaction",
            "AgentProfile",
        } <= set(agirails.__all__)


class TestTransaction:
    def test_a_new_transaction_has_the_fields_it_was_asked_for(self, parties):
        consumer, provider = parties.consumer, parties.provider
        service_hash, deadline = new_hash(), consumer.advanced.now() + 7 * DAY
        tx_id = consumer.advanced.create_transaction(
            provider=provider.address,
            amount=5 * USDC,
            deadline=deadline,
            dispute_window=2 * HOUR,
            metadata=service_hash,
            agent_id=7,
            requester_agent_id=2**200,
        )
        tx = consumer.advanced.get_transaction(tx_id)
        assert tx.transaction_id == tx.id == tx_id
        assert (tx.requester, tx.provider) == (consumer.address, provider.address)
        assert (tx.amount, tx.deadline, tx.service_hash) == (5 * USDC, deadline, service_hash)
        assert (tx.dispute_window_seconds, tx.dispute_window_ends_at) == (2 * HOUR, None)
        assert (tx.agent_id, tx.requester_agent_id) == (7, 2**200)
        assert tx.created_at == tx.updated_at
        assert abs(tx.created_at - consumer.advanced.now()) < HOUR
        assert (
            tx.platform_fee_bps_locked,
            tx.requester_penalty_bps_locked,
            tx.dispute_bond_bps_locked,
        ) == (100, 500, 500)
        assert (tx.escrow_contract, tx.escrow_id) == (ZERO_ADDRESS, ZERO_HASH)
        assert (tx.attestation_uid, tx.metadata) == (ZERO_HASH, ZERO_HASH)
        assert (tx.dispute_initiator, tx.dispute_bond) == (ZERO_ADDRESS, 0)

    def test_the_default_dispute_window_is_two_days(self, parties):
        advanced = parties.consumer.advanced
        tx_id = advanced.create_transaction(
            provider=parties.provider.address, amount=PRICE, deadline=advanced.now() + HOUR
        )
        assert advanced.get_transaction(tx_id).dispute_window_seconds == 2 * DAY

    @pytest.mark.parametrize("nothing", ["0x", "", b"", None, "0x" + "00" * 32, bytes(32)])
    def test_no_metadata_is_the_zero_hash(self, parties, nothing):
        tx_id = create(parties.consumer, parties.provider.address, metadata=nothing)
        assert parties.consumer.advanced.get_transaction(tx_id).service_hash == ZERO_HASH

    def test_linking_records_vault_and_escrow_id(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        tx = parties.consumer.advanced.get_transaction(tx_id)
        assert (tx.escrow_contract, tx.escrow_id) == (parties.consumer.network.vault, tx_id)

    def test_an_escrow_id_of_ones_own_is_kept(self, parties):
        tx_id, escrow_id = create(parties.consumer, parties.provider.address), new_hash()
        vault = parties.consumer.network.vault
        assert (
            parties.consumer.advanced.link_escrow(tx_id, escrow_contract=vault, escrow_id=escrow_id)
            == escrow_id
        )
        assert parties.consumer.advanced.get_transaction(tx_id).escrow_id == escrow_id
        assert parties.consumer.advanced.get_escrow(tx_id)["remaining"] == PRICE

    def test_numbers_are_plain_ints(self, parties):
        tx = parties.consumer.advanced.get_transaction(
            create(parties.consumer, parties.provider.address)
        )
        for name in (
            "amount",
            "created_at",
            "updated_at",
            "deadline",
            "dispute_window_seconds",
            "agent_id",
        ):
            assert type(getattr(tx, name)) is int, name

    def test_addresses_print_checksummed_and_compare_in_any_case(self, parties):
        vitalik = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
        tx = parties.consumer.advanced.get_transaction(create(parties.consumer, vitalik.lower()))
        assert str(tx.provider) == f"{tx.provider}" == vitalik
        assert tx.provider == vitalik.lower() == tx.provider.lower()
        assert vitalik.lower() == tx.provider and not tx.provider != vitalik.lower()
        assert tx.provider != new_address()
        assert {tx.provider: 1}[agirails.Address(vitalik.lower())] == 1
        assert isinstance(tx.provider, str)

    def test_equal_transactions_are_equal_and_one_key(self, parties):
        tx_id = create(parties.consumer, parties.provider.address)
        once, again = (parties.consumer.advanced.get_transaction(tx_id) for _ in range(2))
        other = parties.consumer.advanced.get_transaction(
            create(parties.consumer, parties.provider.address)
        )
        assert once == again and len({once, again}) == 1
        assert once != other
        parties.consumer.advanced.link_escrow(tx_id)
        assert parties.consumer.advanced.get_transaction(tx_id) != once

    def test_a_transaction_cannot_be_changed(self, parties):
        tx = parties.consumer.advanced.get_transaction(
            create(parties.consumer, parties.provider.address)
        )
        with pytest.raises(AttributeError):
            tx.amount = 1
        with pytest.raises((AttributeError, TypeError)):
            tx.unknown = 1

    def test_to_dict_says_what_the_attributes_say(self, parties):
        tx = parties.consumer.advanced.get_transaction(
            fund(parties.consumer, parties.provider.address)
        )
        record = tx.to_dict()
        assert record["state"] == "COMMITTED"
        assert {name: getattr(tx, name) for name in record if name != "state"} == {
            name: value for name, value in record.items() if name != "state"
        }
        assert len(record) >= 21

    def test_repr_names_id_and_state(self, parties):
        tx = parties.consumer.advanced.get_transaction(
            create(parties.consumer, parties.provider.address)
        )
        assert "INITIATED" in repr(tx) and tx.id[:10] in repr(tx)


class TestMoney:
    def test_a_new_address_starts_with_1000_usdc(self, parties):
        assert (
            balance(parties.consumer)
            == balance(parties.consumer, parties.provider.address)
            == START
        )

    def test_escrow_holds_what_the_consumer_paid(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address, 3 * USDC)
        assert balance(parties.consumer) == START - 3 * USDC
        assert parties.consumer.advanced.get_escrow(tx_id) == {
            "requester": parties.consumer.address,
            "provider": parties.provider.address,
            "amount": 3 * USDC,
            "released": 0,
            "remaining": 3 * USDC,
            "active": True,
        }

    def test_a_paid_out_escrow_is_all_zero(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id)
        parties.consumer.advanced.transition_state(tx_id, State.SETTLED)
        escrow = parties.consumer.advanced.get_escrow(tx_id)
        assert escrow == {
            "requester": ZERO_ADDRESS,
            "provider": ZERO_ADDRESS,
            "amount": 0,
            "released": 0,
            "remaining": 0,
            "active": False,
        }

    @pytest.mark.parametrize(
        ("amount", "net"),
        [
            (50_000, 0),
            (100_000, 50_000),
            (1_000_000, 950_000),
            (5_000_000, 4_950_000),
            (5_000_100, 4_950_099),
            (100_000_000, 99_000_000),
            (999_999_999, 990_000_000),
        ],
    )
    def test_the_provider_gets_the_amount_less_the_fee(self, parties, amount, net):
        recipient, treasury = protocol_income(parties.consumer)
        tx_id = fund(parties.consumer, parties.provider.address, amount)
        deliver(parties.provider, tx_id)
        parties.consumer.advanced.transition_state(tx_id, State.SETTLED)
        fee = amount - net
        assert balance(parties.consumer) == START - amount
        assert balance(parties.provider) == START + net
        assert protocol_income(parties.consumer) == (
            recipient + fee - fee // 1000,
            treasury + fee // 1000,
        )

    def test_a_quote_replaces_the_amount(self, parties):
        consumer, provider = parties.consumer, parties.provider
        tx_id, quote = create(consumer, provider.address), new_hash()
        provider.advanced.transition_state(tx_id, State.QUOTED, quote)
        assert consumer.advanced.get_transaction(tx_id).metadata == quote
        consumer.advanced.accept_quote(tx_id, 2 * USDC)
        tx = consumer.advanced.get_transaction(tx_id)
        assert (tx.state, tx.amount) == (State.QUOTED, 2 * USDC)
        consumer.advanced.link_escrow(tx_id)
        assert balance(consumer) == START - 2 * USDC

    def test_a_milestone_pays_part_and_is_charged_its_own_fee(self, parties):
        consumer, provider = parties.consumer, parties.provider
        tx_id = fund(consumer, provider.address, 1 * USDC)
        provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        consumer.advanced.release_milestone(tx_id, 60_000)
        assert balance(provider) == START + 10_000
        escrow = consumer.advanced.get_escrow(tx_id)
        assert (escrow["amount"], escrow["released"], escrow["remaining"]) == (
            1 * USDC,
            60_000,
            940_000,
        )
        provider.advanced.transition_state(tx_id, State.DELIVERED)
        consumer.advanced.transition_state(tx_id, State.SETTLED)
        assert balance(provider) == START + 10_000 + 890_000

    def test_calling_off_an_unfunded_transaction_moves_nothing(self, parties):
        tx_id = create(parties.consumer, parties.provider.address)
        parties.consumer.advanced.transition_state(tx_id, State.CANCELLED)
        assert parties.consumer.advanced.get_transaction(tx_id).state is State.CANCELLED
        assert balance(parties.consumer) == START

    @pytest.mark.parametrize("started", [False, True])
    def test_the_provider_can_give_everything_back(self, parties, started):
        tx_id = fund(parties.consumer, parties.provider.address)
        if started:
            parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        parties.provider.advanced.transition_state(tx_id, State.CANCELLED)
        assert (balance(parties.consumer), balance(parties.provider)) == (START, START)

    def test_a_requester_that_cancels_after_the_deadline_pays_the_penalty(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address, 10 * USDC)
        with pytest.raises(agirails.InvalidStateTransitionError) as early:
            parties.consumer.advanced.transition_state(tx_id, State.CANCELLED)
        assert early.value.code == "deadline_not_reached"
        parties.consumer.mock.advance_time(HOUR)
        parties.consumer.advanced.transition_state(tx_id, State.CANCELLED)
        assert balance(parties.consumer) == START - 500_000
        assert balance(parties.provider) == START + 450_000

    def test_allowances_are_what_was_approved_and_linking_needs_none(self, parties):
        advanced = parties.consumer.advanced
        assert advanced.get_allowance() == 0
        advanced.approve(3 * USDC)
        assert (
            advanced.get_allowance()
            == parties.provider.advanced.get_allowance(parties.consumer.address)
            == 3 * USDC
        )
        fund(parties.consumer, parties.provider.address, 1 * USDC)
        assert advanced.get_allowance() == 2 * USDC
        fund(parties.consumer, parties.provider.address, 5 * USDC)
        assert advanced.get_allowance() == 0

    def test_releasing_a_settled_escrow_pays_nothing_twice(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id)
        parties.consumer.advanced.transition_state(tx_id, State.SETTLED)
        paid = balance(parties.provider)
        parties.consumer.advanced.release_escrow(tx_id)
        assert balance(parties.provider) == paid

    def test_the_starting_balance_can_be_switched_off(self, tmp_path):
        client = ACTPClient(
            requester_address=new_address(), state_directory=tmp_path, starting_balance=0
        )
        tx_id = create(client, new_address())
        with pytest.raises(agirails.InsufficientFundsError) as caught:
            client.advanced.link_escrow(tx_id)
        assert (caught.value.required, caught.value.available) == (PRICE, 0)
        client.mock.mint(client.address, PRICE)
        client.advanced.link_escrow(tx_id)
        assert balance(client) == 0


class TestSettlement:
    def test_the_provider_settles_once_the_window_has_passed(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id, word(HOUR))
        with pytest.raises(agirails.DisputeWindowActiveError) as caught:
            parties.provider.advanced.transition_state(tx_id, State.SETTLED)
        assert (caught.value.code, caught.value.retry) == ("requester_decision_pending", "safe")
        parties.provider.mock.advance_time(HOUR + 1)
        parties.provider.advanced.transition_state(tx_id, State.SETTLED)
        assert balance(parties.provider) == START + 50_000

    def test_anyone_settles_once_the_window_has_passed(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id, word(HOUR))
        with pytest.raises(agirails.UnauthorizedError) as caught:
            parties.stranger.advanced.transition_state(tx_id, State.SETTLED)
        assert caught.value.code == "not_authorized_to_settle"
        parties.stranger.mock.advance_time(HOUR + 1)
        parties.stranger.advanced.transition_state(tx_id, State.SETTLED)
        assert parties.consumer.advanced.get_transaction(tx_id).state is State.SETTLED

    def test_an_attestation_is_anchored_after_settlement(self, parties):
        tx_id, uid = fund(parties.consumer, parties.provider.address), new_hash()
        deliver(parties.provider, tx_id)
        parties.consumer.advanced.transition_state(tx_id, State.SETTLED)
        parties.consumer.advanced.anchor_attestation(tx_id, uid)
        assert parties.consumer.advanced.get_transaction(tx_id).attestation_uid == uid


class TestDispute:
    def disputed(self, parties, amount: int = 10 * USDC, by: str = "consumer") -> str:
        tx_id = fund(parties.consumer, parties.provider.address, amount)
        deliver(parties.provider, tx_id)
        getattr(parties, by).advanced.transition_state(tx_id, State.DISPUTED)
        return tx_id

    @pytest.mark.parametrize("amount", [PRICE, 10 * USDC, 100 * USDC])
    def test_a_dispute_costs_a_bond_of_at_least_one_usdc(self, parties, amount):
        tx_id = self.disputed(parties, amount)
        bond = max(amount * 500 // 10_000, 1 * USDC)
        tx = parties.consumer.advanced.get_transaction(tx_id)
        assert (tx.state, tx.dispute_initiator, tx.dispute_bond) == (
            State.DISPUTED,
            parties.consumer.address,
            bond,
        )
        assert balance(parties.consumer) == START - amount - bond

    def test_a_provider_at_fault_pays_the_split_and_loses_the_bond(self, parties):
        tx_id = self.disputed(parties, by="provider")
        resolution = encode_resolution(
            requester_amount=6 * USDC, provider_amount=4 * USDC, provider_at_fault=True
        )
        parties.admin.advanced.transition_state(tx_id, State.SETTLED, resolution)
        assert balance(parties.consumer) == START - 4 * USDC + 1 * USDC
        assert balance(parties.provider) == START + 3_950_000 - 1 * USDC

    def test_a_provider_without_fault_gets_the_requesters_bond(self, parties):
        tx_id = self.disputed(parties)
        resolution = encode_resolution(
            requester_amount=0, provider_amount=10 * USDC, provider_at_fault=False
        )
        parties.admin.advanced.transition_state(tx_id, State.SETTLED, resolution)
        assert balance(parties.consumer) == START - 11 * USDC
        assert balance(parties.provider) == START + 9_900_000 + 1 * USDC
        assert parties.consumer.advanced.get_transaction(tx_id).dispute_bond == 0

    def test_a_cancelled_dispute_refunds_everything(self, parties):
        tx_id = self.disputed(parties)
        parties.admin.advanced.transition_state(tx_id, State.CANCELLED)
        assert (balance(parties.consumer), balance(parties.provider)) == (START, START)

    def test_an_approved_mediator_is_paid_from_the_escrow(self, parties):
        mediator = new_address()
        before = balance(parties.admin, mediator)
        parties.admin.mock.approve_mediator(mediator)
        parties.admin.mock.advance_time(2 * DAY)
        tx_id = self.disputed(parties)
        resolution = encode_resolution(
            requester_amount=5 * USDC,
            provider_amount=4 * USDC,
            provider_at_fault=True,
            mediator=mediator,
            mediator_amount=1 * USDC,
        )
        parties.admin.advanced.transition_state(tx_id, State.SETTLED, resolution)
        assert balance(parties.admin, mediator) == before + 1 * USDC

    def test_only_the_admin_resolves(self, parties):
        tx_id = self.disputed(parties)
        resolution = encode_resolution(
            requester_amount=10 * USDC, provider_amount=0, provider_at_fault=True
        )
        for party in (parties.consumer, parties.provider, parties.stranger):
            with pytest.raises(agirails.UnauthorizedError) as caught:
                party.advanced.transition_state(tx_id, State.SETTLED, resolution)
            assert caught.value.code == "resolver_only"

    def test_a_dispute_comes_too_late_after_the_window(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id, word(HOUR))
        parties.consumer.mock.advance_time(HOUR + 1)
        with pytest.raises(agirails.DeadlinePassedError) as caught:
            parties.consumer.advanced.transition_state(tx_id, State.DISPUTED)
        assert caught.value.code == "dispute_window_closed"


class TestTraps:
    """The deployed rules lock money in these cases; a kinder mock would hide it."""

    @pytest.mark.parametrize(
        ("amount", "cancellable"), [(PRICE, False), (999_999, False), (1_000_000, True)]
    )
    def test_below_one_usdc_the_requester_can_never_cancel(self, parties, amount, cancellable):
        tx_id = fund(parties.consumer, parties.provider.address, amount)
        parties.consumer.mock.advance_time(2 * HOUR)
        if cancellable:
            parties.consumer.advanced.transition_state(tx_id, State.CANCELLED)
            assert balance(parties.consumer) == START - 50_000
        else:
            with pytest.raises(agirails.TransactionRevertedError) as caught:
                parties.consumer.advanced.transition_state(tx_id, State.CANCELLED)
            assert caught.value.refusal == "Fee exceeds amount"
            parties.provider.advanced.transition_state(tx_id, State.CANCELLED)
            assert balance(parties.consumer) == START

    def test_from_in_progress_only_the_provider_can_give_the_money_back(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address, 10 * USDC)
        parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        parties.consumer.mock.advance_time(2 * HOUR)
        with pytest.raises(agirails.InvalidStateTransitionError) as caught:
            parties.consumer.advanced.transition_state(tx_id, State.CANCELLED)
        assert caught.value.refusal == "Cannot cancel after work started"
        with pytest.raises(agirails.DeadlinePassedError) as late:
            parties.provider.advanced.transition_state(tx_id, State.DELIVERED)
        assert late.value.refusal == "Transaction expired"
        parties.provider.advanced.transition_state(tx_id, State.CANCELLED)
        assert balance(parties.consumer) == START

    def test_a_milestone_below_the_fee_floor_is_refused(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address, 1 * USDC)
        parties.provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
        with pytest.raises(agirails.TransactionRevertedError) as caught:
            parties.consumer.advanced.release_milestone(tx_id, 49_999)
        assert caught.value.code == "fee_exceeds_amount"
        assert parties.consumer.advanced.get_escrow(tx_id)["remaining"] == 1 * USDC

    def test_committed_goes_to_delivered_only_through_in_progress(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        with pytest.raises(agirails.InvalidStateTransitionError) as caught:
            parties.provider.advanced.transition_state(tx_id, State.DELIVERED)
        assert caught.value.state is State.COMMITTED


class TestDeliveryProof:
    """The recipe hands 96 bytes to DELIVERED, which the contract refuses: the client keeps them."""

    @pytest.mark.parametrize("form", ["dict", "bytes", "bytearray", "memoryview", "hex"])
    def test_a_proof_is_kept_and_the_window_is_the_transactions_own(self, parties, form):
        tx_id = fund(parties.consumer, parties.provider.address, dispute_window=5 * HOUR)
        generator = parties.provider.proof_generator
        proof = generator.generate_delivery_proof(tx_id=tx_id, deliverable="done")
        encoded = generator.encode_proof(proof)
        forms = {
            "dict": proof,
            "bytes": encoded,
            "bytearray": bytearray(encoded),
            "memoryview": memoryview(encoded),
            "hex": "0x" + encoded.hex(),
        }
        deliver(parties.provider, tx_id, forms[form])
        kept = parties.consumer.advanced.get_delivery_proof(tx_id)
        for key in ("txId", "contentHash", "timestamp"):
            assert kept[key] == proof[key]
        tx = parties.consumer.advanced.get_transaction(tx_id)
        assert (tx.dispute_window_seconds, tx.dispute_window_ends_at) == (
            None,
            tx.updated_at + 5 * HOUR,
        )

    def test_a_proof_dict_is_kept_whole(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        proof = parties.provider.proof_generator.generate_delivery_proof(
            tx_id=tx_id,
            deliverable=b"\x00\xff",
            metadata={"mimeType": "image/png", "notes": ["é", 1]},
            delivery_url="https://example.com/1",
        )
        deliver(parties.provider, tx_id, proof)
        assert parties.consumer.advanced.get_delivery_proof(tx_id) == proof

    @pytest.mark.parametrize("nothing", [None, b"", "0x", word(0)])
    def test_a_bare_delivery_has_the_default_window_and_no_proof(self, parties, nothing):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id, nothing)
        tx = parties.consumer.advanced.get_transaction(tx_id)
        assert tx.dispute_window_ends_at == tx.updated_at + 2 * DAY
        assert parties.consumer.advanced.get_delivery_proof(tx_id) is None

    def test_a_refused_delivery_keeps_no_proof(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        proof = parties.provider.proof_generator.generate_delivery_proof(
            tx_id=tx_id, deliverable="early"
        )
        with pytest.raises(agirails.InvalidStateTransitionError):
            parties.provider.advanced.transition_state(tx_id, State.DELIVERED, proof)
        assert parties.consumer.advanced.get_delivery_proof(tx_id) is None


class TestEvents:
    def test_a_paid_call_announces_what_the_contract_announces(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        deliver(parties.provider, tx_id)
        parties.consumer.advanced.transition_state(tx_id, State.SETTLED)
        events = [
            event
            for event in parties.stranger.advanced.get_events()
            if event.transaction_id == tx_id
        ]
        transitions = [
            (event.data["oldState"], event.data["newState"])
            for event in events
            if event.name == "StateTransitioned"
        ]
        assert transitions == [
            ("INITIATED", "COMMITTED"),
            ("COMMITTED", "IN_PROGRESS"),
            ("IN_PROGRESS", "DELIVERED"),
            ("DELIVERED", "SETTLED"),
        ]
        assert events[0].name == "TransactionCreated"
        assert {"EscrowLinked", "EscrowReleased", "PlatformFeeAccrued"} <= {
            event.name for event in events
        }
        assert events[0].data["amount"] == PRICE
        assert events[0].data["requester"].lower() == parties.consumer.address.lower()

    def test_cursors_grow_and_pages_join_without_gap_or_overlap(self, parties):
        for _ in range(5):
            fund(parties.consumer, parties.provider.address)
        everything = parties.consumer.advanced.get_events()
        cursors = [event.cursor for event in everything]
        assert cursors == sorted(set(cursors)) and cursors[0] > 0
        paged, cursor = [], 0
        while page := parties.consumer.advanced.get_events(after=cursor, limit=4):
            assert len(page) <= 4
            paged += page
            cursor = page[-1].cursor
            assert len(paged) <= len(everything)
        assert [event.cursor for event in paged] == cursors

    def test_an_event_has_its_time_and_cannot_be_changed(self, parties):
        create(parties.consumer, parties.provider.address)
        event = parties.consumer.advanced.get_events()[-1]
        assert abs(event.timestamp - parties.consumer.advanced.now()) < HOUR
        with pytest.raises(AttributeError):
            event.cursor = 0

    def test_a_refused_call_announces_nothing(self, parties):
        tx_id = create(parties.consumer, parties.provider.address)
        before = event_names(parties.consumer)
        with pytest.raises(agirails.ACTPError):
            parties.stranger.advanced.link_escrow(tx_id)
        assert event_names(parties.consumer) == before


class TestPages:
    def test_transactions_come_newest_first_in_pages(self, parties):
        ids = [create(parties.consumer, parties.provider.address) for _ in range(7)]
        seen, after = [], None
        while page := parties.consumer.advanced.get_transactions(limit=3, after=after):
            seen += [tx.id for tx in page]
            after = page[-1].id
            assert len(seen) <= len(ids)
        assert seen == ids[::-1]

    def test_role_and_state_narrow_the_list(self, parties):
        consumer, provider = parties.consumer, parties.provider
        open_id, funded = create(consumer, provider.address), fund(consumer, provider.address)
        back = create(provider, consumer.address)

        def ids(client, *arguments, **options):
            return [tx.id for tx in client.advanced.get_transactions(*arguments, **options)]

        assert ids(consumer) == [back, funded, open_id]
        assert (
            ids(consumer, role="requester") == ids(provider, role="provider") == [funded, open_id]
        )
        assert ids(consumer, role="provider") == [back]
        assert ids(consumer, state=State.COMMITTED) == [funded]
        assert ids(
            parties.stranger, consumer.address.lower(), role="requester", state=State.INITIATED
        ) == [open_id]
        assert ids(parties.stranger) == []


class TestRegistry:
    def test_a_registered_agent_is_found_by_its_service(self, parties):
        provider = parties.provider
        provider.registry.register_agent(
            "https://api.example.com", ["ai-completion", "translation"]
        )
        found = parties.consumer.registry.get_agents_by_service("ai-completion")
        assert [agent.agent_address for agent in found] == [provider.address]
        agent = found[0]
        assert agent.endpoint == "https://api.example.com"
        assert agent.did == f"did:ethr:{provider.chain_id}:{provider.address.lower()}"
        assert agent.service_types == [
            service_type_hash("ai-completion"),
            service_type_hash("translation"),
        ]
        assert (agent.is_active, agent.total_transactions, agent.total_volume_usdc) == (True, 0, 0)
        assert parties.consumer.registry.get_agents_by_service("no-such-thing") == []

    def test_a_descriptor_keeps_its_prices(self, parties):
        parties.provider.registry.register_agent(
            "https://api.example.com",
            [
                {
                    "service_type": "ai-completion",
                    "schema_uri": "ipfs://schema",
                    "min_price": PRICE,
                    "max_price": 5 * USDC,
                    "avg_completion_time": 3,
                    "metadata_cid": "bafy",
                }
            ],
        )
        (service,) = parties.consumer.registry.get_service_descriptors(parties.provider.address)
        assert (service["service_type"], service["min_price"], service["max_price"]) == (
            "ai-completion",
            PRICE,
            5 * USDC,
        )
        assert (service["schema_uri"], service["avg_completion_time"], service["metadata_cid"]) == (
            "ipfs://schema",
            3,
            "bafy",
        )

    def test_a_profile_changes_with_its_agent(self, parties):
        mine, theirs = parties.provider.registry, parties.consumer.registry
        address = parties.provider.address
        assert theirs.get_agent(address) is None
        mine.register_agent("https://one.example.com", ["ai-completion"])
        mine.update_endpoint("https://two.example.com")
        mine.add_service_type("translation")
        mine.remove_service_type("ai-completion")
        assert theirs.get_agent(address).endpoint == "https://two.example.com"
        assert theirs.supports_service(address, "translation")
        assert not theirs.supports_service(address, "ai-completion")
        mine.set_active_status(False)
        assert theirs.get_agents_by_service("translation") == []
        assert theirs.get_agent(address).is_active is False

    def test_an_agent_is_found_by_its_did(self, parties):
        parties.provider.registry.register_agent("https://api.example.com", ["ai-completion"])
        profile = parties.consumer.registry.get_agent(parties.provider.address)
        assert parties.consumer.registry.get_agent_by_did(profile.did) == profile
        elsewhere = f"did:ethr:1:{parties.provider.address.lower()}"
        assert parties.consumer.registry.get_agent_by_did(elsewhere) is None

    def test_settlements_build_the_reputation(self, parties):
        parties.provider.registry.register_agent("https://api.example.com", ["ai-completion"])
        tx_id = fund(parties.consumer, parties.provider.address, 10 * USDC)
        deliver(parties.provider, tx_id)
        parties.consumer.advanced.transition_state(tx_id, State.SETTLED)
        profile = parties.consumer.registry.get_agent(parties.provider.address)
        assert (profile.total_transactions, profile.disputed_transactions) == (1, 0)
        assert (profile.total_volume_usdc, profile.reputation_score) == (10 * USDC, 7_000)

    def test_reputation_and_pages_narrow_a_query(self, tmp_path):
        agents = [
            ACTPClient(requester_address=new_address(), state_directory=tmp_path) for _ in range(5)
        ]
        for agent in agents:
            agent.registry.register_agent("https://api.example.com", ["ai-completion"])
        query = agents[0].registry.get_agents_by_service
        page = query("ai-completion", offset=1, limit=3)
        assert [profile.agent_address for profile in page] == [
            agent.address for agent in agents[1:4]
        ]
        assert query("ai-completion", min_reputation=10_000) == []

    def test_a_profile_prints_as_a_record(self, parties):
        parties.provider.registry.register_agent("https://api.example.com", ["ai-completion"])
        profile = parties.consumer.registry.get_agent(parties.provider.address)
        record = profile.to_dict()
        assert {name: getattr(profile, name) for name in record} == record
        with pytest.raises(AttributeError):
            profile.endpoint = "https://elsewhere.example.com"


class TestMock:
    def test_time_is_shared_by_all_clients_of_a_file(self, parties):
        before = parties.consumer.advanced.now()
        now = parties.provider.mock.advance_time(30 * DAY)
        assert now >= before + 30 * DAY
        assert parties.consumer.advanced.now() >= now
        late = ACTPClient(requester_address=new_address(), state_directory=parties.directory)
        assert late.advanced.now() >= now

    def test_the_clock_starts_at_the_wall_clock(self, parties):
        assert abs(parties.consumer.advanced.now() - time.time()) < HOUR

    def test_minted_money_is_there(self, parties):
        parties.consumer.mock.mint(parties.provider.address, 5)
        assert balance(parties.provider) == START + 5

    def test_a_paused_kernel_refuses_until_it_is_unpaused(self, parties):
        tx_id = create(parties.consumer, parties.provider.address)
        parties.admin.mock.pause()
        with pytest.raises(agirails.ContractPausedError) as caught:
            parties.consumer.advanced.link_escrow(tx_id)
        assert (caught.value.refusal, caught.value.retry) == ("Kernel paused", "safe")
        parties.admin.mock.unpause()
        parties.consumer.advanced.link_escrow(tx_id)
        assert {"KernelPaused", "KernelUnpaused"} <= set(event_names(parties.consumer))


class TestWhereStateLies:
    def test_state_lies_in_dot_actp_of_the_state_directory(self, tmp_path):
        client = ACTPClient(requester_address=new_address(), state_directory=tmp_path)
        file = Path(client.mock.file)
        assert file.is_file() and file.parent == tmp_path / ".actp"

    def test_the_default_is_the_working_directory(self):
        client = ACTPClient(requester_address=new_address())
        assert Path(client.mock.file).resolve().parent == Path.cwd() / ".actp"

    def test_the_environment_names_another_directory(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ACTP_STATE_DIR", str(tmp_path / "there"))
        client = ACTPClient(requester_address=new_address())
        assert Path(client.mock.file).parent == tmp_path / "there" / ".actp"

    def test_the_argument_wins_over_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ACTP_STATE_DIR", str(tmp_path / "there"))
        client = ACTPClient(requester_address=new_address(), state_directory=tmp_path / "here")
        assert Path(client.mock.file).parent == tmp_path / "here" / ".actp"

    def test_a_client_made_later_finds_everything(self, parties):
        tx_id = fund(parties.consumer, parties.provider.address)
        again = ACTPClient(
            requester_address=parties.consumer.address, state_directory=parties.directory
        )
        assert again.advanced.get_transaction(tx_id).state is State.COMMITTED
        assert balance(again) == START - PRICE

    def test_a_change_of_directory_does_not_move_the_state(self, tmp_path, monkeypatch):
        client = ACTPClient(requester_address=new_address(), state_directory=".")
        tx_id = create(client, new_address())
        monkeypatch.chdir(tmp_path)
        assert client.advanced.get_transaction(tx_id).id == tx_id
        assert os.listdir(tmp_path) == []

    def test_in_memory_leaves_no_file(self):
        client = ACTPClient(requester_address=new_address(), in_memory=True)
        fund(client, new_address())
        assert client.mock.file is None
        assert os.listdir() == []

    def test_two_memories_are_two_worlds(self):
        one, other = (ACTPClient(requester_address=new_address(), in_memory=True) for _ in range(2))
        tx_id = create(one, other.address)
        with pytest.raises(agirails.TransactionNotFoundError):
            other.advanced.get_transaction(tx_id)


class TestClient:
    def test_a_key_gives_its_address(self):
        key = "0x" + "00" * 31 + "01"
        client = ACTPClient(private_key=key, in_memory=True)
        assert client.address == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"

    def test_repr_shows_the_address_and_never_the_key(self):
        key = new_key()
        client = ACTPClient(private_key=key, in_memory=True)
        shown = f"{client!r} {client} {client.advanced!r} {client.mock!r} {client.registry!r} {vars(client) if hasattr(client, '__dict__') else ''}"
        assert "mock" in repr(client) and client.address[:6] in repr(client)
        assert key[2:] not in shown.lower()

    def test_the_network_names_its_contracts(self, parties):
        client = parties.consumer
        network = client.network
        assert (network.name, network.chain_id) == (client.mode, client.chain_id)
        addresses = [
            network.kernel,
            network.vault,
            network.usdc,
            network.admin,
            network.fee_recipient,
            network.archive_treasury,
            network.agent_registry,
        ]
        assert len({str(address).lower() for address in addresses}) == 7
        with pytest.raises(AttributeError):
            network.kernel = new_address()

    def test_two_clients_may_share_an_address(self, parties):
        twin = ACTPClient(
            requester_address=parties.consumer.address.lower(), state_directory=parties.directory
        )
        ids = [
            create(client, parties.provider.address)
            for client in (parties.consumer, twin, parties.consumer, twin)
        ]
        assert len(set(ids)) == 4
        twin.advanced.link_escrow(ids[0])
        assert parties.consumer.advanced.get_transaction(ids[0]).state is State.COMMITTED
        assert balance(parties.consumer) == balance(twin) == START - PRICE

    def test_an_address_can_be_copied(self, parties):
        address = parties.consumer.address
        assert copy.deepcopy(address) == address


def test_a_state_prints_as_its_name_and_counts_as_its_number():
    state = State.DELIVERED
    assert (str(state), f"{state}", f"{state:>10}") == ("DELIVERED", "DELIVERED", " DELIVERED")
    assert (f"{state:d}", f"{state:02x}", int(state), state == 4) == ("4", "04", 4, True)
    assert repr(state) == "<State.DELIVERED: 4>"
    assert json.dumps(state) == "4"


def test_a_price_prints_as_usdc_and_counts_in_base_units():
    amount = usdc_base_units(100_000)
    assert (str(amount), f"{amount}", f"{amount:>6}") == ("0.10", "0.10", "  0.10")
    assert (f"{amount:.1f}", f"{amount:d}", f"{amount:,}") == ("0.1", "100000", "100,000")
    assert (amount, amount + 1, json.dumps({"a": amount})) == (100_000, 100_001, '{"a": 100000}')
    assert repr(amount) == "0.10 USDC"
    for wrong, error in ((True, TypeError), ("1", TypeError), (0.1, TypeError), (-1, ValueError)):
        with pytest.raises(error, match="amount must be"):
            usdc_base_units(wrong)
