"""What a child says, read from a pipe whose descriptor is closed once."""

from __future__ import annotations

import os
import re
import sys

import pytest

from router.backends.output_pipe import OutputPipe
from tests.support.router import ROOT
from tests.support.waiting import until

if sys.platform == "win32":
    pytest.skip("a thread reads it there", allow_module_level=True)

_GIVEN_AWAY = re.compile(r"\.(connect_(read|write)_pipe|create_subprocess_\w+)\(")


async def test_all_that_is_said_arrives_in_order() -> None:
    heard: list[bytes] = []
    pipe, write_end = OutputPipe.open(heard.append)
    said = os.urandom(48 * 1024)
    os.write(write_end, said)
    os.write(write_end, b"end")
    os.close(write_end)
    await pipe.drain(timeout=10)
    assert b"".join(heard) == said + b"end"


async def test_what_others_hold_open_is_not_waited_for() -> None:
    heard: list[bytes] = []
    pipe, write_end = OutputPipe.open(heard.append)
    os.write(write_end, b"so far")
    await until(lambda: bool(heard))
    await pipe.drain(timeout=0)
    with pytest.raises(BrokenPipeError):
        os.write(write_end, b"more")
    os.close(write_end)
    assert heard == [b"so far"]


async def test_it_may_be_closed_again() -> None:
    pipe, write_end = OutputPipe.open(lambda piece: None)
    pipe.close()
    os.close(write_end)
    other = os.pipe()  # has the number now
    pipe.close()
    await pipe.drain(timeout=0)
    for descriptor in other:
        os.close(descriptor)


def test_no_pipe_is_given_to_the_event_loop() -> None:
    """uvloop would close it twice, and the second time whatever has its number by then; see `OutputPipe`."""
    givers = [path.name for path in (ROOT / "router").rglob("*.py") if _GIVEN_AWAY.search(path.read_text("utf-8"))]
    assert not givers
