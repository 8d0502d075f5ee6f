"""The page that says which test shows what: each of them has to be there, and no row of the catalogue missing."""

from __future__ import annotations

import re

import pytest

from tests.support.router import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
FAULTS = 34
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("path", "test"), NAMED)
def test_what_is_named_is_there(path: str, test: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE)


def test_each_fault_has_its_row() -> None:
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, FAULTS + 1))


@pytest.mark.parametrize("row", ROWS)
def test_each_row_names_a_test_or_says_that_there_is_none(row: str) -> None:
    *_, shown, _ = row.split("|")
    assert "`tests/" in shown or "not shown yet" in shown
