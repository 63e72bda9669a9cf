"""Hashes, proofs and signatures: the vectors that Rust reads too, and what only Python can pass."""

import json
import math
import time

import pytest
from support import PRICE, ROOT, ZERO_HASH, create, deliver, fund, new_address, new_hash, new_key

import agirails
from agirails import ACTPClient, ProofGenerator, State

EMPTY_HASH = "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def vectors(name: str):
    return json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text())


def named(cases: list[dict]) -> list:
    assert cases
    return [pytest.param(case, id=case.get("name", str(index))) for index, case in enumerate(cases)]


class TestCanonicalJson:
    @pytest.mark.parametrize("case", named(vectors("canonical_json")))
    def test_vectors_agree(self, case):
        value = json.loads(case["json"])
        assert agirails.canonical_json(value) == case["canonical"]
        assert agirails.result_hash(value) == case["hash"]

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_numbers_that_json_lacks_become_null(self, number):
        assert agirails.canonical_json([number, {"a": number}]) == '[null,{"a":null}]'

    def test_equal_values_have_equal_text(self):
        one = {"b": [1, 2.0, None], "a": {"y": "é", "x": True}}
        other = {"a": {"x": True, "y": "é"}, "b": (1.0, 2, None)}
        assert agirails.canonical_json(one) == agirails.canonical_json(other)

    def test_true_is_not_one(self):
        assert agirails.canonical_json([True, 1, False, 0]) == "[true,1,false,0]"

    @pytest.mark.parametrize(
        "value",
        [object(), {1, 2}, b"bytes", {1: "a"}, {"a": object()}, [1j], "\ud800", {"\udfff": 1}],
        ids=[
            "object",
            "set",
            "bytes",
            "number as key",
            "object inside",
            "complex",
            "lone surrogate",
            "surrogate key",
        ],
    )
    def test_what_json_cannot_carry_is_refused(self, value):
        with pytest.raises(agirails.ValidationError) as caught:
            agirails.canonical_json(value)
        assert caught.value.code == "invalid_json"
        assert caught.value.hint

    def test_a_value_that_contains_itself_is_refused(self):
        value: list = []
        value.append(value)
        with pytest.raises(agirails.ValidationError):
            agirails.canonical_json(value)
        assert agirails.canonical_json([[]]) == "[[]]"

    def test_a_value_nested_beyond_reason_is_refused_or_printed(self):
        value: list = []
        for _ in range(100_000):
            value = [value]
        try:
            assert agirails.canonical_json(value) == "[" * 100_001 + "]" * 100_001
        except agirails.ValidationError as error:
            assert error.code == "invalid_json"
        while value:  # taken apart level by level: dropping it at once would nest as deeply
            value = value[0]


class TestDeliveryProof:
    @pytest.mark.parametrize("case", named(vectors("proofs")["valid"]))
    def test_vectors_agree(self, case):
        generator = ProofGenerator()
        proof = generator.generate_delivery_proof(
            tx_id=case["txId"], deliverable=case["deliverable"]
        )
        assert (
            proof["contentHash"]
            == generator.hash_content(case["deliverable"])
            == case["contentHash"]
        )
        assert proof["metadata"]["size"] == case["size"]
        encoded = generator.encode_proof({**proof, "timestamp": case["timestamp"]})
        assert encoded == bytes.fromhex(case["encoded"][2:])
        decoded = {
            "txId": case["txId"],
            "contentHash": case["contentHash"],
            "timestamp": case["timestamp"],
        }
        assert generator.decode_proof(encoded) == generator.decode_proof(case["encoded"]) == decoded

    @pytest.mark.parametrize("case", named(vectors("proofs")["invalid"]))
    def test_another_length_or_an_impossible_time_is_refused(self, case):
        for encoded in (case["encoded"], bytes.fromhex(case["encoded"][2:])):
            with pytest.raises(agirails.ValidationError) as caught:
                ProofGenerator().decode_proof(encoded)
            assert (caught.value.code, caught.value.field) == ("invalid_proof", "proof")

    def test_a_proof_has_the_documented_keys(self):
        before, tx_id = int(time.time() * 1000), new_hash()
        proof = ProofGenerator().generate_delivery_proof(
            tx_id=tx_id,
            deliverable="grüß Gott",
            metadata={"mimeType": "text/plain", "size": 1, "n": [1, None]},
            delivery_url="https://example.com/1",
        )
        timestamp = proof.pop("timestamp")
        assert before <= timestamp <= int(time.time() * 1000)
        assert proof == {
            "type": "delivery.proof",
            "txId": tx_id,
            "contentHash": ProofGenerator().hash_content("grüß Gott".encode()),
            "deliveryUrl": "https://example.com/1",
            "metadata": {"mimeType": "text/plain", "size": 11, "n": [1, None]},
        }

    def test_the_default_mime_type_is_octet_stream(self):
        proof = ProofGenerator().generate_delivery_proof(tx_id=ZERO_HASH, deliverable=b"")
        assert proof["contentHash"] == EMPTY_HASH
        assert proof["deliveryUrl"] is None
        assert proof["metadata"] == {"size": 0, "mimeType": "application/octet-stream"}

    def test_the_callers_metadata_is_left_alone(self):
        metadata = {"size": "mine"}
        ProofGenerator().generate_delivery_proof(
            tx_id=ZERO_HASH, deliverable=b"", metadata=metadata
        )
        assert metadata == {"size": "mine"}

    @pytest.mark.parametrize("content", ["text", b"text"])
    def test_a_deliverable_is_verified_by_its_proof_or_hash(self, content):
        generator = ProofGenerator()
        proof = generator.generate_delivery_proof(tx_id=ZERO_HASH, deliverable="text")
        assert generator.verify_deliverable(proof, content)
        assert generator.verify_deliverable(proof["contentHash"], content)
        assert not generator.verify_deliverable(proof, "another text")
        assert not generator.verify_deliverable(proof["contentHash"], b"")

    def test_hashing_lets_other_threads_run_and_takes_a_hundred_megabytes(self):
        content = b"\xf0\x9f\x92\xb0" * 25_000_000
        proof = ProofGenerator().generate_delivery_proof(tx_id=ZERO_HASH, deliverable=content)
        assert proof["metadata"]["size"] == 100_000_000
        assert ProofGenerator().hash_content(content.decode()) == proof["contentHash"]


