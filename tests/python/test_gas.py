"""What the guide says that gas it takes is what it takes."""

import re

import pytest
from support import HOUR, ROOT, USDC

from agirails import State
from agirails.testing import Devnet

GUIDE = (ROOT / "docs" / "guide" / "operating.md").read_text(encoding="utf-8")
ROWS = {
    what.replace("`", ""): int(gas.replace(",", ""))
    for what, gas in re.findall(r"^\| (?:the|whoever) ?\w* \| (.+?) \| ([\d,]+) \|$", GUIDE, re.M)
}


def used(net, since: int) -> list[int]:
    """The gas of each chain transaction in the blocks after this one."""
    last = int(net.rpc("eth_blockNumber"), 16)
    blocks = [
        net.rpc("eth_getBlockByNumber", [hex(number), False])
        for number in range(since + 1, last + 1)
    ]
    receipts = [
        net.rpc("eth_getTransactionReceipt", [found])
        for block in blocks
        for found in block["transactions"]
    ]
    return [int(receipt["gasUsed"], 16) for receipt in receipts]


def life(net) -> dict[str, int]:
    """A transaction of 1 USDC from its creation to its settlement."""
    consumer, provider = net.client(0), net.client(1)
    gas: dict[str, int] = {}

    def measured(*names: str, call):
        block = int(net.rpc("eth_blockNumber"), 16)
        result = call()
        gas.update(zip(names, used(net, block), strict=True))
        return result

    tx_id = measured(
        "createTransaction",
        call=lambda: consumer.advanced.create_transaction(
            provider=provider.address,
            amount=USDC,
            deadline=net.now() + 2 * HOUR,
            dispute_window=HOUR,
        ),
    )
    measured(
        "approve of the vault", "linkEscrow", call=lambda: consumer.advanced.link_escrow(tx_id)
    )
    move = provider.advanced.transition_state
    measured("to IN_PROGRESS", call=lambda: move(tx_id, State.IN_PROGRESS))
    proof = provider.proof_generator.generate_delivery_proof(tx_id=tx_id, deliverable="x")
    measured("to DELIVERED", call=lambda: move(tx_id, State.DELIVERED, proof))
    net.advance_time(HOUR + 60)
    measured("to SETTLED", call=lambda: move(tx_id, State.SETTLED))
    return gas


@pytest.mark.filterwarnings("ignore::agirails.RawPrivateKeyWarning")
def test_the_guide_says_what_gas_a_payment_takes():
    with Devnet() as net:
        first, second = life(net), life(net)
    for what, gas in second.items():
        print(f"{what:22} {gas:>9,} (the first time {first[what]:,})")
    assert set(ROWS) == set(second)
    for what, gas in second.items():
        assert ROWS[what] == pytest.approx(gas, rel=0.1), what
        assert first[what] - gas < 31_000, what
    sides = {"payer": "0.016", "provider": "0.008"}
    for side, names in (("payer", list(ROWS)[:3]), ("provider", list(ROWS)[3:])):
        total = sum(ROWS[name] for name in names)
        assert f"the {side}'s {total:,} cost {sides[side]}" in GUIDE
        assert float(sides[side]) == round(total * 0.01e-9 * 3_000, 3)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    payer, provider = re.search(
        r"\n(\d+) thousand of it the payer and (\d+) thousand", readme
    ).groups()
    assert int(payer) == pytest.approx(sum(list(second.values())[:3]) / 1_000, rel=0.1)
    provided = [sum(list(gas.values())[3:]) / 1_000 for gas in (first, second)]
    assert min(provided) * 0.9 < int(provider) < max(provided) * 1.1
