"""Calls a service that is paid per call, checks what it delivered, and settles.

CONSUMER_ADDRESS=0x… python examples/consumer.py "Write a haiku about AI agents"
"""

import argparse
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

from agirails import ACTPClient, ACTPError, State, canonical_json, format_usdc, parse_usdc

HOUR = 3600


class CallFailed(Exception):
    """The call did not succeed; the message says what became of the money and what to do."""


def fetch(url: str, body: object = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """GETs, or POSTs a JSON body; returns the JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        request = urllib.request.Request(url, data, sent)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            raise CallFailed(f"{url} answered {error.code}: {explain(error.read())}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CallFailed(
            f"no answer from {url} ({reason})\n"
            "hint: is the provider running there? Start it: python examples/provider.py"
        ) from error
    except ValueError as error:
        raise CallFailed(
            f"{url} must be a URL that answers with JSON\nhint: check --url"
        ) from error
    if not isinstance(answer, dict):
        raise CallFailed(f"the answer of {url} must be a JSON object\nhint: check --url")
    return answer


def explain(body: bytes) -> str:
    """What a rejection says, if it says anything."""
    try:
        refusal = json.loads(body)
        return f"{refusal['error']}: {refusal['message']}"
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def discover(api_url: str, max_price: int) -> tuple[str, int]:
    """The provider's address and the price, from the service's price page; at most max_price."""
    page = fetch(f"{api_url}/api/pricing")
    try:
        provider, per_call = str(page["provider"]), str(page["pricing"]["perCall"])
    except (KeyError, TypeError) as error:
        raise CallFailed(f"{api_url}/api/pricing names no provider and price") from error
    price = parse_usdc(per_call.removesuffix(" USDC"))
    if price > max_price:
        raise CallFailed(f"the price is {per_call}, more than --max-price {format_usdc(max_price)}")
    return provider, price


def pay(client: ACTPClient, provider: str, price: int) -> str:
    """Puts the price into escrow for the provider; returns the transaction's id."""
    print("Creating payment transaction...")
    tx_id = client.advanced.create_transaction(
        requester=client.address,
        provider=provider,
        amount=price,
        deadline=client.advanced.now() + HOUR,
        dispute_window=HOUR,
        metadata="0x",
    )
    print(f"Transaction created: {tx_id}")
    if price < 1_000_000:
        print("Note: only the provider can refund an escrow below 1 USDC")
    escrow_id = client.advanced.link_escrow(tx_id)
    print(f"Transaction funded: {format_usdc(price)} USDC in escrow {escrow_id}")
    return tx_id


def call(api_url: str, tx_id: str, prompt: str) -> tuple[str, str]:
    """Calls the service; returns its result and the hash of its delivery proof."""
    print("Calling API...")
    headers = {"X-AGIRAILS-TX-ID": tx_id}
    try:
        data = fetch(f"{api_url}/api/generate", {"prompt": prompt}, headers)
        return str(data["result"]), str(data["payment"]["proofHash"])
    except (KeyError, TypeError) as error:
        raise CallFailed(
            f"the answer must contain a result and a proof\n{advice(tx_id)}"
        ) from error
    except CallFailed as error:
        raise CallFailed(f"{error}\n{advice(tx_id)}") from error


def advice(tx_id: str) -> str:
    return f"hint: the payment may still be in escrow; repeat the call with --transaction {tx_id}"


def accept(client: ACTPClient, tx_id: str, prompt: str, result: str, proof_hash: str) -> None:
    """Settles if the delivered proof matches the answer."""
    deliverable = canonical_json({"prompt": prompt, "result": result})
    if not client.proof_generator.verify_deliverable(proof_hash, deliverable):
        raise CallFailed(
            f"the answer does not match its proof {proof_hash}; not settled\n"
            f"hint: dispute transaction {tx_id} before its dispute window ends"
        )
    client.advanced.transition_state(tx_id, State.SETTLED)
    print(f"Proof {proof_hash} matches the answer: settled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Calls a service that is paid per call, and settles.",
        epilog="Environment: CONSUMER_ADDRESS, or CONSUMER_PRIVATE_KEY, or both; ACTP_STATE_DIR.",
    )
    parser.add_argument("prompt", nargs="?", default="Write a haiku about AI agents")
    parser.add_argument(
        "--port", type=int, default=3000, help="the provider's port on 127.0.0.1 (default: 3000)"
    )
    parser.add_argument("--url", help="the URL of a provider on another machine")
    parser.add_argument("--max-price", default="1.00", help="USDC (default: 1.00)")
    parser.add_argument("--transaction", help="repeat the call that this transaction paid for")
    parser.add_argument(
        "--state-directory", help="the directory that contains .actp/ (default: this one)"
    )
    options = parser.parse_args()
    api_url = options.url or f"http://127.0.0.1:{options.port}"
    try:
        client = ACTPClient(
            mode="mock",
            requester_address=os.environ.get("CONSUMER_ADDRESS") or None,
            private_key=os.environ.get("CONSUMER_PRIVATE_KEY") or None,
            state_directory=options.state_directory,
        )
        tx_id = options.transaction
        if tx_id is None:
            provider, price = discover(api_url, parse_usdc(options.max_price))
            tx_id = pay(client, provider, price)
        result, proof_hash = call(api_url, tx_id, options.prompt)
        accept(client, tx_id, options.prompt, result, proof_hash)
    except ACTPError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")
    except CallFailed as error:
        sys.exit(f"error: {error}")
    print(f"Result: {result}")


if __name__ == "__main__":
    main()
