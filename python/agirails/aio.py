"""The awaitable client: the same verbs with the same arguments and errors, as coroutines.

What moves money goes on to its end also when the awaiting task is cancelled: read the
transaction to learn how it ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ._agirails import _connect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal
    from os import PathLike

    from ._agirails import (
        ACTPClient,
        AgentProfile,
        Dispute,
        Event,
        Network,
        ProofGenerator,
        Transaction,
    )
    from .types import Address, State, Usdc


class AsyncKernel:
    """The protocol's verbs; see Kernel for what each of them does."""

    __slots__ = ("_verbs",)

    def __init__(self, verbs: Any) -> None:
        self._verbs = verbs

    async def create_transaction(
        self,
        *,
        provider: str,
        amount: int,
        deadline: int,
        dispute_window: int = 172800,
        requester: str | None = None,
        metadata: str | bytes | None = None,
        agent_id: int = 0,
        requester_agent_id: int = 0,
        agreement_hash: str | bytes | None = None,
    ) -> str:
        """Creates a transaction with this client as its requester. No money moves yet."""
        return await self._verbs.create_transaction(
            provider=provider,
            amount=amount,
            deadline=deadline,
            dispute_window=dispute_window,
            requester=requester,
            metadata=metadata,
            agent_id=agent_id,
            requester_agent_id=requester_agent_id,
            agreement_hash=agreement_hash,
        )

    async def link_escrow(
        self,
        tx_id: str,
        *,
        escrow_contract: str | None = None,
        escrow_id: str | bytes | None = None,
    ) -> str:
        """Pays the transaction's amount into escrow; returns the escrow's id."""
        return await self._verbs.link_escrow(
            tx_id, escrow_contract=escrow_contract, escrow_id=escrow_id
        )

    async def get_transaction(self, tx_id: str) -> Transaction:
        """Reads a transaction."""
        return await self._verbs.get_transaction(tx_id)

    async def transition_state(
        self,
        tx_id: str,
        new_state: State | int | str,
        proof: bytes | bytearray | memoryview | str | dict[str, Any] | None = None,
    ) -> None:
        """Moves a transaction on; a delivery takes a delivery proof."""
        await self._verbs.transition_state(tx_id, new_state, proof)

    async def accept_quote(self, tx_id: str, amount: int) -> None:
        """Accepts the provider's quote: the transaction's amount is replaced."""
        await self._verbs.accept_quote(tx_id, amount)

    async def release_milestone(self, tx_id: str, amount: int) -> None:
        """Pays part of an IN_PROGRESS transaction to its provider early."""
        await self._verbs.release_milestone(tx_id, amount)

    async def release_escrow(self, tx_id: str) -> None:
        """Pays out what a settled transaction still holds, which is nothing."""
        await self._verbs.release_escrow(tx_id)

    async def recover_stalled(self, tx_id: str) -> None:
        """Returns the money of abandoned work to its requester, in full."""
        await self._verbs.recover_stalled(tx_id)

    async def anchor_attestation(self, tx_id: str, uid: str | bytes) -> None:
        """Records an attestation on a settled transaction of this client."""
        await self._verbs.anchor_attestation(tx_id, uid)

    async def get_delivery_proof(self, tx_id: str) -> dict[str, Any] | None:
        """The proof with which a transaction was delivered, if one was given here."""
        return await self._verbs.get_delivery_proof(tx_id)

    async def get_escrow(self, tx_id: str) -> dict[str, Any]:
        """The vault's record of a transaction's escrow."""
        return await self._verbs.get_escrow(tx_id)

    async def get_transactions(
        self,
        party: str | None = None,
        *,
        role: str | None = None,
        state: State | int | str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Transaction]:
        """A party's transactions, newest first."""
        return await self._verbs.get_transactions(
            party, role=role, state=state, limit=limit, after=after
        )

    async def get_events(self, after: int = 0, limit: int = 1000) -> list[Event]:
        """What the kernel announced, oldest first."""
        return await self._verbs.get_events(after, limit)

    async def get_balance(self, address: str | None = None) -> int:
        """How much USDC an account holds, in base units."""
        return await self._verbs.get_balance(address)

    async def get_allowance(self, address: str | None = None) -> int:
        """How much USDC the vault may take from an account, in base units."""
        return await self._verbs.get_allowance(address)

    async def approve(self, amount: int) -> None:
        """Lets the vault take this much of this client's USDC, in place of what it might before."""
        await self._verbs.approve(amount)

    async def sign_delivery(
        self,
        tx_id: str,
        *,
        result: Any = None,
        result_hash: str | bytes | None = None,
        result_cid: str = "",
        eas_attestation_uid: str | bytes | None = None,
        delivered_at: int | None = None,
        nonce: int = 1,
    ) -> dict[str, Any]:
        """Signs a statement about a delivery of this client, the transaction's provider."""
        return await self._verbs.sign_delivery(
            tx_id,
            result=result,
            result_hash=result_hash,
            result_cid=result_cid,
            eas_attestation_uid=eas_attestation_uid,
            delivered_at=delivered_at,
            nonce=nonce,
        )

    async def attest_delivery(
        self,
        tx_id: str,
        *,
        result: Any = None,
        result_hash: str | bytes | None = None,
        result_cid: str = "",
        delivered_at: int | None = None,
    ) -> str:
        """Attests a delivery of this client, the transaction's provider, on chain."""
        return await self._verbs.attest_delivery(
            tx_id,
            result=result,
            result_hash=result_hash,
            result_cid=result_cid,
            delivered_at=delivered_at,
        )

    async def release(
        self,
        tx_id: str,
        *,
        deliverable: str | bytes | bytearray | memoryview | None = None,
        proof: dict[str, Any] | None = None,
        signed: dict[str, Any] | None = None,
        result: Any = None,
        attestation: str | bytes | None = None,
    ) -> None:
        """Accepts a delivery and pays for it, if everything that is given proves it."""
        await self._verbs.release(
            tx_id,
            deliverable=deliverable,
            proof=proof,
            signed=signed,
            result=result,
            attestation=attestation,
        )

    async def now(self) -> int:
        """The kernel's clock, Unix seconds."""
        return await self._verbs.now()

    def __repr__(self) -> str:
        return f"<Async{repr(self._verbs)[1:]}"


