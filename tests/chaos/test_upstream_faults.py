"""Answers that no server should give: broken framing, nonsense, huge lines, errors, connections that end anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.chaos.world import HEALTHY, World
from tests.support.control import FakeChild
from tests.support.expect import expect_broken_stream, expect_error
from tests.support.observing import metric, read_to_the_end, stream

KIB = 1024
MODEL = "b"
IN_MID_STREAM = [
    {"bad_chunking": True},
    {"bad_sse": True, "close_after_bytes": 700},
    {"close_after_bytes": 700},
    {"reset_after_bytes": 700},
    {"crash_after_bytes": 700},
]
BEFORE_THE_FIRST_BYTE = [
    ({"bad_head": True}, True),
    ({"close_after_bytes": 1}, False),
    ({"crash_after_bytes": 1}, True),
]  # and whether a stream is asked for


@pytest.fixture
def broken(anything: World) -> Iterator[FakeChild]:
    """A child to be broken; afterwards everything is as it was."""
    assert anything.running.chat(MODEL).status_code == 200
    yield from anything.alive_children(MODEL)
    anything.heal()
    assert anything.running.chat(MODEL).status_code == 200


def told(anything: World, fault: dict[str, Any]) -> None:
    """Have this child and all that follow it fail so."""
    anything.control.plan(MODEL, **{**HEALTHY, **fault})
    for child in anything.alive_children(MODEL):
        child.tell(**fault)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("fault", IN_MID_STREAM, ids=str)
def test_a_stream_that_breaks_says_so(anything: World, fault: dict[str, Any]) -> None:
    told(anything, fault)
    with stream(anything.running, MODEL, max_tokens=50) as response:
        wire, ended = read_to_the_end(response)
    assert not ended
    if "bad_sse" in fault:  # what is between the framing is passed on as it is
        assert b'"error"' in wire
        assert b"[DONE]" not in wire
    else:
        assert wire.count(b"data: ") > 1
        expect_broken_stream(wire)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(("fault", "streamed"), BEFORE_THE_FIRST_BYTE, ids=str)
def test_what_nobody_has_heard_of_is_asked_three_times(anything: World, fault: dict[str, Any], streamed: bool) -> None:
    replays = metric(anything.running, "router_replays_total", model=MODEL)
    told(anything, fault)
    refused = anything.running.chat(MODEL, stream=streamed)
    expect_error(refused, 502, 503)
    assert metric(anything.running, "router_replays_total", model=MODEL) == replays + 2


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("status", [400, 500, 503])
def test_an_error_of_its_own_is_told_as_it_is(anything: World, status: int) -> None:
    told(anything, {"status": status})
    error = expect_error(anything.running.chat(MODEL), status)
    assert error["message"] == "fake trouble"
    told(anything, {"status": None})


@pytest.mark.usefixtures("broken")
def test_a_huge_line_is_passed_on_whole(anything: World) -> None:
    told(anything, {"huge_event": 200})
    with stream(anything.running, MODEL, max_tokens=3) as response:
        wire, ended = read_to_the_end(response)
    assert ended
    assert wire.count(b"x" * 200 * KIB) == 3
    assert wire.endswith(b"data: [DONE]\n\n")
    told(anything, {"huge_event": None})


def test_a_reset_of_a_kept_connection_is_not_noticed(anything: World, broken: FakeChild) -> None:
    replays = metric(anything.running, "router_replays_total", model=MODEL)
    broken.tell(reset_reused=True)
    answers: list[httpx.Response] = [anything.running.chat(MODEL) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert metric(anything.running, "router_replays_total", model=MODEL) == replays
