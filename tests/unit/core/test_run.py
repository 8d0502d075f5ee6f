"""What llama-server's flags are understood to say."""

from __future__ import annotations

import pytest

from router.core.estimate import Run, read_run


def run(flags: str, slots: int = 2, **env: str) -> Run:
    return read_run(flags.split(), slots=slots, env=env)


def test_defaults() -> None:
    assert run("") == Run(slots=2)
    assert run("", slots=-1) == Run(slots=4, unified=True), "auto"


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ("-c 4096", "ctx", 4096),
        ("--ctx-size=4096", "ctx", 4096),
        ("--ctx_size 1 -c 4096", "ctx", 4096),
        ("-c nonsense", "ctx", 0),
        ("-np 3", "slots", 3),
        ("-np -1", "slots", 4),
        ("-np -1", "unified", True),
        ("-kvu", "unified", True),
        ("-kvu -no-kvu", "unified", False),
        ("-ub 4096", "ubatch", 2048),
        ("--embedding -b 512 -ub 128", "batch", 128),
        ("-ctv q8_0 -fa off", "flash", True),
        ("-fa off", "flash", False),
        ("-ctk nonsense", "type_k", "f16"),
        ("-ngl all", "gpu_layers", None),
        ("-ngl 7", "gpu_layers", 7),
        ("-ngl 7 -dev none", "gpu_layers", 0),
        ("-ot a=CPU,b=CUDA0", "overrides", (("a", "CPU"), ("b", "CUDA0"))),
        ("-lm none", "mmap", False),
        ("--no-mmap", "mmap", False),
        ("-nr", "repack", False),
    ],
)
def test_flags(flags: str, field: str, value: object) -> None:
    assert getattr(run(flags), field) == value


def test_the_childs_own_environment_counts_unless_a_flag_says_otherwise() -> None:
    assert run("", LLAMA_ARG_CTX_SIZE="4096").ctx == 4096
    assert run("-c 1024", LLAMA_ARG_CTX_SIZE="4096").ctx == 1024
    assert run("", LLAMA_ARG_KV_UNIFIED="1").unified


def test_the_context_is_padded_and_divided_among_the_slots() -> None:
    assert run("-c 4000").cells(0) == (2048, 2)
    assert run("", slots=1).cells(8192) == (8192, 1)
    assert run("-c 4000 -kvu").cells(0) == (4096, 1)
