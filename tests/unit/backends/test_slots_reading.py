"""Reading `/slots`."""

from typing import Any

import pytest

from router.backends.control_client import parse_slots
from router.engine.ports import SlotReading


def test_an_idle_and_a_busy_slot() -> None:
    document = [
        {"id": 0, "n_ctx": 2048, "speculative": False, "is_processing": False},
        {"id": 1, "is_processing": True, "id_task": 2, "n_prompt_tokens": 1523, "n_prompt_tokens_processed": 512,
         "next_token": [{"has_next_token": True, "n_remain": 300, "n_decoded": 7}]},
    ]  # fmt: skip
    assert parse_slots(document) == (SlotReading(0, False, -1, 0, context=2048), SlotReading(1, True, 2, 519, 1523))


def test_an_older_build_says_next_token_as_an_object() -> None:
    assert parse_slots([{"id": 0, "is_processing": True, "next_token": {"n_decoded": 3}}])[0].progress == 3


@pytest.mark.parametrize("document", [None, 7, ["x"], [{}], {"error": "x"}, [{"id": "x", "is_processing": True}]])
def test_anything_else_is_an_error_of_the_connection(document: Any) -> None:
    with pytest.raises(OSError, match="unexpected"):
        parse_slots(document)
