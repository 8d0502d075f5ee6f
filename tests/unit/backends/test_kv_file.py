"""Reading the prompt at the head of a saved slot."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest

from router.backends.kv_file import continues, prompt_of, shared
from tests.support.kv import kv_bytes


def of(tmp_path: Path, data: bytes) -> Sequence[int] | None:
    file = tmp_path / "a.kv"
    file.write_bytes(data)
    return prompt_of(file)


def tokens(*numbers: int) -> array[int]:
    return array("I", numbers)


def test_a_plain_list_of_tokens(tmp_path: Path) -> None:
    assert of(tmp_path, kv_bytes([5, 6, 7], padding=40)) == tokens(5, 6, 7)


def test_the_newer_layout(tmp_path: Path) -> None:
    assert of(tmp_path, kv_bytes([0xFFFFFFFF, 1, 3, 5, 6, 7, 0])) == tokens(5, 6, 7)


def test_images_cannot_be_compared_by_their_tokens(tmp_path: Path) -> None:
    assert of(tmp_path, kv_bytes([0xFFFFFFFF, 1, 3, 5, 0xFFFFFFFF, 7, 1, 1, 99])) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"qsgg",
        b"GGUF" + bytes(40),
        kv_bytes([1, 2, 3])[:-2],
        kv_bytes([0xFFFFFFFF, 1]),
        kv_bytes([0xFFFFFFFF, 1, 9, 5]),
        b"qsgg\x02\0\0\0\xff\xff\xff\xff" + bytes(64),
    ],
)
def test_what_is_cut_or_foreign_has_no_prompt(tmp_path: Path, data: bytes) -> None:
    assert of(tmp_path, data) is None


@pytest.mark.parametrize(
    ("one", "other", "both"), [((), (1,), 0), ((1, 2, 3), (1, 2, 3), 3), ((1, 2, 9, 4), (1, 2, 3, 4, 5), 2)]
)
def test_shared(one: tuple[int, ...], other: tuple[int, ...], both: int) -> None:
    assert shared(tokens(*one), tokens(*other)) == shared(tokens(*other), tokens(*one)) == both


def test_a_little_may_differ_at_the_end() -> None:
    before = tokens(*range(100))
    assert continues(tokens(*range(90), *range(500, 600)), before)
    assert not continues(tokens(*range(89), *range(500, 600)), before)
