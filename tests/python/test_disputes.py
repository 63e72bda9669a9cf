"""Disputes that bonds decide: what they cost, what silence costs, and what is refused."""

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from support import DAY, HOUR, USDC, deliver, fund, new_address

from agirails import (
    ACTPClient,
    DeadlinePassedError,
    InvalidStateTransitionError,
    NetworkError,
    ProofGenerator,
    SpendingError,
    State,
    TransactionNotFoundError,
    Usdc,
    ValidationError,
    usdc_base_units,
)
from agirails.testing import Devnet


class Case(NamedTuple):
    """A chain, and who argues on it."""

    chain: Devnet
    requester: ACTPClient
    provider: ACTPClient
    stranger: ACTPClient

    def disputed(self, amount: int) -> str:
        """A delivery that its requester disputed on the kernel."""
        deadline = self.chain.now() + DAY
        tx_id = fund(self.requester, self.provider.address, amount, deadline=deadline)
        proof = ProofGenerator().generate_delivery_proof(tx_id=tx_id, deliverable=b"done")
        deliver(self.provider, tx_id, proof)
        self.requester.advanced.transition_state(tx_id, State.DISPUTED)
        return tx_id

    def opened(self, amount: int) -> str:
        tx_id = self.disputed(amount)
        self.stranger.disputes.open(tx_id)
        return tx_id

    def owns(self, client: ACTPClient) -> int:
        return client.advanced.get_balance()


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    with Devnet(generation="aip14c") as chain:
        yield Case(chain, chain.client(0), chain.client(1), chain.client(2))


def test_a_challenge_doubles_the_bond_and_the_last_ruling_is_carried_out(case: Case) -> None:
    tx_id = case.disputed(10 * USDC)
    assert case.requester.disputes.get(tx_id) is None
    number = case.stranger.disputes.open(tx_id)
    assert number.startswith("0x") and len(number) == 66
    before = case.owns(case.requester), case.owns(case.provider), case.owns(case.stranger)
    bond = case.requester.disputes.propose(tx_id, "requester", max_bond="1.00")
    assert (bond, str(bond), type(bond)) == (USDC, "1.00", Usdc)
    found = case.requester.disputes.get(tx_id)
    assert found is not None and (found.tier, found.ruling) == (1, "requester")
    assert (found.bond, found.next_bond, found.pool) == (USDC, 2 * USDC, USDC)
    assert found.last_proposer == case.requester.address
    assert found.finalized_from == case.chain.now() + HOUR + 1
    paid = case.provider.disputes.challenge(tx_id, "provider", max_bond=Decimal(2))
    assert paid == 2 * USDC

    with pytest.raises(InvalidStateTransitionError) as early:
        case.stranger.disputes.finalize(tx_id)
    end = case.chain.now() + HOUR
    assert (early.value.code, early.value.value) == ("liveness_active", str(end + 1))
    assert early.value.transaction_id == tx_id and str(end + 1) in str(early.value)
    case.chain.advance_time(HOUR + 1)
    with pytest.raises(DeadlinePassedError, match="provider wins") as late:
        case.requester.disputes.challenge(tx_id, "requester", max_bond="4")
    assert late.value.code == "liveness_expired"
    assert case.stranger.disputes.finalize(tx_id) == 300_000
    after = case.owns(case.requester), case.owns(case.provider), case.owns(case.stranger)
    # The pool less the bounty, the amount less the fee, and the kernel's bond.
    gained = 700_000 + 9_900_000 + USDC
    assert [b - a for a, b in zip(before, after, strict=True)] == [-USDC, gained, 300_000]
    assert case.requester.advanced.get_transaction(tx_id).state == State.SETTLED
    over = case.requester.disputes.get(tx_id)
    assert over is not None and over.resolved and over.winner_paid and over.next_bond is None
    assert json.loads(json.dumps(over.to_dict()))["original_pool"] == 3 * USDC


def test_silence_decides_a_small_dispute_within_an_hour(case: Case) -> None:
    tx_id = case.opened(2 * USDC)
    before = case.owns(case.provider)
    case.requester.disputes.propose(tx_id, "requester", max_bond="1.00")
    case.chain.advance_time(HOUR + 1)
    assert case.requester.disputes.finalize(tx_id) == USDC
    assert case.owns(case.provider) == before
    assert case.requester.advanced.get_transaction(tx_id).state == State.SETTLED


