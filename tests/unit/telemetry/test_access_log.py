"""The access log: what a line looks like, when lines are written, and what happens when nobody reads them."""

import asyncio
import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from router.telemetry.access_log import AccessLog
from router.telemetry.logs import LineFormatter, forget, redact
from tests.support.waiting import until

LINE = "method=POST path=/v1/chat/completions status=200"


class Pipe:
    """A stream whose reader reads when it is told to."""

    def __init__(self) -> None:
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.stream: TextIO = os.fdopen(writing, "w")

    def read(self) -> str:
        """What there is."""
        found = b""
        try:
            while chunk := os.read(self._reading, 1 << 20):
                found += chunk
        except BlockingIOError:
            pass
        return found.decode()

    def leave(self) -> None:
        os.close(self._reading)
        self._reading = -1

    def close(self) -> None:
        if self._reading >= 0:
            os.close(self._reading)
        self.stream.close()


@contextlib.contextmanager
def deadline(seconds: float, then: Callable[[], None]) -> Iterator[None]:
    """`then` frees a block that is stuck in a call of the system, so that its test fails instead of hanging."""
    timer = threading.Timer(seconds, then)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    found = Pipe()
    yield found
    found.close()


async def test_a_line_looks_like_the_other_lines_of_the_log() -> None:
    written = io.StringIO()
    with AccessLog(written, enabled=True) as log:
        log.write(LINE)
    record = logging.LogRecord("router.access", logging.INFO, "", 0, LINE, None, None)
    other = LineFormatter(colour=False).format(record)
    digits = re.compile(r"\d(?=[\d:. -]* INFO)")
    assert digits.sub("0", written.getvalue()) == digits.sub("0", other) + "\n"


async def test_lines_are_written_together_a_moment_later(pipe: Pipe) -> None:
    with AccessLog(pipe.stream, enabled=True) as log:
        log.write("one")
        log.write("two")
        assert not pipe.read()
        found = ""

        def both() -> bool:
            nonlocal found
            found += pipe.read()
            return found.count("\n") == 2

        await until(both)
        log.write("three")
        await until(lambda: "three" in pipe.read())
    assert [line.rpartition(" ")[2] for line in found.splitlines()] == ["one", "two"]


