"""Children as real processes: what they get, how they end, and that none is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from router.backends.llama_child import LlamaServerChild
from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.core.types import HOST, Placement
from router.engine.ports import LaunchError
from router.wire.message import header_lines, request_head
from tests.fakes.fake_binary import make_fake_binary
from tests.fakes.sink import RecordingSink
from tests.support.router import ROOT, free_port
from tests.support.waiting import turn, until, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ON_CPU = Placement({HOST: 1})
Launch = Callable[..., Any]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Start a fake llama-server with these flags; all are stopped at the end."""
    launchers: list[LlamaServerLauncher] = []
    children: list[LlamaServerChild] = []
    binary = make_fake_binary(tmp_path)

    async def start(
        *flags: str, env: dict[str, str] | None = None, placement: Placement = ON_CPU, **changes: Any
    ) -> LlamaServerChild:
        spec = LlamaServerSpec(tmp_path / "m.gguf", slots=2, flags=flags, env=env or {})
        options: dict[str, Any] = {
            "state_dir": tmp_path / "state",
            "base_port": free_port(),
            "binary": binary,
        } | changes
        launchers.append(LlamaServerLauncher({"org/m": spec}, **options))
        children.append(await launchers[-1].launch("org/m", len(children) + 1, placement))
        return children[-1]

    yield start
    for child in children:
        await child.stop(grace=0)
    for launcher in launchers:
        await launcher.close()


async def get(child: LlamaServerChild, path: str) -> Any:
    upstream = child.upstream
    async with httpx.AsyncClient(base_url=upstream.url) as client:
        answer = await client.get(path, headers={"authorization": upstream.authorization})
    assert answer.status_code == 200
    return answer.json()


async def eventually(met: Callable[[], bool], deadline: float = 5.0) -> None:
    await asyncio.to_thread(wait_until, met, deadline)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def open_files(pid: int) -> list[str]:
    listed = list(Path(f"/proc/{pid}/fd").iterdir())
    return [str(entry.readlink()) for entry in listed if entry.is_symlink()]  # the listing's own is closed by now


def grandchild_of(child: LlamaServerChild) -> int:
    (line,) = (line for line in child.tail(200).splitlines() if line.startswith("grandchild "))
    return int(line.split()[1])