def test_a_split_gives_the_bonds_back_less_the_bounty(case: Case) -> None:
    tx_id = case.opened(10 * USDC)
    case.requester.disputes.propose(tx_id, "requester", max_bond="1.00")
    case.provider.disputes.challenge(tx_id, ("split", 7_500), max_bond=usdc_base_units(2 * USDC))
    standing = case.requester.disputes.get(tx_id)
    assert standing is not None and standing.ruling == ("split", 7_500)
    # What was read can be passed on.
    with pytest.raises(InvalidStateTransitionError) as same:
        case.requester.disputes.challenge(tx_id, standing.ruling, max_bond="4.00")
    assert same.value.code == "same_ruling"
    with pytest.raises(InvalidStateTransitionError) as not_yet:
        case.requester.disputes.claim_refund(tx_id)
    assert not_yet.value.code == "dispute_not_resolved"
    case.chain.advance_time(HOUR + 1)
    assert case.stranger.disputes.finalize(tx_id) == 300_000
    assert case.requester.disputes.claim_refund(tx_id) == 900_000
    assert case.provider.disputes.claim_refund(tx_id) == 1_800_000
    with pytest.raises(InvalidStateTransitionError) as twice:
        case.provider.disputes.claim_refund(tx_id)
    assert twice.value.code == "nothing_to_claim"
    assert case.requester.advanced.get_transaction(tx_id).state == State.CANCELLED


def test_a_bond_above_the_limit_is_named_and_nothing_is_paid(case: Case) -> None:
    tx_id = case.opened(200 * USDC)
    before = case.owns(case.requester)
    with pytest.raises(SpendingError, match=r"a bond of 4\.00 USDC, and max_bond is 3\.99") as dear:
        case.requester.disputes.propose(tx_id, "requester", max_bond="3.99")
    error = dear.value
    assert (error.code, error.required, error.available) == (
        "price_above_limit",
        4 * USDC,
        3_990_000,
    )
    assert case.owns(case.requester) == before


def test_the_awaitable_client_argues_too(case: Case) -> None:
    tx_id = case.disputed(USDC)

    async def argue() -> None:
        key = case.chain.accounts[3].private_key
        client = await ACTPClient.create(
            mode="testnet", private_key=key, network=case.chain.profile, in_memory=True
        )
        await client.disputes.open(tx_id)
        assert await client.disputes.propose(tx_id, "provider", "1.00") == USDC
        found = await client.disputes.get(tx_id)
        assert found is not None and found.ruling == "provider"

    asyncio.run(argue())


class TestBadInput:
    @pytest.mark.parametrize(
        "ruling",
        ["", "Provider", 0, None, True, ("split",), ("split", 1, 2), ("half", 5), {"split": 1}],
    )
    def test_what_is_no_ruling(self, case: Case, ruling: Any) -> None:
        with pytest.raises(ValidationError) as caught:
            case.requester.disputes.propose("0x" + "11" * 32, ruling, max_bond="1.00")
        assert (caught.value.code, caught.value.field) == ("invalid_ruling", "ruling")
        assert "provider" in (caught.value.hint or "")

    @pytest.mark.parametrize("share", [10_001, -1, 2**70, 5.5, "half", True])
    def test_a_share_that_none_can_have(self, case: Case, share: Any) -> None:
        with pytest.raises(ValidationError) as caught:
            case.requester.disputes.challenge("0x" + "11" * 32, ("split", share), max_bond="1.00")
        assert caught.value.field == "provider_bps"

    @pytest.mark.parametrize("limit", [1_000_000, 1.0, "a dollar", None, "-1"])
    def test_a_limit_that_does_not_say_its_unit(self, case: Case, limit: Any) -> None:
        with pytest.raises(ValidationError) as caught:
            case.requester.disputes.propose("0x" + "11" * 32, "provider", max_bond=limit)
        assert (caught.value.code, caught.value.field) == (
            "invalid_amount",
            "max_bond" if not isinstance(limit, str) else "amount",
        )

    def test_a_transaction_that_is_not_there_or_not_disputed(self, case: Case) -> None:
        with pytest.raises(TransactionNotFoundError):
            case.requester.disputes.open("0x" + "11" * 32)
        tx_id = fund(case.requester, case.provider.address, deadline=case.chain.now() + DAY)
        with pytest.raises(InvalidStateTransitionError) as caught:
            case.requester.disputes.open(tx_id)
        assert caught.value.code == "not_in_disputed_state"
        assert caught.value.state == State.COMMITTED
        with pytest.raises(ValidationError) as no_id:
            case.requester.disputes.get("0x11")
        assert no_id.value.code == "invalid_transaction_id"

    @pytest.mark.parametrize("generation", ["2026-05", "f6", "aip14c"])
    def test_a_network_without_the_contract(self, generation: str) -> None:
        client = ACTPClient(requester_address=new_address(), in_memory=True, generation=generation)
        assert client.network.bond_escalation is None
        code = "network_unavailable" if generation == "aip14c" else "unsupported_kernel"
        disputes, tx_id = client.disputes, "0x" + "11" * 32
        for call in [
            lambda: disputes.open(tx_id),
            lambda: disputes.propose(tx_id, "provider", "1.00"),
            lambda: disputes.challenge(tx_id, "provider", "1.00"),
            lambda: disputes.finalize(tx_id),
            lambda: disputes.claim_refund(tx_id),
            lambda: disputes.force_resolve_stale(tx_id),
            lambda: disputes.sync_external_resolution(tx_id),
            lambda: disputes.get(tx_id),
        ]:
            with pytest.raises(NetworkError) as caught:
                call()
            assert (caught.value.code, caught.value.field) == (code, "bond_escalation")
            assert "nothing was sent" in (caught.value.hint or "")
