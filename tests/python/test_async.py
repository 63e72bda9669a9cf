"""AsyncACTPClient: the same names, awaitable, on any event loop, and no move half done."""

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest
from support import HOUR, PRICE, START, USDC, new_address

import agirails
from agirails import ACTPClient, AsyncACTPClient, State


async def connect(directory: Path, address: str | None = None) -> AsyncACTPClient:
    return await ACTPClient.create(
        requester_address=address or new_address(), state_directory=directory
    )


async def create(consumer: AsyncACTPClient, provider: str, amount: int = PRICE) -> str:
    deadline = await consumer.advanced.now() + HOUR
    return await consumer.advanced.create_transaction(
        provider=provider, amount=amount, deadline=deadline, dispute_window=HOUR
    )


async def fund(consumer: AsyncACTPClient, provider: str, amount: int = PRICE) -> str:
    tx_id = await create(consumer, provider, amount)
    await consumer.advanced.link_escrow(tx_id)
    return tx_id


async def create_many(consumer: AsyncACTPClient, count: int) -> None:
    provider = new_address()
    for _ in range(count):
        await create(consumer, provider)


class Holder:
    """Another program that holds the state file's lock: in one process two libraries do not see each
    other's locks."""

    PROGRAM = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute("BEGIN IMMEDIATE")
