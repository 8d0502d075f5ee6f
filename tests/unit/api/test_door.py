"""How many come in, and who is counted as whom."""

from __future__ import annotations

import contextlib

import pytest

from router.api.door import Door, Limits
from router.api.errors import TooManyConnections
from router.api.forwarding import Proxies
from router.errors import Overloaded


class Guest:
    """A connection that counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks: list[int] = []

    def look(self, now: float, haste: int) -> None:
        self.looks.append(haste)


def refused(door: Door, host: str | None, count: int) -> int:
    """How many of so many connections are refused."""
    return sum(door.enter(Guest(), host) is not None for _ in range(count))


async def test_so_many_of_one_address() -> None:
    door = Door(Limits(per_peer=2))
    assert refused(door, "192.0.2.1", 3) == 1
    assert refused(door, "192.0.2.2", 2) == 0
    found = door.enter(Guest(), "192.0.2.1")
    assert found is not None
    error, reason = found
    assert isinstance(error, TooManyConnections)
    assert reason == "peer_connections"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
async def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    door = Door(Limits(per_peer=1))
    assert refused(door, one, 1) == 0
    assert refused(door, other, 1) == same


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "10.1.2.3", None])
async def test_this_machine_and_proxies_are_not_counted(host: str | None) -> None:
    door = Door(Limits(per_peer=1, proxies=Proxies(["10.0.0.0/8"])))
    assert refused(door, host, 20) == 0


async def test_so_many_together() -> None:
    door = Door(Limits(connections=1))
    assert door.enter(Guest(), None) is None
    found = door.enter(Guest(), None)
    assert found is not None
    assert isinstance(found[0], Overloaded)


async def test_who_leaves_makes_room() -> None:
    door = Door(Limits(per_peer=1, connections=1))
    guest = Guest()
    assert door.enter(guest, "192.0.2.1") is None
    door.leave(guest)
    assert door.counts.open == 0
    assert door.enter(guest, "192.0.2.1") is None


async def test_beyond_some_they_are_not_even_told() -> None:
    door = Door(Limits(connections=10))
    assert refused(door, "127.0.0.1", 10 + 64) == 64
    with pytest.raises(ConnectionRefusedError):
        door.enter(Guest(), "127.0.0.1")
    assert door.counts.refused["connections"] == 1


async def test_when_few_more_fit_the_idle_ones_go_sooner() -> None:
    door = Door(Limits(connections=8))
    guests = [Guest() for _ in range(8)]
    for guest in guests[:7]:
        door.enter(guest, None)
    door._look()
    door.enter(guests[7], None)
    door._look()
    assert guests[0].looks == [1, 10]


async def test_all_are_looked_at_and_not_all_at_once() -> None:
    door = Door(Limits())
    guests = [Guest() for _ in range(1000)]
    for guest in guests:
        door.enter(guest, None)
    door._look()
    assert 0 < sum(len(guest.looks) for guest in guests) < 1000
    while door._round:
        door._look()
    assert {len(guest.looks) for guest in guests} == {1}


async def test_many_refusals_are_counted_and_few_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(Limits())
    with contextlib.suppress(ConnectionRefusedError):
        door.enter(Guest(), None)
    for _ in range(100):
        door.note("malformed", "192.0.2.1", "No.")
    assert door.counts.refused["malformed"] == 100
    assert len(caplog.records) == 1
    door.now += 60
    door.note("malformed", None, "No.")
    assert "99 more" in caplog.text
