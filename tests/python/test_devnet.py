"""The local chain: what it has, what it lets tests do, and when it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from support import (
    HOUR,
    USDC,
    chain_kernel,
    environment,
    listens,
    new_address,
    run_python,
    until,
)

from agirails import ACTPClient, NetworkError, State, ValidationError
from agirails.testing import Account, AsyncDevnet, Devnet

pytest_plugins = ["agirails.testing"]


def usdc_of(net: Devnet, address: str) -> int:
    """`USDC.balanceOf`, from the node itself."""
    call = {
        "to": net.profile["contracts"]["usdc"],
        "data": "0x70a08231" + address.removeprefix("0x").lower().rjust(64, "0"),
    }
    return int(net.rpc("eth_call", [call, "latest"]), 16)


def block(net: Devnet, number: str = "latest") -> dict:
    return net.rpc("eth_getBlockByNumber", [number, False])


class TestWhatItHas:
    def test_ten_rich_accounts_and_an_admin_without_money(self, devnet):
        assert len({account.address for account in devnet.accounts}) == 10
        assert all(usdc_of(devnet, a.address) == 1_000_000 * USDC for a in devnet.accounts)
        assert devnet.admin not in devnet.accounts
        assert usdc_of(devnet, devnet.admin.address) == 0

    def test_keys_that_are_the_accounts_and_that_nothing_shows(self, devnet):
        for account in [*devnet.accounts, devnet.admin]:
            key = account.private_key
            assert ACTPClient(private_key=key, in_memory=True).address == account.address
            assert key.removeprefix("0x") not in repr(account) + repr(devnet.accounts)
        assert devnet.accounts[0] == Account(
            devnet.accounts[0].address, devnet.accounts[0].private_key
        )

    def test_a_profile_that_names_where_it_answers_and_its_contracts(self, devnet, tmp_path):
        profile = devnet.profile
        assert (profile["chainId"], profile["rpcUrl"]) == (devnet.chain_id, devnet.rpc_url)
        assert devnet.chain_id == 31337
        assert devnet.ws_url == devnet.rpc_url.replace("http", "ws")
        for contract in profile["contracts"].values():
            assert len(devnet.rpc("eth_getCode", [contract, "latest"])) > 100
        devnet.write_profile(tmp_path / "network.json")
        assert json.loads((tmp_path / "network.json").read_text()) == profile

    def test_an_environment_that_lasts_as_long_as_the_chain(self):
        with Devnet() as net:
            ((name, path),) = net.environment().items()
            assert name == "AGIRAILS_NETWORK"
            assert json.loads(Path(path).read_text()) == net.profile
            assert net.environment() == {name: path}
        assert not Path(path).parent.exists()

    def test_the_port_that_was_asked_for_and_no_other(self):
        with Devnet() as free:
            port = urllib.parse.urlsplit(free.rpc_url).port
            with pytest.raises(NetworkError, match="anvil") as caught, Devnet(port=port):
                pass
            assert (caught.value.code, bool(caught.value.hint)) == ("devnet_unavailable", True)
        with Devnet(port=port) as net:
            assert net.rpc_url == f"http://127.0.0.1:{port}"


class TestWhatTestsDoWithIt:
    def test_money(self, devnet):
        address = new_address()
        devnet.mint(address, 5 * USDC)
        devnet.set_eth(address, 2**70)
        assert usdc_of(devnet, address) == 5 * USDC
        assert int(devnet.rpc("eth_getBalance", [address, "latest"]), 16) == 2**70

    def test_time(self, devnet):
        start = devnet.now()
        now = devnet.advance_time(HOUR)
        assert start + HOUR <= now <= start + HOUR + 60
        devnet.set_next_time(now + 1000)
        devnet.mine()
        assert devnet.now() == now + 1000
        with pytest.raises(NetworkError) as caught:
            devnet.set_next_time(now)
        assert caught.value.code == "request_refused"

    def test_blocks(self, devnet):
        before = int(block(devnet)["number"], 16)
        devnet.mine(3)
        assert int(block(devnet)["number"], 16) == before + 3
        devnet.set_automine(False)
        sent = {"from": devnet.accounts[0].address, "to": new_address(), "value": "0x1"}
        transaction = devnet.rpc("eth_sendTransaction", [sent])
        assert devnet.rpc("eth_getTransactionReceipt", [transaction]) is None
        devnet.mine()
        assert devnet.rpc("eth_getTransactionReceipt", [transaction])["status"] == "0x1"

    def test_blocks_in_an_interval(self):
        with Devnet(block_time=1) as net:
            first = int(block(net)["number"], 16)
            until(lambda: int(block(net)["number"], 16) >= first + 2)

    def test_a_snapshot_is_returned_to_once(self, devnet):
        address = new_address()
        snapshot = devnet.snapshot()
        devnet.mint(address, 1)
        devnet.revert(snapshot)
        assert usdc_of(devnet, address) == 0
        with pytest.raises(NetworkError) as caught:
            devnet.revert(snapshot)
        assert (caught.value.code, bool(caught.value.hint)) == ("request_refused", True)
        with pytest.raises(ValidationError, match="snapshot"):
            devnet.revert("0x1")

    def test_a_reorganisation_takes_back_what_the_newest_blocks_held(self, devnet):
        address = new_address()
        devnet.mint(address, 1)
        number, before = block(devnet)["number"], block(devnet)["hash"]
        devnet.reorganise()
        assert block(devnet, number)["hash"] != before
        assert usdc_of(devnet, address) == 0

    def test_the_protocols_pause(self, devnet):
        kernel, paused = devnet.profile["contracts"]["actpKernel"], "0x5c975abb"

        def is_paused() -> bool:
            return bool(int(devnet.rpc("eth_call", [{"to": kernel, "data": paused}, "latest"]), 16))

        devnet.pause()
        assert is_paused()
        with pytest.raises(NetworkError):
            devnet.pause()
        devnet.unpause()
        assert not is_paused()

    def test_mediators(self, devnet):
        devnet.approve_mediator(new_address())

    def test_the_nodes_own_words(self, devnet):
        with pytest.raises(NetworkError, match="no_such_method") as caught:
            devnet.rpc("no_such_method")
        assert caught.value.code == "request_refused"

    @pytest.mark.parametrize(
        "call",
        [
            lambda net: net.mint("nonsense", 1),
            lambda net: net.mint(new_address(), -1),
            lambda net: net.mint(new_address(), 0.5),
            lambda net: net.set_eth(new_address(), 2**256),
            lambda net: net.advance_time(-1),
            lambda net: net.mine("1"),
            lambda net: net.reorganise(None),
            lambda net: net.set_automine(1),
            lambda net: net.approve_mediator(None),
            lambda net: net.write_profile(5),
            lambda net: net.rpc(5),
            lambda net: net.rpc("eth_call", [object()]),
        ],
    )
    def test_a_wrong_argument_is_named(self, devnet, call):
        with pytest.raises(ValidationError) as caught:
            call(devnet)
        assert caught.value.field and caught.value.hint

    @pytest.mark.parametrize(
        "settings",
        [{"port": 65536}, {"port": -1}, {"block_time": 0}, {"block_time": "2"}, {"anvil": 5}],
    )
    def test_a_wrong_setting_is_named(self, settings):
        with pytest.raises(ValidationError) as caught, Devnet(**settings):
            pass
        assert caught.value.field in settings


class TestItsClients:
    def test_pay_on_it(self, devnet):
        chain_kernel(devnet)
        consumer, provider = devnet.client(0), devnet.client(1)
        assert (consumer.mode, consumer.chain_id) == ("testnet", 31337)
        tx_id = consumer.advanced.create_transaction(
            provider=provider.address, amount=USDC, deadline=devnet.now() + HOUR
        )
        consumer.advanced.link_escrow(tx_id)
        assert provider.advanced.get_transaction(tx_id).state is State.COMMITTED
        assert usdc_of(devnet, consumer.address) == 999_999 * USDC
        assert devnet.client(devnet.admin).address == devnet.admin.address

    def test_are_found_by_the_environment(self, devnet, monkeypatch):
        chain_kernel(devnet)
        for name, value in devnet.environment().items():
            monkeypatch.setenv(name, value)
        client = ACTPClient(mode="testnet", private_key=devnet.accounts[3].private_key)
        assert client.advanced.get_balance() == 1_000_000 * USDC

    def test_leave_nothing_in_the_working_directory(self, devnet):
        chain_kernel(devnet)
        devnet.client(0).advanced.get_balance()
        assert list(Path.cwd().iterdir()) == []

    def test_are_of_an_account_that_there_is(self, devnet):
        with pytest.raises(IndexError):
            devnet.client(10)

    @pytest.mark.parametrize("mode", ["mock", "mainnet"])
    def test_take_a_profile_in_no_other_mode(self, devnet, mode):
        with pytest.raises(ValidationError, match=mode) as caught:
            ACTPClient(mode=mode, requester_address=new_address(), network=devnet.profile)
        assert (caught.value.code, caught.value.field) == ("invalid_settings", "network")

    @pytest.mark.parametrize("profile", [5, {}, {"name": "x"}, "no-such-file.json"])
    def test_take_a_profile_and_nothing_else(self, profile):
        with pytest.raises(ValidationError) as caught:
            ACTPClient(mode="testnet", requester_address=new_address(), network=profile)
        assert caught.value.code == "invalid_settings" and caught.value.hint


class TestAwaitable:
    def test_has_the_same_methods(self):
        def methods(kind: type) -> set[str]:
            own = {*vars(kind), *vars(kind.__base__)}
            return {name for name in own if not name.startswith("_")}

        assert methods(AsyncDevnet) == methods(Devnet)

    def test_does_the_same(self):
        async def play() -> str:
            async with Devnet() as net:
                assert isinstance(net, AsyncDevnet)
                address = new_address()
                await net.mint(address, 5)
                await net.set_eth(address, 5)
                assert int(await net.rpc("eth_getBalance", [address, "latest"]), 16) == 5
                now = await net.advance_time(HOUR)
                await net.set_next_time(now + 1000)
                await net.mine()
                assert await net.now() == now + 1000
                snapshot = await net.snapshot()
                await net.mine(2)
                await net.revert(snapshot)
                assert await net.now() == now + 1000
                await net.mine()
                await net.reorganise()
                await net.pause()
                await net.unpause()
                await net.approve_mediator(address)
                await net.set_automine(True)
                assert len(net.accounts) == 10
                return net.rpc_url

        assert not listens(asyncio.run(play()))

    def test_makes_awaitable_clients(self):
        with Devnet() as net:
            chain_kernel(net)

        async def play() -> None:
            async with Devnet() as net:
                client = await net.client(0)
                assert await client.advanced.get_balance() == 1_000_000 * USDC

        asyncio.run(play())

    def test_ends_when_its_task_is_cancelled(self):
        async def play() -> str:
            urls: asyncio.Queue[str] = asyncio.Queue()

            async def run() -> None:
                async with Devnet() as net:
                    await urls.put(net.rpc_url)
                    await asyncio.sleep(60)

            task = asyncio.create_task(run())
            url = await asyncio.wait_for(urls.get(), 30)
            assert listens(url)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return url

        assert not listens(asyncio.run(play()))


class TestItsEnd:
    def test_comes_with_its_block(self):
        with Devnet() as net:
            url = net.rpc_url
            assert listens(url)
        assert not listens(url)
        net.close()

    def test_comes_with_an_exception(self):
        with pytest.raises(ZeroDivisionError), Devnet() as net:
            url = net.rpc_url
            1 / 0  # noqa: B018
        assert not listens(url)

    def test_comes_with_the_last_reference(self):
        net = Devnet().start()
        url = net.rpc_url
        directory = Path(net.environment()["AGIRAILS_NETWORK"]).parent
        del net
        until(lambda: not listens(url))
        assert not directory.exists()

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
    def test_comes_with_its_process(self, how):
        script = (
            "import sys; from agirails.testing import Devnet; net = Devnet().start();"
            " print(net.rpc_url, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as owner:
            url = owner.stdout.readline().strip()
            assert listens(url)
            if how is None:
                owner.stdin.close()
            else:
                owner.send_signal(how)
            owner.wait(30)
        until(lambda: not listens(url))

    def test_does_not_come_with_a_forked_child(self, devnet):
        path = Path(devnet.environment()["AGIRAILS_NETWORK"])
        child = os.fork()
        if child == 0:
            devnet.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert listens(devnet.rpc_url) and path.exists()
        assert devnet.now() > 0

    def test_is_told_to_who_uses_it_afterwards(self):
        net = Devnet()
        assert repr(net) == "<Devnet not started>"
        for use in (lambda: net.rpc_url, lambda: net.now(), lambda: net.client(0)):
            with pytest.raises(NetworkError, match="not started") as caught:
                use()
            assert caught.value.code == "devnet_unavailable" and caught.value.hint
        with net:
            assert net.rpc_url in repr(net)
            with pytest.raises(NetworkError, match="started before"):
                net.start()
        assert repr(net) == "<Devnet closed>"
        for use in (lambda: net.rpc_url, lambda: net.now(), lambda: net.client(0)):
            with pytest.raises(NetworkError, match="closed") as caught:
                use()
            assert caught.value.code == "devnet_unavailable" and caught.value.hint


def test_a_missing_anvil_is_an_error_that_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("AGIRAILS_ANVIL", str(tmp_path / "none"))
    with pytest.raises(NetworkError, match="AGIRAILS_ANVIL") as caught, Devnet():
        pass
    assert caught.value.code == "devnet_unavailable"
    assert "npm install @foundry-rs/anvil" in caught.value.hint
    with pytest.raises(NetworkError, match="there is no anvil"), Devnet(anvil=tmp_path / "none"):
        pass


class TestTheFixture:
    TEST = "def test_it(devnet):\n    assert devnet.chain_id == 31337\n"

    def run(self, directory: Path, conftest: str) -> subprocess.CompletedProcess[str]:
        (directory / "conftest.py").write_text(conftest)
        (directory / "test_it.py").write_text(self.TEST)
        return run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", directory, cwd=directory)

    def test_comes_with_one_line_of_a_conftest(self, tmp_path):
        done = self.run(tmp_path, 'pytest_plugins = ["agirails.testing"]\n')
        assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout

    def test_is_not_there_unasked(self, tmp_path):
        done = self.run(tmp_path, "")
        assert "fixture 'devnet' not found" in done.stdout

    def test_is_all_that_needs_pytest(self):
        script = (
            "import sys; sys.modules['pytest'] = None; from agirails.testing import Devnet;"
            " net = Devnet().start(); net.close()"
        )
        done = run_python("-W", "error", "-c", script)
        assert done.returncode == 0, done.stderr