class AsyncRegistry:
    """Where providers advertise their services; see Registry for what each method does."""

    __slots__ = ("_verbs",)

    def __init__(self, verbs: Any) -> None:
        self._verbs = verbs

    async def register_agent(self, endpoint: str, services: Sequence[str | dict[str, Any]]) -> None:
        """Registers this client's address."""
        await self._verbs.register_agent(endpoint, services)

    async def update_endpoint(self, endpoint: str) -> None:
        """Changes the URL at which this agent is reached."""
        await self._verbs.update_endpoint(endpoint)

    async def add_service_type(self, service_type: str) -> None:
        """Offers one more service."""
        await self._verbs.add_service_type(service_type)

    async def remove_service_type(self, service_type: str) -> None:
        """Offers a service no longer."""
        await self._verbs.remove_service_type(service_type)

    async def set_active_status(self, active: bool) -> None:
        """Shows this agent in queries, or hides it."""
        await self._verbs.set_active_status(active)

    async def get_agent(self, address: str) -> AgentProfile | None:
        """An agent's profile; None where the address never registered."""
        return await self._verbs.get_agent(address)

    async def get_agent_by_did(self, did: str) -> AgentProfile | None:
        """An agent's profile by its DID; None also for an agent of another chain."""
        return await self._verbs.get_agent_by_did(did)

    async def get_service_descriptors(self, address: str) -> list[dict[str, Any]]:
        """What an agent offers, in its own words."""
        return await self._verbs.get_service_descriptors(address)

    async def supports_service(self, address: str, service_type: str) -> bool:
        """Whether an agent offers a service."""
        return await self._verbs.supports_service(address, service_type)

    async def get_agents_by_service(
        self, service_type: str, *, min_reputation: int = 0, offset: int = 0, limit: int = 100
    ) -> list[AgentProfile]:
        """Active agents that offer a service, in the order of their registration."""
        return await self._verbs.get_agents_by_service(
            service_type, min_reputation=min_reputation, offset=offset, limit=limit
        )

    def __repr__(self) -> str:
        return f"<Async{repr(self._verbs)[1:]}"


class AsyncDisputes:
    """Disputes that bonds decide; see Disputes for what each method does."""

    __slots__ = ("_verbs",)

    def __init__(self, verbs: Any) -> None:
        self._verbs = verbs

    async def open(self, tx_id: str) -> str:
        """Opens the dispute about a transaction that is DISPUTED; returns the dispute's number."""
        return await self._verbs.open(tx_id)

    async def propose(
        self,
        tx_id: str,
        ruling: Literal["provider", "requester"] | str | tuple[str, int],
        max_bond: str | Decimal | Usdc,
    ) -> Usdc:
        """Proposes the first ruling; returns the bond that was paid."""
        return await self._verbs.propose(tx_id, ruling, max_bond)

    async def challenge(
        self,
        tx_id: str,
        ruling: Literal["provider", "requester"] | str | tuple[str, int],
        max_bond: str | Decimal | Usdc,
    ) -> Usdc:
        """Puts another ruling in the place of the one that stands; returns the bond."""
        return await self._verbs.challenge(tx_id, ruling, max_bond)

    async def finalize(self, tx_id: str) -> Usdc:
        """Carries out the ruling that nobody challenged in time; returns what was paid."""
        return await self._verbs.finalize(tx_id)

    async def claim_refund(self, tx_id: str) -> Usdc:
        """Takes back this client's part of the bonds after a split."""
        return await self._verbs.claim_refund(tx_id)

    async def force_resolve_stale(self, tx_id: str) -> None:
        """Ends a dispute that nobody ended for 30 days, with half for each."""
        await self._verbs.force_resolve_stale(tx_id)

    async def sync_external_resolution(self, tx_id: str) -> None:
        """Ends a dispute that the kernel's admin has resolved."""
        await self._verbs.sync_external_resolution(tx_id)

    async def get(self, tx_id: str) -> Dispute | None:
        """Where a dispute stands; None where none was opened."""
        return await self._verbs.get(tx_id)

    def __repr__(self) -> str:
        return f"<Async{repr(self._verbs)[1:]}"


