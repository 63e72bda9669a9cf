"""A service that is paid per call: it serves a call whose price is in escrow.

    PROVIDER_ADDRESS=0x… python examples/provider.py

The answer is made while the transaction is COMMITTED, because the money can still be given back
then. When the answer exists, the transaction is delivered and the answer is sent. An answer that
cannot be delivered is not sent, and its money is given back.
"""

import argparse
import os
import sys
import time
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from agirails import (
    ACTPClient,
    ACTPError,
    DeadlinePassedError,
    InvalidStateTransitionError,
    State,
    Transaction,
    TransactionNotFoundError,
    ValidationError,
    canonical_json,
    format_usdc,
)

PRICE_PER_CALL = 100_000  # 0.10 USDC, which has 6 decimals
HEADER = "X-AGIRAILS-TX-ID"


class Refused(Exception):
    """A call that is not served: the status and the JSON that tell the caller why."""

    def __init__(self, status: int, error: str, message: str, **facts: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": error, "message": message, **facts}


def generate_content(prompt: str) -> str:
    """The service itself: put yours here."""
    time.sleep(0.1)
    return f"Generated response for: {prompt}"


def verify_payment(client: ACTPClient, tx_id: str | None) -> Transaction:
    """The transaction that pays for this call, or Refused. Nothing is moved."""
    if not tx_id:
        raise Refused(402, "Payment Required", f"Include {HEADER} header with funded transaction")
    try:
        tx = client.advanced.get_transaction(tx_id)
        now = client.advanced.now()
    except ValidationError as error:
        raise Refused(400, "Invalid Transaction ID", str(error)) from error
    except TransactionNotFoundError as error:
        raise Refused(402, "Transaction Not Found", str(error)) from error
    except ACTPError as error:  # whether it is paid is unknown: our fault, not the caller's
        raise Refused(500, "Payment Verification Failed", str(error)) from error

    if tx.provider != client.address:
        raise Refused(403, "Invalid Transaction", "Transaction provider does not match this API")
    if tx.state not in (State.COMMITTED, State.IN_PROGRESS):
        message = f"Transaction is {tx.state.name}, expected COMMITTED or IN_PROGRESS"
        raise Refused(402, "Invalid Transaction State", message, currentState=tx.state.name)
    if tx.amount < PRICE_PER_CALL:
        required = format_usdc(PRICE_PER_CALL)
        message = f"Minimum payment is {required} USDC"
        provided = format_usdc(tx.amount)
        raise Refused(402, "Insufficient Payment", message, provided=provided, required=required)
    if tx.deadline < now:
        raise Refused(402, "Transaction Expired", "Transaction deadline has passed")
    return tx


def read_prompt() -> str:
    body = request.get_json(silent=True)
    prompt = body.get("prompt") if isinstance(body, dict) else None
    if not isinstance(prompt, str):
        raise Refused(400, "Invalid Request", 'Send a JSON object with a text "prompt"')
    return prompt


def answer(tx: Transaction, client: ACTPClient, prompt: str) -> tuple[str, dict[str, Any]]:
    """Runs the service; returns its result and the proof over prompt and result.

    What it fails to answer is given back in full.
    """
    try:
        result = generate_content(prompt)
        proof = client.proof_generator.generate_delivery_proof(
            tx_id=tx.id,
            deliverable=canonical_json({"prompt": prompt, "result": result}),
            metadata={"mimeType": "application/json"},
        )
    except Exception as error:
        refund(tx, client)
        message = "The service failed; the payment was refunded in full"
        raise Refused(500, "Service Failed", message, txId=tx.id) from error
    return result, proof


def deliver(tx: Transaction, client: ACTPClient, proof: dict[str, Any]) -> None:
    """Moves the transaction to DELIVERED, or raises Refused."""
    try:
        if tx.state == State.COMMITTED:
            client.advanced.transition_state(tx.id, State.IN_PROGRESS)
        client.advanced.transition_state(tx.id, State.DELIVERED, proof=proof)
    except InvalidStateTransitionError as error:
        message = "Transaction was used by another call meanwhile"
        raise Refused(409, "Transaction Used", message, txId=tx.id) from error
    except DeadlinePassedError as error:
        refund(tx, client)
        message = "The deadline passed before the delivery; the payment was refunded in full"
        raise Refused(402, "Transaction Expired", message, txId=tx.id) from error
    except ACTPError as error:  # delivered or not? The caller may ask again with the same id
        raise Refused(500, "Delivery Failed", str(error), txId=tx.id) from error


def refund(tx: Transaction, client: ACTPClient) -> None:
    try:
        client.advanced.transition_state(tx.id, State.CANCELLED)
    except ACTPError as error:
        message = f"The payment was not delivered and could not be refunded yet: {error}"
        raise Refused(500, "Refund Failed", message, txId=tx.id) from error


def create_app(client: ACTPClient) -> Flask:
    app = Flask(__name__)

    @app.post("/api/generate")
    def generate() -> ResponseReturnValue:
        tx = verify_payment(client, request.headers.get(HEADER))
        prompt = read_prompt()
        result, proof = answer(tx, client, prompt)
        deliver(tx, client, proof)
        payment = {
            "txId": tx.id,
            "amount": f"{format_usdc(tx.amount)} USDC",
            "status": State.DELIVERED.name,
            "proofHash": proof["contentHash"],
        }
        return jsonify({"success": True, "result": result, "payment": payment})

    @app.get("/api/pricing")
    def pricing() -> ResponseReturnValue:
        per_call = f"{format_usdc(PRICE_PER_CALL)} USDC"
        return jsonify(
            {
                "provider": client.address,
                "network": client.network.name,
                "pricing": {"perCall": per_call, "currency": "USDC", "decimals": 6},
                "payment": {"protocol": "AGIRAILS/ACTP", "header": HEADER},
            }
        )

    @app.errorhandler(Refused)
    def refuse(refused: Refused) -> ResponseReturnValue:
        return jsonify(refused.body), refused.status, {"Cache-Control": "no-store"}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A service that is paid per call.",
        epilog="Environment: PROVIDER_ADDRESS, or PROVIDER_PRIVATE_KEY, or both; ACTP_STATE_DIR.",
    )
    parser.add_argument(
        "--port", type=int, default=3000, help="the port on 127.0.0.1 (default: 3000)"
    )
    parser.add_argument(
        "--state-directory", help="the directory that contains .actp/ (default: this one)"
    )
    options = parser.parse_args()
    try:
        client = ACTPClient(
            mode="mock",
            requester_address=os.environ.get("PROVIDER_ADDRESS") or None,
            private_key=os.environ.get("PROVIDER_PRIVATE_KEY") or None,
            state_directory=options.state_directory,
        )
    except ACTPError as error:
        sys.exit(f"error: {error}\nhint: {error.hint} (PROVIDER_ADDRESS, PROVIDER_PRIVATE_KEY)")
    print(f"Pay-per-call API on http://127.0.0.1:{options.port}")
    print(f"Price:    {format_usdc(PRICE_PER_CALL)} USDC per call")
    print(f"Provider: {client.address}", flush=True)
    create_app(client).run(host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
