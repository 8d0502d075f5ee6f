"""The bounded log of a child."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.backends.child_log import MAX_LINE_BYTES, RING_LINES, ChildLog, log_file_name
from router.backends.log_file import MAX_WAITING_BYTES
from tests.fakes.posting import StuckDisk, at_once


@pytest.fixture
def log(tmp_path: Path) -> ChildLog:
    return ChildLog(tmp_path / "logs" / "m.log", secrets=("s3cret-key",), max_bytes=2000, post=at_once)


def test_lines_arrive_whole_however_they_are_cut(log: ChildLog) -> None:
    for piece in (b"one\ntw", b"o\n", b"th", b"ree"):
        log.feed(piece)
    assert log.lines() == ("one", "two", "three")
    log.close()
    assert log.path.read_text() == "one\ntwo\nthree\n"


def test_the_tail_is_the_end(log: ChildLog) -> None:
    log.feed(b"a\nb\nc\n")
    assert log.tail(2) == "b\nc"
    assert log.tail(0) == ""


def test_memory_is_bounded(log: ChildLog) -> None:
    log.feed(b"".join(b"%d\n" % n for n in range(10_000)))
    assert len(log.lines()) == RING_LINES
    assert log.lines()[-1] == "9999"


def test_disk_is_bounded_and_the_newest_is_kept(log: ChildLog, tmp_path: Path) -> None:
    for n in range(2000):
        log.feed(b"line %d\n" % n)
    files = sorted(path.name for path in log.path.parent.iterdir())
    assert files == ["m.log", "m.log.1"]
    assert sum(path.stat().st_size for path in log.path.parent.iterdir()) <= 4000
    assert log.path.read_text().endswith("line 1999\n")


def test_one_chunk_larger_than_the_file_is_bounded_too(log: ChildLog) -> None:
    log.feed(b"x\n" * 100_000)
    assert log.path.stat().st_size <= 2000


def test_the_next_child_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for words in (b"first\n", b"second\n"):
        log = ChildLog(tmp_path / "m.log", post=at_once)
        log.feed(words)
        log.close()
    assert (tmp_path / "m.log").read_text() == "first\nsecond\n"


def test_a_long_line_is_cut_and_says_so(log: ChildLog) -> None:
    for _ in range(200):
        log.feed(b"x" * 1024)
    log.feed(b"\nnext\n")
    long, after = log.lines()
    assert long.startswith("x" * MAX_LINE_BYTES)
    assert long.endswith(f"[{200 * 1024 - MAX_LINE_BYTES} bytes cut]")
    assert after == "next"


@pytest.mark.parametrize("cut", range(12))
def test_a_secret_is_blotted_out_across_chunks(log: ChildLog, cut: int) -> None:
    text = b"the key is s3cret-key, really"
    log.feed(text[: 10 + cut])
    assert "s3cret-key" not in log.tail()
    log.feed(text[10 + cut :] + b"\n")
    assert log.lines() == ("the key is [redacted], really",)


@pytest.mark.parametrize("before", range(MAX_LINE_BYTES - 12, MAX_LINE_BYTES + 2))
def test_no_part_of_a_secret_survives_the_cut(log: ChildLog, before: int) -> None:
    log.feed(b"s3cret-key" + b"." * (before - 10) + b"s3cret-key" + b"x" * 5000 + b"\n")
    assert "s3" not in log.lines()[0]


def test_control_characters_cannot_forge_lines(log: ChildLog) -> None:
    log.feed(b"\x1b[31mred\x1b[0m\r\x07 and\xff\tmore\n")
    assert log.lines() == ("red and\ufffd\tmore",)


def test_a_file_that_cannot_be_written_never_stops_the_draining(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    log = ChildLog(tmp_path / "logs" / "m.log", post=at_once)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            log.feed(b"still here\n")
    assert log.lines()[-1] == "still here"
    assert len(caplog.records) == 1
    log.close()


def test_a_disk_that_hangs_holds_nobody_up_and_what_it_misses_is_counted(tmp_path: Path) -> None:
    disk, line = StuckDisk(), b"x" * 999
    log = ChildLog(tmp_path / "m.log", post=disk.post)
    fit = MAX_WAITING_BYTES // (len(line) + 1)
    for _ in range(fit + 7):
        log.feed(line + b"\n")
    assert log.tail(1) == line.decode(), "in memory there is all"
    assert len(disk.calls) == 1
    log.close()
    disk.release()
    written = (tmp_path / "m.log").read_text().splitlines()
    assert written[:-1] == [line.decode()] * fit
    assert written[-1] == "--- 7 lines are missing here: the disk was too slow"


def test_what_is_not_taken_now_is_written_with_the_next_line(tmp_path: Path) -> None:
    disk = StuckDisk(room=0)
    log = ChildLog(tmp_path / "m.log", post=disk.post)
    log.feed(b"one\n")
    disk.room = 64
    log.feed(b"two\n")
    disk.release()
    assert (tmp_path / "m.log").read_text() == "one\ntwo\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_never_stops_the_draining(tmp_path: Path) -> None:
    (tmp_path / "m.log").symlink_to("/dev/full")
    log = ChildLog(tmp_path / "m.log", post=at_once)
    log.feed(b"a\nb\n")
    assert log.lines() == ("a", "b")
    log.close()


def test_feeding_after_the_end_is_harmless(log: ChildLog) -> None:
    log.close()
    log.feed(b"late\n")
    assert log.lines() == ("late",)
    assert not log.path.exists()


def test_a_new_process_starts_with_empty_memory(log: ChildLog) -> None:
    log.feed(b"old\n")
    log.start_over()
    assert log.lines() == ()


def test_notes_are_in_the_file_only(log: ChildLog) -> None:
    log.note("started, pid 7")
    assert log.lines() == ()
    assert "started, pid 7" in log.path.read_text()


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_only_the_owner_may_read_it(log: ChildLog) -> None:
    log.feed(b"a\n")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_file_names_tell_aliases_apart() -> None:
    aliases = ["a/b", "a_b", "a%2Fb", "a:b", "..", ".", "ünï 模型", "模" * 80, "模" * 81]
    names = [log_file_name(alias, number) for alias in (*aliases, "m", "m+2", "m%2B2") for number in range(3)]
    assert len(set(names)) == len(names)


@given(st.text(min_size=1, max_size=300).filter(lambda text: text.isprintable()))
def test_every_alias_has_a_safe_file_name(alias: str) -> None:
    name = log_file_name(alias)
    assert Path(name).name == name
    assert len(name) <= 255
    assert name.isascii()


def test_what_a_child_announces_is_kept_until_another_starts(log: ChildLog) -> None:
    announced = []
    log.feed(b'{"type":"log","time":1,"level":"info","msg":"loading\\u202e\\n"}\n')
    announced.append(log.load.projected)
    log.feed(b'{"type":"fit_memory_breakdown","data":{"unit":"MiB","rows":[{"kind":"host","name":"Host","self":3}]}}\n')
    announced.append(log.load.projected)
    assert log.lines()[0] == "0.00.000.001 I loading"
    log.start_over()
    announced.append(log.load.projected)
    assert announced == [None, (0, 3 * 1024**2), None]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b'got exception: {"error":{"message":"Failed to parse: the prompt"}}', "got exception: "),
        (b"slot 1 | got exception: the prompt", "slot 1 | got exception: "),
        (b"got another exception: the prompt | while handling exception: the prompt", "got another exception: "),
        (b"anthropic string not as expected: the prompt", "anthropic string not as expected: "),
        (b'{"type":"log","time":1,"level":"w","msg":"got exception: {the prompt\\nthe prompt}"}', "got exception: "),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b""], ids=["whole", "coming in"])
def test_what_quotes_a_request_is_left_out(log: ChildLog, said: bytes, kept: str, end: bytes) -> None:
    log.feed(said + end)
    (line,) = log.lines()
    assert "the prompt" not in line
    if end:
        assert line.endswith(f"{kept}[left out, as it may quote a request]")
    log.close()
    assert b"the prompt" not in log.path.read_bytes()


@pytest.mark.parametrize("after", [b"0.00.067.225 E failed to parse grammar\n", b"failed to parse grammar\n"])
def test_a_grammar_that_is_refused_is_left_out_whole(log: ChildLog, after: bytes) -> None:
    log.feed(b"parse: error parsing grammar: expecting ')' at the prompt\n\nroot ::= the prompt\n")
    log.feed(b"fit: error: the prompt\n, the pro")
    assert "the pro" not in log.tail()
    log.feed(b"mpt\n" + after + b"next\n")
    assert log.lines() == (
        "parse: error parsing grammar: [left out, as it may quote a request]",
        after.decode().strip(),
        "next",
    )
    log.close()
    assert "the prompt" not in log.path.read_text()


def test_the_next_child_begins_with_its_first_line(log: ChildLog) -> None:
    log.feed(b"parse: error parsing grammar: x\n")
    log.start_over()
    log.feed(b"first\n")
    assert log.lines() == ("first",)


def test_a_log_of_another_form_is_shown_again_some_time(log: ChildLog) -> None:
    log.feed(b"parse: error parsing grammar: x\n" + b"a\n" * 10_001)
    assert log.lines()[-1] == "a"


def test_where_an_image_is_fetched_from_is_left_out(log: ChildLog) -> None:
    log.feed(b"0.01.000.000 I srv  handle_media: downloading image from 'http://host/?token=x'\n")
    assert log.tail().endswith("downloading image from [left out, as it may quote a request]")
