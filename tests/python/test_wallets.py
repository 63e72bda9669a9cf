"""Which key a client signs with, and how a careful consumer releases."""

import asyncio
import base64
import json

import pytest
from support import create, deliver, fund, new_address, new_key

import agirails
from agirails import ACTPClient, ProofGenerator, State

# The definition's test vector (Web3 Secret Storage, PBKDF2-SHA-256).
PASSWORD = "testpassword"
OWNER = "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b"
KEYSTORE = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}


@pytest.fixture
def keystore(tmp_path):
    file = tmp_path / ".actp" / "keystore.json"
    file.parent.mkdir()
    file.write_text(json.dumps(KEYSTORE))
    return file


class TestKeys:
    def test_a_keystore_makes_the_client(self, keystore):
        client = ACTPClient(keystore=keystore, keystore_password=PASSWORD, in_memory=True)
        assert client.address == OWNER
        consumer = ACTPClient(private_key=new_key(), state_directory=keystore.parents[1])
        provider = ACTPClient(
            keystore=str(keystore),
            keystore_password=PASSWORD,
            state_directory=keystore.parents[1],
        )
        message = provider.advanced.sign_delivery(create(consumer, OWNER), result=1)
        assert agirails.recover_delivery_signer(message, consumer.network.kernel) == OWNER

    def test_another_password_opens_nothing(self, keystore):
        with pytest.raises(agirails.ValidationError, match="password") as caught:
            ACTPClient(keystore=keystore, keystore_password="secret guess", in_memory=True)
        assert caught.value.code == "wrong_password"
        assert "guess" not in str(caught.value)

    def test_an_awaitable_client_opens_it_too(self, keystore):
        client = asyncio.run(
            ACTPClient.create(keystore=keystore, keystore_password=PASSWORD, in_memory=True)
        )
        assert client.address == OWNER

    @pytest.mark.parametrize("found", ["ACTP_PRIVATE_KEY", "ACTP_KEYSTORE_BASE64", "keystore.json"])
    def test_without_address_the_environment_tells_who_it_is(self, monkeypatch, keystore, found):
        key = new_key()
        expected = OWNER
        if found == "ACTP_PRIVATE_KEY":
            expected = ACTPClient(private_key=key, in_memory=True).address
            monkeypatch.setenv(found, key)
        else:
            monkeypatch.setenv("ACTP_KEY_PASSWORD", PASSWORD)
        if found == "ACTP_KEYSTORE_BASE64":
            monkeypatch.setenv(found, base64.b64encode(keystore.read_bytes()).decode())
            keystore.unlink()
        assert ACTPClient(state_directory=keystore.parents[1]).address == expected

    def test_a_mock_client_with_an_address_asks_the_environment_for_nothing(
        self, monkeypatch, keystore
    ):
        monkeypatch.setenv("ACTP_PRIVATE_KEY", "no key at all")
        address = new_address()
        client = ACTPClient(requester_address=address, state_directory=keystore.parents[1])
        assert client.address == address

    def test_mainnet_takes_no_key_in_the_clear(self, monkeypatch):
        with pytest.raises(agirails.ValidationError) as caught:
            ACTPClient("mainnet", private_key=new_key(), rpc_url="http://127.0.0.1:9")
        assert caught.value.code == "key_not_allowed"
        assert "keystore" in caught.value.hint
        monkeypatch.setenv("ACTP_PRIVATE_KEY", new_key())
        with pytest.raises(agirails.ValidationError) as caught:
            ACTPClient(mode="mainnet", rpc_url="http://127.0.0.1:9")
        assert caught.value.code == "key_not_allowed"

    def test_a_mock_client_with_a_key_in_the_clear_warns_of_nothing(self):
        # Warnings are errors here.
        ACTPClient(private_key=new_key(), in_memory=True)
        assert issubclass(agirails.RawPrivateKeyWarning, UserWarning)


@pytest.fixture
def delivered(tmp_path):
    """Consumer, provider with a key, and a transaction delivered with a proof."""
    consumer = ACTPClient(requester_address=new_address(), state_directory=tmp_path)
    provider = ACTPClient(private_key=new_key(), state_directory=tmp_path)
    tx_id = fund(consumer, provider.address)
    proof = ProofGenerator().generate_delivery_proof(tx_id=tx_id, deliverable="a haiku")
    deliver(provider, tx_id, proof)
    return consumer, provider, tx_id, proof


class TestRelease:
    def test_what_was_proven_is_paid(self, delivered):
        consumer, provider, tx_id, proof = delivered
        result = {"text": "a haiku"}
        signed = provider.advanced.sign_delivery(tx_id, result=result)
        consumer.advanced.release(
            tx_id, deliverable="a haiku", proof=proof, signed=signed, result=result
        )
        assert consumer.advanced.get_transaction(tx_id).state is State.SETTLED

    def test_the_proof_that_was_kept_is_enough(self, delivered):
        consumer, _, tx_id, _ = delivered
        consumer.advanced.release(tx_id, deliverable=b"a haiku")
        assert consumer.advanced.get_transaction(tx_id).state is State.SETTLED

    def test_an_awaitable_client_releases_too(self, delivered, tmp_path):
        consumer, provider, tx_id, _ = delivered
        signed = provider.advanced.sign_delivery(tx_id, result=None, result_hash="0x" + "11" * 32)

        async def release():
            client = await ACTPClient.create(
                requester_address=consumer.address, state_directory=tmp_path
            )
            with pytest.raises(agirails.ValidationError) as caught:
                await client.advanced.release(tx_id, signed=signed, result=1)
            assert (caught.value.code, caught.value.field) == ("proof_mismatch", "resultHash")
            await client.advanced.release(tx_id, signed=signed)

        asyncio.run(release())
        assert consumer.advanced.get_transaction(tx_id).state is State.SETTLED

    def test_what_is_not_proven_is_not_paid(self, delivered):
        consumer, provider, tx_id, proof = delivered
        signed = provider.advanced.sign_delivery(tx_id, result=1)
        stranger = ACTPClient(private_key=new_key(), in_memory=True)
        cases = [
            ({}, "invalid_settings", "verification"),
            ({"deliverable": "a haikU"}, "proof_mismatch", "contentHash"),
            ({"proof": proof}, "invalid_settings", "deliverable"),
            ({"result": 1}, "invalid_settings", "signed"),
            ({"signed": signed, "result": 2}, "proof_mismatch", "resultHash"),
            ({"signed": {**signed, "nonce": 9}}, "invalid_signature", "signature"),
            (
                {"signed": {**signed, "consumer": f"did:ethr:31337:{stranger.address.lower()}"}},
                "proof_mismatch",
                "consumer",
            ),
            ({"attestation": "0x" + "01" * 32}, "network_unavailable", None),
            ({"signed": "no message"}, "invalid_proof", "delivery message"),
            ({"attestation": "0x01"}, "invalid_bytes", "attestation"),
            ({"deliverable": 7}, "invalid_bytes", "deliverable"),
        ]
        for evidence, code, field in cases:
            with pytest.raises(agirails.ACTPError) as caught:
                consumer.advanced.release(tx_id, **evidence)
            assert (caught.value.code, caught.value.field) == (code, field), evidence
            assert caught.value.hint
        assert consumer.advanced.get_transaction(tx_id).state is State.DELIVERED
        with pytest.raises(agirails.UnauthorizedError):
            provider.advanced.release(tx_id, signed=signed)