class TestSignedDelivery:
    @pytest.mark.parametrize("case", named(vectors("signed_delivery")["valid"]))
    def test_the_signer_is_recovered(self, case):
        signed = {**case["message"], "signature": case["signature"]}
        assert agirails.recover_delivery_signer(signed, case["kernel"]) == case["address"]
        assert agirails.verify_delivery(signed, case["kernel"]) is None

    @pytest.mark.parametrize("case", named(vectors("signed_delivery")["foreign"]))
    def test_what_other_sdks_signed_is_verified_as_they_wrote_it(self, case):
        signed, kernel = case["json"], case["kernel"]
        assert agirails.recover_delivery_signer(signed, kernel) == case["address"]
        assert agirails.verify_delivery(signed, kernel) is None
        for field in ("provider", "consumer"):
            with pytest.raises(agirails.SignatureVerificationError):
                agirails.verify_delivery({**signed, field: signed[field][:-1] + "9"}, kernel)

    @pytest.mark.parametrize("case", named(vectors("signed_delivery")["invalid"]))
    def test_anything_else_is_refused(self, case):
        with pytest.raises(agirails.ACTPError) as caught:
            agirails.verify_delivery(case["json"], case["kernel"])
        assert caught.value.code == case["code"]
        kind = (
            agirails.SignatureVerificationError
            if case["code"] == "invalid_signature"
            else agirails.ValidationError
        )
        assert type(caught.value) is kind
        if case["field"]:
            assert caught.value.field == case["field"]

    def provider_and_delivery(self, tmp_path, key=None):
        consumer = ACTPClient(requester_address=new_address(), state_directory=tmp_path)
        provider = ACTPClient(private_key=key or new_key(), state_directory=tmp_path)
        tx_id = fund(consumer, provider.address)
        deliver(provider, tx_id)
        return consumer, provider, tx_id

    def test_a_provider_signs_what_it_delivered(self, tmp_path):
        consumer, provider, tx_id = self.provider_and_delivery(tmp_path)
        result = {"answer": 42, "text": "é"}
        signed = provider.advanced.sign_delivery(
            tx_id, result=result, result_cid="bafy", delivered_at=1_780_000_000, nonce=3
        )
        signature = signed.pop("signature")
        chain = provider.chain_id
        assert signed == {
            "type": "agirails.delivery.v1",
            "version": "1.0.0",
            "txId": tx_id,
            "provider": f"did:ethr:{chain}:{provider.address.lower()}",
            "consumer": f"did:ethr:{chain}:{consumer.address.lower()}",
            "resultCID": "bafy",
            "resultHash": agirails.result_hash(result),
            "easAttestationUID": ZERO_HASH,
            "deliveredAt": 1_780_000_000,
            "chainId": chain,
            "nonce": 3,
        }
        kernel = str(provider.network.kernel)
        signed["signature"] = signature
        assert agirails.recover_delivery_signer(signed, kernel) == provider.address
        assert agirails.verify_delivery(json.loads(json.dumps(signed)), kernel) is None

    def test_a_result_hash_is_taken_as_it_is(self, tmp_path):
        _, provider, tx_id = self.provider_and_delivery(tmp_path)
        result_hash = new_hash()
        signed = provider.advanced.sign_delivery(tx_id, result_hash=result_hash)
        assert signed["resultHash"] == result_hash
        assert abs(signed["deliveredAt"] - provider.advanced.now()) < 3600

    def test_a_result_of_none_is_a_result(self, tmp_path):
        """JSON null can be what was delivered; leaving both out can not."""
        _, provider, tx_id = self.provider_and_delivery(tmp_path)
        with pytest.raises(agirails.ValidationError):
            provider.advanced.sign_delivery(tx_id, result=1, result_hash=new_hash())

    def test_a_changed_message_has_another_signer(self, tmp_path):
        _, provider, tx_id = self.provider_and_delivery(tmp_path)
        signed = provider.advanced.sign_delivery(tx_id, result="a")
        changed = {**signed, "nonce": signed["nonce"] + 1}
        kernel = str(provider.network.kernel)
        assert agirails.recover_delivery_signer(changed, kernel) != provider.address
        with pytest.raises(agirails.SignatureVerificationError):
            agirails.verify_delivery(changed, kernel)

    def test_signing_needs_the_providers_key(self, tmp_path):
        consumer, provider, tx_id = self.provider_and_delivery(tmp_path)
        keyless = ACTPClient(requester_address=provider.address, state_directory=tmp_path)
        with pytest.raises(agirails.ValidationError) as caught:
            keyless.advanced.sign_delivery(tx_id, result="a")
        assert caught.value.code == "key_missing"
        other = ACTPClient(private_key=new_key(), state_directory=tmp_path)
        with pytest.raises(agirails.UnauthorizedError):
            other.advanced.sign_delivery(tx_id, result="a")