@contextmanager
def listener(port: int = 0) -> Iterator[int]:
    """Somebody else on a port, who accepts and says nothing."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()
        yield sock.getsockname()[1]


def port_with_free_neighbours() -> int:
    """Below the range from which the system takes ports for outgoing connections, where neighbours come and go."""
    for port in range(20000, 32000, 5):
        try:
            with listener(port), listener(port + 1), listener(port + 2):
                return port
        except OSError:
            continue
    raise AssertionError("no three free ports in a row")


# --- what it gets


async def test_it_sees_little_and_no_secret_of_ours(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "the-routers-own")
    child = await launch(env={"MY_OWN": "1"})
    assert await child.ready() == 2
    seen = await get(child, "/fake/process")
    assert "the-routers-own" not in json.dumps(seen)
    key = child.upstream.authorization.removeprefix("Bearer ")
    assert seen["env"]["LLAMA_API_KEY"] == key
    assert seen["env"]["MY_OWN"] == "1"
    assert key not in " ".join(seen["argv"])
    assert "CUDA_VISIBLE_DEVICES" not in seen["env"]


async def test_it_leads_its_own_group_and_reads_nothing(launch: Launch, tmp_path: Path) -> None:
    child = await launch()
    await child.ready()
    seen = await get(child, "/fake/process")
    assert seen["pid"] == seen["group"] == seen["session"] == child.pid
    assert seen["stdin"] == "end of file"
    assert seen["cwd"] == str(tmp_path / "state")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_holds_no_pipe_of_ours_but_its_output(launch: Launch) -> None:
    child = await launch()
    await child.ready()
    assert len({target for target in open_files(child.pid) if target.startswith("pipe:")}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_shares_no_socket_or_file_of_ours(launch: Launch, tmp_path: Path) -> None:
    with listener() as _, (tmp_path / "secret").open("w"):
        child = await launch()
        await child.ready()
        shared = {name for name in set(open_files(child.pid)) & set(open_files(os.getpid())) if name != "/dev/null"}
    assert all(name.startswith(("pipe:", "anon_inode:")) for name in shared)
    assert sum(name.startswith("pipe:") for name in shared) <= 1, "its output"


@pytest.mark.parametrize(("gpus", "visible"), [(("gpu:1", "gpu:3"), "1,3"), ((), "")])
async def test_it_uses_the_gpus_of_its_placement(launch: Launch, gpus: tuple[str, ...], visible: str) -> None:
    child = await launch(gpus_present=True, placement=Placement(dict.fromkeys((*gpus, HOST), 1)))
    await child.ready()
    env = (await get(child, "/fake/process"))["env"]
    assert env["CUDA_VISIBLE_DEVICES"] == visible
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


# --- how it becomes ready


async def test_it_is_not_ready_before_its_model_is_loaded(launch: Launch) -> None:
    child = await launch("--never-ready")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await child.ready()
    assert not await child.healthy()
    assert (await child.stop(grace=0)).code == -9


async def test_a_failed_load_says_why(launch: Launch) -> None:
    child = await launch("--exit-code", "1", "--exit-message", "alloc: failed to allocate CPU buffer of size 42")
    with pytest.raises(LaunchError, match="exited with code 1: alloc: failed to allocate CPU buffer of size 42"):
        await child.ready()
    assert "failed to allocate" in child.tail()


async def test_code_0_is_a_crash_like_any_other(launch: Launch) -> None:
    child = await launch("--exit-code", "0")
    with pytest.raises(LaunchError, match="though nobody had asked it to end"):
        await child.ready()


async def test_a_port_in_use_is_passed_over(launch: Launch) -> None:
    with listener() as taken:
        child = await launch(base_port=taken)
        await child.ready()
        assert child.port != taken


async def test_a_port_that_is_snatched_away_is_replaced(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(port_with_free_neighbours()) as taken:
        monkeypatch.setattr("router.backends.port_pool._free", lambda port: True)
        child = await launch(base_port=taken)
        first = child.pid
        assert await child.ready() == 2
        assert child.port == taken + 1
        assert child.pid != first
        assert (await get(child, "/fake/process"))["pid"] == child.pid


async def test_a_port_that_is_lost_again_and_again_is_a_failure(launch: Launch) -> None:
    child = await launch("--lose-port")
    with pytest.raises(LaunchError, match="couldn't bind HTTP server socket"):
        await child.ready()


async def test_a_server_that_takes_any_key_is_not_ours(launch: Launch) -> None:
    child = await launch("--ignore-key", stranger_patience=0)
    with pytest.raises(LaunchError, match=f"another server answers on port {child.port}.* 200 to a wrong key"):
        await child.ready()


async def test_a_binary_that_is_missing_is_named(launch: Launch, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=f"{tmp_path}/gone is not there"):
        await launch(binary=tmp_path / "gone")


async def test_a_hanging_server_is_unhealthy(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.backends.control_client._TIMEOUT_SEC", 0.3)
    child = await launch()
    await child.ready()
    assert await child.healthy()
    os.kill(child.pid, signal.SIGSTOP)
    assert not await child.healthy()
    with pytest.raises(TimeoutError):
        await child.slots()
    async with asyncio.timeout(2):  # only SIGKILL ends a stopped process
        assert (await child.stop(grace=0.1)).code == -9


# --- what it says


async def test_a_flood_is_drained_and_bounded(launch: Launch, tmp_path: Path) -> None:
    child = await launch("--stderr-flood", "20", "--long-line", "200")
    async with asyncio.timeout(30):
        await child.ready()
    logs = list((tmp_path / "state" / "logs").iterdir())
    assert sum(path.stat().st_size for path in logs) <= 10 * 1024 * 1024
    assert "the flood is over" in child.tail(200)
    assert max(map(len, child.tail(200).splitlines())) < 10_000


async def test_its_key_does_not_reach_the_log(launch: Launch, tmp_path: Path) -> None:
    child = await launch("--print-key")
    await child.ready()
    key = child.upstream.authorization.removeprefix("Bearer ")
    log = tmp_path / "state" / "logs" / "org%2Fm.log"
    await until(lambda: "the key is [redacted]" in log.read_text())
    assert key not in log.read_text() + child.tail(200)


# --- how it ends


async def test_term_is_enough_for_a_good_one(launch: Launch) -> None:
    child = await launch()
    await child.ready()
    ended = await child.stop(grace=5)
    assert ended.code == 0
    assert "stopped by the router" in ended.reason
    assert await child.stop(grace=5) == ended == await child.wait()
    assert child.upstream.pool.closed


async def test_a_client_of_ours_does_not_hold_it_up(launch: Launch) -> None:
    child = await launch("--tokens", "100000", "--token-delay", "0.01")
    await child.ready()
    upstream, sink, body = child.upstream, RecordingSink(), b'{"stream": true}'
    headers = [(b"authorization", upstream.authorization.encode()), (b"content-type", b"application/json")]
    connection = await upstream.pool.connect()
    head = request_head("POST", "/v1/completions", "127.0.0.1", header_lines(headers), len(body))
    connection.send(head, body, sink)
    await sink.head_told()
    assert [slot.busy for slot in await child.slots()].count(True) == 1
    async with asyncio.timeout(2):
        await child.stop(grace=1.5)
    assert sink.outcome == "broke"


async def test_one_that_ignores_term_is_killed_at_the_deadline(launch: Launch) -> None:
    child = await launch("--ignore-term", "--fork-grandchild")
    await child.ready()
    grandchild = grandchild_of(child)
    async with asyncio.timeout(1.5):
        ended = await child.stop(grace=0.3)
    assert ended.code == -9
    await eventually(lambda: not alive(grandchild), 1.0)


async def test_a_second_stop_may_be_in_a_hurry(launch: Launch) -> None:
    child = await launch("--ignore-term")
    await child.ready()
    async with asyncio.timeout(2):
        slow = asyncio.create_task(child.stop(grace=60))
        ended = await child.stop(grace=0)
        assert await slow == ended


@pytest.mark.parametrize("flags", [(), pytest.param(("--setsid",), marks=on_linux)], ids=["its group", "their own"])
async def test_its_grandchildren_go_when_it_crashes(launch: Launch, flags: tuple[str, ...]) -> None:
    child = await launch("--fork-grandchild", *flags)
    await child.ready()
    grandchild = grandchild_of(child)
    os.kill(child.pid, signal.SIGKILL)
    async with asyncio.timeout(1):
        ended = await child.wait()
    assert ended.code == -9
    assert ended.reason.startswith("llama-server was killed by SIGKILL (")
    await eventually(lambda: not alive(grandchild), 1.0)


async def test_its_port_can_be_had_again(launch: Launch, tmp_path: Path) -> None:
    spec = LlamaServerSpec(tmp_path / "m.gguf")
    launcher = LlamaServerLauncher({"m": spec}, state_dir=tmp_path / "s", base_port=free_port(),
                                   binary=make_fake_binary(tmp_path))  # fmt: skip
    ports = []
    for replica in (1, 2):
        child = await launcher.launch("m", replica, ON_CPU)
        await child.ready()
        ports.append(child.port)
        await child.stop(grace=0)
    await launcher.close()
    assert ports[0] == ports[1]


async def test_a_cancelled_launch_leaves_nothing(launch: Launch, tmp_path: Path) -> None:
    launcher = LlamaServerLauncher({"m": LlamaServerSpec(tmp_path / "m.gguf")}, state_dir=tmp_path / "s",
                                   base_port=free_port(), binary=make_fake_binary(tmp_path))  # fmt: skip
    await launcher.prepare()
    ours = psutil.Process()
    before = {process.pid for process in ours.children()}
    for turns in range(12):
        launching = asyncio.create_task(launcher.launch("m", 1, ON_CPU))
        for _ in range(turns):
            await turn()
        launching.cancel()
        result = (await asyncio.gather(launching, return_exceptions=True))[0]
        if isinstance(result, LlamaServerChild):
            await result.stop(grace=0)
    guard = launcher._guard.pid
    assert {process.pid for process in ours.children()} - before <= {guard}
    await launcher.close()
    assert not alive(guard or 0)


# --- when the router is gone


@contextmanager
def lone_router(
    tmp_path: Path, *flags: str, count: int = 2
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    command = [sys.executable, "-m", "tests.fakes.lone_router", str(tmp_path / "state"),
               str(make_fake_binary(tmp_path)), str(free_port()), str(count), *flags]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize(
    "flags",
    [(), ("--uvloop",), ("--uvloop", "--lose-guard"), ("--ignore-term",), pytest.param(("--setsid",), marks=on_linux)],
)
def test_a_router_that_is_killed_leaves_no_orphan(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with lone_router(tmp_path, "--fork-grandchild", *flags) as (process, told):
        family = [*told["children"], told["guard"]]
        for child in told["children"]:
            family += [grandchild.pid for grandchild in psutil.Process(child).children(recursive=True)]
        assert len(family) == 5
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(alive, family)), deadline=1.0, what="the end of all children")


def test_the_next_router_reaps_what_the_guard_could_not(tmp_path: Path) -> None:
    with lone_router(tmp_path) as (process, told):
        os.kill(told["guard"], signal.SIGSTOP)
        os.killpg(told["guard"], signal.SIGKILL)
        process.kill()
        process.wait()
    neighbour = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        assert all(map(alive, told["children"]))
        with lone_router(tmp_path, count=1):
            assert not any(map(alive, told["children"]))
            assert neighbour.poll() is None
    finally:
        neighbour.kill()
        neighbour.wait()
