"""A model's server that answers nonsense: the client is told so, by status or in the stream, and never left alone."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import upstreams
from tests.fuzz.budget import Budget

SEED = 5


async def test_spoiled_answers(tmp_path: Path) -> None:
    outcome = await upstreams.fuzz(tmp_path, SEED, Budget(tries=300))
    assert not outcome.findings, str(outcome)