async def test_many_lines_are_not_kept_for_long(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream, AccessLog(stream, enabled=True) as log:
        for _ in range(1000):
            log.write("x" * 100)
        assert (tmp_path / "log").stat().st_size > 64 * 1024, "they wait for no timer"
    assert (tmp_path / "log").read_text().count("\n") == 1000


async def test_the_last_lines_are_written_at_the_end(pipe: Pipe) -> None:
    with AccessLog(pipe.stream, enabled=True) as log:
        log.write("last")
    assert "last" in pipe.read()
    log.write("too late")
    log.flush()
    assert not pipe.read()


async def test_secrets_and_control_characters_are_taken_out() -> None:
    written = io.StringIO()
    redact("s3cret-key")
    try:
        with AccessLog(written, enabled=True) as log:
            log.write("path=/s3cret-key")
            log.write("a\nforged\x1b[31m\x7f")
            log.write("ünï\u2028模型 \ud800")
    finally:
        forget("s3cret-key")
    lines = [line.partition("router.access  ")[2] for line in written.getvalue().split("\n")]
    assert lines == ["path=/[redacted]", "a\\nforged\\x1b[31m\\x7f", "ünï\\u2028模型 \\ud800", ""]


async def test_a_reader_that_stands_still_stops_nobody(pipe: Pipe) -> None:
    with AccessLog(pipe.stream, enabled=True) as log:
        for number in range(40_000):
            log.write(f"{number:06} {'x' * 100}")
        log.flush()
        found = pipe.read()
        assert 0 < found.count("\n") < 2000, "what a pipe holds"

        def told() -> bool:
            nonlocal found
            found += pipe.read()
            return "dropped" in found

        await until(told)
        log.write("after")
    found += pipe.read()
    lines = [line.partition("router.access  ")[2] for line in found.splitlines()]
    numbers = [int(line[:6]) for line in lines if line[:6].isdigit()]
    assert numbers == list(range(len(numbers))), "those that were kept are whole and in order"
    warning = next(line for line in lines if "dropped" in line)
    assert warning == f"{40_000 - len(numbers)} lines were dropped: the log was not read fast enough"
    assert lines[-1] == "after"
    assert "WARNING router.access" in found


async def test_no_line_is_torn_where_the_reader_stops(pipe: Pipe) -> None:
    with AccessLog(pipe.stream, enabled=True) as log:
        for number in range(2000):
            log.write(f"{number} {'x' * 133}")
        log.flush()
        assert pipe.read().endswith("x\n")


async def test_a_reader_that_never_comes_back_does_not_keep_the_end_waiting(pipe: Pipe) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    with AccessLog(pipe.stream, enabled=True) as log:
        for _ in range(20_000):
            log.write("x" * 100)
    assert loop.time() - started < 4.0


async def test_a_reader_that_is_gone_is_no_error(pipe: Pipe) -> None:
    with AccessLog(pipe.stream, enabled=True) as log:
        pipe.leave()
        log.write(LINE)
        log.flush()
        log.write(LINE)


async def test_a_stream_that_somebody_made_non_blocking(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    with AccessLog(pipe.stream, enabled=True) as log:
        for _ in range(2000):
            log.write("x" * 100)
        found = ""
        while chunk := pipe.read():
            found += chunk
            log.flush()
    assert found.count("\n") == 2000


async def test_a_terminal_whose_reader_stands_still_stops_nobody() -> None:
    reading, writing = os.openpty()
    loop = asyncio.get_running_loop()
    with os.fdopen(writing, "w") as stream:
        started = loop.time()
        with deadline(20, lambda: os.close(reading)), AccessLog(stream, enabled=True) as log:
            for number in range(2000):
                log.write(f"{number:06} {'x' * 100}")
                log.flush()
        assert loop.time() - started < 5.0
        assert os.get_blocking(writing), "others who have it do not notice"
        found = os.read(reading, 1 << 16)
        assert found.count(b"\n") > 1
    os.close(reading)


async def test_the_lines_of_a_terminal_are_whole_and_in_order() -> None:
    reading, writing = os.openpty()
    os.set_blocking(reading, False)
    found = b""
    limit = deadline(20, lambda: os.close(reading))
    with limit, os.fdopen(writing, "w") as stream, AccessLog(stream, enabled=True) as log:
        for number in range(1000):
            log.write(f"{number:06} {'x' * 100}")

        def all_read() -> bool:
            nonlocal found
            with contextlib.suppress(BlockingIOError):
                found += os.read(reading, 1 << 16)
            return found.count(b"\n") == 1000

        await until(all_read)
    os.close(reading)
    assert [int(line[-107:-101]) for line in found.split(b"\r\n")[:-1]] == list(range(1000))


async def test_a_terminal_is_closed_at_the_end() -> None:
    reading, writing = os.openpty()
    before = descriptors()
    with os.fdopen(writing, "w") as stream:
        with AccessLog(stream, enabled=True) as log:
            assert descriptors() == before + 1
        assert descriptors() == before
        log.flush()
    os.close(reading)


@pytest.mark.parametrize(("level", "lines"), [(logging.INFO, 1), (logging.WARNING, 0)])
async def test_the_level_of_its_logger_turns_it_off(level: int, lines: int) -> None:
    logger, written = logging.getLogger("router.access"), io.StringIO()
    logger.setLevel(level)
    try:
        with AccessLog(written) as log:
            assert log.enabled is (level == logging.INFO)
            log.write(LINE)
    finally:
        logger.setLevel(logging.NOTSET)
    assert written.getvalue().count("\n") == lines