class TestResolution:
    @pytest.mark.parametrize("case", named(vectors("resolutions")["valid"]))
    def test_vectors_agree(self, case):
        encoded = agirails.encode_resolution(
            requester_amount=case["requesterAmount"],
            provider_amount=case["providerAmount"],
            provider_at_fault=case["providerAtFault"],
            mediator=case["mediator"],
            mediator_amount=case["mediatorAmount"] or 0,
        )
        assert encoded == bytes.fromhex(case["reencoded"][2:])

    @pytest.mark.parametrize("case", named(vectors("resolutions")["refused"]))
    def test_anything_else_is_refused_in_the_contracts_words(self, tmp_path, case):
        consumer, provider = (
            ACTPClient(requester_address=new_address(), state_directory=tmp_path) for _ in range(2)
        )
        admin = ACTPClient(requester_address=consumer.network.admin, state_directory=tmp_path)
        tx_id = fund(consumer, provider.address)
        deliver(provider, tx_id)
        consumer.advanced.transition_state(tx_id, State.DISPUTED)
        with pytest.raises(agirails.ValidationError) as caught:
            admin.advanced.transition_state(tx_id, State.SETTLED, case["encoded"])
        assert caught.value.refusal == case["words"]
        assert consumer.advanced.get_transaction(tx_id).state is State.DISPUTED


class TestTexts:
    @pytest.mark.parametrize("case", named(vectors("usdc")["valid"]))
    def test_amounts_are_read_and_printed_exactly(self, case):
        assert agirails.parse_usdc(case["text"]) == case["units"]
        assert agirails.format_usdc(case["units"]) == case["printed"]

    @pytest.mark.parametrize("text", vectors("usdc")["invalid"])
    def test_other_amounts_are_refused(self, text):
        with pytest.raises(agirails.ValidationError) as caught:
            agirails.parse_usdc(text)
        assert (caught.value.code, caught.value.retry) == ("invalid_amount", "never")

    @pytest.mark.parametrize("case", named(vectors("service_types")["valid"]))
    def test_service_types_are_hashed(self, case):
        assert agirails.service_type_hash(case["serviceType"]) == case["hash"]

    @pytest.mark.parametrize("case", named(vectors("service_types")["refused"]))
    def test_other_service_types_are_refused_in_the_contracts_words(self, case):
        with pytest.raises(agirails.ValidationError) as caught:
            agirails.service_type_hash(case["serviceType"])
        assert caught.value.refusal == case["words"]

    @pytest.mark.parametrize("case", named(vectors("did")["valid"]))
    def test_dids_are_read(self, case):
        client = ACTPClient(
            requester_address=case["address"] if int(case["address"], 16) else new_address(),
            in_memory=True,
        )
        client.registry.register_agent("https://api.example.com", ["ai-completion"])
        found = client.registry.get_agent_by_did(case["text"])
        here = case["chainId"] == client.chain_id
        assert (found.did if found else None) == (case["printed"] if here else None)

    @pytest.mark.parametrize("case", named(vectors("did")["invalid"]))
    def test_other_dids_are_refused(self, case):
        client = ACTPClient(requester_address=new_address(), in_memory=True)
        with pytest.raises(agirails.ValidationError) as caught:
            client.registry.get_agent_by_did(case["text"])
        assert caught.value.code in ("invalid_did", "invalid_did_length")


REACHABLE_IDS = [
    case
    for case in vectors("transaction_ids")
    if 50_000 <= case["amount"] <= 10**15
    and case["nonce"] < 10
    and int(case["provider"], 16)
    and case["requester"] != case["provider"]
]


@pytest.mark.parametrize("case", named(REACHABLE_IDS))
def test_transaction_ids_are_the_contracts(case):
    client = ACTPClient(requester_address=case["requester"], in_memory=True)
    for _ in range(case["nonce"]):
        create(client, new_address(), PRICE)
    assert (
        create(client, case["provider"], case["amount"], metadata=case["serviceHash"]) == case["id"]
    )
