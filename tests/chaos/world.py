"""A running router with fake children, everything that can be done to it, and what must hold whatever was done."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from scripts.make_demo_models import ModelSpec, write_model
from tests.fakes.fake_binary import make_fake_binary
from tests.support.asked import Asked
from tests.support.control import Control, FakeChild, control
from tests.support.router import RunningRouter, router
from tests.support.size import WATCHED, Size, size_of
from tests.support.waiting import wait_until

MODELS = {"a": 2, "b": 1, "c": 3}  # slots
MOST = {"a": 1, "b": 2, "c": 1}  # replicas
FORKS = {"c": ["--fork-grandchild"]}  # each of its children has one
POISON = "poison"  # kills whoever is asked it
SOON = 15.0
LAST = 30.0  # a queue's timeout, a load's, a stall's, and some
HEALTHY: dict[str, Any] = {
    "token_delay": 0.01, "prefill_delay": 0.0, "stall_after_tokens": None, "bad_sse": False, "bad_chunking": False,
    "close_after_bytes": None, "reset_after_bytes": None, "crash_after_bytes": None, "reset_reused": False,
    "hang": False, "hang_health": False, "never_ready": False, "bad_head": False, "crash_on": POISON,
}  # fmt: skip
_SYSTEM = {
    "max_concurrent_models": 2, "max_queue_size_per_model": 12, "restart_grace_sec": 0.001, "min_residency_sec": 0,
    "request_timeout_sec": 2, "queue_timeout_sec": 8, "load_timeout_sec": 3, "health_interval_sec": 1,
}  # fmt: skip


@dataclass
class World:
    """Attributes:
    asked: requests that were not over when they were last looked at.
    stopped: pids of children that were sent SIGSTOP.
    config: the router's file as it was at first.
    counts: what has become of the requests that are over, by status; `left` are those whose clients left.
    """

    running: RunningRouter
    control: Control
    asked: list[Asked] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    config: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.config = (self.running.folder / "config.json").read_text(encoding="utf-8")

    # -- what is done to it ------------------------------------------------------------------------------------------

    def ask(self, model: str, *, tokens: int = 5, stream: bool = True, text: str = "Hi", **headers: str) -> Asked:
        body = {"model": model, "max_tokens": tokens, "stream": stream, "messages": [{"role": "user", "content": text}]}
        last = next(self._numbers) % 2 == 0  # both ways for a connection to go on
        return self._send(Asked(self.running.url, "POST", "/v1/chat/completions", body, last=last, **headers))

    def ask_half(self, model: str) -> None:
        """Send a part of a request and hang up."""
        found = Asked(self.running.url, "POST", "/v1/chat/completions", {"model": model, "messages": []})
        found.send(0.7)
        found.leave()

    def manage(self, path: str, **body: Any) -> Asked:
        return self._send(Asked(self.running.url, "POST", path, body))

    def reload(self, model: str, change: str) -> None:
        """Have the configuration read again after it was changed so; an invalid one changes nothing."""
        config = json.loads(self.config)
        if change == "flags":
            config["models"][model]["flags"] += ["--tokens", str(next(self._numbers))]
        elif change == "invalid":
            config["models"][model]["flogs"] = []
        self._write_config(json.dumps(config))
        if change == "gone":
            (self.running.folder / "config.json").unlink()
        self.manage("/v1/reload")

    def _write_config(self, text: str) -> None:
        (self.running.folder / "config.json").write_text(text, encoding="utf-8")

    def children(self) -> list[FakeChild]:
        """Those that live, in a stable order."""
        return sorted(self.control.alive, key=lambda child: (child.model, child.pid))

    def alive_children(self, model: str) -> Iterator[FakeChild]:
        return (child for child in self.children() if child.model == model)

    def signal(self, child: FakeChild, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)
        if number == signal.SIGSTOP:
            self.stopped.add(child.pid)
        elif number == signal.SIGCONT:
            self.stopped.discard(child.pid)

    def kill_guard(self) -> None:
        for process in self._family():
            if _is_guard(process):
                process.kill()

    def _send(self, found: Asked) -> Asked:
        found.send()
        self.asked.append(found)
        return found

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every rule, once what is in motion has come to rest."""
        assert self.running.process.poll() is None, "the router has ended"
        self._wait(self.bookings_are_live_children, "bookings and live children differ")
        self._wait(self.tickets_are_requests, "the queues and the open requests differ")
        assert self.running.client.get("/readyz").status_code == 200

    def heal(self) -> None:
        """Undo every fault and let all that is open come to its end."""
        self._write_config(self.config)
        for model in MODELS:
            self.control.plan(model, **HEALTHY)
        for child in self.children():
            self.signal(child, signal.SIGCONT)
        for child in self.children():
            child.tell(**HEALTHY)
        self._wait(self._open_requests, "some requests never end", LAST)
        self.check()
        for model in MODELS:  # only now: one that was stopped may have died of a signal that it was sent before
            assert self.running.client.post(f"/v1/models/{model}/reset").status_code == 200
        self.check()

    def empty(self) -> None:
        """Heal it, and have nothing in memory."""
        self.heal()
        for model in MODELS:
            done = self.running.client.post("/v1/models/eject", json={"model": model, "force": True})
            assert done.json() == {"model": model, "status": "off"}, f"{done.text} {self._statuses()}"
        wait_until(lambda: not self.control.alive, SOON, "the end of every child")
        wait_until(lambda: not marked(str(self.control.path)), SOON, "the end of all that came of them")
        self.check()

    def rested_size(self) -> Size:
        """What the router takes with nothing in memory, once each model has been at work."""
        for model in (*MODELS, *MODELS):
            self.ask(model)
        self.empty()
        return size_of(self.running)

    def is_as_small_as(self, before: Size) -> None:
        """Whether nothing has been left behind by what was done since."""
        self.empty()
        self._wait(lambda: size_of(self.running).more_than(before), "something is left")

    def all_over(self) -> bool:
        """Look at what is open; each request that is over is judged, once."""
        for found in list(self.asked):
            if found.look():
                self.asked.remove(found)
                self.counts["left" if found.left else str(found.status)] += 1
                fault = "" if found.left else found.fault()
                assert not fault, f"{found.about}: {fault}"
                found.leave()
        return not self.asked

    def bookings_are_live_children(self) -> str:
        """Why not; empty when they are."""
        memory = self.running.client.get("/vram").json()
        booked = {
            (name, replica["id"])
            for name, held in memory["models"].items()
            for replica in held["replicas"]
            if any(replica["booked_bytes"].values())
        }
        told = {
            (name, replica["id"]): replica["pid"]
            for name, status in self._statuses().items()
            for replica in status.get("replicas", ())
            if "pid" in replica
        }
        alive = {child.pid: child.model for child in self.children()}
        ours = {group for process in self._family() if not _is_guard(process) and (group := _group(process.pid))}
        pids = {pid: name for (name, _), pid in told.items()}
        if booked != set(told) or pids != alive or ours != set(alive):
            return f"booked {booked}, told {told}, alive {alive}, groups of descendants {ours}"
        if Counter(alive.values()) - Counter(MOST):
            return f"too many children of one model: {alive}"
        for device in memory["devices"]:
            held = sum(model["booked_bytes"].get(device["id"], 0) for model in memory["models"].values())
            if device["booked_bytes"] != held or held > device["capacity_bytes"]:
                return f"{device['id']} is booked for {device['booked_bytes']}, its models for {held}"
        return ""

    def tickets_are_requests(self) -> str:
        """Why the queues and slots do not hold just what clients still wait for; empty when they do."""
        stats = self.running.client.get("/v1/queue/stats").json()["total"]
        self.all_over()
        waiting = sum("/v1/chat" in found.about for found in self.asked)
        held = stats["depth"] + stats["busy"]
        if held == waiting or (held > waiting and self._some_do_not_answer()):
            return ""
        return f"{stats['depth']} queued and {stats['busy']} busy, {waiting} open"

    def _open_requests(self) -> str:
        if self.all_over():
            return ""
        return f"{[found.about for found in self.asked]}\n{self._statuses()}"

    def _some_do_not_answer(self) -> bool:
        """Whether a child hangs, so that a slot whose client has left counts as busy until it answers again."""
        return any(child.pid in self.stopped or child.hangs for child in self.children())

    def _statuses(self) -> dict[str, Any]:
        found: dict[str, Any] = self.running.client.get("/v1/models/status").json()["models"]
        return found

    def _family(self) -> Iterator[psutil.Process]:
        """What the router has started and what came of it, but for zombies that it is about to reap."""
        for process in psutil.Process(self.running.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    @staticmethod
    def _wait(fault: Callable[[], str], what: str, within: float = SOON) -> None:
        why = ""

        def is_well() -> bool:
            nonlocal why
            why = fault()
            return not why

        try:
            wait_until(is_well, within)
        except TimeoutError:
            raise AssertionError(f"{what}: {why}") from None


def marked(mark: str) -> list[int]:
    """Processes that have this in their environment as `CHAOS`, wherever they have gone."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CHAOS") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _group(pid: int) -> int:
    """0 when it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _is_guard(process: psutil.Process) -> bool:
    try:
        return any(word.endswith("guard.py") for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Room for two of three models, one of which may have two replicas; short deadlines, and no patience."""
    folder.mkdir(parents=True, exist_ok=True)
    file = write_model(folder / "model.gguf", ModelSpec())
    with control(folder) as port:
        models = {
            name: {
                "model_path": str(file),
                "flags": ["-np", str(slots), "--control", str(port.path), *FORKS.get(name, [])],
                "env": {"CHAOS": str(port.path)},
                "max_replicas": MOST[name],
            }
            for name, slots in MODELS.items()
        }
        for name in models:
            port.plan(name, **HEALTHY)
        env = {"LLAMA_SERVER_PATH": str(make_fake_binary(folder))}
        program = (str(WATCHED), str(folder / "tasks"))
        with router(folder, models, system=_SYSTEM, env=env, program=program) as running:
            found = World(running, port)
            yield found
            found.empty()
        before, trace, after = running.log.partition("Traceback")
        assert not trace, before[-500:] + trace + after[:5000]
