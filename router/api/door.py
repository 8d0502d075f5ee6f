"""How many connections may be open, and how long each may take over what it owes the server."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from router.api.errors import TooManyConnections
from router.api.forwarding import Proxies
from router.errors import Overloaded, RouterError
from router.telemetry.connections import ConnectionCounts, Refusal

_TICK_SEC = 1.0
_LOOKS = 4  # within the shortest limit, if that is short
_HASTE = 10  # so much sooner an idle connection is closed when few more fit
_SLACK = 64  # connections over a limit that still hear why they are refused
_AT_ONCE = 256
_QUIET_SEC = 10.0  # between two lines of the log about refusals
_log = logging.getLogger("router.api")


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take of the server; see `api` in docs/configuration.md. Times are seconds.

    Attributes:
        header_timeout: for a request's head, and for the first byte of a fresh connection.
        body_timeout: that a body may stand still, and that it may be behind its `Pace`.
        keep_alive: without a request.
        send_timeout: that a client may take nothing of what waits for it.
        connections: open at once.
        per_peer: of these, of one address; of an IPv6 network of 64 bits.
        requests: being answered at once.
        proxies: not counted per address, as they speak for many.
    """

    header_timeout: float = 20.0
    body_timeout: float = 60.0
    keep_alive: float = 75.0
    send_timeout: float = 60.0
    connections: int = 12_000
    per_peer: int = 1024
    requests: int = 4096
    proxies: Proxies = Proxies(())  # noqa: RUF009  it is immutable


class Guest(Protocol):
    """A connection."""

    def look(self, now: float, haste: int) -> None:
        """Close it if it has used up its time; if it is idle, after that divided by `haste`."""


class Door:
    """Counts connections in and out, and looks after all of them with one timer.

    Attributes:
        now: the loop's time at the last look. A moment later by up to `tick` costs a request nothing to know.
        tick: seconds from look to look.
    """

    def __init__(self, limits: Limits, counts: ConnectionCounts | None = None) -> None:
        self.limits = limits
        self.counts = counts or ConnectionCounts()
        self.now = 0.0
        self.tick = min(_TICK_SEC, min(limits.header_timeout, limits.body_timeout, limits.keep_alive) / _LOOKS)
        self._guests: dict[Guest, str | None] = {}
        self._peers: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._round: list[Guest] = []  # who is still to be looked at
        self._quiet_until = 0.0
        self._unsaid = 0

    def enter(self, guest: Guest, host: str | None) -> tuple[RouterError, Refusal] | None:
        """Every connection does, and then leaves, also one that is refused: it gets the error to tell.

        Raises ConnectionRefusedError for one that is not even told.
        """
        if self._timer is None:
            self._look_later()
        peer = None if host is None or host in self.limits.proxies else _peer(host)
        self._guests[guest] = peer
        self.counts.open = total = len(self._guests)
        of_peer = 0
        if peer is not None:
            self._peers[peer] = of_peer = self._peers.get(peer, 0) + 1
        if total > self.limits.connections:
            return self._too_many("connections", total - self.limits.connections)
        if of_peer > self.limits.per_peer:
            return self._too_many("peer_connections", of_peer - self.limits.per_peer)
        return None

    def leave(self, guest: Guest) -> None:
        peer = self._guests.pop(guest)
        self.counts.open = len(self._guests)
        if peer is not None:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def note(self, reason: Refusal, host: str | None, message: str) -> None:
        """Something was refused. All are counted; of many within seconds one has a line in the log."""
        self.counts.refused[reason] += 1
        if self.now < self._quiet_until:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more before, see router_refusals_total)" if self._unsaid else ""
        self._quiet_until, self._unsaid = self.now + _QUIET_SEC, 0
        _log.warning("Refused what %s sent: %s%s", host or "a client", message, more)

    def _too_many(self, reason: Refusal, over: int) -> tuple[RouterError, Refusal]:
        if over > _SLACK:
            self.note(reason, None, "too many connections")
            raise ConnectionRefusedError
        if reason == "connections":
            message = f"More than {self.limits.connections} connections are open (api.max_connections). Try again."
            return Overloaded(message, retry_after=2), reason
        message = f"More than {self.limits.per_peer} connections from one address (api.max_connections_per_peer)."
        return TooManyConnections(message, retry_after=2), reason

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self._timer = loop.call_later(self.tick, self._look)

    def _look(self) -> None:
        """At so many in one turn of the loop: to tell thousands at once that they are late would hold up all others."""
        if not self._round:
            self._round = list(self._guests)
        haste = _HASTE if len(self._guests) > self.limits.connections * 7 // 8 else 1
        some, self._round = self._round[:_AT_ONCE], self._round[_AT_ONCE:]
        for guest in some:
            if guest in self._guests:  # still
                guest.look(self.now, haste)
        if self._round:
            self._timer = asyncio.get_running_loop().call_later(0, self._look)
        elif self._guests:
            self._look_later()
        else:
            self._timer = None


@lru_cache(maxsize=1024)
def _peer(host: str) -> str | None:
    """By what a peer is counted: its address, or the network that one IPv6 subscriber has. None = it is not."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return None if address.is_loopback else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)
