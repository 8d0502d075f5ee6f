"""Nonsense to a running router: it is answered with 4xx, or the connection ends; nothing hangs, nothing breaks.

A short, repeatable round; `python -m benchmarks.fuzz` goes on for as long as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.fuzz import bodies, exchanges, heads, schema
from tests.fuzz.budget import Budget
from tests.fuzz.exchanges import Target
from tests.fuzz.outcome import Outcome
from tests.fuzz.site import CHAT, EMBED, fuzzed_router, target_of
from tests.support.router import RunningRouter

SEED = 5
# What llama-server says when it cannot read the answer of a model, as of made-up weights: the request was sound.
_ITS_OWN_WORDS = "The model produced output that does not match"


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    with fuzzed_router(tmp_path_factory.mktemp("fuzzed")) as running:
        yield running


@pytest.fixture
def target(fuzzed: RunningRouter) -> Iterator[Target]:
    yield target_of(fuzzed)
    assert fuzzed.process.poll() is None, "the router ended"
    assert "Traceback (most recent call last)" not in fuzzed.log


async def test_raw_bytes_around_the_grammar_of_http(target: Target) -> None:
    draw = partial(heads.draw, target=target)
    outcome = await exchanges.fuzz("heads", draw, target, SEED, Budget(tries=500), whole=False)
    assert not outcome.findings, str(outcome)


async def test_spoiled_bodies(target: Target) -> None:
    outcome = await _spoiled_bodies(target, tries=600)
    assert not outcome.findings, str(outcome)


async def test_what_the_page_documents_is_what_is_answered(target: Target) -> None:
    outcome = await schema.fuzz(target, SEED, Budget(tries=100), each=1)
    assert not outcome.findings, str(outcome)
    assert outcome.tries[schema.WORK] > 50


@pytest.mark.llama
async def test_spoiled_bodies_to_llama_cpp(running_router: RunningRouter) -> None:
    """Also, llama-server's own 5xx for nonsense are 4xx by the time they arrive."""
    log = len(running_router.log)
    outcome = await _spoiled_bodies(target_of(running_router), tries=500)
    assert not outcome.findings, str(outcome)
    assert not [message for message in outcome.child_errors if not message.startswith(_ITS_OWN_WORDS)]
    assert "Traceback (most recent call last)" not in running_router.log[log:]


async def _spoiled_bodies(target: Target, *, tries: int) -> Outcome:
    draw = partial(bodies.draw, target=target, chat=CHAT, embed=EMBED)
    return await exchanges.fuzz("bodies", draw, target, SEED, Budget(tries=tries), whole=True)
