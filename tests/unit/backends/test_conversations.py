"""The store of kept conversations: names, bounds, order, permissions, and what a crash leaves behind."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from router.backends.conversations import MAX_PER_MODEL, Conversation, ConversationFolder, ConversationStore
from tests.support.kv import kv_bytes

LIMIT = 10_000


@pytest.fixture
def store(tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "kept", LIMIT)


@pytest.fixture
def folder(store: ConversationStore) -> ConversationFolder:
    return store.open("aa")


def put(
    folder: ConversationFolder,
    first: int,
    *,
    used: int,
    size: int = 1000,
    tokens: Sequence[int] = (),
    context: int = 4096,
) -> list[Conversation] | None:
    """Keep a conversation that begins with this token, in a file of so many bytes."""
    part = folder.begin()
    words = [first, *tokens]
    part.write_bytes(kv_bytes(words, padding=size - 12 - 4 * len(words)))
    return folder.keep(part, tokens=len(words), size=size, prefill=2.5, context=context, used=used)


def firsts(folder: ConversationFolder, count: int = 100) -> list[int]:
    """The first tokens of what is kept, the last used first."""
    return [int.from_bytes(one.path.read_bytes()[12:16], "little") for one in folder.newest(count)]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_name_tells_what_is_in_a_file(folder: ConversationFolder) -> None:
    assert put(folder, 1, used=5_000, tokens=range(9)) == []
    (kept,) = folder.newest(5)
    assert (kept.tokens, kept.bytes, kept.prefill, kept.context, kept.used) == (10, 1000, 2.5, 4096, 5_000)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_they_are_for_their_owner_alone(store: ConversationStore, tmp_path: Path) -> None:
    (tmp_path / "kept" / "aa").mkdir(parents=True)  # by somebody with a generous umask
    before = os.umask(0)
    try:
        folder = store.open("aa")
        assert mode(folder.begin()) == 0o600
        put(folder, 1, used=1)
    finally:
        os.umask(before)
    assert [mode(one.path) for one in folder.newest(5)] == [0o600]
    assert mode(folder.path) == mode(folder.path.parent) == 0o700


def test_the_last_used_come_first(folder: ConversationFolder) -> None:
    for first, used in ((1, 30), (2, 10), (3, 20)):
        put(folder, first, used=used)
    assert firsts(folder, 2) == [1, 3]


def test_the_limit_is_over_all_models_and_takes_the_oldest(store: ConversationStore) -> None:
    one, other = store.open("aa"), store.open("bb")
    for number in range(6):
        put(one if number % 2 else other, number, used=number, size=2000)
    assert firsts(one) == [5, 3, 1]
    assert firsts(other) == [4, 2]


def test_what_is_larger_than_the_limit_is_not_begun(folder: ConversationFolder) -> None:
    assert folder.has_room(LIMIT)
    assert not folder.has_room(LIMIT + 1)


def test_the_disk_is_never_filled(tmp_path: Path) -> None:
    endless = ConversationStore(tmp_path / "kept", 1 << 60)
    folder = endless.open("aa")
    assert folder.has_room(1000)
    assert not folder.has_room(1 << 50)


def test_a_model_has_so_many_at_most(folder: ConversationFolder) -> None:
    for number in range(MAX_PER_MODEL + 3):
        put(folder, number, used=number, size=100)
    assert firsts(folder) == list(range(MAX_PER_MODEL + 2, 2, -1))


def test_a_conversation_that_went_on_takes_the_place_of_what_it_was(folder: ConversationFolder) -> None:
    put(folder, 1, used=1, tokens=range(20))
    put(folder, 7, used=2, tokens=range(20))
    (before,) = folder.newest(5)[1:]
    assert put(folder, 1, used=3, tokens=range(30)) == [before]
    assert firsts(folder) == [1, 7]


def test_what_another_one_goes_on_with_is_not_kept(folder: ConversationFolder) -> None:
    put(folder, 1, used=2, tokens=range(30))
    assert put(folder, 1, used=1, tokens=range(20)) is None
    assert [one.tokens for one in folder.newest(5)] == [31]


def test_a_file_that_was_not_written_whole_is_not_kept(folder: ConversationFolder) -> None:
    part = folder.begin()
    part.write_bytes(bytes(50))
    assert folder.keep(part, tokens=5, size=100, prefill=1, context=1, used=1) is None
    assert list(folder.path.iterdir()) == []


def test_only_what_belongs_to_somebody_stays(store: ConversationStore, tmp_path: Path) -> None:
    for fingerprint in ("aa", "bb"):
        put(store.open(fingerprint), 1, used=1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (tmp_path / "kept" / "link").symlink_to(outside)
    (tmp_path / "kept" / "stray").touch()
    store.retain(["bb"], sweep=False)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["bb"]
    assert (outside / "precious").exists()


def test_foreign_and_half_done_files_are_swept_away(store: ConversationStore, folder: ConversationFolder) -> None:
    put(folder, 1, used=1)
    folder.begin()
    (folder.path / "note.txt").touch()
    (folder.path / "deeper").mkdir()
    (folder.path / "deeper" / "file").touch()
    store.retain(["aa"], sweep=True)
    assert firsts(store.open("aa")) == [1]
    assert len(list(folder.path.iterdir())) == 1


def test_what_another_child_is_writing_stays(store: ConversationStore, folder: ConversationFolder) -> None:
    part = folder.begin()
    store.open("aa")
    store.retain(["aa"], sweep=False)
    assert part.exists()


def test_those_of_a_context_of_another_length_are_left_alone(folder: ConversationFolder) -> None:
    put(folder, 1, used=1, context=8192)
    put(folder, 2, used=2, context=4096)
    assert [one.context for one in folder.newest(5, context=8192)] == [8192]
    assert len(folder.newest(5)) == 2


def test_a_file_that_turned_out_larger_than_there_is_room_for_is_not_kept(folder: ConversationFolder) -> None:
    assert put(folder, 1, used=1, size=LIMIT + 4) is None
    assert list(folder.path.iterdir()) == []


def test_one_that_is_being_read_is_gone_after_a_crash(store: ConversationStore, folder: ConversationFolder) -> None:
    put(folder, 1, used=1)
    (kept,) = folder.newest(1)
    part = folder.doubt(kept)
    assert part is not None
    store.retain(["aa"], sweep=True)
    assert store.open("aa").newest(5) == []
    assert list(folder.path.iterdir()) == []


def test_one_that_was_read_well_stays_as_it_was(folder: ConversationFolder) -> None:
    put(folder, 1, used=7)
    (kept,) = folder.newest(1)
    part = folder.doubt(kept)
    assert part is not None
    assert folder.newest(5) == []
    folder.trust(part, kept)
    assert folder.newest(5) == [kept]


def test_one_that_has_changed_is_never_read(folder: ConversationFolder) -> None:
    put(folder, 1, used=1)
    (kept,) = folder.newest(1)
    os.truncate(kept.path, 500)
    assert folder.doubt(kept) is None
    assert not kept.path.exists()
    assert folder.doubt(kept) is None


def test_all_can_be_forgotten(folder: ConversationFolder) -> None:
    put(folder, 1, used=1)
    folder.clear()
    assert list(folder.path.iterdir()) == []


def test_a_folder_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("in the way")
    store = ConversationStore(tmp_path / "kept", LIMIT)
    with pytest.raises(OSError, match="kept"):
        store.open("aa")
    store.retain([], sweep=True)
