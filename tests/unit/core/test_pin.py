"""Which GPUs a model's flags name."""

import pytest

from router.core.estimate import read_pin
from router.core.types import Pin


@pytest.mark.parametrize(
    ("flags", "pin"),
    [
        ("", Pin()),
        ("-ngl 99 -c 4096", Pin()),
        ("-dev CUDA1", Pin(gpus=(1,), numbered=True)),
        ("--device CUDA2,CUDA0", Pin(gpus=(2, 0), numbered=True)),
        ("-dev Metal", Pin(numbered=True)),
        ("-sm none", Pin(alone=True)),
        ("-sm none -mg 1", Pin(gpus=(1,), alone=True, numbered=True)),
        ("-sm none -dev CUDA2,CUDA3 -mg 1", Pin(gpus=(3,), alone=True, numbered=True)),
        ("-mg 1", Pin(gpus=(1,))),
        ("-sm row -mg 1", Pin(numbered=True)),
        ("-ts 3,1", Pin(shares=(3, 1), numbered=True)),
        ("-dev CUDA1,CUDA3 -ts 1/2", Pin(gpus=(1, 3), shares=(1, 2), numbered=True)),
        ("-ts 0,0", Pin()),
        ("-ts x", Pin()),
        ("-ts -1,2", Pin()),
    ],
)
def test_flags(flags: str, pin: Pin) -> None:
    assert read_pin(flags.split()) == pin


def test_the_childs_environment_counts_too() -> None:
    assert read_pin([], {"LLAMA_ARG_DEVICE": "CUDA3"}) == Pin(gpus=(3,), numbered=True)
