"""The test's end of the fake llama-servers' control ports (`tests.fakes.llama_control`)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_DEADLINE = 10.0


class FakeChild:
    """One fake llama-server, from the moment it was started to its end.

    Attributes:
        alive: its connection stands, so the process does too.
        hangs: it was told to answer nothing.
    """

    def __init__(
        self, connection: socket.socket, plans: Mapping[str, Mapping[str, Any]], met: Callable[[FakeChild], None]
    ) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._asking = threading.Lock()
        self._answered = threading.Semaphore(0)
        self.alive = True
        self.hangs = False
        about = json.loads(self._lines.readline())
        self.pid: int = about["pid"]
        self.model: str = about["model"]
        self.port: int = about["port"]
        met(self)
        connection.sendall(_line({"set": plans.get(self.model, {})}))
        self._lines.readline()

    def tell(self, **switches: Any) -> None:
        """Set switches, named as the fake's flags with underscores; returns when they are."""
        self.hangs = bool(switches.get("hang", self.hangs))
        self._order({"set": switches})

    def do(self, deed: str, amount: int = 0) -> None:
        """Have it do one of `llama_faults.DEEDS`; returns when it has done it, or died of it."""
        self._order({"do": deed, "amount": amount})

    def _order(self, order: Mapping[str, Any]) -> None:
        with self._asking:
            try:
                self._connection.sendall(_line(order))
            except OSError:
                return  # it is gone, which `alive` tells
            assert self._answered.acquire(timeout=_DEADLINE), f"{self.model} (pid {self.pid}) does not obey"

    def read_to_the_end(self) -> None:
        """Take its answers in until it is gone."""
        with self._connection, self._lines, suppress(OSError):
            for _ in self._lines:
                self._answered.release()
        self.alive = False
        self._answered.release()

    def let_go(self) -> None:
        """End the connection; the child lives on, if it does."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class Control:
    """Takes in every fake llama-server that is started with `--control` and this path.

    Attributes:
        path: of the socket.
        children: all that ever came, in that order.
        met: called with each child that comes, before it may open its port.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.met: Callable[[FakeChild], None] = lambda child: None
        self.children: list[FakeChild] = []
        self._plans: dict[str, Mapping[str, Any]] = {}
        self._attending: list[threading.Thread] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        self._accepting = threading.Thread(target=self._accept, name="control")
        self._accepting.start()

    @property
    def alive(self) -> list[FakeChild]:
        return [child for child in self.children if child.alive]

    def plan(self, model: str, **switches: Any) -> None:
        """What children of this model that come from now on are told before they load; replaces the last plan."""
        self._plans[model] = switches

    def child(self, pid: int) -> FakeChild:
        return next(child for child in reversed(self.children) if child.pid == pid)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join(_DEADLINE)
        self._socket.close()
        for child in self.children:
            child.let_go()
        for thread in self._attending:
            thread.join(_DEADLINE)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._attending = [thread for thread in self._attending if thread.is_alive()]
            self._attending.append(threading.Thread(target=self._attend, args=(connection,), name="attends a child"))
            self._attending[-1].start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            child = FakeChild(connection, self._plans, self.met)
        except (OSError, ValueError):  # it died before it had said who it is
            connection.close()
            return
        self.children.append(child)
        child.read_to_the_end()


def _line(order: Mapping[str, Any]) -> bytes:
    return json.dumps(order).encode() + b"\n"


@contextmanager
def control(folder: Path) -> Iterator[Control]:
    """A control port for the fakes; the path must be short, as Unix sockets' are."""
    found = Control(folder / "control")
    try:
        yield found
    finally:
        found.close()