class AsyncMock:
    """What only mode mock can do; see Mock for what each method does."""

    __slots__ = ("_verbs",)

    def __init__(self, verbs: Any) -> None:
        self._verbs = verbs

    async def advance_time(self, seconds: int) -> int:
        """Moves the kernel's clock ahead; returns the new time."""
        return await self._verbs.advance_time(seconds)

    async def mint(self, address: str, amount: int) -> None:
        """Makes test USDC out of nothing."""
        await self._verbs.mint(address, amount)

    async def pause(self) -> None:
        """Pauses the protocol: calls then raise ContractPausedError."""
        await self._verbs.pause()

    async def unpause(self) -> None:
        """Resumes the protocol."""
        await self._verbs.unpause()

    async def approve_mediator(self, address: str) -> None:
        """Approves a mediator, who can be paid from two days later on."""
        await self._verbs.approve_mediator(address)

    @property
    def file(self) -> str | None:
        """The state file's path; None where the state is in memory."""
        path: str | None = self._verbs.file
        return path

    def __repr__(self) -> str:
        return f"<Async{repr(self._verbs)[1:]}"


class AsyncACTPClient:
    """A participant's client whose verbs are coroutines; made by `await ACTPClient.create(...)`.

    It may be used from any event loop, and after a fork in parent and children.
    """

    __slots__ = ("_client", "_disputes", "_kernel", "_mock", "_registry")

    def __init__(self, client: ACTPClient) -> None:
        self._client = client
        self._kernel = AsyncKernel(client.kernel)
        self._registry = AsyncRegistry(client.registry) if client.registry else None
        self._disputes = AsyncDisputes(client.disputes)
        self._mock = AsyncMock(client.mock) if client.mock else None

    @classmethod
    async def create(
        cls,
        mode: str = "mock",
        requester_address: str | None = None,
        private_key: str | None = None,
        *,
        state_directory: str | PathLike[str] | None = None,
        in_memory: bool = False,
        starting_balance: int | None = None,
        generation: Literal["2026-05", "f6", "aip14c"] | str | None = None,
        rpc_url: str | Sequence[str] | None = None,
        contracts: dict[str, str] | None = None,
        network: str | PathLike[str] | dict[str, Any] | None = None,
        keystore: str | PathLike[str] | None = None,
        keystore_password: str | None = None,
        confirmations: int | None = None,
        wait_timeout: float | None = None,
        max_fee_per_gas: int | None = None,
        max_priority_fee_per_gas: int | None = None,
        agree: int | None = None,
    ) -> AsyncACTPClient:
        """Connects; the arguments and errors are ACTPClient's."""
        settings = {
            "mode": mode,
            "requester_address": requester_address,
            "private_key": private_key,
            "state_directory": state_directory,
            "in_memory": in_memory,
            "starting_balance": starting_balance,
            "generation": generation,
            "rpc_url": rpc_url,
            "contracts": contracts,
            "network": network,
            "keystore": keystore,
            "keystore_password": keystore_password,
            "confirmations": confirmations,
            "wait_timeout": wait_timeout,
            "max_fee_per_gas": max_fee_per_gas,
            "max_priority_fee_per_gas": max_priority_fee_per_gas,
            "agree": agree,
        }
        return cls(await _connect(settings))

    @property
    def address(self) -> Address:
        """The address this client acts for, checksummed."""
        return self._client.address

    @property
    def mode(self) -> str:
        """ "mock", "testnet" or "mainnet"."""
        return self._client.mode

    @property
    def chain_id(self) -> int:
        """The network's chain id (EIP-155); 31337 for mock."""
        return self._client.chain_id

    @property
    def network(self) -> Network:
        """The network's name, chain id and contracts."""
        return self._client.network

    @property
    def advanced(self) -> AsyncKernel:
        """The protocol's verbs."""
        return self._kernel

    @property
    def kernel(self) -> AsyncKernel:
        """The same object as `advanced`."""
        return self._kernel

    @property
    def registry(self) -> AsyncRegistry | None:
        """The agent registry; None where the network has none."""
        return self._registry

    @property
    def disputes(self) -> AsyncDisputes:
        """Disputes that bonds decide, where the network has the contract for it."""
        return self._disputes

    @property
    def mock(self) -> AsyncMock | None:
        """What only mode mock can do; None on a chain."""
        return self._mock

    @property
    def proof_generator(self) -> ProofGenerator:
        """Makes and checks delivery proofs."""
        return self._client.proof_generator

    def __repr__(self) -> str:
        return f"<Async{repr(self._client)[1:]}"
