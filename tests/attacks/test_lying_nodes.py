"""Nodes that lie: what they must not bring a payer to sign, or a provider to serve or give back."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import Node, node, word
from support import HOUR, USDC, fund, new_hash, until

from agirails import ACTPClient, Consumer, NetworkError, NetworkWarning, State, sign_request
from agirails.testing import Devnet

REQUESTER, PROVIDER, ATTACKER = 1, 2, 7


class Chain:
    """A chain, a node in between, and parties who know the chain by it or directly."""

    def __init__(self, net: Devnet, liar: Node, directory: Path) -> None:
        self.net, self.liar, self.directory = net, liar, directory
        self.contracts = {
            name: address.lower() for name, address in net.profile["contracts"].items()
        }

    def client(self, number: int, name: str, urls: list[str], **settings: Any) -> ACTPClient:
        return ACTPClient(
            "testnet",
            private_key=self.net.accounts[number].private_key,
            network={**self.net.profile, "rpcUrl": urls},
            state_directory=self.directory / name,
            **settings,
        )

    def allowance(self, owner: str, spender: str) -> int:
        call = {
            "to": self.contracts["usdc"],
            "data": "0xdd62ed3e" + word(owner) + word(spender),
        }
        return int(self.net.rpc("eth_call", [call, "latest"]), 16)


@pytest.fixture(scope="module")
def net() -> Iterator[Devnet]:
    with Devnet() as net:
        yield net


@pytest.fixture
def chain(net: Devnet, tmp_path: Path) -> Iterator[Chain]:
    with node(net.rpc_url) as liar:
        yield Chain(net, liar, tmp_path)


def delivered(chain: Chain, requester: ACTPClient, amount: int = USDC) -> str:
    provider = chain.client(PROVIDER, "honest", [chain.net.rpc_url])
    tx_id = fund(requester, provider.address, amount)
    provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
    provider.advanced.transition_state(tx_id, State.DELIVERED)
    return tx_id


def about_the_view(chain: Chain, tx_id: str, field: int, value: str | int) -> Any:
    """Changes one field of the transaction wherever its view is answered through a lens."""
    vault = word(chain.contracts["escrowVault"])

    def lie(asked: dict[str, Any], answer: dict[str, Any]) -> None:
        result = answer.get("result")
        # The read right before what is signed has no `to`.
        if asked["method"] != "eth_call" or "to" in asked["params"][0] or not result:
            return
        begin = result.find(word(tx_id))
        if begin > 0 and vault in result[begin : begin + 21 * 64]:
            at = begin + field * 64
            answer["result"] = result[:at] + word(value) + result[at + 64 :]

    return lie


AMOUNT, ESCROW_CONTRACT, BOND_BPS = 4, 9, 16


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        (ESCROW_CONTRACT, "attacker", ["the vault"]),
        (AMOUNT, 900_000 * USDC, ["bond", "1.00"]),
        (BOND_BPS, 60_000, ["bond", "1.00"]),
    ],
    ids=["another spender", "another amount", "another bond"],
)
def test_a_dispute_approves_nobody_but_the_vault_and_no_more_than_the_bond(
    chain: Chain, field: int, value: Any, named: list[str]
) -> None:
    attacker = chain.net.accounts[ATTACKER].address
    payer = chain.client(REQUESTER, "payer", [chain.liar.url])
    tx_id = delivered(chain, payer)
    vault, before = chain.contracts["escrowVault"], payer.advanced.get_balance()
    value = attacker if value == "attacker" else value
    chain.liar.lie = about_the_view(chain, tx_id, field, value)
    with pytest.raises(NetworkError) as caught:
        Consumer(payer).dispute(tx_id, max_bond="1")
    assert caught.value.code == "contradictory_answer"
    expected = [attacker, chain.net.profile["contracts"]["escrowVault"]]
    for name in named if value != attacker else expected:
        assert name.lower() in str(caught.value).lower()
    assert chain.allowance(payer.address, attacker) == 0
    assert chain.allowance(payer.address, vault) == 0
    assert payer.advanced.get_balance() == before
    chain.liar.lie = None
    assert Consumer(payer).dispute(tx_id, max_bond="1") == USDC
    assert payer.advanced.get_transaction(tx_id).state == State.DISPUTED


def test_an_answer_about_another_transaction_is_not_taken_for_this_one(chain: Chain) -> None:
    reader = chain.client(REQUESTER, "reader", [chain.liar.url])
    mine, other = (fund(reader, chain.net.accounts[PROVIDER].address, USDC) for _ in range(2))

    def lie(asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if mine[2:] in json.dumps(asked["params"]) and "result" in answer:
            answer["result"] = answer["result"].replace(mine[2:], other[2:])

    chain.liar.lie = lie
    with pytest.raises(NetworkError) as caught:
        reader.advanced.get_transaction(mine)
    assert caught.value.code == "contradictory_answer"
    assert mine in str(caught.value) and other in str(caught.value)


def test_a_tip_that_a_node_names_is_not_paid_beyond_the_cap(chain: Chain) -> None:
    cap = 50_000_000
    payer = chain.client(REQUESTER, "payer", [chain.liar.url], max_priority_fee_per_gas=cap)

    def lie(asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if asked["method"] == "eth_feeHistory":
            answer["result"]["reward"] = [[hex(40 * 10**9)] for _ in range(5)]

    chain.liar.lie = lie
    before = int(chain.net.rpc("eth_blockNumber", []), 16)
    fund(payer, chain.net.accounts[PROVIDER].address, USDC)
    blocks = range(before + 1, int(chain.net.rpc("eth_blockNumber", []), 16) + 1)
    sent = [
        transaction
        for number in blocks
        for transaction in chain.net.rpc("eth_getBlockByNumber", [hex(number), True])[
            "transactions"
        ]
    ]
    assert len(sent) == 3
    assert {int(each["maxPriorityFeePerGas"], 16) for each in sent} == {cap}


class Service:
    """A paid service whose provider knows the chain by these URLs."""

    def __init__(self, chain: Chain, urls: list[str], **settings: Any) -> None:
        from flask import Flask

        from agirails.flask import Paywall

        self.runs = 0
        self.payer = chain.client(REQUESTER, "payer", [chain.net.rpc_url])
        provider = chain.client(PROVIDER, "provider", urls, **settings)
        self.provider = provider.address
        app = Flask(__name__)
        paywall = Paywall(provider, app=app, unsigned="refuse")

        @app.post("/api/generate")
        @paywall.charge("0.10")
        def generate() -> dict[str, int]:
            self.runs += 1
            return {"run": self.runs}

        self._client = app.test_client()

    def call(self, tx_id: str, signature: str = "") -> Any:
        signature = signature or sign_request(self.payer, tx_id, "POST", "/api/generate", b"")
        headers = {"X-AGIRAILS-TX-ID": tx_id, "X-AGIRAILS-SIGNATURE": signature}
        return self._client.post("/api/generate", headers=headers)


def made_up(chain: Chain, service: Service, tx_id: str) -> Any:
    """The view of a transaction that nobody made, in answers to plain reads of it."""
    now = chain.net.now()
    vault = chain.contracts["escrowVault"]
    view = [tx_id, service.payer.address, service.provider, 2, 100_000, now, now, now + HOUR, 0]
    view += [vault, tx_id, 0, 2 * HOUR, 0, 100, 500, 500, 0, 0, 0, 0]
    encoded = "0x" + "".join(word(each) for each in view)

    def lie(asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if asked["method"] == "eth_call" and tx_id[2:] in json.dumps(asked["params"]):
            answer.pop("error", None)
            answer["result"] = encoded

    return lie


def test_a_made_up_transaction_is_not_served_where_two_nodes_must_agree(chain: Chain) -> None:
    service = Service(chain, [chain.liar.url, chain.net.rpc_url], agree=2)
    tx_id = new_hash()
    chain.liar.lie = made_up(chain, service, tx_id)
    rejected = service.call(tx_id)
    assert (rejected.status_code, service.runs) == (503, 0)
    # The lie is what would have been served: with one node it is.
    alone = Service(chain, [chain.liar.url])
    assert (alone.call(tx_id).status_code, alone.runs) == (200, 1)
    chain.liar.lie = None
    assert service.call(fund(service.payer, service.provider)).status_code == 200


def test_a_strangers_signature_is_not_taken_for_a_wallets_where_two_nodes_must_agree(
    chain: Chain,
) -> None:
    stranger = chain.client(ATTACKER, "stranger", [chain.net.rpc_url])

    def forge(service: Service) -> tuple[str, str]:
        """A transaction of the payer, a stranger's signature, and a node that calls it a wallet's."""
        tx_id = fund(service.payer, service.provider)
        signature = sign_request(stranger, tx_id, "POST", "/api/generate", b"")
        signed = signature.rpartition("0x")[2]

        def lie(asked: dict[str, Any], answer: dict[str, Any]) -> None:
            if asked["method"] == "eth_call" and signed in json.dumps(asked["params"]):
                answer.pop("error", None)
                answer["result"] = "0x" + word(2)

        chain.liar.lie = lie
        return tx_id, signature

    service = Service(chain, [chain.liar.url, chain.net.rpc_url], agree=2)
    tx_id, signature = forge(service)
    assert (service.call(tx_id, signature).status_code, service.runs) == (401, 0)
    assert service.call(tx_id).status_code == 200
    # With one node the stranger is served.
    alone = Service(chain, [chain.liar.url])
    assert alone.call(*forge(alone)).status_code == 200


def test_two_nodes_must_agree_only_where_two_are_named(chain: Chain) -> None:
    from agirails import ValidationError

    url = chain.net.rpc_url
    for urls in ([url], [url, url + "/v2/another-key"]):
        with pytest.raises(ValidationError) as caught:
            chain.client(PROVIDER, "provider", urls, agree=2)
        assert caught.value.code == "invalid_settings" and "agree" in str(caught.value)


def test_a_false_refusal_gives_back_nothing_that_was_served(chain: Chain) -> None:
    service = Service(chain, [chain.liar.url])
    tx_id = fund(service.payer, service.provider)
    words = b"Transaction expired"
    revert = "0x08c379a0" + word(32) + word(len(words)) + words.hex().ljust(64, "0")
    refused = []

    def lie(asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if asked["method"] == "eth_estimateGas" and tx_id[2:] in json.dumps(asked["params"]):
            answer.pop("result", None)
            answer["error"] = {
                "code": 3,
                "message": f"execution reverted: {words.decode()}",
                "data": revert,
            }
            refused.append(asked)

    chain.liar.lie = lie
    assert service.call(tx_id).status_code == 200
    until(lambda: len(refused) >= 3)
    assert service.payer.advanced.get_transaction(tx_id).state == State.COMMITTED
    chain.liar.lie = None
    until(lambda: service.payer.advanced.get_transaction(tx_id).state == State.DELIVERED)


# What stands in place of a kernel: whatever it is asked, it answers with one word. No
# kernel of AIP-14c knows a transaction that does not exist.
AIP_14C = "6237ef5c6bfb5df789df4b1707183342f5ab5c813a9b570f3283a32ddc6f9be1"


@pytest.mark.parametrize(
    ("word_", "words"),
    [
        (AIP_14C, "is not an ACTP kernel that this version knows"),
        ("07" * 32, "names its version 0x0707.*supports the generations 2026-05, f6, aip14c"),
    ],
    ids=["AIP-14c", "later"],
)
@pytest.mark.parametrize("party", [REQUESTER, PROVIDER])
def test_a_kernel_of_another_generation_takes_nobodys_money(
    chain: Chain, word_: str, words: str, party: int
) -> None:
    stand_in = "0x" + "e5" * 20
    chain.net.rpc("anvil_setCode", [stand_in, f"0x7f{word_}5f5260205ff3"])
    contracts = {**chain.net.profile["contracts"], "actpKernel": stand_in}
    profile = {**chain.net.profile, "contracts": contracts}
    key = chain.net.accounts[party].private_key

    def connect(**settings: Any) -> ACTPClient:
        return ACTPClient("testnet", private_key=key, network=profile, in_memory=True, **settings)

    with pytest.raises(NetworkError, match=words) as caught:
        connect()
    assert caught.value.code == "unsupported_kernel"
    # A node that fails has not answered: it is no kernel of any generation.
    chain.liar.limit = 0
    with pytest.raises(NetworkError) as caught:
        connect(rpc_url=chain.liar.url)
    assert caught.value.code == "rate_limited"


def test_a_paused_kernel_is_told_when_a_client_connects(tmp_path: Path) -> None:
    with Devnet() as net:
        key = net.accounts[PROVIDER].private_key

        def connect() -> ACTPClient:
            return ACTPClient(
                "testnet", private_key=key, network=net.profile, state_directory=tmp_path
            )

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            connect()
        net.pause()
        with pytest.warns(NetworkWarning, match="is paused"):
            connect()
