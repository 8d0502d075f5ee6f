"""Stream tickets: single use, short life, bounded number."""

import pytest

from router.api.tickets import LIFETIME_SEC, TicketOffice
from router.errors import Overloaded


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_ticket_is_good_once() -> None:
    office = TicketOffice(Clock())
    ticket = office.issue()
    assert office.redeem(ticket)
    assert not office.redeem(ticket)


def test_a_stranger_is_not_let_in() -> None:
    office = TicketOffice(Clock())
    office.issue()
    for guess in ("", "x", "\ud800"):
        assert not office.redeem(guess)


def test_a_ticket_lives_a_minute() -> None:
    clock = Clock()
    office = TicketOffice(clock)
    early, late = office.issue(), office.issue()
    clock.now = LIFETIME_SEC - 0.001
    assert office.redeem(early)
    clock.now = LIFETIME_SEC
    assert not office.redeem(late)


def test_tickets_differ() -> None:
    office = TicketOffice(Clock())
    assert len({office.issue() for _ in range(100)}) == 100


def test_open_tickets_are_bounded_until_the_old_ones_expire() -> None:
    clock = Clock()
    office = TicketOffice(clock, max_open=2)
    office.issue()
    office.issue()
    with pytest.raises(Overloaded) as refused:
        office.issue()
    assert refused.value.headers()["retry-after"] == "30"
    clock.now = LIFETIME_SEC
    assert office.redeem(office.issue())


def test_the_ticket_itself_is_not_kept() -> None:
    office = TicketOffice(Clock())
    ticket = office.issue()
    assert ticket not in repr(vars(office))