print("held", flush=True)
input()
"""

    def __init__(self, directory: Path) -> None:
        file = directory / ".actp" / "kernel.sqlite3"
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == b"held\n"

    def let_go(self) -> None:
        self.process.communicate(b"\n", 30)


async def watch(work: Awaitable[object]) -> tuple[float, int]:
    """The longest time for which another task of the loop had no turn, and how many it had."""
    longest, turns, is_over = 0.0, 0, False

    async def count() -> None:
        nonlocal longest, turns
        while not is_over:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
            turns += 1

    counter = asyncio.create_task(count())
    await asyncio.sleep(0)
    await work
    is_over = True
    await counter
    return longest, turns


def methods(instance: object) -> set[str]:
    """Public methods: what can be called with brackets, not what a property holds."""
    kind = type(instance)
    return {
        name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))
    }


def parts(client: ACTPClient | AsyncACTPClient) -> dict[str, object]:
    return {
        "kernel": client.advanced,
        "registry": client.registry,
        "disputes": client.disputes,
        "mock": client.mock,
    }


class TestShape:
    @pytest.mark.parametrize("part", ["kernel", "registry", "disputes", "mock"])
    def test_both_clients_have_the_same_methods(self, tmp_path, part):
        sync = parts(ACTPClient(requester_address=new_address(), state_directory=tmp_path))[part]
        asynchronous = parts(asyncio.run(connect(tmp_path)))[part]
        assert methods(sync) == methods(asynchronous) != set()

    @pytest.mark.parametrize("part", ["kernel", "registry", "disputes", "mock"])
    def test_every_method_is_a_coroutine_function(self, tmp_path, part):
        asynchronous = parts(asyncio.run(connect(tmp_path)))[part]
        plain = [
            name
            for name in methods(asynchronous)
            if not inspect.iscoroutinefunction(getattr(asynchronous, name))
        ]
        assert plain == []

    @pytest.mark.parametrize("part", ["kernel", "registry", "disputes", "mock"])
    def test_both_clients_take_the_same_arguments(self, tmp_path, part):
        sync = parts(ACTPClient(requester_address=new_address(), state_directory=tmp_path))[part]
        asynchronous = parts(asyncio.run(connect(tmp_path)))[part]
        for name in methods(sync):
            here, there = (
                inspect.signature(getattr(one, name)).parameters.values()
                for one in (sync, asynchronous)
            )
            assert [(p.name, p.kind, p.default) for p in here] == [
                (p.name, p.kind, p.default) for p in there
            ], name

    def test_create_makes_the_async_client(self, tmp_path):
        client = asyncio.run(connect(tmp_path))
        assert isinstance(client, AsyncACTPClient)
        assert client.kernel is client.advanced
        assert (client.mode, client.network.name) == ("mock", "mock")

    def test_create_is_awaitable_like_any_coroutine(self, tmp_path):
        coroutine = ACTPClient.create(requester_address=new_address(), state_directory=tmp_path)
        assert inspect.iscoroutine(coroutine)
        assert isinstance(asyncio.run(coroutine), AsyncACTPClient)


class TestVerbs:
    def test_a_paid_call_with_awaits(self, tmp_path):
        async def main():
            consumer, provider = await connect(tmp_path), await connect(tmp_path)
            tx_id = await fund(consumer, provider.address)
            await provider.advanced.transition_state(tx_id, State.IN_PROGRESS)
            proof = provider.proof_generator.generate_delivery_proof(
                tx_id=tx_id, deliverable="x" * 100
            )
            await provider.advanced.transition_state(
                tx_id, State.DELIVERED, proof=provider.proof_generator.encode_proof(proof)
            )
            assert (await consumer.advanced.get_delivery_proof(tx_id))["contentHash"] == proof[
                "contentHash"
            ]
            await consumer.advanced.transition_state(tx_id, State.SETTLED)
            tx = await consumer.advanced.get_transaction(tx_id)
            assert tx.state is State.SETTLED
            assert await provider.advanced.get_balance() == START + 50_000
            assert [found.id for found in await consumer.advanced.get_transactions()] == [tx_id]
            assert (await consumer.advanced.get_events())[0].name == "TransactionCreated"

        asyncio.run(main())

    def test_registry_and_mock_are_awaited_too(self, tmp_path):
        async def main():
            provider = await connect(tmp_path)
            await provider.registry.register_agent("https://api.example.com", ["ai-completion"])
            (found,) = await provider.registry.get_agents_by_service("ai-completion")
            assert found.agent_address == provider.address
            before = await provider.advanced.now()
            assert await provider.mock.advance_time(HOUR) >= before + HOUR

        asyncio.run(main())

    def test_both_kinds_of_client_share_a_file(self, tmp_path):
        sync = ACTPClient(requester_address=new_address(), state_directory=tmp_path)

        async def main():
            provider = await connect(tmp_path)
            tx_id = await fund(await connect(tmp_path, sync.address), provider.address)
            assert sync.advanced.get_transaction(tx_id).state is State.COMMITTED

        asyncio.run(main())

    def test_errors_are_raised_by_the_await(self, tmp_path):
        async def main():
            client = await connect(tmp_path)
            with pytest.raises(agirails.TransactionNotFoundError) as caught:
                await client.advanced.get_transaction("0x" + "ab" * 32)
            assert caught.value.transaction_id == "0x" + "ab" * 32
            with pytest.raises(agirails.ValidationError):
                await client.advanced.get_transaction("nonsense")
            await create(client, new_address())

        asyncio.run(main())

    def test_a_wrong_setting_is_raised_by_create(self, tmp_path):
        with pytest.raises(agirails.ValidationError):
            asyncio.run(ACTPClient.create(requester_address="nobody", state_directory=tmp_path))


class TestTasks:
    def test_many_tasks_at_once_lose_nothing(self, tmp_path):
        async def main():
            consumer, provider = await connect(tmp_path), await connect(tmp_path)
            ids = await asyncio.gather(*(fund(consumer, provider.address) for _ in range(100)))
            assert len(set(ids)) == 100
            found = await consumer.advanced.get_transactions(limit=1000)
            assert {tx.id for tx in found} == set(ids)
            assert {tx.state for tx in found} == {State.COMMITTED}
            assert await consumer.advanced.get_balance() == START - 100 * PRICE

        asyncio.run(main())

    def test_a_task_can_be_created_from_any_verb(self, tmp_path):
        async def main():
            consumer = await connect(tmp_path)
            tx_id = await create(consumer, new_address())
            task = asyncio.create_task(consumer.advanced.get_transaction(tx_id))
            assert (await asyncio.wait_for(task, 30)).id == tx_id

        asyncio.run(main())

    def test_the_event_loop_runs_on_while_a_verb_waits(self, tmp_path):
        async def main():
            consumer, provider = await connect(tmp_path), await connect(tmp_path)
            turns = 0

            async def count():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counter = asyncio.create_task(count())
            await asyncio.gather(*(fund(consumer, provider.address) for _ in range(20)))
            counter.cancel()
            assert turns > 1

        asyncio.run(main())

    def test_verbs_that_are_done_at_once_leave_turns_to_others(self, tmp_path):
        async def main():
            consumer = await connect(tmp_path)
            longest, turns = await watch(create_many(consumer, 2_000))
            assert longest < 0.25, "one task kept the loop to itself"
            assert turns > 20, "the other task had no turns"

        asyncio.run(main())

    def test_a_file_that_others_hold_never_stops_the_event_loop(self, tmp_path):
        """The verb waits, and is done once the file is free."""

        async def main():
            consumer = await connect(tmp_path)
            holder = Holder(tmp_path)

            async def let_go():
                await asyncio.sleep(0.4)
                await asyncio.to_thread(holder.let_go)

            work = asyncio.gather(create(consumer, new_address()), let_go())
            longest, _ = await watch(work)
            assert longest < 0.2, "the loop stood still while the file was held"
            tx_id = work.result()[0]
            assert (await consumer.advanced.get_transaction(tx_id)).state is State.INITIATED

        asyncio.run(main())

    @pytest.mark.parametrize("turns", range(4))
    def test_a_move_that_waits_goes_on_to_its_end_when_it_is_cancelled(self, tmp_path, turns):
        async def main():
            consumer = await connect(tmp_path)
            tx_id = await create(consumer, new_address())
            holder = Holder(tmp_path)
            task = asyncio.create_task(consumer.advanced.link_escrow(tx_id))
            await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            holder.let_go()
            for _ in range(500):
                if (await consumer.advanced.get_transaction(tx_id)).state is State.COMMITTED:
                    break
                await asyncio.sleep(0.02)
            else:
                pytest.fail("the move was given up half way")
            assert await consumer.advanced.get_balance() == START - PRICE

        asyncio.run(main())

    @pytest.mark.parametrize("turns", range(6))
    def test_a_cancelled_payment_is_made_or_not_made(self, tmp_path, turns):
        """Whichever way each one went, the money is where the state says."""

        async def main():
            consumer, provider = await connect(tmp_path), await connect(tmp_path)
            ids = [await create(consumer, provider.address, USDC) for _ in range(20)]
            tasks = [asyncio.create_task(consumer.advanced.link_escrow(tx_id)) for tx_id in ids]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            # A move that was under way goes on to its end, so wait until nothing changes any more.
            for _ in range(200):
                states = [(await consumer.advanced.get_transaction(tx_id)).state for tx_id in ids]
                escrows = [
                    (await consumer.advanced.get_escrow(tx_id))["remaining"] for tx_id in ids
                ]
                balance = await consumer.advanced.get_balance()
                if balance + sum(escrows) == START and states.count(State.COMMITTED) * USDC == sum(
                    escrows
                ):
                    break
                await asyncio.sleep(0.02)
            for tx_id, state, escrow, result in zip(ids, states, escrows, results, strict=True):
                assert (state, escrow) in ((State.INITIATED, 0), (State.COMMITTED, USDC)), tx_id
                assert isinstance(result, asyncio.CancelledError) or state is State.COMMITTED
            assert balance == START - sum(escrows)
            # The next correct call works.
            await fund(consumer, provider.address)

        asyncio.run(main())

    def test_a_cancelled_wait_raises_cancelled_error(self, tmp_path):
        async def main():
            consumer = await connect(tmp_path)
            task = asyncio.create_task(consumer.advanced.get_balance())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await consumer.advanced.get_balance() == START

        asyncio.run(main())


class TestLoops:
    def test_one_client_works_in_two_loops_one_after_another(self, tmp_path):
        client = asyncio.run(connect(tmp_path))
        first = asyncio.run(fund(client, new_address()))
        second = asyncio.run(fund(client, new_address()))
        found = asyncio.run(client.advanced.get_transactions())
        assert [tx.id for tx in found] == [second, first]

    def test_many_threads_each_with_its_own_loop(self, tmp_path):
        client = asyncio.run(connect(tmp_path))
        provider, ids, failures = new_address(), [], []

        def work():
            async def main():
                ids.extend(await asyncio.gather(*(fund(client, provider) for _ in range(10))))

            try:
                asyncio.run(main())
            except BaseException as error:  # noqa: BLE001 - reported by the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert failures == []
        assert len(set(ids)) == 80
        assert asyncio.run(client.advanced.get_balance()) == START - 80 * PRICE

    def test_the_sync_client_works_inside_a_running_loop(self, tmp_path):
        client = ACTPClient(requester_address=new_address(), state_directory=tmp_path)

        async def main():
            return client.advanced.get_balance()

        assert asyncio.run(main()) == START
